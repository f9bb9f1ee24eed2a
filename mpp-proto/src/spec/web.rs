//! The Web Service as a device made by hand finds it.

use std::vec;
use std::vec::Vec;

use core::time::Duration;

use bytes::Bytes;

use super::exchange::bytes_of;
use super::stranger::{Opened, Opening, Stranger, Wish, World, seal, ticket};
use crate::channel::Event;
use crate::ids::{RequestId, Rights, Serial, StoreId};
use crate::path::{Disposition, DropReason};
use crate::service::ServiceEvent;
use crate::wire::{Ack, EndpointRequest, Header, Heartbeat, Message};

const STATUS: u8 = 4;
const NOTIFY: u8 = 5;
const FAILURE: u8 = 22;

fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

fn heartbeat(request: u32) -> Heartbeat {
    Heartbeat { request: RequestId(request), interval: secs(25), mark: Serial::ZERO, position: Serial::ZERO }
}

/// A packet of this device, sent by Web or not.
fn packet(of: &mut Stranger, web: bool, ack: Option<Ack>, message: &[u8]) -> Vec<u8> {
    let header = Header { web, ack, ..of.header() };
    seal(&of.keys, &of.identifiers[0].0, &header, &[], message)
}

fn beat(of: &mut Stranger) -> Vec<u8> {
    packet(of, true, None, &bytes_of(&heartbeat(7)))
}

/// A connection by Web from its first packet on.
fn connected(world: &mut World) -> Stranger {
    let opening = Opening::by_web(&ticket(Rights::default()), &Wish::new(1));
    assert_eq!(world.post(0, None, &opening.packet), Disposition::Accepted);
    let (id, packets) = world.answers().remove(0);
    assert_eq!((id, packets.len()), (0, 1));
    let mut device = Stranger::read(&opening, &packets[0]);
    // What confirms it is answered at once, whatever it says about waiting.
    let first = beat(&mut device);
    assert_eq!(world.post(1, Some(secs(50)), &first), Disposition::Accepted);
    assert_eq!(types(&device, &world.answers()), [(1, vec![STATUS])]);
    device
}

fn types(device: &Stranger, answers: &[(u64, Vec<Vec<u8>>)]) -> Vec<(u64, Vec<u8>)> {
    let ty = |p: &Vec<u8>| device.open(p).expect("a packet for this device").ty();
    answers.iter().map(|(id, packets)| (*id, packets.iter().map(ty).collect())).collect()
}

fn publish(world: &mut World, size: usize) {
    let event = Event::with_payload(StoreId::INBOUND, Bytes::from(vec![7; size]));
    world.service.publish(world.now, &World::account(), event).unwrap();
}

fn opened(device: &Stranger, answers: &[(u64, Vec<Vec<u8>>)]) -> Vec<Opened> {
    answers.iter().flat_map(|(_, p)| p).map(|p| device.open(p).unwrap()).collect()
}

// SPEC: R-other-transport
#[test]
fn what_was_sent_by_one_transport_does_nothing_by_the_other() {
    let mut world = World::new();
    let other = Disposition::Dropped(DropReason::OtherTransport);
    let by_web = Opening::by_web(&ticket(Rights::default()), &Wish::new(1));
    assert_eq!(world.put(super::stranger::from(4000), &by_web.packet), other);
    let by_udp = Opening::new(&ticket(Rights::default()), &Wish::new(1), None);
    assert_eq!(world.post(0, None, &by_udp.packet), other);
    assert!(world.answers().is_empty());
    assert_eq!(world.service.stats().half_open, 0);
    let mut device = connected(&mut world);
    let before = world.service.stats();
    let web = packet(&mut device, true, None, &bytes_of(&heartbeat(9)));
    assert_eq!(world.put(super::stranger::from(4000), &web), other);
    let udp = packet(&mut device, false, None, &bytes_of(&heartbeat(9)));
    assert_eq!(world.post(3, Some(secs(50)), &udp), other);
    assert!(world.answers().is_empty());
    let after = world.service.stats();
    assert_eq!((after.web_held, after.packets_sent), (before.web_held, before.packets_sent));
    assert_eq!(after.dropped_for(DropReason::OtherTransport), 4);
    // Nor was its number used up.
    assert_eq!(world.post(4, None, &web), Disposition::Accepted);
    assert_eq!(types(&device, &world.answers()), [(4, vec![STATUS])]);
}

