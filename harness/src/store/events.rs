//! The figures of a training as an event file of TensorBoard, to watch while it runs. `metrics.jsonl` and `timing.jsonl`
//! remain the record: the file is written anew from them when a command begins, and grows by one event per step.
//!
//! It is overwritten in place and equal to the byte but for the times of writing, so that a TensorBoard which watches it
//! goes on where the training does. What a kill tears off is mended by the next command. An event's wall time is when it
//! was written; the steps of earlier commands have the time of the beginning of the last one.
//!
//! Source: TensorFlow's `record_writer` (length, masked CRC-32C of it, data, masked CRC-32C of them) and the fields of
//! `event.proto` and `summary.proto` that a scalar needs.

use super::StepLine;
use super::files;
use anyhow::{Context as _, Result};
use crc::{CRC_32_ISCSI, Crc};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

const FOLDER: &str = "tensorboard";
/// TensorBoard reads the files whose names contain `tfevents`.
const FILE: &str = "events.out.tfevents.harness";
/// The content of the first event of every file.
const VERSION: &str = "brain.Event:2";
const CASTAGNOLI: Crc<u32> = Crc::<u32>::new(&CRC_32_ISCSI);
/// What TensorFlow adds to a rotated checksum.
const MASK: u32 = 0xa282_ead8;

/// The wire types of protocol buffers.
const VARINT: u8 = 0;
const EIGHT_BYTES: u8 = 1;
const LENGTH_FIRST: u8 = 2;
const FOUR_BYTES: u8 = 5;

/// The event file of one cell.
#[derive(Debug)]
pub(super) struct Events {
    folder: PathBuf,
}

impl Events {
    /// That of the cell in `dir`; nothing is written yet.
    pub(super) fn of(dir: &Path) -> Events {
        Events { folder: dir.join(FOLDER) }
    }

    fn path(&self) -> PathBuf {
        self.folder.join(FILE)
    }

    /// Writes the file from the lines of the steps so far.
    pub(super) fn rewrite(&self, metrics: &[StepLine], timing: &[StepLine]) -> Result<()> {
        let seconds: BTreeMap<u64, &StepLine> = timing.iter().map(|line| (line.step, line)).collect();
        let now = unix_secs();
        let mut bytes = record(&event(now, 0, &field(3, VERSION.as_bytes())));
        for line in metrics {
            let nothing = BTreeMap::new();
            let timing = seconds.get(&line.step).map_or(&nothing, |line| &line.metrics);
            bytes.extend(step_record(now, line.step, &line.metrics, timing));
        }
        files::create_dir(&self.folder)?;
        let path = self.path();
        std::fs::write(&path, bytes).with_context(|| files::cannot_write(&path))
    }

    /// Adds one step.
    pub(super) fn append(
        &self,
        step: u64,
        metrics: &BTreeMap<String, f64>,
        timing: &BTreeMap<String, f64>,
    ) -> Result<()> {
        files::append(&self.path(), &step_record(unix_secs(), step, metrics, timing), false)
    }
}

fn unix_secs() -> f64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0.0, |since| since.as_secs_f64())
}

/// The event of a step: its figures as `metrics/NAME` and `timing/NAME`.
fn step_record(
    wall_secs: f64,
    step: u64,
    metrics: &BTreeMap<String, f64>,
    timing: &BTreeMap<String, f64>,
) -> Vec<u8> {
    let mut summary = vec![];
    for (folder, figures) in [("metrics", metrics), ("timing", timing)] {
        for (name, value) in figures {
            let mut scalar = field(1, format!("{folder}/{name}").as_bytes());
            scalar.push(key(2, FOUR_BYTES));
            scalar.extend((*value as f32).to_le_bytes());
            summary.extend(field(1, &scalar));
        }
    }
    record(&event(wall_secs, step, &field(5, &summary)))
}

/// The message `Event`; `what` is its field for the kind of event.
fn event(wall_secs: f64, step: u64, what: &[u8]) -> Vec<u8> {
    let mut bytes = vec![key(1, EIGHT_BYTES)];
    bytes.extend(wall_secs.to_le_bytes());
    bytes.push(key(2, VARINT));
    bytes.extend(varint(step));
    bytes.extend(what);
    bytes
}

/// What stands before a field's value; `number` is at most 15.
fn key(number: u8, wire_type: u8) -> u8 {
    number << 3 | wire_type
}

/// A field that states its length: text or a message.
fn field(number: u8, content: &[u8]) -> Vec<u8> {
    let mut bytes = vec![key(number, LENGTH_FIRST)];
    bytes.extend(varint(content.len() as u64));
    bytes.extend(content);
    bytes
}

/// Seven bits a byte, the lowest first; the eighth says that more follow.
fn varint(mut value: u64) -> Vec<u8> {
    let mut bytes = vec![];
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}

/// The frame around an event.
fn record(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    [&length[..], &masked(&length), data, &masked(data)].concat()
}

fn masked(bytes: &[u8]) -> [u8; 4] {
    CASTAGNOLI.checksum(bytes).rotate_right(15).wrapping_add(MASK).to_le_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_numbers_are_cut_into_sevens() {
        assert_eq!((varint(0), varint(127), varint(300)), (vec![0], vec![127], vec![0xac, 0x02]));
        assert_eq!(varint(u64::MAX).len(), 10);
    }

    /// An event of one scalar, byte by byte.
    #[test]
    fn a_step_by_hand() {
        let bytes = step_record(1.0, 3, &BTreeMap::from([("a".into(), 0.5)]), &BTreeMap::new());
        let scalar = [b"\x0a\x09metrics/a".as_slice(), &[0x15, 0, 0, 0, 0x3f]].concat();
        let summary = [&[0x0a, 16][..], &scalar].concat();
        let event = [&[0x09, 0, 0, 0, 0, 0, 0, 0xf0, 0x3f, 0x10, 3, 0x2a, 18][..], &summary].concat();
        assert_eq!(bytes[..8], [31, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(bytes[12..43], event);
        assert_eq!(bytes.len(), 47);
    }
}
