//! How rarely a device may speak (SPEC.md, "Learned keepalive"): what is known of how long each network remembers a
//! socket that is silent, what is worth trying next, and what follows from a miss. It knows no packets.

#[cfg(test)]
mod tests;

use alloc::vec::Vec;
use core::time::Duration;

use crate::ids::NetworkId;
use crate::time::{Calendar, Instant, UnixTime};

/// The silences that are tried. The search begins at [`FIRST`]; below it only what the host allows is of use.
const LADDER: [Duration; 6] = [secs(6), secs(12), secs(25), secs(55), secs(110), secs(240)];
const FIRST: Duration = secs(25);
/// No silence is longer.
pub(crate) const LONGEST_SILENCE: Duration = secs(300);
/// Networks that are remembered, the present one included.
pub(crate) const MAX_NETWORKS: usize = 8;
/// A connection has to hold for so long before anything is tried: one that does not is no place to learn.
const SETTLED: Duration = secs(60);
/// After a miss nothing is tried for so long, twice as long after each further one.
const HOLD: Duration = secs(600);
/// A silence that was too long is tried again after so long, twice as long after each further time.
const RETRY: Duration = secs(3600);
/// The longest of these waits; and a miss that long ago does not count any more.
const LONGEST: Duration = secs(24 * 3600);
/// Probes at once, and how long until there is one more.
const TOKENS: u8 = 8;
const TOKEN_EVERY: Duration = secs(600);

/// To such points waits are rounded that are kept across a restart.
const MINUTE_MS: u64 = 60_000;

const fn secs(s: u64) -> Duration {
    Duration::from_secs(s)
}

/// What the host allows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// The interval that is used until something better is known, and after a miss.
    pub(crate) safe: Duration,
    /// The shortest interval for networks that forget sooner than that.
    pub(crate) shortest: Duration,
    /// Whether anything is learned.
    pub(crate) learn: bool,
}

/// Why the interval is what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum IntervalReason {
    /// The host wants this one, and nothing is learned.
    Fixed,
    /// Nothing longer has been shown to be safe in this network.
    Safe,
    /// Nine tenths of a silence after which this network still knew a socket.
    Learned,
    /// The service could not reach the device for a while: what was learned does not count until it is shown again.
    Missed,
    /// This network forgets a silent socket so soon.
    Forgetful,
    /// The service grants no other.
    Service,
}

/// What is known of one network. `T`: points in time, civil ones in what is kept across restarts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Learned<T = Instant> {
    /// The longest silence after which it still knew a socket. Zero: none.
    pub(crate) proven: Duration,
    /// The shortest after which it knew it no more. Zero: none.
    pub(crate) disproven: Duration,
    /// There was a miss since: `proven` is half of what it was, and has to be shown again.
    pub(crate) doubted: bool,
    /// Misses, and silences that were too long: each makes the next wait longer.
    pub(crate) misses: u8,
    pub(crate) failures: u8,
    /// From then on the misses do not count any more.
    pub(crate) misses_until: T,
    /// Nothing is tried here before this time.
    pub(crate) not_before: T,
}

impl<T> Learned<T> {
    fn with_times<U>(self, of: impl Fn(T) -> U) -> Learned<U> {
        let Self { proven, disproven, doubted, misses, failures, misses_until, not_before } = self;
        let (misses_until, not_before) = (of(misses_until), of(not_before));
        Learned { proven, disproven, doubted, misses, failures, misses_until, not_before }
    }
}

impl Learned<UnixTime> {
    /// After a restart at `now`, which is `clock` in civil time. Whatever the clock was and is, no wait is longer than the
    /// longest.
    pub(crate) fn revive(self, now: Instant, clock: UnixTime) -> Learned {
        self.with_times(|at| now + at.since(clock).min(LONGEST))
    }
}

impl Learned {
    /// To be kept across a restart, in whole minutes: hosts write it again when it changes, which small corrections of the
    /// clock are no reason for.
    pub(crate) fn keep(self, now: Instant, calendar: &Calendar) -> Learned<UnixTime> {
        let minutes = |at| (calendar.unix(at).as_millis() / (MINUTE_MS / 2)).div_ceil(2);
        self.with_times(|at| match at > now {
            true => UnixTime::from_millis(minutes(at).saturating_mul(MINUTE_MS)),
            false => UnixTime::EPOCH,
        })
    }

