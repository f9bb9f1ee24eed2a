//! A socket under the number by which the state machines know it.

use std::task::{Context, Poll};
use std::time::Duration;

use mpp_proto::{Instant, LinkId};

use super::{Inbox, UdpSocket};
use crate::clock::Clock;

/// How long a socket rests that does nothing but fail.
const REST: Duration = Duration::from_millis(100);

/// An open socket.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) id: LinkId,
    pub(crate) socket: UdpSocket,
    rests_until: Option<Instant>,
}

impl Link {
    pub(crate) const fn new(id: LinkId, socket: UdpSocket) -> Self {
        Self { id, socket, rests_until: None }
    }

    /// Takes in up to so many batches of what came; returns whether there may be more.
    pub(crate) fn receive(
        &mut self,
        cx: &mut Context<'_>,
        clock: &Clock,
        inbox: &mut Inbox,
        batches: usize,
        mut take_in: impl FnMut(LinkId, &mut Inbox),
    ) -> bool {
        if self.rests_until.is_some_and(|until| clock.now() < until) {
            return false;
        }
        self.rests_until = None;
        for _ in 0..batches {
            match self.socket.poll_receive(cx, inbox) {
                Poll::Pending => return false,
                Poll::Ready(false) => {
                    self.rests_until = Some(clock.now() + REST);
                    return false;
                }
                Poll::Ready(true) => take_in(self.id, inbox),
            }
        }
        true
    }

    /// When the first of them has rested enough.
    pub(crate) fn rested<'a>(links: impl IntoIterator<Item = &'a Self>) -> Option<Instant> {
        links.into_iter().filter_map(|link| link.rests_until).min()
    }
}
