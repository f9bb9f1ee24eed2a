//! The log of one channel: the last serial of each store, and the ring in which events with a payload wait
//! (SPEC.md, "Channel").

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::time::Duration;

use bytes::Bytes;

use super::fates::{Delivery, Fate, Fates};
use super::{CollapseKey, Event, Urgency};
use crate::ids::{AccountId, Serial, StoreId, StoreSet};
use crate::time::Instant;

/// What a post is recognised by when it comes again.
pub(crate) type PostId = [u8; 16];

/// Post ids remembered per channel. A post that comes while all of them are young is refused.
const MAX_POSTS: usize = 256;
/// One poster of another account holds at most one part in so many of a ring.
const FOREIGN_SHARE: usize = 4;
/// How long a post id is remembered at least.
pub(crate) const POST_MEMORY: Duration = Duration::from_secs(600);

/// What is known of one store.
#[derive(Clone, Copy, Debug)]
struct Mark {
    store: StoreId,
    /// The newest event of any kind.
    last: Serial,
    /// The newest event without a payload.
    changed: Serial,
    /// The newest event with a payload that the limits pushed out of the ring.
    floor: Serial,
}

/// An event that waits in the ring.
#[derive(Clone, Debug)]
pub(crate) struct Stored {
    pub(crate) serial: Serial,
    pub(crate) store: StoreId,
    /// When its time to live ends: on the monotonic clock, so that a civil clock that is set ends none.
    pub(crate) ends: Instant,
    pub(crate) key: Option<CollapseKey>,
    pub(crate) payload: Bytes,
    /// The account it came from, if it is another one's.
    poster: Option<AccountId>,
    /// Only for devices connected at this time (a time to live of zero).
    transient: Option<Instant>,
}

impl Stored {
    /// What becomes of it if it ends so: a transient event is one that came too late, whatever ended it.
    fn fate(&self, fate: Fate) -> Fate {
        match fate {
            Fate::Superseded => fate,
            _ if self.transient.is_some() => Fate::Transient,
            _ => fate,
        }
    }
}

/// How much may wait in one ring.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) events: usize,
    pub(crate) bytes: usize,
}

impl Limits {
    /// What one poster of another account may hold of it.
    fn share(self) -> Self {
        Self { events: (self.events / FOREIGN_SHARE).max(1), bytes: self.bytes / FOREIGN_SHARE }
    }
}

/// What an event in the ring ended in without having reached everybody. Each is counted once per event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Removed {
    pub(crate) superseded: u64,
    pub(crate) expired: u64,
    pub(crate) dropped: u64,
    /// Dropped because their poster had used up its share.
    pub(crate) crowded: u64,
    /// Payload bytes set free.
    pub(crate) bytes: usize,
}

impl Removed {
    /// Events that left a ring.
    pub(crate) const fn events(&self) -> u64 {
        self.superseded + self.expired + self.dropped + self.crowded
    }
}

/// For whom a Notify is made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Listener {
    /// Everything up to here has reached it.
    pub(crate) told: Serial,
    pub(crate) filter: StoreSet,
    /// Since when it is connected.
    pub(crate) since: Instant,
}

/// What a Notify will hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    /// It covers everything after the listener's `told` up to here.
    pub(crate) upto: Serial,
    pub(crate) newest: Serial,
    pub(crate) changed: StoreSet,
    pub(crate) lost: StoreSet,
    /// Events with a payload in it.
    pub(crate) events: u32,
    /// Their size in the message.
    pub(crate) size: usize,
    /// A fingerprint of which events these are.
    pub(crate) content: u64,
    /// What it is for each serial that it covers: where that will be counted.
    pub(crate) books: Delivery,
}

impl Plan {
    /// A fingerprint of a choice of events. FNV-1a: what goes in are serials the service gave, nobody can aim at it.
    pub(crate) fn fingerprint(serials: impl Iterator<Item = Serial>) -> u64 {
        serials.fold(0xcbf2_9ce4_8422_2325, |hash, s| (hash ^ s.0).wrapping_mul(0x100_0000_01b3))
    }

    /// Whether the listener has anything to hear.
    pub(crate) const fn is_empty(&self) -> bool {
        self.events == 0 && self.changed.is_empty() && self.lost.is_empty()
    }
}

