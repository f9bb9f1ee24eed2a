//! How many exchanges there are: of one device, and of all (SPEC.md, "Limits of rates").
//!
//! When more devices come at once than the service completes per second, each is given a place in a queue that exists
//! only as the time at which it ends: the device is told when its turn is, and comes back then. So a crowd costs the
//! service one small answer for each, and the devices come as it can take them.

use alloc::boxed::Box;
use alloc::vec;
use core::hash::BuildHasher;
use core::time::Duration;

use super::config::ServiceConfig;
use super::limits::{Bucket, Rate, Small};
use super::seeded::Seeded;
use crate::ids::{AccountId, DeviceId};
use crate::random::Rng;
use crate::time::Instant;
use crate::wheel::{deadline, tick_floor};

/// Exchanges of one device, if it has proved its address;
pub(super) const EXCHANGES: Rate = Rate::new(1, 10);
/// this many of those at once are not for copies of its packets that somebody sends from elsewhere.
const EXCHANGES_RESERVE: u32 = 5;
/// Answers to one device that it has to connect with a higher serial, if it has proved its address;
const CONFLICTS: Rate = Rate::new(1, 2);
/// one of them is not for copies of its packets.
const CONFLICTS_RESERVE: u32 = 1;
/// The end of the queue is at most so far away. Who would come later comes back within this time to ask again.
const LONGEST_WAIT: Duration = Duration::from_secs(600);
/// A place is kept for so long after its time: a device's own back-off may be longer.
const PLACE_KEPT: Duration = Duration::from_secs(120);
/// When somebody whose turn it is comes again, if others came at the same moment.
const TURN_AGAIN: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(3));

/// What becomes of an exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Entrance {
    /// It is completed now, with an X25519 share if there is one to spare.
    Open { share: bool },
    /// Not before it is proven that its packets come from where they say.
    Prove,
    /// Later.
    Wait(Duration),
}

/// The limits on exchanges.
#[derive(Debug)]
pub(super) struct Admission {
    connects: Bucket,
    /// What a packet whose source is not proven has to leave of them.
    connects_reserve: u32,
    /// Exchanges with X25519: the dear ones.
    shares: Bucket,
    shares_reserve: u32,
    /// Between two places in the queue.
    spacing: Duration,
    /// Where the queue ends; it is empty if that has passed.
    booked_until: Instant,
    devices: Devices,
}

impl Admission {
    pub(super) fn new(config: &ServiceConfig, now: Instant, hasher: Seeded) -> Self {
        let limit = config.connects_per_second.max(1);
        // A tenth at once and the rest over time: so no second has more than the limit.
        let burst = (limit / 10).max(1);
        let connects = Rate::new((limit - burst).max(1), burst);
        // A quarter: what was left out in a storm of ten minutes is made up in the hour after it.
        let quarter = (limit / 4).max(1);
        let shares = Rate::new(quarter, quarter);
        Self {
            connects: Bucket::new(connects, now),
            connects_reserve: burst / 2,
            shares: Bucket::new(shares, now),
            shares_reserve: quarter / 2,
            // A little less than the bucket lets through, so that those who come when they were told find it open.
            spacing: Duration::from_micros(1_250_000_u64.div_ceil(u64::from(limit))),
            booked_until: now,
            devices: Devices::new(config.capacity, hasher),
        }
    }

    /// Whether this device may have one more exchange.
    pub(super) fn may_knock(
        &mut self,
        now: Instant,
        account: &AccountId,
        device: &DeviceId,
        proven: bool,
    ) -> Result<(), Duration> {
        let reserve = if proven { 0 } else { EXCHANGES_RESERVE };
        self.devices.with(now, account, device, |known| {
            let taken = known.exchanges.take(now, EXCHANGES, reserve);
            if taken { Ok(()) } else { Err(known.exchanges.wait(now, EXCHANGES, reserve)) }
        })
    }

    /// Whether this device may be told, once more, the serial it has to be above.
    pub(super) fn may_hear_serial(
        &mut self,
        now: Instant,
        account: &AccountId,
        device: &DeviceId,
        proven: bool,
    ) -> bool {
        let reserve = if proven { 0 } else { CONFLICTS_RESERVE };
        self.devices.with(now, account, device, |known| known.conflicts.take(now, CONFLICTS, reserve))
    }

