//! What a service tells its host.

use core::time::Duration;

use super::posts::PostHandle;
use crate::channel::Event;
use crate::ids::{AccountId, DeviceId, Epoch, Serial};
use crate::path::Path;
use crate::wire::Code;

/// A channel as the host's store knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct AccountHead {
    /// Whose channel.
    pub account: AccountId,
    /// The epoch of its history; `None`: a new history, for which the service draws an epoch
    /// ([`ServiceEvent::Epoch`]).
    pub epoch: Option<Epoch>,
    /// Its newest serial.
    pub newest: Serial,
}

impl AccountHead {
    /// A channel without history.
    pub const fn new(account: AccountId) -> Self {
        Self { account, epoch: None, newest: Serial::ZERO }
    }

    /// A channel whose history the host kept.
    pub const fn restored(account: AccountId, epoch: Epoch, newest: Serial) -> Self {
        Self { account, epoch: Some(epoch), newest }
    }
}

/// What [`Service::poll_event`](super::Service::poll_event) returns.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ServiceEvent {
    /// A history of a channel begins, and the service has drawn its epoch (SPEC.md, section 17.5): the channel is new, or a
    /// device has shown that the host lost events which that device has. Comes before what follows from it.
    ///
    /// A host that keeps its log makes the epoch durable before the log takes the channel's next event, and names it to
    /// [`Service::restore`](super::Service::restore) from then on. If it came back with the epoch before, serials of both
    /// histories would have one name, and a device that was away would take new events for those it has: it would never hear
    /// of them, nor of a gap. A host whose log is in memory has nothing to do.
    Epoch {
        /// Whose channel.
        account: AccountId,
        /// Its epoch from now on.
        epoch: Epoch,
    },
    /// A device is connected.
    Connected {
        /// Whose.
        account: AccountId,
        /// Which.
        device: DeviceId,
        /// Over which path.
        path: Path,
    },
    /// A device is followed to another path: it has answered a challenge from there.
    Moved {
        /// Whose.
        account: AccountId,
        /// Which.
        device: DeviceId,
        /// The path to it now.
        path: Path,
    },
    /// A device is not connected any more.
    Closed {
        /// Whose.
        account: AccountId,
        /// Which.
        device: DeviceId,
        /// Why.
        reason: CloseReason,
        /// What its application has taken.
        position: Serial,
    },
    /// A device posts an event, and the host decides: answer with
    /// [`Service::answer_post`](super::Service::answer_post) within 20 s. Comes only if [`ServiceConfig`] says so
    /// ([`OwnPosts::Host`], [`ForeignPosts::Host`]), once for each post however often it arrives.
    ///
    /// [`ServiceConfig`]: super::ServiceConfig
    /// [`OwnPosts::Host`]: super::OwnPosts::Host
    /// [`ForeignPosts::Host`]: super::ForeignPosts::Host
    Post {
        /// What to answer with.
        handle: PostHandle,
        /// Whose device posts.
        account: AccountId,
        /// Which device.
        device: DeviceId,
        /// To whose channel. The service may have no channel of that account, nor know whether there is one.
        to: AccountId,
        /// The same for every repetition of this post, also after a restart: a durable log keeps it with the event for
        /// at least 10 minutes, and answers [`Stored`](super::PostAnswer::Stored) if it has it already.
        post_id: [u8; 16],
        /// The event. One from another account says so ([`Event::poster`]).
        event: Event,
    },
}

/// Why an answer to a post was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PostError {
    /// It does not wait any more.
    #[error("the post does not wait any more: it was answered already, or the decision took more than 20 s")]
    Gone,
    /// The serial is not one of the channel.
    #[error("serial {serial} is none that was delivered (the newest is {newest}): deliver the event first")]
    NotDelivered {
        /// What was given.
        serial: Serial,
        /// The newest serial of the channel.
        newest: Serial,
    },
    /// The event cannot be published.
    #[error(transparent)]
    Publish(#[from] PublishError),
}

/// Why a device's connection ended, seen from the service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CloseReason {
    /// The device closed it.
    ByDevice,
    /// Its lease ran out.
    TimedOut,
    /// A newer connection of the same device took its place.
    Superseded,
    /// The service closed it with this code.
    ByService(Code),
}

/// How a device stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DeviceState {
    /// Heard of within its lease.
    Connected,
    /// Its lease ran out; it is being asked for the first time.
    Overdue1,
    /// It is being asked for the second time.
    Overdue2,
}

/// A connected device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DeviceStatus {
    /// Which device.
    pub device: DeviceId,
    /// How it stands.
    pub state: DeviceState,
    /// The path to it.
    pub path: Path,
    /// How long ago it was last heard.
    pub silent: Duration,
    /// How long it has been connected.
    pub connected: Duration,
    /// Everything up to here has reached it.
    pub told: Serial,
    /// Everything up to here its application has taken.
    pub position: Serial,
    /// The smoothed round-trip time, once measured.
    pub rtt: Option<Duration>,
}

/// Why an event was not published.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PublishError {
    /// There is no such channel.
    #[error(
        "unknown account: no device of it has connected since the service started, and the host has not restored it"
    )]
    UnknownAccount,
    /// The event breaks a limit.
    #[error(transparent)]
    Event(#[from] crate::channel::EventError),
    /// The serial is not the next one.
    #[error("serial {got} does not follow {newest}: deliver {} next, or declare the missing ones lost", newest.next())]
    Hole {
        /// The newest serial of the channel.
        newest: Serial,
        /// What was given.
        got: Serial,
    },
    /// There are no serials above [`Serial::MAX`].
    #[error("serial {got} is above the highest that a packet can carry, {}", Serial::MAX)]
    Serial {
        /// What was given, or what the next event would get.
        got: Serial,
    },
    /// The channel has its serials from somebody else.
    #[error(
        "two writers: the serials of this channel are given by {}, and a channel has one writer",
        if *host { "the host: deliver events to it, do not publish them" }
        else { "the service: publish events to it, do not deliver them" }
    )]
    Writers {
        /// Whether the host gives them.
        host: bool,
    },
    /// The channel is open already, with another history.
    #[error(
        "the channel is open already, with another history (newest serial {newest}): restore before devices connect, or set AccountPolicy::Restored"
    )]
    Open {
        /// Its newest serial.
        newest: Serial,
    },
    /// The table of channels is full.
    #[error("the table of {limit} channels is full: raise ServiceConfig::accounts")]
    Capacity {
        /// The limit.
        limit: u32,
    },
    /// The account lives on another shard of this service.
    #[error("the account lives on shard {} of this service: ask that one (Router::shard_of)", shard.0)]
    OtherShard {
        /// Which.
        shard: crate::ids::ShardId,
    },
    /// The service is closed.
    #[error("the service is closed")]
    Closed,
}
