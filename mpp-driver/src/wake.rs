//! Who waits for what: wakers that are kept under a lock and woken after it is released, and the alarm of a driver.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use mpp_proto::Instant;

use crate::clock::Clock;
use crate::runtime::{Runtime, Timer};

/// Beyond this number of waiting tasks, some of them have surely gone: all are asked.
const WAITING: usize = 256;

/// Tasks that wait for the same thing.
#[derive(Debug, Default)]
pub(crate) struct Waiting(Vec<Waker>);

impl Waiting {
    /// Adds the task.
    pub(crate) fn add(&mut self, cx: &Context<'_>) {
        if self.0.iter().any(|w| w.will_wake(cx.waker())) {
            return;
        }
        if self.0.len() >= WAITING {
            self.0.drain(..).for_each(Waker::wake);
        }
        self.0.push(cx.waker().clone());
    }

    /// Whether nobody waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Whom to wake once the lock is released. To wake is to run foreign code, which might want the same lock.
#[derive(Debug, Default)]
pub(crate) struct Wakes {
    tasks: Vec<Waker>,
    driver: Option<Waker>,
    driver_due: bool,
}

impl Wakes {
    /// Wakes everybody who waits there.
    pub(crate) fn all(&mut self, waiting: &mut Waiting) {
        self.tasks.append(&mut waiting.0);
    }

    /// Wakes this task.
    pub(crate) fn one(&mut self, waker: Waker) {
        self.tasks.push(waker);
    }

    /// Wakes the driver.
    pub(crate) fn driver(&mut self) {
        self.driver_due = true;
    }

    /// The driver runs: nobody has to wake it before it has looked at everything.
    pub(crate) fn driver_runs(&mut self, cx: &Context<'_>) {
        self.driver_due = false;
        self.driver = Some(cx.waker().clone());
    }

    /// What to wake now. The driver's waker is given away once; the driver leaves a new one when it runs.
    pub(crate) fn take(&mut self) -> (Vec<Waker>, Option<Waker>) {
        let driver = if std::mem::take(&mut self.driver_due) { self.driver.take() } else { None };
        (std::mem::take(&mut self.tasks), driver)
    }
}

/// A lock on a state, whose wakers are woken after it is released.
#[derive(Debug)]
pub(crate) struct Guarded<T>(std::sync::Mutex<(T, Wakes)>);

impl<T> Guarded<T> {
    pub(crate) fn new(state: T) -> Self {
        Self(std::sync::Mutex::new((state, Wakes::default())))
    }

    pub(crate) fn with<R>(&self, f: impl FnOnce(&mut T, &mut Wakes) -> R) -> R {
        // A panic in between would be a bug of the state machine; to go on with its state is the lesser evil.
        let mut guard = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let (state, wakes) = &mut *guard;
        let result = f(state, wakes);
        let (tasks, driver) = wakes.take();
        drop(guard);
        tasks.into_iter().chain(driver).for_each(Waker::wake);
        result
    }
}

/// A runtime's timer, set by the state machines' clock.
#[derive(Debug)]
pub(crate) struct Alarm {
    runtime: Arc<dyn Runtime>,
    timer: Pin<Box<dyn Timer>>,
    set: Option<Instant>,
}

impl Alarm {
    pub(crate) fn new(runtime: Arc<dyn Runtime>) -> Self {
        let timer = runtime.timer(runtime.now());
        Self { runtime, timer, set: None }
    }

    /// Ready if `at` is not later than now; else the task is woken then.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>, clock: &Clock, at: Option<Instant>) -> Poll<()> {
        let Some(at) = at else { return Poll::Pending };
        loop {
            let wait = at.since(clock.now());
            if wait.is_zero() {
                return Poll::Ready(());
            }
            if self.set != Some(at) {
                self.reset(at, wait);
            }
            if self.timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            // It fired, and it is early by the clock that counts: it is set again.
            self.set = None;
        }
    }

    fn reset(&mut self, at: Instant, wait: Duration) {
        // Never further than a day: some timers take no more, and to wake once a day costs nothing.
        let wait = wait.min(Duration::from_secs(24 * 3600));
        self.timer.as_mut().reset(self.runtime.now() + wait);
        self.set = Some(at);
    }
}
