//! `harness score`.

use super::commands::refuse_overwriting;
use super::display::Display;
use crate::bench::responses;
use crate::image::AreaRule;
use crate::progress::Interrupted;
use crate::prompt::INSTRUCTION;
use crate::rollout::Policy;
use crate::score::ScoreSettings;
use crate::settings::{Alpha, CorruptionKind};
use crate::store::LineWriter;
use anyhow::{Context, Result, ensure};
use clap::Args;
use std::path::PathBuf;

const FORMAT: &str = "\
Input, one JSON object per line (other keys are ignored):
  prompt        the question, with one <image> per picture
  images        paths relative to the file: one or a list; may be left out
  response      the answer as text; the model's end token follows unless \"append_end\": false
  response_ids  the answer as token ids, taken as they are; instead of response
  id            optional; the corruption's draws belong to it, or to the prompt where there is none

Output, one JSON object per line of the input, in its order (nats; one entry per response token):
  line, id, prompt_ids, response_ids, image_grid_thw (patches of each picture: time, height, width)
  logp, entropy, argmax                   full softmax, temperature 1
with --corruption also:
  corruption, seed, corrupted_logp, corrupted_entropy
  dependency: sampled_k3                  KL(p || p') from the token alone, with the reference's clamps: VPPO's own
              full_kl, jensen_shannon     over the whole vocabulary
              sampled_jensen_shannon      from the token alone, same clamps
              top1_drop                   the token's probability, p - p'

The output appears whole or not at all: a fault in any line ends the command, Ctrl-C writes nothing.";

#[derive(Args)]
#[command(after_help = FORMAT)]
pub(super) struct ScoreArgs {
    /// Checkpoint directory in the hub's layout
    #[arg(long)]
    model: PathBuf,
    /// JSONL file with {"images", "prompt", "response"} per line
    #[arg(long)]
    input: PathBuf,
    /// JSONL file to write
    #[arg(long)]
    output: PathBuf,
    /// Score a second time with corrupted pictures; parameters as in the reference
    #[arg(long, value_parser = ["patches", "noise", "blur", "full"])]
    corruption: Option<String>,
    /// Change a parameter of the corruption: patch_pixels (14), probability (0.5); std (189); radius (6); level (128)
    #[arg(long = "set", value_name = "KEY=VALUE", requires = "corruption")]
    overrides: Vec<String>,
    /// Seed of the corruption's draws
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Smallest picture area before the processor (both areas: the checkpoint's own by default; 200704 in the paper's code)
    #[arg(long, requires = "max_pixels")]
    min_pixels: Option<usize>,
    /// Largest picture area before the processor (1003520 in the paper's code)
    #[arg(long, requires = "min_pixels")]
    max_pixels: Option<usize>,
    /// What becomes of transparency: drop (as the paper's code) or white
    #[arg(long, value_parser = super::alpha)]
    alpha: Option<Alpha>,
    /// What follows every prompt after a blank line
    #[arg(long, value_name = "TEXT", default_value = INSTRUCTION)]
    instruction: String,
    /// Let nothing follow the prompts
    #[arg(long, conflicts_with = "instruction")]
    no_instruction: bool,
    /// Most tokens per forward pass; changes memory and speed, results in their last digits only
    #[arg(long, default_value_t = 8192)]
    batch_tokens: usize,
}

impl ScoreArgs {
    fn area(&self) -> Result<Option<AreaRule>> {
        let (Some(min_pixels), Some(max_pixels)) = (self.min_pixels, self.max_pixels) else {
            return Ok(None);
        };
        ensure!(
            1 <= min_pixels && min_pixels <= max_pixels,
            "--min-pixels {min_pixels} --max-pixels {max_pixels}: give areas of at least 1, the smaller first"
        );
        Ok(Some(AreaRule { min_pixels, max_pixels }))
    }

    fn settings(&self) -> Result<ScoreSettings> {
        let kind = self.corruption.as_deref().map(|name| corruption(name, &self.overrides));
        Ok(ScoreSettings { corruption: kind.transpose()?, seed: self.seed, batch_tokens: self.batch_tokens })
    }
}

/// The reference's corruption of a name with changed parameters.
fn corruption(name: &str, overrides: &[String]) -> Result<CorruptionKind> {
    let kind = CorruptionKind::reference(name)
        .with_context(|| format!("--corruption {name}: no such corruption"))?;
    let mut value = serde_json::to_value(kind)?;
    for text in overrides {
        let (key, number) = text.split_once('=').with_context(|| format!("--set {text}: write key=value"))?;
        let known: Vec<&String> =
            value.as_object().into_iter().flat_map(|o| o.keys()).filter(|k| *k != "name").collect();
        ensure!(known.iter().any(|k| *k == key), "--set {text}: the parameters of {name} are {known:?}");
        value[key] =
            serde_json::from_str(number).with_context(|| format!("--set {text}: {number:?} is no number"))?;
    }
    let at = || format!("--corruption {name} --set {}", overrides.join(" --set "));
    let kind: CorruptionKind = serde_json::from_value(value).with_context(at)?;
    kind.check().with_context(at)?;
    Ok(kind)
}

pub(super) fn score(args: &ScoreArgs) -> Result<()> {
    let (settings, area) = (args.settings()?, args.area()?);
    refuse_overwriting(&args.input, &args.output)?;
    let given = responses::read(&args.input)?;
    let mut output = LineWriter::create(&args.output)?;
    let display = Display::new()?;
    let instruction = if args.no_instruction { "" } else { &args.instruction };
    let mut policy = Policy::open(&args.model, instruction, area).context("--model")?;
    if let Some(alpha) = args.alpha {
        policy.set_alpha(alpha);
    }
    let mut tokens = 0;
    let scored = crate::score::score(&policy, &given, &settings, &display, |line| {
        tokens += line.logp.len();
        output.push(line)
    });
    scored.map_err(|error| match error.is::<Interrupted>() {
        true => error.context("interrupted; nothing was written"),
        false => error,
    })?;
    output.finish()?;
    println!("scored {} responses, {tokens} tokens: {}", given.len(), args.output.display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_of_the_corruption_are_changed_by_name() {
        let set = |name: &str, texts: &[&str]| {
            let texts: Vec<String> = texts.iter().map(|text| text.to_string()).collect();
            corruption(name, &texts)
        };
        assert_eq!(set("full", &[]).unwrap(), CorruptionKind::Full { level: 128 });
        let patches = CorruptionKind::Patches { patch_pixels: 28, probability: 0.25 };
        assert_eq!(set("patches", &["patch_pixels=28", "probability=0.25"]).unwrap(), patches);
        for (name, text, fault) in [
            ("patches", "radius=3", "the parameters of patches are [\"patch_pixels\", \"probability\"]"),
            ("patches", "name=noise", "the parameters of patches"),
            ("patches", "probability=2", "from 0 to 1"),
            ("patches", "patch_pixels=1.5", "--set patch_pixels=1.5"),
            ("blur", "radius=much", "is no number"),
            ("full", "level=256", "--set level=256"),
            ("noise", "std", "write key=value"),
        ] {
            let error = format!("{:#}", set(name, &[text]).unwrap_err());
            assert!(error.contains(fault), "{text}: {error}");
        }
    }
}
