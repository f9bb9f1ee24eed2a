//! Somebody who hears what the devices send, and forges Defers.

mod common;

use std::time::Duration;

use common::{ALICE, connect, lossy, ms, quick, secs, store};
use mpp_proto::{DeferPolicy, Instant, ServiceConfig};
use mpp_sim::attacker::{defer, handshake};
use mpp_sim::{Observer, Packet, Post, Rng, Verdict, World};

/// Forges Defers for each step 1 that goes by: when each of them arrives.
struct Forger {
    rng: Rng,
    delays: &'static [u64],
    /// How often.
    limit: usize,
}

impl Observer for Forger {
    fn packet(&mut self, now: Instant, packet: &Packet, inject: &mut Vec<(Instant, Packet)>) -> Verdict {
        if let (Some(handshake), true) = (handshake(&packet.payload), packet.to.port() == 15_096) {
            for delay in self.delays {
                if self.limit > 0 {
                    self.limit -= 1;
                    let payload = defer(handshake, &self.rng.bytes(16));
                    let (from, to) = (packet.to, packet.from);
                    let at = now + Duration::from_micros(1) + ms(*delay);
                    inject.push((at, Packet { from, to, payload }));
                }
            }
        }
        Verdict::Pass
    }
}

/// How long a device takes to connect. With `copies`, an old step 1 of it is sent again twice a second from elsewhere, so
/// that its turns without a proof are taken.
fn time_to_connect(
    seed: u64,
    policy: impl FnOnce(&mut ServiceConfig),
    copies: bool,
    delays: &'static [u64],
    limit: usize,
) -> Duration {
    let mut world = World::new(seed);
    let mut config = world.service_config();
    policy(&mut config);
    let service = world.add_service(config);
    let ticket = world.ticket(&[service], ALICE, 1);
    let device = world.add_device(ticket, quick());
    world.set_conditions(device, lossy(0.01), lossy(0.01));
    world.network().capture(true);
    connect(&mut world, device);
    let sent = world.network().take_captured().into_iter().map(|c| c.packet);
    let old: Vec<_> = sent.filter(|p| p.payload.starts_with(&[0; 16])).collect();
    world.network().capture(false);
    world.kill(device);
    world.run_for(secs(200));
    let copy = |world: &mut World, n: u16| {
        if copies {
            let _ = world.strike(Packet { from: ([203, 0, 113, 1], 1000 + n).into(), ..old[0].clone() });
        }
    };
    (0..6).for_each(|n| copy(&mut world, n));
    world.network().observe(Some(Box::new(Forger { rng: Rng::new(seed), delays, limit })));
    world.restore(device);
    let start = world.now();
    for n in 0..600 {
        if world.run_until(ms(500), |w| w.is_connected(device)) {
            let took = world.now().since(start);
            // It is a connection like any other.
            world.publish(service, ALICE, &Post::new(store(2), vec![1; 100])).unwrap();
            world.run_for(secs(2));
            assert_eq!(world.payloads(device).count(), 1);
            world.check();
            return took;
        }
        copy(&mut world, n);
    }
    panic!("not connected: {:#?}", world.log(device));
}

/// The round trip takes 40 to 60 ms: these arrive ahead of what is genuine, after it, and both.
const WAYS: [(&[u64], usize); 6] = [
    (&[0], 1),
    (&[0, 0], 2),
    (&[0], usize::MAX),
    (&[70], usize::MAX),
    (&[0, 70], usize::MAX),
    (&[0, 0, 0, 70, 100, 150], usize::MAX),
];

/// F7. In the first attempt, which takes eleven seconds.
fn assert_let_in(policy: impl Fn(&mut ServiceConfig), copies: bool) {
    for (delays, limit) in WAYS {
        for seed in 0..6 {
            let took = time_to_connect(seed, &policy, copies, delays, limit);
            assert!(took <= secs(11), "{delays:?}, {limit} in all, seed {seed}: {took:?}");
        }
    }
}

#[test]
fn forged_defers_keep_nobody_out_where_proofs_are_always_wanted() {
    assert_let_in(|config| config.defer = DeferPolicy::Always, false);
}

#[test]
fn forged_defers_keep_nobody_out_whose_old_packets_are_sent_again() {
    assert_let_in(|_| (), true);
}
