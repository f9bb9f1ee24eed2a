//! What SPEC.md demands of a service whose device is seen to come from elsewhere.

use std::vec::Vec;

use core::net::SocketAddr;
use core::time::Duration;

use bytes::Bytes;

use super::exchange::bytes_of;
use super::stranger::{Opened, Stranger, Wish, World, from, seal, seal_plaintext};
use crate::channel::Event;
use crate::ids::{RequestId, Serial, StoreId};
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
        let request = RequestId(u32::try_from(self.number).unwrap() + 1);
        let interval = Duration::from_secs(25);
        let (mark, position) = (Serial::ZERO, Serial::ZERO);
        let header = self.header();
        let message = bytes_of(&Heartbeat { request, interval, mark, position });
        seal(&self.keys, &self.identifiers[0].0, &header, &[], &message)
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
