//! The run store against kills, damage, second processes and bad folders.

mod config;

use harness::store::{self, Artifact, Cell, CellKey, Checkpoint, Store};
use harness::types::{Outcome, SampleLine, StopReason};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

fn key() -> CellKey {
    CellKey { scale: "tiny".into(), study: "main".into(), variant: "vppo".into(), seed: 1 }
}

fn settings() -> Value {
    json!({"train": {"steps": 4, "rate": 1e-3}, "algorithm": null})
}

fn open(root: &Path) -> anyhow::Result<Cell> {
    Store::open(root)?.cell(&key(), &settings())
}

fn figures(value: f64) -> BTreeMap<String, f64> {
    BTreeMap::from([("loss".to_string(), value), ("accuracy".to_string(), value / 3.0)])
}

fn checkpoint(step: u64) -> Checkpoint {
    let files = vec![("optimizer".to_string(), vec![step as u8; 9]), ("weights".to_string(), vec![0, 255])];
    Checkpoint { step, files }
}

/// Takes the steps after a checkpoint up to `last`, saving at the multiples of `every`.
fn steps(cell: &Cell, first: u64, last: u64, every: u64) {
    for step in first..=last {
        cell.log_step(step, &figures(1.0 / step as f64), &figures(2.5)).unwrap();
        if step % every == 0 {
            cell.save_checkpoint(&checkpoint(step)).unwrap();
        }
    }
}

/// The error's whole chain; checks that it names every one of `named`.
#[track_caller]
fn refused<T>(result: anyhow::Result<T>, named: &[&str]) -> String {
    let Err(error) = result else { panic!("accepted, though it should name {named:?}") };
    let text = format!("{error:#}");
    for name in named {
        assert!(text.contains(name), "{name:?} is not in: {text}");
    }
    text
}

fn read(cell: &Cell, name: &str) -> String {
    fs::read_to_string(cell.dir().join(name)).unwrap()
}

#[test]
fn a_killed_run_goes_on_to_the_same_bytes() {
    let (whole, killed) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let cell = open(whole.path()).unwrap();
    assert_eq!(cell.resume().unwrap(), None);
    steps(&cell, 1, 10, 2);

    let other = open(killed.path()).unwrap();
    steps(&other, 1, 7, 2);
    let metrics = other.dir().join("metrics.jsonl");
    drop(other);
    let torn = fs::read_to_string(&metrics).unwrap() + "{\"step\":8,\"metr";
    fs::write(&metrics, torn).unwrap();
    fs::create_dir_all(metrics.with_file_name("checkpoints/.step-8.tmp")).unwrap();

    let other = open(killed.path()).unwrap();
    assert_eq!(other.metrics().unwrap().len(), 7, "reading passes over the torn line");
    assert_eq!(other.resume().unwrap(), Some(checkpoint(6)));
    assert_eq!(other.metrics().unwrap().len(), 6);
    assert_eq!(other.timing().unwrap().len(), 6);
    steps(&other, 7, 10, 2);
    for name in ["config.json", "metrics.jsonl", "checkpoints/step-10/manifest.json"] {
        assert_eq!(read(&cell, name), read(&other, name), "{name}");
    }
    let kept: Vec<_> = fs::read_dir(other.dir().join("checkpoints")).unwrap().collect();
    assert_eq!(kept.len(), 2, "the newest two checkpoints and nothing else: {kept:?}");
}

#[test]
fn metrics_lines_are_exact() {
    let root = tempfile::tempdir().unwrap();
    let cell = open(root.path()).unwrap();
    cell.log_step(1, &figures(0.1), &figures(1.0)).unwrap();
    assert_eq!(
        read(&cell, "metrics.jsonl"),
        "{\"step\":1,\"metrics\":{\"accuracy\":0.03333333333333333,\"loss\":0.1}}\n"
    );
    assert_eq!(cell.metrics().unwrap()[0].metrics, figures(0.1));
    refused(cell.log_step(2, &figures(f64::NAN), &figures(1.0)), &["`accuracy` is NaN at step 2"]);
}

