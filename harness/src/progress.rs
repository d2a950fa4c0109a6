//! How long work tells a person where it stands, without knowing how that is shown.

/// Told by the loops, drawn by the command line.
pub trait Progress: Sync {
    /// A stage of `total` units begins, of which `done` are already done.
    fn begin(&self, stage: &str, done: u64, total: u64);

    /// `done` units of the stage are done; `message` holds the figures that matter now.
    fn advance(&self, done: u64, message: &str);

    /// The stage is over.
    fn end(&self);

    /// Something worth a line of its own.
    fn note(&self, text: &str);

    /// Whether the user asked to stop (Ctrl-C). The loops check it between units and return [`Interrupted`].
    fn stop_requested(&self) -> bool;
}

/// The user asked to stop. Everything finished so far is stored; the same command goes on from there.
#[derive(Clone, Copy, Debug)]
pub struct Interrupted;

impl std::fmt::Display for Interrupted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("interrupted; the same command goes on from the last checkpoint")
    }
}

impl std::error::Error for Interrupted {}

/// Shows nothing and never asks to stop.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Progress for Silent {
    fn begin(&self, _stage: &str, _done: u64, _total: u64) {}
    fn advance(&self, _done: u64, _message: &str) {}
    fn end(&self) {}
    fn note(&self, _text: &str) {}
    fn stop_requested(&self) -> bool {
        false
    }
}
