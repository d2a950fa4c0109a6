//! What names a file's content on the hub, and how a file is compared with its name.

use super::crew::Watch;
use anyhow::{Context as _, Result, ensure};
use sha2::{Digest, Sha256};
use std::fmt::Write as _;
use std::fs::File;
use std::io::Read as _;
use std::path::Path;

/// Bytes read between two looks at the clock and at Ctrl-C.
const CHUNK: usize = 1 << 20;

/// The name of a content on the hub: its etag, and its name among the cache's blobs.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Blob {
    /// A plain file of the repository: SHA-1 of `blob <length>\0<content>`, as git computes it.
    Git(String),
    /// A large file: SHA-256 of the content.
    Large(String),
}

impl Blob {
    /// Reads a name: 40 hexadecimal digits are git's, 64 a SHA-256.
    pub fn parse(name: &str) -> Result<Blob> {
        let digits = name.chars().all(|c| matches!(c, '0'..='9' | 'a'..='f'));
        ensure!(digits && matches!(name.len(), 40 | 64), "{name:?} is neither a git nor a SHA-256 checksum");
        Ok(if name.len() == 40 { Blob::Git(name.to_owned()) } else { Blob::Large(name.to_owned()) })
    }

    /// The hexadecimal digits.
    pub fn name(&self) -> &str {
        match self {
            Blob::Git(name) | Blob::Large(name) => name,
        }
    }
}

impl std::fmt::Display for Blob {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Blob::Git(name) => write!(f, "git:{name}"),
            Blob::Large(name) => write!(f, "sha256:{name}"),
        }
    }
}

/// The content of a file: length and checksums.
pub(super) struct Content {
    /// Length.
    pub bytes: u64,
    /// SHA-256.
    pub sha256: String,
    /// What the hub would name it.
    pub blob: Blob,
}

/// Reads a file once and computes what `like` needs to be compared with; `show` is told how far it is. Fails if it
/// cannot be read, and with `Interrupted` when asked to stop.
pub(super) fn read(path: &Path, like: &Blob, watch: &Watch, show: impl Fn(u64)) -> Result<Content> {
    let cannot_read = || format!("cannot read {}", path.display());
    let mut file = File::open(path).with_context(cannot_read)?;
    let bytes = file.metadata().with_context(cannot_read)?.len();
    let mut sha256 = Sha256::new();
    let mut git = matches!(like, Blob::Git(_))
        .then(|| sha1::Sha1::new().chain_update(format!("blob {bytes}\0").as_bytes()));
    let (mut at, mut chunk) = (0, vec![0; CHUNK]);
    loop {
        watch.check()?;
        let n = file.read(&mut chunk).with_context(cannot_read)?;
        if n == 0 {
            break;
        }
        sha256.update(&chunk[..n]);
        if let Some(git) = &mut git {
            git.update(&chunk[..n]);
        }
        at += n as u64;
        show(at);
    }
    let sha256 = hex(&sha256.finalize());
    let blob = match git {
        Some(git) => Blob::Git(hex(&git.finalize())),
        None => Blob::Large(sha256.clone()),
    };
    Ok(Content { bytes: at, sha256, blob })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").ok();
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_are_those_of_git_and_sha256sum() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("hello");
        std::fs::write(&path, "hello\n").unwrap();
        let git = Blob::parse("ce013625030ba8dba906f756967f9e9ca394464a").unwrap();
        let content = read(&path, &git, &Watch::idle(), |_| ()).unwrap();
        assert_eq!((content.bytes, content.blob), (6, git));
        assert_eq!(content.sha256, "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03");
        let large = Blob::parse(&content.sha256).unwrap();
        assert_eq!(read(&path, &large, &Watch::idle(), |_| ()).unwrap().blob, large);
    }

    #[test]
    fn other_names_are_refused() {
        for name in ["", "abc", "../../etc/passwd", &"G".repeat(40), &"A".repeat(64)] {
            assert!(Blob::parse(name).is_err(), "{name}");
        }
    }
}
