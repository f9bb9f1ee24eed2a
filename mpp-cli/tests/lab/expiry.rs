//! Mappings that go away while a device is connected (F1): it is deaf until its next heartbeat, and no longer.

use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::network::{EXTERNAL, Lab, Network};
use crate::play::{AT_ONCE, HEARTBEAT, Play, endpoint};
use crate::rules::{Lifetime, Nat};

/// Heartbeats that come in time keep a mapping, and no post has to wait.
#[test]
fn heartbeats_of_ten_seconds_keep_a_mapping_of_twelve() {
    let network = Network::Behind(Nat::Symmetric);
    let Some(lab) = Lab::with_lifetime(network, Lifetime::always(12)) else { return };
    let play = Play::on(lab);
    let mut device = play.start_device(&play.ticket(), Duration::from_secs(10));
    device.connected(AT_ONCE);
    // Without a heartbeat it would be gone at the second post: posts and their acknowledgements refresh it too.
    for pause in [13, 13] {
        sleep(Duration::from_secs(pause));
        device.hears_a_post(AT_ONCE);
    }
    let told = device.end_connected();
    assert!(!told.iter().any(|t| t["type"] == "observed"), "the same mapping all the time: {told:#?}");
}

/// A mapping that ends between two heartbeats, and the next one has another port.
#[test]
fn a_mapping_that_expires_between_heartbeats_makes_deaf_until_the_next() {
    let network = Network::Behind(Nat::Symmetric);
    let Some(lab) = Lab::with_lifetime(network, Lifetime::always(3)) else { return };
    let play = Play::on(lab);
    let mut device = play.device();
    // While its flow is new, and is new again since it has moved, heartbeats come after 3 s.
    sleep(Duration::from_secs(17));
    let mut before = loop {
        let begin = Instant::now();
        let moved = device.moved(HEARTBEAT);
        if begin.elapsed() > Duration::from_millis(200) {
            break moved;
        }
    };
    for offset in [500, 3300, 4200] {
        sleep(Duration::from_millis(offset));
        let limit = if offset < 3000 { AT_ONCE } else { HEARTBEAT - Duration::from_millis(offset) };
        device.hears_a_post(limit);
        let after = device.moved(HEARTBEAT);
        assert!(after.ip() == before.ip() && after.port() != before.port(), "{before} {after}");
        before = after;
    }
    device.end_connected();
}

/// Flushes at any time between two heartbeats, and posts right after.
fn flushed(network: Network) {
    let Some(lab) = Lab::open(network) else { return };
    let play = Play::on(lab);
    let mut device = play.device();
    for offset in [0, 1700, 3400] {
        sleep(Duration::from_millis(offset));
        play.lab.flush();
        device.hears_a_post(HEARTBEAT);
    }
    let told = device.end_connected();
    let moves = told.iter().filter(|t| t["type"] == "observed").count();
    let expected = if network == Network::Behind(Nat::Symmetric) { 3 } else { 0 };
    assert_eq!(moves, expected, "only where another mapping is another port: {told:#?}");
}

#[test]
fn full_cone_flushed() {
    flushed(Network::Behind(Nat::FullCone));
}

#[test]
fn address_restricted_flushed() {
    flushed(Network::Behind(Nat::AddressRestricted));
}

#[test]
fn port_restricted_flushed() {
    flushed(Network::Behind(Nat::PortRestricted));
}

#[test]
fn symmetric_flushed() {
    flushed(Network::Behind(Nat::Symmetric));
}

#[test]
fn double_nat_flushed() {
    flushed(Network::DoubleNat);
}

#[test]
fn ipv6_firewall_flushed() {
    flushed(Network::Ipv6Firewall);
}

/// Of two NATs one forgets, the device's own or its provider's.
#[test]
fn one_of_two_nats_flushed() {
    let Some(lab) = Lab::open(Network::DoubleNat) else { return };
    let play = Play::on(lab);
    let mut device = play.device();
    for index in [0, 1] {
        play.lab.flush_box(index);
        device.hears_a_post(HEARTBEAT);
    }
    device.end_connected();
}

/// Switched off and on again, with another address from the provider.
#[test]
fn a_nat_is_rebooted() {
    let Some(lab) = Lab::open(Network::Behind(Nat::PortRestricted)) else { return };
    let play = Play::on(lab);
    let mut device = play.start_device(&play.ticket(), HEARTBEAT);
    let connected = device.connected(AT_ONCE);
    assert_eq!(endpoint(&connected).ip(), EXTERNAL[0]);
    play.lab.reboot();
    device.hears_a_post(HEARTBEAT);
    assert_eq!(device.moved(AT_ONCE).ip(), EXTERNAL[1]);
    device.hears_a_post(AT_ONCE);
    device.end_connected();
}
