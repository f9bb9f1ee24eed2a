//! What the steady state costs the service, in nanoseconds per operation: `cargo bench -p mpp-proto`.
//!
//! A harness of its own, and a small one: what is measured is one side of a conversation, so the clock stops while the
//! devices answer, and an operation is not one call that could be repeated in a loop. The median of several rounds is
//! shown with the quickest and the slowest.

use std::hint::black_box;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use mpp_proto::fuzzing::parts;
use mpp_proto::*;

/// The machine's own clock. The purity lints of this package are for the core; a benchmark has to look at one.
#[allow(clippy::disallowed_types, clippy::disallowed_methods, reason = "measures real time")]
fn time<T>(spent: &mut Duration, work: impl FnOnce() -> T) -> T {
    let start = std::time::Instant::now();
    let result = black_box(work());
    *spent += start.elapsed();
    result
}

const DEVICES: u32 = 10_000;
const ROUNDS: usize = 15;
/// Packets that a host gives the service at once.
const BATCH: usize = 32;

fn main() {
    // `cargo test --benches` runs it too; a smoke test is enough there.
    let quick = std::env::args().any(|a| a == "--test");
    let (devices, rounds) = if quick { (100, 1) } else { (DEVICES, ROUNDS) };
    notify_and_acknowledge(devices, rounds);
    for size in [64, 1200 - parts::PACKET_OVERHEAD] {
        seal_and_open(size, rounds);
    }
    for timers in [devices, 100 * devices] {
        schedule_and_expire(timers, rounds);
    }
}

fn report(name: &str, unit: &str, mut rounds: Vec<f64>) {
    rounds.sort_by(f64::total_cmp);
    let (first, middle, last) = (rounds[0], rounds[rounds.len() / 2], rounds[rounds.len() - 1]);
    println!("{name:<58} {middle:>8.0} ns/{unit}   ({first:.0} to {last:.0})");
}

fn per(spent: Duration, operations: u32) -> f64 {
    spent.as_secs_f64() * 1e9 / f64::from(operations)
}

/// Random enough for an order that no cache foresees.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % n
    }

    fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i + 1));
        }
    }
}

struct Phone {
    device: Device,
    account: AccountId,
    address: SocketAddr,
    link: LinkId,
}

/// Each device has an account of its own. One operation: publish an event, write its Notify, take the packet
/// with acknowledgement and position that comes back.
fn notify_and_acknowledge(count: u32, rounds: usize) {
    let mut now = Instant::from_micros(5_000_000);
    let unix = UnixTime::from_millis(1_800_000_000_000);
    let key = TicketKey::new(*b"key1", [7; 32]);
    let mut config = ServiceConfig::new(ServiceSecret::new([9; 32]), vec![key.clone()]);
    config.forward_secrecy = false;
    let mut service = Service::new(Arc::new(config), ShardId(0), Seed::new([1; 32]), now, unix);
    let service_address: SocketAddr = "192.0.2.1:15096".parse().expect("an address");
    let mut config = DeviceConfig::default();
    config.forward_secrecy = false;
    let config = Arc::new(config);

    let mut phones: Vec<Phone> = (0..count)
        .map(|i| {
            let account = format!("user{i}@example.com");
            let spec = TicketSpec {
                endpoints: vec![Endpoint::Address(service_address)],
                account: account.clone(),
                device: DeviceId([1; 16]),
                rights: Rights::default(),
                issued: unix,
                expiry: unix + Duration::from_secs(86_400),
            };
            let mut seed = [2; 32];
            seed[..4].copy_from_slice(&i.to_be_bytes());
            let ticket = key.mint(&spec, &seed).expect("the ticket is within its limits");
            let [_, a, b, c] = i.to_be_bytes();
            Phone {
                device: Device::new(Arc::clone(&config), ticket, None, Seed::new(seed), now, unix),
                account: AccountId::of(&account),
                address: ([10, a, b, c], 4000).into(),
                link: LinkId(0),
            }
        })
        .collect();
    let by_address: std::collections::BTreeMap<SocketAddr, usize> =
        phones.iter().enumerate().map(|(i, p)| (p.address, i)).collect();
    let mut batch = TransmitBatch::new(64);
    let mut dispositions = Vec::with_capacity(BATCH);
    let mut random = Random(1);

    // Connect them, in small groups so that nobody is asked to prove an address first.
    let mut spent = Duration::ZERO;
    for first in (0..phones.len()).step_by(100) {
        let group = first..(first + 100).min(phones.len());
        for _ in 0..6 {
            let packets = group.clone().flat_map(|i| say(&mut phones[i], now)).collect();
            hear(&mut service, now, packets, &mut dispositions, &mut spent);
            answer(&mut service, now, &mut batch, &mut phones, &by_address, &mut spent);
            now = now + Duration::from_millis(1);
        }
    }
    assert_eq!(service.stats().connected, u64::from(count), "not all devices are connected");

    let mut results = Vec::new();
    let mut order: Vec<usize> = (0..phones.len()).collect();
    for _ in 0..rounds {
        let mut spent = Duration::ZERO;
        random.shuffle(&mut order);
        for i in &order {
            let account = phones[*i].account;
            time(&mut spent, || service.publish(now, &account, Event::changed(StoreId::INBOUND)))
                .expect("the account is known");
        }
        answer(&mut service, now, &mut batch, &mut phones, &by_address, &mut spent);
        // One packet with the acknowledgement and the position.
        random.shuffle(&mut order);
        let packets: Vec<_> = order.iter().flat_map(|i| say(&mut phones[*i], now)).collect();
        assert_eq!(packets.len(), phones.len(), "not one packet from each device");
        hear(&mut service, now, packets, &mut dispositions, &mut spent);
        now = now + Duration::from_millis(1);
        let told = service.stats();
        assert_eq!(told.notified, told.notifies, "an acknowledgement is missing");
        results.push(per(spent, count));
    }
    report(&format!("service: notify and acknowledge, {count} devices, random order"), "op", results);
}

