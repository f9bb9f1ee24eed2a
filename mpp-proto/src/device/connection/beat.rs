//! The heartbeats of a connection: when they are due, what became of them, and the interval between them.

use core::cmp::Ordering;
use core::time::Duration;

use super::super::transport::Transport;
use super::{Connection, LEASE_GRACE, MAX_INTERVAL, MIN_INTERVAL, MIN_LEASE};
use crate::ids::RequestId;
use crate::random::Rng;
use crate::time::Instant;
use crate::wire::Heartbeat;

/// When an unanswered heartbeat is sent again, and after the last time the connection is given up.
pub(super) const REPEATS: [Duration; 4] =
    [Duration::from_secs(1), Duration::from_secs(2), Duration::from_secs(4), Duration::from_secs(4)];
/// Sendings of a heartbeat, one of which is no verdict: when the third is due, two stayed without an answer.
const UNANSWERED: usize = 3;
/// How long a flow has to go on until the boxes on the way take it for one in use: on Linux two seconds. Until then they
/// may remember it for half a minute or less, and then for minutes. What a probe shows holds for a flow in use.
pub(in crate::device) const IN_USE: Duration = Duration::from_secs(3);
/// A miss that may be due to a flow that is new is taken for one so often.
const NEW_AGAIN: Duration = Duration::from_secs(600);
/// A connection over the Web that is not confirmed after this will not be: as long as a heartbeat by UDP is repeated.
pub(super) const CONFIRM: Duration = Duration::from_secs(11);

/// The interval that a lease is made for.
pub(super) fn interval_of(lease: Duration) -> Duration {
    (lease.saturating_sub(LEASE_GRACE) / 3).clamp(MIN_INTERVAL, MAX_INTERVAL)
}

/// Where the heartbeat stands.
#[derive(Clone, Copy, Debug)]
pub(super) enum Beat {
    /// The next one is due.
    Due(Instant),
    /// Sent so many times, and not answered; due again.
    Waiting {
        request: RequestId,
        sent_at: Instant,
        sendings: usize,
        again: Instant,
        /// How long nothing had been sent before.
        silence: Duration,
    },
    /// In a Web request, whose end says what became of it. It may be held there, and then its time says nothing.
    Posted { request: RequestId, sent_at: Instant, held: bool },
}

/// What the boxes on the way make of the packets between the connection's socket and the service.
#[derive(Clone, Copy, Debug)]
pub(super) struct Flow {
    /// Since when they know it, at most, as far as the device can tell.
    since: Instant,
    /// Before this a miss does not say that they know it only since then.
    certain_until: Instant,
}

impl Flow {
    pub(super) const fn new(now: Instant) -> Self {
        Self { since: now, certain_until: Instant::ZERO }
    }
}

impl Connection {
    /// The numbers of authentic packets that count for the round trip: an answer to a heartbeat sent once.
    pub(in crate::device) fn answered(
        &mut self,
        now: Instant,
        request: RequestId,
        lease: Option<Duration>,
        wanted: Duration,
        rng: &mut Rng,
    ) -> Option<Option<Duration>> {
        let (asked, sent_at, once) = match self.heartbeat {
            Beat::Waiting { request, sent_at, sendings, .. } => (request, sent_at, sendings == 1),
            Beat::Posted { request, sent_at, held } => (request, sent_at, !held),
            Beat::Due(_) => return None,
        };
        if asked != request {
            return None;
        }
        self.terms = (self.asking, lease.map_or(self.asking, interval_of));
        self.lease = lease.unwrap_or(self.asking * 3 + LEASE_GRACE).max(MIN_LEASE);
        let sample = once.then(|| now.since(sent_at));
        if let Some(sample) = sample {
            self.rtt.sample(sample);
        }
        // Over the Web the next one is the request that waits next.
        let pause = match self.transport() {
            Transport::Udp => {
                let pause = rng.fraction(900, 1000, self.granted(wanted));
                let is_new = sent_at.since(self.flow.since) < IN_USE;
                if is_new { pause.min(IN_USE) } else { pause }
            }
            Transport::Web => Duration::ZERO,
        };
        self.heartbeat = Beat::Due(now + pause);
        Some(sample)
    }

    /// It takes the place of another connection; if it goes where that went, the boxes on the way see no difference.
    pub(in crate::device) fn follow(&mut self, other: &Self) {
        if self.path().is_some() && self.path() == other.path() {
            self.flow = other.flow;
        }
    }

    /// The service could not reach the device: the boxes on the way had forgotten it, and know it since it asked again.
    /// Each time another port is no new flow, or a box that has many would double the heartbeats.
    pub(in crate::device) fn doubt_flow(&mut self, now: Instant) {
        if let Beat::Waiting { sent_at, .. } = self.heartbeat
            && now >= self.flow.certain_until
        {
            self.flow = Flow { since: sent_at, certain_until: now + NEW_AGAIN };
        }
    }

    /// The Web request that carried the heartbeat has ended: the next one is due.
    pub(in crate::device) fn heartbeat_ended(&mut self, now: Instant) {
        if let Beat::Posted { .. } = self.heartbeat {
            self.heartbeat = Beat::Due(now);
        }
    }

    /// The next heartbeat is not due before this.
    pub(in crate::device) fn hold_heartbeat(&mut self, until: Instant) {
        if let Beat::Due(at) = &mut self.heartbeat {
            *at = (*at).max(until);
        }
    }

