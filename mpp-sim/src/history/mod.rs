//! Random histories as data: played, judged, and shrunk when they fail.
//!
//! A [`History`] is a seed and a list of [`Operation`]s, and has a text form, one operation a line. [`History::random`]
//! makes one of a seed, [`History::play`] lets it happen, [`History::must_hold`] judges it; one that fails is made as
//! small as it gets and printed with the command that plays it again.
//!
//! ```
//! use mpp_sim::history::History;
//!
//! let history: History = "seed 7\n\
//!     device\n\
//!     post size=100\n\
//!     wait time=60000\n"
//!     .parse()?;
//! assert_eq!(history.must_hold().judge().delivered, 1);
//! # Ok::<(), String>(())
//! ```
//!
//! A new operation is a line in `operation.rs`, an arm in `play.rs` and a share of the chance in `random.rs`.

mod operation;
mod play;
mod random;
mod shrink;

use std::fmt;
use std::str::FromStr;

pub use self::operation::Operation;
pub use self::play::Played;
pub use self::shrink::Failure;

/// What happens in a world, from a seed and a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct History {
    /// The seed of the world: of machines, network and payloads.
    pub seed: u64,
    /// What happens, in this order.
    pub operations: Vec<Operation>,
}

impl History {
    /// The history of this seed.
    pub fn random(seed: u64) -> Self {
        Self { seed, operations: random::operations(seed) }
    }

    /// Lets it happen; in the end every device is started and gets the time to hear everything. The same history
    /// gives the same run, byte for byte.
    ///
    /// # Panics
    /// If a machine breaks its contract, or a device is not connected in the end.
    pub fn play(&self) -> Played {
        let mut played = Played::new(self.seed, self.operations.first());
        for operation in &self.operations {
            played.step(operation);
        }
        played.finish();
        played
    }

    /// Plays and judges it.
    ///
    /// # Errors
    /// A smaller history that fails too, if this one fails.
    pub fn try_hold(&self) -> Result<Played, Failure> {
        self.try_with(&|played| {
            played.judge();
        })
    }

    /// Plays it, with another judge: `check` panics if something is wrong.
    ///
    /// # Errors
    /// A smaller history that fails too, if this one fails.
    pub fn try_with(&self, check: &dyn Fn(&Played)) -> Result<Played, Failure> {
        shrink::attempt(self, check).map_err(|message| Failure::shrink(self, message, check))
    }

    /// Plays and judges it.
    ///
    /// # Panics
    /// With a smaller history that fails too, if this one fails.
    pub fn must_hold(&self) -> Played {
        self.try_hold().unwrap_or_else(|failure| panic!("{failure}"))
    }
}

/// `seed 7`, and then an operation a line.
impl fmt::Display for History {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "seed {}", self.seed)?;
        self.operations.iter().try_for_each(|operation| writeln!(f, "{operation}"))
    }
}

/// Empty lines and those that begin with `#` say nothing.
impl FromStr for History {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        let mut lines = lines.peekable();
        let seed = lines.next().and_then(|line| line.strip_prefix("seed ")?.trim().parse().ok());
        let seed = seed.ok_or("a history begins with a line such as `seed 7`")?;
        Ok(Self { seed, operations: lines.map(str::parse).collect::<Result<_, _>>()? })
    }
}
