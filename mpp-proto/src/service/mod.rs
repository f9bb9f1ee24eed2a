//! The service: everything that happens on its port, for one shard of its accounts.

mod accounts;
mod admission;
mod beside;
mod binding;
mod config;
mod event;
mod exchange;
mod limits;
mod notify;
mod outbox;
mod packet;
mod paths;
mod posts;
mod probes;
mod record;
mod refusal;
mod renewal;
mod revoke;
mod seeded;
mod send;
mod shard;
mod stats;
#[cfg(test)]
mod tests;
mod timers;
mod web;
mod width;

use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::num::NonZeroUsize;
use core::time::Duration;

pub use config::{AccountPolicy, DeferPolicy, ForeignPosts, OwnPosts, ServiceConfig};
pub use event::{AccountHead, CloseReason, DeviceState, DeviceStatus, PostError, PublishError, ServiceEvent};
pub use limits::Rate;
pub use posts::{PostAnswer, PostHandle};
pub use refusal::RefusalReason;
pub use shard::{Route, Router};
pub use stats::ServiceStats;
pub use web::{WebId, WebRequest};

use accounts::{Accounts, Writer};
use admission::Admission;
use beside::SideTable;
use limits::{Pace, Strangers};
use notify::Sending;
use outbox::Outbox;
use paths::Validation;
use posts::Posts;
use probes::Probe;
use record::{State, Table, flag};
use revoke::Revocations;
use shard::Layout;
use web::Web;

use crate::batch::TransmitBatch;
use crate::channel::Event;
use crate::crypto::{Cookies, HedgeKey, Identifiers, TicketKey};
use crate::ids::{AccountId, DeviceId, Epoch, Serial, ShardId};
use crate::path::{Datagram, Disposition, DropReason};
use crate::pool::{List, Slab};
use crate::random::{Rng, Seed};
use crate::time::{Calendar, Instant, UnixTime};
use crate::wakeup::{TimerKind, Wakeup};
use crate::wheel::{Wheel, instant_of, tick_floor};
use crate::wire::{Code, Kind, classify_service, is_binding_head};

/// Whether a bounded piece of work is done.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Nothing more is due.
    Done,
    /// The budget ran out before the work: call again.
    More,
}

/// One shard of a service: the devices of its accounts, their channels, and what is on its way to them.
///
/// It does no I/O and reads no clock. The host calls, in any order and as often as it likes,
/// [`handle_datagrams`](Self::handle_datagrams) with what its sockets received and
/// [`handle_timeout`](Self::handle_timeout) when [`poll_timeout`](Self::poll_timeout) says so; after each, and after
/// [`publish`](Self::publish), it takes [`poll_transmit`](Self::poll_transmit) until that gives nothing, and
/// [`poll_event`](Self::poll_event) likewise. `now` never goes back.
///
/// A host that serves HTTP gives [`handle_web_request`](Self::handle_web_request) the requests of devices whose networks
/// let no UDP through, [`handle_web_closed`](Self::handle_web_closed) those whose clients have hung up, and takes
/// [`poll_web`](Self::poll_web) with the rest.
pub struct Service {
    /// The latest time the host named.
    now: Instant,
    /// The latest time by which everything due was done: what the wheel's ticks are counted from.
    handled: Instant,
    config: Arc<ServiceConfig>,
    shard: ShardId,
    layout: Layout,
    rng: Rng,
    calendar: Calendar,
    cookies: Cookies,
    hedge: HedgeKey,
    identifiers: Identifiers,
    ticket_keys: Vec<TicketKey>,
    table: Table,
    accounts: Accounts,
    wheel: Wheel,
    sendings: Slab<Sending>,
    validations: SideTable<Validation>,
    posts: Posts,
    probes: SideTable<Probe>,
    web: Web,
    /// Records with something to send.
    ready: List,
    /// Accounts whose devices have to be looked at.
    dirty: VecDeque<u32>,
    outbox: Outbox,
    /// Records whose events the host has not taken.
    events: VecDeque<u32>,
    /// Records whose position moved.
    positions: VecDeque<u32>,
    revocations: Revocations,
    half_open: u32,
    /// Answers in clear to packets that prove nothing: by source, and all.
    hints: Strangers,
    bindings: Strangers,
    admission: Admission,
    /// Everything that is sent.
    pace: Pace,
    stats: ServiceStats,
    closed: bool,
    retry_after: Duration,
}

