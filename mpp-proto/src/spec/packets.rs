//! The examples of data packets and of every message.

use std::format;

use std::vec::Vec;

use core::net::SocketAddrV6;
use core::time::Duration;

use super::bytes::{Page, aes_block, gcm, hex, sha256};
use super::exchange::{DEVICE, EPOCH, Exchange, NOW, OWN, bytes_of, probe_echo, stores};
use crate::crypto::{PacketKeys, seal_packet};
use crate::ids::{RequestId, Serial, StoreId, StoreSet};
use crate::stun::{BindingAnswer, BindingQuestion, BindingRequest, fingerprint};
use crate::wire::{
    AEAD_TAG, Ack, Acknowledge, Close, Code, Direction, Emit, EndpointRequest, EndpointResponse, EventRef,
    Failure, HEADER, Header, Heartbeat, Message, Notify, PacketExtension, Post, Posted, ProbeAnswer,
    ProbeRequest, Status, Subscribe, Subscribed, TicketRequest, TicketResponse, emit_plaintext_head,
    fragment_capacity, put_web_packet, reset_packet,
};

/// A packet and what it was made of.
struct Made {
    clear: [u8; 16],
    nonce: Vec<u8>,
    plaintext: Vec<u8>,
    packet: Vec<u8>,
}

/// Seals a packet with the crate, and again by the formulas.
fn make(exchange: &Exchange, header: &Header, extensions: &[PacketExtension<'_>], fragment: &[u8]) -> Made {
    let (identifier, traffic) = match header.direction {
        Direction::ToResponder => (&exchange.identifiers[..16], &exchange.keys.to_service),
        Direction::ToInitiator => (&OWN[0][..], &exchange.keys.to_device),
    };
    let mut plaintext = Vec::new();
    emit_plaintext_head(&mut plaintext, extensions, fragment.len());
    plaintext.extend_from_slice(fragment);

    let mut packet = identifier.to_vec();
    packet.extend_from_slice(&[0; HEADER]);
    packet.extend_from_slice(&plaintext);
    packet.extend_from_slice(&[0; AEAD_TAG]);
    let keys = PacketKeys { key: &traffic.key, iv: &traffic.iv, header: &exchange.keys.header };
    seal_packet(&keys, &mut packet, identifier.len(), header.encode(), header.nonce_input());

    let clear = header.encode();
    let mut counter = [0; 12];
    counter[4..10].copy_from_slice(&clear[..6]);
    counter[10..].copy_from_slice(&clear[8..10]);
    let nonce: Vec<u8> = traffic.iv.iter().zip(counter).map(|(iv, c)| iv ^ c).collect();
    let sealed = gcm(&[&traffic.key[..], &nonce].concat(), &[identifier, &clear].concat(), &plaintext);
    assert_eq!(packet, [identifier, &aes_block(&exchange.keys.header, &clear), &sealed].concat());
    Made { clear, nonce, plaintext, packet }
}

fn show(page: &mut Page, made: &Made) {
    page.values(&[
        ("header, clear", &made.clear),
        ("nonce", &made.nonce),
        ("plaintext", &made.plaintext),
        ("packet", &made.packet),
    ]);
}

fn message(page: &mut Page, name: &str, message: &impl Emit) -> Vec<u8> {
    let bytes = bytes_of(message);
    assert!(Message::parse(&bytes).is_ok_and(|m| !matches!(m, Message::Unknown { .. })), "{name}");
    page.message(name, &bytes);
    bytes
}

fn up(number: u64) -> Header {
    Header::single(number, Direction::ToResponder)
}

fn down(number: u64) -> Header {
    Header::single(number, Direction::ToInitiator)
}

pub(super) fn write(page: &mut Page, exchange: &Exchange) {
    heartbeat(page, exchange);
    notify(page, exchange);
    long_notify(page, exchange);
    others(page);
    farewell(page, exchange);
    binding(page);
    by_web(page, &Exchange::by_web());
}

fn heartbeat(page: &mut Page, exchange: &Exchange) {
    page.heading("20.6 The first data packets: Heartbeat and Status");
    let heartbeat = Heartbeat {
        request: RequestId(1),
        interval: Duration::from_secs(25),
        mark: Serial(41),
        position: Serial(41),
    };
    let bytes = message(page, "Heartbeat", &heartbeat);
    show(page, &make(exchange, &up(0), &[], &bytes));
    page.text(&format!(
        "The packet is identifier, encrypted header {}, ciphertext, tag. The answer:",
        hex(&aes_block(&exchange.keys.header, &up(0).encode()))
    ));
    let status = Status {
        request: Some(RequestId(1)),
        newest: Serial(42),
        endpoint: Some(DEVICE.parse().unwrap()),
        service_time: NOW,
        stores: [(StoreId::INBOUND, Serial(42))].into_iter(),
        unheard: 0,
        lease: None,
    };
    let bytes = message(page, "Status", &status);
    show(page, &make(exchange, &down(0), &[], &bytes));
}

fn notify(page: &mut Page, exchange: &Exchange) {
    page.heading("20.7 Notify in one packet, and its acknowledgement");
    page.text("Store 11 changed, and store 2 has an event with the payload `hello`, the collapse key `k` and a day to live.");
    let event = EventRef {
        serial: Serial(42),
        store: StoreId::INBOUND,
        expiry: NOW + Duration::from_secs(86_400),
        key: Some(b"k"),
        payload: b"hello",
    };
    let notify = Notify {
        told: Serial(41),
        upto: Serial(42),
        newest: Serial(42),
        changed: StoreSet::EMPTY,
        lost: StoreSet::EMPTY,
        service_time: Some(NOW),
        events: [event].into_iter(),
    };
    let bytes = message(page, "Notify", &notify);
    show(page, &make(exchange, &Header { wanted: true, ..down(1) }, &[], &bytes));
    page.text("The device acknowledges datagram 1 with an empty datagram:");
    let ack = Some(Ack { number_low: 1, bitmap: 1 });
    show(page, &make(exchange, &Header { ack, ..up(1) }, &[], &[]));
    page.text("or along with the position of its application:");
    let bytes = message(page, "Acknowledge", &Acknowledge { position: Serial(42) });
    show(page, &make(exchange, &Header { ack, ..up(2) }, &[], &bytes));
}

fn long_notify(page: &mut Page, exchange: &Exchange) {
    page.heading("20.8 Notify in three packets, one of them lost");
    page.text("Event 43 has a payload of 3000 bytes, byte i of which is 7 i mod 256; event 44 says that store 11 changed, of which older \
         events are lost; event 45 is for the next Notify.");
    let payload: Vec<u8> = (0..3000u32).map(|i| (7 * i) as u8).collect();
    let event = EventRef {
        serial: Serial(43),
        store: StoreId::INBOUND,
        expiry: NOW + Duration::from_secs(86_400),
        key: None,
        payload: &payload,
    };
    let notify = Notify {
        told: Serial(42),
        upto: Serial(44),
        newest: Serial(45),
        changed: StoreSet::EMPTY.with(StoreId::CONTACT),
        lost: StoreSet::EMPTY.with(StoreId::CONTACT),
        service_time: Some(NOW),
        events: [event].into_iter(),
    };
    let bytes = message(page, "Notify", &notify);
    let fragments: Vec<_> = bytes.chunks(fragment_capacity(1200, 8)).collect();
    assert_eq!(fragments.len(), 3);
    let packet = |index: u8, transmission| {
        let header = Header { wanted: true, count: 3, index, transmission, ..down(2) };
        make(exchange, &header, &[], fragments[usize::from(index)])
    };
    let sent = [packet(0, 0), packet(1, 0), packet(2, 0)];
    for (i, made) in sent.iter().enumerate() {
        page.text(&format!(
            "Packet {i}: {} bytes, of which {} of the message.",
            made.packet.len(),
            fragments[i].len()
        ));
        part(page, made);
    }
    page.text("The device has packets 0 and 2:");
    let ack = |bitmap| Some(Ack { number_low: 2, bitmap });
    show(page, &make(exchange, &Header { ack: ack(0b101), ..up(3) }, &[], &[]));
    page.text("The service sends packet 1 again, sealed anew:");
    part(page, &packet(1, 1));
    page.text("And the device has all:");
    show(page, &make(exchange, &Header { ack: ack(0b111), ..up(4) }, &[], &[]));
}

/// A packet too long to be shown.
fn part(page: &mut Page, made: &Made) {
    page.values(&[
        ("header, clear", &made.clear),
        ("nonce", &made.nonce),
        ("plaintext, first 32", &made.plaintext[..32]),
        ("packet, first 40", &made.packet[..40]),
        ("packet, last 32", &made.packet[made.packet.len() - 32..]),
        ("SHA-256(packet)", &sha256(&[&made.packet])),
    ]);
}

fn others(page: &mut Page) {
    page.heading("20.9 The other messages");
    let request = RequestId(2);
    let subscribe =
        Subscribe { request, filter: StoreSet::ALL, covered: stores(), position: Serial(43), epoch: EPOCH };
    message(page, "Subscribe", &subscribe);
    let lost = StoreSet::EMPTY.with(StoreId::OUTBOUND);
    message(page, "Subscribed", &Subscribed { request, newest: Serial(44), lost });
    let request = RequestId(3);
    let post = Post {
        request,
        post_id: [0xb0; 16],
        store: StoreId::OUTBOUND,
        ttl: Some(Duration::from_secs(60)),
        urgency: 2,
        key: Some(b"typing"),
        payload: Some(b"hi"),
        account: None,
    };
    message(page, "Post", &post);
    message(page, "Posted", &Posted { request, serial: Some(Serial(45)) });
    page.text("To another account, with a time to live of a day; and its answer, which has no serial.");
    let request = RequestId(5);
    let post = Post { request, ttl: None, urgency: 1, key: None, account: Some("bob@example.com"), ..post };
    message(page, "Post", &post);
    message(page, "Posted", &Posted { request, serial: None });
    let request = RequestId(300);
    message(page, "EndpointRequest", &EndpointRequest { request });
    let endpoint: SocketAddrV6 = "[2001:db8::7]:4000".parse().unwrap();
    let echo = probe_echo(page, endpoint);
    message(
        page,
        "EndpointResponse",
        &EndpointResponse { request, endpoint: endpoint.into(), echo: Some(echo) },
    );
    page.text("A probe from the same socket, for an answer after 110 s of silence; and the answer.");
    let request = RequestId(301);
    message(page, "ProbeRequest", &ProbeRequest { request, silence: Duration::from_secs(110), echo });
    message(page, "ProbeAnswer", &ProbeAnswer { request });
    let retry_after = Duration::from_secs(9);
    let (code, detail) = (Code::TOO_MANY_REQUESTS, "256 posts in 10 min");
    message(page, "Failure", &Failure { request: RequestId(4), code, retry_after, detail });
    page.text("Another ticket for an old one. The tokens are shortened here: they have 37 bytes or more.");
    let (request, token) = (RequestId(6), &[1, 0xf0, 0xf1, 0xf2, 0xf3][..]);
    message(page, "TicketRequest", &TicketRequest { request, token });
    let (token, secret) = (&[1, 0xf4, 0xf5, 0xf6, 0xf7][..], &[0x5e; 32]);
    message(page, "TicketResponse", &TicketResponse { request, token, secret, expiry: NOW });
    page.text("Extensions of packets, each as the plaintext of an empty datagram.");
    let plaintext = |extension| {
        let mut plaintext = Vec::new();
        emit_plaintext_head(&mut plaintext, &[extension], 0);
        plaintext
    };
    page.values(&[
        ("path challenge", &plaintext(PacketExtension::PathChallenge([0xca; 8]))),
        ("path response", &plaintext(PacketExtension::PathResponse([0xca; 8]))),
        ("identifiers, a device's", &plaintext(PacketExtension::Identifiers(&[0xd5; 8]))),
    ]);
}

fn farewell(page: &mut Page, exchange: &Exchange) {
    page.heading("20.10 Close and reset");
    page.text("The service shuts down; it asks the device to come back after 2 s.");
    let close = Close { code: Code::UNAVAILABLE, reason: "restart", retry_after: Duration::from_secs(2) };
    show(page, &make(exchange, &down(3), &[PacketExtension::Close(close)], &[]));
    page.text("Later the service does not know the connection any more. It answers a packet under its first identifier with");
    let token = exchange.identifiers[16..32].try_into().unwrap();
    page.values(&[("reset", &reset_packet(&[0xc5; 24], &token))]);
}

fn by_web(page: &mut Page, exchange: &Exchange) {
    page.heading("20.12 By Web");
    exchange.write_by_web(page);
    page.text(
        "The first Heartbeat confirms the connection and is answered at once. The second one: flag bit 3 is set. It is the \
         whole body of `POST /.well-known/mmmpresence?wait=50`.",
    );
    let (request, interval) = (RequestId(2), Duration::from_secs(25));
    let heartbeat = bytes_of(&Heartbeat { request, interval, mark: Serial(41), position: Serial(41) });
    show(page, &make(exchange, &Header { web: true, ..up(1) }, &[], &heartbeat));
    page.text(
        "An event comes after a while. The body of the answer: the Status, which names no endpoint, and a Notify, each \
         with its length in front.",
    );
    let stores = [(StoreId::CONTACT, Serial(42))].into_iter();
    let status = Status {
        request: Some(request),
        newest: Serial(42),
        endpoint: None,
        service_time: NOW,
        stores,
        unheard: 0,
        lease: None,
    };
    let status = make(exchange, &Header { web: true, ..down(1) }, &[], &bytes_of(&status));
    let notify = Notify {
        told: Serial(41),
        upto: Serial(42),
        newest: Serial(42),
        changed: StoreSet::EMPTY.with(StoreId::CONTACT),
        lost: StoreSet::EMPTY,
        service_time: None,
        events: core::iter::empty::<EventRef<'_>>(),
    };
    let header = Header { web: true, wanted: true, ..down(2) };
    let notify = make(exchange, &header, &[], &bytes_of(&notify));
    let mut body = Vec::new();
    put_web_packet(&mut body, &status.packet);
    put_web_packet(&mut body, &notify.packet);
    page.values(&[("Status", &status.packet), ("Notify", &notify.packet), ("body", &body)]);
    page.text("The body of an answer that has nothing to tell to whoever sent a copy: no bytes at all.");
}

fn binding(page: &mut Page) {
    page.heading("20.11 STUN");
    page.text("A Binding request, and the answer to whoever sent it from 192.0.2.1, port 32853.");
    let request = bytes_of(&BindingQuestion { transaction: *b"twelve bytes" });
    let source = "192.0.2.1:32853".parse().unwrap();
    let parsed = BindingRequest::parse(&request).unwrap();
    let response = bytes_of(&parsed.answer(source));
    assert_eq!(BindingAnswer::parse(&response), Ok(BindingAnswer::Address(source)));
    page.values(&[("request", &request), ("response", &response)]);
    page.text("One with the attribute 0x0024, which has to be understood, and a FINGERPRINT: 420.");
    let mut request = [&request[..], &[0, 0x24, 0, 4, 0, 0, 0, 1]].concat();
    request[3] = 16;
    let sum = fingerprint(&request);
    request.extend_from_slice(&[0x80, 0x28, 0, 4]);
    request.extend_from_slice(&sum.to_be_bytes());
    let parsed = BindingRequest::parse(&request).unwrap();
    page.values(&[("request", &request), ("response", &bytes_of(&parsed.answer(source)))]);
}
