//! A file of JSON lines that grows under a temporary name and appears whole or not at all.

use super::files::{rename, temporary_name};
use anyhow::{Context as _, Result};
use serde::Serialize;
use std::fs::{self, File};
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};

/// Writes JSON lines beside the final name and renames at the end. Dropped without [`LineWriter::finish`], it leaves
/// nothing behind and an older file under the final name as it was.
#[derive(Debug)]
pub struct LineWriter {
    path: PathBuf,
    /// There until the file has its final name.
    open: Option<BufWriter<File>>,
}

impl LineWriter {
    /// Begins a file; its folder must exist.
    ///
    /// # Errors
    /// If the path names a folder, or if nothing can be written beside it.
    pub fn create(path: &Path) -> Result<LineWriter> {
        let begin = || {
            if path.is_dir() || path.file_name().is_none() {
                return Err(std::io::ErrorKind::IsADirectory.into());
            }
            File::create(temporary_name(path))
        };
        let file = begin().with_context(|| cannot_write(path))?;
        Ok(LineWriter { path: path.to_owned(), open: Some(BufWriter::new(file)) })
    }

    /// Adds one line.
    pub fn push(&mut self, line: &impl Serialize) -> Result<()> {
        let text = serde_json::to_string(line)?;
        let Some(file) = &mut self.open else { return Ok(()) };
        writeln!(file, "{text}").with_context(|| cannot_write(&self.path))
    }

    /// Gives the file its final name, durably; an older file of that name is replaced.
    pub fn finish(mut self) -> Result<()> {
        let Some(file) = &mut self.open else { return Ok(()) };
        file.flush().and_then(|()| file.get_ref().sync_all()).with_context(|| cannot_write(&self.path))?;
        rename(&temporary_name(&self.path), &self.path)?;
        self.open = None;
        Ok(())
    }
}

impl Drop for LineWriter {
    fn drop(&mut self) {
        if self.open.take().is_some() {
            fs::remove_file(temporary_name(&self.path)).ok();
        }
    }
}

fn cannot_write(path: &Path) -> String {
    format!("cannot write {}: name a file in a writable folder with free space", path.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> =
            fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_appears_whole_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out.jsonl");
        let mut writer = LineWriter::create(&path).unwrap();
        writer.push(&[1, 2]).unwrap();
        assert_eq!(names(folder.path()), [".out.jsonl.tmp"]);
        drop(writer);
        assert_eq!(names(folder.path()), [""; 0]);

        for lines in [["a", "b"], ["c", "d"]] {
            let mut writer = LineWriter::create(&path).unwrap();
            lines.iter().for_each(|line| writer.push(line).unwrap());
            writer.finish().unwrap();
        }
        assert_eq!(names(folder.path()), ["out.jsonl"]);
        assert_eq!(fs::read_to_string(&path).unwrap(), "\"c\"\n\"d\"\n");
    }

    #[test]
    fn what_cannot_be_written_is_named_at_once() {
        let folder = tempfile::tempdir().unwrap();
        for path in [folder.path().to_owned(), folder.path().join("none/out.jsonl")] {
            let error = format!("{:#}", LineWriter::create(&path).unwrap_err());
            assert!(error.contains(&format!("cannot write {}", path.display())), "{error}");
        }
    }
}
