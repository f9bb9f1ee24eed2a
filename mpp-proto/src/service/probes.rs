//! Answers that come late (SPEC.md, "Probes"): by them a device finds out how long its network remembers a socket that
//! is silent.
//!
//! A probe never moves a connection, and its answer goes to an address that has shown in the same moment that it gets
//! what is sent to it. It is smaller than its request.

use core::time::Duration;

use super::Service;
use super::beside::Beside;
use super::config::MAX_SILENCE;
use super::outbox::Say;
use super::packet::From;
use super::refusal::Refusal;
use super::timers::PROBE;
use crate::ids::RequestId;
use crate::path::{LinkId, Path};
use crate::time::Instant;
use crate::wheel::Node;
use crate::wire::ProbeRequest;

/// When to ask again a service that has no time for probes.
const BUSY: Duration = Duration::from_secs(60);

/// A probe that waits for its answer.
#[derive(Clone, Debug)]
pub(super) struct Probe {
    pub(super) timer: Node,
    slot: u32,
    to: Path,
    request: RequestId,
}

// What `ServiceConfig::probes` says that one costs: this, and its place in two tables.
const _: () = assert!(size_of::<Probe>() <= 88);

impl Default for Probe {
    fn default() -> Self {
        let nowhere = Path::new(LinkId(0), core::net::SocketAddr::from(([0, 0, 0, 0], 0)));
        Self { timer: Node::default(), slot: 0, to: nowhere, request: RequestId(0) }
    }
}

// At most one waits for each connection. Devices probe rarely, so what a probe takes is not in their records.
impl Beside for Probe {
    fn slot(&self) -> u32 {
        self.slot
    }
}

impl Service {
    /// What a device shows in a probe to prove that this path reaches it; none if there are no probes here.
    pub(super) fn probe_echo(&self, now: Instant, slot: u32, path: &Path) -> Option<[u8; 16]> {
        let id = self.connection_id(slot).pack();
        (self.config.probes > 0).then(|| self.cookies.probe_echo(self.calendar.unix(now), path.remote, id))
    }

    /// A device wants an answer after a while of silence.
    pub(super) fn handle_probe(&mut self, now: Instant, slot: u32, from: &From, ask: &ProbeRequest) {
        match self.admit_probe(now, slot, from, ask) {
            Ok(()) => self.stats.probes += 1,
            Err(refusal) => self.fail(slot, from, ask.request, refusal),
        }
    }

    fn admit_probe(
        &mut self,
        now: Instant,
        slot: u32,
        from: &From,
        ask: &ProbeRequest,
    ) -> Result<(), Refusal> {
        let limit = self.config.interval_max.min(MAX_SILENCE);
        if ask.silence > limit {
            return Err(Refusal::ProbeTooLong { limit });
        }
        let id = self.connection_id(slot).pack();
        if !self.cookies.check_probe_echo(self.calendar.unix(now), &ask.echo, from.path.remote, id) {
            return Err(Refusal::ProbeEcho);
        }
        // One at a time: the newer one is what the device waits for.
        self.drop_probe(slot);
        let busy = Refusal::Probes { retry_after: BUSY };
        if self.admission.is_busy(now) || !self.pace.has_half(now) {
            return Err(busy);
        }
        let probe = Probe { slot, to: from.path, request: ask.request, ..Probe::default() };
        let at = self.probes.insert(probe).ok_or(busy)?;
        self.schedule(at | PROBE, now + ask.silence, now);
        Ok(())
    }

    /// The silence is over.
    pub(super) fn probe_timer(&mut self, at: u32) {
        if let Some(Probe { slot, to, request, .. }) = self.probes.remove(at) {
            self.say_to(slot, to, Say::ProbeAnswer { request });
        }
    }

    /// The connection has ended, or another probe takes the place of its last one.
    pub(super) fn drop_probe(&mut self, slot: u32) {
        if let Some(at) = self.probes.find(slot) {
            self.cancel(at | PROBE);
            self.probes.remove(at);
        }
    }
}
