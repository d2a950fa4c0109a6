//! `harness bench`: one training step on random tokens and pictures, timed.

use crate::config::consistent_compute;
use crate::cost::units::{bytes, operations, thousands};
use crate::model::Compute;
use crate::model::checkpoint::{self, PictureMarks, open_or_fill};
use crate::model::machine::measured_peak;
use crate::settings::{Attention, ComputeSettings, CorruptionScope, Device, Dtype, OptimizerState};
use crate::speed::{Bench, Phase, Shape, Timings};
use crate::store::{Provenance, nvidia_driver, peak_resident_bytes};
use crate::study::available;
use anyhow::{Context, Result, bail, ensure};
use clap::{Args, ValueEnum};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::path::PathBuf;

const NOTES: &str = "\
Phases: rollout (all responses, exactly --response-tokens each), score (their log-probabilities), corrupt (the same
under corrupted pictures), update (forward, backward, gradient clipping, AdamW). One round warms up, --repeats rounds
count, the median of each phase is shown. Weights are random where the directory holds only config.json.";

/// Initial weights differ by this seed only, not by anything measured.
const WEIGHT_SEED: u64 = 0;

#[derive(Args)]
#[command(after_help = NOTES)]
pub(super) struct BenchArgs {
    /// Directory with config.json, and with weights or without
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// Prompts of the step
    #[arg(long, default_value_t = 32)]
    prompts: usize,
    /// Responses per prompt
    #[arg(long, default_value_t = 8)]
    group: usize,
    /// Patches of a prompt's picture, height x width, both even
    #[arg(long, default_value = "8x8", value_parser = grid)]
    grid: [usize; 2],
    /// Text tokens of a prompt, the mark before the picture counted
    #[arg(long, default_value_t = 24)]
    prompt_tokens: usize,
    /// Tokens of a response
    #[arg(long, default_value_t = 40)]
    response_tokens: usize,
    /// Responses per pass of scoring and updating
    #[arg(long, default_value_t = 64)]
    micro: usize,
    /// One corrupted picture per response (as the paper's code) or one per group
    #[arg(long, value_enum, default_value_t = Scope::Response)]
    corrupted: Scope,
    /// Where to compute
    #[arg(long, value_enum, default_value_t = On::Cpu)]
    device: On,
    /// Type of weights and activations
    #[arg(long, value_enum, default_value_t = Type::F32)]
    dtype: Type,
    /// Compute each layer again in the backward pass instead of keeping its activations
    #[arg(long)]
    recompute: bool,
    /// Type in which gradients are summed over micro-batches
    #[arg(long, value_enum, default_value_t = Type::F32)]
    gradient_dtype: Type,
    /// State of AdamW (f32 with --dtype f32, bf16-kahan with bf16)
    #[arg(long, value_enum)]
    optimizer_state: Option<State>,
    /// Implementation of attention
    #[arg(long, value_enum, default_value_t = Kernel::Own)]
    attention: Kernel,
    /// Most sequences that are sampled at the same time (0: all)
    #[arg(long, default_value_t = 0)]
    max_sequences: usize,
    /// Most tokens in the cache while sampling (0: as many as needed)
    #[arg(long, default_value_t = 0)]
    kv_tokens: usize,
    /// Rounds that count
    #[arg(long, default_value_t = 3)]
    repeats: usize,
    /// What to time
    #[arg(long, value_delimiter = ',', value_parser = phase, default_value = "rollout,score,corrupt,update")]
    phases: Vec<Phase>,
    /// Peak of the device in 10^12 floating-point operations per second (on the processor: measured by a matrix product)
    #[arg(long, value_name = "X")]
    peak_tflops: Option<f64>,
    /// End with one line of JSON
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Scope {
    Response,
    Group,
}

#[derive(Clone, Copy, ValueEnum)]
enum On {
    Cpu,
    Cuda,
}

#[derive(Clone, Copy, ValueEnum)]
enum Type {
    F32,
    Bf16,
}

impl Type {
    fn dtype(self) -> Dtype {
        match self {
            Type::F32 => Dtype::F32,
            Type::Bf16 => Dtype::Bf16,
        }
    }
}

#[derive(Clone, Copy, ValueEnum)]
enum State {
    F32,
    Bf16Kahan,
}

#[derive(Clone, Copy, ValueEnum)]
enum Kernel {
    Own,
    Flash,
}

fn grid(text: &str) -> std::result::Result<[usize; 2], String> {
    let sides: Option<Vec<usize>> = text.split('x').map(|side| side.parse().ok()).collect();
    match sides.as_deref() {
        Some(&[rows, columns]) => Ok([rows, columns]),
        _ => Err("write HEIGHTxWIDTH in patches, such as 8x8".into()),
    }
}

fn phase(name: &str) -> std::result::Result<Phase, String> {
    let names = Phase::ALL.map(Phase::name).join(", ");
    Phase::ALL.into_iter().find(|phase| phase.name() == name).ok_or_else(|| format!("the phases are {names}"))
}

impl BenchArgs {
    fn shape(&self) -> Shape {
        Shape {
            prompts: self.prompts,
            group: self.group,
            grid: self.grid,
            prompt_tokens: self.prompt_tokens,
            response_tokens: self.response_tokens,
            micro: self.micro,
            corrupted: match self.corrupted {
                Scope::Response => CorruptionScope::Response,
                Scope::Group => CorruptionScope::Group,
            },
            phases: Phase::ALL.into_iter().filter(|phase| self.phases.contains(phase)).collect(),
        }
    }

