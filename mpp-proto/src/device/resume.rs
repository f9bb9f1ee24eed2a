//! What a device keeps across restarts.

use alloc::sync::Arc;
use alloc::vec::Vec;

use zeroize::Zeroizing;

use super::tickets::Renewed;
use crate::crypto::{Secret, sha256};
use crate::ids::{Epoch, Serial, StoreSet};
use crate::time::UnixTime;
use crate::wiped::SecretBytes;
use crate::wire::MAX_TOKEN;

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
/// application has got, the serial of its last connection, and the newest ticket if the service gave one. No keys, no
/// counters, nothing of a connection. With a ticket in it its bytes are a secret, to be readable by their owner only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resume {
    pub(super) anchor: Anchor,
    pub(super) connect_serial: u64,
    pub(super) renewed: Option<Arc<Renewed>>,
}

/// Bytes that are no [`Resume`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the saved position is cut, changed, or of another version: without it the device starts anew and reports a gap"
)]
pub struct ResumeError;

/// Without a ticket, and with one.
const VERSION: u8 = 1;
const WITH_TICKET: u8 = 2;
const LEN: usize = 1 + 8 + 8 + 16 + 8 + 4;
/// Whose ticket it is, when it ends, its secret. The token follows.
const TICKET_LEN: usize = 16 + 8 + 32;

impl Resume {
    /// The epoch of the channel's history.
    pub const fn epoch(&self) -> Epoch {
        self.anchor.epoch
    }

    /// What the application has dealt with.
    pub const fn position(&self) -> Serial {
        self.anchor.position
    }

    /// Its bytes, with a checksum: 45 of them, at most 357 if there is a ticket in it. They are wiped when they are
    /// dropped.
    pub fn to_bytes(&self) -> SecretBytes {
        let room = self.renewed.as_ref().map_or(0, |renewed| TICKET_LEN + renewed.token.len());
        // All the room at once: what grows leaves its old content behind.
        let mut bytes = Zeroizing::new(Vec::with_capacity(LEN + room));
        bytes.push(if self.renewed.is_some() { WITH_TICKET } else { VERSION });
        bytes.extend_from_slice(&self.anchor.epoch.0);
        bytes.extend_from_slice(&self.anchor.position.0.to_be_bytes());
        bytes.extend_from_slice(&self.anchor.covered.to_bytes());
        bytes.extend_from_slice(&self.connect_serial.to_be_bytes());
        if let Some(renewed) = &self.renewed {
            bytes.extend_from_slice(&renewed.holder);
            bytes.extend_from_slice(&renewed.expiry.as_millis().to_be_bytes());
            bytes.extend_from_slice(renewed.secret.expose());
            bytes.extend_from_slice(&renewed.token);
        }
        let sum = sha256(&[&bytes]);
        bytes.extend_from_slice(&sum[..4]);
        SecretBytes::new(bytes)
    }

    /// The reverse of [`Self::to_bytes`].
    ///
    /// # Errors
    /// [`ResumeError`] if the bytes are not whole.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, ResumeError> {
        let (body, sum) = bytes.split_last_chunk::<4>().ok_or(ResumeError)?;
        if sha256(&[body])[..4] != *sum {
            return Err(ResumeError);
        }
        let mut rest = body;
        let [version] = take(&mut rest)?;
        let anchor = Anchor {
            epoch: Epoch(take(&mut rest)?),
            position: Serial(u64::from_be_bytes(take(&mut rest)?)),
            covered: StoreSet::from_bytes(take(&mut rest)?),
        };
        let connect_serial = u64::from_be_bytes(take(&mut rest)?);
        let renewed = match version {
            VERSION if rest.is_empty() => None,
            WITH_TICKET => Some(Arc::new(Renewed {
                holder: take(&mut rest)?,
                expiry: UnixTime::from_millis(u64::from_be_bytes(take(&mut rest)?)),
                secret: Secret::new(take(&mut rest)?),
                token: rest.into(),
            })),
            _ => return Err(ResumeError),
        };
        let fits = renewed.as_ref().is_none_or(|renewed| (1..=MAX_TOKEN).contains(&renewed.token.len()));
        if fits { Ok(Self { anchor, connect_serial, renewed }) } else { Err(ResumeError) }
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
        fn it_survives(
            epoch: [u8; 8],
            position: u64,
            covered: [u8; 16],
            connect_serial: u64,
            ticket: Option<([u8; 16], u64, [u8; 32], [u8; 16])>,
        ) {
            let renewed = ticket.map(|(holder, expiry, secret, token)| {
                let (expiry, secret) = (UnixTime::from_millis(expiry), Secret::new(secret));
                Arc::new(Renewed { holder, expiry, secret, token: token.into() })
            });
            let anchor = Anchor {
                epoch: Epoch(epoch),
                position: Serial(position),
                covered: StoreSet::from_bytes(covered),
            };
            let resume = Resume { anchor, connect_serial, renewed };
            prop_assert_eq!(resume.to_bytes().len(), if ticket.is_some() { 45 + 56 + 16 } else { 45 });
            let mut bytes = resume.to_bytes().to_vec();
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
