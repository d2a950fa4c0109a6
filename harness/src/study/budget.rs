//! Whether a run fits, what would, and how long a step takes: the formulas of [`crate::cost`] for complete settings.
//!
//! `plan` prints it, `reproduce --dry-run` a part of it, and `reproduce` and `train` stop by the same numbers before they
//! allocate what cannot fit.

use super::RunConfig;
use super::forecast::{lengths, times, training, vocabulary};
use crate::algo::Algorithm;
use crate::cost::memory::{Load, Memory, Training, Turn};
use crate::cost::time::{Passes, Rates, step_time};
use crate::cost::units::{bytes, thousands};
use crate::cost::{Lengths, step_sequences, weights};
use crate::model::Compute;
use crate::model::checkpoint;
use crate::rollout::Policy;
use crate::settings::{Attention, ComputeSettings, CorruptionScope, Device, Dtype, OldLogp, PixelRange};
use crate::store::available_bytes;
use crate::types::Example;
use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use std::path::Path;

/// Rates of devices, measured or assumed, part of the program.
const RATES: &str = include_str!("../../../results/rates.csv");
/// The device whose rates are taken.
const HARDWARE: &str = "H200";
/// What driver, libraries and fragmentation take of a GPU's memory: assumed.
const RESERVED: u64 = 4 << 30;

/// Where a run is to take place.
#[derive(Clone, Copy, Debug)]
pub struct Machine {
    /// GPUs over which weights, gradients and optimiser state are divided.
    pub gpus: u64,
    /// Memory of each in bytes; `None` is that of the device whose rates are known, or of this machine.
    pub memory: Option<u64>,
}

/// A line of `results/rates.csv`.
#[derive(Debug, Deserialize)]
struct Rate {
    hardware: String,
    what: String,
    value: f64,
    source: String,
}

/// What `plan` prints.
///
/// # Errors
/// On an arm that is not trained, and on no GPUs.
pub fn outlook(config: &RunConfig, machine: Machine) -> Result<String> {
    ensure!(machine.gpus > 0, "--gpus is 0: give at least 1");
    ensure!(config.algorithm.is_some(), "the arm {} is not trained: name another --variant", config.variant);
    let load = load(config, machine.gpus)?;
    let cuda = config.compute.device == Device::Cuda;
    let rates = rates()?;
    let memory = match machine.memory {
        Some(memory) => Some(memory),
        None if cuda => Some((rate(&rates, "memory_gib")?.value * f64::from(1 << 30)) as u64),
        None => available_bytes(),
    };
    let mut text = format!("Plan of arm {} at scale {}\n", config.variant, config.scale);
    let mut section = |title: &str, lines: Vec<String>| {
        text += &format!("\n{title}\n");
        lines.iter().for_each(|line| text += &format!("  {line}\n"));
    };
    section("Training", training(config)?);
    let each = if machine.gpus > 1 { ", of each GPU" } else { "" };
    section(
        &format!("Memory{each}, by formula at greatest lengths (not measured)"),
        memory_lines(&load.memory()),
    );
    section("What fits", fit_lines(config, &load, memory));
    section("Checkpoints", checkpoint_lines(&load));
    if cuda {
        section(
            &format!(
                "Time of a step at greatest lengths, by formula from the rates of {} x {HARDWARE}",
                load.gpus
            ),
            time_lines(config, &load, &rates)?,
        );
    }
    section("Time, from runs that are known", times(std::slice::from_ref(config))?);
    if machine.gpus > 1 {
        section(
            "Several GPUs",
            vec![
                "weights, gradients and optimiser state divided as ZeRO-3 does; training that is sharded over several \
                 GPUs is not built yet: this is what it would need"
                    .to_owned(),
            ],
        );
    }
    Ok(text)
}

/// What a run asks of one device of `gpus`.
pub(super) fn load(config: &RunConfig, gpus: u64) -> Result<Load<'_>> {
    let train = &config.train;
    // All responses of a draw are asked for at the same time.
    let sequences = match config.algorithm {
        Some(_) => config.eval.batch.max(train.refill_prompts * train.group_size),
        None => config.eval.batch,
    };
    let lengths = match config.algorithm {
        Some(_) => lengths(config)?,
        None => Lengths { response: config.eval.sampling.max_new_tokens as u64, ..lengths(config)? },
    };
    Ok(Load {
        model: &config.model,
        vocab_size: vocabulary(config)?,
        compute: &config.compute,
        lengths,
        group: if config.algorithm.is_some() {
            train.group_size as u64
        } else {
            u64::from(config.eval.samples)
        },
        micro: train.micro_batch_responses as u64,
        sequences: sequences as u64,
        training: config.algorithm.as_ref().map(|algorithm| Training {
            reference: algorithm.needs_reference(),
            apart: corruption_scope(algorithm) == Some(CorruptionScope::Response),
        }),
        gpus,
    })
}

