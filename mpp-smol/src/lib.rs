//! Mesh Presence Protocol on [smol](https://docs.rs/smol): devices and services over UDP.
//!
//! A [`Client`] is a device: it stays connected to its service and is a stream of the notifications of its account. A
//! [`Service`] takes the devices of many accounts and tells them what is published.
//!
//! ```no_run
//! use mpp_smol::{Client, proto::NotificationKind};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! smol::block_on(async {
//!     let ticket = std::env::args().nth(1).ok_or("usage: watch TICKET")?.parse()?;
//!     let client = Client::connect(ticket);
//!     println!("recovered: {}", client.connected().await?.recovered);
//!     while let Some(notification) = client.next().await {
//!         if let NotificationKind::Event { store, payload, .. } = notification.kind {
//!             println!("{store}: {} bytes", payload.len());
//!         }
//!     }
//!     Ok(())
//! })
//! # }
//! ```
//!
//! The public names are those of `mpp-tokio`, whose first page also shows the side of the service.

use std::io;
use std::net::{TcpStream, UdpSocket};
use std::pin::Pin;
use std::time::Instant;

use mpp_driver::{AsyncSocket, Runtime, Timer, async_io};

pub use mpp_driver::face::*;

/// A device on smol.
pub type Client = mpp_driver::Client<Smol>;
/// The settings of a [`Client`].
pub type ClientBuilder = mpp_driver::ClientBuilder<Smol>;
/// A service on smol.
pub type Service = mpp_driver::Service<Smol>;
/// A look at the network.
pub type Netcheck = mpp_driver::Netcheck<Smol>;

/// The global executor of smol. It is there without being started, so a [`Client`] and a [`Service`] can be made
/// anywhere.
#[derive(Debug, Clone, Copy, Default)]
pub struct Smol;

impl Runtime for Smol {
    fn spawn(&self, task: Task) {
        smol::spawn(task).detach();
    }

    fn timer(&self, at: Instant) -> Pin<Box<dyn Timer>> {
        async_io::timer(at)
    }

    fn wrap(&self, socket: UdpSocket) -> io::Result<Box<dyn AsyncSocket>> {
        async_io::wrap(socket)
    }

    fn wrap_tcp(&self, stream: TcpStream) -> io::Result<Box<dyn AsyncSocket>> {
        async_io::wrap_tcp(stream)
    }
}
