//! Sealed folders: several files that belong together, published by one rename and checked when read.
//!
//! `manifest.json` lists the BLAKE3 of every file. A checkpoint is a sealed folder named after its step.

use super::{check_name, files, parse_json};
use anyhow::{Context as _, Result, ensure};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

const MANIFEST: &str = "manifest.json";
/// How many checkpoints stay on disk: the newest, and one to fall back on by hand.
const KEPT: usize = 2;

/// Writes `files` (name, content) as the sealed folder `dir`, replacing what was there. The parent must exist.
pub(super) fn seal(dir: &Path, contents: &[(String, Vec<u8>)]) -> Result<()> {
    let temporary = files::temporary_name(dir);
    files::remove_if_there(&temporary)?;
    files::create_dir(&temporary)?;
    let mut manifest = BTreeMap::new();
    for (name, bytes) in contents {
        check_name(name)?;
        let twice = manifest.insert(name, blake3::hash(bytes).to_hex().to_string());
        ensure!(twice.is_none() && name != MANIFEST, "`{name}` cannot be stored twice in {}", dir.display());
        files::write_file(&temporary.join(name), bytes)?;
    }
    files::write_file(&temporary.join(MANIFEST), &serde_json::to_vec_pretty(&manifest)?)?;
    if dir.exists() {
        files::remove_if_there(dir)?;
    }
    files::rename(&temporary, dir)
}

/// Reads a sealed folder, files in byte order of their names. Fails, naming the file, if one is missing or its
/// BLAKE3 is not the manifest's.
pub(super) fn unseal(dir: &Path) -> Result<Vec<(String, Vec<u8>)>> {
    let path = dir.join(MANIFEST);
    let manifest: BTreeMap<String, String> = parse_json(&path, &files::read(&path)?)?;
    let mut contents = Vec::new();
    for (name, hash) in manifest {
        let path = dir.join(&name);
        let bytes = files::read(&path)?;
        ensure!(
            blake3::hash(&bytes).to_hex().as_str() == hash,
            "{} is damaged: its BLAKE3 is not the one in {MANIFEST}",
            path.display()
        );
        contents.push((name, bytes));
    }
    Ok(contents)
}

/// The state of a run after `step` steps: named byte strings whose meaning is the caller's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// Steps completed.
    pub step: u64,
    /// (name, content), read back in byte order of the names.
    pub files: Vec<(String, Vec<u8>)>,
}

/// The checkpoints of one run: `step-<n>/` folders, the newest two.
#[derive(Clone, Debug)]
pub struct Checkpoints {
    dir: PathBuf,
}

impl Checkpoints {
    /// Checkpoints below `dir`, whose leftovers of a crash are removed. The caller holds the lock of the run.
    pub(super) fn open(dir: PathBuf) -> Result<Checkpoints> {
        files::sweep(&dir)?;
        Ok(Checkpoints { dir })
    }

    /// The steps that have a checkpoint, ascending.
    pub fn steps(&self) -> Result<Vec<u64>> {
        files::numbered_folders(&self.dir, "step-")
    }

    /// Writes a checkpoint and then removes all but the newest two.
    pub fn save(&self, checkpoint: &Checkpoint) -> Result<()> {
        files::create_dir(&self.dir)?;
        seal(&self.step_dir(checkpoint.step), &checkpoint.files)?;
        let steps = self.steps()?;
        let superfluous = &steps[..steps.len().saturating_sub(KEPT)];
        superfluous.iter().try_for_each(|&step| files::remove_dir(&self.step_dir(step)))
    }

    /// The newest checkpoint, verified; `None` where there is none. A damaged one is an error: falling back to
    /// an older one is the user's decision.
    pub fn newest(&self) -> Result<Option<Checkpoint>> {
        let Some(step) = self.steps()?.pop() else { return Ok(None) };
        let dir = self.step_dir(step);
        let way_out = || {
            format!(
                "the checkpoint {0} cannot be used: delete the folder {0} to go on from the checkpoint before it \
                 (or from the start where there is none)",
                dir.display()
            )
        };
        Ok(Some(Checkpoint { step, files: unseal(&dir).with_context(way_out)? }))
    }

    fn step_dir(&self, step: u64) -> PathBuf {
        self.dir.join(format!("step-{step}"))
    }
}
