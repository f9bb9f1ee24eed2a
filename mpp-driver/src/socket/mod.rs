//! UDP sockets: opening them, receiving in batches, sending to one and to many destinations.
//!
//! Errors of the network never end anything here: they are counted, and the packet counts as lost.

mod drops;
mod link;
mod many;
mod outgoing;
mod receive;
#[cfg(all(test, target_os = "linux"))]
mod tests;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll};

use mpp_proto::Transmit;
use quinn_udp::{UdpSockRef, UdpSocketState};
use socket2::{Domain, Protocol, SockRef, Socket, Type};

pub(crate) use drops::drops;
pub(crate) use link::Link;
pub(crate) use many::Outbox;
pub(crate) use outgoing::Outgoing;
pub(crate) use receive::Inbox;

use crate::runtime::{AsyncSocket, Interest, Runtime};
use crate::stats::{Counters, count};

/// The buffers asked for, in bytes; the system grants what its limits allow (Linux: `net.core.rmem_max`).
const BUFFER: usize = 4 * 1024 * 1024;
/// So many errors in a row, and the socket gets a rest: an error that stays must not become a busy loop.
const ERRORS: usize = 16;

/// A UDP socket that a runtime watches.
#[derive(Debug)]
pub(crate) struct UdpSocket {
    io: Box<dyn AsyncSocket>,
    udp: UdpSocketState,
    local: SocketAddr,
    inode: Option<u64>,
    /// The system has said that nothing may be sent from here.
    forbidden: AtomicBool,
    counters: Arc<Counters>,
}

impl UdpSocket {
    /// A socket of a device, on any port.
    pub(crate) fn bind_device(
        runtime: &dyn Runtime,
        address: SocketAddr,
        counters: &Arc<Counters>,
    ) -> io::Result<Self> {
        let socket = open(address)?;
        socket.bind(&address.into())?;
        granted(&socket, counters);
        let udp = UdpSocketState::new(UdpSockRef::from(&socket))?;
        Self::wrap(runtime, socket.into(), udp, counters)
    }

    /// As many sockets of a service on the same address as it has shards, 1 at least. An IPv6 socket leaves IPv4 to
    /// another if it is told to.
    pub(crate) fn bind_service(
        runtime: &dyn Runtime,
        address: SocketAddr,
        only_v6: bool,
        shards: usize,
        counters: &Arc<Counters>,
    ) -> io::Result<Vec<Self>> {
        let open = |address: SocketAddr| {
            let socket = open(address)?;
            if address.is_ipv6() {
                socket.set_only_v6(only_v6)?;
            }
            Ok(socket)
        };
        // The first one does not share its port when it takes it: if another process has it, that is an error.
        let first = open(address)?;
        first.bind(&address.into())?;
        let mut sockets = vec![first];
        while let (Some(first), true) = (sockets.first(), sockets.len() < shards) {
            let next = share_port(first, open).or_else(|_| first.try_clone())?;
            sockets.push(next);
        }
        let wrap = |socket: Socket| {
            // Less than asked for is no error; what was granted can be read.
            let _ = socket.set_recv_buffer_size(BUFFER);
            let _ = socket.set_send_buffer_size(BUFFER);
            granted(&socket, counters);
            let udp = UdpSocketState::new(UdpSockRef::from(&socket))?;
            offload_off(&socket);
            Self::wrap(runtime, socket.into(), udp, counters)
        };
        sockets.into_iter().map(wrap).collect()
    }

    fn wrap(
        runtime: &dyn Runtime,
        socket: std::net::UdpSocket,
        udp: UdpSocketState,
        counters: &Arc<Counters>,
    ) -> io::Result<Self> {
        let local = socket.local_addr()?;
        let inode = drops::inode(&SockRef::from(&socket));
        let io = runtime.wrap(socket)?;
        counters.opened(inode);
        let forbidden = AtomicBool::new(false);
        Ok(Self { io, udp, local, inode, forbidden, counters: counters.clone() })
    }

    /// The address it is bound to.
    pub(crate) const fn local(&self) -> SocketAddr {
        self.local
    }

    /// Whether the system has refused to send anything from here since this was asked last. Other errors of sending
    /// (no route for one family, say) are not of that kind.
    pub(crate) fn take_forbidden(&self) -> bool {
        self.forbidden.swap(false, Relaxed)
    }

    /// Packets of one datagram that one call may carry.
    pub(crate) fn max_segments(&self) -> usize {
        self.udp.max_gso_segments()
    }

    /// Sends one transmission, from byte `from` on: `Ready` when it is with the system or lost; `Pending` when there
    /// is no room, and then `from` says where to go on.
    pub(crate) fn poll_send(
        &self,
        cx: &mut Context<'_>,
        transmit: &Transmit,
        bytes: &[u8],
        from: &mut usize,
    ) -> Poll<()> {
        while let Some(rest) = bytes.get(*from..).filter(|rest| !rest.is_empty()) {
            if self.poll_ready(cx, Interest::Write).is_pending() {
                return Poll::Pending;
            }
            let segment = transmit.segment_size.map_or(rest.len(), |s| usize::from(s.get())).min(rest.len());
            let offload = segment < rest.len() && self.max_segments() > 1;
            let (now, size) = if offload {
                let n = rest.len().min(segment.saturating_mul(self.max_segments()));
                (rest.get(..n).unwrap_or(rest), Some(segment))
            } else {
                (rest.get(..segment).unwrap_or(rest), None)
            };
            match self.send_once(transmit, now, size) {
                Ok(()) => {
                    count(&self.counters.sent, now.len().div_ceil(segment.max(1)));
                    *from += now.len();
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    count(&self.counters.send_blocked, 1);
                }
                // Refused because of the offload: quinn-udp has switched it off, and the same bytes go singly.
                Err(_) if offload && self.max_segments() == 1 => count(&self.counters.gso_refused, 1),
                Err(e) => {
                    if e.kind() == io::ErrorKind::PermissionDenied {
                        self.forbidden.store(true, Relaxed);
                    }
                    count(&self.counters.send_errors, now.len().div_ceil(segment.max(1)));
                    *from += now.len();
                }
            }
        }
        Poll::Ready(())
    }

