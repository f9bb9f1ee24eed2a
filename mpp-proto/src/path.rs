//! Where a packet came from and where one goes, as the caller's sockets see it.

use core::net::{IpAddr, SocketAddr};
use core::num::NonZeroU16;

use crate::ids::{NodeId, ShardId};

/// One way out of this machine: a UDP socket, or a Web client. The number is the index of the caller's socket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkId(pub u16);

impl LinkId {
    /// The requests that come to a service by Web (SPEC.md, "The Web Service transport"): its name for them in the paths
    /// of devices. No socket has this number.
    pub const WEB: Self = Self(u16::MAX);
}

/// One way between two hosts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Path {
    /// The socket on this side.
    pub link: LinkId,
    /// The other side's address.
    pub remote: SocketAddr,
    /// The address of this machine that the other side used, if the socket could tell. Answers leave from it.
    pub local: Option<IpAddr>,
}

impl Path {
    /// A path over `link` to `remote`, from whatever local address the system chooses.
    pub const fn new(link: LinkId, remote: SocketAddr) -> Self {
        Self { link, remote, local: None }
    }

    /// Whether it is that of a device whose requests come to this service by Web.
    pub const fn is_web(&self) -> bool {
        self.link.0 == LinkId::WEB.0
    }
}

/// One received UDP datagram. It is decrypted in place; unless the answer is [`Disposition::Accepted`] its bytes are
/// left as they were.
#[derive(Debug)]
pub struct Datagram<'a> {
    /// Where it came from.
    pub path: Path,
    /// The UDP payload.
    pub payload: &'a mut [u8],
}

/// What to send: the description of bytes written to the caller's buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transmit {
    /// Where to.
    pub path: Path,
    /// Bytes in all.
    pub len: usize,
    /// If set, the bytes are several packets of this size (the last may be shorter), for segmentation offload.
    pub segment_size: Option<NonZeroU16>,
}

/// What became of a received datagram.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Disposition {
    /// Authentic, or an answer to what this machine asked. The payload may have been overwritten.
    Accepted,
    /// Nothing of this protocol: foreign traffic on a shared socket. The payload is unchanged.
    NotForUs,
    /// For another shard of this service: hand it over to that one. The payload is unchanged.
    OtherShard(ShardId),
    /// For another node of the cluster, which has the same secret. The payload is unchanged.
    OtherNode(NodeId),
    /// Dropped and counted; nothing else happened. The payload is unchanged.
    Dropped(DropReason),
}

/// Why a datagram was dropped. Each reason has a counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum DropReason {
    /// Too short or too long to be anything.
    Size,
    /// A packet of a connection exchange whose clear part does not parse, or of an unknown type.
    Malformed,
    /// A first packet shorter than the 1200 bytes it has to have (amplification limit).
    Unpadded,
    /// A stream identifier that was not issued here.
    ForeignIdentifier,
    /// A stream identifier of a connection that is gone.
    StaleIdentifier,
    /// The authentication failed.
    Unauthentic,
    /// A version or ticket key this service does not have.
    UnknownKey,
    /// Over a limit; the sender may have been told to wait.
    RateLimited,
    /// The table of connections or the queue of answers is full.
    Capacity,
    /// The machine is closed.
    Closed,
    /// It came by another transport than it says it was sent by: a copy that somebody carried there.
    OtherTransport,
}

impl DropReason {
    /// The number of reasons, for tables of counters.
    pub const COUNT: usize = 11;

    /// Every reason, in the order of their counters.
    pub const ALL: [Self; Self::COUNT] = [
        Self::Size,
        Self::Malformed,
        Self::Unpadded,
        Self::ForeignIdentifier,
        Self::StaleIdentifier,
        Self::Unauthentic,
        Self::UnknownKey,
        Self::RateLimited,
        Self::Capacity,
        Self::Closed,
        Self::OtherTransport,
    ];
}
