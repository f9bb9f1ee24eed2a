//! One family: one socket, from which everything is asked, so that what differs is the network's doing.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::net::SocketAddr;
use core::num::NonZeroU16;
use core::time::Duration;

use super::report::{Answers, Destination, FamilyReport, Loss, RoundTrips, Udp};
use crate::device::attempt::{Answered, Attempt, Origin};
use crate::device::{Deadlines, Family};
use crate::path::{Disposition, DropReason, LinkId, Path};
use crate::random::Rng;
use crate::stun::{BindingAnswer, BindingQuestion, Transaction};
use crate::time::Instant;
use crate::wakeup::TimerKind;
use crate::wire::{Code, Emit, SliceSink};

/// Addresses of the service that are asked, and one of them on another port.
const MAX_ADDRESSES: usize = 4;
/// How often a destination is asked that does not answer, and when again (RFC 8489, section 6.2.1).
const QUESTIONS: usize = 7;
const REPEAT: Duration = Duration::from_millis(500);
/// How long the exchange may take: step 1 goes out three times.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);
/// Of so many packets in a row times and losses are taken. The service answers 10 in a second to one address, behind which
/// there may be others.
const SERIES: usize = 10;
const SERIES_EVERY: Duration = Duration::from_millis(250);
/// An answer that comes later than the longest way so far and this counts as lost.
const LATE: Duration = Duration::from_secs(1);

/// What became of the exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Exchange {
    /// It has not begun, or nobody has answered.
    Asking,
    /// An authentic answer has come.
    Complete,
    /// An authentic error has come.
    Refused,
    /// Nobody has answered in time, but for an error that proves nothing, if it is so.
    Ended { hint: bool },
}

/// The socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Socket {
    /// Nothing is to be sent in this family so far.
    Unasked,
    /// The host has been asked for it.
    Asked,
    /// It is open.
    Open,
    /// There is none, or no way to the service.
    Failed,
}

/// One packet, and when it was sent.
type Question = (Transaction, Instant);

/// A destination.
struct Target {
    remote: SocketAddr,
    endpoint: Option<SocketAddr>,
    /// It has answered STUN.
    answered: bool,
    /// What has not been answered.
    asked: Vec<Question>,
    sendings: usize,
    /// When to ask again, and in the end to give up.
    due: Instant,
    over: bool,
}

/// Packets in a row to one of them.
struct Series {
    target: usize,
    asked: Vec<Question>,
    sendings: usize,
    answered: usize,
    /// When the next is sent, and in the end no answer is waited for any more.
    due: Instant,
    over: bool,
}

/// What a packet has brought.
pub(super) enum Took {
    Nothing(Disposition),
    News,
    Complete { in_use: bool, check_port: Option<NonZeroU16> },
    Refused { code: Code, serial: Option<u64> },
    Hint(Code),
}

pub(super) struct Leg {
    family: Family,
    pub(super) link: LinkId,
    socket: Socket,
    local: Option<SocketAddr>,
    targets: Vec<Target>,
    attempt: Option<Box<Attempt>>,
    attempts: u8,
    /// When the exchange is given up.
    patience: Instant,
    pub(super) exchange: Exchange,
    hint: bool,
    series: Option<Series>,
    /// The destination whose view counts.
    primary: Option<usize>,
    rebindings: u32,
    /// Of the exchange, which takes a little longer.
    exchange_trip: Option<Duration>,
    trips: Trips,
}

/// Times of packets there and back.
#[derive(Clone, Copy, Default)]
struct Trips {
    count: u32,
    min: Duration,
    max: Duration,
    sum: Duration,
}

impl Leg {
    pub(super) const fn new(family: Family, link: LinkId) -> Self {
        Self {
            family,
            link,
            socket: Socket::Unasked,
            local: None,
            targets: Vec::new(),
            attempt: None,
            attempts: 0,
            patience: Instant::ZERO,
            exchange: Exchange::Asking,
            hint: false,
            series: None,
            primary: None,
            rebindings: 0,
            exchange_trip: None,
            trips: Trips { count: 0, min: Duration::ZERO, max: Duration::ZERO, sum: Duration::ZERO },
        }
    }

