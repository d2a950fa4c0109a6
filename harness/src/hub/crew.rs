//! Threads that work while the caller's thread shows progress and listens to Ctrl-C.
//!
//! A thread may sit in a read that nobody answers; so the caller does not wait for it when asked to stop. What such a
//! thread does later is harmless: it only appends to a half file, and looks at the stop mark before every step.

use crate::progress::{Interrupted, Progress};
use anyhow::{Result, anyhow, ensure};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

/// Time between two looks at Ctrl-C.
const TICK: Duration = Duration::from_millis(50);
/// How long threads get to end by themselves after Ctrl-C.
const GRACE: Duration = Duration::from_millis(400);

enum Event<R> {
    At(usize, u64),
    Note(String),
    Done(usize, Result<R>),
}

/// What a working thread tells and asks while it works on one item.
pub(super) struct Watch {
    tell: Box<dyn Fn(Told) + Send>,
    stop: Arc<AtomicBool>,
}

enum Told {
    At(u64),
    Note(String),
}

impl Watch {
    /// Tells nobody and is never stopped.
    pub fn idle() -> Watch {
        Watch { tell: Box::new(|_| ()), stop: Arc::default() }
    }

    /// `bytes` of the item are done; fewer than before if work was lost.
    pub fn at(&self, bytes: u64) {
        (self.tell)(Told::At(bytes));
    }

    /// Something worth a line of its own.
    pub fn note(&self, text: String) {
        (self.tell)(Told::Note(text));
    }

    /// Fails with [`Interrupted`] when the work is to stop.
    pub fn check(&self) -> Result<()> {
        ensure!(!self.stop.load(Ordering::SeqCst), Interrupted);
        Ok(())
    }

    /// Sleeps, but wakes up to stop.
    pub fn pause(&self, time: Duration) -> Result<()> {
        let end = Instant::now() + time;
        loop {
            self.check()?;
            match end.saturating_duration_since(Instant::now()) {
                Duration::ZERO => return Ok(()),
                left => thread::sleep(left.min(TICK)),
            }
        }
    }
}

/// Does `job` for every item on up to `workers` threads, and returns the results in the order of the items.
///
/// The first failure stops all. `show` is called on this thread with the position of every item whenever one moves.
pub(super) fn run<T, R, J>(
    items: Vec<T>,
    workers: usize,
    progress: &dyn Progress,
    show: &dyn Fn(&[u64]),
    job: J,
) -> Result<Vec<R>>
where
    T: Send + Sync + 'static,
    R: Send + 'static,
    J: Fn(&T, &Watch) -> Result<R> + Send + Sync + 'static,
{
    let count = items.len();
    let stop = Arc::new(AtomicBool::new(false));
    let work = Arc::new((items, job, AtomicUsize::new(0)));
    let (sender, events) = channel();
    for _ in 0..workers.clamp(1, count.max(1)) {
        let (work, stop, sender) = (work.clone(), stop.clone(), sender.clone());
        thread::spawn(move || {
            let (items, job, next) = &*work;
            while let Some((index, item)) = take(items, next) {
                let watch = Watch { tell: teller(index, sender.clone()), stop: stop.clone() };
                let result = watch.check().and_then(|()| job(item, &watch));
                sender.send(Event::Done(index, result)).ok();
            }
        });
    }
    drop(sender);
    let results = listen(&events, count, progress, show, &stop);
    stop.store(true, Ordering::SeqCst);
    results
}

fn take<'a, T>(items: &'a [T], next: &AtomicUsize) -> Option<(usize, &'a T)> {
    let index = next.fetch_add(1, Ordering::SeqCst);
    Some((index, items.get(index)?))
}

fn teller<R: Send + 'static>(index: usize, sender: Sender<Event<R>>) -> Box<dyn Fn(Told) + Send> {
    Box::new(move |told| {
        let event = match told {
            Told::At(bytes) => Event::At(index, bytes),
            Told::Note(text) => Event::Note(text),
        };
        // No one listens any more after Ctrl-C.
        sender.send(event).ok();
    })
}

fn listen<R>(
    events: &Receiver<Event<R>>,
    count: usize,
    progress: &dyn Progress,
    show: &dyn Fn(&[u64]),
    stop: &AtomicBool,
) -> Result<Vec<R>> {
    let mut results: Vec<Option<R>> = (0..count).map(|_| None).collect();
    let mut positions = vec![0; count];
    let mut failure: Option<anyhow::Error> = None;
    let mut deadline = None;
    loop {
        match events.recv_timeout(TICK) {
            Ok(Event::At(index, bytes)) => {
                positions[index] = bytes;
                show(&positions);
            }
            Ok(Event::Note(text)) => progress.note(&text),
            Ok(Event::Done(index, Ok(result))) => results[index] = Some(result),
            Ok(Event::Done(_, Err(error))) => {
                failure.get_or_insert(error);
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
        if deadline.is_none() && (failure.is_some() || progress.stop_requested()) {
            stop.store(true, Ordering::SeqCst);
            deadline = Some(Instant::now() + GRACE);
        }
        if deadline.is_some_and(|deadline| Instant::now() > deadline) {
            break;
        }
    }
    match failure {
        Some(error) => Err(error),
        None if progress.stop_requested() => Err(Interrupted.into()),
        None => {
            results.into_iter().collect::<Option<_>>().ok_or_else(|| anyhow!("a thread of the fetch died"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::Silent;

    #[test]
    fn results_keep_the_order_of_the_items() {
        let squares = run((0..50u64).collect(), 8, &Silent, &|_| (), |n, _| Ok(n * n)).unwrap();
        assert_eq!(squares, (0..50).map(|n| n * n).collect::<Vec<_>>());
        assert!(run(Vec::<u8>::new(), 8, &Silent, &|_| (), |_, _| Ok(())).unwrap().is_empty());
    }

    #[test]
    fn the_first_failure_stops_the_rest() {
        let job = |n: &u64, watch: &Watch| match n {
            3 => Err(anyhow!("the third")),
            _ => watch.pause(Duration::from_secs(20)),
        };
        let start = Instant::now();
        let error = run((0..8).collect(), 8, &Silent, &|_| (), job).unwrap_err();
        assert_eq!(error.to_string(), "the third");
        assert!(start.elapsed() < Duration::from_secs(2));
    }

    #[test]
    fn a_thread_that_died_is_an_error() {
        let job = |_: &u64, _: &Watch| -> Result<()> { std::panic::resume_unwind(Box::new(())) };
        assert!(run(vec![1], 1, &Silent, &|_| (), job).is_err());
    }
}
