//! Exactly once and in order through a network that loses a third of everything.

mod common;

use std::time::Duration;

use bytes::Bytes;
use common::{lossy, quick, secs, store, world};
use mpp_proto::AccountId;
use mpp_sim::{DeviceHandle, Post, World, each_seed};

const DEVICES: u64 = 20;
const EVENTS: u64 = 1000;
/// Below the 32 events of a channel's ring: the publisher never outruns the slowest device by more.
const AHEAD: u64 = 24;

fn count(world: &World, device: DeviceHandle) -> u64 {
    world.payloads(device).count() as u64
}

/// 1,000 notifications to each of 20 devices, all of them of one account or each of its own.
fn thousand_to_each_of_twenty(seed: u64, shared: bool) {
    let (mut world, service) = world(seed);
    world.set_default_conditions(lossy(0.3), lossy(0.3));
    let account = |d: u64| if shared { "all@example.com".to_owned() } else { format!("user{d}@example.com") };
    let devices: Vec<_> = (0..DEVICES)
        .map(|d| {
            let ticket = world.ticket(&[service], &account(d), d);
            world.add_device(ticket, quick())
        })
        .collect();
    let connected = world.run_until(secs(600), |w| devices.iter().all(|d| w.is_connected(*d)));
    assert!(connected, "all devices connect within 600 s");

    let accounts: Vec<_> = if shared { vec![account(0)] } else { (0..DEVICES).map(account).collect() };
    for serial in 1..=EVENTS {
        for account in &accounts {
            let payload: Bytes = serial.to_be_bytes().to_vec().into();
            world.publish(service, account, &Post::new(store(2), payload)).expect("a channel with room");
        }
        // As the service sees it: what has reached a device whose acknowledgement was lost still takes up room.
        let kept_up = world.run_until(secs(3600), |w| {
            accounts.iter().all(|account| {
                let mut devices = w.service(service).devices(w.now(), &AccountId::of(account));
                devices.all(|d| d.told.0 + AHEAD >= serial)
            })
        });
        assert!(kept_up, "event {serial} finds room");
    }
    let done = world.run_until(secs(3600), |w| devices.iter().all(|d| count(w, *d) >= EVENTS));
    assert!(done, "every device has everything");
    world.run_for(Duration::from_secs(120));

    for device in &devices {
        let got: Vec<u64> = world
            .payloads(*device)
            .map(|(serial, payload)| {
                assert_eq!(payload, serial.0.to_be_bytes());
                serial.0
            })
            .collect();
        assert!(got.iter().copied().eq(1..=EVENTS), "{device:?}: exactly once and in order: {got:?}");
    }
    let tally = world.check();
    assert_eq!((tally.delivered, tally.gaps), (DEVICES * EVENTS, 0));
    assert!(world.network().stats().lost > 1000, "the network did lose packets");
}

#[test]
fn a_thousand_to_each_of_twenty_devices_of_one_account() {
    each_seed(4, |seed| thousand_to_each_of_twenty(seed, true));
}

#[test]
fn a_thousand_to_each_of_twenty_accounts() {
    each_seed(4, |seed| thousand_to_each_of_twenty(seed, false));
}
