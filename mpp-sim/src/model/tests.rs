//! The judge is only worth something if it refuses what it has to refuse: honest histories, each spoiled in one way.

use std::time::Duration;

use mpp_proto::{CollapseKey, Epoch, Instant, Serial, StoreId, StoreSet, UnixTime};

use super::{Channel, End, Fault, Seen, Sight, Tally, judge};
use crate::post::Post;
use crate::rng::Rng;

const UNIX: u64 = 1_700_000_000_000;

fn store(n: u8) -> StoreId {
    StoreId::new(n).unwrap()
}

fn at(ms: u64) -> (Instant, UnixTime) {
    (Instant::from_micros(ms * 1000), UnixTime::from_millis(UNIX + ms))
}

/// A channel and a device that is honest about it.
struct Case {
    channel: Channel,
    seen: Vec<Seen>,
    ms: u64,
}

impl Case {
    fn new() -> Self {
        let mut case = Self { channel: Channel::new(4, 1000), seen: Vec::new(), ms: 1 };
        case.see(Sight::Started(None));
        case.see(Sight::Asked(StoreSet::ALL));
        case.see(Sight::Connected);
        case
    }

    fn see(&mut self, sight: Sight) {
        let (at, unix) = at(self.ms);
        self.seen.push(Seen { at, unix, sight });
        self.ms += 10;
    }

    fn post(&mut self, serial: u64, post: &Post) {
        let (at, unix) = at(self.ms);
        let epoch = Epoch([self.channel.generations.len() as u8; 8]);
        self.channel.publish(at, unix, Serial(serial), Some(epoch), post);
        self.ms += 10;
    }

    /// The device is given the event that was posted last.
    fn give(&mut self) {
        let p = self.channel.posted.last().unwrap().clone();
        self.see(Sight::Event {
            serial: p.serial,
            position: p.serial,
            store: p.store,
            expires: p.expires,
            key: p.key,
            payload: p.payload.unwrap(),
        });
    }

    fn judge(&self) -> Result<Tally, Vec<Fault>> {
        let (at, unix) = at(self.ms);
        judge(&self.channel, &self.seen, &End { at, unix, connected: true, slack: Duration::from_millis(50) })
    }

    fn refuses(&self, expect: impl Fn(&Fault) -> bool) {
        match self.judge() {
            Err(faults) if faults.iter().any(expect) => {}
            other => panic!("{other:?} of {:#?}", self.seen),
        }
    }
}

fn payload(n: u64) -> Post {
    Post::new(store(2), n.to_be_bytes().to_vec())
}

/// An honest history of `n` events, all of them delivered.
fn honest(n: u64) -> Case {
    let mut case = Case::new();
    for serial in 1..=n {
        case.post(serial, &payload(serial));
        case.give();
    }
    case
}

#[test]
fn an_honest_history_passes() {
    assert_eq!(honest(20).judge(), Ok(Tally { delivered: 20, ..Tally::default() }));
}

#[test]
fn a_removed_event_is_missed() {
    for gone in 3..13 {
        let mut case = honest(10);
        case.seen.remove(gone);
        let lost = gone as u64 - 2;
        case.refuses(|f| *f == Fault::Lost { generation: 0, serial: lost, store: store(2) });
    }
}

#[test]
fn a_doubled_event_is_refused_wherever_it_comes_again() {
    for i in 3..13 {
        for later in i + 1..=13 {
            let mut case = honest(10);
            let again = Seen { at: case.seen[later - 1].at, ..case.seen[i].clone() };
            case.seen.insert(later, again);
            case.refuses(|f| matches!(f, Fault::Twice { serial, .. } if *serial == i as u64 - 2));
        }
    }
}

#[test]
fn swapped_events_are_refused() {
    for i in 3..12 {
        let mut case = honest(10);
        // Both after both were posted: only their order is wrong.
        let (later, unix) = (case.seen[i + 1].at, case.seen[i + 1].unix);
        case.seen.swap(i, i + 1);
        case.seen[i].at = later;
        case.seen[i + 1].at = later;
        case.seen[i + 1].unix = unix;
        case.refuses(|f| matches!(f, Fault::OutOfOrder { .. }));
    }
}

#[test]
fn an_altered_event_is_refused() {
    let spoil: [fn(&mut Sight); 5] = [
        |s| {
            if let Sight::Event { payload, .. } = s {
                *payload = payload.slice(..7)
            }
        },
        |s| {
            if let Sight::Event { store: s, .. } = s {
                *s = store(3)
            }
        },
        |s| {
            if let Sight::Event { serial, .. } = s {
                *serial += 100
            }
        },
        |s| {
            if let Sight::Event { key, .. } = s {
                *key = Some(vec![1])
            }
        },
        |s| {
            if let Sight::Event { payload, .. } = s {
                *payload = vec![9; 8].into()
            }
        },
    ];
    for spoil in spoil {
        let mut case = honest(5);
        spoil(&mut case.seen[5].sight);
        case.refuses(|f| matches!(f, Fault::Forged { .. }));
        case.refuses(|f| matches!(f, Fault::Lost { serial: 3, .. }));
    }
}

