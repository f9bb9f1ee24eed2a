//! A device that learns how rarely it may speak: a device and a service on a virtual clock, and between them a box that
//! forgets silent sockets.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use mpp_proto::*;

const LATENCY: Duration = Duration::from_millis(20);
const ACCOUNT: &str = "alice@example.com";
const HOME: NetworkId = NetworkId([1; 16]);
const CAFE: NetworkId = NetworkId([2; 16]);

fn secs(s: u64) -> Duration {
    Duration::from_secs(s)
}

fn unix(now: Instant) -> UnixTime {
    UnixTime::from_millis(1_800_000_000_000 + now.as_millis())
}

fn at_service() -> SocketAddr {
    "192.0.2.1:15096".parse().unwrap()
}

/// What became of a socket in the box.
#[derive(Clone, Copy)]
struct Mapping {
    port: u16,
    until: Instant,
}

struct Net {
    now: Instant,
    device: Device,
    service: Service,
    /// The box forgets a socket after so long without a packet from inside, and gives it the same port again, or another.
    lifetime: Duration,
    preserving: bool,
    /// Packets that are lost, of those that pass from now on.
    lose: VecDeque<bool>,
    sockets: BTreeMap<LinkId, LinkKind>,
    mappings: BTreeMap<LinkId, Mapping>,
    next_port: u16,
    wire: Vec<(Instant, Option<u16>, LinkId, Vec<u8>)>,
    /// What the device sent: when, over what, how large.
    sent: Vec<(Instant, LinkKind, usize)>,
    events: Vec<(Instant, DeviceEvent)>,
    notified: Vec<Instant>,
    no_probe_socket: bool,
    /// So many packets to the socket of the probes are lost.
    lose_to_probes: usize,
    /// What is for the socket of the probes comes to the connection's.
    divert: bool,
    /// Nothing gets through over the connection's socket.
    cut: bool,
    /// The application takes no notifications.
    busy: bool,
}

impl Net {
    fn new(lifetime: Duration, device: DeviceConfig) -> Self {
        Self::with(lifetime, device, None, |_| ())
    }

