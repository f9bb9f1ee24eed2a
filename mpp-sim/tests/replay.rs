//! Copied, replayed and forged packets (F7): from somebody on the path who has no keys.

mod common;

use std::net::SocketAddr;

use common::{ALICE, connect, ms, quick, secs, store, world};
use mpp_proto::{
    AccountId, Code, DeferPolicy, DeviceEvent, DeviceStatus, Disposition, Event, Instant, Notification,
    NotificationKind, ServiceEvent, StoreSet, UnixTime,
};
use mpp_sim::attacker::replays;
use mpp_sim::{
    Act, DeviceHandle, NatConfig, Packet, Post, Record, Restart, ServiceHandle, Tactic, World, each_seed,
};

const BOB: &str = "bob@example.com";
/// Posts by devices are not in the book of the judge: whoever posts does so on a channel of its own.
const CAROL: &str = "carol@example.com";

fn elsewhere() -> SocketAddr {
    ([203, 0, 113, 9], 4444).into()
}

/// So many devices of Alice, not connected yet.
fn alices(world: &mut World, service: ServiceHandle, count: u64) -> Vec<DeviceHandle> {
    let mut device = |n| {
        let ticket = world.ticket(&[service], ALICE, n);
        world.add_device(ticket, quick())
    };
    (0..count).map(&mut device).collect()
}

/// A world in which much has happened, and every packet of it.
struct Rich {
    world: World,
    service: ServiceHandle,
    devices: Vec<DeviceHandle>,
    packets: Vec<Packet>,
}

/// Connections with and without forward secrecy, of two accounts, one of them behind a NAT box; notifications of one
/// packet and of many, posts, other filters, a move, a rebinding, a farewell, a device that was restarted.
fn rich(seed: u64) -> Rich {
    let (mut world, service) = world(seed);
    let attacker = world.attack(&[]);
    let nat = world.add_nat(NatConfig::linux());
    let mut devices = Vec::new();
    for (n, account) in [ALICE, ALICE, BOB, CAROL].into_iter().enumerate() {
        let ticket = world.ticket(&[service], account, n as u64);
        let device = if n == 0 {
            world.add_device(ticket, mpp_proto::DeviceConfig::default())
        } else {
            world.add_device(ticket, quick())
        };
        if n == 1 {
            world.put_behind(device, nat);
        }
        connect(&mut world, device);
        devices.push(device);
    }
    for size in [0, 100, 5000, 16_000] {
        for account in [ALICE, BOB] {
            let payload = world.rng().bytes(size);
            world.publish(service, account, &Post::new(store(2), payload)).unwrap();
        }
        world.run_for(secs(1));
    }
    let event = Event::with_payload(store(3), "from a device".into());
    world.with_device(devices[3], |d, now| d.post(now, &event)).unwrap();
    world.with_device(devices[2], |d, now| d.query_endpoint(now)).unwrap();
    world.subscribe(devices[1], StoreSet::EMPTY.with(store(2)).with(store(3))).unwrap();
    world.run_for(secs(2));
    world.with_device(devices[0], |d, now| d.handle_network_change(now, None));
    world.rebind(devices[2]);
    world.reboot_nat(nat, true);
    world.run_for(secs(60));
    world.kill(devices[2]);
    world.restore(devices[2]);
    let ticket = world.ticket(&[service], BOB, 9);
    let leaver = world.add_device(ticket, quick());
    connect(&mut world, leaver);
    world.with_device(leaver, |d, now| d.close(now));
    world.run_for(secs(60));
    world.network().observe(None);
    let packets: Vec<_> = attacker.seen().into_iter().map(|(_, packet)| packet).collect();
    assert!(packets.len() > 80, "{}", packets.len());
    Rich { world, service, devices, packets }
}

/// What nobody without keys may change: the state of every device, and what the service holds of it.
#[derive(Debug, PartialEq)]
struct State {
    seen: Vec<usize>,
    devices: Vec<(mpp_proto::ConnectionState, Option<SocketAddr>, [u64; 4])>,
    events: usize,
    statuses: Vec<DeviceStatus>,
    counts: [u64; 9],
}

