//! The command line: arguments in, calls of the library, progress and tables out. Nothing else prints.

mod bench;
mod commands;
mod display;
mod fetch;
mod own;
mod plan;
mod rescore;
mod score;

use crate::bench::RowCheck;
use crate::hub;
use crate::settings::{Alpha, Protocol};
use crate::study::Sources;
use anyhow::Result;
use clap::{Args, Parser, Subcommand};
use std::path::PathBuf;
use std::process::ExitCode;

const EXAMPLES: &str = "\
Examples:
  harness reproduce                                  the whole tiny reproduction, from nothing to tables
  harness reproduce --seeds 1,2,3                    three training seeds
  harness reproduce --variants base,dapo,vppo --set train.steps=40 --out /tmp/try
  harness ablate perturbation --seeds 1,2,3          another study of ablations/, or your own .toml
  harness list                                       all studies: their questions, cells done and to do
  harness report                                     the tables again, from the stored lines alone
  harness reproduce --scale 7b --dry-run             cells, downloads, steps, memory and time of the 7B experiment
  harness fetch --scale 7b --dry-run                 what that downloads, and whether the disk has room
  harness eval --model DIR --benchmark MathVision    a checkpoint on a benchmark of the paper
  harness eval --data my.jsonl --samples 8           a model on your own questions
  harness train --data my.jsonl --variant vppo       train on your own questions
  harness grade --input answers.jsonl --output verdicts.jsonl
  harness score --model DIR --input given.jsonl --output scores.jsonl --corruption patches
  harness plan --scale 32b --gpus 8                  memory by part, largest micro-batch and cache, time of a step
  harness bench --model DIR --json                   a training step on random data: seconds, tokens/s, memory, MFU

Ctrl-C stops at the next safe point; the same command goes on from there.";

/// Reproduces VPPO (arXiv 2510.09285): trains, evaluates and compares RL algorithms for Qwen2.5-VL.
#[derive(Parser)]
#[command(name = "harness", version, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// The main study: make data and base model, train every arm, evaluate, write the tables
    Reproduce(ReproduceArgs),
    /// The same for another study; cells that other studies have run are not run again
    Ablate(AblateArgs),
    /// Show the studies, or one study's arms and what they change, and which cells are done
    List(ListArgs),
    /// Make the tables again from the lines that the runs stored
    Report(ReportArgs),
    /// Train on your own questions
    Train(TrainArgs),
    /// Evaluate a model on benchmarks of the paper, on your own questions, or on the tiny benchmarks
    Eval(EvalArgs),
    /// Download checkpoints, training set and benchmarks; pin what was found in a lock file
    Fetch(FetchArgs),
    /// Grade answers from a JSONL file
    Grade(GradeArgs),
    /// Memory by part, what fits, and the time of a step, by formula; nothing is run
    Plan(plan::PlanArgs),
    /// Time one training step on random tokens and pictures
    Bench(bench::BenchArgs),
    /// Score given responses: log-probability, entropy and visual dependency of every token
    Score(score::ScoreArgs),
    /// Compare a run's kept rollouts with what another algorithm would make of them; needs no model
    Rescore(rescore::RescoreArgs),
}

/// What the commands on studies share.
#[derive(Args)]
struct StudyArgs {
    /// Name of a scale, or path of a scale file
    #[arg(long, default_value = "tiny")]
    scale: String,
    /// Training seeds, such as 1,2,3 (the study's own by default)
    #[arg(long, value_delimiter = ',')]
    seeds: Vec<u64>,
    /// Arms to run, such as base,dapo,vppo (all by default)
    #[arg(long, value_delimiter = ',')]
    variants: Vec<String>,
    /// Change a setting, such as train.steps=40; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    overrides: Vec<String>,
    /// Where the model runs: cpu or cuda (the scale's by default)
    #[arg(long, value_parser = ["cpu", "cuda"])]
    device: Option<String>,
    /// Folder for runs/ and results/
    #[arg(long, default_value = ".")]
    out: PathBuf,
    /// Evaluation protocol (the scale's by default)
    #[arg(long, value_parser = protocol)]
    protocol: Option<Protocol>,
    #[command(flatten)]
    sources: SourceArgs,
}

