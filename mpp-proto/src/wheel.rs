//! A hierarchical timing wheel: filing, cancelling and firing a timer cost the same with ten timers and with ten
//! million. One tick is a millisecond. The nodes live in the records of whoever uses the wheel.
//!
//! Six levels of 64 slots; a slot of level n spans 64^n ticks. A timer goes to the level that its *distance* needs, to
//! the slot of its deadline. When the time reaches the start of a slot, its timers move one level down, those of level
//! 0 are due. (Levels by distance, not by the highest bit in which deadline and time differ: with that, a million
//! leases of 80 s would collect in one slot of level 3 and move at once every 262 s; so it is never more of them than
//! come due within 4 s.)
//!
//! Timers of one tick fire in the order in which they were filed. Those that sit on a higher level were filed earlier,
//! so it suffices that a slot that moves down goes *in front of* what is there, and exactly one level. As the order
//! depends on nothing but the calls that file, it is the same whether the caller comes every millisecond or only
//! when [`Wheel::next`] says.

use crate::time::Instant;
use alloc::boxed::Box;
use core::mem;

const BITS: u32 = 6;
const SLOTS: usize = 1 << BITS;
/// 64^6 ticks are more than any distance, which is below 2^31.
const LEVELS: usize = 6;
/// The list of what is due, behind the slots of all levels.
const DUE: usize = LEVELS * SLOTS;

/// In `Node::next` and `prev`: not a key but the head of the list with this number.
const HEAD: u32 = 1 << 31;
/// In `Node::next` and `prev`: not scheduled. No list has this number.
const NIL: u32 = u32::MAX;

/// A deadline is never filed further ahead than this by [`deadline`]: about 12 days. Half of what a signed distance
/// can hold, so that it is right even while the wheel is behind the clock.
pub(crate) const HORIZON: u32 = 1 << 30;

/// [`Wheel::expire`] takes a time up to a minute before the wheel's own as a slip of the caller and stays where it is.
/// All else is progress, also more than 2^31 ticks of it: a device may sleep for a month with its timers running.
const SLIP: u32 = 60_000;

/// One timer. 12 bytes; the default is not scheduled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Node {
    next: u32,
    prev: u32,
    at: u32,
}

const _: () = assert!(size_of::<Node>() == 12);

impl Default for Node {
    fn default() -> Self {
        Self { next: NIL, prev: NIL, at: 0 }
    }
}

impl Node {
    /// Whether the timer is going to fire.
    #[cfg(test)]
    pub(crate) const fn is_scheduled(&self) -> bool {
        self.next != NIL
    }
}

/// Whoever owns the records with the timers.
pub(crate) trait Nodes {
    /// The timer `key`. Panics if there is none: the keys in a wheel are our own.
    fn node(&mut self, key: u32) -> &mut Node;
}

/// The ends of one circular list: its first and last key, or itself if it is empty.
#[derive(Clone, Copy, Debug)]
struct Ends {
    first: u32,
    last: u32,
}

/// The wheel: 3 KiB, whatever it holds. Keys are below 2^31. A record must cancel its timer before it is freed or moved.
#[derive(Debug)]
pub(crate) struct Wheel {
    /// Up to here all is fired or in the list of what is due. Continues beyond 32 bits, of which callers see the lower.
    now: u64,
    /// One bit for each slot that holds something.
    occupied: [u64; LEVELS],
    ends: Box<[Ends]>,
}

impl Wheel {
    /// An empty wheel that stands at `now`.
    pub(crate) fn new(now: u32) -> Self {
        let ends = (0..=DUE).map(|list| Ends { first: head(list), last: head(list) }).collect();
        Self { now: u64::from(now), occupied: [0; LEVELS], ends }
    }

    /// Schedules timer `key` for tick `at`, instead of the tick it was scheduled for. Ticks up to 2^31 - 1 after the
    /// wheel's time are ahead; all others have passed, and the timer fires at the next [`Wheel::expire`], after all that
    /// is due already. The caller sees to it that everything due has been fired before it files anything.
    pub(crate) fn schedule(&mut self, nodes: &mut impl Nodes, key: u32, at: u32) {
        debug_assert!(key < HEAD);
        self.cancel(nodes, key);
        let distance = at.wrapping_sub(low(self.now));
        let list = if distance == 0 || distance >= 1 << 31 {
            DUE
        } else {
            let level = (distance.ilog2() / BITS) as usize;
            slot(level, self.now + u64::from(distance))
        };
        let last = self.ends[list].last;
        *nodes.node(key) = Node { next: head(list), prev: last, at };
        self.ends[list].last = key;
        self.set_next(nodes, last, key);
        self.mark(list);
    }

    /// Makes timer `key` not fire. False if it was not scheduled.
    pub(crate) fn cancel(&mut self, nodes: &mut impl Nodes, key: u32) -> bool {
        // The deadline stays, for `descend`; it counts for nothing while the node is not linked.
        let node = nodes.node(key);
        let (next, prev) = (mem::replace(&mut node.next, NIL), mem::replace(&mut node.prev, NIL));
        if next == NIL {
            return false;
        }
        self.set_next(nodes, prev, next);
        self.set_prev(nodes, next, prev);
        // Both neighbours are the head, so it was the only one.
        if next == prev && next & HEAD != 0 {
            self.clear((next ^ HEAD) as usize);
        }
        true
    }

