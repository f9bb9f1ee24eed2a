//! What a service's handles and its drivers share.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::Duration;

use mpp_proto::{AccountId, Code, Instant, PostAnswer, Router, Service, ServiceEvent, ShardId};

use super::mail::Mailbox;
use crate::clock::Clock;
use crate::stats::Counters;
use crate::wake::{Guarded, Waiting, Wakes};

/// The shards, each behind its own lock, and what needs none.
#[derive(Debug)]
pub(super) struct Shared {
    shards: Vec<Guarded<State>>,
    router: Router,
    pub(super) clock: Clock,
    pub(super) counters: Arc<Counters>,
    pub(super) local: Vec<SocketAddr>,
    /// Handles on the service; the last one closes it.
    pub(super) handles: AtomicUsize,
    /// Streams of events; without one, events are thrown away.
    pub(super) listeners: AtomicUsize,
    /// The shard with which the next look at all of them begins, so that each has its turn.
    first: AtomicUsize,
    /// Names of requests to the Web Service.
    #[cfg(feature = "web")]
    pub(super) web_requests: std::sync::atomic::AtomicU64,
}

/// One shard.
pub(super) struct State {
    pub(super) core: Service,
    /// What arrived at other shards' sockets.
    pub(super) mail: Mailbox,
    pub(super) listening: Waiting,
    /// When to stop waiting for the devices of a closed service.
    pub(super) give_up: Option<Instant>,
    /// The driver has gone.
    pub(super) ended: bool,
    watchers: Waiting,
    /// Requests to the Web Service.
    #[cfg(feature = "web")]
    pub(super) web: super::web::Held,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State").field("core", &self.core).finish_non_exhaustive()
    }
}

impl Shared {
    pub(super) fn new(
        cores: Vec<Service>,
        router: Router,
        clock: Clock,
        counters: Arc<Counters>,
        local: Vec<SocketAddr>,
    ) -> Self {
        Self {
            shards: cores.into_iter().map(|core| Guarded::new(State::new(core))).collect(),
            router,
            clock,
            counters,
            local,
            handles: AtomicUsize::new(1),
            listeners: AtomicUsize::new(0),
            first: AtomicUsize::new(0),
            #[cfg(feature = "web")]
            web_requests: std::sync::atomic::AtomicU64::new(0),
        }
    }

    /// A shard by its number.
    pub(super) fn shard(&self, shard: ShardId) -> &Guarded<State> {
        &self.shards[usize::from(shard.0)]
    }

    /// The shard on which an account lives.
    pub(super) fn home(&self, account: &AccountId) -> &Guarded<State> {
        self.shard(self.router.shard_of(account))
    }

    /// Any shard, another one each time.
    #[cfg(feature = "web")]
    pub(super) fn any(&self) -> ShardId {
        ShardId((self.first.fetch_add(1, Relaxed) % self.shards.len()) as u8)
    }

    /// All shards, beginning with another one each time.
    pub(super) fn all(&self) -> impl Iterator<Item = &Guarded<State>> {
        let first = self.first.fetch_add(1, Relaxed) % self.shards.len();
        let (later, sooner) = self.shards.split_at(first);
        sooner.iter().chain(later)
    }

    /// Begins to close, or shortens the deadline of a close that has begun.
    pub(super) fn close(&self, deadline: Duration, spread: Duration) {
        let now = self.clock.now();
        for shard in self.all() {
            shard.with(|s, wakes| {
                if s.give_up.is_none() {
                    s.core.close(now, spread);
                }
                s.give_up = Instant::earliest(s.give_up, Some(now + deadline));
                wakes.driver();
            });
        }
    }

    /// Ready when every driver has gone.
    pub(super) fn poll_ended(&self, cx: &Context<'_>) -> Poll<()> {
        let running = self.all().any(|shard| {
            shard.with(|s, _| {
                if !s.ended {
                    s.watchers.add(cx);
                }
                !s.ended
            })
        });
        if running { Poll::Pending } else { Poll::Ready(()) }
    }

    /// After something happened in a shard: listeners look for events; where there are none, the events go.
    pub(super) fn settle_events(&self, s: &mut State, wakes: &mut Wakes) {
        if self.listeners.load(Relaxed) > 0 {
            if !s.listening.is_empty() {
                wakes.all(&mut s.listening);
            }
        } else {
            while let Some(event) = s.core.poll_event() {
                if let ServiceEvent::Post { handle, .. } = event {
                    let answer =
                        PostAnswer::Refuse { code: Code::UNAVAILABLE, retry_after: Duration::from_secs(2) };
                    let _ = s.core.answer_post(self.clock.now(), handle, answer);
                    wakes.driver();
                }
            }
        }
    }
}

impl State {
    fn new(core: Service) -> Self {
        Self {
            core,
            mail: Mailbox::default(),
            listening: Waiting::default(),
            give_up: None,
            ended: false,
            watchers: Waiting::default(),
            #[cfg(feature = "web")]
            web: super::web::Held::default(),
        }
    }

    /// The driver goes: everybody who waits is told.
    pub(super) fn end(&mut self, wakes: &mut Wakes) {
        self.ended = true;
        wakes.all(&mut self.watchers);
        wakes.all(&mut self.listening);
        #[cfg(feature = "web")]
        self.web.end(wakes);
    }
}
