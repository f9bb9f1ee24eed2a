//! Attempts to connect: where they go, what their answers lead to, and how a connection begins (SPEC.md, "Exchange").

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;
use core::net::SocketAddr;
use core::time::Duration;

use super::Device;
use super::attempt::{Agreed, Answered, Attempt, Origin, Proposal};
use super::connection::{Carrier, Connection};
use super::event::{Connected, ConnectionState, DeviceEvent, LinkKind, ResolveId};
use super::life::{MAX_RETRY_AFTER, slow_retry};
use super::phase::{Phase, Successor, back_off};
use super::requests::Ask;
use super::resume::Anchor;
use super::tickets::Resort;
use super::transport::Transport;
use crate::channel::NotificationKind;
use crate::ids::{Epoch, Serial, StoreSet};
use crate::path::{Disposition, DropReason};
use crate::time::Instant;
use crate::wire::{Code, Endpoint, MAX_CONNECT_SERIAL, MAX_PACKET, MIN_PACKET};

/// A ticket was refused and there is another: that one is tried within this time.
const OTHER_TICKET: Duration = Duration::from_secs(1);

/// By what an attempt goes.
#[derive(Clone, Copy, Debug)]
pub(super) enum Legs {
    /// UDP, beside a connection over the Web.
    Udp,
    /// UDP, and from this time the Web as well.
    Both { web: Instant },
    /// The Web, beside a connection by UDP that is silent.
    Web,
}

impl Device {
    /// Begins an attempt: each round with the next endpoint first.
    pub(super) fn start_attempt(&mut self, now: Instant) {
        let attempt = self.make_attempt(now, None, Legs::Both { web: self.fallback.web_start(now) });
        self.phase = Phase::Attempting(attempt);
        self.set_state(ConnectionState::Connecting);
        self.open_links();
    }

    /// Begins an attempt beside the connection, first to where that goes.
    pub(super) fn start_successor(&mut self, now: Instant, legs: Legs) {
        let Phase::Connected { connection, .. } = &self.phase else { return };
        let beside = Some(connection.remote());
        let attempt = self.make_attempt(now, beside, legs);
        if let Phase::Connected { successor, .. } = &mut self.phase {
            *successor = Successor::Attempting(attempt);
        }
        self.open_links();
        self.open_web(now);
    }

    /// `beside`: the connection that goes on meanwhile, and its address if it goes by UDP.
    fn make_attempt(&mut self, now: Instant, beside: Option<Option<SocketAddr>>, legs: Legs) -> Box<Attempt> {
        // Whatever a clock, a service or an older version of this program said: a service takes none above the highest,
        // and that one always.
        let unix = self.calendar.unix(now).as_millis();
        self.connect_serial = unix.max(self.connect_serial.saturating_add(1)).min(MAX_CONNECT_SERIAL);
        let Anchor { epoch, position, covered } = *self.inbox.received();
        // The exchange has the size that it offers. If the last one came to nothing, the path may not carry that.
        let largest = if self.failures == 0 { MAX_PACKET } else { MIN_PACKET };
        let proposal = Proposal {
            connect_serial: self.connect_serial,
            epoch,
            position,
            filter: self.filter,
            covered,
            packet_size: self.config.packet_size.clamp(MIN_PACKET as u16, largest as u16),
            interval: self.keepalive.interval(),
            forward_secrecy: self.config.forward_secrecy,
            beside: beside.is_some(),
        };
        let mut attempt = Box::new(Attempt::new(now, self.tickets.current(), proposal, &mut self.rng));
        if beside.is_none() {
            self.attempts = self.attempts.wrapping_add(1);
        }
        let ticket = self.tickets.current();
        let endpoints = ticket.endpoints();
        let first = self.attempts.wrapping_sub(1) % endpoints.len().max(1);
        self.web.set_bases(ticket.web().iter().map(|base| &**base), first);
        match legs {
            Legs::Udp => attempt.alone = Some(Transport::Udp),
            Legs::Both { web } => attempt.turn_to_web(web),
            Legs::Web => {
                attempt.turn_to_web(now);
                attempt.provisional = true;
                attempt.alone = Some(Transport::Web);
                return attempt;
            }
        }
        let mut name: Option<(String, u16)> = None;
        let mut addresses: Vec<_> = beside.flatten().into_iter().collect();
        for endpoint in endpoints[first..].iter().chain(&endpoints[..first]) {
            match endpoint {
                Endpoint::Address(address) => addresses.push(*address),
                // One name a round: what it stands for comes later than the addresses, and is tried after them.
                Endpoint::Name { host, port } if name.is_none() => name = Some((host.clone(), *port)),
                Endpoint::Name { .. } => {}
            }
        }
        attempt.add_candidates(now, &addresses);
        if let Some((host, port)) = name {
            self.resolve_id = self.resolve_id.wrapping_add(1);
            self.push(DeviceEvent::Resolve { id: ResolveId(self.resolve_id), host, port });
        }
        attempt
    }