    /// Advances to `now`, but not past the next timer that is due: that one is no longer scheduled and returned. `None`
    /// when nothing is due any more. Call it until then; in between, timers may be scheduled and cancelled at will, but
    /// a timer scheduled for a tick that has passed fires in the same round. Ordered by tick, then by filing.
    pub(crate) fn expire(&mut self, nodes: &mut impl Nodes, now: u32) -> Option<u32> {
        let ahead = now.wrapping_sub(low(self.now));
        let now = if ahead > u32::MAX - SLIP { self.now } else { self.now + u64::from(ahead) };
        loop {
            let first = self.ends[DUE].first;
            if first & HEAD == 0 {
                self.cancel(nodes, first);
                return Some(first);
            }
            match self.next_slot() {
                Some(start) if start <= now => self.enter(nodes, start),
                _ => {
                    self.now = now;
                    return None;
                }
            }
        }
    }

    /// The tick at which to call [`Wheel::expire`] next: a timer fires then, or moves closer (up to five times in its
    /// life). Later than `now` once `expire` has returned `None` and nothing that has passed was scheduled since; `None`
    /// if no timer is scheduled.
    pub(crate) fn next(&self) -> Option<u32> {
        if self.ends[DUE].first & HEAD == 0 { Some(low(self.now)) } else { self.next_slot().map(low) }
    }

    /// The start of the first slot after `now` that holds something.
    fn next_slot(&self) -> Option<u64> {
        let of_level = |(level, &occupied): (usize, &u64)| {
            let shift = BITS * level as u32;
            let current = self.now >> shift;
            // Bit 0 becomes the slot after the current one; the current one, long emptied, stands for its next turn.
            let ahead = occupied.rotate_right((current as usize % SLOTS) as u32 + 1).trailing_zeros();
            (occupied != 0).then(|| (current + 1 + u64::from(ahead)) << shift)
        };
        self.occupied.iter().enumerate().filter_map(of_level).min()
    }

    /// Advances to `start`, before which no slot starts that holds something. Nothing is due at this time.
    fn enter(&mut self, nodes: &mut impl Nodes, start: u64) {
        self.now = start;
        // From the top: what moves down may move on at once.
        for level in (1..LEVELS).rev() {
            if start.trailing_zeros() >= BITS * level as u32 {
                self.descend(nodes, level);
            }
        }
        let list = slot(0, start);
        let Ends { first, last } = self.ends[list];
        if first & HEAD == 0 {
            self.clear(list);
            self.ends[list] = Ends { first: head(list), last: head(list) };
            self.ends[DUE] = Ends { first, last };
            nodes.node(first).prev = head(DUE);
            nodes.node(last).next = head(DUE);
        }
    }

    /// Moves the slot of `level` that starts now one level down, in front of what is there.
    fn descend(&mut self, nodes: &mut impl Nodes, level: usize) {
        let from = slot(level, self.now);
        loop {
            let key = self.ends[from].last;
            if key & HEAD != 0 {
                return;
            }
            self.cancel(nodes, key);
            let distance = nodes.node(key).at.wrapping_sub(low(self.now));
            let to = slot(level - 1, self.now + u64::from(distance));
            let first = self.ends[to].first;
            let node = nodes.node(key);
            (node.next, node.prev) = (first, head(to));
            self.ends[to].first = key;
            self.set_prev(nodes, first, key);
            self.mark(to);
        }
    }

    /// Sets what follows `place`, which is a key or a head.
    fn set_next(&mut self, nodes: &mut impl Nodes, place: u32, next: u32) {
        if place & HEAD == 0 {
            nodes.node(place).next = next;
        } else {
            self.ends[(place ^ HEAD) as usize].first = next;
        }
    }

    /// Sets what precedes `place`, which is a key or a head.
    fn set_prev(&mut self, nodes: &mut impl Nodes, place: u32, prev: u32) {
        if place & HEAD == 0 {
            nodes.node(place).prev = prev;
        } else {
            self.ends[(place ^ HEAD) as usize].last = prev;
        }
    }

    fn mark(&mut self, list: usize) {
        if let Some(bits) = self.occupied.get_mut(list / SLOTS) {
            *bits |= 1 << (list % SLOTS);
        }
    }

    fn clear(&mut self, list: usize) {
        if let Some(bits) = self.occupied.get_mut(list / SLOTS) {
            *bits &= !(1 << (list % SLOTS));
        }
    }
}

const fn head(list: usize) -> u32 {
    HEAD | list as u32
}

/// The number of the list for what is due at `tick`, on `level`.
const fn slot(level: usize, tick: u64) -> usize {
    level * SLOTS + (tick >> (BITS * level as u32)) as usize % SLOTS
}

/// Ticks as callers see them.
const fn low(tick: u64) -> u32 {
    tick as u32
}

/// The first tick at or after `at`: for deadlines, which never fire early. Ticks wrap after 49 days.
#[cfg(test)]
pub(crate) const fn tick(at: Instant) -> u32 {
    low(at.as_micros().div_ceil(1000))
}

/// The last tick at or before `now`: for the present, which never runs ahead.
pub(crate) const fn tick_floor(now: Instant) -> u32 {
    low(now.as_millis())
}

/// [`tick`], but at most [`HORIZON`] after `now`, and that of `now` if it has passed, however far away it is: what can be
/// weeks away is filed with this, and filed again if it fires before its time.
pub(crate) fn deadline(at: Instant, now: Instant) -> u32 {
    // What has passed is due at the next tick that has not: a host never sees a deadline that lies behind it.
    let ahead = at.max(now).as_micros().div_ceil(1000).saturating_sub(now.as_millis());
    tick_floor(now).wrapping_add(ahead.min(u64::from(HORIZON)) as u32)
}

/// The instant at which `tick` starts, taking the one within 2^31 ticks (24 days) of `now`. Not before the clock's
/// origin.
pub(crate) const fn instant_of(tick: u32, now: Instant) -> Instant {
    let distance = tick.wrapping_sub(tick_floor(now)) as i32;
    Instant::from_micros(now.as_millis().saturating_add_signed(distance as i64).saturating_mul(1000))
}

#[cfg(test)]
mod tests;
