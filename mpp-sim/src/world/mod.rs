//! Many devices and services on one virtual network and one virtual clock.

mod boxes;
mod device;
mod judge;
mod log;
mod run;
mod service;
mod trouble;
mod web;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use mpp_proto::{
    AccountHead, AccountId, CommandError, ConnectionState, Device, DeviceConfig, DeviceId, Disposition,
    Endpoint, Instant, Notification, PublishError, RequestId, Resume, Rights, Seed, Serial, Service,
    ServiceConfig, ServiceEvent, ServiceSecret, ShardId, StoreSet, Ticket, TicketKey, TicketSpec,
    TransmitBatch, UnixTime,
};

use self::boxes::Boxes;
pub use self::boxes::NatHandle;
use self::device::{DeviceNode, SCRATCH};
pub use self::log::{App, Entry, Record};
use self::service::{BATCH, ServiceNode};
pub use self::trouble::Backup;
use self::trouble::Skew;
use self::web::{Side, Web};
pub use self::web::{Udp, WebConditions};
use crate::model;
use crate::network::{Conditions, Network, Packet, RouteId};
use crate::post::Post;
use crate::rng::Rng;
use crate::trace::Trace;

type Addresses = BTreeMap<SocketAddr, Spot>;
type Names = BTreeMap<String, Vec<IpAddr>>;

/// Who has an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Spot {
    Device(u32),
    Service(u32),
}

/// A device of a [`World`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeviceHandle(u32);

/// A service of a [`World`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceHandle(u32);

/// When machines are woken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Drive {
    /// At the deadlines they name.
    #[default]
    AtDeadlines,
    /// There, and every millisecond besides: they must not notice.
    EveryMillisecond,
}

/// What a service keeps when it is restarted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Restart {
    /// Its secret, by which it can tell devices of its former life that they have to connect anew. Without it they
    /// find out by silence.
    pub secret: bool,
    /// The head of every channel (newest serial, and the epoch that the host was told of last), as a host with a durable
    /// store does. Without it every channel begins a new epoch.
    pub heads: bool,
}

/// The whole: machines, network, clock, and the record of what happened.
///
/// A world does nothing by itself. Commands act at the present instant; [`World::run_for`] and [`World::run_until`]
/// let time pass. The same seed and the same commands give the same run, byte for byte.
///
/// # Panics
/// A world is a test: where a machine breaks the sans-IO contract (a deadline in the past after `handle_timeout`,
/// bytes of a refused packet changed, more than 3 times what came in sent to a path that is not validated, a machine
/// that never comes to rest), and where the books of delivery do not balance (every event and device in one counter,
/// see [`mpp_proto::Delivery`] and [`mpp_proto::DeviceStats`]), it panics and says which rule was broken.
pub struct World {
    seed: u64,
    rng: Rng,
    seeds: Rng,
    now: Instant,
    network: Network,
    devices: Vec<DeviceNode>,
    services: Vec<ServiceNode>,
    addresses: Addresses,
    boxes: Boxes,
    names: Names,
    timers: BTreeSet<(Instant, Spot)>,
    drive: Drive,
    lean: bool,
    conditions: (Conditions, Conditions),
    stray: RouteId,
    ticket_key: TicketKey,
    minted: u64,
    attackers: u64,
    channels: BTreeMap<(u32, AccountId), model::Channel>,
    scratch: Vec<u8>,
    web: Web,
    default_web: Option<WebConditions>,
}

impl World {
    /// What the clocks show at the start: 2026-01-01, 00:00 UTC.
    const START: UnixTime = UnixTime::from_millis(1_767_225_600_000);

    /// An empty world.
    pub fn new(seed: u64) -> Self {
        let rng = Rng::new(seed);
        let mut network = Network::new(rng.fork(1).next_u64());
        let stray = network.add_route(Conditions::default());
        let mut key = rng.fork(2);
        Self {
            seed,
            seeds: rng.fork(3),
            rng: rng.fork(4),
            // Not zero, so that subtracting a little from now is not a special case that only tests see.
            now: Instant::from_micros(1_000_000_000),
            network,
            devices: Vec::new(),
            services: Vec::new(),
            addresses: Addresses::new(),
            boxes: Boxes::default(),
            names: Names::new(),
            timers: BTreeSet::new(),
            drive: Drive::AtDeadlines,
            lean: false,
            conditions: (Conditions::default(), Conditions::default()),
            stray,
            ticket_key: TicketKey::new([1, 2, 3, 4], key.bytes32()),
            minted: 0,
            attackers: 0,
            channels: BTreeMap::new(),
            scratch: vec![0; SCRATCH],
            web: Web::default(),
            default_web: None,
        }
    }

