//! `harness rescore`.

use super::commands::settings;
use crate::algo::{Comparison, Effect};
use crate::config::Study;
use crate::study::{Other, Rescored, rescore};
use anyhow::Result;
use clap::Args;
use serde_json::{Value, json};
use std::path::PathBuf;

const NOTES: &str = "\
Gradient: that of the loss with respect to the log-probabilities of a step's sampled tokens, at the policy that sampled
them; what the network makes of it is not in it. cosine: between the two gradients, - where one is zero. kept: mean token
weight. advantage: mean absolute value, shaping included. same sign: tokens whose derivatives agree in sign. Responses are
those that the run learned from: groups that its own filter dropped are not there.";

#[derive(Args)]
#[command(after_help = NOTES)]
pub(super) struct RescoreArgs {
    /// Folder of a run that kept rollouts (train.record_every), such as runs/tiny/main/dapo/seed-1
    run: PathBuf,
    /// Arm whose algorithm it is compared with
    #[arg(long)]
    variant: String,
    /// Study of that arm: a name, or the path of a study file
    #[arg(long, default_value = "main")]
    study: String,
    /// Change a setting of that arm, such as algorithm.perception.token_filter.fraction=0.2; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    overrides: Vec<String>,
    /// End with one line of JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &RescoreArgs) -> Result<()> {
    let overrides = settings(None, &args.overrides)?;
    let study = Study::load(&args.study)?;
    let other = Other { study: &study, variant: &args.variant, overrides: &overrides };
    let found = rescore(&args.run, other)?;
    print!("{}", table(&found, &args.variant));
    if args.json {
        println!("{}", in_json(&found, &args.variant));
    }
    Ok(())
}

fn table(found: &Rescored, variant: &str) -> String {
    let head =
        ["step", "responses", "tokens", "norm", "", "kept %", "", "advantage", "", "cosine", "same sign %"];
    let mut text = format!("{} (left) beside {variant} (right)\n\n", found.key);
    let mut row = |cells: [String; 11]| {
        let widths = [6, 11, 8, 11, 11, 8, 8, 11, 9, 9, 13];
        let cells = cells.iter().zip(widths).map(|(cell, width)| format!("{cell:>width$}"));
        text += &format!("{}\n", cells.collect::<String>());
    };
    row(head.map(str::to_owned));
    for (step, c) in &found.steps {
        row([
            step.to_string(),
            c.responses.to_string(),
            c.tokens.to_string(),
            format!("{:.3e}", c.one.norm),
            format!("{:.3e}", c.other.norm),
            format!("{:.1}", 100.0 * c.one.kept_frac),
            format!("{:.1}", 100.0 * c.other.kept_frac),
            format!("{:.3}", c.one.abs_advantage),
            format!("{:.3}", c.other.abs_advantage),
            c.cosine.map_or("-".to_owned(), |cosine| format!("{cosine:.4}")),
            format!("{:.1}", 100.0 * c.same_sign_frac),
        ]);
    }
    text
}

fn in_json(found: &Rescored, variant: &str) -> Value {
    let effect = |e: &Effect| {
        json!({
            "norm": e.norm,
            "kept_frac": e.kept_frac,
            "abs_advantage": e.abs_advantage,
            "factor_min": e.factor_min,
            "factor_max": e.factor_max,
        })
    };
    let step = |(step, c): &(u64, Comparison)| {
        json!({
            "step": step,
            "responses": c.responses,
            "tokens": c.tokens,
            "run": effect(&c.one),
            "variant": effect(&c.other),
            "cosine": c.cosine,
            "same_sign_frac": c.same_sign_frac,
        })
    };
    json!({
        "run": found.key.to_string(),
        "variant": variant,
        "steps": found.steps.iter().map(step).collect::<Vec<_>>(),
    })
}
