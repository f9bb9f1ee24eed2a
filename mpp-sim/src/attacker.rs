//! Somebody on the path who has no keys.
//!
//! An attacker sees every packet that machines send, and does to each what its [tactics](Tactic) say: hold it up, take
//! it away, send copies of it ahead or later, from where it came or from elsewhere, whole or spoiled, forge what needs no
//! keys. It keeps what it has seen, so that a test can send it again at any later time, and counts what is sent to its
//! own addresses.
//!
//! ```
//! use std::time::Duration;
//!
//! use mpp_proto::{DeviceConfig, StoreId};
//! use mpp_sim::attacker::{Act, Tactic, replays};
//! use mpp_sim::{Post, World};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let mut world = World::new(7);
//! let service = world.add_service(world.service_config());
//! let ticket = world.ticket(&[service], "alice@example.com", 1);
//! let phone = world.add_device(ticket, DeviceConfig::default());
//!
//! // Every packet of the phone reaches the service from Mallory's address first, and one in ten again within a minute.
//! let mallory = "203.0.113.66:666".parse()?;
//! let attacker = world.attack(&[
//!     Tactic::always(Act::Race { from: mallory }),
//!     Tactic::sometimes(0.1, Act::Repeat { within: Duration::from_secs(60) }),
//! ]);
//! world.run_for(Duration::from_secs(600));
//! world.publish(service, "alice@example.com", &Post::new(StoreId::INBOUND, "lunch?"))?;
//! world.run_for(Duration::from_secs(60));
//! assert_eq!(world.payloads(phone).count(), 1);
//!
//! // And all of it once more, to either side, from either place.
//! world.network().observe(None);
//! for (_, packet) in attacker.seen() {
//!     for copy in replays(&packet, mallory) {
//!         let _ = world.strike(copy);
//!     }
//! }
//! world.run_for(Duration::from_secs(60));
//! assert_eq!(world.payloads(phone).count(), 1);
//! # Ok(())
//! # }
//! ```

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use mpp_proto::Instant;

use crate::network::{Observer, Packet, Verdict, WEB_PORT};
use crate::rng::Rng;

/// The head start of whatever is sent ahead of a packet.
const AHEAD: Duration = Duration::from_micros(1);

/// Something that an attacker does to a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// It goes no further.
    Take,
    /// It is held up, for at most this time.
    Delay(Duration),
    /// A copy of what goes to a service arrives ahead of it, from this address. What the service sends there is
    /// [loot](Attacker::loot).
    Race {
        /// An address of the attacker's.
        from: SocketAddr,
    },
    /// As [`Act::Race`], and what the service sends there is passed on to the device as if it had been sent to it: so it
    /// answers challenges, and the copies of its answers race too.
    Relay {
        /// An address of the attacker's.
        from: SocketAddr,
    },
    /// A copy follows, within this time.
    Repeat {
        /// At most.
        within: Duration,
    },
    /// A copy goes back to its sender, as if its receiver had sent it.
    Reflect,
    /// A copy that ends early arrives ahead of it.
    Cut,
    /// A copy with one bit flipped arrives ahead of it.
    Flip,
    /// Random bytes arrive ahead of it, behind as much of its head as chance wants.
    Noise,
    /// A copy arrives by the other transport ahead of it: what goes by UDP to a service becomes a Web request that waits,
    /// and what goes to a device is put into the next answer that it gets; what goes by Web becomes a UDP packet.
    Cross,
    /// The first packet of an exchange is answered by an Error in clear with this code and retry-after.
    ForgeError {
        /// The code.
        code: u16,
        /// How long the device is to stay away.
        retry_after: Duration,
    },
    /// The first packet of an exchange is answered by a Defer with a challenge that means nothing.
    ForgeDefer,
}

/// What an attacker does, how often, and to which packets.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tactic {
    /// What.
    pub act: Act,
    /// To a packet with this probability, 0.0 to 1.0.
    pub chance: f64,
    /// Only after so many that it could have been done to.
    pub skip: u64,
    /// How often at most.
    pub limit: u64,
}

impl Tactic {
    /// To every packet.
    pub const fn always(act: Act) -> Self {
        Self::sometimes(1.0, act)
    }

    /// To a packet with this probability.
    pub const fn sometimes(chance: f64, act: Act) -> Self {
        Self { act, chance, skip: 0, limit: u64::MAX }
    }

    /// Not before it has let so many pass.
    #[must_use]
    pub const fn skip(mut self, skip: u64) -> Self {
        self.skip = skip;
        self
    }

    /// At most so often.
    #[must_use]
    pub const fn limit(mut self, limit: u64) -> Self {
        self.limit = limit;
        self
    }
}

