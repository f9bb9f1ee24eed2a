//! Putting datagrams of several packets together (SPEC.md, "Reassembly"). Only devices do it: what a service gets
//! fits one packet.

use alloc::vec::Vec;
use core::ops::Range;
use core::time::Duration;

use super::flight::MAX_PACKETS;
use crate::time::Instant;

/// Partial datagrams of either kind, wanted or not, at most.
const MAX_PARTIALS: usize = 2;
/// A partial datagram that gets no packet for this long is dropped.
const MAX_AGE: Duration = Duration::from_secs(120);

/// What became of a fragment.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Kept {
    /// It completed its datagram: the message.
    Complete(Vec<u8>),
    /// It is kept until the others come.
    Partial,
    /// There is no room for one more partial datagram; nothing was kept.
    Refused,
    /// It contradicts what its datagram's other packets said.
    Inconsistent,
}

/// A datagram of which some packets have come.
#[derive(Debug)]
struct Partial {
    number: u64,
    count: u8,
    wanted: bool,
    /// The fragments, in the order in which they came.
    bytes: Vec<u8>,
    /// Where in `bytes` each fragment lies.
    places: [Option<Range<usize>>; MAX_PACKETS],
    last: Instant,
}

/// The datagrams in the making. Memory is taken for packets that arrived, never for what a header promises, and what
/// was taken is used again: a stream of large messages allocates nothing here.
#[derive(Debug, Default)]
pub(crate) struct Reassembler {
    partials: Vec<Partial>,
    /// Buffers of datagrams that are complete: a new one is made only when there is none, so with the partials at most
    /// one for each partial there can be and one for a message.
    spare: Vec<Vec<u8>>,
}

impl Reassembler {
    /// Takes fragment `index` of `count` of datagram `number`. Duplicates and datagrams of one packet, which need no
    /// memory, never get here.
    pub(crate) fn insert(
        &mut self,
        now: Instant,
        (number, count, index): (u64, u8, u8),
        wanted: bool,
        fragment: &[u8],
    ) -> Kept {
        self.partials.retain(|p| now.since(p.last) < MAX_AGE);
        // All but the last fragment have something in them, or 16 packets of nothing would be a message.
        if fragment.is_empty() && index.saturating_add(1) < count {
            return Kept::Inconsistent;
        }
        let at = match self.partials.iter().position(|p| p.number == number) {
            Some(at) => at,
            None => {
                if self.partials.iter().filter(|p| p.wanted == wanted).count() >= MAX_PARTIALS {
                    // A service has one Notify in flight: of those that want acknowledgement the oldest was given
                    // up by its sender long ago, unless this one is older still.
                    let oldest = self.partials.iter().filter(|p| p.wanted == wanted).map(|p| p.number).min();
                    if !wanted || oldest.is_none_or(|oldest| number < oldest) {
                        return Kept::Refused;
                    }
                    self.partials.retain(|p| !p.wanted || Some(p.number) != oldest);
                }
                let bytes = self.spare.pop().unwrap_or_default();
                let places = [const { None }; MAX_PACKETS];
                self.partials.push(Partial { number, count, wanted, bytes, places, last: now });
                self.partials.len().saturating_sub(1)
            }
        };
        let Some(partial) = self.partials.get_mut(at) else { return Kept::Refused };
        if partial.count != count || partial.wanted != wanted {
            return Kept::Inconsistent;
        }
        let Some(place) = partial.places.get_mut(usize::from(index)) else { return Kept::Inconsistent };
        let start = partial.bytes.len();
        partial.bytes.extend_from_slice(fragment);
        *place = Some(start..partial.bytes.len());
        partial.last = now;
        if partial.places.iter().take(usize::from(count)).any(Option::is_none) {
            return Kept::Partial;
        }
        let partial = self.partials.swap_remove(at);
        let mut message = self.spare.pop().unwrap_or_default();
        for place in partial.places.into_iter().flatten() {
            message.extend_from_slice(partial.bytes.get(place).unwrap_or_default());
        }
        self.reuse(partial.bytes);
        Kept::Complete(message)
    }

    /// Takes back the buffer of a message that has been read.
    pub(crate) fn reuse(&mut self, mut buffer: Vec<u8>) {
        if self.spare.len() <= 2 * MAX_PARTIALS {
            buffer.clear();
            self.spare.push(buffer);
        }
    }

    /// A datagram that wanted acknowledgement is complete: older ones that also did will never be, their sender
    /// has started over.
    pub(crate) fn forget_below(&mut self, number: u64) {
        self.partials.retain(|p| !p.wanted || p.number > number);
    }

    /// Bytes of incomplete datagrams: at most 2 + 2 times 16 fragments.
    pub(crate) fn bytes(&self) -> usize {
        self.partials.iter().map(|p| p.bytes.len()).sum()
    }

