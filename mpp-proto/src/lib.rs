//! Mesh Presence Protocol: the protocol as pure state machines.
//!
//! Devices subscribe to their account's channel at a service, and the service tells them over UDP what happens there.
//! Here is what both sides do with each packet, and nothing else: no sockets, no clocks, no threads, no runtime. With
//! tokio, smol or async-std use `mpp-tokio`, `mpp-smol` or `mpp-async-std`; to put the protocol in a loop of your own,
//! read on. This is a whole device, `examples/blocking.rs`:
//!
//! ```no_run
#![doc = include_str!("../examples/blocking.rs")]
//! ```
//!
//! `examples/shared_socket.rs` has a device and a service in one loop on mio, on a socket that they share with foreign
//! traffic.
//!
//! # The contract of the loop
//!
//! A [`Device`] and a [`Service`] are driven in the same way. Nothing happens but inside of calls, and no call waits.
//!
//! 1. **Feed**: give each received UDP payload to `handle_datagram(s)`, and call `handle_timeout` when the time that
//!    `poll_timeout` named has come. Earlier or more often does no harm; later makes the protocol slower, not wrong.
//! 2. **Drain**: after every call that takes `&mut self`, commands like [`Device::post`] and [`Service::publish`]
//!    included, call `poll_event` and `poll_transmit` until they give nothing, and do what they say. Answering an event
//!    (with [`Device::handle_link`], say) is such a call too: events first, then packets. What is not drained does not
//!    get lost, but it does not get sent either.
//! 3. **Then ask `poll_timeout`**, and wait for a packet or that moment, whichever comes first; `None`: for a packet
//!    only. After `handle_timeout(now)` it is never at or before `now`, unless the service answered [`Progress::More`]:
//!    a loop that follows it does not spin.
//!
//! **To end**, call [`Device::close`] or [`Service::close`] and go on with the loop until `is_drained` says that the other
//! side has been told.
//!
//! [`Device::poll_notification`] is different: the application calls it when it is ready for one. In automatic mode
//! the call says that the one before has been dealt with, so a loop must not collect notifications in a queue of its
//! own; with [`Acknowledgement::Manual`] it may.
//!
//! **Time** is yours: [`Instant`] counts microseconds from any moment, never goes back, and should go on while the
//! machine sleeps (Linux's `CLOCK_BOOTTIME`; `std::time::Instant` stops there, and a device that slept finds out a
//! heartbeat later). [`UnixTime`] is the civil clock; correct it with `set_clock`. **Randomness** is the [`Seed`]: 32
//! bytes from the operating system, used for one machine and never again.
//!
//! **The Web**: where UDP does not pass a device asks for a link of kind [`LinkKind::Web`]. A host that has a Web client
//! opens it, drains [`Device::poll_web`] with the rest, makes those requests, and gives their ends to
//! [`Device::handle_web_answer`]. One that has none answers [`LinkState::Failed`], and is UDP only.
//!
//! **Errors of sending are lost packets**: ignore them, the protocol repeats; but an error that says that UDP is forbidden
//! here (`EPERM`, `ENETUNREACH`) may be told with [`Device::handle_unsent`], so that the Web is tried at once. Errors of receiving are mostly ICMP
//! messages about packets sent earlier: ignore them too. **Any bytes are safe to feed**: what is not authentic is
//! counted and dropped, and unless the [`Disposition`] is [`Disposition::Accepted`] the payload is unchanged, so that it
//! can be handed on. `recognizes` tells the packets of a shared socket apart without any cryptography of weight.
//!
//! **Several processors**: a [`Service`] is one shard of [`ServiceConfig::shards`], and an account lives on exactly one of
//! them. Give each its own loop; a [`Router`], or the [`Disposition`] of a packet that came to the wrong one, says where it
//! belongs.
//!
//! The wire format is in `SPEC.md`.
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
mod keepalive;
mod netcheck;
mod path;
mod pool;
mod random;
mod rud;
mod service;
#[cfg(test)]
mod spec;
mod stun;
mod time;
mod wakeup;
mod wheel;
mod wiped;
mod wire;

pub use batch::TransmitBatch;
pub use channel::{
    CollapseKey, DEFAULT_TTL, Delivery, Event, EventError, MAX_KEY, MAX_PAYLOAD, MAX_TTL, Notification,
    NotificationKind, Urgency,
};
pub use crypto::{Secret, ServiceSecret, TicketKey, TicketSpec};
pub use device::{
    Acknowledgement, CommandError, Connected, ConnectionReport, ConnectionState, Device, DeviceConfig,
    DeviceEvent, DeviceStats, DisconnectReason, Family, KeepaliveReport, LinkKind, LinkState, MappingEnd,
    MappingProgress, RequestError, ResolveId, Resume, ResumeError, Transport, WebAnswer, WebRequestId,
    WebTransmit,
};
pub use ids::{
    AccountId, DeviceId, Epoch, NetworkId, NodeId, RequestId, Rights, Serial, ShardId, StoreId, StoreSet,
};
pub use keepalive::IntervalReason;
pub use netcheck::{
    Answers, Destination, FamilyReport, Filtering, InUse, Loss, Mapping, Netcheck, NetcheckEvent,
    NetcheckReport, Ports, RoundTrips, TicketCheck, Translation, Udp, Verdict, WebDestination, WebSeen,
};
pub use path::{Datagram, Disposition, DropReason, LinkId, Path, Transmit};
pub use random::Seed;
pub use service::{
    AccountHead, AccountPolicy, CloseReason, DeferPolicy, DeviceState, DeviceStatus, ForeignPosts, OwnPosts,
    PostAnswer, PostError, PostHandle, Progress, PublishError, Rate, RefusalReason, Route, Router, Service,
    ServiceConfig, ServiceEvent, ServiceStats, WebId, WebRequest,
};
pub use time::{Instant, UnixTime};
pub use wakeup::{TimerKind, Wakeup};
pub use wiped::{SecretBytes, SecretText};
pub use wire::{Code, Endpoint, EndpointError, Ticket, TicketError};
