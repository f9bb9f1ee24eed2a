//! What is published reaches the application once and in order, or is announced as lost.

use std::time::Duration;

use bytes::Bytes;
use mpp_proto::*;

use crate::harness::{ACCOUNT, Pair};

fn account() -> AccountId {
    AccountId::of(ACCOUNT)
}

fn event(store: StoreId, payload: &str) -> Event {
    Event::with_payload(store, Bytes::copy_from_slice(payload.as_bytes()))
}

fn inbound(payload: &str) -> Event {
    event(StoreId::INBOUND, payload)
}

fn numbers(count: u32) -> Vec<String> {
    (0..count).map(|i| i.to_string()).collect()
}

fn publish_all(pair: &mut Pair, payloads: &[String]) {
    for payload in payloads {
        pair.publish(inbound(payload));
    }
}

fn set(stores: &[StoreId]) -> StoreSet {
    stores.iter().copied().collect()
}

fn connected() -> Pair {
    let mut pair = Pair::new();
    pair.run(Duration::from_secs(1));
    pair
}

/// The payloads and gaps that came, as text.
fn taken(pair: &mut Pair) -> Vec<String> {
    let text = |n: Notification| match n.kind {
        NotificationKind::Event { payload, .. } => String::from_utf8_lossy(&payload).into_owned(),
        NotificationKind::Changed(stores) => format!("changed {stores:?}"),
        NotificationKind::Gap(stores) => format!("gap {stores:?}"),
        other => format!("{other:?}"),
    };
    let mut taken: Vec<_> = pair.take().into_iter().map(text).collect();
    // The exchange and the first Notify may both say it.
    taken.dedup_by(|a, b| a == b && a.starts_with("gap"));
    taken
}

fn gap(stores: &[StoreId]) -> String {
    format!("gap {:?}", set(stores))
}

/// The device is away while `meanwhile` happens, for a time, and comes back.
fn away(pair: &mut Pair, time: Duration, meanwhile: impl FnOnce(&mut Pair)) {
    let resume = pair.device.resume();
    pair.cut = true;
    pair.device.close(pair.now);
    pair.run(Duration::from_secs(200));
    assert_eq!(pair.service.stats().connected, 0);
    meanwhile(pair);
    pair.run(time);
    pair.cut = false;
    pair.restart_device(Some(resume));
    pair.run(Duration::from_secs(5));
}

const NOW: Duration = Duration::ZERO;

#[test]
fn what_the_ring_could_not_hold_is_announced() {
    let mut pair = connected();
    pair.publish(inbound("first"));
    pair.run(Duration::from_secs(1));
    assert_eq!(taken(&mut pair), ["first"]);
    away(&mut pair, NOW, |pair| {
        pair.publish(event(StoreId::OUTBOUND, "pushed out"));
        publish_all(pair, &numbers(32));
    });
    let got = taken(&mut pair);
    assert_eq!(got[0], gap(&[StoreId::OUTBOUND]), "{got:?}");
    assert_eq!(got[1..], numbers(32));
    let stats = pair.service.stats();
    assert_eq!((stats.overflowed, stats.superseded, stats.expired), (2, 0, 0));
}

#[test]
fn the_bytes_of_one_ring_and_of_all_are_limited() {
    let mut config = ServiceConfig::new(ServiceSecret::new([9; 32]), vec![]);
    config.ring_bytes = 10_000;
    config.ring_bytes_total = 25_000;
    let mut pair = Pair::with(config, DeviceConfig::default());
    for n in 0..10 {
        let account = AccountId::of(&n.to_string());
        pair.service.restore(AccountHead::new(account)).unwrap();
        for i in 0..20 {
            pair.service.publish(pair.now, &account, inbound(&"x".repeat(1000))).unwrap();
            let held = pair.service.stats().ring_bytes;
            assert!(held <= 25_000, "{held}");
            assert!(n > 0 || held <= 10_000, "{held} after {i}");
        }
    }
    let stats = pair.service.stats();
    assert_eq!(stats.overflowed * 1000 + stats.ring_bytes, 200_000, "each is in a ring or counted");
}

