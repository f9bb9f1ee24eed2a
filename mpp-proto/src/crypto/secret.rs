//! Thirty-two secret bytes, and the ways in which they must not be handled.

use core::fmt;

use zeroize::Zeroizing;

use super::hash::same;
use super::kdf;

/// A type around 32 secret bytes: wiped on drop, printed as its name only, compared in constant time.
macro_rules! secret_bytes {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone)]
        pub struct $name(Zeroizing<[u8; 32]>);

        impl $name {
            /// Takes the 32 bytes over. The caller's copy is the caller's to wipe.
            pub fn new(bytes: [u8; 32]) -> Self {
                Self(Zeroizing::new(bytes))
            }

            /// The bytes themselves, to be written where secrets are kept and nowhere else.
            pub fn expose(&self) -> &[u8; 32] {
                &self.0
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(concat!(stringify!($name), "(..)"))
            }
        }

        impl PartialEq for $name {
            fn eq(&self, other: &Self) -> bool {
                same(self.0.as_slice(), other.0.as_slice())
            }
        }

        impl Eq for $name {}
    };
}

secret_bytes! {
    /// The secret of a ticket, shared by its device and every service that holds the ticket key (SPEC.md,
    /// "Tickets").
    Secret
}

secret_bytes! {
    /// The one secret of a service, the same on all nodes of a cluster: stream identifiers, reset tokens, cookies and
    /// hedged randoms come from it (SPEC.md, "Keys of a service"). Whoever has it can reset every connection, but read
    /// none: ticket keys are separate.
    ServiceSecret
}

impl ServiceSecret {
    /// The key for one purpose: HKDF-Expand with the concatenation of `label`, 32 bytes.
    pub(super) fn derive(&self, label: &[&[u8]]) -> Zeroizing<[u8; 32]> {
        kdf::expand(&self.0, label)
    }
}

#[cfg(test)]
mod tests {
    use std::format;

    use super::*;

    #[test]
    fn debug_prints_no_byte() {
        let text = format!("{:?} {:?}", Secret::new([0xab; 32]), ServiceSecret::new([0xab; 32]));
        assert_eq!(text, "Secret(..) ServiceSecret(..)");
    }

    #[test]
    fn every_byte_counts_in_comparison() {
        let a = Secret::new([7; 32]);
        assert_eq!(a, Secret::new([7; 32]));
        for i in 0..32 {
            let mut b = [7; 32];
            b[i] ^= 0x80;
            assert_ne!(a, Secret::new(b), "byte {i}");
        }
    }
}
