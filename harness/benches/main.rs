//! Criterion benches.
use criterion::{criterion_group, criterion_main};

mod credit;
mod grading;
mod preprocess;

criterion_group!(benches, credit::credit, grading::grading, preprocess::preprocess);
criterion_main!(benches);