fn corruption_scope(algorithm: &Algorithm) -> Option<CorruptionScope> {
    let perception = algorithm.perception.as_ref().filter(|_| algorithm.needs_corruption())?;
    Some(perception.corruption.scope)
}

/// Memory by part, and the sum of what is there at the same time.
pub(super) fn memory_lines(memory: &Memory) -> Vec<String> {
    let mut lines: Vec<String> =
        memory.parts().iter().map(|(name, _, count)| format!("{name:<34}{:>12}", bytes(*count))).collect();
    let turn = memory.largest_turn();
    lines.push(format!(
        "{:<34}{:>12} while {} (sampling, scoring and updating take turns)",
        "together, at most",
        bytes(memory.peak()),
        turn.name()
    ));
    lines
}

/// What checkpoints take of disk and of the processor's memory.
fn checkpoint_lines(load: &Load<'_>) -> Vec<String> {
    let memory = load.memory();
    let (model, state) = (memory.weights * load.gpus, memory.optimizer * load.gpus);
    vec![
        format!(
            "each {}, made in the processor's memory before it is written; two are kept and a third is written before \
             the oldest goes: {} on the disk",
            bytes(model + state),
            bytes(3 * (model + state))
        ),
        format!("the trained model: {} more", bytes(model)),
    ]
}

fn fit_lines(config: &RunConfig, load: &Load<'_>, memory: Option<u64>) -> Vec<String> {
    let Some(memory) = memory else {
        return vec!["how much memory there is, is not known: give --gpu-memory".to_owned()];
    };
    let reserved = if load.compute.device == Device::Cuda { RESERVED } else { 0 };
    let budget = memory.saturating_sub(reserved);
    let mut lines = vec![match reserved {
        0 => format!("available: {}", bytes(memory)),
        _ => format!(
            "available: {} of {}; {} are left to driver, libraries and fragmentation (assumed)",
            bytes(budget),
            bytes(memory),
            bytes(reserved)
        ),
    }];
    lines.push(match load.memory().peak() {
        peak if peak <= budget => format!("these settings fit, {} are left", bytes(budget - peak)),
        peak => {
            format!("these settings do not fit: {} are missing; {}", bytes(peak - budget), ways_out(load))
        }
    });
    let most = config.train.mini_batch_prompts as u64 * load.group;
    lines.push(match load.largest_micro(budget, most) {
        Some(micro) => format!(
            "largest micro-batch: {micro} responses (set: {}), --set train.micro_batch_responses={micro}",
            load.micro
        ),
        None => "no micro-batch fits, not even of one response".to_owned(),
    });
    lines.push(match load.largest_cache(budget) {
        Some(tokens) => {
            let compute = ComputeSettings { kv_tokens: tokens as usize, max_sequences: 0, ..*load.compute };
            format!(
                "largest cache while sampling: {} tokens, room for {} sequences of greatest length (set: {} tokens, {} \
                 sequences), --set compute.kv_tokens={tokens}",
                thousands(tokens),
                thousands(Load { compute: &compute, ..*load }.running()),
                thousands(load.cache_tokens()),
                thousands(load.running())
            )
        }
        None => "no cache fits, not even for one sequence".to_owned(),
    });
    lines
}

fn time_lines(config: &RunConfig, load: &Load<'_>, table: &[Rate]) -> Result<Vec<String>> {
    let value = |what: &str| Ok::<_, anyhow::Error>(rate(table, what)?.value);
    let rates = Rates {
        peak_flops: value("peak_tflops")? * 1e12,
        bandwidth: value("bandwidth_gb_per_s")? * 1e9,
        update_mfu: value("update_mfu")?,
        scoring_mfu: value("scoring_mfu")?,
        decode_share: value("decode_bandwidth_share")?,
    };
    let passes = passes(config);
    let step = step_sequences(&config.model, &config.train, load.lengths);
    let time = step_time(load, &step, passes, &rates);
    let mut lines = vec![
        format!("sampling {:>8.0} s, {} sequences at a time", time.rollout, load.running()),
        format!(
            "scoring  {:>8.0} s, {} passes with a prompt per group, {} with a prompt per response",
            time.scoring, passes.shared, passes.apart
        ),
        format!("updating {:>8.0} s", time.update),
        format!(
            "a step   {:>8.0} s if no group is drawn again; {} steps {:.0} h",
            time.total(),
            config.train.steps,
            time.total() * config.train.steps as f64 / 3_600.0
        ),
    ];
    for rate in table.iter().filter(|rate| rate.hardware == HARDWARE && rate.what != "memory_gib") {
        lines.push(format!("{} {} ({})", rate.what, rate.value, rate.source));
    }
    if load.compute.attention == Attention::Own {
        lines.push(
            "the assumed shares are of programs with FlashAttention-2; the attention set here is slower"
                .into(),
        );
    }
    Ok(lines)
}

