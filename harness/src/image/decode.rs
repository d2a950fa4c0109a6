//! Image files to pixels, with limits checked before memory is taken.

use super::Alpha;
use super::grey16::Grey16;
use super::jpeg;
use super::raster::{Mode, Raster};
use super::resample::Filter;
use super::storage::{has_key_colour, is_indexed};
use crate::types::Rgb;
use anyhow::{Context, Result, bail, ensure};
use image::{ColorType, DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits};
use std::io::Cursor;

/// Longest side of a picture that is decoded.
const MAX_SIDE: u32 = 65_535;

/// Most pixels of a picture that is decoded: where Pillow begins to warn of a decompression bomb.
const MAX_PIXELS: u64 = 89_478_485;

/// Most bytes a decoder may hold: 16-bit RGBA at the limit, and room to work.
pub(super) const MAX_BYTES: u64 = 1 << 30;

/// A decoded picture on its way through the area rule.
#[derive(Debug)]
pub(super) enum Decoded<'a> {
    /// 8 bits per channel, and how Pillow resizes them.
    Bytes(Raster<'a>, Filter),
    /// One channel of 16 bits.
    Grey16(Grey16),
}

impl Decoded<'_> {
    /// Width and height in pixels.
    pub fn size(&self) -> (usize, usize) {
        match self {
            Decoded::Bytes(raster, _) => (raster.width, raster.height),
            Decoded::Grey16(grey) => (grey.width, grey.height),
        }
    }

    /// The picture at another, non-empty size.
    pub fn resize(self, width: usize, height: usize) -> Self {
        match self {
            Decoded::Bytes(raster, filter) => Decoded::Bytes(raster.resize(width, height, filter), filter),
            Decoded::Grey16(grey) => Decoded::Grey16(grey.resize(width, height)),
        }
    }

    /// The picture as Pillow's `convert("RGB")` gives it.
    pub fn into_rgb(self) -> Rgb {
        match self {
            Decoded::Bytes(raster, _) => raster.into_rgb(),
            Decoded::Grey16(grey) => grey.into_rgb(),
        }
    }
}

/// Decodes PNG, JPEG, WebP, BMP or GIF (its first frame), told apart by content.
///
/// RGBA comes back only where Pillow would resize it as RGBA; otherwise the transparency is settled here.
pub(super) fn decode(bytes: &[u8], alpha: Alpha) -> Result<Decoded<'static>> {
    let Ok(format) = image::guess_format(bytes) else {
        bail!("not a PNG, JPEG, WebP, BMP or GIF picture ({} bytes)", bytes.len());
    };
    let unreadable = || format!("{format:?} picture cannot be read");
    if format == ImageFormat::Jpeg {
        return Ok(Decoded::Bytes(jpeg::decode(bytes).with_context(unreadable)?, Filter::Bicubic));
    }
    let picture = read_pixels(bytes, format).with_context(unreadable)?;
    let has_key = has_key_colour(format, bytes);
    if let (ColorType::L16, _) | (ColorType::La16, true) = (picture.color(), has_key) {
        return Ok(Decoded::Grey16(to_grey16(picture, alpha)));
    }
    let raster = to_raster(picture);
    let raster = match alpha {
        Alpha::White => raster.on_white(),
        Alpha::Drop if has_key => raster.without_alpha(),
        Alpha::Drop => raster.without_idle_alpha(),
    };
    let filter = if is_indexed(format, bytes) { Filter::Nearest } else { Filter::Bicubic };
    Ok(Decoded::Bytes(raster, filter))
}

fn read_pixels(bytes: &[u8], format: ImageFormat) -> Result<DynamicImage> {
    let mut decoder = ImageReader::with_format(Cursor::new(bytes), format).into_decoder()?;
    let (width, height) = decoder.dimensions();
    check_size(width, height)?;
    let mut limits = Limits::default();
    limits.max_alloc = Some(MAX_BYTES);
    decoder.set_limits(limits)?;
    Ok(DynamicImage::from_decoder(decoder)?)
}

/// Width and height from the header.
pub(super) fn dimensions(bytes: &[u8]) -> Result<(usize, usize)> {
    let reader = ImageReader::new(Cursor::new(bytes)).with_guessed_format()?;
    let (width, height) = match reader.format() {
        Some(ImageFormat::Jpeg) => jpeg::dimensions(bytes).context("Jpeg picture cannot be read")?,
        _ => reader.into_dimensions().context("picture cannot be read")?,
    };
    check_size(width, height)?;
    Ok((width as usize, height as usize))
}

/// Refuses empty and oversized pictures before their pixels are allocated.
pub(super) fn check_size(width: u32, height: u32) -> Result<()> {
    ensure!(width > 0 && height > 0, "a picture of {width} x {height} pixels is empty");
    ensure!(
        width <= MAX_SIDE && height <= MAX_SIDE && u64::from(width) * u64::from(height) <= MAX_PIXELS,
        "a picture of {width} x {height} pixels is over the limit ({MAX_PIXELS} pixels, sides up to \
         {MAX_SIDE}); scale it down first"
    );
    Ok(())
}

