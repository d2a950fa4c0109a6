//! Pillow's `Image.resize` on 8-bit channels, bit for bit.
//!
//! Source: Pillow, `src/libImaging/Resample.c` and `Geometry.c` (affine nearest neighbour), described here in
//! own words. Bicubic with a = -0.5; when shrinking, the kernel is widened by the scale (antialiasing);
//! weights in 22-bit fixed point; one axis after the other, with an 8-bit picture in between.
//!
//! The order of the axes is that of Pillow 13: columns first where the height shrinks by more than twice as
//! many pixels as the width, else rows first. Before 13 it was rows first (in 12.2 and 12.3 except for
//! pictures 100 times as high as wide); the choice moves single values by a level.

use crate::types::Rgb;
use anyhow::{Result, ensure};

/// Bits after the point of a weight: 32 minus 8 for a channel minus 2 for overshoot and sign.
const WEIGHT_BITS: u32 = 22;

/// Half the width of the bicubic kernel in pixels.
const BICUBIC_SUPPORT: f64 = 2.0;

/// How new pixels are computed from old ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Filter {
    /// Bicubic; with an alpha channel the colours are multiplied by it meanwhile.
    Bicubic,
    /// Nearest neighbour: Pillow resizes palette and 1-bit pictures so, whatever was asked for.
    Nearest,
}

/// A picture of 3 (RGB) or 4 (RGBA) interleaved 8-bit channels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Raster {
    pub width: usize,
    pub height: usize,
    pub channels: usize,
    /// `width * height * channels` bytes, row by row.
    pub pixels: Vec<u8>,
}

impl Raster {
    /// Copies an RGB picture, after a check of its sizes.
    pub fn from_rgb(rgb: &Rgb) -> Result<Raster> {
        let (width, height) = (rgb.width as usize, rgb.height as usize);
        ensure!(width > 0 && height > 0, "a picture of {width} x {height} pixels is empty");
        ensure!(
            rgb.pixels.len() == 3 * width * height,
            "an RGB picture of {width} x {height} pixels has {} bytes instead of {}",
            rgb.pixels.len(),
            3 * width * height
        );
        Ok(Raster { width, height, channels: 3, pixels: rgb.pixels.clone() })
    }

    /// The picture as RGB, without alpha.
    pub fn into_rgb(self) -> Rgb {
        let Raster { width, height, pixels, .. } = self.without_alpha();
        Rgb { width: width as u32, height: height as u32, pixels }
    }

    /// Drops the alpha channel, if there is one.
    pub fn without_alpha(self) -> Raster {
        if self.channels != 4 {
            return self;
        }
        let pixels = self.pixels.chunks_exact(4).flat_map(|p| [p[0], p[1], p[2]]).collect();
        Raster { channels: 3, pixels, ..self }
    }

    /// Lays the picture on white; without alpha it stays as it is.
    pub fn on_white(self) -> Raster {
        if self.channels != 4 {
            return self;
        }
        let over = |c: u8, a: u8| {
            let (c, a) = (u32::from(c), u32::from(a));
            ((c * a + 255 * (255 - a) + 127) / 255) as u8
        };
        let pixels = self
            .pixels
            .chunks_exact(4)
            .flat_map(|p| [0, 1, 2].map(|channel| over(p[channel], p[3])))
            .collect();
        Raster { channels: 3, pixels, ..self }
    }

    /// Pixels, all channels of a pixel counted once.
    pub fn area(&self) -> usize {
        self.width * self.height
    }

    /// The picture at another, non-empty size. The same size gives the same bytes.
    pub fn resize(self, width: usize, height: usize, filter: Filter) -> Raster {
        if (width, height) == (self.width, self.height) {
            return self;
        }
        match (filter, self.channels) {
            (Filter::Nearest, _) => self.nearest(width, height),
            (Filter::Bicubic, 4) => self.map_colours(multiply).bicubic(width, height).map_colours(divide),
            (Filter::Bicubic, _) => self.bicubic(width, height),
        }
    }

    fn map_colours(mut self, convert: fn(u8, u8) -> u8) -> Raster {
        for pixel in self.pixels.chunks_exact_mut(4) {
            let alpha = pixel[3];
            pixel[..3].iter_mut().for_each(|colour| *colour = convert(*colour, alpha));
        }
        self
    }

