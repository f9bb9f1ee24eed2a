use std::string::String;
use std::{format, vec};

use proptest::option;

use super::super::ext::{put_end, put_item, put_varint_item};
use super::super::fields::tag;
use super::super::*;
use super::{Duration, Epoch, RequestId, Serial, StoreId, StoreSet, UnixTime, Vec};
use super::{address, bytes, bytes_of, epoch, millis, request, serial, store, stores, time, varint};
use proptest::prelude::*;

/// `message` read back from its own bytes has to be `want`; cut short or with something behind it, nothing.
fn check(message: &impl Emit, want: Message<'_>) {
    let mut out = bytes_of(message);
    for cut in 0..out.len() {
        assert_eq!(Message::parse(&out[..cut]), Err(Malformed), "cut at {cut}");
    }
    assert_eq!(Message::parse(&out), Ok(want));
    out.push(0);
    assert_eq!(Message::parse(&out), Err(Malformed));
}

fn packet_size() -> impl Strategy<Value = u16> {
    1200u16..=1452
}

fn identifiers(each: usize) -> impl Strategy<Value = Vec<u8>> {
    (1usize..6).prop_flat_map(move |n| bytes(n * each..n * each + 1))
}

/// An event to be borrowed from.
#[derive(Clone, Debug)]
struct OwnedEvent {
    step: u64,
    store: StoreId,
    expiry: UnixTime,
    key: Option<Vec<u8>>,
    payload: Vec<u8>,
}

fn event() -> impl Strategy<Value = OwnedEvent> {
    (1u64..1 << 40, store(1), time(), option::of(bytes(1..33)), bytes(0..300))
        .prop_map(|(step, store, expiry, key, payload)| OwnedEvent { step, store, expiry, key, payload })
}

fn borrowed(told: Serial, events: &[OwnedEvent]) -> Vec<EventRef<'_>> {
    let mut serial = told;
    let next = |e: &'_ OwnedEvent| {
        serial = Serial(serial.0 + e.step);
        serial
    };
    let serials: Vec<_> = events.iter().map(next).collect();
    let refs = events.iter().zip(serials).map(|(e, serial)| EventRef {
        serial,
        store: e.store,
        expiry: e.expiry,
        key: e.key.as_deref(),
        payload: &e.payload,
    });
    refs.collect()
}

