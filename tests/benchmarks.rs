//! The datasets of the paper: manifests, adapters on real rows, checks of counts, damaged files.
//!
//! `tests/golden/benchmarks/README.md` says where the rows come from.

mod adapters;
mod counts;
mod damage;
mod write;

use harness::bench::manifest::{Expected, Manifest, Role, Source};
use harness::bench::{Loaded, RowCheck, read};
use std::path::{Path, PathBuf};

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/benchmarks");

/// The files below a folder with their paths in it.
fn files_below(root: &Path) -> Vec<(String, PathBuf)> {
    let mut files = Vec::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        let entries = std::fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
        for path in entries.map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                folders.push(path);
            } else {
                let inside = path.strip_prefix(root).unwrap().to_string_lossy().replace('\\', "/");
                files.push((inside, path));
            }
        }
    }
    files.sort();
    files
}

/// A manifest and one of its sources, which expects other counts.
fn expecting(
    name: &str,
    source: &str,
    read: usize,
    kept: usize,
    clusters: Option<usize>,
) -> (Manifest, Source) {
    let manifest = Manifest::by_name(name).unwrap();
    let mut source = manifest.source(Some(source)).unwrap().clone();
    source.expected = Expected { read, kept, clusters };
    (manifest, source)
}

fn error(result: anyhow::Result<Loaded>) -> String {
    format!("{:#}", result.unwrap_err())
}

#[test]
fn the_eight_benchmarks_are_the_columns_of_the_papers_table() {
    let table = concat!(env!("CARGO_MANIFEST_DIR"), "/../results/paper/tables.csv");
    let table = std::fs::read_to_string(table).unwrap();
    let header: Vec<&str> = table.lines().next().unwrap().split(',').collect();
    let manifests = Manifest::all().unwrap();
    let of_role = |role| manifests.iter().filter(move |manifest| manifest.role == role);
    let names: Vec<&str> = of_role(Role::Benchmark).map(|manifest| manifest.name.as_str()).collect();
    assert_eq!(names, header[3..11]);
    assert_eq!(names, harness::bench::tiny::FAMILIES);
    let kept = |source: &str| -> Vec<usize> {
        of_role(Role::Benchmark)
            .map(|manifest| manifest.source(Some(source)).unwrap().expected.kept)
            .collect()
    };
    assert_eq!(kept("original"), [2180, 3666, 2000, 601, 2907, 1740, 447, 1730]);
    assert_eq!(kept("vppo_eval"), kept("original"));
    assert_eq!(kept("original").iter().sum::<usize>(), 15_271);
    assert_eq!(of_role(Role::Training).next().unwrap().source(None).unwrap().expected.kept, 38_870);
    assert_eq!(of_role(Role::Validation).next().unwrap().source(None).unwrap().expected.kept, 2000);
}

/// Every manifest in the folder is embedded, and nothing in it contradicts itself.
#[test]
fn the_manifests_are_complete() {
    let manifests = Manifest::all().unwrap();
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../datasets");
    let mut stems: Vec<String> = manifests.iter().map(|manifest| manifest.stem.clone() + ".toml").collect();
    stems.push("README.md".to_owned());
    stems.sort();
    let lying: Vec<String> = files_below(Path::new(folder)).into_iter().map(|(path, _)| path).collect();
    assert_eq!(lying, stems);
    for manifest in manifests {
        let facts = &manifest.facts;
        let statements = facts.card.len() + facts.held.len() + facts.unconfirmed.len();
        assert!(statements > 0 && !manifest.cited.is_empty() && !manifest.sources.is_empty(), "{manifest:?}");
        for source in &manifest.sources {
            assert!(source.hub.split('/').count() == 2 && source.revision == "main", "{source:?}");
            assert!(source.expected.kept <= source.expected.read && !source.files.is_empty(), "{source:?}");
        }
    }
}

#[test]
fn a_manifest_is_found_by_column_or_file_in_any_case() {
    for name in ["We-Math", "wemath", "WE-MATH"] {
        assert_eq!(Manifest::by_name(name).unwrap().name, "We-Math");
    }
    let fault = Manifest::by_name("MathVers").unwrap_err().to_string();
    assert!(
        fault.contains("did you mean \"MathVerse\"?") && fault.contains("LogicVista, MMMU-Pro, ViRL39K"),
        "{fault}"
    );
    let fault = Manifest::by_name("qqq").unwrap_err().to_string();
    assert!(!fault.contains("did you mean"), "{fault}");
    let fault = Manifest::by_name("Geo3k").unwrap().source(Some("papo")).unwrap_err().to_string();
    assert_eq!(fault, "Geo3k has no source \"papo\"; it has original, vppo_eval");
}

/// Reads a fixture folder; the counts may differ.
fn read_fixture(folder: &str, source: &str) -> Loaded {
    let name = folder.split('/').next().unwrap();
    let manifest = Manifest::by_name(name).unwrap();
    let files = files_below(&Path::new(FIXTURES).join(folder));
    read(&manifest, manifest.source(Some(source)).unwrap(), &files, RowCheck::Allow).unwrap()
}
