//! What a plan would do, without doing it: cells, downloads, steps, tokens, memory, time.
//!
//! Memory and operations are computed by the formulas of [`crate::cost`]; times come from `results/timing.csv`, which
//! says for each where it was measured.

use super::budget;
use super::questions::{checkpoint_files, expected_rows, wanted_dataset};
use super::{Plan, RunConfig, find};
use crate::bench::Manifest;
use crate::config::Origin;
use crate::cost::units::{bytes, operations, thousands};
use crate::cost::{Lengths, flops, most_visual_tokens, picture_tokens, step_sequences, weights};
use crate::hub::{FetchPlan, Hub, Wanted};
use crate::settings::Device;
use anyhow::{Context, Result};
use serde::Deserialize;

/// Measured times, part of the program.
const TIMES: &str = include_str!("../../../results/timing.csv");
/// Text tokens of a prompt that are assumed where no setting bounds them.
const TEXT_TOKENS: u64 = 256;

/// A line of `results/timing.csv`.
#[derive(Debug, Deserialize)]
struct Timing {
    scale: String,
    what: String,
    seconds: f64,
    gpus: u32,
    hardware: String,
    source: String,
}

/// The whole plan in words. Nothing is downloaded or written; the hub is asked for sizes unless offline.
///
/// # Errors
/// On settings that do not resolve and manifests that do not exist. A hub that cannot be reached is part of the text.
pub fn forecast(plan: &Plan) -> Result<String> {
    let configs = plan.configs()?;
    let first = configs.first().context("there is no cell to run")?;
    let mut text =
        format!("Plan of study {} at scale {}\n{}\n", plan.study.name, plan.scale.name, plan.study.question);
    let mut section = |title: &str, lines: Vec<String>| {
        text += &format!("\n{title}\n");
        for line in lines {
            text += &format!("  {line}\n");
        }
    };
    section("Arms", super::arms(plan)?);
    section(&format!("Cells ({})", configs.len()), cells(plan, &configs)?);
    section("Base model and questions", origin(first)?);
    let wanted = downloads(first)?;
    match &plan.sources.folder {
        Some(folder) if !wanted.is_empty() => {
            section("Downloads", vec![format!("none: files are taken from {}", folder.display())]);
        }
        _ if !wanted.is_empty() => {
            let found = Hub::new(plan.sources.hub.clone()).and_then(|hub| hub.plan(&wanted));
            section("Downloads", download_lines(&wanted, found));
        }
        _ => {}
    }
    for (title, lines) in trainings(&configs)? {
        section(&title, lines);
    }
    section("Evaluation, per cell", evaluation(first)?);
    section("Memory, by formula at greatest lengths (not measured)", memory_lines(&configs)?);
    section("Time", times(&configs)?);
    if first.compute.device == Device::Cuda {
        section("Device", vec![needs_gpu(&configs)]);
    }
    Ok(text)
}

fn cells(plan: &Plan, configs: &[RunConfig]) -> Result<Vec<String>> {
    let runs = plan.out.join("runs");
    let mut lines = vec![];
    for config in configs {
        let done = runs.is_dir() && find(&plan.store()?, &config.key())?.is_some_and(|cell| cell.is_done());
        let what = match (&config.algorithm, done) {
            (_, true) => "done already".to_owned(),
            (None, false) => "evaluation only".to_owned(),
            (Some(_), false) => format!("{} steps, then evaluation", config.train.steps),
        };
        lines.push(format!("{}: {what}", config.key()));
    }
    Ok(lines)
}

fn origin(config: &RunConfig) -> Result<Vec<String>> {
    let count = weights(&config.model, vocabulary(config)?);
    let sizes = format!(
        "{:.2} billion weights: language {:.2}, vocabulary {:.2}, vision {:.2}",
        billions(count.total()),
        billions(count.language),
        billions(count.vocabulary),
        billions(count.vision)
    );
    Ok(match config.origin()? {
        Origin::Made { world, warm_start } => vec![
            format!("base model: made here by {} supervised updates", warm_start.steps),
            format!(
                "questions: generated, {} for training and {} for evaluation per benchmark",
                world.train_items, world.eval_items
            ),
        ],
        Origin::Hub { checkpoint, data } => vec![
            format!("base model: {} at {}", checkpoint.repo, checkpoint.revision),
            sizes,
            format!("training set: {} ({})", data.train, data.train_source),
            format!("benchmarks: {} ({})", data.benchmarks.join(", "), data.eval_source),
        ],
    })
}

/// Rows of the embedding. A model that is made here gets them from its word list, which is small.
pub(super) fn vocabulary(config: &RunConfig) -> Result<usize> {
    Ok(match config.origin()? {
        Origin::Made { .. } => 1024,
        Origin::Hub { checkpoint, .. } => checkpoint.vocab_size,
    })
}

