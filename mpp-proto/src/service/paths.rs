//! Following devices from one path to another (SPEC.md, "Paths").
//!
//! A packet from elsewhere only *suggests* a path: it may be a copy that somebody carried there. Both the new and the
//! old path are challenged. The device answers on the path it really has; if it answers on both, the old one stays.

use core::time::Duration;

use super::Service;
use super::beside::Beside;
use super::outbox::Say;
use super::record::flag;
use super::timers::VALIDATION;
use crate::path::Path;
use crate::time::Instant;
use crate::wheel::Node;

/// When challenges are sent, in probe timeouts after the first.
const CHALLENGES: [u32; 3] = [0, 1, 3];
/// Probe timeouts to wait for an answer: after the last challenge, and for the old path's after the new path's.
const PATIENCE: u32 = 3;
/// How long a path that lost to the old one cannot suggest itself again.
const BARRED: Duration = Duration::from_secs(10);
/// Another path can take the place of one being validated after this time.
const TURN: Duration = Duration::from_secs(1);
/// Bytes to a path that is not validated, per byte that came from it (RFC 9000, section 8).
pub(super) const AMPLIFICATION: u32 = 3;

/// What is being found out about a path.
#[derive(Clone, Debug)]
pub(super) struct Validation {
    pub(super) timer: Node,
    slot: u32,
    /// The path in question.
    candidate: Path,
    /// The path before.
    old: Path,
    /// The challenge to each.
    candidate_challenge: [u8; 8],
    old_challenge: [u8; 8],
    started: Instant,
    /// Challenges sent.
    sent: u8,
    state: Verdict,
    /// Bytes that came from the candidate and went to it.
    came: u32,
    went: u32,
    pto: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// Nobody has answered.
    Open,
    /// The candidate has answered and is in use; if the old path answers too, it is taken back.
    Moved,
    /// The old path has answered: the candidate is ignored for a while.
    Barred,
}

impl Default for Validation {
    fn default() -> Self {
        let nowhere = Path::new(crate::path::LinkId(0), core::net::SocketAddr::from(([0, 0, 0, 0], 0)));
        Self {
            timer: Node::default(),
            slot: 0,
            candidate: nowhere,
            old: nowhere,
            candidate_challenge: [0; 8],
            old_challenge: [0; 8],
            started: Instant::ZERO,
            sent: 0,
            state: Verdict::Open,
            came: 0,
            went: 0,
            pto: Duration::ZERO,
        }
    }
}

impl Beside for Validation {
    fn slot(&self) -> u32 {
        self.slot
    }
}

impl Service {
    /// An authentic packet, the newest of its connection, came from elsewhere than the active path.
    pub(super) fn suggest(&mut self, now: Instant, slot: u32, path: Path, bytes: usize) {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        if let Some(at) = self.validations.find(slot) {
            let known = &mut self.validations[at];
            if known.candidate == path {
                known.came = known.came.saturating_add(bytes);
                return;
            }
            // One at a time, also when it has been decided: whoever copies packets to many places gets one challenge a
            // second for all of them.
            if now.since(known.started) < TURN {
                return;
            }
            self.end_validation(at);
        }
        let validation = Validation {
            slot,
            candidate: path,
            old: self.table.path(slot),
            candidate_challenge: self.rng.array(),
            old_challenge: self.rng.array(),
            started: now,
            came: bytes,
            pto: self.table.hot[slot].rtt.pto(0, true),
            ..Validation::default()
        };
        if let Some(at) = self.validations.insert(validation) {
            self.stats.suggested += 1;
            self.challenge(now, at);
        }
    }

    /// Sends the next challenge to both paths.
    fn challenge(&mut self, now: Instant, at: u32) {
        let v = &mut self.validations[at];
        v.sent += 1;
        let next = match CHALLENGES.get(usize::from(v.sent)) {
            Some(after) => v.started + v.pto * *after,
            None => v.started + v.pto * (CHALLENGES[CHALLENGES.len() - 1] + PATIENCE),
        };
        let (slot, candidate, old) = (v.slot, v.candidate, v.old);
        let (to_candidate, to_old) = (v.candidate_challenge, v.old_challenge);
        // After a change of address the new path has to show that it carries packets of full size.
        let pad = candidate.remote.ip() != old.remote.ip() || old.is_web();
        self.say_to(slot, candidate, Say::Challenge { challenge: to_candidate, pad });
        // By Web nothing is asked: where requests come from is no address.
        if !old.is_web() {
            self.say_to(slot, old, Say::Challenge { challenge: to_old, pad: false });
        }
        self.schedule(at | VALIDATION, next, now);
    }

