//! A cell: one run of one variant with one seed, resumable at any moment.

use super::events::Events;
use super::provenance::Provenance;
use super::sealed::{Checkpoint, Checkpoints};
use super::{CellKey, SampleLog, canonical, files, parse_json};
use crate::types::{RolloutLine, SampleLine, SpotlightItem};
use anyhow::{Context as _, Result, anyhow, bail, ensure};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs::{File, TryLockError};
use std::ops::Deref;
use std::path::{Path, PathBuf};

pub(super) const CONFIG: &str = "config.json";
const PROVENANCE: &str = "provenance.json";
const METRICS: &str = "metrics.jsonl";
const TIMING: &str = "timing.jsonl";
const INPUTS: &str = "inputs.json";
const SAMPLES: &str = "samples.jsonl";
const CHECKPOINTS: &str = "checkpoints";
const ROLLOUTS: &str = "rollouts";
const SPOTLIGHT: &str = "spotlight";
const DONE: &str = "done.json";
const LOCK: &str = ".lock";
/// How many differing settings an error lists.
const SHOWN_DIFFERENCES: usize = 12;

/// One line of `metrics.jsonl` or `timing.jsonl`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StepLine {
    /// Steps completed with this one: 1 for the first line.
    pub step: u64,
    /// Figures by name.
    pub metrics: BTreeMap<String, f64>,
}

/// The content of `done.json`.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Mark {
    config_blake3: String,
    samples_blake3: String,
}

fn hash(bytes: &[u8]) -> String {
    blake3::hash(bytes).to_hex().to_string()
}

fn rollout_file(step: u64) -> String {
    format!("step-{step}.jsonl")
}

fn spotlight_file(number: usize) -> String {
    format!("{number}.jsonl")
}

/// What can be read from a cell, with or without its lock.
#[derive(Debug)]
pub struct CellRecord {
    key: CellKey,
    dir: PathBuf,
}

impl CellRecord {
    pub(super) fn open(dir: PathBuf, key: &CellKey) -> Result<CellRecord> {
        ensure!(
            dir.join(CONFIG).is_file(),
            "there is no run {key}: {} is missing. Run it first, or name its folder with --out",
            dir.join(CONFIG).display()
        );
        Ok(CellRecord { key: key.clone(), dir })
    }

    /// The cell in a folder, whatever the folder's place.
    ///
    /// # Errors
    /// Where there is no run in it.
    pub fn at(dir: &Path) -> Result<CellRecord> {
        let path = dir.join(CONFIG);
        ensure!(path.is_file(), "{} is no run's folder: it has no {CONFIG}", dir.display());
        let bytes = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let config: Value = parse_json(&path, &bytes)?;
        let text = |name: &str| {
            let value = config[name].as_str().map(str::to_owned);
            value.with_context(|| format!("{}: `{name}` is missing", path.display()))
        };
        let seed =
            config["seed"].as_u64().with_context(|| format!("{}: `seed` is missing", path.display()))?;
        let key = CellKey { scale: text("scale")?, study: text("study")?, variant: text("variant")?, seed };
        Ok(CellRecord { key, dir: dir.to_owned() })
    }

    /// The cell's address.
    pub fn key(&self) -> &CellKey {
        &self.key
    }

    /// The steps whose rollouts were kept, in order.
    pub fn rollout_steps(&self) -> Result<Vec<u64>> {
        let dir = self.dir.join(ROLLOUTS);
        if !dir.is_dir() {
            return Ok(vec![]);
        }
        let unreadable = || format!("cannot read {}", dir.display());
        let mut steps = vec![];
        for entry in std::fs::read_dir(&dir).with_context(unreadable)? {
            let name = entry.with_context(unreadable)?.file_name();
            let number = name.to_str().and_then(|name| name.strip_prefix("step-")?.strip_suffix(".jsonl"));
            steps.extend(number.and_then(|number| number.parse::<u64>().ok()));
        }
        steps.sort_unstable();
        Ok(steps)
    }

    /// The kept rollouts of a step.
    pub fn rollouts(&self, step: u64) -> Result<Vec<RolloutLine>> {
        files::read_jsonl(&self.dir.join(ROLLOUTS).join(rollout_file(step)))
    }

