//! A user's own questions: a JSONL file beside its pictures.
//!
//! One JSON object per line, in the columns of the reference's training data:
//!
//! | key | value |
//! |---|---|
//! | `problem` | the question, with one `<image>` per picture |
//! | `answer` | the gold answer, a text or a whole number |
//! | `images` | paths relative to the file: one, a list, or objects `{"path": ...}`; may be left out |
//! | `id` | optional; default `line-N` |
//! | `cluster` | optional; items of one source share it; default the id |
//!
//! Other keys are ignored. A row is never skipped: the first fault ends the reading with an error that names
//! file and line. Empty lines hold no row. Whether a picture can be decoded shows when it is prepared.

use crate::prompt::IMAGE_PLACE;
use crate::types::{Example, Picture};
use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

#[derive(Deserialize)]
struct Row {
    problem: String,
    answer: Scalar,
    images: Option<Images>,
    id: Option<Scalar>,
    cluster: Option<Scalar>,
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "`answer`, `id` and `cluster` must be texts or whole numbers")]
pub(super) enum Scalar {
    Text(String),
    Number(i64),
}

impl Scalar {
    pub(super) fn into_text(self) -> String {
        match self {
            Scalar::Text(text) => text,
            Scalar::Number(number) => number.to_string(),
        }
    }
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "`images` must be a path, an object with a \"path\", or a list of these")]
pub(super) enum Images {
    One(Place),
    Many(Vec<Place>),
}

#[derive(Deserialize)]
#[serde(untagged)]
pub(super) enum Place {
    Path(String),
    Object { path: String },
}

impl Images {
    pub(super) fn into_paths(self) -> Vec<String> {
        let places = match self {
            Images::One(place) => vec![place],
            Images::Many(places) => places,
        };
        let path = |place| match place {
            Place::Path(path) | Place::Object { path } => path,
        };
        places.into_iter().map(path).collect()
    }
}

/// Reads the questions of a JSONL file with their pictures. The benchmark's name is the file's name without
/// its ending.
///
/// # Errors
/// Names file and line, and what is wrong: broken JSON, a missing key, an empty question or answer, a missing
/// or unreadable picture, another number of `<image>` than of pictures, an id used twice. Also if the file
/// cannot be read or holds no question.
pub fn read(path: &Path) -> Result<Vec<Example>> {
    let mut reader = Reader::new(path);
    each_line(path, |line, row| reader.add(line, serde_json::from_slice(row).map_err(without_line)?))?;
    ensure!(!reader.examples.is_empty(), "{}: holds no question", path.display());
    Ok(reader.examples)
}

/// Hands the lines of a file that are not empty to `f`, with their numbers from 1; a byte order mark is passed
/// over. Its error gets file and line.
pub fn each_line(path: &Path, mut f: impl FnMut(usize, &[u8]) -> Result<()>) -> Result<()> {
    let content = fs::read(path).with_context(|| format!("{}: cannot be read", path.display()))?;
    let content = content.strip_prefix("\u{feff}".as_bytes()).unwrap_or(&content);
    for (line, row) in (1..).zip(content.split(|&byte| byte == b'\n')) {
        if !row.trim_ascii().is_empty() {
            f(line, row).with_context(|| format!("{}:{line}", path.display()))?;
        }
    }
    Ok(())
}

struct Reader {
    benchmark: String,
    folder: PathBuf,
    examples: Vec<Example>,
    /// The line of each id.
    lines: BTreeMap<String, usize>,
    /// Rows may share a picture; its bytes are held once.
    pictures: BTreeMap<PathBuf, Arc<[u8]>>,
}

impl Reader {
    fn new(path: &Path) -> Reader {
        Reader {
            benchmark: path.file_stem().unwrap_or_default().to_string_lossy().into_owned(),
            folder: path.parent().unwrap_or(Path::new("")).to_owned(),
            examples: Vec::new(),
            lines: BTreeMap::new(),
            pictures: BTreeMap::new(),
        }
    }

    fn add(&mut self, line: usize, row: Row) -> Result<()> {
        let id = row.id.map_or_else(|| format!("line-{line}"), Scalar::into_text);
        if let Some(earlier) = self.lines.insert(id.clone(), line) {
            bail!("the id {id:?} is that of line {earlier} already");
        }
        let answer = row.answer.into_text();
        ensure!(!answer.trim().is_empty(), "the answer is empty");
        ensure!(!row.problem.trim().is_empty(), "the problem is empty");
        let paths = row.images.map(Images::into_paths).unwrap_or_default();
        let places = row.problem.matches(IMAGE_PLACE).count();
        ensure!(
            places == paths.len(),
            "the problem has {places} {IMAGE_PLACE} places, but \"images\" lists {} pictures; write one \
             {IMAGE_PLACE} where each picture belongs",
            paths.len()
        );
        let images = paths.iter().map(|path| self.picture(path)).collect::<Result<_>>()?;
        let cluster = row.cluster.map_or_else(|| id.clone(), Scalar::into_text);
        let benchmark = self.benchmark.clone();
        self.examples.push(Example { id, benchmark, cluster, problem: row.problem, answer, images });
        Ok(())
    }

