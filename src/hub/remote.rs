//! The hub itself: what a repository holds, and its files' bytes.

use std::{env, fs, io::ErrorKind, time::Duration};

use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use ureq::{
    Agent, Body, RequestBuilder,
    http::Response,
    tls::{PemItem, RootCerts, TlsConfig, parse_pem},
    typestate::WithoutBody,
};

use super::{
    Repository, cache,
    listing::{Listing, Told},
};
use crate::error::{Error, Result};

/// Where the hub is where nothing else is said.
const ENDPOINT: &str = "https://huggingface.co";

/// How long to wait for a hub that does not answer, and how often to ask again.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// A connection without a byte for so long is dead.
    pub stall: Duration,
    /// The pause before the second attempt; it doubles with each one.
    pub pause: Duration,
    /// The longest pause.
    pub longest: Duration,
    /// Attempts without progress.
    pub attempts: u32,
}

impl Default for Patience {
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
    pub(super) patience: Patience,
    agent: Agent,
}

/// Why an attempt failed.
#[derive(Debug)]
pub(super) enum Failure {
    /// For good.
    Final(Error),
    /// There is no way to it, or none at this moment.
    Unreachable(Error),
    /// For now; the hub may say when to come again.
    Passing(String, Option<Duration>),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Final(error)
    }
}

impl Hub {
    /// A hub at an address, with the token of a person who has one.
    pub fn new(endpoint: &str, token: Option<String>, patience: Patience) -> Result<Self> {
        if !["https://", "http://"]
            .iter()
            .any(|scheme| endpoint.starts_with(scheme))
        {
            return Err(Error::setting(format!(
                "HF_ENDPOINT {endpoint}: an address begins with https://"
            )));
        }
        if token
            .as_ref()
            .is_some_and(|token| token.contains(char::is_control))
        {
            let reason = "HF_TOKEN: there is a line break or another control character in it";
            return Err(Error::setting(reason));
        }
        let config = Agent::config_builder()
            .user_agent(concat!("icd/", env!("CARGO_PKG_VERSION")))
            .timeout_connect(Some(patience.stall))
            .timeout_recv_response(Some(patience.stall))
            .timeout_per_read(Some(patience.stall))
            .http_status_as_error(false)
            .tls_config(TlsConfig::builder().root_certs(roots()?).build());
        Ok(Self {
            endpoint: endpoint.trim_end_matches('/').into(),
            token,
            offline: false,
            patience,
            agent: config.build().into(),
        })
    }

    /// The hub as the environment has it: `HF_ENDPOINT`, `HF_TOKEN` (or the file
    /// of the hub's own login), `HF_HUB_OFFLINE`; proxies as everywhere
    /// (`HTTPS_PROXY`, `NO_PROXY`), and `SSL_CERT_FILE` for a proxy's own
    /// certificates.
    pub fn from_env() -> Result<Self> {
        let named = |name: &str| env::var(name).ok().filter(|value| !value.trim().is_empty());
        let endpoint = named("HF_ENDPOINT").unwrap_or_else(|| ENDPOINT.into());
        let login = || fs::read_to_string(cache::home().join("token")).ok();
        let token = named("HF_TOKEN")
            .or_else(login)
            .map(|token| token.trim().to_owned());
        let token = token.filter(|token| !token.is_empty());
        let offline = named("HF_HUB_OFFLINE").is_some_and(|value| {
            ["1", "true", "yes", "on"].contains(&value.to_lowercase().as_str())
        });
        Ok(Self {
            offline,
            ..Self::new(&endpoint, token, Patience::default())?
        })
    }

    /// Its address.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Whether it must not be asked.
    pub fn is_offline(&self) -> bool {
        self.offline
    }

