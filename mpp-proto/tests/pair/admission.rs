//! Who is let in, what that costs the service, and what a device makes of being refused.

use std::net::SocketAddr;
use std::time::Duration;

use mpp_proto::*;

use crate::harness::{Pair, is_connected, spec};

const YEAR: Duration = Duration::from_secs(86_400 * 365);

fn config() -> ServiceConfig {
    ServiceConfig::new(ServiceSecret::new([9; 32]), vec![TicketKey::new(*b"key1", [7; 32])])
}

fn stranger() -> SocketAddr {
    "203.0.113.66:666".parse().unwrap()
}

/// With which code a device with this ticket is refused.
fn refused_with(change: impl FnOnce(&mut TicketSpec)) -> Option<Code> {
    let mut pair = Pair::new();
    let mut spec = spec(pair.now, YEAR);
    change(&mut spec);
    pair.start_with(&spec);
    pair.run(Duration::from_secs(5));
    assert_eq!(pair.service.stats().records, u64::from(is_connected(&pair.events)));
    pair.events.iter().find_map(|e| match e {
        DeviceEvent::RenewTicket { code } => Some(*code),
        _ => None,
    })
}

#[test]
fn a_ticket_that_has_ended_is_refused() {
    assert_eq!(refused_with(|_| {}), None);
    assert_eq!(refused_with(|spec| spec.expiry = spec.issued), Some(Code::TICKET_EXPIRED));
}

#[test]
fn a_ticket_from_the_future_is_refused_and_a_little_of_it_is_not() {
    let in_seconds = |s| move |spec: &mut TicketSpec| spec.issued = spec.issued + Duration::from_secs(s);
    assert_eq!(refused_with(in_seconds(290)), None);
    assert_eq!(refused_with(in_seconds(310)), Some(Code::UNAUTHORIZED));
}

#[test]
fn a_ticket_without_the_right_to_receive_is_refused() {
    assert_eq!(refused_with(|spec| spec.rights = Rights::POST_OWN), Some(Code::FORBIDDEN));
}

#[test]
fn a_ticket_without_the_right_to_post_posts_nothing() {
    let mut pair = Pair::new();
    let mut spec = spec(pair.now, YEAR);
    spec.rights = Rights::RECEIVE;
    pair.start_with(&spec);
    pair.run(Duration::from_secs(1));
    pair.device.post(pair.now, &Event::changed(StoreId::OUTBOUND)).unwrap();
    pair.run(Duration::from_secs(1));
    assert_eq!(pair.service.stats().published, 0);
    assert!(pair.events.iter().any(|e| matches!(
        e,
        DeviceEvent::Failed { error: RequestError::Refused { code: Code::FORBIDDEN, .. }, .. }
    )));
}

#[test]
fn accounts_that_the_host_does_not_know_are_refused_if_it_wants_that() {
    let mut config = config();
    config.account_policy = AccountPolicy::Restored;
    let mut pair = Pair::with(config, DeviceConfig::default());
    pair.run(Duration::from_secs(2));
    assert!(!is_connected(&pair.events));
    assert_eq!(pair.service.stats().accounts, 0);
}

#[test]
fn a_refused_ticket_is_tried_again_rarely() {
    let mut pair = Pair::new();
    let mut spec = spec(pair.now, YEAR);
    spec.expiry = spec.issued;
    pair.start_with(&spec);
    pair.run(Duration::from_secs(24 * 3600));
    let refused = pair.service.stats().refused;
    assert!((4..=12).contains(&refused), "{refused} times a day");
}

#[test]
fn a_hint_from_anybody_changes_nothing() {
    let mut pair = Pair::new();
    // A key that the service does not have: it can only hint, and cannot prove that it is the service.
    pair.key = TicketKey::new(*b"key2", [8; 32]);
    let spec = spec(pair.now, YEAR);
    pair.start_with(&spec);
    pair.run(Duration::from_secs(120));
    assert!(pair.events.iter().any(|e| matches!(e, DeviceEvent::Hint { code: Code::UNAUTHORIZED, .. })));
    assert!(!pair.events.iter().any(|e| matches!(e, DeviceEvent::RenewTicket { .. })));
    let sent = pair.device.stats().packets_sent;
    assert!((12..80).contains(&sent), "{sent} attempts: as if nobody had answered");
}

#[test]
fn an_address_is_proved_first_if_the_service_wants_that() {
    let mut config = config();
    config.defer = DeferPolicy::Always;
    let mut pair = Pair::with(config, DeviceConfig::default());
    pair.run(Duration::from_secs(1));
    assert!(is_connected(&pair.events));
    assert_eq!(pair.service.stats().deferred, 1);
    // The echo is good for the address that it was sent to.
    let with_echo = pair.sent().into_iter().filter(|p| p.len() >= 1200).nth(1).unwrap();
    let (_, answers) = pair.inject(stranger(), &with_echo);
    assert!(answers.iter().all(|(_, packet)| packet.len() < 100));
    assert_eq!(pair.service.stats().deferred, 2);
}

