//! Requests of devices whose networks let no UDP through (SPEC.md, "The Web Service transport: the service").
//!
//! A request brings one packet, and its answer takes along what there is to say. If there is nothing, the request may be
//! held until there is. What that takes is not in the devices' records: few devices come by Web.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::net::SocketAddr;
use core::num::NonZeroUsize;
use core::time::Duration;

use hashbrown::HashTable;

use super::Progress;
use super::Service;
use super::beside::{Beside, SideTable};
use super::outbox::{Out, Say};
use super::record::{State, flag};
use super::timers::{SENDING, WEB};
use crate::batch::TransmitBatch;
use crate::ids::RequestId;
use crate::path::{Datagram, Disposition, DropReason, LinkId, Path};
use crate::pool::NIL;
use crate::rud::replay::Seen;
use crate::time::Instant;
use crate::wheel::Node;
use crate::wire::{Kind, MAX_PACKET, MAX_PACKETS, classify_service, put_web_packet};

/// A request is held so long at most, whatever it asks for.
const MAX_WAIT: Duration = Duration::from_secs(55);
/// And no longer than so long before the end of the lease.
const BEFORE_LEASE: Duration = Duration::from_secs(10);
/// Answers that may wait for the host to ask for them.
const MAX_ANSWERS: usize = 4096;
/// What may wait to be said to one device until it asks again. As many fit one answer.
const MAX_WAITING: usize = MAX_PACKETS;

/// The host's name for one HTTP request: no two that are not answered have the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WebId(pub u64);

/// One HTTP request `POST /.well-known/mmmpresence`.
#[derive(Debug)]
pub struct WebRequest<'a> {
    /// Its name, by which [`Service::poll_web`] gives its answer.
    pub id: WebId,
    /// Where it came from: the client, or whatever a proxy that the host trusts says of it.
    pub remote: SocketAddr,
    /// For how long it may be held, `?wait=` of its query: 1 to 55 s. None: it is answered at once.
    pub wait: Option<Duration>,
    /// Its body, which is one packet. It is decrypted in place; unless the answer is [`Disposition::Accepted`] its bytes
    /// are left as they were.
    pub packet: &'a mut [u8],
}

/// What there is of devices that come by Web, beyond their records: nothing for those with whom nothing is pending.
#[derive(Debug)]
pub(super) struct Web {
    pub(super) desks: SideTable<Desk>,
    /// The desks that hold a request, by its name.
    by_id: HashTable<u32>,
    limit: usize,
    /// What is to be answered when the host asks for answers.
    answers: VecDeque<Answer>,
    /// The request that is being dealt with.
    current: Option<Current>,
    /// Where packets are written before they go into an answer, once one was.
    scratch: Option<Box<TransmitBatch>>,
}

/// What is pending with one device.
#[derive(Debug, Default)]
pub(super) struct Desk {
    pub(super) timer: Node,
    slot: u32,
    held: Option<Held>,
    /// What goes into the next answer.
    waiting: VecDeque<Item>,
}

impl Beside for Desk {
    fn slot(&self) -> u32 {
        self.slot
    }
}

/// A request that waits for something to say.
#[derive(Clone, Copy, Debug)]
struct Held {
    id: WebId,
    until: Instant,
    asked: Option<Asked>,
}

/// A Heartbeat that is answered when its request is.
#[derive(Clone, Copy, Debug)]
struct Asked {
    request: RequestId,
    granted: Option<u16>,
}

/// One packet for an answer.
#[derive(Debug)]
pub(super) enum Item {
    Say(Say),
    /// Sealed already.
    Sealed(Box<[u8]>),
}

/// A request on its way to its answer.
#[derive(Debug)]
struct Answer {
    id: WebId,
    to: Whom,
}

#[derive(Debug)]
enum Whom {
    /// Nothing is said, to whoever it is.
    Nobody,
    /// What answers an exchange, or a packet of a connection that is gone.
    Stranger(Box<[u8]>),
    Device {
        slot: u32,
        generation: u16,
        asked: Option<Asked>,
    },
}

