//! The keys of a connection and the ticket of a device are renewed while both are in use.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use mpp_proto::*;

use crate::harness::{ACCOUNT, Pair, is_connected, spec, unix};

const DAY: Duration = Duration::from_secs(86_400);

fn key(n: u8) -> TicketKey {
    TicketKey::new([b'k', b'e', b'y', n], [n; 32])
}

fn config(keys: &[u8]) -> ServiceConfig {
    ServiceConfig::new(ServiceSecret::new([9; 32]), keys.iter().map(|n| key(*n)).collect())
}

/// A device that needs new keys after 64 packets.
fn thrifty() -> DeviceConfig {
    let mut config = DeviceConfig::default();
    config.packet_limit = 64;
    config
}

fn payload(n: u64) -> Event {
    Event::with_payload(StoreId::INBOUND, n.to_be_bytes().to_vec().into())
}

/// The serials that the application was given, in the order it was given them.
fn serials(pair: &mut Pair) -> Vec<u64> {
    let serial = |n: Notification| match n.kind {
        NotificationKind::Event { serial, .. } => Some(serial.0),
        _ => None,
    };
    pair.take().into_iter().filter_map(serial).collect()
}

fn renewals(pair: &Pair) -> usize {
    pair.events.iter().filter(|e| matches!(e, DeviceEvent::KeysRenewed(_))).count()
}

fn interruptions(pair: &Pair) -> usize {
    pair.events.iter().filter(|e| matches!(e, DeviceEvent::Disconnected { .. })).count()
}

// SPEC: R-packet-limit
#[test]
fn after_so_many_packets_the_keys_are_new_and_nobody_notices() {
    let mut pair = Pair::with(config(&[7]), thrifty());
    pair.key = key(7);
    let spec = spec(pair.now, DAY);
    pair.start_with(&spec);
    pair.run(Duration::from_secs(1));
    for n in 0..400 {
        pair.publish(payload(n));
        pair.run(Duration::from_millis(300));
    }
    assert_eq!(serials(&mut pair), (1..=400).collect::<Vec<_>>());
    assert!((5..=16).contains(&renewals(&pair)), "{} times", renewals(&pair));
    assert_eq!(interruptions(&pair), 0);
    let states: Vec<_> = pair.events.iter().filter(|e| matches!(e, DeviceEvent::State(_))).collect();
    assert_eq!(states, [&DeviceEvent::State(ConnectionState::Connected)]);
    assert_eq!(pair.service.stats().connected, 1);
}

/// Notifications, their acknowledgements, both exchanges and all answers may be lost at any moment of the change.
#[test]
fn a_change_of_keys_in_bad_weather_loses_and_repeats_nothing() {
    for (loss, rounds) in [(10, 300), (30, 300), (50, 200)] {
        let mut pair = Pair::with(config(&[7]), thrifty());
        pair.key = key(7);
        let spec = spec(pair.now, DAY);
        pair.start_with(&spec);
        pair.run(Duration::from_secs(1));
        pair.loss = loss;
        let mut given = Vec::new();
        let mut gap = false;
        for n in 0..rounds {
            pair.publish(payload(n));
            pair.run(Duration::from_millis(700));
            gap |= pair.notifications.iter().any(|n| matches!(n.kind, NotificationKind::Gap(_)));
            given.extend(serials(&mut pair));
        }
        pair.loss = 0;
        pair.run(Duration::from_secs(200));
        gap |= pair.notifications.iter().any(|n| matches!(n.kind, NotificationKind::Gap(_)));
        given.extend(serials(&mut pair));
        assert!(given.is_sorted_by(|a, b| a < b), "in order and once: {given:?}");
        assert!(given.len() as u64 == rounds || gap, "{} of {rounds} at {loss} %", given.len());
        assert!(loss > 30 || renewals(&pair) >= 2, "{} at {loss} %", renewals(&pair));
        assert_eq!(pair.service.stats().connected, 1);
    }
}

