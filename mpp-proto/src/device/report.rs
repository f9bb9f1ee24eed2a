//! What a device tells of its heartbeats, and of how long the network remembers a silent socket.

use core::net::SocketAddr;
use core::time::Duration;

use super::Device;
use super::event::ConnectionState;
use crate::ids::NetworkId;
use crate::keepalive::IntervalReason;
use crate::wire::Code;

/// How often a device speaks, why, and what it knows of the network it is on (SPEC.md, "Learned keepalive").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct KeepaliveReport {
    /// The time between heartbeats, before up to a tenth is taken off at random.
    pub interval: Duration,
    /// Why it is that.
    pub reason: IntervalReason,
    /// The network, if the host has named it.
    pub network: Option<NetworkId>,
    /// The longest silence after which the network still knew a socket, as measured. None: unknown.
    pub proven: Option<Duration>,
    /// The shortest silence after which it did not, twice in a row. None: unknown.
    pub disproven: Option<Duration>,
    /// How often, since the start, the service could not reach the device or may not have been able to: its packets
    /// stayed without an answer, the device's address changed, or a heartbeat was not answered.
    pub misses: u64,
    /// How often, since the start, the address from which the service sees the device changed while it was on the same
    /// network.
    pub rebindings: u64,
    /// The silence that is being tried, if one is.
    pub trying: Option<Duration>,
    /// Whether a measurement runs ([`Device::measure_mapping`](super::Device::measure_mapping)).
    pub measuring: bool,
}

/// What a device knows of its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConnectionReport {
    /// The address of the service that it goes to.
    pub service: SocketAddr,
    /// The smoothed round-trip time, once measured.
    pub round_trip: Option<Duration>,
    /// How often the device speaks, why, and how long the network remembers a silent socket.
    pub keepalive: KeepaliveReport,
}

impl Device {
    /// What is known of the connection; none: there is none at present.
    pub fn connection_report(&self) -> Option<ConnectionReport> {
        let (_, service) = self.socket_pair().filter(|_| self.state != ConnectionState::Connecting)?;
        let (round_trip, keepalive) = (self.stats().round_trip, self.keepalive());
        Some(ConnectionReport { service, round_trip, keepalive })
    }
}

/// How far a device is in finding out how long the network remembers a silent socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum MappingProgress {
    /// A socket is about to be silent for so long.
    Trying {
        /// The silence.
        silence: Duration,
        /// How long it takes until that is known, about.
        takes: Duration,
    },
    /// The network still knew it.
    Remembered {
        /// The silence.
        silence: Duration,
    },
    /// Nothing came back. That may have been chance: it is tried once more.
    Again {
        /// The silence.
        silence: Duration,
    },
    /// The network knew it no more, twice.
    Forgotten {
        /// The silence.
        silence: Duration,
    },
    /// A measurement is over ([`Device::measure_mapping`](super::Device::measure_mapping)).
    Ended(MappingEnd),
}

/// How a measurement ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum MappingEnd {
    /// All that can be known is known.
    Complete,
    /// The host opened no socket for it.
    NoSocket,
    /// No answer came to the socket even without a silence.
    NoAnswer,
    /// The service answers no probes.
    NotOffered,
    /// The service refused it.
    Refused(Code),
    /// The machine went to another network.
    Interrupted,
    /// The machine slept during a silence, and may not have heard the answer.
    Asleep,
    /// The device is closed for good: by the application, or as another connection of it took over, which the
    /// [`Aborted`](super::DeviceEvent::Aborted) that follows says.
    Closed,
}
