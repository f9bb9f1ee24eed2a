//! How the service sees a device: over the connection's socket, and over others.

use std::net::SocketAddr;
use std::time::Duration;

use mpp_proto::*;

use crate::harness::{ACCOUNT, Pair, asking_address};

/// The service in the other family.
fn elsewhere() -> SocketAddr {
    "[2001:db8:1::1]:15096".parse().unwrap()
}

fn seen(pair: &Pair, asked: RequestId) -> Option<SocketAddr> {
    pair.events.iter().find_map(|e| match e {
        DeviceEvent::Endpoint { request, endpoint } if *request == asked => Some(*endpoint),
        _ => None,
    })
}

fn connected() -> Pair {
    let mut pair = Pair::new();
    pair.run(Duration::from_secs(1));
    pair
}

#[test]
fn a_device_learns_how_the_service_sees_it() {
    let mut pair = connected();
    let asked = pair.device.query_endpoint(pair.now).unwrap();
    pair.run(Duration::from_secs(1));
    assert_eq!(seen(&pair, asked), Some(pair.address));
}

/// Two questions at once share a socket, which is closed with the last answer; what is published goes where it went.
#[test]
fn from_a_socket_of_its_own_and_the_connection_stays_where_it_is() {
    let mut pair = connected();
    let asked = [elsewhere(), elsewhere()].map(|at| pair.device.query_endpoint_at(pair.now, at).unwrap());
    pair.run(Duration::from_secs(5));
    assert_eq!(asked.map(|asked| seen(&pair, asked)), [Some(asking_address()); 2]);
    let opened = |e: &&DeviceEvent| matches!(e, DeviceEvent::OpenLink { kind: LinkKind::Asking(_), .. });
    assert_eq!(pair.events.iter().filter(opened).count(), 1);
    assert_eq!(pair.events.iter().filter(|e| matches!(e, DeviceEvent::CloseLink(_))).count(), 1);
    let from_there = pair.log.iter().filter(|(from, _)| *from == Some(asking_address()));
    assert_eq!(from_there.count(), 2, "each question once, as nothing was lost");
    let status = pair.service.devices(pair.now, &AccountId::of(ACCOUNT)).next().unwrap();
    assert_eq!(status.path.remote, pair.address);
    assert_eq!(pair.device.observed_endpoint(), Some(pair.address));
}

#[test]
fn what_is_lost_is_asked_again() {
    let mut pair = connected();
    pair.loss = 50;
    let mut answered = 0;
    for _ in 0..40 {
        let asked = pair.device.query_endpoint_at(pair.now, elsewhere()).unwrap();
        pair.run(Duration::from_secs(5));
        answered += usize::from(seen(&pair, asked).is_some());
    }
    // Seven times there and back: all are lost of one in eight.
    assert!((28..=40).contains(&answered), "{answered} of 40");
}

#[test]
fn without_a_socket_it_fails_at_once() {
    let mut pair = connected();
    pair.no_asking = vec![Family::V6];
    let request = pair.device.query_endpoint_at(pair.now, elsewhere()).unwrap();
    pair.run(Duration::ZERO);
    let error = RequestError::NoSocket { family: Family::V6 };
    assert!(pair.events.contains(&DeviceEvent::Failed { request, error }), "{:?}", pair.events);
    assert_eq!(error.to_string(), "this machine has no IPv6 socket");
    assert!(pair.device.query_endpoint(pair.now).is_ok(), "the connection goes on");
}

/// On another network there is another socket to ask over.
#[test]
fn a_question_survives_a_change_of_network() {
    let mut pair = connected();
    pair.cut = true;
    let asked = pair.device.query_endpoint_at(pair.now, elsewhere()).unwrap();
    pair.run(Duration::from_secs(1));
    let before = pair.asking;
    pair.device.handle_network_change(pair.now, None);
    pair.cut = false;
    pair.run(Duration::from_secs(1));
    assert_eq!(seen(&pair, asked), Some(asking_address()));
    assert!(before.is_some() && pair.asking.is_none(), "it was closed");
}
