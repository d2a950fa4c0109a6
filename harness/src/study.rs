//! Runs studies: settings become cells, cells are trained and evaluated, tables are made from what they stored.
//!
//! A cell is one arm with one seed. A finished cell is skipped; an interrupted one goes on from its newest checkpoint.
//! Arms with the same settings share a cell, also those of different studies.
//! Tables are made from the stored lines alone, by the same function whether a run has just ended or
//! `harness report` asks.

mod arms;
mod base;
mod budget;
mod figures;
mod footing;
mod forecast;
mod homes;
mod inputs;
mod pages;
mod questions;
mod rescore;

pub use arms::{arms, list, list_arms};
pub use base::{base_policy, evaluated};
pub use budget::{Machine, available, outlook, refuse_large_weights, refuse_what_cannot_fit};
pub use figures::figures;
pub use forecast::{by_repository, downloads, downloads_in_words, forecast};
pub use homes::Homes;
pub use inputs::{DataRecord, Inputs, fingerprint};
pub use questions::{
    Benchmarks, Questions, Sources, benchmarks, checkpoint_files, item_limit, named_benchmarks,
    training_questions, wanted_dataset, without_long_prompts,
};
pub use rescore::{Other, Rescored, rescore};

use crate::algo::{Algorithm, recorded_corruption};
use crate::config::{Scale, Setting, Study, Variant};
use crate::eval::evaluate;
use crate::model::Compute;
use crate::model::checkpoint::{SaveSettings, WeightType};
use crate::progress::Progress;
use crate::report::{Arm, ArmState, PaperTables, Published, Table, TableSpec};
use crate::rollout::Policy;
use crate::settings::{Dtype, EvalSettings};
use crate::spotlight::spotlight;
use crate::stats::ItemScore;
use crate::store::{Cell, CellKey, Checkpoint, Store, write_files};
use crate::train::{Figures, Recipe, Trainer, TrainingData};
use anyhow::{Context, Result, ensure};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// The complete settings of one cell.
pub type RunConfig = crate::config::RunConfig<Algorithm>;

/// Sign flips per test in tables.
const RESAMPLES: usize = 10_000;
/// Seed of the statistics: fixed, so that the same lines give the same table.
const STATISTICS_SEED: u64 = 1;

/// What the user asks to run or to show.
pub struct Plan {
    /// Sizes and settings.
    pub scale: Scale,
    /// The arms.
    pub study: Study,
    /// The arms asked for, in the study's order.
    pub variants: Vec<String>,
    /// Training seeds.
    pub seeds: Vec<u64>,
    /// `--set` arguments.
    pub overrides: Vec<Setting>,
    /// Where cells are kept at this scale and with these overrides.
    pub homes: Homes,
    /// Folder that holds `runs/` and `results/`.
    pub out: PathBuf,
    /// Where files of the hub come from.
    pub sources: Sources,
    /// Whether to keep event files of TensorBoard.
    pub tensorboard: bool,
}

impl Plan {
    /// The settings of an arm's cell, which may be kept under the name of another arm.
    pub fn config(&self, variant: &str, seed: u64) -> Result<RunConfig> {
        let config = RunConfig::resolve(&self.scale, &self.study, variant, seed, &self.overrides)?;
        self.homes.settle(config)
    }

    /// The settings of all cells, each once: seed by seed, the arms in the study's order. Nothing runs if one is wrong.
    pub fn configs(&self) -> Result<Vec<RunConfig>> {
        let mut configs: Vec<RunConfig> = vec![];
        for &seed in &self.seeds {
            for variant in &self.variants {
                let config = self.config(variant, seed)?;
                if !configs.contains(&config) {
                    configs.push(config);
                }
            }
        }
        Ok(configs)
    }

    /// Fails where an arm, asked for or not, does not fit the settings: the table has a row for each.
    pub fn check(&self) -> Result<()> {
        for variant in &self.study.variants {
            RunConfig::resolve(&self.scale, &self.study, &variant.name, 1, &self.overrides).with_context(
                || {
                    format!(
                        "variant `{}` of study `{}`, which its table shows",
                        variant.name, self.study.name
                    )
                },
            )?;
        }
        Ok(())
    }

    /// The name of the arm whose cells are those of `variant`, as `study/variant`, if it is another.
    fn shared_with(&self, variant: &str) -> Result<Option<String>> {
        let config = self.config(variant, self.seeds.first().copied().unwrap_or_default())?;
        let own = config.study == self.study.name && config.variant == variant;
        Ok((!own).then(|| format!("{}/{}", config.study, config.variant)))
    }

