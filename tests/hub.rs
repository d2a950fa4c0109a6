//! Tests of `hub`: a local server that speaks the hub's protocol, and every fault that a fetch must survive.

mod faults;
mod lock;
mod processes;
pub mod server;
mod whole;

use harness::hub::{Fetched, Hub, Repo, Settings, Token, Wanted};
use harness::progress::Progress;
use server::Server;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// A content of `n` bytes that differs at every place from its neighbours and from that of another seed.
fn bytes(n: usize, seed: u8) -> Vec<u8> {
    (0..n).map(|i| (i as u8).wrapping_mul(31).wrapping_add((i / 256) as u8).wrapping_add(seed)).collect()
}

/// A server with one dataset, and a cache of its own.
struct World {
    dir: tempfile::TempDir,
    server: Server,
    commit: String,
    large: Vec<u8>,
}

const DATASET: &str = "datasets/owner/name";
const LARGE_FILE: &str = "data/large 1.parquet";

impl World {
    fn new() -> World {
        let server = Server::start();
        let large = bytes(300_000, 1);
        let files: [(&str, &[u8]); 4] =
            [("README.md", b"card"), (LARGE_FILE, &large), ("data/small.json", b"{}"), ("other.bin", b"no")];
        let commit = server.commit(DATASET, "main", &files);
        World { dir: tempfile::tempdir().unwrap(), server, commit, large }
    }

    fn settings(&self) -> Settings {
        let mut settings = Settings::new(self.dir.path().join("hub"), self.lock());
        settings.endpoint = self.server.endpoint.clone();
        settings.backoff = Duration::from_millis(2);
        settings.timeout = Duration::from_secs(5);
        settings
    }

    fn lock(&self) -> PathBuf {
        self.dir.path().join("hub.lock")
    }

    fn hub(&self) -> Hub {
        Hub::new(self.settings()).unwrap()
    }

    fn hub_with(&self, change: impl FnOnce(&mut Settings)) -> Hub {
        let mut settings = self.settings();
        change(&mut settings);
        Hub::new(settings).unwrap()
    }

    /// The README and everything in `data/`.
    fn wanted(&self) -> Wanted {
        wanted(&["README.md", "data/*"])
    }

    fn fetch(&self) -> Fetched {
        self.hub().fetch(&self.wanted(), &Ear::default()).unwrap()
    }

    fn fails(&self, hub: &Hub) -> String {
        format!("{:#}", hub.fetch(&self.wanted(), &Ear::default()).unwrap_err())
    }

    fn repo_dir(&self) -> PathBuf {
        self.dir.path().join("hub/datasets--owner--name")
    }

    fn part(&self) -> PathBuf {
        self.repo_dir().join(format!("blobs/{}.incomplete", server::sha256(&self.large)))
    }

    fn large_file(&self) -> PathBuf {
        self.repo_dir().join("snapshots").join(&self.commit).join(LARGE_FILE)
    }

    fn large_requests(&self) -> Vec<server::Seen> {
        self.server.seen(&Server::cdn_part(&self.large))
    }

    /// Everything is there, right and pinned.
    fn check_whole(&self, fetched: &Fetched) {
        let names: Vec<&str> = fetched.files.iter().map(|(path, _)| path.as_str()).collect();
        assert_eq!(names, ["README.md", LARGE_FILE, "data/small.json"]);
        assert_eq!(fetched.commit, self.commit);
        let contents: Vec<Vec<u8>> = fetched.files.iter().map(|(_, file)| fs::read(file).unwrap()).collect();
        assert!(contents == [b"card".to_vec(), self.large.clone(), b"{}".to_vec()]);
        assert_eq!(self.hub().find(&self.wanted()).unwrap(), *fetched);
        self.check_nothing_half();
        assert!(!self.part().exists());
    }

    /// Whatever is visible is whole: every blob hashes to its name, every link leads somewhere, no strange names.
    fn check_nothing_half(&self) {
        for path in files_below(&self.repo_dir().join("blobs")) {
            let name = path.file_name().unwrap().to_str().unwrap();
            if !name.ends_with(".incomplete") {
                let body = fs::read(&path).unwrap();
                assert!([server::sha256(&body), server::git(&body)].contains(&name.to_owned()), "{name}");
            }
        }
        for path in files_below(&self.repo_dir().join("snapshots")) {
            let text = path.to_string_lossy().into_owned();
            assert!(["README.md", "1.parquet", "small.json"].iter().any(|end| text.ends_with(end)), "{text}");
            assert!(path.is_file(), "{text} leads nowhere");
        }
    }
}

fn wanted(files: &[&str]) -> Wanted {
    let files = files.iter().map(|file| file.to_string()).collect();
    Wanted { repo: Repo::dataset("owner/name", "main"), files, licence: None }
}

fn files_below(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    let paths = entries.map(|entry| entry.unwrap().path());
    paths.flat_map(|path| if path.is_dir() { files_below(&path) } else { vec![path] }).collect()
}

fn token(text: &str) -> Option<Token> {
    Token::new(text)
}

/// Remembers what it was told; asks to stop when `stop` is set.
#[derive(Default)]
struct Ear {
    notes: Mutex<Vec<String>>,
    stages: Mutex<Vec<(String, u64, u64)>>,
    stop: AtomicBool,
}

impl Ear {
    fn heard(&self) -> String {
        self.notes.lock().unwrap().join("\n")
    }
}

impl Progress for Ear {
    fn begin(&self, stage: &str, _done: u64, total: u64) {
        self.stages.lock().unwrap().push((stage.to_owned(), 0, total));
    }
    fn advance(&self, done: u64, _message: &str) {
        self.stages.lock().unwrap().last_mut().unwrap().1 = done;
    }
    fn end(&self) {}
    fn note(&self, text: &str) {
        self.notes.lock().unwrap().push(text.to_owned());
    }
    fn stop_requested(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }
}
