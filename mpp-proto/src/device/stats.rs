//! What a device counts.

use core::time::Duration;

use crate::path::DropReason;

/// Counters since the start of a device; `waiting` and the last three are gauges.
///
/// Every event with a payload that came in a complete Notify ends in exactly one place (SPEC.md, "Conservation"):
///
/// ```text
/// events = given + expired + repeated + unapplied + waiting
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct DeviceStats {
    /// Packets handed out for sending.
    pub packets_sent: u64,
    /// Their bytes.
    pub bytes_sent: u64,
    /// Packets received that were authentic or answered something.
    pub packets_received: u64,
    /// Their bytes.
    pub bytes_received: u64,
    /// Datagrams dropped, by [`DropReason`].
    pub dropped: [u64; DropReason::COUNT],
    /// Authentic packets that had come before.
    pub duplicates: u64,
    /// Packets not kept because the application takes its notifications too slowly, or because too many datagrams
    /// were incomplete. The service sends them again.
    pub refused: u64,
    /// Events with a payload that came in complete Notifies.
    pub events: u64,
    /// Events that the application was given.
    pub given: u64,
    /// Events that expired on their way, or while they waited for the application.
    pub expired: u64,
    /// Events that had come before.
    pub repeated: u64,
    /// Events of Notifies that were not applied, for want of room or of what came before. The service sends them
    /// again.
    pub unapplied: u64,
    /// Events that wait for the application.
    pub waiting: u64,
    /// Notify datagrams received completely.
    pub notifies: u64,
    /// Connections made.
    pub connects: u64,
    /// Heartbeats sent, repetitions included.
    pub heartbeats: u64,
    /// Requests made by Web.
    pub web_requests: u64,
    /// Those that ended without anything authentic: cut, refused, or answered by somebody else.
    pub web_failures: u64,
    /// The smoothed round-trip time, once measured.
    pub round_trip: Option<Duration>,
    /// Bytes of datagrams of which not all packets have come: at most 64 × (packet size − 43), which is 74,048 at 1200
    /// (SPEC.md, sections 8 and 18).
    pub partial_bytes: usize,
    /// Bytes of memory taken for putting datagrams together, spare buffers included: at most 2.5 times as many.
    pub partial_memory: usize,
}

impl DeviceStats {
    /// Whether every event that came is explained: it is a mistake in this crate if not.
    pub const fn is_conserved(&self) -> bool {
        self.events == self.given + self.expired + self.repeated + self.unapplied + self.waiting
    }

    /// How many datagrams were dropped for this reason.
    pub fn dropped_for(&self, reason: DropReason) -> u64 {
        self.dropped.get(reason as usize).copied().unwrap_or(0)
    }
}
