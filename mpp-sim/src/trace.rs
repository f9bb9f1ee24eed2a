//! A fingerprint of everything that machines sent.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use mpp_proto::Instant;

use crate::network::Packet;

/// A fingerprint of a run: of every packet that a machine sent, its time, its addresses and its bytes, in order. Two
/// runs with equal traces did the same.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Trace {
    hash: u64,
    packets: u64,
}

impl Default for Trace {
    fn default() -> Self {
        Self { hash: 0xCBF2_9CE4_8422_2325, packets: 0 }
    }
}

impl Trace {
    /// The number of packets in it.
    pub fn packets(&self) -> u64 {
        self.packets
    }

    pub(crate) fn packet(&mut self, now: Instant, packet: &Packet) {
        self.packets += 1;
        self.word(now.as_micros());
        self.address(packet.from);
        self.address(packet.to);
        self.bytes(&packet.payload);
    }

    fn address(&mut self, address: SocketAddr) {
        match address.ip() {
            IpAddr::V4(ip) => self.bytes(&ip.octets()),
            IpAddr::V6(ip) => self.bytes(&ip.octets()),
        }
        self.word(u64::from(address.port()));
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.word(bytes.len() as u64);
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.word(u64::from_le_bytes(word));
        }
    }

    // FNV-1a over words instead of bytes, with a rotation so that high bits reach low ones.
    fn word(&mut self, word: u64) {
        self.hash = (self.hash ^ word).wrapping_mul(0x0000_0100_0000_01B3).rotate_left(29);
    }
}

impl fmt::Debug for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Trace({} packets, {:016x})", self.packets, self.hash)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_difference_shows() {
        let packet = Packet {
            from: "192.0.2.1:1".parse().unwrap(),
            to: "192.0.2.2:2".parse().unwrap(),
            payload: vec![1; 20],
        };
        let trace = |at, packet: &Packet| {
            let mut t = Trace::default();
            t.packet(Instant::from_micros(at), packet);
            t
        };
        let base = trace(5, &packet);
        assert_eq!(base, trace(5, &packet));
        assert_ne!(base, trace(6, &packet));
        assert_ne!(base, trace(5, &Packet { from: packet.to, ..packet.clone() }));
        for i in 0..20 {
            let mut other = packet.clone();
            other.payload[i] ^= 0x80;
            assert_ne!(base, trace(5, &other));
        }
    }
}
