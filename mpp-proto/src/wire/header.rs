//! The header block of a data packet (SPEC.md, "Data packets"): sixteen bytes, encrypted as one AES block.

use super::{MAX_PACKETS, Malformed, Parsed};

/// Which way a packet goes. Of a device and a service, the device is the initiator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    /// From the initiator: device to service.
    ToResponder,
    /// From the responder: service to device.
    ToInitiator,
}

/// What a header acknowledges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ack {
    /// The low 32 bits of the number of the peer's datagram.
    pub(crate) number_low: u32,
    /// Bit i: its packet i is kept.
    pub(crate) bitmap: u16,
}

/// The fields of the block. Any sixteen bytes decode to one; nothing in it counts before the packet's tag has been
/// found right, and then [`Header::valid`] judges it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    /// The number of the datagram, 48 bits, per direction from 0.
    pub(crate) number: u64,
    /// Always set in profile 1.
    pub(crate) final_: bool,
    /// Whether an acknowledgement of this packet is wanted.
    pub(crate) wanted: bool,
    /// Sent by Web, not by UDP.
    pub(crate) web: bool,
    /// Which way it was sent.
    pub(crate) direction: Direction,
    /// How many packets the datagram has, 1..=16.
    pub(crate) count: u8,
    /// Which of them this is, from 0.
    pub(crate) index: u8,
    /// How often this packet has been sent before, 0..=7.
    pub(crate) transmission: u8,
    /// The acknowledgement it carries.
    pub(crate) ack: Option<Ack>,
}

const FINAL: u8 = 1;
const ACK: u8 = 1 << 1;
const WANTED: u8 = 1 << 2;
const WEB: u8 = 1 << 3;
const TO_INITIATOR: u8 = 1 << 4;

impl Header {
    /// The highest transmission number.
    pub(crate) const MAX_TRANSMISSION: u8 = 7;

    /// The header of the only packet of datagram `number`, sent for the first time by UDP, with nothing to
    /// acknowledge and no acknowledgement wanted.
    pub(crate) const fn single(number: u64, direction: Direction) -> Self {
        Self {
            number,
            final_: true,
            wanted: false,
            web: false,
            direction,
            count: 1,
            index: 0,
            transmission: 0,
            ack: None,
        }
    }

    /// The fields of a decrypted block. Reserved flags are ignored, as are the bytes of an acknowledgement that is
    /// not there.
    pub(crate) const fn decode(block: [u8; 16]) -> Self {
        let [n0, n1, n2, n3, n4, n5, flags, count, index, transmission, a0, a1, a2, a3, b0, b1] = block;
        let ack =
            Ack { number_low: u32::from_be_bytes([a0, a1, a2, a3]), bitmap: u16::from_be_bytes([b0, b1]) };
        Self {
            number: u64::from_be_bytes([0, 0, n0, n1, n2, n3, n4, n5]),
            final_: flags & FINAL != 0,
            wanted: flags & WANTED != 0,
            web: flags & WEB != 0,
            direction: if flags & TO_INITIATOR != 0 {
                Direction::ToInitiator
            } else {
                Direction::ToResponder
            },
            count,
            index,
            transmission,
            ack: if flags & ACK != 0 { Some(ack) } else { None },
        }
    }

    /// The block before encryption. Of the number the low 48 bits count.
    pub(crate) const fn encode(&self) -> [u8; 16] {
        let [_, _, n0, n1, n2, n3, n4, n5] = self.number.to_be_bytes();
        let mut flags = 0;
        if self.final_ {
            flags |= FINAL;
        }
        if self.wanted {
            flags |= WANTED;
        }
        if self.web {
            flags |= WEB;
        }
        if matches!(self.direction, Direction::ToInitiator) {
            flags |= TO_INITIATOR;
        }
        let (mut number_low, mut bitmap) = ([0; 4], [0; 2]);
        if let Some(ack) = self.ack {
            flags |= ACK;
            number_low = ack.number_low.to_be_bytes();
            bitmap = ack.bitmap.to_be_bytes();
        }
        let ([a0, a1, a2, a3], [b0, b1]) = (number_low, bitmap);
        [n0, n1, n2, n3, n4, n5, flags, self.count, self.index, self.transmission, a0, a1, a2, a3, b0, b1]
    }

