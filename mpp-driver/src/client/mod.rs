//! The handle on a device.

mod builder;
mod driver;
mod events;
mod state;
#[cfg_attr(not(feature = "web"), path = "no_web.rs")]
mod web;

use std::fmt;
use std::future::poll_fn;
use std::marker::PhantomData;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_core::Stream;
use mpp_proto::{
    CommandError, Connected, ConnectionReport, ConnectionState, Device, Event, Instant, KeepaliveReport,
    NetworkId, Notification, RequestError, RequestId, Resume, Serial, StoreSet, Ticket, Transport,
};

pub use builder::ClientBuilder;
pub use events::{ClientEvent, ClientEvents};
pub(crate) use state::Shared;
pub(crate) use web::Settings;

use state::Answer;

use crate::error::{CallError, ConnectError};
use crate::netcheck::Netcheck;
use crate::runtime::{AnyRuntime, Runtime};
use crate::stats::ClientStats;

/// How long a closed client goes on telling the service that it has closed.
const CLOSING: Duration = Duration::from_secs(1);

/// A device: connected to its service for as long as this handle lives, and a stream of the notifications of its
/// account.
///
/// It connects in the background, and again whenever the connection is lost, for ever. Only two things end it:
/// [`Client::close`] (or dropping it), and another connection of the same device that takes its place.
///
/// Notifications are taken with [`Client::next`] or as a [`Stream`]. What is not taken waits in a queue of bounded size,
/// and above that at the service: a client that is not polled loses nothing and grows nothing.
///
/// # What a crash costs
///
/// A client has a *position*: everything up to it has been dealt with. It survives the process in two places, at the
/// service (while that lives) and in the [`Resume`] that [`ClientBuilder::on_resume`] hands to the program; the program's
/// is the one that counts, and without it the next client begins at the newest event and hears of a gap.
///
/// - **Automatic** (the default): asking for the next notification moves the position past the one before. If the process
///   dies, the notification that was being dealt with comes again with the next client, and nothing is missing: at least
///   once, and at most one twice, if `on_resume` has saved every position. What has been taken but not followed by another
///   call to [`Client::next`] counts as not dealt with, also in an orderly [`Client::close`]: acknowledge the last one.
/// - **Manual** ([`ClientBuilder::manual_acknowledgement`]): only [`Client::acknowledge`] moves the position, past all
///   notifications up to the one it names. Everything taken after it comes again. Use it when notifications are dealt with
///   by other tasks, or several at a time, or together with a transaction: save the effects and the position at once, and
///   each notification takes effect exactly once.
///
/// Within one process every notification is given exactly once, also over new connections. What the service itself has
/// lost (a full ring, a new epoch) is announced as a gap, never skipped silently.
///
/// Every method takes `&self`, so that a client can be shared by reference or in an [`Arc`]; if several tasks take
/// notifications, each goes to one of them. All futures may be dropped at any time: no notification is lost with them.
/// A request whose future was dropped before its answer has been sent nevertheless.
pub struct Client<R = AnyRuntime> {
    shared: Arc<Shared>,
    runtime: PhantomData<fn() -> R>,
}

impl<R: Runtime + Default> Client<R> {
    /// Starts to connect with this ticket, in the background.
    ///
    /// # Panics
    /// Outside of the runtime, and if the system has no random bytes to give.
    pub fn connect(ticket: Ticket) -> Self {
        Self::builder(ticket).connect()
    }

    /// Settings first: [`ClientBuilder::connect`] then starts.
    ///
    /// # Panics
    /// Outside of the runtime.
    pub fn builder(ticket: Ticket) -> ClientBuilder<R> {
        ClientBuilder::new(Arc::new(R::default()), ticket)
    }
}

impl Client<AnyRuntime> {
    /// Settings first, on a runtime that is given as a value.
    pub fn builder_on(runtime: Arc<dyn Runtime>, ticket: Ticket) -> ClientBuilder<AnyRuntime> {
        ClientBuilder::new(runtime, ticket)
    }
}

impl<R> Client<R> {
    const fn new(shared: Arc<Shared>) -> Self {
        Self { shared, runtime: PhantomData }
    }