impl Rich {
    fn state(&self) -> State {
        let Self { world, service, devices, .. } = self;
        let machines = devices.iter().map(|d| world.device(*d).expect("it runs"));
        let stats = world.service(*service).stats();
        let of = |account| world.service(*service).devices(world.now(), account);
        // When it was heard last, and how fast it was, moves by itself.
        let still = |mut s: DeviceStatus| {
            (s.silent, s.connected, s.rtt) = (ms(0), ms(0), None);
            s
        };
        State {
            seen: devices.iter().map(|d| world.notifications(*d).count()).collect(),
            devices: machines
                .map(|m| {
                    let s = m.stats();
                    (m.state(), m.observed_endpoint(), [s.connects, s.notifies, s.expired, s.refused])
                })
                .collect(),
            events: world.service_log(*service).len(),
            statuses: [ALICE, BOB, CAROL].map(AccountId::of).iter().flat_map(|a| of(a).map(still)).collect(),
            counts: [
                stats.connected,
                stats.connects,
                stats.migrations,
                stats.suggested,
                stats.published,
                stats.notifies,
                stats.notified,
                stats.accounts,
                stats.ring_bytes,
            ],
        }
    }

    /// Sends everything again, to either side, from either place.
    fn replay(&mut self) -> u64 {
        let mut accepted = 0;
        for packet in &self.packets.clone() {
            for copy in replays(packet, elsewhere()) {
                accepted += u64::from(self.world.strike(copy) == Some(Disposition::Accepted));
            }
            self.world.run_for(ms(1));
        }
        accepted
    }

    fn records(&self) -> u64 {
        self.world.service(self.service).stats().records
    }

    /// New events still arrive, once and at once, at everybody.
    fn still_works(&mut self) {
        let Self { world, service, devices, .. } = self;
        let had: Vec<_> = devices.iter().map(|d| world.payloads(*d).count()).collect();
        for account in [ALICE, BOB] {
            world.publish(*service, account, &Post::new(store(2), "still here")).unwrap();
        }
        world.run_for(secs(1));
        for (device, had) in devices[..3].iter().zip(had) {
            assert_eq!(world.payloads(*device).count(), had + 1, "{:#?}", world.log(*device));
            assert!(world.judge(*device).is_ok(), "{:?}", world.judge(*device));
        }
    }

    fn nobody_is_displaced(&self) {
        let aborted = |r: &Record| matches!(r, Record::Event(DeviceEvent::Aborted(_)));
        for device in &self.devices {
            assert!(!self.world.log(*device).iter().any(|e| aborted(&e.record)), "{device:?}");
        }
    }
}

#[test]
fn replays_at_any_later_time_change_nothing() {
    each_seed(2, |seed| {
        let mut rich = rich(seed);
        for later in [0, 1, 10, 600, 3600, 24 * 3600] {
            rich.world.run_for(secs(later));
            for device in rich.devices.clone() {
                connect(&mut rich.world, device);
            }
            // Not while something is under way that happens by itself.
            rich.world.run_for(secs(1));
            let (before, records) = (rich.state(), rich.records());
            rich.replay();
            assert_eq!(rich.state(), before, "after {later} s");
            rich.world.run_for(secs(15));
            assert_eq!(rich.records(), records, "half-open connections have ended");
            rich.still_works();
        }
        rich.nobody_is_displaced();
    });
}

#[test]
fn replays_into_later_lives_of_the_devices_change_nothing() {
    for keeps in [true, false] {
        let mut rich = rich(3);
        for device in rich.devices.clone() {
            rich.world.kill(device);
            rich.world.run_for(secs(2));
            if keeps {
                rich.world.restore(device);
            } else {
                rich.world.start(device, None);
            }
        }
        rich.world.run_for(secs(15));
        let (before, records) = (rich.state(), rich.records());
        rich.replay();
        assert_eq!(rich.state(), before);
        rich.world.run_for(secs(15));
        assert_eq!(rich.records(), records);
        rich.still_works();
        rich.nobody_is_displaced();
    }
}

