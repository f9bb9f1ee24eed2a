use super::*;
use proptest::prelude::*;
use std::vec::Vec;

impl Nodes for Vec<Node> {
    fn node(&mut self, key: u32) -> &mut Node {
        &mut self[key as usize]
    }
}

/// What the wheel should do, with a list searched from end to end and time that does not wrap. A timer that fires may
/// schedule another one, as the machines above do.
#[derive(Default)]
struct Model {
    now: u64,
    filed: Vec<(u64, u32)>,
}

impl Model {
    fn cancel(&mut self, key: u32) -> bool {
        let before = self.filed.len();
        self.filed.retain(|&(_, k)| k != key);
        self.filed.len() < before
    }

    fn schedule(&mut self, key: u32, distance: i64) {
        self.cancel(key);
        self.filed.push((self.now.saturating_add_signed(distance).max(self.now), key));
    }

    fn earliest(&self) -> Option<u64> {
        self.filed.iter().map(|&(at, _)| at).min()
    }

    fn expire(&mut self, now: u64) -> Option<u32> {
        match self.earliest() {
            Some(at) if at <= now => {
                self.now = at;
                // The first of this tick, as `filed` is in the order of filing.
                let first = self.filed.iter().position(|&(other, _)| other == at)?;
                Some(self.filed.remove(first).1)
            }
            _ => {
                self.now = now;
                None
            }
        }
    }
}

const KEYS: u32 = 12;

#[derive(Clone, Debug)]
enum Op {
    Schedule(u32, i64),
    Cancel(u32),
    Advance(u64),
}

/// Distances around the borders of levels as often as any.
fn distance(max: i64) -> impl Strategy<Value = i64> {
    let border = (1..LEVELS as u32, -70..70i64).prop_map(move |(n, d)| ((1i64 << (BITS * n)) + d).min(max));
    // Few different ticks, so that many timers share one.
    prop_oneof![2 => 0..8i64, 2 => border, 2 => 0..max.min(10_000), 1 => 0..=max, 1 => -9_000..0i64]
}

fn ops(max: i64) -> impl Strategy<Value = Vec<Op>> {
    let op = prop_oneof![
        4 => (0..KEYS, distance(max)).prop_map(|(key, d)| Op::Schedule(key, d)),
        1 => (0..KEYS).prop_map(Op::Cancel),
        3 => distance(max).prop_map(|d| Op::Advance(d.unsigned_abs())),
    ];
    prop::collection::vec(op, 0..60)
}

/// What a timer does when it fires: nothing, or schedule a timer at a distance ahead.
fn reactions(max: i64) -> impl Strategy<Value = Vec<Option<(u32, i64)>>> {
    prop::collection::vec(prop::option::of((0..KEYS, 1..max)), KEYS as usize)
}

fn start() -> impl Strategy<Value = u32> {
    prop_oneof![Just(0), any::<u32>(), (0..20_000u32).prop_map(|d| u32::MAX - d), Just((1 << 31) - 100)]
}

