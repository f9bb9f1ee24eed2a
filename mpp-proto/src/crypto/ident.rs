//! Stream identifiers: sixteen bytes that only their service can read, and eight that name a connection to its device
//! (SPEC.md, "Stream identifiers").

use aes::Aes256;
use aes::cipher::{BlockCipherDecrypt, BlockCipherEncrypt, KeyInit};
use zeroize::Zeroizing;

use super::hash::{hmac_16, same};
use super::secret::ServiceSecret;
use crate::random::Rng;
use crate::wire::is_ambiguous_identifier;

/// What marks a decrypted identifier as issued here: `MPP1`.
const CHECK: [u8; 4] = *b"MPP1";

/// Where a connection's record lies. 64 bits: `node 12 | shard 8 | slot 28 | generation 16`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ConnectionId {
    /// The machine, 0..4096.
    pub(crate) node: u16,
    /// The shard in it.
    pub(crate) shard: u8,
    /// The index in the shard's table of devices, 0..2^28.
    pub(crate) slot: u32,
    /// Counts the slot's users, so that identifiers of an earlier one are stale.
    pub(crate) generation: u16,
}

impl ConnectionId {
    /// The highest node number.
    pub(crate) const MAX_NODE: u16 = (1 << 12) - 1;
    /// The highest slot number.
    pub(crate) const MAX_SLOT: u32 = (1 << 28) - 1;

    /// The packed form. Bits of node and slot above their fields are cut off.
    pub(crate) fn pack(self) -> u64 {
        debug_assert!(self.node <= Self::MAX_NODE && self.slot <= Self::MAX_SLOT, "{self:?} does not fit");
        u64::from(self.node & Self::MAX_NODE) << 52
            | u64::from(self.shard) << 44
            | u64::from(self.slot & Self::MAX_SLOT) << 16
            | u64::from(self.generation)
    }

    /// The reverse of [`Self::pack`]: every number is a connection id.
    #[allow(
        clippy::cast_possible_truncation,
        reason = "each field is masked to its width or cut to it on purpose"
    )]
    pub(crate) const fn unpack(packed: u64) -> Self {
        Self {
            node: (packed >> 52) as u16,
            shard: (packed >> 44) as u8,
            slot: (packed >> 16) as u32 & Self::MAX_SLOT,
            generation: packed as u16,
        }
    }
}

/// Issues and reads a service's identifiers. Stateless: any number of them per connection, nothing to look up.
#[derive(Clone)]
pub(crate) struct Identifiers {
    cipher: Aes256,
    reset: Zeroizing<[u8; 32]>,
}

impl Identifiers {
    pub(crate) fn new(service: &ServiceSecret) -> Self {
        let sid = service.derive(&[b"mpp1 sid"]);
        Self { cipher: Aes256::new((&*sid).into()), reset: service.derive(&[b"mpp1 reset"]) }
    }

    /// A fresh identifier of `id`. Any two differ, but for one chance in 2^32.
    pub(crate) fn issue(&self, id: ConnectionId, rng: &mut Rng) -> [u8; 16] {
        drawn(|| self.seal(id, rng.u32()))
    }

    /// The connection that `ident` belongs to; `None` if it was not issued under this service's secret (or by a chance
    /// of 1 in 2^32, which the packet's own authentication then catches).
    pub(crate) fn open(&self, ident: &[u8; 16]) -> Option<ConnectionId> {
        let mut block = (*ident).into();
        self.cipher.decrypt_block(&mut block);
        let (id, rest) = block.split_first_chunk()?;
        same(rest.get(..4)?, &CHECK).then(|| ConnectionId::unpack(u64::from_be_bytes(*id)))
    }

    /// What a stateless reset of the connection with this identifier ends with.
    pub(crate) fn reset_token(&self, ident: &[u8; 16]) -> [u8; 16] {
        hmac_16(&self.reset, &[ident])
    }

    fn seal(&self, id: ConnectionId, salt: u32) -> [u8; 16] {
        let mut plain = [0; 16];
        plain[..8].copy_from_slice(&id.pack().to_be_bytes());
        plain[8..12].copy_from_slice(&CHECK);
        plain[12..].copy_from_slice(&salt.to_be_bytes());
        let mut block = plain.into();
        self.cipher.encrypt_block(&mut block);
        block.into()
    }
}

/// A fresh identifier for packets to a device: random, as the device looks it up.
pub(crate) fn device_identifier(rng: &mut Rng) -> [u8; 8] {
    drawn(|| rng.array())
}

/// The first draw that is not ambiguous.
fn drawn<const N: usize>(mut draw: impl FnMut() -> [u8; N]) -> [u8; N] {
    loop {
        let ident = draw();
        if ident.first_chunk().is_some_and(|first| !is_ambiguous_identifier(first)) {
            return ident;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::random::{Rng, Seed};

    fn identifiers(byte: u8) -> Identifiers {
        Identifiers::new(&ServiceSecret::new([byte; 32]))
    }

    const ID: ConnectionId = ConnectionId { node: 0xabc, shard: 0xde, slot: 0x0123_4567, generation: 0x89ab };

    #[test]
    fn fields_lie_where_they_should() {
        assert_eq!(ID.pack(), 0xabcd_e123_4567_89ab);
    }

    // SPEC: R-foreign
    #[test]
    fn one_bit_or_another_service_makes_it_foreign() {
        let ours = identifiers(1);
        let mut rng = Rng::new(Seed::new([3; 32]));
        for _ in 0..100 {
            let ident = ours.issue(ID, &mut rng);
            assert_eq!(ours.open(&ident), Some(ID));
            assert_eq!(identifiers(2).open(&ident), None);
        }
        let ident = ours.issue(ID, &mut rng);
        for bit in 0..128 {
            let mut bad = ident;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(ours.open(&bad), None, "bit {bit}");
        }
    }

    #[test]
    fn identifiers_of_a_connection_do_not_look_alike() {
        let ours = identifiers(1);
        let mut rng = Rng::new(Seed::new([3; 32]));
        let (a, b) = (ours.issue(ID, &mut rng), ours.issue(ID, &mut rng));
        let differing: u32 = a.iter().zip(b).map(|(a, b)| (a ^ b).count_ones()).sum();
        assert!(differing > 32, "{differing} of 128 bits differ");
        assert_ne!(ours.reset_token(&a), ours.reset_token(&b));
        assert_ne!(ours.reset_token(&a), identifiers(2).reset_token(&a));
    }

    /// No 16-byte identifier can be made ambiguous at will, for that needs the key; the eight-byte one is drawn as it
    /// is. Both loops ask the same function.
    // SPEC: R-unambiguous
    #[test]
    fn an_ambiguous_identifier_is_redrawn() {
        let good = [0x40, 1, 2, 3, 0x21, 0x12, 0xa4, 0x42];
        for bad in [[0; 8], [0x3f, 1, 2, 3, 0x21, 0x12, 0xa4, 0x42]] {
            let mut draws = [bad, bad, good].into_iter();
            assert_eq!(drawn(|| draws.next().unwrap()), good);
        }
    }

    proptest! {
        #[test]
        fn any_id_round_trips(packed in any::<u64>(), seed in any::<[u8; 32]>()) {
            let id = ConnectionId::unpack(packed);
            prop_assert_eq!(id.pack(), packed);
            let ours = identifiers(1);
            prop_assert_eq!(ours.open(&ours.issue(id, &mut Rng::new(Seed::new(seed)))), Some(id));
        }
    }
}
