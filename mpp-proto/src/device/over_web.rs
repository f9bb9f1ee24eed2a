//! How a device's packets go by Web, and how it changes over to the other transport (SPEC.md, "The Web Service
//! transport: the device").

use core::time::Duration;

use super::attempt::{Attempt, Origin};
use super::connection::{Connection, MAX_INTERVAL, MIN_INTERVAL};
use super::event::{ConnectionState, LinkKind};
use super::exchange::Legs;
use super::phase::{Phase, Successor};
use super::requests::Ask;
use super::send::write_heartbeat;
use super::transport::{SILENCE, Transport};
use super::web::{Lane, Outstanding, Post, Verdict, WebAnswer, WebRequestId, WebTransmit};
use super::{Deadlines, Device, DeviceStats, POSITION_DELAY};
use crate::path::{DropReason, LinkId};
use crate::time::Instant;
use crate::wakeup::TimerKind;
use crate::wire::{Code, check_room, each_web_packet};

/// Requests that fail in a row before another connection is tried for.
const MAX_FAILURES: u32 = 2;

impl Device {
    /// The transport of the connection in use, or of the last one; UDP at the start.
    pub const fn transport(&self) -> Transport {
        self.fallback.transport()
    }

    /// A packet could not be sent over this UDP link, and it looks as if that will go on: the network or the system
    /// forbids it. The Web is tried sooner. Hosts do not report that a buffer was full.
    pub fn handle_unsent(&mut self, now: Instant, link: LinkId) {
        let is_udp = self.links.kind_of(link).is_some_and(|kind| matches!(kind, LinkKind::Udp(_)));
        if is_udp {
            if let Phase::Attempting(attempt) = &mut self.phase {
                self.fallback.doubt();
                attempt.turn_to_web(now);
            } else if let Phase::Connected { connection, successor: Successor::Due(_) } = &self.phase
                && connection.transport() == Transport::Udp
                && connection.confirmed
                && self.fallback.unsent()
                && let Some((heartbeat, _)) = connection.silence(now)
                && self.fallback.begin_silence(heartbeat)
            {
                self.start_web(now);
            }
        }
        self.handle_timeout(now);
    }

    /// The next Web request to make: its body is the first [`WebTransmit::len`] bytes of `out`, which has room for 1452.
    /// At most two are without an answer at a time. Whatever becomes of it, the host says so with
    /// [`handle_web_answer`](Self::handle_web_answer). To be asked like [`poll_transmit`](Self::poll_transmit), as long as
    /// the host has a link of kind [`LinkKind::Web`].
    pub fn poll_web(&mut self, now: Instant, out: &mut [u8]) -> Option<WebTransmit> {
        check_room(out);
        self.links.open_of(LinkKind::Web)?;
        let post = self.next_step1(now, out).or_else(|| self.next_post(now, out))?;
        self.stats.packets_sent += 1;
        self.stats.bytes_sent += post.len as u64;
        self.stats.web_requests += 1;
        Some(self.web.send(now, post))
    }

