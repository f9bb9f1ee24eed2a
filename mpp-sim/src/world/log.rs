//! What a device's application saw and did.

use std::time::Duration;

use mpp_proto::{
    DeviceEvent, Instant, Notification, NotificationKind, RequestId, Resume, Serial, StoreSet, UnixTime,
};

/// A line in the log of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// When.
    pub at: Instant,
    /// What time it truly was.
    pub unix: UnixTime,
    /// What.
    pub record: Record,
}

/// What a line in the log of a device says.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(clippy::large_enum_variant)] // A log is read more often than it is moved.
pub enum Record {
    /// The device was started, with what it had kept.
    Started(Option<Resume>),
    /// The device was killed.
    Stopped,
    /// The machine said something.
    Event(DeviceEvent),
    /// The application was given something.
    Notification(Notification),
    /// The application acknowledged (manual mode).
    Acknowledged(Serial),
    /// The application asked for these stores, by this request.
    Subscribe(RequestId, StoreSet),
}

impl Entry {
    /// The notification in it, if it is one.
    pub fn notification(&self) -> Option<&Notification> {
        match &self.record {
            Record::Notification(n) => Some(n),
            _ => None,
        }
    }

    /// The serial and payload in it, if it is an event with payload.
    pub fn payload(&self) -> Option<(Serial, &[u8])> {
        match &self.notification()?.kind {
            NotificationKind::Event { serial, payload, .. } => Some((*serial, payload)),
            _ => None,
        }
    }
}

/// How the application of a device takes its notifications.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum App {
    /// At once, all of them.
    #[default]
    Prompt,
    /// Not at all.
    Stalled,
    /// One, and the next one not before this time has passed.
    Every(Duration),
}
