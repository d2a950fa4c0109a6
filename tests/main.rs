//! All integration tests, one binary.
mod algo;
mod architecture;
#[cfg(feature = "candle")]
mod cli;
#[cfg(feature = "candle")]
mod end_to_end;
mod grade;
mod image;
#[cfg(feature = "candle")]
mod model;
#[cfg(feature = "candle")]
mod parity;
mod prompt;
mod report;
mod results;
#[cfg(feature = "candle")]
mod run;
mod store;
mod tiny_world;
#[cfg(feature = "candle")]
mod train;
