//! Many devices, and networks that lose much.

use std::net::SocketAddr;
use std::time::Duration;

use mpp_proto::Serial;

use super::{ALICE, Kit, Proxy, World, all, event, message, number, numbered, ticket, ticket_of};
use crate::{Client, Service};

/// So many events may be on their way: half of a channel's ring, which must not overflow.
const AHEAD: u64 = 16;

/// One device of an account of its own: gets every event, once and in order.
async fn listen<K: Kit>(w: &World<K>, client: &Client<K>, account: &str, events: u64) {
    for expected in 1..=events {
        let notification = w.within(120, account, client.next()).await.expect("the client is closed");
        let (serial, payload) = event(notification);
        assert_eq!((serial, number(&payload)), (Serial(expected), expected), "{account}");
    }
    let more = w.timeout(Duration::from_millis(300), client.next()).await;
    assert!(more.is_none(), "{account}: an event came twice");
}

/// Publishes as fast as the account's device is told, so that no ring overflows.
async fn publish<K: Kit>(w: &World<K>, service: &Service<K>, account: &str, events: u64) {
    let mut told = 0;
    for n in 1..=events {
        while n > told + AHEAD {
            w.sleep(Duration::from_millis(2)).await;
            told = service.devices(account).first().map_or(told, |d| d.told.0);
        }
        assert_eq!(service.publish(account, numbered(n)), Ok(Serial(n)));
    }
}

async fn one<K: Kit>(w: &World<K>, service: &Service<K>, at: SocketAddr, device: u32, events: u64) {
    let account = format!("user{device}@example.com");
    let client = Client::<K>::connect(ticket_of(&account, device, at));
    w.within(120, "connecting", client.connected()).await.unwrap();
    let listen: std::pin::Pin<Box<dyn Future<Output = ()>>> = Box::pin(listen(w, &client, &account, events));
    all(vec![listen, Box::pin(publish(w, service, &account, events))]).await;
}

/// So many devices with an account each, so many events for each, and 30 % of all packets lost.
pub async fn lossy<K: Kit>(w: World<K>, devices: u32, events: u64) {
    let (service, address) = w.service();
    let proxy = Proxy::start(address, 30, 2026);
    let mut futures: Vec<std::pin::Pin<Box<dyn Future<Output = ()>>>> = Vec::new();
    for device in 0..devices {
        futures.push(Box::pin(one(&w, &service, proxy.address, device, events)));
    }
    all(futures).await;
    let percent = proxy.lost_percent();
    // A few hundred packets are no large sample: that it lost about what it should is all that is asked here.
    assert!((15..=45).contains(&percent), "the proxy lost {percent} %");
}

pub async fn a_lossy_network_delivers_everything_once_and_in_order<K: Kit>(w: World<K>) {
    lossy(w, 8, 150).await;
}

pub async fn the_largest_payload_crosses_a_bad_network<K: Kit>(w: World<K>) {
    let (service, address) = w.service();
    let proxy = Proxy::start(address, 30, 7);
    let client = Client::<K>::connect(ticket(1, proxy.address));
    w.within(120, "connecting", client.connected()).await.unwrap();
    let payload: Vec<u8> = (0..16_384).map(|i| (i % 251) as u8).collect();
    for n in 1..=3 {
        service.publish(ALICE, message(payload.clone())).unwrap();
        let next = w.within(120, "the event", client.next()).await.expect("the client is closed");
        let (serial, got) = event(next);
        assert_eq!(serial, Serial(n));
        assert!(got == payload, "event {n} was changed on the way");
    }
}

pub async fn a_thousand_devices<K: Kit>(w: World<K>) {
    const DEVICES: u32 = 1_000;
    let (service, address) = w.service();
    let clients: Vec<_> = (0..DEVICES).map(|d| Client::<K>::connect(ticket(d, address))).collect();
    let connect = async {
        for client in &clients {
            client.connected().await.unwrap();
        }
    };
    w.within(60, "connecting", connect).await;
    assert_eq!(service.devices(ALICE).len(), DEVICES as usize);
    let large: Vec<u8> = (0..16_384).map(|i| (i % 249) as u8).collect();
    for payload in [b"small".to_vec(), large] {
        let serial = service.publish(ALICE, message(payload.clone())).unwrap();
        for client in &clients {
            let (got_serial, got) = w.next_event(client).await;
            assert_eq!(got_serial, serial);
            assert!(got == payload, "{} bytes were changed on the way", payload.len());
        }
    }
    drop(clients);
    w.until(20, "all to go", || service.devices(ALICE).is_empty()).await;
}