/// The log of one channel.
#[derive(Debug, Default)]
pub(crate) struct Log {
    newest: Serial,
    /// The history before this is not known here: whoever was told less has lost events of every store.
    base: Serial,
    marks: Vec<Mark>,
    ring: VecDeque<Stored>,
    fates: Fates,
    bytes: usize,
    /// Rises whenever something leaves the ring.
    version: u32,
    posts: VecDeque<(Instant, PostId, Serial)>,
}

impl Log {
    /// A log that goes on after `newest`, of whose events nothing is known.
    pub(crate) fn restored(newest: Serial) -> Self {
        Self { newest, base: newest, ..Self::default() }
    }

    /// The newest serial.
    pub(crate) const fn newest(&self) -> Serial {
        self.newest
    }

    /// Rises whenever something leaves the ring.
    pub(crate) const fn version(&self) -> u32 {
        self.version
    }

    /// The store's last serial for each store with an event.
    pub(crate) fn stores(&self) -> impl Iterator<Item = (StoreId, Serial)> + Clone {
        self.marks.iter().map(|m| (m.store, m.last))
    }

    /// Appends `event` as the next serial. The event has been checked.
    pub(crate) fn append(&mut self, now: Instant, event: Event, limits: Limits) -> (Serial, Removed) {
        let mut removed = self.expire(now);
        let serial = self.newest.next();
        if let Some(key) = event.key {
            let gone = |s: &Stored| s.store == event.store && s.key == Some(key) && s.poster == event.poster;
            removed.superseded += self.remove(&mut removed.bytes, Fate::Superseded, gone);
        }
        self.newest = serial;
        let mark = self.mark(event.store);
        mark.last = serial;
        match event.payload {
            None => {
                mark.changed = serial;
                self.fates.push(event.store, Fate::Changed);
            }
            Some(payload) => {
                let transient = event.ttl.is_zero().then_some(now);
                // A transient event still needs the time to reach those who are connected.
                let ttl = if transient.is_some() { TRANSIENT_LIFE } else { event.ttl };
                self.bytes += payload.len();
                let (store, key, poster, ends) = (event.store, event.key, event.poster, now + ttl);
                self.fates.push(store, Fate::Waiting);
                self.ring.push_back(Stored { serial, store, ends, key, payload, poster, transient });
                if let Some(poster) = poster {
                    self.hold_share(&poster, limits.share(), &mut removed);
                }
            }
        }
        while self.ring.len() > limits.events || self.bytes > limits.bytes {
            self.drop_oldest(&mut removed);
        }
        (serial, removed)
    }

    /// Drops the oldest events of a poster of another account until what is left of it is its share.
    fn hold_share(&mut self, poster: &AccountId, share: Limits, removed: &mut Removed) {
        let theirs = |s: &&Stored| s.poster.as_ref() == Some(poster);
        let (mut events, mut bytes) =
            self.ring.iter().filter(theirs).fold((0, 0), |(n, bytes), s| (n + 1, bytes + s.payload.len()));
        while events > share.events || bytes > share.bytes {
            let Some(at) = self.ring.iter().position(|s| s.poster.as_ref() == Some(poster)) else { break };
            let Some(event) = self.ring.remove(at) else { break };
            events -= 1;
            bytes -= event.payload.len();
            removed.crowded += 1;
            self.dropped(&event, Fate::Crowded, removed);
        }
    }

    /// Serials up to and including `upto` were lost by the host: they count as dropped for every store. Says how many
    /// these are.
    pub(crate) fn skip_to(&mut self, upto: Serial) -> u64 {
        let count = upto.0.saturating_sub(self.newest.0);
        self.fates.lose(count);
        self.newest = self.newest.max(upto);
        self.base = self.base.max(upto);
        count
    }

    /// Pushes the oldest event out of the ring. Whoever is still owed it will be told of the gap.
    pub(crate) fn drop_oldest(&mut self, removed: &mut Removed) {
        let Some(event) = self.ring.pop_front() else { return };
        removed.dropped += 1;
        self.dropped(&event, Fate::Dropped, removed);
    }

    /// A limit has taken an event out of the ring.
    fn dropped(&mut self, event: &Stored, fate: Fate, removed: &mut Removed) {
        self.version = self.version.wrapping_add(1);
        self.bytes -= event.payload.len();
        removed.bytes += event.payload.len();
        self.fates.set(self.newest.0 - event.serial.0, event.fate(fate));
        if event.transient.is_none() {
            let mark = self.mark(event.store);
            mark.floor = mark.floor.max(event.serial);
        }
    }

