//! Configuration: the files of this repository, and what is refused with which words.

use super::refused;
use anyhow::{Result, ensure};
use harness::config::{Presets, RunConfig, Scale, Setting, Study};
use harness::settings::CorruptionKind;
use serde::{Deserialize, Serialize};
use std::fs;
use std::path::{Path, PathBuf};

/// A small algorithm with an optional part and an alternative.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Rule {
    clip: f64,
    penalty: Option<Penalty>,
    corruption: CorruptionKind,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Penalty {
    tokens: usize,
    factor: f64,
}

impl Presets for Rule {
    const NAMES: &'static [&'static str] = &["plain", "full"];

    fn preset(name: &str) -> Option<Rule> {
        let penalty = match name {
            "plain" => None,
            "full" => Some(Penalty { tokens: 512, factor: 1.0 }),
            _ => return None,
        };
        let corruption = CorruptionKind::Patches { patch_pixels: 14, probability: 0.5 };
        Some(Rule { clip: 0.2, penalty, corruption })
    }

    fn check(&self) -> Result<()> {
        ensure!(self.clip < 1.0, "clip = {}: give less than 1", self.clip);
        Ok(())
    }
}

const STUDY: &str = r#"question = "?"
paper = "none"
base = "full"
seeds = [1]

[settings.train]
steps = 5

[[variants]]
name = "base"
label = "Base"
train = false

[[variants]]
name = "plain"
label = "Plain"
preset = "plain"
settings.train.group_size = 4

[[variants]]
name = "full"
label = "Full"
preset = "full"
[variants.settings.algorithm]
corruption = { name = "noise", std = 189 }
"#;

/// A study file in a folder of its own.
fn written(text: &str) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("mine.toml");
    fs::write(&path, text).unwrap();
    (dir, path)
}

fn load_study(path: &Path) -> Result<Study> {
    Study::load(path.to_str().unwrap())
}

fn resolve(study: &str, variant: &str, sets: &[&str]) -> Result<RunConfig<Rule>> {
    let (_dir, path) = written(study);
    let sets = sets.iter().map(|set| set.parse()).collect::<Result<Vec<Setting>>>()?;
    RunConfig::resolve(&Scale::load("tiny")?, &load_study(&path)?, variant, 3, &sets)
}

#[test]
fn layers_win_in_order() {
    let config = resolve(STUDY, "plain", &[]).unwrap();
    assert_eq!((config.train.steps, config.train.group_size), (5, 4));
    assert_eq!(config.key().to_string(), "tiny/mine/plain/seed-3");
    let sets = ["train.steps=7", "optimizer.learning_rate=1", "train.old_logp=recompute"];
    let changed = resolve(STUDY, "plain", &sets).unwrap();
    let shown: Vec<_> = changed.changes(&config).unwrap().iter().map(ToString::to_string).collect();
    let expected = [
        "optimizer.learning_rate: 0.0003 -> 1.0",
        "train.old_logp: \"rollout\" -> \"recompute\"",
        "train.steps: 5 -> 7",
    ];
    assert_eq!(shown, expected);
    assert_ne!(config.hash().unwrap(), changed.hash().unwrap());
    assert_eq!(config.base_hash().unwrap(), changed.base_hash().unwrap());
    let other_base = resolve(STUDY, "plain", &["world.seed=2"]).unwrap();
    assert_ne!(config.base_hash().unwrap(), other_base.base_hash().unwrap());
    assert_eq!(RunConfig::<Rule>::from_stored(&config.to_value().unwrap()).unwrap(), config);
    let at_scales = "train.group_size = 4\nat.tiny.train.group_size = 5\nat.7b.train.group_size = 6";
    let here = resolve(&STUDY.replace("train.group_size = 4", at_scales), "plain", &[]).unwrap();
    assert_eq!((here.train.steps, here.train.group_size), (5, 5));
    let other_seed = RunConfig { seed: 9, ..config.clone() };
    assert_eq!(other_seed.settings_hash().unwrap(), config.settings_hash().unwrap());
    assert_ne!(here.settings_hash().unwrap(), config.settings_hash().unwrap());
    assert_eq!(other_seed.changes(&config).unwrap(), []);
    assert_ne!(other_seed.hash().unwrap(), config.hash().unwrap());
}

