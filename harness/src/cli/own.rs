//! Runs on the user's own models and questions: `train`, `eval`.

use super::commands::{COLUMNS, device_settings, settings};
use super::display::Display;
use super::{EvalArgs, OwnArgs, TrainArgs};
use crate::bench::manifest::Role;
use crate::bench::{Manifest, jsonl};
use crate::config::{Scale, Setting, Study};
use crate::image::AreaRule;
use crate::model::Compute;
use crate::model::checkpoint::fingerprint;
use crate::progress::Progress;
use crate::report::{Arm, ArmState, Footing, Table, TableSpec};
use crate::rollout::Policy;
use crate::settings::PixelRange;
use crate::stats::ItemScore;
use crate::store::{Cell, CellKey, Store};
use crate::study::{self, Benchmarks, DataRecord, Inputs, Questions, RunConfig, Sources};
use crate::train::Recipe;
use crate::types::{Example, Outcome, SampleLine};
use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use std::path::Path;

/// Settings, model and cell of a run on a user's own model or data.
struct OwnRun {
    config: RunConfig,
    policy: Policy,
    cell: Cell,
    inputs: Inputs,
}

impl OwnRun {
    /// Opens the cell of these settings, model and questions.
    fn open(
        args: &OwnArgs,
        config: RunConfig,
        command: &str,
        base: Base,
        records: Vec<DataRecord>,
    ) -> Result<Self> {
        let Base { policy, mut inputs, store } = base;
        inputs.data = records;
        let resolved = json!({
            "config": recorded(&config, &policy, args.model.is_some())?,
            "inputs": serde_json::to_value(&inputs)?,
        });
        let name = format!("{}-{}", config.variant, &crate::store::content_hash(&resolved)[..12]);
        let key =
            CellKey { scale: config.scale.clone(), study: command.into(), variant: name, seed: args.seed };
        let cell = store.cell(&key, &resolved)?;
        cell.keep_inputs(&inputs)?;
        Ok(Self { config, policy, cell, inputs })
    }
}

/// A model to start from.
struct Base {
    policy: Policy,
    inputs: Inputs,
    store: Store,
}

impl Base {
    /// The checkpoint of a folder, or the scale's own base model.
    fn open(
        args: &OwnArgs,
        untrained: bool,
        config: &RunConfig,
        sources: &Sources,
        display: &Display,
    ) -> Result<Base> {
        let store = Store::open(args.out.join("runs"))?;
        let mut inputs = Inputs::default();
        let mut policy = match &args.model {
            Some(dir) => {
                let policy = own_policy(dir, untrained, config)?;
                inputs.checkpoint = Some(fingerprint(dir)?);
                policy
            }
            None => study::base_policy(config, sources, &store, &mut inputs, display)?,
        };
        if let Some(alpha) = args.alpha {
            policy.set_alpha(alpha);
        }
        Ok(Base { policy, inputs, store })
    }
}

/// The checkpoint of a folder. A scale of the hub says how it sees pictures; else its own processor does.
fn own_policy(dir: &Path, untrained: bool, config: &RunConfig) -> Result<Policy> {
    let (min_pixels, max_pixels) = (config.model.min_pixels, config.model.max_pixels);
    let area = config.data.as_ref().map(|_| AreaRule { min_pixels, max_pixels });
    let compute = Compute::open(&config.compute)?;
    study::refuse_large_weights(dir, &config.compute).context("--model")?;
    let open = if untrained { Policy::open_or_fill } else { Policy::open_on };
    let mut policy = open(dir, &config.instruction, area, &compute).context("--model")?;
    if let Some(data) = &config.data {
        policy.set_alpha(data.alpha);
    }
    Ok(policy)
}

/// The settings that count for a run of its own: with a model of the user's own, those of the scale's model, checkpoint
/// and datasets do not, and what does takes their place.
fn recorded(config: &RunConfig, policy: &Policy, own_model: bool) -> Result<Value> {
    let mut value = config.to_value()?;
    let renderer = &policy.renderer;
    value["pictures"] = json!({ "area": renderer.area, "alpha": renderer.alpha });
    if let (Some(settings), true) = (value.as_object_mut(), own_model) {
        for key in ["model", "world", "warm_start", "checkpoint", "data", "study"] {
            settings.remove(key);
        }
        settings.insert("sizes".into(), policy.model.config().to_value());
    }
    Ok(value)
}