    /// Asks the host for the sockets that the attempt needs.
    pub(super) fn open_links(&mut self) {
        let Some(attempt) = self.phase.attempt() else { return };
        let needed: Vec<_> = attempt.families().collect();
        for family in needed {
            self.ask_link(LinkKind::Udp(family));
        }
    }

    pub(super) fn receive_answer(&mut self, now: Instant, from: Origin, payload: &mut [u8]) -> Disposition {
        let Some(attempt) = self.phase.attempt_mut() else { return Disposition::NotForUs };
        match attempt.handle_answer(now, from, payload, &mut self.rng) {
            Answered::Nothing => Disposition::Dropped(DropReason::Unauthentic),
            Answered::Deferred => Disposition::Accepted,
            Answered::Hint(code, from) => {
                self.push(DeviceEvent::Hint { code, from });
                Disposition::Accepted
            }
            Answered::Refused { code, retry_after, serial } => {
                self.refused(now, code, retry_after, serial);
                Disposition::Accepted
            }
            Answered::Complete(agreed) => {
                self.agreed(now, *agreed, from);
                Disposition::Accepted
            }
        }
    }

    /// Nobody answered the attempt, or not over its keys.
    pub(super) fn attempt_failed(&mut self, now: Instant) {
        // One transport, tried beside the other: nothing that was there is gone.
        if let Phase::Connected { connection, successor } = &mut self.phase
            && let Some(tried) = successor.transport()
            && tried != connection.transport()
        {
            let places = match successor {
                Successor::Attempting(attempt) => attempt.remotes().collect(),
                Successor::Confirming(new) => new.remote().into_iter().collect(),
                Successor::Due(_) => Vec::new(),
            };
            *successor = Successor::Due(connection.refresh_at);
            if tried == Transport::Udp {
                self.fallback.udp_failed(now, places, &mut self.rng);
            }
            return;
        }
        self.failures = self.failures.saturating_add(1);
        let cap = back_off(self.failures);
        let wait = self.rng.duration(Duration::from_secs(1), cap);
        self.tickets.turn();
        self.retry(now + wait);
    }

    /// An authentic refusal of the attempt.
    fn refused(&mut self, now: Instant, code: Code, retry_after: Duration, serial: Option<u64>) {
        let retry_after = retry_after.min(MAX_RETRY_AFTER);
        match code {
            // The clock went back, or another device has this name: go on from the serial that the service knows.
            Code::CONFLICT => {
                let known = serial.filter(|serial| *serial <= MAX_CONNECT_SERIAL).unwrap_or(0);
                self.connect_serial = self.connect_serial.max(known);
                let wait = self.rng.duration(Duration::ZERO, Duration::from_secs(1 << self.failures.min(6)));
                self.failures = self.failures.saturating_add(1);
                self.retry(now + wait.max(retry_after));
            }
            Code::UNAUTHORIZED | Code::FORBIDDEN | Code::UNKNOWN_ACCOUNT | Code::TICKET_EXPIRED => {
                let resort = self.tickets.refused();
                if resort != Resort::None {
                    // The other one may be good and its attempt was lost, so it is not given up; but it may as well be
                    // one whose key is gone, so the host hears of it, once.
                    if resort == Resort::OtherAgain && self.refusals == 0 {
                        self.refusals = 1;
                        self.push(DeviceEvent::RenewTicket { code });
                    }
                    let wait = self.rng.duration(Duration::ZERO, OTHER_TICKET);
                    return self.retry(now + wait.max(retry_after));
                }
                let wait = slow_retry(self.refusals);
                self.refusals = self.refusals.saturating_add(1);
                let wait = self.rng.fraction(800, 1000, wait).max(retry_after);
                self.push(DeviceEvent::RenewTicket { code });
                self.retry(now + wait);
            }
            _ => {
                let cap = back_off(self.failures);
                self.failures = self.failures.saturating_add(1);
                let wait = self.rng.duration(Duration::from_secs(1).min(cap), cap);
                self.retry(now + wait.max(retry_after));
            }
        }
    }

