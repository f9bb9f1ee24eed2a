//! What comes in.

use core::time::Duration;

use bytes::Bytes;
use zeroize::Zeroize;

use super::attempt::Origin;
use super::connection::Fragment;
use super::event::{DeviceEvent, LinkKind, RequestError};
use super::phase::{Phase, Successor};
use super::requests::Ask;
use super::resume::Anchor;
use super::{ConnectionState, Device, ServiceClock};
use crate::channel::{CollapseKey, NotificationKind};
use crate::path::{Datagram, Disposition, DropReason};
use crate::rud::replay::Seen;
use crate::time::{Calendar, Instant, UnixTime};
use crate::wire::{
    Direction, Events, Header, Message, Notify, PacketExtension, Status, StoreStatuses, TICKET_RESPONSE,
    parse_plaintext, reset_token,
};

/// A sample of the service's clock is replaced by a worse one after this time.
const CLOCK_AGE: Duration = Duration::from_secs(600);
/// By so much two samples of one clock may disagree beyond what their round trips explain: its rate, and its keeper's
/// small corrections. More says that the clock was set, and then the older sample is worth nothing.
const CLOCK_DRIFT: Duration = Duration::from_secs(2);
/// A Notify is on its way for so long at most, repetitions included.
const LONGEST_WAY: Duration = Duration::from_secs(120);

/// Whether a packet brought a ticket.
fn holds_secret(plaintext: &[u8]) -> bool {
    let plaintext = parse_plaintext(plaintext, Direction::ToInitiator);
    plaintext.is_ok_and(|plaintext| plaintext.fragment.first() == Some(&TICKET_RESPONSE))
}

/// What the link is for over which a packet came, as far as that is known.
pub(super) type Via = Option<LinkKind>;

/// Whether that is another socket than the connection's own.
const fn is_aside(via: Via) -> bool {
    matches!(via, Some(LinkKind::Probe(_) | LinkKind::Asking(_)))
}

/// Whose a received packet is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Whose {
    /// An answer to the attempt that runs.
    Attempt,
    /// Data of the connection in use, or of the one that is being closed.
    Connection,
    /// Data of the connection that is to take its place.
    Successor,
    /// The service does not know the connection.
    Reset,
    /// The service does not know the one that is to take its place.
    SuccessorReset,
    /// It is not for this device.
    Nobody,
}

impl Device {
    pub(super) fn receive(&mut self, now: Instant, datagram: Datagram<'_>) -> Disposition {
        self.receive_from(now, Origin::Udp(datagram.path), datagram.payload)
    }

    /// Takes a packet that came in a UDP datagram or in the answer to a Web request.
    pub(super) fn receive_from(&mut self, now: Instant, from: Origin, payload: &mut [u8]) -> Disposition {
        let size = payload.len() as u64;
        let disposition = match self.whose(payload) {
            Whose::Attempt => self.receive_answer(now, from, payload),
            Whose::Connection => self.receive_data(now, from, payload, false),
            Whose::Successor => self.receive_data(now, from, payload, true),
            Whose::Reset => {
                self.reset(now);
                Disposition::Accepted
            }
            Whose::SuccessorReset => {
                self.attempt_failed(now);
                Disposition::Accepted
            }
            Whose::Nobody => Disposition::NotForUs,
        };
        match disposition {
            Disposition::Accepted => {
                self.stats.packets_received += 1;
                self.stats.bytes_received += size;
            }
            Disposition::Dropped(reason) => self.stats.dropped[reason as usize] += 1,
            Disposition::NotForUs | Disposition::OtherShard(_) | Disposition::OtherNode(_) => {}
        }
        disposition
    }

    /// Whose packet this is.
    pub(super) fn whose(&self, packet: &[u8]) -> Whose {
        if self.phase.attempt().is_some_and(|attempt| attempt.recognizes(packet)) {
            return Whose::Attempt;
        }
        let (Phase::Connected { connection, .. } | Phase::Closing { connection, .. }) = &self.phase else {
            return Whose::Nobody;
        };
        let successor = self.phase.confirming();
        if connection.recognizes(packet) {
            return Whose::Connection;
        }
        if successor.is_some_and(|new| new.recognizes(packet)) {
            return Whose::Successor;
        }
        match reset_token(packet) {
            Some(token) if connection.is_reset(token) => Whose::Reset,
            Some(token) if successor.is_some_and(|new| new.is_reset(token)) => Whose::SuccessorReset,
            _ => Whose::Nobody,
        }
    }