    /// The model size whose published rows stand beside this scale's: `32B` or `7B`.
    fn paper_size(&self) -> &'static str {
        if self.scale.name.eq_ignore_ascii_case("32b") { "32B" } else { "7B" }
    }

    fn store(&self) -> Result<Store> {
        Store::open(self.out.join("runs"))
    }

    /// Where tables and pages are written: a folder of its own for seeds that are not the study's, so that none replaces
    /// those of others.
    pub fn results(&self) -> PathBuf {
        let dir = self.out.join("results").join(&self.scale.name);
        if self.seeds == self.study.seeds { dir } else { dir.join(format!("seeds-{}", self.seed_list("-"))) }
    }

    fn seed_list(&self, between: &str) -> String {
        self.seeds.iter().map(u64::to_string).collect::<Vec<_>>().join(between)
    }
}

/// Runs every cell of the plan. `show` gets the table as it stands whenever a cell is finished.
pub fn reproduce(plan: &Plan, progress: &dyn Progress, mut show: impl FnMut(&Table)) -> Result<Table> {
    let configs = plan.configs()?;
    refuse_missing_device(&configs)?;
    let store = plan.store()?;
    for config in &configs {
        let mut cell = store.cell(&config.key(), &config.to_value()?)?;
        if plan.tensorboard {
            cell.keep_events()?;
        }
        if cell.is_done() {
            if let Some(inputs) = cell.inputs::<Inputs>()? {
                inputs.check_pins(config, &plan.sources)?;
            }
            progress.note(&format!("{}: already done", config.key()));
            continue;
        }
        run_cell(config, &plan.sources, &store, &cell, progress)?;
        drop(cell);
        show(&tables(plan)?);
    }
    report(plan)
}

/// Makes tables, figures and page from what the runs stored, and writes them to the results folder.
pub fn report(plan: &Plan) -> Result<Table> {
    let table = tables(plan)?;
    let study = &plan.study.name;
    let figures = figures(plan)?;
    for figure in &figures {
        let name = |kind: &str| format!("{study}.{}.{kind}", figure.name);
        let files = [
            (name("svg"), figure.svg.as_bytes()),
            (name("png"), &figure.png),
            (name("csv"), figure.csv.as_bytes()),
        ];
        write_files(&plan.results().join("figures"), &files)?;
    }
    let page = table.page(&pages::page(plan, figures)?)?;
    write_files(&plan.results(), &[(format!("{study}.html"), page)])?;
    Ok(table)
}

/// Reports of several studies of one scale and the same seeds, and all of them on one sheet; returns its Markdown.
pub fn report_all(plans: &[Plan], progress: &dyn Progress) -> Result<String> {
    progress.begin("report", 0, plans.len() as u64);
    let mut tables = vec![];
    for plan in plans {
        let table = report(plan).with_context(|| format!("study {}", plan.study.name))?;
        tables.push(table);
        progress.advance(tables.len() as u64, &plan.study.name);
    }
    progress.end();
    let files = crate::report::summary(&tables)?;
    let first = plans.first().context("no study to report")?;
    write_files(&first.results(), &files)?;
    Ok(files.into_iter().map(|(_, text)| text).next().unwrap_or_default())
}

/// Makes the tables from the stored lines and writes them to the results folder.
fn tables(plan: &Plan) -> Result<Table> {
    let (table, arms) = table(plan)?;
    let files = crate::report::files(&plan.study.name, &table, &arms)?;
    write_files(&plan.results(), &files)?;
    Ok(table)
}

