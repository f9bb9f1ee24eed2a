//! Packets for machines: from strangers, and from the holder of the other side's keys who sends what he likes.

use alloc::vec;
use alloc::vec::Vec;
use core::time::Duration;

use bytes::Bytes;

use super::Input;
use super::world::{World, device_address};
use crate::batch::TransmitBatch;
use crate::channel::Event;
use crate::crypto::{AnswerKey, ConnectKey, ConnectionKeys, PacketKeys, Secret, StepOneDigest, seal_packet};
use crate::ids::StoreId;
use crate::path::{Datagram, Disposition, LinkId, Path};
use crate::service::{WebId, WebRequest};
use crate::stun::{BindingRequest, BindingResponse};
use crate::wire::{
    AEAD_TAG, Ack, Answer, Connect, ConnectResponse, Direction, HEADER, Header, MAX_PACKET, Step1,
    device_identifiers, read_sealed, service_identifiers,
};

/// Packets injected in one run at most.
const MAX_PACKETS: usize = 48;

/// What a device with packets of 1,200 bytes holds of incomplete datagrams (SPEC.md, section 18).
const MOST_PARTIAL: usize = 64 * (1200 - 43);

/// A packet of a stranger: changes nothing but a counter, and what is sent because of it is no larger than it.
pub fn service_packet(data: &[u8]) {
    let mut world = World::connected();
    let data = data.get(..MAX_PACKET).unwrap_or(data);
    let mut packet = data.to_vec();
    let before = world.service.stats();
    let mut dispositions = Vec::new();
    let path = Path::new(LinkId(0), device_address());
    let mut received = [Datagram { path, payload: &mut packet }];
    world.service.handle_datagrams(world.now, &mut received, &mut dispositions);
    if dispositions != [Disposition::Accepted] {
        assert_eq!(packet, data, "a refused packet was changed");
    }
    let mut batch = TransmitBatch::new(8);
    world.service.poll_transmit(world.now, &mut batch);
    let sent: usize = batch.iter().map(|(t, _)| t.len).sum();
    request_of_a_stranger(&mut world, data);
    // A Binding request is the one question whose answer may be larger.
    let most = if BindingRequest::parse(data).is_ok() { BindingResponse::MAX } else { data.len() };
    assert!(sent <= most, "{sent} bytes sent for {} received", data.len());
    let after = world.service.stats();
    assert_eq!((after.connected, after.published), (before.connected, before.published));
    assert!(world.service.poll_event().is_none());
    world.run(Duration::from_secs(30));
    assert_eq!(world.service.stats().connected, 1, "a stranger has ended a connection");
}

/// The same packet in a request: nothing is held for it, and what is answered is no larger than it.
fn request_of_a_stranger(world: &mut World, data: &[u8]) {
    let mut packet = data.to_vec();
    let (id, remote, wait) = (WebId(1), device_address(), Some(Duration::from_secs(50)));
    let request = WebRequest { id, remote, wait, packet: &mut packet };
    let disposition = world.service.handle_web_request(world.now, request);
    assert_eq!(world.service.stats().web_held, 0, "a request of a stranger is held");
    let mut body = Vec::new();
    let answered = world.service.poll_web(world.now, &mut body) == Some(id);
    assert_eq!(answered, disposition == Disposition::Accepted, "an answer that is not the host's");
    assert!(body.len() <= data.len() + 2, "{} bytes answered for {}", body.len(), data.len());
    assert!(answered || packet == data, "a refused packet was changed");
}

