//! Progress on a terminal (a bar) or elsewhere (plain lines), and how errors are worded.

use crate::progress::Progress;
use anyhow::{Context, Result};
use indicatif::{ProgressBar, ProgressStyle};
use std::io::IsTerminal;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Time between two lines of the plain log.
const LOG_EVERY: Duration = Duration::from_secs(10);

/// Shows progress on standard error and listens to Ctrl-C.
pub struct Display {
    stop: Arc<AtomicBool>,
    terminal: bool,
    stage: Mutex<Option<Stage>>,
}

struct Stage {
    name: String,
    total: u64,
    first: u64,
    start: Instant,
    logged: Instant,
    bar: Option<ProgressBar>,
}

impl Display {
    /// Installs the Ctrl-C handler: the first press asks the loops to stop, the second stops at once.
    pub fn new() -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let asked = stop.clone();
        ctrlc::set_handler(move || {
            if asked.swap(true, Ordering::SeqCst) {
                std::process::exit(130);
            }
            eprintln!("stopping at the next safe point (Ctrl-C again stops at once)");
        })
        .context("cannot listen to Ctrl-C")?;
        Ok(Self { stop, terminal: std::io::stderr().is_terminal(), stage: Mutex::new(None) })
    }

    fn with_stage(&self, f: impl FnOnce(&mut Option<Stage>)) {
        f(&mut self.stage.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

impl Progress for Display {
    fn begin(&self, stage: &str, done: u64, total: u64) {
        let bar = self.terminal.then(|| {
            let bar = ProgressBar::new(total).with_position(done).with_message("");
            let style = "{prefix} {bar:24} {pos}/{len}  {msg}  [{elapsed} elapsed, {eta} left]";
            bar.set_style(
                ProgressStyle::with_template(style).unwrap_or_else(|_| ProgressStyle::default_bar()),
            );
            bar.set_prefix(stage.to_owned());
            bar.reset_eta();
            bar
        });
        if bar.is_none() {
            eprintln!("{stage}: {done}/{total}");
        }
        let now = Instant::now();
        let stage = Stage { name: stage.to_owned(), total, first: done, start: now, logged: now, bar };
        self.with_stage(|slot| *slot = Some(stage));
    }

    fn advance(&self, done: u64, message: &str) {
        self.with_stage(|slot| {
            let Some(stage) = slot else { return };
            if let Some(bar) = &stage.bar {
                bar.set_message(message.to_owned());
                bar.set_position(done);
            } else if stage.logged.elapsed() >= LOG_EVERY || done == stage.total {
                stage.logged = Instant::now();
                let per_unit = stage.start.elapsed().as_secs_f64() / (done - stage.first).max(1) as f64;
                let left = per_unit * stage.total.saturating_sub(done) as f64;
                eprintln!("{}: {done}/{}  {message}  {left:.0} s left", stage.name, stage.total);
            }
        });
    }

    fn end(&self) {
        self.with_stage(|slot| {
            if let Some(stage) = slot.take() {
                let line = format!("{}: done in {:.1} s", stage.name, stage.start.elapsed().as_secs_f64());
                match stage.bar {
                    Some(bar) => {
                        bar.println(line);
                        bar.finish_and_clear();
                    }
                    None => eprintln!("{line}"),
                }
            }
        });
    }

    fn note(&self, text: &str) {
        eprintln!("{text}");
    }

    fn stop_requested(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }
}

/// An error with its causes on one line.
pub fn chain(error: &anyhow::Error) -> String {
    format!("{error:#}")
}
