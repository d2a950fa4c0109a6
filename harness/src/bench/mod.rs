//! Sources of questions. [`tiny`] makes its own; nothing here knows a model, a grader or an algorithm.
pub mod tiny;
