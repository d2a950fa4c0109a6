//! One function per subcommand.

use super::display::Display;
use super::{EvalArgs, GradeArgs, OwnArgs, StudyArgs, TrainArgs};
use crate::bench::jsonl;
use crate::config::{Scale, Setting, Study};
use crate::grade::{Graded, grade_extracted, grade_response};
use crate::report::{Arm, ArmState, Table, TableSpec};
use crate::rollout::Policy;
use crate::stats::ItemScore;
use crate::store::{Cell, CellKey, Store, read_jsonl, write_file};
use crate::study::{self, Plan, RunConfig};
use crate::train::{Recipe, TrainingData};
use crate::types::{Example, Outcome, Picture, SampleLine, StopReason};
use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// Columns of the terminal's tables.
const COLUMNS: usize = 120;

fn plan(args: &StudyArgs) -> Result<Plan> {
    let (scale, study) = (Scale::load(&args.scale)?, Study::load(&args.study)?);
    for name in &args.variants {
        study.variant(name)?;
    }
    let all = study.variants.iter().map(|v| v.name.clone());
    let variants: Vec<String> =
        all.filter(|n| args.variants.is_empty() || args.variants.contains(n)).collect();
    let seeds = if args.seeds.is_empty() { study.seeds.clone() } else { args.seeds.clone() };
    let overrides = settings(&args.overrides)?;
    Ok(Plan { scale, study, variants, seeds, overrides, out: args.out.clone() })
}

fn settings(texts: &[String]) -> Result<Vec<Setting>> {
    texts.iter().map(|text| text.parse()).collect()
}

pub(super) fn reproduce(args: &StudyArgs) -> Result<()> {
    let plan = plan(args)?;
    let display = Display::new()?;
    let mut shown = false;
    let table = study::reproduce(&plan, &display, |table| {
        println!("{}", table.terminal(COLUMNS));
        shown = true;
    })?;
    if !shown {
        println!("{}", table.terminal(COLUMNS));
    }
    println!("tables: {}", plan.results().join(format!("{}.md", plan.study.name)).display());
    println!("runs:   {}", plan.out.join("runs").display());
    Ok(())
}

pub(super) fn report(args: &StudyArgs) -> Result<()> {
    let plan = plan(args)?;
    println!("{}", study::report(&plan)?.terminal(COLUMNS));
    println!("tables: {}", plan.results().join(format!("{}.md", plan.study.name)).display());
    Ok(())
}

/// Questions of a user's file.
struct Own(Vec<Example>);

impl TrainingData for Own {
    fn len(&self) -> usize {
        self.0.len()
    }

    fn example(&self, index: usize) -> Result<Example> {
        Ok(self.0[index].clone())
    }
}

/// Settings, model and cell of a run on a user's own model or data.
struct OwnRun {
    config: RunConfig,
    policy: Policy,
    cell: Cell,
}

impl OwnRun {
    fn open(args: &OwnArgs, command: &str, variant: &str, inputs: Value, display: &Display) -> Result<Self> {
        let (scale, study) = (Scale::load(&args.scale)?, Study::load("main")?);
        let mut config = RunConfig::resolve(&scale, &study, variant, args.seed, &settings(&args.overrides)?)?;
        if let Some(samples) = inputs["samples"].as_u64() {
            config.eval.samples = u32::try_from(samples).context("--samples")?;
        }
        let store = Store::open(args.out.join("runs"))?;
        let resolved = json!({ "config": config.to_value()?, "inputs": inputs });
        let name = format!("{variant}-{}", &crate::store::content_hash(&resolved)[..12]);
        let key =
            CellKey { scale: config.scale.clone(), study: command.into(), variant: name, seed: args.seed };
        let cell = store.cell(&key, &resolved)?;
        let policy = match &args.model {
            Some(dir) => Policy::open(dir, &config.instruction, None).context("--model")?,
            None => study::base_policy(&config, &store, display)?,
        };
        Ok(Self { config, policy, cell })
    }
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
    let data = Own(jsonl::read(&args.data)?);
    let display = Display::new()?;
    let inputs = json!({ "data": fingerprint(&data.0), "model": args.own.model });
    let run = OwnRun::open(&args.own, "train", &args.variant, inputs, &display)?;
    let OwnRun { config, policy, cell } = &run;
    let algorithm = config.algorithm.as_ref();
    let recipe = Recipe {
        algorithm: algorithm.with_context(|| format!("the variant {} is not trained", args.variant))?,
        train: &config.train,
        sampling: &config.sampling,
        optimizer: &config.optimizer,
        seed: config.seed,
    };
    let trained = study::train(recipe, &data, policy, cell, &args.variant, &display)?;
    let dir = cell.dir().join("model");
    study::save_policy(&trained, &dir)?;
    println!("model:   {}", dir.display());
    println!("metrics: {}", cell.dir().join("metrics.jsonl").display());
    Ok(())
}

