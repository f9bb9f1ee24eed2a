//! Spoofed packets of every kind that a stranger or a ticket holder can send (SPEC.md, section 19.3): what the service
//! sends because of them is bounded, nothing is allocated for strangers, and those who are connected do not notice.
//!
//! `MPP_STRANGERS=100` makes the flood a hundred times as long.

mod town;

use std::net::SocketAddr;
use std::time::Duration;

use allocation_counter::measure;
use mpp_proto::*;
use town::{LINK, Town};

/// Devices that live at the service while all this happens.
const RESIDENTS: u8 = 16;
/// Packets of one kind that come at once.
const BATCH: usize = 32;
/// Hosts that send Binding requests.
const BINDING_HOSTS: usize = 4;
/// Ticks of 10 ms: more than 500,000 packets.
const TICKS: u64 = 1 << 14;
/// First ticks, in which every queue gets its size.
const WARM_UP: u64 = 1 << 11;

/// A row of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Row {
    /// Step 1 with a token that no key opens, or of a key that is not there.
    NoToken,
    /// Step 1 with a valid token and anything behind it.
    ForgedConnect,
    /// Step 1 of a ticket holder, replayed from everywhere.
    Valid,
    Short,
    OtherType,
    OtherVersion,
    /// A Binding request of RFC 8489.
    Binding,
    /// Nothing of this protocol.
    Garbage,
    /// A data packet with an identifier that was not issued here.
    Foreign,
    /// A data packet for a connection that is gone.
    Dead,
    /// A data packet with the identifier of a resident, forged.
    Forged,
    /// A packet of a resident, again.
    Replay,
    /// A packet of a resident, from elsewhere and ahead of the original.
    Ahead,
    /// A ticket holder who asks for her endpoint with other people's addresses.
    Holder,
}

use Row::*;

/// What comes, in turn.
const TURNS: [Row; ROWS] = [
    NoToken,
    ForgedConnect,
    Valid,
    Short,
    OtherType,
    OtherVersion,
    Binding,
    Garbage,
    Foreign,
    Dead,
    Forged,
    Replay,
    Ahead,
    Holder,
];
const ROWS: usize = 14;

impl Row {
    /// Bytes sent for a byte received at most, to anybody: (times, over).
    const fn bound(self) -> (u64, u64) {
        match self {
            NoToken | ForgedConnect | Valid | Dead => (1, 1),
            // 14 of at least 1,200.
            OtherVersion => (1, 50),
            // 52 for 20, within a budget.
            Binding => (13, 5),
            Short | OtherType | Garbage | Foreign | Forged | Replay => (0, 1),
            Ahead | Holder => (3, 1),
        }
    }

    /// Whether it takes no ticket to send it, so that nothing may be allocated for it.
    const fn is_strangers(self) -> bool {
        !matches!(self, Valid | Ahead | Holder)
    }

    fn host(self, n: u8) -> SocketAddr {
        SocketAddr::from(([198, 18, self as u8, n], 5000))
    }
}

/// A small generator of chance.
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() >> 33) as usize % n
    }

    fn fill(&mut self, out: &mut [u8]) {
        out.chunks_mut(8).for_each(|c| c.copy_from_slice(&self.next().to_le_bytes()[..c.len()]));
    }
}

/// Bytes to and from every host of a row.
struct Ledger([[(u64, u64); 256]; ROWS]);

impl Ledger {
    fn came(&mut self, from: SocketAddr, bytes: usize) {
        self.of(from).0 += bytes as u64;
    }

    /// Books what went to those who do not live here.
    fn went(&mut self, town: &mut Town) {
        for (to, bytes) in town.astray.drain(..) {
            self.of(to).1 += bytes as u64;
            let [.., row, _] = octets(to);
            let row = TURNS[usize::from(row)];
            let ((came, went), (times, over)) = (*self.of(to), row.bound());
            assert!(went * over <= came * times, "{row:?}: {went} bytes to {to}, which sent {came}");
        }
    }

    fn of(&mut self, host: SocketAddr) -> &mut (u64, u64) {
        let [.., row, n] = octets(host);
        &mut self.0[usize::from(row)][usize::from(n)]
    }

    fn sum(&self, row: Row) -> (u64, u64) {
        self.0[row as usize].iter().fold((0, 0), |(i, o), (came, went)| (i + came, o + went))
    }
}

fn octets(host: SocketAddr) -> [u8; 4] {
    let SocketAddr::V4(v4) = host else { panic!("{host} is no host of a flood") };
    v4.ip().octets()
}

