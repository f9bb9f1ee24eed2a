use std::vec;

use proptest::prelude::*;

use super::*;

const NETWORK: NetworkId = NetworkId([1; 16]);
const START: Instant = Instant::from_micros(1_000_000);

fn limits(shortest: u64) -> Limits {
    Limits { safe: secs(25), shortest: secs(shortest), learn: true }
}

fn keepalive() -> Keepalive {
    Keepalive::new(limits(25), START, Some(NETWORK), Vec::new())
}

/// What is tried until nothing is due, in a network that remembers so long.
fn learn(keepalive: &mut Keepalive, now: &mut Instant, lives: Duration) -> Vec<u64> {
    let mut tried = Vec::new();
    while let Some(silence) = keepalive.begin(*now) {
        tried.push(silence.as_secs());
        *now = *now + silence;
        if silence < lives {
            keepalive.remembered(*now, silence);
        } else {
            keepalive.forgotten(*now, silence);
        }
    }
    tried
}

#[test]
fn the_ladder_is_climbed_and_what_is_forgotten_is_tried_twice() {
    for (shortest, lives, tried, interval) in [
        (25, 300, vec![25, 55, 110, 240], 216),
        (25, 120, vec![25, 55, 110, 240, 240], 99),
        (25, 20, vec![25, 25], 25),
        (5, 20, vec![25, 25, 12], 10),
        (5, 8, vec![25, 25, 12, 12, 6], 5),
        (5, 4, vec![25, 25, 12, 12, 6, 6], 5),
    ] {
        let mut keepalive = Keepalive::new(limits(shortest), START, None, Vec::new());
        let mut now = START;
        assert_eq!(keepalive.begin(now), None, "not at once");
        now = now + SETTLED;
        assert_eq!(learn(&mut keepalive, &mut now, secs(lives)), tried);
        assert_eq!(keepalive.interval().as_secs(), interval, "{lives}");
    }
}

#[test]
fn waits_double_and_end_after_a_day() {
    let mut keepalive = keepalive();
    let mut now = START + SETTLED;
    learn(&mut keepalive, &mut now, secs(120));
    for hours in [1, 2, 4, 8, 16, 24, 24] {
        let due = keepalive.due_at().unwrap();
        assert_eq!(due, now + secs(hours * 3600));
        now = due;
        assert_eq!(learn(&mut keepalive, &mut now, secs(120)), [240, 240]);
    }
    // It remembers longer now.
    now = keepalive.due_at().unwrap();
    assert_eq!(learn(&mut keepalive, &mut now, secs(300)), [240]);
    assert_eq!((keepalive.due_at(), keepalive.interval()), (None, secs(216)));
    for (minutes, tried) in
        [(10, vec![110]), (20, vec![110]), (40, vec![110]), (80, vec![110]), (160, vec![110])]
    {
        assert!(keepalive.missed(now, secs(200)) || keepalive.missed(now, secs(100)));
        assert_eq!((keepalive.interval(), keepalive.reason()), (secs(25), IntervalReason::Missed));
        assert_eq!(keepalive.due_at(), Some(now + secs(minutes * 60)));
        now = now + secs(minutes * 60);
        let silence = keepalive.begin(now).unwrap();
        if minutes == 10 {
            assert_eq!(vec![silence.as_secs()], tried, "half of 240, or less");
        }
        now = now + silence;
        keepalive.remembered(now, secs(110));
    }
    // A miss a day ago does not count.
    now = now + LONGEST;
    assert!(keepalive.missed(now, secs(80)));
    assert_eq!(keepalive.due_at(), Some(now + secs(600)));
}

#[test]
fn a_measurement_begins_anew_after_a_miss() {
    let mut keepalive = keepalive();
    let mut now = START + SETTLED;
    learn(&mut keepalive, &mut now, secs(300));
    keepalive.measure();
    for silence in [25, 55] {
        assert_eq!(keepalive.begin(now), Some(secs(silence)));
        keepalive.remembered(now, secs(silence));
    }
    assert!(keepalive.missed(now, secs(200)));
    assert_eq!(keepalive.begin(now), Some(secs(25)));
    assert_eq!(keepalive.interval(), secs(25));
}

/// A train on the way from one network without a name to the next.
#[test]
fn tries_are_few_whatever_there_is_to_learn() {
    let mut keepalive = keepalive();
    let mut now = START;
    let mut tries = vec![];
    for _ in 0..500 {
        keepalive.moved(now, None);
        now = now + SETTLED;
        if keepalive.begin(now).is_some() {
            tries.push(now);
            keepalive.remembered(now, FIRST);
        }
        let hour = tries.iter().filter(|at| now.since(**at) < secs(3600)).count();
        assert!(hour <= 14, "{hour}");
    }
    assert!(tries.len() > 14);
}

