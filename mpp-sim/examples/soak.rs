//! Random histories over a range of seeds, on all cores, until somebody stops it or the range is done:
//!
//! ```sh
//! cargo run --release -p mpp-sim --example soak -- 1000..2000
//! ```
//!
//! Every history is judged: each event that a device is owed was delivered once and in order, or there is an allowed
//! reason why not. One that is not allowed is shrunk and printed with the command that plays it again, and the exit
//! code is 1. A second argument is the number of threads; the default is all cores.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use std::{env, thread};

use mpp_sim::NetworkStats;
use mpp_sim::history::{History, Played};
use mpp_sim::model::Tally;

/// Seconds between two lines of progress.
const PROGRESS: u64 = 10;

#[derive(Default)]
struct Sum {
    histories: u64,
    device_time: Duration,
    posted: u64,
    tally: Tally,
    network: NetworkStats,
    operations: BTreeMap<&'static str, u64>,
    failures: Vec<String>,
}

impl Sum {
    fn add(&mut self, mut played: Played) {
        self.histories += 1;
        self.device_time += played.device_time;
        self.tally += played.judge();
        self.network += played.world.network().stats();
        for (name, count) in played.counts {
            *self.operations.entry(name).or_default() += count;
        }
        self.posted = self.operations.get("post").copied().unwrap_or_default();
    }

    fn hours(&self) -> f64 {
        self.device_time.as_secs_f64() / 3600.0
    }
}

fn main() -> ExitCode {
    let mut args = env::args().skip(1);
    let range = args.next().unwrap_or_else(|| "0..1000".to_owned());
    let range =
        range.split_once("..").and_then(|(a, b)| Some((a.parse::<u64>().ok()?, b.parse::<u64>().ok()?)));
    let cores = || thread::available_parallelism().map_or(1, usize::from);
    let threads = args.next().map_or_else(|| Some(cores()), |n| n.parse().ok());
    let (Some((from, to)), Some(threads)) = (range, threads) else {
        eprintln!("usage: soak [FROM..TO] [THREADS], such as: soak 1000..2000 4");
        return ExitCode::from(2);
    };
    let next = AtomicU64::new(from);
    let sum = Mutex::new(Sum::default());
    let begin = Instant::now();
    let lines = AtomicU64::new(0);
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= to {
                        return;
                    }
                    let result = History::random(seed).try_hold();
                    let mut sum = sum.lock().expect("nobody panics with it");
                    match result {
                        Ok(played) => sum.add(played),
                        Err(failure) => {
                            let text = failure.to_string();
                            println!("{text}\n");
                            sum.failures.push(text);
                        }
                    }
                    let line = begin.elapsed().as_secs() / PROGRESS;
                    if lines.fetch_max(line, Ordering::Relaxed) < line {
                        println!(
                            "{:>6} s  seed {seed}  {:>9.0} device-hours  {} events  {} failures",
                            begin.elapsed().as_secs(),
                            sum.hours(),
                            sum.posted,
                            sum.failures.len()
                        );
                    }
                }
            });
        }
    });
    report(&sum.into_inner().expect("nobody panicked with it"), from..to, begin.elapsed())
}

fn report(sum: &Sum, seeds: std::ops::Range<u64>, took: Duration) -> ExitCode {
    println!(
        "seeds {seeds:?}: {} histories, {:.0} device-hours in {:.0} s",
        sum.histories,
        sum.hours(),
        took.as_secs_f64()
    );
    let operations: Vec<_> = sum.operations.iter().map(|(name, count)| format!("{name} {count}")).collect();
    println!("operations: {}", operations.join(", "));
    println!("network: {:?}", sum.network);
    println!("events x devices: {:?}", sum.tally);
    if sum.failures.is_empty() {
        println!("0 lost, 0 double, 0 out of order");
        ExitCode::SUCCESS
    } else {
        println!("{} histories failed", sum.failures.len());
        ExitCode::FAILURE
    }
}
