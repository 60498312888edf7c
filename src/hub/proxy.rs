//! Proxies named by the environment, by curl's rules
//! (<https://curl.se/docs/manpage.html#ENVIRONMENT>).
//!
//! `HTTPS_PROXY` is for `https://` addresses, `HTTP_PROXY` for `http://` ones, `ALL_PROXY`
//! for those without a variable of their own. The lower-case name comes first; an empty
//! value means none. `NO_PROXY` lists hosts that are reached without a proxy.

use std::{env, net::IpAddr};

use ureq::{Proxy, ProxyProtocol, http::Uri};

/// The proxies, and the hosts that need none.
#[derive(Clone, Debug, Default)]
pub(super) struct Proxies {
    http: Option<Variable>,
    https: Option<Variable>,
    exempt: Vec<Exempt>,
}

/// An environment variable with its value.
#[derive(Clone, Debug)]
struct Variable {
    name: String,
    value: String,
}

/// An entry of `NO_PROXY`.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Exempt {
    /// `*`
    All,
    /// A host and all below it; with a port, that one only.
    Host(String, Option<u16>),
    /// Addresses with these first bits, as `10.0.0.0/8`.
    Network(IpAddr, u32),
}

impl Proxies {
    pub(super) fn from_env() -> Self {
        Self::new(&|name| env::var_os(name).map(|value| value.to_string_lossy().into_owned()))
    }

    fn new(get: &dyn Fn(&str) -> Option<String>) -> Self {
        let first = |names: [&str; 2]| {
            let both = names
                .iter()
                .flat_map(|name| [name.to_lowercase(), (*name).into()]);
            let mut set = both.filter_map(|name| Some((get(&name)?, name)));
            let (value, name) = set.next()?;
            let value = value.trim().to_owned();
            (!value.is_empty()).then_some(Variable { name, value })
        };
        let exempt = first(["NO_PROXY", "NO_PROXY"]).map(|list| exempt(&list.value));
        Self {
            http: first(["HTTP_PROXY", "ALL_PROXY"]),
            https: first(["HTTPS_PROXY", "ALL_PROXY"]),
            exempt: exempt.unwrap_or_default(),
        }
    }

    /// The proxy for an address; the error is the name of a variable whose value cannot be
    /// used, and why.
    pub(super) fn of(&self, url: &Uri) -> Result<Option<Proxy>, String> {
        let (variable, port) = match url.scheme_str() {
            Some("https") => (&self.https, 443),
            _ => (&self.http, 80),
        };
        let host = url.host().unwrap_or_default();
        let port = url.port_u16().unwrap_or(port);
        match variable {
            Some(variable) if !self.exempt.iter().any(|it| it.holds(host, port)) => {
                variable.proxy().map(Some)
            }
            _ => Ok(None),
        }
    }
}

impl Variable {
    fn proxy(&self) -> Result<Proxy, String> {
        let scheme = self.value.split_once("://").map(|(scheme, _)| scheme);
        let reason = match (scheme, Proxy::new(&self.value)) {
            (_, Ok(proxy)) if is_http(&proxy) && is_place(&proxy) => return Ok(proxy),
            (Some(scheme), _) if !["http", "https"].contains(&&*scheme.to_lowercase()) => {
                format!("{scheme:?} proxies are not supported, only http:// and https:// ones")
            }
            _ => "it is not the address of a proxy, as http://host:3128".into(),
        };
        Err(format!(
            "the environment variable {}: {reason}; correct it, unset it, or list the host in NO_PROXY",
            self.name
        ))
    }
}

fn is_http(proxy: &Proxy) -> bool {
    matches!(proxy.protocol(), ProxyProtocol::Http | ProxyProtocol::Https)
}

/// Whether a proxy has a host, and a port that exists if any.
fn is_place(proxy: &Proxy) -> bool {
    let authority = proxy.uri().authority().map_or("", |it| it.as_str());
    let place = authority.rsplit('@').next().unwrap_or_default();
    let port = place.strip_prefix(proxy.host());
    let port = port.and_then(|port| match port.strip_prefix(':') {
        Some(port) => port.parse().ok(),
        None => Some(proxy.port()),
    });
    !proxy.host().is_empty() && port.is_some_and(|port: u16| port > 0)
}

/// The entries of a list, separated by commas or blanks.
fn exempt(list: &str) -> Vec<Exempt> {
    let entries = list.split(|c: char| c == ',' || c.is_whitespace());
    let entries = entries.filter(|entry| !entry.is_empty());
    entries.map(Exempt::parse).collect()
}

impl Exempt {
    fn parse(entry: &str) -> Self {
        if entry == "*" {
            return Self::All;
        }
        if let Some((address, bits)) = entry.split_once('/')
            && let (Ok(address), Ok(bits)) = (address.parse(), bits.parse())
        {
            return Self::Network(address, bits);
        }
        let (host, port) = match entry.rsplit_once(':') {
            // The colons of IPv6 are no ports, unless it is in brackets.
            Some((host, port)) if !host.contains(':') || host.ends_with(']') => port
                .parse()
                .map_or((entry, None), |port| (host, Some(port))),
            _ => (entry, None),
        };
        let host = host.strip_prefix('*').unwrap_or(host);
        Self::Host(plain(host.trim_start_matches('.')), port)
    }

