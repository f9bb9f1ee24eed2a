//! The bytes of HTTP, with TLS around them or without.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use hyper::rt::{Read, ReadBufCursor, Write};

use super::tcp::Tcp;

/// Bytes taken at once: more than most answers have.
const CHUNK: usize = 4096;

/// A connection to a Web server.
#[derive(Debug)]
pub(crate) enum Stream {
    Plain(Tcp),
    #[cfg(feature = "web-tls")]
    Tls(Box<super::tls::Tls>),
}

impl Read for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let mut chunk = [0; CHUNK];
        let room = chunk.get_mut(..buffer.remaining().min(CHUNK)).unwrap_or_default();
        let read = match &mut *self {
            Self::Plain(tcp) => tcp.poll_read(cx, room),
            #[cfg(feature = "web-tls")]
            Self::Tls(tls) => tls.poll_read(cx, room),
        };
        read.map_ok(|n| buffer.put_slice(chunk.get(..n).unwrap_or_default()))
    }
}

impl Write for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut *self {
            Self::Plain(tcp) => tcp.poll_write(cx, bytes),
            #[cfg(feature = "web-tls")]
            Self::Tls(tls) => tls.poll_write(cx, bytes),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(_) => {
                let _ = cx;
                Poll::Ready(Ok(()))
            }
            #[cfg(feature = "web-tls")]
            Self::Tls(tls) => tls.poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(tcp) => tcp.poll_shutdown(cx),
            #[cfg(feature = "web-tls")]
            Self::Tls(tls) => tls.poll_shutdown(cx),
        }
    }
}
