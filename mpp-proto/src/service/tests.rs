//! A device that holds a ticket and does not keep to the protocol, and a service that does not: packets that no real one
//! sends, under the keys of a real connection.

use std::net::SocketAddr;
use std::vec::Vec;

use bytes::Bytes;

use super::*;
use crate::crypto::{PacketKeys, TicketKey, TicketSpec, seal_packet};
use crate::device::{Device, DeviceConfig, DeviceEvent, LinkKind, LinkState};
use crate::ids::{RequestId, Rights, StoreId, StoreSet};
use crate::path::{LinkId, Path};
use crate::wire::{
    AEAD_TAG, Ack, Acknowledge, DEVICE_IDENTIFIER, Direction, Emit, Endpoint, EndpointRequest, EventRef,
    HEADER, Header, Heartbeat, Notify, SERVICE_IDENTIFIER, Subscribe, TicketRequest, emit_plaintext_head,
};

const NOW: Instant = Instant::from_micros(5_000_000);
const CLOCK: UnixTime = UnixTime::from_millis(1_800_000_000_000);
/// The record of the only connection.
const SLOT: u32 = 0;

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

struct Misfit {
    service: Service,
    device: Device,
    account: AccountId,
}

impl Misfit {
    /// A connection of a real device.
    fn new() -> Self {
        let key = TicketKey::new(*b"key1", [7; 32]);
        let spec = TicketSpec {
            endpoints: [Endpoint::Address(address("192.0.2.1:15096"))].into(),
            account: "alice".into(),
            device: DeviceId([1; 16]),
            rights: Rights::default(),
            issued: CLOCK,
            expiry: CLOCK + Duration::from_secs(3600),
        };
        let ticket = key.mint(&spec, &[3; 32]).unwrap();
        let config = ServiceConfig::new(crate::crypto::ServiceSecret::new([9; 32]), [key].into());
        let service = Service::new(config.into(), ShardId(0), Seed::new([1; 32]), NOW, CLOCK);
        let device =
            Device::new(DeviceConfig::default().into(), ticket, None, Seed::new([2; 32]), NOW, CLOCK);
        let mut this = Self { service, device, account: AccountId::of("alice") };
        this.device.handle_timeout(NOW);
        this.settle();
        assert_eq!(this.service.stats().connected, 1);
        this
    }

    /// Lets the two talk until they have nothing more to say.
    fn settle(&mut self) {
        let mut buffer = [0; 1452];
        for _ in 0..20 {
            while let Some(event) = self.device.poll_event() {
                if let DeviceEvent::OpenLink { link, kind: LinkKind::Udp(_) } = event {
                    let local = address("198.51.100.7:4000");
                    self.device.handle_link(NOW, link, LinkState::Open { local });
                }
            }
            while let Some(t) = self.device.poll_transmit(NOW, &mut buffer, NonZeroUsize::MIN) {
                self.service_gets(address("198.51.100.7:4000"), &mut buffer[..t.len]);
            }
            for mut packet in self.output() {
                self.device_gets(&mut packet);
            }
        }
    }

    fn service_gets(&mut self, from: SocketAddr, payload: &mut [u8]) {
        let datagram = Datagram { path: Path::new(LinkId(0), from), payload };
        self.service.handle_datagrams(NOW, &mut [datagram], &mut Vec::new());
    }

    fn device_gets(&mut self, payload: &mut [u8]) {
        let path = Path::new(LinkId(0), address("192.0.2.1:15096"));
        let _ = self.device.handle_datagram(NOW, Datagram { path, payload });
    }

    fn output(&mut self) -> Vec<Vec<u8>> {
        let mut batch = TransmitBatch::new(32);
        let mut packets = Vec::new();
        while self.service.poll_transmit(NOW, &mut batch) > 0 {
            for (t, bytes) in batch.iter() {
                let size = t.segment_size.map_or(bytes.len(), |s| usize::from(s.get()));
                packets.extend(bytes.chunks(size).map(<[u8]>::to_vec));
            }
            batch.clear();
        }
        packets
    }