    /// Waits until the client is connected; at once if it is. Returns the facts of that connection.
    ///
    /// # Errors
    /// [`ConnectError::RenewTicket`] if the service does not take the ticket: the client goes on trying (rarely), and
    /// [`Client::renew`] makes it try a new one. [`ConnectError::Aborted`] if the client is closed.
    pub async fn connected(&self) -> Result<Connected, ConnectError> {
        poll_fn(|cx| self.shared.state.with(|s, _| s.poll_connected(cx))).await
    }

    /// The next notification; `None` once the client is closed and everything has been taken.
    ///
    /// In automatic mode this call also says that the notification returned before has been dealt with.
    pub async fn next(&self) -> Option<Notification> {
        poll_fn(|cx| self.shared.poll_next(cx)).await
    }

    /// Everything up to `position` ([`Notification::position`]) has been dealt with: it will not come again. For
    /// manual mode, and in automatic mode for the last one before [`Client::close`].
    pub fn acknowledge(&self, position: Serial) {
        self.command(|device, now| device.acknowledge(now, position));
    }

    /// Replaces the filter: only events of these stores come. Waits until the filter is in force, and returns the
    /// newest serial of the channel at that moment. The filter is kept over connections.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn subscribe(&self, filter: StoreSet) -> Result<Serial, CallError> {
        match self.request(|device, now| device.subscribe(now, filter)).await? {
            Answer::Subscribed(newest) => Ok(newest),
            _ => Err(RequestError::Closed.into()),
        }
    }

    /// Posts an event to the own channel and waits for the service's answer: its serial there.
    ///
    /// # Errors
    /// [`CallError::Command`] at once, and nothing is sent, if the event breaks a limit or does not fit the one packet
    /// that a device may send; the error names the limit. [`CallError::Request`] if the service refuses it or does
    /// not answer.
    pub async fn post(&self, event: &Event) -> Result<Option<Serial>, CallError> {
        match self.request(|device, now| device.post(now, event)).await? {
            Answer::Posted(serial) => Ok(serial),
            _ => Err(RequestError::Closed.into()),
        }
    }

    /// Posts an event to the channel of another account and waits until the service has taken it. It takes a ticket with
    /// the right to, and the consent of the service's host.
    ///
    /// # Errors
    /// As [`Client::post`]. Code 403 also says that there is no such account.
    pub async fn post_to(&self, account: &str, event: &Event) -> Result<(), CallError> {
        match self.request(|device, now| device.post_to(now, account, event)).await? {
            Answer::Posted(_) => Ok(()),
            _ => Err(RequestError::Closed.into()),
        }
    }

    /// Asks from which address the service sees this device now. [`Client::observed_endpoint`] costs no packet and
    /// tells what was last heard.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn query_endpoint(&self) -> Result<SocketAddr, CallError> {
        match self.request(Device::query_endpoint).await? {
            Answer::Endpoint(endpoint) => Ok(endpoint),
            _ => Err(RequestError::Closed.into()),
        }
    }

    /// The same, from a socket that is opened for it, to another address of the service: one of the other family, say. It
    /// never moves the connection.
    ///
    /// # Errors
    /// See [`CallError`]; [`RequestError::NoSocket`] if this machine has none of that family, and
    /// [`RequestError::TimedOut`] 5 s later if nothing comes back from there.
    pub async fn query_endpoint_at(&self, service: SocketAddr) -> Result<SocketAddr, CallError> {
        match self.request(|device, now| device.query_endpoint_at(now, service)).await? {
            Answer::Endpoint(endpoint) => Ok(endpoint),
            _ => Err(RequestError::Closed.into()),
        }
    }

    /// What is known of the connection; none: there is none at present.
    pub fn connection_report(&self) -> Option<ConnectionReport> {
        self.shared.state.with(|s, _| s.device.connection_report())
    }

    /// Looks at the network that this client is on: see [`Netcheck`]. The client goes on meanwhile, and the reports hold
    /// what it knows of its connection: how long the network remembers a silent socket, as far as that has been measured
    /// ([`Client::measure_mapping`]).
    ///
    /// # Panics
    /// If the system has no random bytes to give.
    pub fn netcheck(&self) -> Netcheck<R> {
        Netcheck::beside(self.shared.clone())
    }

    /// The state of the connection.
    pub fn state(&self) -> ConnectionState {
        self.shared.state.with(|s, _| s.device.state())
    }

    /// What the connection goes by: UDP, or the Web Service where UDP does not pass.
    pub fn transport(&self) -> Transport {
        self.shared.state.with(|s, _| s.device.transport())
    }

    /// The address from which the service sees this device, once it has said so.
    pub fn observed_endpoint(&self) -> Option<SocketAddr> {
        self.shared.state.with(|s, _| s.device.observed_endpoint())
    }

    /// How often this client speaks, why, and what is known of how long the network remembers a silent socket.
    pub fn keepalive(&self) -> KeepaliveReport {
        self.shared.state.with(|s, _| s.device.keepalive())
    }

    /// Finds out now how long the network remembers a silent socket, step by step up to 240 s. That takes up to eight
    /// minutes, most of them in silence on a socket of its own; [`ClientEvent::Mapping`] says how far it is, and
    /// [`Client::keepalive`] what is known. A measurement that runs already goes on.
    ///
    /// # Errors
    /// [`CommandError::Closed`].
    pub fn measure_mapping(&self) -> Result<(), CommandError> {
        self.command(Device::measure_mapping)
    }

    /// Says that the machine is on another network now: new sockets are opened, and the service is contacted at once.
    /// `network` names it, if the program can tell networks apart: see [`NetworkId`]. What is learned of a network is
    /// remembered under its name.
    pub fn network_changed(&self, network: Option<NetworkId>) {
        self.command(|device, now| device.handle_network_change(now, network));
    }

    /// What the next client of this device needs ([`ClientBuilder::resume`]) to go on where this one is now.
    pub fn resume(&self) -> Resume {
        self.shared.state.with(|s, _| s.device.resume())
    }

    /// The counters.
    pub fn stats(&self) -> ClientStats {
        let device = self.shared.state.with(|s, _| s.device.stats());
        ClientStats { device, socket: self.shared.counters.read() }
    }

    /// What happens to the connection, for programs that show it. Every stream hears every event, beginning with the
    /// oldest of the last 64; one that falls further behind than 64 misses the oldest.
    pub fn events(&self) -> ClientEvents {
        ClientEvents::new(self.shared.clone())
    }

    /// Uses this ticket from now on, and tries it at once if not connected.
    pub fn renew(&self, ticket: Ticket) {
        self.shared.state.with(|s, wakes| {
            s.refused = None;
            s.device.renew(self.shared.clock.now(), ticket);
            wakes.driver();
        });
    }

    /// Tells the service that this device goes, and waits until that is done, 1 s at most. What was taken as a
    /// notification and not acknowledged comes again with the next connection, also in automatic mode.
    pub async fn close(&self) {
        self.shared.close();
        poll_fn(|cx| self.shared.state.with(|s, _| s.poll_ended(cx))).await;
    }

    fn command<T>(&self, f: impl FnOnce(&mut Device, Instant) -> T) -> T {
        self.shared.state.with(|s, wakes| {
            wakes.driver();
            f(&mut s.device, self.shared.clock.now())
        })
    }

    async fn request(
        &self,
        f: impl FnOnce(&mut Device, Instant) -> Result<RequestId, CommandError>,
    ) -> Result<Answer, CallError> {
        let id = self.shared.state.with(|s, wakes| {
            if s.ended {
                return Err(CommandError::Closed);
            }
            let id = f(&mut s.device, self.shared.clock.now())?;
            s.await_answer(id);
            wakes.driver();
            Ok(id)
        })?;
        let forget = Forget { shared: &self.shared, id };
        let answer = poll_fn(|cx| forget.shared.state.with(|s, _| s.poll_answer(id, cx))).await;
        Ok(answer?)
    }
}

/// Takes a request off the list when its future is dropped.
struct Forget<'a> {
    shared: &'a Shared,
    id: RequestId,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.shared.state.with(|s, _| s.forget(self.id));
    }
}

impl<R> Drop for Client<R> {
    /// Closes in the background.
    fn drop(&mut self) {
        self.shared.close();
    }
}

impl<R> Stream for Client<R> {
    type Item = Notification;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Notification>> {
        self.shared.poll_next(cx)
    }
}

impl<R> Stream for &Client<R> {
    type Item = Notification;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Notification>> {
        self.shared.poll_next(cx)
    }
}

impl<R> fmt::Debug for Client<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("state", &self.state()).finish_non_exhaustive()
    }
}
