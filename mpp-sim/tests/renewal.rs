//! Keys and paths that change while devices are connected.

mod common;

use common::{ALICE, ms, pair, pair_with, quick, secs, store};
use mpp_proto::{Code, ConnectionState, DeviceConfig, DeviceEvent, DisconnectReason};
use mpp_sim::{Conditions, DeviceHandle, Post, Record, World};

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

/// A crowd that comes at once gets connections without X25519; each is replaced by one with it within the hour, slowly
/// enough that no share has to be left out again, and nobody notices.
#[test]
fn shares_left_out_in_a_storm_are_made_up_within_the_hour() {
    let mut world = World::new(43);
    let mut config = world.service_config();
    config.connects_per_second = 40;
    let service = world.add_service(config);
    let devices: Vec<_> = (0..120)
        .map(|n| {
            let ticket = world.ticket(&[service], &format!("{n}@example.com"), 1);
            world.add_device(ticket, DeviceConfig::default())
        })
        .collect();
    assert!(world.run_until(secs(60), |w| devices.iter().all(|d| w.is_connected(*d))));
    let storm = world.service(service).stats();
    assert_eq!(storm.connects, 120);
    assert!((40..=115).contains(&storm.shares_left_out), "{storm:?}");
    world.run_for(secs(3700));
    // Those with a share keep their keys for a day: so each of the others has had exactly one new connection with one.
    let later = world.service(service).stats();
    assert_eq!(later.shares_left_out, storm.shares_left_out);
    assert_eq!(later.connects, 120 + storm.shares_left_out);
    let renewed = |d: &&DeviceHandle| {
        world.log(**d).iter().any(|e| matches!(e.record, Record::Event(DeviceEvent::KeysRenewed(_))))
    };
    assert_eq!(devices.iter().filter(renewed).count() as u64, storm.shares_left_out);
    world.check();
}
