//! Writing packets into the host's buffer.

use super::Service;
use super::outbox::{Out, Say};
use super::record::{State, Table};
use super::timers::lease_of;
use super::web::Item;
use crate::batch::TransmitBatch;
use crate::crypto::{PacketKeys, seal_packet};
use crate::path::Path;
use crate::time::Instant;
use crate::wire::{
    AEAD_TAG, Close, DEVICE_IDENTIFIER, Direction, Emit, EndpointResponse, Failure, HEADER, Header,
    MIN_PACKET, PacketExtension, Posted, ProbeAnswer, SliceSink, Status, Subscribed, emit_plaintext_head,
};

/// Stores that a Status lists at most, so that it fits one packet.
const MAX_STATUS_STORES: usize = 96;

impl Service {
    /// Adds packets to the batch until it is full or nothing is left.
    pub(super) fn fill(&mut self, now: Instant, batch: &mut TransmitBatch) -> usize {
        self.now = self.now.max(now);
        let now = self.now;
        let before = batch.len();
        while batch.room().is_some() && !self.outbox.is_empty() && self.pace.is_free(now) {
            match self.outbox.pop() {
                // It has come by Web since.
                Some(Out::Say { slot, generation, to: None, say })
                    if self.table.hot[slot].generation == generation && self.is_web(slot) =>
                {
                    self.say_by_web(slot, Item::Say(say));
                }
                Some(out) => self.write(now, out, batch),
                None => break,
            }
        }
        self.spread();
        // Answers went first: if any of them waits for the pace, so does everything else.
        while batch.room().is_some() && self.ready.front().is_some() && self.pace.is_free(now) {
            let Some(slot) = self.ready.pop_front(&mut self.table.hot) else { break };
            if self.transmit(now, slot, batch) {
                self.ready.push_front(&mut self.table.hot, slot);
                break;
            }
        }
        batch.len() - before
    }

    /// Adds one packet to a batch that has room for it.
    pub(super) fn write(&mut self, now: Instant, out: Out, batch: &mut TransmitBatch) {
        let Some(room) = batch.room() else { return };
        let (path, len) = match out {
            Out::Small { path, len, bytes } => {
                let len = usize::from(len);
                room[..len].copy_from_slice(&bytes[..len]);
                (path, len)
            }
            Out::Large { path, bytes } => {
                room[..bytes.len()].copy_from_slice(&bytes);
                (path, bytes.len())
            }
            Out::Say { slot, generation, to, say } => {
                let hot = &self.table.hot[slot];
                let alive = hot.is_live() || hot.state == State::Closing;
                if !alive || hot.generation != generation {
                    return;
                }
                let path = to.unwrap_or_else(|| self.table.path(slot));
                let identifier = to.and_then(|to| self.called(slot, &to));
                let identifier = identifier.unwrap_or(self.table.ids[slot].device[0]);
                let say = self.fitted(slot, to, say);
                let len = self.write_say(now, (slot, identifier), say, path.is_web(), room);
                let allowed = match say {
                    Say::Endpoint { size, .. } => len <= size,
                    // To an address that was proven when it asked, and smaller than the request.
                    Say::ProbeAnswer { .. } => true,
                    _ => to.is_none_or(|to| {
                        to.is_web() || self.table.is_path(slot, &to) || self.may_send(slot, &to, len)
                    }),
                };
                if !allowed {
                    return;
                }
                (path, len)
            }
        };
        self.count_sent(now, len);
        batch.push(path, len);
    }

    /// A packet of so many bytes goes out.
    pub(super) fn count_sent(&mut self, now: Instant, len: usize) {
        self.pace.sent(now);
        self.stats.packets_sent += 1;
        self.stats.bytes_sent += len as u64;
    }

    /// A challenge is padded only if that much may go to where it goes: it matters more that it goes at all.
    fn fitted(&self, slot: u32, to: Option<Path>, say: Say) -> Say {
        match (say, to) {
            (Say::Challenge { challenge, pad: true }, Some(to)) => {
                Say::Challenge { challenge, pad: self.allowance(slot, &to) >= MIN_PACKET }
            }
            _ => say,
        }
    }

