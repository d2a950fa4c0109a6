//! The corruptions of a picture under which the policy re-scores its own tokens (paper App. F, Table 11).
//!
//! Pure: pixels and a stream of random numbers in, pixels out. A corruption acts on the RGB picture after the
//! area rule and before the processor, as the reference's `perc_utils.py` does. It knows nothing of models or
//! files.
//!
//! Deviations: the reference draws from numpy's unseeded global generator, here every draw belongs to its
//! coordinates ([`crate::rng`]); its released blur fails (a missing import), here it is Pillow's
//! `GaussianBlur`, three box blurs per axis (`src/libImaging/BoxBlur.c`).

use crate::rng::Stream;
use crate::settings::{Corruption, CorruptionKind};
use crate::types::Rgb;
use anyhow::{Result, ensure};

impl CorruptionKind {
    /// The reference's corruption of a name (`patches`, `noise`, `blur`, `full`), with its parameters.
    pub fn reference(name: &str) -> Option<CorruptionKind> {
        Some(match name {
            "patches" => CorruptionKind::Patches { patch_pixels: 14, probability: 0.5 },
            "noise" => CorruptionKind::Noise { std: 189.0 },
            "blur" => CorruptionKind::Blur { radius: 6.0 },
            "full" => CorruptionKind::Full { level: 128 },
            _ => return None,
        })
    }

    /// Says which parameter, if any, has a value that makes no sense, and which values do.
    pub fn check(&self) -> Result<()> {
        match *self {
            CorruptionKind::Patches { patch_pixels, probability } => {
                ensure!(
                    patch_pixels >= 1,
                    "patch_pixels = {patch_pixels}: give a whole number of at least 1"
                );
                let known = (0.0..=1.0).contains(&probability);
                ensure!(known, "probability = {probability}: give a number from 0 to 1");
            }
            CorruptionKind::Noise { std: value } | CorruptionKind::Blur { radius: value } => {
                let key = if matches!(self, CorruptionKind::Noise { .. }) { "std" } else { "radius" };
                ensure!(value >= 0.0 && value.is_finite(), "{key} = {value}: give a number of at least 0");
            }
            CorruptionKind::Full { .. } => {}
        }
        Ok(())
    }
}

/// A corrupted copy of `rgb`, of the same size. Only `Patches` and `Noise` draw from `rng`.
pub fn corrupt(rgb: &Rgb, corruption: &Corruption, rng: &mut Stream) -> Rgb {
    let pixels = match corruption.kind {
        CorruptionKind::Patches { patch_pixels, probability } => {
            blacken(rgb, patch_pixels as usize, probability, rng)
        }
        CorruptionKind::Noise { std } => add_noise(&rgb.pixels, std, rng),
        CorruptionKind::Blur { radius } => gaussian_blur(rgb, radius as f32),
        CorruptionKind::Full { level } => vec![level; rgb.pixels.len()],
    };
    Rgb { pixels, ..*rgb }
}

/// Blackens each square of side `side` with probability `probability`: one draw per square, row by row from
/// the top left; squares at the right and lower edge may be partial. A side of 0 counts as 1.
fn blacken(rgb: &Rgb, side: usize, probability: f64, rng: &mut Stream) -> Vec<u8> {
    let (width, height, side) = (rgb.width as usize, rgb.height as usize, side.max(1));
    let mut pixels = rgb.pixels.clone();
    for top in (0..height).step_by(side) {
        for left in (0..width).step_by(side) {
            if rng.chance(probability) {
                let right = (left + side).min(width);
                for y in top..(top + side).min(height) {
                    pixels[3 * (y * width + left)..3 * (y * width + right)].fill(0);
                }
            }
        }
    }
    pixels
}

/// Adds normal noise to every channel of every pixel, clamps to 0..255 and truncates.
fn add_noise(pixels: &[u8], std: f64, rng: &mut Stream) -> Vec<u8> {
    pixels.iter().map(|&level| (f64::from(level) + std * rng.normal()).clamp(0.0, 255.0) as u8).collect()
}

/// Box blurs per axis that stand for one Gaussian blur.
const BOX_PASSES: usize = 3;

