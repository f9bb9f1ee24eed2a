//! The channels of a service: which there are, their logs, and the memory their payloads take together.

use alloc::collections::VecDeque;
use alloc::sync::Arc;
use core::hash::BuildHasher;

use hashbrown::HashTable;

use super::config::ServiceConfig;
use super::event::{AccountHead, PublishError};
use super::seeded::Seeded;
use crate::channel::{Delivery, Event, Limits, Log, Removed};
use crate::ids::{AccountId, Epoch, Serial};
use crate::pool::{List, NIL, Slab};
use crate::random::Rng;
use crate::time::Instant;

/// A channel and its devices.
#[derive(Clone, Debug, Default)]
pub(super) struct Account {
    pub(super) id: AccountId,
    pub(super) epoch: Epoch,
    /// The devices with a record, half-open ones too.
    pub(super) devices: List,
    /// Its log; an account without events has none.
    log: u32,
    /// Connected devices: what is published is owed to each.
    live: u32,
    /// Who gives its events their serials.
    writer: Writer,
    /// Whether its devices wait to be looked at because of a new event.
    pub(super) dirty: bool,
    /// Whether one of the new events is of high urgency.
    pub(super) urgent: bool,
    /// Whether the host has to be told of the epoch.
    untold: bool,
}

const _: () = assert!(size_of::<Account>() <= 64);

/// A channel has one writer: two that give serials would give the same one twice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Writer {
    /// Nothing was written since the start.
    #[default]
    Nobody,
    /// The service: the log is in memory.
    Service,
    /// The host: the log is its own.
    Host,
}

/// All channels.
#[derive(Debug)]
pub(super) struct Accounts {
    config: Arc<ServiceConfig>,
    slab: Slab<Account>,
    /// Those whose epoch the host has to be told of, each once.
    untold: VecDeque<u32>,
    /// Index by id. The hash is seeded, though the ids are hashes already: whoever may name accounts could choose
    /// them.
    directory: HashTable<u32>,
    hasher: Seeded,
    logs: Slab<Log>,
    empty: Log,
    /// Payload bytes in all rings.
    bytes: usize,
    /// Events in all rings in the order they came, some of them gone already.
    order: VecDeque<(u32, Serial)>,
    /// Events in all rings.
    events: usize,
    /// What ended otherwise than by delivery.
    pub(super) removed: Removed,
    /// What became of each event for each device.
    pub(super) books: Delivery,
}

impl Accounts {
    pub(super) fn new(config: Arc<ServiceConfig>, rng: &mut Rng) -> Self {
        Self {
            slab: Slab::new(config.accounts),
            untold: VecDeque::new(),
            logs: Slab::new(config.accounts),
            directory: HashTable::new(),
            hasher: Seeded::new(rng),
            empty: Log::default(),
            bytes: 0,
            order: VecDeque::new(),
            events: 0,
            removed: Removed::default(),
            books: Delivery::default(),
            config,
        }
    }

    /// The hash that its directory uses, for other tables: one seed does for all.
    pub(super) const fn hasher(&self) -> Seeded {
        self.hasher
    }

    pub(super) fn find(&self, id: &AccountId) -> Option<u32> {
        self.directory.find(self.hasher.hash_one(id), |i| self.slab[*i].id == *id).copied()
    }

    /// Opens a channel, or takes its history as the host tells it.
    pub(super) fn open(&mut self, head: &AccountHead, rng: &mut Rng) -> Result<u32, PublishError> {
        if let Some(index) = self.find(&head.account) {
            let is = self.head(index);
            let other = head.epoch.is_some_and(|epoch| is.epoch != Some(epoch) || is.newest != head.newest);
            return if other { Err(PublishError::Open { newest: is.newest }) } else { Ok(index) };
        }
        within(head.newest)?;
        let full = PublishError::Capacity { limit: self.config.accounts };
        let log = match head.newest {
            Serial::ZERO => NIL,
            newest => self.logs.insert(Log::restored(newest)).ok_or(full)?,
        };
        let epoch = head.epoch.unwrap_or_default();
        let account = Account { id: head.account, epoch, log, ..Account::default() };
        let Some(index) = self.slab.insert(account) else {
            self.logs.remove(log);
            return Err(full);
        };
        let (hasher, slab) = (&self.hasher, &self.slab);
        self.directory.insert_unique(hasher.hash_one(head.account), index, |i| hasher.hash_one(slab[*i].id));
        if head.epoch.is_none() {
            self.begin_epoch(index, rng);
        }
        Ok(index)
    }

    pub(super) fn get(&self, index: u32) -> &Account {
        &self.slab[index]
    }

