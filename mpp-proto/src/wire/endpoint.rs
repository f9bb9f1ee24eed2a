//! Where a service can be reached: as text for people, and on the wire (SPEC.md, "Endpoints").

use alloc::borrow::ToOwned;
use alloc::string::String;
use core::fmt;
use core::net::{IpAddr, SocketAddr};
use core::str::FromStr;

use super::ext::{put_item, put_item_head};
use super::{DEFAULT_PORT, Malformed, Parsed, Reader, Sink};

/// The longest host name, in bytes.
const MAX_NAME: usize = 252;
const FAMILY_NAME: u8 = 0;
const FAMILY_V4: u8 = 4;
const FAMILY_V6: u8 = 6;

/// Where a service can be reached.
///
/// As text `192.0.2.1:15096`, `[2001:db8::1]:15096` or `presence.example.com:15096`; without a port, 15096 is meant.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Endpoint {
    /// An address and a UDP port.
    Address(SocketAddr),
    /// A host name, to be resolved by the device, and a UDP port.
    Name {
        /// 1 to 252 ASCII letters, digits, `-`, `_` and `.`.
        host: String,
        /// Not 0.
        port: u16,
    },
}

/// A text, or an [`Endpoint`] put together by hand, that does not say where a service is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EndpointError {
    /// No host name and no address.
    #[error(
        "`{0}` is neither an address nor a host name: write 192.0.2.1:15096, [2001:db8::1]:15096 or host.example:15096"
    )]
    Host(String),
    /// The port is not a number from 1 to 65535.
    #[error("`{0}` has a port that is not a number from 1 to 65535")]
    Port(String),
    /// An address that only means something on one machine.
    #[error(
        "`{0}` names a network interface, which means nothing to another machine: leave out the part after `%`"
    )]
    Zone(String),
}

impl Endpoint {
    /// The UDP port.
    pub const fn port(&self) -> u16 {
        match self {
            Self::Address(address) => address.port(),
            Self::Name { port, .. } => *port,
        }
    }

    /// Whether it can stand in a ticket.
    pub(super) fn check(&self) -> Result<(), EndpointError> {
        use alloc::string::ToString;
        match self {
            _ if self.port() == 0 => Err(EndpointError::Port(self.to_string())),
            Self::Address(SocketAddr::V6(v6)) if v6.scope_id() != 0 => {
                Err(EndpointError::Zone(self.to_string()))
            }
            Self::Name { host, .. } if !is_name(host) => Err(EndpointError::Host(host.clone())),
            _ => Ok(()),
        }
    }

    /// Writes it as the value of an item: R23's form for an address; for a name 0, the port, the name.
    pub(super) fn emit_item<S: Sink>(&self, sink: &mut S, tag: u8) {
        match self {
            Self::Address(address) => put_address_item(sink, tag, *address),
            Self::Name { host, port } => {
                put_item_head(sink, tag, host.len().saturating_add(3));
                sink.put(&[FAMILY_NAME]);
                sink.put(&port.to_be_bytes());
                sink.put(host.as_bytes());
            }
        }
    }

    /// Reads the value of an item.
    pub(super) fn parse_value(value: &[u8]) -> Parsed<Self> {
        let mut r = Reader::new(value);
        let endpoint = if r.u8()? == FAMILY_NAME {
            let port = r.u16()?;
            let host = core::str::from_utf8(r.rest()).map_err(|_| Malformed)?;
            Self::Name { host: host.to_owned(), port }
        } else {
            Self::Address(read_address(value)?)
        };
        endpoint.check().map_err(|_| Malformed)?;
        Ok(endpoint)
    }
}

/// Letters, digits, `-`, `_` and `.`, with something between the dots, and not the look of an IPv4 address.
fn is_name(host: &str) -> bool {
    let labels = || host.strip_suffix('.').unwrap_or(host).split('.');
    let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    (1..=MAX_NAME).contains(&host.len())
        && labels().all(|label| !label.is_empty() && label.bytes().all(plain))
        && labels().next_back().is_some_and(|last| !last.bytes().all(|b| b.is_ascii_digit()))
}

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, EndpointError> {
        let endpoint = if let Ok(address) = text.parse::<SocketAddr>() {
            Self::Address(address)
        } else if let Ok(ip) = unbracketed(text).parse::<IpAddr>() {
            Self::Address(SocketAddr::new(ip, DEFAULT_PORT))
        } else {
            let (host, port) = match text.split_once(':') {
                // With a slash it is a URL, and its colon is not that of a port.
                Some((host, _)) if !is_name(host) || text.contains('/') => {
                    return Err(EndpointError::Host(text.to_owned()));
                }
                Some((host, port)) => {
                    (host, parse_port(port).ok_or_else(|| EndpointError::Port(text.to_owned()))?)
                }
                None => (text, DEFAULT_PORT),
            };
            Self::Name { host: host.to_owned(), port }
        };
        endpoint.check()?;
        Ok(endpoint)
    }
}

fn parse_port(port: &str) -> Option<u16> {
    // u16's own parser takes a sign.
    if port.bytes().all(|b| b.is_ascii_digit()) { port.parse().ok() } else { None }
}

fn unbracketed(text: &str) -> &str {
    text.strip_prefix('[').and_then(|t| t.strip_suffix(']')).unwrap_or(text)
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Name { host, port } => write!(f, "{host}:{port}"),
        }
    }
}

impl From<SocketAddr> for Endpoint {
    fn from(address: SocketAddr) -> Self {
        Self::Address(address)
    }
}

/// Writes an item with an address in R23's form: `family || address || port`.
pub(super) fn put_address_item<S: Sink>(sink: &mut S, tag: u8, address: SocketAddr) {
    let [p0, p1] = address.port().to_be_bytes();
    match address.ip() {
        IpAddr::V4(ip) => {
            let [a, b, c, d] = ip.octets();
            put_item(sink, tag, &[FAMILY_V4, a, b, c, d, p0, p1]);
        }
        IpAddr::V6(ip) => {
            put_item_head(sink, tag, 19);
            sink.put(&[FAMILY_V6]);
            sink.put(&ip.octets());
            sink.put(&[p0, p1]);
        }
    }
}

/// Reads an address in R23's form.
pub(super) fn read_address(value: &[u8]) -> Parsed<SocketAddr> {
    let mut r = Reader::new(value);
    let ip = match r.u8()? {
        FAMILY_V4 => IpAddr::from(r.array::<4>()?),
        FAMILY_V6 => IpAddr::from(r.array::<16>()?),
        _ => return Err(Malformed),
    };
    let port = r.u16()?;
    r.end()?;
    Ok(SocketAddr::new(ip, port))
}
