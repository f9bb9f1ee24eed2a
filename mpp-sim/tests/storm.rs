//! Everybody comes back at once: after an outage of ten minutes, and after a restart.
//!
//! 20,000 devices here, and a limit of 50 connects per second; the default of 2,500 with a million devices by
//! `MPP_STORM=1000000 cargo test --release -p mpp-sim --test storm -- --nocapture --test-threads 1`.

mod common;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::{ms, quick, secs};
use mpp_proto::{DeferPolicy, DeviceEvent, Instant, ServiceConfig};
use mpp_sim::{DeviceHandle, Observer, Packet, Record, Restart, ServiceHandle, Verdict, World};

/// Of so many devices one is watched.
const SAMPLE: u64 = 100;
/// What is counted is counted for so long.
const BIN: Duration = Duration::from_millis(100);
/// Bins in a second.
const SECOND: usize = 10;
/// A device comes back for the first time after its longest back-off and the longest attempt before it.
const FIRST_CONTACT: u64 = 60 + 11;
/// What a restart without outage adds at most instead: a heartbeat, and its repetitions.
const NOTICED: u64 = 25 + 11;

/// Devices, and connects per second.
fn scale() -> (u64, u32) {
    let devices = std::env::var("MPP_STORM").map_or(20_000, |n| n.parse().expect("MPP_STORM is a number"));
    (devices, devices as u32 / 400)
}

/// First packets that devices sent: how many, and when those of some.
#[derive(Default)]
struct Knocks {
    count: u64,
    of: BTreeMap<IpAddr, Vec<Instant>>,
}

struct Door(Arc<Mutex<Knocks>>);

impl Observer for Door {
    fn packet(&mut self, now: Instant, packet: &Packet, _: &mut Vec<(Instant, Packet)>) -> Verdict {
        if packet.payload.starts_with(&[0; 16]) {
            let mut knocks = self.0.lock().expect("nobody panics with it");
            knocks.count += 1;
            if let Some(times) = knocks.of.get_mut(&packet.from.ip()) {
                times.push(now);
            }
        }
        Verdict::Pass
    }
}

struct Storm {
    world: World,
    service: ServiceHandle,
    devices: u64,
    limit: u32,
    watched: Vec<(DeviceHandle, IpAddr)>,
    knocks: Arc<Mutex<Knocks>>,
}

/// What happened in each bin.
#[derive(Default)]
struct Course {
    connects: Vec<u64>,
    knocks: Vec<u64>,
}

impl Storm {
    /// All are connected, at a service that let everybody in, and that will be one with a limit when it starts again.
    fn new(seed: u64) -> Self {
        let (devices, limit) = scale();
        let mut world = World::new(seed);
        world.set_lean(true);
        let config = |connects| {
            let mut config: ServiceConfig = world.service_config();
            // A table that is nearly full: a million devices at the default of 1,048,576.
            config.capacity = (devices + devices / 20) as u32;
            config.accounts = config.capacity;
            config.connects_per_second = connects;
            config
        };
        let mut open = config(1 << 24);
        open.defer = DeferPolicy::Above { half_open: u32::MAX };
        let limited = config(limit);
        let service = world.add_service(open);
        world.set_service_config(service, limited);
        let device_config = Arc::new(quick());
        let mut watched = Vec::new();
        let knocks = Knocks::default();
        for n in 0..devices {
            let ticket = world.ticket(&[service], &format!("user{n}@example.com"), n);
            let is_watched = n.is_multiple_of(SAMPLE);
            world.set_lean(!is_watched);
            let device = world.add_device(ticket, device_config.clone());
            if is_watched {
                watched.push(device);
            }
            if n.is_multiple_of(100) {
                world.run_for(ms(100_000 / (devices / 100)));
            }
        }
        world.run_for(secs(30));
        assert_eq!(world.service(service).stats().connected, devices);
        let address = |device| world.endpoints(device).next().expect("a socket").1.ip();
        let watched: Vec<_> = watched.into_iter().map(|device| (device, address(device))).collect();
        let knocks = Arc::new(Mutex::new(knocks));
        knocks.lock().expect("new").of.extend(watched.iter().map(|(_, ip)| (*ip, Vec::new())));
        world.network().observe(Some(Box::new(Door(knocks.clone()))));
        Self { world, service, devices, limit, watched, knocks }
    }

    fn knocked(&self) -> u64 {
        self.knocks.lock().expect("nobody panics with it").count
    }