/// Pillow's Gaussian blur: `radius` is the standard deviation in pixels; 0 or less changes nothing.
fn gaussian_blur(rgb: &Rgb, radius: f32) -> Vec<u8> {
    if !(radius > 0.0 && radius.is_finite()) {
        return rgb.pixels.clone();
    }
    let (width, height) = (rgb.width as usize, rgb.height as usize);
    let kernel = BoxKernel::for_gaussian(radius, width.max(height));
    let rows = kernel.blur_rows(&rgb.pixels, width);
    let columns = kernel.blur_rows(&transpose(&rows, width, height), height);
    transpose(&columns, height, width)
}

/// A box of fractional radius as 24-bit fixed-point weights.
struct BoxKernel {
    /// Whole pixels to each side of the centre.
    reach: usize,
    /// Weight of the pixels within reach.
    inner: u32,
    /// Weight of the one pixel beyond, on each side.
    edge: u32,
}

impl BoxKernel {
    /// Bits after the point of a weight.
    const BITS: u32 = 24;

    /// The box that gives, in `BOX_PASSES` passes, the variance of a Gaussian (Gwosdek et al. 2011, eq. 7, 11
    /// and 14), in Pillow's float types. A reach over `longest` pixels would only see the repeated border.
    fn for_gaussian(radius: f32, longest: usize) -> BoxKernel {
        let variance = radius * radius / BOX_PASSES as f32;
        let length = (12.0 * f64::from(variance) + 1.0).sqrt() as f32;
        let whole = ((f64::from(length) - 1.0) / 2.0).floor() as f32;
        let fraction = (2.0 * whole + 1.0) * (whole * (whole + 1.0) - 3.0 * variance)
            / (6.0 * (variance - (whole + 1.0) * (whole + 1.0)));
        let box_radius = (whole + fraction).min(longest as f32);
        let reach = box_radius as usize;
        let one = 1u32 << Self::BITS;
        let inner = (one as f32 / (box_radius * 2.0 + 1.0)) as u32;
        let edge = one.saturating_sub((2 * reach as u32 + 1) * inner) / 2;
        BoxKernel { reach, inner, edge }
    }

    /// Blurs each row of `width` RGB pixels `BOX_PASSES` times; the border pixel is repeated outwards.
    fn blur_rows(&self, pixels: &[u8], width: usize) -> Vec<u8> {
        let mut out = pixels.to_vec();
        let mut line = vec![0; width];
        for row in out.chunks_exact_mut(3 * width) {
            for channel in 0..3 {
                for _ in 0..BOX_PASSES {
                    line.iter_mut().zip(row.chunks_exact(3)).for_each(|(to, pixel)| *to = pixel[channel]);
                    self.blur_line(&line, row.iter_mut().skip(channel).step_by(3));
                }
            }
        }
        out
    }

    /// One pass over one channel of one row, with a running sum of the pixels within reach.
    fn blur_line<'a>(&self, line: &[u8], out: impl Iterator<Item = &'a mut u8>) {
        let reach = self.reach as isize;
        let last = line.len() as isize - 1;
        let at = |x: isize| u32::from(line[x.clamp(0, last) as usize]);
        let mut sum: u32 = (-reach - 1..reach).map(at).sum(); // the box around -1
        for (x, to) in (0isize..).zip(out) {
            sum = sum + at(x + reach) - at(x - reach - 1);
            let beyond = at(x - reach - 1) + at(x + reach + 1);
            *to = ((sum * self.inner + beyond * self.edge + (1 << (Self::BITS - 1))) >> Self::BITS) as u8;
        }
    }
}

