//! The smoke study from nothing to tables: the same bytes whatever happens on the way.

use crate::run::{
    ARMS, assert_same, cell, files, finish, reference, refused, start, study, succeeds, wait_for,
};
use harness::rng::{Purpose, Stream, stream};
use harness::store::{CellKey, StepLine, Store};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// Files that tell of the machine, the clock and the process, not of the result.
const INCIDENTAL: [&str; 3] = ["provenance.json", "timing.jsonl", ".lock"];

/// The page tells the time and the machine of each run.
const PAGE: [&str; 1] = [".html"];

/// Fails where the cells of `arms` are not the reference's to the byte: settings, figures, completions, final
/// weights, and the two newest checkpoints with weights and optimiser state.
#[track_caller]
fn assert_same_cells(out: &Path, arms: &[&str]) {
    for arm in arms {
        assert_same(&cell(reference().out(), arm), &cell(out, arm), &INCIDENTAL);
    }
}

fn steps(arm: &str) -> Vec<StepLine> {
    let key = CellKey { scale: "smoke".into(), study: "main".into(), variant: arm.into(), seed: 1 };
    let store = Store::open(reference().out().join("runs")).unwrap();
    store.read_only(&key).unwrap().metrics().unwrap()
}

#[test]
fn another_folder_and_other_thread_counts_give_the_same_bytes() {
    let arms = ["base", "dapo", "vppo"];
    let expected = reference().tables_of(&arms);
    for threads in ["1", "2"] {
        let folder = tempfile::tempdir().unwrap();
        let mut command = study("reproduce", folder.path(), &["--variants", &arms.join(",")]);
        command.env("RAYON_NUM_THREADS", threads);
        succeeds(command);
        assert_same_cells(folder.path(), &arms);
        assert_same(&expected.path().join("results"), &folder.path().join("results"), &PAGE);
        let artifacts = "runs/artifacts/base";
        let except = ["provenance.json", "manifest.json", ".lock"];
        assert_same(&reference().out().join(artifacts), &folder.path().join(artifacts), &except);
    }
}

/// Kills a run, starts it again, until it has been killed ten times; a run that ends in between is checked and
/// begun anew. The moments are drawn over the time a whole run takes.
#[test]
fn ten_kills_change_no_byte() {
    let arms = ["base", "dapo", "vppo"];
    let reproduce = |out: &Path| study("reproduce", out, &["--variants", &arms.join(",")]);
    let expected = reference().tables_of(&arms);
    let check = |out: &Path| {
        assert_same_cells(out, &arms);
        assert_same(&expected.path().join("results"), &out.join("results"), &PAGE);
    };
    let longest = reference().elapsed.mul_f64(0.2);
    let mut folder = tempfile::tempdir().unwrap();
    let mut moments: Stream = stream(1, Purpose::World, &["kill".into()]);
    let mut kills = 0;
    while kills < 10 {
        let mut child = start(reproduce(folder.path()));
        std::thread::sleep(Duration::from_millis(20) + longest.mul_f64(moments.uniform()));
        child.kill().unwrap();
        match child.wait().unwrap().code() {
            None => kills += 1,
            Some(code) => {
                assert_eq!(code, 0, "a run that goes on after a kill must not fail");
                check(folder.path());
                folder = tempfile::tempdir().unwrap();
            }
        }
    }
    succeeds(reproduce(folder.path()));
    check(folder.path());
}

#[test]
fn an_interrupted_run_says_so_and_goes_on() {
    let folder = reference().with_base();
    let reproduce = || study("reproduce", folder.path(), &["--variants", "grpo"]);
    let mut child = reproduce();
    child.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::piped());
    let child = child.spawn().unwrap();
    wait_for(&cell(folder.path(), "grpo").join("metrics.jsonl"));
    let signal = Command::new("sh").args(["-c", &format!("kill -INT {}", child.id())]).status().unwrap();
    assert!(signal.success());
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(130), "{said}");
    assert!(said.contains("the same command goes on"), "{said}");
    assert!(!cell(folder.path(), "grpo").join("done.json").exists());
    succeeds(reproduce());
    assert_same_cells(folder.path(), &["grpo"]);
}

