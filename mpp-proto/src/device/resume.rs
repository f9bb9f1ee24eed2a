//! What a device keeps across restarts.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::time::Duration;

use zeroize::Zeroizing;

use super::tickets::Renewed;
use crate::crypto::{Secret, sha256};
use crate::ids::{Epoch, NetworkId, Serial, StoreSet};
use crate::keepalive::{LONGEST_SILENCE as LONGEST, Learned, MAX_NETWORKS};
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
/// application has got, the serial of its last connection, what it has learned of the last eight networks that its host
/// has named, and the newest ticket if the service gave one. No keys, no counters, nothing of a connection. With a ticket in it its bytes are a secret, to be readable by their owner only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resume {
    pub(super) anchor: Anchor,
    pub(super) connect_serial: u64,
    pub(super) renewed: Option<Arc<Renewed>>,
    /// What is known of networks, newest first.
    pub(super) learned: Vec<(NetworkId, Learned<UnixTime>)>,
}

/// Bytes that are no [`Resume`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the saved position is cut, changed, or of another version: without it the device starts anew and reports a gap"
)]
pub struct ResumeError;

/// Without a ticket, and with one. A version before these knew nothing of networks.
const VERSION: u8 = 1;
const WITH_TICKET: u8 = 2;
/// The same with networks, whose number stands in front of them; a version before these did not know until when what is
/// not known of a network.
const OLD_NETWORKS: u8 = 3;
const OLD_BOTH: u8 = 4;
const WITH_NETWORKS: u8 = 5;
const WITH_BOTH: u8 = 6;
/// Its name, the two silences in milliseconds, misses, failures, whether it is in doubt, until when the misses count, and
/// until when nothing is tried.
const NETWORK_LEN: usize = 16 + 4 + 4 + 1 + 1 + 1 + 8 + 8;
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

    /// Its bytes, with a checksum: 45 of them, and at most 345 more for networks and 312 for a ticket. They are wiped
    /// when they are dropped.
    pub fn to_bytes(&self) -> SecretBytes {
        let ticket = self.renewed.as_ref().map_or(0, |renewed| TICKET_LEN + renewed.token.len());
        let networks = &self.learned[..self.learned.len().min(MAX_NETWORKS)];
        // All the room at once: what grows leaves its old content behind.
        let mut bytes = Zeroizing::new(Vec::with_capacity(LEN + ticket + 1 + networks.len() * NETWORK_LEN));
        bytes.push(match (self.renewed.is_some(), networks.is_empty()) {
            (false, true) => VERSION,
            (true, true) => WITH_TICKET,
            (false, false) => WITH_NETWORKS,
            (true, false) => WITH_BOTH,
        });
        bytes.extend_from_slice(&self.anchor.epoch.0);
        bytes.extend_from_slice(&self.anchor.position.0.to_be_bytes());
        bytes.extend_from_slice(&self.anchor.covered.to_bytes());
        bytes.extend_from_slice(&self.connect_serial.to_be_bytes());
        if !networks.is_empty() {
            bytes.push(networks.len() as u8);
        }
        for (network, learned) in networks {
            bytes.extend_from_slice(&network.0);
            bytes.extend_from_slice(&millis(learned.proven).to_be_bytes());
            bytes.extend_from_slice(&millis(learned.disproven).to_be_bytes());
            bytes.extend_from_slice(&[learned.misses, learned.failures, u8::from(learned.doubted)]);
            bytes.extend_from_slice(&learned.misses_until.as_millis().to_be_bytes());
            bytes.extend_from_slice(&learned.not_before.as_millis().to_be_bytes());
        }
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
        let networks = match version {
            OLD_NETWORKS | OLD_BOTH | WITH_NETWORKS | WITH_BOTH => take::<1>(&mut rest)?[0],
            _ => 0,
        };
        let old = version < WITH_NETWORKS;
        let learned: Vec<_> =
            (0..networks).map(|_| take_network(&mut rest, old)).collect::<Result<_, _>>()?;
        let renewed = match version {
            VERSION | OLD_NETWORKS | WITH_NETWORKS if rest.is_empty() => None,
            WITH_TICKET | OLD_BOTH | WITH_BOTH => Some(Arc::new(Renewed {
                holder: take(&mut rest)?,
                expiry: UnixTime::from_millis(u64::from_be_bytes(take(&mut rest)?)),
                secret: Secret::new(take(&mut rest)?),
                token: rest.into(),
            })),
            _ => return Err(ResumeError),
        };
        let fits = renewed.as_ref().is_none_or(|renewed| (1..=MAX_TOKEN).contains(&renewed.token.len()));
        let fits = fits && learned.len() <= MAX_NETWORKS;
        if fits { Ok(Self { anchor, connect_serial, renewed, learned }) } else { Err(ResumeError) }
    }
}

