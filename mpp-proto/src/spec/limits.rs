//! What a service lets through of each thing in a second, as strangers and ticket holders find it.

use std::collections::BTreeSet;
use std::string::String;
use std::vec;
use std::vec::Vec;

use core::net::SocketAddr;
use core::time::Duration;

use super::stranger::{
    Opening, Stranger, Wish, World, from, key, mint, mint_by, seal, ticket, ticket_of, unix,
};
use crate::crypto::{Identifiers, ServiceSecret};
use crate::ids::{RequestId, Rights, Serial, StoreId, StoreSet};
use crate::path::{Disposition, DropReason};
use crate::service::{AccountPolicy, Rate, RefusalReason};
use crate::time::Instant;
use crate::wire::{
    Answer, AnswerKind, Code, EndpointRequest, Message, Post, Subscribe, Ticket, TicketRequest,
};

fn secs(s: u64) -> Duration {
    Duration::from_secs(s)
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// What a service answered to step 1.
#[derive(Clone, Debug, PartialEq)]
enum Got {
    Nothing,
    Complete { share: bool },
    Defer([u8; 16]),
    Refused { code: Code, retry_after: Duration },
    Hint(Code),
}

/// Sends step 1 from an address.
fn knock_from(world: &mut World, opening: &Opening, source: SocketAddr) -> Got {
    let _ = world.put(source, &opening.packet);
    let sent = world.take();
    assert!(sent.len() <= 1);
    let Some((to, packet)) = sent.first() else { return Got::Nothing };
    assert_eq!(*to, source);
    match Answer::parse(packet).unwrap().kind {
        AnswerKind::Complete { share, .. } => Got::Complete { share: share.is_some() },
        AnswerKind::Defer { challenge } => Got::Defer(challenge),
        AnswerKind::SealedError { .. } => {
            let (code, _, retry_after, _) = opening.refusal(packet);
            Got::Refused { code, retry_after }
        }
        AnswerKind::ClearError { code, .. } => Got::Hint(code),
    }
}

/// Sends step 1, and if it is asked for, the proof that it comes from there.
fn knock(world: &mut World, ticket: &Ticket, serial: u64, share: Option<[u8; 32]>) -> Got {
    let wish = Wish::new(serial);
    match knock_from(world, &Opening::with_share(ticket, &wish, None, share), from(4000)) {
        Got::Defer(challenge) => {
            let echoed = Opening::with_share(ticket, &wish, Some(challenge), share);
            knock_from(world, &echoed, from(4000))
        }
        got => got,
    }
}

fn is_complete(got: &Got) -> bool {
    matches!(got, Got::Complete { .. })
}

/// A service that completes few exchanges per second.
fn narrow(connects_per_second: u32) -> World {
    World::with(|c| c.connects_per_second = connects_per_second)
}

// SPEC: R-exchange-rate
#[test]
fn the_exchanges_of_a_device_are_few() {
    let mut world = World::new();
    let ticket = ticket(Rights::default());
    let mut serial = 0;
    let mut unproven = |world: &mut World| {
        serial += 1;
        let opening = Opening::new(&ticket, &Wish::new(serial), None);
        let got = knock_from(world, &opening, from(4000));
        // Confirmed at once, so that it is not the half-open ones that are too many.
        if is_complete(&got) {
            world.run(secs(10));
        }
        (serial, got)
    };
    // Ten seconds for each, so that none is half open: that is always within the rate.
    assert!((0..20).all(|_| is_complete(&unproven(&mut world).1)));
    // Now at once. The half-open ones are ended by hand.
    let mut world = World::new();
    let mut complete = 0;
    for serial in 1..=8 {
        let opening = Opening::new(&ticket, &Wish::new(serial), None);
        let _ = world.put(from(4000), &opening.packet);
        let answer = world.take().remove(0).1;
        if let AnswerKind::Complete { .. } = Answer::parse(&answer).unwrap().kind {
            complete += 1;
            Stranger::read(&opening, &answer).beat(&mut world, Serial::ZERO);
        }
    }
    assert_eq!(complete, 5, "without an echo five at once");
    // With an echo ten in all, and then the limit is named.
    for serial in 9..=13 {
        assert!(is_complete(&knock(&mut world, &ticket, serial, None)), "{serial}");
    }
    let Got::Refused { code, retry_after } = knock(&mut world, &ticket, 14, None) else { panic!() };
    assert_eq!((code, retry_after), (Code::TOO_MANY_REQUESTS, secs(1)));
    assert_eq!(world.service.stats().refused_for(RefusalReason::Exchanges), 1);
    // Another device is not affected.
    assert!(is_complete(&knock(&mut world, &ticket_of(1), 1, None)));
    world.run(secs(1));
    assert!(is_complete(&knock(&mut world, &ticket, 15, None)));
    // Copies of its packets from elsewhere take none of what the device has to itself.
    world.run(secs(20));
    for _ in 0..1000 {
        let copied = Opening::new(&ticket, &Wish::new(16), None);
        knock_from(&mut world, &copied, from(666));
    }
    let proven = (17..40).filter(|serial| is_complete(&knock(&mut world, &ticket, *serial, None))).count();
    assert_eq!(proven, 6, "four copies became half open, the others were asked for proof");
}

// SPEC: R-prefix, R-hints-total
#[test]
fn hints_to_strangers_are_few() {
    let mut world = World::new();
    let mut opening = Opening::new(&ticket(Rights::default()), &Wish::new(1), None);
    // A key that the service does not have.
    opening.packet[24] ^= 1;
    let hints = |world: &mut World, source: [u8; 4], n: u16| {
        (0..n)
            .filter(|i| {
                let source = SocketAddr::from((source, 1000 + i));
                knock_from(world, &opening, source) == Got::Hint(Code::UNAUTHORIZED)
            })
            .count()
    };
    assert_eq!(hints(&mut world, [192, 0, 2, 1], 100), 20);
    assert_eq!(hints(&mut world, [192, 0, 2, 2], 100), 20);
    world.run(secs(1));
    assert_eq!(hints(&mut world, [192, 0, 2, 1], 100), 10);
    world.run(secs(10));
    let all: usize = (0..100).map(|i| hints(&mut world, [10, 0, 0, i], 20)).sum();
    assert_eq!(all, 1000);
    let stats = world.service.stats();
    assert_eq!(stats.hints_withheld, 80 + 80 + 90 + 1000);
    assert_eq!(stats.dropped_for(DropReason::UnknownKey), 2300);
    // Who has a ticket is not touched by it.
    assert!(is_complete(&knock(&mut world, &ticket(Rights::default()), 1, None)));
}

// SPEC: R-connect-rate
#[test]
fn no_second_has_more_exchanges_than_the_limit() {
    // Ten times as many newcomers as there may be; as many as there may be; a few more.
    for (at_once, pause) in [(20, ms(100)), (1, ms(50)), (1, ms(45))] {
        let mut world = narrow(20);
        let mut completed: Vec<Instant> = Vec::new();
        let mut device = 0;
        for step in 0..200 {
            // After a pause two find a place at the same moment.
            for _ in 0..at_once + u16::from(step == 0) {
                device += 1;
                if is_complete(&knock(&mut world, &ticket_of(device), 1, None)) {
                    completed.push(world.now);
                }
            }
            world.run(pause);
        }
        for (i, first) in completed.iter().enumerate() {
            let within = completed[i..].iter().take_while(|at| at.since(*first) < secs(1)).count();
            assert!(within <= 20, "{within} in a second");
        }
        assert!(!completed.is_empty());
    }
}

// SPEC: R-turn, R-one-place, R-connect-rate
#[test]
fn a_crowd_is_given_turns() {
    let mut world = narrow(20);
    let crowd = 400;
    // When each may come again.
    let mut turns: Vec<Option<Instant>> = vec![None; crowd];
    let mut told = Vec::new();
    let start = world.now;
    for (i, turn) in turns.iter_mut().enumerate() {
        if let Got::Refused { code, retry_after } = knock(&mut world, &ticket_of(i as u16), 1, None) {
            assert_eq!(code, Code::UNAVAILABLE);
            *turn = Some(world.now + retry_after);
            told.push(retry_after);
        }
    }
    let waiting = told.len();
    assert!((396..400).contains(&waiting), "{waiting}");
    // One place for each, 1/16 s apart, and anywhere in it.
    let last = told.iter().max().unwrap();
    let queue = ms(1000) / 16 * waiting as u32;
    assert!((queue..queue + ms(65)).contains(last), "{last:?}");
    // Asking again gives the same place.
    for i in [100, 200, 399] {
        let wait = turns[i].unwrap().since(world.now);
        for _ in 0..3 {
            let Got::Refused { retry_after, .. } = knock(&mut world, &ticket_of(i as u16), 1, None) else {
                panic!()
            };
            assert!(
                retry_after + ms(250) >= wait && retry_after <= wait + ms(250),
                "{retry_after:?}, {wait:?}"
            );
        }
    }
    // A newcomer is behind them all.
    let Got::Refused { retry_after, .. } = knock(&mut world, &ticket_of(9999), 1, None) else { panic!() };
    assert!(retry_after > queue);
    // All come when they were told, and are let in, but for a few who come at the same moment as others.
    let mut knocks = 0;
    while turns.iter().any(Option::is_some) {
        world.run(ms(10));
        for (i, turn) in turns.iter_mut().enumerate() {
            if turn.is_none_or(|at| at > world.now) {
                continue;
            }
            knocks += 1;
            *turn = match knock(&mut world, &ticket_of(i as u16), 1, None) {
                Got::Complete { .. } => None,
                Got::Refused { retry_after, .. } => Some(world.now + retry_after),
                other => panic!("{other:?}"),
            };
        }
    }
    assert!(world.now.since(start) < queue + secs(5), "{:?}", world.now.since(start));
    assert!(knocks < waiting + waiting / 10, "{knocks} knocks of {waiting}");
}

#[test]
fn a_queue_ends_after_ten_minutes() {
    let mut world = narrow(1);
    let mut waits = Vec::new();
    for device in 0..700 {
        if let Got::Refused { retry_after, .. } = knock(&mut world, &ticket_of(device), 1, None) {
            waits.push(retry_after);
        }
    }
    assert!(waits.iter().all(|wait| *wait <= secs(605)));
    // 480 places of 1.25 s; the others come back at random.
    let late: Vec<_> = waits[490..].iter().map(Duration::as_secs).collect();
    assert!(late.iter().all(|wait| (300..=600).contains(wait)));
    assert!(late.iter().max().unwrap() - late.iter().min().unwrap() > 200, "spread");
}

// SPEC: R-proof-first
#[test]
fn copies_do_not_take_the_place_of_those_who_prove_where_they_are() {
    let mut world = narrow(20);
    let copied: Vec<_> = (0..200).map(|d| Opening::new(&ticket_of(d), &Wish::new(1), None)).collect();
    let mut complete = 0;
    for second in 0..10 {
        for copy in &copied {
            complete += usize::from(is_complete(&knock_from(&mut world, copy, from(666))));
        }
        assert!(is_complete(&knock(&mut world, &ticket_of(1000 + second), 1, None)), "{second}");
        world.run(secs(1));
    }
    assert!(complete > 0);
    // Nobody is given a place for a copy either.
    assert_eq!(world.service.stats().refused_for(RefusalReason::Busy), 0);
}

// SPEC: R-share-left-out
#[test]
fn above_a_quarter_of_the_limit_the_share_is_left_out() {
    let mut world = narrow(400);
    let share = Some(*crate::crypto::Share::new(zeroize::Zeroizing::new([7; 32])).public());
    let (mut with, mut without) = (0, 0);
    // A second and a half with 200 exchanges in each.
    for device in 0..300 {
        match knock(&mut world, &ticket_of(device), 1, share) {
            Got::Complete { share: true } => with += 1,
            Got::Complete { share: false } => without += 1,
            other => panic!("{other:?}"),
        }
        world.run(ms(5));
    }
    // 100 at once, and 100 per second.
    assert!((245..=251).contains(&with), "{with}");
    assert_eq!(with + without, 300);
    assert_eq!(world.service.stats().shares_left_out, without);
    // Copies spoil nobody's secrecy: they have to prove where they are before the last half is touched.
    world.run(secs(10));
    for device in 0..300 {
        let copy = Opening::with_share(&ticket_of(5000 + device), &Wish::new(1), None, share);
        knock_from(&mut world, &copy, from(666));
        world.run(ms(3));
    }
    for device in 9000..9020 {
        assert_eq!(knock(&mut world, &ticket_of(device), 1, share), Got::Complete { share: true });
    }
}

// SPEC: R-reset-paced
#[test]
fn resets_come_out_of_what_exchanges_leave_over() {
    let mut world = narrow(40);
    let stranger = Stranger::half_open(&mut world, &Wish::new(1));
    world.run(secs(30));
    let header = crate::wire::Header::single(0, crate::wire::Direction::ToResponder);
    let stale = seal(&stranger.keys, &stranger.identifiers[0].0, &header, &[], &[]);
    let resets = |world: &mut World, n| {
        (0..n)
            .filter(|_| {
                assert_eq!(world.put(from(4000), &stale), Disposition::Dropped(DropReason::StaleIdentifier));
                !world.take().is_empty()
            })
            .count()
    };
    // Four at once, and half of those are for exchanges.
    assert_eq!(resets(&mut world, 50), 2);
    assert!(is_complete(&knock(&mut world, &ticket_of(1), 1, None)));
    assert_eq!(world.service.stats().resets_withheld, 48);
    let in_ten: usize = (0..500)
        .map(|_| {
            world.run(ms(20));
            resets(&mut world, 50)
        })
        .sum();
    assert!((300..=400).contains(&in_ten), "{in_ten}");
    // While others wait for their turn nobody is told to come.
    while !matches!(knock(&mut world, &ticket_of(2), 1, None), Got::Refused { code: Code::UNAVAILABLE, .. }) {
    }
    for device in 10..30 {
        knock(&mut world, &ticket_of(device), 1, None);
    }
    world.run(ms(200));
    assert_eq!(resets(&mut world, 50), 0);
}

/// What came back for a request.
fn answer(packets: &[super::stranger::Opened]) -> Result<u8, (Code, Duration, String)> {
    assert_eq!(packets.len(), 1);
    match Message::parse(&packets[0].fragment).unwrap() {
        Message::Failure(failure) => Err((failure.code, failure.retry_after, failure.detail.into())),
        _ => Ok(packets[0].ty()),
    }
}

fn subscribe(request: u32) -> Subscribe {
    Subscribe {
        request: RequestId(request),
        filter: StoreSet::ALL,
        covered: StoreSet::ALL,
        position: Serial::ZERO,
        epoch: crate::ids::Epoch::NONE,
    }
}

// SPEC: R-request-rate
#[test]
fn a_connection_has_so_many_requests() {
    let mut world = World::new();
    let mut device = Stranger::connected(&mut world, &Wish::new(1));
    world.run(secs(10));
    let mut request = 0;
    let mut ask = |world: &mut World, device: &mut Stranger, n| {
        let answers = (0..n).map(|_| {
            request += 1;
            answer(&device.say(world, &subscribe(request)))
        });
        answers.filter(Result::is_ok).count()
    };
    assert_eq!(ask(&mut world, &mut device, 100), 60);
    let (code, retry_after, detail) = answer(&device.say(&mut world, &subscribe(101))).unwrap_err();
    assert_eq!((code, retry_after), (Code::TOO_MANY_REQUESTS, ms(100)));
    assert_eq!(detail, "10 requests per second, 60 at once");
    // Every kind of request.
    let request = RequestId(102);
    assert!(answer(&device.say(&mut world, &EndpointRequest { request })).is_err());
    assert!(answer(&device.say(&mut world, &post(103, StoreId::OUTBOUND))).is_err());
    let renewal = TicketRequest { request: RequestId(104), token: &[1; 90] };
    let (code, ..) = answer(&device.say(&mut world, &renewal)).unwrap_err();
    assert_eq!(code, Code::TOO_MANY_REQUESTS);
    assert_eq!(world.service.stats().published, 0);
    assert_eq!(world.service.stats().refused_for(RefusalReason::Requests), 44);
    // But it hears that the service is there, ten times.
    for _ in 0..10 {
        assert_eq!(answer(&device.beat(&mut world, Serial::ZERO)), Ok(4));
    }
    assert!(answer(&device.beat(&mut world, Serial::ZERO)).is_err());
    world.run(secs(2));
    assert_eq!(ask(&mut world, &mut device, 100), 10, "ten of twenty fill up what is for heartbeats");
    // A new connection is no new allowance.
    let mut new = Stranger::half_open(&mut world, &Wish::new(2));
    let _ = new.beat(&mut world, Serial::ZERO);
    assert!(answer(&new.say(&mut world, &subscribe(1))).is_err());
}

fn post(request: u32, store: StoreId) -> Post<'static> {
    Post {
        request: RequestId(request),
        account: None,
        store,
        payload: None,
        ttl: None,
        urgency: 1,
        key: None,
        post_id: [request as u8; 16],
    }
}

