//! Statistics of an evaluation: from sample lines to means, intervals and paired comparisons.
//!
//! What it does, bottom up:
//! - [`ItemScore`] reduces the k samples of one item to counts and refuses anything but exactly k samples.
//! - [`by_benchmark`] averages the items of one arm over its training seeds.
//! - [`Estimate`] is a mean with its cluster-robust standard error; [`Estimate::average`] is the unweighted
//!   mean over benchmarks (the paper's "Avg" column).
//! - [`compare`] aligns two arms by item id and tests the differences; [`holm`] corrects over benchmarks.
//! - [`SeedSpread`] splits the error of a mean by source, training seeds among them, for two or more seeds.
//! - [`OverRuns`] looks at whole training runs: mean, interquartile mean, probability of improvement.
//!
//! What it does not know: files, tables, algorithms, which benchmark is which, how an answer was graded.
//! Scores are fractions in `0 ..= 1`; percentages are made by `report`.
//!
//! What an interval covers. [`Estimate::of`] and [`compare`] average each item over the seeds first, so that seeds
//! never count as items: their intervals and p values cover the choice of questions (by cluster) and the sampling of
//! answers, for the models that were trained. [`SeedSpread::half_width_with_seeds`] covers training again as well.
//!
//! Sources: cluster-robust errors and paired comparison of evaluations, Miller 2024 (arXiv 2411.00640);
//! pass@k, Chen et al. 2021 (arXiv 2107.03374), here always with k = n, so that it is "any correct";
//! maj@k, Wang et al. 2022 (arXiv 2203.11171); step-down correction, Holm 1979; degrees of freedom of a sum,
//! Satterthwaite 1946; detectable differences, Bloom 1995; those for seeds and runs stand in their modules.
//! Deviation: the paper prints avg@8 without any of this (no interval, no seed).

mod estimate;
mod items;
mod means;
mod paired;
mod runs;
mod seeds;

pub use estimate::{Clusters, Estimate};
pub use items::ItemScore;
pub use means::{ItemMean, by_benchmark};
pub use paired::{Comparison, Difference, Resampling, compare, holm, item_differences};
pub use runs::{OverRuns, probability_of_improvement};
pub use seeds::{Parts, SeedSpread};
