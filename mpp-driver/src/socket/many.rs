//! Sending to many destinations with few calls to the system.

use std::task::{Context, Poll};

use mpp_proto::{LinkId, Transmit, TransmitBatch};

use super::{Link, UdpSocket};
#[cfg(any(target_os = "linux", target_os = "android"))]
use crate::{runtime::Interest, stats::count};

/// The most packets between two looks at what has come in.
pub(crate) const SENDS: usize = 64;

/// A batch on its way out: what is in it, and how much of each entry is gone.
#[derive(Debug)]
pub(crate) struct Outbox {
    batch: TransmitBatch,
    sent: [usize; SENDS],
}

impl Outbox {
    pub(crate) fn new() -> Self {
        Self { batch: TransmitBatch::new(SENDS), sent: [0; SENDS] }
    }

    /// Fills an empty outbox; returns whether there is anything in it.
    pub(crate) fn fill(&mut self, poll_transmit: impl FnOnce(&mut TransmitBatch) -> usize) -> bool {
        self.batch.clear();
        self.sent = [0; SENDS];
        poll_transmit(&mut self.batch);
        !self.batch.is_empty()
    }

    /// Whether everything is gone.
    pub(crate) fn is_empty(&self) -> bool {
        self.batch.iter().zip(&self.sent).all(|((t, _), sent)| *sent >= t.len)
    }

    /// Sends as much as the sockets take; `Ready` when everything is gone.
    pub(crate) fn poll_send(&mut self, cx: &mut Context<'_>, links: &[Link]) -> Poll<()> {
        let mut result = Poll::Ready(());
        for link in links {
            if link.socket.poll_send_batch(cx, link.id, || self.batch.iter(), &mut self.sent).is_pending() {
                result = Poll::Pending;
            }
        }
        if result.is_ready() {
            // What is left names a socket that does not exist.
            self.batch.clear();
        }
        result
    }
}

impl UdpSocket {
    /// Sends the entries that go over `link`, and counts in `sent` how many bytes of each are gone; `Pending` when
    /// there is no room for the rest.
    pub(crate) fn poll_send_batch<'a, I: Iterator<Item = (&'a Transmit, &'a [u8])>>(
        &self,
        cx: &mut Context<'_>,
        link: LinkId,
        entries: impl Fn() -> I,
        sent: &mut [usize],
    ) -> Poll<()> {
        loop {
            // The first that waits leads; all that leave from the same address go with it. Packets to one peer stay in
            // order, because they share link and address; only a segmented one goes by itself.
            let waiting = |t: &Transmit, sent: usize| t.path.link == link && sent < t.len;
            let first = entries().zip(sent.iter_mut()).find(|((t, _), sent)| waiting(t, **sent));
            let Some(((first, bytes), progress)) = first else { return Poll::Ready(()) };
            if first.segment_size.is_some() || !MANY {
                if self.poll_send(cx, first, bytes, progress).is_pending() {
                    return Poll::Pending;
                }
                continue;
            }
            #[cfg(any(target_os = "linux", target_os = "android"))]
            {
                let source = first.path.local;
                let group = entries().zip(sent.iter_mut()).filter(|((t, _), sent)| {
                    waiting(t, **sent) && t.path.local == source && t.segment_size.is_none()
                });
                if self.poll_send_many(cx, source, group).is_pending() {
                    return Poll::Pending;
                }
            }
        }
    }
}

/// Whether the system sends to many destinations with one call.
const MANY: bool = cfg!(any(target_os = "linux", target_os = "android"));

#[cfg(any(target_os = "linux", target_os = "android"))]
mod mmsg {
    use std::cell::RefCell;
    use std::io::{self, IoSlice};
    use std::net::IpAddr;

    use nix::cmsg_space;
    use nix::libc::{in_addr, in_pktinfo, in6_addr, in6_pktinfo};
    use nix::sys::socket::{ControlMessage, MsgFlags, MultiHeaders, SockaddrStorage, sendmmsg};

    use super::SENDS;

    type Headers = MultiHeaders<SockaddrStorage>;