    /// The oldest event in the ring.
    pub(crate) fn oldest(&self) -> Option<Serial> {
        self.ring.front().map(|e| e.serial)
    }

    /// Whether the event with this serial waits in the ring.
    pub(crate) fn holds(&self, serial: Serial) -> bool {
        self.ring.binary_search_by_key(&serial, |e| e.serial).is_ok()
    }

    /// Removes what has expired.
    pub(crate) fn expire(&mut self, now: Instant) -> Removed {
        let mut removed = Removed::default();
        removed.expired = self.remove(&mut removed.bytes, Fate::Expired, |s| s.ends <= now);
        removed
    }

    fn remove(&mut self, bytes: &mut usize, fate: Fate, gone: impl Fn(&Stored) -> bool) -> u64 {
        let mut count = 0;
        let Self { ring, fates, bytes: held, newest, .. } = self;
        ring.retain(|s| {
            let keep = !gone(s);
            if !keep {
                count += 1;
                *held -= s.payload.len();
                *bytes += s.payload.len();
                fates.set(newest.0 - s.serial.0, s.fate(fate));
            }
            keep
        });
        if count > 0 {
            self.version = self.version.wrapping_add(1);
        }
        count
    }

    /// If the history of fates has grown, and connected devices have been told up to here, forgets what none needs.
    pub(crate) fn forget(&mut self, told: impl FnOnce() -> Option<Serial>) {
        if self.fates.are_many() {
            let needed = told().map_or(0, |told| self.newest.0.saturating_sub(told.0));
            self.fates.trim(needed);
        }
    }

    fn mark(&mut self, store: StoreId) -> &mut Mark {
        let at = match self.marks.iter().position(|m| m.store == store) {
            Some(at) => at,
            None => {
                let (last, changed, floor) = (Serial::ZERO, Serial::ZERO, Serial::ZERO);
                self.marks.push(Mark { store, last, changed, floor });
                self.marks.len() - 1
            }
        };
        &mut self.marks[at]
    }

    /// The stores of `filter` of which a device at `position` has lost events; `covered` are the stores for which
    /// its position holds.
    pub(crate) fn lost(&self, position: Serial, filter: StoreSet, covered: StoreSet) -> StoreSet {
        if self.base > position {
            return filter;
        }
        // Whether a store that is not covered had events is not known for sure: they may belong to a history that was
        // lost. Whoever begins to listen to a store has to read it anyway.
        let dropped: StoreSet = self
            .marks
            .iter()
            .filter(|m| filter.contains(m.store) && m.floor > position)
            .map(|m| m.store)
            .collect();
        dropped.union(filter.difference(covered))
    }

    /// What a Notify for `listener` would hold, with at most `room` bytes of events as `size_of` measures them.
    pub(crate) fn plan(
        &self,
        listener: &Listener,
        now: Instant,
        room: usize,
        size_of: impl Fn(&Stored) -> usize,
    ) -> Plan {
        let mut plan = Plan {
            upto: self.newest,
            newest: self.newest,
            lost: self.lost(listener.told, listener.filter, StoreSet::ALL),
            ..Plan::default()
        };
        for event in self.owed(listener, now, self.newest) {
            let size = size_of(event);
            if plan.size + size > room {
                plan.upto = Serial(event.serial.0 - 1);
                break;
            }
            plan.events += 1;
            plan.size += size;
        }
        plan.content = Plan::fingerprint(self.owed(listener, now, plan.upto).map(|e| e.serial));
        plan.changed = self
            .marks
            .iter()
            .filter(|m| listener.filter.contains(m.store))
            .filter(|m| m.changed > listener.told && m.changed <= plan.upto)
            .map(|m| m.store)
            .collect();
        plan.books = self.books(listener, now, plan.upto, plan.changed);
        plan
    }

