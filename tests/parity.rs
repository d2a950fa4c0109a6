//! The model against transformers, on checkpoints in the hub's layouts.
//!
//! Every folder `qwen2_5_vl_*` of `tests/golden/parity` and of `HARNESS_EXTRA_GOLDEN` holds a checkpoint, pictures, and
//! `expected.json`: what transformers (weights widened to float32, eager attention) computed on them. Text, ids and
//! grids must be the same, log-probabilities and entropies close.

use crate::image::{extra_golden, own_golden};
use harness::image::AreaRule;
use harness::model::{Prompt, Tree};
use harness::rollout::Policy;
use harness::types::{Example, Picture};
use serde::Deserialize;
use std::path::{Path, PathBuf};

/// Largest allowed difference of a log-probability or an entropy, in nats.
const TOLERANCE: f64 = 1e-3;

/// The same for the project's own checkpoint, which is shallow.
const OWN_TOLERANCE: f64 = 2e-5;

/// What `expected.json` holds, as far as it is compared.
#[derive(Deserialize)]
struct Expected {
    min_pixels: usize,
    max_pixels: usize,
    instruction: String,
    samples: Vec<Sample>,
}

#[derive(Deserialize)]
struct Sample {
    images: Vec<String>,
    prompt: String,
    response: String,
    image_grid_thw: Vec<[usize; 3]>,
    prompt_ids: Vec<u32>,
    response_ids: Vec<u32>,
    logp: Vec<f64>,
    entropy: Vec<f64>,
}

/// Checkpoint folders in `place`, in the order of their names.
pub fn checkpoints(place: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(place).unwrap_or_else(|e| panic!("{}: {e}", place.display()));
    let mut folders: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    folders.retain(|folder| {
        let name = folder.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with("qwen2_5_vl_") && folder.join("config.json").exists()
    });
    folders.sort();
    folders
}

fn example(folder: &Path, id: usize, sample: &Sample) -> Example {
    let picture = |file: &String| Picture::Encoded(std::fs::read(folder.join(file)).unwrap().into());
    Example {
        id: id.to_string(),
        benchmark: "golden".into(),
        cluster: id.to_string(),
        problem: sample.prompt.clone(),
        answer: String::new(),
        images: sample.images.iter().map(picture).collect(),
    }
}

fn largest_difference(got: &[f32], want: &[f64]) -> f64 {
    assert_eq!(got.len(), want.len());
    got.iter().zip(want).map(|(&got, want)| (f64::from(got) - want).abs()).fold(0.0, f64::max)
}

/// Checks the ids and gives the prompt and the response.
fn encode(policy: &Policy, folder: &Path, id: usize, sample: &Sample) -> (Prompt, Vec<u32>) {
    let renderer = &policy.renderer;
    let prompt = renderer.prompt(&example(folder, id, sample)).unwrap();
    let grids: Vec<[usize; 3]> = prompt.pictures.iter().map(|picture| picture.grid_thw).collect();
    assert_eq!(grids, sample.image_grid_thw, "sample {id}");
    assert_eq!(prompt.ids, sample.prompt_ids, "sample {id}");
    let mut response = renderer.tokenizer.encode(&sample.response).unwrap();
    response.extend(renderer.end.first());
    assert_eq!(response, sample.response_ids, "sample {id}");
    (prompt, response)
}

/// Compares one checkpoint; gives the largest differences of log-probability and entropy.
fn compare(folder: &Path) -> (f64, f64) {
    let text = std::fs::read_to_string(folder.join("expected.json")).unwrap();
    let expected: Expected = serde_json::from_str(&text).unwrap();
    let area = AreaRule { min_pixels: expected.min_pixels, max_pixels: expected.max_pixels };
    let instruction = expected.instruction.trim_start_matches('\n');
    let policy = Policy::open(folder, instruction, Some(area)).unwrap();
    let encoded: Vec<(Prompt, Vec<u32>)> =
        (0..).zip(&expected.samples).map(|(id, sample)| encode(&policy, folder, id, sample)).collect();
    let trees: Vec<Tree<'_>> =
        encoded.iter().map(|(prompt, response)| Tree { prompt, responses: vec![response] }).collect();
    let scores = policy.model.score(&trees).unwrap();
    let (mut logp, mut entropy) = (0.0f64, 0.0f64);
    for (i, sample) in expected.samples.iter().enumerate() {
        let of_sample = (
            largest_difference(&scores.logp[i], &sample.logp),
            largest_difference(&scores.entropy[i], &sample.entropy),
        );
        println!("sample {i}: logp within {:.1e}, entropy within {:.1e}", of_sample.0, of_sample.1);
        (logp, entropy) = (logp.max(of_sample.0), entropy.max(of_sample.1));
    }
    (logp, entropy)
}

fn check(folder: &Path, tolerance: f64) {
    let (logp, entropy) = compare(folder);
    println!("{}: logp within {logp:.1e}, entropy within {entropy:.1e}", folder.display());
    assert!(logp.max(entropy) < tolerance, "{}: {logp} {entropy}", folder.display());
}

#[test]
fn golden_model() {
    let own = checkpoints(&own_golden().join("parity"));
    assert_eq!(own.len(), 1, "{own:?}");
    own.iter().for_each(|folder| check(folder, OWN_TOLERANCE));
    if let Some(extra) = extra_golden() {
        checkpoints(&extra).iter().for_each(|folder| check(folder, TOLERANCE));
    }
}
