//! Names of tensors: the hub's original ones are used here, files may have others.
//!
//! The original repositories say `model.layers.0...`, `visual.blocks.0...` and `lm_head.weight`. Newer transformers
//! name the same tensors by its own modules, and some tools by older ones.

/// How a prefix of a file's names reads in the original repositories.
const PREFIXES: [(&str, &str); 4] = [
    ("model.language_model.", "model."),
    ("model.visual.", "visual."),
    ("language_model.model.", "model."),
    ("language_model.lm_head.", "lm_head."),
];

/// The original name of a tensor that a file may name otherwise.
pub(super) fn original(name: &str) -> String {
    let renamed = |&(prefix, original): &(&str, &str)| Some(original.to_owned() + name.strip_prefix(prefix)?);
    PREFIXES.iter().find_map(renamed).unwrap_or_else(|| name.to_owned())
}

/// Whether this is a table of rotary frequencies, which old versions stored although it follows from the
/// configuration.
pub(super) fn is_rotary_table(name: &str) -> bool {
    name.ends_with("rotary_emb.inv_freq") || name.ends_with("rotary_pos_emb.inv_freq")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_namings_become_the_original_one() {
        for (name, expected) in [
            ("model.language_model.embed_tokens.weight", "model.embed_tokens.weight"),
            ("language_model.model.layers.3.mlp.up_proj.weight", "model.layers.3.mlp.up_proj.weight"),
            ("model.layers.3.mlp.up_proj.weight", "model.layers.3.mlp.up_proj.weight"),
            ("model.visual.blocks.0.attn.qkv.bias", "visual.blocks.0.attn.qkv.bias"),
            ("visual.blocks.0.attn.qkv.bias", "visual.blocks.0.attn.qkv.bias"),
            ("language_model.lm_head.weight", "lm_head.weight"),
            ("lm_head.weight", "lm_head.weight"),
        ] {
            assert_eq!(original(name), expected);
        }
        assert!(is_rotary_table("visual.rotary_pos_emb.inv_freq"));
        assert!(!is_rotary_table("model.norm.weight"));
    }
}
