//! One request at a time: redirects, the token, what to try again and what to give up on.

use super::crew::Watch;
use super::repo::Repo;
use super::settings::{Settings, Token};
use anyhow::{Context as _, Result, anyhow, bail};
use std::time::Duration;
use ureq::http::{HeaderMap, Response, StatusCode, Uri};
use ureq::{Agent, Body};

/// More redirects than the hub ever needs.
const MAX_REDIRECTS: usize = 10;
/// The longest wait before a next try, whatever the server asks for. The hub counts requests in windows of 300 s.
const LONGEST_WAIT: Duration = Duration::from_secs(310);
/// The longest listing accepted.
const MAX_LISTING_BYTES: u64 = 256 << 20;

/// Asks the hub. The token goes to the endpoint and to nobody else.
#[derive(Debug)]
pub(super) struct Client {
    agent: Agent,
    endpoint: String,
    origin: Origin,
    token: Option<Token>,
    retries: u32,
    backoff: Duration,
}

/// Scheme, host and port.
#[derive(Debug, PartialEq, Eq)]
struct Origin(String, String, u16);

/// What is asked for: who and what the error messages name.
pub(super) struct Request<'a> {
    /// The repository, at the revision asked for.
    pub repo: &'a Repo,
    /// The file; `None` for the listing.
    pub file: Option<&'a str>,
    /// The address.
    pub url: String,
}

/// Why a try failed.
pub(super) enum Failure {
    /// May go better next time, not before the wait that the server asks for.
    Passing(String, Option<Duration>),
    /// Will fail again.
    Final(anyhow::Error),
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Failure {
        Failure::Final(error)
    }
}

impl Client {
    /// Fails if the endpoint is no `http://` or `https://` address.
    pub fn new(settings: &Settings) -> Result<Client> {
        let bad = || {
            format!("HF_ENDPOINT is {:?}: write an address such as https://huggingface.co", settings.endpoint)
        };
        let origin = origin(&settings.endpoint).with_context(bad)?;
        let mut config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            // Ranges and lengths count the bytes of the file, so it must come as it is.
            .accept_encoding("identity")
            .user_agent(concat!("harness/", env!("CARGO_PKG_VERSION")))
            .timeout_resolve(Some(settings.timeout))
            .timeout_connect(Some(settings.timeout))
            .timeout_recv_response(Some(settings.timeout))
            .timeout_per_read(Some(settings.timeout));
        if matches!(origin.1.as_str(), "localhost" | "127.0.0.1" | "[::1]") {
            config = config.proxy(None); // a proxy's own loopback is another machine
        }
        Ok(Client {
            agent: config.build().into(),
            endpoint: settings.endpoint.clone(),
            origin,
            token: settings.token.clone(),
            retries: settings.retries,
            backoff: settings.backoff,
        })
    }

