//! One line on a terminal that says what is being done, and is gone afterwards. Nothing where nobody looks.

use std::future::pending;
use std::io::{IsTerminal as _, Write as _, stderr};
use std::time::Duration;

use tokio::time::{Instant, Interval, interval_at};

/// How often it is written anew.
const EVERY: Duration = Duration::from_millis(250);
/// Back to the beginning of the line, and nothing behind it.
const CLEAR: &str = "\r\x1b[K";

/// The line. It is cleared when this is dropped.
#[derive(Debug)]
pub(crate) struct Progress {
    started: Instant,
    ticks: Option<Interval>,
}

impl Progress {
    pub(crate) fn new() -> Self {
        let started = Instant::now();
        let ticks = stderr().is_terminal().then(|| interval_at(started + EVERY, EVERY));
        Self { started, ticks }
    }

    /// When it is time to write it; never if nobody looks. Cancel-safe.
    pub(crate) async fn tick(&mut self) {
        match &mut self.ticks {
            Some(ticks) => {
                ticks.tick().await;
            }
            None => pending().await,
        }
    }

    /// Takes it away, before something else is written.
    pub(crate) fn clear(&self) {
        if self.ticks.is_some() {
            let _ = stderr().lock().write_all(CLEAR.as_bytes());
        }
    }

    /// Writes it.
    pub(crate) fn show(&self, step: &str) {
        if self.ticks.is_some() {
            let seconds = self.started.elapsed().as_secs();
            let _ = stderr().lock().write_all(format!("{CLEAR}{seconds:>3} s  {step}").as_bytes());
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.clear();
    }
}