/// A device that does not care about its keys, in a service that does.
// SPEC: R-packet-cap
#[test]
fn a_service_ends_a_connection_before_its_numbers_get_too_high() {
    let mut config = config(&[7]);
    config.packet_limit = 128;
    let mut pair = Pair::with(config, DeviceConfig::default());
    pair.key = key(7);
    let spec = spec(pair.now, DAY);
    pair.start_with(&spec);
    pair.run(Duration::from_secs(1));
    for n in 0..300 {
        pair.publish(payload(n));
        pair.run(Duration::from_millis(300));
    }
    pair.run(Duration::from_secs(10));
    assert_eq!(serials(&mut pair), (1..=300).collect::<Vec<_>>());
    let closed = pair.events.iter().filter(|e| {
        matches!(e, DeviceEvent::Disconnected { reason: DisconnectReason::ByService(Code::TIMEOUT), .. })
    });
    assert!((1..=4).contains(&closed.count()));
    assert!(is_connected(&pair.events));
}

#[test]
fn keys_without_a_share_are_renewed_within_the_hour_without_a_break() {
    let mut config = config(&[7]);
    config.forward_secrecy = false;
    let mut pair = Pair::with(config, DeviceConfig::default());
    pair.key = key(7);
    let spec = spec(pair.now, DAY);
    pair.start_with(&spec);
    pair.run(Duration::from_secs(4 * 3600));
    assert!((4..=48).contains(&renewals(&pair)), "{}", renewals(&pair));
    assert_eq!(interruptions(&pair), 0);
}

/// A device's connection whose ticket was issued so long ago, and lives so long.
fn with_ticket(keys: &[u8], sealed_by: u8, age: Duration, life: Duration) -> Pair {
    let mut pair = Pair::with(config(keys), DeviceConfig::default());
    pair.key = key(sealed_by);
    let mut spec = spec(pair.now, life);
    spec.issued = spec.issued - age;
    spec.expiry = spec.issued + life;
    pair.start_with(&spec);
    pair.run(Duration::from_secs(1));
    assert!(is_connected(&pair.events));
    pair
}

fn renewed(pair: &Pair) -> Option<UnixTime> {
    pair.events.iter().find_map(|e| match e {
        DeviceEvent::TicketRenewed { expiry } => Some(*expiry),
        _ => None,
    })
}

// SPEC: R-ticket-renewed
#[test]
fn a_ticket_that_is_old_or_of_an_older_key_is_renewed() {
    let hour = Duration::from_secs(3600);
    for (sealed_by, age, life, old) in [
        (1, hour, 90 * DAY, false),
        (1, DAY + hour, 90 * DAY, true),
        (1, 5 * hour, 6 * hour, true),
        (1, 3 * hour, 6 * hour, false),
        (2, hour, 90 * DAY, true),
    ] {
        let pair = with_ticket(&[1, 2], sealed_by, age, life);
        assert_eq!(pair.service.stats().renewed, u64::from(old), "{sealed_by} {age:?} {life:?}");
        let expiry = renewed(&pair);
        assert_eq!(expiry.is_some(), old);
        if let Some(expiry) = expiry {
            let off = expiry.as_millis().abs_diff((unix(pair.now) + life).as_millis());
            assert!(off <= 2_000, "as long a life as before");
            assert_eq!(pair.device.ticket().expiry(), expiry);
        }
        assert!(!pair.events.iter().any(|e| matches!(e, DeviceEvent::Failed { .. })));
    }
}

/// The service forgets the old key; the device goes on with what it was given, also after a restart of its own.
#[test]
fn a_renewed_ticket_outlives_its_key_and_is_kept() {
    let pair = with_ticket(&[1, 2], 2, Duration::ZERO, 90 * DAY);
    let given = pair.key.mint(&spec(pair.now, 90 * DAY), &[3; 32]).unwrap();
    let resume = Resume::from_bytes(&pair.device.resume().to_bytes()).unwrap();
    assert_eq!(resume, pair.device.resume());
    let mut later = Pair::with(config(&[1]), DeviceConfig::default());
    let device = |now, resume, seed| {
        Device::new(Arc::default(), given.clone(), resume, Seed::new([seed; 32]), now, unix(now))
    };
    later.device = device(later.now, None, 50);
    later.run(Duration::from_secs(60));
    assert!(!is_connected(&later.events));
    later.device = device(later.now, Some(resume), 51);
    later.run(Duration::from_secs(30));
    assert!(is_connected(&later.events));
}

