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
/// Small questions that are answered in a row while nothing large arrives. On a path that loses three packets of ten,
/// large and small alike, that happened to none of half a million full Notifies.
const ROUNDS: u8 = 4;

impl Service {
    /// A Notify has timed out. If its large packets do not get through, a small one asks whether anything does: a path
    /// challenge, as the answer comes at once and says in its header what has been kept of the Notify.
    pub(super) fn check_width(&mut self, slot: u32) {
        if self.is_stuck(slot) {
            self.ask_small(slot, 0);
        }
    }

    /// A path response, which may be the answer: then the large packets are sent once more and the question is asked
    /// again, until it is sure that they, and only they, are lost. The device has to connect anew, which proves the path.
    pub(super) fn small_arrived(&mut self, now: Instant, slot: u32, response: [u8; 8]) {
        let asked = self.sendings.get(self.table.hot[slot].sending).and_then(|s| s.asked);
        let Some((_, rounds)) = asked.filter(|(challenge, _)| *challenge == response) else { return };
        if !self.is_stuck(slot) {
            return;
        }
        if rounds + 1 >= ROUNDS {
            self.stats.shrunk += 1;
            return self.close_record(now, slot, CloseReason::ByService(Code::TIMEOUT));
        }
        self.ask_small(slot, rounds + 1);
        self.resend(slot);
    }

    fn ask_small(&mut self, slot: u32, rounds: u8) {
        let challenge = self.rng.array();
        let sending = self.table.hot[slot].sending;
        if let Some(sending) = self.sendings.get_mut(sending) {
            sending.asked = Some((challenge, rounds));
            self.say(slot, Say::Challenge { challenge, pad: false });
        }
    }

    /// Whether the large packets of the Notify in flight do not get through.
    fn is_stuck(&self, slot: u32) -> bool {
        let sending = self.sendings.get(self.table.hot[slot].sending);
        sending.is_some_and(|s| s.flight().is_stuck(s.larger_than(NARROW_PART, self.capacity(slot))))
    }
}
