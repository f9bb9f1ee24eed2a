//! Binding requests of strangers: answered to where they came from, and not more than the limits allow.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use mpp_proto::*;

const NOW: Instant = Instant::from_micros(1_000_000);
const REQUEST: [u8; 20] = *b"\0\x01\0\0\x21\x12\xa4\x42twelve bytes";

fn service(change: impl FnOnce(&mut ServiceConfig)) -> Service {
    let mut config = ServiceConfig::new(ServiceSecret::new([9; 32]), Vec::new());
    change(&mut config);
    Service::new(Arc::new(config), ShardId(0), Seed::new([1; 32]), NOW, UnixTime::EPOCH)
}

/// What becomes of a packet, and what is answered to it.
fn ask(
    service: &mut Service,
    now: Instant,
    path: Path,
    packet: &[u8],
) -> (Disposition, Vec<(Path, Vec<u8>)>) {
    let mut payload = packet.to_vec();
    let mut dispositions = Vec::new();
    service.handle_datagrams(now, &mut [Datagram { path, payload: &mut payload }], &mut dispositions);
    assert_eq!(payload, packet, "the packet was changed");
    let mut batch = TransmitBatch::new(4);
    service.poll_transmit(now, &mut batch);
    (dispositions[0], batch.iter().map(|(t, bytes)| (t.path, bytes.to_vec())).collect())
}

fn path(a: u8, b: u8) -> Path {
    Path::new(LinkId(0), SocketAddr::new(IpAddr::V4(Ipv4Addr::new(198, 51, a, b)), 4000))
}

// SPEC: R-stun
#[test]
fn the_answer_leaves_from_the_address_that_was_asked() {
    let mut service = service(|_| {});
    let asked = Path { local: Some("192.0.2.9".parse().unwrap()), link: LinkId(3), ..path(100, 1) };
    let (disposition, answers) = ask(&mut service, NOW, asked, &REQUEST);
    assert_eq!(disposition, Disposition::Accepted);
    let [(to, answer)] = &answers[..] else { panic!("{answers:?}") };
    assert_eq!(*to, asked);
    assert_eq!(answer[..2], [1, 1]);
    assert_eq!(service.stats().bindings, 1);
    assert!(service.recognizes(&REQUEST));
    assert_eq!(service.poll_event(), None);
    // What was answered, sent back, is answered by nothing.
    let (disposition, none) = ask(&mut service, NOW, asked, answer);
    assert_eq!((disposition, none), (Disposition::NotForUs, Vec::new()));
}

#[test]
fn switched_off_it_is_foreign() {
    let mut service = service(|config| config.stun = false);
    assert_eq!(ask(&mut service, NOW, path(100, 1), &REQUEST), (Disposition::NotForUs, Vec::new()));
    assert!(!service.recognizes(&REQUEST));
}

// SPEC: R-stun-limit
#[test]
fn one_source_gets_ten_answers_a_second_and_harms_no_other() {
    let mut service = service(|_| {});
    let mut answered = 0;
    for ms in 0..10_000 {
        let now = NOW + Duration::from_millis(ms);
        let (disposition, answers) = ask(&mut service, now, path(100, 1), &REQUEST);
        answered += answers.len();
        let expected = if answers.is_empty() {
            Disposition::Dropped(DropReason::RateLimited)
        } else {
            Disposition::Accepted
        };
        assert_eq!(disposition, expected);
    }
    assert!((100..=110).contains(&answered), "{answered} in 10 s");
    assert_eq!(service.stats().dropped_for(DropReason::RateLimited), 10_000 - answered as u64);
    let late = NOW + Duration::from_millis(9_999);
    assert_eq!(ask(&mut service, late, path(100, 2), &REQUEST).1.len(), 1);
}

// SPEC: R-stun-limit
#[test]
fn all_sources_together_get_a_thousand_a_second() {
    let mut service = service(|_| {});
    let mut answered = 0;
    for n in 0..20_000_u64 {
        let [.., a, b] = n.to_be_bytes();
        let now = NOW + Duration::from_micros(n * 100);
        answered += ask(&mut service, now, path(a, b), &REQUEST).1.len();
    }
    assert!((2_900..=3_000).contains(&answered), "{answered} in 2 s after a pause");
}