/// The host's ticket ends later, but the service does not have its key, and so cannot even prove that it refuses it.
// SPEC: R-two-tickets
#[test]
fn without_an_answer_the_other_ticket_is_tried() {
    let pair = with_ticket(&[1, 2], 2, Duration::ZERO, 90 * DAY);
    let resume = pair.device.resume();
    let mut later = Pair::with(config(&[1]), DeviceConfig::default());
    let given = key(3).mint(&spec(later.now, 900 * DAY), &[3; 32]).unwrap();
    let (now, clock) = (later.now, unix(later.now));
    later.device = Device::new(Arc::default(), given, Some(resume), Seed::new([50; 32]), now, clock);
    later.run(Duration::from_secs(60));
    assert!(is_connected(&later.events));
}

/// What was kept belongs to a device of an account.
#[test]
fn a_kept_ticket_is_not_used_for_another_device() {
    let pair = with_ticket(&[1, 2], 2, Duration::ZERO, 90 * DAY);
    let resume = pair.device.resume();
    let mut other = spec(pair.now, DAY);
    other.device = DeviceId([8; 16]);
    let ticket = key(1).mint(&other, &[3; 32]).unwrap();
    let expiry = ticket.expiry();
    let device =
        Device::new(Arc::default(), ticket, Some(resume), Seed::new([50; 32]), pair.now, unix(pair.now));
    assert_eq!((device.ticket().device(), device.ticket().expiry()), (other.device, expiry));
}

/// The renewed ticket ends later, so it is tried first; it was revoked, and the host's is newer.
// SPEC: R-two-tickets
#[test]
fn of_two_tickets_the_other_is_tried_before_the_host_is_asked() {
    let pair = with_ticket(&[1, 2], 2, Duration::ZERO, 90 * DAY);
    let resume = pair.device.resume();
    let mut later = Pair::with(config(&[1]), DeviceConfig::default());
    later.run(Duration::from_secs(10));
    later.service.revoke(later.now, &AccountId::of(ACCOUNT), DeviceId([1; 16]), unix(later.now));
    let fresh = key(1).mint(&spec(later.now, DAY), &[4; 32]).unwrap();
    assert!(fresh.expiry() < renewed(&pair).unwrap());
    let (now, clock) = (later.now, unix(later.now));
    later.device = Device::new(Arc::default(), fresh, Some(resume), Seed::new([50; 32]), now, clock);
    later.events.clear();
    later.run(Duration::from_secs(5));
    assert!(is_connected(&later.events), "{:?}", later.events);
    assert!(!later.events.iter().any(|e| matches!(e, DeviceEvent::RenewTicket { .. })));
    // And both refused, the host is asked.
    later.service.revoke(later.now, &AccountId::of(ACCOUNT), DeviceId([1; 16]), unix(later.now) + DAY);
    later.run(Duration::from_secs(5));
    assert!(later.events.iter().any(|e| matches!(e, DeviceEvent::RenewTicket { .. })));
}

/// The host's ticket ends later, so it is tried first; it was revoked. The attempt with the other one is lost, and that is
/// no reason to wait for a quarter of an hour.
// SPEC: R-one-refused
#[test]
fn one_of_two_tickets_is_refused_and_the_others_packets_are_lost() {
    let pair = with_ticket(&[1, 2], 2, Duration::ZERO, DAY);
    let resume = pair.device.resume();
    let mut later = Pair::with(config(&[1]), DeviceConfig::default());
    later.run(Duration::from_secs(10));
    let (now, clock) = (later.now, unix(later.now));
    let old = key(1).mint(&TicketSpec { issued: clock - DAY, ..spec(now, 90 * DAY) }, &[4; 32]).unwrap();
    later.service.revoke(now, &AccountId::of(ACCOUNT), DeviceId([1; 16]), clock - DAY / 2);
    later.device = Device::new(Arc::default(), old, Some(resume), Seed::new([50; 32]), now, clock);
    later.events.clear();
    let refusals = |pair: &Pair| pair.service.stats().refused_for(RefusalReason::Revoked);
    while refusals(&later) == 0 {
        later.run(Duration::from_millis(10));
    }
    later.run(Duration::from_millis(50));
    // Until the first one has been refused once more, whatever it is that is tried.
    while refusals(&later) == 1 {
        later.cut = later.device.ticket().expiry() < clock + 2 * DAY;
        later.run(Duration::from_millis(10));
    }
    later.cut = false;
    later.run(Duration::from_millis(50));
    let asked = later.events.iter().filter(|e| matches!(e, DeviceEvent::RenewTicket { .. })).count();
    assert_eq!((asked, is_connected(&later.events)), (1, false));
    later.run(Duration::from_secs(10));
    assert!(is_connected(&later.events), "{:?}", later.events);
}