proptest! {
    #[test]
    fn connect(
        connect_serial in 0..=MAX_CONNECT_SERIAL, identifiers in identifiers(8), epoch in epoch(), position in serial(),
        filter in stores(), covered in stores(), packet_size in packet_size(),
        interval in prop_oneof![Just(Duration::from_secs(25)), millis()],
    ) {
        let connect = Connect {
            connect_serial, identifiers: &identifiers, epoch, position, filter, covered, packet_size, interval,
        };
        let out = bytes_of(&connect);
        prop_assert_eq!(Connect::parse(&out), Ok(connect));
    }

    #[test]
    fn connect_response(
        identifiers in identifiers(32), epoch in epoch(), newest in serial(), lost in stores(),
        endpoint in option::of(address()), service_time in time(), lease in millis(), refresh_after in millis(),
        packet_size in packet_size(), renew: bool,
        in_use: bool, check_port in option::of(1..=u16::MAX),
    ) {
        let check_port = check_port.and_then(core::num::NonZeroU16::new);
        let response = ConnectResponse {
            identifiers: &identifiers, epoch, newest, lost, endpoint, service_time, lease, refresh_after, packet_size,
            renew, in_use, check_port,
        };
        let out = bytes_of(&response);
        prop_assert_eq!(ConnectResponse::parse(&out), Ok(response));
    }

    // SPEC: R-message-end
    #[test]
    fn heartbeat(request in request(), interval in millis(), mark in serial(), position in serial()) {
        let heartbeat = Heartbeat { request, interval, mark, position };
        check(&heartbeat, Message::Heartbeat(heartbeat));
    }

    #[test]
    fn status(
        request in option::of(request()), newest in serial(), endpoint in option::of(address()),
        service_time in time(), told in proptest::collection::vec((store(0), serial()), 0..9), unheard: u32,
        lease in option::of(millis()),
    ) {
        let status = Status { request, newest, endpoint, service_time, stores: told.iter().copied(), unheard, lease };
        let out = bytes_of(&status);
        let Ok(Message::Status(read)) = Message::parse(&out) else { panic!("no Status") };
        prop_assert_eq!(read.stores.collect::<Vec<_>>(), told.clone());
        let Status { request, newest, endpoint, service_time, unheard, lease, stores: _ } = status;
        let want = Status { request, newest, endpoint, service_time, unheard, lease, stores: read.stores };
        check(&status, Message::Status(want));
    }

    #[test]
    fn notify(
        told in (0u64..1 << 60).prop_map(Serial), events in proptest::collection::vec(event(), 0..6),
        beyond in 0u64..1 << 40, more in 0u64..1 << 40, changed in stores(), lost in stores(),
        service_time in option::of(time()), size in 1usize..700,
    ) {
        let events = borrowed(told, &events);
        let upto = Serial(events.last().map_or(told, |e| e.serial).0 + beyond);
        let newest = Serial(upto.0 + more);
        let notify = Notify { told, upto, newest, changed, lost, service_time, events: events.iter().copied() };
        let out = bytes_of(&notify);
        let Ok(Message::Notify(read)) = Message::parse(&out) else { panic!("no Notify") };
        prop_assert_eq!(read.events.collect::<Vec<_>>(), events.clone());
        check(&notify, Message::Notify(Notify { told, upto, newest, changed, lost, service_time, events: read.events }));

        // Cut into fragments straight from the events, it is the same.
        let mut joined: Vec<u8> = Vec::new();
        let mut room = vec![0; size];
        loop {
            let len = notify.write_range(joined.len(), &mut room);
            joined.extend(&room[..len]);
            if len < size {
                break;
            }
        }
        prop_assert_eq!(joined, out.clone());
        let items: usize = events.iter().map(EventRef::item_len).sum();
        let without = Notify { told, upto, newest, changed, lost, service_time, events: [].into_iter() };
        prop_assert_eq!(without.emitted_len() + items, out.len());
    }

    #[test]
    fn small_messages(
        request in request(), filter in stores(), covered in stores(), position in serial(), epoch in epoch(),
        endpoint in address(), posted in option::of(serial()), echo: Option<[u8; 16]>, silence in millis(),
    ) {
        let m = Acknowledge { position };
        check(&m, Message::Acknowledge(m));
        let m = Subscribe { request, filter, covered, position, epoch };
        check(&m, Message::Subscribe(m));
        let m = Subscribed { request, newest: position, lost: covered };
        check(&m, Message::Subscribed(m));
        let m = Posted { request, serial: posted };
        check(&m, Message::Posted(m));
        let m = EndpointRequest { request };
        check(&m, Message::EndpointRequest(m));
        let m = EndpointResponse { request, endpoint, echo };
        check(&m, Message::EndpointResponse(m));
        let m = ProbeRequest { request, silence, echo: echo.unwrap_or_default() };
        check(&m, Message::ProbeRequest(m));
        let m = ProbeAnswer { request };
        check(&m, Message::ProbeAnswer(m));
    }

    #[test]
    fn post(
        request in request(), post_id: [u8; 16], store in store(0),
        ttl in option::of((0u64..=2_592_000_000).prop_map(Duration::from_millis)), urgency in 0u8..3,
        key in option::of(bytes(1..33)), payload in option::of(bytes(0..600)), account in option::of("[a-z]{1,128}"),
    ) {
        let post = Post {
            request, post_id, store, ttl, urgency, key: key.as_deref(), payload: payload.as_deref(),
            account: account.as_deref(),
        };
        check(&post, Message::Post(post));
    }

    #[test]
    fn failures(
        request in request(), code: u16, retry_after in millis(), serial in option::of(varint()),
        detail in "\\PC{0,60}",
    ) {
        // What is longer than its field is cut between characters.
        let cut = &detail[..detail.floor_char_boundary(128)];
        let code = Code::new(code);
        let m = Failure { request, code, retry_after, detail: &detail };
        check(&m, Message::Failure(Failure { detail: cut, ..m }));
        let m = ErrorBody { code, retry_after, serial, detail: &detail };
        let out = bytes_of(&m);
        prop_assert_eq!(ErrorBody::parse(&out), Ok(ErrorBody { detail: cut, ..m }));
    }

    #[test]
    fn ticket_request_and_response(
        request in request(), token in proptest::collection::vec(any::<u8>(), 1..257), secret: [u8; 32],
        expiry in time(),
    ) {
        let m = TicketRequest { request, token: &token };
        check(&m, Message::TicketRequest(m));
        let m = TicketResponse { request, token: &token, secret: &secret, expiry };
        check(&m, Message::TicketResponse(m));
    }

    /// Any bytes, and genuine messages with changes, are read without a panic; and what is read is written and read
    /// again as the same.
    #[test]
    fn total(bytes in super::bytes(0..200), at: prop::sample::Index, to: u8) {
        let mut bytes = bytes;
        let _ = Message::parse(&bytes);
        let _ = (Connect::parse(&bytes), ConnectResponse::parse(&bytes), ErrorBody::parse(&bytes));
        if bytes.is_empty() {
            bytes.push(0);
        }
        let key = &bytes[..bytes.len().min(32)];
        let event = EventRef {
            serial: Serial(7), store: StoreId::CONTACT, expiry: UnixTime::from_millis(9), key: Some(key),
            payload: &bytes,
        };
        let (lost, changed) = (StoreSet::ALL, StoreSet::EMPTY);
        let (told, upto) = (Serial(6), Serial(9));
        let events = [event, EventRef { serial: Serial(8), key: None, ..event }];
        let notify = Notify { told, upto, newest: upto, changed, lost, service_time: None, events: events.into_iter() };
        let stores = [(StoreId::INBOUND, Serial(300)), (StoreId::CONTACT, Serial(70_000))].into_iter();
        let status = Status {
            request: None, newest: upto, endpoint: None, service_time: UnixTime::EPOCH, stores, unheard: 2,
            lease: None,
        };
        let post = Post {
            request: RequestId(1), post_id: [3; 16], store: StoreId::CONTACT, ttl: Some(Duration::ZERO), urgency: 2,
            key: Some(key), payload: Some(&bytes), account: Some("bob@example.com"),
        };
        for mut out in [bytes_of(&notify), bytes_of(&status), bytes_of(&post)] {
            let at = at.index(out.len());
            out[at] = to;
            if let Ok(message) = Message::parse(&out) {
                // Walking the lists yields all that was checked.
                match message {
                    Message::Notify(notify) => {
                        let again = bytes_of(&notify);
                        prop_assert_eq!(Message::parse(&again), Ok(Message::Notify(notify)));
                    }
                    Message::Status(status) => {
                        let again = bytes_of(&status);
                        prop_assert_eq!(Message::parse(&again), Ok(Message::Status(status)));
                    }
                    Message::Post(post) => {
                        let again = bytes_of(&post);
                        prop_assert_eq!(Message::parse(&again), Ok(Message::Post(post)));
                    }
                    _ => {}
                }
            }
        }
    }
}

