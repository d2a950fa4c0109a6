//! From what is wanted to a commit and a list of files with their checksums.
//!
//! The lock decides where it has an answer. The hub is asked for the rest, the cache where the hub may not be asked.

use super::Shared;
use super::cache::RepoCache;
use super::checksum::Blob;
use super::crew::Watch;
use super::listing::{self, Entry, Listing};
use super::pattern;
use super::pins::{Pins, RepoPin};
use super::repo::{Repo, Wanted, is_commit};
use anyhow::{Context as _, Result, anyhow, ensure};
use std::path::Path;
use std::sync::atomic::Ordering;

/// What is to be in the cache.
#[derive(Debug)]
pub(super) struct Resolved {
    /// The repository as it was asked for.
    pub repo: Repo,
    /// What its revision stands for.
    pub commit: String,
    /// Whether the lock said so.
    pub pinned: bool,
    /// The commit the hub says the revision stands at now, where it was asked.
    pub head: Option<String>,
    /// The caller's word, else the card's, else the lock's.
    pub licence: Option<String>,
    /// The files, in byte order of their paths.
    pub targets: Vec<Target>,
    /// Whether these are known to be all files of the commit that the patterns name.
    pub complete: bool,
    /// What the user should know.
    pub notes: Vec<String>,
}

/// A file and what it must hold.
#[derive(Clone, Debug)]
pub(super) struct Target {
    /// Path within the repository.
    pub path: String,
    /// Size.
    pub bytes: u64,
    /// What the hub calls the content.
    pub blob: Blob,
    /// What the lock pins.
    pub sha256: Option<String>,
}

/// Finds out what `wanted` means. Writes nothing.
pub(super) fn resolve(shared: &Shared, wanted: &Wanted, watch: &Watch) -> Result<Resolved> {
    wanted.check()?;
    let pins = Pins::read(&shared.settings.lock)?;
    let pin = pins.get(&wanted.repo);
    if shared.settings.offline {
        return from_cache(shared, wanted, pin);
    }
    match pin.filter(|_| !shared.settings.update) {
        Some(pin) if pin.covers(&wanted.files) => {
            let mut resolved = from_pin(wanted, pin)?;
            look_at_branch(shared, &mut resolved, watch)?;
            Ok(resolved)
        }
        enforced => from_hub(shared, wanted, enforced, pin, watch),
    }
}

/// What the lock alone says, where it covers the patterns.
pub(super) fn from_pin(wanted: &Wanted, pin: &RepoPin) -> Result<Resolved> {
    let target = |file: &super::pins::FilePin| {
        let (path, bytes, sha256) = (file.path.clone(), file.bytes, Some(file.sha256.clone()));
        Ok(Target { path, bytes, sha256, blob: file.blob()? })
    };
    Ok(Resolved {
        repo: wanted.repo.clone(),
        commit: pin.commit.clone(),
        pinned: true,
        head: None,
        licence: wanted.licence.clone().or_else(|| pin.licence.clone()),
        targets: pin.matching(&wanted.files).map(target).collect::<Result<_>>()?,
        complete: true,
        notes: Vec::new(),
    })
}

/// Asks, once, whether the branch has moved. That nobody answers is no error: nothing depends on it.
fn look_at_branch(shared: &Shared, resolved: &mut Resolved, watch: &Watch) -> Result<()> {
    if is_commit(&resolved.repo.revision) || shared.unreachable.load(Ordering::Relaxed) {
        return Ok(());
    }
    match listing::ask(&shared.client, &resolved.repo, &mut shared.client.impatience(watch)) {
        Ok(listing) => {
            resolved.notes.extend(moved(&resolved.repo, &resolved.commit, &listing.commit));
            resolved.head = Some(listing.commit);
        }
        Err(error) => {
            watch.check()?;
            shared.unreachable.store(true, Ordering::Relaxed);
            resolved.notes.push(format!("going by the lock alone, for the hub does not answer: {error:#}"));
        }
    }
    Ok(())
}

fn moved(repo: &Repo, pinned: &str, head: &str) -> Option<String> {
    (pinned != head).then(|| {
        format!(
            "{repo} has moved: the lock pins {pinned}, the hub is at {head}; the pinned commit is used \
             (`harness fetch --update` takes the new one)"
        )
    })
}

