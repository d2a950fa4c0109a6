//! Checkpoints that must not open, and what their errors name.

use super::{Tensors, config_of, folder, sharded, tensors_of, toy, write_tensors};
use candle_core::{DType, Tensor};
use harness::model::checkpoint::{CONFIG, INDEX, WEIGHTS, open};
use serde_json::Value;
use std::fs;
use std::path::Path;

const NORM: &str = "model.norm.weight";

fn check_message(dir: &Path, named: &[&str]) {
    let message = format!("{:#}", open(dir).unwrap_err());
    assert!(message.contains(&dir.display().to_string()), "{message}");
    for part in named {
        assert!(message.contains(part), "{part:?} is not in: {message}");
    }
}

/// A faulty single file.
fn check(change: impl FnOnce(&mut Tensors), named: &[&str]) {
    let model = toy(false);
    let mut tensors = tensors_of(&model);
    change(&mut tensors);
    check_message(folder(&config_of(&model), &tensors).path(), named);
}

/// Sound shards whose index or files are then changed.
fn check_shards(change: impl FnOnce(&Path, &mut Value), named: &[&str]) {
    let model = toy(false);
    let dir = sharded(&config_of(&model), &tensors_of(&model));
    let path = dir.path().join(INDEX);
    let mut index = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    change(dir.path(), &mut index);
    fs::write(&path, index.to_string()).unwrap();
    check_message(dir.path(), named);
}

fn scalar() -> Tensor {
    Tensor::zeros(1, DType::F32, &candle_core::Device::Cpu).unwrap()
}

#[test]
fn tensors_that_do_not_fit_the_configuration() {
    check(|tensors| drop(tensors.remove(NORM)), &["missing: \"model.norm.weight\""]);
    check(
        |tensors| drop(tensors.remove("lm_head.weight")),
        &["missing: \"lm_head.weight\"", "tie_word_embeddings"],
    );
    check(
        |tensors| drop(tensors.insert("model.extra".into(), scalar())),
        &["not part of the model: \"model.extra\" in model.safetensors"],
    );
    check(
        |tensors| drop(tensors.insert(NORM.into(), scalar())),
        &["misshapen: \"model.norm.weight\" in model.safetensors is [1], config.json asks for [32]"],
    );
    // A file names its tensors in its own way, and so does the message.
    check(
        |tensors| {
            tensors.remove(NORM);
            tensors.insert("model.language_model.norm.weight".into(), scalar());
        },
        &["misshapen: \"model.language_model.norm.weight\""],
    );
    check(
        |tensors| drop(tensors.insert("model.language_model.norm.weight".into(), scalar())),
        &["\"model.norm.weight\"", "\"model.language_model.norm.weight\"", "are the same one"],
    );
}

#[test]
fn many_faults_are_counted_and_all_kinds_told_at_once() {
    check(
        |tensors| {
            tensors.retain(|name, _| !name.starts_with("model.layers.1."));
            tensors.insert("model.extra".into(), scalar());
        },
        &["\"model.layers.1.input_layernorm.weight\"", " and 7 more; not part of the model: \"model.extra\""],
    );
}

#[test]
fn types_that_are_not_read() {
    check(
        |tensors| {
            let whole = tensors[NORM].to_dtype(DType::I64).unwrap();
            tensors.insert(NORM.into(), whole);
        },
        &["\"model.norm.weight\" of model.safetensors", "I64", "BF16"],
    );
}

#[test]
fn files_that_are_cut_or_something_else() {
    let model = toy(true);
    let dir = folder(&config_of(&model), &tensors_of(&model));
    let path = dir.path().join(WEIGHTS);
    let whole = fs::read(&path).unwrap();
    let (found, expected) = (whole.len() - 9, whole.len());
    fs::write(&path, &whole[..found]).unwrap();
    let counts = format!("has {found} bytes, its header asks for {expected}: it is truncated");
    check_message(dir.path(), &[WEIGHTS, &counts]);
    fs::write(&path, &whole[..100]).unwrap();
    check_message(dir.path(), &["truncated"]);
    fs::write(&path, [&whole[..], b"more"].concat()).unwrap();
    check_message(dir.path(), &["damaged"]);
    fs::write(&path, "version https://git-lfs.github.com/spec/v1\n").unwrap();
    check_message(dir.path(), &["git-lfs pointer"]);
    fs::write(&path, "").unwrap();
    check_message(dir.path(), &["only 0 bytes"]);
    let mut broken = whole.clone();
    broken[8..12].copy_from_slice(b"[[[[");
    fs::write(&path, broken).unwrap();
    check_message(dir.path(), &["header", "damaged"]);
    fs::remove_file(&path).unwrap();
    check_message(dir.path(), &["neither model.safetensors nor model.safetensors.index.json"]);
    fs::remove_file(dir.path().join(CONFIG)).unwrap();
    check_message(dir.path(), &[CONFIG]);
}

#[test]
fn an_index_that_lies() {
    check_shards(
        |_, index| index["metadata"]["total_size"] = 1.into(),
        &[INDEX, "total_size 1", "bytes of values"],
    );
    check_shards(
        |_, index| index["weight_map"]["model.ghost"] = "a.safetensors".into(),
        &["a.safetensors holds these tensors, which it does not: \"model.ghost\""],
    );
    check_shards(
        |_, index| drop(index["weight_map"].as_object_mut().unwrap().remove(NORM)),
        &[".safetensors holds these tensors, which the index does not list for it: \"model.norm.weight\""],
    );
    check_shards(
        |dir, _| {
            let twice: Tensors = tensors_of(&toy(false));
            write_tensors(&dir.join("a.safetensors"), &twice);
        },
        &["a.safetensors holds these tensors", "(listed for b.safetensors)", "more"],
    );
    check_shards(
        |_, index| index["weight_map"][NORM] = "c.safetensors".into(),
        &["a shard that the index names", "c.safetensors"],
    );
    check_shards(
        |_, index| index["weight_map"][NORM] = "../a.safetensors".into(),
        &["../a.safetensors", "not the name of a file beside it"],
    );
    check_shards(|_, index| *index = "text".into(), &[INDEX, "not an index of shards"]);
    check_shards(
        |dir, _| {
            let file = dir.join("b.safetensors");
            let whole = fs::read(&file).unwrap();
            fs::write(&file, &whole[..whole.len() - 1]).unwrap();
        },
        &["b.safetensors", "truncated"],
    );
    check_shards(
        |dir, _| write_tensors(&dir.join(WEIGHTS), &Tensors::new()),
        &["both model.safetensors and model.safetensors.index.json"],
    );
}
