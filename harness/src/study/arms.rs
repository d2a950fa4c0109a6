//! The arms of a study in words: what each changes, where its cells are kept and how far they are.

use super::{Plan, RunConfig, find};
use crate::algo::Algorithm;
use crate::config::{Difference, Variant, changes};
use crate::store::{CellKey, Store, canonical_json, content_hash};
use anyhow::Result;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt;

/// How far a cell is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum CellState {
    Done,
    Begun,
    ToDo,
    /// It was made with other settings than those asked for.
    Other,
}

impl CellState {
    const ALL: [CellState; 4] = [CellState::Done, CellState::Begun, CellState::ToDo, CellState::Other];

    fn of(store: &Store, config: &RunConfig) -> Result<CellState> {
        let Some(cell) = find(store, &config.key())? else { return Ok(CellState::ToDo) };
        let same = content_hash(&cell.config()?) == config.hash()?;
        Ok(match (same, cell.is_done()) {
            (false, _) => CellState::Other,
            (true, true) => CellState::Done,
            (true, false) => CellState::Begun,
        })
    }
}

impl fmt::Display for CellState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            CellState::Done => "done",
            CellState::Begun => "begun",
            CellState::ToDo => "to do",
            CellState::Other => "other settings",
        })
    }
}

/// The arms asked for, each with what it changes; a line each, those of changes indented.
pub fn arms(plan: &Plan) -> Result<Vec<String>> {
    let mut lines = vec![];
    for name in &plan.variants {
        lines.extend(arm(plan, plan.study.variant(name)?)?);
    }
    Ok(lines)
}

fn arm(plan: &Plan, variant: &Variant) -> Result<Vec<String>> {
    let found = changes::<Algorithm>(&plan.scale, &plan.study, variant, &plan.overrides)?;
    let what = match plan.study.reference(variant) {
        None => "the others are compared with it".to_owned(),
        Some(reference) if found.is_empty() => format!("changes nothing in {reference} with these settings"),
        Some(reference) => format!("changes in {reference}"),
    };
    let shared = plan.shared_with(&variant.name)?.map_or(String::new(), |arm| format!("; same run as {arm}"));
    let mut lines = vec![format!("{}: {}; {what}{shared}", variant.name, variant.label)];
    lines.extend(found.iter().map(|difference| format!("  {}", in_words(difference))));
    Ok(lines)
}

fn in_words(difference: &Difference) -> String {
    format!("{}: {} -> {}", difference.key, shown(&difference.left), shown(&difference.right))
}

/// A value as one writes it; a whole part of the algorithm, which has many, as `{...}`.
pub(super) fn shown(value: &Option<Value>) -> String {
    match value {
        None | Some(Value::Null) => "none".into(),
        Some(Value::Object(part)) if !part.contains_key("name") => "{...}".into(),
        Some(value) => canonical_json(value),
    }
}

/// One study: its arms, what they change, and the state of their cells.
pub fn list_arms(plan: &Plan) -> Result<String> {
    let (study, store) = (&plan.study, plan.store()?);
    let mut text = format!("{}: {}\n", study.name, study.question);
    text += &format!("paper: {}; scale {}\n", study.paper, plan.scale.name);
    for name in &plan.variants {
        text += &format!("\n{}\n", arm(plan, study.variant(name)?)?.join("\n"));
        for &seed in &plan.seeds {
            let config = plan.config(name, seed)?;
            text += &format!("  {}: {}\n", config.key(), CellState::of(&store, &config)?);
        }
    }
    Ok(text)
}

/// A table of studies with the number of their cells by state. All must have the same scale and folder.
pub fn list(plans: &[Plan]) -> Result<String> {
    let mut text = format!("{:<20}{:<18}{:>4}  {}  question\n", "study", "paper", "arms", header());
    let mut all: BTreeMap<CellKey, CellState> = BTreeMap::new();
    let mut uses = 0;
    for plan in plans {
        let store = plan.store()?;
        let mut states = vec![];
        for config in plan.configs()? {
            let state = CellState::of(&store, &config)?;
            states.push(state);
            all.insert(config.key(), state);
        }
        uses += states.len();
        let Plan { study, variants, .. } = plan;
        let (name, paper, counts) = (&study.name, &study.paper, counts(&states));
        text += &format!("{name:<20}{paper:<18}{:>4}  {counts}  {}\n", variants.len(), study.question);
    }
    let states: Vec<CellState> = all.into_values().collect();
    text += &format!("{:<20}{:<18}{:>4}  {}\n", "each cell once", "", "", counts(&states));
    text += &format!(
        "\nCells (an arm with one seed): {uses} in the studies, {} in all, since studies share arms with the same \
         settings.\n",
        states.len()
    );
    Ok(text)
}

fn header() -> String {
    CellState::ALL.map(|state| format!("{state:>5}")).join("  ")
}

/// The number of cells in each state, under the columns of the header.
fn counts(states: &[CellState]) -> String {
    let column = |state: CellState| {
        let count = states.iter().filter(|found| **found == state).count();
        format!("{count:>width$}", width = state.to_string().len().max(5))
    };
    CellState::ALL.map(column).join("  ")
}
