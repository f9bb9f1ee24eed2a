//! Histories by chance.

use super::Operation;
use crate::rng::Rng;

/// The operations of the history of this seed.
///
/// Two kinds, by chance. A busy one posts, fails and recovers within seconds. A calm one has more devices and hours in
/// which only heartbeats go back and forth, so that what takes long happens too: expiry, leases, timers that drift.
pub(super) fn operations(seed: u64) -> Vec<Operation> {
    let mut rng = Rng::new(seed).fork(0xA11CE);
    let calm = rng.chance(0.25);
    let mut out = vec![Operation::Service { ring_events: rng.between(4, 32), ring_kib: rng.between(16, 64) }];
    let devices = if calm { rng.between(2, 24) } else { rng.between(1, 4) };
    for _ in 0..devices {
        let [latency, jitter, loss, burst, duplicate, reorder, corrupt] = weather(&mut rng);
        out.push(Operation::Climate { latency, jitter, loss, burst, duplicate, reorder, corrupt });
        out.push(Operation::Device {
            account: rng.below(2),
            stores: stores(&mut rng),
            manual: u64::from(rng.chance(0.4)),
            queue: rng.between(2, 64),
            interval: if calm { [25, 60, 120, 240, 300][rng.index(5)] } else { 0 },
        });
    }
    // In half of them devices can go by Web, and UDP comes and goes.
    let web = rng.chance(0.5);
    if web {
        for device in 0..devices {
            out.push(way(&mut rng, device));
        }
    }
    let boxes = if rng.chance(0.5) { rng.between(1, 4) } else { 0 };
    for number in 0..boxes {
        out.push(nat(&mut rng, number));
        out.push(Operation::Move { device: rng.below(devices), to: number + 1, told: 0 });
    }
    for _ in 0..rng.between(50, 250) {
        step(&mut rng, devices, (boxes, web), calm, &mut out);
    }
    out
}

fn step(rng: &mut Rng, devices: u64, (boxes, web): (u64, bool), calm: bool, out: &mut Vec<Operation>) {
    let device = rng.below(devices);
    let next = match rng.below(1000) {
        0..420 => post(rng),
        420..422 => Operation::Measure { device },
        422..424 => Operation::Mood { nat: rng.between(1, boxes.max(1)), lifetime: rng.between(10, 600) },
        424..440 => {
            out.extend((0..39).map(|_| post(rng)));
            post(rng)
        }
        440..465 if web => {
            Operation::Udp { device, blocked: if rng.chance(0.5) { 0 } else { rng.between(1, 3) } }
        }
        465..473 if web => way(rng, device),
        440..755 => Operation::Wait { time: rng.between(0, 4000) },
        755..765 => attack(rng),
        765..772 => Operation::Move { device, to: rng.between(0, boxes), told: rng.below(2) },
        772..776 => Operation::Reboot { nat: rng.between(1, boxes.max(1)), address: rng.below(2) },
        776..778 => {
            let [ahead, behind] = [rng.below(2), rng.below(2)].map(|on| on * rng.below(3_000_000_000));
            Operation::DeviceClock { device, ahead, behind }
        }
        // Now and then by so much that tickets seem to have expired, or not to have been issued yet.
        778..780 => {
            let [ahead, behind] = [rng.below(2), rng.below(2)].map(|on| on * rng.below(2_000_000_000));
            Operation::ServiceClock { ahead, behind }
        }
        780..800 => Operation::Wait { time: rng.between(0, 150_000) },
        800..820 => Operation::Wait { time: rng.between(0, if calm { 10 * 3_600_000 } else { 300_000 }) },
        820..850 => Operation::Subscribe { device, stores: stores(rng) },
        850..880 => Operation::Kill { device },
        880..920 => Operation::Restore { device },
        920..924 => Operation::Forget { device },
        924..940 => Operation::Dark { device, time: rng.between(0, 200_000) },
        940..946 => {
            Operation::Restart { secret: u64::from(rng.chance(0.7)), heads: u64::from(rng.chance(0.5)) }
        }
        946..962 => Operation::Pause { device, time: if rng.chance(0.6) { 0 } else { rng.between(1, 2000) } },
        962..966 => Operation::Stall { device },
        966..980 => Operation::Hold { device, hold: rng.below(2) },
        980..985 => {
            let [latency, jitter, loss, burst, duplicate, reorder, corrupt] = weather(rng);
            Operation::Uplink { device, latency, jitter, loss, burst, duplicate, reorder, corrupt }
        }
        985..990 => {
            let [latency, jitter, loss, burst, duplicate, reorder, corrupt] = weather(rng);
            Operation::Downlink { device, latency, jitter, loss, burst, duplicate, reorder, corrupt }
        }
        990..996 => Operation::Rebind { device },
        _ => Operation::Readdress { device },
    };
    out.push(next);
}

fn post(rng: &mut Rng) -> Operation {
    let most = [20, 20, 1000, 4000, 16_384][rng.index(5)];
    Operation::Post {
        account: rng.below(2),
        store: rng.below(4),
        size: if rng.chance(0.25) { 0 } else { rng.between(4, most) },
        ttl: match rng.below(10) {
            0 => 1,
            1 => rng.between(2, 3000),
            2 => rng.between(3000, 100_000),
            _ => 0,
        },
        key: if rng.chance(0.25) { rng.between(1, 3) } else { 0 },
        urgency: rng.below(3),
    }
}

fn nat(rng: &mut Rng, number: u64) -> Operation {
    Operation::Box {
        mapping: rng.below(3),
        filtering: rng.below(3),
        ports: rng.below(3),
        lifetime: rng.between(5, 120),
        settled: if rng.chance(0.3) { rng.between(30, 300) } else { 0 },
        refresh: rng.below(2),
        outer: if rng.chance(0.3) { rng.between(0, number) } else { 0 },
    }
}

/// One or two acts at a time, or that it is over.
fn attack(rng: &mut Rng) -> Operation {
    let acts = if rng.chance(0.4) { 0 } else { 1 << rng.below(12) | 1 << rng.below(12) };
    let most = if rng.chance(0.3) { 1000 } else { 200 };
    Operation::Attack { acts, chance: rng.between(1, most) }
}

/// The way by Web: mostly there, and mostly good.
fn way(rng: &mut Rng, device: u64) -> Operation {
    Operation::Web {
        device,
        client: [1, 1, 1, 1, 2, 0][rng.index(6)],
        latency: rng.between(1, 200),
        loss: if rng.chance(0.5) { 0 } else { rng.between(1, 300) },
        cut: if rng.chance(0.3) { rng.between(2, 45) } else { 0 },
    }
}

fn stores(rng: &mut Rng) -> u64 {
    if rng.chance(0.6) { 0 } else { rng.between(1, 15) }
}

fn weather(rng: &mut Rng) -> [u64; 7] {
    let burst = if rng.chance(0.2) { rng.between(1, 60) } else { 0 };
    [
        rng.between(1, 100),
        rng.between(0, 60),
        rng.between(0, 350),
        burst,
        rng.between(0, 100),
        rng.between(0, 100),
        rng.between(0, 20),
    ]
}
