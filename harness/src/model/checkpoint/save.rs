//! Writing a checkpoint directory in the hub's original layout, tensor by tensor.
//!
//! A directory that is being written does not open: old weights are removed first, and what makes the new ones
//! complete (the single file, or the index of the shards) appears last. Every file appears whole or not at all.

use super::float::narrow;
use super::{CONFIG, Files, INDEX, WEIGHTS};
use crate::model::kernels::view;
use crate::model::network::Model;
use crate::model::ops::on_host;
use anyhow::{Context, Result};
use candle_core::Tensor;
use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};
use serde_json::{Value, json};
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::Path;

/// Values converted at once.
const PIECE: usize = 1 << 20;

/// Type of saved weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WeightType {
    /// What the model computes with: nothing is lost.
    F32,
    /// What the hub serves: half the size, rounded to nearest, ties to even.
    Bf16,
}

impl WeightType {
    fn dtype(self) -> Dtype {
        match self {
            Self::F32 => Dtype::F32,
            Self::Bf16 => Dtype::BF16,
        }
    }

    /// PyTorch's name, as in `config.json`.
    fn name(self) -> &'static str {
        match self {
            Self::F32 => "float32",
            Self::Bf16 => "bfloat16",
        }
    }
}

/// How weights are saved.
#[derive(Clone, Copy, Debug)]
pub struct SaveSettings {
    /// Type of the weights.
    pub weights: WeightType,
    /// Most bytes of values in one file; a single larger tensor has a file of its own.
    pub max_shard_bytes: u64,
}

impl Default for SaveSettings {
    /// f32 in files of at most 5 GB, the size that the hub uses.
    fn default() -> Self {
        Self { weights: WeightType::F32, max_shard_bytes: 5_000_000_000 }
    }
}

/// Tensors of one file, in the order of the model.
type Part<'a> = Vec<(&'a str, &'a Tensor)>;

/// Writes a checkpoint directory: `files` (without weights) as they are, except that `config.json` names the
/// type of the weights, and the model's weights under the hub's original names.
///
/// # Errors
/// Names the file that cannot be written; the directory then holds no checkpoint that opens.
pub fn save(dir: &Path, files: &Files, model: &Model, settings: &SaveSettings) -> Result<()> {
    fs::create_dir_all(dir).with_context(|| cannot_write(dir))?;
    remove_weights(dir)?;
    for (name, bytes) in files_for(files, settings.weights)? {
        write_whole(&dir.join(name), |file| Ok(file.write_all(&bytes)?))?;
    }
    let parts = split(model, settings);
    if let [part] = parts.as_slice() {
        write_part(&dir.join(WEIGHTS), part, settings.weights)?;
    } else {
        write_shards(dir, &parts, settings.weights)?;
    }
    File::open(dir).and_then(|dir| dir.sync_all()).with_context(|| cannot_write(dir))
}

/// The files of a checkpoint with a `config.json` that names this type of weights.
pub(crate) fn files_for(files: &Files, weights: WeightType) -> Result<Files> {
    let mut files = files.clone();
    for (_, bytes) in files.iter_mut().filter(|(name, _)| name == CONFIG) {
        let mut config: Value = serde_json::from_slice(bytes).context(CONFIG)?;
        if set_dtype(&mut config, weights.name()) {
            *bytes = (serde_json::to_string_pretty(&config)? + "\n").into_bytes();
        }
    }
    Ok(files)
}

/// Sets the type of the weights wherever a configuration states it. Whether that changed anything.
fn set_dtype(config: &mut Value, dtype: &str) -> bool {
    let Value::Object(fields) = config else { return false };
    let mut changed = false;
    for key in ["torch_dtype", "dtype"] {
        if let Some(stated) = fields.get_mut(key).filter(|stated| **stated != dtype) {
            *stated = dtype.into();
            changed = true;
        }
    }
    for key in ["text_config", "vision_config"] {
        changed |= fields.get_mut(key).is_some_and(|part| set_dtype(part, dtype));
    }
    changed
}

