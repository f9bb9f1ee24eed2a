//! The inputs from which fuzzing begins: one of every packet and message, and short lives of the machines.
//!
//! They are made here and committed in `fuzz/corpus`; the test `corpus` fails if the two differ.

use alloc::vec;
use alloc::vec::Vec;
use core::time::Duration;

use super::world::{ACCOUNT, World, device_address};
use crate::ids::{DeviceId, Epoch, RequestId, Rights, Serial, StoreId, StoreSet};
use crate::time::UnixTime;
use crate::wire::{
    Acknowledge, AnswerKind, Close, Code, Connect, ConnectResponse, Emit, EndpointRequest, EndpointResponse,
    ErrorBody, EventRef, Failure, Heartbeat, Notify, PacketExtension, Post, Posted, ProbeAnswer,
    ProbeRequest, Purpose, Status, Subscribe, Subscribed, TicketRequest, TicketResponse, TokenPlain,
    emit_answer, emit_plaintext_head, put_web_packet,
};

const REQUEST: RequestId = RequestId(300);
const TIME: UnixTime = UnixTime::from_millis(1_800_000_000_000);
const EPOCH: Epoch = Epoch([0xe1; 8]);

/// Target, name and bytes of every seed.
pub fn seeds() -> Vec<(&'static str, &'static str, Vec<u8>)> {
    let mut seeds = Vec::new();
    let messages = messages();
    for (name, bytes) in &messages {
        seeds.push(("message", *name, bytes.clone()));
        // The fields of a message are a list.
        seeds.push(("extensions", *name, bytes.get(1..).unwrap_or_default().to_vec()));
    }
    packets(&mut seeds);
    texts(&mut seeds);
    lives(&mut seeds, &messages);
    seeds
}

fn of(value: &impl Emit) -> Vec<u8> {
    let mut out = Vec::new();
    value.emit(&mut out);
    out
}

fn messages() -> Vec<(&'static str, Vec<u8>)> {
    let filter = StoreSet::EMPTY.with(StoreId::INBOUND).with(StoreId::CONTACT);
    let (position, newest, mark) = (Serial(7), Serial(9), Serial(8));
    let lost = StoreSet::EMPTY.with(StoreId::OUTBOUND);
    let event = |serial, key, payload| EventRef {
        serial: Serial(serial),
        store: StoreId::INBOUND,
        expiry: TIME,
        key,
        payload,
    };
    let events = [event(8, Some(&b"key"[..]), &b"hello"[..]), event(9, None, b"")];
    vec![
        (
            "connect",
            of(&Connect {
                connect_serial: TIME.as_millis(),
                identifiers: &[0xd1; 24],
                epoch: EPOCH,
                position,
                filter,
                covered: filter,
                packet_size: 1400,
                interval: Duration::from_secs(30),
            }),
        ),
        (
            "connect_response",
            of(&ConnectResponse {
                identifiers: &[0x51; 96],
                epoch: EPOCH,
                newest,
                lost,
                endpoint: Some(device_address()),
                service_time: TIME,
                lease: Duration::from_secs(80),
                refresh_after: Duration::from_secs(86_400),
                packet_size: 1300,
                renew: true,
                in_use: true,
                check_port: core::num::NonZeroU16::new(15_098),
            }),
        ),
        ("heartbeat", of(&Heartbeat { request: REQUEST, interval: Duration::from_secs(25), mark, position })),
        (
            "status",
            of(&Status {
                request: Some(REQUEST),
                newest,
                endpoint: Some(device_address()),
                service_time: TIME,
                stores: [(StoreId::INBOUND, newest), (StoreId::CONTACT, mark)].into_iter(),
                unheard: 2,
                lease: Some(Duration::from_secs(305)),
            }),
        ),
        (
            "notify",
            of(&Notify {
                told: position,
                upto: newest,
                newest: Serial(12),
                changed: filter,
                lost,
                service_time: Some(TIME),
                events: events.iter().copied(),
            }),
        ),
        ("acknowledge", of(&Acknowledge { position })),
        ("subscribe", of(&Subscribe { request: REQUEST, filter, covered: filter, position, epoch: EPOCH })),
        ("subscribed", of(&Subscribed { request: REQUEST, newest, lost })),
        (
            "post",
            of(&Post {
                request: REQUEST,
                post_id: [0xb0; 16],
                store: StoreId::OUTBOUND,
                ttl: Some(Duration::from_secs(45)),
                urgency: 2,
                key: Some(b"key"),
                payload: Some(b"hello"),
                account: Some("bob@example.com"),
            }),
        ),
        ("posted", of(&Posted { request: REQUEST, serial: Some(newest) })),
        ("endpoint_request", of(&EndpointRequest { request: REQUEST })),
        (
            "endpoint_response",
            of(&EndpointResponse { request: REQUEST, endpoint: device_address(), echo: Some([0xec; 16]) }),
        ),
        (
            "probe_request",
            of(&ProbeRequest { request: REQUEST, silence: Duration::from_secs(110), echo: [0xec; 16] }),
        ),
        ("probe_answer", of(&ProbeAnswer { request: REQUEST })),
        (
            "failure",
            of(&Failure {
                request: REQUEST,
                code: Code::TOO_MANY_REQUESTS,
                retry_after: Duration::from_secs(3),
                detail: "too many posts",
            }),
        ),
        ("ticket_request", of(&TicketRequest { request: REQUEST, token: &[0x70; 90] })),
        (
            "ticket_response",
            of(&TicketResponse { request: REQUEST, token: &[0x70; 90], secret: &[0x5e; 32], expiry: TIME }),
        ),
        (
            "error",
            of(&ErrorBody {
                code: Code::CONFLICT,
                retry_after: Duration::from_secs(3),
                serial: Some(TIME.as_millis()),
                detail: "not above the last one",
            }),
        ),
    ]
}

