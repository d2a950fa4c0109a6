//! Downloads from the Hugging Face hub: what to fetch, pinned in a lock file, into the hub's own cache.
//!
//! [`Hub::fetch`] resolves a branch to a commit once and pins it in a lock file together with the size and SHA-256
//! of every file, as Cargo.lock does; from then on the lock decides. A file is visible in the cache only when it is
//! whole and its content is what the hub announced and what the lock pins; so a process may be killed at any moment.
//! [`Hub::plan`] tells what would happen, [`Hub::find`] gives the paths of what is there without touching the
//! network, [`Hub::verify`] hashes everything again.
//!
//! ```text
//! <cache>/datasets--owner--name/
//!     blobs/<id>                    content; the id is the SHA-256 (large files) or git's SHA-1 (plain files)
//!     blobs/<id>.incomplete         a half file, resumed by the next fetch
//!     snapshots/<commit>/<path>     relative links to the blobs (copies where links are not possible)
//!     refs/<branch>                 the commit a branch stood at
//! <cache>/.locks/                   one lock per blob, shared with Python's client
//! ```
//!
//! It does not know what the files mean, and draws nothing: [`Progress`] is told.
//!
//! # What hf-hub does here, and what it does not
//!
//! The folder names, blob and snapshot paths and API addresses are [`hf_hub`] 0.5's (version 1.0 resumes no half
//! file). Its transfer is not used. It publishes a blob without looking at its content; it gives up on a half file
//! that is too long and joins one that changed; it discards the response of a 429 and with it `Retry-After`; a body
//! that ends early is published; `refs` are not written atomically; it knows neither `HF_HUB_OFFLINE` nor
//! `HF_TOKEN`; and it cannot be stopped. `transfer` does this over the same HTTP client (ureq), following redirects
//! by hand so that the token stays with the endpoint.
//!
//! # Deviations from Python's `huggingface_hub`
//!
//! Sizes and checksums come from one listing per repository (`?blobs=true`) instead of one `HEAD` per file. A half
//! file has the name `<id>.incomplete` (Python 2.x adds random digits and resumes none). `refs/<branch>` is not
//! moved back when a pinned commit is older than the one it names.
//!
//! Sources: the `huggingface_hub` 2.4 sources (cache layout, environment variables, error codes), hf-hub 0.5.

mod cache;
mod checksum;
mod client;
mod crew;
mod fetch;
mod listing;
mod pattern;
mod pins;
mod plan;
mod repo;
mod resolve;
mod settings;
mod transfer;

pub use fetch::Fetched;
pub use pattern::matches;
pub use plan::{Checked, Condition, FetchPlan, PlannedFile};
pub use repo::{Repo, RepoKind, Wanted};
pub use settings::{Settings, Token};

use crate::progress::Progress;
use anyhow::{Result, ensure};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// The hub as seen through one cache, one lock file and one endpoint.
#[derive(Clone, Debug)]
pub struct Hub {
    shared: Arc<Shared>,
}

/// What the threads of a fetch share.
#[derive(Debug)]
struct Shared {
    settings: Settings,
    client: client::Client,
    /// Nobody answered the last question that did not matter; others of its kind are not asked.
    unreachable: AtomicBool,
}

impl Hub {
    /// Prepares the client; touches neither network nor files. Fails on an endpoint that is no `http(s)` address, and
    /// where an update is asked for offline.
    pub fn new(settings: Settings) -> Result<Hub> {
        ensure!(
            !(settings.offline && settings.update),
            "an update asks the hub, which HF_HUB_OFFLINE forbids: leave out one of them"
        );
        let client = client::Client::new(&settings)?;
        Ok(Hub { shared: Arc::new(Shared { settings, client, unreachable: AtomicBool::new(false) }) })
    }

    /// What a fetch of `wanted` would do: sizes, what is cached, licences, free disk. Writes nothing.
    ///
    /// Fails where the hub cannot be asked (or, offline, where lock and cache do not know the repository).
    pub fn plan(&self, wanted: &[Wanted]) -> Result<FetchPlan> {
        plan::plan(&self.shared, wanted)
    }

    /// Brings the wanted files into the cache, checks every one against the hub and the lock, and pins them.
    ///
    /// Files in the cache are hashed, not trusted; missing ones are downloaded, several at a time, going on from
    /// half files. Returns [`crate::progress::Interrupted`] within about a second when asked to stop; other errors
    /// name repository, file, address and the way out. In either case everything in the cache is whole and the
    /// same call goes on where this one ended.
    pub fn fetch(&self, wanted: &Wanted, progress: &dyn Progress) -> Result<Fetched> {
        fetch::fetch(&self.shared, wanted, progress)
    }

    /// The paths of files fetched before, at the pinned commit. Asks nobody and hashes nothing: only that each
    /// file is there with the pinned size. Fails, naming the file, where one is missing.
    pub fn find(&self, wanted: &Wanted) -> Result<Fetched> {
        fetch::find(&self.shared, wanted)
    }

    /// Hashes every file of the lock that is in the cache again, and tells each file's condition, in the order of
    /// the lock. Changes nothing.
    pub fn verify(&self, progress: &dyn Progress) -> Result<Vec<Checked>> {
        plan::verify(&self.shared, progress)
    }
}