    fn with(
        lifetime: Duration,
        device: DeviceConfig,
        resume: Option<Resume>,
        change: impl FnOnce(&mut ServiceConfig),
    ) -> Self {
        let now = Instant::from_micros(5_000_000);
        let key = TicketKey::new(*b"key1", [7; 32]);
        let mut config = ServiceConfig::new(ServiceSecret::new([9; 32]), vec![key.clone()]);
        change(&mut config);
        let spec = TicketSpec {
            endpoints: vec![Endpoint::Address(at_service())],
            account: ACCOUNT.into(),
            device: DeviceId([1; 16]),
            rights: Rights::default(),
            issued: unix(now),
            expiry: unix(now) + secs(90 * 86_400),
        };
        let ticket = key.mint(&spec, &[3; 32]).unwrap();
        Self {
            now,
            device: Device::new(Arc::new(device), ticket, resume, Seed::new([2; 32]), now, unix(now)),
            service: Service::new(Arc::new(config), ShardId(0), Seed::new([1; 32]), now, unix(now)),
            lifetime,
            preserving: false,
            lose: VecDeque::new(),
            sockets: BTreeMap::new(),
            mappings: BTreeMap::new(),
            next_port: 4000,
            wire: Vec::new(),
            sent: Vec::new(),
            events: Vec::new(),
            notified: Vec::new(),
            no_probe_socket: false,
            lose_to_probes: 0,
            divert: false,
            cut: false,
            busy: false,
        }
    }

    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            self.drain();
            let arrival = self.wire.iter().map(|(at, ..)| *at).min();
            let (device, service) = (self.device.poll_timeout(), self.service.poll_timeout());
            let next = [arrival, device.map(|w| w.at), service.map(|w| w.at), Some(end)];
            // A machine that has slept is late.
            self.now = next.into_iter().flatten().min().unwrap().max(self.now);
            while let Some(at) = self.wire.iter().position(|(at, ..)| *at <= self.now) {
                self.arrive(at);
            }
            self.device.handle_timeout(self.now);
            assert!(
                self.device.poll_timeout().is_none_or(|w| w.at > self.now),
                "a stale deadline: {device:?}"
            );
            let _ = self.service.handle_timeout(self.now, NonZeroUsize::MAX);
            if self.now == end {
                return self.drain();
            }
        }
    }

    fn arrive(&mut self, at: usize) {
        let (_, from, link, mut packet) = self.wire.remove(at);
        match from {
            Some(port) => {
                let path = Path::new(LinkId(0), ([198, 51, 100, 7], port).into());
                let mut batch = [Datagram { path, payload: &mut packet }];
                self.service.handle_datagrams(self.now, &mut batch, &mut Vec::new());
            }
            None => {
                let path = Path::new(link, at_service());
                let _ = self.device.handle_datagram(self.now, Datagram { path, payload: &mut packet });
            }
        }
    }

    fn drain(&mut self) {
        let mut buffer = [0; 1452];
        let mut batch = TransmitBatch::new(32);
        loop {
            let mut idle = true;
            while let Some(event) = self.device.poll_event() {
                idle = false;
                match event {
                    DeviceEvent::OpenLink { link, kind } => {
                        let state = if self.no_probe_socket && matches!(kind, LinkKind::Probe(_)) {
                            LinkState::Failed
                        } else {
                            self.sockets.insert(link, kind);
                            LinkState::Open { local: "10.0.0.1:4000".parse().unwrap() }
                        };
                        self.device.handle_link(self.now, link, state);
                    }
                    DeviceEvent::CloseLink(link) => {
                        assert!(self.sockets.remove(&link).is_some(), "it was open");
                    }
                    event => self.events.push((self.now, event)),
                }
            }
            while !self.busy && self.device.poll_notification(self.now).is_some() {
                idle = false;
                self.notified.push(self.now);
            }
            while let Some(t) = self.device.poll_transmit(self.now, &mut buffer, NonZeroUsize::MIN) {
                idle = false;
                let link = t.path.link;
                self.sent.push((self.now, self.sockets[&link], t.len));
                let port = self.outbound(link);
                let cut = self.cut && matches!(self.sockets[&link], LinkKind::Udp(_));
                if !self.is_lost() && !cut {
                    self.wire.push((self.now + LATENCY, Some(port), link, buffer[..t.len].to_vec()));
                }
            }
            while self.service.poll_transmit(self.now, &mut batch) > 0 {
                idle = false;
                for (t, bytes) in batch.iter() {
                    let to = |m: &Mapping| m.port == t.path.remote.port() && m.until > self.now;
                    let known = self.mappings.iter().find(|(_, m)| to(m)).map(|(link, _)| *link);
                    let size = t.segment_size.map_or(bytes.len(), |s| usize::from(s.get()));
                    for packet in bytes.chunks(size) {
                        let mut lost = self.lose.pop_front().unwrap_or(false);
                        let is_probe =
                            known.is_some_and(|l| matches!(self.sockets.get(&l), Some(LinkKind::Probe(_))));
                        if is_probe && self.lose_to_probes > 0 {
                            self.lose_to_probes -= 1;
                            lost = true;
                        }
                        lost |= self.cut && !is_probe;
                        let own = self.sockets.iter().find(|(_, kind)| matches!(kind, LinkKind::Udp(_)));
                        let own = own.map(|(link, _)| *link);
                        let known = if is_probe && self.divert { own } else { known };
                        if let Some(link) = known.filter(|_| !lost) {
                            self.wire.push((self.now + LATENCY, None, link, packet.to_vec()));
                        }
                    }
                }
                batch.clear();
            }
            while self.service.poll_event().is_some() {}
            if idle {
                return;
            }
        }
    }

    fn is_lost(&mut self) -> bool {
        self.lose.pop_front().unwrap_or(false)
    }

    fn outbound(&mut self, link: LinkId) -> u16 {
        let until = self.now + self.lifetime;
        let forgotten = self.mappings.get(&link).filter(|m| m.until <= self.now).copied();
        if forgotten.is_some() && !self.preserving {
            self.mappings.remove(&link);
        }
        let next = &mut self.next_port;
        let mapping = self.mappings.entry(link).or_insert_with(|| {
            *next += 1;
            Mapping { port: *next, until }
        });
        mapping.until = until;
        mapping.port
    }

    fn publish(&mut self) {
        let event = Event::with_payload(StoreId::INBOUND, b"hello".to_vec().into());
        self.service.publish(self.now, &AccountId::of(ACCOUNT), event).unwrap();
    }

    /// Publishes, and how long it takes.
    fn publish_and_wait(&mut self) -> Duration {
        let (start, had) = (self.now, self.notified.len());
        self.publish();
        while self.notified.len() == had {
            self.run(Duration::from_millis(100));
            assert!(self.now.since(start) < secs(400), "never delivered");
        }
        self.notified[had].since(start)
    }

    fn interval(&self) -> (u64, IntervalReason) {
        let report = self.device.keepalive();
        (report.interval.as_millis() as u64, report.reason)
    }

    fn mapping(&self) -> Vec<MappingProgress> {
        let progress = self.events.iter().filter_map(|(_, event)| match event {
            DeviceEvent::Mapping(progress) => Some(*progress),
            _ => None,
        });
        progress.collect()
    }

    /// Heartbeats and the like, and packets of probes, sent in the last `time`.
    fn sent_within(&self, time: Duration) -> (usize, usize) {
        let recent = self.sent.iter().filter(|(at, ..)| self.now.since(*at) <= time);
        let probes = recent.clone().filter(|(_, kind, _)| matches!(kind, LinkKind::Probe(_))).count();
        (recent.count() - probes, probes)
    }
}

