//! The key schedule of a connection (SPEC.md, "Key schedule"), from the ticket's secret to the keys of both directions.
//!
//! Each stage is a type of its own, so that nothing can be sealed under a key of the wrong stage. One message is sealed
//! per [`ConnectKey`], [`AnswerKey`] and [`ErrorKey`]: their nonce is the derived initial vector, and what makes the
//! key new each time is the hedged random in the clear part.

use zeroize::{Zeroize, Zeroizing};

use super::aead::{self, Unauthentic};
use super::hash::{hmac_16, sha256};
use super::kdf;
use super::secret::{Secret, ServiceSecret};

/// Key and initial vector of one use: a direction of a connection, or one message of its establishment.
#[derive(Clone)]
pub(crate) struct Traffic {
    /// AES-256-GCM key.
    pub(crate) key: [u8; 32],
    /// Initial vector; in a direction of a connection, XORed with the nonce input of each packet.
    pub(crate) iv: [u8; 12],
}

impl Traffic {
    pub(super) fn expand(prk: &[u8; 32], label: &[u8]) -> Self {
        let okm = kdf::expand::<44>(prk, &[label]);
        let mut traffic = Self { key: [0; 32], iv: [0; 12] };
        traffic.key.copy_from_slice(&okm[..32]);
        traffic.iv.copy_from_slice(&okm[32..]);
        traffic
    }

    pub(super) fn seal(&self, aad: &[u8], buffer: &mut [u8]) {
        aead::seal(&self.key, &self.iv, aad, buffer);
    }

    pub(super) fn open<'b>(&self, aad: &[u8], buffer: &'b mut [u8]) -> Result<&'b mut [u8], Unauthentic> {
        aead::open(&self.key, &self.iv, aad, buffer)
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        self.key.zeroize();
        self.iv.zeroize();
    }
}

/// What step 1 is sealed under, from `k0`.
pub(crate) struct ConnectKey(Traffic);

impl ConnectKey {
    /// From the ticket's secret and P1c: step 1 from its first byte to the 255 that ends its clear list.
    pub(crate) fn new(secret: &Secret, p1c: &[u8]) -> Self {
        let k0 = kdf::extract(&sha256(&[b"mpp1 initiator", p1c]), &[secret.expose()]);
        Self(Traffic::expand(&k0, b"mpp1 Connect"))
    }

    /// Seals Connect in place: plaintext, then 16 bytes of room for the tag. Once per key.
    ///
    /// # Panics
    /// If there is no room for a tag.
    pub(crate) fn seal(&self, p1c: &[u8], buffer: &mut [u8]) {
        self.0.seal(p1c, buffer);
    }

    /// Opens Connect in place and gives its plaintext, padding included.
    ///
    /// # Errors
    /// [`Unauthentic`]; the bytes are then as they were.
    pub(crate) fn open<'b>(&self, p1c: &[u8], sealed: &'b mut [u8]) -> Result<&'b mut [u8], Unauthentic> {
        self.0.open(p1c, sealed)
    }
}

/// SHA-256(P1): step 1 as it was sent, padding included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StepOneDigest(pub(crate) [u8; 32]);

impl StepOneDigest {
    /// Of the whole packet, before anything in it was decrypted in place.
    pub(crate) fn of(packet: &[u8]) -> Self {
        Self(sha256(&[packet]))
    }
}

fn k1(secret: &Secret, dh: &[u8], p1: &StepOneDigest, p2c: &[u8]) -> Zeroizing<[u8; 32]> {
    kdf::extract(&sha256(&[b"mpp1 responder", &p1.0, p2c]), &[secret.expose(), dh])
}

/// `k1`: what ResponderComplete is sealed under, and what the keys of the connection come from.
pub(crate) struct AnswerKey(Zeroizing<[u8; 32]>);

