//! The two clocks of this machine, as the state machines want them.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use mpp_proto::{Instant, UnixTime};

use crate::runtime::Runtime;

/// Tell the civil time again after this long, and when it was wrong by [`JUMP`].
const TELL_AFTER: Duration = Duration::from_secs(60);
/// Someone set the clock.
const JUMP: u64 = 1_000;

/// A monotonic clock that goes on while the machine sleeps, counted from its making.
#[derive(Clone, Debug)]
pub(crate) struct Clock {
    runtime: Arc<dyn Runtime>,
    origin: Duration,
}

impl Clock {
    pub(crate) fn start(runtime: Arc<dyn Runtime>) -> Self {
        Self { origin: runtime.uptime(), runtime }
    }

    /// The runtime by whose clock it goes.
    pub(crate) const fn runtime(&self) -> &Arc<dyn Runtime> {
        &self.runtime
    }

    pub(crate) fn now(&self) -> Instant {
        Instant::ZERO + self.runtime.uptime().saturating_sub(self.origin)
    }
}

/// Time since boot, sleep included.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(crate) fn uptime() -> Duration {
    use nix::time::{ClockId, clock_gettime};
    clock_gettime(ClockId::CLOCK_BOOTTIME).map_or_else(|_| process_time(), Duration::from)
}

/// Time since this was first called; whether sleep counts, the system decides.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(crate) fn uptime() -> Duration {
    process_time()
}

fn process_time() -> Duration {
    static START: std::sync::OnceLock<std::time::Instant> = std::sync::OnceLock::new();
    START.get_or_init(std::time::Instant::now).elapsed()
}

/// The civil time.
pub(crate) fn civil() -> UnixTime {
    let passed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    UnixTime::from_millis(u64::try_from(passed.as_millis()).unwrap_or(u64::MAX))
}

/// Remembers what civil time the state machine was told, to tell it again when that is old or has become wrong.
#[derive(Debug)]
pub(crate) struct Calendar {
    at: Instant,
    told: UnixTime,
}

impl Calendar {
    pub(crate) const fn new(at: Instant, told: UnixTime) -> Self {
        Self { at, told }
    }

    /// The civil time, if the machine has to be told.
    pub(crate) fn check(&mut self, now: Instant) -> Option<UnixTime> {
        self.compare(now, civil())
    }

    fn compare(&mut self, now: Instant, civil: UnixTime) -> Option<UnixTime> {
        let passed = now.since(self.at);
        let expected = (self.told + passed).as_millis();
        if passed < TELL_AFTER && expected.abs_diff(civil.as_millis()) < JUMP {
            return None;
        }
        *self = Self::new(now, civil);
        Some(civil)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_goes_forward() {
        for clock in [uptime, process_time] {
            let before = clock();
            std::thread::sleep(Duration::from_millis(5));
            let passed = clock() - before;
            assert!(passed >= Duration::from_millis(5) && passed < Duration::from_secs(5), "{passed:?}");
        }
    }

    #[test]
    fn civil_time_is_told_once_a_minute_and_when_it_jumps() {
        let start = UnixTime::from_millis(1_000_000);
        let mut calendar = Calendar::new(Instant::ZERO, start);
        let at = |s: u64| (Instant::ZERO + Duration::from_secs(s), start + Duration::from_secs(s));
        let (now, civil) = at(59);
        assert_eq!(calendar.compare(now, civil), None);
        let (now, civil) = at(60);
        assert_eq!(calendar.compare(now, civil), Some(civil));
        assert_eq!(calendar.compare(now, civil), None);
        // Set back by an hour one second later.
        let (now, civil) = at(61);
        let civil = civil - Duration::from_secs(3600);
        assert_eq!(calendar.compare(now, civil), Some(civil));
        assert_eq!(calendar.compare(now, civil), None);
    }
}
