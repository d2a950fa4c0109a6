//! Scoring of given responses by an untrained model; `golden` has transformers' figures.

mod golden;

use crate::run::{harness, refused, succeeds};
use harness::bench::responses;
use harness::config::{Scale, Study};
use harness::progress::{Interrupted, Progress, Silent};
use harness::prompt::INSTRUCTION;
use harness::rng::{Purpose, stream};
use harness::rollout::Policy;
use harness::score::{CorruptedScores, ScoreLine, ScoreSettings, score};
use harness::settings::{CorruptionKind, Sampling};
use harness::study::{RunConfig, save_policy};
use harness::types::{Example, Picture};
use harness::warm_start::untrained;
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;
use tempfile::TempDir;

const PATCHES: CorruptionKind = CorruptionKind::Patches { patch_pixels: 14, probability: 0.5 };
const GREY: CorruptionKind = CorruptionKind::Full { level: 128 };

/// An untrained model of the smoke scale's sizes.
fn policy() -> &'static Policy {
    static POLICY: OnceLock<Policy> = OnceLock::new();
    POLICY.get_or_init(|| {
        let (scale, study) = (Scale::load("smoke").unwrap(), Study::load("main").unwrap());
        let config = RunConfig::resolve(&scale, &study, "vppo", 1, &[]).unwrap();
        untrained(&config.model, INSTRUCTION, 5).unwrap()
    })
}

fn save_picture(path: &Path, width: u32, height: u32, color: impl Fn(u32, u32) -> [u8; 3]) {
    let pixels = image::RgbImage::from_fn(width, height, |x, y| image::Rgb(color(x, y)));
    pixels.save_with_format(path, image::ImageFormat::Png).unwrap();
}

/// A folder with three pictures, one of them of the grey that the full corruption leaves.
fn pictures() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    save_picture(&folder.path().join("wide.png"), 90, 40, |x, y| [(2 * x) as u8, (5 * y) as u8, 200]);
    save_picture(&folder.path().join("tall.png"), 30, 70, |x, y| [(x * y) as u8, 40, (3 * y) as u8]);
    save_picture(&folder.path().join("grey.png"), 56, 56, |_, _| [128; 3]);
    folder
}

/// Rows of every kind; all but one have an id.
fn rows() -> Vec<Value> {
    vec![
        json!({"id": "one", "images": ["wide.png"], "prompt": "<image>How many red circles?", "response": "\\boxed{3}"}),
        json!({"id": "two", "images": ["wide.png", "tall.png"], "prompt": "<image> or <image>?", "response": "<think>It is B.</think>"}),
        json!({"id": "text", "prompt": "What is 2 + 2?", "response": "4"}),
        json!({"images": "grey.png", "prompt": " Which?\n<image>", "response": "none", "append_end": false}),
        json!({"id": 5, "images": ["tall.png"], "prompt": "<image>What is A?", "response_ids": [70, 71, 9]}),
    ]
}

fn write_rows(path: &Path, rows: &[Value]) {
    let text: String = rows.iter().map(|row| format!("{row}\n")).collect();
    fs::write(path, text).unwrap();
}

fn settings(corruption: Option<CorruptionKind>) -> ScoreSettings {
    ScoreSettings { corruption, seed: 3, batch_tokens: 4096 }
}

/// Scores rows that stand beside the pictures.
fn scored(folder: &Path, rows: &[Value], settings: &ScoreSettings) -> Vec<ScoreLine> {
    let path = folder.join("rows.jsonl");
    write_rows(&path, rows);
    let given = responses::read(&path).unwrap();
    let mut lines = Vec::new();
    score(policy(), &given, settings, &Silent, |line| {
        lines.push(line.clone());
        Ok(())
    })
    .unwrap();
    lines
}

fn corrupted(line: &ScoreLine) -> &CorruptedScores {
    line.corrupted.as_ref().unwrap()
}

/// The lists of dependency, by estimator.
fn estimates(scores: &CorruptedScores) -> [&[f64]; 5] {
    let d = &scores.dependency;
    [&d.sampled_k3, &d.full_kl, &d.sampled_jensen_shannon, &d.jensen_shannon, &d.top1_drop]
}

