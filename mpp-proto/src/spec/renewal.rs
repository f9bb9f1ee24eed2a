//! What SPEC.md demands of a device that agrees on new keys while its connection goes on, asked by a service that was
//! made by hand.

use std::vec;
use std::vec::Vec;

use core::time::Duration;

use super::host::{EPOCH, Host, Side};
use crate::channel::{Notification, NotificationKind};
use crate::device::{ConnectionState, DeviceEvent, DisconnectReason, LinkState};
use crate::ids::{Epoch, Serial, StoreId, StoreSet};
use crate::path::{Disposition, LinkId};
use crate::wire::Code;

fn secs(s: u64) -> Duration {
    Duration::from_secs(s)
}

fn is_step1(packet: &[u8]) -> bool {
    packet.len() >= 1200 && packet.starts_with(&[0; 16])
}

impl Host {
    /// A connection whose keys are due, and the step 1 that the device sends for the next ones.
    fn worn() -> (Self, Vec<u8>) {
        let mut host = Self::new();
        host.refresh_after = secs(60);
        host.connect();
        host.refresh_after = secs(86_400);
        let step1 = host.next_step1();
        (host, step1)
    }

    /// Answers heartbeats until the device sends step 1.
    fn next_step1(&mut self) -> Vec<u8> {
        loop {
            let (_, packet) = self.next();
            if is_step1(&packet) {
                self.events.clear();
                return packet;
            }
            if self.request(&packet).is_some() {
                self.status(&packet);
            }
        }
    }

    /// The same with the exchange answered: the old side, and the first packet over the new one.
    fn confirming() -> (Self, Side, Vec<u8>) {
        let (mut host, step1) = Self::worn();
        let old = host.side();
        assert_eq!(host.answer(&step1), Disposition::Accepted);
        let mut sent = host.take();
        assert_eq!(sent.len(), 1);
        assert!(host.request(&sent[0]).is_some(), "a Heartbeat, with the new keys");
        (host, old, sent.remove(0))
    }

    /// Answers step 1, and the Heartbeat that follows; what the device sends then.
    fn complete(&mut self, step1: &[u8]) -> Vec<Vec<u8>> {
        assert_eq!(self.answer(step1), Disposition::Accepted);
        let beat = self.take().remove(0);
        self.status(&beat);
        self.take()
    }

    fn deliver(&mut self, serial: u64) {
        let (header, message) = self.notify(serial);
        self.send(&header, &[], &message);
    }

    /// What the application was told of its connection.
    fn told(&self) -> Vec<&DeviceEvent> {
        let silent = |e: &&DeviceEvent| {
            !matches!(
                e,
                DeviceEvent::OpenLink { .. } | DeviceEvent::CloseLink(_) | DeviceEvent::Resolve { .. }
            )
        };
        self.events.iter().filter(silent).collect()
    }

    fn is_renewed(&self) -> bool {
        matches!(self.told()[..], [DeviceEvent::KeysRenewed(_)])
    }

    fn disconnected(&self) -> Option<DisconnectReason> {
        self.events.iter().find_map(|e| match e {
            DeviceEvent::Disconnected { reason, .. } => Some(*reason),
            _ => None,
        })
    }
}

// SPEC: R-refresh-beside
#[test]
fn the_connection_goes_on_until_the_service_is_heard_over_the_new_one() {
    let (mut host, mut old, beat) = Host::confirming();
    // Data of the old connection is taken, and acknowledged over it.
    host.over(&mut old, |host| {
        host.deliver(1);
        assert_eq!(host.acks().len(), 1);
    });
    // That the service closes the old one is no news.
    host.over(&mut old, |host| host.close(Code::CONFLICT, Duration::ZERO));
    host.take();
    assert!(host.told().is_empty(), "{:?}", host.events);
    assert_eq!(host.device.state(), ConnectionState::Connected);
    host.status(&beat);
    // Made anew for the new connection, it is the same event.
    host.deliver(1);
    host.deliver(2);
    host.take();
    assert!(host.is_renewed(), "{:?}", host.events);
    assert_eq!(host.given(), [1, 2]);
    assert_eq!(host.device.resume().position(), Serial(2));
    assert_eq!(host.device.stats().connects, 2);
    // The old one is foreign now.
    let late = host.over(&mut old, |host| {
        let (header, message) = host.notify(3);
        host.seal(&header, &[], &message)
    });
    assert_eq!(host.put(&late), Disposition::NotForUs);
}

