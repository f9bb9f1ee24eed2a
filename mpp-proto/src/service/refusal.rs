//! Why something is refused, as the one who is refused is told: a code, when to ask again, and in few words what was
//! wrong and what the limit is (SPEC.md, "Codes"). Only those who have proved who they are hear details.

use core::fmt::{self, Write as _};
use core::time::Duration;

use super::limits::Rate;
use crate::channel::EventError;
use crate::wire::Code;

/// What ticket holders are refused for. Each reason has a counter, see [`ServiceStats`](super::ServiceStats).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum RefusalReason {
    /// What a ticket's holder sealed in step 1 is no Connect.
    Connect,
    /// The ticket had ended.
    Expired,
    /// The ticket was issued too far in the future.
    Future,
    /// The ticket was revoked.
    Revoked,
    /// The ticket has no right to receive.
    NoRightToReceive,
    /// The host does not know the account.
    UnknownAccount,
    /// The connect serial was not above that of the device's connection.
    Serial,
    /// Too many exchanges of one device.
    Exchanges,
    /// Too many exchanges of all devices.
    Busy,
    /// The table of connections was full.
    Connections,
    /// The table of channels was full.
    Channels,
    /// Too many requests of one device.
    Requests,
    /// A message of an unknown type.
    UnknownMessage,
    /// The ticket has no right to post there.
    NoRightToPost,
    /// The event breaks a limit.
    Event,
    /// Too many posts to one channel.
    Posts,
    /// The service takes no posts.
    Unavailable,
    /// No new ticket for this one.
    NoTicket,
    /// Too many posts of one account to another one's channel.
    ForeignPosts,
    /// Too many posts that the host has to decide about.
    PostsWaiting,
    /// The host did not decide about the post in time.
    Undecided,
    /// The host refused the post.
    Host,
    /// A probe that was too long, did not prove its address, or came when there was no time for it.
    Probes,
}

impl RefusalReason {
    /// Every reason, in the order of their counters.
    pub const ALL: [Self; Self::COUNT] = [
        Self::Connect,
        Self::Expired,
        Self::Future,
        Self::Revoked,
        Self::NoRightToReceive,
        Self::UnknownAccount,
        Self::Serial,
        Self::Exchanges,
        Self::Busy,
        Self::Connections,
        Self::Channels,
        Self::Requests,
        Self::UnknownMessage,
        Self::NoRightToPost,
        Self::Event,
        Self::Posts,
        Self::Unavailable,
        Self::NoTicket,
        Self::ForeignPosts,
        Self::PostsWaiting,
        Self::Undecided,
        Self::Host,
        Self::Probes,
    ];

    /// The number of reasons, for tables of counters.
    pub const COUNT: usize = 23;
}

/// The reason, and what there is to say about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// Authentic, and no Connect.
    Connect,
    /// The ticket has ended.
    Expired,
    /// The ticket was issued later than clocks may differ.
    Future,
    /// The host has revoked it.
    Revoked,
    /// It has no right to receive.
    NoRightToReceive,
    /// The host does not know its account.
    UnknownAccount,
    /// The connect serial is not above this one.
    Serial { confirmed: u64 },
    /// Too many exchanges of one device.
    Exchanges { rate: Rate, retry_after: Duration },
    /// Too many exchanges of all devices: a place in the queue.
    Busy { retry_after: Duration },
    /// The table of connections is full.
    Connections { limit: u32, retry_after: Duration },
    /// The table of channels is full.
    Channels { limit: u32 },
    /// Too many requests in a connection.
    Requests { rate: Rate, retry_after: Duration },
    /// A message of a type that is not known here.
    UnknownMessage,
    /// The ticket has no right to post there.
    NoRightToPost,
    /// The event breaks a limit.
    Event(EventError),
    /// Too many posts to a channel.
    Posts { retry_after: Duration },
    /// The service does not take it.
    Unavailable,
    /// The ticket is not renewed, in these words.
    NoTicket(&'static str),
    /// Too many posts of an account to another one's channel.
    ForeignPosts { retry_after: Duration },
    /// Too many posts wait for the host.
    PostsWaiting { retry_after: Duration },
    /// Too many posts of one account wait for the host.
    PostsOfOneWaiting { retry_after: Duration },
    /// Too many posts of one account that the host has decided about are remembered.
    PostsOfOne { retry_after: Duration },
    /// The host did not decide in time.
    Undecided { retry_after: Duration },
    /// The host does not take it.
    Host { code: Code, retry_after: Duration },
    /// No time for probes.
    Probes { retry_after: Duration },
    /// The silence asked for is too long.
    ProbeTooLong { limit: Duration },
    /// The echo does not prove the address of the probe.
    ProbeEcho,
    /// Asked by Web, and about a way by UDP.
    NotByWeb,
}

