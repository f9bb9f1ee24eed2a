//! What a device tells its host.

use alloc::string::String;
use core::fmt;
use core::net::SocketAddr;
use core::time::Duration;

use super::report::MappingProgress;
use super::transport::Transport;
use crate::ids::{RequestId, Serial, StoreSet};
use crate::keepalive::IntervalReason;
use crate::path::LinkId;
use crate::time::{Instant, UnixTime};
use crate::wire::{Code, MAX_ACCOUNT};

/// The state of a device's connection (SPEC.md, "Connection states").
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ConnectionState {
    /// Trying to connect, or waiting to try again.
    Connecting,
    /// Connected, and the service answers.
    Connected,
    /// Connected, and a heartbeat is overdue.
    Unacknowledged,
    /// Closed for good: by [`Device::close`](super::Device::close), or because another connection of the same
    /// device took its place.
    Aborted,
}

/// Which addresses a link can reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

/// What a link is for: what the host has to open for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum LinkKind {
    /// A UDP socket for the packets of connections.
    Udp(Family),
    /// A UDP socket with a port of its own, over which nothing else goes: on it the device finds out how long the
    /// network remembers a socket that is silent (SPEC.md, "Learned keepalive"). A host that answers
    /// [`LinkState::Failed`] does without, and keeps the shortest interval.
    Probe(Family),
    /// A UDP socket with a port of its own, for the time in which it is asked over it how the service sees it
    /// ([`Device::query_endpoint_at`](super::Device::query_endpoint_at)).
    Asking(Family),
    /// A client for the Web Service transport: the requests of [`Device::poll_web`](super::Device::poll_web) are made
    /// with it. A host that answers [`LinkState::Failed`] has none, and is not asked again before the network changes.
    Web,
}

impl LinkKind {
    /// The family of the UDP socket; none: it is none.
    pub const fn family(self) -> Option<Family> {
        match self {
            Self::Udp(family) | Self::Probe(family) | Self::Asking(family) => Some(family),
            Self::Web => None,
        }
    }
}

/// The name of a question to the host's resolver.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ResolveId(pub u32);

/// The state of a link, as the host tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkState {
    /// The socket is open.
    Open {
        /// The address it is bound to; of a Web client any.
        local: SocketAddr,
    },
    /// There is no such socket: it could not be opened, or it is gone.
    Failed,
}

/// What [`Device::poll_event`](super::Device::poll_event) returns.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DeviceEvent {
    /// Open a link of this kind, and answer with [`Device::handle_link`](super::Device::handle_link), also for a kind
    /// that the host does not know or has no use for: [`LinkState::Failed`].
    OpenLink {
        /// The link's number.
        link: LinkId,
        /// What it is for.
        kind: LinkKind,
    },
    /// Close this link: the device does not use it any more.
    CloseLink(LinkId),
    /// Look this name up and answer with [`Device::handle_resolved`](super::Device::handle_resolved).
    Resolve {
        /// The question's number.
        id: ResolveId,
        /// The host name.
        host: String,
        /// The port that the addresses will get.
        port: u16,
    },
    /// Connected.
    Connected(Connected),
    /// A new connection has taken the place of the one before, which went on until then: the keys are new, and nothing
    /// was interrupted.
    KeysRenewed(Connected),
    /// Not connected any more; the device tries again by itself.
    Disconnected {
        /// Why.
        reason: DisconnectReason,
        /// When the next attempt is due.
        retry_at: Instant,
    },
    /// An attempt to connect failed; the device tries again by itself.
    AttemptFailed {
        /// When the next attempt is due.
        retry_at: Instant,
    },
    /// Somebody answered an attempt with an error that proves nothing: it may come from the service or from anybody on
    /// the way. For people to read; it changes nothing.
    Hint {
        /// What it said.
        code: Code,
        /// Where it came from.
        from: SocketAddr,
    },
    /// The service does not take the ticket any more. The device goes on trying, rarely; a new ticket given with
    /// [`Device::renew`](super::Device::renew) is tried at once.
    RenewTicket {
        /// What the service said.
        code: Code,
    },
    /// The service has given the device a new ticket, which is used from now on: [`Device::ticket`](super::Device::ticket)
    /// and [`Resume`](super::Resume) hold it.
    TicketRenewed {
        /// When it ends, by the service's clock.
        expiry: UnixTime,
    },
    /// The state changed.
    State(ConnectionState),
    /// The connection goes by this transport from now on. At the start it is UDP.
    Transport(Transport),
    /// The address from which the service sees this device changed.
    ObservedEndpoint(SocketAddr),
    /// The time between heartbeats, or the reason for it, changed.
    Interval {
        /// The time.
        interval: Duration,
        /// The reason.
        reason: IntervalReason,
    },
    /// Something was found out, or is about to be, about how long the network remembers a silent socket.
    Mapping(MappingProgress),
    /// The filter is in force. Stores whose events may have been missed before are announced as a gap.
    Subscribed {
        /// Which request.
        request: RequestId,
        /// The newest serial of the channel.
        newest: Serial,
    },
    /// The event was taken.
    Posted {
        /// Which request.
        request: RequestId,
        /// Its serial, if it went to the own channel.
        serial: Option<Serial>,
    },
    /// The answer to [`Device::query_endpoint`](super::Device::query_endpoint) or
    /// [`Device::query_endpoint_at`](super::Device::query_endpoint_at).
    Endpoint {
        /// Which request.
        request: RequestId,
        /// The address from which the service saw it come.
        endpoint: SocketAddr,
    },
    /// A request failed.
    Failed {
        /// Which request.
        request: RequestId,
        /// Why.
        error: RequestError,
    },
    /// Closed for good; nothing follows.
    Aborted(DisconnectReason),
}