#[test]
fn parts_of_the_algorithm_are_replaced_adapted_and_switched_off() {
    let full = resolve(STUDY, "full", &["algorithm.penalty.tokens=16"]).unwrap().algorithm.unwrap();
    assert_eq!(full.corruption, CorruptionKind::Noise { std: 189.0 });
    assert_eq!(full.penalty, Some(Penalty { tokens: 16, factor: 1.0 }));
    let off = resolve(STUDY, "full", &["algorithm.penalty=none"]).unwrap();
    assert_eq!(off.algorithm.unwrap().penalty, None);
    let untrained = resolve(STUDY, "base", &["algorithm.clip=0.3"]).unwrap();
    assert_eq!(untrained.algorithm, None);
    refused(
        resolve(STUDY, "plain", &["algorithm.penalty.tokens=16"]),
        &["`algorithm.penalty.factor` is missing", "--set algorithm.penalty.tokens=16"],
    );
}

#[test]
fn a_scale_adapts_parts_and_switches_none_on() {
    let tiny = include_str!("../../ablations/scale/tiny.toml");
    let (_dir, scale) = written(&format!("{tiny}\n[algorithm.penalty]\ntokens = 8\n"));
    let scale = Scale::load(scale.to_str().unwrap()).unwrap();
    let (_dir, study) = written(STUDY);
    let study = load_study(&study).unwrap();
    let penalty = |variant| {
        let config = RunConfig::<Rule>::resolve(&scale, &study, variant, 1, &[]).unwrap();
        config.algorithm.unwrap().penalty
    };
    assert_eq!(penalty("full"), Some(Penalty { tokens: 8, factor: 1.0 }));
    assert_eq!(penalty("plain"), None);
}

#[test]
fn unknown_keys_name_file_line_and_nearest() {
    let (key, typo) = ("settings.train.group_size = 4", "settings.train.group_siz = 4");
    refused(
        resolve(&STUDY.replace(key, typo), "plain", &[]),
        &["unknown setting `train.group_siz`", "mine.toml:18", "did you mean `group_size`"],
    );
    refused(
        resolve(STUDY, "plain", &["train.stepz=1"]),
        &["unknown setting `train.stepz`", "(--set train.stepz=1)", "did you mean `steps`"],
    );
    refused(
        resolve(STUDY, "plain", &["trian.steps=1"]),
        &["unknown setting `trian`", "did you mean `train`", "--set trian.steps=1"],
    );
    refused(
        resolve(STUDY, "full", &["algorithm.corruption.sdt=1"]),
        &["unknown setting `algorithm.corruption.sdt`", "did you mean `std`"],
    );
    let text = STUDY.replace("label = \"Full\"", "lable = \"Full\"");
    refused(
        resolve(&text, "plain", &[]),
        &["unknown setting `variants[2].lable`", "mine.toml:22", "did you mean `label`"],
    );
    refused(resolve(STUDY, "plain", &["seed=4"]), &["`seed` is not a setting", "(--set seed=4)"]);
}

#[test]
fn wrong_types_name_key_expected_and_found() {
    refused(
        resolve(&STUDY.replace("steps = 5", "steps = \"five\""), "plain", &[]),
        &["`train.steps` has the wrong type", "mine.toml:7", "found string \"five\"", "a whole number"],
    );
    refused(
        resolve(STUDY, "plain", &["sampling.top_p=high"]),
        &["`sampling.top_p`", "--set sampling.top_p=high", "found string \"high\", expected a number"],
    );
    refused(resolve(STUDY, "plain", &["train=3"]), &["`train` has the wrong type", "expected a table"]);
    refused(resolve(STUDY, "plain", &["train.steps=1.5"]), &["`train.steps`", "1.5", "a whole number"]);
    refused(resolve(STUDY, "plain", &["model.mrope_section=[1,2]"]), &["`model.mrope_section", "3"]);
    refused(
        resolve(STUDY, "plain", &["train.old_logp=rolout"]),
        &["`train.old_logp` cannot be `rolout`", "did you mean `rollout`"],
    );
    refused(resolve(STUDY, "plain", &["train.steps"]), &["--set train.steps: write key.path=value"]);
}

