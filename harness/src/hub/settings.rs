//! Where the hub is, where its files go, and who asks: the environment variables of Python's client.

use anyhow::{Context as _, Result};
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The hub itself.
const ENDPOINT: &str = "https://huggingface.co";
/// Files fetched at a time.
const WORKERS: usize = 4;
/// Tries after the first that may fail without a byte gained.
const RETRIES: u32 = 5;
/// Wait before the first of these; each next one is twice as long.
const BACKOFF: Duration = Duration::from_secs(1);
/// How long a server may be silent.
const TIMEOUT: Duration = Duration::from_secs(30);

/// A secret that does not show itself.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// A token without the white space around it; `None` where nothing is left.
    pub fn new(text: &str) -> Option<Token> {
        let text = text.trim();
        (!text.is_empty()).then(|| Token(text.to_owned()))
    }

    pub(super) fn bearer(&self) -> String {
        format!("Bearer {}", self.0)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

/// Everything a [`super::Hub`] is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Address of the hub, without a `/` at the end.
    pub endpoint: String,
    /// Folder of the cache, in the hub's own layout.
    pub cache_dir: PathBuf,
    /// Sent to `endpoint` and to nobody else.
    pub token: Option<Token>,
    /// Ask nobody; use lock and cache alone.
    pub offline: bool,
    /// Resolve branches again instead of using the commits of the lock.
    pub update: bool,
    /// Files fetched at a time.
    pub workers: usize,
    /// The lock file.
    pub lock: PathBuf,
    /// Tries after the first that may fail without a byte gained.
    pub retries: u32,
    /// Wait before the first of these, unless the server says how long; each next wait is twice as long.
    pub backoff: Duration,
    /// How long a server may be silent before the connection is given up.
    pub timeout: Duration,
}

impl Settings {
    /// Settings with this cache, this lock and the defaults for the rest: the public hub, no token, online.
    pub fn new(cache_dir: impl Into<PathBuf>, lock: impl Into<PathBuf>) -> Settings {
        Settings {
            endpoint: ENDPOINT.to_owned(),
            cache_dir: cache_dir.into(),
            token: None,
            offline: false,
            update: false,
            workers: WORKERS,
            lock: lock.into(),
            retries: RETRIES,
            backoff: BACKOFF,
            timeout: TIMEOUT,
        }
    }

    /// Settings from the environment variables that Python's client reads, with the same defaults:
    ///
    /// | variable | default | |
    /// |---|---|---|
    /// | `HF_ENDPOINT` | `https://huggingface.co` | a mirror |
    /// | `HF_HOME` | `$XDG_CACHE_HOME/huggingface`, `~/.cache/huggingface` | |
    /// | `HF_HUB_CACHE` | `$HF_HOME/hub` | the cache |
    /// | `HF_TOKEN` | the content of `HF_TOKEN_PATH` | |
    /// | `HF_TOKEN_PATH` | `$HF_HOME/token` | |
    /// | `HF_HUB_OFFLINE`, `TRANSFORMERS_OFFLINE` | off | `1`, `on`, `yes`, `true` |
    /// | `HF_HUB_DOWNLOAD_TIMEOUT` | 30 | seconds of silence |
    ///
    /// Fails if there is no home folder to default to, or if the token file cannot be read.
    pub fn from_env(lock: impl Into<PathBuf>) -> Result<Settings> {
        Settings::from_vars(lock.into(), std::env::home_dir(), |name| std::env::var(name).ok())
    }

