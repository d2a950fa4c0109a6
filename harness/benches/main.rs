//! Criterion benches.
use criterion::{criterion_group, criterion_main};

mod credit;

criterion_group!(benches, credit::credit);
criterion_main!(benches);
