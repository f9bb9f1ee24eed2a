//! What the steady path allocates: nothing per packet, and one buffer per payload at each end.
//!
//! The loop between the two machines is part of what is measured, so it has fixed buffers itself.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use allocation_counter::{AllocationInfo, measure};
use bytes::Bytes;
use mpp_proto::*;

const ACCOUNT: &str = "alice@example.com";
const LINK: LinkId = LinkId(0);
const SERVICE: &str = "192.0.2.1:15096";
const DEVICE: &str = "198.51.100.7:4000";

/// Rounds until every queue has its size. The longest is that of the events of all rings, which is swept when it holds
/// a little more than 1,024 names of events that are gone.
const WARM_UP: usize = 1200;
/// Rounds that are measured.
const ROUNDS: u64 = 500;

/// A connected pair with nothing between its machines.
struct Pair {
    now: Instant,
    device: Device,
    service: Service,
    service_path: Path,
    device_path: Path,
    batch: TransmitBatch,
    dispositions: Vec<Disposition>,
    packets: u64,
    notifications: u64,
}

impl Pair {
    fn connected() -> Self {
        let now = Instant::from_micros(5_000_000);
        let unix = UnixTime::from_millis(1_800_000_000_000);
        let key = TicketKey::new(*b"key1", [7; 32]);
        let config = Arc::new(ServiceConfig::new(ServiceSecret::new([9; 32]), vec![key.clone()]));
        let service_address: SocketAddr = SERVICE.parse().unwrap();
        let device_address: SocketAddr = DEVICE.parse().unwrap();
        let spec = TicketSpec {
            endpoints: vec![Endpoint::Address(service_address)],
            account: ACCOUNT.into(),
            device: DeviceId([1; 16]),
            rights: Rights::default(),
            issued: unix,
            expiry: unix + Duration::from_secs(86_400 * 30),
        };
        let ticket = key.mint(&spec, &[3; 32]).unwrap();
        let device_config = Arc::new(DeviceConfig::default());
        let mut pair = Self {
            now,
            device: Device::new(device_config, ticket, None, Seed::new([2; 32]), now, unix),
            service: Service::new(config, ShardId(0), Seed::new([1; 32]), now, unix),
            service_path: Path::new(LINK, service_address),
            device_path: Path::new(LINK, device_address),
            batch: TransmitBatch::new(32),
            dispositions: Vec::with_capacity(32),
            packets: 0,
            notifications: 0,
        };
        pair.run();
        while let Some(event) = pair.device.poll_event() {
            if let DeviceEvent::OpenLink { link, kind: LinkKind::Udp(_) } = event {
                pair.service_path.link = link;
                pair.device.handle_link(pair.now, link, LinkState::Open { local: device_address });
            }
        }
        pair.run();
        assert_eq!(pair.device.state(), ConnectionState::Connected);
        pair
    }