/// What came of the packet of a request.
#[derive(Debug)]
struct Current {
    /// Whose it is. Nothing that it causes answers another request of the same device.
    slot: u32,
    seen: Seen,
    /// Whether none of its connection that was sent later has come.
    newest: bool,
    reply: Option<Box<[u8]>>,
    asked: Option<Asked>,
}

impl Web {
    /// Room for so many connections, and for so many requests that are held.
    pub(super) fn new(capacity: u32, limit: u32) -> Self {
        Self {
            desks: SideTable::new(capacity),
            by_id: HashTable::new(),
            limit: limit as usize,
            answers: VecDeque::new(),
            current: None,
            scratch: None,
        }
    }

    /// Requests that are held.
    pub(super) fn held(&self) -> usize {
        self.by_id.len()
    }

    /// Whether nobody waits for an answer that could be given.
    pub(super) fn is_drained(&self) -> bool {
        self.answers.is_empty()
    }

    /// The desk of a device, made if there is none.
    fn desk(&mut self, slot: u32) -> Option<u32> {
        self.desks.find(slot).or_else(|| self.desks.insert(Desk { slot, ..Desk::default() }))
    }

    /// Takes the request that a desk holds.
    fn take_held(&mut self, at: u32) -> Option<Held> {
        let held = self.desks.get_mut(at)?.held.take()?;
        if let Ok(entry) = self.by_id.find_entry(hash_id(held.id), |found| *found == at) {
            entry.remove();
        }
        Some(held)
    }

    fn put_held(&mut self, at: u32, held: Held) {
        self.desks[at].held = Some(held);
        let desks = &self.desks;
        let id_of = |at: &u32| desks[*at].held.map_or(WebId(0), |held| held.id);
        self.by_id.insert_unique(hash_id(held.id), at, |at| hash_id(id_of(at)));
    }

    /// Gives up a desk with which nothing is pending. Its timer is not set.
    fn tidy(&mut self, at: u32) {
        if self.desks.get(at).is_some_and(|d| d.held.is_none() && d.waiting.is_empty()) {
            self.desks.remove(at);
        }
    }

    /// The request that is being dealt with, if it is this device's.
    fn current_of(&mut self, slot: u32) -> Option<&mut Current> {
        self.current.as_mut().filter(|current| current.slot == slot)
    }

    /// What answers the request that is being dealt with, when it is an exchange or of a connection that is gone.
    pub(super) fn reply(&mut self, packet: Box<[u8]>) {
        if let Some(current) = &mut self.current {
            current.reply = Some(packet);
        }
    }

    /// Whether a request of this connection can be held: there is a place, or it has the one of the request before.
    fn has_place(&self, slot: u32) -> bool {
        self.by_id.len() < self.limit || self.desks.find(slot).is_some_and(|at| self.desks[at].held.is_some())
    }

    /// From here on the request that is being dealt with is known to be one of this connection.
    pub(super) fn begin(&mut self, slot: u32) {
        if let Some(current) = &mut self.current {
            current.slot = slot;
        }
    }

    /// The request that is being dealt with is not to be held.
    pub(super) fn is_urgent(&mut self) {
        if let Some(current) = &mut self.current {
            current.newest = false;
        }
    }

    /// Whether its packet had come before, and whether any that was sent later has.
    pub(super) fn judged(&mut self, seen: Seen, newest: bool) {
        if let Some(current) = &mut self.current {
            (current.seen, current.newest) = (seen, newest);
        }
    }
}

