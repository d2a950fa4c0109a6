//! The text files of a tiny Qwen2.5-VL model made from scratch: tokenizer and chat template.
//!
//! The tokenizer is a byte-level BPE without merges: a word of the corpus is one token, any other text falls
//! back to bytes, so that every text can be written and read back. It differs from Qwen2.5's in these points:
//! numbers are cut into pairs of digits and keep their leading space; text is not normalised (NFC); fixed long
//! texts of every prompt are single tokens, so that prompts are short.

use super::INSTRUCTION;
use anyhow::{Result, anyhow};
use serde::ser::{Serialize, SerializeMap, Serializer};
use std::collections::BTreeSet;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::tokenizer::{OffsetReferential, OffsetType, PreTokenizer};

/// Special tokens, under Qwen2.5-VL's names and in its order.
pub const SPECIAL_TOKENS: [&str; 8] = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
];

/// The system message of [`CHAT_TEMPLATE`] (and of Qwen2.5-VL's).
const SYSTEM: &str = "You are a helpful assistant.";

/// Fixed texts of prompts and responses that are one token each.
const FIXED_TEXTS: [&str; 5] = [INSTRUCTION, SYSTEM, "<think>", "</think>", "\\boxed{"];

/// A chat template that renders a conversation as Qwen2.5-VL's does (without its picture numbering).
pub const CHAT_TEMPLATE: &str = r"{% if messages[0]['role'] != 'system' %}
{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}
{%- endif %}
{% for message in messages %}
{{ '<|im_start|>' + message['role'] + '\n' }}
{%- if message['content'] is string %}
{{- message['content'] }}
{%- else %}
{%- for part in message['content'] %}
{%- if part['type'] == 'image' %}
{{- '<|vision_start|><|image_pad|><|vision_end|>' }}
{%- else %}
{{- part['text'] }}
{%- endif %}
{%- endfor %}
{%- endif %}
{{- '<|im_end|>\n' }}
{%- endfor %}
{% if add_generation_prompt %}
{{- '<|im_start|>assistant\n' }}
{%- endif %}
";

/// How text is cut into words before the vocabulary is asked.
const WORDS: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+| ?\p{N}{1,2}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// Makes the text of a `tokenizer.json`. The ids are: 256 bytes; the words of the corpus and the numbers 0 to
/// 99 with and without a leading space, sorted; [`SPECIAL_TOKENS`]; fixed texts. The same set of words gives the
/// same text, whatever the order or repetition of the corpus.
///
/// # Errors
/// Where the tokenizer library fails, which it does on no text.
pub fn tokenizer(corpus: impl IntoIterator<Item = String>) -> Result<String> {
    let failed = |error| anyhow!("the corpus cannot be cut into words: {error}");
    let numbers = (0..100).flat_map(|n| [n.to_string(), format!("Ġ{n}")]);
    let mut words: BTreeSet<String> = numbers.collect();
    let cutter = tokenizers::Tokenizer::from_bytes(to_json(&words)?).map_err(failed)?;
    for text in corpus {
        let mut pieces = cutter.get_added_vocabulary().extract_and_normalize(cutter.get_normalizer(), &text);
        if let Some(pre_tokenizer) = cutter.get_pre_tokenizer() {
            pre_tokenizer.pre_tokenize(&mut pieces).map_err(failed)?;
        }
        let pieces = pieces.get_splits(OffsetReferential::Original, OffsetType::None);
        let free = pieces.into_iter().filter(|(_, _, tokens)| tokens.is_none());
        words.extend(free.map(|(word, _, _)| word.to_owned()));
    }
    to_json(&words)
}

/// Words are in the byte alphabet of GPT-2, in which a space is written `Ġ`.
fn to_json(words: &BTreeSet<String>) -> Result<String> {
    let bytes: BTreeSet<String> = ByteLevel::alphabet().into_iter().map(String::from).collect();
    let vocabulary: Vec<&String> = bytes.iter().chain(words.difference(&bytes)).collect();
    let special = SPECIAL_TOKENS.iter().map(|&content| (content, true));
    let fixed = FIXED_TEXTS.iter().map(|&content| (content, false));
    let added_tokens = (vocabulary.len()..)
        .zip(special.chain(fixed))
        .map(|(id, (content, special))| AddedToken::new(id, content, special))
        .collect();
    Ok(serde_json::to_string_pretty(&TokenizerFile::new(added_tokens, Vocabulary(vocabulary)))?)
}

/// The layout of a `tokenizer.json`, in structs, so that the order of keys is fixed.
#[derive(serde::Serialize)]
struct TokenizerFile<'a> {
    version: &'a str,
    truncation: (),
    padding: (),
    added_tokens: Vec<AddedToken<'a>>,
    normalizer: (),
    pre_tokenizer: PreTokenizers,
    post_processor: (),
    decoder: ByteLevelStep,
    model: Model<'a>,
}

impl<'a> TokenizerFile<'a> {
    fn new(added_tokens: Vec<AddedToken<'a>>, vocab: Vocabulary<'a>) -> TokenizerFile<'a> {
        TokenizerFile {
            version: "1.0",
            truncation: (),
            padding: (),
            added_tokens,
            normalizer: (),
            pre_tokenizer: PreTokenizers {
                kind: "Sequence",
                pretokenizers: (
                    Split {
                        kind: "Split",
                        pattern: Regex { regex: WORDS },
                        behavior: "Isolated",
                        invert: false,
                    },
                    BYTE_LEVEL,
                ),
            },
            post_processor: (),
            decoder: BYTE_LEVEL,
            model: Model {
                kind: "BPE",
                dropout: (),
                unk_token: (),
                continuing_subword_prefix: "",
                end_of_word_suffix: "",
                fuse_unk: false,
                byte_fallback: false,
                ignore_merges: true,
                vocab,
                merges: [],
            },
        }
    }
}