    fn send_once(&self, transmit: &Transmit, contents: &[u8], segment_size: Option<usize>) -> io::Result<()> {
        let packet = quinn_udp::Transmit {
            destination: self.outward(transmit.path.remote),
            ecn: None,
            contents,
            segment_size,
            src_ip: self.source(transmit.path.local),
        };
        self.io.try_io(Interest::Write, &mut |socket| {
            count(&self.counters.send_calls, 1);
            self.udp.try_send(UdpSockRef::from(&*socket), &packet)
        })
    }

    /// Ready, also if the runtime reports an error: the call that follows will meet it.
    fn poll_ready(&self, cx: &mut Context<'_>, interest: Interest) -> Poll<()> {
        match self.io.poll_ready(interest, cx) {
            Poll::Ready(Ok(())) => Poll::Ready(()),
            // The reactor is gone, and with it this task.
            Poll::Ready(Err(_)) | Poll::Pending => Poll::Pending,
        }
    }

    /// An address as this socket wants it: an IPv6 socket reaches IPv4 by mapped addresses.
    fn outward(&self, address: SocketAddr) -> SocketAddr {
        match (self.local, address) {
            (SocketAddr::V6(_), SocketAddr::V4(v4)) => {
                SocketAddr::new(v4.ip().to_ipv6_mapped().into(), v4.port())
            }
            _ => address,
        }
    }

    /// The source to ask for: none if the socket has only one anyway.
    fn source(&self, local: Option<IpAddr>) -> Option<IpAddr> {
        if !self.local.ip().is_unspecified() {
            return None;
        }
        Some(match (self.local, local?) {
            (SocketAddr::V6(_), IpAddr::V4(v4)) => v4.to_ipv6_mapped().into(),
            (_, ip) => ip,
        })
    }
}

impl Drop for UdpSocket {
    fn drop(&mut self) {
        self.counters.closed(self.inode);
    }
}

/// An address as the state machines see it: IPv4 is IPv4, whatever socket it came by.
fn inward(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V6(v6) => match v6.ip().to_ipv4_mapped() {
            Some(v4) => SocketAddr::new(v4.into(), v6.port()),
            None => address,
        },
        SocketAddr::V4(_) => address,
    }
}

/// The address from which the system would send to `to`; nothing if it knows no way there. No packet is sent.
pub(crate) fn source_of(to: SocketAddr) -> Option<IpAddr> {
    let any = match to {
        SocketAddr::V4(_) => any_address(mpp_proto::Family::V4),
        SocketAddr::V6(_) => any_address(mpp_proto::Family::V6),
    };
    let socket = std::net::UdpSocket::bind(any).ok()?;
    socket.connect(to).ok()?;
    socket.local_addr().ok().map(|local| local.ip())
}

/// Any address and any port of a family.
pub(crate) fn any_address(family: mpp_proto::Family) -> SocketAddr {
    match family {
        mpp_proto::Family::V4 => (Ipv4Addr::UNSPECIFIED, 0).into(),
        mpp_proto::Family::V6 => (Ipv6Addr::UNSPECIFIED, 0).into(),
    }
}

fn open(address: SocketAddr) -> io::Result<Socket> {
    Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))
}

/// Notes what the system granted.
fn granted(socket: &Socket, counters: &Counters) {
    let size = |size: io::Result<usize>| size.map_or(0, |n| n as u64);
    counters.receive_buffer.store(size(socket.recv_buffer_size()), Relaxed);
    counters.send_buffer.store(size(socket.send_buffer_size()), Relaxed);
}

/// Another socket on the same address, between which and the first the system spreads what comes, by sender: so packets
/// of one device stay in order. Where that is not to be had, a second handle on the same socket does it, only that every
/// shard wakes for each packet.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn share_port(first: &Socket, open: impl Fn(SocketAddr) -> io::Result<Socket>) -> io::Result<Socket> {
    let address = first.local_addr()?;
    first.set_reuse_port(true)?;
    let next = open(address.as_socket().ok_or(io::ErrorKind::InvalidInput)?)?;
    next.set_reuse_port(true)?;
    next.bind(&address)?;
    Ok(next)
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn share_port(_: &Socket, _: impl Fn(SocketAddr) -> io::Result<Socket>) -> io::Result<Socket> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Receive offload and time stamps cost and bring nothing where single packets come from everywhere.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn offload_off(socket: &Socket) {
    use nix::sys::socket::{setsockopt, sockopt};
    // What a kernel does not know it does not do either.
    let _ = setsockopt(socket, sockopt::UdpGroSegment, &false);
    let _ = setsockopt(socket, sockopt::ReceiveTimestampns, &false);
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn offload_off(_: &Socket) {}

/// The file descriptor for calls that want the number.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn number(socket: &SockRef<'_>) -> std::os::fd::RawFd {
    use std::os::fd::AsRawFd;
    socket.as_raw_fd()
}