    /// The seed of this world.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// The present instant.
    pub fn now(&self) -> Instant {
        self.now
    }

    /// The true civil time.
    pub fn unix(&self) -> UnixTime {
        unix(self.now)
    }

    /// A source of chance for the scenario itself, apart from that of machines and network.
    pub fn rng(&mut self) -> &mut Rng {
        &mut self.rng
    }

    /// The network: to capture, observe, inject and count.
    pub fn network(&mut self) -> &mut Network {
        &mut self.network
    }

    /// A fingerprint of everything sent so far.
    pub fn trace(&self) -> Trace {
        self.network.trace()
    }

    /// Sets when machines are woken.
    pub fn set_drive(&mut self, drive: Drive) {
        self.drive = drive;
    }

    /// Sets whether devices and services that are added from now on keep no log, for scenarios with very many: then
    /// nothing is known of what their applications saw, and nothing is judged.
    pub fn set_lean(&mut self, lean: bool) {
        self.lean = lean;
    }

    /// Sets the conditions (to the service, to the device) of devices that are added from now on.
    pub fn set_default_conditions(&mut self, up: Conditions, down: Conditions) {
        self.conditions = (up, down);
    }

    /// Gives `host` these addresses, for tickets whose endpoint is a name.
    pub fn set_name(&mut self, host: &str, addresses: &[IpAddr]) {
        self.names.insert(host.to_owned(), addresses.to_vec());
    }

    // ----- services

    /// The defaults of a service of this world, with the key that opens the tickets of [`World::ticket`].
    pub fn service_config(&self) -> ServiceConfig {
        let secret = self.seeds.fork(1 << 40 | self.services.len() as u64).bytes32();
        ServiceConfig::new(ServiceSecret::new(secret), vec![self.ticket_key.clone()])
    }