#[test]
fn replays_into_a_restarted_service_deliver_nothing() {
    for (secret, heads) in [(true, true), (true, false), (false, true), (false, false)] {
        let mut rich = rich(4);
        rich.world.restart_service(rich.service, Restart { secret, heads });
        // Before the devices know: exchanges of before are begun again, and nobody can finish them.
        let had: Vec<_> = rich.devices.iter().map(|d| rich.world.payloads(*d).count()).collect();
        let connects = rich.world.service(rich.service).stats().connects;
        for packet in rich.packets.clone() {
            for copy in replays(&packet, elsewhere()) {
                let _ = rich.world.strike(copy);
            }
        }
        assert_eq!(rich.world.service(rich.service).stats().connects, connects, "{secret} {heads}");
        rich.world.run_for(secs(300));
        for (device, had) in rich.devices.clone().into_iter().zip(had) {
            connect(&mut rich.world, device);
            assert_eq!(rich.world.payloads(device).count(), had);
        }
        // And once they are back.
        let (before, records) = (rich.state(), rich.records());
        rich.replay();
        assert_eq!(rich.state(), before, "{secret} {heads}");
        rich.world.run_for(secs(15));
        assert_eq!(rich.records(), records);
        rich.still_works();
        rich.nobody_is_displaced();
    }
}

/// How many times everything is sent again to see whether memory grows.
const FLOODS: usize = 20;

#[test]
fn replays_take_no_memory() {
    let mut rich = rich(5);
    let mut records = Vec::new();
    for _ in 0..FLOODS {
        rich.replay();
        records.push(rich.records());
    }
    // At most four half-open connections for each device of the capture, however often its first packets come again.
    let most = rich.world.service(rich.service).stats().connected + 4 * 5;
    assert!(records.iter().all(|r| *r <= most), "{records:?}");
    rich.still_works();
}

/// The longest that a device was without a connection once it had one, and how often it connected.
fn worst_outage(world: &World, device: DeviceHandle) -> (std::time::Duration, u32) {
    let (mut since, mut worst, mut connects) = (None::<Instant>, ms(0), 0);
    for entry in world.log(device) {
        match &entry.record {
            Record::Event(DeviceEvent::Disconnected { .. }) => since = Some(entry.at),
            Record::Event(DeviceEvent::Connected(_)) => {
                connects += 1;
                worst = worst.max(since.take().map_or(ms(0), |s| entry.at.since(s)));
            }
            _ => {}
        }
    }
    assert_eq!(since, None, "connected at the end");
    (worst, connects)
}

// One forged answer, whatever it says, costs no more than a lost packet does.
#[test]
fn one_forged_answer_silences_no_device() {
    let forgeries = [400, 401, 403, 404, 408, 409, 410, 413, 429, 503, 505]
        .map(|code| Act::ForgeError { code, retry_after: secs(365 * 24 * 3600) });
    for act in forgeries.into_iter().chain([Act::ForgeDefer]) {
        for policy in [DeferPolicy::Always, DeferPolicy::Above { half_open: 1024 }] {
            let mut world = World::new(6);
            let mut config = world.service_config();
            config.defer = policy;
            let service = world.add_service(config);
            world.attack(&[Tactic::always(act).limit(1)]);
            let ticket = world.ticket(&[service], ALICE, 1);
            let device = world.add_device(ticket, quick());
            let connected = world.run_until(secs(2), |w| w.is_connected(device));
            assert!(connected, "{act:?} {policy:?}: {:#?}", world.log(device));
        }
    }
}

// Somebody who answers every first packet, and spoils, copies and repeats whatever else goes by, for an hour: nothing
// that he makes up counts. Only what he takes away could, and he takes nothing here.
#[test]
fn an_attacker_without_keys_silences_no_device() {
    let everything = [
        Tactic::always(Act::ForgeError { code: 401, retry_after: secs(365 * 24 * 3600) }),
        Tactic::always(Act::ForgeDefer),
        Tactic::always(Act::Flip),
        Tactic::always(Act::Cut),
        Tactic::always(Act::Noise),
        Tactic::sometimes(0.5, Act::Repeat { within: secs(120) }),
        Tactic::sometimes(0.5, Act::Reflect),
        Tactic::sometimes(0.3, Act::Relay { from: elsewhere() }),
        Tactic::sometimes(0.1, Act::Delay(ms(200))),
    ];
    each_seed(5, |seed| {
        let (mut world, service) = world(seed);
        let attacker = world.attack(&everything);
        let nat = world.add_nat(NatConfig::linux());
        let devices = alices(&mut world, service, 2);
        world.put_behind(devices[0], nat);
        for round in 0..120u8 {
            world.publish(service, ALICE, &Post::new(store(2), vec![round; 100])).unwrap();
            world.run_for(secs(30));
            if round % 40 == 30 {
                world.restart_service(service, Restart { secret: true, heads: true });
            }
        }
        assert!(attacker.sent() > 2000, "{}", attacker.sent());
        world.run_for(secs(60));
        for device in &devices {
            // The service was restarted three times, and keys without forward secrecy are renewed within the hour. A
            // device comes back after a reset as if nobody were there: two seconds, and the exchange.
            let (worst, connects) = worst_outage(&world, *device);
            assert!(worst <= secs(6), "{worst:?}");
            assert!((4..40).contains(&connects), "{connects}");
        }
        world.check();
    });
}

