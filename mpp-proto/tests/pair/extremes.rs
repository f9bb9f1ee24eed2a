//! Clocks that jump, hosts that sleep, and settings at their ends.

use std::num::NonZeroUsize;
use std::time::Duration;

use bytes::Bytes;
use mpp_proto::*;

use crate::harness::{ACCOUNT, Pair, unix};

fn config() -> ServiceConfig {
    ServiceConfig::new(ServiceSecret::new([9; 32]), vec![TicketKey::new(*b"key1", [7; 32])])
}

fn event(text: &'static str) -> Event {
    Event::with_payload(StoreId::INBOUND, Bytes::from_static(text.as_bytes()))
}

#[test]
fn a_device_that_hears_of_nothing_survives_a_new_epoch() {
    let mut pair = Pair::new();
    pair.run(Duration::from_secs(1));
    pair.device.subscribe(pair.now, StoreSet::EMPTY).unwrap();
    pair.run(Duration::from_secs(1));
    pair.restart_service();
    pair.run(Duration::from_secs(60));
    assert_eq!(pair.device.stats().connects, 2);
    assert_eq!(pair.device.state(), ConnectionState::Connected);
}

/// The channel's last events get through, and what would be beyond them is the host's mistake.
#[test]
fn serials_end_where_packets_cannot_carry_them() {
    let mut pair = Pair::new();
    let account = AccountId::of(ACCOUNT);
    let beyond = Serial(Serial::MAX.0 + 1);
    let error = Err(PublishError::Serial { got: beyond });
    let head = |newest| AccountHead::restored(account, Epoch([7; 8]), newest);
    assert_eq!(pair.service.restore(head(beyond)), error);
    pair.service.restore(head(Serial(Serial::MAX.0 - 3))).unwrap();
    pair.run(Duration::from_secs(1));
    assert_eq!(pair.publish(event("last but two")), Serial(Serial::MAX.0 - 2));
    assert_eq!(pair.service.skip(&account, beyond), error);
    pair.service.skip(&account, Serial(Serial::MAX.0 - 1)).unwrap();
    assert_eq!(pair.publish(event("last")), Serial::MAX);
    let more = pair.service.publish(pair.now, &account, event("none"));
    assert_eq!(more, error.map(|()| Serial::ZERO));
    pair.run(Duration::from_secs(5));
    let newest = pair.notifications.back().map(|n| n.position);
    assert_eq!(newest, Some(Serial::MAX));
    assert_eq!(pair.device.stats().connects, 1);
}

#[test]
fn a_history_that_went_back_stops_no_device() {
    let mut pair = Pair::new();
    let account = AccountId::of(ACCOUNT);
    pair.run(Duration::from_secs(1));
    for _ in 0..3 {
        pair.publish(event("x"));
        pair.run(Duration::from_secs(1));
    }
    let resume = pair.device.resume();
    // The service comes back with a log from before the last two events. A device that has not seen them connects
    // first, then the one that has.
    pair.restart_service();
    pair.service.restore(AccountHead::restored(account, resume.epoch(), Serial(1))).unwrap();
    pair.restart_device(None);
    pair.run(Duration::from_secs(1));
    let address = pair.address;
    let other = pair.new_device(DeviceId([2; 16]), Some(resume));
    let first = core::mem::replace(&mut pair.device, other);
    pair.address = "198.51.100.8:4000".parse().unwrap();
    pair.astray.clear();
    pair.run(Duration::from_secs(1));
    assert!(!pair.astray.is_empty(), "the first is told that the epoch is over");
    pair.device = first;
    pair.address = address;
    pair.deliver_astray();
    pair.run(Duration::from_secs(10));
    assert_eq!(pair.device.state(), ConnectionState::Connected);
    assert_eq!(pair.device.stats().connects, 2);
}

#[test]
fn no_service_can_send_a_device_away_for_years() {
    let mut pair = Pair::new();
    pair.run(Duration::from_secs(1));
    pair.service.close(pair.now, Duration::from_secs(100 * 365 * 86_400));
    pair.run(Duration::from_secs(1));
    let away = pair.events.iter().find_map(|e| match e {
        DeviceEvent::Disconnected { retry_at, .. } => Some(retry_at.since(pair.now)),
        _ => None,
    });
    assert!(away.unwrap() <= Duration::from_secs(6 * 3600), "{away:?}");
}

#[test]
fn a_device_keeps_the_lease_that_it_was_given() {
    for (most, asked) in [(300, 1000), (5, 25), (1, 25)] {
        let mut config = config();
        config.interval_max = Duration::from_secs(most);
        config.interval_min = Duration::from_secs(1);
        let mut device = DeviceConfig::default();
        device.interval = Duration::from_secs(asked);
        let mut pair = Pair::with(config, device);
        pair.run(Duration::from_secs(4000));
        assert_eq!(pair.device.stats().connects, 1, "granted {most} s, asked for {asked} s");
        assert_eq!(pair.service.stats().connects, 1);
    }
}

