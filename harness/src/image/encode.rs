//! Pictures for people to look at.

use super::raster::Raster;
use super::resample::Filter;
use crate::types::Rgb;
use anyhow::{Context, Result};
use image::codecs::png::PngEncoder;
use image::{ExtendedColorType, ImageEncoder};

/// The PNG file of a picture, reduced so that no side is longer than `longest` pixels.
///
/// # Errors
/// On an empty picture.
pub fn png(rgb: &Rgb, longest: usize) -> Result<Vec<u8>> {
    let (width, height) = (rgb.width as usize, rgb.height as usize);
    let share = longest as f64 / width.max(height).max(1) as f64;
    let reduced = |side: usize| ((side as f64 * share).round() as usize).max(1);
    let picture = Raster::from_rgb(rgb)?;
    let picture =
        if share < 1.0 { picture.resize(reduced(width), reduced(height), Filter::Bicubic) } else { picture };
    let Rgb { width, height, pixels } = picture.into_rgb();
    let mut bytes = vec![];
    let encoder = PngEncoder::new(&mut bytes);
    encoder.write_image(&pixels, width, height, ExtendedColorType::Rgb8).context("a picture as PNG")?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::{Alpha, AreaRule, prepare};
    use crate::types::Picture;

    fn read(bytes: Vec<u8>) -> Rgb {
        let any = AreaRule { min_pixels: 1, max_pixels: 1 << 20 };
        prepare(&Picture::Encoded(bytes.into()), any, Alpha::Drop).unwrap()
    }

    #[test]
    fn a_small_picture_is_kept_and_a_large_one_reduced() {
        let rgb = Rgb { width: 6, height: 4, pixels: (0..72).map(|i| i * 3).collect() };
        assert_eq!(read(png(&rgb, 6).unwrap()), rgb);
        let small = read(png(&rgb, 3).unwrap());
        assert_eq!((small.width, small.height), (3, 2));
    }
}