/// The start of 2099.
const YEAR_2099: UnixTime = UnixTime::from_millis(4_070_908_800_000);

// F7. Tickets look expired for a minute. Whoever asks in it is told so, by the service itself; and comes back.
#[test]
fn a_service_whose_clock_stands_at_2099_for_a_minute_silences_no_device() {
    let (mut world, service) = world(8);
    let devices = alices(&mut world, service, 3);
    for device in &devices {
        connect(&mut world, *device);
    }
    world.kill(devices[2]);
    let true_time = world.unix();
    world.set_service_clock(service, YEAR_2099);
    // One comes back in that minute, and is refused: its ticket has expired, as far as this service knows.
    world.run_for(secs(10));
    world.restore(devices[2]);
    world.run_for(secs(50));
    let refused =
        |r: &Record| matches!(r, Record::Event(DeviceEvent::RenewTicket { code: Code::TICKET_EXPIRED }));
    assert!(world.log(devices[2]).iter().any(|e| refused(&e.record)));
    let now = true_time + secs(60);
    world.set_service_clock(service, now);
    // Those that were connected have stayed so.
    for device in &devices[..2] {
        assert!(world.is_connected(*device));
        assert_eq!(world.device(*device).unwrap().stats().connects, 1);
    }
    // The one that was refused asks again after a quarter of an hour at most, without anybody's help.
    let back = world.run_until(secs(15 * 60), |w| w.is_connected(devices[2]));
    assert!(back, "{:#?}", world.log(devices[2]));
    // All have asked for the time since, so all hear of what is posted.
    world.run_for(secs(60));
    world.publish(service, ALICE, &Post::new(store(2), "still here")).unwrap();
    world.run_for(secs(1));
    assert_eq!(world.check().delivered, 3);
}

// F7. Events that wait while that happens, that are posted in that minute, and right after it: none has expired.
#[test]
fn a_service_whose_clock_stands_at_2099_for_a_minute_loses_no_event() {
    let (mut world, service) = world(12);
    let devices = alices(&mut world, service, 2);
    for device in &devices {
        connect(&mut world, *device);
    }
    let publish = |world: &mut World, text: &'static str| {
        world.publish(service, ALICE, &Post::new(store(2), text)).unwrap()
    };
    world.black_hole(devices[1], secs(70));
    publish(&mut world, "before");
    world.run_for(secs(1));
    let true_time = world.unix();
    world.set_service_clock(service, YEAR_2099);
    publish(&mut world, "meanwhile");
    world.run_for(secs(60));
    world.set_service_clock(service, true_time + secs(60));
    publish(&mut world, "after");
    world.run_for(secs(60));
    for device in &devices {
        assert_eq!(world.payloads(*device).count(), 3, "{:#?}", world.log(*device));
    }
    assert!(world.settle(secs(600)));
    assert_eq!(world.check().delivered, 6);
}

// Keys do not depend on the device's randomness alone: a machine that is started from one snapshot twice.
#[test]
fn a_seed_that_repeats_repeats_no_packet() {
    let (mut world, service) = world(9);
    let attacker = world.attack(&[]);
    let ticket = world.ticket(&[service], ALICE, 1);
    let device = world.add_device(ticket, quick());
    world.repeat_seed(device, true);
    for keeps in [true, false, true] {
        connect(&mut world, device);
        world.publish(service, ALICE, &Post::new(store(2), "hello")).unwrap();
        world.run_for(secs(30));
        let resume = world.device(device).map(mpp_proto::Device::resume);
        world.start(device, resume.filter(|_| keeps));
    }
    connect(&mut world, device);
    world.run_for(secs(30));
    let mut packets: Vec<_> = attacker.seen().into_iter().map(|(_, p)| p.payload).collect();
    let count = packets.len();
    packets.sort();
    packets.dedup();
    assert_eq!(packets.len(), count, "of {count} packets");
    let connected = |e: &ServiceEvent| matches!(e, ServiceEvent::Connected { .. });
    assert_eq!(world.service_log(service).iter().filter(|(_, e)| connected(e)).count(), 4);
    world.check();
}

