//! The NAT boxes of a world, one behind another, and the devices behind them.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use mpp_proto::Instant;

use super::{DeviceHandle, World};
use crate::nat::{Lifetime, Nat, NatConfig, NatStats};

/// A NAT box of a [`World`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NatHandle(u32);

struct Node {
    nat: Nat,
    /// The box whose inside its external address is on.
    behind: Option<NatHandle>,
}

/// Where a packet that came to an address goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Inbound {
    /// The address is none of a box.
    Direct,
    /// To this socket, by the box it is behind.
    Inside(SocketAddr, NatHandle),
    /// A box let it in no further.
    Dropped,
    /// The address lies behind another box, and the packet came from outside.
    Unreachable,
}

#[derive(Default)]
pub(super) struct Boxes {
    nodes: Vec<Node>,
    by_address: BTreeMap<IpAddr, NatHandle>,
    /// External addresses given out.
    addresses: u32,
}

impl Boxes {
    /// Addresses of 198.18.0.0/15, which RFC 2544 sets apart for tests.
    fn address(&mut self) -> IpAddr {
        self.addresses += 1;
        assert!(self.addresses < 1 << 17, "a world has 131,071 addresses for NAT boxes");
        IpAddr::V4(Ipv4Addr::from_bits(Ipv4Addr::new(198, 18, 0, 0).to_bits() + self.addresses))
    }

    fn node(&self, nat: NatHandle) -> &Node {
        &self.nodes[nat.0 as usize]
    }

    /// Takes a packet from a socket through the boxes it is behind; the source that the world sees. `None`: one of
    /// them dropped it.
    pub(super) fn outbound(
        &mut self,
        now: Instant,
        behind: Option<NatHandle>,
        from: SocketAddr,
        to: SocketAddr,
    ) -> Option<SocketAddr> {
        let (mut next, mut source) = (behind.filter(|_| from.is_ipv4()), from);
        while let Some(nat) = next {
            let node = &mut self.nodes[nat.0 as usize];
            source = node.nat.outbound(now, source, to).ok()?;
            // A packet to the box itself turns round there.
            next = node.behind.filter(|_| to.ip() != node.nat.external());
        }
        Some(source)
    }

    /// Takes a packet from `from` that came to `to` through the boxes.
    pub(super) fn inbound(&mut self, now: Instant, from: SocketAddr, to: SocketAddr) -> Inbound {
        let Some(mut nat) = self.by_address.get(&to.ip()).copied() else { return Inbound::Direct };
        let first = self.node(nat);
        if first.behind.is_some() && from.ip() != first.nat.external() {
            return Inbound::Unreachable;
        }
        let mut port = to.port();
        loop {
            let Ok(inside) = self.nodes[nat.0 as usize].nat.inbound(now, from, port) else {
                return Inbound::Dropped;
            };
            match self.by_address.get(&inside.ip()) {
                Some(inner) => (nat, port) = (*inner, inside.port()),
                None => return Inbound::Inside(inside, nat),
            }
        }
    }

    /// The socket that a packet to this address would reach now if every filter let it in; the address itself if it is
    /// none of a box.
    pub(super) fn behind(&self, now: Instant, to: SocketAddr) -> SocketAddr {
        let mut at = to;
        while let Some(nat) = self.by_address.get(&at.ip()) {
            let Some(inside) = self.node(*nat).nat.inside(now, at.port()) else { break };
            at = inside;
        }
        at
    }

    /// The address under which `to` sees a socket behind these boxes, as long as every one has a mapping for it.
    fn mapped(
        &self,
        now: Instant,
        behind: NatHandle,
        from: SocketAddr,
        to: SocketAddr,
    ) -> Option<SocketAddr> {
        let (mut next, mut source) = (Some(behind), from);
        while let Some(nat) = next {
            let node = self.node(nat);
            source = node.nat.mapped(now, source, to)?;
            next = node.behind;
        }
        Some(source)
    }
}

impl World {
    /// Adds a NAT box with an IPv4 address of its own. Nothing is behind it yet.
    pub fn add_nat(&mut self, config: NatConfig) -> NatHandle {
        self.build(config, None)
    }

    /// Adds a NAT box behind another: its address is one inside that one.
    pub fn add_nat_behind(&mut self, config: NatConfig, outer: NatHandle) -> NatHandle {
        self.build(config, Some(outer))
    }

    fn build(&mut self, config: NatConfig, behind: Option<NatHandle>) -> NatHandle {
        let handle = NatHandle(self.boxes.nodes.len() as u32);
        let external = self.boxes.address();
        let seed = self.seeds.fork(6 << 40 | u64::from(handle.0)).next_u64();
        self.boxes.nodes.push(Node { nat: Nat::new(config, external, seed), behind });
        self.boxes.by_address.insert(external, handle);
        handle
    }

    /// Moves a device behind a NAT box, with the sockets it has. It is not told: if it should know, call
    /// `handle_network_change` on its machine afterwards. Boxes translate IPv4 only; IPv6 passes by them.
    pub fn put_behind(&mut self, device: DeviceHandle, nat: NatHandle) {
        self.devices[device.0 as usize].behind = Some(nat);
    }

    /// Moves a device out from behind its NAT box.
    pub fn put_outside(&mut self, device: DeviceHandle) {
        self.devices[device.0 as usize].behind = None;
    }

    /// Switches a NAT box off and on: it forgets every mapping. `new_address`: and comes back with another address.
    pub fn reboot_nat(&mut self, nat: NatHandle, new_address: bool) {
        let address = new_address.then(|| self.boxes.address());
        let node = &mut self.boxes.nodes[nat.0 as usize];
        if let Some(address) = address {
            self.boxes.by_address.remove(&node.nat.external());
            self.boxes.by_address.insert(address, nat);
        }
        node.nat.reboot(address);
    }

    /// A NAT box changes its mind about how long it remembers: packets from now on count for so long.
    pub fn set_nat_lifetime(&mut self, nat: NatHandle, lifetime: Lifetime) {
        self.boxes.nodes[nat.0 as usize].nat.set_lifetime(lifetime);
    }

    /// A NAT box: its address, its mappings.
    pub fn nat(&self, nat: NatHandle) -> &Nat {
        &self.boxes.node(nat).nat
    }

    /// What a NAT box counted.
    pub fn nat_stats(&self, nat: NatHandle) -> NatStats {
        self.nat(nat).stats()
    }

    /// The address under which `to` sees the device's newest socket now. `None`: it has none, or a NAT box it is
    /// behind has no mapping for it.
    pub fn seen_from(&self, device: DeviceHandle, to: SocketAddr) -> Option<SocketAddr> {
        let node = &self.devices[device.0 as usize];
        let (_, public) = node.endpoints().filter(|(local, _)| local.is_ipv4() == to.is_ipv4()).last()?;
        match node.behind.filter(|_| public.is_ipv4()) {
            Some(nat) => self.boxes.mapped(self.now, nat, public, to),
            None => Some(public),
        }
    }
}
