//! (to come)
pub mod jsonl;
