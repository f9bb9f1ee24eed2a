//! What a device is doing (SPEC.md, "Connection states").

use alloc::boxed::Box;
use core::time::Duration;

use super::attempt::Attempt;
use super::connection::Connection;
use super::transport::Transport;
use super::{Deadlines, Links};
use crate::time::Instant;
use crate::wakeup::TimerKind;

/// What the device is doing.
pub(super) enum Phase {
    /// Waiting for the next attempt.
    Waiting(Instant),
    /// Exchanging.
    Attempting(Box<Attempt>),
    /// Has keys. Confirmed or not, it is alive.
    Connected { connection: Box<Connection>, successor: Successor },
    /// Saying farewell.
    Closing { connection: Box<Connection>, next: Instant, ends: Instant },
    /// Closed for good.
    Closed,
}

/// The connection that will take the place of the one in use, which goes on meanwhile.
pub(super) enum Successor {
    /// Nothing is done about it before this time.
    Due(Instant),
    /// Exchanging.
    Attempting(Box<Attempt>),
    /// Has keys; the service has not been heard over it.
    Confirming(Box<Connection>),
}

impl Phase {
    /// A connection whose keys are as new as can be.
    pub(super) fn connected(connection: Box<Connection>) -> Self {
        let successor = Successor::Due(connection.refresh_at);
        Self::Connected { connection, successor }
    }

    /// The attempt that runs, alone or beside a connection.
    pub(super) fn attempt(&self) -> Option<&Attempt> {
        match self {
            Self::Attempting(attempt) | Self::Connected { successor: Successor::Attempting(attempt), .. } => {
                Some(attempt)
            }
            _ => None,
        }
    }

    pub(super) fn attempt_mut(&mut self) -> Option<&mut Attempt> {
        match self {
            Self::Attempting(attempt) | Self::Connected { successor: Successor::Attempting(attempt), .. } => {
                Some(attempt)
            }
            _ => None,
        }
    }

    /// The connection in use.
    pub(super) fn connection_mut(&mut self) -> Option<&mut Connection> {
        match self {
            Self::Connected { connection, .. } => Some(connection),
            _ => None,
        }
    }

    /// The connection that has keys and is to take the place of the one in use.
    pub(super) fn confirming(&self) -> Option<&Connection> {
        match self {
            Self::Connected { successor: Successor::Confirming(connection), .. } => Some(connection),
            _ => None,
        }
    }

    /// Whether a connection is about to take the place of the one in use.
    pub(super) const fn is_changing(&self) -> bool {
        matches!(self, Self::Connected { successor: Successor::Attempting(_) | Successor::Confirming(_), .. })
    }

    /// Whether it is a connection over this transport alone.
    pub(super) fn is_changing_to(&self, transport: Transport) -> bool {
        matches!(self, Self::Connected { successor, .. } if successor.transport() == Some(transport))
    }

    /// Puts the successor, if there are keys for one, in the place of the connection. Whether there were.
    pub(super) fn succeed(&mut self) -> bool {
        let phase = core::mem::replace(self, Self::Closed);
        let (next, done) = match phase {
            Self::Connected { successor: Successor::Confirming(new), .. } => (Self::connected(new), true),
            other => (other, false),
        };
        *self = next;
        done
    }
}

impl Successor {
    /// The one transport that it is made over; an attempt that goes by both has none.
    pub(super) fn transport(&self) -> Option<Transport> {
        match self {
            Self::Due(_) => None,
            Self::Attempting(attempt) => attempt.alone,
            Self::Confirming(connection) => Some(connection.transport()),
        }
    }

    /// Names every deadline.
    pub(super) fn deadlines(&self, links: &Links, next: &mut Deadlines) {
        match self {
            Self::Due(at) => next.act(*at, TimerKind::Refresh),
            Self::Attempting(attempt) => {
                attempt.deadlines(|family| links.open(family).is_some(), next);
            }
            Self::Confirming(connection) => connection.deadlines(next),
        }
    }
}

/// The longest wait after so many failures in a row.
pub(super) fn back_off(failures: u32) -> Duration {
    Duration::from_secs(1 << failures.min(6)).min(MAX_BACKOFF)
}

/// The longest wait between attempts that nobody answers.
const MAX_BACKOFF: Duration = Duration::from_secs(60);
