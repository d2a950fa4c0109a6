//! All integration tests, one binary.
mod algo;
mod architecture;
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
mod store;
mod tiny_world;
