//! The hub's image processor: sides rounded to merge blocks, pixels normalised and cut into patches.
//!
//! Source: transformers, `models/qwen2_vl/image_processing_qwen2_vl.py` (`smart_resize`, `_preprocess`).

use super::MAX_PIXELS;
use super::raster::Raster;
use super::resample::Filter;
use crate::settings::ModelSettings;
use crate::types::Rgb;
use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Longest side over shortest side that the processor accepts.
const MAX_ASPECT: usize = 200;

/// The settings of the processor: the fields of the hub's `preprocessor_config.json` that decide numbers.
/// Further fields of that file are ignored when it is read.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Processor {
    /// Smallest area in pixels after rounding the sides.
    pub min_pixels: usize,
    /// Largest area in pixels after rounding the sides.
    pub max_pixels: usize,
    /// Side of a patch in pixels (14).
    pub patch_size: usize,
    /// Frames per patch (2); a still picture is repeated.
    pub temporal_patch_size: usize,
    /// Side of a merge block in patches (2): so many squared patches become one token.
    pub merge_size: usize,
    /// Mean of each channel, of values in 0..1.
    pub image_mean: [f32; 3],
    /// Standard deviation of each channel.
    pub image_std: [f32; 3],
}

impl Processor {
    /// Reads the text of a `preprocessor_config.json`, or of the `processor_config.json` that newer transformers
    /// write. The area is given as `min_pixels` and `max_pixels` or, where these are missing, as `size`.
    ///
    /// # Errors
    /// If a field is missing or of the wrong type, or if a size or a deviation is zero.
    pub fn from_json(text: &str) -> Result<Processor> {
        let read = || -> Result<Processor> {
            let mut file: Value = serde_json::from_str(text)?;
            if let Some(own) = file.get_mut("image_processor").map(Value::take) {
                file = own;
            }
            area_from_size(&mut file);
            let processor: Processor = serde_json::from_value(file)?;
            processor.check()?;
            Ok(processor)
        };
        read().context("the picture processor's configuration")
    }

    /// The processor of a Qwen2.5-VL model made from scratch: the hub's values except for the areas.
    pub fn for_model(model: &ModelSettings) -> Processor {
        Processor {
            min_pixels: model.min_pixels,
            max_pixels: model.max_pixels,
            patch_size: 14,
            temporal_patch_size: 2,
            merge_size: 2,
            image_mean: [0.481_454_66, 0.457_827_5, 0.408_210_73],
            image_std: [0.268_629_54, 0.261_302_6, 0.275_777_1],
        }
    }

