//! A device's side of one connection: packets in and out, acknowledgements, heartbeats (SPEC.md, "Data packets" and
//! "Connection states").

mod beat;
#[cfg(test)]
mod tests;

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::net::SocketAddr;
use core::ops::Range;
use core::time::Duration;

use zeroize::Zeroize;

pub(super) use beat::IN_USE;
use beat::{Beat, CONFIRM, Flow, REPEATS, interval_of};

use super::Deadlines;
use super::attempt::Agreed;
use super::event::{Family, LinkKind};
use super::exchange::Facts;
use super::transport::Transport;
use crate::crypto::{
    ConnectionKeys, PacketKeys, device_identifier, open_header, open_packet, same, seal_packet,
};
use crate::path::{LinkId, Path};
use crate::random::Rng;
use crate::rud::nonces::Nonces;
use crate::rud::reassembly::{Kept, Reassembler};
use crate::rud::replay::{PacketWindow, Seen};
use crate::rud::rtt::{MAX_ACK_DELAY, Rtt};
use crate::time::Instant;
use crate::wakeup::TimerKind;
use crate::wire::{
    AEAD_TAG, Ack, Close, Code, DEVICE_IDENTIFIER, Direction, Emit, HEADER, Header, MIN_PACKET,
    PacketExtension, SERVICE_IDENTIFIER, SliceSink, emit_plaintext_head, service_identifiers,
};

/// Packets after which an acknowledgement goes out at once (RFC 9000, section 13.2.2), so that the sender's window moves.
const ACK_EVERY: u8 = 2;
/// How long an acknowledgement waits for a request to go along with.
const WEB_ACK_DELAY: Duration = Duration::from_millis(100);
/// The shortest time between heartbeats that a device asks for.
pub(super) const MIN_INTERVAL: Duration = Duration::from_secs(5);
/// The longest, also if a service wants to be left in peace for longer.
pub(super) const MAX_INTERVAL: Duration = Duration::from_secs(300);
/// Of a lease, what is not three intervals.
const LEASE_GRACE: Duration = Duration::from_secs(5);
/// A shorter lease than that of the shortest interval, or new keys sooner, would only make a device connect over and
/// over: it takes the service at its word from here on.
const MIN_LEASE: Duration = Duration::from_secs(20);
const MIN_REFRESH: Duration = Duration::from_secs(60);
/// Packets in a direction after which new keys are due (SPEC.md, "Keys and their lifetimes"); with fewer than the least
/// a device would do nothing but connect.
const MIN_PACKETS: u32 = 64;
const MAX_PACKETS: u32 = 1 << 22;

/// A connection that has held for so long is a good one.
const SETTLED: Duration = Duration::from_secs(60);
/// Identifiers kept: more than a device on the move uses up between two heartbeats.
const MAX_SERVICE: usize = 8;
const MAX_OWN: usize = 8;
/// Challenges that may wait for their answers.
const MAX_CHALLENGES: usize = 4;

/// The connection.
pub(super) struct Connection {
    keys: Box<ConnectionKeys>,
    carrier: Carrier,
    /// Identifiers of the service with their reset tokens; those up to `current` have been used.
    service: Vec<([u8; 16], [u8; 16])>,
    current: usize,
    /// Identifiers of this device, oldest first, and the last one that the service has used.
    own: Vec<[u8; DEVICE_IDENTIFIER]>,
    last_own: [u8; DEVICE_IDENTIFIER],
    /// One that the service is to be given.
    issue: Option<[u8; DEVICE_IDENTIFIER]>,
    /// Challenges to be answered.
    challenges: Vec<[u8; 8]>,
    /// The next packet is of full size: it shows what the new path carries.
    pad: bool,
    next_number: u64,
    nonces: Nonces,
    /// Packets of the service that were opened, and the highest number among them, and one: how much its keys have
    /// sealed, at least.
    opened: u64,
    end: u64,
    window: PacketWindow,
    reassembler: Reassembler,
    rtt: Rtt,
    ack: PendingAck,
    /// Whether an authentic data packet has come.
    pub(super) confirmed: bool,
    /// What the exchange said, until then.
    pub(super) facts: Option<Facts>,
    /// A newer connection of this device has had keys: a Close 409 may be its doing.
    pub(super) succeeded: bool,
    agreed_at: Instant,
    pub(super) heard: Instant,
    pub(super) lease: Duration,
    /// The interval asked for last, and the one that was granted for another.
    asking: Duration,
    terms: (Duration, Duration),
    /// When something was last sent over it.
    pub(super) spoke: Instant,
    flow: Flow,
    /// When new keys are due, and after how many packets in a direction.
    pub(super) refresh_at: Instant,
    packet_limit: u64,
    heartbeat: Beat,
    /// By Web: the next heartbeat has something to say, and goes beside the request that waits.
    urgent: bool,
}