fn config(shortest: u64) -> DeviceConfig {
    let mut config = DeviceConfig::default();
    config.network = Some(HOME);
    config.shortest_interval = secs(shortest);
    config
}

// SPEC: R-learned
#[test]
fn a_device_learns_what_its_network_allows() {
    use IntervalReason::{Forgetful, Learned, Safe};
    // How long the box remembers, and what follows from it.
    for (lifetime, shortest, interval, reason, proven, disproven) in [
        (10, 25, 25_000, Safe, 0, 25),
        (10, 5, 5_400, Forgetful, 6, 12),
        (13, 5, 10_800, Forgetful, 12, 25),
        (13, 10, 10_800, Forgetful, 12, 25),
        (5, 5, 5_000, Forgetful, 0, 6),
        (30, 25, 25_000, Safe, 25, 55),
        (56, 25, 49_500, Learned, 55, 110),
        (120, 25, 99_000, Learned, 110, 240),
        (300, 25, 216_000, Learned, 240, 0),
        (3600, 5, 216_000, Learned, 240, 0),
    ] {
        let mut net = Net::new(secs(lifetime), config(shortest));
        net.run(secs(3000));
        assert_eq!(net.interval(), (interval, reason), "{lifetime} s");
        let report = net.device.keepalive();
        let known = |s: u64| (s > 0).then(|| secs(s));
        assert_eq!((report.proven, report.disproven), (known(proven), known(disproven)), "{lifetime} s");
        assert_eq!(report.trying, None);
        assert_eq!(net.device.stats().connects, 1);
        // Half an hour at that interval, less up to a tenth.
        let before = net.device.stats().heartbeats;
        net.run(secs(1800));
        let beats = net.device.stats().heartbeats - before;
        let (least, most) = (1_800_000 / (interval + 50), 1_800_000 * 10 / interval / 9 + 1);
        assert!((least..=most).contains(&beats), "{beats} heartbeats, {least} to {most}");
    }
}

