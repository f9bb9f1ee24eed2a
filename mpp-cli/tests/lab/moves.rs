//! Devices that change their address or are off the network, and services that are restarted.

use std::thread::sleep;
use std::time::{Duration, Instant};

use mpp_tokio::Client;
use mpp_tokio::proto::{NotificationKind, Ticket};
use tokio::runtime::Builder;
use tokio::time::timeout;

use crate::network::{DEVICE, Lab, Network};
use crate::play::{AT_ONCE, HEARTBEAT, LATE, Play};
use crate::rules::Nat;

#[test]
fn the_devices_address_changes() {
    for nat in [Nat::FullCone, Nat::Symmetric] {
        let Some(lab) = Lab::open(Network::Behind(nat)) else { return };
        let play = Play::on(lab);
        let mut device = play.device();
        play.lab.renumber(DEVICE[1]);
        device.hears_a_post(HEARTBEAT);
        device.hears_a_post(AT_ONCE);
        device.end_connected();
    }
}

/// An application that learns of a move tells the client, and need not wait for a heartbeat: here for minutes.
#[test]
fn a_move_that_the_client_is_told_of_costs_nothing() {
    let Some(lab) = Lab::open(Network::Behind(Nat::Symmetric)) else { return };
    let play = Play::on(lab);
    let ticket: Ticket = play.ticket().parse().unwrap();
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let story = async {
        let client = Client::builder(ticket).interval(Duration::from_secs(300)).connect();
        let connected = timeout(LATE, client.connected()).await.expect("it connects").unwrap();
        for address in [DEVICE[1], DEVICE[0]] {
            play.lab.renumber(address);
            play.lab.flush();
            client.network_changed(None);
            play.post(&address.to_string());
            let heard = timeout(LATE, client.next()).await.expect("it is heard").unwrap();
            let NotificationKind::Event { payload, .. } = heard.kind else { panic!("{heard:?}") };
            assert_eq!(payload, address.to_string());
        }
        assert_ne!(client.observed_endpoint(), connected.observed, "another mapping");
        assert_eq!(client.stats().device.connects, 1);
        client.close().await;
    };
    play.lab.device.enter(|| runtime.block_on(story));
}

/// Nothing that was posted meanwhile is lost; the connection may be.
#[test]
fn the_cable_is_pulled_for_a_while() {
    let Some(lab) = Lab::open(Network::Behind(Nat::PortRestricted)) else { return };
    let play = Play::on(lab);
    let mut device = play.device();
    play.lab.unplug();
    for _ in 0..3 {
        device.post();
    }
    sleep(Duration::from_secs(7));
    play.lab.plug_in();
    // A heartbeat is repeated every 4 s at the latest.
    device.hears(Duration::from_secs(4));
    device.hears_a_post(AT_ONCE);
    device.end_connected();
}

/// Long enough that the device has given up its connection: heartbeats for 11 s, then attempts.
#[test]
fn the_cable_is_pulled_until_the_connection_is_lost() {
    let Some(lab) = Lab::open(Network::Behind(Nat::PortRestricted)) else { return };
    let play = Play::on(lab);
    let mut device = play.device();
    play.lab.unplug();
    device.post();
    assert_eq!(device.told("disconnected", HEARTBEAT + Duration::from_secs(11))["reason"], "timed-out");
    sleep(Duration::from_secs(2));
    play.lab.plug_in();
    // Step 1 is repeated after 1, 2 and 4 s; then, 4 s later, comes a pause of at most 2 s.
    let connected = device.connected(Duration::from_secs(6));
    assert_eq!(connected["recovered"], true, "{connected}");
    device.hears(AT_ONCE);
    device.hears_a_post(AT_ONCE);
    device.end();
}

/// The service is killed and started again: its reset comes through the NAT, and the device connects anew.
#[test]
fn the_service_is_restarted() {
    for nat in [Nat::FullCone, Nat::Symmetric] {
        let Some(lab) = Lab::open(Network::Behind(nat)) else { return };
        let play = Play::on(lab);
        let mut device = play.device();
        play.restart();
        let restarted = Instant::now();
        assert_eq!(device.told("disconnected", HEARTBEAT)["reason"], "reset");
        // Not all at once: up to 2 s later.
        let connected = device.connected(Duration::from_secs(2));
        assert_eq!(connected["recovered"], false, "its channels were in memory: {connected}");
        assert!(restarted.elapsed() < HEARTBEAT + Duration::from_secs(2) + LATE);
        device.hears_a_post(AT_ONCE);
        device.end();
    }
}

/// The NAT forgets and the service is restarted, in the same moment: neither knows the device any more.
#[test]
fn the_service_is_restarted_and_the_mapping_is_gone() {
    let Some(lab) = Lab::open(Network::Behind(Nat::Symmetric)) else { return };
    let play = Play::on(lab);
    let mut device = play.device();
    play.restart();
    play.lab.flush();
    assert_eq!(device.told("disconnected", HEARTBEAT)["reason"], "reset");
    device.connected(Duration::from_secs(2));
    device.hears_a_post(AT_ONCE);
    device.end();
}
