//! SHA-256, and HMAC with it, over parts that are never copied together.

use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::ids::AccountId;

impl AccountId {
    /// The account of that name, compared bytewise and not normalised (SPEC.md, "Accounts").
    pub fn of(name: &str) -> Self {
        Self(first_16(sha256(&[b"mpp account 1", name.as_bytes()])))
    }
}

/// SHA-256 of the concatenation of `parts`.
pub(crate) fn sha256(parts: &[&[u8]]) -> [u8; 32] {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part);
    }
    hash.finalize().into()
}

/// HMAC-SHA-256 of the concatenation of `parts`, cut to its first 16 bytes.
pub(super) fn hmac_16(key: &[u8; 32], parts: &[&[u8]]) -> [u8; 16] {
    // A key shorter than the block is padded with zeros (RFC 2104, 2): given as a whole block it cannot be refused.
    let mut block = Zeroizing::new([0; 64]);
    block[..32].copy_from_slice(key);
    let mut mac = Hmac::<Sha256>::new((&*block).into());
    for part in parts {
        mac.update(part);
    }
    first_16(mac.finalize().into_bytes().into())
}

/// Whether two byte strings are equal, in a time that depends on their lengths only.
pub(crate) fn same(a: &[u8], b: &[u8]) -> bool {
    a.ct_eq(b).into()
}

fn first_16(digest: [u8; 32]) -> [u8; 16] {
    let mut out = [0; 16];
    out.copy_from_slice(&digest[..16]);
    out
}

#[cfg(test)]
mod tests {
    use super::super::testing::hex;
    use super::*;

    #[test]
    fn sha256_of_fips_180() {
        let abc = hex("ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert_eq!(sha256(&[b"a", b"", b"bc"]), abc[..]);
    }

    #[test]
    fn hmac_of_rfc_4231() {
        // Test case 2 has a key shorter than 32 bytes; zero padding makes it the same key.
        let mut key = [0; 32];
        key[..4].copy_from_slice(b"Jefe");
        let mac = hmac_16(&key, &[b"what do ya want ", b"for nothing?"]);
        assert_eq!(mac, hex("5bdcc146bf60754e6a042426089575c7")[..]);
    }

    #[test]
    fn account_names_are_told_apart() {
        // printf 'mpp account 1alice@example.com' | sha256sum
        assert_eq!(AccountId::of("alice@example.com").0, hex("6063ffeef66b2c17293020b4d0deb868")[..]);
        assert_ne!(AccountId::of("alice@example.com"), AccountId::of("Alice@example.com"));
    }

    #[test]
    fn same_needs_equal_length() {
        assert!(same(b"abc", b"abc"));
        assert!(!same(b"abc", b"abd"));
        assert!(!same(b"abc", b"ab"));
    }
}
