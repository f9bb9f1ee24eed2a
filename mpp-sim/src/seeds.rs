//! Running a test over many seeds, and again over the one that failed.

use std::env;
use std::thread;

/// Runs `test` with the seeds `0..count`. A seed whose test panics is printed.
///
/// The environment changes which seeds are run: `MPP_SIM_SEED=7` only the seed 7, to look at a failure again;
/// `MPP_SIM_SEEDS=1000..2000` this range instead of the test's own, to soak.
///
/// # Panics
/// If one of the variables is set to something else.
pub fn each_seed(count: u64, mut test: impl FnMut(u64)) {
    struct Announce(u64);
    impl Drop for Announce {
        fn drop(&mut self) {
            if thread::panicking() {
                eprintln!("seed {} failed; again: MPP_SIM_SEED={} cargo test -p mpp-sim", self.0, self.0);
            }
        }
    }
    let number = |text: &str| text.trim().parse::<u64>().unwrap_or_else(|_| panic!("not a seed: {text}"));
    let seeds = match (env::var("MPP_SIM_SEED"), env::var("MPP_SIM_SEEDS")) {
        (Ok(one), _) => number(&one)..number(&one) + 1,
        (_, Ok(range)) => {
            let (from, to) = range.split_once("..").expect("MPP_SIM_SEEDS is a range, such as 1000..2000");
            number(from)..number(to)
        }
        _ => 0..count,
    };
    for seed in seeds {
        let _announce = Announce(seed);
        test(seed);
    }
}