#[test]
fn what_has_expired_is_not_delivered() {
    let mut pair = connected();
    away(&mut pair, Duration::from_secs(20), |pair| {
        pair.publish(inbound("old").ttl(Duration::from_secs(15)));
        pair.publish(inbound("good").ttl(Duration::from_secs(600)));
    });
    assert_eq!(taken(&mut pair), ["good"]);
    assert_eq!(pair.device.stats().expired, 0, "it was not even sent");
}

#[test]
fn what_is_for_now_is_for_those_who_are_there() {
    let mut pair = connected();
    pair.publish(inbound("ring").ttl(Duration::ZERO));
    pair.run(Duration::from_secs(1));
    assert_eq!(taken(&mut pair), ["ring"]);
    away(&mut pair, NOW, |pair| {
        pair.publish(inbound("ring").ttl(Duration::ZERO));
        pair.publish(inbound("missed call"));
    });
    assert_eq!(taken(&mut pair), ["missed call"]);
}

#[test]
fn the_newest_of_a_key_replaces_the_others() {
    let mut pair = connected();
    let key = |name: &str| CollapseKey::new(name.as_bytes()).unwrap();
    away(&mut pair, NOW, |pair| {
        pair.publish(inbound("a1").key(key("a")));
        pair.publish(event(StoreId::OUTBOUND, "another store").key(key("a")));
        pair.publish(inbound("b1").key(key("b")));
        pair.publish(inbound("a2").key(key("a")));
    });
    assert_eq!(taken(&mut pair), ["another store", "b1", "a2"]);
    assert_eq!(pair.service.stats().superseded, 1);
}

#[test]
fn a_notify_in_flight_is_made_anew_when_what_it_says_is_over() {
    let mut pair = connected();
    let key = CollapseKey::new(b"state").unwrap();
    pair.cut = true;
    pair.publish(inbound(&"ringing ".repeat(400)).key(key));
    pair.publish(inbound("beside it"));
    pair.run(Duration::from_millis(100));
    pair.publish(inbound("cancelled").key(key));
    pair.run(Duration::from_millis(100));
    pair.cut = false;
    pair.run(Duration::from_secs(10));
    assert_eq!(taken(&mut pair), ["beside it", "cancelled"]);
    assert_eq!(pair.device.stats().connects, 1);
}

#[test]
fn only_what_was_asked_for_comes() {
    let mut pair = connected();
    pair.device.subscribe(pair.now, set(&[StoreId::INBOUND])).unwrap();
    pair.run(Duration::from_secs(1));
    pair.publish(event(StoreId::OUTBOUND, "not this"));
    pair.publish(Event::changed(StoreId::CONTACT));
    pair.publish(inbound("this"));
    pair.run(Duration::from_secs(1));
    assert_eq!(taken(&mut pair), ["this"]);
}

#[test]
fn a_wider_filter_tells_of_what_it_did_not_cover() {
    let mut pair = connected();
    pair.device.subscribe(pair.now, set(&[StoreId::INBOUND])).unwrap();
    pair.run(Duration::from_secs(1));
    pair.publish(event(StoreId::OUTBOUND, "not this"));
    pair.publish(inbound("this"));
    pair.run(Duration::from_secs(1));
    assert_eq!(taken(&mut pair), ["this"]);
    pair.device.subscribe(pair.now, set(&[StoreId::INBOUND, StoreId::OUTBOUND])).unwrap();
    pair.run(Duration::from_secs(1));
    assert_eq!(taken(&mut pair), [gap(&[StoreId::OUTBOUND])]);
}

#[test]
fn more_than_one_notify_can_hold_comes_in_several() {
    let mut pair = connected();
    let texts: Vec<_> = ["x", "y", "z"].into_iter().map(|c| c.repeat(16_000)).collect();
    publish_all(&mut pair, &texts);
    pair.run(Duration::from_secs(5));
    assert!(taken(&mut pair) == texts);
}

