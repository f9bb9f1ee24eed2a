//! The world of the scenarios: one device, one service, and a network between them that takes 20 ms.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use mpp_proto::*;

use super::web::Http;

pub(crate) const ACCOUNT: &str = "alice@example.com";
const LATENCY: Duration = Duration::from_millis(20);
const LINK: LinkId = LinkId(0);

pub(crate) struct Pair {
    pub(crate) now: Instant,
    pub(crate) device: Device,
    pub(crate) service: Service,
    pub(crate) events: Vec<DeviceEvent>,
    pub(crate) notifications: VecDeque<Notification>,
    /// Nothing passes.
    pub(crate) cut: bool,
    /// Packets lost in a hundred.
    pub(crate) loss: u64,
    /// Packets to the device that are longer than this are lost.
    pub(crate) deaf_above: usize,
    /// So many packets to the device that are this long are lost.
    pub(crate) lose: (usize, u32),
    /// The application takes no notifications.
    pub(crate) busy: bool,
    /// Every packet that was sent, also those that were lost: with where the device was, or `None` for the service's.
    pub(crate) log: Vec<(Option<SocketAddr>, Vec<u8>)>,
    pub(crate) config: Arc<ServiceConfig>,
    pub(crate) device_config: Arc<DeviceConfig>,
    pub(crate) key: TicketKey,
    wire: VecDeque<(Instant, Option<SocketAddr>, Vec<u8>)>,
    /// How much of the log a resting device has been brought.
    read: usize,
    random: u64,
    seeds: u8,
    device_link: LinkId,
    /// Where the device is, as the service sees it. What goes elsewhere is lost.
    pub(crate) address: SocketAddr,
    /// Every packet to the service is also delivered from here, by somebody who is faster than the device.
    pub(crate) copied_from: Option<SocketAddr>,
    /// What went to that address: packets and bytes.
    pub(crate) leaked: (u64, u64),
    /// Packets to where the device is not.
    pub(crate) astray: Vec<Vec<u8>>,
    /// The link over which the device asks how it is seen; what it sends over that comes from another address.
    pub(crate) asking: Option<LinkId>,
    /// Families of which the device's host has no socket for that.
    pub(crate) no_asking: Vec<Family>,
    /// What the host of the service was told, once it asked.
    pub(crate) service_events: Vec<ServiceEvent>,
    /// The host of the service does not ask.
    pub(crate) host_sleeps: bool,
    /// The way by Web, if there is one.
    pub(crate) http: Option<Http>,
}

fn service_address() -> SocketAddr {
    "192.0.2.1:15096".parse().unwrap()
}

fn device_address() -> SocketAddr {
    "198.51.100.7:4000".parse().unwrap()
}

/// Where the device's questions come from that go over a socket of their own.
pub(crate) fn asking_address() -> SocketAddr {
    "[2001:db8:3::10]:5000".parse().unwrap()
}

pub(crate) fn unix(now: Instant) -> UnixTime {
    UnixTime::from_millis(1_800_000_000_000 + now.as_millis())
}

pub(crate) fn is_connected(events: &[DeviceEvent]) -> bool {
    events.iter().any(|e| matches!(e, DeviceEvent::Connected(_)))
}

impl Pair {
    pub(crate) fn new() -> Self {
        Self::with_device(DeviceConfig::default())
    }

    /// With this device and the defaults of a service.
    pub(crate) fn with_device(config: DeviceConfig) -> Self {
        let key = TicketKey::new(*b"key1", [7; 32]);
        Self::with(ServiceConfig::new(ServiceSecret::new([9; 32]), vec![key]), config)
    }

    pub(crate) fn with(config: ServiceConfig, device_config: DeviceConfig) -> Self {
        let now = Instant::from_micros(5_000_000);
        let key = TicketKey::new(*b"key1", [7; 32]);
        let config = Arc::new(config);
        let device_config = Arc::new(device_config);
        let service = Service::new(Arc::clone(&config), ShardId(0), Seed::new([1; 32]), now, unix(now));
        let ticket = ticket(&key, now, Duration::from_secs(86_400 * 90));
        let device =
            Device::new(Arc::clone(&device_config), ticket, None, Seed::new([2; 32]), now, unix(now));
        Self {
            now,
            device,
            service,
            events: Vec::new(),
            notifications: VecDeque::new(),
            cut: false,
            loss: 0,
            deaf_above: usize::MAX,
            lose: (0, 0),
            busy: false,
            log: Vec::new(),
            config,
            device_config,
            key,
            wire: VecDeque::new(),
            read: 0,
            random: 1,
            seeds: 2,
            device_link: LINK,
            address: device_address(),
            copied_from: None,
            leaked: (0, 0),
            astray: Vec::new(),
            asking: None,
            no_asking: Vec::new(),
            service_events: Vec::new(),
            host_sleeps: false,
            http: None,
        }
    }

    fn seed(&mut self) -> Seed {
        self.seeds += 1;
        Seed::new([self.seeds; 32])
    }