#[test]
fn a_second_process_is_told_who_holds_the_cell() {
    let root = tempfile::tempdir().unwrap();
    let first = open(root.path()).unwrap();
    refused(open(root.path()), &["tiny/main/vppo/seed-1", "another process", "--out"]);
    let store = Store::open(root.path()).unwrap();
    assert!(store.read_only(&key()).is_ok(), "reports read without the lock");
    assert!(store.cell(&CellKey { seed: 2, ..key() }, &settings()).is_ok(), "other cells are free");
    drop(first);
    open(root.path()).unwrap();
}

#[test]
fn other_settings_are_listed() {
    let root = tempfile::tempdir().unwrap();
    drop(open(root.path()).unwrap());
    let store = Store::open(root.path()).unwrap();
    let changed = json!({"train": {"steps": 5, "rate": 1e-3}, "algorithm": {"clip": 0.2}});
    refused(
        store.cell(&key(), &changed),
        &["train.steps: 4 -> 5", "algorithm: null -> {\"clip\":0.2}", "--out", "delete"],
    );
    let reordered: Value =
        serde_json::from_str(r#"{"algorithm":null,"train":{"rate":0.001,"steps":4}}"#).unwrap();
    store.cell(&key(), &reordered).unwrap();
}

#[test]
fn a_damaged_checkpoint_is_an_error_and_deleting_it_is_the_way_out() {
    let root = tempfile::tempdir().unwrap();
    let cell = open(root.path()).unwrap();
    steps(&cell, 1, 4, 2);
    let newest = cell.dir().join("checkpoints/step-4");
    fs::write(newest.join("weights"), [0, 254]).unwrap();
    refused(cell.resume(), &["step-4/weights is damaged", "delete the folder"]);
    fs::remove_file(newest.join("weights")).unwrap();
    refused(cell.resume(), &["cannot read", "step-4/weights"]);
    fs::write(newest.join("manifest.json"), "{").unwrap();
    refused(cell.resume(), &["step-4/manifest.json is damaged"]);
    fs::remove_dir_all(&newest).unwrap();
    assert_eq!(cell.resume().unwrap(), Some(checkpoint(2)));
    assert_eq!(cell.metrics().unwrap().len(), 2);
}

#[test]
fn a_damaged_line_names_file_and_line() {
    let root = tempfile::tempdir().unwrap();
    let cell = open(root.path()).unwrap();
    steps(&cell, 1, 3, 3);
    let path = cell.dir().join("metrics.jsonl");
    let good = fs::read_to_string(&path).unwrap();
    for bad in ["{\"step\":2,\"met\n", "\u{0}\u{0}\n", "{\"step\":2,\"metrics\":{},\"more\":1}\n", "\n"] {
        let mut lines: Vec<&str> = good.split_inclusive('\n').collect();
        lines[1] = bad;
        fs::write(&path, lines.concat()).unwrap();
        refused(cell.metrics(), &["metrics.jsonl:2 is damaged"]);
        refused(cell.resume(), &["metrics.jsonl:2 is damaged", "delete the folder"]);
    }
    let lines: Vec<&str> = good.split_inclusive('\n').collect();
    fs::write(&path, lines[0].to_string() + lines[2]).unwrap();
    refused(cell.resume(), &["metrics.jsonl does not have exactly the steps 1 to 3"]);
}

fn samples(benchmark: &str, count: u32) -> Vec<SampleLine> {
    let line = |sample| SampleLine {
        benchmark: benchmark.into(),
        item: "item-1".into(),
        cluster: "c".into(),
        sample,
        outcome: Outcome::Correct,
        extracted: Some("\\frac{1}{2}\n".into()),
        tokens: 7,
        stop: StopReason::EndToken,
    };
    (0..count).map(line).collect()
}

#[test]
fn an_evaluation_keeps_whole_benchmarks() {
    let root = tempfile::tempdir().unwrap();
    let expected = [("count".to_string(), 3), ("sum".to_string(), 2)];
    let cell = open(root.path()).unwrap();
    let mut log = cell.sample_log(&expected).unwrap();
    log.append("count", &samples("count", 3)).unwrap();
    let partial = cell.dir().join("samples.partial.jsonl");
    let half = serde_json::to_string(&samples("sum", 1)[0]).unwrap();
    fs::write(&partial, fs::read_to_string(&partial).unwrap() + &half + "\n" + &half[..20]).unwrap();

    let mut log = cell.sample_log(&expected).unwrap();
    assert!(log.is_complete("count") && !log.is_complete("sum"));
    refused(log.append("sum", &samples("sum", 1)), &["`sum` has 1 completions and not 2"]);
    refused(log.append("sum", &samples("count", 2)), &["`sum` has 0 completions and not 2"]);
    refused(log.append("count", &samples("count", 3)), &["`count` are there twice"]);
    refused(log.append("area", &samples("area", 1)), &["`area`", "no benchmark of this evaluation"]);
    assert_eq!(cell.samples().unwrap(), None);
    refused(cell.mark_done(), &["evaluation is missing"]);
    refused(cell.sample_log(&expected).unwrap().finish(), &["`sum` has not been evaluated"]);
    log.append("sum", &samples("sum", 2)).unwrap();
    log.finish().unwrap();
    let all = [samples("count", 3), samples("sum", 2)].concat();
    assert_eq!(cell.samples().unwrap(), Some(all));
    assert!(cell.sample_log(&expected).unwrap().is_complete("sum"), "a finished evaluation stays finished");

    assert!(!cell.is_done());
    cell.mark_done().unwrap();
    drop(cell);
    assert!(open(root.path()).unwrap().is_done());
}

#[test]
fn finished_samples_are_read_strictly() {
    let root = tempfile::tempdir().unwrap();
    let cell = open(root.path()).unwrap();
    let mut log = cell.sample_log(&[("count".to_string(), 2)]).unwrap();
    log.append("count", &samples("count", 2)).unwrap();
    log.finish().unwrap();
    let path = cell.dir().join("samples.jsonl");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.trim_end()).unwrap();
    refused(cell.samples(), &["samples.jsonl:2", "no end"]);
    fs::write(&path, text.replacen("correct", "korrekt", 1)).unwrap();
    refused(cell.samples(), &["samples.jsonl:1 is damaged", "korrekt"]);
    refused(cell.sample_log(&[("count".to_string(), 2)]), &["samples.jsonl:1 is damaged"]);
    fs::write(&path, &text).unwrap();
    refused(cell.sample_log(&[("count".to_string(), 3)]), &["has 2 completions and not 3"]);
}

