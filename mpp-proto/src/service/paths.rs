//! Following devices from one path to another (SPEC.md, "Paths").
//!
//! A packet from elsewhere only *suggests* a path: it may be a copy that somebody carried there. Both the new and the
//! old path are challenged. The device answers on the path it really has; if it answers on both, the old one stays.
//! Whoever carries packets answers too, and any packet can be lost: so a path that was left is asked again and again
//! for a minute, whatever else is suggested in the meantime, and takes the connection back with its first answer.

use alloc::vec;
use alloc::vec::Vec;
use core::time::Duration;

use super::Service;
use super::beside::Beside;
use super::outbox::Say;
use super::record::flag;
use super::timers::VALIDATION;
use crate::path::Path;
use crate::time::Instant;
use crate::wheel::Node;

/// Challenges to a path that was suggested, and to one that was left: where one packet in ten is lost either way, none
/// of eleven is answered one time in eighty million.
const CHALLENGES: u8 = 3;
const CHALLENGES_OF_OLD: u8 = 11;
/// Probe timeouts to wait for an answer after the last challenge.
const PATIENCE: u32 = 3;
/// How long a path that lost to an older one cannot suggest itself again.
const BARRED: Duration = Duration::from_secs(10);
/// Another path can be suggested this long after the one before.
const TURN: Duration = Duration::from_secs(1);
/// Bytes to a path that is not validated, per byte that came from it (RFC 9000, section 8).
pub(super) const AMPLIFICATION: u32 = 3;
/// Paths that can be in question at once: the one before all doubt, the connection's, and the one that is suggested.
const MAX_PATHS: usize = 3;

/// What is being found out about the paths of a connection.
#[derive(Clone, Debug)]
pub(super) struct Validation {
    pub(super) timer: Node,
    slot: u32,
    /// The paths in question, oldest first.
    paths: Vec<Asked>,
    /// Which of them is the connection's. One at most is younger: it was suggested and has not answered.
    holds: usize,
    /// The last that lost to an older one, and until when it cannot suggest itself again.
    barred: Option<(Path, Instant)>,
    /// When one was last suggested, and challenges sent since.
    started: Instant,
    sent: u8,
    /// Bytes that came from the one that is suggested and went to it.
    came: u32,
    went: u32,
    pto: Duration,
}

/// A path that is asked.
#[derive(Clone, Debug)]
struct Asked {
    path: Path,
    /// What only goes there, and how often it went.
    challenge: [u8; 8],
    times: u8,
    /// The identifier by which the device is called there, if not by the one in use: nobody who watches two networks is
    /// to know it again.
    called: Option<[u8; 8]>,
}

impl Asked {
    const fn new(path: Path, challenge: [u8; 8]) -> Self {
        Self { path, challenge, times: 0, called: None }
    }
}