// SPEC: R-detail
#[test]
fn every_refusal_says_why() {
    // Why step 1 was refused.
    let refusal = |world: &mut World, ticket: &Ticket| {
        let opening = Opening::new(ticket, &Wish::new(1), None);
        let _ = world.put(from(4000), &opening.packet);
        let (code, .., detail) = opening.refusal(&world.take()[0].1);
        (code, detail)
    };
    let start = unix(Instant::ZERO);
    let mut world = World::new();
    let usual = ticket(Rights::default());
    let cases = [
        (mint(|s| s.expiry = s.issued), Code::TICKET_EXPIRED, "expired"),
        (mint(|s| s.issued = start + secs(900)), Code::UNAUTHORIZED, "5 minutes"),
        (ticket(Rights::POST_OWN), Code::FORBIDDEN, "right to receive"),
    ];
    for (ticket, expected, word) in &cases {
        let (code, detail) = refusal(&mut world, ticket);
        assert_eq!(code, *expected);
        assert!(detail.contains(word), "{detail}");
    }
    let device = crate::ids::DeviceId([1; 16]);
    world.service.revoke(world.now, &World::account(), device, start + secs(1));
    assert_eq!(refusal(&mut world, &usual), (Code::UNAUTHORIZED, "the ticket is revoked".into()));
    let mut world = World::with(|c| c.account_policy = AccountPolicy::Restored);
    assert_eq!(refusal(&mut world, &usual), (Code::UNKNOWN_ACCOUNT, "unknown account".into()));
    let mut world = World::with(|c| c.capacity = 1);
    Stranger::connected(&mut world, &Wish::new(1));
    let (code, detail) = refusal(&mut world, &ticket_of(1));
    assert_eq!((code, &*detail), (Code::UNAVAILABLE, "all 1 connections are taken"));
    let mut world = World::with(|c| c.accounts = 0);
    assert_eq!(refusal(&mut world, &usual), (Code::UNAVAILABLE, "all 0 channels are taken".into()));
    // Why a request was.
    let mut world = World::new();
    let mut device = Stranger::connected(&mut world, &Wish::new(1));
    let mut why = |message: &Post<'_>| answer(&device.say(&mut world, message)).unwrap_err().2;
    assert!(why(&post(2, StoreId::new(20).unwrap())).starts_with("store 20 takes no posts"));
    assert!(why(&Post { account: Some("bob"), ..post(4, StoreId::OUTBOUND) }).contains("right to post"));
}