#[test]
fn values_out_of_range_name_key_value_and_rule() {
    for (set, named) in [
        ("train.group_size=1", "must be 2 or more"),
        ("train.mini_batch_prompts=5", "must divide train.prompts_per_step (32)"),
        ("train.mini_batch_prompts=0", "must divide train.prompts_per_step (32)"),
        ("world.misread=1.5", "from 0 to 1"),
        ("model.heads=6", "must divide model.hidden_size (64)"),
        ("model.kv_heads=3", "must divide model.heads (4)"),
        ("model.mrope_section=[2,2,2]", "must sum to half the head size (8"),
        ("model.vision_heads=32", "a multiple of 4"),
        ("model.vision_full_attention_blocks=[2]", "model.vision_depth is 2"),
        ("model.vision_window_pixels=30", "multiple of 28"),
        ("model.max_pixels=783", "must be model.min_pixels (784) or more"),
        ("model.layers=0", "1 or more"),
        ("warm_start.warmup_steps=6000", "warm_start.steps (5400)"),
        ("warm_start.drill_steps=6000", "warm_start.steps (5400)"),
        ("optimizer.beta2=1", "less than 1"),
        ("optimizer.learning_rate=0", "greater than 0"),
        ("sampling.temperature=0", "greedy responses"),
        ("sampling.top_p=0", "greater than 0 and at most 1"),
        ("eval.sampling.temperature=0", "must be 1 where eval.sampling.temperature is 0"),
        ("algorithm.clip=1.5", "algorithm.clip = 1.5: give less than 1"),
    ] {
        let text = refused(resolve(STUDY, "plain", &[set]), &["settings out of range", named]);
        assert_eq!(text.lines().count(), 2, "one problem: {text}");
    }
    let text = refused(
        resolve(STUDY, "plain", &["world.slip=-1", "train.steps=0"]),
        &["`world.slip` = -1.0 (--set world.slip=-1): is a probability", "`train.steps` = 0"],
    );
    assert_eq!(text.lines().count(), 3, "all problems at once: {text}");
}

#[test]
fn missing_files_settings_and_names_are_told() {
    refused(Study::load("mian"), &["there is no study `mian`", "did you mean `main`", "path"]);
    refused(Scale::load("small"), &["there is no scale `small`", "known here: `tiny`"]);
    refused(Study::load("no/such/study.toml"), &["cannot read the study file no/such/study.toml"]);
    refused(resolve(STUDY, "palin", &[]), &["study `mine` has no variant `palin`", "did you mean `plain`"]);
    let text = STUDY.replace("preset = \"plain\"", "preset = \"plane\"");
    refused(resolve(&text, "plain", &[]), &["preset `plane`", "did you mean `plain`"]);
    refused(resolve(&STUDY.replace("base = \"full\"", ""), "plain", &[]), &["the setting `base` is missing"]);
    refused(resolve("question = ", "plain", &[]), &["mine.toml", "line 1"]);
    let tiny = include_str!("../../ablations/scale/tiny.toml");
    let (_dir, path) = written(&tiny.replace("top_p = 0.99", ""));
    let scale = Scale::load(path.to_str().unwrap()).unwrap();
    let study = Study::load("main").unwrap();
    let resolved = RunConfig::<Rule>::resolve(&scale, &study, "base", 1, &[]);
    refused(resolved, &["the setting `sampling.top_p` is missing", "mine.toml:"]);
}

#[test]
fn studies_that_contradict_themselves_are_refused() {
    for (from, to, named) in [
        ("base = \"full\"", "base = \"ful\"", "did you mean `full`"),
        ("seeds = [1]", "seeds = []", "at least one"),
        ("seeds = [1]", "seeds = [1, 1]", "distinct"),
        ("name = \"plain\"", "name = \"full\"", "same name"),
        ("train = false", "", "`preset` or `train = false`"),
        ("preset = \"plain\"", "preset = \"plain\"\ntrain = false", "and not both"),
        ("preset = \"plain\"", "preset = \"plain\"\nof = \"ful\"", "did you mean `full`"),
        ("preset = \"plain\"", "preset = \"plain\"\nof = \"plain\"", "`of` itself"),
        ("preset = \"full\"", "preset = \"full\"\nof = \"plain\"", "is the base"),
        ("preset = \"full\"", "preset = \"full\"\nchanges = [\"clip\"]", "it has none"),
    ] {
        let (_dir, path) = written(&STUDY.replacen(from, to, 1));
        refused(load_study(&path), &["mine.toml", named]);
    }
}

#[test]
fn the_repositorys_files_are_in_order() {
    let study = Study::load("main").unwrap();
    let names: Vec<&str> = study.variants.iter().map(|variant| variant.name.as_str()).collect();
    assert_eq!(names, ["base", "grpo", "dapo", "vppo", "reweight_only", "mask_only"]);
    assert_eq!((study.base.as_str(), study.seeds.len()), ("dapo", 1));
    let table = include_str!("../../results/paper/tables.csv");
    for variant in &study.variants {
        assert!(variant.paper.iter().any(|paper| paper.size == "7B"), "{}", variant.name);
        for paper in &variant.paper {
            let row = format!("{},{},{},", paper.table, paper.size, paper.row);
            assert!(table.lines().any(|line| line.starts_with(&row)), "{row}");
        }
    }
    for scale in Scale::names() {
        let scale = Scale::load(scale).unwrap();
        let base = RunConfig::<Rule>::resolve(&scale, &study, "base", 1, &[]).unwrap();
        assert_eq!(base.algorithm, None);
    }
}
