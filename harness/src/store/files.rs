//! Files written whole or not at all, and files of lines that grow.

use anyhow::{Context as _, Result, anyhow};
use serde::de::DeserializeOwned;
use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};

/// The message of every failed write: which file, and what the user can do.
pub(super) fn cannot_write(path: &Path) -> String {
    format!(
        "cannot write {}: make the folder writable, free disk space, or choose another folder with --out",
        path.display()
    )
}

/// Writes a file so that it appears whole or not at all: temporary name in the same folder, fsync, rename.
/// The folder must exist.
pub fn write_file(path: &Path, bytes: &[u8]) -> Result<()> {
    let temporary = temporary_name(path);
    let written = write_synced(&temporary, bytes).and_then(|()| fs::rename(&temporary, path));
    if written.is_err() {
        fs::remove_file(&temporary).ok();
    }
    written.and_then(|()| sync_parent(path)).with_context(|| cannot_write(path))
}

/// Writes several files into `dir`, which is created where it is missing; each file is written atomically.
pub fn write_files<N: AsRef<str>, C: AsRef<[u8]>>(dir: &Path, files: &[(N, C)]) -> Result<()> {
    create_dir(dir)?;
    files.iter().try_for_each(|(name, content)| write_file(&dir.join(name.as_ref()), content.as_ref()))
}

/// Creates a folder and those above it.
pub(super) fn create_dir(dir: &Path) -> Result<()> {
    fs::create_dir_all(dir).with_context(|| cannot_write(dir))
}

/// `dir/name` -> `dir/.name.tmp`, removed by [`sweep`] if a crash leaves it behind.
pub(super) fn temporary_name(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.tmp"))
}

fn write_synced(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Makes a rename within `path`'s folder durable.
fn sync_parent(path: &Path) -> std::io::Result<()> {
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(parent)?.sync_all()
}

/// Renames within one folder, durably.
pub(super) fn rename(from: &Path, to: &Path) -> Result<()> {
    fs::rename(from, to).and_then(|()| sync_parent(to)).with_context(|| cannot_write(to))
}

/// Removes a folder so that a crash never leaves half of it under its own name.
pub(super) fn remove_dir(dir: &Path) -> Result<()> {
    let doomed = temporary_name(dir);
    remove_if_there(&doomed)?;
    fs::rename(dir, &doomed).with_context(|| cannot_write(dir))?;
    remove_if_there(&doomed)
}

/// Removes a file or folder; it is no error if there is none.
pub(super) fn remove_if_there(path: &Path) -> Result<()> {
    let removed = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    match removed {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error).with_context(|| cannot_write(path)),
        _ => Ok(()),
    }
}

/// Removes what a crash left under temporary names in `dir`.
pub(super) fn sweep(dir: &Path) -> Result<()> {
    let leftover = |name: &String| name.starts_with('.') && name.ends_with(".tmp");
    names(dir)?.iter().filter(|name| leftover(name)).try_for_each(|name| remove_if_there(&dir.join(name)))
}

/// Opens the lock file at `path`, creating it where it is missing.
pub(super) fn lock_file(path: &Path) -> Result<File> {
    let mut options = OpenOptions::new();
    options.create(true).truncate(false).write(true).open(path).with_context(|| cannot_write(path))
}

/// Appends to a file in one write, and makes it durable when `sync` is set.
pub(super) fn append(path: &Path, bytes: &[u8], sync: bool) -> Result<()> {
    let write = || -> std::io::Result<()> {
        let mut file = OpenOptions::new().create(true).append(true).open(path)?;
        file.write_all(bytes)?;
        if sync { file.sync_all() } else { Ok(()) }
    };
    write().with_context(|| cannot_write(path))
}

/// Makes what was appended to a file durable; a missing file has nothing to make durable.
pub(super) fn sync(path: &Path) -> Result<()> {
    match File::open(path) {
        Ok(file) => file.sync_all().with_context(|| cannot_write(path)),
        Err(_) => Ok(()),
    }
}

/// Reads a file whole; the error names it.
pub(super) fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

/// Reads a file whole; empty where there is none.
pub(super) fn read_or_empty(path: &Path) -> Result<Vec<u8>> {
    if path.exists() { read(path) } else { Ok(Vec::new()) }
}

/// Names of everything in a folder, sorted; none where the folder is missing.
fn names(dir: &Path) -> Result<Vec<String>> {
    if !dir.exists() {
        return Ok(Vec::new());
    }
    let mut names = Vec::new();
    for entry in fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))? {
        let entry = entry.with_context(|| format!("cannot read {}", dir.display()))?;
        names.extend(entry.file_name().into_string());
    }
    names.sort();
    Ok(names)
}

/// Names of the visible folders within a folder, sorted.
pub(super) fn folders(dir: &Path) -> Result<Vec<String>> {
    let mut names = names(dir)?;
    names.retain(|name| !name.starts_with('.') && dir.join(name).is_dir());
    Ok(names)
}

/// The numbers n of the folders `<prefix><n>` within a folder, ascending.
pub(super) fn numbered_folders(dir: &Path, prefix: &str) -> Result<Vec<u64>> {
    let number = |name: &String| name.strip_prefix(prefix)?.parse::<u64>().ok();
    let mut numbers: Vec<u64> = folders(dir)?.iter().filter_map(number).collect();
    numbers.sort_unstable();
    Ok(numbers)
}

/// Reads a finished file of JSON lines. A line that is not a `T`, and a last line without its line end, are
/// errors that name file and line.
pub fn read_jsonl<T: DeserializeOwned>(path: &Path) -> Result<Vec<T>> {
    jsonl(path, &read(path)?)
}

/// As [`read_jsonl`], of a file's bytes.
pub(super) fn jsonl<T: DeserializeOwned>(path: &Path, bytes: &[u8]) -> Result<Vec<T>> {
    if !bytes.is_empty() && !bytes.ends_with(b"\n") {
        let line = bytes.split(|&b| b == b'\n').count();
        return Err(damaged(path, line).context("the last line has no end"));
    }
    Ok(whole_lines(path, bytes)?.into_iter().map(|line| line.value).collect())
}

/// One parsed line and where it ends in the file.
pub(super) struct Line<T> {
    /// The parsed content.
    pub value: T,
    /// Offset in bytes of the first byte after the line.
    pub end: usize,
}

/// Parses all lines that have a line end; a torn last line, left by a killed process, is passed over.
pub(super) fn whole_lines<T: DeserializeOwned>(path: &Path, bytes: &[u8]) -> Result<Vec<Line<T>>> {
    let mut end = 0;
    let mut lines = Vec::new();
    for text in bytes.split_inclusive(|&b| b == b'\n').filter(|text| text.ends_with(b"\n")) {
        end += text.len();
        let value =
            serde_json::from_slice(text).map_err(|e| anyhow!(e).context(damaged(path, lines.len() + 1)))?;
        lines.push(Line { value, end });
    }
    Ok(lines)
}

fn damaged(path: &Path, line: usize) -> anyhow::Error {
    anyhow!(
        "{}:{line} is damaged: restore the file, or delete the folder {} to run it again",
        path.display(),
        path.parent().unwrap_or(Path::new(".")).display()
    )
}
