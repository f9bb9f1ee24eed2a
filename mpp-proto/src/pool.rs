//! Storage for very many small records: arrays that grow without moving anything, free lists of their indexes, and
//! doubly linked lists that run through the records. An index is all it takes to name a record.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::mem;
use core::ops::{Index, IndexMut};

/// No index: the end of a list.
pub(crate) const NIL: u32 = u32::MAX;

/// More records than this are refused at construction: a quarter of the indexes stays free for markers such as
/// [`NIL`] and for the bit by which a user tells two kinds of timer keys apart.
pub(crate) const MAX_CAPACITY: u32 = 1 << 30;

/// Records in one chunk.
const CHUNK: usize = 1024;

/// A growable array in chunks of 1024 records. Growing takes one chunk and moves nothing, so a large array never
/// stalls its owner by doubling, and never holds two copies of itself.
#[derive(Debug)]
pub(crate) struct Chunks<T> {
    chunks: Vec<Box<[T]>>,
    len: u32,
    capacity: u32,
}

impl<T: Default> Chunks<T> {
    /// An empty array of at most `capacity` records (at most [`MAX_CAPACITY`]). Takes memory for the pointers to the
    /// chunks only.
    pub(crate) fn new(capacity: u32) -> Self {
        let capacity = capacity.min(MAX_CAPACITY);
        Self { chunks: Vec::with_capacity(at(capacity).div_ceil(CHUNK)), len: 0, capacity }
    }

    /// Records that exist.
    pub(crate) const fn len(&self) -> u32 {
        self.len
    }

    /// Records that may exist.
    pub(crate) const fn capacity(&self) -> u32 {
        self.capacity
    }

    /// The record at `index`, if it exists.
    pub(crate) fn get(&self, index: u32) -> Option<&T> {
        if index < self.len { self.chunks.get(at(index) / CHUNK)?.get(at(index) % CHUNK) } else { None }
    }

    /// The record at `index`, if it exists.
    pub(crate) fn get_mut(&mut self, index: u32) -> Option<&mut T> {
        if index < self.len {
            self.chunks.get_mut(at(index) / CHUNK)?.get_mut(at(index) % CHUNK)
        } else {
            None
        }
    }

    /// Appends a record and names it; `None` at capacity.
    pub(crate) fn push(&mut self, value: T) -> Option<u32> {
        let index = self.len;
        *self.reach(index)? = value;
        Some(index)
    }

    /// The record at `index`, made with all before it (as defaults) if it does not exist yet; `None` beyond the
    /// capacity. For arrays that run in parallel under one [`FreeList`].
    pub(crate) fn reach(&mut self, index: u32) -> Option<&mut T> {
        if index >= self.capacity {
            return None;
        }
        while at(index) / CHUNK >= self.chunks.len() {
            let rest = at(self.capacity) - self.chunks.len() * CHUNK;
            self.chunks.push((0..rest.min(CHUNK)).map(|_| T::default()).collect());
        }
        self.len = self.len.max(index + 1);
        self.get_mut(index)
    }
}

/// For indexes that come from our own tables, never from the network: panics if there is no such record.
impl<T> Index<u32> for Chunks<T> {
    type Output = T;
    fn index(&self, index: u32) -> &T {
        assert!(index < self.len, "index {index} of {}", self.len);
        &self.chunks[at(index) / CHUNK][at(index) % CHUNK]
    }
}

impl<T> IndexMut<u32> for Chunks<T> {
    fn index_mut(&mut self, index: u32) -> &mut T {
        assert!(index < self.len, "index {index} of {}", self.len);
        &mut self.chunks[at(index) / CHUNK][at(index) % CHUNK]
    }
}

/// An index as the language wants it: lossless, as `usize` has at least 32 bits wherever `alloc` is of use to us.
const fn at(index: u32) -> usize {
    index as usize
}

/// Which indexes are in use, 4 bytes for each that ever was. Indexes are handed out densely from 0, and one that came
/// back goes before one that was never used, so memory follows the peak and the order depends on the calls alone.
#[derive(Debug)]
pub(crate) struct FreeList {
    /// For a free index the next free one or `NIL`, for one in use `USED`.
    next: Chunks<u32>,
    head: u32,
    tail: u32,
    used: u32,
}

const USED: u32 = NIL - 1;