#[test]
fn a_miss_after_a_longer_silence_than_was_shown_contradicts_nothing() {
    let mut keepalive = keepalive();
    let mut now = START + SETTLED;
    learn(&mut keepalive, &mut now, secs(120));
    assert!(!keepalive.missed(now, secs(3600)), "a machine that slept");
    assert_eq!((keepalive.interval(), keepalive.misses), (secs(99), 1));
    assert!(keepalive.missed(now, secs(99)));
    assert_eq!((keepalive.interval(), keepalive.misses), (secs(25), 2));
}

#[test]
fn eight_networks_are_remembered_the_last_ones() {
    let mut keepalive = keepalive();
    let mut now = START;
    for n in 1..=20 {
        keepalive.moved(now, Some(NetworkId([n; 16])));
        now = now + LONGEST;
        learn(&mut keepalive, &mut now, secs(if n % 2 == 0 { 120 } else { 300 }));
    }
    let names: Vec<u8> = keepalive.learned().map(|(network, _)| network.0[0]).collect();
    assert_eq!(names, [20, 19, 18, 17, 16, 15, 14, 13]);
    keepalive.moved(now, Some(NetworkId([15; 16])));
    assert_eq!(keepalive.interval(), secs(216));
    keepalive.moved(now, Some(NetworkId([1; 16])));
    assert_eq!(keepalive.interval(), secs(25), "forgotten");
    assert_eq!(keepalive.learned().count(), 7, "of the present one nothing is known yet");
}

#[test]
fn what_is_in_doubt_is_still_in_doubt_after_a_restart() {
    let mut before = keepalive();
    let mut now = START + SETTLED;
    learn(&mut before, &mut now, secs(300));
    assert!(before.missed(now, secs(216)));
    let learned: Vec<_> = before.learned().collect();
    let mut keepalive = Keepalive::new(limits(25), now, Some(NETWORK), learned);
    keepalive.connected(now);
    assert_eq!((keepalive.interval(), keepalive.reason()), (secs(25), IntervalReason::Missed));
    assert_eq!(keepalive.due_at(), Some(now + secs(600)));
}

/// A month lies between misses, and every day another network.
// SPEC: R-waits
#[test]
fn a_miss_a_day_ago_does_not_count_wherever_the_device_has_been() {
    let mut keepalive = keepalive();
    let mut now = START + SETTLED;
    learn(&mut keepalive, &mut now, secs(300));
    for month in 0..10 {
        now = now + LONGEST * 30;
        keepalive.moved(now, Some(NetworkId([2; 16])));
        now = now + secs(8 * 3600);
        keepalive.moved(now, Some(NETWORK));
        now = now + secs(2 * 3600);
        assert!(keepalive.missed(now, secs(60)));
        assert_eq!(keepalive.due_at(), Some(now + HOLD), "month {month}");
        now = now + HOLD;
        learn(&mut keepalive, &mut now, secs(300));
        // A longer one waits as long again.
        now = now + HOLD;
        learn(&mut keepalive, &mut now, secs(300));
        assert_eq!(keepalive.interval(), secs(216));
    }
}

/// What is waited for in a network is waited for once, whoever comes and goes.
// SPEC: R-waits
#[test]
fn no_wait_begins_anew_on_arrival() {
    let mut keepalive = keepalive();
    let mut now = START + SETTLED;
    learn(&mut keepalive, &mut now, secs(300));
    (keepalive.here.misses, keepalive.here.misses_until) = (8, now + LONGEST);
    assert!(keepalive.missed(now, secs(60)));
    let due = now + LONGEST;
    assert_eq!(keepalive.due_at(), Some(due), "the longest wait");
    // What is kept is rounded.
    let is_due = |k: &Keepalive| k.due_at() >= Some(due - secs(30)) && k.due_at() <= Some(due + secs(30));
    for _ in 0..9 {
        now = now + secs(5400);
        keepalive.moved(now, Some(NetworkId([2; 16])));
        now = now + secs(3600);
        keepalive.moved(now, Some(NETWORK));
        assert!(is_due(&keepalive));
        // Nor by a restart.
        let calendar = Calendar::new(now, UnixTime::from_millis(1 << 40));
        let kept: Vec<_> = keepalive.learned().map(|(n, known)| (n, known.keep(now, &calendar))).collect();
        let revived = kept.into_iter().map(|(n, known)| (n, known.revive(now, calendar.unix(now)))).collect();
        keepalive = Keepalive::new(limits(25), now, Some(NETWORK), revived);
        assert!(is_due(&keepalive));
        let corrected = Calendar::new(now, calendar.unix(now) + Duration::from_millis(3));
        let kept = |calendar| keepalive.here.keep(now, calendar);
        assert_eq!(kept(&calendar), kept(&corrected), "nothing to write");
    }
    assert_eq!(keepalive.here.misses(due + secs(30)), 0, "a miss a day ago");
}