    /// The evaluated items that were kept token by token, in the order of the benchmarks.
    pub fn spotlight(&self) -> Result<Vec<SpotlightItem>> {
        let dir = self.dir.join(SPOTLIGHT);
        let files = (0..).map(|number| dir.join(spotlight_file(number))).take_while(|path| path.is_file());
        let items =
            files.map(|path| files::read_jsonl(&path)).collect::<Result<Vec<Vec<SpotlightItem>>>>()?;
        Ok(items.into_iter().flatten().collect())
    }

    /// The cell's folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The complete resolved configuration.
    pub fn config(&self) -> Result<Value> {
        let path = self.dir.join(CONFIG);
        parse_json(&path, &files::read(&path)?)
    }

    /// What wrote the cell, oldest first; one entry per distinct build or machine.
    pub fn provenance(&self) -> Result<Vec<Provenance>> {
        let path = self.dir.join(PROVENANCE);
        if !path.exists() {
            return Ok(Vec::new());
        }
        parse_json(&path, &files::read(&path)?)
    }

    /// Whether the cell is complete: nothing in it will change.
    pub fn is_done(&self) -> bool {
        self.dir.join(DONE).is_file()
    }

    /// The deterministic figures of each step so far.
    pub fn metrics(&self) -> Result<Vec<StepLine>> {
        self.step_lines(METRICS)
    }

    /// The wall-clock figures of each step so far.
    pub fn timing(&self) -> Result<Vec<StepLine>> {
        self.step_lines(TIMING)
    }

    /// The evaluated completions; `None` while the evaluation is not complete.
    ///
    /// # Errors
    /// Those of a complete cell are refused if they are not, to the byte, those that it was completed with.
    pub fn samples(&self) -> Result<Option<Vec<SampleLine>>> {
        let path = self.dir.join(SAMPLES);
        if !path.exists() && !self.is_done() {
            return Ok(None);
        }
        let bytes = files::read(&path)?;
        if self.is_done() {
            self.check_samples(&bytes)?;
        }
        files::jsonl(&path, &bytes).map(Some)
    }

    fn check_samples(&self, bytes: &[u8]) -> Result<()> {
        let done = self.dir.join(DONE);
        let again = || {
            format!("delete {} and run the study again: it trains and evaluates nothing anew", done.display())
        };
        let mark: Mark = parse_json(&done, &files::read(&done)?).with_context(again)?;
        ensure!(
            mark.samples_blake3 == hash(bytes),
            "{} has changed since the run was completed: restore it; or, if the change is meant, {}",
            self.dir.join(SAMPLES).display(),
            again()
        );
        Ok(())
    }

    /// What the cell was made from besides its settings, where that was kept.
    pub fn inputs<T: DeserializeOwned>(&self) -> Result<Option<T>> {
        let path = self.dir.join(INPUTS);
        if !path.exists() {
            return Ok(None);
        }
        parse_json(&path, &files::read(&path)?).map(Some)
    }

    /// Lines of a file that may still grow: a torn last line is passed over.
    fn step_lines(&self, name: &str) -> Result<Vec<StepLine>> {
        let path = self.dir.join(name);
        let lines = files::whole_lines(&path, &files::read_or_empty(&path)?)?;
        Ok(lines.into_iter().map(|line| line.value).collect())
    }
}

/// A cell opened for writing. No other process can open it until this value is dropped.
#[derive(Debug)]
pub struct Cell {
    record: CellRecord,
    checkpoints: Checkpoints,
    /// The event file, where one is kept.
    events: Option<Events>,
    _lock: File,
}

impl Deref for Cell {
    type Target = CellRecord;

    fn deref(&self) -> &CellRecord {
        &self.record
    }
}

impl Cell {
    pub(super) fn open(dir: PathBuf, key: &CellKey, resolved: &Value) -> Result<Cell> {
        files::create_dir(&dir)?;
        let lock = lock(&dir, key)?;
        files::sweep(&dir)?;
        let checkpoints = Checkpoints::open(dir.join(CHECKPOINTS))?;
        let cell =
            Cell { record: CellRecord { key: key.clone(), dir }, checkpoints, events: None, _lock: lock };
        cell.settle_config(resolved)?;
        cell.note_provenance()?;
        Ok(cell)
    }

