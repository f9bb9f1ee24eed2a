//! How connections end, and what comes after them (SPEC.md, "Connection states").

use alloc::vec::Vec;
use core::time::Duration;

use super::Device;
use super::event::{ConnectionState, DeviceEvent, DisconnectReason, RequestError};
use super::exchange::Legs;
use super::phase::{Phase, Successor, back_off};
use super::report::MappingEnd;
use super::transport::Transport;
use crate::time::Instant;
use crate::wire::{Close, Code};

/// The first and the longest wait after the service refused the ticket.
const SLOW_RETRY: (Duration, Duration) = (Duration::from_secs(15 * 60), Duration::from_secs(6 * 3600));
/// A device that was reset waits up to this long, so that not all come at once.
const RESET_SPREAD: Duration = Duration::from_secs(2);
/// A service can send a device away for this long at most: one that is mistaken must not silence it.
pub(super) const MAX_RETRY_AFTER: Duration = SLOW_RETRY.1;

/// How long to wait after the ticket was refused so many times before.
pub(super) fn slow_retry(refusals: u32) -> Duration {
    SLOW_RETRY.0.saturating_mul(1 << refusals.min(5)).min(SLOW_RETRY.1)
}

impl Device {
    /// Does what is due.
    pub(super) fn tend(&mut self, now: Instant) {
        self.tend_web(now);
        match &mut self.phase {
            Phase::Waiting(at) if *at <= now => self.start_attempt(now),
            Phase::Attempting(attempt) if attempt.ends_at() <= now => self.attempt_failed(now),
            Phase::Connected { connection, .. } if connection.is_dead(now) => {
                // One that was never confirmed was no connection, but an attempt that failed.
                if connection.transport() == Transport::Udp {
                    self.fallback.doubt();
                }
                let wait = if connection.confirmed {
                    Duration::ZERO
                } else {
                    self.failures = self.failures.saturating_add(1);
                    self.rng.duration(Duration::ZERO, Duration::from_secs(1))
                };
                self.lose(now, DisconnectReason::TimedOut, now + wait);
                self.tend(now);
            }
            Phase::Connected { .. } => {
                while let Some(expired) = self.requests.next_expired(now) {
                    self.fail(expired, RequestError::TimedOut);
                }
                self.tend_successor(now);
                self.tend_probe(now);
            }
            Phase::Closing { ends, .. } if *ends <= now => self.phase = Phase::Closed,
            _ => {}
        }
    }

    fn tend_successor(&mut self, now: Instant) {
        let Phase::Connected { connection, successor } = &mut self.phase else { return };
        if !connection.confirmed {
            return;
        }
        if connection.wears_out() {
            // Said once; an attempt that runs now may have another purpose.
            connection.refresh_at = connection.refresh_at.min(now);
            if let Successor::Due(at) = successor {
                *at = (*at).min(now);
            }
        }
        match successor {
            Successor::Attempting(attempt) if attempt.ends_at() <= now => self.attempt_failed(now),
            Successor::Confirming(new) if new.is_dead(now) => self.attempt_failed(now),
            _ => {}
        }
        // What ended may have kept something else waiting that is due since.
        match &self.phase {
            Phase::Connected { successor: Successor::Due(at), .. } if *at <= now => {
                self.start_successor(now, Legs::Both { web: self.fallback.web_start(now) });
            }
            Phase::Connected { successor: Successor::Due(_), .. } => self.tend_transport(now),
            _ => {}
        }
    }

    /// The connection is gone, and its successor, if one is under way, does not suffer from the cause: it takes over.
    /// Else the next attempt is due at `retry_at`.
    pub(super) fn lose(&mut self, now: Instant, reason: DisconnectReason, retry_at: Instant) {
        if self.phase.confirming().is_some() {
            self.take_over();
            return self.disconnected(reason, now);
        }
        match core::mem::replace(&mut self.phase, Phase::Closed) {
            Phase::Connected { successor: Successor::Attempting(mut attempt), .. }
                if !attempt.provisional =>
            {
                attempt.turn_to_web(self.fallback.web_start(now));
                attempt.alone = None;
                self.phase = Phase::Attempting(attempt);
                self.disconnected(reason, now);
            }
            phase => {
                self.phase = phase;
                self.disconnect(now, reason, retry_at);
            }
        }
    }

