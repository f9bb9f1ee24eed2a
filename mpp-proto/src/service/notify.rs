//! Notifications: which device is owed what, and getting it there (SPEC.md, "Notify").

use super::Service;
use super::record::flag;
use super::timers::SENDING;
use crate::batch::TransmitBatch;
use crate::channel::{Listener, Plan, Stored};
use crate::ids::{Serial, StoreSet};
use crate::pool::NIL;
use crate::rud::flight::{Flight, Outcome};
use crate::time::{Calendar, Instant, UnixTime};
use crate::wheel::Node;
use crate::wire::{
    DEVICE_IDENTIFIER, Direction, Emit, EventRef, Header, MAX_PACKETS, MIN_PACKET, Notify, fragment_capacity,
};

/// What a Notify takes beside its events, at most: type, three serials, the time, two sets of stores, the end.
const NOTIFY_OVERHEAD: usize = 96;

/// A Notify in flight.
#[derive(Clone, Default)]
pub(super) struct Sending {
    pub(super) timer: Node,
    slot: u32,
    flight: Flight,
    /// What it says it covers starts after this serial, the last one of which the device was told something.
    told: Serial,
    plan: Plan,
    /// The length of the message.
    size: usize,
    /// The version of the log it was made from, and until when its events live: it is made anew when either changes
    /// what it says.
    version: u32,
    ends: Instant,
    /// The clock by which it says when events expire: the same for every packet of it, though the clock may be set.
    made: Made,
    /// What was asked to see whether small packets get through, and how many such questions were answered before.
    pub(super) asked: Option<([u8; 8], u8)>,
}

/// When a Notify was made, and by which clock.
#[derive(Clone, Copy, Debug)]
struct Made {
    at: Instant,
    calendar: Calendar,
}

impl Default for Made {
    fn default() -> Self {
        Self { at: Instant::ZERO, calendar: Calendar::new(Instant::ZERO, UnixTime::EPOCH) }
    }
}

impl Sending {
    pub(super) const fn flight(&self) -> &Flight {
        &self.flight
    }

    pub(super) const fn flight_mut(&mut self) -> &mut Flight {
        &mut self.flight
    }

    /// Which of its packets carry more than `most` bytes, if each carries as many as `capacity` allows.
    pub(super) fn larger_than(&self, most: usize, capacity: usize) -> u16 {
        let part = |i: u8| self.size.saturating_sub(usize::from(i) * capacity).min(capacity);
        (0..self.flight.count()).filter(|i| part(*i) > most).fold(0, |set, i| set | 1 << i)
    }
}

impl Service {
    /// Looks at the devices of the accounts that got events.
    pub(super) fn spread(&mut self) {
        while let Some(account) = self.dirty.pop_front() {
            let a = self.accounts.get_mut(account);
            let urgent = core::mem::take(&mut a.urgent);
            a.dirty = false;
            let mut next = a.devices.front();
            while let Some(slot) = next {
                next = self.table.owner[slot].sibling.next();
                let hot = &mut self.table.hot[slot];
                if !hot.is_live() || hot.has(flag::SILENT) {
                    continue;
                }
                if urgent && hot.sending != NIL {
                    hot.set(flag::URGENT);
                }
                if urgent || hot.sending == NIL {
                    self.make_ready(slot);
                }
            }
        }
    }

    /// There may be something to send to a device. By Web that goes into the answer to a request, if one is held.
    fn make_ready(&mut self, slot: u32) {
        if self.is_web(slot) {
            self.news_by_web(slot);
        } else {
            self.ready.push_back(&mut self.table.hot, slot);
        }
    }

    /// If the device is owed something and nothing is on its way, it will be.
    pub(super) fn check_owed(&mut self, slot: u32) {
        let hot = &self.table.hot[slot];
        let newest = self.accounts.log(self.table.owner[slot].account).newest();
        if hot.is_live() && hot.sending == NIL && self.table.ids[slot].told < newest {
            self.make_ready(slot);
        }
    }

