//! A device that changes between UDP and the Web, held to SPEC.md.

use std::vec;
use std::vec::Vec;

use core::time::Duration;

use bytes::Bytes;

use super::device::{event, notify};
use super::exchange::bytes_of;
use super::host::{Asked, Host};
use crate::channel::Event;
use crate::device::{ConnectionState, DeviceEvent, Transport, WebAnswer, WebRequestId};
use crate::ids::{RequestId, Serial, StoreId};
use crate::path::DropReason;
use crate::time::{Instant, UnixTime};
use crate::wire::{AnswerKind, Code, EndpointResponse, Header, Message, Posted, Step1, emit_answer};

pub(super) fn secs(s: u64) -> Duration {
    Duration::from_secs(s)
}

/// The body of an answer.
pub(super) fn body(packets: &[Vec<u8>]) -> Vec<u8> {
    packets.iter().flat_map(|p| [&(p.len() as u16).to_be_bytes()[..], p].concat()).collect()
}

/// Whether a packet is step 1.
fn is_step1(packet: &[u8]) -> bool {
    packet.starts_with(&[0; 16])
}

impl Host {
    pub(super) fn with_web() -> Self {
        let mut host = Self::new();
        host.has_web = true;
        host
    }

    /// The Web request that the device makes next, within this time. What it sends by UDP gets lost.
    pub(super) fn post_within(&mut self, time: Duration) -> Asked {
        self.try_post(time).expect("a request")
    }

    pub(super) fn try_post(&mut self, time: Duration) -> Option<Asked> {
        let end = self.now + time;
        loop {
            self.take();
            if !self.posts.is_empty() {
                return Some(self.posts.remove(0));
            }
            let at = self.device.poll_timeout().map(|w| w.at).filter(|at| *at <= end)?;
            self.now = at.max(self.now);
        }
    }

    pub(super) fn web_answer(&mut self, asked: &Asked, packets: &[Vec<u8>]) {
        let mut body = body(packets);
        self.device.handle_web_answer(self.now, asked.id, WebAnswer::Packets(&mut body));
    }

    pub(super) fn web_failed(&mut self, asked: &Asked) {
        self.device.handle_web_answer(self.now, asked.id, WebAnswer::Failed);
    }

    pub(super) fn web_refused(&mut self, asked: &Asked, status: u16, retry_after: Option<Duration>) {
        self.device.handle_web_answer(self.now, asked.id, WebAnswer::Refused { status, retry_after });
    }

    /// A packet with this message, sent by Web.
    fn by_web(&mut self, message: &[u8]) -> Vec<u8> {
        let header = Header { web: true, ..self.header() };
        self.seal(&header, &[], message)
    }

    pub(super) fn status_by_web(&mut self, asked: &Asked) -> Vec<u8> {
        let status = self.status_to(&asked.packet);
        self.by_web(&status)
    }

    /// Connects it by Web; returns its first request that waits.
    pub(super) fn connect_by_web(&mut self) -> Asked {
        let step1 = self.post_within(secs(4));
        let answer = self.answer_to(&step1.packet);
        self.web_answer(&step1, &[answer]);
        let beat = self.post_within(secs(0));
        assert_eq!(beat.wait, None, "what confirms the keys does not wait");
        let status = self.status_by_web(&beat);
        self.web_answer(&beat, &[status]);
        assert_eq!(self.device.state(), ConnectionState::Connected);
        self.post_within(secs(0))
    }

    /// Lets the service hold a request to its end.
    fn hold(&mut self, asked: &Asked) {
        let end = asked.at + asked.wait.expect("it waits");
        assert_eq!(self.run(end.since(self.now)), [], "nothing is sent meanwhile");
        assert_eq!(self.posts.len(), 0);
        let status = self.status_by_web(asked);
        self.web_answer(asked, &[status]);
    }

    fn transports(&mut self) -> Vec<Transport> {
        // Its events are taken with what it sends.
        assert_eq!(self.take(), Vec::<Vec<u8>>::new());
        let of = |e: &DeviceEvent| match e {
            DeviceEvent::Transport(transport) => Some(*transport),
            _ => None,
        };
        self.events.iter().filter_map(of).collect()
    }
}

