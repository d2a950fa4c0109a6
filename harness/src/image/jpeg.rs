//! JPEG files to the bytes that libjpeg-turbo, hence Pillow, decodes them to.
//!
//! `libjpeg-turbo-rs` does the work (slow integer transform, triangle filter for subsampled colour, the C
//! library's tables); it was equal to Pillow 13.0 on every JPEG that it was compared with. Damaged data is an
//! error here where Pillow may go on with grey blocks.

use super::decode::{MAX_BYTES, check_size};
use super::raster::{Mode, Raster};
use anyhow::{Result, ensure};
use libjpeg_turbo_rs::{ColorSpace, DecodeLimits, Decoder, FrameHeader, PixelFormat};

/// Most scans of a progressive file; encoders write about ten. Each costs a pass over the whole picture.
const MAX_SCANS: usize = 200;

/// Decodes a JPEG file to grey, RGB or CMYK.
///
/// # Errors
/// On damaged or truncated data, on sizes or memory over the limits, and on kinds that Pillow does not read
/// either (12 bits, lossless) or that are not met in practice (subsampled black).
pub(super) fn decode(bytes: &[u8]) -> Result<Raster<'static>> {
    let decoder = open(bytes)?;
    let header = decoder.header();
    ensure!(is_supported(header), "its channels are subsampled in a way that is not supported");
    let (mode, format) = match decoder.jpeg_color_space() {
        ColorSpace::Grayscale => (Mode::Grey, PixelFormat::Grayscale),
        ColorSpace::Cmyk | ColorSpace::Ycck => (Mode::Cmyk, PixelFormat::Cmyk),
        _ => (Mode::Rgb, PixelFormat::Rgb),
    };
    let image = decoder.with_output_format(format).decode_image()?;
    let mut pixels = image.data;
    if mode == Mode::Cmyk {
        // Written inverted since Adobe's first programs; Pillow takes that for granted.
        pixels.iter_mut().for_each(|ink| *ink = 255 - *ink);
    }
    Ok(Raster { width: image.width, height: image.height, mode, pixels: pixels.into() })
}

/// Width and height from the header, within the limits.
pub(super) fn dimensions(bytes: &[u8]) -> Result<(u32, u32)> {
    let decoder = open(bytes)?;
    Ok((decoder.header().width.into(), decoder.header().height.into()))
}

fn open(bytes: &[u8]) -> Result<Decoder<'_>> {
    let sides = usize::from(u16::MAX);
    let limits = DecodeLimits {
        max_width: sides,
        max_height: sides,
        max_scans: MAX_SCANS,
        max_memory: Some(MAX_BYTES),
        ..DecodeLimits::default()
    };
    let decoder = Decoder::new_with_limits(bytes, limits)?;
    check_size(decoder.header().width.into(), decoder.header().height.into())?;
    Ok(decoder)
}

/// Four channels are decoded rightly only where black has the resolution of the first channel and the two
/// between are alike.
fn is_supported(header: &FrameHeader) -> bool {
    let sampling = |channel: usize| {
        let component = &header.components[channel];
        (component.horizontal_sampling, component.vertical_sampling)
    };
    match header.components.len() {
        4 => sampling(0) == sampling(3) && sampling(1) == sampling(2),
        channels => channels == 1 || channels == 3,
    }
}
