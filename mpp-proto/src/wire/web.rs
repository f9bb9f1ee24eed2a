//! The bodies of the Web Service transport (SPEC.md, "The Web Service transport"): a request holds one packet and nothing
//! else, an answer 0 to 16 of them, each with its length in front.

use alloc::vec::Vec;

use super::{MAX_PACKET, MAX_PACKETS};

/// Adds a packet of at most 1452 bytes to an answer.
pub(crate) fn put_web_packet(body: &mut Vec<u8>, packet: &[u8]) {
    if let Ok(len) = u16::try_from(packet.len()) {
        body.extend_from_slice(&len.to_be_bytes());
        body.extend_from_slice(packet);
    }
}

/// The first packet of an answer and what follows it. `None` at its end, and where it says what it does not hold: what
/// stands in front of that counts, for each packet is authentic by itself or nothing.
pub(crate) fn next_web_packet(body: &mut [u8]) -> Option<(&mut [u8], &mut [u8])> {
    let (len, rest) = body.split_first_chunk_mut::<2>()?;
    let len = usize::from(u16::from_be_bytes(*len));
    if len > MAX_PACKET { None } else { rest.split_at_mut_checked(len) }
}

/// Hands the packets of an answer to `take`, 16 at most. Whether that was all: not so if it says what it does not hold.
pub(crate) fn each_web_packet(body: &mut [u8], mut take: impl FnMut(&mut [u8])) -> bool {
    let mut rest = body;
    for _ in 0..MAX_PACKETS {
        if rest.is_empty() {
            break;
        }
        let Some((packet, more)) = next_web_packet(rest) else { return false };
        take(packet);
        rest = more;
    }
    true
}

#[cfg(test)]
mod tests {
    use std::vec;

    use super::*;

    /// The lengths of the packets that are read, and how much is left over.
    fn read(mut body: Vec<u8>) -> (Vec<usize>, usize) {
        let (mut lengths, mut left, mut rest) = (Vec::new(), body.len(), body.as_mut_slice());
        while let Some((packet, more)) = next_web_packet(rest) {
            lengths.push(packet.len());
            left = more.len();
            rest = more;
        }
        (lengths, left)
    }

    // SPEC: R-web-body
    #[test]
    fn what_is_written_is_read_and_nothing_beyond_its_end() {
        let mut body = Vec::new();
        for len in [42, 1452, 1] {
            put_web_packet(&mut body, &vec![7; len]);
        }
        assert_eq!(body[..2], [0, 42]);
        assert_eq!(read(body.clone()), (vec![42, 1452, 1], 0));
        assert_eq!(read(body[..body.len() - 1].to_vec()), (vec![42, 1452], 2));
        assert_eq!(read(vec![]), (vec![], 0));
        assert_eq!(read(vec![0]), (vec![], 1));
        let mut large = Vec::new();
        put_web_packet(&mut large, &[7; 1453]);
        assert_eq!(read(large), (vec![], 1455), "larger than any packet");
    }
}
