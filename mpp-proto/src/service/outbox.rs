//! Answers on their way out. They are written when the host asks for packets, straight into its buffer; here waits
//! only what they will say.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use core::net::SocketAddr;
use core::time::Duration;

use super::refusal::Refusal;
use crate::ids::{RequestId, Serial, StoreSet};
use crate::path::Path;
use crate::wire::Code;

/// Answers that may wait at most. A host that takes packets after each batch never gets near it.
const MAX_WAITING: usize = 4096;

/// The longest answer that is made for strangers: Defer, Error and reset.
const MAX_SMALL: usize = 96;

/// What a packet to a connected device will say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Say {
    /// The answer to a heartbeat, or a question whether the device is there.
    Status {
        request: Option<RequestId>,
        /// Where the heartbeat came from.
        seen: SocketAddr,
        /// What was sent before it came and not acknowledged.
        unheard: u32,
        /// The interval granted, in tenths of a second, if that is another one than was asked for.
        granted: Option<u16>,
    },
    Subscribed {
        request: RequestId,
        newest: Serial,
        lost: StoreSet,
    },
    Posted {
        request: RequestId,
        /// None for a post to another account.
        serial: Option<Serial>,
    },
    Failed {
        request: RequestId,
        refusal: Refusal,
    },
    Close {
        code: Code,
        retry_after: Duration,
    },
    /// Where a packet of so many bytes came from; the answer has no more.
    Endpoint {
        request: RequestId,
        path: Path,
        size: usize,
    },
    /// The silence that a probe asked for is over.
    ProbeAnswer {
        request: RequestId,
    },
    /// A path is challenged, with a packet of full size if it has to prove that too.
    Challenge {
        challenge: [u8; 8],
        pad: bool,
    },
    /// More identifiers for packets to the service.
    Identifiers,
    /// Nothing: an empty datagram, by which a device sees that it was heard.
    Nothing,
}

/// A packet to send.
#[derive(Debug)]
pub(super) enum Out {
    /// To a connected device, on its path or on another one.
    Say { slot: u32, generation: u16, to: Option<Path>, say: Say },
    /// An answer to a stranger, of few bytes: nothing is allocated for strangers.
    Small { path: Path, len: u8, bytes: [u8; MAX_SMALL] },
    /// An answer to the holder of a ticket.
    Large { path: Path, bytes: Box<[u8]> },
}

/// The queue.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    waiting: VecDeque<Out>,
}

impl Outbox {
    /// Whether one more answer has room. Asked before anything is done for which an answer would be due.
    pub(super) fn is_full(&self) -> bool {
        self.waiting.len() >= MAX_WAITING
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    pub(super) fn say(&mut self, slot: u32, generation: u16, to: Option<Path>, say: Say) {
        self.waiting.push_back(Out::Say { slot, generation, to, say });
    }

    /// Nothing longer than [`MAX_SMALL`] is said to strangers.
    pub(super) fn small(&mut self, path: Path, packet: &[u8]) {
        let mut bytes = [0; MAX_SMALL];
        if let (Some(room), Ok(len)) = (bytes.get_mut(..packet.len()), u8::try_from(packet.len())) {
            room.copy_from_slice(packet);
            self.waiting.push_back(Out::Small { path, len, bytes });
        }
    }

    pub(super) fn large(&mut self, path: Path, bytes: Box<[u8]>) {
        self.waiting.push_back(Out::Large { path, bytes });
    }

    pub(super) fn pop(&mut self) -> Option<Out> {
        self.waiting.pop_front()
    }
}
