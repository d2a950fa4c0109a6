//! Event files of TensorBoard, read back with a reader of their own: the figures of the lines, whatever happens on the
//! way.

#[cfg(feature = "candle")]
use crate::run::{assert_same, cell as cell_dir, reference, start, study, succeeds, wait_for};
use harness::store::{Cell, CellKey, Checkpoint, StepLine, Store};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

const FILE: &str = "events.out.tfevents.harness";

fn file(cell: &Path) -> PathBuf {
    cell.join("tensorboard").join(FILE)
}

/// CRC-32C, bit by bit.
fn crc32c(bytes: &[u8]) -> u32 {
    let step = |crc: u32| if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
    !bytes.iter().fold(!0, |crc, &byte| (0..8).fold(crc ^ u32::from(byte), |crc, _| step(crc)))
}

/// The contents of the records of a file; every checksum must be right and nothing may be left over.
fn records(bytes: &[u8]) -> Vec<Vec<u8>> {
    let check = |bytes: &[u8], stored: &[u8]| {
        let crc = crc32c(bytes);
        let masked = crc.rotate_right(15).wrapping_add(0xa282_ead8);
        assert_eq!(masked.to_le_bytes(), stored);
    };
    let mut rest = bytes;
    let mut found = vec![];
    while !rest.is_empty() {
        check(&rest[..8], &rest[8..12]);
        let length = u64::from_le_bytes(rest[..8].try_into().unwrap()) as usize;
        let data = &rest[12..12 + length];
        check(data, &rest[12 + length..16 + length]);
        found.push(data.to_vec());
        rest = &rest[16 + length..];
    }
    found
}

/// The value of one field of a message.
#[derive(Debug, PartialEq)]
enum Value<'a> {
    Whole(u64),
    Double(f64),
    Float(f32),
    Bytes(&'a [u8]),
}

fn whole(bytes: &mut &[u8]) -> u64 {
    let (mut value, mut shift) = (0, 0);
    loop {
        let byte = bytes[0];
        *bytes = &bytes[1..];
        value |= u64::from(byte & 0x7f) << shift;
        shift += 7;
        if byte < 0x80 {
            return value;
        }
    }
}

/// The fields of a message with their numbers.
fn fields(mut bytes: &[u8]) -> Vec<(u64, Value<'_>)> {
    let mut found = vec![];
    while !bytes.is_empty() {
        let key = whole(&mut bytes);
        let length = match key & 7 {
            0 => {
                found.push((key >> 3, Value::Whole(whole(&mut bytes))));
                continue;
            }
            1 => 8,
            2 => whole(&mut bytes) as usize,
            5 => 4,
            other => panic!("wire type {other}"),
        };
        let (content, rest) = bytes.split_at(length);
        bytes = rest;
        found.push((
            key >> 3,
            match key & 7 {
                1 => Value::Double(f64::from_le_bytes(content.try_into().unwrap())),
                5 => Value::Float(f32::from_le_bytes(content.try_into().unwrap())),
                _ => Value::Bytes(content),
            },
        ));
    }
    found
}

/// The steps of an event file with their scalars. The wall times must be of this hour and never go back.
fn steps(path: &Path) -> Vec<(u64, BTreeMap<String, f32>)> {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
    let mut last = now - 3600.0;
    let bytes = fs::read(path).unwrap();
    let mut found = vec![];
    for (number, data) in records(&bytes).iter().enumerate() {
        let [(1, Value::Double(wall)), (2, Value::Whole(step)), (what, Value::Bytes(content))] =
            fields(data)[..]
        else {
            panic!("{:?}", fields(data));
        };
        assert!((last..=now).contains(&wall), "{wall} after {last}");
        last = wall;
        if number == 0 {
            assert_eq!((what, step, content), (3, 0, b"brain.Event:2".as_slice()));
            continue;
        }
        assert_eq!(what, 5);
        found.push((step, fields(content).into_iter().map(scalar).collect()));
    }
    found
}

fn scalar((number, value): (u64, Value<'_>)) -> (String, f32) {
    let Value::Bytes(value) = value else { panic!("{value:?}") };
    let [(1, Value::Bytes(tag)), (2, Value::Float(value))] = fields(value)[..] else { panic!("{value:?}") };
    assert_eq!(number, 1);
    (String::from_utf8(tag.to_vec()).unwrap(), value)
}

/// What the event file of these lines must hold.
fn expected(metrics: &[StepLine], timing: &[StepLine]) -> Vec<(u64, BTreeMap<String, f32>)> {
    assert_eq!(metrics.len(), timing.len());
    let named = |folder: &'static str, line: &StepLine| {
        let figures = line.metrics.clone().into_iter();
        figures.map(move |(name, value)| (format!("{folder}/{name}"), value as f32)).collect::<Vec<_>>()
    };
    let both = |(metrics, timing): (&StepLine, &StepLine)| {
        assert_eq!(metrics.step, timing.step);
        let figures = named("metrics", metrics).into_iter().chain(named("timing", timing));
        (metrics.step, figures.collect())
    };
    metrics.iter().zip(timing).map(both).collect()
}

