//! Image files to pixels, with limits checked before memory is taken.
//!
//! Pillow resizes by its mode, that is by how the file stores its pixels. The decoder has expanded them by
//! then, so the storage is read from the headers here.

use super::Alpha;
use super::resample::{Filter, Raster};
use anyhow::{Context, Result, bail, ensure};
use image::{ColorType, DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits};
use std::io::Cursor;

/// Longest side of a picture that is decoded.
const MAX_SIDE: u32 = 65_535;

/// Most pixels of a picture that is decoded: where Pillow begins to warn of a decompression bomb.
const MAX_PIXELS: u64 = 89_478_485;

/// Most bytes the decoder may hold: 16-bit RGBA at the limit, and room to work.
const MAX_BYTES: u64 = 1 << 30;

/// Decodes PNG, JPEG, WebP, BMP or GIF (its first frame) to RGB or RGBA, and says how Pillow would resize it.
///
/// RGBA comes back only where Pillow would resize it as RGBA; otherwise the transparency is settled here.
pub(super) fn decode(bytes: &[u8], alpha: Alpha) -> Result<(Raster, Filter)> {
    let reader = ImageReader::new(Cursor::new(bytes)).with_guessed_format()?;
    let Some(format) = reader.format() else {
        bail!("not a PNG, JPEG, WebP, BMP or GIF picture ({} bytes)", bytes.len());
    };
    let unreadable = || format!("{format:?} picture cannot be read");
    let mut decoder = reader.into_decoder().with_context(unreadable)?;
    let (width, height) = decoder.dimensions();
    check_size(width, height)?;
    let mut limits = Limits::default();
    limits.max_alloc = Some(MAX_BYTES);
    decoder.set_limits(limits).with_context(unreadable)?;
    let raster = to_raster(DynamicImage::from_decoder(decoder).with_context(unreadable)?);
    let raster = match alpha {
        Alpha::White => raster.on_white(),
        Alpha::Drop if has_key_colour(format, bytes) => raster.without_alpha(),
        Alpha::Drop => raster,
    };
    let filter = if is_indexed(format, bytes) { Filter::Nearest } else { Filter::Bicubic };
    Ok((raster, filter))
}

/// Width and height from the header.
pub(super) fn dimensions(bytes: &[u8]) -> Result<(usize, usize)> {
    let reader = ImageReader::new(Cursor::new(bytes)).with_guessed_format()?;
    let (width, height) = reader.into_dimensions().context("picture cannot be read")?;
    check_size(width, height)?;
    Ok((width as usize, height as usize))
}

fn check_size(width: u32, height: u32) -> Result<()> {
    ensure!(width > 0 && height > 0, "a picture of {width} x {height} pixels is empty");
    ensure!(
        width <= MAX_SIDE && height <= MAX_SIDE && u64::from(width) * u64::from(height) <= MAX_PIXELS,
        "a picture of {width} x {height} pixels is over the limit ({MAX_PIXELS} pixels, sides up to \
         {MAX_SIDE}); scale it down first"
    );
    Ok(())
}

/// RGB or RGBA of 8 bits; 16-bit channels keep their high byte, as in Pillow.
fn to_raster(picture: DynamicImage) -> Raster {
    use ColorType::{L16, La16, Rgb16, Rgba16};
    let (width, height) = (picture.width() as usize, picture.height() as usize);
    let wide = matches!(picture.color(), L16 | La16 | Rgb16 | Rgba16);
    let (channels, pixels) = match (picture.color().has_alpha(), wide) {
        (true, true) => (4, high_bytes(picture.into_rgba16().into_raw())),
        (true, false) => (4, picture.into_rgba8().into_raw()),
        (false, true) => (3, high_bytes(picture.into_rgb16().into_raw())),
        (false, false) => (3, picture.into_rgb8().into_raw()),
    };
    Raster { width, height, channels, pixels }
}

fn high_bytes(values: Vec<u16>) -> Vec<u8> {
    values.into_iter().map(|value| (value >> 8) as u8).collect()
}

/// Byte of the bit depth in a PNG file; the colour type (0 grey, 2 RGB, 3 palette, ...) follows it.
const PNG_DEPTH: usize = 24;

