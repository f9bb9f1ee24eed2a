//! How the demo tells what happens: numbered steps, aligned facts, and checks that are counted.

use std::fmt;
use std::io::IsTerminal as _;
use std::time::Duration;

use mpp_tokio::Service;

use crate::failure::{Failure, Outcome};
use crate::output;
use crate::text::grouped;

/// The narration, and what came of the checks in it.
#[derive(Debug)]
pub(super) struct Story {
    colour: bool,
    step: u32,
    checks: u32,
    failed: Vec<String>,
}

const BOLD: &str = "1";
const DIM: &str = "2";
const GREEN: &str = "32";
const RED: &str = "31";

impl Story {
    /// Colour only for a person at a terminal who has not asked for none (<https://no-color.org>).
    pub(super) fn new() -> Self {
        let unwanted = std::env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty())
            || std::env::var_os("TERM").is_some_and(|t| t == "dumb");
        Self { colour: std::io::stdout().is_terminal() && !unwanted, step: 0, checks: 0, failed: Vec::new() }
    }

    fn paint(&self, style: &str, text: impl fmt::Display) -> String {
        if self.colour { format!("\u{1b}[{style}m{text}\u{1b}[0m") } else { text.to_string() }
    }

    /// A line of its own.
    pub(super) fn line(&self, line: impl fmt::Display) -> Outcome<()> {
        output::line(line)
    }

    /// The next step begins.
    pub(super) fn step(&mut self, title: &str) -> Outcome<()> {
        self.step += 1;
        output::line(format_args!("\n{:>3}  {}", self.step, self.paint(BOLD, title)))
    }

    /// A fact about `subject`.
    pub(super) fn fact(&self, subject: &str, fact: impl fmt::Display) -> Outcome<()> {
        output::line(format_args!("     {subject:<16}{fact}"))
    }

    /// What the step put on the wire.
    pub(super) fn wire(&self, wire: Wire) -> Outcome<()> {
        let way = |packets, bytes| format!("{packets:>3} packets {:>6} bytes", grouped(bytes));
        let subject = self.paint(DIM, format_args!("{:<16}", "on the wire"));
        output::line(format_args!("     {subject}service sent     {}", way(wire.sent, wire.bytes_sent)))?;
        output::line(format_args!(
            "     {:<16}service received {}",
            "",
            way(wire.received, wire.bytes_received)
        ))
    }

    /// A claim, and whether it is true. A false one does not end the demo: what follows may say more.
    pub(super) fn check(&mut self, claim: &str, is_true: bool) -> Outcome<()> {
        self.checks += 1;
        let word = if is_true { self.paint(GREEN, "ok") } else { self.paint(RED, "FAILED") };
        if !is_true {
            self.failed.push(format!("step {}: {claim}", self.step));
        }
        output::line(format_args!("     {word}  {claim}"))
    }

    /// Waits for `what`, for `limit` at most. Running out of time is a failed check that ends the demo, as nothing
    /// after it can be told.
    pub(super) async fn wait<T>(
        &self,
        what: &str,
        limit: Duration,
        future: impl Future<Output = T>,
    ) -> Outcome<T> {
        tokio::time::timeout(limit, future).await.map_err(|_| {
            Failure::new(format_args!("demo: step {}: {what}: not within {} s", self.step, limit.as_secs()))
        })
    }

    /// The end: true only if every check was.
    pub(super) fn end(self, took: Duration) -> Outcome<()> {
        match self.failed.as_slice() {
            [] => output::line(format_args!(
                "\n     {} in {:.1} s",
                self.paint(GREEN, format_args!("all {} checks true", self.checks)),
                took.as_secs_f64()
            )),
            failed => Err(Failure::new(format_args!(
                "demo: {} of {} checks failed: {}",
                failed.len(),
                self.checks,
                failed.join("; ")
            ))),
        }
    }
}

/// What a service has put on the wire, and got from it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Wire {
    pub(super) sent: u64,
    pub(super) bytes_sent: u64,
    pub(super) received: u64,
    pub(super) bytes_received: u64,
}

impl Wire {
    /// Since the service started.
    pub(super) fn of(service: &Service) -> Self {
        let core = service.stats().core;
        Self {
            sent: core.packets_sent,
            bytes_sent: core.bytes_sent,
            received: core.packets_received,
            bytes_received: core.bytes_received,
        }
    }

    /// Since `earlier`.
    pub(super) fn since(self, earlier: Self) -> Self {
        Self {
            sent: self.sent.saturating_sub(earlier.sent),
            bytes_sent: self.bytes_sent.saturating_sub(earlier.bytes_sent),
            received: self.received.saturating_sub(earlier.received),
            bytes_received: self.bytes_received.saturating_sub(earlier.bytes_received),
        }
    }
}