#[track_caller]
fn assert_follows(cell: &harness::store::CellRecord, count: usize) {
    let found = steps(&file(cell.dir()));
    assert_eq!(found.len(), count);
    assert_eq!(found, expected(&cell.metrics().unwrap(), &cell.timing().unwrap()));
}

fn key() -> CellKey {
    CellKey { scale: "tiny".into(), study: "main".into(), variant: "vppo".into(), seed: 1 }
}

fn open(root: &Path) -> Cell {
    let mut cell = Store::open(root).unwrap().cell(&key(), &serde_json::json!({})).unwrap();
    cell.keep_events().unwrap();
    cell
}

fn train(cell: &Cell, first: u64, last: u64) {
    for step in first..=last {
        let figures = |name: &str, value: f64| BTreeMap::from([(name.to_owned(), value)]);
        let seconds = figures("step_secs", 0.5 + step as f64);
        cell.log_step(step, &figures("loss", 1.0 / step as f64), &seconds).unwrap();
        if step % 100 == 0 {
            let files = vec![("weights".to_owned(), vec![1])];
            cell.save_checkpoint(&Checkpoint { step, files }).unwrap();
        }
    }
}

#[test]
fn the_tests_own_checksum_is_the_published_one() {
    // RFC 3720, B.4, and the check value of the catalogue.
    assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
    assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
    assert_eq!(crc32c(&(0..32).collect::<Vec<u8>>()), 0x46dd_794e);
    assert_eq!(crc32c(b"123456789"), 0xe306_9283);
}

#[test]
fn a_killed_run_has_every_step_once() {
    let (whole, killed) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let cell = open(whole.path());
    assert!(!file(cell.dir()).exists(), "nothing is trained yet");
    cell.resume().unwrap();
    assert!(steps(&file(cell.dir())).is_empty());
    train(&cell, 1, 305);
    assert_follows(&cell, 305);

    let other = open(killed.path());
    other.resume().unwrap();
    train(&other, 1, 250);
    drop(other);
    let path = file(&killed.path().join(key().to_string()));
    let torn = fs::read(&path).unwrap();
    fs::write(&path, &torn[..torn.len() - 3]).unwrap();
    let other = open(killed.path());
    assert_follows(&other, 250);
    assert_eq!(other.resume().unwrap().map(|checkpoint| checkpoint.step), Some(200));
    assert_follows(&other, 200);
    train(&other, 201, 305);
    assert_follows(&other, 305);

    let timeless = |cell: &Cell| {
        let mut records = records(&fs::read(file(cell.dir())).unwrap());
        records.iter_mut().for_each(|record| record[1..9].fill(0));
        records
    };
    assert!(timeless(&cell) == timeless(&other), "the files differ in more than the time");
}

#[test]
fn a_damaged_record_is_seen() {
    let root = tempfile::tempdir().unwrap();
    let cell = open(root.path());
    cell.resume().unwrap();
    train(&cell, 1, 2);
    let mut bytes = fs::read(file(cell.dir())).unwrap();
    let at = bytes.len() - 6;
    bytes[at] ^= 1;
    assert!(std::panic::catch_unwind(|| records(&bytes)).is_err());
}

/// With the flag every other file of a cell is as without, also where the run is killed on the way; a finished run is
/// given the file from its lines.
#[cfg(feature = "candle")]
#[test]
fn watching_changes_nothing_else() {
    let folder = reference().with_base();
    let reproduce = || study("reproduce", folder.path(), &["--variants", "base,grpo", "--tensorboard"]);
    let grpo = cell_dir(folder.path(), "grpo");
    let mut child = start(reproduce());
    wait_for(&grpo.join("metrics.jsonl"));
    child.kill().unwrap();
    child.wait().unwrap();
    succeeds(reproduce());
    let except = ["provenance.json", "timing.jsonl", ".lock", FILE];
    for arm in ["base", "grpo"] {
        assert_same(&cell_dir(reference().out(), arm), &cell_dir(folder.path(), arm), &except);
    }
    let store = Store::open(folder.path().join("runs")).unwrap();
    let key = CellKey { scale: "smoke".into(), variant: "grpo".into(), ..key() };
    let record = store.read_only(&key).unwrap();
    let count = record.metrics().unwrap().len();
    assert!(count > 1);
    assert_follows(&record, count);
    assert!(!cell_dir(folder.path(), "base").join("tensorboard").exists(), "the base model is not trained");

    fs::remove_dir_all(grpo.join("tensorboard")).unwrap();
    succeeds(study("reproduce", folder.path(), &["--variants", "base,grpo"]));
    assert!(!grpo.join("tensorboard").exists(), "nobody asked for it");
    succeeds(reproduce());
    assert_follows(&record, count);
}