impl AnswerKey {
    /// From the ticket's secret, the X25519 result if both clear lists hold a share, step 1, and P2c: the answer from
    /// its first byte to the 255 that ends its clear list.
    pub(crate) fn new(secret: &Secret, dh: Option<&[u8; 32]>, p1: &StepOneDigest, p2c: &[u8]) -> Self {
        Self(k1(secret, dh.map_or(&[], |dh| dh.as_slice()), p1, p2c))
    }

    /// Seals ConnectResponse in place: plaintext, then 16 bytes of room for the tag. Once per key.
    ///
    /// # Panics
    /// If there is no room for a tag.
    pub(crate) fn seal(&self, p2c: &[u8], buffer: &mut [u8]) {
        self.traffic().seal(p2c, buffer);
    }

    /// Opens ConnectResponse in place and gives its plaintext, padding included.
    ///
    /// # Errors
    /// [`Unauthentic`]; the bytes are then as they were.
    pub(crate) fn open<'b>(&self, p2c: &[u8], sealed: &'b mut [u8]) -> Result<&'b mut [u8], Unauthentic> {
        self.traffic().open(p2c, sealed)
    }

    /// The keys of the connection that this exchange makes.
    pub(crate) fn connection_keys(&self) -> ConnectionKeys {
        ConnectionKeys {
            to_service: Traffic::expand(&self.0, b"InitiatorResponder"),
            to_device: Traffic::expand(&self.0, b"ResponderInitiator"),
            header: *kdf::expand(&self.0, &[b"mpp1 header"]),
        }
    }

    fn traffic(&self) -> Traffic {
        Traffic::expand(&self.0, b"mpp1 Answer")
    }
}

/// What an authenticated Error is sealed under: `k1` without an X25519 result.
pub(crate) struct ErrorKey(Traffic);

impl ErrorKey {
    /// From the ticket's secret, step 1, and P2c of the Error.
    pub(crate) fn new(secret: &Secret, p1: &StepOneDigest, p2c: &[u8]) -> Self {
        Self(Traffic::expand(&k1(secret, &[], p1, p2c), b"mpp1 Error"))
    }

    /// Seals the Error in place: plaintext, then 16 bytes of room for the tag. Once per key.
    ///
    /// # Panics
    /// If there is no room for a tag.
    pub(crate) fn seal(&self, p2c: &[u8], buffer: &mut [u8]) {
        self.0.seal(p2c, buffer);
    }

    /// Opens the Error in place and gives its plaintext.
    ///
    /// # Errors
    /// [`Unauthentic`]; the bytes are then as they were.
    pub(crate) fn open<'b>(&self, p2c: &[u8], sealed: &'b mut [u8]) -> Result<&'b mut [u8], Unauthentic> {
        self.0.open(p2c, sealed)
    }
}

/// The keys of a connection, raw. They never change within it.
#[derive(Clone)]
pub(crate) struct ConnectionKeys {
    /// Initiator to responder: from the device.
    pub(crate) to_service: Traffic,
    /// Responder to initiator: to the device.
    pub(crate) to_device: Traffic,
    /// The header key of both directions.
    pub(crate) header: [u8; 32],
}

impl Drop for ConnectionKeys {
    fn drop(&mut self) {
        self.header.zeroize();
    }
}

/// The hedged random of step 1: unpredictable if `fresh` is, and even if it is not, different for different Connects.
/// `clear_without_random` is the clear part as it will be sent, with the random left out.
pub(crate) fn initiator_random(
    secret: &Secret,
    fresh: &[u8; 32],
    connect: &[u8],
    clear_without_random: &[u8],
) -> [u8; 16] {
    let key = kdf::expand(secret.expose(), &[b"mpp1 hedge"]);
    hmac_16(&key, &[fresh, connect, clear_without_random])
}

/// The service's key for its hedged randoms.
#[derive(Clone)]
pub(crate) struct HedgeKey(Zeroizing<[u8; 32]>);

impl HedgeKey {
    pub(crate) fn new(service: &ServiceSecret) -> Self {
        Self(service.derive(&[b"mpp1 hedge"]))
    }