    /// The device has just been heard, for the first time since `silent_since`. What it is owed goes out now, also what
    /// was sent into the silence: a NAT box that had forgotten it knows it again.
    pub(super) fn reached(&mut self, now: Instant, slot: u32, silent_since: Instant) {
        let sending = self.table.hot[slot].sending;
        let Some(sending) = self.sendings.get_mut(sending) else { return self.check_owed(slot) };
        match sending.flight.reached_again(now, silent_since) {
            Outcome::Nothing | Outcome::Complete | Outcome::GivenUp => {}
            Outcome::Progress => self.make_ready(slot),
            Outcome::Exhausted => self.replace(slot),
        }
    }

    /// Sends what may be sent to a device now. True if it has more than the batch had room for or the pace allowed.
    pub(super) fn transmit(&mut self, now: Instant, slot: u32, batch: &mut TransmitBatch) -> bool {
        if !self.renew_sending(now, slot) {
            return false;
        }
        let more = self.send_packets(now, slot, batch);
        let hot = &self.table.hot[slot];
        let sending = &self.sendings[hot.sending];
        let heard = self.table.heard(slot, now);
        // One that waits for the pace of the service is looked at when that allows, not before.
        if let Some(at) = sending.flight.deadline(&hot.rtt, hot.window, heard).filter(|at| !more || *at > now)
        {
            self.schedule(hot.sending | SENDING, at, now);
        }
        more
    }

    /// Sees to it that the Notify in flight is the one that is to be sent. False if there is nothing to say.
    pub(super) fn renew_sending(&mut self, now: Instant, slot: u32) -> bool {
        let urgent = self.table.hot[slot].has(flag::URGENT);
        self.table.hot[slot].clear(flag::URGENT);
        let sending = self.table.hot[slot].sending;
        if sending != NIL && !urgent && !self.is_outdated(now, slot) {
            return true;
        }
        let pace = self.sendings.get(sending).map(|replaced| replaced.flight.pace());
        self.drop_sending(slot);
        if !self.begin(now, slot) {
            return false;
        }
        if let Some(pace) = pace {
            self.sendings[self.table.hot[slot].sending].flight.keep_pace(pace);
        }
        true
    }

    /// Makes the next Notify for a device. False if there is nothing to say.
    pub(super) fn begin(&mut self, now: Instant, slot: u32) -> bool {
        let listener = self.listener(slot);
        let account = self.table.owner[slot].account;
        let capacity = self.capacity(slot);
        let room = capacity * MAX_PACKETS - NOTIFY_OVERHEAD;
        let made = Made { at: now, calendar: self.calendar };
        let log = self.accounts.log(account);
        let plan = log.plan(&listener, now, room, |stored| made.event(stored).item_len());
        if plan.is_empty() {
            // All of it was filtered, expired or superseded: that is as good as told.
            self.table.ids[slot].told = plan.upto;
            self.accounts.books += plan.books;
            return false;
        }
        // What was as good as told the device has not heard of: for it this Notify begins where the last one ended.
        let told = log.last_said(&listener, now, listener.told);
        let owed = || log.owed(&listener, now, plan.upto);
        let ends = owed().map(|e| e.ends).min();
        let size = made.message(&plan, told, owed()).emitted_len();
        let version = log.version();
        let Ok(count) = u8::try_from(size.div_ceil(capacity)) else { return false };
        let number = self.table.take_number(slot);
        let sending = Sending {
            timer: Node::default(),
            slot,
            flight: Flight::new(number, count),
            told,
            plan,
            size,
            version,
            ends: ends.unwrap_or(Instant::from_micros(u64::MAX)),
            made,
            asked: None,
        };
        let Some(at) = self.sendings.insert(sending) else { return false };
        self.table.hot[slot].sending = at;
        self.stats.notifies += 1;
        true
    }

