//! The command line on what people get wrong, and on a user's own questions.

use crate::run::{cell, finish, harness, reference, refused, start, study, succeeds, wait_for};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

/// `train` or `eval` on the smoke scale, with the reference's base model at hand.
fn own(command: &str, out: &Path, data: &Path, more: &[&str]) -> Command {
    let mut built = harness([command, "--scale", "smoke"]);
    built.arg("--data").arg(data).arg("--out").arg(out).args(more);
    built
}

fn write_picture(path: &Path, width: u32, height: u32, level: u8) {
    let pixels =
        image::RgbImage::from_fn(width, height, |x, y| image::Rgb([level, (x * 2) as u8, (y * 2) as u8]));
    pixels.save_with_format(path, image::ImageFormat::Png).unwrap();
}

/// Three questions: a picture of another shape than the tiny world's, two pictures, none.
fn questions(folder: &Path) -> PathBuf {
    fs::create_dir_all(folder.join("pictures")).unwrap();
    write_picture(&folder.join("pictures/wide.png"), 90, 40, 200);
    write_picture(&folder.join("pictures/small.png"), 30, 31, 20);
    let rows = [
        r#"{"problem": "<image>What is A?", "answer": "3", "images": ["pictures/wide.png"], "id": "wide"}"#,
        r#"{"problem": "<image><image>Which? A. first B. second", "answer": "B", "images": ["pictures/wide.png", "pictures/small.png"], "id": "two"}"#,
        r#"{"problem": "What is 2 + 2?", "answer": 4, "id": "text"}"#,
    ];
    let path = folder.join("mine.jsonl");
    fs::write(&path, rows.join("\n")).unwrap();
    path
}

fn empty() -> TempDir {
    tempfile::tempdir().unwrap()
}

#[test]
fn help_shows_examples() {
    for arguments in [&["--help"][..], &["help"]] {
        let help = succeeds(harness(arguments)).stdout;
        for named in ["Examples:", "harness reproduce", "harness grade", "Ctrl-C"] {
            assert!(help.contains(named), "{named}: {help}");
        }
    }
    let help = succeeds(harness(["reproduce", "--help"])).stdout;
    assert!(help.contains("--variants") && help.contains("[default: tiny]"), "{help}");
}

#[test]
fn a_wrong_setting_is_named_with_the_nearest_and_nothing_runs() {
    let out = empty();
    for (set, named) in [
        ("train.stepps=3", &["train.stepps", "did you mean `steps`", "--set"][..]),
        ("train.steps=many", &["train.steps", "many", "--set"]),
        ("train.steps=0", &["train.steps", "1 or more"]),
        ("train.steps", &["train.steps", "="]),
        ("sampling.top_p=1.5", &["sampling.top_p", "1.5"]),
        ("seed=3", &["seed", "command line"]),
    ] {
        refused(study("reproduce", out.path(), &["--set", set]), named);
    }
    refused(study("reproduce", out.path(), &["--variants", "vpo"]), &["vpo", "vppo"]);
    let mut command = harness(["reproduce", "--scale", "smoky", "--out"]);
    command.arg(out.path());
    refused(command, &["smoky", "smoke", ".toml"]);
    let mut command = harness(["reproduce", "--scale", "smoke", "--study", "mian", "--out"]);
    command.arg(out.path());
    refused(command, &["mian", "main", ".toml"]);
    let mut command = harness(["reproduce", "--scale", "no/such.toml", "--out"]);
    command.arg(out.path());
    refused(command, &["no/such.toml"]);
    assert_eq!(fs::read_dir(out.path()).unwrap().count(), 0, "something was run or written");
}

#[test]
fn arguments_that_do_not_exist_end_with_usage() {
    for arguments in
        [&["reproduce", "--steps", "3"][..], &["repoduce"], &["reproduce", "--seeds", "one"], &[]]
    {
        let finished = finish(harness(arguments));
        assert_eq!(finished.code, Some(2), "{arguments:?}");
        assert!(
            finished.stderr.contains("Usage") || finished.stderr.contains("--help"),
            "{}",
            finished.stderr
        );
    }
}

