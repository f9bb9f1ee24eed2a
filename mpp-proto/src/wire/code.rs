//! Why something ended or was refused: numbers as HTTP has them (SPEC.md, "Codes").

use core::fmt;

/// A reason, by number. A number that is not known here is treated as [`Code::UNAVAILABLE`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Code(u16);

impl Code {
    /// 200: closed as the application wanted.
    pub const CLOSED: Self = Self(200);
    /// 400: the other side found a message that breaks the protocol.
    pub const BAD_REQUEST: Self = Self(400);
    /// 401: the ticket is not accepted.
    pub const UNAUTHORIZED: Self = Self(401);
    /// 403: the ticket does not give this right. For other accounts also: they do not exist.
    pub const FORBIDDEN: Self = Self(403);
    /// 404: the account does not exist.
    pub const UNKNOWN_ACCOUNT: Self = Self(404);
    /// 408: nothing was heard for too long; connect anew.
    pub const TIMEOUT: Self = Self(408);
    /// 409: the serial is not above the last one, a newer connection took over, or the channel has a new epoch.
    pub const CONFLICT: Self = Self(409);
    /// 410: the ticket has expired.
    pub const TICKET_EXPIRED: Self = Self(410);
    /// 413: too large.
    pub const TOO_LARGE: Self = Self(413);
    /// 429: too many requests; the answer names the limit and when to try again.
    pub const TOO_MANY_REQUESTS: Self = Self(429);
    /// 503: the service is not available or is being shut down.
    pub const UNAVAILABLE: Self = Self(503);
    /// 505: the service does not speak this version.
    pub const VERSION: Self = Self(505);

    /// The code of that number.
    pub const fn new(number: u16) -> Self {
        Self(number)
    }

    /// Its number.
    pub const fn number(self) -> u16 {
        self.0
    }

    /// What it says, if it is known here.
    pub const fn text(self) -> Option<&'static str> {
        Some(match self {
            Self::CLOSED => "closed",
            Self::BAD_REQUEST => "bad request",
            Self::UNAUTHORIZED => "ticket not accepted",
            Self::FORBIDDEN => "not allowed by this ticket",
            Self::UNKNOWN_ACCOUNT => "unknown account",
            Self::TIMEOUT => "timed out, connect anew",
            Self::CONFLICT => "superseded by a newer connection or state",
            Self::TICKET_EXPIRED => "ticket expired",
            Self::TOO_LARGE => "too large",
            Self::TOO_MANY_REQUESTS => "too many requests",
            Self::UNAVAILABLE => "service unavailable",
            Self::VERSION => "protocol version not supported",
            _ => return None,
        })
    }
}

/// The number and what it says: `410 ticket expired`.
impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.0, self.text().unwrap_or("unknown reason"))
    }
}

#[cfg(test)]
mod tests {
    use std::format;

    use super::*;

    #[test]
    fn shown_with_number_and_words() {
        assert_eq!(format!("{}", Code::TICKET_EXPIRED), "410 ticket expired");
        assert_eq!(format!("{}", Code::new(599)), "599 unknown reason");
    }
}