// SPEC: R-held
#[test]
fn a_request_waits_for_news_and_no_longer_than_it_may() {
    let mut world = World::new();
    let mut device = connected(&mut world);
    let waiting = beat(&mut device);
    assert_eq!(world.post(2, Some(secs(50)), &waiting), Disposition::Accepted);
    assert!(world.answers().is_empty());
    assert_eq!(world.service.stats().web_held, 1);
    world.run(secs(20));
    publish(&mut world, 3000);
    let answers = world.answers();
    assert_eq!(answers.len(), 1);
    let got = opened(&device, &answers);
    let kinds: Vec<u8> = got.iter().map(|o| o.header.count).collect();
    assert_eq!(kinds, [1, 3, 3, 3], "the status and all packets of the notification");
    assert!(got.iter().all(|o| o.header.web));
    // Acknowledged with the next one, which then has nothing to bring.
    let number = got[1].header.number;
    let ack = Some(Ack { number_low: number as u32, bitmap: 0b111 });
    let next = Heartbeat { mark: Serial(1), ..heartbeat(8) };
    let next = packet(&mut device, true, ack, &bytes_of(&next));
    assert_eq!(world.post(3, Some(secs(10)), &next), Disposition::Accepted);
    assert!(world.answers().is_empty());
    world.run(Duration::from_millis(9_999));
    assert!(world.answers().is_empty());
    world.run(Duration::from_millis(1));
    assert_eq!(types(&device, &world.answers()), [(3, vec![STATUS])]);
}

// SPEC: R-held
#[test]
fn a_copy_or_a_forgery_is_never_held() {
    let mut world = World::new();
    let mut device = connected(&mut world);
    let waiting = beat(&mut device);
    assert_eq!(world.post(2, Some(secs(50)), &waiting), Disposition::Accepted);
    // A copy is answered at once, with nothing, and does not take the place of the request.
    assert_eq!(world.post(3, Some(secs(50)), &waiting), Disposition::Accepted);
    assert_eq!(world.answers(), [(3, vec![])]);
    let mut forged = beat(&mut device);
    *forged.last_mut().unwrap() ^= 1;
    let dropped = Disposition::Dropped(DropReason::Unauthentic);
    assert_eq!(world.post(4, Some(secs(50)), &forged), dropped);
    assert_eq!(world.post(5, Some(secs(50)), &[7; 60]), Disposition::Dropped(DropReason::ForeignIdentifier));
    assert_eq!(world.post(6, Some(secs(50)), &[1; 1453]), Disposition::Dropped(DropReason::Size));
    assert_eq!(world.post(7, Some(secs(50)), &[]), Disposition::NotForUs);
    assert!(world.answers().is_empty());
    assert_eq!(world.service.stats().web_held, 1);
    publish(&mut world, 10);
    let answers = world.answers();
    assert_eq!(types(&device, &answers), [(2, vec![STATUS, NOTIFY])]);
}

// SPEC: R-web-one
#[test]
fn one_request_is_held_for_a_connection() {
    let mut world = World::new();
    let mut device = connected(&mut world);
    for id in 2..5 {
        let waiting = beat(&mut device);
        assert_eq!(world.post(id, Some(secs(50)), &waiting), Disposition::Accepted);
        let released = world.answers();
        let expected = if id > 2 { vec![(id - 1, vec![STATUS])] } else { vec![] };
        assert_eq!(types(&device, &released), expected);
        assert_eq!(world.service.stats().web_held, 1);
    }
    // One whose client has gone is not answered, and the event is not lost with it.
    world.service.handle_web_closed(world.now, crate::WebId(4));
    publish(&mut world, 10);
    assert!(world.answers().is_empty());
    let waiting = beat(&mut device);
    assert_eq!(world.post(9, Some(secs(50)), &waiting), Disposition::Accepted);
    assert_eq!(types(&device, &world.answers()), [(9, vec![STATUS, NOTIFY])]);
}

