//! Which nonces a key has sealed packets with (SPEC.md, "Data packets"). With debug assertions only, so that each test and
//! each history of the simulator makes sure that none is used twice; without them there is nothing here.

#[cfg(debug_assertions)]
use super::replay::{ReplayWindow, Seen};
use crate::wire::Header;

/// The nonces of one key.
#[derive(Clone, Debug, Default)]
pub(crate) struct Nonces {
    #[cfg(debug_assertions)]
    used: Used,
}

#[cfg(debug_assertions)]
#[derive(Clone, Debug, Default)]
struct Used {
    /// The datagrams.
    numbers: ReplayWindow,
    /// The one whose packets may be sealed again, and those that were: one bit for each index and transmission.
    repeated: Option<(u64, u128)>,
}

impl Nonces {
    /// The packet with this header is sealed. It is the only one of its datagram, unless that `repeats`: then packets of
    /// it may follow until another one does that.
    ///
    /// # Panics
    /// With debug assertions, if its nonce was used before.
    #[cfg_attr(not(debug_assertions), allow(clippy::unused_self, clippy::needless_pass_by_ref_mut))]
    pub(crate) fn take(&mut self, header: &Header, repeats: bool) {
        #[cfg(debug_assertions)]
        assert!(self.used.is_new(header, repeats), "this nonce was used before: {header:?}");
        #[cfg(not(debug_assertions))]
        let _ = (header, repeats);
    }
}

#[cfg(debug_assertions)]
impl Used {
    fn is_new(&mut self, header: &Header, repeats: bool) -> bool {
        let number = header.number;
        // Sixteen indexes, eight transmissions.
        let Some(packet) = 1u128.checked_shl(u32::from(header.index) << 3 | u32::from(header.transmission))
        else {
            return false;
        };
        if let Some((_, used)) = self.repeated.as_mut().filter(|(of, _)| *of == number) {
            let is_new = *used & packet == 0;
            *used |= packet;
            return is_new && repeats;
        }
        let is_above = self.repeated.is_none_or(|(of, _)| of < number);
        if repeats {
            self.repeated = Some((number, packet));
        }
        match self.numbers.observe(number) {
            Seen::New => true,
            Seen::Duplicate => false,
            // One that waited for a long time to be sent, while others were.
            Seen::TooOld => repeats && is_above,
        }
    }
}

#[cfg(all(test, debug_assertions))]
mod tests {
    use super::*;
    use crate::wire::Direction;

    fn packet(number: u64, index: u8, transmission: u8) -> Header {
        Header { count: 16, index, transmission, ..Header::single(number, Direction::ToInitiator) }
    }

    /// What becomes of these, of which the last one is to be told.
    fn last(packets: &[(u64, u8, u8, bool)]) -> bool {
        let mut used = Used::default();
        let (last, before) = packets.split_last().unwrap();
        for (number, index, transmission, repeats) in before {
            assert!(used.is_new(&packet(*number, *index, *transmission), *repeats));
        }
        used.is_new(&packet(last.0, last.1, last.2), last.3)
    }

    #[test]
    fn what_was_used_is_known() {
        assert!(last(&[(0, 0, 0, false), (1, 0, 0, false)]));
        assert!(!last(&[(0, 0, 0, false), (1, 0, 0, false), (1, 0, 0, false)]));
        assert!(!last(&[(0, 0, 0, false), (1, 0, 0, false), (0, 0, 0, false)]));
        assert!(!last(&[(0, 0, 0, false), (500, 0, 0, false), (0, 0, 0, false)]), "long ago");
        // One that repeats, with others in between.
        assert!(last(&[(0, 0, 0, true), (0, 1, 0, true), (1, 0, 0, false), (0, 1, 1, true)]));
        assert!(!last(&[(0, 0, 0, true), (0, 1, 0, true), (1, 0, 0, false), (0, 1, 0, true)]));
        assert!(last(&[(0, 15, 7, true), (0, 14, 7, true), (0, 15, 6, true)]));
        assert!(!last(&[(0, 15, 7, true), (0, 14, 7, true), (0, 15, 7, true)]));
        assert!(!last(&[(0, 0, 0, true), (0, 0, 1, false)]), "it does not repeat");
        assert!(!last(&[(0, 0, 0, true), (1, 0, 0, true), (0, 0, 1, true)]), "it was given up");
        assert!(!last(&[(0, 0, 0, false), (0, 1, 0, true)]));
        // One that waited.
        assert!(last(&[(0, 0, 0, true), (2, 0, 0, false), (1, 0, 0, true), (1, 0, 1, true)]));
        assert!(last(&[(0, 0, 0, true), (500, 0, 0, false), (1, 0, 0, true)]));
        assert!(!last(&[(1, 0, 0, true), (500, 0, 0, false), (0, 0, 0, true)]));
    }

    #[test]
    #[should_panic(expected = "this nonce was used before")]
    fn one_that_comes_twice_ends_the_program() {
        let mut nonces = Nonces::default();
        nonces.take(&packet(3, 0, 0), false);
        nonces.take(&packet(3, 0, 0), false);
    }
}
