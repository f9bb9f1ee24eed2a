//! The device: connects to its service, stays connected, and gets the notifications of its account.

mod attempt;
mod config;
mod connection;
mod event;
mod inbox;
mod links;
mod receive;
mod requests;
mod resume;
mod send;
mod stats;

use alloc::collections::VecDeque;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::net::SocketAddr;
use core::num::NonZeroUsize;
use core::time::Duration;

pub use config::{Acknowledgement, DeviceConfig};
pub use event::{
    CommandError, Connected, ConnectionState, DeviceEvent, DisconnectReason, Family, LinkState, RequestError,
    ResolveId,
};
pub use resume::{Resume, ResumeError};
pub use stats::DeviceStats;

use attempt::{Attempt, Proposal};
use connection::Connection;
use inbox::Inbox;
use links::Links;
use requests::{Ask, MAX_REQUESTS, Requests};
use resume::Anchor;

use crate::channel::{Event, Notification};
use crate::ids::{RequestId, Serial, StoreSet};
use crate::path::{Datagram, Disposition, LinkId, Transmit};
use crate::random::{Rng, Seed};
use crate::time::{Calendar, Instant, UnixTime};
use crate::wakeup::{TimerKind, Wakeup};
use crate::wire::{Emit, Endpoint, MIN_PACKET, SERVICE_IDENTIFIER, Ticket, fragment_capacity};

/// The longest wait between attempts that nobody answers.
const MAX_BACKOFF: Duration = Duration::from_secs(60);
/// The first and the longest wait after the service refused the ticket.
const SLOW_RETRY: (Duration, Duration) = (Duration::from_secs(15 * 60), Duration::from_secs(6 * 3600));
/// A device that was reset waits up to this long, so that not all come at once.
const RESET_SPREAD: Duration = Duration::from_secs(2);
/// How long a new position may wait for a packet to go along with.
const POSITION_DELAY: Duration = Duration::from_millis(25);
/// Events that wait for the host; more are only made by a host that takes none.
const MAX_EVENTS: usize = 256;

/// One device of an account.
///
/// It does no I/O and reads no clock. The host calls, in any order and as often as it likes,
/// [`handle_datagram`](Self::handle_datagram) with what its sockets received and
/// [`handle_timeout`](Self::handle_timeout) when [`poll_timeout`](Self::poll_timeout) says so; after each call that
/// takes `&mut self` it takes [`poll_transmit`](Self::poll_transmit) and [`poll_event`](Self::poll_event) until they
/// give nothing. [`poll_notification`](Self::poll_notification) is asked whenever the application is ready for one.
/// `now` never goes back.
pub struct Device {
    config: Arc<DeviceConfig>,
    ticket: Ticket,
    rng: Rng,
    calendar: Calendar,
    links: Links,
    inbox: Inbox,
    requests: Requests,
    phase: Phase,
    filter: StoreSet,
    connect_serial: u64,
    /// How many attempts have failed in a row.
    failures: u32,
    /// How many times in a row the service refused the ticket.
    refusals: u32,
    /// How many connections one side ended because it did not understand the other.
    misunderstandings: u32,
    resolve_id: u32,
    observed: Option<SocketAddr>,
    service_clock: Option<ServiceClock>,
    state: ConnectionState,
    events: VecDeque<DeviceEvent>,
    /// What the exchange said, until the connection is confirmed.
    facts: Option<receive::Facts>,
    /// When the service is told how far the application has got.
    position_due: Option<Instant>,
    /// The latest time that was handled: what is due by then waits for `poll_transmit`, not for `handle_timeout`.
    handled: Instant,
    attempts: usize,
    stats: DeviceStats,
}

/// What the device is doing.
enum Phase {
    /// Waiting for the next attempt.
    Waiting(Instant),
    /// Exchanging.
    Attempting(Attempt),
    /// Has keys. Confirmed or not, it is alive.
    Connected(Connection),
    /// Saying farewell.
    Closing { connection: Connection, next: Instant, ends: Instant },
    /// Closed for good.
    Closed,
}

/// What time it is at the service: from the sample with the shortest round trip.
#[derive(Clone, Copy, Debug)]
struct ServiceClock {
    calendar: Calendar,
    sampled: Instant,
    round_trip: Duration,
}

