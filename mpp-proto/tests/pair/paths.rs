//! A device changes its address, or somebody pretends that it did.

use std::time::Duration;

use bytes::Bytes;
use mpp_proto::*;

use crate::harness::{ACCOUNT, Pair};

fn remote(pair: &Pair) -> String {
    let status = pair.service.devices(pair.now, &AccountId::of(ACCOUNT)).next().unwrap();
    status.path.remote.to_string()
}

fn event(text: &'static str) -> Event {
    Event::with_payload(StoreId::INBOUND, Bytes::from_static(text.as_bytes()))
}

#[test]
fn a_nat_that_forgets_is_noticed_with_the_next_heartbeat() {
    for moment in 0..26 {
        let mut pair = Pair::new();
        pair.run(Duration::from_secs(1));
        pair.address = "198.51.100.7:4999".parse().unwrap();
        pair.run(Duration::from_secs(moment));
        pair.publish(event("anybody there?"));
        let published = pair.now;
        while pair.notifications.is_empty() {
            pair.run(Duration::from_millis(10));
            // The heartbeat, its challenge and answer, the notification: an interval and three one-way trips.
            assert!(pair.now.since(published) < Duration::from_millis(25_200), "deaf at {moment} s");
        }
        pair.run(Duration::from_secs(5));
        assert_eq!(pair.take().len(), 1);
        assert_eq!(remote(&pair), "198.51.100.7:4999");
        assert_eq!(pair.service.stats().migrations, 1);
        assert_eq!(pair.device.stats().connects, 1, "it never had to connect anew");
        assert_eq!(pair.device.observed_endpoint().unwrap().port(), 4999);
    }
}

// SPEC: R-reached-again
#[test]
fn what_was_sent_into_silence_comes_with_the_next_heartbeat() {
    // How long before the heartbeat it is published: while the first timeout runs, and all the others.
    for before in [1, 300, 900, 2000, 5000, 11_000, 12_500, 20_000, 29_000, 45_000] {
        let mut config = DeviceConfig::default();
        config.interval = Duration::from_secs(216);
        config.learn_interval = false;
        let mut pair = Pair::with_device(config);
        pair.run(Duration::from_secs(5));
        // A box that has forgotten the device, and will give it the port it had.
        pair.deaf_above = 0;
        let heartbeat = pair.device.poll_timeout().unwrap();
        assert_eq!(heartbeat.reason, TimerKind::Heartbeat);
        pair.run(heartbeat.at.since(pair.now) - Duration::from_millis(before));
        pair.publish(event("anybody there?"));
        pair.run(Duration::from_millis(before));
        pair.deaf_above = usize::MAX;
        pair.run(Duration::from_millis(40));
        assert_eq!(pair.take().len(), 1, "{before} ms before the heartbeat");
        pair.run(Duration::from_secs(60));
        assert_eq!(pair.device.stats().connects, 1);
        assert_eq!(pair.device.stats().duplicates, 0, "nothing is sent again that has arrived");
    }
}

#[test]
fn a_device_that_knows_it_moved_is_followed_at_once() {
    let mut pair = Pair::new();
    pair.run(Duration::from_secs(1));
    for network in 1..=5u8 {
        pair.address = format!("203.0.113.{network}:7").parse().unwrap();
        pair.device.handle_network_change(pair.now, None);
        pair.run(Duration::from_millis(200));
        assert_eq!(remote(&pair), pair.address.to_string());
        pair.publish(event("hello"));
        pair.run(Duration::from_millis(500));
        assert_eq!(pair.take().len(), 1, "network {network}");
        pair.run(Duration::from_secs(30));
    }
    assert_eq!(pair.device.stats().connects, 1);
    assert_eq!(pair.service.stats().migrations, 5);
}

/// Without silence before the move: what was sent to where the device is not any more does not wait for its timeout.
#[test]
fn what_was_sent_to_the_old_address_comes_right_after_the_move() {
    for away in (100..1900).step_by(150) {
        let mut pair = Pair::new();
        pair.run(Duration::from_secs(1));
        pair.device.query_endpoint(pair.now).unwrap();
        pair.run(Duration::from_millis(50));
        pair.address = "203.0.113.9:7".parse().unwrap();
        pair.publish(event("on its way"));
        pair.run(Duration::from_millis(away));
        pair.device.handle_network_change(pair.now, None);
        // The heartbeat, its challenge and answer, the notification.
        pair.run(Duration::from_millis(80));
        assert_eq!(pair.take().len(), 1, "away for {away} ms");
    }
}

#[test]
fn a_faster_copy_gets_nothing_after_the_first_round_trip_and_the_true_path_stays() {
    let mut pair = Pair::new();
    pair.run(Duration::from_secs(1));
    let true_path = remote(&pair);
    pair.copied_from = Some("203.0.113.66:666".parse().unwrap());
    pair.run(Duration::from_secs(40));
    assert!(pair.service.stats().suggested > 0, "the copies came first");
    assert_eq!(remote(&pair), true_path);
    let (_, leaked) = pair.leaked;
    for _ in 0..10 {
        pair.publish(event("not for others"));
        pair.run(Duration::from_secs(10));
    }
    assert_eq!(pair.take().len(), 10);
    assert_eq!(remote(&pair), true_path);
    // What goes there is the answers and challenges that a validation allows, once in the ten seconds for which a path
    // is barred that lost to the true one; no notification ever does, as those go to the active path only.
    assert!(pair.leaked.1 - leaked < 40 * 1200, "{:?}", pair.leaked);
    assert_eq!(pair.device.stats().connects, 1);
}

