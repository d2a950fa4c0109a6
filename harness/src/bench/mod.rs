//! Sources of questions: [`tiny`] makes its own, [`jsonl`] reads a user's; [`responses`] reads a user's responses.
//! Nothing here knows a model, a grader or an algorithm.
pub mod jsonl;
pub mod responses;
pub mod tiny;
