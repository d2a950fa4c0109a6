//! Criterion benches.
mod grading;

use criterion::{criterion_group, criterion_main};

criterion_group!(benches, grading::grading);
criterion_main!(benches);