/// Scoring passes of a step of these settings.
fn passes(config: &RunConfig) -> Passes {
    let mut passes = Passes::default();
    passes.shared += u64::from(config.train.old_logp == OldLogp::Recompute);
    let Some(algorithm) = &config.algorithm else { return passes };
    passes.shared += u64::from(algorithm.needs_reference());
    match corruption_scope(algorithm) {
        Some(CorruptionScope::Response) => passes.apart += 1,
        Some(CorruptionScope::Group) => passes.shared += 1,
        None => {}
    }
    let full = algorithm.perception.as_ref().is_some_and(|p| p.estimator.needs_full_distribution());
    passes.shared += u64::from(algorithm.needs_corruption() && full);
    passes
}

fn rates() -> Result<Vec<Rate>> {
    let rows = csv::Reader::from_reader(RATES.as_bytes()).into_deserialize();
    rows.collect::<Result<_, _>>().context("results/rates.csv")
}

fn rate<'a>(table: &'a [Rate], what: &str) -> Result<&'a Rate> {
    let found = table.iter().find(|rate| rate.hardware == HARDWARE && rate.what == what);
    found.with_context(|| format!("results/rates.csv: no {what} of {HARDWARE}"))
}

/// Memory that a device can still give, less what is left to driver and libraries; `None` where that is not known.
pub fn available(compute: &ComputeSettings) -> Option<u64> {
    match compute.device {
        Device::Cpu => available_bytes(),
        Device::Cuda => {
            let free = Compute::open(compute).ok().and_then(|card| card.free_bytes());
            free.map(|bytes| bytes.saturating_sub(RESERVED))
        }
    }
}

/// Stops before a checkpoint is read whose weights alone do not fit.
///
/// # Errors
/// Says how much is needed and available; or what is wrong with `config.json`.
pub fn refuse_large_weights(dir: &Path, compute: &ComputeSettings) -> Result<()> {
    let config = checkpoint::config(dir)?;
    let sizes = config.to_settings(PixelRange { min_pixels: 1, max_pixels: 1 })?;
    let needed = weights(&sizes, config.text.vocab_size).total() * compute.dtype.bytes();
    let available = available(compute).filter(|&available| available < needed);
    let Some(available) = available else { return Ok(()) };
    let type_name = if compute.dtype == Dtype::F32 { "f32" } else { "bf16" };
    bail!(
        "{}: its weights take {} in {type_name}, and {} of memory are available; ways out: a smaller model or a larger \
         machine{}",
        dir.display(),
        bytes(needed),
        bytes(available),
        if compute.device == Device::Cuda && compute.dtype == Dtype::F32 {
            "; --set compute.dtype=bf16"
        } else {
            ""
        }
    )
}

/// Stops a training or an evaluation on a user's own model or questions that cannot fit. The weights are there already.
///
/// # Errors
/// Names the largest part and the ways out; or a question whose prompt cannot be made.
pub fn refuse_what_cannot_fit<'a>(
    config: &RunConfig,
    policy: &Policy,
    questions: impl IntoIterator<Item = &'a Example>,
) -> Result<()> {
    let sizes = policy.model.config();
    let model = sizes.to_settings(config.pictures())?;
    let mut load = Load { model: &model, vocab_size: sizes.text.vocab_size, ..load(config, 1)? };
    if config.data.is_none() {
        load.lengths = Lengths { response: load.lengths.response, ..longest(policy, questions)? };
    }
    refuse(&load, available(&config.compute), load.memory().weights)
}

/// The longest prompt and the most visual tokens of all questions.
fn longest<'a>(policy: &Policy, questions: impl IntoIterator<Item = &'a Example>) -> Result<Lengths> {
    let mut lengths = Lengths { prompt: 0, visual: 0, response: 0 };
    for question in questions {
        let size = policy.renderer.prompt_size(question)?;
        lengths.prompt = lengths.prompt.max(size.tokens as u64);
        lengths.visual = lengths.visual.max(size.visual as u64);
    }
    Ok(lengths)
}