    /// Takes those addresses of the service that are of its family; returns where the socket has to reach, if the host is
    /// to open one.
    pub(super) fn add(&mut self, now: Instant, addresses: &[SocketAddr]) -> Option<SocketAddr> {
        let family = self.family;
        for remote in addresses.iter().filter(|a| Family::of(a) == family) {
            if self.targets.len() < MAX_ADDRESSES && self.targets.iter().all(|t| t.remote != *remote) {
                self.push(now, *remote);
                if let Some(attempt) = &mut self.attempt {
                    attempt.add_candidates(now, &[*remote]);
                    // It gets as much time as those that were known from the beginning.
                    self.patience = now + PATIENCE;
                }
            }
        }
        let first = self.targets.first().filter(|_| self.socket == Socket::Unasked)?;
        self.socket = Socket::Asked;
        Some(first.remote)
    }

    /// The service answers on another port too.
    pub(super) fn add_port(&mut self, now: Instant, port: NonZeroU16) {
        let Some(primary) = self.primary.and_then(|at| self.targets.get(at)) else { return };
        let remote = SocketAddr::new(primary.remote.ip(), port.get());
        let known = |t: &Target| t.remote.ip() == remote.ip() && t.remote.port() != primary.remote.port();
        // One of the ticket's will do.
        if primary.remote != remote && self.targets.len() <= MAX_ADDRESSES && !self.targets.iter().any(known)
        {
            self.push(now, remote);
        }
    }

    fn push(&mut self, now: Instant, remote: SocketAddr) {
        let (endpoint, asked) = (None, Vec::new());
        self.targets.push(Target {
            remote,
            endpoint,
            answered: false,
            asked,
            sendings: 0,
            due: now,
            over: false,
        });
    }

    /// The host has opened the socket. Whether it was waited for.
    pub(super) fn open(&mut self, now: Instant, local: SocketAddr) -> bool {
        let awaited = self.socket == Socket::Asked;
        if awaited {
            self.socket = Socket::Open;
            self.local = Some(local);
            self.targets.iter_mut().for_each(|t| t.due = now);
        }
        awaited
    }

    /// The host has none.
    pub(super) fn fail(&mut self) {
        self.socket = Socket::Failed;
        self.attempt = None;
    }

    /// Begins the exchange.
    pub(super) fn begin(&mut self, now: Instant, mut attempt: Attempt) {
        let remotes: Vec<_> = self.targets.iter().take(MAX_ADDRESSES).map(|t| t.remote).collect();
        attempt.add_candidates(now, &remotes);
        self.attempt = Some(Box::new(attempt));
        self.attempts += 1;
        self.patience = now + PATIENCE;
    }

    /// Whether an exchange that was refused may be begun again with another serial.
    pub(super) const fn may_try_again(&self) -> bool {
        self.attempts < 2
    }

    pub(super) fn receive(
        &mut self,
        now: Instant,
        remote: SocketAddr,
        payload: &mut [u8],
        rng: &mut Rng,
    ) -> Took {
        // Which socket it came to makes no difference to the exchange.
        let from = Origin::Udp(Path::new(LinkId(0), remote));
        match &mut self.attempt {
            Some(attempt) if attempt.recognizes(payload) => {
                match attempt.handle_answer(now, from, payload, rng) {
                    Answered::Nothing => Took::Nothing(Disposition::Dropped(DropReason::Unauthentic)),
                    Answered::Deferred => Took::News,
                    Answered::Hint(code, _) => {
                        self.hint = true;
                        Took::Hint(code)
                    }
                    Answered::Refused { code, serial, .. } => Took::Refused { code, serial },
                    Answered::Complete(agreed) => {
                        self.exchange = Exchange::Complete;
                        self.attempt = None;
                        if let (Some(at), Some(endpoint)) = (self.target(remote), agreed.endpoint) {
                            self.primary = Some(at);
                            self.see(at, endpoint);
                        }
                        self.exchange_trip = agreed.round_trip;
                        Took::Complete { in_use: agreed.in_use, check_port: agreed.check_port }
                    }
                }
            }
            _ => self.receive_stun(now, remote, payload),
        }
    }

