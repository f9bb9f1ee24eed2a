//! An independent judge of delivery.
//!
//! The judge knows what was posted to a channel and what one device's application saw, and decides whether the rules
//! of delivery (SPEC.md, "Channel") allow the one after the other. It shares no code with the protocol and does not
//! predict: for every event there is a *set* of allowed outcomes, and an outcome outside of it is a [`Fault`].
//!
//! An event that a device is owed is delivered once, unaltered, in order and before it expires; or it was superseded
//! by a newer one with its key, expired, was filtered, was only for devices connected when it was posted, or a gap
//! in its store was announced after it was posted. Silence is no outcome.
//!
//! ```
//! use mpp_proto::{Instant, Serial, StoreId, StoreSet, UnixTime};
//! use mpp_sim::Post;
//! use mpp_sim::model::{Channel, End, Fault, Seen, Sight, judge};
//!
//! let (now, unix) = (Instant::from_micros(1), UnixTime::from_millis(1));
//! let mut channel = Channel::new(32, 64 * 1024);
//! channel.publish(now, unix, Serial(1), None, &Post::new(StoreId::INBOUND, "hello"));
//!
//! // A device that connected and heard nothing of it:
//! let seen = [Sight::Started(None), Sight::Asked(StoreSet::ALL), Sight::Connected];
//! let seen = seen.map(|sight| Seen { at: now, unix, sight });
//! let end = End { at: now, unix, connected: true, slack: Default::default() };
//! let faults = judge(&channel, &seen, &end).unwrap_err();
//! assert!(matches!(faults[..], [Fault::Lost { serial: 1, .. }]));
//! ```

mod judge;
#[cfg(test)]
mod tests;

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use mpp_proto::{Epoch, Instant, Serial, StoreId, StoreSet, UnixTime};

pub use self::judge::judge;
use crate::post::Post;

/// A part of a channel's history that has one line of serials.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Generation {
    /// When it began.
    pub since: Instant,
    /// Its epoch, if known.
    pub epoch: Option<Epoch>,
}

/// An event as it was posted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Posted {
    /// The generation it belongs to, an index into [`Channel::generations`].
    pub generation: usize,
    /// Its serial.
    pub serial: u64,
    /// When it was posted.
    pub at: Instant,
    /// When it expires.
    pub expires: UnixTime,
    /// Only for devices connected when it was posted.
    pub fleeting: bool,
    /// Its store.
    pub store: StoreId,
    /// Its payload; without one it says that the store changed.
    pub payload: Option<Bytes>,
    /// Its collapse key.
    pub key: Option<Vec<u8>>,
}

impl Posted {
    /// Whether it says the same as `older`, which had no payload either: that the store changed.
    fn renews(&self, older: &Self) -> bool {
        self.payload.is_none()
            && self.store == older.store
            && (self.generation, self.serial) > (older.generation, older.serial)
    }

    /// Whether it takes the place of `older`.
    fn supersedes(&self, older: &Self) -> bool {
        self.generation == older.generation
            && self.serial > older.serial
            && self.store == older.store
            && self.key.is_some()
            && self.key == older.key
    }
}

/// What happened to a channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Channel {
    /// Its generations, oldest first; the first begins at the origin of the clock.
    pub generations: Vec<Generation>,
    /// Its events, in the order in which they were posted.
    pub posted: Vec<Posted>,
    /// When its service was restarted, with or without its history.
    pub restarts: Vec<Instant>,
    /// Events with payload that the service promised to keep.
    pub ring_events: usize,
    /// Payload bytes that the service promised to keep.
    pub ring_bytes: usize,
    /// Whether its service's civil clock was ever wrong: then what it says of an event's expiry is not judged, but when
    /// the event came is.
    pub clock_was_set: bool,
}

impl Channel {
    /// A channel without events, whose ring holds this much.
    pub fn new(ring_events: usize, ring_bytes: usize) -> Self {
        Self {
            generations: vec![Generation { since: Instant::ZERO, epoch: None }],
            posted: Vec::new(),
            restarts: Vec::new(),
            ring_events,
            ring_bytes,
            clock_was_set: false,
        }
    }

    /// Notes an event that was posted.
    pub fn publish(
        &mut self,
        at: Instant,
        unix: UnixTime,
        serial: Serial,
        epoch: Option<Epoch>,
        post: &Post,
    ) {
        match self.generations.last_mut() {
            // The service forgot the channel by itself.
            Some(last) if last.epoch.is_some() && last.epoch != epoch => self.restart(at, false),
            _ => {}
        }
        if let Some(last) = self.generations.last_mut() {
            last.epoch = epoch;
        }
        let generation = self.generations.len() - 1;
        self.posted.push(Posted {
            generation,
            serial: serial.0,
            at,
            expires: unix + post.ttl,
            fleeting: post.ttl.is_zero(),
            store: post.store,
            payload: post.payload.clone(),
            key: post.key.map(|k| k.as_bytes().to_vec()),
        });
    }