    fn next_post(&mut self, now: Instant, out: &mut [u8]) -> Option<Post> {
        let marks = self.marks();
        let wanted = self.web_interval();
        let news = |lane, len| Some(Post { lane, wait: None, len, step1: false });
        // What confirms a connection does not wait, nor for a base that still has the step 1 that another one answered.
        let lane = self.web.lane_for_news(self.may_use_both()).filter(|_| self.web.is_ready(now));
        let new = match &mut self.phase {
            Phase::Connected { successor: Successor::Confirming(new), .. } => Some(new),
            Phase::Connected { connection, .. } => Some(connection).filter(|c| !c.confirmed),
            _ => None,
        };
        if let Some(lane) = lane
            && let Some(new) = new.filter(|c| c.transport() == Transport::Web)
            && new.heartbeat_is_due(now).is_some()
        {
            let heartbeat = new.post_heartbeat(now, wanted, self.requests.fresh_id(), false);
            self.stats.heartbeats += 1;
            return news(lane, write_heartbeat(new, out, heartbeat, marks));
        }
        let is_free = self.web.is_free(Lane::News, now);
        if let Phase::Closing { connection, next, ends } = &mut self.phase
            && is_free
        {
            if connection.transport() != Transport::Web || *next > now {
                return None;
            }
            // Once: its end is known.
            *next = *ends;
            return news(Lane::News, connection.write_close(out, Code::CLOSED));
        }
        let connection = self.phase.connection_mut()?;
        if connection.transport() != Transport::Web || !connection.confirmed {
            return None;
        }
        let lane = match connection.heartbeat_is_due(now) {
            Some(_) if self.web.is_free(Lane::Waiting, now) => Some(Lane::Waiting),
            Some(true) if is_free => Some(Lane::News),
            _ => None,
        };
        if let Some(lane) = lane {
            let wait = (lane == Lane::Waiting)
                .then(|| self.web.next_wait(connection.granted(wanted), &mut self.rng));
            let heartbeat = connection.post_heartbeat(now, wanted, self.requests.fresh_id(), wait.is_some());
            let len = write_heartbeat(connection, out, heartbeat, marks);
            self.stats.heartbeats += 1;
            self.position_due = None;
            if self.fallback.may_look(now) && !self.phase.is_changing() {
                self.look(now);
            }
            return Some(Post { lane, wait, len, step1: false });
        }
        if !is_free {
            return None;
        }
        self.write_next(now, out, Transport::Web).and_then(|(_, len)| news(Lane::News, len))
    }

    /// Step 1 of the attempt that runs, if it is to go to a base now.
    fn next_step1(&mut self, now: Instant, out: &mut [u8]) -> Option<Post> {
        let (lane, _) = self.turn_of_step1().filter(|(_, at)| *at <= now)?;
        let packet = self.phase.attempt_mut()?.web_packet(now)?;
        out[..packet.len()].copy_from_slice(packet);
        Some(Post { lane, wait: None, len: packet.len(), step1: true })
    }

    fn turn_of_step1(&self) -> Option<(Lane, Instant)> {
        let starts_at = self.phase.attempt()?.web_starts_at()?;
        self.web.turn_of_step1(self.may_use_both()).map(|(lane, at)| (lane, at.max(starts_at)))
    }

    /// Whether no connection over the Web needs the lane of what waits.
    fn may_use_both(&self) -> bool {
        match &self.phase {
            Phase::Connected { connection, .. } => {
                connection.transport() == Transport::Udp || !connection.confirmed
            }
            _ => true,
        }
    }

    /// The interval that heartbeats by Web ask for: what is learned of UDP has no say there.
    fn web_interval(&self) -> Duration {
        self.config.interval.clamp(MIN_INTERVAL, MAX_INTERVAL)
    }

    /// There is another connection: what the one before has asked by Web is not waited for, nor held by the service.
    pub(super) fn hang_up(&mut self) {
        let over_web = self.fallback.transport() == Transport::Web;
        let is_out = self.web.is_out(Lane::Waiting) || self.web.is_out(Lane::News);
        if over_web && !is_out {
            return;
        }
        if self.close_link(LinkKind::Web) {
            self.web.hang_up();
            if over_web {
                self.ask_link(LinkKind::Web);
            }
        }
    }

    /// Whether anything of this device goes by Web now.
    fn uses_web(&self) -> bool {
        let is_web = |c: &Connection| c.transport() == Transport::Web;
        match &self.phase {
            Phase::Connected { connection, successor } => {
                is_web(connection)
                    || match successor {
                        Successor::Due(_) => false,
                        Successor::Attempting(attempt) => attempt.web_starts_at().is_some(),
                        Successor::Confirming(new) => is_web(new),
                    }
            }
            Phase::Attempting(attempt) => attempt.web_starts_at().is_some(),
            Phase::Closing { connection, .. } => is_web(connection),
            Phase::Waiting(_) | Phase::Closed => false,
        }
    }

