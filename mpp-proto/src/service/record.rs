//! What a service knows of one device: five parts of 64 bytes, so that a packet touches one cache line for each thing
//! it needs, and the slot number in the stream identifier is all the look-up there is.

use core::net::{IpAddr, Ipv6Addr, SocketAddr};

use zeroize::Zeroize;

use super::limits::Small;
use crate::crypto::{ConnectionKeys, PacketKeys};
use crate::ids::{DeviceId, Serial, StoreSet};
use crate::path::{LinkId, Path};
use crate::pool::{Chunks, FreeList, Link, Links, NIL};
use crate::rud::flight::Window;
use crate::rud::nonces::Nonces;
use crate::rud::replay::ReplayWindow;
use crate::rud::rtt::Rtt;
use crate::time::Instant;
use crate::wheel::{Node, tick_floor};
use crate::wire::Header;

/// Device-issued identifiers kept per connection.
pub(super) const MAX_DEVICE_IDENTIFIERS: usize = 3;

/// Where a record stands (SPEC.md, "Service record").
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum State {
    #[default]
    Free,
    /// Answered, not confirmed by the device's first data packet.
    HalfOpen,
    Connected,
    Overdue1,
    Overdue2,
    /// Closed; the keys are kept for a moment to answer what is still on its way.
    Closing,
    /// Ended; the host has not yet taken the event that says so.
    Ended,
}

/// Single bits of [`Hot::flags`].
pub(super) mod flag {
    /// The record waits in the host's queue of events.
    pub(in crate::service) const EVENT: u8 = 1;
    /// The device has been connected, so the host hears of it.
    pub(in crate::service) const CONNECTED: u8 = 1 << 1;
    /// Its position moved and the host has not drained it.
    pub(in crate::service) const POSITION: u8 = 1 << 2;
    /// Nothing came back for a whole Notify: silent until the device is heard.
    pub(in crate::service) const SILENT: u8 = 1 << 3;
    /// An event of high urgency came while a Notify was in flight.
    pub(in crate::service) const URGENT: u8 = 1 << 4;
    /// It has moved to another path and the host has not heard of it.
    pub(in crate::service) const MOVED: u8 = 1 << 5;
    /// The host has heard that it is connected.
    pub(in crate::service) const TOLD_CONNECTED: u8 = 1 << 6;
    /// The host has heard that it is not any more.
    pub(in crate::service) const TOLD_CLOSED: u8 = 1 << 7;
}

/// In [`Owner::rights`], beside the rights that this profile knows: the keys hold an X25519 result.
pub(super) const FORWARD_SECRET: u8 = 1 << 6;

/// What every packet and every timer touches.
#[derive(Clone, Debug)]
pub(super) struct Hot {
    pub(super) timer: Node,
    /// In the list of those with something to send.
    pub(super) ready: Link,
    ip: [u8; 16],
    port: u16,
    link: LinkId,
    /// Index of the local address and the scope in the service's table.
    local: u16,
    pub(super) generation: u16,
    pub(super) flags: u8,
    pub(super) state: State,
    pub(super) window: Window,
    /// Why it is closing: a packed `CloseReason`.
    pub(super) closing: u8,
    pub(super) rtt: Rtt,
    /// When the device was last heard, in ticks.
    pub(super) heard: u32,
    /// Its Notify in flight.
    pub(super) sending: u32,
}

impl Default for Hot {
    fn default() -> Self {
        Self {
            timer: Node::default(),
            ready: Link::default(),
            ip: [0; 16],
            port: 0,
            link: LinkId(0),
            local: 0,
            generation: 0,
            flags: 0,
            state: State::Free,
            window: Window::default(),
            closing: 0,
            rtt: Rtt::default(),
            heard: 0,
            sending: NIL,
        }
    }
}

impl Hot {
    /// The device's address.
    pub(super) fn remote(&self) -> SocketAddr {
        SocketAddr::new(Ipv6Addr::from(self.ip).to_canonical(), self.port)
    }

    pub(super) const fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    pub(super) const fn set(&mut self, flag: u8) {
        self.flags |= flag;
    }

    pub(super) const fn clear(&mut self, flag: u8) {
        self.flags &= !flag;
    }

