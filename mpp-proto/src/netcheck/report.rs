//! What was found out about a network. Whatever has not been measured, or cannot be, is *unknown*, which is a value of
//! its own and never stands for no.

use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::net::SocketAddr;
use core::time::Duration;

use crate::device::{ConnectionReport, Family};
use crate::wire::Code;

/// Whether UDP gets through, there and back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Udp {
    /// Not found out, or not yet.
    #[default]
    Unknown,
    /// The service has no address in this family, as far as the ticket says.
    NoService,
    /// This machine has no address in this family, or no way to the service.
    NoRoute,
    /// Packets were sent, and nothing came back.
    Blocked,
    /// Short packets come back; those of 1200 bytes, which the protocol needs, do not.
    OnlySmall,
    /// It works.
    Works,
}

/// Of what a mapping depends, in the words of RFC 4787, section 4.1: whether the same socket is seen from another port or
/// address by another destination.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Mapping {
    /// Not found out: fewer than two destinations have answered.
    #[default]
    Unknown,
    /// Endpoint-independent: one mapping for all destinations.
    EndpointIndependent,
    /// Address-dependent: another one for each address.
    AddressDependent,
    /// Address- and port-dependent: another one for each address and port ("symmetric").
    AddressAndPortDependent,
    /// Not dependent on the port; whether on the address is unknown, as only one has answered.
    NotPortDependent,
    /// Dependent on the address; whether on the port too is unknown, as no address has answered on two ports.
    Dependent,
}

/// Whether the network changes the address of this machine's packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Translation {
    /// Not found out.
    #[default]
    Unknown,
    /// No: the service sees the address and the port that the socket has here. There may be a firewall.
    None,
    /// Yes: there is a NAT, or several.
    Nat,
}

/// Whether the port that the service sees is the socket's own (RFC 4787, section 4.2.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Ports {
    /// Not found out.
    #[default]
    Unknown,
    /// The socket's own.
    Preserved,
    /// Another one.
    Changed,
}

/// Who may send to a mapping (RFC 4787, section 5). It takes packets from where the device has sent none, which nobody
/// here can ask for: so this is always unknown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Filtering {
    /// Not found out.
    #[default]
    Unknown,
}

/// What the service thinks of the ticket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TicketCheck {
    /// It has not answered, or it is too busy.
    #[default]
    Unknown,
    /// It takes it.
    Accepted,
    /// It does not take it, and has proved that it is the service.
    Refused(Code),
    /// Somebody says that it does not take it: the service, if it does not have the ticket's key, or anybody on the way.
    SaidRefused(Code),
}

/// Whether a device with this ticket is connected at the service, which another connection would displace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum InUse {
    /// The service has not said.
    #[default]
    Unknown,
    /// None is.
    No,
    /// One is, or was until recently.
    Yes,
}

/// Whether something answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Answers {
    /// Not found out, or not asked.
    #[default]
    Unknown,
    /// It was asked, and does not.
    No,
    /// It does.
    Yes,
}

/// Times of a few packets there and back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RoundTrips {
    /// The shortest.
    pub min: Duration,
    /// Their mean.
    pub mean: Duration,
    /// How many.
    pub count: u32,
}

/// Packets that were lost there or back, of a few sent in a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loss {
    /// Sent.
    pub sent: u32,
    /// Not answered in time.
    pub lost: u32,
}

impl Loss {
    /// Of a hundred.
    pub fn percent(&self) -> u32 {
        let lost = u64::from(self.lost) * 100 + u64::from(self.sent / 2);
        lost.checked_div(self.sent.into()).map_or(0, |percent| u32::try_from(percent).unwrap_or(u32::MAX))
    }
}

/// One address and port of the service, and how it sees the socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Destination {
    /// Where packets went.
    pub remote: SocketAddr,
    /// Where they came from, as it says there; none: no answer.
    pub endpoint: Option<SocketAddr>,
}

/// What answers at a base URL of the Web Service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum WebSeen {
    /// Not known: another one has answered first, or an answer is still awaited.
    #[default]
    Unknown,
    /// Nobody: no connection, or no whole answer within 5 seconds.
    Nobody,
    /// Somebody, with this HTTP status, which is not 200: a proxy, say, or a server that is not this service's.
    Status(u16),
    /// Somebody who has not proved to be the service: a portal that wants a login, say.
    Stranger,
    /// The service, which has proved it.
    Service,
}

/// One base URL of the Web Service that was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebDestination {
    /// The base URL, as [`Ticket::web`](crate::Ticket::web) gives it.
    pub base: Arc<str>,
    /// What answers there.
    pub seen: WebSeen,
}

