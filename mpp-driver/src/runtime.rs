//! What the driver needs of an asynchronous runtime. An adapter crate implements it once.

use std::fmt::Debug;
use std::io;
use std::net::{TcpStream, UdpSocket};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use socket2::SockRef;

/// A task for [`Runtime::spawn`].
pub type Task = Pin<Box<dyn Future<Output = ()> + Send>>;

/// An asynchronous runtime: tasks, timers and the readiness of sockets.
///
/// `Default` has to find the runtime that the caller is running on.
pub trait Runtime: Debug + Send + Sync + 'static {
    /// Runs `task` in the background until it ends or the runtime does.
    fn spawn(&self, task: Task);

    /// A timer that fires at `at`, and wakes its task then and not before: a client that idles is to sleep in between. On
    /// Linux `timerfd::timer` makes one of any reactor that can watch a descriptor; it also goes on while the machine
    /// sleeps.
    fn timer(&self, at: Instant) -> Pin<Box<dyn Timer>>;

    /// Registers a socket, which is in non-blocking mode already.
    ///
    /// # Errors
    /// If the runtime's reactor refuses it.
    fn wrap(&self, socket: UdpSocket) -> io::Result<Box<dyn AsyncSocket>>;

    /// Registers a TCP connection, or one that is being made, which is in non-blocking mode already. A runtime that cannot
    /// leaves this out: then the Web Service transport is not used.
    ///
    /// # Errors
    /// If the runtime's reactor refuses it; `Unsupported` unless the runtime says otherwise.
    fn wrap_tcp(&self, stream: TcpStream) -> io::Result<Box<dyn AsyncSocket>> {
        drop(stream);
        Err(io::ErrorKind::Unsupported.into())
    }

    /// The time on the clock by which [`Runtime::timer`] fires. A runtime with a clock of its own (a test's, which
    /// stands still) overrides it.
    fn now(&self) -> Instant {
        Instant::now()
    }

    /// The clock that the protocol's deadlines are measured by: it never goes back, and it should go on while the
    /// machine sleeps, although the timers may not. Its zero means nothing. Default: Linux's `CLOCK_BOOTTIME`, and
    /// elsewhere what [`Instant`] counts.
    fn uptime(&self) -> Duration {
        crate::clock::uptime()
    }
}

/// A timer of a runtime.
pub trait Timer: Debug + Send + 'static {
    /// Fires at `at` instead; also after it has fired.
    fn reset(self: Pin<&mut Self>, at: Instant);

    /// Ready once the time has come; until then the task is woken when it comes.
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()>;
}

/// Which way bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Interest {
    /// From the socket.
    Read,
    /// To the socket.
    Write,
}

/// A socket that a runtime watches. Each direction is polled by one task only.
pub trait AsyncSocket: Debug + Send + Sync + 'static {
    /// Ready if the socket may be readable or writable; until then the task is woken when it is. Being ready for
    /// nothing is allowed: the driver then meets `WouldBlock` in [`AsyncSocket::try_io`] and asks again.
    ///
    /// # Errors
    /// If the runtime is going away.
    fn poll_ready(&self, interest: Interest, cx: &mut Context<'_>) -> Poll<io::Result<()>>;

    /// Calls `io` with the socket. If it returns `WouldBlock`, the next [`AsyncSocket::poll_ready`] is not ready
    /// before the system says so.
    ///
    /// # Errors
    /// Those of `io`; `WouldBlock` also without a call.
    fn try_io(&self, interest: Interest, io: &mut dyn FnMut(SockRef<'_>) -> io::Result<()>)
    -> io::Result<()>;
}

/// No runtime in particular: the parameter of a [`Client`](crate::Client) or a [`Service`](crate::Service) that was
/// started with a runtime given as a value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AnyRuntime;
