//! Where bytes are written. One emitter serves four ends: counting, filling a buffer, cutting out a range, growing a
//! vector.

use alloc::vec::Vec;

/// Takes bytes in order.
pub(crate) trait Sink {
    /// Takes the next bytes.
    fn put(&mut self, bytes: &[u8]);
}

/// What can be written.
pub(crate) trait Emit {
    /// Writes it, the same bytes every time.
    fn emit<S: Sink>(&self, sink: &mut S);

    /// How many bytes [`Emit::emit`] writes.
    fn emitted_len(&self) -> usize {
        let mut sink = LenSink::default();
        self.emit(&mut sink);
        sink.0
    }

    /// Writes it to the start of `out` and says how long it is.
    fn write(&self, out: &mut [u8]) -> Result<usize, Overflow> {
        let mut sink = SliceSink::new(out);
        self.emit(&mut sink);
        sink.finish()
    }

    /// Writes to `out` what [`Emit::emit`] writes from byte `skip` on, as far as it goes or `out` has room, and says
    /// how much that was: a fragment of a large message, without the message in one piece anywhere.
    fn write_range(&self, skip: usize, out: &mut [u8]) -> usize {
        let mut sink = RangeSink::new(skip, out);
        self.emit(&mut sink);
        sink.written()
    }
}

/// Counts.
#[derive(Default)]
pub(crate) struct LenSink(pub(crate) usize);

impl Sink for LenSink {
    fn put(&mut self, bytes: &[u8]) {
        self.0 = self.0.saturating_add(bytes.len());
    }
}

impl Sink for Vec<u8> {
    fn put(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
}

/// The buffer was too small for what was written to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Overflow;

/// Fills a buffer from its start. What no longer fits is not written, and [`SliceSink::finish`] says so.
pub(crate) struct SliceSink<'a> {
    room: &'a mut [u8],
    written: usize,
    overflow: bool,
}

impl<'a> SliceSink<'a> {
    pub(crate) const fn new(out: &'a mut [u8]) -> Self {
        Self { room: out, written: 0, overflow: false }
    }

    /// The number of bytes written; an error if something did not fit.
    pub(crate) const fn finish(self) -> Result<usize, Overflow> {
        if self.overflow { Err(Overflow) } else { Ok(self.written) }
    }
}

impl Sink for SliceSink<'_> {
    fn put(&mut self, bytes: &[u8]) {
        if self.overflow {
            return;
        }
        match core::mem::take(&mut self.room).split_at_mut_checked(bytes.len()) {
            Some((to, room)) => {
                to.copy_from_slice(bytes);
                self.room = room;
                self.written = self.written.saturating_add(bytes.len());
            }
            None => self.overflow = true,
        }
    }
}

/// Takes only the bytes `skip..skip + out.len()` of what is written to it.
pub(crate) struct RangeSink<'a> {
    skip: usize,
    room: &'a mut [u8],
    written: usize,
}

impl<'a> RangeSink<'a> {
    pub(crate) const fn new(skip: usize, out: &'a mut [u8]) -> Self {
        Self { skip, room: out, written: 0 }
    }

    /// The number of bytes taken: less than the room if the stream ended inside the range.
    pub(crate) const fn written(&self) -> usize {
        self.written
    }
}

impl Sink for RangeSink<'_> {
    fn put(&mut self, bytes: &[u8]) {
        let Some(bytes) = bytes.get(self.skip..) else {
            self.skip = self.skip.saturating_sub(bytes.len());
            return;
        };
        self.skip = 0;
        let len = bytes.len().min(self.room.len());
        let room = core::mem::take(&mut self.room);
        if let (Some((to, room)), Some(from)) = (room.split_at_mut_checked(len), bytes.get(..len)) {
            to.copy_from_slice(from);
            self.room = room;
            self.written = self.written.saturating_add(len);
        }
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use proptest::prelude::*;

    use super::*;

    struct Pieces(Vec<Vec<u8>>);

    impl Emit for Pieces {
        fn emit<S: Sink>(&self, sink: &mut S) {
            self.0.iter().for_each(|piece| sink.put(piece));
        }
    }

    proptest! {
        #[test]
        fn every_sink_sees_the_same_stream(pieces: Vec<Vec<u8>>, skip in 0usize..400, room in 0usize..400) {
            let pieces = Pieces(pieces);
            let whole = pieces.0.concat();
            prop_assert_eq!(pieces.emitted_len(), whole.len());

            let mut out = vec![0xee; room];
            let want = if whole.len() <= room { Ok(whole.len()) } else { Err(Overflow) };
            prop_assert_eq!(pieces.write(&mut out), want);
            if let Ok(len) = want {
                prop_assert_eq!(&out[..len], &whole[..]);
                prop_assert!(out[len..].iter().all(|b| *b == 0xee));
            }

            let mut out = vec![0xee; room];
            let len = pieces.write_range(skip, &mut out);
            let range = whole.get(skip..).unwrap_or_default();
            prop_assert_eq!(&out[..len], &range[..range.len().min(room)]);
            prop_assert!(out[len..].iter().all(|b| *b == 0xee));
        }
    }

    #[test]
    fn what_follows_an_overflow_is_not_written() {
        let mut out = [0; 3];
        let mut sink = SliceSink::new(&mut out);
        sink.put(&[1, 2]);
        sink.put(&[3, 4]);
        sink.put(&[5]);
        assert_eq!(sink.finish(), Err(Overflow));
        assert_eq!(out, [1, 2, 0]);
    }
}