/// What carries the packets of a connection, as long as it lasts.
#[derive(Clone, Copy, Debug)]
pub(super) enum Carrier {
    Udp {
        /// The socket; none while the host opens one on another network.
        link: Option<LinkId>,
        remote: SocketAddr,
    },
    Web,
}

/// What has to be acknowledged, and by when.
#[derive(Debug, Default)]
struct PendingAck {
    /// The newest datagram of which an acknowledgement was wanted.
    datagram: Option<u64>,
    /// Packets that have come since the last acknowledgement.
    packets: u8,
    due: Option<Instant>,
}

/// An opened packet.
pub(super) struct Opened {
    pub(super) header: Header,
    pub(super) plaintext: Range<usize>,
}

/// What became of a fragment.
pub(super) enum Fragment {
    /// The datagram is complete: the message.
    Complete(Vec<u8>),
    /// More packets are to come, or there was no room.
    Partial,
    /// It contradicts its datagram's other packets.
    Inconsistent,
}

impl Connection {
    pub(super) fn new(now: Instant, agreed: Agreed, carrier: Carrier, packet_limit: u32) -> Self {
        let mut rtt = Rtt::default();
        if let Some(round_trip) = agreed.round_trip {
            rtt.sample(round_trip);
        }
        Self {
            keys: agreed.keys,
            carrier,
            service: agreed.service,
            current: 0,
            last_own: agreed.own.first().copied().unwrap_or_default(),
            own: agreed.own.to_vec(),
            issue: None,
            challenges: Vec::new(),
            pad: false,
            next_number: 0,
            nonces: Nonces::default(),
            opened: 0,
            end: 0,
            window: PacketWindow::new(),
            reassembler: Reassembler::default(),
            rtt,
            ack: PendingAck::default(),
            confirmed: false,
            facts: None,
            succeeded: false,
            agreed_at: now,
            heard: now,
            lease: agreed.lease.max(MIN_LEASE),
            asking: agreed.proposal.interval,
            // What the service granted is what its lease allows for.
            terms: (agreed.proposal.interval, interval_of(agreed.lease)),
            spoke: now,
            flow: Flow::new(now),
            refresh_at: now + agreed.refresh_after.max(MIN_REFRESH),
            packet_limit: u64::from(packet_limit.clamp(MIN_PACKETS, MAX_PACKETS)),
            heartbeat: Beat::Due(now),
            urgent: false,
        }
    }

    /// What carries it.
    pub(super) const fn transport(&self) -> Transport {
        match self.carrier {
            Carrier::Udp { .. } => Transport::Udp,
            Carrier::Web => Transport::Web,
        }
    }

    /// Where its packets go; none by Web, and while there is no socket.
    pub(super) const fn path(&self) -> Option<Path> {
        match self.carrier {
            Carrier::Udp { link: Some(link), remote } => Some(Path::new(link, remote)),
            _ => None,
        }
    }

    /// The service's address; none by Web.
    pub(super) const fn remote(&self) -> Option<SocketAddr> {
        match self.carrier {
            Carrier::Udp { remote, .. } => Some(remote),
            Carrier::Web => None,
        }
    }

    /// What kind of link it needs.
    pub(super) fn kind(&self) -> LinkKind {
        self.remote().map_or(LinkKind::Web, |remote| LinkKind::Udp(Family::of(&remote)))
    }

    /// Whether it waits for a socket.
    pub(super) const fn is_adrift(&self) -> bool {
        matches!(self.carrier, Carrier::Udp { link: None, .. })
    }

