//! A checkpoint's chat template (Jinja), rendered as transformers' `apply_chat_template` does.

use super::IMAGE_PLACE;
use anyhow::{Context, Result, ensure};
use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, Error, ErrorKind, Value, context};

const NAME: &str = "chat_template";

/// A parsed chat template.
#[derive(Debug)]
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
        environment
            .add_template_owned(NAME, source.to_owned())
            .context("the chat template cannot be parsed")?;
        Ok(ChatTemplate { environment })
    }

    /// Parses the text of a `chat_template.json` or `tokenizer_config.json`: its key `chat_template`.
    ///
    /// # Errors
    /// If that key is missing or is not one text, and those of [`ChatTemplate::new`].
    pub fn from_json(text: &str) -> Result<ChatTemplate> {
        let file: serde_json::Value = serde_json::from_str(text).context("the chat template's JSON")?;
        let source = file.get("chat_template").and_then(serde_json::Value::as_str);
        ChatTemplate::new(source.context("no text under the key \"chat_template\"")?)
    }

    /// The prompt of one question, up to where the model begins to answer. The user's message is the question
    /// without surrounding white space, then a blank line and `instruction` unless that is empty; each [`IMAGE_PLACE`] in it becomes
    /// the template's picture marker.
    ///
    /// # Errors
    /// If the number of places is not `images`, and where the template itself fails.
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
        let message = context! { role => "user", content => content(&pieces) };
        let template = self.environment.get_template(NAME)?;
        template
            .render(context! { messages => vec![message], add_generation_prompt => true })
            .context("the chat template cannot be rendered")
    }
}

/// The parts of a message: pictures between the texts, empty texts left out.
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
        assert!(ChatTemplate::from_json("{\"chat_template\": \"x\"}").is_ok());
    }
}
