//! Requests that wait for their answers. They are repeated end to end, as new datagrams under the same request id
//! (SPEC.md, "Requests").

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::net::SocketAddr;
use core::time::Duration;

use bytes::Bytes;

use super::event::{Family, LinkKind};
use super::transport::Transport;
use super::{Deadlines, Links};
use crate::channel::Event;
use crate::ids::{RequestId, StoreSet};
use crate::time::Instant;
use crate::wakeup::TimerKind;
use crate::wire::Post;

/// Requests that may wait at a time.
pub(super) const MAX_REQUESTS: usize = 32;
/// When an unanswered request is sent again, and after the last time it is given up.
const REPEATS: [Duration; 5] = [
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(4),
    Duration::from_secs(8),
    Duration::from_secs(8),
];
/// The same for a question of where the device is seen: what is lost is soon asked again (RFC 8489, section 6.2.1).
const ENDPOINT_REPEATS: [Duration; 7] = [
    ENDPOINT_REPEAT,
    ENDPOINT_REPEAT,
    ENDPOINT_REPEAT,
    ENDPOINT_REPEAT,
    ENDPOINT_REPEAT,
    ENDPOINT_REPEAT,
    Duration::from_secs(2),
];
const ENDPOINT_REPEAT: Duration = Duration::from_millis(500);
/// The same for a look whether UDP is back: one packet, as most of them are in vain. The next one ends it, so that it costs
/// no timer.
const LOOK_REPEATS: [Duration; 1] = [Duration::from_secs(60)];

/// How long an answer may take to a request that was sent by Web, where no timer sends it again.
const WEB_PATIENCE: Duration = Duration::from_secs(23);

/// What is asked.
#[derive(Clone, Debug)]
pub(super) enum Ask {
    Subscribe(StoreSet),
    /// Over the connection's socket, or to that address over one that is for questions only.
    Endpoint {
        at: Option<SocketAddr>,
    },
    /// To another account's channel if one is named.
    Post {
        id: [u8; 16],
        account: Option<Box<str>>,
        event: Event,
    },
    /// The device's own business, nothing of which the application has asked.
    Ticket,
    /// Beside a connection over the Web, whether UDP gets there and back. The device's own business too.
    Look {
        at: SocketAddr,
    },
}

impl Ask {
    /// After how long it is sent again, each time, and in the end given up.
    const fn repeats(&self) -> &'static [Duration] {
        match self {
            Self::Endpoint { .. } => &ENDPOINT_REPEATS,
            Self::Look { .. } => &LOOK_REPEATS,
            _ => &REPEATS,
        }
    }

    /// Where it goes over a socket for questions, if it does not go over the connection's.
    pub(super) const fn remote(&self) -> Option<SocketAddr> {
        match self {
            Self::Endpoint { at } => *at,
            Self::Look { at } => Some(*at),
            _ => None,
        }
    }

    /// The family of that socket.
    pub(super) fn family(&self) -> Option<Family> {
        self.remote().as_ref().map(Family::of)
    }

    /// Whether the application knows nothing of it.
    pub(super) const fn is_own(&self) -> bool {
        matches!(self, Self::Ticket | Self::Look { .. })
    }
}

#[derive(Debug)]
struct Request {
    id: RequestId,
    ask: Ask,
    sendings: usize,
    due: Option<Instant>,
    /// It went by Web: it is not sent again before that is known to have failed, and given up when it is due.
    posted: bool,
}

/// The requests.
#[derive(Debug, Default)]
pub(super) struct Requests {
    waiting: Vec<Request>,
    last: u32,
}

impl Requests {
    pub(super) fn fresh_id(&mut self) -> RequestId {
        // From 1, also after 2^32 of them.
        self.last = self.last.checked_add(1).unwrap_or(1);
        RequestId(self.last)
    }

    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    pub(super) fn is_full(&self) -> bool {
        self.waiting.len() >= MAX_REQUESTS
    }

    /// Adds a request, to be sent as soon as there is a connection.
    pub(super) fn add(&mut self, ask: Ask) -> RequestId {
        let id = self.fresh_id();
        self.waiting.push(Request { id, ask, sendings: 0, due: None, posted: false });
        id
    }

    /// There is a new connection, whose exchange carried the filter `carried`: everything is sent anew, but not the
    /// subscriptions that it has settled. If another filter was asked for since, the last one asked for is not. Nor the
    /// device's own: whether there is a ticket to be had, and whether UDP works, each exchange says for itself.
    pub(super) fn restart(&mut self, now: Instant, carried: StoreSet) -> Vec<RequestId> {
        let last = self.waiting.iter().rfind(|r| matches!(r.ask, Ask::Subscribe(_)));
        let last = last.filter(|r| !matches!(r.ask, Ask::Subscribe(f) if f == carried)).map(|r| r.id);
        let done = |r: &Request| matches!(r.ask, Ask::Subscribe(_)) && Some(r.id) != last;
        let subscribed = self.waiting.iter().filter(|r| done(r)).map(|r| r.id).collect();
        self.waiting.retain(|r| !done(r) && !r.ask.is_own());
        for request in &mut self.waiting {
            request.sendings = 0;
            request.due = Some(now);
            request.posted = false;
        }
        subscribed
    }

