//! An event as it is posted, and the limits it is held to.

use core::fmt;
use core::time::Duration;

use bytes::Bytes;

use crate::ids::{AccountId, Serial, StoreId};
use crate::time::UnixTime;
pub use crate::wire::{MAX_KEY, MAX_PAYLOAD};

/// The longest time to live of an event.
pub const MAX_TTL: Duration = Duration::from_secs(30 * 24 * 3600);
/// The time to live of an event that names none.
pub const DEFAULT_TTL: Duration = Duration::from_secs(24 * 3600);

/// How soon an event has to reach its devices.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Urgency {
    /// With the next contact: it never wakes a radio by itself.
    Low,
    /// At once; if a Notify is in flight, with the next one.
    #[default]
    Normal,
    /// At once, replacing a Notify in flight.
    High,
}

/// What is posted to a channel.
///
/// Without a payload an event is level-triggered: it says that the store changed, and any number of them cost the
/// service one number. With a payload it is kept until its time to live ends or the ring of its account overflows.
#[derive(Clone, PartialEq, Eq)]
pub struct Event {
    pub(crate) store: StoreId,
    pub(crate) payload: Option<Bytes>,
    pub(crate) ttl: Duration,
    pub(crate) urgency: Urgency,
    pub(crate) key: Option<CollapseKey>,
    pub(crate) poster: Option<AccountId>,
}

impl Event {
    /// "`store` changed."
    pub const fn changed(store: StoreId) -> Self {
        Self { store, payload: None, ttl: DEFAULT_TTL, urgency: Urgency::Normal, key: None, poster: None }
    }

    /// An event that carries `payload`, at most [`MAX_PAYLOAD`] bytes.
    pub const fn with_payload(store: StoreId, payload: Bytes) -> Self {
        Self {
            store,
            payload: Some(payload),
            ttl: DEFAULT_TTL,
            urgency: Urgency::Normal,
            key: None,
            poster: None,
        }
    }

    /// Lives for `ttl` (at most [`MAX_TTL`]); zero: only for devices connected now.
    #[must_use]
    pub const fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = ttl;
        self
    }

    /// With this urgency.
    #[must_use]
    pub const fn urgency(mut self, urgency: Urgency) -> Self {
        self.urgency = urgency;
        self
    }

    /// Replaces an older event of the same store and poster with the same key.
    #[must_use]
    pub const fn key(mut self, key: CollapseKey) -> Self {
        self.key = Some(key);
        self
    }

    /// Comes from another account: it is held to that poster's share of the ring, and its key replaces only events of
    /// the same poster. For hosts that deliver from their own log what [`ServiceEvent::Post`](crate::ServiceEvent::Post)
    /// gave them; an event in there says it already.
    #[must_use]
    pub const fn from_account(mut self, poster: AccountId) -> Self {
        self.poster = Some(poster);
        self
    }

    /// The store it belongs to.
    pub const fn store(&self) -> StoreId {
        self.store
    }

    /// Its payload, if it has one.
    pub const fn payload(&self) -> Option<&Bytes> {
        self.payload.as_ref()
    }

    /// How long it lives; zero: only for devices connected when it is posted.
    pub const fn time_to_live(&self) -> Duration {
        self.ttl
    }

    /// How soon it has to arrive.
    pub const fn how_urgent(&self) -> Urgency {
        self.urgency
    }

    /// The key under which it replaces an older event, if it has one.
    pub const fn collapse_key(&self) -> Option<&CollapseKey> {
        self.key.as_ref()
    }

    /// The account it came from, if it is not the channel's own.
    pub const fn poster(&self) -> Option<&AccountId> {
        self.poster.as_ref()
    }

    /// Holds it to the limits.
    ///
    /// # Errors
    /// Names the limit that it breaks.
    pub fn check(&self) -> Result<(), EventError> {
        if !self.store.is_postable() {
            return Err(EventError::Store { store: self.store });
        }
        match &self.payload {
            Some(p) if p.len() > MAX_PAYLOAD => return Err(EventError::Payload { size: p.len() }),
            _ => {}
        }
        if self.ttl > MAX_TTL {
            return Err(EventError::Ttl { ttl: self.ttl });
        }
        Ok(())
    }
}

