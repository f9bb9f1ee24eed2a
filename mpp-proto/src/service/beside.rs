//! What few connections have beyond their records: found by the connection's slot. Nothing of it is touched by a packet of
//! a connection that has none.

use core::ops::{Index, IndexMut};

use hashbrown::HashTable;

use crate::pool::Slab;

/// Something that a connection can have one of.
pub(super) trait Beside: Default {
    /// The connection's slot.
    fn slot(&self) -> u32;
}

/// Those that there are, named by number.
#[derive(Debug)]
pub(super) struct SideTable<T> {
    slab: Slab<T>,
    by_slot: HashTable<u32>,
}

impl<T: Beside> SideTable<T> {
    /// Room for so many at once.
    pub(super) fn new(capacity: u32) -> Self {
        Self { slab: Slab::new(capacity), by_slot: HashTable::new() }
    }

    /// How many there are.
    pub(super) const fn len(&self) -> u32 {
        self.slab.len()
    }

    /// That of a connection.
    pub(super) fn find(&self, slot: u32) -> Option<u32> {
        self.by_slot.find(hash(slot), |at| self.slab[*at].slot() == slot).copied()
    }

    pub(super) fn get(&self, at: u32) -> Option<&T> {
        self.slab.get(at)
    }

    pub(super) fn get_mut(&mut self, at: u32) -> Option<&mut T> {
        self.slab.get_mut(at)
    }

    /// Adds one for a connection that has none. `None`: there is no room.
    pub(super) fn insert(&mut self, value: T) -> Option<u32> {
        let slot = value.slot();
        let at = self.slab.insert(value)?;
        let slab = &self.slab;
        self.by_slot.insert_unique(hash(slot), at, |at| hash(slab[*at].slot()));
        Some(at)
    }

    /// Takes one out. It has no timer any more.
    pub(super) fn remove(&mut self, at: u32) -> Option<T> {
        let gone = self.slab.remove(at)?;
        if let Ok(entry) = self.by_slot.find_entry(hash(gone.slot()), |found| *found == at) {
            entry.remove();
        }
        Some(gone)
    }
}

impl<T> Index<u32> for SideTable<T> {
    type Output = T;

    fn index(&self, at: u32) -> &T {
        &self.slab[at]
    }
}

impl<T> IndexMut<u32> for SideTable<T> {
    fn index_mut(&mut self, at: u32) -> &mut T {
        &mut self.slab[at]
    }
}

/// Slots are the service's own numbers: nobody chooses them.
const fn hash(slot: u32) -> u64 {
    (slot as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}
