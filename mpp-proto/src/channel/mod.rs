//! Channels: events, serials, filters and the ring in which payloads wait.

mod event;
mod fates;
mod log;

pub use event::{
    CollapseKey, DEFAULT_TTL, Event, EventError, MAX_KEY, MAX_PAYLOAD, MAX_TTL, Notification,
    NotificationKind, Urgency,
};
pub use fates::Delivery;
pub(crate) use log::{Limits, Listener, Log, POST_MEMORY, Plan, PostId, Recall, Removed, Stored};
