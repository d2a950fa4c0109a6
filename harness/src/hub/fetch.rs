//! Wanted files into the cache, checked and pinned.

use super::Shared;
use super::cache::{RepoCache, cannot_write};
use super::checksum::{self, Content};
use super::client::Failure;
use super::crew::{self, Watch};
use super::pins::{FilePin, Pins};
use super::plan;
use super::repo::{Repo, Wanted, is_commit};
use super::resolve::{Resolved, Target, from_pin, missing, resolve};
use super::transfer;
use crate::progress::Progress;
use anyhow::{Context as _, Result, anyhow, ensure};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Files that are in the cache, whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetched {
    /// The repository as it was asked for.
    pub repo: Repo,
    /// The commit that its revision is pinned to.
    pub commit: String,
    /// The licence, where caller, card or lock name one.
    pub licence: Option<String>,
    /// (path within the repository, path of the file), in byte order of the former.
    pub files: Vec<(String, PathBuf)>,
}

/// See [`super::Hub::fetch`].
pub(super) fn fetch(shared: &Arc<Shared>, wanted: &Wanted, progress: &dyn Progress) -> Result<Fetched> {
    let resolved = resolve_and_pin(shared, wanted, progress)?;
    resolved.notes.iter().for_each(|note| progress.note(note));
    plan::check_disk(&shared.settings, &plan::survey(&shared.settings, &resolved))?;
    let found = ensure_all(shared, &resolved, progress)?;
    record(shared, wanted, &resolved, &found)?;
    remember_branch(shared, &resolved)?;
    Ok(fetched(shared, resolved))
}

/// See [`super::Hub::find`].
pub(super) fn find(shared: &Shared, wanted: &Wanted) -> Result<Fetched> {
    wanted.check()?;
    let pins = Pins::read(&shared.settings.lock)?;
    let pin = pins.get(&wanted.repo).filter(|pin| pin.covers(&wanted.files)).ok_or_else(|| {
        let lock = shared.settings.lock.display();
        anyhow!("{} is not pinned in {lock}: run `harness fetch`", wanted.repo)
    })?;
    let resolved = from_pin(wanted, pin)?;
    let cache = RepoCache::new(&shared.settings.cache_dir, &wanted.repo);
    for target in &resolved.targets {
        let file = cache.snapshot_file(&resolved.commit, &target.path);
        let there = file.metadata().is_ok_and(|found| found.is_file() && found.len() == target.bytes);
        ensure!(there, "{}: {} is missing: run `harness fetch`", wanted.repo, file.display());
    }
    Ok(fetched(shared, resolved))
}

fn fetched(shared: &Shared, resolved: Resolved) -> Fetched {
    let Resolved { repo, commit, licence, targets, .. } = resolved;
    let cache = RepoCache::new(&shared.settings.cache_dir, &repo);
    let located = |target: Target| {
        let file = cache.snapshot_file(&commit, &target.path);
        (target.path, file)
    };
    let files = targets.into_iter().map(located).collect();
    Fetched { repo, licence, files, commit }
}

/// Resolves, and pins a commit that is new to the lock before anything is downloaded: two fetches that start
/// together, and one that is killed and started again, go for the same commit.
fn resolve_and_pin(shared: &Arc<Shared>, wanted: &Wanted, progress: &dyn Progress) -> Result<Resolved> {
    loop {
        let this = shared.clone();
        let job = move |wanted: &Wanted, watch: &Watch| resolve(&this, wanted, watch);
        let resolved = crew::run(vec![wanted.clone()], 1, progress, &|_| (), job)?.pop();
        let resolved = resolved.context("nothing was resolved")?;
        if resolved.pinned || shared.settings.update {
            return Ok(resolved);
        }
        let commit = Pins::update(&shared.settings.lock, |pins| {
            Ok(pins.entry(&wanted.repo, &resolved.commit).commit.clone())
        })?;
        if commit == resolved.commit {
            return Ok(resolved);
        }
    }
}

/// Brings all files into the cache, several at a time.
fn ensure_all(shared: &Arc<Shared>, resolved: &Resolved, progress: &dyn Progress) -> Result<Vec<FilePin>> {
    let sizes: Vec<u64> = resolved.targets.iter().map(|target| target.bytes).collect();
    progress.begin(&format!("fetch {} (MB)", resolved.repo.id), 0, megabytes(sizes.iter().sum()));
    let show = |positions: &[u64]| {
        let whole = positions.iter().zip(&sizes).filter(|(at, size)| at == size).count();
        progress.advance(megabytes(positions.iter().sum()), &format!("{whole} of {} files", sizes.len()));
    };
    let seat = Seat {
        cache: RepoCache::new(&shared.settings.cache_dir, &resolved.repo),
        at_commit: resolved.repo.at(&resolved.commit),
        shared: shared.clone(),
    };
    let job = move |target: &Target, watch: &Watch| seat.ensure(target, watch);
    let found = crew::run(resolved.targets.clone(), shared.settings.workers, progress, &show, job);
    progress.end();
    found
}

/// 10^6 bytes, rounded up.
fn megabytes(bytes: u64) -> u64 {
    bytes.div_ceil(1_000_000)
}