/// A message of type `ty` with these items.
fn raw(ty: u8, items: &[(u8, &[u8])]) -> Vec<u8> {
    let mut out = vec![ty];
    for (tag, value) in items {
        put_item(&mut out, *tag, value);
    }
    put_end(&mut out);
    out
}

#[test]
fn types_this_profile_does_not_have() {
    let request = Some(RequestId(300));
    assert_eq!(Message::parse(&raw(77, &[(128, &[0x41, 0x2c])])), Ok(Message::Unknown { request }));
    assert_eq!(Message::parse(&raw(77, &[(200, b"new")])), Ok(Message::Unknown { request: None }));
    assert_eq!(Message::parse(&[]), Err(Malformed));
}

// SPEC: R-unknown-fields, R-once
#[test]
fn unknown_fields_are_ignored_and_known_ones_come_once() {
    let want = Message::Acknowledge(Acknowledge { position: Serial(5) });
    assert_eq!(Message::parse(&raw(6, &[(129, &[5]), (200, &[1]), (200, &[2])])), Ok(want));
    assert_eq!(Message::parse(&raw(6, &[(129, &[5]), (129, &[5])])), Err(Malformed));
    assert_eq!(Message::parse(&raw(6, &[])), Err(Malformed));
}

/// Each field in a message that ignores it, so that only its own form decides: the values of its limits.
// SPEC: R-limits
#[test]
fn limits_of_fields() {
    let parse = |tag, value: &[u8]| Message::parse(&raw(77, &[(tag, value)])).is_ok();
    let varint = |v| {
        let mut out = Vec::new();
        put_varint(&mut out, v);
        out
    };
    let (long, text) = (vec![1; 16_385], "x".repeat(129).into_bytes());
    let month = 2_592_000_000;
    let cases: [(u8, &[u8], &[u8]); 15] = [
        (tag::REQUEST, &varint(0xffff_ffff), &varint(0x1_0000_0000)),
        (tag::POSITION, &varint(VARINT_MAX), &[]),
        (tag::EPOCH, &[1; 8], &[1; 7]),
        (tag::FILTER, &[0; 16], &[0; 17]),
        (tag::PACKET_SIZE, &varint(1200), &varint(1199)),
        (tag::ENDPOINT, &[4, 1, 2, 3, 4, 0, 9], &[4, 1, 2, 3, 4, 0]),
        (tag::ENDPOINT, &[6; 19], &[5; 19]),
        (tag::STORES, &[127, 0, 3, 1], &[128, 0]),
        (tag::STORE, &[127], &[128]),
        (tag::PAYLOAD, &long[..16_384], &long),
        (tag::TTL, &varint(month), &varint(month + 1)),
        (tag::URGENCY, &[2], &[3]),
        (tag::KEY, &long[..32], &long[..33]),
        (tag::CODE, &varint(65_535), &varint(65_536)),
        (tag::DETAIL, &text[..128], &text),
    ];
    for (tag, good, bad) in cases {
        assert!(parse(tag, good), "tag {tag}: {good:?}");
        assert!(!parse(tag, bad), "tag {tag}: {bad:?}");
    }
    assert!(!parse(tag::KEY, &[]) && !parse(tag::ACCOUNT, &[]) && !parse(tag::ACCOUNT, &text));
    assert!(!parse(tag::DETAIL, &[0xff]) && !parse(tag::ACCOUNT, &[0xc3]));
    assert!(parse(tag::FILTER, &[]) && parse(tag::STORES, &[]) && !parse(tag::STORES, &[3]));
    // Something behind a varint.
    assert!(!parse(tag::POSITION, &[1, 1]));
}