    /// Whether its newest packet came by Web.
    pub(super) const fn is_web(&self) -> bool {
        self.link.0 == LinkId::WEB.0
    }

    /// Whether notifications go to it.
    pub(super) const fn is_live(&self) -> bool {
        matches!(self.state, State::Connected | State::Overdue1 | State::Overdue2)
    }
}

/// What is needed to send.
#[derive(Clone, Default)]
pub(super) struct Seal {
    pub(super) key: [u8; 32],
    pub(super) header: [u8; 32],
}

/// What is needed to receive.
#[derive(Clone, Default)]
pub(super) struct Open {
    pub(super) key: [u8; 32],
    pub(super) window: ReplayWindow,
    /// What the application has taken.
    pub(super) position: Serial,
}

/// Counters, initial vectors and the device's identifiers.
#[derive(Clone, Default)]
pub(super) struct Ids {
    pub(super) seal_iv: [u8; 12],
    pub(super) open_iv: [u8; 12],
    /// The number of the next datagram to the device. A connection ends long before its packets fill 32 bits.
    pub(super) next_number: u32,
    /// Its requests.
    pub(super) requests: Small,
    /// Identifiers that the device issued; the first is in use, zero is none.
    pub(super) device: [[u8; 8]; MAX_DEVICE_IDENTIFIERS],
    /// Everything up to here is in a completely acknowledged Notify.
    pub(super) told: Serial,
}

impl Ids {
    /// The identifier that is used next, if there is one.
    pub(super) fn next_identifier(&self) -> [u8; 8] {
        if self.device[1] == [0; 8] { self.device[0] } else { self.device[1] }
    }

    /// The next identifier is used from now on, if there is one.
    pub(super) fn retire_identifier(&mut self) {
        if self.device[1] != [0; 8] {
            self.device.rotate_left(1);
            self.device[MAX_DEVICE_IDENTIFIERS - 1] = [0; 8];
        }
    }
}

/// Whose it is, and what it asked for.
#[derive(Clone, Debug, Default)]
pub(super) struct Owner {
    pub(super) device: DeviceId,
    pub(super) filter: StoreSet,
    pub(super) account: u32,
    /// In the list of the account's devices.
    pub(super) sibling: Link,
    pub(super) connect_serial: U48,
    /// When it connected, in milliseconds of the caller's clock.
    pub(super) since: U48,
    /// The rights that this profile knows, and [`FORWARD_SECRET`].
    pub(super) rights: u8,
    /// The packet size less 1200.
    pub(super) packet_size: u8,
    /// The heartbeat interval in tenths of a second.
    pub(super) interval: u16,
    /// The last request that set state.
    pub(super) applied: u32,
}

/// 48 bits in six bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct U48([u8; 6]);

impl U48 {
    /// The lower 48 bits.
    pub(super) const fn new(value: u64) -> Self {
        let [_, _, a, b, c, d, e, f] = value.to_be_bytes();
        Self([a, b, c, d, e, f])
    }

    pub(super) const fn get(self) -> u64 {
        let [a, b, c, d, e, f] = self.0;
        u64::from_be_bytes([0, 0, a, b, c, d, e, f])
    }
}

const _: () = assert!(size_of::<Hot>() == 64);
const _: () = assert!(size_of::<Seal>() == 64);
const _: () = assert!(size_of::<Open>() == 64);
const _: () = assert!(size_of::<Ids>() == 64);
const _: () = assert!(size_of::<Owner>() == 64);

/// All records: five arrays side by side under one list of free slots.
pub(super) struct Table {
    pub(super) hot: Chunks<Hot>,
    pub(super) seal: Chunks<Seal>,
    pub(super) open: Chunks<Open>,
    pub(super) ids: Chunks<Ids>,
    pub(super) owner: Chunks<Owner>,
    /// With debug assertions only.
    nonces: Chunks<Nonces>,
    free: FreeList,
    /// What the generation of a slot that was never used starts with: random, so that identifiers of a former life of
    /// the service fit no record of this one.
    first_generation: u16,
    locals: Locals,
}

