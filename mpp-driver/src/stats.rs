//! Counters of sockets, and what a client and a service report.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};

use mpp_proto::DeviceStats;

use crate::socket::drops;

/// What happened at the sockets of a client or a service since it started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SocketStats {
    /// Packets handed to the system.
    pub sent: u64,
    /// Calls to the system that sent them.
    pub send_calls: u64,
    /// Packets that the system refused to send (no route, too large for the path, no permission); they count as lost
    /// on the way.
    pub send_errors: u64,
    /// Times that the system had no room for a packet, which then waited.
    pub send_blocked: u64,
    /// Times that the system or the network card refused segmentation offload, which then stayed off.
    pub gso_refused: u64,
    /// Packets that came in.
    pub received: u64,
    /// Calls to the system that brought them.
    pub receive_calls: u64,
    /// Errors of receiving, most of them ICMP messages about packets sent earlier. They end nothing.
    pub receive_errors: u64,
    /// Packets that arrived at the socket of another shard of the service and were handed over to their own.
    pub handed_over: u64,
    /// Packets that were lost because their shard did not keep up with what was handed over to it.
    pub hand_over_drops: u64,
    /// Packets that the system threw away because the receive buffer of a socket was full: of the sockets that are
    /// open now. `None` where the system does not say (other than Linux).
    pub kernel_drops: Option<u64>,
    /// Requests of the Web Service transport that were made, or taken in; 0 without the feature `web`.
    pub web_requests: u64,
    /// TCP connections that a client opened for them. Each carries as many requests as both sides let it.
    pub web_connections: u64,
    /// Requests without an answer: no connection, none in time, one that is too large; or the client has hung up.
    pub web_failures: u64,
    /// The receive buffer that the system granted to the newest socket, in bytes, as the system counts (Linux counts
    /// its own overhead too).
    pub receive_buffer: u64,
    /// The send buffer that the system granted to the newest socket, in bytes, as the system counts.
    pub send_buffer: u64,
}

/// What [`Client::stats`](crate::Client::stats) returns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ClientStats {
    /// The protocol's counters.
    pub device: DeviceStats,
    /// The sockets' counters.
    pub socket: SocketStats,
}

/// What [`Service::stats`](crate::Service::stats) returns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ServiceStats {
    /// The protocol's counters.
    pub core: mpp_proto::ServiceStats,
    /// The sockets' counters.
    pub socket: SocketStats,
}

/// The live counters behind [`SocketStats`].
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) sent: AtomicU64,
    pub(crate) send_calls: AtomicU64,
    pub(crate) send_errors: AtomicU64,
    pub(crate) send_blocked: AtomicU64,
    pub(crate) gso_refused: AtomicU64,
    pub(crate) received: AtomicU64,
    pub(crate) receive_calls: AtomicU64,
    pub(crate) receive_errors: AtomicU64,
    pub(crate) handed_over: AtomicU64,
    pub(crate) hand_over_drops: AtomicU64,
    pub(crate) web_requests: AtomicU64,
    pub(crate) web_connections: AtomicU64,
    pub(crate) web_failures: AtomicU64,
    pub(crate) receive_buffer: AtomicU64,
    pub(crate) send_buffer: AtomicU64,
    /// The sockets that are open, by inode.
    open: Mutex<Vec<u64>>,
}

impl Counters {
    pub(crate) fn opened(&self, inode: Option<u64>) {
        self.open().extend(inode);
    }

    pub(crate) fn closed(&self, inode: Option<u64>) {
        self.open().retain(|open| Some(*open) != inode);
    }

    fn open(&self) -> MutexGuard<'_, Vec<u64>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn read(&self) -> SocketStats {
        SocketStats {
            sent: self.sent.load(Relaxed),
            send_calls: self.send_calls.load(Relaxed),
            send_errors: self.send_errors.load(Relaxed),
            send_blocked: self.send_blocked.load(Relaxed),
            gso_refused: self.gso_refused.load(Relaxed),
            received: self.received.load(Relaxed),
            receive_calls: self.receive_calls.load(Relaxed),
            receive_errors: self.receive_errors.load(Relaxed),
            handed_over: self.handed_over.load(Relaxed),
            hand_over_drops: self.hand_over_drops.load(Relaxed),
            kernel_drops: drops(&self.open()),
            web_requests: self.web_requests.load(Relaxed),
            web_connections: self.web_connections.load(Relaxed),
            web_failures: self.web_failures.load(Relaxed),
            receive_buffer: self.receive_buffer.load(Relaxed),
            send_buffer: self.send_buffer.load(Relaxed),
        }
    }
}

/// One more, or `n` more.
pub(crate) fn count(counter: &AtomicU64, n: usize) {
    counter.fetch_add(n as u64, Relaxed);
}
