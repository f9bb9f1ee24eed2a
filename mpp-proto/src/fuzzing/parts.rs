//! Parts that the benchmarks measure alone.

use alloc::vec::Vec;

use crate::crypto::{PacketKeys, open_header, open_packet, seal_packet};
use crate::wheel::{Node, Nodes, Wheel};
use crate::wire::{AEAD_TAG, DEVICE_IDENTIFIER, Direction, HEADER, Header};

const KEYS: PacketKeys<'static> = PacketKeys { key: &[1; 32], iv: &[2; 12], header: &[3; 32] };

/// Bytes of a packet to a device around its plaintext.
pub const PACKET_OVERHEAD: usize = DEVICE_IDENTIFIER + HEADER + AEAD_TAG;

/// Seals a packet to a device in place, from raw keys: header, AEAD, header encryption.
pub fn seal(packet: &mut [u8], number: u64) {
    let header = Header::single(number, Direction::ToInitiator);
    seal_packet(&KEYS, packet, DEVICE_IDENTIFIER, header.encode(), header.nonce_input());
}

/// Opens what [`seal`] sealed, in place. False if it is not authentic.
pub fn open(packet: &mut [u8]) -> bool {
    let Some(block) = packet.get(DEVICE_IDENTIFIER..).and_then(|p| p.first_chunk()) else { return false };
    let block = open_header(KEYS.header, block);
    let nonce = Header::decode(block).nonce_input();
    open_packet(KEYS.key, KEYS.iv, packet, DEVICE_IDENTIFIER, &block, nonce).is_ok()
}

struct Timer(Node);

impl Nodes for Vec<Timer> {
    fn node(&mut self, key: u32) -> &mut Node {
        &mut self[key as usize].0
    }
}

/// A wheel and its timers.
pub struct Timers {
    wheel: Wheel,
    nodes: Vec<Timer>,
}

impl Timers {
    /// `count` timers, none of them scheduled.
    pub fn new(count: u32) -> Self {
        let nodes = (0..count).map(|_| Timer(Node::default())).collect();
        Self { wheel: Wheel::new(0), nodes }
    }

    /// Files timer `key` for tick `at`, instead of where it was filed.
    pub fn schedule(&mut self, key: u32, at: u32) {
        self.wheel.schedule(&mut self.nodes, key, at);
    }

    /// Lets everything due by `now` fire, and says how many timers that were.
    pub fn expire(&mut self, now: u32) -> u32 {
        let mut fired = 0;
        while self.wheel.expire(&mut self.nodes, now).is_some() {
            fired += 1;
        }
        fired
    }
}
