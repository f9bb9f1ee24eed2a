//! When the device has to be called again.

use super::Device;
use super::phase::Phase;
use crate::time::Instant;
use crate::wakeup::{TimerKind, Wakeup};

impl Device {
    /// When [`handle_timeout`](Self::handle_timeout) is due.
    pub fn poll_timeout(&self) -> Option<Wakeup> {
        let mut next = Deadlines::new(self.handled);
        match &self.phase {
            Phase::Waiting(at) => next.act(*at, TimerKind::Retry),
            Phase::Attempting(attempt) => {
                attempt.deadlines(|family| self.links.open(family).is_some(), &mut next);
            }
            Phase::Connected { connection, successor } => {
                connection.deadlines(&mut next);
                if connection.confirmed {
                    self.transport_deadlines(connection, successor, &mut next);
                    successor.deadlines(&self.links, &mut next);
                    self.requests.deadlines(&mut next);
                    if let Some(at) = self.position_due {
                        next.send(at, TimerKind::Acknowledgement);
                    }
                    match &self.probe {
                        Some(probe) => probe.deadlines(&mut next),
                        None => self.probe_due().into_iter().for_each(|at| next.act(at, TimerKind::Probe)),
                    }
                }
            }
            Phase::Closing { next: at, ends, .. } => {
                next.send(*at, TimerKind::Closing);
                next.act(*ends, TimerKind::Closing);
            }
            Phase::Closed => {}
        }
        self.web_deadlines(&mut next);
        next.next()
    }
}

/// The earliest of several deadlines.
pub(crate) struct Deadlines {
    pub(super) handled: Instant,
    pub(super) next: Option<Wakeup>,
}

impl Deadlines {
    /// None yet. What is due by `handled` waits for `poll_transmit`.
    pub(crate) const fn new(handled: Instant) -> Self {
        Self { handled, next: None }
    }

    /// The earliest.
    pub(crate) const fn next(self) -> Option<Wakeup> {
        self.next
    }

    /// Something for `handle_timeout` to do.
    pub(crate) fn act(&mut self, at: Instant, reason: TimerKind) {
        self.next = Wakeup::earliest(self.next, Some(Wakeup { at, reason }));
    }

    /// Something to send. What is due already waits for `poll_transmit`, and another timeout would not hurry it.
    pub(crate) fn send(&mut self, at: Instant, reason: TimerKind) {
        if at > self.handled {
            self.act(at, reason);
        }
    }
}
