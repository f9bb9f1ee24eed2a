//! Finding out how long the network remembers a silent socket: one probe at a time, on a socket of its own (SPEC.md,
//! "Learned keepalive"). What follows from the verdicts is the business of [`Keepalive`].

use core::net::SocketAddr;
use core::time::Duration;

use super::connection::IN_USE;
use super::event::{CommandError, ConnectionState, DeviceEvent, Family, LinkKind};
use super::phase::Phase;
use super::receive::Via;
use super::report::{KeepaliveReport, MappingEnd, MappingProgress};
use super::requests::Requests;
use super::{Deadlines, Device};
use crate::ids::RequestId;
use crate::keepalive::IntervalReason;
use crate::path::Path;
use crate::time::Instant;
use crate::wakeup::TimerKind;
use crate::wire::{Code, EndpointRequest, EndpointResponse, Failure, ProbeRequest};

/// How long the host may take to open the socket.
const OPENING: Duration = Duration::from_secs(10);
/// When a question on the way to the silence is asked again, and after the last time given up.
const REPEATS: [Duration; 4] =
    [Duration::from_secs(1), Duration::from_secs(2), Duration::from_secs(4), Duration::from_secs(4)];
/// How much later than the silence the answer may come.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often the device looks meanwhile whether it is awake, and how late it may be: what comes to a machine that sleeps
/// is lost, and says nothing of the network.
const LOOK: Duration = Duration::from_secs(1);

/// A probe under way.
#[derive(Debug)]
pub(super) struct Probe {
    silence: Duration,
    remote: SocketAddr,
    step: Step,
}

#[derive(Clone, Copy, Debug)]
enum Step {
    /// The host opens the socket.
    Opening { until: Instant },
    /// An EndpointRequest is asked, for the first or the second time.
    Pair { second: bool, request: RequestId, sendings: usize, again: Instant },
    /// Until the second time.
    Pause { until: Instant },
    /// The ProbeRequest has to go.
    Asking { request: RequestId, echo: [u8; 16] },
    /// Nothing is sent until the answer comes. `look`: from shortly before it is expected, one after another.
    Silent { request: RequestId, look: Instant, until: Instant, slept: bool },
}

impl Step {
    fn pair(now: Instant, second: bool, requests: &mut Requests) -> Self {
        Self::Pair { second, request: requests.fresh_id(), sendings: 0, again: now }
    }

    const fn request(self) -> Option<RequestId> {
        match self {
            Self::Pair { request, .. } | Self::Asking { request, .. } | Self::Silent { request, .. } => {
                Some(request)
            }
            Self::Opening { .. } | Self::Pause { .. } => None,
        }
    }
}

impl Probe {
    /// Names its deadline.
    pub(super) fn deadlines(&self, next: &mut Deadlines) {
        match self.step {
            Step::Pair { sendings, again, .. } if sendings < REPEATS.len() => {
                next.send(again, TimerKind::Probe)
            }
            Step::Opening { until: at }
            | Step::Pair { again: at, .. }
            | Step::Pause { until: at }
            | Step::Silent { look: at, .. } => next.act(at, TimerKind::Probe),
            Step::Asking { .. } => {}
        }
    }
}

/// Whether it came over the socket of the probes.
const fn is_probes(via: Via) -> bool {
    matches!(via, Some(LinkKind::Probe(_)))
}

impl Device {
    /// Finds out now how long the network remembers a silent socket, step by step up to 240 s, whatever is known
    /// already. That takes up to twelve minutes, most of them in silence; [`DeviceEvent::Mapping`] says how far it is, and
    /// [`keepalive`](Self::keepalive) what is known. If there is no connection, or a new one has to be made meanwhile, it
    /// begins with that. A measurement that runs already goes on.
    ///
    /// # Errors
    /// [`CommandError::Closed`].
    pub fn measure_mapping(&mut self, now: Instant) -> Result<(), CommandError> {
        if matches!(self.phase, Phase::Closing { .. } | Phase::Closed) {
            return Err(CommandError::Closed);
        }
        self.keepalive.measure();
        self.handle_timeout(now);
        Ok(())
    }

    /// How often the device speaks, why, and what is known of the network.
    pub fn keepalive(&self) -> KeepaliveReport {
        let (interval, reason) = self.interval();
        let (proven, disproven) = self.keepalive.bounds();
        KeepaliveReport {
            interval,
            reason,
            network: self.network,
            proven,
            disproven,
            misses: self.keepalive.misses,
            rebindings: self.keepalive.rebindings,
            trying: self.probe.as_ref().map(|probe| probe.silence),
            measuring: self.keepalive.is_measuring(),
        }
    }