#[test]
fn an_artifact_is_built_once_while_others_wait() {
    let root = tempfile::tempdir().unwrap();
    let store = Store::open(root.path()).unwrap();
    let open = |waiting: fn(&Path)| store.artifact("base", "abc123", waiting).unwrap();
    let Artifact::Missing(builder) = open(|_| panic!("nobody to wait for")) else { panic!("not built yet") };
    builder.checkpoints().save(&checkpoint(5)).unwrap();
    drop(builder);
    let Artifact::Missing(builder) = open(|_| panic!("nobody to wait for")) else { panic!("not built yet") };
    assert_eq!(builder.checkpoints().newest().unwrap(), Some(checkpoint(5)), "a killed build goes on");

    let (said, hear) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        let second = scope.spawn(|| store.artifact("base", "abc123", move |_| said.send(()).unwrap()));
        hear.recv().unwrap();
        builder.publish(vec![("weights".into(), vec![1, 2, 3])]).unwrap();
        assert!(matches!(second.join().unwrap().unwrap(), Artifact::Ready(_)));
    });
    let Artifact::Ready(ready) = open(|_| panic!("already built")) else { panic!("was published") };
    let files = ready.files().unwrap();
    let names: Vec<&str> = files.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!((names, &files[1].1), (vec!["provenance.json", "weights"], &vec![1, 2, 3]));
    fs::write(ready.dir().join("weights"), [1, 2]).unwrap();
    refused(ready.files(), &["abc123/weights is damaged", "delete the folder"]);
}