    fn holds(&self, host: &str, port: u16) -> bool {
        let host = plain(host);
        match self {
            Self::All => true,
            Self::Host(..) if matches!(self, Self::Host(_, Some(own)) if *own != port) => false,
            Self::Host(own, _) => host.strip_suffix(own.as_str()).is_some_and(|before| {
                !own.is_empty() && (before.is_empty() || before.ends_with('.'))
            }),
            Self::Network(own, bits) => host.parse().is_ok_and(|host| is_in(*own, *bits, host)),
        }
    }
}

/// A host in lower case, without brackets and a final dot.
fn plain(host: &str) -> String {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host.trim_end_matches('.').to_lowercase()
}

/// Whether the first bits of two addresses are the same.
fn is_in(network: IpAddr, bits: u32, host: IpAddr) -> bool {
    let (network, host, width) = match (network, host) {
        (IpAddr::V4(network), IpAddr::V4(host)) => (
            u128::from(network.to_bits()),
            u128::from(host.to_bits()),
            32,
        ),
        (IpAddr::V6(network), IpAddr::V6(host)) => (network.to_bits(), host.to_bits(), 128),
        _ => return false,
    };
    let rest = u32::checked_sub(width, bits);
    rest.is_some_and(|rest| (network ^ host).checked_shr(rest).unwrap_or(0) == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The proxies of variables written as `NAME=value`.
    fn proxies(variables: &[&str]) -> Proxies {
        Proxies::new(&|name| {
            let mut pairs = variables.iter().filter_map(|pair| pair.split_once('='));
            Some(pairs.find(|(key, _)| *key == name)?.1.to_owned())
        })
    }

    /// Host and port of the proxy for an address, `-` for none.
    fn of(variables: &[&str], url: &str) -> String {
        let proxy = proxies(variables).of(&url.parse().unwrap()).unwrap();
        proxy.map_or("-".into(), |proxy| {
            format!("{}:{}", proxy.host(), proxy.port())
        })
    }

    #[test]
    fn each_scheme_has_its_variable() {
        let both = ["HTTPS_PROXY=http://s:1", "HTTP_PROXY=p:2"];
        assert_eq!(of(&both, "https://hub"), "s:1");
        assert_eq!(of(&both, "http://hub"), "p:2");
        assert_eq!(of(&both[..1], "http://hub"), "-");
        assert_eq!(of(&["all_proxy=a:3", both[0]], "http://hub"), "a:3");
        assert_eq!(of(&["https_proxy=l:4", both[0]], "https://hub"), "l:4");
        assert_eq!(of(&["HTTPS_PROXY= ", "ALL_PROXY=a:3"], "https://hub"), "-");
        assert_eq!(of(&["HTTP_PROXY=http://u:p%40@h"], "http://hub"), "h:80");
    }

    #[test]
    fn hosts_are_left_out_as_curl_does() {
        let via = |list: &str, url| of(&["ALL_PROXY=p:1", &format!("no_proxy={list}")], url);
        for list in [
            "hub.org",
            " a , hub.org",
            "a hub.org",
            ".hub.org",
            "*.hub.org",
            "org",
            "*",
            "HUB.ORG",
            "hub.org.",
            "hub.org:443",
        ] {
            assert_eq!(via(list, "https://hub.org/x"), "-", "{list}");
        }
        assert_eq!(via("hub.org", "https://cdn.hub.org"), "-");
        for list in [
            "",
            ",",
            "ub.org",
            "hub.or",
            "cdn.hub.org",
            "hub.org:80",
            "127.0.0.0/8",
        ] {
            assert_eq!(via(list, "https://hub.org"), "p:1", "{list}");
        }
        for list in ["127.0.0.1", "127.0.0.0/8", "127.0.0.1:81", "0.0.0.0/0"] {
            assert_eq!(via(list, "http://127.0.0.1:81"), "-", "{list}");
        }
        assert_eq!(via("127.0.0.1:80", "http://127.0.0.1:81"), "p:1");
        assert_eq!(via("128.0.0.0/8,::/0", "http://127.0.0.1"), "p:1");
        for list in ["::1", "[::1]", "[::1]:81", "::/64"] {
            assert_eq!(via(list, "http://[::1]:81"), "-", "{list}");
        }
    }

    #[test]
    fn a_proxy_that_cannot_be_used_is_named() {
        for (value, word) in [
            ("socks5://h:1", "socks5"),
            ("SOCKS5h://h:1", "SOCKS5h"),
            ("ftp://h", "ftp"),
            ("http://", "not the address"),
            ("http://h:99999", "not the address"),
            ("a b", "not the address"),
        ] {
            let proxies = proxies(&[&format!("ALL_PROXY={value}")]);
            let error = proxies.of(&"https://hub".parse().unwrap()).unwrap_err();
            assert!(
                error.contains("ALL_PROXY") && error.contains(word),
                "{value}: {error}"
            );
        }
    }
}
