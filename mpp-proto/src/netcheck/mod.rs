//! Looking at a network: what it does to the UDP packets of this machine, asked of the service of a ticket, and whether
//! the Web leads there (SPEC.md, "Netcheck"). It displaces no device that is connected with the same ticket: it goes
//! through an exchange, which the service answers with what it sees, and never confirms the connection.

mod leg;
mod report;
mod verdict;
mod web;

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::net::SocketAddr;
use core::num::NonZeroU16;
use core::time::Duration;

pub use report::{
    Answers, Destination, FamilyReport, Filtering, InUse, Loss, Mapping, NetcheckReport, Ports, RoundTrips,
    TicketCheck, Translation, Udp, WebDestination, WebSeen,
};
pub use verdict::Verdict;

use leg::{Exchange, Leg, Took};
use web::WebLeg;

use crate::device::attempt::{Attempt, Proposal};
use crate::device::{Deadlines, Family, LinkState, ResolveId, WebAnswer, WebRequestId, WebTransmit};
use crate::ids::{Epoch, Serial, StoreSet};
use crate::path::{Datagram, Disposition, LinkId, Path, Transmit};
use crate::random::{Rng, Seed};
use crate::time::{Instant, UnixTime};
use crate::wakeup::{TimerKind, Wakeup};
use crate::wire::{Code, Endpoint, MAX_CONNECT_SERIAL, MIN_PACKET, Ticket, check_room};

/// How long names may take to be looked up.
const RESOLVE_PATIENCE: Duration = Duration::from_secs(5);

/// What [`Netcheck::poll_event`] returns.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum NetcheckEvent {
    /// Open a UDP socket on a port of its own and answer with [`Netcheck::handle_link`].
    OpenLink {
        /// The link's number.
        link: LinkId,
        /// An address that it has to reach. With [`LinkState::Open`] goes the address from which the system would send
        /// there, or the unspecified one if the host cannot tell; [`LinkState::Failed`] says that there is no way.
        to: SocketAddr,
    },
    /// Look this name up and answer with [`Netcheck::handle_resolved`].
    Resolve {
        /// The question's number.
        id: ResolveId,
        /// The host name.
        host: String,
        /// The port that the addresses will get.
        port: u16,
    },
    /// Something was found out: [`Netcheck::report`] has it.
    Progress,
}

/// Looks at the network, once: after 2 to 5 seconds, after 11 at worst, it is [complete](Self::is_complete).
///
/// It is driven like a [`Device`](crate::Device): feed it packets and timeouts, drain its packets and events, in any order
/// and as often as you like. It asks four addresses of the service at most in a family; there it sends 16 packets of 1200
/// bytes at most (twice as many if this machine's clock is behind) and 45 of 20 bytes, and usually 3 and 12; where proofs of
/// the address are asked for, another packet of 1200 bytes for each, four in a second to one address at most. By Web, if the
/// host has [said](Self::ask_web) that it can, it makes one request to each base URL of the ticket at most, usually one.
pub struct Netcheck {
    ticket: Ticket,
    rng: Rng,
    connect_serial: u64,
    legs: [Leg; 2],
    web: WebLeg,
    /// Names that have not been looked up, by the index of their endpoint.
    names: Vec<usize>,
    /// Until when they may take.
    names_until: Instant,
    unresolved: Vec<String>,
    ticket_check: TicketCheck,
    in_use: InUse,
    check_port: Option<NonZeroU16>,
    events: Vec<NetcheckEvent>,
    changed: bool,
    handled: Instant,
}

impl Netcheck {
    /// Starts at once. `seed` comes from the operating system's generator and is used once; `clock` is the civil time at
    /// `now`.
    pub fn new(ticket: Ticket, seed: Seed, now: Instant, clock: UnixTime) -> Self {
        let mut check = Self {
            rng: Rng::new(seed),
            connect_serial: clock.as_millis(),
            legs: [Leg::new(Family::V4, LinkId(0)), Leg::new(Family::V6, LinkId(1))],
            web: WebLeg::default(),
            names: Vec::new(),
            names_until: now + RESOLVE_PATIENCE,
            unresolved: Vec::new(),
            ticket_check: TicketCheck::Unknown,
            in_use: InUse::Unknown,
            check_port: None,
            events: Vec::new(),
            changed: false,
            handled: now,
            ticket,
        };
        let mut addresses = Vec::new();
        for (at, endpoint) in check.ticket.endpoints().iter().enumerate() {
            match endpoint {
                Endpoint::Address(address) => addresses.push(*address),
                Endpoint::Name { host, port } => {
                    let id = ResolveId(u32::try_from(at).unwrap_or(u32::MAX));
                    check.names.push(at);
                    check.events.push(NetcheckEvent::Resolve { id, host: host.clone(), port: *port });
                }
            }
        }
        check.add(now, &addresses);
        check
    }