/// The handle on an attacker that is at work in a [`World`](crate::World); see [`World::attack`](crate::World::attack).
#[derive(Clone, Debug)]
pub struct Attacker {
    state: Rc<RefCell<State>>,
}

#[derive(Debug)]
struct State {
    rng: Rng,
    tactics: Vec<Tactic>,
    services: BTreeSet<SocketAddr>,
    /// The attacker's own addresses: whose packets each copies, and whether it passes on what it gets.
    own: BTreeMap<SocketAddr, (SocketAddr, bool)>,
    /// The last UDP address of each host that sent something to a service.
    hosts: BTreeMap<IpAddr, SocketAddr>,
    carried: Vec<Packet>,
    seen: Vec<(Instant, Packet)>,
    loot: Vec<(Instant, usize)>,
    sent: u64,
}

impl Attacker {
    /// An attacker who knows the addresses of these services. It does nothing before it
    /// [observes](crate::Network::observe).
    pub fn new(seed: u64, services: impl IntoIterator<Item = SocketAddr>, tactics: &[Tactic]) -> Self {
        Self {
            state: Rc::new(RefCell::new(State {
                rng: Rng::new(seed),
                tactics: tactics.to_vec(),
                services: services.into_iter().collect(),
                own: BTreeMap::new(),
                hosts: BTreeMap::new(),
                carried: Vec::new(),
                seen: Vec::new(),
                loot: Vec::new(),
                sent: 0,
            })),
        }
    }

    /// Its eyes and hands, for [`Network::observe`](crate::Network::observe).
    pub fn observer(&self) -> Box<dyn Observer> {
        Box::new(self.clone())
    }

    /// It does this from now on.
    pub fn set_tactics(&self, tactics: &[Tactic]) {
        self.state.borrow_mut().tactics = tactics.to_vec();
    }

    /// Every packet that a machine sent to another, as it was sent.
    pub fn seen(&self) -> Vec<(Instant, Packet)> {
        self.state.borrow().seen.clone()
    }

    /// Packets that services sent to its addresses: when, and bytes of UDP payload.
    pub fn loot(&self) -> Vec<(Instant, usize)> {
        self.state.borrow().loot.clone()
    }

    /// Bytes that services sent to its addresses at or after this time.
    pub fn loot_since(&self, since: Instant) -> usize {
        self.state.borrow().loot.iter().filter(|(at, _)| *at >= since).map(|(_, bytes)| bytes).sum()
    }

    /// Packets that it sent.
    pub fn sent(&self) -> u64 {
        self.state.borrow().sent
    }
}

impl Observer for Attacker {
    fn packet(&mut self, now: Instant, packet: &Packet, inject: &mut Vec<(Instant, Packet)>) -> Verdict {
        let state = &mut *self.state.borrow_mut();
        let before = inject.len();
        let verdict = state.packet(now, packet, inject);
        state.sent += (inject.len() - before) as u64;
        verdict
    }

    fn web(&mut self, now: Instant, packet: &Packet, inject: &mut Vec<(Instant, Packet)>) {
        let state = &mut *self.state.borrow_mut();
        let crosses = state.tactics.iter().find(|t| t.act == Act::Cross && t.limit > 0).map(|t| t.chance);
        if !crosses.is_some_and(|chance| state.rng.chance(chance)) {
            return;
        }
        // By UDP it would come from, or go to, the last socket that was seen of that host.
        let by_udp = |address: SocketAddr| {
            let service = state.services.iter().find(|s| s.ip() == address.ip());
            service.copied().or_else(|| state.hosts.get(&address.ip()).copied()).unwrap_or(address)
        };
        let copy = Packet { from: by_udp(packet.from), to: by_udp(packet.to), ..packet.clone() };
        inject.push((now + AHEAD, copy));
        state.sent += 1;
    }

    fn carried(&mut self) -> Vec<Packet> {
        std::mem::take(&mut self.state.borrow_mut().carried)
    }
}

