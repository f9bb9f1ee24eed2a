//! The network between the machines: routes that lose, delay, repeat and damage what goes over them.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::net::SocketAddr;
use std::time::Duration;

use mpp_proto::Instant;

use crate::rng::Rng;
use crate::trace::Trace;

/// The port of a service's Web Service.
pub(crate) const WEB_PORT: u16 = 15_097;

/// One UDP datagram on the virtual network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// The source that its receiver will see.
    pub from: SocketAddr,
    /// Where it goes.
    pub to: SocketAddr,
    /// Its UDP payload.
    pub payload: Vec<u8>,
}

/// How packets get lost.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Loss {
    /// Each by itself, with this probability.
    Random(f64),
    /// In bursts (Gilbert-Elliott): before each packet a good route turns bad with probability `enter`, a bad one
    /// good with probability `leave`; in the bad state packets are lost with probability `bad`, else never.
    Burst {
        /// From good to bad.
        enter: f64,
        /// From bad to good.
        leave: f64,
        /// Loss while bad.
        bad: f64,
    },
}

/// What one direction of a way does to packets.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Conditions {
    /// The time every packet takes.
    pub latency: Duration,
    /// Added to it: uniform from zero to this, for each packet by itself, so that it reorders.
    pub jitter: Duration,
    /// Packets that do not arrive.
    pub loss: Loss,
    /// The probability that a packet arrives twice.
    pub duplicate: f64,
    /// The probability that a packet is held back by [`Conditions::holdback`] and so overtaken.
    pub reorder: f64,
    /// How long a packet that is to be overtaken is held back.
    pub holdback: Duration,
    /// The probability that one bit of a packet is flipped on the way.
    pub corrupt: f64,
    /// Packets with more bytes of UDP payload than this are dropped.
    pub mtu: usize,
}

impl Conditions {
    /// Nothing goes wrong, and a packet takes `latency`.
    pub const fn perfect(latency: Duration) -> Self {
        Self {
            latency,
            jitter: Duration::ZERO,
            loss: Loss::Random(0.0),
            duplicate: 0.0,
            reorder: 0.0,
            holdback: Duration::from_millis(30),
            corrupt: 0.0,
            mtu: 1500,
        }
    }

    /// With this probability of random loss.
    #[must_use]
    pub const fn loss(mut self, probability: f64) -> Self {
        self.loss = Loss::Random(probability);
        self
    }

    /// With this jitter.
    #[must_use]
    pub const fn jitter(mut self, jitter: Duration) -> Self {
        self.jitter = jitter;
        self
    }

    /// With this probability of arriving twice.
    #[must_use]
    pub const fn duplicate(mut self, probability: f64) -> Self {
        self.duplicate = probability;
        self
    }

    /// With this probability of being overtaken.
    #[must_use]
    pub const fn reorder(mut self, probability: f64) -> Self {
        self.reorder = probability;
        self
    }

    /// With this probability of a flipped bit.
    #[must_use]
    pub const fn corrupt(mut self, probability: f64) -> Self {
        self.corrupt = probability;
        self
    }
}

impl Default for Conditions {
    /// Perfect, 20 ms one way.
    fn default() -> Self {
        Self::perfect(Duration::from_millis(20))
    }
}

/// One direction of a way through the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouteId(usize);

/// What happened to a packet when it was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is on its way.
    Sent,
    /// On its way twice.
    Doubled,
    /// Lost by chance.
    Lost,
    /// Larger than the route carries.
    TooBig,
    /// Its host is cut off.
    Dark,
    /// An [`Observer`] took it.
    Taken,
}

/// A packet as the tap saw it, at its sender.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Captured {
    /// When it was sent.
    pub at: Instant,
    /// The packet.
    pub packet: Packet,
    /// What became of it.
    pub fate: Fate,
}

/// What an [`Observer`] lets happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// As if it were not there.
    Pass,
    /// The packet goes no further.
    Take,
    /// The packet goes on, this much later.
    Delay(Duration),
}

/// Somebody on the way who sees every packet that a machine sends: the place of an attacker, of a counter, of a
/// middlebox. What it sends itself it does not see again.
pub trait Observer {
    /// A packet is being sent. What is pushed to `inject` arrives at the given time, exactly as it is.
    fn packet(&mut self, now: Instant, packet: &Packet, inject: &mut Vec<(Instant, Packet)>) -> Verdict;

