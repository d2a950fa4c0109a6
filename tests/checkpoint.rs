//! Checkpoint directories: every layout opens to the same model, what is saved opens again, and what is wrong is
//! named (`faults`). The files beside the weights are in `companions`.

mod companions;
mod faults;

use candle_core::{DType, Device, Tensor};
use harness::model::Model;
use harness::model::checkpoint::{CONFIG, Files, INDEX, SaveSettings, WEIGHTS, WeightType, open, save};
use harness::settings::ModelSettings;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use tempfile::TempDir;

/// Tensors of a file by name.
type Tensors = BTreeMap<String, Tensor>;

fn toy(tied: bool) -> Model {
    let settings = ModelSettings {
        hidden_size: 32,
        intermediate_size: 24,
        layers: 2,
        heads: 4,
        kv_heads: 2,
        mrope_section: [2, 1, 1],
        rope_theta: 1000.0,
        tie_word_embeddings: tied,
        vision_hidden_size: 16,
        vision_intermediate_size: 20,
        vision_depth: 2,
        vision_heads: 2,
        vision_full_attention_blocks: vec![1],
        vision_window_pixels: 56,
        min_pixels: 784,
        max_pixels: 12_544,
    };
    Model::random(&settings, 24, 1, 3).unwrap()
}

fn config_of(model: &Model) -> String {
    model.config().to_json(2, 0).unwrap()
}

fn tensors_of(model: &Model) -> Tensors {
    model.params().iter().map(|(name, tensor)| (name.to_owned(), tensor.clone())).collect()
}

/// All values of a model, bit for bit.
fn bits(model: &Model) -> Vec<u32> {
    let values = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    model.params().iter().flat_map(|(_, t)| values(t)).map(f32::to_bits).collect()
}

fn write_tensors(path: &Path, tensors: &Tensors) {
    fs::write(path, safetensors::serialize(tensors, None).unwrap()).unwrap();
}

/// A directory with one file of weights.
fn folder(config: &str, tensors: &Tensors) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join(CONFIG), config).unwrap();
    write_tensors(&dir.path().join(WEIGHTS), tensors);
    dir
}

/// A directory with two shards and their index.
fn sharded(config: &str, tensors: &Tensors) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join(CONFIG), config).unwrap();
    let mut weight_map = BTreeMap::new();
    for (part, file) in ["a.safetensors", "b.safetensors"].iter().enumerate() {
        let of_part = tensors.iter().enumerate().filter(|(i, _)| i % 2 == part);
        let of_part: Tensors = of_part.map(|(_, (name, t))| (name.clone(), t.clone())).collect();
        weight_map.extend(of_part.keys().map(|name| (name.clone(), *file)));
        write_tensors(&dir.path().join(file), &of_part);
    }
    let total: usize = tensors.values().map(|t| t.elem_count() * t.dtype().size_in_bytes()).sum();
    let index = json!({ "metadata": { "total_size": total, "more": 1 }, "weight_map": weight_map });
    fs::write(dir.path().join(INDEX), index.to_string()).unwrap();
    dir
}

fn renamed(tensors: &Tensors, rename: impl Fn(&str) -> String) -> Tensors {
    tensors.iter().map(|(name, tensor)| (rename(name), tensor.clone())).collect()
}

/// The names that transformers' modules have.
fn nested_name(name: &str) -> String {
    match name.strip_prefix("model.") {
        Some(rest) => format!("model.language_model.{rest}"),
        None if name.starts_with("visual.") => format!("model.{name}"),
        None => name.to_owned(),
    }
}

/// The names that older tools write.
fn wrapped_name(name: &str) -> String {
    if name.starts_with("visual.") { name.to_owned() } else { format!("language_model.{name}") }
}

#[test]
fn every_naming_tied_or_not_in_one_file_or_shards_opens_to_the_same_model() {
    for tied in [true, false] {
        let model = toy(tied);
        let mut original = tensors_of(&model);
        let table = Tensor::zeros(4, DType::F32, &Device::Cpu).unwrap();
        original.insert("visual.rotary_pos_emb.inv_freq".into(), table);
        for rename in [str::to_owned, nested_name, wrapped_name] {
            let tensors = renamed(&original, rename);
            for dir in [folder(&config_of(&model), &tensors), sharded(&config_of(&model), &tensors)] {
                assert_eq!(bits(&open(dir.path()).unwrap()), bits(&model));
            }
        }
    }
}

#[test]
fn sixteen_bit_weights_are_widened() {
    let model = toy(false);
    for dtype in [DType::F16, DType::BF16] {
        let narrow = |t: &Tensor| t.to_dtype(dtype).unwrap();
        let tensors: Tensors = tensors_of(&model).iter().map(|(name, t)| (name.clone(), narrow(t))).collect();
        let opened = open(sharded(&config_of(&model), &tensors).path()).unwrap();
        for (name, value) in opened.params().iter() {
            let wide = tensors[name].to_dtype(DType::F32).unwrap();
            let difference = (value - &wide).unwrap().abs().unwrap().sum_all().unwrap();
            assert_eq!(difference.to_scalar::<f32>().unwrap(), 0.0, "{dtype:?} {name}");
        }
    }
}

