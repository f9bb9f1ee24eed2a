//! Channels: events, serials, filters and the ring in which payloads wait.

mod event;
mod log;

pub use event::{
    CollapseKey, DEFAULT_TTL, Event, EventError, MAX_KEY, MAX_PAYLOAD, MAX_TTL, Notification,
    NotificationKind, Urgency,
};
pub(crate) use log::{Limits, Listener, Log, Plan, Recall, Removed, Stored};
