//! `harness rescore`: kept rollouts under other algorithms.

use crate::run::{cell, harness, reference, refused, succeeds};
use serde_json::Value;
use std::path::Path;
use std::process::Command;

fn rescore(run: &Path, variant: &str, more: &[&str]) -> Command {
    let mut command = harness(["rescore"]);
    command.arg(run).args(["--json", "--variant", variant]).args(more);
    command
}

fn line(run: &Path, variant: &str, more: &[&str]) -> Value {
    let output = succeeds(rescore(run, variant, more)).stdout;
    serde_json::from_str(output.lines().last().unwrap()).unwrap()
}

fn of(step: &Value, path: &str) -> f64 {
    step.pointer(path).and_then(Value::as_f64).unwrap_or(f64::NAN)
}

/// The run's own figures come out again, and the arms that differ have another gradient.
#[test]
fn a_run_agrees_with_itself_and_with_what_it_logged() {
    for arm in ["grpo", "dapo", "vppo", "mask_only"] {
        let cell = cell(reference().out(), arm);
        let found = line(&cell, arm, &[]);
        let steps = found["steps"].as_array().unwrap();
        let numbers: Vec<Option<u64>> = steps.iter().map(|step| step["step"].as_u64()).collect();
        assert_eq!(numbers, [Some(1), Some(2)], "the first step and every second of three");
        let metrics = std::fs::read_to_string(cell.join("metrics.jsonl")).unwrap();
        for (step, logged) in steps.iter().zip(metrics.lines()) {
            assert!(
                (of(step, "/cosine") - 1.0).abs() < 1e-12 && of(step, "/same_sign_frac") == 1.0,
                "{step}"
            );
            assert_eq!(step["run"], step["variant"]);
            let logged: Value = serde_json::from_str(logged).unwrap();
            for (found, name) in
                [("/run/kept_frac", "kept_tokens_frac"), ("/run/abs_advantage", "abs_advantage_mean")]
            {
                let logged = of(&logged, &format!("/metrics/{name}"));
                assert!((of(step, found) - logged).abs() < 1e-6, "{arm} {name}: {step} {logged}");
            }
        }
    }
}

#[test]
fn another_algorithm_has_another_gradient() {
    let cell = cell(reference().out(), "dapo");
    let (vppo, mask, all) = (
        line(&cell, "vppo", &[]),
        line(&cell, "mask_only", &[]),
        line(&cell, "mask_only", &["--set", "algorithm.perception.token_filter.fraction=1"]),
    );
    let kept = |found: &Value| of(found, "/steps/0/variant/kept_frac");
    assert!((0.4..0.5).contains(&kept(&vppo)) && kept(&vppo) == kept(&mask) && kept(&all) == 1.0);
    assert!(of(&vppo, "/steps/0/variant/factor_max") > 1.0);
    let cosine = |found: &Value| of(found, "/steps/0/cosine");
    assert!(cosine(&vppo) < 0.99 && cosine(&mask) < 0.99 && (cosine(&all) - 1.0).abs() < 1e-12);
}

#[test]
fn what_cannot_be_rescored_is_refused() {
    let of = |arm: &str| cell(reference().out(), arm);
    refused(rescore(&of("base"), "vppo", &[]), &["base", "nothing was trained"]);
    refused(rescore(&of("dapo"), "base", &[]), &["base", "not trained"]);
    refused(rescore(&of("dapo"), "vpo", &[]), &["vpo", "vppo"]);
    refused(rescore(Path::new("no/such"), "vppo", &[]), &["no/such", "config.json"]);
    refused(rescore(&of("dapo"), "dapo", &["--set", "algorithm.kl.coef=0.01"]), &["KL", "first policy"]);
    let bare = tempfile::tempdir().unwrap();
    std::fs::copy(of("dapo").join("config.json"), bare.path().join("config.json")).unwrap();
    refused(rescore(bare.path(), "vppo", &[]), &["train.record_every"]);
    std::fs::create_dir(bare.path().join("rollouts")).unwrap();
    std::fs::write(bare.path().join("rollouts/step-2.jsonl"), "{}\n").unwrap();
    refused(rescore(bare.path(), "vppo", &[]), &["step-2.jsonl:1"]);
}