    /// The listing of a repository with sizes and checksums.
    pub fn listing<'a>(&self, repo: &'a Repo) -> Request<'a> {
        let url = format!("{}/api/{}?blobs=true", self.endpoint, repo.hf().api_url());
        Request { repo, file: None, url }
    }

    /// The content of a file.
    pub fn file<'a>(&self, repo: &'a Repo, path: &'a str) -> Request<'a> {
        let hf = repo.hf();
        let url =
            format!("{}/{}/resolve/{}/{}", self.endpoint, hf.url(), hf.url_revision(), escaped_path(path));
        Request { repo, file: Some(path), url }
    }

    /// The text that answers a request, with patience.
    pub fn text(&self, request: &Request<'_>, patience: &mut Patience<'_>) -> Result<String> {
        loop {
            let answer = self.get(request, 0).and_then(|mut response| {
                let body = response.body_mut().with_config().limit(MAX_LISTING_BYTES);
                body.read_to_string().map_err(|error| Failure::Passing(error.to_string(), None))
            });
            match answer {
                Ok(text) => return Ok(text),
                Err(failure) => patience.wait_after(request, failure)?,
            }
        }
    }

    /// How long to go on trying.
    pub fn patience<'a>(&self, watch: &'a Watch) -> Patience<'a> {
        Patience { tries: 0, retries: self.retries, backoff: self.backoff, watch }
    }

    /// No second try.
    pub fn impatience<'a>(&self, watch: &'a Watch) -> Patience<'a> {
        Patience { retries: 0, ..self.patience(watch) }
    }

    /// The answer to a request from byte `from` on. Its status is 200 (the whole), 206 (the rest) or 416 (there is
    /// no such byte).
    pub fn get(&self, request: &Request<'_>, from: u64) -> Result<Response<Body>, Failure> {
        let mut url = request.url.clone();
        for _ in 0..=MAX_REDIRECTS {
            let mut call = self.agent.get(&url);
            if let Some(token) = self.token.as_ref().filter(|_| self.is_at_home(&url)) {
                call = call.header("Authorization", token.bearer());
            }
            if from > 0 {
                call = call.header("Range", format!("bytes={from}-"));
            }
            let response = call.call().map_err(|error| self.unreachable(request, &url, error))?;
            if !response.status().is_redirection() {
                return self.judge(request, response);
            }
            url = header(response.headers(), "location")
                .and_then(|location| joined(&url, location))
                .ok_or_else(|| request.error("a redirect leads nowhere"))?;
        }
        Err(request.error(&format!("more than {MAX_REDIRECTS} redirects")).into())
    }

    fn is_at_home(&self, url: &str) -> bool {
        origin(url).is_ok_and(|origin| origin == self.origin)
    }

    fn judge(&self, request: &Request<'_>, response: Response<Body>) -> Result<Response<Body>, Failure> {
        let status = response.status();
        match status.as_u16() {
            200 | 206 | 416 => Ok(response),
            408 | 429 | 500..=599 => {
                Err(Failure::Passing(format!("HTTP {status}"), retry_after(response.headers())))
            }
            _ => Err(self.refusal(request, status, response.headers()).into()),
        }
    }

    /// An answer that will not change by asking again.
    fn refusal(&self, request: &Request<'_>, status: StatusCode, headers: &HeaderMap) -> anyhow::Error {
        let Request { repo, .. } = request;
        let page = format!("{}/{}", self.endpoint, repo.hf().url());
        let code = header(headers, "x-error-code").unwrap_or_default();
        let text = match (status.as_u16(), code) {
            (401 | 403, "GatedRepo") => format!(
                "access is gated: accept the licence at {page}, then set HF_TOKEN to a token of that account{}",
                if self.token.is_some() { " (the token in use has no access yet)" } else { "" }
            ),
            (401 | 403, _) if self.token.is_some() => {
                format!("the token was refused: set HF_TOKEN to one that may read {page}")
            }
            (401 | 403, _) => {
                format!("there is no public repository {}: check its name, or set HF_TOKEN", repo.id)
            }
            (404, "RevisionNotFound") => {
                format!("there is no revision `{}`: see {page} for its branches", repo.revision)
            }
            (404, "EntryNotFound") => {
                format!("the file is not in this revision: see {page}/tree/{}", repo.revision)
            }
            (404, _) => format!("not found: check name and revision at {page}"),
            _ => header(headers, "x-error-message").unwrap_or("the hub refused").to_owned(),
        };
        request.error(&format!("HTTP {status}: {text}"))
    }

    fn unreachable(&self, request: &Request<'_>, url: &str, error: ureq::Error) -> Failure {
        use ureq::Error::*;
        let host = origin(url).map_or_else(|_| url.to_owned(), |origin| origin.1);
        let text = format!(
            "cannot reach {host} ({error}): check the network, HTTPS_PROXY and HF_ENDPOINT, or set \
             HF_HUB_OFFLINE=1 to use what is in the cache"
        );
        match error {
            HostNotFound
            | InvalidProxyUrl
            | ConnectProxyFailed(_)
            | Tls(_)
            | Rustls(_)
            | BadUri(_)
            | Http(_) => Failure::Final(request.error(&text)),
            _ => Failure::Passing(text, None),
        }
    }
}

impl Request<'_> {
    /// An error that names repository, file and address.
    pub fn error(&self, text: &str) -> anyhow::Error {
        let file = self.file.map(|file| format!(", file {file}")).unwrap_or_default();
        anyhow!("{}{file} ({}): {text}", self.repo, self.url)
    }
}

/// How often to try again, and when.
pub(super) struct Patience<'a> {
    tries: u32,
    retries: u32,
    backoff: Duration,
    watch: &'a Watch,
}

impl Patience<'_> {
    /// Something was gained: count the failures anew.
    pub fn renew(&mut self) {
        self.tries = 0;
    }

    /// Waits for the next try, or returns the error when there is none.
    pub fn wait_after(&mut self, request: &Request<'_>, failure: Failure) -> Result<()> {
        let (text, asked) = match failure {
            Failure::Passing(text, asked) => (text, asked),
            Failure::Final(error) => return Err(error),
        };
        self.watch.check()?;
        if self.tries == self.retries {
            bail!(request.error(&format!("{text}; given up after {} tries", self.tries + 1)));
        }
        let wait = wait_before_retry(self.backoff, self.tries, asked);
        self.tries += 1;
        let what = request.file.unwrap_or(&request.repo.id);
        let Patience { tries, retries, .. } = self;
        self.watch.note(format!("{what}: {text}; try {tries} of {retries} in {:.1} s", wait.as_secs_f64()));
        self.watch.pause(wait)
    }
}

