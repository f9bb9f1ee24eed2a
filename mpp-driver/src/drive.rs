//! How the tasks behind a client and a shard of a service are run.

use std::pin::Pin;
use std::task::{Context, Poll};

use mpp_proto::Instant;

use crate::wake::Alarm;

/// Rounds in one go; then other tasks have their turn.
pub(crate) const ROUNDS: usize = 16;

/// What comes after a round.
pub(crate) enum Next {
    /// Another one, at once.
    Round,
    /// Another one at this time, or when the task is woken.
    At(Option<Instant>),
    /// Nothing: everything is done.
    End,
}

impl Next {
    /// The end once the time to `give_up` has come, or before it if all is `said`; else one of the deadlines.
    pub(crate) fn of(
        now: Instant,
        give_up: Option<Instant>,
        said: bool,
        deadlines: impl IntoIterator<Item = Option<Instant>>,
    ) -> Self {
        match give_up {
            Some(at) if at <= now || said => Self::End,
            _ => Self::At(deadlines.into_iter().fold(give_up, Instant::earliest)),
        }
    }

    /// This, or another round at once if there is more to do.
    pub(crate) fn unless(self, more: bool) -> Self {
        match self {
            Self::At(_) if more => Self::Round,
            next => next,
        }
    }
}

/// A task that moves packets between sockets and a state machine.
pub(crate) trait Drive {
    /// Looks at everything once, bounded.
    fn round(&mut self, cx: &mut Context<'_>) -> Next;

    /// Wakes the task at its deadlines.
    fn alarm(&mut self) -> &mut Alarm;
}

/// The future of such a task: ready when everything is done.
pub(crate) struct Driven<D>(pub(crate) D);

impl<D: Drive + Unpin> Future for Driven<D> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let driver = &mut self.0;
        for _ in 0..ROUNDS {
            match driver.round(cx) {
                Next::End => return Poll::Ready(()),
                Next::At(at) if driver.alarm().poll(cx, at).is_pending() => return Poll::Pending,
                Next::At(_) | Next::Round => {}
            }
        }
        // Much to do, or a deadline that does not move: others first, then again.
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}