/// A silence, of which none is longer than a few minutes.
fn millis(silence: Duration) -> u32 {
    u32::try_from(silence.as_millis()).unwrap_or(u32::MAX)
}

/// `old`: as it was written without times. Then nothing is waited for, and the misses do not count.
fn take_network(rest: &mut &[u8], old: bool) -> Result<(NetworkId, Learned<UnixTime>), ResumeError> {
    let network = NetworkId(take(rest)?);
    let mut silence =
        || take(rest).map(|ms| Duration::from_millis(u32::from_be_bytes(ms).into()).min(LONGEST));
    let (proven, disproven) = (silence()?, silence()?);
    let [misses, failures, doubted] = take(rest)?;
    let mut time = || match old {
        true => Ok(UnixTime::EPOCH),
        false => take(rest).map(|ms| UnixTime::from_millis(u64::from_be_bytes(ms))),
    };
    let (misses_until, not_before) = (time()?, time()?);
    let doubted = doubted != 0;
    Ok((network, Learned { proven, disproven, doubted, misses, failures, misses_until, not_before }))
}

fn take<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], ResumeError> {
    let (head, tail) = rest.split_first_chunk().ok_or(ResumeError)?;
    *rest = tail;
    Ok(*head)
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn it_survives(
            epoch: [u8; 8],
            position: u64,
            covered: [u8; 16],
            connect_serial: u64,
            ticket: Option<([u8; 16], u64, [u8; 32], [u8; 16])>,
            networks in proptest::collection::vec((any::<[u8; 16]>(), 0..=240_000u64, 0..=240_000u64, any::<(u8, u8, bool)>(), any::<(u64, u64)>()), 0..=8),
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
            let learned: Vec<_> = networks
                .into_iter()
                .map(|(network, proven, disproven, (misses, failures, doubted), (until, before))| {
                    let (proven, disproven) = (Duration::from_millis(proven), Duration::from_millis(disproven));
                    let (misses_until, not_before) = (UnixTime::from_millis(until), UnixTime::from_millis(before));
                    (NetworkId(network), Learned { proven, disproven, doubted, misses, failures, misses_until, not_before })
                })
                .collect();
            let len = if learned.is_empty() { 45 } else { 46 + 43 * learned.len() };
            let resume = Resume { anchor, connect_serial, renewed, learned };
            prop_assert_eq!(resume.to_bytes().len(), if ticket.is_some() { len + 56 + 16 } else { len });
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
        fn it_is_read_as_earlier_versions_wrote_it(body: [u8; 40], ticket: Option<[u8; 80]>) {
            let mut bytes = vec![if ticket.is_some() { 2 } else { 1 }];
            bytes.extend_from_slice(&body);
            bytes.extend(ticket.into_iter().flatten());
            let sum = sha256(&[&bytes]);
            bytes.extend_from_slice(&sum[..4]);
            let resume = Resume::from_bytes(&bytes).unwrap();
            prop_assert!(resume.learned.is_empty());
            prop_assert_eq!(resume.renewed.is_some(), ticket.is_some());
            prop_assert_eq!(resume.to_bytes().to_vec(), bytes);
        }

        #[test]
        fn networks_are_read_as_an_earlier_version_wrote_them(
            body: [u8; 40],
            networks in proptest::collection::vec(any::<[u8; 27]>(), 0..10),
            ticket: Option<[u8; 80]>,
        ) {
            let mut bytes = vec![if ticket.is_some() { OLD_BOTH } else { OLD_NETWORKS }];
            bytes.extend_from_slice(&body);
            bytes.push(networks.len() as u8);
            bytes.extend(networks.iter().flatten());
            bytes.extend(ticket.into_iter().flatten());
            let sum = sha256(&[&bytes]);
            bytes.extend_from_slice(&sum[..4]);
            let resume = Resume::from_bytes(&bytes);
            prop_assert_eq!(resume.is_ok(), networks.len() <= MAX_NETWORKS);
            let Ok(resume) = resume else { return Ok(()) };
            prop_assert_eq!(resume.renewed.is_some(), ticket.is_some());
            prop_assert_eq!(resume.learned.len(), networks.len());
            for ((name, learned), network) in resume.learned.iter().zip(&networks) {
                prop_assert_eq!(&name.0, &network[..16]);
                prop_assert!(learned.proven <= LONGEST && learned.disproven <= LONGEST);
                prop_assert_eq!(&[learned.misses, learned.failures], &network[24..26]);
                let now = crate::time::Instant::from_micros(7_000_000);
                let revived = learned.revive(now, UnixTime::from_millis(1));
                prop_assert_eq!((revived.misses_until, revived.not_before), (now, now), "nothing is waited for");
            }
            prop_assert_eq!(Resume::from_bytes(&resume.to_bytes()), Ok(resume));
        }

        #[test]
        fn anything_else_is_an_error_and_no_panic(bytes: Vec<u8>) {
            let _ = Resume::from_bytes(&bytes);
        }
    }
}
