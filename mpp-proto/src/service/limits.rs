//! Rates that are not exceeded (SPEC.md, "Limits of rates"): buckets of tokens, single ones and fixed tables of them.
//! They know no protocol, allocate once and forgive whatever a clock does.

use alloc::boxed::Box;
use alloc::vec;
use core::hash::BuildHasher;
use core::net::IpAddr;
use core::time::Duration;

use super::seeded::Seeded;
use crate::time::Instant;
use crate::wheel::tick_floor;

/// So many things per second, and so many at once: over any time *t* in seconds never more than
/// `burst + per_second * t`.
///
/// Limits that are kept for each device, connection or source (not for the service as a whole) count time in whole
/// milliseconds: there the time between two things is rounded up to one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Rate {
    /// In the long run. 0: no more than `burst`, ever.
    pub per_second: u32,
    /// After a pause. 0: nothing at all.
    pub burst: u32,
}

impl Rate {
    /// So many per second, and so many at once.
    pub const fn new(per_second: u32, burst: u32) -> Self {
        Self { per_second, burst }
    }

    /// Whole milliseconds between two things.
    fn interval(self) -> u64 {
        1000_u32
            .checked_div(self.per_second)
            .map_or(u64::from(u32::MAX), |_| u64::from(1000_u32.div_ceil(self.per_second)))
    }
}

/// What one token is in [`Bucket::level`].
const TOKEN: u64 = 1_000_000;

/// A bucket for the service as a whole: exact for every rate.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bucket {
    rate: Rate,
    /// Millionths of a token, as of `at`.
    level: u64,
    at: Instant,
}

impl Bucket {
    /// A full one.
    pub(super) const fn new(rate: Rate, now: Instant) -> Self {
        Self { rate, level: Self::full(rate), at: now }
    }

    const fn full(rate: Rate) -> u64 {
        rate.burst as u64 * TOKEN
    }

    /// Takes a token, if it leaves at least `reserve` of them.
    pub(super) fn take(&mut self, now: Instant, reserve: u32) -> bool {
        self.level = self.level_at(now);
        self.at = self.at.max(now);
        if !self.holds(now, reserve) {
            return false;
        }
        self.level -= TOKEN;
        true
    }

    /// How long until there is a token.
    pub(super) fn wait(&self, now: Instant) -> Duration {
        let missing = TOKEN.saturating_sub(self.level_at(now));
        if missing == 0 {
            return Duration::ZERO;
        }
        let micros = missing
            .checked_div(u64::from(self.rate.per_second))
            .map_or(u64::MAX, |_| missing.div_ceil(u64::from(self.rate.per_second)));
        // A clock that slipped back has to come to where it was first.
        self.at.since(now).saturating_add(Duration::from_micros(micros))
    }

    /// Whether there is a token that leaves `reserve` of them.
    pub(super) fn holds(&self, now: Instant, reserve: u32) -> bool {
        self.level_at(now) >= (u64::from(reserve) + 1) * TOKEN
    }

    fn level_at(&self, now: Instant) -> u64 {
        let passed = u64::try_from(now.since(self.at).as_micros()).unwrap_or(u64::MAX);
        let fresh = passed.saturating_mul(u64::from(self.rate.per_second));
        self.level.saturating_add(fresh).min(Self::full(self.rate))
    }
}

/// The pace of everything that a service sends.
#[derive(Debug)]
pub(super) struct Pace {
    bucket: Bucket,
    /// When the next packet may go, if one had to wait.
    until: Option<Instant>,
}

impl Pace {
    pub(super) const fn new(rate: Rate, now: Instant) -> Self {
        Self { bucket: Bucket::new(rate, now), until: None }
    }

    /// Whether a packet may go now; if not, there will be a deadline.
    pub(super) fn is_free(&mut self, now: Instant) -> bool {
        let wait = self.bucket.wait(now);
        self.until = (!wait.is_zero()).then(|| now + wait);
        wait.is_zero()
    }

    /// Whether no more than half of what may be sent at once is used up.
    pub(super) fn has_half(&self, now: Instant) -> bool {
        self.bucket.holds(now, self.bucket.rate.burst / 2)
    }

    /// A packet was sent.
    pub(super) fn sent(&mut self, now: Instant) {
        self.bucket.take(now, 0);
    }