#[test]
fn an_event_before_it_was_posted_is_refused() {
    let mut case = honest(5);
    case.seen[6].at = case.seen[5].at;
    case.refuses(|f| matches!(f, Fault::Forged { serial: 4, .. }));
}

#[test]
fn a_position_below_its_event_is_refused() {
    let mut case = honest(5);
    if let Sight::Event { position, .. } = &mut case.seen[5].sight {
        *position -= 1;
    }
    case.refuses(|f| matches!(f, Fault::BadPosition { serial: 3, .. }));
}

#[test]
fn a_position_that_skips_what_comes_after_it_is_refused() {
    let mut case = honest(5);
    if let Sight::Event { position, .. } = &mut case.seen[5].sight {
        *position += 1;
    }
    case.refuses(|f| matches!(f, Fault::OutOfOrder { serial: 4, .. }));
}

#[test]
fn an_expired_event_may_be_missing_and_may_not_come() {
    let mut case = Case::new();
    case.post(1, &payload(1).ttl(Duration::from_millis(500)));
    assert!(matches!(case.judge().unwrap_err()[..], [Fault::Lost { serial: 1, .. }]));
    case.ms += 1000;
    assert_eq!(case.judge().unwrap().expired, 1);
    case.give();
    case.refuses(|f| matches!(f, Fault::Expired { serial: 1, .. }));
    // Nor may its expiry be told wrong.
    let mut case = honest(2);
    if let Sight::Event { expires, .. } = &mut case.seen[4].sight {
        *expires = *expires + Duration::from_secs(1);
    }
    case.refuses(|f| matches!(f, Fault::Expired { serial: 2, .. }));
}

#[test]
fn only_a_newer_event_with_the_same_key_and_store_supersedes() {
    let key = |n: u8| CollapseKey::new(&[n]).unwrap();
    let mut case = Case::new();
    case.post(1, &payload(1).key(key(1)));
    case.post(2, &payload(2).key(key(1)));
    case.give();
    assert_eq!(case.judge().unwrap(), Tally { delivered: 1, superseded: 1, ..Tally::default() });
    for other in [payload(2).key(key(2)), payload(2), Post { store: store(3), ..payload(2).key(key(1)) }] {
        let mut case = Case::new();
        case.post(1, &payload(1).key(key(1)));
        case.post(2, &other);
        case.give();
        case.refuses(|f| matches!(f, Fault::Lost { serial: 1, .. }));
    }
    // And the newer one does not supersede itself.
    let mut case = Case::new();
    case.post(1, &payload(1).key(key(1)));
    case.refuses(|f| matches!(f, Fault::Lost { serial: 1, .. }));
}

#[test]
fn a_gap_covers_what_was_posted_before_it_in_its_stores() {
    let overflow = |gap: Option<(StoreSet, u64)>| {
        let mut case = Case::new();
        case.see(Sight::Taken(0));
        for serial in 1..=10 {
            case.post(serial, &payload(serial));
        }
        if let Some((stores, position)) = gap {
            case.see(Sight::Gap { stores, position });
        }
        case.post(11, &payload(11));
        case
    };
    let both = StoreSet::EMPTY.with(store(2)).with(store(3));
    let mut case = overflow(Some((both, 10)));
    case.refuses(|f| matches!(f, Fault::Lost { serial: 11, .. }));
    case.give();
    assert_eq!(case.judge().unwrap(), Tally { delivered: 1, covered: 10, gaps: 1, ..Tally::default() });
    // Without the announcement, or with one for other stores, it is a silent gap.
    for gap in [None, Some((StoreSet::EMPTY.with(store(3)), 10))] {
        let mut case = overflow(gap);
        case.give();
        let faults = case.judge().unwrap_err();
        assert_eq!(faults.iter().filter(|f| matches!(f, Fault::Lost { .. })).count(), 10);
    }
}

#[test]
fn a_needless_gap_or_change_is_refused() {
    let mut case = honest(3);
    case.see(Sight::Taken(3));
    case.see(Sight::Connected);
    case.see(Sight::Gap { stores: StoreSet::ALL, position: 3 });
    case.refuses(|f| matches!(f, Fault::NeedlessGap { .. }));
    let mut case = honest(3);
    case.see(Sight::Changed { stores: StoreSet::EMPTY.with(store(2)).with(store(9)), position: 3 });
    case.refuses(|f| matches!(f, Fault::NeedlessChange { .. }));
}