    fn nearest(&self, width: usize, height: usize) -> Raster {
        let columns = nearest_sources(self.width, width);
        let mut pixels = Vec::with_capacity(width * height * self.channels);
        for y in nearest_sources(self.height, height) {
            let row = &self.pixels[y * self.width * self.channels..][..self.width * self.channels];
            for &x in &columns {
                pixels.extend_from_slice(&row[x * self.channels..][..self.channels]);
            }
        }
        Raster { width, height, channels: self.channels, pixels }
    }

    fn bicubic(self, width: usize, height: usize) -> Raster {
        let lost_rows = self.height.saturating_sub(height);
        let lost_columns = self.width.saturating_sub(width);
        if lost_rows > 2 * lost_columns {
            self.bicubic_columns(height).bicubic_rows(width)
        } else {
            self.bicubic_rows(width).bicubic_columns(height)
        }
    }

    fn bicubic_rows(self, width: usize) -> Raster {
        match (self.width == width, self.channels) {
            (true, _) => self,
            (false, 4) => self.resize_rows::<4>(width),
            (false, _) => self.resize_rows::<3>(width),
        }
    }

    fn bicubic_columns(self, height: usize) -> Raster {
        if self.height == height { self } else { self.resize_columns(height) }
    }

    fn resize_rows<const CHANNELS: usize>(&self, width: usize) -> Raster {
        let taps = taps(self.width, width);
        let mut pixels = Vec::with_capacity(width * self.height * CHANNELS);
        for row in self.pixels.chunks_exact(self.width * CHANNELS) {
            for tap in &taps {
                let mut sums = [ROUND; CHANNELS];
                let sources = row[tap.first * CHANNELS..].chunks_exact(CHANNELS);
                for (source, &weight) in sources.zip(&tap.weights) {
                    for (sum, &value) in sums.iter_mut().zip(source) {
                        *sum += i32::from(value) * weight;
                    }
                }
                pixels.extend(sums.map(to_byte));
            }
        }
        Raster { width, height: self.height, channels: CHANNELS, pixels }
    }

    fn resize_columns(&self, height: usize) -> Raster {
        let row_bytes = self.width * self.channels;
        let mut pixels = Vec::with_capacity(row_bytes * height);
        let mut sums = vec![ROUND; row_bytes];
        for tap in taps(self.height, height) {
            sums.fill(ROUND);
            let rows = self.pixels[tap.first * row_bytes..].chunks_exact(row_bytes);
            for (row, &weight) in rows.zip(&tap.weights) {
                for (sum, &value) in sums.iter_mut().zip(row) {
                    *sum += i32::from(value) * weight;
                }
            }
            pixels.extend(sums.iter().map(|&sum| to_byte(sum)));
        }
        Raster { width: self.width, height, channels: self.channels, pixels }
    }
}

/// One half, in the fixed point of the weights.
const ROUND: i32 = 1 << (WEIGHT_BITS - 1);

fn to_byte(sum: i32) -> u8 {
    (sum >> WEIGHT_BITS).clamp(0, 255) as u8
}

/// `colour * alpha / 255`, rounded as Pillow's `MULDIV255`.
fn multiply(colour: u8, alpha: u8) -> u8 {
    let product = u32::from(colour) * u32::from(alpha) + 128;
    (((product >> 8) + product) >> 8) as u8
}

/// `colour * 255 / alpha`, truncated and clipped; transparent and opaque colours stay as they are.
fn divide(colour: u8, alpha: u8) -> u8 {
    match alpha {
        0 | 255 => colour,
        _ => (255 * u32::from(colour) / u32::from(alpha)).min(255) as u8,
    }
}

/// The source pixels of one new pixel along one axis: `weights[i]` belongs to `first + i`.
struct Tap {
    first: usize,
    weights: Vec<i32>,
}