impl Device {
    /// A device that starts to connect at once. `seed` comes from the operating system's generator and is used once;
    /// `clock` is the civil time at `now`; `resume` is what [`resume`](Self::resume) gave before a restart.
    pub fn new(
        config: Arc<DeviceConfig>,
        ticket: Ticket,
        resume: Option<Resume>,
        seed: Seed,
        now: Instant,
        clock: UnixTime,
    ) -> Self {
        let (anchor, connect_serial) = match resume {
            Some(resume) => (resume.anchor, resume.connect_serial),
            None => (Anchor { covered: config.filter, ..Anchor::default() }, 0),
        };
        Self {
            filter: config.filter,
            inbox: Inbox::new(config.acknowledgement, config.queue_events, config.queue_bytes, anchor),
            ticket,
            rng: Rng::new(seed),
            calendar: Calendar::new(now, clock),
            links: Links::default(),
            requests: Requests::default(),
            phase: Phase::Waiting(now),
            connect_serial,
            failures: 0,
            refusals: 0,
            misunderstandings: 0,
            resolve_id: 0,
            observed: None,
            service_clock: None,
            state: ConnectionState::Connecting,
            events: VecDeque::new(),
            facts: None,
            position_due: None,
            handled: Instant::ZERO,
            attempts: 0,
            stats: DeviceStats::default(),
            config,
        }
    }

    /// Whether this packet could be for this device: for a socket shared with foreign traffic. Costs a comparison of
    /// a few bytes; the first 8 are enough, but for a reset, which only the whole packet shows.
    pub fn recognizes(&self, packet: &[u8]) -> bool {
        match &self.phase {
            Phase::Attempting(attempt) => attempt.recognizes(packet),
            Phase::Connected(connection) | Phase::Closing { connection, .. } => {
                connection.recognizes(packet)
                    || crate::wire::reset_token(packet).is_some_and(|token| connection.is_reset(token))
            }
            Phase::Waiting(_) | Phase::Closed => false,
        }
    }

    /// Takes a received datagram.
    pub fn handle_datagram(&mut self, now: Instant, datagram: Datagram<'_>) -> Disposition {
        // What is due comes first, so that the order of things does not depend on how often the host calls.
        self.handle_timeout(now);
        let disposition = self.receive(now, datagram);
        self.handle_timeout(now);
        disposition
    }

