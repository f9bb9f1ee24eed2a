//! A bad network between devices and service: everything arrives, once and in order.

mod common;

use common::proxy::Proxy;
use common::{ALICE, connect, message, next_event, number, numbered, service, within};
use mpp_tokio::Service;
use mpp_tokio::proto::Serial;
use tokio::task::JoinSet;

const DEVICES: u8 = 20;
const EVENTS: u64 = 1_000;
/// So many events may be on their way: half of a channel's ring, which must not overflow.
const AHEAD: u64 = 16;

/// Waits until every device was told everything up to `serial`.
async fn told(service: &Service, serial: u64) {
    loop {
        let devices = service.devices(ALICE);
        if devices.len() == usize::from(DEVICES) && devices.iter().all(|d| d.told >= Serial(serial)) {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_events_reach_twenty_devices_once_and_in_order_with_30_percent_loss() {
    let (service, address) = service();
    let proxy = Proxy::start(address, 30, 2026).await;
    let mut devices = JoinSet::new();
    for device in 0..DEVICES {
        let at = proxy.address;
        devices.spawn(async move {
            let client = connect(device, at).await;
            for expected in 1..=EVENTS {
                let (serial, payload) = next_event(&client).await;
                assert_eq!((serial, number(&payload)), (Serial(expected), expected), "device {device}");
            }
            client
        });
    }
    let publish = async {
        for n in 1..=EVENTS {
            told(&service, n.saturating_sub(AHEAD)).await;
            assert_eq!(service.publish(ALICE, numbered(n)), Ok(Serial(n)));
        }
        told(&service, EVENTS).await;
    };
    within(300, "publishing", publish).await;
    let clients = within(60, "the last events", devices.join_all()).await;
    assert_eq!(clients.len(), usize::from(DEVICES));
    let lost = proxy.counts.lost.load(std::sync::atomic::Ordering::Relaxed);
    let forwarded = proxy.counts.forwarded.load(std::sync::atomic::Ordering::Relaxed);
    let percent = 100 * lost / (lost + forwarded);
    assert!((25..=35).contains(&percent), "the proxy lost {percent} %: {lost} of {}", lost + forwarded);
    // Nothing more than what was published.
    let more = clients.iter().map(|c| async {
        tokio::time::timeout(std::time::Duration::from_millis(200), c.next()).await.is_ok()
    });
    for more in more {
        assert!(!more.await, "an event came twice");
    }
}

#[tokio::test]
async fn the_largest_payload_crosses_a_bad_network() {
    let (service, address) = service();
    let proxy = Proxy::start(address, 30, 7).await;
    let client = connect(1, proxy.address).await;
    let payload: Vec<u8> = (0..16_384).map(|i| (i % 251) as u8).collect();
    for n in 1..=5 {
        service.publish(ALICE, message(payload.clone())).unwrap();
        let (serial, got) = next_event(&client).await;
        assert_eq!(serial, Serial(n));
        assert!(got == payload, "event {n} was changed on the way");
    }
}