// SPEC: R-web-after-silence
#[test]
fn three_seconds_of_silence_and_the_web_is_tried_too() {
    let mut host = Host::with_web();
    let start = host.now;
    let by_udp = host.run(secs(11) - Duration::from_millis(1));
    assert_eq!(by_udp.iter().map(|(at, _)| at.since(start).as_secs()).collect::<Vec<_>>(), [0, 1, 3, 7]);
    let post = host.posts.remove(0);
    assert_eq!((post.at.since(start), post.wait, &*post.base), (secs(3), None, "http://192.0.2.1:15097"));
    let (udp, web) = (Step1::parse(&by_udp[0].1).unwrap(), Step1::parse(&post.packet).unwrap());
    assert!(web.web && !udp.web, "each says how it was sent");
    assert_eq!((web.handshake, web.random, web.token), (udp.handshake, udp.random, udp.token));
    assert_eq!(host.connect_serial(&post.packet), host.connect_serial(&by_udp[0].1));
    assert_eq!(post.packet.len(), 1200);
    assert_eq!(host.device.transport(), Transport::Udp);
    assert_eq!(host.posts.len(), 0, "one request, until its end is known");
}

// SPEC: R-web-race
#[test]
fn the_first_to_complete_wins() {
    // The Web does: from then on everything goes by Web.
    let mut host = Host::with_web();
    let waiting = host.connect_by_web();
    assert_eq!(host.transports(), [Transport::Web]);
    assert_eq!(host.device.transport(), Transport::Web);
    assert!(host.events.iter().any(|e| matches!(e, DeviceEvent::Connected(c) if c.service.is_none())));
    assert!(host.open(&waiting.packet).unwrap().header.web);
    assert_eq!(host.run(secs(40)), []);

    // UDP does: the answer by Web comes too late, and is nothing.
    let mut host = Host::with_web();
    let step1 = host.take().remove(0);
    let post = host.post_within(secs(4));
    let late = host.answer_to(&post.packet);
    assert!(host.answer(&step1) == crate::path::Disposition::Accepted);
    let beat = host.take().remove(0);
    host.status(&beat);
    host.web_answer(&post, &[late]);
    assert_eq!((host.device.state(), host.device.transport()), (ConnectionState::Connected, Transport::Udp));
    assert_eq!(host.transports(), []);
    assert_eq!(host.posts.len(), 0);
}

// SPEC: R-web-copies
#[test]
fn a_copy_on_the_other_transport_does_nothing() {
    let mut host = Host::with_web();
    let step1 = host.take().remove(0);
    let post = host.post_within(secs(4));
    // What answers the one step 1 comes by the other way.
    let of_web = host.answer_to(&post.packet);
    let _ = host.put(&of_web);
    let of_udp = host.answer_to(&step1);
    host.web_answer(&post, &[of_udp]);
    assert!(host.take().is_empty() && host.posts.is_empty());
    assert_eq!(host.device.stats().packets_received, 0);

    let post = host.post_within(secs(4));
    let answer = host.answer_to(&post.packet);
    host.web_answer(&post, &[answer]);
    let beat = host.post_within(secs(0));
    let status = host.status_to(&beat.packet);
    // As if sent by UDP, in an answer; and as if sent by Web, in a datagram.
    let header = host.header();
    let by_udp = host.seal(&header, &[], &status);
    let by_web = host.by_web(&status);
    let _ = host.put(&by_web);
    host.web_answer(&beat, &[by_udp]);
    assert_eq!(host.device.state(), ConnectionState::Connecting);
    assert_eq!(host.device.stats().dropped_for(DropReason::OtherTransport), 2);
    // Nor has either been taken for seen: it counts where it belongs.
    let beat = host.post_within(secs(4));
    host.web_answer(&beat, &[by_web]);
    assert_eq!(host.device.state(), ConnectionState::Connected);
}

