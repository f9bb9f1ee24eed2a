//! Random histories before the judge.

mod common;

use common::{ms, quick, secs, store};
use mpp_proto::{Acknowledgement, CollapseKey, StoreSet, Urgency};
use mpp_sim::model::{Sight, Tally, judge};
use mpp_sim::{App, Conditions, DeviceHandle, Post, Restart, Rng, ServiceHandle, World, each_seed};

const ACCOUNTS: [&str; 2] = ["alice@example.com", "bob@example.com"];
const STORES: [u8; 4] = [2, 11, 32, 127];

struct History {
    world: World,
    service: ServiceHandle,
    devices: Vec<DeviceHandle>,
    rng: Rng,
}

impl History {
    fn new(seed: u64) -> Self {
        let mut rng = Rng::new(seed).fork(0xA11CE);
        let mut world = World::new(seed);
        let mut config = world.service_config();
        config.ring_events = rng.between(4, 32) as usize;
        config.ring_bytes = rng.between(16, 64) as usize * 1024;
        let service = world.add_service(config);
        let devices = (0..rng.between(1, 4))
            .map(|d| {
                let conditions = conditions(&mut rng);
                world.set_default_conditions(conditions, conditions);
                let mut config = quick();
                config.filter = filter(&mut rng);
                if rng.chance(0.4) {
                    config.acknowledgement = Acknowledgement::Manual;
                }
                config.queue_events = rng.between(2, 64) as usize;
                let account = ACCOUNTS[rng.index(2)];
                let ticket = world.ticket(&[service], account, d);
                world.add_device(ticket, config)
            })
            .collect();
        Self { world, service, devices, rng }
    }

    fn post(&mut self) {
        let rng = &mut self.rng;
        let store = store(STORES[rng.index(4)]);
        let mut post = if rng.chance(0.25) {
            Post::changed(store)
        } else {
            let most = [20, 20, 1000, 4000, 16_384][rng.index(5)];
            // Enough bytes that no two are alike: the judge tells events of two epochs apart by what they say.
            let len = rng.between(4, most) as usize;
            Post::new(store, rng.bytes(len))
        };
        if rng.chance(0.3) {
            post = post.ttl([ms(0), ms(rng.between(1, 3000)), secs(rng.between(3, 100))][rng.index(3)]);
        }
        if rng.chance(0.25) {
            post = post.key(CollapseKey::new(&[rng.between(1, 3) as u8]).expect("one byte"));
        }
        post = post.urgency([Urgency::Low, Urgency::Normal, Urgency::High][rng.index(3)]);
        let account = ACCOUNTS[rng.index(2)];
        self.world.publish(self.service, account, &post).expect("within every limit");
    }

    fn step(&mut self) {
        let device = self.devices[self.rng.index(self.devices.len())];
        let alive = self.world.device(device).is_some();
        match self.rng.below(1000) {
            0..420 => self.post(),
            420..440 => (0..40).for_each(|_| self.post()),
            440..800 => {
                let time = self.rng.up_to(secs(4));
                self.world.run_for(time);
            }
            800..820 => {
                let time = self.rng.up_to(secs(150));
                self.world.run_for(time);
            }
            820..850 if alive => {
                let stores = filter(&mut self.rng);
                // Too many requests under way is an honest answer.
                let _ = self.world.subscribe(device, stores);
            }
            850..880 => self.world.kill(device),
            880..920 if !alive => self.world.restore(device),
            920..924 => self.world.start(device, None),
            924..940 => {
                let time = self.rng.up_to(secs(200));
                self.world.black_hole(device, time);
            }
            940..946 => {
                let keep = Restart { secret: self.rng.chance(0.7), heads: self.rng.chance(0.5) };
                self.world.restart_service(self.service, keep);
            }
            946..966 => {
                let pause = self.rng.up_to(secs(2));
                let app = [App::Prompt, App::Prompt, App::Stalled, App::Every(pause)][self.rng.index(4)];
                self.world.set_app(device, app);
            }
            966..980 => {
                let hold = self.rng.chance(0.5);
                self.world.hold_acknowledgements(device, hold);
            }
            980..990 => {
                let (up, down) = (conditions(&mut self.rng), conditions(&mut self.rng));
                self.world.set_conditions(device, up, down);
            }
            990..994 => self.world.rebind(device),
            994..996 => self.world.readdress(device),
            _ => {}
        }
    }