    /// Writes one message as a packet to the device, called by this identifier; returns its length.
    fn write_say(
        &mut self,
        now: Instant,
        (slot, identifier): (u32, [u8; DEVICE_IDENTIFIER]),
        say: Say,
        web: bool,
        room: &mut [u8],
    ) -> usize {
        let to = (slot, identifier);
        let number = self.table.take_number(slot);
        let probe = matches!(say, Say::Status { request: None, .. });
        let header = Header { wanted: probe, web, ..Header::single(number, Direction::ToInitiator) };
        match say {
            Say::Status { request, seen, unheard, granted } => {
                let owner = &self.table.owner[slot];
                let log = self.accounts.log(owner.account);
                let (told, filter) = (self.table.ids[slot].told, owner.filter);
                let stores = log.stores().filter(|(s, last)| filter.contains(*s) && *last > told);
                let status = Status {
                    request,
                    newest: log.newest(),
                    endpoint: (!web).then_some(seen),
                    service_time: self.calendar.unix(now),
                    stores: stores.take(MAX_STATUS_STORES),
                    unheard,
                    lease: granted.map(lease_of),
                };
                self.table.seal_message(to, &header, &[], &status, room)
            }
            Say::Subscribed { request, newest, lost } => {
                self.table.seal_message(to, &header, &[], &Subscribed { request, newest, lost }, room)
            }
            Say::Posted { request, serial } => {
                self.table.seal_message(to, &header, &[], &Posted { request, serial }, room)
            }
            Say::Failed { request, refusal } => {
                let (code, retry_after, detail) = (refusal.code(), refusal.retry_after(), refusal.detail());
                let failure = Failure { request, code, retry_after, detail: detail.as_str() };
                self.table.seal_message(to, &header, &[], &failure, room)
            }
            Say::Endpoint { request, path, .. } => {
                let echo = self.probe_echo(now, slot, &path);
                let response = EndpointResponse { request, endpoint: path.remote, echo };
                self.table.seal_message(to, &header, &[], &response, room)
            }
            Say::ProbeAnswer { request } => {
                self.table.seal_message(to, &header, &[], &ProbeAnswer { request }, room)
            }
            Say::Challenge { challenge, pad } => {
                let challenge = [PacketExtension::PathChallenge(challenge)];
                let least = if pad { MIN_PACKET } else { 0 };
                let keys = self.table.seal_keys(slot, &header, false);
                seal(&keys, identifier, &header, room, &challenge, (0, least), |_| {})
            }
            Say::Identifiers => {
                let identifiers = self.fresh_identifiers(slot);
                let issued = [PacketExtension::Identifiers(&identifiers)];
                self.table.seal_message(to, &header, &issued, &Nothing, room)
            }
            Say::Nothing => self.table.seal_message(to, &header, &[], &Nothing, room),
            Say::Close { code, retry_after } => {
                let close = PacketExtension::Close(Close { code, reason: "", retry_after });
                self.table.seal_message(to, &header, &[close], &Nothing, room)
            }
        }
    }
}

impl Table {
    /// Seals the only packet of a datagram; returns its length.
    pub(super) fn seal_message(
        &mut self,
        (slot, identifier): (u32, [u8; DEVICE_IDENTIFIER]),
        header: &Header,
        extensions: &[PacketExtension<'_>],
        message: &impl Emit,
        room: &mut [u8],
    ) -> usize {
        let keys = self.seal_keys(slot, header, false);
        seal(&keys, identifier, header, room, extensions, (message.emitted_len(), 0), |out| {
            message.write_range(0, out);
        })
    }
}

/// The content of an empty datagram.
struct Nothing;

impl Emit for Nothing {
    fn emit<S: crate::wire::Sink>(&self, _: &mut S) {}
}

/// Seals a packet whose fragment of `len` bytes is written by `fragment`; returns the length of the packet.
pub(super) fn seal_fragment(
    keys: &PacketKeys<'_>,
    identifier: [u8; DEVICE_IDENTIFIER],
    header: &Header,
    room: &mut [u8],
    len: usize,
    fragment: impl FnOnce(&mut [u8]),
) -> usize {
    seal(keys, identifier, header, room, &[], (len, 0), fragment)
}

/// [`seal_fragment`] with extensions, and with padding to `least` bytes.
fn seal(
    keys: &PacketKeys<'_>,
    identifier: [u8; DEVICE_IDENTIFIER],
    header: &Header,
    room: &mut [u8],
    extensions: &[PacketExtension<'_>],
    (len, least): (usize, usize),
    fragment: impl FnOnce(&mut [u8]),
) -> usize {
    let start = DEVICE_IDENTIFIER + HEADER;
    room[..DEVICE_IDENTIFIER].copy_from_slice(&identifier);
    let mut sink = SliceSink::new(&mut room[start..]);
    emit_plaintext_head(&mut sink, extensions, len);
    let head = sink.finish().expect("the head of a packet fits");
    let message_end = start + head + len;
    fragment(&mut room[start + head..message_end]);
    let end = message_end.max(least.saturating_sub(AEAD_TAG));
    room[message_end..end].fill(0);
    let packet = &mut room[..end + AEAD_TAG];
    seal_packet(keys, packet, DEVICE_IDENTIFIER, header.encode(), header.nonce_input());
    packet.len()
}
