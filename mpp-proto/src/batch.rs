//! Packets on their way out, for many destinations at once.

use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;
use core::num::NonZeroU16;

use crate::path::{Path, Transmit};

/// Packets to send, made once and reused: one buffer of fixed size, and where each part of it goes.
///
/// A service fills it with [`Service::poll_transmit`](crate::Service::poll_transmit); the host sends every entry and
/// clears it.
#[derive(Debug)]
pub struct TransmitBatch {
    buffer: Box<[u8]>,
    used: usize,
    entries: Vec<Transmit>,
    max_entries: usize,
}

impl TransmitBatch {
    /// Room for `packets` packets of the largest size, 1452 bytes.
    pub fn new(packets: usize) -> Self {
        let packets = packets.max(1);
        Self {
            buffer: vec![0; packets * crate::wire::MAX_PACKET].into_boxed_slice(),
            used: 0,
            entries: Vec::with_capacity(packets),
            max_entries: packets,
        }
    }

    /// Forgets what is in it.
    pub fn clear(&mut self) {
        self.used = 0;
        self.entries.clear();
    }

    /// Whether it holds nothing.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The number of transmissions in it.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// The transmissions and their bytes, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&Transmit, &[u8])> {
        self.entries.iter().scan(0, |at, t| {
            let bytes = self.buffer.get(*at..*at + t.len)?;
            *at += t.len;
            Some((t, bytes))
        })
    }

    /// Room for one more packet of the largest size, if there is any.
    pub(crate) fn room(&mut self) -> Option<&mut [u8]> {
        if self.entries.len() == self.max_entries {
            return None;
        }
        self.buffer.get_mut(self.used..self.used + crate::wire::MAX_PACKET)
    }

    /// Takes the first `len` bytes of [`Self::room`] as a packet for `path`.
    pub(crate) fn push(&mut self, path: Path, len: usize) {
        self.used += len;
        self.entries.push(Transmit { path, len, segment_size: None });
    }

    /// Takes the first `len` bytes of [`Self::room`] as the next packet of the newest entry, whose packets are all
    /// of `segment` bytes but the last.
    pub(crate) fn extend(&mut self, segment: u16, len: usize) {
        self.used += len;
        if let Some(last) = self.entries.last_mut() {
            last.len += len;
            last.segment_size = NonZeroU16::new(segment);
        }
    }
}
