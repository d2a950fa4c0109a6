//! The hub's `config.json` of a Qwen2.5-VL checkpoint, in both layouts that are in use: the original flat one and
//! the nested one (`text_config`) that newer transformers write.

use crate::settings::{ModelSettings, PixelRange};
use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use serde_json::{Value, json};

/// The language model's sizes.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct TextConfig {
    /// Rows of the embedding.
    pub vocab_size: usize,
    /// Width.
    pub hidden_size: usize,
    /// Width of the feed-forward layers.
    pub intermediate_size: usize,
    /// Layers.
    pub num_hidden_layers: usize,
    /// Query heads.
    pub num_attention_heads: usize,
    /// Key and value heads.
    pub num_key_value_heads: usize,
    /// Epsilon of the norms.
    pub rms_norm_eps: f64,
    /// Base of the rotary frequencies.
    #[serde(default)]
    pub rope_theta: Option<f64>,
    rope_scaling: Option<RopeScaling>,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
struct RopeScaling {
    mrope_section: [usize; 3],
    #[serde(default)]
    rope_theta: Option<f64>,
}

/// The vision tower's sizes.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct VisionConfig {
    /// Blocks.
    pub depth: usize,
    /// Width.
    pub hidden_size: usize,
    /// Width of the feed-forward layers.
    pub intermediate_size: usize,
    /// Heads.
    pub num_heads: usize,
    /// Channels of a picture.
    #[serde(default = "three")]
    pub in_channels: usize,
    /// Width of the language model.
    pub out_hidden_size: usize,
    /// Side of a patch in pixels.
    pub patch_size: usize,
    /// Side, in patches, of the square that becomes one visual token.
    pub spatial_merge_size: usize,
    /// Side of an attention window in pixels.
    pub window_size: usize,
    /// Blocks with full attention.
    pub fullatt_block_indexes: Vec<usize>,
    /// Frames per patch.
    pub temporal_patch_size: usize,
}

fn three() -> usize {
    3
}

/// What the model needs of `config.json`.
#[derive(Clone, Debug, PartialEq)]
pub struct VlConfig {
    /// Language model.
    pub text: TextConfig,
    /// Vision tower.
    pub vision: VisionConfig,
    /// Token that holds the place of one visual token.
    pub image_token_id: u32,
    /// Whether the output head is the embedding.
    pub tie_word_embeddings: bool,
}

impl VlConfig {
    /// Reads either layout. The error names the key.
    pub fn parse(text: &str) -> Result<Self> {
        let value: Value = serde_json::from_str(text).context("config.json is not JSON")?;
        let kind = value["model_type"].as_str().unwrap_or("(none)");
        ensure!(kind == "qwen2_5_vl", "config.json: model_type is {kind:?}, expected \"qwen2_5_vl\"");
        let nested = value.get("text_config").unwrap_or(&value);
        let vision = value.get("vision_config").context("config.json has no vision_config")?;
        refuse_what_is_not_computed(&value, nested, vision)?;
        let text = serde_json::from_value(with_one_rope(nested)).context("config.json (language model)")?;
        let vision = serde_json::from_value(vision.clone()).context("config.json: vision_config")?;
        let image_token_id =
            value["image_token_id"].as_u64().context("config.json: image_token_id is missing")?;
        // As transformers: versions before 5 wrote it into either place.
        let tied = [&value, nested].iter().any(|part| part["tie_word_embeddings"] == true);
        let config = Self {
            text,
            vision,
            image_token_id: u32::try_from(image_token_id).context("config.json: image_token_id")?,
            tie_word_embeddings: tied,
        };
        config.check()?;
        Ok(config)
    }

    /// The configuration of a model made from scratch.
    pub fn from_settings(m: &ModelSettings, vocab_size: usize, image_token_id: u32) -> Result<Self> {
        let config = Self {
            text: TextConfig {
                vocab_size,
                hidden_size: m.hidden_size,
                intermediate_size: m.intermediate_size,
                num_hidden_layers: m.layers,
                num_attention_heads: m.heads,
                num_key_value_heads: m.kv_heads,
                rms_norm_eps: 1e-6,
                rope_theta: Some(m.rope_theta),
                rope_scaling: Some(RopeScaling { mrope_section: m.mrope_section, rope_theta: None }),
            },
            vision: VisionConfig {
                depth: m.vision_depth,
                hidden_size: m.vision_hidden_size,
                intermediate_size: m.vision_intermediate_size,
                num_heads: m.vision_heads,
                in_channels: 3,
                out_hidden_size: m.hidden_size,
                patch_size: 14,
                spatial_merge_size: 2,
                window_size: m.vision_window_pixels,
                fullatt_block_indexes: m.vision_full_attention_blocks.clone(),
                temporal_patch_size: 2,
            },
            image_token_id,
            tie_word_embeddings: m.tie_word_embeddings,
        };
        config.check()?;
        Ok(config)
    }

