//! A device and a service on a virtual clock, readable as scenarios.

mod admission;
mod conservation;
mod crowd;
mod delivery;
mod endpoint;
mod extremes;
mod harness;
mod histories;
mod netcheck;
mod paths;
mod posts;
mod renewal;
mod shards;
mod stun;
mod traffic;
mod web;

use std::time::Duration;

use bytes::Bytes;
use harness::{ACCOUNT, Pair, is_connected};
use mpp_proto::*;

#[test]
fn a_device_connects_and_gets_what_is_published() {
    let mut pair = Pair::new();
    pair.run(Duration::from_secs(1));
    assert!(is_connected(&pair.events), "{:?}", pair.events);
    let account = AccountId::of(ACCOUNT);
    pair.publish(Event::changed(StoreId::INBOUND));
    pair.run(Duration::from_secs(1));
    pair.publish(Event::with_payload(StoreId::INBOUND, Bytes::from_static(b"hello")));
    pair.run(Duration::from_secs(1));
    let got = pair.take();
    assert_eq!(got.len(), 2, "{got:?}");
    assert!(matches!(got[0].kind, NotificationKind::Changed(stores) if stores.contains(StoreId::INBOUND)));
    assert!(matches!(&got[1].kind, NotificationKind::Event { payload, .. } if payload == "hello"));
    let status = pair.service.devices(pair.now, &account).next().unwrap();
    assert_eq!(status.told, Serial(2));
}

#[test]
fn a_full_payload_takes_sixteen_packets_at_most() {
    let mut pair = Pair::new();
    pair.run(Duration::from_secs(1));
    let before = pair.service.stats().packets_sent;
    let payload: Vec<u8> = (0..MAX_PAYLOAD).map(|i| (i * 7) as u8).collect();
    pair.publish(Event::with_payload(StoreId::INBOUND, payload.clone().into()));
    pair.run(Duration::from_secs(1));
    let got = pair.take();
    assert!(
        matches!(&got[..], [Notification { kind: NotificationKind::Event { payload: p, .. }, .. }] if *p == payload)
    );
    let packets = pair.service.stats().packets_sent - before;
    assert!((15..=16).contains(&packets), "{packets}");
}

#[test]
fn heartbeats_keep_it_connected() {
    let mut pair = Pair::new();
    pair.run(Duration::from_secs(600));
    assert_eq!(pair.device.state(), ConnectionState::Connected);
    let stats = pair.device.stats();
    assert!((24..=28).contains(&stats.heartbeats), "{stats:?}");
    assert_eq!(stats.connects, 1);
    assert_eq!(pair.service.stats().connected, 1);
}

// SPEC: R-resume
#[test]
fn a_device_that_was_away_catches_up() {
    let mut pair = Pair::new();
    pair.run(Duration::from_secs(1));
    pair.publish(Event::with_payload(StoreId::INBOUND, Bytes::from_static(b"one")));
    pair.run(Duration::from_secs(1));
    assert_eq!(pair.take().len(), 1);
    let resume = Resume::from_bytes(&pair.device.resume().to_bytes()).unwrap();
    pair.cut = true;
    pair.publish(Event::with_payload(StoreId::INBOUND, Bytes::from_static(b"two")));
    pair.run(Duration::from_secs(200));
    assert_eq!(pair.service.stats().connected, 0, "its lease has run out");
    pair.cut = false;
    pair.restart_device(Some(resume));
    pair.run(Duration::from_secs(1));
    let got = pair.take();
    assert!(
        matches!(&got[..], [Notification { kind: NotificationKind::Event { payload, .. }, .. }] if payload == "two"),
        "{got:?}"
    );
    assert!(pair.events.iter().any(|e| matches!(e, DeviceEvent::Connected(c) if c.recovered)));
}

#[test]
fn a_service_that_lost_its_memory_says_so() {
    let mut pair = Pair::new();
    pair.run(Duration::from_secs(1));
    pair.publish(Event::with_payload(StoreId::INBOUND, Bytes::from_static(b"one")));
    pair.run(Duration::from_secs(1));
    pair.take();
    pair.restart_service();
    pair.events.clear();
    pair.run(Duration::from_secs(40));
    assert!(
        pair.events
            .iter()
            .any(|e| matches!(e, DeviceEvent::Disconnected { reason: DisconnectReason::Reset, .. })),
        "{:?}",
        pair.events
    );
    assert!(pair.events.iter().any(|e| matches!(e, DeviceEvent::Connected(c) if !c.recovered)));
    assert!(matches!(pair.take()[..], [Notification { kind: NotificationKind::Gap(_), .. }]));
    assert_eq!(pair.service.stats().resets, 1);
}