/// What was found out in one family.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct FamilyReport {
    /// Whether UDP gets through.
    pub udp: Udp,
    /// The socket's address on this machine, if the host could tell.
    pub local: Option<SocketAddr>,
    /// The address that the service sees.
    pub endpoint: Option<SocketAddr>,
    /// Whether that is another one.
    pub translation: Translation,
    /// Of what it depends.
    pub mapping: Mapping,
    /// Whether the port is kept.
    pub ports: Ports,
    /// Who may send to it.
    pub filtering: Filtering,
    /// Whether the service answers STUN (RFC 8489); without it there is less to measure.
    pub stun: Answers,
    /// Packets there and back; none: nothing was measured.
    pub round_trip: Option<RoundTrips>,
    /// Packets lost; none: nothing was measured.
    pub loss: Option<Loss>,
    /// How often the service saw the socket from another address than before, while it was asked.
    pub rebindings: u32,
    /// All that was asked.
    pub destinations: Vec<Destination>,
}

/// What was found out about a network.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct NetcheckReport {
    /// Over IPv4.
    pub v4: FamilyReport,
    /// Over IPv6.
    pub v6: FamilyReport,
    /// The ticket.
    pub ticket: TicketCheck,
    /// Whether the device is connected.
    pub in_use: InUse,
    /// The device's connection, and what it knows of how long the network remembers a silent socket; none: unknown, as a
    /// netcheck makes no connection. The host fills it in if it has one.
    pub connection: Option<ConnectionReport>,
    /// Names of the service that could not be looked up.
    pub unresolved: Vec<String>,
    /// Whether the service can be reached by the Web Service transport, which is for networks that let no UDP through. Yes:
    /// it has proved there that it is the service; no: at none of its base URLs has it; unknown: it was not asked there
    /// ([`Netcheck::ask_web`](super::Netcheck::ask_web)), or is still being asked.
    pub web: Answers,
    /// The base URLs that were asked, in the ticket's order.
    pub web_destinations: Vec<WebDestination>,
    /// Whether that is all: until then more is to come.
    pub complete: bool,
}

impl NetcheckReport {
    /// A family's part.
    pub const fn family(&self, family: Family) -> &FamilyReport {
        match family {
            Family::V4 => &self.v4,
            Family::V6 => &self.v6,
        }
    }

    /// Whether UDP gets through in one of the families. Unknown is worse than yes and better than everything else: the
    /// family of which it is not known may yet be the one that works.
    pub fn udp(&self) -> Udp {
        let families = [self.v4.udp, self.v6.udp];
        let best = self.v4.udp.max(self.v6.udp);
        if best != Udp::Works && families.contains(&Udp::Unknown) { Udp::Unknown } else { best }
    }

    /// The family in which UDP works best, and of two equals the one that was measured with fewer losses; IPv4 first.
    pub fn best(&self) -> &FamilyReport {
        let lost = |f: &FamilyReport| f.loss.map_or(101, |loss| loss.percent());
        match self.v4.udp.cmp(&self.v6.udp).then_with(|| lost(&self.v6).cmp(&lost(&self.v4))) {
            core::cmp::Ordering::Less => &self.v6,
            _ => &self.v4,
        }
    }
}

impl FamilyReport {
    /// Draws the conclusions from what has been seen.
    pub(super) fn conclude(&mut self) {
        self.mapping = Mapping::of(&self.destinations);
        let (Some(local), Some(endpoint)) = (self.local, self.endpoint) else { return };
        if local == endpoint && matches!(self.mapping, Mapping::Unknown | Mapping::NotPortDependent) {
            // It is the socket itself that is seen.
            self.mapping = Mapping::EndpointIndependent;
        }
        let same_port = local.port() == endpoint.port();
        self.ports = if same_port { Ports::Preserved } else { Ports::Changed };
        // A host that does not know its own address cannot tell; but a port that changes is a NAT's doing.
        self.translation = match (local.ip().is_unspecified(), local.ip() == endpoint.ip()) {
            _ if !same_port => Translation::Nat,
            (true, _) => Translation::Unknown,
            (false, true) => Translation::None,
            (false, false) => Translation::Nat,
        };
    }
}

