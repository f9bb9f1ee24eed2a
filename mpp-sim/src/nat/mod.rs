//! Boxes that translate addresses, in the terms of RFC 4787.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::time::Duration;

use mpp_proto::Instant;

use crate::rng::Rng;

/// Of how much of the far side a behaviour depends (RFC 4787, sections 4.1 and 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dependence {
    /// Of nothing. As mapping: one external port for a socket, whoever it talks to. As filtering: everybody may send
    /// to it.
    EndpointIndependent,
    /// Of the far address. As mapping: one port for each. As filtering: only addresses that were sent to.
    AddressDependent,
    /// Of the far address and port. As mapping: one port for each pair (a "symmetric" box). As filtering: only pairs
    /// that were sent to.
    AddressAndPortDependent,
}

/// Which external port a new mapping gets (RFC 4787, section 4.2). No two mappings share one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ports {
    /// The socket's own if it is free and in the range, else a random one.
    Preserved,
    /// The next free one: never the one that was just forgotten.
    Sequential,
    /// Any free one.
    Random,
}

/// How long a mapping lives after the last packet that counts (RFC 4787, section 4.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lifetime {
    /// So long.
    Fixed(Duration),
    /// As Linux does it: `first` until packets have gone both ways and one has come more than 2 s after the first,
    /// then `settled`.
    TwoStage {
        /// At first.
        first: Duration,
        /// Once it is in use.
        settled: Duration,
    },
}

/// What a box does that has no room for another mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenFull {
    /// It drops the packet that needs one.
    Refuse,
    /// It forgets the mapping that would have ended first.
    Forget,
}

/// How a box behaves. `Default` is one as RFC 4787 wants it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NatConfig {
    /// When a socket gets another external port. Default: endpoint-independent.
    pub mapping: Dependence,
    /// Who may send to it. Default: address-dependent.
    pub filtering: Dependence,
    /// How long mappings live. Default: 300 s.
    pub lifetime: Lifetime,
    /// Whether packets from outside lengthen that too; those from inside always do. Default: no.
    pub inbound_refresh: bool,
    /// Which port they get. Default: random.
    pub ports: Ports,
    /// The ports there are. Default: 1024 to 65535.
    pub port_range: RangeInclusive<u16>,
    /// Mappings at most. Default: 65,536, more than there are ports.
    pub capacity: usize,
    /// What happens above that, or when no port is free. Default: refuse.
    pub when_full: WhenFull,
    /// Whether two sockets behind the box reach each other by their external addresses (RFC 4787, section 6). Default:
    /// yes.
    pub hairpinning: bool,
}

impl Default for NatConfig {
    fn default() -> Self {
        Self {
            mapping: Dependence::EndpointIndependent,
            filtering: Dependence::AddressDependent,
            lifetime: Lifetime::Fixed(Duration::from_secs(300)),
            inbound_refresh: false,
            ports: Ports::Random,
            port_range: 1024..=65535,
            capacity: 65_536,
            when_full: WhenFull::Refuse,
            hairpinning: true,
        }
    }
}

impl NatConfig {
    /// A Linux router with masquerading: symmetric, port-preserving, 30 s and then 120 s, refreshed from both sides, no
    /// hairpinning.
    #[must_use]
    pub fn linux() -> Self {
        Self {
            mapping: Dependence::AddressAndPortDependent,
            filtering: Dependence::AddressAndPortDependent,
            lifetime: Lifetime::TwoStage {
                first: Duration::from_secs(30),
                settled: Duration::from_secs(120),
            },
            inbound_refresh: true,
            ports: Ports::Preserved,
            hairpinning: false,
            ..Self::default()
        }
    }

    /// The worst kind: symmetric, another port each time, and forgets after `lifetime` without a packet from inside.
    #[must_use]
    pub fn forgetful(lifetime: Duration) -> Self {
        Self {
            mapping: Dependence::AddressAndPortDependent,
            filtering: Dependence::AddressAndPortDependent,
            lifetime: Lifetime::Fixed(lifetime),
            ports: Ports::Sequential,
            hairpinning: false,
            ..Self::default()
        }
    }
}

/// Why a box dropped a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NatDrop {
    /// From outside to a port that no mapping has.
    Unmapped,
    /// From outside, and the filtering does not let it in.
    Filtered,
    /// From inside, and there is no room or no port for another mapping.
    Full,
    /// From inside to the box's own address, and it does no hairpinning.
    Hairpin,
}

