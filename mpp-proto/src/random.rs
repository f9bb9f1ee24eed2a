//! The generator of all random numbers in a state machine. The core has no other source: from the same seed and the same
//! inputs come the same bytes.

use core::fmt;
use core::time::Duration;

use chacha20::cipher::StreamCipher;
use chacha20::{ChaCha20, KeyIvInit};
use zeroize::{Zeroize, Zeroizing};

/// Thirty-two bytes from the operating system's generator, once per state machine (from elsewhere in tests only). Wiped
/// on drop, and not to be used twice: two machines of one seed make the same keys.
pub struct Seed(Zeroizing<[u8; 32]>);

impl Seed {
    /// The seed of those bytes.
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(Zeroizing::new(bytes))
    }
}

impl fmt::Debug for Seed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Seed(..)")
    }
}

/// Bytes of keystream per refill: four blocks, which ChaCha20 makes at once where it can.
const REFILL: usize = 256;
/// Those that become the next key.
const KEY: usize = 32;

/// ChaCha20 with fast key erasure: each refill's first 32 bytes are the next key, and what was handed out is wiped. So
/// whoever reads the state learns nothing of what came before.
pub(crate) struct Rng {
    key: Zeroizing<[u8; KEY]>,
    ready: Zeroizing<[u8; REFILL - KEY]>,
    used: usize,
}

impl Rng {
    pub(crate) fn new(seed: Seed) -> Self {
        Self { key: seed.0, ready: Zeroizing::new([0; REFILL - KEY]), used: REFILL - KEY }
    }

    /// Overwrites `out`.
    pub(crate) fn fill(&mut self, mut out: &mut [u8]) {
        while !out.is_empty() {
            if self.used == self.ready.len() {
                self.refill();
            }
            let n = out.len().min(self.ready.len() - self.used);
            let (now, later) = out.split_at_mut(n);
            let from = &mut self.ready[self.used..self.used + n];
            now.copy_from_slice(from);
            from.zeroize();
            self.used += n;
            out = later;
        }
    }

    /// `N` random bytes.
    pub(crate) fn array<const N: usize>(&mut self) -> [u8; N] {
        let mut out = [0; N];
        self.fill(&mut out);
        out
    }

    pub(crate) fn u32(&mut self) -> u32 {
        u32::from_be_bytes(self.array())
    }

    pub(crate) fn u64(&mut self) -> u64 {
        u64::from_be_bytes(self.array())
    }

    /// Uniform in `0..n`; 0 if `n` is 0.
    pub(crate) fn below(&mut self, n: u64) -> u64 {
        if n == 0 {
            return 0;
        }
        // The largest multiple of n that 64 bits hold, less one: above it lies a part that would favour small results.
        // At worst (n just over 2^63) every second draw is refused.
        let last = u64::MAX - (u64::MAX % n + 1) % n;
        loop {
            let drawn = self.u64();
            if drawn <= last {
                return drawn % n;
            }
        }
    }

    /// Uniform in `low..=high`; `low` if that is empty.
    pub(crate) fn between(&mut self, low: u64, high: u64) -> u64 {
        match high.saturating_sub(low).checked_add(1) {
            Some(n) => low.saturating_add(self.below(n)),
            None => self.u64(),
        }
    }

    /// Uniform between two durations, in whole microseconds; `low` if `high` is not above it.
    pub(crate) fn duration(&mut self, low: Duration, high: Duration) -> Duration {
        let micros = |d: Duration| u64::try_from(d.as_micros()).unwrap_or(u64::MAX);
        Duration::from_micros(self.between(micros(low), micros(high)))
    }

    /// Uniform between `low` and `high` thousandths of `of`: jitter. `fraction(900, 1000, interval)` never exceeds the
    /// interval; `fraction(0, 1000, delay)` is full jitter.
    pub(crate) fn fraction(&mut self, low: u32, high: u32, of: Duration) -> Duration {
        let part = |thousandths| of.saturating_mul(thousandths) / 1000;
        self.duration(part(low), part(high))
    }

    fn refill(&mut self) {
        let mut stream = Zeroizing::new([0; REFILL]);
        // The nonce may stay zero, since no key is used twice.
        ChaCha20::new((&*self.key).into(), &[0; 12].into()).apply_keystream(stream.as_mut_slice());
        let (key, ready) = stream.split_at(KEY);
        self.key.copy_from_slice(key);
        self.ready.copy_from_slice(ready);
        self.used = 0;
    }
}

impl fmt::Debug for Rng {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Rng(..)")
    }
}

#[cfg(test)]
mod tests {
    use std::format;
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::{Duration, REFILL, Rng, Seed};

    fn rng(byte: u8) -> Rng {
        Rng::new(Seed::new([byte; 32]))
    }

