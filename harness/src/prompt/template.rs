//! A checkpoint's chat template (Jinja), rendered as transformers' `apply_chat_template` does.
//!
//! Deviations: `strftime_now` is not there, because a prompt must not change from day to day (templates that ask
//! whether it is defined use their fixed date, others fail); the tokenizer's special tokens (`bos_token`, ...) are not
//! passed, since Qwen2.5-VL's templates write theirs out; neither is the tag `generation`, which marks training text.

use super::IMAGE_PLACE;
use super::python::{call_method, tojson};
use anyhow::{Context, Result, ensure};
use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, Error, ErrorKind, Value, context};

const NAME: &str = "chat_template";

/// A parsed chat template.
#[derive(Clone, Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
}

impl ChatTemplate {
    /// Parses the template's text (the content of a `chat_template.jinja`).
    ///
    /// # Errors
    /// On a syntax error, or on syntax that minijinja does not know.
    pub fn new(source: &str) -> Result<ChatTemplate> {
        let mut environment = Environment::new();
        environment.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
        environment.add_function("raise_exception", |message: String| -> Result<String, Error> {
            Err(Error::new(ErrorKind::InvalidOperation, message))
        });
        environment.add_filter("tojson", tojson);
        environment.set_unknown_method_callback(call_method);
        environment
            .add_template_owned(NAME, source.to_owned())
            .context("the chat template cannot be parsed")?;
        Ok(ChatTemplate { environment })
    }

    /// Parses the text of a `chat_template.json` or `tokenizer_config.json`: its key `chat_template`, a text or a
    /// list of named ones, of which the one named `default` counts.
    ///
    /// # Errors
    /// If there is no such template, and those of [`ChatTemplate::new`].
    pub fn from_json(text: &str) -> Result<ChatTemplate> {
        let file: serde_json::Value = serde_json::from_str(text).context("the chat template's JSON")?;
        let named = file["chat_template"].as_array();
        let default = named.and_then(|all| all.iter().find(|one| one["name"] == "default"));
        let source = default.map_or(&file["chat_template"], |one| &one["template"]);
        ChatTemplate::new(source.as_str().context("no text under the key \"chat_template\"")?)
    }

    /// The prompt of one question, up to where the model begins to answer. The user's message is the question
    /// without surrounding white space, then a blank line and `instruction` unless that is empty; each [`IMAGE_PLACE`] in it becomes
    /// the template's picture marker.
    ///
    /// # Errors
    /// If the number of places is not `images`, where the template itself fails, and where it leaves the text out.
    pub fn render(&self, problem: &str, images: usize, instruction: &str) -> Result<String> {
        let mut text = problem.trim().to_owned();
        if !instruction.is_empty() {
            text = format!("{text}\n\n{instruction}");
        }
        let pieces: Vec<&str> = text.split(IMAGE_PLACE).collect();
        let places = pieces.len() - 1;
        ensure!(
            places == images,
            "{places} {IMAGE_PLACE} places for {images} pictures: the problem must have one place per picture"
        );
        let prompt = self.filled(&pieces)?;
        ensure!(holds(&prompt, &pieces), "the chat template leaves out text of the question");
        Ok(prompt)
    }

    fn filled(&self, pieces: &[&str]) -> Result<String> {
        let message = context! { role => "user", content => content(pieces) };
        let template = self.environment.get_template(NAME)?;
        let nothing = Value::from(());
        template
            .render(context! {
                messages => vec![message],
                tools => nothing.clone(),
                documents => nothing,
                add_generation_prompt => true,
            })
            .context("the chat template cannot be rendered")
    }
}

/// Whether a prompt has every piece of the question: a template that expects something else than parts leaves them
/// out without an error.
fn holds(prompt: &str, pieces: &[&str]) -> bool {
    pieces.iter().all(|piece| prompt.contains(piece.trim()))
}

