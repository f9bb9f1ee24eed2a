//! The log of one channel: the last serial of each store, and the ring in which events with a payload wait
//! (SPEC.md, "Channel").

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::time::Duration;

use bytes::Bytes;

use super::{CollapseKey, Event, Urgency};
use crate::ids::{Serial, StoreId, StoreSet};
use crate::time::{Instant, UnixTime};

/// What a post is recognised by when it comes again.
pub(crate) type PostId = [u8; 16];

/// Post ids remembered per channel. A post that comes while all of them are young is refused.
const MAX_POSTS: usize = 256;
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
    pub(crate) expires: UnixTime,
    pub(crate) key: Option<CollapseKey>,
    pub(crate) payload: Bytes,
    /// Only for devices connected at this time (a time to live of zero).
    transient: Option<Instant>,
}

/// How much may wait in one ring.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) events: usize,
    pub(crate) bytes: usize,
}

/// What an event in the ring ended in without having reached everybody. Each is counted once per event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Removed {
    pub(crate) superseded: u64,
    pub(crate) expired: u64,
    pub(crate) dropped: u64,
    /// Payload bytes set free.
    pub(crate) bytes: usize,
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
    pub(crate) fn append(
        &mut self,
        now: Instant,
        unix: UnixTime,
        event: Event,
        limits: Limits,
    ) -> (Serial, Removed) {
        let mut removed = self.expire(unix);
        let serial = self.newest.next();
        self.newest = serial;
        if let Some(key) = event.key {
            removed.superseded +=
                self.remove(&mut removed.bytes, |s| s.store == event.store && s.key == Some(key));
        }
        let mark = self.mark(event.store);
        mark.last = serial;
        match event.payload {
            None => mark.changed = serial,
            Some(payload) => {
                let transient = event.ttl.is_zero().then_some(now);
                // A transient event still needs the time to reach those who are connected.
                let ttl = if transient.is_some() { TRANSIENT_LIFE } else { event.ttl };
                self.bytes += payload.len();
                let (store, key) = (event.store, event.key);
                self.ring.push_back(Stored { serial, store, expires: unix + ttl, key, payload, transient });
            }
        }
        while self.ring.len() > limits.events || self.bytes > limits.bytes {
            self.drop_oldest(&mut removed);
        }
        (serial, removed)
    }

    /// Serials up to and including `upto` were lost by the host: they count as dropped for every store.
    pub(crate) fn skip_to(&mut self, upto: Serial) {
        self.newest = self.newest.max(upto);
        self.base = self.base.max(upto);
    }

    /// Pushes the oldest event out of the ring. Whoever is still owed it will be told of the gap.
    pub(crate) fn drop_oldest(&mut self, removed: &mut Removed) {
        let Some(event) = self.ring.pop_front() else { return };
        self.version = self.version.wrapping_add(1);
        self.bytes -= event.payload.len();
        removed.bytes += event.payload.len();
        removed.dropped += 1;
        if event.transient.is_none() {
            let mark = self.mark(event.store);
            mark.floor = mark.floor.max(event.serial);
        }
    }

    /// The oldest event in the ring.
    pub(crate) fn oldest(&self) -> Option<Serial> {
        self.ring.front().map(|e| e.serial)
    }

    /// Removes what has expired.
    pub(crate) fn expire(&mut self, unix: UnixTime) -> Removed {
        let mut removed = Removed::default();
        removed.expired = self.remove(&mut removed.bytes, |s| s.expires <= unix);
        removed
    }

    fn remove(&mut self, bytes: &mut usize, gone: impl Fn(&Stored) -> bool) -> u64 {
        let mut count = 0;
        let held = &mut self.bytes;
        self.ring.retain(|s| {
            let keep = !gone(s);
            if !keep {
                count += 1;
                *held -= s.payload.len();
                *bytes += s.payload.len();
            }
            keep
        });
        if count > 0 {
            self.version = self.version.wrapping_add(1);
        }
        count
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
        unix: UnixTime,
        room: usize,
        size_of: impl Fn(&Stored) -> usize,
    ) -> Plan {
        let mut plan = Plan {
            upto: self.newest,
            newest: self.newest,
            changed: StoreSet::EMPTY,
            lost: self.lost(listener.told, listener.filter, StoreSet::ALL),
            events: 0,
            size: 0,
            content: 0,
        };
        for event in self.owed(listener, unix, self.newest) {
            let size = size_of(event);
            if plan.size + size > room {
                plan.upto = Serial(event.serial.0 - 1);
                break;
            }
            plan.events += 1;
            plan.size += size;
        }
        plan.content = Plan::fingerprint(self.owed(listener, unix, plan.upto).map(|e| e.serial));
        plan.changed = self
            .marks
            .iter()
            .filter(|m| listener.filter.contains(m.store))
            .filter(|m| m.changed > listener.told && m.changed <= plan.upto)
            .map(|m| m.store)
            .collect();
        plan
    }

    /// The events with a payload that `listener` is owed, up to and including `upto`, in order.
    pub(crate) fn owed<'a>(
        &'a self,
        listener: &Listener,
        unix: UnixTime,
        upto: Serial,
    ) -> impl Iterator<Item = &'a Stored> + Clone {
        let Listener { told, filter, since } = *listener;
        self.ring
            .iter()
            .skip_while(move |e| e.serial <= told)
            .take_while(move |e| e.serial <= upto)
            .filter(move |e| filter.contains(e.store) && e.expires > unix)
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
