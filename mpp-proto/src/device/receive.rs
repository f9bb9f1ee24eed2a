//! What comes in.

use core::time::Duration;

use bytes::Bytes;

use super::attempt::{Agreed, Answered};
use super::connection::{Connection, Fragment};
use super::event::{Connected, DeviceEvent, DisconnectReason, RequestError};
use super::requests::Ask;
use super::resume::Anchor;
use super::{ConnectionState, Device, Phase, RESET_SPREAD, SLOW_RETRY, ServiceClock, back_off};
use crate::channel::{CollapseKey, NotificationKind};
use crate::ids::{Epoch, Serial};
use crate::path::{Datagram, Disposition, DropReason, Path};
use crate::rud::replay::Seen;
use crate::time::{Calendar, Instant, UnixTime};
use crate::wire::{
    Close, Code, Direction, Events, Header, Message, Notify, PacketExtension, Status, StoreStatuses,
    parse_plaintext, reset_token,
};

/// A sample of the service's clock is replaced by a worse one after this time.
const CLOCK_AGE: Duration = Duration::from_secs(600);
/// By so much two samples of one clock may disagree beyond what their round trips explain: its rate, and its keeper's
/// small corrections. More says that the clock was set, and then the older sample is worth nothing.
const CLOCK_DRIFT: Duration = Duration::from_secs(2);
/// A service can send a device away for this long at most: one that is mistaken must not silence it.
const MAX_RETRY_AFTER: Duration = SLOW_RETRY.1;