// SPEC: R-waits
#[test]
fn what_was_forgotten_is_not_tried_again_on_arrival() {
    let mut keepalive = keepalive();
    let mut now = START + SETTLED;
    assert_eq!(learn(&mut keepalive, &mut now, secs(120)), [25, 55, 110, 240, 240]);
    for (hours, other) in [(1, NETWORK), (2, NetworkId([2; 16])), (4, NETWORK), (8, NetworkId([2; 16]))] {
        let due = now + secs(hours * 3600);
        while now < due {
            assert_eq!(keepalive.due_at().map(|at| at.max(due)), Some(due.max(now + SETTLED)));
            assert_eq!(keepalive.begin(now), None, "{hours}");
            keepalive.moved(now, Some(other));
            keepalive.moved(now, Some(NETWORK));
            now = now + secs(1200);
        }
        now = keepalive.due_at().expect("it is tried again");
        assert_eq!(learn(&mut keepalive, &mut now, secs(120)), [240, 240]);
    }
}

/// A clock that is years off, before or after the restart.
// SPEC: R-waits
#[test]
fn a_wrong_clock_makes_no_longer_wait() {
    let mut keepalive = keepalive();
    let mut now = START + SETTLED;
    learn(&mut keepalive, &mut now, secs(300));
    assert!(keepalive.missed(now, secs(60)));
    let (_, known) = keepalive.learned().next().expect("one network");
    let kept = known.keep(now, &Calendar::new(now, UnixTime::from_millis(1 << 50)));
    for (clock, longest) in [(0, LONGEST), (1 << 60, Duration::ZERO)] {
        let known = kept.revive(now, UnixTime::from_millis(clock));
        assert_eq!((known.not_before, known.misses_until), (now + longest, now + longest));
    }
}

/// What can happen to it.
#[derive(Clone, Copy, Debug)]
enum Act {
    Wait(u64),
    /// Begin, if something is due, and end that way.
    Try(u8),
    Miss(u64),
    Move(u8),
    Connect,
    Measure,
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        4 => (0..20_000u64).prop_map(Act::Wait),
        8 => (0..6u8).prop_map(Act::Try),
        2 => (0..300u64).prop_map(Act::Miss),
        1 => (0..4u8).prop_map(Act::Move),
        1 => Just(Act::Connect),
        1 => Just(Act::Measure),
    ]
}

proptest! {
    /// Whatever happens: intervals lie within what the host allows, none is longer than what was shown since the last
    /// miss, tries are few, and where there is something due there is something to try.
    #[test]
    fn whatever_happens(acts in proptest::collection::vec(act(), 0..200), shortest in 5..=25u64) {
        let mut keepalive = Keepalive::new(limits(shortest), START, Some(NETWORK), Vec::new());
        let mut now = START;
        let mut tries = Vec::new();
        let mut shown = Duration::ZERO;
        let mut safe_until = START;
        for act in acts {
            match act {
                Act::Wait(seconds) => now = now + secs(seconds),
                Act::Miss(silence) => {
                    let proven = keepalive.here.proven;
                    prop_assert_eq!(keepalive.missed(now, secs(silence)), secs(silence) <= proven && proven > Duration::ZERO || silence == 0);
                    if secs(silence) <= proven {
                        shown = Duration::ZERO;
                        safe_until = now + secs(600);
                    }
                }
                Act::Move(network) => {
                    keepalive.moved(now, Some(NetworkId([network; 16])));
                    prop_assume!(!keepalive.is_measuring() || keepalive.end_measuring());
                    shown = LONGEST_SILENCE;
                    safe_until = START;
                }
                Act::Connect => keepalive.connected(now),
                Act::Measure => keepalive.measure(),
                Act::Try(end) => {
                    let measuring = keepalive.is_measuring();
                    let due = keepalive.due_at().is_some_and(|at| at <= now);
                    let silence = keepalive.begin(now);
                    prop_assert_eq!(due, silence.is_some());
                    let Some(silence) = silence else { continue };
                    if !measuring {
                        tries.push(now);
                    } else {
                        safe_until = START;
                    }
                    now = now + silence;
                    match end {
                        0 => { keepalive.inconclusive(now, secs(0)); }
                        1 => { keepalive.refused(silence); }
                        2 | 3 => { keepalive.forgotten(now, silence); }
                        _ => {
                            keepalive.remembered(now, silence);
                            shown = shown.max(silence);
                        }
                    }
                }
            }
            let interval = keepalive.interval();
            prop_assert!(interval >= secs(shortest) && interval <= secs(216), "{interval:?}");
            prop_assert!(interval <= secs(25) || interval <= shown * 9 / 10, "{interval:?}, shown {shown:?}");
            prop_assert!(now >= safe_until || interval <= secs(25), "{interval:?} right after a miss");
            let hour = tries.iter().filter(|at| now.since(**at) < secs(3600)).count();
            prop_assert!(hour <= 14, "{hour} tries in an hour");
        }
    }
}
