//! The font of the figures, part of the program: no file of the system is read, so figures are the same everywhere.
//! DejaVu Sans, cut to Latin, Greek and a few symbols (`font/LICENSE.txt`).

use anyhow::{Result, anyhow};
use plotters::style::{FontStyle, IntoFont, register_font};
use std::sync::OnceLock;

/// What SVG asks its viewer for, and the name under which our font is registered for the rest.
pub(super) const FAMILY: &str = "sans-serif";
const BYTES: &[u8] = include_bytes!("font/DejaVuSans-subset.ttf");
/// The drawing library takes the height from the lowest to the highest point of the font for its size.
pub(super) const HEIGHT_IN_SIZES: f64 = 1.164;
/// Width of a character where the font cannot be read, in sizes.
const GUESSED_WIDTH: f64 = 0.6;
/// Widths are whole numbers: text is measured enlarged.
const ENLARGED: f64 = 64.0;

/// Makes the font known to the drawing library.
pub(super) fn register() -> Result<()> {
    static REGISTERED: OnceLock<bool> = OnceLock::new();
    let registered = *REGISTERED.get_or_init(|| register_font(FAMILY, FontStyle::Normal, BYTES).is_ok());
    registered.then_some(()).ok_or_else(|| anyhow!("the font of the figures cannot be read"))
}

/// Width of a text of this size.
pub(super) fn text_width(text: &str, size: f64) -> f64 {
    let guessed = GUESSED_WIDTH * size * text.chars().count() as f64;
    let measured = register().ok().and_then(|()| {
        let font = (FAMILY, size * HEIGHT_IN_SIZES * ENLARGED).into_font();
        font.box_size(text).ok()
    });
    measured.map_or(guessed, |(width, _)| f64::from(width) / ENLARGED)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn widths_are_those_of_the_font() {
        // DejaVu Sans: every digit has 1303 of 2048 units, the small i 569.
        assert!((text_width("0123456789", 10.0) - 10.0 * 10.0 * 1303.0 / 2048.0).abs() < 0.1);
        assert!((text_width("i", 10.0) - 10.0 * 569.0 / 2048.0).abs() < 0.1);
        assert_eq!(text_width("", 10.0), 0.0);
    }
}