fn largest_gap(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

fn example(folder: &Path, row: &Value) -> Example {
    let images = row["images"].as_array().map_or(&[][..], Vec::as_slice);
    let picture =
        |name: &Value| Picture::Encoded(fs::read(folder.join(name.as_str().unwrap())).unwrap().into());
    Example {
        id: row["id"].as_str().unwrap().to_owned(),
        benchmark: "own".into(),
        cluster: String::new(),
        problem: row["prompt"].as_str().unwrap().to_owned(),
        answer: "3".into(),
        images: images.iter().map(picture).collect(),
    }
}

#[test]
fn scores_are_those_that_the_rollout_recorded() {
    let folder = pictures();
    let examples: Vec<Example> = rows()[..3].iter().map(|row| example(folder.path(), row)).collect();
    for (temperature, samples) in [(1.0, 3), (0.0, 1)] {
        let sampling = Sampling { temperature, top_p: 1.0, top_k: 0, max_new_tokens: 24 };
        let at = |example: &Example, sample: usize| {
            stream(1, Purpose::Evaluation, &[(&example.id).into(), sample.into()])
        };
        let groups = policy().sample(examples.clone(), samples, &sampling, at).unwrap();
        let (mut given, mut recorded) = (Vec::new(), Vec::new());
        for (group, row) in groups.iter().zip(rows()) {
            for sample in &group.samples {
                let mut row = row.clone();
                row.as_object_mut().unwrap().remove("response");
                row["response_ids"] = json!(sample.completion.ids);
                given.push(row);
                recorded.push((&group.prompt.ids, &sample.completion));
            }
        }
        for (line, (prompt, completion)) in
            scored(folder.path(), &given, &settings(None)).iter().zip(recorded)
        {
            assert_eq!(&line.prompt_ids, prompt);
            assert_eq!(line.response_ids, completion.ids);
            assert!(largest_gap(&line.logp, &completion.logp) < 1e-4);
            assert!(largest_gap(&line.entropy, &completion.entropy) < 1e-4);
            if temperature == 0.0 {
                assert_eq!(line.argmax, completion.ids);
            }
        }
    }
}

#[test]
fn every_kind_of_row_gives_its_line() {
    let folder = pictures();
    let lines = scored(folder.path(), &rows(), &settings(None));
    let ids: Vec<_> = lines.iter().map(|line| (line.line, line.id.as_deref())).collect();
    assert_eq!(ids, [(1, Some("one")), (2, Some("two")), (3, Some("text")), (4, None), (5, Some("5"))]);
    let renderer = &policy().renderer;
    let end = renderer.end[0];
    let encode = |text: &str| renderer.tokenizer.encode(text).unwrap();
    assert_eq!(lines[0].response_ids, [encode("\\boxed{3}"), vec![end]].concat());
    assert_eq!(lines[3].response_ids, encode("none"), "no end token where it is not wanted");
    assert_eq!(lines[4].response_ids, [70, 71, 9]);
    let twice = json!({"prompt": "p", "response": "4<|im_end|>"});
    assert_eq!(
        scored(folder.path(), &[twice], &settings(None))[0].response_ids,
        [encode("4"), vec![end]].concat()
    );

    assert_eq!(lines.iter().map(|line| line.image_grid_thw.len()).collect::<Vec<_>>(), [1, 2, 0, 1, 1]);
    for line in &lines {
        let count = line.response_ids.len();
        assert_eq!([line.logp.len(), line.entropy.len(), line.argmax.len()], [count; 3]);
        assert!(line.logp.iter().all(|&logp| logp < 0.0) && line.entropy.iter().all(|&nats| nats > 0.0));
        let visual: usize = line.image_grid_thw.iter().map(|[t, h, w]| t * h * w / 4).sum();
        let image = policy().model.config().image_token_id;
        assert_eq!(line.prompt_ids.iter().filter(|&&id| id == image).count(), visual);
        assert_eq!(line.corrupted, None);
    }
}

#[test]
fn dependency_follows_the_formulas() {
    let folder = pictures();
    for kind in ["patches", "noise", "blur", "full"].map(|name| CorruptionKind::reference(name).unwrap()) {
        let lines = scored(folder.path(), &rows(), &settings(Some(kind.clone())));
        let plain = scored(folder.path(), &rows(), &settings(None));
        for (line, plain) in lines.iter().zip(&plain) {
            let scores = corrupted(line);
            assert_eq!((&scores.corruption, scores.seed), (&kind, 3));
            assert_eq!((&line.prompt_ids, &line.response_ids), (&plain.prompt_ids, &plain.response_ids));
            assert!(largest_gap(&line.logp, &plain.logp) < 1e-5);
            let d = &scores.dependency;
            for (t, (&logp, &other)) in line.logp.iter().zip(&scores.corrupted_logp).enumerate() {
                let ratio = f64::from(other) - f64::from(logp);
                assert!((d.sampled_k3[t] - (ratio.exp() - ratio - 1.0).clamp(0.0, 10.0)).abs() < 1e-12);
                assert!((d.top1_drop[t] - (f64::from(logp).exp() - f64::from(other).exp())).abs() < 1e-12);
                assert!(d.full_kl[t] >= 0.0);
                assert!((0.0..=std::f64::consts::LN_2).contains(&d.jensen_shannon[t]));
                assert!((0.0..=10.0).contains(&d.sampled_jensen_shannon[t]));
            }
        }
        for seeing in [0, 1, 4] {
            let [k3, kl, _, js, drop] = estimates(corrupted(&lines[seeing]));
            for values in [k3, kl, js] {
                assert!(values.iter().all(|&x| x > 0.0), "{kind:?} line {seeing}: {values:?}");
            }
            assert!(drop.iter().all(|&x| x != 0.0));
        }
        for values in estimates(corrupted(&lines[2])) {
            assert!(values.iter().all(|&x| x == 0.0), "text depends on no picture: {values:?}");
        }
    }
}

#[test]
fn a_corruption_that_changes_nothing_gives_zero() {
    let folder = pictures();
    let lines = scored(folder.path(), &rows(), &settings(Some(GREY)));
    let nothing = CorruptionKind::Patches { patch_pixels: 14, probability: 0.0 };
    let untouched = scored(folder.path(), &rows(), &settings(Some(nothing)));
    for line in untouched.iter().chain([&lines[3]]) {
        let scores = corrupted(line);
        assert_eq!(scores.corrupted_logp, line.logp);
        assert_eq!(scores.corrupted_entropy, line.entropy);
        for values in estimates(scores) {
            assert!(values.iter().all(|&x| x == 0.0), "{values:?}");
        }
    }
}

#[test]
fn a_line_does_not_depend_on_the_others() {
    let folder = pictures();
    let whole = scored(folder.path(), &rows(), &settings(Some(PATCHES)));
    let backwards: Vec<Value> = rows().into_iter().rev().collect();
    let mut reversed = scored(folder.path(), &backwards, &settings(Some(PATCHES)));
    reversed.reverse();
    let small = ScoreSettings { batch_tokens: 1, ..settings(Some(PATCHES)) };
    let one_by_one = scored(folder.path(), &rows(), &small);
    for (i, row) in rows().into_iter().enumerate() {
        let alone = &scored(folder.path(), &[row], &settings(Some(PATCHES)))[0];
        assert_eq!(alone.corrupted, one_by_one[i].corrupted, "alone in its pass, alone in its file");
        assert_eq!(alone.logp, one_by_one[i].logp);
        for other in [&whole[i], &reversed[i]] {
            assert_eq!(alone.prompt_ids, other.prompt_ids);
            assert!(largest_gap(&alone.logp, &other.logp) < 1e-5);
            assert!(largest_gap(&corrupted(alone).corrupted_logp, &corrupted(other).corrupted_logp) < 1e-5);
            for (a, b) in estimates(corrupted(alone)).iter().zip(estimates(corrupted(other))) {
                assert!(a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-5), "{a:?} {b:?}");
            }
        }
    }
}

