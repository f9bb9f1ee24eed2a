//! A service on the virtual network, and the account book of what it sends to whom.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use mpp_proto::{
    AccountHead, AccountId, Datagram, Disposition, Epoch, Instant, LinkId, Path, Progress, Service,
    ServiceConfig, ServiceEvent, TransmitBatch, WebId,
};

use super::boxes::Boxes;
use super::device::DeviceNode;
use super::trouble::Skew;
use super::{Addresses, Spot};
use crate::network::{Network, Packet, RouteId};

/// Timers handled in one call: small, so that the "there is more" path is taken often.
const TIMERS: NonZeroUsize = NonZeroUsize::new(16).unwrap();
/// With more records than this the books are checked once in a while only.
const CROWD: u64 = 64;
const AUDIT_EVERY: Duration = Duration::from_secs(10);
/// Packets that a service is given at once.
pub(super) const BATCH: usize = 32;

/// Bytes of UDP payload over one path. A path counts as validated once the service says that a device is connected
/// over it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Ledger {
    received: u64,
    sent: u64,
    validated: bool,
}

impl Ledger {
    /// Books `bytes` going out; `false` if that is more than 3 times what came in.
    fn send(&mut self, bytes: usize) -> bool {
        self.sent += bytes as u64;
        self.validated || self.sent <= 3 * self.received
    }
}

pub(super) struct ServiceNode {
    pub(super) index: u32,
    pub(super) machine: Option<Service>,
    pub(super) config: Arc<ServiceConfig>,
    /// By link number.
    pub(super) addresses: Vec<SocketAddr>,
    /// The heads of its channels when it was last stopped, as its host's durable store has them.
    pub(super) heads: Vec<AccountHead>,
    /// The epochs in that store: those with which channels were restored, and those that the host was told of since.
    pub(super) epochs: BTreeMap<AccountId, Epoch>,
    /// `None`: it keeps none.
    pub(super) log: Option<Vec<(Instant, ServiceEvent)>>,
    pub(super) ledger: BTreeMap<SocketAddr, Ledger>,
    pub(super) batch: TransmitBatch,
    pub(super) lives: u64,
    pub(super) timer: Option<Instant>,
    pub(super) wakes: (Instant, u32),
    /// How often it was woken for a deadline.
    pub(super) woken: u64,
    /// How far its civil clock is off.
    pub(super) skew: Skew,
    /// When its books were checked last.
    pub(super) audited: Instant,
}

/// What a service touches in its world while it runs.
pub(super) struct Around<'a> {
    pub(super) network: &'a mut Network,
    pub(super) devices: &'a [DeviceNode],
    pub(super) addresses: &'a Addresses,
    pub(super) boxes: &'a Boxes,
    pub(super) stray: RouteId,
}

impl ServiceNode {
    /// Hands packets that arrived at one of its addresses to the machine, and says what became of each.
    pub(super) fn receive(&mut self, now: Instant, packets: &mut [Packet]) -> Vec<Disposition> {
        let mut dispositions = Vec::new();
        let Some(machine) = &mut self.machine else { return dispositions };
        let before: Vec<_> = packets.iter().map(|p| p.payload.clone()).collect();
        let mut batch: Vec<_> = packets
            .iter_mut()
            .map(|p| {
                self.ledger.entry(p.from).or_default().received += p.payload.len() as u64;
                let link = self.addresses.iter().position(|a| *a == p.to).unwrap_or_default();
                Datagram { path: Path::new(LinkId(link as u16), p.from), payload: &mut p.payload }
            })
            .collect();
        machine.handle_datagrams(now, &mut batch, &mut dispositions);
        assert_eq!(
            dispositions.len(),
            packets.len(),
            "service {}: one disposition for each packet",
            self.index
        );
        for ((packet, before), disposition) in packets.iter().zip(before).zip(&dispositions) {
            assert!(
                matches!(disposition, Disposition::Accepted) || before == packet.payload,
                "contract rule 5: service {} changed a packet that it did not accept: {disposition:?}",
                self.index
            );
        }
        dispositions
    }

