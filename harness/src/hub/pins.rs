//! The lock file: which commit a revision stands for, and what each file holds.
//!
//! Text that is meant to be read, compared and committed: sorted, one block per repository and per file. It is
//! replaced whole, under an advisory lock on a hidden file beside it, so that two fetches do not lose each other's
//! pins.

use super::checksum::Blob;
use super::pattern;
use super::repo::{Repo, RepoKind, check_path, is_commit};
use crate::store::write_file;
use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};
use std::fs::{self, OpenOptions};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

const VERSION: u32 = 1;
const HEADER: &str = "\
# Written by `harness fetch`: the commit that each revision was resolved to, and what each file must hold.
# `harness fetch --update` resolves the revisions again.
";

/// All pins of a lock file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Pins {
    version: u32,
    #[serde(default, rename = "repo", skip_serializing_if = "Vec::is_empty")]
    repos: Vec<RepoPin>,
}

/// What is pinned of one repository at one requested revision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RepoPin {
    kind: RepoKind,
    id: String,
    revision: String,
    /// What the revision stands for.
    pub commit: String,
    /// As the card named it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub licence: Option<String>,
    /// The patterns of which every file is pinned below.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub patterns: Vec<String>,
    /// The pinned files, in byte order of their paths.
    #[serde(default, rename = "file", skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<FilePin>,
}

/// What a file must hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FilePin {
    /// Path within the repository.
    pub path: String,
    /// Size.
    pub bytes: u64,
    /// SHA-256 of the content.
    pub sha256: String,
    /// The checksum by which the hub names a plain file; large ones are named by their SHA-256.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub git: Option<String>,
}

impl Default for Pins {
    fn default() -> Self {
        Pins { version: VERSION, repos: Vec::new() }
    }
}

impl RepoPin {
    /// A pin of the commit alone.
    pub fn new(repo: &Repo, commit: &str) -> RepoPin {
        RepoPin {
            kind: repo.kind,
            id: repo.id.clone(),
            revision: repo.revision.clone(),
            commit: commit.to_owned(),
            licence: None,
            patterns: Vec::new(),
            files: Vec::new(),
        }
    }

    /// Pins another commit, and nothing of it yet.
    pub fn renew(&mut self, commit: &str) {
        *self = RepoPin::new(&self.repo(), commit);
    }

    /// The repository as it was asked for.
    pub fn repo(&self) -> Repo {
        Repo { kind: self.kind, id: self.id.clone(), revision: self.revision.clone() }
    }

    /// Whether every file that these patterns name is pinned.
    pub fn covers(&self, patterns: &[String]) -> bool {
        patterns.iter().all(|pattern| self.patterns.contains(pattern))
    }

    /// The pin of a file.
    pub fn file(&self, path: &str) -> Option<&FilePin> {
        self.files.iter().find(|file| file.path == path)
    }

    /// The files that some pattern names.
    pub fn matching(&self, patterns: &[String]) -> impl Iterator<Item = &FilePin> {
        self.files.iter().filter(|file| patterns.iter().any(|pattern| pattern::matches(pattern, &file.path)))
    }

    /// Adds pins and patterns. Fails if a file is pinned to another content already.
    pub fn add(&mut self, files: &[FilePin], patterns: &[String]) -> Result<()> {
        for file in files {
            match self.file(&file.path) {
                None => self.files.push(file.clone()),
                Some(pinned) => ensure!(
                    pinned == file,
                    "{}: the lock pins {} to sha256:{}, and another fetch found sha256:{}; fetch again",
                    self.repo(),
                    file.path,
                    pinned.sha256,
                    file.sha256
                ),
            }
        }
        self.patterns.extend(patterns.iter().cloned());
        self.patterns.sort();
        self.patterns.dedup();
        self.files.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(())
    }

    /// Whether there is nothing to add.
    pub fn holds(&self, commit: &str, files: &[FilePin], patterns: &[String]) -> bool {
        self.commit == commit && self.covers(patterns) && files.iter().all(|file| self.files.contains(file))
    }

    fn check(&self) -> Result<()> {
        self.repo().check()?;
        ensure!(is_commit(&self.commit), "`{}` is no commit", self.commit);
        for file in &self.files {
            check_path(&file.path)?;
            file.blob().with_context(|| file.path.clone())?;
            ensure!(file.sha256.len() == 64, "{}: `{}` is no SHA-256", file.path, file.sha256);
        }
        Ok(())
    }
}

impl FilePin {
    /// The name of the content on the hub.
    pub fn blob(&self) -> Result<Blob> {
        Blob::parse(self.git.as_ref().unwrap_or(&self.sha256))
    }
}