    /// Whether an exchange of this device is completed now. Only who has proved its address gets a place in the queue:
    /// whoever sends copies of many devices' packets can fill it with nobody.
    pub(super) fn enter(
        &mut self,
        now: Instant,
        account: &AccountId,
        device: &DeviceId,
        proven: bool,
        wants_share: bool,
        rng: &mut Rng,
    ) -> Entrance {
        let (reserve, shares_reserve) =
            if proven { (0, 0) } else { (self.connects_reserve, self.shares_reserve) };
        let place = self.devices.with(now, account, device, |known| known.place(now));
        let turn = match place {
            Place::Ahead(_) => false,
            Place::Due => true,
            Place::None => self.booked_until <= now,
        };
        // Nor does it keep a share from others.
        let spoils = !proven && wants_share && !self.shares.holds(now, shares_reserve);
        if turn && !spoils && self.connects.take(now, reserve) {
            return Entrance::Open { share: wants_share && self.shares.take(now, shares_reserve) };
        }
        if !proven {
            return Entrance::Prove;
        }
        match place {
            Place::Ahead(wait) => Entrance::Wait(wait + rng.duration(Duration::ZERO, self.spacing)),
            Place::Due => {
                // It still has to be let in, so nobody else is before it.
                self.booked_until = self.booked_until.max(now) + self.spacing;
                Entrance::Wait(rng.duration(TURN_AGAIN.0, TURN_AGAIN.1))
            }
            Place::None => self.book(now, account, device, rng),
        }
    }

    /// A place at the end of the queue.
    fn book(&mut self, now: Instant, account: &AccountId, device: &DeviceId, rng: &mut Rng) -> Entrance {
        let at = self.booked_until.max(now) + self.spacing;
        let wait = at.since(now);
        if wait > LONGEST_WAIT {
            return Entrance::Wait(rng.duration(LONGEST_WAIT / 2, LONGEST_WAIT));
        }
        self.booked_until = at;
        self.devices.with(now, account, device, |known| known.place = deadline(at, now));
        Entrance::Wait(wait + rng.duration(Duration::ZERO, self.spacing))
    }

    /// Whether so many devices come that what can wait should: there is a queue, or half of what may come at once is gone.
    pub(super) fn is_busy(&self, now: Instant) -> bool {
        self.booked_until > now || !self.connects.holds(now, self.connects_reserve)
    }

    /// Whether a device may be told that its connection is gone, which makes it come at once: with what is left over.
    pub(super) fn may_reset(&mut self, now: Instant) -> bool {
        self.booked_until <= now && self.connects.take(now, self.connects_reserve)
    }
}

/// Where a device stands in the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    None,
    Ahead(Duration),
    Due,
}

/// What is remembered of one device.
#[derive(Clone, Copy, Debug)]
struct Known {
    /// Of its account and itself; zero if nothing is.
    tag: u32,
    exchanges: Small,
    conflicts: Small,
    /// The tick of its place in the queue; long past if it has none.
    place: u32,
}

impl Known {
    fn new(tag: u32, now: Instant) -> Self {
        Self { tag, exchanges: Small::new(now), conflicts: Small::new(now), place: Self::no_place(now) }
    }

    /// One that has just passed.
    fn no_place(now: Instant) -> u32 {
        tick_floor(now).wrapping_sub(millis(PLACE_KEPT) + 1)
    }

    fn place(&self, now: Instant) -> Place {
        let ahead = self.place.wrapping_sub(tick_floor(now));
        let since = tick_floor(now).wrapping_sub(self.place);
        if since <= millis(PLACE_KEPT) {
            Place::Due
        } else if ahead <= millis(LONGEST_WAIT) {
            Place::Ahead(Duration::from_millis(u64::from(ahead)))
        } else {
            Place::None
        }
    }
}

/// A [`Known`] as it is kept: numbers, so that a table of them is zeroed pages that nobody has touched yet.
type Packed = [u32; 4];

impl From<Packed> for Known {
    fn from([tag, exchanges, conflicts, place]: Packed) -> Self {
        Self { tag, exchanges: Small(exchanges), conflicts: Small(conflicts), place }
    }
}

impl From<Known> for Packed {
    fn from(known: Known) -> Self {
        [known.tag, known.exchanges.0, known.conflicts.0, known.place]
    }
}

