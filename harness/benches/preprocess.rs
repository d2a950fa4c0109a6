//! Speed of picture preprocessing: decoding, area rule, resize, normalisation and patches. What it was beside
//! Pillow's is written at the module `harness::image`.
use criterion::Criterion;
use harness::image::{Alpha, AreaRule, Processor, patches, prepare};
use harness::types::{Picture, Rgb};
use std::hint::black_box;
use std::sync::Arc;

/// The reference's area range and the hub's processor.
const AREA: AreaRule = AreaRule { min_pixels: 200_704, max_pixels: 1_003_520 };

fn processor() -> Processor {
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

fn picture(width: u32, height: u32) -> Picture {
    let pixels = (0..3 * width * height).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    Picture::Rgb(Arc::new(Rgb { width, height, pixels }))
}

/// A file of the golden tests.
fn file(name: &str) -> Picture {
    let path = format!("{}/../tests/golden/data/{name}", env!("CARGO_MANIFEST_DIR"));
    Picture::Encoded(std::fs::read(path).expect("a picture of the golden tests").into())
}

/// A large picture as the benchmarks have it (only rounded to merge blocks), a small one (enlarged first), and
/// files with their decoding.
pub fn preprocess(c: &mut Criterion) {
    let processor = processor();
    let pictures = [
        ("1000x700", picture(1_000, 700)),
        ("112x112", picture(112, 112)),
        ("PNG file", file("mmmu_pro/images/test_Music_251_5.png")),
        ("JPEG file", file("mathverse/images/357.png")),
    ];
    for (name, picture) in pictures {
        c.bench_function(&format!("preprocess {name}"), |bencher| {
            bencher.iter(|| {
                let rgb = prepare(black_box(&picture), AREA, Alpha::Drop)?;
                patches(&rgb, &processor)
            });
        });
    }
}
