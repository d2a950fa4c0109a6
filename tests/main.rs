//! All integration tests, one binary.
mod algo;
mod architecture;
#[cfg(feature = "candle")]
mod bench;
mod benchmarks;
#[cfg(any(feature = "cuda-emulation", feature = "cuda"))]
mod card;
#[cfg(feature = "candle")]
mod checkpoint;
#[cfg(feature = "candle")]
mod cli;
#[cfg(feature = "candle")]
mod end_to_end;
mod events;
mod grade;
mod hub;
#[cfg(feature = "candle")]
mod hub_scale;
mod image;
#[cfg(feature = "candle")]
mod model;
#[cfg(feature = "candle")]
mod page;
#[cfg(feature = "candle")]
mod parity;
#[cfg(feature = "candle")]
mod plan;
mod prompt;
mod report;
#[cfg(feature = "candle")]
mod rescore;
mod results;
#[cfg(feature = "candle")]
mod run;
#[cfg(feature = "candle")]
mod score;
mod statistics;
mod store;
#[cfg(feature = "candle")]
mod studies;
mod tiny_world;
#[cfg(feature = "candle")]
mod train;
mod verification;
