//! Learned intervals (F2, and F1 with them): boxes of every kind, which forget a device sooner or later, and the device
//! that finds out.

mod common;

use std::time::Duration;

use common::{ALICE, connect, ms, secs, store, world};
use mpp_proto::{
    DeviceConfig, DeviceEvent, Instant, IntervalReason, MappingProgress, NetworkId, ServiceEvent,
};
use mpp_sim::nat::{Dependence, Lifetime, Ports};
use mpp_sim::{DeviceHandle, NatConfig, NatHandle, Post, Record, Rng, ServiceHandle, World, each_seed};

/// There and back.
const ROUND_TRIP: Duration = Duration::from_millis(40);
/// From the heartbeat on: to the service, the challenge, its answer, the notification. The first of many in an hour may be
/// the one that no path was free for: another can be in question only when a second has passed.
const AFTER_BEAT: Duration = Duration::from_millis(1200);

/// A box of any kind, its lifetimes, and how long it keeps to one of them.
#[derive(Debug)]
struct Kind {
    config: NatConfig,
    lifetimes: Vec<Lifetime>,
    period: Duration,
}

fn any_of<T: Copy>(rng: &mut Rng, of: &[T]) -> T {
    of[rng.index(of.len())]
}

/// 10 s to 10 min, as many short ones as long ones.
fn lifetime(rng: &mut Rng) -> Lifetime {
    let octave = 10 << rng.index(6);
    let time = |rng: &mut Rng| secs(octave) + rng.up_to(secs(octave));
    match rng.index(4) {
        0 => Lifetime::TwoStage { first: secs(30), settled: secs(120) },
        1 => {
            let first = secs(10) + rng.up_to(secs(20));
            Lifetime::TwoStage { first, settled: time(rng).max(first) }
        }
        _ => Lifetime::Fixed(time(rng)),
    }
}

fn kind(rng: &mut Rng) -> Kind {
    use Dependence::{AddressAndPortDependent, AddressDependent, EndpointIndependent};
    let dependences = [EndpointIndependent, AddressDependent, AddressAndPortDependent];
    let flaps = rng.index(3) == 0;
    let lifetimes: Vec<_> = (0..if flaps { 3 } else { 1 }).map(|_| lifetime(rng)).collect();
    let config = NatConfig {
        mapping: any_of(rng, &dependences),
        filtering: any_of(rng, &dependences),
        lifetime: lifetimes[0],
        inbound_refresh: rng.index(2) == 0,
        ports: any_of(rng, &[Ports::Preserved, Ports::Sequential, Ports::Random]),
        ..NatConfig::default()
    };
    Kind { config, lifetimes, period: secs(60) + rng.up_to(secs(3600)) }
}

/// What it takes for a flow that is in use.
fn settled(lifetime: Lifetime) -> Duration {
    match lifetime {
        Lifetime::Fixed(time) | Lifetime::TwoStage { settled: time, .. } => time,
    }
}

struct Day {
    world: World,
    service: ServiceHandle,
    device: DeviceHandle,
    nat: NatHandle,
}

impl Day {
    fn begin(seed: u64, nat: NatConfig, config: DeviceConfig, bounds: (Duration, Duration)) -> Self {
        let mut world = World::new(seed);
        let mut service = world.service_config();
        (service.interval_min, service.interval_max) = bounds;
        let service = world.add_service(service);
        let ticket = world.ticket(&[service], ALICE, 1);
        let device = world.add_device(ticket, config);
        let nat = world.add_nat(nat);
        world.put_behind(device, nat);
        connect(&mut world, device);
        Self { world, service, device, nat }
    }

    fn report(&self) -> mpp_proto::KeepaliveReport {
        self.world.device(self.device).expect("it runs").keepalive()
    }

    /// Posts an event: how long it takes to arrive.
    fn post(&mut self) -> Duration {
        let had = self.world.payloads(self.device).count();
        self.world.publish(self.service, ALICE, &Post::new(store(2), "x")).unwrap();
        let posted = self.world.now();
        let device = self.device;
        let came = self.world.run_until(secs(700), |w| w.payloads(device).count() > had);
        assert!(came, "never delivered");
        self.world.now().since(posted)
    }

