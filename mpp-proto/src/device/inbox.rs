//! Notifications between the network and the application: what was received, what the application was given, and
//! what it has dealt with.

use alloc::collections::VecDeque;

use super::config::Acknowledgement;
use super::resume::Anchor;
use crate::channel::{Notification, NotificationKind};
use crate::ids::Serial;
use crate::time::Instant;

/// Something for the application, or only a step of the position.
#[derive(Debug)]
struct Item {
    kind: Option<NotificationKind>,
    /// When an event expires: on the monotonic clock, so that no clock that is set makes it come too late or not at all.
    ends: Option<Instant>,
    /// Where the application is once it has dealt with it.
    anchor: Anchor,
}

/// What the application was given.
#[derive(Clone, Copy, Debug)]
struct Given {
    anchor: Anchor,
    is_step: bool,
}

/// The queue. Positions move in the order of the queue only, so that what is remembered across a restart never runs
/// ahead of what the application has dealt with.
#[derive(Debug)]
pub(super) struct Inbox {
    mode: Acknowledgement,
    max_events: usize,
    max_bytes: usize,
    waiting: VecDeque<Item>,
    bytes: usize,
    /// Given to the application, not dealt with yet; and steps in between, which it has not seen.
    given: VecDeque<Given>,
    /// Received: in memory here, or further.
    received: Anchor,
    /// Dealt with.
    settled: Anchor,
    /// Events with a payload that the application was given.
    pub(super) events_given: u64,
    /// Those that expired here.
    pub(super) events_expired: u64,
}

/// Notifications given out and not acknowledged that are told apart.
const MAX_GIVEN: usize = 1024;

impl Inbox {
    pub(super) const fn new(
        mode: Acknowledgement,
        max_events: usize,
        max_bytes: usize,
        anchor: Anchor,
    ) -> Self {
        Self {
            mode,
            max_events,
            max_bytes,
            waiting: VecDeque::new(),
            bytes: 0,
            given: VecDeque::new(),
            received: anchor,
            settled: anchor,
            events_given: 0,
            events_expired: 0,
        }
    }

    /// Everything up to here has been received.
    pub(super) const fn received(&self) -> &Anchor {
        &self.received
    }

    /// Everything up to here has been dealt with.
    pub(super) const fn settled(&self) -> &Anchor {
        &self.settled
    }

    /// Whether there is room for one more Notify. If not, none is kept, and the service goes on owing it.
    pub(super) fn has_room(&self) -> bool {
        self.waiting.len() < self.max_events && self.bytes < self.max_bytes && self.given.len() < MAX_GIVEN
    }

    /// Takes something for the application, or just a step; with it the position is `anchor`.
    pub(super) fn push(&mut self, kind: Option<NotificationKind>, anchor: Anchor) {
        self.insert(Item { kind, ends: None, anchor });
    }

    /// Takes an event that expires at `ends`.
    pub(super) fn push_event(&mut self, event: NotificationKind, ends: Instant, anchor: Anchor) {
        self.insert(Item { kind: Some(event), ends: Some(ends), anchor });
    }

    fn insert(&mut self, item: Item) {
        self.bytes += size(item.kind.as_ref());
        self.received = item.anchor;
        self.waiting.push_back(item);
        self.settle_steps();
    }

    /// Events with a payload that wait.
    pub(super) fn events_waiting(&self) -> u64 {
        self.waiting.iter().filter(|item| item.ends.is_some()).count() as u64
    }

    /// Whether a notification waits.
    pub(super) fn has_notification(&self) -> bool {
        self.waiting.iter().any(|item| item.kind.is_some())
    }

    /// The next notification that has not expired by `now`. In automatic mode the application has dealt with the one
    /// before it.
    pub(super) fn next(&mut self, now: Instant) -> Option<Notification> {
        if self.mode == Acknowledgement::Automatic
            && let Some(last) = self.given.pop_back()
        {
            self.given.clear();
            self.settled = last.anchor;
        }
        self.settle_steps();
        while let Some(item) = self.waiting.pop_front() {
            self.bytes -= size(item.kind.as_ref());
            let expired = item.ends.is_some_and(|ends| ends <= now);
            self.events_expired += u64::from(expired);
            self.events_given += u64::from(item.ends.is_some() && !expired);
            let kind = item.kind.filter(|_| !expired);
            self.given.push_back(Given { anchor: item.anchor, is_step: kind.is_none() });
            if let Some(kind) = kind {
                return Some(Notification { position: item.anchor.position, kind });
            }
        }
        self.settle_steps();
        None
    }

    /// The application has dealt with everything up to `position`. True if that is news.
    pub(super) fn acknowledge(&mut self, position: Serial) -> bool {
        let before = self.settled;
        // What it was given, in the order it was given. Serials of two epochs do not compare, so the exact position
        // is looked for first.
        if let Some(at) = self.given.iter().position(|g| !g.is_step && g.anchor.position == position) {
            self.settled = self.given[at].anchor;
            self.given.drain(..=at);
        } else {
            let epoch = self.given.front().map(|g| g.anchor.epoch);
            while let Some(next) = self.given.front().map(|g| g.anchor)
                && Some(next.epoch) == epoch
                && next.position <= position
            {
                self.given.pop_front();
                self.settled = next;
            }
        }
        self.settle_steps();
        self.settled != before
    }

