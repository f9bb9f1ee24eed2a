//! A device on the virtual network: its machine, its sockets and its application.

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroUsize;
use std::sync::Arc;

use mpp_proto::{
    Acknowledgement, Datagram, Device, DeviceConfig, DeviceEvent, Disposition, Family, Instant, LinkId,
    LinkKind, LinkState, Path, Resume, Serial, Ticket, UnixTime,
};

use super::boxes::{Boxes, NatHandle};
use super::log::{App, Entry, Record};
use super::trouble::Skew;
use super::web::{Asked, DEVICE_PORT, Side, Udp};
use super::{Addresses, Names, Spot};
use crate::network::{Network, Packet, RouteId};

/// The most packets that a machine may describe in one transmission.
const SEGMENTS: NonZeroUsize = NonZeroUsize::new(8).unwrap();
/// Room for them, in bytes.
pub(super) const SCRATCH: usize = 1452 * SEGMENTS.get();

pub(super) struct Socket {
    link: LinkId,
    /// The address the machine bound, behind whatever translates.
    local: SocketAddr,
    /// The address the world sees, or the NAT box that the device is behind.
    pub(super) public: SocketAddr,
}

pub(super) struct DeviceNode {
    pub(super) index: u32,
    pub(super) machine: Option<Device>,
    pub(super) config: Arc<DeviceConfig>,
    pub(super) ticket: Ticket,
    /// The service at its ticket's first endpoint.
    pub(super) home: usize,
    pub(super) resume: Option<Resume>,
    pub(super) up: RouteId,
    pub(super) down: RouteId,
    pub(super) v4: IpAddr,
    pub(super) v6: IpAddr,
    pub(super) next_port: u16,
    /// The NAT box it is behind.
    pub(super) behind: Option<NatHandle>,
    pub(super) sockets: Vec<Socket>,
    pub(super) dark_until: Instant,
    pub(super) app: App,
    /// The application takes nothing before this.
    pub(super) app_due: Instant,
    /// An application that takes its time is to be woken for the next notification.
    app_waits: bool,
    pub(super) hold_acknowledgements: bool,
    /// The last position given to the application and not acknowledged by it (manual mode).
    pub(super) unacknowledged: Option<Serial>,
    /// `None`: it keeps none.
    pub(super) log: Option<Vec<Entry>>,
    pub(super) lives: u64,
    /// How far its civil clock is off.
    pub(super) skew: Skew,
    /// The life whose seed it has, and whether the next one gets the same.
    pub(super) seed: u64,
    pub(super) repeats_seed: bool,
    pub(super) timer: Option<Instant>,
    pub(super) wakes: (Instant, u32),
    /// How often it was woken for a deadline.
    pub(super) woken: u64,
    pub(super) web: Side,
}

/// What a device touches in its world while it runs.
pub(super) struct Around<'a> {
    pub(super) now: Instant,
    pub(super) unix: UnixTime,
    pub(super) network: &'a mut Network,
    pub(super) addresses: &'a mut Addresses,
    pub(super) boxes: &'a mut Boxes,
    pub(super) names: &'a Names,
    pub(super) scratch: &'a mut [u8],
}

impl DeviceNode {
    pub(super) fn new(
        index: u32,
        config: Arc<DeviceConfig>,
        ticket: Ticket,
        home: usize,
        up: RouteId,
        down: RouteId,
        web: Side,
    ) -> Self {
        let [_, high, middle, low] = index.to_be_bytes();
        let (a, b) = ((u16::from(high) << 8) | u16::from(middle), u16::from(low));
        Self {
            index,
            machine: None,
            config,
            ticket,
            home,
            resume: None,
            up,
            down,
            // 10.0.0.0/8 and fd00::/96: room for 16 million devices.
            v4: IpAddr::from([10, high, middle, low]),
            v6: IpAddr::from([0xfd00, 0, 0, 0, 0, 0, a, b]),
            next_port: 40_000,
            behind: None,
            sockets: Vec::new(),
            dark_until: Instant::ZERO,
            app: App::Prompt,
            app_due: Instant::ZERO,
            app_waits: false,
            hold_acknowledgements: false,
            unacknowledged: None,
            log: Some(Vec::new()),
            lives: 0,
            skew: Skew::default(),
            seed: 0,
            repeats_seed: false,
            timer: None,
            wakes: (Instant::ZERO, 0),
            woken: 0,
            web,
        }
    }