    /// A Web request that did not wait has ended. If a heartbeat was in it and is lost, what it had to say is still to
    /// be said.
    pub(in crate::device) fn news_ended(&mut self, now: Instant, lost: bool) {
        if let Beat::Posted { held: false, .. } = self.heartbeat {
            self.heartbeat = Beat::Due(now);
            self.urgent |= lost;
        }
    }

    /// Whether a heartbeat is due, and whether it has something to say; over the Web.
    pub(in crate::device) fn heartbeat_is_due(&self, now: Instant) -> Option<bool> {
        matches!(self.heartbeat, Beat::Due(at) if at <= now).then_some(self.urgent)
    }

    /// Counts a heartbeat as sent in a Web request, which is held or not, and gives it.
    pub(in crate::device) fn post_heartbeat(
        &mut self,
        now: Instant,
        wanted: Duration,
        request: RequestId,
        held: bool,
    ) -> Heartbeat {
        self.urgent = false;
        self.heartbeat = Beat::Posted { request, sent_at: now, held };
        self.asking = wanted;
        let (mark, position) = Default::default();
        Heartbeat { request, interval: wanted, mark, position }
    }

    /// How long the service has been silent since it was asked, and by which heartbeat.
    pub(in crate::device) fn silence(&self, now: Instant) -> Option<(RequestId, Duration)> {
        match self.heartbeat {
            Beat::Waiting { request, sent_at, .. } if self.heard <= sent_at => {
                Some((request, now.since(sent_at)))
            }
            _ => None,
        }
    }

    /// The interval that the service grants to a device that wants this one, as far as is known.
    pub(in crate::device) fn granted(&self, wanted: Duration) -> Duration {
        let (asked, granted) = self.terms;
        match granted.cmp(&asked) {
            Ordering::Less => wanted.min(granted),
            Ordering::Equal => wanted,
            Ordering::Greater => wanted.max(granted),
        }
    }

    /// If the heartbeat that waits for its answer is this one: how long nothing had been sent before it, and whether it
    /// has stayed without an answer for long.
    pub(in crate::device) fn silence_before(&self, request: RequestId) -> Option<(Duration, bool)> {
        match self.heartbeat {
            Beat::Waiting { request: asked, silence, sendings, .. } if asked == request => {
                Some((silence, sendings >= UNANSWERED))
            }
            _ => None,
        }
    }

    /// A heartbeat has just been sent: if the sendings before it have stayed without an answer for long enough to count,
    /// how long nothing had been sent before them.
    pub(in crate::device) fn went_unanswered(&self) -> Option<Duration> {
        match self.heartbeat {
            Beat::Waiting { silence, sendings: UNANSWERED, .. } => Some(silence),
            _ => None,
        }
    }

    /// Makes the next heartbeat due now.
    pub(in crate::device) fn beat_now(&mut self, now: Instant) {
        match &mut self.heartbeat {
            Beat::Due(at) => *at = now,
            // Another one goes beside it.
            Beat::Posted { .. } => self.heartbeat = Beat::Due(now),
            Beat::Waiting { .. } => return,
        }
        self.urgent = true;
    }

    /// Makes the next heartbeat due by then.
    pub(in crate::device) fn beat_by(&mut self, by: Instant) {
        if let Beat::Due(at) = &mut self.heartbeat {
            *at = (*at).min(by);
        }
    }

    /// Whether a heartbeat has stayed without an answer for longer than the first patience.
    pub(in crate::device) fn is_unanswered(&self) -> bool {
        matches!(self.heartbeat, Beat::Waiting { sendings: 2.., .. })
    }

    /// Whether the last repetition of a heartbeat has stayed without an answer.
    pub(in crate::device) fn is_dead(&self, now: Instant) -> bool {
        // Whoever has been heard since the question was first asked is there, even if none of the answers came through.
        let unanswered = match self.heartbeat {
            Beat::Waiting { sendings, again, sent_at, .. } => {
                sendings >= REPEATS.len() && again <= now && self.heard <= sent_at
            }
            Beat::Due(_) | Beat::Posted { .. } => self.is_unconfirmed_for_long(now),
        };
        unanswered || now.since(self.heard) > self.lease
    }

    /// Over the Web nothing is repeated by a timer that would end it.
    fn is_unconfirmed_for_long(&self, now: Instant) -> bool {
        !self.confirmed && self.transport() == Transport::Web && now.since(self.agreed_at) >= CONFIRM
    }

    /// If a heartbeat is due, counts it as sent, and gives it; how far the device has got is still to be filled in.
    pub(in crate::device) fn take_heartbeat(
        &mut self,
        now: Instant,
        wanted: Duration,
        fresh: impl FnOnce() -> RequestId,
    ) -> Option<Heartbeat> {
        let (request, sent_at, sendings, silence) = match self.heartbeat {
            Beat::Due(at) if at <= now => {
                let silence = now.since(self.spoke);
                // The machine has slept for longer than anything says that it is remembered.
                if silence > self.granted(wanted) * 10 / 9 {
                    self.flow.since = now;
                }
                (fresh(), now, 0, silence)
            }
            Beat::Waiting { request, sent_at, sendings, again, silence }
                if again <= now && sendings < REPEATS.len() =>
            {
                (request, sent_at, sendings, silence)
            }
            // All repetitions are lost, but the service has been heard: ask anew.
            Beat::Waiting { again, .. } if again <= now => (fresh(), now, 0, now.since(self.spoke)),
            _ => return None,
        };
        let again = now + REPEATS[sendings];
        self.heartbeat = Beat::Waiting { request, sent_at, sendings: sendings + 1, again, silence };
        self.asking = wanted;
        let (mark, position) = Default::default();
        Some(Heartbeat { request, interval: wanted, mark, position })
    }
}