    /// A packet is being sent in a Web request or in the answer to one. What is pushed to `inject` arrives by UDP.
    fn web(&mut self, now: Instant, packet: &Packet, inject: &mut Vec<(Instant, Packet)>) {
        let _ = (now, packet, inject);
    }

    /// What has been copied from UDP to the Web since it was last asked: to a Web Service as a request, to a device with
    /// the next answer that it gets.
    fn carried(&mut self) -> Vec<Packet> {
        Vec::new()
    }
}

/// Counters of what the network did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NetworkStats {
    /// Packets that machines sent.
    pub sent: u64,
    /// Those of them that went by Web.
    pub web: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Packets lost by chance.
    pub lost: u64,
    /// Packets over the MTU.
    pub too_big: u64,
    /// Packets from or to a host that was cut off.
    pub dark: u64,
    /// Packets that arrived twice.
    pub doubled: u64,
    /// Packets with a flipped bit.
    pub corrupted: u64,
    /// Packets that arrived.
    pub delivered: u64,
    /// Packets to an address nobody has.
    pub unreachable: u64,
}

impl std::ops::AddAssign for NetworkStats {
    fn add_assign(&mut self, other: Self) {
        self.sent += other.sent;
        self.web += other.web;
        self.bytes += other.bytes;
        self.lost += other.lost;
        self.too_big += other.too_big;
        self.dark += other.dark;
        self.doubled += other.doubled;
        self.corrupted += other.corrupted;
        self.delivered += other.delivered;
        self.unreachable += other.unreachable;
    }
}

struct Route {
    conditions: Conditions,
    rng: Rng,
    bad: bool,
}

/// Packets under way, in the order in which they will arrive.
///
/// Deterministic: arrivals are ordered by time and then by the order of sending, and every route has a generator of
/// its own, so that one host's traffic does not change another's luck.
pub struct Network {
    seed: Rng,
    routes: Vec<Route>,
    queue: BinaryHeap<InFlight>,
    sequence: u64,
    capture: Option<Vec<Captured>>,
    observer: Option<Box<dyn Observer>>,
    trace: Trace,
    pub(crate) stats: NetworkStats,
}

impl Network {
    /// An empty network.
    pub fn new(seed: u64) -> Self {
        Self {
            seed: Rng::new(seed),
            routes: Vec::new(),
            queue: BinaryHeap::new(),
            sequence: 0,
            capture: None,
            observer: None,
            trace: Trace::default(),
            stats: NetworkStats::default(),
        }
    }

    /// A new route.
    pub fn add_route(&mut self, conditions: Conditions) -> RouteId {
        let rng = self.seed.fork(self.routes.len() as u64);
        self.routes.push(Route { conditions, rng, bad: false });
        RouteId(self.routes.len() - 1)
    }

    /// What a route does from now on; packets under way are not touched.
    pub fn set_conditions(&mut self, route: RouteId, conditions: Conditions) {
        self.routes[route.0].conditions = conditions;
    }

    /// What a route does.
    pub fn conditions(&self, route: RouteId) -> Conditions {
        self.routes[route.0].conditions
    }