/// What strangers know, and what they send.
struct Flood {
    chance: Chance,
    /// Step 1 of ticket holders who do not go on.
    firsts: Vec<Vec<u8>>,
    /// Packets of a connection that is gone.
    dead: Vec<Vec<u8>>,
    mallory: usize,
    ledger: Box<Ledger>,
    packets: [u64; ROWS],
    allocations: [u64; ROWS],
    buffers: Box<[[u8; 1452]; BATCH]>,
    lengths: [usize; BATCH],
}

impl Flood {
    fn new(town: &mut Town) -> Self {
        let mallory = town.settle(Row::Holder.host(0));
        let ghost = town.settle(SocketAddr::from(([198, 51, 100, 254], 4000)));
        let mut dead = Vec::new();
        town.run(Duration::from_secs(2), &mut |town| {
            let from = town.residents[ghost].address;
            let of_ghost = town.to_service.iter().filter(|(_, f, p)| *f == from && p[..16] != [0; 16]);
            dead.extend(of_ghost.map(|(.., packet)| packet.clone()));
        });
        let now = town.now;
        town.residents[ghost].device.close(now);
        town.run(Duration::from_secs(5), &mut |_| {});
        town.residents.pop();
        assert!(town.all_connected() && !dead.is_empty());
        // Those of the ghost are of another row.
        town.arrived.clear();
        Self {
            chance: Chance(0x5eed),
            firsts: (0..32).map(|_| town.step1()).collect(),
            dead,
            mallory,
            ledger: Box::new(Ledger([[(0, 0); 256]; ROWS])),
            packets: [0; ROWS],
            allocations: [0; ROWS],
            buffers: Box::new([[0; 1452]; BATCH]),
            lengths: [0; BATCH],
        }
    }

    /// Writes a packet of this row; `false` if there is none to be had now.
    fn write(&mut self, town: &Town, row: Row, at: usize) -> bool {
        let chance = &mut self.chance;
        let packet = &mut self.buffers[at];
        let mut copy = |from: &[u8]| {
            packet[..from.len()].copy_from_slice(from);
            from.len()
        };
        let any = |chance: &mut Chance, list: &[Vec<u8>]| chance.below(list.len());
        let len = match row {
            NoToken | ForgedConnect | Valid | Short | OtherType | OtherVersion => {
                copy(&self.firsts[any(chance, &self.firsts)])
            }
            Dead => copy(&self.dead[any(chance, &self.dead)]),
            Binding => {
                chance.fill(&mut packet[8..20]);
                packet[..8].copy_from_slice(&[0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42]);
                20
            }
            Garbage | Foreign => {
                let len = if row == Garbage { chance.below(50) } else { 50 + chance.below(1403) };
                chance.fill(&mut packet[..len]);
                if let Some(first) = packet.first_mut() {
                    *first |= 0x80;
                }
                len
            }
            Forged | Replay => {
                let Some(old) = town.arrived.get(chance.below(town.arrived.len().max(1))) else {
                    return false;
                };
                copy(old)
            }
            Ahead => {
                let Some((.., next)) = town.to_service.front() else { return false };
                copy(next)
            }
            Holder => return false,
        };
        let key_id = |packet: &[u8]| packet.windows(4).position(|w| w == b"key1").expect("a token");
        match row {
            NoToken => {
                let token = key_id(packet) + usize::from(chance.below(2) == 0) * 4;
                chance.fill(&mut packet[token..token + 4]);
            }
            ForgedConnect => chance.fill(&mut packet[len - 8..len]),
            Short => {
                self.lengths[at] = 16 + chance.below(1184);
                return true;
            }
            OtherType => packet[16] = 4 + chance.below(250) as u8,
            OtherVersion => packet[19] = 9,
            // All but the identifier.
            Dead => chance.fill(&mut packet[16..len]),
            Forged => {
                let from = 16 + chance.below(len - 24);
                chance.fill(&mut packet[from..len]);
            }
            _ => {}
        }
        self.lengths[at] = len;
        true
    }

    /// One tick of the flood.
    fn strike(&mut self, town: &mut Town, row: Row) {
        if row == Holder {
            return self.strike_as_holder(town);
        }
        let count = (0..BATCH).take_while(|at| self.write(town, row, *at)).count();
        let mut hosts = [SocketAddr::from(([0; 4], 0)); BATCH];
        for (host, len) in hosts.iter_mut().zip(self.lengths).take(count) {
            // A few who ask for more Binding responses than they may have.
            *host = row.host(self.chance.below(if row == Binding { BINDING_HOSTS } else { 256 }) as u8);
            self.ledger.came(*host, len);
        }
        let mut rest = self.buffers.iter_mut();
        let mut packets: [_; BATCH] = std::array::from_fn(|at| Datagram {
            path: Path::new(LINK, hosts[at]),
            payload: &mut rest.next().expect("as many")[..self.lengths[at].max(1)],
        });
        let mut more = false;
        let info = measure(|| {
            town.strike(&mut packets[..count]);
            more = town.collect();
        });
        self.packets[row as usize] += count as u64;
        self.allocations[row as usize] += info.count_total;
        while more {
            town.deliver();
            more = town.collect();
        }
        self.ledger.went(town);
    }

