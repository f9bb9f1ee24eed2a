//! What SPEC.md demands of a service that is asked for answers that come late, and of what it says about its own.

use std::vec::Vec;

use core::net::SocketAddr;
use core::time::Duration;

use bytes::Bytes;

use super::exchange::bytes_of;
use super::stranger::{Opened, Opening, Stranger, Wish, World, from, seal, seal_plaintext, ticket_of};
use crate::channel::Event;
use crate::ids::{RequestId, Serial, StoreId};
use crate::service::{Rate, RefusalReason};
use crate::wire::{
    Ack, Close, Code, EndpointRequest, Header, Heartbeat, Message, PacketExtension, ProbeRequest,
    SERVICE_IDENTIFIER, emit_plaintext_head,
};

const PROBE_ANSWER: u8 = 14;

const fn secs(s: u64) -> Duration {
    Duration::from_secs(s)
}

/// The device's other socket.
fn aside() -> SocketAddr {
    from(4001)
}

impl Stranger {
    /// A message from another socket of the device: the size of the packet.
    pub(super) fn aside(
        &mut self,
        world: &mut World,
        source: SocketAddr,
        message: &[u8],
        padding: usize,
    ) -> usize {
        let header = self.header();
        let mut plaintext = Vec::new();
        emit_plaintext_head(&mut plaintext, &[], message.len());
        plaintext.extend_from_slice(message);
        plaintext.resize(plaintext.len() + padding, 0);
        let packet = seal_plaintext(&self.keys, &self.identifiers[0].0, &header, &plaintext);
        let _ = world.put(source, &packet);
        packet.len()
    }

    /// What shows that this socket is the device's, if there are probes.
    pub(super) fn echo(&mut self, world: &mut World, source: SocketAddr) -> Option<[u8; 16]> {
        self.aside(world, source, &bytes_of(&EndpointRequest { request: RequestId(500) }), 40);
        let answers = world.take();
        let opened: Vec<_> = answers.iter().filter_map(|(to, p)| Some((*to, self.open(p)?))).collect();
        let (to, answer) = &opened[0];
        assert_eq!((*to, opened.len()), (source, 1));
        match Message::parse(&answer.fragment) {
            Ok(Message::EndpointResponse(response)) => response.echo,
            _ => panic!("no EndpointResponse"),
        }
    }

    /// A packet from another socket, whatever comes of it.
    fn echo_among(&mut self, world: &mut World) {
        self.aside(world, aside(), &bytes_of(&EndpointRequest { request: RequestId(500) }), 40);
        world.take();
    }

    fn probe(&mut self, world: &mut World, source: SocketAddr, seconds: u64, echo: [u8; 16]) -> usize {
        let request = RequestId(600 + u32::try_from(seconds).unwrap());
        self.aside(world, source, &bytes_of(&ProbeRequest { request, silence: secs(seconds), echo }), 0)
    }

    /// The code of the Failure among these packets, and where it went.
    fn failure(&self, sent: &[(SocketAddr, Vec<u8>)]) -> Option<(SocketAddr, Code)> {
        sent.iter().find_map(|(to, packet)| match Message::parse(&self.open(packet)?.fragment) {
            Ok(Message::Failure(failure)) => Some((*to, failure.code)),
            _ => None,
        })
    }

    /// A heartbeat that asks for this interval, and what the Status says: unheard and lease.
    fn status(&mut self, world: &mut World, interval: u64) -> (u32, Option<Duration>) {
        let (mark, position) = (Serial::ZERO, Serial::ZERO);
        let answers =
            self.say(world, &Heartbeat { request: RequestId(700), interval: secs(interval), mark, position });
        status(&answers).expect("a Status")
    }
}

fn status(answers: &[Opened]) -> Option<(u32, Option<Duration>)> {
    answers.iter().find_map(|p| match Message::parse(&p.fragment) {
        Ok(Message::Status(status)) => Some((status.unheard, status.lease)),
        _ => None,
    })
}

fn publish(world: &mut World) {
    let event = Event::with_payload(StoreId::INBOUND, Bytes::from_static(b"x"));
    world.service.publish(world.now, &World::account(), event).unwrap();
}

