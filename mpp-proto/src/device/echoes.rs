//! Step 1 with an echo: how a device follows Defers, of which anybody can forge as many as he likes (SPEC.md, "What the
//! device does with answers").

use alloc::vec::Vec;
use core::time::Duration;

use crate::crypto::StepOneDigest;
use crate::random::Rng;
use crate::time::Instant;

/// The least time between two echoes to one address.
const SPACING: Duration = Duration::from_millis(250);
/// A challenge is not taken again so soon after its echo: each Defer of a service whose answer is on its way has it.
const AGAIN: Duration = Duration::from_secs(1);
/// Echoes to one address in one attempt.
const MAX_ECHOES: u32 = 32;
/// The newest forms of step 1 that an address may still answer: two seconds of them.
const MAX_FORMS: usize = 8;

/// A form of step 1 that was sent to an address.
#[derive(Clone, Copy, Debug)]
pub(super) struct Form {
    pub(super) digest: StepOneDigest,
    /// How often, and when the last time.
    pub(super) sent: u32,
    pub(super) sent_at: Instant,
}

/// What was asked for in the name of one address, and what was given back to it.
#[derive(Debug, Default)]
pub(super) struct Echoes {
    /// The challenge that is given back next.
    next: Option<[u8; 16]>,
    /// How many it was chosen from.
    offered: u64,
    /// Sent in all.
    sent: u32,
    /// With the challenge in each; the newest is the last.
    forms: Vec<([u8; 16], Form)>,
}

impl Echoes {
    /// A Defer came with this challenge; says whether it may be followed. Of those that come between two echoes each is as
    /// likely to be: whether forged ones come before the genuine one, after it, or both, makes no difference.
    pub(super) fn offer(&mut self, now: Instant, challenge: [u8; 16], rng: &mut Rng) -> bool {
        let is_again = |(of, form): &([u8; 16], Form)| *of == challenge && now.since(form.sent_at) < AGAIN;
        if self.sent >= MAX_ECHOES || self.forms.iter().any(is_again) {
            return false;
        }
        self.offered = self.offered.saturating_add(1);
        if self.next.is_none() || rng.below(self.offered) == 0 {
            self.next = Some(challenge);
        }
        true
    }

    /// Step 1 is sent again: so is its last echo, unless another is to follow.
    pub(super) fn repeat(&mut self) {
        if self.next.is_none() && self.sent < MAX_ECHOES {
            self.next = self.forms.last().map(|(challenge, _)| *challenge);
        }
    }

    /// When the next one is due.
    pub(super) fn due(&self, now: Instant) -> Option<Instant> {
        self.next.map(|_| self.forms.last().map_or(now, |(_, form)| form.sent_at + SPACING))
    }

    /// The challenge to be given back now.
    pub(super) fn take_due(&mut self, now: Instant) -> Option<[u8; 16]> {
        self.due(now).filter(|at| *at <= now)?;
        self.offered = 0;
        self.next.take()
    }

    /// The echo of this challenge has been sent.
    pub(super) fn sent(&mut self, now: Instant, challenge: [u8; 16], digest: StepOneDigest) {
        self.sent += 1;
        let before = self.forms.iter().position(|(of, _)| *of == challenge);
        let before = before.map_or(0, |at| self.forms.remove(at).1.sent);
        if self.forms.len() == MAX_FORMS {
            self.forms.remove(0);
        }
        self.forms.push((challenge, Form { digest, sent: before + 1, sent_at: now }));
    }

    /// What an answer may be one to, beside the first form.
    pub(super) fn forms(&self) -> impl Iterator<Item = Form> + '_ {
        self.forms.iter().rev().map(|(_, form)| *form)
    }
}
