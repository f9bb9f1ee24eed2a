use super::*;
use crate::crypto::{AnswerKey, Secret, StepOneDigest};
use crate::device::attempt::Proposal;
use crate::ids::{Epoch, RequestId, Serial, StoreSet};
use crate::random::Seed;

const NOW: Instant = Instant::from_micros(1_000_000);

fn connection(lease: Duration, refresh_after: Duration) -> Connection {
    let digest = StepOneDigest::of(b"step 1");
    let agreed = Agreed {
        keys: Box::new(AnswerKey::new(&Secret::new([1; 32]), None, &digest, b"clear").connection_keys()),
        service: alloc::vec![([1; 16], [2; 16])],
        own: [[1; 8], [2; 8], [3; 8]],
        epoch: Epoch([1; 8]),
        newest: Serial::ZERO,
        lost: StoreSet::EMPTY,
        endpoint: None,
        service_time: crate::time::UnixTime::EPOCH,
        lease,
        refresh_after,
        forward_secret: false,
        renew: false,
        in_use: false,
        check_port: None,
        started: NOW,
        proposal: Proposal {
            connect_serial: 1,
            epoch: Epoch::NONE,
            position: Serial::ZERO,
            filter: StoreSet::ALL,
            covered: StoreSet::ALL,
            packet_size: 1200,
            interval: Duration::from_secs(25),
            forward_secrecy: false,
            beside: false,
        },
        round_trip: None,
    };
    let carrier = Carrier::Udp { link: Some(LinkId(0)), remote: SocketAddr::from(([192, 0, 2, 1], 1)) };
    Connection::new(NOW, agreed, carrier, MAX_PACKETS)
}

#[test]
fn copies_of_old_packets_push_out_no_identifier() {
    let mut rng = Rng::new(Seed::new([1; 32]));
    let mut connection = connection(Duration::from_secs(80), Duration::from_secs(3600));
    for _ in 0..20 {
        connection.note_identifier(&[2; 50], &mut rng);
        connection.note_identifier(&[1; 50], &mut rng);
    }
    assert!([1, 2, 3].iter().all(|own| connection.recognizes(&[*own; 50])));
    assert_eq!(connection.own.len(), 4, "one was used up and replaced");
}

#[test]
fn a_service_that_grants_nothing_does_not_make_a_device_spin() {
    let mut connection = connection(Duration::ZERO, Duration::ZERO);
    connection.confirmed = true;
    let soon = NOW + Duration::from_secs(10);
    assert!(!connection.is_dead(soon) && connection.refresh_at > soon);
    assert_eq!(connection.granted(Duration::from_secs(25)), MIN_INTERVAL);
}

#[test]
fn a_service_that_grants_for_ever_overflows_nothing() {
    let connection = connection(Duration::MAX, Duration::MAX);
    let late = Instant::from_micros(u64::MAX);
    assert_eq!(connection.granted(Duration::from_secs(25)), MAX_INTERVAL);
    assert!(!connection.is_dead(late));
    let mut next = Deadlines { handled: Instant::ZERO, next: None };
    connection.deadlines(&mut next);
    assert_eq!(next.next.unwrap().at, NOW, "the first heartbeat");
}

/// Sends the heartbeat that is due at `now`, and takes its answer, which may say that there was a miss; how long until the
/// next one.
fn beat_with(connection: &mut Connection, now: Instant, interval: Duration, missed: bool) -> Duration {
    let request = RequestId(7);
    connection.take_heartbeat(now, interval, || request).expect("a heartbeat is due");
    connection.spoke = now;
    if missed {
        connection.doubt_flow(now);
    }
    let mut rng = Rng::new(Seed::new([1; 32]));
    let _ = connection.answered(now, request, None, interval, &mut rng).expect("it is the answer");
    let Beat::Due(at) = connection.heartbeat else { panic!("{:?}", connection.heartbeat) };
    at.since(now)
}

fn beat(connection: &mut Connection, now: Instant, interval: Duration) -> Duration {
    beat_with(connection, now, interval, false)
}

const INTERVAL: Duration = Duration::from_secs(100);
const LEASE: Duration = Duration::from_secs(305);

// SPEC: R-new-flow
#[test]
fn a_flow_that_is_new_is_used_again_soon() {
    let mut connection = connection(LEASE, Duration::from_secs(3600));
    // One that was asked for in between does not count: the flow is as new.
    assert_eq!(beat(&mut connection, NOW, INTERVAL), IN_USE);
    connection.beat_now(NOW + Duration::from_secs(1));
    assert_eq!(beat(&mut connection, NOW + Duration::from_secs(1), INTERVAL), IN_USE);
    let mut now = NOW + Duration::from_secs(4);
    for _ in 0..10 {
        let pause = beat(&mut connection, now, INTERVAL);
        assert!((INTERVAL * 9 / 10..=INTERVAL).contains(&pause), "{pause:?}");
        now = now + pause;
    }
    // After a silence that is longer than what is known to be remembered, by a machine that slept.
    now = now + INTERVAL / 4;
    assert_eq!(beat(&mut connection, now, INTERVAL), IN_USE);
    now = now + IN_USE;
    assert!(beat(&mut connection, now, INTERVAL) > IN_USE);
    // On another network.
    connection.leave();
    connection.arrive(now + IN_USE, LinkId(1));
    assert_eq!(beat(&mut connection, now + IN_USE, INTERVAL), IN_USE);
}

// SPEC: R-new-flow
#[test]
fn keys_that_are_new_make_no_new_flow() {
    let mut old = connection(LEASE, Duration::from_secs(3600));
    let later = NOW + Duration::from_secs(3600);
    let renewed = |link| {
        let mut new = connection(LEASE, Duration::from_secs(3600));
        new.carrier = Carrier::Udp { link: Some(link), remote: old.remote().expect("it has one") };
        (new.heartbeat, new.spoke, new.flow) = (Beat::Due(later), later, Flow::new(later));
        new
    };
    let (mut new, mut elsewhere) = (renewed(LinkId(0)), renewed(LinkId(1)));
    new.follow(&old);
    elsewhere.follow(&old);
    assert!(beat(&mut new, later, INTERVAL) > IN_USE);
    assert_eq!(beat(&mut elsewhere, later, INTERVAL), IN_USE);
    // One that is new itself.
    let mut new = connection(LEASE, Duration::from_secs(3600));
    new.follow(&old);
    assert_eq!(beat(&mut new, NOW, INTERVAL), IN_USE);
    assert_eq!(beat(&mut old, NOW, INTERVAL), IN_USE);
}

/// A box that gives another port each time is not asked twice as often.
// SPEC: R-new-flow
#[test]
fn a_miss_is_taken_for_a_new_flow_once_in_ten_minutes() {
    let mut connection = connection(LEASE, Duration::from_secs(36_000));
    let mut now = NOW;
    let mut quick = 0;
    while now.since(NOW) < Duration::from_secs(3600) {
        let pause = beat_with(&mut connection, now, MIN_INTERVAL, true);
        quick += u32::from(pause == IN_USE);
        now = now + pause;
    }
    assert!((5..=7).contains(&quick), "{quick} in an hour");
}

#[cfg(debug_assertions)]
#[test]
#[should_panic(expected = "this nonce was used before")]
fn a_device_that_took_a_number_twice_would_be_noticed() {
    let mut connection = connection(Duration::from_secs(80), Duration::from_secs(3600));
    let mut out = [0; 1200];
    connection.write_close(&mut out, Code::TIMEOUT);
    connection.next_number -= 1;
    connection.write_close(&mut out, Code::TIMEOUT);
}
