//! A history happens.

use std::collections::BTreeMap;
use std::time::Duration;

use mpp_proto::{
    Acknowledgement, CollapseKey, Device, DeviceConfig, MAX_PAYLOAD, NetworkId, StoreId, StoreSet, UnixTime,
    Urgency,
};

use super::Operation;
use crate::attacker::{Act, Tactic};
use crate::model::Tally;
use crate::nat::{Dependence, Lifetime, NatConfig, Ports};
use crate::network::{Conditions, Loss};
use crate::post::Post;
use crate::rng::Rng;
use crate::world::{App, DeviceHandle, NatHandle, Restart, ServiceHandle, Udp, WebConditions, World};

const ACCOUNTS: [&str; 2] = ["alice@example.com", "bob@example.com"];
const STORES: [u8; 4] = [2, 11, 32, 127];

/// How long everybody gets in the end to be connected: more than the six hours after which a device asks again whose
/// ticket was refused by a service with a wrong clock.
const PATIENCE: Duration = Duration::from_secs(7 * 3600);

/// A [`History`](super::History) that has happened, or is about to.
pub struct Played {
    /// Where it happened.
    pub world: World,
    /// Its service.
    pub service: ServiceHandle,
    /// Its devices, in the order in which they were added.
    pub devices: Vec<DeviceHandle>,
    /// How long devices ran, all of them together.
    pub device_time: Duration,
    /// Operations that did something, by name.
    pub counts: BTreeMap<&'static str, u64>,
    nats: Vec<NatHandle>,
    payloads: Rng,
}

impl Played {
    /// The service is the first operation if it is any.
    pub(super) fn new(seed: u64, first: Option<&Operation>) -> Self {
        let mut world = World::new(seed);
        let mut config = world.service_config();
        if let Some(Operation::Service { ring_events, ring_kib }) = first {
            config.ring_events = (*ring_events).max(1) as usize;
            config.ring_bytes = (*ring_kib).max(16) as usize * 1024;
        }
        let service = world.add_service(config);
        let payloads = Rng::new(seed).fork(0xBEEF);
        let counts = BTreeMap::new();
        Self {
            world,
            service,
            devices: Vec::new(),
            device_time: Duration::ZERO,
            counts,
            nats: Vec::new(),
            payloads,
        }
    }

    /// One operation happens.
    pub(super) fn step(&mut self, operation: &Operation) {
        if self.operate(operation).is_some() {
            *self.counts.entry(operation.name()).or_default() += 1;
        }
    }