    /// Starts a service. It gets an IPv4 address (link 0) and an IPv6 address (link 1).
    pub fn add_service(&mut self, config: ServiceConfig) -> ServiceHandle {
        let index = self.services.len() as u32;
        let [.., b, c] = (index + 1).to_be_bytes();
        let ips = [
            IpAddr::V4(Ipv4Addr::new(192, 0, 2 + b, c)),
            IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, index as u16 + 1)),
        ];
        let addresses: Vec<_> = ips.iter().map(|ip| SocketAddr::new(*ip, 15096)).collect();
        for address in &addresses {
            self.addresses.insert(*address, Spot::Service(index));
        }
        self.services.push(ServiceNode {
            index,
            machine: None,
            config: Arc::new(config),
            addresses,
            heads: Vec::new(),
            epochs: BTreeMap::new(),
            log: (!self.lean).then(Vec::new),
            ledger: BTreeMap::new(),
            batch: TransmitBatch::new(64),
            lives: 0,
            timer: None,
            wakes: (Instant::ZERO, 0),
            woken: 0,
            skew: Skew::default(),
            audited: Instant::ZERO,
        });
        self.boot_service(index);
        ServiceHandle(index)
    }

    fn boot_service(&mut self, index: u32) {
        let node = &mut self.services[index as usize];
        node.lives += 1;
        let seed = Seed::new(self.seeds.fork(2 << 40 | u64::from(index) << 20 | node.lives).bytes32());
        node.ledger.clear();
        let clock = node.skew.clock(self.now);
        node.machine = Some(Service::new(node.config.clone(), ShardId(0), seed, self.now, clock));
        self.pump_service(index);
    }

    /// The IPv4 and IPv6 address of a service.
    pub fn service_addresses(&self, service: ServiceHandle) -> &[SocketAddr] {
        &self.services[service.0 as usize].addresses
    }

    /// The machine of a service.
    ///
    /// # Panics
    /// If it is stopped.
    pub fn service(&self, service: ServiceHandle) -> &Service {
        self.services[service.0 as usize].machine.as_ref().expect("the service is stopped")
    }

    /// What a service told its host, over all its lives.
    pub fn service_log(&self, service: ServiceHandle) -> &[(Instant, ServiceEvent)] {
        self.services[service.0 as usize].log.as_deref().unwrap_or_default()
    }

    /// Calls the machine of a service and lets it say what follows from that.
    ///
    /// # Panics
    /// If it is stopped.
    pub fn with_service<R>(
        &mut self,
        service: ServiceHandle,
        call: impl FnOnce(&mut Service, Instant) -> R,
    ) -> R {
        let machine = self.services[service.0 as usize].machine.as_mut().expect("the service is stopped");
        let result = call(machine, self.now);
        self.pump_service(service.0);
        result
    }

    /// Sets the configuration with which a service is started the next time.
    pub fn set_service_config(&mut self, service: ServiceHandle, config: ServiceConfig) {
        self.services[service.0 as usize].config = Arc::new(config);
    }

    /// Kills a service: it says nothing to anybody.
    pub fn stop_service(&mut self, service: ServiceHandle) {
        let node = &self.services[service.0 as usize];
        if node.machine.is_some() {
            let heads = self.heads(service).collect();
            let node = &mut self.services[service.0 as usize];
            (node.machine, node.heads) = (None, heads);
        }
        self.web_stopped(service.0);
        self.pump_service(service.0);
    }

    /// Kills a service, if it runs, and starts it again in the same instant.
    pub fn restart_service(&mut self, service: ServiceHandle, keep: Restart) {
        self.stop_service(service);
        self.start_service(service, keep, keep.heads);
    }

    /// Starts a stopped service; `history`: nothing of what was published is lost.
    fn start_service(&mut self, service: ServiceHandle, keep: Restart, history: bool) {
        let index = service.0;
        let node = &mut self.services[index as usize];
        let mut heads = std::mem::take(&mut node.heads);
        heads.retain(|_| keep.heads);
        node.epochs = heads.iter().filter_map(|head| Some((head.account, head.epoch?))).collect();
        for (_, channel) in self.channels.range_mut((index, AccountId([0; 16]))..=(index, MAX_ACCOUNT)) {
            channel.restart(self.now, history);
        }
        if !keep.secret {
            let secret = self.seeds.fork(3 << 40 | u64::from(index) << 20 | node.lives).bytes32();
            let mut config = ServiceConfig::clone(&node.config);
            config.secret = ServiceSecret::new(secret);
            node.config = Arc::new(config);
        }
        self.boot_service(index);
        for head in heads {
            self.with_service(service, |s, _| s.restore(head))
                .expect("room for a channel that there was room for");
        }
    }

    /// Publishes an event on the channel of `account`, which is opened if need be.
    ///
    /// # Errors
    /// What the service says.
    ///
    /// # Panics
    /// If the service is stopped.
    pub fn publish(
        &mut self,
        service: ServiceHandle,
        account: &str,
        post: &Post,
    ) -> Result<Serial, PublishError> {
        let id = AccountId::of(account);
        if self.service(service).head(&id).is_none() {
            self.with_service(service, |s, _| s.restore(AccountHead::new(id)))?;
        }
        let (now, unix) = (self.now, self.unix());
        let node = &mut self.services[service.0 as usize];
        let machine = node.machine.as_mut().expect("the service is stopped");
        let serial = machine.publish(now, &id, post.into())?;
        let epoch = machine.head(&id).and_then(|h| h.epoch);
        let (events, bytes) = (node.config.ring_events, node.config.ring_bytes);
        let channel =
            self.channels.entry((service.0, id)).or_insert_with(|| model::Channel::new(events, bytes));
        channel.publish(now, unix, serial, epoch, post);
        channel.clock_was_set |= node.skew != Skew::default();
        self.pump_service(service.0);
        Ok(serial)
    }

    // ----- tickets and devices

    /// A ticket for the device number `device` of `account`, good for 30 days, with these services as endpoints.
    pub fn ticket(&mut self, services: &[ServiceHandle], account: &str, device: u64) -> Ticket {
        let endpoints = services.iter().map(|s| Endpoint::Address(self.service_addresses(*s)[0])).collect();
        self.ticket_to(endpoints, account, device)
    }

    /// A ticket as from [`World::ticket`], with these endpoints.
    ///
    /// # Panics
    /// If the ticket breaks a limit (1 to 8 endpoints, an account of 1 to 128 bytes).
    pub fn ticket_to(&mut self, endpoints: Vec<Endpoint>, account: &str, device: u64) -> Ticket {
        self.minted += 1;
        let mut id = [0; 16];
        id[8..].copy_from_slice(&device.to_be_bytes());
        let spec = TicketSpec {
            endpoints,
            account: account.to_owned(),
            device: DeviceId(id),
            rights: Rights::default(),
            issued: self.unix(),
            expiry: self.unix() + Duration::from_secs(30 * 24 * 3600),
        };
        let fresh = self.seeds.fork((4 << 40) | self.minted).bytes32();
        self.ticket_key.mint(&spec, &fresh).expect("a ticket within the limits")
    }

    /// Starts a device that has nothing kept. It begins to connect at once.
    pub fn add_device(&mut self, ticket: Ticket, config: impl Into<Arc<DeviceConfig>>) -> DeviceHandle {
        let index = self.devices.len() as u32;
        let up = self.network.add_route(self.conditions.0);
        let down = self.network.add_route(self.conditions.1);
        let home = ticket.endpoints().iter().find_map(|e| match e {
            Endpoint::Address(a) => self.services.iter().position(|s| s.addresses.contains(a)),
            Endpoint::Name { host, .. } => {
                let ips = self.names.get(host)?;
                self.services.iter().position(|s| s.addresses.iter().any(|a| ips.contains(&a.ip())))
            }
        });
        let home = home.unwrap_or_default();
        let mut side = Side::new(self.seeds.fork(8 << 40 | u64::from(index)));
        side.conditions = self.default_web;
        let mut node = DeviceNode::new(index, config.into(), ticket, home, up, down, side);
        node.log = (!self.lean).then(Vec::new);
        self.devices.push(node);
        self.boot_device(index, None);
        DeviceHandle(index)
    }

    fn boot_device(&mut self, index: u32, resume: Option<Resume>) {
        let (now, unix) = (self.now, unix(self.now));
        let node = &mut self.devices[index as usize];
        node.lives += 1;
        node.unacknowledged = None;
        node.app_due = now;
        if !node.repeats_seed {
            node.seed = node.lives;
        }
        let seed = Seed::new(self.seeds.fork(5 << 40 | u64::from(index) << 16 | node.seed).bytes32());
        let clock = node.skew.clock(now);
        node.note(now, unix, Record::Started(resume.clone()));
        node.machine = Some(Device::new(node.config.clone(), node.ticket.clone(), resume, seed, now, clock));
        self.pump_device(index);
    }

    /// The machine of a device; `None` if it was killed.
    pub fn device(&self, device: DeviceHandle) -> Option<&Device> {
        self.devices[device.0 as usize].machine.as_ref()
    }

    /// Whether a device runs and takes itself for connected.
    pub fn is_connected(&self, device: DeviceHandle) -> bool {
        self.device(device).is_some_and(|d| d.state() == ConnectionState::Connected)
    }

    /// Every device of this world, in the order in which they were added.
    pub fn devices(&self) -> impl Iterator<Item = DeviceHandle> + use<> {
        (0..self.devices.len() as u32).map(DeviceHandle)
    }

    /// Calls the machine of a device and lets it say what follows from that.
    ///
    /// # Panics
    /// If it was killed.
    pub fn with_device<R>(
        &mut self,
        device: DeviceHandle,
        call: impl FnOnce(&mut Device, Instant) -> R,
    ) -> R {
        let machine = self.devices[device.0 as usize].machine.as_mut().expect("the device was killed");
        let result = call(machine, self.now);
        self.pump_device(device.0);
        result
    }

    /// The application of a device asks for these stores from now on.
    ///
    /// # Errors
    /// What the machine says.
    ///
    /// # Panics
    /// If it was killed.
    pub fn subscribe(&mut self, device: DeviceHandle, filter: StoreSet) -> Result<RequestId, CommandError> {
        let (now, unix) = (self.now, self.unix());
        let node = &mut self.devices[device.0 as usize];
        let result = node.machine.as_mut().expect("the device was killed").subscribe(now, filter);
        if let Ok(request) = result {
            node.note(now, unix, Record::Subscribe(request, filter));
        }
        self.pump_device(device.0);
        result
    }

    /// Kills a device: it says nothing to anybody. What it has to keep is kept as bytes, as a host would.
    ///
    /// # Panics
    /// If what it keeps does not survive being bytes.
    pub fn kill(&mut self, device: DeviceHandle) {
        let (now, unix) = (self.now, self.unix());
        let node = &mut self.devices[device.0 as usize];
        if let Some(machine) = node.machine.take() {
            let kept = machine.resume();
            let read = Resume::from_bytes(&kept.to_bytes()).expect("what a device wrote it can read");
            assert_eq!(read, kept, "contract rule 11: Resume as bytes and back");
            node.resume = Some(read);
            node.note(now, unix, Record::Stopped);
            node.close_sockets(&mut self.addresses);
        }
        self.pump_device(device.0);
    }

    /// Kills a device for good, and forgets its log and what it kept: for scenarios with very many devices.
    pub fn remove(&mut self, device: DeviceHandle) {
        let node = &mut self.devices[device.0 as usize];
        node.machine = None;
        node.resume = None;
        node.log = node.log.take().map(|_| Vec::new());
        node.close_sockets(&mut self.addresses);
        self.pump_device(device.0);
    }

    /// Starts a killed device with what it kept.
    pub fn restore(&mut self, device: DeviceHandle) {
        let resume = self.devices[device.0 as usize].resume.clone();
        self.start(device, resume);
    }

    /// Starts a killed device with `resume`, or with nothing.
    pub fn start(&mut self, device: DeviceHandle, resume: Option<Resume>) {
        self.kill(device);
        self.boot_device(device.0, resume);
    }

    /// What a killed device kept.
    pub fn kept(&self, device: DeviceHandle) -> Option<&Resume> {
        self.devices[device.0 as usize].resume.as_ref()
    }

    /// Cuts a device off the network, both ways, for `time` from now.
    pub fn black_hole(&mut self, device: DeviceHandle, time: Duration) {
        self.devices[device.0 as usize].dark_until = self.now + time;
    }

    /// Sets what the network does to a device's packets (to the service, to the device).
    pub fn set_conditions(&mut self, device: DeviceHandle, up: Conditions, down: Conditions) {
        let node = &self.devices[device.0 as usize];
        self.network.set_conditions(node.up, up);
        self.network.set_conditions(node.down, down);
    }

    /// What the network does to a device's packets (to the service, to the device).
    pub fn conditions(&self, device: DeviceHandle) -> (Conditions, Conditions) {
        let node = &self.devices[device.0 as usize];
        (self.network.conditions(node.up), self.network.conditions(node.down))
    }

    /// Changes the ports under which the world sees a device; it is not told, as behind a NAT box that forgot.
    pub fn rebind(&mut self, device: DeviceHandle) {
        self.devices[device.0 as usize].rebind(&mut self.addresses);
    }

    /// Changes the addresses under which the world sees a device; it is not told.
    pub fn readdress(&mut self, device: DeviceHandle) {
        self.devices[device.0 as usize].readdress(&mut self.addresses);
    }

    /// The addresses that a device's sockets bound, each with the one that the world sees.
    pub fn endpoints(&self, device: DeviceHandle) -> impl Iterator<Item = (SocketAddr, SocketAddr)> {
        self.devices[device.0 as usize].endpoints()
    }

    /// Sets how the application of a device takes its notifications.
    pub fn set_app(&mut self, device: DeviceHandle, app: App) {
        let node = &mut self.devices[device.0 as usize];
        node.app = app;
        node.app_due = self.now;
        self.pump_device(device.0);
    }

    /// Sets whether the application of a device in manual mode holds its acknowledgements back. When it stops doing
    /// so it acknowledges everything it was given.
    pub fn hold_acknowledgements(&mut self, device: DeviceHandle, hold: bool) {
        let unix = self.unix();
        let node = &mut self.devices[device.0 as usize];
        node.hold_acknowledgements = hold;
        node.acknowledge(self.now, unix);
        self.pump_device(device.0);
    }

    /// What the application of a device saw and did, over all its lives.
    pub fn log(&self, device: DeviceHandle) -> &[Entry] {
        self.devices[device.0 as usize].log.as_deref().unwrap_or_default()
    }

    /// What the application of a device was given, over all its lives.
    pub fn notifications(&self, device: DeviceHandle) -> impl Iterator<Item = &Notification> {
        self.log(device).iter().filter_map(Entry::notification)
    }

    /// The events with payload that the application of a device was given, over all its lives.
    pub fn payloads(&self, device: DeviceHandle) -> impl Iterator<Item = (Serial, &[u8])> {
        self.log(device).iter().filter_map(Entry::payload)
    }

    /// Puts a packet before a machine at this instant, as if it had arrived; what the machine says to it goes out.
    /// `None` if nobody has that address.
    pub fn strike(&mut self, packet: Packet) -> Option<Disposition> {
        self.hand_over(vec![packet]).pop()
    }
}

const MAX_ACCOUNT: AccountId = AccountId([0xff; 16]);

fn unix(now: Instant) -> UnixTime {
    World::START + now.since(Instant::ZERO)
}
