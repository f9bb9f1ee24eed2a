//! A hash for tables whose keys others may choose: without the seed nobody can make them collide.

use core::hash::{BuildHasher, Hasher};

use crate::random::Rng;

/// The seed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seeded(u64);

impl Seeded {
    pub(super) fn new(rng: &mut Rng) -> Self {
        Self(rng.u64())
    }
}

impl BuildHasher for Seeded {
    type Hasher = Mixer;

    fn build_hasher(&self) -> Mixer {
        Mixer(self.0)
    }
}

#[derive(Debug)]
pub(super) struct Mixer(u64);

impl Hasher for Mixer {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            let product = u128::from(self.0 ^ u64::from_le_bytes(word)) * 0x9e37_79b9_7f4a_7c15;
            self.0 = (product >> 64) as u64 ^ product as u64;
        }
    }
}
