//! Posts about which the host decides: to other accounts, and to a log that is the host's own.

use std::time::Duration;

use bytes::Bytes;
use mpp_proto::*;

use crate::harness::{ACCOUNT, Pair, spec};

const SECOND: Duration = Duration::from_secs(1);

fn config() -> ServiceConfig {
    let mut config = ServiceConfig::new(ServiceSecret::new([9; 32]), vec![TicketKey::new(*b"key1", [7; 32])]);
    config.foreign_posts = ForeignPosts::Host;
    config.own_posts = OwnPosts::Host;
    config
}

fn event(text: &str) -> Event {
    Event::with_payload(StoreId::INBOUND, Bytes::copy_from_slice(text.as_bytes()))
}

fn alice() -> AccountId {
    AccountId::of(ACCOUNT)
}

/// Mallory is connected, with these rights, in place of Alice's device, which is returned.
fn mallory(pair: &mut Pair, rights: Rights) -> Device {
    let spec = TicketSpec {
        account: "mallory@example.com".into(),
        rights: rights.union(Rights::RECEIVE),
        ..spec(pair.now, Duration::from_secs(86_400))
    };
    let before = pair.start_with(&spec);
    pair.run(SECOND);
    before
}

/// A service with such settings, a channel of Alice's, and Mallory connected.
fn with_mallory(config: ServiceConfig, rights: Rights) -> Pair {
    let mut pair = Pair::with(config, DeviceConfig::default());
    pair.run(SECOND);
    mallory(&mut pair, rights);
    pair
}

/// The posts that the host has been given since the last time.
fn handed(pair: &mut Pair) -> Vec<(PostHandle, AccountId, Event)> {
    let events = std::mem::take(&mut pair.service_events).into_iter();
    events
        .filter_map(|e| match e {
            ServiceEvent::Post { handle, to, event, .. } => Some((handle, to, event)),
            _ => None,
        })
        .collect()
}

/// The serial of a post, if it has one, or with which code it was refused and when to ask again.
type Answered = Result<Option<Serial>, (Code, Option<Duration>)>;

/// What became of the posts, in the order in which it was heard: the serial, or the code and when to try again.
fn answers(pair: &mut Pair) -> Vec<Answered> {
    let events = std::mem::take(&mut pair.events).into_iter();
    events
        .filter_map(|e| match e {
            DeviceEvent::Posted { serial, .. } => Some(Ok(serial)),
            DeviceEvent::Failed { error: RequestError::Refused { code, retry_after, .. }, .. } => {
                Some(Err((code, retry_after)))
            }
            _ => None,
        })
        .collect()
}

const FORBIDDEN: [Answered; 1] = [Err((Code::FORBIDDEN, None))];

// SPEC: R-post-others
#[test]
fn a_post_to_another_account_takes_the_right_and_the_consent_of_the_host() {
    let post = |config, rights| {
        let mut pair = with_mallory(config, rights);
        pair.device.post_to(pair.now, ACCOUNT, &event("hello")).unwrap();
        pair.run(SECOND);
        let handed = handed(&mut pair);
        (pair, handed)
    };
    let mut refusing = config();
    refusing.foreign_posts = ForeignPosts::Refuse;
    for (config, rights) in [(refusing, Rights::POST_OTHERS), (config(), Rights::POST_OWN)] {
        let (mut pair, handed) = post(config, rights);
        assert_eq!((answers(&mut pair), handed.len()), (FORBIDDEN.to_vec(), 0));
    }
    let (mut pair, handed) = post(config(), Rights::POST_OTHERS);
    let [(handle, to, given)] = &handed[..] else { panic!("{handed:?}") };
    assert_eq!((*to, given.poster()), (alice(), Some(&AccountId::of("mallory@example.com"))));
    assert_eq!(answers(&mut pair), [], "not before the host has decided");
    assert_eq!(pair.service.answer_post(pair.now, *handle, PostAnswer::Publish), Ok(Some(Serial(1))));
    pair.run(SECOND);
    assert_eq!(answers(&mut pair), [Ok(None)], "the serial is none of its business");
    assert_eq!(pair.service.head(&alice()).unwrap().newest, Serial(1));
    let again = pair.service.answer_post(pair.now, *handle, PostAnswer::Publish);
    assert_eq!(again, Err(PostError::Gone));
}

