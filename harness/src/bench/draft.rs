//! From drafts of questions to checked examples: filter, uniqueness, picture places, counts.
//!
//! A row is never skipped silently: it becomes an [`Example`], or a filter drops it and it is counted, or it is
//! an error.

use super::manifest::{Expected, Filter};
use crate::prompt::{IMAGE_PLACE, tiny::SPECIAL_TOKENS};
use crate::types::{Example, Picture};
use anyhow::{Result, bail, ensure};
use std::collections::{BTreeMap, BTreeSet};

/// What becomes of a number of rows that is not the expected one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowCheck {
    /// An error that explains the difference.
    Refuse,
    /// The rows are used; the difference is among [`Loaded::notes`].
    Allow,
}

/// The rows of a source.
#[derive(Debug)]
pub struct Loaded {
    /// The questions that count, in the order of the files (sorted by path) and rows.
    pub examples: Vec<Example>,
    /// Rows in the files.
    pub rows_read: usize,
    /// Why rows were left out, and how many, by reason in alphabetical order.
    pub filtered: Vec<(String, usize)>,
    /// How many clusters the examples form.
    pub clusters: usize,
    /// What a reader of the results must know: a difference in the number of rows that was allowed, clusters
    /// that had to be guessed.
    pub notes: Vec<String>,
}

/// A row before it is checked.
#[derive(Default)]
pub(super) struct Draft {
    /// The dataset's own id; by default the row's number.
    pub id: Option<String>,
    /// By default the id.
    pub cluster: Option<String>,
    pub problem: String,
    pub answer: String,
    /// Free form or multiple choice, where the dataset tells.
    pub question_type: Option<String>,
    pub images: Vec<Picture>,
}

impl Filter {
    /// Why a row does not count; `None` if it does.
    ///
    /// # Errors
    /// If the rule cannot be applied to the row.
    fn objection(self, draft: &Draft) -> Result<Option<String>> {
        let drop = match self {
            Filter::None => false,
            Filter::IntegerOrLetter => !is_integer_or_letter(&draft.answer),
            Filter::Answered => draft.answer.trim().is_empty(),
            Filter::MultipleChoice => match draft.question_type.as_deref() {
                Some("multi-choice") => false,
                Some("free-form") => true,
                other => bail!("the question type {other:?} is neither \"multi-choice\" nor \"free-form\""),
            },
        };
        Ok(drop.then(|| self.reason().to_owned()))
    }

    /// Why this filter drops rows, in words.
    fn reason(self) -> &'static str {
        match self {
            Filter::None => "nothing is dropped",
            Filter::MultipleChoice => "the question is free-form",
            Filter::IntegerOrLetter => "the answer is neither an integer nor one capital letter",
            Filter::Answered => "the answer is missing",
        }
    }
}

fn is_integer_or_letter(answer: &str) -> bool {
    let digits = answer.strip_prefix('-').unwrap_or(answer);
    let integer = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    integer || (answer.len() == 1 && answer.bytes().all(|byte| byte.is_ascii_uppercase()))
}

/// Collects the rows of a source.
pub(super) struct Collector {
    benchmark: String,
    filter: Filter,
    examples: Vec<Example>,
    /// Where each id was met.
    places: BTreeMap<String, String>,
    rows_read: usize,
    filtered: BTreeMap<String, usize>,
}

impl Collector {
    pub(super) fn new(benchmark: &str, filter: Filter) -> Collector {
        Collector {
            benchmark: benchmark.to_owned(),
            filter,
            examples: Vec::new(),
            places: BTreeMap::new(),
            rows_read: 0,
            filtered: BTreeMap::new(),
        }
    }

    /// Takes a row; `place` tells where it stands.
    ///
    /// # Errors
    /// If the row counts and is no complete question.
    pub(super) fn add(&mut self, draft: Draft, place: &str) -> Result<()> {
        self.rows_read += 1;
        if let Some(reason) = self.filter.objection(&draft)? {
            *self.filtered.entry(reason).or_insert(0) += 1;
            return Ok(());
        }
        check(&draft)?;
        let id = draft.id.unwrap_or_else(|| format!("row-{}", self.rows_read));
        if let Some(earlier) = self.places.insert(id.clone(), place.to_owned()) {
            bail!("the id {id:?} is that of {earlier} already");
        }
        let cluster = draft.cluster.unwrap_or_else(|| id.clone());
        let benchmark = self.benchmark.clone();
        let Draft { problem, answer, images, .. } = draft;
        self.examples.push(Example { id, benchmark, cluster, problem, answer, images });
        Ok(())
    }

