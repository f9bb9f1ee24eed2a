//! Devices that are reached through the Web Service (SPEC.md, "The Web Service transport"). Their packets are the bodies
//! of requests, and what goes to them is the answer to one: to the one at hand, or to one that waits for it.
//!
//! Nothing is repeated by a timer on this path. What has not been acknowledged goes along with the answer to the next
//! request that waits.

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::net::SocketAddr;
use core::num::NonZeroUsize;
use core::time::Duration;

use hashbrown::HashTable;

use super::outbox::{Out, Say};
use super::paths::hash;
use super::record::flag;
use super::{Progress, Service};
use crate::batch::TransmitBatch;
use crate::path::{Datagram, Disposition, DropReason, LinkId, Path};
use crate::pool::{NIL, Slab};
use crate::time::Instant;
use crate::wheel::Node;
use crate::wire::{Kind, MAX_PACKET, MAX_PACKETS, classify_service};

/// The longest that a request is held.
const MAX_WAIT: Duration = Duration::from_secs(55);
/// A request is answered so long before the lease of its device ends, so that the next one comes in time.
const BEFORE_LEASE: Duration = Duration::from_secs(10);
/// What waits for the next answer to a device, beside notifications. A device that makes requests takes it sooner.
const MAX_SAYS: usize = MAX_PACKETS - 1;

/// The host's name for one request to its Web Service: no two that wait have the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WebId(pub u64);

/// One request to the Web Service.
#[derive(Debug)]
pub struct WebRequest<'a> {
    /// What the answer will be called.
    pub id: WebId,
    /// Who made it, as far as the host knows: the limits for strangers go by it.
    pub remote: SocketAddr,
    /// How long it may wait for news, if it says that it may. 55 s at most.
    pub wait: Option<Duration>,
    /// The body: one packet, at most 1452 bytes. It is decrypted in place.
    pub packet: &'a mut [u8],
}

/// What is known of a device while its packets come by Web.
#[derive(Debug, Default)]
pub(super) struct Line {
    pub(super) timer: Node,
    slot: u32,
    /// The request that waits.
    held: Option<WebId>,
    /// The answer to the last heartbeat: a reason to answer a request only when there is no time left to wait for more.
    status: Option<Say>,
    says: Vec<Say>,
}

/// What is to be done about the request at hand.
#[derive(Clone, Copy, Debug)]
pub(super) struct Came {
    slot: u32,
    generation: u16,
    /// Whether it may wait.
    may_wait: bool,
}

/// The lines, found by the slot of their connection and by the request that waits, and the answers that the host has not
/// taken.
#[derive(Debug)]
pub(super) struct Lines {
    pub(super) slab: Slab<Line>,
    capacity: u32,
    by_slot: HashTable<u32>,
    by_id: HashTable<u32>,
    done: VecDeque<(WebId, Vec<u8>)>,
    /// Connections whose request that waits is to be answered.
    due: VecDeque<(u32, u16)>,
    came: Option<Came>,
    /// Where answers are written; made when there is the first one.
    batch: Option<TransmitBatch>,
}

impl Lines {
    /// Room for so many devices at once.
    pub(super) fn new(capacity: u32) -> Self {
        Self {
            slab: Slab::new(capacity),
            capacity,
            by_slot: HashTable::new(),
            by_id: HashTable::new(),
            done: VecDeque::new(),
            due: VecDeque::new(),
            came: None,
            batch: None,
        }
    }

    fn find(&self, slot: u32) -> Option<u32> {
        self.by_slot.find(hash(slot), |at| self.slab[*at].slot == slot).copied()
    }

    fn of(&mut self, slot: u32) -> Option<&mut Line> {
        let at = self.find(slot)?;
        self.slab.get_mut(at)
    }

    /// Whether there is room for one more device.
    pub(super) const fn has_room_for_new(&self) -> bool {
        self.slab.len() < self.capacity
    }

    /// Whether there is room for this connection, or it is here.
    pub(super) fn has_room(&self, slot: u32) -> bool {
        self.has_room_for_new() || self.find(slot).is_some()
    }