impl Default for Validation {
    fn default() -> Self {
        Self {
            timer: Node::default(),
            slot: 0,
            paths: Vec::new(),
            holds: 0,
            barred: None,
            started: Instant::ZERO,
            sent: 0,
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

impl Validation {
    /// Of a connection that has this path.
    fn new(path: Path, challenge: [u8; 8]) -> Self {
        Self { paths: vec![Asked::new(path, challenge)], ..Self::default() }
    }

    /// Its place among those in question.
    fn place(&self, path: &Path) -> Option<usize> {
        self.paths.iter().position(|asked| asked.path == *path)
    }

    /// The path that is suggested.
    fn candidate(&self) -> Option<&Path> {
        self.paths.get(self.holds + 1).map(|asked| &asked.path)
    }

    fn is_candidate(&self, path: &Path) -> bool {
        self.candidate() == Some(path)
    }

    fn is_barred(&self, path: &Path, now: Instant) -> bool {
        self.barred.is_some_and(|(barred, until)| barred == *path && now < until)
    }

    /// Puts another path in question, in place of the one that was. The path before all doubt stays: else whoever has
    /// several addresses would have it forgotten. Returns its place.
    fn add(&mut self, path: Path, challenge: [u8; 8]) -> usize {
        self.paths.truncate(self.holds + 1);
        if self.paths.len() >= MAX_PATHS {
            self.paths.remove(1);
            self.holds -= 1;
        }
        self.paths.push(Asked::new(path, challenge));
        self.paths.len() - 1
    }

    /// The path at this place is there: of those that are, the oldest is the connection's.
    fn answered(&mut self, now: Instant, place: usize) {
        if place <= self.holds {
            if let Some(loser) = self.paths.get(place + 1..).and_then(<[Asked]>::last) {
                self.barred = Some((loser.path, now + BARRED));
            }
            self.paths.truncate(place + 1);
        }
        self.holds = place;
        self.paths[place].times = 0;
    }

    /// Those that were left and have been asked often enough are gone, also if others were suggested meanwhile: a
    /// device whose box gives it another port with each heartbeat does not leave a trail of challenges.
    fn forget_silent(&mut self) {
        let silent = |asked: &Asked| asked.times >= CHALLENGES_OF_OLD;
        while let Some(at) = self.paths[..self.holds].iter().position(silent) {
            self.paths.remove(at);
            self.holds -= 1;
        }
    }

    /// Whether there is something to find out.
    fn is_open(&self) -> bool {
        self.paths.len() > 1
    }

    /// How many challenges there are to be.
    fn challenges(&self) -> u8 {
        if self.candidate().is_some() { CHALLENGES } else { CHALLENGES_OF_OLD }
    }

    /// When it goes on.
    fn due(&self) -> Option<Instant> {
        if !self.is_open() {
            return self.barred.map(|(_, until)| until);
        }
        let all = self.challenges();
        let timeouts = if self.sent < all { when(self.sent) } else { when(all - 1) + PATIENCE };
        Some(self.started + self.pto * timeouts)
    }
}

/// When a challenge is sent after the first, in probe timeouts: 1, 3, 7, 15, and so on every 8 to 63.
const fn when(challenge: u8) -> u32 {
    let n = challenge as u32;
    if n < 4 { (1 << n) - 1 } else { 8 * (n - 2) - 1 }
}

/// Whether a path leads over another network, as far as one can see.
fn is_far(a: &Path, b: &Path) -> bool {
    a.remote.ip() != b.remote.ip() || a.is_web() != b.is_web()
}

impl Service {
    /// An authentic packet, the newest of its connection, came from elsewhere than the active path.
    pub(super) fn suggest(&mut self, now: Instant, slot: u32, path: Path, bytes: usize) {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        let at = match self.validations.find(slot) {
            Some(at) => {
                let known = &mut self.validations[at];
                if known.is_candidate(&path) {
                    known.came = known.came.saturating_add(bytes);
                    return;
                }
                // One at a time, also when it has been decided: whoever copies packets to many places gets one
                // challenge a second for all of them.
                if known.is_barred(&path, now) || now.since(known.started) < TURN {
                    return;
                }
                at
            }
            None => {
                let known = Validation::new(self.table.path(slot), self.rng.array());
                let Some(at) = self.validations.insert(Validation { slot, ..known }) else { return };
                at
            }
        };
        let challenge = self.rng.array();
        let known = &mut self.validations[at];
        // One that is older has been heard for itself: it is asked at once.
        if known.place(&path).is_none() {
            let ids = &self.table.ids[slot];
            let holder = &mut known.paths[known.holds];
            holder.called = Some(ids.device[0]);
            let called = is_far(&holder.path, &path).then(|| ids.next_identifier());
            let place = known.add(path, challenge);
            known.paths[place].called = called;
            (known.came, known.went) = (bytes, 0);
        }
        self.begin_challenges(now, at);
    }

    /// The device has a new connection in place of an older one. Where that came from has answered in the exchange; but
    /// so does whoever carries packets. So it is as after a move: the paths of the older connection are asked, and take
    /// the new one back.
    pub(super) fn inherit_paths(&mut self, now: Instant, older: u32, slot: u32) {
        let (path, before) = (self.table.path(slot), self.table.path(older));
        let known = self.validations.find(older).and_then(|at| self.end_validation(at));
        // By Web nothing is asked: where requests come from is no address.
        if path.is_web() || before.is_web() {
            return;
        }
        let known = known.unwrap_or_else(|| Validation::new(before, self.rng.array()));
        let mut known = Validation { timer: Node::default(), slot, ..known };
        known.paths.iter_mut().for_each(|asked| asked.called = None);
        let place = known.place(&path).unwrap_or_else(|| known.add(path, self.rng.array()));
        known.answered(now, place);
        let Some(at) = self.validations.insert(known) else { return };
        if self.validations[at].is_open() {
            self.begin_challenges(now, at);
        } else {
            self.go_on(now, at);
        }
    }

    fn begin_challenges(&mut self, now: Instant, at: u32) {
        let slot = self.validations[at].slot;
        let pto = self.table.hot[slot].rtt.pto(0, true);
        let known = &mut self.validations[at];
        (known.started, known.sent, known.pto) = (now, 0, pto);
        self.stats.suggested += 1;
        self.challenge(now, at);
    }

    /// Sends the next challenge to every path that is to show whether it is there.
    fn challenge(&mut self, now: Instant, at: u32) {
        let known = &mut self.validations[at];
        known.sent += 1;
        let (slot, holder) = (known.slot, known.paths[known.holds].path);
        // The connection's path has shown it, unless a younger one wants to take its place.
        let (holds, shown) = (known.holds, known.candidate().is_none());
        for place in 0..known.paths.len() {
            let asked = &mut self.validations[at].paths[place];
            let Asked { path, challenge, .. } = *asked;
            // By Web nothing is asked: where requests come from is no address.
            if path.is_web() || shown && place == holds {
                continue;
            }
            asked.times = asked.times.saturating_add(1);
            // After a change of address the new path has to show that it carries packets of full size.
            let pad = place > holds && is_far(&holder, &path);
            self.say_to(slot, path, Say::Challenge { challenge, pad });
        }
        self.go_on(now, at);
    }

    /// The timer of a validation fired.
    pub(super) fn validation_timer(&mut self, now: Instant, at: u32) {
        let known = &mut self.validations[at];
        if known.is_open() && known.sent < known.challenges() {
            known.forget_silent();
            if known.is_open() {
                return self.challenge(now, at);
            }
        } else if known.candidate().is_some() {
            // It has not answered.
            known.paths.truncate(known.holds + 1);
        } else {
            // The older ones have not.
            known.paths.drain(..known.holds);
            known.holds = 0;
        }
        self.go_on(now, at);
    }

    /// Waits for what comes next of a validation, or ends it.
    fn go_on(&mut self, now: Instant, at: u32) {
        let known = &self.validations[at];
        match known.due().filter(|due| known.is_open() || *due > now) {
            Some(due) => self.schedule(at | VALIDATION, due, now),
            None => {
                self.end_validation(at);
            }
        }
    }

    /// The device has answered a challenge from this path.
    pub(super) fn path_response(&mut self, now: Instant, slot: u32, path: Path, response: [u8; 8]) {
        let Some(at) = self.validations.find(slot) else { return };
        let known = &mut self.validations[at];
        // What went to one path and is answered over another shows nothing: the source of a copy can be forged.
        let answers = |asked: &Asked| asked.path == path && asked.challenge == response;
        let Some(place) = known.paths.iter().position(answers) else { return };
        let held = known.holds;
        if place == held && known.candidate().is_none() {
            return;
        }
        // As it is called there already.
        let renamed = place > held && known.paths[place].called.is_some();
        known.answered(now, place);
        if place != held {
            self.move_to(slot, path, renamed);
        }
        if place > held {
            self.stats.migrations += 1;
        }
        // Nobody can be asked by Web whether he is still there.
        let known = &mut self.validations[at];
        if known.paths[0].path.is_web() && known.holds > 0 {
            known.paths.remove(0);
            known.holds -= 1;
        }
        self.go_on(now, at);
    }

    /// The device says with a packet of full size from this path that it is on another network.
    pub(super) fn changed_network(&mut self, slot: u32, path: &Path) {
        if self.table.is_path(slot, path) {
            // With the same address and port.
            self.table.ids[slot].retire_identifier();
            self.say(slot, Say::Identifiers);
        } else if let Some(at) = self.validations.find(slot) {
            let known = &mut self.validations[at];
            if known.is_candidate(path) {
                known.paths[known.holds + 1].called = Some(self.table.ids[slot].next_identifier());
            }
        }
    }

    /// By which identifier the device is called on a path, if not by the one in use.
    pub(super) fn called(&self, slot: u32, path: &Path) -> Option<[u8; 8]> {
        let known = &self.validations[self.validations.find(slot)?];
        known.place(path).and_then(|place| known.paths[place].called)
    }

    /// From now on this is the path of the connection. `renamed`: the device is called by the next identifier there.
    pub(super) fn move_to(&mut self, slot: u32, path: Path, renamed: bool) {
        let before = self.table.path(slot);
        self.table.set_path(slot, &path);
        self.table.hot[slot].set(flag::MOVED);
        self.announce(slot);
        if before.is_web() && !path.is_web() {
            self.leave_web(slot);
        }
        let far = is_far(&before, &path);
        if far {
            // Another network: what was measured does not hold there.
            let hot = &mut self.table.hot[slot];
            hot.rtt = Default::default();
            hot.window = Default::default();
        }
        if far || renamed {
            self.table.ids[slot].retire_identifier();
        }
        // Another port may be another network behind the same box: the device may have used up an identifier.
        self.say(slot, Say::Identifiers);
        // What was lost on the way to the old address is sent again.
        self.resend(slot);
    }

    /// Where the direct answer to a packet from `path` goes beside the active path: back to where it came from, while
    /// that is being validated.
    pub(super) fn also_to(&self, slot: u32, path: &Path) -> Option<Path> {
        let at = self.validations.find(slot)?;
        self.validations[at].is_candidate(path).then_some(*path)
    }

    /// How many bytes may go to a path that is not the active one.
    pub(super) fn allowance(&self, slot: u32, path: &Path) -> usize {
        let Some(at) = self.validations.find(slot) else { return 0 };
        let known = &self.validations[at];
        if known.is_candidate(path) {
            known.came.saturating_mul(AMPLIFICATION).saturating_sub(known.went) as usize
        } else if known.place(path).is_some() {
            usize::MAX
        } else {
            0
        }
    }

    /// Whether `len` bytes may go to a path that is not the active one, and if so, counts them.
    pub(super) fn may_send(&mut self, slot: u32, path: &Path, len: usize) -> bool {
        let ok = len <= self.allowance(slot, path);
        if ok && let Some(at) = self.validations.find(slot) {
            let known = &mut self.validations[at];
            if known.is_candidate(path) {
                known.went = known.went.saturating_add(u32::try_from(len).unwrap_or(u32::MAX));
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

    fn end_validation(&mut self, at: u32) -> Option<Validation> {
        self.cancel(at | VALIDATION);
        self.validations.remove(at)
    }
}