    fn compute(&self) -> Result<ComputeSettings> {
        let device = match self.device {
            On::Cpu => Device::Cpu,
            On::Cuda => Device::Cuda,
        };
        let dtype = self.dtype.dtype();
        let optimizer_state = match (self.optimizer_state, dtype) {
            (Some(State::F32), _) | (None, Dtype::F32) => OptimizerState::F32,
            (Some(State::Bf16Kahan), _) | (None, Dtype::Bf16) => OptimizerState::Bf16Kahan,
        };
        let attention = match self.attention {
            Kernel::Own => Attention::Own,
            Kernel::Flash => Attention::Flash,
        };
        let compute = ComputeSettings {
            device,
            dtype,
            gradient_dtype: self.gradient_dtype.dtype(),
            optimizer_state,
            recompute: self.recompute,
            attention,
            kv_tokens: self.kv_tokens,
            max_sequences: self.max_sequences,
        };
        consistent_compute(&compute)
            .context("the options are the settings of [compute] of the same names")?;
        Ok(compute)
    }
}

pub(super) fn bench(args: &BenchArgs) -> Result<()> {
    let settings = args.compute()?;
    let compute = Compute::open(&settings)?;
    let peak = Peak::new(args.peak_tflops, &compute)?;
    let (shape, config) = (args.shape(), checkpoint::config(&args.model).context("--model")?);
    let planned_bytes = shape.peak(&shape.load(&shape.sizes(&config)?, config.text.vocab_size, &settings));
    if let Some(available) = available(&settings).filter(|&available| available < planned_bytes) {
        bail!(
            "this step needs {} of memory by formula, and {} are available: take fewer --micro or --max-sequences, or \
             --recompute",
            bytes(planned_bytes),
            bytes(available)
        );
    }
    let (model, own_weights) = open_or_fill(&args.model, WEIGHT_SEED, &compute).context("--model")?;
    let marks = PictureMarks::open(&args.model)?;
    let mut bench = Bench::new(model, &marks, shape, compute.limits())?;
    let timings = bench.run(args.repeats, |round, phase, seconds| {
        let name = if round == 0 { "warm-up".to_owned() } else { format!("round {round}") };
        eprintln!("{name}: {} {seconds:.4} s", phase.name());
    })?;
    let done = Done {
        compute: settings,
        card: compute.card_name(),
        planned_bytes,
        decode_bytes: bench.decode_bytes(&settings)?,
        own_weights,
        flops: bench.flops()?,
        peak_bytes: compute.peak_bytes().or_else(peak_resident_bytes),
        bench,
        timings,
        peak,
    };
    print!("{}", done.in_words()?);
    if args.json {
        println!("{}", done.json());
    }
    Ok(())
}

/// Names as in PyTorch, so that two lines of JSON can be compared field by field.
fn device_name(device: Device) -> &'static str {
    match device {
        Device::Cpu => "cpu",
        Device::Cuda => "cuda",
    }
}

fn dtype_name(dtype: Dtype) -> &'static str {
    match dtype {
        Dtype::F32 => "float32",
        Dtype::Bf16 => "bfloat16",
    }
}

/// Cards whose peaks are known, and the bandwidth of their memory in bytes per second (data sheets, SXM).
const BANDWIDTHS: [(&str, f64); 2] = [("NVIDIA H100 80GB HBM3", 3.35e12), ("NVIDIA H200", 4.8e12)];

