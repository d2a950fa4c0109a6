//! Time of a training step from the rates of a device.
//!
//! Scoring and updating are bound by arithmetic: necessary operations over peak times utilisation. Sampling is bound
//! by memory: every decoding step reads the weights of the language model once for all running sequences, and every
//! token the keys and values of its prompt and of its own response, half of it on average. Prompts are computed
//! before. Places that become free are filled at once, so the running sequences are as many as fit. Several GPUs divide
//! everything evenly.

use super::flops::{self, Sequences};
use super::memory::Load;
use super::weights;

/// What a device reaches.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rates {
    /// Peak, in operations per second.
    pub peak_flops: f64,
    /// Bytes per second from its memory.
    pub bandwidth: f64,
    /// Share of the peak in an update, counted on necessary operations, recomputed layers not among them.
    pub update_mfu: f64,
    /// Share of the peak in a forward pass.
    pub scoring_mfu: f64,
    /// Share of the bandwidth while decoding.
    pub decode_share: f64,
}

/// Scoring passes of a step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Passes {
    /// Those where a group shares its prompt.
    pub shared: u64,
    /// Those where every response has a prompt of its own.
    pub apart: u64,
}

/// Seconds of a step by phase.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepTime {
    /// Sampling.
    pub rollout: f64,
    /// All scoring passes.
    pub scoring: f64,
    /// Forward and backward passes, and the optimiser.
    pub update: f64,
}

impl StepTime {
    /// All of them.
    pub fn total(&self) -> f64 {
        self.rollout + self.scoring + self.update
    }
}

/// The time of a step over these sequences; each group is drawn once.
pub fn step_time(load: &Load<'_>, step: &Sequences, passes: Passes, rates: &Rates) -> StepTime {
    let gpus = load.gpus.max(1) as f64;
    let forward = |batch: &Sequences| flops::forward(load.model, load.vocab_size, batch).total() as f64;
    let scored = passes.shared as f64 * forward(step) + passes.apart as f64 * forward(&step.apart());
    let update = flops::update(load.model, load.vocab_size, step) as f64;
    let prompts = forward(&Sequences { response_tokens: 0, ..*step });
    StepTime {
        rollout: (prompts / (rates.peak_flops * rates.scoring_mfu)
            + decode_bytes(load, step) / (rates.bandwidth * rates.decode_share))
            / gpus,
        scoring: scored / (rates.peak_flops * rates.scoring_mfu) / gpus,
        update: update / (rates.peak_flops * rates.update_mfu) / gpus,
    }
}

/// Bytes that decoding reads.
pub fn decode_bytes(load: &Load<'_>, step: &Sequences) -> f64 {
    let tokens = step.all_response_tokens() as f64;
    let count = weights(load.model, load.vocab_size);
    // The head is read whole, of the embedding only the rows of the tokens.
    let read = count.language + (load.vocab_size * load.model.hidden_size) as u64;
    let weights = (read * load.compute.dtype.bytes()) as f64 / load.running() as f64;
    let seen = step.prompt_tokens as f64 + step.response_tokens as f64 / 2.0;
    tokens * (weights + seen * load.token_bytes() as f64)
}

#[cfg(test)]
mod tests {
    use super::super::flops::Vision;
    use super::super::tests::sizes;
    use super::super::{Lengths, weights};
    use super::*;
    use crate::settings::ComputeSettings;

    #[test]
    fn a_small_step_by_hand() {
        let model = sizes([64, 128, 2, 4, 2], false, 32);
        let compute = ComputeSettings { max_sequences: 4, ..ComputeSettings::CPU };
        let load = Load {
            model: &model,
            vocab_size: 50,
            compute: &compute,
            lengths: Lengths { prompt: 10, visual: 2, response: 100 },
            group: 2,
            micro: 2,
            sequences: 6,
            training: None,
            gpus: 2,
        };
        let vision = Vision::of_pictures(&model, 2);
        let step = Sequences { prompts: 3, group: 2, prompt_tokens: 10, response_tokens: 100, vision };
        let rates =
            Rates { peak_flops: 1e9, bandwidth: 1e8, update_mfu: 0.25, scoring_mfu: 0.5, decode_share: 0.8 };
        let time = step_time(&load, &step, Passes { shared: 1, apart: 2 }, &rates);
        let forward = |batch: &Sequences| flops::forward(&model, 50, batch).total() as f64;
        assert_eq!(time.update, 3.0 * forward(&step) / 0.25e9 / 2.0);
        assert_eq!(time.scoring, (forward(&step) + 2.0 * forward(&step.apart())) / 0.5e9 / 2.0);
        // 600 tokens, 4 at a time; keys and values 2 x 32 in 2 layers, 4 bytes each; 10 + 50 tokens seen.
        let read = 4.0 * (weights(&model, 50).language + 50 * 64) as f64;
        let bytes = 600.0 / 4.0 * read + 600.0 * 60.0 * (2 * 32 * 2 * 4) as f64;
        let prompts = forward(&Sequences { response_tokens: 0, ..step });
        assert!((time.rollout - (prompts / 0.5e9 + bytes / 0.8e8) / 2.0).abs() < 1e-9);
        assert_eq!(time.total(), time.rollout + time.scoring + time.update);
    }
}