#[test]
fn a_change_has_to_be_told_after_it_happened() {
    let told = |before: bool, after: bool| {
        let mut case = Case::new();
        let stores = StoreSet::EMPTY.with(store(5));
        case.post(1, &Post::changed(store(5)));
        if before {
            case.see(Sight::Changed { stores, position: 1 });
        }
        case.post(2, &Post::changed(store(5)));
        if after {
            case.see(Sight::Changed { stores, position: 2 });
        }
        case.judge()
    };
    assert_eq!(told(true, true).unwrap().changed, 2);
    assert_eq!(told(false, true).unwrap().changed, 2);
    assert!(matches!(told(true, false).unwrap_err()[..], [Fault::Lost { serial: 2, .. }]));
    assert_eq!(told(false, false).unwrap_err().len(), 2);
}

#[test]
fn only_stores_that_were_asked_for_come() {
    let mut case = Case::new();
    case.see(Sight::Asked(StoreSet::EMPTY.with(store(3))));
    case.see(Sight::Confirmed);
    case.post(1, &payload(1));
    assert_eq!(case.judge().unwrap().filtered, 1);
    case.give();
    case.refuses(|f| matches!(f, Fault::NotAskedFor { .. }));
    // Asked for again, what was missed has to be announced.
    let mut case = Case::new();
    case.see(Sight::Asked(StoreSet::EMPTY.with(store(3))));
    case.see(Sight::Confirmed);
    case.post(1, &payload(1));
    case.see(Sight::Asked(StoreSet::ALL));
    case.see(Sight::Confirmed);
    case.refuses(|f| matches!(f, Fault::Lost { serial: 1, .. }));
    case.see(Sight::Gap { stores: StoreSet::EMPTY.with(store(2)), position: 1 });
    assert_eq!(case.judge().unwrap().covered, 1);
}

#[test]
fn an_event_for_the_present_does_not_come_to_later_connections() {
    let again = |after: u64| {
        let mut case = Case::new();
        case.post(1, &payload(1).ttl(Duration::ZERO));
        assert_eq!(case.judge().unwrap().fleeting, 1);
        case.ms += after;
        case.see(Sight::Started(Some((Epoch([1; 8]), 0))));
        case.see(Sight::Connected);
        case.give();
        case
    };
    // Its service may not have noticed that it was away.
    assert_eq!(again(20_000).judge().unwrap().delivered, 1);
    again(80_000).refuses(|f| matches!(f, Fault::Late { .. }));
}

#[test]
fn a_restart_with_a_position_repeats_what_is_above_it_and_nothing_else() {
    let epoch = Epoch([1; 8]);
    let again = |case: &mut Case, serial: usize| {
        let sight = case.seen[serial + 2].sight.clone();
        case.see(sight);
    };
    let restarted = |position: u64| {
        let mut case = honest(5);
        case.see(Sight::Started(Some((epoch, position))));
        case.see(Sight::Connected);
        case
    };
    assert_eq!(restarted(5).judge().unwrap().delivered, 5);
    restarted(4).refuses(|f| matches!(f, Fault::Lost { serial: 5, .. }));
    let mut case = restarted(4);
    again(&mut case, 5);
    assert_eq!(case.judge().unwrap().delivered, 5);
    let mut case = restarted(5);
    again(&mut case, 5);
    case.refuses(|f| matches!(f, Fault::Twice { serial: 5, .. }));
}

#[test]
fn a_lost_history_has_to_be_announced() {
    let restarted = |gap: bool| {
        let mut case = honest(3);
        case.post(4, &payload(4));
        let now = at(case.ms).0;
        case.channel.restart(now, false);
        case.ms += 10;
        case.see(Sight::Connected);
        if gap {
            case.see(Sight::Gap { stores: StoreSet::ALL, position: 0 });
        }
        case.post(1, &payload(100));
        case.give();
        case.judge()
    };
    assert_eq!(restarted(true).unwrap(), Tally { delivered: 4, covered: 1, gaps: 1, ..Tally::default() });
    assert!(matches!(restarted(false).unwrap_err()[..], [Fault::Lost { generation: 0, serial: 4, .. }]));
}

#[test]
fn random_histories_with_one_event_taken_out_are_refused() {
    let mut rng = Rng::new(11);
    for _ in 0..200 {
        let n = rng.between(1, 40);
        let mut case = Case::new();
        let mut given = Vec::new();
        for serial in 1..=n {
            let post = Post { store: store(rng.between(32, 40) as u8), ..payload(rng.next_u64()) };
            case.post(serial, &post);
            case.give();
            given.push(case.seen.len() - 1);
        }
        assert_eq!(case.judge().unwrap().delivered, n);
        let gone = given[rng.index(given.len())];
        case.seen.remove(gone);
        let faults = case.judge().unwrap_err();
        assert_eq!(faults.iter().filter(|f| matches!(f, Fault::Lost { .. })).count(), 1, "{faults:?}");
    }
}
