//! What happens when time passes: leases, half-open and closing connections, notifications that want repeating.

use core::num::NonZeroUsize;
use core::time::Duration;

use super::beside::SideTable;
use super::event::{CloseReason, ServiceEvent};
use super::notify::Sending;
use super::outbox::Say;
use super::paths::Validation;
use super::probes::Probe;
use super::record::{Hot, State, flag};
use super::web::Desk;
use super::{Progress, Service};
use crate::pool::{Chunks, Slab};
use crate::time::Instant;
use crate::wheel::{Node, Nodes, Wheel, deadline, tick_floor};
use crate::wire::Code;

/// How long an overdue device is given to answer each of two questions.
const OVERDUE: Duration = Duration::from_secs(1);
/// Silence beyond three intervals that ends a lease.
const LEASE_GRACE: Duration = Duration::from_secs(5);
/// In a key of the wheel: the timer of a [`Sending`], not of a record.
pub(super) const SENDING: u32 = 1 << 30;
/// Or that of a [`Validation`].
pub(super) const VALIDATION: u32 = 1 << 29;

/// Or the one of the posts that wait.
pub(super) const POSTS: u32 = 1 << 28;
/// Or that of a [`Probe`].
pub(super) const PROBE: u32 = VALIDATION | POSTS;
/// Or that of a request that is held.
pub(super) const WEB: u32 = SENDING | POSTS;
/// The bits that say whose it is.
const KIND: u32 = SENDING | VALIDATION | POSTS;
const _: () = assert!(crate::crypto::ConnectionId::MAX_SLOT < POSTS);

/// The timers of the wheel live in the records and in what is being sent.
struct Timers<'a> {
    hot: &'a mut Chunks<Hot>,
    sendings: &'a mut Slab<Sending>,
    validations: &'a mut SideTable<Validation>,
    posts: &'a mut Node,
    probes: &'a mut SideTable<Probe>,
    desks: &'a mut SideTable<Desk>,
}

impl Nodes for Timers<'_> {
    fn node(&mut self, key: u32) -> &mut Node {
        match key & KIND {
            SENDING => &mut self.sendings[key & !KIND].timer,
            VALIDATION => &mut self.validations[key & !KIND].timer,
            PROBE => &mut self.probes[key & !KIND].timer,
            WEB => &mut self.desks[key & !KIND].timer,
            POSTS => self.posts,
            _ => &mut self.hot[key].timer,
        }
    }
}

impl Service {
    /// Does what is due at `now`, at most `budget` timers of it.
    pub fn handle_timeout(&mut self, now: Instant, budget: NonZeroUsize) -> Progress {
        // A time before one that was named earlier is taken as that one: to the wheel, whose ticks wrap, it would be
        // weeks ahead.
        self.now = self.now.max(now);
        let now = self.now;
        self.pace.pass(now);
        for _ in 0..budget.get() {
            let (wheel, mut timers) = self.timers();
            let Some(key) = wheel.expire(&mut timers, tick_floor(now)) else {
                self.handled = now;
                return Progress::Done;
            };
            match key & KIND {
                POSTS => self.posts_timer(now),
                SENDING => self.sending_timer(now, key & !KIND),
                VALIDATION => self.validation_timer(now, key & !KIND),
                PROBE => self.probe_timer(key & !KIND),
                WEB => self.web_timer(now, key & !KIND),
                _ => self.record_timer(now, key),
            }
        }
        Progress::More
    }

    /// Sets a timer: that of a record by its slot, others by their number and kind ([`SENDING`] and so on).
    pub(super) fn schedule(&mut self, key: u32, at: Instant, now: Instant) {
        let (wheel, mut timers) = self.timers();
        wheel.schedule(&mut timers, key, deadline(at, now));
    }

    /// Stops it, if it is set.
    pub(super) fn cancel(&mut self, key: u32) {
        let (wheel, mut timers) = self.timers();
        wheel.cancel(&mut timers, key);
    }

