//! What SPEC.md demands of a service whose device is seen to come from elsewhere.

use std::vec::Vec;

use core::net::SocketAddr;
use core::time::Duration;

use bytes::Bytes;

use super::exchange::bytes_of;
use super::stranger::{Opened, Opening, Stranger, Wish, World, from, seal, seal_plaintext, ticket};
use crate::channel::Event;
use crate::ids::{RequestId, Rights, Serial, StoreId};
use crate::wire::{EndpointRequest, Heartbeat, PacketExtension};

const STATUS: u8 = 4;
const NOTIFY: u8 = 5;
const ENDPOINT: u8 = 12;

/// Another port of the same NAT.
fn elsewhere() -> SocketAddr {
    from(1234)
}

/// Another network.
fn abroad() -> SocketAddr {
    SocketAddr::from(([203, 0, 113, 9], 1234))
}

impl Stranger {
    /// A Heartbeat as a packet.
    fn heartbeat(&mut self) -> Vec<u8> {
        self.heartbeat_of(0)
    }

    /// One of at least so many bytes.
    fn heartbeat_of(&mut self, least: usize) -> Vec<u8> {
        let request = RequestId(u32::try_from(self.number).unwrap() + 1);
        let interval = Duration::from_secs(25);
        let (mark, position) = (Serial::ZERO, Serial::ZERO);
        let header = self.header();
        let message = bytes_of(&Heartbeat { request, interval, mark, position });
        let mut plaintext = [&[0xff, message.len() as u8][..], &message].concat();
        plaintext.resize(plaintext.len().max(least.saturating_sub(48)), 0);
        seal_plaintext(&self.keys, &self.identifiers[0].0, &header, &plaintext)
    }

    /// It is seen at `path`, and a challenge to it there is answered from there. What the service sent before.
    fn carried(&mut self, world: &mut World, path: SocketAddr) -> Vec<(SocketAddr, Opened)> {
        let packet = self.heartbeat();
        let _ = world.put(path, &packet);
        let sent = world.take();
        let sent = self.by_path(sent);
        let packet = self.response(challenge(&sent, path).expect("a challenge"));
        let _ = world.put(path, &packet);
        world.take();
        sent
    }

    /// The packets for this device, and where they go.
    fn by_path(&self, sent: Vec<(SocketAddr, Vec<u8>)>) -> Vec<(SocketAddr, Opened)> {
        sent.into_iter().filter_map(|(to, packet)| Some((to, self.open(&packet)?))).collect()
    }

    /// The answer to a challenge as a packet.
    fn response(&mut self, challenge: [u8; 8]) -> Vec<u8> {
        let header = self.header();
        seal(&self.keys, &self.identifiers[0].0, &header, &[PacketExtension::PathResponse(challenge)], &[])
    }
}

/// The challenge that went to `to`.
fn challenge(sent: &[(SocketAddr, Opened)], to: SocketAddr) -> Option<[u8; 8]> {
    sent.iter().find_map(|(path, p)| p.challenge.filter(|_| *path == to))
}

/// Where a notification goes now.
fn notified(world: &mut World, device: &Stranger) -> Vec<SocketAddr> {
    let event = Event::with_payload(StoreId::INBOUND, Bytes::from_static(b"x"));
    world.service.publish(world.now, &World::account(), event).unwrap();
    let sent = world.take();
    device.by_path(sent).into_iter().filter(|(_, p)| p.ty() == NOTIFY).map(|(to, _)| to).collect()
}

/// The connection's path.
fn path(world: &World) -> SocketAddr {
    world.service.devices(world.now, &World::account()).next().unwrap().path.remote
}

/// A device that has just been seen at another address, and what that made the service send.
fn moved(world: &mut World) -> (Stranger, Vec<(SocketAddr, Opened)>) {
    let mut device = Stranger::connected(world, &Wish::new(1));
    let packet = device.heartbeat();
    let _ = world.put(elsewhere(), &packet);
    let sent = world.take();
    let sent = device.by_path(sent);
    (device, sent)
}

// SPEC: R-path-validated
#[test]
fn a_device_is_followed_once_it_has_answered_from_there() {
    let mut world = World::new();
    let (mut device, sent) = moved(&mut world);
    let to_new = challenge(&sent, elsewhere()).expect("a challenge to the new path");
    let to_old = challenge(&sent, from(4000)).expect("a challenge to the old path");
    assert_ne!(to_new, to_old);
    assert!(sent.iter().any(|(to, p)| *to == elsewhere() && p.ty() == STATUS), "the answer goes there too");
    assert_eq!(notified(&mut world, &device), [from(4000)]);
    let packet = device.response(to_new);
    let _ = world.put(elsewhere(), &packet);
    let sent = world.take();
    let sent = device.by_path(sent);
    assert!(sent.iter().any(|(to, p)| *to == elsewhere() && p.ty() == NOTIFY), "sent again at once");
}

