//! Every adapter on a few real rows in the hub's layout.

use super::{FIXTURES, error, expecting, files_below, read_fixture};
use harness::bench::{Loaded, Manifest, RowCheck, read};
use harness::image::{Alpha, AreaRule, prepare};
use harness::types::Picture;
use std::path::Path;

/// Id, cluster and answer of each example, after checking what holds for all.
fn summary(loaded: &Loaded, benchmark: &str) -> Vec<[String; 3]> {
    let area = AreaRule { min_pixels: 1, max_pixels: 1_003_520 };
    let mut rows = Vec::new();
    for example in &loaded.examples {
        assert_eq!(example.benchmark, benchmark);
        for picture in &example.images {
            let rgb = prepare(picture, area, Alpha::Drop).unwrap();
            assert!(rgb.width * rgb.height > 20, "{}", example.id);
        }
        assert_eq!(example.problem.matches("<image>").count(), example.images.len());
        rows.push([example.id.clone(), example.cluster.clone(), example.answer.clone()]);
    }
    rows
}

fn check(folder: &str, source: &str, name: &str, read: usize, expected: &[[&str; 3]]) -> Loaded {
    let loaded = read_fixture(folder, source);
    assert_eq!(summary(&loaded, name), expected);
    assert_eq!(loaded.rows_read, read);
    loaded
}

fn problems(loaded: &Loaded) -> Vec<&str> {
    loaded.examples.iter().map(|example| example.problem.as_str()).collect()
}

fn bytes(picture: &Picture) -> &[u8] {
    match picture {
        Picture::Encoded(bytes) => bytes,
        Picture::Rgb(_) => panic!("the pictures of files are encoded"),
    }
}

#[test]
fn mathverse() {
    let rows = [
        ["105", "problem-27", "B"],
        ["106", "problem-27", "B"],
        ["107", "problem-27", "B"],
        ["3940", "problem-27", "B"],
    ];
    let loaded = check("mathverse", "original", "MathVerse", 5, &rows);
    assert_eq!(loaded.filtered, [("the question is free-form".to_owned(), 1)]);
    assert_eq!(loaded.clusters, 1);
    assert_eq!(
        problems(&loaded)[1..],
        [
            "<image>Does the graphed function have an even or odd power?\nChoices:\nA:Odd\nB:Even",
            "<image>Does the graphed function have an even or odd power?\nChoices:\nA:Odd\nB:Even",
            "<image>(made up) Reason about the question in the picture, then give a letter.",
        ]
    );
}

/// Versions that show the same picture hold its bytes once.
#[test]
fn pictures_are_held_once() {
    let loaded = read_fixture("mathverse", "original");
    let first = bytes(&loaded.examples[0].images[0]);
    assert!(loaded.examples.iter().all(|example| std::ptr::eq(bytes(&example.images[0]), first)));
}

#[test]
fn dynamath() {
    let rows = [
        ["sample1/29", "seed-29", "B"],
        ["sample1/44", "seed-44", "9"],
        ["sample2/29", "seed-29", "B"],
        ["sample2/44", "seed-44", "9"],
    ];
    let loaded = check("dynamath", "original", "DynaMath", 5, &rows);
    assert_eq!(loaded.filtered, [("the answer is neither an integer nor one capital letter".to_owned(), 1)]);
    assert_eq!(loaded.clusters, 2);
    assert_eq!(problems(&loaded)[0], "<image>Is the number of square even or odd? choice: (A) even (B) odd");
}

#[test]
fn mmk12() {
    let (a, b) = ("fd23563f-f268-49cd-9f3f-f692e2d21861", "747e9edd-7856-4a47-a858-06b39dffea2c");
    let loaded = check("mmk12", "original", "MMK12", 2, &[[a, a, "$\\frac{a}{2}$"], [b, b, "9"]]);
    assert!(problems(&loaded)[0].starts_with("<image>As shown in the figure, point C is a point"));
}

#[test]
fn geo3k() {
    let rows = [["11", "11", "80"], ["12", "12", "13"], ["13", "13", "9"]];
    let loaded = check("geo3k", "original", "Geo3k", 3, &rows);
    assert_eq!(
        problems(&loaded)[1],
        "<image>Find x. Assume that segments that appear to be tangent are tangent."
    );
}

#[test]
fn mathvision() {
    let rows = [["437", "437", "4"], ["748", "748", "B"], ["1696", "1696", "B"], ["526", "526", "21"]];
    let loaded = check("mathvision", "original", "MathVision", 5, &rows);
    let problems = problems(&loaded);
    assert!(problems[0].ends_with("How many different squares can we then make?\n<image>"));
    assert!(problems[1].ends_with(
        "overlap.\n<image>\n(A) $36 \\mathrm{~cm}^{2}$\n(B) $45 \\mathrm{~cm}^{2}$\n(C) $54 \\mathrm{~cm}^{2}$\n\
         (D) $63 \\mathrm{~cm}^{2}$\n(E) $72 \\mathrm{~cm}^{2}$"
    ));
    assert!(problems[2].ends_with("should the sixth tree be planted? <image>"));
    assert!(problems[3].contains("no square <image> that is made") && problems[3].ends_with("\n<image2>"));
}