/// What a device has to say, and its application to hear.
fn say(phone: &mut Phone, now: Instant) -> Vec<(SocketAddr, Vec<u8>)> {
    phone.device.handle_timeout(now);
    while let Some(event) = phone.device.poll_event() {
        if let DeviceEvent::OpenLink { link, kind: LinkKind::Udp(_) } = event {
            phone.link = link;
            phone.device.handle_link(now, link, LinkState::Open { local: phone.address });
        }
    }
    while phone.device.poll_notification(now).is_some() {}
    let mut buffer = [0; 1452];
    let mut packets = Vec::new();
    while let Some(t) = phone.device.poll_transmit(now, &mut buffer, NonZeroUsize::MIN) {
        packets.push((phone.address, buffer[..t.len].to_vec()));
    }
    packets
}

/// The service takes packets, in batches.
fn hear(
    service: &mut Service,
    now: Instant,
    mut packets: Vec<(SocketAddr, Vec<u8>)>,
    dispositions: &mut Vec<Disposition>,
    spent: &mut Duration,
) {
    for group in packets.chunks_mut(BATCH) {
        let mut received: Vec<Datagram<'_>> = group
            .iter_mut()
            .map(|(from, payload)| Datagram { path: Path::new(LinkId(0), *from), payload })
            .collect();
        time(spent, || service.handle_datagrams(now, &mut received, dispositions));
        assert!(dispositions.iter().all(|d| *d == Disposition::Accepted), "{dispositions:?}");
    }
}

/// The service says all it has to say, and the devices hear it.
fn answer(
    service: &mut Service,
    now: Instant,
    batch: &mut TransmitBatch,
    phones: &mut [Phone],
    by_address: &std::collections::BTreeMap<SocketAddr, usize>,
    spent: &mut Duration,
) {
    while time(spent, || service.poll_transmit(now, batch)) > 0 {
        for (t, bytes) in batch.iter() {
            let phone = &mut phones[by_address[&t.path.remote]];
            let path = Path::new(phone.link, "192.0.2.1:15096".parse().expect("an address"));
            let mut payload = bytes.to_vec();
            let disposition = phone.device.handle_datagram(now, Datagram { path, payload: &mut payload });
            assert_eq!(disposition, Disposition::Accepted);
        }
        batch.clear();
    }
    while service.poll_event().is_some() {}
    service.drain_positions(usize::MAX, |_, _, _, _| {});
}

/// One packet, keys expanded for each use.
fn seal_and_open(plaintext: usize, rounds: usize) {
    const PACKETS: u32 = 10_000;
    let mut packets = vec![vec![0; plaintext + parts::PACKET_OVERHEAD]; PACKETS as usize];
    let (mut sealing, mut opening) = (Vec::new(), Vec::new());
    let mut number = 0;
    for _ in 0..rounds {
        let (mut seal, mut open) = (Duration::ZERO, Duration::ZERO);
        time(&mut seal, || {
            for packet in &mut packets {
                number += 1;
                parts::seal(packet, number);
            }
        });
        let all = time(&mut open, || packets.iter_mut().all(|packet| parts::open(packet)));
        assert!(all, "a sealed packet does not open");
        sealing.push(per(seal, PACKETS));
        opening.push(per(open, PACKETS));
    }
    report(&format!("packet: seal, {plaintext} bytes of plaintext"), "packet", sealing);
    report(&format!("packet: open, {plaintext} bytes of plaintext"), "packet", opening);
}

/// Leases of 80 s, filed in random order, each of which fires once.
fn schedule_and_expire(count: u32, rounds: usize) {
    let mut random = Random(2);
    let mut order: Vec<u32> = (0..count).collect();
    let (mut filing, mut firing) = (Vec::new(), Vec::new());
    let mut timers = parts::Timers::new(count);
    let mut now = 0;
    for _ in 0..rounds {
        random.shuffle(&mut order);
        let at: Vec<u32> = order.iter().map(|_| now + 1 + random.below(80_000) as u32).collect();
        let (mut file, mut fire) = (Duration::ZERO, Duration::ZERO);
        time(&mut file, || order.iter().zip(&at).for_each(|(key, at)| timers.schedule(*key, *at)));
        let end = now + 80_000;
        let mut fired = 0;
        // As a host does: every millisecond.
        time(&mut fire, || {
            while now < end {
                now += 1;
                fired += timers.expire(now);
            }
        });
        assert_eq!(fired, count, "a timer was lost");
        filing.push(per(file, count));
        firing.push(per(fire, count));
    }
    report(&format!("wheel: schedule, {count} timers"), "timer", filing);
    report(&format!("wheel: expire, {count} timers within 80 s, each ms"), "timer", firing);
}