    /// Intervals, and why, and since when.
    fn intervals(&self) -> Vec<(Instant, Duration, IntervalReason)> {
        let log = self.world.log(self.device).iter();
        log.filter_map(|entry| match &entry.record {
            Record::Event(DeviceEvent::Interval { interval, reason }) => Some((entry.at, *interval, *reason)),
            _ => None,
        })
        .collect()
    }

    /// When each try began, and when it ended if there was an end: a miss ends one without a word.
    fn tries(&self) -> Vec<(Instant, Option<Instant>)> {
        let mut tries = Vec::<(Instant, Option<Instant>)>::new();
        for entry in self.world.log(self.device) {
            let Record::Event(DeviceEvent::Mapping(progress)) = &entry.record else { continue };
            match (progress, tries.last_mut()) {
                (MappingProgress::Trying { .. }, _) => tries.push((entry.at, None)),
                (_, Some((_, end))) => *end = end.or(Some(entry.at)),
                (_, None) => panic!("an end without a try"),
            }
        }
        tries
    }

    /// Lets a device learn in a network, and start again with what it knows: it may be another network by then.
    fn live_before(&mut self, then: Lifetime, now: Lifetime) {
        self.world.set_nat_lifetime(self.nat, then);
        self.world.run_for(secs(3000));
        let resume = self.world.device(self.device).map(mpp_proto::Device::resume);
        self.world.kill(self.device);
        self.world.run_for(secs(900));
        self.world.set_nat_lifetime(self.nat, now);
        self.world.start(self.device, resume);
        connect(&mut self.world, self.device);
    }
}

