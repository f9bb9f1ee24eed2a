//! Who waits for what: wakers that are kept under a lock and woken after it is released, and the alarm of a driver.

use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use mpp_proto::Instant;

use crate::clock::Clock;
use crate::runtime::Timer;

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
        match &mut self.driver {
            Some(waker) => waker.clone_from(cx.waker()),
            None => self.driver = Some(cx.waker().clone()),
        }
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
    clock: Clock,
    timer: Pin<Box<dyn Timer>>,
    set: Option<Instant>,
}

impl Alarm {
    pub(crate) fn new(clock: Clock) -> Self {
        let timer = clock.runtime().timer(clock.runtime().now());
        Self { clock, timer, set: None }
    }

    /// Ready if `at` is not later than now; else the task is woken then.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>, at: Option<Instant>) -> Poll<()> {
        let Some(at) = at else { return Poll::Pending };
        loop {
            let wait = at.since(self.clock.now());
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
        self.timer.as_mut().reset(self.clock.runtime().now() + wait);
        self.set = Some(at);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
    use std::sync::{Arc, Mutex};
    use std::task::Wake;

    use super::*;
    use crate::runtime::{AsyncSocket, Runtime, Task};

    #[derive(Debug, Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Relaxed);
        }
    }

    fn counted() -> (Arc<Count>, Waker) {
        let count = Arc::new(Count::default());
        (count.clone(), count.into())
    }

    #[test]
    fn everybody_is_woken_once_and_outside_of_the_lock() {
        #[derive(Debug)]
        struct Relock(Arc<Guarded<Waiting>>, AtomicUsize);
        impl Wake for Relock {
            fn wake(self: Arc<Self>) {
                // Would hang if the lock were still held.
                self.0.with(|waiting, _| assert!(waiting.is_empty()));
                self.1.fetch_add(1, Relaxed);
            }
        }
        let lock = Arc::new(Guarded::new(Waiting::default()));
        let task = Arc::new(Relock(lock.clone(), AtomicUsize::new(0)));
        let waker = Waker::from(task.clone());
        for _ in 0..3 {
            lock.with(|waiting, _| waiting.add(&Context::from_waker(&waker)));
        }
        lock.with(|waiting, wakes| wakes.all(waiting));
        lock.with(|waiting, wakes| wakes.all(waiting));
        assert_eq!(task.1.load(Relaxed), 1);
    }

    #[test]
    fn the_driver_is_woken_once_for_each_run() {
        let lock = Guarded::new(());
        let (count, waker) = counted();
        lock.with(|(), wakes| wakes.driver());
        lock.with(|(), wakes| wakes.driver_runs(&Context::from_waker(&waker)));
        assert_eq!(count.0.load(Relaxed), 0, "nobody asked since it ran");
        for _ in 0..3 {
            lock.with(|(), wakes| wakes.driver());
        }
        assert_eq!(count.0.load(Relaxed), 1);
        lock.with(|(), wakes| wakes.driver_runs(&Context::from_waker(&waker)));
        lock.with(|(), wakes| wakes.driver());
        assert_eq!(count.0.load(Relaxed), 2);
    }

    #[test]
    fn tasks_that_have_gone_do_not_pile_up() {
        let mut waiting = Waiting::default();
        let tasks: Vec<_> = (0..10 * WAITING).map(|_| counted()).collect();
        for (_, waker) in &tasks {
            waiting.add(&Context::from_waker(waker));
        }
        assert!(waiting.0.len() <= WAITING);
        let woken: usize = tasks.iter().map(|(count, _)| count.0.load(Relaxed)).sum();
        assert_eq!(woken + waiting.0.len(), tasks.len(), "nobody is forgotten");
    }

    /// A runtime whose timer always fires at once, and remembers how it was set.
    #[derive(Debug, Default)]
    struct Hasty(Arc<Mutex<Vec<std::time::Instant>>>);

    impl Runtime for Hasty {
        fn spawn(&self, _: Task) {}
        fn timer(&self, _: std::time::Instant) -> Pin<Box<dyn Timer>> {
            Box::pin(Hasty(self.0.clone()))
        }
        fn wrap(&self, _: std::net::UdpSocket) -> std::io::Result<Box<dyn AsyncSocket>> {
            Err(std::io::ErrorKind::Unsupported.into())
        }
    }

    impl Timer for Hasty {
        fn reset(self: Pin<&mut Self>, at: std::time::Instant) {
            self.0.lock().unwrap().push(at);
        }
        fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<()> {
            // Early three times, then it waits.
            if self.0.lock().unwrap().len() < 4 { Poll::Ready(()) } else { Poll::Pending }
        }
    }

    #[test]
    fn an_early_timer_is_set_again_and_a_deadline_that_stays_is_not() {
        let runtime = Hasty::default();
        let resets = runtime.0.clone();
        let clock = Clock::start(Arc::new(runtime));
        let mut alarm = Alarm::new(clock.clone());
        let mut cx = Context::from_waker(Waker::noop());
        assert!(alarm.poll(&mut cx, None).is_pending());
        assert!(alarm.poll(&mut cx, Some(clock.now())).is_ready());
        assert!(resets.lock().unwrap().is_empty());
        let soon = clock.now() + Duration::from_secs(3600);
        for _ in 0..2 {
            assert!(alarm.poll(&mut cx, Some(soon)).is_pending());
            assert_eq!(resets.lock().unwrap().len(), 4);
        }
        assert!(alarm.poll(&mut cx, Some(soon + Duration::from_secs(1))).is_pending());
        assert_eq!(resets.lock().unwrap().len(), 5);
        // A deadline in the far future is no overflow.
        assert!(alarm.poll(&mut cx, Some(Instant::from_micros(u64::MAX))).is_pending());
    }
}