    /// Whether an authentic packet may have this header if it goes in direction `expected` (SPEC.md, "Header
    /// validity"); if not, the connection is closed with 400. That all packets of one datagram name the same count
    /// is for the reassembler to see.
    pub(crate) fn valid(&self, expected: Direction) -> Parsed<()> {
        let single = expected == Direction::ToInitiator || self.count == 1;
        let ok = self.direction == expected
            && (1..=MAX_PACKETS).contains(&usize::from(self.count))
            && single
            && self.index < self.count
            && self.transmission <= Self::MAX_TRANSMISSION;
        if ok { Ok(()) } else { Err(Malformed) }
    }

    /// What the nonce of the packet's AEAD is made of: `0^4 || number || index || transmission`. It is unique per
    /// packet sent.
    pub(crate) const fn nonce_input(&self) -> [u8; 12] {
        let [_, _, n0, n1, n2, n3, n4, n5] = self.number.to_be_bytes();
        [0, 0, 0, 0, n0, n1, n2, n3, n4, n5, self.index, self.transmission]
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const EXAMPLE: Header = Header {
        number: 0x0102_0304_0506,
        final_: true,
        wanted: true,
        web: false,
        direction: Direction::ToInitiator,
        count: 16,
        index: 3,
        transmission: 2,
        ack: Some(Ack { number_low: 0xa1a2_a3a4, bitmap: 0xb1b2 }),
    };

    #[test]
    fn example() {
        let block = [1, 2, 3, 4, 5, 6, 0b0001_0111, 16, 3, 2, 0xa1, 0xa2, 0xa3, 0xa4, 0xb1, 0xb2];
        assert_eq!(EXAMPLE.encode(), block);
        assert_eq!(Header::decode(block), EXAMPLE);
        assert_eq!(EXAMPLE.nonce_input(), [0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 3, 2]);
        assert_eq!(EXAMPLE.valid(Direction::ToInitiator), Ok(()));
    }

    // SPEC: R-flags
    #[test]
    fn the_flags_are_where_the_specification_puts_them() {
        let plain = Header::single(0, Direction::ToResponder);
        assert_eq!(plain.encode()[6], 1);
        assert_eq!(Header { final_: false, ..plain }.encode()[6], 0);
        assert_eq!(Header { wanted: true, ..plain }.encode()[6], 1 | 4);
        assert_eq!(Header { web: true, ..plain }.encode()[6], 1 | 8);
        assert_eq!(Header { ack: Some(Ack { number_low: 0, bitmap: 0 }), ..plain }.encode()[6], 1 | 2);
        assert_eq!(Header::single(0, Direction::ToInitiator).encode()[6], 1 | 16);
        // Reserved flags are ignored.
        let mut block = plain.encode();
        block[6] |= 0xe0;
        assert_eq!(Header::decode(block), plain);
    }

    // SPEC: R-header-valid
    #[test]
    fn validity() {
        let to = Direction::ToInitiator;
        for header in [
            Header { count: 0, index: 0, ..EXAMPLE },
            Header { count: 17, ..EXAMPLE },
            Header { count: 3, index: 3, ..EXAMPLE },
            Header { transmission: 8, ..EXAMPLE },
            Header { direction: Direction::ToResponder, ..EXAMPLE },
        ] {
            assert_eq!(header.valid(to), Err(Malformed), "{header:?}");
        }
        // Packets to a service come alone.
        let single = Header::single(7, Direction::ToResponder);
        assert_eq!(single.valid(Direction::ToResponder), Ok(()));
        assert_eq!(Header { count: 2, ..single }.valid(Direction::ToResponder), Err(Malformed));
    }

    proptest! {
        #[test]
        fn round_trip(block: [u8; 16]) {
            let header = Header::decode(block);
            prop_assert_eq!(Header::decode(header.encode()), header);
            let mut canonical = block;
            canonical[6] &= 0x1f;
            if header.ack.is_none() {
                canonical[10..].fill(0);
            }
            prop_assert_eq!(header.encode(), canonical);
        }
    }
}
