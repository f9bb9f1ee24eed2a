//! A timer of the kernel: a descriptor that becomes readable when the time has come, watched by the runtime's reactor like
//! a socket.
//!
//! It is used instead of a runtime's own timers for two things that those do not do: it goes on while the machine sleeps,
//! so that a device that slept past its heartbeat sends it as soon as the machine is up, and it wakes its thread exactly
//! once for each deadline. (Wheels of timers wake for every step down their hierarchy.)

use std::fmt::Debug;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{self, ClockId, Expiration, TimerFlags, TimerSetTimeFlags};

use crate::runtime::Timer;

/// The timer. It is in non-blocking mode.
#[derive(Debug)]
pub struct TimerFd(timerfd::TimerFd);

impl TimerFd {
    /// A timer that is not set, on `CLOCK_BOOTTIME`.
    ///
    /// # Errors
    /// Those of `timerfd_create(2)`: too many descriptors are open, most likely.
    pub fn new() -> io::Result<Self> {
        let flags = TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC;
        Ok(Self(timerfd::TimerFd::new(ClockId::CLOCK_BOOTTIME, flags)?))
    }

    /// Fires after this time, and not at any that was set before.
    pub fn set(&self, after: Duration) {
        // Zero would switch it off. What is too long for the kernel is no deadline.
        let after = after.clamp(Duration::from_nanos(1), Duration::from_secs(u32::MAX.into()));
        let once = Expiration::OneShot(TimeSpec::from_duration(after));
        // Fails only for what is no timer.
        let _ = self.0.set(once, TimerSetTimeFlags::empty());
    }

    /// Whether it has fired since it was set, or since this was last asked.
    pub fn fired(&self) -> bool {
        self.0.wait().is_ok()
    }
}

/// [`Runtime::timer`](crate::Runtime::timer) on a reactor that can watch a descriptor: `watch` registers it, `get` gives it
/// back, and `poll` is ready when it has [`fired`](TimerFd::fired), and has the task woken when it may have.
///
/// # Errors
/// Those of [`TimerFd::new`] and of `watch`.
pub fn timer<W: Debug + Send + 'static>(
    at: Instant,
    watch: impl FnOnce(TimerFd) -> io::Result<W>,
    get: fn(&W) -> &TimerFd,
    poll: fn(&W, &mut Context<'_>) -> Poll<()>,
) -> io::Result<Pin<Box<dyn Timer>>> {
    let mut timer = Box::pin(Watched { timer: watch(TimerFd::new()?)?, get, poll });
    timer.as_mut().reset(at);
    Ok(timer)
}

#[derive(Debug)]
struct Watched<W> {
    timer: W,
    get: fn(&W) -> &TimerFd,
    poll: fn(&W, &mut Context<'_>) -> Poll<()>,
}

impl<W: Debug + Send + 'static> Timer for Watched<W> {
    fn reset(self: Pin<&mut Self>, at: Instant) {
        (self.get)(&self.timer).set(at.saturating_duration_since(Instant::now()));
    }

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        (self.poll)(&self.timer, cx)
    }
}

impl AsFd for TimerFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for TimerFd {
    fn as_raw_fd(&self) -> RawFd {
        self.as_fd().as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_fires_once_and_not_before() {
        let timer = TimerFd::new().unwrap();
        assert!(!timer.fired(), "before it was set");
        for millis in [0, 20] {
            let start = Instant::now();
            timer.set(Duration::from_secs(3600));
            timer.set(Duration::from_millis(millis));
            while !timer.fired() {
                assert!(start.elapsed() < Duration::from_secs(5), "never");
                std::thread::sleep(Duration::from_millis(1));
            }
            assert!(start.elapsed() >= Duration::from_millis(millis));
            assert!(!timer.fired(), "twice");
        }
        timer.set(Duration::MAX);
        assert!(!timer.fired());
        // What it has not told yet is forgotten with the next deadline.
        timer.set(Duration::ZERO);
        std::thread::sleep(Duration::from_millis(5));
        timer.set(Duration::from_secs(3600));
        assert!(!timer.fired());
    }
}