#[test]
fn a_service_that_slept_for_months_finds_its_leases_over() {
    // Ticks have 32 bits: they compare over 24 days and come round after 49.
    for days in [1, 24, 25, 30, 49, 50, 60, 100, 400] {
        let mut pair = Pair::new();
        pair.run(Duration::from_secs(1));
        pair.publish(event("in flight"));
        pair.cut = true;
        pair.run(Duration::from_millis(1));
        pair.now = pair.now + Duration::from_secs(days * 86_400);
        let mut batch = TransmitBatch::new(1);
        pair.service.poll_transmit(pair.now, &mut batch);
        assert!(
            pair.service.poll_timeout().unwrap().at <= pair.now,
            "what was due {days} days ago is overdue"
        );
        assert_eq!(pair.service.handle_timeout(pair.now, NonZeroUsize::MAX), Progress::Done);
        pair.device.close(pair.now);
        pair.run(Duration::from_secs(5));
        assert_eq!(pair.service.stats().connected, 0, "after {days} days");
    }
}

#[test]
fn a_time_that_went_back_is_taken_as_the_present() {
    let mut pair = Pair::new();
    pair.run(Duration::from_secs(100));
    let before = pair.now - Duration::from_secs(90);
    assert_eq!(pair.service.handle_timeout(before, NonZeroUsize::MAX), Progress::Done);
    pair.run(Duration::from_secs(10));
    assert_eq!(pair.service.stats().connected, 1);
    let silent = pair.service.devices(pair.now, &AccountId::of(ACCOUNT)).next().unwrap().silent;
    assert!(silent < Duration::from_secs(26), "{silent:?}");
}

#[test]
fn a_clock_set_back_while_a_notify_is_in_flight_garbles_nothing() {
    let mut pair = Pair::new();
    pair.run(Duration::from_secs(1));
    pair.cut = true;
    pair.publish(event("short").ttl(Duration::from_secs(4)));
    pair.publish(event("long"));
    // In flight is now a Notify without the event that has expired.
    pair.run(Duration::from_secs(8));
    let now = pair.now;
    pair.service.set_clock(now, unix(now) - Duration::from_secs(3600));
    pair.cut = false;
    pair.run(Duration::from_secs(60));
    let got = pair.take();
    assert!(
        got.iter().any(|n| matches!(&n.kind, NotificationKind::Event { payload, .. } if payload == "long"))
    );
    assert_eq!(pair.device.stats().connects, 1, "{:?}", pair.events);
}

#[test]
fn a_host_that_slept_hears_of_a_device_in_order() {
    let mut pair = Pair::new();
    pair.host_sleeps = true;
    pair.run(Duration::from_secs(1));
    pair.restart_device(None);
    pair.run(Duration::from_secs(2));
    pair.host_sleeps = false;
    pair.run(Duration::from_secs(1));
    assert!(
        matches!(
            pair.service_events[..],
            [
                ServiceEvent::Epoch { .. },
                ServiceEvent::Connected { .. },
                ServiceEvent::Closed { reason: CloseReason::Superseded, .. },
                ServiceEvent::Connected { .. }
            ]
        ),
        "the device is connected, and that has to be the last word: {:?}",
        pair.service_events
    );
}

#[test]
fn a_closed_service_confirms_nobody() {
    let mut pair = Pair::new();
    // Answered, and the first heartbeat is on its way.
    pair.run(Duration::from_millis(50));
    assert_eq!(pair.service.stats().half_open, 1);
    pair.service.close(pair.now, Duration::ZERO);
    pair.run(Duration::from_secs(2));
    assert_eq!(pair.service.stats().connected, 0);
}

/// However high the serials are that a host gives: who connects or says what it has fills the books, and breaks nothing.
#[test]
fn serials_near_their_end_break_no_books() {
    let account = AccountId::of(ACCOUNT);
    let mut pair = Pair::new();
    pair.restart_service();
    let head = AccountHead::restored(account, Epoch([7; 8]), Serial((1 << 62) - 100));
    pair.service.restore(head).unwrap();
    for _ in 0..6 {
        pair.restart_device(None);
        pair.run(Duration::from_secs(3));
        assert_eq!(pair.device.state(), ConnectionState::Connected);
        pair.publish(event("x"));
        pair.run(Duration::from_secs(1));
        let stats = pair.service.stats();
        assert_eq!(stats.delivery.outstanding(), pair.service.pending());
    }
    assert_eq!(pair.service.pending(), 0);
}
