//! The judgement.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use mpp_proto::{Instant, StoreId, StoreSet, UnixTime};

use super::{Channel, End, Fault, Posted, Seen, Sight, Tally};

/// How much later than its posting a device may have connected and still be given an event that was only for devices
/// connected at the time: the service takes a device for connected before the device does.
const CONNECTING: Duration = Duration::from_secs(10);

/// Judges what one device's application saw of a channel, in the order in which it saw it.
///
/// # Errors
/// Every fault, in the order in which they were found: first those of what came, then the events that did not.
pub fn judge(channel: &Channel, seen: &[Seen], end: &End) -> Result<Tally, Vec<Fault>> {
    let mut judge = Judge::new(channel, end);
    for one in seen {
        judge.look(one);
    }
    if end.connected {
        judge.close();
    } else {
        judge.tally.delivered = judge.given.len() as u64;
    }
    if judge.faults.is_empty() { Ok(judge.tally) } else { Err(judge.faults) }
}

/// A time in which a filter was, or may have been, in force.
struct Filter {
    stores: StoreSet,
    from: Instant,
    /// `None`: still.
    to: Option<Instant>,
}

/// An announcement about whole stores.
struct Announced {
    stores: StoreSet,
    at: Instant,
    generation: usize,
    position: u64,
}

struct Judge<'a> {
    channel: &'a Channel,
    end: &'a End,
    tally: Tally,
    faults: Vec<Fault>,
    filters: Vec<Filter>,
    /// Events given and not forgotten: (generation, serial).
    given: BTreeSet<(usize, u64)>,
    gaps: Vec<Announced>,
    changes: Vec<Announced>,
    /// Generations of which the device knew.
    known: BTreeSet<usize>,
    /// The highest position given in this life, and its generation.
    high: Option<(usize, u64)>,
    /// What the application has surely dealt with.
    taken: u64,
    /// `taken` when the present connection began: what it can have told the service at most.
    resumed_from: u64,
    connected_at: Option<Instant>,
    /// The first connection of a device that has kept nothing: whatever was before may be announced as lost.
    fresh: bool,
    /// It asked for other stores at some time: whatever was not covered may be announced as lost.
    refiltered: bool,
    started_at: Instant,
}

impl<'a> Judge<'a> {
    fn new(channel: &'a Channel, end: &'a End) -> Self {
        Self {
            channel,
            end,
            tally: Tally::default(),
            faults: Vec::new(),
            filters: Vec::new(),
            given: BTreeSet::new(),
            gaps: Vec::new(),
            changes: Vec::new(),
            known: BTreeSet::new(),
            high: None,
            taken: 0,
            resumed_from: 0,
            connected_at: None,
            fresh: true,
            refiltered: false,
            started_at: Instant::ZERO,
        }
    }

    fn look(&mut self, seen: &Seen) {
        let at = seen.at;
        match &seen.sight {
            Sight::Started(kept) => self.start(at, kept.as_ref().map(|(e, p)| (e, *p))),
            Sight::Asked(stores) => self.ask(at, *stores),
            Sight::Confirmed => self.confirm(at),
            Sight::Connected => {
                self.known.insert(self.channel.generation_at(at));
                if self.filters.last().is_some_and(|f| f.from == self.started_at) {
                    // Connect carried this filter; one that was asked for since may or may not be in force.
                    self.confirm(at);
                }
                self.fresh &= self.connected_at.is_none() || self.taken == 0;
                self.resumed_from = self.taken;
                self.connected_at = Some(at);
            }
            Sight::Taken(position) => self.taken = *position,
            Sight::Event { serial, position, store, expires, key, payload } => {
                let posted = self.find(at, *serial, *store, key.as_deref(), payload);
                match posted {
                    None => self.faults.push(Fault::Forged { at, serial: *serial }),
                    Some(posted) => self.event(seen, posted, *position, *expires),
                }
            }
            Sight::Changed { stores, position } => {
                if !stores.iter().all(|s| self.posted_by(at).any(|p| p.store == s)) {
                    self.faults.push(Fault::NeedlessChange { at, stores: *stores });
                }
                let generation = self.generation_of_announcement(at);
                self.changes.push(Announced { stores: *stores, at, generation, position: *position });
                self.rise(generation, *position);
            }
            Sight::Gap { stores, position } => {
                self.tally.gaps += 1;
                if !self.gap_is_needed(at) {
                    self.faults.push(Fault::NeedlessGap { at, stores: *stores });
                }
                let generation = self.generation_of_announcement(at);
                self.gaps.push(Announced { stores: *stores, at, generation, position: *position });
                self.rise(generation, *position);
            }
        }
    }

    /// What the device forgot by this start, it has to be told again.
    fn start(&mut self, at: Instant, kept: Option<(&mpp_proto::Epoch, u64)>) {
        self.started_at = at;
        self.high = None;
        self.connected_at = None;
        let kept = kept.filter(|(epoch, _)| **epoch != mpp_proto::Epoch::NONE);
        self.fresh = kept.is_none();
        self.taken = kept.map_or(0, |(_, position)| position);
        self.resumed_from = self.taken;
        let Some((epoch, position)) = kept else {
            self.given.clear();
            self.gaps.clear();
            self.changes.clear();
            self.known.clear();
            return;
        };
        // An epoch in which nothing was posted is none of the channel's: nothing of it can be forgotten.
        if let Some(g) = self.channel.generations.iter().position(|known| known.epoch == Some(*epoch)) {
            let before = |generation: usize, p: u64| generation < g || generation == g && p <= position;
            self.given.retain(|(generation, serial)| before(*generation, *serial));
            self.changes.retain(|c| before(c.generation, c.position));
            self.gaps.retain(|c| before(c.generation, c.position));
            self.known.retain(|generation| *generation <= g);
        }
    }