    /// Everybody is there, and gets the time to hear everything.
    fn finish(&mut self) {
        for device in self.devices.clone() {
            if self.world.device(device).is_none() {
                self.world.restore(device);
            }
        }
        assert!(self.world.settle(secs(3600)), "every device is connected within an hour");
    }
}

fn filter(rng: &mut Rng) -> StoreSet {
    if rng.chance(0.6) {
        return StoreSet::ALL;
    }
    let chosen: StoreSet = STORES.iter().filter(|_| rng.chance(0.6)).map(|s| store(*s)).collect();
    if chosen.is_empty() { StoreSet::EMPTY.with(store(2)) } else { chosen }
}

fn conditions(rng: &mut Rng) -> Conditions {
    let chance = |rng: &mut Rng, most: f64| rng.below(1000) as f64 / 1000.0 * most;
    let base = Conditions::perfect(ms(rng.between(1, 100))).jitter(ms(rng.between(0, 60)));
    let loss = chance(rng, 0.35);
    base.loss(loss).duplicate(chance(rng, 0.1)).reorder(chance(rng, 0.1)).corrupt(chance(rng, 0.02))
}

fn random_history(seed: u64) -> History {
    let mut history = History::new(seed);
    let steps = history.rng.between(50, 250);
    for _ in 0..steps {
        history.step();
    }
    history.finish();
    history
}

#[test]
fn random_histories_are_allowed() {
    let mut all = Tally::default();
    let mut histories = 0;
    each_seed(300, |seed| {
        all += random_history(seed).world.check();
        histories += 1;
    });
    if histories == 300 {
        // A scenario in which one of these never happens tests less than it says.
        let Tally { delivered, changed, superseded, expired, filtered, fleeting, covered, unknown, gaps } =
            all;
        let all = [delivered, changed, superseded, expired, filtered, fleeting, covered, unknown, gaps];
        assert!(all.iter().all(|n| *n > 100), "{all:?}");
    }
}

#[test]
fn a_history_with_an_event_removed_doubled_or_swapped_is_refused() {
    let (mut removed, mut doubled, mut swapped) = (0, 0, 0);
    each_seed(40, |seed| {
        let history = random_history(seed);
        for device in history.devices {
            let (channel, seen, end) = history.world.evidence(device);
            let honest = judge(&channel, &seen, &end);
            assert!(honest.is_ok(), "{device:?}: {honest:?}");
            let last_start =
                seen.iter().rposition(|s| matches!(s.sight, Sight::Started(_))).unwrap_or_default();
            let event = |i: &usize| matches!(seen[*i].sight, Sight::Event { .. });
            for i in (last_start..seen.len()).filter(event) {
                let mut twice = seen.clone();
                twice.insert(i + 1, seen[i].clone());
                assert!(judge(&channel, &twice, &end).is_err(), "{device:?}: sight {i} doubled");
                doubled += 1;
                let next = (i + 1..seen.len()).find(|j| !matches!(seen[*j].sight, Sight::Taken(_)));
                if let Some(next) = next.filter(event) {
                    let mut wrong = seen.clone();
                    wrong[i].sight = seen[next].sight.clone();
                    wrong[next].sight = seen[i].sight.clone();
                    assert!(
                        judge(&channel, &wrong, &end).is_err(),
                        "{device:?}: sights {i} and {next} swapped"
                    );
                    swapped += 1;
                }
                // Removed: it must be missed, unless something else explains that it did not come.
                let mut without = seen.clone();
                without.remove(i);
                removed += u64::from(judge(&channel, &without, &end).is_err());
            }
        }
    });
    assert!(doubled > 1000 && swapped > 500 && removed > doubled / 3, "{removed} {doubled} {swapped}");
}