// A device whose clock is wrong: its connect serials come from that clock.
#[test]
fn a_device_with_a_wrong_clock_comes_back() {
    let (mut world, service) = world(10);
    let ticket = world.ticket(&[service], ALICE, 1);
    let device = world.add_device(ticket, quick());
    connect(&mut world, device);
    for clock in [YEAR_2099, UnixTime::EPOCH, UnixTime::from_millis(u64::MAX), UnixTime::from_millis(1_000)] {
        world.kill(device);
        world.set_device_clock(device, clock);
        // With nothing kept, also not its last serial, while the service still holds its old connection.
        world.start(device, None);
        let back = world.run_until(secs(60), |w| w.is_connected(device));
        assert!(back, "{clock:?}: {:#?}", world.log(device));
        world.publish(service, ALICE, &Post::new(store(2), format!("{clock:?}"))).unwrap();
        world.run_for(secs(1));
    }
    assert_eq!(world.check().delivered, 4);
}

// A log restored from a backup: whoever has seen more than it knows makes it begin a new epoch, and is told of a gap.
#[test]
fn a_restored_backup_is_noticed() {
    for published_since in [0, 5] {
        let (mut world, service) = world(11);
        let ticket = world.ticket(&[service], ALICE, 1);
        let device = world.add_device(ticket, quick());
        connect(&mut world, device);
        let publish = |world: &mut World, n: u32| {
            world.publish(service, ALICE, &Post::new(store(2), format!("{n}"))).unwrap();
            world.run_for(secs(1));
        };
        (0..3).for_each(|n| publish(&mut world, n));
        let backup = world.backup(service);
        (0..published_since).for_each(|n| publish(&mut world, 10 + n));
        let epoch = world.service(service).head(&AccountId::of(ALICE)).and_then(|h| h.epoch);
        world.restore_backup(service, &backup, true);
        world.run_for(secs(60));
        connect(&mut world, device);
        publish(&mut world, 100);
        let now = world.service(service).head(&AccountId::of(ALICE)).and_then(|h| h.epoch);
        assert_eq!(now == epoch, published_since == 0);
        let tally = world.check();
        // The answer to Connect says so, and so does the first Notify.
        assert_eq!(tally.gaps > 0, published_since > 0, "{tally:?}");
        assert_eq!(world.payloads(device).count(), 4 + published_since as usize);
    }
}

// F10. The new history has grown to where the old one was when the service is restarted, and only one device had come in
// between. What the host restores is what it was told.
#[test]
fn the_epoch_that_a_lost_history_began_outlives_a_restart() {
    let (mut world, service) = world(12);
    let devices = alices(&mut world, service, 2);
    let publish = |world: &mut World, n: u32| {
        world.publish(service, ALICE, &Post::new(store(2), format!("{n}"))).unwrap();
        world.run_for(secs(1));
    };
    devices.iter().for_each(|device| connect(&mut world, *device));
    (0..3).for_each(|n| publish(&mut world, n));
    let backup = world.backup(service);
    (10..15).for_each(|n| publish(&mut world, n));
    world.kill(devices[0]);
    world.restore_backup(service, &backup, true);
    world.run_for(secs(60));
    connect(&mut world, devices[1]);
    (20..25).for_each(|n| publish(&mut world, n));
    world.restart_service(service, Restart { secret: true, heads: true });
    world.restore(devices[0]);
    connect(&mut world, devices[0]);
    world.run_for(secs(60));
    // The judge knows that it has heard of everything, or of a gap.
    world.check();
    let is_gap = |n: &Notification| matches!(n.kind, NotificationKind::Gap(_));
    assert!(world.log(devices[0]).iter().filter_map(|e| e.notification()).any(is_gap));
}