// SPEC: R-post-no-oracle
#[test]
fn a_poster_does_not_find_out_which_accounts_there_are() {
    let mut pair = with_mallory(config(), Rights::POST_OTHERS);
    let mut sizes = Vec::new();
    for account in [ACCOUNT, "nobody@example.com"] {
        pair.device.post_to(pair.now, account, &event("hello")).unwrap();
        pair.run(Duration::from_millis(100));
        let handed = handed(&mut pair);
        assert_eq!(handed.len(), 1, "whoever it is for, the host decides");
        pair.log.clear();
        let refusal = PostAnswer::Refuse { code: Code::FORBIDDEN, retry_after: Duration::ZERO };
        let (answer, expected) = match account {
            ACCOUNT => (refusal, Ok(None)),
            _ => (PostAnswer::Publish, Err(PostError::Publish(PublishError::UnknownAccount))),
        };
        assert_eq!(pair.service.answer_post(pair.now, handed[0].0, answer), expected);
        pair.run(Duration::from_millis(100));
        assert_eq!(answers(&mut pair), FORBIDDEN);
        sizes.push(pair.log.iter().map(|(_, packet)| packet.len()).collect::<Vec<_>>());
    }
    assert_eq!(sizes[0], sizes[1]);
}

// SPEC: R-post-once
#[test]
fn a_post_is_handed_over_once_and_answered_again_if_the_answer_was_lost() {
    for to in [ACCOUNT, "mallory@example.com"] {
        let mut pair = with_mallory(config(), Rights::POST_OTHERS.union(Rights::POST_OWN));
        pair.device.post_to(pair.now, to, &event("hello")).unwrap();
        // Repeated after 1, 2 and 4 seconds.
        pair.run(Duration::from_secs(5));
        let handed = handed(&mut pair);
        assert_eq!(handed.len(), 1, "{handed:?}");
        pair.service.answer_post(pair.now, handed[0].0, PostAnswer::Publish).unwrap();
        pair.cut = true;
        pair.run(Duration::from_millis(100));
        pair.cut = false;
        assert_eq!(answers(&mut pair), [], "the answer is lost");
        pair.run(Duration::from_secs(10));
        assert_eq!(answers(&mut pair), [Ok((to != ACCOUNT).then_some(Serial(1)))]);
        assert_eq!(self::handed(&mut pair), []);
        assert_eq!(pair.service.head(&AccountId::of(to)).unwrap().newest, Serial(1));
    }
}

// SPEC: R-post-stored
#[test]
fn a_log_of_the_host_gives_the_serials() {
    let mut pair = with_mallory(config(), Rights::POST_OWN);
    let account = AccountId::of("mallory@example.com");
    pair.device.post(pair.now, &event("hello")).unwrap();
    pair.run(SECOND);
    let handed = handed(&mut pair);
    let (handle, _, given) = &handed[0];
    let stored = |pair: &mut Pair| pair.service.answer_post(pair.now, *handle, PostAnswer::Stored(Serial(1)));
    assert_eq!(
        stored(&mut pair),
        Err(PostError::NotDelivered { serial: Serial(1), newest: Serial(0) }),
        "not before it was delivered"
    );
    pair.service.deliver(pair.now, &account, Serial(1), given.clone()).unwrap();
    let published = pair.service.answer_post(pair.now, *handle, PostAnswer::Publish);
    assert_eq!(published, Err(PostError::Publish(PublishError::Writers { host: true })));
    assert_eq!(stored(&mut pair), Ok(Some(Serial(1))));
    pair.run(SECOND);
    assert_eq!(answers(&mut pair), [Ok(Some(Serial(1)))]);
    assert_eq!(pair.take().len(), 1);
}

// SPEC: R-post-waits
#[test]
fn posts_wait_for_20_seconds_and_only_so_many() {
    let mut config = config();
    config.pending_posts = 2;
    let mut pair = with_mallory(config, Rights::POST_OTHERS);
    let later = || Err((Code::UNAVAILABLE, Some(Duration::from_secs(2))));
    for text in ["1", "2", "3"] {
        pair.device.post_to(pair.now, ACCOUNT, &event(text)).unwrap();
    }
    pair.run(SECOND);
    assert_eq!(answers(&mut pair), [later()]);
    assert_eq!(pair.service.stats().posts_waiting, 2);
    let handed = handed(&mut pair);
    pair.run(Duration::from_secs(20));
    assert_eq!(answers(&mut pair), [later(), later()]);
    let stats = pair.service.stats();
    assert_eq!((stats.posts_waiting, stats.posts_expired), (0, 2));
    assert_eq!(pair.service.answer_post(pair.now, handed[0].0, PostAnswer::Publish), Err(PostError::Gone));
    // There is room again.
    pair.device.post_to(pair.now, ACCOUNT, &event("4")).unwrap();
    pair.run(SECOND);
    assert_eq!(self::handed(&mut pair).len(), 1);
}