// SPEC: R-probe-once, R-probe-still
#[test]
fn a_probe_is_answered_once_after_its_silence_and_moves_nothing() {
    let mut world = World::new();
    let mut device = Stranger::connected(&mut world, &Wish::new(1));
    for silence in [1, 25, 60] {
        let echo = device.echo(&mut world, aside()).unwrap();
        let size = device.probe(&mut world, aside(), silence, echo);
        assert_eq!(world.service.stats().probes_waiting, 1);
        let start = world.now;
        let sent: Vec<_> = world
            .run(secs(silence + 10))
            .into_iter()
            .map(|(at, to, packet)| (at.since(start), to, packet.len(), device.open(&packet).unwrap()))
            .collect();
        let [(after, to, len, answer)] = &sent[..] else { panic!("{} packets", sent.len()) };
        assert_eq!((*after, *to, answer.ty()), (secs(silence), aside(), PROBE_ANSWER));
        assert!(*len <= size && !answer.header.wanted);
        assert_eq!(device.status(&mut world, 25).0, 0);
    }
    let stats = world.service.stats();
    assert_eq!((stats.probes, stats.probes_waiting, stats.suggested), (3, 0, 0));
}

// SPEC: R-probe-proven
#[test]
fn a_probe_without_the_right_echo_is_refused_where_the_device_is_and_nowhere_else() {
    let mut world = World::new();
    let mut device = Stranger::connected(&mut world, &Wish::new(1));
    let echo = device.echo(&mut world, aside()).unwrap();
    let mut bad = echo;
    bad[15] ^= 1;
    for (source, echo) in [(aside(), bad), (from(4002), echo), (aside(), [0; 16])] {
        device.probe(&mut world, source, 25, echo);
        assert_eq!(device.failure(&world.take()), Some((from(4000), Code::FORBIDDEN)));
    }
    // An old one.
    world.run(secs(30));
    device.probe(&mut world, aside(), 25, echo);
    assert_eq!(device.failure(&world.take()), Some((from(4000), Code::FORBIDDEN)));
    assert!(world.run(secs(40)).is_empty());
    let stats = world.service.stats();
    assert_eq!((stats.probes, stats.refused_for(RefusalReason::Probes)), (0, 4));
}

// SPEC: R-probe-one
#[test]
fn one_probe_waits_for_each_connection_and_ends_with_it() {
    let mut world = World::new();
    let mut device = Stranger::connected(&mut world, &Wish::new(1));
    for silence in [20, 30, 40] {
        let echo = device.echo(&mut world, aside()).unwrap();
        device.probe(&mut world, aside(), silence, echo);
    }
    assert_eq!(world.service.stats().probes_waiting, 1);
    let start = world.now;
    let sent = world.run(secs(45));
    assert_eq!(sent.len(), 1, "the last one's");
    assert_eq!(sent[0].0.since(start), secs(40));

    let echo = device.echo(&mut world, aside()).unwrap();
    device.probe(&mut world, aside(), 20, echo);
    let header = device.header();
    let close = Close { code: Code::CLOSED, reason: "", retry_after: Duration::ZERO };
    device.put(&mut world, &header, &[PacketExtension::Close(close)], &[]);
    world.take();
    assert_eq!(world.service.stats().probes_waiting, 0);
    assert!(world.run(secs(30)).is_empty());
}

// SPEC: R-probe-bounded
#[test]
fn probes_are_bounded_in_time_and_number_and_stop_when_the_service_is_loaded() {
    let mut world = World::with(|c| c.interval_max = secs(120));
    let mut device = Stranger::connected(&mut world, &Wish::new(1));
    let echo = device.echo(&mut world, aside()).unwrap();
    device.probe(&mut world, aside(), 121, echo);
    assert_eq!(device.failure(&world.take()), Some((from(4000), Code::BAD_REQUEST)));
    device.probe(&mut world, aside(), 120, echo);
    assert!(world.take().is_empty());
    // None beyond 300 s whatever the interval may be.
    let mut world = World::with(|c| c.interval_max = secs(1000));
    let mut device = Stranger::connected(&mut world, &Wish::new(1));
    let echo = device.echo(&mut world, aside()).unwrap();
    device.probe(&mut world, aside(), 301, echo);
    assert_eq!(device.failure(&world.take()), Some((from(4000), Code::BAD_REQUEST)));

    // No room.
    let mut world = World::with(|c| c.probes = 1);
    let mut device = Stranger::connected(&mut world, &Wish::new(1));
    let opening = Opening::new(&ticket_of(1), &Wish::new(1), None);
    let _ = world.put(from(4000), &opening.packet);
    let mut other = Stranger::read(&opening, &world.take()[0].1);
    other.beat(&mut world, Serial::ZERO);
    for (device, refused) in [(&mut device, None), (&mut other, Some((from(4000), Code::UNAVAILABLE)))] {
        let echo = device.echo(&mut world, aside()).unwrap();
        device.probe(&mut world, aside(), 25, echo);
        assert_eq!(device.failure(&world.take()), refused);
    }
    // Half of what may be sent at once is used up.
    let mut world = World::with(|c| c.output = Rate::new(1, 20));
    let mut device = Stranger::connected(&mut world, &Wish::new(1));
    let echo = device.echo(&mut world, aside()).unwrap();
    for _ in 0..8 {
        device.beat(&mut world, Serial::ZERO);
    }
    device.probe(&mut world, aside(), 25, echo);
    assert_eq!(device.failure(&world.take()), Some((from(4000), Code::UNAVAILABLE)));
    // A crowd connects.
    let mut world = World::with(|c| c.connects_per_second = 10);
    let mut device = Stranger::connected(&mut world, &Wish::new(1));
    let echo = device.echo(&mut world, aside()).unwrap();
    device.probe(&mut world, aside(), 25, echo);
    assert_eq!(device.failure(&world.take()), Some((from(4000), Code::UNAVAILABLE)));
    // Switched off: nobody is invited to ask.
    let mut world = World::with(|c| c.probes = 0);
    let mut device = Stranger::connected(&mut world, &Wish::new(1));
    assert_eq!(device.echo(&mut world, aside()), None);
}

