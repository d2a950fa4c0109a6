//! What the hub says about a repository: commit, licence, and every file's size and checksum.

use super::checksum::Blob;
use super::client::{Client, Patience};
use super::repo::{Repo, check_path, is_commit};
use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;
use serde_json::Value;

/// A repository at one commit.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Listing {
    /// The commit.
    pub commit: String,
    /// As the card names it.
    pub licence: Option<String>,
    /// All files, in byte order of their paths.
    pub files: Vec<Entry>,
}

/// One file of a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// Path within the repository.
    pub path: String,
    /// Size.
    pub bytes: u64,
    /// Checksum.
    pub blob: Blob,
}

/// Asks for the listing of a repository. Fails on anything that is not a listing with sizes and checksums.
pub(super) fn ask(client: &Client, repo: &Repo, patience: &mut Patience<'_>) -> Result<Listing> {
    let request = client.listing(repo);
    let text = client.text(&request, patience)?;
    parse(&text).with_context(|| {
        let way_out = "what came back is no listing of the hub; check HF_ENDPOINT and the proxy";
        request.error(way_out).to_string()
    })
}

#[derive(Deserialize)]
struct Info {
    sha: String,
    siblings: Vec<Sibling>,
    #[serde(rename = "cardData", default)]
    card: Value,
    #[serde(default)]
    tags: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Sibling {
    rfilename: String,
    size: Option<u64>,
    blob_id: Option<String>,
    lfs: Option<Lfs>,
}

#[derive(Deserialize)]
struct Lfs {
    sha256: String,
    size: u64,
}

fn parse(text: &str) -> Result<Listing> {
    let info: Info = serde_json::from_str(text)?;
    ensure!(is_commit(&info.sha), "{:?} is no commit", info.sha);
    let licence = licence(&info);
    let mut files = info.siblings.into_iter().map(entry).collect::<Result<Vec<_>>>()?;
    files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(Listing { commit: info.sha, licence, files })
}

fn entry(file: Sibling) -> Result<Entry> {
    let Sibling { rfilename: path, size, blob_id, lfs } = file;
    check_path(&path)?;
    let (bytes, blob) = match lfs {
        Some(lfs) => (Some(lfs.size), Some(lfs.sha256)),
        None => (size, blob_id),
    };
    let bytes = bytes.with_context(|| format!("{path} has no size"))?;
    let blob = Blob::parse(&blob.with_context(|| format!("{path} has no checksum"))?)?;
    Ok(Entry { path, bytes, blob })
}

/// The card's licence, with its own name where it is `other`; else the `license:` tag.
fn licence(info: &Info) -> Option<String> {
    let names = match &info.card["license"] {
        Value::String(name) => vec![name.as_str()],
        Value::Array(names) => names.iter().filter_map(Value::as_str).collect(),
        _ => info.tags.iter().filter_map(|tag| tag.strip_prefix("license:")).collect(),
    };
    let own = |name: &str| match info.card["license_name"].as_str() {
        Some(own) if name == "other" => own.to_owned(),
        _ => name.to_owned(),
    };
    let names: Vec<String> = names.into_iter().map(own).collect();
    (!names.is_empty()).then(|| names.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_card(card: &str) -> Option<String> {
        let sha = "1".repeat(40);
        parse(&format!(r#"{{"sha":"{sha}","siblings":[],{card}}}"#)).unwrap().licence
    }

    #[test]
    fn licences_stand_in_the_card_or_in_the_tags() {
        assert_eq!(with_card(r#""cardData":{"license":"mit"}"#).as_deref(), Some("mit"));
        assert_eq!(
            with_card(r#""cardData":{"license":["mit","apache-2.0"]}"#).as_deref(),
            Some("mit, apache-2.0")
        );
        let own = r#""cardData":{"license":"other","license_name":"qwen-research"}"#;
        assert_eq!(with_card(own).as_deref(), Some("qwen-research"));
        assert_eq!(
            with_card(r#""cardData":null,"tags":["x","license:cc-by-4.0"]"#).as_deref(),
            Some("cc-by-4.0")
        );
        assert_eq!(with_card(r#""tags":[]"#), None);
    }

    #[test]
    fn large_files_have_their_own_size_and_checksum() {
        let (git, sha256) = ("a".repeat(40), "b".repeat(64));
        let text = format!(
            r#"{{"sha":"{git}","siblings":[
                {{"rfilename":"z.bin","size":5,"blobId":"{git}","lfs":{{"sha256":"{sha256}","size":5,"pointerSize":1}}}},
                {{"rfilename":"a.txt","size":3,"blobId":"{git}"}}]}}"#
        );
        let files = parse(&text).unwrap().files;
        assert_eq!(files[0], Entry { path: "a.txt".into(), bytes: 3, blob: Blob::Git(git) });
        assert_eq!(files[1], Entry { path: "z.bin".into(), bytes: 5, blob: Blob::Large(sha256) });
    }

    #[test]
    fn listings_that_would_do_harm_are_refused() {
        let git = "a".repeat(40);
        for (sha, file) in [
            ("main", r#"{"rfilename":"a"}"#.to_owned()),
            (git.as_str(), format!(r#"{{"rfilename":"../a","size":1,"blobId":"{git}"}}"#)),
            (git.as_str(), r#"{"rfilename":"a","size":1,"blobId":"../../x"}"#.to_owned()),
            (git.as_str(), format!(r#"{{"rfilename":"a","blobId":"{git}"}}"#)),
            (git.as_str(), r#"{"rfilename":"a","size":1}"#.to_owned()),
        ] {
            assert!(parse(&format!(r#"{{"sha":"{sha}","siblings":[{file}]}}"#)).is_err(), "{sha} {file}");
        }
    }
}