    /// A machine sends a packet.
    pub fn send(&mut self, now: Instant, route: RouteId, packet: Packet) {
        self.sighted(now, &packet);
        let mut extra = Duration::ZERO;
        if let Some(observer) = &mut self.observer {
            let mut inject = Vec::new();
            let verdict = observer.packet(now, &packet, &mut inject);
            for (at, packet) in inject {
                self.inject(at.max(now), packet);
            }
            match verdict {
                Verdict::Pass => {}
                Verdict::Take => return self.captured(now, packet, Fate::Taken),
                Verdict::Delay(by) => extra = by,
            }
        }
        let Route { conditions: c, rng, bad } = &mut self.routes[route.0];
        if packet.payload.len() > c.mtu {
            self.stats.too_big += 1;
            return self.captured(now, packet, Fate::TooBig);
        }
        let lost = match c.loss {
            Loss::Random(p) => rng.chance(p),
            Loss::Burst { enter, leave, bad: p } => {
                *bad = if *bad { !rng.chance(leave) } else { rng.chance(enter) };
                *bad && rng.chance(p)
            }
        };
        if lost {
            self.stats.lost += 1;
            return self.captured(now, packet, Fate::Lost);
        }
        let twice = rng.chance(c.duplicate);
        // Most packets go once and nobody keeps them: then nothing is copied.
        let kept = self.capture.is_some().then(|| packet.clone());
        let second = twice.then(|| packet.clone());
        let mut arrivals = [None, None];
        for (arrival, mut copy) in arrivals.iter_mut().zip([Some(packet), second].into_iter().flatten()) {
            let mut at = now + c.latency + rng.up_to(c.jitter) + extra;
            if rng.chance(c.reorder) {
                at = at + c.holdback;
            }
            if rng.chance(c.corrupt) && !copy.payload.is_empty() {
                let bit = rng.index(copy.payload.len() * 8);
                copy.payload[bit / 8] ^= 1 << (bit % 8);
                self.stats.corrupted += 1;
            }
            *arrival = Some((at, copy));
        }
        for (at, copy) in arrivals.into_iter().flatten() {
            self.push(at, copy);
        }
        self.stats.doubled += u64::from(twice);
        if let Some(packet) = kept {
            self.captured(now, packet, if twice { Fate::Doubled } else { Fate::Sent });
        }
    }

    /// A machine sends a packet while its host is cut off: it is seen and counted, and goes nowhere.
    pub(crate) fn send_dark(&mut self, now: Instant, packet: Packet) {
        self.sighted(now, &packet);
        self.stats.dark += 1;
        self.captured(now, packet, Fate::Dark);
    }

    /// A packet is sent by Web: it is seen and counted, and goes its own way.
    pub(crate) fn web_sighted(&mut self, now: Instant, packet: &Packet) {
        self.sighted(now, packet);
        self.stats.web += 1;
        if let Some(observer) = &mut self.observer {
            let mut inject = Vec::new();
            observer.web(now, packet, &mut inject);
            for (at, packet) in inject {
                self.inject(at.max(now), packet);
            }
        }
    }

    /// What the observer has carried from UDP to the Web.
    pub(crate) fn take_carried(&mut self) -> Vec<Packet> {
        self.observer.as_mut().map(|observer| observer.carried()).unwrap_or_default()
    }

    /// Somebody else puts a packet on the wire, which arrives at `at` exactly as it is. The tap does not see it.
    pub fn inject(&mut self, at: Instant, packet: Packet) {
        self.push(at, packet);
    }

    /// When the next packet arrives.
    pub fn next_arrival(&self) -> Option<Instant> {
        self.queue.peek().map(|f| f.at)
    }

    /// The next packet that has arrived by `now`.
    pub fn arrived(&mut self, now: Instant) -> Option<Packet> {
        if self.next_arrival()? > now {
            return None;
        }
        self.queue.pop().map(|f| f.packet)
    }

    /// The next packet, if it has arrived by `now` and goes to `to`: more of the same batch.
    pub(crate) fn arrived_for(&mut self, now: Instant, to: SocketAddr) -> Option<Packet> {
        let next = self.queue.peek()?;
        if next.at > now || next.packet.to != to {
            return None;
        }
        self.queue.pop().map(|f| f.packet)
    }

    /// Starts to keep every packet that machines send, or stops it and forgets them.
    pub fn capture(&mut self, on: bool) {
        self.capture = on.then(Vec::new);
    }

    /// The packets kept so far, in the order of sending; goes on with an empty list.
    pub fn take_captured(&mut self) -> Vec<Captured> {
        self.capture.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Puts somebody on the way who sees every packet, or takes him away.
    pub fn observe(&mut self, observer: Option<Box<dyn Observer>>) {
        self.observer = observer;
    }

    /// What machines sent so far, and when.
    pub fn trace(&self) -> Trace {
        self.trace
    }

    /// The counters.
    pub fn stats(&self) -> NetworkStats {
        self.stats
    }

    fn sighted(&mut self, now: Instant, packet: &Packet) {
        self.stats.sent += 1;
        self.stats.bytes += packet.payload.len() as u64;
        self.trace.packet(now, packet);
    }

    fn captured(&mut self, at: Instant, packet: Packet, fate: Fate) {
        if let Some(kept) = &mut self.capture {
            kept.push(Captured { at, packet, fate });
        }
    }

    fn push(&mut self, at: Instant, packet: Packet) {
        self.sequence += 1;
        self.queue.push(InFlight { at, sequence: self.sequence, packet });
    }
}

struct InFlight {
    at: Instant,
    sequence: u64,
    packet: Packet,
}

// The heap gives the largest first: the earliest arrival has to be the largest.
impl Ord for InFlight {
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.sequence).cmp(&(self.at, self.sequence))
    }
}
impl PartialOrd for InFlight {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl PartialEq for InFlight {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}
impl Eq for InFlight {}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(n: u8) -> Packet {
        let at = |port| SocketAddr::from(([192, 0, 2, 1], port));
        Packet { from: at(1), to: at(2), payload: vec![n; 100] }
    }

