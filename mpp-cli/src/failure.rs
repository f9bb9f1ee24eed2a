//! Why the program ends with an exit code other than 0: one line for a person, one number for a script.

use std::fmt;
use std::io;

/// What went wrong and what to do about it. The text is one line, without the program's name.
#[derive(Debug)]
pub(crate) struct Failure {
    /// The exit code.
    pub(crate) code: u8,
    text: String,
}

/// The program's result everywhere.
pub(crate) type Outcome<T> = Result<T, Failure>;

impl Failure {
    /// Exit code of what is wrong with the call itself.
    pub(crate) const USAGE: u8 = 2;
    /// Exit code of a ticket that is unreadable, expired or refused: only a new one helps.
    pub(crate) const TICKET: u8 = 3;
    /// Exit code of a service that is not running.
    pub(crate) const NOT_RUNNING: u8 = 4;

    /// Something failed; exit code 1.
    pub(crate) fn new(text: impl fmt::Display) -> Self {
        Self::with_code(1, text)
    }

    /// The call is wrong; exit code 2.
    pub(crate) fn usage(text: impl fmt::Display) -> Self {
        Self::with_code(Self::USAGE, text)
    }

    /// The ticket is no good; exit code 3.
    pub(crate) fn ticket(text: impl fmt::Display) -> Self {
        Self::with_code(Self::TICKET, text)
    }

    /// With this exit code.
    pub(crate) fn with_code(code: u8, text: impl fmt::Display) -> Self {
        // One line whatever the text is made of: a file name may hold a line break.
        Self { code, text: crate::text::printable(&text.to_string()) }
    }

    /// Output could not be written. If nobody reads it any more (`mpp watch .. | head`), there is nobody to tell.
    pub(crate) fn output(error: &io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Self { code: 1, text: String::new() };
        }
        Self::new(format_args!("cannot write the output: {}", reason(error)))
    }

    /// Nothing to say, only an exit code.
    pub(crate) fn is_silent(&self) -> bool {
        self.text.is_empty()
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// The system's words for an error, without "(os error 13)".
pub(crate) fn reason(error: &io::Error) -> String {
    let text = error.to_string();
    match text.find(" (os error") {
        Some(end) => text[..end].to_lowercase(),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_whatever_it_is_made_of() {
        let failure = Failure::new("cannot read a\nb\u{1b}[2J");
        assert_eq!(failure.to_string(), "cannot read a\\nb\\u{1b}[2J");
        assert_eq!(failure.code, 1);
    }

    #[test]
    fn a_closed_pipe_is_silent() {
        assert!(Failure::output(&io::ErrorKind::BrokenPipe.into()).is_silent());
        assert!(!Failure::output(&io::ErrorKind::StorageFull.into()).is_silent());
    }

    #[test]
    fn no_error_numbers() {
        assert_eq!(reason(&io::Error::from_raw_os_error(13)), "permission denied");
    }
}