    pub(super) fn get_mut(&mut self, index: u32) -> &mut Account {
        &mut self.slab[index]
    }

    pub(super) const fn len(&self) -> u32 {
        self.slab.len()
    }

    /// Payload bytes in all rings.
    pub(super) const fn bytes(&self) -> usize {
        self.bytes
    }

    /// The log of a channel.
    pub(super) fn log(&self, index: u32) -> &Log {
        self.logs.get(self.slab[index].log).unwrap_or(&self.empty)
    }

    /// The log of a channel, made if it has none yet.
    pub(super) fn log_mut(&mut self, index: u32) -> Result<&mut Log, PublishError> {
        let at = self.log_index(index)?;
        Ok(&mut self.logs[at])
    }

    fn log_index(&mut self, index: u32) -> Result<u32, PublishError> {
        let account = &mut self.slab[index];
        if account.log == NIL {
            let full = PublishError::Capacity { limit: self.config.accounts };
            account.log = self.logs.insert(Log::default()).ok_or(full)?;
        }
        Ok(account.log)
    }

    pub(super) fn head(&self, index: u32) -> AccountHead {
        let account = self.get(index);
        AccountHead::restored(account.id, account.epoch, self.log(index).newest())
    }

    /// Begins the history of a channel. If there was one it turned out to be lost: what devices know of it counts no more.
    pub(super) fn begin_epoch(&mut self, index: u32, rng: &mut Rng) {
        let account = &mut self.slab[index];
        account.epoch = draw_epoch(rng);
        if !core::mem::replace(&mut account.untold, true) {
            self.untold.push_back(index);
        }
    }

    /// The next epoch that the host has not been told of.
    pub(super) fn untold_epoch(&mut self) -> Option<(AccountId, Epoch)> {
        let account = &mut self.slab[self.untold.pop_front()?];
        account.untold = false;
        Some((account.id, account.epoch))
    }

    /// Appends an event that has been checked, and keeps the limits of all rings.
    pub(super) fn append(
        &mut self,
        now: Instant,
        index: u32,
        event: Event,
        writer: Writer,
    ) -> Result<Serial, PublishError> {
        let known = self.slab[index].writer;
        if known != Writer::Nobody && known != writer {
            return Err(PublishError::Writers { host: known == Writer::Host });
        }
        within(self.log(index).newest().next())?;
        let at = self.log_index(index)?;
        let limits = Limits { events: self.config.ring_events, bytes: self.config.ring_bytes };
        let urgent = event.urgency == crate::channel::Urgency::High;
        let wakes = event.urgency.wakes();
        let size = event.payload.as_ref().map(bytes::Bytes::len);
        let (serial, removed) = self.logs[at].append(now, event, limits);
        if let Some(size) = size {
            self.bytes += size;
            self.events += 1;
            self.order.push_back((at, serial));
        }
        self.note(&removed);
        self.hold_total(now);
        let account = &mut self.slab[index];
        account.urgent |= urgent;
        account.dirty |= wakes;
        account.writer = writer;
        self.books.owed = self.books.owed.wrapping_add(account.live.into());
        Ok(serial)
    }

    /// The host has lost the serials up to here.
    pub(super) fn skip(&mut self, index: u32, upto: Serial) -> Result<(), PublishError> {
        within(upto)?;
        let count = self.log_mut(index)?.skip_to(upto);
        let owed = count.wrapping_mul(u64::from(self.slab[index].live));
        self.books.owed = self.books.owed.wrapping_add(owed);
        Ok(())
    }

    /// If the history of a channel has grown, forgets what nobody needs; `told` says up to where every connected device
    /// has been told.
    pub(super) fn forget(&mut self, index: u32, told: impl FnOnce() -> Option<Serial>) {
        if let Some(log) = self.logs.get_mut(self.slab[index].log) {
            log.forget(told);
        }
    }

    /// A device that has been told up to here is connected: it is owed the rest.
    pub(super) fn joined(&mut self, index: u32, told: Serial) {
        self.slab[index].live += 1;
        let owed = self.log(index).newest().0 - told.0;
        self.books.owed = self.books.owed.wrapping_add(owed);
    }

    /// It is not connected any more: the rest it is owed the next time.
    pub(super) fn left(&mut self, index: u32, told: Serial) {
        self.slab[index].live -= 1;
        let left = self.log(index).newest().0 - told.0;
        self.books.abandoned = self.books.abandoned.wrapping_add(left);
    }