    /// The sizes as settings, for pictures between these areas.
    pub fn to_settings(&self, pictures: PixelRange) -> Result<ModelSettings> {
        let (t, v) = (&self.text, &self.vision);
        Ok(ModelSettings {
            hidden_size: t.hidden_size,
            intermediate_size: t.intermediate_size,
            layers: t.num_hidden_layers,
            heads: t.num_attention_heads,
            kv_heads: t.num_key_value_heads,
            mrope_section: self.mrope_section()?,
            rope_theta: self.rope_theta(),
            tie_word_embeddings: self.tie_word_embeddings,
            vision_hidden_size: v.hidden_size,
            vision_intermediate_size: v.intermediate_size,
            vision_depth: v.depth,
            vision_heads: v.num_heads,
            vision_full_attention_blocks: v.fullatt_block_indexes.clone(),
            vision_window_pixels: v.window_size,
            min_pixels: pictures.min_pixels,
            max_pixels: pictures.max_pixels,
        })
    }

    fn check(&self) -> Result<()> {
        let (t, v) = (&self.text, &self.vision);
        ensure!(t.num_attention_heads > 0 && v.num_heads > 0, "config.json: no attention heads");
        ensure!(
            t.hidden_size % t.num_attention_heads == 0,
            "config.json: hidden_size is no multiple of num_attention_heads"
        );
        ensure!(
            t.num_key_value_heads > 0 && t.num_attention_heads % t.num_key_value_heads == 0,
            "config.json: num_attention_heads is no multiple of num_key_value_heads"
        );
        let sections: usize = self.mrope_section()?.iter().sum();
        if sections * 2 != self.head_size() {
            bail!(
                "config.json: mrope_section adds up to {sections}, half the head size is {}",
                self.head_size() / 2
            );
        }
        ensure!(v.hidden_size % (4 * v.num_heads) == 0, "config.json: vision head size is no multiple of 4");
        ensure!(v.out_hidden_size == t.hidden_size, "config.json: out_hidden_size differs from hidden_size");
        ensure!(self.window_tokens() > 0, "config.json: window_size is smaller than one visual token");
        Ok(())
    }

    /// The sizes in which another configuration differs from this one, in words; the token ids do not count.
    pub fn differences(&self, other: &Self) -> Vec<String> {
        let (own, others) = (self.sizes(), other.sizes());
        let pairs = own.into_iter().zip(others).filter(|(own, other)| own.1 != other.1);
        pairs.map(|((name, own), (_, other))| format!("{name} is {other}, not {own}")).collect()
    }

    /// The sizes by name, for a record of what was run.
    pub fn to_value(&self) -> Value {
        self.sizes().into_iter().map(|(name, size)| (name.to_owned(), Value::from(size))).collect()
    }

