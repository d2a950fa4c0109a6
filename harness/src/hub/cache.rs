//! The cache in the hub's own layout: where things are, and how they appear whole.

use super::checksum::Blob;
use super::crew::Watch;
use super::repo::{Repo, is_commit};
use anyhow::{Context as _, Result, anyhow};
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

#[cfg(unix)]
use std::os::unix::fs::symlink;
#[cfg(windows)]
use std::os::windows::fs::symlink_file as symlink;

/// Time between two looks at a lock that another process holds.
const LOCK_TICK: Duration = Duration::from_millis(50);
/// Numbers the scratch names of this process.
static SCRATCH: AtomicU64 = AtomicU64::new(0);

/// One repository's folder in the cache.
pub(super) struct RepoCache {
    paths: hf_hub::CacheRepo,
    dir: PathBuf,
    locks: PathBuf,
    revision: String,
}

impl RepoCache {
    /// The folder of `repo` below `root`; creates nothing.
    pub fn new(root: &Path, repo: &Repo) -> RepoCache {
        let hf = repo.hf();
        let folder = hf.folder_name();
        RepoCache {
            dir: root.join(&folder),
            locks: root.join(".locks").join(&folder),
            revision: repo.revision.clone(),
            paths: hf_hub::Cache::new(root.to_owned()).repo(hf),
        }
    }

    /// Where a content lies.
    pub fn blob(&self, blob: &Blob) -> PathBuf {
        self.paths.blob_path(blob.name())
    }

    /// Where its half lies.
    pub fn part(&self, blob: &Blob) -> PathBuf {
        self.paths.blob_path(&format!("{}.incomplete", blob.name()))
    }

    /// Where a file of a commit is seen.
    pub fn snapshot_file(&self, commit: &str, path: &str) -> PathBuf {
        self.paths.pointer_path(commit).join(path)
    }

    /// The content that a file of a snapshot is a link to; `None` if it is no link to a blob.
    pub fn linked_blob(&self, file: &Path) -> Option<Blob> {
        let target = fs::read_link(file).ok()?;
        Blob::parse(target.file_name()?.to_str()?).ok()
    }

    /// The paths of all files of a commit that are in the cache, in byte order.
    pub fn snapshot_paths(&self, commit: &str) -> Result<Vec<String>> {
        let mut paths = Vec::new();
        let root = self.paths.pointer_path(commit);
        if root.is_dir() {
            walk(&root, "", &mut paths).with_context(|| format!("cannot read {}", root.display()))?;
        }
        paths.sort();
        Ok(paths)
    }

    /// Takes the lock of a content, which Python's client takes too; waits, and says so, while another has it.
    pub fn lock(&self, blob: &Blob, watch: &Watch) -> Result<File> {
        let path = self.locks.join(format!("{}.lock", blob.name()));
        fs::create_dir_all(&self.locks).with_context(|| cannot_write(&self.locks))?;
        let mut options = OpenOptions::new();
        let file = options.create(true).truncate(false).write(true).open(&path);
        let file = file.with_context(|| cannot_write(&path))?;
        let mut told = false;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(file),
                Err(TryLockError::WouldBlock) if told => watch.pause(LOCK_TICK)?,
                Err(TryLockError::WouldBlock) => {
                    told = true;
                    watch.note(format!("waiting for another process that holds {}", path.display()));
                }
                Err(TryLockError::Error(error)) => {
                    let way_out = "set HF_HOME to a folder on a local disk";
                    return Err(error).with_context(|| format!("cannot lock {}: {way_out}", path.display()));
                }
            }
        }
    }

    /// Makes a whole, checked part the content's blob. The caller holds the lock.
    pub fn publish(&self, blob: &Blob) -> Result<()> {
        let path = self.blob(blob);
        rename(&self.part(blob), &path).with_context(|| cannot_write(&path))
    }

    /// Shows a blob as a file of a commit: a relative link, or a copy where the file system knows no links.
    pub fn link(&self, blob: &Blob, commit: &str, path: &str) -> Result<()> {
        self.link_by(symlink, blob, commit, path)
    }

    fn link_by(
        &self,
        symlink: fn(PathBuf, PathBuf) -> io::Result<()>,
        blob: &Blob,
        commit: &str,
        path: &str,
    ) -> Result<()> {
        let file = self.snapshot_file(commit, path);
        let mut up: PathBuf = path.split('/').map(|_| "..").chain([".."]).collect();
        up.extend(["blobs", blob.name()]);
        let place = || -> io::Result<()> {
            fs::create_dir_all(file.parent().unwrap_or(&self.dir))?;
            let scratch = self.scratch()?;
            if symlink(up, scratch.clone()).is_err() {
                fs::copy(self.blob(blob), &scratch)?;
                File::open(&scratch)?.sync_all()?;
            }
            rename(&scratch, &file)
        };
        place().with_context(|| cannot_write(&file))
    }

    /// The commit that the cache last saw the revision at.
    pub fn read_ref(&self) -> Option<String> {
        let text = fs::read_to_string(self.ref_path()).ok()?;
        Some(text.trim().to_owned()).filter(|text| is_commit(text))
    }

    /// Remembers the commit that the revision stands at.
    pub fn write_ref(&self, commit: &str) -> Result<()> {
        let path = self.ref_path();
        let place = || -> io::Result<()> {
            fs::create_dir_all(path.parent().unwrap_or(&self.dir))?;
            let scratch = self.scratch()?;
            fs::write(&scratch, commit)?;
            File::open(&scratch)?.sync_all()?;
            rename(&scratch, &path)
        };
        place().with_context(|| cannot_write(&path))
    }

    fn ref_path(&self) -> PathBuf {
        self.dir.join("refs").join(&self.revision)
    }

    /// A name that nobody else uses, out of sight of those who list the cache.
    fn scratch(&self) -> io::Result<PathBuf> {
        fs::create_dir_all(&self.locks)?;
        let number = SCRATCH.fetch_add(1, Ordering::Relaxed);
        let path = self.locks.join(format!("{}-{number}.tmp", process::id()));
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(path),
        }
    }
}

