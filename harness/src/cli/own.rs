//! Runs on the user's own models and questions: `train`, `eval`.

use super::commands::{COLUMNS, settings};
use super::display::Display;
use super::{EvalArgs, OwnArgs, TrainArgs};
use crate::bench::manifest::Role;
use crate::bench::{Manifest, jsonl};
use crate::config::{Scale, Setting, Study};
use crate::image::AreaRule;
use crate::report::{Arm, ArmState, Table, TableSpec};
use crate::rollout::Policy;
use crate::stats::ItemScore;
use crate::store::{Cell, CellKey, Store};
use crate::study::{self, Benchmarks, Questions, RunConfig, Sources};
use crate::train::Recipe;
use crate::types::{Example, Outcome, Picture, SampleLine};
use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use std::path::Path;

/// Settings, model and cell of a run on a user's own model or data.
struct OwnRun {
    config: RunConfig,
    policy: Policy,
    cell: Cell,
}

impl OwnRun {
    fn open(
        args: &OwnArgs,
        config: RunConfig,
        command: &str,
        sources: &Sources,
        inputs: Value,
        display: &Display,
    ) -> Result<Self> {
        let store = Store::open(args.out.join("runs"))?;
        let resolved = json!({ "config": config.to_value()?, "inputs": inputs });
        let name = format!("{}-{}", config.variant, &crate::store::content_hash(&resolved)[..12]);
        let key =
            CellKey { scale: config.scale.clone(), study: command.into(), variant: name, seed: args.seed };
        let cell = store.cell(&key, &resolved)?;
        let policy = match &args.model {
            Some(dir) => own_policy(dir, &config)?,
            None => study::base_policy(&config, sources, &store, display)?,
        };
        Ok(Self { config, policy, cell })
    }
}

/// The checkpoint of a folder. A scale of the hub says how it sees pictures; else its own processor does.
fn own_policy(dir: &Path, config: &RunConfig) -> Result<Policy> {
    let (min_pixels, max_pixels) = (config.model.min_pixels, config.model.max_pixels);
    let area = config.data.as_ref().map(|_| AreaRule { min_pixels, max_pixels });
    let mut policy = Policy::open(dir, &config.instruction, area).context("--model")?;
    if let Some(data) = &config.data {
        policy.set_alpha(data.alpha);
    }
    Ok(policy)
}

/// The settings of a run of its own: the scale's, then `more`. `hub` says whether it uses datasets of the hub.
fn config(args: &OwnArgs, variant: &str, hub: bool, more: &[Setting]) -> Result<RunConfig> {
    let name = args.scale.as_deref().unwrap_or(if hub { "7b" } else { "tiny" });
    let (scale, study) = (Scale::load(name)?, Study::load("main")?);
    RunConfig::resolve(&scale, &study, variant, args.seed, more)
}