    /// A packet of the connection, or of the one that is to take its place.
    fn receive_data(
        &mut self,
        now: Instant,
        from: Origin,
        payload: &mut [u8],
        of_successor: bool,
    ) -> Disposition {
        let via = match from {
            Origin::Udp(path) => self.links.kind_of(path.link),
            Origin::Web => Some(LinkKind::Web),
        };
        let connection = match &mut self.phase {
            Phase::Connected { successor: Successor::Confirming(new), .. } if of_successor => new,
            Phase::Connected { connection, .. } | Phase::Closing { connection, .. } => connection,
            _ => return Disposition::NotForUs,
        };
        let Some(opened) = connection.open(payload) else {
            return Disposition::Dropped(DropReason::Unauthentic);
        };
        // A copy that was carried to the other transport does nothing.
        if opened.header.web != matches!(from, Origin::Web) {
            self.stats.dropped[DropReason::OtherTransport as usize] += 1;
            return Disposition::Accepted;
        }
        // Not for a replay: turn and turn about with genuine packets it would push out the identifiers in use.
        if connection.judge(&opened.header) == Seen::New {
            connection.note_identifier(payload, &mut self.rng);
        }
        // The service sends nothing over a connection before that has taken the place of the older one.
        if of_successor {
            self.take_over();
        }
        let plaintext = payload.get(opened.plaintext).unwrap_or_default();
        if let Phase::Closing { .. } = self.phase {
            // Whatever comes now is the farewell, or was on its way before it.
            if let Ok(plaintext) = parse_plaintext(plaintext, Direction::ToInitiator)
                && plaintext.extensions.into_iter().any(|e| matches!(e, PacketExtension::Close(_)))
            {
                self.phase = Phase::Closed;
            }
            return Disposition::Accepted;
        }
        self.receive_authentic(now, &opened.header, plaintext, via);
        // It has been opened in the host's buffer, which the host may keep.
        if holds_secret(plaintext) {
            payload.zeroize();
        }
        Disposition::Accepted
    }

    fn receive_authentic(&mut self, now: Instant, header: &Header, plaintext: &[u8], via: Via) {
        let Some(connection) = self.phase.connection_mut() else { return };
        let (Ok(()), Ok(plaintext)) =
            (header.valid(Direction::ToInitiator), parse_plaintext(plaintext, Direction::ToInitiator))
        else {
            return self.protocol_error(now);
        };
        match connection.judge(header) {
            Seen::TooOld => {
                self.stats.duplicates += 1;
                return;
            }
            Seen::Duplicate => {
                self.stats.duplicates += 1;
                connection.want_ack(now, header, true);
                return;
            }
            Seen::New => {}
        }
        // What finds no room is not kept, so each copy of it looks new: that the service is there, only one shows that is
        // ahead of all before.
        let ahead = connection.is_ahead(header);
        if ahead {
            self.news(now, header, via);
        }
        for extension in plaintext.extensions {
            let Some(connection) = self.phase.connection_mut() else { return };
            match extension {
                PacketExtension::Close(close) => return self.closed_by_service(now, &close),
                PacketExtension::PathChallenge(challenge) => connection.challenged(challenge),
                PacketExtension::Identifiers(value) => connection.add_identifiers(value),
                // Only a service asks whether a path is there.
                PacketExtension::PathResponse(_) => {}
            }
        }
        self.receive_fragment(now, header, plaintext.fragment, via, ahead);
    }

    /// A packet has come that cannot be a copy.
    fn news(&mut self, now: Instant, header: &Header, via: Via) {
        let Some(connection) = self.phase.connection_mut() else { return };
        connection.count(header);
        if !connection.confirmed {
            connection.confirmed = true;
            self.confirmed(now);
        }
        // What gets through to another socket says nothing of the connection's own path.
        if !is_aside(via) {
            self.heard(now);
        }
    }

