//! Ticket keys, and the tokens they seal (SPEC.md, "Tickets"). A service keeps nothing per ticket: the token brings
//! along all there is to know, and the ticket's secret follows from it.

use alloc::vec::Vec;
use core::fmt;

use zeroize::Zeroizing;

use super::aead::TAG_LEN;
use super::hash::{hmac_16, sha256};
use super::kdf;
use super::schedule::Traffic;
use super::secret::Secret;
use crate::random::{Rng, Seed};
use crate::wiped::SecretBytes;

/// The longest token, in bytes.
pub(crate) const MAX_TOKEN: usize = 256;
/// The longest plaintext of a token, in bytes.
pub(crate) const MAX_PLAIN: usize = MAX_TOKEN - AAD_LEN - TAG_LEN;

const VERSION: u8 = 1;
/// Version, key id, salt: in clear and authenticated.
const AAD_LEN: usize = 1 + 4 + 16;

/// The key under which tickets are made: whoever has it makes tickets that its services take. Its id, chosen at random
/// with it, stands in every token and says which of several live keys opens it.
#[derive(Clone)]
pub struct TicketKey {
    id: [u8; 4],
    key: Zeroizing<[u8; 32]>,
}

impl TicketKey {
    /// The key of those bytes.
    pub fn new(id: [u8; 4], key: [u8; 32]) -> Self {
        Self { id, key: Zeroizing::new(key) }
    }

    /// A new key with a new id, both drawn from `seed`.
    pub fn generate(seed: Seed) -> Self {
        let mut rng = Rng::new(seed);
        let mut made = Self { id: rng.array(), key: Zeroizing::new([0; 32]) };
        rng.fill(made.key.as_mut_slice());
        made
    }

    /// Its id, which is no secret.
    pub const fn id(&self) -> [u8; 4] {
        self.id
    }

    /// Id and key, 36 bytes, for a key file.
    pub fn to_bytes(&self) -> SecretBytes {
        // All the room at once: what grows leaves its old content behind.
        let mut bytes = Zeroizing::new(Vec::with_capacity(36));
        bytes.extend_from_slice(&self.id);
        bytes.extend_from_slice(self.key.as_slice());
        SecretBytes::new(bytes)
    }

    /// The reverse of [`Self::to_bytes`].
    pub fn from_bytes(bytes: &[u8; 36]) -> Self {
        let mut made = Self { id: [0; 4], key: Zeroizing::new([0; 32]) };
        made.id.copy_from_slice(&bytes[..4]);
        made.key.copy_from_slice(&bytes[4..]);
        made
    }

    /// Seals `plain` into a token and gives the secret that belongs to it. `fresh` is random; should it ever repeat,
    /// only the same `plain` gives the same token.
    ///
    /// # Errors
    /// [`TokenError::TooLong`] if `plain` has more than [`MAX_PLAIN`] bytes.
    pub(crate) fn seal(&self, plain: &[u8], fresh: &[u8; 32]) -> Result<(Token, Secret), TokenError> {
        if plain.len() > MAX_PLAIN {
            return Err(TokenError::TooLong);
        }
        let salt_key = kdf::expand(&self.key, &[b"mpp1 salt"]);
        let salt = hmac_16(&salt_key, &[fresh, plain]);

        let mut token = Token { bytes: [0; MAX_TOKEN], len: AAD_LEN + plain.len() + TAG_LEN };
        token.bytes[0] = VERSION;
        token.bytes[1..5].copy_from_slice(&self.id);
        token.bytes[5..AAD_LEN].copy_from_slice(&salt);
        let (aad, sealed) = token.bytes[..token.len].split_at_mut(AAD_LEN);
        sealed[..plain.len()].copy_from_slice(plain);
        let keys = Derived::new(&self.key, &salt);
        keys.seal.seal(aad, sealed);
        let secret = keys.secret(token.as_bytes());
        Ok((token, secret))
    }

