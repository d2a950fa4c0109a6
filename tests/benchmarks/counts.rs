//! Numbers of rows: refused, allowed, and the paper's on the full text tables.

use super::write::{Leaf, texts, write};
use super::{FIXTURES, error, expecting, files_below};
use harness::bench::{Loaded, Manifest, RowCheck, read};
use serde_json::Value;
use std::path::{Path, PathBuf};

#[test]
fn a_wrong_number_of_rows_is_refused_with_an_explanation() {
    let files = files_below(&Path::new(FIXTURES).join("mathverse"));
    let manifest = Manifest::by_name("MathVerse").unwrap();
    let source = manifest.source(None).unwrap();
    let fault = error(read(&manifest, source, &files, RowCheck::Refuse));
    for part in [
        "MathVerse from AI4Math/MathVerse: ",
        "expected 3940 rows, of which 2180 count, in 436 clusters",
        "read 5, of which 4 count, in 1 clusters (dropped: 1: the question is free-form)",
        "--allow-row-count",
    ] {
        assert!(fault.contains(part), "{part:?} is not in {fault}");
    }
    let loaded = read(&manifest, source, &files, RowCheck::Allow).unwrap();
    assert_eq!(loaded.notes.len(), 1);
    assert!(loaded.notes[0].contains("expected 3940 rows") && !loaded.notes[0].contains("--allow"));
}

#[test]
fn each_count_is_checked() {
    let files = files_below(&Path::new(FIXTURES).join("mathverse"));
    for (rows, kept, clusters, right) in [
        (5, 4, Some(1), true),
        (5, 4, None, true),
        (6, 4, Some(1), false),
        (5, 5, Some(1), false),
        (5, 4, Some(2), false),
    ] {
        let (manifest, source) = expecting("MathVerse", "original", rows, kept, clusters);
        let loaded = read(&manifest, &source, &files, RowCheck::Refuse);
        assert_eq!(loaded.is_ok(), right, "{rows} {kept} {clusters:?}");
    }
}

#[test]
fn files_that_are_not_the_sources_are_left_out() {
    let (manifest, source) = expecting("Geo3k", "original", 3, 3, Some(3));
    let mut files = files_below(&Path::new(FIXTURES).join("geo3k"));
    files.push(("data/train-00000-of-00001.parquet".to_owned(), PathBuf::from("missing")));
    assert!(read(&manifest, &source, &files, RowCheck::Refuse).is_ok());
    let fault = error(read(&manifest, &source, &files[1..], RowCheck::Allow));
    assert!(fault.contains("none of the files fits data/test-*.parquet"), "{fault}");
}

/// The folder `data` beside the one that `HARNESS_EXTRA_GOLDEN` names: full text tables of the datasets.
fn text_tables() -> Option<PathBuf> {
    let golden = PathBuf::from(std::env::var_os("HARNESS_EXTRA_GOLDEN")?);
    let data = golden.parent()?.join("data");
    data.is_dir().then_some(data)
}