    // The headers hold raw pointers and so cannot live in a task; each thread that sends keeps one set of each kind.
    thread_local! {
        static PLAIN: RefCell<Headers> = RefCell::new(Headers::preallocate(SENDS, None));
        static V4: RefCell<Headers> =
            RefCell::new(Headers::preallocate(SENDS, Some(cmsg_space!(in_pktinfo))));
        static V6: RefCell<Headers> =
            RefCell::new(Headers::preallocate(SENDS, Some(cmsg_space!(in6_pktinfo))));
    }

    /// Sends the packets, all from `source`, and returns how many the system took before it met an obstacle.
    pub(super) fn send(
        socket: std::os::fd::RawFd,
        source: Option<IpAddr>,
        packets: &[[IoSlice<'_>; 1]],
        to: &[Option<SockaddrStorage>],
    ) -> io::Result<usize> {
        let go = |headers: &RefCell<Headers>, info: &[ControlMessage<'_>]| {
            let mut headers = headers.borrow_mut();
            let sent = sendmmsg(socket, &mut headers, packets, to, info, MsgFlags::empty())?;
            Ok(sent.count())
        };
        match source {
            None => PLAIN.with(|h| go(h, &[])),
            Some(IpAddr::V4(ip)) => {
                let source = in_addr { s_addr: u32::from_ne_bytes(ip.octets()) };
                let info =
                    in_pktinfo { ipi_ifindex: 0, ipi_spec_dst: source, ipi_addr: in_addr { s_addr: 0 } };
                V4.with(|h| go(h, &[ControlMessage::Ipv4PacketInfo(&info)]))
            }
            Some(IpAddr::V6(ip)) => {
                let info = in6_pktinfo { ipi6_addr: in6_addr { s6_addr: ip.octets() }, ipi6_ifindex: 0 };
                V6.with(|h| go(h, &[ControlMessage::Ipv6PacketInfo(&info)]))
            }
        }
    }
}

#[cfg(any(target_os = "linux", target_os = "android"))]
impl UdpSocket {
    /// Sends whole packets that leave from the same address, and marks those that are gone; `Pending` when there is
    /// no room for the rest.
    fn poll_send_many<'a, 's>(
        &self,
        cx: &mut Context<'_>,
        source: Option<std::net::IpAddr>,
        group: impl Iterator<Item = ((&'a Transmit, &'a [u8]), &'s mut usize)>,
    ) -> Poll<()> {
        use std::array;
        use std::io::{self, IoSlice};

        let mut progress: [Option<(&mut usize, usize)>; SENDS] = array::from_fn(|_| None);
        let mut packets: [[IoSlice<'_>; 1]; SENDS] = array::from_fn(|_| [IoSlice::new(&[])]);
        let mut to = [None; SENDS];
        let mut n = 0;
        let slots = progress.iter_mut().zip(&mut packets).zip(&mut to);
        for (((transmit, bytes), gone), ((progress, packet), to)) in group.zip(slots) {
            *progress = Some((gone, transmit.len));
            *packet = [IoSlice::new(bytes)];
            *to = Some(self.outward(transmit.path.remote).into());
            n += 1;
        }
        let (mut at, source) = (0, self.source(source));
        while let (Some(packets), Some(to)) = (packets.get(at..n), to.get(at..n)) {
            if packets.is_empty() {
                break;
            }
            if self.poll_ready(cx, Interest::Write).is_pending() {
                return Poll::Pending;
            }
            let mut sent = 0;
            let result = self.io.try_io(Interest::Write, &mut |socket| {
                count(&self.counters.send_calls, 1);
                sent = mmsg::send(super::number(&socket), source, packets, to)?;
                Ok(())
            });
            let done = match result {
                Ok(()) => {
                    count(&self.counters.sent, sent);
                    sent
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    count(&self.counters.send_blocked, 1);
                    0
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => 0,
                // The system stops at the first that it does not take: that one is lost, the others are not.
                Err(_) => {
                    count(&self.counters.send_errors, 1);
                    1
                }
            };
            for slot in progress.get_mut(at..at + done).unwrap_or_default() {
                if let Some((gone, len)) = slot.take() {
                    *gone = len;
                }
            }
            at += done;
        }
        Poll::Ready(())
    }
}