// SPEC: R-renewal-secret
#[test]
fn no_ticket_is_renewed_over_keys_that_the_old_one_opens() {
    let mut config = config(&[1, 2]);
    config.forward_secrecy = false;
    let mut pair = Pair::with(config, DeviceConfig::default());
    pair.key = key(2);
    let spec = spec(pair.now, DAY);
    pair.start_with(&spec);
    pair.run(Duration::from_secs(60));
    assert!(is_connected(&pair.events));
    assert_eq!(pair.service.stats().renewed, 0);
}

#[test]
fn a_service_that_renews_no_tickets_says_nothing_of_it() {
    let mut config = config(&[1, 2]);
    config.renew_tickets = false;
    let mut pair = Pair::with(config, DeviceConfig::default());
    pair.key = key(2);
    let spec = spec(pair.now, DAY);
    pair.start_with(&spec);
    pair.run(Duration::from_secs(60));
    assert!(is_connected(&pair.events));
    assert_eq!((pair.service.stats().renewed, renewed(&pair)), (0, None));
}

/// The request is repeated like any other, and answered again.
#[test]
fn a_renewal_survives_bad_weather() {
    let mut pair = Pair::with(config(&[1, 2]), DeviceConfig::default());
    pair.key = key(2);
    pair.loss = 30;
    let spec = spec(pair.now, DAY);
    pair.start_with(&spec);
    pair.run(Duration::from_secs(60));
    assert!(renewed(&pair).is_some());
    assert_eq!(pair.events.iter().filter(|e| matches!(e, DeviceEvent::TicketRenewed { .. })).count(), 1);
}

/// A half-open connection would be confirmed later, under the ticket that is revoked.
#[test]
fn a_revocation_ends_what_is_half_open_too() {
    let mut pair = Pair::new();
    pair.deaf_above = 1000;
    pair.run(Duration::from_secs(1));
    assert_eq!(pair.service.stats().half_open, 1);
    pair.service.revoke(pair.now, &AccountId::of(ACCOUNT), DeviceId([1; 16]), unix(pair.now) + DAY);
    assert_eq!((pair.service.stats().half_open, pair.service.stats().records), (0, 0));
}

/// Lets two devices that hold the same ticket live for a while; how often each connected.
fn rivals(second: impl FnOnce(&mut Pair) -> Device, time: u64) -> [u64; 2] {
    let mut pair = Pair::new();
    pair.run(Duration::from_secs(1));
    let rival = second(&mut pair);
    let mut other = std::mem::replace(&mut pair.device, rival);
    for _ in 0..time {
        // One after the other on the same socket; what comes for the one that rests is brought to it.
        pair.run(Duration::from_millis(500));
        pair.deliver_to(&mut other);
        std::mem::swap(&mut pair.device, &mut other);
    }
    [pair.device.stats().connects, other.stats().connects]
}

#[test]
fn two_devices_with_one_ticket_never_take_turns() {
    let connects = rivals(
        |pair| {
            let ticket = pair.mint();
            Device::new(Arc::default(), ticket, None, Seed::new([77; 32]), pair.now, unix(pair.now))
        },
        240,
    );
    assert_eq!(connects.iter().sum::<u64>(), 2, "each connected once: {connects:?}");
}

