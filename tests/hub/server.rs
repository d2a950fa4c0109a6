//! A small server that speaks the hub's protocol and misbehaves on request.
//!
//! It knows the listing `/api/{models,datasets}/<id>/revision/<rev>`, the tree `/api/../tree/<rev>` (which Python's
//! client asks for) and `/<repo>/resolve/<rev>/<path>`, which redirects large files to a second port, the CDN.

use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Duration;

/// Files above this many bytes are large ones: named by their SHA-256 and served by the CDN.
const LARGE: usize = 100;

/// What goes wrong with one answer.
#[derive(Clone, Debug)]
pub enum Fault {
    /// This status with these header lines and no content.
    Status(u16, String),
    /// The connection closes after so many bytes of the body.
    Truncated(usize),
    /// So many bytes of the body, then silence until [`Server::release`].
    Stalled(usize),
    /// One byte of the body is another.
    Flipped,
    /// A `Range` is answered with the whole file.
    RangeIgnored,
    /// The connection closes before any answer.
    Reset,
    /// The whole body, a few bytes at a time, over so many milliseconds.
    Slow(u64),
}

/// A request as it came.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Whether the CDN got it.
    pub cdn: bool,
    pub path: String,
    pub range: Option<String>,
    pub authorization: Option<String>,
}

#[derive(Default)]
struct Repo {
    branches: BTreeMap<String, String>,
    commits: BTreeMap<String, BTreeMap<String, Vec<u8>>>,
    gated: bool,
}

#[derive(Default)]
struct State {
    repos: BTreeMap<String, Repo>,
    contents: BTreeMap<String, Vec<u8>>,
    faults: Vec<(String, Fault)>,
    seen: Vec<Seen>,
    released: bool,
    pretended: BTreeMap<String, u64>,
    cdn: String,
}

/// The hub. Threads of finished tests end with the process.
#[derive(Clone)]
pub struct Server {
    state: Arc<(Mutex<State>, Condvar)>,
    pub endpoint: String,
}

/// What an answer consists of.
struct Answer {
    status: u16,
    headers: String,
    body: Vec<u8>,
}

impl Answer {
    fn new(status: u16, headers: impl Into<String>, body: impl Into<Vec<u8>>) -> Answer {
        Answer { status, headers: headers.into(), body: body.into() }
    }
}

