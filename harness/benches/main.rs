//! Criterion benches.
use criterion::{criterion_group, criterion_main};

mod credit;
mod preprocess;

criterion_group!(benches, credit::credit, preprocess::preprocess);
criterion_main!(benches);
