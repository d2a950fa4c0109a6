//! The committed tables: each follows from its items, or from its numbers where the items are not committed, to the byte;
//! none changes unnoticed.

use harness::report::{Arm, ArmState, Table, files, items_by_arm, parse_items};
use std::fs;
use std::path::{Path, PathBuf};

/// The folder of the tables, one for each list of seeds.
fn tiny() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../results/tiny")
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A committed table: its folder, its study, itself, and its arms with the scores of the committed items.
struct Committed {
    dir: PathBuf,
    study: String,
    table: Table,
    arms: Option<Vec<Arm>>,
}

impl Committed {
    fn open(dir: &Path, study: &str) -> Committed {
        let table: Table = serde_json::from_str(&read(&dir.join(format!("{study}.json")))).unwrap();
        let items = dir.join(format!("{study}.items.csv"));
        let arms = items.is_file().then(|| {
            let mut scores = items_by_arm(parse_items(&read(&items), study).unwrap());
            let arm = |row: &harness::report::ScoreRow| Arm {
                key: row.key.clone(),
                label: row.label.clone(),
                state: scores.remove(&row.key).map_or(ArmState::NotRun, ArmState::Measured),
            };
            table.rows.iter().map(arm).collect()
        });
        Committed { dir: dir.to_owned(), study: study.to_owned(), table, arms }
    }

    fn all() -> Vec<Committed> {
        let mut found = vec![];
        let folders = fs::read_dir(tiny()).unwrap().map(|entry| entry.unwrap().path());
        for dir in folders.filter(|path| path.is_dir()).chain([tiny()]) {
            for entry in fs::read_dir(&dir).unwrap() {
                let name = entry.unwrap().file_name().into_string().unwrap();
                found.extend(name.strip_suffix(".json").map(|study| Committed::open(&dir, study)));
            }
        }
        assert!(!found.is_empty(), "the tables are there");
        found
    }

    /// The table's files, made anew; without the items where they are not committed.
    fn again(&self) -> Vec<(String, String)> {
        let table = match &self.arms {
            Some(arms) => Table::new(self.table.spec.clone(), arms).unwrap(),
            None => self.table.clone(),
        };
        let mut files = files(&self.study, &table, self.arms.as_deref().unwrap_or_default()).unwrap();
        files.retain(|(name, _)| self.arms.is_some() || !name.ends_with(".items.csv"));
        files
    }
}

#[test]
fn committed_tables_follow_from_their_items_or_numbers() {
    for table in Committed::all() {
        for (name, text) in table.again() {
            assert!(
                text == read(&table.dir.join(&name)),
                "{} does not follow",
                table.dir.join(name).display()
            );
        }
    }
}

#[test]
fn one_completion_less_shows() {
    let Committed { table, arms, .. } = Committed::open(&tiny(), "main");
    let mut arms = arms.unwrap();
    assert_eq!(arms.len(), 6);
    let ArmState::Measured(scores) = &mut arms[0].state else { panic!("the base model is not measured") };
    let score = scores.iter_mut().find(|score| score.correct > 0).unwrap();
    score.correct -= 1;
    let other = Table::new(table.spec.clone(), &arms).unwrap();
    assert_ne!(other.markdown(), table.markdown());
}

/// After a change of the format: `cargo test --test tests -- --ignored rewrite_committed_tables`.
#[test]
#[ignore = "writes results/tiny"]
fn rewrite_committed_tables() {
    for table in Committed::all() {
        for (name, text) in table.again() {
            fs::write(table.dir.join(name), text).unwrap();
        }
    }
}

#[test]
fn the_tiny_table_is_what_it_was() {
    insta::with_settings!({ snapshot_path => "snapshots", prepend_module_to_snapshot => false }, {
        insta::assert_snapshot!("results__tiny_main", read(&tiny().join("main.md")));
    });
}
