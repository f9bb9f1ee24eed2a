//! Many devices and one service: what happens when all of them come at once.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use mpp_proto::*;

use crate::harness::{service_output, spec, unix};

const STEP: Duration = Duration::from_millis(5);
const LINK: LinkId = LinkId(0);

struct Member {
    device: Device,
    address: SocketAddr,
    due: Option<Instant>,
    /// What is on its way to it.
    incoming: VecDeque<(Instant, Vec<u8>)>,
}

/// Time goes in steps, and a packet takes 20 to 60 ms.
struct Crowd {
    now: Instant,
    service: Service,
    config: Arc<ServiceConfig>,
    members: Vec<Member>,
    to_service: VecDeque<(Instant, SocketAddr, Vec<u8>)>,
    /// The service is away.
    down: bool,
    /// When each exchange was completed.
    completed: Vec<Instant>,
    /// Packets of exchanges that devices sent.
    knocks: usize,
}

impl Crowd {
    fn new(size: u16, connects_per_second: u32) -> Self {
        let key = TicketKey::new(*b"key1", [7; 32]);
        let mut config = ServiceConfig::new(ServiceSecret::new([9; 32]), vec![key.clone()]);
        config.connects_per_second = connects_per_second;
        let config = Arc::new(config);
        let now = Instant::from_micros(5_000_000);
        let service = Service::new(Arc::clone(&config), ShardId(0), Seed::new([1; 32]), now, unix(now));
        let device_config = Arc::new(DeviceConfig::default());
        let members = (0..size).map(|i| {
            let [a, b] = i.to_be_bytes();
            let mut seed = [2; 32];
            seed[..2].copy_from_slice(&[a, b]);
            let mut spec = spec(now, Duration::from_secs(86_400));
            spec.device.0[..2].copy_from_slice(&[a, b]);
            let ticket = key.mint(&spec, &seed).unwrap();
            let device =
                Device::new(Arc::clone(&device_config), ticket, None, Seed::new(seed), now, unix(now));
            Member {
                device,
                address: SocketAddr::from(([10, 0, a, b], 4000)),
                due: Some(now),
                incoming: VecDeque::new(),
            }
        });
        Self {
            now,
            service,
            config,
            members: members.collect(),
            to_service: VecDeque::new(),
            down: false,
            completed: Vec::new(),
            knocks: 0,
        }
    }

    fn connected(&self) -> usize {
        self.members.iter().filter(|m| m.device.state() == ConnectionState::Connected).count()
    }

    fn restart(&mut self, seed: u8) {
        let seed = Seed::new([seed; 32]);
        self.service = Service::new(Arc::clone(&self.config), ShardId(0), seed, self.now, unix(self.now));
        self.down = false;
        self.completed.clear();
        self.knocks = 0;
    }

    fn step(&mut self) {
        self.now = self.now + STEP;
        let now = self.now;
        while self.to_service.front().is_some_and(|(at, ..)| *at <= now) {
            let (_, from, mut packet) = self.to_service.pop_front().unwrap();
            if !self.down {
                let mut dispositions = Vec::new();
                let mut batch = [Datagram { path: Path::new(LINK, from), payload: &mut packet }];
                self.service.handle_datagrams(now, &mut batch, &mut dispositions);
            }
        }
        if !self.down {
            assert_eq!(self.service.handle_timeout(now, NonZeroUsize::MAX), Progress::Done);
            while self.service.poll_event().is_some() {}
            for (i, (to, packet)) in service_output(&mut self.service, now).into_iter().enumerate() {
                if packet.len() >= 1200 {
                    self.completed.push(now);
                }
                let SocketAddr::V4(v4) = to else { panic!() };
                let [_, _, a, b] = v4.ip().octets();
                let latency = Duration::from_millis(20 + i as u64 % 40);
                self.members[usize::from(u16::from_be_bytes([a, b]))]
                    .incoming
                    .push_back((now + latency, packet));
            }
        }
        let mut buffer = [0; 1452];
        for member in &mut self.members {
            let Member { device, address, due, incoming } = member;
            if due.is_none_or(|at| at > now) && incoming.front().is_none_or(|(at, _)| *at > now) {
                continue;
            }
            while incoming.front().is_some_and(|(at, _)| *at <= now) {
                let (_, mut packet) = incoming.pop_front().unwrap();
                let path = Path::new(LINK, "192.0.2.1:15096".parse().unwrap());
                let _ = device.handle_datagram(now, Datagram { path, payload: &mut packet });
            }
            device.handle_timeout(now);
            while let Some(event) = device.poll_event() {
                if let DeviceEvent::OpenLink { link, kind: LinkKind::Udp(_) } = event {
                    device.handle_link(now, link, LinkState::Open { local: *address });
                }
            }
            while let Some(t) = device.poll_transmit(now, &mut buffer, NonZeroUsize::MIN) {
                let packet = buffer[..t.len].to_vec();
                self.knocks += usize::from(packet.starts_with(&[0; 16]));
                self.to_service.push_back((now + Duration::from_millis(20), *address, packet));
            }
            *due = device.poll_timeout().map(|w| w.at);
        }
    }

