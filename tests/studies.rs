//! The studies of `ablations/`: what their arms change, where the paper has them, and which runs they share.

use crate::run::{assert_same, cell, files, finish, harness, reference, refused, study, succeeds};
use harness::algo::Algorithm;
use harness::config::{RunConfig, Scale, Study, check_changes};
use harness::report::PaperTables;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn studies() -> impl Iterator<Item = Study> {
    Study::names().into_iter().map(|name| Study::load(name).unwrap())
}

fn snapshot(name: &str, text: &str) {
    insta::with_settings!({ snapshot_path => "snapshots", prepend_module_to_snapshot => false }, {
        insta::assert_snapshot!(name, text);
    });
}

/// A study of the repository with a text of it replaced, in a file of its own.
fn rewritten(folder: &Path, name: &str, from: &str, to: &str) -> PathBuf {
    let source = format!("{}/../ablations/{name}.toml", env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(source).unwrap();
    assert!(text.contains(from), "{name}.toml has no {from:?}");
    let path = folder.join("mine.toml");
    fs::write(&path, text.replacen(from, to, 1)).unwrap();
    path
}

#[test]
fn every_study_changes_what_it_states_at_every_scale() {
    for scale in Scale::names() {
        let scale = Scale::load(scale).unwrap();
        for study in studies() {
            check_changes::<Algorithm>(&scale, &study).unwrap();
        }
    }
}

#[test]
fn every_file_is_a_study_of_the_program() {
    let folder = format!("{}/../ablations", env!("CARGO_MANIFEST_DIR"));
    let paths = fs::read_dir(folder).unwrap().map(|file| file.unwrap().path());
    let files: BTreeSet<String> = paths
        .filter(|path| path.is_file())
        .map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned())
        .collect();
    assert_eq!(files, Study::names().into_iter().map(str::to_owned).collect());
}

/// Each row that an arm names is in the paper's tables, and each row of an ablation is that of an arm.
#[test]
fn the_rows_of_the_paper_are_there_and_none_is_left_out() {
    let tables = PaperTables::load().unwrap();
    let mut used = BTreeSet::new();
    for study in studies() {
        for row in study.variants.iter().flat_map(|variant| &variant.paper) {
            tables.row(&row.table, &row.size, &row.row).unwrap();
            used.insert((row.table.clone(), row.row.clone()));
        }
    }
    let ablations = tables.rows.iter().filter(|row| !["T1-main", "README-8B"].contains(&row.table.as_str()));
    for row in ablations {
        assert!(used.contains(&(row.table.clone(), row.row.clone())), "{} {}", row.table, row.row);
    }
}

/// The longer run takes as many steps as fit into VPPO's time at the rates of `results/timing.csv`.
#[test]
fn equal_time_follows_from_the_measured_steps() {
    let timing = include_str!("../results/timing.csv");
    let study = Study::load("equal_time").unwrap();
    for scale in ["tiny", "7b", "32b"] {
        let seconds = |what: &str| -> f64 {
            let row = format!("{scale},{what},");
            let line = timing.lines().find_map(|line| line.strip_prefix(&row)).unwrap();
            line.split(',').next().unwrap().parse().unwrap()
        };
        let steps = |variant: &str| {
            let scale = Scale::load(scale).unwrap();
            RunConfig::<Algorithm>::resolve(&scale, &study, variant, 1, &[]).unwrap().train.steps as f64
        };
        assert_eq!(steps("dapo"), steps("vppo"), "{scale}");
        let expected = steps("dapo") * seconds("vppo") / seconds("dapo");
        assert!((steps("dapo_longer") - expected).abs() < 0.6, "{scale}: {expected} steps");
    }
}

