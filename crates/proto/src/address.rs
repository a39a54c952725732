//! A host and a port, as configurations and servers write them.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use thiserror::Error;

/// A host and a port. The host is a name or an address, not resolved, and without the brackets that IPv6
/// addresses have in text.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostPort {
    /// The name or address.
    pub host: String,
    /// The port.
    pub port: u16,
}

/// Text that is no `host:port`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("host:port, with an IPv6 address in brackets")]
pub struct NotHostPort;

impl HostPort {
    /// A host and a port.
    #[must_use]
    pub fn new(host: impl Into<String>, port: u16) -> HostPort {
        HostPort { host: host.into(), port }
    }

    /// Whether it means every address of a host, and so none to dial.
    #[must_use]
    pub fn is_wildcard(&self) -> bool {
        self.host.parse::<IpAddr>().is_ok_and(|ip| ip.is_unspecified())
    }

    /// Whether it never leaves its host.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        self.host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback()) || self.host == "localhost"
    }
}

/// Writes a host as text, in brackets if it holds a colon.
pub(crate) fn write_host(f: &mut fmt::Formatter<'_>, host: &str) -> fmt::Result {
    if host.contains(':') { write!(f, "[{host}]") } else { f.write_str(host) }
}

/// Splits the host from what follows its colon. `None` where there is no host or nothing after it.
pub(crate) fn split_host(text: &str) -> Option<(&str, &str)> {
    let (host, rest) = match text.strip_prefix('[') {
        Some(inner) => {
            let (host, rest) = inner.split_once(']')?;
            (host, rest.strip_prefix(':')?)
        }
        None => text.split_once(':')?,
    };
    let is_name = |c: char| !c.is_whitespace() && !c.is_control() && !"[]|;=".contains(c);
    (!host.is_empty() && host.chars().all(is_name)).then_some((host, rest))
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_host(f, &self.host)?;
        write!(f, ":{}", self.port)
    }
}

impl FromStr for HostPort {
    type Err = NotHostPort;

    fn from_str(text: &str) -> Result<HostPort, NotHostPort> {
        let (host, port) = split_host(text).ok_or(NotHostPort)?;
        let port = parse_port(port).ok_or(NotHostPort)?;
        Ok(HostPort::new(host, port))
    }
}

/// A port in decimal digits, as Java's `Integer.parseInt` takes it but without a sign.
pub(crate) fn parse_port(text: &str) -> Option<u16> {
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_with_colons_stand_in_brackets() {
        for text in ["a:1", "127.0.0.1:2181", "[::1]:65535", "zk-1.example.org:0"] {
            assert_eq!(text.parse::<HostPort>().unwrap().to_string(), text);
        }
        for text in
            ["", "a", ":1", "a:", "a:-1", "a:+1", "a:65536", "::1:5", "[::1]", "[::1]5", "a b:1", "[]:1"]
        {
            assert_eq!(text.parse::<HostPort>(), Err(NotHostPort), "{text}");
        }
    }

    #[test]
    fn wildcards_and_loopbacks_are_known() {
        assert!(HostPort::new("0.0.0.0", 1).is_wildcard() && HostPort::new("::", 1).is_wildcard());
        assert!(HostPort::new("127.0.0.2", 1).is_loopback() && HostPort::new("localhost", 1).is_loopback());
        assert!(!HostPort::new("10.0.0.1", 1).is_loopback() && !HostPort::new("a", 1).is_wildcard());
    }
}