impl State {
    fn packet(&mut self, now: Instant, packet: &Packet, inject: &mut Vec<(Instant, Packet)>) -> Verdict {
        if let Some((victim, relays)) = self.own.get(&packet.to).copied() {
            self.loot.push((now, packet.payload.len()));
            if relays {
                inject.push((now + AHEAD, Packet { to: victim, ..packet.clone() }));
            }
            return Verdict::Take;
        }
        self.seen.push((now, packet.clone()));
        if self.services.contains(&packet.to) {
            self.hosts.insert(packet.from.ip(), packet.from);
        }
        let (mut taken, mut held_up) = (false, Duration::ZERO);
        for at in 0..self.tactics.len() {
            let Tactic { act, chance, skip, limit } = self.tactics[at];
            if limit == 0 || !self.rng.chance(chance) {
                continue;
            }
            if skip > 0 {
                self.tactics[at].skip -= 1;
                continue;
            }
            let ahead = |payload| (now + AHEAD, Packet { payload, ..packet.clone() });
            match act {
                Act::Take => taken = true,
                Act::Delay(most) => held_up = held_up.max(self.rng.up_to(most)),
                Act::Race { from } | Act::Relay { from } if self.services.contains(&packet.to) => {
                    self.own.insert(from, (packet.from, matches!(act, Act::Relay { .. })));
                    inject.push((now + AHEAD, Packet { from, ..packet.clone() }));
                }
                Act::Repeat { within } => {
                    inject.push((now + AHEAD + self.rng.up_to(within), packet.clone()));
                }
                Act::Cross => {
                    let mut copy = packet.clone();
                    if self.services.contains(&packet.to) {
                        copy.to.set_port(WEB_PORT);
                    }
                    self.carried.push(copy);
                    self.sent += 1;
                }
                Act::Reflect => inject.push((now + AHEAD, reflected(packet))),
                Act::Cut => {
                    let len = self.rng.index(packet.payload.len());
                    inject.push(ahead(packet.payload[..len].to_vec()));
                }
                Act::Flip if !packet.payload.is_empty() => {
                    let bit = self.rng.index(packet.payload.len() * 8);
                    inject.push(ahead(flipped(&packet.payload, bit)));
                }
                Act::Noise => {
                    let mut payload = packet.payload[..self.rng.index(packet.payload.len() + 1)].to_vec();
                    let len = self.rng.between(1, 1452) as usize;
                    payload.extend(self.rng.bytes(len));
                    payload.truncate(1452);
                    inject.push(ahead(payload));
                }
                Act::ForgeError { .. } | Act::ForgeDefer if self.services.contains(&packet.to) => {
                    let Some(handshake) = handshake(&packet.payload) else { continue };
                    let payload = match act {
                        Act::ForgeError { code, retry_after } => error(handshake, code, retry_after),
                        _ => defer(handshake, &self.rng.bytes(16)),
                    };
                    inject.push((now + AHEAD, Packet { payload, ..reflected(packet) }));
                }
                _ => continue,
            }
            self.tactics[at].limit -= 1;
        }
        match (taken, held_up) {
            (true, _) => Verdict::Take,
            (false, Duration::ZERO) => Verdict::Pass,
            (false, by) => Verdict::Delay(by),
        }
    }
}

/// All the ways to send a packet again: to its receiver and back to its sender, from where it came and from elsewhere.
pub fn replays(packet: &Packet, elsewhere: SocketAddr) -> [Packet; 4] {
    let back = reflected(packet);
    [
        packet.clone(),
        Packet { from: elsewhere, ..packet.clone() },
        Packet { from: elsewhere, ..back.clone() },
        back,
    ]
}

/// The packet, as if its receiver had sent it to its sender.
pub fn reflected(packet: &Packet) -> Packet {
    Packet { from: packet.to, to: packet.from, payload: packet.payload.clone() }
}

/// The payload with one bit flipped.
///
/// # Panics
/// If it has no such bit.
pub fn flipped(payload: &[u8], bit: usize) -> Vec<u8> {
    let mut copy = payload.to_vec();
    copy[bit / 8] ^= 1 << (bit % 8);
    copy
}

// What follows is written from SPEC.md, section 13.1: an attacker has no use for the machines' own code.

/// The handshake identifier in the clear list of the first packet of an exchange.
pub fn handshake(payload: &[u8]) -> Option<[u8; 8]> {
    let mut rest = payload.strip_prefix(&[0; 16])?.strip_prefix(&[3])?;
    while let [tag @ 128..=254, after @ ..] = rest {
        let (len, after) = match after {
            [short @ 0..0x40, after @ ..] => (usize::from(*short), after),
            [high @ 0x40..0x80, low, after @ ..] => {
                (usize::from(*high & 0x3f) << 8 | usize::from(*low), after)
            }
            _ => return None,
        };
        let (value, after) = after.split_at_checked(len)?;
        if *tag == 131 {
            return value.try_into().ok();
        }
        rest = after;
    }
    None
}