/// A packet of a stranger to a device: to one that is connecting, and to one that is connected. The first byte chooses
/// whether it begins as an answer, or as a packet of the connection, should.
pub fn device_packet(data: &[u8]) {
    let mut input = Input(data);
    let choice = input.u8();
    let mut packet = input.0.get(..MAX_PACKET).unwrap_or(input.0).to_vec();

    let mut connecting = World::new();
    // Long enough to send step 1, not for the answer to come.
    connecting.run(Duration::from_millis(1));
    let step1 = connecting.firsts[0].clone().unwrap_or_default();
    let handshake = Step1::parse(&step1).map(|s| s.handshake).expect("the device began with a step 1");
    if choice & 1 != 0 {
        let len = packet.len().min(8);
        packet[..len].copy_from_slice(&handshake[..len]);
    }
    let _ = connecting.deliver_to_device(&mut packet.clone());
    connecting.run(Duration::from_secs(60));
    assert_eq!(connecting.service.stats().connected, 1, "a stranger has kept a device away");

    let mut connected = World::connected();
    if choice & 2 != 0 {
        let secrets = Secrets::of(&connected, &connected.firsts);
        let len = packet.len().min(8);
        packet[..len].copy_from_slice(&secrets.device[..len]);
    }
    let before = connected.device.stats();
    let disposition = connected.deliver_to_device(&mut packet);
    assert_ne!(disposition, Disposition::Accepted);
    assert_eq!(connected.device.stats().notifies, before.notifies);
    connected.run(Duration::from_secs(30));
    assert_eq!(connected.device.stats().connects, 1, "a stranger has ended a connection");
}

/// What the two ends of a connection know.
pub(super) struct Secrets {
    keys: ConnectionKeys,
    /// An identifier for packets to the service.
    service: [u8; 16],
    /// An identifier for packets to the device.
    device: [u8; 8],
}

impl Secrets {
    /// From the exchange with which this world began.
    pub(super) fn of(world: &World, [step1, answer]: &[Option<Vec<u8>>; 2]) -> Self {
        let secret = Secret::new(*world.ticket.secret());
        let (Some(step1), Some(answer)) = (step1, answer) else { panic!("there was no exchange") };
        let clear = Step1::parse(step1).map(|s| s.clear.len()).expect("a step 1");
        let mut opened = step1.clone();
        let (clear, sealed) = opened.split_at_mut(clear);
        let connect = ConnectKey::new(&secret, clear).open(clear, sealed).expect("the keys are right");
        let connect = read_sealed(connect).and_then(Connect::parse).expect("a Connect");
        let device = device_identifiers(connect.identifiers).next().expect("at least one identifier");

        let clear = Answer::parse(answer).map(|a| a.clear.len()).expect("an answer");
        let mut opened = answer.clone();
        let (clear, sealed) = opened.split_at_mut(clear);
        let key = AnswerKey::new(&secret, None, &StepOneDigest::of(step1), clear);
        let response = key.open(clear, sealed).expect("the keys are right");
        let response = read_sealed(response).and_then(ConnectResponse::parse).expect("a response");
        let (service, _) = service_identifiers(response.identifiers).next().expect("at least one identifier");
        Self { keys: key.connection_keys(), service, device }
    }

    /// An authentic packet with whatever header and content the bytes say. `base` keeps its number near those that the
    /// other side expects.
    pub(super) fn packet(
        &self,
        input: &mut Input<'_>,
        direction: Direction,
        web: bool,
        base: u64,
    ) -> Vec<u8> {
        let choice = input.u8();
        let number = base.saturating_add(u64::from(input.u8())).saturating_sub(16);
        let plain = Header {
            wanted: choice & 2 != 0,
            // Bits that break the protocol are set together, so that most packets keep it.
            web: web != (choice & 0xf0 == 0x10),
            final_: choice & 0xf0 != 0x20,
            ..Header::single(number, direction)
        };
        let mut header = plain;
        if choice & 4 != 0 {
            let shape = input.u8();
            header.count = shape >> 4;
            header.index = shape & 15;
            header.transmission = input.u8() & 15;
        }
        if choice & 8 != 0 {
            header.ack = Some(Ack { number_low: u32::from(input.u8()), bitmap: input.u16() });
        }
        let content = input.bytes();
        let content = content.get(..1100).unwrap_or(content);
        let (identifier, keys): (&[u8], _) = match direction {
            Direction::ToResponder => (&self.service, &self.keys.to_service),
            Direction::ToInitiator => (&self.device, &self.keys.to_device),
        };
        let mut packet = vec![0; identifier.len() + HEADER];
        packet[..identifier.len()].copy_from_slice(identifier);
        if choice & 1 == 0 {
            // A message without extensions, its length in front.
            packet.push(255);
            packet.extend_from_slice(&[0x40 | (content.len() >> 8) as u8, content.len() as u8]);
        }
        packet.extend_from_slice(content);
        packet.resize(packet.len() + AEAD_TAG, 0);
        let keys = PacketKeys { key: &keys.key, iv: &keys.iv, header: &self.keys.header };
        seal_packet(&keys, &mut packet, identifier.len(), header.encode(), header.nonce_input());
        packet
    }
}

