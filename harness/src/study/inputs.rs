//! What a cell was made from besides its settings: which checkpoint, which rows. It stands in the cell's folder as
//! `inputs.json`, so that a run on other data is never taken for the same, and tables can say what was left out.

use super::forecast::downloads;
use super::{RunConfig, Sources};
use crate::hub::Hub;
use crate::report::{Arm, ArmState};
use crate::stats::ItemScore;
use crate::types::{Example, Picture};
use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::collections::BTreeSet;

/// What was read of a dataset.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataRecord {
    /// Its name: the column of a benchmark.
    pub dataset: String,
    /// The name of its source.
    pub source: String,
    /// The repository's id.
    pub repository: String,
    /// The commit that was fetched; none for copies in a folder.
    pub commit: Option<String>,
    /// Rows in the files.
    pub rows_read: usize,
    /// Questions after the filter.
    pub questions: usize,
    /// Why rows were left out, and how many.
    pub left_out: Vec<(String, usize)>,
    /// What a reader of the results must know.
    pub notes: Vec<String>,
    /// BLAKE3 of the questions and pictures.
    pub content: String,
}

/// What a cell was made from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Inputs {
    /// BLAKE3 of the base model's files, where it was not made here.
    pub checkpoint: Option<String>,
    /// The commit of its repository, where it was fetched.
    pub checkpoint_commit: Option<String>,
    /// Training set and benchmarks.
    pub data: Vec<DataRecord>,
}

impl Inputs {
    /// Refuses a finished cell whose data or checkpoint the lock file pins to other commits by now.
    pub fn check_pins(&self, config: &RunConfig, sources: &Sources) -> Result<()> {
        if sources.folder.is_some() {
            return Ok(());
        }
        let hub = Hub::new(sources.hub.clone())?;
        for wanted in downloads(config)? {
            let Ok(pinned) = hub.find(&wanted) else { continue };
            let of_data = self.data.iter().filter(|record| record.repository == wanted.repo.id);
            let mut used: Vec<&String> = of_data.filter_map(|record| record.commit.as_ref()).collect();
            if config.checkpoint.as_ref().is_some_and(|checkpoint| checkpoint.repo == wanted.repo.id) {
                used.extend(&self.checkpoint_commit);
            }
            ensure!(
                used.iter().all(|commit| **commit == pinned.commit),
                "{} was made with {} at another commit than the lock pins ({}): choose another folder with --out, or \
                 delete it to run it again",
                config.key(),
                wanted.repo.id,
                pinned.commit
            );
        }
        Ok(())
    }

    /// The records of these benchmarks alone.
    pub fn benchmarks(mut self, columns: &[String]) -> Inputs {
        self.data.retain(|record| columns.contains(&record.dataset));
        self
    }

    /// Sentences for the footer of a table: what the records say, and benchmarks of which not all questions were
    /// evaluated.
    pub fn notes(&self, arms: &[Arm]) -> Vec<String> {
        let mut notes = vec![];
        for record in &self.data {
            let name = &record.dataset;
            notes.extend(record.notes.iter().map(|note| format!("{name}: {note}.")));
            let items = items_of(name, arms);
            if items > 0 && items != record.questions {
                notes.push(format!("{name}: {items} of {} questions were evaluated.", record.questions));
            }
        }
        notes
    }
}

/// How many items of a benchmark the arms evaluated.
fn items_of(benchmark: &str, arms: &[Arm]) -> usize {
    let scores = arms.iter().filter_map(|arm| match &arm.state {
        ArmState::Measured(scores) => Some(scores),
        _ => None,
    });
    let of = |score: &&ItemScore| score.benchmark == benchmark;
    scores.flatten().filter(of).map(|score| score.item.as_str()).collect::<BTreeSet<_>>().len()
}

/// What identifies questions: their content, not their place.
pub fn fingerprint(examples: &[Example]) -> String {
    let row = |e: &Example| {
        let pictures: Vec<String> = e.images.iter().map(picture_hash).collect();
        json!([e.id, e.cluster, e.problem, e.answer, pictures])
    };
    crate::store::content_hash(&examples.iter().map(row).collect())
}

fn picture_hash(picture: &Picture) -> String {
    let bytes: &[u8] = match picture {
        Picture::Encoded(bytes) => bytes,
        Picture::Rgb(rgb) => &rgb.pixels,
    };
    blake3::hash(bytes).to_hex().to_string()
}