    /// Whether a packet that begins so is for it.
    pub(super) fn recognizes(&self, first_bytes: &[u8]) -> bool {
        self.own.iter().any(|own| first_bytes.starts_with(own))
    }

    /// Whether these are the last bytes of a reset of this connection.
    pub(super) fn is_reset(&self, token: &[u8; 16]) -> bool {
        self.service.iter().take(self.current + 1).fold(false, |is, (_, known)| is | same(known, token))
    }

    /// Opens a packet in place; unless it is authentic its bytes are left as they were.
    pub(super) fn open(&self, packet: &mut [u8]) -> Option<Opened> {
        let block = packet.get(DEVICE_IDENTIFIER..)?.first_chunk::<HEADER>()?;
        let block = open_header(&self.keys.header, block);
        let header = Header::decode(block);
        let keys = &self.keys.to_device;
        let nonce = header.nonce_input();
        let plaintext = open_packet(&keys.key, &keys.iv, packet, DEVICE_IDENTIFIER, &block, nonce).ok()?;
        Some(Opened { header, plaintext })
    }

    /// An authentic packet came under this identifier. A new one shows that the service has retired the one before, so
    /// it gets another to keep in store.
    pub(super) fn note_identifier(&mut self, packet: &[u8], rng: &mut Rng) {
        let Some(used) = packet.first_chunk::<DEVICE_IDENTIFIER>() else { return };
        // The service takes them in order. An earlier one, in a packet that was late or is a copy, says nothing; else
        // somebody who sends old packets again could push out those that the service is using.
        let place = |identifier| self.own.iter().position(|own| own == identifier);
        if place(used) > place(&self.last_own) {
            self.last_own = *used;
            let fresh = device_identifier(rng);
            if self.own.len() >= MAX_OWN {
                self.own.remove(0);
            }
            self.own.push(fresh);
            self.issue = Some(fresh);
        }
    }

    /// The service has issued more identifiers.
    pub(super) fn add_identifiers(&mut self, value: &[u8]) {
        for issued in service_identifiers(value) {
            // The oldest was retired several moves ago: no reset comes for it any more.
            if self.service.len() >= MAX_SERVICE && self.current > 0 {
                self.service.remove(0);
                self.current -= 1;
            }
            if self.service.len() < MAX_SERVICE {
                self.service.push(issued);
            }
        }
    }

    /// Notes a challenge, to be answered on the path the device is on.
    pub(super) fn challenged(&mut self, challenge: [u8; 8]) {
        // Over the Web nobody moves.
        if self.challenges.len() < MAX_CHALLENGES && self.transport() == Transport::Udp {
            self.challenges.push(challenge);
        }
    }

    /// Takes a challenge that waits for its answer.
    pub(super) fn take_challenge(&mut self) -> Option<[u8; 8]> {
        self.challenges.pop()
    }

    /// The device is on another network. What it sends next goes under an identifier that nobody has seen, and shows
    /// what the new path carries.
    pub(super) fn leave(&mut self) {
        if let Carrier::Udp { link, .. } = &mut self.carrier {
            *link = None;
        }
        self.current = (self.current + 1).min(self.service.len().saturating_sub(1));
        self.challenges.clear();
        self.rtt = Rtt::default();
        self.pad = self.transport() == Transport::Udp;
        self.heartbeat_ended(Instant::ZERO);
    }

    /// There is a socket on the new network: the service hears of it at once.
    pub(super) fn arrive(&mut self, now: Instant, open: LinkId) {
        if let Carrier::Udp { link, .. } = &mut self.carrier {
            *link = Some(open);
        }
        self.heartbeat = Beat::Due(now);
        self.flow = Flow::new(now);
    }

    /// Whether a packet was seen before.
    pub(super) fn judge(&self, header: &Header) -> Seen {
        self.window.judge(header.number, header.index)
    }

    /// Keeps the packet of a datagram that has only one.
    pub(super) fn keep(&mut self, header: &Header) {
        self.window.advance(header.number);
        self.window.keep(header.number, header.index);
        if header.wanted {
            self.reassembler.forget_below(header.number);
        }
    }