    fn from_vars(
        lock: PathBuf,
        home_dir: Option<PathBuf>,
        var: impl Fn(&str) -> Option<String>,
    ) -> Result<Settings> {
        let var = |name: &str| var(name).filter(|text| !text.is_empty());
        let folder = |name: &str| var(name).map(|text| in_home(&text, home_dir.as_deref()));
        let default_home = || -> Option<PathBuf> {
            let caches = folder("XDG_CACHE_HOME").or_else(|| Some(home_dir.as_ref()?.join(".cache")))?;
            Some(caches.join("huggingface"))
        };
        let home = folder("HF_HOME").or_else(default_home).context("there is no home folder: set HF_HOME")?;
        let cache = folder("HF_HUB_CACHE").or_else(|| folder("HUGGINGFACE_HUB_CACHE"));
        let mut settings = Settings::new(cache.unwrap_or_else(|| home.join("hub")), lock);
        if let Some(endpoint) = var("HF_ENDPOINT") {
            settings.endpoint = endpoint.trim_end_matches('/').to_owned();
        }
        settings.token = match var("HF_TOKEN").or_else(|| var("HUGGING_FACE_HUB_TOKEN")) {
            Some(text) => Token::new(&text),
            None => token_file(&folder("HF_TOKEN_PATH").unwrap_or_else(|| home.join("token")))?,
        };
        let offline = var("HF_HUB_OFFLINE").or_else(|| var("TRANSFORMERS_OFFLINE"));
        settings.offline = offline.is_some_and(|text| is_true(&text));
        if let Some(text) = var("HF_HUB_DOWNLOAD_TIMEOUT") {
            let seconds: u64 = text.parse().with_context(|| {
                format!("HF_HUB_DOWNLOAD_TIMEOUT is {text:?}: give it a whole number of seconds")
            })?;
            settings.timeout = Duration::from_secs(seconds.max(1));
        }
        Ok(settings)
    }
}

/// A path with `~/` at its start resolved.
fn in_home(text: &str, home: Option<&Path>) -> PathBuf {
    match (text.strip_prefix("~/"), home) {
        (Some(rest), Some(home)) => home.join(rest),
        _ => PathBuf::from(text),
    }
}

fn token_file(path: &Path) -> Result<Option<Token>> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Token::new(&text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| {
            format!("cannot read the token file {}: make it readable, or set HF_TOKEN", path.display())
        }),
    }
}

fn is_true(text: &str) -> bool {
    ["1", "ON", "YES", "TRUE"].contains(&text.to_uppercase().as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(vars: &[(&str, &str)]) -> Settings {
        let var = |name: &str| vars.iter().find(|(n, _)| *n == name).map(|(_, value)| value.to_string());
        Settings::from_vars("x.lock".into(), Some("/home/me".into()), var).unwrap()
    }

    #[test]
    fn defaults_are_those_of_the_python_client() {
        let settings = from(&[]);
        assert_eq!(settings, Settings::new("/home/me/.cache/huggingface/hub", "x.lock"));
        assert_eq!(from(&[("XDG_CACHE_HOME", "/c")]).cache_dir, Path::new("/c/huggingface/hub"));
        assert_eq!(from(&[("HF_HOME", "~/hf")]).cache_dir, Path::new("/home/me/hf/hub"));
        assert_eq!(from(&[("HF_HOME", "/h"), ("HF_HUB_CACHE", "/k")]).cache_dir, Path::new("/k"));
        assert_eq!(from(&[("HF_ENDPOINT", "http://mirror/")]).endpoint, "http://mirror");
        assert_eq!(from(&[("HF_HUB_DOWNLOAD_TIMEOUT", "7")]).timeout, Duration::from_secs(7));
    }

    #[test]
    fn offline_is_what_python_calls_true() {
        for (text, offline) in [("1", true), ("on", true), ("True", true), ("0", false), ("", false)] {
            assert_eq!(from(&[("HF_HUB_OFFLINE", text)]).offline, offline, "{text}");
        }
        assert!(from(&[("TRANSFORMERS_OFFLINE", "yes")]).offline);
    }

    #[test]
    fn the_token_comes_from_the_variable_or_the_file() {
        let home = tempfile::tempdir().unwrap();
        std::fs::write(home.path().join("token"), "hf_file\n").unwrap();
        let home = home.path().to_str().unwrap();
        assert_eq!(from(&[("HF_HOME", home)]).token, Token::new("hf_file"));
        assert_eq!(from(&[("HF_HOME", home), ("HF_TOKEN", " hf_var ")]).token, Token::new("hf_var"));
        let elsewhere = format!("{home}/token");
        assert_eq!(from(&[("HF_TOKEN_PATH", &elsewhere)]).token, Token::new("hf_file"));
    }

    #[test]
    fn a_token_does_not_show_itself() {
        let mut settings = Settings::new("/c", "x.lock");
        settings.token = Token::new("hf_secret");
        assert!(!format!("{settings:?}").contains("secret"));
    }
}