    /// Steps without a notification are dealt with once everything before them is.
    fn settle_steps(&mut self) {
        while let Some(Given { anchor, is_step: true }) = self.given.front() {
            self.settled = *anchor;
            self.given.pop_front();
        }
        while self.given.is_empty()
            && let Some(Item { kind: None, anchor, .. }) = self.waiting.front()
        {
            self.settled = *anchor;
            self.waiting.pop_front();
        }
    }
}

fn size(kind: Option<&NotificationKind>) -> usize {
    match kind {
        Some(NotificationKind::Event { payload, .. }) => payload.len(),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{Epoch, StoreSet};
    use std::vec::Vec;

    fn anchor(epoch: u8, position: u64) -> Anchor {
        Anchor { epoch: Epoch([epoch; 8]), position: Serial(position), covered: StoreSet::ALL }
    }

    fn inbox(mode: Acknowledgement) -> Inbox {
        Inbox::new(mode, 4, 100, anchor(1, 0))
    }

    fn changed() -> Option<NotificationKind> {
        Some(NotificationKind::Changed(StoreSet::ALL))
    }

    #[test]
    fn asking_for_the_next_settles_the_last() {
        let mut inbox = inbox(Acknowledgement::Automatic);
        inbox.push(changed(), anchor(1, 5));
        inbox.push(None, anchor(1, 6));
        inbox.push(changed(), anchor(1, 7));
        assert_eq!(inbox.received().position, Serial(7));
        assert_eq!(inbox.next(Instant::ZERO).unwrap().position, Serial(5));
        assert_eq!(inbox.settled().position, Serial(0), "it may still be at it");
        assert_eq!(inbox.next(Instant::ZERO).unwrap().position, Serial(7));
        assert_eq!(inbox.settled().position, Serial(6), "the step between counts with what came before it");
        assert_eq!(inbox.next(Instant::ZERO), None);
        assert_eq!(inbox.settled().position, Serial(7));
    }

    #[test]
    fn by_hand_nothing_moves_until_it_is_said() {
        let mut inbox = inbox(Acknowledgement::Manual);
        for position in 1..=3 {
            inbox.push(changed(), anchor(1, position));
        }
        let given: Vec<_> = core::iter::from_fn(|| inbox.next(Instant::ZERO)).map(|n| n.position.0).collect();
        assert_eq!(given, [1, 2, 3]);
        assert_eq!(inbox.settled().position, Serial(0));
        assert!(inbox.acknowledge(Serial(2)));
        assert_eq!(inbox.settled().position, Serial(2));
        assert!(!inbox.acknowledge(Serial(2)));
        inbox.push(None, anchor(1, 9));
        assert_eq!(inbox.settled().position, Serial(2), "3 has not been dealt with");
        assert!(inbox.acknowledge(Serial(3)));
        assert_eq!(inbox.settled().position, Serial(9));
    }

    #[test]
    fn a_new_epoch_is_entered_only_with_its_gap() {
        let mut inbox = inbox(Acknowledgement::Manual);
        inbox.push(changed(), anchor(1, 57));
        inbox.push(Some(NotificationKind::Gap(StoreSet::ALL)), anchor(2, 0));
        inbox.push(changed(), anchor(2, 1));
        while inbox.next(Instant::ZERO).is_some() {}
        assert!(inbox.acknowledge(Serial(57)));
        assert_eq!(*inbox.settled(), anchor(1, 57));
        assert!(inbox.acknowledge(Serial(0)));
        assert_eq!(*inbox.settled(), anchor(2, 0));
        assert!(inbox.acknowledge(Serial(1)));
        assert_eq!(*inbox.settled(), anchor(2, 1));
    }

    #[test]
    fn room_ends_with_the_number_and_with_the_bytes() {
        let mut inbox = inbox(Acknowledgement::Manual);
        for position in 1..=4 {
            assert!(inbox.has_room());
            inbox.push(changed(), anchor(1, position));
        }
        assert!(!inbox.has_room());
        inbox.next(Instant::ZERO);
        assert!(inbox.has_room());
        let payload = bytes::Bytes::from_static(&[0; 100]);
        let (serial, store) = (Serial(5), crate::ids::StoreId::INBOUND);
        let expires = crate::time::UnixTime::EPOCH;
        inbox.next(Instant::ZERO);
        let event = NotificationKind::Event { serial, store, expires, key: None, payload };
        inbox.push_event(event, Instant::from_micros(1), anchor(1, 5));
        assert!(!inbox.has_room());
    }

    #[test]
    fn what_expires_while_it_waits_is_not_given() {
        let mut inbox = inbox(Acknowledgement::Manual);
        for (serial, ends) in [(1, 1000), (2, 1001)] {
            let event = NotificationKind::Event {
                serial: Serial(serial),
                store: crate::ids::StoreId::INBOUND,
                expires: crate::time::UnixTime::EPOCH,
                key: None,
                payload: bytes::Bytes::new(),
            };
            inbox.push_event(event, Instant::from_micros(ends), anchor(1, serial));
        }
        assert_eq!(inbox.events_waiting(), 2);
        assert_eq!(inbox.next(Instant::from_micros(1000)).unwrap().position, Serial(2));
        assert_eq!((inbox.events_given, inbox.events_expired, inbox.events_waiting()), (1, 1, 0));
    }
}
