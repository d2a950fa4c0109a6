//! The command line: arguments in, calls of the library, progress and tables out. Nothing else prints.

mod commands;
mod display;
mod score;

use anyhow::Result;
use clap::{Args, Parser, Subcommand};
use std::path::PathBuf;
use std::process::ExitCode;

const EXAMPLES: &str = "\
Examples:
  harness reproduce                                  the whole tiny reproduction, from nothing to tables
  harness reproduce --seeds 1,2,3                    three training seeds
  harness reproduce --variants base,dapo,vppo --set train.steps=40 --out /tmp/try
  harness report                                     the tables again, from the stored lines alone
  harness eval --data my.jsonl --samples 8           a model on your own questions
  harness train --data my.jsonl --variant vppo       train on your own questions
  harness grade --input answers.jsonl --output verdicts.jsonl
  harness score --model DIR --input given.jsonl --output scores.jsonl --corruption patches

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
    /// Make data and base model, train every arm, evaluate, write the tables
    Reproduce(StudyArgs),
    /// Make the tables again from the lines that the runs stored
    Report(StudyArgs),
    /// Train on your own questions
    Train(TrainArgs),
    /// Evaluate a model on your own questions, or on the tiny benchmarks
    Eval(EvalArgs),
    /// Grade answers from a JSONL file
    Grade(GradeArgs),
    /// Score given responses: log-probability, entropy and visual dependency of every token
    Score(score::ScoreArgs),
}

/// What `reproduce` and `report` share.
#[derive(Args)]
struct StudyArgs {
    /// Name of a scale, or path of a scale file
    #[arg(long, default_value = "tiny")]
    scale: String,
    /// Name of a study, or path of a study file
    #[arg(long, default_value = "main")]
    study: String,
    /// Training seeds, such as 1,2,3 (the study's own by default)
    #[arg(long, value_delimiter = ',')]
    seeds: Vec<u64>,
    /// Arms to run, such as base,dapo,vppo (all by default)
    #[arg(long, value_delimiter = ',')]
    variants: Vec<String>,
    /// Change a setting, such as train.steps=40; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    overrides: Vec<String>,
    /// Folder for runs/ and results/
    #[arg(long, default_value = ".")]
    out: PathBuf,
}

/// What `train` and `eval` share.
#[derive(Args)]
struct OwnArgs {
    /// Checkpoint directory in the hub's layout (the scale's own base model by default)
    #[arg(long)]
    model: Option<PathBuf>,
    /// Name of a scale, or path of a scale file: the settings to start from
    #[arg(long, default_value = "tiny")]
    scale: String,
    /// Seed of every draw
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Change a setting, such as train.steps=40; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    overrides: Vec<String>,
    /// Folder for runs/
    #[arg(long, default_value = ".")]
    out: PathBuf,
}

#[derive(Args)]
struct TrainArgs {
    /// JSONL file with the columns problem (with `<image>` places), answer, images (paths relative to the file)
    #[arg(long)]
    data: PathBuf,
    /// Arm of the main study whose algorithm trains
    #[arg(long, default_value = "vppo")]
    variant: String,
    #[command(flatten)]
    own: OwnArgs,
}

#[derive(Args)]
struct EvalArgs {
    /// JSONL file as for train (the tiny benchmarks by default)
    #[arg(long)]
    data: Option<PathBuf>,
    /// Completions per item: the k of avg@k
    #[arg(long, default_value_t = 8)]
    samples: u32,
    #[command(flatten)]
    own: OwnArgs,
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
        Command::Reproduce(args) => commands::reproduce(args),
        Command::Report(args) => commands::report(args),
        Command::Train(args) => commands::train(args),
        Command::Eval(args) => commands::eval(args),
        Command::Grade(args) => commands::grade(args),
        Command::Score(args) => score::score(args),
    }
}