    /// How a Web request ended. An answer to one that is not known any more does nothing.
    pub fn handle_web_answer(&mut self, now: Instant, id: WebRequestId, answer: WebAnswer<'_>) {
        // What is due comes first, so that the order of things does not depend on how often the host calls.
        self.handle_timeout(now);
        if let Some(out) = self.web.take(id) {
            match answer {
                WebAnswer::Packets(body) => self.receive_body(now, &out, body),
                WebAnswer::Refused { status, retry_after } => {
                    // A gateway that has lost its patience says so like that.
                    let gave_up = matches!(status, 408 | 502 | 503 | 504) && retry_after.is_none();
                    let retry_after = if gave_up { None } else { Some(retry_after.unwrap_or_default()) };
                    self.post_failed(now, &out, retry_after, matches!(status, 400..=407 | 409..=428));
                }
                WebAnswer::TooLong | WebAnswer::Failed => self.post_failed(now, &out, None, false),
            }
        }
        self.handle_timeout(now);
    }

    fn receive_body(&mut self, now: Instant, out: &Outstanding, body: &mut [u8]) {
        let useful = self.usefulness();
        let fresh = self.freshness();
        let all = each_web_packet(body, |packet| {
            let _ = self.receive_from(now, Origin::Web, packet);
        });
        self.stats.dropped[DropReason::Malformed as usize] += u64::from(!all);
        // A service that has nothing to say says that: whoever answers with nothing may be anybody.
        if self.freshness() == fresh {
            return self.post_failed(now, out, None, false);
        }
        let useful = self.usefulness() != useful;
        self.web.answered(now, out, useful, &mut self.rng);
        self.post_ended(now, out, false);
    }

    /// It changes when something new and authentic has come: copies prove nothing about the way.
    fn freshness(&self) -> u64 {
        let DeviceStats { packets_received, duplicates, .. } = self.stats;
        packets_received - duplicates - self.stats.dropped_for(DropReason::OtherTransport)
    }

    /// It changes when something has come that the device or its application wanted.
    fn usefulness(&self) -> (u64, usize) {
        (self.stats.notifies, self.requests.len())
    }

    /// `refused`: by somebody who has understood it, if he is the service.
    fn post_failed(&mut self, now: Instant, out: &Outstanding, retry_after: Option<Duration>, refused: bool) {
        // Its answer came too late to be of use, which says nothing about the way.
        if !self.uses_web() || out.step1 && self.phase.attempt().is_none() {
            return;
        }
        self.stats.web_failures += 1;
        let verdict = self.web.failed(now, out, retry_after, &mut self.rng);
        let trouble = verdict == Verdict::Trouble;
        self.post_ended(now, out, true);
        let Phase::Connected { connection, successor } = &self.phase else { return };
        if !trouble || connection.transport() != Transport::Web || !connection.confirmed {
            return;
        }
        let idle = matches!(successor, Successor::Due(_));
        self.set_state(ConnectionState::Unacknowledged);
        // The service may have lost the connection, or the Web be blocked now: whatever works takes its place.
        if idle && (refused || self.web.failures() >= MAX_FAILURES) && self.web.failures().is_power_of_two() {
            self.start_beside(now);
        }
    }

    /// A request has ended; `lost`: perhaps without its packet or its answer having arrived.
    fn post_ended(&mut self, now: Instant, out: &Outstanding, lost: bool) {
        let waiting = self.web.is_out(Lane::Waiting);
        let brought = self.inbox.has_notification();
        if let Phase::Closing { connection, .. } = &self.phase
            && connection.transport() == Transport::Web
            && out.lane == Lane::News
        {
            self.phase = Phase::Closed;
            return;
        }
        if lost {
            self.requests.post_again(now);
        }
        let Phase::Connected { connection, successor } = &mut self.phase else { return };
        let new = match successor {
            Successor::Confirming(new) => Some(new),
            _ => None,
        };
        for connection in core::iter::once(connection).chain(new) {
            if out.wait.is_none() {
                connection.news_ended(now, lost);
            }
            if !waiting {
                connection.heartbeat_ended(now);
            }
            // What the application takes at once is reported with the request that waits next.
            if connection.confirmed && brought && !lost {
                connection.hold_heartbeat(now + POSITION_DELAY);
            }
        }
    }