// SPEC: R-probe-quiet, R-one-probe
#[test]
fn a_probe_is_two_pairs_and_silence_and_never_two_of_them() {
    let mut net = Net::new(secs(120), config(25));
    net.run(secs(2000));
    let probes: Vec<_> = net
        .sent
        .iter()
        .filter(|(_, kind, _)| matches!(kind, LinkKind::Probe(_)))
        .map(|(at, ..)| *at)
        .collect();
    let tries = [25, 55, 110, 240, 240];
    assert_eq!(probes.len(), tries.len() * 3, "two questions and the probe for each: {:?}", net.mapping());
    for (try_, silence) in probes.chunks(3).zip(tries) {
        assert_eq!(try_[1].since(try_[0]), secs(3) + LATENCY * 2);
        assert_eq!(try_[2].since(try_[1]), LATENCY * 2);
        // Nothing until the verdict.
        let next = probes.iter().find(|at| **at > try_[2]);
        assert!(next.is_none_or(|at| at.since(try_[2]) >= secs(silence)), "{silence}");
    }
    assert!(probes[0] >= net.events[0].0 + secs(60), "not before the connection has held");
    assert_eq!(net.service.stats().probes, 5);
    assert!(net.sockets.values().all(|kind| matches!(kind, LinkKind::Udp(_))), "its socket is closed");
    // It is tried again after an hour, two hours.
    let mut tried = Vec::new();
    for _ in 0..4 * 3600 / 100 {
        net.run(secs(100));
        tried.extend(net.device.keepalive().trying);
    }
    assert!(tried.iter().all(|t| *t == secs(240)));
    assert_eq!(net.service.stats().probes, 5 + 4, "twice, twice each");
}

/// A connection that is made anew twice a minute is no place to learn.
#[test]
fn nothing_is_tried_before_a_connection_has_held() {
    let mut net = Net::new(secs(300), config(25));
    net.run(secs(30));
    for _ in 0..20 {
        net.cut = true;
        net.run(secs(40));
        net.cut = false;
        net.run(secs(40));
    }
    assert!(net.device.stats().connects > 5, "{:?}", net.device.stats());
    assert_eq!(net.mapping(), []);
}

// SPEC: R-twice
#[test]
fn an_answer_that_is_lost_is_no_verdict() {
    let mut net = Net::new(secs(300), config(25));
    while !net.mapping().contains(&MappingProgress::Remembered { silence: secs(55) }) {
        net.run(secs(1));
    }
    net.run(secs(20));
    assert_eq!(net.device.keepalive().trying, Some(secs(110)));
    assert_eq!(net.service.stats().probes_waiting, 1);
    net.lose_to_probes = 1;
    net.run(secs(400));
    assert!(net.mapping().contains(&MappingProgress::Again { silence: secs(110) }), "{:?}", net.mapping());
    assert!(net.mapping().contains(&MappingProgress::Remembered { silence: secs(110) }));
    net.run(secs(400));
    assert_eq!(net.interval(), (216_000, IntervalReason::Learned));
}

#[test]
fn a_copy_of_an_answer_to_another_socket_proves_nothing() {
    let mut net = Net::new(secs(10), config(25));
    net.device.measure_mapping(net.now).unwrap();
    // The box has forgotten the socket; somebody brings what was sent to it to the one that it knows.
    net.run(secs(10));
    (net.divert, net.lifetime) = (true, secs(3600));
    net.mappings.values_mut().for_each(|m| m.until = net.now + secs(3600));
    net.run(secs(30));
    assert!(net.mapping().contains(&MappingProgress::Again { silence: secs(25) }), "{:?}", net.mapping());
    assert_eq!(net.device.keepalive().proven, None);
}

/// The answer of a probe comes while the connection's heartbeats get none.
#[test]
fn a_connection_that_is_dead_is_not_kept_by_its_probes() {
    let mut net = Net::new(secs(3600), config(25));
    net.device.measure_mapping(net.now).unwrap();
    net.run(secs(5));
    net.cut = true;
    net.run(secs(33));
    assert!(net.mapping().contains(&MappingProgress::Remembered { silence: secs(25) }));
    let ended = net.events.iter().any(|(_, event)| matches!(event, DeviceEvent::Disconnected { .. }));
    assert!(ended, "{:?}", net.events);
}

