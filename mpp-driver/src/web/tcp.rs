//! TCP connections, on whatever reactor the runtime has.

use std::future::poll_fn;
use std::io::{self, Read as _};
use std::net::SocketAddr;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, Type};

use crate::runtime::{AsyncSocket, Interest, Runtime};

/// How long one address of several may take before the next is tried beside it (RFC 8305).
const NEXT_ADDRESS: Duration = Duration::from_millis(250);
/// Addresses of one name that are tried.
const ADDRESSES: usize = 8;

/// A TCP connection that a runtime watches.
#[derive(Debug)]
pub(crate) struct Tcp(Box<dyn AsyncSocket>);

impl Tcp {
    /// A connection to one of these addresses, the first that answers. The next is tried beside the others whenever one
    /// has failed, or has not answered for a while.
    ///
    /// # Errors
    /// That of the last address that failed.
    pub(crate) async fn connect(runtime: &dyn Runtime, addresses: Vec<SocketAddr>) -> io::Result<Self> {
        let mut left = alternating(addresses).into_iter().take(ADDRESSES);
        let mut trying: Vec<Self> = Vec::new();
        let mut timer = runtime.timer(runtime.now());
        let mut error = io::Error::from(io::ErrorKind::NotFound);
        poll_fn(|cx| {
            loop {
                let before = trying.len();
                let mut n = 0;
                while let Some(tcp) = trying.get(n) {
                    match tcp.poll_connected(cx) {
                        Poll::Ready(Ok(())) => return Poll::Ready(Ok(trying.swap_remove(n))),
                        Poll::Ready(Err(e)) => {
                            error = e;
                            trying.swap_remove(n);
                        }
                        Poll::Pending => n += 1,
                    }
                }
                let waits = before > 0 && trying.len() == before;
                if waits && timer.as_mut().poll(cx).is_pending() {
                    return Poll::Pending;
                }
                match left.next().map(|address| Self::start(runtime, address)) {
                    Some(Ok(tcp)) => {
                        trying.push(tcp);
                        timer.as_mut().reset(runtime.now() + NEXT_ADDRESS);
                    }
                    Some(Err(e)) => error = e,
                    None if trying.is_empty() => {
                        return Poll::Ready(Err(std::mem::replace(
                            &mut error,
                            io::ErrorKind::NotFound.into(),
                        )));
                    }
                    None => return Poll::Pending,
                }
            }
        })
        .await
    }

    /// Begins to connect.
    fn start(runtime: &dyn Runtime, address: SocketAddr) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_nonblocking(true)?;
        match socket.connect(&address.into()) {
            Err(e) if !is_in_progress(&e) => return Err(e),
            _ => {}
        }
        Self::wrap(runtime, socket.into())
    }

    /// A connection that another program has made, or one that is being made; in non-blocking mode.
    pub(crate) fn wrap(runtime: &dyn Runtime, stream: std::net::TcpStream) -> io::Result<Self> {
        // A packet is a request's whole body: nothing is gained by waiting for more.
        let _ = stream.set_nodelay(true);
        #[cfg(target_vendor = "apple")]
        SockRef::from(&stream).set_nosigpipe(true)?;
        Ok(Self(runtime.wrap_tcp(stream)?))
    }

    fn poll_connected(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_io(cx, Interest::Write, |socket| {
            if let Some(error) = socket.take_error()? {
                return Err(error);
            }
            match socket.peer_addr() {
                Err(e) if e.kind() == io::ErrorKind::NotConnected => Err(io::ErrorKind::WouldBlock.into()),
                peer => peer.map(drop),
            }
        })
    }

    /// Some of what has come; 0 at the end.
    pub(crate) fn poll_read(&self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        self.poll_io(cx, Interest::Read, |socket| (&*socket).read(buffer))
    }

    /// Hands over some of these bytes; returns how many.
    pub(crate) fn poll_write(&self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_io(cx, Interest::Write, |socket| socket.send_with_flags(bytes, NO_SIGNAL))
    }

    /// Says that nothing more will be sent.
    pub(crate) fn poll_shutdown(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_io(cx, Interest::Write, |socket| match socket.shutdown(std::net::Shutdown::Write) {
            Err(e) if e.kind() == io::ErrorKind::NotConnected => Ok(()),
            done => done,
        })
    }

    fn poll_io<T>(
        &self,
        cx: &mut Context<'_>,
        interest: Interest,
        mut io: impl FnMut(SockRef<'_>) -> io::Result<T>,
    ) -> Poll<io::Result<T>> {
        loop {
            ready!(self.0.poll_ready(interest, cx))?;
            let mut done = None;
            let result = self.0.try_io(interest, &mut |socket| {
                done = Some(io(socket)?);
                Ok(())
            });
            match (result, done) {
                (Ok(()), Some(done)) => return Poll::Ready(Ok(done)),
                (Err(e), _) if e.kind() == io::ErrorKind::Interrupted => {}
                (Err(e), _) if e.kind() != io::ErrorKind::WouldBlock => return Poll::Ready(Err(e)),
                _ => {}
            }
        }
    }
}

/// A peer that has gone is an error here, not a signal that ends the program.
#[cfg(all(unix, not(target_vendor = "apple")))]
const NO_SIGNAL: libc::c_int = libc::MSG_NOSIGNAL;
#[cfg(not(all(unix, not(target_vendor = "apple"))))]
const NO_SIGNAL: std::ffi::c_int = 0;

/// Whether a connection is being made in the background, which a non-blocking socket reports as an error.
fn is_in_progress(error: &io::Error) -> bool {
    #[cfg(unix)]
    if error.raw_os_error() == Some(libc::EINPROGRESS) {
        return true;
    }
    error.kind() == io::ErrorKind::WouldBlock
}

/// One of each family in turn, beginning with that of the first: one that leads nowhere does not come first several times.
fn alternating(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let first_v6 = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let (one, other): (Vec<_>, Vec<_>) = addresses.into_iter().partition(|a| a.is_ipv6() == first_v6);
    let (mut one, mut other) = (one.into_iter(), other.into_iter());
    let mut all = Vec::new();
    loop {
        let pair = [one.next(), other.next()];
        if pair == [None, None] {
            return all;
        }
        all.extend(pair.into_iter().flatten());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_take_turns() {
        let address = |text: &str| text.parse::<SocketAddr>().unwrap();
        let (a, b, c) = (address("[::1]:1"), address("[::2]:1"), address("[::3]:1"));
        let (x, y) = (address("127.0.0.1:1"), address("127.0.0.2:1"));
        assert_eq!(alternating(vec![a, b, c, x, y]), [a, x, b, y, c]);
        assert_eq!(alternating(vec![x, y, a]), [x, a, y]);
        assert_eq!(alternating(vec![]), []);
    }
}
