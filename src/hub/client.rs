//! Requests to the hub: the listing of a repository, and the bytes of its files.

use std::{env, io::ErrorKind, time::Duration};

use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use ureq::{
    Agent, Body, RequestBuilder,
    http::Response,
    tls::{PemItem, RootCerts, TlsConfig, parse_pem},
    typestate::WithoutBody,
};

use super::{
    Repository, cache,
    listing::{Listing, RepoInfo},
};
use crate::{
    error::{Error, Result},
    io::{read_file, read_text},
};

const ENDPOINT: &str = "https://huggingface.co";

/// Timeouts and retries of requests.
#[derive(Clone, Copy, Debug)]
pub struct RetryPolicy {
    /// Timeout of a connection without data.
    pub stall: Duration,
    /// Pause before the second attempt; it doubles with each further one.
    pub pause: Duration,
    /// Maximum pause.
    pub longest: Duration,
    /// Maximum number of attempts without progress.
    pub attempts: u32,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            stall: Duration::from_secs(30),
            pause: Duration::from_secs(1),
            longest: Duration::from_secs(120),
            attempts: 6,
        }
    }
}

/// The hub, or a mirror of it.
#[derive(Clone, Debug)]
pub struct Hub {
    endpoint: String,
    token: Option<String>,
    offline: bool,
    pub(super) retry_policy: RetryPolicy,
    agent: Agent,
}

/// Why an attempt failed.
#[derive(Debug)]
pub(super) enum Failure {
    Permanent(Error),
    /// The host cannot be reached, possibly for a short time only.
    Unreachable(Error),
    /// The reason, and the pause before the next attempt if the hub requests one.
    Transient(String, Option<Duration>),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Permanent(error)
    }
}

impl Hub {
    /// Creates a client of the hub at a URL, with the user's token if any.
    pub fn new(endpoint: &str, token: Option<String>, retry_policy: RetryPolicy) -> Result<Self> {
        if !endpoint.starts_with("https://") && !endpoint.starts_with("http://") {
            let reason = format!("HF_ENDPOINT {endpoint}: a URL must begin with https://");
            return Err(Error::setting(reason));
        }
        if token.iter().any(|token| token.contains(char::is_control)) {
            let reason = "HF_TOKEN: it contains a line break or another control character";
            return Err(Error::setting(reason));
        }
        let config = Agent::config_builder()
            .user_agent(concat!("icd/", env!("CARGO_PKG_VERSION")))
            .timeout_connect(Some(retry_policy.stall))
            .timeout_recv_response(Some(retry_policy.stall))
            .timeout_per_read(Some(retry_policy.stall))
            .http_status_as_error(false)
            .tls_config(TlsConfig::builder().root_certs(roots()?).build());
        Ok(Self {
            endpoint: endpoint.trim_end_matches('/').into(),
            token,
            offline: false,
            retry_policy,
            agent: config.build().into(),
        })
    }

    /// Creates a client from the environment: `HF_ENDPOINT`, `HF_TOKEN` (or the token
    /// file of `hf auth login`), `HF_HUB_OFFLINE`, `HTTPS_PROXY`, `NO_PROXY`, and
    /// `SSL_CERT_FILE` for the certificates of a proxy.
    pub fn from_env() -> Result<Self> {
        let named = |name: &str| env::var(name).ok().filter(|value| !value.trim().is_empty());
        let endpoint = named("HF_ENDPOINT").unwrap_or_else(|| ENDPOINT.into());
        let login = || read_text(&cache::home().join("token")).ok();
        let token = named("HF_TOKEN")
            .or_else(login)
            .map(|token| token.trim().to_owned());
        let token = token.filter(|token| !token.is_empty());
        let offline = named("HF_HUB_OFFLINE").is_some_and(|value| {
            ["1", "true", "yes", "on"].contains(&value.to_lowercase().as_str())
        });
        Ok(Self {
            offline,
            ..Self::new(&endpoint, token, RetryPolicy::default())?
        })
    }

    /// The URL of the hub.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Whether requests are forbidden.
    pub fn is_offline(&self) -> bool {
        self.offline
    }

    /// The listing of a repository at its revision.
    pub(super) fn listing(&self, repository: &Repository) -> Result<Listing, Failure> {
        let Repository { id, revision } = repository;
        let url = format!(
            "{}/api/models/{id}/revision/{revision}?blobs=true",
            self.endpoint
        );
        let mut answer = self.ask(&url, 0, repository)?;
        let text = answer
            .body_mut()
            .with_config()
            .limit(64 << 20)
            .read_to_string();
        let text = text.map_err(|error| failed(&error, &self.endpoint, &repository.to_string()))?;
        let info: RepoInfo = serde_json::from_str(&text).map_err(|error| {
            Error::hub(
                repository,
                format!("{url} returns no list of files: {error}"),
            )
        })?;
        info.listing(repository).map_err(Failure::Permanent)
    }

    /// Requests a file of a commit from `offset` on.
    pub(super) fn open(
        &self,
        repository: &Repository,
        commit: &str,
        name: &str,
        offset: u64,
    ) -> Result<Response<Body>, Failure> {
        let name = utf8_percent_encode(name, UNSAFE);
        let url = format!(
            "{}/{}/resolve/{commit}/{name}",
            self.endpoint, repository.id
        );
        self.ask(&url, offset, repository)
    }