    /// Answers [`NetcheckEvent::Resolve`]; no address: the name could not be looked up.
    pub fn handle_resolved(&mut self, now: Instant, id: ResolveId, addresses: &[SocketAddr]) {
        let Some(at) = self.names.iter().position(|name| u32::try_from(*name) == Ok(id.0)) else { return };
        let name = self.names.remove(at);
        if addresses.is_empty() {
            self.miss(name);
        }
        self.add(now, addresses);
        self.changed = true;
        self.handle_timeout(now);
    }

    /// Answers [`NetcheckEvent::OpenLink`].
    pub fn handle_link(&mut self, now: Instant, link: LinkId, state: LinkState) {
        let Some(at) = self.legs.iter().position(|leg| leg.link == link) else { return };
        match state {
            LinkState::Open { local } => {
                if self.legs[at].open(now, local) {
                    self.attempt(now, at);
                }
            }
            LinkState::Failed => self.legs[at].fail(),
        }
        self.changed = true;
        self.handle_timeout(now);
    }

    /// Takes a received datagram.
    pub fn handle_datagram(&mut self, now: Instant, datagram: Datagram<'_>) -> Disposition {
        self.handle_timeout(now);
        let Datagram { path, payload } = datagram;
        let Some(at) = self.legs.iter().position(|leg| leg.link == path.link) else {
            return Disposition::NotForUs;
        };
        // What comes too late counts as lost, and a report that is complete stays what it is.
        if self.legs[at].is_done() {
            return Disposition::NotForUs;
        }
        let took = self.legs[at].receive(now, path.remote, payload, &mut self.rng);
        if let Took::Nothing(disposition) = took {
            return disposition;
        }
        self.learn(&took);
        if let Took::Refused { code, serial } = took {
            self.refused(now, at, code, serial);
        }
        if let Some(port) = self.check_port {
            self.legs[at].add_port(now, port);
        }
        self.changed = true;
        self.handle_timeout(now);
        Disposition::Accepted
    }

    /// The host can make HTTP requests: the Web is asked too, beginning now. To be called once, before the first
    /// [`poll_web`](Self::poll_web); a host that has no Web client leaves it out, and the report says of the Web that it
    /// is unknown.
    pub fn ask_web(&mut self, now: Instant) {
        if self.web.is_new() {
            let mut attempt = self.new_attempt(now);
            attempt.turn_to_web(now);
            self.web.begin(now, &self.ticket, attempt);
            self.handle_timeout(now);
        }
    }

    /// The next HTTP request to make, as with [`Device::poll_web`](crate::Device::poll_web): its body is the first
    /// [`WebTransmit::len`] bytes of `out`, which has room for 1452. None of them waits. To be asked like
    /// [`poll_transmit`](Self::poll_transmit); once the check [is complete](Self::is_complete), requests without an answer
    /// are of no use any more.
    pub fn poll_web(&mut self, now: Instant, out: &mut [u8]) -> Option<WebTransmit> {
        check_room(out);
        self.web.next_request(now, out)
    }

    /// How a request ended. Only an answer that proves that the service gave it counts as one. An answer to a request
    /// that is not known, or not any more, does nothing.
    pub fn handle_web_answer(&mut self, now: Instant, id: WebRequestId, answer: WebAnswer<'_>) {
        self.handle_timeout(now);
        let took = self.web.receive(now, id, answer, &mut self.rng);
        if matches!(took, Took::Nothing(_)) {
            return;
        }
        self.learn(&took);
        self.changed = true;
        self.handle_timeout(now);
    }