    /// What a repository holds at its revision.
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
        let text = text.map_err(|error| unsteady(&error))?;
        let told: Told = serde_json::from_str(&text).map_err(|error| {
            hub_error(repository, format!("{url} gives no list of files: {error}"))
        })?;
        told.listing(repository).map_err(Failure::Final)
    }

    /// The bytes of a file of a commit from `offset` on.
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

    /// The bytes at an address that is none of the hub's, from `offset` on.
    pub(super) fn open_url(&self, url: &str, offset: u64) -> Result<Response<Body>, Failure> {
        let reason = |status| format!("its host answers {status}");
        sent(self.get(url, offset), [url, url], &reason)
    }

    /// The hub's answer.
    fn ask(
        &self,
        url: &str,
        offset: u64,
        repository: &Repository,
    ) -> Result<Response<Body>, Failure> {
        let mut request = self.get(url, offset);
        if let Some(token) = &self.token {
            // Not passed on to where the hub sends us: that is ureq's rule.
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

    /// Why the hub refuses.
    fn reason(&self, status: u16, repository: &Repository) -> String {
        match status {
            401 | 403 if self.token.is_none() => format!(
                "it does not exist, or wants a person who is known and has agreed to its licence: \
                 see {}/{}, and set HF_TOKEN",
                self.endpoint, repository.id
            ),
            401 | 403 => format!(
                "HF_TOKEN does not open it: see {}/{}",
                self.endpoint, repository.id
            ),
            404 => "the hub has no such repository, revision or file".into(),
            _ => format!("the hub answers {status}"),
        }
    }
}

/// The answer of a host about something: a success, or 416, which says that
/// nothing lies beyond the offset.
fn sent(
    request: RequestBuilder<WithoutBody>,
    [host, what]: [&str; 2],
    reason: &dyn Fn(u16) -> String,
) -> Result<Response<Body>, Failure> {
    let answer = request.call();
    let answer = answer.map_err(|error| unreachable(error, host, what))?;
    match answer.status().as_u16() {
        200..=299 | 416 => Ok(answer),
        status => Err(refused(status, &answer, what, reason(status))),
    }
}

/// No answer: a connection that broke may hold the next time.
fn unreachable(error: ureq::Error, host: &str, what: &str) -> Failure {
    let broke = match &error {
        ureq::Error::Io(error) => BROKEN.contains(&error.kind()),
        ureq::Error::HostNotFound | ureq::Error::ConnectionFailed => false,
        _ => true,
    };
    if broke {
        return unsteady(&error);
    }
    let reason = format!(
        "{host} cannot be reached ({error}); without a network, put the files into a folder and \
         name it with --model"
    );
    Failure::Unreachable(Error::Hub {
        what: what.into(),
        reason,
    })
}

/// How connections end that were there.
const BROKEN: [ErrorKind; 6] = [
    ErrorKind::ConnectionReset,
    ErrorKind::ConnectionAborted,
    ErrorKind::BrokenPipe,
    ErrorKind::UnexpectedEof,
    ErrorKind::TimedOut,
    ErrorKind::WouldBlock,
];

/// An answer that is no success: too much to do may pass, all else does not.
fn refused(status: u16, answer: &Response<Body>, what: &str, reason: String) -> Failure {
    match status {
        408 | 429 | 500..=599 => Failure::Passing(reason, pause(answer)),
        _ => Failure::Final(Error::Hub {
            what: what.into(),
            reason,
        }),
    }
}

/// A fault of a repository.
pub(super) fn hub_error(repository: &Repository, reason: String) -> Error {
    let what = repository.to_string();
    Error::Hub { what, reason }
}

/// A connection that broke may hold the next time.
pub(super) fn unsteady(error: &ureq::Error) -> Failure {
    Failure::Passing(error.to_string(), None)
}

/// How long the hub asks to wait, where it tells it in seconds.
fn pause(answer: &Response<Body>) -> Option<Duration> {
    let seconds = answer.headers().get("retry-after")?.to_str().ok()?;
    seconds.trim().parse().ok().map(Duration::from_secs)
}

/// What must not stand in a path as it is.
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

/// Whom to trust: the certificates of `SSL_CERT_FILE`, else Mozilla's list.
fn roots() -> Result<RootCerts> {
    let Some(file) = env::var_os("SSL_CERT_FILE").filter(|file| !file.is_empty()) else {
        return Ok(RootCerts::WebPki);
    };
    let text = fs::read(&file).map_err(|error| Error::io(&file, error))?;
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
