//! A device, a service, and a network that does what the fuzzer says.

use alloc::collections::{BTreeMap, VecDeque};
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use core::net::{Ipv4Addr, SocketAddr};
use core::num::NonZeroUsize;
use core::time::Duration;

use bytes::Bytes;

use super::by_web::{Mode, Web};
use crate::batch::TransmitBatch;
use crate::channel::{Event, NotificationKind};
use crate::crypto::{ServiceSecret, TicketKey, TicketSpec};
use crate::device::{ConnectionState, Device, DeviceConfig, DeviceEvent, LinkKind, LinkState, Resume};
use crate::ids::{AccountId, DeviceId, Epoch, Rights, Serial, ShardId};
use crate::path::{Datagram, Disposition, LinkId, Path};
use crate::random::Seed;
use crate::service::{Progress, Service, ServiceConfig};
use crate::time::{Instant, UnixTime};
use crate::wire::{Endpoint, Ticket};

pub(super) const ACCOUNT: &str = "alice@example.com";
pub(super) const LATENCY: Duration = Duration::from_millis(20);
/// Packets on their way at most; what comes on top is lost, as in any queue.
const QUEUE: usize = 256;
/// Turns that one call may take. More would be a machine that does not let time pass.
const MAX_TURNS: usize = 200_000;
/// Of these, turns in which no time passes.
const MAX_TURNS_AT_ONCE: usize = 20;

pub(super) fn service_address() -> SocketAddr {
    (Ipv4Addr::new(192, 0, 2, 1), 15_096).into()
}

pub(super) fn device_address() -> SocketAddr {
    (Ipv4Addr::new(198, 51, 100, 7), 4000).into()
}

fn unix(now: Instant) -> UnixTime {
    UnixTime::from_millis(1_800_000_000_000 + now.as_millis())
}

struct InFlight {
    at: Instant,
    to_service: bool,
    bytes: Vec<u8>,
    /// Something on the way has changed it.
    damaged: bool,
}

/// What the network does to each packet.
#[derive(Clone, Copy, Default)]
pub(super) struct Weather {
    /// Packets lost in 256; 255 is all of them, here and below.
    pub(super) loss: u8,
    /// Packets doubled in 256.
    pub(super) twice: u8,
    /// Packets that take a second longer, in 256.
    pub(super) late: u8,
    /// Packets with a flipped bit, in 256.
    pub(super) damage: u8,
}

pub(super) struct World {
    pub(super) now: Instant,
    pub(super) device: Device,
    pub(super) service: Service,
    pub(super) weather: Weather,
    /// UDP is dropped, both ways.
    pub(super) udp_off: bool,
    pub(super) web: Web,
    pub(super) ticket: Ticket,
    /// The first packet of the device and of the service since they were started.
    pub(super) firsts: [Option<Vec<u8>>; 2],
    service_config: Arc<ServiceConfig>,
    device_config: Arc<DeviceConfig>,
    link: LinkId,
    /// The socket of the probes, once there was one.
    probe_link: Option<LinkId>,
    turn: u32,
    wire: VecDeque<InFlight>,
    batch: TransmitBatch,
    dispositions: Vec<Disposition>,
    random: u64,
    seeds: u8,
    /// Every payload that was published.
    published: BTreeMap<(Epoch, Serial), Bytes>,
    /// The last event that the application was given.
    given: (Epoch, Serial),
}

impl World {
    /// Both are there, and nothing has been sent. Without X25519, which takes most of the time of a run and has its own
    /// tests.
    pub(super) fn new() -> Self {
        let now = Instant::from_micros(5_000_000);
        let key = TicketKey::new(*b"key1", [7; 32]);
        let service_config = Arc::new(ServiceConfig {
            capacity: 16,
            accounts: 16,
            forward_secrecy: false,
            ..ServiceConfig::new(ServiceSecret::new([9; 32]), vec![key.clone()])
        });
        let device_config = Arc::new(DeviceConfig { forward_secrecy: false, ..DeviceConfig::default() });
        let spec = TicketSpec {
            endpoints: vec![Endpoint::Address(service_address())],
            account: ACCOUNT.into(),
            device: DeviceId([1; 16]),
            rights: Rights::default(),
            issued: unix(now),
            expiry: unix(now) + Duration::from_secs(86_400 * 365),
        };
        let ticket = key.mint(&spec, &[3; 32]).expect("all parts of the ticket are within their limits");
        let (config, seed) = (Arc::clone(&service_config), Seed::new([1; 32]));
        let service = Service::new(config, ShardId(0), seed, now, unix(now));
        let (config, seed) = (Arc::clone(&device_config), Seed::new([2; 32]));
        let device = Device::new(config, ticket.clone(), None, seed, now, unix(now));
        Self {
            now,
            device,
            service,
            weather: Weather::default(),
            udp_off: false,
            web: Web::default(),
            ticket,
            firsts: [None, None],
            service_config,
            device_config,
            link: LinkId(0),
            probe_link: None,
            turn: 0,
            wire: VecDeque::new(),
            batch: TransmitBatch::new(32),
            dispositions: Vec::new(),
            random: 1,
            seeds: 2,
            published: BTreeMap::new(),
            given: (Epoch::NONE, Serial::ZERO),
        }
    }

