//! The judgement.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use mpp_proto::{Instant, StoreId, StoreSet, UnixTime};

use super::{Channel, End, Fault, Posted, Seen, Sight, Tally};

/// How much later than its posting a device may have connected and still be given an event that was only for devices
/// connected at the time: the service takes a device for connected before the device does.
const CONNECTING: Duration = Duration::from_secs(10);

/// How long such an event lives. A device that comes back within this time, before its service has noticed that it was
/// gone, has been connected all the while.
const FLEETING: Duration = Duration::from_secs(60);

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
    /// Announcements name no generation: `None` if it could belong to several.
    generation: Option<usize>,
    position: u64,
}

/// How far a life of the device has got. Positions of one generation never go back, so one that does is of another.
#[derive(Clone, Copy, Default)]
struct Line {
    generation: Option<usize>,
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
    /// Those of them that may come again once, because it is not known whether the device forgot them.
    repeatable: BTreeSet<(usize, u64)>,
    gaps: Vec<Announced>,
    changes: Vec<Announced>,
    /// Generations of which the device knew.
    known: BTreeSet<usize>,
    /// The position given last in this life.
    line: Line,
    /// For each generation, up to where it has been judged what was passed over.
    passed: BTreeMap<usize, u64>,
    /// What the application has surely dealt with.
    taken: u64,
    /// `taken` when the present connection began: what it can have told the service at most.
    resumed_from: u64,
    /// And when the one before it began: what is given now may have come over that one, and waited.
    resumed_before: u64,
    first_connected_at: Option<Instant>,
    /// The beginning of the first of all lives: from then on its service may take it for connected, whether or not it
    /// has heard of that.
    born_at: Option<Instant>,
    /// The first connection of a device that has seen nothing: whatever was before may be announced as lost.
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
            repeatable: BTreeSet::new(),
            gaps: Vec::new(),
            changes: Vec::new(),
            known: BTreeSet::new(),
            line: Line::default(),
            passed: BTreeMap::new(),
            taken: 0,
            resumed_from: 0,
            resumed_before: 0,
            first_connected_at: None,
            born_at: None,
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
                self.fresh &= self.first_connected_at.is_none() || self.taken == 0;
                self.resumed_before = self.resumed_from;
                self.resumed_from = self.taken;
                self.first_connected_at = self.first_connected_at.or(Some(at));
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
                let generation = self.announcement(at, *position);
                self.changes.push(Announced { stores: *stores, at, generation, position: *position });
            }
            Sight::Gap { stores, position } => {
                self.tally.gaps += 1;
                if !self.gap_is_needed(at) {
                    self.faults.push(Fault::NeedlessGap { at, stores: *stores });
                }
                let generation = self.announcement(at, *position);
                self.gaps.push(Announced { stores: *stores, at, generation, position: *position });
            }
        }
    }

    /// What the device forgot by this start, it has to be told again.
    fn start(&mut self, at: Instant, kept: Option<(&mpp_proto::Epoch, u64)>) {
        self.started_at = at;
        self.born_at = self.born_at.or(Some(at));
        self.line = Line::default();
        self.passed.clear();
        self.first_connected_at = None;
        let kept = kept.filter(|(epoch, _)| **epoch != mpp_proto::Epoch::NONE);
        // A channel in which nothing was posted may have been forgotten and begun again.
        self.fresh = kept.is_none_or(|(_, position)| position == 0);
        self.taken = kept.map_or(0, |(_, position)| position);
        self.resumed_from = self.taken;
        self.resumed_before = self.taken;
        let Some((epoch, position)) = kept else {
            self.given.clear();
            self.gaps.clear();
            self.changes.clear();
            self.known.clear();
            return;
        };
        if let Some(g) = self.channel.generations.iter().position(|known| known.epoch == Some(*epoch)) {
            self.given.retain(|given| *given <= (g, position));
            let kept = |a: &Announced| {
                a.generation.is_none_or(|generation| (generation, a.position) <= (g, position))
            };
            self.changes.retain(kept);
            self.gaps.retain(kept);
            self.passed.insert(g, position);
            self.line = Line { generation: Some(g), position };
            self.known.retain(|generation| *generation <= g);
        } else {
            // An epoch in which nothing was posted, before or after those that are known: all may be forgotten.
            self.repeatable.clone_from(&self.given);
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
        let this = (posted.generation, serial);
        if !self.given.insert(this) && !self.repeatable.remove(&this) {
            self.faults.push(Fault::Twice { at, serial });
        }
        let after = self.line.position;
        let late = match self.line.generation {
            Some(generation) => (posted.generation, serial) <= (generation, after),
            None => serial <= after,
        };
        if late {
            self.faults.push(Fault::OutOfOrder { at, serial, after });
        }
        if position < serial {
            self.faults.push(Fault::BadPosition { at, serial, position });
        }
        self.line = Line { generation: Some(posted.generation), position };
        self.pass(seen, posted.generation, serial);
        if posted.fleeting {
            // Only the life's first connection counts: after a later one it may have waited in the device's queue.
            let too_late = |connected: Instant| {
                let replaced = self.born_at.is_some_and(|born| born <= posted.at);
                connected > posted.at + if replaced { FLEETING + CONNECTING } else { CONNECTING }
            };
            if self.first_connected_at.is_some_and(too_late) {
                self.faults.push(Fault::Late { at, serial });
            }
        } else if !self.channel.clock_was_set && expires.as_millis().abs_diff(posted.expires.as_millis()) > 2
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

    /// Follows the position of an announcement, and says to which generation it belongs if that is certain.
    fn announcement(&mut self, at: Instant, position: u64) -> Option<usize> {
        if position < self.line.position {
            self.line.generation = None;
        }
        self.line.position = position;
        if self.channel.generation_at(at) == 0 { Some(0) } else { self.line.generation }
    }

    /// An event is given only when everything before it has been dealt with: whatever was passed over has to be
    /// explained by now, not by a gap that is announced some day.
    fn pass(&mut self, seen: &Seen, generation: usize, serial: u64) {
        let from = self.passed.insert(generation, serial).unwrap_or(0);
        let start = self.channel.posted.partition_point(|p| (p.generation, p.serial) <= (generation, from));
        let passed = self.channel.posted[start..].iter();
        for posted in passed.take_while(|p| (p.generation, p.serial) < (generation, serial)) {
            if !self.is_explained(seen, posted) {
                let Posted { serial: skipped, store, .. } = *posted;
                self.faults.push(Fault::PassedOver { at: seen.at, serial, skipped, store });
            }
        }
    }

    fn is_explained(&self, seen: &Seen, posted: &Posted) -> bool {
        let Seen { at, unix, .. } = *seen;
        let told =
            |list: &[Announced]| list.iter().any(|a| a.at >= posted.at && a.stores.contains(posted.store));
        let mut in_force =
            self.filters.iter().filter(|f| f.from <= at && f.to.is_none_or(|to| to >= posted.at));
        self.given.contains(&(posted.generation, posted.serial))
            || posted.fleeting
            || told(&self.gaps)
            || posted.payload.is_none()
                && (told(&self.changes) || self.posted_by(at).any(|p| p.renews(posted)))
            || posted.expires <= unix + self.end.slack
            || in_force.any(|f| !f.stores.contains(posted.store))
            || posted.key.is_some() && self.posted_by(at).any(|p| p.supersedes(posted))
    }

    /// Whether something can have been lost that this device was owed.
    fn gap_is_needed(&self, at: Instant) -> bool {
        if self.fresh || self.refiltered || self.channel.restarts.iter().any(|r| *r <= at) {
            return true;
        }
        let now = self.channel.generation_at(at);
        let waiting = self.posted_by(at).filter(|p| p.generation == now && p.serial > self.resumed_before);
        let (events, bytes) = waiting
            .filter_map(|p| p.payload.as_ref())
            .fold((0, 0), |(events, bytes), payload| (events + 1, bytes + payload.len()));
        events > self.channel.ring_events || bytes > self.channel.ring_bytes
    }

    /// Judges what did not come.
    fn close(&mut self) {
        // While it is not known which of several filters is in force, only what all of them ask for is owed.
        let in_force = || self.filters.iter().filter(|f| f.to.is_none());
        for posted in &self.channel.posted {
            let Posted { generation, serial, store, at, .. } = *posted;
            let announced = |list: &[Announced]| list.iter().any(|a| a.at >= at && a.stores.contains(store));
            let count = if self.given.contains(&(generation, serial)) {
                &mut self.tally.delivered
            } else if posted.payload.is_none() && announced(&self.changes) {
                &mut self.tally.changed
            } else if !self.known.contains(&generation) {
                &mut self.tally.unknown
            } else if !in_force().all(|f| f.stores.contains(store)) {
                &mut self.tally.filtered
            } else if posted.fleeting {
                &mut self.tally.fleeting
            } else if posted.key.is_some() && self.channel.posted.iter().any(|p| p.supersedes(posted)) {
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
