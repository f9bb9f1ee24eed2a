//! Deadlines, and what they are for.

use crate::time::Instant;

/// When a machine wants to be called, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wakeup {
    /// Call `handle_timeout` at this time, or later.
    pub at: Instant,
    /// What is due then.
    pub reason: TimerKind,
}

/// What a deadline is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TimerKind {
    /// The next timer of a service's wheel.
    Wheel,
    /// The next packet of a service may go, as its limit on output has it: `poll_transmit` gives it.
    Pace,
    /// A packet of an exchange is to be sent, or sent again.
    Exchange,
    /// The next attempt to connect.
    Retry,
    /// A heartbeat, or its repetition.
    Heartbeat,
    /// An acknowledgement that was held back.
    Acknowledgement,
    /// A request is repeated, or given up.
    Request,
    /// The keys of a closed connection are dropped.
    Closing,
    /// New keys are due.
    Refresh,
    /// A step on the way to knowing how long the network remembers a silent socket.
    Probe,
    /// A Web request may be made, or its answer is overdue.
    Web,
}

impl Wakeup {
    /// The earlier of two. `Option::min` would let `None` win.
    pub fn earliest(a: Option<Self>, b: Option<Self>) -> Option<Self> {
        match (a, b) {
            (Some(a), Some(b)) => Some(if b.at < a.at { b } else { a }),
            (a, b) => a.or(b),
        }
    }
}
