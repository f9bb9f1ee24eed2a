//! What arrives at the wrong shard's socket: handed over in one letter per received batch.

use std::collections::VecDeque;

use mpp_proto::{Datagram, Path};

/// Packets that may wait for a shard that does not keep up. Beyond, they are lost, as in a receive buffer that is full.
const WAITING: usize = 1024;

/// Packets for one other shard.
#[derive(Debug, Default)]
pub(super) struct Letter {
    bytes: Vec<u8>,
    packets: Vec<(Path, usize)>,
}

impl Letter {
    /// Puts a packet in.
    pub(super) fn add(&mut self, packet: &Datagram<'_>) {
        self.bytes.extend_from_slice(packet.payload);
        self.packets.push((packet.path, packet.payload.len()));
    }

    /// How many packets are in it.
    pub(super) const fn len(&self) -> usize {
        self.packets.len()
    }

    /// The packets, in the order they were put in.
    pub(super) fn packets(&mut self) -> impl Iterator<Item = Datagram<'_>> {
        let mut rest = &mut *self.bytes;
        self.packets.iter().map_while(move |(path, len)| {
            let (payload, after) = std::mem::take(&mut rest).split_at_mut_checked(*len)?;
            rest = after;
            Some(Datagram { path: *path, payload })
        })
    }
}

/// The letters that wait for a shard.
#[derive(Debug, Default)]
pub(super) struct Mailbox {
    letters: VecDeque<Letter>,
    packets: usize,
}

impl Mailbox {
    /// Takes a letter in; `false` if it is full, and the packets are lost.
    pub(super) fn put(&mut self, letter: Letter) -> bool {
        let room = self.packets + letter.len() <= WAITING;
        if room {
            self.packets += letter.len();
            self.letters.push_back(letter);
        }
        room
    }

    /// The oldest letter.
    pub(super) fn take(&mut self) -> Option<Letter> {
        let letter = self.letters.pop_front()?;
        self.packets -= letter.len();
        Some(letter)
    }
}

#[cfg(test)]
mod tests {
    use mpp_proto::LinkId;

    use super::*;

    fn letter(packets: &[&[u8]]) -> Letter {
        let mut letter = Letter::default();
        for (n, packet) in (0..).zip(packets) {
            let path = Path::new(LinkId(n), ([127, 0, 0, 1], n).into());
            letter.add(&Datagram { path, payload: &mut packet.to_vec() });
        }
        letter
    }

    #[test]
    fn packets_come_out_as_they_went_in() {
        let (mut mail, packets) = (Mailbox::default(), [&b"one"[..], b"", b"three"]);
        assert!(mail.put(letter(&packets)));
        let mut got = mail.take().unwrap();
        for (n, (datagram, expected)) in (0..).zip(got.packets().zip(packets)) {
            assert_eq!((datagram.path.link, &*datagram.payload), (LinkId(n), expected));
        }
        assert_eq!((got.packets().count(), mail.take().is_none()), (3, true));
    }

    #[test]
    fn a_shard_that_does_not_keep_up_costs_bounded_memory() {
        let (mut mail, full) = (Mailbox::default(), [&b"packet"[..]; 32]);
        let taken = (0..100).filter(|_| mail.put(letter(&full))).count();
        assert_eq!(taken, WAITING / 32);
        assert!(mail.take().is_some());
        assert!(mail.put(letter(&full)) && !mail.put(letter(&full)));
    }
}
