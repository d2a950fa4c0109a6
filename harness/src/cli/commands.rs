//! Studies and grading: `reproduce`, `ablate`, `list`, `report`, `grade`.

use super::display::Display;
use super::{GradeArgs, ListArgs, ReportArgs, RunArgs, StudyArgs};
use crate::algo::Algorithm;
use crate::bench::jsonl::{each_line, without_line};
use crate::config::{Scale, Setting, Study, check_changes};
use crate::grade::{Graded, grade_extracted, grade_response};
use crate::settings::Protocol;
use crate::store::write_file;
use crate::study::{self, Homes, Plan};
use crate::types::{Outcome, StopReason};
use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// What stands for every study of the repository.
const ALL: &str = "all";
/// Columns of the terminal's tables.
pub(super) const COLUMNS: usize = 120;

fn plan(study: &str, args: &StudyArgs) -> Result<Plan> {
    let (scale, study) = (Scale::load(&args.scale)?, Study::load(study)?);
    check_changes::<Algorithm>(&scale, &study)?;
    for name in &args.variants {
        study.variant(name)?;
    }
    let all = study.variants.iter().map(|v| v.name.clone());
    let variants: Vec<String> =
        all.filter(|n| args.variants.is_empty() || args.variants.contains(n)).collect();
    let seeds = if args.seeds.is_empty() { study.seeds.clone() } else { args.seeds.clone() };
    let mut overrides = device_settings(args.device.as_deref())?;
    overrides.extend(settings(args.protocol, &args.overrides)?);
    let homes = Homes::new(&scale, &study, &overrides)?;
    let (out, sources) = (args.out.clone(), args.sources.sources()?);
    let plan = Plan { scale, study, variants, seeds, overrides, homes, out, sources, tensorboard: false };
    plan.check()?;
    Ok(plan)
}

/// What a device asks for: the processor computes in f32; a card in whatever the scale states.
pub(super) fn device_settings(device: Option<&str>) -> Result<Vec<Setting>> {
    let settings: &[&str] = match device {
        None => &[],
        Some("cuda") => &["compute.device=cuda"],
        Some(_) => &[
            "compute.device=cpu",
            "compute.dtype=f32",
            "compute.gradient_dtype=f32",
            "compute.optimizer_state=f32",
            "compute.attention=own",
        ],
    };
    settings.iter().map(|setting| setting.parse()).collect()
}

/// Those of the protocol, then those of `--set`.
pub(super) fn settings(protocol: Option<Protocol>, overrides: &[String]) -> Result<Vec<Setting>> {
    let protocol = protocol.map_or(&[][..], Protocol::settings).iter().copied();
    protocol.chain(overrides.iter().map(String::as_str)).map(str::parse).collect()
}

/// `reproduce` and `ablate`.
pub(super) fn run(study: &str, args: &RunArgs) -> Result<()> {
    let plan = Plan { tensorboard: args.tensorboard, ..plan(study, &args.study)? };
    if args.dry_run {
        print!("{}", study::forecast(&plan)?);
        return Ok(());
    }
    for line in study::arms(&plan)? {
        println!("{line}");
    }
    let display = Display::new()?;
    let mut shown = false;
    let table = study::reproduce(&plan, &display, |table| {
        println!("{}", table.terminal(COLUMNS));
        shown = true;
    })?;
    if !shown {
        println!("{}", table.terminal(COLUMNS));
    }
    println!("{}", made(&plan));
    println!("runs:   {}", plan.out.join("runs").display());
    Ok(())
}

/// What a report has written, for the user to open.
fn made(plan: &Plan) -> String {
    let file = |kind: &str| plan.results().join(format!("{}.{kind}", plan.study.name));
    format!("tables: {}\npage:   {}", file("md").display(), file("html").display())
}

/// One study, or all of the repository.
pub(super) fn list(args: &ListArgs) -> Result<()> {
    let named = args.name.as_deref().map(|name| plan(name, &args.study)).transpose()?;
    let text = match named {
        Some(plan) => study::list_arms(&plan)?,
        None => {
            let names = Study::names().into_iter();
            study::list(&names.map(|name| plan(name, &args.study)).collect::<Result<Vec<_>>>()?)?
        }
    };
    print!("{text}");
    Ok(())
}

pub(super) fn report(args: &ReportArgs) -> Result<()> {
    if args.name == ALL {
        return report_all(&args.study);
    }
    let plan = plan(&args.name, &args.study)?;
    println!("{}", study::report(&plan)?.terminal(COLUMNS));
    println!("{}", made(&plan));
    Ok(())
}

/// The studies of the repository, each as `report` makes it, and a sheet of all.
fn report_all(args: &StudyArgs) -> Result<()> {
    ensure!(args.variants.is_empty(), "--variants is for one study");
    let plans = Study::names().into_iter().map(|name| plan(name, args)).collect::<Result<Vec<_>>>()?;
    print!("{}", study::report_all(&plans, &Display::new()?)?);
    let results = plans.first().map(Plan::results).unwrap_or_default();
    println!("\nsheet: {}", results.join("summary.md").display());
    Ok(())
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

/// Refuses an output that is the input under whatever name.
pub(super) fn refuse_overwriting(input: &Path, output: &Path) -> Result<()> {
    let same = match (input.canonicalize(), output.canonicalize()) {
        (Ok(input), Ok(output)) => input == output,
        _ => false,
    };
    ensure!(!same, "--output {} would replace --input", output.display());
    Ok(())
}

fn read_answers(path: &Path) -> Result<Vec<(usize, Answer)>> {
    let mut answers = vec![];
    each_line(path, |line, row| {
        answers.push((line, serde_json::from_slice(row).map_err(without_line)?));
        Ok(())
    })?;
    Ok(answers)
}

pub(super) fn grade(args: &GradeArgs) -> Result<()> {
    refuse_overwriting(&args.input, &args.output)?;
    let answers = read_answers(&args.input)?;
    let mut text = String::new();
    for (line, answer) in &answers {
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