impl Refusal {
    pub(super) const fn code(self) -> Code {
        match self {
            Self::Connect
            | Self::UnknownMessage
            | Self::Event(_)
            | Self::ProbeTooLong { .. }
            | Self::NotByWeb => Code::BAD_REQUEST,
            Self::Expired => Code::TICKET_EXPIRED,
            Self::Future | Self::Revoked => Code::UNAUTHORIZED,
            Self::NoRightToReceive | Self::NoRightToPost | Self::NoTicket(_) | Self::ProbeEcho => {
                Code::FORBIDDEN
            }
            Self::UnknownAccount => Code::UNKNOWN_ACCOUNT,
            Self::Serial { .. } => Code::CONFLICT,
            Self::Exchanges { .. }
            | Self::Requests { .. }
            | Self::Posts { .. }
            | Self::ForeignPosts { .. }
            | Self::PostsOfOneWaiting { .. }
            | Self::PostsOfOne { .. } => Code::TOO_MANY_REQUESTS,
            Self::Host { code, .. } => code,
            Self::Busy { .. }
            | Self::Connections { .. }
            | Self::Channels { .. }
            | Self::Unavailable
            | Self::PostsWaiting { .. }
            | Self::Probes { .. }
            | Self::Undecided { .. } => Code::UNAVAILABLE,
        }
    }

    /// Which counter it has.
    pub(super) const fn reason(self) -> RefusalReason {
        match self {
            Self::Connect => RefusalReason::Connect,
            Self::Expired => RefusalReason::Expired,
            Self::Future => RefusalReason::Future,
            Self::Revoked => RefusalReason::Revoked,
            Self::NoRightToReceive => RefusalReason::NoRightToReceive,
            Self::UnknownAccount => RefusalReason::UnknownAccount,
            Self::Serial { .. } => RefusalReason::Serial,
            Self::Exchanges { .. } => RefusalReason::Exchanges,
            Self::Busy { .. } => RefusalReason::Busy,
            Self::Connections { .. } => RefusalReason::Connections,
            Self::Channels { .. } => RefusalReason::Channels,
            Self::Requests { .. } => RefusalReason::Requests,
            Self::UnknownMessage => RefusalReason::UnknownMessage,
            Self::NoRightToPost => RefusalReason::NoRightToPost,
            Self::Event(_) => RefusalReason::Event,
            Self::Posts { .. } => RefusalReason::Posts,
            Self::Unavailable => RefusalReason::Unavailable,
            Self::NoTicket(_) => RefusalReason::NoTicket,
            Self::ForeignPosts { .. } => RefusalReason::ForeignPosts,
            Self::PostsWaiting { .. } | Self::PostsOfOneWaiting { .. } | Self::PostsOfOne { .. } => {
                RefusalReason::PostsWaiting
            }
            Self::Undecided { .. } => RefusalReason::Undecided,
            Self::Host { .. } => RefusalReason::Host,
            Self::Probes { .. } | Self::ProbeTooLong { .. } | Self::ProbeEcho | Self::NotByWeb => {
                RefusalReason::Probes
            }
        }
    }

    /// When to ask again; zero: not said.
    pub(super) const fn retry_after(self) -> Duration {
        match self {
            Self::Exchanges { retry_after, .. }
            | Self::Busy { retry_after }
            | Self::Connections { retry_after, .. }
            | Self::Requests { retry_after, .. }
            | Self::Posts { retry_after }
            | Self::ForeignPosts { retry_after }
            | Self::PostsWaiting { retry_after }
            | Self::PostsOfOneWaiting { retry_after }
            | Self::PostsOfOne { retry_after }
            | Self::Undecided { retry_after }
            | Self::Probes { retry_after }
            | Self::Host { retry_after, .. } => retry_after,
            _ => Duration::ZERO,
        }
    }

    /// With a connect serial that was not high enough: the one to be above.
    pub(super) const fn serial(self) -> Option<u64> {
        match self {
            Self::Serial { confirmed } => Some(confirmed),
            _ => None,
        }
    }