impl Server {
    pub fn start() -> Server {
        let server = Server { state: Arc::default(), endpoint: String::new() };
        let (hub, cdn) = (listen(), listen());
        let address = |listener: &TcpListener| format!("http://{}", listener.local_addr().unwrap());
        let endpoint = address(&hub);
        server.state.0.lock().unwrap().cdn = address(&cdn);
        for (listener, is_cdn) in [(hub, false), (cdn, true)] {
            let server = server.clone();
            thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    let server = server.clone();
                    thread::spawn(move || server.serve(stream, is_cdn));
                }
            });
        }
        Server { endpoint, ..server }
    }

    fn with<T>(&self, f: impl FnOnce(&mut State) -> T) -> T {
        f(&mut self.state.0.lock().unwrap())
    }

    /// Commits files to a branch of `datasets/owner/name` or `owner/name`, and returns the commit.
    pub fn commit(&self, repo: &str, branch: &str, files: &[(&str, &[u8])]) -> String {
        let files: BTreeMap<String, Vec<u8>> =
            files.iter().map(|(path, body)| (path.to_string(), body.to_vec())).collect();
        let commit = hex(&sha1::Sha1::digest(format!("{repo}{branch}{files:?}")));
        self.with(|state| {
            state.contents.extend(files.values().map(|body| (sha256(body), body.clone())));
            let repo = state.repos.entry(repo.to_owned()).or_default();
            repo.branches.insert(branch.to_owned(), commit.clone());
            repo.commits.insert(commit.clone(), files);
        });
        commit
    }

    /// From now on the repository wants a token of someone who accepted its licence.
    pub fn gate(&self, repo: &str) {
        self.with(|state| state.repos.get_mut(repo).unwrap().gated = true);
    }

    /// Listings give the file `path` another size.
    pub fn pretend_size(&self, path: &str, bytes: u64) {
        self.with(|state| state.pretended.insert(path.to_owned(), bytes));
    }

    /// The next request whose path contains `part`, and which no fault before this one takes, goes wrong.
    pub fn fault(&self, part: &str, fault: Fault) {
        self.with(|state| state.faults.push((part.to_owned(), fault)));
    }

    /// The part of the path by which the CDN knows a large content.
    pub fn cdn_part(body: &[u8]) -> String {
        format!("/cdn/{}", sha256(body))
    }

    /// Ends the silence of [`Fault::Stalled`].
    pub fn release(&self) {
        self.with(|state| state.released = true);
        self.state.1.notify_all();
    }

    /// The requests so far whose path contains `part`.
    pub fn seen(&self, part: &str) -> Vec<Seen> {
        self.with(|state| state.seen.iter().filter(|seen| seen.path.contains(part)).cloned().collect())
    }

    fn serve(&self, mut stream: TcpStream, cdn: bool) {
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        let Some((method, seen)) = read_request(&mut reader, cdn) else { return };
        let fault = self.with(|state| {
            state.seen.push(seen.clone());
            let index = state.faults.iter().position(|(part, _)| seen.path.contains(part.as_str()))?;
            Some(state.faults.remove(index).1)
        });
        let answer = match &fault {
            Some(Fault::Reset) => return,
            Some(Fault::Status(status, headers)) => Answer::new(*status, headers, *b"no"),
            _ => {
                let range = seen.range.as_deref().filter(|_| !matches!(fault, Some(Fault::RangeIgnored)));
                ranged(self.with(|state| state.answer(&seen)), range)
            }
        };
        self.send(&mut stream, method == "HEAD", answer, fault).ok();
    }

    fn send(
        &self,
        stream: &mut TcpStream,
        head: bool,
        answer: Answer,
        fault: Option<Fault>,
    ) -> std::io::Result<()> {
        let Answer { status, headers, mut body } = answer;
        let length = body.len();
        let text =
            format!("HTTP/1.1 {status} x\r\n{headers}Content-Length: {length}\r\nConnection: close\r\n\r\n");
        stream.write_all(text.as_bytes())?;
        if head {
            return Ok(());
        }
        match fault {
            Some(Fault::Truncated(n)) => stream.write_all(&body[..n.min(length)]),
            Some(Fault::Flipped) => {
                body[length / 2] ^= 1;
                stream.write_all(&body)
            }
            Some(Fault::Stalled(n)) => {
                let (sent, rest) = body.split_at(n.min(length));
                stream.write_all(sent)?;
                stream.flush()?;
                let state = self.state.0.lock().unwrap();
                drop(self.state.1.wait_while(state, |state| !state.released).unwrap());
                stream.write_all(rest)
            }
            Some(Fault::Slow(millis)) => {
                let pieces = 20;
                for piece in body.chunks(length.div_ceil(pieces)) {
                    stream.write_all(piece)?;
                    thread::sleep(Duration::from_millis(millis / pieces as u64));
                }
                Ok(())
            }
            _ => stream.write_all(&body),
        }
    }
}

impl State {
    fn answer(&self, seen: &Seen) -> Answer {
        let path = seen.path.split('?').next().unwrap();
        if seen.cdn {
            let body = path.strip_prefix("/cdn/").and_then(|name| self.contents.get(name));
            return body
                .map_or_else(not_found, |body| Answer::new(200, "Accept-Ranges: bytes\r\n", body.clone()));
        }
        self.hub_answer(path, seen).unwrap_or_else(not_found)
    }