fn write_shards(dir: &Path, parts: &[Part<'_>], weights: WeightType) -> Result<()> {
    let name = |i: usize| format!("model-{:05}-of-{:05}.safetensors", i + 1, parts.len());
    let mut weight_map = serde_json::Map::new();
    for (i, part) in parts.iter().enumerate() {
        write_part(&dir.join(name(i)), part, weights)?;
        weight_map.extend(part.iter().map(|(tensor, _)| ((*tensor).to_owned(), name(i).into())));
    }
    let total_size: usize = parts.iter().flatten().map(|(_, tensor)| bytes_of(tensor, weights)).sum();
    let index = json!({ "metadata": { "total_size": total_size }, "weight_map": weight_map });
    let text = serde_json::to_string_pretty(&index)? + "\n";
    write_whole(&dir.join(INDEX), |file| Ok(file.write_all(text.as_bytes())?))
}

/// The model's tensors in files of at most `max_shard_bytes`.
fn split<'a>(model: &'a Model, settings: &SaveSettings) -> Vec<Part<'a>> {
    let mut parts: Vec<Part<'a>> = vec![vec![]];
    let mut filled = 0;
    for (name, tensor) in model.params().iter() {
        let bytes = bytes_of(tensor, settings.weights) as u64;
        if filled > 0 && filled + bytes > settings.max_shard_bytes {
            parts.push(vec![]);
            filled = 0;
        }
        filled += bytes;
        if let Some(part) = parts.last_mut() {
            part.push((name, tensor));
        }
    }
    parts
}

fn bytes_of(tensor: &Tensor, weights: WeightType) -> usize {
    tensor.elem_count() * weights.dtype().bitsize() / 8
}

/// Writes one safetensors file.
fn write_part(path: &Path, part: &Part<'_>, weights: WeightType) -> Result<()> {
    let header = header(part, weights)?;
    write_whole(path, |file| {
        file.write_all(&(header.len() as u64).to_le_bytes())?;
        file.write_all(header.as_bytes())?;
        let mut bytes = Vec::new();
        for (_, tensor) in part {
            for piece in view(&on_host(tensor)?)?.chunks(PIECE) {
                bytes.clear();
                narrow(weights.dtype(), piece, &mut bytes)?;
                file.write_all(&bytes)?;
            }
        }
        Ok(())
    })
}

/// The JSON that describes a file's tensors, padded with spaces to whole words of 8 bytes.
fn header(part: &Part<'_>, weights: WeightType) -> Result<String> {
    let mut end = 0;
    let mut place = |(name, tensor): &(&str, &Tensor)| {
        let start = end;
        end += bytes_of(tensor, weights);
        let shape = tensor.dims().to_vec();
        ((*name).to_owned(), TensorInfo { dtype: weights.dtype(), shape, data_offsets: (start, end) })
    };
    let tensors = part.iter().map(&mut place).collect();
    let format = [("format".to_owned(), "pt".to_owned())].into_iter().collect();
    let json = serde_json::to_string(&Metadata::new(Some(format), tensors)?)?;
    let padded = json.len().next_multiple_of(8);
    Ok(format!("{json:<padded$}"))
}

/// Removes the weights of an earlier checkpoint (what makes them complete first) and what a crash left of one.
fn remove_weights(dir: &Path) -> Result<()> {
    let mut names = vec![INDEX.to_owned(), WEIGHTS.to_owned()];
    for entry in fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        let is_shard = name.starts_with("model-") && name.contains("-of-") && name.ends_with(".safetensors");
        let is_leftover = name.starts_with(".model") && name.ends_with(".safetensors.tmp");
        if is_shard || is_leftover {
            names.push(name);
        }
    }
    for path in names.into_iter().map(|name| dir.join(name)).filter(|path| path.exists()) {
        fs::remove_file(&path).with_context(|| cannot_write(&path))?;
    }
    Ok(())
}

/// Writes a file under a temporary name and renames it when it is complete and on the disk.
fn write_whole(path: &Path, write: impl FnOnce(&mut BufWriter<File>) -> Result<()>) -> Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = path.with_file_name(format!(".{name}.tmp"));
    let written = || -> Result<()> {
        let mut file = BufWriter::new(File::create(&temporary)?);
        write(&mut file)?;
        file.into_inner()?.sync_all()?;
        Ok(fs::rename(&temporary, path)?)
    };
    let written = written();
    if written.is_err() {
        fs::remove_file(&temporary).ok();
    }
    written.with_context(|| cannot_write(path))
}

fn cannot_write(path: &Path) -> String {
    format!("cannot write {}: make the folder writable or free disk space", path.display())
}