    /// A packet from the device's side with this header and message; what the service answers.
    fn send_from(&mut self, from: &str, header: Header, message: &impl Emit) -> Vec<Vec<u8>> {
        let id = self.service.connection_id(SLOT);
        let mut packet = self.service.identifiers.issue(id, &mut self.service.rng).to_vec();
        packet.resize(SERVICE_IDENTIFIER + HEADER, 0);
        emit_plaintext_head(&mut packet, &[], message.emitted_len());
        message.emit(&mut packet);
        packet.resize(packet.len() + AEAD_TAG, 0);
        let table = &self.service.table;
        let keys = PacketKeys {
            key: &table.open[SLOT].key,
            iv: &table.ids[SLOT].open_iv,
            header: &table.seal[SLOT].header,
        };
        seal_packet(&keys, &mut packet, SERVICE_IDENTIFIER, header.encode(), header.nonce_input());
        self.service_gets(address(from), &mut packet);
        self.output()
    }

    fn send(&mut self, header: Header, message: &impl Emit) -> Vec<Vec<u8>> {
        self.send_from("198.51.100.7:4000", header, message)
    }

    /// A packet from the service's side.
    fn notify(&mut self, change: impl FnOnce(&mut Header), told: u64, upto: u64) {
        let number = self.service.table.take_number(SLOT);
        let mut header = Header { wanted: true, ..Header::single(number, Direction::ToInitiator) };
        change(&mut header);
        let event = EventRef {
            serial: Serial(upto),
            store: StoreId::INBOUND,
            expiry: CLOCK + Duration::from_secs(60),
            key: None,
            payload: b"hello",
        };
        let message = Notify {
            told: Serial(told),
            upto: Serial(upto),
            newest: Serial(upto),
            changed: StoreSet::EMPTY,
            lost: StoreSet::EMPTY,
            service_time: None,
            events: core::iter::once(event),
        };
        let identifier = self.service.table.ids[SLOT].device[0];
        let mut packet = identifier.to_vec();
        packet.resize(DEVICE_IDENTIFIER + HEADER, 0);
        emit_plaintext_head(&mut packet, &[], message.emitted_len());
        message.emit(&mut packet);
        packet.resize(packet.len() + AEAD_TAG, 0);
        let keys = self.service.table.seal_keys(SLOT, &header, true);
        seal_packet(&keys, &mut packet, DEVICE_IDENTIFIER, header.encode(), header.nonce_input());
        self.device_gets(&mut packet);
    }

    fn notifications(&mut self) -> usize {
        core::iter::from_fn(|| self.device.poll_notification(NOW)).count()
    }

    fn told(&self) -> u64 {
        self.service.table.ids[SLOT].told.0
    }
}

/// Above all numbers that the real device has used.
fn header(number: u64) -> Header {
    Header::single(1000 + number, Direction::ToResponder)
}

fn heartbeat(mark: u64, position: u64) -> Heartbeat {
    let interval = Duration::from_secs(25);
    Heartbeat { request: RequestId(99), interval, mark: Serial(mark), position: Serial(position) }
}

fn subscribe(request: u32, store: StoreId) -> Subscribe {
    Subscribe {
        request: RequestId(request),
        filter: StoreSet::EMPTY.with(store),
        covered: StoreSet::ALL,
        position: Serial::ZERO,
        epoch: Epoch::NONE,
    }
}

#[test]
fn a_copy_from_the_web_does_nothing() {
    let mut misfit = Misfit::new();
    let web = Header { web: true, ..header(0) };
    assert!(misfit.send(web, &heartbeat(0, 0)).is_empty());
    assert_eq!(misfit.send(header(0), &heartbeat(0, 0)).len(), 1, "its number was not used up");
    misfit.notify(|header| header.web = true, 0, 1);
    assert_eq!(misfit.notifications(), 0);
    misfit.notify(|_| {}, 0, 1);
    assert_eq!(misfit.notifications(), 1);
}

#[test]
fn a_header_that_may_not_be_closes_the_connection() {
    let mut misfit = Misfit::new();
    let answers = misfit.send(Header { count: 2, ..header(0) }, &heartbeat(0, 0));
    assert_eq!((answers.len(), misfit.service.stats().connected), (1, 0));
}

#[cfg(debug_assertions)]
#[test]
#[should_panic(expected = "this nonce was used before")]
fn a_service_that_took_a_number_twice_would_be_noticed() {
    let mut misfit = Misfit::new();
    misfit.service.table.ids[SLOT].next_number -= 1;
    misfit.send(header(0), &heartbeat(0, 0));
}

