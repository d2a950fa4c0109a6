//! Criterion benches.
use criterion::{criterion_group, criterion_main};

mod preprocess;

criterion_group!(benches, preprocess::preprocess);
criterion_main!(benches);
