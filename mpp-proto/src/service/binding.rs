//! Binding requests of any STUN client (SPEC.md, "STUN"): where the packet came from, as the world sees it.

use super::Service;
use crate::path::{Datagram, Disposition, DropReason};
use crate::stun::{BindingRequest, BindingResponse};
use crate::time::Instant;
use crate::wire::Emit;

impl Service {
    /// A packet that has the form of a Binding request. Nothing is remembered of who asked.
    pub(super) fn handle_binding(&mut self, now: Instant, datagram: &Datagram<'_>) -> Disposition {
        if !self.config.stun {
            return Disposition::NotForUs;
        }
        if self.closed {
            return Disposition::Dropped(DropReason::Closed);
        }
        if self.outbox.is_full() {
            return Disposition::Dropped(DropReason::Capacity);
        }
        // Before its checksum is computed: what is dropped should cost nothing.
        if !self.bindings.take(now, datagram.path.remote.ip()) {
            return Disposition::Dropped(DropReason::RateLimited);
        }
        let Ok(request) = BindingRequest::parse(datagram.payload) else {
            return Disposition::Dropped(DropReason::Malformed);
        };
        let mut packet = [0; BindingResponse::MAX];
        if let Ok(len) = request.answer(datagram.path.remote).write(&mut packet) {
            self.outbox.small(datagram.path, packet.get(..len).unwrap_or_default());
            self.stats.bindings += 1;
        }
        Disposition::Accepted
    }
}
