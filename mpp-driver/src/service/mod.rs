//! The handle on a service.

mod driver;
mod events;
mod mail;
mod state;
#[cfg(feature = "web")]
mod web;

use std::fmt;
use std::future::poll_fn;
use std::marker::PhantomData;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::sync::atomic::Ordering::{AcqRel, Relaxed};
use std::time::Duration;

use mpp_proto::{
    AccountHead, AccountId, Code, DeviceId, DeviceStatus, Epoch, Event, Instant, PostAnswer, PostError,
    PostHandle, PublishError, Router, Seed, Serial, ServiceConfig, ShardId, TicketKey, UnixTime,
};

use driver::Driver;
pub use events::ServiceEvents;
use state::Shared;
#[cfg(feature = "web")]
pub use web::Web;

use crate::clock::{Clock, civil};
use crate::drive::Driven;
use crate::error::BindError;
use crate::runtime::{AnyRuntime, Runtime};
use crate::socket::UdpSocket;
use crate::stats::{Counters, ServiceStats};

/// The most addresses to listen on.
const ADDRESSES: usize = 64;
/// Within which time devices that were told to go come back, unless [`Service::shutdown_with`] says otherwise.
const COME_BACK: Duration = Duration::from_secs(2);
/// How long a dropped service goes on telling its devices.
const CLOSING: Duration = Duration::from_secs(1);

/// A service: devices connect to it with their tickets, and what is published here reaches them.
///
/// The handle is cheap to clone, and every clone is the same service. Dropping the last one shuts it down in the
/// background; [`Service::shutdown`] waits for that.
///
/// One task does all the work unless [`ServiceConfig::shards`] asks for more: then each shard has its task and its sockets,
/// on the same ports, and a runtime with several threads runs them side by side. An account lives on one of them, which the
/// handle finds. One shard for each processor is the most that makes sense.
///
/// ```no_run
/// # use mpp_driver::{Runtime, Service};
/// # use mpp_proto::{AccountHead, AccountId, Event, ServiceConfig, StoreId};
/// # async fn example<R: Runtime + Default>(config: ServiceConfig) -> Result<(), Box<dyn std::error::Error>> {
/// let service = Service::<R>::bind("[::]:15096", config)?;
/// service.restore(AccountHead::new(AccountId::of("alice@example.com")))?;
/// let serial = service.publish("alice@example.com", Event::changed(StoreId::CONTACT))?;
/// println!("published as {serial}");
/// service.shutdown(std::time::Duration::from_secs(2)).await;
/// # Ok(())
/// # }
/// ```
pub struct Service<R = AnyRuntime> {
    shared: Arc<Shared>,
    runtime: PhantomData<fn() -> R>,
}

impl<R: Runtime + Default> Service<R> {
    /// Listens on all of these addresses and serves devices in the background.
    ///
    /// `[::]` also takes IPv4, unless an IPv4 address is given beside it. Port 0 lets the system choose;
    /// [`Service::local_addrs`] tells what it chose. A host name is looked up, which blocks.
    ///
    /// # Errors
    /// See [`BindError`]: it names the address and what to do.
    ///
    /// # Panics
    /// Outside of the runtime.
    pub fn bind(addresses: impl ToSocketAddrs, config: ServiceConfig) -> Result<Self, BindError> {
        Self::start(Arc::new(R::default()), addresses, config)
    }
}

impl Service<AnyRuntime> {
    /// The same as [`Service::bind`], on a runtime that is given as a value.
    ///
    /// # Errors
    /// See [`BindError`].
    pub fn bind_on(
        runtime: Arc<dyn Runtime>,
        addresses: impl ToSocketAddrs,
        config: ServiceConfig,
    ) -> Result<Self, BindError> {
        Self::start(runtime, addresses, config)
    }
}

impl<R> Service<R> {
    fn start(
        runtime: Arc<dyn Runtime>,
        addresses: impl ToSocketAddrs,
        config: ServiceConfig,
    ) -> Result<Self, BindError> {
        let addresses: Vec<SocketAddr> =
            addresses.to_socket_addrs().map_err(|source| BindError::Addresses { source })?.collect();
        if addresses.is_empty() || addresses.len() > ADDRESSES {
            return Err(BindError::Count { count: addresses.len() });
        }
        let shards = config.shards;
        if !(1..=256).contains(&shards) {
            return Err(BindError::Shards { shards });
        }
        let counters = Arc::<Counters>::default();
        let only_v6 = addresses.iter().any(SocketAddr::is_ipv4);
        // By shard, one for each address.
        let mut sockets: Vec<Vec<UdpSocket>> = (0..shards).map(|_| Vec::new()).collect();
        for address in addresses {
            let bound = UdpSocket::bind_service(&*runtime, address, only_v6, shards.into(), &counters)
                .map_err(|e| BindError::new(address, e))?;
            sockets.iter_mut().zip(bound).for_each(|(sockets, socket)| sockets.push(socket));
        }
        let local = sockets.iter().take(1).flatten().map(UdpSocket::local).collect();

        let clock = Clock::start(runtime.clone());
        let (now, unix) = (clock.now(), civil());
        let router = Router::new(&config);
        let config = Arc::new(config);
        let ids = (0..shards).map(|n| ShardId(n as u8));
        let core = |shard| {
            let mut seed = [0; 32];
            getrandom::fill(&mut seed).map_err(|e| BindError::Random(e.to_string()))?;
            Ok(mpp_proto::Service::new(config.clone(), shard, Seed::new(seed), now, unix))
        };
        let cores = ids.clone().map(core).collect::<Result<Vec<_>, BindError>>()?;
        let shared = Arc::new(Shared::new(cores, router, clock, counters, local));
        for (id, sockets) in ids.zip(sockets) {
            let driver = Driver::new(shared.clone(), id, sockets, now, unix);
            runtime.spawn(Box::pin(Driven(driver)));
        }
        Ok(Self { shared, runtime: PhantomData })
    }