/// What the hub says, at the commit that `enforced` pins. `pin` is what the lock says even if not enforced.
fn from_hub(
    shared: &Shared,
    wanted: &Wanted,
    enforced: Option<&RepoPin>,
    pin: Option<&RepoPin>,
    watch: &Watch,
) -> Result<Resolved> {
    let repo = &wanted.repo;
    let ask = |repo: &Repo| listing::ask(&shared.client, repo, &mut shared.client.patience(watch));
    let head = ask(repo)?;
    let head_commit = head.commit.clone();
    let commit = enforced.map_or(&head_commit, |pin| &pin.commit).clone();
    let listing = if commit == head.commit {
        head
    } else {
        ask(&repo.at(&commit)).context(
            "the commit that the lock pins cannot be listed; `harness fetch --update` takes the present one",
        )?
    };
    ensure!(
        listing.commit == commit && (!is_commit(&repo.revision) || repo.revision == commit),
        "{repo}: the hub answers with another commit, {}",
        listing.commit
    );
    let pin = pin.filter(|pin| pin.commit == commit);
    Ok(Resolved {
        notes: moved(repo, &commit, &head_commit).into_iter().collect(),
        targets: targets(wanted, &listing, pin)?,
        licence: wanted.licence.clone().or(listing.licence),
        pinned: enforced.is_some(),
        head: Some(head_commit),
        complete: true,
        repo: repo.clone(),
        commit,
    })
}

/// The wanted files of a listing, which must not contradict the lock.
fn targets(wanted: &Wanted, listing: &Listing, pin: Option<&RepoPin>) -> Result<Vec<Target>> {
    let files = pattern::select(
        &wanted.files,
        listing.files.clone(),
        |entry: &Entry| &entry.path,
        &format!("{} ({})", wanted.repo, listing.commit),
    )?;
    let target = |entry: Entry| {
        let Entry { path, bytes, blob } = entry;
        let pinned = pin.and_then(|pin| pin.file(&path));
        if let Some(pinned) = pinned {
            ensure!(
                pinned.bytes == bytes && pinned.blob()? == blob,
                "{}: {path}: the lock pins {} bytes of {}, and the hub announces {bytes} bytes of {blob} for the \
                 same commit: find out which is right; restore the lock, or remove this file from it",
                wanted.repo,
                pinned.bytes,
                pinned.blob()?
            );
        }
        Ok(Target { sha256: pinned.map(|pinned| pinned.sha256.clone()), path, bytes, blob })
    };
    files.into_iter().map(target).collect()
}

/// What lock and cache say, where the hub may not be asked.
fn from_cache(shared: &Shared, wanted: &Wanted, pin: Option<&RepoPin>) -> Result<Resolved> {
    let repo = &wanted.repo;
    if let Some(pin) = pin.filter(|pin| pin.covers(&wanted.files)) {
        return from_pin(wanted, pin);
    }
    let root = &shared.settings.cache_dir;
    let cache = RepoCache::new(root, repo);
    let by_itself = || is_commit(&repo.revision).then(|| repo.revision.clone());
    let commit = pin.map(|pin| pin.commit.clone()).or_else(by_itself).or_else(|| cache.read_ref());
    let commit = commit.ok_or_else(|| missing(repo, "the repository", root))?;
    let paths = cache.snapshot_paths(&commit)?;
    let of = format!("{repo} ({commit}) in the cache");
    let paths = pattern::select(&wanted.files, paths, |path: &String| path, &of)
        .map_err(|error| error.context(missing(repo, "a wanted file", root)))?;
    let target = |path: String| {
        if let Some(file) = pin.and_then(|pin| pin.file(&path)) {
            let sha256 = Some(file.sha256.clone());
            return Ok(Target { path, bytes: file.bytes, blob: file.blob()?, sha256 });
        }
        let file = cache.snapshot_file(&commit, &path);
        let blob = cache.linked_blob(&file).zip(file.metadata().ok());
        let (blob, metadata) = blob.ok_or_else(|| {
            anyhow!(
                "{} is no link to a blob, so it cannot be checked offline: fetch online once",
                file.display()
            )
        })?;
        Ok(Target { path, bytes: metadata.len(), blob, sha256: None })
    };
    Ok(Resolved {
        targets: paths.into_iter().map(target).collect::<Result<_>>()?,
        repo: repo.clone(),
        pinned: pin.is_some(),
        head: None,
        licence: wanted.licence.clone().or_else(|| pin?.licence.clone()),
        complete: false,
        notes: vec![format!("{repo}: offline, so whether the cache holds every wanted file is not known")],
        commit,
    })
}

/// The error of everything that is not in the cache where the hub may not be asked.
pub(super) fn missing(repo: &Repo, what: &str, cache: &Path) -> anyhow::Error {
    anyhow!(
        "{repo}: {what} is missing from the cache {}, and the hub may not be asked (HF_HUB_OFFLINE): run `harness fetch` \
         without it, or on another machine with the same HF_HOME",
        cache.display()
    )
}