    fn timers(&mut self) -> (&mut Wheel, Timers<'_>) {
        let Self { wheel, table, sendings, validations, posts, probes, web, .. } = self;
        let posts = &mut posts.timer;
        let desks = &mut web.desks;
        (wheel, Timers { hot: &mut table.hot, sendings, validations, posts, probes, desks })
    }

    fn record_timer(&mut self, now: Instant, slot: u32) {
        match self.table.hot[slot].state {
            State::HalfOpen => self.end(slot, None),
            // Contact never moves the timer, which would cost every packet; so it is filed again when it fires early.
            State::Connected => {
                let due = self.table.heard(slot, now) + self.lease(slot);
                if due > now {
                    self.schedule(slot, due, now);
                } else {
                    self.ask(now, slot, State::Overdue1);
                }
            }
            State::Overdue1 => self.ask(now, slot, State::Overdue2),
            State::Overdue2 => self.end(slot, Some(CloseReason::TimedOut)),
            State::Closing => self.end(slot, None),
            State::Free | State::Ended => {}
        }
    }

    /// Asks a device whose lease has run out whether it is still there.
    fn ask(&mut self, now: Instant, slot: u32, state: State) {
        let hot = &mut self.table.hot[slot];
        hot.state = state;
        let seen = hot.remote();
        self.say(slot, Say::Status { request: None, seen, unheard: 0, granted: None });
        self.schedule(slot, now + OVERDUE, now);
    }

    /// How long a device may be silent.
    pub(super) fn lease(&self, slot: u32) -> Duration {
        lease_of(self.table.owner[slot].interval)
    }

    /// The interval granted to a device that wants this one, in tenths of a second.
    pub(super) fn granted(&self, interval: Duration) -> u16 {
        tenths(interval.min(self.config.interval_max).max(self.config.interval_min))
    }

    /// Closes a connection and keeps its keys for a moment, to answer what is still on its way.
    pub(super) fn close_record(&mut self, now: Instant, slot: u32, reason: CloseReason) {
        let pto = self.table.hot[slot].rtt.pto(0, false);
        self.detach(slot);
        let hot = &mut self.table.hot[slot];
        hot.state = State::Closing;
        hot.closing = reason.pack();
        hot.heard = tick_floor(now);
        self.farewell(slot);
        self.schedule(slot, now + pto * 3, now);
        self.announce(slot);
    }

    /// Says, or says again, that a connection is closed.
    pub(super) fn farewell(&mut self, slot: u32) {
        let code = CloseReason::unpack(self.table.hot[slot].closing).code();
        let retry_after = if code == Code::UNAVAILABLE { self.retry_after() } else { Duration::ZERO };
        self.say(slot, Say::Close { code, retry_after });
    }

    /// Closes every connection of an account.
    pub(super) fn close_all_of(&mut self, now: Instant, account: u32, code: Code) {
        let mut next = self.accounts.get(account).devices.front();
        while let Some(slot) = next {
            next = self.table.owner[slot].sibling.next();
            if self.table.hot[slot].is_live() {
                self.close_record(now, slot, CloseReason::ByService(code));
            } else {
                // Half open: it was told what does not hold any more.
                self.end(slot, None);
            }
        }
    }

    /// Takes a record out of all lists, so that nothing is sent to it any more.
    fn detach(&mut self, slot: u32) {
        self.drop_sending(slot);
        self.drop_validation(slot);
        self.drop_probe(slot);
        self.ready.remove(&mut self.table.hot, slot);
        let account = self.table.owner[slot].account;
        let hot = &self.table.hot[slot];
        if hot.state == State::HalfOpen {
            self.half_open -= 1;
        } else if hot.is_live() {
            self.stats.connected -= 1;
            self.accounts.left(account, self.table.ids[slot].told);
        }
        self.accounts.get_mut(account).devices.remove(&mut self.table.owner, slot);
    }