#[test]
fn folders_that_cannot_be_written_are_named() {
    let root = tempfile::tempdir().unwrap();
    let file = root.path().join("file");
    fs::write(&file, "x").unwrap();
    refused(Store::open(&file), &["file is not a folder", "--out"]);
    let below = file.join("runs");
    refused(open(&below), &["cannot write", "file/runs", "--out"]);
    refused(store::write_file(&below, b"x"), &["cannot write", "file/runs"]);
    refused(store::write_files(&below, &[("a.csv", "x")]), &["cannot write", "file/runs"]);
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_named() {
    let root = tempfile::tempdir().unwrap();
    let cell = open(root.path()).unwrap();
    std::os::unix::fs::symlink("/dev/full", cell.dir().join("metrics.jsonl")).unwrap();
    refused(
        cell.log_step(1, &figures(1.0), &figures(1.0)),
        &["cannot write", "metrics.jsonl", "free disk space", "No space left"],
    );
}

#[test]
fn files_are_replaced_whole() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("results/main");
    for text in ["first, and longer", "second"] {
        store::write_files(&dir, &[("table.md", text.to_string()), ("table.csv", text.to_string())]).unwrap();
        assert_eq!(fs::read_to_string(dir.join("table.csv")).unwrap(), text);
    }
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 2, "no temporary file stays");
}

#[test]
fn missing_and_foreign_folders_are_told_apart() {
    let root = tempfile::tempdir().unwrap();
    let store = Store::open(root.path().join("runs")).unwrap();
    assert_eq!(store.cells().unwrap(), []);
    refused(store.read_only(&key()), &["there is no run tiny/main/vppo/seed-1", "config.json"]);
    for seed in [10, 9] {
        store.cell(&CellKey { seed, ..key() }, &settings()).unwrap();
    }
    drop(store.artifact("base", "abc", |_| ()).unwrap());
    fs::create_dir_all(store.root().join("tiny/main/vppo/seed-x")).unwrap();
    fs::create_dir_all(store.root().join("tiny/main/vppo/seed-3")).unwrap();
    let shown: Vec<_> = store.cells().unwrap().iter().map(ToString::to_string).collect();
    assert_eq!(shown, ["tiny/main/vppo/seed-9", "tiny/main/vppo/seed-10"]);
    refused(store.cell(&CellKey { variant: "../x".into(), ..key() }, &settings()), &["`../x` cannot name"]);
    refused(store.cell(&CellKey { scale: "artifacts".into(), ..key() }, &settings()), &["`artifacts`"]);

    let cell = open(store.root()).unwrap();
    steps(&cell, 1, 1, 1);
    let config = cell.dir().join("config.json");
    drop(cell);
    fs::remove_file(&config).unwrap();
    refused(open(store.root()), &["has results but no config.json", "delete"]);
    fs::write(&config, "{\"train\":").unwrap();
    refused(open(store.root()), &["config.json is damaged"]);
}

#[test]
fn provenance_has_one_entry_per_build() {
    let root = tempfile::tempdir().unwrap();
    drop(open(root.path()).unwrap());
    let cell = open(root.path()).unwrap();
    let entries = cell.provenance().unwrap();
    assert_eq!(entries, [store::Provenance::current()]);
    let text = read(&cell, "provenance.json").replace("\"threads\": ", "\"threads\": 1");
    fs::write(cell.dir().join("provenance.json"), text).unwrap();
    drop(cell);
    assert_eq!(open(root.path()).unwrap().provenance().unwrap().len(), 2);
}
