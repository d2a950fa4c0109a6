//! How a file stores its pixels, read from its headers.
//!
//! Pillow resizes by its mode, that is by how the file stores its pixels: indices and bits by the nearest
//! neighbour, all else bicubic. The decoder has expanded them by then.

use image::ImageFormat;

/// Byte of the bit depth in a PNG file; the colour type (0 grey, 2 RGB, 3 palette, ...) follows it.
const PNG_DEPTH: usize = 24;

/// Whether Pillow opens the file as `P` (palette) or `1` (bits). It takes a palette that maps every index to
/// its own grey for no palette at all.
pub(super) fn is_indexed(format: ImageFormat, bytes: &[u8]) -> bool {
    match format {
        ImageFormat::Png => matches!(bytes.get(PNG_DEPTH..PNG_DEPTH + 2), Some([_, 3] | [1, 0])),
        ImageFormat::Bmp => is_indexed_bmp(bytes).unwrap_or(false),
        ImageFormat::Gif => first_gif_palette(bytes).is_some_and(|palette| !is_grey_ramp(palette, 3)),
        _ => false,
    }
}

/// Whether transparency can only be one marked colour (PNG `tRNS` of a grey or RGB picture, a GIF), which
/// Pillow keeps beside the pixels: it takes no part in resizing.
pub(super) fn has_key_colour(format: ImageFormat, bytes: &[u8]) -> bool {
    match format {
        ImageFormat::Png => matches!(bytes.get(PNG_DEPTH + 1), Some(0 | 2)),
        ImageFormat::Gif => true,
        _ => false,
    }
}

/// Whether each entry (of `step` bytes, the colours first) of a palette is the grey of its index.
fn is_grey_ramp(palette: &[u8], step: usize) -> bool {
    palette
        .chunks_exact(step)
        .enumerate()
        .all(|(index, entry)| entry[..3].iter().all(|&c| usize::from(c) == index))
}

/// Up to 8 bits per pixel are indices. The old OS/2 header (12 bytes) has other fields and 3-byte entries.
fn is_indexed_bmp(bytes: &[u8]) -> Option<bool> {
    let number = |at: usize| Some(usize::from(u16::from_le_bytes([*bytes.get(at)?, *bytes.get(at + 1)?])));
    let header = number(14)?;
    let (bits, step) = if header == 12 { (number(24)?, 3) } else { (number(28)?, 4) };
    if bits != 8 {
        return Some(bits < 8);
    }
    let colours = if header == 12 { 0 } else { number(46)? };
    let entries = if colours == 0 { 256 } else { colours };
    let palette = bytes.get(14 + header..14 + header + entries * step)?;
    Some(!is_grey_ramp(palette, step))
}

/// The colours of the first frame of a GIF file: its own, else those of the file.
fn first_gif_palette(bytes: &[u8]) -> Option<&[u8]> {
    const SCREEN_END: usize = 13;
    let table = |flags: u8, at: usize| match flags & 0x80 {
        0 => Some(&bytes[..0]),
        _ => bytes.get(at..at + (6 << (flags & 7))),
    };
    let shared = table(*bytes.get(10)?, SCREEN_END)?;
    let mut at = SCREEN_END + shared.len();
    // Extensions: two bytes, then blocks that begin with their length, up to an empty one.
    while *bytes.get(at)? == 0x21 {
        at += 2;
        while *bytes.get(at)? > 0 {
            at += 1 + usize::from(bytes[at]);
        }
        at += 1;
    }
    let own = table(*bytes.get(at + 9)?, at + 10)?;
    Some(if own.is_empty() { shared } else { own })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A GIF of one pixel with a comment and two colours.
    fn gif(colours: [u8; 6]) -> Vec<u8> {
        let screen = b"GIF89a\x01\0\x01\0\x80\0\0".iter().chain(&colours);
        screen.chain(b"\x21\xfe\x02hi\0\x2c\0\0\0\0\x01\0\x01\0\0\x02\x02\x44\x01\0;").copied().collect()
    }

    #[test]
    fn grey_ramps_are_no_palettes() {
        assert!(!is_indexed(ImageFormat::Gif, &gif([0, 0, 0, 1, 1, 1])));
        assert!(is_indexed(ImageFormat::Gif, &gif([0, 0, 0, 255, 255, 255])));
        assert!(!is_indexed(ImageFormat::Gif, &gif([0, 0, 0, 1, 1, 1])[..20]), "cut off");
    }

    #[test]
    fn a_frame_may_bring_its_own_palette() {
        let mut bytes = gif([0, 0, 0, 1, 1, 1]);
        let flags = bytes.iter().position(|&b| b == 0x2c).unwrap() + 9;
        bytes[flags] = 0x80;
        bytes.splice(flags + 1..flags + 1, [9, 9, 9, 8, 8, 8]);
        assert!(is_indexed(ImageFormat::Gif, &bytes));
    }
}
