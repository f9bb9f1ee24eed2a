//! A service, the devices that live at it, and a network between them that takes 20 ms.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use mpp_proto::*;

const LATENCY: Duration = Duration::from_millis(20);
pub(crate) const LINK: LinkId = LinkId(0);
/// Packets kept of those that residents sent long ago.
const KEPT: usize = 256;

pub(crate) fn service_address() -> SocketAddr {
    "192.0.2.1:15096".parse().unwrap()
}

fn unix(now: Instant) -> UnixTime {
    UnixTime::from_millis(1_800_000_000_000 + now.as_millis())
}

/// A device, where it is, and what its application heard.
pub(crate) struct Resident {
    pub(crate) device: Device,
    pub(crate) address: SocketAddr,
    pub(crate) account: AccountId,
    pub(crate) heard: Vec<(Instant, Serial)>,
    link: LinkId,
}

pub(crate) struct Town {
    pub(crate) now: Instant,
    pub(crate) service: Service,
    pub(crate) residents: Vec<Resident>,
    /// Packets to the service that are on their way.
    pub(crate) to_service: VecDeque<(Instant, SocketAddr, Vec<u8>)>,
    /// Data packets that residents sent and that have arrived, the newest last.
    pub(crate) arrived: VecDeque<Vec<u8>>,
    /// Packets to nobody who lives here, since they were last taken: where to, and how long.
    pub(crate) astray: Vec<(SocketAddr, usize)>,
    to_devices: VecDeque<(Instant, usize, Vec<u8>)>,
    batch: TransmitBatch,
    dispositions: Vec<Disposition>,
    key: TicketKey,
    born: u8,
}

impl Town {
    pub(crate) fn new(defer: DeferPolicy, residents: u8) -> Self {
        let now = Instant::from_micros(5_000_000);
        let key = TicketKey::new(*b"key1", [7; 32]);
        let mut config = ServiceConfig::new(ServiceSecret::new([9; 32]), vec![key.clone()]);
        config.defer = defer;
        config.capacity = 4096;
        let service = Service::new(Arc::new(config), ShardId(0), Seed::new([1; 32]), now, unix(now));
        let mut town = Self {
            now,
            service,
            residents: Vec::new(),
            to_service: VecDeque::new(),
            arrived: VecDeque::new(),
            astray: Vec::new(),
            to_devices: VecDeque::new(),
            batch: TransmitBatch::new(64),
            dispositions: Vec::with_capacity(64),
            key,
            born: 0,
        };
        for n in 0..residents {
            let address = SocketAddr::from(([198, 51, 100, n], 4000));
            town.settle(address);
        }
        town.run(Duration::from_secs(3), &mut |_| {});
        assert!(town.all_connected());
        town
    }

    /// One more device, with an account of its own.
    pub(crate) fn settle(&mut self, address: SocketAddr) -> usize {
        let (device, account) = self.device();
        self.residents.push(Resident {
            device,
            address,
            account: AccountId::of(&account),
            heard: Vec::new(),
            link: LINK,
        });
        self.residents.len() - 1
    }

    /// A device that has a ticket and has not been started.
    fn device(&mut self) -> (Device, String) {
        self.born += 1;
        let account = format!("user{}@example.com", self.born);
        let spec = TicketSpec {
            endpoints: vec![Endpoint::Address(service_address())],
            account: account.clone(),
            device: DeviceId([1; 16]),
            rights: Rights::default(),
            issued: unix(self.now),
            expiry: unix(self.now) + Duration::from_secs(86_400),
        };
        let ticket = self.key.mint(&spec, &[self.born; 32]).unwrap();
        let seed = Seed::new([self.born; 32]);
        (Device::new(Arc::default(), ticket, None, seed, self.now, unix(self.now)), account)
    }

    /// The first packet of a device that never says another.
    pub(crate) fn step1(&mut self) -> Vec<u8> {
        let (mut device, _) = self.device();
        let local = SocketAddr::from(([198, 51, 100, 255], 4000));
        device.handle_timeout(self.now);
        while let Some(event) = device.poll_event() {
            if let DeviceEvent::OpenLink { link, kind: LinkKind::Udp(_) } = event {
                device.handle_link(self.now, link, LinkState::Open { local });
            }
        }
        let mut buffer = [0; 1452];
        let sent = device.poll_transmit(self.now, &mut buffer, NonZeroUsize::MIN).expect("step 1");
        buffer[..sent.len].to_vec()
    }