    /// Whether the Notify in flight no longer says what it would say if it were made now, of the same serials.
    pub(super) fn is_outdated(&mut self, now: Instant, slot: u32) -> bool {
        let at = self.table.hot[slot].sending;
        let sending = &self.sendings[at];
        let log = self.accounts.log(self.table.owner[slot].account);
        if now >= sending.ends {
            return true;
        }
        if sending.version == log.version() {
            return false;
        }
        let listener = self.listener(slot);
        let content = Plan::fingerprint(log.owed(&listener, now, sending.plan.upto).map(|e| e.serial));
        let version = log.version();
        if content != sending.plan.content {
            return true;
        }
        self.sendings[at].version = version;
        false
    }

    /// Adds what may go now of the Notify in flight. True if the batch or the pace had no room for more.
    pub(super) fn send_packets(&mut self, now: Instant, slot: u32, batch: &mut TransmitBatch) -> bool {
        let listener = self.listener(slot);
        let capacity = self.capacity(slot);
        let packet_size = MIN_PACKET + usize::from(self.table.owner[slot].packet_size);
        let path = self.table.path(slot);
        let web = path.is_web();
        let window = self.table.hot[slot].window;
        let identifier = self.table.ids[slot].device[0];
        let sending = &mut self.sendings[self.table.hot[slot].sending];
        let log = self.accounts.log(self.table.owner[slot].account);
        let events = log.owed(&listener, now, sending.plan.upto);
        let message = sending.made.message(&sending.plan, sending.told, events);
        let mut first = true;
        loop {
            let Some(room) = batch.room() else { return true };
            // An answer by Web goes as a whole.
            if !web && !self.pace.is_free(now) {
                return true;
            }
            let next =
                if web { sending.flight.next_by_web(now) } else { sending.flight.next_packet(now, window) };
            let Some((index, transmission)) = next else { return false };
            let skip = usize::from(index) * capacity;
            let header = Header {
                wanted: true,
                web,
                count: sending.flight.count(),
                index,
                transmission,
                ..Header::single(sending.flight.number(), Direction::ToInitiator)
            };
            let part = capacity.min(sending.size - skip);
            let keys = self.table.seal_keys(slot, &header, true);
            let len = super::send::seal_fragment(&keys, identifier, &header, room, part, |out| {
                message.write_range(skip, out);
            });
            self.stats.retransmitted += u64::from(transmission > 0);
            self.pace.sent(now);
            self.stats.packets_sent += 1;
            self.stats.bytes_sent += len as u64;
            // Packets of full size and whatever follows them go out in one piece.
            if first || web {
                batch.push(path, len);
            } else {
                batch.extend(packet_size as u16, len);
            }
            first = len < packet_size;
        }
    }

    /// The device has kept these packets of its datagram `number`.
    pub(super) fn acknowledged(&mut self, now: Instant, slot: u32, number: u64, bitmap: u16) {
        let hot = &mut self.table.hot[slot];
        let Some(sending) = self.sendings.get_mut(hot.sending).filter(|s| s.flight.number() == number) else {
            return;
        };
        // It has come and was not kept: the application has no room for it, and the path is wide enough.
        if bitmap == 0 {
            sending.asked = None;
        }
        match sending.flight.on_acknowledgement(now, bitmap, &mut hot.rtt, &mut hot.window) {
            Outcome::Complete => {
                let upto = sending.plan.upto;
                self.stats.notified += 1;
                self.accounts.books += sending.plan.books;
                self.told(slot, upto);
            }
            Outcome::Exhausted => self.replace(slot),
            Outcome::Progress => self.make_ready(slot),
            Outcome::Nothing | Outcome::GivenUp => {}
        }
    }

    /// Everything up to `upto` has reached the device.
    pub(super) fn told(&mut self, slot: u32, upto: Serial) {
        self.drop_sending(slot);
        self.table.ids[slot].told = upto;
        self.check_owed(slot);
    }

