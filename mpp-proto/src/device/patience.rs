//! How long a waiting request may wait (SPEC.md, "The Web Service transport: the device"). Nobody says how long a proxy on the
//! way holds a request that is idle, so a device finds out: it begins with the longest wait, stays below what was cut, and
//! tries more once in a while.

use core::time::Duration;

/// The longest and the shortest wait. Of a request that ends sooner than the shortest it is not the wait that ended it.
pub(super) const LONGEST: Duration = Duration::from_secs(50);
pub(super) const SHORTEST: Duration = Duration::from_secs(5);
/// Waits in a row that were not cut before more is tried: at first, and after many cuts.
const STEADY: (u16, u16) = (16, 256);

/// What is known of the way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    wait: Duration,
    /// Waits that were not cut since the last one that was, or since more was tried.
    steady: u16,
    /// How many it takes to try more.
    needed: u16,
}

impl Default for Patience {
    fn default() -> Self {
        Self { wait: LONGEST, steady: 0, needed: STEADY.0 }
    }
}

impl Patience {
    /// How long the next request may wait, on a connection with this heartbeat interval: of a lease of three intervals
    /// at most two are waited for.
    pub(super) fn wait(&self, interval: Duration) -> Duration {
        self.wait.min(interval.saturating_mul(2)).max(SHORTEST)
    }

    /// A request was cut after so long, with no answer.
    pub(super) fn cut(&mut self, after: Duration) {
        self.wait = (after.min(self.wait) * 3 / 4).clamp(SHORTEST, LONGEST);
        self.steady = 0;
        // Whoever cuts once cuts again: each cut makes the next trial rarer.
        self.needed = self.needed.saturating_mul(2).min(STEADY.1);
    }

    /// A request got its answer, and had waited as long as it was to.
    pub(super) fn held(&mut self) {
        if self.wait == LONGEST {
            return;
        }
        self.steady = self.steady.saturating_add(1);
        if self.steady >= self.needed {
            self.steady = 0;
            self.wait = (self.wait * 5 / 4).min(LONGEST);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_secs(25);

    /// Waits behind a proxy that cuts after `limit`, for a day; returns the cuts and the mean wait in the second half.
    fn a_day_behind(limit: Duration) -> (u32, Duration) {
        let mut patience = Patience::default();
        let (mut passed, mut cuts) = (Duration::ZERO, 0);
        let (mut waits, mut waited) = (0, Duration::ZERO);
        let day = Duration::from_secs(86_400);
        while passed < day {
            let wait = patience.wait(INTERVAL);
            if wait > limit {
                patience.cut(limit);
                cuts += 1;
            } else {
                patience.held();
            }
            let took = wait.min(limit);
            passed += took;
            if passed > day / 2 {
                waits += 1;
                waited += took;
            }
        }
        (cuts, waited / waits)
    }

    #[test]
    fn without_a_proxy_nothing_is_shorter_than_it_may_be() {
        assert_eq!(a_day_behind(Duration::MAX), (0, LONGEST));
    }

    // SPEC: R-web-cut
    #[test]
    fn behind_a_proxy_that_cuts_few_requests_are_cut_and_most_of_what_it_allows_is_used() {
        for seconds in [8, 15, 30, 45] {
            let limit = Duration::from_secs(seconds);
            let (cuts, mean) = a_day_behind(limit);
            assert!((1..=48).contains(&cuts), "{seconds} s: {cuts} cuts in a day");
            assert!(mean * 10 >= limit * 6, "{seconds} s: {mean:?}");
        }
    }

    #[test]
    fn one_accident_is_forgotten() {
        let mut patience = Patience::default();
        patience.cut(Duration::from_secs(6));
        assert_eq!(patience.wait(INTERVAL), SHORTEST);
        let waits = (0..1000).take_while(|_| {
            patience.held();
            patience.wait(INTERVAL) < LONGEST
        });
        assert!(waits.count() < 500);
    }

    #[test]
    fn a_short_lease_is_never_waited_out() {
        assert_eq!(Patience::default().wait(Duration::from_secs(10)), Duration::from_secs(20));
        assert_eq!(Patience::default().wait(Duration::from_secs(300)), LONGEST);
        assert_eq!(Patience::default().wait(Duration::ZERO), SHORTEST);
        assert_eq!(Patience::default().wait(Duration::MAX), LONGEST);
    }
}
