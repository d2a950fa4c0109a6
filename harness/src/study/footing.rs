//! Whether the numbers of a plan may be held against the paper's: same model, same settings, which questions.

use super::{Plan, RunConfig, questions};
use crate::config::{Origin, Scale};
use crate::report::Footing;
use crate::settings::{EvalSettings, Protocol};
use anyhow::Result;

/// The scales that are the paper's experiments.
const PAPER_SCALES: [&str; 2] = ["7b", "32b"];
/// Settings, or the beginnings of their keys, that change no result but by rounding.
const FREE: [&str; 6] = [
    "compute.",
    "data.eval_source",
    "eval.batch",
    "eval.spotlight_items",
    "train.checkpoint_every",
    "train.record_every",
];
/// Settings that a protocol with a name decides.
const OF_PROTOCOL: [&str; 3] = ["eval.protocol", "eval.sampling.", "eval.pictures"];

/// What the numbers of this plan are of. They are of the paper's own footing if every arm has the settings that the
/// repository's scale of this name gives it; a named evaluation protocol, and what changes no result, are free.
pub(super) fn footing(plan: &Plan) -> Result<Footing> {
    let Some(&name) = PAPER_SCALES.iter().find(|name| **name == plan.scale.name) else {
        return Ok(Footing::Tiny);
    };
    let paper = Scale::load(name)?;
    let mut items = vec![];
    for variant in &plan.study.variants {
        let resolve = |scale, overrides| RunConfig::resolve(scale, &plan.study, &variant.name, 1, overrides);
        let ours = resolve(&plan.scale, &plan.overrides)?;
        let changes = ours.changes(&resolve(&paper, &[])?)?;
        if changes.iter().any(|change| !is_free(&change.key, &ours.eval)) {
            return Ok(Footing::Changed);
        }
        if let Origin::Hub { data, .. } = ours.origin()? {
            items = questions::expected_rows(data)?;
        }
    }
    Ok(Footing::Paper { items })
}

fn is_free(key: &str, eval: &EvalSettings) -> bool {
    let named = eval.protocol.is_some_and(|protocol| protocol != Protocol::Own);
    FREE.iter().chain(OF_PROTOCOL.iter().filter(|_| named)).any(|free| key.starts_with(free))
}
