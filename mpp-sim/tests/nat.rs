//! Deaf but "connected" (F1): devices behind boxes that forget them, give them other ports and addresses, or lie behind
//! others.

mod common;

use std::time::Duration;

use common::{ALICE, connect, ms, secs, store, world};
use mpp_proto::{DeviceConfig, DeviceEvent, Instant, ServiceEvent};
use mpp_sim::nat::{Dependence, Ports};
use mpp_sim::{
    Act, DeviceHandle, NatConfig, NatHandle, Observer, Packet, Post, Record, ServiceHandle, Tactic, Verdict,
    World, each_seed,
};

/// There and back.
const ROUND_TRIP: Duration = Duration::from_millis(40);

/// With forward secrecy, as keys without it are renewed within the hour: each test is about one connection, and one
/// interval; `keepalive.rs` has those that are learned.
fn every(interval: Duration) -> DeviceConfig {
    let mut config = DeviceConfig::default();
    config.interval = interval;
    config.learn_interval = false;
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

// F1. The allowance for loss: whichever packet of that is lost, it costs a second and a round trip.
#[test]
fn a_packet_lost_on_top_of_it_costs_a_second() {
    let mut late = 0;
    for (name, boxes, interval) in boxes() {
        for lost in 0..14 {
            let (mut world, service, device, _) = behind(lost, &boxes, every(interval));
            let offset = world.rng().up_to(interval);
            world.run_for(interval + offset);
            let attacker = world.attack(&[Tactic::always(Act::Take).skip(lost).limit(1)]);
            let (_, after_beat) = post_and_wait(&mut world, service, device, 20);
            if let Some(after) = after_beat {
                let most = ROUND_TRIP * 3 + secs(1);
                assert!(after <= most, "{name}: packet {lost} lost: {after:?} after the heartbeat");
                late += u64::from(after > ROUND_TRIP * 2);
            }
            drop(attacker);
            world.network().observe(None);
            held(&world, device);
        }
    }
    assert!(late > 5, "{late} losses were in the way");
}

// F1, F7. A heartbeat from elsewhere may be a copy: until the challenge there is answered it gets three times what it
// brought, and no part of a Notify.
#[test]
fn the_path_moves_only_after_the_answer_and_gets_little_before() {
    each_seed(20, |seed| {
        let (mut world, service, device, _) =
            behind(seed, &[NatConfig::forgetful(secs(31))], every(secs(60)));
        let home = world.service_addresses(service)[0];
        let old = world.seen_from(device, home).expect("just connected");
        world.run_for(secs(40));
        assert_eq!(world.seen_from(device, home), None, "forgotten");
        world.network().capture(true);
        post_and_wait(&mut world, service, device, 8000);
        let captured = world.network().take_captured();
        let from_device: Vec<_> = captured.iter().filter(|c| c.packet.to == home).collect();
        let new = from_device[0].packet.from;
        assert_ne!(new, old);
        let moved = world.service_log(service).iter().find_map(|(at, event)| match event {
            ServiceEvent::Moved { path, .. } if path.remote == new => Some(*at),
            _ => None,
        });
        let moved = moved.expect("it was followed");
        // The second packet from there is the answer.
        assert_eq!(moved, from_device[1].at + ROUND_TRIP / 2);
        let before: Vec<_> = captured
            .iter()
            .filter(|c| c.at < moved && c.packet.to == new)
            .map(|c| c.packet.payload.len())
            .collect();
        let came = from_device[0].packet.payload.len();
        assert!(before.iter().sum::<usize>() <= 3 * came, "{before:?} bytes for {came}");
        assert!(
            before.len() == 2 && before.iter().all(|len| *len < 200),
            "an answer, a challenge: {before:?}"
        );
        let beat_arrived = from_device[0].at + ROUND_TRIP / 2;
        let asked_old = captured.iter().any(|c| c.packet.to == old && c.at >= beat_arrived && c.at < moved);
        assert!(asked_old, "the old path is asked too");
        held(&world, device);
    });
}

// F1. A box that is switched off and on, at any moment, with the same address or another.
#[test]
fn a_reboot_of_a_box_is_survived_at_any_moment() {
    each_seed(60, |seed| {
        let new_address = seed % 2 == 0;
        let config = if seed % 3 == 0 { NatConfig::linux() } else { NatConfig::default() };
        let (mut world, service, device, nats) =
            behind(seed, &[NatConfig::default(), config], every(secs(25)));
        for _ in 0..5 {
            let offset = world.rng().up_to(secs(60));
            world.run_for(offset);
            let which = world.rng().index(2);
            world.reboot_nat(nats[which], new_address);
            let offset = world.rng().up_to(secs(10));
            world.run_for(offset);
            let (_, after_beat) = post_and_wait(&mut world, service, device, 20);
            assert!(after_beat.is_none_or(|late| late <= ROUND_TRIP * 2), "{after_beat:?}");
        }
        held(&world, device);
    });
}

// F1. The device knows that it is on another network, and the box there forgets it before it has been followed.
#[test]
fn a_move_while_the_box_forgets_is_survived() {
    each_seed(100, |seed| {
        let (mut world, service, device, _) = behind(seed, &[NatConfig::linux()], every(secs(25)));
        let kinds = [NatConfig::linux(), NatConfig::default(), NatConfig::forgetful(secs(31))];
        for round in 0..4 {
            let offset = world.rng().up_to(secs(40));
            world.run_for(offset);
            let kind = world.rng().index(3);
            let there = world.add_nat(kinds[kind].clone());
            world.put_behind(device, there);
            world.with_device(device, |d, now| d.handle_network_change(now, None));
            let soon = world.rng().up_to(ms(120));
            world.run_for(soon);
            world.reboot_nat(there, round % 2 == 0);
            let had = world.payloads(device).count();
            world.publish(service, ALICE, &Post::new(store(2), format!("{round}"))).unwrap();
            let posted = world.now();
            assert!(world.run_until(secs(60), |w| w.payloads(device).count() > had));
            // At once if it had been followed already: with the next heartbeat. Else the first one is repeated after 1 s
            // and after 2 s more: another path can be in question only when a second has passed.
            let waited = world.now().since(posted);
            assert!(waited <= secs(25) + ROUND_TRIP * 2, "{waited:?}");
            if world.service(service).stats().migrations == 0 {
                assert!(waited <= secs(3) + ROUND_TRIP * 2, "{waited:?}");
            }
        }
        held(&world, device);
    });
}

/// A radio that sleeps when nothing has passed for a while, and takes its time to wake up.
struct SleepyRadio {
    busy_until: Instant,
    awake_at: Instant,
}

/// How long it stays awake, and how long it takes to wake up.
const DOZES_AFTER: Duration = Duration::from_secs(5);
const WAKES_IN: Duration = Duration::from_millis(1500);

impl Observer for SleepyRadio {
    fn packet(&mut self, now: Instant, _: &Packet, _: &mut Vec<(Instant, Packet)>) -> Verdict {
        if now.since(self.busy_until) > DOZES_AFTER {
            self.awake_at = now + WAKES_IN;
        }
        self.busy_until = self.awake_at.max(now);
        Verdict::Delay(self.awake_at.since(now))
    }
}

// F1. Heartbeat and notification wake the radio up: both are repeated once in the meantime, nothing is given up.
#[test]
fn a_link_that_takes_a_second_and_a_half_to_wake_up() {
    each_seed(20, |seed| {
        let (mut world, service) = world(seed);
        let radio = SleepyRadio { busy_until: Instant::ZERO, awake_at: Instant::ZERO };
        world.network().observe(Some(Box::new(radio)));
        let ticket = world.ticket(&[service], ALICE, 1);
        let device = world.add_device(ticket, every(secs(25)));
        connect(&mut world, device);
        for _ in 0..30 {
            let pause = world.rng().up_to(secs(90));
            world.run_for(pause);
            let (waited, _) = post_and_wait(&mut world, service, device, 20);
            assert!(waited <= WAKES_IN + ROUND_TRIP, "{waited:?}");
        }
        let stats = world.service(service).stats();
        assert!(
            (5..=36).contains(&stats.retransmitted),
            "one repetition for each that came asleep, and few more: {stats:?}"
        );
        let lost = |r: &Record| matches!(r, Record::Event(DeviceEvent::Disconnected { .. }));
        assert!(!world.log(device).iter().any(|e| lost(&e.record)));
        held(&world, device);
    });
}

// F7. Somebody who copies every packet of the device to an address of his own, is always faster, and, if he relays,
// passes on what comes there, so that the answers to his challenge are copied and are faster too.
#[test]
fn a_copier_gets_nothing_after_a_round_trip_and_the_true_path_wins_back() {
    let mallory = "203.0.113.66:666".parse().unwrap();
    let mut hijacked = 0;
    for act in [Act::Race { from: mallory }, Act::Relay { from: mallory }] {
        each_seed(15, |seed| {
            let kinds = [NatConfig::linux(), NatConfig::default()];
            let (mut world, service, device, _) =
                behind(seed, &kinds[..1 + seed as usize % 2], every(secs(25)));
            let home = world.service_addresses(service)[0];
            let attacker = world.attack(&[Tactic::always(act)]);
            // Until he has been heard first for the first time.
            let tried = world.run_until(secs(60), |_| !attacker.loot().is_empty());
            assert!(tried);
            let began = world.now();
            world.run_for(ROUND_TRIP);
            for _ in 0..18 {
                let (waited, _) = post_and_wait(&mut world, service, device, 100);
                assert!(waited <= ROUND_TRIP, "{waited:?}");
                world.run_for(ms(500) - waited);
            }
            let late = began + ROUND_TRIP + Duration::from_micros(1);
            assert_eq!(attacker.loot_since(late), 0, "{:?}", attacker.loot());
            // He goes on, and may try again whenever he has been barred for ten seconds.
            for event in 0..200 {
                let pause = world.rng().up_to(secs(20));
                world.run_for(pause);
                let (waited, _) =
                    post_and_wait(&mut world, service, device, if event % 5 == 0 { 5000 } else { 20 });
                assert!(waited <= ROUND_TRIP * 3, "{waited:?}");
            }
            let loot = attacker.loot();
            let mut tries = loot.chunk_by(|a, b| b.0.since(a.0) < secs(5));
            let span = |t: &[(Instant, usize)]| t[t.len() - 1].0.since(t[0].0);
            assert!(tries.clone().count() > 20, "{}", tries.count());
            assert!(tries.all(|t| span(t) <= ROUND_TRIP), "{loot:?}");
            let to_mallory =
                |e: &ServiceEvent| matches!(e, ServiceEvent::Moved { path, .. } if path.remote == mallory);
            hijacked += world.service_log(service).iter().filter(|(_, e)| to_mallory(e)).count();
            let here = world.seen_from(device, home);
            let status = world.service(service).devices(world.now(), &mpp_proto::AccountId::of(ALICE)).next();
            assert_eq!(status.map(|s| s.path.remote), here, "the true path");
            held(&world, device);
        });
        // Only the relayed challenge is ever answered from there.
        assert_eq!(hijacked > 0, matches!(act, Act::Relay { .. }));
    }
}

// F7. Whoever copies packets to one address after another is asked once a second, whatever became of the one before.
#[test]
fn a_copier_with_many_addresses_is_asked_once_a_second() {
    let (mut world, service, device, _) = behind(1, &[NatConfig::linux()], every(secs(25)));
    let attacker = world.attack(&[]);
    for n in 0..200u8 {
        let from = ([203, 0, 113, n], 666).into();
        attacker.set_tactics(&[Tactic::always(Act::Race { from })]);
        post_and_wait(&mut world, service, device, 20);
        world.run_for(ms(80));
    }
    let suggested = world.service(service).stats().suggested;
    assert!((10..=22).contains(&suggested), "{suggested} in 20 s");
    held(&world, device);
}

// F1, F7. The box forgets the device while somebody copies its packets: the true new path is found all the same.
#[test]
fn a_device_that_its_box_forgot_is_found_beside_a_copier() {
    each_seed(20, |seed| {
        let (mut world, service, device, _) =
            behind(seed, &[NatConfig::forgetful(secs(31))], every(secs(60)));
        let mallory = ([203, 0, 113, 66], 666).into();
        // He copies half of the packets.
        world.attack(&[Tactic::sometimes(0.5, Act::Relay { from: mallory })]);
        for _ in 0..20 {
            let pause = world.rng().up_to(secs(100));
            world.run_for(pause);
            let (_, after_beat) = post_and_wait(&mut world, service, device, 20);
            // Packets that he makes come twice suggest nothing: the heartbeat may have to be repeated, at the worst until
            // the device connects anew, eleven seconds after it.
            assert!(after_beat.is_none_or(|late| late <= secs(13)), "{after_beat:?}");
        }
        world.check();
    });
}