    /// Opens a token and gives its plaintext and the secret that belongs to it.
    ///
    /// # Errors
    /// [`TokenError::ForeignKey`] if another key's id stands in it, [`TokenError::Unauthentic`] if it stands under this
    /// id but was not sealed by this key, [`TokenError::Malformed`] if it is no token of this version at all.
    pub(crate) fn open(&self, token: &[u8]) -> Result<OpenedToken, TokenError> {
        if Token::key_id(token).ok_or(TokenError::Malformed)? != self.id {
            return Err(TokenError::ForeignKey);
        }
        let (aad, sealed) = token.split_at(AAD_LEN);
        let mut salt = [0; 16];
        salt.copy_from_slice(&aad[5..]);
        let keys = Derived::new(&self.key, &salt);
        let mut plain = [0; MAX_TOKEN - AAD_LEN];
        let buffer = &mut plain[..sealed.len()];
        buffer.copy_from_slice(sealed);
        let len = keys.seal.open(aad, buffer).map_err(|_| TokenError::Unauthentic)?.len();
        Ok(OpenedToken { plain, len, secret: keys.secret(token) })
    }
}

impl fmt::Debug for TicketKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d] = self.id;
        write!(f, "TicketKey({a:02x}{b:02x}{c:02x}{d:02x}, ..)")
    }
}

/// What a token holds, opaque to all but the holders of its ticket key.
#[derive(Clone)]
pub(crate) struct Token {
    bytes: [u8; MAX_TOKEN],
    len: usize,
}

impl Token {
    /// The token as it is sent.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    /// Which key sealed these bytes, if they can be a token at all. Not authentic.
    pub(crate) fn key_id(token: &[u8]) -> Option<[u8; 4]> {
        match token {
            [VERSION, a, b, c, d, ..] if (AAD_LEN + TAG_LEN..=MAX_TOKEN).contains(&token.len()) => {
                Some([*a, *b, *c, *d])
            }
            _ => None,
        }
    }
}

/// An authentic token, opened.
pub(crate) struct OpenedToken {
    plain: [u8; MAX_TOKEN - AAD_LEN],
    len: usize,
    secret: Secret,
}

impl OpenedToken {
    /// Its plaintext, as it was sealed.
    pub(crate) fn plain(&self) -> &[u8] {
        &self.plain[..self.len]
    }

    /// The secret that the ticket's device has.
    pub(crate) const fn secret(&self) -> &Secret {
        &self.secret
    }
}

/// Why a token was not made or not opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TokenError {
    /// More plaintext than a token takes.
    TooLong,
    /// Not a token of this version: wrong size or first byte.
    Malformed,
    /// Sealed under a key with another id.
    ForeignKey,
    /// It names this key, but this key did not seal it.
    Unauthentic,
}

/// What follows from a ticket key and a salt.
struct Derived {
    /// `t` of the specification.
    prk: Zeroizing<[u8; 32]>,
    seal: Traffic,
}

impl Derived {
    fn new(key: &[u8; 32], salt: &[u8; 16]) -> Self {
        let prk = kdf::extract(salt, &[key]);
        let seal = Traffic::expand(&prk, b"mpp1 token");
        Self { prk, seal }
    }

    fn secret(&self, token: &[u8]) -> Secret {
        Secret::new(*kdf::expand(&self.prk, &[b"mpp1 secret", &sha256(&[token])]))
    }
}

#[cfg(test)]
mod tests {
    use std::format;
    use std::vec::Vec;

    use super::super::testing::hex;
    use super::*;

    fn key() -> TicketKey {
        TicketKey::new(*b"\x01\x02\x03\x04", core::array::from_fn(|i| 0x40 + i as u8))
    }

    /// purpose 1, account, device, rights, issued, expiry, no extensions.
    fn alice() -> Vec<u8> {
        let mut plain = b"\x01\x11alice@example.com".to_vec();
        plain.extend([0xd0; 16]);
        plain.push(3);
        plain.extend((1_800_000_000_000_u64 | 0b11 << 62).to_be_bytes());
        plain.extend((1_900_000_000_000_u64 | 0b11 << 62).to_be_bytes());
        plain.push(0xff);
        plain
    }

    #[test]
    fn the_token_of_alice_has_90_bytes() {
        let (token, secret) = key().seal(&alice(), &[7; 32]).unwrap();
        assert_eq!(token.as_bytes().len(), 90);
        let opened = key().open(token.as_bytes()).unwrap();
        assert_eq!(opened.plain(), alice());
        assert_eq!(*opened.secret(), secret);
    }