#[test]
fn an_acknowledgement_of_what_was_never_sent_closes_the_connection() {
    let mut misfit = Misfit::new();
    let next = misfit.service.table.ids[SLOT].next_number;
    let acknowledging = |n, number_low| Header { ack: Some(Ack { number_low, bitmap: 1 }), ..header(n) };
    misfit.send(acknowledging(0, next - 1), &heartbeat(0, 0));
    assert_eq!(misfit.service.stats().connected, 1);
    misfit.send(acknowledging(1, next + 1), &heartbeat(0, 0));
    assert_eq!(misfit.service.stats().connected, 0);
}

#[test]
fn the_mark_of_the_newest_heartbeat_is_the_truth_within_what_there_is() {
    let mut misfit = Misfit::new();
    for _ in 0..3 {
        misfit.service.publish(NOW, &misfit.account, Event::changed(StoreId::INBOUND)).unwrap();
    }
    misfit.settle();
    assert_eq!(misfit.told(), 3);
    misfit.send(header(1), &heartbeat(99, 0));
    assert_eq!(misfit.told(), 3, "more than there is");
    misfit.send(header(0), &heartbeat(1, 0));
    assert_eq!(misfit.told(), 3, "older news");
    misfit.send(header(2), &heartbeat(1, 0));
    assert_eq!(misfit.told(), 1, "it has less than was believed");
    misfit.send(header(3), &heartbeat(2, 0));
    assert_eq!(misfit.told(), 2, "and now more again");
}

#[test]
fn a_position_beyond_the_channel_is_not_believed() {
    let mut misfit = Misfit::new();
    misfit.service.publish(NOW, &misfit.account, Event::changed(StoreId::INBOUND)).unwrap();
    misfit.send(header(0), &Acknowledge { position: Serial(7) });
    let position = |misfit: &Misfit| misfit.service.devices(NOW, &misfit.account).next().unwrap().position;
    assert_eq!(position(&misfit), Serial(0));
    misfit.send(header(1), &Acknowledge { position: Serial(1) });
    misfit.send(header(2), &Acknowledge { position: Serial(0) });
    assert_eq!(position(&misfit), Serial(1), "nor one that goes back");
}

#[test]
fn an_older_subscription_does_not_come_back() {
    let mut misfit = Misfit::new();
    misfit.send(header(0), &subscribe(50, StoreId::INBOUND));
    misfit.send(header(1), &subscribe(49, StoreId::OUTBOUND));
    assert!(misfit.service.table.owner[SLOT].filter == StoreSet::EMPTY.with(StoreId::INBOUND));
}

#[test]
fn the_answer_to_an_endpoint_request_is_no_larger_than_it() {
    let mut misfit = Misfit::new();
    let request = EndpointRequest { request: RequestId(5) };
    let answers = misfit.send_from("[2001:db8::5]:5", header(0), &request);
    assert!(answers.is_empty(), "{} bytes", answers[0].len());
    // One that is padded is answered.
    misfit.device.query_endpoint(NOW).unwrap();
    misfit.service.table.open[SLOT].window = crate::rud::replay::ReplayWindow::default();
    misfit.settle();
    assert_eq!(misfit.device.stats().connects, 1);
}

#[test]
fn a_device_takes_nothing_after_a_hole_and_nothing_twice() {
    let mut misfit = Misfit::new();
    misfit.notify(|_| {}, 1, 2);
    assert_eq!(misfit.notifications(), 0, "the service believes that 1 has arrived, but it has not");
    let stats = misfit.device.stats();
    assert!(stats.unapplied == 1 && stats.is_conserved(), "{stats:?}");
    misfit.notify(|_| {}, 0, 1);
    misfit.notify(|_| {}, 0, 1);
    assert_eq!(misfit.notifications(), 1, "made anew under another number, it is the same event");
    misfit.notify(|_| {}, 1, 2);
    assert_eq!(misfit.notifications(), 1);
}

#[test]
fn a_payload_that_is_too_large_is_no_event() {
    let mut misfit = Misfit::new();
    let event = Event::with_payload(StoreId::INBOUND, Bytes::from_static(&[0; 16_385]));
    assert!(misfit.service.publish(NOW, &misfit.account, event).is_err());
    let reserved = Event::changed(StoreId::new(25).unwrap());
    assert!(misfit.service.publish(NOW, &misfit.account, reserved).is_err());
    assert_eq!(misfit.service.head(&misfit.account).unwrap().newest, Serial::ZERO);
}