impl fmt::Debug for Event {
    // A payload is the user's own business: only its size is shown.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Event")
            .field("store", &self.store)
            .field("payload", &self.payload.as_ref().map(Bytes::len))
            .field("ttl", &self.ttl)
            .field("urgency", &self.urgency)
            .finish_non_exhaustive()
    }
}

/// The name under which a newer event replaces an older one: 1 to 32 bytes, scoped to channel, store and poster.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct CollapseKey {
    len: u8,
    bytes: [u8; MAX_KEY],
}

impl CollapseKey {
    /// The key of these bytes.
    ///
    /// # Errors
    /// [`EventError::Key`] unless there are 1 to 32 of them.
    pub fn new(key: &[u8]) -> Result<Self, EventError> {
        let mut bytes = [0; MAX_KEY];
        match bytes.get_mut(..key.len()) {
            Some(room) if !key.is_empty() => room.copy_from_slice(key),
            _ => return Err(EventError::Key { size: key.len() }),
        }
        Ok(Self { len: u8::try_from(key.len()).unwrap_or(0), bytes })
    }

    /// Its bytes.
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.len)).unwrap_or_default()
    }
}

impl fmt::Debug for CollapseKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CollapseKey({} bytes)", self.len)
    }
}

/// An event that breaks a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EventError {
    /// The payload is too large.
    #[error(
        "the payload has {size} bytes, the limit is {MAX_PAYLOAD}: send a reference instead, or split it"
    )]
    Payload {
        /// Its size in bytes.
        size: usize,
    },
    /// The collapse key is empty or too long.
    #[error("the collapse key has {size} bytes, it must have 1 to {MAX_KEY}")]
    Key {
        /// Its size in bytes.
        size: usize,
    },
    /// The time to live is too long.
    #[error("the time to live is {} s, the limit is {} s (30 days)", ttl.as_secs(), MAX_TTL.as_secs())]
    Ttl {
        /// What was asked for.
        ttl: Duration,
    },
    /// The store takes no posts.
    #[error("store {} takes no posts: 0 stands for all stores and 20 to 31 are reserved", store.number())]
    Store {
        /// The store.
        store: StoreId,
    },
}

/// What a device's application is given.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Notification {
    /// What to acknowledge once this has been dealt with: everything up to here has then been taken.
    pub position: Serial,
    /// What happened.
    pub kind: NotificationKind,
}

/// What happened in the channel.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum NotificationKind {
    /// An event with a payload.
    Event {
        /// Its number in the channel.
        serial: Serial,
        /// The store it belongs to.
        store: StoreId,
        /// When it stops being worth anything.
        expires: UnixTime,
        /// The key under which a newer one would replace it.
        key: Option<CollapseKey>,
        /// The bytes that were posted.
        payload: Bytes,
    },
    /// These stores changed; what in them, the application asks the stores.
    Changed(crate::ids::StoreSet),
    /// Events of these stores were lost to this device (it was away too long, or the service lost its history):
    /// read the stores themselves. Saying so twice is possible, not saying so never.
    Gap(crate::ids::StoreSet),
}

impl fmt::Debug for Notification {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut s = f.debug_struct("Notification");
        s.field("position", &self.position.0);
        match &self.kind {
            NotificationKind::Event { serial, store, payload, .. } => {
                s.field("serial", &serial.0).field("store", store).field("payload", &payload.len())
            }
            NotificationKind::Changed(stores) => s.field("changed", stores),
            NotificationKind::Gap(stores) => s.field("gap", stores),
        };
        s.finish_non_exhaustive()
    }
}

impl fmt::Debug for NotificationKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Event { serial, payload, .. } => write!(f, "Event({serial}, {} bytes)", payload.len()),
            Self::Changed(stores) => write!(f, "Changed({stores:?})"),
            Self::Gap(stores) => write!(f, "Gap({stores:?})"),
        }
    }
}
