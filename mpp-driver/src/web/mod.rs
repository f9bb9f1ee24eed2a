//! The Web Service transport (SPEC.md, "The Web Service transport"): a device's requests where UDP does not pass, and the handler that answers them.

mod base;
mod body;
mod client;
mod respond;
mod stream;
mod tcp;
#[cfg(all(test, feature = "web-tls"))]
mod tests;
#[cfg(feature = "web-tls")]
mod tls;

pub use body::WebBody;
pub(crate) use client::{Means, WebClient};
pub use respond::WebReply;
pub(crate) use respond::respond;
#[cfg(feature = "conformance")]
pub(crate) use stream::Stream;
#[cfg(feature = "conformance")]
pub(crate) use tcp::Tcp;
#[cfg(feature = "web-tls")]
pub(crate) use tls::Trust;

/// Where a service answers, below the base URL.
pub(crate) const PATH: &str = "/.well-known/mmmpresence";
/// The kind of both bodies.
const OCTETS: &str = "application/octet-stream";
/// The longest body of a request: one packet.
pub(crate) const MAX_PACKET: usize = 1452;
/// The longest answer: 16 packets, each with its length in front.
const MAX_ANSWER: usize = 16 * (2 + 1452);