    fn receive_stun(&mut self, now: Instant, remote: SocketAddr, packet: &[u8]) -> Took {
        let Some(transaction) = BindingAnswer::transaction(packet) else {
            return Took::Nothing(Disposition::NotForUs);
        };
        let Some(at) = self.target(remote) else { return Took::Nothing(Disposition::NotForUs) };
        let asked = |questions: &mut Vec<Question>| {
            questions.iter().find(|(t, _)| *t == transaction).map(|(_, at)| *at)
        };
        let single = asked(&mut self.targets[at].asked);
        let serial = self.series.as_mut().filter(|s| s.target == at).and_then(|s| asked(&mut s.asked));
        let Some(sent_at) = single.or(serial) else { return Took::Nothing(Disposition::NotForUs) };
        let Ok(answer) = BindingAnswer::parse(packet) else {
            return Took::Nothing(Disposition::Dropped(DropReason::Malformed));
        };
        // Each is answered once: copies on the way are not counted.
        if let Some(series) = &mut self.series
            && serial.is_some()
        {
            series.asked.retain(|(t, _)| *t != transaction);
            series.answered += 1;
        }
        let target = &mut self.targets[at];
        target.asked.retain(|(t, _)| *t != transaction);
        target.answered = true;
        self.trips.add(now.since(sent_at));
        if let BindingAnswer::Address(endpoint) = answer {
            self.primary.get_or_insert(at);
            self.see(at, endpoint);
        }
        let series =
            || Series { target: at, asked: Vec::new(), sendings: 0, answered: 0, due: now, over: false };
        self.series.get_or_insert_with(series);
        Took::News
    }

    fn target(&self, remote: SocketAddr) -> Option<usize> {
        self.targets.iter().position(|t| t.remote == remote)
    }

    fn see(&mut self, at: usize, endpoint: SocketAddr) {
        let before = self.targets[at].endpoint.replace(endpoint);
        self.rebindings += u32::from(before.is_some_and(|before| before != endpoint));
    }

    /// Notes what is over; returns whether something is.
    pub(super) fn tend(&mut self, now: Instant) -> bool {
        let mut news = false;
        if self.attempt.is_some() && self.exchange == Exchange::Asking && self.patience <= now {
            self.exchange = Exchange::Ended { hint: self.hint };
            news = true;
        }
        if self.exchange != Exchange::Asking {
            self.attempt = None;
        }
        for target in self.targets.iter_mut().filter(|t| !t.over) {
            target.over = target.answered || target.sendings >= QUESTIONS && target.due <= now;
            news |= target.over;
        }
        if let Some(series) = self.series.as_mut().filter(|s| !s.over) {
            series.over = series.sendings >= SERIES && (series.answered >= SERIES || series.due <= now);
            news |= series.over;
        }
        news
    }

    /// Whether nothing more will be sent or waited for.
    pub(super) fn is_done(&self) -> bool {
        match self.socket {
            Socket::Unasked | Socket::Failed => true,
            Socket::Asked => false,
            Socket::Open => {
                self.exchange != Exchange::Asking
                    && self.targets.iter().all(|t| t.over)
                    && self.series.as_ref().is_none_or(|s| s.over)
            }
        }
    }