fn packets(seeds: &mut Vec<(&'static str, &'static str, Vec<u8>)>) {
    let world = World::connected();
    let [Some(step1), Some(complete)] = &world.firsts else { return };
    // Behind its clear list everything is sealed, and the fuzzer fills it up again.
    let clear = crate::wire::Step1::parse(step1).map_or(0, |s| s.clear.len());
    seeds.push(("exchange", "step1", step1.get(..clear).unwrap_or_default().to_vec()));
    let short = complete.get(..120).unwrap_or_default().to_vec();
    seeds.push(("exchange", "complete", short.clone()));
    seeds.push(("service_packet", "step1", step1.clone()));
    let binding = b"\0\x01\0\0\x21\x12\xa4\x42twelve bytes";
    seeds.push(("service_packet", "stun", binding.to_vec()));
    seeds.push(("stun", "plain", binding.to_vec()));
    // An unknown attribute, one to be ignored, and a checksum that is right.
    let mut full = [&binding[..], b"\0\x24\0\x04\0\0\0\x01\0\x06\0\x01x\0\0\0"].concat();
    full[3] = 24;
    let sum = crate::stun::fingerprint(&full);
    full.extend_from_slice(b"\x80\x28\0\x04");
    full.extend_from_slice(&sum.to_be_bytes());
    seeds.push(("stun", "full", full));
    // Answers: an address, and the refusal of an attribute.
    let address = b"\x01\x01\0\x0c\x21\x12\xa4\x42twelve bytes\0\x20\0\x08\0\x01\xa1\x47\xe1\x12\xa6\x43";
    seeds.push(("stun", "address", address.to_vec()));
    let refusal = b"\x01\x11\0\x10\x21\x12\xa4\x42twelve bytes\0\x09\0\x04\0\0\x04\x14\0\x0a\0\x02\0\x24\0\0";
    seeds.push(("stun", "refusal", refusal.to_vec()));
    seeds.push(("device_packet", "complete", [&[1], &short[..]].concat()));
    let answers = [
        ("defer", AnswerKind::Defer { challenge: [0xc1; 16] }),
        ("sealed_error", AnswerKind::SealedError { random: [0xa1; 16] }),
        (
            "clear_error",
            AnswerKind::ClearError { code: Code::UNAVAILABLE, retry_after: Duration::from_secs(3) },
        ),
    ];
    for (name, kind) in answers {
        let mut out = Vec::new();
        emit_answer(&mut out, &[0x4a; 8], &kind);
        if name == "sealed_error" {
            out.extend_from_slice(&[0; 40]);
        }
        seeds.push(("device_packet", name, [&[1], &out[..]].concat()));
        seeds.push(("exchange", name, out));
    }
    seeds.push(("device_packet", "data", [&[2][..], &[0xd1; 60]].concat()));
    seeds.push(("device_packet", "reset", [0; 41].to_vec()));

    let close = Close { code: Code::CONFLICT, reason: "superseded", retry_after: Duration::from_secs(3) };
    let extensions = [
        ("challenge", 1, PacketExtension::PathChallenge([1; 8])),
        ("response", 0, PacketExtension::PathResponse([1; 8])),
        ("device_identifiers", 0, PacketExtension::Identifiers(&[0xd1; 24])),
        ("service_identifiers", 1, PacketExtension::Identifiers(&[0x51; 96])),
        ("close", 1, PacketExtension::Close(close)),
    ];
    for (name, direction, extension) in extensions {
        let mut out = vec![direction];
        emit_plaintext_head(&mut out, &[extension], 3);
        out.extend_from_slice(b"abc");
        seeds.push(("plaintext", name, out));
    }
}

