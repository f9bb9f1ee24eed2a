//! How time passes in a world.

use std::time::Duration;

use mpp_proto::{Disposition, Instant};

use super::boxes::Inbound;
use super::web::{Udp, WebConditions};
use super::{App, BATCH, Drive, Spot, World, device, service, unix};
use crate::network::{Conditions, Packet};

/// How often one machine may be woken at one instant before it counts as a busy loop.
const MAX_WAKES: u32 = 1000;

impl World {
    /// Lets `time` pass.
    pub fn run_for(&mut self, time: Duration) {
        let end = self.now + time;
        while self.step(end) {}
    }

    /// Lets time pass until `done` (asked after every instant at which something happened) or `max` is over. Says
    /// whether it was done.
    pub fn run_until(&mut self, max: Duration, mut done: impl FnMut(&Self) -> bool) -> bool {
        let end = self.now + max;
        loop {
            if done(self) {
                return true;
            }
            if !self.step(end) {
                return done(self);
            }
        }
    }

    /// Makes the network perfect and every application prompt, and lets time pass until everything that can still
    /// arrive has: all devices that run are connected, and then four heartbeats more. Says whether all are connected.
    pub fn settle(&mut self, max: Duration) -> bool {
        let all: Vec<_> = self.devices().collect();
        for device in all.iter().copied() {
            self.set_conditions(device, Conditions::default(), Conditions::default());
            self.black_hole(device, Duration::ZERO);
            self.set_udp(device, Udp::Passes);
            self.set_web(device, self.web(device).map(|_| WebConditions::default()));
            self.hold_acknowledgements(device, false);
            self.set_app(device, App::Prompt);
        }
        let connected = |w: &Self| all.iter().all(|d| w.device(*d).is_none() || w.is_connected(*d));
        let interval = self.devices.iter().map(|d| d.config.interval).max().unwrap_or_default();
        if !self.run_until(max, connected) {
            return false;
        }
        // Whoever the service has given up for the moment is heard with its next heartbeat, as rare as those are.
        let learned = all.iter().filter_map(|d| Some(self.device(*d)?.keepalive().interval)).max();
        let learned = learned.unwrap_or_default() + Duration::from_secs(30);
        self.run_for(learned.max(interval * 4));
        if !connected(self) {
            return false;
        }
        // Everybody has been told everything, and the books say so. (Whoever was killed is owed it for its lease.)
        if all.iter().all(|d| self.device(*d).is_some()) {
            for service in self.services.iter().filter_map(|s| s.machine.as_ref()) {
                assert_eq!(service.pending(), 0, "conservation: {:?}", service.stats().delivery);
            }
        }
        true
    }

    /// Goes to the next instant at which something happens and lets it happen; `false` once `end` is reached.
    fn step(&mut self, end: Instant) -> bool {
        let timer = self.timers.first().map(|(at, _)| *at);
        let arrival = Instant::earliest(self.network.next_arrival(), self.web.next_arrival());
        let mut next = Instant::earliest(arrival, timer);
        if self.drive == Drive::EveryMillisecond {
            let tick = Instant::from_micros((self.now.as_millis() + 1) * 1000);
            next = Instant::earliest(next, Some(tick));
        }
        match next {
            Some(at) if at <= end => self.now = self.now.max(at),
            _ => {
                self.now = end;
                return false;
            }
        }
        // Always arrivals first and timers after them, so that it does not matter who else is woken when.
        while let Some(first) = self.network.arrived(self.now) {
            let to = first.to;
            let mut batch = vec![first];
            while batch.len() < BATCH {
                let Some(packet) = self.network.arrived_for(self.now, to) else { break };
                batch.push(packet);
            }
            let _ = self.hand_over(batch);
        }
        self.web_arrivals();
        while let Some((at, who)) = self.timers.first().copied() {
            if at > self.now {
                break;
            }
            self.wake(who, false);
        }
        if self.drive == Drive::EveryMillisecond && self.now.as_micros().is_multiple_of(1000) {
            for i in 0..self.services.len() as u32 {
                self.wake(Spot::Service(i), true);
            }
            for i in 0..self.devices.len() as u32 {
                self.wake(Spot::Device(i), true);
            }
        }
        true
    }