    /// Lets time pass in small steps, as a host with other things to do would.
    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.now = (self.now + Duration::from_millis(10)).min(end);
            self.run();
        }
    }

    /// Exchanges packets until both machines are silent at this time.
    fn run(&mut self) {
        let mut buffer = [0; 1452];
        loop {
            let before = self.packets;
            self.device.handle_timeout(self.now);
            assert_eq!(self.service.handle_timeout(self.now, NonZeroUsize::MAX), Progress::Done);
            while let Some(t) = self.device.poll_transmit(self.now, &mut buffer, NonZeroUsize::MIN) {
                self.packets += 1;
                let mut received =
                    [Datagram { path: self.device_path, payload: buffer.get_mut(..t.len).unwrap() }];
                self.service.handle_datagrams(self.now, &mut received, &mut self.dispositions);
                assert_eq!(self.dispositions, [Disposition::Accepted]);
            }
            while self.service.poll_transmit(self.now, &mut self.batch) > 0 {
                for (t, bytes) in self.batch.iter() {
                    for packet in bytes.chunks(t.segment_size.map_or(bytes.len(), |s| usize::from(s.get()))) {
                        self.packets += 1;
                        let payload = buffer.get_mut(..packet.len()).unwrap();
                        payload.copy_from_slice(packet);
                        let datagram = Datagram { path: self.service_path, payload };
                        assert_eq!(self.device.handle_datagram(self.now, datagram), Disposition::Accepted);
                    }
                }
                self.batch.clear();
            }
            while self.device.poll_notification(self.now).is_some() {
                self.notifications += 1;
            }
            while self.service.poll_event().is_some() {}
            self.service.drain_positions(8, |_, _, _, _| {});
            if self.packets == before {
                return;
            }
        }
    }

    /// What `ROUNDS` rounds allocate after the warm-up, how many packets they take and how many notifications.
    fn steady(&mut self, mut round: impl FnMut(&mut Self)) -> (AllocationInfo, u64, u64) {
        // Heartbeats come in between, and the first one fills a queue that was empty so far.
        self.pass(Duration::from_secs(60));
        (0..WARM_UP).for_each(|_| round(self));
        let (packets, notifications) = (self.packets, self.notifications);
        let info = measure(|| (0..ROUNDS).for_each(|_| round(self)));
        (info, self.packets - packets, self.notifications - notifications)
    }
}

#[test]
fn a_heartbeat_and_its_status_allocate_nothing() {
    let mut pair = Pair::connected();
    let before = pair.device.stats().heartbeats;
    let (info, packets, _) = pair.steady(|pair| pair.pass(Duration::from_secs(25)));
    assert!(pair.device.stats().heartbeats - before >= ROUNDS + WARM_UP as u64);
    assert!(packets >= 2 * ROUNDS, "{packets} packets");
    assert_eq!(info.count_total, 0, "{info:?} for {packets} packets");
}

#[test]
fn a_notification_without_payload_allocates_nothing() {
    let mut pair = Pair::connected();
    let account = AccountId::of(ACCOUNT);
    let (info, packets, notifications) = pair.steady(|pair| {
        pair.service.publish(pair.now, &account, Event::changed(StoreId::INBOUND)).unwrap();
        // Long enough for the position to go back.
        pair.pass(Duration::from_millis(100));
    });
    assert_eq!(notifications, ROUNDS);
    assert!(packets >= 2 * ROUNDS, "{packets} packets");
    assert_eq!(info.count_total, 0, "{info:?} for {packets} packets");
}

#[test]
fn a_payload_of_one_packet_is_one_allocation_at_the_device() {
    payload(64);
}

#[test]
fn a_payload_of_sixteen_packets_is_one_allocation_at_the_device() {
    payload(MAX_PAYLOAD);
}

/// Publishes payloads of `size` bytes. Their own buffers are made before, so that what is counted is the machines'.
fn payload(size: usize) {
    let mut pair = Pair::connected();
    let account = AccountId::of(ACCOUNT);
    let mut payloads: Vec<Bytes> = (0..WARM_UP as u64 + ROUNDS)
        .map(|i| {
            let payload = Bytes::from(vec![i as u8; size]);
            // The count of references is made with the second one.
            drop(payload.clone());
            payload
        })
        .collect();
    let (info, packets, notifications) = pair.steady(|pair| {
        let payload = payloads.pop().unwrap();
        pair.service.publish(pair.now, &account, Event::with_payload(StoreId::INBOUND, payload)).unwrap();
        pair.pass(Duration::from_millis(100));
    });
    assert_eq!(notifications, ROUNDS);
    assert_eq!(info.count_total, ROUNDS, "{info:?} for {packets} packets");
}

/// Devices by Web in the next test, and what each request that is held takes at most, as `ServiceConfig` and SPEC.md say.
const HELD: u64 = 10_000;
const BYTES_HELD: i64 = 112;

