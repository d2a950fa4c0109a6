//! The run store: everything a run leaves on disk, and nothing about what it means.
//!
//! ```text
//! runs/<scale>/<study>/<variant>/seed-<n>/    a cell
//!     config.json        the complete resolved configuration, keys sorted
//!     provenance.json    what wrote the cell: one entry per distinct build or machine
//!     metrics.jsonl      one line per step, deterministic figures only
//!     timing.jsonl       one line per step, wall-clock figures, kept apart from the above
//!     tensorboard/       the same figures as an event file, where asked for (--tensorboard)
//!     samples.jsonl      one line per evaluated completion (`samples.partial.jsonl` until all are there)
//!     rollouts/step-<n>.jsonl   training responses of a step, token by token
//!     spotlight/<n>.jsonl       the first items of the n-th benchmark, token by token, with their pictures
//!     checkpoints/step-<n>/     sealed folders, the newest two
//!     done.json          there once the cell is complete; holds the hash of samples.jsonl
//! runs/artifacts/<kind>/<hash>/   sealed folders addressed by what determines their content
//! ```
//!
//! Files appear under their final name whole or not at all (temporary name, fsync, rename), so a process may be
//! killed at any moment. What a crash can leave behind is a torn last line, which is dropped; any other damage
//! is an error that names the file and the way out. Nothing is repaired or skipped silently.
//!
//! The store does not know algorithms, models or tensors: configurations are JSON values, checkpoints are named
//! byte strings. One process owns a cell at a time (an advisory file lock); reports read without the lock.
//!
//! Source: design.md's level 2 in the crate documentation; no reference code has a counterpart.

mod artifact;
mod canonical;
mod cell;
mod events;
mod files;
mod line_writer;
mod machine;
mod provenance;
mod samples;
mod sealed;

pub use artifact::{Artifact, ArtifactBuilder, ReadyArtifact};
pub use canonical::{Difference, canonical_json, content_hash, differences, pretty_json};
pub use cell::{Cell, CellRecord, StepLine};
pub use files::{read_jsonl, write_file, write_files};
pub use line_writer::LineWriter;
pub use machine::{available_bytes, nvidia_driver, peak_resident_bytes};
pub use provenance::Provenance;
pub use samples::SampleLog;
pub use sealed::{Checkpoint, Checkpoints};

use anyhow::{Context as _, Result, bail, ensure};
use std::fmt;
use std::path::{Path, PathBuf};

/// Folder of the artifacts below the root; therefore no scale may have this name.
const ARTIFACTS: &str = "artifacts";

/// Which run of which study: the address of a cell.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CellKey {
    /// Name of the scale file.
    pub scale: String,
    /// Name of the study.
    pub study: String,
    /// Name of the variant within the study.
    pub variant: String,
    /// Training seed.
    pub seed: u64,
}

impl fmt::Display for CellKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}/seed-{}", self.scale, self.study, self.variant, self.seed)
    }
}

impl CellKey {
    fn check(&self) -> Result<()> {
        for name in [&self.scale, &self.study, &self.variant] {
            check_name(name)?;
        }
        ensure!(self.scale != ARTIFACTS, "no scale may be named `{ARTIFACTS}`: rename its file");
        Ok(())
    }
}

/// A folder of runs. Opening one creates nothing; cells and artifacts are created when asked for.
#[derive(Clone, Debug)]
pub struct Store {
    root: PathBuf,
}

impl Store {
    /// The store at `root`, which need not exist yet. Fails if `root` is something other than a folder.
    pub fn open(root: impl Into<PathBuf>) -> Result<Store> {
        let root = root.into();
        ensure!(
            !root.exists() || root.is_dir(),
            "{} is not a folder: choose another folder with --out",
            root.display()
        );
        Ok(Store { root })
    }

    /// The folder that holds everything.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Opens a cell for writing, creating it where it is missing.
    ///
    /// Fails if another process holds the cell, if the stored configuration differs from `resolved` (the keys
    /// that differ are listed), or if the folder cannot be written.
    pub fn cell(&self, key: &CellKey, resolved: &serde_json::Value) -> Result<Cell> {
        key.check()?;
        Cell::open(self.cell_dir(key), key, resolved)
    }

    /// Opens an existing cell for reading only, without the lock. Fails if there is no such cell.
    pub fn read_only(&self, key: &CellKey) -> Result<CellRecord> {
        key.check()?;
        CellRecord::open(self.cell_dir(key), key)
    }

    /// The addresses of all cells on disk, sorted. Folders that are no cells are passed over.
    pub fn cells(&self) -> Result<Vec<CellKey>> {
        let mut keys = Vec::new();
        for scale in files::folders(&self.root)?.into_iter().filter(|name| name != ARTIFACTS) {
            for study in files::folders(&self.root.join(&scale))? {
                for variant in files::folders(&self.root.join(&scale).join(&study))? {
                    let dir = self.root.join(&scale).join(&study).join(&variant);
                    for seed in files::numbered_folders(&dir, "seed-")? {
                        let (scale, study, variant) = (scale.clone(), study.clone(), variant.clone());
                        keys.push(CellKey { scale, study, variant, seed });
                    }
                }
            }
        }
        keys.retain(|key| key.check().is_ok() && self.cell_dir(key).join(cell::CONFIG).is_file());
        keys.sort();
        Ok(keys)
    }

    /// The artifact of a kind (`base`, ...) whose content is determined by what was hashed to `hash`.
    ///
    /// One process builds it while others wait; `waiting` is called with the artifact's folder before this call
    /// starts to wait, so that the caller can say so.
    pub fn artifact(&self, kind: &str, hash: &str, waiting: impl FnOnce(&Path)) -> Result<Artifact> {
        check_name(kind)?;
        check_name(hash)?;
        Artifact::open(&self.root.join(ARTIFACTS).join(kind), hash, waiting)
    }

    fn cell_dir(&self, key: &CellKey) -> PathBuf {
        self.root.join(key.to_string())
    }
}

/// A name that is one visible path component on every system: letters, digits, `_`, `-`, `.`.
fn check_name(name: &str) -> Result<()> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
    if name.is_empty() || name.starts_with('.') || !name.chars().all(plain) {
        bail!(
            "`{name}` cannot name a folder or file of a run: use letters, digits, `_`, `-` and `.`, not first a `.`"
        );
    }
    Ok(())
}

/// Parses JSON read from `path`; the error names the file and the line.
fn parse_json<T: serde::de::DeserializeOwned>(path: &Path, bytes: &[u8]) -> Result<T> {
    serde_json::from_slice(bytes).with_context(|| format!("{} is damaged", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_leave_the_folder_are_refused() {
        for bad in ["", ".", "..", "a/b", "../a", ".hidden", "a b", "ä", "a\\b", "a\0"] {
            assert!(check_name(bad).is_err(), "{bad:?}");
        }
        for good in ["vppo", "k-0.4", "7b_v2"] {
            assert!(check_name(good).is_ok(), "{good}");
        }
    }
}