    /// The addresses it listens on, in the order of those given to [`Service::bind`].
    pub fn local_addrs(&self) -> &[SocketAddr] {
        &self.shared.local
    }

    /// What answers devices whose networks have no UDP, to be mounted in the program's HTTP server.
    #[cfg(feature = "web")]
    pub fn web(&self) -> Web {
        Web::new(self.shared.clone())
    }

    /// Publishes an event in the channel of `account`, under the next serial. It goes out at once, to the devices that
    /// are connected; the others get it when they come back.
    ///
    /// # Errors
    /// See [`PublishError`]. An account is known once a device of it has connected, or [`Service::restore`] named it.
    pub fn publish(&self, account: impl ToAccount, event: Event) -> Result<Serial, PublishError> {
        self.command(account, |core, account, now| core.publish(now, account, event))
    }

    /// The same, for a host whose own log assigns the serials: they have to be given in order and without holes.
    ///
    /// # Errors
    /// See [`PublishError`].
    pub fn deliver(&self, account: impl ToAccount, serial: Serial, event: Event) -> Result<(), PublishError> {
        self.command(account, |core, account, now| core.deliver(now, account, serial, event))
    }

    /// Declares every serial up to and including `upto` lost, for a host whose log has a hole: devices that have not
    /// been told of them are told of a gap.
    ///
    /// # Errors
    /// See [`PublishError`].
    pub fn skip(&self, account: impl ToAccount, upto: Serial) -> Result<(), PublishError> {
        self.command(account, |core, account, _| core.skip(account, upto))
    }

    /// Makes a channel known: a new one, or one whose history the host has kept, events and epoch. Such a host takes
    /// [`ServiceEvent::Epoch`](mpp_proto::ServiceEvent::Epoch) from [`events`](Self::events) as long as the service runs, and
    /// makes it durable.
    ///
    /// # Errors
    /// See [`PublishError`].
    pub fn restore(&self, head: AccountHead) -> Result<(), PublishError> {
        self.command(head.account, |core, _, _| core.restore(head))
    }

    /// The channel of an account, if it is known.
    pub fn head(&self, account: impl ToAccount) -> Option<AccountHead> {
        let account = account.to_account();
        self.shared.home(&account).with(|s, _| s.core.head(&account))
    }

    /// Takes no ticket of this device any more that was issued before `before`, and closes its connection: with a newer
    /// ticket it is back at once. The host keeps the list of what it has revoked and repeats it after a restart, until
    /// those tickets have expired.
    pub fn revoke(&self, account: impl ToAccount, device: DeviceId, before: UnixTime) {
        let account = account.to_account();
        self.shared.home(&account).with(|s, wakes| {
            s.core.revoke(self.shared.clock.now(), &account, device, before);
            self.shared.settle_events(s, wakes);
            wakes.driver();
        });
    }

    /// Takes other ticket keys from now on: the first seals, all open. Tickets of a key that is not there any more are
    /// refused; connections made with them live on until they end or are [revoked](Self::revoke).
    pub fn set_ticket_keys(&self, keys: &[TicketKey]) {
        self.shared.all().for_each(|shard| shard.with(|s, _| s.core.set_ticket_keys(keys.to_vec())));
    }

    /// The connected devices of an account.
    pub fn devices(&self, account: impl ToAccount) -> Vec<DeviceStatus> {
        let (now, account) = (self.shared.clock.now(), account.to_account());
        self.shared.home(&account).with(|s, _| s.core.devices(now, &account).collect())
    }

    /// Up to `max` positions that have moved since they were last asked for, for a host that keeps them.
    pub fn drain_positions(&self, max: usize) -> Vec<(AccountId, DeviceId, Epoch, Serial)> {
        let mut positions = Vec::new();
        for shard in self.shared.all() {
            shard.with(|s, _| {
                s.core.drain_positions(max - positions.len(), |account, device, epoch, serial| {
                    positions.push((account, device, epoch, serial));
                });
            });
        }
        positions
    }

