//! Pictures against Pillow and transformers' Qwen2-VL image processor.
//!
//! `golden_images` reads `tests/golden/images` and the folder named by `HARNESS_EXTRA_GOLDEN`, laid out alike:
//! `images/*.jsonl`, with the pictures in `data` in or beside that folder.

use harness::image::{Alpha, AreaRule, Processor, patches, prepare};
use harness::types::Picture;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};

mod damage;

#[derive(Deserialize)]
struct Case {
    file: String,
    mode: String,
    min_pixels: Option<usize>,
    max_pixels: Option<usize>,
    resized: [u32; 2],
    rgb_sha256: String,
    grid_thw: [[usize; 3]; 1],
    pv_first8: [f32; 8],
    pv_mid8: [f32; 8],
    pv_sha256_f32le: String,
}

fn hub_processor() -> Processor {
    Processor {
        min_pixels: 3_136,
        max_pixels: 12_845_056,
        patch_size: 14,
        temporal_patch_size: 2,
        merge_size: 2,
        image_mean: [0.481_454_66, 0.457_827_5, 0.408_210_73],
        image_std: [0.268_629_54, 0.261_302_6, 0.275_777_1],
    }
}

pub fn own_golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden")
}

pub fn extra_golden() -> Option<PathBuf> {
    std::env::var_os("HARNESS_EXTRA_GOLDEN").map(PathBuf::from)
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn read_cases(folder: &Path) -> Vec<Case> {
    let Ok(entries) = std::fs::read_dir(folder.join("images")) else { return Vec::new() };
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| file.extension().is_some_and(|e| e == "jsonl"));
    files.sort();
    let lines = |file: PathBuf| std::fs::read_to_string(file).unwrap();
    let text: String = files.into_iter().map(lines).collect();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn picture(folder: &Path, file: &str) -> Picture {
    let places = [folder.join("data").join(file), folder.join("../data").join(file)];
    let path = places.iter().find(|path| path.exists()).unwrap_or_else(|| panic!("no picture {file}"));
    Picture::Encoded(std::fs::read(path).unwrap().into())
}

/// Compares one case, bit for bit.
fn check(folder: &Path, case: &Case) {
    let name = format!("{} {} {:?}", case.file, case.mode, case.max_pixels);
    let area = AreaRule {
        min_pixels: case.min_pixels.unwrap_or(0),
        max_pixels: case.max_pixels.unwrap_or(usize::MAX),
    };
    let rgb = prepare(&picture(folder, &case.file), area, Alpha::Drop).unwrap();
    assert_eq!([rgb.width, rgb.height], case.resized, "{name}");
    let cut = patches(&rgb, &hub_processor()).unwrap();
    assert_eq!(cut.grid_thw, case.grid_thw[0], "{name}");
    let middle = cut.values.len() / 2;
    assert_eq!((&cut.values[..8], &cut.values[middle..middle + 8]), (&case.pv_first8[..], &case.pv_mid8[..]));
    assert_eq!(sha256(&rgb.pixels), case.rgb_sha256, "pixels of {name}");
    let bytes: Vec<u8> = cut.values.iter().flat_map(|v| v.to_le_bytes()).collect();
    assert_eq!(sha256(&bytes), case.pv_sha256_f32le, "values of {name}");
}

#[test]
fn golden_images() {
    let own = read_cases(&own_golden());
    assert_eq!(own.len(), 130, "cases of tests/golden/images");
    own.iter().for_each(|case| check(&own_golden(), case));
    if let Some(extra) = extra_golden() {
        let cases = read_cases(&extra);
        cases.iter().for_each(|case| check(&extra, case));
        println!("{} further cases in {}", cases.len(), extra.display());
    }
}

#[test]
fn white_changes_pictures_with_transparency_and_no_others() {
    let area = AreaRule { min_pixels: 0, max_pixels: usize::MAX };
    let at = |file: &str, alpha| prepare(&picture(&own_golden(), file), area, alpha).unwrap();
    for file in ["rgba", "la", "key", "ptr", "rgba16"].map(|name| format!("modes/{name}.png")) {
        let (drop, white) = (at(&file, Alpha::Drop), at(&file, Alpha::White));
        assert_eq!((drop.width, drop.height), (white.width, white.height), "{file}");
        assert!(drop != white && drop.pixels.iter().zip(&white.pixels).all(|(d, w)| d <= w), "{file}");
    }
    for file in ["l", "one", "p", "rgb16"].map(|name| format!("modes/{name}.png")) {
        assert_eq!(at(&file, Alpha::Drop), at(&file, Alpha::White), "{file}");
    }
}
