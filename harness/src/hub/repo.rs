//! Names: a repository at a revision, and what is wanted of it.

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};
use std::fmt;

/// What the hub keeps in a repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RepoKind {
    /// Questions and pictures.
    Dataset,
    /// A checkpoint.
    Model,
}

/// A repository at a branch, a tag or a commit.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Repo {
    /// Dataset or model.
    pub kind: RepoKind,
    /// `owner/name`.
    pub id: String,
    /// Branch, tag or commit: what is asked for, not what it is pinned to.
    pub revision: String,
}

impl Repo {
    /// A dataset, such as `("MathLLMs/MathVision", "main")`.
    pub fn dataset(id: impl Into<String>, revision: impl Into<String>) -> Repo {
        Repo { kind: RepoKind::Dataset, id: id.into(), revision: revision.into() }
    }

    /// A model, such as `("Qwen/Qwen2.5-VL-7B-Instruct", "main")`.
    pub fn model(id: impl Into<String>, revision: impl Into<String>) -> Repo {
        Repo { kind: RepoKind::Model, id: id.into(), revision: revision.into() }
    }

    /// The same repository at a commit.
    pub(super) fn at(&self, commit: &str) -> Repo {
        Repo { revision: commit.to_owned(), ..self.clone() }
    }

    /// The same as hf-hub names it.
    pub(super) fn hf(&self) -> hf_hub::Repo {
        let kind = match self.kind {
            RepoKind::Dataset => hf_hub::RepoType::Dataset,
            RepoKind::Model => hf_hub::RepoType::Model,
        };
        hf_hub::Repo::with_revision(self.id.clone(), kind, self.revision.clone())
    }

    /// Refuses names that would leave the cache folder or change an address.
    pub(super) fn check(&self) -> Result<()> {
        let parts: Vec<&str> = self.id.split('/').collect();
        ensure!(
            parts.len() <= 2 && parts.iter().all(|part| is_plain(part)),
            "`{}` is no repository of the hub: write owner/name",
            self.id
        );
        ensure!(
            self.revision.split('/').all(is_plain),
            "`{}` is no revision of {}: write a branch, a tag or a commit",
            self.revision,
            self.id
        );
        Ok(())
    }
}

impl fmt::Display for Repo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            RepoKind::Dataset => "dataset",
            RepoKind::Model => "model",
        };
        write!(f, "{kind} {} at {}", self.id, self.revision)
    }
}

/// Which files of which repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The repository.
    pub repo: Repo,
    /// Paths within it; `*` stands for any characters, `/` among them. Every pattern must match a file.
    pub files: Vec<String>,
    /// The licence where the caller knows it better than the hub's card.
    pub licence: Option<String>,
}

impl Wanted {
    pub(super) fn check(&self) -> Result<()> {
        self.repo.check()?;
        ensure!(!self.files.is_empty(), "{}: no files are asked for: name some, or `*` for all", self.repo);
        Ok(())
    }
}

/// One component of a path that is a visible name on every system and needs no escapes in an address.
fn is_plain(part: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
    !part.is_empty() && !part.starts_with('.') && part.chars().all(plain)
}

/// Whether this is a full commit id: 40 lower-case hexadecimal digits.
pub(super) fn is_commit(text: &str) -> bool {
    text.len() == 40 && text.chars().all(|c| matches!(c, '0'..='9' | 'a'..='f'))
}

/// Refuses a path within a repository that would not stay within its snapshot.
pub(super) fn check_path(path: &str) -> Result<()> {
    let harmless = |part: &str| !matches!(part, "" | "." | "..");
    ensure!(
        path.split('/').all(harmless) && !path.contains(['\\', ':']) && !path.contains(char::is_control),
        "{path:?} is no path within a repository"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_leave_the_cache_are_refused() {
        for id in ["owner/name", "gpt2", "Qwen/Qwen2.5-VL-7B-Instruct", "a_b/c-d"] {
            Repo::model(id, "main").check().unwrap();
        }
        for id in ["", "a/b/c", "../x", "a/..", "/a", "a/", "a/b?c", "a b/c", ".hidden/x"] {
            assert!(Repo::model(id, "main").check().is_err(), "{id}");
        }
        for revision in ["main", "v1.0", "refs/convert/parquet"] {
            Repo::dataset("a/b", revision).check().unwrap();
        }
        for revision in ["", "..", "a/../b", "/main", "main?x", "a b"] {
            assert!(Repo::dataset("a/b", revision).check().is_err(), "{revision}");
        }
    }

    #[test]
    fn paths_stay_within_the_snapshot() {
        for path in ["a", "data/train-00000 of 1.parquet", "ünï.json", ".gitattributes"] {
            check_path(path).unwrap();
        }
        for path in ["", "/etc/passwd", "../a", "a/../b", "a//b", "a/", "a\\b", "c:a", "a\nb"] {
            assert!(check_path(path).is_err(), "{path:?}");
        }
    }

    #[test]
    fn a_commit_is_forty_digits() {
        assert!(is_commit(&"0a".repeat(20)));
        assert!(!is_commit(&"0A".repeat(20)) && !is_commit("main") && !is_commit(&"0".repeat(41)));
    }
}