    /// Notes that the service was restarted, with (`kept`) or without its history.
    pub fn restart(&mut self, at: Instant, kept: bool) {
        self.restarts.push(at);
        if !kept {
            self.generations.push(Generation { since: at, epoch: None });
        }
    }

    /// The generation that the service was in.
    fn generation_at(&self, at: Instant) -> usize {
        self.generations.iter().rposition(|g| g.since <= at).unwrap_or_default()
    }
}

/// Something that a device's application saw or did, and when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// When.
    pub at: Instant,
    /// The service's civil time then.
    pub unix: UnixTime,
    /// What.
    pub sight: Sight,
}

/// What a device's application saw or did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sight {
    /// It was started, with the epoch and position it had kept, if any.
    Started(Option<(Epoch, u64)>),
    /// It asked for these stores; a start does so with the filter it was configured with.
    Asked(StoreSet),
    /// Its last request for stores is in force.
    Confirmed,
    /// It is connected.
    Connected,
    /// It has surely dealt with everything up to here.
    Taken(u64),
    /// It was given an event with payload.
    Event {
        /// Its serial.
        serial: u64,
        /// What to acknowledge.
        position: u64,
        /// Its store.
        store: StoreId,
        /// When it expires.
        expires: UnixTime,
        /// Its collapse key.
        key: Option<Vec<u8>>,
        /// Its payload.
        payload: Bytes,
    },
    /// It was told that these stores changed.
    Changed {
        /// The stores.
        stores: StoreSet,
        /// What to acknowledge.
        position: u64,
    },
    /// It was told that events of these stores were lost.
    Gap {
        /// The stores.
        stores: StoreSet,
        /// What to acknowledge.
        position: u64,
    },
}

/// The end of a history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    /// When it ended.
    pub at: Instant,
    /// The service's civil time then.
    pub unix: UnixTime,
    /// Whether the device is connected and had the time to be told everything. Otherwise only what it was given is
    /// judged, not what it was not given.
    pub connected: bool,
    /// How far the device's idea of the service's time may be off: the longest round trip.
    pub slack: Duration,
}

/// How many events ended how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Given to the application.
    pub delivered: u64,
    /// Without payload: the application was told after it that its store changed.
    pub changed: u64,
    /// Replaced by a newer one with the same key.
    pub superseded: u64,
    /// Expired first.
    pub expired: u64,
    /// Of stores that the application did not ask for.
    pub filtered: u64,
    /// Only for devices connected at the time.
    pub fleeting: u64,
    /// Covered by an announced gap.
    pub covered: u64,
    /// Of a history that the device never knew.
    pub unknown: u64,
    /// Gaps that were announced.
    pub gaps: u64,
}

/// Something that the rules of delivery do not allow.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// An event never came, and nothing explains it.
    Lost {
        /// Its generation.
        generation: usize,
        /// Its serial.
        serial: u64,
        /// Its store.
        store: StoreId,
    },
    /// An event came, and one before it had not come, and nothing explains that at this time.
    PassedOver {
        /// When.
        at: Instant,
        /// The serial of the event that came.
        serial: u64,
        /// The serial of the one that did not.
        skipped: u64,
        /// The store of the one that did not.
        store: StoreId,
    },
    /// An event came that was never posted like this.
    Forged {
        /// When it came.
        at: Instant,
        /// Its serial.
        serial: u64,
    },
    /// An event came twice.
    Twice {
        /// When it came again.
        at: Instant,
        /// Its serial.
        serial: u64,
    },
    /// An event came after a higher position had been given.
    OutOfOrder {
        /// When it came.
        at: Instant,
        /// Its serial.
        serial: u64,
        /// The position given before.
        after: u64,
    },
    /// What was to be acknowledged with an event does not hold the event.
    BadPosition {
        /// When it came.
        at: Instant,
        /// Its serial.
        serial: u64,
        /// The position.
        position: u64,
    },
    /// An event came after it had expired, or with another expiry.
    Expired {
        /// When it came.
        at: Instant,
        /// Its serial.
        serial: u64,
    },
    /// An event came of a store that was not asked for.
    NotAskedFor {
        /// When it came.
        at: Instant,
        /// Its serial.
        serial: u64,
        /// Its store.
        store: StoreId,
    },
    /// An event for devices connected at the time came to one that connected later.
    Late {
        /// When it came.
        at: Instant,
        /// Its serial.
        serial: u64,
    },
    /// A gap was announced, though nothing can have been lost.
    NeedlessGap {
        /// When.
        at: Instant,
        /// The stores.
        stores: StoreSet,
    },
    /// A change was announced of stores in which nothing was posted.
    NeedlessChange {
        /// When.
        at: Instant,
        /// The stores.
        stores: StoreSet,
    },
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

impl std::ops::AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.delivered += other.delivered;
        self.changed += other.changed;
        self.superseded += other.superseded;
        self.expired += other.expired;
        self.filtered += other.filtered;
        self.fleeting += other.fleeting;
        self.covered += other.covered;
        self.unknown += other.unknown;
        self.gaps += other.gaps;
    }
}
