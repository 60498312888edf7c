//! Requests, which follow redirects and go through the proxy of each address.

use ureq::{
    Body, Proxy,
    http::{Response, Uri},
};

use super::{
    Hub,
    client::{Failure, failed},
    redirect::{self, MAX_REDIRECTS},
};
use crate::error::Error;

/// A request for the bytes at an address.
pub(super) struct Request<'a> {
    pub(super) url: &'a str,
    /// The first byte.
    pub(super) offset: u64,
    /// Sent to the host of the address, and to no other that it redirects to.
    pub(super) token: Option<&'a str>,
    /// What to name in errors: the host, and what is requested of it.
    pub(super) host: &'a str,
    pub(super) what: &'a str,
}

impl Hub {
    /// Sends a request, and again to where it is redirected.
    pub(super) fn follow(&self, request: &Request) -> Result<Response<Body>, Failure> {
        let fault = |reason: String| Error::hub(request.what, reason);
        let first = request.url.parse::<Uri>();
        let first = first.map_err(|error| fault(format!("{}: {error}", request.url)))?;
        let (mut url, mut token) = (first.clone(), request.token);
        for _ in 0..=MAX_REDIRECTS {
            let answer = self.send(&url, token, request)?;
            let Some(next) = redirect::target(&url, &answer).map_err(fault)? else {
                return Ok(answer);
            };
            token = token.filter(|_| redirect::is_same_origin(&first, &next));
            url = next;
        }
        let reason = format!("{} redirects more than {MAX_REDIRECTS} times", request.host);
        Err(fault(reason).into())
    }

    fn send(
        &self,
        url: &Uri,
        token: Option<&str>,
        request: &Request,
    ) -> Result<Response<Body>, Failure> {
        let fault = |reason: String| Error::hub(request.what, reason);
        let proxy = self.proxies.of(url).map_err(fault)?;
        let via = proxy.as_ref().map(address);
        let config = self.agent.get(url).config().proxy(proxy);
        let mut sent = config.build().header("accept-encoding", "identity");
        if let Some(token) = token {
            sent = sent.header("authorization", format!("Bearer {token}"));
        }
        if request.offset > 0 {
            sent = sent.header("range", format!("bytes={}-", request.offset));
        }
        sent.call().map_err(|error| {
            let host = match via {
                Some(proxy) => format!("{} by the proxy {proxy}", request.host),
                None => request.host.to_owned(),
            };
            failed(&error, &host, request.what)
        })
    }
}

/// A proxy without its password.
fn address(proxy: &Proxy) -> String {
    format!("{}:{}", proxy.host(), proxy.port())
}