    /// The text of a `preprocessor_config.json` that transformers reads as well.
    pub fn to_json(&self) -> Result<String> {
        #[derive(Serialize)]
        struct File<'a> {
            #[serde(flatten)]
            processor: &'a Processor,
            image_processor_type: &'a str,
            processor_class: &'a str,
        }
        let file = File {
            processor: self,
            image_processor_type: "Qwen2VLImageProcessor",
            processor_class: "Qwen2_5_VLProcessor",
        };
        Ok(serde_json::to_string_pretty(&file)?)
    }

    /// Values of one patch: channels x frames x side x side.
    pub fn patch_values(&self) -> usize {
        3 * self.temporal_patch_size * self.patch_size * self.patch_size
    }

    /// Width and height (in this order) that a picture of `width` x `height` is resized to: both whole
    /// multiples of `patch_size * merge_size`, the area within `min_pixels ..= max_pixels` as far as that
    /// allows, the aspect ratio about kept.
    ///
    /// # Errors
    /// On an empty picture, and where the longer side is over 200 times the shorter one.
    pub fn smart_size(&self, width: usize, height: usize) -> Result<(usize, usize)> {
        ensure!(width > 0 && height > 0, "a picture of {width} x {height} pixels is empty");
        let (long, short) = (width.max(height), width.min(height));
        ensure!(
            long <= MAX_ASPECT * short,
            "a picture of {width} x {height} pixels is too narrow: the longer side may be {MAX_ASPECT} times \
             the shorter one"
        );
        let factor = (self.patch_size * self.merge_size) as f64;
        let round = |side: usize| (side as f64 / factor).round_ties_even() * factor;
        let (mut new_width, mut new_height) = (round(width), round(height));
        let (rounded, area) = (new_width * new_height, (width * height) as f64);
        if rounded > self.max_pixels as f64 {
            let shrink = (area / self.max_pixels as f64).sqrt();
            let floor = |side: usize| ((side as f64 / shrink / factor).floor() * factor).max(factor);
            (new_width, new_height) = (floor(width), floor(height));
        } else if rounded < self.min_pixels as f64 {
            let grow = (self.min_pixels as f64 / area).sqrt();
            let ceil = |side: usize| (side as f64 * grow / factor).ceil() * factor;
            (new_width, new_height) = (ceil(width), ceil(height));
        }
        let (new_width, new_height) = (new_width as usize, new_height as usize);
        ensure!(
            new_width > 0 && new_height > 0,
            "a picture of {width} x {height} pixels is smaller than half a merge block; raise min_pixels"
        );
        ensure!(
            new_width.saturating_mul(new_height) <= MAX_PIXELS,
            "{new_width} x {new_height} pixels are over the limit of {MAX_PIXELS}; lower min_pixels or max_pixels"
        );
        Ok((new_width, new_height))
    }

    fn check(&self) -> Result<()> {
        for (name, value) in [
            ("patch_size", self.patch_size),
            ("temporal_patch_size", self.temporal_patch_size),
            ("merge_size", self.merge_size),
        ] {
            ensure!((1..=1_024).contains(&value), "{name} is {value}; it must be 1 to 1024");
        }
        ensure!(
            (1..=self.max_pixels).contains(&self.min_pixels),
            "min_pixels is {}; it must be positive and at most max_pixels, {}",
            self.min_pixels,
            self.max_pixels
        );
        ensure!(
            self.image_std.iter().all(|&std| std > 0.0),
            "image_std is {:?}; it must be positive",
            self.image_std
        );
        Ok(())
    }

    /// The normalised value of each level of each channel, in the float steps of the source: the level times
    /// 1/255 in double precision, then mean and deviation in single precision.
    fn normalised_levels(&self) -> [[f32; 256]; 3] {
        std::array::from_fn(|channel| {
            let (mean, std) = (self.image_mean[channel], self.image_std[channel]);
            std::array::from_fn(|level| ((level as f64 * (1.0 / 255.0)) as f32 - mean) / std)
        })
    }
}

/// Fills in `min_pixels` and `max_pixels` from `size`, whose keys have had two namings.
fn area_from_size(file: &mut Value) {
    for (key, edge) in [("min_pixels", "shortest_edge"), ("max_pixels", "longest_edge")] {
        let size = [edge, key].map(|name| file["size"][name].clone()).into_iter().find(|v| !v.is_null());
        if let (true, Some(size), Some(fields)) = (file[key].is_null(), size, file.as_object_mut()) {
            fields.insert(key.to_owned(), size);
        }
    }
}

/// The input of the vision tower for one picture.
#[derive(Clone, Debug, PartialEq)]
pub struct Patches {
    /// `(patches, 3 * temporal_patch_size * patch_size^2)`, row-major. Patches are ordered by merge block;
    /// within a patch: channel, frame, row, column.
    pub values: Vec<f32>,
    /// Patches along time, height and width; their product is the number of patches.
    pub grid_thw: [usize; 3],
}

/// Resizes a picture to whole merge blocks (bicubic), normalises it and cuts it into patches.
///
/// # Errors
/// Those of [`Processor::smart_size`], settings that are zero, and pixels that do not fit the picture's size.
pub fn patches(rgb: &Rgb, processor: &Processor) -> Result<Patches> {
    processor.check()?;
    let raster = Raster::from_rgb(rgb)?;
    let (width, height) = processor.smart_size(raster.width, raster.height)?;
    let raster = raster.resize(width, height, Filter::Bicubic);
    let Processor { patch_size, merge_size, temporal_patch_size, .. } = *processor;
    let levels = processor.normalised_levels();
    let (grid_h, grid_w) = (height / patch_size, width / patch_size);
    let mut values = Vec::with_capacity(grid_h * grid_w * processor.patch_values());
    for (row, column) in merge_order(grid_h, grid_w, merge_size) {
        for (channel, level) in levels.iter().enumerate() {
            let frame = values.len();
            for y in row * patch_size..(row + 1) * patch_size {
                let first = (y * width + column * patch_size) * 3;
                let pixels = raster.pixels[first..first + 3 * patch_size].chunks_exact(3);
                values.extend(pixels.map(|pixel| level[usize::from(pixel[channel])]));
            }
            for _ in 1..temporal_patch_size {
                values.extend_from_within(frame..frame + patch_size * patch_size);
            }
        }
    }
    Ok(Patches { values, grid_thw: [1, grid_h, grid_w] })
}