#[test]
fn seed_and_item_decide_the_corruption() {
    let folder = pictures();
    let row = |id: Option<&str>, prompt: &str| json!({"id": id, "images": ["wide.png"], "prompt": format!("<image>{prompt}"), "response": "3"});
    let rows = [row(None, "A?"), row(None, "A?"), row(Some("a"), "A?"), row(Some("b"), "A?")];
    let of_seed = |seed| scored(folder.path(), &rows, &ScoreSettings { seed, ..settings(Some(PATCHES)) });
    let (first, other) = (of_seed(3), of_seed(4));
    let seen = |line: &ScoreLine| corrupted(line).corrupted_logp[0];
    assert!((seen(&first[0]) - seen(&first[1])).abs() < 1e-5, "one question, one corrupted picture");
    assert!((seen(&first[0]) - seen(&first[2])).abs() > 1e-4);
    assert!((seen(&first[2]) - seen(&first[3])).abs() > 1e-4);
    assert!((0..4).all(|i| (seen(&first[i]) - seen(&other[i])).abs() > 1e-4));
    assert!((0..4).all(|i| (first[i].logp[0] - other[i].logp[0]).abs() < 1e-5));
}

/// Asks to stop once one pass is done.
#[derive(Default)]
struct StopAfterOne(std::sync::atomic::AtomicU64);