    /// Runs until this many are connected; how long that took.
    fn until_connected(&mut self, count: usize, patience: Duration) -> Duration {
        let start = self.now;
        while self.connected() < count {
            self.step();
            assert!(self.now.since(start) < patience, "{} of {count} after {patience:?}", self.connected());
        }
        self.now.since(start)
    }

    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.step();
        }
    }

    /// The most exchanges that were completed within a second.
    fn peak(&self) -> usize {
        let within = |(i, first): (usize, &Instant)| {
            self.completed[i..].iter().take_while(|at| at.since(*first) < Duration::from_secs(1)).count()
        };
        self.completed.iter().enumerate().map(within).max().unwrap_or(0)
    }
}

/// As many devices, and how many of them may come in a second.
const SIZE: u16 = 500;
const LIMIT: u32 = 50;
/// Places in the queue are a little further apart than the limit has it.
const QUEUE: Duration = Duration::from_millis(500 * 25);

#[test]
fn a_crowd_comes_in_as_fast_as_the_limit_allows_and_no_faster() {
    let mut crowd = Crowd::new(SIZE, LIMIT);
    let took = crowd.until_connected(SIZE.into(), Duration::from_secs(60));
    assert!(crowd.peak() <= LIMIT as usize, "{} in a second", crowd.peak());
    // A lost race for a token costs a few seconds.
    assert!(took < QUEUE + Duration::from_secs(8), "{took:?}");
    // Step 1, again with the proof, and both again when it is its turn.
    assert!(crowd.knocks < 5 * usize::from(SIZE), "{} packets", crowd.knocks);
    let stats = crowd.service.stats();
    assert!(stats.refused_for(RefusalReason::Busy) < u64::from(SIZE) * 5 / 4, "{stats:?}");
    assert!(stats.shares_left_out > 0, "in a storm the dear part is left out");
}

#[test]
fn a_restart_is_no_storm() {
    let mut crowd = Crowd::new(SIZE, LIMIT);
    crowd.until_connected(SIZE.into(), Duration::from_secs(60));
    crowd.run(Duration::from_secs(30));
    crowd.restart(3);
    // Within an interval each of them says something, and either is told or finds out.
    crowd.run(Duration::from_secs(10));
    assert!(crowd.service.stats().resets > 0);
    crowd.until_connected(usize::from(SIZE) * 99 / 100, Duration::from_secs(40 + 20));
    assert!(crowd.peak() <= LIMIT as usize, "{} in a second", crowd.peak());
    crowd.until_connected(SIZE.into(), Duration::from_secs(60));
}

#[test]
fn after_an_outage_they_are_back_within_their_back_off_and_the_queue() {
    let mut crowd = Crowd::new(SIZE, LIMIT);
    crowd.until_connected(SIZE.into(), Duration::from_secs(60));
    crowd.down = true;
    crowd.run(Duration::from_secs(300));
    assert_eq!(crowd.connected(), 0);
    crowd.restart(3);
    let took = crowd.until_connected(usize::from(SIZE) * 99 / 100, Duration::from_secs(100));
    assert!(took < Duration::from_secs(71) + QUEUE, "{took:?}");
    assert!(crowd.peak() <= LIMIT as usize, "{} in a second", crowd.peak());
}
