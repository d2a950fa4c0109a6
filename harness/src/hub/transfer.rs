//! The bytes of one file, into its half file, until it is whole.

use super::cache::cannot_write;
use super::client::{Client, Failure, Patience, Request, header};
use super::crew::Watch;
use anyhow::{Context as _, Result, anyhow};
use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::Path;
use ureq::Body;
use ureq::http::Response;

/// Bytes written between two looks at Ctrl-C.
const CHUNK: usize = 1 << 16;

/// Makes the half file `part` hold `bytes` bytes, durably, going on from what it holds.
///
/// A try that fails leaves what it got; patience is renewed whenever the file grows beyond what it ever held, so the
/// tries are bounded also where a server starts again from the first byte each time. Whether the content is the right
/// one is the caller's question.
pub(super) fn complete(
    client: &Client,
    request: &Request<'_>,
    part: &Path,
    bytes: u64,
    patience: &mut Patience<'_>,
    watch: &Watch,
) -> Result<()> {
    let folder = part.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder).with_context(|| cannot_write(folder))?;
    let mut options = OpenOptions::new();
    let file = options.create(true).truncate(false).write(true).open(part);
    let mut half = Half { file: file.with_context(|| cannot_write(part))?, path: part, bytes, at: 0 };
    half.start_at(half.length()?.min(bytes + 1))?;
    let mut furthest = half.at;
    while let Err(failure) = half.grow(client, request, watch) {
        if half.at > furthest {
            furthest = half.at;
            patience.renew();
        }
        patience.wait_after(request, failure)?;
    }
    half.file.sync_all().with_context(|| cannot_write(part))
}

/// A half file and the position up to which it is taken to be right.
struct Half<'a> {
    file: File,
    path: &'a Path,
    bytes: u64,
    at: u64,
}

impl Half<'_> {
    /// One request for what is missing.
    fn grow(&mut self, client: &Client, request: &Request<'_>, watch: &Watch) -> Result<(), Failure> {
        if self.at > self.bytes {
            self.start_at(0)?;
        }
        watch.at(self.at);
        if self.at == self.bytes {
            return Ok(());
        }
        let response = client.get(request, self.at)?;
        self.place(&response)?;
        let mut body = response.into_body().into_reader();
        let mut chunk = vec![0; CHUNK];
        loop {
            watch.check()?;
            let n = body.read(&mut chunk).map_err(|error| self.broken_off(&error.to_string()))?;
            if n == 0 {
                break;
            }
            self.append(&chunk[..n])?;
            watch.at(self.at);
        }
        if self.at < self.bytes { Err(self.broken_off("the body ended")) } else { Ok(()) }
    }

    /// Moves to where the body of a response begins.
    fn place(&mut self, response: &Response<Body>) -> Result<(), Failure> {
        match response.status().as_u16() {
            206 if range_start(response) == Some(self.at) => Ok(()),
            // The whole file, whatever was asked for.
            200 => Ok(self.start_at(0)?),
            status => {
                self.start_at(0)?;
                let text =
                    format!("the server cannot go on from the half file (HTTP {status}); starting over");
                Err(Failure::Passing(text, None))
            }
        }
    }

    fn append(&mut self, chunk: &[u8]) -> Result<(), Failure> {
        if self.at + chunk.len() as u64 > self.bytes {
            self.start_at(0)?;
            let text = format!("the server sent more than the {} bytes announced", self.bytes);
            return Err(Failure::Passing(text, None));
        }
        self.file.write_all(chunk).with_context(|| cannot_write(self.path))?;
        self.at += chunk.len() as u64;
        Ok(())
    }

    /// Drops what lies behind `at` and writes there next.
    fn start_at(&mut self, at: u64) -> Result<()> {
        self.at = at;
        let moved = self.file.set_len(at).and_then(|()| self.file.seek(SeekFrom::Start(at)));
        moved.map(|_| ()).with_context(|| cannot_write(self.path))
    }

    fn length(&self) -> Result<u64> {
        let length = self.file.metadata().map(|metadata| metadata.len());
        length.map_err(|error| anyhow!(error).context(format!("cannot read {}", self.path.display())))
    }

    fn broken_off(&self, how: &str) -> Failure {
        Failure::Passing(format!("broken off at {} of {} bytes ({how})", self.at, self.bytes), None)
    }
}

/// The first byte of `Content-Range: bytes <first>-<last>/<size>`.
fn range_start(response: &Response<Body>) -> Option<u64> {
    let range = header(response.headers(), "content-range")?.strip_prefix("bytes ")?;
    range.split('-').next()?.trim().parse().ok()
}