    /// Does what is due at `now`.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.handled = self.handled.max(now);
        let was_complete = self.is_complete();
        if self.names_until <= now {
            for name in core::mem::take(&mut self.names) {
                self.miss(name);
                self.changed = true;
            }
        }
        for leg in &mut self.legs {
            self.changed |= leg.tend(now);
        }
        self.changed |= self.web.tend(now);
        self.changed |= self.is_complete() != was_complete;
    }

    /// The next packet to send. `out` has room for 1452 bytes.
    pub fn poll_transmit(&mut self, now: Instant, out: &mut [u8]) -> Option<Transmit> {
        check_room(out);
        let rng = &mut self.rng;
        self.legs.iter_mut().find_map(|leg| {
            let (remote, len) = leg.next_packet(now, rng, out)?;
            Some(Transmit { path: Path::new(leg.link, remote), len, segment_size: None })
        })
    }

    /// What the host has to do or to know.
    pub fn poll_event(&mut self) -> Option<NetcheckEvent> {
        if self.events.is_empty() {
            return core::mem::take(&mut self.changed).then_some(NetcheckEvent::Progress);
        }
        Some(self.events.remove(0))
    }

    /// When [`handle_timeout`](Self::handle_timeout) is due; none once it is complete.
    pub fn poll_timeout(&self) -> Option<Wakeup> {
        let mut next = Deadlines::new(self.handled);
        if !self.names.is_empty() {
            next.act(self.names_until, TimerKind::Request);
        }
        self.legs.iter().for_each(|leg| leg.deadlines(&mut next));
        self.web.deadlines(&mut next);
        next.next()
    }

    /// Whether nothing more will come.
    pub fn is_complete(&self) -> bool {
        self.names.is_empty() && self.legs.iter().all(Leg::is_done) && self.web.is_done()
    }

    /// What has been found out.
    pub fn report(&self) -> NetcheckReport {
        let [v4, v6] = self.legs.each_ref().map(|leg| leg.report(!self.names.is_empty()));
        NetcheckReport {
            v4,
            v6,
            ticket: self.ticket_check,
            in_use: self.in_use,
            connection: None,
            unresolved: self.unresolved.clone(),
            web: self.web.reached(),
            web_destinations: self.web.destinations(),
            complete: self.is_complete(),
        }
    }

    /// A name could not be looked up.
    fn miss(&mut self, endpoint: usize) {
        if let Some(Endpoint::Name { host, .. }) = self.ticket.endpoints().get(endpoint) {
            self.unresolved.push(host.clone());
        }
    }

    /// Addresses of the service.
    fn add(&mut self, now: Instant, addresses: &[SocketAddr]) {
        for leg in &mut self.legs {
            if let Some(to) = leg.add(now, addresses) {
                self.events.push(NetcheckEvent::OpenLink { link: leg.link, to });
            }
        }
    }

    /// Begins an exchange by UDP.
    fn attempt(&mut self, now: Instant, leg: usize) {
        let attempt = self.new_attempt(now);
        self.legs[leg].begin(now, attempt);
    }

    /// An exchange, which will not be confirmed.
    fn new_attempt(&mut self, now: Instant) -> Attempt {
        let proposal = Proposal {
            connect_serial: self.next_serial(),
            epoch: Epoch::NONE,
            position: Serial::ZERO,
            filter: StoreSet::EMPTY,
            covered: StoreSet::EMPTY,
            packet_size: MIN_PACKET as u16,
            interval: Duration::from_secs(25),
            // Public-key work would be in vain: nothing is ever sealed with the keys.
            forward_secrecy: false,
            beside: false,
        };
        Attempt::new(now, &self.ticket, proposal, &mut self.rng)
    }

    fn next_serial(&mut self) -> u64 {
        self.connect_serial = self.connect_serial.saturating_add(1).min(MAX_CONNECT_SERIAL);
        self.connect_serial
    }

    /// What an answer says of the ticket and its device, however it came.
    fn learn(&mut self, took: &Took) {
        match *took {
            Took::Complete { in_use, check_port } => {
                self.in_use = if in_use { InUse::Yes } else { InUse::No };
                self.ticket_check = TicketCheck::Accepted;
                self.check_port = self.check_port.or(check_port);
            }
            // It is only the serial that is refused.
            Took::Refused { code: Code::CONFLICT, .. } => self.ticket_check = TicketCheck::Accepted,
            Took::Refused { code, .. } if refuses_ticket(code) => {
                self.ticket_check = TicketCheck::Refused(code);
            }
            Took::Hint(code) if self.ticket_check == TicketCheck::Unknown && refuses_ticket(code) => {
                self.ticket_check = TicketCheck::SaidRefused(code);
            }
            Took::Refused { .. } | Took::Hint(_) | Took::News | Took::Nothing(_) => {}
        }
    }

    /// An authentic refusal of an exchange by UDP.
    fn refused(&mut self, now: Instant, leg: usize, code: Code, serial: Option<u64>) {
        // This machine's clock is behind that of the device's last connection.
        if code == Code::CONFLICT && self.legs[leg].may_try_again() {
            self.connect_serial = self.connect_serial.max(serial.unwrap_or(0));
            return self.attempt(now, leg);
        }
        self.legs[leg].exchange = Exchange::Refused;
    }
}

/// Whether a code is about the ticket, and not about the moment.
const fn refuses_ticket(code: Code) -> bool {
    matches!(code, Code::UNAUTHORIZED | Code::FORBIDDEN | Code::UNKNOWN_ACCOUNT | Code::TICKET_EXPIRED)
}

impl fmt::Debug for Netcheck {
    // The ticket holds a secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Netcheck").field("report", &self.report()).finish_non_exhaustive()
    }
}
