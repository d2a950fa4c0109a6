//! Tests of `benchmarks`.