/// What the server asks for, or else twice as long as the time before.
fn wait_before_retry(backoff: Duration, tries: u32, asked: Option<Duration>) -> Duration {
    asked.unwrap_or_else(|| backoff.saturating_mul(1 << tries.min(16))).min(LONGEST_WAIT)
}

/// `Retry-After: <seconds>`, or the `t` of the hub's `RateLimit: "api";r=0;t=<seconds>`.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = header(headers, "retry-after").or_else(|| {
        let window = header(headers, "ratelimit")?;
        window.split(';').find_map(|part| part.trim().strip_prefix("t="))
    })?;
    seconds.trim().parse().ok().map(Duration::from_secs)
}

/// A header that is text.
pub(super) fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

fn origin(url: &str) -> Result<Origin> {
    let uri: Uri = url.parse()?;
    let scheme = uri.scheme_str().context("an address without a scheme")?;
    let port = match scheme {
        "http" => 80,
        "https" => 443,
        other => bail!("`{other}` is not http or https"),
    };
    let host = uri.host().context("an address without a host")?.to_ascii_lowercase();
    Ok(Origin(scheme.to_owned(), host, uri.port_u16().unwrap_or(port)))
}

/// The address that a `Location` header names: a whole address, or one on the same host.
fn joined(url: &str, location: &str) -> Option<String> {
    if location.contains("://") {
        return Some(location.to_owned());
    }
    let (scheme, rest) = url.split_once("://")?;
    let host = rest.split('/').next()?;
    match location.strip_prefix("//") {
        Some(other_host) => Some(format!("{scheme}://{other_host}")),
        None if location.starts_with('/') => Some(format!("{scheme}://{host}{location}")),
        None => None,
    }
}

/// A path with everything but letters, digits and `-_.~/` written as `%XX`.
fn escaped_path(path: &str) -> String {
    let keep = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~/".contains(&byte);
    path.bytes()
        .map(|byte| if keep(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_until_the_server_says_how_long() {
        let second = Duration::from_secs(1);
        let waits: Vec<u64> = (0..4).map(|n| wait_before_retry(second, n, None).as_secs()).collect();
        assert_eq!(waits, [1, 2, 4, 8]);
        assert_eq!(wait_before_retry(second, 3, Some(Duration::ZERO)), Duration::ZERO);
        assert_eq!(wait_before_retry(second, 0, Some(Duration::from_secs(55))), Duration::from_secs(55));
        assert_eq!(wait_before_retry(second, 40, None), LONGEST_WAIT);
    }

    #[test]
    fn both_ways_to_ask_for_a_wait_are_read() {
        let wait = |name: &'static str, value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(name, value.parse().unwrap());
            retry_after(&headers).map(|wait| wait.as_secs())
        };
        assert_eq!(wait("retry-after", "7"), Some(7));
        assert_eq!(wait("ratelimit", "\"api\";r=0;t=55"), Some(55));
        assert_eq!(wait("retry-after", "Fri, 31 Dec 1999 23:59:59 GMT"), None);
    }

    #[test]
    fn redirects_are_followed_on_one_host_and_to_another() {
        let at = "https://hub.co:8443/a/b?c";
        assert_eq!(joined(at, "/x?y").as_deref(), Some("https://hub.co:8443/x?y"));
        assert_eq!(joined(at, "//cdn.co/x").as_deref(), Some("https://cdn.co/x"));
        assert_eq!(joined(at, "http://cdn.co/x").as_deref(), Some("http://cdn.co/x"));
        assert_eq!(joined(at, "x"), None);
    }

    #[test]
    fn the_port_is_part_of_the_origin() {
        let same = |a: &str, b: &str| origin(a).unwrap() == origin(b).unwrap();
        assert!(same("https://Hub.co/a", "https://hub.co:443/b"));
        assert!(!same("https://hub.co", "http://hub.co"));
        assert!(!same("http://hub.co:1", "http://hub.co:2"));
        assert!(!same("https://hub.co", "https://hub.co.evil.com"));
        assert!(origin("hub.co/x").is_err() && origin("ftp://hub.co").is_err());
    }

    #[test]
    fn paths_are_escaped() {
        assert_eq!(escaped_path("data/a b#1?.é"), "data/a%20b%231%3F.%C3%A9");
    }
}