    /// Time has come to `now`: a deadline that has passed is none any more.
    pub(super) fn pass(&mut self, now: Instant) {
        self.until = self.until.filter(|at| *at > now);
    }

    /// When the packet that had to wait may go.
    pub(super) const fn deadline(&self) -> Option<Instant> {
        self.until
    }
}

/// A bucket in four bytes, for records and tables: the tick at which it will be full again. One that was not used for
/// 49 days may be taken for one that was used a moment ago, and then fills up as that would.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Small(pub(super) u32);

impl Small {
    /// A full one.
    pub(super) const fn new(now: Instant) -> Self {
        Self(tick_floor(now))
    }

    /// Takes a token, if it leaves at least `reserve` of them.
    pub(super) fn take(&mut self, now: Instant, rate: Rate, reserve: u32) -> bool {
        let used = self.used(now, rate);
        let after = used.saturating_add(rate.interval());
        if after > Self::span(rate, rate.burst.saturating_sub(reserve)) {
            return false;
        }
        // The span of a bucket is less than half of what the ticks can tell apart.
        self.0 = tick_floor(now).wrapping_add(after as u32);
        true
    }

    /// How long until there is a token that leaves `reserve` of them.
    pub(super) fn wait(self, now: Instant, rate: Rate, reserve: u32) -> Duration {
        let after = self.used(now, rate).saturating_add(rate.interval());
        let span = Self::span(rate, rate.burst.saturating_sub(reserve));
        Duration::from_millis(after.saturating_sub(span))
    }

    /// Milliseconds until it is full.
    fn used(self, now: Instant, rate: Rate) -> u64 {
        let ahead = u64::from(self.0.wrapping_sub(tick_floor(now)));
        if ahead <= Self::span(rate, rate.burst) { ahead } else { 0 }
    }

    /// Milliseconds in which so many tokens come.
    fn span(rate: Rate, tokens: u32) -> u64 {
        rate.interval().saturating_mul(u64::from(tokens)).min(u64::from(u32::MAX / 2))
    }
}

/// Buckets by the source of packets that prove nothing: for each IPv4 address, and for each /56 of IPv6, which is what
/// one household gets. Sources whose hash is the same share a bucket.
#[derive(Debug)]
pub(super) struct Prefixes {
    buckets: Box<[u32]>,
    hasher: Seeded,
}

/// Buckets in a table: 256 KiB, and two of a thousand sources that are active at once share one with another.
const PREFIXES: usize = 1 << 16;

impl Prefixes {
    pub(super) fn new(hasher: Seeded) -> Self {
        Self { buckets: vec![0; PREFIXES].into_boxed_slice(), hasher }
    }

    /// Takes a token of this source.
    pub(super) fn take(&mut self, now: Instant, rate: Rate, source: IpAddr) -> bool {
        let hash = match source.to_canonical() {
            IpAddr::V4(ip) => self.hasher.hash_one((4_u8, ip.octets())),
            IpAddr::V6(ip) => {
                let [a, b, c, d, e, f, g, ..] = ip.octets();
                self.hasher.hash_one((6_u8, [a, b, c, d, e, f, g]))
            }
        };
        let bucket = &mut self.buckets[hash as usize % PREFIXES];
        let mut small = Small(*bucket);
        let taken = small.take(now, rate, 0);
        *bucket = small.0;
        taken
    }
}

/// What is said to those who prove nothing: to each source, and to all of them.
#[derive(Debug)]
pub(super) struct Strangers {
    per_prefix: Rate,
    by_prefix: Prefixes,
    all: Bucket,
}

impl Strangers {
    pub(super) fn new(per_prefix: Rate, all: Rate, hasher: Seeded, now: Instant) -> Self {
        Self { per_prefix, by_prefix: Prefixes::new(hasher), all: Bucket::new(all, now) }
    }

    /// Takes a token of this source and one of all.
    pub(super) fn take(&mut self, now: Instant, source: IpAddr) -> bool {
        self.by_prefix.take(now, self.per_prefix, source) && self.all.take(now, 0)
    }
}

