//! The files of a checkpoint that are not weights, in their old and their new layout.

use harness::model::checkpoint::{
    CHAT_TEMPLATE, CHAT_TEMPLATE_JINJA, CONFIG, Files, PREPROCESSOR, PROCESSOR, SaveSettings, TOKENIZER,
    TOKENIZER_CONFIG, read_companions,
};
use harness::rollout::{Policy, Renderer};
use harness::types::Example;
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};

/// The project's own checkpoint in the layout of transformers 5.
fn nested() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/parity/qwen2_5_vl_nested")
}

fn without(files: &Files, names: &[&str]) -> Files {
    files.iter().filter(|(name, _)| !names.contains(&name.as_str())).cloned().collect()
}

/// How a text is rendered by the chat template that these files choose.
fn rendered(mut files: Files, more: &[(&str, &str)]) -> String {
    files.extend(more.iter().map(|(name, text)| ((*name).to_owned(), text.as_bytes().to_vec())));
    let renderer = Renderer::from_files(files, "Go.", None).unwrap();
    renderer.template.render("Hi", 0, &renderer.instruction).unwrap()
}

fn message(files: Files) -> String {
    let result = Renderer::from_files(files, "", None).map(drop);
    format!("{:#}", result.unwrap_err())
}

#[test]
fn chat_templates_are_looked_for_in_order() {
    let files = read_companions(&nested()).unwrap();
    assert!(rendered(files.clone(), &[]).starts_with("<|im_start|>user\nHi\n\nGo.<|im_end|>"));
    let template = |name: &str| format!("{name}: {{{{ messages[0].content[0].text }}}}");
    let json = |name: &str| serde_json::json!({ "chat_template": template(name) }).to_string();
    let (old, inside, new) = (json("old"), json("inside"), template("new"));
    let text = |name: &str| format!("{name}: Hi\n\nGo.");
    assert_eq!(rendered(files.clone(), &[(CHAT_TEMPLATE, &old)]), text("old"));
    let bare = without(&files, &[CHAT_TEMPLATE_JINJA, TOKENIZER_CONFIG]);
    let inside = (TOKENIZER_CONFIG, inside.as_str());
    assert_eq!(rendered(bare.clone(), &[inside]), text("inside"));
    assert_eq!(rendered(bare.clone(), &[inside, (CHAT_TEMPLATE_JINJA, &new)]), text("new"));
    assert!(message(bare).contains("no chat template"));
}

#[test]
fn the_picture_processor_is_read_from_either_file() {
    let files = read_companions(&nested()).unwrap();
    let renderer = Renderer::from_files(files.clone(), "", None).unwrap();
    assert_eq!((renderer.processor.min_pixels, renderer.processor.max_pixels), (3_136, 1_003_520));
    let own = renderer.processor.to_json().unwrap();
    let mut old = without(&files, &[PROCESSOR]);
    assert!(message(old.clone()).contains(PREPROCESSOR));
    old.push((PROCESSOR.into(), br#"{"processor_class": "Qwen2_5_VLProcessor"}"#.to_vec()));
    old.push((PREPROCESSOR.into(), own.into_bytes()));
    assert_eq!(Renderer::from_files(old, "", None).unwrap().processor, renderer.processor);
}

#[test]
fn end_tokens_come_from_the_generation_defaults() {
    let renderer = Renderer::from_files(read_companions(&nested()).unwrap(), "", None).unwrap();
    assert_eq!(renderer.end, [322, 320]);
    assert_eq!(renderer.forbidden, [326, 327]);
}

#[test]
fn a_saved_policy_has_the_files_it_came_with_and_opens_again() {
    let policy = Policy::open(&nested(), "Go.", None).unwrap();
    let dir = tempfile::tempdir().unwrap();
    policy.save(dir.path(), &SaveSettings::default()).unwrap();
    for (name, bytes) in read_companions(&nested()).unwrap() {
        let saved = fs::read(dir.path().join(&name)).unwrap();
        if name == CONFIG {
            let text = String::from_utf8(bytes).unwrap().replace("bfloat16", "float32");
            let json = |bytes: &[u8]| serde_json::from_slice::<Value>(bytes).unwrap();
            assert_eq!(json(&saved), json(text.as_bytes()));
        } else {
            assert!(saved == bytes, "{name}");
        }
    }
    let again = Policy::open(dir.path(), "Go.", None).unwrap();
    assert_eq!(again.model.to_bytes().unwrap(), policy.model.to_bytes().unwrap());
    let example = Example {
        id: "1".into(),
        benchmark: "b".into(),
        cluster: "1".into(),
        problem: "Find x.".into(),
        answer: String::new(),
        images: vec![],
    };
    assert_eq!(again.renderer.prompt(&example).unwrap().ids, policy.renderer.prompt(&example).unwrap().ids);
}

#[test]
fn folders_without_a_tokenizer_that_is_read_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let message = || format!("{:#}", Policy::open(dir.path(), "", None).map(drop).unwrap_err());
    assert!(message().contains("config.json is missing"), "{}", message());
    fs::copy(nested().join("config.json"), dir.path().join("config.json")).unwrap();
    assert!(message().contains("tokenizer.json is missing: a checkpoint"), "{}", message());
    fs::write(dir.path().join("vocab.json"), "{}").unwrap();
    assert!(message().contains("tokenizer.json is missing: vocab.json"), "{}", message());
    fs::write(dir.path().join(TOKENIZER), "{}").unwrap();
    assert!(message().contains("tokenizer.json cannot be read"), "{}", message());
}
