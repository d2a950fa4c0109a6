//! 16-bit grey pictures, Pillow's mode `I;16`, which it resizes and converts by rules of their own.
//!
//! Source: Pillow, `src/libImaging/Resample.c` (`16bpc`) and `Convert.c`.

use super::weights::{Taps, bicubic_taps, columns_first};
use crate::types::Rgb;

/// A picture of one 16-bit channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Grey16 {
    pub width: usize,
    pub height: usize,
    /// `width * height` values, row by row.
    pub values: Vec<u16>,
}

impl Grey16 {
    /// The picture at another, non-empty size, bicubic. The same size gives the same values.
    pub fn resize(self, width: usize, height: usize) -> Grey16 {
        if columns_first((self.width, self.height), (width, height)) {
            self.resize_columns(height).resize_rows(width)
        } else {
            self.resize_rows(width).resize_columns(height)
        }
    }

    fn resize_rows(self, width: usize) -> Grey16 {
        if width == self.width {
            return self;
        }
        let taps = bicubic_taps(self.width, width);
        let values = self.values.chunks_exact(self.width).flat_map(|row| resize_row(row, &taps)).collect();
        Grey16 { width, values, ..self }
    }

    fn resize_columns(self, height: usize) -> Grey16 {
        if height == self.height { self } else { self.turned().resize_rows(height).turned() }
    }

    /// Rows become columns.
    fn turned(self) -> Grey16 {
        let Grey16 { width, height, values } = self;
        let column = |x: usize| values.iter().skip(x).step_by(width).copied();
        Grey16 { width: height, height: width, values: (0..width).flat_map(column).collect() }
    }

    /// The picture as Pillow's `convert("RGB")` gives it: values over 255 are white.
    pub fn into_rgb(self) -> Rgb {
        let pixels = self.values.iter().flat_map(|&value| [value.min(255) as u8; 3]).collect();
        Rgb { width: self.width as u32, height: self.height as u32, pixels }
    }
}

fn resize_row(row: &[u16], taps: &Taps<f64>) -> impl Iterator<Item = u16> {
    taps.iter().map(|(first, weights)| {
        let terms = row[first..].iter().zip(weights).map(|(&value, weight)| f64::from(value) * weight);
        to_value(terms.fold(0.0, |sum, term| sum + term))
    })
}

/// Rounds half away from zero. Pillow clips the two bytes of a value separately: what overshoots keeps its low
/// byte.
fn to_value(sum: f64) -> u16 {
    let rounded = (if sum < 0.0 { sum - 0.5 } else { sum + 0.5 }) as i32;
    let (low, high) = ((rounded % 256).max(0), (rounded >> 8).clamp(0, 255));
    (high << 8 | low) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row() -> Grey16 {
        Grey16 { width: 10, height: 1, values: vec![0, 1, 128, 255, 256, 257, 300, 1_000, 65_535, 32_768] }
    }

    /// The rows that Pillow 13.0 gives.
    #[test]
    fn resized_as_pillow_does() {
        let wide = [
            0, 0, 0, 24, 93, 163, 232, 264, 259, 255, 254, 249, 242, 0, 0, 14_926, 54_747, 62_715, 40_400,
            29_877,
        ];
        assert_eq!(row().resize(20, 1).values, wide);
        assert_eq!(row().resize(5, 1).values, [3, 181, 0, 6_773, 45_762]);
        let high = row().turned();
        assert_eq!((high.width, high.height), (1, 10));
        assert_eq!(high.resize(1, 5).values, [3, 181, 0, 6_773, 45_762]);
    }

    #[test]
    fn values_over_255_become_white() {
        let pixels = row().into_rgb().pixels;
        let grey: Vec<u8> = pixels.chunks(3).map(|p| p[0]).collect();
        assert_eq!(grey, [0, 1, 128, 255, 255, 255, 255, 255, 255, 255]);
    }
}
