//! Encoded pictures, each content held once.

use crate::types::Picture;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Encoded pictures by their content; rows that share a picture share its bytes.
#[derive(Default)]
pub(super) struct Pictures {
    by_hash: BTreeMap<[u8; 32], Arc<[u8]>>,
}

impl Pictures {
    /// A picture of these bytes.
    pub(super) fn keep(&mut self, bytes: &[u8]) -> Picture {
        let hash = *blake3::hash(bytes).as_bytes();
        Picture::Encoded(self.by_hash.entry(hash).or_insert_with(|| bytes.into()).clone())
    }
}
