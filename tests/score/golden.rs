//! Scores against transformers' figures, on the checkpoints `qwen2_5_vl_*` of `tests/golden/parity` and of
//! `HARNESS_EXTRA_GOLDEN`, by the command line.

use super::write_rows;
use crate::image::{extra_golden, own_golden};
use crate::parity::checkpoints;
use crate::run::{harness, succeeds};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};

/// Largest difference of numbers in two JSON lists of one length.
fn difference(got: &Value, want: &Value) -> f64 {
    let numbers = |list: &Value| -> Vec<f64> { serde_json::from_value(list.clone()).unwrap() };
    let (got, want) = (numbers(got), numbers(want));
    assert_eq!(got.len(), want.len());
    got.iter().zip(want).map(|(got, want)| (got - want).abs()).fold(0.0, f64::max)
}

/// Scores the samples of a checkpoint's `expected.json` by the command line; gives what disagrees.
fn disagreements(folder: &Path) -> Vec<String> {
    let expected: Value =
        serde_json::from_str(&fs::read_to_string(folder.join("expected.json")).unwrap()).unwrap();
    let instruction = expected["instruction"].as_str().unwrap().trim_start_matches('\n');
    let samples = expected["samples"].as_array().unwrap();
    let row = |sample: &Value| {
        let files: Vec<String> = serde_json::from_value(sample["images"].clone()).unwrap();
        let images: Vec<PathBuf> =
            files.iter().map(|file| folder.join(file).canonicalize().unwrap()).collect();
        json!({"images": images, "prompt": sample["prompt"], "response": sample["response"]})
    };
    let place = tempfile::tempdir().unwrap();
    let (input, output) = (place.path().join("rows.jsonl"), place.path().join("scores.jsonl"));
    write_rows(&input, &samples.iter().map(row).collect::<Vec<_>>());
    let run = |more: &[&str]| -> Vec<Value> {
        let mut run = harness(["score", "--model"]);
        run.arg(folder).arg("--input").arg(&input).arg("--output").arg(&output).args(more);
        run.args(["--instruction", instruction]);
        for (flag, key) in [("--min-pixels", "min_pixels"), ("--max-pixels", "max_pixels")] {
            run.arg(flag).arg(expected[key].to_string());
        }
        succeeds(run);
        let written = fs::read_to_string(&output).unwrap();
        written.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let lines = run(&[]);
    assert_eq!(lines.len(), samples.len());
    for (line, plain) in run(&["--corruption", "patches"]).iter().zip(&lines) {
        assert!(difference(&line["logp"], &plain["logp"]) < 1e-3);
        for (name, values) in line["dependency"].as_object().unwrap() {
            let values: Vec<f64> = serde_json::from_value(values.clone()).unwrap();
            let zero = values.iter().all(|&value| value == 0.0);
            assert_eq!(zero, line["image_grid_thw"] == json!([]), "{name}: {values:?}");
        }
    }
    let mut found = Vec::new();
    for (i, (line, sample)) in lines.iter().zip(samples).enumerate() {
        for key in ["image_grid_thw", "prompt_ids", "response_ids"] {
            assert_eq!(line[key], sample[key], "sample {i}: {key}");
        }
        let [logp, entropy] = ["logp", "entropy"].map(|key| difference(&line[key], &sample[key]));
        let argmax = sample["argmax"].is_null() || line["argmax"] == sample["argmax"];
        println!("sample {i} {}: logp within {logp:.1e}, entropy within {entropy:.1e}", sample["images"]);
        if logp.max(entropy) >= 1e-3 || !argmax {
            found.push(format!(
                "sample {i} with {}: logp {logp:.1e}, entropy {entropy:.1e}",
                sample["images"]
            ));
        }
    }
    found
}

#[test]
fn golden_scores() {
    let mut folders = checkpoints(&own_golden().join("parity"));
    folders.extend(extra_golden().iter().flat_map(|extra| checkpoints(extra)));
    folders.retain(|folder| folder.join("expected.json").exists());
    assert!(!folders.is_empty());
    let found: Vec<String> = folders.iter().flat_map(|folder| disagreements(folder)).collect();
    assert!(found.is_empty(), "{}", found.join("\n"));
}
