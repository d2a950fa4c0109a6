//! Sources of questions: [`tiny`] makes its own, [`jsonl`] reads a user's, [`read`] reads the files of the
//! datasets that `datasets/*.toml` describe ([`manifest`]), [`responses`] a user's responses. Nothing here knows a model, a grader or an algorithm,
//! nor how files are fetched.

mod adapter;
mod draft;
pub mod jsonl;
mod load;
pub mod manifest;
mod papo_eval;
mod pictures;
pub mod responses;
mod schema;
mod table;
pub mod tiny;

pub use draft::{Loaded, RowCheck};
pub use load::{files_below, read};
pub use manifest::{Manifest, Source};
