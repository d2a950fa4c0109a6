//! A checkpoint's `tokenizer.json`, through the library that transformers uses.

use anyhow::{Context, Result, anyhow};

/// Text to token ids and back.
#[derive(Clone, Debug)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
}

impl Tokenizer {
    /// Reads the text of a `tokenizer.json`. Truncation and padding that it may ask for are switched off.
    ///
    /// # Errors
    /// If the text is not a tokenizer that the library knows.
    pub fn from_json(text: &str) -> Result<Tokenizer> {
        let mut inner = tokenizers::Tokenizer::from_bytes(text.as_bytes())
            .map_err(|error| anyhow!("tokenizer.json cannot be read: {error}"))?;
        inner.with_padding(None);
        inner.with_truncation(None).map_err(|error| anyhow!("tokenizer.json: {error}"))?;
        Ok(Tokenizer { inner })
    }

    /// The ids of a text. Special tokens that stand in the text are recognised; none is added.
    ///
    /// # Errors
    /// Where the library fails, which a byte-level tokenizer does on no text.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let encoding =
            self.inner.encode_fast(text, false).map_err(|error| anyhow!("encoding failed: {error}"))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The text of ids, special tokens included. Ids without a token (models have more rows than tokens) are
    /// passed over; bytes that are no UTF-8 become U+FFFD.
    ///
    /// # Errors
    /// Where the library fails.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        self.inner.decode(ids, false).map_err(|error| anyhow!("decoding failed: {error}"))
    }

    /// The text of ids without special tokens: what the grader reads.
    ///
    /// # Errors
    /// Where the library fails.
    pub fn decode_text(&self, ids: &[u32]) -> Result<String> {
        self.inner.decode(ids, true).map_err(|error| anyhow!("decoding failed: {error}"))
    }

    /// The id of a token by its exact text, such as `<|im_end|>`.
    ///
    /// # Errors
    /// If there is no such token.
    pub fn id_of(&self, token: &str) -> Result<u32> {
        let id = self.inner.token_to_id(token);
        id.with_context(|| {
            format!("the tokenizer has no token {token:?}; is it the one of a Qwen2.5-VL model?")
        })
    }

    /// One more than the largest id, added tokens included.
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab(true).into_values().max().map_or(0, |id| id as usize + 1)
    }
}