#[test]
fn tables_are_made_from_the_stored_lines_alone() {
    let folder = reference().whole();
    let results = folder.path().join("results");
    fs::remove_dir_all(&results).unwrap();
    succeeds(study("report", folder.path(), &[]));
    assert_same(&reference().out().join("results"), &results, &[]);

    let samples = cell(folder.path(), "vppo").join("samples.jsonl");
    let text = fs::read_to_string(&samples).unwrap();
    let (from, to) =
        if text.contains("\"wrong\"") { ("\"wrong\"", "\"correct\"") } else { ("\"correct\"", "\"wrong\"") };
    let other = text.replacen(from, to, 1);
    fs::write(&samples, &other).unwrap();
    refused(study("report", folder.path(), &[]), &["samples.jsonl has changed", "done.json"]);

    // The way out that the error names.
    fs::remove_file(cell(folder.path(), "vppo").join("done.json")).unwrap();
    succeeds(study("reproduce", folder.path(), &[]));
    assert_eq!(fs::read_to_string(&samples).unwrap(), other, "nothing is evaluated anew");
    for name in ["main.csv", "main.items.csv", "main.md"] {
        let (a, b) = (reference().out().join("results/smoke").join(name), results.join("smoke").join(name));
        assert_ne!(fs::read(a).unwrap(), fs::read(b).unwrap(), "{name}: one verdict more must be seen");
    }
}

/// A change of any one byte of the samples is noticed; the bytes are drawn over the whole file.
#[test]
fn no_line_of_the_samples_can_change_unnoticed() {
    let folder = reference().whole();
    let samples = cell(folder.path(), "grpo").join("samples.jsonl");
    let bytes = fs::read(&samples).unwrap();
    let mut draws: Stream = stream(1, Purpose::World, &["byte".into()]);
    let store = Store::open(folder.path().join("runs")).unwrap();
    let key = CellKey { scale: "smoke".into(), study: "main".into(), variant: "grpo".into(), seed: 1 };
    let stored = store.read_only(&key).unwrap();
    assert!(stored.samples().unwrap().is_some());
    for _ in 0..100 {
        let mut changed = bytes.clone();
        let at = draws.below(bytes.len());
        changed[at] = if bytes[at] == b'1' { b'2' } else { b'1' };
        fs::write(&samples, changed).unwrap();
        let error = format!("{:#}", stored.samples().unwrap_err());
        assert!(error.contains("samples.jsonl has changed"), "byte {at}: {error}");
    }
    fs::write(&samples, &bytes[..bytes.len() - 1]).unwrap();
    refused(study("report", folder.path(), &[]), &["samples.jsonl", "grpo"]);
}

#[test]
fn a_finished_study_changes_nothing() {
    let folder = reference().whole();
    let before = files(folder.path());
    let again = succeeds(study("reproduce", folder.path(), &[]));
    assert_eq!(again.stderr.matches("already done").count(), ARMS.len(), "{}", again.stderr);
    let after = files(folder.path());
    assert!(before == after, "a file was changed or added");
}

/// All arms begin with the same weights. Those with the same filter therefore draw the same first batch, to the
/// last bit of its entropy, if questions and sampling noise are shared.
#[test]
fn arms_share_questions_and_sampling_noise() {
    let first = |arm| {
        let mut figures = steps(arm).remove(0).metrics;
        let shared =
            ["correct_frac", "draws", "entropy", "kept_groups_frac", "sampled_tokens", "train_groups"];
        figures.retain(|name, _| shared.contains(&name.as_str()));
        assert_eq!(figures.len(), shared.len(), "{figures:?}");
        figures
    };
    for arm in ["vppo", "reweight_only", "mask_only"] {
        assert_eq!(first(arm), first("dapo"), "{arm}");
    }
}

#[test]
fn every_arm_learns_and_sampler_and_trainer_agree() {
    for arm in ARMS.into_iter().filter(|arm| *arm != "base") {
        let steps = steps(arm);
        assert_eq!(steps.iter().map(|s| s.step).collect::<Vec<_>>(), [1, 2, 3], "{arm}");
        let figure = |step: &BTreeMap<String, f64>, name: &str| step[name];
        for step in &steps {
            assert!(figure(&step.metrics, "logp_gap_max") <= 1e-4, "{arm}: {step:?}");
        }
        assert!(steps.iter().any(|s| figure(&s.metrics, "grad_norm") > 0.0), "{arm}: {steps:?}");
    }
}

#[test]
fn final_weights_differ_between_arms() {
    let weights = |arm: &str| fs::read(cell(reference().out(), arm).join("model/model.safetensors")).unwrap();
    let arms: Vec<Vec<u8>> = ARMS.iter().filter(|arm| **arm != "base").map(|arm| weights(arm)).collect();
    for (i, a) in arms.iter().enumerate() {
        assert!(arms[i + 1..].iter().all(|b| a != b), "two arms ended with the same weights");
    }
}

#[test]
fn other_settings_in_the_same_folder_are_refused() {
    let folder = reference().whole();
    let more = ["--variants", "grpo", "--set", "optimizer.learning_rate=0.002"];
    let named = ["other settings", "optimizer.learning_rate", "--out"];
    refused(study("reproduce", folder.path(), &more), &named);
    let finished = finish(study("report", folder.path(), &more));
    assert_eq!(finished.code, Some(1), "{}", finished.stdout);
}