    /// `None` if there is nothing to do it to.
    fn operate(&mut self, operation: &Operation) -> Option<()> {
        let alive = |stage: &Self, device| stage.world.device(device).is_some();
        match *operation {
            Operation::Service { .. } => {}
            Operation::Climate { latency, jitter, loss, burst, duplicate, reorder, corrupt } => {
                let climate = conditions(latency, jitter, loss, burst, duplicate, reorder, corrupt);
                self.world.set_default_conditions(climate, climate);
            }
            Operation::Device { account, stores, manual, queue, interval } => {
                let mut config = DeviceConfig::default();
                // Forward secrecy costs most of the time of a connect, and changes nothing of what is judged.
                config.forward_secrecy = false;
                config.filter = filter(stores);
                if manual != 0 {
                    config.acknowledgement = Acknowledgement::Manual;
                }
                config.queue_events = queue.max(1) as usize;
                if interval != 0 {
                    config.interval = Duration::from_secs(interval.clamp(5, 300));
                }
                let number = self.devices.len() as u64;
                let ticket = self.world.ticket(&[self.service], of(&ACCOUNTS, account), number);
                self.devices.push(self.world.add_device(ticket, config));
            }
            Operation::Post { account, store, size, ttl, key, urgency } => {
                let store = StoreId::new(of(&STORES, store))?;
                let mut post = match (size as usize).min(MAX_PAYLOAD) {
                    0 => Post::changed(store),
                    // Enough bytes that no two are alike: the judge tells events of two epochs apart by what they
                    // say.
                    size => Post::new(store, self.payloads.bytes(size.max(4))),
                };
                if let Some(ttl) = ttl.checked_sub(1) {
                    post = post.ttl(Duration::from_millis(ttl.min(100_000_000)));
                }
                if key != 0 {
                    post = post.key(CollapseKey::new(&[key as u8]).expect("one byte"));
                }
                post = post.urgency(of(&[Urgency::Normal, Urgency::Low, Urgency::High], urgency));
                let account = of(&ACCOUNTS, account);
                self.world.publish(self.service, account, &post).expect("within every limit");
            }
            Operation::Wait { time } => self.pass(Duration::from_millis(time)),
            Operation::Subscribe { device, stores } => {
                let device = self.device(device).filter(|d| alive(self, *d))?;
                // Too many requests under way is an honest answer.
                self.world.subscribe(device, filter(stores)).ok()?;
            }
            Operation::Kill { device } => {
                let device = self.device(device).filter(|d| alive(self, *d))?;
                self.world.kill(device);
            }
            Operation::Restore { device } => {
                let device = self.device(device).filter(|d| !alive(self, *d))?;
                self.world.restore(device);
            }
            Operation::Forget { device } => {
                let device = self.device(device)?;
                self.world.start(device, None);
            }
            Operation::Dark { device, time } => {
                let device = self.device(device)?;
                self.world.black_hole(device, Duration::from_millis(time));
            }
            Operation::Restart { secret, heads } => {
                let keep = Restart { secret: secret != 0, heads: heads != 0 };
                self.world.restart_service(self.service, keep);
            }
            Operation::Pause { device, time } => {
                let app = if time == 0 { App::Prompt } else { App::Every(Duration::from_millis(time)) };
                self.world.set_app(self.device(device)?, app);
            }
            Operation::Stall { device } => self.world.set_app(self.device(device)?, App::Stalled),
            Operation::Hold { device, hold } => {
                let device = self.device(device)?;
                self.world.hold_acknowledgements(device, hold != 0);
            }
            Operation::Uplink { device, latency, jitter, loss, burst, duplicate, reorder, corrupt } => {
                let up = conditions(latency, jitter, loss, burst, duplicate, reorder, corrupt);
                let device = self.device(device)?;
                let (_, down) = self.world.conditions(device);
                self.world.set_conditions(device, up, down);
            }
            Operation::Downlink { device, latency, jitter, loss, burst, duplicate, reorder, corrupt } => {
                let down = conditions(latency, jitter, loss, burst, duplicate, reorder, corrupt);
                let device = self.device(device)?;
                let (up, _) = self.world.conditions(device);
                self.world.set_conditions(device, up, down);
            }
            Operation::Rebind { device } => self.world.rebind(self.device(device)?),
            Operation::Readdress { device } => self.world.readdress(self.device(device)?),
            Operation::Box { mapping, filtering, ports, lifetime, settled, refresh, outer } => {
                let config = nat(mapping, filtering, ports, lifetime, settled, refresh);
                let nat = match self.nat(outer) {
                    Some(outer) => self.world.add_nat_behind(config, outer),
                    None => self.world.add_nat(config),
                };
                self.nats.push(nat);
            }
            Operation::Move { device, to, told } => {
                let device = self.device(device)?;
                match self.nat(to) {
                    Some(nat) => self.world.put_behind(device, nat),
                    None => self.world.put_outside(device),
                }
                if told != 0 && alive(self, device) {
                    // Outside no network has a name, so what is learned there is forgotten.
                    let network = self.nat(to).map(|_| NetworkId(u128::from(to).to_be_bytes()));
                    self.world.with_device(device, |d, now| d.handle_network_change(now, network));
                }
            }
            Operation::Mood { nat, lifetime } => {
                let lifetime = Lifetime::Fixed(Duration::from_secs(lifetime.clamp(2, 100_000)));
                self.world.set_nat_lifetime(self.nat(nat)?, lifetime);
            }
            Operation::Measure { device } => {
                let device = self.device(device)?;
                if alive(self, device) {
                    // One that was closed measures nothing.
                    let _ = self.world.with_device(device, Device::measure_mapping);
                }
            }
            Operation::Reboot { nat, address } => self.world.reboot_nat(self.nat(nat)?, address != 0),
            Operation::Udp { device, blocked } => {
                let ways = [Udp::Passes, Udp::Dropped, Udp::Forbidden, Udp::Narrow(1000)];
                self.world.set_udp(self.device(device)?, of(&ways, blocked));
            }
            Operation::Web { device, client, latency, loss, cut } => {
                let way = WebConditions::perfect(Duration::from_millis(latency.min(10_000)));
                let way = way.loss(loss.min(1000) as f64 / 1000.0);
                let way = if cut == 0 { way } else { way.cut(Duration::from_secs(cut.clamp(2, 100_000))) };
                let way = of(&[None, Some(way), Some(way.down())], client);
                self.world.set_web(self.device(device)?, way);
            }
            Operation::Attack { acts, chance } => {
                let tactics: Vec<_> = (0..)
                    .zip(acts_of_an_attacker())
                    .filter(|(bit, _)| acts >> bit & 1 == 1)
                    .map(|(_, act)| Tactic::sometimes(chance.min(1000) as f64 / 1000.0, act))
                    .collect();
                if tactics.is_empty() {
                    self.world.network().observe(None);
                } else {
                    self.world.attack(&tactics);
                }
            }
            Operation::DeviceClock { device, ahead, behind } => {
                let clock = off(self.world.unix(), ahead, behind);
                self.world.set_device_clock(self.device(device)?, clock);
            }
            Operation::ServiceClock { ahead, behind } => {
                let clock = off(self.world.unix(), ahead, behind);
                self.world.set_service_clock(self.service, clock);
            }
        }
        Some(())
    }