    /// Which devices connect and go, which histories begin, and what the host has to decide.
    ///
    /// What no one has taken yet is one flag per device and channel, not a queue: a listener that is slow hears of the last
    /// state, and memory does not grow. Several streams share the events: each goes to one of them. While there is no stream
    /// at all, events are thrown away.
    pub fn events(&self) -> ServiceEvents {
        ServiceEvents::new(self.shared.clone())
    }

    /// Answers a [`ServiceEvent::Post`](mpp_proto::ServiceEvent::Post): what the host has decided about an event that a
    /// device posts. Returns the serial that the event got, if it was taken.
    ///
    /// Such events come only if the settings say so ([`OwnPosts::Host`](mpp_proto::OwnPosts::Host),
    /// [`ForeignPosts::Host`](mpp_proto::ForeignPosts::Host)). While there is no stream of events, nobody decides, and
    /// devices are told to try again later.
    ///
    /// # Errors
    /// See [`PostError`].
    pub fn answer_post(&self, handle: PostHandle, answer: PostAnswer) -> Result<Option<Serial>, PostError> {
        let answer_with = |answer| {
            self.shared.shard(handle.shard()).with(|s, wakes| {
                wakes.driver();
                let result = s.core.answer_post(self.shared.clock.now(), handle, answer);
                let elsewhere = matches!(result, Err(PostError::Publish(PublishError::OtherShard { .. })));
                let post = s.core.waiting_post(handle).filter(|_| elsewhere);
                (result, post.map(|(to, event)| (to, event.clone())))
            })
        };
        match answer_with(answer) {
            // The channel lives on another shard than the poster.
            (Err(_), Some((to, event))) => match self.publish(to, event) {
                Ok(serial) => answer_with(PostAnswer::Stored(serial)).0,
                Err(error) => {
                    // As if there were no such right: who asks does not find out which accounts there are.
                    if matches!(error, PublishError::UnknownAccount) {
                        let (code, retry_after) = (Code::FORBIDDEN, Duration::ZERO);
                        let _ = answer_with(PostAnswer::Refuse { code, retry_after });
                    }
                    Err(error.into())
                }
            },
            (result, _) => result,
        }
    }

    /// The counters, of all shards together.
    pub fn stats(&self) -> ServiceStats {
        let mut core = mpp_proto::ServiceStats::default();
        self.shared.all().for_each(|shard| core += shard.with(|s, _| s.core.stats()));
        ServiceStats { core, socket: self.shared.counters.read() }
    }

    /// What connected devices are owed and have not been told, counted device by device over all shards. While nothing
    /// happens it is `stats().core.delivery.outstanding()`, or an event went somewhere unexplained
    /// ([`mpp_proto::Service::pending`]). Takes time for every connected device.
    pub fn pending(&self) -> u64 {
        self.shared.all().map(|shard| shard.with(|s, _| s.core.pending())).sum()
    }

    /// Tells every device to come back at a moment within the next 2 s, takes no new ones, and ends when all are told
    /// or `deadline` has passed. The port is free when this returns.
    pub async fn shutdown(&self, deadline: Duration) {
        self.shutdown_with(deadline, COME_BACK).await;
    }

    /// The same, with the time over which the devices spread their coming back: long enough for the next service to
    /// start, and for so many devices to connect.
    pub async fn shutdown_with(&self, deadline: Duration, spread: Duration) {
        self.shared.close(deadline, spread);
        poll_fn(|cx| self.shared.poll_ended(cx)).await;
    }

    fn command<T>(
        &self,
        account: impl ToAccount,
        f: impl FnOnce(&mut mpp_proto::Service, &AccountId, Instant) -> Result<T, PublishError>,
    ) -> Result<T, PublishError> {
        let account = account.to_account();
        self.shared.home(&account).with(|s, wakes| {
            if s.ended {
                return Err(PublishError::Closed);
            }
            let result = f(&mut s.core, &account, self.shared.clock.now());
            wakes.driver();
            result
        })
    }
}

impl<R> Clone for Service<R> {
    fn clone(&self) -> Self {
        self.shared.handles.fetch_add(1, Relaxed);
        Self { shared: self.shared.clone(), runtime: PhantomData }
    }
}

impl<R> Drop for Service<R> {
    /// The last one shuts the service down, in the background.
    fn drop(&mut self) {
        if self.shared.handles.fetch_sub(1, AcqRel) == 1 {
            self.shared.close(CLOSING, COME_BACK);
        }
    }
}

impl<R> fmt::Debug for Service<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Service").field("local", &self.shared.local).finish_non_exhaustive()
    }
}

/// What names an account: its name, or its [`AccountId`].
pub trait ToAccount {
    /// The account.
    fn to_account(&self) -> AccountId;
}

impl ToAccount for AccountId {
    fn to_account(&self) -> AccountId {
        *self
    }
}

impl ToAccount for str {
    fn to_account(&self) -> AccountId {
        AccountId::of(self)
    }
}

impl ToAccount for String {
    fn to_account(&self) -> AccountId {
        AccountId::of(self)
    }
}

impl<T: ToAccount + ?Sized> ToAccount for &T {
    fn to_account(&self) -> AccountId {
        (**self).to_account()
    }
}