// SPEC: R-web-unacknowledged
#[test]
fn what_was_lost_with_an_answer_comes_with_the_next() {
    let mut world = World::new();
    let mut device = connected(&mut world);
    publish(&mut world, 10);
    let mut numbers = std::collections::BTreeSet::new();
    let mut waits = Vec::new();
    for id in 2..30 {
        let waiting = beat(&mut device);
        assert_eq!(world.post(id, Some(secs(50)), &waiting), Disposition::Accepted);
        let since = world.now;
        let answers = loop {
            let answers = world.answers();
            if !answers.is_empty() {
                break answers;
            }
            world.run(Duration::from_millis(500));
        };
        waits.push(world.now.since(since).as_millis());
        let kinds = types(&device, &answers);
        // The longest wait is that of the request.
        if world.now.since(since) < secs(50) {
            assert_eq!(kinds, [(id, vec![STATUS, NOTIFY])], "{id}");
            numbers.insert(opened(&device, &answers)[1].header.number);
        }
    }
    assert!(numbers.len() > 2, "after eight transmissions it gets another number");
    // A device that takes nothing, or gets no answers, does not make the service hurry.
    assert_eq!(waits[..6], [0, 1500, 2500, 4500, 8500, 16500], "{waits:?}");
}

// SPEC: R-web-timers
#[test]
fn a_device_that_comes_by_web_is_sent_what_it_missed_and_nothing_by_a_timer() {
    let mut world = World::new();
    let mut device = Stranger::connected(&mut world, &Wish::new(1));
    publish(&mut world, 10);
    assert_eq!(device.take(&mut world).len(), 1);
    let waiting = beat(&mut device);
    assert_eq!(world.post(2, Some(secs(50)), &waiting), Disposition::Accepted);
    let answers = world.answers();
    let got = opened(&device, &answers);
    assert_eq!((answers[0].0, got.iter().map(Opened::ty).collect::<Vec<_>>()), (2, vec![STATUS, 0, NOTIFY]));
    assert_eq!(got[1].identifiers.len(), 3 * 32, "other identifiers: it is another way");
    let moved = |world: &mut World| {
        core::iter::from_fn(|| world.service.poll_event()).any(|e| matches!(e, ServiceEvent::Moved { .. }))
    };
    assert!(!moved(&mut world), "it was taken with the answers");
    assert_eq!(world.service.stats().migrations, 1);
    // Nobody acknowledges it, and nothing is sent for that until the lease ends.
    assert!(world.run(secs(79)).is_empty());
    let stats = world.service.stats();
    assert_eq!((stats.retransmitted, stats.given_up), (1, 0));
    // By UDP again: a challenge, and when that is answered, what it is still owed.
    let udp = packet(&mut device, false, None, &bytes_of(&heartbeat(3)));
    assert_eq!(world.put(device.from, &udp), Disposition::Accepted);
    let sent = device.take(&mut world);
    let challenge = sent.iter().find_map(|o| o.challenge).expect("a challenge");
    assert!(sent.iter().all(|o| !o.header.web));
    let header = device.header();
    device.put(&mut world, &header, &[crate::wire::PacketExtension::PathResponse(challenge)], &[]);
    let sent: Vec<u8> = device.take(&mut world).iter().map(Opened::ty).collect();
    assert!(sent.contains(&NOTIFY), "{sent:?}");
    assert_eq!(world.service.stats().web_held, 0);
}

#[test]
fn a_request_is_answered_before_the_lease_ends() {
    let mut world = World::new();
    let mut device = connected(&mut world);
    let short = Heartbeat { interval: secs(5), ..heartbeat(9) };
    let waiting = packet(&mut device, true, None, &bytes_of(&short));
    assert_eq!(world.post(2, Some(secs(50)), &waiting), Disposition::Accepted);
    // Three intervals and five seconds, less ten.
    world.run(secs(10));
    assert_eq!(types(&device, &world.answers()), [(2, vec![STATUS])]);
    world.run(secs(9));
    let again = beat(&mut device);
    assert_eq!(world.post(3, None, &again), Disposition::Accepted);
    assert_eq!(types(&device, &world.answers()), [(3, vec![STATUS])]);
}

