//! One line for people.

use core::fmt;
use core::time::Duration;

use super::report::{Answers, FamilyReport, InUse, Mapping, NetcheckReport, TicketCheck, Translation, Udp};
use crate::wire::Code;

/// Of so many packets in a hundred that are lost, people have to know.
const LOSSY: u32 = 20;
/// The usual interval between heartbeats.
const USUAL: Duration = Duration::from_secs(25);

/// What a report comes down to. `Display` is one line for people, without an end of line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Verdict {
    /// Nothing can be said yet, or nothing could be asked.
    Unknown,
    /// No name of the service could be looked up.
    Unresolved,
    /// This machine has no way to the service.
    NoRoute,
    /// UDP does not get through, or this machine has none.
    Blocked {
        /// Whether the Web Service transport does.
        web: Answers,
    },
    /// Short packets do, those of 1200 bytes do not.
    OnlySmall {
        /// Whether the Web Service transport does.
        web: Answers,
    },
    /// The service can be reached, by UDP or by Web, and does not take the ticket.
    TicketRefused(Code),
    /// The service can be reached, and has not said whether it takes the ticket: it may have too much to do, or be about
    /// to end.
    Unserved,
    /// UDP works, with many losses.
    Lossy {
        /// Of a hundred packets.
        percent: u32,
    },
    /// UDP works, and the network forgets a socket that is silent for so long: heartbeats have to be more frequent than
    /// usual.
    Forgetful {
        /// The silence.
        silence: Duration,
    },
    /// UDP works, and other devices can be reached only with difficulty: the NAT maps the same socket to another port or
    /// address for each destination.
    Dependent,
    /// UDP works.
    Works {
        /// Whether there is a NAT.
        translation: Translation,
    },
}

impl NetcheckReport {
    /// What it comes down to: the worst that is known.
    pub fn verdict(&self) -> Verdict {
        let reached = self.udp() == Udp::Works || self.web == Answers::Yes;
        if let TicketCheck::Refused(code) | TicketCheck::SaidRefused(code) = self.ticket
            && reached
        {
            return Verdict::TicketRefused(code);
        }
        if self.ticket == TicketCheck::Unknown && reached {
            return Verdict::Unserved;
        }
        match self.udp() {
            Udp::Unknown => return Verdict::Unknown,
            // Whatever is missing for UDP, there is a way.
            Udp::NoService | Udp::NoRoute if reached => return Verdict::Blocked { web: self.web },
            Udp::NoService if !self.unresolved.is_empty() => return Verdict::Unresolved,
            Udp::NoService => return Verdict::Unknown,
            Udp::NoRoute => return Verdict::NoRoute,
            Udp::Blocked => return Verdict::Blocked { web: self.web },
            Udp::OnlySmall => return Verdict::OnlySmall { web: self.web },
            Udp::Works => {}
        }
        let best: &FamilyReport = self.best();
        let percent = best.loss.map_or(0, |loss| loss.percent());
        if percent >= LOSSY {
            return Verdict::Lossy { percent };
        }
        let disproven = self.connection.and_then(|c| c.keepalive.disproven);
        if let Some(silence) = disproven.filter(|silence| *silence <= USUAL) {
            return Verdict::Forgetful { silence };
        }
        match best.mapping {
            Mapping::AddressDependent | Mapping::AddressAndPortDependent | Mapping::Dependent => {
                Verdict::Dependent
            }
            Mapping::Unknown | Mapping::EndpointIndependent | Mapping::NotPortDependent => {
                Verdict::Works { translation: best.translation }
            }
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown => f.write_str("not known: too little was measured"),
            Self::Unresolved => f.write_str("the service's name cannot be looked up: is this machine online?"),
            Self::NoRoute => f.write_str("this machine has no way to the service: is it online?"),
            Self::Blocked { web: Answers::Yes } => {
                f.write_str("UDP does not get through, the Web does: notifications come by Web")
            }
            Self::Blocked { web: Answers::No } => f.write_str(
                "neither UDP nor the Web gets through, or the service is not there: no notifications come",
            ),
            Self::Blocked { web: Answers::Unknown } => f.write_str(
                "UDP does not get through, or the service is not there; whether the Web does is not known",
            ),
            Self::OnlySmall { web } => {
                f.write_str(
                    "UDP packets of 1200 bytes do not get through, short ones do: a tunnel or a firewall is in the way; ",
                )?;
                f.write_str(match web {
                    Answers::Yes => "the Web does: notifications come by Web",
                    Answers::No => "nor does the Web: no notifications come",
                    Answers::Unknown => "whether the Web does is not known",
                })
            }
            Self::TicketRefused(code) => {
                write!(f, "the service can be reached, but does not take the ticket ({code}): get a new one")
            }
            Self::Unserved => f.write_str(
                "the service can be reached, but has not said that it takes the ticket: it may have too much to do, try \
                 again later",
            ),
            Self::Lossy { percent } => {
                write!(f, "UDP works, but {percent} % of the packets are lost: notifications may be late")
            }
            Self::Forgetful { silence } => write!(
                f,
                "UDP works, but the network forgets a socket that is silent for {} s: heartbeats have to be more frequent, \
                 or notifications wait for the next one",
                silence.as_secs()
            ),
            Self::Dependent => f.write_str(
                "UDP works: notifications come at once; other devices are hard to reach directly, as the NAT uses another \
                 port for each destination",
            ),
            Self::Works { translation: Translation::None } => {
                f.write_str("UDP works, without a NAT: notifications come at once")
            }
            Self::Works { .. } => f.write_str("UDP works: notifications come at once"),
        }
    }
}

impl InUse {
    /// Whether a connection with the same ticket surely displaces none.
    pub const fn is_free(self) -> bool {
        matches!(self, Self::No)
    }
}