// SPEC: R-output
#[test]
fn answers_go_before_notifications_and_all_at_the_pace_of_the_service() {
    let mut world = World::with(|c| c.output = Rate::new(100, 3));
    let mut device = Stranger::connected(&mut world, &Wish::new(1));
    world.run(secs(1));
    let event = crate::channel::Event::with_payload(StoreId::INBOUND, vec![1; 16_000].into());
    world.service.publish(world.now, &World::account(), event).unwrap();
    // Three at once.
    let first = device.take(&mut world);
    assert_eq!(first.len(), 3);
    let due = world.service.poll_timeout().unwrap();
    assert_eq!((due.at, due.reason), (world.now + ms(10), crate::wakeup::TimerKind::Pace));
    // The rest as the pace allows, and an answer before the rest.
    let before = world.now;
    assert!(device.beat(&mut world, Serial::ZERO).is_empty());
    let rest: Vec<_> =
        world.run(ms(50)).into_iter().map(|(at, _, p)| (at, device.open(&p).unwrap())).collect();
    assert_eq!(rest[0].1.ty(), 4);
    let times: Vec<_> = rest.iter().map(|(at, _)| at.since(before).as_millis()).collect();
    assert_eq!(times, [10, 20, 30, 40, 50]);
    // Nothing stale is left when all is sent.
    world.run(secs(1));
    assert!(world.service.poll_timeout().is_none_or(|due| due.reason != crate::wakeup::TimerKind::Pace));
}