/// The facts of a new connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Connected {
    /// Whether everything since the last position will come: `lost` is empty.
    pub recovered: bool,
    /// The stores of which events were lost: read the stores themselves.
    pub lost: StoreSet,
    /// The newest serial of the channel.
    pub newest: Serial,
    /// The address of the service; none by Web, where only the host's Web client knows it.
    pub service: Option<SocketAddr>,
    /// The address from which the service sees this device; none by Web, where it may be that of a proxy.
    pub observed: Option<SocketAddr>,
    /// Whether the keys hold an X25519 result, so that the ticket alone opens no recording.
    pub forward_secret: bool,
    /// How long the exchange took, from the first packet of this attempt.
    pub took: Duration,
}

/// Why a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DisconnectReason {
    /// Nothing came back for too long.
    TimedOut,
    /// The service does not know the connection any more: it was restarted.
    Reset,
    /// The service closed it.
    ByService(Code),
    /// The service's answer to the attempt was an authentic error.
    Refused(Code),
    /// Another connection of the same device took its place.
    Superseded,
    /// The application closed it.
    ByApplication,
    /// The host said that the network or the link is gone.
    LinkLost,
    /// The service sent what the protocol does not allow.
    ProtocolError,
}

/// Why a request failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// The service refused it.
    #[error("the service refused the request: {code}")]
    Refused {
        /// Its code.
        code: Code,
        /// When to try again, if it said so.
        retry_after: Option<Duration>,
    },
    /// No answer; whether it took effect is unknown. A post may be repeated under the same post id.
    #[error("no answer to the request in time")]
    TimedOut,
    /// The host has no UDP socket of this family to ask over.
    #[error("this machine has no {family} socket")]
    NoSocket {
        /// The family.
        family: Family,
    },
    /// The device was closed.
    #[error("the device was closed")]
    Closed,
}

/// Why a command was refused at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CommandError {
    /// The message does not fit the one packet that a device may send.
    #[error(
        "the message has {size} bytes, a device's message is one packet of at most {limit} bytes: post it at the service, or send a reference"
    )]
    TooLarge {
        /// Its size in bytes.
        size: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// The account has no name, or one that is too long.
    #[error("the account's name has {size} bytes, it must have 1 to {MAX_ACCOUNT}")]
    Account {
        /// Its size in bytes.
        size: usize,
    },
    /// The event breaks a limit of its own.
    #[error(transparent)]
    Event(#[from] crate::channel::EventError),
    /// Too many requests wait for their answers.
    #[error("{limit} requests wait for their answers already: wait for one of them")]
    TooManyRequests {
        /// The limit.
        limit: usize,
    },
    /// The device was closed: make a new one.
    #[error("the device was closed")]
    Closed,
}