impl Mapping {
    /// What two destinations or more say about one socket. If anything differs, that counts, whatever else is equal: a
    /// mapping that is shared now and then is not to be relied on.
    pub(super) fn of(destinations: &[Destination]) -> Self {
        let seen = || destinations.iter().filter_map(|d| d.endpoint.map(|endpoint| (d.remote, endpoint)));
        let (mut port_same, mut port_differs, mut address_same, mut address_differs) =
            (false, false, false, false);
        for (i, (remote, endpoint)) in seen().enumerate() {
            for (other, other_endpoint) in seen().skip(i + 1) {
                let same = endpoint == other_endpoint;
                let of_port = remote.ip() == other.ip();
                port_same |= of_port && same;
                port_differs |= of_port && !same;
                address_same |= !of_port && same;
                address_differs |= !of_port && !same;
            }
        }
        match (port_differs, address_differs) {
            (true, _) => Self::AddressAndPortDependent,
            (false, true) if port_same => Self::AddressDependent,
            (false, true) => Self::Dependent,
            (false, false) if address_same => Self::EndpointIndependent,
            (false, false) if port_same => Self::NotPortDependent,
            (false, false) => Self::Unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    fn seen(list: &[(&str, &str)]) -> Vec<Destination> {
        let address = |text: &str| text.parse().ok();
        list.iter()
            .map(|(remote, endpoint)| Destination {
                remote: remote.parse().unwrap(),
                endpoint: address(endpoint),
            })
            .collect()
    }

    #[test]
    fn a_mapping_is_called_what_its_destinations_show() {
        let (a, a2, b, b2) = ("192.0.2.1:1", "192.0.2.1:2", "192.0.2.9:1", "192.0.2.9:2");
        let (x, y, z) = ("198.51.100.1:7", "198.51.100.1:8", "198.51.100.1:9");
        use Mapping::{
            AddressAndPortDependent, AddressDependent, Dependent, EndpointIndependent, NotPortDependent,
            Unknown,
        };
        for (list, mapping) in [
            (vec![], Unknown),
            (vec![(a, x)], Unknown),
            (vec![(a, x), (b, "")], Unknown),
            (vec![(a, x), (a2, x)], NotPortDependent),
            (vec![(a, x), (b, x)], EndpointIndependent),
            (vec![(a, x), (b2, x)], EndpointIndependent),
            (vec![(a, x), (a2, x), (b, x)], EndpointIndependent),
            (vec![(a, x), (a2, y)], AddressAndPortDependent),
            (vec![(a, x), (a2, y), (b, z)], AddressAndPortDependent),
            (vec![(a, x), (a2, x), (b, y)], AddressDependent),
            (vec![(a, x), (b, y)], Dependent),
            (vec![(a, x), (b2, y)], Dependent),
            (vec![(a, x), (a2, y), (b, x)], AddressAndPortDependent),
            (vec![(a, x), (b, x), (b2, y)], AddressAndPortDependent),
        ] {
            assert_eq!(Mapping::of(&seen(&list)), mapping, "{list:?}");
        }
    }

    #[test]
    fn what_is_not_known_is_not_no() {
        let mut family = FamilyReport { endpoint: "198.51.100.1:7".parse().ok(), ..FamilyReport::default() };
        family.conclude();
        assert_eq!((family.translation, family.ports), (Translation::Unknown, Ports::Unknown));
        for (local, translation, ports) in [
            ("0.0.0.0:7", Translation::Unknown, Ports::Preserved),
            ("0.0.0.0:8", Translation::Nat, Ports::Changed),
            ("198.51.100.1:7", Translation::None, Ports::Preserved),
            ("198.51.100.1:8", Translation::Nat, Ports::Changed),
            ("192.168.1.10:7", Translation::Nat, Ports::Preserved),
        ] {
            family.local = local.parse().ok();
            family.conclude();
            assert_eq!((family.translation, family.ports), (translation, ports), "{local}");
        }
        assert_eq!(NetcheckReport::default().udp(), Udp::Unknown);
    }

    #[test]
    fn a_family_of_which_nothing_is_known_may_be_the_one_that_works() {
        use Udp::{Blocked, NoRoute, NoService, OnlySmall, Unknown, Works};
        for (v4, v6, udp) in [
            (Unknown, Works, Works),
            (Unknown, OnlySmall, Unknown),
            (Unknown, Blocked, Unknown),
            (Unknown, NoRoute, Unknown),
            (Unknown, NoService, Unknown),
            (Blocked, NoRoute, Blocked),
            (NoRoute, NoService, NoRoute),
        ] {
            for (v4, v6) in [(v4, v6), (v6, v4)] {
                let family = |udp| FamilyReport { udp, ..FamilyReport::default() };
                let report = NetcheckReport { v4: family(v4), v6: family(v6), ..NetcheckReport::default() };
                assert_eq!(report.udp(), udp, "{v4:?} {v6:?}");
            }
        }
    }

    #[test]
    fn losses_in_a_hundred() {
        for (sent, lost, percent) in
            [(0, 0, 0), (10, 0, 0), (10, 1, 10), (3, 1, 33), (3, 2, 67), (10, 10, 100)]
        {
            assert_eq!(Loss { sent, lost }.percent(), percent);
        }
    }
}
