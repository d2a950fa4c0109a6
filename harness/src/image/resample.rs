//! Pillow's `Image.resize` on 8-bit channels, bit for bit.
//!
//! Source: Pillow, `src/libImaging/Resample.c` and `Geometry.c` (affine nearest neighbour), described here in
//! own words: weights in 22-bit fixed point; one axis after the other, with an 8-bit picture in between.
//!
//! Both axes use one kernel, [`weighted_sums`], which adds up rows of bytes side by side and so fits the
//! processor's vector units: the columns of a picture as they lie, its rows after a strip of them is turned.

use super::raster::{Mode, Raster};
use super::weights::{Taps, bicubic_taps, columns_first, nearest_sources};
use std::borrow::Cow;

/// Bits after the point of a weight: 32 minus 8 for a channel minus 2 for overshoot and sign.
const WEIGHT_BITS: u32 = 22;

/// One half, in the fixed point of the weights.
const ROUND: i32 = 1 << (WEIGHT_BITS - 1);

/// Bytes that are summed side by side.
const LANES: usize = 16;

/// How new pixels are computed from old ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Filter {
    /// Bicubic; with an alpha channel the colours are multiplied by it meanwhile.
    Bicubic,
    /// Nearest neighbour: Pillow resizes palette and 1-bit pictures so, whatever was asked for.
    Nearest,
}

impl<'a> Raster<'a> {
    /// The picture at another, non-empty size. The same size gives the same bytes.
    pub fn resize(self, width: usize, height: usize, filter: Filter) -> Raster<'a> {
        if (width, height) == (self.width, self.height) {
            return self;
        }
        match (filter, self.mode) {
            (Filter::Nearest, _) => self.nearest(width, height),
            (Filter::Bicubic, Mode::Rgba) => self.premultiplied().bicubic(width, height).divided_by_alpha(),
            (Filter::Bicubic, _) => self.bicubic(width, height),
        }
    }

    fn row_bytes(&self) -> usize {
        self.width * self.mode.channels()
    }

    fn nearest(&self, width: usize, height: usize) -> Raster<'a> {
        let channels = self.mode.channels();
        let columns = nearest_sources(self.width, width);
        let mut pixels = Vec::with_capacity(width * height * channels);
        for y in nearest_sources(self.height, height) {
            let row = &self.pixels[y * self.row_bytes()..][..self.row_bytes()];
            for &x in &columns {
                pixels.extend_from_slice(&row[x * channels..][..channels]);
            }
        }
        Raster { width, height, mode: self.mode, pixels: Cow::Owned(pixels) }
    }

    fn bicubic(self, width: usize, height: usize) -> Raster<'a> {
        if columns_first((self.width, self.height), (width, height)) {
            self.resize_columns(height).resize_rows(width)
        } else {
            self.resize_rows(width).resize_columns(height)
        }
    }

    /// Turns strips of `LANES` rows, so that the bytes of one column lie side by side, and sums those.
    fn resize_rows(self, width: usize) -> Raster<'a> {
        if width == self.width {
            return self;
        }
        let (channels, row_bytes, new_row_bytes) =
            (self.mode.channels(), self.row_bytes(), width * self.mode.channels());
        let taps = fixed_point_taps(self.width, width);
        let mut pixels = vec![0; new_row_bytes * self.height];
        let mut strip = vec![0; row_bytes * LANES];
        let strips = self.pixels.chunks(row_bytes * LANES);
        for (rows, new_rows) in strips.zip(pixels.chunks_mut(new_row_bytes * LANES)) {
            turn(rows, row_bytes, &mut strip);
            for (x, (first, weights)) in taps.iter().enumerate() {
                for channel in 0..channels {
                    let columns = &strip[(first * channels + channel) * LANES..];
                    let sums: [u8; LANES] = weighted_sums(columns, channels * LANES, weights);
                    let column = new_rows[x * channels + channel..].iter_mut().step_by(new_row_bytes);
                    column.zip(sums).for_each(|(pixel, sum)| *pixel = sum);
                }
            }
        }
        Raster { width, pixels: Cow::Owned(pixels), ..self }
    }

    fn resize_columns(self, height: usize) -> Raster<'a> {
        if height == self.height {
            return self;
        }
        let row_bytes = self.row_bytes();
        let whole_blocks = row_bytes - row_bytes % LANES;
        let mut pixels = Vec::with_capacity(row_bytes * height);
        for (first, weights) in fixed_point_taps(self.height, height).iter() {
            let rows = &self.pixels[first * row_bytes..];
            for start in (0..whole_blocks).step_by(LANES) {
                pixels.extend_from_slice(&weighted_sums::<LANES>(&rows[start..], row_bytes, weights));
            }
            for start in whole_blocks..row_bytes {
                pixels.extend_from_slice(&weighted_sums::<1>(&rows[start..], row_bytes, weights));
            }
        }
        Raster { height, pixels: Cow::Owned(pixels), ..self }
    }
}

