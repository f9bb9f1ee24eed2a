//! Paths that become too narrow for what they carried before (SPEC.md, "Paths that shrink"). The exchange proved full
//! packets both ways; if a route changes, they may vanish without a word, while heartbeats go on.

use super::outbox::Say;
use super::{CloseReason, Service};
use crate::time::Instant;
use crate::wire::{AEAD_TAG, Code, DEVICE_IDENTIFIER, HEADER};

/// Packets up to this size get through wherever anything does.
const NARROW: usize = 600;
/// What they carry of a message.
const NARROW_PART: usize = NARROW - DEVICE_IDENTIFIER - HEADER - AEAD_TAG - 3;

impl Service {
    /// A Notify has timed out. If its large packets do not get through and small ones do, the device has to connect
    /// anew, which proves the path again. If nothing small has been sent, a Status asks.
    pub(super) fn check_width(&mut self, now: Instant, slot: u32) {
        let Some((stuck, small_arrived)) = self.width(slot) else { return };
        if stuck && small_arrived {
            self.shrunk(now, slot);
        } else if stuck {
            // Numbers are taken when packets are written, and what is written before the Notify goes on comes next.
            let next = u64::from(self.table.ids[slot].next_number);
            let sending = self.table.hot[slot].sending;
            if let Some(sending) = self.sendings.get_mut(sending) {
                sending.probe.get_or_insert(next);
            }
            let seen = self.table.hot[slot].remote();
            self.say(slot, Say::Status { request: None, seen });
        }
    }

    /// Something has been acknowledged: if it is such a Status while the large packets still are not, that ends the
    /// connection. Whether it did.
    pub(super) fn probe_arrived(&mut self, now: Instant, slot: u32, number: u64) -> bool {
        let sending = self.sendings.get(self.table.hot[slot].sending);
        // Nothing but the Notify and such questions wants an acknowledgement.
        let is_probe = sending
            .is_some_and(|s| s.probe.is_some_and(|first| number >= first) && number != s.flight().number());
        let shrunk = is_probe && self.width(slot).is_some_and(|(stuck, _)| stuck);
        if shrunk {
            self.shrunk(now, slot);
        }
        shrunk
    }

    /// Whether the large packets of the Notify in flight do not get through, and whether a small one of it has.
    fn width(&self, slot: u32) -> Option<(bool, bool)> {
        let sending = self.sendings.get(self.table.hot[slot].sending)?;
        let large = sending.larger_than(NARROW_PART, self.capacity(slot));
        Some((sending.flight().is_stuck(large), sending.flight().has_arrived_beside(large)))
    }

    fn shrunk(&mut self, now: Instant, slot: u32) {
        self.stats.shrunk += 1;
        self.close_record(now, slot, CloseReason::ByService(Code::TIMEOUT));
    }
}