    /// The timer of a Notify fired.
    pub(super) fn sending_timer(&mut self, now: Instant, at: u32) {
        let slot = self.sendings[at].slot;
        let heard = self.table.heard(slot, now);
        let newest = self.accounts.log(self.table.owner[slot].account).newest();
        let hot = &mut self.table.hot[slot];
        let sending = &mut self.sendings[at];
        let outcome = sending.flight.on_timeout(now, &hot.rtt, &mut hot.window, heard);
        match outcome {
            Outcome::GivenUp => {
                hot.set(flag::SILENT);
                self.stats.given_up += 1;
                self.ready.remove(&mut self.table.hot, slot);
                self.drop_sending(slot);
            }
            Outcome::Exhausted => self.replace(slot),
            // What has been published meanwhile goes along, unless part of this one has arrived already.
            // After that it stays as it is: only what was sent several times shows that the path has become too narrow.
            Outcome::Progress
                if newest > sending.plan.upto
                    && !sending.flight.has_arrived_in_part()
                    && sending.flight.timeouts() < 2 =>
            {
                self.replace(slot);
            }
            Outcome::Progress | Outcome::Nothing | Outcome::Complete => self.make_ready(slot),
        }
        if outcome == Outcome::Progress {
            self.check_width(slot);
        }
    }

    /// Makes the Notify in flight anew, under a new number and with what has been published since, and goes on
    /// counting its timeouts.
    pub(super) fn replace(&mut self, slot: u32) {
        if self.begin_again(slot) {
            self.make_ready(slot);
        }
    }

    /// What [`Self::replace`] does before anything is sent. False if there is nothing to say any more.
    pub(super) fn begin_again(&mut self, slot: u32) -> bool {
        let replaced = self.sendings[self.table.hot[slot].sending].flight.clone();
        self.drop_sending(slot);
        let begun = self.begin(self.now, slot);
        if begun {
            self.sendings[self.table.hot[slot].sending].flight.resume_after(&replaced);
        }
        begun
    }

    /// Sends what has not been acknowledged again, now: it went to where the device is not any more.
    pub(super) fn resend(&mut self, slot: u32) {
        let sending = self.table.hot[slot].sending;
        if let Some(sending) = self.sendings.get_mut(sending) {
            sending.flight.lose_all();
            self.make_ready(slot);
        } else {
            self.check_owed(slot);
        }
    }

    /// Forgets the Notify in flight.
    pub(super) fn drop_sending(&mut self, slot: u32) {
        let at = core::mem::replace(&mut self.table.hot[slot].sending, NIL);
        if at != NIL {
            self.cancel(at | SENDING);
            self.sendings.remove(at);
        }
    }

    pub(super) fn listener(&self, slot: u32) -> Listener {
        let owner = &self.table.owner[slot];
        let since = Instant::from_micros(owner.since.get().saturating_mul(1000));
        Listener { told: self.table.ids[slot].told, filter: owner.filter, since }
    }

    /// Bytes of a message in one packet to the device.
    pub(super) fn capacity(&self, slot: u32) -> usize {
        fragment_capacity(MIN_PACKET + usize::from(self.table.owner[slot].packet_size), DEVICE_IDENTIFIER)
    }
}

impl Made {
    /// The message that says what was planned.
    fn message<'a>(
        self,
        plan: &Plan,
        told: Serial,
        events: impl Iterator<Item = &'a Stored> + Clone,
    ) -> Notify<impl Iterator<Item = EventRef<'a>> + Clone> {
        let Plan { upto, newest, changed, lost, .. } = *plan;
        let service_time = (plan.events > 0).then(|| self.calendar.unix(self.at));
        Notify {
            told,
            upto,
            newest,
            changed,
            lost,
            service_time,
            events: events.map(move |stored| self.event(stored)),
        }
    }

    fn event(self, stored: &Stored) -> EventRef<'_> {
        EventRef {
            serial: stored.serial,
            store: stored.store,
            expiry: self.calendar.unix(stored.ends),
            key: stored.key.as_ref().map(crate::channel::CollapseKey::as_bytes),
            payload: &stored.payload,
        }
    }
}

// The sets of stores in a Notify are at most 16 bytes each, the serials and the time at most 8.
const _: () = assert!(NOTIFY_OVERHEAD > 1 + 4 * (2 + 8) + 2 * (2 + size_of::<StoreSet>()));