impl Progress for StopAfterOne {
    fn begin(&self, _stage: &str, _done: u64, _total: u64) {}
    fn advance(&self, done: u64, _message: &str) {
        self.0.store(done, std::sync::atomic::Ordering::SeqCst);
    }
    fn end(&self) {}
    fn note(&self, _text: &str) {}
    fn stop_requested(&self) -> bool {
        self.0.load(std::sync::atomic::Ordering::SeqCst) > 0
    }
}

#[test]
fn a_wish_to_stop_ends_between_passes() {
    let folder = pictures();
    let path = folder.path().join("rows.jsonl");
    write_rows(&path, &rows());
    let small = ScoreSettings { batch_tokens: 1, ..settings(None) };
    let mut lines = 0;
    let stopped = score(policy(), &responses::read(&path).unwrap(), &small, &StopAfterOne::default(), |_| {
        lines += 1;
        Ok(())
    });
    assert!(stopped.unwrap_err().is::<Interrupted>());
    assert_eq!(lines, 1);
}

/// `harness score` on rows beside the pictures.
fn command(folder: &Path, more: &[&str]) -> Command {
    let model = folder.join("model");
    if !model.exists() {
        save_policy(policy(), &model).unwrap();
    }
    let mut command = harness(["score", "--model"]);
    command.arg(model).arg("--input").arg(folder.join("rows.jsonl"));
    command.arg("--output").arg(folder.join("scores.jsonl")).args(more);
    command
}

#[test]
fn bytes_are_the_same_for_any_number_of_threads() {
    let folder = pictures();
    write_rows(&folder.path().join("rows.jsonl"), &rows());
    let written: Vec<String> = ["1", "2"]
        .into_iter()
        .map(|threads| {
            let mut run =
                command(folder.path(), &["--corruption", "noise", "--set", "std=100", "--seed", "3"]);
            run.env("RAYON_NUM_THREADS", threads);
            assert!(succeeds(run).stdout.starts_with("scored 5 responses, "));
            fs::read_to_string(folder.path().join("scores.jsonl")).unwrap()
        })
        .collect();
    assert!(written[0] == written[1], "{}\n{}", written[0], written[1]);

    let noise = CorruptionKind::Noise { std: 100.0 };
    let expected: String = scored(folder.path(), &rows(), &settings(Some(noise)))
        .iter()
        .map(|line| serde_json::to_string(line).unwrap() + "\n")
        .collect();
    assert!(written[0] == expected, "the command writes what the library gives\n{}\n{expected}", written[0]);
    let keys = |text: &str| -> Vec<String> {
        let object: Value = serde_json::from_str(text).unwrap();
        object.as_object().unwrap().keys().cloned().collect()
    };
    let first = written[0].lines().next().unwrap();
    for key in ["id", "prompt_ids", "logp", "corruption", "seed", "corrupted_logp", "dependency"] {
        assert!(keys(first).contains(&key.to_owned()), "{key}: {first}");
    }
}