/// What identifies a user's questions: their content, not their place.
fn fingerprint(examples: &[Example]) -> String {
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

pub(super) fn train(args: &TrainArgs) -> Result<()> {
    let more = settings(None, &args.own.overrides)?;
    let config = config(&args.own, &args.variant, args.dataset.is_some(), &more)?;
    let sources = args.own.sources.sources()?;
    let display = Display::new()?;
    let questions = match (&args.data, &args.dataset) {
        (Some(path), _) => jsonl::read(path)?,
        (None, Some(name)) => sources.dataset(name, &args.source, &display)?.examples,
        (None, None) => bail!("give --data FILE.jsonl or --dataset NAME"),
    };
    let inputs = json!({ "data": fingerprint(&questions), "model": args.own.model });
    let run = OwnRun::open(&args.own, config, "train", &sources, inputs, &display)?;
    let OwnRun { config, policy, cell } = &run;
    let questions = match &config.data {
        Some(data) => study::without_long_prompts(questions, policy, data.max_prompt_tokens, &display)?,
        None => questions,
    };
    let algorithm = config.algorithm.as_ref();
    let recipe = Recipe {
        algorithm: algorithm.with_context(|| format!("the variant {} is not trained", args.variant))?,
        train: &config.train,
        sampling: &config.sampling,
        optimizer: &config.optimizer,
        seed: config.seed,
    };
    let questions = Questions::Rows(questions);
    let trained = study::train(recipe, &questions, policy, cell, &args.variant, &display)?;
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
    let benchmarks = eval_questions(args, &config, &sources, &display)?;
    let data: Vec<String> = benchmarks.iter().map(|(_, examples)| fingerprint(examples)).collect();
    let inputs = json!({ "data": data, "model": args.own.model });
    let run = OwnRun::open(&args.own, config, "eval", &sources, inputs, &display)?;
    let OwnRun { config, policy, cell } = run;
    if !cell.is_done() {
        let policy = study::evaluated(policy, &config);
        study::evaluate_cell(&policy, &benchmarks, &config.eval, config.seed, &cell, &display)?;
        cell.mark_done()?;
    }
    let lines = cell.samples()?.context("the evaluation left no samples")?;
    let names: Vec<String> = benchmarks.into_iter().map(|(name, _)| name).collect();
    let expected =
        if args.benchmarks.is_empty() { vec![] } else { study::manifest_rows(&names, &args.source)? };
    println!("{}", eval_table(&config, names, &expected, &lines)?.terminal(COLUMNS));
    println!("{}", counts(&lines));
    println!("samples: {}", cell.dir().join("samples.jsonl").display());
    Ok(())
}

/// The scale's settings, then those of the command's own arguments.
fn eval_config(args: &EvalArgs) -> Result<RunConfig> {
    ensure!(args.samples > 0, "--samples must be at least 1");
    ensure!(args.limit != Some(0), "--limit must be at least 1");
    let mut more = settings(args.protocol, &args.own.overrides)?;
    more.push(format!("eval.samples={}", args.samples).parse()?);
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
) -> Result<Benchmarks> {
    let limit = if config.eval.items == 0 { usize::MAX } else { config.eval.items };
    if let Some(path) = &args.data {
        let mut examples = jsonl::read(path)?;
        if args.limit.is_some() {
            examples.truncate(limit);
        }
        return Ok(vec![(examples.first().map_or(String::new(), |e| e.benchmark.clone()), examples)]);
    }
    if args.benchmarks.is_empty() {
        return study::benchmarks(config, sources, display);
    }
    let mut benchmarks = vec![];
    for manifest in manifests(&args.benchmarks)? {
        let mut examples = sources.dataset(&manifest.name, &args.source, display)?.examples;
        examples.truncate(limit);
        benchmarks.push((manifest.name.clone(), examples));
    }
    Ok(benchmarks)
}

/// The manifests of benchmarks by name, or all of them.
fn manifests(names: &[String]) -> Result<Vec<Manifest>> {
    match names {
        [all] if all == "all" => {
            Ok(Manifest::all()?.into_iter().filter(|manifest| manifest.role == Role::Benchmark).collect())
        }
        names => names.iter().map(|name| Manifest::by_name(name)).collect(),
    }
}

fn eval_table(
    config: &RunConfig,
    benchmarks: Vec<String>,
    expected: &[(String, usize)],
    lines: &[SampleLine],
) -> Result<Table> {
    let scores = ItemScore::from_lines("model", config.seed, lines, config.eval.samples)?;
    let arms = [Arm { key: "model".into(), label: "Model".into(), state: ArmState::Measured(scores) }];
    let spec = TableSpec {
        title: "Evaluation".into(),
        study: "eval".into(),
        scale: config.scale.clone(),
        seeds: config.seed.to_string(),
        config_hashes: vec![],
        protocol: config.eval.in_words(),
        notes: study::row_notes(expected, &arms),
        benchmarks,
        baseline: "model".into(),
        samples: config.eval.samples,
        resamples: 1,
        statistics_seed: 1,
        paper: vec![],
    };
    Table::new(spec, &arms)
}

fn counts(lines: &[SampleLine]) -> String {
    let count = |outcome| lines.iter().filter(|l| l.outcome == outcome).count();
    let each: Vec<String> = Outcome::ALL.iter().map(|&o| format!("{o} {}", count(o))).collect();
    format!("{} completions: {}", lines.len(), each.join(", "))
}