    /// RFC 8439, A.1, test vectors 1 and 2: the keystream of key and nonce zero. The first 32 bytes are the next key.
    #[test]
    fn keystream_of_rfc_8439() {
        let first_key = [
            0x76, 0xb8, 0xe0, 0xad, 0xa0, 0xf1, 0x3d, 0x90, 0x40, 0x5d, 0x6a, 0xe5, 0x53, 0x86, 0xbd, 0x28,
            0xbd, 0xd2, 0x19, 0xb8, 0xa0, 0x8d, 0xed, 0x1a, 0xa8, 0x36, 0xef, 0xcc, 0x8b, 0x77, 0x0d, 0xc7,
        ];
        let then = [
            0xda, 0x41, 0x59, 0x7c, 0x51, 0x57, 0x48, 0x8d, 0x77, 0x24, 0xe0, 0x3f, 0xb8, 0xd8, 0x4a, 0x37,
            0x6a, 0x43, 0xb8, 0xf4, 0x15, 0x18, 0xa1, 0x1c, 0xc3, 0x87, 0xb6, 0x69, 0xb2, 0xee, 0x65, 0x86,
            0x9f, 0x07, 0xe7, 0xbe, 0x55, 0x51, 0x38, 0x7a, 0x98, 0xba, 0x97, 0x7c, 0x73, 0x2d, 0x08, 0x0d,
        ];
        let mut rng = rng(0);
        assert_eq!(rng.array::<48>(), then);
        assert_eq!(*rng.key, first_key);
    }

    #[test]
    fn what_was_handed_out_is_wiped() {
        let mut rng = rng(1);
        let out: [u8; 40] = rng.array();
        assert_ne!(out, [0; 40]);
        assert_eq!(rng.ready[..40], [0; 40]);
        assert_ne!(rng.ready[40..48], [0; 8]);
    }

    #[test]
    fn the_same_seed_gives_the_same_numbers_however_they_are_drawn() {
        let mut whole = [0; 1000];
        rng(2).fill(&mut whole);
        let mut other = rng(2);
        let mut pieces = Vec::new();
        for n in (1..).take_while(|n| n * (n + 1) / 2 <= 1000) {
            let mut piece = std::vec![0; n];
            other.fill(&mut piece);
            pieces.extend(piece);
        }
        assert_eq!(pieces, whole[..pieces.len()]);
        assert_ne!(rng(3).array::<32>(), rng(2).array::<32>());
    }

    #[test]
    fn no_refill_repeats_another() {
        let mut bytes = [0; 10 * REFILL];
        rng(2).fill(&mut bytes);
        let mut blocks: Vec<_> = bytes.chunks(32).collect();
        blocks.sort_unstable();
        blocks.dedup();
        assert_eq!(blocks.len(), bytes.len() / 32);
    }

    /// Each of six values is drawn about 10,000 times in 60,000; a bias of one part in ten would show.
    #[test]
    fn below_is_uniform() {
        let mut rng = rng(5);
        let mut counts = [0; 6];
        for _ in 0..60_000 {
            counts[usize::try_from(rng.below(6)).unwrap()] += 1;
        }
        assert!(counts.iter().all(|n| (9_500..10_500).contains(n)), "{counts:?}");
    }

    /// With n = 3 * 2^62 plain remainders would fall into the lowest third half of the time.
    #[test]
    fn below_is_uniform_for_large_bounds() {
        let mut rng = rng(6);
        let low = (0..30_000).filter(|_| rng.below(3 << 62) < 1 << 62).count();
        assert!((9_500..10_500).contains(&low), "{low}");
    }

    #[test]
    fn edges() {
        let mut rng = rng(7);
        assert_eq!(rng.below(0), 0);
        assert_eq!(rng.below(1), 0);
        assert_eq!(rng.between(5, 5), 5);
        assert_eq!(rng.between(5, 4), 5);
        assert_eq!(rng.between(u64::MAX, u64::MAX), u64::MAX);
        assert_ne!(rng.between(0, u64::MAX), rng.between(0, u64::MAX));
        assert_eq!(rng.fraction(1000, 1000, Duration::from_secs(25)), Duration::from_secs(25));
        assert_eq!(rng.fraction(0, 1000, Duration::ZERO), Duration::ZERO);
        assert_eq!(rng.duration(Duration::MAX, Duration::MAX), Duration::from_micros(u64::MAX));
    }

    #[test]
    fn debug_prints_no_byte() {
        assert_eq!(format!("{:?} {:?}", Seed::new([9; 32]), rng(9)), "Seed(..) Rng(..)");
    }

    proptest! {
        #[test]
        fn results_lie_in_their_range(seed in any::<u8>(), a in any::<u64>(), b in any::<u64>()) {
            let mut rng = rng(seed);
            let (low, high) = (a.min(b), a.max(b));
            prop_assert!((low..=high).contains(&rng.between(low, high)));
            prop_assert!(rng.below(high.max(1)) < high.max(1));
            let interval = Duration::from_micros(a >> 20);
            let jittered = rng.fraction(900, 1000, interval);
            prop_assert!(jittered <= interval && jittered >= interval * 9 / 10 - Duration::from_micros(1).min(interval));
        }
    }
}