    /// The line of a connection, a new one if it has none; none if there is no room.
    pub(super) fn open(&mut self, slot: u32) -> Option<u32> {
        if let Some(at) = self.find(slot) {
            return Some(at);
        }
        let at = self.slab.insert(Line { slot, ..Line::default() })?;
        let slab = &self.slab;
        self.by_slot.insert_unique(hash(slot), at, |at| hash(slab[*at].slot));
        Some(at)
    }

    fn remove(&mut self, at: u32) -> Option<Line> {
        self.let_go(at);
        let gone = self.slab.remove(at)?;
        if let Ok(entry) = self.by_slot.find_entry(hash(gone.slot), |found| *found == at) {
            entry.remove();
        }
        Some(gone)
    }

    /// Makes this the request that waits.
    fn hold(&mut self, at: u32, id: WebId) {
        self.slab[at].held = Some(id);
        let slab = &self.slab;
        let key = |at: &u32| slab[*at].held.map_or(0, name_hash);
        self.by_id.insert_unique(name_hash(id), at, key);
    }

    /// The request that waits does not any more.
    fn let_go(&mut self, at: u32) -> Option<WebId> {
        let id = self.slab.get_mut(at)?.held.take()?;
        if let Ok(entry) = self.by_id.find_entry(name_hash(id), |found| *found == at) {
            entry.remove();
        }
        Some(id)
    }

    fn holder(&self, id: WebId) -> Option<u32> {
        self.by_id.find(name_hash(id), |at| self.slab[*at].held == Some(id)).copied()
    }

    fn answer(&mut self, id: WebId, body: Vec<u8>) {
        self.done.push_back((id, body));
    }

    /// Devices that are here now, and requests that wait.
    pub(super) fn len(&self) -> (usize, usize) {
        (self.by_slot.len(), self.by_id.len())
    }

    /// Whether every answer has been taken, and every request that waits is to go on waiting.
    pub(super) fn is_idle(&self) -> bool {
        self.done.is_empty() && self.due.is_empty()
    }
}

