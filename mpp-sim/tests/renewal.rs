//! Keys and paths that change while devices are connected.

mod common;

use common::{ALICE, ms, pair, pair_with, quick, secs, store};
use mpp_proto::{Code, ConnectionState, DeviceEvent, DisconnectReason};
use mpp_sim::{Conditions, Post, Record};

/// The route is another one from now on, whose links carry less.
#[test]
fn a_route_whose_mtu_drops_under_a_connection_is_noticed() {
    let (mut world, service, device) = pair(41);
    let (up, down) = world.conditions(device);
    world.set_conditions(device, Conditions { mtu: 700, ..up }, Conditions { mtu: 700, ..down });
    world.publish(service, ALICE, &Post::new(store(2), vec![7; 2000])).unwrap();
    world.run_for(secs(60));
    let reason = DisconnectReason::ByService(Code::TIMEOUT);
    let told = world.log(device).iter().any(
        |e| matches!(&e.record, Record::Event(DeviceEvent::Disconnected { reason: r, .. }) if *r == reason),
    );
    assert!(told, "heartbeats alone keep no connection");
    assert_eq!(world.device(device).unwrap().state(), ConnectionState::Connecting);
    world.set_conditions(device, up, down);
    world.run_for(secs(120));
    assert_eq!(world.payloads(device).count(), 1);
    world.check();
}

/// A device that needs new keys every 64 packets, on networks that lose, double and disorder packets.
#[test]
fn keys_are_renewed_in_bad_weather_and_the_reference_has_nothing_to_object() {
    let mut renewed = 0;
    for seed in 0..8 {
        let mut config = quick();
        config.packet_limit = 64;
        let (mut world, service, device) = pair_with(900 + seed, config);
        let bad = Conditions::perfect(ms(30)).jitter(ms(80)).loss(0.1).duplicate(0.1);
        world.set_conditions(device, bad, bad);
        for n in 0..250u32 {
            world.publish(service, ALICE, &Post::new(store(2), n.to_be_bytes().to_vec())).unwrap();
            world.run_for(ms(900));
        }
        world.run_for(secs(60));
        let is_renewal = |r: &Record| matches!(r, Record::Event(DeviceEvent::KeysRenewed(_)));
        renewed += world.log(device).iter().filter(|e| is_renewal(&e.record)).count();
        world.check();
    }
    assert!(renewed >= 16, "{renewed}");
}
