//! Packets from somebody who has no keys: spoiled and invented ones. Repeated ones: replay.rs.

mod common;

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use common::{ALICE, connect, pair, quick, secs, store, world};
use mpp_proto::{DeviceEvent, Disposition, Instant, StoreSet};
use mpp_sim::attacker::flipped;
use mpp_sim::{
    Captured, Conditions, DeviceHandle, Entry, Observer, Packet, Post, Record, Rng, ServiceHandle, Trace,
    Verdict, World,
};

const SERVICE_PORT: u16 = 15096;

/// Makes spoiled copies of a packet and emits each.
type Spoil = fn(&[u8], &mut dyn FnMut(Vec<u8>));

/// Sends spoiled copies of what passes by, ahead of the original.
struct Spoiler {
    /// Spoil the packets of the exchange, or those of the connection.
    exchange: bool,
    /// The device has sent its first data packet: the exchange is over.
    confirmed: bool,
    spoil: Spoil,
    sent: Rc<Cell<u64>>,
}

impl Observer for Spoiler {
    fn packet(&mut self, now: Instant, packet: &Packet, inject: &mut Vec<(Instant, Packet)>) -> Verdict {
        let first = packet.payload.get(..16) == Some(&[0; 16]);
        self.confirmed |= packet.to.port() == SERVICE_PORT && !first;
        if self.exchange != self.confirmed {
            let Packet { from, to, .. } = *packet;
            (self.spoil)(&packet.payload, &mut |payload| {
                self.sent.set(self.sent.get() + 1);
                inject.push((now + Duration::from_micros(1), Packet { from, to, payload }));
            });
        }
        Verdict::Pass
    }
}

fn flips(payload: &[u8], emit: &mut dyn FnMut(Vec<u8>)) {
    (0..payload.len() * 8).for_each(|bit| emit(flipped(payload, bit)));
}

fn cuts(payload: &[u8], emit: &mut dyn FnMut(Vec<u8>)) {
    (0..payload.len()).for_each(|len| emit(payload[..len].to_vec()));
}

fn noise(payload: &[u8], emit: &mut dyn FnMut(Vec<u8>)) {
    let mut rng =
        Rng::new(payload.iter().fold(payload.len() as u64, |n, b| n.rotate_left(7) ^ u64::from(*b)));
    for _ in 0..200 {
        let len = rng.index(1500);
        emit(rng.bytes(len));
        // A head that is right, and noise after it.
        let keep = rng.index(payload.len() + 1);
        let mut headed = payload[..keep].to_vec();
        headed.extend(rng.bytes(len.min(1452 - keep.min(1452)).max(1)));
        emit(headed);
    }
}

struct Outcome {
    trace: Trace,
    log: Vec<Entry>,
    service_events: usize,
    spoiled: u64,
    /// Drops that both machines counted.
    dropped: u64,
}

/// Connect, three notifications (one of many packets), a change of filter, heartbeats.
fn exchange(spoil: Option<(bool, Spoil)>) -> Outcome {
    let (mut world, service) = world(21);
    let sent = Rc::new(Cell::new(0));
    if let Some((exchange, spoil)) = spoil {
        let spoiler = Spoiler { exchange, confirmed: false, spoil, sent: sent.clone() };
        world.network().observe(Some(Box::new(spoiler)));
    }
    let ticket = world.ticket(&[service], ALICE, 1);
    let device = world.add_device(ticket, quick());
    connect(&mut world, device);
    for size in [0, 64, 4000] {
        let payload = world.rng().bytes(size);
        world.publish(service, ALICE, &Post::new(store(2), payload)).unwrap();
        world.run_for(secs(1));
    }
    world.publish(service, ALICE, &Post::changed(store(11))).unwrap();
    world.subscribe(device, StoreSet::EMPTY.with(store(2))).unwrap();
    world.run_for(secs(60));
    world.network().observe(None);
    world.run_for(secs(30));
    let stats = world.device(device).unwrap().stats();
    let dropped = stats.dropped.iter().chain(&world.service(service).stats().dropped).sum();
    world.check();
    Outcome {
        trace: world.trace(),
        log: world.log(device).to_vec(),
        service_events: world.service_log(service).len(),
        spoiled: sent.get(),
        dropped,
    }
}

#[test]
fn spoiled_data_packets_change_nothing_but_a_counter() {
    let clean = exchange(None);
    assert_eq!(clean.dropped, 0);
    for spoil in [flips as Spoil, cuts, noise] {
        let spoiled = exchange(Some((false, spoil)));
        assert!(spoiled.spoiled > 2000, "{}", spoiled.spoiled);
        assert_eq!(spoiled.log, clean.log);
        assert_eq!(spoiled.service_events, clean.service_events);
        // Not even a byte of what they say afterwards differs.
        assert_eq!(spoiled.trace, clean.trace);
        assert!(spoiled.dropped > 2000 && spoiled.dropped <= spoiled.spoiled, "{} counted", spoiled.dropped);
    }
}