fn texts(seeds: &mut Vec<(&'static str, &'static str, Vec<u8>)>) {
    let world = World::new();
    let ticket = &world.ticket;
    seeds.push(("ticket", "content", of(ticket)));
    seeds.push(("ticket", "text", ticket.to_text().as_bytes().to_vec()));
    seeds.push(("ticket", "store", b"inbound".to_vec()));
    seeds.push(("ticket", "endpoint_v4", b"192.0.2.1:15096".to_vec()));
    seeds.push(("ticket", "endpoint_v6", b"[2001:db8::1]:15096".to_vec()));
    seeds.push(("ticket", "endpoint_name", b"presence.example.com:15096".to_vec()));
    let plain = TokenPlain {
        purpose: Purpose::Service,
        account: ACCOUNT,
        device: DeviceId([1; 16]),
        rights: Rights::default(),
        issued: TIME,
        expiry: TIME + Duration::from_secs(86_400),
    };
    seeds.push(("token", "service", of(&plain)));
    let mut body = Vec::new();
    [40, 1200].iter().for_each(|len| put_web_packet(&mut body, &vec![0x70; *len]));
    seeds.push(("web", "cut", body.get(..600).unwrap_or_default().to_vec()));
    seeds.push(("web", "two_packets", body));
    let saved = world.device.resume().to_bytes();
    seeds.push(("resume", "without_checksum", saved.get(..saved.len() - 4).unwrap_or_default().to_vec()));
    seeds.push(("resume", "whole", saved.to_vec()));
    seeds.push(("resume", "with_ticket", resume_with_ticket()));
}

/// What a device keeps that the service has given a ticket.
fn resume_with_ticket() -> Vec<u8> {
    let mut body = vec![2];
    body.resize(41 + 16 + 8 + 32 + 90, 0x70);
    let sum = crate::crypto::sha256(&[&body]);
    body.extend_from_slice(&sum[..4]);
    body
}

/// See [`super::operations`] for what the bytes mean.
fn lives(seeds: &mut Vec<(&'static str, &'static str, Vec<u8>)>, messages: &[(&'static str, Vec<u8>)]) {
    for (name, message) in messages {
        // A message in a packet that keeps all rules, in both directions.
        let mut bytes = vec![7, 0, 32];
        bytes.extend_from_slice(&[0, message.len() as u8]);
        bytes.extend_from_slice(message);
        seeds.push(("authentic_service", *name, bytes.clone()));
        seeds.push(("authentic_device", *name, bytes.clone()));
        seeds.push(("authentic_web", *name, bytes));
    }
    let ends = [
        ("refused", vec![2, 0, 200, 0, 0, 0, 50, 2, 1, 144, 0, 0, 0, 30, 2, 1, 247, 255, 255, 0, 250, 3]),
        ("failed", vec![3, 0, 50, 3, 0, 100, 3, 0, 200, 3, 0, 250, 0, 250, 0, 250, 3]),
        ("raw", vec![1, 0, 5, 0, 3, 1, 2, 3, 0, 20, 1, 0, 2, 255, 255, 0, 250]),
        ("full", [&[4, 17][..], &[0; 90]].concat()),
    ];
    seeds.extend(ends.map(|(name, bytes)| ("authentic_web", name, bytes)));
    // Two thirds of a datagram of three packets, and one that contradicts them.
    let fragments =
        [7, 4, 32, 0x30, 0, 0, 1, b'a', 7, 4, 31, 0x32, 0, 0, 1, b'b', 7, 4, 30, 0x41, 0, 0, 1, b'c'];
    seeds.push(("authentic_device", "fragments", fragments.to_vec()));
    seeds.push(("authentic_service", "unacknowledged", vec![0, 2, 20, 1, 0x40, 0, 2, 255, 2, 255, 2, 255]));

    let operations: [(&str, &[u8]); 11] = [
        ("changed", &[2, 100, 0, 2, 2, 20, 0, 11, 2, 20]),
        ("payload", &[2, 100, 1, 0, 5, 2, 2, 2, 20]),
        ("large_payload_in_rain", &[2, 100, 4, 77, 40, 40, 0, 1, 0x40, 0, 2, 2, 3, 20]),
        ("damage", &[2, 100, 4, 0, 20, 0, 128, 1, 0x10, 0, 2, 2, 3, 10]),
        ("away_and_back", &[2, 100, 4, 255, 0, 0, 0, 1, 0, 9, 2, 2, 3, 200, 8, 0, 4, 0, 0, 0, 0, 3, 5]),
        ("service_restarts", &[2, 100, 1, 0, 9, 2, 2, 7, 3, 40, 0, 2]),
        ("filter", &[2, 100, 5, 0, 2, 50, 0, 2, 5, 4, 2, 50, 0, 2, 2, 50]),
        (
            "web",
            &[14, 3, 3, 6, 1, 0, 9, 2, 2, 3, 30, 14, 2, 1, 0, 9, 3, 3, 3, 70, 14, 5, 3, 60, 14, 3, 3, 60],
        ),
        ("post", &[2, 100, 6, 50, 3, 2, 2, 50, 12, 10, 2, 50]),
        ("farewell", &[2, 100, 9, 20, 3, 2, 11, 5, 3, 20]),
        (
            "collapse",
            &[
                2, 100, 4, 255, 0, 0, 0, 1, 0, 9, 2, 0xf6, 1, 0, 9, 2, 0xf6, 1, 0, 9, 2, 0xee, 4, 0, 0, 0, 0,
                3, 60,
            ],
        ),
    ];
    seeds.extend(operations.map(|(name, bytes)| ("operations", name, bytes.to_vec())));
}
