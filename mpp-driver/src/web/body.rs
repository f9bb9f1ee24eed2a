//! Bodies of requests and answers: whole ones, and bounded ones.

use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use http_body::{Body, Frame, SizeHint};

/// A body that is there as a whole.
#[derive(Clone, Debug, Default)]
pub struct WebBody(Option<Bytes>);

impl WebBody {
    pub(crate) fn new(bytes: impl Into<Bytes>) -> Self {
        Self(Some(bytes.into()).filter(|bytes| !bytes.is_empty()))
    }
}

impl Body for WebBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.take().map(|bytes| Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.0.as_ref().map_or(0, |bytes| bytes.len() as u64))
    }
}

/// Why a body was not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unread {
    /// It is longer than allowed.
    TooLong,
    /// It ended early.
    Broken,
}

/// Reads a body of at most `limit` bytes. One that says that it is longer is not read at all.
pub(super) async fn read<B: Body>(body: B, limit: usize) -> Result<Vec<u8>, Unread> {
    if body.size_hint().lower() > limit as u64 {
        return Err(Unread::TooLong);
    }
    let mut body = pin!(body);
    let mut bytes = Vec::new();
    while let Some(frame) = poll_fn(|cx| body.as_mut().poll_frame(cx)).await {
        // Trailers mean nothing here.
        let Ok(mut data) = frame.map_err(|_| Unread::Broken)?.into_data() else { continue };
        if data.remaining() > limit - bytes.len() {
            return Err(Unread::TooLong);
        }
        while data.has_remaining() {
            let chunk = data.chunk();
            bytes.extend_from_slice(chunk);
            let n = chunk.len();
            data.advance(n);
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Comes in pieces and says nothing of its length.
    struct Pieces(Vec<&'static str>);

    impl Body for Pieces {
        type Data = Bytes;
        type Error = &'static str;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, &'static str>>> {
            Poll::Ready(match self.0.first().copied() {
                None => None,
                Some("!") => Some(Err("broken")),
                Some(piece) => {
                    self.0.remove(0);
                    Some(Ok(Frame::data(Bytes::from_static(piece.as_bytes()))))
                }
            })
        }
    }

    fn get<B: Body>(body: B, limit: usize) -> Result<Vec<u8>, Unread> {
        match pin!(read(body, limit)).poll(&mut Context::from_waker(std::task::Waker::noop())) {
            Poll::Ready(result) => result,
            Poll::Pending => panic!("it waits"),
        }
    }

    #[test]
    fn a_body_is_never_longer_than_allowed() {
        assert_eq!(get(WebBody::new("12345"), 5), Ok(b"12345".to_vec()));
        assert_eq!(get(WebBody::new("123456"), 5), Err(Unread::TooLong));
        assert_eq!(get(WebBody::default(), 0), Ok(vec![]));
        assert_eq!(get(Pieces(vec!["12", "345"]), 5), Ok(b"12345".to_vec()));
        assert_eq!(get(Pieces(vec!["12", "345", "6", "!"]), 5), Err(Unread::TooLong));
        assert_eq!(get(Pieces(vec!["12", "!"]), 5), Err(Unread::Broken));
    }
}
