//! What leaves the library with a secret in it: wiped from memory when it is dropped.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::ops::Deref;

use zeroize::Zeroizing;

/// A type around what is written to where secrets are kept: read by dereferencing, wiped on drop, printed as its name only.
macro_rules! wiped {
    ($(#[$doc:meta])* $name:ident, $kept:ty) => {
        $(#[$doc])*
        pub struct $name(Zeroizing<$kept>);

        impl $name {
            pub(crate) const fn new(kept: Zeroizing<$kept>) -> Self {
                Self(kept)
            }
        }

        impl Deref for $name {
            type Target = $kept;

            fn deref(&self) -> &$kept {
                &self.0
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(concat!(stringify!($name), "(..)"))
            }
        }
    };
}

wiped! {
    /// Bytes with a secret in them, to be written to a file that only its owner reads: read by dereferencing, and wiped from
    /// memory when they are dropped.
    SecretBytes, Vec<u8>
}

wiped! {
    /// Text with a secret in it: read by dereferencing, and wiped from memory when it is dropped.
    SecretText, String
}