// SPEC: R-web-heartbeat
#[test]
fn the_requests_that_wait_are_the_heartbeats_and_nothing_else_wakes_the_device() {
    let mut host = Host::with_web();
    let mut waiting = host.connect_by_web();
    let beats = host.device.stats().heartbeats;
    // Its UDP is not tried in the meantime, so that only the requests are seen.
    for round in 0..1 {
        assert!((45..=50).contains(&waiting.wait.unwrap().as_secs()), "{waiting:?}");
        assert!(matches!(host.open(&waiting.packet), Some(p) if p.ty() == 3), "a heartbeat");
        let first = host.device.poll_timeout().unwrap().at;
        assert!(first >= waiting.at + waiting.wait.unwrap(), "{round}: {first:?}");
        host.hold(&waiting);
        waiting = host.post_within(secs(0));
    }
    assert_eq!(host.device.stats().heartbeats, beats + 1);
    assert_eq!(host.device.state(), ConnectionState::Connected);
}

#[test]
fn a_notification_is_acknowledged_by_the_request_that_waits_next() {
    let mut host = Host::with_web();
    let waiting = host.connect_by_web();
    host.now = host.now + secs(7);
    let header = Header { web: true, wanted: true, ..host.header() };
    let message = notify(0, &[event(1, UnixTime::from_millis(u64::MAX), b"x")]);
    let packet = host.seal(&header, &[], &message);
    host.web_answer(&waiting, &[packet]);
    assert_eq!(host.given(), [1]);
    assert!(host.device.poll_notification(host.now).is_none(), "it has dealt with it");
    let next = host.post_within(secs(1));
    assert!(next.wait.is_some() && next.at.since(host.now) <= Duration::from_millis(25));
    let opened = host.open(&next.packet).unwrap();
    assert_eq!(opened.header.ack.map(|a| (u64::from(a.number_low), a.bitmap)), Some((header.number, 1)));
    match Message::parse(&opened.fragment).unwrap() {
        Message::Heartbeat(beat) => assert_eq!((beat.mark, beat.position), (Serial(1), Serial(1))),
        other => panic!("{other:?}"),
    }
    assert!(host.try_post(secs(5)).is_none(), "and nothing more is said");
}

// SPEC: R-web-cut
#[test]
fn it_stays_connected_behind_a_proxy_that_cuts_after_thirty_seconds() {
    let mut host = Host::with_web();
    let mut waiting = host.connect_by_web();
    let (start, mut cuts) = (host.now, 0);
    while host.now < start + secs(3600) {
        let wait = waiting.wait.expect("it waits");
        host.posts.clear();
        if wait > secs(30) {
            cuts += 1;
            host.run(secs(30));
            host.posts.clear();
            match cuts % 2 {
                0 => host.web_failed(&waiting),
                _ => host.web_refused(&waiting, 504, None),
            }
        } else {
            host.run(wait);
            let status = host.status_by_web(&waiting);
            host.web_answer(&waiting, &[status]);
        }
        let at = host.now;
        waiting = host.post_within(secs(1));
        // Step 1 by UDP has its own ways.
        assert!(waiting.at.since(at) <= Duration::from_millis(1), "at once");
        assert_eq!(host.device.state(), ConnectionState::Connected);
    }
    assert!((1..=4).contains(&cuts), "{cuts}");
    assert!(!host.events.iter().any(|e| matches!(e, DeviceEvent::State(ConnectionState::Unacknowledged))));
}

// SPEC: R-web-hints
#[test]
fn whatever_the_web_says_the_device_goes_on() {
    for status in [400, 403, 404, 413, 429, 500, 503] {
        let mut host = Host::with_web();
        let start = host.now;
        let (mut asked, mut by_udp) = (0, 0);
        while host.now < start + secs(600) {
            let sent = host.run(secs(1));
            by_udp += sent.iter().filter(|(_, p)| is_step1(p)).count();
            for post in core::mem::take(&mut host.posts) {
                asked += 1;
                host.web_refused(&post, status, Some(secs(86_400)));
            }
        }
        assert!((7..=60).contains(&asked), "{status}: {asked} requests in ten minutes");
        assert!(by_udp >= 30, "{status}: {by_udp} times by UDP");
        assert!(!host.events.iter().any(|e| matches!(e, DeviceEvent::RenewTicket { .. })));
        // The next one that is answered by the service counts as if nothing had been.
        let post = host.post_within(secs(140));
        let answer = host.answer_to(&post.packet);
        host.web_answer(&post, &[answer]);
        let beat = host.post_within(secs(0));
        let status = host.status_by_web(&beat);
        host.web_answer(&beat, &[status]);
        assert_eq!(host.device.state(), ConnectionState::Connected);
    }
}