// SPEC: R-refresh-beside
#[test]
fn heartbeats_and_requests_go_on_over_the_old_connection_meanwhile() {
    let (mut host, _) = Host::worn();
    host.device.query_endpoint(host.now).unwrap();
    let sent = host.take();
    assert!(sent.iter().any(|p| host.open(p).is_some_and(|o| o.ty() == 11)), "asked at once");
    let (mut host, _) = Host::worn();
    // Nobody answers the attempt; the connection does not suffer, and the next attempts keep their distance.
    let mut attempts = vec![host.now];
    let end = host.now + secs(600);
    while host.now < end {
        let (at, packet) = host.next();
        if host.request(&packet).is_some() {
            host.status(&packet);
        } else if is_step1(&packet) && at.since(*attempts.last().unwrap()) > secs(10) {
            attempts.push(at);
        }
    }
    assert!((8..40).contains(&attempts.len()), "{attempts:?}");
    assert_eq!(host.disconnected(), None);
    assert_eq!(host.device.state(), ConnectionState::Connected);
    let failed = |e: &&DeviceEvent| matches!(e, DeviceEvent::AttemptFailed { .. });
    assert_eq!(host.events.iter().find(failed), None, "the application has nothing to know");
}

// SPEC: R-refresh-beside
#[test]
fn a_refused_replacement_hurts_nobody_and_waits() {
    let (mut host, step1) = Host::worn();
    let _ = host.refuse(&step1, Code::UNAVAILABLE);
    let refused = host.now;
    let again = host.next_step1();
    assert!(host.now.since(refused) < secs(5) && again != step1);
    let _ = host.refuse(&again, Code::TICKET_EXPIRED);
    host.take();
    assert!(matches!(host.told()[..], [DeviceEvent::RenewTicket { code: Code::TICKET_EXPIRED }]));
    let refused = host.now;
    host.next_step1();
    assert!((secs(700)..=secs(900)).contains(&host.now.since(refused)));
    assert_eq!(host.device.state(), ConnectionState::Connected);
}

/// Whatever ends the old connection, the new one takes over, and the application is told what it has to know.
#[test]
fn a_running_attempt_takes_over_from_a_connection_that_ends() {
    // A reset.
    let (mut host, step1) = Host::worn();
    let reset = |token: [u8; 16]| [vec![0xaa; 24], token.to_vec()].concat();
    let _ = host.put(&reset(host.reset_token()));
    host.take();
    assert_eq!(host.disconnected(), Some(DisconnectReason::Reset));
    host.complete(&step1);
    assert!(matches!(host.told().last(), Some(DeviceEvent::Connected(_))), "{:?}", host.events);

    // Close 408.
    let (mut host, step1) = Host::worn();
    host.close(Code::TIMEOUT, Duration::ZERO);
    host.take();
    assert_eq!(host.disconnected(), Some(DisconnectReason::ByService(Code::TIMEOUT)));
    assert_eq!(host.answer(&step1), Disposition::Accepted, "the same attempt");

    // Nothing comes any more: the attempt ends, and the next one is alone.
    let (mut host, _) = Host::worn();
    host.run(secs(60));
    assert_eq!(host.disconnected(), Some(DisconnectReason::TimedOut));

    // Another device: this one stops, whatever it was doing.
    let (mut host, _) = Host::worn();
    host.close(Code::CONFLICT, Duration::ZERO);
    host.take();
    assert_eq!(host.events.last(), Some(&DeviceEvent::Aborted(DisconnectReason::Superseded)));

    // A service that sends devices away for a while means the attempt too.
    let (mut host, step1) = Host::worn();
    host.close(Code::UNAVAILABLE, secs(30));
    assert_eq!(host.answer(&step1), Disposition::NotForUs);
    assert!(host.next_attempt() >= secs(30));
}

#[test]
fn a_connection_with_new_keys_takes_over_from_one_that_ends() {
    let reset = |token: [u8; 16]| [vec![0xaa; 24], token.to_vec()].concat();
    // A reset of the old one: the service has forgotten it, as it should.
    let (mut host, _, beat) = Host::confirming();
    let _ = host.put(&reset(super::host::RESET));
    host.status(&beat);
    host.take();
    assert!(host.is_renewed(), "{:?}", host.events);

    // A reset of the new one: it was not confirmed in time. The old one goes on.
    let (mut host, mut old, _) = Host::confirming();
    let _ = host.put(&reset(host.reset_token()));
    host.over(&mut old, |host| {
        host.deliver(1);
        assert!(is_step1(&host.next_step1()));
    });
    assert_eq!(host.given(), [1]);
    assert_eq!(host.told(), Vec::<&DeviceEvent>::new());

    // Close 408 of the old one.
    let (mut host, mut old, beat) = Host::confirming();
    host.over(&mut old, |host| host.close(Code::TIMEOUT, Duration::ZERO));
    host.status(&beat);
    host.take();
    assert_eq!(host.disconnected(), Some(DisconnectReason::ByService(Code::TIMEOUT)));
    assert!(matches!(host.told().last(), Some(DeviceEvent::Connected(_))), "{:?}", host.events);
}

