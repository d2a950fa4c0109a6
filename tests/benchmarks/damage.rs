//! Files that are not what they should be.

use super::write::{Leaf, texts, write};
use super::{FIXTURES, error};
use harness::bench::{Loaded, Manifest, RowCheck, read};
use std::fs;
use std::path::{Path, PathBuf};

/// Reads one file as MMK12's.
fn read_mmk12(file: &Path) -> anyhow::Result<Loaded> {
    let manifest = Manifest::by_name("MMK12").unwrap();
    let files = [("data/test-0.parquet".to_owned(), PathBuf::from(file))];
    read(&manifest, manifest.source(None).unwrap(), &files, RowCheck::Allow)
}

fn fault_of(schema: &str, leaves: Vec<Leaf>) -> String {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("x.parquet");
    write(&file, schema, leaves);
    error(read_mmk12(&file))
}

const TEXTS: &str = "optional binary question (UTF8); optional binary answer (UTF8);";

#[test]
fn unknown_columns_print_the_schema() {
    let schema = "optional binary question (UTF8); required int64 answer; optional group image { optional binary bytes; }";
    let leaves = vec![texts(["q"]), Leaf::Numbers(vec![1]), Leaf::Pictures(vec![Some(b"p".to_vec())])];
    let fault = fault_of(schema, leaves);
    for part in [
        "MMK12 from FanqingM/MMK12: data/test-0.parquet: ",
        "the file's columns are:\n  question: string\n  answer: int64\n  image: struct<bytes: binary>",
        "no column for `answer`: it must be called answer and hold texts",
    ] {
        assert!(fault.contains(part), "{part:?} is not in {fault}");
    }
}

#[test]
fn a_picture_without_bytes_and_a_null_answer_name_row_and_column() {
    let schema = format!("{TEXTS} optional group photo {{ optional binary bytes; }}");
    for (answers, pictures, named) in [
        (vec![Some("1"), Some("2")], vec![Some("p"), None], "row 2: column `photo`: a picture has no bytes"),
        (
            vec![Some("1"), Some("2")],
            vec![Some(""), Some("p")],
            "row 1: column `photo`: a picture has no bytes",
        ),
        (vec![Some("1"), None], vec![Some("p"), Some("p")], "row 2: column `answer` is null"),
        (vec![Some("1"), Some(" ")], vec![Some("p"), Some("p")], "row 2: the answer is empty"),
    ] {
        let leaf = |values: Vec<Option<&str>>| {
            values.into_iter().map(|v| v.map(|v| v.as_bytes().to_vec())).collect()
        };
        let leaves = vec![texts(["q", "r"]), Leaf::Bytes(leaf(answers)), Leaf::Pictures(leaf(pictures))];
        let fault = fault_of(&schema, leaves);
        assert!(fault.contains(&format!("data/test-0.parquet: {named}")), "{named:?} is not in {fault}");
    }
}

#[test]
fn plain_binary_is_a_picture_and_ids_are_unique() {
    let schema = format!("required int64 id; {TEXTS} optional binary picture;");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("x.parquet");
    let leaves = |ids: [i64; 2]| {
        let pictures = Leaf::Bytes(vec![Some(b"p".to_vec()), Some(b"q".to_vec())]);
        vec![Leaf::Numbers(ids.to_vec()), texts(["q", "r"]), texts(["1", "2"]), pictures]
    };
    write(&file, &schema, leaves([7, 8]));
    let ids: Vec<String> =
        read_mmk12(&file).unwrap().examples.into_iter().map(|example| example.id).collect();
    assert_eq!(ids, ["7", "8"]);
    let fault = fault_of(&schema, leaves([7, 7]));
    assert!(fault.contains("row 2: the id \"7\" is that of data/test-0.parquet, row 1 already"), "{fault}");
}

#[test]
fn stray_markers_in_a_question_are_errors() {
    let schema = format!("{TEXTS} optional group image {{ optional binary bytes; }}");
    for (question, named) in [
        ("a <image> or <image>?", "row 1: the question has 2 <image> places, but there are 1 pictures"),
        ("a <|image_pad|>?", "row 1: the question contains the model's token <|image_pad|>"),
        ("  ", "row 1: the question is empty"),
    ] {
        let leaves = vec![texts([question]), texts(["1"]), Leaf::Pictures(vec![Some(b"p".to_vec())])];
        let fault = fault_of(&schema, leaves);
        assert!(fault.contains(named), "{named:?} is not in {fault}");
    }
}

#[test]
fn what_is_no_parquet_file_is_an_error_that_names_it() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("x.parquet");
    let whole = fs::read(Path::new(FIXTURES).join("mmk12/data/test-00000-of-00001.parquet")).unwrap();
    for content in
        [&b""[..], b"PAR1", b"version https://git-lfs.github.com/spec/v1", &whole[..whole.len() - 5]]
    {
        fs::write(&file, content).unwrap();
        let fault = error(read_mmk12(&file));
        assert!(fault.contains("data/test-0.parquet: this is no readable Parquet file"), "{fault}");
    }
    let fault = error(read_mmk12(Path::new("missing.parquet")));
    assert!(fault.contains("missing.parquet cannot be opened"), "{fault}");
}

/// Whatever byte is broken, reading ends: with rows or with an error that names the file.
#[test]
fn a_damaged_file_never_panics() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("x.parquet");
    let whole = fs::read(Path::new(FIXTURES).join("mmk12/data/test-00000-of-00001.parquet")).unwrap();
    let mut refused = 0;
    for position in (0..whole.len()).step_by(7) {
        let mut broken = whole.clone();
        broken[position] ^= 0xff;
        fs::write(&file, &broken).unwrap();
        if let Err(fault) = read_mmk12(&file) {
            refused += 1;
            assert!(format!("{fault:#}").contains("data/test-0.parquet: "), "{fault:#}");
        }
    }
    assert!(refused > 100, "{refused}");
}
