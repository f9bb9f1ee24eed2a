//! Standard output and standard error. Output that cannot be written is an error, not a panic: it may be a full disk,
//! and a notification that nobody could read must not be acknowledged.

use std::fmt;
use std::io::{self, Write as _};

use crate::failure::{Failure, Outcome};

/// One line to standard output, flushed.
pub(crate) fn line(line: impl fmt::Display) -> Outcome<()> {
    text(&format!("{line}\n"))
}

/// Text to standard output, flushed.
pub(crate) fn text(text: &str) -> Outcome<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(|e| Failure::output(&e))
}

/// One line to standard error; if nobody reads it, nothing is lost.
pub(crate) fn note(line: impl fmt::Display) {
    let _ = io::stderr().lock().write_all(format!("{line}\n").as_bytes());
}
