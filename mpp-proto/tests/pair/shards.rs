//! Several shards of one service, and packets that arrive at any of them.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use mpp_proto::*;

use crate::harness::{Pair, is_connected, service_output, spec, unix};

const SHARDS: u16 = 4;
const LINK: LinkId = LinkId(0);

fn config(node: u16, shards: u16) -> ServiceConfig {
    let mut config = ServiceConfig::new(ServiceSecret::new([9; 32]), vec![TicketKey::new(*b"key1", [7; 32])]);
    (config.node, config.shards) = (node, shards);
    config
}

fn shard(config: ServiceConfig, shard: u8) -> Service {
    let now = Instant::from_micros(5_000_000);
    Service::new(config.into(), ShardId(shard), Seed::new([shard + 1; 32]), now, unix(now))
}

/// Gives one packet to a shard: what it says, and what it sends because of it.
fn give(
    service: &mut Service,
    now: Instant,
    from: SocketAddr,
    packet: &mut [u8],
) -> (Disposition, Vec<(SocketAddr, Vec<u8>)>) {
    let before = packet.to_vec();
    let mut dispositions = Vec::new();
    let path = Path::new(LINK, from);
    service.handle_datagrams(now, &mut [Datagram { path, payload: &mut *packet }], &mut dispositions);
    assert!(dispositions[0] == Disposition::Accepted || before == packet, "a refused packet was changed");
    (dispositions[0], service_output(service, now))
}

/// Four shards and many devices. Each packet arrives at every shard in turn, until one takes it.
struct World {
    now: Instant,
    shards: Vec<Service>,
    router: Router,
    devices: Vec<(Device, ShardId, bool)>,
    first: usize,
}

impl World {
    fn new(accounts: usize, each: u8) -> Self {
        let now = Instant::from_micros(5_000_000);
        let router = Router::new(&config(0, SHARDS));
        let key = TicketKey::new(*b"key1", [7; 32]);
        let mut devices = Vec::new();
        for account in 0..accounts {
            for device in 0..each {
                let name = format!("account {account}");
                let home = router.shard_of(&AccountId::of(&name));
                let spec = TicketSpec {
                    account: name,
                    device: DeviceId([device; 16]),
                    ..spec(now, Duration::from_secs(86_400))
                };
                let fresh = [account as u8 * each + device; 32];
                let ticket = key.mint(&spec, &fresh).unwrap();
                let device = Device::new(Arc::default(), ticket, None, Seed::new(fresh), now, unix(now));
                devices.push((device, home, false));
            }
        }
        let shards = (0..SHARDS as u8).map(|n| shard(config(0, SHARDS), n)).collect();
        Self { now, shards, router, devices, first: 0 }
    }

    /// Lets this time pass, in steps of 10 ms, which is also how long a packet takes.
    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        let mut wire = VecDeque::new();
        let mut buffer = [0; 1452];
        while self.now < end {
            self.now = self.now + Duration::from_millis(10);
            let now = self.now;
            for shard in &mut self.shards {
                assert_eq!(shard.handle_timeout(now, NonZeroUsize::MAX), Progress::Done);
                wire.extend(service_output(shard, now));
            }
            for (to, mut packet) in wire.drain(..) {
                let path = Path::new(LINK, "192.0.2.1:15096".parse().unwrap());
                let datagram = Datagram { path, payload: &mut packet };
                let _ = self.devices[usize::from(to.port())].0.handle_datagram(now, datagram);
            }
            for i in 0..self.devices.len() {
                self.devices[i].0.handle_timeout(now);
                let address = SocketAddr::from(([198, 51, 100, 7], i as u16));
                while let Some(event) = self.devices[i].0.poll_event() {
                    match event {
                        DeviceEvent::OpenLink { link, .. } => {
                            let state = LinkState::Open { local: address };
                            self.devices[i].0.handle_link(now, link, state);
                        }
                        event => self.devices[i].2 |= is_connected(&[event]),
                    }
                }
                while let Some(t) = self.devices[i].0.poll_transmit(now, &mut buffer, NonZeroUsize::MIN) {
                    wire.extend(self.deliver(i, address, &mut buffer[..t.len]));
                }
            }
        }
    }

    fn deliver(&mut self, i: usize, from: SocketAddr, packet: &mut [u8]) -> Vec<(SocketAddr, Vec<u8>)> {
        let home = self.devices[i].1;
        assert_eq!(self.router.route(packet), Route::Shard(home));
        // Every packet arrives elsewhere first, at each of the others.
        self.first += 1;
        for n in self.first..self.first + 4 {
            let shard = &mut self.shards[n % 4];
            if n % 4 != usize::from(home.0) {
                let (disposition, answers) = give(shard, self.now, from, packet);
                assert_eq!(disposition, Disposition::OtherShard(home));
                assert!(answers.is_empty(), "the wrong shard answers");
            }
        }
        let (disposition, answers) = give(&mut self.shards[usize::from(home.0)], self.now, from, packet);
        assert_eq!(disposition, Disposition::Accepted);
        answers
    }
}

