//! `harness plan`.

use super::commands::settings;
use crate::config::{Scale, Study};
use crate::study::{self, Machine, RunConfig};
use anyhow::{Result, ensure};
use clap::Args;

#[derive(Args)]
pub(super) struct PlanArgs {
    /// Name of a scale, or path of a scale file
    #[arg(long, default_value = "7b")]
    scale: String,
    /// Arm of the main study
    #[arg(long, default_value = "vppo")]
    variant: String,
    /// GPUs that divide weights, gradients and optimiser state
    #[arg(long, default_value_t = 1)]
    gpus: u64,
    /// Memory of one GPU in GiB (an H200's 139 by default; on the processor: what this machine has available)
    #[arg(long, value_name = "GIB")]
    gpu_memory: Option<f64>,
    /// Change a setting, such as compute.recompute=false; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    overrides: Vec<String>,
}

pub(super) fn plan(args: &PlanArgs) -> Result<()> {
    let memory = args.gpu_memory.map(|gib| {
        ensure!(gib > 0.0 && gib.is_finite(), "--gpu-memory {gib}: give a positive number");
        Ok((gib * f64::from(1 << 30)) as u64)
    });
    let overrides = settings(None, &args.overrides)?;
    let (scale, study) = (Scale::load(&args.scale)?, Study::load("main")?);
    let config: RunConfig = RunConfig::resolve(&scale, &study, &args.variant, 1, &overrides)?;
    print!("{}", study::outlook(&config, Machine { gpus: args.gpus, memory: memory.transpose()? })?);
    Ok(())
}