/// Palette pictures and 1-bit ones: Pillow's modes `P` and `1`.
fn is_indexed(format: ImageFormat, bytes: &[u8]) -> bool {
    match format {
        ImageFormat::Png => matches!(bytes.get(PNG_DEPTH..PNG_DEPTH + 2), Some([_, 3] | [1, 0])),
        ImageFormat::Bmp => bmp_bits(bytes).is_some_and(|bits| bits <= 8),
        ImageFormat::Gif => true,
        _ => false,
    }
}

/// Whether transparency can only be one marked colour (PNG `tRNS` of a grey or RGB picture), which Pillow
/// keeps beside the pixels: it takes no part in resizing.
fn has_key_colour(format: ImageFormat, bytes: &[u8]) -> bool {
    format == ImageFormat::Png && matches!(bytes.get(PNG_DEPTH + 1), Some(0 | 2))
}

/// Bits per pixel of a BMP file; the old OS/2 header (12 bytes) keeps them elsewhere.
fn bmp_bits(bytes: &[u8]) -> Option<u16> {
    let at = if *bytes.get(14)? == 12 { 24 } else { 28 };
    Some(u16::from_le_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::{GrayImage, Rgb, RgbImage, Rgba, RgbaImage};

    fn encoded(picture: impl Into<DynamicImage>, format: ImageFormat) -> Vec<u8> {
        let mut bytes = Cursor::new(Vec::new());
        picture.into().write_to(&mut bytes, format).unwrap();
        bytes.into_inner()
    }

    #[test]
    fn the_content_tells_the_format() {
        let picture = RgbImage::from_fn(5, 3, |x, y| Rgb([x as u8 * 50, y as u8 * 80, 7]));
        for format in [ImageFormat::Png, ImageFormat::Bmp, ImageFormat::WebP] {
            let (raster, filter) = decode(&encoded(picture.clone(), format), Alpha::Drop).unwrap();
            assert_eq!((raster.width, raster.height, filter), (5, 3, Filter::Bicubic), "{format:?}");
            assert_eq!(raster.pixels, picture.as_raw().as_slice(), "{format:?}");
        }
        let (raster, _) = decode(&encoded(picture.clone(), ImageFormat::Jpeg), Alpha::Drop).unwrap();
        assert_eq!(raster.pixels.len(), picture.as_raw().len());
        let gif = encoded(RgbaImage::from_pixel(4, 4, Rgba([255, 0, 0, 255])), ImageFormat::Gif);
        let (raster, filter) = decode(&gif, Alpha::White).unwrap();
        assert_eq!((raster.pixels, filter), ([255, 0, 0].repeat(16), Filter::Nearest));
    }

    #[test]
    fn alpha_stays_until_the_resize_unless_laid_on_white() {
        let png = encoded(RgbaImage::from_pixel(1, 1, Rgba([0, 0, 0, 0])), ImageFormat::Png);
        assert_eq!(decode(&png, Alpha::Drop).unwrap().0.pixels, [0, 0, 0, 0]);
        assert_eq!(decode(&png, Alpha::White).unwrap().0.pixels, [255, 255, 255]);
    }

    #[test]
    fn high_bytes_of_16_bit_pictures() {
        let picture = image::ImageBuffer::<Rgb<u16>, _>::from_pixel(2, 1, Rgb([0x12ff, 0x80ff, 0xffff]));
        let (raster, _) = decode(&encoded(picture, ImageFormat::Png), Alpha::Drop).unwrap();
        assert_eq!(raster.pixels, [0x12, 0x80, 0xff, 0x12, 0x80, 0xff]);
    }

    #[test]
    fn broken_and_oversized_files_are_errors() {
        let message = |bytes: &[u8]| format!("{:#}", decode(bytes, Alpha::Drop).unwrap_err());
        assert!(message(b"").contains("not a PNG"));
        assert!(message(b"<svg></svg>").contains("not a PNG"));
        let mut png = encoded(GrayImage::new(8, 8), ImageFormat::Png);
        assert!(message(&png[..png.len() / 2]).contains("Png picture cannot be read"));
        png[16..24].copy_from_slice(&[0, 0, 0xff, 0xff, 0, 0, 0xff, 0xff]);
        let crc = crc32(&png[12..29]);
        png[29..33].copy_from_slice(&crc.to_be_bytes());
        assert!(message(&png).contains("65535 x 65535 pixels is over the limit"), "{}", message(&png));
    }

    fn crc32(bytes: &[u8]) -> u32 {
        let step = |crc: u32| (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg());
        !bytes.iter().fold(!0, |crc, &byte| (0..8).fold(crc ^ u32::from(byte), |crc, _| step(crc)))
    }
}
