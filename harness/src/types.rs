//! Plain data that every level may use. No behaviour beyond small conversions, no I/O.

use crate::settings::CorruptionKind;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::Arc;

/// An RGB picture, 8 bits per channel, row-major, `pixels.len() == 3 * width * height`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rgb {
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
    /// `R G B R G B ...`, row by row from the top left.
    pub pixels: Vec<u8>,
}

/// A picture as a data source hands it over: encoded bytes (PNG, JPEG, ...) or already RGB.
#[derive(Clone, Debug)]
pub enum Picture {
    /// The bytes of an image file; the format is told by the content, never by a file name.
    Encoded(Arc<[u8]>),
    /// A decoded picture.
    Rgb(Arc<Rgb>),
}

/// One question: what the model sees and what the grader compares with.
#[derive(Clone, Debug)]
pub struct Example {
    /// Unique within its benchmark; every random draw and every sample line refers to it.
    pub id: String,
    /// Name of the benchmark (column of the result table) or of the user's file.
    pub benchmark: String,
    /// Items with the same cluster share a source and are resampled together by the statistics.
    pub cluster: String,
    /// The question with one `<image>` place per picture, without the instruction sentence.
    pub problem: String,
    /// The gold answer, verbatim.
    pub answer: String,
    /// As many pictures as `<image>` places.
    pub images: Vec<Picture>,
}

/// What grading one completion against one gold answer came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The reference grader accepts the answer.
    Correct,
    /// An answer was extracted and the reference grader rejects it.
    Wrong,
    /// No complete last `\boxed{...}` in a completion that ended by itself.
    NoAnswer,
    /// No complete last `\boxed{...}` and the completion was cut at the length limit.
    Truncated,
    /// The gold answer is empty or cannot be read; counted and shown, never silently wrong.
    GoldUnparsable,
    /// The reference would ask a computer algebra system a question this grader cannot decide.
    Undecided,
}

impl Outcome {
    /// All outcomes, in the order in which tables list them.
    pub const ALL: [Outcome; 6] = [
        Outcome::Correct,
        Outcome::Wrong,
        Outcome::NoAnswer,
        Outcome::Truncated,
        Outcome::GoldUnparsable,
        Outcome::Undecided,
    ];

    /// The name used in files and tables (snake case, as serde writes it).
    pub fn name(self) -> &'static str {
        match self {
            Outcome::Correct => "correct",
            Outcome::Wrong => "wrong",
            Outcome::NoAnswer => "no_answer",
            Outcome::Truncated => "truncated",
            Outcome::GoldUnparsable => "gold_unparsable",
            Outcome::Undecided => "undecided",
        }
    }

    /// The reward of the paper: 1 for `Correct`, else 0.
    pub fn reward(self) -> f64 {
        if self == Outcome::Correct { 1.0 } else { 0.0 }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Why a completion ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StopReason {
    /// The model wrote its end token (which counts as a response token).
    EndToken,
    /// The length limit was reached.
    Length,
}

/// One evaluated completion: one line of `samples.jsonl`. Every table is computed from these lines.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SampleLine {
    /// Benchmark (table column).
    pub benchmark: String,
    /// Item id within the benchmark.
    pub item: String,
    /// Cluster id for the statistics.
    pub cluster: String,
    /// Sample index, `0 .. samples`.
    pub sample: u32,
    /// Verdict of the grader.
    pub outcome: Outcome,
    /// Content of the last box, or `None` where there is none.
    pub extracted: Option<String>,
    /// Response length in tokens, the end token counted.
    pub tokens: u32,
    /// Why it ended.
    pub stop: StopReason,
}

/// A response token by token, as the policy that sampled it sees it: one line of `rollouts/step-N.jsonl`. Vectors have
/// one entry per token, the end token counted; log-probabilities are those of the full softmax, in nats.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RolloutLine {
    /// Question.
    pub item: String,
    /// Index within the group.
    pub sample: u32,
    /// Verdict of the grader.
    pub outcome: Outcome,
    /// Content of the last box, or `None` where there is none.
    pub extracted: Option<String>,
    /// The text of each token; tokens that hold a part of a character show U+FFFD.
    pub text_t: Vec<String>,
    /// Log-probability under the sampling policy: what the update took for the old one.
    pub logp_t: Vec<f32>,
    /// Entropy of the sampling policy, in nats.
    pub entropy_t: Vec<f32>,
    /// Log-probability under the frozen first policy; empty where the run has none.
    pub reference_logp_t: Vec<f32>,
    /// Log-probability under the corrupted picture.
    pub corrupted_logp_t: Vec<f32>,
    /// KL divergence of the distribution under the corrupted picture from that under the clean one, in nats.
    pub kl_t: Vec<f32>,
    /// Jensen-Shannon divergence of the two, in nats.
    pub js_t: Vec<f32>,
}

/// An evaluated question with its pictures and its responses token by token: one line of `spotlight/N.jsonl`. All of its
/// responses were scored under the same corrupted pictures.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SpotlightItem {
    /// Benchmark (table column).
    pub benchmark: String,
    /// Item id within the benchmark.
    pub item: String,
    /// The question.
    pub problem: String,
    /// The gold answer.
    pub answer: String,
    /// What was done to the pictures.
    pub corruption: CorruptionKind,
    /// The pictures as the policy saw them, reduced for display: PNG in base64.
    pub pictures: Vec<String>,
    /// The same, corrupted.
    pub corrupted: Vec<String>,
    /// The responses, by sample index.
    pub responses: Vec<RolloutLine>,
}
