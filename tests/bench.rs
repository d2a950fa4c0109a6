//! `harness bench` on small shapes: every field of its line, exact lengths, what it refuses.

use crate::run::{finish, harness, refused, succeeds};
use harness::cost::flops::{Sequences, Vision, forward, update};
use harness::model::Compute;
use harness::model::checkpoint::{PictureMarks, open_or_fill};
use harness::settings::{CorruptionScope, DecodeLimits, PixelRange};
use harness::speed::{Bench, Phase, Shape, Timings};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A checkpoint with weights: 2 layers, width 32.
fn small() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/parity/qwen2_5_vl_nested")
}

fn bench(model: &Path, more: &[&str]) -> Command {
    let mut command = harness(["bench", "--prompts", "2", "--group", "2", "--grid", "4x6", "--repeats", "2"]);
    command.args(["--prompt-tokens", "5", "--response-tokens", "3", "--micro", "3", "--peak-tflops", "0.05"]);
    command.arg("--model").arg(model).args(more);
    command
}

/// The line of JSON that ends the output.
fn line(model: &Path, more: &[&str]) -> Value {
    let output = succeeds(bench(model, &[more, &["--json"]].concat())).stdout;
    serde_json::from_str(output.lines().last().unwrap()).unwrap()
}

#[test]
fn the_line_has_the_fields_of_the_step_in_pytorch_and_ours() {
    let line = line(&small(), &[]);
    for (field, value) in [
        ("prompts", 2),
        ("group", 2),
        ("vision_tokens", 6),
        ("prompt_tokens", 12),
        ("response_tokens", 3),
        ("repeats", 2),
        ("micro", 3),
    ] {
        assert_eq!(line[field], value, "{field}");
    }
    for (field, value) in [
        ("device", "cpu"),
        ("dtype", "float32"),
        ("weights", "checkpoint"),
        ("grid", "4x6"),
        ("corrupted", "response"),
        ("peak_flops_source", "--peak-tflops"),
    ] {
        assert_eq!(line[field], value, "{field}");
    }
    assert!(line["peer"].as_str().unwrap().starts_with("harness "));
    assert!(line["command"].as_str().unwrap().contains("bench --prompts 2"));
    let number = |value: &Value| value.as_f64().unwrap_or_else(|| panic!("{value} in {line}"));
    assert!(number(&line["threads"]) >= 1.0 && number(&line["params"]) > 1e4);
    let rounds = line["rounds"].as_array().unwrap();
    assert_eq!(rounds.len(), 2);
    let mut step = 0.0;
    for phase in ["rollout", "score", "corrupt", "update"] {
        let (seconds, flops) = (number(&line["seconds"][phase]), number(&line["flops"][phase]));
        assert_eq!(seconds, rounds.iter().map(|round| number(&round[phase])).fold(0.0, f64::max), "{phase}");
        let mfu = flops / seconds / 0.05e12;
        assert!((number(&line["mfu"][phase]) / mfu - 1.0).abs() < 1e-9, "{phase}");
        step += seconds;
    }
    assert!((number(&line["step_seconds"]) - step).abs() < 1e-9);
    let rate = 12.0 / number(&line["seconds"]["rollout"]);
    assert!((number(&line["rollout_tokens_per_s"]) / rate - 1.0).abs() < 1e-9);
    assert!((number(&line["step_tokens_per_s"]) * step / 12.0 - 1.0).abs() < 1e-9);
    if cfg!(target_os = "linux") {
        assert!(number(&line["peak_bytes"]) > 1e6);
    }
}

#[test]
fn a_directory_with_only_a_configuration_is_filled() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(small().join("config.json"), folder.path().join("config.json")).unwrap();
    let line = line(folder.path(), &["--phases", "score,update", "--corrupted", "group"]);
    assert_eq!(line["weights"], "random");
    assert_eq!(line["params"], self::line(&small(), &["--phases", "score"])["params"]);
    assert_eq!(line["seconds"].as_object().unwrap().keys().collect::<Vec<_>>(), ["score", "update"]);
    assert_eq!(line["rollout_tokens_per_s"], Value::Null);
    let again = self::line(folder.path(), &["--phases", "update", "--recompute", "--max-sequences", "1"]);
    assert_eq!((&again["recompute"], &again["compute"]["max_sequences"]), (&true.into(), &1.into()));
    assert_eq!(again["flops"]["update"], line["flops"]["update"], "recomputation is not counted");
    let (first, _) = open_or_fill(folder.path(), 1, &Compute::cpu()).unwrap();
    let (again, own) = open_or_fill(folder.path(), 1, &Compute::cpu()).unwrap();
    assert!(!own);
    assert_eq!(first.to_bytes().unwrap(), again.to_bytes().unwrap());
}