/// What `reproduce` and `ablate` share.
#[derive(Args)]
struct RunArgs {
    #[command(flatten)]
    study: StudyArgs,
    /// Print arms, cells, downloads, steps, tokens, memory and time; download and run nothing
    #[arg(long)]
    dry_run: bool,
    /// Keep the figures of every step as an event file too: `tensorboard --logdir OUT/runs` shows them
    #[arg(long)]
    tensorboard: bool,
}

#[derive(Args)]
struct ReproduceArgs {
    /// Name of a study, or path of a study file
    #[arg(long = "study", value_name = "STUDY", default_value = "main")]
    name: String,
    #[command(flatten)]
    run: RunArgs,
}

#[derive(Args)]
struct AblateArgs {
    /// Name of a study, or path of a study file
    #[arg(value_name = "STUDY")]
    name: String,
    #[command(flatten)]
    run: RunArgs,
}

#[derive(Args)]
struct ListArgs {
    /// Name of a study, or path of a study file (all of the repository by default)
    #[arg(value_name = "STUDY")]
    name: Option<String>,
    #[command(flatten)]
    study: StudyArgs,
}

#[derive(Args)]
struct ReportArgs {
    /// Name of a study, path of a study file, or all: those of the repository and a sheet of them
    #[arg(long = "study", value_name = "STUDY", default_value = "main")]
    name: String,
    #[command(flatten)]
    study: StudyArgs,
}

/// Where files of the hub come from.
#[derive(Args)]
struct SourceArgs {
    /// Lock file: commits and checksums, resolved on first use, then enforced
    #[arg(long, default_value = "datasets/hub.lock")]
    lock: PathBuf,
    /// Use only what is in the cache (as HF_HUB_OFFLINE=1 does)
    #[arg(long)]
    offline: bool,
    /// Take files from copies of repositories, DIR/OWNER/NAME/FILES, in place of the hub
    #[arg(long, value_name = "DIR")]
    from: Option<PathBuf>,
    /// Go on where a dataset has another number of rows than its manifest says
    #[arg(long)]
    allow_row_count: bool,
}

impl SourceArgs {
    fn sources(&self) -> Result<Sources> {
        let mut hub = hub::Settings::from_env(self.lock.clone())?;
        hub.offline |= self.offline;
        let rows = if self.allow_row_count { RowCheck::Allow } else { RowCheck::Refuse };
        Ok(Sources { hub, folder: self.from.clone(), rows, unfiltered: false })
    }
}

fn protocol(name: &str) -> std::result::Result<Protocol, String> {
    let names: Vec<&str> = Protocol::ALL.iter().map(|protocol| protocol.name()).collect();
    let found = Protocol::ALL.into_iter().find(|protocol| protocol.name() == name);
    found.ok_or_else(|| format!("the protocols are {}", names.join(", ")))
}

fn alpha(name: &str) -> std::result::Result<Alpha, String> {
    match name {
        "drop" => Ok(Alpha::Drop),
        "white" => Ok(Alpha::White),
        _ => Err("write drop or white".into()),
    }
}

/// What `train` and `eval` share.
#[derive(Args)]
struct OwnArgs {
    /// Checkpoint directory in the hub's layout (the scale's own base model by default)
    #[arg(long)]
    model: Option<PathBuf>,
    /// Name of a scale, or path of a scale file: the settings to start from (7b for datasets of the hub, else tiny)
    #[arg(long)]
    scale: Option<String>,
    /// Seed of every draw
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Change a setting, such as train.steps=40; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    overrides: Vec<String>,
    /// What becomes of transparency: drop (as the paper's code) or white
    #[arg(long, value_parser = alpha)]
    alpha: Option<Alpha>,
    /// Where the model runs: cpu or cuda (cpu in f32 by default)
    #[arg(long, value_parser = ["cpu", "cuda"])]
    device: Option<String>,
    /// Folder for runs/
    #[arg(long, default_value = ".")]
    out: PathBuf,
    #[command(flatten)]
    sources: SourceArgs,
}

