//! What the host of a device may choose.

use core::time::Duration;

use super::connection::{MAX_INTERVAL, MIN_INTERVAL};
use crate::ids::{NetworkId, StoreSet};
use crate::keepalive::Limits;

/// When the position of a device moves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Acknowledgement {
    /// When the application asks for the next notification: what it was given before counts as dealt with. After a
    /// crash nothing is missing, and what was being dealt with comes again.
    #[default]
    Automatic,
    /// When [`Device::acknowledge`](super::Device::acknowledge) is called.
    Manual,
}

/// The settings of a [`Device`](super::Device). `Default` is right for most.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct DeviceConfig {
    /// The stores to hear of. Default: all.
    pub filter: StoreSet,
    /// When the position moves. Default: automatic.
    pub acknowledgement: Acknowledgement,
    /// The time between heartbeats, 5 s to 300 s, shortened by up to a tenth at random: until something better is known
    /// of the network, and after a miss. Default: 25 s.
    pub interval: Duration,
    /// Whether to find out how long each network remembers a silent socket, and to speak as rarely as that allows: every
    /// 216 s at best (SPEC.md, "Learned keepalive"). Default: true. Without it the time between heartbeats is always
    /// [`interval`](Self::interval).
    pub learn_interval: bool,
    /// The shortest time between heartbeats in networks that are found to forget a socket sooner than `interval` allows
    /// for, 5 s and more. It costs battery there, and without it an event may wait for the next heartbeat. Default: 25 s,
    /// not shorter than usual.
    pub shortest_interval: Duration,
    /// The network that the machine is on at the start; later ones are named by
    /// [`Device::handle_network_change`](super::Device::handle_network_change). Default: none, it is not known.
    pub network: Option<NetworkId>,
    /// The largest UDP payload to send and to take, 1200 to 1452 bytes; after an attempt that came to nothing 1200 is
    /// tried, since the path may not carry more. Default: 1200.
    pub packet_size: u16,
    /// Offer an X25519 share, so that a ticket that leaks later opens no recording. Default: true.
    pub forward_secrecy: bool,
    /// Packets in a direction after which new keys are due; they are agreed on while the connection goes on. 64 to 2^22,
    /// for tests and the cautious. Default: 2^22.
    pub packet_limit: u32,
    /// Notifications that may wait for the application; above that (or [`DeviceConfig::queue_bytes`]) the device
    /// stops acknowledging, and the service keeps what it owes. Default: 64.
    pub queue_events: usize,
    /// Payload bytes that may wait for the application. Default: 256 KiB.
    pub queue_bytes: usize,
}

impl DeviceConfig {
    /// What the learning of intervals has to keep to.
    pub(super) fn interval_limits(&self) -> Limits {
        let within = |interval: Duration| interval.clamp(MIN_INTERVAL, MAX_INTERVAL);
        let (safe, shortest) = (within(self.interval), within(self.shortest_interval));
        Limits { safe, shortest, learn: self.learn_interval }
    }
}

impl Default for DeviceConfig {
    fn default() -> Self {
        Self {
            filter: StoreSet::ALL,
            acknowledgement: Acknowledgement::Automatic,
            interval: Duration::from_secs(25),
            learn_interval: true,
            shortest_interval: Duration::from_secs(25),
            network: None,
            packet_size: 1200,
            forward_secrecy: true,
            packet_limit: 1 << 22,
            queue_events: 64,
            queue_bytes: 256 * 1024,
        }
    }
}
