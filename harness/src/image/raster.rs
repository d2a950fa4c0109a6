//! Decoded pixels, and Pillow's conversions between their modes.

use crate::types::Rgb;
use anyhow::{Result, ensure};
use std::borrow::Cow;

/// What the 8-bit channels of a pixel mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// One channel.
    Grey,
    /// Three channels.
    Rgb,
    /// Three colours, not multiplied by the fourth channel, the opacity.
    Rgba,
    /// Four inks; 255 is full ink, as in Pillow.
    Cmyk,
}

impl Mode {
    /// Bytes per pixel.
    pub fn channels(self) -> usize {
        match self {
            Mode::Grey => 1,
            Mode::Rgb => 3,
            Mode::Rgba | Mode::Cmyk => 4,
        }
    }
}

/// A picture of interleaved 8-bit channels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Raster<'a> {
    pub width: usize,
    pub height: usize,
    pub mode: Mode,
    /// `width * height * channels` bytes, row by row.
    pub pixels: Cow<'a, [u8]>,
}

impl<'a> Raster<'a> {
    /// Borrows an RGB picture, after a check of its sizes.
    pub fn from_rgb(rgb: &'a Rgb) -> Result<Raster<'a>> {
        let (width, height) = (rgb.width as usize, rgb.height as usize);
        ensure!(width > 0 && height > 0, "a picture of {width} x {height} pixels is empty");
        ensure!(
            rgb.pixels.len() == 3 * width * height,
            "an RGB picture of {width} x {height} pixels has {} bytes instead of {}",
            rgb.pixels.len(),
            3 * width * height
        );
        Ok(Raster { width, height, mode: Mode::Rgb, pixels: Cow::Borrowed(&rgb.pixels) })
    }

    /// The picture as Pillow's `convert("RGB")` gives it: opacity is dropped, inks are subtracted from white.
    pub fn into_rgb(self) -> Rgb {
        let (width, height) = (self.width as u32, self.height as u32);
        let pixels = match self.mode {
            Mode::Grey => self.pixels.iter().flat_map(|&grey| [grey; 3]).collect(),
            Mode::Rgb => self.pixels.into_owned(),
            Mode::Rgba => map_pixels(&self.pixels, |p| [p[0], p[1], p[2]]),
            Mode::Cmyk => map_pixels(&self.pixels, |p| [0, 1, 2].map(|ink| without_ink(p[ink], p[3]))),
        };
        Rgb { width, height, pixels }
    }

    /// Drops the opacity, if there is one.
    pub fn without_alpha(self) -> Raster<'a> {
        self.without_alpha_by(|p| [p[0], p[1], p[2]])
    }

    /// Drops the opacity where it is full everywhere, so that it changes nothing.
    pub fn without_idle_alpha(self) -> Raster<'a> {
        let opaque = self.mode == Mode::Rgba && self.pixels.chunks_exact(4).all(|p| p[3] == 255);
        if opaque { self.without_alpha() } else { self }
    }

    /// Lays the picture on white; without opacity it stays as it is.
    pub fn on_white(self) -> Raster<'a> {
        let over = |c: u8, a: u8| {
            let (c, a) = (u32::from(c), u32::from(a));
            ((c * a + 255 * (255 - a) + 127) / 255) as u8
        };
        self.without_alpha_by(|p| [0, 1, 2].map(|channel| over(p[channel], p[3])))
    }

    fn without_alpha_by(self, colour: impl Fn(&[u8]) -> [u8; 3]) -> Raster<'a> {
        if self.mode != Mode::Rgba {
            return self;
        }
        let pixels = Cow::Owned(map_pixels(&self.pixels, colour));
        Raster { mode: Mode::Rgb, pixels, ..self }
    }

    /// RGBA with the colours multiplied by the opacity: how Pillow resizes it.
    pub fn premultiplied(mut self) -> Raster<'a> {
        self.change_colours(|colour, alpha| if alpha == 255 { colour } else { scale(colour, alpha) });
        self
    }

    /// Undoes `premultiplied`, up to rounding.
    pub fn divided_by_alpha(mut self) -> Raster<'a> {
        self.change_colours(|colour, alpha| match alpha {
            0 | 255 => colour,
            _ => (255 * u32::from(colour) / u32::from(alpha)).min(255) as u8,
        });
        self
    }

    fn change_colours(&mut self, change: impl Fn(u8, u8) -> u8) {
        for pixel in self.pixels.to_mut().chunks_exact_mut(4) {
            let alpha = pixel[3];
            pixel[..3].iter_mut().for_each(|colour| *colour = change(*colour, alpha));
        }
    }
}

fn map_pixels(pixels: &[u8], colour: impl Fn(&[u8]) -> [u8; 3]) -> Vec<u8> {
    let mut mapped = vec![0; pixels.len() / 4 * 3];
    for (to, from) in mapped.chunks_exact_mut(3).zip(pixels.chunks_exact(4)) {
        to.copy_from_slice(&colour(from));
    }
    mapped
}

/// `a * b / 255`, rounded as Pillow's `MULDIV255`.
fn scale(a: u8, b: u8) -> u8 {
    let product = u32::from(a) * u32::from(b) + 128;
    (((product >> 8) + product) >> 8) as u8
}

/// What an ink and black leave of white.
fn without_ink(ink: u8, black: u8) -> u8 {
    let light = 255 - black;
    light - scale(ink, light)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raster(mode: Mode, pixels: &[u8]) -> Raster<'_> {
        Raster { width: pixels.len() / mode.channels(), height: 1, mode, pixels: pixels.into() }
    }

    #[test]
    fn alpha_is_dropped_or_laid_on_white() {
        let ink = raster(Mode::Rgba, &[10, 20, 30, 0, 10, 20, 30, 255]);
        assert_eq!(ink.clone().into_rgb().pixels, [10, 20, 30, 10, 20, 30]);
        assert_eq!(ink.on_white().into_rgb().pixels, [255, 255, 255, 10, 20, 30]);
    }

    #[test]
    fn full_opacity_is_dropped_early() {
        assert_eq!(raster(Mode::Rgba, &[1, 2, 3, 255]).without_idle_alpha().mode, Mode::Rgb);
        assert_eq!(raster(Mode::Rgba, &[1, 2, 3, 254]).without_idle_alpha().mode, Mode::Rgba);
        assert_eq!(raster(Mode::Cmyk, &[1, 2, 3, 255]).without_idle_alpha().mode, Mode::Cmyk);
    }

    #[test]
    fn inks_take_away_light() {
        // Pillow: Image.new("CMYK", (1, 1), inks).convert("RGB")
        for (inks, light) in
            [([0, 0, 0, 0], [255; 3]), ([255, 0, 0, 0], [0, 255, 255]), ([9, 8, 7, 255], [0; 3])]
        {
            assert_eq!(raster(Mode::Cmyk, &inks).into_rgb().pixels, light);
        }
        assert_eq!(raster(Mode::Cmyk, &[100, 50, 200, 30]).into_rgb().pixels, [137, 181, 49]);
    }

    #[test]
    fn grey_becomes_three_equal_channels() {
        assert_eq!(raster(Mode::Grey, &[7, 200]).into_rgb().pixels, [7, 7, 7, 200, 200, 200]);
    }
}