/// What utilisation is measured against.
struct Peak {
    flops: f64,
    source: String,
}

impl Peak {
    fn new(stated_tflops: Option<f64>, compute: &Compute) -> Result<Self> {
        match stated_tflops {
            Some(tflops) => {
                ensure!(tflops > 0.0 && tflops.is_finite(), "--peak-tflops {tflops}: give a positive number");
                Ok(Self { flops: tflops * 1e12, source: "--peak-tflops".into() })
            }
            None if compute.settings().device == Device::Cuda => {
                let name = compute.card_name().unwrap_or_default();
                let known = BANDWIDTHS.iter().any(|(card, _)| name == *card);
                ensure!(known, "the peak of {name:?} is not known here: give --peak-tflops");
                let tflops = if compute.settings().dtype == Dtype::Bf16 { 989.4 } else { 66.9 };
                Ok(Self {
                    flops: tflops * 1e12,
                    source: format!("data sheet of {name}, SXM, dense; --peak-tflops gives another"),
                })
            }
            None => Ok(Self {
                flops: measured_peak()?,
                source: "measured just now: the fastest of 8 products of 1,024 x 1,024 f32 matrices".into(),
            }),
        }
    }
}

/// What was measured, to be told.
struct Done {
    bench: Bench,
    timings: Timings,
    flops: BTreeMap<Phase, u64>,
    compute: ComputeSettings,
    card: Option<String>,
    own_weights: bool,
    /// By formula.
    planned_bytes: u64,
    /// Read while sampling, by formula.
    decode_bytes: f64,
    peak_bytes: Option<u64>,
    peak: Peak,
}

impl Done {
    fn response_tokens(&self) -> u64 {
        let shape = self.bench.shape();
        (shape.responses() * shape.response_tokens) as u64
    }

    /// Response tokens per second of a time.
    fn tokens_per_second(&self, seconds: f64) -> f64 {
        self.response_tokens() as f64 / seconds
    }

    fn utilisation(&self, flops: u64, seconds: f64) -> f64 {
        flops as f64 / seconds / self.peak.flops
    }

    /// Of what the memory of a known card gives.
    fn bandwidth_share(&self, seconds: f64) -> Option<f64> {
        let (_, bandwidth) = BANDWIDTHS.iter().find(|(card, _)| self.card.as_deref() == Some(*card))?;
        Some(self.decode_bytes / seconds / bandwidth)
    }

    fn all_flops(&self) -> u64 {
        self.flops.values().sum()
    }

    fn in_words(&self) -> Result<String> {
        let shape = self.bench.shape();
        let [rows, columns] = shape.grid;
        let mut text = format!(
            "{} weights ({}), {} {}\n{} prompts x {} responses; a prompt has {} tokens, of which {} of a picture of \
             {rows} x {columns} patches; a response has {}\n\n{:<10}{:>12}{:>16}{:>10}{:>10}\n",
            thousands(self.bench.weights() as u64),
            if self.own_weights { "of the checkpoint" } else { "random" },
            device_name(self.compute.device),
            dtype_name(self.compute.dtype),
            shape.prompts,
            shape.group,
            shape.whole_prompt_tokens(),
            shape.vision_tokens(),
            shape.response_tokens,
            "phase",
            "seconds",
            "operations",
            "GFLOP/s",
            "MFU %",
        );
        for (&phase, &flops) in &self.flops {
            let seconds = self.timings.median(phase).context("the phase was not timed")?;
            text += &self.row(phase.name(), seconds, flops);
        }
        let step = self.timings.step();
        text += &self.row("step", step, self.all_flops());
        text += &format!(
            "medians of {} rounds after one that warms up; the step is their sum\n\n",
            self.timings.rounds.len()
        );
        if let Some(seconds) = self.timings.median(Phase::Rollout) {
            text += &format!("response tokens/s: {:.0} in the rollout", self.tokens_per_second(seconds));
            text += &format!(", {:.0} over the step\n", self.tokens_per_second(step));
            text += &format!(
                "decoding reads {} by formula: {:.1} GB/s over the rollout, prompts included",
                bytes(self.decode_bytes as u64),
                self.decode_bytes / seconds / 1e9
            );
            text += &match self.bandwidth_share(seconds) {
                Some(share) => format!(", {:.1} % of the card's bandwidth (data sheet)\n", 100.0 * share),
                None => "\n".to_owned(),
            };
        }
        let memory = self.peak_bytes.map_or("not known".to_owned(), bytes);
        let holder = if self.compute.device == Device::Cuda { "tensors on the card" } else { "the process" };
        text += &format!("peak memory of {holder}: {memory}; by formula {}\n", bytes(self.planned_bytes));
        text += &format!("peak: {:.1} GFLOP/s ({})\n", self.peak.flops / 1e9, self.peak.source);
        text += &self.formula()?;
        Ok(text)
    }

