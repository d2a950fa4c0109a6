//! What is known of each dataset: `datasets/*.toml`, embedded and parsed.
//!
//! A manifest holds facts: where the rows come from, which of them count, how many there must be, and how sure
//! each of these statements is. It knows neither how files are fetched nor how they are read; the fetcher takes
//! [`Source::hub`], [`Source::revision`] and [`Source::files`] as plain data, [`crate::bench::read`] the rest.

use crate::hub;
use anyhow::{Context, Result, bail};
use serde::Deserialize;

/// The embedded manifests, in the order of the paper's table, then the training and validation sets.
const FILES: [(&str, &str); 10] = [
    ("mathverse", include_str!("../../../datasets/mathverse.toml")),
    ("dynamath", include_str!("../../../datasets/dynamath.toml")),
    ("mmk12", include_str!("../../../datasets/mmk12.toml")),
    ("geo3k", include_str!("../../../datasets/geo3k.toml")),
    ("mathvision", include_str!("../../../datasets/mathvision.toml")),
    ("wemath", include_str!("../../../datasets/wemath.toml")),
    ("logicvista", include_str!("../../../datasets/logicvista.toml")),
    ("mmmu_pro", include_str!("../../../datasets/mmmu_pro.toml")),
    ("virl39k", include_str!("../../../datasets/virl39k.toml")),
    ("mmk12_validation", include_str!("../../../datasets/mmk12_validation.toml")),
];

/// One dataset and the places it can be had from.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The column of the result tables; [`crate::types::Example::benchmark`] of every row.
    pub name: String,
    /// What the paper uses it for.
    pub role: Role,
    /// The licence of the rows, and whose word that is.
    pub licence: String,
    /// Which rows share a cluster of the statistics, in words.
    pub cluster: String,
    /// How a row becomes a question, in words.
    pub prompt: String,
    /// Where the statements of this manifest come from.
    pub cited: Vec<String>,
    /// How sure they are.
    pub facts: Facts,
    /// Where the rows can be had; the first is the default.
    #[serde(rename = "source")]
    pub sources: Vec<Source>,
    /// The stem of its file in `datasets/`.
    #[serde(skip)]
    pub stem: String,
}

/// What the paper uses a dataset for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// One of the eight columns of the result tables.
    Benchmark,
    /// The questions of the training.
    Training,
    /// Questions watched during training.
    Validation,
}

/// The statements of a manifest by how they are known.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Facts {
    /// Stated by the dataset's page or by the paper's authors.
    pub card: Vec<String>,
    /// Counted on real files.
    pub held: Vec<String>,
    /// Inferred, remembered or told by third parties.
    pub unconfirmed: Vec<String>,
}

/// One place a dataset can be had from.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// `original` (the dataset's own repository), `vppo_eval` (the authors' evaluation bundle) or `repack`.
    pub name: String,
    /// The repository's id on the hub, `owner/name`.
    pub hub: String,
    /// What kind of repository it is.
    pub kind: RepoKind,
    /// The revision to ask for; a branch is pinned to a commit by the lock file on first use.
    pub revision: String,
    /// The files to fetch, as paths in the repository; `*` stands for any text, as
    /// for the fetcher ([`hub::matches`]).
    pub files: Vec<String>,
    /// The split or configuration that these files hold, in words.
    pub split: String,
    /// How the files are laid out.
    pub layout: Layout,
    /// Which rows count.
    pub filter: Filter,
    /// Whether that rule is stated by somebody who knows, not inferred from the count.
    pub filter_confirmed: bool,
    /// How many rows there must be.
    pub expected: Expected,
}

/// Kinds of hub repositories.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RepoKind {
    /// `https://huggingface.co/datasets/...`
    Dataset,
}

/// How the files of a source are laid out.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Layout {
    /// Parquet files with embedded pictures.
    Parquet {
        /// Whose columns they have.
        columns: Columns,
    },
    /// PAPO-Eval's folder `data`: one JSON list of conversations, pictures as files beside it.
    PapoEval {
        /// Stems that the JSON file may have.
        stems: Vec<String>,
        /// A regular expression whose first group is the cluster, where a picture's path matches it.
        cluster_in_path: Option<String>,
    },
}

