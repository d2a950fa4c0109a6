//! Gathers what stands on a study's page besides its table.

use super::rescore::response;
use super::{Plan, RunConfig, arms, find};
use crate::algo::{
    Algorithm, Batch, Credit, PolicyVersion, TokenWeights, assign_credit, recorded_corruption,
};
use crate::config::{Variant, changes};
use crate::report::{ArmPage, Figure, Mark, Page, RunPage, SettingChange, Spotlight, SpotlightArm};
use crate::settings::CorruptionKind;
use crate::store::{CellRecord, Store, pretty_json};
use crate::types::SpotlightItem;
use anyhow::{Context, Result};

/// Characters of a hash that are shown.
const SHOWN_HASH: usize = 12;

/// The page of a plan, with these figures.
pub(super) fn page(plan: &Plan, figures: Vec<Figure>) -> Result<Page> {
    let store = plan.store()?;
    let arms = plan.study.variants.iter().map(|variant| arm(plan, &store, variant));
    Ok(Page { figures, arms: arms.collect::<Result<_>>()?, spotlight: spotlight(plan, &store)? })
}

fn arm(plan: &Plan, store: &Store, variant: &Variant) -> Result<ArmPage> {
    let found = changes::<Algorithm>(&plan.scale, &plan.study, variant, &plan.overrides)?;
    let reference = plan.study.reference(variant);
    let label = |name: &str| plan.study.variant(name).map(|variant| variant.label.clone());
    let first = plan.config(&variant.name, plan.seeds.first().copied().unwrap_or_default())?;
    let runs = plan.seeds.iter().map(|&seed| run(store, &plan.config(&variant.name, seed)?));
    Ok(ArmPage {
        label: variant.label.clone(),
        reference: reference.map_or(Ok("the others are compared with it".into()), label)?,
        changes: found
            .iter()
            .map(|difference| SettingChange {
                key: difference.key.clone(),
                from: arms::shown(&difference.left),
                to: arms::shown(&difference.right),
            })
            .collect(),
        settings: pretty_json(&first.to_value()?),
        runs: runs.collect::<Result<_>>()?,
    })
}

fn run(store: &Store, config: &RunConfig) -> Result<RunPage> {
    let key = config.key();
    let short = |hash: &str| hash.chars().take(SHOWN_HASH).collect::<String>();
    let named = RunPage { path: key.to_string(), hash: short(&config.hash()?), ..RunPage::default() };
    let Some(cell) = find(store, &key)? else { return Ok(RunPage { state: "not run".into(), ..named }) };
    let timing = cell.timing()?;
    let secs: f64 = timing.iter().filter_map(|line| line.metrics.get("step_secs")).sum();
    let state = if cell.is_done() { "measured" } else { "running" };
    let builds = cell.provenance()?;
    let told = RunPage {
        state: state.into(),
        steps: if timing.is_empty() { String::new() } else { timing.len().to_string() },
        time: if timing.is_empty() { String::new() } else { format!("{secs:.0} s") },
        ..named
    };
    let Some(build) = builds.last() else { return Ok(told) };
    let dirty = if build.git_dirty == Some(true) { " with changes" } else { "" };
    let more = if builds.len() > 1 { format!(" (and {} before)", builds.len() - 1) } else { String::new() };
    Ok(RunPage {
        source: format!("{}{dirty}{more}", short(&build.git_commit)),
        executable: short(&build.executable_blake3),
        compiler: build.rustc.clone(),
        processor: build.cpu.clone(),
        threads: build.threads.to_string(),
        ..told
    })
}

/// The kept answers of the first seed of which any arm has some.
fn spotlight(plan: &Plan, store: &Store) -> Result<Option<Spotlight>> {
    for &seed in &plan.seeds {
        let mut arms = vec![];
        for variant in &plan.study.variants {
            let config = plan.config(&variant.name, seed)?;
            let Some(cell) = find(store, &config.key())? else { continue };
            arms.extend(spotlight_arm(&variant.label, &config, &cell)?);
        }
        if !arms.is_empty() {
            return Ok(Some(Spotlight { seed, arms }));
        }
    }
    Ok(None)
}

fn spotlight_arm(label: &str, config: &RunConfig, cell: &CellRecord) -> Result<Option<SpotlightArm>> {
    let items = cell.spotlight()?;
    if items.is_empty() {
        return Ok(None);
    }
    let marks = config.algorithm.as_ref().map(|algorithm| marks(config, algorithm, &items)).transpose();
    let marks = marks.with_context(|| format!("the spotlight of {}", cell.key()))?;
    let corruption = in_words(&recorded_corruption(config.algorithm.as_ref()).kind);
    Ok(Some(SpotlightArm { label: label.to_owned(), corruption, items, marks }))
}

/// What the algorithm makes of the answers, all taken as the responses of one update by the policy that gave them.
fn marks(config: &RunConfig, algorithm: &Algorithm, items: &[SpotlightItem]) -> Result<Vec<Vec<Mark>>> {
    let mut algorithm = algorithm.clone();
    if let Some(filter) = algorithm.perception.as_mut().and_then(|p| p.token_filter.as_mut()) {
        filter.entropy_of = PolicyVersion::Old;
    }
    let responses: Vec<_> = items.iter().flat_map(|item| &item.responses).map(response).collect();
    let batch = Batch {
        group_size: config.eval.samples as usize,
        mini_batch_responses: responses.len(),
        micro_batch_responses: config.train.micro_batch_responses,
        max_response_tokens: config.eval.sampling.max_new_tokens,
        seed: config.seed,
        step: 0,
        responses,
    };
    batch.check(&algorithm)?;
    let credits = assign_credit(&algorithm, &batch);
    let tokens = batch.responses.iter().map(|response| response.old_logp_t.len());
    let marks: Vec<Mark> = credits.iter().zip(tokens).map(|(credit, tokens)| mark(credit, tokens)).collect();
    Ok(marks.chunks(batch.group_size.max(1)).map(<[Mark]>::to_vec).collect())
}

fn mark(credit: &Credit, tokens: usize) -> Mark {
    Mark {
        advantage: credit.advantage,
        factor: credit.factor,
        shaped_advantage: credit.shaped_advantage,
        weight_t: match &credit.weights {
            TokenWeights::Given(weight_t) => weight_t.clone(),
            TokenWeights::All | TokenWeights::ByCurrentEntropy => vec![1.0; tokens],
        },
    }
}

fn in_words(corruption: &CorruptionKind) -> String {
    match corruption {
        CorruptionKind::Patches { patch_pixels, probability } => {
            format!("squares of {patch_pixels} pixels blackened with probability {probability}")
        }
        CorruptionKind::Noise { std } => format!("normal noise of deviation {std}"),
        CorruptionKind::Blur { radius } => format!("blurred by {radius} pixels"),
        CorruptionKind::Full { level } => format!("all of it at grey level {level}"),
    }
}