    pub(super) fn connected() -> Self {
        let mut world = Self::new();
        world.run(Duration::from_secs(1));
        assert_eq!(world.device.state(), ConnectionState::Connected);
        world
    }

    fn seed(&mut self) -> Seed {
        self.seeds = self.seeds.wrapping_add(1);
        let mut seed = [self.seeds; 32];
        seed[0] = 0xff;
        Seed::new(seed)
    }

    /// The process of the service ends, and another one begins with the same keys and nothing else.
    pub(super) fn restart_service(&mut self) {
        let (config, seed) = (Arc::clone(&self.service_config), self.seed());
        self.service = Service::new(config, ShardId(0), seed, self.now, unix(self.now));
        self.forget_held();
    }

    /// The process of the device ends, and another one begins with what was saved.
    pub(super) fn restart_device(&mut self, keep: bool) {
        let resume = keep.then(|| {
            Resume::from_bytes(&self.device.resume().to_bytes()).expect("what was saved can be read")
        });
        // What it was given but had not asked past comes again.
        self.given = resume.as_ref().map_or((Epoch::NONE, Serial::ZERO), |r| (r.epoch(), r.position()));
        self.hang_up();
        let (config, seed) = (Arc::clone(&self.device_config), self.seed());
        let ticket = self.ticket.clone();
        self.device = Device::new(config, ticket, resume, seed, self.now, unix(self.now));
    }

    pub(super) fn account() -> AccountId {
        AccountId::of(ACCOUNT)
    }

    /// Publishes, if the channel is open already.
    pub(super) fn publish(&mut self, event: Event) {
        let payload = event.payload().cloned();
        if let Ok(serial) = self.service.publish(self.now, &Self::account(), event) {
            let head = self.service.head(&Self::account()).expect("it has just taken an event");
            if let (Some(epoch), Some(payload)) = (head.epoch, payload) {
                self.published.insert((epoch, serial), payload);
            }
        }
    }

    /// Runs both machines at their deadlines for this long.
    pub(super) fn run(&mut self, time: Duration) {
        let end = self.now + time;
        let mut turns_at_once = 0;
        for _ in 0..MAX_TURNS {
            self.drain();
            let deadlines = [
                self.wire.iter().map(|p| p.at).min(),
                self.web.next_arrival(),
                self.device.poll_timeout().map(|w| w.at),
                self.service.poll_timeout().map(|w| w.at),
                Some(end),
            ];
            let next = deadlines.into_iter().flatten().min().unwrap_or(end);
            // What was said at this time may have made something due at once.
            let next = next.max(self.now);
            turns_at_once = if next > self.now { 0 } else { turns_at_once + 1 };
            assert!(turns_at_once < MAX_TURNS_AT_ONCE, "time stands still: {deadlines:?}");
            self.now = next;
            self.arrive();
            self.arrive_by_web();
            self.device.handle_timeout(next);
            assert!(self.device.poll_timeout().is_none_or(|w| w.at > next), "a stale deadline of the device");
            assert_eq!(self.service.handle_timeout(next, NonZeroUsize::MAX), Progress::Done);
            let stale = self.service.poll_timeout().is_some_and(|w| w.at <= next);
            assert!(!stale, "a stale deadline of the service");
            if next == end {
                self.drain();
                return;
            }
        }
        panic!("a machine is busy without an end");
    }

    fn arrive(&mut self) {
        while let Some(at) = self.wire.iter().position(|p| p.at <= self.now) {
            let Some(InFlight { to_service, mut bytes, damaged, .. }) = self.wire.remove(at) else { return };
            let disposition = if to_service {
                self.deliver_to_service(&mut bytes)
            } else {
                let path = Path::new(self.arrival(), service_address());
                let before = bytes.clone();
                let disposition =
                    self.device.handle_datagram(self.now, Datagram { path, payload: &mut bytes });
                assert!(
                    disposition == Disposition::Accepted || bytes == before,
                    "a refused packet was changed"
                );
                disposition
            };
            // Resets, challenges and errors in clear prove nothing, so a change in one need not be seen.
            let proves = bytes.len() > 96;
            assert!(
                !(damaged && proves && disposition == Disposition::Accepted),
                "a damaged packet was taken"
            );
        }
    }

    /// Gives the service a packet from the device's address.
    pub(super) fn deliver_to_service(&mut self, bytes: &mut [u8]) -> Disposition {
        let before = bytes.to_vec();
        let path = Path::new(LinkId(0), device_address());
        let mut received = [Datagram { path, payload: &mut *bytes }];
        self.service.handle_datagrams(self.now, &mut received, &mut self.dispositions);
        let disposition = *self.dispositions.first().expect("one for each datagram");
        assert!(disposition == Disposition::Accepted || *bytes == *before, "a refused packet was changed");
        disposition
    }

