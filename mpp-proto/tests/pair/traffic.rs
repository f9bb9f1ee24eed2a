//! Packets that are copied, changed, replayed or made up, and what the service sends because of them.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use mpp_proto::*;

use crate::harness::{ACCOUNT, Pair, is_connected, service_output};

fn stranger() -> SocketAddr {
    "203.0.113.66:666".parse().unwrap()
}

fn remote(pair: &Pair) -> String {
    pair.service.devices(pair.now, &AccountId::of(ACCOUNT)).next().unwrap().path.remote.to_string()
}

fn connected() -> Pair {
    let mut pair = Pair::new();
    pair.run(Duration::from_secs(1));
    assert!(is_connected(&pair.events));
    pair
}

/// A packet that the device sent, but that did not arrive.
fn held_back(pair: &mut Pair) -> Vec<u8> {
    pair.cut = true;
    let before = pair.sent().len();
    pair.device.post(pair.now, &Event::changed(StoreId::OUTBOUND)).unwrap();
    pair.run(Duration::from_millis(10));
    pair.cut = false;
    pair.sent()[before].clone()
}

#[test]
fn a_changed_packet_does_nothing() {
    let mut pair = connected();
    let packet = held_back(&mut pair);
    let before = pair.service.stats();
    for byte in 16..packet.len() {
        let mut bad = packet.clone();
        bad[byte] ^= 1;
        let (disposition, answers) = pair.inject(stranger(), &bad);
        assert_eq!(disposition, Disposition::Dropped(DropReason::Unauthentic), "byte {byte}");
        assert!(answers.is_empty());
    }
    let after = pair.service.stats();
    assert_eq!((after.suggested, after.duplicates, after.connected), (0, before.duplicates, 1));
    // It is still new.
    let (disposition, answers) = pair.inject(stranger(), &packet);
    assert_eq!((disposition, answers.is_empty()), (Disposition::Accepted, false));
}

#[test]
fn a_replayed_packet_is_not_answered() {
    let mut pair = connected();
    pair.device.query_endpoint(pair.now).unwrap();
    pair.run(Duration::from_secs(60));
    let data: Vec<_> = pair.sent().into_iter().filter(|p| p.len() < 1200).collect();
    assert!(data.len() >= 3);
    for packet in data {
        for from in [stranger(), pair.address] {
            let (_, answers) = pair.inject(from, &packet);
            assert!(answers.is_empty(), "{answers:?}");
        }
    }
    assert_eq!(pair.service.stats().suggested, 0);
    assert_eq!(pair.device.stats().connects, 1);
}

#[test]
fn an_old_packet_from_elsewhere_suggests_no_path() {
    let mut pair = connected();
    let packet = held_back(&mut pair);
    pair.run(Duration::from_secs(30));
    let (disposition, answers) = pair.inject(stranger(), &packet);
    assert_eq!(disposition, Disposition::Accepted);
    assert_eq!(pair.service.stats().suggested, 0, "a newer one has come from where the device is");
    assert!(answers.iter().all(|(to, _)| *to != stranger()));
}

#[test]
fn a_copier_is_followed_nowhere_and_gets_little() {
    let mut pair = connected();
    let before = pair.sent().len();
    pair.copied_from = Some(stranger());
    for _ in 0..120 {
        pair.publish(Event::with_payload(StoreId::INBOUND, Bytes::from_static(&[7; 1000])));
        pair.run(Duration::from_millis(500));
    }
    let copied: usize = pair.sent()[before..].iter().map(Vec::len).sum();
    let stats = pair.service.stats();
    assert_eq!(stats.migrations, 0, "it answers the challenge of the old path, not its own");
    assert!((1..=7).contains(&stats.suggested), "{} in a minute", stats.suggested);
    assert!(pair.leaked.1 <= 3 * copied as u64, "{} of {copied}", pair.leaked.1);
    assert!(pair.leaked.1 < 1200, "no notification goes there, and no padded challenge: {:?}", pair.leaked);
    pair.copied_from = None;
    pair.run(Duration::from_secs(30));
    assert_eq!(pair.take().len(), 120);
    assert_ne!(remote(&pair), stranger().to_string());
}