    pub(super) fn note(&mut self, at: Instant, unix: UnixTime, record: Record) {
        if let Some(log) = &mut self.log {
            log.push(Entry { at, unix, record });
        }
    }

    pub(super) fn is_dark(&self, now: Instant) -> bool {
        now < self.dark_until
    }

    /// Hands a packet that arrived at `public` to the machine.
    pub(super) fn receive(&mut self, now: Instant, packet: &mut Packet) -> Option<Disposition> {
        let link = self.sockets.iter().find(|s| s.public == packet.to)?.link;
        let machine = self.machine.as_mut()?;
        let before = packet.payload.clone();
        let datagram = Datagram { path: Path::new(link, packet.from), payload: &mut packet.payload };
        let disposition = machine.handle_datagram(now, datagram);
        assert!(
            matches!(disposition, Disposition::Accepted) || before == packet.payload,
            "contract rule 5: device {} changed the bytes of a packet that it did not accept: {disposition:?}",
            self.index
        );
        Some(disposition)
    }

    /// Runs the machine until it has nothing more to say, and notes when it wants to be woken.
    pub(super) fn pump(&mut self, around: &mut Around<'_>) {
        let now = around.now;
        for round in 0.. {
            assert!(round < 10_000, "device {} never comes to rest at {now:?}", self.index);
            let busy = self.drain_events(around)
                | self.drain_transmits(around)
                | self.drain_web(around)
                | self.drain_app(around);
            if !busy {
                break;
            }
        }
    }

    fn drain_events(&mut self, around: &mut Around<'_>) -> bool {
        let now = around.now;
        let mut busy = false;
        while let Some(machine) = &mut self.machine {
            let Some(event) = machine.poll_event() else { break };
            busy = true;
            match &event {
                DeviceEvent::OpenLink { link, kind } => {
                    let Some(family) = kind.family() else {
                        let local = SocketAddr::new(self.v4, DEVICE_PORT);
                        let state = match *kind == LinkKind::Web && self.web.conditions.is_some() {
                            true => LinkState::Open { local },
                            false => LinkState::Failed,
                        };
                        if state != LinkState::Failed {
                            self.web.link = Some(*link);
                        }
                        machine.handle_link(now, *link, state);
                        continue;
                    };
                    let ip = if family == Family::V4 { self.v4 } else { self.v6 };
                    let address = SocketAddr::new(ip, self.next_port);
                    self.next_port = self.next_port.checked_add(1).unwrap_or(40_000);
                    machine.handle_link(now, *link, LinkState::Open { local: address });
                    self.sockets.push(Socket { link: *link, local: address, public: address });
                    around.addresses.insert(address, Spot::Device(self.index));
                }
                DeviceEvent::CloseLink(link) => {
                    for gone in self.sockets.extract_if(.., |s| s.link == *link) {
                        around.addresses.remove(&gone.public);
                    }
                    if self.web.link.take_if(|open| open == link).is_some() {
                        self.web.closed.push(*link);
                    }
                }
                DeviceEvent::Resolve { id, host, port } => {
                    let found = around.names.get(host).map(Vec::as_slice).unwrap_or_default();
                    let found: Vec<_> = found.iter().map(|ip| SocketAddr::new(*ip, *port)).collect();
                    machine.handle_resolved(now, *id, &found);
                }
                _ => {}
            }
            self.note(now, around.unix, Record::Event(event));
        }
        busy
    }

    fn drain_transmits(&mut self, around: &mut Around<'_>) -> bool {
        let now = around.now;
        let dark = self.is_dark(now);
        let mut busy = false;
        while let Some(machine) = &mut self.machine {
            let Some(transmit) = machine.poll_transmit(now, around.scratch, SEGMENTS) else { break };
            busy = true;
            let Some(socket) = self.sockets.iter().find(|s| s.link == transmit.path.link) else { continue };
            if self.web.udp == Udp::Forbidden {
                machine.handle_unsent(now, transmit.path.link);
                continue;
            }
            let size = transmit.segment_size.map_or(transmit.len, |s| usize::from(s.get()));
            for part in around.scratch[..transmit.len].chunks(size.max(1)) {
                let (from, to) = (socket.public, transmit.path.remote);
                let payload = part.to_vec();
                if dark || self.web.udp.loses(payload.len()) {
                    around.network.send_dark(now, Packet { from, to, payload });
                } else if let Some(from) = around.boxes.outbound(now, self.behind, from, to) {
                    around.network.send(now, self.up, Packet { from, to, payload });
                }
            }
        }
        busy
    }