    /// A subscription has been answered: older ones that still wait must not be sent again, or a new connection would
    /// put them in force.
    pub(super) fn overtaken(&mut self, by: RequestId) -> Vec<RequestId> {
        let old = |r: &Request| matches!(r.ask, Ask::Subscribe(_)) && r.id < by;
        let overtaken = self.waiting.iter().filter(|r| old(r)).map(|r| r.id).collect();
        self.waiting.retain(|r| !old(r));
        overtaken
    }

    /// What of `filter` is surely in force while subscriptions wait for their answers: each may have been applied.
    pub(super) fn narrowed(&self, filter: StoreSet) -> StoreSet {
        self.waiting.iter().fold(filter, |filter, r| match r.ask {
            Ask::Subscribe(other) => filter.intersection(other),
            _ => filter,
        })
    }

    /// There is no connection: nothing is due until there is one.
    pub(super) fn pause(&mut self) {
        for request in &mut self.waiting {
            (request.due, request.posted) = (None, false);
        }
    }

    /// Makes what was added since due now.
    pub(super) fn start(&mut self, now: Instant) {
        self.waiting.iter_mut().filter(|r| r.due.is_none()).for_each(|r| r.due = Some(now));
    }

    /// The answer has come.
    pub(super) fn take(&mut self, id: RequestId) -> Option<Ask> {
        let at = self.waiting.iter().position(|r| r.id == id)?;
        Some(self.waiting.remove(at).ask)
    }

    /// The next request that is due, counted as sent. While the connection is `changing`, no subscription: the old one
    /// might apply what the new one's exchange does not carry. What has a socket of its own goes by UDP, if that is open,
    /// and everything else by what carries the connection.
    pub(super) fn next_due(
        &mut self,
        now: Instant,
        changing: bool,
        links: &Links,
        (by, carrier): (Transport, Transport),
    ) -> Option<(RequestId, Ask, usize)> {
        let request = self
            .waiting
            .iter_mut()
            .filter(|r| !changing || !matches!(r.ask, Ask::Subscribe(_)))
            .filter(|r| match r.ask.family() {
                Some(family) => by == Transport::Udp && links.open_of(LinkKind::Asking(family)).is_some(),
                None => by == carrier,
            })
            .find(|r| r.due.is_some_and(|due| due <= now) && r.is_to_be_sent())?;
        request.posted = by == Transport::Web;
        let again = if request.posted { WEB_PATIENCE } else { request.ask.repeats()[request.sendings] };
        request.due = Some(now + again);
        request.sendings += 1;
        Some((request.id, request.ask.clone(), request.sendings))
    }

    /// The next request that has been sent as often as it may be.
    pub(super) fn next_expired(&mut self, now: Instant) -> Option<(RequestId, Ask)> {
        let at =
            self.waiting.iter().position(|r| r.due.is_some_and(|due| due <= now) && !r.is_to_be_sent())?;
        let request = self.waiting.remove(at);
        Some((request.id, request.ask))
    }

    /// Whether something waits that is asked over a socket of its own, of this family.
    pub(super) fn asks_over(&self, family: Family) -> bool {
        self.waiting.iter().any(|r| r.ask.family() == Some(family))
    }

    /// The next of those, which is not asked any more.
    pub(super) fn next_asked_over(&mut self, family: Family) -> Option<(RequestId, Ask)> {
        let at = self.waiting.iter().position(|r| r.ask.family() == Some(family))?;
        let request = self.waiting.remove(at);
        Some((request.id, request.ask))
    }

    /// A Web request has failed: what went by Web and has no answer is sent again.
    pub(super) fn post_again(&mut self, now: Instant) {
        for request in self.waiting.iter_mut().filter(|r| r.posted) {
            (request.posted, request.due) = (false, Some(now));
        }
    }

    /// All of them, at the end.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = (RequestId, Ask)> + '_ {
        self.waiting.drain(..).map(|r| (r.id, r.ask))
    }

    /// A ticket is not wanted any more.
    pub(super) fn forget_ticket(&mut self) {
        self.waiting.retain(|r| !matches!(r.ask, Ask::Ticket));
    }

    /// Nor an answer to a look.
    pub(super) fn forget_looks(&mut self) {
        self.waiting.retain(|r| !matches!(r.ask, Ask::Look { .. }));
    }

    /// Names every deadline.
    pub(super) fn deadlines(&self, next: &mut Deadlines) {
        for request in &self.waiting {
            match request.due {
                Some(at) if request.is_to_be_sent() => next.send(at, TimerKind::Request),
                Some(at) => next.act(at, TimerKind::Request),
                None => {}
            }
        }
    }
}

impl Request {
    fn is_to_be_sent(&self) -> bool {
        !self.posted && self.sendings < self.ask.repeats().len()
    }
}

/// The message that posts an event.
pub(super) fn post<'a>(
    request: RequestId,
    id: &[u8; 16],
    account: Option<&'a str>,
    event: &'a Event,
) -> Post<'a> {
    Post {
        request,
        post_id: *id,
        store: event.store,
        ttl: (event.ttl != crate::channel::DEFAULT_TTL).then_some(event.ttl),
        urgency: event.urgency as u8,
        key: event.key.as_ref().map(crate::channel::CollapseKey::as_bytes),
        payload: event.payload.as_ref().map(Bytes::as_ref),
        account,
    }
}