    /// When a probe is due, if one may begin: not beside another, and not while the connection is in doubt or about to be
    /// replaced, which would end it.
    pub(super) fn probe_due(&self) -> Option<Instant> {
        let calm = self.state == ConnectionState::Connected && !self.phase.is_changing();
        let linked =
            matches!(&self.phase, Phase::Connected { connection, .. } if connection.path().is_some());
        (calm && linked && self.probe.is_none()).then(|| self.keepalive.due_at()).flatten()
    }

    /// Does what is due of a probe.
    pub(super) fn tend_probe(&mut self, now: Instant) {
        self.tend_step(now);
        // A verdict may make the next one due.
        if self.probe_due().is_some_and(|at| at <= now) {
            self.begin_probe(now);
        }
    }

    fn tend_step(&mut self, now: Instant) {
        let Some(probe) = &mut self.probe else { return };
        match probe.step {
            Step::Opening { until } if until <= now => {
                self.give_up_probe(now, MappingEnd::NoSocket, Duration::ZERO)
            }
            Step::Pair { sendings, again, .. } if sendings >= REPEATS.len() && again <= now => {
                self.give_up_probe(now, MappingEnd::NoAnswer, Duration::ZERO);
            }
            Step::Pause { until } if until <= now => probe.step = Step::pair(now, true, &mut self.requests),
            Step::Silent { ref mut look, until, ref mut slept, .. } if *look <= now => {
                *slept |= now.since(*look) > LOOK;
                // It may be the answer that woke it up, and that is still to be taken.
                *look = (now + LOOK).min(until);
                match (until <= now, *slept) {
                    (false, _) => {}
                    (true, true) => self.give_up_probe(now, MappingEnd::Asleep, Duration::ZERO),
                    (true, false) => self.probe_unanswered(now),
                }
            }
            _ => {}
        }
    }

    fn begin_probe(&mut self, now: Instant) {
        let Phase::Connected { connection, .. } = &self.phase else { return };
        let Some(remote) = connection.remote() else { return };
        let Some(silence) = self.keepalive.begin(now) else { return };
        let kind = LinkKind::Probe(Family::of(&remote));
        let step = match self.links.open_of(kind) {
            Some(_) => Step::pair(now, false, &mut self.requests),
            None => Step::Opening { until: now + OPENING },
        };
        self.probe = Some(Probe { silence, remote, step });
        self.ask_link(kind);
        let takes = IN_USE + silence;
        self.push(DeviceEvent::Mapping(MappingProgress::Trying { silence, takes }));
    }

    /// The host has opened the socket of a kind, or has none.
    pub(super) fn probe_link(&mut self, now: Instant, kind: LinkKind, failed: bool) {
        let Some(probe) = &mut self.probe else { return };
        if kind != LinkKind::Probe(Family::of(&probe.remote)) {
            return;
        }
        if failed {
            self.give_up_probe(now, MappingEnd::NoSocket, Duration::ZERO);
        } else if let Step::Opening { .. } = probe.step {
            probe.step = Step::pair(now, false, &mut self.requests);
        }
    }

    /// The next packet of a probe.
    pub(super) fn transmit_probe(&mut self, now: Instant, out: &mut [u8]) -> Option<(Path, usize)> {
        let Phase::Connected { connection, .. } = &mut self.phase else { return None };
        let probe = self.probe.as_mut()?;
        let link = self.links.open_of(LinkKind::Probe(Family::of(&probe.remote)))?;
        let path = Path::new(link, probe.remote);
        match &mut probe.step {
            Step::Pair { request, sendings, again, .. } if *again <= now && *sendings < REPEATS.len() => {
                *again = now + REPEATS[*sendings];
                *sendings += 1;
                let ask = EndpointRequest { request: *request };
                Some((path, connection.write(out, None, Some(&ask), super::send::ENDPOINT_REQUEST_SIZE)))
            }
            Step::Asking { request, echo } => {
                let (request, silence) = (*request, probe.silence);
                let ask = ProbeRequest { request, silence, echo: *echo };
                let until = now + silence + connection.pto() + PATIENCE;
                probe.step = Step::Silent { request, look: now + silence - LOOK, until, slept: false };
                Some((path, connection.write(out, None, Some(&ask), 0)))
            }
            _ => None,
        }
    }

    /// An EndpointResponse. Whether it is a probe's.
    pub(super) fn probe_endpoint(&mut self, now: Instant, response: &EndpointResponse, via: Via) -> bool {
        let Some(probe) = &mut self.probe else { return false };
        let Step::Pair { second, request, .. } = probe.step else { return false };
        if request != response.request {
            return false;
        }
        match response.echo {
            // It has to come where it was asked for; a copy proves nothing.
            _ if !is_probes(via) => {}
            None => self.give_up_probe(now, MappingEnd::NotOffered, Duration::ZERO),
            Some(_) if !second => probe.step = Step::Pause { until: now + IN_USE },
            Some(echo) => probe.step = Step::Asking { request: self.requests.fresh_id(), echo },
        }
        true
    }

