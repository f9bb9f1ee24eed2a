//! The device: connects to its service, stays connected, and gets the notifications of its account.

pub(crate) mod attempt;
mod config;
mod connection;
mod deadlines;
mod echoes;
mod endpoint;
mod event;
mod exchange;
mod inbox;
mod life;
mod links;
mod over_web;
mod patience;
mod phase;
mod probing;
mod receive;
mod report;
mod requests;
mod resume;
mod send;
mod stats;
mod tickets;
mod transport;
mod web;

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::net::SocketAddr;
use core::num::NonZeroUsize;
use core::time::Duration;

pub use config::{Acknowledgement, DeviceConfig};
pub use event::{
    CommandError, Connected, ConnectionState, DeviceEvent, DisconnectReason, Family, LinkKind, LinkState,
    RequestError, ResolveId,
};
pub use report::{ConnectionReport, KeepaliveReport, MappingEnd, MappingProgress};
pub use resume::{Resume, ResumeError};
pub use stats::DeviceStats;
pub use transport::Transport;
pub use web::{WebAnswer, WebRequestId, WebTransmit};

use connection::Connection;
pub(crate) use deadlines::Deadlines;
use inbox::Inbox;
use links::Links;
use phase::{Phase, Successor};
use probing::Probe;
use receive::Whose;
use requests::{Ask, MAX_REQUESTS, Requests};
use resume::Anchor;
use tickets::Tickets;
use transport::Fallback;
pub(crate) use web::NEXT_BASE;
use web::Web;

use crate::channel::{Event, Notification};
use crate::ids::{NetworkId, RequestId, Serial, StoreSet};
use crate::keepalive::{IntervalReason, Keepalive};
use crate::path::{Datagram, Disposition, LinkId, Transmit};
use crate::random::{Rng, Seed};
use crate::time::{Calendar, Instant, UnixTime};
use crate::wire::{Emit, MAX_ACCOUNT, MIN_PACKET, SERVICE_IDENTIFIER, Ticket, fragment_capacity};