impl Service {
    /// An empty shard: number `shard` of [`ServiceConfig::shards`] (one that is not among them has no accounts and hands
    /// everything over). `seed` comes from the operating system's generator and is used once, for this shard alone;
    /// `clock` is the civil time at `now`.
    pub fn new(
        config: Arc<ServiceConfig>,
        shard: ShardId,
        seed: Seed,
        now: Instant,
        clock: UnixTime,
    ) -> Self {
        let mut rng = Rng::new(seed);
        let layout = Layout::new(&config);
        let config = config.of_one_shard();
        let capacity = config.capacity.min(crate::crypto::ConnectionId::MAX_SLOT);
        let table = Table::new(capacity, u16::from_be_bytes(rng.array()));
        let accounts = Accounts::new(Arc::clone(&config), &mut rng);
        Self {
            now,
            handled: now,
            shard,
            layout,
            calendar: Calendar::new(now, clock),
            cookies: Cookies::new(&config.secret),
            hedge: HedgeKey::new(&config.secret),
            identifiers: Identifiers::new(&config.secret),
            ticket_keys: config.ticket_keys.clone(),
            table,
            wheel: Wheel::new(tick_floor(now)),
            sendings: Slab::new(capacity),
            validations: SideTable::new(capacity),
            posts: Posts::default(),
            probes: SideTable::new(config.probes),
            web: Web::new(capacity, config.web_requests),
            ready: List::default(),
            dirty: VecDeque::new(),
            outbox: Outbox::default(),
            events: VecDeque::new(),
            positions: VecDeque::new(),
            revocations: Revocations::default(),
            half_open: 0,
            hints: Strangers::new(config.hints_per_prefix, config.hints, accounts.hasher(), now),
            bindings: Strangers::new(config.stun_per_prefix, config.stun_total, accounts.hasher(), now),
            admission: Admission::new(&config, now, accounts.hasher()),
            accounts,
            pace: Pace::new(config.output, now),
            stats: ServiceStats::default(),
            closed: false,
            retry_after: Duration::ZERO,
            rng,
            config,
        }
    }

    /// Whether a packet that begins with these bytes (16 are enough) could be for this service: for a socket shared
    /// with foreign traffic. Cheap, and says yes to about one foreign packet in 2^32.
    pub fn recognizes(&self, first_bytes: &[u8]) -> bool {
        match first_bytes.first_chunk::<16>() {
            Some([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]) => true,
            Some(head) if is_binding_head(head) => self.config.stun,
            Some(identifier) => self.identifiers.open(identifier).is_some(),
            None => false,
        }
    }

