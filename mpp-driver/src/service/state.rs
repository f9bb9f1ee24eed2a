//! What a service's handles and its driver share.

use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use mpp_proto::{Instant, Service};

use crate::clock::Clock;
use crate::stats::Counters;
use crate::wake::{Guarded, Waiting, Wakes};

/// The state behind its lock, and what needs none.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) state: Guarded<State>,
    pub(super) clock: Clock,
    pub(super) counters: Arc<Counters>,
    pub(super) local: Vec<SocketAddr>,
}

pub(super) struct State {
    pub(super) core: Service,
    /// Handles on the service; the last one closes it.
    pub(super) handles: usize,
    /// Streams of events; without one, events are thrown away.
    pub(super) listeners: usize,
    pub(super) listening: Waiting,
    /// When to stop waiting for the devices of a closed service.
    pub(super) give_up: Option<Instant>,
    /// The driver has gone.
    pub(super) ended: bool,
    watchers: Waiting,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State").field("handles", &self.handles).finish_non_exhaustive()
    }
}

impl Shared {
    pub(super) fn new(state: State, clock: Clock, counters: Arc<Counters>, local: Vec<SocketAddr>) -> Self {
        Self { state: Guarded::new(state), clock, counters, local }
    }

    /// Begins to close, or shortens the deadline of a close that has begun.
    pub(super) fn close(&self, deadline: Duration, spread: Duration) {
        let now = self.clock.now();
        self.state.with(|s, wakes| {
            if s.give_up.is_none() {
                s.core.close(now, spread);
            }
            s.give_up = Instant::earliest(s.give_up, Some(now + deadline));
            wakes.driver();
        });
    }
}

impl State {
    pub(super) fn new(core: Service) -> Self {
        Self {
            core,
            handles: 1,
            listeners: 0,
            listening: Waiting::default(),
            give_up: None,
            ended: false,
            watchers: Waiting::default(),
        }
    }

    pub(super) fn poll_ended(&mut self, cx: &Context<'_>) -> Poll<()> {
        if self.ended {
            return Poll::Ready(());
        }
        self.watchers.add(cx);
        Poll::Pending
    }

    /// After something happened: listeners look for events; where there are none, the events go.
    pub(super) fn settle_events(&mut self, wakes: &mut Wakes) {
        if self.listeners > 0 {
            if !self.listening.is_empty() {
                wakes.all(&mut self.listening);
            }
        } else {
            while self.core.poll_event().is_some() {}
        }
    }

    /// The driver goes: everybody who waits is told.
    pub(super) fn end(&mut self, wakes: &mut Wakes) {
        self.ended = true;
        wakes.all(&mut self.watchers);
        wakes.all(&mut self.listening);
    }
}