impl Misfit {
    /// Asks for a ticket with this token over the real device's keys. Whether there is one.
    fn asks_for_ticket(&mut self, number: u64, token: &[u8]) -> bool {
        let before = self.service.stats().renewed;
        let answers = self.send(header(number), &TicketRequest { request: RequestId(900), token });
        assert_eq!(answers.len(), 1, "a ticket or a Failure");
        self.service.stats().renewed > before
    }
}

/// A token that this service's key sealed.
fn token(account: &str, device: u8, issued: UnixTime, expiry: UnixTime) -> Vec<u8> {
    let (endpoints, account, device) =
        ([Endpoint::Address(address("192.0.2.1:1"))].into(), account.into(), DeviceId([device; 16]));
    let spec = TicketSpec { endpoints, account, device, rights: Rights::default(), issued, expiry };
    TicketKey::new(*b"key1", [7; 32]).mint(&spec, &[3; 32]).unwrap().token().to_vec()
}

// SPEC: R-ticket-renewed
#[test]
fn only_a_good_ticket_of_the_same_device_is_renewed() {
    let hour = Duration::from_secs(3600);
    let good = token("alice", 1, CLOCK, CLOCK + hour);
    let mut misfit = Misfit::new();
    assert!(misfit.asks_for_ticket(0, &good));
    assert!(misfit.asks_for_ticket(1, &good), "a repetition is answered too");
    for (number, bad) in [
        token("bob", 1, CLOCK, CLOCK + hour),
        token("alice", 2, CLOCK, CLOCK + hour),
        token("alice", 1, CLOCK - hour, CLOCK),
        token("alice", 1, CLOCK + hour, CLOCK + hour * 2),
        good[..60].to_vec(),
        [7; 90].to_vec(),
    ]
    .iter()
    .enumerate()
    {
        assert!(!misfit.asks_for_ticket(2 + number as u64, bad), "number {number}");
    }
    let (account, device, before) = (misfit.account, DeviceId([1; 16]), CLOCK + hour);
    misfit.service.revocations.add(revoke::Revocation { account, device, before });
    assert!(!misfit.asks_for_ticket(9, &good), "revoked");
}

// SPEC: R-renewal-secret
#[test]
fn over_keys_without_an_x25519_result_there_is_no_ticket() {
    let mut misfit = Misfit::new();
    misfit.service.table.owner[SLOT].rights &= !record::FORWARD_SECRET;
    assert!(!misfit.asks_for_ticket(0, &token("alice", 1, CLOCK, CLOCK + Duration::from_secs(3600))));
}

/// A packet is opened in the host's buffer, and the host may keep that.
#[test]
fn a_new_secret_does_not_stay_in_the_buffer_it_came_in() {
    let mut misfit = Misfit::new();
    // The service has another key now, so the next exchange says that there is a ticket to be had.
    let keys = [TicketKey::new(*b"key2", [8; 32]), TicketKey::new(*b"key1", [7; 32])];
    misfit.service.set_ticket_keys(keys.into());
    misfit.device.handle_link(NOW, LinkId(0), LinkState::Failed);
    let mut buffer = [0; 1452];
    let mut came = Vec::new();
    for _ in 0..20 {
        while let Some(event) = misfit.device.poll_event() {
            if let DeviceEvent::OpenLink { link, kind: LinkKind::Udp(_) } = event {
                let local = address("198.51.100.7:4000");
                misfit.device.handle_link(NOW, link, LinkState::Open { local });
            }
        }
        while let Some(t) = misfit.device.poll_transmit(NOW, &mut buffer, NonZeroUsize::MIN) {
            misfit.service_gets(address("198.51.100.7:4000"), &mut buffer[..t.len]);
        }
        for mut packet in misfit.output() {
            misfit.device_gets(&mut packet);
            came.push(packet);
        }
    }
    assert_eq!(misfit.service.stats().renewed, 1);
    let secret = misfit.device.ticket().secret();
    assert!(!came.iter().any(|packet| packet.windows(32).any(|bytes| bytes == secret)));
    assert!(came.iter().any(|packet| packet.iter().all(|byte| *byte == 0)), "it was wiped");
}