    /// Does what is due at `now`.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.handled = self.handled.max(now);
        match &mut self.phase {
            Phase::Waiting(at) if *at <= now => self.start_attempt(now),
            Phase::Attempting(attempt) if attempt.ends_at() <= now => {
                self.failures = self.failures.saturating_add(1);
                let cap = back_off(self.failures);
                let wait = self.rng.duration(Duration::from_secs(1), cap);
                self.retry(now + wait);
            }
            Phase::Connected(connection) if connection.is_dead(now) => {
                let reason = DisconnectReason::TimedOut;
                // One that was never confirmed was no connection, but an attempt that failed.
                if connection.confirmed {
                    self.disconnect(now, reason, now);
                } else {
                    self.failures = self.failures.saturating_add(1);
                    let wait = self.rng.duration(Duration::ZERO, Duration::from_secs(1));
                    self.disconnect(now, reason, now + wait);
                }
                self.handle_timeout(now);
            }
            Phase::Connected(connection) if connection.is_worn(now) => {
                self.disconnect(now, DisconnectReason::Refresh, now);
                self.handle_timeout(now);
            }
            Phase::Connected(_) => {
                while let Some(request) = self.requests.next_expired(now) {
                    self.push(DeviceEvent::Failed { request, error: RequestError::TimedOut });
                }
            }
            Phase::Closing { ends, .. } if *ends <= now => self.phase = Phase::Closed,
            _ => {}
        }
    }

    /// Answers [`DeviceEvent::OpenLink`], or says that a link is gone.
    pub fn handle_link(&mut self, now: Instant, link: LinkId, state: LinkState) {
        let failed = state == LinkState::Failed;
        self.links.set(link, state);
        if let Phase::Connected(connection) = &mut self.phase {
            let wanted = connection.link.is_none();
            if failed && (wanted || connection.link == Some(link)) {
                self.disconnect(now, DisconnectReason::LinkLost, now);
            } else if wanted && self.links.open(Family::of(&connection.remote)) == Some(link) {
                connection.arrive(now, link);
            }
        }
        self.handle_timeout(now);
    }

    /// Answers [`DeviceEvent::Resolve`]; no address: the name could not be looked up.
    pub fn handle_resolved(&mut self, now: Instant, id: ResolveId, addresses: &[SocketAddr]) {
        if let Phase::Attempting(attempt) = &mut self.phase
            && id.0 == self.resolve_id
        {
            attempt.add_candidates(now, addresses);
            self.open_links();
        }
    }

    /// The machine is on another network now: new sockets are asked for, and the service is contacted at once.
    pub fn handle_network_change(&mut self, now: Instant) {
        for link in self.links.forget() {
            self.push(DeviceEvent::CloseLink(link));
        }
        match &mut self.phase {
            Phase::Connected(connection) if connection.confirmed => {
                connection.leave();
                let family = Family::of(&connection.remote);
                if let Some(link) = self.links.ask(family) {
                    self.push(DeviceEvent::OpenLink { link, family });
                }
            }
            Phase::Connected(_) => self.disconnect(now, DisconnectReason::LinkLost, now),
            Phase::Waiting(_) | Phase::Attempting(_) => {
                self.failures = 0;
                self.phase = Phase::Waiting(now);
            }
            Phase::Closing { .. } => self.phase = Phase::Closed,
            Phase::Closed => return,
        }
        self.handle_timeout(now);
    }

    /// Corrects the civil clock: `clock` is the time at `now`.
    pub fn set_clock(&mut self, now: Instant, clock: UnixTime) {
        self.calendar = Calendar::new(now, clock);
    }

    /// Hears of these stores only from now on; none: of nothing. Stores of which events may have been missed until
    /// now are announced as a gap. Answered by [`DeviceEvent::Subscribed`].
    ///
    /// # Errors
    /// [`CommandError::TooManyRequests`], [`CommandError::Closed`].
    pub fn subscribe(&mut self, now: Instant, filter: StoreSet) -> Result<RequestId, CommandError> {
        self.check_request()?;
        self.filter = filter;
        // From now on the position may pass events of stores that are not in it, and the answer may get lost.
        let received = *self.inbox.received();
        let covered = received.covered.intersection(filter);
        if covered != received.covered {
            self.inbox.push(None, Anchor { covered, ..received });
        }
        Ok(self.ask(now, Ask::Subscribe(filter)))
    }

    /// Posts an event to the own channel. Repeated until it is answered, also over a new connection, and published
    /// once however often it arrives. Answered by [`DeviceEvent::Posted`] or [`DeviceEvent::Failed`].
    ///
    /// # Errors
    /// [`CommandError::TooLarge`] if the message does not fit one packet; it names the limit and the size. Else
    /// [`CommandError::Event`], [`CommandError::TooManyRequests`], [`CommandError::Closed`].
    pub fn post(&mut self, now: Instant, event: &Event) -> Result<RequestId, CommandError> {
        event.check()?;
        self.check_request()?;
        let id = self.rng.array();
        // Connections may agree on larger packets, but what is taken now has to fit the next one too.
        let limit = fragment_capacity(MIN_PACKET, SERVICE_IDENTIFIER);
        let size = requests::post(RequestId(u32::MAX), &id, event).emitted_len();
        if size > limit {
            return Err(CommandError::TooLarge { size, limit });
        }
        Ok(self.ask(now, Ask::Post { id, event: event.clone() }))
    }

    /// Asks from which address the service sees this device's packets come now. Answered by
    /// [`DeviceEvent::Endpoint`].
    ///
    /// # Errors
    /// [`CommandError::TooManyRequests`], [`CommandError::Closed`].
    pub fn query_endpoint(&mut self, now: Instant) -> Result<RequestId, CommandError> {
        self.check_request()?;
        Ok(self.ask(now, Ask::Endpoint))
    }

    fn check_request(&self) -> Result<(), CommandError> {
        match self.phase {
            Phase::Closing { .. } | Phase::Closed => Err(CommandError::Closed),
            _ if self.requests.is_full() => Err(CommandError::TooManyRequests { limit: MAX_REQUESTS }),
            _ => Ok(()),
        }
    }

    fn ask(&mut self, now: Instant, ask: Ask) -> RequestId {
        let request = self.requests.add(ask);
        if self.state != ConnectionState::Connecting {
            self.requests.start(now);
        }
        request
    }

    /// Everything up to `position` has been dealt with (in manual mode; in automatic mode a no-op at best).
    pub fn acknowledge(&mut self, now: Instant, position: Serial) {
        if self.inbox.acknowledge(position) {
            self.position_moved(now);
        }
    }

    /// Uses this ticket from now on, at once if there is no connection.
    pub fn renew(&mut self, now: Instant, ticket: Ticket) {
        self.ticket = ticket;
        self.refusals = 0;
        if matches!(self.phase, Phase::Waiting(_) | Phase::Attempting(_)) {
            self.failures = 0;
            self.phase = Phase::Waiting(now);
            self.handle_timeout(now);
        }
    }

    /// Says farewell and stops. [`is_drained`](Self::is_drained) says when there is nothing more to send.
    pub fn close(&mut self, now: Instant) {
        let phase = core::mem::replace(&mut self.phase, Phase::Closed);
        match phase {
            Phase::Connected(connection) if connection.confirmed => {
                let ends = now + connection.pto() * 3;
                self.phase = Phase::Closing { connection, next: now, ends };
            }
            Phase::Closing { .. } => self.phase = phase,
            _ => {}
        }
        self.finish(DisconnectReason::ByApplication);
    }

    /// Whether it was closed, or had to stop, and has nothing more to send.
    pub fn is_drained(&self) -> bool {
        matches!(self.phase, Phase::Closed)
    }

    /// The state of the connection.
    pub const fn state(&self) -> ConnectionState {
        self.state
    }

    /// Counters since the start.
    pub fn stats(&self) -> DeviceStats {
        let Phase::Connected(connection) = &self.phase else { return self.stats };
        let (partial_bytes, partial_memory) = connection.partials();
        let round_trip = connection.round_trip();
        DeviceStats { round_trip, partial_bytes, partial_memory, ..self.stats }
    }

    /// What to remember across a restart: as far as the application has got. It changes when
    /// [`poll_notification`](Self::poll_notification) is asked (automatic mode) or with
    /// [`acknowledge`](Self::acknowledge) (manual mode).
    pub fn resume(&self) -> Resume {
        Resume { anchor: *self.inbox.settled(), connect_serial: self.connect_serial }
    }

    /// The address from which the service sees this device.
    pub const fn observed_endpoint(&self) -> Option<SocketAddr> {
        self.observed
    }

    /// The next packet to send. `out` has room for 1452 bytes; `max_segments` is for later profiles, this one sends
    /// one packet at a time.
    pub fn poll_transmit(
        &mut self,
        now: Instant,
        out: &mut [u8],
        max_segments: NonZeroUsize,
    ) -> Option<Transmit> {
        let _ = max_segments;
        self.transmit(now, out)
    }

    /// What the host has to do or to know.
    pub fn poll_event(&mut self) -> Option<DeviceEvent> {
        self.events.pop_front()
    }

    /// The next notification. In automatic mode the call says that the one before it has been dealt with; so call it
    /// when the application is ready for the next, and call [`poll_transmit`](Self::poll_transmit) afterwards.
    pub fn poll_notification(&mut self, now: Instant) -> Option<Notification> {
        let had_room = self.inbox.has_room();
        let before = *self.inbox.settled();
        let next = self.inbox.next(self.service_time(now));
        if *self.inbox.settled() != before {
            self.position_moved(now);
        }
        // What was refused for want of room may come now: any packet makes the service go on.
        if !had_room
            && self.inbox.has_room()
            && let Phase::Connected(connection) = &mut self.phase
        {
            connection.beat_now(now);
        }
        next
    }

    /// Whether [`poll_notification`](Self::poll_notification) has something to give.
    pub fn has_notification(&self) -> bool {
        self.inbox.has_notification()
    }

    /// When [`handle_timeout`](Self::handle_timeout) is due.
    pub fn poll_timeout(&self) -> Option<Wakeup> {
        let mut next = Deadlines { handled: self.handled, next: None };
        match &self.phase {
            Phase::Waiting(at) => next.act(*at, TimerKind::Retry),
            Phase::Attempting(attempt) => {
                attempt.deadlines(|family| self.links.open(family).is_some(), &mut next);
            }
            Phase::Connected(connection) => {
                connection.deadlines(&mut next);
                if connection.confirmed {
                    self.requests.deadlines(&mut next);
                    if let Some(at) = self.position_due {
                        next.send(at, TimerKind::Acknowledgement);
                    }
                }
            }
            Phase::Closing { next: at, ends, .. } => {
                next.send(*at, TimerKind::Closing);
                next.act(*ends, TimerKind::Closing);
            }
            Phase::Closed => {}
        }
        next.next
    }

    /// Begins an attempt: each round with the next endpoint first.
    fn start_attempt(&mut self, now: Instant) {
        let unix = self.calendar.unix(now).as_millis();
        self.connect_serial = unix.max(self.connect_serial.saturating_add(1));
        let Anchor { epoch, position, covered } = *self.inbox.received();
        let proposal = Proposal {
            connect_serial: self.connect_serial,
            epoch,
            position,
            filter: self.filter,
            covered,
            packet_size: self.config.packet_size.clamp(MIN_PACKET as u16, crate::wire::MAX_PACKET as u16),
            interval: self.config.interval,
            forward_secrecy: self.config.forward_secrecy,
        };
        let mut attempt = Attempt::new(now, &self.ticket, proposal, &mut self.rng);
        let endpoints = self.ticket.endpoints();
        let first = self.attempts % endpoints.len().max(1);
        self.attempts = self.attempts.wrapping_add(1);
        let mut name: Option<(String, u16)> = None;
        let mut addresses = Vec::new();
        for endpoint in endpoints[first..].iter().chain(&endpoints[..first]) {
            match endpoint {
                Endpoint::Address(address) => addresses.push(*address),
                // One name a round: what it stands for comes later than the addresses, and is tried after them.
                Endpoint::Name { host, port } if name.is_none() => name = Some((host.clone(), *port)),
                Endpoint::Name { .. } => {}
            }
        }
        attempt.add_candidates(now, &addresses);
        self.phase = Phase::Attempting(attempt);
        if let Some((host, port)) = name {
            self.resolve_id = self.resolve_id.wrapping_add(1);
            self.push(DeviceEvent::Resolve { id: ResolveId(self.resolve_id), host, port });
        }
        self.set_state(ConnectionState::Connecting);
        self.open_links();
    }

    /// Asks the host for the sockets that the attempt needs.
    fn open_links(&mut self) {
        let Phase::Attempting(attempt) = &self.phase else { return };
        let needed: Vec<_> = attempt.families().collect();
        for family in needed {
            if let Some(link) = self.links.ask(family) {
                self.push(DeviceEvent::OpenLink { link, family });
            }
        }
    }

    /// The attempt failed; the next one is due at `at`.
    fn retry(&mut self, at: Instant) {
        self.phase = Phase::Waiting(at);
        self.push(DeviceEvent::AttemptFailed { retry_at: at });
    }

    /// The connection is gone; the next attempt is due at `retry_at`.
    fn disconnect(&mut self, now: Instant, reason: DisconnectReason, retry_at: Instant) {
        debug_assert!(retry_at >= now);
        let phase = core::mem::replace(&mut self.phase, Phase::Waiting(retry_at));
        self.requests.pause();
        self.position_due = None;
        self.facts = None;
        self.set_state(ConnectionState::Connecting);
        match phase {
            Phase::Connected(connection) if connection.confirmed => {
                self.push(DeviceEvent::Disconnected { reason, retry_at });
            }
            _ => self.push(DeviceEvent::AttemptFailed { retry_at }),
        }
    }

    /// It is over: nothing that waits will be answered.
    fn finish(&mut self, reason: DisconnectReason) {
        if self.state == ConnectionState::Aborted {
            return;
        }
        let waiting: Vec<_> = self.requests.drain().collect();
        for request in waiting {
            self.push(DeviceEvent::Failed { request, error: RequestError::Closed });
        }
        self.state = ConnectionState::Aborted;
        self.push(DeviceEvent::State(ConnectionState::Aborted));
        self.push(DeviceEvent::Aborted(reason));
    }

    /// How far the application has got has changed: the service is told soon, with what else goes there.
    fn position_moved(&mut self, now: Instant) {
        if self.position_due.is_none() && matches!(self.phase, Phase::Connected(_)) {
            self.position_due = Some(now + POSITION_DELAY);
        }
    }

    fn observe(&mut self, endpoint: SocketAddr) {
        if self.observed != Some(endpoint) {
            self.observed = Some(endpoint);
            self.push(DeviceEvent::ObservedEndpoint(endpoint));
        }
    }

    fn push(&mut self, event: DeviceEvent) {
        if self.events.len() >= MAX_EVENTS {
            self.events.pop_front();
        }
        self.events.push_back(event);
    }
}

/// The longest wait after so many failures in a row.
fn back_off(failures: u32) -> Duration {
    Duration::from_secs(1 << failures.min(6)).min(MAX_BACKOFF)
}

/// The earliest of several deadlines.
struct Deadlines {
    handled: Instant,
    next: Option<Wakeup>,
}

impl Deadlines {
    /// Something for `handle_timeout` to do.
    fn act(&mut self, at: Instant, reason: TimerKind) {
        self.next = Wakeup::earliest(self.next, Some(Wakeup { at, reason }));
    }

    /// Something to send. What is due already waits for `poll_transmit`, and another timeout would not hurry it.
    fn send(&mut self, at: Instant, reason: TimerKind) {
        if at > self.handled {
            self.act(at, reason);
        }
    }
}

impl fmt::Debug for Device {
    // Its parts hold keys and payloads.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Device")
            .field("account", &self.ticket.account())
            .field("state", &self.state)
            .field("stats", &self.stats)
            .finish_non_exhaustive()
    }
}
