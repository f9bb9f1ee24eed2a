//! A runtime around a runtime, with which things go wrong: tasks that are not run or die, sockets that fail, a
//! machine that sleeps.

use std::io;
use std::net::{TcpStream, UdpSocket};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use socket2::SockRef;

use crate::runtime::{AsyncSocket, Interest, Runtime, Task, Timer};

/// A runtime that behaves like `R` until it is told otherwise.
#[derive(Debug)]
pub struct Lab<R> {
    inner: R,
    switches: Arc<Switches>,
}

#[derive(Debug, Default)]
struct Switches {
    killed: AtomicBool,
    held: AtomicBool,
    /// Milliseconds by which the clock is ahead.
    slept: AtomicU64,
    /// The error of every call to a socket, if not 0.
    fault: AtomicI32,
    faults: AtomicU64,
    polls: AtomicU64,
    tasks: Mutex<Vec<Waker>>,
}

impl<R: Runtime + Default> Lab<R> {
    pub fn new() -> Arc<Self> {
        Arc::new(Self { inner: R::default(), switches: Arc::default() })
    }

    /// Every task ends where it is.
    pub fn kill(&self) {
        self.switches.killed.store(true, Relaxed);
        self.wake();
    }

    /// No task runs until [`Lab::release`].
    pub fn hold(&self) {
        self.switches.held.store(true, Relaxed);
    }

    pub fn release(&self) {
        self.switches.held.store(false, Relaxed);
        self.wake();
    }

    /// The machine sleeps: the clock goes on, the timers do not.
    pub fn sleep(&self, time: Duration) {
        self.switches.slept.fetch_add(time.as_millis() as u64, Relaxed);
    }

    /// Every call to a socket fails with this error of the system, until [`Lab::mend`].
    pub fn fail(&self, error: i32) {
        self.switches.fault.store(error, Relaxed);
    }

    pub fn mend(&self) {
        self.fail(0);
    }

    /// Calls to sockets that have failed.
    pub fn faults(&self) -> u64 {
        self.switches.faults.load(Relaxed)
    }

    /// How often tasks have been run.
    pub fn polls(&self) -> u64 {
        self.switches.polls.load(Relaxed)
    }

    fn wake(&self) {
        let tasks = std::mem::take(&mut *self.switches.tasks.lock().unwrap());
        tasks.into_iter().for_each(Waker::wake);
    }
}

impl<R: Runtime> Runtime for Lab<R> {
    fn spawn(&self, task: Task) {
        self.inner.spawn(Box::pin(Watched { task: Some(task), switches: self.switches.clone() }));
    }

    fn timer(&self, at: Instant) -> Pin<Box<dyn Timer>> {
        self.inner.timer(at)
    }

    fn wrap(&self, socket: UdpSocket) -> io::Result<Box<dyn AsyncSocket>> {
        Ok(Box::new(Socket { inner: self.inner.wrap(socket)?, switches: self.switches.clone() }))
    }

    fn wrap_tcp(&self, stream: TcpStream) -> io::Result<Box<dyn AsyncSocket>> {
        self.inner.wrap_tcp(stream)
    }

    fn now(&self) -> Instant {
        self.inner.now()
    }

    fn uptime(&self) -> Duration {
        self.inner.uptime() + Duration::from_millis(self.switches.slept.load(Relaxed))
    }
}

struct Watched {
    task: Option<Task>,
    switches: Arc<Switches>,
}

impl Future for Watched {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let Self { task, switches } = &mut *self;
        let mut tasks = switches.tasks.lock().unwrap();
        if !tasks.iter().any(|t| t.will_wake(cx.waker())) {
            tasks.push(cx.waker().clone());
        }
        drop(tasks);
        if switches.killed.load(Relaxed) {
            *task = None;
        }
        if switches.held.load(Relaxed) {
            return Poll::Pending;
        }
        switches.polls.fetch_add(1, Relaxed);
        task.as_mut().map_or(Poll::Ready(()), |task| task.as_mut().poll(cx))
    }
}

#[derive(Debug)]
struct Socket {
    inner: Box<dyn AsyncSocket>,
    switches: Arc<Switches>,
}

impl AsyncSocket for Socket {
    fn poll_ready(&self, interest: Interest, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.inner.poll_ready(interest, cx)
    }

    fn try_io(
        &self,
        interest: Interest,
        io: &mut dyn FnMut(SockRef<'_>) -> io::Result<()>,
    ) -> io::Result<()> {
        match self.switches.fault.load(Relaxed) {
            0 => self.inner.try_io(interest, io),
            error => {
                self.switches.faults.fetch_add(1, Relaxed);
                Err(io::Error::from_raw_os_error(error))
            }
        }
    }
}