// SPEC: R-path-validated
#[test]
fn a_device_that_does_not_know_of_its_new_address_is_followed_too() {
    let mut world = World::new();
    let mut device = Stranger::connected(&mut world, &Wish::new(1));
    let packet = device.heartbeat();
    let _ = world.put(abroad(), &packet);
    let sent = world.take();
    let to_new = challenge(&device.by_path(sent), abroad()).expect("a challenge that the budget allows");
    let packet = device.response(to_new);
    let _ = world.put(abroad(), &packet);
    assert_eq!(notified(&mut world, &device), [abroad()]);
}

// SPEC: R-path-padded
#[test]
fn another_address_has_to_carry_packets_of_full_size() {
    let mut world = World::new();
    let mut device = Stranger::connected(&mut world, &Wish::new(1));
    let header = device.header();
    let mut plaintext = std::vec![0xff, 0];
    plaintext.resize(1200 - 48, 0);
    let packet = seal_plaintext(&device.keys, &device.identifiers[0].0, &header, &plaintext);
    let _ = world.put(abroad(), &packet);
    let sent = world.take();
    let full: Vec<_> = sent.iter().filter(|(to, _)| *to == abroad()).map(|(_, p)| p.len()).collect();
    assert_eq!(full, [1200]);
    let to_new = challenge(&device.by_path(sent), abroad()).unwrap();
    let packet = device.response(to_new);
    let _ = world.put(abroad(), &packet);
    // Nobody who saw the old network is to know the device again by its identifier.
    let sent = world.take();
    assert!(sent.iter().all(|(to, p)| *to == abroad() && !p.starts_with(&[0xd5; 8])), "{sent:?}");
    assert_eq!(notified(&mut world, &device), [abroad()]);
}

// SPEC: R-path-old-wins
#[test]
fn a_copy_carried_elsewhere_does_not_take_the_notifications_along() {
    for copied_response in [false, true] {
        let mut world = World::new();
        let (mut device, sent) = moved(&mut world);
        let to_new = challenge(&sent, elsewhere()).unwrap();
        let to_old = challenge(&sent, from(4000)).unwrap();
        if copied_response {
            // The thief has the device answer its challenge too, and is first.
            let packet = device.response(to_new);
            let _ = world.put(elsewhere(), &packet);
        }
        let packet = device.response(to_old);
        // From the wrong path it is nothing.
        let _ = world.put(elsewhere(), &packet);
        let _ = world.put(from(4000), &packet);
        world.take();
        world.run(Duration::from_secs(5));
        assert_eq!(notified(&mut world, &device), [from(4000)]);
        // And it cannot suggest itself again for a while.
        let packet = device.heartbeat();
        let _ = world.put(elsewhere(), &packet);
        let sent = world.take();
        assert_eq!(challenge(&device.by_path(sent), elsewhere()), None);
    }
}

// SPEC: R-path-unanswered
#[test]
fn a_path_that_does_not_answer_is_forgotten() {
    let mut world = World::new();
    let (device, _) = moved(&mut world);
    let sent: Vec<_> = world.run(Duration::from_secs(30)).into_iter().map(|(_, to, p)| (to, p)).collect();
    let to_new = device.by_path(sent).into_iter().filter(|(to, _)| *to == elsewhere()).count();
    assert!(to_new <= 2, "two more challenges at most: {to_new}");
    assert_eq!(notified(&mut world, &device), [from(4000)]);
}

// SPEC: R-path-bytes
#[test]
fn no_more_than_three_times_what_came_goes_to_a_path_that_is_not_validated() {
    let mut world = World::new();
    let mut device = Stranger::connected(&mut world, &Wish::new(1));
    let (mut came, mut went) = (0, 0);
    for round in 0..20 {
        let packet = device.heartbeat();
        came += packet.len();
        let _ = world.put(elsewhere(), &packet);
        for (_, to, packet) in world.run(Duration::from_millis(300 * round)) {
            went += if to == elsewhere() { packet.len() } else { 0 };
        }
        assert!(went <= 3 * came, "{went} of {came}");
    }
    assert!(went > 0);
}

// SPEC: R-endpoint
#[test]
fn an_endpoint_request_moves_nothing_and_its_answer_is_not_larger() {
    let mut world = World::new();
    let mut device = Stranger::connected(&mut world, &Wish::new(1));
    for padding in [0, 40] {
        let header = device.header();
        let message = bytes_of(&EndpointRequest { request: RequestId(9) });
        let mut plaintext = [&[0xff, message.len() as u8][..], &message].concat();
        plaintext.resize(plaintext.len() + padding, 0);
        let packet = seal_plaintext(&device.keys, &device.identifiers[0].0, &header, &plaintext);
        let _ = world.put(elsewhere(), &packet);
        let sent = world.take();
        assert!(sent.iter().all(|(to, p)| *to == elsewhere() && p.len() <= packet.len()));
        let types: Vec<_> = device.by_path(sent).iter().map(|(_, p)| p.ty()).collect();
        assert_eq!(types, if padding == 0 { &[][..] } else { &[ENDPOINT] });
    }
    assert_eq!(notified(&mut world, &device), [from(4000)]);
}