    /// The misses that count.
    fn misses(&self, now: Instant) -> u8 {
        if now < self.misses_until { self.misses } else { 0 }
    }

    /// The silence that would say most: one up from what is proven, one down from what is not. `again`: also one that
    /// was too long before.
    fn step(&self, allowed: impl Fn(Duration) -> bool, again: bool) -> Option<Duration> {
        let disproven = if self.disproven.is_zero() || again { Duration::MAX } else { self.disproven };
        let steps = || LADDER.into_iter().filter(|step| allowed(*step));
        if self.doubted
            && let Some(step) = steps().rfind(|step| *step <= self.proven)
        {
            return Some(step);
        }
        if self.doubted || self.proven.is_zero() {
            return steps().rfind(|step| *step < disproven && *step <= FIRST);
        }
        steps().find(|step| *step > self.proven).filter(|step| *step < disproven)
    }

    /// A socket was still known after this silence.
    fn remembered(&mut self, silence: Duration) {
        self.proven = if self.doubted { silence } else { self.proven.max(silence) };
        self.doubted = false;
        if self.disproven <= self.proven {
            (self.disproven, self.failures) = (Duration::ZERO, 0);
        }
    }

    /// It was not, and not by chance.
    fn forgotten(&mut self, silence: Duration) {
        self.disproven = if self.disproven.is_zero() { silence } else { self.disproven.min(silence) };
        if silence <= self.proven {
            self.proven = LADDER.into_iter().rfind(|step| *step < silence).unwrap_or_default();
            self.doubted = !self.proven.is_zero();
        }
    }

    /// The value is halved, and not believed until it is shown again.
    fn halve(&mut self, now: Instant) {
        self.proven /= 2;
        self.misses = self.misses(now).saturating_add(1);
        self.misses_until = now + LONGEST;
        self.not_before = now + doubled(HOLD, self.misses);
        self.doubted = self.proven >= LADDER[0];
        if !self.doubted {
            self.proven = Duration::ZERO;
        }
    }
}

/// What a device knows of the networks it has been on, and of the one it is on.
#[derive(Debug)]
pub(crate) struct Keepalive {
    limits: Limits,
    network: Option<NetworkId>,
    here: Learned,
    /// Other networks, the last one first.
    others: Vec<(NetworkId, Learned)>,
    /// Nothing is tried before this time, wherever that is.
    not_before: Instant,
    /// The last try was in vain, which may have been chance: it is made once more before it counts.
    lost_once: bool,
    /// Tries in a row that led to no verdict.
    troubles: u8,
    /// Silences from here on the service does not take.
    refused: Option<Duration>,
    /// What a measurement that the host asked for has found so far.
    measuring: Option<Learned>,
    tokens: u8,
    token_at: Instant,
    /// Since the start.
    pub(crate) misses: u64,
    pub(crate) rebindings: u64,
}

impl Keepalive {
    /// `learned`: what was known before a restart, newest first.
    pub(crate) fn new(
        limits: Limits,
        now: Instant,
        network: Option<NetworkId>,
        learned: Vec<(NetworkId, Learned)>,
    ) -> Self {
        let mut keepalive = Self {
            limits,
            network: None,
            here: Learned::default(),
            others: learned,
            not_before: now,
            lost_once: false,
            troubles: 0,
            refused: None,
            measuring: None,
            tokens: TOKENS,
            token_at: now,
            misses: 0,
            rebindings: 0,
        };
        keepalive.others.truncate(MAX_NETWORKS);
        keepalive.moved(now, network);
        keepalive
    }

    /// The interval that this network allows.
    pub(crate) fn interval(&self) -> Duration {
        let Limits { safe, shortest, learn } = self.limits;
        let usable = if self.here.doubted { Duration::ZERO } else { self.here.proven * 9 / 10 };
        if !learn || usable >= safe {
            return if learn { usable } else { safe };
        }
        let disproven = self.here.disproven;
        if disproven.is_zero() || disproven > safe {
            return safe;
        }
        let guess = if usable.is_zero() { disproven / 2 } else { usable };
        guess.clamp(shortest.min(safe), safe)
    }

