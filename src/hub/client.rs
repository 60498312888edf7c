//! Requests to the hub: the listing of a repository, and the bytes of its files.

use std::{
    io::ErrorKind,
    time::{Duration, SystemTime},
};

use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use ureq::{
    Agent, Body,
    http::Response,
    tls::{PemItem, RootCerts, TlsConfig, parse_pem},
};

use super::{
    Repository, environment,
    listing::{Listing, RepoInfo},
    proxy::Proxies,
    request::Request,
    retry_after,
};
use crate::{
    error::{Error, Result},
    io::read_file,
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
    pub(super) agent: Agent,
    pub(super) proxies: Proxies,
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
    /// Creates a client of the hub at a URL, with the user's token if any and without a
    /// proxy.
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
            // Redirects are followed and proxies chosen here, by the address of each step.
            .max_redirects(0)
            .proxy(None)
            .tls_config(
                TlsConfig::builder()
                    .root_certs(root_certificates()?)
                    .build(),
            );
        Ok(Self {
            endpoint: endpoint.trim_end_matches('/').into(),
            token,
            offline: false,
            retry_policy,
            agent: config.build().into(),
            proxies: Proxies::default(),
        })
    }

    /// Creates a client from the environment, read as by the Python package
    /// `huggingface_hub`: `HF_ENDPOINT`, `HF_TOKEN` (or the token file of `hf auth login`)
    /// and `HF_HUB_OFFLINE`, with their former names; `HTTPS_PROXY`, `HTTP_PROXY`,
    /// `ALL_PROXY` and `NO_PROXY`, as by curl; and `SSL_CERT_FILE` for the certificates of a
    /// proxy.
    pub fn from_env() -> Result<Self> {
        let endpoint = environment::text("HF_ENDPOINT").unwrap_or_else(|| ENDPOINT.into());
        let hub = Self::new(&endpoint, environment::token()?, RetryPolicy::default())?;
        Ok(Self {
            offline: environment::is_offline(),
            proxies: Proxies::from_env(),
            ..hub
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
        let revision = utf8_percent_encode(revision, COMPONENT);
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
        let text = text.trim_start_matches('\u{feff}');
        let info: RepoInfo = serde_json::from_str(text).map_err(|error| {
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
        let request = Request {
            url,
            offset,
            token: None,
            host: url,
            what: url,
        };
        let reason = |status| format!("its host responds with status {status}");
        answered(self.follow(&request)?, request.what, &reason)
    }

    fn ask(
        &self,
        url: &str,
        offset: u64,
        repository: &Repository,
    ) -> Result<Response<Body>, Failure> {
        let request = Request {
            url,
            offset,
            token: self.token.as_deref(),
            host: &self.endpoint,
            what: &repository.to_string(),
        };
        let reason = |status| self.reason(status, repository);
        answered(self.follow(&request)?, request.what, &reason)
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

/// A response whose status is no error. Status 416 means that the file ends at the offset.
fn answered(
    answer: Response<Body>,
    what: &str,
    reason: &dyn Fn(u16) -> String,
) -> Result<Response<Body>, Failure> {
    match answer.status().as_u16() {
        200..=299 | 416 => Ok(answer),
        status @ (408 | 429 | 500..=599) => {
            Err(Failure::Transient(reason(status), pause_asked(&answer)))
        }
        status => Err(Error::hub(what, reason(status)).into()),
    }
}

/// The failure of a request without a whole response. Only one that may succeed next time
/// is repeated: a connection that broke or stalled, or a host that cannot be reached. A
/// redirect loop, a response beyond the limits or one that is no HTTP stays as it is.
pub(super) fn failed(error: &ureq::Error, host: &str, what: &str) -> Failure {
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
            let error = error.to_string();
            let error = error.strip_prefix("io: ").unwrap_or(&error);
            let reason = match host == what {
                true => format!("its host cannot be reached ({error})"),
                false => format!(
                    "{host} cannot be reached ({error}); offline, name a folder in the \
                     diffusers layout as the model, or tabletop, which is bundled"
                ),
            };
            Failure::Unreachable(Error::hub(what, reason))
        }
        ureq::Error::ConnectProxyFailed(_) => {
            let reason = format!(
                "{host}: {error}; a proxy must tunnel (CONNECT) to this host and port: ask for \
                 that, or list the host in NO_PROXY if it can be reached without one"
            );
            Failure::Permanent(Error::hub(what, reason))
        }
        _ if host == what => Failure::Permanent(Error::hub(what, error.to_string())),
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

/// The pause requested by the hub.
fn pause_asked(answer: &Response<Body>) -> Option<Duration> {
    let value = answer.headers().get("retry-after")?.to_str().ok()?;
    retry_after::pause(value, SystemTime::now())
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

/// Characters that are percent-encoded in one component of a path.
const COMPONENT: &AsciiSet = &UNSAFE.add(b'/');

/// The certificates that are trusted: those of `SSL_CERT_FILE`, else Mozilla's list.
pub fn root_certificates() -> Result<RootCerts> {
    let Some(file) = environment::path("SSL_CERT_FILE") else {
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