/// Counters of a box.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NatStats {
    /// Packets that went out.
    pub outbound: u64,
    /// Packets that were let in.
    pub inbound: u64,
    /// Mappings made.
    pub mapped: u64,
    /// Mappings that were found to have ended.
    pub expired: u64,
    /// Mappings forgotten to make room.
    pub forgotten: u64,
    /// Packets from outside that no mapping was there for.
    pub unmapped: u64,
    /// Packets from outside that were not let in.
    pub filtered: u64,
    /// Packets from inside for which there was no room.
    pub full: u64,
    /// Packets from inside to the box's own address that it does not turn round.
    pub hairpin: u64,
    /// Times it was switched off and on.
    pub reboots: u64,
}

/// What makes a mapping another one: the socket inside, and as much of the far side as the behaviour depends on.
type Key = (SocketAddr, Option<IpAddr>, Option<u16>);

/// Packets between a mapping and one endpoint outside.
#[derive(Clone, Copy, Debug)]
struct Flow {
    since: Instant,
    until: Instant,
    /// Whether an answer has come.
    answered: bool,
}

#[derive(Clone, Debug)]
struct Mapping {
    key: Key,
    until: Instant,
    flows: BTreeMap<SocketAddr, Flow>,
}

/// One box with one external IPv4 address. It can be used by itself; a [`World`](crate::World) puts devices behind it.
#[derive(Clone, Debug)]
pub struct Nat {
    config: NatConfig,
    external: IpAddr,
    rng: Rng,
    /// By external port.
    mappings: BTreeMap<u16, Mapping>,
    ports: BTreeMap<Key, u16>,
    next: u16,
    stats: NatStats,
}

/// A flow counts as being in use if a packet comes so long after its first one (Linux: `stream_ts`).
const IN_USE: Duration = Duration::from_secs(2);

impl Nat {
    /// A box that nothing has gone through yet.
    pub fn new(config: NatConfig, external: IpAddr, seed: u64) -> Self {
        Self {
            next: *config.port_range.start(),
            config,
            external,
            rng: Rng::new(seed),
            mappings: BTreeMap::new(),
            ports: BTreeMap::new(),
            stats: NatStats::default(),
        }
    }

    /// How it behaves.
    pub fn config(&self) -> &NatConfig {
        &self.config
    }

    /// Its address outside.
    pub fn external(&self) -> IpAddr {
        self.external
    }

    /// The counters.
    pub fn stats(&self) -> NatStats {
        self.stats
    }

    /// A packet from a socket inside to `to`: the source that it has outside.
    ///
    /// # Errors
    /// Why it goes no further.
    pub fn outbound(
        &mut self,
        now: Instant,
        from: SocketAddr,
        to: SocketAddr,
    ) -> Result<SocketAddr, NatDrop> {
        if to.ip() == self.external && !self.config.hairpinning {
            self.stats.hairpin += 1;
            return Err(NatDrop::Hairpin);
        }
        let key = self.key(from, to);
        let port = match self.live(now, &key) {
            Some(port) => port,
            None => match self.allocate(now, key) {
                Some(port) => port,
                None => {
                    self.stats.full += 1;
                    return Err(NatDrop::Full);
                }
            },
        };
        let lifetime = self.config.lifetime;
        if let Some(mapping) = self.mappings.get_mut(&port) {
            mapping.flows.retain(|_, flow| flow.until > now);
            let flow = mapping.flows.entry(to).or_insert(Flow { since: now, until: now, answered: false });
            flow.until = now + lifetime.of(flow, now);
            mapping.until = mapping.until.max(flow.until);
        }
        self.stats.outbound += 1;
        Ok(SocketAddr::new(self.external, port))
    }

    /// A packet from outside to one of the box's ports: the socket inside that it is for.
    ///
    /// # Errors
    /// Why it is not let in.
    pub fn inbound(&mut self, now: Instant, from: SocketAddr, port: u16) -> Result<SocketAddr, NatDrop> {
        self.expire(now, port);
        let (lifetime, refresh, filtering) =
            (self.config.lifetime, self.config.inbound_refresh, self.config.filtering);
        let Some(mapping) = self.mappings.get_mut(&port) else {
            self.stats.unmapped += 1;
            return Err(NatDrop::Unmapped);
        };
        let mut flows = mapping.flows.iter().filter(|(_, flow)| flow.until > now);
        let welcome = match filtering {
            Dependence::EndpointIndependent => true,
            Dependence::AddressDependent => flows.any(|(to, _)| to.ip() == from.ip()),
            Dependence::AddressAndPortDependent => flows.any(|(to, _)| *to == from),
        };
        if !welcome {
            self.stats.filtered += 1;
            return Err(NatDrop::Filtered);
        }
        let until = match mapping.flows.get_mut(&from).filter(|flow| flow.until > now) {
            Some(flow) => {
                flow.answered = true;
                let until = now + lifetime.of(flow, now);
                if refresh {
                    flow.until = flow.until.max(until);
                }
                until
            }
            None => now + lifetime.first(),
        };
        if refresh {
            mapping.until = mapping.until.max(until);
        }
        self.stats.inbound += 1;
        Ok(mapping.key.0)
    }