#[test]
fn the_table_names_its_formula_and_its_peak() {
    let finished = finish(bench(&small(), &["--corrupted", "group"]));
    for named in
        ["rollout", "GFLOP/s", "MFU %", "peak memory", "50.0 GFLOP/s (--peak-tflops)", "2 x matrix weights"]
    {
        assert!(finished.stdout.contains(named), "{named}: {}", finished.stdout);
    }
    assert!(finished.stderr.contains("warm-up: rollout") && finished.stderr.contains("round 2: update"));
}

#[test]
fn what_cannot_be_measured_is_refused() {
    let model = small();
    let no = |more: &[&str], named: &[&str]| refused(bench(&model, more), named);
    let odd = |grid: &str, named: &str| {
        let mut command = harness(["bench", "--grid", grid, "--model"]);
        command.arg(&model);
        refused(command, &[named]);
    };
    odd("3x4", "3x4");
    odd("0x4", "even");
    for size in ["--prompts", "--group", "--prompt-tokens", "--response-tokens", "--micro", "--repeats"] {
        let mut command = harness(["bench", size, "0", "--model"]);
        command.arg(&model);
        refused(command, &[size.trim_start_matches("--"), "at least 1"]);
    }
    no(&["--dtype", "bf16"], &["compute.dtype", "f32", "compute.device"]);
    no(&["--gradient-dtype", "bf16"], &["compute.gradient_dtype", "f32", "compute.device"]);
    no(&["--attention", "flash"], &["compute.attention", "compute.device"]);
    for (flags, named) in [
        (&["--optimizer-state", "bf16-kahan"], "compute.optimizer_state"),
        (&["--gradient-dtype", "bf16"], "compute.gradient_dtype"),
        (&["--attention", "flash"], "compute.attention"),
    ] {
        no(&[&["--device", "cuda", "--dtype", "f32"], &flags[..]].concat(), &[named]);
    }
    if cfg!(not(feature = "cuda")) {
        no(&["--device", "cuda"], &["--features cuda"]);
    }
    refused(bench(Path::new("no/such"), &[]), &["--model", "no/such", "config.json"]);
    for wrong in [["--grid", "8"], ["--phases", "rollouts"]] {
        let mut command = harness(["bench", "--model", "x"]);
        command.args(wrong);
        assert_eq!(finish(command).code, Some(2), "{wrong:?}");
    }
    let mut command = harness(["bench", "--peak-tflops", "0", "--model"]);
    command.arg(&model);
    refused(command, &["--peak-tflops"]);
}

/// Peak memory of a process that does only this, in bytes. Its allocator gives back what is freed: glibc's otherwise
/// keeps up to a third more, depending on which thread freed what.
fn peak_of(phase: &str, prompts: u64, group: u64, more: &[&str]) -> (f64, f64) {
    let (prompts, group, micro) = (prompts.to_string(), group.to_string(), (prompts * group).to_string());
    let mut command = harness(["bench", "--phases", phase, "--repeats", "1", "--json", "--peak-tflops", "1"]);
    command.args(["--prompts", &prompts, "--group", &group, "--micro", &micro, "--model"]).arg(small());
    command.args(more).env("MALLOC_ARENA_MAX", "1").env("MALLOC_MMAP_THRESHOLD_", "131072");
    let output = succeeds(command).stdout;
    let line: Value = serde_json::from_str(output.lines().last().unwrap()).unwrap();
    (line["peak_bytes"].as_f64().unwrap(), line["planned_bytes"].as_f64().unwrap())
}