/// What a thread needs to bring a file of one commit into the cache.
struct Seat {
    shared: Arc<Shared>,
    cache: RepoCache,
    at_commit: Repo,
}

impl Seat {
    /// Makes the file be in the snapshot with the right content.
    fn ensure(&self, target: &Target, watch: &Watch) -> Result<FilePin> {
        let commit = &self.at_commit.revision;
        let file = self.cache.snapshot_file(commit, &target.path);
        if let Some(pin) = self.good(&file, target, watch)? {
            return Ok(pin);
        }
        let _lock = self.cache.lock(&target.blob, watch)?;
        let pin = match self.good(&self.cache.blob(&target.blob), target, watch)? {
            Some(pin) => pin,
            None => self.download(target, watch)?,
        };
        self.cache.link(&target.blob, commit, &target.path)?;
        Ok(pin)
    }

    /// The pin of a file that is there and holds what it must; `None` where it is missing or damaged.
    fn good(&self, path: &Path, target: &Target, watch: &Watch) -> Result<Option<FilePin>> {
        if !path.is_file() {
            return Ok(None);
        }
        let content = checksum::read(path, &target.blob, watch, |at| watch.at(at))?;
        if content.blob == target.blob {
            return self.pin(target, &content).map(Some);
        }
        watch.note(format!("{} is damaged: it holds {}, not {}", path.display(), content.blob, target.blob));
        Ok(None)
    }

    /// Downloads into the half file, checks it, and makes it a blob. The caller holds the lock.
    fn download(&self, target: &Target, watch: &Watch) -> Result<FilePin> {
        let settings = &self.shared.settings;
        if settings.offline {
            return Err(missing(&self.at_commit, &target.path, &settings.cache_dir));
        }
        let client = &self.shared.client;
        let request = client.file(&self.at_commit, &target.path);
        let part = self.cache.part(&target.blob);
        let mut patience = client.patience(watch);
        let mut downloads = 0;
        loop {
            transfer::complete(client, &request, &part, target.bytes, &mut patience, watch)?;
            let content = checksum::read(&part, &target.blob, watch, |_| ())?;
            let checked = self.pin(target, &content);
            if let Ok(pin) = checked {
                self.cache.publish(&target.blob)?;
                return Ok(pin);
            }
            fs::remove_file(&part).with_context(|| cannot_write(&part))?;
            watch.at(0);
            downloads += 1;
            match checked {
                // Once may be the network or an old half file; twice is the server.
                Err(wrong) if downloads > 1 => return Err(wrong.context(request.error("wrong content"))),
                _ => patience.wait_after(&request, Failure::Passing("wrong checksum".to_owned(), None))?,
            }
        }
    }

    /// The pin that a content deserves. Fails if it is not what the hub announced or the lock pins.
    fn pin(&self, target: &Target, content: &Content) -> Result<FilePin> {
        let Target { path, bytes, blob, sha256 } = target;
        let who = if sha256.is_some() { "the lock pins" } else { "the hub announces" };
        ensure!(
            content.blob == *blob && content.bytes == *bytes,
            "{}: {path}: {who} {bytes} bytes of {blob}, and there are {} bytes of {}: try again later, and compare \
             with the file's page on the hub",
            self.at_commit,
            content.bytes,
            content.blob
        );
        if let Some(pinned) = sha256 {
            ensure!(
                *pinned == content.sha256,
                "{}: {path}: the lock pins sha256:{pinned}, and the hub's content is sha256:{}: find out which is \
                 right; restore the lock, or remove this file from it",
                self.at_commit,
                content.sha256
            );
        }
        let git = matches!(blob, checksum::Blob::Git(_)).then(|| blob.name().to_owned());
        Ok(FilePin { path: path.clone(), bytes: *bytes, sha256: content.sha256.clone(), git })
    }
}

/// Writes what was found into the lock; leaves a lock alone that says all of it.
fn record(shared: &Shared, wanted: &Wanted, resolved: &Resolved, found: &[FilePin]) -> Result<()> {
    let Resolved { repo, commit, .. } = resolved;
    let patterns = if resolved.complete { wanted.files.as_slice() } else { &[] };
    let lock = &shared.settings.lock;
    if Pins::read(lock)?.get(repo).is_some_and(|pin| pin.holds(commit, found, patterns)) {
        return Ok(());
    }
    Pins::update(lock, |pins| {
        let pin = pins.entry(repo, commit);
        if pin.commit != *commit {
            ensure!(
                shared.settings.update,
                "{repo}: {} was changed from {commit} to {} meanwhile: fetch again",
                lock.display(),
                pin.commit
            );
            pin.renew(commit);
        }
        pin.licence = resolved.licence.clone().or(pin.licence.take());
        pin.add(found, patterns)
    })
}

/// Tells other clients of the cache where the branch stands: what the hub said, or what is pinned where nothing
/// was known.
fn remember_branch(shared: &Shared, resolved: &Resolved) -> Result<()> {
    let Resolved { repo, commit, head, .. } = resolved;
    let cache = RepoCache::new(&shared.settings.cache_dir, repo);
    let known = cache.read_ref();
    let due = known.is_none() || head.as_ref() == Some(commit);
    if !is_commit(&repo.revision) && due && known.as_ref() != Some(commit) {
        cache.write_ref(commit)?;
    }
    Ok(())
}