#[test]
fn a_busy_application_slows_the_service_down_and_loses_nothing() {
    let mut pair = connected();
    pair.busy = true;
    let mut expected = Vec::new();
    for i in 0..DeviceConfig::default().queue_events + 50 {
        expected.push(i.to_string());
        pair.publish(inbound(&i.to_string()));
        pair.run(Duration::from_millis(100));
        if pair.device.stats().refused > 0 {
            break;
        }
    }
    assert!(pair.device.stats().refused > 0, "its queue has a limit");
    // What is not kept is not acknowledged: the service still owes it, and needs no heartbeat to find that out.
    let account = account();
    let told = pair.service.devices(pair.now, &account).next().unwrap().told;
    assert!(told < pair.service.head(&account).unwrap().newest, "{told}");
    pair.busy = false;
    pair.run(Duration::from_secs(60));
    assert_eq!(taken(&mut pair), expected);
    assert_eq!(pair.device.stats().connects, 1);
}

/// Its large packets are not acknowledged and small ones are answered, as behind a narrow path.
// SPEC: R-turned-away
#[test]
fn a_busy_application_does_not_look_like_a_narrow_path() {
    let mut config = DeviceConfig::default();
    config.queue_events = 4;
    let mut pair = Pair::with_device(config);
    pair.run(Duration::from_secs(1));
    pair.busy = true;
    let texts: Vec<_> = (0..8).map(|i| i.to_string().repeat(900)).collect();
    for text in &texts {
        pair.publish(inbound(text));
        pair.run(Duration::from_millis(100));
    }
    pair.run(Duration::from_secs(300));
    assert!(pair.device.stats().refused > 0, "its queue has a limit");
    pair.busy = false;
    pair.run(Duration::from_secs(60));
    assert!(taken(&mut pair) == texts);
    assert_eq!((pair.service.stats().shrunk, pair.device.stats().connects), (0, 1));
}

#[test]
fn a_device_that_was_silent_is_told_once_it_is_heard() {
    // Longer than the service goes on by itself.
    let mut config = DeviceConfig::default();
    config.interval = Duration::from_secs(60);
    let mut pair = Pair::with_device(config);
    pair.run(Duration::from_secs(1));
    // Heartbeats and their answers pass, notifications do not.
    pair.deaf_above = 300;
    pair.publish(inbound(&"x".repeat(500)));
    pair.run(Duration::from_secs(200));
    assert_eq!(pair.device.stats().connects, 1);
    assert!(pair.service.stats().given_up > 0);
    pair.deaf_above = usize::MAX;
    pair.run(Duration::from_secs(61));
    assert_eq!(taken(&mut pair).len(), 1);
    pair.publish(inbound("and then at once, as before"));
    pair.run(Duration::from_millis(100));
    assert_eq!(taken(&mut pair).len(), 1);
}

#[test]
fn a_service_is_not_trusted_with_a_history_from_before() {
    let mut pair = connected();
    publish_all(&mut pair, &numbers(3));
    pair.run(Duration::from_secs(1));
    assert_eq!(taken(&mut pair).len(), 3);
    let head = pair.service.head(&account()).unwrap();
    // Its log comes from a backup that has only the first event; the second is now another one.
    pair.restart_service();
    pair.service.restore(AccountHead::restored(account(), head.epoch.unwrap(), Serial(1))).unwrap();
    pair.run(Duration::from_secs(60));
    assert_eq!(taken(&mut pair).len(), 1, "a gap");
    assert_ne!(pair.service.head(&account()).unwrap().epoch, head.epoch);
    pair.publish(inbound("new"));
    pair.run(Duration::from_secs(1));
    assert_eq!(taken(&mut pair), ["new"]);
}

#[test]
fn a_service_that_kept_only_the_head_of_its_log_says_what_is_lost() {
    let mut pair = connected();
    publish_all(&mut pair, &numbers(3));
    pair.run(Duration::from_secs(1));
    assert_eq!(taken(&mut pair).len(), 3);
    let epoch = pair.service.head(&account()).unwrap().epoch.unwrap();
    for (newest, lost) in [(3, 0), (10, 1)] {
        pair.restart_service();
        pair.service.restore(AccountHead::restored(account(), epoch, Serial(newest))).unwrap();
        pair.run(Duration::from_secs(60));
        assert_eq!(taken(&mut pair).len(), lost, "at {newest}");
    }
}