    /// Where each serial after the listener's `told` up to `upto` is counted if a Notify names `changed` and holds the
    /// events that are owed.
    fn books(&self, listener: &Listener, now: Instant, upto: Serial, changed: StoreSet) -> Delivery {
        let Listener { told, filter, since } = *listener;
        let mut books = Delivery::default();
        // Of the serials before `known` nothing is remembered, but for the events that still wait.
        let first = self.newest.0 - self.fates.len() as u64;
        let known = told.0.max(first).min(upto.0);
        let mut lost = self.base.0.min(known).saturating_sub(told.0);
        let mut forgotten = known - told.0 - lost;
        for event in self.between(told, upto) {
            if event.serial.0 <= self.base.0.min(known) {
                lost -= 1;
            } else if event.serial.0 <= known {
                forgotten -= 1;
            }
            match (filter.contains(event.store), event.transient) {
                (false, _) => books.filtered += 1,
                (true, Some(posted)) if since > posted || event.ends <= now => books.transient += 1,
                (true, None) if event.ends <= now => books.expired += 1,
                (true, _) => books.delivered += 1,
            }
        }
        books.lost += lost;
        books.forgotten += forgotten;
        let skip = usize::try_from(known.saturating_sub(first)).unwrap_or(usize::MAX);
        let count = usize::try_from(upto.0 - known).unwrap_or(usize::MAX);
        for (store, fate) in self.fates.after(skip).take(count) {
            match fate {
                Fate::Waiting | Fate::Lost => fate.count(false, &mut books),
                _ if !filter.contains(store) => books.filtered += 1,
                _ => fate.count(changed.contains(store), &mut books),
            }
        }
        debug_assert_eq!(books.settled(), upto.0 - told.0, "every serial is counted once");
        books
    }

    /// The serial of the last thing, up to and including `upto`, of which there was something to say to `listener`: a
    /// device that has heard of that has heard of everything.
    pub(crate) fn last_said(&self, listener: &Listener, now: Instant, upto: Serial) -> Serial {
        let said = Listener { told: Serial::ZERO, ..*listener };
        let event = self.owed(&said, now, upto).last().map(|e| e.serial);
        let marks = self.marks.iter().filter(|m| listener.filter.contains(m.store));
        let marks = marks.flat_map(|m| [m.changed, m.floor]);
        let before = marks.chain([self.base]).filter(|said| *said <= upto).max();
        event.max(before).unwrap_or_default()
    }

    /// The events with a payload that wait, after `told` up to and including `upto`.
    fn between(&self, told: Serial, upto: Serial) -> impl Iterator<Item = &Stored> + Clone {
        let events = self.ring.iter().skip_while(move |e| e.serial <= told);
        events.take_while(move |e| e.serial <= upto)
    }

    /// The events with a payload that `listener` is owed, up to and including `upto`, in order.
    pub(crate) fn owed<'a>(
        &'a self,
        listener: &Listener,
        now: Instant,
        upto: Serial,
    ) -> impl Iterator<Item = &'a Stored> + Clone {
        let Listener { told, filter, since } = *listener;
        self.between(told, upto)
            .filter(move |e| filter.contains(e.store) && e.ends > now)
            .filter(move |e| e.transient.is_none_or(|posted| since <= posted))
    }

    /// The serial that a post got earlier, if it comes again; or whether it may come now.
    pub(crate) fn recall(&mut self, now: Instant, id: &PostId) -> Recall {
        while self.posts.front().is_some_and(|(at, ..)| now.since(*at) >= POST_MEMORY) {
            self.posts.pop_front();
        }
        match self.posts.iter().find(|(_, known, _)| known == id) {
            Some((.., serial)) => Recall::Known(*serial),
            None => match self.posts.front() {
                Some((at, ..)) if self.posts.len() >= MAX_POSTS => {
                    Recall::Full { retry_after: POST_MEMORY.saturating_sub(now.since(*at)) }
                }
                _ => Recall::Unknown,
            },
        }
    }

    /// Remembers under which serial a post was appended.
    pub(crate) fn remember(&mut self, now: Instant, id: PostId, serial: Serial) {
        self.posts.push_back((now, id, serial));
    }
}

/// How long an event with a time to live of zero may take to reach the devices that are connected.
const TRANSIENT_LIFE: Duration = Duration::from_secs(60);

/// Whether a post was seen before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Recall {
    Unknown,
    Known(Serial),
    Full { retry_after: Duration },
}

/// How urgent an event is decides what happens to a Notify in flight.
impl Urgency {
    /// Whether it goes out without waiting for the next contact.
    pub(crate) const fn wakes(self) -> bool {
        !matches!(self, Self::Low)
    }
}