    /// The address under which `to` sees a socket inside, if there is a mapping.
    pub fn mapped(&self, now: Instant, from: SocketAddr, to: SocketAddr) -> Option<SocketAddr> {
        let port = *self.ports.get(&self.key(from, to))?;
        self.inside(now, port).map(|_| SocketAddr::new(self.external, port))
    }

    /// The socket inside that has this external port, if there is a mapping. Nothing is filtered or refreshed.
    pub fn inside(&self, now: Instant, port: u16) -> Option<SocketAddr> {
        self.mappings.get(&port).filter(|mapping| mapping.until > now).map(|mapping| mapping.key.0)
    }

    /// Mappings that are there.
    pub fn len(&self, now: Instant) -> usize {
        self.mappings.values().filter(|mapping| mapping.until > now).count()
    }

    /// Whether there is none.
    pub fn is_empty(&self, now: Instant) -> bool {
        self.len(now) == 0
    }

    /// It changes its mind: packets from now on count for so long.
    pub fn set_lifetime(&mut self, lifetime: Lifetime) {
        self.config.lifetime = lifetime;
    }

    /// It is switched off and on: every mapping is gone. `external`: its provider gives it another address.
    pub fn reboot(&mut self, external: Option<IpAddr>) {
        self.mappings.clear();
        self.ports.clear();
        self.external = external.unwrap_or(self.external);
        self.stats.reboots += 1;
    }

    fn key(&self, from: SocketAddr, to: SocketAddr) -> Key {
        match self.config.mapping {
            Dependence::EndpointIndependent => (from, None, None),
            Dependence::AddressDependent => (from, Some(to.ip()), None),
            Dependence::AddressAndPortDependent => (from, Some(to.ip()), Some(to.port())),
        }
    }

    /// The port of a mapping that has not ended.
    fn live(&mut self, now: Instant, key: &Key) -> Option<u16> {
        let port = *self.ports.get(key)?;
        self.expire(now, port);
        self.ports.get(key).copied()
    }

    fn expire(&mut self, now: Instant, port: u16) {
        if self.mappings.get(&port).is_some_and(|mapping| mapping.until <= now) {
            self.remove(port);
            self.stats.expired += 1;
        }
    }

    fn remove(&mut self, port: u16) {
        if let Some(gone) = self.mappings.remove(&port) {
            self.ports.remove(&gone.key);
        }
    }

    fn allocate(&mut self, now: Instant, key: Key) -> Option<u16> {
        let range = self.config.port_range.clone();
        let room = self.config.capacity.min(range.len());
        if self.mappings.len() >= room {
            let over: Vec<_> =
                self.mappings.iter().filter(|(_, m)| m.until <= now).map(|(port, _)| *port).collect();
            over.into_iter().for_each(|port| self.expire(now, port));
        }
        if self.mappings.len() >= room {
            if self.config.when_full == WhenFull::Refuse {
                return None;
            }
            let (port, _) = self.mappings.iter().min_by_key(|(port, m)| (m.until, **port))?;
            self.remove(*port);
            self.stats.forgotten += 1;
        }
        let port = self.choose(now, key.0.port())?;
        self.mappings.insert(port, Mapping { key, until: now, flows: BTreeMap::new() });
        self.ports.insert(key, port);
        self.stats.mapped += 1;
        Some(port)
    }

    /// A free port, of which there is one.
    fn choose(&mut self, now: Instant, own: u16) -> Option<u16> {
        let range = self.config.port_range.clone();
        let (first, last) = (*range.start(), *range.end());
        let start = match self.config.ports {
            Ports::Preserved if range.contains(&own) => {
                self.expire(now, own);
                if !self.mappings.contains_key(&own) {
                    return Some(own);
                }
                self.rng.between(u64::from(first), u64::from(last)) as u16
            }
            Ports::Preserved | Ports::Random => self.rng.between(u64::from(first), u64::from(last)) as u16,
            Ports::Sequential => self.next,
        };
        let port = (start..=last).chain(first..start).find(|port| !self.mappings.contains_key(port))?;
        self.next = if port == last { first } else { port + 1 };
        Some(port)
    }
}

impl Lifetime {
    fn first(self) -> Duration {
        match self {
            Self::Fixed(time) | Self::TwoStage { first: time, .. } => time,
        }
    }

    /// How long a flow lives after a packet at `now`.
    fn of(self, flow: &Flow, now: Instant) -> Duration {
        match self {
            Self::TwoStage { settled, .. } if flow.answered && now.since(flow.since) > IN_USE => settled,
            _ => self.first(),
        }
    }
}