// F2.
#[test]
fn whatever_the_box_does_a_device_is_never_deaf_for_long_and_never_talkative() {
    let (mut learned, mut missed, mut flapping, mut forgetful, mut known) = (0, 0, 0, 0, 0);
    each_seed(60, |seed| {
        let mut rng = Rng::new(seed ^ 0x6b65_6570);
        let kind = kind(&mut rng);
        let mut config = common::quick();
        config.forward_secrecy = true;
        config.network = Some(NetworkId([7; 16]));
        config.shortest_interval = any_of(&mut rng, &[secs(25), secs(10), secs(5)]);
        let bounds =
            (any_of(&mut rng, &[secs(5), secs(20)]), any_of(&mut rng, &[secs(300), secs(150), secs(60)]));
        let host = config.shortest_interval;
        let shortest = host.max(bounds.0);
        let mut day = Day::begin(seed, kind.config.clone(), config, bounds);
        // Of three devices one knows nothing, one knows its network, and one as it was before.
        match rng.index(3) {
            0 => {}
            1 => day.live_before(kind.lifetimes[0], kind.lifetimes[0]),
            _ => day.live_before(lifetime(&mut rng), kind.lifetimes[0]),
        }
        known += usize::from(day.report().interval > secs(25));
        let start = day.world.now();
        let mut turn = 0;
        // The heartbeats and packets of the last hour: an hour ago, and now.
        let mut sent = vec![(start, 0, day.world.nat_stats(day.nat).outbound)];
        while day.world.now().since(start) < secs(6 * 3600) {
            let passed = day.world.now().since(start).as_micros() / kind.period.as_micros();
            if passed as usize != turn && kind.lifetimes.len() > 1 {
                turn = passed as usize;
                day.world.set_nat_lifetime(day.nat, kind.lifetimes[turn % kind.lifetimes.len()]);
            }
            let pause = rng.up_to(secs(400));
            day.world.run_for(pause);
            let before = day.report().interval;
            // A shorter one than the service grants it asks for once, and is told.
            assert!((host.min(secs(25))..=bounds.1.min(secs(216))).contains(&before), "{before:?}");
            let waited = day.post();
            assert!(waited <= before + AFTER_BEAT, "{waited:?} at an interval of {before:?}: {kind:?}");
            // Where the box keeps the flow from one heartbeat to the next nothing waits at all.
            let keeps = kind.lifetimes.len() == 1 && settled(kind.lifetimes[0]) > before + ROUND_TRIP;
            assert!(!keeps || waited <= ROUND_TRIP, "{waited:?} at an interval of {before:?}: {kind:?}");
            let now = day.world.now();
            let count = day.world.device(day.device).unwrap().stats().heartbeats;
            let packets = day.world.nat_stats(day.nat).outbound;
            sent.push((now, count, packets));
            sent.retain(|(at, ..)| now.since(*at) <= secs(3600));
            // Each answered a round trip later, and then nine tenths of the interval; repetitions are few.
            let most = 3600 * 1000 / (shortest.min(secs(25)).as_millis() as u64 * 9 / 10) + 8;
            assert!(count - sent[0].1 <= most, "{} heartbeats in an hour", count - sent[0].1);
            // With each an answer to a challenge, where each has another port. Besides those tries, of three packets each,
            // and for each event an acknowledgement, a position, and answers to challenges.
            let most = 2 * most + 14 * 3 + 4 * sent.len() as u64;
            assert!(packets - sent[0].2 <= most, "{} packets in an hour, {most}", packets - sent[0].2);
        }
        // Tries: 8 at once, and 6 more in an hour.
        let tries = day.tries();
        let in_an_hour =
            |at: Instant| tries.iter().filter(|(t, _)| *t >= at && t.since(at) < secs(3600)).count();
        assert!(tries.iter().all(|(at, _)| in_an_hour(*at) <= 14), "{tries:?}");
        // One at a time: after one that a miss has ended there is none for ten minutes.
        for pair in tries.windows(2) {
            let over =
                pair[0].1.is_some_and(|end| end <= pair[1].0) || pair[1].0.since(pair[0].0) >= secs(600);
            assert!(over, "two at once: {pair:?}");
        }
        // After each miss the safe interval, for ten minutes at least.
        let intervals = day.intervals();
        for (i, (at, interval, reason)) in intervals.iter().enumerate() {
            if *reason == IntervalReason::Missed {
                missed += 1;
                assert!(*interval <= secs(25));
                let next = intervals[i + 1..].iter().find(|(_, _, r)| *r != IntervalReason::Missed);
                if let Some((next, longer, _)) = next.filter(|(_, longer, _)| *longer > secs(25)) {
                    assert!(next.since(*at) >= secs(600), "{longer:?} again after {:?}", next.since(*at));
                }
            }
        }
        // Nobody ever took the device for gone.
        let lost = |r: &Record| matches!(r, Record::Event(DeviceEvent::Disconnected { .. }));
        assert!(!day.world.log(day.device).iter().any(|e| lost(&e.record)), "{kind:?}");
        day.world.check();
        // What a box that keeps its word allows is found out, and after that nothing waits.
        let report = day.report();
        if kind.lifetimes.len() == 1 {
            let lives = settled(kind.lifetimes[0]);
            let steps = [6, 12, 25, 55, 110, 240].map(secs);
            // A silence lasts as long as it takes the answer to arrive.
            let proven = steps.iter().rfind(|s| **s + ROUND_TRIP <= lives && **s <= bounds.1).copied();
            let proven = proven.filter(|s| *s >= secs(25) || *s * 9 / 10 >= host);
            let close = steps.iter().any(|s| lives >= *s && lives < *s + ms(100));
            if !close {
                assert_eq!(report.proven, proven, "{kind:?} {report:?}");
            }
            let expected = proven.map_or(Duration::ZERO, |p| p * 9 / 10);
            if expected > secs(25) {
                learned += 1;
                assert_eq!(report.interval, expected.min(bounds.1), "{report:?}");
                for _ in 0..20 {
                    let pause = rng.up_to(secs(400));
                    day.world.run_for(pause);
                    assert!(day.post() <= ROUND_TRIP);
                }
            } else if report.interval < secs(25) {
                forgetful += 1;
            }
        } else {
            flapping += 1;
        }
    });
    assert!(
        learned > 10 && missed > 10 && flapping > 10 && forgetful > 3 && known > 10,
        "{learned} {missed} {flapping} {forgetful} {known}"
    );
}

