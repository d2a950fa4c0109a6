//! All integration tests, one binary.
mod algo;
mod architecture;
#[cfg(feature = "candle")]
mod bench;
mod benchmarks;
#[cfg(feature = "candle")]
mod checkpoint;
#[cfg(feature = "candle")]
mod cli;
#[cfg(feature = "cuda-emulation")]
mod emulation;
#[cfg(feature = "candle")]
mod end_to_end;
mod grade;
mod hub;
#[cfg(feature = "candle")]
mod hub_scale;
mod image;
#[cfg(feature = "candle")]
mod model;
#[cfg(feature = "candle")]
mod parity;
#[cfg(feature = "candle")]
mod plan;
mod prompt;
mod report;
mod results;
#[cfg(feature = "candle")]
mod run;
#[cfg(feature = "candle")]
mod score;
mod statistics;
mod store;
mod tiny_world;
#[cfg(feature = "candle")]
mod train;
