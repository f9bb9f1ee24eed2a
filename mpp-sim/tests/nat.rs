//! Deaf but "connected" (F1): devices behind boxes that forget them, give them other ports and addresses, or lie behind
//! others.

mod common;

use std::time::Duration;

use common::{ALICE, connect, ms, quick, secs, store, world};
use mpp_proto::{ConnectionState, DeviceConfig, DeviceEvent, Instant, ServiceEvent};
use mpp_sim::nat::{Dependence, Lifetime, Ports};
use mpp_sim::{
    Conditions, DeviceHandle, NatConfig, NatHandle, Observer, Packet, Post, Record, ServiceHandle, Verdict,
    World, each_seed,
};

/// There and back.
const ROUND_TRIP: Duration = Duration::from_millis(40);
const SERVICE_PORT: u16 = 15096;

/// With forward secrecy, as keys without it are renewed within the hour: each test is about one connection.
fn every(interval: Duration) -> DeviceConfig {
    let mut config = DeviceConfig::default();
    config.interval = interval;
    config
}

/// A device behind these boxes, the outermost first, connected to a service.
fn behind(
    seed: u64,
    boxes: &[NatConfig],
    config: DeviceConfig,
) -> (World, ServiceHandle, DeviceHandle, Vec<NatHandle>) {
    let (mut world, service) = world(seed);
    let ticket = world.ticket(&[service], ALICE, 1);
    let device = world.add_device(ticket, config);
    let mut handles: Vec<NatHandle> = Vec::new();
    for config in boxes {
        let nat = match handles.last() {
            Some(outer) => world.add_nat_behind(config.clone(), *outer),
            None => world.add_nat(config.clone()),
        };
        handles.push(nat);
    }
    world.put_behind(device, *handles.last().expect("a box"));
    connect(&mut world, device);
    (world, service, device, handles)
}

fn heartbeats(world: &World, device: DeviceHandle) -> u64 {
    world.device(device).expect("it runs").stats().heartbeats
}

/// Posts an event and lets time pass until it arrives. Says after how long, and how much later than the first heartbeat
/// that was sent after the posting.
fn post_and_wait(
    world: &mut World,
    service: ServiceHandle,
    device: DeviceHandle,
    size: usize,
) -> (Duration, Option<Duration>) {
    let (beats, had) = (heartbeats(world, device), world.payloads(device).count());
    let payload = world.rng().bytes(size);
    world.publish(service, ALICE, &Post::new(store(2), payload)).unwrap();
    let posted = world.now();
    let mut beat = None;
    let came = world.run_until(secs(700), |w| {
        if beat.is_none() && heartbeats(w, device) > beats {
            beat = Some(w.now());
        }
        w.payloads(device).count() > had
    });
    assert!(came, "never delivered: {:#?}", world.log(device));
    (world.now().since(posted), beat.map(|beat| world.now().since(beat)))
}

/// It was never disconnected, so it was the path that was followed.
fn held(world: &World, device: DeviceHandle) {
    assert_eq!(world.device(device).unwrap().stats().connects, 1, "{:#?}", world.log(device));
    world.check();
}

/// The kinds of boxes under which a device with this interval is not to be reached for a part of it, and whether they
/// give another port afterwards.
fn boxes() -> Vec<(&'static str, Vec<NatConfig>, Duration)> {
    let preserving = |s| NatConfig { ports: Ports::Preserved, ..NatConfig::forgetful(secs(s)) };
    let full_cone = NatConfig {
        mapping: Dependence::EndpointIndependent,
        filtering: Dependence::EndpointIndependent,
        ..NatConfig::forgetful(secs(31))
    };
    let refreshed = NatConfig { inbound_refresh: true, ..NatConfig::forgetful(secs(10)) };
    vec![
        ("another port after 31 s", vec![NatConfig::forgetful(secs(31))], secs(60)),
        ("another port after 31 s, anybody may send", vec![full_cone], secs(60)),
        ("another port after 10 s, refreshed from outside", vec![refreshed], secs(25)),
        ("the same port after 120 s", vec![preserving(120)], secs(216)),
        ("the same port after 12 s", vec![preserving(12)], secs(25)),
        ("linux", vec![NatConfig::linux()], secs(216)),
        ("two boxes", vec![NatConfig::linux(), NatConfig::forgetful(secs(31))], secs(60)),
        (
            "two boxes, the outer one forgets",
            vec![NatConfig::forgetful(secs(20)), NatConfig::linux()],
            secs(60),
        ),
        ("three boxes", vec![NatConfig::default(), preserving(15), NatConfig::forgetful(secs(31))], secs(60)),
    ]
}

// F1. Whenever it is posted: it comes at once, or with the next heartbeat. That one takes half a round trip, and so do
// the challenge, its answer, and the notification: a round trip after the heartbeat has been answered.
#[test]
fn an_event_posted_at_any_moment_comes_with_the_next_heartbeat() {
    let mut deaf = vec![0; boxes().len()];
    each_seed(60, |seed| {
        for ((name, boxes, interval), deaf) in boxes().into_iter().zip(&mut deaf) {
            let (mut world, service, device, _) = behind(seed, &boxes, every(interval));
            for event in 0..6 {
                let offset = world.rng().up_to(interval * 2);
                world.run_for(offset);
                // One packet, or five. What went into the void has closed the congestion window, to two at worst: three
                // round trips for five packets, which leave in bursts, a millisecond apart.
                let (size, most) =
                    if event % 3 == 0 { (5000, ROUND_TRIP * 4 + ms(5)) } else { (20, ROUND_TRIP * 2) };
                let (waited, after_beat) = post_and_wait(&mut world, service, device, size);
                if let Some(late) = after_beat {
                    assert!(late <= most, "{name}: event {event}: {late:?} after the heartbeat");
                    *deaf += u64::from(waited > secs(1));
                }
            }
            held(&world, device);
            let moved = world.service(service).stats().migrations > 0;
            let same_port = boxes.iter().all(|b| b.ports == Ports::Preserved);
            assert!(!(moved && same_port), "{name}: the port is the same, and so is the path");
        }
    });
    // Each kind of box makes a device deaf for a while, or nothing was shown.
    assert!(deaf.iter().all(|d| *d > 0), "{deaf:?}");
}