pub(super) fn eval(args: &EvalArgs) -> Result<()> {
    ensure!(args.samples > 0, "--samples must be at least 1");
    let own = args.data.as_ref().map(|path| jsonl::read(path)).transpose()?;
    let display = Display::new()?;
    let data = own.as_ref().map(|examples| fingerprint(examples));
    let inputs = json!({ "data": data, "model": args.own.model, "samples": args.samples });
    let run = OwnRun::open(&args.own, "eval", "base", inputs, &display)?;
    let OwnRun { config, policy, cell } = &run;
    let benchmarks = match own {
        Some(examples) => vec![(examples.first().map_or(String::new(), |e| e.benchmark.clone()), examples)],
        None => study::tiny_benchmarks(config),
    };
    if !cell.is_done() {
        study::evaluate_cell(policy, &benchmarks, &config.eval, config.seed, cell, &display)?;
        cell.mark_done()?;
    }
    let lines = cell.samples()?.context("the evaluation left no samples")?;
    let names = benchmarks.into_iter().map(|(name, _)| name).collect();
    println!("{}", eval_table(config, names, &lines)?.terminal(COLUMNS));
    println!("{}", counts(&lines));
    println!("samples: {}", cell.dir().join("samples.jsonl").display());
    Ok(())
}

fn eval_table(config: &RunConfig, benchmarks: Vec<String>, lines: &[SampleLine]) -> Result<Table> {
    let scores = ItemScore::from_lines("model", config.seed, lines, config.eval.samples)?;
    let arms = [Arm { key: "model".into(), label: "Model".into(), state: ArmState::Measured(scores) }];
    let spec = TableSpec {
        title: "Evaluation".into(),
        study: "eval".into(),
        scale: config.scale.clone(),
        seeds: config.seed.to_string(),
        config_hashes: vec![],
        notes: vec![],
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

/// One line of the grader's input.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Answer {
    response: Option<String>,
    given: Option<String>,
    answer: String,
}

/// One line of the grader's output.
#[derive(Serialize)]
struct Verdict {
    outcome: Outcome,
    extracted: Option<String>,
    reward: f64,
}

pub(super) fn grade(args: &GradeArgs) -> Result<()> {
    let answers: Vec<Answer> = read_jsonl(&args.input)?;
    let mut text = String::new();
    for (line, answer) in (1..).zip(&answers) {
        let graded: Graded = match (&answer.response, &answer.given) {
            (Some(response), None) => grade_response(response, &answer.answer, StopReason::EndToken),
            (None, Some(given)) => grade_extracted(given, &answer.answer),
            _ => anyhow::bail!(
                "{}:{line}: give either \"response\" (a whole completion) or \"given\" (an extracted answer)",
                args.input.display()
            ),
        };
        let verdict = Verdict { outcome: graded.outcome, extracted: graded.extracted, reward: graded.reward };
        text += &(serde_json::to_string(&verdict)? + "\n");
    }
    write_file(&args.output, text.as_bytes())?;
    println!("graded {} answers: {}", answers.len(), args.output.display());
    Ok(())
}