    /// The hedged random of an answer; `answer` is its message, before sealing.
    pub(crate) fn responder_random(&self, fresh: &[u8; 32], p1: &StepOneDigest, answer: &[u8]) -> [u8; 16] {
        hmac_16(&self.0, &[fresh, &p1.0, answer])
    }
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use super::super::testing::hex;
    use super::*;

    const P1C: &[u8] = b"step 1 up to its 255";
    const P1: &[u8] = b"step 1 as a whole";
    const P2C: &[u8] = b"the answer up to its 255";

    fn secret() -> Secret {
        Secret::new(core::array::from_fn(|i| i as u8))
    }

    fn with_room(plain: &[u8]) -> Vec<u8> {
        let mut buffer = plain.to_vec();
        buffer.extend([0; 16]);
        buffer
    }

    /// Values from a second implementation of the schedule, in Python (hmac, hashlib, cryptography's AESGCM).
    #[test]
    fn schedule_agrees_with_another_implementation() {
        let mut connect = with_room(b"connect");
        ConnectKey::new(&secret(), P1C).seal(P1C, &mut connect);
        assert_eq!(connect, hex("f796312b34fa23004095a914f45e8fea668aa5a77b64c0"));

        let p1 = StepOneDigest::of(P1);
        let key = AnswerKey::new(&secret(), Some(&[0xdd; 32]), &p1, P2C);
        let mut answer = with_room(b"answer");
        key.seal(P2C, &mut answer);
        assert_eq!(answer, hex("4e6f4a06f43931fb070a4d1e0978de30e15361618612"));
        let keys = key.connection_keys();
        assert_eq!(
            keys.to_service.key,
            hex("94c7caed45c3b15a136cdb1c55b710d9dbab42f4a5cb52833401c984f15a18a3")[..]
        );
        assert_eq!(keys.to_service.iv, hex("63565ef41a4ac4f59ea6f5ee")[..]);
        assert_eq!(
            keys.to_device.key,
            hex("c1b48e29805fee68ed9fe1d1bf3f00e885b92f512f68b6056491f4af62799900")[..]
        );
        assert_eq!(keys.to_device.iv, hex("98e314171a4cf213e43a5ea1")[..]);
        assert_eq!(keys.header, hex("f8b255a5c2ce3ee0d0d123b9e0f881a8c84e9c9cec1389e8fd951d326452b5a4")[..]);

        let bare = AnswerKey::new(&secret(), None, &p1, P2C).connection_keys();
        assert_eq!(bare.header, hex("f1df4982971794a9fd8ee470204eaf871bfd4db08945989874bd3ab5ec275606")[..]);

        let mut error = with_room(b"error");
        ErrorKey::new(&secret(), &p1, P2C).seal(P2C, &mut error);
        assert_eq!(error, hex("bcb9f1d4834befda6994343e3da7c99db7222f0c01"));

        assert_eq!(
            initiator_random(&secret(), &[5; 32], b"connect", b"clear"),
            hex("62adf258e272149d70f0b58572abf7ed")[..]
        );
        let hedge = HedgeKey::new(&ServiceSecret::new([6; 32]));
        assert_eq!(
            hedge.responder_random(&[5; 32], &p1, b"answer"),
            hex("1aeea091f4d28d18d0847c6437c7e5fd")[..]
        );
    }

    /// `open` gets the message with one bit wrong, in the sealed part and in the clear part, or cut: all refused, and
    /// the bytes left alone.
    fn sweep(clear: &[u8], sealed: &[u8], open: impl Fn(&[u8], &mut [u8]) -> Result<Vec<u8>, Unauthentic>) {
        for bit in 0..sealed.len() * 8 {
            let mut bad = sealed.to_vec();
            bad[bit / 8] ^= 1 << (bit % 8);
            let before = bad.clone();
            assert_eq!(open(clear, &mut bad), Err(Unauthentic), "bit {bit}");
            assert_eq!(bad, before, "bit {bit}");
        }
        for bit in 0..clear.len() * 8 {
            let mut bad = clear.to_vec();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(open(&bad, &mut sealed.to_vec()), Err(Unauthentic), "clear bit {bit}");
        }
        for len in 0..sealed.len() {
            assert_eq!(open(clear, &mut sealed[..len].to_vec()), Err(Unauthentic), "cut to {len}");
        }
    }