    /// Keeps a fragment of a datagram of several packets, if there is room.
    pub(super) fn keep_fragment(&mut self, now: Instant, header: &Header, fragment: &[u8]) -> Fragment {
        let place = (header.number, header.count, header.index);
        let kept = self.reassembler.insert(now, place, header.wanted, fragment);
        match kept {
            Kept::Refused => return Fragment::Partial,
            Kept::Inconsistent => return Fragment::Inconsistent,
            Kept::Complete(_) | Kept::Partial => {
                self.window.advance(header.number);
                self.window.keep(header.number, header.index);
            }
        }
        match kept {
            Kept::Complete(message) => {
                if header.wanted {
                    self.reassembler.forget_below(header.number);
                }
                Fragment::Complete(message)
            }
            _ => Fragment::Partial,
        }
    }

    /// Bytes of incomplete datagrams, and bytes of memory taken for them.
    pub(super) fn partials(&self) -> (usize, usize) {
        (self.reassembler.bytes(), self.reassembler.memory())
    }

    /// Takes back the buffer of a message that has been read.
    pub(super) fn reuse(&mut self, message: Vec<u8>) {
        self.reassembler.reuse(message);
    }

    /// Whether one more packet would complete this datagram.
    pub(super) fn would_complete(&self, header: &Header) -> bool {
        self.window.kept(header.number).count_ones() + 1 >= u32::from(header.count)
    }

    /// A packet that wants an acknowledgement was kept, or came again. A complete datagram or one with a hole is
    /// acknowledged at once.
    pub(super) fn want_ack(&mut self, now: Instant, header: &Header, again: bool) {
        if !header.wanted {
            return;
        }
        self.ack.datagram = Some(header.number);
        let kept = u32::from(self.window.kept(header.number));
        let complete = kept.count_ones() == u32::from(header.count);
        let hole = kept & (kept + 1) != 0;
        self.ack.packets = self.ack.packets.saturating_add(1);
        let enough = self.ack.packets >= ACK_EVERY;
        let due = match self.transport() {
            // The request that waits next carries it, unless there is none.
            Transport::Web => now + WEB_ACK_DELAY,
            Transport::Udp if complete || hole || again || enough => now,
            Transport::Udp => now + MAX_ACK_DELAY,
        };
        self.ack.due = Instant::earliest(self.ack.due, Some(due));
    }

    /// A packet that wants an acknowledgement was not kept. What is sent next names its datagram all the same, with what
    /// has been kept of it, if anything: the service sees that the path carries it.
    pub(super) fn turn_away(&mut self, header: &Header) {
        if header.wanted {
            self.ack.datagram = Some(header.number);
        }
    }

    /// Whether an acknowledgement has to go out now.
    pub(super) fn ack_is_due(&self, now: Instant) -> bool {
        self.ack.due.is_some_and(|due| due <= now)
    }

    /// Whether it has held for so long that what broke those before it is over.
    pub(super) fn is_settled(&self, now: Instant) -> bool {
        now.since(self.agreed_at) >= SETTLED
    }

    /// Whether the service has sent this after everything that has come so far.
    pub(super) const fn is_ahead(&self, header: &Header) -> bool {
        header.number >= self.end
    }

    /// Counts a packet that was opened and is no copy of another.
    pub(super) fn count(&mut self, header: &Header) {
        self.opened = self.opened.saturating_add(1);
        self.end = self.end.max(header.number.saturating_add(1));
    }

    /// Whether one of its keys has sealed as much as it should. Said once.
    pub(super) fn wears_out(&mut self) -> bool {
        let worn = self.next_number.max(self.opened).max(self.end) >= self.packet_limit;
        if worn {
            self.packet_limit = u64::MAX;
        }
        worn
    }

    /// Whether anything was sent over it.
    pub(super) const fn has_spoken(&self) -> bool {
        self.next_number > 0
    }

    /// Writes a packet of at least `least` bytes; returns its length. It carries the acknowledgement that is waiting, if
    /// there is one.
    pub(super) fn write(
        &mut self,
        out: &mut [u8],
        extension: Option<PacketExtension<'_>>,
        message: Option<&dyn WriteMessage>,
        least: usize,
    ) -> usize {
        self.write_by(self.transport(), out, extension, message, least)
    }