    fn sizes(&self) -> [(&'static str, String); 17] {
        let (t, v) = (&self.text, &self.vision);
        [
            ("vocab_size", t.vocab_size.to_string()),
            ("hidden_size", t.hidden_size.to_string()),
            ("intermediate_size", t.intermediate_size.to_string()),
            ("num_hidden_layers", t.num_hidden_layers.to_string()),
            ("num_attention_heads", t.num_attention_heads.to_string()),
            ("num_key_value_heads", t.num_key_value_heads.to_string()),
            ("rope_theta", self.rope_theta().to_string()),
            ("mrope_section", format!("{:?}", self.mrope_section().unwrap_or_default())),
            ("tie_word_embeddings", self.tie_word_embeddings.to_string()),
            ("vision hidden_size", v.hidden_size.to_string()),
            ("vision intermediate_size", v.intermediate_size.to_string()),
            ("vision depth", v.depth.to_string()),
            ("vision num_heads", v.num_heads.to_string()),
            ("vision window_size", v.window_size.to_string()),
            ("vision patch_size", v.patch_size.to_string()),
            ("vision spatial_merge_size", v.spatial_merge_size.to_string()),
            ("vision fullatt_block_indexes", format!("{:?}", v.fullatt_block_indexes)),
        ]
    }

    /// Size of one attention head of the language model.
    pub fn head_size(&self) -> usize {
        self.text.hidden_size / self.text.num_attention_heads
    }

    /// Rotary frequencies for time, height and width.
    pub fn mrope_section(&self) -> Result<[usize; 3]> {
        let scaling =
            self.text.rope_scaling.as_ref().context("config.json: rope_scaling.mrope_section is missing")?;
        Ok(scaling.mrope_section)
    }

    /// Base of the rotary frequencies.
    pub fn rope_theta(&self) -> f64 {
        let nested = self.text.rope_scaling.as_ref().and_then(|s| s.rope_theta);
        self.text.rope_theta.or(nested).unwrap_or(1_000_000.0)
    }

    /// Side of a window in visual tokens.
    pub fn window_tokens(&self) -> usize {
        self.vision.window_size / self.vision.spatial_merge_size / self.vision.patch_size
    }

    /// Values of one patch: channels x frames x side x side.
    pub fn patch_values(&self) -> usize {
        let v = &self.vision;
        v.in_channels * v.temporal_patch_size * v.patch_size * v.patch_size
    }

    /// The hub's original flat layout.
    pub fn to_json(&self, eos_token_id: u32, bos_token_id: u32) -> Result<String> {
        let (t, v) = (&self.text, &self.vision);
        let value = json!({
            "architectures": ["Qwen2_5_VLForConditionalGeneration"],
            "model_type": "qwen2_5_vl",
            "attention_dropout": 0.0,
            "bos_token_id": bos_token_id,
            "eos_token_id": eos_token_id,
            "hidden_act": "silu",
            "hidden_size": t.hidden_size,
            "image_token_id": self.image_token_id,
            "initializer_range": 0.02,
            "intermediate_size": t.intermediate_size,
            "max_position_embeddings": 32768,
            "max_window_layers": t.num_hidden_layers,
            "num_attention_heads": t.num_attention_heads,
            "num_hidden_layers": t.num_hidden_layers,
            "num_key_value_heads": t.num_key_value_heads,
            "rms_norm_eps": t.rms_norm_eps,
            "rope_scaling": { "type": "mrope", "mrope_section": self.mrope_section()? },
            "rope_theta": self.rope_theta(),
            "sliding_window": 32768,
            "tie_word_embeddings": self.tie_word_embeddings,
            "torch_dtype": "float32",
            "use_cache": true,
            "use_sliding_window": false,
            "vision_config": {
                "depth": v.depth,
                "fullatt_block_indexes": v.fullatt_block_indexes,
                "hidden_act": "silu",
                "hidden_size": v.hidden_size,
                "in_chans": v.in_channels,
                "intermediate_size": v.intermediate_size,
                "num_heads": v.num_heads,
                "out_hidden_size": v.out_hidden_size,
                "patch_size": v.patch_size,
                "spatial_merge_size": v.spatial_merge_size,
                "spatial_patch_size": v.patch_size,
                "temporal_patch_size": v.temporal_patch_size,
                "tokens_per_second": 2,
                "window_size": v.window_size,
            },
            "vocab_size": t.vocab_size,
        });
        Ok(serde_json::to_string_pretty(&value)? + "\n")
    }
}

/// The language model's part with the rotary settings under one key, whichever of the two it has.
fn with_one_rope(part: &Value) -> Value {
    let mut part = part.clone();
    if let Some(fields) = part.as_object_mut() {
        let newer = fields.remove("rope_parameters").unwrap_or_default();
        let older = fields.entry("rope_scaling").or_insert(Value::Null);
        if older.is_null() {
            *older = newer;
        }
    }
    part
}

/// Refuses settings that change what the model computes and that this crate does not know.
fn refuse_what_is_not_computed(whole: &Value, text: &Value, vision: &Value) -> Result<()> {
    ensure!(
        whole.get("quantization_config").is_none_or(Value::is_null),
        "config.json: quantised weights (quantization_config) are not read; take the checkpoint in bf16"
    );
    for part in [text, vision] {
        let activation = part["hidden_act"].as_str().unwrap_or("silu");
        ensure!(activation == "silu", "config.json: hidden_act is {activation:?}, only \"silu\" is computed");
    }
    ensure!(
        text["use_sliding_window"] != true,
        "config.json: use_sliding_window is true; attention within a sliding window is not computed"
    );
    for key in ["rope_scaling", "rope_parameters"] {
        let rope = &text[key];
        let kind = rope["rope_type"].as_str().or(rope["type"].as_str()).unwrap_or("default");
        ensure!(
            ["default", "mrope"].contains(&kind),
            "config.json: {key} is of type {kind:?}, which is not computed; expected \"default\" or \"mrope\""
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Qwen2.5-VL-3B's flat configuration as the hub serves it, as far as it matters here.
    fn flat() -> Value {
        json!({
            "model_type": "qwen2_5_vl", "image_token_id": 151655, "hidden_act": "silu", "hidden_size": 2048,
            "intermediate_size": 11008, "num_attention_heads": 16, "num_hidden_layers": 36,
            "num_key_value_heads": 2, "rms_norm_eps": 1e-6, "rope_theta": 1e6, "sliding_window": 32768,
            "tie_word_embeddings": true, "use_sliding_window": false, "vocab_size": 151936,
            "rope_scaling": { "type": "mrope", "mrope_section": [16, 24, 24] },
            "vision_config": {
                "depth": 32, "hidden_act": "silu", "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16,
                "in_chans": 3, "out_hidden_size": 2048, "patch_size": 14, "spatial_merge_size": 2,
                "spatial_patch_size": 14, "window_size": 112, "fullatt_block_indexes": [7, 15, 23, 31],
                "tokens_per_second": 2, "temporal_patch_size": 2,
            },
        })
    }

    /// The same as transformers 5 writes it.
    fn nested() -> Value {
        let mut text = flat();
        let fields = text.as_object_mut().unwrap();
        let vision = fields.remove("vision_config").unwrap();
        ["rope_scaling", "rope_theta", "tie_word_embeddings"]
            .iter()
            .for_each(|key| drop(fields.remove(*key)));
        let rope = json!({ "mrope_section": [16, 24, 24], "rope_theta": 1e6, "rope_type": "default" });
        fields.insert("rope_parameters".into(), rope);
        json!({
            "model_type": "qwen2_5_vl", "image_token_id": 151655, "tie_word_embeddings": true,
            "text_config": text, "vision_config": vision,
        })
    }

    fn parse(value: &Value) -> Result<VlConfig> {
        VlConfig::parse(&value.to_string())
    }

    #[test]
    fn both_layouts_describe_the_same_model() {
        let (mut flat, nested) = (parse(&flat()).unwrap(), parse(&nested()).unwrap());
        assert_eq!((flat.head_size(), flat.rope_theta(), flat.window_tokens()), (128, 1e6, 4));
        assert_eq!(flat.rope_theta(), nested.rope_theta());
        assert_eq!(flat.mrope_section().unwrap(), nested.mrope_section().unwrap());
        (flat.text.rope_theta, flat.text.rope_scaling) = (None, nested.text.rope_scaling.clone());
        assert_eq!(flat, nested);
    }

    #[test]
    fn doubled_keys_and_both_places_of_the_tie_are_read() {
        let mut both = flat();
        both["vision_config"]["in_channels"] = 3.into();
        both["rope_parameters"] = both["rope_scaling"].clone();
        assert_eq!(parse(&both).unwrap(), parse(&flat()).unwrap());
        let mut inner = nested();
        inner["tie_word_embeddings"] = false.into();
        assert!(!parse(&inner).unwrap().tie_word_embeddings);
        inner["text_config"]["tie_word_embeddings"] = true.into();
        assert!(parse(&inner).unwrap().tie_word_embeddings);
    }

    #[test]
    fn what_is_not_computed_is_refused() {
        for (pointer, value, named) in [
            ("/model_type", json!("qwen2_vl"), "qwen2_vl"),
            ("/hidden_act", json!("gelu"), "gelu"),
            ("/use_sliding_window", json!(true), "sliding"),
            ("/rope_scaling/type", json!("yarn"), "yarn"),
            ("/hidden_size", json!("x"), "invalid type"),
            ("/vision_config/window_size", json!(1), "window_size"),
            ("/vision_config/out_hidden_size", json!(64), "out_hidden_size"),
        ] {
            let mut config = flat();
            *config.pointer_mut(pointer).unwrap() = value;
            let message = format!("{:#}", parse(&config).unwrap_err());
            assert!(message.contains(named), "{pointer}: {message}");
        }
        let mut quantised = flat();
        quantised["quantization_config"] = json!({ "quant_method": "awq" });
        assert!(parse(&quantised).unwrap_err().to_string().contains("quantised"));
    }
}
