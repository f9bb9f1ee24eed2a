//! The sans-IO contract, as far as it shows from outside (architecture.md, rules 1, 2, 4, 9 and 11). Rules 1, 5 and 9
//! are checked by the world itself after every call; here are the scenarios in which they could break.

mod common;

use std::net::SocketAddr;

use common::{ALICE, connect, lossy, ms, pair, quick, secs, store, world};
use mpp_proto::{DeviceEvent, Instant, Resume, ServiceEvent, StoreSet};
use mpp_sim::{Conditions, Drive, Entry, Packet, Post, Record, Restart, Rng, Trace, World, each_seed};

/// What a run left behind.
type Run = (Trace, Vec<Vec<Entry>>, Vec<(Instant, ServiceEvent)>);

/// A thousand events and everything that can happen between them.
fn eventful(seed: u64, drive: Drive) -> Run {
    let (mut world, service) = world(seed);
    world.set_drive(drive);
    world.set_default_conditions(lossy(0.1).duplicate(0.02), lossy(0.1).reorder(0.05));
    let accounts = [ALICE, ALICE, "bob@example.com"];
    let devices: Vec<_> = (0..3)
        .map(|d| {
            let ticket = world.ticket(&[service], accounts[d as usize], d);
            world.add_device(ticket, quick())
        })
        .collect();
    world.run_for(secs(5));
    for event in 0..1000u32 {
        let account = accounts[world.rng().index(3)];
        let size = if world.rng().chance(0.05) { 5000 } else { 20 };
        let payload = world.rng().bytes(size);
        let post = if event % 3 == 0 { Post::changed(store(11)) } else { Post::new(store(2), payload) };
        world.publish(service, account, &post).unwrap();
        let device = devices[world.rng().index(3)];
        let alive = world.device(device).is_some();
        match event % 100 {
            20 => world.black_hole(device, secs(8)),
            40 => world.kill(device),
            60 => {
                for device in devices.iter().copied() {
                    if world.device(device).is_none() {
                        world.restore(device);
                    }
                }
            }
            80 if alive => {
                world.subscribe(device, StoreSet::EMPTY.with(store(2))).expect("few requests under way");
            }
            99 if (400..700).contains(&event) => {
                world.restart_service(service, Restart { secret: event < 600, heads: event > 500 });
            }
            _ => {}
        }
        let pause = world.rng().up_to(ms(150));
        world.run_for(pause);
    }
    world.run_for(secs(30));
    let logs = devices.iter().map(|d| world.log(*d).to_vec()).collect();
    (world.trace(), logs, world.service_log(service).to_vec())
}

#[test]
fn rule_1_no_deadline_is_ever_stale() {
    // The world panics after any handle_timeout that leaves a deadline in the past, and on a busy loop. Here: a
    // service that vanishes, devices that lose it, wait, and find it again, over four hours.
    let (mut world, service, device) = pair(3);
    for round in 0..20 {
        world.stop_service(service);
        world.run_for(secs(60 * (round % 7)));
        world.restart_service(service, Restart { secret: round % 2 == 0, heads: false });
        world.run_for(secs(600));
        connect(&mut world, device);
    }
    assert!(world.trace().packets() > 500, "{:?}", world.trace());
}

#[test]
fn rule_2_early_calls_change_nothing() {
    each_seed(2, |seed| {
        let (lazy, busy) = (eventful(seed, Drive::AtDeadlines), eventful(seed, Drive::EveryMillisecond));
        assert!(lazy.0.packets() > 1500, "{:?}", lazy.0);
        assert_eq!(lazy.1, busy.1, "what the applications saw");
        assert_eq!((lazy.0, lazy.2), (busy.0, busy.2));
    });
}

#[test]
fn rule_4_equal_seeds_give_equal_traces_and_others_do_not() {
    let first = eventful(100, Drive::AtDeadlines);
    assert_eq!(first, eventful(100, Drive::AtDeadlines));
    assert_ne!(first.0, eventful(101, Drive::AtDeadlines).0);
}

/// Bytes to and from an address, as the wire saw them.
fn bytes_to(world: &mut World, address: SocketAddr) -> usize {
    let captured = world.network().take_captured();
    captured.iter().filter(|c| c.packet.to == address).map(|c| c.packet.payload.len()).sum()
}

