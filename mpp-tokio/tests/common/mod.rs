//! What the end-to-end tests share: keys, tickets, deadlines, and a proxy that loses packets.
#![allow(dead_code, unreachable_pub, missing_docs)]

pub mod proxy;

use std::future::Future;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use mpp_tokio::proto::{
    AccountHead, AccountId, DeviceId, Endpoint, Event, Notification, NotificationKind, Rights, Serial,
    ServiceConfig, ServiceSecret, StoreId, Ticket, TicketKey, TicketSpec, UnixTime,
};
use mpp_tokio::{Client, Service};

pub const ALICE: &str = "alice@example.com";
pub const LOOPBACK: &str = "127.0.0.1:0";

/// Nothing may hang: a test that waits longer than this has failed.
pub async fn within<T>(seconds: u64, what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(Duration::from_secs(seconds), future).await {
        Ok(value) => value,
        Err(_) => panic!("{what}: not within {seconds} s"),
    }
}

/// Waits until it is so.
pub async fn until(seconds: u64, what: &str, mut so: impl FnMut() -> bool) {
    within(seconds, what, async {
        while !so() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

pub fn now() -> UnixTime {
    let passed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    UnixTime::from_millis(passed.as_millis() as u64)
}

pub fn key() -> TicketKey {
    TicketKey::new([1, 2, 3, 4], [5; 32])
}

pub fn config() -> ServiceConfig {
    ServiceConfig::new(ServiceSecret::new([6; 32]), vec![key()])
}

/// A service that knows Alice.
pub fn service_at(address: impl std::net::ToSocketAddrs) -> Service {
    let service = Service::bind(address, config()).unwrap();
    service.restore(AccountHead::new(AccountId::of(ALICE))).unwrap();
    service
}

pub fn service() -> (Service, SocketAddr) {
    let service = service_at(LOOPBACK);
    let address = service.local_addrs()[0];
    (service, address)
}

pub fn ticket_until(expiry: UnixTime, device: u8, endpoint: Endpoint) -> Ticket {
    ticket_of(ALICE, expiry, device, endpoint)
}

pub fn ticket_of(account: &str, expiry: UnixTime, device: u8, endpoint: Endpoint) -> Ticket {
    let spec = TicketSpec {
        endpoints: vec![endpoint],
        account: account.into(),
        device: DeviceId([device; 16]),
        rights: Rights::default(),
        issued: expiry - Duration::from_secs(3600),
        expiry,
    };
    // Two tickets must never share this; here they only have to differ by device and by call.
    static CALLS: std::sync::atomic::AtomicU8 = std::sync::atomic::AtomicU8::new(0);
    let mut fresh = [device; 32];
    fresh[0] = CALLS.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    key().mint(&spec, &fresh).unwrap()
}

pub fn ticket(device: u8, service: SocketAddr) -> Ticket {
    ticket_until(now() + Duration::from_secs(1800), device, Endpoint::Address(service))
}

/// A client that is connected.
pub async fn connect(device: u8, service: SocketAddr) -> Client {
    let client = Client::connect(ticket(device, service));
    within(10, "connecting", client.connected()).await.unwrap();
    client
}

pub async fn next(client: &Client) -> Notification {
    within(30, "a notification", client.next()).await.expect("the client is closed")
}

/// The next event, however long it takes: for networks that lose so much that the connection itself may break.
pub async fn next_event_ever(client: &Client) -> (Serial, Bytes) {
    match client.next().await.expect("the client is closed").kind {
        NotificationKind::Event { serial, payload, .. } => (serial, payload),
        other => panic!("an event expected, not {other:?}"),
    }
}

/// The next notification that is an event: its serial and payload.
pub async fn next_event(client: &Client) -> (Serial, Bytes) {
    match next(client).await.kind {
        NotificationKind::Event { serial, payload, .. } => (serial, payload),
        other => panic!("an event expected, not {other:?}"),
    }
}

pub fn message(payload: impl Into<Bytes>) -> Event {
    Event::with_payload(StoreId::INBOUND, payload.into())
}

pub fn numbered(n: u64) -> Event {
    message(n.to_be_bytes().to_vec())
}

pub fn number(payload: &[u8]) -> u64 {
    u64::from_be_bytes(payload.try_into().unwrap())
}