    fn ask(&mut self, at: Instant, stores: StoreSet) {
        if let Some(last) = self.filters.last()
            && last.to.is_none()
            && last.stores == stores
        {
            return;
        }
        self.refiltered |= !self.filters.is_empty();
        self.filters.push(Filter { stores, from: at, to: None });
    }

    fn confirm(&mut self, at: Instant) {
        if let Some((_, older)) = self.filters.split_last_mut() {
            for filter in older {
                filter.to = filter.to.or(Some(at));
            }
        }
    }

    fn posted_by(&self, at: Instant) -> impl Iterator<Item = &'a Posted> {
        self.channel.posted.iter().take_while(move |p| p.at <= at)
    }

    /// The posted event that this is: of the generation the service is in, or else of the newest before it.
    fn find(
        &self,
        at: Instant,
        serial: u64,
        store: StoreId,
        key: Option<&[u8]>,
        payload: &Bytes,
    ) -> Option<&'a Posted> {
        self.channel.posted.iter().rev().find(|p| {
            p.at <= at
                && p.serial == serial
                && p.store == store
                && p.key.as_deref() == key
                && p.payload.as_ref() == Some(payload)
        })
    }

    fn event(&mut self, seen: &Seen, posted: &Posted, position: u64, expires: UnixTime) {
        let Seen { at, unix, .. } = *seen;
        let serial = posted.serial;
        if !self.given.insert((posted.generation, serial)) {
            self.faults.push(Fault::Twice { at, serial });
        }
        match self.high {
            Some((generation, after))
                if posted.generation < generation || posted.generation == generation && serial <= after =>
            {
                self.faults.push(Fault::OutOfOrder { at, serial, after });
            }
            _ => {}
        }
        if position < serial {
            self.faults.push(Fault::BadPosition { at, serial, position });
        }
        self.rise(posted.generation, position);
        if posted.fleeting {
            if self.connected_at.is_some_and(|c| c > posted.at + CONNECTING) {
                self.faults.push(Fault::Late { at, serial });
            }
        } else if expires.as_millis().abs_diff(posted.expires.as_millis()) > 2
            || unix >= posted.expires + self.end.slack
        {
            self.faults.push(Fault::Expired { at, serial });
        }
        let asked = |f: &Filter| {
            f.stores.contains(posted.store) && f.from <= at && f.to.is_none_or(|to| to >= posted.at)
        };
        if !self.filters.iter().any(asked) {
            self.faults.push(Fault::NotAskedFor { at, serial, store: posted.store });
        }
    }

    fn rise(&mut self, generation: usize, position: u64) {
        self.high = self.high.max(Some((generation, position)));
    }

    /// An announcement names no generation: it belongs to the newest of which the device can know.
    fn generation_of_announcement(&self, at: Instant) -> usize {
        let known = self.known.last().copied().unwrap_or_default();
        known.min(self.channel.generation_at(at))
    }

    /// Whether something can have been lost that this device was owed.
    fn gap_is_needed(&self, at: Instant) -> bool {
        if self.fresh || self.refiltered || self.channel.restarts.iter().any(|r| *r <= at) {
            return true;
        }
        let now = self.channel.generation_at(at);
        let waiting = self.posted_by(at).filter(|p| p.generation == now && p.serial > self.resumed_from);
        let (events, bytes) = waiting
            .filter_map(|p| p.payload.as_ref())
            .fold((0, 0), |(events, bytes), payload| (events + 1, bytes + payload.len()));
        events > self.channel.ring_events || bytes > self.channel.ring_bytes
    }

    /// Judges what did not come.
    fn close(&mut self) {
        let asked = self.filters.last().map(|f| f.stores).unwrap_or_default();
        for posted in &self.channel.posted {
            let Posted { generation, serial, store, at, .. } = *posted;
            let announced = |list: &[Announced]| list.iter().any(|a| a.at >= at && a.stores.contains(store));
            let later = |p: &&Posted| p.generation == generation && p.serial > serial;
            let count = if self.given.contains(&(generation, serial)) {
                &mut self.tally.delivered
            } else if posted.payload.is_none() && announced(&self.changes) {
                &mut self.tally.changed
            } else if !self.known.contains(&generation) {
                &mut self.tally.unknown
            } else if !asked.contains(store) {
                &mut self.tally.filtered
            } else if posted.fleeting {
                &mut self.tally.fleeting
            } else if posted.key.is_some()
                && self.channel.posted.iter().filter(later).any(|p| p.store == store && p.key == posted.key)
            {
                &mut self.tally.superseded
            } else if posted.expires <= self.end.unix {
                &mut self.tally.expired
            } else if announced(&self.gaps) {
                &mut self.tally.covered
            } else {
                self.faults.push(Fault::Lost { generation, serial, store });
                continue;
            };
            *count += 1;
        }
    }
}