/// Two machines that were cloned with their generators: the same seed, ticket and clock. Their first packets are the same,
/// to the last bit or but for what they know; the second one either is the first, or takes its place for good.
#[test]
fn a_seed_that_repeats_displaces_nobody_for_ever_and_repeats_no_nonce() {
    let twin = |pair: &Pair| {
        let seed = Seed::new([2; 32]);
        let born = Instant::from_micros(5_000_000);
        let ticket = pair.key.mint(&spec(born, Duration::from_secs(86_400 * 90)), &[3; 32]).unwrap();
        Device::new(Arc::clone(&pair.device_config), ticket, None, seed, pair.now, unix(pair.now))
    };
    let connects = rivals(|pair| twin(pair), 240);
    assert!(connects.iter().sum::<u64>() <= 3, "{connects:?}");

    // At the very same moment their first packets are one packet; a moment later the Connect differs, so the hedged
    // random does, and with it every key.
    let mut pair = Pair::new();
    let mut first = twin(&pair);
    let mut same = twin(&pair);
    pair.now = pair.now + Duration::from_millis(1);
    let mut later = twin(&pair);
    let step1 = |device: &mut Device, now: Instant| {
        let mut buffer = [0; 1452];
        device.handle_timeout(now);
        while let Some(event) = device.poll_event() {
            if let DeviceEvent::OpenLink { link, kind: LinkKind::Udp(_) } = event {
                device.handle_link(now, link, LinkState::Open { local: "192.0.2.9:1".parse().unwrap() });
            }
        }
        let sent = device.poll_transmit(now, &mut buffer, std::num::NonZeroUsize::MIN).unwrap();
        buffer[..sent.len].to_vec()
    };
    let born = Instant::from_micros(5_000_000);
    let packets = [step1(&mut first, born), step1(&mut same, born), step1(&mut later, pair.now)];
    assert_eq!(packets[0], packets[1]);
    assert_ne!(packets[0], packets[2]);
    let random =
        |packet: &[u8]| packet.windows(2).position(|w| w == [130, 16]).map(|at| packet[at..at + 18].to_vec());
    assert_ne!(
        random(&packets[0]),
        random(&packets[2]),
        "the sealing key differs although the generator does not"
    );
}

/// The header block of a packet is encrypted as it is, so the same number, index, transmission and acknowledgement under
/// the same key would make the same block.
#[test]
fn no_header_block_comes_twice_in_a_life() {
    let mut pair = Pair::with(config(&[7]), thrifty());
    pair.key = key(7);
    let spec = spec(pair.now, DAY);
    pair.start_with(&spec);
    pair.run(Duration::from_secs(1));
    pair.loss = 20;
    for n in 0..300 {
        pair.publish(Event::with_payload(StoreId::INBOUND, vec![n as u8; 3000].into()));
        pair.run(Duration::from_millis(500));
        if n % 50 == 49 {
            pair.device.handle_network_change(pair.now, None);
        }
    }
    assert!(renewals(&pair) >= 3);
    let mut seen = BTreeSet::new();
    for (from, packet) in pair.log.iter().filter(|(_, packet)| !packet.starts_with(&[0; 16])) {
        let at = if from.is_some() { 16 } else { 8 };
        assert!(seen.insert(packet[at..at + 16].to_vec()));
    }
    assert!(seen.len() > 500, "{}", seen.len());
}

/// No byte of a secret is in what people print when they look for a fault.
// SPEC: R-no-secrets-shown
#[test]
fn nothing_secret_is_in_debug_output() {
    // Every secret is made of this byte, as far as it is not derived.
    const BYTE: u8 = 0xa7;
    let key = TicketKey::new(*b"key1", [BYTE; 32]);
    let mut config = ServiceConfig::new(ServiceSecret::new([BYTE; 32]), vec![key.clone()]);
    config.node = 1;
    let mut pair = Pair::with(config.clone(), DeviceConfig::default());
    pair.key = key.clone();
    let mut old = spec(pair.now, 90 * DAY);
    old.issued = old.issued - 2 * DAY;
    pair.start_with(&old);
    pair.run(Duration::from_secs(2));
    assert!(renewed(&pair).is_some());
    let ticket = pair.device.ticket();
    let resume = pair.device.resume();
    // The token and the secret of a ticket, as they stand in what is kept of it.
    let kept = resume.to_bytes();
    let secret = &kept[41 + 24..41 + 56];
    let token = &kept[41 + 56..kept.len() - 4];
    let shown = [
        format!("{key:?} {config:?} {:?} {:?}", Seed::new([BYTE; 32]), ServiceSecret::new([BYTE; 32])),
        format!("{ticket:?} {:?}", pair.device),
        format!("{resume:?} {:?}", pair.service),
        format!("{:#?} {:#?}", pair.events, pair.service_events),
    ];
    let spelled = |bytes: &[u8]| {
        let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
        let list = bytes.iter().map(u8::to_string).collect::<Vec<_>>().join(", ");
        [hex, list]
    };
    for text in &shown {
        for bytes in [&[BYTE; 3][..], &secret[..4], &token[21..25]] {
            for spelling in spelled(bytes) {
                assert!(!text.to_lowercase().contains(&spelling), "{spelling} in {text}");
            }
        }
    }
}
