//! What a study's figures are drawn from, gathered from the cells of its arms as far as they are.

use super::{Plan, RunConfig, find};
use crate::config::Variant;
use crate::report::{ArmData, BaseData, Figure, FigureData, TokenData};
use crate::store::{CellRecord, Store, content_hash};
use anyhow::{Result, ensure};

/// The step whose responses are still the base model's.
const FIRST_STEP: u64 = 1;
/// The metric that tells how many groups of a step a filter kept.
const KEPT_GROUPS: &str = "kept_groups_frac";

/// The figures of a study: curves of every arm that has trained, finished or not, and the dependency of the tokens where
/// arms kept their rollouts (`train.record_every`). None where no arm has trained.
///
/// # Errors
/// A cell that was made with other settings than those asked for; files of a run that cannot be read.
pub fn figures(plan: &Plan) -> Result<Vec<Figure>> {
    let store = plan.store()?;
    let (mut arms, mut bases) = (vec![], vec![]);
    for variant in &plan.study.variants {
        let cells = trained_cells(plan, &store, variant)?;
        if cells.is_empty() {
            continue;
        }
        bases.extend(base_data(&variant.label, &cells)?);
        arms.push(arm_data(variant, &cells)?);
    }
    let (scale, study) = (plan.scale.name.clone(), plan.study.name.clone());
    crate::report::figures(&FigureData { scale, study, arms, base: least_filtered(bases) })
}

/// The cells of an arm that has an algorithm, those that have begun.
fn trained_cells(plan: &Plan, store: &Store, variant: &Variant) -> Result<Vec<CellRecord>> {
    let mut cells = vec![];
    for &seed in &plan.seeds {
        let config: RunConfig = plan.config(&variant.name, seed)?;
        let cell = find(store, &config.key())?.filter(|_| config.algorithm.is_some());
        let Some(cell) = cell else { continue };
        ensure!(
            content_hash(&cell.config()?) == config.hash()?,
            "{} was made with other settings than those asked for: name the same --set, or another --out",
            config.key()
        );
        cells.push(cell);
    }
    Ok(cells)
}

fn arm_data(variant: &Variant, cells: &[CellRecord]) -> Result<ArmData> {
    let seeds = cells.iter().map(CellRecord::metrics).collect::<Result<Vec<_>>>()?;
    let mut last = FIRST_STEP;
    for cell in cells {
        last = last.max(cell.rollout_steps()?.last().copied().unwrap_or_default());
    }
    let tokens = if last > FIRST_STEP { token_data(cells, last)? } else { None };
    let seeds = seeds.into_iter().filter(|lines| !lines.is_empty()).collect();
    Ok(ArmData { key: variant.name.clone(), label: variant.label.clone(), seeds, tokens })
}

/// What the cells that kept this step kept of it.
fn token_data(cells: &[CellRecord], step: u64) -> Result<Option<TokenData>> {
    let mut data = TokenData { step, ..TokenData::default() };
    for cell in cells {
        if cell.rollout_steps()?.contains(&step) {
            data.add_seed(&cell.rollouts(step)?);
        }
    }
    Ok((data.seeds > 0).then_some(data))
}

/// What an arm kept of its first step, with the share of the groups that its filter kept in it, over the seeds.
fn base_data(label: &str, cells: &[CellRecord]) -> Result<Option<BaseData>> {
    let Some(tokens) = token_data(cells, FIRST_STEP)? else { return Ok(None) };
    let mut kept = vec![];
    for cell in cells {
        let first = cell.metrics()?.into_iter().find(|line| line.step == FIRST_STEP);
        kept.extend(first.and_then(|line| line.metrics.get(KEPT_GROUPS).copied()));
    }
    let mean = (!kept.is_empty()).then(|| kept.iter().sum::<f64>() / kept.len() as f64);
    Ok(Some(BaseData { arm: label.to_owned(), kept_groups_frac: mean, tokens }))
}