// SPEC: R-post-rate
#[test]
fn a_poster_may_post_ten_at_once_to_a_channel_and_then_one_a_second() {
    let mut pair = with_mallory(config(), Rights::POST_OTHERS);
    for n in 0..12 {
        pair.device.post_to(pair.now, ACCOUNT, &event(&n.to_string())).unwrap();
    }
    pair.device.post_to(pair.now, "bob@example.com", &event("another channel")).unwrap();
    pair.run(Duration::from_millis(500));
    assert_eq!(handed(&mut pair).len(), 11);
    let answers = answers(&mut pair);
    assert_eq!(answers.len(), 2);
    for answer in answers {
        let Err((Code::TOO_MANY_REQUESTS, Some(wait))) = answer else { panic!("{answer:?}") };
        assert!(wait > Duration::from_millis(900) && wait <= SECOND, "{wait:?}");
    }
    pair.run(SECOND);
    for n in 0..2 {
        pair.device.post_to(pair.now, ACCOUNT, &event(&n.to_string())).unwrap();
    }
    pair.run(Duration::from_millis(500));
    assert_eq!(handed(&mut pair).len(), 1);
}

/// Mallory posts these, as fast as the service lets her, and the host lets all of it pass.
fn flood(pair: &mut Pair, count: usize, event: impl Fn(usize) -> Event) {
    for n in 0..count {
        pair.device.post_to(pair.now, ACCOUNT, &event(n)).unwrap();
        pair.run(SECOND);
        for (handle, ..) in handed(pair) {
            pair.service.answer_post(pair.now, handle, PostAnswer::Publish).unwrap();
        }
    }
}

// SPEC: R-foreign-share
#[test]
fn a_ring_flooded_by_a_foreign_poster_keeps_what_is_not_hers() {
    let mut pair = Pair::with(config(), DeviceConfig::default());
    pair.run(SECOND);
    let resume = pair.device.resume();
    for n in 0..20 {
        pair.publish(event(&format!("own {n}")));
    }
    mallory(&mut pair, Rights::POST_OTHERS);
    flood(&mut pair, 40, |n| {
        let payload = Bytes::from(format!("flood {n}"));
        Event::with_payload(StoreId::APPLICATION_FIRST, payload)
    });
    assert_eq!(pair.service.stats().crowded, 32);
    pair.restart_device(Some(resume));
    pair.run(SECOND);
    let mut gaps = StoreSet::EMPTY;
    let mut got = Vec::new();
    for n in pair.take() {
        match n.kind {
            NotificationKind::Event { payload, .. } => got.push(String::from_utf8(payload.to_vec()).unwrap()),
            NotificationKind::Gap(stores) => gaps = gaps.union(stores),
            other => panic!("{other:?}"),
        }
    }
    let own = (0..20).map(|n| format!("own {n}"));
    assert_eq!(got, own.chain((32..40).map(|n| format!("flood {n}"))).collect::<Vec<_>>());
    assert!(gaps == StoreSet::EMPTY.with(StoreId::APPLICATION_FIRST), "{gaps:?}: announced, as ever");
}

// SPEC: R-collapse
#[test]
fn a_key_replaces_only_what_the_same_account_posted() {
    let mut pair = Pair::with(config(), DeviceConfig::default());
    pair.run(SECOND);
    let key = CollapseKey::new(b"call").unwrap();
    let resume = pair.device.resume();
    pair.publish(event("own").key(key));
    mallory(&mut pair, Rights::POST_OTHERS);
    flood(&mut pair, 2, |n| event(&n.to_string()).key(key));
    pair.restart_device(Some(resume));
    pair.run(SECOND);
    let got = pair.take().into_iter().filter_map(|n| match n.kind {
        NotificationKind::Event { payload, .. } => Some(payload),
        _ => None,
    });
    assert_eq!(got.collect::<Vec<_>>(), ["own", "1"]);
}
