//! Datagrams of 1 to 16 packets through loss, duplication and reordering.

mod common;

use common::{ALICE, connect, ms, pair, quick, secs, store, world};
use mpp_proto::{EventError, MAX_PAYLOAD, PublishError};
use mpp_sim::{Conditions, Loss, Packet, Post, World, each_seed};

/// Data packets to the device at `MAX_PAYLOAD`: 16,384 bytes in packets of 1,200.
const MOST_PACKETS: usize = 16;

#[test]
fn every_size_of_payload_arrives_whole() {
    let (mut world, service, device) = pair(1);
    let sizes = (0..=1300).step_by(13).chain((1300..=MAX_PAYLOAD).step_by(251)).chain([MAX_PAYLOAD]);
    let mut sent = Vec::new();
    for size in sizes {
        let payload = world.rng().bytes(size);
        world.publish(service, ALICE, &Post::new(store(2), payload.clone())).unwrap();
        sent.push(payload);
        let n = sent.len();
        assert!(world.run_until(secs(20), |w| w.payloads(device).count() == n), "{size} bytes arrive");
    }
    assert!(world.payloads(device).map(|(_, p)| p).eq(sent.iter().map(Vec::as_slice)));
    assert_eq!(world.check().delivered, sent.len() as u64);
}

#[test]
fn the_largest_payload_takes_sixteen_packets_at_most_and_a_larger_one_is_refused() {
    let (mut world, service, device) = pair(2);
    world.run_for(secs(2));
    world.network().capture(true);
    let payload = world.rng().bytes(MAX_PAYLOAD);
    world.publish(service, ALICE, &Post::new(store(2), payload.clone())).unwrap();
    assert!(world.run_until(secs(5), |w| w.payloads(device).count() == 1));
    let from = world.service_addresses(service)[0];
    let full = |p: &Packet| p.from == from && p.payload.len() > 500;
    let packets = world.network().take_captured().iter().filter(|c| full(&c.packet)).count();
    assert!((14..=MOST_PACKETS).contains(&packets), "{packets} packets for {MAX_PAYLOAD} bytes");
    let too_large = Post::new(store(2), vec![0; MAX_PAYLOAD + 1]);
    let refused = world.publish(service, ALICE, &too_large).unwrap_err();
    assert_eq!(refused, PublishError::Event(EventError::Payload { size: MAX_PAYLOAD + 1 }));
    assert!(refused.to_string().contains("16384"), "the limit is named: {refused}");
}

/// Payloads of random sizes, one after another, while the network is as bad as it gets for this seed.
fn through(seed: u64, conditions: Conditions, events: u64) {
    let (mut world, service) = world(seed);
    world.set_default_conditions(conditions, conditions);
    let ticket = world.ticket(&[service], ALICE, 1);
    let device = world.add_device(ticket, quick());
    connect(&mut world, device);
    let mut sent = Vec::new();
    for _ in 0..events {
        let size = world.rng().between(0, MAX_PAYLOAD as u64) as usize;
        let payload = world.rng().bytes(size);
        world.publish(service, ALICE, &Post::new(store(2), payload.clone())).unwrap();
        sent.push(payload);
        let n = sent.len();
        let came = world.run_until(secs(1800), |w: &World| w.payloads(device).count() >= n);
        assert!(came, "seed {seed}, {conditions:?}: payload {n} of {size} bytes; {:#?}", world.log(device));
    }
    world.run_for(secs(60));
    assert!(world.payloads(device).map(|(_, p)| p).eq(sent.iter().map(Vec::as_slice)));
    let tally = world.check();
    assert_eq!((tally.delivered, tally.gaps), (events, 0));
}

#[test]
fn loss_from_none_to_half() {
    each_seed(33, |seed| {
        let loss = f64::from(seed as u32 % 11) * 0.05;
        through(seed, Conditions::perfect(ms(20)).jitter(ms(5)).loss(loss), 6);
    });
}

#[test]
fn duplicates_and_reordering() {
    each_seed(24, |seed| {
        let (duplicate, reorder) = (f64::from(seed as u32 % 4) / 4.0, f64::from(seed as u32 % 5) / 5.0);
        let base = Conditions::perfect(ms(20)).jitter(ms(40)).loss(0.1);
        through(seed, base.duplicate(duplicate).reorder(reorder), 6);
    });
}

#[test]
fn bursts_of_loss_and_flipped_bits() {
    each_seed(16, |seed| {
        let loss = Loss::Burst { enter: 0.03, leave: 0.25, bad: 0.9 };
        let base = Conditions::perfect(ms(30)).jitter(ms(20)).corrupt(0.05).duplicate(0.05);
        through(seed, Conditions { loss, ..base }, 6);
    });
}