impl Table {
    pub(super) fn new(capacity: u32, first_generation: u16) -> Self {
        Self {
            hot: Chunks::new(capacity),
            seal: Chunks::new(capacity),
            open: Chunks::new(capacity),
            ids: Chunks::new(capacity),
            owner: Chunks::new(capacity),
            nonces: Chunks::new(capacity),
            free: FreeList::new(capacity),
            first_generation,
            locals: Locals::default(),
        }
    }

    /// A record for a new connection, with a generation that none of the slot's former connections had of late.
    pub(super) fn acquire(&mut self) -> Option<u32> {
        let slot = self.free.acquire()?;
        let fresh = slot >= self.hot.len();
        self.seal.reach(slot)?;
        self.open.reach(slot)?;
        self.ids.reach(slot)?;
        self.owner.reach(slot)?;
        self.nonces.reach(slot)?;
        let hot = self.hot.reach(slot)?;
        let generation = if fresh { self.first_generation } else { hot.generation.wrapping_add(1) };
        *hot = Hot { generation, flags: hot.flags & flag::POSITION, ..Hot::default() };
        Some(slot)
    }

    /// Gives a record back and wipes its keys. It is in no list and has no timer any more.
    pub(super) fn release(&mut self, slot: u32) {
        self.wipe(slot);
        self.hot[slot].state = State::Free;
        self.free.release_last(slot);
    }

    fn wipe(&mut self, slot: u32) {
        self.seal[slot].key.zeroize();
        self.seal[slot].header.zeroize();
        self.open[slot].key.zeroize();
        self.ids[slot].seal_iv.zeroize();
        self.ids[slot].open_iv.zeroize();
    }

    /// Records in use.
    pub(super) const fn len(&self) -> u32 {
        self.free.len()
    }

    pub(super) fn set_path(&mut self, slot: u32, path: &Path) {
        let local = self.locals.index(Local::of(path));
        let hot = &mut self.hot[slot];
        hot.ip = ip_bytes(path.remote.ip());
        hot.port = path.remote.port();
        hot.link = path.link;
        hot.local = local;
    }

    /// Whether this is the connection's path.
    pub(super) fn is_path(&self, slot: u32, path: &Path) -> bool {
        let hot = &self.hot[slot];
        path.link == hot.link
            && path.remote.port() == hot.port
            && ip_bytes(path.remote.ip()) == hot.ip
            && Local::of(path) == self.locals.get(hot.local)
    }

    pub(super) fn path(&self, slot: u32) -> Path {
        let hot = &self.hot[slot];
        let Local { ip, scope } = self.locals.get(hot.local);
        let mut remote = hot.remote();
        if let SocketAddr::V6(remote) = &mut remote {
            remote.set_scope_id(scope);
        }
        Path { link: hot.link, remote, local: ip }
    }

    pub(super) fn set_keys(&mut self, slot: u32, keys: &ConnectionKeys) {
        self.seal[slot] = Seal { key: keys.to_device.key, header: keys.header };
        self.open[slot].key = keys.to_service.key;
        self.ids[slot].seal_iv = keys.to_device.iv;
        self.ids[slot].open_iv = keys.to_service.iv;
        self.nonces[slot] = Nonces::default();
    }

    /// The keys for the packet to the device with this header; `repeats`: as in [`Nonces::take`].
    pub(super) fn seal_keys(&mut self, slot: u32, header: &Header, repeats: bool) -> PacketKeys<'_> {
        self.nonces[slot].take(header, repeats);
        let seal = &self.seal[slot];
        PacketKeys { key: &seal.key, iv: &self.ids[slot].seal_iv, header: &seal.header }
    }

    /// The number of the next datagram to the device: taken, never given back.
    pub(super) fn take_number(&mut self, slot: u32) -> u64 {
        let ids = &mut self.ids[slot];
        let number = ids.next_number;
        ids.next_number += 1;
        u64::from(number)
    }

    /// When the device was last heard.
    pub(super) fn heard(&self, slot: u32, now: Instant) -> Instant {
        let ago = tick_floor(now).wrapping_sub(self.hot[slot].heard);
        // It lies in the past, but for a slip of the caller's clock. Taken as the nearest tick, a service that was
        // suspended for a month would wait for weeks until that moment comes.
        let ago = if ago > u32::MAX - SLIP { 0 } else { ago };
        Instant::from_micros(now.as_millis().saturating_sub(u64::from(ago)).saturating_mul(1000))
    }
}

