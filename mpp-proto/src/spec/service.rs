//! What SPEC.md demands of a service, asked by a device that was made by hand.

use std::collections::BTreeSet;
use std::vec;
use std::vec::Vec;

use core::time::Duration;

use bytes::Bytes;

use super::exchange::bytes_of;
use super::stranger::{Opened, Opening, Stranger, Wish, World, from, seal, seal_plaintext, ticket};
use crate::channel::{CollapseKey, Event, Urgency};
use crate::ids::{Epoch, RequestId, Rights, Serial, StoreId, StoreSet};
use crate::path::{Disposition, DropReason};
use crate::service::{AccountHead, DeferPolicy};
use crate::wire::{
    Ack, Answer, AnswerKind, Close, Code, Direction, Header, Message, PacketExtension, Post, Subscribe,
};

const STATUS: u8 = 4;
const NOTIFY: u8 = 5;
const POSTED: u8 = 10;
const FAILURE: u8 = 22;

fn secs(s: u64) -> Duration {
    Duration::from_secs(s)
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn payload(size: usize) -> Event {
    Event::with_payload(StoreId::INBOUND, Bytes::from(vec![0x70; size]))
}

fn publish(world: &mut World, event: Event) -> Serial {
    world.service.publish(world.now, &World::account(), event).unwrap()
}

fn types(packets: &[Opened]) -> Vec<u8> {
    packets.iter().map(Opened::ty).collect()
}

fn closed(packets: &[Opened]) -> Option<Code> {
    packets.iter().find_map(|p| p.close.map(|(code, _)| code))
}

/// `told` of the only device.
fn told(world: &World) -> Serial {
    world.service.devices(world.now, &World::account()).next().unwrap().told
}

/// What a Notify of one packet says: told, up to, the serials of its events, lost.
fn notify(packets: &[Opened]) -> Option<(u64, u64, Vec<u64>, StoreSet)> {
    let packet = packets.iter().find(|p| p.ty() == NOTIFY)?;
    match Message::parse(&packet.fragment).unwrap() {
        Message::Notify(n) => Some((n.told.0, n.upto.0, n.events.map(|e| e.serial.0).collect(), n.lost)),
        other => panic!("{other:?}"),
    }
}

// SPEC: R-answer-size, R-unconfirmed, R-heartbeat-answered
#[test]
fn nothing_is_sent_before_the_device_is_heard() {
    let mut world = World::new();
    let mut device = Stranger::half_open(&mut world, &Wish::new(1));
    publish(&mut world, payload(5));
    assert!(world.run(secs(5)).is_empty());
    let got = device.beat(&mut world, Serial::ZERO);
    assert_eq!(types(&got), [STATUS, NOTIFY]);
    let status = Message::parse(&got[0].fragment).unwrap();
    assert!(matches!(status, Message::Status(s) if s.request == Some(RequestId(1))), "{status:?}");
}

// SPEC: R-defer, R-cookie
#[test]
fn an_address_is_proven_by_an_echo() {
    let mut world = World::with(|c| c.defer = DeferPolicy::Always);
    let ticket = ticket(Rights::default());
    let wish = Wish::new(1);
    let first = Opening::new(&ticket, &wish, None);
    let defer = |world: &mut World, opening: &Opening, port| {
        let _ = world.put(from(port), &opening.packet);
        let mut sent = world.take();
        assert_eq!(sent.len(), 1);
        let (to, packet) = sent.remove(0);
        assert_eq!((to, packet.len()), (from(port), 28));
        opening.challenge(&packet)
    };
    let challenge = defer(&mut world, &first, 4000);
    assert_eq!(world.service.stats().half_open, 0, "nothing is remembered");
    let echoed = Opening::new(&ticket, &wish, Some(challenge));
    // From elsewhere, and too late.
    defer(&mut world, &echoed, 4001);
    let _ = world.put(from(4000), &echoed.packet);
    let sent = world.take();
    Stranger::read(&echoed, &sent[0].1).beat(&mut world, Serial::ZERO);
    world.run(secs(31));
    defer(&mut world, &echoed, 4000);
}

// SPEC: R-half-open-four
#[test]
fn the_fifth_half_open_connection_of_a_device_has_to_prove_its_address() {
    let mut world = World::new();
    for serial in 1..=4 {
        Stranger::half_open(&mut world, &Wish::new(serial));
    }
    let ticket = ticket(Rights::default());
    let fifth = Opening::new(&ticket, &Wish::new(5), None);
    let _ = world.put(from(4000), &fifth.packet);
    let challenge = fifth.challenge(&world.take()[0].1);
    let echoed = Opening::new(&ticket, &Wish::new(5), Some(challenge));
    let _ = world.put(from(4000), &echoed.packet);
    Stranger::read(&echoed, &world.take()[0].1);
    assert_eq!(world.service.stats().half_open, 4);
}

// SPEC: R-half-open-time, R-reset
#[test]
fn a_connection_that_is_not_confirmed_ends_and_is_reset() {
    let mut world = World::new();
    let mut device = Stranger::half_open(&mut world, &Wish::new(1));
    world.run(ms(9_900));
    assert_eq!(world.service.stats().half_open, 1);
    world.run(ms(200));
    assert_eq!(world.service.stats().records, 0);
    let (identifier, token) = device.identifiers[0];
    let header = device.header();
    let packet = seal(&device.keys, &identifier, &header, &[], &[]);
    assert_eq!(packet.len(), 50, "no data packet is smaller");
    let _ = world.put(device.from, &packet);
    let sent = world.take();
    assert_eq!(sent.len(), 1);
    assert_eq!((sent[0].1.len(), &sent[0].1[24..]), (40, &token[..]));
    let _ = world.put(device.from, &sent[0].1);
    assert!(world.take().is_empty(), "a reset is not answered");
}

// SPEC: R-confirm-replaces, R-conflict-rate
#[test]
fn a_confirmed_connection_replaces_the_older_one_and_only_that() {
    let mut world = World::new();
    let mut old = Stranger::connected(&mut world, &Wish::new(7));
    let mut new = Stranger::half_open(&mut world, &Wish::new(8));
    assert_eq!(types(&old.beat(&mut world, Serial::ZERO)), [STATUS], "the old one goes on");
    let header = new.header();
    let packet = seal(&new.keys, &new.identifiers[0].0, &header, &[], &[]);
    let _ = world.put(new.from, &packet);
    assert_eq!(closed(&old.take(&mut world)), Some(Code::CONFLICT));
    assert_eq!(types(&new.beat(&mut world, Serial::ZERO)), [STATUS]);
    // The serial of step 1 has to be above that of the connection.
    for serial in [7, 8] {
        let again = Opening::new(&ticket(Rights::default()), &Wish::new(serial), None);
        let _ = world.put(from(4000), &again.packet);
        assert_eq!(again.error(&world.take()[0].1), (Code::CONFLICT, Some(8)));
        // It is told once a second only, and then asked to prove its address: the packet may be a copy.
        let mut challenge = [0; 16];
        for _ in 0..3 {
            let _ = world.put(from(4000), &again.packet);
            let AnswerKind::Defer { challenge: asked } = Answer::parse(&world.take()[0].1).unwrap().kind
            else {
                panic!()
            };
            challenge = asked;
        }
        let proven = Opening::new(&ticket(Rights::default()), &Wish::new(serial), Some(challenge));
        let _ = world.put(from(4000), &proven.packet);
        assert_eq!(proven.error(&world.take()[0].1), (Code::CONFLICT, Some(8)), "copies took nothing");
        let _ = world.put(from(4000), &proven.packet);
        assert!(world.take().is_empty());
        world.run(secs(10));
    }
}

/// Whoever came first with the highest serial keeps nobody out who has the same ticket.
// SPEC: R-serial-highest
#[test]
fn the_highest_serial_wins_whenever_it_comes_and_none_is_above_it() {
    const HIGHEST: u64 = (1 << 47) - 1;
    let mut world = World::new();
    for serial in [HIGHEST + 1, (1 << 48) - 1, 1 << 60] {
        let beyond = Opening::new(&ticket(Rights::default()), &Wish::new(serial), None);
        let _ = world.put(from(4000), &beyond.packet);
        assert_eq!(beyond.error(&world.take()[0].1), (Code::BAD_REQUEST, None));
        world.run(secs(5));
    }
    let thief = Stranger::connected(&mut world, &Wish::new(HIGHEST));
    let owner = Opening::new(&ticket(Rights::default()), &Wish::new(7), None);
    let _ = world.put(from(4000), &owner.packet);
    assert_eq!(owner.error(&world.take()[0].1), (Code::CONFLICT, Some(HIGHEST)));
    let mut owner = Stranger::half_open(&mut world, &Wish::new(HIGHEST));
    let header = owner.header();
    let packet = seal(&owner.keys, &owner.identifiers[0].0, &header, &[], &[]);
    let _ = world.put(owner.from, &packet);
    assert_eq!(closed(&thief.take(&mut world)), Some(Code::CONFLICT));
    assert_eq!(types(&owner.beat(&mut world, Serial::ZERO)), [STATUS]);
}

// SPEC: R-bad-request, R-header-valid, R-plaintext, R-ack-unsent
#[test]
fn what_is_authentic_and_malformed_ends_the_connection() {
    let single = |number| Header::single(number, Direction::ToResponder);
    let ack = Some(Ack { number_low: 1, bitmap: 1 });
    let status = [STATUS, 0x89, 1, 0, 0x8b, 1, 0, 0xff];
    let cases: [(Header, &[u8]); 9] = [
        (Header { count: 2, ..single(1) }, &[0xff, 0]),
        (Header { count: 0, ..single(1) }, &[0xff, 0]),
        (Header { index: 1, ..single(1) }, &[0xff, 0]),
        (Header { transmission: 8, ..single(1) }, &[0xff, 0]),
        // One packet was sent, its number is 0.
        (Header { ack, ..single(1) }, &[0xff, 0]),
        (single(1), &[0xff, 1]),
        (single(1), &[0x82, 0]),
        (single(1), &[0xff, 1, 3]),
        (single(1), &[&[0xff, status.len() as u8][..], &status].concat()),
    ];
    for (header, plaintext) in cases {
        let mut world = World::new();
        let device = Stranger::connected(&mut world, &Wish::new(1));
        let packet = seal_plaintext(&device.keys, &device.identifiers[0].0, &header, plaintext);
        let _ = world.put(device.from, &packet);
        assert_eq!(closed(&device.take(&mut world)), Some(Code::BAD_REQUEST), "{header:?} {plaintext:?}");
        assert_eq!(world.service.stats().connected, 0);
    }
}

// SPEC: R-close-again
#[test]
fn a_closed_connection_repeats_its_close_once_a_second() {
    let mut world = World::new();
    let mut device = Stranger::connected(&mut world, &Wish::new(1));
    let header = Header { count: 2, ..device.header() };
    device.put(&mut world, &header, &[], &[]);
    assert_eq!(closed(&device.take(&mut world)), Some(Code::BAD_REQUEST));
    assert!(device.beat(&mut world, Serial::ZERO).is_empty());
    world.run(ms(1_000));
    assert_eq!(closed(&device.beat(&mut world, Serial::ZERO)), Some(Code::BAD_REQUEST));
    assert!(device.beat(&mut world, Serial::ZERO).is_empty());
    world.run(secs(4));
    assert_eq!(world.service.stats().records, 0);
}

// SPEC: R-unknown-type
#[test]
fn messages_of_later_profiles_do_no_harm() {
    let mut world = World::new();
    let mut device = Stranger::connected(&mut world, &Wish::new(1));
    let header = device.header();
    device.put(&mut world, &header, &[], &[99, 0x80, 1, 9, 0xff]);
    let got = device.take(&mut world);
    assert_eq!(types(&got), [FAILURE]);
    let failure = Message::parse(&got[0].fragment).unwrap();
    assert!(
        matches!(failure, Message::Failure(f) if f.request == RequestId(9) && f.code == Code::BAD_REQUEST)
    );
    let header = device.header();
    device.put(&mut world, &header, &[], &[99, 0xff]);
    assert!(device.take(&mut world).is_empty());
    assert_eq!(types(&device.beat(&mut world, Serial::ZERO)), [STATUS]);
}

fn post(request: u32, id: u8, store: u8) -> Post<'static> {
    Post {
        request: RequestId(request),
        post_id: [id; 16],
        store: StoreId::new(store).unwrap(),
        ttl: None,
        urgency: 1,
        key: None,
        payload: None,
        account: None,
    }
}