// SPEC: R-missed
#[test]
fn after_a_miss_the_interval_is_safe_and_what_was_learned_is_halved() {
    // A box that gives the same port again is found out by what the service sent in vain, another one by the port.
    for preserving in [true, false] {
        let mut net = Net::new(secs(300), config(25));
        net.preserving = preserving;
        net.run(secs(1000));
        assert_eq!(net.interval(), (216_000, IntervalReason::Learned));
        net.run(secs(1000));
        net.lifetime = secs(60);
        net.run(secs(500));
        let misses = net.device.keepalive().misses;
        if preserving {
            assert_eq!(misses, 0, "nobody could know");
        } else {
            assert_eq!((misses, net.interval().1), (1, IntervalReason::Missed), "another port says it");
        }
        let waited = net.publish_and_wait();
        assert!(waited <= secs(216) + LATENCY * 4, "{waited:?}");
        net.run(secs(30));
        assert_eq!(net.interval(), (25_000, IntervalReason::Missed));
        let report = net.device.keepalive();
        assert_eq!(report.proven, None, "it is in doubt");
        assert!(report.misses >= 1 && (report.rebindings > 0) != preserving, "{report:?}");
        // Ten minutes at the safe interval, and none of it deaf.
        for _ in 0..17 {
            assert!(net.publish_and_wait() <= LATENCY * 2);
            net.run(secs(30));
            assert_eq!(net.interval().0, 25_000);
        }
        // Half of it does not hold, half of that does.
        net.run(secs(1000));
        assert_eq!(net.interval(), (49_500, IntervalReason::Learned), "{:?}", net.mapping());
        assert!(net.publish_and_wait() <= LATENCY * 2);
    }
}

// SPEC: R-missed
#[test]
fn a_heartbeat_that_stays_without_an_answer_is_a_miss_one_lost_packet_is_not() {
    for (lost, misses) in [(1, 0), (2, 1), (3, 1)] {
        let mut net = Net::new(secs(3600), config(25));
        net.run(secs(1000));
        assert_eq!(net.interval(), (216_000, IntervalReason::Learned));
        net.lose = vec![true; lost].into();
        net.run(secs(230));
        let report = net.device.keepalive();
        assert_eq!(report.misses, misses, "{lost} lost");
        assert_eq!(report.interval, secs(if misses == 0 { 216 } else { 25 }));
        assert_eq!(net.device.stats().connects, 1);
    }
}

/// What is not acknowledged for want of room has been heard all the same.
#[test]
fn what_came_and_was_turned_away_is_no_miss() {
    let mut slow = config(25);
    slow.queue_events = 1;
    let mut net = Net::new(secs(3600), slow);
    net.run(secs(1000));
    assert_eq!(net.interval(), (216_000, IntervalReason::Learned));
    net.busy = true;
    for _ in 0..5 {
        net.publish();
        net.run(secs(60));
    }
    assert!(net.device.stats().refused > 0 && net.service.stats().given_up > 0);
    assert_eq!((net.device.keepalive().misses, net.interval().0), (0, 216_000));
}

// SPEC: R-per-network
#[test]
fn what_was_learned_belongs_to_its_network_and_survives_a_restart() {
    let mut net = Net::new(secs(120), config(25));
    net.run(secs(1500));
    assert_eq!(net.interval(), (99_000, IntervalReason::Learned));
    net.device.handle_network_change(net.now, Some(CAFE));
    net.lifetime = secs(300);
    net.run(secs(30));
    assert_eq!(net.interval(), (25_000, IntervalReason::Safe), "an unknown network");
    assert_eq!(net.device.keepalive().network, Some(CAFE));
    net.run(secs(1000));
    assert_eq!(net.interval(), (216_000, IntervalReason::Learned));
    net.device.handle_network_change(net.now, None);
    net.run(secs(30));
    assert_eq!(net.interval(), (25_000, IntervalReason::Safe), "a network without a name");
    net.device.handle_network_change(net.now, Some(HOME));
    assert_eq!(net.interval(), (99_000, IntervalReason::Learned), "at once");
    assert_eq!(net.device.keepalive().rebindings, 0, "the device moved, that is no rebinding");
    // The next life.
    let resume = Resume::from_bytes(&net.device.resume().to_bytes()).unwrap();
    for (network, interval) in [(HOME, 99_000), (CAFE, 216_000)] {
        let mut config = config(25);
        config.network = Some(network);
        let net = Net::with(secs(120), config, Some(resume.clone()), |_| ());
        assert_eq!(net.interval(), (interval, IntervalReason::Learned));
    }
}