// SPEC: R-path-old-asked
#[test]
fn a_path_that_was_left_is_asked_for_a_minute_and_takes_the_connection_back() {
    let mut world = World::new();
    let mut device = Stranger::connected(&mut world, &Wish::new(1));
    let began = world.now;
    device.carried(&mut world, elsewhere());
    assert_eq!(notified(&mut world, &device), [elsewhere()]);
    let sent = world.run(Duration::from_secs(200));
    let to_old = sent.iter().filter(|(_, to, _)| *to == from(4000));
    let asked: Vec<_> = to_old
        .filter(|(.., packet)| device.open(packet).is_some_and(|p| p.challenge.is_some()))
        .map(|(at, ..)| at.since(began).as_secs())
        .collect();
    // In probe timeouts of 1.024 s.
    assert_eq!(asked, [1, 3, 7, 15, 23, 31, 39, 48, 56, 64]);
    // The answer to any of them is enough. Those before may have been lost, or answers to them.
    for wait in [500, 1500, 20_000, 60_000, 66_000] {
        let mut world = World::new();
        let mut device = Stranger::connected(&mut world, &Wish::new(1));
        let sent = device.carried(&mut world, elsewhere());
        world.run(Duration::from_millis(wait));
        let packet = device.response(challenge(&sent, from(4000)).unwrap());
        let _ = world.put(from(4000), &packet);
        world.take();
        assert_eq!(notified(&mut world, &device), [from(4000)], "after {wait} ms");
    }
}

// SPEC: R-path-old-asked
#[test]
fn whoever_has_several_addresses_has_no_path_forgotten() {
    for rounds in 1..6u8 {
        let mut world = World::new();
        let mut device = Stranger::connected(&mut world, &Wish::new(1));
        let sent = device.carried(&mut world, elsewhere());
        let to_old = challenge(&sent, from(4000)).unwrap();
        for n in 0..rounds {
            world.run(Duration::from_millis(1100));
            let another = SocketAddr::from(([203, 0, 113, n], 666));
            device.carried(&mut world, another);
            assert_eq!(path(&world), another);
        }
        let packet = device.response(to_old);
        let _ = world.put(from(4000), &packet);
        world.take();
        assert_eq!(notified(&mut world, &device), [from(4000)], "{rounds} addresses");
    }
}

// SPEC: R-path-old-asked
#[test]
fn a_device_that_moves_all_the_time_leaves_no_trail_of_challenges() {
    let mut world = World::new();
    let mut device = Stranger::connected(&mut world, &Wish::new(1));
    let mut asked = std::collections::BTreeMap::new();
    let mut count = |device: &Stranger, sent: Vec<(SocketAddr, Vec<u8>)>| {
        for (to, packet) in device.by_path(sent) {
            *asked.entry(to).or_insert(0) += u32::from(packet.challenge.is_some());
        }
    };
    for port in 5000..5030 {
        let packet = device.heartbeat();
        let _ = world.put(from(port), &packet);
        let sent = world.take();
        let opened = device.by_path(sent.clone());
        count(&device, sent);
        let packet = device.response(challenge(&opened, from(port)).unwrap());
        let _ = world.put(from(port), &packet);
        let sent = world.run(Duration::from_secs(20)).into_iter().map(|(_, to, p)| (to, p)).collect();
        count(&device, sent);
    }
    assert!(asked.values().all(|times| *times <= 12), "{asked:?}");
}

/// The next connection of the device, from elsewhere, and what the service sends when that is confirmed.
fn renewed_from_elsewhere(world: &mut World) -> (Stranger, Vec<(SocketAddr, Vec<u8>)>) {
    let opening = Opening::new(&ticket(Rights::default()), &Wish::new(2), None);
    let _ = world.put(elsewhere(), &opening.packet);
    let mut device = Stranger::read(&opening, &world.take().swap_remove(0).1);
    let packet = device.heartbeat();
    let _ = world.put(elsewhere(), &packet);
    let sent = world.take();
    (device, sent)
}