fn table(plan: &Plan) -> Result<(Table, Vec<Arm>)> {
    let store = plan.store()?;
    let paper = PaperTables::load()?;
    let (mut arms, mut hashes, mut rows) = (vec![], vec![], vec![]);
    let (mut protocol, mut columns) = (None, vec![]);
    for variant in &plan.study.variants {
        arms.push(Arm {
            key: variant.name.clone(),
            label: variant.label.clone(),
            state: arm_state(plan, &store, variant)?,
        });
        let shared = plan.shared_with(&variant.name)?.map_or(String::new(), |arm| format!(" ({arm})"));
        for &seed in &plan.seeds {
            let config = plan.config(&variant.name, seed)?;
            hashes.push(format!("{}{shared} seed {seed}: {}", variant.name, &config.hash()?[..16]));
            ensure!(
                *protocol.get_or_insert_with(|| config.eval.clone()) == config.eval,
                "variant {:?} has other settings of [eval] than the others: they cannot stand in one table",
                variant.name
            );
            columns = questions::columns(&config)?;
        }
        for row in variant.paper.iter().filter(|row| row.size == plan.paper_size()) {
            let row = paper.row(&row.table, &row.size, &row.row)?.clone();
            rows.push(Published { arm: variant.name.clone(), row });
        }
    }
    let protocol: EvalSettings = protocol.context("the study has no variants")?;
    let first = plan.config(&plan.study.base, plan.seeds.first().copied().unwrap_or_default())?;
    let notes = common_inputs(plan, &store, &columns)?.notes(&arms);
    let spec = TableSpec {
        title: plan.study.question.clone(),
        study: plan.study.name.clone(),
        scale: plan.scale.name.clone(),
        seeds: plan.seed_list(", "),
        config_hashes: hashes,
        protocol: protocol.in_words(first.pictures()),
        notes,
        benchmarks: columns,
        baseline: plan.study.base.clone(),
        samples: protocol.samples,
        resamples: RESAMPLES,
        statistics_seed: STATISTICS_SEED,
        paper: rows,
        footing: footing::footing(plan)?,
    };
    Ok((Table::new(spec, &arms)?, arms))
}

/// What the cells were made from, their benchmarks alone. Arms stand in one table only if that is the same for all.
fn common_inputs(plan: &Plan, store: &Store, columns: &[String]) -> Result<Inputs> {
    let mut common: Option<Inputs> = None;
    for variant in &plan.study.variants {
        for &seed in &plan.seeds {
            let key = plan.config(&variant.name, seed)?.key();
            let inputs: Option<Inputs> = find(store, &key)?.map(|cell| cell.inputs()).transpose()?.flatten();
            let Some(inputs) = inputs.map(|inputs| inputs.benchmarks(columns)) else { continue };
            ensure!(
                *common.get_or_insert_with(|| inputs.clone()) == inputs,
                "{key} started from another checkpoint, or was evaluated on other data, than the arms before it (see \
                 their inputs.json): they cannot stand in one table"
            );
        }
    }
    Ok(common.unwrap_or_default())
}

/// The stored scores of an arm, if all its seeds are finished under the settings asked for.
fn arm_state(plan: &Plan, store: &Store, variant: &Variant) -> Result<ArmState> {
    let (mut scores, mut missing, mut begun) = (vec![], false, false);
    for &seed in &plan.seeds {
        let config = plan.config(&variant.name, seed)?;
        let Some(cell) = find(store, &config.key())? else {
            missing = true;
            continue;
        };
        begun = true;
        ensure!(
            crate::store::content_hash(&cell.config()?) == config.hash()?,
            "{} was made with other settings than those asked for: name the same --set, or another --out",
            config.key()
        );
        match cell.samples()? {
            Some(lines) if cell.is_done() => {
                scores.extend(ItemScore::from_lines(&variant.name, seed, &lines, config.eval.samples)?);
            }
            _ => missing = true,
        }
    }
    Ok(match (missing, begun) {
        (false, _) => ArmState::Measured(scores),
        (true, true) => ArmState::Running,
        (true, false) => ArmState::NotRun,
    })
}

fn find(store: &Store, key: &CellKey) -> Result<Option<crate::store::CellRecord>> {
    if store.cells()?.contains(key) { store.read_only(key).map(Some) } else { Ok(None) }
}

/// Stops before anything is downloaded or made.
fn refuse_missing_device(configs: &[RunConfig]) -> Result<()> {
    for config in configs {
        Compute::open(&config.compute).with_context(|| forecast::needs_gpu(configs))?;
        budget::refuse(&budget::load(config, 1)?, budget::available(&config.compute), 0)?;
    }
    Ok(())
}

fn run_cell(
    config: &RunConfig,
    sources: &Sources,
    store: &Store,
    cell: &Cell,
    progress: &dyn Progress,
) -> Result<()> {
    let mut inputs = Inputs::default();
    let base = base_policy(config, sources, store, &mut inputs, progress)?;
    let (benchmarks, records) = benchmarks(config, sources, progress)?;
    inputs.data = records;
    let questions = match &config.algorithm {
        None => None,
        Some(_) => {
            let (questions, record) = training_questions(config, &base, sources, progress)?;
            inputs.data.extend(record);
            Some(questions)
        }
    };
    if inputs != Inputs::default() {
        cell.keep_inputs(&inputs)?;
    }
    let policy = match (&config.algorithm, &questions) {
        (Some(algorithm), Some(questions)) => {
            let recipe = Recipe {
                algorithm,
                train: &config.train,
                sampling: &config.sampling,
                optimizer: &config.optimizer,
                seed: config.seed,
            };
            let policy = train(recipe, questions, base, cell, &config.key().to_string(), progress)?;
            save_policy(&policy, &cell.dir().join("model"))?;
            policy
        }
        _ => base,
    };
    evaluate_cell(&evaluated(policy, config), &benchmarks, config, cell, progress)?;
    cell.mark_done()
}

