//! Mesh Presence Protocol: the protocol as pure state machines.
#![no_std]
extern crate alloc;
#[cfg(test)]
extern crate std;

mod batch;
mod channel;
mod crypto;
mod device;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod ids;
mod path;
mod pool;
mod random;
mod rud;
mod service;
mod time;
mod wakeup;
mod wheel;
mod wire;

pub use batch::TransmitBatch;
pub use channel::{
    CollapseKey, DEFAULT_TTL, Event, EventError, MAX_KEY, MAX_PAYLOAD, MAX_TTL, Notification,
    NotificationKind, Urgency,
};
pub use crypto::{Secret, ServiceSecret, TicketKey, TicketSpec};
pub use device::{
    Acknowledgement, CommandError, Connected, ConnectionState, Device, DeviceConfig, DeviceEvent,
    DeviceStats, DisconnectReason, Family, LinkState, RequestError, ResolveId, Resume, ResumeError,
};
pub use ids::{AccountId, DeviceId, Epoch, RequestId, Rights, Serial, ShardId, StoreId, StoreSet};
pub use path::{Datagram, Disposition, DropReason, LinkId, Path, Transmit};
pub use random::Seed;
pub use service::{
    AccountHead, AccountPolicy, CloseReason, DeferPolicy, DeviceState, DeviceStatus, Progress, PublishError,
    Service, ServiceConfig, ServiceEvent, ServiceStats,
};
pub use time::{Instant, UnixTime};
pub use wakeup::{TimerKind, Wakeup};
pub use wire::{Code, Endpoint, EndpointError, Ticket, TicketError};