    /// Why.
    pub(crate) fn reason(&self) -> IntervalReason {
        let interval = self.interval();
        if !self.limits.learn {
            IntervalReason::Fixed
        } else if interval < self.limits.safe {
            IntervalReason::Forgetful
        } else if self.here.doubted {
            IntervalReason::Missed
        } else if interval == self.here.proven * 9 / 10 {
            IntervalReason::Learned
        } else {
            IntervalReason::Safe
        }
    }

    /// The longest silence that was survived here, and the shortest that was not, as far as they are known.
    pub(crate) fn bounds(&self) -> (Option<Duration>, Option<Duration>) {
        let known = |silence: Duration| (!silence.is_zero()).then_some(silence);
        let proven = if self.here.doubted { None } else { known(self.here.proven) };
        (proven, known(self.here.disproven))
    }

    /// What is to be remembered of the networks, newest first.
    pub(crate) fn learned(&self) -> impl Iterator<Item = (NetworkId, Learned)> + '_ {
        let here = self.network.map(|network| (network, self.here));
        let all = here.into_iter().chain(self.others.iter().copied());
        all.filter(|(_, learned)| *learned != Learned::default()).take(MAX_NETWORKS)
    }

    /// The machine is on another network.
    pub(crate) fn moved(&mut self, now: Instant, network: Option<NetworkId>) {
        // By another socket to the same: what is waited for there is still waited for.
        if network.is_some() && network == self.network {
            self.lost_once = false;
            self.not_before = self.not_before.max(now + SETTLED);
            return;
        }
        if let Some(left) = self.network
            && self.here != Learned::default()
        {
            self.others.insert(0, (left, self.here));
        }
        let known = network.and_then(|n| self.others.iter().position(|(other, _)| *other == n));
        self.here = known.map(|at| self.others.remove(at).1).unwrap_or_default();
        self.others.truncate(MAX_NETWORKS - 1);
        self.network = network;
        (self.lost_once, self.troubles) = (false, 0);
        self.not_before = now + SETTLED;
    }

    /// There is a new connection.
    pub(crate) fn connected(&mut self, now: Instant) {
        self.not_before = self.not_before.max(now + SETTLED);
        self.refused = None;
    }

    /// When something is to be tried, if there is something.
    pub(crate) fn due_at(&self) -> Option<Instant> {
        if self.measuring.is_some() {
            return self.target().map(|_| Instant::ZERO);
        }
        let token_at = if self.tokens > 0 { Instant::ZERO } else { self.token_at + TOKEN_EVERY };
        let due = self.limits.learn.then(|| self.target()).flatten();
        due.map(|_| self.not_before.max(self.here.not_before).max(token_at))
    }

    /// Takes up what is due: the silence to try.
    pub(crate) fn begin(&mut self, now: Instant) -> Option<Duration> {
        if self.due_at().is_none_or(|at| at > now) {
            return None;
        }
        if self.measuring.is_none() {
            let fresh = now.since(self.token_at).as_secs() / TOKEN_EVERY.as_secs();
            if fresh > 0 {
                let fresh = u8::try_from(fresh).unwrap_or(u8::MAX);
                self.tokens = self.tokens.saturating_add(fresh).min(TOKENS);
                self.token_at = now;
            }
            self.tokens = self.tokens.checked_sub(1)?;
        }
        self.target()
    }

    /// The silence to try next.
    fn target(&self) -> Option<Duration> {
        let taken = |step: Duration| self.refused.is_none_or(|refused| step < refused);
        if let Some(found) = &self.measuring {
            return found.step(taken, false);
        }
        // Shorter ones are of use only as far as the host allows the intervals that follow from them.
        let shortest = self.limits.shortest.min(self.limits.safe);
        let allowed = |step: Duration| taken(step) && (step >= FIRST || step * 9 / 10 >= shortest);
        self.here.step(allowed, false).or_else(|| self.here.step(allowed, true))
    }

    /// The host wants to know all there is to know, now: the whole ladder is tried, whatever is known.
    pub(crate) fn measure(&mut self) {
        if self.measuring.is_none() {
            self.measuring = Some(Learned::default());
            (self.lost_once, self.refused) = (false, None);
        }
    }

    /// Whether it does.
    pub(crate) const fn is_measuring(&self) -> bool {
        self.measuring.is_some()
    }

    /// A measurement ends without a result.
    pub(crate) fn end_measuring(&mut self) -> bool {
        self.lost_once = false;
        self.measuring.take().is_some()
    }

    /// A socket was still known after this silence. True: that ends a measurement.
    pub(crate) fn remembered(&mut self, now: Instant, silence: Duration) -> bool {
        (self.lost_once, self.troubles) = (false, 0);
        self.here.remembered(silence);
        // After a miss what is longer waits for the next time, and so does what has just been too long.
        let (misses, disproven) = (self.here.misses(now), self.here.disproven);
        let after_miss = if misses == 0 { Duration::ZERO } else { doubled(HOLD, misses) };
        let again = !disproven.is_zero() && self.target().is_none_or(|step| step >= disproven);
        if again {
            self.here.failures = self.here.failures.max(1);
        }
        let after_failure = if again { doubled(RETRY, self.here.failures) } else { Duration::ZERO };
        self.not_before = now;
        self.here.not_before = now + after_miss.max(after_failure);
        if let Some(found) = &mut self.measuring {
            found.remembered(silence);
        }
        self.measured()
    }

    /// It was not. Whether that counts, and whether it ends a measurement.
    pub(crate) fn forgotten(&mut self, now: Instant, silence: Duration) -> (bool, bool) {
        self.troubles = 0;
        self.lost_once = !self.lost_once;
        if self.lost_once {
            return (false, false);
        }
        let believed = self.here.proven;
        self.here.forgotten(silence);
        if let Some(found) = &mut self.measuring {
            found.forgotten(silence);
            // What was shown a moment ago has not to be shown again.
            if silence <= believed {
                (self.here.proven, self.here.doubted) = (found.proven, false);
            }
        }
        // A shorter one that is left is tried at once.
        self.not_before = now;
        if self.target().is_some_and(|step| step < self.here.disproven) {
            self.here.not_before = now;
        } else {
            self.here.failures = self.here.failures.saturating_add(1);
            self.here.not_before = now + doubled(RETRY, self.here.failures);
        }
        (true, self.measured())
    }

    /// Whether there is nothing more to measure; then it is over.
    fn measured(&mut self) -> bool {
        let over = self.measuring.is_some() && self.target().is_none();
        over && self.end_measuring()
    }

    /// No verdict: no answer to anything, or a refusal that is good for `wait`. Whether that ends a measurement.
    pub(crate) fn inconclusive(&mut self, now: Instant, wait: Duration) -> bool {
        self.troubles = self.troubles.saturating_add(1);
        self.not_before = now + doubled(HOLD, self.troubles).max(wait);
        self.end_measuring()
    }

    /// The service takes no silence as long as this one. Whether that ends a measurement.
    pub(crate) fn refused(&mut self, silence: Duration) -> bool {
        self.refused = Some(self.refused.map_or(silence, |refused| refused.min(silence)));
        self.lost_once = false;
        self.measured()
    }

    /// The service could not reach the device after `silence`, or may not have been able to. Whether what is being tried
    /// has to begin anew: a verdict from before says nothing any more.
    pub(crate) fn missed(&mut self, now: Instant, silence: Duration) -> bool {
        self.misses += 1;
        // After a longer silence, of a machine that slept, say, it contradicts nothing.
        if silence > self.here.proven {
            return false;
        }
        self.here.halve(now);
        // What a measurement has found so far was found before.
        self.measuring = self.measuring.map(|_| Learned::default());
        self.lost_once = false;
        true
    }
}

/// So long the first time, twice as long each time after it.
fn doubled(first: Duration, times: u8) -> Duration {
    first.saturating_mul(1 << u32::from(times.saturating_sub(1)).min(16)).min(LONGEST)
}