/// What a run needs from the hub: checkpoint, training set, benchmarks.
pub fn downloads(config: &RunConfig) -> Result<Vec<Wanted>> {
    let Origin::Hub { checkpoint, data } = config.origin()? else { return Ok(vec![]) };
    let mut wanted = vec![checkpoint_files(&checkpoint.repo, &checkpoint.revision)];
    let benchmarks = data.benchmarks.iter().map(|name| (name, &data.eval_source));
    for (name, source) in std::iter::once((&data.train, &data.train_source)).chain(benchmarks) {
        let manifest = Manifest::by_name(name)?;
        wanted.push(wanted_dataset(&manifest, manifest.source(Some(source))?));
    }
    Ok(by_repository(wanted))
}

/// One entry per repository, with the files of all its entries.
pub fn by_repository(wanted: Vec<Wanted>) -> Vec<Wanted> {
    let mut merged: Vec<Wanted> = vec![];
    for one in wanted {
        match merged.iter_mut().find(|known| known.repo == one.repo) {
            Some(known) => {
                known.files.extend(one.files);
                known.files.sort();
                known.files.dedup();
            }
            None => merged.push(one),
        }
    }
    merged
}

fn download_lines(wanted: &[Wanted], found: Result<FetchPlan>) -> Vec<String> {
    found.map_or_else(
        |error| {
            let each = wanted
                .iter()
                .map(|wanted| format!("{}: {}", wanted.repo, wanted.files.join(" ").replace('?', "")));
            each.chain([format!("sizes are not known: {error:#}")]).collect()
        },
        |plan| downloads_in_words(&plan),
    )
}

/// What a fetch would do: a line per repository, the sum, the room on the disk, and what else there is to know.
pub fn downloads_in_words(plan: &FetchPlan) -> Vec<String> {
    let mut lines = vec![];
    for (repo, licence) in &plan.licences {
        let files: Vec<_> = plan.files.iter().filter(|file| file.repo == *repo).collect();
        let cached = files.iter().filter(|file| file.cached).count();
        let bytes: u64 = files.iter().map(|file| file.bytes).sum();
        let commit = files.first().map_or("", |file| file.commit.get(..12).unwrap_or_default());
        lines.push(format!(
            "{repo} ({commit}): {} files, {:.2} GB, {cached} cached; licence: {}",
            files.len(),
            gigabytes(bytes),
            licence.as_deref().unwrap_or("not stated")
        ));
    }
    lines.push(format!(
        "to download: {:.2} GB; free: {:.2} GB at {}",
        gigabytes(plan.needed_bytes),
        gigabytes(plan.free_bytes),
        plan.cache_dir.display()
    ));
    lines.extend(plan.notes.iter().cloned());
    lines
}

fn gigabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e9
}

pub(super) fn lengths(config: &RunConfig) -> Result<Lengths> {
    let model = &config.model;
    let (prompt, visual) = match config.origin()? {
        Origin::Made { .. } => (picture_tokens(model) + TEXT_TOKENS, picture_tokens(model)),
        Origin::Hub { data, .. } => {
            let prompt = data.max_prompt_tokens as u64;
            (prompt, most_visual_tokens(model, prompt))
        }
    };
    Ok(Lengths { prompt, visual, response: config.sampling.max_new_tokens as u64 })
}

/// What training takes, once for all trained cells or for each kind of them.
fn trainings(configs: &[RunConfig]) -> Result<Vec<(String, Vec<String>)>> {
    let mut kinds: Vec<(String, Vec<String>)> = vec![];
    for config in configs.iter().filter(|config| config.algorithm.is_some()) {
        let lines = training(config)?;
        if kinds.iter().all(|(_, known)| *known != lines) {
            kinds.push((format!("Training, as {}", config.key()), lines));
        }
    }
    if let [(title, _)] = &mut kinds[..] {
        *title = "Training, per trained cell".into();
    }
    Ok(kinds)
}

pub(super) fn training(config: &RunConfig) -> Result<Vec<String>> {
    let train = &config.train;
    let lengths = lengths(config)?;
    let vocabulary = vocabulary(config)?;
    let step = step_sequences(&config.model, train, lengths);
    let (prompt, response) = (step.all_prompt_tokens(), step.all_response_tokens());
    let scoring = flops::forward(&config.model, vocabulary, &step).total();
    let apart = flops::forward(&config.model, vocabulary, &step.apart()).total();
    let updates = train.prompts_per_step / train.mini_batch_prompts;
    Ok(vec![
        format!(
            "{} steps of {} prompts x {} responses, {updates} update{} of {} prompts per step",
            train.steps,
            train.prompts_per_step,
            train.group_size,
            if updates == 1 { "" } else { "s" },
            train.mini_batch_prompts
        ),
        format!(
            "per step at greatest lengths: {} response tokens, {} prompt tokens (each prompt once for its group); in all {}",
            thousands(response),
            thousands(prompt),
            thousands(train.steps * (response + prompt))
        ),
        format!(
            "operations of them: rollout {}, a scoring pass {}, update {} without the recomputation of layers; old \
             log-probabilities that are recomputed take one scoring pass, visual dependency another ({} where every \
             response has its own corrupted picture)",
            operations(scoring),
            operations(scoring),
            operations(flops::update(&config.model, vocabulary, &step)),
            operations(apart)
        ),
        "groups without spread are drawn again where the algorithm filters: then sampling costs more, without a bound"
            .to_owned(),
    ])
}