impl Drop for Table {
    // A service that is dropped still holds the keys of all its connections.
    fn drop(&mut self) {
        (0..self.hot.len()).for_each(|slot| self.wipe(slot));
    }
}

/// By so many ticks a record may have been heard after `now`, which the caller let slip back.
const SLIP: u32 = 60_000;

/// Sixteen bytes for either family.
const fn ip_bytes(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
        IpAddr::V6(ip) => ip.octets(),
    }
}

/// The list of those with something to send runs through [`Hot::ready`].
impl Links for Chunks<Hot> {
    fn link(&mut self, index: u32) -> &mut Link {
        &mut self[index].ready
    }
}

/// The lists of devices of one account run through [`Owner::sibling`].
impl Links for Chunks<Owner> {
    fn link(&mut self, index: u32) -> &mut Link {
        &mut self[index].sibling
    }
}

/// What else there is to a path, beside the device's address: of this machine, so there are few of them, and a record
/// holds two bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Local {
    /// The address of this machine that the device uses.
    ip: Option<IpAddr>,
    /// The interface to which a link-local address of the device belongs.
    scope: u32,
}

impl Local {
    fn of(path: &Path) -> Self {
        let scope = match path.remote {
            SocketAddr::V6(remote) => remote.scope_id(),
            SocketAddr::V4(_) => 0,
        };
        Self { ip: path.local, scope }
    }
}

/// The [`Local`]s that devices use.
#[derive(Debug, Default)]
struct Locals(alloc::vec::Vec<Local>);

/// As many are told apart; to devices that use more of them answers leave from where the system chooses.
const MAX_LOCALS: usize = 1024;

impl Locals {
    fn index(&mut self, local: Local) -> u16 {
        if local == Local::default() {
            return 0;
        }
        let at = match self.0.iter().position(|a| *a == local) {
            Some(at) => at,
            None if self.0.len() < MAX_LOCALS => {
                self.0.push(local);
                self.0.len() - 1
            }
            None => return 0,
        };
        u16::try_from(at + 1).unwrap_or(0)
    }

    fn get(&self, index: u16) -> Local {
        let at = usize::from(index).checked_sub(1);
        at.and_then(|at| self.0.get(at)).copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // SPEC: R-generation
    #[test]
    fn a_slot_that_is_used_again_has_another_generation_and_no_keys() {
        let mut table = Table::new(1, 0xffff);
        let slot = table.acquire().unwrap();
        assert_eq!(table.hot[slot].generation, 0xffff);
        assert_eq!(table.acquire(), None, "capacity is a limit");
        table.seal[slot].key = [7; 32];
        table.open[slot].key = [7; 32];
        table.release(slot);
        assert_eq!(table.seal[slot].key, [0; 32]);
        assert_eq!(table.open[slot].key, [0; 32]);
        assert_eq!(table.acquire(), Some(slot));
        assert_eq!(table.hot[slot].generation, 0);
    }

    #[test]
    fn a_path_survives_its_packing() {
        let mut table = Table::new(4, 0);
        let slot = table.acquire().unwrap();
        for (remote, local) in
            [("127.0.0.1:5", Some("127.0.0.2")), ("[2001:db8::1]:65535", None), ("10.1.2.3:1", Some("::1"))]
        {
            let path = Path {
                link: LinkId(3),
                remote: remote.parse().unwrap(),
                local: local.map(|l| l.parse().unwrap()),
            };
            table.set_path(slot, &path);
            assert_eq!(table.path(slot), path);
            assert!(table.is_path(slot, &path));
        }
    }

    #[test]
    fn a_link_local_device_keeps_its_interface() {
        let mut table = Table::new(4, 0);
        let slot = table.acquire().unwrap();
        let path = |scope| {
            let remote = core::net::SocketAddrV6::new("fe80::1".parse().unwrap(), 5, 0, scope);
            Path { link: LinkId(0), remote: remote.into(), local: Some("fe80::2".parse().unwrap()) }
        };
        table.set_path(slot, &path(3));
        assert!(table.is_path(slot, &path(3)));
        assert_eq!(table.path(slot), path(3), "answers leave over the same interface");
        assert!(!table.is_path(slot, &path(4)), "the same address over there is somebody else");
    }
}