    fn picture(&mut self, path: &str) -> Result<Picture> {
        let path = self.folder.join(path);
        if let Some(bytes) = self.pictures.get(&path) {
            return Ok(Picture::Encoded(bytes.clone()));
        }
        let bytes = fs::read(&path).with_context(|| {
            format!("the picture {} cannot be read (paths are relative to the JSONL file)", path.display())
        })?;
        let bytes: Arc<[u8]> = bytes.into();
        self.pictures.insert(path, bytes.clone());
        Ok(Picture::Encoded(bytes))
    }
}

/// The fault in words, with its column; the line that the parser would add is always 1.
pub fn without_line(error: serde_json::Error) -> anyhow::Error {
    let text = error.to_string();
    let place = format!(" at line 1 column {}", error.column());
    match text.strip_suffix(&place) {
        Some(fault) => anyhow::anyhow!("column {}: {fault}", error.column()),
        None => anyhow::anyhow!(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(content: &[u8]) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("img")).unwrap();
        fs::write(folder.path().join("img/a.png"), b"A").unwrap();
        let path = folder.path().join("mine.jsonl");
        fs::write(&path, content).unwrap();
        (folder, path)
    }

    fn error_of(content: &str) -> String {
        let (_folder, path) = written(content.as_bytes());
        let text = format!("{:#}", read(&path).unwrap_err());
        text.replace(&path.display().to_string(), "FILE")
    }

    #[test]
    fn every_form_of_a_row_is_read() {
        let rows = [
            r#"{"problem": "<image>What?", "answer": "x", "images": ["img/a.png"], "id": 7, "cluster": "c"}"#,
            r#"{"problem": "<image> and <image>", "answer": 12, "images": [{"path": "img/a.png"}, "img/a.png"]}"#,
            "",
            r#"{"problem": "<image>", "answer": "A", "images": "img/a.png", "subject": "ignored"}"#,
            r#"{"problem": "text only", "answer": "B", "images": null}"#,
        ];
        let (_folder, path) = written(format!("\u{feff}{}\r\n", rows.join("\r\n")).as_bytes());
        let examples = read(&path).unwrap();
        let seen: Vec<_> = examples
            .iter()
            .map(|e| (e.id.as_str(), e.cluster.as_str(), e.answer.as_str(), e.images.len()))
            .collect();
        assert_eq!(
            seen,
            [
                ("7", "c", "x", 1),
                ("line-2", "line-2", "12", 2),
                ("line-4", "line-4", "A", 1),
                ("line-5", "line-5", "B", 0)
            ]
        );
        assert!(examples.iter().all(|e| e.benchmark == "mine"));
        assert!(matches!(&examples[0].images[0], Picture::Encoded(bytes) if bytes[..] == *b"A"));
    }

    #[test]
    fn faults_name_file_line_and_what_is_wrong() {
        let good = r#"{"problem": "p", "answer": "a", "id": "1"}"#;
        for (row, fault) in [
            ("{\"problem\": \"p\", ", "FILE:2: column 17: EOF while parsing"),
            (r#"{"problem": "p"}"#, "FILE:2: column 16: missing field `answer`"),
            (r#"{"answer": "a"}"#, "missing field `problem`"),
            (r#"{"problem": "p", "answer": " "}"#, "FILE:2: the answer is empty"),
            (r#"{"problem": "\n", "answer": "a"}"#, "FILE:2: the problem is empty"),
            (r#"{"problem": "p", "answer": 0.5}"#, "must be texts or whole numbers"),
            (
                r#"{"problem": "p", "answer": "a", "id": "1"}"#,
                "FILE:2: the id \"1\" is that of line 1 already",
            ),
            (r#"{"problem": "<image>", "answer": "a"}"#, "1 <image> places, but \"images\" lists 0 pictures"),
            (r#"{"problem": "p", "answer": "a", "images": ["img/a.png"]}"#, "0 <image> places"),
            (r#"{"problem": "p", "answer": "a", "images": [1]}"#, "`images` must be a path"),
            (r#"{"problem": "<image>", "answer": "a", "images": "img/b.png"}"#, "img/b.png cannot be read"),
        ] {
            let error = error_of(&format!("{good}\n{row}"));
            assert!(error.starts_with("FILE:2: ") && error.contains(fault), "{row}: {error}");
        }
        assert_eq!(error_of("\n \n"), "FILE: holds no question");
        assert!(
            format!("{:#}", read(Path::new("no/such.jsonl")).unwrap_err())
                .contains("no/such.jsonl: cannot be read")
        );
    }

    #[test]
    fn bytes_that_are_no_utf8_are_an_error_of_their_line() {
        let (_folder, path) = written(b"{\"problem\": \"\xff\", \"answer\": \"a\"}\n");
        assert!(format!("{:#}", read(&path).unwrap_err()).contains("mine.jsonl:1: "));
    }
}