    /// Takes received datagrams. `dispositions` is cleared and gets one entry for each, in order.
    pub fn handle_datagrams(
        &mut self,
        now: Instant,
        batch: &mut [Datagram<'_>],
        dispositions: &mut Vec<Disposition>,
    ) {
        dispositions.clear();
        // What is due comes first, so that the order of things does not depend on how often the host calls.
        while self.handle_timeout(now, NonZeroUsize::MAX) == Progress::More {}
        for datagram in batch {
            let datagram = Datagram { path: datagram.path, payload: &mut *datagram.payload };
            let size = datagram.payload.len() as u64;
            let disposition = match classify_service(datagram.payload) {
                // The name of a path that no socket has.
                _ if datagram.path.is_web() => Disposition::Dropped(DropReason::OtherTransport),
                Kind::Step1 => self.handle_step1(now, datagram),
                Kind::Data => self.handle_data(now, datagram),
                Kind::Stun => self.handle_binding(now, &datagram),
                Kind::None => Disposition::NotForUs,
            };
            self.tally(disposition, size);
            dispositions.push(disposition);
        }
    }

    /// Counts a packet that came.
    fn tally(&mut self, disposition: Disposition, size: u64) {
        match disposition {
            Disposition::Dropped(reason) => self.stats.dropped[reason as usize] += 1,
            Disposition::NotForUs => self.stats.foreign += 1,
            Disposition::OtherNode(_) => self.stats.other_node += 1,
            Disposition::OtherShard(_) => self.stats.other_shard += 1,
            Disposition::Accepted => {}
        }
        // What is handed over counts where it is taken in.
        if !matches!(disposition, Disposition::OtherShard(_)) {
            self.stats.packets_received += 1;
            self.stats.bytes_received += size;
        }
    }

    /// Corrects the civil clock: `clock` is the time at `now`.
    pub fn set_clock(&mut self, now: Instant, clock: UnixTime) {
        self.calendar = Calendar::new(now, clock);
    }

    /// Takes other ticket keys from now on: the first seals, all open. Tickets of a key that is not there any more are
    /// refused like any that the service cannot open; connections made with them live on until they end or are
    /// [revoked](Self::revoke). An empty list lets nobody in. Devices with tickets of other keys than the first are given
    /// new ones, so add a key to all nodes of a cluster before it becomes the first on one.
    pub fn set_ticket_keys(&mut self, keys: Vec<TicketKey>) {
        self.ticket_keys = keys;
    }

    /// Opens a channel, with its history if it has one. A channel that is open already is left as it is.
    ///
    /// The history of a channel is its epoch and its events, and a host that keeps one keeps both. The service draws the epoch
    /// if `head` names none, and another one if a device shows that the host has lost events, a restored backup say:
    /// [`ServiceEvent::Epoch`] names each. The host makes it durable before its log takes the channel's next event, and restores
    /// the channel with the last one it was told of.
    ///
    /// # Errors
    /// [`PublishError::Capacity`] if the table of channels is full; [`PublishError::OtherShard`]; [`PublishError::Serial`];
    /// [`PublishError::Open`] if the channel is open with another history: a device was faster than the host.
    pub fn restore(&mut self, head: AccountHead) -> Result<(), PublishError> {
        self.own(&head.account)?;
        self.accounts.open(&head, &mut self.rng).map(|_| ())
    }

    /// Epoch and newest serial of a channel.
    pub fn head(&self, account: &AccountId) -> Option<AccountHead> {
        self.accounts.find(account).map(|index| self.accounts.head(index))
    }

    /// Publishes an event; the channel's next serial is its number. For hosts that keep the log in memory: at every
    /// start each channel begins a new epoch. A channel to which events were [delivered](Self::deliver) takes none.
    ///
    /// # Errors
    /// Names the limit the event breaks, or what is missing.
    pub fn publish(
        &mut self,
        now: Instant,
        account: &AccountId,
        event: Event,
    ) -> Result<Serial, PublishError> {
        self.publish_as(now, account, event, Writer::Service)
    }

    fn publish_as(
        &mut self,
        now: Instant,
        account: &AccountId,
        event: Event,
        writer: Writer,
    ) -> Result<Serial, PublishError> {
        event.check()?;
        if self.closed {
            return Err(PublishError::Closed);
        }
        let index = self.channel(account)?;
        self.append(now, index, event, writer)
    }

    /// Delivers an event that the host's own log has made durable under `serial`. Serials follow each other without
    /// holes; see [`skip`](Self::skip) for those that the host has lost.
    ///
    /// # Errors
    /// [`PublishError::Hole`] unless `serial` is the next one; else as [`publish`](Self::publish).
    pub fn deliver(
        &mut self,
        now: Instant,
        account: &AccountId,
        serial: Serial,
        event: Event,
    ) -> Result<(), PublishError> {
        let index = self.channel(account)?;
        let newest = self.accounts.log(index).newest();
        if serial != newest.next() {
            return Err(PublishError::Hole { newest, got: serial });
        }
        self.publish_as(now, account, event, Writer::Host).map(|_| ())
    }

    /// Declares all serials up to and including `upto` lost: devices that have not been told of them are told of a
    /// gap in every store.
    ///
    /// # Errors
    /// [`PublishError::UnknownAccount`], [`PublishError::Capacity`], [`PublishError::Serial`].
    pub fn skip(&mut self, account: &AccountId, upto: Serial) -> Result<(), PublishError> {
        let index = self.channel(account)?;
        self.accounts.skip(index, upto)?;
        if !core::mem::replace(&mut self.accounts.get_mut(index).dirty, true) {
            self.dirty.push_back(index);
        }
        Ok(())
    }

    /// The channel of an account of this shard.
    fn channel(&self, account: &AccountId) -> Result<u32, PublishError> {
        self.own(account)?;
        self.accounts.find(account).ok_or(PublishError::UnknownAccount)
    }

    /// That an account lives here.
    fn own(&self, account: &AccountId) -> Result<(), PublishError> {
        match self.layout.shard_of(account) {
            shard if shard == self.shard => Ok(()),
            shard => Err(PublishError::OtherShard { shard }),
        }
    }

    fn append(
        &mut self,
        now: Instant,
        index: u32,
        event: Event,
        writer: Writer,
    ) -> Result<Serial, PublishError> {
        let was_dirty = self.accounts.get(index).dirty;
        let serial = self.accounts.append(now, index, event, writer)?;
        self.stats.published += 1;
        if !was_dirty && self.accounts.get(index).dirty {
            self.dirty.push_back(index);
        }
        let Self { accounts, table, .. } = self;
        let first = accounts.get(index).devices.front();
        accounts.forget(index, || {
            let devices = core::iter::successors(first, |slot| table.owner[*slot].sibling.next());
            devices.filter(|slot| table.hot[*slot].is_live()).map(|slot| table.ids[slot].told).min()
        });
        Ok(serial)
    }

    /// What connected devices are owed and have not been told, counted device by device: the other side of the books
    /// in [`ServiceStats::delivery`]. [`Delivery::outstanding`](crate::Delivery::outstanding) says the same, or an
    /// event went somewhere unexplained. Takes time for every record.
    pub fn pending(&self) -> u64 {
        let live = (0..self.table.hot.len()).filter(|slot| self.table.hot[*slot].is_live());
        live.map(|slot| {
            let newest = self.accounts.log(self.table.owner[slot].account).newest();
            newest.0 - self.table.ids[slot].told.0
        })
        .fold(0, u64::wrapping_add)
    }

    /// The connected devices of an account.
    pub fn devices(&self, now: Instant, account: &AccountId) -> impl Iterator<Item = DeviceStatus> + '_ {
        let account = self.accounts.find(account);
        account.into_iter().flat_map(|a| self.devices_of(a)).filter_map(move |slot| {
            let hot = &self.table.hot[slot];
            let state = match hot.state {
                State::Connected => DeviceState::Connected,
                State::Overdue1 => DeviceState::Overdue1,
                State::Overdue2 => DeviceState::Overdue2,
                _ => return None,
            };
            Some(DeviceStatus {
                device: self.table.owner[slot].device,
                state,
                path: self.table.path(slot),
                silent: now.since(self.table.heard(slot, now)),
                connected: now.since(Instant::from_micros(self.table.owner[slot].since.get() * 1000)),
                told: self.table.ids[slot].told,
                position: self.table.open[slot].position,
                rtt: hot.rtt.smoothed(),
            })
        })
    }