#[test]
fn a_key_that_is_taken_out_opens_no_ticket_any_more() {
    let other = crate::crypto::TicketKey::new(*b"key2", [8; 32]);
    let mut world = World::new();
    let old = ticket(Rights::default());
    let new = mint_by(&other, |spec| spec.device.0 = [8; 16]);
    assert_eq!(knock(&mut world, &new, 1, None), Got::Hint(Code::UNAUTHORIZED));
    world.service.set_ticket_keys(vec![other.clone(), key()]);
    assert!(is_complete(&knock(&mut world, &new, 1, None)));
    assert!(is_complete(&knock(&mut world, &old, 1, None)), "all open");
    world.service.set_ticket_keys(vec![other]);
    assert!(is_complete(&knock(&mut world, &new, 2, None)));
    assert_eq!(knock(&mut world, &old, 2, None), Got::Hint(Code::UNAUTHORIZED));
}

/// Whoever collects the resets of a slot's former connections has none of the present one's: the generation comes round
/// after 65,536 of them, the identifiers do not.
#[test]
fn no_reset_token_comes_again_on_a_slot_that_is_used_65536_times() {
    let mut world = World::new();
    let ticket = mint(|spec| spec.expiry = spec.issued + secs(30 * 86_400));
    let ours = Identifiers::new(&ServiceSecret::new([9; 32]));
    let mut tokens = BTreeSet::new();
    let mut ids = BTreeSet::new();
    for serial in 1..=65_537 {
        let opening = Opening::new(&ticket, &Wish::new(serial), None);
        assert_eq!(world.put(from(4000), &opening.packet), Disposition::Accepted);
        for (identifier, token) in Stranger::read(&opening, &world.take()[0].1).identifiers {
            ids.insert(ours.open(&identifier).unwrap().pack());
            assert!(tokens.insert(token), "connection {serial}");
        }
        world.run(secs(11));
    }
    assert_eq!((ids.len(), tokens.len()), (65_536, 3 * 65_537), "one slot, and every generation of it");
}
