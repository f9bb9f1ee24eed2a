//! What SPEC.md demands of a device, asked by a service that was made by hand.

use std::vec;
use std::vec::Vec;

use core::net::SocketAddr;
use core::time::Duration;

use super::exchange::bytes_of;
use super::host::{Host, IDENTIFIER, RESET, SECOND, service};
use super::stranger::unix;
use crate::channel::NotificationKind;
use crate::device::{ConnectionState, DeviceEvent, DisconnectReason, RequestError};
use crate::ids::{Serial, StoreId, StoreSet};
use crate::path::Disposition;
use crate::time::{Instant, UnixTime};
use crate::wire::{AnswerKind, Close, Code, EventRef, Header, Notify, PacketExtension, Step1, emit_answer};

fn secs(s: u64) -> Duration {
    Duration::from_secs(s)
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// When the packets were sent, in milliseconds after `start`.
fn times(start: Instant, packets: &[(Instant, Vec<u8>)]) -> Vec<u64> {
    packets.iter().map(|(at, _)| at.since(start).as_micros() as u64 / 1000).collect()
}

pub(super) fn event(serial: u64, expiry: UnixTime, payload: &[u8]) -> EventRef<'_> {
    EventRef { serial: Serial(serial), store: StoreId::INBOUND, expiry, key: None, payload }
}