    fn note(&mut self, removed: &Removed) {
        self.bytes -= removed.bytes;
        self.events -= usize::try_from(removed.events()).unwrap_or(0);
        self.removed.superseded += removed.superseded;
        self.removed.expired += removed.expired;
        self.removed.dropped += removed.dropped;
        self.removed.crowded += removed.crowded;
    }

    /// Drops the oldest events of all channels until their payloads fit into what all may take together.
    fn hold_total(&mut self, now: Instant) {
        while self.bytes > self.config.ring_bytes_total {
            let Some((at, serial)) = self.order.front().copied() else { break };
            let log = &mut self.logs[at];
            let mut removed = Removed::default();
            if log.oldest() == Some(serial) {
                // What has outlived its time is in the way, but it is no loss.
                removed = log.expire(now);
                if removed.events() == 0 {
                    log.drop_oldest(&mut removed);
                }
            }
            if log.oldest() != Some(serial) {
                self.order.pop_front();
            }
            self.note(&removed);
        }
        // Names of events that are gone are swept out once they are the majority.
        if self.order.len() > 1024 + 2 * self.events {
            let logs = &self.logs;
            self.order.retain(|(log, serial)| logs[*log].holds(*serial));
        }
    }
}

fn draw_epoch(rng: &mut Rng) -> Epoch {
    loop {
        let epoch = Epoch(rng.array());
        if epoch != Epoch::NONE {
            return epoch;
        }
    }
}

/// A serial that no packet could carry is a mistake of the host.
fn within(serial: Serial) -> Result<(), PublishError> {
    if serial <= Serial::MAX { Ok(()) } else { Err(PublishError::Serial { got: serial }) }
}

#[cfg(test)]
mod tests {
    use core::time::Duration;
    use std::vec;

    use super::*;
    use crate::channel::CollapseKey;
    use crate::crypto::ServiceSecret;
    use crate::ids::{StoreId, StoreSet};
    use crate::random::Seed;

    const NOW: Instant = Instant::from_micros(5_000_000);

    /// The channels of a service with these limits, and one of them.
    fn accounts(limit: impl FnOnce(&mut ServiceConfig)) -> (Accounts, u32) {
        let mut config = ServiceConfig::new(ServiceSecret::new([9; 32]), vec![]);
        limit(&mut config);
        let mut rng = Rng::new(Seed::new([1; 32]));
        let mut accounts = Accounts::new(config.into(), &mut rng);
        let alice = accounts.open(&AccountHead::new(AccountId::of("alice")), &mut rng).unwrap();
        (accounts, alice)
    }

    fn event(size: usize) -> Event {
        Event::with_payload(StoreId::INBOUND, vec![0; size].into())
    }

    // SPEC: R-ring-order
    /// One event stays, so that what is replaced after it is never older than all that waits.
    #[test]
    fn the_order_of_events_forgets_what_is_gone() {
        let (mut accounts, alice) = accounts(|_| ());
        accounts.append(NOW, alice, event(5), Writer::Service).unwrap();
        for _ in 0..5000 {
            let mut value = event(1);
            value.key = Some(CollapseKey::new(b"k").unwrap());
            accounts.append(NOW, alice, value, Writer::Service).unwrap();
            assert!(accounts.order.len() <= 1024 + 2 * 2, "{}", accounts.order.len());
        }
        assert_eq!((accounts.events, accounts.bytes), (2, 6));
    }

    // SPEC: R-expired-no-gap
    #[test]
    fn what_has_outlived_its_time_is_not_pushed_out() {
        let (mut accounts, alice) = accounts(|config| config.ring_bytes_total = 20_000);
        let bob = AccountHead::new(AccountId::of("bob"));
        let bob = accounts.open(&bob, &mut Rng::new(Seed::new([2; 32]))).unwrap();
        let later = NOW + Duration::from_secs(60);
        let append = |accounts: &mut Accounts, at, account, event| {
            accounts.append(at, account, event, Writer::Service).unwrap();
        };
        append(&mut accounts, NOW, alice, event(10_000).ttl(Duration::from_secs(5)));
        append(&mut accounts, NOW, alice, event(2000));
        // Alice's ring is not looked at before this one needs its room.
        append(&mut accounts, later, bob, event(12_000));
        let Removed { expired, dropped, .. } = accounts.removed;
        assert_eq!((expired, dropped, accounts.bytes), (1, 0, 14_000));
        let lost = accounts.log(alice).lost(Serial::ZERO, StoreSet::ALL, StoreSet::ALL);
        assert!(lost.is_empty(), "{lost:?}");
        append(&mut accounts, later, bob, event(8000));
        assert_eq!(
            (accounts.removed.dropped, accounts.bytes),
            (1, 20_000),
            "the one that lives goes when it has to"
        );
    }
}
