//! Integers of variable length (RFC 9000, section 16): the two highest bits of the first byte say how many bytes
//! there are. The shortest form is sent, any form is accepted.

use super::{Malformed, Parsed, Reader, Sink};

/// The largest value that can be written: 2^62 - 1.
pub(crate) const VARINT_MAX: u64 = (1 << 62) - 1;

/// The length of the shortest form of `value`: 1, 2, 4 or 8 bytes.
pub(crate) const fn varint_len(value: u64) -> usize {
    match value {
        0..=0x3f => 1,
        0x40..=0x3fff => 2,
        0x4000..=0x3fff_ffff => 4,
        _ => 8,
    }
}

/// Writes `value` in its shortest form. Above [`VARINT_MAX`] that is written instead: times and serials that large
/// do not occur, and a field cut down to 62 bits would be another value.
pub(crate) fn put_varint<S: Sink>(sink: &mut S, value: u64) {
    let value = value.min(VARINT_MAX);
    let bytes = match varint_len(value) {
        1 => return sink.put(&[low_byte(value)]),
        2 => (value | 0x4000) << 48,
        4 => (value | 0x8000_0000) << 32,
        _ => value | 0xc000_0000_0000_0000,
    }
    .to_be_bytes();
    sink.put(bytes.get(..varint_len(value)).unwrap_or_default());
}

const fn low_byte(value: u64) -> u8 {
    value.to_le_bytes()[0]
}

impl<'a> Reader<'a> {
    /// The next varint, in any of its forms.
    pub(crate) fn varint(&mut self) -> Parsed<u64> {
        let first = self.u8()?;
        let more: &[u8] = match first >> 6 {
            0 => &[],
            1 => self.take(1)?,
            2 => self.take(3)?,
            _ => self.take(7)?,
        };
        Ok(more.iter().fold(u64::from(first & 0x3f), |value, byte| value << 8 | u64::from(*byte)))
    }

    /// As many bytes as the varint in front of them says.
    pub(crate) fn varint_bytes(&mut self) -> Parsed<&'a [u8]> {
        let len = usize::try_from(self.varint()?).map_err(|_| Malformed)?;
        self.take(len)
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    fn read(bytes: &[u8]) -> Parsed<(u64, usize)> {
        let mut r = Reader::new(bytes);
        Ok((r.varint()?, r.remaining()))
    }

    /// RFC 9000, appendix A.1.
    // SPEC: R-varint
    #[test]
    fn the_examples_of_rfc_9000() {
        let cases: [(&[u8], u64); 4] = [
            (&[0xc2, 0x19, 0x7c, 0x5e, 0xff, 0x14, 0xe8, 0x8c], 151_288_809_941_952_652),
            (&[0x9d, 0x7f, 0x3e, 0x7d], 494_878_333),
            (&[0x7b, 0xbd], 15_293),
            (&[0x25], 37),
        ];
        for (bytes, value) in cases {
            assert_eq!(read(bytes), Ok((value, 0)));
            let mut out = Vec::new();
            put_varint(&mut out, value);
            assert_eq!(out, bytes);
        }
        // Not the shortest form, but accepted.
        assert_eq!(read(&[0x40, 0x25]), Ok((37, 0)));
    }

    #[test]
    fn boundaries_take_the_shortest_form() {
        for (value, len) in
            [(0, 1), (63, 1), (64, 2), (16_383, 2), (16_384, 4), (1 << 30, 8), (VARINT_MAX, 8)]
        {
            let mut out = Vec::new();
            put_varint(&mut out, value);
            assert_eq!((out.len(), varint_len(value)), (len, len));
            assert_eq!(read(&out), Ok((value, 0)));
        }
        let mut out = Vec::new();
        put_varint(&mut out, u64::MAX);
        assert_eq!(read(&out), Ok((VARINT_MAX, 0)));
    }

    proptest! {
        #[test]
        fn round_trip(value in 0..=VARINT_MAX, tail: Vec<u8>) {
            let mut out = Vec::new();
            put_varint(&mut out, value);
            prop_assert_eq!(out.len(), varint_len(value));
            for cut in 0..out.len() {
                prop_assert_eq!(read(&out[..cut]), Err(Malformed));
            }
            out.extend(&tail);
            prop_assert_eq!(read(&out), Ok((value, tail.len())));
        }
    }
}