impl Pins {
    /// Reads a lock file; no file is an empty one. Fails, naming the file, on text that is no lock file.
    pub fn read(path: &Path) -> Result<Pins> {
        let way_out = || {
            format!(
                "{} is no lock file: restore it, or delete it to resolve everything again",
                path.display()
            )
        };
        let text = match fs::read_to_string(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Pins::default()),
            text => text.with_context(|| format!("cannot read {}", path.display()))?,
        };
        let pins: Pins = toml::from_str(&text).with_context(way_out)?;
        ensure!(pins.version == VERSION, "{} has version {}, not {VERSION}", path.display(), pins.version);
        pins.repos
            .iter()
            .try_for_each(|repo| repo.check().with_context(|| repo.repo().to_string()))
            .with_context(way_out)?;
        Ok(pins)
    }

    /// Changes a lock file: reads it, applies `change`, writes it whole if it differs. Other processes wait.
    pub fn update<T>(path: &Path, change: impl FnOnce(&mut Pins) -> Result<T>) -> Result<T> {
        let cannot = || format!("cannot write the lock file {}: make its folder writable", path.display());
        let folder = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        fs::create_dir_all(folder).with_context(cannot)?;
        let mut options = OpenOptions::new();
        let guard =
            options.create(true).truncate(false).write(true).open(guard_path(path)).with_context(cannot)?;
        guard.lock().with_context(cannot)?;
        let before = Pins::read(path)?;
        let mut pins = before.clone();
        let result = change(&mut pins)?;
        if pins != before {
            pins.repos.sort_by_key(RepoPin::repo);
            let text = format!("{HEADER}{}", toml::to_string(&pins)?);
            write_file(path, text.as_bytes()).with_context(cannot)?;
        }
        Ok(result)
    }

    /// The pins of a repository.
    pub fn get(&self, repo: &Repo) -> Option<&RepoPin> {
        self.repos.iter().find(|pin| pin.repo() == *repo)
    }

    /// All repositories, sorted.
    pub fn all(&self) -> &[RepoPin] {
        &self.repos
    }

    /// The pins of a repository, which are new if there are none.
    pub fn entry(&mut self, repo: &Repo, commit: &str) -> &mut RepoPin {
        let index = self.repos.iter().position(|pin| pin.repo() == *repo).unwrap_or_else(|| {
            self.repos.push(RepoPin::new(repo, commit));
            self.repos.len() - 1
        });
        &mut self.repos[index]
    }
}

/// `dir/hub.lock` -> `dir/.hub.lock.guard`.
fn guard_path(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.guard"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pin(path: &str, digit: &str) -> FilePin {
        FilePin { path: path.into(), bytes: 3, sha256: digit.repeat(64), git: None }
    }

    fn lock() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("hub.lock");
        (dir, path)
    }

    #[test]
    fn the_file_is_sorted_and_read_back() {
        let (_dir, path) = lock();
        let commit = "c".repeat(40);
        Pins::update(&path, |pins| {
            pins.entry(&Repo::model("b/m", "main"), &commit)
                .add(&[pin("z", "1"), pin("a", "2")], &["*".into()])?;
            pins.entry(&Repo::dataset("b/d", "main"), &commit).add(&[], &[])
        })
        .unwrap();
        let text = fs::read_to_string(&path).unwrap();
        let at = |part: &str| text.find(part).unwrap_or_else(|| panic!("{part} is not in {text}"));
        assert!(text.starts_with(HEADER) && at("b/d") < at("b/m") && at("path = \"a\"") < at("path = \"z\""));
        let pins = Pins::read(&path).unwrap();
        let model = pins.get(&Repo::model("b/m", "main")).unwrap();
        assert_eq!(
            (model.files.len(), model.covers(&["*".into()]), model.covers(&["a".into()])),
            (2, true, false)
        );
        assert!(pins.get(&Repo::model("b/m", "v2")).is_none());
    }

    #[test]
    fn another_content_is_refused() {
        let mut repo = RepoPin::new(&Repo::model("b/m", "main"), &"c".repeat(40));
        repo.add(&[pin("a", "1")], &[]).unwrap();
        repo.add(&[pin("a", "1")], &[]).unwrap();
        assert!(repo.add(&[pin("a", "2")], &[]).unwrap_err().to_string().contains("the lock pins a"));
    }

    #[test]
    fn what_is_no_lock_file_is_refused_by_name() {
        let (_dir, path) = lock();
        let repo = "[[repo]]\nkind = \"model\"\nid = \"a/b\"\nrevision = \"main\"\n";
        for text in [
            "version = 1\nextra = 2\n".to_owned(),
            "version = 2\n".to_owned(),
            format!("version = 1\n{repo}commit = \"main\"\n"),
            format!(
                "version = 1\n{repo}commit = \"{}\"\n[[repo.file]]\npath = \"../x\"\nbytes = 1\nsha256 = \"{}\"\n",
                "c".repeat(40),
                "1".repeat(64)
            ),
        ] {
            fs::write(&path, &text).unwrap();
            let error = format!("{:#}", Pins::read(&path).unwrap_err());
            assert!(error.contains("hub.lock"), "{text}: {error}");
        }
    }
}
