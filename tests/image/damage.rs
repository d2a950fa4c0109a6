//! Damaged, hostile and extreme files: a clear error or a picture, never a panic, and no memory for what a
//! header merely claims.

use super::{hub_processor, own_golden};
use harness::image::{Alpha, AreaRule, patches, prepare};
use harness::types::{Picture, Rgb};
use std::path::PathBuf;

const AREA: AreaRule = AreaRule { min_pixels: 20, max_pixels: 2_000 };

fn read(file: &str) -> Vec<u8> {
    std::fs::read(own_golden().join("data").join(file)).unwrap()
}

fn prepared(bytes: Vec<u8>) -> Result<Rgb, String> {
    prepare(&Picture::Encoded(bytes.into()), AREA, Alpha::Drop).map_err(|e| format!("{e:#}"))
}

fn made_up_files() -> Vec<PathBuf> {
    let folder = |name| std::fs::read_dir(own_golden().join("data").join(name)).unwrap();
    let mut files: Vec<PathBuf> =
        ["jpeg", "modes"].into_iter().flat_map(folder).map(|e| e.unwrap().path()).collect();
    files.sort();
    assert!(files.len() > 50);
    files
}

/// Writes other sizes into the header of a PNG file, and its checksum.
fn with_png_size(mut png: Vec<u8>, width: u32, height: u32) -> Vec<u8> {
    png[16..20].copy_from_slice(&width.to_be_bytes());
    png[20..24].copy_from_slice(&height.to_be_bytes());
    let step = |crc: u32| (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg());
    let crc =
        !png[12..29].iter().fold(!0, |crc, &byte| (0..8).fold(crc ^ u32::from(byte), |crc, _| step(crc)));
    png[29..33].copy_from_slice(&crc.to_be_bytes());
    png
}

fn with_bytes(mut file: Vec<u8>, at: usize, bytes: &[u8]) -> Vec<u8> {
    file[at..at + bytes.len()].copy_from_slice(bytes);
    file
}

fn with_jpeg_size(file: Vec<u8>, width: u16, height: u16) -> Vec<u8> {
    let frame = file.windows(2).position(|pair| pair == [0xff, 0xc0]).unwrap();
    let (height, width) = (height.to_be_bytes(), width.to_be_bytes());
    with_bytes(file, frame + 5, &[height, width].concat())
}

#[test]
fn claimed_sizes_over_the_limit_are_refused() {
    let canvas = 0x00ff_ffff_u32.to_le_bytes();
    let files = [
        with_png_size(read("modes/l.png"), 100_000, 100_000),
        with_png_size(read("modes/l.png"), 89_478_486, 1),
        with_jpeg_size(read("jpeg/420.jpg"), 65_535, 65_535),
        with_jpeg_size(read("jpeg/grey.jpg"), 10_000, 9_000),
        with_bytes(read("modes/p.gif"), 6, &[0xff; 4]),
        with_bytes(read("modes/rgb.bmp"), 18, &[20_000_u32.to_le_bytes(); 2].concat()),
        with_bytes(read("modes/animated.webp"), 24, &[&canvas[..3], &[0x50, 0, 0]].concat()),
    ];
    for file in files {
        let error = prepared(file).unwrap_err();
        assert!(error.contains("over the limit (89478485 pixels") || error.contains("memory"), "{error}");
    }
}

#[test]
fn empty_pictures_are_refused() {
    let files = [
        with_png_size(read("modes/l.png"), 0, 9),
        with_jpeg_size(read("jpeg/420.jpg"), 23, 0),
        with_jpeg_size(read("jpeg/420.jpg"), 0, 19),
        with_bytes(read("modes/p.gif"), 6, &[0; 4]),
        with_bytes(read("modes/rgb.bmp"), 18, &[0; 4]),
    ];
    for file in files {
        let error = prepared(file).unwrap_err();
        assert!(error.contains("picture cannot be read: "), "{error}");
    }
}

#[test]
fn files_cut_anywhere_give_an_error_or_the_whole_picture() {
    for path in made_up_files() {
        let whole = std::fs::read(&path).unwrap();
        let picture = prepared(whole.clone()).unwrap();
        assert!(prepared(whole[..whole.len() / 8].to_vec()).is_err(), "an eighth of {}", path.display());
        for length in 0..whole.len() {
            if let Ok(cut) = prepared(whole[..length].to_vec()) {
                assert_eq!(cut, picture, "{length} bytes of {}", path.display());
            }
        }
    }
}

#[test]
fn changed_bytes_never_panic() {
    let mut refused = 0;
    for path in made_up_files() {
        let whole = std::fs::read(&path).unwrap();
        for at in 0..whole.len() {
            let flip = if at % 2 == 0 { 0xff } else { 0x13 };
            let changed = with_bytes(whole.clone(), at, &[whole[at] ^ flip]);
            refused += usize::from(prepared(changed).is_err());
        }
    }
    assert!(refused > 1_000, "{refused}");
}

#[test]
fn every_subsampling_of_a_jpeg_is_decoded_or_refused() {
    for file in ["jpeg/444.jpg", "jpeg/cmyk.jpg", "jpeg/progressive.jpg"].map(read) {
        let frame = file.windows(2).position(|pair| matches!(pair, [0xff, 0xc0 | 0xc2])).unwrap();
        let channels = usize::from(file[frame + 9]);
        for channel in 0..channels {
            for sampling in 0..=255 {
                if let Ok(rgb) = prepared(with_bytes(file.clone(), frame + 11 + 3 * channel, &[sampling])) {
                    assert_eq!(rgb.pixels.len(), 3 * (rgb.width * rgb.height) as usize);
                }
            }
        }
    }
}

#[test]
fn pictures_too_narrow_for_the_model_are_refused() {
    let narrow = Rgb { width: 1_000, height: 4, pixels: vec![9; 12_000] };
    let rgb = prepare(&Picture::Rgb(narrow.into()), AREA, Alpha::Drop).unwrap();
    let error = patches(&rgb, &hub_processor()).unwrap_err().to_string();
    assert!(error.contains("too narrow"), "{error}");
}
