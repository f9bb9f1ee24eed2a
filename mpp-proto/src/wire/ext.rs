//! Extension lists (RUD; SPEC.md, "Extension lists"): items of tag, length and value, ended by 255.
//!
//! A tag is 0 to 15 octets of 0..=127 and then one of 128..=254. This profile sends tags of one octet and skips the
//! longer ones.

use super::{Malformed, Parsed, Reader, Sink, put_varint};

/// Ends a list. It is always there, also if the list is empty.
pub(crate) const END: u8 = 255;

/// The most octets in front of the last one of a tag.
const MAX_LEAD: usize = 15;

/// A list that was found to be well-formed. Copying it is free, and it can be walked any number of times.
#[derive(Clone, Copy, PartialEq, Eq)]
#[cfg_attr(test, derive(Debug))]
pub(crate) struct ExtensionList<'a>(&'a [u8]);

impl<'a> ExtensionList<'a> {
    /// Reads a list up to and including its 255.
    pub(crate) fn parse(reader: &mut Reader<'a>) -> Parsed<Self> {
        let start = reader.rest();
        while item(reader)?.is_some() {}
        let len = start.len().saturating_sub(reader.remaining());
        start.get(..len).map(Self).ok_or(Malformed)
    }

    /// The items with tags of one octet, in order.
    pub(crate) const fn iter(self) -> Items<'a> {
        Items(Reader::new(self.0))
    }
}

/// The items of a list: tag, 128..=254, and value.
#[derive(Clone, Copy)]
pub(crate) struct Items<'a>(Reader<'a>);

impl<'a> Iterator for Items<'a> {
    type Item = (u8, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            // The list was checked before, so an error cannot come; if it did, the list would end here.
            match item(&mut self.0) {
                Ok(Some((Some(tag), value))) => return Some((tag, value)),
                Ok(Some((None, _))) => {}
                Ok(None) | Err(Malformed) => {
                    self.0 = Reader::new(&[]);
                    return None;
                }
            }
        }
    }
}

/// The next item, its tag `None` if longer than one octet; `None` at the end of the list.
fn item<'a>(reader: &mut Reader<'a>) -> Parsed<Option<(Option<u8>, &'a [u8])>> {
    let first = reader.u8()?;
    if first == END {
        return Ok(None);
    }
    let mut last = first;
    for _ in 0..MAX_LEAD {
        if last >= 128 {
            break;
        }
        last = reader.u8()?;
    }
    if !(128..END).contains(&last) {
        return Err(Malformed);
    }
    let value = reader.varint_bytes()?;
    Ok(Some(((first >= 128).then_some(first), value)))
}

/// Which single-valued tags have been seen.
#[derive(Default)]
pub(crate) struct Seen(u128);

impl Seen {
    /// Notes `tag`; an error if it was there before.
    pub(crate) fn once(&mut self, tag: u8) -> Parsed<()> {
        let bit = 1u128.checked_shl(u32::from(tag.checked_sub(128).ok_or(Malformed)?)).ok_or(Malformed)?;
        if self.0 & bit != 0 {
            return Err(Malformed);
        }
        self.0 |= bit;
        Ok(())
    }
}

/// Writes the tag and the length of an item whose value of `len` bytes follows.
pub(crate) fn put_item_head<S: Sink>(sink: &mut S, tag: u8, len: usize) {
    debug_assert!((128..END).contains(&tag));
    sink.put(&[tag]);
    put_varint(sink, u64::try_from(len).unwrap_or(u64::MAX));
}

/// Writes an item.
pub(crate) fn put_item<S: Sink>(sink: &mut S, tag: u8, value: &[u8]) {
    put_item_head(sink, tag, value.len());
    sink.put(value);
}

/// Writes an item whose value is a varint.
pub(crate) fn put_varint_item<S: Sink>(sink: &mut S, tag: u8, value: u64) {
    put_item_head(sink, tag, super::varint_len(value));
    put_varint(sink, value);
}

/// Ends the list.
pub(crate) fn put_end<S: Sink>(sink: &mut S) {
    sink.put(&[END]);
}

/// The whole of `value` as one varint.
pub(crate) fn varint_value(value: &[u8]) -> Parsed<u64> {
    let mut reader = Reader::new(value);
    let number = reader.varint()?;
    reader.end()?;
    Ok(number)
}

/// The whole of `value` as `N` bytes.
pub(crate) fn array_value<const N: usize>(value: &[u8]) -> Parsed<[u8; N]> {
    value.try_into().map_err(|_| Malformed)
}

#[cfg(test)]
mod tests {
    use alloc::vec;
    use alloc::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    /// Tags with their values.
    type Owned = Vec<(u8, Vec<u8>)>;

    /// The items of a list, and how much follows it.
    fn parse(bytes: &[u8]) -> Parsed<(Owned, usize)> {
        let mut reader = Reader::new(bytes);
        let list = ExtensionList::parse(&mut reader)?;
        Ok((list.iter().map(|(tag, value)| (tag, value.to_vec())).collect(), reader.remaining()))
    }

    // SPEC: R-long-tags
    #[test]
    fn longer_tags_are_skipped() {
        assert_eq!(parse(&[0, 127, 254, 2, 9, 9, 130, 1, 7, 255, 4, 5]), Ok((vec![(130, vec![7])], 2)));
    }

    // SPEC: R-list-end
    #[test]
    fn the_final_255_is_mandatory_and_never_part_of_a_tag() {
        assert_eq!(parse(&[]), Err(Malformed));
        assert_eq!(parse(&[255]), Ok((vec![], 0)));
        assert_eq!(parse(&[130, 0]), Err(Malformed));
        assert_eq!(parse(&[130, 1]), Err(Malformed));
        assert_eq!(parse(&[5, 255, 0, 255]), Err(Malformed));
        // 15 leading octets are the most.
        let mut longest = vec![1; 15];
        longest.extend([128, 0, 255]);
        assert_eq!(parse(&longest), Ok((vec![], 0)));
        longest.insert(0, 1);
        assert_eq!(parse(&longest), Err(Malformed));
    }

    #[test]
    fn a_tag_is_seen_once() {
        let mut seen = Seen::default();
        for tag in 128..=255 {
            assert_eq!(seen.once(tag), Ok(()));
        }
        assert_eq!(seen.once(130), Err(Malformed));
        assert_eq!(Seen::default().once(127), Err(Malformed));
    }

    proptest! {
        #[test]
        fn round_trip(items: Vec<(u8, Vec<u8>)>, tail: Vec<u8>) {
            let items: Vec<_> = items.into_iter().map(|(t, v)| (128 + t % 127, v)).collect();
            let mut out = Vec::new();
            for (tag, value) in &items {
                put_item(&mut out, *tag, value);
            }
            put_end(&mut out);
            for cut in 0..out.len() {
                prop_assert_eq!(parse(&out[..cut]), Err(Malformed));
            }
            out.extend(&tail);
            prop_assert_eq!(parse(&out), Ok((items, tail.len())));
        }

        #[test]
        fn total(bytes: Vec<u8>) {
            if let Ok((items, rest)) = parse(&bytes) {
                prop_assert!(items.len() * 2 + rest < bytes.len());
            }
        }
    }
}
