//! The reactor that smol and async-std share: sockets and timers on the crate `async-io`.

use std::fmt;
use std::io;
use std::net::{TcpStream, UdpSocket};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll, ready};
use std::time::Instant;

use async_io::Async;
use socket2::SockRef;

use crate::runtime::{AsyncSocket, Interest, Timer};

/// [`Runtime::timer`](crate::Runtime::timer) on async-io: the kernel's where there is one.
pub fn timer(at: Instant) -> Pin<Box<dyn Timer>> {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    if let Ok(timer) = crate::timerfd::timer(at, Async::new_nonblocking, Async::get_ref, |timer, cx| {
        while !timer.get_ref().fired() {
            // An error of the reactor is its end: nothing fires any more.
            if !matches!(timer.poll_readable(cx), Poll::Ready(Ok(()))) {
                return Poll::Pending;
            }
        }
        Poll::Ready(())
    }) {
        return timer;
    }
    Box::pin(Sleep(async_io::Timer::at(at)))
}

/// [`Runtime::wrap`](crate::Runtime::wrap) on async-io.
///
/// # Errors
/// If the reactor refuses the socket.
pub fn wrap(socket: UdpSocket) -> io::Result<Box<dyn AsyncSocket>> {
    Ok(Box::new(Socket::new(Async::new_nonblocking(socket)?)))
}

/// [`Runtime::wrap_tcp`](crate::Runtime::wrap_tcp) on async-io.
///
/// # Errors
/// If the reactor refuses the connection.
pub fn wrap_tcp(stream: TcpStream) -> io::Result<Box<dyn AsyncSocket>> {
    Ok(Box::new(Socket::new(Async::new_nonblocking(stream)?)))
}

#[derive(Debug)]
struct Sleep(async_io::Timer);

impl Timer for Sleep {
    fn reset(mut self: Pin<&mut Self>, at: Instant) {
        self.0.set_at(at);
    }

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        Pin::new(&mut self.0).poll(cx).map(drop)
    }
}

#[derive(Debug)]
struct Socket<T> {
    io: Async<T>,
    /// By [`Interest`]: whether the last that was heard of the system is that it is ready. Each direction is polled
    /// by one task only, so nothing races here.
    ready: [AtomicBool; 2],
}

impl<T> Socket<T> {
    const fn new(io: Async<T>) -> Self {
        // async-io tells of a change only to who has asked before. Whether there is room to send, or something to read,
        // is found out by trying: so both begin as ready.
        Self { io, ready: [AtomicBool::new(true), AtomicBool::new(true)] }
    }

    const fn ready(&self, interest: Interest) -> &AtomicBool {
        let [read, write] = &self.ready;
        match interest {
            Interest::Read => read,
            Interest::Write => write,
        }
    }
}

impl<T: fmt::Debug + Send + Sync + 'static> AsyncSocket for Socket<T>
where
    for<'a> SockRef<'a>: From<&'a T>,
{
    fn poll_ready(&self, interest: Interest, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.ready(interest).load(Relaxed) {
            ready!(match interest {
                Interest::Read => self.io.poll_readable(cx),
                Interest::Write => self.io.poll_writable(cx),
            })?;
            self.ready(interest).store(true, Relaxed);
        }
        Poll::Ready(Ok(()))
    }

    fn try_io(
        &self,
        interest: Interest,
        io: &mut dyn FnMut(SockRef<'_>) -> io::Result<()>,
    ) -> io::Result<()> {
        let result = io(SockRef::from(self.io.get_ref()));
        if result.as_ref().is_err_and(|e| e.kind() == io::ErrorKind::WouldBlock) {
            self.ready(interest).store(false, Relaxed);
        }
        result
    }
}