#[test]
fn a_tensor_of_several_pieces_is_whole() {
    let mut config: Value = serde_json::from_str(&config_of(&toy(false))).unwrap();
    let (rows, width) = (70_001, 32);
    config["vocab_size"] = rows.into();
    let values = (0..rows * width).map(|i| i as f32).collect();
    let large = Tensor::from_vec(values, (rows, width), &Device::Cpu).unwrap();
    let mut tensors = tensors_of(&toy(false));
    for name in ["model.embed_tokens.weight", "lm_head.weight"] {
        tensors.insert(name.into(), large.clone());
    }
    let opened = open(folder(&config.to_string(), &tensors).path()).unwrap();
    let (_, embedding) = opened.params().iter().next().unwrap();
    let read: Vec<f32> = embedding.flatten_all().unwrap().to_vec1().unwrap();
    assert!(read.iter().enumerate().all(|(i, &value)| value == i as f32));
}

#[test]
fn a_tied_head_in_the_file_must_be_the_embedding() {
    let model = toy(true);
    let mut tensors = tensors_of(&model);
    let embedding = tensors["model.embed_tokens.weight"].clone();
    tensors.insert("lm_head.weight".into(), embedding.clone());
    assert_eq!(bits(&open(folder(&config_of(&model), &tensors).path()).unwrap()), bits(&model));
    for other in [(&embedding * 2.0).unwrap(), embedding.narrow(0, 0, 3).unwrap()] {
        tensors.insert("lm_head.weight".into(), other);
        let error = open(folder(&config_of(&model), &tensors).path()).unwrap_err();
        let message = format!("{error:#}");
        assert!(message.contains("\"lm_head.weight\"") && message.contains("differs"), "{message}");
    }
}

fn files(model: &Model) -> Files {
    vec![(CONFIG.into(), config_of(model).into_bytes()), ("merges.txt".into(), b"#version\na b\n".to_vec())]
}

fn save_into(dir: &Path, model: &Model, weights: WeightType, max_shard_bytes: u64) {
    save(dir, &files(model), model, &SaveSettings { weights, max_shard_bytes }).unwrap();
}

fn names_in(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap();
    let mut names: Vec<String> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn what_is_saved_opens_to_the_same_model() {
    for tied in [true, false] {
        let model = toy(tied);
        let dir = tempfile::tempdir().unwrap();
        save_into(dir.path(), &model, WeightType::F32, 20_000);
        assert!(names_in(dir.path()).len() > 5, "{:?}", names_in(dir.path()));
        assert_eq!(bits(&open(dir.path()).unwrap()), bits(&model));
        for name in names_in(dir.path()) {
            let bytes = fs::read(dir.path().join(&name)).unwrap();
            if let Ok(shard) = safetensors::SafeTensors::deserialize(&bytes) {
                let held: usize = shard.iter().map(|(_, tensor)| tensor.data().len()).sum();
                assert!(held <= 20_000 || shard.len() == 1, "{name}: {held} bytes");
            }
        }
        // Saved over the shards and a crash's leftover: one file, and nothing of them stays.
        fs::write(dir.path().join(".model-00001-of-00002.safetensors.tmp"), "half").unwrap();
        save_into(dir.path(), &model, WeightType::F32, u64::MAX);
        assert_eq!(names_in(dir.path()), [CONFIG, "merges.txt", WEIGHTS]);
        assert_eq!(bits(&open(dir.path()).unwrap()), bits(&model));
        assert_eq!(fs::read(dir.path().join("merges.txt")).unwrap(), b"#version\na b\n");
    }
}

#[test]
fn bf16_is_saved_rounded_and_then_unchanged() {
    let model = toy(false);
    let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    save_into(first.path(), &model, WeightType::Bf16, 20_000);
    let rounded = open(first.path()).unwrap();
    for ((name, value), (_, original)) in rounded.params().iter().zip(model.params().iter()) {
        let expected = original.to_dtype(DType::BF16).unwrap().to_dtype(DType::F32).unwrap();
        let difference = (value - &expected).unwrap().abs().unwrap().sum_all().unwrap();
        assert_eq!(difference.to_scalar::<f32>().unwrap(), 0.0, "{name}");
    }
    save_into(second.path(), &rounded, WeightType::Bf16, 20_000);
    assert_eq!(names_in(first.path()), names_in(second.path()));
    for name in names_in(first.path()) {
        assert_eq!(fs::read(first.path().join(&name)).unwrap(), fs::read(second.path().join(&name)).unwrap());
    }
}

#[test]
fn the_configuration_keeps_what_it_had_and_names_the_type_of_the_weights() {
    let model = toy(true);
    let mut config: Value = serde_json::from_str(&config_of(&model)).unwrap();
    config["of_tomorrow"] = json!({ "kept": [1, 2.5e-7] });
    config["vision_config"]["dtype"] = "float32".into();
    let dir = tempfile::tempdir().unwrap();
    let saved = |weights: WeightType| -> Vec<u8> {
        let files = vec![(CONFIG.to_owned(), config.to_string().into_bytes())];
        save(dir.path(), &files, &model, &SaveSettings { weights, max_shard_bytes: u64::MAX }).unwrap();
        fs::read(dir.path().join(CONFIG)).unwrap()
    };
    assert_eq!(saved(WeightType::F32), config.to_string().as_bytes(), "nothing to change: the same bytes");
    let mut expected = config.clone();
    expected["torch_dtype"] = "bfloat16".into();
    expected["vision_config"]["dtype"] = "bfloat16".into();
    assert_eq!(serde_json::from_slice::<Value>(&saved(WeightType::Bf16)).unwrap(), expected);
}
