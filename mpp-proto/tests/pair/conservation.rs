//! Every event ends, for each device, in exactly one counter.

use std::time::Duration;

use bytes::Bytes;
use mpp_proto::*;

use crate::harness::{ACCOUNT, Pair, unix};

const SECOND: Duration = Duration::from_secs(1);

fn event(store: StoreId, text: &str) -> Event {
    Event::with_payload(store, Bytes::copy_from_slice(text.as_bytes()))
}

fn inbound(text: &str) -> Event {
    event(StoreId::INBOUND, text)
}

fn connected() -> Pair {
    let mut pair = Pair::new();
    pair.run(SECOND);
    pair
}

/// The books, which balance.
fn books(pair: &Pair) -> Delivery {
    let books = pair.service.stats().delivery;
    assert_eq!(books.outstanding(), pair.service.pending(), "{books:?}");
    assert_eq!(books.owed, books.settled() + pair.service.pending(), "{books:?}");
    let device = pair.device.stats();
    assert!(device.is_conserved(), "{device:?}");
    books
}

/// The device goes, and what happens `meanwhile` is there for it when it is back.
fn away(pair: &mut Pair, meanwhile: impl FnOnce(&mut Pair)) {
    let resume = pair.device.resume();
    pair.device.close(pair.now);
    pair.run(SECOND);
    assert_eq!(pair.service.stats().connected, 0);
    meanwhile(pair);
    pair.restart_device(Some(resume));
    pair.run(SECOND);
}

// SPEC: R-conserved
#[test]
fn every_way_an_event_can_go_has_its_counter() {
    let mut pair = connected();
    let only = StoreSet::EMPTY.with(StoreId::INBOUND).with(StoreId::CONTACT);
    pair.device.subscribe(pair.now, only).unwrap();
    pair.run(SECOND);

    // Delivered: a payload, and a store that changed; twice at once the second stands for both.
    pair.publish(inbound("payload"));
    pair.publish(Event::changed(StoreId::CONTACT));
    pair.run(SECOND);
    assert_eq!((books(&pair).owed, books(&pair).delivered), (2, 2));

    pair.publish(event(StoreId::OUTBOUND, "not asked for"));
    pair.publish(Event::changed(StoreId::OUTBOUND));
    pair.run(SECOND);
    assert_eq!(books(&pair).filtered, 2);

    // What waits is owed, and goes on being owed when the connection is lost.
    pair.cut = true;
    let key = CollapseKey::new(b"k").unwrap();
    pair.publish(inbound("replaced").key(key));
    pair.publish(inbound("expires").ttl(SECOND));
    pair.publish(inbound("for now").ttl(Duration::ZERO));
    pair.publish(inbound("replaces").key(key));
    assert_eq!(pair.service.pending(), 4);
    let resume = pair.device.resume();
    pair.run(Duration::from_secs(100));
    let before = books(&pair);
    assert_eq!((pair.service.stats().connected, before.abandoned, before.outstanding()), (0, 4, 0));

    // Each ends as it did while nobody was there.
    pair.cut = false;
    pair.device_filter(only);
    pair.restart_device(Some(resume));
    pair.run(SECOND);
    let after = books(&pair);
    // The device never heard of the two that were filtered: its position is before them.
    assert_eq!((after.owed - before.owed, after.filtered - before.filtered), (6, 2));
    assert_eq!((after.superseded, after.expired, after.transient), (1, 1, 1));
    assert_eq!(after.delivered - before.delivered, 1);

    // Dropped by the ring and lost by the host: both announced.
    away(&mut pair, |pair| {
        for n in 0..33 {
            pair.publish(inbound(&n.to_string()));
        }
        let newest = pair.service.head(&AccountId::of(ACCOUNT)).unwrap().newest;
        pair.service.skip(&AccountId::of(ACCOUNT), Serial(newest.0 + 5)).unwrap();
    });
    let last = books(&pair);
    assert_eq!((last.dropped, last.lost, last.delivered - after.delivered), (1, 5, 32));
    assert_eq!(last.forgotten, 0);
    assert_eq!(last.outstanding(), 0);
}

#[test]
fn what_nobody_remembers_is_said_to_be_forgotten() {
    let mut pair = connected();
    away(&mut pair, |pair| {
        for n in 0..5000 {
            pair.publish(inbound(&n.to_string()));
        }
    });
    let books = books(&pair);
    assert_eq!((books.owed, books.delivered, books.outstanding()), (5000, 32, 0));
    assert_eq!(books.forgotten + books.dropped, 4968);
    assert!(books.forgotten > 4800, "{books:?}: a channel remembers little for those who are away");
    // But whoever is connected finds out, however slow it is.
    let mut pair = connected();
    pair.busy = true;
    for n in 0..600 {
        pair.publish(inbound(&n.to_string()));
        pair.run(Duration::from_millis(100));
    }
    pair.busy = false;
    pair.run(Duration::from_secs(60));
    let books = self::books(&pair);
    assert_eq!((books.owed, books.outstanding(), books.forgotten), (600, 0, 0), "{books:?}");
    assert!(books.dropped > 400 && books.delivered > 90, "{books:?}");
}

