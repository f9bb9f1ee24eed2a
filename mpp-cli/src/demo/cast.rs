//! Who plays in the demo: a service with fresh keys, and its devices.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use bytes::Bytes;
use mpp_tokio::proto::{
    Connected, Endpoint, Event, Notification, NotificationKind, Resume, Rights, Serial, ServiceConfig,
    TicketSpec,
};
use mpp_tokio::{Client, Service};

use crate::failure::{Failure, Outcome};
use crate::keyfile::{Keys, random};
use crate::text::now;
use crate::ticket::device_id;

/// The service and what mints its tickets.
pub(super) struct Cast {
    pub(super) service: Service,
    keys: Keys,
    address: SocketAddr,
}

/// A device.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) name: String,
    pub(super) client: Client,
}

/// A notification, and when it came.
#[derive(Debug)]
pub(super) struct Received {
    pub(super) notification: Notification,
    pub(super) at: Instant,
}

impl Cast {
    /// A service on a free port of the loopback interface. Nothing of it touches the disk.
    pub(super) async fn new() -> Outcome<Self> {
        let keys = Keys::generate()?;
        let any: SocketAddr = (Ipv4Addr::LOCALHOST, 0).into();
        let service = Service::bind(any, ServiceConfig::new(keys.secret(), keys.ticket_keys()))
            .map_err(|e| Failure::new(format_args!("demo: {e}")))?;
        let address = service.local_addrs().first().copied().unwrap_or(any);
        Ok(Self { service, keys, address })
    }

    /// Where the service listens.
    pub(super) const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Starts a device that finds the service at `endpoint`.
    pub(super) fn member(
        &self,
        account: &str,
        device: &str,
        endpoint: SocketAddr,
        resume: Option<Resume>,
    ) -> Outcome<Member> {
        let issued = now();
        let spec = TicketSpec {
            endpoints: vec![Endpoint::Address(endpoint)],
            account: account.to_owned(),
            device: device_id(device),
            rights: Rights::default(),
            issued,
            expiry: issued + Duration::from_secs(3600),
        };
        let keys = self.keys.ticket_keys();
        let key = keys.first().ok_or_else(|| Failure::new("demo: no ticket key"))?;
        let ticket = key
            .mint(&spec, &*random()?)
            .map_err(|e| Failure::new(format_args!("demo: cannot make a ticket: {e}")))?;
        let mut builder = Client::builder(ticket).manual_acknowledgement();
        if let Some(resume) = resume {
            builder = builder.resume(resume);
        }
        let person = account.split('@').next().unwrap_or(account);
        Ok(Member { name: format!("{person}'s {device}"), client: builder.connect() })
    }

    /// Posts an event.
    pub(super) fn publish(&self, account: &str, event: Event) -> Outcome<Serial> {
        self.service
            .publish(account, event)
            .map_err(|e| Failure::new(format_args!("demo: cannot post to {account}: {e}")))
    }
}

impl Member {
    /// Waits for the connection.
    pub(super) async fn connected(&self) -> Outcome<Connected> {
        self.client.connected().await.map_err(|e| Failure::new(format_args!("demo: {}: {e}", self.name)))
    }

    /// The next notification, acknowledged.
    pub(super) async fn receive(&self) -> Outcome<Received> {
        match self.client.next().await {
            Some(notification) => {
                self.client.acknowledge(notification.position);
                Ok(Received { notification, at: Instant::now() })
            }
            None => Err(Failure::new(format_args!("demo: {} was closed", self.name))),
        }
    }

    /// The next `n` notifications.
    pub(super) async fn receive_n(&self, n: usize) -> Outcome<Vec<Received>> {
        let mut all = Vec::with_capacity(n);
        while all.len() < n {
            all.push(self.receive().await?);
        }
        Ok(all)
    }
}

impl Received {
    /// Whether it is this event, whole.
    pub(super) fn is(&self, serial: Serial, payload: &Bytes) -> bool {
        matches!(&self.notification.kind, NotificationKind::Event { serial: s, payload: p, .. }
            if *s == serial && p == payload)
    }
}

/// `len` bytes that do not repeat, so that a fragment in the wrong place shows.
pub(super) fn noise(len: usize, seed: u64) -> Bytes {
    let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut byte = || {
        // xorshift64
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        x.to_le_bytes()[3]
    };
    (0..len).map(|_| byte()).collect()
}
