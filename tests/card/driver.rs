//! What stands for the card in a test: the emulation, if this build has it, else the card.
//!
//! A card belongs to the thread that opened it, and libtest gives every test a thread of its own, also with
//! `--test-threads=1`: so one thread opens the card and runs all these tests, one after another. Where there is no card they
//! are skipped, unless HARNESS_NEEDS_CARD is set.

use harness::model::{Compute, Model};
use harness::settings::ComputeSettings;

/// The model in these numbers on the card; inside [`on_card`] only.
pub(super) fn placed(model: &Model, settings: ComputeSettings) -> Model {
    model.on(&opened(settings)).unwrap()
}

#[cfg(feature = "cuda-emulation")]
pub(super) use emulation::{on_card, opened};

#[cfg(not(feature = "cuda-emulation"))]
pub(super) use card::{on_card, opened};

#[cfg(feature = "cuda-emulation")]
mod emulation {
    use super::{Compute, ComputeSettings};

    pub fn opened(settings: ComputeSettings) -> Compute {
        Compute::emulated(&settings)
    }

    /// Runs a test that uses the card.
    pub fn on_card(test: impl FnOnce() + Send + 'static) {
        test();
    }
}

#[cfg(not(feature = "cuda-emulation"))]
mod card {
    use super::{Compute, ComputeSettings};
    use harness::model::NoCard;
    use harness::settings::Device;
    use std::any::Any;
    use std::io::Write;
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::LazyLock;
    use std::sync::mpsc::{Sender, channel};

    type Job = Box<dyn FnOnce() + Send>;

    /// Where to send tests, `None` where there is no card, or why the card cannot be used.
    static DRIVER: LazyLock<Result<Option<Sender<Job>>, String>> = LazyLock::new(start);

    fn open(settings: ComputeSettings) -> anyhow::Result<Compute> {
        Compute::open(&ComputeSettings { device: Device::Cuda, ..settings })
    }

    pub fn opened(settings: ComputeSettings) -> Compute {
        open(settings).unwrap()
    }

    fn start() -> Result<Option<Sender<Job>>, String> {
        let (jobs, queue) = channel::<Job>();
        let (ready, outcome) = channel();
        std::thread::spawn(move || {
            let needed = std::env::var_os("HARNESS_NEEDS_CARD").is_some();
            let there = match open(ComputeSettings::CPU) {
                Ok(_) => Ok(true),
                Err(error) if error.is::<NoCard>() && !needed => Ok(false),
                Err(error) => Err(format!("{error:#}")),
            };
            ready.send(there).unwrap();
            queue.iter().for_each(|job| job());
        });
        outcome.recv().unwrap().map(|there| there.then_some(jobs))
    }

    /// Runs a test on the thread that drives the card. Without a card it says so and runs nothing.
    pub fn on_card(test: impl FnOnce() + Send + 'static) {
        let jobs = match &*DRIVER {
            Ok(Some(jobs)) => jobs,
            // `eprintln!` would be shown for tests that fail only.
            Ok(None) => return std::io::stderr().write_all(b"skipped: no CUDA card\n").unwrap(),
            Err(reason) => panic!("{reason}"),
        };
        let (done, outcome) = channel();
        let job = move || done.send(catch_unwind(AssertUnwindSafe(test))).unwrap();
        jobs.send(Box::new(job)).unwrap();
        if let Err(panic) = outcome.recv().unwrap() {
            panic!("{}", message(&*panic));
        }
    }

    fn message(panic: &(dyn Any + Send)) -> &str {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("the test failed")
    }
}
