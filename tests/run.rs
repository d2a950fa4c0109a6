//! Running the built binary in temporary folders, and the whole smoke study, made once for all tests.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// The arms of the main study.
pub const ARMS: [&str; 6] = ["base", "grpo", "dapo", "vppo", "reweight_only", "mask_only"];

/// The arguments that run or report the smoke study; `--out` and more come after them.
pub const SMOKE: [&str; 4] = ["--scale", "smoke", "--seeds", "1"];

/// What a finished process left.
pub struct Finished {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

/// The binary with arguments; every test says how many threads it wants, or takes all.
pub fn harness<S: AsRef<std::ffi::OsStr>>(arguments: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_harness"));
    command.args(arguments).stdin(Stdio::null());
    command
}

/// `reproduce` or another study command on the smoke scale, into `out`.
pub fn study(command: &str, out: &Path, more: &[&str]) -> Command {
    let mut built = harness([command]);
    built.args(SMOKE).arg("--out").arg(out).args(more);
    built
}

/// Runs a command to its end.
pub fn finish(mut command: Command) -> Finished {
    let output = command.output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Finished { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

/// Runs a command that must succeed.
#[track_caller]
pub fn succeeds(command: Command) -> Finished {
    let shown = format!("{command:?}");
    let finished = finish(command);
    assert_eq!(finished.code, Some(0), "{shown}\n{}", finished.stderr);
    finished
}

/// Runs a command that must fail with one error line that names every one of `named`.
#[track_caller]
pub fn refused(command: Command, named: &[&str]) {
    let shown = format!("{command:?}");
    let finished = finish(command);
    assert_eq!(finished.code, Some(1), "{shown}\n{}{}", finished.stdout, finished.stderr);
    let error = finished.stderr.find("error: ").map(|at| &finished.stderr[at..]);
    let error = error.unwrap_or_else(|| panic!("{shown} states no error: {}", finished.stderr));
    for name in named {
        assert!(error.contains(name), "{name:?} is not in: {error}");
    }
    assert!(!finished.stderr.contains("panicked"), "{}", finished.stderr);
}

/// Starts a command without waiting for it; what it prints is thrown away.
pub fn start(mut command: Command) -> Child {
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

/// Waits until a file is there and not empty. Fails after two minutes.
#[track_caller]
pub fn wait_for(path: &Path) {
    let begun = Instant::now();
    while fs::metadata(path).map_or(0, |file| file.len()) == 0 {
        assert!(begun.elapsed() < Duration::from_secs(120), "{} does not appear", path.display());
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// All files below a folder by their path relative to it.
pub fn files(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![dir.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display())) {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                found.insert(path.strip_prefix(dir).unwrap().to_path_buf(), fs::read(&path).unwrap());
            }
        }
    }
    found
}

/// Copies a folder.
pub fn copy(from: &Path, to: &Path) {
    for (name, bytes) in files(from) {
        let path = to.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
}

/// Fails, naming the files, where two folders differ in a file, except those named in `except`.
#[track_caller]
pub fn assert_same(left: &Path, right: &Path, except: &[&str]) {
    let kept = |dir: &Path| {
        let mut all = files(dir);
        all.retain(|path, _| {
            let text = path.to_string_lossy();
            !except.iter().any(|name| text.ends_with(name))
        });
        assert!(!all.is_empty(), "{} holds nothing", dir.display());
        all
    };
    let (a, b) = (kept(left), kept(right));
    assert_eq!(a.keys().collect::<Vec<_>>(), b.keys().collect::<Vec<_>>());
    let differing: Vec<_> =
        a.iter().filter(|(path, bytes)| b[*path] != **bytes).map(|(path, _)| path).collect();
    assert!(differing.is_empty(), "{} and {} differ in {differing:?}", left.display(), right.display());
}

/// The folder of an arm's cell below an `--out`.
pub fn cell(out: &Path, arm: &str) -> PathBuf {
    out.join("runs/smoke/main").join(arm).join("seed-1")
}

/// A finished smoke study, not to be written to.
pub struct Reference {
    folder: TempDir,
    /// How long it took.
    pub elapsed: Duration,
}

impl Reference {
    /// Its `--out`.
    pub fn out(&self) -> &Path {
        self.folder.path()
    }

    /// A new folder with a copy of the base model, so that a run begins with training.
    pub fn with_base(&self) -> TempDir {
        let folder = tempfile::tempdir().unwrap();
        copy(&self.out().join("runs/artifacts"), &folder.path().join("runs/artifacts"));
        folder
    }

    /// A new folder with a copy of everything.
    pub fn whole(&self) -> TempDir {
        let folder = tempfile::tempdir().unwrap();
        copy(self.out(), folder.path());
        folder
    }

    /// The tables as they are when only some arms have run, made from this study's cells.
    pub fn tables_of(&self, arms: &[&str]) -> TempDir {
        let folder = tempfile::tempdir().unwrap();
        for arm in arms {
            copy(&cell(self.out(), arm), &cell(folder.path(), arm));
        }
        succeeds(study("report", folder.path(), &[]));
        folder
    }
}

/// The smoke study, run once, with as many threads as there are cores.
pub fn reference() -> &'static Reference {
    static REFERENCE: OnceLock<Reference> = OnceLock::new();
    REFERENCE.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let begun = Instant::now();
        succeeds(study("reproduce", folder.path(), &[]));
        Reference { folder, elapsed: begun.elapsed() }
    })
}