fn failure(packets: &[Opened]) -> Option<Code> {
    packets.iter().find_map(|p| match Message::parse(&p.fragment) {
        Ok(Message::Failure(f)) => Some(f.code),
        _ => None,
    })
}

// SPEC: R-post-once, R-store
#[test]
fn a_post_is_published_once_and_not_to_reserved_stores() {
    let mut world = World::new();
    let mut device = Stranger::connected(&mut world, &Wish::new(1));
    let mut serial = |request, id| {
        let got = device.say(&mut world, &post(request, id, 3));
        let posted = got.iter().find(|p| p.ty() == POSTED).expect("an answer");
        match Message::parse(&posted.fragment).unwrap() {
            Message::Posted(p) => p.serial.unwrap().0,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!([serial(1, 0xa), serial(1, 0xa), serial(2, 0xa), serial(3, 0xb)], [1, 1, 1, 2]);
    for store in [0, 20, 31] {
        let got = device.say(&mut world, &post(4, store, store));
        assert_eq!(failure(&got), Some(Code::BAD_REQUEST), "store {store}");
    }
}

// SPEC: R-rights
#[test]
fn rights_are_held_to() {
    let mut world = World::new();
    let silent = Opening::new(&ticket(Rights::POST_OWN), &Wish::new(1), None);
    let _ = world.put(from(4000), &silent.packet);
    assert_eq!(silent.error(&world.take()[0].1), (Code::FORBIDDEN, None));
    let listener = Opening::new(&ticket(Rights::RECEIVE), &Wish::new(1), None);
    let _ = world.put(from(4000), &listener.packet);
    let mut device = Stranger::read(&listener, &world.take()[0].1);
    device.beat(&mut world, Serial::ZERO);
    assert_eq!(failure(&device.say(&mut world, &post(2, 1, 3))), Some(Code::FORBIDDEN));
}

// SPEC: R-newest-applies
#[test]
fn the_newest_subscription_counts() {
    let mut world = World::new();
    let mut device = Stranger::connected(&mut world, &Wish::new(1));
    let (epoch, position, covered) = (device.epoch, Serial::ZERO, StoreSet::ALL);
    let subscribe =
        |request, filter| Subscribe { request: RequestId(request), filter, covered, position, epoch };
    assert_eq!(device.say(&mut world, &subscribe(5, StoreSet::EMPTY)).len(), 1);
    assert!(device.say(&mut world, &subscribe(4, StoreSet::ALL)).is_empty(), "too late");
    assert_eq!(device.say(&mut world, &subscribe(5, StoreSet::EMPTY)).len(), 1, "answered again");
    publish(&mut world, payload(5));
    assert!(device.wait(&mut world, secs(5)).is_empty());
    assert_eq!(device.say(&mut world, &subscribe(6, StoreSet::ALL)).len(), 1);
}

// SPEC: R-told, R-one-in-flight
#[test]
fn told_moves_with_the_last_packet_and_then_comes_the_next_notify() {
    let mut world = World::new();
    let mut device = Stranger::connected(&mut world, &Wish::new(1));
    publish(&mut world, payload(3000));
    let first = device.take(&mut world);
    assert_eq!(first.len(), 3);
    assert!(first.iter().all(|p| p.header.wanted && p.header.count == 3 && p.header.number == 1));
    publish(&mut world, payload(5));
    assert!(device.take(&mut world).is_empty());
    assert!(device.ack(&mut world, 1, 0b101).is_empty());
    assert_eq!(told(&world), Serial(0));
    let next = device.ack(&mut world, 1, 0b111);
    assert_eq!(told(&world), Serial(1));
    assert_eq!(notify(&next), Some((1, 2, vec![2], StoreSet::EMPTY)));
    assert_eq!(next[0].header.number, 2);
}

// SPEC: R-replaced
#[test]
fn at_a_timeout_a_notify_of_which_nothing_arrived_takes_the_news_along() {
    for arrived in [false, true] {
        let mut world = World::new();
        let mut device = Stranger::connected(&mut world, &Wish::new(1));
        publish(&mut world, payload(1500));
        assert_eq!(device.take(&mut world).len(), 2);
        publish(&mut world, payload(5));
        if arrived {
            device.ack(&mut world, 1, 0b01);
        }
        let again = device.wait(&mut world, ms(1_500));
        let mut packets: Vec<_> = again.iter().map(|p| (p.header.number, p.header.index)).collect();
        packets.dedup();
        let expected = if arrived { vec![(1, 1)] } else { vec![(2, 0), (2, 1)] };
        assert_eq!(packets, expected);
    }
}

// SPEC: R-nonce-unique
#[test]
fn no_nonce_is_used_twice() {
    let mut world = World::new();
    let mut device = Stranger::connected(&mut world, &Wish::new(1));
    let mut sent = Vec::new();
    for round in 0..120u16 {
        let urgency = if round % 7 == 0 { Urgency::High } else { Urgency::Normal };
        let key = CollapseKey::new(&[round as u8 % 5]).unwrap();
        publish(&mut world, payload(usize::from(round) * 41).urgency(urgency).key(key));
        let wait = if round % 20 == 19 { 9_000 } else { u64::from(round) * 9 };
        sent.extend(device.wait(&mut world, ms(wait)));
        // What arrives, and whether its acknowledgement does, follows no pattern.
        if let Some(last) = sent.iter().rev().find(|p| p.header.wanted).map(|p| p.header.number) {
            sent.extend(device.ack(&mut world, last, round.wrapping_mul(0x9e37)));
        }
        if round % 10 == 9 {
            sent.extend(device.beat(&mut world, Serial::ZERO));
        }
    }
    let nonces: BTreeSet<_> = sent.iter().map(|p| p.header.nonce_input()).collect();
    assert_eq!(nonces.len(), sent.len());
    assert!(sent.len() > 300, "{}", sent.len());
    assert!(sent.iter().any(|p| p.header.transmission > 1 && p.header.index > 1));
}

// SPEC: R-urgency
#[test]
fn urgency_decides_when_an_event_goes_out() {
    let mut world = World::new();
    let mut device = Stranger::connected(&mut world, &Wish::new(1));
    publish(&mut world, payload(1).urgency(Urgency::Low));
    assert!(device.wait(&mut world, secs(5)).is_empty());
    assert_eq!(types(&device.beat(&mut world, Serial::ZERO)), [STATUS, NOTIFY]);
    publish(&mut world, payload(2));
    assert!(device.take(&mut world).is_empty(), "one is in flight");
    publish(&mut world, payload(3).urgency(Urgency::High));
    assert_eq!(notify(&device.take(&mut world)), Some((0, 3, vec![1, 2, 3], StoreSet::EMPTY)));
}

// SPEC: R-rebuilt, R-collapse
#[test]
fn what_has_been_replaced_is_not_sent_again() {
    let mut world = World::new();
    let device = Stranger::connected(&mut world, &Wish::new(1));
    let keyed = |size| payload(size).key(CollapseKey::new(b"k").unwrap());
    publish(&mut world, keyed(1));
    assert_eq!(notify(&device.take(&mut world)), Some((0, 1, vec![1], StoreSet::EMPTY)));
    publish(&mut world, keyed(2));
    let again = device.wait(&mut world, ms(1_500));
    assert_eq!(notify(&again), Some((0, 2, vec![2], StoreSet::EMPTY)));
    assert_eq!(again[0].header.number, 2);
}

/// A service whose rings hold two events.
fn small() -> World {
    let mut world = World::with(|c| c.ring_events = 2);
    world.service.restore(AccountHead::new(World::account())).unwrap();
    world
}

// SPEC: R-floor, R-covered, R-unknown-epoch, R-fresh
#[test]
fn what_is_lost_is_said() {
    let mut world = small();
    for _ in 0..3 {
        publish(&mut world, payload(1));
    }
    publish(&mut world, Event::changed(StoreId::CONTACT));
    let epoch = world.service.head(&World::account()).unwrap().epoch.unwrap();
    let all = StoreSet::ALL;
    let of = |stores: &[StoreId]| stores.iter().copied().collect::<StoreSet>();
    let (inbound, contact) = (StoreId::INBOUND, StoreId::CONTACT);
    let mut serial = 0;
    let mut lost = |epoch, position, filter, covered| {
        serial += 1;
        let wish = Wish { epoch, position: Serial(position), filter, covered, ..Wish::new(serial) };
        let device = Stranger::half_open(&mut world, &wish);
        world.run(secs(11));
        assert_eq!(device.newest, Serial(4));
        device.lost
    };
    // Event 1 was pushed out.
    assert_eq!(lost(epoch, 0, all, all), of(&[inbound]));
    assert_eq!(lost(epoch, 1, all, all), StoreSet::EMPTY);
    let both = of(&[inbound, contact]);
    assert_eq!(lost(epoch, 1, both, of(&[inbound])), of(&[contact]));
    assert_eq!(lost(epoch, 1, all, both), all, "there are more stores than these");
    assert_eq!(lost(Epoch([9; 8]), 1, both, all), both);
    assert_eq!(lost(Epoch::NONE, 0, all, StoreSet::EMPTY), of(&[inbound]));
}

// SPEC: R-lost-history
#[test]
fn a_position_from_the_future_is_a_lost_history() {
    let mut world = World::new();
    let bystander = Stranger::connected(&mut world, &Wish::new(1));
    publish(&mut world, payload(1));
    bystander.take(&mut world);
    let epoch = bystander.epoch;
    let wish = Wish { epoch, position: Serial(9), covered: StoreSet::ALL, ..Wish::new(2) };
    let opening = Opening::new(&ticket(Rights::default()), &wish, None);
    let _ = world.put(from(4000), &opening.packet);
    let sent = world.take();
    let close: Vec<_> = sent.iter().filter_map(|(_, p)| bystander.open(p)).collect();
    assert_eq!(closed(&close), Some(Code::TIMEOUT));
    let answer = sent.iter().find(|(_, p)| p.starts_with(&opening.handshake)).unwrap();
    let device = Stranger::read(&opening, &answer.1);
    assert_ne!(device.epoch, epoch);
    assert_eq!(device.lost, StoreSet::ALL);
}

// SPEC: R-mark
#[test]
fn the_mark_of_a_heartbeat_moves_told_both_ways() {
    let mut world = World::new();
    let mut device = Stranger::connected(&mut world, &Wish::new(1));
    publish(&mut world, payload(1));
    device.take(&mut world);
    device.ack(&mut world, 1, 1);
    assert_eq!(told(&world), Serial(1));
    let got = device.beat(&mut world, Serial::ZERO);
    assert_eq!(notify(&got), Some((0, 1, vec![1], StoreSet::EMPTY)));
    assert_eq!(types(&device.beat(&mut world, Serial(1))), [STATUS]);
    assert_eq!(told(&world), Serial(1));
}

// SPEC: R-ttl-zero
#[test]
fn an_event_for_those_who_are_connected_is_missed_by_nobody_else() {
    let mut world = small();
    let device = Stranger::connected(&mut world, &Wish::new(1));
    for _ in 0..4 {
        world.now = world.now + ms(10);
        publish(&mut world, payload(1).ttl(Duration::ZERO));
    }
    assert_eq!(notify(&device.take(&mut world)).unwrap().2, [3, 4], "the ring holds two");
    world.run(ms(10));
    // A device that agrees on new keys is connected all the while.
    let mut new = Stranger::half_open(&mut world, &Wish::new(2));
    assert_eq!(notify(&new.beat(&mut world, Serial::ZERO)).unwrap().2, [3, 4]);
    let close = Close { code: Code::CLOSED, reason: "", retry_after: Duration::ZERO };
    let header = new.header();
    new.put(&mut world, &header, &[PacketExtension::Close(close)], &[]);
    new.take(&mut world);
    let mut late = Stranger::half_open(&mut world, &Wish::new(3));
    assert_eq!(late.lost, StoreSet::EMPTY);
    assert_eq!(types(&late.beat(&mut world, Serial::ZERO)), [STATUS]);
    assert!(device.take(&mut world).is_empty());
}

// SPEC: R-lease
#[test]
fn a_silent_device_is_asked_twice_and_forgotten() {
    let mut world = World::new();
    let device = Stranger::connected(&mut world, &Wish::new(1));
    let start = world.now;
    let asked: Vec<_> = world
        .run(secs(90))
        .into_iter()
        .filter_map(|(at, _, packet)| Some((at.since(start).as_secs(), device.open(&packet)?)))
        .map(|(at, p)| (at, p.ty(), p.header.wanted))
        .collect();
    assert_eq!(asked, [(80, STATUS, true), (81, STATUS, true)], "3 x 25 s + 5 s");
    assert_eq!(world.service.stats().records, 0);
}

// SPEC: R-silence
#[test]
fn a_device_that_does_not_answer_is_left_in_peace_until_it_is_heard() {
    let mut world = World::new();
    let mut device = Stranger::connected(&mut world, &Wish::new(1));
    world.run(secs(10));
    publish(&mut world, payload(1));
    let start = world.now;
    let sent = world.run(secs(60));
    let times: Vec<_> = sent.iter().map(|(at, ..)| at.since(start).as_secs()).collect();
    assert_eq!(times, [0, 1, 3, 7, 15]);
    assert_eq!(types(&device.beat(&mut world, Serial::ZERO)), [STATUS, NOTIFY]);
}

// SPEC: R-no-replay, R-window
#[test]
fn a_packet_that_comes_again_does_nothing() {
    let mut world = World::new();
    let mut device = Stranger::connected(&mut world, &Wish::new(1));
    let packets: Vec<_> = (0..2u8)
        .map(|i| {
            let header = device.header();
            seal(&device.keys, &device.identifiers[0].0, &header, &[], &bytes_of(&post(9, i, 3)))
        })
        .collect();
    let _ = world.put(device.from, &packets[0]);
    assert!(!device.take(&mut world).is_empty());
    for _ in 0..3 {
        let _ = world.put(device.from, &packets[0]);
        assert!(device.take(&mut world).is_empty());
    }
    assert_eq!(world.service.stats().duplicates, 3);
    // The other one comes when 128 newer ones have come.
    device.number = 2 + 128;
    device.ack(&mut world, 1, 0);
    let _ = world.put(device.from, &packets[1]);
    assert!(device.take(&mut world).is_empty());
    assert_eq!(world.service.stats().published, 1);
}

// SPEC: R-dense
#[test]
fn serials_have_no_holes() {
    let mut world = small();
    let (now, account) = (world.now, World::account());
    for refused in [0, 2] {
        assert!(world.service.deliver(now, &account, Serial(refused), payload(1)).is_err());
    }
    assert!(world.service.deliver(now, &account, Serial(1), payload(1)).is_ok());
    assert!(world.service.deliver(now, &account, Serial(1), payload(1)).is_err());
    assert!(world.service.deliver(now, &account, Serial(2), payload(1)).is_ok());
}

// SPEC: R-foreign
#[test]
fn packets_of_strangers_are_counted_and_nothing_else() {
    let mut world = World::new();
    Stranger::connected(&mut world, &Wish::new(1));
    let before = world.service.stats();
    let foreign = Disposition::Dropped(DropReason::ForeignIdentifier);
    for first in 1..=255 {
        assert_eq!(world.put(from(1), &[first; 60]), foreign);
    }
    assert!(world.take().is_empty());
    let after = world.service.stats();
    assert_eq!(after.dropped_for(DropReason::ForeignIdentifier), 255);
    assert_eq!((after.connected, after.records, after.resets), (before.connected, before.records, 0));
}

// SPEC: R-after-aead, R-authentic
#[test]
fn one_wrong_bit_does_nothing() {
    let mut world = World::new();
    let mut device = Stranger::connected(&mut world, &Wish::new(1));
    let header = device.header();
    let packet = seal(&device.keys, &device.identifiers[0].0, &header, &[], &bytes_of(&post(9, 1, 3)));
    for bit in 0..packet.len() * 8 {
        let mut bad = packet.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        let expected = if bit < 128 { DropReason::ForeignIdentifier } else { DropReason::Unauthentic };
        assert_eq!(world.put(device.from, &bad), Disposition::Dropped(expected), "bit {bit}");
        assert!(world.take().is_empty());
    }
    let _ = world.put(device.from, &packet);
    assert!(!device.take(&mut world).is_empty(), "the genuine one is still new");
}