fn json_lines(path: PathBuf) -> Vec<Value> {
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn column(rows: &[Value], key: &str) -> Leaf {
    texts(rows.iter().map(|row| row[key].as_str().unwrap_or_else(|| panic!("{key} of {row}"))))
}

/// Reads a dataset whose rows are complete except for the pictures; the paper's counts must come out.
fn read_all(name: &str, folder: &Path) -> Loaded {
    let manifest = Manifest::by_name(name).unwrap();
    read(&manifest, manifest.source(None).unwrap(), &files_below(folder), RowCheck::Refuse).unwrap()
}

fn any_pictures(rows: usize) -> Leaf {
    Leaf::Pictures(vec![Some(b"any".to_vec()); rows])
}

#[test]
fn golden_counts_of_dynamath() {
    let Some(data) = text_tables() else { return };
    let rows = json_lines(data.join("dynamath/all_5010_text.jsonl"));
    let folder = tempfile::tempdir().unwrap();
    for variant in 1..=10 {
        let of_variant = rows.iter().filter(|row| row["variant"] == variant).cloned();
        let rows: Vec<Value> = of_variant.collect();
        let path = folder.path().join(format!("data/sample{variant}-00000-of-00001.parquet"));
        let schema =
            "optional binary id (UTF8); optional binary question (UTF8); optional binary image (UTF8);
            optional group decoded_image { optional binary bytes; } optional binary ground_truth (UTF8);";
        let leaves = vec![
            column(&rows, "id"),
            column(&rows, "question"),
            column(&rows, "image"),
            any_pictures(rows.len()),
            column(&rows, "ground_truth"),
        ];
        write(&path, schema, leaves);
    }
    let loaded = read_all("DynaMath", folder.path());
    assert_eq!((loaded.rows_read, loaded.examples.len(), loaded.clusters), (5010, 3666, 368));
}

#[test]
fn golden_counts_of_mathvision() {
    let Some(data) = text_tables() else { return };
    let rows = json_lines(data.join("mathvision/test_all_3040_text.jsonl"));
    let folder = tempfile::tempdir().unwrap();
    let schema = "optional binary id (UTF8); optional binary question (UTF8);
        optional group options (LIST) { repeated group list { optional binary element (UTF8); } }
        optional group decoded_image { optional binary bytes; } optional binary answer (UTF8);";
    let leaves = vec![
        column(&rows, "id"),
        column(&rows, "question"),
        Leaf::NoLists(rows.len()),
        any_pictures(rows.len()),
        column(&rows, "answer"),
    ];
    write(&folder.path().join("data/test-00000-of-00001.parquet"), schema, leaves);
    let loaded = read_all("MathVision", folder.path());
    assert_eq!((loaded.rows_read, loaded.examples.len(), loaded.clusters), (3040, 2907, 2907));
}

/// The text-only version of each problem stands in for its five versions with picture.
#[test]
fn golden_counts_of_mathverse() {
    let Some(data) = text_tables() else { return };
    let text = std::fs::read(data.join("mathverse/testmini_text_only_788.json")).unwrap();
    let mut rows: Vec<Value> = serde_json::from_slice(&text).unwrap();
    rows = rows.iter().flat_map(|row| std::iter::repeat_n(row.clone(), 5)).collect();
    let folder = tempfile::tempdir().unwrap();
    let schema =
        "required int64 sample_index; optional binary problem_index (UTF8); optional binary question (UTF8);
        optional group image { optional binary bytes; } optional binary answer (UTF8);
        optional binary question_type (UTF8); optional binary query_cot (UTF8);";
    let leaves = vec![
        Leaf::Numbers((1..=rows.len() as i64).collect()),
        column(&rows, "problem_index"),
        column(&rows, "question"),
        any_pictures(rows.len()),
        column(&rows, "answer"),
        column(&rows, "question_type"),
        column(&rows, "query_cot"),
    ];
    write(&folder.path().join("testmini.parquet"), schema, leaves);
    let loaded = read_all("MathVerse", folder.path());
    assert_eq!((loaded.rows_read, loaded.examples.len(), loaded.clusters), (3940, 2180, 436));
    assert_eq!(loaded.filtered, [("the question is free-form".to_owned(), 1760)]);
}

/// One row per composite problem part, as far as rows are there; the real set has 525 problems.
#[test]
fn golden_clusters_of_wemath() {
    let Some(data) = text_tables() else { return };
    let rows = json_lines(data.join("wemath/rows.jsonl"));
    let folder = tempfile::tempdir().unwrap();
    let schema = "optional binary ID (UTF8); optional binary key (UTF8); optional binary question (UTF8);
        optional binary option (UTF8); optional binary answer (UTF8);
        optional group image_path { optional binary bytes; }";
    let leaves = vec![
        column(&rows, "ID"),
        column(&rows, "key"),
        column(&rows, "question"),
        column(&rows, "option"),
        column(&rows, "answer"),
        any_pictures(rows.len()),
    ];
    write(&folder.path().join("data/testmini-00000-of-00001.parquet"), schema, leaves);
    let (manifest, source) = expecting("We-Math", "original", 420, 420, Some(360));
    read(&manifest, &source, &files_below(folder.path()), RowCheck::Refuse).unwrap();
}