// SPEC: R-granted, R-learned
#[test]
fn a_device_keeps_to_what_the_service_grants() {
    let mut net = Net::with(secs(300), config(25), None, |c| c.interval_max = secs(120));
    net.run(secs(3000));
    // Longer silences are refused, and not asked for again.
    assert_eq!(net.interval(), (99_000, IntervalReason::Learned));
    assert_eq!(net.service.stats().refused_for(RefusalReason::Probes), 1);
    let mut net = Net::with(secs(300), config(25), None, |c| c.interval_max = secs(60));
    net.run(secs(3000));
    assert_eq!(net.interval().0, 49_500);

    // Learned elsewhere, and more than is granted here.
    let mut elsewhere = Net::new(secs(300), config(25));
    elsewhere.run(secs(1000));
    let resume = elsewhere.device.resume();
    let mut net = Net::with(secs(300), config(25), Some(resume), |c| c.interval_max = secs(60));
    net.run(secs(100));
    assert_eq!(net.interval(), (60_000, IntervalReason::Service));
    let (beats, _) = net.sent_within(secs(90));
    assert!((1..=3).contains(&beats), "{beats}");

    // A service that wants to hear less of its devices.
    let mut net = Net::with(secs(300), config(25), None, |c| c.interval_min = secs(90));
    net.run(secs(60));
    assert_eq!(net.interval(), (90_000, IntervalReason::Service));
    net.run(secs(900));
    assert_eq!(net.interval(), (216_000, IntervalReason::Learned));
    // And one that takes none at all.
    let mut net = Net::with(secs(300), config(25), None, |c| c.probes = 0);
    net.run(secs(3000));
    assert_eq!(net.interval(), (25_000, IntervalReason::Safe));
}

// SPEC: R-measure
#[test]
fn a_measurement_climbs_the_whole_ladder_at_once() {
    use MappingProgress::{Again, Ended, Forgotten, Remembered, Trying};
    for (lifetime, proven, disproven) in
        [(5, 0, 6), (10, 6, 12), (13, 12, 25), (30, 25, 55), (60, 55, 110), (120, 110, 240), (300, 240, 0)]
    {
        let mut fixed = config(25);
        fixed.learn_interval = false;
        let mut net = Net::new(secs(lifetime), fixed);
        net.device.measure_mapping(net.now).unwrap();
        assert!(net.device.keepalive().measuring);
        net.run(secs(700));
        let progress = net.mapping();
        assert_eq!(progress.last(), Some(&Ended(MappingEnd::Complete)), "{progress:?}");
        let silence = |s: u64| s > 0;
        assert_eq!(progress.contains(&Remembered { silence: secs(proven) }), silence(proven), "{lifetime}");
        assert_eq!(progress.contains(&Forgotten { silence: secs(disproven) }), silence(disproven));
        assert_eq!(progress.contains(&Again { silence: secs(disproven) }), silence(disproven));
        assert!(matches!(progress[0], Trying { .. }));
        let report = net.device.keepalive();
        assert_eq!((report.proven, report.disproven).0.map_or(0, |s| s.as_secs()), proven);
        assert_eq!(report.disproven.map_or(0, |s| s.as_secs()), disproven);
        assert_eq!(net.interval(), (25_000, IntervalReason::Fixed));
        assert!(!report.measuring && net.sockets.len() == 1);
    }
}

