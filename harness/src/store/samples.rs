//! The log of an evaluation: whole benchmarks, then all of them under the final name.

use super::{Cell, files};
use crate::types::SampleLine;
use anyhow::{Result, anyhow, ensure};
use std::path::PathBuf;

/// Collects evaluated completions benchmark by benchmark; a killed evaluation loses at most the benchmark it
/// was working on. Borrows the cell, hence its lock.
#[derive(Debug)]
pub struct SampleLog<'a> {
    cell: &'a Cell,
    path: PathBuf,
    partial: PathBuf,
    expected: Vec<(String, usize)>,
    complete: Vec<String>,
}

impl<'a> SampleLog<'a> {
    pub(super) fn open(cell: &'a Cell, path: PathBuf, expected: &[(String, usize)]) -> Result<SampleLog<'a>> {
        let partial = path.with_extension("partial.jsonl");
        let mut log = SampleLog { cell, path, partial, expected: expected.to_vec(), complete: Vec::new() };
        match cell.samples()? {
            Some(samples) => log.keep_whole(&samples, false)?,
            None => log.reopen()?,
        };
        Ok(log)
    }

    /// Reads what an earlier process left, and cuts off the benchmark it did not finish.
    fn reopen(&mut self) -> Result<usize> {
        let bytes = files::read_or_empty(&self.partial)?;
        let lines = files::whole_lines::<SampleLine>(&self.partial, &bytes)?;
        let ends: Vec<usize> = lines.iter().map(|line| line.end).collect();
        let samples: Vec<SampleLine> = lines.into_iter().map(|line| line.value).collect();
        let kept = self.keep_whole(&samples, true)?;
        let end = if kept == 0 { 0 } else { ends[kept - 1] };
        if end < bytes.len() {
            files::write_file(&self.partial, &bytes[..end])?;
        }
        Ok(kept)
    }

    /// Notes the whole benchmarks at the head of `samples`; returns how many lines they have. Only the last
    /// benchmark may be short, and that only while the log is `growing`.
    fn keep_whole(&mut self, samples: &[SampleLine], growing: bool) -> Result<usize> {
        let mut kept = 0;
        for chunk in samples.chunk_by(|a, b| a.benchmark == b.benchmark) {
            let name = &chunk[0].benchmark;
            let lines = self.lines_missing(name)?;
            if chunk.len() != lines {
                let last = kept + chunk.len() == samples.len();
                ensure!(growing && last && chunk.len() < lines, self.disagreement(name, chunk.len(), lines));
                break;
            }
            kept += chunk.len();
            self.complete.push(name.clone());
        }
        Ok(kept)
    }

    fn disagreement(&self, benchmark: &str, found: usize, expected: usize) -> anyhow::Error {
        anyhow!(
            "{}: benchmark `{benchmark}` has {found} completions and not {expected}: delete the samples files in {} \
             to evaluate again",
            self.cell.key(),
            self.cell.dir().display()
        )
    }

    /// How many lines an expected and not yet complete benchmark has to have.
    fn lines_missing(&self, benchmark: &str) -> Result<usize> {
        let expected = self.expected.iter().find(|(name, _)| name == benchmark);
        let expected = expected.filter(|_| !self.is_complete(benchmark));
        let (_, lines) = expected.ok_or_else(|| {
            anyhow!(
                "{}: completions of `{benchmark}` are there twice or belong to no benchmark of this evaluation: delete \
                 the samples files in {} to evaluate again",
                self.cell.key(),
                self.cell.dir().display()
            )
        })?;
        Ok(*lines)
    }

    /// Whether a benchmark needs no further work.
    pub fn is_complete(&self, benchmark: &str) -> bool {
        self.complete.iter().any(|name| name == benchmark)
    }

    /// Appends one whole benchmark, durably. Fails if it is not one of the expected benchmarks, is already
    /// there, or has another number of lines than expected.
    pub fn append(&mut self, benchmark: &str, lines: &[SampleLine]) -> Result<()> {
        let expected = self.lines_missing(benchmark)?;
        let matching = lines.iter().filter(|line| line.benchmark == benchmark).count();
        ensure!(
            lines.len() == expected && matching == expected,
            self.disagreement(benchmark, matching, expected)
        );
        let mut text = String::new();
        for line in lines {
            text += &serde_json::to_string(line)?;
            text.push('\n');
        }
        files::append(&self.partial, text.as_bytes(), true)?;
        self.complete.push(benchmark.into());
        Ok(())
    }

    /// Publishes `samples.jsonl`. Fails, naming it, if a benchmark is missing.
    pub fn finish(self) -> Result<()> {
        for (name, _) in &self.expected {
            ensure!(self.is_complete(name), "{}: benchmark `{name}` has not been evaluated", self.cell.key());
        }
        if self.path.exists() { Ok(()) } else { files::rename(&self.partial, &self.path) }
    }
}