/// Stops what needs more than is available, `present` bytes of it being there already.
pub(super) fn refuse(load: &Load<'_>, available: Option<u64>, present: u64) -> Result<()> {
    let memory = load.memory();
    let (peak, turn) = (memory.peak(), memory.largest_turn());
    let missing = |available: &u64| peak.saturating_sub(present) > *available;
    let Some(available) = available.filter(missing) else { return Ok(()) };
    let (part, size) = memory.largest_part();
    bail!(
        "this needs {} of memory while {} (by formula, at greatest lengths), and {} are available; the largest part: \
         {part}, {}; {}. `harness plan` shows all parts",
        bytes(peak),
        turn.name(),
        bytes(available + present),
        bytes(size),
        ways_out(load)
    )
}

/// Settings that need less memory, for the phase that needs most.
fn ways_out(load: &Load<'_>) -> String {
    let (compute, turn) = (load.compute, load.memory().largest_turn());
    let mut ways = vec![];
    if turn == Turn::Updating && !compute.recompute {
        ways.push("--set compute.recompute=true".to_owned());
    }
    if matches!(turn, Turn::Updating | Turn::Scoring) && load.micro > 1 {
        ways.push(format!("a smaller --set train.micro_batch_responses (now {})", load.micro));
    }
    if turn == Turn::Sampling {
        ways.push(format!(
            "a smaller --set compute.max_sequences (now {} at a time) or compute.kv_tokens (now {})",
            load.running(),
            load.cache_tokens()
        ));
    }
    if compute.device == Device::Cuda && compute.gradient_dtype == Dtype::F32 && compute.dtype == Dtype::Bf16
    {
        ways.push("--set compute.gradient_dtype=bf16".to_owned());
    }
    if compute.device == Device::Cuda && compute.dtype == Dtype::F32 {
        ways.push("--set compute.dtype=bf16".to_owned());
    }
    ways.push("a smaller model or a larger machine".to_owned());
    format!("ways out: {}", ways.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Scale, Setting, Study};

    fn config(scale: &str, variant: &str, sets: &[&str]) -> RunConfig {
        let sets: Vec<Setting> = sets.iter().map(|set| set.parse().unwrap()).collect();
        let (scale, study) = (Scale::load(scale).unwrap(), Study::load("main").unwrap());
        RunConfig::resolve(&scale, &study, variant, 1, &sets).unwrap()
    }

    #[test]
    fn what_fits_is_not_refused_and_what_does_not_names_part_and_ways_out() {
        let config = config("tiny", "dapo", &[]);
        let load = load(&config, 1).unwrap();
        let peak = load.memory().peak();
        refuse(&load, Some(peak), 0).unwrap();
        refuse(&load, None, 0).unwrap();
        refuse(&load, Some(peak - 7), 7).unwrap();
        let error = refuse(&load, Some(peak - 1), 0).unwrap_err().to_string();
        for named in [
            "update: activations kept",
            "compute.recompute=true",
            "train.micro_batch_responses (now 64)",
            "harness plan",
        ] {
            assert!(error.contains(named), "{named}: {error}");
        }
    }

    #[test]
    fn the_ways_out_are_those_of_the_phase_that_needs_most() {
        let error = |sets: &[&str]| {
            let config = config("7b", "vppo", sets);
            refuse(&load(&config, 1).unwrap(), Some(1 << 30), 0).unwrap_err().to_string()
        };
        let sampling = error(&["compute.kv_tokens=0", "compute.max_sequences=0"]);
        assert!(
            sampling.contains("while sampling") && sampling.contains("compute.max_sequences"),
            "{sampling}"
        );
        assert!(!sampling.contains("micro_batch"), "{sampling}");
        let updating = error(&["compute.kv_tokens=16384"]);
        assert!(
            updating.contains("micro_batch_responses (now 16)") && updating.contains("gradient_dtype=bf16")
        );
        assert!(!updating.contains("recompute=true"), "it is on: {updating}");
    }

    #[test]
    fn passes_follow_from_the_algorithm() {
        let of = |variant, sets: &[&str]| {
            let passes = passes(&config("7b", variant, sets));
            (passes.shared, passes.apart)
        };
        assert_eq!(of("dapo", &[]), (1, 0));
        assert_eq!(of("vppo", &[]), (1, 1));
        assert_eq!(of("vppo", &["train.old_logp=rollout"]), (0, 1));
        assert_eq!(of("vppo", &["algorithm.perception.corruption.scope=group"]), (2, 0));
    }
}