/// The host counts its requests: nobody else chooses their names.
const fn hash_id(id: WebId) -> u64 {
    id.0.wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

impl Service {
    /// Takes an HTTP request. [`Disposition::Accepted`]: [`poll_web`](Self::poll_web) gives its answer, now or later, once.
    /// [`Disposition::OtherShard`], [`Disposition::OtherNode`]: it belongs there. Anything else the host answers itself, with
    /// an empty body: 503 and a `Retry-After` if the reason is [`DropReason::Capacity`], [`DropReason::RateLimited`] or
    /// [`DropReason::Closed`], 413 if it is [`DropReason::Size`], else 400. Nothing is held for what is not authentic.
    pub fn handle_web_request(&mut self, now: Instant, request: WebRequest<'_>) -> Disposition {
        while self.handle_timeout(now, NonZeroUsize::MAX) == Progress::More {}
        let WebRequest { id, remote, wait, packet } = request;
        let size = packet.len() as u64;
        self.stats.web_requests += 1;
        let wait = wait.map(|wait| wait.min(MAX_WAIT));
        self.web.current =
            Some(Current { slot: NIL, seen: Seen::TooOld, newest: false, reply: None, asked: None });
        let datagram = Datagram { path: Path::new(LinkId::WEB, remote), payload: packet };
        let disposition = match classify_service(datagram.payload) {
            _ if datagram.payload.len() > MAX_PACKET => Disposition::Dropped(DropReason::Size),
            _ if self.web.answers.len() >= MAX_ANSWERS => Disposition::Dropped(DropReason::Capacity),
            Kind::Step1 => self.handle_step1(now, datagram),
            Kind::Data => self.handle_data(now, datagram),
            // Whoever asks by Web where it is learns nothing of its way by UDP.
            Kind::Stun | Kind::None => Disposition::NotForUs,
        };
        self.tally(disposition, size);
        let Some(mut current) = self.web.current.take() else { return disposition };
        match (disposition, current.reply.take()) {
            (Disposition::Accepted, _) if current.slot != NIL => self.settle(now, id, wait, &current),
            (Disposition::Accepted, None) => self.web.answers.push_back(Answer { id, to: Whom::Nobody }),
            // That a connection is gone is worth an answer, though the packet counts as dropped.
            (Disposition::Accepted | Disposition::Dropped(DropReason::StaleIdentifier), Some(reply)) => {
                self.web.answers.push_back(Answer { id, to: Whom::Stranger(reply) });
                return Disposition::Accepted;
            }
            _ => {}
        }
        disposition
    }

    /// The client of a request has hung up: it gets no answer any more.
    pub fn handle_web_closed(&mut self, now: Instant, id: WebId) {
        self.now = self.now.max(now);
        let held = |at: &u32| self.web.desks[*at].held.is_some_and(|held| held.id == id);
        if let Some(at) = self.web.by_id.find(hash_id(id), held).copied() {
            self.web.take_held(at);
            self.cancel(at | WEB);
            self.web.tidy(at);
        } else {
            self.web.answers.retain(|answer| answer.id != id);
        }
    }

    /// The next answer: whose it is, and in `out`, which is cleared first, the body of a response 200. Like
    /// [`poll_transmit`](Self::poll_transmit), to be called after everything else until it gives nothing.
    pub fn poll_web(&mut self, now: Instant, out: &mut Vec<u8>) -> Option<WebId> {
        self.now = self.now.max(now);
        let now = self.now;
        self.spread();
        if self.web.answers.is_empty() || !self.pace.is_free(now) {
            return None;
        }
        let Answer { id, to } = self.web.answers.pop_front()?;
        out.clear();
        match to {
            Whom::Nobody => {}
            Whom::Stranger(packet) => {
                self.count_sent(now, packet.len());
                put_web_packet(out, &packet);
            }
            Whom::Device { slot, generation, asked } => self.compose(now, slot, generation, asked, out),
        }
        Some(id)
    }

    /// Whether the device's newest packet came by Web.
    pub(super) fn is_web(&self, slot: u32) -> bool {
        self.table.hot[slot].is_web()
    }

    /// An authentic request of a device: it is answered if there is something to say, or if it is not to be held.
    fn settle(&mut self, now: Instant, id: WebId, wait: Option<Duration>, current: &Current) {
        let Current { slot, seen, newest, asked, .. } = *current;
        let hot = &self.table.hot[slot];
        let generation = hot.generation;
        // Whoever copies a request gets nothing that is meant for the device, and no place to wait.
        if seen != Seen::New && hot.state != State::Closing {
            return self.web.answers.push_back(Answer { id, to: Whom::Nobody });
        }
        let may_wait = newest && hot.is_live() && hot.is_web();
        let due = self.due_by_web(now, slot);
        let wait = wait.filter(|_| may_wait && due.is_none_or(|at| at > now));
        // No failure: the device is served, and asks again after a while. Refused it would look for another connection,
        // for which there is no more room.
        let has_place = self.web.has_place(slot);
        self.stats.web_no_place += u64::from(wait.is_some() && !has_place);
        if let Some(wait) = wait.filter(|_| has_place)
            && let Some(at) = self.web.desk(slot)
        {
            // A device that says that it asks often is answered before its lease ends.
            let until = now + wait.min(self.lease(slot).saturating_sub(BEFORE_LEASE));
            // One of a connection at a time: the newer one is what the device waits for.
            self.release(at);
            if let Some(at) = self.web.desk(slot) {
                self.web.put_held(at, Held { id, until, asked });
                self.stats.web_held_in_all += 1;
                return self.schedule(at | WEB, due.map_or(until, |due| due.min(until)), now);
            }
        }
        self.web.answers.push_back(Answer { id, to: Whom::Device { slot, generation, asked } });
    }

    /// Answers the request that a desk holds, if it holds one.
    fn release(&mut self, at: u32) {
        if let Some(Held { id, asked, .. }) = self.web.take_held(at) {
            let slot = self.web.desks[at].slot;
            let generation = self.table.hot[slot].generation;
            self.web.answers.push_back(Answer { id, to: Whom::Device { slot, generation, asked } });
            self.cancel(at | WEB);
            self.web.tidy(at);
        }
    }

    /// When there is something to say to a device: now or earlier if there is, or when what it has not acknowledged is
    /// due again.
    fn due_by_web(&mut self, now: Instant, slot: u32) -> Option<Instant> {
        if self.web.desks.find(slot).is_some_and(|at| !self.web.desks[at].waiting.is_empty()) {
            return Some(now);
        }
        let hot = &self.table.hot[slot];
        if !hot.is_live() {
            return None;
        }
        let newest = self.accounts.log(self.table.owner[slot].account).newest();
        if hot.sending == NIL && (self.table.ids[slot].told >= newest || !self.begin(now, slot)) {
            return None;
        }
        let hot = &self.table.hot[slot];
        if hot.has(flag::URGENT) || self.is_outdated(now, slot) {
            return Some(now);
        }
        let hot = &self.table.hot[slot];
        Some(self.sendings[hot.sending].flight().due_by_web(&hot.rtt))
    }

    /// There may be something to say to a device: if a request of it is held, and there is, it is answered.
    pub(super) fn news_by_web(&mut self, slot: u32) {
        if self.web.current_of(slot).is_some() {
            return;
        }
        let Some(at) = self.web.desks.find(slot) else { return };
        let Some(Held { until, .. }) = self.web.desks[at].held else { return };
        let now = self.now;
        match self.due_by_web(now, slot) {
            Some(due) if due <= now => self.release(at),
            Some(due) => self.schedule(at | WEB, due.min(until), now),
            None => {}
        }
    }

    /// Says something in the next answer.
    pub(super) fn say_by_web(&mut self, slot: u32, item: Item) {
        let Some(at) = self.web.desk(slot) else { return };
        let waiting = &mut self.web.desks[at].waiting;
        if waiting.len() >= MAX_WAITING {
            waiting.pop_front();
            self.stats.web_unsaid += 1;
        }
        waiting.push_back(item);
        self.news_by_web(slot);
    }

    /// A Heartbeat is answered when its request is, if that came by Web; false: it did not.
    pub(super) fn status_by_web(&mut self, slot: u32, request: RequestId, granted: Option<u16>) -> bool {
        let current = self.web.current_of(slot);
        current.map(|current| current.asked = Some(Asked { request, granted })).is_some()
    }

    /// The device has come by Web: its path is that of its newest request.
    pub(super) fn come_by_web(&mut self, slot: u32, path: Path) {
        if self.is_web(slot) {
            // Where requests come from is no address to send to, so it is not followed.
            self.table.set_path(slot, &path);
        } else {
            self.drop_validation(slot);
            self.ready.remove(&mut self.table.hot, slot);
            let sending = self.table.hot[slot].sending;
            if sending != NIL {
                self.cancel(sending | SENDING);
            }
            self.move_to(slot, path, false);
            self.stats.migrations += 1;
        }
    }

    /// The device is followed to UDP: what waited for its next request goes there.
    pub(super) fn leave_web(&mut self, slot: u32) {
        let Some(at) = self.web.desks.find(slot) else { return };
        let generation = self.table.hot[slot].generation;
        for item in core::mem::take(&mut self.web.desks[at].waiting) {
            match item {
                Item::Say(say) => self.outbox.say(slot, generation, None, say),
                // It says that it was sent by Web. The device asks again.
                Item::Sealed(_) => self.stats.web_unsaid += 1,
            }
        }
        self.release(at);
        self.web.tidy(at);
    }

    /// The connection has ended: what was held for it is answered with nothing.
    pub(super) fn drop_desk(&mut self, slot: u32) {
        if let Some(at) = self.web.desks.find(slot) {
            self.web.desks[at].waiting.clear();
            self.release(at);
            self.web.tidy(at);
        }
    }

    /// The timer of a request that is held fired: its time is over, or what was said before is due again.
    pub(super) fn web_timer(&mut self, now: Instant, at: u32) {
        let Some(Held { until, .. }) = self.web.desks[at].held else { return };
        let due = self.due_by_web(now, self.web.desks[at].slot);
        if until <= now || due.is_some_and(|due| due <= now) {
            self.release(at);
        } else {
            self.schedule(at | WEB, due.map_or(until, |due| due.min(until)), now);
        }
    }

    /// Writes what there is to say to a device: answers first, then what it is owed, 16 packets at most.
    fn compose(&mut self, now: Instant, slot: u32, generation: u16, asked: Option<Asked>, out: &mut Vec<u8>) {
        let hot = &self.table.hot[slot];
        if hot.generation != generation || !(hot.is_live() || hot.state == State::Closing) {
            return;
        }
        let path = Path::new(LinkId::WEB, hot.remote());
        let mut batch = self.web.scratch.take().unwrap_or_else(|| Box::new(TransmitBatch::new(MAX_PACKETS)));
        batch.clear();
        if let Some(Asked { request, granted }) = asked {
            let say = Say::Status { request: Some(request), seen: path.remote, unheard: 0, granted };
            self.write(now, Out::Say { slot, generation, to: Some(path), say }, &mut batch);
        }
        if self.is_web(slot) {
            self.write_waiting(now, slot, generation, path, &mut batch);
            if self.table.hot[slot].is_live() {
                self.transmit_by_web(now, slot, &mut batch);
            }
        }
        if batch.is_empty() && self.table.hot[slot].is_live() {
            // That it came is news to the device.
            self.write(now, Out::Say { slot, generation, to: Some(path), say: Say::Nothing }, &mut batch);
        }
        batch.iter().for_each(|(_, packet)| put_web_packet(out, packet));
        self.web.scratch = Some(batch);
    }

    fn write_waiting(
        &mut self,
        now: Instant,
        slot: u32,
        generation: u16,
        path: Path,
        batch: &mut TransmitBatch,
    ) {
        let Some(at) = self.web.desks.find(slot) else { return };
        while batch.room().is_some()
            && let Some(item) = self.web.desks[at].waiting.pop_front()
        {
            let out = match item {
                Item::Say(say) => Out::Say { slot, generation, to: Some(path), say },
                Item::Sealed(bytes) => Out::Large { path, bytes },
            };
            self.write(now, out, batch);
        }
        self.web.tidy(at);
    }

    /// Adds what the device is owed and has not been told, or not acknowledged in time.
    fn transmit_by_web(&mut self, now: Instant, slot: u32, batch: &mut TransmitBatch) {
        if self.due_by_web(now, slot).is_none_or(|due| due > now) || !self.renew_sending(now, slot) {
            return;
        }
        let sending = self.table.hot[slot].sending;
        if self.sendings[sending].flight_mut().repeat_by_web() {
            // Sent as often as it may be: it goes on under a new number.
            self.begin_again(slot);
        }
        if self.table.hot[slot].sending != NIL {
            self.send_packets(now, slot, batch);
        }
    }
}