    /// Keeps a fragment, and reads the message that it completes. `ahead`: that it came has been noted.
    fn receive_fragment(&mut self, now: Instant, header: &Header, fragment: &[u8], via: Via, ahead: bool) {
        let Some(connection) = self.phase.connection_mut() else { return };
        // What the application has no room for is not kept, so the service goes on owing it.
        let last = header.count == 1 || connection.would_complete(header);
        if header.wanted && last && !self.inbox.has_room() {
            self.stats.refused += 1;
            connection.turn_away(header);
            return;
        }
        if header.count == 1 {
            connection.keep(header);
            connection.want_ack(now, header, false);
            if !ahead {
                self.news(now, header, via);
            }
            if !fragment.is_empty() {
                self.receive_message(now, fragment, via);
            }
            return;
        }
        let message = match connection.keep_fragment(now, header, fragment) {
            Fragment::Inconsistent => return self.protocol_error(now),
            Fragment::Partial if connection.judge(header) == Seen::New => {
                self.stats.refused += 1;
                connection.turn_away(header);
                return;
            }
            Fragment::Partial => None,
            Fragment::Complete(message) => Some(message),
        };
        connection.want_ack(now, header, false);
        if !ahead {
            self.news(now, header, via);
        }
        if let Some(message) = message {
            self.receive_message(now, &message, via);
            if let Some(connection) = self.phase.connection_mut() {
                connection.reuse(message);
            }
        }
    }

    /// A complete message.
    fn receive_message(&mut self, now: Instant, message: &[u8], via: Via) {
        let Ok(message) = Message::parse(message) else { return self.protocol_error(now) };
        match message {
            Message::Status(status) => self.receive_status(now, &status),
            Message::Notify(notify) => self.receive_notify(now, &notify),
            Message::Subscribed(subscribed) => {
                if let Some(Ask::Subscribe(filter)) = self.requests.take(subscribed.request) {
                    for request in self.requests.overtaken(subscribed.request) {
                        self.push(DeviceEvent::Subscribed { request, newest: subscribed.newest });
                    }
                    let anchor = Anchor { covered: self.requests.narrowed(filter), ..*self.inbox.received() };
                    let gap = (!subscribed.lost.is_empty()).then_some(NotificationKind::Gap(subscribed.lost));
                    self.inbox.push(gap, anchor);
                    self.push(DeviceEvent::Subscribed {
                        request: subscribed.request,
                        newest: subscribed.newest,
                    });
                }
            }
            Message::Posted(posted) => {
                if self.requests.take(posted.request).is_some() {
                    self.push(DeviceEvent::Posted { request: posted.request, serial: posted.serial });
                }
            }
            Message::EndpointResponse(response) => {
                if self.probe_endpoint(now, &response, via) {
                    return;
                }
                let (request, endpoint) = (response.request, response.endpoint);
                match self.requests.take(request) {
                    Some(Ask::Look { .. }) => self.fallback.udp_answers(now),
                    Some(_) => self.push(DeviceEvent::Endpoint { request, endpoint }),
                    None => return,
                }
                self.close_asking_links();
            }
            Message::Failure(failure) => {
                if !self.probe_refused(now, &failure)
                    && let Some(ask) = self.requests.take(failure.request)
                {
                    let retry_after = (!failure.retry_after.is_zero()).then_some(failure.retry_after);
                    let error = RequestError::Refused { code: failure.code, retry_after };
                    self.fail((failure.request, ask), error);
                }
            }
            Message::TicketResponse(response) => {
                if let Some(Ask::Ticket) = self.requests.take(response.request)
                    && self.tickets.take(&response)
                {
                    self.push(DeviceEvent::TicketRenewed { expiry: response.expiry });
                }
            }
            Message::ProbeAnswer(answer) => self.probe_answered(now, answer.request, via),
            // Of a later profile.
            Message::Unknown { .. } => {}
            _ => self.protocol_error(now),
        }
    }