    /// The rows, if there are as many as expected or a difference is allowed.
    ///
    /// # Errors
    /// On a difference that is not allowed.
    pub(super) fn finish(self, expected: Expected, check: RowCheck) -> Result<Loaded> {
        let clusters: BTreeSet<&str> = self.examples.iter().map(|example| example.cluster.as_str()).collect();
        let mut loaded = Loaded {
            clusters: clusters.len(),
            examples: self.examples,
            rows_read: self.rows_read,
            filtered: self.filtered.into_iter().collect(),
            notes: Vec::new(),
        };
        match (difference(&loaded, expected), check) {
            (None, _) => {}
            (Some(text), RowCheck::Allow) => loaded.notes.push(text),
            (Some(text), RowCheck::Refuse) => bail!(
                "{text}. Files may be missing or incomplete, or the dataset has changed since the count was \
                 taken: compare the revision with the one in the lock file. To use these rows all the same, \
                 give --allow-row-count; the difference is then kept with the results"
            ),
        }
        Ok(loaded)
    }
}

/// Whether a row is a complete question.
fn check(draft: &Draft) -> Result<()> {
    ensure!(!draft.problem.trim().is_empty(), "the question is empty");
    ensure!(!draft.answer.trim().is_empty(), "the answer is empty");
    let places = draft.problem.matches(IMAGE_PLACE).count();
    ensure!(
        places == draft.images.len(),
        "the question has {places} {IMAGE_PLACE} places, but there are {} pictures",
        draft.images.len()
    );
    let token = SPECIAL_TOKENS.into_iter().find(|token| draft.problem.contains(token));
    ensure!(token.is_none(), "the question contains the model's token {}", token.unwrap_or_default());
    Ok(())
}

/// How the counts differ from the expected ones, in words.
fn difference(loaded: &Loaded, expected: Expected) -> Option<String> {
    let clusters = expected.clusters.unwrap_or(loaded.clusters);
    let found =
        Expected { read: loaded.rows_read, kept: loaded.examples.len(), clusters: Some(loaded.clusters) };
    if found == (Expected { clusters: Some(clusters), ..expected }) {
        return None;
    }
    let reasons: Vec<String> =
        loaded.filtered.iter().map(|(reason, count)| format!("{count}: {reason}")).collect();
    let dropped = if reasons.is_empty() { "none".to_owned() } else { reasons.join("; ") };
    let in_clusters = |count: Option<usize>| count.map_or(String::new(), |n| format!(", in {n} clusters"));
    Some(format!(
        "expected {} rows, of which {} count{}; read {}, of which {} count{} (dropped: {dropped})",
        expected.read,
        expected.kept,
        in_clusters(expected.clusters),
        found.read,
        found.kept,
        in_clusters(expected.clusters.map(|_| loaded.clusters))
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_and_capital_letters_to_the_character() {
        for answer in ["0", "-7", "120", "A", "Z"] {
            assert!(is_integer_or_letter(answer), "{answer:?}");
        }
        for answer in ["", "-", "11 ", "8.0", "a", "AB", "$4$", "--1", "Ä", "1/2", "٣"] {
            assert!(!is_integer_or_letter(answer), "{answer:?}");
        }
    }

    fn draft(problem: &str, answer: &str, pictures: usize) -> Draft {
        let images = vec![Picture::Encoded([].into()); pictures];
        Draft { problem: problem.to_owned(), answer: answer.to_owned(), images, ..Draft::default() }
    }

    #[test]
    fn an_incomplete_question_is_an_error() {
        let fault =
            |draft: Draft| Collector::new("b", Filter::None).add(draft, "here").unwrap_err().to_string();
        assert_eq!(fault(draft(" \n", "1", 0)), "the question is empty");
        assert_eq!(fault(draft("<image>x", " ", 1)), "the answer is empty");
        assert!(
            fault(draft("<image><image>x", "1", 1)).contains("2 <image> places, but there are 1 pictures")
        );
        assert!(fault(draft("x", "1", 1)).contains("0 <image> places, but there are 1 pictures"));
        assert!(fault(draft("x <|image_pad|>", "1", 0)).contains("the model's token <|image_pad|>"));
    }

    #[test]
    fn ids_are_unique_and_rows_without_one_are_numbered() {
        let mut collector = Collector::new("b", Filter::Answered);
        collector.add(draft("x", "", 0), "row 1").unwrap();
        collector.add(draft("x", "1", 0), "row 2").unwrap();
        let same = Draft { id: Some("row-2".to_owned()), ..draft("x", "1", 0) };
        let error = collector.add(same, "row 3").unwrap_err().to_string();
        assert_eq!(error, "the id \"row-2\" is that of row 2 already");
        let expected = Expected { read: 3, kept: 1, clusters: None };
        let loaded = collector.finish(expected, RowCheck::Refuse).unwrap();
        assert_eq!((loaded.examples[0].id.as_str(), loaded.examples[0].cluster.as_str()), ("row-2", "row-2"));
        assert_eq!(loaded.filtered, [("the answer is missing".to_owned(), 1)]);
    }

    #[test]
    fn an_unknown_question_type_is_an_error() {
        let odd = Draft { question_type: Some("essay".to_owned()), ..draft("x", "1", 0) };
        let error = Collector::new("b", Filter::MultipleChoice).add(odd, "here").unwrap_err().to_string();
        assert!(error.contains("Some(\"essay\") is neither"), "{error}");
    }
}
