//! Somebody who carries packets (F7): who is always ahead of a device from an address of his own, passes on what comes
//! there, and so answers challenges; on networks that lose packets, while keys are renewed. And devices that really
//! move, which are followed all the same.

mod common;

use std::net::SocketAddr;
use std::time::Duration;

use common::{ALICE, connect, ms, secs, store, world};
use mpp_proto::{AccountId, DeviceConfig, DeviceEvent, Instant, ServiceEvent};
use mpp_sim::{
    Act, Conditions, DeviceHandle, NatConfig, Observer, Packet, Post, Record, ServiceHandle, Tactic, Verdict,
    World,
};

const LOSSES: [f64; 4] = [0.0, 0.01, 0.03, 0.1];
/// There and back.
const ROUND_TRIP: Duration = Duration::from_millis(40);

/// One of his addresses.
fn mallory(n: u8) -> SocketAddr {
    ([203, 0, 113, n], 666).into()
}

fn is_his(address: SocketAddr) -> bool {
    (0..=255).any(|n| address == mallory(n))
}

/// A heartbeat every 25 s, and new keys after 5 to 60 min.
fn config() -> DeviceConfig {
    let mut config = DeviceConfig::default();
    config.learn_interval = false;
    config.forward_secrecy = false;
    config
}

/// A connected device, on a network that loses so much either way.
fn losing(seed: u64, loss: f64) -> (World, ServiceHandle, DeviceHandle, SocketAddr) {
    let (mut world, service) = world(seed);
    let ticket = world.ticket(&[service], ALICE, 1);
    let device = world.add_device(ticket, config());
    connect(&mut world, device);
    let conditions = Conditions::perfect(ROUND_TRIP / 2).loss(loss);
    world.set_conditions(device, conditions, conditions);
    world.run_for(secs(5));
    let home = world.service_addresses(service)[0];
    (world, service, device, home)
}

/// How long each time a carrier had the path since then.
fn holds(world: &World, service: ServiceHandle, since: Instant) -> Vec<Duration> {
    let (mut holds, mut held) = (Vec::new(), None);
    for (at, event) in world.service_log(service).iter().filter(|(at, _)| *at >= since) {
        let (ServiceEvent::Moved { path, .. } | ServiceEvent::Connected { path, .. }) = event else {
            continue;
        };
        if is_his(path.remote) {
            held = held.or(Some(*at));
        } else if let Some(began) = held.take() {
            holds.push(at.since(began));
        }
    }
    holds.extend(held.map(|began| world.now().since(began)));
    holds
}

fn renewals(world: &World, device: DeviceHandle) -> usize {
    let renewed = |r: &Record| matches!(r, Record::Event(DeviceEvent::KeysRenewed(_)));
    world.log(device).iter().filter(|e| renewed(&e.record)).count()
}

/// Where the service sends.
fn path(world: &World, service: ServiceHandle) -> Option<SocketAddr> {
    world.service(service).devices(world.now(), &AccountId::of(ALICE)).next().map(|s| s.path.remote)
}

/// Posts an event and waits for it.
fn post(world: &mut World, service: ServiceHandle, device: DeviceHandle, size: usize) -> Option<Duration> {
    let had = world.payloads(device).count();
    let payload = world.rng().bytes(size);
    world.publish(service, ALICE, &Post::new(store(2), payload)).unwrap();
    let posted = world.now();
    world.run_until(secs(1000), |w| w.payloads(device).count() > had).then(|| world.now().since(posted))
}

// He has one address, or comes from another one each time. Whatever is lost, and across renewals, he has the path for a
// round trip at a time; where packets are lost also until the next challenge; for good never.
#[test]
fn a_carrier_has_the_path_for_moments_whatever_is_lost() {
    const TIME: Duration = Duration::from_secs(4000);
    const SEEDS: u64 = 6;
    for addresses in [1, 7] {
        for (loss, most, longest) in LOSSES
            .into_iter()
            .zip([0.003, 0.005, 0.01, 0.03])
            .map(|(loss, most)| (loss, most, if loss == 0.0 { ROUND_TRIP + ms(1) } else { secs(66) }))
        {
            let (mut tries, mut all, mut renewed) = (0, Duration::ZERO, 0);
            for seed in 0..SEEDS {
                let (mut world, service, device, home) = losing(seed, loss);
                let began = world.now();
                let attacker = world.attack(&[]);
                for n in 0..800 {
                    attacker
                        .set_tactics(&[Tactic::always(Act::Relay { from: mallory(n as u8 % addresses) })]);
                    world.run_for(TIME / 800);
                }
                let holds = holds(&world, service, began);
                assert!(holds.iter().all(|h| *h <= longest), "seed {seed}, loss {loss}: {holds:?}");
                tries += holds.len();
                all += holds.iter().sum::<Duration>();
                renewed += renewals(&world, device);
                world.network().observe(None);
                world.run_for(secs(90));
                assert_eq!(path(&world, service), world.seen_from(device, home), "seed {seed}, loss {loss}");
                world.check();
            }
            let part = all.as_secs_f64() / TIME.as_secs_f64() / SEEDS as f64;
            assert!(part < most, "{addresses} addresses, loss {loss}: {part}");
            assert!(tries > 500 && renewed >= 6, "{tries} tries, {renewed} renewals");
        }
    }
}

/// Copies everything ahead from his own address and passes on what is small, and the exchange: a device that he holds
/// hears of nothing large.
struct Sieve {
    service: SocketAddr,
    victim: Option<SocketAddr>,
}