/// The columns of a Parquet source; each has an adapter of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Columns {
    /// AI4Math/MathVerse.
    MathVerse,
    /// DynaMath/DynaMath_Sample.
    DynaMath,
    /// FanqingM/MMK12 (`question`, one picture).
    Mmk12,
    /// `problem` with its picture places, `answer`, `images`: hiyouga/geometry3k and the authors' sets.
    ProblemImages,
    /// The same columns with boxed answers: the ViRL39K repack.
    BoxedProblemImages,
    /// MathLLMs/MathVision.
    MathVision,
    /// We-Math/We-Math.
    WeMath,
    /// lscpku/LogicVista.
    LogicVista,
    /// MMMU/MMMU_Pro, configuration `vision`.
    MmmuProVision,
}

/// Which rows of a source count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Filter {
    /// All of them.
    None,
    /// Those whose question type is multiple choice.
    MultipleChoice,
    /// Those whose answer is an integer (`-?[0-9]+`) or one capital letter, to the character.
    IntegerOrLetter,
    /// Those that have an answer.
    Answered,
}

/// How many rows a source must have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expected {
    /// Rows in the files.
    pub read: usize,
    /// Rows after the filter.
    pub kept: usize,
    /// Clusters among those kept, where the source tells clusters.
    pub clusters: Option<usize>,
}

impl Manifest {
    /// All manifests: the eight benchmarks in the order of the paper's table, then training and validation.
    ///
    /// # Errors
    /// If an embedded manifest is broken, which a test excludes.
    pub fn all() -> Result<Vec<Manifest>> {
        FILES.iter().map(|(stem, text)| Manifest::parse(stem, text)).collect()
    }

    fn parse(stem: &str, text: &str) -> Result<Manifest> {
        let manifest = toml::from_str(text).with_context(|| format!("datasets/{stem}.toml"))?;
        Ok(Manifest { stem: stem.to_owned(), ..manifest })
    }

    /// The manifest of a dataset by its table column or file stem, in any case.
    ///
    /// # Errors
    /// If there is none: lists the names and the nearest.
    pub fn by_name(name: &str) -> Result<Manifest> {
        let all = Manifest::all()?;
        let is = |own: &str| own.eq_ignore_ascii_case(name);
        if let Some(found) = all.iter().find(|manifest| is(&manifest.name) || is(&manifest.stem)) {
            return Ok(found.clone());
        }
        let names: Vec<&str> = all.iter().map(|manifest| manifest.name.as_str()).collect();
        bail!("no dataset is called {name:?}{}; there are {}", nearest(name, &names), names.join(", "))
    }

    /// A source by its name; without a name the first.
    ///
    /// # Errors
    /// If the manifest has no such source: lists those it has.
    pub fn source(&self, name: Option<&str>) -> Result<&Source> {
        let found = match name {
            None => self.sources.first(),
            Some(name) => self.sources.iter().find(|source| source.name.eq_ignore_ascii_case(name)),
        };
        found.with_context(|| {
            let names: Vec<&str> = self.sources.iter().map(|source| source.name.as_str()).collect();
            format!("{} has no source {:?}; it has {}", self.name, name.unwrap_or_default(), names.join(", "))
        })
    }
}

impl Source {
    /// The same source with all of its rows.
    pub fn unfiltered(&self) -> Source {
        let expected = Expected { read: self.expected.read, kept: self.expected.read, clusters: None };
        Source { filter: Filter::None, expected, ..self.clone() }
    }

    /// Whether a path in the repository is one of [`Source::files`].
    pub fn wants(&self, path: &str) -> bool {
        self.files.iter().any(|pattern| hub::matches(pattern, path))
    }
}

fn nearest(name: &str, names: &[&str]) -> String {
    let name = name.to_lowercase();
    let likeness = |other: &str| strsim::jaro_winkler(&name, &other.to_lowercase());
    let best = names.iter().map(|other| (likeness(other), other)).max_by(|a, b| a.0.total_cmp(&b.0));
    match best {
        Some((likeness, other)) if likeness > 0.7 => format!(", did you mean {other:?}?"),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_keys_are_refused() {
        let (stem, text) = FILES[0];
        assert!(Manifest::parse(stem, text).is_ok());
        for (key, broken) in [
            ("colour", format!("colour = 1\n{text}")),
            ("shape", text.replacen("columns =", "shape = 1, columns =", 1)),
            ("rows", text.replacen("read =", "rows = 1, read =", 1)),
        ] {
            let error = format!("{:#}", Manifest::parse(stem, &broken).unwrap_err());
            assert!(error.contains(&format!("unknown field `{key}`")), "{error}");
        }
    }
}