// SPEC: R-limits, R-notify-order
#[test]
fn limits_of_events() {
    let notify = |event: &[u8]| {
        let items: [(u8, &[u8]); 4] =
            [(tag::NEWEST, &[9]), (tag::UPTO, &[8]), (tag::TOLD, &[3]), (tag::EVENT, event)];
        Message::parse(&raw(5, &items)).is_ok()
    };
    let event = |serial, store, key: usize, payload: usize| {
        let mut out = vec![serial, store, 0, key as u8];
        out.extend(vec![7; key + payload]);
        out
    };
    assert!(notify(&event(4, 1, 0, 0)));
    assert!(notify(&event(8, 127, 32, 16_384)));
    for bad in [
        event(3, 1, 0, 0),
        event(9, 1, 0, 0),
        event(4, 0, 0, 0),
        event(4, 128, 0, 0),
        event(4, 1, 33, 0),
        event(4, 1, 0, 16_385),
        vec![4, 1, 0, 5, 1],
        vec![4, 1, 0],
    ] {
        assert!(!notify(&bad));
    }
    // Serials rise.
    let two = |a, b| {
        let (a, b) = (event(a, 1, 0, 0), event(b, 1, 0, 0));
        let items: [(u8, &[u8]); 5] =
            [(tag::NEWEST, &[9]), (tag::UPTO, &[8]), (tag::TOLD, &[3]), (tag::EVENT, &a), (tag::EVENT, &b)];
        Message::parse(&raw(5, &items)).is_ok()
    };
    assert!(two(4, 5) && !two(5, 5) && !two(5, 4));
}