    /// From now on keeps the figures of every step as an event file of TensorBoard too, beginning with the steps so far;
    /// a cell without any has no such file before its training begins.
    pub fn keep_events(&mut self) -> Result<()> {
        let events = Events::of(&self.record.dir);
        let metrics = self.metrics()?;
        if !metrics.is_empty() {
            events.rewrite(&metrics, &self.timing()?)?;
        }
        self.events = Some(events);
        Ok(())
    }

    /// Keeps what the cell is made from besides its settings, or refuses where it was begun with something else.
    pub fn keep_inputs<T: Serialize + DeserializeOwned + PartialEq>(&self, inputs: &T) -> Result<()> {
        let path = self.dir.join(INPUTS);
        match self.inputs::<T>()? {
            None => files::write_file(&path, (serde_json::to_string_pretty(inputs)? + "\n").as_bytes()),
            Some(earlier) => {
                ensure!(
                    earlier == *inputs,
                    "the run {} was begun with another checkpoint or other data (see {}): choose another folder with \
                     --out, or delete it to run it again",
                    self.key,
                    path.display()
                );
                Ok(())
            }
        }
    }

    /// Writes the configuration of a new cell; compares it with that of an old one.
    fn settle_config(&self, resolved: &Value) -> Result<()> {
        let path = self.dir.join(CONFIG);
        if path.exists() {
            let stored = self.config()?;
            if canonical::content_hash(&stored) == canonical::content_hash(resolved) {
                return Ok(());
            }
            bail!(self.mismatch(&stored, resolved));
        }
        for name in [METRICS, SAMPLES, CHECKPOINTS] {
            ensure!(
                !self.dir.join(name).exists(),
                "{} has results but no {CONFIG}: restore it, or delete the folder to run the cell again",
                self.dir.display()
            );
        }
        files::write_file(&path, canonical::pretty_json(resolved).as_bytes())
    }

    fn mismatch(&self, stored: &Value, resolved: &Value) -> String {
        let differences = canonical::differences(stored, resolved);
        let mut shown: Vec<String> = differences.iter().map(|d| format!("\n  {d}")).collect();
        if shown.len() > SHOWN_DIFFERENCES {
            let more = shown.len() - SHOWN_DIFFERENCES;
            shown.truncate(SHOWN_DIFFERENCES);
            shown.push(format!("\n  and {more} more"));
        }
        format!(
            "the run {} was made with other settings (stored -> asked for):{}\nchoose another folder with --out, or \
             delete {} to run it again",
            self.key,
            shown.concat(),
            self.dir.display()
        )
    }

    /// Adds this build and machine to `provenance.json` unless the last entry says the same.
    fn note_provenance(&self) -> Result<()> {
        let current = Provenance::current();
        let mut entries = self.provenance()?;
        if self.is_done() || entries.last() == Some(&current) {
            return Ok(());
        }
        entries.push(current);
        let text = canonical::pretty_json(&serde_json::to_value(entries)?);
        files::write_file(&self.dir.join(PROVENANCE), text.as_bytes())
    }

    /// Brings the cell back to its newest checkpoint and returns it; `None` means: start at step 0.
    ///
    /// Lines of later steps are removed from the logs and the event file, since the steps will be taken again. Fails if the
    /// checkpoint is damaged, or if `metrics.jsonl` is damaged or lacks a step that the checkpoint has.
    pub fn resume(&self) -> Result<Option<Checkpoint>> {
        let checkpoint = self.checkpoints.newest()?;
        let step = checkpoint.as_ref().map_or(0, |c| c.step);
        let kept = cut_after(&self.dir.join(METRICS), step)?;
        cut_after(&self.dir.join(TIMING), step)?;
        ensure!(
            kept == (1..=step).collect::<Vec<_>>(),
            "{} does not have exactly the steps 1 to {step} of the checkpoint: restore it, or delete {} to run the \
             cell again",
            self.dir.join(METRICS).display(),
            self.dir.display()
        );
        if let Some(events) = &self.events {
            events.rewrite(&self.metrics()?, &self.timing()?)?;
        }
        Ok(checkpoint)
    }