    /// The records of an account, oldest first.
    fn devices_of(&self, account: u32) -> impl Iterator<Item = u32> + '_ {
        let first = self.accounts.get(account).devices.front();
        core::iter::successors(first, |slot| self.table.owner[*slot].sibling.next())
    }

    /// Hands over up to `max` positions that have moved since they were last drained.
    pub fn drain_positions(&mut self, max: usize, mut sink: impl FnMut(AccountId, DeviceId, Epoch, Serial)) {
        for _ in 0..max {
            let Some(slot) = self.positions.pop_front() else { break };
            let hot = &mut self.table.hot[slot];
            if !hot.has(flag::POSITION) {
                continue;
            }
            hot.clear(flag::POSITION);
            // Free, or of a connection that is not confirmed: the position that moved was told when the record before
            // it closed.
            if matches!(hot.state, State::Free | State::HalfOpen) {
                continue;
            }
            let owner = &self.table.owner[slot];
            let account = self.accounts.get(owner.account);
            sink(account.id, owner.device, account.epoch, self.table.open[slot].position);
        }
    }

    /// Closes every connection with 503 and takes no new ones. Each device is asked to come back after a time drawn
    /// between zero and `spread`, so that they do not all come at once.
    pub fn close(&mut self, now: Instant, spread: Duration) {
        self.closed = true;
        self.retry_after = spread;
        for slot in 0..self.table.hot.len() {
            if self.table.hot[slot].is_live() {
                self.close_record(now, slot, CloseReason::ByService(Code::UNAVAILABLE));
            }
        }
    }

    /// A moment to come back at, if the service is closing.
    fn retry_after(&mut self) -> Duration {
        self.rng.duration(Duration::ZERO, self.retry_after)
    }

    /// Whether it was closed and every farewell has been handed out.
    pub fn is_drained(&self) -> bool {
        self.closed && self.outbox.is_empty() && self.web.is_drained()
    }

    /// Counters since the start, and gauges.
    pub fn stats(&self) -> ServiceStats {
        ServiceStats {
            half_open: u64::from(self.half_open),
            records: u64::from(self.table.len()),
            accounts: u64::from(self.accounts.len()),
            ring_bytes: self.accounts.bytes() as u64,
            superseded: self.accounts.removed.superseded,
            expired: self.accounts.removed.expired,
            overflowed: self.accounts.removed.dropped,
            crowded: self.accounts.removed.crowded,
            delivery: self.accounts.books,
            posts_waiting: self.posts.len() as u64,
            probes_waiting: u64::from(self.probes.len()),
            web_held: self.web.held() as u64,
            ..self.stats
        }
    }

    /// Adds packets to `batch` until it is full or nothing is left to send now; returns how many transmissions it
    /// added. Takes time for what it sends only.
    pub fn poll_transmit(&mut self, now: Instant, batch: &mut TransmitBatch) -> usize {
        self.fill(now, batch)
    }

    /// The next event. Events are flags in the records of the devices and channels: however many devices come and go, none
    /// is lost and no queue fills up.
    pub fn poll_event(&mut self) -> Option<ServiceEvent> {
        if let Some((account, epoch)) = self.accounts.untold_epoch() {
            return Some(ServiceEvent::Epoch { account, epoch });
        }
        while let Some(slot) = self.events.pop_front() {
            if let Some(event) = self.event_of(slot) {
                return Some(event);
            }
        }
        self.post_event()
    }

    /// When [`handle_timeout`](Self::handle_timeout) is due.
    pub fn poll_timeout(&self) -> Option<Wakeup> {
        let wheel = self
            .wheel
            .next()
            .map(|tick| Wakeup { at: instant_of(tick, self.handled), reason: TimerKind::Wheel });
        let pace = self.pace.deadline().map(|at| Wakeup { at, reason: TimerKind::Pace });
        Wakeup::earliest(wheel, pace)
    }
}

impl fmt::Debug for Service {
    // Its parts hold keys and payloads.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Service")
            .field("shard", &self.shard)
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}