/// The heartbeats of the new connection reach the service, but no answer the device; it has given up the new one when the
/// Close of the old one comes.
// SPEC: R-own-successor
#[test]
fn a_close_by_the_devices_own_newer_connection_does_not_stop_it() {
    let (mut host, mut old, _) = Host::confirming();
    host.over(&mut old, |host| {
        let end = host.now + secs(12);
        while host.now < end {
            let (_, packet) = host.next();
            if host.request(&packet).is_some() {
                host.status(&packet);
            }
        }
        host.close(Code::CONFLICT, Duration::ZERO);
        host.take();
        assert!(!host.device.is_drained());
        assert_eq!(host.disconnected(), Some(DisconnectReason::ByService(Code::CONFLICT)));
    });
    // If another device has the place, the next connection shows it.
    let step1 = host.next_step1();
    host.complete(&step1);
    host.close(Code::CONFLICT, Duration::ZERO);
    assert!(host.device.is_drained());
}

#[test]
fn a_change_of_network_in_the_middle_begins_the_exchange_anew_or_takes_it_along() {
    let (mut host, step1) = Host::worn();
    host.device.handle_network_change(host.now, None);
    let sent = host.take();
    assert_eq!(host.answer(&step1), Disposition::NotForUs, "its answer would have gone to the old network");
    assert!(sent.iter().any(|p| is_step1(p)) && sent.iter().any(|p| host.open(p).is_none()));
    assert_eq!(host.disconnected(), None);

    let (mut host, mut old, _) = Host::confirming();
    host.device.handle_network_change(host.now, None);
    let sent = host.take();
    assert!(sent.len() == 2 && sent.iter().all(|p| p.len() == 1200), "a heartbeat over each");
    let beat = sent.into_iter().find(|p| host.request(p).is_some()).unwrap();
    host.over(&mut old, |host| host.close(Code::CONFLICT, Duration::ZERO));
    host.status(&beat);
    host.take();
    assert!(host.is_renewed(), "{:?}", host.events);
}

#[test]
fn a_link_that_is_lost_takes_both_with_it() {
    for confirming in [false, true] {
        let (mut host, ..) = if confirming {
            let (host, _, beat) = Host::confirming();
            (host, beat)
        } else {
            Host::worn()
        };
        host.device.handle_link(host.now, LinkId(0), LinkState::Failed);
        let sent = host.take();
        assert!(sent.len() == 1 && is_step1(&sent[0]));
        assert_eq!(host.disconnected(), Some(DisconnectReason::LinkLost));
    }
}

/// The service has confirmed the new connection already, or will with this packet.
#[test]
fn a_farewell_in_the_middle_goes_out_over_the_newest_connection() {
    let (mut host, mut old, _) = Host::confirming();
    host.device.close(host.now);
    let sent = host.take();
    assert_eq!(host.open(&sent[0]).unwrap().close.map(|(code, _)| code), Some(Code::CLOSED));
    assert!(host.over(&mut old, |host| host.open(&sent[0]).is_none()));
    host.close(Code::CLOSED, Duration::ZERO);
    assert!(host.device.is_drained());

    let (mut host, _) = Host::worn();
    host.device.close(host.now);
    let sent = host.take();
    assert_eq!(host.open(&sent[0]).unwrap().close.map(|(code, _)| code), Some(Code::CLOSED));
}

