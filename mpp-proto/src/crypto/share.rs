//! X25519 (RFC 7748), for forward secrecy.

use core::fmt;

use x25519_dalek::{PublicKey, StaticSecret};
use zeroize::Zeroizing;

/// One side's share of a key agreement: the private half and what the other side gets to see. A device makes one per
/// attempt; a service may use one for up to 10 s of exchanges.
pub(crate) struct Share {
    private: StaticSecret,
    public: [u8; 32],
}

impl Share {
    /// From 32 random bytes.
    pub(crate) fn new(random: Zeroizing<[u8; 32]>) -> Self {
        let private = StaticSecret::from(*random);
        let public = PublicKey::from(&private).to_bytes();
        Self { private, public }
    }

    /// What the other side gets.
    pub(crate) const fn public(&self) -> &[u8; 32] {
        &self.public
    }

    /// The common result; `None` if `peer` is one of the few values that make it zero whatever the private half is
    /// (RFC 7748, 6.1), as only an attacker sends them.
    pub(crate) fn agree(&self, peer: &[u8; 32]) -> Option<Zeroizing<[u8; 32]>> {
        let result = self.private.diffie_hellman(&PublicKey::from(*peer));
        result.was_contributory().then(|| Zeroizing::new(result.to_bytes()))
    }
}

impl fmt::Debug for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Share(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::hex;
    use super::*;

    fn share(private: &str) -> Share {
        Share::new(Zeroizing::new(hex(private).try_into().unwrap()))
    }

    /// RFC 7748, 6.1.
    #[test]
    fn agreement_of_rfc_7748() {
        let alice = share("77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a");
        let bob = share("5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb");
        assert_eq!(
            *alice.public(),
            hex("8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a")[..]
        );
        assert_eq!(
            *bob.public(),
            hex("de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f")[..]
        );
        let common = hex("4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742");
        assert_eq!(alice.agree(bob.public()).unwrap()[..], common[..]);
        assert_eq!(bob.agree(alice.public()).unwrap()[..], common[..]);
    }

    /// The points of small order: 0, 1, the two of order 8, and p - 1.
    // SPEC: R-zero-share
    #[test]
    fn shares_that_force_the_result_are_refused() {
        let alice = share("77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a");
        for point in [
            "0000000000000000000000000000000000000000000000000000000000000000",
            "0100000000000000000000000000000000000000000000000000000000000000",
            "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
            "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
            "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        ] {
            assert!(alice.agree(&hex(point).try_into().unwrap()).is_none(), "{point}");
        }
    }
}