#[test]
fn closing_is_heard() {
    let mut pair = Pair::new();
    pair.run(Duration::from_secs(1));
    pair.device.close(pair.now);
    pair.run(Duration::from_secs(10));
    assert!(pair.device.is_drained());
    let service = pair.service.stats();
    assert_eq!((service.connected, service.records), (0, 0));
}

#[test]
fn posts_are_published_once() {
    let mut pair = Pair::new();
    pair.run(Duration::from_secs(1));
    pair.loss = 50;
    for i in 0..20u8 {
        let event = Event::with_payload(StoreId::OUTBOUND, Bytes::copy_from_slice(&[i; 100]));
        pair.device.post(pair.now, &event).unwrap();
        pair.run(Duration::from_secs(5));
    }
    pair.loss = 0;
    pair.run(Duration::from_secs(60));
    let posted = pair.events.iter().filter(|e| matches!(e, DeviceEvent::Posted { .. })).count();
    let failed = pair.events.iter().filter(|e| matches!(e, DeviceEvent::Failed { .. })).count();
    assert_eq!(posted + failed, 20);
    // A try of five comes through with its answer one time in four.
    assert!(posted > 10, "{posted} {failed}");
    let newest = pair.service.head(&AccountId::of(ACCOUNT)).unwrap().newest;
    assert!(newest.0 >= posted as u64 && newest.0 <= 20);
}

// SPEC: R-message-limit
#[test]
fn a_post_that_fits_no_packet_is_refused_with_the_limit() {
    let mut pair = Pair::new();
    let event = Event::with_payload(StoreId::OUTBOUND, Bytes::from_static(&[0; 1200]));
    match pair.device.post(pair.now, &event) {
        Err(CommandError::TooLarge { size, limit }) => {
            assert_eq!(limit, 1149);
            assert!(size > 1200);
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_thousand_events_cross_a_bad_network_quickly() {
    let mut pair = Pair::new();
    pair.loss = 30;
    pair.run(Duration::from_secs(30));
    let account = AccountId::of(ACCOUNT);
    let begin = pair.now;
    let mut got = 0;
    let mut told = 0;
    for n in 1..=1000u64 {
        while n > told + 16 {
            pair.run(Duration::from_millis(2));
            told = pair.service.devices(pair.now, &account).next().map_or(told, |d| d.told.0);
        }
        assert_eq!(
            pair.publish(Event::with_payload(StoreId::INBOUND, Bytes::from(n.to_string()))),
            Serial(n)
        );
    }
    pair.run(Duration::from_secs(20));
    for n in pair.take() {
        if let NotificationKind::Event { serial, .. } = n.kind {
            got += 1;
            assert_eq!(serial, Serial(got));
        }
    }
    assert_eq!(got, 1000);
    let took = pair.now.since(begin);
    println!("{took:?} {:?} {:?}", pair.device.stats(), pair.service.stats());
    assert!(took < Duration::from_secs(90), "{took:?}");
}

// SPEC: R-revoked
#[test]
fn a_revoked_ticket_is_refused_and_a_newer_one_is_not() {
    let mut pair = Pair::new();
    pair.run(Duration::from_secs(1));
    let (account, device) = (AccountId::of(ACCOUNT), DeviceId([1; 16]));
    let before = harness::unix(pair.now);
    pair.service.revoke(pair.now, &account, device, before);
    pair.run(Duration::from_secs(10));
    assert_eq!(pair.service.stats().connected, 0);
    assert!(pair.events.iter().any(|e| matches!(e, DeviceEvent::RenewTicket { code: Code::UNAUTHORIZED })));
    pair.service.revoke(pair.now, &account, device, UnixTime::EPOCH);
    let fresh = pair.mint();
    pair.device.renew(pair.now, fresh);
    pair.run(Duration::from_secs(1));
    assert_eq!(pair.service.stats().connected, 1);
}