    /// Everybody is there, and gets the time to hear everything.
    pub(super) fn finish(&mut self) {
        for device in self.devices.clone() {
            if self.world.device(device).is_none() {
                self.world.restore(device);
            }
        }
        self.world.network().observe(None);
        self.world.set_service_clock(self.service, self.world.unix());
        let before = self.world.now();
        assert!(self.world.settle(PATIENCE), "not every device is connected after seven hours");
        self.count_time(self.world.now().since(before));
    }

    /// Judges what every application saw.
    ///
    /// # Panics
    /// If there is a fault.
    pub fn judge(&self) -> Tally {
        self.world.check()
    }

    fn pass(&mut self, time: Duration) {
        self.world.run_for(time);
        self.count_time(time);
    }

    fn count_time(&mut self, time: Duration) {
        let running = self.devices.iter().filter(|d| self.world.device(**d).is_some()).count();
        self.device_time += time * running as u32;
    }

    /// The box of this number, counted around from 1; none for 0.
    fn nat(&self, number: u64) -> Option<NatHandle> {
        let number = number.checked_sub(1)?;
        if self.nats.is_empty() { None } else { Some(of(&self.nats, number)) }
    }

    fn device(&self, number: u64) -> Option<DeviceHandle> {
        if self.devices.is_empty() { None } else { Some(of(&self.devices, number)) }
    }
}

/// The element of this number, counted around.
fn of<T: Copy>(list: &[T], number: u64) -> T {
    list[(number % list.len() as u64) as usize]
}

fn filter(mask: u64) -> StoreSet {
    let chosen = STORES.iter().enumerate().filter(|(i, _)| mask >> i & 1 == 1);
    let chosen: StoreSet = chosen.filter_map(|(_, s)| StoreId::new(*s)).collect();
    if chosen.is_empty() { StoreSet::ALL } else { chosen }
}

fn nat(mapping: u64, filtering: u64, ports: u64, lifetime: u64, settled: u64, refresh: u64) -> NatConfig {
    use Dependence::{AddressAndPortDependent, AddressDependent, EndpointIndependent};
    let dependences = [AddressAndPortDependent, AddressDependent, EndpointIndependent];
    let first = Duration::from_secs(lifetime.clamp(2, 100_000));
    let settled = Duration::from_secs(settled.min(100_000));
    NatConfig {
        mapping: of(&dependences, mapping),
        filtering: of(&dependences, filtering),
        lifetime: if settled.is_zero() {
            Lifetime::Fixed(first)
        } else {
            Lifetime::TwoStage { first, settled }
        },
        inbound_refresh: refresh != 0,
        ports: of(&[Ports::Sequential, Ports::Preserved, Ports::Random], ports),
        ..NatConfig::default()
    }
}

/// In the order of the bits of an attack.
fn acts_of_an_attacker() -> [Act; 12] {
    let from = ([203, 0, 113, 66], 666).into();
    [
        Act::Race { from },
        Act::Relay { from },
        Act::Repeat { within: Duration::from_secs(120) },
        Act::Reflect,
        Act::Cut,
        Act::Flip,
        Act::Noise,
        Act::ForgeError { code: 401, retry_after: Duration::from_secs(365 * 24 * 3600) },
        Act::ForgeDefer,
        Act::Delay(Duration::from_secs(2)),
        Act::Take,
        Act::Cross,
    ]
}

fn off(time: UnixTime, ahead: u64, behind: u64) -> UnixTime {
    let ms = time.as_millis().saturating_add(ahead.saturating_mul(1000));
    UnixTime::from_millis(ms.saturating_sub(behind.saturating_mul(1000)))
}

fn conditions(
    latency: u64,
    jitter: u64,
    loss: u64,
    burst: u64,
    duplicate: u64,
    reorder: u64,
    corrupt: u64,
) -> Conditions {
    let of_1000 = |n: u64| n.min(1000) as f64 / 1000.0;
    let base = Conditions::perfect(Duration::from_millis(latency)).jitter(Duration::from_millis(jitter));
    let base = base.duplicate(of_1000(duplicate)).reorder(of_1000(reorder)).corrupt(of_1000(corrupt));
    match burst {
        0 => base.loss(of_1000(loss)),
        enter => Conditions {
            loss: Loss::Burst { enter: of_1000(enter), leave: 0.25, bad: of_1000(loss.max(500)) },
            ..base
        },
    }
}