#[test]
fn rule_9_a_device_that_never_answers_is_sent_no_more_than_it_sent() {
    let (mut world, service) = world(5);
    let deaf = Conditions::default().loss(1.0);
    world.set_default_conditions(Conditions::default(), deaf);
    let ticket = world.ticket(&[service], ALICE, 1);
    world.network().capture(true);
    let device = world.add_device(ticket, quick());
    for _ in 0..20 {
        world.publish(service, ALICE, &Post::new(store(2), vec![0; 16_000])).unwrap();
        world.run_for(secs(10));
    }
    assert!(!world.is_connected(device));
    let captured = world.network().take_captured();
    let sum = |from_service: bool| -> usize {
        let home = world.service_addresses(service);
        let picked = captured.iter().filter(|c| home.contains(&c.packet.from) == from_service);
        picked.map(|c| c.packet.payload.len()).sum()
    };
    assert!(sum(true) > 0 && sum(true) <= sum(false), "{} bytes for {}", sum(true), sum(false));
}

#[test]
fn rule_9_copies_from_spoofed_addresses_bring_no_more_than_they_cost() {
    let (mut world, service) = world(6);
    world.network().capture(true);
    let ticket = world.ticket(&[service], ALICE, 1);
    let device = world.add_device(ticket, quick());
    connect(&mut world, device);
    world.publish(service, ALICE, &Post::new(store(2), vec![7; 10_000])).unwrap();
    world.run_for(secs(60));
    let home = world.service_addresses(service)[0];
    let captured = world.network().take_captured();
    let to_service: Vec<_> = captured.into_iter().filter(|c| c.packet.to == home).collect();
    assert!(to_service.len() > 5);
    for (i, original) in to_service.iter().enumerate() {
        let victim = SocketAddr::from(([203, 0, 113, 1 + i as u8], 53));
        let mut cost = 0;
        for _ in 0..20 {
            cost += original.packet.payload.len();
            let _ = world.strike(Packet { from: victim, ..original.packet.clone() });
            world.run_for(ms(100));
        }
        world.publish(service, ALICE, &Post::new(store(2), vec![7; 5000])).unwrap();
        world.run_for(secs(20));
        let gain = bytes_to(&mut world, victim);
        // An answer of the exchange is at most its question, a challenge at most three times the packet.
        let most = if original.packet.payload[..16] == [0; 16] { cost } else { 3 * cost };
        assert!(gain <= most, "{gain} bytes to a victim for {cost}");
    }
    assert!(world.is_connected(device), "and the device did not notice");
}

#[test]
fn rule_11_what_is_kept_is_of_no_connection() {
    let (mut world, service, device) = pair(7);
    for n in 0..5u8 {
        world.publish(service, ALICE, &Post::new(store(2), vec![n])).unwrap();
        world.run_for(secs(1));
    }
    world.run_for(secs(5));
    let kept = world.device(device).unwrap().resume();
    assert_eq!(kept.position().0, 5);
    // Ten minutes of heartbeats move counters, identifiers and round-trip times, and nothing that is kept.
    world.run_for(secs(600));
    assert_eq!(world.device(device).unwrap().resume(), kept);

    world.kill(device);
    for n in 5..8u8 {
        world.publish(service, ALICE, &Post::new(store(2), vec![n])).unwrap();
    }
    world.run_for(secs(5));
    world.restore(device);
    connect(&mut world, device);
    world.run_for(secs(5));
    let connected = world.log(device).iter().rev().find_map(|e| match &e.record {
        Record::Event(DeviceEvent::Connected(c)) => Some(*c),
        _ => None,
    });
    assert!(connected.is_some_and(|c| c.recovered && c.lost.is_empty()), "{connected:?}");
    let got: Vec<_> = world.payloads(device).map(|(_, p)| p[0]).collect();
    assert_eq!(got, [0, 1, 2, 3, 4, 5, 6, 7]);
    assert_eq!(world.check().delivered, 8);
}

#[test]
fn rule_11_a_spoiled_resume_is_an_error_or_a_value() {
    let (mut world, _, device) = pair(8);
    world.kill(device);
    let whole = world.kept(device).unwrap().to_bytes();
    assert!(whole.len() < 2048, "{} bytes", whole.len());
    for len in 0..whole.len() {
        assert!(Resume::from_bytes(&whole[..len]).is_err(), "cut to {len} of {}", whole.len());
    }
    let mut rng = Rng::new(9);
    for _ in 0..2000 {
        let mut bytes = whole.clone();
        let at = rng.index(bytes.len());
        bytes[at] = rng.next_u64() as u8;
        let len = rng.index(200);
        let noise = rng.bytes(len);
        // Neither panics, and what reads as a value writes as one.
        for resume in [Resume::from_bytes(&bytes), Resume::from_bytes(&noise)].into_iter().flatten() {
            assert_eq!(Resume::from_bytes(&resume.to_bytes()).as_ref(), Ok(&resume));
        }
    }
}