fn error(handshake: [u8; 8], code: u16, retry_after: Duration) -> Vec<u8> {
    let mut out = handshake.to_vec();
    out.push(0);
    out.extend([135, 2]);
    out.extend((0x4000 | code & 0x3fff).to_be_bytes());
    if !retry_after.is_zero() {
        let ms = u64::try_from(retry_after.as_millis()).unwrap_or(u64::MAX) & (u64::MAX >> 2);
        out.extend([136, 8]);
        out.extend((3 << 62 | ms).to_be_bytes());
    }
    out.push(255);
    out
}

/// A Defer with this challenge for the attempt with this handshake identifier.
pub fn defer(handshake: [u8; 8], challenge: &[u8]) -> Vec<u8> {
    let mut out = handshake.to_vec();
    out.extend([5, 133, 16]);
    out.extend(challenge);
    out.push(255);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn packet(payload: &[u8]) -> Packet {
        Packet { from: address("10.0.0.1:5"), to: address("192.0.2.1:15096"), payload: payload.to_vec() }
    }

    /// What it does to one packet.
    fn attack(act: Act, packet: &Packet) -> (Verdict, Vec<(Instant, Packet)>) {
        let mut attacker = Attacker::new(1, [address("192.0.2.1:15096")], &[Tactic::always(act)]);
        let mut inject = Vec::new();
        let verdict = attacker.packet(Instant::ZERO, packet, &mut inject);
        assert_eq!((attacker.seen().len(), attacker.sent()), (1, inject.len() as u64));
        (verdict, inject)
    }

    #[test]
    fn every_act_does_what_it_says() {
        let original = packet(&[7; 100]);
        let elsewhere = address("203.0.113.66:666");
        assert_eq!(attack(Act::Take, &original), (Verdict::Take, vec![]));
        let (verdict, sent) = attack(Act::Delay(Duration::from_secs(1)), &original);
        assert!(matches!(verdict, Verdict::Delay(by) if !by.is_zero() && by <= Duration::from_secs(1)));
        assert_eq!(sent, []);
        let one = |act| {
            let (verdict, mut sent) = attack(act, &original);
            assert_eq!((verdict, sent.len()), (Verdict::Pass, 1));
            sent.remove(0)
        };
        let (at, copy) = one(Act::Race { from: elsewhere });
        assert_eq!((at, copy), (Instant::ZERO + AHEAD, Packet { from: elsewhere, ..original.clone() }));
        let (at, copy) = one(Act::Repeat { within: Duration::from_secs(60) });
        assert!(at > Instant::ZERO + Duration::from_millis(1) && copy == original);
        assert_eq!(one(Act::Reflect).1, reflected(&original));
        assert!(one(Act::Cut).1.payload.len() < 100);
        let flips: u32 = one(Act::Flip).1.payload.iter().map(|b| (b ^ 7).count_ones()).sum();
        assert_eq!(flips, 1);
        assert_ne!(one(Act::Noise).1.payload, original.payload);
        // No exchange, so there is nothing to answer; and a service's packets are not raced.
        assert_eq!(attack(Act::ForgeDefer, &original).1, []);
        assert_eq!(attack(Act::Race { from: elsewhere }, &reflected(&original)).1, []);
    }

    #[test]
    fn what_comes_to_its_addresses_is_counted_and_passed_on_if_it_relays() {
        for relays in [false, true] {
            let from = address("203.0.113.66:666");
            let act = if relays { Act::Relay { from } } else { Act::Race { from } };
            let mut attacker =
                Attacker::new(1, [address("192.0.2.1:15096")], &[Tactic::always(act).limit(1)]);
            let mut inject = Vec::new();
            attacker.packet(Instant::ZERO, &packet(&[1; 50]), &mut inject);
            attacker.packet(Instant::ZERO, &packet(&[1; 50]), &mut inject);
            assert_eq!(inject.len(), 1, "once, it was said");
            let answer = Packet { from: address("192.0.2.1:15096"), to: from, payload: vec![2; 70] };
            assert_eq!(attacker.packet(Instant::ZERO, &answer, &mut inject), Verdict::Take);
            assert_eq!(attacker.loot_since(Instant::ZERO), 70);
            let passed_on = inject.get(1).map(|(_, p)| p.to);
            assert_eq!(passed_on, relays.then(|| address("10.0.0.1:5")));
        }
    }

    #[test]
    fn the_handshake_is_found_behind_long_items() {
        let mut step1 = vec![0; 16];
        step1.extend([3, 128, 1, 1, 129, 0x40, 90]);
        step1.extend([9; 90]);
        step1.extend([131, 8, 1, 2, 3, 4, 5, 6, 7, 8, 255]);
        assert_eq!(handshake(&step1), Some([1, 2, 3, 4, 5, 6, 7, 8]));
        step1.truncate(120);
        assert_eq!(handshake(&step1), None);
    }
}