    /// Authentic requests that ask for an answer to somebody else's address.
    fn strike_as_holder(&mut self, town: &mut Town) {
        for _ in 0..BATCH {
            let now = town.now;
            let _ = town.residents[self.mallory].device.query_endpoint(now);
            let host = Holder.host(1 + self.chance.below(255) as u8);
            let waiting = town.to_service.len();
            let bytes = town.drain_device(self.mallory, Some(host));
            self.packets[Holder as usize] += (town.to_service.len() - waiting) as u64;
            self.ledger.came(host, bytes);
        }
    }
}

/// Events by the time at which an application had them.
type Heard = Vec<(Instant, Serial)>;

/// An event each second to the next resident, and the flood if there is one: what everybody heard and when.
fn life(defer: DeferPolicy, flooded: bool, ticks: u64) -> (Vec<Heard>, Option<Flood>, Town) {
    let mut town = Town::new(defer, RESIDENTS);
    let mut flood = Flood::new(&mut town);
    let before = town.service.stats();
    let mut tick = 0;
    town.run(Duration::from_millis(10) * ticks as u32, &mut |town| {
        if tick % 100 == 7 {
            let account = town.residents[tick as usize / 100 % usize::from(RESIDENTS)].account;
            let event = Event::with_payload(StoreId::INBOUND, vec![7; 3000].into());
            town.service.publish(town.now, &account, event).unwrap();
            town.drain_service();
        }
        if flooded {
            flood.ledger.went(town);
            let row = TURNS[tick as usize % TURNS.len()];
            // More packets for dead connections than there are resets to be had.
            (0..if row == Dead { 8 } else { 1 }).for_each(|_| flood.strike(town, row));
        }
        tick += 1;
        if tick == WARM_UP {
            flood.allocations = [0; ROWS];
        }
    });
    let after = town.service.stats();
    assert_eq!(after.connects, before.connects, "nobody had to connect again");
    assert_eq!(after.migrations, before.migrations, "nobody was followed to a stranger's address");
    let heard = town.residents[..usize::from(RESIDENTS)].iter().map(|r| r.heard.clone()).collect();
    (heard, Some(flood).filter(|_| flooded), town)
}

// SPEC: R-strangers
#[test]
fn a_million_spoofed_packets_get_no_more_than_they_bring_and_nobody_notices() {
    let times = std::env::var("MPP_STRANGERS").map_or(1, |n| n.parse().expect("MPP_STRANGERS is a number"));
    for defer in [ServiceConfig::new(ServiceSecret::new([9; 32]), Vec::new()).defer, DeferPolicy::Always] {
        let (calm, ..) = life(defer, false, TICKS * times);
        let (heard, flood, town) = life(defer, true, TICKS * times);
        let flood = flood.expect("a flood");
        assert!(calm.iter().map(Vec::len).sum::<usize>() as u64 >= TICKS / 100 - 1);
        for (n, (calm, heard)) in calm.iter().zip(&heard).enumerate() {
            assert_eq!(calm, heard, "{defer:?}: resident {n} heard something else, or later");
        }
        let packets = flood.packets.iter().sum::<u64>();
        println!("{defer:?}: {packets} packets");
        assert!(packets > 500_000, "{packets}");
        for row in TURNS {
            let (came, went) = flood.ledger.sum(row);
            let (packets, allocations) = (flood.packets[row as usize], flood.allocations[row as usize]);
            println!("{row:?}: {packets} packets, {came} bytes in, {went} out, {allocations} allocations");
            assert!(packets > 1000, "{row:?}: {packets} packets");
            assert!(!row.is_strangers() || allocations == 0, "{row:?}: {allocations} allocations");
        }
        // 10 per second and host, 20 at once, 52 bytes each.
        let (seconds, (_, binding)) = (TICKS * times / 100, flood.ledger.sum(Binding));
        assert!((1..=52 * BINDING_HOSTS as u64 * (20 + 10 * seconds)).contains(&binding), "{binding} bytes");
        assert!(binding < 32 * flood.packets[Binding as usize] / 2, "the budget is used up: {binding} bytes");
        let stats = town.service.stats();
        assert!(stats.resets < flood.packets[Dead as usize] / 4 * 3, "resets are rationed: {stats:?}");
        assert!(stats.suggested > 0, "some copies were ahead: {stats:?}");
        assert!(stats.half_open <= 32 * 4, "{stats:?}");
        assert!(stats.records <= u64::from(RESIDENTS) + 1 + 32 * 4, "{stats:?}");
    }
}