/// A device that holds a ticket and keeps no rules: the service does not panic, spin or grow.
pub fn authentic_service(data: &[u8]) {
    let mut input = Input(data);
    let mut world = World::connected();
    let secrets = Secrets::of(&world, &world.firsts);
    // What the real device says from now on is lost; the bytes speak for it.
    world.weather.loss = 255;
    for turn in 0..MAX_PACKETS {
        if input.is_empty() {
            break;
        }
        match input.u8() % 8 {
            0 => world.publish(Event::changed(StoreId::INBOUND)),
            1 => {
                let size = usize::from(input.u16()) % 16_385;
                let payload = Bytes::from(vec![turn as u8; size]);
                world.publish(Event::with_payload(StoreId::OUTBOUND, payload));
            }
            2 => world.run(Duration::from_millis(100) * u32::from(input.u8())),
            3 => {
                let wait = Some(Duration::from_secs(input.u8().into())).filter(|wait| !wait.is_zero());
                let mut packet = secrets.packet(&mut input, Direction::ToResponder, false, 16 + turn as u64);
                let request = WebRequest {
                    id: WebId(turn as u64),
                    remote: device_address(),
                    wait,
                    packet: &mut packet,
                };
                let _ = world.service.handle_web_request(world.now, request);
                world.run(Duration::from_millis(1));
                let mut body = Vec::new();
                while world.service.poll_web(world.now, &mut body).is_some() {
                    assert!(body.len() <= 16 * (2 + MAX_PACKET), "{} bytes in an answer", body.len());
                }
            }
            _ => {
                let mut packet = secrets.packet(&mut input, Direction::ToResponder, false, 16 + turn as u64);
                let _ = world.deliver_to_service(&mut packet);
                world.run(Duration::from_millis(1));
            }
        }
        let stats = world.service.stats();
        assert!(stats.records <= 2 && stats.web_held <= 1, "{stats:?}");
    }
    world.run(Duration::from_secs(600));
    assert_eq!(world.service.stats().web_held, 0);
    assert!(world.service.stats().records <= 1, "{:?}", world.service.stats());
}

/// A service that keeps no rules: the device does not panic or spin, and when the service has come to its senses, it
/// connects again.
pub fn authentic_device(data: &[u8]) {
    let mut input = Input(data);
    let mut world = World::connected();
    let secrets = Secrets::of(&world, &world.firsts);
    for turn in 0..MAX_PACKETS {
        if input.is_empty() {
            break;
        }
        match input.u8() % 8 {
            0 => world.run(Duration::from_millis(100) * u32::from(input.u8())),
            _ => {
                let mut packet = secrets.packet(&mut input, Direction::ToInitiator, false, 16 + turn as u64);
                let _ = world.deliver_to_device(&mut packet);
                world.drain();
            }
        }
        let stats = world.device.stats();
        assert!(
            stats.partial_bytes <= MOST_PARTIAL && stats.partial_memory <= MOST_PARTIAL * 5 / 2,
            "{stats:?}"
        );
    }
    world.run(Duration::from_secs(3600));
}