    fn hub_answer(&self, path: &str, seen: &Seen) -> Option<Answer> {
        let (name, rest, api) = match path.strip_prefix("/api/") {
            Some(path) => match path.split_once("/revision/") {
                Some((name, rest)) => (name.trim_start_matches("models/"), rest, "info"),
                None => {
                    let (name, rest) = path.split_once("/tree/")?;
                    (name.trim_start_matches("models/"), rest, "tree")
                }
            },
            None => {
                let (name, rest) = path[1..].split_once("/resolve/")?;
                (name, rest, "file")
            }
        };
        let repo = self.repos.get(name)?;
        let (revision, file) = rest.split_once('/').unwrap_or((rest, ""));
        let revision = revision.replace("%2F", "/");
        let commit = repo.branches.get(&revision).unwrap_or(&revision);
        let Some(files) = repo.commits.get(commit) else {
            return Some(Answer::new(404, "X-Error-Code: RevisionNotFound\r\n", "no"));
        };
        Some(match api {
            "info" => {
                let siblings = entries(files, &self.pretended, ["rfilename", "blobId", "sha256"]);
                let card = r#""cardData":{"license":"mit"},"tags":["license:mit"]"#;
                Answer::new(
                    200,
                    "",
                    format!(r#"{{"id":{name:?},"sha":"{commit}",{card},"siblings":{siblings}}}"#),
                )
            }
            "tree" => Answer::new(200, "", entries(files, &self.pretended, ["path", "oid", "oid"])),
            _ if repo.gated && seen.authorization.as_deref() != Some("Bearer hf_member") => {
                let status = if seen.authorization.is_some() { 403 } else { 401 };
                Answer::new(status, "X-Error-Code: GatedRepo\r\n", "no")
            }
            _ => {
                let file = file.replace("%20", " ");
                let Some(body) = files.get(&file) else {
                    return Some(Answer::new(404, "X-Error-Code: EntryNotFound\r\n", "no"));
                };
                self.file_answer(commit, body)
            }
        })
    }

    fn file_answer(&self, commit: &str, body: &[u8]) -> Answer {
        let mut headers = format!("X-Repo-Commit: {commit}\r\nAccept-Ranges: bytes\r\n");
        if body.len() <= LARGE {
            write!(headers, "ETag: \"{}\"\r\n", git(body)).unwrap();
            return Answer::new(200, headers, body);
        }
        let (name, size) = (sha256(body), body.len());
        write!(headers, "X-Linked-ETag: \"{name}\"\r\nX-Linked-Size: {size}\r\n").unwrap();
        write!(headers, "Location: {}/cdn/{name}?signature=secret\r\n", self.cdn).unwrap();
        Answer::new(302, headers, "")
    }
}

fn not_found() -> Answer {
    Answer::new(404, "X-Error-Code: RepoNotFound\r\n", "no")
}

fn ranged(answer: Answer, range: Option<&str>) -> Answer {
    let (200, Some(range)) = (answer.status, range) else { return answer };
    let from: usize = range.trim_start_matches("bytes=").split('-').next().unwrap().parse().unwrap();
    let size = answer.body.len();
    if from >= size {
        return Answer::new(416, format!("Content-Range: bytes */{size}\r\n"), "");
    }
    let headers = format!("{}Content-Range: bytes {from}-{}/{size}\r\n", answer.headers, size - 1);
    Answer::new(206, headers, &answer.body[from..])
}

/// The JSON of every file: with `path_key`, `git_key` and `sha256_key` as the two listings call them.
fn entries(
    files: &BTreeMap<String, Vec<u8>>,
    pretended: &BTreeMap<String, u64>,
    [path_key, git_key, sha256_key]: [&str; 3],
) -> String {
    let entry = |(path, body): (&String, &Vec<u8>)| {
        let size = pretended.get(path).copied().unwrap_or(body.len() as u64);
        let lfs = if body.len() > LARGE {
            format!(r#","lfs":{{"{sha256_key}":"{}","size":{size},"pointerSize":134}}"#, sha256(body))
        } else {
            String::new()
        };
        format!(r#"{{"type":"file","{path_key}":{path:?},"size":{size},"{git_key}":"{}"{lfs}}}"#, git(body))
    };
    format!("[{}]", files.iter().map(entry).collect::<Vec<_>>().join(","))
}

fn listen() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").unwrap()
}

fn read_request(reader: &mut BufReader<impl Read>, cdn: bool) -> Option<(String, Seen)> {
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let (method, rest) = line.split_once(' ')?;
    let path = rest.split(' ').next()?.to_owned();
    let mut seen = Seen { cdn, path, range: None, authorization: None };
    let method = method.to_owned();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim().split_once(": ") else { return Some((method, seen)) };
        match name.to_ascii_lowercase().as_str() {
            "range" => seen.range = Some(value.to_owned()),
            "authorization" => seen.authorization = Some(value.to_owned()),
            _ => {}
        }
    }
}

pub fn sha256(body: &[u8]) -> String {
    hex(&Sha256::digest(body))
}

pub fn git(body: &[u8]) -> String {
    let head = format!("blob {}\0", body.len());
    hex(&sha1::Sha1::new().chain_update(head.as_bytes()).chain_update(body).finalize())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