    /// Asks for a Web client when one is needed, and gives up what stays without an answer.
    pub(super) fn tend_web(&mut self, now: Instant) {
        while let Some(out) = self.web.take_overdue(now) {
            self.post_failed(now, &out, None, false);
        }
        if let Some(attempt) = self.phase.attempt_mut() {
            // Nothing can be sent by UDP: there is nothing to wait for.
            let udp = [LinkKind::Udp(super::Family::V4), LinkKind::Udp(super::Family::V6)];
            if attempt.web_starts_at().is_some()
                && attempt.alone.is_none()
                && !attempt.has_no_address()
                && !udp.iter().any(|k| self.links.is_there(*k))
            {
                attempt.turn_to_web(now);
            }
        }
        self.open_web(now);
    }

    /// Asks for a Web client if the attempt that runs needs it now.
    pub(super) fn open_web(&mut self, now: Instant) {
        let starts_at = self.phase.attempt().and_then(Attempt::web_starts_at);
        if starts_at.is_some_and(|at| at <= now) && !self.web.refused {
            self.ask_link(LinkKind::Web);
        }
    }

    /// Beside the connection: whether the other transport is to be tried.
    pub(super) fn tend_transport(&mut self, now: Instant) {
        let Phase::Connected { connection, .. } = &self.phase else { return };
        match connection.transport() {
            Transport::Udp => {
                if let Some((heartbeat, silent)) = connection.silence(now)
                    && silent >= SILENCE
                    && self.fallback.begin_silence(heartbeat)
                {
                    self.start_web(now);
                }
            }
            Transport::Web if self.fallback.retry_at() <= now => self.start_successor(now, Legs::Udp),
            Transport::Web if self.fallback.look_at().is_some_and(|at| at <= now) => self.look(now),
            Transport::Web => {}
        }
    }

    /// Sends a small packet by UDP to each address that the last trial went to, from a new socket. If one is answered, UDP
    /// is worth a trial now.
    fn look(&mut self, now: Instant) {
        self.requests.forget_looks();
        self.close_asking_links();
        for at in self.fallback.look(now) {
            self.requests.add(Ask::Look { at });
        }
        self.requests.start(now);
        self.open_asking_links();
    }

    /// The connection by UDP does not answer: the Web is tried beside it, until it is heard again.
    fn start_web(&mut self, now: Instant) {
        if !self.web.refused {
            self.start_successor(now, Legs::Web);
        }
    }

    /// The connection over the Web does not answer: both transports race for another one, until it is heard again.
    fn start_beside(&mut self, now: Instant) {
        self.start_successor(now, Legs::Both { web: now });
        if let Some(attempt) = self.phase.attempt_mut() {
            attempt.provisional = true;
        }
    }

    /// Something new and authentic came over the connection in use.
    pub(super) fn heard(&mut self, now: Instant) {
        let Phase::Connected { connection, successor } = &mut self.phase else { return };
        connection.heard = now;
        if connection.transport() == Transport::Udp {
            self.fallback.heard_udp();
        }
        if let Successor::Attempting(attempt) = successor
            && attempt.provisional
        {
            *successor = Successor::Due(connection.refresh_at);
        }
        if connection.transport() == Transport::Web {
            self.set_state(ConnectionState::Connected);
        }
    }

    /// Names the deadlines of changing over.
    pub(super) fn transport_deadlines(
        &self,
        connection: &Connection,
        successor: &Successor,
        next: &mut Deadlines,
    ) {
        if connection.transport() == Transport::Web && matches!(successor, Successor::Due(_)) {
            next.act(self.fallback.retry_at(), TimerKind::Retry);
            if let Some(at) = self.fallback.look_at() {
                next.act(at, TimerKind::Retry);
            }
        }
    }

    /// Names the deadlines of requests that are out, and of those that have to wait for their turn.
    pub(super) fn web_deadlines(&self, next: &mut Deadlines) {
        self.web.deadlines(next);
        if let Some(at) = self.phase.attempt().and_then(|attempt| attempt.web_starts_at()) {
            match self.links.is_there(LinkKind::Web) || self.web.refused {
                true => next.send(at, TimerKind::Web),
                false => next.act(at, TimerKind::Web),
            }
        }
        if let Some((_, at)) = self.turn_of_step1() {
            next.send(at, TimerKind::Web);
        }
        for lane in [Lane::Waiting, Lane::News] {
            if let Some(at) = self.web.free_at(lane) {
                next.send(at, TimerKind::Web);
            }
        }
    }
}