    pub(crate) fn restart_service(&mut self) {
        let seed = self.seed();
        self.service = Service::new(Arc::clone(&self.config), ShardId(0), seed, self.now, unix(self.now));
    }

    /// Devices that are started from now on ask for these stores.
    pub(crate) fn device_filter(&mut self, filter: StoreSet) {
        let mut config = DeviceConfig::clone(&self.device_config);
        config.filter = filter;
        self.device_config = Arc::new(config);
    }

    pub(crate) fn restart_device(&mut self, resume: Option<Resume>) {
        self.device = self.new_device(DEVICE, resume);
        self.events.clear();
        self.notifications.clear();
    }

    pub(crate) fn new_device(&mut self, id: DeviceId, resume: Option<Resume>) -> Device {
        let ticket = ticket_of(&self.key, id, self.now, Duration::from_secs(86_400));
        let seed = self.seed();
        Device::new(Arc::clone(&self.device_config), ticket, resume, seed, self.now, unix(self.now))
    }

    /// Gives the device what came while another one was in its place.
    pub(crate) fn deliver_astray(&mut self) {
        for mut packet in core::mem::take(&mut self.astray) {
            let path = Path::new(self.device_link, service_address());
            let _ = self.device.handle_datagram(self.now, Datagram { path, payload: &mut packet });
        }
    }

    /// Brings a device that rests what the service has sent since it was last asked, whomever it is for.
    pub(crate) fn deliver_to(&mut self, device: &mut Device) {
        let from = core::mem::replace(&mut self.read, self.log.len());
        for (_, packet) in self.log[from..].iter().filter(|(from, _)| from.is_none()) {
            let path = Path::new(self.device_link, service_address());
            let _ = device.handle_datagram(self.now, Datagram { path, payload: &mut packet.clone() });
        }
    }

    /// A ticket issued now.
    pub(crate) fn mint(&self) -> Ticket {
        ticket(&self.key, self.now, Duration::from_secs(86_400))
    }

    /// Another device, or the same one with another ticket, in place of the first, which is returned.
    pub(crate) fn start_with(&mut self, spec: &TicketSpec) -> Device {
        let ticket = self.key.mint(spec, &[3; 32]).unwrap();
        let seed = self.seed();
        self.events.clear();
        self.notifications.clear();
        let device =
            Device::new(Arc::clone(&self.device_config), ticket, None, seed, self.now, unix(self.now));
        std::mem::replace(&mut self.device, device)
    }

    /// A packet comes to the service from somewhere: what becomes of it, and what is sent because of it.
    pub(crate) fn inject(
        &mut self,
        from: SocketAddr,
        packet: &[u8],
    ) -> (Disposition, Vec<(SocketAddr, Vec<u8>)>) {
        self.drain();
        let mut dispositions = Vec::new();
        let mut packet = packet.to_vec();
        let mut batch = [Datagram { path: Path::new(LINK, from), payload: &mut packet }];
        self.service.handle_datagrams(self.now, &mut batch, &mut dispositions);
        let answers = service_output(&mut self.service, self.now);
        (dispositions[0], answers)
    }

    /// What the device has sent, oldest first.
    pub(crate) fn sent(&self) -> Vec<Vec<u8>> {
        self.log.iter().filter(|(from, _)| from.is_some()).map(|(_, packet)| packet.clone()).collect()
    }

    pub(crate) fn publish(&mut self, event: Event) -> Serial {
        self.service.publish(self.now, &AccountId::of(ACCOUNT), event).unwrap()
    }

    pub(crate) fn take(&mut self) -> Vec<Notification> {
        self.notifications.drain(..).collect()
    }

