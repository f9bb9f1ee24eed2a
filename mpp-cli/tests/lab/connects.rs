//! In each network a device connects, and hears what is posted at once.

use std::time::Duration;

use crate::network::{DEVICE6, EXTERNAL, Lab, Network, SERVICE, SERVICE6};
use crate::play::{AT_ONCE, HEARTBEAT, Play, endpoint};
use crate::rules::{Nat, Trouble};

fn connects(network: Network) {
    let Some(lab) = Lab::open(network) else { return };
    let play = Play::on(lab);
    let mut device = play.start_device(&play.ticket(), HEARTBEAT);
    let connected = device.connected(AT_ONCE);
    let outside: std::net::IpAddr =
        if network == Network::Ipv6Firewall { DEVICE6.into() } else { EXTERNAL[0].into() };
    assert_eq!(endpoint(&connected).ip(), outside, "{connected}");
    device.hears_a_post(AT_ONCE);
    // In many packets.
    device.post_text(&"large ".repeat(2700));
    device.hears(AT_ONCE);
    device.end_connected();
}

#[test]
fn full_cone() {
    connects(Network::Behind(Nat::FullCone));
}

#[test]
fn address_restricted() {
    connects(Network::Behind(Nat::AddressRestricted));
}

#[test]
fn port_restricted() {
    connects(Network::Behind(Nat::PortRestricted));
}

#[test]
fn symmetric() {
    connects(Network::Behind(Nat::Symmetric));
}

#[test]
fn double_nat() {
    connects(Network::DoubleNat);
}

#[test]
fn ipv6_firewall() {
    connects(Network::Ipv6Firewall);
}

/// A service with several addresses has to answer from the one that was asked: a NAT lets in nothing else.
#[test]
fn the_service_answers_from_the_address_that_was_asked() {
    let Some(lab) = Lab::open(Network::Ipv6Firewall) else { return };
    let play = Play::on(lab);
    for address in [SERVICE[1].into(), SERVICE6[1].into()] {
        let mut device = play.start_device(&play.ticket_for(&[address]), HEARTBEAT);
        let connected = device.connected(AT_ONCE);
        assert!(connected["service"].as_str().unwrap().contains(&address.to_string()), "{connected}");
        device.hears_a_post(AT_ONCE);
        device.end_connected();
    }
}

/// One family that leads nowhere costs a moment, whichever the ticket names first.
#[test]
fn a_dead_family_does_not_matter() {
    let Some(lab) = Lab::open(Network::Ipv6Firewall) else { return };
    lab.trouble(Trouble::Silence4);
    let play = Play::on(lab);
    let mut device = play.start_device(&play.ticket_for(&[SERVICE[0].into(), SERVICE6[0].into()]), HEARTBEAT);
    let connected = device.connected(Duration::from_secs(1));
    assert!(connected["service"].as_str().unwrap().contains(&SERVICE6[0].to_string()), "{connected}");
    device.hears_a_post(AT_ONCE);
    device.end_connected();
}