/// All arms sample their first step from the base model; the one whose filter dropped least shows most of it.
fn least_filtered(bases: Vec<BaseData>) -> Option<BaseData> {
    let kept = |base: &BaseData| base.kept_groups_frac.unwrap_or_default();
    bases.into_iter().reduce(|best, other| if kept(&other) > kept(&best) { other } else { best })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Scale, Study};
    use crate::study::{Homes, Sources};
    use crate::types::{Outcome, RolloutLine};
    use std::collections::BTreeMap;
    use std::path::Path;

    fn plan(out: &Path) -> Plan {
        let (scale, study) = (Scale::load("smoke").unwrap(), Study::load("main").unwrap());
        let homes = Homes::new(&scale, &study, &[]).unwrap();
        let variants = study.variants.iter().map(|variant| variant.name.clone()).collect();
        let hub = crate::hub::Settings::new(out.join("hub"), out.join("hub.lock"));
        let rows = crate::bench::RowCheck::Refuse;
        let sources = Sources { hub, folder: None, rows, unfiltered: false };
        Plan {
            scale,
            study,
            variants,
            seeds: vec![1, 2],
            overrides: vec![],
            homes,
            out: out.into(),
            sources,
            tensorboard: false,
        }
    }

    fn rollout(step: u64) -> RolloutLine {
        RolloutLine {
            item: "q".into(),
            sample: 0,
            outcome: Outcome::Correct,
            extracted: None,
            text_t: vec![" 4".into()],
            logp_t: vec![0.0],
            entropy_t: vec![0.0],
            reference_logp_t: vec![],
            corrupted_logp_t: vec![0.0],
            kl_t: vec![step as f32],
            js_t: vec![0.0],
        }
    }

    /// A cell of so many steps that kept the rollouts of some.
    fn begin(plan: &Plan, variant: &str, seed: u64, steps: u64, kept: &[u64]) {
        let config = plan.config(variant, seed).unwrap();
        let cell = plan.store().unwrap().cell(&config.key(), &config.to_value().unwrap()).unwrap();
        for step in 1..=steps {
            let figures = BTreeMap::from([(KEPT_GROUPS.to_owned(), 0.5), ("correct_frac".to_owned(), 0.25)]);
            cell.log_step(step, &figures, &figures).unwrap();
        }
        kept.iter().for_each(|&step| cell.keep_rollouts(step, &[rollout(step)]).unwrap());
    }

    fn names(plan: &Plan) -> Vec<String> {
        figures(plan).unwrap().into_iter().map(|figure| figure.name).collect()
    }

    #[test]
    fn arms_are_drawn_as_far_as_they_are() {
        let dir = tempfile::tempdir().unwrap();
        let plan = plan(dir.path());
        assert_eq!(names(&plan), Vec::<String>::new(), "nothing has run");
        begin(&plan, "base", 1, 0, &[]);
        begin(&plan, "grpo", 1, 0, &[]);
        assert_eq!(names(&plan), Vec::<String>::new(), "nothing has trained");
        begin(&plan, "dapo", 1, 2, &[]);
        assert_eq!(names(&plan), ["training_accuracy", "training_kept_groups"], "no rollouts kept");
        begin(&plan, "vppo", 2, 1, &[1]);
        let found = figures(&plan).unwrap();
        let tokens = found.iter().find(|figure| figure.name == "token_dependency").unwrap();
        assert!(tokens.csv.contains("Base model (step 1),1,2,1,100\n"), "{}", tokens.csv);
        assert!(!tokens.csv.contains("\nVPPO") && tokens.caption.contains("first step of VPPO"));
        begin(&plan, "vppo", 1, 4, &[1, 2, 4]);
        let found = figures(&plan).unwrap();
        let tokens = found.iter().find(|figure| figure.name == "token_dependency").unwrap();
        assert!(tokens.csv.contains("Base model (step 1),1,2,2,100\n"), "both seeds: {}", tokens.csv);
        assert!(tokens.csv.contains("\nVPPO,4,10,1,100\n"), "the last kept step: {}", tokens.csv);
    }

    #[test]
    fn a_run_with_other_settings_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let plan = plan(dir.path());
        let config = plan.config("vppo", 1).unwrap();
        drop(plan.store().unwrap().cell(&config.key(), &serde_json::json!({"other": 1})).unwrap());
        let message = figures(&plan).unwrap_err().to_string();
        assert!(message.contains("smoke/main/vppo/seed-1 was made with other settings"), "{message}");
    }

    #[test]
    fn the_base_is_shown_by_the_arm_that_dropped_least() {
        let base = |arm: &str, kept: Option<f64>| BaseData {
            arm: arm.into(),
            kept_groups_frac: kept,
            tokens: TokenData::default(),
        };
        let chosen = |bases| least_filtered(bases).map(|base| base.arm);
        let bases = vec![
            base("unknown", None),
            base("dapo", Some(0.6)),
            base("grpo", Some(1.0)),
            base("top", Some(1.0)),
        ];
        assert_eq!(chosen(bases).as_deref(), Some("grpo"));
        assert_eq!(chosen(vec![base("only", None)]).as_deref(), Some("only"));
        assert_eq!(chosen(vec![]), None);
    }
}
