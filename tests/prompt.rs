//! Prompts against transformers' tokenizer, chat template and processor.
//!
//! The small cases run always. `HARNESS_EXTRA_GOLDEN` may name a folder with `qwen2_5_vl_tiny/` (a checkpoint's
//! text files, pictures and `expected.json`), `tokenizer/*.jsonl`, and real rows in `data` in or beside it.

use crate::image::{extra_golden, own_golden};
use harness::bench::jsonl;
use harness::image::{Alpha, AreaRule, Processor, patches, prepare};
use harness::prompt::{ChatTemplate, INSTRUCTION, Tokenizer, encode_prompt, image_tokens, tiny};
use harness::types::Picture;
use serde::Deserialize;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

fn text(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn rows<T: serde::de::DeserializeOwned>(path: &Path) -> Vec<T> {
    text(path).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The checkpoints `qwen2_5_vl_*` of `HARNESS_EXTRA_GOLDEN` in the hub's older layout, in the order of their names.
fn hub_checkpoints() -> Vec<PathBuf> {
    let Some(extra) = extra_golden() else { return Vec::new() };
    let entries = std::fs::read_dir(&extra).unwrap_or_else(|error| panic!("{}: {error}", extra.display()));
    let mut folders: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    folders.retain(|folder| {
        let name = folder.file_name().unwrap_or_default().to_string_lossy();
        let files = ["expected.json", "tokenizer.json", "chat_template.json", "preprocessor_config.json"];
        name.starts_with("qwen2_5_vl_") && files.iter().all(|file| folder.join(file).exists())
    });
    folders.sort();
    folders
}

/// One with the hub's tokenizer, where it is at hand (7 MB; not part of this repository).
fn hub_checkpoint() -> Option<PathBuf> {
    hub_checkpoints().into_iter().next()
}

fn hub_tokenizer(folder: &Path) -> Tokenizer {
    Tokenizer::from_json(&text(&folder.join("tokenizer.json"))).unwrap()
}

fn hub_template(folder: &Path) -> ChatTemplate {
    ChatTemplate::from_json(&text(&folder.join("chat_template.json"))).unwrap()
}

/// A line of `tokenizer/*.jsonl`, told by its keys.
#[derive(Deserialize)]
#[serde(untagged)]
enum Case {
    Chat(ChatCase),
    Encode(EncodeCase),
}

#[derive(Deserialize)]
struct EncodeCase {
    text: String,
    ids: Vec<u32>,
    decoded: String,
    decoded_skip: String,
}

#[derive(Deserialize)]
struct ChatCase {
    problem: String,
    prompt: String,
    ids: Vec<u32>,
}

/// All lines of all files; one that is of no kind is an error.
fn tokenizer_cases(extra: &Path) -> Vec<Case> {
    let Ok(entries) = std::fs::read_dir(extra.join("tokenizer")) else { return Vec::new() };
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "jsonl"));
    files.sort();
    files.iter().flat_map(|file| rows(file)).collect()
}

fn check_encode(tokenizer: &Tokenizer, case: &EncodeCase) {
    assert_eq!(tokenizer.encode(&case.text).unwrap(), case.ids, "{:?}", case.text);
    assert_eq!(tokenizer.decode(&case.ids).unwrap(), case.decoded);
    assert_eq!(tokenizer.decode_text(&case.ids).unwrap(), case.decoded_skip);
}

fn check_chat(tokenizer: &Tokenizer, templates: &[ChatTemplate], case: &ChatCase) {
    let images = case.problem.matches("<image>").count();
    for template in templates {
        assert_eq!(template.render(&case.problem, images, INSTRUCTION).unwrap(), case.prompt);
    }
    let grids = vec![[1, 2, 2]; images];
    assert_eq!(encode_prompt(tokenizer, &case.prompt, &grids, 2).unwrap().ids, case.ids);
}

#[test]
fn golden_tokenizer_and_chats() {
    let (Some(extra), Some(folder)) = (extra_golden(), hub_checkpoint()) else { return };
    let tokenizer = hub_tokenizer(&folder);
    assert_eq!(tokenizer.vocab_size(), 151_665);
    assert_eq!(tokenizer.id_of("<|im_end|>").unwrap(), 151_645);
    let templates = [hub_template(&folder), ChatTemplate::new(tiny::CHAT_TEMPLATE).unwrap()];
    let cases = tokenizer_cases(&extra);
    for case in &cases {
        match case {
            Case::Encode(case) => check_encode(&tokenizer, case),
            Case::Chat(case) => check_chat(&tokenizer, &templates, case),
        }
    }
    let chats = cases.iter().filter(|case| matches!(case, Case::Chat(_))).count();
    println!("{} texts, {chats} chats", cases.len() - chats);
}