#[test]
fn half_open_connections_of_a_device_are_few_and_short() {
    let mut pair = Pair::new();
    // Its answers never arrive, challenges do.
    pair.deaf_above = 200;
    for _ in 0..10 {
        let spec = spec(pair.now, YEAR);
        pair.start_with(&spec);
        pair.run(Duration::from_millis(200));
        assert!(pair.service.stats().half_open <= 4, "{:?}", pair.service.stats());
    }
    assert_eq!(pair.service.stats().half_open, 4);
    assert!(pair.service.stats().deferred >= 6, "the fifth has to prove its address");
    pair.cut = true;
    pair.run(Duration::from_secs(10));
    assert_eq!((pair.service.stats().half_open, pair.service.stats().records), (0, 0));
}

#[test]
fn a_first_packet_that_comes_again_makes_no_connection() {
    let mut pair = Pair::new();
    pair.run(Duration::from_secs(1));
    let step1 = pair.sent()[0].clone();
    for _ in 0..3 {
        let (_, answers) = pair.inject(stranger(), &step1);
        assert!(answers.iter().map(|(_, packet)| packet.len()).sum::<usize>() < 200);
    }
    let stats = pair.service.stats();
    assert_eq!((stats.half_open, stats.records, stats.connected), (0, 1, 1));
}

#[test]
fn a_device_that_another_one_replaces_stops() {
    let mut pair = Pair::new();
    pair.run(Duration::from_secs(1));
    let spec = spec(pair.now, YEAR);
    let mut old = pair.start_with(&spec);
    let before = pair.log.len();
    pair.run(Duration::from_secs(1));
    assert!(is_connected(&pair.events));
    assert_eq!(pair.service.stats().connected, 1);
    for (_, packet) in pair.log[before..].iter().filter(|(from, _)| from.is_none()) {
        let path = Path::new(LinkId(0), "192.0.2.1:15096".parse().unwrap());
        let _ = old.handle_datagram(pair.now, Datagram { path, payload: &mut packet.clone() });
    }
    let events: Vec<_> = std::iter::from_fn(|| old.poll_event()).collect();
    assert!(
        events.iter().any(|e| matches!(e, DeviceEvent::Aborted(DisconnectReason::Superseded))),
        "{events:?}"
    );
    assert!(old.is_drained(), "two that fight would take turns for ever");
}

#[test]
fn a_connection_counts_only_once_it_is_confirmed() {
    let mut pair = Pair::new();
    pair.run(Duration::from_secs(1));
    pair.deaf_above = 200;
    let spec = spec(pair.now, YEAR);
    let old = pair.start_with(&spec);
    pair.run(Duration::from_secs(1));
    assert_eq!(pair.service.stats().half_open, 1);
    pair.device = old;
    pair.deaf_above = usize::MAX;
    pair.run(Duration::from_secs(60));
    assert_eq!(pair.device.state(), ConnectionState::Connected);
    assert_eq!(pair.device.stats().connects, 1);
}

/// How many different waits, in tenths of a second, twenty devices choose before they connect anew.
fn different_waits(cut_off: fn(&mut Pair)) -> usize {
    let wait = |number: u8| {
        let mut pair = Pair::new();
        let again = spec(pair.now, YEAR);
        // Each device has a seed of its own.
        (0..number).for_each(|_| drop(pair.start_with(&again)));
        cut_off(&mut pair);
        loop {
            pair.run(Duration::from_millis(10));
            let retry_at = pair.events.iter().find_map(|e| match e {
                DeviceEvent::Disconnected { retry_at, .. } | DeviceEvent::AttemptFailed { retry_at } => {
                    Some(*retry_at)
                }
                _ => None,
            });
            if let Some(retry_at) = retry_at {
                return retry_at.since(pair.now).as_millis() / 100;
            }
        }
    };
    (0..20).map(wait).collect::<std::collections::BTreeSet<_>>().len()
}

#[test]
fn after_attempts_that_nobody_answered_devices_do_not_come_back_at_the_same_moment() {
    assert!(different_waits(|pair| pair.cut = true) > 5);
}

#[test]
fn after_a_reset_devices_do_not_come_back_at_the_same_moment() {
    let restarted = |pair: &mut Pair| {
        pair.run(Duration::from_secs(1));
        pair.restart_service();
    };
    assert!(different_waits(restarted) > 5);
}

#[test]
fn keys_are_replaced_after_a_day() {
    let mut pair = Pair::new();
    pair.run(Duration::from_secs(27 * 3600));
    assert_eq!(pair.device.stats().connects, 2);
    assert_eq!(pair.device.state(), ConnectionState::Connected);
    assert!(pair.events.iter().any(|e| matches!(e, DeviceEvent::KeysRenewed(c) if c.forward_secret)));
}

#[test]
fn a_service_that_closes_spreads_its_devices() {
    let mut pair = Pair::new();
    pair.run(Duration::from_secs(1));
    pair.service.close(pair.now, Duration::from_secs(600));
    pair.run(Duration::from_secs(1));
    let retry_at = pair.events.iter().find_map(|e| match e {
        DeviceEvent::Disconnected { reason: DisconnectReason::ByService(Code::UNAVAILABLE), retry_at } => {
            Some(*retry_at)
        }
        _ => None,
    });
    // Drawn from ten minutes, with a seed that is fixed; without being asked it would come back within two seconds.
    assert!(retry_at.unwrap().since(pair.now) > Duration::from_secs(10));
}
