//! What a service counts.

use core::ops::AddAssign;

use super::refusal::RefusalReason;
use crate::channel::Delivery;
use crate::path::DropReason;

/// Makes the sum of two such structs the sum of each field, so that none is forgotten.
macro_rules! summed {
    ($(#[$attribute:meta])* pub struct $name:ident { $($(#[$about:meta])* pub $field:ident: $kind:ty,)* }) => {
        $(#[$attribute])*
        pub struct $name {
            $($(#[$about])* pub $field: $kind,)*
        }

        /// Adds another shard's counters to these.
        impl AddAssign for $name {
            fn add_assign(&mut self, other: Self) {
                $(Sum::sum(&mut self.$field, other.$field);)*
            }
        }
    };
}

trait Sum {
    fn sum(&mut self, other: Self);
}

impl Sum for u64 {
    fn sum(&mut self, other: Self) {
        *self += other;
    }
}

impl Sum for Delivery {
    fn sum(&mut self, other: Self) {
        *self += other;
    }
}

impl<const N: usize> Sum for [u64; N] {
    fn sum(&mut self, other: Self) {
        self.iter_mut().zip(other).for_each(|(to, from)| *to += from);
    }
}

summed! {
/// Counters since the start of a service; the last eight are gauges.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ServiceStats {
    /// UDP datagrams and packets of Web requests received, whatever they were.
    pub packets_received: u64,
    /// Their bytes.
    pub bytes_received: u64,
    /// Packets handed out for sending.
    pub packets_sent: u64,
    /// Their bytes.
    pub bytes_sent: u64,
    /// Datagrams that were nothing of this protocol.
    pub foreign: u64,
    /// Packets that belong to another shard, and were left to be handed over to it; they count as received there.
    pub other_shard: u64,
    /// Packets that belong to another node.
    pub other_node: u64,
    /// Datagrams dropped, by [`DropReason`].
    pub dropped: [u64; DropReason::COUNT],
    /// Authentic packets that had come before.
    pub duplicates: u64,
    /// Attempts that were asked to prove their address first.
    pub deferred: u64,
    /// Attempts of ticket holders that were refused.
    pub refused: u64,
    /// Refusals of whatever ticket holders asked for, by [`RefusalReason`].
    pub refusals: [u64; RefusalReason::COUNT],
    /// Connections confirmed.
    pub connects: u64,
    /// Times a packet of a device came from elsewhere and the path was challenged.
    pub suggested: u64,
    /// Times a device was followed to another path.
    pub migrations: u64,
    /// Binding requests of STUN clients answered.
    pub bindings: u64,
    /// Connections ended because large packets did not get through any more and small ones did.
    pub shrunk: u64,
    /// Tickets given for older ones.
    pub renewed: u64,
    /// Stateless resets sent.
    pub resets: u64,
    /// Answers 409 that were due and not sent, since the device got others within the seconds before.
    pub conflicts_withheld: u64,
    /// Exchanges completed without X25519 though the device offered it, because there were too many of them.
    pub shares_left_out: u64,
    /// Resets that were due and not sent, to keep the limit on exchanges.
    pub resets_withheld: u64,
    /// Errors in clear that were due and not sent, to keep the limits on them.
    pub hints_withheld: u64,
    /// Events published.
    pub published: u64,
    /// Notify datagrams begun.
    pub notifies: u64,
    /// Notify datagrams that were completely acknowledged.
    pub notified: u64,
    /// Packets sent again.
    pub retransmitted: u64,
    /// Notifies after which a device was left in peace until it is heard again.
    pub given_up: u64,
    /// Events that a newer one with the same key replaced.
    pub superseded: u64,
    /// Events whose time to live ended in the ring.
    pub expired: u64,
    /// Events that the limits pushed out of the ring.
    pub overflowed: u64,
    /// Events pushed out because their poster, of another account, had used up its share of the ring.
    pub crowded: u64,
    /// What became of each event for each device.
    pub delivery: Delivery,
    /// Requests that came by Web.
    pub web_requests: u64,
    /// Those of them that were held until there was something to say, or their time was over.
    pub web_held_in_all: u64,
    /// Those of them that were answered at once because too many were held
    /// ([`ServiceConfig::web_requests`](super::ServiceConfig::web_requests)): these devices hear of events later.
    pub web_no_place: u64,
    /// What was to be said to devices that come by Web and was not, because they did not ask in time. They ask again.
    pub web_unsaid: u64,
    /// Posts about which the host did not decide in time.
    pub posts_expired: u64,
    /// Probes of devices that find out how long their network remembers them, taken.
    pub probes: u64,
    /// Those of them whose answer is still to come.
    pub probes_waiting: u64,
    /// Web requests that are held now.
    pub web_held: u64,
    /// Posts that wait for the host's decision.
    pub posts_waiting: u64,
    /// Devices connected.
    pub connected: u64,
    /// Exchanges answered but not confirmed.
    pub half_open: u64,
    /// Records in use, those of closing connections included.
    pub records: u64,
    /// Channels.
    pub accounts: u64,
    /// Payload bytes in all rings.
    pub ring_bytes: u64,
}
}

impl ServiceStats {
    /// How many datagrams were dropped for this reason.
    pub fn dropped_for(&self, reason: DropReason) -> u64 {
        self.dropped.get(reason as usize).copied().unwrap_or(0)
    }

    /// How much was refused for this reason.
    pub fn refused_for(&self, reason: RefusalReason) -> u64 {
        self.refusals.get(reason as usize).copied().unwrap_or(0)
    }

    pub(super) fn count_refusal(&mut self, reason: RefusalReason) {
        if let Some(counter) = self.refusals.get_mut(reason as usize) {
            *counter += 1;
        }
    }
}
