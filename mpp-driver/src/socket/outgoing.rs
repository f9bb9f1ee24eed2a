//! Packets of a device on their way out, one datagram of the protocol at a time.

use std::task::Context;

use mpp_proto::{LinkId, Transmit};

use super::Link;

/// Room for one datagram of the protocol: 16 packets of the largest size.
const ROOM: usize = 16 * 1452;

/// The packet that waits for room in its socket.
#[derive(Debug)]
struct Pending {
    transmit: Transmit,
    sent: usize,
}

/// What goes out.
#[derive(Debug)]
pub(crate) struct Outgoing {
    out: Vec<u8>,
    pending: Option<Pending>,
}

impl Outgoing {
    pub(crate) fn new() -> Self {
        Self { out: vec![0; ROOM], pending: None }
    }

    /// Whether nothing waits.
    pub(crate) const fn is_empty(&self) -> bool {
        self.pending.is_none()
    }

    /// This link is gone, and what waits for it.
    pub(crate) fn forget(&mut self, link: LinkId) {
        self.pending.take_if(|p| p.transmit.path.link == link);
    }

    /// Sends up to so many of what `next` makes; returns whether there may be more. A packet for which there is no room
    /// waits, and so does all else: packets are made when they can go.
    pub(crate) fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        links: &[Link],
        rounds: usize,
        mut next: impl FnMut(&mut [u8]) -> Option<Transmit>,
    ) -> bool {
        let Self { out, pending } = self;
        for _ in 0..rounds {
            if pending.is_none() {
                match next(out) {
                    Some(transmit) => *pending = Some(Pending { transmit, sent: 0 }),
                    None => return false,
                }
            }
            let Some(Pending { transmit, sent }) = pending else { return false };
            let link = links.iter().find(|l| l.id == transmit.path.link);
            let bytes = out.get(..transmit.len).unwrap_or_default();
            if let Some(link) = link
                && link.socket.poll_send(cx, transmit, bytes, sent).is_pending()
            {
                return false;
            }
            *pending = None;
        }
        true
    }
}
