//! What the scenarios share: keys, tickets, deadlines.

use std::future::poll_fn;
use std::marker::PhantomData;
use std::net::{SocketAddr, ToSocketAddrs};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::task::Poll;
use std::time::Duration;

use mpp_proto::{
    AccountHead, AccountId, DeviceId, Endpoint, Event, Notification, NotificationKind, Rights, Serial,
    ServiceConfig, ServiceSecret, StoreId, Ticket, TicketKey, TicketSpec, UnixTime,
};

use super::Kit;
use crate::{Client, Service};

pub const ALICE: &str = "alice@example.com";
pub const LOOPBACK: &str = "127.0.0.1:0";

/// The runtime under test and what scenarios do with it.
pub struct World<K>(PhantomData<K>);

impl<K: Kit> World<K> {
    pub(super) const fn new() -> Self {
        Self(PhantomData)
    }

    pub async fn sleep(&self, time: Duration) {
        let runtime = K::default();
        let mut timer = runtime.timer(runtime.now() + time);
        poll_fn(|cx| timer.as_mut().poll(cx)).await;
    }

    /// Lets others run.
    pub async fn yield_now(&self) {
        let mut yielded = false;
        poll_fn(|cx| {
            if std::mem::replace(&mut yielded, true) {
                return Poll::Ready(());
            }
            cx.waker().wake_by_ref();
            Poll::Pending
        })
        .await;
    }

    /// The value, if it comes in time.
    pub async fn timeout<T>(&self, time: Duration, future: impl Future<Output = T>) -> Option<T> {
        let (mut future, mut sleep) = (pin!(future), pin!(self.sleep(time)));
        poll_fn(|cx| match future.as_mut().poll(cx) {
            Poll::Ready(value) => Poll::Ready(Some(value)),
            Poll::Pending => sleep.as_mut().poll(cx).map(|()| None),
        })
        .await
    }

    /// Nothing may hang: a test that waits longer than this has failed.
    pub async fn within<T>(&self, seconds: u64, what: &str, future: impl Future<Output = T>) -> T {
        match self.timeout(Duration::from_secs(seconds), future).await {
            Some(value) => value,
            None => panic!("{what}: not within {seconds} s"),
        }
    }

    /// Waits until it is so.
    pub async fn until(&self, seconds: u64, what: &str, mut so: impl FnMut() -> bool) {
        self.within(seconds, what, async {
            while !so() {
                self.sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
    }

    /// A service that knows Alice.
    pub fn service_at(&self, address: impl ToSocketAddrs) -> Service<K> {
        let service = Service::bind(address, config()).unwrap();
        service.restore(AccountHead::new(AccountId::of(ALICE))).unwrap();
        service
    }

    pub fn service(&self) -> (Service<K>, SocketAddr) {
        let service = self.service_at(LOOPBACK);
        let address = service.local_addrs()[0];
        (service, address)
    }

    /// A client that is connected.
    pub async fn connect(&self, device: u32, service: SocketAddr) -> Client<K> {
        let client = Client::connect(ticket(device, service));
        self.within(20, "connecting", client.connected()).await.unwrap();
        client
    }

    pub async fn next<R>(&self, client: &Client<R>) -> Notification {
        self.within(60, "a notification", client.next()).await.expect("the client is closed")
    }

    /// The next notification that is an event: its serial and payload.
    pub async fn next_event<R>(&self, client: &Client<R>) -> (Serial, bytes::Bytes) {
        event(self.next(client).await)
    }
}

pub fn event(notification: Notification) -> (Serial, bytes::Bytes) {
    match notification.kind {
        NotificationKind::Event { serial, payload, .. } => (serial, payload),
        other => panic!("an event expected, not {other:?}"),
    }
}

/// Runs all of them at once, in one task.
pub async fn all<'a>(mut futures: Vec<Pin<Box<dyn Future<Output = ()> + 'a>>>) {
    poll_fn(|cx| {
        futures.retain_mut(|future| future.as_mut().poll(cx).is_pending());
        if futures.is_empty() { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}

pub fn now() -> UnixTime {
    crate::clock::civil()
}

pub fn key() -> TicketKey {
    TicketKey::new([1, 2, 3, 4], [5; 32])
}

pub fn config() -> ServiceConfig {
    ServiceConfig::new(ServiceSecret::new([6; 32]), vec![key()])
}

pub fn ticket(device: u32, service: SocketAddr) -> Ticket {
    ticket_of(ALICE, device, service)
}

pub fn ticket_of(account: &str, device: u32, service: SocketAddr) -> Ticket {
    ticket_until(account, now() + Duration::from_secs(1800), device, Endpoint::Address(service))
}

pub fn ticket_until(account: &str, expiry: UnixTime, device: u32, endpoint: Endpoint) -> Ticket {
    ticket_by(&key(), account, expiry, device, endpoint)
}

pub fn ticket_by(
    key: &TicketKey,
    account: &str,
    expiry: UnixTime,
    device: u32,
    endpoint: Endpoint,
) -> Ticket {
    mint(key, &spec(account, expiry, device, endpoint))
}

/// With these rights instead of the usual ones.
pub fn ticket_with(account: &str, rights: Rights, service: SocketAddr) -> Ticket {
    let expiry = now() + Duration::from_secs(1800);
    mint(&key(), &TicketSpec { rights, ..spec(account, expiry, 1, Endpoint::Address(service)) })
}

fn spec(account: &str, expiry: UnixTime, device: u32, endpoint: Endpoint) -> TicketSpec {
    TicketSpec {
        endpoints: vec![endpoint],
        account: account.into(),
        device: device_id(device),
        rights: Rights::default(),
        issued: expiry - Duration::from_secs(3600),
        expiry,
    }
}

fn mint(key: &TicketKey, spec: &TicketSpec) -> Ticket {
    // Two tickets must never share this; here they only have to differ by device and by call.
    static CALLS: AtomicU32 = AtomicU32::new(0);
    let mut fresh = [7; 32];
    fresh[..4].copy_from_slice(&CALLS.fetch_add(1, Relaxed).to_be_bytes());
    fresh[4..8].copy_from_slice(&spec.device.0[..4]);
    key.mint(spec, &fresh).unwrap()
}

pub fn device_id(device: u32) -> DeviceId {
    let mut id = [0; 16];
    id[..4].copy_from_slice(&device.to_be_bytes());
    DeviceId(id)
}

pub fn message(payload: impl Into<bytes::Bytes>) -> Event {
    Event::with_payload(StoreId::INBOUND, payload.into())
}

pub fn numbered(n: u64) -> Event {
    message(n.to_be_bytes().to_vec())
}

pub fn number(payload: &[u8]) -> u64 {
    u64::from_be_bytes(payload.try_into().unwrap())
}