// SPEC: R-unheard
#[test]
fn status_counts_what_was_sent_into_the_silence() {
    // How long ago the event was published: still on its way, lost twice, given up.
    for (ago, unheard) in [(0, 0), (900, 0), (1100, 1), (5000, 2), (60_000, 5)] {
        let mut world = World::new();
        let mut device = Stranger::connected(&mut world, &Wish::new(1));
        world.run(secs(10));
        assert_eq!(device.status(&mut world, 25).0, 0);
        world.run(secs(10));
        publish(&mut world);
        world.run(Duration::from_millis(ago));
        // Packets of another socket do not hide it.
        device.echo_among(&mut world);
        assert_eq!(device.status(&mut world, 25).0, unheard, "{ago} ms");
        assert_eq!(device.status(&mut world, 25).0, 0, "since it was heard");
    }
    // What the heartbeat itself acknowledges has come.
    let mut world = World::new();
    let mut device = Stranger::connected(&mut world, &Wish::new(1));
    world.run(secs(10));
    publish(&mut world);
    let number = device.wait(&mut world, secs(4)).last().unwrap().header.number;
    let header = Header { ack: Some(Ack { number_low: number as u32, bitmap: 1 }), ..device.header() };
    let (request, mark, position) = (RequestId(700), Serial::ZERO, Serial::ZERO);
    let heartbeat = bytes_of(&Heartbeat { request, interval: secs(25), mark, position });
    device.put(&mut world, &header, &[], &heartbeat);
    assert_eq!(status(&device.take(&mut world)).unwrap().0, 0);
}

// SPEC: R-unheard
#[test]
fn a_question_that_stayed_unanswered_is_counted_too() {
    let mut world = World::new();
    let mut device = Stranger::connected(&mut world, &Wish::new(1));
    for (silence, unheard) in [(79, 0), (80, 1), (81, 2)] {
        world.run(secs(silence) + Duration::from_millis(500));
        assert_eq!(device.status(&mut world, 25).0, unheard, "after {silence} s");
    }
}

// SPEC: R-granted
#[test]
fn a_service_says_what_it_grants_if_that_is_not_what_was_asked_for() {
    let mut world = World::with(|c| (c.interval_min, c.interval_max) = (secs(20), secs(100)));
    let mut device = Stranger::connected(&mut world, &Wish::new(1));
    let lease = |interval: u64| Some(secs(3 * interval + 5));
    assert_eq!(device.status(&mut world, 25).1, None);
    assert_eq!(device.status(&mut world, 100).1, None);
    assert_eq!(device.status(&mut world, 101).1, lease(100));
    assert_eq!(device.status(&mut world, 19).1, lease(20));
    assert_eq!(device.status(&mut world, 20).1, None);
}

/// The smallest ProbeRequest that can be is larger than the largest answer.
#[test]
fn an_answer_is_smaller_than_any_request() {
    let header = crate::wire::Header::single(0, crate::wire::Direction::ToResponder);
    let keys = Stranger::connected(&mut World::new(), &Wish::new(1)).keys;
    let probe = ProbeRequest { request: RequestId(1), silence: Duration::ZERO, echo: [0; 16] };
    let smallest = seal(&keys, &[0; SERVICE_IDENTIFIER], &header, &[], &bytes_of(&probe));
    let answer = bytes_of(&crate::wire::ProbeAnswer { request: RequestId(u32::MAX) });
    assert!(8 + 16 + 2 + answer.len() + 16 < smallest.len());
}