    /// The timer of a validation fired.
    pub(super) fn validation_timer(&mut self, now: Instant, at: u32) {
        let v = &self.validations[at];
        if v.state == Verdict::Open && usize::from(v.sent) < CHALLENGES.len() {
            self.challenge(now, at);
        } else {
            self.end_validation(at);
        }
    }

    /// The device has answered a challenge from this path.
    pub(super) fn path_response(&mut self, now: Instant, slot: u32, path: Path, response: [u8; 8]) {
        let Some(at) = self.validations.find(slot) else { return };
        let v = &mut self.validations[at];
        let from_candidate = path == v.candidate && response == v.candidate_challenge;
        let from_old = path == v.old && response == v.old_challenge;
        if v.state == Verdict::Barred {
            return;
        }
        if from_old {
            let (old, moved) = (v.old, v.state == Verdict::Moved);
            v.state = Verdict::Barred;
            self.schedule(at | VALIDATION, now + BARRED, now);
            if moved {
                self.move_to(slot, old);
            }
        } else if from_candidate && v.state == Verdict::Open {
            v.state = Verdict::Moved;
            let until = now + v.pto * PATIENCE;
            self.schedule(at | VALIDATION, until, now);
            self.move_to(slot, path);
            self.stats.migrations += 1;
        }
    }

    /// From now on this is the path of the connection.
    pub(super) fn move_to(&mut self, slot: u32, path: Path) {
        let before = self.table.path(slot);
        self.table.set_path(slot, &path);
        self.table.hot[slot].set(flag::MOVED);
        self.announce(slot);
        if before.is_web() && !path.is_web() {
            self.leave_web(slot);
        }
        if before.remote.ip() != path.remote.ip() || before.is_web() != path.is_web() {
            // Another network: what was measured does not hold there, and the old identifier would link the two.
            let hot = &mut self.table.hot[slot];
            hot.rtt = Default::default();
            hot.window = Default::default();
            self.table.ids[slot].retire_identifier();
            self.say(slot, Say::Identifier);
        }
        // What was lost on the way to the old address is sent again.
        self.resend(slot);
    }

    /// Where the direct answer to a packet from `path` goes beside the active path: back to where it came from, while
    /// that is being validated.
    pub(super) fn also_to(&self, slot: u32, path: &Path) -> Option<Path> {
        let at = self.validations.find(slot)?;
        let v = &self.validations[at];
        (v.state == Verdict::Open && v.candidate == *path).then_some(*path)
    }

    /// How many bytes may go to a path that is not the active one.
    pub(super) fn allowance(&self, slot: u32, path: &Path) -> usize {
        let Some(at) = self.validations.find(slot) else { return 0 };
        let v = &self.validations[at];
        if v.old == *path || (v.candidate == *path && v.state == Verdict::Moved) {
            usize::MAX
        } else if v.candidate == *path {
            v.came.saturating_mul(AMPLIFICATION).saturating_sub(v.went) as usize
        } else {
            0
        }
    }

    /// Whether `len` bytes may go to a path that is not the active one, and if so, counts them.
    pub(super) fn may_send(&mut self, slot: u32, path: &Path, len: usize) -> bool {
        let ok = len <= self.allowance(slot, path);
        if ok && let Some(at) = self.validations.find(slot) {
            let v = &mut self.validations[at];
            if v.candidate == *path {
                v.went = v.went.saturating_add(u32::try_from(len).unwrap_or(u32::MAX));
            }
        }
        ok
    }

    /// Forgets what was being found out about the paths of a connection.
    pub(super) fn drop_validation(&mut self, slot: u32) {
        if let Some(at) = self.validations.find(slot) {
            self.end_validation(at);
        }
    }

    fn end_validation(&mut self, at: u32) {
        self.cancel(at | VALIDATION);
        self.validations.remove(at);
    }
}
