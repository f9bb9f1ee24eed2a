//! Mesh Presence Protocol: the driver that all runtime adapters share.
//!
//! `mpp-proto` holds the protocol as pure state machines. This crate moves their packets: it opens the UDP sockets,
//! receives and sends in batches, keeps the timers, looks names up, and puts two handles in front of it all, a
//! [`Client`] for a device and a [`Service`]. It knows no asynchronous runtime; an adapter crate implements
//! [`Runtime`] for one and names the two handles for it. Programs use the adapter:
//!
//! ```toml
//! [dependencies]
//! mpp-tokio = "0.1"
//! ```
//!
//! # Writing an adapter
//!
//! Implement [`Runtime`], [`Timer`] and [`AsyncSocket`], and name the handles:
//!
//! ```no_run
//! use std::io;
//! use std::net::UdpSocket;
//! use std::pin::Pin;
//! use std::time::Instant;
//! use mpp_driver::{AsyncSocket, Runtime, Task, Timer};
//!
//! /// An imaginary runtime.
//! #[derive(Clone, Copy, Debug, Default)]
//! pub struct MyRuntime;
//!
//! impl Runtime for MyRuntime {
//!     fn spawn(&self, task: Task) {
//!         // Run the task in the background.
//! #       drop(task);
//!     }
//!     fn timer(&self, at: Instant) -> Pin<Box<dyn Timer>> {
//!         // A timer that fires at that instant.
//! #       let _ = at; unreachable!()
//!     }
//!     fn wrap(&self, socket: UdpSocket) -> io::Result<Box<dyn AsyncSocket>> {
//!         // Register the socket with the reactor.
//! #       let _ = socket; unreachable!()
//!     }
//! }
//!
//! pub type Client = mpp_driver::Client<MyRuntime>;
//! pub type Service = mpp_driver::Service<MyRuntime>;
//! ```
//!
//! The parameter only finds the runtime when a handle is made; the handles keep it as `Arc<dyn Runtime>`.

#[cfg(feature = "async-io")]
pub mod async_io;
mod client;
mod clock;
#[cfg(feature = "conformance")]
#[doc(hidden)]
pub mod conformance;
mod drive;
mod error;
mod netcheck;
mod resolve;
mod runtime;
mod seed;
mod service;
mod socket;
mod stats;
#[cfg(any(target_os = "linux", target_os = "android"))]
pub mod timerfd;
mod wake;
#[cfg(feature = "web")]
mod web;

pub use client::{Client, ClientBuilder, ClientEvent, ClientEvents};
#[cfg(feature = "web-tls")]
pub use error::RootError;
pub use error::{Advice, BindError, CallError, ConnectError};
pub use netcheck::Netcheck;
pub use runtime::{AnyRuntime, AsyncSocket, Interest, Runtime, Task, Timer};
#[cfg(feature = "web")]
pub use service::Web;
pub use service::{Service, ServiceEvents, ToAccount};
pub use socket2::SockRef;
pub use stats::{ClientStats, ServiceStats, SocketStats};
#[cfg(feature = "web")]
pub use web::{WebBody, WebReply};

/// What an adapter exports beside its own `Client`, `ClientBuilder` and `Service`: the same names in each of them.
pub mod face {
    #[cfg(feature = "web-tls")]
    pub use crate::RootError;
    pub use crate::{
        Advice, BindError, CallError, ClientEvent, ClientEvents, ClientStats, ConnectError, Interest,
        ServiceEvents, ServiceStats, SocketStats, Task, ToAccount,
    };
    #[cfg(feature = "web")]
    pub use crate::{Web, WebBody, WebReply};
    /// The protocol's own types: tickets, events, notifications, settings, errors.
    pub use mpp_proto as proto;
}