    fn restart(&mut self) {
        self.world.restart_service(self.service, Restart { secret: true, heads: true });
    }

    /// The time in which all are back: a first contact, a place in the queue each, and the last turn.
    fn implied(&self, first_contact: u64) -> Duration {
        secs(first_contact) + secs(self.devices) * 5 / 4 / self.limit + secs(5)
    }

    /// Counts until everybody is back, or until twice the time that it may take.
    fn watch(&mut self, implied: Duration) -> Course {
        let mut course = Course::default();
        let end = self.world.now() + implied * 2;
        let (mut connects, mut knocks) = (0, self.knocked());
        while connects < self.devices && self.world.now() < end {
            self.world.run_for(BIN);
            let now = (self.world.service(self.service).stats().connects, self.knocked());
            course.connects.push(now.0 - connects);
            course.knocks.push(now.1 - knocks);
            (connects, knocks) = now;
        }
        course
    }

    /// What has to hold of every return.
    fn judge(&self, what: &str, course: &Course, implied: Duration) {
        let most = peak(&course.connects);
        let back = self.returned(course, 99);
        let all = self.returned(course, 100);
        let knocks: u64 = course.knocks.iter().sum();
        let (told, longest) = self.honoured();
        println!(
            "{what}: {} devices, at most {most} connects in a second of {}, 99 % back after {back:?} of {implied:?}, \
             all after {all:?}; {knocks} knocks, at most {} in a second; {told} times told to wait, {longest:?} at most",
            self.devices,
            self.limit,
            peak(&course.knocks)
        );
        assert!(most <= u64::from(self.limit), "{what}: {most} connects in a second");
        assert!(back <= implied, "{what}: 99 % are back after {back:?}");
        assert!(all <= implied * 2, "{what}: all are back after {all:?}");
    }

    /// When this part of all devices is back.
    fn returned(&self, course: &Course, percent: u64) -> Duration {
        let mut connects = course.connects.iter().scan(0, |sum, n| {
            *sum += n;
            Some(*sum)
        });
        let bins = connects.position(|sum| sum >= self.devices * percent / 100);
        bins.map_or(Duration::MAX, |bins| BIN * (bins as u32 + 1))
    }

    /// Devices that were told when to come again did not come before: how often, and the longest time.
    fn honoured(&self) -> (u64, Duration) {
        let knocks = self.knocks.lock().expect("nobody panics with it");
        let (mut told, mut longest) = (0, Duration::ZERO);
        for (device, ip) in &self.watched {
            let times = &knocks.of[ip];
            for entry in self.world.log(*device) {
                let Record::Event(DeviceEvent::AttemptFailed { retry_at, .. }) = entry.record else {
                    continue;
                };
                let early = times.iter().find(|t| **t > entry.at && **t < retry_at);
                assert_eq!(early, None, "{device:?} was told at {:?} to come at {retry_at:?}", entry.at);
                told += 1;
                longest = longest.max(retry_at.since(entry.at));
            }
        }
        (told, longest)
    }
}

/// The most in any ten bins that follow each other.
fn peak(bins: &[u64]) -> u64 {
    bins.windows(SECOND).map(|second| second.iter().sum()).max().unwrap_or_default()
}

#[test]
fn after_ten_minutes_all_come_back_as_the_service_can_take_them() {
    let mut storm = Storm::new(1);
    storm.world.stop_service(storm.service);
    let mut outage = Vec::new();
    for _ in 0..6000 {
        let before = storm.knocked();
        storm.world.run_for(BIN);
        outage.push(storm.knocked() - before);
    }
    // Once the back-offs have grown, nobody comes at the same time as all others.
    let (first, rest) = outage.split_at(1200);
    let mean = rest.iter().sum::<u64>() * SECOND as u64 / rest.len() as u64;
    println!(
        "outage: at most {} knocks in a second, later {} and {mean} on average",
        peak(first),
        peak(rest)
    );
    assert!(peak(rest) <= mean * 3 / 2, "{} of {mean}", peak(rest));

    storm.restart();
    let implied = storm.implied(FIRST_CONTACT);
    let course = storm.watch(implied);
    storm.judge("after the outage", &course, implied);
}

#[test]
fn after_a_restart_all_come_back_as_the_service_can_take_them() {
    let mut storm = Storm::new(2);
    storm.restart();
    let implied = storm.implied(NOTICED);
    let course = storm.watch(implied);
    storm.judge("after the restart", &course, implied);
    assert!(storm.world.service(storm.service).stats().resets > 0);
}