    /// Gives the device a packet from the service's address.
    pub(super) fn deliver_to_device(&mut self, bytes: &mut [u8]) -> Disposition {
        let before = bytes.to_vec();
        let path = Path::new(self.arrival(), service_address());
        let disposition = self.device.handle_datagram(self.now, Datagram { path, payload: &mut *bytes });
        assert!(disposition == Disposition::Accepted || *bytes == *before, "a refused packet was changed");
        disposition
    }

    /// Over which socket a packet comes: nobody remembers which of them it was asked for over.
    fn arrival(&mut self) -> LinkId {
        self.turn = self.turn.wrapping_add(1);
        self.probe_link.filter(|_| self.turn.is_multiple_of(2)).unwrap_or(self.link)
    }

    /// Takes everything that the machines have to say at this time.
    pub(super) fn drain(&mut self) {
        let mut buffer = [0; 1452];
        for _ in 0..MAX_TURNS {
            let mut idle = true;
            while let Some(event) = self.device.poll_event() {
                idle = false;
                match event {
                    DeviceEvent::OpenLink { link, kind: LinkKind::Web } => {
                        let there = self.web.mode != Mode::None;
                        self.web.link = there.then_some(link);
                        let open = LinkState::Open { local: device_address() };
                        let state = if there { open } else { LinkState::Failed };
                        self.device.handle_link(self.now, link, state);
                    }
                    DeviceEvent::CloseLink(link) if self.web.link == Some(link) => self.hang_up(),
                    _ => {}
                }
                if let DeviceEvent::OpenLink {
                    link,
                    kind: kind @ (LinkKind::Udp(_) | LinkKind::Asking(_) | LinkKind::Probe(_)),
                } = event
                {
                    match kind {
                        LinkKind::Udp(_) => self.link = link,
                        LinkKind::Probe(_) => self.probe_link = Some(link),
                        _ => {}
                    }
                    self.device.handle_link(self.now, link, LinkState::Open { local: device_address() });
                }
            }
            while let Some(notification) = self.device.poll_notification(self.now) {
                idle = false;
                if let NotificationKind::Event { serial, payload, .. } = notification.kind {
                    self.check_event(serial, &payload);
                }
            }
            while let Some(t) = self.device.poll_transmit(self.now, &mut buffer, NonZeroUsize::MIN) {
                idle = false;
                self.send(true, &buffer[..t.len]);
            }
            let mut batch = core::mem::replace(&mut self.batch, TransmitBatch::new(0));
            while self.service.poll_transmit(self.now, &mut batch) > 0 {
                idle = false;
                for (t, bytes) in batch.iter() {
                    let size = t.segment_size.map_or(t.len.max(1), |s| usize::from(s.get()));
                    bytes.chunks(size).for_each(|packet| self.send(false, packet));
                }
                batch.clear();
            }
            self.batch = batch;
            while let Some(t) = self.device.poll_web(self.now, &mut buffer) {
                idle = false;
                self.web.ask(self.now, &t, &buffer[..t.len]);
            }
            self.drain_web();
            while self.service.poll_event().is_some() {
                idle = false;
            }
            if idle {
                return;
            }
        }
        panic!("a machine talks without an end");
    }

    /// In order, once, and what was published.
    fn check_event(&mut self, serial: Serial, payload: &Bytes) {
        let epoch = self.device.resume().epoch();
        let (last_epoch, last) = self.given;
        assert!(epoch != last_epoch || serial > last, "{serial:?} after {last:?}");
        if let Some(published) = self.published.get(&(epoch, serial)) {
            assert!(published == payload, "not what was published");
        }
        self.given = (epoch, serial);
    }

    pub(super) fn chance(&mut self, in_256: u8) -> bool {
        self.random =
            self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let drawn = (self.random >> 40) as u8;
        in_256 == u8::MAX || drawn < in_256
    }

    fn send(&mut self, to_service: bool, packet: &[u8]) {
        let first = &mut self.firsts[usize::from(!to_service)];
        if first.is_none() {
            *first = Some(packet.to_vec());
        }
        let Weather { loss, twice, late, damage } = self.weather;
        let copies = if self.chance(twice) { 2 } else { 1 };
        for _ in 0..copies {
            if self.chance(loss) || self.udp_off || self.wire.len() >= QUEUE {
                continue;
            }
            let delay = if self.chance(late) { Duration::from_secs(1) } else { Duration::ZERO };
            let mut bytes = packet.to_vec();
            let damaged = self.chance(damage);
            if damaged {
                let at = (self.random >> 20) as usize % bytes.len();
                bytes[at] ^= 1 << (self.random >> 50 & 7);
            }
            self.wire.push_back(InFlight { at: self.now + LATENCY + delay, to_service, bytes, damaged });
        }
    }
}