/// Swaps rows and columns of `width` x `height` RGB pixels.
fn transpose(pixels: &[u8], width: usize, height: usize) -> Vec<u8> {
    let at = |x: usize, y: usize| 3 * (y * width + x);
    (0..width)
        .flat_map(|x| (0..height).flat_map(move |y| at(x, y)..at(x, y) + 3))
        .map(|i| pixels[i])
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{Purpose, stream};
    use crate::settings::CorruptionScope;

    #[test]
    fn parameters_out_of_range_are_named() {
        for name in ["patches", "noise", "blur", "full"] {
            let kind = CorruptionKind::reference(name).unwrap();
            assert_eq!(serde_json::to_value(&kind).unwrap()["name"], name);
            kind.check().unwrap();
        }
        assert_eq!(CorruptionKind::reference("none"), None);
        for (kind, key) in [
            (CorruptionKind::Patches { patch_pixels: 0, probability: 0.5 }, "patch_pixels = 0"),
            (CorruptionKind::Patches { patch_pixels: 14, probability: 1.5 }, "probability = 1.5"),
            (CorruptionKind::Noise { std: -1.0 }, "std = -1"),
            (CorruptionKind::Blur { radius: f64::NAN }, "radius = NaN"),
        ] {
            assert!(kind.check().unwrap_err().to_string().starts_with(key), "{kind:?}");
        }
    }

    fn corrupted(rgb: &Rgb, kind: CorruptionKind, seed: u64) -> Rgb {
        let corruption = Corruption { kind, scope: CorruptionScope::Response };
        corrupt(rgb, &corruption, &mut stream(seed, Purpose::Corruption, &[]))
    }

    fn picture(width: u32, height: u32) -> Rgb {
        let pixels = (0..3 * width * height).map(|i| (i * 37 % 255 + 1) as u8).collect();
        Rgb { width, height, pixels }
    }

    fn pixel(rgb: &Rgb, x: u32, y: u32) -> &[u8] {
        &rgb.pixels[3 * (y * rgb.width + x) as usize..][..3]
    }

    #[test]
    fn every_corruption_is_a_function_of_its_stream_and_keeps_the_size() {
        let rgb = picture(40, 30);
        for kind in [
            CorruptionKind::Patches { patch_pixels: 14, probability: 0.5 },
            CorruptionKind::Noise { std: 189.0 },
            CorruptionKind::Blur { radius: 6.0 },
            CorruptionKind::Full { level: 128 },
        ] {
            let once = corrupted(&rgb, kind.clone(), 1);
            assert_eq!(once, corrupted(&rgb, kind.clone(), 1));
            assert_ne!(once, rgb);
            assert_eq!((once.width, once.height, once.pixels.len()), (40, 30, 3_600));
            let draws = matches!(kind, CorruptionKind::Patches { .. } | CorruptionKind::Noise { .. });
            assert_eq!(draws, once != corrupted(&rgb, kind, 2));
        }
    }

    #[test]
    fn squares_start_at_the_top_left_and_are_black_or_untouched() {
        let rgb = picture(31, 17); // 3 x 2 squares, the last ones 3 wide and 3 high
        let kind = CorruptionKind::Patches { patch_pixels: 14, probability: 0.5 };
        let (mut black, mut whole, mut seen) = (0, 0, [false; 6]);
        for seed in 0..300 {
            let out = corrupted(&rgb, kind.clone(), seed);
            let mut draws = stream(seed, Purpose::Corruption, &[]);
            let expected: Vec<bool> = (0..6).map(|_| draws.chance(0.5)).collect();
            for (y, x) in (0..17).flat_map(|y| (0..31).map(move |x| (y, x))) {
                let square = (y / 14 * 3 + x / 14) as usize;
                let want = if expected[square] { &[0, 0, 0] } else { pixel(&rgb, x, y) };
                assert_eq!(pixel(&out, x, y), want, "seed {seed}, {x}, {y}");
                seen[square] |= expected[square];
            }
            black += expected.iter().filter(|&&black| black).count();
            whole += 6;
        }
        assert_eq!(seen, [true; 6]);
        let fraction = f64::from(black as u32) / f64::from(whole);
        assert!((fraction - 0.5).abs() < 0.05, "{fraction}");
    }

    #[test]
    fn probabilities_0_and_1_blacken_nothing_and_everything() {
        let rgb = picture(20, 20);
        let out = |probability| corrupted(&rgb, CorruptionKind::Patches { patch_pixels: 14, probability }, 3);
        assert_eq!(out(0.0), rgb);
        assert!(out(1.0).pixels.iter().all(|&p| p == 0));
    }

    #[test]
    fn noise_has_the_asked_deviation_where_nothing_clips() {
        let rgb = Rgb { width: 100, height: 100, pixels: vec![128; 30_000] };
        let out = corrupted(&rgb, CorruptionKind::Noise { std: 10.0 }, 4);
        let offsets: Vec<f64> = out.pixels.iter().map(|&p| f64::from(p) + 0.5 - 128.0).collect();
        let mean = offsets.iter().sum::<f64>() / 30_000.0;
        let std = (offsets.iter().map(|o| o * o).sum::<f64>() / 30_000.0).sqrt();
        assert!(mean.abs() < 0.3 && (std - 10.0).abs() < 0.2, "{mean} {std}");
        let strong = corrupted(&rgb, CorruptionKind::Noise { std: 189.0 }, 4);
        let black = strong.pixels.iter().filter(|&&p| p == 0).count() as f64 / 30_000.0;
        assert!((black - 0.2508).abs() < 0.02, "P(128 + 189 z < 1) = 0.2508, got {black}");
    }

    #[test]
    fn blur_keeps_constants_and_has_the_variance_of_the_gaussian() {
        let flat = Rgb { width: 9, height: 5, pixels: vec![200; 135] };
        assert_eq!(corrupted(&flat, CorruptionKind::Blur { radius: 6.0 }, 0), flat);
        assert_eq!(corrupted(&picture(9, 5), CorruptionKind::Blur { radius: 0.0 }, 0), picture(9, 5));

        let mut line = Rgb { width: 121, height: 1, pixels: vec![0; 363] };
        line.pixels[180..183].fill(255);
        let out = corrupted(&line, CorruptionKind::Blur { radius: 2.0 }, 0);
        let level = |x: u32| f64::from(pixel(&out, x, 0)[1]);
        assert!((0..=60).all(|d| pixel(&out, 60 - d, 0) == pixel(&out, 60 + d, 0)), "symmetric");
        let mass: f64 = (0..121).map(level).sum();
        let variance = (0..121).map(|x| (f64::from(x) - 60.0).powi(2) * level(x)).sum::<f64>() / mass;
        assert!((variance - 4.0).abs() < 0.3 && (mass - 255.0).abs() < 6.0, "{variance} {mass}");
    }

    #[test]
    fn blur_is_pillows() {
        // Made by Pillow 13.0: Image.frombytes("RGB", (5, 3), ...).filter(ImageFilter.GaussianBlur(1.3)).
        let expected = [
            80, 100, 125, 99, 103, 126, 120, 108, 120, 138, 117, 107, 149, 125, 93, 91, 117, 125, 103, 119,
            128, 117, 119, 126, 128, 118, 118, 135, 117, 109, 101, 134, 126, 108, 135, 129, 115, 129, 132,
            119, 119, 129, 122, 109, 125,
        ];
        assert_eq!(corrupted(&picture(5, 3), CorruptionKind::Blur { radius: 1.3 }, 0).pixels, expected);
        for (radius, start) in [
            (0.5, [26, 62, 95, 120, 132, 148]),
            (2.0, [110, 125, 117, 115, 127, 117]),
            (6.0, [111, 118, 123, 112, 119, 123]),
            (30.0, [128, 105, 117, 128, 106, 117]),
        ] {
            let out = corrupted(&picture(40, 30), CorruptionKind::Blur { radius }, 0);
            assert_eq!(out.pixels[..6], start, "radius {radius}");
        }
    }

    #[test]
    fn box_of_the_papers_blur() {
        // sigma 6: variance per pass 12, length sqrt(145), whole radius 5, fraction 66/144.
        let kernel = BoxKernel::for_gaussian(6.0, 1_000);
        assert_eq!(kernel.reach, 5);
        let total = 11 * kernel.inner + 2 * kernel.edge;
        assert!((1 << 24) - total < 2, "{total}");
        assert!((f64::from(kernel.edge) / f64::from(kernel.inner) - 66.0 / 144.0).abs() < 1e-5);
    }
}
