//! Channels whose history was lost, and what of the old one may not be taken for the new one.

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