    fn row(&self, name: &str, seconds: f64, flops: u64) -> String {
        format!(
            "{name:<10}{seconds:>12.4}{:>16}{:>10.1}{:>10.1}\n",
            operations(flops),
            flops as f64 / seconds / 1e9,
            100.0 * self.utilisation(flops, seconds)
        )
    }

    fn formula(&self) -> Result<String> {
        let forward = self.bench.forward_flops()?;
        let corrupted = match self.bench.shape().corrupted {
            CorruptionScope::Response => "one forward with a prompt per response",
            CorruptionScope::Group => "one forward",
        };
        Ok(format!(
            "operations, necessary ones: forward = 2 x matrix weights x rows + 4 x width x (query, key) pairs per layer, a \
             prompt once for its group\n  one forward {}: vision {}, layers {}, attention {}, head {}\n  rollout and score: \
             one forward; corrupt: {corrupted}; update: 3 forwards (backward = 2), none for layers computed again\n",
            operations(forward.total()),
            operations(forward.vision),
            operations(forward.language),
            operations(forward.attention),
            operations(forward.head),
        ))
    }

    /// The fields of the line of the step in PyTorch, and ours.
    fn json(&self) -> Value {
        let shape = self.bench.shape();
        let provenance = Provenance::current();
        let by_phase = |value: &dyn Fn(Phase) -> Value| -> Map<String, Value> {
            self.flops.keys().map(|&phase| (phase.name().to_owned(), value(phase))).collect()
        };
        let seconds = |phase| self.timings.median(phase).unwrap_or(f64::NAN);
        let step = self.timings.step();
        let mut mfu = by_phase(&|phase| json!(self.utilisation(self.flops[&phase], seconds(phase))));
        mfu.insert("step".into(), json!(self.utilisation(self.all_flops(), step)));
        let rounds = self.timings.rounds.iter().map(|round| {
            round.iter().map(|(phase, s)| (phase.name().to_owned(), json!(s))).collect::<Map<_, _>>()
        });
        let [rows, columns] = shape.grid;
        json!({
            "peer": format!("harness {}", provenance.harness),
            "params": self.bench.weights(),
            "prompts": shape.prompts,
            "group": shape.group,
            "vision_tokens": shape.vision_tokens(),
            "prompt_tokens": shape.whole_prompt_tokens(),
            "response_tokens": shape.response_tokens,
            "device": device_name(self.compute.device),
            "dtype": dtype_name(self.compute.dtype),
            "threads": provenance.threads,
            "seconds": by_phase(&|phase| json!(seconds(phase))),
            "step_seconds": step,
            "rollout_tokens_per_s": self.timings.median(Phase::Rollout).map(|s| self.tokens_per_second(s)),
            "peak_bytes": self.peak_bytes,
            "planned_bytes": self.planned_bytes,
            "decode_bytes": self.decode_bytes,
            "decode_bandwidth_share": self.timings.median(Phase::Rollout).and_then(|s| self.bandwidth_share(s)),
            "step_tokens_per_s": self.timings.median(Phase::Rollout).map(|_| self.tokens_per_second(step)),
            "grid": format!("{rows}x{columns}"),
            "micro": shape.micro,
            "corrupted": match shape.corrupted {
                CorruptionScope::Response => "response",
                CorruptionScope::Group => "group",
            },
            "recompute": self.compute.recompute,
            "compute": self.compute,
            "weights": if self.own_weights { "checkpoint" } else { "random" },
            "flops": by_phase(&|phase| json!(self.flops[&phase])),
            "mfu": mfu,
            "peak_flops": self.peak.flops,
            "peak_flops_source": self.peak.source,
            "repeats": self.timings.rounds.len(),
            "rounds": rounds.collect::<Vec<_>>(),
            "commit": provenance.git_commit,
            "dirty": provenance.git_dirty,
            "cpu": provenance.cpu,
            "card": self.card,
            "driver": self.card.as_ref().and(nvidia_driver()),
            "command": std::env::args().collect::<Vec<_>>().join(" "),
        })
    }
}