    // SPEC: R-transcript
    #[test]
    fn connect_opens_only_as_it_was_sealed() {
        let mut sealed = with_room(b"connect");
        ConnectKey::new(&secret(), P1C).seal(P1C, &mut sealed);
        // A receiver derives the key from the clear part it received, so that a change there changes both.
        let open = |clear: &[u8], sealed: &mut [u8]| {
            ConnectKey::new(&secret(), clear).open(clear, sealed).map(|plain| plain.to_vec())
        };
        assert_eq!(open(P1C, &mut sealed.clone()), Ok(b"connect".to_vec()));
        sweep(P1C, &sealed, open);
    }

    // SPEC: R-transcript
    #[test]
    fn the_answer_opens_only_as_it_was_sealed() {
        let p1 = StepOneDigest::of(P1);
        let dh = Some(&[0xdd; 32]);
        let mut sealed = with_room(b"answer");
        AnswerKey::new(&secret(), dh, &p1, P2C).seal(P2C, &mut sealed);
        let open = |clear: &[u8], sealed: &mut [u8]| {
            AnswerKey::new(&secret(), dh, &p1, clear).open(clear, sealed).map(|plain| plain.to_vec())
        };
        assert_eq!(open(P2C, &mut sealed.clone()), Ok(b"answer".to_vec()));
        sweep(P2C, &sealed, open);

        // Another step 1, another secret, no or another X25519 result.
        for key in [
            AnswerKey::new(&secret(), dh, &StepOneDigest::of(P1C), P2C),
            AnswerKey::new(&Secret::new([1; 32]), dh, &p1, P2C),
            AnswerKey::new(&secret(), None, &p1, P2C),
            AnswerKey::new(&secret(), Some(&[0xde; 32]), &p1, P2C),
        ] {
            assert_eq!(key.open(P2C, &mut sealed.clone()), Err(Unauthentic));
        }
    }

    // SPEC: R-transcript, R-error-key
    #[test]
    fn the_error_opens_only_as_it_was_sealed_and_never_as_an_answer() {
        let p1 = StepOneDigest::of(P1);
        let mut sealed = with_room(b"error");
        ErrorKey::new(&secret(), &p1, P2C).seal(P2C, &mut sealed);
        let open = |clear: &[u8], sealed: &mut [u8]| {
            ErrorKey::new(&secret(), &p1, clear).open(clear, sealed).map(|plain| plain.to_vec())
        };
        assert_eq!(open(P2C, &mut sealed.clone()), Ok(b"error".to_vec()));
        sweep(P2C, &sealed, open);
        let answer = AnswerKey::new(&secret(), None, &p1, P2C);
        assert_eq!(answer.open(P2C, &mut sealed), Err(Unauthentic));
    }

    /// With a broken source of randomness the hedge still gives different randoms for different messages.
    // SPEC: R-hedged
    #[test]
    fn hedged_randoms_differ_without_fresh_bytes() {
        let random = |connect, clear| initiator_random(&secret(), &[0; 32], connect, clear);
        assert_ne!(random(b"a", b"x"), random(b"b", b"x"));
        assert_ne!(random(b"a", b"x"), random(b"a", b"y"));
        let hedge = HedgeKey::new(&ServiceSecret::new([6; 32]));
        let (p1, other) = (StepOneDigest::of(P1), StepOneDigest::of(P1C));
        assert_ne!(
            hedge.responder_random(&[0; 32], &p1, b"a"),
            hedge.responder_random(&[0; 32], &other, b"a")
        );
        assert_ne!(hedge.responder_random(&[0; 32], &p1, b"a"), hedge.responder_random(&[0; 32], &p1, b"b"));
    }
}
