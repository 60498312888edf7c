//! Redirects: where they lead, and who may see the token.

use percent_encoding::{AsciiSet, CONTROLS, percent_encode};
use ureq::{
    Body,
    http::{Response, Uri},
};

/// Most redirects of a request.
pub(super) const MAX_REDIRECTS: usize = 10;

/// What no address contains.
const FOREIGN: &AsciiSet = &CONTROLS.add(b' ').add(b'"').add(b'<').add(b'>').add(b'`');

/// The address to which a response redirects, if it does; the error is an address that
/// cannot be used.
pub(super) fn target(base: &Uri, answer: &Response<Body>) -> Result<Option<Uri>, String> {
    if !matches!(answer.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
        return Ok(None);
    }
    let Some(location) = answer.headers().get("location") else {
        return Ok(None);
    };
    let location = percent_encode(location.as_bytes(), FOREIGN).to_string();
    match joined(base, &location) {
        Some(url) => Ok(Some(url)),
        None => Err(format!("it redirects to {location:?}, which is no address")),
    }
}

/// An address relative to another one.
fn joined(base: &Uri, location: &str) -> Option<Uri> {
    let location = location.split('#').next().unwrap_or_default();
    let (scheme, authority) = (base.scheme_str()?, base.authority()?);
    let whole = match location {
        _ if is_absolute(location) => location.to_owned(),
        _ if location.starts_with("//") => format!("{scheme}:{location}"),
        _ if location.starts_with('/') => format!("{scheme}://{authority}{location}"),
        _ if location.starts_with('?') => {
            format!("{scheme}://{authority}{}{location}", base.path())
        }
        _ => {
            let (folder, _) = base.path().rsplit_once('/')?;
            format!("{scheme}://{authority}{folder}/{location}")
        }
    };
    let url: Uri = whole.parse().ok()?;
    let is_web = matches!(url.scheme_str(), Some("http" | "https"));
    (is_web && url.host().is_some_and(|host| !host.is_empty())).then_some(url)
}

/// Whether a reference begins with a scheme.
fn is_absolute(location: &str) -> bool {
    let scheme = location.split_once(':').map(|(scheme, _)| scheme);
    scheme.is_some_and(|scheme| {
        let fits = |c: u8| c.is_ascii_alphanumeric() || b"+-.".contains(&c);
        !scheme.is_empty() && scheme.bytes().all(fits)
    })
}

/// Whether two addresses have the same scheme, host and port, so that both may see the
/// token.
pub(super) fn is_same_origin(one: &Uri, other: &Uri) -> bool {
    let port = |url: &Uri| match (url.port_u16(), url.scheme_str()) {
        (None, Some("https")) => Some(443),
        (None, _) => Some(80),
        (port, _) => port,
    };
    let host = |url: &Uri| url.host().map(str::to_ascii_lowercase);
    one.scheme() == other.scheme() && host(one) == host(other) && port(one) == port(other)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uri(text: &str) -> Uri {
        text.parse().unwrap()
    }

    /// By Python's `urllib.parse.urljoin`.
    #[test]
    fn references_are_resolved() {
        let base = uri("https://hub.org:81/a/b?x=1");
        for (location, whole) in [
            ("https://cdn.org/c?d=e", "https://cdn.org/c?d=e"),
            ("HTTP://cdn.org/c", "http://cdn.org/c"),
            ("//cdn.org/c", "https://cdn.org/c"),
            ("/c/d", "https://hub.org:81/c/d"),
            ("c", "https://hub.org:81/a/c"),
            ("?y=2", "https://hub.org:81/a/b?y=2"),
            ("/c#part", "https://hub.org:81/c"),
        ] {
            assert_eq!(joined(&base, location), Some(uri(whole)), "{location}");
        }
        for location in [
            "ftp://hub.org/c",
            "file:///etc/passwd",
            "https://",
            "https:// /",
        ] {
            assert_eq!(joined(&base, location), None, "{location}");
        }
    }

    #[test]
    fn the_token_is_for_one_origin() {
        let hub = uri("https://hub.org/a");
        for same in [
            "https://hub.org/b",
            "https://HUB.org:443/",
            "https://hub.org",
        ] {
            assert!(is_same_origin(&hub, &uri(same)), "{same}");
        }
        for other in [
            "http://hub.org/a",
            "https://hub.org:444/a",
            "https://cdn.hub.org/a",
        ] {
            assert!(!is_same_origin(&hub, &uri(other)), "{other}");
        }
    }
}