    /// Ends a record. It is free again once the host has been told, if there is something to tell.
    pub(super) fn end(&mut self, slot: u32, reason: Option<CloseReason>) {
        if self.table.hot[slot].state != State::Closing {
            self.detach(slot);
        }
        self.drop_desk(slot);
        self.cancel(slot);
        let hot = &mut self.table.hot[slot];
        hot.state = State::Ended;
        if let Some(reason) = reason {
            hot.closing = reason.pack();
        }
        if hot.has(flag::CONNECTED) && !hot.has(flag::TOLD_CLOSED) {
            self.announce(slot);
        } else {
            self.free(slot);
        }
    }

    fn free(&mut self, slot: u32) {
        // The record may still be named in the queue of positions, once however often it is used again.
        self.table.hot[slot].flags &= flag::POSITION;
        self.table.release(slot);
    }

    /// The host has something to hear of this record.
    pub(super) fn announce(&mut self, slot: u32) {
        let hot = &mut self.table.hot[slot];
        if hot.has(flag::CONNECTED) && !hot.has(flag::EVENT) {
            hot.set(flag::EVENT);
            self.events.push_back(slot);
        }
    }

    /// What the host hears of a record in its queue.
    pub(super) fn event_of(&mut self, slot: u32) -> Option<ServiceEvent> {
        let path = self.table.path(slot);
        let owner = &self.table.owner[slot];
        let (account, device) = (self.accounts.get(owner.account).id, owner.device);
        let position = self.table.open[slot].position;
        let hot = &mut self.table.hot[slot];
        hot.clear(flag::EVENT);
        if !hot.has(flag::TOLD_CONNECTED) {
            hot.set(flag::TOLD_CONNECTED);
            // It is told of on the path on which it is.
            hot.clear(flag::MOVED);
            if !hot.is_live() {
                // Ahead of what has happened since: the same device may be connected again, and that it is has to be
                // the last word.
                hot.set(flag::EVENT);
                self.events.push_front(slot);
            }
            return Some(ServiceEvent::Connected { account, device, path });
        }
        if hot.has(flag::MOVED) && hot.is_live() {
            hot.clear(flag::MOVED);
            return Some(ServiceEvent::Moved { account, device, path });
        }
        if hot.is_live() || hot.has(flag::TOLD_CLOSED) {
            return None;
        }
        hot.set(flag::TOLD_CLOSED);
        let reason = CloseReason::unpack(hot.closing);
        if hot.state == State::Ended {
            self.free(slot);
        }
        Some(ServiceEvent::Closed { account, device, reason, position })
    }
}

/// An interval as records hold it.
pub(super) fn tenths(interval: Duration) -> u16 {
    u16::try_from(interval.as_millis().div_ceil(100)).unwrap_or(u16::MAX)
}

/// How long a device with an interval of so many tenths of a second may be silent.
pub(super) fn lease_of(tenths: u16) -> Duration {
    Duration::from_millis(u64::from(tenths) * 100) * 3 + LEASE_GRACE
}

impl CloseReason {
    /// In one byte.
    fn pack(self) -> u8 {
        match self {
            Self::ByDevice => 255,
            Self::TimedOut => 254,
            Self::Superseded => 253,
            Self::ByService(code) => u8::try_from(code.number().saturating_sub(400)).unwrap_or(252).min(252),
        }
    }

    fn unpack(byte: u8) -> Self {
        match byte {
            255 => Self::ByDevice,
            254 => Self::TimedOut,
            253 => Self::Superseded,
            code => Self::ByService(Code::new(400 + u16::from(code))),
        }
    }

    /// What the device is told.
    fn code(self) -> Code {
        match self {
            Self::ByDevice => Code::CLOSED,
            Self::TimedOut => Code::TIMEOUT,
            Self::Superseded => Code::CONFLICT,
            Self::ByService(code) => code,
        }
    }
}