    fn wake(&mut self, who: Spot, early: bool) {
        let now = self.now;
        let wakes = match who {
            Spot::Device(i) => {
                let node = &mut self.devices[i as usize];
                node.wake(now, early);
                &mut node.wakes
            }
            Spot::Service(i) => {
                let node = &mut self.services[i as usize];
                node.wake(now, early);
                &mut node.wakes
            }
        };
        *wakes = if wakes.0 == now { (now, wakes.1 + 1) } else { (now, 0) };
        if wakes.1 == MAX_WAKES {
            let why = match who {
                Spot::Device(i) => self.devices[i as usize].machine.as_ref().and_then(|m| m.poll_timeout()),
                Spot::Service(i) => self.services[i as usize].machine.as_ref().and_then(|m| m.poll_timeout()),
            };
            panic!("busy loop: {who:?} wants to be woken at {now:?} again and again: {why:?}");
        }
        match who {
            Spot::Device(i) => self.pump_device(i),
            Spot::Service(i) => self.pump_service(i),
        }
    }

    /// Hands packets for one address to whoever has it; no dispositions if nobody has.
    pub(super) fn hand_over(&mut self, mut packets: Vec<Packet>) -> Vec<Disposition> {
        let now = self.now;
        let Some(first) = packets.first().map(|p| p.to) else { return Vec::new() };
        let mut via = None;
        packets.retain_mut(|packet| match self.boxes.inbound(now, packet.from, packet.to) {
            Inbound::Direct => true,
            Inbound::Inside(socket, nat) => {
                packet.to = socket;
                via = Some(nat);
                true
            }
            Inbound::Dropped => false,
            Inbound::Unreachable => {
                self.network.stats.unreachable += 1;
                false
            }
        });
        let to = packets.first().map_or(first, |p| p.to);
        // A device's address means nothing but to the box that it is behind.
        let elsewhere = |i: u32| to.is_ipv4() && self.devices[i as usize].behind != via;
        let spot = self.addresses.get(&to).copied();
        let spot = spot.filter(|spot| !matches!(spot, Spot::Device(i) if elsewhere(*i)));
        let Some(spot) = spot else {
            self.network.stats.unreachable += packets.len() as u64;
            return Vec::new();
        };
        match spot {
            Spot::Device(i) if self.devices[i as usize].is_dark(now) => {
                self.network.stats.dark += packets.len() as u64;
                Vec::new()
            }
            Spot::Device(i) => {
                let udp = self.devices[i as usize].web.udp;
                let before = packets.len();
                packets.retain(|packet| !udp.loses(packet.payload.len()));
                self.network.stats.dark += (before - packets.len()) as u64;
                let mut dispositions = Vec::new();
                for mut packet in packets {
                    dispositions.extend(self.devices[i as usize].receive(now, &mut packet));
                    self.network.stats.delivered += 1;
                    self.pump_device(i);
                }
                dispositions
            }
            Spot::Service(i) => {
                self.network.stats.delivered += packets.len() as u64;
                let dispositions = self.services[i as usize].receive(now, &mut packets);
                self.pump_service(i);
                dispositions
            }
        }
    }

    pub(super) fn pump_device(&mut self, index: u32) {
        let node = &mut self.devices[index as usize];
        node.pump(&mut device::Around {
            now: self.now,
            unix: unix(self.now),
            network: &mut self.network,
            addresses: &mut self.addresses,
            boxes: &mut self.boxes,
            names: &self.names,
            scratch: &mut self.scratch,
        });
        if let Some(stats) = node.machine.as_ref().map(mpp_proto::Device::stats) {
            assert!(stats.is_conserved(), "conservation: device {index} is not in balance: {stats:?}");
        }
        let deadline = node.deadline();
        let old = std::mem::replace(&mut node.timer, deadline);
        self.file(Spot::Device(index), old, deadline);
        self.collect_asked(index);
        self.take_carried();
    }

    pub(super) fn pump_service(&mut self, index: u32) {
        let node = &mut self.services[index as usize];
        let mut around = service::Around {
            network: &mut self.network,
            devices: &self.devices,
            addresses: &self.addresses,
            boxes: &self.boxes,
            stray: self.stray,
        };
        let answers = node.pump(self.now, &mut around);
        node.audit(self.now);
        let deadline = node.deadline();
        let old = std::mem::replace(&mut node.timer, deadline);
        self.file(Spot::Service(index), old, deadline);
        self.web_answered(index, answers);
        self.take_carried();
    }

    fn file(&mut self, who: Spot, old: Option<Instant>, new: Option<Instant>) {
        if old != new {
            if let Some(at) = old {
                self.timers.remove(&(at, who));
            }
            if let Some(at) = new {
                self.timers.insert((at, who));
            }
        }
    }
}