    /// Runs both machines, at their deadlines only, for this long.
    pub(crate) fn run(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            self.drain();
            let arrival = self.wire.iter().map(|(at, ..)| *at).min();
            let deadlines = [
                arrival,
                self.http.as_ref().and_then(Http::next),
                self.device.poll_timeout().map(|w| w.at),
                self.service.poll_timeout().map(|w| w.at),
                Some(end),
            ];
            let next = deadlines.into_iter().flatten().min().unwrap();
            assert!(next >= self.now, "{deadlines:?} at {:?}", self.now);
            self.now = next;
            self.arrive();
            self.device.handle_timeout(next);
            assert!(self.device.poll_timeout().is_none_or(|w| w.at > next), "a stale deadline of the device");
            assert_eq!(self.service.handle_timeout(next, NonZeroUsize::MAX), Progress::Done);
            assert!(
                self.service.poll_timeout().is_none_or(|w| w.at > next),
                "a stale deadline of the service"
            );
            if next == end {
                self.drain();
                return;
            }
        }
    }

    fn arrive(&mut self) {
        if let Some(http) = &mut self.http {
            http.arrive(self.now, &mut self.device, &mut self.service);
        }
        while let Some(at) = self.wire.iter().position(|(at, ..)| *at <= self.now) {
            let (_, to_service, mut packet) = self.wire.remove(at).unwrap();
            if let Some(from) = to_service {
                let path = Path::new(LINK, from);
                let mut dispositions = Vec::new();
                let mut batch = [Datagram { path, payload: &mut packet }];
                self.service.handle_datagrams(self.now, &mut batch, &mut dispositions);
            } else {
                let path = Path::new(self.device_link, service_address());
                let _ = self.device.handle_datagram(self.now, Datagram { path, payload: &mut packet });
            }
        }
    }

    fn drain(&mut self) {
        let mut buffer = [0; 1452];
        loop {
            let mut idle = true;
            while let Some(event) = self.device.poll_event() {
                idle = false;
                match event {
                    DeviceEvent::OpenLink { link, kind: LinkKind::Udp(_) } => {
                        self.device_link = link;
                        let local = self.address;
                        self.device.handle_link(self.now, link, LinkState::Open { local });
                    }
                    DeviceEvent::OpenLink { link, kind: LinkKind::Asking(family) } => {
                        let open = !self.no_asking.contains(&family);
                        self.asking = open.then_some(link);
                        let state = if open {
                            LinkState::Open { local: asking_address() }
                        } else {
                            LinkState::Failed
                        };
                        self.device.handle_link(self.now, link, state);
                    }
                    DeviceEvent::OpenLink { link, kind: LinkKind::Web } if self.http.is_some() => {
                        let local = self.address;
                        self.device.handle_link(self.now, link, LinkState::Open { local });
                    }
                    DeviceEvent::CloseLink(link) => {
                        self.asking.take_if(|asking| *asking == link);
                    }
                    _ => {}
                }
                self.events.push(event);
            }
            while !self.busy
                && let Some(notification) = self.device.poll_notification(self.now)
            {
                idle = false;
                self.notifications.push_back(notification);
            }
            while let Some(t) = self.device.poll_transmit(self.now, &mut buffer, NonZeroUsize::MIN) {
                idle = false;
                let packet = buffer[..t.len].to_vec();
                let from = if Some(t.path.link) == self.asking { asking_address() } else { self.address };
                self.log.push((Some(from), packet.clone()));
                let lost = self.is_lost();
                if let Some(copy) = self.copied_from.filter(|_| !lost) {
                    self.wire.push_back((self.now + LATENCY / 2, Some(copy), packet.clone()));
                }
                if !lost {
                    self.wire.push_back((self.now + LATENCY, Some(from), packet));
                }
            }
            for (to, packet) in service_output(&mut self.service, self.now) {
                idle = false;
                self.log.push((None, packet.clone()));
                if Some(to) == self.copied_from {
                    self.leaked.0 += 1;
                    self.leaked.1 += packet.len() as u64;
                }
                if packet.len() == self.lose.0 && self.lose.1 > 0 {
                    self.lose.1 -= 1;
                } else if to != self.address && (to != asking_address() || self.asking.is_none()) {
                    self.astray.push(packet);
                } else if packet.len() <= self.deaf_above && !self.is_lost() {
                    self.wire.push_back((self.now + LATENCY, None, packet));
                }
            }
            if let Some(http) = &mut self.http {
                idle &= !http.drain(self.now, &mut self.device, &mut self.service);
            }
            while !self.host_sleeps
                && let Some(event) = self.service.poll_event()
            {
                idle = false;
                self.service_events.push(event);
            }
            if idle {
                return;
            }
        }
    }

    fn is_lost(&mut self) -> bool {
        self.random = self.random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        self.cut || (self.random >> 33) % 100 < self.loss
    }
}

/// Everything that the service wants to send now.
pub(crate) fn service_output(service: &mut Service, now: Instant) -> Vec<(SocketAddr, Vec<u8>)> {
    let mut batch = TransmitBatch::new(32);
    let mut packets = Vec::new();
    while service.poll_transmit(now, &mut batch) > 0 {
        for (t, bytes) in batch.iter() {
            let size = t.segment_size.map_or(bytes.len(), |s| usize::from(s.get()));
            packets.extend(bytes.chunks(size).map(|c| (t.path.remote, c.to_vec())));
        }
        batch.clear();
    }
    packets
}

const DEVICE: DeviceId = DeviceId([1; 16]);

pub(crate) fn ticket(key: &TicketKey, now: Instant, life: Duration) -> Ticket {
    ticket_of(key, DEVICE, now, life)
}

fn ticket_of(key: &TicketKey, device: DeviceId, now: Instant, life: Duration) -> Ticket {
    key.mint(&TicketSpec { device, ..spec(now, life) }, &[3; 32]).unwrap()
}

/// What a ticket of the device says.
pub(crate) fn spec(now: Instant, life: Duration) -> TicketSpec {
    TicketSpec {
        endpoints: vec![Endpoint::Address(service_address())],
        account: ACCOUNT.into(),
        device: DEVICE,
        rights: Rights::default(),
        issued: unix(now),
        expiry: unix(now) + life,
    }
}