/// The parts of a message: pictures between the texts, empty texts left out. A message without pictures is one text
/// part, as in the reference's data with a picture column.
fn content(pieces: &[&str]) -> Vec<Value> {
    let mut parts = Vec::new();
    for (index, &text) in pieces.iter().enumerate() {
        if index > 0 {
            parts.push(context! { type => "image" });
        }
        if !text.is_empty() {
            parts.push(context! { type => "text", text => text });
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rendered(source: &str, problem: &str, images: usize) -> Result<String> {
        ChatTemplate::new(source)?.render(problem, images, "Go.")
    }

    const PARTS: &str = "{% for part in messages[0]['content'] %}
    {% if part['type'] == 'image' %}
[I]
    {% else %}
[{{ part.text }}]
    {% endif %}
{% endfor %}";

    #[test]
    fn a_problem_is_stripped_and_split_at_its_pictures() {
        assert_eq!(rendered(PARTS, " \n<image>Find x.\t", 1).unwrap(), "[I]\n[Find x.\n\nGo.]\n");
        assert_eq!(rendered(PARTS, "a <image><image> b", 2).unwrap(), "[a ]\n[I]\n[I]\n[ b\n\nGo.]\n");
        assert_eq!(rendered(PARTS, "1 < 2 & \"q\"", 0).unwrap(), "[1 < 2 & \"q\"\n\nGo.]\n");
        let bare = ChatTemplate::new(PARTS).unwrap().render(" x <image>\n", 1, "").unwrap();
        assert_eq!(bare, "[x ]\n[I]\n", "no instruction, no blank line");
    }

    #[test]
    fn wrong_counts_and_broken_templates_are_errors() {
        let message =
            |source, problem, images| format!("{:#}", rendered(source, problem, images).unwrap_err());
        assert!(message(PARTS, "<image>", 2).contains("1 <image> places for 2 pictures"));
        assert!(message(PARTS, "none", 1).contains("0 <image> places for 1 pictures"));
        assert!(message("{% for %}", "", 0).contains("cannot be parsed"));
        assert!(message("{{ raise_exception('no system role') }}", "", 0).contains("no system role"));
        assert!(ChatTemplate::from_json("{\"chat_template\": [1]}").is_err());
        assert!(ChatTemplate::from_json("[]").is_err());
        assert!(message("{{ messages[0].role }}", "Why?", 0).contains("leaves out text of the question"));
        let same_for_all = "{{ strftime_now is defined }}{{ strftime_now('%Y') }}";
        assert!(message(same_for_all, "", 0).contains("strftime_now"));
    }

    #[test]
    fn a_template_may_be_one_of_several() {
        let of = |text: &str| ChatTemplate::from_json(text).and_then(|found| found.render("", 0, ""));
        assert_eq!(of(r#"{"chat_template": "one"}"#).unwrap(), "one");
        let two = r#"{"chat_template": [{"name": "tools", "template": "t"}, {"name": "default", "template": "d"}]}"#;
        assert_eq!(of(two).unwrap(), "d");
        assert!(of(r#"{"chat_template": [{"name": "tools", "template": "t"}]}"#).is_err());
    }

    /// What transformers gives to templates; the expected texts are those of Python's Jinja.
    #[test]
    fn templates_find_what_transformers_offers() {
        let text = "A 'b' <c> & \"d\"\u{e9}\n";
        for (source, expected) in [
            ("{{ messages[0].content[0].text | tojson }}", r#""A 'b' <c> & \"d\"é""#),
            (
                "{{ messages[0] | tojson }}",
                r#"{"role": "user", "content": [{"type": "text", "text": "A 'b' <c> & \"d\"é"}]}"#,
            ),
            ("{{ [1, 2.5, true, none, {}, []] | tojson }}", "[1, 2.5, true, null, {}, []]"),
            ("{{ {'z': [1], 'a': {}} | tojson(indent=2) }}", "{\n  \"z\": [\n    1\n  ],\n  \"a\": {}\n}"),
            (
                "{% for i in [1, 2, 3, 4] %}{% if i == 2 %}{% continue %}{% endif %}{% if i == 4 %}{% break %}{% endif %}{{ i }}{% endfor %}",
                "13",
            ),
            (
                "{% set n = namespace(value=0) %}{% for i in [1, 2] %}{% set n.value = n.value + i %}{% endfor %}{{ n.value }}",
                "3",
            ),
            ("{% if tools is none and documents is none and not add_vision_id %}none{% endif %}", "none"),
            (
                "{% for m in messages %}{{ loop.first and m['role'] != 'system' and 'text' not in m }}{% endfor %}",
                "True",
            ),
            ("{{ '  x y '.strip() }}|{{ '--x-'.lstrip('-') }}|{{ 'x\\n'.rstrip('\\n') }}", "x y|x-|x"),
            ("{{ 'a</think>b'.split('</think>')[-1] }}{{ ' a  b '.split() | length }}", "b2"),
            (
                "{{ 'ab'.startswith('a') }}{{ 'ab'.endswith('a') }}{{ 'aB'.lower() }}{{ 'a'.upper() }}",
                "TrueFalseabA",
            ),
            (
                "{{ 'a-b'.replace('-', '+') }}{{ messages[0].get('name', 'none') }}{{ messages[0].get('x') is none }}",
                "a+bnoneTrue",
            ),
            (
                "{% for k, v in messages[0].items() %}{{ k }} {% endfor %}{{ messages[0].keys() | join }}",
                "role content rolecontent",
            ),
        ] {
            assert_eq!(rendered_bare(source, text).unwrap(), expected, "{source}");
        }
        for (source, fault) in [
            ("{{ messages[0].pop() }}", "pop"),
            ("{{ 'a'.zfill(3) }}", "zfill"),
            ("{{ 'a' | tojson(sort_keys=true) }}", "sort_keys"),
            ("{{ 'a' | tojson(ensure_ascii=true) }}", "ensure_ascii"),
        ] {
            let error = format!("{:#}", rendered_bare(source, text).unwrap_err());
            assert!(error.contains(fault), "{source}: {error}");
        }
    }

    fn rendered_bare(source: &str, problem: &str) -> Result<String> {
        ChatTemplate::new(source)?.filled(&[problem.trim()])
    }
}