/// 8 bits per channel; 16-bit colours keep their high byte, as in Pillow.
fn to_raster(picture: DynamicImage) -> Raster<'static> {
    use ColorType::{L8, La16, Rgb16, Rgba16};
    let (width, height) = (picture.width() as usize, picture.height() as usize);
    let wide = matches!(picture.color(), La16 | Rgb16 | Rgba16);
    let (mode, pixels) = match (picture.color(), picture.color().has_alpha()) {
        (L8, _) => (Mode::Grey, picture.into_luma8().into_raw()),
        (_, true) if wide => (Mode::Rgba, high_bytes(picture.into_rgba16().into_raw())),
        (_, true) => (Mode::Rgba, picture.into_rgba8().into_raw()),
        (_, false) if wide => (Mode::Rgb, high_bytes(picture.into_rgb16().into_raw())),
        (_, false) => (Mode::Rgb, picture.into_rgb8().into_raw()),
    };
    Raster { width, height, mode, pixels: pixels.into() }
}

fn high_bytes(values: Vec<u16>) -> Vec<u8> {
    values.into_iter().map(|value| (value >> 8) as u8).collect()
}

/// 16-bit grey, of which at most one marked value is transparent.
fn to_grey16(picture: DynamicImage, alpha: Alpha) -> Grey16 {
    let (width, height) = (picture.width() as usize, picture.height() as usize);
    let picture = picture.into_luma_alpha16();
    let visible = |opacity: u16| opacity > 0 || alpha == Alpha::Drop;
    let grey = picture.pixels().map(|p| if visible(p.0[1]) { p.0[0] } else { u16::MAX });
    Grey16 { width, height, values: grey.collect() }
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

    fn bytes_of(file: &[u8], alpha: Alpha) -> (Raster<'static>, Filter) {
        match decode(file, alpha).unwrap() {
            Decoded::Bytes(raster, filter) => (raster, filter),
            Decoded::Grey16(grey) => panic!("{grey:?}"),
        }
    }

    #[test]
    fn the_content_tells_the_format() {
        let picture = RgbImage::from_fn(5, 3, |x, y| Rgb([x as u8 * 50, y as u8 * 80, 7]));
        for format in [ImageFormat::Png, ImageFormat::Bmp, ImageFormat::WebP] {
            let (raster, filter) = bytes_of(&encoded(picture.clone(), format), Alpha::Drop);
            assert_eq!((raster.width, raster.height, filter), (5, 3, Filter::Bicubic), "{format:?}");
            assert_eq!(*raster.pixels, **picture.as_raw(), "{format:?}");
        }
        let gif = encoded(RgbaImage::from_pixel(4, 4, Rgba([255, 0, 0, 255])), ImageFormat::Gif);
        let (raster, filter) = bytes_of(&gif, Alpha::White);
        assert_eq!((&*raster.pixels, filter), (&*[255, 0, 0].repeat(16), Filter::Nearest));
    }

    #[test]
    fn alpha_stays_until_the_resize_unless_laid_on_white() {
        let png = encoded(RgbaImage::from_pixel(1, 1, Rgba([0, 0, 0, 0])), ImageFormat::Png);
        assert_eq!(*bytes_of(&png, Alpha::Drop).0.pixels, [0, 0, 0, 0]);
        assert_eq!(*bytes_of(&png, Alpha::White).0.pixels, [255, 255, 255]);
    }

    #[test]
    fn colours_of_16_bits_keep_their_high_byte() {
        let picture = image::ImageBuffer::<Rgb<u16>, _>::from_pixel(2, 1, Rgb([0x12ff, 0x80ff, 0xffff]));
        let (raster, _) = bytes_of(&encoded(picture, ImageFormat::Png), Alpha::Drop);
        assert_eq!(*raster.pixels, [0x12, 0x80, 0xff, 0x12, 0x80, 0xff]);
    }

    #[test]
    fn grey_of_16_bits_stays_whole() {
        let picture = image::ImageBuffer::<image::Luma<u16>, _>::from_pixel(2, 1, image::Luma([0x12ff]));
        match decode(&encoded(picture, ImageFormat::Png), Alpha::White).unwrap() {
            Decoded::Grey16(grey) => assert_eq!(grey.values, [0x12ff; 2]),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn unreadable_files_are_errors() {
        let message = |bytes: &[u8]| format!("{:#}", decode(bytes, Alpha::Drop).unwrap_err());
        assert!(message(b"").contains("not a PNG"));
        assert!(message(b"<svg></svg>").contains("not a PNG"));
        assert!(message(b"II*\0 a TIFF file").contains("Tiff picture cannot be read"));
        let png = encoded(GrayImage::new(8, 8), ImageFormat::Png);
        assert!(message(&png[..png.len() / 2]).contains("Png picture cannot be read"));
    }
}