const _: () = assert!(size_of::<Small>() == 4);
const _: () = assert!(PREFIXES * size_of::<Small>() == 256 * 1024);

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;
    use crate::random::{Rng, Seed};

    fn at(ms: u64) -> Instant {
        Instant::from_micros(ms * 1000)
    }

    fn rate() -> impl Strategy<Value = Rate> {
        (0_u32..5000, 0_u32..200).prop_map(|(per_second, burst)| Rate::new(per_second, burst))
    }

    /// Steps of a clock in microseconds, most of them short.
    fn steps() -> impl Strategy<Value = Vec<u64>> {
        prop::collection::vec(prop_oneof![8 => 0..300_u64, 3 => 0..50_000_u64, 1 => 0..5_000_000_u64], 1..400)
    }

    /// The most that were let through in any window, less what the rate allows in it, as millionths of one.
    fn excess(rate: Rate, taken: &[u64]) -> i128 {
        let mut most = i128::MIN;
        for (i, from) in taken.iter().enumerate() {
            for (n, to) in (1_i128..).zip(&taken[i..]) {
                let allowed =
                    i128::from(rate.burst) * 1_000_000 + i128::from(to - from) * i128::from(rate.per_second);
                most = most.max(n * 1_000_000 - allowed);
            }
        }
        most
    }

    #[test]
    fn a_pause_fills_a_bucket_and_no_more() {
        let rate = Rate::new(10, 5);
        let mut bucket = Bucket::new(rate, at(0));
        let mut small = Small::new(at(0));
        for pause in [0, 100_000, 86_400_000] {
            let taken = (0..100).filter(|_| bucket.take(at(pause), 0)).count();
            let taken_small = (0..100).filter(|_| small.take(at(pause), rate, 0)).count();
            assert_eq!((taken, taken_small), (5, 5), "after {pause} ms");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        // SPEC: R-rate
        #[test]
        fn never_more_than_burst_and_rate(rate in rate(), start in 0..u64::from(u32::MAX) * 3000, steps in steps()) {
            let mut now = start;
            let mut bucket = Bucket::new(rate, Instant::from_micros(now));
            let mut small = Small::new(Instant::from_micros(now));
            let (mut by_bucket, mut by_small) = (Vec::new(), Vec::new());
            for step in steps {
                now += step;
                let instant = Instant::from_micros(now);
                let (has, wait) = (bucket.wait(instant).is_zero(), small.wait(instant, rate, 0));
                if bucket.take(instant, 0) {
                    by_bucket.push(now);
                }
                prop_assert_eq!(has, by_bucket.last() == Some(&now) && has);
                if small.take(instant, rate, 0) {
                    prop_assert!(wait.is_zero());
                    // It counts in whole milliseconds.
                    by_small.push(now / 1000 * 1000);
                }
            }
            prop_assert!(excess(rate, &by_bucket) <= 0);
            prop_assert!(excess(rate, &by_small) <= 0);
        }

        #[test]
        fn the_wait_it_names_is_exact(rate in (1_u32..3000, 1_u32..50), taken in 0_u32..60) {
            let rate = Rate::new(rate.0, rate.1);
            let now = at(77);
            let (mut bucket, mut small) = (Bucket::new(rate, now), Small::new(now));
            for _ in 0..taken {
                bucket.take(now, 0);
                small.take(now, rate, 0);
            }
            let (wait, small_wait) = (bucket.wait(now), small.wait(now, rate, 0));
            if !wait.is_zero() {
                let early = now + wait - Duration::from_micros(1);
                prop_assert!(!bucket.clone().take(early, 0), "a microsecond early");
            }
            prop_assert!(bucket.take(now + wait, 0));
            if !small_wait.is_zero() {
                let early = now + small_wait - Duration::from_millis(1);
                prop_assert!(!small.clone().take(early, rate, 0), "a millisecond early");
            }
            prop_assert!(small.take(now + small_wait, rate, 0));
        }
    }

    fn taken_at_once(small: &mut Small, now: Instant, rate: Rate) -> usize {
        (0..1000).filter(|_| small.take(now, rate, 0)).count()
    }

    #[test]
    fn ticks_may_wrap_around() {
        let rate = Rate::new(10, 60);
        let wrap = u64::from(u32::MAX) + 1;
        for before in [0, 1, 50, 2999, 6000] {
            let mut now = wrap - before;
            let mut small = Small::new(at(now));
            assert_eq!(taken_at_once(&mut small, at(now), rate), 60);
            assert_eq!(small.wait(at(now), rate, 0), Duration::from_millis(100));
            for _ in 0..100 {
                now += 100;
                assert_eq!(taken_at_once(&mut small, at(now), rate), 1, "{before} before the wrap");
            }
            assert_eq!(taken_at_once(&mut small, at(now + 6000), rate), 60);
        }
    }

    #[test]
    fn after_any_pause_it_is_full_again_within_its_span() {
        let rate = Rate::new(10, 60);
        for days in [0, 1, 24, 25, 49, 50, 99, 1000] {
            let mut small = Small::new(at(5));
            taken_at_once(&mut small, at(5), rate);
            let later = at(5 + days * 86_400_000 + 6_000);
            assert_eq!(taken_at_once(&mut small, later, rate), 60, "{days} days");
        }
        // The worst: exactly a round of the ticks later it seems to be as empty as it was.
        let mut small = Small::new(at(5));
        taken_at_once(&mut small, at(5), rate);
        let round = u64::from(u32::MAX) + 1;
        assert_eq!(taken_at_once(&mut small, at(5 + round), rate), 0);
        assert_eq!(taken_at_once(&mut small, at(5 + round + 6_000), rate), 60);
    }

    #[test]
    fn a_reserve_is_kept_for_others() {
        let rate = Rate::new(10, 8);
        let (mut bucket, mut small) = (Bucket::new(rate, at(0)), Small::new(at(0)));
        assert_eq!((0..20).filter(|_| bucket.take(at(0), 3)).count(), 5);
        assert_eq!((0..20).filter(|_| bucket.take(at(0), 0)).count(), 3);
        assert_eq!((0..20).filter(|_| small.take(at(0), rate, 3)).count(), 5);
        assert_eq!(small.wait(at(0), rate, 3), Duration::from_millis(100));
        assert_eq!(small.wait(at(0), rate, 0), Duration::ZERO);
        assert_eq!((0..20).filter(|_| small.take(at(0), rate, 0)).count(), 3);
        // What comes back belongs to the reserve first.
        assert!(!bucket.take(at(300), 3));
        assert!(!small.take(at(300), rate, 3));
        assert!(bucket.take(at(400), 3));
        assert!(small.take(at(400), rate, 3));
    }

    #[test]
    fn a_clock_that_slips_back_gives_nothing_twice() {
        let rate = Rate::new(1, 1);
        let mut bucket = Bucket::new(rate, at(10_000));
        assert!(bucket.take(at(10_000), 0));
        assert!(!bucket.take(at(5_000), 0));
        assert_eq!(bucket.wait(at(5_000)), Duration::from_secs(6));
        assert!(!bucket.take(at(10_999), 0));
        assert!(bucket.take(at(11_000), 0));
    }

    #[test]
    fn a_rate_of_nothing_lets_nothing_through() {
        for rate in [Rate::new(0, 0), Rate::new(10, 0)] {
            assert!(!Bucket::new(rate, at(0)).take(at(1 << 40), 0));
            assert!(!Small::new(at(0)).take(at(1 << 40), rate, 0));
        }
        let mut bucket = Bucket::new(Rate::new(0, 1), at(0));
        assert!(bucket.take(at(0), 0));
        assert!(!bucket.take(at(1 << 40), 0));
        assert!(bucket.wait(at(0)) > Duration::from_secs(86_400 * 365));
    }

    // SPEC: R-prefix
    #[test]
    fn sources_are_told_apart_by_address_or_household() {
        let mut table = Prefixes::new(Seeded::new(&mut Rng::new(Seed::new([5; 32]))));
        let rate = Rate::new(10, 20);
        let mut left = |ip: &str| {
            let ip = ip.parse().unwrap();
            (0..100).filter(|_| table.take(at(1000), rate, ip)).count()
        };
        assert_eq!(left("192.0.2.1"), 20);
        assert_eq!(left("::ffff:192.0.2.1"), 0, "the same address");
        assert_eq!(left("192.0.2.2"), 20);
        assert_eq!(left("2001:db8:0:100::1"), 20);
        assert_eq!(left("2001:db8:0:1ff:ffff::2"), 0, "the same /56");
        assert_eq!(left("2001:db8:0:200::1"), 20, "another");
    }
}