#[derive(serde::Serialize)]
struct AddedToken<'a> {
    id: usize,
    content: &'a str,
    single_word: bool,
    lstrip: bool,
    rstrip: bool,
    normalized: bool,
    special: bool,
}

impl<'a> AddedToken<'a> {
    fn new(id: usize, content: &'a str, special: bool) -> AddedToken<'a> {
        AddedToken {
            id,
            content,
            single_word: false,
            lstrip: false,
            rstrip: false,
            normalized: false,
            special,
        }
    }
}

#[derive(serde::Serialize)]
struct PreTokenizers {
    #[serde(rename = "type")]
    kind: &'static str,
    pretokenizers: (Split, ByteLevelStep),
}

#[derive(serde::Serialize)]
struct Split {
    #[serde(rename = "type")]
    kind: &'static str,
    pattern: Regex,
    behavior: &'static str,
    invert: bool,
}

#[derive(serde::Serialize)]
struct Regex {
    #[serde(rename = "Regex")]
    regex: &'static str,
}

#[derive(serde::Serialize)]
struct ByteLevelStep {
    #[serde(rename = "type")]
    kind: &'static str,
    add_prefix_space: bool,
    trim_offsets: bool,
    use_regex: bool,
}

const BYTE_LEVEL: ByteLevelStep =
    ByteLevelStep { kind: "ByteLevel", add_prefix_space: false, trim_offsets: false, use_regex: false };

#[derive(serde::Serialize)]
struct Model<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    dropout: (),
    unk_token: (),
    continuing_subword_prefix: &'a str,
    end_of_word_suffix: &'a str,
    fuse_unk: bool,
    byte_fallback: bool,
    ignore_merges: bool,
    vocab: Vocabulary<'a>,
    merges: [&'a str; 0],
}

/// Token texts in the order of their ids, written as the map from text to id.
struct Vocabulary<'a>(Vec<&'a String>);

impl Serialize for Vocabulary<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (id, text) in self.0.iter().enumerate() {
            map.serialize_entry(text, &id)?;
        }
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prompt::{ChatTemplate, IMAGE_TOKEN, Tokenizer};
    use proptest::prelude::*;

    fn corpus() -> Vec<String> {
        vec![
            "How many red circles are there?".into(),
            format!("<think>Count: 3.</think> \\boxed{{3}}\n\n{SYSTEM}"),
        ]
    }

    fn made() -> Tokenizer {
        Tokenizer::from_json(&tokenizer(corpus()).unwrap()).unwrap()
    }

    fn tokens(tokenizer: &Tokenizer, text: &str) -> Vec<String> {
        tokenizer.encode(text).unwrap().iter().map(|&id| tokenizer.decode(&[id]).unwrap()).collect()
    }

    #[test]
    fn words_of_the_corpus_and_fixed_texts_are_one_token() {
        let tokenizer = made();
        assert_eq!(tokens(&tokenizer, "How many circles"), ["How", " many", " circles"]);
        assert_eq!(tokens(&tokenizer, "</think> \\boxed{42}"), ["</think>", " ", "\\boxed{", "42", "}"]);
        assert_eq!(tokens(&tokenizer, " 7 12345"), [" 7", " 12", "34", "5"]);
        assert_eq!(tokenizer.encode(INSTRUCTION).unwrap().len(), 1);
        assert_eq!(tokens(&tokenizer, "blue"), ["b", "l", "u", "e"], "unknown words are bytes");
    }

    #[test]
    fn ids_are_dense_and_special_tokens_are_skipped_in_text() {
        let tokenizer = made();
        let mut names: Vec<u32> = SPECIAL_TOKENS.iter().map(|name| tokenizer.id_of(name).unwrap()).collect();
        names.extend(FIXED_TEXTS.iter().map(|text| tokenizer.id_of(text).unwrap()));
        let size = tokenizer.vocab_size() as u32;
        assert_eq!(names, (size - 13..size).collect::<Vec<u32>>());
        let ids = tokenizer.encode("<think>a</think><|im_end|>").unwrap();
        assert_eq!(tokenizer.decode(&ids).unwrap(), "<think>a</think><|im_end|>");
        assert_eq!(tokenizer.decode_text(&ids).unwrap(), "<think>a</think>");
        let error = tokenizer.id_of("<|nothing|>").unwrap_err().to_string();
        assert!(error.contains("no token \"<|nothing|>\""), "{error}");
    }

    #[test]
    fn bytes_of_the_file_depend_on_the_words_alone() {
        let once = tokenizer(corpus()).unwrap();
        assert_eq!(once, tokenizer(corpus().into_iter().rev().chain(corpus())).unwrap());
        assert_ne!(once, tokenizer(["other".to_owned()]).unwrap());
    }

    #[test]
    fn template_renders_as_the_model_expects() {
        let template = ChatTemplate::new(CHAT_TEMPLATE).unwrap();
        let prompt = template.render(" A <image> b", 1, INSTRUCTION).unwrap();
        let expected = format!(
            "<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\nA <|vision_start|>{IMAGE_TOKEN}<|vision_end|> \
             b\n\n{INSTRUCTION}<|im_end|>\n<|im_start|>assistant\n"
        );
        assert_eq!(prompt, expected);
    }

    proptest! {
        #[test]
        fn any_text_reads_back(text in "\\PC{0,20}|[\\s\\S]{0,20}|([a-z 0-9\n\r\t]|🙂|é|e\u{301}|\u{200d}|\u{fffd}|<think>){0,20}") {
            let tokenizer = made();
            prop_assert_eq!(tokenizer.decode(&tokenizer.encode(&text).unwrap()).unwrap(), text);
        }
    }
}
