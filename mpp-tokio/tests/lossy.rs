//! A bad network between devices and service: everything arrives, once and in order.

mod common;

use common::proxy::Proxy;
use std::time::Duration;

use common::{ALICE, message, next_event_ever, now, number, numbered, service, ticket_of, within};
use mpp_tokio::proto::{Endpoint, Serial};
use mpp_tokio::{Client, Service};
use tokio::task::JoinSet;

const DEVICES: u8 = 20;
const EVENTS: u64 = 1_000;
/// So many events may be on their way: half of a channel's ring, which must not overflow.
const AHEAD: u64 = 16;

/// One device of an account of its own: gets every event, once and in order.
async fn listen(client: &Client, account: &str) {
    for expected in 1..=EVENTS {
        let (serial, payload) = within(120, account, next_event_ever(client)).await;
        assert_eq!((serial, number(&payload)), (Serial(expected), expected), "{account}");
    }
    let more = tokio::time::timeout(Duration::from_millis(300), client.next()).await;
    assert!(more.is_err(), "{account}: an event came twice");
}

/// Publishes as fast as the account's device is told, so that no ring overflows.
async fn publish(service: &Service, account: &str) {
    let mut told = 0;
    for n in 1..=EVENTS {
        while n > told + AHEAD {
            tokio::time::sleep(Duration::from_millis(2)).await;
            told = service.devices(account).first().map_or(told, |d| d.told.0);
        }
        assert_eq!(service.publish(account, numbered(n)), Ok(Serial(n)));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_events_reach_each_of_twenty_devices_once_and_in_order_with_30_percent_loss() {
    let (service, address) = service();
    let proxy = Proxy::start(address, 30, 2026).await;
    let mut tasks = JoinSet::new();
    for device in 0..DEVICES {
        let (service, at) = (service.clone(), proxy.address);
        tasks.spawn(async move {
            let account = format!("user{device}@example.com");
            let expiry = now() + Duration::from_secs(1800);
            let client = Client::connect(ticket_of(&account, expiry, device, Endpoint::Address(at)));
            within(120, "connecting", client.connected()).await.unwrap();
            tokio::join!(listen(&client, &account), publish(&service, &account));
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    let lost = proxy.counts.lost.load(std::sync::atomic::Ordering::Relaxed);
    let forwarded = proxy.counts.forwarded.load(std::sync::atomic::Ordering::Relaxed);
    let percent = 100 * lost / (lost + forwarded);
    assert!((25..=35).contains(&percent), "the proxy lost {percent} %: {lost} of {}", lost + forwarded);
}

#[tokio::test]
async fn the_largest_payload_crosses_a_bad_network() {
    let (service, address) = service();
    let proxy = Proxy::start(address, 30, 7).await;
    let client = Client::connect(common::ticket(1, proxy.address));
    within(120, "connecting", client.connected()).await.unwrap();
    let payload: Vec<u8> = (0..16_384).map(|i| (i % 251) as u8).collect();
    for n in 1..=5 {
        service.publish(ALICE, message(payload.clone())).unwrap();
        let (serial, got) = next_event_ever(&client).await;
        assert_eq!(serial, Serial(n));
        assert!(got == payload, "event {n} was changed on the way");
    }
}