/// Rows and columns of the patches: merge block after merge block, row by row within and between them.
fn merge_order(grid_h: usize, grid_w: usize, merge: usize) -> impl Iterator<Item = (usize, usize)> {
    let blocks =
        (0..grid_h).step_by(merge).flat_map(move |y| (0..grid_w).step_by(merge).map(move |x| (y, x)));
    blocks.flat_map(move |(y, x)| (0..merge).flat_map(move |dy| (0..merge).map(move |dx| (y + dy, x + dx))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn small() -> Processor {
        Processor {
            min_pixels: 1,
            max_pixels: 1 << 20,
            patch_size: 1,
            temporal_patch_size: 2,
            merge_size: 2,
            image_mean: [0.0; 3],
            image_std: [1.0; 3],
        }
    }

    fn hub() -> Processor {
        Processor { min_pixels: 3_136, max_pixels: 12_845_056, patch_size: 14, ..small() }
    }

    #[test]
    fn patches_come_block_by_block_and_frames_repeat() {
        let pixels: Vec<u8> = (0..8u8).flat_map(|p| [p, 100 + p, 200 + p]).collect();
        let cut = patches(&Rgb { width: 4, height: 2, pixels }, &small()).unwrap();
        assert_eq!(cut.grid_thw, [1, 2, 4]);
        let levels: Vec<u8> = cut.values.iter().map(|v| (v * 255.0).round() as u8).collect();
        let expected: Vec<u8> = [0u8, 1, 4, 5, 2, 3, 6, 7]
            .iter()
            .flat_map(|&p| [p, p, 100 + p, 100 + p, 200 + p, 200 + p])
            .collect();
        assert_eq!(levels, expected);
    }

    #[test]
    fn sizes_round_half_to_even_blocks() {
        assert_eq!(hub().smart_size(569, 383).unwrap(), (560, 392));
        assert_eq!(hub().smart_size(70, 98).unwrap(), (56, 112), "2.5 and 3.5 blocks");
        assert_eq!(hub().smart_size(5, 5).unwrap(), (56, 56));
        let capped = Processor { max_pixels: 31_360, ..hub() };
        let (width, height) = capped.smart_size(1_000, 700).unwrap();
        assert!((width, height) == (196, 140), "{width} {height}");
    }

    #[test]
    fn unusable_sizes_and_settings_are_errors() {
        let message = |result: Result<(usize, usize)>| result.unwrap_err().to_string();
        assert!(message(hub().smart_size(0, 5)).contains("empty"));
        assert!(hub().smart_size(200, 1).is_ok());
        assert!(message(hub().smart_size(201, 1)).contains("too narrow"));
        let rgb = Rgb { width: 1, height: 1, pixels: vec![0; 3] };
        for broken in [
            Processor { patch_size: 0, ..hub() },
            Processor { merge_size: 0, ..hub() },
            Processor { min_pixels: 0, ..hub() },
            Processor { image_std: [1.0, 0.0, 1.0], ..hub() },
            Processor { min_pixels: usize::MAX, max_pixels: usize::MAX, ..hub() },
        ] {
            assert!(patches(&rgb, &broken).is_err(), "{broken:?}");
        }
    }

    #[test]
    fn json_reads_back_and_ignores_other_fields() {
        let text = hub().to_json().unwrap();
        assert!(text.contains("Qwen2VLImageProcessor"));
        assert_eq!(Processor::from_json(&text).unwrap(), hub());
        let error = format!("{:#}", Processor::from_json("{\"min_pixels\": 1}").unwrap_err());
        assert!(error.contains("missing field `max_pixels`"), "{error}");
    }

    #[test]
    fn newer_files_nest_the_processor_and_call_the_area_size() {
        let fields = r#""patch_size": 14, "temporal_patch_size": 2, "merge_size": 2,
            "image_mean": [0, 0, 0], "image_std": [1, 1, 1]"#;
        for file in [
            format!(
                r#"{{"image_processor": {{"size": {{"shortest_edge": 3136, "longest_edge": 12845056}}, {fields}}}}}"#
            ),
            format!(
                r#"{{"size": {{"min_pixels": 3136, "max_pixels": 12845056}}, "min_pixels": null, {fields}}}"#
            ),
            format!(
                r#"{{"min_pixels": 3136, "max_pixels": 12845056, "size": {{"shortest_edge": 1}}, {fields}}}"#
            ),
        ] {
            assert_eq!(Processor::from_json(&file).unwrap(), hub(), "{file}");
        }
        assert!(Processor::from_json("[]").is_err() && Processor::from_json("{").is_err());
    }
}
