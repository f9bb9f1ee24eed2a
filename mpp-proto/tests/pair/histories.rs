//! Channels whose history was lost: what of the old one may not be taken for the new one, and what the host has to know.

use std::time::Duration;

use bytes::Bytes;
use mpp_proto::*;

use crate::harness::{ACCOUNT, Pair, is_connected};
use crate::web::Http;

const SECOND: Duration = Duration::from_secs(1);

fn event(text: &'static str) -> Event {
    Event::with_payload(StoreId::INBOUND, Bytes::from_static(text.as_bytes()))
}

/// The payloads that the application was given; the rest is gaps.
fn payloads(pair: &mut Pair) -> Vec<Bytes> {
    let payload = |n: Notification| match n.kind {
        NotificationKind::Event { payload, .. } => Some(payload),
        _ => None,
    };
    pair.take().into_iter().filter_map(payload).collect()
}

// SPEC: R-mark-of-epoch
/// The service has lost its history, and the new one has grown to where the device was in the old one. It comes back by UDP;
/// or by Web, beside the connection that it still counts on.
#[test]
fn a_mark_of_another_history_is_none_in_this_one() {
    for web in [false, true] {
        let mut pair = Pair::new();
        pair.http = web.then(Http::default);
        pair.run(SECOND);
        for _ in 0..3 {
            pair.publish(event("old"));
            pair.run(SECOND);
        }
        assert_eq!(payloads(&mut pair), ["old"; 3]);
        pair.restart_service();
        pair.cut = web;
        pair.service.restore(AccountHead::new(AccountId::of(ACCOUNT))).unwrap();
        for _ in 0..3 {
            pair.publish(event("new"));
        }
        pair.events.clear();
        while pair.service.stats().connected == 0 {
            pair.run(Duration::from_millis(10));
        }
        let mut positions = Vec::new();
        pair.service.drain_positions(10, |_, _, _, position| positions.push(position));
        assert_eq!(positions, [], "it has nothing yet");
        pair.run(Duration::from_millis(500));
        assert_eq!(payloads(&mut pair), ["new"; 3], "at once, by Web: {web}");
        let books = pair.service.stats().delivery;
        assert_eq!((books.delivered, books.confirmed), (3, 0), "by Web: {web}");
        assert_eq!(is_connected(&pair.events), !web, "{:?}", pair.events);
    }
}

/// The epochs that the host was told of since it last asked.
fn epochs(pair: &mut Pair) -> Vec<(AccountId, Epoch)> {
    let epoch = |e| match e {
        ServiceEvent::Epoch { account, epoch } => Some((account, epoch)),
        _ => None,
    };
    std::mem::take(&mut pair.service_events).into_iter().filter_map(epoch).collect()
}

fn head(pair: &Pair) -> (AccountId, Epoch) {
    let head = pair.service.head(&AccountId::of(ACCOUNT)).unwrap();
    (head.account, head.epoch.unwrap())
}

// SPEC: R-epoch-told
#[test]
fn the_host_is_told_of_each_epoch_that_the_service_draws() {
    let mut pair = Pair::new();
    pair.run(SECOND);
    // A device has opened the channel.
    assert!(matches!(pair.service_events[..], [ServiceEvent::Epoch { .. }, ServiceEvent::Connected { .. }]));
    assert_eq!(epochs(&mut pair), [head(&pair)]);
    // So has the host, with a history and without.
    let bob = AccountId::of("bob");
    pair.service.restore(AccountHead::restored(bob, Epoch([7; 8]), Serial(9))).unwrap();
    pair.service.restore(AccountHead::new(AccountId::of("carol"))).unwrap();
    pair.service.restore(AccountHead::new(AccountId::of("carol"))).unwrap();
    pair.run(SECOND);
    let told = epochs(&mut pair);
    assert!(matches!(told[..], [(carol, _)] if carol == AccountId::of("carol")), "{told:?}");
}

// SPEC: R-epoch-told, R-epoch-durable
/// A host that keeps its log is put back to a backup, and a device shows that. The host writes on, is started again, and
/// restores what it was told. Another device was away all the while.
#[test]
fn a_host_that_heeds_the_epoch_loses_nothing_in_silence() {
    let account = AccountId::of(ACCOUNT);
    let (mut pair, epoch) = (Pair::new(), Epoch([7; 8]));
    let restore = |pair: &mut Pair, epoch, newest| {
        pair.restart_service();
        pair.service.restore(AccountHead::restored(account, epoch, Serial(newest))).unwrap();
    };
    let deliver = |pair: &mut Pair, serials: core::ops::RangeInclusive<u64>, text| {
        for serial in serials {
            pair.service.deliver(pair.now, &account, Serial(serial), event(text)).unwrap();
            pair.run(Duration::from_millis(100));
        }
    };
    restore(&mut pair, epoch, 0);
    pair.run(SECOND);
    deliver(&mut pair, 1..=12, "old");
    assert_eq!(payloads(&mut pair).len(), 12);
    let away = pair.device.resume();
    pair.service_events.clear();

    restore(&mut pair, epoch, 10);
    pair.restart_device(Some(away.clone()));
    pair.run(SECOND * 30);
    let told = epochs(&mut pair);
    assert_eq!(told, [head(&pair)]);
    assert_ne!(told[0].1, epoch);

    deliver(&mut pair, 11..=20, "new");
    restore(&mut pair, told[0].1, 10);
    deliver(&mut pair, 11..=20, "new");
    pair.restart_device(Some(away));
    pair.run(SECOND * 30);
    let got = pair.take();
    assert!(matches!(got[0].kind, NotificationKind::Gap(_)), "{got:?}");
    assert_eq!(got.iter().filter(|n| matches!(n.kind, NotificationKind::Event { .. })).count(), 10);
}
