//! What became of each event for each device: the books of a service (SPEC.md, "Conservation").

use alloc::collections::VecDeque;
use core::ops::AddAssign;

use crate::ids::StoreId;

/// Where the events of a service's channels went, counted once for each event and each connected device.
///
/// When an event is published, every connected device of its account is *owed* one; when a device connects, it is
/// owed what is above its position; if it turns out to have less than was believed, that is owed again. Each leaves
/// through exactly one of the other counters, so at any time
///
/// ```text
/// owed = delivered + confirmed + filtered + superseded + expired + dropped + crowded + transient
///        + lost + forgotten + abandoned + what is still pending
/// ```
///
/// where the last is [`Service::pending`](crate::Service::pending), counted device by device. Whatever a filter leaves
/// out counts as filtered, however it ended otherwise.
///
/// The counters wrap around, and the sum holds all the same: with serials near 2^62 a few connections fill them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Delivery {
    /// What connected devices were owed.
    pub owed: u64,
    /// In a Notify that the device acknowledged completely: as a payload, or as a store that changed.
    pub delivered: u64,
    /// The device's own mark said that it has it, though no Notify was acknowledged.
    pub confirmed: u64,
    /// Of a store that the device does not want to hear of.
    pub filtered: u64,
    /// Replaced by a newer event, with its key or of the same store without payload.
    pub superseded: u64,
    /// Its time to live ended first.
    pub expired: u64,
    /// Pushed out by the limits of a ring or of all rings: announced as a gap.
    pub dropped: u64,
    /// Pushed out because its poster, of another account, had used up its share of the ring: announced as a gap.
    pub crowded: u64,
    /// With a time to live of zero, and the device was not connected then, or was not reached in time.
    pub transient: u64,
    /// Lost by the host, or of a history that it did not keep: announced as a gap.
    pub lost: u64,
    /// It left the ring so long ago that it is not known any more why. If it has to be announced as a gap, it is.
    pub forgotten: u64,
    /// The connection ended first: owed again with the next one.
    pub abandoned: u64,
}

impl Delivery {
    /// Everything that is not owed any more.
    pub const fn settled(&self) -> u64 {
        let Self { owed: _, delivered, confirmed, filtered, superseded, expired, dropped, .. } = *self;
        let Self { crowded, transient, lost, forgotten, abandoned, .. } = *self;
        let explained = delivered.wrapping_add(confirmed).wrapping_add(filtered).wrapping_add(superseded);
        let gone = expired.wrapping_add(dropped).wrapping_add(crowded).wrapping_add(transient);
        let unknown = lost.wrapping_add(forgotten).wrapping_add(abandoned);
        explained.wrapping_add(gone).wrapping_add(unknown)
    }

    /// What is still owed, by these books; zero also if they are wrong and more was settled than owed.
    pub const fn outstanding(&self) -> u64 {
        self.owed.wrapping_sub(self.settled())
    }
}

impl AddAssign for Delivery {
    fn add_assign(&mut self, other: Self) {
        self.owed = self.owed.wrapping_add(other.owed);
        self.delivered = self.delivered.wrapping_add(other.delivered);
        self.confirmed = self.confirmed.wrapping_add(other.confirmed);
        self.filtered = self.filtered.wrapping_add(other.filtered);
        self.superseded = self.superseded.wrapping_add(other.superseded);
        self.expired = self.expired.wrapping_add(other.expired);
        self.dropped = self.dropped.wrapping_add(other.dropped);
        self.crowded = self.crowded.wrapping_add(other.crowded);
        self.transient = self.transient.wrapping_add(other.transient);
        self.lost = self.lost.wrapping_add(other.lost);
        self.forgotten = self.forgotten.wrapping_add(other.forgotten);
        self.abandoned = self.abandoned.wrapping_add(other.abandoned);
    }
}

/// What a serial of a channel stands for by now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// An event with a payload that waits in the ring.
    Waiting,
    /// An event without a payload.
    Changed,
    Superseded,
    Expired,
    Dropped,
    Crowded,
    /// A transient event that is gone, whatever ended it.
    Transient,
    /// Declared lost by the host.
    Lost,
}

