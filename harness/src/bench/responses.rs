//! Responses that a user wants scored: a JSONL file beside its pictures.
//!
//! | key | value |
//! |---|---|
//! | `prompt` | the question, with one `<image>` per picture |
//! | `images` | paths relative to the file: one, a list, or objects `{"path": ...}`; may be left out |
//! | `response` | what the model is to have answered, as text |
//! | `response_ids` | the same as token ids, taken as they are; instead of `response` |
//! | `append_end` | optional; `false` leaves off the end token that follows a `response` |
//! | `id` | optional; a text or a whole number; need not be unique |
//!
//! Other keys are ignored and empty lines hold no row, as in a user's questions ([`super::jsonl`]). A row is never
//! skipped: the first fault ends the reading with an error that names file and line. All rows are checked before the
//! first picture is read; pictures are read when they are asked for, so that a long file needs little memory.

use super::jsonl::{Images, Scalar, each_line, without_line};
use crate::prompt::IMAGE_PLACE;
use crate::types::Picture;
use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

#[derive(Deserialize)]
struct Row {
    prompt: String,
    images: Option<Images>,
    response: Option<String>,
    response_ids: Option<Vec<u32>>,
    append_end: Option<bool>,
    id: Option<Scalar>,
}

/// A response to be scored, and what it answers.
#[derive(Clone, Debug, PartialEq)]
pub struct Given {
    /// Its line in the file, from 1.
    pub line: usize,
    /// The user's name for it.
    pub id: Option<String>,
    /// The question, with as many `<image>` places as pictures.
    pub prompt: String,
    /// The response.
    pub response: Response,
    file: Arc<Path>,
    pictures: Vec<PathBuf>,
}

/// A response as it was given.
#[derive(Clone, Debug, PartialEq)]
pub enum Response {
    /// Text, to be cut into tokens.
    Text {
        /// The text.
        text: String,
        /// Whether the end token follows.
        append_end: bool,
    },
    /// Tokens, complete.
    Ids(Vec<u32>),
}

impl Given {
    /// Where it stands, as `file:line`.
    pub fn place(&self) -> String {
        format!("{}:{}", self.file.display(), self.line)
    }

    /// Reads its pictures, in the order of their places.
    ///
    /// # Errors
    /// Names a file that cannot be read.
    pub fn pictures(&self) -> Result<Vec<Picture>> {
        let read = |path: &PathBuf| {
            let bytes = fs::read(path).with_context(|| cannot_read(path))?;
            Ok(Picture::Encoded(bytes.into()))
        };
        self.pictures.iter().map(read).collect()
    }
}

/// Reads the rows of a JSONL file, without their pictures.
///
/// # Errors
/// Names file and line, and what is wrong: broken JSON, a missing key, no response or two, a picture that is not
/// there, another number of `<image>` than of pictures. Also if the file cannot be read or holds no row.
pub fn read(path: &Path) -> Result<Vec<Given>> {
    let file: Arc<Path> = path.into();
    let mut given = Vec::new();
    each_line(path, |line, row| {
        given.push(parse(&file, line, serde_json::from_slice(row).map_err(without_line)?)?);
        Ok(())
    })?;
    ensure!(!given.is_empty(), "{}: holds no response", path.display());
    Ok(given)
}