// SPEC: R-shard
#[test]
fn an_account_lives_on_one_shard_and_the_others_hand_over_what_comes_for_it() {
    let mut world = World::new(16, 3);
    world.run(Duration::from_secs(2));
    assert!(world.devices.iter().all(|(_, _, connected)| *connected));
    let names: Vec<_> = (0..16).map(|n| AccountId::of(&format!("account {n}"))).collect();
    let homes: Vec<_> = names.iter().map(|account| world.router.shard_of(account)).collect();
    assert!((0..4).all(|n| homes.contains(&ShardId(n))), "{homes:?}");
    for (account, home) in names.iter().zip(&homes) {
        for (n, shard) in world.shards.iter_mut().enumerate() {
            let mine = n == usize::from(home.0);
            assert_eq!(shard.devices(world.now, account).count(), if mine { 3 } else { 0 });
            let event = Event::changed(StoreId::CONTACT);
            let other = PublishError::OtherShard { shard: *home };
            let published = shard.publish(world.now, account, event.clone());
            assert_eq!(published, if mine { Ok(Serial(1)) } else { Err(other) });
            if !mine {
                assert_eq!(shard.restore(AccountHead::new(*account)), Err(other));
                assert_eq!(shard.deliver(world.now, account, Serial(2), event), Err(other));
                assert_eq!(shard.skip(account, Serial(9)), Err(other));
            }
        }
    }
    world.run(Duration::from_secs(30));
    for (device, ..) in &mut world.devices {
        assert!(device.poll_notification(world.now).is_some());
        assert_eq!(device.state(), ConnectionState::Connected);
        assert_eq!(device.stats().connects, 1);
    }
    let mut all = ServiceStats::default();
    world.shards.iter().for_each(|shard| all += shard.stats());
    assert_eq!((all.connected, all.connects, all.published, all.resets), (48, 48, 16, 0));
    assert_eq!(all.other_shard, 3 * all.packets_received, "handed over three times, and received once");
    assert_eq!(all.dropped.iter().sum::<u64>(), 0);
}

/// A connected device's packet that no service has seen yet.
fn held_back(pair: &mut Pair) -> Vec<u8> {
    pair.run(Duration::from_secs(2));
    pair.device.query_endpoint(pair.now).unwrap();
    let mut buffer = [0; 1452];
    let t = pair.device.poll_transmit(pair.now, &mut buffer, NonZeroUsize::MIN).unwrap();
    buffer[..t.len].to_vec()
}

#[test]
fn another_node_is_named_and_never_spoken_for() {
    let mut pair = Pair::with(config(7, 1), DeviceConfig::default());
    let mut packet = held_back(&mut pair);
    for node in [0, 8] {
        assert_eq!(Router::new(&config(node, 4)).route(&packet), Route::Node(NodeId(7)));
        let mut service = shard(config(node, 1), 0);
        let (disposition, answers) = give(&mut service, pair.now, pair.address, &mut packet);
        assert_eq!((disposition, answers.len()), (Disposition::OtherNode(NodeId(7)), 0));
        assert_eq!(service.stats().other_node, 1);
    }
}