    /// The answer that came late, as it should.
    pub(super) fn probe_answered(&mut self, now: Instant, request: RequestId, via: Via) {
        let Some(Probe { silence, step: Step::Silent { request: asked, .. }, .. }) = self.probe else {
            return;
        };
        if asked != request || !is_probes(via) {
            return;
        }
        self.probe = None;
        let ends = self.keepalive.remembered(now, silence);
        self.push(DeviceEvent::Mapping(MappingProgress::Remembered { silence }));
        self.probe_over(ends.then_some(MappingEnd::Complete));
    }

    fn probe_unanswered(&mut self, now: Instant) {
        let Some(Probe { silence, .. }) = self.probe.take() else { return };
        let (counts, ends) = self.keepalive.forgotten(now, silence);
        self.push(DeviceEvent::Mapping(match counts {
            true => MappingProgress::Forgotten { silence },
            false => MappingProgress::Again { silence },
        }));
        self.probe_over(ends.then_some(MappingEnd::Complete));
    }

    /// A refusal. Whether it is a probe's.
    pub(super) fn probe_refused(&mut self, now: Instant, failure: &Failure<'_>) -> bool {
        let Some(probe) = self.probe.as_ref().filter(|p| p.step.request() == Some(failure.request)) else {
            return false;
        };
        if failure.code == Code::BAD_REQUEST {
            let ends = self.keepalive.refused(probe.silence);
            self.probe = None;
            self.probe_over(ends.then_some(MappingEnd::Refused(failure.code)));
        } else {
            self.give_up_probe(now, MappingEnd::Refused(failure.code), failure.retry_after);
        }
        true
    }

    /// There will be no verdict. Nothing is tried for `wait`.
    fn give_up_probe(&mut self, now: Instant, why: MappingEnd, wait: Duration) {
        self.probe = None;
        let ends = self.keepalive.inconclusive(now, wait.min(super::life::MAX_RETRY_AFTER));
        self.probe_over(ends.then_some(why));
    }

    /// What is under way says nothing any more: the connection it belongs to has ended, or there was a miss. It is begun
    /// again when there is time for it.
    pub(super) fn drop_probe(&mut self) {
        self.probe = None;
        self.close_probe_link();
    }

    /// No more of it, and if the host is measuring, it is told so.
    pub(super) fn end_probing(&mut self, why: MappingEnd) {
        self.drop_probe();
        if self.keepalive.end_measuring() {
            self.push(DeviceEvent::Mapping(MappingProgress::Ended(why)));
        }
    }

    /// The service could not reach the device after `silence`.
    pub(super) fn missed(&mut self, now: Instant, silence: Duration) {
        if let Some(connection) = self.phase.connection_mut() {
            connection.doubt_flow(now);
        }
        if self.keepalive.missed(now, silence) {
            self.drop_probe();
        }
    }

    /// A probe is over, and perhaps a measurement. The socket is kept for what follows at once.
    fn probe_over(&mut self, measured: Option<MappingEnd>) {
        if let Some(end) = measured {
            self.push(DeviceEvent::Mapping(MappingProgress::Ended(end)));
        }
        if self.keepalive.due_at().is_none_or(|at| at > self.handled) {
            self.close_probe_link();
        }
    }

    fn close_probe_link(&mut self) {
        for family in [Family::V4, Family::V6] {
            self.close_link(LinkKind::Probe(family));
        }
    }

    /// The interval between heartbeats, and why it is that.
    pub(super) fn interval(&self) -> (Duration, IntervalReason) {
        let wanted = self.keepalive.interval();
        let granted = match &self.phase {
            Phase::Connected { connection, .. } => connection.granted(wanted),
            _ => wanted,
        };
        let reason = self.keepalive.reason();
        (granted, if granted == wanted { reason } else { IntervalReason::Service })
    }

    /// Tells the host if the interval, or the reason for it, is another one than it knows. A shorter one holds at once.
    pub(super) fn tell_interval(&mut self, now: Instant) {
        let (interval, reason) = self.interval();
        if self.told_interval == (interval, reason) {
            return;
        }
        if interval < self.told_interval.0
            && let Phase::Connected { connection, .. } = &mut self.phase
        {
            connection.beat_by(now + self.rng.fraction(900, 1000, interval));
        }
        self.told_interval = (interval, reason);
        self.push(DeviceEvent::Interval { interval, reason });
    }
}