/// Trains a cell from its newest checkpoint, or from the start. The base policy is given away, so that its weights are
/// not kept beside those that replace them.
pub fn train(
    recipe: Recipe<'_>,
    data: &dyn TrainingData,
    base: Policy,
    cell: &Cell,
    name: &str,
    progress: &dyn Progress,
) -> Result<Policy> {
    let mut trainer = match cell.resume()? {
        Some(checkpoint) => Trainer::resume(recipe, data, base, &checkpoint.files)?,
        None => Trainer::new(recipe, data, base)?,
    };
    let steps = recipe.train.steps;
    progress.begin(&format!("train {name}"), trainer.step(), steps);
    while trainer.step() < steps {
        let start = Instant::now();
        let (figures, rollouts) = trainer.run_step(progress)?;
        let seconds = start.elapsed().as_secs_f64();
        let timing = Figures::from([("step_secs".to_owned(), seconds)]);
        if let Some(rollouts) = rollouts {
            cell.keep_rollouts(trainer.step(), &rollouts)?;
        }
        cell.log_step(trainer.step(), &figures, &timing)?;
        if trainer.step() % recipe.train.checkpoint_every == 0 || trainer.step() == steps {
            cell.save_checkpoint(&Checkpoint { step: trainer.step(), files: trainer.checkpoint()? })?;
        }
        progress.advance(trainer.step(), &step_message(&figures, seconds));
    }
    progress.end();
    Ok(trainer.policy().clone())
}

fn step_message(figures: &Figures, seconds: f64) -> String {
    let figure = |name: &str| figures.get(name).copied().unwrap_or(f64::NAN);
    format!(
        "accuracy {:.3}  kept groups {:.2}  entropy {:.3}  {:.1} tokens  {:.0} tokens/s",
        figure("correct_frac"),
        figure("kept_groups_frac"),
        figure("entropy"),
        figure("response_tokens_mean"),
        figure("sampled_tokens") / seconds
    )
}

/// Evaluates the benchmarks that a cell has not evaluated yet. The spotlight's pictures are corrupted as in the training
/// of the configuration, or as in the paper.
pub fn evaluate_cell(
    policy: &Policy,
    benchmarks: &Benchmarks,
    config: &RunConfig,
    cell: &Cell,
    progress: &dyn Progress,
) -> Result<()> {
    let (settings, seed) = (&config.eval, config.seed);
    let corruption = &recorded_corruption(config.algorithm.as_ref());
    let samples = settings.samples as usize;
    let expected: Vec<(String, usize)> =
        benchmarks.iter().map(|(name, items)| (name.clone(), items.len() * samples)).collect();
    let mut log = cell.sample_log(&expected)?;
    let total: usize = expected.iter().map(|(_, n)| n).sum();
    let mut done: u64 =
        expected.iter().filter(|(name, _)| log.is_complete(name)).map(|(_, n)| *n as u64).sum();
    progress.begin(&format!("evaluate {}", cell.key()), done, total as u64);
    for (number, (name, items)) in benchmarks.iter().enumerate() {
        if !log.is_complete(name) {
            let found = evaluate(policy, items, settings, seed, &mut done, progress)?;
            let spotlight = found.spotlight.iter().map(|group| spotlight(policy, group, corruption, seed));
            cell.keep_spotlight(number, &spotlight.collect::<Result<Vec<_>>>()?)?;
            log.append(name, &found.lines)?;
        }
    }
    progress.end();
    log.finish()
}

/// Writes a checkpoint directory in the hub's layout, in the type in which the model computes.
pub fn save_policy(policy: &Policy, dir: &Path) -> Result<()> {
    let weights = match policy.model.params().compute().settings().dtype {
        Dtype::F32 => WeightType::F32,
        Dtype::Bf16 => WeightType::Bf16,
    };
    policy.save(dir, &SaveSettings { weights, ..SaveSettings::default() })
}
