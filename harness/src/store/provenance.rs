//! What wrote a cell: source, dependencies, compiler, machine. Recorded for people; it never enters a hash.

use serde::{Deserialize, Serialize};
use std::process::Command;
use std::sync::OnceLock;

/// What could not be found out.
const UNKNOWN: &str = "unknown";

/// A build of the harness and the machine it runs on. What cannot be found out is "unknown".
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Provenance {
    /// Version of the harness.
    pub harness: String,
    /// Commit of the checkout the binary was built from, as it stands now.
    pub git_commit: String,
    /// Whether that checkout has uncommitted changes; `None` where there is no checkout.
    pub git_dirty: Option<bool>,
    /// BLAKE3 of the running executable: what the commit cannot tell of a changed checkout.
    pub executable_blake3: String,
    /// BLAKE3 of the `Cargo.lock` the binary was built with.
    pub cargo_lock_blake3: String,
    /// `rustc --version` of the build.
    pub rustc: String,
    /// Model name of the processor.
    pub cpu: String,
    /// Worker threads.
    pub threads: usize,
}

impl Provenance {
    /// This process; gathered once.
    pub fn current() -> Provenance {
        static CURRENT: OnceLock<Provenance> = OnceLock::new();
        CURRENT.get_or_init(gather).clone()
    }
}

fn gather() -> Provenance {
    let known = |text: Option<String>| text.unwrap_or_else(|| UNKNOWN.into());
    Provenance {
        harness: env!("CARGO_PKG_VERSION").into(),
        git_commit: known(git(&["rev-parse", "HEAD"])),
        git_dirty: git(&["status", "--porcelain"]).map(|changes| !changes.is_empty()),
        executable_blake3: known(executable_hash()),
        cargo_lock_blake3: hash(include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.lock"))),
        rustc: env!("HARNESS_RUSTC").into(),
        cpu: known(cpu_model()),
        threads: rayon::current_num_threads(),
    }
}

fn hash(bytes: &[u8]) -> String {
    blake3::hash(bytes).to_hex().to_string()
}

fn executable_hash() -> Option<String> {
    std::fs::read(std::env::current_exe().ok()?).ok().map(|bytes| hash(&bytes))
}

/// Output of a git command in the checkout of the build; `None` where it fails.
fn git(arguments: &[&str]) -> Option<String> {
    let output =
        Command::new("git").arg("-C").arg(env!("CARGO_MANIFEST_DIR")).args(arguments).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_string())
}

fn cpu_model() -> Option<String> {
    let text = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let (_, model) = text.lines().find(|line| line.starts_with("model name"))?.split_once(':')?;
    Some(model.trim().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_is_filled() {
        let p = Provenance::current();
        assert_eq!(p.cargo_lock_blake3.len(), 64);
        assert_eq!(p.executable_blake3.len(), 64);
        assert!(p.rustc == UNKNOWN || p.rustc.starts_with("rustc 1."), "{}", p.rustc);
        assert!(p.git_commit == UNKNOWN || p.git_commit.len() == 40, "{}", p.git_commit);
        assert!(p.threads >= 1);
    }
}
