//! async-std is discontinued (RUSTSEC-2025-0052): this crate is for programs that run on it today; new ones use `mpp-tokio`
//! or `mpp-smol`.
//!
//! Mesh Presence Protocol on [async-std](https://docs.rs/async-std): devices and services over UDP.
//!
//! A [`Client`] is a device: it stays connected to its service and is a stream of the notifications of its account. A
//! [`Service`] takes the devices of many accounts and tells them what is published.
//!
//! ```no_run
//! use mpp_async_std::{Client, proto::NotificationKind};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! async_std::task::block_on(async {
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

/// A device on async-std.
pub type Client = mpp_driver::Client<AsyncStd>;
/// The settings of a [`Client`].
pub type ClientBuilder = mpp_driver::ClientBuilder<AsyncStd>;
/// A service on async-std.
pub type Service = mpp_driver::Service<AsyncStd>;
/// A look at the network.
pub type Netcheck = mpp_driver::Netcheck<AsyncStd>;

/// The global executor of async-std. It is there without being started, so a [`Client`] and a [`Service`] can be made
/// anywhere.
#[derive(Debug, Clone, Copy, Default)]
pub struct AsyncStd;

impl Runtime for AsyncStd {
    fn spawn(&self, task: Task) {
        // Dropping the handle detaches the task.
        drop(async_std::task::spawn(task));
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
