//! Which datagrams and packets have been seen (SPEC.md, "Replay"). Consulted and moved only after a packet proved
//! authentic.

/// How many datagram numbers below the highest are remembered.
pub(crate) const WINDOW: u64 = 128;

/// What the window says of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    /// Never seen.
    New,
    /// Seen before.
    Duplicate,
    /// Too old to tell: treated like a replay.
    TooOld,
}

/// The window for datagrams of one packet each, as devices send them: one bit a number.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ReplayWindow {
    /// One above the highest number seen, so that the default is empty.
    end: u64,
    /// Bit i: number `end - 1 - i` was seen. Two halves, lower first, so that the window takes 24 bytes.
    bits: [u64; 2],
}

impl ReplayWindow {
    /// Judges `number` and remembers it.
    pub(crate) fn observe(&mut self, number: u64) -> Seen {
        if number >= self.end {
            let shift = u32::try_from(number.saturating_sub(self.end).saturating_add(1)).unwrap_or(u32::MAX);
            self.set_bits(self.bits().checked_shl(shift).unwrap_or(0) | 1);
            self.end = number.saturating_add(1);
            return Seen::New;
        }
        let Ok(age) = u32::try_from(self.end.saturating_sub(1).saturating_sub(number)) else {
            return Seen::TooOld;
        };
        match 1u128.checked_shl(age) {
            None => Seen::TooOld,
            Some(bit) if self.bits() & bit != 0 => Seen::Duplicate,
            Some(bit) => {
                self.set_bits(self.bits() | bit);
                Seen::New
            }
        }
    }

    /// The highest number seen.
    pub(crate) fn highest(&self) -> Option<u64> {
        self.end.checked_sub(1)
    }

    fn bits(&self) -> u128 {
        let [low, high] = self.bits;
        u128::from(high) << 64 | u128::from(low)
    }

    fn set_bits(&mut self, bits: u128) {
        self.bits = [bits as u64, (bits >> 64) as u64];
    }
}

/// The window for datagrams of up to 16 packets, as the service sends them: 16 bits a number, bit i for packet i.
#[derive(Clone, Debug)]
pub(crate) struct PacketWindow {
    /// One above the highest number seen.
    end: u64,
    /// The packets kept of number n, at n mod 128.
    kept: [u16; WINDOW as usize],
}

impl PacketWindow {
    pub(crate) const fn new() -> Self {
        Self { end: 0, kept: [0; WINDOW as usize] }
    }

    /// Judges packet `index` of datagram `number`. A new one counts as seen only once [`Self::keep`] is called.
    pub(crate) fn judge(&self, number: u64, index: u8) -> Seen {
        if number >= self.end {
            return Seen::New;
        }
        if self.end.saturating_sub(number) > WINDOW {
            return Seen::TooOld;
        }
        if self.kept(number) & bit(index) != 0 { Seen::Duplicate } else { Seen::New }
    }

    /// Moves the window up to `number`, forgetting what falls out of it.
    pub(crate) fn advance(&mut self, number: u64) {
        if number >= self.end {
            let first = self.end.max(number.saturating_sub(WINDOW.saturating_sub(1)));
            for n in first..=number {
                *self.entry(n) = 0;
            }
            self.end = number.saturating_add(1);
        }
    }

    /// Remembers that packet `index` of `number` was kept. `number` lies in the window.
    pub(crate) fn keep(&mut self, number: u64, index: u8) {
        *self.entry(number) |= bit(index);
    }

    /// The packets kept of `number`; none outside the window.
    pub(crate) fn kept(&self, number: u64) -> u16 {
        if number >= self.end || self.end.saturating_sub(number) > WINDOW {
            return 0;
        }
        let at = usize::try_from(number % WINDOW).unwrap_or(0);
        self.kept.get(at).copied().unwrap_or(0)
    }

    #[allow(clippy::indexing_slicing, reason = "the remainder is below the length")]
    fn entry(&mut self, number: u64) -> &mut u16 {
        &mut self.kept[(number % WINDOW) as usize]
    }
}

fn bit(index: u8) -> u16 {
    1u16.checked_shl(u32::from(index)).unwrap_or(0)
}

/// The number nearest to `highest` whose low 32 bits are `low` (SPEC.md, "Acknowledgement"), among those not above
/// it and those above it.
pub(crate) fn nearest(highest: u64, low: u32) -> u64 {
    const SPAN: u64 = 1 << 32;
    let base = highest & !(SPAN.wrapping_sub(1));
    let here = base | u64::from(low);
    let below = here.checked_sub(SPAN);
    let above = here.saturating_add(SPAN);
    let mut best = here;
    for candidate in [below, Some(above)].into_iter().flatten() {
        if candidate.abs_diff(highest) < best.abs_diff(highest) {
            best = candidate;
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;
    use std::vec::Vec;

    proptest! {
        // SPEC: R-window
        #[test]
        fn the_window_agrees_with_a_set(numbers in proptest::collection::vec(0u64..600, 1..400)) {
            let mut window = ReplayWindow::default();
            let mut seen = BTreeSet::new();
            for n in numbers {
                let highest = seen.last().copied();
                let expected = if seen.contains(&n) && highest.is_some_and(|h| h - n < WINDOW) {
                    Seen::Duplicate
                } else if highest.is_some_and(|h| h > n && h - n >= WINDOW) {
                    Seen::TooOld
                } else {
                    Seen::New
                };
                prop_assert_eq!(window.observe(n), expected);
                seen.insert(n);
            }
        }

        // SPEC: R-window
        #[test]
        fn the_packet_window_agrees_with_a_set(
            packets in proptest::collection::vec((0u64..500, 0u8..16), 1..600),
        ) {
            let mut window = PacketWindow::new();
            let mut seen = BTreeSet::new();
            let mut highest: Option<u64> = None;
            for (n, i) in packets {
                let too_old = highest.is_some_and(|h| h > n && h - n >= WINDOW);
                let expected = match (too_old, seen.contains(&(n, i))) {
                    (true, _) => Seen::TooOld,
                    (false, true) => Seen::Duplicate,
                    (false, false) => Seen::New,
                };
                prop_assert_eq!(window.judge(n, i), expected);
                if expected == Seen::New {
                    window.advance(n);
                    window.keep(n, i);
                    seen.insert((n, i));
                    highest = Some(highest.map_or(n, |h| h.max(n)));
                }
            }
        }

        // SPEC: R-nearest
        #[test]
        fn the_nearest_number_has_the_low_bits(highest in 0u64..1 << 48, off in -1_000_000i64..1_000_000) {
            let meant = highest.saturating_add_signed(off);
            prop_assert_eq!(nearest(highest, meant as u32), meant);
        }
    }

    #[test]
    fn a_jump_forgets_everything() {
        let mut window = ReplayWindow::default();
        let first: Vec<_> = (0..200).map(|n| window.observe(n)).collect();
        assert!(first.iter().all(|s| *s == Seen::New));
        assert_eq!(window.observe(1 << 40), Seen::New);
        assert_eq!(window.observe(199), Seen::TooOld);
        assert_eq!(window.observe((1 << 40) - 127), Seen::New);
        assert_eq!(window.observe((1 << 40) - 128), Seen::TooOld);
        assert_eq!(window.highest(), Some(1 << 40));
    }
}