    pub(crate) fn all_connected(&self) -> bool {
        self.residents.iter().all(|r| r.device.state() == ConnectionState::Connected)
    }

    /// Lets time pass in steps of 10 ms; `between` is called before each.
    pub(crate) fn run(&mut self, time: Duration, between: &mut dyn FnMut(&mut Self)) {
        let end = self.now + time;
        while self.now < end {
            between(self);
            self.now = self.now + Duration::from_millis(10);
            while let Some((_, from, mut packet)) = self.to_service.pop_front_if(|p| p.0 <= self.now) {
                if packet[..16] != [0; 16] {
                    self.arrived.push_back(packet.clone());
                }
                if self.arrived.len() > KEPT {
                    self.arrived.pop_front();
                }
                let mut one = [Datagram { path: Path::new(LINK, from), payload: &mut packet }];
                self.service.handle_datagrams(self.now, &mut one, &mut self.dispositions);
                self.drain_service();
            }
            while let Some((_, to, mut packet)) = self.to_devices.pop_front_if(|p| p.0 <= self.now) {
                let resident = &mut self.residents[to];
                let path = Path::new(resident.link, service_address());
                let _ = resident.device.handle_datagram(self.now, Datagram { path, payload: &mut packet });
            }
            assert_eq!(self.service.handle_timeout(self.now, NonZeroUsize::MAX), Progress::Done);
            self.drain_service();
            for n in 0..self.residents.len() {
                self.residents[n].device.handle_timeout(self.now);
                self.drain_device(n, None);
            }
        }
    }

    /// What a device has to say goes to the service, from its own address or from another.
    pub(crate) fn drain_device(&mut self, n: usize, spoofed: Option<SocketAddr>) -> usize {
        let now = self.now;
        let resident = &mut self.residents[n];
        let mut buffer = [0; 1452];
        while let Some(event) = resident.device.poll_event() {
            if let DeviceEvent::OpenLink { link, kind: LinkKind::Udp(_) } = event {
                resident.link = link;
                resident.device.handle_link(now, link, LinkState::Open { local: resident.address });
            }
        }
        while let Some(notification) = resident.device.poll_notification(now) {
            resident.heard.push((now, notification.position));
        }
        let mut bytes = 0;
        while let Some(t) = resident.device.poll_transmit(now, &mut buffer, NonZeroUsize::MIN) {
            bytes += t.len;
            let from = spoofed.unwrap_or(resident.address);
            self.to_service.push_back((now + LATENCY, from, buffer[..t.len].to_vec()));
        }
        bytes
    }

    /// Strangers' packets come to the service; nothing is allocated here.
    pub(crate) fn strike(&mut self, packets: &mut [Datagram<'_>]) {
        self.service.handle_datagrams(self.now, packets, &mut self.dispositions);
    }

    /// What the service has to say at once; `true` if there is something, which [`Town::deliver`] brings on its way.
    pub(crate) fn collect(&mut self) -> bool {
        self.batch.clear();
        self.service.poll_transmit(self.now, &mut self.batch) > 0
    }

    /// Sends what was collected.
    pub(crate) fn deliver(&mut self) {
        for (t, bytes) in self.batch.iter() {
            let size = t.segment_size.map_or(bytes.len(), |s| usize::from(s.get()));
            for packet in bytes.chunks(size) {
                match self.residents.iter().position(|r| r.address == t.path.remote) {
                    Some(n) => self.to_devices.push_back((self.now + LATENCY, n, packet.to_vec())),
                    None => self.astray.push((t.path.remote, packet.len())),
                }
            }
        }
    }

    pub(crate) fn drain_service(&mut self) {
        while self.collect() {
            self.deliver();
        }
        while self.service.poll_event().is_some() {}
        self.service.drain_positions(8, |_, _, _, _| {});
    }
}
