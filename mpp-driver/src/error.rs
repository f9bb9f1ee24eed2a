//! Errors that say what to do about them.

use std::io;
use std::net::SocketAddr;

use mpp_proto::{Code, CommandError, DisconnectReason, RequestError};

/// What a program can do about an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Advice {
    /// Nothing is wrong for good: the same call may succeed later.
    Retry,
    /// Get a new ticket and give it with [`Client::renew`](crate::Client::renew).
    RenewTicket,
    /// The same call will never succeed: change what is asked for, or give up.
    GiveUp,
}

/// Why [`Client::connected`](crate::Client::connected) does not wait any longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The service does not take the ticket. The client goes on trying, rarely; a new ticket is tried at once.
    #[error("the service does not take the ticket (code {code}): get a new ticket")]
    RenewTicket {
        /// What the service said.
        code: Code,
    },
    /// The client is closed: by the application, or because another connection of the same device took its place.
    #[error("the client is closed: {}", describe(*.0))]
    Aborted(DisconnectReason),
}

impl ConnectError {
    /// What to do about it.
    pub const fn advice(&self) -> Advice {
        match self {
            Self::RenewTicket { .. } => Advice::RenewTicket,
            Self::Aborted(_) => Advice::GiveUp,
        }
    }
}

/// Why [`Client::subscribe`](crate::Client::subscribe) or [`Client::post`](crate::Client::post) failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CallError {
    /// Refused on this side, before anything was sent.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// Refused or not answered by the service.
    #[error(transparent)]
    Request(#[from] RequestError),
}

impl CallError {
    /// What to do about it.
    pub const fn advice(&self) -> Advice {
        match self {
            Self::Command(CommandError::TooManyRequests { .. }) => Advice::Retry,
            Self::Request(RequestError::TimedOut | RequestError::Refused { retry_after: Some(_), .. }) => {
                Advice::Retry
            }
            _ => Advice::GiveUp,
        }
    }
}

/// Why [`ClientBuilder::web_roots`](crate::ClientBuilder::web_roots) took nothing.
#[cfg(feature = "web-tls")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "that holds no certificate, or more than certificates: text in the PEM form or one in the DER form is needed"
)]
pub struct RootError;

/// Why [`Service::bind`](crate::Service::bind) failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BindError {
    /// Another socket has the port.
    #[error(
        "cannot listen on {address}: the port is in use; stop the process that has it, or choose another port"
    )]
    InUse {
        /// Where the service was to listen.
        address: SocketAddr,
    },
    /// The address is not one of this machine.
    #[error(
        "cannot listen on {address}: this machine does not have the address; use one that it has, or 0.0.0.0 or [::] for all"
    )]
    NotLocal {
        /// Where the service was to listen.
        address: SocketAddr,
    },
    /// The user may not have the port.
    #[error("cannot listen on {address}: permission denied; choose a port from 1024 on")]
    NotPermitted {
        /// Where the service was to listen.
        address: SocketAddr,
    },
    /// The machine has no IPv4 or no IPv6.
    #[error(
        "cannot listen on {address}: this machine does not have that kind of address (IPv4 or IPv6); leave it out"
    )]
    NoFamily {
        /// Where the service was to listen.
        address: SocketAddr,
    },
    /// Something else.
    #[error("cannot listen on {address}: {source}")]
    Io {
        /// Where the service was to listen.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The addresses could not be read or looked up.
    #[error("cannot find the address to listen on: {source}; write it like 0.0.0.0:15096 or [::]:15096")]
    Addresses {
        /// What the system said.
        source: io::Error,
    },
    /// No address was given, or more than 64.
    #[error("a service listens on 1 to 64 addresses, {count} were given")]
    Count {
        /// How many there were.
        count: usize,
    },
    /// [`ServiceConfig::shards`](mpp_proto::ServiceConfig::shards) is out of its range.
    #[error("a service has 1 to 256 shards, {shards} were asked for")]
    Shards {
        /// How many were asked for.
        shards: u16,
    },
    /// The system has no random bytes to give.
    #[error("the system gives no random bytes: {0}")]
    Random(String),
}

impl BindError {
    pub(crate) fn new(address: SocketAddr, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::AddrInUse => Self::InUse { address },
            io::ErrorKind::AddrNotAvailable => Self::NotLocal { address },
            io::ErrorKind::PermissionDenied => Self::NotPermitted { address },
            io::ErrorKind::Unsupported => Self::NoFamily { address },
            // std has no kind of its own for this one.
            #[cfg(any(target_os = "linux", target_os = "android"))]
            _ if source.raw_os_error() == Some(nix::libc::EAFNOSUPPORT) => Self::NoFamily { address },
            _ => Self::Io { address, source },
        }
    }

    /// What to do about it.
    pub const fn advice(&self) -> Advice {
        match self {
            Self::InUse { .. } | Self::Io { .. } | Self::Random(_) => Advice::Retry,
            _ => Advice::GiveUp,
        }
    }
}

/// A reason in words.
const fn describe(reason: DisconnectReason) -> &'static str {
    match reason {
        DisconnectReason::TimedOut => "nothing came back from the service",
        DisconnectReason::Reset => "the service was restarted",
        DisconnectReason::ByService(_) => "the service closed the connection",
        DisconnectReason::Refused(_) => "the service refused the connection",
        DisconnectReason::Superseded => "another connection of the same device took its place",
        DisconnectReason::ByApplication => "the application closed it",
        DisconnectReason::LinkLost => "the network is gone",
        _ => "the connection ended",
    }
}
