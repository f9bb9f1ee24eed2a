//! Flows that boxes on the way have not known for long (F2): many forget such a one far sooner than one in use, for which
//! alone holds what a device has learned.

mod common;

use std::time::Duration;

use common::{ALICE, connect, ms, secs, store};
use mpp_proto::{Device, DeviceConfig, DeviceEvent, IntervalReason, MappingProgress, NetworkId};
use mpp_sim::nat::Lifetime;
use mpp_sim::{DeviceHandle, NatConfig, NatHandle, Post, Record, ServiceHandle, World};

const HOME: NetworkId = NetworkId([7; 16]);
const CAFE: NetworkId = NetworkId([8; 16]);
const ROUND_TRIP: Duration = Duration::from_millis(40);

/// Linux as it comes, and as MikroTik sets it up: how long the flow is known that is new, and the one in use; and the
/// interval that follows from it.
const BOXES: [(u64, u64, u64); 2] = [(30, 120, 99), (10, 180, 99)];

struct Story {
    world: World,
    service: ServiceHandle,
    device: DeviceHandle,
    nat: NatHandle,
}

impl Story {
    fn begin((first, settled, _): (u64, u64, u64), config: DeviceConfig, shortest: u64) -> Self {
        let mut world = World::new(1);
        let mut service = world.service_config();
        service.interval_min = secs(shortest);
        let service = world.add_service(service);
        let ticket = world.ticket(&[service], ALICE, 1);
        let device = world.add_device(ticket, config);
        let lifetime = Lifetime::TwoStage { first: secs(first), settled: secs(settled) };
        let nat = world.add_nat(NatConfig { lifetime, ..NatConfig::linux() });
        world.put_behind(device, nat);
        connect(&mut world, device);
        Self { world, service, device, nat }
    }

    /// At home, where it has learned what there is to learn.
    fn at_home(kind: (u64, u64, u64)) -> Self {
        let mut config = DeviceConfig::default();
        config.network = Some(HOME);
        let mut story = Self::begin(kind, config, 5);
        story.world.run_for(secs(2500));
        story.uses(kind.2, IntervalReason::Learned);
        story
    }

    fn uses(&self, interval: u64, reason: IntervalReason) {
        let report = self.device().keepalive();
        assert_eq!((report.interval, report.reason), (secs(interval), reason), "{report:?}");
    }

    fn device(&self) -> &Device {
        self.world.device(self.device).expect("it runs")
    }

    fn moves(&mut self, network: NetworkId) {
        self.world.with_device(self.device, |d, now| d.handle_network_change(now, Some(network)));
    }

    /// Posts an event: how long it takes to arrive.
    fn post(&mut self) -> Duration {
        let had = self.world.payloads(self.device).count();
        self.world.publish(self.service, ALICE, &Post::new(store(2), "x")).unwrap();
        let (posted, device) = (self.world.now(), self.device);
        assert!(self.world.run_until(secs(700), |w| w.payloads(device).count() > had), "never delivered");
        self.world.now().since(posted)
    }

    /// Posts after each of these pauses: nothing waits, and nothing is taken for a miss.
    fn hears_at_once(&mut self, pauses: &[u64]) {
        let misses = self.device().keepalive().misses;
        for pause in pauses {
            self.world.run_for(secs(*pause));
            let waited = self.post();
            assert!(waited <= ROUND_TRIP, "after {pause} s waited {waited:?}");
            self.world.run_for(secs(5));
            assert_eq!(self.device().keepalive().misses, misses, "after {pause} s");
        }
    }
}

// SPEC: R-new-flow
#[test]
fn after_a_restart_in_a_known_network_nothing_waits() {
    for kind in BOXES {
        for gap in [5, 20, 40, 60, 90] {
            let mut story = Story::at_home(kind);
            let resume = story.device().resume();
            story.world.kill(story.device);
            story.world.run_for(secs(600));
            story.world.start(story.device, Some(resume));
            connect(&mut story.world, story.device);
            story.uses(kind.2, IntervalReason::Learned);
            story.hears_at_once(&[gap, 70, 90]);
            story.uses(kind.2, IntervalReason::Learned);
        }
    }
}

// SPEC: R-new-flow
#[test]
fn back_in_a_known_network_nothing_waits() {
    for kind in BOXES {
        for gap in [5, 20, 40, 60, 90, 140, 190, 250] {
            let mut story = Story::at_home(kind);
            story.moves(CAFE);
            story.world.run_for(secs(600));
            story.moves(HOME);
            story.world.run_for(ms(200));
            let before = story.device().stats().heartbeats;
            story.hears_at_once(&[gap]);
            story.uses(kind.2, IntervalReason::Learned);
            // One more than there are with a flow that is known.
            story.world.run_for(secs(900 - gap));
            let beats = story.device().stats().heartbeats - before;
            assert!((10..=12).contains(&beats), "{beats} in a quarter of an hour");
        }
    }
}

// SPEC: R-new-flow
#[test]
fn an_interval_that_is_given_does_not_outlast_new_flows() {
    for kind in BOXES {
        let mut config = DeviceConfig::default();
        (config.interval, config.learn_interval) = (secs(100), false);
        Story::begin(kind, config, 5).hears_at_once(&[50, 120, 60, 3600, 80]);
        // A service that wants to hear less of its devices.
        Story::begin(kind, DeviceConfig::default(), 90).hears_at_once(&[50, 120, 60, 3600, 80]);
        // And the safe one, which is longer than the first time of one of the boxes.
        let mut config = DeviceConfig::default();
        config.learn_interval = false;
        Story::begin(kind, config, 5).hears_at_once(&[12, 23, 47, 3600, 20]);
    }
}

// SPEC: R-new-flow
#[test]
fn a_box_that_begins_anew_costs_one_event_a_wait() {
    for kind in BOXES {
        for (interval, learn) in [(100, false), (25, true), (25, false)] {
            for new_address in [false, true] {
                let mut config = DeviceConfig::default();
                (config.interval, config.learn_interval) = (secs(interval), learn);
                let mut story = Story::begin(kind, config, 5);
                story.world.run_for(secs(2500));
                story.world.reboot_nat(story.nat, new_address);
                let waited = story.post();
                assert!(waited <= secs(100) + ROUND_TRIP * 2, "{waited:?}");
                story.world.run_for(secs(5));
                story.hears_at_once(&[15, 20, 24, 50, 70, 90, 700, 80]);
            }
        }
    }
}

/// A machine that goes from one access point to the next, and whose host says each time that it is at home.
// SPEC: R-waits
#[test]
fn coming_home_again_and_again_tries_nothing_anew() {
    for network in [HOME, CAFE] {
        let mut story = Story::at_home(BOXES[0]);
        let tries = |story: &Story| {
            let is_try =
                |r: &Record| matches!(r, Record::Event(DeviceEvent::Mapping(MappingProgress::Trying { .. })));
            story.world.log(story.device).iter().filter(|entry| is_try(&entry.record)).count()
        };
        let before = tries(&story);
        for _ in 0..18 {
            if network != HOME {
                story.moves(network);
                story.world.run_for(secs(20));
            }
            story.moves(HOME);
            story.world.run_for(secs(1200));
        }
        // After one hour and two more, and four: 240 s twice each; once a change comes in between.
        let tried = tries(&story) - before;
        assert!((4..=8).contains(&tried), "{tried} in six hours");
        story.uses(99, IntervalReason::Learned);
    }
}