/// Names are the host's own numbers: nobody else chooses them.
const fn name_hash(WebId(id): WebId) -> u64 {
    (id ^ id >> 32).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// A packet of an answer, with its length in front.
fn add(body: &mut Vec<u8>, packet: &[u8]) {
    let len = u16::try_from(packet.len()).unwrap_or(0);
    body.extend_from_slice(&len.to_be_bytes());
    body.extend_from_slice(packet);
}

impl Service {
    /// Takes a request to the Web Service. If it is [`Disposition::Accepted`], [`poll_web`](Self::poll_web) gives its answer,
    /// now or later and exactly once, unless [`handle_web_closed`](Self::handle_web_closed) is faster. What is for
    /// another shard or node is handed over there. Else the host answers at once and without a body: with 503 if it was
    /// dropped for [`DropReason::Capacity`], [`DropReason::RateLimited`] or [`DropReason::Closed`], else with 400.
    pub fn handle_web_request(&mut self, now: Instant, request: WebRequest<'_>) -> Disposition {
        let WebRequest { id, remote, wait, packet } = request;
        // What is due comes first, so that the order of things does not depend on how often the host calls.
        while self.handle_timeout(now, NonZeroUsize::MAX) == Progress::More {}
        let path = Path::new(LinkId::WEB, remote);
        let size = packet.len();
        let kind = if size > MAX_PACKET { Kind::None } else { classify_service(packet) };
        self.lines.came = None;
        let disposition = match kind {
            Kind::Step1 => self.handle_step1(now, Datagram { path, payload: packet }),
            Kind::Data => self.handle_data(now, Datagram { path, payload: packet }),
            // What else comes to the port of a service is no packet of a device.
            Kind::Stun | Kind::None => Disposition::Dropped(DropReason::Size),
        };
        self.count(disposition, size);
        // An answer to a stranger, or to an exchange.
        if let Some(out) = self.outbox.pop_web() {
            let mut body = Vec::new();
            match &out {
                Out::Small { len, bytes, .. } => add(&mut body, &bytes[..usize::from(*len)]),
                Out::Large { bytes, .. } => add(&mut body, bytes),
                Out::Say { .. } => {}
            }
            self.count_sent(now, body.len() - 2);
            self.lines.answer(id, body);
            return Disposition::Accepted;
        }
        if disposition != Disposition::Accepted {
            return disposition;
        }
        match self.lines.came.take() {
            Some(came) => self.serve(now, id, came, wait),
            // A copy, or older than what is known: it gets nothing and is not held.
            None => self.lines.answer(id, Vec::new()),
        }
        Disposition::Accepted
    }

    /// The client of this request has gone: it is not answered any more.
    pub fn handle_web_closed(&mut self, _now: Instant, id: WebId) {
        if let Some(at) = self.lines.holder(id) {
            self.cancel_line(at);
            self.lines.let_go(at);
        }
        self.lines.done.retain(|(done, _)| *done != id);
    }

    /// The next answer that is ready: its request, and in `out`, which is cleared first, the body. To be asked when
    /// [`poll_transmit`](Self::poll_transmit) gives nothing any more, until this gives nothing either.
    pub fn poll_web(&mut self, now: Instant, out: &mut Vec<u8>) -> Option<WebId> {
        self.now = self.now.max(now);
        while let Some((slot, generation)) = self.lines.due.pop_front() {
            if self.table.hot[slot].generation == generation
                && let Some(at) = self.lines.find(slot).filter(|at| self.lines.slab[*at].held.is_some())
                && (!self.lines.slab[at].says.is_empty() || self.has_news(slot))
                && let Some(id) = self.lines.let_go(at)
            {
                self.cancel_line(at);
                self.answer_web(self.now, slot, id, false);
            }
        }
        let (id, body) = self.lines.done.pop_front()?;
        out.clear();
        out.extend_from_slice(&body);
        Some(id)
    }

    /// Answers the request at hand, or holds it.
    fn serve(&mut self, now: Instant, id: WebId, came: Came, wait: Option<Duration>) {
        let Came { slot, generation, may_wait } = came;
        let Some(at) = self.lines.find(slot).filter(|_| self.table.hot[slot].generation == generation) else {
            return self.lines.answer(id, Vec::new());
        };
        if !self.table.is_web(slot) {
            return self.lines.answer(id, Vec::new());
        }
        let wait = wait.filter(|_| may_wait && self.table.hot[slot].is_live());
        if let Some(wait) = wait {
            // One at a time: the device has given up the older one, or will be content with less.
            self.cancel_line(at);
            if let Some(older) = self.lines.let_go(at) {
                self.lines.answer(older, Vec::new());
            }
            self.send_again(slot);
            if self.lines.slab[at].says.is_empty() && !self.has_news(slot) {
                let longest = MAX_WAIT.min(self.lease(slot).saturating_sub(BEFORE_LEASE));
                self.lines.hold(at, id);
                self.schedule_line(at, now + wait.min(longest), now);
                return;
            }
        }
        self.answer_web(now, slot, id, wait.is_none());
    }

    /// A request has waited for as long as it may.
    pub(super) fn line_timer(&mut self, now: Instant, at: u32) {
        let slot = self.lines.slab[at].slot;
        if let Some(id) = self.lines.let_go(at) {
            self.answer_web(now, slot, id, false);
        }
    }

    /// A packet that is new came by Web: that is where its device is, and the answers go.
    pub(super) fn came_by_web(&mut self, slot: u32, path: Path, newest: bool) {
        let hot = &self.table.hot[slot];
        // What confirms a connection is answered at once.
        let may_wait = newest && hot.has(flag::CONNECTED);
        self.lines.came = Some(Came { slot, generation: hot.generation, may_wait });
        if !newest {
            return;
        }
        let moved = !self.table.is_web(slot);
        self.table.set_path(slot, &path);
        if moved {
            self.drop_validation(slot);
            self.drop_probe(slot);
            let sending = self.table.hot[slot].sending;
            if sending != NIL {
                self.cancel_sending(sending);
            }
            let hot = &mut self.table.hot[slot];
            (hot.rtt, hot.window) = Default::default();
            hot.set(flag::MOVED);
            self.announce(slot);
            self.stats.to_web += 1;
            self.send_again(slot);
        }
    }

    /// The device is reached by UDP again, at `path`: what waits for it goes there, and a request that waits has nothing to
    /// wait for.
    pub(super) fn leave_web(&mut self, slot: u32, path: &Path) {
        let says = self.lines.of(slot).map(|line| core::mem::take(&mut line.says)).unwrap_or_default();
        self.drop_line(slot);
        self.table.set_path(slot, path);
        says.into_iter().for_each(|say| self.say(slot, say));
    }

    /// The device is elsewhere, or gone.
    pub(super) fn drop_line(&mut self, slot: u32) {
        let Some(at) = self.lines.find(slot) else { return };
        self.cancel_line(at);
        if let Some(id) = self.lines.let_go(at) {
            self.lines.answer(id, Vec::new());
        }
        self.lines.remove(at);
    }

    /// Says something to a device on the Web path: with the next answer, for which a request may be waiting.
    pub(super) fn say_by_web(&mut self, slot: u32, say: Say) {
        let generation = self.table.hot[slot].generation;
        let Some(line) = self.lines.of(slot) else { return };
        match say {
            Say::Status { request: Some(_), .. } => line.status = Some(say),
            // There is no way to ask a device anything.
            Say::Status { request: None, .. } | Say::Challenge { .. } => {}
            say => {
                if line.says.len() >= MAX_SAYS {
                    line.says.remove(0);
                }
                line.says.push(say);
                self.lines.due.push_back((slot, generation));
            }
        }
    }

    /// There may be news for a device on the Web path.
    pub(super) fn ready_by_web(&mut self, slot: u32) {
        let generation = self.table.hot[slot].generation;
        if self.lines.of(slot).is_some_and(|line| line.held.is_some()) {
            self.lines.due.push_back((slot, generation));
        }
    }

    /// What has been sent and not acknowledged was lost with an answer, or is sent once more for nothing.
    fn send_again(&mut self, slot: u32) {
        let sending = self.table.hot[slot].sending;
        if let Some(sending) = self.sendings.get_mut(sending)
            && !sending.send_again()
        {
            self.drop_sending(slot);
        }
    }

    /// Whether there is a Notify to send.
    fn has_news(&mut self, slot: u32) -> bool {
        self.table.hot[slot].is_live() && self.make_notify(self.now, slot)
    }

    /// Makes the answer to a request: what was said, and the Notify that is owed. One that did not wait is answered with
    /// something authentic in any case: else nobody could tell the service's answer from anybody else's.
    fn answer_web(&mut self, now: Instant, slot: u32, id: WebId, not_empty: bool) {
        let mut batch = self.lines.batch.take().unwrap_or_else(|| TransmitBatch::new(MAX_PACKETS));
        batch.clear();
        let path = self.table.path(slot);
        let mut says = Vec::new();
        if let Some(line) = self.lines.of(slot) {
            says = core::mem::take(&mut line.says);
            says.extend(line.status.take());
        }
        let has_news = self.has_news(slot);
        if says.is_empty() && !has_news && not_empty {
            says.push(Say::Empty);
        }
        for say in says {
            let Some(room) = batch.room() else { break };
            let len = self.write_say(now, slot, None, say, room);
            batch.push(path, len);
            self.count_sent(now, len);
        }
        if has_news {
            self.send_packets(now, slot, &mut batch);
        }
        let mut body = Vec::with_capacity(batch.iter().map(|(t, _)| t.len + 2 * MAX_PACKETS).sum());
        for (transmit, bytes) in batch.iter() {
            let size = transmit.segment_size.map_or(transmit.len.max(1), |size| usize::from(size.get()));
            bytes.chunks(size).for_each(|packet| add(&mut body, packet));
        }
        self.lines.answer(id, body);
        self.lines.batch = Some(batch);
    }

    /// Counts a packet that goes out.
    fn count_sent(&mut self, now: Instant, len: usize) {
        self.pace.sent(now);
        self.stats.packets_sent += 1;
        self.stats.bytes_sent += len as u64;
    }
}
