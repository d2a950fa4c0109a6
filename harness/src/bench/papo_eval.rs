//! The authors' evaluation bundle, in PAPO-Eval's layout.
//!
//! A folder `data` with one JSON list per benchmark (`data/vppo/NAME.json`), the pictures as files
//! (`data/images/NAME/...`) and `dataset_info.json`, which names the lists. A row is a conversation:
//! `{"messages": [{"role": "user", "content": "<image>..."}, {"role": "assistant", "content": ANSWER}],
//! "images": ["./data/images/..."]}`.
//!
//! The instruction sentence ends every question there and is taken off, as the prompt adds its own. Rows have no
//! ids: they are called `test_N` as PAPO-Eval does. Clusters are told by the picture's path where the manifest
//! knows how, else rows with identical first pictures form one; both are noted.
//!
//! Sources: PAPO-Eval (`papo_eval/preprocess`, `data/dataset_info.json`).

use super::draft::{Collector, Draft};
use super::pictures::Pictures;
use crate::prompt::INSTRUCTION;
use crate::types::Picture;
use anyhow::{Context, Result, bail, ensure};
use regex::Regex;
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

#[derive(Deserialize)]
struct Row {
    messages: Vec<Message>,
    #[serde(default)]
    images: Option<Vec<String>>,
}

#[derive(Deserialize)]
struct Message {
    role: String,
    content: String,
}

#[derive(Deserialize)]
struct InfoEntry {
    file_name: Option<String>,
}

/// Reads a bundle's rows into a collector and returns what has to be noted. `files` are the source's files by
/// path in the repository, `stems` the names that the list may have.
///
/// # Errors
/// Names the file, the row and what is wrong.
pub(super) fn read(
    files: &BTreeMap<&str, &PathBuf>,
    stems: &[String],
    cluster_in_path: Option<&str>,
    collector: &mut Collector,
) -> Result<Vec<String>> {
    let (list, file) = list_file(files, stems)?;
    let content = fs::read(file).with_context(|| format!("{list} cannot be read"))?;
    let rows: Vec<Value> =
        serde_json::from_slice(&content).with_context(|| format!("{list} is no list of rows in JSON"))?;
    let mut reader = Reader {
        files,
        pictures: Pictures::default(),
        instruction: instruction_suffix()?,
        cluster_in_path: cluster_in_path.map(Regex::new).transpose().context("`cluster_in_path`")?,
        guessed_clusters: 0,
    };
    for (index, row) in rows.into_iter().enumerate() {
        let place = format!("{list}, row {}", index + 1);
        let draft = reader.draft(index, row).with_context(|| place.clone())?;
        collector.add(draft, &place).with_context(|| place.clone())?;
    }
    Ok(reader.notes())
}

/// The list among the files: the only one with a fitting name, or of several the one that `dataset_info.json`
/// names.
fn list_file<'a>(files: &BTreeMap<&'a str, &'a PathBuf>, stems: &[String]) -> Result<(&'a str, &'a PathBuf)> {
    let fits = |path: &str| {
        let name = path.rsplit('/').next().unwrap_or(path);
        name.strip_suffix(".json").is_some_and(|stem| stems.iter().any(|wanted| wanted == stem))
    };
    let mut lists: Vec<_> = files.iter().map(|(&path, &file)| (path, file)).collect();
    lists.retain(|(path, _)| fits(path));
    if lists.len() > 1 {
        let named = listed_in_info(files)?;
        lists.retain(|(path, _)| named.iter().any(|name| path.ends_with(&format!("/{name}"))));
    }
    match lists[..] {
        [only] => Ok(only),
        _ => bail!(
            "there must be one list called {}.json, or dataset_info.json must name one of several; found {}",
            stems.join(".json or "),
            lists.len()
        ),
    }
}

/// The file names in `dataset_info.json`, if there is one.
fn listed_in_info(files: &BTreeMap<&str, &PathBuf>) -> Result<Vec<String>> {
    let Some((path, file)) = files.iter().find(|(path, _)| path.ends_with("dataset_info.json")) else {
        return Ok(Vec::new());
    };
    let content = fs::read(file).with_context(|| format!("{path} cannot be read"))?;
    let entries: BTreeMap<String, InfoEntry> =
        serde_json::from_slice(&content).with_context(|| path.to_string())?;
    Ok(entries.into_values().filter_map(|entry| entry.file_name).collect())
}