// SPEC: R-path-inherited
#[test]
fn a_new_connection_from_elsewhere_has_to_stand_up_to_the_path_before() {
    for old_answers in [false, true] {
        let mut world = World::new();
        Stranger::connected(&mut world, &Wish::new(1));
        let (mut device, sent) = renewed_from_elsewhere(&mut world);
        let sent = device.by_path(sent);
        let to_old = challenge(&sent, from(4000)).expect("the path of the one before is asked");
        assert_eq!(challenge(&sent, elsewhere()), None, "it has answered in the exchange");
        assert_eq!(notified(&mut world, &device), [elsewhere()], "nobody waits");
        if old_answers {
            let packet = device.response(to_old);
            let _ = world.put(from(4000), &packet);
        }
        world.run(Duration::from_secs(70));
        assert_eq!(path(&world), if old_answers { from(4000) } else { elsewhere() });
    }
}

// SPEC: R-path-inherited
#[test]
fn a_new_connection_has_no_path_forgotten() {
    let mut world = World::new();
    let mut device = Stranger::connected(&mut world, &Wish::new(1));
    device.carried(&mut world, elsewhere());
    // The exchange comes from there too, while the path that was left is still asked.
    let (mut device, sent) = renewed_from_elsewhere(&mut world);
    let to_old = challenge(&device.by_path(sent), from(4000)).expect("it still is");
    let packet = device.response(to_old);
    let _ = world.put(from(4000), &packet);
    world.take();
    assert_eq!(notified(&mut world, &device), [from(4000)]);
}

// SPEC: R-unconfirmed, R-path-begins
#[test]
fn a_path_begins_where_the_exchange_came_from() {
    let mut world = World::new();
    let opening = Opening::new(&ticket(Rights::default()), &Wish::new(1), None);
    let _ = world.put(from(4000), &opening.packet);
    let mut device = Stranger::read(&opening, &world.take().swap_remove(0).1);
    assert!(world.run(Duration::from_secs(2)).is_empty(), "nothing but ResponderComplete");
    // What it said there has arrived, whatever way the Heartbeat that shows it took.
    let packet = device.heartbeat();
    let _ = world.put(abroad(), &packet);
    let sent = world.take();
    let sent = device.by_path(sent);
    assert!(challenge(&sent, abroad()).is_some() && challenge(&sent, from(4000)).is_some());
    assert_eq!(notified(&mut world, &device), [from(4000)]);
}

// SPEC: R-identifiers-issued
#[test]
fn identifiers_are_issued_with_every_move() {
    let mut world = World::new();
    let mut device = Stranger::connected(&mut world, &Wish::new(1));
    let issued = |sent: &[(SocketAddr, Opened)]| -> usize {
        sent.iter().map(|(_, packet)| packet.identifiers.len() / 32).sum()
    };
    // Another port, which may be another network behind the same box.
    let packet = device.heartbeat();
    let _ = world.put(elsewhere(), &packet);
    let sent = world.take();
    let sent = device.by_path(sent);
    assert_eq!(issued(&sent), 0, "not before it has answered");
    let packet = device.response(challenge(&sent, elsewhere()).unwrap());
    let _ = world.put(elsewhere(), &packet);
    let sent = world.take();
    assert_eq!(issued(&device.by_path(sent)), 3);
    // The same address and port, but the device says that it is another network.
    let packet = device.heartbeat_of(1200);
    let _ = world.put(elsewhere(), &packet);
    let sent = world.take();
    assert!(sent.iter().filter(|(to, _)| *to == elsewhere()).all(|(_, p)| !p.starts_with(&[0xd5; 8])));
    assert_eq!(issued(&device.by_path(sent)), 3);
    let packet = device.heartbeat();
    let _ = world.put(elsewhere(), &packet);
    let sent = world.take();
    assert_eq!(issued(&device.by_path(sent)), 0, "it says nothing of the kind");
}

// SPEC: R-network-change-hidden
#[test]
fn no_identifier_links_the_network_that_was_left_with_the_next() {
    // A device that says so, from another port; one that does not know of it, from another address.
    for (to, size) in [(elsewhere(), 1200), (abroad(), 0), (abroad(), 1200)] {
        let mut world = World::new();
        let mut device = Stranger::connected(&mut world, &Wish::new(1));
        let packet = device.heartbeat_of(size);
        let _ = world.put(to, &packet);
        let mut sent = world.take();
        let to_new = challenge(&device.by_path(sent.clone()), to).unwrap();
        let packet = device.response(to_new);
        let _ = world.put(to, &packet);
        sent.extend(world.run(Duration::from_secs(100)).into_iter().map(|(_, to, packet)| (to, packet)));
        let old = |(to, _): &&(SocketAddr, Vec<u8>)| *to == from(4000);
        assert!(sent.iter().filter(old).count() > 10, "it is asked");
        assert!(
            sent.iter().all(|(to, packet)| packet.starts_with(&[0xd5; 8]) == (*to == from(4000))),
            "{to}"
        );
    }
}