// SPEC: R-mask
#[test]
fn masks_are_sent_without_zero_bytes_at_the_end() {
    let subscribe = |filter| {
        let (covered, position, epoch) = (StoreSet::EMPTY, Serial::ZERO, Epoch::NONE);
        bytes_of(&Subscribe { request: RequestId(1), filter, covered, position, epoch })
    };
    assert_eq!(subscribe(StoreSet::EMPTY), [7, 128, 1, 1, 255]);
    assert_eq!(subscribe(StoreSet::ALL), [7, 128, 1, 1, 131, 1, 1, 255]);
    assert_eq!(subscribe(StoreSet::EMPTY.with(StoreId::CONTACT)), [7, 128, 1, 1, 131, 2, 0, 8, 255]);
}

// SPEC: R-event-fits
#[test]
fn the_largest_event_fits_one_notify() {
    let (payload, key) = (vec![0xa5; MAX_PAYLOAD], [0x5a; MAX_KEY]);
    let serial = Serial(VARINT_MAX);
    let store = StoreId::new(127).unwrap();
    let expiry = UnixTime::from_millis(VARINT_MAX);
    let all = StoreSet::from_bytes([0xff; 16]);
    let event = EventRef { serial, store, expiry, key: Some(&key), payload: &payload };
    let told = Serial(VARINT_MAX - 1);
    let notify = Notify {
        told,
        upto: serial,
        newest: serial,
        changed: all,
        lost: all,
        service_time: Some(expiry),
        events: core::iter::once(event),
    };
    let room = fragment_capacity(MIN_PACKET, DEVICE_IDENTIFIER) * MAX_PACKETS;
    let out = bytes_of(&notify);
    assert!(out.len() <= room, "{} > {room}", out.len());
    assert!(matches!(Message::parse(&out), Ok(Message::Notify(_))));
}

#[test]
fn what_a_post_leaves_for_its_payload() {
    let payload = vec![1; 2000];
    let post = |len: usize| Post {
        request: RequestId(u32::MAX),
        post_id: [9; 16],
        store: StoreId::CONTACT,
        ttl: None,
        urgency: 1,
        key: None,
        payload: Some(&payload[..len]),
        account: None,
    };
    let room = fragment_capacity(MIN_PACKET, SERVICE_IDENTIFIER);
    let overhead = post(200).emitted_len() - 200;
    assert_eq!(post(room - overhead).emitted_len(), room);
}