#[test]
fn what_the_device_says_it_has_is_confirmed_and_what_it_has_not_is_owed_again() {
    let mut pair = connected();
    // Its acknowledgements are lost, and so it is as if the Notify had been.
    pair.publish(inbound("1"));
    pair.run(Duration::from_millis(1));
    pair.cut = true;
    pair.run(SECOND);
    assert_eq!((pair.device.stats().events, pair.service.pending()), (1, 1));
    let heard = pair.device.stats().heartbeats;
    // The service repeats it; the device acknowledges again, or its next heartbeat says so.
    pair.cut = false;
    pair.run(Duration::from_secs(60));
    let books = books(&pair);
    assert_eq!(books.delivered + books.confirmed, 1, "{books:?}");
    assert!(pair.device.stats().heartbeats > heard);
}

// SPEC: R-told-said
#[test]
fn what_was_filtered_costs_the_next_event_nothing() {
    let mut pair = connected();
    pair.device.subscribe(pair.now, StoreSet::EMPTY.with(StoreId::INBOUND)).unwrap();
    pair.run(SECOND);
    for n in 0..3 {
        pair.publish(event(StoreId::OUTBOUND, "filtered"));
        // Over a heartbeat, too.
        pair.run(Duration::from_secs(30));
        let (beats, owed) = (pair.device.stats().heartbeats, books(&pair).owed);
        pair.publish(inbound("asked for"));
        pair.run(Duration::from_millis(25));
        assert_eq!(pair.take().len(), 1, "within one way of 20 ms");
        pair.run(Duration::from_millis(100));
        assert_eq!(pair.device.stats().heartbeats, beats, "and nothing had to be put right");
        assert_eq!((owed, books(&pair).filtered), (2 * n + 1, n + 1), "counted once");
    }
    assert_eq!(pair.device.stats().unapplied, 0);
}

// SPEC: R-monotonic-ttl
#[test]
fn a_service_that_stands_at_2099_for_a_minute_loses_nothing() {
    let year_2099 = UnixTime::from_millis(4_070_908_800_000);
    let mut pair = connected();
    let mut expected = Vec::new();
    let mut publish = |pair: &mut Pair, text: &str| {
        expected.push(text.to_owned());
        pair.publish(inbound(text).ttl(Duration::from_secs(600)));
    };
    // It waits in the ring, and in the device's queue, and more comes before, during and after.
    pair.busy = true;
    publish(&mut pair, "in the queue");
    pair.run(SECOND);
    pair.cut = true;
    publish(&mut pair, "in the ring");
    pair.run(SECOND);
    pair.service.set_clock(pair.now, year_2099);
    publish(&mut pair, "in 2099");
    pair.cut = false;
    // The device hears what time it is said to be.
    pair.run(Duration::from_secs(60));
    publish(&mut pair, "still in 2099");
    pair.cut = true;
    pair.run(SECOND);
    pair.service.set_clock(pair.now, unix(pair.now));
    publish(&mut pair, "back");
    pair.cut = false;
    pair.run(Duration::from_millis(1500));
    pair.busy = false;
    pair.run(Duration::from_secs(30));
    let got = pair.take().into_iter().map(|n| match n.kind {
        NotificationKind::Event { payload, .. } => String::from_utf8(payload.to_vec()).unwrap(),
        other => panic!("{other:?}"),
    });
    assert_eq!(got.collect::<Vec<_>>(), expected);
    let books = books(&pair);
    assert_eq!((books.delivered, books.expired, pair.device.stats().expired), (5, 0, 0));
    assert_eq!(pair.service.stats().expired, 0);
    // Nor does a clock that goes back keep anything alive.
    pair.busy = true;
    pair.publish(inbound("short").ttl(Duration::from_secs(5)));
    pair.run(SECOND);
    pair.service.set_clock(pair.now, UnixTime::from_millis(1_000_000));
    pair.run(Duration::from_secs(30));
    pair.busy = false;
    pair.run(SECOND);
    assert_eq!((pair.take().len(), pair.device.stats().expired), (0, 1));
}

#[test]
fn a_channel_has_one_writer() {
    let mut pair = connected();
    let (account, now) = (AccountId::of(ACCOUNT), pair.now);
    pair.publish(inbound("1"));
    assert_eq!(
        pair.service.deliver(now, &account, Serial(2), inbound("2")),
        Err(PublishError::Writers { host: false })
    );
    let host = AccountId::of("host");
    pair.service.restore(AccountHead::restored(host, Epoch([1; 8]), Serial(7))).unwrap();
    pair.service.deliver(now, &host, Serial(8), inbound("8")).unwrap();
    assert_eq!(pair.service.publish(now, &host, inbound("9")), Err(PublishError::Writers { host: true }));
    // Nor is a history put in place of another one that devices may know already.
    let other = pair.service.restore(AccountHead::restored(host, Epoch([2; 8]), Serial(7)));
    assert_eq!(other, Err(PublishError::Open { newest: Serial(8) }));
    let same = pair.service.restore(AccountHead::restored(host, Epoch([1; 8]), Serial(8)));
    assert_eq!(same, Ok(()));
}