#[test]
fn wemath() {
    let rows = [
        ["2steps_1/2steps_1", "2steps/2steps_1", "B"],
        ["2steps_1/2steps_multi", "2steps/2steps_1", "C"],
        ["2steps_2/2steps_1", "2steps/2steps_2", "A"],
    ];
    let loaded = check("wemath", "original", "We-Math", 3, &rows);
    assert_eq!(
        problems(&loaded)[2],
        "<image>What is the rectangle's perimeter in metres?\nA. 10; B. 6; C. 5; D. 4; E. No correct answer"
    );
}

#[test]
fn logicvista() {
    let rows = [["v1_306", "v1_306", "C"], ["v1_305", "v1_305", "A"]];
    let loaded = check("logicvista", "original", "LogicVista", 3, &rows);
    assert_eq!(loaded.filtered, [("the answer is missing".to_owned(), 1)]);
}

#[test]
fn mmmu_pro() {
    let id = "validation_Energy_and_Power_24";
    let loaded = check("mmmu_pro", "original", "MMMU-Pro", 1, &[[id, id, "E"]]);
    assert_eq!(problems(&loaded), ["<image>Answer the following multiple-choice question in the image."]);
}

/// The training set's columns are those of Geo3k, of which the older revision has no ids.
#[test]
fn virl39k() {
    let (manifest, source) = expecting("virl39k", "original", 3, 3, Some(3));
    let file = Path::new(FIXTURES).join("geo3k/data/test-00000-of-00001.parquet");
    let files = [("data/train-00000-of-00001.parquet".to_owned(), file)];
    let loaded = read(&manifest, &source, &files, RowCheck::Refuse).unwrap();
    assert_eq!(summary(&loaded, "ViRL39K")[0], ["11", "11", "80"]);
    assert!(loaded.notes.is_empty());
}

#[test]
fn virl39k_repack_has_boxes_several_pictures_and_none() {
    let rows = [["Geo-1", "Geo-1", "80"], ["Geo-2", "Geo-2", "13"], ["Text-1", "Text-1", "4"]];
    let loaded = check("virl39k/repack", "repack", "ViRL39K", 3, &rows);
    let pictures: Vec<usize> = loaded.examples.iter().map(|example| example.images.len()).collect();
    assert_eq!(pictures, [1, 2, 0]);
    assert_eq!(bytes(&loaded.examples[0].images[0]), bytes(&loaded.examples[1].images[1]));
}

#[test]
fn the_authors_bundle() {
    let (manifest, source) = expecting("DynaMath", "vppo_eval", 3, 3, Some(2));
    let files = files_below(&Path::new(FIXTURES).join("vppo_eval"));
    let loaded = read(&manifest, &source, &files, RowCheck::Refuse).unwrap();
    let rows = summary(&loaded, "DynaMath");
    assert_eq!(rows[..2], [["test_0", "seed-29", "B"], ["test_1", "seed-29", "9"]]);
    assert!(
        rows[2][0] == "test_2" && rows[2][1].starts_with("picture-") && rows[2][1].len() == 24,
        "{rows:?}"
    );
    assert!(problems(&loaded)[0].ends_with("choice: (A) even (B) odd"));
    assert!(problems(&loaded)[1].ends_with("area of the green rectangle. "));
    assert!(
        loaded.notes.len() == 1 && loaded.notes[0].contains("clusters of 1 rows are told by"),
        "{:?}",
        loaded.notes
    );
}

#[test]
fn the_bundles_faults_name_the_row() {
    let manifest = Manifest::by_name("DynaMath").unwrap();
    let source = manifest.source(Some("vppo_eval")).unwrap();
    let all = files_below(&Path::new(FIXTURES).join("vppo_eval"));
    let list = "data/vppo/DynaMath_DynaMath_Sample.json";
    let without =
        |name: &str| -> Vec<_> { all.iter().filter(|(path, _)| !path.contains(name)).cloned().collect() };
    let fault = error(read(&manifest, source, &without("plain.png"), RowCheck::Allow));
    assert!(
        fault.contains(&format!(
            "{list}, row 3: the picture data/images/DynaMath_DynaMath_Sample/plain.png is not"
        )),
        "{fault}"
    );
    let fault = error(read(&manifest, source, &without("vppo/"), RowCheck::Allow));
    assert!(fault.contains("there must be one list called DynaMath_DynaMath_Sample.json"), "{fault}");

    let folder = tempfile::tempdir().unwrap();
    let broken = folder.path().join("list.json");
    for (text, named) in [
        ("{", "is no list of rows in JSON"),
        (r#"[{"messages": 1}]"#, "row 1: the row is no conversation: invalid type"),
        (
            r#"[{"messages": [{"role": "user", "content": "q"}]}]"#,
            "row 1: there is no message of the assistant",
        ),
        (
            r#"[{"messages": [{"role": "user", "content": "q"}, {"role": "user", "content": "q"}]}]"#,
            "row 1: there are several messages of the user",
        ),
        (
            r#"[{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": " "}]}]"#,
            "row 1: the answer is empty",
        ),
    ] {
        std::fs::write(&broken, text).unwrap();
        let fault = error(read(&manifest, source, &[(list.to_owned(), broken.clone())], RowCheck::Allow));
        assert!(fault.contains(named), "{named:?} is not in {fault}");
    }

    // A second list of that name: dataset_info.json decides.
    let mut two = all.clone();
    std::fs::write(&broken, "[]").unwrap();
    two.push(("data/papo/DynaMath_DynaMath_Sample.json".to_owned(), broken));
    assert_eq!(read(&manifest, source, &two, RowCheck::Allow).unwrap().rows_read, 3);
}