impl Fate {
    /// The counter in which an event of a store that the device asked for ends. `told`: its store is in the Notify.
    pub(crate) const fn count(self, told: bool, books: &mut Delivery) {
        match self {
            // Counted where it waits.
            Self::Waiting => {}
            Self::Changed if told => books.delivered += 1,
            Self::Changed | Self::Superseded => books.superseded += 1,
            Self::Expired => books.expired += 1,
            Self::Dropped => books.dropped += 1,
            Self::Crowded => books.crowded += 1,
            Self::Transient => books.transient += 1,
            Self::Lost => books.lost += 1,
        }
    }
}

/// Serials whose fate is remembered for devices that are not connected.
const KEPT: usize = 32;
/// And at most, while a connected device has not been told of them.
const MAX: usize = 1024;
/// So many more may gather before it is looked whether they are needed.
const SLACK: usize = 32;

/// The fates of a channel's last serials, two bytes each.
#[derive(Clone, Debug, Default)]
pub(crate) struct Fates {
    /// The last one is that of the channel's newest serial.
    entries: VecDeque<(StoreId, Fate)>,
    /// Serials since it was last looked whether all are needed.
    grown: usize,
}

impl Fates {
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// The next serial.
    pub(crate) fn push(&mut self, store: StoreId, fate: Fate) {
        if self.entries.len() >= MAX {
            self.entries.pop_front();
        }
        self.entries.push_back((store, fate));
        self.grown = self.grown.saturating_add(1);
    }

    /// So many serials were lost.
    pub(crate) fn lose(&mut self, count: u64) {
        for _ in 0..count.min(MAX as u64) {
            self.push(StoreId::ANY, Fate::Lost);
        }
    }

    /// What waited is gone. `age`: how many serials are newer.
    pub(crate) fn set(&mut self, age: u64, fate: Fate) {
        let at =
            usize::try_from(age).ok().and_then(|age| self.entries.len().checked_sub(age.saturating_add(1)));
        if let Some((_, known)) = at.and_then(|at| self.entries.get_mut(at)) {
            *known = fate;
        }
    }

    /// The fates from the `skip`th on.
    pub(crate) fn after(&self, skip: usize) -> impl Iterator<Item = (StoreId, Fate)> + '_ {
        self.entries.range(skip.min(self.entries.len())..).copied()
    }

    /// Whether it is time to [`trim`](Self::trim).
    pub(crate) fn are_many(&self) -> bool {
        self.entries.len() >= KEPT + SLACK && self.grown >= SLACK.max(self.entries.len() / 4)
    }

    /// Forgets what no connected device needs: the last `needed` are.
    pub(crate) fn trim(&mut self, needed: u64) {
        let keep = usize::try_from(needed).unwrap_or(MAX).clamp(KEPT, MAX);
        self.entries.drain(..self.entries.len().saturating_sub(keep));
        if self.entries.capacity() > 4 * (keep + SLACK) {
            self.entries.shrink_to(keep + SLACK);
        }
        self.grown = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_waits_for_is_forgotten() {
        let mut fates = Fates::default();
        for _ in 0..KEPT + SLACK - 1 {
            fates.push(StoreId::INBOUND, Fate::Changed);
            assert!(!fates.are_many());
        }
        fates.push(StoreId::INBOUND, Fate::Waiting);
        assert!(fates.are_many());
        fates.trim(0);
        assert_eq!(fates.len(), KEPT);
        fates.set(0, Fate::Expired);
        assert_eq!(fates.after(KEPT - 1).next(), Some((StoreId::INBOUND, Fate::Expired)));
        fates.set(KEPT as u64, Fate::Dropped);
        fates.set(u64::MAX, Fate::Dropped);
        assert!(fates.after(0).all(|(_, fate)| fate != Fate::Dropped), "those are forgotten");
    }

    #[test]
    fn the_history_has_a_limit_and_gives_memory_back() {
        let mut fates = Fates::default();
        fates.lose(u64::MAX);
        for _ in 0..5000 {
            fates.push(StoreId::INBOUND, Fate::Waiting);
        }
        assert_eq!(fates.len(), MAX);
        fates.trim(u64::MAX);
        assert_eq!(fates.len(), MAX);
        fates.trim(0);
        assert!(fates.entries.capacity() < 4 * (KEPT + SLACK), "{}", fates.entries.capacity());
        assert_eq!(size_of::<(StoreId, Fate)>(), 2);
    }
}