    fn receive_status(&mut self, now: Instant, status: &Status<StoreStatuses<'_>>) {
        self.find_misses(now, status);
        let wanted = self.keepalive.interval();
        let Some(connection) = self.phase.connection_mut() else { return };
        if let Some(request) = status.request
            && let Some(round_trip) = connection.answered(now, request, status.lease, wanted, &mut self.rng)
        {
            if connection.is_settled(now) {
                self.misunderstandings = 0;
            }
            if let Some(round_trip) = round_trip {
                self.learn_clock(now, status.service_time, Some(round_trip));
            }
            self.set_state(ConnectionState::Connected);
        }
        if let Some(endpoint) = status.endpoint {
            self.observe(endpoint);
        }
    }

    /// Whether the service could reach the device before the heartbeat that this answers: not if what it sent stayed
    /// without an answer, nor if the device is seen elsewhere now, though it has not moved.
    fn find_misses(&mut self, now: Instant, status: &Status<StoreStatuses<'_>>) {
        let Some(connection) = self.phase.connection_mut() else { return };
        let Some((silence, counted)) = status.request.and_then(|r| connection.silence_before(r)) else {
            return;
        };
        let elsewhere =
            status.endpoint.is_some_and(|seen| self.observed.is_some_and(|before| before != seen));
        let rebound = elsewhere && self.observed_on.is_some() && self.observed_on == self.socket_pair();
        self.keepalive.rebindings += u64::from(rebound);
        // What came and was turned away has been heard all the same.
        let refused = core::mem::replace(&mut self.refused_before, self.stats.refused) != self.stats.refused;
        let unheard = status.unheard > 0 && !refused;
        if (rebound || unheard) && !counted {
            self.missed(now, silence);
        }
    }

    fn receive_notify(&mut self, now: Instant, notify: &Notify<Events<'_>>) {
        let received = *self.inbox.received();
        let events = notify.events.count() as u64;
        self.stats.events += events;
        if notify.told > received.position {
            // The service believes that more has arrived than has. The mark in a heartbeat puts that right.
            if let Some(connection) = self.phase.connection_mut() {
                connection.beat_now(now);
            }
            self.stats.unapplied += events;
            return;
        }
        // One that wanted no acknowledgement was not refused before.
        if !self.inbox.has_room() {
            self.stats.refused += 1;
            self.stats.unapplied += events;
            return;
        }
        self.stats.notifies += 1;
        let end = Anchor { position: notify.upto.max(received.position), ..received };
        if !notify.lost.is_empty() {
            self.inbox.push(Some(NotificationKind::Gap(notify.lost)), received);
        }
        if !notify.changed.is_empty() && notify.upto > received.position {
            self.inbox.push(Some(NotificationKind::Changed(notify.changed)), received);
        }
        let unix = self.time_of(now, notify.service_time);
        for event in notify.events {
            if event.serial <= received.position {
                self.stats.repeated += 1;
                continue;
            }
            if event.expiry <= unix {
                self.stats.expired += 1;
                continue;
            }
            let kind = NotificationKind::Event {
                serial: event.serial,
                store: event.store,
                expires: event.expiry,
                key: event.key.and_then(|key| CollapseKey::new(key).ok()),
                // A copy, so that a payload which the application keeps holds no other ones in memory.
                payload: Bytes::copy_from_slice(event.payload),
            };
            let life = Duration::from_millis(event.expiry.as_millis() - unix.as_millis());
            self.inbox.push_event(kind, now + life, Anchor { position: event.serial, ..received });
        }
        if *self.inbox.received() != end {
            self.inbox.push(None, end);
            self.position_moved(now);
        }
    }

