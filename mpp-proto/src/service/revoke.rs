//! Tickets that are not taken any more (SPEC.md, "Tickets").

use alloc::vec::Vec;

use hashbrown::HashTable;

use super::Service;
use super::event::CloseReason;
use crate::ids::{AccountId, DeviceId};
use crate::time::{Instant, UnixTime};
use crate::wire::Code;

/// One device's tickets issued before a time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Revocation {
    pub(super) account: AccountId,
    pub(super) device: DeviceId,
    pub(super) before: UnixTime,
}

/// The list, which the host keeps and hands over at every start.
#[derive(Debug, Default)]
pub(super) struct Revocations(HashTable<Revocation>);

impl Revocations {
    /// Whether a ticket issued at `issued` is revoked.
    pub(super) fn contains(&self, account: &AccountId, device: &DeviceId, issued: UnixTime) -> bool {
        let known = self.0.find(hash(account, device), |r| r.account == *account && r.device == *device);
        known.is_some_and(|r| issued < r.before)
    }

    pub(super) fn add(&mut self, revocation: Revocation) {
        let Revocation { account, device, before } = revocation;
        let same = |r: &Revocation| r.account == account && r.device == device;
        match self.0.find_mut(hash(&account, &device), same) {
            Some(known) => known.before = known.before.max(before),
            None => {
                self.0.insert_unique(hash(&account, &device), revocation, |r| hash(&r.account, &r.device));
            }
        }
    }
}

/// Only the host names what is revoked; the account's id is a hash already.
fn hash(account: &AccountId, device: &DeviceId) -> u64 {
    let (a, _) = account.0.split_first_chunk().unwrap_or((&[0; 8], &[]));
    let (d, _) = device.0.split_first_chunk().unwrap_or((&[0; 8], &[]));
    (u64::from_le_bytes(*a) ^ u64::from_le_bytes(*d).rotate_left(32)).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

impl Service {
    /// Takes no ticket of this device any more that was issued before `before`, and closes its connection: with a newer
    /// ticket it is back at once. The host keeps the list and repeats it after a restart, until the tickets have expired.
    pub fn revoke(&mut self, now: Instant, account: &AccountId, device: DeviceId, before: UnixTime) {
        self.revocations.add(Revocation { account: *account, device, before });
        let Some(account) = self.accounts.find(account) else { return };
        if let Some(slot) = self.connection_of(account, &device) {
            self.close_record(now, slot, CloseReason::ByService(Code::TIMEOUT));
        }
        // One that is half open would be confirmed later, under the ticket that is revoked.
        let half_open: Vec<_> = self.half_open_of(account, &device).collect();
        half_open.into_iter().for_each(|slot| self.end(slot, None));
    }
}