    /// What it says.
    pub(super) fn detail(self) -> Text {
        let mut text = Text::default();
        // What is longer is cut, so this does not fail.
        let _ = write!(text, "{self}");
        text
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect => f.write_str("not a Connect of this profile"),
            Self::Expired => f.write_str("the ticket has expired"),
            Self::Future => f.write_str("the ticket was issued more than 5 minutes in the future"),
            Self::Revoked => f.write_str("the ticket is revoked"),
            Self::NoRightToReceive => f.write_str("the ticket has no right to receive"),
            Self::UnknownAccount => f.write_str("unknown account"),
            Self::Serial { .. } => f.write_str("connect serial not above the last"),
            Self::Exchanges { rate, .. } => {
                write!(f, "{} exchanges per second and device, {} at once", rate.per_second, rate.burst)
            }
            Self::Busy { .. } => f.write_str("too many devices at once, a place is kept"),
            Self::Connections { limit, .. } => write!(f, "all {limit} connections are taken"),
            Self::Channels { limit } => write!(f, "all {limit} channels are taken"),
            Self::Requests { rate, .. } => {
                write!(f, "{} requests per second, {} at once", rate.per_second, rate.burst)
            }
            Self::UnknownMessage => f.write_str("unknown type of message"),
            Self::NoRightToPost => f.write_str("the ticket has no right to post there"),
            Self::Event(error) => error.fmt(f),
            Self::Posts { .. } => f.write_str("256 posts per channel in 10 minutes"),
            Self::NoTicket(why) => f.write_str(why),
            Self::Unavailable => f.write_str("the service takes no posts now"),
            Self::ForeignPosts { .. } => {
                f.write_str("1 post per second to another account's channel, 10 at once")
            }
            Self::PostsWaiting { .. } => f.write_str("too many posts wait for a decision"),
            Self::PostsOfOneWaiting { .. } => f.write_str("64 posts of an account may wait for a decision"),
            Self::PostsOfOne { .. } => f.write_str("1,024 posts of an account in 10 minutes"),
            Self::Undecided { .. } => f.write_str("nobody decided about the post in 20 s"),
            Self::Host { .. } => f.write_str("the host of the service does not take the post"),
            Self::Probes { .. } => f.write_str("no time for probes now"),
            Self::ProbeTooLong { limit } => write!(f, "probes of at most {} s", limit.as_secs()),
            Self::NotByWeb => f.write_str("only by UDP: by Web there is no address to see or to probe"),
            Self::ProbeEcho => f.write_str("the echo is not of this address, connection and time"),
        }
    }
}

/// As long as a detail may be.
const MAX_TEXT: usize = 128;

/// A short text that is written without allocating; what does not fit is cut at a character.
pub(super) struct Text {
    bytes: [u8; MAX_TEXT],
    len: usize,
}

impl Default for Text {
    fn default() -> Self {
        Self { bytes: [0; MAX_TEXT], len: 0 }
    }
}

impl Text {
    pub(super) fn as_str(&self) -> &str {
        self.bytes.get(..self.len).and_then(|b| str::from_utf8(b).ok()).unwrap_or_default()
    }
}

impl fmt::Write for Text {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        let fits = &s.as_bytes()[..s.floor_char_boundary(MAX_TEXT - self.len)];
        self.bytes[self.len..self.len + fits.len()].copy_from_slice(fits);
        self.len += fits.len();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::string::String;

    use super::*;
    use crate::ids::StoreId;

    #[test]
    fn every_reason_says_something_that_fits() {
        let retry_after = Duration::from_secs(1);
        let rate = Rate::new(u32::MAX, u32::MAX);
        let events = [
            EventError::Payload { size: usize::MAX },
            EventError::Store { store: StoreId::ANY },
            EventError::Key { size: usize::MAX },
            EventError::Ttl { ttl: Duration::MAX },
        ];
        let reasons = [
            Refusal::Connect,
            Refusal::Expired,
            Refusal::Future,
            Refusal::Revoked,
            Refusal::NoRightToReceive,
            Refusal::UnknownAccount,
            Refusal::Serial { confirmed: u64::MAX },
            Refusal::Exchanges { rate, retry_after },
            Refusal::Busy { retry_after },
            Refusal::Connections { limit: u32::MAX, retry_after },
            Refusal::Channels { limit: u32::MAX },
            Refusal::Requests { rate, retry_after },
            Refusal::UnknownMessage,
            Refusal::NoRightToPost,
            Refusal::Posts { retry_after },
            Refusal::Unavailable,
            Refusal::NoTicket("because"),
            Refusal::ForeignPosts { retry_after },
            Refusal::PostsWaiting { retry_after },
            Refusal::PostsOfOneWaiting { retry_after },
            Refusal::PostsOfOne { retry_after },
            Refusal::Undecided { retry_after },
            Refusal::Host { code: Code::FORBIDDEN, retry_after },
            Refusal::Probes { retry_after },
            Refusal::ProbeTooLong { limit: Duration::MAX },
            Refusal::ProbeEcho,
            Refusal::NotByWeb,
        ];
        for reason in reasons.into_iter().chain(events.map(Refusal::Event)) {
            let text = reason.detail();
            assert!(!text.as_str().is_empty(), "{reason:?}");
            assert!(std::format!("{reason}").starts_with(text.as_str()));
        }
        let requests = Refusal::Requests { rate: Rate::new(10, 60), retry_after };
        assert_eq!(requests.detail().as_str(), "10 requests per second, 60 at once");
    }

    #[test]
    fn what_is_too_long_is_cut_at_a_character() {
        let mut text = Text::default();
        let long: String = core::iter::repeat_n('ä', 100).collect();
        write!(text, "x{long}").unwrap();
        assert_eq!(text.as_str().len(), 127);
        write!(text, "ä").unwrap();
        assert_eq!(text.as_str().len(), 127);
    }
}