#[test]
fn an_arm_that_changes_something_else_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let changes = "changes = [\"algorithm.perception.corruption.kind\"]";
    for (from, to, named) in [
        (changes, "", &["`noise`", "`patches`", "`algorithm.perception.corruption.kind` is changed"][..]),
        (
            changes,
            "settings.train.steps = 7\nchanges = [\"algorithm.perception.corruption.kind\"]",
            &["`noise`", "`train.steps` is changed and not stated"],
        ),
        (
            changes,
            "changes = [\"algorithm.perception.corruption.kind\", \"train.steps\"]",
            &["`noise`", "`train.steps` is stated and not changed"],
        ),
        (changes, "of = \"nois\"", &["`noise`", "did you mean `noise`"]),
    ] {
        let path = rewritten(folder.path(), "perturbation", from, to);
        for command in ["list", "ablate"] {
            refused(study(command, folder.path(), &[path.to_str().unwrap()]), named);
        }
    }
    let path = rewritten(folder.path(), "equal_time", "at.tiny.train.steps", "at.tiny.train.stepz");
    let arguments = ["list", path.to_str().unwrap(), "--scale", "tiny"];
    refused(harness(arguments), &["train.stepz", "mine.toml:22", "did you mean `steps`"]);
    let path = rewritten(folder.path(), "equal_time", "at.tiny.train.steps", "at.tinny.train.steps");
    let arguments = ["list", path.to_str().unwrap(), "--scale", "tiny"];
    refused(harness(arguments), &["`dapo`", "`tiny`", "`train.steps` is stated and not changed"]);
    assert!(!folder.path().join("runs").exists(), "something was run");
}

#[test]
fn studies_that_do_not_exist_are_refused() {
    for command in ["ablate", "list"] {
        refused(harness([command, "perturbatoin"]), &["perturbatoin", "did you mean `perturbation`"]);
        refused(harness([command, "no/such.toml"]), &["cannot read the study file no/such.toml"]);
    }
    assert_eq!(finish(harness(["ablate"])).code, Some(2));
    refused(harness(["ablate", "soft_mask", "--variants", "sfot"]), &["soft_mask", "did you mean `soft`"]);
}

/// All arms of Table 2 are arms of the main study.
#[test]
fn a_study_of_known_arms_trains_nothing() {
    let folder = reference().whole();
    let before = files(&folder.path().join("runs"));
    let said = succeeds(study("ablate", folder.path(), &["components"]));
    assert_eq!(said.stderr.matches("already done").count(), 4, "{}", said.stderr);
    for line in
        ["vppo: VPPO; changes in dapo; same run as main/vppo", "  algorithm.perception: none -> {...}"]
    {
        assert!(said.stdout.contains(line), "{}", said.stdout);
    }
    assert!(before == files(&folder.path().join("runs")), "a file of a run was changed or added");
    let table = fs::read_to_string(folder.path().join("results/smoke/components.md")).unwrap();
    assert!(table.contains("vppo (main/vppo) seed 1: ") && !table.contains("not run"), "{table}");
}

#[test]
fn a_study_with_a_new_arm_trains_that_arm() {
    let folder = reference().whole();
    let before = files(&folder.path().join("runs/smoke/main"));
    let said = succeeds(study("ablate", folder.path(), &["soft_mask"]));
    assert_eq!(said.stderr.matches("already done").count(), 1, "{}", said.stderr);
    assert!(before == files(&folder.path().join("runs/smoke/main")));
    let arms: Vec<_> = fs::read_dir(folder.path().join("runs/smoke/soft_mask")).unwrap().collect();
    assert_eq!(arms.len(), 1, "{arms:?}");
    assert!(folder.path().join("runs/smoke/soft_mask/soft/seed-1/done.json").exists());
}

/// Whichever study comes first, the run is the same to the byte; a study of one's own shares it too.
#[test]
fn a_shared_run_does_not_depend_on_who_began_it() {
    let folder = reference().with_base();
    let (out, own) = (folder.path(), tempfile::tempdir().unwrap());
    let path = rewritten(own.path(), "components", "name = \"dapo\"", "name = \"dapo\" # mine");
    let plan = succeeds(study("ablate", out, &[path.to_str().unwrap(), "--dry-run"])).stdout;
    assert!(plan.contains("smoke/main/dapo/seed-1: 3 steps"), "{plan}");
    succeeds(study("ablate", out, &[path.to_str().unwrap(), "--variants", "dapo"]));
    assert_same(
        &cell(reference().out(), "dapo"),
        &cell(out, "dapo"),
        &["provenance.json", "timing.jsonl", ".lock"],
    );
}

