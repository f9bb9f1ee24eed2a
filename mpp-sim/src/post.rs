//! What a scenario posts.

use std::time::Duration;

use bytes::Bytes;
use mpp_proto::{CollapseKey, DEFAULT_TTL, Event, StoreId, Urgency};

/// An event to be posted, with every part open to the judge, who has to compare it with what arrives.
///
/// [`Event`] is what the protocol takes; it is made of this by `Event::from`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Post {
    /// Its store.
    pub store: StoreId,
    /// Its payload; without one it says that the store changed.
    pub payload: Option<Bytes>,
    /// Its time to live; zero: only for devices connected now.
    pub ttl: Duration,
    /// How soon it has to arrive.
    pub urgency: Urgency,
    /// The key under which it replaces an older one.
    pub key: Option<CollapseKey>,
}

impl Post {
    /// "`store` changed."
    pub const fn changed(store: StoreId) -> Self {
        Self { store, payload: None, ttl: DEFAULT_TTL, urgency: Urgency::Normal, key: None }
    }

    /// An event that carries `payload`.
    pub fn new(store: StoreId, payload: impl Into<Bytes>) -> Self {
        Self { payload: Some(payload.into()), ..Self::changed(store) }
    }

    /// Lives for `ttl`.
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

    /// Replaces an older event of the same store with the same key.
    #[must_use]
    pub const fn key(mut self, key: CollapseKey) -> Self {
        self.key = Some(key);
        self
    }
}

impl From<&Post> for Event {
    fn from(post: &Post) -> Self {
        let event = match &post.payload {
            Some(payload) => Self::with_payload(post.store, payload.clone()),
            None => Self::changed(post.store),
        };
        let event = event.ttl(post.ttl).urgency(post.urgency);
        match post.key {
            Some(key) => event.key(key),
            None => event,
        }
    }
}