#[test]
fn flags_change_prompt_and_pictures() {
    let folder = pictures();
    write_rows(&folder.path().join("rows.jsonl"), &rows());
    let run = |more: &[&str]| -> Vec<Value> {
        succeeds(command(folder.path(), more));
        let text = fs::read_to_string(folder.path().join("scores.jsonl")).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let usual = run(&[]);
    let bare = run(&["--no-instruction"]);
    assert_eq!(run(&["--instruction", ""]), bare);
    let other = run(&["--instruction", "Be brief."]);
    let decode = |line: &Value| {
        let ids: Vec<u32> = serde_json::from_value(line["prompt_ids"].clone()).unwrap();
        policy().renderer.tokenizer.decode(&ids).unwrap()
    };
    assert!(
        decode(&usual[2]).contains(&format!("2 + 2?\n\n{INSTRUCTION}<|im_end|>")),
        "{}",
        decode(&usual[2])
    );
    assert!(decode(&bare[2]).contains("2 + 2?<|im_end|>"), "{}", decode(&bare[2]));
    assert!(decode(&other[2]).contains("2 + 2?\n\nBe brief.<|im_end|>"), "{}", decode(&other[2]));

    let small = run(&["--min-pixels", "784", "--max-pixels", "1600"]);
    assert_eq!(small[1]["image_grid_thw"], json!([[1, 2, 4], [1, 4, 2]]));
    assert_ne!(usual[1]["image_grid_thw"], small[1]["image_grid_thw"]);
    assert_eq!(small[2], usual[2]);
}

#[test]
fn a_fault_names_file_and_line_and_nothing_is_written() {
    let folder = pictures();
    let (input, output) = (folder.path().join("rows.jsonl"), folder.path().join("scores.jsonl"));
    fs::write(folder.path().join("broken.png"), "no picture").unwrap();
    fs::write(&output, "an older file").unwrap();
    let image = policy().model.config().image_token_id;
    for (row, named) in [
        (json!({"prompt": "<image>", "images": ["gone.png"], "response": "x"}), "gone.png"),
        (json!({"prompt": "<image>", "images": ["broken.png"], "response": "x"}), "rows.jsonl:6: "),
        (json!({"prompt": "<image>", "response": "x"}), "1 <image> places"),
        (json!({"prompt": "p", "response": "", "append_end": false}), "no tokens"),
        (json!({"prompt": "p", "response_ids": []}), "no tokens"),
        (json!({"prompt": "p", "response_ids": [5, 1_000_000]}), "1000000"),
        (json!({"prompt": "p", "response_ids": [image]}), "stands for a picture"),
        (json!({"prompt": "p <|image_pad|>", "response": "x"}), "<|image_pad|>"),
        (json!({"prompt": "p"}), "response_ids"),
    ] {
        write_rows(&input, &[rows(), vec![row]].concat());
        refused(command(folder.path(), &["--corruption", "full"]), &["rows.jsonl:6: ", named]);
        assert_eq!(fs::read_to_string(&output).unwrap(), "an older file");
        assert!(!folder.path().join(".scores.jsonl.tmp").exists());
    }
    write_rows(&input, &rows());
    refused(command(folder.path(), &["--corruption", "patches", "--set", "radius=2"]), &["--set radius=2"]);
    refused(command(folder.path(), &["--min-pixels", "9", "--max-pixels", "8"]), &["--min-pixels 9"]);
    let mut same = harness(["score", "--model", "none", "--input"]);
    same.arg(&input).arg("--output").arg(&input);
    refused(same, &["--output"]);
    let mut no_model = harness(["score", "--model", "no/model", "--input"]);
    no_model.arg(&input).arg("--output").arg(folder.path().join("new.jsonl"));
    refused(no_model, &["no/model"]);
    assert!(!folder.path().join("new.jsonl").exists());
}