/// What 256 responses take beyond one, measured and by formula: scoring and updates within a tenth; sampling, whose parts
/// are not all there at the same moment, at most three tenths below.
#[test]
#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn memory_is_what_the_formula_says() {
    let text = ["--grid", "4x4", "--prompt-tokens", "123", "--response-tokens", "200"];
    let pictures = ["--grid", "24x24", "--prompt-tokens", "4", "--response-tokens", "2"];
    let recompute = |shape: [&'static str; 6]| [&shape[..], &["--recompute"]].concat();
    for (phase, more) in [
        ("update", text.to_vec()),
        ("update", recompute(text)),
        ("update", pictures.to_vec()),
        ("update", recompute(pictures)),
        ("score", text.to_vec()),
        ("score", pictures.to_vec()),
        ("rollout", text.to_vec()),
        ("rollout", pictures.to_vec()),
    ] {
        let ((many, planned_many), (one, planned_one)) =
            (peak_of(phase, 32, 8, &more), peak_of(phase, 1, 1, &more));
        let (measured, predicted) = (many - one, planned_many - planned_one);
        let ratio = measured / predicted;
        println!("{phase} {more:?}: measured {measured} / predicted {predicted} = {ratio:.3}");
        let least = if phase == "rollout" { 0.7 } else { 0.9 };
        assert!((least..1.1).contains(&ratio), "{phase} {more:?}: {measured} / {predicted} = {ratio}");
    }
}

fn shape(corrupted: CorruptionScope) -> Shape {
    Shape {
        prompts: 3,
        group: 4,
        grid: [4, 6],
        prompt_tokens: 5,
        response_tokens: 7,
        micro: 5,
        corrupted,
        phases: Phase::ALL.to_vec(),
    }
}

/// The operations of a phase are those of the formula for its shapes, whatever the micro-batch.
#[test]
fn operations_are_those_of_the_formula() {
    let (model, _) = open_or_fill(&small(), 1, &Compute::cpu()).unwrap();
    let sizes = model.config().to_settings(PixelRange { min_pixels: 1, max_pixels: 4 * 6 * 196 }).unwrap();
    let vocab = model.config().text.vocab_size;
    let vision = Vision { patches: 24, window_pairs: 24 * 24, picture_pairs: 24 * 24 };
    let once = Sequences { prompts: 3, group: 4, prompt_tokens: 12, response_tokens: 7, vision };
    let apart = Sequences { prompts: 12, group: 1, ..once };
    for (scope, corrupted) in [(CorruptionScope::Response, apart), (CorruptionScope::Group, once)] {
        let marks = PictureMarks::open(&small()).unwrap();
        let flops = Bench::new(model.clone(), &marks, shape(scope), DecodeLimits::default())
            .unwrap()
            .flops()
            .unwrap();
        let of = |batch| forward(&sizes, vocab, batch).total();
        assert_eq!(flops[&Phase::Rollout], of(&once));
        assert_eq!(flops[&Phase::Score], of(&once));
        assert_eq!(flops[&Phase::Corrupt], of(&corrupted));
        assert_eq!(flops[&Phase::Update], update(&sizes, vocab, &once));
    }
}

/// Micro-batches that cut groups, under either corruption; every round reports every phase.
#[test]
fn every_phase_of_every_round_is_told() {
    for scope in [CorruptionScope::Response, CorruptionScope::Group] {
        let (model, _) = open_or_fill(&small(), 1, &Compute::cpu()).unwrap();
        let mut bench =
            Bench::new(model, &PictureMarks::open(&small()).unwrap(), shape(scope), DecodeLimits::default())
                .unwrap();
        let mut told = vec![];
        let timings = bench.run(2, |round, phase, seconds| told.push((round, phase, seconds))).unwrap();
        let names: Vec<_> = told.iter().map(|&(round, phase, _)| (round, phase)).collect();
        let expected: Vec<_> = (0..3).flat_map(|round| Phase::ALL.map(|phase| (round, phase))).collect();
        assert_eq!(names, expected);
        assert!(told.iter().all(|told| told.2 > 0.0));
        assert_eq!(timings.rounds.len(), 2);
        assert_eq!(timings.rounds[1][&Phase::Update], told[11].2);
    }
}

#[test]
fn medians_are_per_phase() {
    let round = |score, update| BTreeMap::from([(Phase::Score, score), (Phase::Update, update)]);
    let timings = Timings { rounds: vec![round(3.0, 1.0), round(1.0, 9.0), round(2.0, 2.0)] };
    assert_eq!(timings.median(Phase::Score), Some(2.0));
    assert_eq!(timings.median(Phase::Rollout), None);
    assert_eq!(timings.step(), 4.0);
}
