//! Criterion benches: `cargo bench -p harness`.
use criterion::{criterion_group, criterion_main};

mod credit;
mod grading;
mod preprocess;
#[cfg(feature = "candle")]
mod step;

criterion_group!(pure, credit::credit, grading::grading, preprocess::preprocess);
#[cfg(feature = "candle")]
criterion_group!(model, step::step);
#[cfg(feature = "candle")]
criterion_main!(pure, model);
#[cfg(not(feature = "candle"))]
criterion_main!(pure);
