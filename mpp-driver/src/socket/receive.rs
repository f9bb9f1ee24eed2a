//! Receiving in batches.

use std::array;
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr};
use std::task::{Context, Poll};

use quinn_udp::{BATCH_SIZE, RecvMeta, UdpSockRef};

use super::{ERRORS, UdpSocket, inward};
use crate::runtime::Interest;
use crate::stats::count;

/// Buffers for one batch, made once and reused. Their pages cost memory only once they have been written to.
pub(crate) struct Inbox {
    buffer: Vec<u8>,
    each: usize,
    meta: [RecvMeta; BATCH_SIZE],
    filled: usize,
}

impl std::fmt::Debug for Inbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inbox")
            .field("each", &self.each)
            .field("filled", &self.filled)
            .finish_non_exhaustive()
    }
}

/// One received packet.
pub(crate) struct Received<'a> {
    pub(crate) remote: SocketAddr,
    pub(crate) local: Option<IpAddr>,
    pub(crate) payload: &'a mut [u8],
}

impl Inbox {
    /// For a device: few buffers, each of them for a burst that the kernel put together.
    pub(crate) fn device() -> Self {
        Self::new(4.min(BATCH_SIZE), 65_536)
    }

    /// For a service: many buffers, one packet each. 2 KiB is more than any packet of this protocol, so that a larger
    /// one is seen to be too large although it is cut.
    pub(crate) fn service() -> Self {
        Self::new(BATCH_SIZE, 2048)
    }

    fn new(buffers: usize, each: usize) -> Self {
        Self { buffer: vec![0; buffers * each], each, meta: [RecvMeta::default(); BATCH_SIZE], filled: 0 }
    }

    /// The packets of the batch.
    pub(crate) fn packets(&mut self) -> impl Iterator<Item = Received<'_>> {
        let filled = self.meta.iter().take(self.filled);
        filled.zip(self.buffer.chunks_mut(self.each)).flat_map(|(meta, buffer)| {
            let len = meta.len.min(buffer.len());
            let (bytes, _) = buffer.split_at_mut(len);
            let (remote, local) = (inward(meta.addr), meta.dst_ip.map(|ip| ip.to_canonical()));
            bytes.chunks_mut(meta.stride.max(1)).map(move |payload| Received { remote, local, payload })
        })
    }
}

impl UdpSocket {
    /// Fills the inbox: `Ready(true)` when there are packets in it, `Ready(false)` when the socket did nothing but
    /// fail and needs a rest, `Pending` when there is nothing to receive (the task is woken when there is).
    pub(crate) fn poll_receive(&self, cx: &mut Context<'_>, inbox: &mut Inbox) -> Poll<bool> {
        inbox.filled = 0;
        for _ in 0..ERRORS {
            if self.poll_ready(cx, Interest::Read).is_pending() {
                return Poll::Pending;
            }
            match self.receive_once(inbox) {
                Ok(n) if n > 0 => {
                    inbox.filled = n;
                    count(&self.counters.received, inbox.packets().count());
                    return Poll::Ready(true);
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Ok(_) | Err(_) => count(&self.counters.receive_errors, 1),
            }
        }
        Poll::Ready(false)
    }

    fn receive_once(&self, inbox: &mut Inbox) -> io::Result<usize> {
        let buffers = inbox.buffer.len() / inbox.each;
        let mut chunks = inbox.buffer.chunks_mut(inbox.each);
        let mut slices: [IoSliceMut<'_>; BATCH_SIZE] =
            array::from_fn(|_| IoSliceMut::new(chunks.next().unwrap_or_default()));
        let slices = slices.get_mut(..buffers).unwrap_or_default();
        let mut filled = 0;
        let meta = &mut inbox.meta;
        self.io.try_io(Interest::Read, &mut |socket| {
            count(&self.counters.receive_calls, 1);
            filled = self.udp.recv(UdpSockRef::from(&*socket), slices, meta)?;
            Ok(())
        })?;
        Ok(filled)
    }
}