// SPEC: R-web-room
#[test]
fn so_many_are_held_and_one_for_each() {
    let mut world = World::with(|c| c.web_requests = 1);
    let mut device = connected(&mut world);
    let waiting = beat(&mut device);
    assert_eq!(world.post(2, Some(secs(50)), &waiting), Disposition::Accepted);
    let opening = Opening::by_web(&super::stranger::ticket_of(2), &Wish::new(1));
    assert_eq!(
        world.post(5, None, &opening.packet),
        Disposition::Accepted,
        "who does not wait takes no place"
    );
    let mut other = Stranger::read(&opening, &world.answers().remove(0).1[0]);
    // What confirms it.
    let first = beat(&mut other);
    assert_eq!(world.post(6, Some(secs(50)), &first), Disposition::Accepted);
    assert_eq!(types(&other, &world.answers()), [(6, vec![STATUS])]);
    assert_eq!(world.service.stats().web_no_place, 0);
    // Whoever finds no place is served all the same, at once.
    let web = beat(&mut other);
    assert_eq!(world.post(7, Some(secs(50)), &web), Disposition::Accepted);
    assert_eq!(types(&other, &world.answers()), [(7, vec![STATUS])]);
    assert_eq!((world.service.stats().web_held, world.service.stats().web_no_place), (1, 1));
    // Who has a place keeps it.
    let again = beat(&mut device);
    assert_eq!(world.post(8, Some(secs(50)), &again), Disposition::Accepted);
    assert_eq!(types(&device, &world.answers()), [(2, vec![STATUS])]);
    assert_eq!(world.service.stats().web_held, 1);
}

// SPEC: R-web-close
#[test]
fn requests_that_wait_are_answered_when_the_service_closes() {
    let mut world = World::new();
    let mut device = connected(&mut world);
    let waiting = beat(&mut device);
    assert_eq!(world.post(2, Some(secs(50)), &waiting), Disposition::Accepted);
    world.service.close(world.now, secs(10));
    assert!(!world.service.is_drained());
    let answers = world.answers();
    let closes: Vec<_> = opened(&device, &answers).iter().filter_map(|o| o.close).collect();
    assert_eq!((answers.len(), closes.len()), (1, 1));
    assert!(world.service.is_drained());
}

#[test]
fn questions_about_udp_are_refused() {
    let mut world = World::new();
    let mut device = connected(&mut world);
    let asks = packet(&mut device, true, None, &bytes_of(&EndpointRequest { request: RequestId(3) }));
    assert_eq!(world.post(2, None, &asks), Disposition::Accepted);
    let answers = world.answers();
    assert_eq!(types(&device, &answers), [(2, vec![FAILURE])]);
    // Nor does a Status say where the request came from: that is the address of a proxy as often as not.
    let ask = beat(&mut device);
    assert_eq!(world.post(3, None, &ask), Disposition::Accepted);
    let answers = world.answers();
    let got = opened(&device, &answers);
    let Ok(Message::Status(status)) = Message::parse(&got[0].fragment) else { panic!() };
    assert_eq!(status.endpoint, None);
}

// SPEC: R-web-authentic
#[test]
fn an_answer_without_content_is_authentic_too() {
    let mut world = World::new();
    let mut device = connected(&mut world);
    let nothing = packet(&mut device, true, None, &[]);
    assert_eq!(world.post(2, None, &nothing), Disposition::Accepted);
    assert_eq!(types(&device, &world.answers()), [(2, vec![0])]);
    // But a copy gets nothing at all, not even what is due to the device.
    publish(&mut world, 10);
    assert_eq!(world.post(3, None, &nothing), Disposition::Accepted);
    assert_eq!(world.answers(), [(3, vec![])]);
    let waiting = beat(&mut device);
    assert_eq!(world.post(4, Some(secs(50)), &waiting), Disposition::Accepted);
    assert_eq!(types(&device, &world.answers()), [(4, vec![STATUS, NOTIFY])]);
}
