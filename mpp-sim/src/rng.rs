//! The simulator's own source of chance.

use std::time::Duration;

/// A small seeded generator (xoshiro256**, seeded through SplitMix64).
///
/// The same seed gives the same numbers on every machine and in every version of this crate. It decides the fate of
/// packets and the steps of scenarios; it is no source of secrets.
#[derive(Clone, Debug)]
pub struct Rng {
    state: [u64; 4],
}

impl Rng {
    /// The generator of this seed.
    pub fn new(seed: u64) -> Self {
        let mut x = seed;
        Self { state: std::array::from_fn(|_| split_mix(&mut x)) }
    }

    /// A generator of its own for `purpose`, the same for the same state of this one, which does not move: whoever
    /// draws from it leaves everybody else's numbers alone.
    #[must_use]
    pub fn fork(&self, purpose: u64) -> Self {
        let [a, b, c, d] = self.state;
        let mut x = purpose;
        Self::new(a ^ b.rotate_left(17) ^ c.rotate_left(31) ^ d.rotate_left(47) ^ split_mix(&mut x))
    }

    /// 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        let s = &mut self.state;
        let result = s[1].wrapping_mul(5).rotate_left(7).wrapping_mul(9);
        let t = s[1] << 17;
        s[2] ^= s[0];
        s[3] ^= s[1];
        s[1] ^= s[2];
        s[0] ^= s[3];
        s[2] ^= t;
        s[3] = s[3].rotate_left(45);
        result
    }

    /// A number in `0..n`, every one equally likely; 0 if `n` is 0.
    pub fn below(&mut self, n: u64) -> u64 {
        // The high half of a 64 x 64 bit product: the bias is below n / 2^64.
        ((u128::from(self.next_u64()) * u128::from(n)) >> 64) as u64
    }

    /// An index into something of `len` elements; 0 if it is empty.
    pub fn index(&mut self, len: usize) -> usize {
        self.below(len as u64) as usize
    }

    /// A number in `low..=high`.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high.saturating_sub(low).saturating_add(1))
    }

    /// True with this probability, 0.0 to 1.0.
    pub fn chance(&mut self, probability: f64) -> bool {
        // Always draws, so that a changed probability does not shift the numbers that follow.
        ((self.next_u64() >> 11) as f64) < probability * (1u64 << 53) as f64
    }

    /// A duration of at most `max`, in whole microseconds.
    pub fn up_to(&mut self, max: Duration) -> Duration {
        let max = u64::try_from(max.as_micros()).unwrap_or(u64::MAX - 1);
        Duration::from_micros(self.between(0, max))
    }

    /// Fills `out`.
    pub fn fill(&mut self, out: &mut [u8]) {
        for chunk in out.chunks_mut(8) {
            let word = self.next_u64().to_le_bytes();
            chunk.copy_from_slice(&word[..chunk.len()]);
        }
    }

    /// 32 bytes, as machines want them for a seed.
    pub fn bytes32(&mut self) -> [u8; 32] {
        let mut out = [0; 32];
        self.fill(&mut out);
        out
    }

    /// `len` bytes.
    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        let mut out = vec![0; len];
        self.fill(&mut out);
        out
    }
}

fn split_mix(x: &mut u64) -> u64 {
    *x = x.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut z = *x;
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chance_is_what_it_says() {
        let mut rng = Rng::new(1);
        assert!((0..1000).all(|_| !rng.chance(0.0) && rng.chance(1.0)));
        let hits = (0..100_000).filter(|_| rng.chance(0.3)).count();
        assert!((29_000..31_000).contains(&hits), "{hits} of 100000 at 0.3");
    }

    #[test]
    fn numbers_stay_in_range_and_reach_both_ends() {
        let mut rng = Rng::new(2);
        let drawn: Vec<_> = (0..1000).map(|_| rng.between(3, 6)).collect();
        assert_eq!((drawn.iter().min(), drawn.iter().max()), (Some(&3), Some(&6)));
    }

    #[test]
    fn forks_differ_and_repeat() {
        let rng = Rng::new(3);
        let first = |purpose| rng.fork(purpose).next_u64();
        assert_eq!(first(1), first(1));
        assert_ne!(first(1), first(2));
    }
}
