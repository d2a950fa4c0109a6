//! Grading: from a completion and a gold answer to an outcome and a reward.
//!
//! One function serves the training reward and the evaluation: [`grade_response`]. It cannot fail,
//! does no I/O and knows nothing about models, prompts or benchmarks.
//!
//! # What it reproduces
//!
//! The reward of the paper's code (`compute_score_wo_format`): white space around `<`, `>` and `/`
//! removed, the last `\boxed{...}` taken, graded by mathruler 0.1.0 (under sympy 1.14 and pylatexenc
//! 2.10): 1 if equal, else 0. Its evaluation scripts use the same function. The steps, each a module:
//! `extract`, `mathd` (equal first forms are equal), `norm` with `latex` (equal second forms
//! are equal), `compare` (tuples, integers, fractions), `expr` and `algebra` (the rest).
//!
//! Known faults of the reference are part of the numbers and are kept: `\frac{x+1}{2}` means
//! `x+1/2`, any two-letter word equals its anagram, `C.` is not `C`, `2/4` is not `1/2`, `5 m` is not
//! `5`, 1e16 and its neighbour are equal, `50%` equals `50`.
//!
//! # What it adds
//!
//! * A missing answer is told apart from a wrong one, and a cut completion from a finished one. The
//!   reference grades the text `None` in place of a missing box; so does the reward here, hence a gold
//!   answer `None` pays 1 although the outcome is [`Outcome::NoAnswer`] or [`Outcome::Truncated`].
//! * A pair that the reference would put to its algebra system, and that this grader cannot settle, is
//!   [`Outcome::Undecided`] with reward 0; it is never guessed. Bounds on size, nesting, exponents and
//!   terms lead there too, so that every input is graded in bounded time.
//! * A gold answer that nothing could be measured against is [`Outcome::GoldUnparsable`], unless the
//!   reference accepts the given answer all the same (an empty gold answer equals an empty box).
//!   Unreadable is a gold answer that is blank, or whose second normal form is empty (`$`), or whose
//!   braces do not pair (escaped ones count, as in extraction), or that holds control characters
//!   other than tab, newline and carriage return (`\x0crac{1}{2}`, a mangled `\frac`) or U+FFFD.
//!
//! # Agreement
//!
//! `tests/grade.rs` compares every case of `tests/golden/grading` (real output of mathruler: 6,553
//! pairs with both normal forms, 2,124 completions, 30 extractions, 14 rewards). All agree; one pair
//! stays undecided, because a `#` and a line end make a Python comment that is not followed:
//! `\begin{tabular}{|l|l|l|} \hline # & # & # \\ ... \end{tabular}` against `C`.
//!
//! Beyond the fixtures, 180,015 generated pairs (real answers mutated, pieces of LaTeX strung together,
//! random expressions against sympy's own rewriting of them) were graded by both once: no
//! disagreement, 4.1 % undecided.
//!
//! Left undecided by design, so far met only in made-up answers: answers with digits other than
//! `0`-`9`; functions other than the square root, Python keywords, comparisons by `==`, bit operators,
//! imaginary literals (`3j`) and digit separators inside an algebraic answer; document commands and
//! rare accents in LaTeX; decimals inside products of sums, or nested roots, whose values agree; and
//! everything beyond the bounds (`expr::MAX_BYTES`, `expr::MAX_DEPTH`, `latex::MAX_STEPS`,
//! `algebra`).

mod algebra;
mod compare;
mod expr;
mod extract;
mod latex;
mod mathd;
mod norm;
mod pytext;

pub use extract::{extract_boxed, squeeze_markup};
pub use mathd::mathd;
pub use norm::norm;

use crate::types::{Outcome, StopReason};

/// Whether two answers are equal to the reference.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// The reference accepts the given answer.
    Equal,
    /// The reference rejects it.
    Different,
    /// The reference would decide by computer algebra that this grader does not have.
    Undecided,
}

/// One graded completion.
#[derive(Clone, Debug, PartialEq)]
pub struct Graded {
    /// The verdict, for counting.
    pub outcome: Outcome,
    /// Content of the last box.
    pub extracted: Option<String>,
    /// The reference's reward, 0 or 1. Equal to `outcome.reward()` except for the gold answer
    /// `None` without a box, see the [module](self).
    pub reward: f64,
}

/// Grades a whole completion. `stop` tells a missing box in a finished completion from one in a
/// completion that was cut.
pub fn grade_response(response: &str, gold: &str, stop: StopReason) -> Graded {
    match extract_boxed(&squeeze_markup(response)) {
        Some(given) => grade_extracted(given, gold),
        None => Graded {
            outcome: match stop {
                _ if is_unreadable(gold) => Outcome::GoldUnparsable,
                StopReason::EndToken => Outcome::NoAnswer,
                StopReason::Length => Outcome::Truncated,
            },
            extracted: None,
            reward: reward(grade_answer(extract::NO_BOX, gold)),
        },
    }
}

