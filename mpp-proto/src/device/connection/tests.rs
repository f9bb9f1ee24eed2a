use super::*;
use crate::crypto::{AnswerKey, Secret, StepOneDigest};
use crate::device::attempt::Proposal;
use crate::ids::{Epoch, Serial, StoreSet};
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
