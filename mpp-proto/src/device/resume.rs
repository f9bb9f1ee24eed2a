//! What a device keeps across restarts.

use alloc::vec::Vec;

use crate::crypto::sha256;
use crate::ids::{Epoch, Serial, StoreSet};

/// How far an application has got in a channel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Anchor {
    /// Which history `position` belongs to.
    pub(super) epoch: Epoch,
    /// Everything up to here has been dealt with.
    pub(super) position: Serial,
    /// The stores for which that is true.
    pub(super) covered: StoreSet,
}

/// What a device has to remember across a restart so that it misses nothing and repeats nothing: how far its
/// application has got, and the serial of its last connection. No keys, no counters, nothing of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resume {
    pub(super) anchor: Anchor,
    pub(super) connect_serial: u64,
}

/// Bytes that are no [`Resume`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the saved position is cut, changed, or of another version: without it the device starts anew and reports a gap"
)]
pub struct ResumeError;

const VERSION: u8 = 1;
const LEN: usize = 1 + 8 + 8 + 16 + 8 + 4;

impl Resume {
    /// The epoch of the channel's history.
    pub const fn epoch(&self) -> Epoch {
        self.anchor.epoch
    }

    /// What the application has dealt with.
    pub const fn position(&self) -> Serial {
        self.anchor.position
    }

    /// Its bytes, 45 of them, with a checksum.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(LEN);
        bytes.push(VERSION);
        bytes.extend_from_slice(&self.anchor.epoch.0);
        bytes.extend_from_slice(&self.anchor.position.0.to_be_bytes());
        bytes.extend_from_slice(&self.anchor.covered.to_bytes());
        bytes.extend_from_slice(&self.connect_serial.to_be_bytes());
        let sum = sha256(&[&bytes]);
        bytes.extend_from_slice(&sum[..4]);
        bytes
    }

    /// The reverse of [`Self::to_bytes`].
    ///
    /// # Errors
    /// [`ResumeError`] if the bytes are not whole.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, ResumeError> {
        let (body, sum) = bytes.split_last_chunk::<4>().ok_or(ResumeError)?;
        if bytes.len() != LEN || sha256(&[body])[..4] != *sum {
            return Err(ResumeError);
        }
        let mut rest = body;
        let [version] = take(&mut rest)?;
        if version != VERSION {
            return Err(ResumeError);
        }
        Ok(Self {
            anchor: Anchor {
                epoch: Epoch(take(&mut rest)?),
                position: Serial(u64::from_be_bytes(take(&mut rest)?)),
                covered: StoreSet::from_bytes(take(&mut rest)?),
            },
            connect_serial: u64::from_be_bytes(take(&mut rest)?),
        })
    }
}

fn take<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], ResumeError> {
    let (head, tail) = rest.split_first_chunk().ok_or(ResumeError)?;
    *rest = tail;
    Ok(*head)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn it_survives(epoch: [u8; 8], position: u64, covered: [u8; 16], connect_serial: u64) {
            let anchor = Anchor {
                epoch: Epoch(epoch),
                position: Serial(position),
                covered: StoreSet::from_bytes(covered),
            };
            let resume = Resume { anchor, connect_serial };
            let mut bytes = resume.to_bytes();
            prop_assert_eq!(Resume::from_bytes(&bytes), Ok(resume));
            for i in 0..bytes.len() {
                prop_assert_eq!(Resume::from_bytes(&bytes[..i]), Err(ResumeError));
                bytes[i] ^= 1;
                prop_assert_eq!(Resume::from_bytes(&bytes), Err(ResumeError));
                bytes[i] ^= 1;
            }
        }

        #[test]
        fn anything_else_is_an_error_and_no_panic(bytes: Vec<u8>) {
            let _ = Resume::from_bytes(&bytes);
        }
    }
}