    /// The connection is gone, and everything with it; the next attempt is due at `retry_at`.
    pub(super) fn disconnect(&mut self, now: Instant, reason: DisconnectReason, retry_at: Instant) {
        debug_assert!(retry_at >= now);
        self.phase = Phase::Waiting(retry_at);
        self.disconnected(reason, retry_at);
    }

    /// Tells the application, if it believed that there was a connection.
    fn disconnected(&mut self, reason: DisconnectReason, retry_at: Instant) {
        self.requests.pause();
        self.drop_probe();
        self.position_due = None;
        let known = self.state != ConnectionState::Connecting;
        self.set_state(ConnectionState::Connecting);
        self.push(match known {
            true => DeviceEvent::Disconnected { reason, retry_at },
            false => DeviceEvent::AttemptFailed { retry_at },
        });
    }

    /// The successor, if it has keys, is the connection from now on. Nobody has to know before it is confirmed. Whether
    /// there was one.
    pub(super) fn take_over(&mut self) -> bool {
        let done = self.phase.succeed();
        if done {
            // Whatever waits goes out over it once it is confirmed.
            self.requests.pause();
            self.drop_probe();
        }
        done
    }

    /// The service does not know the connection any more.
    pub(super) fn reset(&mut self, now: Instant) {
        // It forgets one that another has replaced.
        if !self.take_over() {
            let wait = self.rng.duration(Duration::ZERO, RESET_SPREAD);
            self.lose(now, DisconnectReason::Reset, now + wait);
        }
    }

    /// It is over: nothing that waits will be answered.
    pub(super) fn finish(&mut self, reason: DisconnectReason) {
        if self.state == ConnectionState::Aborted {
            return;
        }
        let waiting: Vec<_> = self.requests.drain().collect();
        for request in waiting {
            self.fail(request, RequestError::Closed);
        }
        self.end_probing(MappingEnd::Closed);
        self.state = ConnectionState::Aborted;
        self.push(DeviceEvent::State(ConnectionState::Aborted));
        self.push(DeviceEvent::Aborted(reason));
    }

    /// The service sent what the protocol does not allow.
    pub(super) fn protocol_error(&mut self, now: Instant) {
        let wait = self.after_misunderstanding();
        self.disconnect(now, DisconnectReason::ProtocolError, now + wait);
    }

    /// How long to wait after one side did not understand the other: that does not get better by hurrying, and a
    /// connection in between does not show that it has.
    fn after_misunderstanding(&mut self) -> Duration {
        self.misunderstandings = self.misunderstandings.saturating_add(1);
        let cap = back_off(self.misunderstandings);
        self.rng.duration(cap / 2, cap)
    }

    pub(super) fn closed_by_service(&mut self, now: Instant, close: &Close<'_>) {
        let reason = DisconnectReason::ByService(close.code);
        let retry_after = close.retry_after.min(MAX_RETRY_AFTER);
        let succeeded = self.phase.connection_mut().is_some_and(|c| c.succeeded);
        match close.code {
            // By the device's own newer connection, that is the plan.
            Code::CONFLICT if self.take_over() => {}
            // By one that was given up since, or by another device: who it was shows when it connects anew.
            Code::CONFLICT if succeeded => {
                let wait = self.rng.duration(Duration::ZERO, RESET_SPREAD);
                self.lose(now, reason, now + wait);
            }
            // Another connection of this device: two that fight would take turns for ever.
            Code::CONFLICT => {
                self.phase = Phase::Closed;
                self.finish(DisconnectReason::Superseded);
            }
            Code::UNAUTHORIZED | Code::FORBIDDEN | Code::UNKNOWN_ACCOUNT | Code::TICKET_EXPIRED => {
                self.push(DeviceEvent::RenewTicket { code: close.code });
                let wait = self.rng.fraction(800, 1000, SLOW_RETRY.0).max(retry_after);
                self.disconnect(now, reason, now + wait);
            }
            Code::BAD_REQUEST => {
                let wait = self.after_misunderstanding().max(retry_after);
                self.disconnect(now, reason, now + wait);
            }
            Code::TIMEOUT if retry_after.is_zero() => {
                let wait = self.rng.duration(Duration::ZERO, RESET_SPREAD);
                self.lose(now, reason, now + wait);
            }
            // A successor would only be sent away too.
            _ => {
                let wait = self.rng.duration(Duration::ZERO, RESET_SPREAD).max(retry_after);
                self.disconnect(now, reason, now + wait);
            }
        }
    }
}