fn nodes() -> Vec<Node> {
    std::vec![Node::default(); KEYS as usize]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Each key once, at its tick or as soon as the caller comes, in order; and `next` between now and the earliest.
    #[test]
    fn against_the_model(start in start(), ops in ops((1 << 31) - 1), reactions in reactions(100_000)) {
        let (mut wheel, mut nodes) = (Wheel::new(start), nodes());
        let mut model = Model { now: u64::from(start), ..Model::default() };
        // A timer that keeps scheduling a timer must not keep a jump of 24 days busy.
        let mut patience = 500;
        for op in ops {
            match op {
                Op::Schedule(key, d) => {
                    wheel.schedule(&mut nodes, key, low(model.now.wrapping_add_signed(d)));
                    model.schedule(key, d);
                }
                Op::Cancel(key) => prop_assert_eq!(wheel.cancel(&mut nodes, key), model.cancel(key)),
                Op::Advance(by) => {
                    let now = model.now + by;
                    loop {
                        let fired = wheel.expire(&mut nodes, low(now));
                        prop_assert_eq!(fired, model.expire(now));
                        let Some(key) = fired else { break };
                        if let Some((key, d)) = reactions[key as usize] && patience > 0 {
                            patience -= 1;
                            wheel.schedule(&mut nodes, key, low(model.now + d as u64));
                            model.schedule(key, d);
                        }
                    }
                    if let Some(next) = wheel.next() {
                        let ahead = u64::from(next.wrapping_sub(low(now)));
                        prop_assert!(ahead > 0 && now + ahead <= model.earliest().unwrap());
                    }
                }
            }
            prop_assert_eq!(wheel.next().is_some(), !model.filed.is_empty());
            for key in 0..KEYS {
                prop_assert_eq!(nodes[key as usize].is_scheduled(), model.filed.iter().any(|&(_, k)| k == key));
            }
        }
    }
}

/// Runs the operations, driving the wheel at every tick or when it asks, and writes down what fired when.
fn trace(start: u32, ops: &[Op], reactions: &[Option<(u32, i64)>], every_tick: bool) -> Vec<(u64, u32)> {
    let (mut wheel, mut nodes, mut now) = (Wheel::new(start), nodes(), u64::from(start));
    let mut fired = Vec::new();
    for op in ops {
        match *op {
            Op::Schedule(key, d) => wheel.schedule(&mut nodes, key, low(now.wrapping_add_signed(d))),
            Op::Cancel(key) => {
                wheel.cancel(&mut nodes, key);
            }
            Op::Advance(by) => {
                let until = now + by;
                loop {
                    while let Some(key) = wheel.expire(&mut nodes, low(now)) {
                        fired.push((now, key));
                        if let Some((key, d)) = reactions[key as usize] {
                            wheel.schedule(&mut nodes, key, low(now + d as u64));
                        }
                    }
                    if now == until {
                        break;
                    }
                    now = match wheel.next() {
                        _ if every_tick => now + 1,
                        Some(next) => until.min(now + u64::from(next.wrapping_sub(low(now)))),
                        None => until,
                    };
                }
            }
        }
    }
    fired
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn driven_at_next_or_at_every_tick(start in start(), ops in ops(20_000), reactions in reactions(3000)) {
        prop_assert_eq!(trace(start, &ops, &reactions, false), trace(start, &ops, &reactions, true));
    }
}

#[test]
fn far_timers_cost_a_jump_for_each_level() {
    let (mut wheel, mut nodes) = (Wheel::new(u32::MAX - 5), nodes());
    let at = low(u64::from(u32::MAX - 5) + 0x7654_3210);
    wheel.schedule(&mut nodes, 3, at);
    let mut jumps = 0;
    while wheel.expire(&mut nodes, wheel.next().unwrap()).is_none() {
        jumps += 1;
    }
    assert_eq!(low(wheel.now), at);
    assert!(jumps < LEVELS, "{jumps} jumps");
    assert_eq!(wheel.next(), None);
    assert_eq!(wheel.occupied, [0; LEVELS]);
}

#[test]
fn one_tick_fires_in_the_order_of_filing_across_levels() {
    let (mut wheel, mut nodes) = (Wheel::new(0), nodes());
    let at = 300_000;
    // Filed from ever closer, so each on a lower level than the one before, or behind it.
    for (key, now) in
        [0, 1, 100_000, 290_000, 295_904, 299_000, 299_930, 299_990, 299_999].into_iter().enumerate()
    {
        assert_eq!(wheel.expire(&mut nodes, now), None);
        wheel.schedule(&mut nodes, key as u32, at);
    }
    let mut fired = Vec::new();
    while let Some(key) = wheel.expire(&mut nodes, at) {
        fired.push(key);
    }
    assert_eq!(fired, [0, 1, 2, 3, 4, 5, 6, 7, 8]);
}

