//! Credit assignment and objectives of one rollout batch of the paper's size, all responses at full length.

use criterion::Criterion;
use harness::algo::{
    Algorithm, Batch, Corrupted, Credit, Current, Metrics, Response, assign_credit, objective,
};
use harness::rng::{Purpose, stream};
use rayon::prelude::*;
use std::hint::black_box;

const GROUPS: usize = 384;
const GROUP_SIZE: usize = 8;
const TOKENS: usize = 2048;

fn log_probabilities(what: &str, i: usize) -> Vec<f64> {
    let mut draws = stream(1, Purpose::World, &[what.into(), i.into()]);
    (0..TOKENS).map(|_| -2.0 * draws.uniform()).collect()
}

fn response(i: usize) -> Response {
    Response {
        item: (i / GROUP_SIZE).to_string(),
        sample: (i % GROUP_SIZE) as u32,
        reward: (i % 3 % 2) as f64,
        old_logp_t: log_probabilities("old", i),
        entropy_t: Vec::new(),
        corrupted: Some(Corrupted { logp_t: log_probabilities("corrupted", i), ..Corrupted::default() }),
    }
}

fn batch() -> Batch {
    Batch {
        responses: (0..GROUPS * GROUP_SIZE).into_par_iter().map(response).collect(),
        group_size: GROUP_SIZE,
        mini_batch_responses: 128 * GROUP_SIZE,
        micro_batch_responses: 16,
        max_response_tokens: TOKENS,
        seed: 1,
        step: 0,
    }
}

fn objectives(algorithm: &Algorithm, batch: &Batch, credits: &[Credit], logp_bt: &[Vec<f64>]) -> Metrics {
    let one = |((response, credit), logp_t): ((&Response, &Credit), &Vec<f64>)| {
        let current = Current { logp_t, entropy_t: &[] };
        black_box(objective(algorithm, credit, current, &response.old_logp_t, None)).metrics
    };
    let rows: Vec<Metrics> = batch.responses.par_iter().zip(credits).zip(logp_bt).map(one).collect();
    rows.iter().fold(Metrics::default(), |mut sum, row| {
        sum.add(row);
        sum
    })
}

/// 3,072 responses of 2,048 tokens under VPPO: `assign_credit`, then `objective` of every response.
pub fn credit(c: &mut Criterion) {
    let (algorithm, batch) = (Algorithm::vppo(), batch());
    let logp_bt: Vec<Vec<f64>> =
        (0..batch.responses.len()).into_par_iter().map(|i| log_probabilities("new", i)).collect();
    let credits = assign_credit(&algorithm, &batch);
    let mut group = c.benchmark_group("credit_3072x2048");
    group.sample_size(10);
    group.bench_function("assign_credit", |b| b.iter(|| assign_credit(&algorithm, black_box(&batch))));
    group.bench_function("objective", |b| {
        b.iter(|| objectives(&algorithm, black_box(&batch), &credits, &logp_bt));
    });
    group.finish();
}