/// A log without what the duration of an exchange changes, and without hints, which are what they say.
fn gist(log: &[Entry]) -> Vec<Record> {
    let hint = |r: &Record| matches!(r, Record::Event(DeviceEvent::Hint { .. }));
    let mut gist: Vec<_> = log.iter().map(|e| e.record.clone()).filter(|r| !hint(r)).collect();
    for record in &mut gist {
        if let Record::Event(DeviceEvent::Connected(c)) = record {
            c.took = Duration::ZERO;
        }
    }
    gist
}

#[test]
fn spoiled_packets_of_the_exchange_do_not_keep_a_device_from_connecting() {
    let clean = exchange(None);
    for spoil in [flips as Spoil, cuts, noise] {
        let spoiled = exchange(Some((true, spoil)));
        assert!(spoiled.spoiled > 500, "{}", spoiled.spoiled);
        // A forged Error or Defer is a hint, which may cost a packet; the result is the same.
        assert_eq!(gist(&spoiled.log), gist(&clean.log));
        assert_eq!(spoiled.service_events, clean.service_events);
    }
}

#[test]
fn spoiled_packets_are_refused_one_by_one() {
    let (mut world, service, device) = captured_pair(22);
    let captured = world.network().take_captured();
    world.network().capture(false);
    let answers = answers_of_exchange(&captured);
    let before = (world.log(device).len(), world.service_log(service).len());
    for (i, original) in captured.iter().enumerate() {
        let mut spoiled = Vec::new();
        // The test above takes every bit; this one some of each large packet, and looks at every answer.
        flips(&original.packet.payload, &mut |p| spoiled.push(p));
        let step = if spoiled.len() > 2000 { 7 } else { 1 };
        for payload in spoiled.into_iter().step_by(step) {
            let said = world.strike(Packet { payload, ..original.packet.clone() });
            let refused = matches!(said, Some(Disposition::Dropped(_) | Disposition::NotForUs));
            assert!(refused || answers.contains(&i), "packet {i} with a flipped bit: {said:?}");
        }
    }
    world.run_for(secs(1));
    assert_eq!((world.log(device).len(), world.service_log(service).len()), before);
    still_works(&mut world, service, device);
}

/// A connected pair that has said everything it has to say, and the capture of it.
fn captured_pair(seed: u64) -> (World, ServiceHandle, DeviceHandle) {
    let (mut world, service) = world(seed);
    world.network().capture(true);
    let ticket = world.ticket(&[service], ALICE, 1);
    let device = world.add_device(ticket, quick());
    connect(&mut world, device);
    for size in [0, 100, 5000] {
        let payload = world.rng().bytes(size);
        world.publish(service, ALICE, &Post::new(store(2), payload)).unwrap();
        world.run_for(secs(1));
    }
    world.subscribe(device, StoreSet::EMPTY.with(store(2)).with(store(3))).unwrap();
    world.run_for(secs(30));
    (world, service, device)
}

/// Which of the captured packets are answers of the exchange, whose clear part a device cannot hold against anybody.
fn answers_of_exchange(captured: &[Captured]) -> Vec<usize> {
    let first_data = captured
        .iter()
        .position(|c| c.packet.to.port() == SERVICE_PORT && c.packet.payload.get(..16) != Some(&[0; 16]));
    let from_service = |i: &usize| captured[*i].packet.from.port() == SERVICE_PORT;
    (0..first_data.unwrap_or_default()).filter(from_service).collect()
}

/// A new event still arrives, once.
fn still_works(world: &mut World, service: ServiceHandle, device: DeviceHandle) {
    let before = world.payloads(device).count();
    world.publish(service, ALICE, &Post::new(store(2), "still here")).unwrap();
    world.run_for(secs(120));
    assert_eq!(world.payloads(device).count(), before + 1, "{:#?}", world.log(device));
    world.check();
}

#[test]
fn noise_from_strangers_is_dropped_and_not_answered() {
    let (mut world, service, device) = pair(26);
    world.run_for(secs(3));
    world.network().capture(true);
    let home = world.service_addresses(service)[0];
    let phone = world.endpoints(device).next().unwrap().1;
    let mut rng = Rng::new(26);
    for n in 0..20_000u32 {
        let mut payload = vec![0; rng.index(1500)];
        rng.fill(&mut payload);
        if n % 3 == 0 {
            // The head of a first packet.
            let zeros = payload.len().min(16);
            payload[..zeros].fill(0);
        }
        let from = SocketAddr::from(([203, 0, 113, rng.next_u64() as u8], rng.next_u64() as u16 | 1));
        for to in [home, phone] {
            let said = world.strike(Packet { from, to, payload: payload.clone() });
            assert!(matches!(said, Some(Disposition::Dropped(_) | Disposition::NotForUs)), "{said:?}");
        }
    }
    assert_eq!(world.network().take_captured(), []);
    still_works(&mut world, service, device);
}

#[test]
fn a_network_that_flips_bits_only_costs_time() {
    let (mut world, service, device) = pair(27);
    let bad = Conditions::default().corrupt(0.3);
    world.set_conditions(device, bad, bad);
    for n in 0..100u8 {
        world.publish(service, ALICE, &Post::new(store(2), vec![n; 50])).unwrap();
        world.run_for(secs(10));
    }
    world.settle(secs(600));
    assert!(world.payloads(device).map(|(_, p)| p[0]).eq(0..100));
    assert_eq!(world.check().delivered, 100);
}