    /// Requests the file at a URL of any host from `offset` on, without the token.
    pub(super) fn open_url(&self, url: &str, offset: u64) -> Result<Response<Body>, Failure> {
        let reason = |status| format!("its host responds with status {status}");
        sent(self.get(url, offset), [url, url], &reason)
    }

    fn ask(
        &self,
        url: &str,
        offset: u64,
        repository: &Repository,
    ) -> Result<Response<Body>, Failure> {
        let mut request = self.get(url, offset);
        if let Some(token) = &self.token {
            // ureq does not send it to the targets of redirects.
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let what = [&self.endpoint[..], &repository.to_string()];
        sent(request, what, &|status| self.reason(status, repository))
    }

    fn get(&self, url: &str, offset: u64) -> RequestBuilder<WithoutBody> {
        let request = self.agent.get(url).header("accept-encoding", "identity");
        match offset {
            0 => request,
            _ => request.header("range", format!("bytes={offset}-")),
        }
    }

    /// The reason of an error status.
    fn reason(&self, status: u16, repository: &Repository) -> String {
        let page = format!("{}/{}", self.endpoint, repository.id);
        match status {
            401 | 403 if self.token.is_none() => format!(
                "it does not exist, or requires signing in and accepting its licence: \
                 see {page}, and set HF_TOKEN"
            ),
            401 | 403 => format!("HF_TOKEN has no access to it: see {page}"),
            404 => "the hub has no such repository, revision or file".into(),
            _ => format!("the hub responds with status {status}"),
        }
    }
}

/// Sends a request. Status 416 is no error here: it means that the file ends at the
/// offset.
fn sent(
    request: RequestBuilder<WithoutBody>,
    [host, what]: [&str; 2],
    reason: &dyn Fn(u16) -> String,
) -> Result<Response<Body>, Failure> {
    let answer = request.call();
    let answer = answer.map_err(|error| failed(&error, host, what))?;
    match answer.status().as_u16() {
        200..=299 | 416 => Ok(answer),
        status @ (408 | 429 | 500..=599) => {
            Err(Failure::Transient(reason(status), retry_after(&answer)))
        }
        status => Err(Error::hub(what, reason(status)).into()),
    }
}

/// The failure of a request without a whole response. Only one that may succeed next time
/// is repeated: a connection that broke or stalled, or a host that cannot be reached. A
/// redirect loop, a response beyond the limits or one that is no HTTP stays as it is.
fn failed(error: &ureq::Error, host: &str, what: &str) -> Failure {
    match error {
        ureq::Error::Timeout(_) => Failure::Transient(error.to_string(), None),
        // Its text is all that tells a proxy's refusal from one that is busy.
        ureq::Error::ConnectProxyFailed(reason) if !reason.contains("responded 4") => {
            Failure::Transient(error.to_string(), None)
        }
        ureq::Error::Io(cause) if BROKEN.contains(&cause.kind()) => {
            Failure::Transient(error.to_string(), None)
        }
        ureq::Error::Io(_) | ureq::Error::HostNotFound | ureq::Error::ConnectionFailed => {
            let reason = format!(
                "{host} cannot be reached ({error}); without a network, put the files into a \
                 folder in the diffusers layout and name it as the model"
            );
            Failure::Unreachable(Error::hub(what, reason))
        }
        _ => Failure::Permanent(Error::hub(what, format!("{host}: {error}"))),
    }
}

/// Errors of connections that had been established.
const BROKEN: [ErrorKind; 6] = [
    ErrorKind::ConnectionReset,
    ErrorKind::ConnectionAborted,
    ErrorKind::BrokenPipe,
    ErrorKind::UnexpectedEof,
    ErrorKind::TimedOut,
    ErrorKind::WouldBlock,
];

/// The pause requested by the hub, in seconds.
fn retry_after(answer: &Response<Body>) -> Option<Duration> {
    let seconds = answer.headers().get("retry-after")?.to_str().ok()?;
    seconds.trim().parse().ok().map(Duration::from_secs)
}

/// Characters that are percent-encoded in a path.
const UNSAFE: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'#')
    .add(b'%')
    .add(b'<')
    .add(b'>')
    .add(b'?')
    .add(b'[')
    .add(b']')
    .add(b'`')
    .add(b'{')
    .add(b'}');

/// The trusted certificates: those of `SSL_CERT_FILE`, else Mozilla's list.
fn roots() -> Result<RootCerts> {
    let Some(file) = cache::path_in_env("SSL_CERT_FILE") else {
        return Ok(RootCerts::WebPki);
    };
    let text = read_file(&file).map_err(|error| Error::io(&file, error))?;
    let certificates = parse_pem(&text).filter_map(|item| match item {
        Ok(PemItem::Certificate(certificate)) => Some(certificate),
        _ => None,
    });
    let certificates: Vec<_> = certificates.collect();
    match certificates.is_empty() {
        true => Err(Error::config(&file, "SSL_CERT_FILE holds no certificates")),
        false => Ok(RootCerts::new_with_certs(&certificates)),
    }
}
