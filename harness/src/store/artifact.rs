//! Artifacts: results that several cells share, built once and addressed by the hash of what determines them.

use super::provenance::Provenance;
use super::sealed::{self, Checkpoints};
use super::{canonical, files};
use anyhow::{Context as _, Result};
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};

const PROVENANCE: &str = "provenance.json";

/// An artifact that is there, or the right to build it.
#[derive(Debug)]
pub enum Artifact {
    /// Built before.
    Ready(ReadyArtifact),
    /// Not there; no other process can build it until the builder is dropped.
    Missing(ArtifactBuilder),
}

impl Artifact {
    pub(super) fn open(parent: &Path, hash: &str, waiting: impl FnOnce(&Path)) -> Result<Artifact> {
        let dir = parent.join(hash);
        if dir.is_dir() {
            return Ok(Artifact::Ready(ReadyArtifact { dir }));
        }
        files::create_dir(parent)?;
        let lock = files::lock_file(&parent.join(format!(".{hash}.lock")))?;
        let locked = match lock.try_lock() {
            Err(TryLockError::WouldBlock) => {
                waiting(&dir);
                lock.lock()
            }
            Err(TryLockError::Error(error)) => Err(error),
            Ok(()) => Ok(()),
        };
        locked.with_context(|| {
            format!("cannot lock {}: choose a folder on a local disk with --out", dir.display())
        })?;
        if dir.is_dir() {
            return Ok(Artifact::Ready(ReadyArtifact { dir }));
        }
        let work = parent.join(format!(".building-{hash}"));
        files::create_dir(&work)?;
        Ok(Artifact::Missing(ArtifactBuilder {
            checkpoints: Checkpoints::open(work.clone())?,
            dir,
            work,
            _lock: lock,
        }))
    }
}

/// A published artifact.
#[derive(Clone, Debug)]
pub struct ReadyArtifact {
    dir: PathBuf,
}

impl ReadyArtifact {
    /// Its folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Its files (name, content) in byte order of the names, verified; `provenance.json` tells what built it.
    pub fn files(&self) -> Result<Vec<(String, Vec<u8>)>> {
        let way_out = || {
            format!(
                "the artifact {0} cannot be used: delete the folder {0} to build it again",
                self.dir.display()
            )
        };
        sealed::unseal(&self.dir).with_context(way_out)
    }
}

/// An artifact being built, under its lock. Checkpoints survive a killed process.
#[derive(Debug)]
pub struct ArtifactBuilder {
    dir: PathBuf,
    work: PathBuf,
    checkpoints: Checkpoints,
    _lock: File,
}

impl ArtifactBuilder {
    /// Checkpoints of the construction.
    pub fn checkpoints(&self) -> &Checkpoints {
        &self.checkpoints
    }

    /// Publishes the artifact, whole and sealed, with its provenance, and removes the checkpoints.
    pub fn publish(self, mut contents: Vec<(String, Vec<u8>)>) -> Result<ReadyArtifact> {
        let provenance = canonical::pretty_json(&serde_json::to_value(Provenance::current())?);
        contents.push((PROVENANCE.into(), provenance.into_bytes()));
        sealed::seal(&self.dir, &contents)?;
        files::remove_if_there(&self.work)?;
        Ok(ReadyArtifact { dir: self.dir.clone() })
    }
}