    /// Bytes of memory taken: a buffer that grows has room for twice what is in it at most.
    pub(crate) fn memory(&self) -> usize {
        self.partials.iter().map(|p| &p.bytes).chain(&self.spare).map(Vec::capacity).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW: Instant = Instant::from_micros(1);

    proptest! {
        #[test]
        fn any_order_gives_the_message(
            count in 1u8..=16,
            order in Just((0u8..16).collect::<Vec<_>>()).prop_shuffle(),
        ) {
            let mut r = Reassembler::default();
            let mut done = None;
            for i in order.into_iter().filter(|i| *i < count) {
                prop_assert!(done.is_none());
                match r.insert(NOW, (3, count, i), true, &[i; 5]) {
                    Kept::Complete(m) => done = Some(m),
                    other => prop_assert_eq!(other, Kept::Partial),
                }
            }
            let expected: Vec<u8> = (0..count).flat_map(|i| [i; 5]).collect();
            prop_assert_eq!(done, Some(expected));
            prop_assert_eq!(r.bytes(), 0);
        }
    }

    #[test]
    fn buffers_that_are_used_again_are_empty() {
        let mut r = Reassembler::default();
        for number in 0..3 {
            assert_eq!(r.insert(NOW, (number, 2, 1), true, b"yz"), Kept::Partial);
            let Kept::Complete(message) = r.insert(NOW, (number, 2, 0), true, b"x") else { panic!() };
            assert_eq!(message, b"xyz");
            r.reuse(message);
            assert_eq!(r.spare.len(), 2);
        }
    }

    // SPEC: R-partials
    #[test]
    fn whatever_comes_in_the_memory_is_bounded() {
        const FRAGMENT: usize = 1200 - 43;
        let mut r = Reassembler::default();
        let mut state = 1u64;
        let mut draw = |n: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % n
        };
        let (mut bytes, mut memory, mut complete) = (0, 0, 0);
        for turn in 0..50_000u64 {
            // Few numbers, so that many are completed, and only what has not come: the window sees to that.
            let number = turn / 100 + draw(8);
            let index = draw(16) as u8;
            let partial = r.partials.iter().find(|p| p.number == number);
            if partial.is_some_and(|p| p.places[usize::from(index)].is_some()) {
                continue;
            }
            let now = NOW + Duration::from_millis(turn * 10);
            let kept = r.insert(now, (number, 16, index), number % 2 == 0, &[7; FRAGMENT]);
            bytes = bytes.max(r.bytes());
            if let Kept::Complete(message) = kept {
                complete += 1;
                r.reuse(message);
            }
            memory = memory.max(r.memory());
            if draw(500) == 0 {
                r.forget_below(number);
            }
        }
        assert!(complete > 100, "{complete}");
        // 74,048 at most, and the fragment that completes a datagram is not counted as a part of one.
        let most = 2 * MAX_PARTIALS * MAX_PACKETS * FRAGMENT;
        assert!((most / 2..=most).contains(&bytes), "{bytes}");
        let room = (2 * MAX_PARTIALS + 1) * 2 * MAX_PACKETS * FRAGMENT;
        assert!((most / 2..=room).contains(&memory), "{memory}");
    }

    // SPEC: R-partials
    #[test]
    fn two_partials_of_each_kind_and_no_more() {
        let mut r = Reassembler::default();
        for number in 0..2 {
            assert_eq!(r.insert(NOW, (number, 2, 0), true, b"x"), Kept::Partial);
            assert_eq!(r.insert(NOW, (number + 10, 2, 0), false, b"x"), Kept::Partial);
        }
        // Of the wanted ones the oldest gives way to a newer one, and an older one does not come back.
        assert_eq!(r.insert(NOW, (2, 2, 0), true, b"x"), Kept::Partial);
        assert_eq!(r.insert(NOW, (0, 2, 1), true, b"x"), Kept::Refused);
        assert_eq!(r.insert(NOW, (12, 2, 0), false, b"x"), Kept::Refused);
        assert_eq!(r.bytes(), 4);
        r.forget_below(20);
        assert_eq!(r.bytes(), 2, "what is not wanted stays");
        assert_eq!(r.insert(NOW, (21, 2, 0), true, b"x"), Kept::Partial);
        assert_eq!(r.insert(NOW, (10, 2, 1), false, b"y"), Kept::Complete(b"xy".to_vec()));
    }

    // SPEC: R-partial-age
    #[test]
    fn old_partials_go() {
        let mut r = Reassembler::default();
        r.insert(NOW, (0, 2, 0), true, b"x");
        r.insert(NOW, (1, 2, 0), true, b"x");
        let later = NOW + MAX_AGE;
        assert_eq!(r.insert(later, (2, 2, 0), true, b"x"), Kept::Partial);
        assert_eq!(r.bytes(), 1);
    }

    // SPEC: R-consistent
    #[test]
    fn contradictions_are_named() {
        let mut r = Reassembler::default();
        r.insert(NOW, (0, 3, 0), true, b"x");
        assert_eq!(r.insert(NOW, (0, 2, 1), true, b"x"), Kept::Inconsistent);
        assert_eq!(r.insert(NOW, (1, 2, 0), true, b""), Kept::Inconsistent);
        assert_eq!(r.insert(NOW, (1, 2, 1), true, &[]), Kept::Partial);
    }
}