#[test]
fn identifiers_never_run_out() {
    let mut pair = Pair::new();
    pair.run(Duration::from_secs(1));
    let mut used = std::collections::BTreeSet::new();
    for network in 1..=20u8 {
        pair.address = format!("203.0.113.{network}:7").parse().unwrap();
        let before = pair.log.len();
        pair.device.handle_network_change(pair.now, None);
        pair.run(Duration::from_secs(30));
        let first = pair.log[before..].iter().find(|(from, _)| from.is_some()).unwrap().1[..16].to_vec();
        assert!(used.insert(first), "network {network} sees an identifier of another one");
    }
    assert_eq!(pair.device.stats().connects, 1);
}

/// Networks behind one box, which gives another port or the same one, are other networks too.
#[test]
fn no_network_sees_an_identifier_of_another_one_also_behind_one_address() {
    for ports in [[4001, 4002, 4003, 4004, 4005, 4006], [4000; 6]] {
        let mut pair = Pair::new();
        pair.run(Duration::from_secs(1));
        let mut used = std::collections::BTreeSet::new();
        let mut note = |pair: &mut Pair, n: usize| {
            let before = pair.log.len();
            pair.device.handle_network_change(pair.now, None);
            pair.run(Duration::from_secs(60));
            // What both sides call each other there: in a Heartbeat and its answer. Smaller is a challenge to where the
            // device was.
            let both = [true, false].map(|to_service| {
                let beats = |(from, p): &&(Option<_>, Vec<u8>)| from.is_some() == to_service && p.len() > 60;
                let last = pair.log[before..].iter().rfind(beats);
                last.unwrap().1[..if to_service { 16 } else { 8 }].to_vec()
            });
            for identifier in both {
                assert!(used.insert(identifier), "ports {ports:?}: move {n} shows one of another network");
            }
        };
        for (n, port) in ports.into_iter().enumerate() {
            pair.address.set_port(port);
            note(&mut pair, n);
        }
        pair.address = "203.0.113.9:7".parse().unwrap();
        note(&mut pair, ports.len());
        assert_eq!(pair.device.stats().connects, 1);
    }
}

// SPEC: R-path-turn
#[test]
fn a_copier_with_many_addresses_is_asked_once_a_second() {
    let mut pair = Pair::new();
    pair.run(Duration::from_secs(1));
    for n in 0..100u8 {
        pair.copied_from = Some(([203, 0, 113, n], 666).into());
        pair.publish(event("an acknowledgement for him to copy"));
        pair.run(Duration::from_millis(100));
    }
    let suggested = pair.service.stats().suggested;
    assert!((5..=11).contains(&suggested), "{suggested} in 10 s");
}

fn told_408(pair: &Pair) -> usize {
    let told = |e: &&DeviceEvent| {
        matches!(e, DeviceEvent::Disconnected { reason: DisconnectReason::ByService(Code::TIMEOUT), .. })
    };
    pair.events.iter().filter(told).count()
}

/// The route changes under a connection, and only small packets pass: heartbeats go on, and without more the device would
/// believe that nothing is posted.
// SPEC: R-narrow
#[test]
fn a_path_that_shrinks_is_noticed() {
    // One large packet, many of them, and many of which the last is small.
    for size in [900, 1157 * 4 - 60, 5000] {
        let mut pair = Pair::new();
        pair.run(Duration::from_secs(1));
        pair.deaf_above = 600;
        pair.publish(Event::with_payload(StoreId::INBOUND, vec![7; size].into()));
        pair.run(Duration::from_secs(30));
        assert_eq!(told_408(&pair), 1, "{size} bytes");
        assert_eq!(pair.service.stats().shrunk, 1);
        assert_eq!(pair.device.state(), ConnectionState::Connecting, "the path carries no exchange");
        pair.deaf_above = usize::MAX;
        pair.run(Duration::from_secs(90));
        assert_eq!(pair.take().len(), 1);
    }
}

/// Small events that follow each other replace the large one at each timeout.
#[test]
fn a_path_that_shrinks_is_noticed_while_events_follow_each_other() {
    let mut pair = Pair::new();
    pair.run(Duration::from_secs(1));
    pair.deaf_above = 600;
    pair.publish(Event::with_payload(StoreId::INBOUND, vec![7; 900].into()));
    for _ in 0..60 {
        pair.publish(Event::changed(StoreId::OUTBOUND));
        pair.run(Duration::from_millis(500));
    }
    assert_eq!(told_408(&pair), 1);
}

#[test]
fn a_path_that_only_loses_packets_is_not_narrow() {
    let mut pair = Pair::new();
    pair.run(Duration::from_secs(1));
    pair.loss = 30;
    for _ in 0..40 {
        pair.publish(Event::with_payload(StoreId::INBOUND, vec![7; 6000].into()));
        pair.run(Duration::from_secs(5));
    }
    assert_eq!(pair.service.stats().shrunk, 0);
    // And one that carries nothing is dead, not narrow.
    pair.cut = true;
    pair.publish(Event::with_payload(StoreId::INBOUND, vec![7; 900].into()));
    pair.run(Duration::from_secs(200));
    assert_eq!(pair.service.stats().shrunk, 0);
}