    fn drain_web(&mut self, around: &mut Around<'_>) -> bool {
        let mut busy = false;
        while let Some(machine) = &mut self.machine {
            let Some(transmit) = machine.poll_web(around.now, around.scratch) else { break };
            busy = true;
            let link = self.web.link.expect("there is a Web client, or nothing is asked");
            let (id, wait) = (transmit.id, transmit.wait);
            let packet = around.scratch[..transmit.len].to_vec();
            self.web.asked.push(Asked { link, id, base: transmit.base.to_string(), wait, packet });
        }
        busy
    }

    fn drain_app(&mut self, around: &mut Around<'_>) -> bool {
        let now = around.now;
        let mut busy = false;
        while let Some(machine) = &mut self.machine {
            if self.app == App::Stalled || now < self.app_due {
                break;
            }
            let asked_after_one = std::mem::take(&mut self.app_waits);
            let Some(notification) = machine.poll_notification(now) else {
                // The question itself said that the last one has been dealt with: there may be something to send.
                busy |= asked_after_one;
                break;
            };
            busy = true;
            let position = notification.position;
            self.note(now, around.unix, Record::Notification(notification));
            if self.config.acknowledgement == Acknowledgement::Manual {
                self.unacknowledged = Some(position);
                self.acknowledge(now, around.unix);
            }
            if let App::Every(pause) = self.app {
                self.app_due = now + pause;
                self.app_waits = true;
            }
        }
        busy
    }

    /// Acknowledges what the application was given last, unless it holds that back.
    pub(super) fn acknowledge(&mut self, now: Instant, unix: UnixTime) {
        let Some(machine) = &mut self.machine else { return };
        if self.hold_acknowledgements {
            return;
        }
        if let Some(position) = self.unacknowledged.take() {
            machine.acknowledge(now, position);
            self.note(now, unix, Record::Acknowledged(position));
        }
    }

    /// When the machine or the application wants to be woken.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let machine = self.machine.as_ref()?;
        let app = (self.app_waits && self.app != App::Stalled).then_some(self.app_due);
        Instant::earliest(machine.poll_timeout().map(|w| w.at), app)
    }

    /// Wakes the machine if it wants to be woken by now.
    ///
    /// # Panics
    /// If its deadline is not later than now afterwards.
    pub(super) fn wake(&mut self, now: Instant, early: bool) {
        let Some(machine) = &mut self.machine else { return };
        let is_due = machine.poll_timeout().is_some_and(|w| w.at <= now);
        self.woken += u64::from(is_due);
        if early || is_due {
            machine.handle_timeout(now);
            let next = machine.poll_timeout();
            assert!(
                next.is_none_or(|w| w.at > now),
                "contract rule 1: device {} still has a deadline in the past after handle_timeout({now:?}): {next:?}",
                self.index
            );
        }
    }

    /// Gives every socket another port, as a NAT box does that forgot: the machine is not told.
    pub(super) fn rebind(&mut self, addresses: &mut Addresses) {
        for socket in &mut self.sockets {
            addresses.remove(&socket.public);
            socket.public.set_port(self.next_port);
            self.next_port = self.next_port.checked_add(1).unwrap_or(40_000);
            addresses.insert(socket.public, Spot::Device(self.index));
        }
    }

    /// Gives every socket another address, as when the whole site gets a new one.
    pub(super) fn readdress(&mut self, addresses: &mut Addresses) {
        let moved = |ip: IpAddr| match ip {
            IpAddr::V4(ip) => {
                let [a, b, c, d] = ip.octets();
                IpAddr::from([a + 1, b, c, d])
            }
            IpAddr::V6(ip) => {
                let mut s = ip.segments();
                s[1] += 1;
                IpAddr::from(s)
            }
        };
        (self.v4, self.v6) = (moved(self.v4), moved(self.v6));
        for socket in &mut self.sockets {
            addresses.remove(&socket.public);
            socket.public.set_ip(moved(socket.public.ip()));
            addresses.insert(socket.public, Spot::Device(self.index));
        }
    }

    pub(super) fn close_sockets(&mut self, addresses: &mut Addresses) {
        for socket in self.sockets.drain(..) {
            addresses.remove(&socket.public);
        }
        self.web.closed.extend(self.web.link.take());
    }

    /// The addresses its sockets bound, and those the world sees.
    pub(super) fn endpoints(&self) -> impl Iterator<Item = (SocketAddr, SocketAddr)> {
        self.sockets.iter().map(|s| (s.local, s.public))
    }
}