impl Device {
    pub(super) fn receive(&mut self, now: Instant, datagram: Datagram<'_>) -> Disposition {
        let size = datagram.payload.len() as u64;
        let disposition = match &self.phase {
            Phase::Attempting(attempt) if attempt.recognizes(datagram.payload) => {
                self.receive_answer(now, datagram)
            }
            Phase::Connected(c) | Phase::Closing { connection: c, .. } if c.recognizes(datagram.payload) => {
                self.receive_data(now, datagram)
            }
            Phase::Connected(c) if reset_token(datagram.payload).is_some_and(|token| c.is_reset(token)) => {
                let wait = self.rng.duration(Duration::ZERO, RESET_SPREAD);
                self.disconnect(now, DisconnectReason::Reset, now + wait);
                Disposition::Accepted
            }
            Phase::Waiting(_)
            | Phase::Attempting(_)
            | Phase::Connected(_)
            | Phase::Closing { .. }
            | Phase::Closed => Disposition::NotForUs,
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

    fn receive_answer(&mut self, now: Instant, datagram: Datagram<'_>) -> Disposition {
        let Datagram { path, payload } = datagram;
        let Phase::Attempting(attempt) = &mut self.phase else { return Disposition::NotForUs };
        match attempt.handle_answer(now, &self.ticket, path.remote, payload) {
            Answered::Nothing => Disposition::Dropped(DropReason::Unauthentic),
            Answered::Deferred => Disposition::Accepted,
            Answered::Hint(code) => {
                self.push(DeviceEvent::Hint { code, from: path.remote });
                Disposition::Accepted
            }
            Answered::Refused { code, retry_after, serial } => {
                self.refused(now, code, retry_after, serial);
                Disposition::Accepted
            }
            Answered::Complete(agreed) => {
                self.agreed(now, *agreed, path);
                Disposition::Accepted
            }
        }
    }

    /// An authentic refusal of the attempt.
    fn refused(&mut self, now: Instant, code: Code, retry_after: Duration, serial: Option<u64>) {
        let retry_after = retry_after.min(MAX_RETRY_AFTER);
        match code {
            // The clock went back, or another device has this name: go on from the serial that the service knows.
            Code::CONFLICT => {
                self.connect_serial = self.connect_serial.max(serial.unwrap_or(0));
                let wait = self.rng.duration(Duration::ZERO, Duration::from_secs(1 << self.failures.min(6)));
                self.failures = self.failures.saturating_add(1);
                self.retry(now + wait.max(retry_after));
            }
            Code::UNAUTHORIZED | Code::FORBIDDEN | Code::UNKNOWN_ACCOUNT | Code::TICKET_EXPIRED => {
                let wait = SLOW_RETRY.0.saturating_mul(1 << self.refusals.min(5)).min(SLOW_RETRY.1);
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

    /// An authentic answer: there are keys now. The first data packet from the service will confirm them.
    fn agreed(&mut self, now: Instant, mut agreed: Agreed, path: Path) {
        let epoch_before = self.inbox.received().epoch;
        let covered = agreed.proposal.filter;
        let (position, lost) = if agreed.epoch == epoch_before {
            (self.inbox.received().position, agreed.lost)
        } else if epoch_before == Epoch::NONE {
            (Serial::ZERO, agreed.lost)
        } else {
            // A new history loses all that was subscribed to, also if the service should forget to say so.
            (Serial::ZERO, agreed.lost.union(covered))
        };
        agreed.proposal.position = position;
        let facts = Facts {
            anchor: Anchor { epoch: agreed.epoch, position, covered },
            connected: Connected {
                recovered: lost.is_empty(),
                lost,
                newest: agreed.newest,
                service: path.remote,
                observed: agreed.endpoint.unwrap_or(path.remote),
                forward_secret: agreed.forward_secret,
                took: now.since(agreed.started),
            },
        };
        self.learn_clock(now, agreed.service_time, agreed.round_trip);
        self.facts = Some(facts);
        self.phase = Phase::Connected(Connection::new(now, agreed, path.link, path.remote));
    }

    /// The service has shown that it has the keys too.
    fn confirmed(&mut self, now: Instant) {
        let Some(Facts { mut anchor, connected }) = self.facts.take() else { return };
        let subscribed = self.requests.restart(now, anchor.covered);
        anchor.covered = self.requests.narrowed(anchor.covered);
        self.failures = 0;
        self.refusals = 0;
        self.stats.connects += 1;
        let before = *self.inbox.received();
        if !connected.lost.is_empty() {
            self.inbox.push(Some(NotificationKind::Gap(connected.lost)), anchor);
        } else if anchor != before {
            self.inbox.push(None, anchor);
        }
        for request in subscribed {
            self.push(DeviceEvent::Subscribed { request, newest: connected.newest });
        }
        self.set_state(ConnectionState::Connected);
        self.push(DeviceEvent::Connected(connected));
        self.observe(connected.observed);
    }

    fn receive_data(&mut self, now: Instant, datagram: Datagram<'_>) -> Disposition {
        let Datagram { payload, .. } = datagram;
        let (Phase::Connected(connection) | Phase::Closing { connection, .. }) = &mut self.phase else {
            return Disposition::NotForUs;
        };
        let Some(opened) = connection.open(payload) else {
            return Disposition::Dropped(DropReason::Unauthentic);
        };
        // A copy that was carried to another transport does nothing.
        if opened.header.web {
            return Disposition::Accepted;
        }
        // Not for a replay: turn and turn about with genuine packets it would push out the identifiers in use.
        if connection.judge(&opened.header) == Seen::New {
            connection.note_identifier(payload, &mut self.rng);
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
        self.receive_authentic(now, &opened.header, plaintext);
        Disposition::Accepted
    }

    fn receive_authentic(&mut self, now: Instant, header: &Header, plaintext: &[u8]) {
        let Phase::Connected(connection) = &mut self.phase else { return };
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
        connection.heard = now;
        if !connection.confirmed {
            connection.confirmed = true;
            self.confirmed(now);
        }
        for extension in plaintext.extensions {
            let Phase::Connected(connection) = &mut self.phase else { return };
            match extension {
                PacketExtension::Close(close) => return self.closed_by_service(now, &close),
                PacketExtension::PathChallenge(challenge) => connection.challenged(challenge),
                PacketExtension::Identifiers(value) => connection.add_identifiers(value),
                // Only a service asks whether a path is there.
                PacketExtension::PathResponse(_) => {}
            }
        }
        self.receive_fragment(now, header, plaintext.fragment);
    }

    fn receive_fragment(&mut self, now: Instant, header: &Header, fragment: &[u8]) {
        let Phase::Connected(connection) = &mut self.phase else { return };
        // What the application has no room for is not kept, so the service goes on owing it.
        let last = header.count == 1 || connection.would_complete(header);
        if header.wanted && last && !self.inbox.has_room() {
            self.stats.refused += 1;
            return;
        }
        if header.count == 1 {
            connection.keep(header);
            connection.want_ack(now, header, false);
            if !fragment.is_empty() {
                self.receive_message(now, fragment);
            }
            return;
        }
        match connection.keep_fragment(now, header, fragment) {
            Fragment::Inconsistent => self.protocol_error(now),
            Fragment::Partial if connection.judge(header) == Seen::New => self.stats.refused += 1,
            Fragment::Partial => connection.want_ack(now, header, false),
            Fragment::Complete(message) => {
                connection.want_ack(now, header, false);
                self.receive_message(now, &message);
                if let Phase::Connected(connection) = &mut self.phase {
                    connection.reuse(message);
                }
            }
        }
    }

    /// A complete message.
    fn receive_message(&mut self, now: Instant, message: &[u8]) {
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
                if self.requests.take(response.request).is_some() {
                    let (request, endpoint) = (response.request, response.endpoint);
                    self.push(DeviceEvent::Endpoint { request, endpoint });
                }
            }
            Message::Failure(failure) => {
                if self.requests.take(failure.request).is_some() {
                    let retry_after = (!failure.retry_after.is_zero()).then_some(failure.retry_after);
                    let error = RequestError::Refused { code: failure.code, retry_after };
                    self.push(DeviceEvent::Failed { request: failure.request, error });
                }
            }
            // Of a later profile.
            Message::Unknown { .. } => {}
            _ => self.protocol_error(now),
        }
    }

    fn receive_status(&mut self, now: Instant, status: &Status<StoreStatuses<'_>>) {
        let Phase::Connected(connection) = &mut self.phase else { return };
        if let Some(request) = status.request
            && let Some(round_trip) = connection.answered(now, request, &mut self.rng)
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

    fn receive_notify(&mut self, now: Instant, notify: &Notify<Events<'_>>) {
        let received = *self.inbox.received();
        if notify.told > received.position {
            // The service believes that more has arrived than has. The mark in a heartbeat puts that right.
            if let Phase::Connected(connection) = &mut self.phase {
                connection.beat_now(now);
            }
            return;
        }
        // One that wanted no acknowledgement was not refused before.
        if !self.inbox.has_room() {
            self.stats.refused += 1;
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
        let unix = self.service_time(now);
        for event in notify.events {
            if event.serial <= received.position {
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
            self.inbox.push(Some(kind), Anchor { position: event.serial, ..received });
        }
        if *self.inbox.received() != end {
            self.inbox.push(None, end);
            self.position_moved(now);
        }
    }

    /// The service sent what the protocol does not allow.
    fn protocol_error(&mut self, now: Instant) {
        let wait = self.after_misunderstanding();
        self.disconnect(now, DisconnectReason::ProtocolError, now + wait);
    }

    /// How long to wait after one side did not understand the other: that does not get better by hurrying, and a
    /// connection in between does not show that it has.
    fn after_misunderstanding(&mut self) -> Duration {
        self.misunderstandings = self.misunderstandings.saturating_add(1);
        let cap = back_off(self.misunderstandings);
        self.rng.duration(cap / 2, cap)
    }

    fn closed_by_service(&mut self, now: Instant, close: &Close<'_>) {
        let reason = DisconnectReason::ByService(close.code);
        let retry_after = close.retry_after.min(MAX_RETRY_AFTER);
        match close.code {
            // Another connection of this device: two that fight would take turns for ever.
            Code::CONFLICT => {
                self.phase = Phase::Closed;
                self.finish(DisconnectReason::Superseded);
            }
            Code::UNAUTHORIZED | Code::FORBIDDEN | Code::UNKNOWN_ACCOUNT | Code::TICKET_EXPIRED => {
                self.push(DeviceEvent::RenewTicket { code: close.code });
                let wait = self.rng.fraction(800, 1000, SLOW_RETRY.0).max(retry_after);
                self.disconnect(now, reason, now + wait);
            }
            Code::BAD_REQUEST => {
                let wait = self.after_misunderstanding().max(retry_after);
                self.disconnect(now, reason, now + wait);
            }
            _ => {
                let wait = self.rng.duration(Duration::ZERO, RESET_SPREAD).max(retry_after);
                self.disconnect(now, reason, now + wait);
            }
        }
    }

    /// Without a known round trip the sample is taken as a lower bound, so that no event is dropped too early.
    fn learn_clock(&mut self, now: Instant, service_time: UnixTime, round_trip: Option<Duration>) {
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

    /// What time it is at the service, by whose clock events expire.
    pub(super) fn service_time(&self, now: Instant) -> UnixTime {
        self.service_clock.map_or(UnixTime::EPOCH, |clock| clock.calendar.unix(now))
    }
}

/// What an exchange said, until the connection is confirmed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Facts {
    anchor: Anchor,
    connected: Connected,
}

#[cfg(test)]
mod tests {
    use alloc::sync::Arc;
    use alloc::vec;
    use alloc::vec::Vec;

    use super::*;
    use crate::crypto::TicketKey;
    use crate::ids::{DeviceId, Rights, StoreId, StoreSet};
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
                events: core::iter::once(event),
            };
            let mut message = Vec::new();
            notify.emit(&mut message);
            device.receive_message(NOW, &message);
        }
        assert_eq!(device.inbox.received().position, Serial(64));
        assert!(device.poll_notification(NOW).is_some());
    }
}