    /// The attempt failed; the next one is due at `at`. If there is a connection it goes on, and the application has
    /// nothing to know.
    pub(super) fn retry(&mut self, at: Instant) {
        if let Phase::Connected { successor, .. } = &mut self.phase {
            *successor = Successor::Due(at);
            return;
        }
        self.phase = Phase::Waiting(at);
        self.push(DeviceEvent::AttemptFailed { retry_at: at });
    }

    /// An authentic answer: there are keys now. The first data packet from the service will confirm them.
    fn agreed(&mut self, now: Instant, agreed: Agreed, from: Origin) {
        let (carrier, path) = match from {
            Origin::Udp(path) => (Carrier::Udp { link: Some(path.link), remote: path.remote }, Some(path)),
            Origin::Web => (Carrier::Web, None),
        };
        let facts = Facts {
            epoch: agreed.epoch,
            filter: agreed.proposal.filter,
            beside: agreed.proposal.beside,
            renew: agreed.renew,
            connected: Connected {
                recovered: agreed.lost.is_empty(),
                lost: agreed.lost,
                newest: agreed.newest,
                service: path.map(|path| path.remote),
                observed: agreed.endpoint,
                forward_secret: agreed.forward_secret,
                took: now.since(agreed.started),
            },
        };
        self.learn_clock(now, agreed.service_time, agreed.round_trip);
        let limit = self.config.packet_limit;
        let mut new = Box::new(Connection::new(now, agreed, carrier, limit));
        new.facts = Some(facts);
        match &mut self.phase {
            Phase::Connected { connection, successor } => {
                connection.succeeded = true;
                new.follow(connection);
                *successor = Successor::Confirming(new);
            }
            phase => *phase = Phase::connected(new),
        }
    }

    /// The service has shown that it has the keys too.
    pub(super) fn confirmed(&mut self, now: Instant) {
        let Some(facts) = self.phase.connection_mut().and_then(|c| c.facts.take()) else { return };
        let Facts { epoch, filter, beside, renew, mut connected } = facts;
        let subscribed = self.requests.restart(now, filter);
        self.failures = 0;
        self.refusals = 0;
        self.tickets.accepted();
        self.keepalive.connected(now);
        self.stats.connects += 1;
        let before = *self.inbox.received();
        let position = if epoch == before.epoch { before.position } else { Serial::ZERO };
        connected.lost = match epoch == before.epoch {
            // What was dropped the connection before has brought or announced meanwhile, or this one will: its first
            // Notify begins at the mark in its first Heartbeat. What stays is what no position holds for.
            true if beside => connected.lost.difference(before.covered),
            true => connected.lost,
            false if before.epoch == Epoch::NONE => connected.lost,
            // A new history loses all that was subscribed to, also if the service should forget to say so.
            false => connected.lost.union(filter),
        };
        connected.recovered = connected.lost.is_empty();
        let anchor = Anchor { epoch, position, covered: self.requests.narrowed(filter) };
        if !connected.recovered {
            self.inbox.push(Some(NotificationKind::Gap(connected.lost)), anchor);
        } else if anchor != before {
            self.inbox.push(None, anchor);
        }
        for request in subscribed {
            self.push(DeviceEvent::Subscribed { request, newest: connected.newest });
        }
        if let Some(transport) = self.phase.connection_mut().map(|c| c.transport())
            && self.fallback.settle(now, transport, &mut self.rng)
        {
            self.push(DeviceEvent::Transport(transport));
        }
        self.hang_up();
        self.close_asking_links();
        // For the application it is one connection that goes on, unless it was told of an end.
        let goes_on = self.state != ConnectionState::Connecting;
        self.set_state(ConnectionState::Connected);
        self.push(match goes_on {
            true => DeviceEvent::KeysRenewed(connected),
            false => DeviceEvent::Connected(connected),
        });
        if let Some(observed) = connected.observed {
            self.observe(observed);
        }
        // Whoever has the ticket's secret must not get the next one out of a recording.
        if renew && connected.forward_secret {
            self.requests.add(Ask::Ticket);
            self.requests.start(now);
        }
    }
}

/// What an exchange said, until the connection is confirmed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Facts {
    /// The history that goes on over it.
    pub(super) epoch: Epoch,
    /// The filter that it carried.
    filter: StoreSet,
    /// Whether a connection went on meanwhile.
    beside: bool,
    /// The service would give another ticket.
    renew: bool,
    connected: Connected,
}
