//! From a question to the token ids that the model sees.
//!
//! Three steps: [`ChatTemplate::render`] puts the question, the instruction and the places of the pictures into
//! the model's chat format; [`Tokenizer`] turns text into ids; [`encode_prompt`] widens each picture marker to
//! as many tokens as the picture has merge blocks. Pure: it gets the texts of a checkpoint's files, not paths.
//! [`tiny`] makes these files for a model from scratch.
//!
//! Source: EasyR1 `verl/utils/dataset.py` (`_build_messages`) with `math_format_perception.jinja`, and
//! transformers' `Qwen2_5_VLProcessor`.

mod python;
mod template;
pub mod tiny;
mod tokenizer;

pub use template::ChatTemplate;
pub use tokenizer::Tokenizer;

use anyhow::{Result, ensure};

/// The sentence that follows every question, after a blank line (the reference's
/// `math_format_perception.jinja`).
pub const INSTRUCTION: &str = "You first think through the reasoning process as an internal monologue, enclosed \
     within <think> </think> tags. Then, provide your final answer enclosed within \\boxed{}.";

/// Marks the place of a picture in a question.
pub const IMAGE_PLACE: &str = "<image>";

/// The token that stands for one merge block of a picture.
pub const IMAGE_TOKEN: &str = "<|image_pad|>";

/// A prompt as the model sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PromptTokens {
    /// Token ids, with one image token per merge block of each picture.
    pub ids: Vec<u32>,
}

/// Tokens that a picture takes in the prompt: its patches over the patches of a merge block.
pub fn image_tokens(grid_thw: [usize; 3], merge_size: usize) -> usize {
    grid_thw.iter().product::<usize>() / (merge_size * merge_size).max(1)
}

/// Encodes a rendered prompt and widens its picture markers; `grids` are the pictures' `grid_thw`, in order.
///
/// # Errors
/// If the number of picture markers in the prompt is not the number of grids (a question that contains
/// [`IMAGE_TOKEN`] as text would do so), or if the tokenizer has no such token.
pub fn encode_prompt(
    tokenizer: &Tokenizer,
    prompt: &str,
    grids: &[[usize; 3]],
    merge_size: usize,
) -> Result<PromptTokens> {
    let image = tokenizer.id_of(IMAGE_TOKEN)?;
    let narrow = tokenizer.encode(prompt)?;
    let markers = narrow.iter().filter(|&&id| id == image).count();
    ensure!(
        markers == grids.len(),
        "the prompt has {markers} {IMAGE_TOKEN} markers for {} pictures; is the marker part of a question's \
         text, or does the chat template leave it out?",
        grids.len()
    );
    let mut grids = grids.iter();
    let mut ids = Vec::with_capacity(narrow.len());
    for id in narrow {
        let count = match id == image {
            true => grids.next().map_or(0, |&grid| image_tokens(grid, merge_size)),
            false => 1,
        };
        ids.extend(std::iter::repeat_n(id, count));
    }
    Ok(PromptTokens { ids })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_marker_is_widened_by_its_own_picture() {
        let tokenizer = tiny::tokenizer(["a b c".to_owned()]).unwrap();
        let tokenizer = Tokenizer::from_json(&tokenizer).unwrap();
        let text = format!("a {IMAGE_TOKEN} b {IMAGE_TOKEN}c");
        let ids = encode_prompt(&tokenizer, &text, &[[1, 4, 6], [1, 2, 2]], 2).unwrap().ids;
        let image = tokenizer.id_of(IMAGE_TOKEN).unwrap();
        let runs: Vec<usize> =
            ids.chunk_by(|a, b| a == b).filter(|r| r[0] == image).map(<[u32]>::len).collect();
        assert_eq!(runs, [6, 1]);
        let error = encode_prompt(&tokenizer, &text, &[[1, 2, 2]], 2).unwrap_err().to_string();
        assert!(error.contains("2 <|image_pad|> markers for 1 pictures"), "{error}");
    }
}
