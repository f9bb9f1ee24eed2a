//! What goes wrong in a world beside the network: attackers, clocks that are wrong, seeds that repeat, backups.

use std::collections::BTreeMap;

use mpp_proto::{AccountHead, AccountId, Instant, UnixTime};

use super::{DeviceHandle, MAX_ACCOUNT, Restart, ServiceHandle, World, unix};
use crate::attacker::{Attacker, Tactic};

/// How far a civil clock is off.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Skew {
    ms: i64,
}

impl Skew {
    /// That of a clock that shows `clock` now.
    fn of(now: Instant, clock: UnixTime) -> Self {
        Self { ms: clock.as_millis().cast_signed().wrapping_sub(unix(now).as_millis().cast_signed()) }
    }

    /// What the clock shows.
    pub(super) fn clock(self, now: Instant) -> UnixTime {
        UnixTime::from_millis(unix(now).as_millis().saturating_add_signed(self.ms))
    }
}

/// The heads of a service's channels as they were once; see [`World::backup`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Backup {
    heads: BTreeMap<AccountId, AccountHead>,
}

impl World {
    /// Puts an attacker on the path who does these things, in place of any other observer of the network.
    pub fn attack(&mut self, tactics: &[Tactic]) -> Attacker {
        let services = self.services.iter().flat_map(|s| s.addresses.iter().copied());
        let seed = self.seeds.fork(7 << 40 | self.attackers).next_u64();
        self.attackers += 1;
        let attacker = Attacker::new(seed, services, tactics);
        self.network.observe(Some(attacker.observer()));
        attacker
    }

    /// Sets the civil clock of a service, which goes on from there, also over restarts. The [judge](crate::model) then
    /// knows what an event's time to live was, and nothing of the expiry that the service tells.
    pub fn set_service_clock(&mut self, service: ServiceHandle, clock: UnixTime) {
        let now = self.now;
        let node = &mut self.services[service.0 as usize];
        if node.skew == Skew::of(now, clock) {
            return;
        }
        node.skew = Skew::of(now, clock);
        if let Some(machine) = &mut node.machine {
            machine.set_clock(now, clock);
        }
        for (_, channel) in self.channels.iter_mut().filter(|((s, _), _)| *s == service.0) {
            channel.clock_was_set = true;
        }
        self.pump_service(service.0);
    }

    /// Sets the civil clock of a device, which goes on from there, also over restarts.
    pub fn set_device_clock(&mut self, device: DeviceHandle, clock: UnixTime) {
        let now = self.now;
        let node = &mut self.devices[device.0 as usize];
        node.skew = Skew::of(now, clock);
        if let Some(machine) = &mut node.machine {
            machine.set_clock(now, clock);
        }
        self.pump_device(device.0);
    }

    /// While this is on a device gets the same seed at every start, as a virtual machine does that is started from one
    /// snapshot again and again.
    pub fn repeat_seed(&mut self, device: DeviceHandle, on: bool) {
        self.devices[device.0 as usize].repeats_seed = on;
    }

    /// What a host has in its backup: epoch and newest serial of every channel of a service that was published to.
    ///
    /// # Panics
    /// If the service is stopped.
    pub fn backup(&self, service: ServiceHandle) -> Backup {
        Backup { heads: self.heads(service).map(|head| (head.account, head)).collect() }
    }

    /// Kills a service and starts it with the heads of a backup. Channels of which the backup knows nothing begin anew.
    ///
    /// What was published since is lost. A device that has seen some of that makes the service notice and begin a new
    /// epoch, if it connects before as much has been published again; SPEC.md, section 17.5, tells hosts to begin one
    /// by themselves.
    ///
    /// # Panics
    /// If the service is stopped.
    pub fn restore_backup(&mut self, service: ServiceHandle, backup: &Backup, secret: bool) {
        let now: Vec<_> = self.heads(service).collect();
        let lost = now.iter().any(|head| backup.heads.get(&head.account) != Some(head));
        self.stop_service(service);
        self.services[service.0 as usize].heads = backup.heads.values().copied().collect();
        self.start_service(service, Restart { secret, heads: true }, !lost);
    }

    /// The heads of a service's channels that were published to, as its host's store has them.
    pub(super) fn heads(&self, service: ServiceHandle) -> impl Iterator<Item = AccountHead> + '_ {
        let (machine, node) = (self.service(service), &self.services[service.0 as usize]);
        self.channels
            .range((service.0, AccountId([0; 16]))..=(service.0, MAX_ACCOUNT))
            .filter_map(|((_, account), _)| machine.head(account))
            .map(|head| node.stored(&head))
    }
}