#[derive(Args)]
struct TrainArgs {
    /// JSONL file with the columns problem (with `<image>` places), answer, images (paths relative to the file)
    #[arg(long, required_unless_present = "dataset", conflicts_with = "dataset")]
    data: Option<PathBuf>,
    /// Dataset of the hub, such as virl39k
    #[arg(long, value_name = "NAME")]
    dataset: Option<String>,
    /// Which source of the dataset: original or repack
    #[arg(long, requires = "dataset")]
    source: Option<String>,
    /// Arm of the main study whose algorithm trains
    #[arg(long, default_value = "vppo")]
    variant: String,
    /// Take random weights where the directory of --model holds none: to time and to test, not to learn
    #[arg(long, requires = "model")]
    untrained: bool,
    /// Keep the figures of every step as an event file too: `tensorboard --logdir OUT/runs` shows them
    #[arg(long)]
    tensorboard: bool,
    #[command(flatten)]
    own: OwnArgs,
}

#[derive(Args)]
struct EvalArgs {
    /// JSONL file as for train (the tiny benchmarks by default)
    #[arg(long, conflicts_with = "benchmarks")]
    data: Option<PathBuf>,
    /// Benchmarks of the paper, such as MathVision,Geo3k, or `all`
    #[arg(long = "benchmark", value_name = "NAME", value_delimiter = ',')]
    benchmarks: Vec<String>,
    /// Which source of the benchmarks: original or vppo_eval
    #[arg(long)]
    source: Option<String>,
    /// Completions per item: the k of avg@k (the scale's by default, 8)
    #[arg(long)]
    samples: Option<u32>,
    /// Items per benchmark (all by default)
    #[arg(long)]
    limit: Option<usize>,
    /// Take the rows that the paper's filters leave out too
    #[arg(long)]
    all_rows: bool,
    /// Evaluation protocol: own, paper or papo-eval (the scale's by default)
    #[arg(long, value_parser = protocol)]
    protocol: Option<Protocol>,
    #[command(flatten)]
    own: OwnArgs,
}

#[derive(Args)]
struct FetchArgs {
    /// Datasets, such as MathVision virl39k, or `all` benchmarks (no name and no --model: all that the scale needs)
    names: Vec<String>,
    /// Name of a scale, or path of a scale file
    #[arg(long, default_value = "7b")]
    scale: String,
    /// Which source of the benchmarks: original or vppo_eval (the scale's by default)
    #[arg(long)]
    source: Option<String>,
    /// Checkpoint of the hub, such as Qwen/Qwen2.5-VL-7B-Instruct
    #[arg(long, value_name = "OWNER/NAME")]
    model: Option<String>,
    /// Print sizes, licences and free disk; download nothing
    #[arg(long, conflicts_with_all = ["update", "verify"])]
    dry_run: bool,
    /// Resolve branches again and pin what they hold now
    #[arg(long)]
    update: bool,
    /// Hash all files of the lock again and compare them with it
    #[arg(long, conflicts_with_all = ["update", "names", "model"])]
    verify: bool,
    /// Lock file: commits and checksums, resolved on first use, then enforced
    #[arg(long, default_value = "datasets/hub.lock")]
    lock: PathBuf,
    /// Use only what is in the cache (as HF_HUB_OFFLINE=1 does)
    #[arg(long)]
    offline: bool,
}

#[derive(Args)]
struct GradeArgs {
    /// JSONL with {"response", "answer"} (a whole completion) or {"given", "answer"} (an extracted answer) per line
    #[arg(long)]
    input: PathBuf,
    /// JSONL to write: outcome, extracted, reward per line
    #[arg(long)]
    output: PathBuf,
}

/// Runs the command line; the exit code is 0, 1 for an error, 130 for an interruption.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(&cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.is::<crate::progress::Interrupted>() => {
            eprintln!("{error}");
            ExitCode::from(130)
        }
        Err(error) => {
            eprintln!("error: {}", display::chain(&error));
            ExitCode::FAILURE
        }
    }
}

fn run(command: &Command) -> Result<()> {
    match command {
        Command::Reproduce(args) => commands::run(&args.name, &args.run),
        Command::Ablate(args) => commands::run(&args.name, &args.run),
        Command::List(args) => commands::list(args),
        Command::Report(args) => commands::report(args),
        Command::Train(args) => own::train(args),
        Command::Eval(args) => own::eval(args),
        Command::Fetch(args) => fetch::fetch(args),
        Command::Grade(args) => commands::grade(args),
        Command::Plan(args) => plan::plan(args),
        Command::Bench(args) => bench::bench(args),
        Command::Score(args) => score::score(args),
        Command::Rescore(args) => rescore::run(args),
    }
}