    /// Runs the machine until it has nothing more to say; returns its answers to Web requests.
    ///
    /// # Panics
    /// If it sends more than 3 times what it got to a path that it has not validated.
    pub(super) fn pump(&mut self, now: Instant, around: &mut Around<'_>) -> Vec<(WebId, Vec<u8>)> {
        let mut answers = Vec::new();
        let Some(machine) = &mut self.machine else { return answers };
        for round in 0.. {
            assert!(round < 1_000_000, "service {} never comes to rest at {now:?}", self.index);
            let mut busy = false;
            while let Some(event) = machine.poll_event() {
                busy = true;
                if let ServiceEvent::Connected { path, .. } | ServiceEvent::Moved { path, .. } = event {
                    self.ledger.entry(path.remote).or_default().validated = true;
                }
                if let ServiceEvent::Epoch { account, epoch } = event {
                    self.epochs.insert(account, epoch);
                }
                if let Some(log) = &mut self.log {
                    log.push((now, event));
                }
            }
            self.batch.clear();
            busy |= machine.poll_transmit(now, &mut self.batch) > 0;
            for (transmit, bytes) in self.batch.iter() {
                let to = transmit.path.remote;
                let device = match around.addresses.get(&around.boxes.behind(now, to)) {
                    Some(Spot::Device(i)) => around.devices.get(*i as usize),
                    _ => None,
                };
                let book = self.ledger.entry(to).or_default();
                assert!(
                    book.send(bytes.len()),
                    "contract rule 9: service {} sent {} bytes to {to}, got {}, and has not validated it",
                    self.index,
                    book.sent,
                    book.received
                );
                let Some(from) = self.addresses.get(usize::from(transmit.path.link.0)) else {
                    panic!(
                        "service {} sends over link {:?}, which it does not have",
                        self.index, transmit.path.link
                    )
                };
                let size = transmit.segment_size.map_or(bytes.len(), |s| usize::from(s.get()));
                for part in bytes.chunks(size.max(1)) {
                    let packet = Packet { from: *from, to, payload: part.to_vec() };
                    match device {
                        Some(d) if d.is_dark(now) || d.web.udp.loses(packet.payload.len()) => {
                            around.network.send_dark(now, packet)
                        }
                        Some(d) => around.network.send(now, d.down, packet),
                        None => around.network.send(now, around.stray, packet),
                    }
                }
            }
            let mut body = Vec::new();
            while let Some(id) = machine.poll_web(now, &mut body) {
                busy = true;
                answers.push((id, body.clone()));
            }
            if !busy {
                break;
            }
        }
        answers
    }

    /// The head of a channel as the host's store has it: the service may know another epoch, if it told nobody.
    ///
    /// # Panics
    /// If the service has told of none at all.
    pub(super) fn stored(&self, head: &AccountHead) -> AccountHead {
        let epoch = self.epochs.get(&head.account).expect("the host is told of every epoch");
        AccountHead::restored(head.account, *epoch, head.newest)
    }

    /// Wakes the machine if it wants to be woken by now.
    ///
    /// # Panics
    /// If its deadline is not later than now afterwards.
    pub(super) fn wake(&mut self, now: Instant, early: bool) {
        let Some(machine) = &mut self.machine else { return };
        let is_due = machine.poll_timeout().is_some_and(|w| w.at <= now);
        self.woken += u64::from(is_due);
        if !early && !is_due {
            return;
        }
        let mut rounds = 0;
        while machine.handle_timeout(now, TIMERS) == Progress::More {
            rounds += 1;
            assert!(
                rounds < 1_000_000,
                "service {}: handle_timeout({now:?}) always says there is more",
                self.index
            );
        }
        let next = machine.poll_timeout();
        assert!(
            next.is_none_or(|w| w.at > now),
            "contract rule 1: service {} still has a deadline in the past after handle_timeout({now:?}): {next:?}",
            self.index
        );
    }

    /// Holds the service to its books: what is owed and not settled is what its devices have not been told.
    ///
    /// # Panics
    /// If an event went somewhere unexplained.
    pub(super) fn audit(&mut self, now: Instant) {
        let Some(machine) = &self.machine else { return };
        let stats = machine.stats();
        // Counting takes time for every record: in a crowd not at every step.
        if stats.records > CROWD && now < self.audited + AUDIT_EVERY {
            return;
        }
        self.audited = now;
        let (books, pending) = (stats.delivery, machine.pending());
        // Not by `outstanding`, which is zero too if an event was counted twice.
        assert_eq!(
            books.owed,
            books.settled() + pending,
            "conservation: service {} at {now:?} is not in balance: {books:?}",
            self.index
        );
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.machine.as_ref()?.poll_timeout().map(|w| w.at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ledger_refuses_the_byte_over_three_times() {
        let mut book = Ledger { received: 100, ..Ledger::default() };
        assert!(book.send(300));
        assert!(!book.send(1));
        book.validated = true;
        assert!(book.send(1000));
    }
}