fn parse(file: &Arc<Path>, line: usize, row: Row) -> Result<Given> {
    ensure!(!row.prompt.trim().is_empty(), "the prompt is empty");
    let folder = file.parent().unwrap_or(Path::new(""));
    let paths = row.images.map(Images::into_paths).unwrap_or_default();
    let pictures: Vec<PathBuf> = paths.iter().map(|path| folder.join(path)).collect();
    let places = row.prompt.matches(IMAGE_PLACE).count();
    ensure!(
        places == pictures.len(),
        "the prompt has {places} {IMAGE_PLACE} places, but \"images\" lists {} pictures; write one {IMAGE_PLACE} \
         where each picture belongs",
        pictures.len()
    );
    if let Some(missing) = pictures.iter().find(|path| !path.is_file()) {
        bail!(cannot_read(missing));
    }
    let response = match (row.response, row.response_ids) {
        (Some(text), None) => Response::Text { text, append_end: row.append_end.unwrap_or(true) },
        (None, Some(ids)) => {
            ensure!(
                row.append_end.is_none(),
                "\"append_end\" is for \"response\"; \"response_ids\" are complete"
            );
            Response::Ids(ids)
        }
        _ => bail!("give either \"response\" (text) or \"response_ids\" (tokens)"),
    };
    let id = row.id.map(Scalar::into_text);
    Ok(Given { line, id, prompt: row.prompt, response, file: file.clone(), pictures })
}

fn cannot_read(picture: &Path) -> String {
    format!("the picture {} cannot be read (paths are relative to the JSONL file)", picture.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(content: &str) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("a.png"), b"A").unwrap();
        let path = folder.path().join("mine.jsonl");
        fs::write(&path, content).unwrap();
        (folder, path)
    }

    #[test]
    fn every_form_of_a_row_is_read() {
        let rows = [
            r#"{"prompt": "<image>?", "images": "a.png", "response": "x", "id": 7, "score": "ignored"}"#,
            "",
            r#"{"prompt": "<image><image>", "images": ["a.png", {"path": "a.png"}], "response_ids": [1, 2], "id": "7"}"#,
            r#"{"prompt": "text", "images": [], "response": "", "append_end": false}"#,
        ];
        let (_folder, path) = written(&rows.join("\r\n"));
        let given = read(&path).unwrap();
        let seen: Vec<_> =
            given.iter().map(|g| (g.line, g.id.as_deref(), g.pictures().unwrap().len())).collect();
        assert_eq!(seen, [(1, Some("7"), 1), (3, Some("7"), 2), (4, None, 0)]);
        let text = |text: &str, append_end| Response::Text { text: text.into(), append_end };
        let responses: Vec<_> = given.iter().map(|g| g.response.clone()).collect();
        assert_eq!(responses, [text("x", true), Response::Ids(vec![1, 2]), text("", false)]);
        assert_eq!(given[1].place(), format!("{}:3", path.display()));
    }

    #[test]
    fn faults_name_file_line_and_what_is_wrong() {
        for (row, fault) in [
            (r#"{"prompt": "p", "#, "column 16: EOF while parsing"),
            (r#"{"response": "r"}"#, "missing field `prompt`"),
            (r#"{"prompt": " \n", "response": "r"}"#, "the prompt is empty"),
            (r#"{"prompt": "p"}"#, "give either \"response\""),
            (r#"{"prompt": "p", "response": "r", "response_ids": [1]}"#, "give either \"response\""),
            (r#"{"prompt": "p", "response_ids": [-1]}"#, "invalid value"),
            (r#"{"prompt": "p", "response_ids": [1], "append_end": true}"#, "\"append_end\" is for"),
            (r#"{"prompt": "<image>", "response": "r"}"#, "1 <image> places, but \"images\" lists 0"),
            (r#"{"prompt": "p", "images": ["a.png"], "response": "r"}"#, "0 <image> places"),
            (r#"{"prompt": "<image>", "images": ["b.png"], "response": "r"}"#, "b.png cannot be read"),
        ] {
            let (_folder, path) = written(&format!("\n{}\n{row}", r#"{"prompt": "p", "response": "r"}"#));
            let error = format!("{:#}", read(&path).unwrap_err());
            let place = format!("{}:3: ", path.display());
            assert!(error.starts_with(&place) && error.contains(fault), "{row}: {error}");
        }
        let (_folder, path) = written("\n");
        assert!(format!("{:#}", read(&path).unwrap_err()).contains("holds no response"));
    }
}
