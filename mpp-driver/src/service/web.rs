//! Requests of devices whose networks have no UDP.

use std::collections::HashMap;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use http::{Request, Response};
use http_body::Body;
use mpp_proto::{Disposition, DropReason, Instant, ShardId, WebId, WebRequest};

use super::state::{Shared, State};
use crate::stats::count;
use crate::wake::Wakes;
use crate::web::{WebBody, WebReply, respond};

/// When who finds no room may come again.
const RETRY_AFTER: Duration = Duration::from_secs(2);
/// Answers made in one go; then others have their turn.
const ANSWERS: usize = 64;

/// The Web Service of a service, made by [`Service::web`](crate::Service::web): it answers what a program's HTTP server
/// gets at `POST /.well-known/mmmpresence` (SPEC.md, "The Web Service transport"). Cheap to clone; it does not keep the service alive.
///
/// In an axum application (any application that speaks in the types of the crate `http` has it as easy):
///
/// ```ignore
/// let web = service.web();
/// let app = axum::Router::new().route(
///     Web::PATH,
///     post(move |ConnectInfo(remote): ConnectInfo<SocketAddr>, request: axum::extract::Request| async move {
///         web.handle(remote, request).await
///     }),
/// );
/// axum::serve(listener, app.into_make_service_with_connect_info::<SocketAddr>()).await?;
/// ```
///
/// A request of a device that has nothing to hear is held for up to 55 s, or until there is something. The program's
/// server must let a request take that long, and it should drop a request's future when its client hangs up, as axum and
/// hyper do: then the service knows at once that the device is gone.
#[derive(Clone, Debug)]
pub struct Web {
    shared: Arc<Shared>,
}

/// The requests that a shard answers, now or later.
#[derive(Debug, Default)]
pub(super) struct Held(HashMap<WebId, Slot>);

#[derive(Debug, Default)]
struct Slot {
    answer: Option<Vec<u8>>,
    waker: Option<Waker>,
}

impl Web {
    /// The path under which devices ask.
    pub const PATH: &str = crate::web::PATH;

    pub(super) const fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// Answers an HTTP request that came from `remote`: the device itself, or what the last proxy that the program
    /// trusts says of it. Which path it came by is the program's business.
    ///
    /// Nothing is read beyond 1452 bytes, and a body that does not come is waited for 10 s at most. The future may be
    /// dropped at any time: the device is then taken to have hung up.
    pub async fn handle<B: Body>(&self, remote: SocketAddr, request: Request<B>) -> Response<WebBody> {
        let answer = |wait, packet| self.answer(remote, wait, packet);
        respond(&**self.shared.clock.runtime(), request, answer).await
    }

    /// The same for a program whose server has types of its own: `packet` is the body of the request, at most 1452 bytes,
    /// `wait` what its query says (1 to 55 s, `?wait=`). The answer is to be given the content type
    /// `application/octet-stream` and `Cache-Control: no-store`.
    pub async fn answer(&self, remote: SocketAddr, wait: Option<Duration>, mut packet: Vec<u8>) -> WebReply {
        let shared = &*self.shared;
        let id = WebId(shared.web_requests.fetch_add(1, Relaxed));
        count(&shared.counters.web_requests, 1);
        let mut shard = shared.any();
        // A packet arrives anywhere, and is handed over once: all shards have the same settings.
        for handed_over in [false, true] {
            let request = WebRequest { id, remote, wait, packet: &mut packet };
            match shared.take_in(shard, request) {
                Disposition::Accepted => {
                    // Nobody needs it while the answer is waited for.
                    drop(packet);
                    return Waiting { shared, shard, id }.answer().await;
                }
                Disposition::OtherShard(other) if !handed_over && other != shard => {
                    count(&shared.counters.handed_over, 1);
                    shard = other;
                }
                Disposition::Dropped(DropReason::RateLimited | DropReason::Capacity | DropReason::Closed) => {
                    return WebReply::Busy { retry_after: RETRY_AFTER };
                }
                _ => return WebReply::Invalid,
            }
        }
        WebReply::Invalid
    }
}

impl Shared {
    fn take_in(&self, shard: ShardId, request: WebRequest<'_>) -> Disposition {
        let now = self.clock.now();
        self.shard(shard).with(|s, wakes| {
            if s.ended {
                return Disposition::Dropped(DropReason::Closed);
            }
            let id = request.id;
            s.web.0.insert(id, Slot::default());
            let disposition = s.core.handle_web_request(now, request);
            if disposition == Disposition::Accepted {
                s.settle_web(now, wakes);
                self.settle_events(s, wakes);
                wakes.driver();
            } else {
                s.web.0.remove(&id);
            }
            disposition
        })
    }
}

impl State {
    /// Gives answers that are ready to those who wait for them; returns whether there may be more.
    pub(super) fn settle_web(&mut self, now: Instant, wakes: &mut Wakes) -> bool {
        for _ in 0..ANSWERS {
            let mut body = Vec::new();
            let Some(id) = self.core.poll_web(now, &mut body) else { return false };
            // Of one whose client has hung up the core knows; it makes no more answers for it.
            if let Some(slot) = self.web.0.get_mut(&id) {
                slot.answer = Some(body);
                slot.waker.take().into_iter().for_each(|waker| wakes.one(waker));
            }
        }
        true
    }
}

impl Held {
    /// The service has ended: nobody is to wait for it any more.
    pub(super) fn end(&mut self, wakes: &mut Wakes) {
        self.0.values_mut().filter_map(|slot| slot.waker.take()).for_each(|waker| wakes.one(waker));
    }
}

/// A request that was taken in. Dropped before its answer, it has been hung up.
struct Waiting<'a> {
    shared: &'a Shared,
    shard: ShardId,
    id: WebId,
}

impl Waiting<'_> {
    async fn answer(self) -> WebReply {
        poll_fn(|cx| self.poll(cx)).await
    }

    fn poll(&self, cx: &Context<'_>) -> Poll<WebReply> {
        self.shared.shard(self.shard).with(|s, _| match s.web.0.get_mut(&self.id) {
            Some(Slot { answer: Some(answer), .. }) => {
                let answer = std::mem::take(answer);
                s.web.0.remove(&self.id);
                Poll::Ready(WebReply::Packets(answer))
            }
            Some(slot) if !s.ended => {
                slot.waker = Some(cx.waker().clone());
                Poll::Pending
            }
            _ => Poll::Ready(WebReply::Busy { retry_after: RETRY_AFTER }),
        })
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let now = self.shared.clock.now();
        self.shared.shard(self.shard).with(|s, wakes| {
            if s.web.0.remove(&self.id).is_some_and(|slot| slot.answer.is_none()) {
                count(&self.shared.counters.web_failures, 1);
                s.core.handle_web_closed(now, self.id);
                wakes.driver();
            }
        });
    }
}
