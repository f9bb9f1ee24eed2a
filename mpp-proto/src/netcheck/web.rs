//! The Web: step 1 as a device sends it there, and who answers it.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;

use super::leg::{PATIENCE, Took};
use super::report::{Answers, WebDestination, WebSeen};
use crate::device::attempt::{Answered, Attempt, Origin};
use crate::device::{Deadlines, NEXT_BASE, WebAnswer, WebRequestId, WebTransmit};
use crate::path::Disposition;
use crate::random::Rng;
use crate::time::Instant;
use crate::wakeup::TimerKind;
use crate::wire::{Ticket, each_web_packet};

/// A base URL.
struct Base {
    url: Arc<str>,
    seen: WebSeen,
    /// It was asked, and its answer is awaited.
    is_out: bool,
}

/// What is asked by Web: each base URL once, one after the other, until the service has answered.
#[derive(Default)]
pub(super) struct WebLeg {
    /// In the ticket's order; none: nothing was to be asked so far.
    bases: Vec<Base>,
    /// So many of them have had their turn. The place of one is the name of its request.
    begun: usize,
    /// None: it has not begun, or it is over.
    attempt: Option<Box<Attempt>>,
    /// When the next one has its turn.
    next_at: Instant,
    /// When all is given up.
    until: Instant,
}

impl WebLeg {
    /// Whether it has not begun yet.
    pub(super) const fn is_new(&self) -> bool {
        self.bases.is_empty()
    }

    pub(super) fn begin(&mut self, now: Instant, ticket: &Ticket, attempt: Attempt) {
        let base = |url| Base { url: Arc::from(url), seen: WebSeen::Unknown, is_out: false };
        self.bases = ticket.web().into_iter().map(base).collect();
        self.attempt = Some(Box::new(attempt));
        (self.next_at, self.until) = (now, now + PATIENCE);
    }

    /// A request to make now.
    pub(super) fn next_request(&mut self, now: Instant, out: &mut [u8]) -> Option<WebTransmit> {
        let base = self.bases.get_mut(self.begun).filter(|_| self.next_at <= now)?;
        let packet = self.attempt.as_mut()?.web_packet(now)?;
        out[..packet.len()].copy_from_slice(packet);
        base.is_out = true;
        let id = WebRequestId(self.begun as u64);
        self.begun += 1;
        self.next_at = now + NEXT_BASE;
        Some(WebTransmit { id, base: base.url.clone(), len: packet.len(), wait: None })
    }

    /// How a request ended.
    pub(super) fn receive(
        &mut self,
        now: Instant,
        id: WebRequestId,
        answer: WebAnswer<'_>,
        rng: &mut Rng,
    ) -> Took {
        let at = usize::try_from(id.0).unwrap_or(usize::MAX);
        let (Some(attempt), Some(base)) = (&mut self.attempt, self.bases.get_mut(at).filter(|b| b.is_out))
        else {
            return Took::Nothing(Disposition::NotForUs);
        };
        base.is_out = false;
        // The next one need not wait any longer.
        self.next_at = self.next_at.min(now);
        let (seen, took) = match answer {
            WebAnswer::Packets(body) => match proof(attempt, now, body, rng) {
                Some(took) => (WebSeen::Service, took),
                // Whoever is on the way can answer what he likes.
                None => (WebSeen::Stranger, Took::News),
            },
            WebAnswer::TooLong => (WebSeen::Stranger, Took::News),
            WebAnswer::Refused { status, .. } => (WebSeen::Status(status), Took::News),
            WebAnswer::Failed => (WebSeen::Nobody, Took::News),
        };
        base.seen = seen;
        took
    }

    fn is_proven(&self) -> bool {
        self.bases.iter().any(|base| base.seen == WebSeen::Service)
    }

    /// Notes that it is over; returns whether it is since now.
    pub(super) fn tend(&mut self, now: Instant) -> bool {
        let proven = self.is_proven();
        let asking = self.begun < self.bases.len() || self.bases.iter().any(|base| base.is_out);
        if self.attempt.is_none() || asking && !proven && now < self.until {
            return false;
        }
        self.attempt = None;
        for base in &mut self.bases {
            if core::mem::take(&mut base.is_out) && !proven {
                base.seen = WebSeen::Nobody;
            }
        }
        true
    }

    /// Whether nothing more will be sent or waited for.
    pub(super) const fn is_done(&self) -> bool {
        self.attempt.is_none()
    }

    /// Names every deadline.
    pub(super) fn deadlines(&self, next: &mut Deadlines) {
        if self.attempt.is_none() {
            return;
        }
        if self.begun < self.bases.len() {
            next.send(self.next_at, TimerKind::Web);
        }
        next.act(self.until, TimerKind::Web);
    }

    /// Whether the service was found.
    pub(super) fn reached(&self) -> Answers {
        match self.is_proven() {
            true => Answers::Yes,
            // Who was not asked has not said no.
            false if self.is_new() || self.begun < self.bases.len() || !self.is_done() => Answers::Unknown,
            false => Answers::No,
        }
    }

    /// All that was asked.
    pub(super) fn destinations(&self) -> Vec<WebDestination> {
        let asked = self.bases.iter().take(self.begun);
        asked.map(|base| WebDestination { base: base.url.clone(), seen: base.seen }).collect()
    }
}

/// What the service says in this body, if it is the service's.
fn proof(attempt: &mut Attempt, now: Instant, body: &mut [u8], rng: &mut Rng) -> Option<Took> {
    let mut took = None;
    each_web_packet(body, |packet| {
        if took.is_some() || !attempt.recognizes(packet) {
            return;
        }
        took = match attempt.handle_answer(now, Origin::Web, packet, rng) {
            Answered::Complete(agreed) => {
                Some(Took::Complete { in_use: agreed.in_use, check_port: agreed.check_port })
            }
            Answered::Refused { code, serial, .. } => Some(Took::Refused { code, serial }),
            Answered::Nothing | Answered::Deferred | Answered::Hint(..) => None,
        };
    });
    took
}