    /// Without a known round trip the sample is taken as a lower bound, so that no event is dropped too early.
    pub(super) fn learn_clock(&mut self, now: Instant, service_time: UnixTime, round_trip: Option<Duration>) {
        let time = service_time + round_trip.unwrap_or_default() / 2;
        let round_trip = round_trip.unwrap_or(Duration::MAX);
        let better = self.service_clock.is_none_or(|clock| {
            let off = Duration::from_millis(clock.calendar.unix(now).as_millis().abs_diff(time.as_millis()));
            let was_set = off > (clock.round_trip / 2).saturating_add(round_trip / 2 + CLOCK_DRIFT);
            was_set || round_trip <= clock.round_trip || now.since(clock.sampled) >= CLOCK_AGE
        });
        if better {
            let calendar = Calendar::new(now, time);
            self.service_clock = Some(ServiceClock { calendar, sampled: now, round_trip });
        }
    }

    /// What time it is at the service, by the clock by which the events of a Notify expire that was made at `made`: if it
    /// was set since it was last asked, what it said then is worth nothing.
    fn time_of(&self, now: Instant, made: Option<UnixTime>) -> UnixTime {
        let known = self.service_time(now);
        match made {
            Some(made) if known > made + LONGEST_WAY => made,
            Some(made) => known.max(made),
            None => known,
        }
    }

    /// What time it is at the service, as far as Status says.
    pub(super) fn service_time(&self, now: Instant) -> UnixTime {
        self.service_clock.map_or(UnixTime::EPOCH, |clock| clock.calendar.unix(now))
    }
}

#[cfg(test)]
mod tests {
    use alloc::sync::Arc;
    use alloc::vec;
    use alloc::vec::Vec;

    use super::*;
    use crate::crypto::TicketKey;
    use crate::ids::{DeviceId, Rights, Serial, StoreId, StoreSet};
    use crate::wire::{Emit, Endpoint, EventRef};
    use crate::{DeviceConfig, Seed, TicketSpec};

    const NOW: Instant = Instant::from_micros(1_000_000);
    const TODAY: UnixTime = UnixTime::from_millis(1_800_000_000_000);

    fn device() -> Device {
        let spec = TicketSpec {
            endpoints: vec![Endpoint::Address(([192, 0, 2, 1], 1).into())],
            account: "alice@example.com".into(),
            device: DeviceId([1; 16]),
            rights: Rights::default(),
            issued: TODAY,
            expiry: TODAY + Duration::from_secs(86_400),
        };
        let ticket = TicketKey::new(*b"key1", [7; 32]).mint(&spec, &[3; 32]).unwrap();
        Device::new(Arc::new(DeviceConfig::default()), ticket, None, Seed::new([1; 32]), NOW, TODAY)
    }

    /// A minute in 2099, seen over the shortest round trip of all, must not make events look expired afterwards.
    #[test]
    fn a_service_clock_that_was_set_is_believed_at_once() {
        let mut device = device();
        let year_2099 = UnixTime::from_millis(4_070_908_800_000);
        device.learn_clock(NOW, year_2099, Some(Duration::from_millis(1)));
        let later = NOW + Duration::from_secs(25);
        device.learn_clock(later, TODAY, Some(Duration::from_millis(300)));
        assert_eq!(device.service_time(later), TODAY + Duration::from_millis(150));
        // A worse sample that agrees changes nothing.
        device.learn_clock(later, TODAY, Some(Duration::from_millis(900)));
        assert_eq!(device.service_time(later), TODAY + Duration::from_millis(150));
    }

    /// A datagram that wants no acknowledgement is not refused on arrival.
    #[test]
    fn a_flood_of_notifications_stops_at_the_limit_of_the_queue() {
        let mut device = device();
        for serial in 1..=1000 {
            let event = EventRef {
                serial: Serial(serial),
                store: StoreId::INBOUND,
                expiry: UnixTime::from_millis(u64::MAX),
                key: None,
                payload: b"x",
            };
            let notify = Notify {
                told: Serial(serial - 1),
                upto: Serial(serial),
                newest: Serial(serial),
                changed: StoreSet::EMPTY,
                lost: StoreSet::EMPTY,
                service_time: None,
                events: core::iter::once(event),
            };
            let mut message = Vec::new();
            notify.emit(&mut message);
            device.receive_message(NOW, &message, None);
        }
        assert_eq!(device.inbox.received().position, Serial(64));
        assert!(device.poll_notification(NOW).is_some());
    }
}