impl Observer for Sieve {
    fn packet(&mut self, now: Instant, packet: &Packet, inject: &mut Vec<(Instant, Packet)>) -> Verdict {
        let soon = now + Duration::from_micros(1);
        if packet.to == mallory(1) {
            if let Some(to) =
                self.victim.filter(|_| packet.payload.len() < 300 || packet.payload.len() == 1200)
            {
                inject.push((soon, Packet { to, ..packet.clone() }));
            }
            return Verdict::Take;
        }
        if packet.to == self.service {
            self.victim = Some(packet.from);
            inject.push((soon, Packet { from: mallory(1), ..packet.clone() }));
        }
        Verdict::Pass
    }
}

// What he keeps for himself is late, and nothing stays away, as long as the connection lasts. One that is made anew while
// he is ahead begins at his address: the service knows no other then, and he is on the path as anybody on the way is.
#[test]
fn nobody_is_deaf_because_of_a_carrier_who_passes_on_what_he_likes() {
    let mut made_anew = 0;
    for loss in LOSSES {
        'histories: for seed in 0..3 {
            let (mut world, service, device, home) = losing(100 + seed, loss);
            world.network().observe(Some(Box::new(Sieve { service: home, victim: None })));
            for n in 0..100 {
                let pause = world.rng().up_to(secs(80));
                world.run_for(pause);
                let waited = post(&mut world, service, device, 1000);
                let ended = |r: &Record| matches!(r, Record::Event(DeviceEvent::Disconnected { .. }));
                if world.log(device).iter().any(|e| ended(&e.record)) {
                    made_anew += 1;
                    continue 'histories;
                }
                assert!(
                    waited.is_some_and(|w| w < secs(66)),
                    "loss {loss}, seed {seed}, event {n}: {waited:?}"
                );
            }
            assert!(renewals(&world, device) > 0);
            world.check();
        }
        assert!(made_anew == 0 || loss == 0.1, "loss {loss}: {made_anew}");
    }
    assert!(made_anew <= 1, "{made_anew} of twelve");
}

// It goes from one network to the next while the ones before are still asked whether it is there.
#[test]
fn a_device_that_moves_again_and_again_is_followed_each_time() {
    for seed in 0..20 {
        let (mut world, service, device, home) = losing(seed, 0.0);
        for _ in 0..8 {
            let pause = ms(1100) + world.rng().up_to(secs(12));
            world.run_for(pause);
            let network = world.add_nat(NatConfig::linux());
            world.put_behind(device, network);
            world.with_device(device, |d, now| d.handle_network_change(now, None));
            world.run_for(ROUND_TRIP * 3 / 2);
            assert_eq!(path(&world, service), world.seen_from(device, home));
            assert!(post(&mut world, service, device, 3000).unwrap() <= ROUND_TRIP);
        }
        assert_eq!(world.device(device).unwrap().stats().connects, 1);
        world.check();
    }
}

// It moves while it agrees on new keys, at any moment of that.
#[test]
fn a_device_that_moves_while_keys_are_renewed_is_followed() {
    let renewed_at = |world: &World, device| {
        let renewed = |r: &Record| matches!(r, Record::Event(DeviceEvent::KeysRenewed(_)));
        world.log(device).iter().find(|e| renewed(&e.record)).map(|e| e.at)
    };
    let (mut world, _, device, _) = losing(1, 0.0);
    assert!(world.run_until(secs(4000), |w| renewed_at(w, device).is_some()));
    let at = renewed_at(&world, device).unwrap();
    // The exchange and its confirmation take two round trips.
    for moment in 0..40 {
        let (mut world, service, device, home) = losing(1, 0.0);
        let moment = at - ROUND_TRIP * 2 - ms(10) + ms(moment * 3);
        world.run_for(moment.since(world.now()));
        let network = world.add_nat(NatConfig::linux());
        world.put_behind(device, network);
        world.with_device(device, |d, now| d.handle_network_change(now, None));
        world.run_for(ROUND_TRIP * 3 / 2);
        assert_eq!(path(&world, service), world.seen_from(device, home), "at {moment:?} of {at:?}");
        assert!(post(&mut world, service, device, 20).unwrap() <= ROUND_TRIP, "at {moment:?} of {at:?}");
        world.run_for(secs(60));
        assert_eq!(path(&world, service), world.seen_from(device, home), "at {moment:?} of {at:?}");
        assert!(renewed_at(&world, device).is_some());
        world.check();
    }
}

// Its program was ended and comes back on another network, long before the service has noticed. That it is there is all
// that it takes: what is for it goes there at once.
#[test]
fn a_new_connection_from_another_network_is_heard_at_once() {
    for seed in 0..20 {
        let (mut world, service, device, home) = losing(seed, 0.0);
        let old = path(&world, service);
        world.kill(device);
        world.publish(service, ALICE, &Post::new(store(2), "while it was away")).unwrap();
        let away = world.rng().up_to(secs(20));
        world.run_for(away);
        let network = world.add_nat(NatConfig::linux());
        world.put_behind(device, network);
        world.restore(device);
        let back = world.now();
        assert!(world.run_until(secs(10), |w| w.payloads(device).count() > 0));
        // Two round trips: the exchange, and the Heartbeat with what it brings.
        assert!(world.now().since(back) <= ROUND_TRIP * 2 + ms(30), "{:?}", world.now().since(back));
        assert_ne!(path(&world, service), old);
        world.run_for(secs(90));
        assert_eq!(path(&world, service), world.seen_from(device, home));
        world.check();
    }
}