#[test]
fn packets() {
    let close = Close { code: Code::UNAVAILABLE, reason: "draining", retry_after: Duration::from_secs(5) };
    let ids = [0x11; 64];
    let extensions = [
        PacketExtension::PathChallenge([1; 8]),
        PacketExtension::PathResponse([2; 8]),
        PacketExtension::Identifiers(&ids),
        PacketExtension::Close(close),
    ];
    let mut out = Vec::new();
    emit_plaintext_head(&mut out, &extensions, 3);
    out.extend(b"abc");
    out.extend([0; 20]);
    for direction in [Direction::ToInitiator, Direction::ToResponder] {
        let plain = parse_plaintext(&out, direction).ok().unwrap();
        assert_eq!(plain.fragment, b"abc");
        assert_eq!(plain.extensions.collect::<Vec<_>>(), extensions);
        assert!(parse_plaintext(&out[..out.len() - 21], direction).is_err());
    }
    assert_eq!(service_identifiers(&ids).count(), 2);
    assert_eq!(device_identifiers(&ids).count(), 8);

    // The smallest plaintext, and unknown extensions.
    assert!(parse_plaintext(&[255, 0], Direction::ToResponder).ok().unwrap().fragment.is_empty());
    let plain = parse_plaintext(&[200, 1, 1, 200, 0, 255, 1, 9], Direction::ToResponder).ok().unwrap();
    assert_eq!((plain.extensions.count(), plain.fragment), (0, &[9][..]));

    for (tag, value) in
        [(128, vec![1; 7]), (129, vec![1; 9]), (130, vec![]), (130, vec![1; 33]), (131, vec![0x41])]
    {
        let mut out = Vec::new();
        put_item(&mut out, tag, &value);
        out.extend([255, 0]);
        assert!(parse_plaintext(&out, Direction::ToInitiator).is_err(), "tag {tag}");
    }
    // 24 bytes are three identifiers of a device, but not one of a service; the same extension twice is none.
    let mut three = vec![130, 24];
    three.extend([1; 24]);
    three.extend([255, 0]);
    assert!(parse_plaintext(&three, Direction::ToResponder).is_ok());
    assert!(parse_plaintext(&three, Direction::ToInitiator).is_err());
    let mut twice = three[..26].to_vec();
    twice.extend(&three);
    assert!(parse_plaintext(&twice, Direction::ToResponder).is_err());
}

proptest! {
    #[test]
    fn packets_total(bytes in bytes(0..120), to_initiator: bool, code: u16, reason in "\\PC{0,60}", retry in millis()) {
        let direction = if to_initiator { Direction::ToInitiator } else { Direction::ToResponder };
        if let Ok(plain) = parse_plaintext(&bytes, direction) {
            prop_assert!(plain.fragment.len() < bytes.len());
            let extensions: Vec<_> = plain.extensions.collect();
            let mut out = Vec::new();
            emit_plaintext_head(&mut out, &extensions, plain.fragment.len());
            out.extend(plain.fragment);
            let again = parse_plaintext(&out, direction).ok().unwrap();
            prop_assert_eq!(again.extensions.collect::<Vec<_>>(), extensions);
        }
        let close = Close { code: Code::new(code), reason: &reason, retry_after: retry };
        let mut out = Vec::new();
        emit_plaintext_head(&mut out, &[PacketExtension::Close(close)], 0);
        let want = Close { reason: &reason[..reason.floor_char_boundary(128)], ..close };
        let read = parse_plaintext(&out, direction).ok().unwrap().extensions.next();
        prop_assert_eq!(read, Some(PacketExtension::Close(want)));
    }
}

#[test]
fn no_code_has_the_words_of_another() {
    let known: Vec<String> =
        (0..1000).map(Code::new).filter(|c| c.text().is_some()).map(|c| format!("{c}")).collect();
    assert_eq!(known.len(), 12);
}

#[test]
fn a_field_written_by_hand_is_read() {
    let mut out = vec![6];
    put_varint_item(&mut out, tag::POSITION, 1_000_000);
    put_end(&mut out);
    assert_eq!(out, [6, 129, 4, 0x80, 0x0f, 0x42, 0x40, 255]);
    assert_eq!(bytes_of(&Acknowledge { position: Serial(1_000_000) }), out);
}