/// Devices that one hash may lead to, and room for each connection that there may be. Whoever finds its set full takes
/// the place of another in the queue, who then does the same. With 4 and 1 that is more than half of a million devices,
/// with 16 and 2 less than one in a hundred.
const WAYS: usize = 16;
const ROOM: usize = 2;

/// What is remembered of devices beyond their connections: a fixed table, 32 bytes for each connection that there may
/// be. Only devices with a ticket get here; when too many do, those of whom nothing was heard for longest are forgotten.
#[derive(Debug)]
struct Devices {
    sets: Box<[[Packed; WAYS]]>,
    hasher: Seeded,
}

const _: () = assert!(size_of::<[Packed; WAYS]>() == 256);

/// The smallest and the largest table, in devices.
const DEVICES: (usize, usize) = (1 << 10, 1 << 22);

impl Devices {
    fn new(capacity: u32, hasher: Seeded) -> Self {
        let devices =
            (capacity as usize).saturating_mul(ROOM).clamp(DEVICES.0, DEVICES.1).next_power_of_two();
        Self { sets: vec![[[0; 4]; WAYS]; devices / WAYS].into_boxed_slice(), hasher }
    }

    /// What is remembered of this device, to be looked at and changed.
    fn with<T>(
        &mut self,
        now: Instant,
        account: &AccountId,
        device: &DeviceId,
        look: impl FnOnce(&mut Known) -> T,
    ) -> T {
        let hash = self.hasher.hash_one((account.0, device.0));
        let tag = (hash >> 32) as u32 | 1;
        let at = hash as usize & (self.sets.len() - 1);
        let set = &mut self.sets[at];
        let way = set.iter().position(|packed| packed[0] == tag).unwrap_or_else(|| {
            let ways = set.map(Known::from).into_iter().enumerate();
            ways.max_by_key(|(_, known)| known.forgettable(now)).map_or(0, |(way, _)| way)
        });
        let packed = &mut set[way];
        let mut known = if packed[0] == tag { Known::from(*packed) } else { Known::new(tag, now) };
        // One long past must not look like one ahead when the ticks come round, after 49 days.
        if known.place(now) == Place::None {
            known.place = Known::no_place(now);
        }
        let result = look(&mut known);
        *packed = known.into();
        result
    }
}

impl Known {
    /// The highest of several is forgotten: nobody first, then those without a place, then who was heard longest ago.
    fn forgettable(&self, now: Instant) -> (bool, bool, i32) {
        let idle = tick_floor(now).wrapping_sub(self.exchanges.0) as i32;
        (self.tag == 0, self.place(now) == Place::None, idle)
    }
}

const fn millis(duration: Duration) -> u32 {
    duration.as_millis() as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Seed;

    /// For two months.
    #[test]
    fn a_device_that_is_heard_now_and_then_never_gets_a_place_by_mistake() {
        let mut rng = Rng::new(Seed::new([7; 32]));
        let hasher = Seeded::new(&mut rng);
        let mut devices = Devices::new(1, hasher);
        let mut now = Instant::from_micros(1_000_000);
        for _ in 0..60 * 24 * 12 {
            let place = devices.with(now, &AccountId([1; 16]), &DeviceId([1; 16]), |known| known.place(now));
            assert_eq!(place, Place::None, "{now:?}");
            now = now + Duration::from_secs(300);
        }
    }

    /// As many devices as there may be connections come back at once, each is told when, and comes then.
    #[test]
    fn a_crowd_of_all_that_there_is_room_for_keeps_its_places() {
        const CROWD: u32 = 1 << 15;
        let mut rng = Rng::new(Seed::new([7; 32]));
        let hasher = Seeded::new(&mut rng);
        let mut devices = Devices::new(CROWD, hasher);
        let now = Instant::from_micros(1_000_000);
        let account = |n: u32| AccountId(u128::from(n).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
        for n in 0..CROWD {
            let at = now + Duration::from_millis(u64::from(n) + 1);
            devices.with(now, &account(n), &DeviceId([1; 16]), |known| known.place = deadline(at, now));
        }
        let kept = (0..CROWD).filter(|n| {
            let place = devices.with(now, &account(*n), &DeviceId([1; 16]), |known| known.place(now));
            place == Place::Ahead(Duration::from_millis(u64::from(*n) + 1))
        });
        let kept = kept.count() as u32;
        assert!(kept >= CROWD / 100 * 99, "{kept} of {CROWD} places are known");
    }
}