/// A template in the way of Qwen2.5-VL's: content as text or as parts, pictures counted and numbered on demand.
const NUMBERED: &str = "{% set seen = namespace(pictures=0) %}{% for message in messages %}\
    {% if loop.first and message['role'] != 'system' %}<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}\
    <|im_start|>{{ message['role'] }}\n{% if message['content'] is string %}{{ message['content'] }}{% else %}\
    {% for part in message['content'] %}{% if part['type'] == 'image' or 'image_url' in part %}\
    {% set seen.pictures = seen.pictures + 1 %}{% if add_vision_id %}Picture {{ seen.pictures }}: {% endif %}\
    <|vision_start|><|image_pad|><|vision_end|>{% elif 'text' in part %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}\
    <|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

#[test]
fn golden_pictures_stand_where_the_question_has_them() {
    let mut templates =
        vec![ChatTemplate::new(NUMBERED).unwrap(), ChatTemplate::new(tiny::CHAT_TEMPLATE).unwrap()];
    templates.extend(hub_checkpoint().map(|folder| hub_template(&folder)));
    for (problem, images, user) in [
        ("What is 1 + 1?", 0, "What is 1 + 1?"),
        ("  <image>\nFind x. ", 1, "[]\nFind x."),
        ("Find x. <image>", 1, "Find x. []"),
        ("<image><image>Which?", 2, "[][]Which?"),
        (
            "Is <image> like <image>, or like <image>?\n\nA. {{ 1 }} B. {% x %}",
            3,
            "Is [] like [], or like []?\n\nA. {{ 1 }} B. {% x %}",
        ),
        ("<image>图中角度是多少？🙂", 1, "[]图中角度是多少？🙂"),
    ] {
        let user = user.replace("[]", "<|vision_start|><|image_pad|><|vision_end|>");
        for (instruction, tail) in [(INSTRUCTION, format!("\n\n{INSTRUCTION}")), ("", String::new())] {
            let expected = format!(
                "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n{user}{tail}<|im_end|>\n\
                 <|im_start|>assistant\n"
            );
            for template in &templates {
                assert_eq!(template.render(problem, images, instruction).unwrap(), expected);
                assert!(template.render(problem, images + 1, instruction).is_err());
            }
        }
    }
}

#[derive(Deserialize)]
struct Expected {
    min_pixels: usize,
    max_pixels: usize,
    instruction: String,
    samples: Vec<Sample>,
}

#[derive(Deserialize)]
struct Sample {
    images: Vec<String>,
    prompt: String,
    response: String,
    image_grid_thw: Option<Vec<[usize; 3]>>,
    prompt_ids: Vec<u32>,
    response_ids: Vec<u32>,
    pixel_mean: Option<f64>,
    pixel_abs_mean: Option<f64>,
}

#[test]
fn golden_prompts_of_checkpoints() {
    hub_checkpoints().iter().for_each(|folder| check_prompts(folder));
}

fn check_prompts(folder: &Path) {
    let tokenizer = hub_tokenizer(folder);
    let template = hub_template(folder);
    let processor = Processor::from_json(&text(&folder.join("preprocessor_config.json"))).unwrap();
    let expected: Expected = serde_json::from_str(&text(&folder.join("expected.json"))).unwrap();
    let instruction = expected.instruction.trim_start_matches('\n');
    let area = AreaRule { min_pixels: expected.min_pixels, max_pixels: expected.max_pixels };
    for sample in &expected.samples {
        let cut: Vec<_> = sample
            .images
            .iter()
            .map(|file| Picture::Encoded(std::fs::read(folder.join(file)).unwrap().into()))
            .map(|picture| patches(&prepare(&picture, area, Alpha::Drop).unwrap(), &processor).unwrap())
            .collect();
        let grids: Vec<_> = cut.iter().map(|cut| cut.grid_thw).collect();
        assert_eq!(grids, sample.image_grid_thw.clone().unwrap_or_default());
        let prompt = template.render(&sample.prompt, grids.len(), instruction).unwrap();
        let ids = encode_prompt(&tokenizer, &prompt, &grids, processor.merge_size).unwrap().ids;
        assert_eq!(ids, sample.prompt_ids, "{}", sample.prompt);
        let response = tokenizer.encode(&format!("{}<|im_end|>", sample.response)).unwrap();
        assert_eq!(response, sample.response_ids, "{}", sample.response);

        let jpeg = sample.images.iter().any(|file| file.ends_with(".jpg"));
        let tolerance = if jpeg { 3e-3 } else { 1e-6 }; // 3e-3 is a fifth of a level
        let values: Vec<f64> = cut.iter().flat_map(|cut| cut.values.iter().map(|&v| f64::from(v))).collect();
        let mean = |f: fn(f64) -> f64| values.iter().map(|&v| f(v)).sum::<f64>() / values.len() as f64;
        for (got, want) in [(mean(|v| v), sample.pixel_mean), (mean(f64::abs), sample.pixel_abs_mean)] {
            assert!(want.is_none_or(|want| (got - want).abs() < tolerance), "{got} instead of {want:?}");
        }
    }
    println!("{} samples", expected.samples.len());
}