#[test]
fn a_measurement_that_cannot_be_made_says_why() {
    let mut net = Net::new(secs(60), config(25));
    net.no_probe_socket = true;
    net.device.measure_mapping(net.now).unwrap();
    net.run(secs(5));
    assert_eq!(net.mapping().last(), Some(&MappingProgress::Ended(MappingEnd::NoSocket)));
    let mut net = Net::with(secs(60), config(25), None, |c| c.probes = 0);
    net.device.measure_mapping(net.now).unwrap();
    net.run(secs(5));
    assert_eq!(net.mapping().last(), Some(&MappingProgress::Ended(MappingEnd::NotOffered)));
    let mut net = Net::new(secs(60), config(25));
    net.device.measure_mapping(net.now).unwrap();
    net.run(secs(10));
    net.device.handle_network_change(net.now, None);
    net.run(secs(1));
    assert_eq!(net.mapping().last(), Some(&MappingProgress::Ended(MappingEnd::Interrupted)));
    net.device.measure_mapping(net.now).unwrap();
    net.device.close(net.now);
    net.run(secs(0));
    let told: Vec<_> = net.events.iter().map(|(_, event)| event).collect();
    let ended = DeviceEvent::Mapping(MappingProgress::Ended(MappingEnd::Closed));
    let aborted = DeviceEvent::Aborted(DisconnectReason::ByApplication);
    assert!(told.ends_with(&[&ended, &DeviceEvent::State(ConnectionState::Aborted), &aborted]), "{told:?}");
    assert!(matches!(net.device.measure_mapping(net.now), Err(CommandError::Closed)));
}

// SPEC: R-keepalive-bounds
#[test]
fn a_box_that_changes_its_mind_costs_little() {
    // By turns it remembers for five minutes and for half a minute.
    for (period, preserving) in [(400, true), (900, false), (2000, true), (7200, false)] {
        let mut net = Net::new(secs(300), config(25));
        net.preserving = preserving;
        net.run(secs(1));
        let day = net.now + secs(86_400);
        let (mut deaf, mut worst) = (Duration::ZERO, Duration::ZERO);
        while net.now < day {
            let turn = net.now.as_millis() / 1000 / period;
            net.lifetime = if turn.is_multiple_of(2) { secs(300) } else { secs(30) };
            let waited = net.publish_and_wait();
            worst = worst.max(waited);
            if waited > secs(1) {
                deaf += waited;
            }
            net.run(secs(97));
            let (beats, probes) = net.sent_within(secs(3600));
            assert!(probes <= 14 * 9, "{probes} packets of probes in an hour");
            assert!(beats <= 160 * 5, "{beats}");
        }
        assert!(worst <= secs(217), "{worst:?}");
        assert!(deaf <= secs(1800), "{deaf:?} deaf in a day, {:?}", net.device.keepalive());
    }
}

impl Net {
    /// The machine sleeps: nothing runs on it, and what comes is lost.
    fn sleep(&mut self, time: Duration) {
        let end = self.now + time;
        let mut batch = TransmitBatch::new(32);
        while let Some(sent) = self.wire.iter().position(|(_, from, ..)| from.is_some()) {
            self.arrive(sent);
        }
        while self.now < end {
            let next = self.service.poll_timeout().map_or(end, |w| w.at.min(end));
            self.now = next.max(self.now);
            let _ = self.service.handle_timeout(self.now, NonZeroUsize::MAX);
            while self.service.poll_transmit(self.now, &mut batch) > 0 {
                batch.clear();
            }
        }
        self.wire.clear();
    }
}

/// A telephone that sleeps for up to a minute now and then, in a network that remembers for an hour.
// SPEC: R-asleep
#[test]
fn what_a_sleeping_machine_does_not_hear_says_nothing_of_the_network() {
    let mut learned = 0;
    for seed in 1..20u64 {
        let mut net = Net::new(secs(3600), config(5));
        let mut x = seed * 7919;
        for _ in 0..300 {
            x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            net.run(secs(10 + (x >> 33) % 40));
            net.sleep(secs(2 + (x >> 40) % 58));
        }
        let report = net.device.keepalive();
        assert_eq!(report.disproven, None, "{report:?}");
        assert!(report.interval >= secs(25), "{report:?}");
        // Once it stays awake it learns.
        net.run(secs(7200));
        learned += usize::from(net.interval().0 == 216_000);
    }
    assert!(learned > 10, "{learned} of 19");
}