/// A user's own questions, at most `limit`, and what is known of them.
fn own_questions(path: &Path, limit: usize) -> Result<(Vec<Example>, DataRecord)> {
    let mut examples = jsonl::read(path)?;
    let rows = examples.len();
    examples.truncate(limit);
    let record = DataRecord {
        dataset: examples.first().map_or(String::new(), |e| e.benchmark.clone()),
        source: "own".into(),
        repository: path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        commit: None,
        rows_read: rows,
        questions: rows,
        left_out: vec![],
        notes: vec![],
        content: study::fingerprint(&examples),
    };
    Ok((examples, record))
}

/// All of them, unless the command says otherwise: the limit of the scale is that of its own benchmarks.
fn own_limit(args: &EvalArgs) -> usize {
    let set = args.own.overrides.iter().rev().find_map(|set| set.strip_prefix("eval.items="));
    let limit = args.limit.or(set.and_then(|items| items.trim().parse().ok()));
    limit.filter(|&items| items > 0).unwrap_or(usize::MAX)
}

/// The settings of a run of its own: the scale's, then `more`. `hub` says whether it uses datasets of the hub.
fn config(args: &OwnArgs, variant: &str, hub: bool, more: &[Setting]) -> Result<RunConfig> {
    let name = args.scale.as_deref().unwrap_or(if hub { "7b" } else { "tiny" });
    let (scale, study) = (Scale::load(name)?, Study::load("main")?);
    let mut all = device_settings(Some(args.device.as_deref().unwrap_or("cpu")))?;
    all.extend_from_slice(more);
    RunConfig::resolve(&scale, &study, variant, args.seed, &all)
}

pub(super) fn train(args: &TrainArgs) -> Result<()> {
    let more = settings(None, &args.own.overrides)?;
    let config = config(&args.own, &args.variant, args.dataset.is_some(), &more)?;
    let algorithm = config.algorithm.clone();
    let algorithm = algorithm.with_context(|| format!("the variant {} is not trained", args.variant))?;
    let sources = args.own.sources.sources()?;
    let display = Display::new()?;
    // A file is quickly read and often wrong; a dataset is large, and the model may be wrong.
    let own = args.data.as_ref().map(|path| own_questions(path, usize::MAX)).transpose()?;
    let base = Base::open(&args.own, args.untrained, &config, &sources, &display)?;
    let (mut questions, mut record) = match (own, &args.dataset) {
        (Some(own), _) => own,
        (None, Some(name)) => {
            sources.dataset(name, args.source.as_deref().unwrap_or("original"), &display)?
        }
        (None, None) => bail!("give --data FILE.jsonl or --dataset NAME"),
    };
    if let Some(data) = &config.data {
        let limit = data.max_prompt_tokens;
        questions = study::without_long_prompts(questions, &base.policy, limit, &mut record, &display)?;
    }
    let OwnRun { config, policy, mut cell, .. } =
        OwnRun::open(&args.own, config, "train", base, vec![record])?;
    if args.tensorboard {
        cell.keep_events()?;
    }
    study::refuse_what_cannot_fit(&config, &policy, &questions)?;
    let recipe = Recipe {
        algorithm: &algorithm,
        train: &config.train,
        sampling: &config.sampling,
        optimizer: &config.optimizer,
        seed: config.seed,
    };
    let questions = Questions::Rows(questions);
    let trained = study::train(recipe, &questions, policy, &cell, &args.variant, &display)?;
    let dir = cell.dir().join("model");
    study::save_policy(&trained, &dir)?;
    println!("model:   {}", dir.display());
    println!("metrics: {}", cell.dir().join("metrics.jsonl").display());
    Ok(())
}