#[test]
fn a_hundred_thousand_leases() {
    const N: u32 = 100_000;
    let mut nodes: Vec<Node> = std::vec![Node::default(); N as usize];
    let mut wheel = Wheel::new(u32::MAX - 40_000);
    let at = |key: u32| (u32::MAX - 40_000).wrapping_add(1 + key.wrapping_mul(2_654_435_761) % 80_000);
    for key in 0..N {
        wheel.schedule(&mut nodes, key, at(key));
    }
    for key in (0..N).step_by(3) {
        assert!(wheel.cancel(&mut nodes, key));
    }
    let mut fired = Vec::new();
    for now in (0..=80_000).step_by(70).map(|by| (u32::MAX - 40_000).wrapping_add(by)) {
        while let Some(key) = wheel.expire(&mut nodes, now) {
            assert!(now.wrapping_sub(at(key)) < 70);
            fired.push((at(key).wrapping_add(40_001), key));
        }
    }
    assert!(fired.is_sorted(), "by tick, then in the order of filing");
    // 80,000 is no multiple of 70: the last 60 ticks are still ahead.
    assert_eq!(fired.len(), (0..N).filter(|k| k % 3 != 0 && at(*k).wrapping_add(40_001) <= 79_940).count());
}

#[test]
fn the_clock_of_the_caller() {
    let (mut wheel, mut nodes) = (Wheel::new(1_000_000), nodes());
    wheel.schedule(&mut nodes, 0, 1_000_010);
    assert_eq!(wheel.expire(&mut nodes, 999_000), None, "a slip into the past changes nothing");
    assert_eq!((wheel.next().is_some(), wheel.now), (true, 1_000_000));
    // Asleep for 40 days.
    let now = 1_000_000u32.wrapping_add(3_456_000_000);
    assert_eq!(wheel.expire(&mut nodes, now), Some(0));
    assert_eq!(wheel.expire(&mut nodes, now), None);
    assert_eq!(wheel.now, 3_457_000_000);
    wheel.schedule(&mut nodes, 1, now);
    assert_eq!(wheel.next(), Some(now), "what has passed is due now");
    assert_eq!(wheel.expire(&mut nodes, now), Some(1));
}

#[test]
fn ticks_of_instants() {
    let us = Instant::from_micros;
    assert_eq!((tick(us(5000)), tick(us(5001)), tick_floor(us(5999))), (5, 6, 5));
    let (lap, now) = ((1u64 << 32) * 1000, us((1 << 32) * 1000 + 700));
    assert_eq!((tick(us(lap - 1)), tick_floor(us(lap - 1))), (0, u32::MAX));
    assert_eq!(instant_of(u32::MAX, now), us(lap - 1000));
    assert_eq!(instant_of(0, now), us(lap));
    assert_eq!(instant_of(1, now), us(lap + 1000));
    assert_eq!(instant_of(u32::MAX, us(1500)), Instant::ZERO);
    // A deadline: rounded up, the present if passed however long ago, no further than the horizon.
    assert_eq!((deadline(us(lap + 701), now), deadline(us(3), now), deadline(now, now)), (1, 1, 1));
    assert_eq!(deadline(us(u64::MAX), now), HORIZON);
}

proptest! {
    /// A wheel driven at the instants that it asks for is never called too early and never twice for one.
    #[test]
    fn instants_and_ticks_agree(now in 0..u64::MAX / 2, ahead in 0..1u64 << 39) {
        let (now, at) = (Instant::from_micros(now), Instant::from_micros(now + ahead));
        let wake = instant_of(deadline(at, now), now);
        prop_assert!(wake >= at && wake.as_micros() - at.as_micros() < 1000);
        prop_assert_eq!(tick_floor(wake), deadline(at, now));
        prop_assert_eq!(deadline(at, now), tick(at));
    }
}