/// Processor of the tiny model in these tests.
fn tiny_processor() -> Processor {
    let text = r#"{"min_pixels": 3136, "max_pixels": 31360, "patch_size": 14, "temporal_patch_size": 2,
        "merge_size": 2, "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711], "do_resize": true}"#;
    Processor::from_json(text).unwrap()
}

/// All the way from a JSONL file to prompt ids and patches; gives (questions, pictures, prompt tokens).
fn prepare_all(path: &Path) -> (usize, usize, usize) {
    let examples = jsonl::read(path).unwrap();
    let tokenizer = tiny::tokenizer(examples.iter().take(20).map(|example| example.problem.clone())).unwrap();
    let tokenizer = Tokenizer::from_json(&tokenizer).unwrap();
    let template = ChatTemplate::new(tiny::CHAT_TEMPLATE).unwrap();
    let processor = tiny_processor();
    let area = AreaRule { min_pixels: processor.min_pixels, max_pixels: processor.max_pixels };
    let (mut pictures, mut tokens) = (0, 0);
    for example in &examples {
        let mut grids = Vec::new();
        for picture in &example.images {
            let rgb = prepare(picture, area, Alpha::Drop).unwrap();
            let cut = patches(&rgb, &processor).unwrap();
            let count: usize = cut.grid_thw.iter().product();
            assert_eq!(cut.values.len(), count * processor.patch_values());
            assert!(cut.values.iter().all(|value| value.is_finite() && value.abs() < 3.0));
            grids.push(cut.grid_thw);
        }
        let prompt = template.render(&example.problem, grids.len(), INSTRUCTION).unwrap();
        let ids = encode_prompt(&tokenizer, &prompt, &grids, processor.merge_size).unwrap().ids;
        let markers: usize = grids.iter().map(|&grid| image_tokens(grid, processor.merge_size)).sum();
        let text_tokens = tokenizer.encode(&prompt).unwrap().len();
        assert_eq!(ids.len(), text_tokens - grids.len() + markers, "{}", example.id);
        assert_eq!(tokenizer.decode(&tokenizer.encode(&prompt).unwrap()).unwrap(), prompt);
        pictures += grids.len();
        tokens += ids.len();
    }
    (examples.len(), pictures, tokens)
}

#[test]
fn own_questions_become_prompts_and_patches() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("own.jsonl");
    let data = own_golden().join("data").canonicalize().unwrap();
    let lines = [
        json!({"problem": "<image>Find x.", "answer": "5", "images": data.join("mathverse/images/357.png")}),
        json!({"problem": "Compare <image> and <image>.", "answer": "A", "images":
            [data.join("modes/rgba.png"), {"path": data.join("mmmu_pro/images/test_Music_251_5.png")}]}),
        json!({"problem": "1 + 1 = ? 🙂", "answer": 2}),
    ];
    std::fs::write(&path, lines.map(|line| line.to_string()).join("\n")).unwrap();
    assert_eq!(prepare_all(&path).0, 3);
    assert_eq!(prepare_all(&path).1, 3);
}

/// MathVision's own form as this harness's: its one picture first, its numbered places taken out.
fn from_mathvision(row: &Value, folder: &Path) -> Value {
    let question = (1..10).fold(row["question"].as_str().unwrap().to_owned(), |question, index| {
        question.replace(&format!("<image{index}>"), "")
    });
    json!({
        "id": row["id"],
        "problem": format!("<image>{question}"),
        "answer": row["answer"],
        "images": [folder.join(row["_image"].as_str().unwrap())],
    })
}

#[test]
fn all_real_mathvision_rows_become_prompts_and_patches() {
    let Some(extra) = extra_golden() else { return };
    let places = [extra.join("data/mathvision"), extra.join("../data/mathvision")];
    let Some(folder) = places.iter().find(|folder| folder.join("rows.jsonl").exists()) else { return };
    let real: Vec<Value> = rows(&folder.join("rows.jsonl"));
    let converted: Vec<String> = real.iter().map(|row| from_mathvision(row, folder).to_string()).collect();
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("mathvision.jsonl");
    std::fs::write(&path, converted.join("\n")).unwrap();
    let (questions, pictures, tokens) = prepare_all(&path);
    assert_eq!((questions, pictures), (real.len(), real.len()));
    println!("{questions} questions, {pictures} pictures, {tokens} prompt tokens");
}