#[test]
fn a_hole_is_refused_unless_it_is_declared_lost() {
    let mut pair = connected();
    let (account, now) = (account(), pair.now);
    pair.service.deliver(now, &account, Serial(1), inbound("1")).unwrap();
    let hole = pair.service.deliver(now, &account, Serial(3), inbound("3"));
    assert_eq!(hole, Err(PublishError::Hole { newest: Serial(1), got: Serial(3) }));
    let again = pair.service.deliver(now, &account, Serial(1), inbound("1"));
    assert!(matches!(again, Err(PublishError::Hole { .. })));
    pair.service.skip(&account, Serial(2)).unwrap();
    pair.service.deliver(now, &account, Serial(3), inbound("3")).unwrap();
    pair.run(Duration::from_secs(2));
    let got = taken(&mut pair);
    assert!(got.iter().any(|text| text.starts_with("gap")), "{got:?}");
    assert_eq!(got.last().unwrap(), "3");
}

#[test]
fn one_lost_heartbeat_is_no_lost_connection() {
    let mut pair = connected();
    pair.run(Duration::from_secs(21));
    pair.cut = true;
    pair.run(Duration::from_millis(4500));
    pair.cut = false;
    pair.run(Duration::from_secs(20));
    assert_eq!((pair.device.stats().connects, pair.device.stats().heartbeats >= 3), (1, true));
    assert_eq!(pair.device.state(), ConnectionState::Connected);
}

#[test]
fn a_device_that_has_gone_is_not_listed_after_its_lease() {
    let mut pair = connected();
    pair.cut = true;
    pair.run(Duration::from_secs(79));
    assert_eq!(pair.service.devices(pair.now, &account()).count(), 1);
    pair.run(Duration::from_secs(5));
    assert_eq!(pair.service.devices(pair.now, &account()).count(), 0);
    assert_eq!(pair.service.stats().records, 0);
}

#[test]
fn a_quiet_device_keeps_its_lease() {
    let mut config = DeviceConfig::default();
    config.interval = Duration::from_secs(100);
    let service = ServiceConfig::new(ServiceSecret::new([9; 32]), vec![TicketKey::new(*b"key1", [7; 32])]);
    let mut pair = Pair::with(service, config);
    pair.run(Duration::from_secs(3600));
    let packets = pair.service.stats().packets_sent;
    assert!((36..45).contains(&packets), "{packets}: an answer to each heartbeat, and no questions");
    assert_eq!(pair.device.stats().connects, 1);
}

#[test]
fn a_notify_of_sixteen_packets_survives_one_that_is_lost_four_times() {
    let mut pair = connected();
    let large = vec!["x".repeat(16_384), "y".repeat(1_100)];
    // Once, to see how long its last packet is.
    let seen = pair.log.len();
    publish_all(&mut pair, &large);
    pair.run(Duration::from_secs(1));
    assert!(taken(&mut pair) == large);
    let sent = |pair: &Pair, from: usize| {
        let packets = pair.log[from..].iter().filter(|(from, p)| from.is_none() && p.len() > 100);
        packets.map(|(_, p)| p.len()).collect::<Vec<_>>()
    };
    let packets = sent(&pair, seen);
    let last = *packets.last().unwrap();
    assert_eq!((packets.len(), packets.iter().filter(|len| **len == last).count()), (16, 1));
    assert!(last < 600, "{last}: small, so that it says nothing of the path");
    let seen = pair.log.len();
    pair.lose = (last, 4);
    publish_all(&mut pair, &large);
    pair.run(Duration::from_secs(30));
    assert!(taken(&mut pair) == large);
    let packets = sent(&pair, seen);
    assert_eq!(packets.iter().filter(|len| **len == last).count(), 5);
    assert_eq!(packets.len(), 20, "nothing else was sent again");
    assert_eq!(pair.device.stats().connects, 1);
}

