//! What happens to a connection, for programs that show it.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_core::Stream;
use mpp_proto::{
    Code, Connected, ConnectionState, DisconnectReason, IntervalReason, MappingProgress, Transport, UnixTime,
};

use super::state::Shared;
use crate::wake::{Waiting, Wakes};

/// Events that are kept for listeners.
const KEPT: usize = 64;

/// What happened to a client's connection.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ClientEvent {
    /// Connected.
    Connected(Connected),
    /// The keys are new, agreed on while the connection went on: nothing was interrupted.
    KeysRenewed(Connected),
    /// The service has given a new ticket, which is used from now on. [`Client::resume`](crate::Client::resume) holds it.
    TicketRenewed {
        /// When it ends, by the service's clock.
        expiry: UnixTime,
    },
    /// Not connected any more; the client tries again by itself.
    Disconnected {
        /// Why.
        reason: DisconnectReason,
        /// How long until the next attempt.
        retry_in: Duration,
    },
    /// The state changed.
    State(ConnectionState),
    /// The connection goes by this transport from now on: UDP at the start, the Web Service where UDP does not pass.
    Transport(Transport),
    /// The address from which the service sees this device changed.
    ObservedEndpoint(SocketAddr),
    /// The time between heartbeats, or the reason for it, changed: the client learns what its network allows.
    Interval {
        /// The time.
        interval: Duration,
        /// The reason.
        reason: IntervalReason,
    },
    /// Something was found out, or is about to be, about how long the network remembers a silent socket.
    Mapping(MappingProgress),
    /// The service does not take the ticket any more: give a new one with [`Client::renew`](crate::Client::renew).
    RenewTicket {
        /// What the service said.
        code: Code,
    },
    /// Closed for good; nothing follows.
    Aborted(DisconnectReason),
}

/// The last events, for any number of listeners that are never waited for.
#[derive(Debug, Default)]
pub(super) struct Events {
    kept: VecDeque<ClientEvent>,
    /// The number of the oldest that is kept.
    first: u64,
    listeners: Waiting,
}

impl Events {
    pub(super) fn push(&mut self, event: ClientEvent, wakes: &mut Wakes) {
        if self.kept.len() >= KEPT {
            self.kept.pop_front();
            self.first += 1;
        }
        self.kept.push_back(event);
        wakes.all(&mut self.listeners);
    }

    pub(super) fn end(&mut self, wakes: &mut Wakes) {
        wakes.all(&mut self.listeners);
    }

    fn poll(&mut self, next: &mut u64, ended: bool, cx: &Context<'_>) -> Poll<Option<ClientEvent>> {
        *next = (*next).max(self.first);
        let at = usize::try_from(*next - self.first).unwrap_or(usize::MAX);
        match self.kept.get(at) {
            Some(event) => {
                *next += 1;
                Poll::Ready(Some(event.clone()))
            }
            None if ended => Poll::Ready(None),
            None => {
                self.listeners.add(cx);
                Poll::Pending
            }
        }
    }
}

/// A stream of [`ClientEvent`]s, made by [`Client::events`](crate::Client::events). It does not keep the client alive,
/// and ends when the client has ended.
#[derive(Debug)]
pub struct ClientEvents {
    shared: Arc<Shared>,
    next: u64,
}

impl ClientEvents {
    pub(super) const fn new(shared: Arc<Shared>) -> Self {
        Self { shared, next: 0 }
    }

    /// The next event; `None` once the client has ended.
    pub async fn next(&mut self) -> Option<ClientEvent> {
        std::future::poll_fn(|cx| self.poll(cx)).await
    }

    fn poll(&mut self, cx: &Context<'_>) -> Poll<Option<ClientEvent>> {
        let Self { shared, next } = self;
        shared.state.with(|s, _| s.events.poll(next, s.ended, cx))
    }
}

impl Stream for ClientEvents {
    type Item = ClientEvent;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<ClientEvent>> {
        self.poll(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(n: u16) -> ClientEvent {
        ClientEvent::ObservedEndpoint(([127, 0, 0, 1], n).into())
    }

    #[test]
    fn a_slow_listener_misses_the_oldest_and_nothing_else() {
        let (mut events, mut wakes) = (Events::default(), Wakes::default());
        let cx = Context::from_waker(std::task::Waker::noop());
        let (mut quick, mut slow) = (0, 0);
        assert_eq!(events.poll(&mut quick, false, &cx), Poll::Pending);
        for n in 0..100 {
            events.push(event(n), &mut wakes);
            assert_eq!(events.poll(&mut quick, false, &cx), Poll::Ready(Some(event(n))));
        }
        for n in 36..100 {
            assert_eq!(events.poll(&mut slow, true, &cx), Poll::Ready(Some(event(n))));
        }
        assert_eq!(events.poll(&mut slow, true, &cx), Poll::Ready(None));
    }
}