#[test]
fn after_a_move_nothing_links_the_two_networks() {
    let mut pair = connected();
    pair.run(Duration::from_secs(30));
    let before = pair.log.clone();
    pair.address = "203.0.113.9:7".parse().unwrap();
    pair.device.handle_network_change(pair.now, None);
    pair.run(Duration::from_secs(60));
    let after = &pair.log[before.len()..];
    let seen = |to_service: bool, packet: &[u8]| {
        let len = if to_service { 16 } else { 8 };
        before.iter().any(|(from, p)| from.is_some() == to_service && p[..len] == packet[..len])
    };
    // What still goes to the old network goes under the old identifier: an answer, and whether the device is there.
    let old = after.iter().filter(|(from, packet)| from.is_none() && seen(false, packet)).count();
    assert!(old <= 1 + 11 && old + 4 < after.len(), "{old} of {}", after.len());
    assert_eq!(old, pair.astray.len(), "an identifier of the old network is used on the new one");
    for (_, packet) in after.iter().filter(|(from, _)| from.is_some()) {
        assert!(!seen(true, packet), "the device knows that it moved");
    }
}

#[test]
fn a_stale_identifier_is_answered_with_less() {
    let mut pair = connected();
    let packet = held_back(&mut pair);
    pair.restart_service();
    let (disposition, answers) = pair.inject(stranger(), &packet);
    assert_eq!(disposition, Disposition::Dropped(DropReason::StaleIdentifier));
    assert_eq!(answers.iter().map(|(_, p)| p.len()).collect::<Vec<_>>(), [40]);
    // A thousand a second, however many come.
    let resets = (0..3000).map(|_| pair.inject(stranger(), &packet).1.len()).sum::<usize>();
    assert!(resets <= 1000, "{resets}");
}

#[test]
fn an_identifier_of_an_earlier_connection_of_the_slot_is_stale() {
    let mut pair = connected();
    let packet = held_back(&mut pair);
    pair.device.close(pair.now);
    pair.run(Duration::from_secs(20));
    assert_eq!(pair.service.stats().records, 0);
    pair.restart_device(None);
    pair.run(Duration::from_secs(1));
    assert_eq!(pair.service.stats().records, 1, "the slot is in use again");
    let (disposition, _) = pair.inject(stranger(), &packet);
    assert_eq!(disposition, Disposition::Dropped(DropReason::StaleIdentifier));
}

#[test]
fn a_reset_that_nobody_sent_resets_nothing() {
    let mut pair = connected();
    let path = Path::new(LinkId(0), "192.0.2.1:15096".parse().unwrap());
    for byte in 0..=255 {
        let mut forged = [byte; 40];
        let disposition = pair.device.handle_datagram(pair.now, Datagram { path, payload: &mut forged });
        assert_eq!(disposition, Disposition::NotForUs);
    }
    assert_eq!(pair.device.state(), ConnectionState::Connected);
}

#[test]
fn a_host_that_takes_no_packets_is_not_filled_up() {
    let mut pair = connected();
    pair.restart_service();
    let step1 = pair.sent()[0].clone();
    let mut dispositions = Vec::new();
    for _ in 0..6000 {
        let path = Path::new(LinkId(0), stranger());
        let mut packet = step1.clone();
        // Each copy is worth a challenge.
        let mut batch = [Datagram { path, payload: &mut packet }];
        pair.service.handle_datagrams(pair.now, &mut batch, &mut dispositions);
    }
    assert_eq!(dispositions, [Disposition::Dropped(DropReason::Capacity)]);
    let waiting = service_output(&mut pair.service, pair.now).len();
    assert!((1..=4096).contains(&waiting), "{waiting}");
}

// SPEC: R-unkept-copies
/// A notification that had no room is sent again and again by somebody else, while the service is gone.
#[test]
fn copies_of_what_was_not_kept_are_no_sign_of_life() {
    let mut pair = Pair::new();
    pair.run(Duration::from_secs(1));
    pair.busy = true;
    for _ in 0..70 {
        pair.publish(Event::changed(StoreId::INBOUND));
        pair.run(Duration::from_millis(200));
    }
    let refused = pair.device.stats().refused;
    assert!(refused > 0);
    let copy = pair.log.iter().rfind(|(from, _)| from.is_none()).unwrap().1.clone();
    pair.cut = true;
    for _ in 0..60 {
        pair.run(Duration::from_secs(1));
        pair.astray = vec![copy.clone()];
        pair.deliver_astray();
    }
    assert!(pair.device.stats().refused > refused + 10, "it looked new");
    let lost = |e: &DeviceEvent| matches!(e, DeviceEvent::Disconnected { .. });
    assert!(pair.events.iter().any(lost), "{:?}", pair.events);
}