    /// The same, to go by another transport than the connection does.
    pub(super) fn write_by(
        &mut self,
        by: Transport,
        out: &mut [u8],
        extension: Option<PacketExtension<'_>>,
        message: Option<&dyn WriteMessage>,
        least: usize,
    ) -> usize {
        let number = self.next_number;
        self.next_number += 1;
        self.ack.due = None;
        self.ack.packets = 0;
        let ack = self
            .ack
            .datagram
            .map(|n| Ack { number_low: (n & 0xffff_ffff) as u32, bitmap: self.window.kept(n) });
        let web = by == Transport::Web;
        let header = Header { ack, web, ..Header::single(number, Direction::ToResponder) };
        let start = SERVICE_IDENTIFIER + HEADER;
        let identifier = self.service.get(self.current).map_or([0; 16], |(identifier, _)| *identifier);
        out[..SERVICE_IDENTIFIER].copy_from_slice(&identifier);
        let len = message.map_or(0, WriteMessage::message_len);
        let mut sink = SliceSink::new(&mut out[start..]);
        let issued = self.issue.take();
        let issued = issued.as_ref().map(|identifier| PacketExtension::Identifiers(identifier));
        match (extension, issued) {
            (Some(a), Some(b)) => emit_plaintext_head(&mut sink, &[a, b], len),
            (Some(one), None) | (None, Some(one)) => emit_plaintext_head(&mut sink, &[one], len),
            (None, None) => emit_plaintext_head(&mut sink, &[], len),
        }
        let head = sink.finish().expect("the head of a packet fits");
        let message_end = start + head + len;
        if let Some(message) = message {
            message.write_message(&mut out[start + head..message_end]);
        }
        let least = if core::mem::take(&mut self.pad) { MIN_PACKET } else { least };
        let end = message_end.max(least.saturating_sub(AEAD_TAG));
        out[message_end..end].fill(0);
        let keys = PacketKeys {
            key: &self.keys.to_service.key,
            iv: &self.keys.to_service.iv,
            header: &self.keys.header,
        };
        self.nonces.take(&header, false);
        let packet = &mut out[..end + AEAD_TAG];
        seal_packet(&keys, packet, SERVICE_IDENTIFIER, header.encode(), header.nonce_input());
        packet.len()
    }

    /// Writes a Close.
    pub(super) fn write_close(&mut self, out: &mut [u8], code: Code) -> usize {
        let close = Close { code, reason: "", retry_after: Duration::ZERO };
        self.write(out, Some(PacketExtension::Close(close)), None, 0)
    }

    /// The probe timeout.
    pub(super) fn pto(&self) -> Duration {
        self.rtt.pto(0, false)
    }

    /// The smoothed round-trip time.
    pub(super) fn round_trip(&self) -> Option<Duration> {
        self.rtt.smoothed()
    }

    /// Names every deadline.
    pub(super) fn deadlines(&self, next: &mut Deadlines) {
        match self.heartbeat {
            Beat::Waiting { again, sendings, sent_at, .. }
                if sendings >= REPEATS.len() && self.heard <= sent_at =>
            {
                next.act(again, TimerKind::Heartbeat);
            }
            Beat::Due(at) | Beat::Waiting { again: at, .. } => next.send(at, TimerKind::Heartbeat),
            Beat::Posted { .. } => {}
        }
        if !self.confirmed && self.transport() == Transport::Web {
            next.act(self.agreed_at + CONFIRM, TimerKind::Heartbeat);
        }
        if let Some(at) = self.ack.due {
            next.send(at, TimerKind::Acknowledgement);
        }
        // The lease is over once more than its length has passed.
        next.act(self.heard + self.lease + Duration::from_micros(1), TimerKind::Heartbeat);
    }
}

impl Drop for Connection {
    // Whoever knows a reset token can end the connection. The keys wipe themselves.
    fn drop(&mut self) {
        self.service.iter_mut().for_each(|(_, token)| token.zeroize());
    }
}

/// [`Emit`] for any message, behind a pointer.
pub(super) trait WriteMessage {
    fn message_len(&self) -> usize;
    fn write_message(&self, out: &mut [u8]);
}

impl<M: Emit> WriteMessage for M {
    fn message_len(&self) -> usize {
        self.emitted_len()
    }

    fn write_message(&self, out: &mut [u8]) {
        self.write_range(0, out);
    }
}