/// A Notify after `told` with these events, up to the last of them.
pub(super) fn notify(told: u64, events: &[EventRef<'_>]) -> Vec<u8> {
    let upto = events.last().unwrap().serial;
    let (changed, lost) = (StoreSet::EMPTY, StoreSet::EMPTY);
    let events = events.iter().copied();
    bytes_of(&Notify { told: Serial(told), upto, newest: upto, changed, lost, service_time: None, events })
}

impl Host {
    /// A Notify with one event in one packet.
    pub(super) fn notify(&mut self, serial: u64) -> (Header, Vec<u8>) {
        let header = Header { wanted: true, ..self.header() };
        (header, notify(serial - 1, &[event(serial, unix(self.now) + secs(60), b"payload")]))
    }

    /// The serials of the events that the application is given now.
    pub(super) fn given(&mut self) -> Vec<u64> {
        let mut serials = Vec::new();
        while let Some(notification) = self.device.poll_notification(self.now) {
            if let NotificationKind::Event { serial, .. } = notification.kind {
                serials.push(serial.0);
            }
        }
        serials
    }

    pub(super) fn close(&mut self, code: Code, retry_after: Duration) {
        let header = self.header();
        let close = Close { code, reason: "", retry_after };
        self.send(&header, &[PacketExtension::Close(close)], &[]);
    }

    /// How long the device then waits before it begins an attempt.
    pub(super) fn next_attempt(&mut self) -> Duration {
        let start = self.now;
        self.next().0.since(start)
    }
}

// SPEC: R-step1-same
#[test]
fn step_1_is_sent_again_byte_for_byte() {
    let mut host = Host::new();
    let start = host.now;
    let sent = host.run(ms(10_900));
    assert_eq!(times(start, &sent), [0, 1000, 3000, 7000]);
    assert!(sent.iter().all(|(_, p)| *p == sent[0].1));
    // The next attempt is another one.
    let next = host.run(secs(15));
    assert_ne!(next[0].1, sent[0].1);
}

// SPEC: R-ticket-clock
#[test]
fn a_ticket_is_not_refused_by_the_clock_of_the_device() {
    // Before there were any, a moment after the ticket ends, and in the far future.
    for clock in [0, unix(Instant::ZERO).as_millis() + 86_400_001, 1 << 47] {
        let mut host = Host::at(|_| (), UnixTime::from_millis(clock));
        assert!(host.device.ticket().expiry() > unix(host.now), "it is good");
        host.connect();
        assert_eq!(host.device.state(), ConnectionState::Connected, "{clock}");
        // Nor when the clock is set, nor by a connection that comes after it.
        host.device.set_clock(host.now, UnixTime::from_millis(1 << 60));
        host.close(Code::TIMEOUT, Duration::ZERO);
        assert!(host.run(secs(3)).iter().any(|(_, packet)| packet.starts_with(&[0; 16])), "{clock}");
        assert!(!host.events.iter().any(|e| matches!(e, DeviceEvent::RenewTicket { .. })));
    }
}

// SPEC: R-heartbeat-first
#[test]
fn the_first_data_packet_is_a_heartbeat() {
    let mut host = Host::new();
    let step1 = host.take().remove(0);
    let _ = host.answer(&step1);
    let start = host.now;
    let sent = host.run(secs(10));
    assert_eq!(times(start, &sent), [0, 1000, 3000, 7000]);
    assert!(sent.iter().all(|(_, p)| p.starts_with(&IDENTIFIER)));
    let requests: Vec<_> = sent.iter().map(|(_, p)| host.request(p)).collect();
    assert!(requests[0].is_some() && requests.iter().all(|r| *r == requests[0]), "{requests:?}");
    let numbers: Vec<_> = sent.iter().map(|(_, p)| host.open(p).unwrap().header.number).collect();
    assert_eq!(numbers, [0, 1, 2, 3]);
    assert_eq!(host.device.state(), ConnectionState::Connecting);
    host.status(&sent[3].1);
    assert_eq!(host.device.state(), ConnectionState::Connected);
}

// SPEC: R-hints
#[test]
fn hints_change_nothing() {
    let mut host = Host::new();
    let step1 = host.take().remove(0);
    let handshake = Step1::parse(&step1).unwrap().handshake;
    let hint = |host: &mut Host, kind| {
        let mut packet = Vec::new();
        emit_answer(&mut packet, &handshake, &kind);
        let _ = host.put(&packet);
        host.take()
    };
    for code in [401, 403, 404, 409, 410, 503, 505] {
        let kind = AnswerKind::ClearError { code: Code::new(code), retry_after: secs(86_400) };
        assert!(hint(&mut host, kind).is_empty());
    }
    assert_eq!(host.run(ms(1_000)).len(), 1, "step 1 is sent again as if nothing had been");
    let followed = hint(&mut host, AnswerKind::Defer { challenge: [1; 16] });
    assert_eq!(followed.len(), 1);
    assert_eq!(Step1::parse(&followed[0]).unwrap().echo, Some([1; 16]));
    // It may have been forged: the first step 1 goes on as if it had not been there, and the echo along with it.
    let again: Vec<_> = host.run(ms(2_000)).into_iter().map(|(_, packet)| packet).collect();
    assert_eq!(again, [step1.clone(), followed[0].clone()]);
    // The genuine answer to the first step 1 still counts.
    assert_eq!(host.answer(&step1), Disposition::Accepted);
    let beat = host.take().remove(0);
    host.status(&beat);
    assert_eq!(host.device.state(), ConnectionState::Connected);
    assert!(!host.events.iter().any(|e| matches!(e, DeviceEvent::RenewTicket { .. })));
}

// SPEC: R-answer-source
#[test]
fn an_answer_from_elsewhere_makes_no_connection() {
    let mut host = Host::new();
    let step1 = host.take().remove(0);
    host.service = SocketAddr::from(([203, 0, 113, 66], 15_096));
    let _ = host.answer(&step1);
    assert!(host.take().is_empty());
    host.service = service();
    let _ = host.answer(&step1);
    let beat = host.take().remove(0);
    assert!(host.request(&beat).is_some());
}

// SPEC: R-slow-retry
#[test]
fn a_refused_ticket_is_tried_again_seldom() {
    let mut host = Host::new();
    for (turn, minutes) in [15, 30, 60, 120, 240, 360, 360].into_iter().enumerate() {
        let step1 = host.take().pop().or_else(|| Some(host.run(secs(1)).remove(0).1)).unwrap();
        let _ = host.refuse(&step1, Code::TICKET_EXPIRED);
        assert_eq!(host.take().len(), 0);
        let asked = host.events.iter().filter(|e| matches!(e, DeviceEvent::RenewTicket { .. })).count();
        assert_eq!(asked, turn + 1);
        let at = host.device.poll_timeout().unwrap().at.since(host.now);
        let most = secs(minutes * 60);
        assert!(most * 8 / 10 <= at && at <= most, "{turn}: {at:?}");
        host.now = host.now + at;
        host.device.handle_timeout(host.now);
    }
}

// SPEC: R-superseded-stops, R-retry-after
#[test]
fn close_409_is_final_and_all_others_are_not() {
    let mut host = Host::new();
    host.connect();
    host.close(Code::CONFLICT, Duration::ZERO);
    assert!(host.run(secs(100_000)).is_empty());
    assert!(host.device.is_drained());
    assert_eq!(host.events.last(), Some(&DeviceEvent::Aborted(DisconnectReason::Superseded)));

    for (code, retry_after) in [(408, 0), (503, 0), (503, 30), (599, 7)] {
        let mut host = Host::new();
        host.connect();
        host.close(Code::new(code), secs(retry_after));
        let waited = host.next_attempt();
        assert!(secs(retry_after) <= waited && waited <= secs(retry_after.max(2)), "{code}: {waited:?}");
    }
}

#[test]
fn a_service_that_understands_nothing_is_asked_ever_less_often() {
    let mut host = Host::new();
    host.connect();
    let waits: Vec<_> = (0..8)
        .map(|_| {
            host.close(Code::BAD_REQUEST, Duration::ZERO);
            let start = host.now;
            let (sent, step1) = host.next();
            assert_eq!(host.answer(&step1), Disposition::Accepted);
            let beat = host.take().remove(0);
            host.status(&beat);
            sent.since(start)
        })
        .collect();
    assert!(waits.iter().all(|w| *w <= secs(60)), "{waits:?}");
    assert!(waits[6] >= secs(30), "{waits:?}");
}

// SPEC: R-reset-reconnect
#[test]
fn a_reset_with_the_right_token_makes_it_connect_anew() {
    let mut host = Host::new();
    host.connect();
    let reset = |token: [u8; 16], len: usize| [vec![0xaa; len - 16], token.to_vec()].concat();
    for (token, len) in [([0x98; 16], 40), (RESET, 41), (RESET, 39)] {
        assert_eq!(host.put(&reset(token, len)), Disposition::NotForUs);
    }
    assert_eq!(host.put(&reset(RESET, 40)), Disposition::Accepted);
    assert!(host.next_attempt() <= secs(2));
}

// SPEC: R-dead
#[test]
fn a_service_that_does_not_answer_is_given_up() {
    let mut host = Host::new();
    host.connect();
    host.settle();
    let start = host.now;
    let sent = host.run(secs(40));
    let beats: Vec<_> = sent.iter().filter(|(_, p)| p.starts_with(&IDENTIFIER)).cloned().collect();
    let first = beats[0].0.since(start);
    assert!(ms(22_500) <= first && first <= secs(25), "{first:?}");
    assert_eq!(times(beats[0].0, &beats), [0, 1000, 3000, 7000]);
    let anew = sent.iter().find(|(_, p)| !p.starts_with(&IDENTIFIER)).expect("a new attempt");
    assert_eq!(anew.0.since(beats[0].0), secs(11));
    assert!(host.events.contains(&DeviceEvent::State(ConnectionState::Unacknowledged)));
}

// SPEC: R-jitter, R-new-flow
#[test]
fn heartbeats_come_a_little_early_and_never_late() {
    let mut host = Host::new();
    host.connect();
    host.settle();
    let mut last = host.now;
    let mut intervals = Vec::new();
    for _ in 0..40 {
        let (at, beat) = host.next();
        intervals.push(at.since(last));
        last = at;
        host.status(&beat);
    }
    assert!(intervals.iter().all(|i| ms(22_500) <= *i && *i <= secs(25)), "{intervals:?}");
    assert!(intervals.iter().any(|i| *i < secs(23)) && intervals.iter().any(|i| *i > ms(24_500)));
}

// SPEC: R-duplicate-acked
#[test]
fn a_duplicate_is_acknowledged_again_and_not_delivered() {
    let mut host = Host::new();
    host.connect();
    let (header, message) = host.notify(1);
    host.send(&header, &[], &message);
    assert_eq!(host.given(), [1]);
    assert_eq!(host.acks(), [(1, 1)]);
    for transmission in [0, 1] {
        host.run(secs(1));
        let header = Header { transmission, ..header };
        host.send(&header, &[], &message);
        assert_eq!(host.acks(), [(1, 1)]);
        assert_eq!(host.given(), []);
    }
}

// SPEC: R-kept
#[test]
fn what_there_is_no_room_for_is_not_acknowledged() {
    let mut host = Host::with(|c| c.queue_events = 2);
    host.connect();
    for serial in 1..=2 {
        let (header, message) = host.notify(serial);
        host.send(&header, &[], &message);
        assert_eq!(host.acks(), [(header.number as u32, 1)]);
    }
    let (header, message) = host.notify(3);
    host.send(&header, &[], &message);
    assert_eq!(host.acks(), []);
    assert_eq!(host.given(), [1, 2]);
    assert!(host.take().iter().any(|p| host.request(p).is_some()), "the service is asked to go on");
    host.send(&header, &[], &message);
    assert_eq!(host.acks().last(), Some(&(header.number as u32, 1)));
    assert_eq!(host.given(), [3]);
}

// SPEC: R-ack-delay
#[test]
fn a_part_is_acknowledged_within_25_ms_and_a_hole_or_the_whole_at_once() {
    let mut host = Host::new();
    host.connect();
    let payload = vec![7; 2000];
    let message = notify(0, &[event(1, unix(host.now) + secs(60), &payload)]);
    let fragments: Vec<_> = message.chunks(700).collect();
    assert_eq!(fragments.len(), 3);
    let header = Header { wanted: true, count: 3, ..host.header() };
    let send = |host: &mut Host, index: u8| {
        host.send(&Header { index, ..header }, &[], fragments[usize::from(index)]);
    };
    send(&mut host, 0);
    assert_eq!(host.acks(), []);
    let start = host.now;
    let sent = host.run(ms(30));
    assert_eq!(times(start, &sent), [25]);
    send(&mut host, 2);
    assert_eq!(host.acks(), [(1, 0b101)]);
    send(&mut host, 1);
    assert_eq!(host.acks(), [(1, 0b111)]);
    assert_eq!(host.given(), [1]);
}

// SPEC: R-expired
#[test]
fn an_expired_event_is_not_given_to_the_application() {
    let mut host = Host::new();
    host.connect();
    let header = Header { wanted: true, ..host.header() };
    let now = unix(host.now);
    let message = notify(0, &[event(1, now, b"late"), event(2, now + ms(1), b"in time")]);
    host.send(&header, &[], &message);
    assert_eq!(host.acks(), [(1, 1)]);
    assert_eq!(host.given(), [2]);
    // The application takes its time.
    let (header, message) = host.notify(3);
    host.send(&header, &[], &message);
    host.run(secs(10));
    let (header, message) = host.notify(4);
    host.send(&header, &[], &message);
    host.now = host.now + secs(51);
    assert_eq!(host.given(), [4]);
}

// SPEC: R-request-repeat, R-request-doubt
#[test]
fn a_request_is_repeated_under_its_id_and_then_given_up() {
    let mut host = Host::new();
    host.connect();
    let request = host.device.subscribe(host.now, StoreSet::ALL).unwrap();
    let start = host.now;
    let (mut asked, mut beats) = (Vec::new(), Vec::new());
    while !host.events.iter().any(|e| matches!(e, DeviceEvent::Failed { request: r, .. } if *r == request)) {
        for (at, packet) in host.run(ms(100)) {
            let opened = host.open(&packet).unwrap();
            if opened.ty() == 3 {
                beats.push((at, packet.clone()));
                host.status(&packet);
            } else {
                asked.push((at, opened));
            }
        }
        assert!(host.now.since(start) < secs(24));
    }
    assert!(host.now.since(start) >= secs(23));
    let at: Vec<_> = asked.iter().map(|(at, _)| at.since(start).as_millis()).collect();
    assert_eq!(at, [0, 1000, 3000, 7000, 15_000]);
    assert!(asked.iter().all(|(_, p)| p.fragment == asked[0].1.fragment));
    assert!(asked.windows(2).all(|w| w[0].1.header.number < w[1].1.header.number));
    // Whether the service is there at all, a heartbeat asks, once.
    assert_eq!(times(start, &beats), [3000]);
}

// SPEC: R-endpoint-repeat
#[test]
fn a_question_of_the_endpoint_is_soon_repeated_and_soon_given_up() {
    let mut host = Host::new();
    host.connect();
    host.settle();
    let request = host.device.query_endpoint(host.now).unwrap();
    let start = host.now;
    let sent = host.run(ms(4999));
    assert_eq!(times(start, &sent), [0, 500, 1000, 1500, 2000, 2500, 3000]);
    let opened: Vec<_> = sent.iter().map(|(_, p)| host.open(p).unwrap()).collect();
    assert!(opened.iter().all(|p| p.fragment == opened[0].fragment));
    let failed = DeviceEvent::Failed { request, error: RequestError::TimedOut };
    assert!(!host.events.contains(&failed));
    assert!(host.run(ms(2)).is_empty());
    assert!(host.events.contains(&failed));
}

// SPEC: R-identifier-reissued
#[test]
fn replays_do_not_wear_out_identifiers() {
    let mut host = Host::new();
    host.connect();
    let (header, message) = host.notify(1);
    let old = host.seal(&header, &[], &message);
    let _ = host.put(&old);
    host.own.remove(0);
    for serial in 2..40 {
        let (header, message) = host.notify(serial);
        host.send(&header, &[], &message);
        let _ = host.put(&old);
        host.take();
    }
    assert_eq!(host.given().len(), 39);
}

// SPEC: R-challenge-answered
#[test]
fn a_challenge_is_answered_at_once_in_a_datagram_of_its_own() {
    let mut host = Host::new();
    host.connect();
    for challenge in [[1; 8], [2; 8]] {
        let header = host.header();
        host.send(&header, &[PacketExtension::PathChallenge(challenge)], &[]);
        let sent = host.take();
        assert_eq!(sent.len(), 1);
        let opened = host.open(&sent[0]).unwrap();
        assert_eq!((opened.response, opened.ty()), (Some(challenge), 0));
    }
}

// SPEC: R-network-change, R-identifier-reissued
#[test]
fn on_another_network_the_connection_goes_on_under_other_identifiers() {
    let mut host = Host::new();
    host.connect();
    host.run(secs(3));
    host.device.handle_network_change(host.now, None);
    let sent = host.take();
    assert_eq!(sent.len(), 1);
    assert!(sent[0].starts_with(&SECOND) && sent[0].len() == 1200);
    assert!(host.request(&sent[0]).is_some(), "a Heartbeat");
    assert!(host.open(&sent[0]).unwrap().identifiers.is_empty());
    // The service uses another identifier of the device, and gets a fresh one for it.
    let first = host.own.remove(0);
    host.status(&sent[0]);
    let (header, message) = host.notify(1);
    host.send(&header, &[], &message);
    let sent = host.take();
    let issued = host.open(&sent[0]).unwrap().identifiers;
    assert!(issued.len() == 8 && issued != first && !host.own.concat().chunks(8).any(|own| own == issued));
    assert_eq!(host.device.state(), ConnectionState::Connected);
    host.own = vec![issued.try_into().unwrap()];
    let (header, message) = host.notify(2);
    host.send(&header, &[], &message);
    assert_eq!(host.given(), [1, 2]);
}
