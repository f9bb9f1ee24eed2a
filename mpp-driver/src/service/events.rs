//! Which devices connect and go.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
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
        shared.state.with(|s, _| s.listeners += 1);
        Self { shared }
    }

    /// The next event; `None` once the service has ended.
    pub async fn next(&mut self) -> Option<ServiceEvent> {
        poll_fn(|cx| self.poll(cx)).await
    }

    fn poll(&self, cx: &Context<'_>) -> Poll<Option<ServiceEvent>> {
        self.shared.state.with(|s, _| match s.core.poll_event() {
            Some(event) => Poll::Ready(Some(event)),
            None if s.ended => Poll::Ready(None),
            None => {
                s.listening.add(cx);
                Poll::Pending
            }
        })
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
        self.shared.state.with(|s, wakes| {
            s.listeners -= 1;
            s.settle_events(wakes);
        });
    }
}