/// Fixed-point bicubic weights for each of `new` pixels over `old` ones.
fn taps(old: usize, new: usize) -> Vec<Tap> {
    let scale = old as f64 / new as f64;
    let stretch = scale.max(1.0);
    let support = BICUBIC_SUPPORT * stretch;
    let tap = |index: usize| {
        let centre = (index as f64 + 0.5) * scale;
        let first = (centre - support + 0.5).max(0.0) as usize;
        let end = ((centre + support + 0.5) as usize).min(old);
        let weight = |source: usize| bicubic_kernel((source as f64 - centre + 0.5) * (1.0 / stretch));
        let raw: Vec<f64> = (first..end).map(weight).collect();
        let total: f64 = raw.iter().sum();
        Tap { first, weights: raw.iter().map(|w| fixed_point(w / total)).collect() }
    };
    (0..new).map(tap).collect()
}

/// Rounds half away from zero.
fn fixed_point(weight: f64) -> i32 {
    let scaled = weight * f64::from(1u32 << WEIGHT_BITS);
    (if weight < 0.0 { scaled - 0.5 } else { scaled + 0.5 }) as i32
}

/// Keys' cubic convolution kernel with a = -0.5.
fn bicubic_kernel(x: f64) -> f64 {
    const A: f64 = -0.5;
    let x = x.abs();
    if x < 1.0 {
        ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        (((x - 5.0) * x + 8.0) * x - 4.0) * A
    } else {
        0.0
    }
}

/// For each of `new` pixels the old one under its centre; the position is summed up, as Pillow does.
fn nearest_sources(old: usize, new: usize) -> Vec<usize> {
    let step = old as f64 / new as f64;
    let positions = std::iter::successors(Some(0.5 * step), |position| Some(position + step));
    positions.take(new).map(|position| (position as usize).min(old - 1)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raster(width: usize, height: usize, channels: usize, pixels: &[u8]) -> Raster {
        Raster { width, height, channels, pixels: pixels.to_vec() }
    }

    #[test]
    fn weights_sum_to_one_and_stay_inside() {
        for (old, new) in [(1, 7), (7, 1), (100, 33), (33, 100), (5, 5), (1_000, 448)] {
            for tap in taps(old, new) {
                let sum: i32 = tap.weights.iter().sum();
                assert!(
                    (sum - (1 << WEIGHT_BITS)).abs() <= tap.weights.len() as i32,
                    "{old} -> {new}: {sum}"
                );
                assert!(tap.first + tap.weights.len() <= old);
            }
        }
    }

    #[test]
    fn bicubic_of_a_step_overshoots_by_the_known_amount() {
        // Enlarging 0 0 255 255 twice: weights of the two phases are (-9 111 29 -3)/128 and its mirror image.
        let step: Vec<u8> = [0u8, 0, 0, 255, 255, 255].iter().flat_map(|&p| [p; 3]).collect();
        let out = raster(6, 1, 3, &step).resize(12, 1, Filter::Bicubic);
        let grey: Vec<u8> = out.pixels.chunks(3).map(|p| p[0]).collect();
        assert_eq!(grey, [0, 0, 0, 0, 0, 52, 203, 255, 255, 255, 255, 255]);
    }

    #[test]
    fn transparent_colours_do_not_bleed() {
        let out = raster(2, 1, 4, &[200, 100, 50, 255, 9, 9, 9, 0]).resize(8, 1, Filter::Bicubic);
        for pixel in out.pixels.chunks(4).filter(|p| p[3] > 60) {
            // Colours may overshoot (alpha is clipped, they are not), but never sink towards 9.
            assert!([200u8, 100, 50].iter().zip(pixel).all(|(&ink, &colour)| colour >= ink - 4), "{pixel:?}");
        }
    }

    #[test]
    fn nearest_takes_the_pixel_under_the_centre() {
        assert_eq!(nearest_sources(4, 2), [1, 3]);
        assert_eq!(nearest_sources(2, 5), [0, 0, 1, 1, 1]);
        let out = raster(2, 1, 3, &[1, 2, 3, 4, 5, 6]).resize(4, 2, Filter::Nearest);
        assert_eq!(out.pixels, [[1, 2, 3, 1, 2, 3, 4, 5, 6, 4, 5, 6]; 2].concat());
    }

    #[test]
    fn alpha_is_dropped_or_laid_on_white() {
        let ink = raster(2, 1, 4, &[10, 20, 30, 0, 10, 20, 30, 255]);
        assert_eq!(ink.clone().into_rgb().pixels, [10, 20, 30, 10, 20, 30]);
        assert_eq!(ink.on_white().into_rgb().pixels, [255, 255, 255, 10, 20, 30]);
    }
}