fn evaluation_size(config: &RunConfig) -> Result<(u64, u64)> {
    let rows = match config.origin()? {
        Origin::Made { world, .. } => vec![world.eval_items; crate::bench::tiny::FAMILIES.len()],
        Origin::Hub { data, .. } => expected_rows(data)?,
    };
    let limit = if config.eval.items == 0 { usize::MAX } else { config.eval.items };
    let items = rows.into_iter().map(|rows| rows.min(limit) as u64).sum::<u64>();
    let longest = config.eval.sampling.max_new_tokens as u64;
    Ok((items, items * u64::from(config.eval.samples) * longest))
}

fn evaluation(config: &RunConfig) -> Result<Vec<String>> {
    let (items, tokens) = evaluation_size(config)?;
    Ok(vec![
        format!("{} items x {} samples", thousands(items), config.eval.samples),
        format!("at most {} response tokens", thousands(tokens)),
        format!("protocol {}", config.eval.in_words(config.pictures())),
    ])
}

/// Memory of the trained cell that needs most, or of an evaluation where nothing is trained.
fn memory_lines(configs: &[RunConfig]) -> Result<Vec<String>> {
    let needs = |config| Ok((config, budget::load(config, 1)?.memory()));
    let all: Vec<(&RunConfig, _)> = configs.iter().map(needs).collect::<Result<_>>()?;
    let largest = all.iter().max_by_key(|(config, memory)| (config.algorithm.is_some(), memory.peak()));
    let (config, memory) = largest.context("there is no cell to run")?;
    let mut lines = budget::memory_lines(memory);
    if matches!(config.origin()?, Origin::Hub { .. }) {
        lines.push("`harness plan` says what fits on one GPU or is divided over several".to_owned());
    }
    Ok(lines)
}

pub(super) fn times(configs: &[RunConfig]) -> Result<Vec<String>> {
    let table: Vec<Timing> = csv::Reader::from_reader(TIMES.as_bytes())
        .deserialize()
        .collect::<Result<_, _>>()
        .context("results/timing.csv")?;
    let mut lines = vec![];
    if let Some(config) = configs.first()
        && let Origin::Made { warm_start, .. } = config.origin()?
    {
        lines.push(time(&table, &config.scale, &["warm_start"], "base model", warm_start.steps));
    }
    for config in configs {
        if let Some(algorithm) = &config.algorithm {
            let preset = if algorithm.perception.is_some() { "vppo" } else { "dapo" };
            let rows = [config.variant.as_str(), preset];
            lines.push(time(&table, &config.scale, &rows, &config.key().to_string(), config.train.steps));
        }
    }
    if let Some(config) = configs.first() {
        let (_, tokens) = evaluation_size(config)?;
        let name = "evaluation of each cell";
        lines.push(match table.iter().any(|row| row.scale == config.scale && row.what == "response_token") {
            true => time(&table, &config.scale, &["response_token"], &format!("{name}, at most"), tokens),
            false => time(&table, &config.scale, &["evaluation"], name, 1),
        });
    }
    Ok(lines)
}

/// The time of `count` units, from the first of the table's rows `whats` that exists.
fn time(table: &[Timing], scale: &str, whats: &[&str], name: &str, count: u64) -> String {
    let row = whats.iter().find_map(|what| table.iter().find(|row| row.scale == scale && row.what == *what));
    let Some(row) = row else {
        return format!("{name}: no measured time is known");
    };
    let borrowed =
        if row.what == whats[0] { String::new() } else { format!(", {}'s taken for it", row.what) };
    let total = row.seconds * count as f64;
    let shown = if total < 7_200.0 { format!("{:.0} s", total) } else { format!("{:.1} h", total / 3_600.0) };
    let cost = if row.gpus == 0 {
        String::new()
    } else {
        format!(" = {:.0} GPU-hours", total / 3_600.0 * f64::from(row.gpus))
    };
    format!("{name}: {shown} on {}{cost} ({}{borrowed})", row.hardware, row.source)
}

/// What a run on a GPU needs, and the ways out where there is none.
pub(super) fn needs_gpu(configs: &[RunConfig]) -> String {
    let peak = |config| Some(budget::load(config, 1).ok()?.memory().peak());
    let needed = bytes(configs.iter().filter_map(peak).max().unwrap_or_default());
    let scale = configs.first().map_or("", |config| config.scale.as_str());
    format!(
        "scale {scale} runs on an NVIDIA GPU: about {needed} of memory in all, by formula. `--dry-run` prints the \
         whole plan; `--scale tiny` does the same job with a small model in minutes; --device cpu takes the processor, \
         which is no way for a model of this size"
    )
}

fn billions(count: u64) -> f64 {
    count as f64 / 1e9
}
