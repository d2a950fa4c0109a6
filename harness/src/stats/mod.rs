//! Statistics of an evaluation: from sample lines to means, intervals and paired comparisons.
//!
//! What it does, bottom up:
//! - [`ItemScore`] reduces the k samples of one item to counts and refuses anything but exactly k samples.
//! - [`by_benchmark`] averages the items of one arm over its training seeds.
//! - [`Estimate`] is a mean with its cluster-robust standard error; [`Estimate::average`] is the unweighted
//!   mean over benchmarks (the paper's "Avg" column).
//! - [`compare`] aligns two arms by item id and tests the differences; [`holm`] corrects over benchmarks.
//!
//! What it does not know: files, tables, algorithms, which benchmark is which, how an answer was graded.
//! Scores are fractions in `0 ..= 1`; percentages are made by `report`.
//!
//! What an interval covers: the choice of questions (by cluster) and the sampling of answers. It does not
//! cover the training seed: the spread between seeds is reported apart ([`seed_deviation`]).
//!
//! Sources: cluster-robust errors and paired comparison of evaluations, Miller 2024 (arXiv 2411.00640);
//! pass@k, Chen et al. 2021 (arXiv 2107.03374), here always with k = n, so that it is "any correct";
//! maj@k, Wang et al. 2022 (arXiv 2203.11171); step-down correction, Holm 1979; degrees of freedom of a sum,
//! Satterthwaite 1946. Deviation: the paper prints avg@8 without any of this (no interval, no seed).

mod estimate;
mod items;
mod means;
mod paired;

pub use estimate::{Clusters, Estimate};
pub use items::ItemScore;
pub use means::{ItemMean, by_benchmark, seed_deviation};
pub use paired::{Comparison, Difference, Resampling, compare, holm, item_differences};