/// Connects by Web and gives the request that is to wait.
fn waiting_request(service: &mut Service, device: &mut Device, now: Instant, id: &mut u64) -> Vec<u8> {
    let (mut packet, mut body) = ([0; 1452], Vec::new());
    let local: SocketAddr = DEVICE.parse().unwrap();
    device.handle_timeout(now);
    loop {
        while let Some(event) = device.poll_event() {
            if let DeviceEvent::OpenLink { link, .. } = event {
                device.handle_link(now, link, LinkState::Open { local });
            }
        }
        // There is no UDP.
        while device.poll_transmit(now, &mut packet, NonZeroUsize::MIN).is_some() {}
        let made = device.poll_web(now, &mut packet).expect("a device that asks");
        if made.wait.is_some() {
            return packet[..made.len].to_vec();
        }
        *id += 1;
        let request =
            WebRequest { id: WebId(*id), remote: local, wait: None, packet: &mut packet[..made.len] };
        assert_eq!(service.handle_web_request(now, request), Disposition::Accepted);
        assert_eq!(service.poll_web(now, &mut body), Some(WebId(*id)));
        device.handle_web_answer(now, made.id, WebAnswer::Packets(&mut body));
        while service.poll_event().is_some() {}
    }
}

#[test]
fn ten_thousand_held_requests_cost_what_is_documented() {
    let start = Instant::from_micros(5_000_000);
    let unix = UnixTime::from_millis(1_800_000_000_000);
    let key = TicketKey::new(*b"key1", [7; 32]);
    let mut config = ServiceConfig::new(ServiceSecret::new([9; 32]), vec![key.clone()]);
    config.connects_per_second = 200_000;
    config.forward_secrecy = false;
    let mut service = Service::new(Arc::new(config), ShardId(0), Seed::new([1; 32]), start, unix);
    let device_config = Arc::new(DeviceConfig::default());
    // UDP is silent for so long before the Web is tried.
    let now = start + Duration::from_secs(3);
    let (mut id, mut requests) = (0, Vec::new());
    for n in 0..HELD {
        let spec = TicketSpec {
            endpoints: vec![Endpoint::Address(SERVICE.parse().unwrap())],
            account: format!("account {n}"),
            device: DeviceId([1; 16]),
            rights: Rights::default(),
            issued: unix,
            expiry: unix + Duration::from_secs(86_400),
        };
        let ticket = key.mint(&spec, &[3; 32]).unwrap();
        let mut seed = [2; 32];
        seed[..8].copy_from_slice(&n.to_be_bytes());
        let mut device = Device::new(Arc::clone(&device_config), ticket, None, Seed::new(seed), start, unix);
        // Long enough to begin.
        let local = DEVICE.parse().unwrap();
        device.handle_timeout(start);
        while let Some(event) = device.poll_event() {
            if let DeviceEvent::OpenLink { link, .. } = event {
                device.handle_link(start, link, LinkState::Open { local });
            }
        }
        while device.poll_transmit(start, &mut [0; 1452], NonZeroUsize::MIN).is_some() {}
        requests.push(waiting_request(&mut service, &mut device, now, &mut id));
    }
    assert_eq!(service.stats().connected, HELD);
    let remote = DEVICE.parse().unwrap();
    let mut ask = |service: &mut Service, id: u64| {
        let packet = requests[usize::try_from(id).unwrap()].as_mut_slice();
        let wait = Some(Duration::from_secs(50));
        let request = WebRequest { id: WebId(id), remote, wait, packet };
        assert_eq!(service.handle_web_request(now, request), Disposition::Accepted);
    };
    let info = measure(|| (0..HELD).for_each(|id| ask(&mut service, id)));
    assert_eq!(service.stats().web_held, HELD);
    let each = info.bytes_current / HELD as i64;
    println!("{each} bytes for each of {HELD} held requests");
    assert!((1..=BYTES_HELD).contains(&each), "{each} bytes each: {info:?}");
    // What was held once is used again: nothing is left behind by those who hang up.
    (0..HELD).for_each(|id| service.handle_web_closed(now, WebId(id)));
    assert_eq!(service.stats().web_held, 0);
}
