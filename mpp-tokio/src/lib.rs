//! Mesh Presence Protocol on [tokio](https://docs.rs/tokio): devices and services over UDP.
//!
//! A [`Client`] is a device: it stays connected to its service and is a stream of the notifications of its account. A
//! [`Service`] takes the devices of many accounts and tells them what is published.
//!
//! ```no_run
//! use mpp_tokio::{Client, proto::NotificationKind};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let ticket = std::env::args().nth(1).ok_or("usage: watch TICKET")?.parse()?;
//! let client = Client::connect(ticket);
//! println!("recovered: {}", client.connected().await?.recovered);
//! while let Some(notification) = client.next().await {
//!     match notification.kind {
//!         NotificationKind::Event { store, payload, .. } => println!("{store}: {} bytes", payload.len()),
//!         NotificationKind::Changed(stores) => println!("changed: {stores}"),
//!         NotificationKind::Gap(stores) => println!("read again: {stores}"),
//!         _ => {}
//!     }
//! }
//! # Ok(())
//! # }
//! ```
//!
//! And the other side:
//!
//! ```no_run
//! use std::time::{Duration, SystemTime, UNIX_EPOCH};
//! use mpp_tokio::Service;
//! use mpp_tokio::proto::{
//!     AccountHead, AccountId, DeviceId, Endpoint, Event, Rights, ServiceConfig, ServiceSecret, StoreId, TicketKey,
//!     TicketSpec, UnixTime,
//! };
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let random = || [0; 32];
//! // Keep both over restarts. `random` stands for 32 bytes from the operating system.
//! let key = TicketKey::new([0, 0, 0, 1], random());
//! let secret = ServiceSecret::new(random());
//! let service = Service::bind("0.0.0.0:15096", ServiceConfig::new(secret, vec![key.clone()]))?;
//!
//! let account = "alice@example.com".to_owned();
//! service.restore(AccountHead::new(AccountId::of(&account)))?;
//! let issued = UnixTime::from_millis(SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis() as u64);
//! let ticket = key.mint(
//!     &TicketSpec {
//!         endpoints: vec![Endpoint::Name { host: "presence.example.com".into(), port: 15096 }],
//!         account: account.clone(),
//!         device: DeviceId([1; 16]),
//!         rights: Rights::default(),
//!         issued,
//!         expiry: issued + Duration::from_secs(90 * 24 * 3600),
//!     },
//!     &random(),
//! )?;
//! println!("give this to the device, and to nobody else: {}", *ticket.to_text());
//! service.publish(&account, Event::changed(StoreId::CONTACT))?;
//! # Ok(())
//! # }
//! ```
//!
//! A service that is to use several processors has several shards ([`proto::ServiceConfig::shards`]) on a runtime with
//! several threads. A client that is to wake its thread for nothing but its own packets and deadlines is run by the program
//! itself: [`ClientBuilder::build`].

use std::io;
use std::net::{TcpStream, UdpSocket};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use mpp_driver::{AsyncSocket, Runtime, SockRef, Timer};

pub use mpp_driver::face::*;

/// A device on tokio.
pub type Client = mpp_driver::Client<Tokio>;
/// The settings of a [`Client`].
pub type ClientBuilder = mpp_driver::ClientBuilder<Tokio>;
/// A service on tokio.
pub type Service = mpp_driver::Service<Tokio>;
/// A look at the network.
pub type Netcheck = mpp_driver::Netcheck<Tokio>;

/// The tokio runtime on which a [`Client`] or a [`Service`] was made. It needs its I/O driver and its timer
/// (`enable_all`).
#[derive(Debug, Clone)]
pub struct Tokio(tokio::runtime::Handle);

impl Default for Tokio {
    /// The runtime that the caller runs on.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    fn default() -> Self {
        Self(tokio::runtime::Handle::current())
    }
}

impl Runtime for Tokio {
    fn spawn(&self, task: Task) {
        self.0.spawn(task);
    }

    fn timer(&self, at: Instant) -> Pin<Box<dyn Timer>> {
        let _inside = self.0.enter();
        #[cfg(any(target_os = "linux", target_os = "android"))]
        if let Ok(timer) = kernel_timer(at) {
            return timer;
        }
        Box::pin(Sleep(Box::pin(tokio::time::sleep_until(at.into()))))
    }

    fn wrap(&self, socket: UdpSocket) -> io::Result<Box<dyn AsyncSocket>> {
        let _inside = self.0.enter();
        Ok(Box::new(Socket(tokio::net::UdpSocket::from_std(socket)?)))
    }

    fn wrap_tcp(&self, stream: TcpStream) -> io::Result<Box<dyn AsyncSocket>> {
        let _inside = self.0.enter();
        Ok(Box::new(Stream(tokio::net::TcpStream::from_std(stream)?)))
    }

    fn now(&self) -> Instant {
        let _inside = self.0.enter();
        tokio::time::Instant::now().into_std()
    }
}

/// The kernel's timer, which wakes once for each deadline and goes on while the machine sleeps; tokio's do neither.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn kernel_timer(at: Instant) -> io::Result<Pin<Box<dyn Timer>>> {
    use tokio::io::{Interest, unix::AsyncFd};
    #[allow(deprecated, reason = "its successor is unsafe; a TimerFd owns its descriptor and keeps it")]
    let watch = |timer| AsyncFd::with_interest(timer, Interest::READABLE);
    mpp_driver::timerfd::timer(at, watch, AsyncFd::get_ref, |timer, cx| {
        loop {
            // An error of the reactor is its end: nothing fires any more.
            let Ok(mut ready) = ready!(timer.poll_read_ready(cx)) else { return Poll::Pending };
            if ready.get_inner().fired() {
                return Poll::Ready(());
            }
            ready.clear_ready();
        }
    })
}

#[derive(Debug)]
struct Sleep(Pin<Box<tokio::time::Sleep>>);

impl Timer for Sleep {
    fn reset(mut self: Pin<&mut Self>, at: Instant) {
        self.0.as_mut().reset(at.into());
    }

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.0.as_mut().poll(cx)
    }
}

#[derive(Debug)]
struct Socket(tokio::net::UdpSocket);

impl AsyncSocket for Socket {
    fn poll_ready(&self, interest: Interest, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match interest {
            Interest::Read => self.0.poll_recv_ready(cx),
            Interest::Write => self.0.poll_send_ready(cx),
        }
    }

    fn try_io(
        &self,
        interest: Interest,
        io: &mut dyn FnMut(SockRef<'_>) -> io::Result<()>,
    ) -> io::Result<()> {
        self.0.try_io(tokio_interest(interest), || io(SockRef::from(&self.0)))
    }
}

#[derive(Debug)]
struct Stream(tokio::net::TcpStream);

impl AsyncSocket for Stream {
    fn poll_ready(&self, interest: Interest, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match interest {
            Interest::Read => self.0.poll_read_ready(cx),
            Interest::Write => self.0.poll_write_ready(cx),
        }
    }

    fn try_io(
        &self,
        interest: Interest,
        io: &mut dyn FnMut(SockRef<'_>) -> io::Result<()>,
    ) -> io::Result<()> {
        self.0.try_io(tokio_interest(interest), || io(SockRef::from(&self.0)))
    }
}

const fn tokio_interest(interest: Interest) -> tokio::io::Interest {
    match interest {
        Interest::Read => tokio::io::Interest::READABLE,
        Interest::Write => tokio::io::Interest::WRITABLE,
    }
}

/// Compiles what the README shows.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;
