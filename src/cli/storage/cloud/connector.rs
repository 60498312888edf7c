//! The requests of `object_store`, made by the client that downloads models: with TLS on
//! `ring`, the certificates of `SSL_CERT_FILE` and the proxies of the environment.

use std::{error, fmt, io::Read, time::Duration};

use async_trait::async_trait;
use http_body_util::BodyExt;
use icd::hub;
use object_store::{
    ClientOptions,
    client::{
        HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpService,
    },
};
use ureq::{
    Agent,
    http::{Request, StatusCode},
    tls::TlsConfig,
};

/// Timeout of a connection without data.
const STALL: Duration = Duration::from_secs(30);

/// Timeout of the machine's own metadata, which are near or nowhere.
const NEAR: Duration = Duration::from_secs(2);

/// The address of a machine's metadata, where credentials are looked for that the environment
/// does not give.
const METADATA: &str = "169.254.169.254";

/// Most bytes of an answer: those of the largest object, and some.
const MAX_ANSWER: u64 = (1 << 30) + (1 << 20);

/// A client of all stores.
#[derive(Clone, Debug)]
pub(super) struct Connector(Agent);

/// A connection that failed, or a server that asks for patience: the same request may succeed.
#[derive(Debug)]
pub(super) struct Cut {
    host: String,
    reason: String,
}

impl Connector {
    pub(super) fn from_env() -> icd::Result<Self> {
        let tls = TlsConfig::builder().root_certs(hub::root_certificates()?);
        let config = Agent::config_builder()
            .user_agent(concat!("icd/", env!("CARGO_PKG_VERSION")))
            .timeout_connect(Some(STALL))
            .timeout_recv_response(Some(STALL))
            .timeout_per_read(Some(STALL))
            .http_status_as_error(false)
            .max_redirects(0)
            .tls_config(tls.build());
        Ok(Self(config.build().into()))
    }

    /// Sends a request and reads its whole answer.
    fn answer(&self, request: Request<Vec<u8>>) -> Result<HttpResponse, ureq::Error> {
        let has_body = ["PUT", "POST"].contains(&request.method().as_str());
        let response = if has_body || !request.body().is_empty() {
            self.0.run(request)
        } else {
            let is_near = request.uri().host() == Some(METADATA);
            let config = self.0.configure_request(request.map(drop));
            let config = config.timeout_connect(Some(if is_near { NEAR } else { STALL }));
            self.0.run(config.build())
        };
        let (parts, body) = response?.into_parts();
        let (mut reader, mut bytes) = (body.into_reader().take(MAX_ANSWER), Vec::new());
        reader.read_to_end(&mut bytes)?;
        Ok(HttpResponse::from_parts(parts, bytes.into()))
    }
}

impl HttpConnector for Connector {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(self.clone()))
    }
}

#[async_trait]
impl HttpService for Connector {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let (parts, body) = request.into_parts();
        let body = body.collect().await?.to_bytes().to_vec();
        let host = parts.uri.host().unwrap_or_default().to_owned();
        let answer = self.answer(Request::from_parts(parts, body));
        let answer = answer.map_err(|error| failed(&error, host.clone()))?;
        match is_passing(answer.status()) {
            true => {
                let reason = format!("it answers with status {}", answer.status());
                let cut = Cut { host, reason };
                Err(HttpError::new(HttpErrorKind::Interrupted, cut))
            }
            false => Ok(answer),
        }
    }
}

/// Whether a server asks to try again.
fn is_passing(status: StatusCode) -> bool {
    let asks = [StatusCode::REQUEST_TIMEOUT, StatusCode::TOO_MANY_REQUESTS];
    status.is_server_error() && status != StatusCode::NOT_IMPLEMENTED || asks.contains(&status)
}

/// A request without an answer. Wrong certificates and addresses stay wrong.
fn failed(error: &ureq::Error, host: String) -> HttpError {
    use ureq::Error::{BadUri, InvalidProxyUrl, RequireHttpsOnly, Rustls, Tls};
    let reason = error.to_string();
    match error {
        BadUri(_) | InvalidProxyUrl | RequireHttpsOnly(_) | Rustls(_) | Tls(_) => {
            let reason = std::io::Error::other(format!("{host}: {reason}"));
            HttpError::new(HttpErrorKind::Unknown, reason)
        }
        _ => HttpError::new(HttpErrorKind::Interrupted, Cut { host, reason }),
    }
}

impl fmt::Display for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, reason } = self;
        write!(f, "{host}: {reason}")?;
        match host == METADATA {
            true => f.write_str(" (asked for credentials, which the environment does not give)"),
            false => Ok(()),
        }
    }
}

impl error::Error for Cut {}