    /// Values from a second implementation, in Python (hmac, hashlib, cryptography's AESGCM).
    #[test]
    fn the_token_agrees_with_another_implementation() {
        let (token, secret) = key().seal(&alice(), &[7; 32]).unwrap();
        assert_eq!(
            token.as_bytes(),
            hex(
                "01010203047acec2f7f6122e68b6653c588d1b28bbd2f16266fd4330980f20b0c40ad797e6efa5e737c77896328c0748b69f4ed915830e44b3777d442eae8144b89e9d2553e56164f5cba1b596089c221f888fb7c5611c89eb41"
            )
        );
        assert_eq!(
            *secret.expose(),
            hex("e2ec608ad1961d5df4e7b4b0b530336bedfc0f9d4edaf98477bfd3b8616a7a54")[..]
        );
    }

    // SPEC: R-key-id
    #[test]
    fn one_wrong_bit_or_byte_less_opens_nothing() {
        let (token, _) = key().seal(&alice(), &[7; 32]).unwrap();
        let token = token.as_bytes();
        for bit in 0..token.len() * 8 {
            let mut bad = token.to_vec();
            bad[bit / 8] ^= 1 << (bit % 8);
            let expected = match bit / 8 {
                0 => TokenError::Malformed,
                1..=4 => TokenError::ForeignKey,
                _ => TokenError::Unauthentic,
            };
            assert_eq!(key().open(&bad).err(), Some(expected), "bit {bit}");
        }
        for len in 0..token.len() {
            let expected = if len < 37 { TokenError::Malformed } else { TokenError::Unauthentic };
            assert_eq!(key().open(&token[..len]).err(), Some(expected), "cut to {len}");
        }
    }

    #[test]
    fn another_key_under_the_same_id_is_unauthentic() {
        let (token, _) = key().seal(&alice(), &[7; 32]).unwrap();
        let other = TicketKey::new(key().id(), [9; 32]);
        assert_eq!(other.open(token.as_bytes()).err(), Some(TokenError::Unauthentic));
        let foreign = TicketKey::new([9; 4], *key().key);
        assert_eq!(foreign.open(token.as_bytes()).err(), Some(TokenError::ForeignKey));
    }

    #[test]
    fn what_fits_and_what_does_not() {
        let (token, _) = key().seal(&[1; MAX_PLAIN], &[7; 32]).unwrap();
        assert_eq!(token.as_bytes().len(), 256);
        assert_eq!(key().open(token.as_bytes()).unwrap().plain(), [1; MAX_PLAIN]);
        assert_eq!(key().seal(&[1; MAX_PLAIN + 1], &[7; 32]).err(), Some(TokenError::TooLong));
        let mut long = token.as_bytes().to_vec();
        long.push(0);
        assert_eq!(key().open(&long).err(), Some(TokenError::Malformed));
        let (empty, _) = key().seal(&[], &[7; 32]).unwrap();
        assert_eq!(key().open(empty.as_bytes()).unwrap().plain(), []);
    }

    /// The same salt for two plaintexts would be the same key and nonce for both.
    // SPEC: R-salt-hedged
    #[test]
    fn the_salt_is_hedged() {
        let salt =
            |plain: &[u8], fresh| key().seal(plain, &[fresh; 32]).unwrap().0.as_bytes()[5..21].to_vec();
        assert_ne!(salt(b"a", 0), salt(b"b", 0));
        assert_ne!(salt(b"a", 0), salt(b"a", 1));
    }

    #[test]
    fn keys_survive_their_file_and_tell_nothing() {
        let made = TicketKey::generate(Seed::new([5; 32]));
        let read = TicketKey::from_bytes(made.to_bytes().first_chunk().unwrap());
        assert_eq!((read.id, &*read.key), (made.id, &*made.key));
        assert_ne!(made.id, TicketKey::generate(Seed::new([6; 32])).id);
        assert_ne!(*made.key, [0; 32]);
        assert_eq!(format!("{:?}", key()), "TicketKey(01020304, ..)");
    }
}