/// How long a new position may wait for a packet to go along with.
const POSITION_DELAY: Duration = Duration::from_millis(25);
/// The same by Web, where it costs a request unless it goes along with the next one that waits.
const WEB_POSITION_DELAY: Duration = Duration::from_secs(1);
/// How long a farewell by Web may take.
const WEB_FAREWELL: Duration = Duration::from_secs(5);
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
    tickets: Tickets,
    rng: Rng,
    calendar: Calendar,
    links: Links,
    /// The network that the machine is on, if the host knows.
    network: Option<NetworkId>,
    keepalive: Keepalive,
    probe: Option<Probe>,
    told_interval: (Duration, IntervalReason),
    inbox: Inbox,
    requests: Requests,
    phase: Phase,
    fallback: Fallback,
    web: Web,
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
    /// Over which socket and by which address of the service that was seen.
    observed_on: Option<(LinkId, SocketAddr)>,
    /// How many packets had been turned away when the last Status came.
    refused_before: u64,
    service_clock: Option<ServiceClock>,
    state: ConnectionState,
    events: VecDeque<DeviceEvent>,
    /// When the service is told how far the application has got.
    position_due: Option<Instant>,
    /// The latest time that was handled: what is due by then waits for `poll_transmit`, not for `handle_timeout`.
    handled: Instant,
    attempts: usize,
    stats: DeviceStats,
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
        let (anchor, connect_serial, renewed, learned) = match resume {
            Some(resume) => (resume.anchor, resume.connect_serial, resume.renewed, resume.learned),
            None => (Anchor { covered: config.filter, ..Anchor::default() }, 0, None, Vec::new()),
        };
        let learned = learned.into_iter().map(|(n, known)| (n, known.revive(now, clock)));
        let keepalive = Keepalive::new(config.interval_limits(), now, config.network, learned.collect());
        Self {
            filter: config.filter,
            inbox: Inbox::new(config.acknowledgement, config.queue_events, config.queue_bytes, anchor),
            tickets: Tickets::new(ticket, renewed),
            rng: Rng::new(seed),
            calendar: Calendar::new(now, clock),
            links: Links::default(),
            network: config.network,
            probe: None,
            told_interval: (keepalive.interval(), keepalive.reason()),
            keepalive,
            requests: Requests::default(),
            phase: Phase::Waiting(now),
            fallback: Fallback::default(),
            web: Web::default(),
            connect_serial,
            failures: 0,
            refusals: 0,
            misunderstandings: 0,
            resolve_id: 0,
            observed: None,
            observed_on: None,
            refused_before: 0,
            service_clock: None,
            state: ConnectionState::Connecting,
            events: VecDeque::new(),
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
        self.whose(packet) != Whose::Nobody
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
        self.tend(now);
        self.tell_interval(now);
    }

    /// Answers [`DeviceEvent::OpenLink`], or says that a link is gone.
    pub fn handle_link(&mut self, now: Instant, link: LinkId, state: LinkState) {
        let failed = state == LinkState::Failed;
        let kind = self.links.kind_of(link);
        self.links.set(link, state);
        if let (true, Some(LinkKind::Asking(family))) = (failed, kind) {
            self.asking_link_failed(family);
        }
        if failed && kind == Some(LinkKind::Web) {
            self.web.refused = true;
            if self.phase.attempt().is_some_and(|attempt| attempt.provisional)
                && self.phase.is_changing_to(Transport::Web)
            {
                self.attempt_failed(now);
            }
        }
        let gone = |c: &Connection| {
            let is_over = match c.path() {
                Some(path) => path.link == link,
                None => kind == Some(c.kind()),
            };
            failed && is_over
        };
        if let Phase::Connected { connection, successor } = &mut self.phase {
            let (lost, new_lost) = match successor {
                Successor::Confirming(new) => (gone(connection), gone(new)),
                // It goes on with the links it has, or ends.
                Successor::Due(_) | Successor::Attempting(_) => (gone(connection), false),
            };
            // What was sent over the link has no answer.
            if lost && (new_lost || !matches!(successor, Successor::Confirming(_))) {
                self.disconnect(now, DisconnectReason::LinkLost, now);
            } else if lost {
                self.lose(now, DisconnectReason::LinkLost, now);
            } else if new_lost {
                self.attempt_failed(now);
            } else {
                let open = &self.links;
                let new = match successor {
                    Successor::Confirming(new) => Some(new),
                    _ => None,
                };
                for c in core::iter::once(connection).chain(new).filter(|c| c.is_adrift()) {
                    if open.open_of(c.kind()) == Some(link) {
                        c.arrive(now, link);
                    }
                }
            }
        }
        if let Some(kind) = kind {
            self.probe_link(now, kind, failed);
        }
        self.handle_timeout(now);
    }

    /// Answers [`DeviceEvent::Resolve`]; no address: the name could not be looked up.
    pub fn handle_resolved(&mut self, now: Instant, id: ResolveId, addresses: &[SocketAddr]) {
        if let Some(attempt) = self.phase.attempt_mut()
            && id.0 == self.resolve_id
        {
            attempt.add_candidates(now, addresses);
            // A proxy may know the name.
            if attempt.has_no_address() && attempt.alone.is_none() {
                attempt.turn_to_web(now);
            }
            self.open_links();
        }
    }

    /// The machine is on another network now: new sockets are asked for, and the service is contacted at once.
    /// `network` names it, as [`DeviceConfig::network`] names the first one; none: it is not known which one it is.
    pub fn handle_network_change(&mut self, now: Instant, network: Option<NetworkId>) {
        self.network = network;
        self.keepalive.moved(now, network);
        self.end_probing(MappingEnd::Interrupted);
        for link in self.links.forget() {
            self.push(DeviceEvent::CloseLink(link));
        }
        self.web.forget();
        self.fallback.network_changed(now);
        let mut kinds = Vec::new();
        match &mut self.phase {
            Phase::Connected { connection, successor } if connection.confirmed => {
                connection.leave();
                kinds.push(connection.kind());
                match successor {
                    // Its answers would go to where the device is not any more.
                    Successor::Attempting(_) => *successor = Successor::Due(now),
                    // The service may know it already, so it moves too.
                    Successor::Confirming(new) => {
                        new.leave();
                        kinds.push(new.kind());
                    }
                    Successor::Due(_) => {}
                }
            }
            Phase::Connected { .. } => self.disconnect(now, DisconnectReason::LinkLost, now),
            Phase::Waiting(_) | Phase::Attempting(_) => {
                self.failures = 0;
                self.phase = Phase::Waiting(now);
            }
            Phase::Closing { .. } => self.phase = Phase::Closed,
            Phase::Closed => return,
        }
        kinds.into_iter().for_each(|kind| self.ask_link(kind));
        self.open_asking_links();
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
        self.post_event(now, None, event)
    }

    /// Posts an event to the channel of another account, which takes the right to and the consent of the service's
    /// host. Otherwise as [`post`](Self::post); the answer has no serial, and says 403 too if there is no such account.
    ///
    /// # Errors
    /// [`CommandError::Account`] unless the name has 1 to 128 bytes; else as [`post`](Self::post).
    pub fn post_to(&mut self, now: Instant, account: &str, event: &Event) -> Result<RequestId, CommandError> {
        if account.is_empty() || account.len() > MAX_ACCOUNT {
            return Err(CommandError::Account { size: account.len() });
        }
        self.post_event(now, Some(account.into()), event)
    }

    fn post_event(
        &mut self,
        now: Instant,
        account: Option<Box<str>>,
        event: &Event,
    ) -> Result<RequestId, CommandError> {
        event.check()?;
        self.check_request()?;
        let id = self.rng.array();
        // Connections may agree on larger packets, but what is taken now has to fit the next one too.
        let limit = fragment_capacity(MIN_PACKET, SERVICE_IDENTIFIER);
        let size = requests::post(RequestId(u32::MAX), &id, account.as_deref(), event).emitted_len();
        if size > limit {
            return Err(CommandError::TooLarge { size, limit });
        }
        Ok(self.ask(now, Ask::Post { id, account, event: event.clone() }))
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

    /// Uses this ticket from now on, at once if there is no connection. What the service gave for the one before is
    /// forgotten.
    pub fn renew(&mut self, now: Instant, ticket: Ticket) {
        self.tickets.give(ticket);
        self.requests.forget_ticket();
        let was_refused = core::mem::take(&mut self.refusals) > 0;
        match &mut self.phase {
            Phase::Waiting(_) | Phase::Attempting(_) => {
                self.failures = 0;
                self.phase = Phase::Waiting(now);
            }
            // New keys are due, and were refused to the old ticket.
            Phase::Connected { successor: Successor::Due(at), .. } if was_refused => *at = (*at).min(now),
            Phase::Connected { successor: successor @ Successor::Attempting(_), .. } => {
                *successor = Successor::Due(now);
            }
            Phase::Connected { .. } | Phase::Closing { .. } | Phase::Closed => return,
        }
        self.handle_timeout(now);
    }

    /// The ticket in use: the host's, or the newest one that the service has given for it.
    pub const fn ticket(&self) -> &Ticket {
        self.tickets.current()
    }

    /// Says farewell and stops. [`is_drained`](Self::is_drained) says when there is nothing more to send.
    pub fn close(&mut self, now: Instant) {
        // If the service has heard of a newer connection, a farewell over that one ends both.
        if self.phase.confirming().is_some_and(Connection::has_spoken) {
            self.take_over();
        }
        let phase = core::mem::replace(&mut self.phase, Phase::Closed);
        match phase {
            Phase::Connected { connection, .. }
                if connection.confirmed || self.state != ConnectionState::Connecting =>
            {
                let ends = now
                    + match connection.transport() {
                        Transport::Udp => connection.pto() * 3,
                        Transport::Web => WEB_FAREWELL,
                    };
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
        let stats = DeviceStats {
            given: self.inbox.events_given,
            expired: self.stats.expired + self.inbox.events_expired,
            waiting: self.inbox.events_waiting(),
            ..self.stats
        };
        let Phase::Connected { connection, .. } = &self.phase else { return stats };
        let (partial_bytes, partial_memory) = connection.partials();
        let round_trip = connection.round_trip();
        DeviceStats { round_trip, partial_bytes, partial_memory, ..stats }
    }

    /// What to remember across a restart: as far as the application has got. It changes when
    /// [`poll_notification`](Self::poll_notification) is asked (automatic mode) or with
    /// [`acknowledge`](Self::acknowledge) (manual mode), with [`DeviceEvent::TicketRenewed`], and, if the host names
    /// networks, with what is learned of one: at [`DeviceEvent::Mapping`] and [`DeviceEvent::Interval`]. That last it is
    /// enough to save now and then.
    pub fn resume(&self) -> Resume {
        let learned = self.keepalive.learned();
        Resume {
            anchor: *self.inbox.settled(),
            connect_serial: self.connect_serial,
            renewed: self.tickets.kept(),
            learned: learned.map(|(n, known)| (n, known.keep(self.handled, &self.calendar))).collect(),
        }
    }

    /// The network that the machine is on, as the host has named it.
    pub const fn network(&self) -> Option<NetworkId> {
        self.network
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
        let next = self.inbox.next(now);
        if *self.inbox.settled() != before {
            self.position_moved(now);
        }
        // What was refused for want of room may come now: any packet makes the service go on.
        if !had_room && self.inbox.has_room() {
            self.web.resume(now);
        }
        if !had_room
            && self.inbox.has_room()
            && let Some(connection) = self.phase.connection_mut()
        {
            connection.beat_now(now);
        }
        next
    }

    /// Whether [`poll_notification`](Self::poll_notification) has something to give.
    pub fn has_notification(&self) -> bool {
        self.inbox.has_notification()
    }

    /// How far the application has got has changed: the service is told soon, with what else goes there.
    fn position_moved(&mut self, now: Instant) {
        if self.position_due.is_none() && matches!(self.phase, Phase::Connected { .. }) {
            let delay = match self.fallback.transport() {
                Transport::Udp => POSITION_DELAY,
                Transport::Web => WEB_POSITION_DELAY,
            };
            self.position_due = Some(now + delay);
        }
    }

    /// Tells the application that its request has failed; of the device's own it does not know.
    fn fail(&mut self, (request, ask): (RequestId, Ask), error: RequestError) {
        if !ask.is_own() {
            self.push(DeviceEvent::Failed { request, error });
        }
        self.close_asking_links();
    }

    fn observe(&mut self, endpoint: SocketAddr) {
        self.observed_on = self.socket_pair();
        if self.observed != Some(endpoint) {
            self.observed = Some(endpoint);
            self.push(DeviceEvent::ObservedEndpoint(endpoint));
        }
    }

    /// Over which socket, and to which address, the connection goes.
    fn socket_pair(&self) -> Option<(LinkId, SocketAddr)> {
        match &self.phase {
            Phase::Connected { connection, .. } => connection.path().map(|path| (path.link, path.remote)),
            _ => None,
        }
    }

    fn push(&mut self, event: DeviceEvent) {
        if self.events.len() >= MAX_EVENTS {
            self.events.pop_front();
        }
        self.events.push_back(event);
    }
}

impl fmt::Debug for Device {
    // Its parts hold keys and payloads.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Device")
            .field("account", &self.ticket().account())
            .field("state", &self.state)
            .field("stats", &self.stats)
            .finish_non_exhaustive()
    }
}