/// Renames, and makes the new name durable.
fn rename(from: &Path, to: &Path) -> io::Result<()> {
    fs::rename(from, to)?;
    match to.parent() {
        Some(parent) if cfg!(unix) => File::open(parent)?.sync_all(),
        _ => Ok(()),
    }
}

fn walk(dir: &Path, prefix: &str, paths: &mut Vec<String>) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        if entry.file_type()?.is_dir() {
            walk(&entry.path(), &format!("{prefix}{name}/"), paths)?;
        } else {
            paths.push(format!("{prefix}{name}"));
        }
    }
    Ok(())
}

/// The message of every failed write into the cache.
pub(super) fn cannot_write(path: &Path) -> String {
    format!(
        "cannot write {}: make the folder writable, free disk space, or set HF_HOME to another folder",
        path.display()
    )
}

/// Free disk space where `dir` is, or will be.
pub(super) fn free_bytes(dir: &Path) -> Result<u64> {
    let there = std::path::absolute(dir)?;
    let existing = there.ancestors().find(|ancestor| ancestor.is_dir());
    let existing = existing.ok_or_else(|| anyhow!("there is no folder above {}", dir.display()))?;
    fs4::available_space(existing)
        .with_context(|| format!("cannot ask for the free space at {}", dir.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_blob() -> (tempfile::TempDir, RepoCache, Blob) {
        let dir = tempfile::tempdir().unwrap();
        let cache = RepoCache::new(dir.path(), &Repo::dataset("o/n", "refs/pr/1"));
        let blob = Blob::parse(&"a".repeat(40)).unwrap();
        fs::create_dir_all(cache.blob(&blob).parent().unwrap()).unwrap();
        fs::write(cache.part(&blob), "content").unwrap();
        cache.publish(&blob).unwrap();
        (dir, cache, blob)
    }

    #[test]
    fn files_are_relative_links_to_blobs() {
        let (dir, cache, blob) = with_blob();
        cache.link(&blob, "c0", "a/b/c.txt").unwrap();
        cache.link(&blob, "c0", "top.txt").unwrap();
        let moved = dir.path().with_extension("moved");
        fs::rename(dir.path(), &moved).unwrap();
        for path in ["a/b/c.txt", "top.txt"] {
            let file = moved.join("datasets--o--n/snapshots/c0").join(path);
            assert_eq!(fs::read_to_string(file).unwrap(), "content");
        }
        let cache = RepoCache::new(&moved, &Repo::dataset("o/n", "main"));
        assert_eq!(cache.snapshot_paths("c0").unwrap(), ["a/b/c.txt", "top.txt"]);
        assert_eq!(cache.linked_blob(&cache.snapshot_file("c0", "top.txt")), Some(blob));
        fs::remove_dir_all(&moved).unwrap();
    }

    #[test]
    fn files_are_copies_where_links_are_not_possible() {
        let (_dir, cache, blob) = with_blob();
        let no_links = |_: PathBuf, _: PathBuf| Err(io::ErrorKind::Unsupported.into());
        cache.link_by(no_links, &blob, "c0", "a.txt").unwrap();
        let file = cache.snapshot_file("c0", "a.txt");
        assert!(!file.is_symlink());
        assert_eq!(fs::read_to_string(file).unwrap(), "content");
    }

    #[test]
    fn a_wrong_file_is_replaced() {
        let (_dir, cache, blob) = with_blob();
        let file = cache.snapshot_file("c0", "a.txt");
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, "wrong").unwrap();
        cache.link(&blob, "c0", "a.txt").unwrap();
        assert_eq!(fs::read_to_string(file).unwrap(), "content");
    }

    #[test]
    fn refs_may_have_slashes_and_nothing_but_a_commit_in_them() {
        let (_dir, cache, _) = with_blob();
        assert_eq!(cache.read_ref(), None);
        cache.write_ref(&"1".repeat(40)).unwrap();
        assert_eq!(cache.read_ref(), Some("1".repeat(40)));
        fs::write(cache.ref_path(), "../../x").unwrap();
        assert_eq!(cache.read_ref(), None);
    }

    #[test]
    fn the_free_space_of_a_folder_to_come_is_known() {
        let dir = tempfile::tempdir().unwrap();
        assert!(free_bytes(&dir.path().join("not/yet")).unwrap() > 0);
    }
}