pub(super) fn eval(args: &EvalArgs) -> Result<()> {
    let config = eval_config(args)?;
    let sources = Sources { unfiltered: args.all_rows, ..args.own.sources.sources()? };
    let display = Display::new()?;
    let own = args.data.as_ref().map(|path| own_questions(path, own_limit(args))).transpose()?;
    let base = Base::open(&args.own, false, &config, &sources, &display)?;
    let (benchmarks, records) = match own {
        Some((examples, record)) => (vec![(record.dataset.clone(), examples)], vec![record]),
        None => eval_questions(args, &config, &sources, &display)?,
    };
    let run = OwnRun::open(&args.own, config, "eval", base, records)?;
    let cell = &run.cell;
    if cell.is_done() {
        display.note(&format!("{} was evaluated before; these are the stored results", cell.key()));
    } else {
        let policy = study::evaluated(run.policy.clone(), &run.config);
        study::refuse_what_cannot_fit(&run.config, &policy, benchmarks.iter().flat_map(|(_, items)| items))?;
        study::evaluate_cell(&policy, &benchmarks, &run.config, cell, &display)?;
        cell.mark_done()?;
    }
    let lines = cell.samples()?.context("the evaluation left no samples")?;
    let names = benchmarks.into_iter().map(|(name, _)| name).collect();
    println!("{}", eval_table(&run, args, names, &lines)?.terminal(COLUMNS));
    println!("{}", counts(&lines));
    println!("samples: {}", cell.dir().join("samples.jsonl").display());
    Ok(())
}

/// The scale's settings, then those of the command's own arguments.
fn eval_config(args: &EvalArgs) -> Result<RunConfig> {
    ensure!(args.samples != Some(0), "--samples must be at least 1");
    ensure!(args.limit != Some(0), "--limit must be at least 1");
    ensure!(!args.all_rows || !args.benchmarks.is_empty(), "--all-rows is for --benchmark");
    ensure!(args.source.is_none() || !args.benchmarks.is_empty(), "--source is for --benchmark");
    let mut more = settings(args.protocol, &args.own.overrides)?;
    if let Some(samples) = args.samples {
        more.push(format!("eval.samples={samples}").parse()?);
    }
    if let Some(limit) = args.limit {
        more.push(format!("eval.items={limit}").parse()?);
    }
    config(&args.own, "base", !args.benchmarks.is_empty(), &more)
}

fn eval_questions(
    args: &EvalArgs,
    config: &RunConfig,
    sources: &Sources,
    display: &Display,
) -> Result<(Benchmarks, Vec<DataRecord>)> {
    if args.benchmarks.is_empty() {
        return study::benchmarks(config, sources, display);
    }
    let source = args.source.as_deref().unwrap_or("original");
    study::named_benchmarks(
        &benchmark_names(&args.benchmarks)?,
        source,
        study::item_limit(config),
        sources,
        display,
    )
}

/// The benchmarks that are named, or all of them.
pub(super) fn benchmark_names(names: &[String]) -> Result<Vec<String>> {
    match names {
        [all] if all == "all" => {
            let all = Manifest::all()?.into_iter().filter(|manifest| manifest.role == Role::Benchmark);
            Ok(all.map(|manifest| manifest.name).collect())
        }
        names => Ok(names.to_vec()),
    }
}

fn eval_table(run: &OwnRun, args: &EvalArgs, benchmarks: Vec<String>, lines: &[SampleLine]) -> Result<Table> {
    let OwnRun { config, policy, inputs, .. } = run;
    let model = args.own.model.as_ref().map_or("Model".to_owned(), |dir| dir.display().to_string());
    let AreaRule { min_pixels, max_pixels } = policy.renderer.area;
    let scores = ItemScore::from_lines("model", config.seed, lines, config.eval.samples)?;
    let arms = [Arm { key: "model".into(), label: model, state: ArmState::Measured(scores) }];
    let spec = TableSpec {
        title: "Evaluation".into(),
        study: "eval".into(),
        scale: config.scale.clone(),
        seeds: config.seed.to_string(),
        config_hashes: vec![],
        protocol: config.eval.in_words(PixelRange { min_pixels, max_pixels }),
        notes: inputs.notes(&arms),
        benchmarks,
        baseline: "model".into(),
        samples: config.eval.samples,
        resamples: 1,
        statistics_seed: 1,
        paper: vec![],
        footing: Footing::Tiny,
    };
    Table::new(spec, &arms)
}

fn counts(lines: &[SampleLine]) -> String {
    let count = |outcome| lines.iter().filter(|l| l.outcome == outcome).count();
    let each: Vec<String> = Outcome::ALL.iter().map(|&o| format!("{o} {}", count(o))).collect();
    format!("{} completions: {}", lines.len(), each.join(", "))
}
