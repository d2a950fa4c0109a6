//! The committed tables: each follows from its items to the byte, and none changes unnoticed.

use harness::report::{Arm, ArmState, Table, files, items_by_arm, parse_items};

fn path(file: &str) -> String {
    format!("{}/../results/tiny/{file}", env!("CARGO_MANIFEST_DIR"))
}

fn committed(file: &str) -> String {
    let path = path(file);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The committed table of a study, and its arms with the scores of the committed items.
fn table(study: &str) -> (Table, Vec<Arm>) {
    let table: Table = serde_json::from_str(&committed(&format!("{study}.json"))).unwrap();
    let file = format!("{study}.items.csv");
    let mut scores = items_by_arm(parse_items(&committed(&file), &file).unwrap());
    let arms = table.rows.iter().map(|row| Arm {
        key: row.key.clone(),
        label: row.label.clone(),
        state: scores.remove(&row.key).map_or(ArmState::NotRun, ArmState::Measured),
    });
    (table.clone(), arms.collect())
}

#[test]
fn committed_tables_follow_from_their_items() {
    let (stored, mut arms) = table("main");
    assert_eq!(arms.len(), 6);
    let again = Table::new(stored.spec.clone(), &arms).unwrap();
    for (name, text) in files("main", &again, &arms).unwrap() {
        assert_eq!(text, committed(&name), "results/tiny/{name}");
    }
    let ArmState::Measured(scores) = &mut arms[0].state else { panic!("the base model is not measured") };
    let score = scores.iter_mut().find(|score| score.correct > 0).unwrap();
    score.correct -= 1;
    let other = Table::new(stored.spec, &arms).unwrap();
    assert_ne!(other.markdown(), committed("main.md"), "one completion less must show");
}

/// After a change of the format: `cargo test --test tests -- --ignored rewrite_committed_tables`.
#[test]
#[ignore = "writes results/tiny"]
fn rewrite_committed_tables() {
    let (stored, arms) = table("main");
    let again = Table::new(stored.spec, &arms).unwrap();
    for (name, text) in files("main", &again, &arms).unwrap() {
        if name != "main.items.csv" {
            std::fs::write(path(&name), text).unwrap();
        }
    }
}

#[test]
fn the_tiny_table_is_what_it_was() {
    insta::with_settings!({ snapshot_path => "snapshots", prepend_module_to_snapshot => false }, {
        insta::assert_snapshot!("results__tiny_main", committed("main.md"));
    });
}