#[test]
fn a_bad_question_file_is_named_with_its_line() {
    let out = empty();
    let data = questions(out.path());
    let runs = out.path().join("runs");
    for command in ["train", "eval"] {
        refused(
            own(command, out.path(), &out.path().join("none.jsonl"), &[]),
            &["none.jsonl", "cannot be read"],
        );
    }
    let good = fs::read_to_string(&data).unwrap();
    for (row, named) in [
        ("{\"problem\": ", "mine.jsonl:4: column"),
        (r#"{"problem": "x"}"#, "missing field `answer`"),
        (r#"{"problem": "<image>", "answer": "x", "images": ["gone.png"]}"#, "gone.png"),
        (r#"{"problem": "<image>", "answer": "x"}"#, "<image>"),
    ] {
        fs::write(&data, format!("{good}\n{row}\n")).unwrap();
        refused(own("eval", out.path(), &data, &[]), &["mine.jsonl:4", named]);
    }
    assert!(!runs.exists(), "a run was begun");
}

/// By the lengths of these questions, before anything is trained.
#[test]
fn a_training_that_cannot_fit_is_refused() {
    let out = reference().with_base();
    let data = questions(out.path());
    let longer = ["--set", "sampling.max_new_tokens=100000000000"];
    refused(
        own("train", out.path(), &data, &longer),
        &["while updating", "activations kept", "compute.recompute=true"],
    );
}

#[test]
fn a_picture_that_is_none_is_named_with_its_item() {
    let out = reference().with_base();
    let data = questions(out.path());
    fs::write(out.path().join("pictures/small.png"), "not a picture").unwrap();
    refused(own("eval", out.path(), &data, &["--samples", "2"]), &["item \"two\" of mine"]);
}

#[test]
fn a_folder_that_is_no_checkpoint_is_refused() {
    let out = empty();
    let data = questions(out.path());
    let model = out.path().join("pictures");
    let more = ["--model", model.to_str().unwrap()];
    let eval = || own("eval", out.path(), &data, &more);
    refused(eval(), &["pictures/config.json", "--model"]);
    fs::write(model.join("model.safetensors"), "no weights").unwrap();
    refused(eval(), &["pictures", "config.json"]);
    fs::write(model.join("config.json"), "{}").unwrap();
    refused(eval(), &["pictures"]);
}

#[test]
fn an_out_below_a_file_is_refused() {
    let folder = empty();
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    refused(study("reproduce", &file.join("out"), &[]), &["cannot write", "--out"]);
    refused(study("reproduce", &file, &[]), &["--out"]);
}

#[test]
fn a_damaged_checkpoint_is_named_with_the_way_out() {
    let out = reference().whole();
    let folder = cell(out.path(), "grpo");
    for name in ["done.json", "samples.jsonl"] {
        fs::remove_file(folder.join(name)).unwrap();
    }
    let weights = folder.join("checkpoints/step-3/model.safetensors");
    let mut bytes = fs::read(&weights).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle..middle + 4].iter_mut().for_each(|byte| *byte ^= 0xff);
    fs::write(&weights, bytes).unwrap();
    let grpo = || study("reproduce", out.path(), &["--variants", "grpo"]);
    refused(grpo(), &["step-3", "damaged", "delete the folder"]);

    fs::remove_dir_all(folder.join("checkpoints/step-3")).unwrap();
    succeeds(grpo());
    crate::run::assert_same(
        &cell(reference().out(), "grpo"),
        &folder,
        &["provenance.json", "timing.jsonl", ".lock"],
    );
}

#[test]
fn two_processes_do_not_share_a_run() {
    let out = reference().with_base();
    let long = || study("reproduce", out.path(), &["--variants", "grpo", "--set", "train.steps=100000"]);
    let mut first = start(long());
    wait_for(&cell(out.path(), "grpo").join("metrics.jsonl"));
    refused(long(), &["another process", "--out"]);
    assert_eq!(first.try_wait().unwrap(), None, "the first process must not be disturbed");
    first.kill().unwrap();
    first.wait().unwrap();
}

#[test]
fn own_questions_are_evaluated_without_loss() {
    let out = reference().with_base();
    let data = questions(out.path());
    let run = || own("eval", out.path(), &data, &["--samples", "4"]);
    let done = succeeds(run()).stdout;
    assert!(done.contains("12 completions: correct "), "{done}");
    let path = done.lines().find_map(|line| line.strip_prefix("samples: ")).unwrap();
    let lines = fs::read_to_string(path).unwrap();
    for item in ["wide", "two", "text"] {
        assert_eq!(lines.matches(&format!("\"item\":\"{item}\"")).count(), 4, "{item}");
    }
    assert_eq!(succeeds(run()).stdout, done, "a second call shows the same from the stored lines");

    write_picture(&out.path().join("pictures/wide.png"), 90, 40, 10);
    let other = succeeds(run()).stdout;
    assert!(!other.contains(path), "other pictures are other questions: {other}");
}

#[test]
fn own_questions_are_trained_on_and_the_model_can_be_used() {
    let out = reference().with_base();
    let data = questions(out.path());
    let sets =
        ["train.steps=2", "train.prompts_per_step=2", "train.refill_prompts=2", "train.mini_batch_prompts=2"];
    let mut more = vec!["--variant", "grpo"];
    more.extend(sets.iter().flat_map(|set| ["--set", set]));
    let done = succeeds(own("train", out.path(), &data, &more)).stdout;
    let place =
        |name: &str| done.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().to_string();
    assert_eq!(fs::read_to_string(place("metrics: ")).unwrap().lines().count(), 2);

    let model = place("model: ");
    let evaluated = succeeds(own("eval", out.path(), &data, &["--samples", "2", "--model", &model])).stdout;
    assert!(evaluated.contains("6 completions: correct "), "{evaluated}");
    refused(own("train", out.path(), &data, &["--variant", "base"]), &["base", "not trained"]);
}

/// A whole step of VPPO and of DAPO on random weights: what times a model whose checkpoint is not at hand. Nothing is
/// right, so the filter of groups must let all pass.
#[test]
fn a_directory_without_weights_is_trained_on_only_if_asked() {
    let out = empty();
    let data = questions(out.path());
    let nested = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/parity/qwen2_5_vl_nested");
    let model = out.path().join("bare");
    fs::create_dir(&model).unwrap();
    for file in fs::read_dir(nested).unwrap().map(|file| file.unwrap().path()).filter(|path| path.is_file()) {
        let name = file.file_name().unwrap().to_str().unwrap();
        if !name.contains("safetensors") {
            fs::copy(&file, model.join(name)).unwrap();
        }
    }
    let train = |variant: &str, more: &[&str]| {
        let mut command = own("train", out.path(), &data, &["--variant", variant]);
        let sets = ["train.steps=1", "train.prompts_per_step=2", "train.refill_prompts=2"];
        for set in sets.into_iter().chain(["train.mini_batch_prompts=2", "algorithm.group_filter.low=-1"]) {
            command.args(["--set", set]);
        }
        command.arg("--model").arg(&model).args(more);
        command
    };
    refused(train("vppo", &[]), &["--model", "bare", "safetensors"]);
    for variant in ["vppo", "dapo"] {
        let done = succeeds(train(variant, &["--untrained"])).stdout;
        let metrics = done.lines().find_map(|line| line.strip_prefix("metrics: ")).unwrap();
        assert_eq!(fs::read_to_string(metrics.trim()).unwrap().lines().count(), 1, "{variant}");
    }
}

#[test]
fn answers_are_graded_or_refused_by_line() {
    let folder = empty();
    let (input, output) = (folder.path().join("answers.jsonl"), folder.path().join("verdicts.jsonl"));
    let grade = || {
        let mut command = harness(["grade", "--input"]);
        command.arg(&input).arg("--output").arg(&output);
        command
    };
    let right = r#"{"response": "so \\boxed{\\frac{1}{2}}", "answer": "0.5"}"#;
    let rows = [right, r#"{"given": "7", "answer": "8"}"#, r#"{"response": "no box", "answer": "8"}"#];
    fs::write(&input, rows.join("\n") + "\n").unwrap();
    assert!(succeeds(grade()).stdout.contains("graded 3 answers"));
    let verdicts = fs::read_to_string(&output).unwrap();
    let outcomes = ["correct", "wrong", "no_answer"].map(|name| format!("{{\"outcome\":\"{name}\""));
    assert_eq!(verdicts.lines().count(), 3);
    assert!(verdicts.lines().zip(&outcomes).all(|(line, begin)| line.starts_with(begin)), "{verdicts}");
    fs::remove_file(&output).unwrap();

    let before = fs::read(&input).unwrap();
    let mut onto_itself = harness(["grade", "--input"]);
    onto_itself.arg(&input).arg("--output").arg(folder.path().join("./answers.jsonl"));
    refused(onto_itself, &["would replace --input"]);
    assert_eq!(fs::read(&input).unwrap(), before);

    for (row, named) in [
        (r#"{"answer": "8"}"#, &["response", "given"][..]),
        (r#"{"response": "x", "given": "7", "answer": "8"}"#, &["response", "given"]),
        (r#"{"given": "7", "answer": "8", "gvien": 1}"#, &["gvien"]),
        ("{", &[]),
    ] {
        fs::write(&input, format!("{right}\n{row}\n")).unwrap();
        refused(grade(), &[&["answers.jsonl:2"], named].concat());
        assert!(!output.exists(), "nothing may be written");
    }
}