#[test]
fn payloads_of_zeros_and_none_arrive_as_they_are() {
    let mut pair = connected();
    // A packet of the size of a reset, what begins like step 1, and the longest.
    let sizes = [0, 1, 16, 40, 1_157, 16_384];
    for size in sizes {
        pair.publish(Event::with_payload(StoreId::INBOUND, vec![0; size].into()));
        pair.run(Duration::from_secs(1));
    }
    let got = pair.take().into_iter().map(|n| match n.kind {
        NotificationKind::Event { payload, .. } => payload,
        other => panic!("{other:?}"),
    });
    assert!(got.eq(sizes.map(|size| vec![0; size])));
}

#[test]
fn a_filter_widened_while_away_tells_of_what_it_did_not_cover() {
    let mut pair = connected();
    pair.device.subscribe(pair.now, set(&[StoreId::INBOUND])).unwrap();
    pair.run(Duration::from_secs(1));
    pair.device_filter(set(&[StoreId::INBOUND, StoreId::OUTBOUND]));
    pair.publish(event(StoreId::OUTBOUND, "filtered while connected"));
    pair.publish(inbound("heard"));
    pair.run(Duration::from_secs(1));
    assert_eq!(taken(&mut pair), ["heard"]);
    away(&mut pair, NOW, |pair| {
        pair.publish(event(StoreId::OUTBOUND, "after"));
        pair.publish(inbound("and this"));
    });
    assert_eq!(taken(&mut pair), [gap(&[StoreId::OUTBOUND]), "after".into(), "and this".into()]);
}

/// Where full packets do not pass, smaller ones are offered next.
// SPEC: R-offer-least
#[test]
fn a_path_that_carries_no_large_packets_is_used_with_small_ones() {
    let mut config = DeviceConfig::default();
    config.packet_size = 1452;
    let mut services =
        ServiceConfig::new(ServiceSecret::new([9; 32]), vec![TicketKey::new(*b"key1", [7; 32])]);
    services.packet_size = 1452;
    let mut pair = Pair::with(services, config);
    pair.deaf_above = 1400;
    pair.run(Duration::from_secs(20));
    assert_eq!(pair.device.stats().connects, 1);
    pair.publish(Event::with_payload(StoreId::INBOUND, vec![7; 16_000].into()));
    pair.run(Duration::from_secs(2));
    assert_eq!(pair.notifications.len(), 1);
    let longest =
        pair.log.iter().filter(|(from, _)| from.is_none()).map(|(_, p)| p.len()).rev().take(14).max();
    assert_eq!(longest, Some(1200));
}

/// Nothing but chance: no path is taken for one that has become too narrow, and no deadline lies in the past.
#[test]
fn a_path_that_loses_three_of_ten_packets_is_not_a_narrow_one() {
    for turn in 0..4 {
        let mut pair = Pair::new();
        pair.run(Duration::from_secs(1));
        for _ in 0..turn {
            pair.publish(Event::changed(StoreId::INBOUND));
            pair.run(Duration::from_secs(1));
        }
        pair.notifications.clear();
        pair.loss = 30;
        for _ in 0..250 {
            pair.publish(Event::with_payload(StoreId::INBOUND, vec![7; 16_000].into()));
            pair.run(Duration::from_secs(20));
            pair.log.clear();
        }
        pair.loss = 0;
        pair.run(Duration::from_secs(60));
        // Connections end on such a path, and what the ring has no room for meanwhile is dropped, and announced.
        let came = pair.take().len();
        assert!(pair.service.stats().shrunk == 0 && came > 230, "{came}, {:?}", pair.service.stats());
    }
}

/// A Notify that takes the place of another goes on at its pace.
#[test]
fn urgent_events_in_a_row_make_no_burst() {
    let mut pair = Pair::new();
    pair.run(Duration::from_secs(1));
    let urgent = |n: u8| Event::with_payload(StoreId::INBOUND, vec![n; 16_000].into()).urgency(Urgency::High);
    pair.log.clear();
    for n in 0..4 {
        pair.publish(urgent(n));
        pair.run(Duration::ZERO);
    }
    assert_eq!(pair.log.len(), 4);
    pair.run(Duration::from_millis(1));
    assert_eq!(pair.log.len(), 8);
    pair.run(Duration::from_secs(5));
    assert_eq!(pair.take().len(), 4);
}
