//! One safetensors file, in memory or on disk: its header is read and checked, its values are read on demand.
//!
//! Values of a file on disk are mapped piece by piece and each piece is unmapped as soon as it is converted. So a
//! model needs its own size in memory and a few pieces more, whatever the size of the files.

use super::float::widen;
use anyhow::{Context, Result, ensure};
use memmap2::{Mmap, MmapOptions};
use rayon::prelude::*;
use safetensors::tensor::{Metadata, TensorInfo};
use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;

/// Values converted by one task, and mapped at once.
const PIECE: usize = 1 << 20;

/// Longest header in bytes: the format's own limit.
const MAX_HEADER: u64 = 100_000_000;

/// Bytes of the header's length, with which a file begins.
const LENGTH_BYTES: u64 = 8;

enum Data<'a> {
    Disk(File),
    Memory(&'a [u8]),
}

/// A safetensors file whose header is known.
pub(super) struct Shard<'a> {
    /// The file's name, for messages.
    pub name: String,
    /// Place, type and shape of each tensor by the file's own names.
    pub tensors: BTreeMap<String, TensorInfo>,
    /// Bytes of all values.
    pub value_bytes: u64,
    data: Data<'a>,
    first_value: u64,
}

impl Shard<'static> {
    /// Opens a file and checks that it is as long as its header says.
    pub fn open(path: &Path) -> Result<Self> {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
        let length = file.metadata().with_context(|| format!("cannot read {}", path.display()))?.len();
        let header = read_header(&file, length).with_context(|| path.display().to_string())?;
        Self::new(name, Data::Disk(file), length, &header).with_context(|| path.display().to_string())
    }
}

impl<'a> Shard<'a> {
    /// The bytes of a whole file.
    pub fn in_memory(name: &str, bytes: &'a [u8]) -> Result<Self> {
        let length = bytes.len() as u64;
        let header = read_header(bytes, length).with_context(|| name.to_owned())?;
        Self::new(name.to_owned(), Data::Memory(bytes), length, &header).with_context(|| name.to_owned())
    }

    fn new(name: String, data: Data<'a>, length: u64, header: &[u8]) -> Result<Self> {
        let metadata: Metadata =
            serde_json::from_slice(header).context("the header of this safetensors file is damaged")?;
        let (first_value, value_bytes) = (LENGTH_BYTES + header.len() as u64, metadata.data_len() as u64);
        let expected = first_value.saturating_add(value_bytes);
        ensure!(
            length == expected,
            "the safetensors file has {length} bytes, its header asks for {expected}: it is {}; get it again",
            if length < expected { "truncated" } else { "damaged" }
        );
        let tensors = metadata.tensors().into_iter().map(|(name, info)| (name, info.clone())).collect();
        Ok(Self { name, tensors, value_bytes, data, first_value })
    }

    /// The values of a tensor, widened to f32, row-major.
    pub fn read(&self, tensor: &str) -> Result<Vec<f32>> {
        let info = self.info(tensor)?;
        let mut values = vec![0.0; info.shape.iter().product()];
        values
            .par_chunks_mut(PIECE)
            .enumerate()
            .try_for_each(|(piece, out)| self.read_piece(info, piece, out))
            .with_context(|| format!("tensor {tensor:?} of {}", self.name))?;
        Ok(values)
    }

    /// Whether a tensor holds exactly these values.
    pub fn holds(&self, tensor: &str, values: &[f32]) -> Result<bool> {
        let info = self.info(tensor)?;
        if info.shape.iter().product::<usize>() != values.len() {
            return Ok(false);
        }
        let differs = |(piece, values): (usize, &[f32])| -> Result<bool> {
            let mut found = vec![0.0; values.len()];
            self.read_piece(info, piece, &mut found)?;
            Ok(found != values)
        };
        let differences: Vec<bool> =
            values.par_chunks(PIECE).enumerate().map(differs).collect::<Result<_>>()?;
        Ok(!differences.contains(&true))
    }

    fn info(&self, tensor: &str) -> Result<&TensorInfo> {
        self.tensors.get(tensor).with_context(|| format!("{} has no tensor {tensor:?}", self.name))
    }

    fn read_piece(&self, info: &TensorInfo, piece: usize, out: &mut [f32]) -> Result<()> {
        let width = info.dtype.bitsize() / 8;
        let start = info.data_offsets.0 + piece * PIECE * width;
        let offset = self.first_value + start as u64;
        let length = out.len() * width;
        match &self.data {
            Data::Memory(bytes) => widen(info.dtype, &bytes[offset as usize..][..length], out),
            Data::Disk(file) => {
                let mapped = map(file, offset, length).context("the file cannot be mapped")?;
                widen(info.dtype, &mapped, out)
            }
        }
    }
}

/// The header's JSON. `length` is that of the whole file.
fn read_header(mut file: impl std::io::Read, length: u64) -> Result<Vec<u8>> {
    let mut first = [0; LENGTH_BYTES as usize];
    let short = || format!("this is no safetensors file: it has only {length} bytes");
    file.read_exact(&mut first).with_context(short)?;
    let header = u64::from_le_bytes(first);
    ensure!(
        header <= MAX_HEADER,
        "this is no safetensors file: its first bytes ask for a header of {header} bytes (is it a git-lfs pointer \
         or a web page?)"
    );
    ensure!(
        LENGTH_BYTES + header <= length,
        "the safetensors file has {length} bytes, its header alone {header}: it is truncated; get it again"
    );
    let mut json = vec![0; header as usize];
    file.read_exact(&mut json).context("the header cannot be read")?;
    Ok(json)
}

#[expect(unsafe_code, reason = "a map of a file is unsafe by nature")]
fn map(file: &File, offset: u64, length: usize) -> std::io::Result<Mmap> {
    // SAFETY: the bytes are only read, as integers, for which every bit pattern is valid, and no reference to them
    // outlives the map. The range lies within the file: `Shard::new` compared the file's length with the header.
    // What remains is another process that changes the file while this one reads it; a caller who lets that happen
    // gets other values or, if the file shrinks, is stopped by the system.
    unsafe { MmapOptions::new().offset(offset).len(length).populate().map(file) }
}