// F1, F2. The box used to remember for five minutes, and the device has learned it; now it forgets after two. Events
// published at any moment come with the next heartbeat, and after the first that does the device is as careful as at first.
#[test]
fn a_box_that_forgets_sooner_than_it_used_to_is_found_out_by_the_first_event() {
    for ports in [Ports::Preserved, Ports::Sequential] {
        each_seed(30, |seed| {
            let config = NatConfig { ports, ..NatConfig::default() };
            let mut day = Day::begin(seed, config, DeviceConfig::default(), (secs(5), secs(300)));
            day.world.run_for(secs(900));
            assert_eq!(day.report().interval, secs(216));
            day.world.set_nat_lifetime(day.nat, Lifetime::Fixed(secs(120)));
            let offset = day.world.rng().up_to(secs(216));
            day.world.run_for(secs(230) + offset);
            let mut worst = Duration::ZERO;
            // Until one has waited.
            while day.report().misses == 0 {
                let waited = day.post();
                worst = worst.max(waited);
                let pause = day.world.rng().up_to(secs(250));
                day.world.run_for(pause);
            }
            assert!(worst <= secs(216 - 120) + AFTER_BEAT, "{worst:?}");
            assert_eq!((day.report().interval, day.report().reason), (secs(25), IntervalReason::Missed));
            for _ in 0..10 {
                assert!(day.post() <= ROUND_TRIP);
                let pause = day.world.rng().up_to(secs(40));
                day.world.run_for(pause);
            }
            // What holds is found out again, and kept to.
            day.world.run_for(secs(3600));
            assert_eq!((day.report().interval, day.report().reason), (secs(99), IntervalReason::Learned));
            for _ in 0..10 {
                assert!(day.post() <= ROUND_TRIP);
                let pause = day.world.rng().up_to(secs(250));
                day.world.run_for(pause);
            }
            let moved = day
                .world
                .service_log(day.service)
                .iter()
                .any(|(_, event)| matches!(event, ServiceEvent::Moved { .. }));
            assert_eq!(moved, ports == Ports::Sequential);
            day.world.check();
        });
    }
}

// F2. A device that forgets nothing of what it learned, and comes back to a network that has changed.
#[test]
fn what_is_remembered_of_a_network_that_has_changed_is_found_out() {
    each_seed(20, |seed| {
        let mut config = DeviceConfig::default();
        config.network = Some(NetworkId([7; 16]));
        let mut day = Day::begin(seed, NatConfig::default(), config, (secs(5), secs(300)));
        day.world.run_for(secs(900));
        assert_eq!(day.report().interval, secs(216));
        let device = day.device;
        let resume = day.world.device(device).map(mpp_proto::Device::resume);
        day.world.kill(device);
        day.world.set_nat_lifetime(day.nat, Lifetime::Fixed(secs(31)));
        day.world.run_for(secs(400));
        day.world.start(device, resume);
        connect(&mut day.world, device);
        assert_eq!(day.report().interval, secs(216), "as it was remembered");
        let pause = secs(40) + day.world.rng().up_to(secs(150));
        day.world.run_for(pause);
        assert!(day.post() <= secs(216) + AFTER_BEAT);
        day.world.run_for(secs(1));
        assert_eq!(day.report().interval, secs(25));
        day.world.run_for(secs(3 * 3600));
        let report = day.report();
        assert_eq!(
            (report.interval, report.proven, report.disproven),
            (secs(25), Some(secs(25)), Some(secs(55)))
        );
    });
}

// F2. Packets that are lost here and there are no reason to give up what was learned.
#[test]
fn a_little_loss_costs_no_battery() {
    let mut misses = 0;
    each_seed(10, |seed| {
        let mut day = Day::begin(seed, NatConfig::default(), DeviceConfig::default(), (secs(5), secs(300)));
        let device = day.device;
        day.world.set_conditions(device, common::lossy(0.01), common::lossy(0.01));
        day.world.run_for(secs(8 * 3600));
        misses += day.report().misses;
        let beats = day.world.device(device).unwrap().stats().heartbeats;
        assert!(beats < 500, "{beats} in eight hours, 1,200 at the safe interval");
    });
    assert!(misses <= 3, "{misses} in 80 hours");
}

/// One world, by its seed, to look at.
#[test]
fn the_same_seed_learns_the_same() {
    let run = || {
        let (mut world, service) = world(5);
        let ticket = world.ticket(&[service], ALICE, 1);
        let device = world.add_device(ticket, DeviceConfig::default());
        let nat = world.add_nat(NatConfig::linux());
        world.put_behind(device, nat);
        world.run_for(secs(4000));
        (world.trace(), world.device(device).unwrap().keepalive())
    };
    let (trace, report) = run();
    assert_eq!((report.interval, report.proven), (secs(99), Some(secs(110))));
    assert!((trace, report) == run());
}