#[test]
fn when_the_number_of_shards_changes_one_of_them_says_that_the_connection_is_gone() {
    for before in [1, 2, 5] {
        // A service of which this shard was the account's.
        let account = AccountId::of(&spec(Instant::ZERO, Duration::ZERO).account);
        let home = Router::new(&config(0, before)).shard_of(&account);
        let mut pair = Pair::with(config(0, before), DeviceConfig::default());
        pair.service = shard(config(0, before), home.0);
        let mut packet = held_back(&mut pair);
        assert_eq!(pair.service.stats().connected, 1);
        for after in 1..=6 {
            let Route::Shard(heir) = Router::new(&config(0, after)).route(&packet) else {
                panic!("no shard is responsible");
            };
            assert!(u16::from(heir.0) < after);
            for n in 0..after as u8 {
                let mut service = shard(config(0, after), n);
                let (disposition, answers) = give(&mut service, pair.now, pair.address, &mut packet);
                let lengths: Vec<_> = answers.iter().map(|(_, p)| p.len()).collect();
                if n == heir.0 {
                    let stale = Disposition::Dropped(DropReason::StaleIdentifier);
                    assert_eq!((disposition, lengths), (stale, vec![40]));
                } else {
                    assert_eq!((disposition, lengths), (Disposition::OtherShard(heir), vec![]));
                }
            }
        }
    }
}

/// The heir may have a connection with the same slot and generation.
#[test]
fn an_heir_does_not_take_a_retired_shards_connection_for_its_own() {
    let account = AccountId::of(&spec(Instant::ZERO, Duration::ZERO).account);
    let before = (2..).find(|n| Router::new(&config(0, *n)).shard_of(&account) != ShardId(0)).unwrap();
    let home = Router::new(&config(0, before)).shard_of(&account);
    // The generation of a slot comes from the seed, which both shards share here.
    let seeded = |shards, n| {
        let now = Instant::from_micros(5_000_000);
        Service::new(config(0, shards).into(), ShardId(n), Seed::new([3; 32]), now, unix(now))
    };
    let mut pair = Pair::with(config(0, before), DeviceConfig::default());
    pair.service = seeded(before, home.0);
    let mut packet = held_back(&mut pair);
    let mut heir = Pair::with(config(0, 1), DeviceConfig::default());
    heir.service = seeded(1, 0);
    heir.run(Duration::from_secs(2));
    assert_eq!(heir.service.stats().connected, 1);
    let (disposition, _) = give(&mut heir.service, heir.now, pair.address, &mut packet);
    assert_eq!(disposition, Disposition::Dropped(DropReason::StaleIdentifier));
}

#[test]
fn what_no_shard_is_responsible_for() {
    let router = Router::new(&config(0, SHARDS));
    assert_eq!(router.shards(), 4);
    assert_eq!(router.route(&[]), Route::Foreign);
    assert_eq!(router.route(&[0x55; 60]), Route::Foreign);
    let binding = [0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12];
    assert_eq!(router.route(&binding), Route::Stun);
    let mut pair = Pair::new();
    pair.run(Duration::from_secs(1));
    let mut step1 = pair.sent()[0].clone();
    assert!(matches!(router.route(&step1), Route::Shard(_)));
    // A token of a key that is not there: whichever shard it comes to answers it.
    step1[24] ^= 1;
    assert_eq!(router.route(&step1), Route::Any);
    for n in 0..4 {
        let mut service = shard(config(0, SHARDS), n);
        let (disposition, answers) = give(&mut service, pair.now, pair.address, &mut step1);
        assert_eq!((disposition, answers.len()), (Disposition::Dropped(DropReason::UnknownKey), 1));
    }
    assert!(!format!("{router:?}").contains("ticket_keys"));
}

#[test]
fn limits_on_the_whole_are_divided() {
    let mut config = config(0, SHARDS);
    (config.capacity, config.accounts) = (4, 7);
    let account = |n: u32| AccountId::of(&format!("account {n}"));
    let mut service = shard(config, 1);
    let router = Router::new(&self::config(0, SHARDS));
    let mine = (0..).filter(|n| router.shard_of(&account(*n)) == ShardId(1)).map(account);
    let opened = mine.map(|account| service.restore(AccountHead::new(account)));
    let results: Vec<_> = opened.take(3).collect();
    assert_eq!(results, [Ok(()), Ok(()), Err(PublishError::Capacity { limit: 2 })]);
}

proptest::proptest! {
    #[test]
    fn every_packet_has_a_route(
        mut packet in proptest::collection::vec(proptest::num::u8::ANY, 0..1500),
        zeros in 0..64_usize,
    ) {
        // Threads that receive have a router each.
        fn usable_anywhere<T: Clone + Send + Sync + 'static>(_: &T) {}
        let router = Router::new(&config(0, SHARDS));
        usable_anywhere(&router);
        packet.iter_mut().take(zeros).for_each(|byte| *byte = 0);
        if let Route::Shard(shard) = router.route(&packet) {
            proptest::prop_assert!(u16::from(shard.0) < SHARDS);
        }
    }
}