/// A Defer or an Error in clear may come from anybody on the way.
#[test]
fn hints_in_an_answer_are_nothing() {
    let mut host = Host::with_web();
    let post = host.post_within(secs(4));
    let handshake = Step1::parse(&post.packet).unwrap().handshake;
    let kinds = [
        AnswerKind::Defer { challenge: [1; 16] },
        AnswerKind::ClearError { code: Code::UNAUTHORIZED, retry_after: secs(86_400) },
    ];
    let packets = kinds.map(|kind| bytes_with(|out| emit_answer(out, &handshake, &kind)));
    host.web_answer(&post, &packets);
    assert!(host.take().is_empty());
    assert!(!host.events.iter().any(|e| matches!(e, DeviceEvent::Hint { .. })));
    let again = host.post_within(secs(2));
    assert_eq!(again.packet, post.packet, "byte for byte");
}

fn bytes_with(write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::new();
    write(&mut out);
    out
}

// SPEC: R-web-no-spin
#[test]
fn a_service_that_holds_nothing_does_not_make_it_spin() {
    let mut host = Host::with_web();
    let mut waiting = host.connect_by_web();
    let start = host.now;
    let mut asked = 0;
    while host.now < start + secs(300) && asked < 1000 {
        let status = host.status_by_web(&waiting);
        host.web_answer(&waiting, &[status]);
        waiting = host.post_within(secs(30));
        asked += 1;
    }
    assert!((10..=40).contains(&asked), "{asked} requests in five minutes");
    assert_eq!(host.device.state(), ConnectionState::Connected);
    // One that is held ends that.
    host.posts.clear();
    host.run(waiting.wait.unwrap());
    host.posts.clear();
    let status = host.status_by_web(&waiting);
    host.web_answer(&waiting, &[status]);
    assert!(host.post_within(secs(0)).wait.is_some());
}

/// What the application has no room for comes again with each answer, as nobody has acknowledged it.
#[test]
fn an_application_that_takes_nothing_does_not_make_it_spin() {
    let mut host = Host::with_web();
    let mut waiting = host.connect_by_web();
    let serial = |serial| event(serial, UnixTime::from_millis(u64::MAX), b"x");
    let send = |host: &mut Host, at: u64| {
        let header = Header { web: true, wanted: true, ..host.header() };
        let message = notify(at - 1, &[serial(at)]);
        host.seal(&header, &[], &message)
    };
    for at in 1..=64 {
        let packet = send(&mut host, at);
        host.web_answer(&waiting, &[packet]);
        waiting = host.post_within(secs(1));
    }
    let (start, mut asked) = (host.now, 0);
    while host.now < start + secs(300) && asked < 1000 {
        let packet = send(&mut host, 65);
        host.web_answer(&waiting, &[packet]);
        waiting = host.post_within(secs(30));
        asked += 1;
    }
    assert!((10..=40).contains(&asked), "{asked} requests in five minutes");
    // Room again: that is said at once.
    let packet = send(&mut host, 65);
    host.web_answer(&waiting, &[packet]);
    assert_eq!(host.given().len(), 64);
    assert!(host.post_within(secs(0)).wait.is_some());
}

