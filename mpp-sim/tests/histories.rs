//! Random histories before the judge.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;
use std::{env, fs};

use mpp_proto::Instant;
use mpp_sim::each_seed;
use mpp_sim::history::{History, Operation, Played};
use mpp_sim::model::{Sight, Tally, judge};

/// More than 10,000 device-hours.
const HISTORIES: u64 = 230;

/// Histories that failed once, and the one that `MPP_SIM_HISTORY` names, or only that one.
#[test]
fn regressions_hold() {
    let directory = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/regressions"));
    let files: Vec<PathBuf> = match env::var_os("MPP_SIM_HISTORY") {
        Some(file) => vec![file.into()],
        None => {
            let all = fs::read_dir(directory).expect("the directory").map(|f| f.expect("a file").path());
            all.filter(|f| f.extension().is_some_and(|e| e == "history")).collect()
        }
    };
    for file in files {
        let text = fs::read_to_string(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        let history: History = text.parse().unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        println!("{}", file.display());
        history.must_hold();
    }
}

/// A judge that is wrong in a way that takes a device, two posts, and time in between.
fn wrong(played: &Played) {
    for device in played.world.devices() {
        let came: Vec<_> = played.world.payloads(device).collect();
        assert!(came.iter().all(|(serial, _)| serial.0 < 2), "a second event came");
    }
}

#[test]
fn a_failing_history_shrinks_and_plays_again_from_its_text() {
    let history = History::random(3);
    assert!(history.operations.len() > 50);
    let failure = history.try_with(&wrong).err().expect("it fails");
    let left = &failure.history.operations;
    let posts = left.iter().filter(|o| matches!(o, Operation::Post { .. })).count();
    assert!(left.len() <= 3 && posts <= 2, "{failure}");
    assert!(failure.message.contains("a second event came"), "{failure}");
    let text = failure.history.to_string();
    assert!(failure.to_string().contains(&text));
    let again: History = text.parse().expect("what it printed");
    assert_eq!(again, failure.history);
    assert_eq!(again.try_with(&wrong).err().map(|f| f.message), Some(failure.message));
}

#[test]
fn what_has_to_take_a_time_shrinks_to_that_time() {
    let text = "seed 1\ndevice\nwait time=500\nhold\nwait time=500\nwait time=500\npost size=10\n";
    let history: History = text.parse().expect("a history");
    let late = |played: &Played| {
        let Some(device) = played.devices.first() else { return };
        let (channel, ..) = played.world.evidence(*device);
        let since_start = |at: Instant| at.as_micros() - 1_000_000_000;
        assert!(channel.posted.iter().all(|p| since_start(p.at) < 1_200_000), "posted late");
    };
    let failure = history.try_with(&late).err().expect("it fails");
    assert_eq!(failure.history.to_string(), "seed 1\ndevice\nwait time=1200\npost\n");
}

#[test]
fn random_histories_are_allowed() {
    let mut all = Tally::default();
    let (mut histories, mut time) = (0, Duration::ZERO);
    let mut counts = BTreeMap::new();
    each_seed(HISTORIES, |seed| {
        let played = History::random(seed).must_hold();
        all += played.judge();
        time += played.device_time;
        for (name, count) in &played.counts {
            *counts.entry(*name).or_insert(0) += count;
        }
        histories += 1;
    });
    let hours = time.as_secs() / 3600;
    println!("{histories} histories, {hours} device-hours: 0 lost, 0 double, 0 out of order; {all:?}");
    if histories == HISTORIES {
        assert!(hours >= 10_000, "{hours} device-hours");
        // A scenario in which one of these never happens tests less than it says.
        let Tally { delivered, changed, superseded, expired, filtered, fleeting, covered, unknown, gaps } =
            all;
        let all = [delivered, changed, superseded, expired, filtered, fleeting, covered, unknown, gaps];
        assert!(all.iter().all(|n| *n > 100), "{all:?}");
        let rare = [
            "attack",
            "box",
            "device-clock",
            "move",
            "reboot",
            "restart",
            "rebind",
            "forget",
            "service-clock",
            "udp",
            "web",
        ];
        assert!(rare.iter().all(|name| counts.get(name) > Some(&50)), "{counts:?}");
    }
}

#[test]
fn a_history_with_an_event_removed_doubled_or_swapped_is_refused() {
    let (mut removed, mut doubled, mut swapped) = (0, 0, 0);
    each_seed(40, |seed| {
        let history = History::random(seed).play();
        for device in history.devices {
            let (channel, seen, end) = history.world.evidence(device);
            let honest = judge(&channel, &seen, &end);
            assert!(honest.is_ok(), "{device:?}: {honest:?}");
            let last_start =
                seen.iter().rposition(|s| matches!(s.sight, Sight::Started(_))).unwrap_or_default();
            let event = |i: &usize| matches!(seen[*i].sight, Sight::Event { .. });
            for i in (last_start..seen.len()).filter(event) {
                let mut twice = seen.clone();
                twice.insert(i + 1, seen[i].clone());
                assert!(judge(&channel, &twice, &end).is_err(), "{device:?}: sight {i} doubled");
                doubled += 1;
                let next = (i + 1..seen.len()).find(|j| !matches!(seen[*j].sight, Sight::Taken(_)));
                if let Some(next) = next.filter(event) {
                    let mut wrong = seen.clone();
                    wrong[i].sight = seen[next].sight.clone();
                    wrong[next].sight = seen[i].sight.clone();
                    assert!(
                        judge(&channel, &wrong, &end).is_err(),
                        "{device:?}: sights {i} and {next} swapped"
                    );
                    swapped += 1;
                }
                // Removed: it must be missed, unless something else explains that it did not come.
                let mut without = seen.clone();
                without.remove(i);
                removed += u64::from(judge(&channel, &without, &end).is_err());
            }
        }
    });
    assert!(doubled > 1000 && swapped > 500 && removed > doubled / 3, "{removed} {doubled} {swapped}");
}