    fn through(conditions: Conditions, packets: u64) -> (Vec<Packet>, NetworkStats) {
        let mut network = Network::new(7);
        let route = network.add_route(conditions);
        for n in 0..packets {
            network.send(Instant::from_micros(n * 1000), route, packet(n as u8));
        }
        let end = Instant::from_micros(1 << 40);
        let out = std::iter::from_fn(|| network.arrived(end)).collect();
        (out, network.stats())
    }

    #[test]
    fn a_perfect_route_keeps_everything_in_order() {
        let (out, _) = through(Conditions::default(), 100);
        assert_eq!(out, (0..100).map(packet).collect::<Vec<_>>());
    }

    #[test]
    fn every_condition_does_what_it_says() {
        let base = Conditions::default();
        let (out, stats) = through(base.loss(0.3), 10_000);
        assert_eq!(out.len() as u64, 10_000 - stats.lost);
        assert!((2_800..3_200).contains(&stats.lost), "{stats:?}");
        assert_eq!(through(base.duplicate(1.0), 10).0.len(), 20);
        let (out, stats) = through(base.corrupt(1.0), 10);
        assert_eq!(stats.corrupted, 10);
        assert!(out.iter().zip(0..).all(|(p, n)| {
            let flipped: u32 = p.payload.iter().map(|b| (b ^ n).count_ones()).sum();
            flipped == 1
        }));
        let (out, _) = through(base.reorder(0.2), 200);
        assert_eq!(out.len(), 200);
        assert!(out.windows(2).any(|w| w[0].payload[0] > w[1].payload[0]));
        assert_eq!(through(Conditions { mtu: 99, ..base }, 5).1.too_big, 5);
    }

    #[test]
    fn bursts_come_in_bursts() {
        let loss = Loss::Burst { enter: 0.02, leave: 0.2, bad: 1.0 };
        let (out, stats) = through(Conditions { loss, ..Conditions::default() }, 20_000);
        let gaps = out.windows(2).filter(|w| w[1].payload[0] != w[0].payload[0].wrapping_add(1)).count();
        // About 1 in 11 is lost, in runs of 5 on average: far fewer gaps than losses.
        assert!((1_200..2_600).contains(&stats.lost), "{stats:?}");
        assert!((gaps as u64) < stats.lost / 3, "{gaps} gaps for {} losses", stats.lost);
    }

    #[test]
    fn an_observer_sees_takes_and_sends() {
        struct Replayer;
        impl Observer for Replayer {
            fn packet(&mut self, now: Instant, p: &Packet, inject: &mut Vec<(Instant, Packet)>) -> Verdict {
                inject.push((now + Duration::from_secs(1), p.clone()));
                if p.payload[0] == 0 { Verdict::Take } else { Verdict::Pass }
            }
        }
        let mut network = Network::new(7);
        network.observe(Some(Box::new(Replayer)));
        network.capture(true);
        let route = network.add_route(Conditions::default());
        network.send(Instant::ZERO, route, packet(0));
        network.send(Instant::ZERO, route, packet(1));
        let end = Instant::from_micros(1 << 40);
        let out: Vec<_> = std::iter::from_fn(|| network.arrived(end)).map(|p| p.payload[0]).collect();
        assert_eq!(out, [1, 0, 1]);
        let fates: Vec<_> = network.take_captured().iter().map(|c| c.fate).collect();
        assert_eq!(fates, [Fate::Taken, Fate::Sent]);
    }
}