// SPEC: R-udp-again
#[test]
fn udp_is_tried_again_and_used_when_it_answers() {
    let mut host = Host::with_web();
    let waiting = host.connect_by_web();
    let (start, side) = (host.now, &mut host.side());
    let mut sent = host.run(secs(60));
    host.posts.clear();
    assert!(sent.iter().all(|(_, p)| is_step1(p) && !Step1::parse(p).unwrap().web));
    let (at, step1) = sent.remove(0);
    assert!((54..=60).contains(&at.since(start).as_secs()), "{at:?}");
    // Meanwhile the connection goes on.
    let status = host.over(side, |host| host.status_by_web(&waiting));
    host.web_answer(&waiting, &[status]);
    let waiting = host.post_within(secs(0));
    assert_eq!(host.answer(&step1), crate::path::Disposition::Accepted);
    let beat = host.take().remove(0);
    assert!(!host.open(&beat).unwrap().header.web);
    host.status(&beat);
    assert_eq!(host.transports(), [Transport::Web, Transport::Udp]);
    assert!(
        host.events.iter().any(|e| matches!(e, DeviceEvent::KeysRenewed(_))),
        "for people nothing was interrupted"
    );
    assert!(!host.events.iter().any(|e| matches!(e, DeviceEvent::Disconnected { .. })));
    // The request that waits ends with nothing, and no other follows.
    host.web_answer(&waiting, &[]);
    host.settle();
    assert!(host.try_post(secs(20)).is_none());
    // Where nobody answers it is tried ever more rarely, and once more on another network.
    let mut host = Host::with_web();
    let mut waiting = host.connect_by_web();
    let (start, mut tried) = (host.now, Vec::<Instant>::new());
    while host.now < start + secs(2 * 3600) {
        let sent = host.run(waiting.wait.unwrap());
        let begun = sent.iter().find(|(_, p)| is_step1(p)).map(|(at, _)| *at);
        tried.extend(begun.filter(|at| tried.last().is_none_or(|last| at.since(*last) > secs(15))));
        let status = host.status_by_web(&waiting);
        host.web_answer(&waiting, &[status]);
        waiting = host.post_within(secs(1));
    }
    assert!((9..=16).contains(&tried.len()), "{tried:?}");
    host.device.handle_network_change(host.now, None);
    let sent = host.take();
    assert!(sent.iter().any(|p| is_step1(p)), "UDP at once");
    assert!(host.posts.iter().any(|p| p.wait.is_some()), "and the Web goes on");
}

// SPEC: R-udp-look
#[test]
fn a_small_packet_looks_whether_udp_is_back() {
    let mut host = Host::with_web();
    let mut waiting = host.connect_by_web();
    let (mut looks, mut last, mut tried) = (0, host.now, false);
    let look = loop {
        // The request that waits is held to its end.
        let mut sent = host.run((waiting.at + waiting.wait.unwrap()).since(host.now));
        let status = host.status_by_web(&waiting);
        host.web_answer(&waiting, &[status]);
        sent.extend(host.run(Duration::ZERO));
        waiting = host.posts.pop().unwrap();
        for (at, packet) in &sent {
            if is_step1(packet) {
                (tried, last) = (true, *at);
                continue;
            }
            assert!(tried, "the first trial comes as soon");
            assert!(at.since(last) <= secs(60), "{:?} after the one before", at.since(last));
            assert!(packet.len() <= 100 && question(&host, packet).is_some());
            assert!(!host.open(packet).unwrap().header.web);
            (looks, last) = (looks + 1, *at);
        }
        if looks >= 20
            && let Some((_, look)) = sent.pop_if(|(_, p)| !is_step1(p))
        {
            break look;
        }
    };
    // Copied to where it is not from, and as it is; the application hears nothing of it.
    let endpoint = "198.51.100.1:4444".parse().unwrap();
    let answer =
        bytes_of(&EndpointResponse { request: question(&host, &look).unwrap(), endpoint, echo: None });
    let header = host.header();
    let answer = host.seal(&header, &[], &answer);
    host.web_answer(&waiting, core::slice::from_ref(&answer));
    assert!(!host.take().iter().any(|p| is_step1(p)), "by Web it says nothing");
    assert_eq!(host.put_asked(&answer), crate::path::Disposition::Accepted);
    assert!(host.take().iter().any(|p| is_step1(p)), "a trial at once");
    assert!(!host.events.iter().any(|e| matches!(e, DeviceEvent::Endpoint { .. })));
}

/// What is asked in an EndpointRequest of the device's.
fn question(host: &Host, packet: &[u8]) -> Option<RequestId> {
    match Message::parse(&host.open(packet)?.fragment) {
        Ok(Message::EndpointRequest(asked)) => Some(asked.request),
        _ => None,
    }
}