/// Sums `N` bytes each from as many rows as there are weights; the rows start `stride` bytes apart.
#[inline]
fn weighted_sums<const N: usize>(rows: &[u8], stride: usize, weights: &[i32]) -> [u8; N] {
    let mut sums = [ROUND; N];
    for (values, &weight) in rows.chunks(stride).filter_map(|row| row.first_chunk::<N>()).zip(weights) {
        for (sum, &value) in sums.iter_mut().zip(values) {
            *sum += i32::from(value) * weight;
        }
    }
    sums.map(|sum| (sum >> WEIGHT_BITS).clamp(0, 255) as u8)
}

/// Writes up to `LANES` rows as columns: byte `i` of row `r` to `turned[i * LANES + r]`.
fn turn(rows: &[u8], row_bytes: usize, turned: &mut [u8]) {
    for (r, row) in rows.chunks_exact(row_bytes).enumerate() {
        for (column, &byte) in turned.chunks_exact_mut(LANES).zip(row) {
            column[r] = byte;
        }
    }
}

fn fixed_point_taps(old: usize, new: usize) -> Taps<i32> {
    bicubic_taps(old, new).map(fixed_point)
}

/// Rounds half away from zero.
fn fixed_point(weight: f64) -> i32 {
    let scaled = weight * f64::from(1u32 << WEIGHT_BITS);
    (if weight < 0.0 { scaled - 0.5 } else { scaled + 0.5 }) as i32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raster(width: usize, height: usize, mode: Mode, pixels: &[u8]) -> Raster<'_> {
        Raster { width, height, mode, pixels: pixels.into() }
    }

    #[test]
    fn bicubic_of_a_step_overshoots_by_the_known_amount() {
        // Enlarging 0 0 255 255 twice: weights of the two phases are (-9 111 29 -3)/128 and its mirror image.
        let grey = [0, 0, 0, 255, 255, 255];
        let colour: Vec<u8> = grey.iter().flat_map(|&p| [p; 3]).collect();
        let expected = [0, 0, 0, 0, 0, 52, 203, 255, 255, 255, 255, 255];
        let wide = raster(6, 1, Mode::Grey, &grey).resize(12, 1, Filter::Bicubic);
        assert_eq!(*wide.pixels, expected);
        let high = raster(1, 6, Mode::Rgb, &colour).resize(1, 12, Filter::Bicubic);
        assert_eq!(*high.pixels, expected.map(|p| [p; 3]).concat());
    }

    #[test]
    fn rows_and_columns_are_resized_alike() {
        // 37 rows: two whole strips and a part of one.
        let pixels: Vec<u8> = (0..37 * 23u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        let turned: Vec<u8> = (0..37 * 23).map(|i| pixels[i % 37 * 23 + i / 37]).collect();
        for length in [1, 11, 40] {
            let rows = raster(23, 37, Mode::Grey, &pixels).resize(length, 37, Filter::Bicubic);
            let columns = raster(37, 23, Mode::Grey, &turned).resize(37, length, Filter::Bicubic);
            for (i, &pixel) in rows.pixels.iter().enumerate() {
                assert_eq!(pixel, columns.pixels[i % length * 37 + i / length], "{length}: {i}");
            }
        }
    }

    #[test]
    fn transparent_colours_do_not_bleed() {
        let ink = raster(2, 1, Mode::Rgba, &[200, 100, 50, 255, 9, 9, 9, 0]);
        let out = ink.resize(8, 1, Filter::Bicubic);
        for pixel in out.pixels.chunks(4).filter(|p| p[3] > 60) {
            // Colours may overshoot (alpha is clipped, they are not), but never sink towards 9.
            assert!([200u8, 100, 50].iter().zip(pixel).all(|(&ink, &colour)| colour >= ink - 4), "{pixel:?}");
        }
    }

    #[test]
    fn nearest_repeats_pixels() {
        let out = raster(2, 1, Mode::Rgb, &[1, 2, 3, 4, 5, 6]).resize(4, 2, Filter::Nearest);
        assert_eq!(*out.pixels, [[1, 2, 3, 1, 2, 3, 4, 5, 6, 4, 5, 6]; 2].concat());
    }
}
