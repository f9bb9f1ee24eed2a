//! What a service tells its host.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll};

use futures_core::Stream;
use mpp_proto::ServiceEvent;

use super::state::Shared;

/// A stream of [`ServiceEvent`]s, made by [`Service::events`](crate::Service::events). It does not keep the service
/// alive, and ends when the service has ended.
#[derive(Debug)]
pub struct ServiceEvents {
    shared: Arc<Shared>,
}

impl ServiceEvents {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        shared.listeners.fetch_add(1, Relaxed);
        Self { shared }
    }

    /// The next event; `None` once the service has ended.
    pub async fn next(&mut self) -> Option<ServiceEvent> {
        poll_fn(|cx| self.poll(cx)).await
    }

    fn poll(&self, cx: &Context<'_>) -> Poll<Option<ServiceEvent>> {
        let mut running = false;
        for shard in self.shared.all() {
            let event = shard.with(|s, _| {
                let event = s.core.poll_event();
                if event.is_none() && !s.ended {
                    running = true;
                    s.listening.add(cx);
                }
                event
            });
            if event.is_some() {
                return Poll::Ready(event);
            }
        }
        if running { Poll::Pending } else { Poll::Ready(None) }
    }
}

impl Stream for ServiceEvents {
    type Item = ServiceEvent;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<ServiceEvent>> {
        self.poll(cx)
    }
}

impl Drop for ServiceEvents {
    fn drop(&mut self) {
        self.shared.listeners.fetch_sub(1, Relaxed);
        for shard in self.shared.all() {
            shard.with(|s, wakes| self.shared.settle_events(s, wakes));
        }
    }
}