/// What the answer says of lost events was true at the position of Connect. What the old connection has brought since
/// is not lost; what no position holds for is.
// SPEC: R-refresh-gaps
#[test]
fn gaps_are_announced_by_what_has_been_received_when_the_new_connection_begins() {
    let (mut host, step1) = Host::worn();
    host.deliver(1);
    host.acks();
    host.lost = StoreSet::EMPTY.with(StoreId::INBOUND);
    host.complete(&step1);
    let given: Vec<_> = core::iter::from_fn(|| host.device.poll_notification(host.now)).collect();
    assert!(matches!(
        given[..],
        [Notification { kind: NotificationKind::Event { serial: Serial(1), .. }, .. }]
    ));
    assert_eq!(host.device.resume().position(), Serial(1), "it does not go back");

    // Another history: everything is lost, as with any other connection.
    let (mut host, step1) = Host::worn();
    host.deliver(1);
    host.acks();
    host.epoch = Epoch([6; 8]);
    assert_ne!(host.epoch, EPOCH);
    host.complete(&step1);
    let given: Vec<_> = core::iter::from_fn(|| host.device.poll_notification(host.now)).collect();
    let is_gap = |kind: &NotificationKind| matches!(kind, NotificationKind::Gap(s) if *s == StoreSet::ALL);
    assert!(given.iter().any(|n| is_gap(&n.kind)));
    assert_eq!((host.device.resume().epoch(), host.device.resume().position()), (host.epoch, Serial::ZERO));
}

/// The old connection might apply a filter that the new one's exchange does not carry.
// SPEC: R-refresh-subscribe
#[test]
fn a_subscription_in_the_middle_waits_for_the_new_connection() {
    let (mut host, step1) = Host::worn();
    let filter = StoreSet::EMPTY.with(StoreId::INBOUND);
    host.device.subscribe(host.now, filter).unwrap();
    assert!(host.take().is_empty());
    let sent = host.complete(&step1);
    assert!(sent.iter().any(|p| host.open(p).is_some_and(|o| o.ty() == 7)), "over the new one");

    // Without an answer to the attempt it goes out over the old one before the next attempt.
    let (mut host, step1) = Host::worn();
    host.device.subscribe(host.now, filter).unwrap();
    loop {
        let (_, packet) = host.next();
        assert!(!is_step1(&packet) || packet == step1);
        if host.request(&packet).is_some() {
            host.status(&packet);
        }
        if host.open(&packet).is_some_and(|o| o.ty() == 7) {
            break;
        }
    }
}

/// A serial so high that no service would take it is not adopted, nor ever sent.
// SPEC: R-serial-bound
#[test]
fn a_serial_beyond_the_highest_is_not_adopted() {
    for (named, next) in [(HIGHEST - 1, Some(HIGHEST)), (HIGHEST, Some(HIGHEST)), (HIGHEST + 1, None)] {
        let mut host = Host::new();
        let step1 = host.take().remove(0);
        let _ = host.refuse_with(&step1, Code::CONFLICT, Some(named));
        let step1 = host.next_step1();
        let serial = host.connect_serial(&step1);
        assert!(serial < 1 << 47);
        assert_eq!(Some(serial).filter(|serial| *serial > HIGHEST / 2), next, "after {named}");
    }
}

/// Neither a clock in the far future nor what was kept of it, by a version that knew no bound, locks a device out.
// SPEC: R-serial-bound
#[test]
fn a_clock_beyond_the_highest_serial_counts_as_that() {
    let mut host = Host::new();
    host.device.set_clock(host.now, crate::UnixTime::from_millis(1 << 60));
    let step1 = host.take().remove(0);
    let _ = host.refuse(&step1, Code::UNAVAILABLE);
    for _ in 0..2 {
        let step1 = host.next_step1();
        assert_eq!(host.connect_serial(&step1), HIGHEST);
        let _ = host.refuse(&step1, Code::UNAVAILABLE);
        host.device.set_clock(host.now, crate::UnixTime::from_millis(1));
    }
}

/// The highest connect serial that a service takes.
const HIGHEST: u64 = (1 << 47) - 1;

// SPEC: R-nonce-unique
#[test]
fn no_nonce_is_used_twice_over_either_connection() {
    let (mut host, step1) = Host::worn();
    let mut old = host.side();
    let (mut old_numbers, mut new_numbers) = (Vec::new(), Vec::new());
    for round in 0..40 {
        host.now = host.now + secs(1);
        if round == 8 {
            assert_eq!(host.answer(&step1), Disposition::Accepted);
        }
        if round % 10 == 3 && round > 10 {
            host.device.handle_network_change(host.now, None);
        }
        let _ = host.device.query_endpoint(host.now);
        for packet in host.take() {
            if let Some(opened) = host.over(&mut old, |host| host.open(&packet)) {
                old_numbers.push(opened.header.number);
            } else if let Some(opened) = host.open(&packet) {
                new_numbers.push(opened.header.number);
                if round > 9 && host.request(&packet).is_some() {
                    host.status(&packet);
                }
            }
        }
    }
    for numbers in [old_numbers, new_numbers] {
        assert!(numbers.len() > 5 && numbers.is_sorted_by(|a, b| a < b), "{numbers:?}");
    }
}
