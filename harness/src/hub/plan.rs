//! What a fetch would do, and whether what was fetched is still what it was.

use super::Shared;
use super::cache::{RepoCache, free_bytes};
use super::checksum;
use super::crew::{self, Watch};
use super::pins::{FilePin, Pins, RepoPin};
use super::repo::{Repo, Wanted};
use super::resolve::{Resolved, Target, resolve};
use super::settings::Settings;
use crate::progress::Progress;
use anyhow::{Result, ensure};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What a fetch would do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FetchPlan {
    /// All wanted files, repository by repository as they were asked for, then in byte order of their paths.
    pub files: Vec<PlannedFile>,
    /// Bytes to download: without what is cached or half there, and each content once.
    pub needed_bytes: u64,
    /// Free disk space at the cache.
    pub free_bytes: u64,
    /// Where the files go.
    pub cache_dir: PathBuf,
    /// The licence of each repository; `None` where neither caller nor card nor lock name one.
    pub licences: Vec<(Repo, Option<String>)>,
    /// What else the user should know, such as a branch that moved.
    pub notes: Vec<String>,
}

/// One file of a plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedFile {
    /// The repository as it was asked for.
    pub repo: Repo,
    /// What its revision stands for.
    pub commit: String,
    /// Path within the repository.
    pub path: String,
    /// Size.
    pub bytes: u64,
    /// Whether the cache holds it, going by its size.
    pub cached: bool,
    /// Bytes of a half file to go on from.
    pub part_bytes: u64,
    /// `sha256:..` for large files, `git:..` for plain ones.
    pub checksum: String,
}

/// A pinned file and the condition it is in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checked {
    /// The repository as it was asked for.
    pub repo: Repo,
    /// Where the file is, or should be.
    pub file: PathBuf,
    /// How it is.
    pub condition: Condition,
}

/// How a pinned file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// It holds what the lock pins.
    Good,
    /// It is not in the cache; `harness fetch` gets it.
    Missing,
    /// It holds something else; `harness fetch` replaces it.
    Damaged,
}

/// See [`super::Hub::plan`].
pub(super) fn plan(shared: &Shared, wanted: &[Wanted]) -> Result<FetchPlan> {
    let cache_dir = shared.settings.cache_dir.clone();
    let mut plan = FetchPlan {
        files: Vec::new(),
        needed_bytes: 0,
        free_bytes: free_bytes(&cache_dir)?,
        cache_dir,
        licences: Vec::new(),
        notes: Vec::new(),
    };
    for wanted in wanted {
        let resolved = resolve(shared, wanted, &Watch::idle())?;
        plan.files.extend(survey(&shared.settings, &resolved));
        plan.licences.push((resolved.repo, resolved.licence));
        plan.notes.extend(resolved.notes);
    }
    plan.needed_bytes = needed_bytes(&plan.files);
    Ok(plan)
}

/// Compares what is resolved with what the cache holds.
pub(super) fn survey(settings: &Settings, resolved: &Resolved) -> Vec<PlannedFile> {
    let Resolved { repo, commit, .. } = resolved;
    let cache = RepoCache::new(&settings.cache_dir, repo);
    let length = |path: &Path| path.metadata().ok().filter(|found| found.is_file()).map(|found| found.len());
    let planned = |target: &Target| {
        let file = cache.snapshot_file(commit, &target.path);
        let part = length(&cache.part(&target.blob)).filter(|length| *length <= target.bytes);
        PlannedFile {
            repo: repo.clone(),
            commit: commit.clone(),
            path: target.path.clone(),
            bytes: target.bytes,
            cached: [file, cache.blob(&target.blob)].iter().any(|path| length(path) == Some(target.bytes)),
            part_bytes: part.unwrap_or(0),
            checksum: target.blob.to_string(),
        }
    };
    resolved.targets.iter().map(planned).collect()
}

/// Bytes to download, each content of a repository once.
fn needed_bytes(files: &[PlannedFile]) -> u64 {
    let missing = files.iter().filter(|file| !file.cached);
    let key = |file: &PlannedFile| (file.repo.kind, file.repo.id.clone(), file.checksum.clone());
    let contents: BTreeMap<_, u64> = missing.map(|file| (key(file), file.bytes - file.part_bytes)).collect();
    contents.values().fold(0, |sum, bytes| sum.saturating_add(*bytes))
}

/// Fails where the missing files do not fit on the disk.
pub(super) fn check_disk(settings: &Settings, files: &[PlannedFile]) -> Result<()> {
    let needed = needed_bytes(files);
    if needed > 0 {
        let free = free_bytes(&settings.cache_dir)?;
        ensure!(
            needed <= free,
            "{needed} bytes are missing and {free} are free at {}: free some, or set HF_HOME to a folder on a \
             larger disk",
            settings.cache_dir.display()
        );
    }
    Ok(())
}

/// See [`super::Hub::verify`].
pub(super) fn verify(shared: &Arc<Shared>, progress: &dyn Progress) -> Result<Vec<Checked>> {
    let pins = Pins::read(&shared.settings.lock)?;
    let pairs = |pin: &RepoPin| -> Vec<(Repo, String, FilePin)> {
        pin.files.iter().map(|file| (pin.repo(), pin.commit.clone(), file.clone())).collect()
    };
    let files: Vec<_> = pins.all().iter().flat_map(pairs).collect();
    let count = files.len() as u64;
    let root = shared.settings.cache_dir.clone();
    let job = move |(repo, commit, pin): &(Repo, String, FilePin), watch: &Watch| {
        let file = RepoCache::new(&root, repo).snapshot_file(commit, &pin.path);
        let condition = condition(&file, pin, watch)?;
        watch.at(1);
        Ok(Checked { repo: repo.clone(), file, condition })
    };
    progress.begin("verify (files)", 0, count);
    let show = |done: &[u64]| progress.advance(done.iter().sum(), "");
    let checked = crew::run(files, shared.settings.workers, progress, &show, job);
    progress.end();
    checked
}

fn condition(path: &Path, pin: &FilePin, watch: &Watch) -> Result<Condition> {
    if !path.is_file() {
        return Ok(Condition::Missing);
    }
    let content = checksum::read(path, &pin.blob()?, watch, |_| ())?;
    let good = content.blob == pin.blob()? && content.sha256 == pin.sha256 && content.bytes == pin.bytes;
    Ok(if good { Condition::Good } else { Condition::Damaged })
}