/// The way by Web is in trouble: what comes over another socket does not end the search for one that works.
#[test]
fn an_answer_over_another_socket_says_nothing_of_the_connection() {
    let mut host = Host::with_web();
    let mut waiting = host.connect_by_web();
    let asked = host.device.query_endpoint_at(host.now, super::host::service()).unwrap();
    let question = host.take().remove(0);
    for _ in 0..2 {
        host.web_failed(&waiting);
        waiting = host.post_within(secs(5));
    }
    assert_eq!(host.device.state(), ConnectionState::Unacknowledged);
    assert!(is_step1(&waiting.packet), "another connection is tried for");
    let endpoint = "198.51.100.1:4444".parse().unwrap();
    let answer = bytes_of(&EndpointResponse { request: asked, endpoint, echo: None });
    let header = host.header();
    let answer = host.seal(&header, &[], &answer);
    assert_eq!(host.put_asked(&answer), crate::path::Disposition::Accepted);
    assert!(self::question(&host, &question).is_some());
    assert_eq!(host.device.state(), ConnectionState::Unacknowledged);
    assert!(host.run(secs(4)).iter().any(|(_, p)| is_step1(p)), "it goes on");
    assert!(host.events.contains(&DeviceEvent::Endpoint { request: asked, endpoint }));
}

// SPEC: R-web-after-silence
#[test]
fn a_connection_that_falls_silent_is_replaced_over_the_web() {
    let mut host = Host::with_web();
    host.connect();
    let post = host.post_within(secs(29));
    assert!(Step1::parse(&post.packet).unwrap().web);
    let answer = host.answer_to(&post.packet);
    host.web_answer(&post, &[answer]);
    let beat = host.post_within(secs(0));
    let status = host.status_by_web(&beat);
    host.web_answer(&beat, &[status]);
    assert_eq!(host.transports(), [Transport::Web]);
    assert!(!host.events.iter().any(|e| matches!(e, DeviceEvent::Disconnected { .. })));
    assert!(host.post_within(secs(0)).wait.is_some());

    // Heard again before the Web has answered: everything stays.
    let mut host = Host::with_web();
    host.connect();
    let mut beats = Vec::new();
    while host.posts.is_empty() {
        beats.push(host.next().1);
    }
    let post = host.posts.remove(0);
    host.status(&beats[0]);
    let answer = {
        let side = &mut host.side();
        host.over(side, |host| host.answer_to(&post.packet))
    };
    host.web_answer(&post, &[answer]);
    host.settle();
    assert!(host.try_post(secs(10)).is_none());
    assert_eq!(host.transports(), []);
}

// SPEC: R-web-unsent
#[test]
fn packets_that_cannot_be_sent_say_it_sooner() {
    let mut host = Host::with_web();
    let start = host.now;
    let _ = host.take();
    host.device.handle_unsent(host.now, crate::path::LinkId(0));
    let post = host.post_within(secs(0));
    assert_eq!(post.at, start);

    let mut host = Host::with_web();
    host.connect();
    let unsent = |host: &mut Host| {
        let _ = host.next();
        host.device.handle_unsent(host.now, crate::path::LinkId(0));
        host.take();
    };
    unsent(&mut host);
    assert_eq!(host.posts.len(), 0, "one may be an accident");
    unsent(&mut host);
    assert_eq!(host.posts.len(), 1);
}

// SPEC: R-web-requests
#[test]
fn a_request_goes_once_by_web_and_again_if_that_fails() {
    let mut host = Host::with_web();
    let waiting = host.connect_by_web();
    let post = Event::with_payload(StoreId::INBOUND, Bytes::from_static(b"x"));
    let request = host.device.post(host.now, &post).unwrap();
    let first = host.post_within(secs(0));
    assert_eq!((first.wait, host.open(&first.packet).unwrap().ty()), (None, 9));
    // Taken, and answered later: no timer sends it again.
    host.web_answer(&first, &[]);
    let again = host.try_post(secs(2));
    assert!(again.is_some(), "an empty answer is none");
    let again = again.unwrap();
    assert_eq!(host.open(&again.packet).unwrap().ty(), 9);
    let nothing = host.by_web(&[]);
    host.web_answer(&again, &[nothing]);
    assert!(host.try_post(secs(10)).is_none());
    let posted = bytes_of(&Posted { request, serial: Some(Serial(1)) });
    let answer = host.by_web(&posted);
    host.web_answer(&waiting, &[answer]);
    host.take();
    assert!(host.events.iter().any(|e| matches!(e, DeviceEvent::Posted { request: r, .. } if *r == request)));

    // The answer is lost with its request, or with the one that waits.
    for lost_waiting in [false, true] {
        let mut host = Host::with_web();
        let waiting = host.connect_by_web();
        host.device.post(host.now, &post).unwrap();
        let first = host.post_within(secs(0));
        if lost_waiting {
            let nothing = host.by_web(&[]);
            host.web_answer(&first, &[nothing]);
            host.now = host.now + secs(6);
            host.web_failed(&waiting);
        } else {
            host.web_failed(&first);
        }
        let again: Vec<_> = (0..1 + usize::from(lost_waiting)).map(|_| host.post_within(secs(2))).collect();
        let types: Vec<_> = again.iter().map(|p| host.open(&p.packet).unwrap().ty()).collect();
        assert!(types.contains(&9), "{types:?}");
    }
}