impl FreeList {
    /// Of indexes below `capacity` (at most [`MAX_CAPACITY`]); none is in use.
    pub(crate) fn new(capacity: u32) -> Self {
        Self { next: Chunks::new(capacity), head: NIL, tail: NIL, used: 0 }
    }

    /// Indexes in use.
    pub(crate) const fn len(&self) -> u32 {
        self.used
    }

    /// Whether `index` is in use; false for any number that is no index.
    pub(crate) fn is_used(&self, index: u32) -> bool {
        self.next.get(index) == Some(&USED)
    }

    /// Takes a free index; `None` if all are in use.
    pub(crate) fn acquire(&mut self) -> Option<u32> {
        let index = self.head;
        if index == NIL {
            let index = self.next.push(USED)?;
            self.used += 1;
            return Some(index);
        }
        self.head = mem::replace(&mut self.next[index], USED);
        if self.head == NIL {
            self.tail = NIL;
        }
        self.used += 1;
        Some(index)
    }

    /// Gives `index` back as the last to be taken again: it rests as long as possible, so that stale names of it (a
    /// slot and a small generation counter, on the wire) die before it returns. False if it was not in use.
    pub(crate) fn release_last(&mut self, index: u32) -> bool {
        if !self.is_used(index) {
            return false;
        }
        self.next[index] = NIL;
        match self.tail {
            NIL => self.head = index,
            tail => self.next[tail] = index,
        }
        self.tail = index;
        self.used -= 1;
        true
    }

    /// Gives `index` back as the first to be taken again: its memory is still in the cache. For records that nobody
    /// outside the process can name. False if it was not in use.
    pub(crate) fn release_first(&mut self, index: u32) -> bool {
        if !self.is_used(index) {
            return false;
        }
        self.next[index] = self.head;
        if self.head == NIL {
            self.tail = index;
        }
        self.head = index;
        self.used -= 1;
        true
    }
}

/// Records that come and go, named by index. Reuses the record that became free last (it is warm) and keeps the memory
/// of all it ever held: at its usual size it allocates nothing.
#[derive(Debug)]
pub(crate) struct Slab<T> {
    records: Chunks<T>,
    free: FreeList,
}

impl<T: Default> Slab<T> {
    /// An empty slab of at most `capacity` records (at most [`MAX_CAPACITY`]).
    pub(crate) fn new(capacity: u32) -> Self {
        Self { records: Chunks::new(capacity), free: FreeList::new(capacity) }
    }

    /// Records held.
    pub(crate) const fn len(&self) -> u32 {
        self.free.len()
    }

    /// Whether `index` names a record held.
    #[cfg(test)]
    pub(crate) fn contains(&self, index: u32) -> bool {
        self.free.is_used(index)
    }

    /// Holds `value` and names it; `None`, and the value is dropped, if the slab is full.
    pub(crate) fn insert(&mut self, value: T) -> Option<u32> {
        let index = self.free.acquire()?;
        *self.records.reach(index)? = value;
        Some(index)
    }

    /// Takes the record out, so that what it refers to (a body, a key) goes when the caller drops it, not when the
    /// place is reused. `None` if there is none.
    pub(crate) fn remove(&mut self, index: u32) -> Option<T> {
        if self.free.release_first(index) { self.records.get_mut(index).map(mem::take) } else { None }
    }

    /// The record named `index`, if held.
    pub(crate) fn get(&self, index: u32) -> Option<&T> {
        if self.free.is_used(index) { self.records.get(index) } else { None }
    }

    /// The record named `index`, if held.
    pub(crate) fn get_mut(&mut self, index: u32) -> Option<&mut T> {
        if self.free.is_used(index) { self.records.get_mut(index) } else { None }
    }
}

/// For indexes that come from our own tables: panics if no such record is held.
impl<T> Index<u32> for Slab<T> {
    type Output = T;
    fn index(&self, index: u32) -> &T {
        assert_eq!(self.free.next[index], USED, "record {index} is not held");
        &self.records[index]
    }
}

impl<T> IndexMut<u32> for Slab<T> {
    fn index_mut(&mut self, index: u32) -> &mut T {
        assert_eq!(self.free.next[index], USED, "record {index} is not held");
        &mut self.records[index]
    }
}