    /// A packet to send now: where to, and how long it is.
    pub(super) fn next_packet(
        &mut self,
        now: Instant,
        rng: &mut Rng,
        out: &mut [u8],
    ) -> Option<(SocketAddr, usize)> {
        if self.socket != Socket::Open {
            return None;
        }
        let (family, link) = (self.family, self.link);
        if let Some(attempt) = &mut self.attempt
            && let Some((_, remote, packet)) = attempt.next_packet(now, |f| (f == family).then_some(link))
        {
            out[..packet.len()].copy_from_slice(packet);
            return Some((remote, packet.len()));
        }
        if let Some(target) =
            self.targets.iter_mut().find(|t| !t.over && t.sendings < QUESTIONS && t.due <= now)
        {
            target.sendings += 1;
            target.due = now + REPEAT;
            let transaction = rng.array();
            target.asked.push((transaction, now));
            return Some((target.remote, write_question(out, transaction)));
        }
        let series = self.series.as_mut().filter(|s| s.sendings < SERIES && s.due <= now)?;
        series.sendings += 1;
        series.due = now + if series.sendings < SERIES { SERIES_EVERY } else { self.trips.max + LATE };
        let transaction = rng.array();
        series.asked.push((transaction, now));
        Some((self.targets[series.target].remote, write_question(out, transaction)))
    }

    /// Names every deadline.
    pub(super) fn deadlines(&self, next: &mut Deadlines) {
        if self.socket != Socket::Open {
            return;
        }
        if let Some(attempt) = &self.attempt {
            attempt.deadlines(|family| family == self.family, next);
            next.act(self.patience, TimerKind::Exchange);
        }
        for target in self.targets.iter().filter(|t| !t.over) {
            match target.sendings < QUESTIONS {
                true => next.send(target.due, TimerKind::Request),
                false => next.act(target.due, TimerKind::Request),
            }
        }
        if let Some(series) = self.series.as_ref().filter(|s| !s.over) {
            match series.sendings < SERIES {
                true => next.send(series.due, TimerKind::Request),
                false => next.act(series.due, TimerKind::Request),
            }
        }
    }

    /// What has been found out. More addresses may come while `names_wait`.
    pub(super) fn report(&self, names_wait: bool) -> FamilyReport {
        let answered = self.targets.iter().any(|t| t.answered);
        let proved = match self.exchange {
            Exchange::Complete | Exchange::Refused | Exchange::Ended { hint: true } => true,
            Exchange::Asking => self.hint,
            Exchange::Ended { hint: false } => false,
        };
        let udp = match self.socket {
            _ if proved => Udp::Works,
            Socket::Unasked if names_wait => Udp::Unknown,
            Socket::Unasked => Udp::NoService,
            Socket::Failed => Udp::NoRoute,
            _ if self.exchange == Exchange::Asking => Udp::Unknown,
            _ if answered => Udp::OnlySmall,
            _ if self.is_done() => Udp::Blocked,
            _ => Udp::Unknown,
        };
        let seen = |at: usize| self.targets.get(at).and_then(|t| t.endpoint);
        let trips = match (self.trips.count, self.exchange_trip) {
            (0, Some(trip)) => Some(RoundTrips { min: trip, mean: trip, count: 1 }),
            (0, None) => None,
            (count, _) => Some(RoundTrips { min: self.trips.min, mean: self.trips.sum / count, count }),
        };
        let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let loss = self
            .series
            .as_ref()
            .filter(|s| s.over)
            .map(|s| Loss { sent: number(s.sendings), lost: number(s.sendings.saturating_sub(s.answered)) });
        let destinations =
            self.targets.iter().map(|t| Destination { remote: t.remote, endpoint: t.endpoint });
        let mut report = FamilyReport {
            udp,
            local: self.local,
            endpoint: self.primary.and_then(seen),
            stun: match answered {
                true => Answers::Yes,
                // Who answers nothing at all says nothing of this either.
                false if proved && self.is_done() => Answers::No,
                false => Answers::Unknown,
            },
            round_trip: trips,
            loss,
            rebindings: self.rebindings,
            destinations: destinations.collect(),
            ..FamilyReport::default()
        };
        report.conclude();
        report
    }
}

impl Trips {
    fn add(&mut self, trip: Duration) {
        self.min = if self.count == 0 { trip } else { self.min.min(trip) };
        self.max = self.max.max(trip);
        self.sum = self.sum.saturating_add(trip);
        self.count += 1;
    }
}

fn write_question(out: &mut [u8], transaction: Transaction) -> usize {
    let mut sink = SliceSink::new(out);
    BindingQuestion { transaction }.emit(&mut sink);
    sink.finish().unwrap_or(0)
}