/// The instruction at the end of a question, whatever the white space between its words and the last stop.
fn instruction_suffix() -> Result<Regex> {
    let words: Vec<String> =
        INSTRUCTION.trim_end_matches('.').split_whitespace().map(regex::escape).collect();
    Ok(Regex::new(&format!(r"\s*{}\.?\s*$", words.join(r"\s+")))?)
}

struct Reader<'a> {
    files: &'a BTreeMap<&'a str, &'a PathBuf>,
    pictures: Pictures,
    instruction: Regex,
    cluster_in_path: Option<Regex>,
    /// Rows whose cluster is told by nothing but their picture.
    guessed_clusters: usize,
}

impl Reader<'_> {
    fn draft(&mut self, index: usize, row: Value) -> Result<Draft> {
        let row: Row = serde_json::from_value(row).context("the row is no conversation")?;
        let question = only(&row.messages, "user")?;
        let paths: Vec<String> =
            row.images.unwrap_or_default().iter().map(|path| in_repository(path)).collect();
        let images = paths.iter().map(|path| self.picture(path)).collect::<Result<Vec<_>>>()?;
        Ok(Draft {
            id: Some(format!("test_{index}")),
            cluster: self.cluster(&paths, &images),
            problem: self.instruction.replace(question, "").into_owned(),
            answer: only(&row.messages, "assistant")?.to_owned(),
            images,
            question_type: None,
        })
    }

    fn picture(&mut self, path: &str) -> Result<Picture> {
        let file =
            self.files.get(path).with_context(|| format!("the picture {path} is not among the files"))?;
        let bytes = fs::read(file).with_context(|| format!("the picture {path} cannot be read"))?;
        Ok(self.pictures.keep(&bytes))
    }

    fn cluster(&mut self, paths: &[String], images: &[Picture]) -> Option<String> {
        let path = paths.first()?;
        let told = self.cluster_in_path.as_ref().and_then(|pattern| pattern.captures(path)?.get(1));
        if let Some(told) = told {
            return Some(format!("seed-{}", told.as_str()));
        }
        self.guessed_clusters += 1;
        match images.first()? {
            Picture::Encoded(bytes) => Some(format!("picture-{}", &blake3::hash(bytes).to_hex()[..16])),
            Picture::Rgb(_) => None,
        }
    }

    fn notes(&self) -> Vec<String> {
        let guessed = self.guessed_clusters;
        let note = format!(
            "the bundle has no ids: the clusters of {guessed} rows are told by identical pictures only, so \
             standard errors may be too small"
        );
        if guessed > 0 { vec![note] } else { Vec::new() }
    }
}

/// The content of the only message of a role.
fn only<'a>(messages: &'a [Message], role: &str) -> Result<&'a str> {
    let mut of_role = messages.iter().filter(|message| message.role == role);
    let first = of_role.next().with_context(|| format!("there is no message of the {role}"))?;
    ensure!(of_role.next().is_none(), "there are several messages of the {role}");
    Ok(&first.content)
}

/// A picture's path as the repository has it: `./data/images/x.png`, `images/x.png` and `data\images\x.png` are
/// `data/images/x.png`.
fn in_repository(path: &str) -> String {
    let path = path.trim().replace('\\', "/");
    let path = path.trim_start_matches("./");
    if path.starts_with("images/") { format!("data/{path}") } else { path.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_instruction_is_taken_off_the_end_only() {
        let suffix = instruction_suffix().unwrap();
        let off = |text: &str| suffix.replace(text, "").into_owned();
        assert_eq!(off(&format!("<image>Find x.\n\n{INSTRUCTION}")), "<image>Find x.");
        assert_eq!(
            off(&format!("Find x. {}", INSTRUCTION.replace(". Then", ".\nThen").trim_end_matches('.'))),
            "Find x."
        );
        assert_eq!(off("Find x."), "Find x.");
        let inside = format!("{INSTRUCTION} Find x.");
        assert_eq!(off(&inside), inside);
    }

    #[test]
    fn picture_paths_are_those_of_the_repository() {
        for path in
            ["./data/images/a/1.png", "data/images/a/1.png", "images/a/1.png", "data\\images\\a\\1.png"]
        {
            assert_eq!(in_repository(path), "data/images/a/1.png");
        }
    }
}