/// A record's place in one [`List`]. A record that can be in two lists at a time has two of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Link {
    next: u32,
    prev: u32,
}

const _: () = assert!(size_of::<Link>() == 8 && size_of::<List>() == 8);

/// In a `Link`: in no list. Differs from `NIL`, which both ends of a lone element have.
const UNLINKED: u32 = NIL - 1;

impl Default for Link {
    /// In no list.
    fn default() -> Self {
        Self { next: UNLINKED, prev: UNLINKED }
    }
}

impl Link {
    /// Whether the record is in a list.
    pub(crate) const fn is_linked(self) -> bool {
        self.next != UNLINKED
    }

    /// The record behind this one; `None` at the end, and for a record in no list.
    pub(crate) const fn next(self) -> Option<u32> {
        index_of(self.next)
    }

    /// The record in front of this one; `None` at the start, and for a record in no list.
    #[cfg(test)]
    pub(crate) const fn prev(self) -> Option<u32> {
        index_of(self.prev)
    }
}

const fn index_of(raw: u32) -> Option<u32> {
    if raw == NIL || raw == UNLINKED { None } else { Some(raw) }
}

/// Whoever owns the records that a [`List`] runs through.
pub(crate) trait Links {
    /// The link of the record `index`. Panics if there is no such record: indexes in lists are our own.
    fn link(&mut self, index: u32) -> &mut Link;
}

/// A doubly linked list through records that someone else owns; every operation is O(1) and allocates nothing. The
/// records in it must stay where they are and be taken out before they are freed. A record is always taken out
/// through the list it is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct List {
    head: u32,
    tail: u32,
}

impl Default for List {
    /// An empty list.
    fn default() -> Self {
        Self { head: NIL, tail: NIL }
    }
}

impl List {
    /// Whether nothing is in the list.
    #[cfg(test)]
    pub(crate) const fn is_empty(&self) -> bool {
        self.head == NIL
    }

    /// The first record.
    pub(crate) const fn front(&self) -> Option<u32> {
        index_of(self.head)
    }

    /// The last record.
    #[cfg(test)]
    pub(crate) const fn back(&self) -> Option<u32> {
        index_of(self.tail)
    }

    /// Whether the record is linked. That it is in *this* list is for the caller to know, who has one [`Links`] per
    /// kind of list.
    #[cfg(test)]
    pub(crate) fn contains(&self, links: &mut impl Links, index: u32) -> bool {
        links.link(index).is_linked()
    }

    /// Adds the record at the end. False, and nothing changes, if it is linked already.
    pub(crate) fn push_back(&mut self, links: &mut impl Links, index: u32) -> bool {
        debug_assert!(index < UNLINKED);
        let link = links.link(index);
        if link.is_linked() {
            return false;
        }
        *link = Link { next: NIL, prev: self.tail };
        match self.tail {
            NIL => self.head = index,
            tail => links.link(tail).next = index,
        }
        self.tail = index;
        true
    }

    /// Adds the record at the start. False, and nothing changes, if it is linked already.
    pub(crate) fn push_front(&mut self, links: &mut impl Links, index: u32) -> bool {
        debug_assert!(index < UNLINKED);
        let link = links.link(index);
        if link.is_linked() {
            return false;
        }
        *link = Link { next: self.head, prev: NIL };
        match self.head {
            NIL => self.tail = index,
            head => links.link(head).prev = index,
        }
        self.head = index;
        true
    }

    /// Takes the first record out.
    pub(crate) fn pop_front(&mut self, links: &mut impl Links) -> Option<u32> {
        let index = self.front()?;
        self.remove(links, index);
        Some(index)
    }

    /// Takes the record out, wherever in the list it is. False, and nothing changes, if it is not linked.
    pub(crate) fn remove(&mut self, links: &mut impl Links, index: u32) -> bool {
        let Link { next, prev } = mem::take(links.link(index));
        if next == UNLINKED {
            return false;
        }
        debug_assert!(prev != NIL || self.head == index, "record {index} is in another list");
        debug_assert!(next != NIL || self.tail == index, "record {index} is in another list");
        match prev {
            NIL => self.head = next,
            prev => links.link(prev).next = next,
        }
        match next {
            NIL => self.tail = prev,
            next => links.link(next).prev = prev,
        }
        true
    }
}

#[cfg(test)]
mod tests;