/// Grades an answer that was already taken out of its box.
pub fn grade_extracted(given: &str, gold: &str) -> Graded {
    let verdict = grade_answer(given, gold);
    let outcome = match verdict {
        Verdict::Equal => Outcome::Correct,
        _ if is_unreadable(gold) => Outcome::GoldUnparsable,
        Verdict::Different => Outcome::Wrong,
        Verdict::Undecided => Outcome::Undecided,
    };
    Graded { outcome, extracted: Some(given.to_string()), reward: reward(verdict) }
}

/// Compares a given answer with the gold answer.
///
/// ```
/// use harness::grade::{Verdict, grade_answer};
/// assert_eq!(grade_answer(r"\dfrac{\sqrt{3}}{3}", r"\frac{1}{\sqrt 3}"), Verdict::Equal);
/// assert_eq!(grade_answer("C.", "C"), Verdict::Different);
/// ```
pub fn grade_answer(given: &str, gold: &str) -> Verdict {
    if mathd(given) == mathd(gold) {
        return Verdict::Equal;
    }
    if pytext::has_foreign_digits(given) || pytext::has_foreign_digits(gold) {
        return Verdict::Undecided;
    }
    match (norm(given), norm(gold)) {
        (Some(given), Some(gold)) => compare::compare(&given, &gold),
        _ => Verdict::Undecided,
    }
}

fn reward(verdict: Verdict) -> f64 {
    if verdict == Verdict::Equal { 1.0 } else { 0.0 }
}

/// Whether a gold answer cannot be measured against; the definition is in the [module](self).
fn is_unreadable(gold: &str) -> bool {
    let mangled = |c: char| (c.is_control() && !matches!(c, '\t' | '\n' | '\r')) || c == '\u{fffd}';
    gold.chars().any(mangled)
        || !braces_pair(gold)
        || norm(gold).is_some_and(|form| pytext::trim(&form).is_empty())
}

fn braces_pair(text: &str) -> bool {
    let mut open = 0usize;
    for byte in text.bytes() {
        match byte {
            b'{' => open += 1,
            b'}' if open == 0 => return false,
            b'}' => open -= 1,
            _ => {}
        }
    }
    open == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcomes_and_rewards() {
        use StopReason::{EndToken, Length};
        for (response, gold, stop, outcome, reward) in [
            (r"so \boxed{5}", "5", Length, Outcome::Correct, 1.0),
            (r"so \boxed{6}", "5", EndToken, Outcome::Wrong, 0.0),
            ("so 5", "5", EndToken, Outcome::NoAnswer, 0.0),
            (r"\boxed{5} \boxed{", "5", Length, Outcome::Truncated, 0.0),
            ("so 5", "None", EndToken, Outcome::NoAnswer, 1.0),
            (r"\boxed{5}", "", EndToken, Outcome::GoldUnparsable, 0.0),
            (r"\boxed{}", "", EndToken, Outcome::Correct, 1.0),
            ("so", "\u{c}rac{1}{2}", Length, Outcome::GoldUnparsable, 0.0),
            (r"\boxed{5}", r"\frac{1{2}", EndToken, Outcome::GoldUnparsable, 0.0),
            (r"\boxed{5}", "$", EndToken, Outcome::GoldUnparsable, 0.0),
            (r"\boxed{x < 5}", "x<5", EndToken, Outcome::Correct, 1.0),
            (r"\boxed{ln(l)}", "n", EndToken, Outcome::Undecided, 0.0),
        ] {
            let graded = grade_response(response, gold, stop);
            assert_eq!((graded.outcome, graded.reward), (outcome, reward), "{response:?} {gold:?}");
        }
    }

    #[test]
    fn known_faults_of_the_reference_are_kept() {
        for (given, gold, equal) in [
            (r"\frac{x+1}{2}", "x+1/2", true),
            ("AB", "BA", true),
            ("50%", "50", true),
            (r"30^\circ", "30", true),
            ("30°", "30", false),
            ("5 cm^2", "5", true),
            ("5 m", "5", false),
            ("2/4", "1/2", false),
            ("C.", "C", false),
            ("(C)", "C", true),
        ] {
            let expected = if equal { Verdict::Equal } else { Verdict::Different };
            assert_eq!(grade_answer(given, gold), expected, "{given} {gold}");
        }
    }
}
