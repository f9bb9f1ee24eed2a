//! The round-trip time and the timeouts made of it (SPEC.md, "Retransmission"; RFC 9002 section 5).

use core::time::Duration;

/// The round-trip time assumed before the first sample.
const INITIAL_RTT: u32 = 333_000;
/// How long a receiver may keep an acknowledgement back.
pub(crate) const MAX_ACK_DELAY: Duration = Duration::from_millis(25);
/// The smallest variation that counts: the resolution of clocks and schedulers.
const GRANULARITY: u32 = 1000;
/// The longest timeout.
const MAX_TIMEOUT: Duration = Duration::from_secs(60);
/// A radio that slept needs this long to wake up: the first timeout after a silence is not shorter.
const SLEEPY_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a path must have been silent for that.
pub(crate) const SLEEPY_AFTER: Duration = Duration::from_secs(2);

/// Smoothed round-trip time and variation, in microseconds; zero until the first sample.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Rtt {
    smoothed: u32,
    variation: u32,
}

impl Rtt {
    /// Takes a sample. Only packets that were sent once give one (Karn's rule): the acknowledgement of a packet
    /// that was sent twice does not say which of the two arrived.
    pub(crate) fn sample(&mut self, sample: Duration) {
        let sample = u32::try_from(sample.as_micros()).unwrap_or(u32::MAX / 8).clamp(1, u32::MAX / 8);
        if self.smoothed == 0 {
            self.smoothed = sample;
            self.variation = sample / 2;
        } else {
            let off = self.smoothed.abs_diff(sample);
            self.variation = mix(self.variation, off, 2);
            self.smoothed = mix(self.smoothed, sample, 3).max(1);
        }
    }

    /// The smoothed round-trip time, once measured.
    pub(crate) fn smoothed(&self) -> Option<Duration> {
        (self.smoothed != 0).then(|| Duration::from_micros(u64::from(self.smoothed)))
    }

    /// The probe timeout after `backoff` timeouts in a row; `sleepy`: nothing was received in the last 2 s.
    pub(crate) fn pto(&self, backoff: u8, sleepy: bool) -> Duration {
        let (smoothed, variation) =
            if self.smoothed == 0 { (INITIAL_RTT, INITIAL_RTT / 2) } else { (self.smoothed, self.variation) };
        let base = Duration::from_micros(u64::from(smoothed))
            .saturating_add(Duration::from_micros(u64::from(variation.saturating_mul(4).max(GRANULARITY))))
            .saturating_add(MAX_ACK_DELAY);
        let base = if sleepy { base.max(SLEEPY_TIMEOUT) } else { base };
        base.saturating_mul(1u32.checked_shl(u32::from(backoff)).unwrap_or(u32::MAX)).min(MAX_TIMEOUT)
    }
}

/// `old` moved towards `new` by 1 / 2^`shift` of the way.
fn mix(old: u32, new: u32, shift: u32) -> u32 {
    let kept = old.saturating_sub(old.checked_shr(shift).unwrap_or(0));
    kept.saturating_add(new.checked_shr(shift).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    // SPEC: R-pto
    #[test]
    fn the_first_timeout_is_about_a_second() {
        assert_eq!(Rtt::default().pto(0, false), Duration::from_micros(333_000 + 4 * 166_500 + 25_000));
    }

    // SPEC: R-pto
    #[test]
    fn timeouts_double_up_to_a_minute() {
        let mut rtt = Rtt::default();
        rtt.sample(Duration::from_millis(100));
        let first = rtt.pto(0, false);
        assert_eq!(first, Duration::from_millis(100 + 200 + 25));
        assert_eq!(rtt.pto(1, false), first * 2);
        assert_eq!(rtt.pto(40, false), MAX_TIMEOUT);
    }

    // SPEC: R-sleepy
    #[test]
    fn a_sleeping_radio_gets_a_second() {
        let mut rtt = Rtt::default();
        rtt.sample(Duration::from_millis(1));
        assert!(rtt.pto(0, false) < Duration::from_millis(50));
        assert_eq!(rtt.pto(0, true), Duration::from_secs(1));
    }

    #[test]
    fn samples_converge() {
        let mut rtt = Rtt::default();
        rtt.sample(Duration::from_secs(1));
        for _ in 0..100 {
            rtt.sample(Duration::from_millis(50));
        }
        let smoothed = rtt.smoothed().unwrap();
        assert!((Duration::from_millis(49)..Duration::from_millis(52)).contains(&smoothed), "{smoothed:?}");
    }
}