// SPEC: R-web-refused
#[test]
fn a_host_without_a_web_client_is_asked_once_for_each_network() {
    let mut host = Host::new();
    host.run(secs(600));
    let asked = |host: &Host| {
        let web =
            |e: &&DeviceEvent| matches!(e, DeviceEvent::OpenLink { kind: crate::device::LinkKind::Web, .. });
        host.events.iter().filter(web).count()
    };
    assert_eq!(asked(&host), 1);
    host.device.handle_network_change(host.now, None);
    host.run(secs(600));
    assert_eq!(asked(&host), 2);
    host.events.clear();
    host.connect_after_all();
    assert_eq!(host.device.transport(), Transport::Udp);
}

impl Host {
    fn connect_after_all(&mut self) {
        let step1 = self.next().1;
        let _ = self.answer(&step1);
        let beat = self.take().remove(0);
        self.status(&beat);
        assert_eq!(self.device.state(), ConnectionState::Connected);
    }
}

/// Bodies of any kind, also of none, and answers to requests that nobody made.
// SPEC: R-web-empty
#[test]
fn bodies_that_are_none_do_nothing() {
    let cut = |good: &[u8], len: usize| good[..good.len().min(len)].to_vec();
    for kind in 0..8 {
        let mut host = Host::with_web();
        let waiting = host.connect_by_web();
        let status = host.status_by_web(&waiting);
        let good = body(core::slice::from_ref(&status));
        let mut bytes = match kind {
            0 => cut(&good, 1),
            1 => cut(&good, 2),
            2 => cut(&good, good.len() - 1),
            3 => vec![0xff; 5000],
            4 => b"<html>".to_vec(),
            5 => body(&vec![vec![1]; 17]),
            6 => Vec::new(),
            _ => vec![0; 64],
        };
        let before = host.device.stats();
        let unknown = WebRequestId(1000 + kind);
        host.device.handle_web_answer(host.now, unknown, WebAnswer::Packets(&mut good.clone()));
        assert_eq!(host.device.stats().packets_received, before.packets_received);
        host.device.handle_web_answer(host.now, waiting.id, WebAnswer::Packets(&mut bytes));
        let after = host.device.stats();
        assert_eq!(after.packets_received, before.packets_received);
        assert_eq!(after.web_failures, before.web_failures + 1);
        assert_eq!(host.device.state(), ConnectionState::Unacknowledged);
        // A whole one puts it right, also with something behind it that is none.
        let next = host.post_within(secs(2));
        let status = host.status_by_web(&next);
        let mut bytes = [body(&[status]), bytes].concat();
        host.device.handle_web_answer(host.now, next.id, WebAnswer::Packets(&mut bytes));
        assert_eq!(host.device.state(), ConnectionState::Connected);
    }
}

/// Nothing is confirmed for ever: neither keys nor a farewell.
#[test]
fn a_farewell_by_web_is_said_once() {
    let mut host = Host::with_web();
    host.connect_by_web();
    host.device.close(host.now);
    let close = host.post_within(secs(0));
    assert_eq!(host.open(&close.packet).unwrap().close.map(|(code, _)| code), Some(Code::CLOSED));
    assert!(host.try_post(secs(3)).is_none());
    assert!(!host.device.is_drained());
    host.web_answer(&close, &[]);
    assert!(host.device.is_drained());

    let mut host = Host::with_web();
    host.connect_by_web();
    host.device.close(host.now);
    host.run(secs(6));
    assert!(host.device.is_drained());
}
