//! A failing history is made as small as it gets.

use std::any::Any;
use std::cell::Cell;
use std::collections::BTreeSet;
use std::fmt;
use std::panic::{self, AssertUnwindSafe};
use std::path::PathBuf;
use std::sync::Once;
use std::time::{Duration, Instant};

use super::{History, Operation, Played};

/// How often a failing history is tried in a smaller form, and how long.
const MOST_RUNS: usize = 4000;
const MOST_TIME: Duration = Duration::from_secs(30);

/// A history that fails, as small as the shrinker could make it.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The history.
    pub history: History,
    /// What it fails with.
    pub message: String,
    /// How many operations it had.
    pub operations: usize,
    /// How many histories were tried.
    pub runs: usize,
}

impl Failure {
    /// Makes a failing history smaller: drops operations, then makes their numbers smaller, as long as it fails. Every
    /// list of operations is a valid history, so whatever fails is a fault, be it the same one or another.
    pub(super) fn shrink(history: &History, message: String, check: &dyn Fn(&Played)) -> Self {
        let mut found =
            Self { history: history.clone(), message, operations: history.operations.len(), runs: 0 };
        let begin = Instant::now();
        loop {
            let before = found.runs;
            let smaller = found.drop_operations(check, begin)
                | found.join_waits(check, begin)
                | found.lower_together(check, begin)
                | found.lower_numbers(check, begin);
            if !smaller || found.runs == before {
                return found;
            }
        }
    }

    fn drop_operations(&mut self, check: &dyn Fn(&Played), begin: Instant) -> bool {
        let mut smaller = false;
        let mut size = self.history.operations.len().div_ceil(2);
        while size > 0 {
            // From the end: what came last is the least likely to be needed by the rest.
            let mut end = self.history.operations.len();
            while end > 0 {
                let start = end.saturating_sub(size);
                let mut candidate = self.history.clone();
                candidate.operations.drain(start..end);
                smaller |= self.try_it(candidate, check, begin);
                end = start;
            }
            size /= 2;
        }
        smaller
    }

    /// What took several times to wait takes one as long.
    fn join_waits(&mut self, check: &dyn Fn(&Played), begin: Instant) -> bool {
        let mut smaller = false;
        for i in (1..self.history.operations.len()).rev() {
            let mut candidate = self.history.clone();
            if let [.., Operation::Wait { time }, Operation::Wait { time: more }] =
                &mut candidate.operations[..=i]
            {
                *time += *more;
                candidate.operations.remove(i);
                smaller |= self.try_it(candidate, check, begin);
            }
        }
        smaller
    }

    /// Numbers of one name that have to agree, such as those of an account, can only become zero together.
    fn lower_together(&mut self, check: &dyn Fn(&Played), begin: Instant) -> bool {
        let mut smaller = false;
        let mut all = self.history.clone();
        let kinds: BTreeSet<_> =
            all.operations.iter_mut().flat_map(Operation::numbers).map(|(name, n)| (name, *n)).collect();
        for kind in kinds.into_iter().filter(|(_, n)| *n != 0) {
            let mut candidate = self.history.clone();
            for (name, number) in candidate.operations.iter_mut().flat_map(Operation::numbers) {
                if (name, *number) == kind {
                    *number = 0;
                }
            }
            smaller |= candidate != self.history && self.try_it(candidate, check, begin);
        }
        smaller
    }

    fn lower_numbers(&mut self, check: &dyn Fn(&Played), begin: Instant) -> bool {
        let mut smaller = false;
        for i in 0..self.history.operations.len() {
            for n in 0..self.history.operations[i].numbers().len() {
                // Zero if it can be, else by halves, else by one.
                let mut lower: fn(u64) -> u64 = |_| 0;
                loop {
                    let mut candidate = self.history.clone();
                    let number = candidate.operations[i].numbers().swap_remove(n).1;
                    if *number == 0 {
                        break;
                    }
                    let old = *number;
                    *number = lower(old);
                    if self.try_it(candidate, check, begin) {
                        smaller = true;
                    } else if lower(old) == 0 && old > 1 {
                        lower = |n| n / 2;
                    } else if lower(old) == old / 2 && old > 2 {
                        lower = |n| n - 1;
                    } else {
                        break;
                    }
                }
            }
        }
        smaller
    }

    fn try_it(&mut self, candidate: History, check: &dyn Fn(&Played), begin: Instant) -> bool {
        if self.runs == MOST_RUNS || begin.elapsed() > MOST_TIME {
            return false;
        }
        self.runs += 1;
        match attempt(&candidate, check) {
            Ok(_) => false,
            Err(message) => {
                self.history = candidate;
                self.message = message;
                true
            }
        }
    }

    /// Writes the history to a file in the directory for temporary files.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn save(&self) -> std::io::Result<PathBuf> {
        let path = std::env::temp_dir().join(format!("mpp-sim-{}.history", self.history.seed));
        let first = self.message.lines().next().unwrap_or_default();
        std::fs::write(&path, format!("# {first}\n{}", self.history))?;
        Ok(path)
    }
}

/// The fault, the list, and the command that plays it again, for which the history is [saved](Failure::save).
impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { history, message, operations, runs } = self;
        writeln!(f, "seed {}: {message}", history.seed)?;
        let left = history.operations.len();
        writeln!(f, "{operations} operations shrunk to {left} in {runs} runs:\n\n{history}")?;
        match self.save() {
            Ok(path) => {
                let path = path.display();
                writeln!(
                    f,
                    "again: MPP_SIM_HISTORY={path} cargo test -p mpp-sim --test histories regressions"
                )?;
                write!(f, "keep:  cp {path} mpp-sim/tests/regressions/")
            }
            Err(error) => write!(f, "(not saved: {error})"),
        }
    }
}

/// Plays a history and checks it, and catches what panics.
pub(super) fn attempt(history: &History, check: &dyn Fn(&Played)) -> Result<Played, String> {
    thread_local!(static QUIET: Cell<bool> = const { Cell::new(false) });
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let loud = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if !QUIET.get() {
                loud(info);
            }
        }));
    });
    let was = QUIET.replace(true);
    let result = panic::catch_unwind(AssertUnwindSafe(|| {
        let played = history.play();
        check(&played);
        played
    }));
    QUIET.set(was);
    result.map_err(|payload| words(payload.as_ref()))
}

fn words(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().map(|s| (*s).to_owned());
    text.or_else(|| payload.downcast_ref::<String>().cloned()).unwrap_or_else(|| "it panics".to_owned())
}
