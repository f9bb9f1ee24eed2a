//! The settings of a client.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use mpp_proto::{Acknowledgement, Device, DeviceConfig, NetworkId, Resume, StoreSet, Ticket};

use super::Client;
use super::driver::Driver;
use super::state::{Shared, State};
use super::web::Settings;
use crate::clock::{Clock, civil};
use crate::drive::Driven;
#[cfg(feature = "web-tls")]
use crate::error::RootError;
use crate::runtime::{AnyRuntime, Runtime, Task};
use crate::seed::seed;

/// What is called with every new [`Resume`].
pub(super) type OnResume = Box<dyn FnMut(&Resume) + Send>;

/// The settings of a [`Client`]; [`ClientBuilder::connect`] starts it.
#[must_use]
pub struct ClientBuilder<R = AnyRuntime> {
    runtime: Arc<dyn Runtime>,
    ticket: Ticket,
    config: DeviceConfig,
    resume: Option<Resume>,
    on_resume: Option<OnResume>,
    web: Settings,
    kind: PhantomData<fn() -> R>,
}

impl<R> ClientBuilder<R> {
    pub(super) fn new(runtime: Arc<dyn Runtime>, ticket: Ticket) -> Self {
        Self {
            runtime,
            ticket,
            config: DeviceConfig::default(),
            resume: None,
            on_resume: None,
            web: Settings::default(),
            kind: PhantomData,
        }
    }

    /// All settings of the device at once. It replaces what [`ClientBuilder::filter`],
    /// [`ClientBuilder::manual_acknowledgement`], [`ClientBuilder::interval`] and the like have set before.
    pub fn config(mut self, config: DeviceConfig) -> Self {
        self.config = config;
        self
    }

    /// The stores to hear of. Default: all.
    pub fn filter(mut self, filter: StoreSet) -> Self {
        self.config.filter = filter;
        self
    }

    /// Only [`Client::acknowledge`] says that notifications have been dealt with. Default: taking the next one does.
    pub fn manual_acknowledgement(mut self) -> Self {
        self.config.acknowledgement = Acknowledgement::Manual;
        self
    }

    /// The time between heartbeats until something better is known of the network, and after a miss: 5 s to 300 s.
    /// Default: 25 s.
    pub fn interval(mut self, interval: Duration) -> Self {
        self.config.interval = interval;
        self
    }

    /// Always the same [interval](Self::interval): nothing is learned of networks. Default: the client finds out, on a
    /// second socket, how rarely each network lets it speak ([`DeviceConfig::learn_interval`]).
    pub fn fixed_interval(mut self) -> Self {
        self.config.learn_interval = false;
        self
    }

    /// The network that the machine is on at the start; [`Client::network_changed`] names later ones. Default: none, it
    /// is not known.
    pub fn network(mut self, network: NetworkId) -> Self {
        self.config.network = Some(network);
        self
    }

    /// Goes on where an earlier client of this device was ([`Client::resume`]).
    pub fn resume(mut self, resume: Resume) -> Self {
        self.resume = Some(resume);
        self
    }

    /// Calls `save` with what [`Client::resume`] returns: once at the start, and whenever it has changed, so that it
    /// can be kept. It is called on the client's task: it should be quick, and it must not panic.
    ///
    /// Once the service has renewed the ticket, it holds the new one: keep it where only its owner can read it.
    ///
    /// If the process dies before `save` has returned, the next client resumes from the older position, and what lies
    /// between the two comes again. Nothing is missed silently.
    pub fn on_resume(mut self, save: impl FnMut(&Resume) + Send + 'static) -> Self {
        self.on_resume = Some(Box::new(save));
        self
    }

    /// Never uses the Web Service, also where UDP does not pass. Default: it does if the feature `web` is there.
    #[cfg(feature = "web")]
    pub fn without_web(mut self) -> Self {
        self.web.off = true;
        self
    }

    /// Trusts these certificates too, beside those that the system trusts, when it asks a Web Service over TLS
    /// (`https`): text in the PEM form with one or more, or one in the DER form. They are issuers; a certificate that
    /// vouches for itself must not say that it is an issuer (`CA:FALSE`).
    ///
    /// # Errors
    /// [`RootError`] if it holds no certificate, or something else.
    #[cfg(feature = "web-tls")]
    pub fn web_roots(mut self, certificates: &[u8]) -> Result<Self, RootError> {
        self.web.add_roots(certificates)?;
        Ok(self)
    }

    /// Starts to connect, in the background.
    ///
    /// # Panics
    /// Outside of the runtime, and if the system has no random bytes to give.
    pub fn connect(self) -> Client<R> {
        let runtime = self.runtime.clone();
        let (client, task) = self.build();
        runtime.spawn(task);
        client
    }

    /// The client, and the task that does its work, for a program that wants to run it itself: together with its own
    /// work on one thread, say, which then wakes for the client's deadlines and packets and for nothing else. The task ends
    /// when the client is closed; while it is not polled, nothing happens, and if it is dropped, the client is closed
    /// without a word to the service.
    ///
    /// ```no_run
    /// # use mpp_driver::{Client, Runtime, Task};
    /// # fn block_on<T>(_: impl Future<Output = T>) {}
    /// # async fn zip<A, B>(a: impl Future<Output = A>, b: impl Future<Output = B>) -> (A, B) { (a.await, b.await) }
    /// # fn example<R: Runtime + Default>(ticket: mpp_proto::Ticket) {
    /// // With the `block_on` of the runtime, and `zip` of futures-lite, or tokio's `join!`.
    /// block_on(async {
    ///     let (client, task) = Client::<R>::builder(ticket).build();
    ///     let work = async {
    ///         while let Some(notification) = client.next().await {
    ///             println!("{notification:?}");
    ///         }
    ///     };
    ///     zip(task, work).await
    /// });
    /// # }
    /// ```
    ///
    /// # Panics
    /// Outside of the runtime, and if the system has no random bytes to give.
    pub fn build(self) -> (Client<R>, Task) {
        let clock = Clock::start(self.runtime.clone());
        let (now, unix) = (clock.now(), civil());
        let config = Arc::new(self.config);
        let device = Device::new(config, self.ticket, self.resume, seed(), now, unix);
        let shared = Arc::new(Shared::new(State::new(device), clock, self.web));
        let driver = Driver::new(shared.clone(), self.runtime, self.on_resume, now, unix);
        (Client::new(shared), Box::pin(Driven(driver)))
    }
}

impl<R> fmt::Debug for ClientBuilder<R> {
    // The ticket holds a secret and is left out.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientBuilder").field("config", &self.config).finish_non_exhaustive()
    }
}