    /// Appends one step to `metrics.jsonl` and `timing.jsonl`, and to the event file where one is kept. `step` counts from 1.
    ///
    /// Fails, naming it, if a figure is not finite: JSON has no such number, and it means a diverged run.
    pub fn log_step(
        &self,
        step: u64,
        metrics: &BTreeMap<String, f64>,
        timing: &BTreeMap<String, f64>,
    ) -> Result<()> {
        for (name, figures) in [(METRICS, metrics), (TIMING, timing)] {
            let line = StepLine { step, metrics: figures.clone() };
            if let Some((figure, value)) = figures.iter().find(|(_, value)| !value.is_finite()) {
                bail!("{}: `{figure}` is {value} at step {step}: a lower learning rate may help", self.key);
            }
            let text = serde_json::to_string(&line)? + "\n";
            files::append(&self.dir.join(name), text.as_bytes(), false)?;
        }
        if let Some(events) = &self.events {
            events.append(step, metrics, timing)?;
        }
        Ok(())
    }

    /// Writes the rollouts of a step, or writes them again.
    pub fn keep_rollouts(&self, step: u64, lines: &[RolloutLine]) -> Result<()> {
        write_jsonl(&self.dir.join(ROLLOUTS), &rollout_file(step), lines)
    }

    /// Writes the spotlight of the evaluation's benchmark of this number, or writes it again. None is no file.
    pub fn keep_spotlight(&self, number: usize, items: &[SpotlightItem]) -> Result<()> {
        if items.is_empty() {
            return Ok(());
        }
        write_jsonl(&self.dir.join(SPOTLIGHT), &spotlight_file(number), items)
    }

    /// Makes the logs durable, writes the checkpoint, and removes all but the newest two.
    pub fn save_checkpoint(&self, checkpoint: &Checkpoint) -> Result<()> {
        files::sync(&self.dir.join(METRICS))?;
        files::sync(&self.dir.join(TIMING))?;
        self.checkpoints.save(checkpoint)
    }

    /// Opens the log of the evaluation. `expected` lists each benchmark with its number of completions; whole
    /// benchmarks evaluated before are kept.
    pub fn sample_log(&self, expected: &[(String, usize)]) -> Result<SampleLog<'_>> {
        SampleLog::open(self, self.dir.join(SAMPLES), expected)
    }

    /// Marks the cell complete. Fails if the samples are not.
    pub fn mark_done(&self) -> Result<()> {
        ensure!(self.samples()?.is_some(), "{} is not complete: its evaluation is missing", self.key);
        let mark = Mark {
            config_blake3: canonical::content_hash(&self.config()?),
            samples_blake3: hash(&files::read(&self.dir.join(SAMPLES))?),
        };
        let mark = serde_json::to_value(mark)?;
        files::write_file(&self.dir.join(DONE), canonical::pretty_json(&mark).as_bytes())
    }
}

fn write_jsonl<T: Serialize>(dir: &Path, name: &str, lines: &[T]) -> Result<()> {
    files::create_dir(dir)?;
    let lines: Vec<String> = lines.iter().map(serde_json::to_string).collect::<Result<_, _>>()?;
    files::write_file(&dir.join(name), (lines.join("\n") + "\n").as_bytes())
}

fn lock(dir: &Path, key: &CellKey) -> Result<File> {
    let path = dir.join(LOCK);
    let file = files::lock_file(&path)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(anyhow!(
            "the run {key} is in use by another process (it holds {}): wait for it, or choose another folder with \
             --out",
            path.display()
        )),
        Err(TryLockError::Error(error)) => Err(error).with_context(|| {
            format!("cannot lock {}: choose a folder on a local disk with --out", path.display())
        }),
    }
}

/// Cuts a log after the lines of `step` and returns the steps kept.
fn cut_after(path: &Path, step: u64) -> Result<Vec<u64>> {
    let bytes = files::read_or_empty(path)?;
    let mut lines = files::whole_lines::<StepLine>(path, &bytes)?;
    lines.truncate(lines.iter().take_while(|line| line.value.step <= step).count());
    let end = lines.last().map_or(0, |line| line.end);
    if end < bytes.len() {
        files::write_file(path, &bytes[..end])?;
    }
    Ok(lines.iter().map(|line| line.value.step).collect())
}