/// Settings of training do not count for a model that is not trained.
#[test]
fn the_base_model_is_evaluated_once() {
    let folder = reference().whole();
    let shorter = "seeds = [1]\n[settings.train]\nsteps = 2";
    let path = rewritten(folder.path(), "main", "seeds = [1]", shorter);
    let own = |variant| study("ablate", folder.path(), &[path.to_str().unwrap(), "--variants", variant]);
    let said = succeeds(own("base"));
    assert!(
        said.stdout.contains("base: Base model; changes in dapo; same run as main/base"),
        "{}",
        said.stdout
    );
    assert!(said.stderr.contains("smoke/main/base/seed-1: already done"), "{}", said.stderr);
    succeeds(own("grpo"));
    assert!(folder.path().join("runs/smoke/mine/grpo/seed-1/done.json").exists());
}

/// With other settings, arms of a sweep become one run, and the plan says so.
#[test]
fn arms_that_settings_make_the_same_are_one_cell() {
    let out = tempfile::tempdir().unwrap();
    let more = ["entropy", "--dry-run", "--variants", "0.02,0.04,0.06", "--set"];
    let plan = |set| succeeds(study("ablate", out.path(), &[&more[..], &[set]].concat())).stdout;
    assert!(plan("train.steps=2").contains("Cells (3)"));
    let same = plan("algorithm.entropy_penalty.coef=0.06");
    assert!(same.contains("Cells (1)") && same.contains("smoke/main/dapo/seed-1"), "{same}");
    assert!(same.contains("0.02: DAPO, 0.02; changes nothing in 0.06 with these settings"), "{same}");

    // The table has a row for DAPO too, which has no such part. Told before anything runs.
    let fraction = ["--variants", "vppo", "--set", "algorithm.perception.token_filter.fraction=0.2"];
    let named = ["variant `grpo` of study `main`", "algorithm.perception.token_filter.guide"];
    refused(study("reproduce", out.path(), &fraction), &named);
    assert_eq!(fs::read_dir(out.path()).unwrap().count(), 0, "something was run or written");
}

/// Where arms differ in what a step takes, the plan has each kind, and the memory of the largest.
#[test]
fn a_plan_has_every_kind_of_training() {
    let out = tempfile::tempdir().unwrap();
    let plan = |variants| {
        succeeds(study("ablate", out.path(), &["group_size", "--dry-run", "--variants", variants])).stdout
    };
    let all = plan("5,12,16");
    for arm in ["5", "12", "16"] {
        let title =
            format!("Training, as smoke/group_size/{arm}/seed-1\n  3 steps of 8 prompts x {arm} responses");
        assert!(all.contains(&title), "{all}");
    }
    let memory =
        |plan: &str| plan.lines().find(|line| line.contains("together, at most")).unwrap().to_owned();
    assert_eq!(memory(&all), memory(&plan("16")));
    assert_ne!(memory(&all), memory(&plan("5")));
}

#[test]
fn lists_show_what_is_done() {
    let folder = reference().whole();
    fs::remove_file(cell(folder.path(), "grpo").join("done.json")).unwrap();
    let config = cell(folder.path(), "mask_only").join("config.json");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, text.replace("\"steps\": 3", "\"steps\": 4")).unwrap();
    let before = files(folder.path());
    snapshot("list", &succeeds(study("list", folder.path(), &[])).stdout);
    snapshot("list__guidance", &succeeds(study("list", folder.path(), &["guidance"])).stdout);
    assert!(before == files(folder.path()), "a list changes nothing");
}
