//! Randomness for the state machines.

use mpp_proto::Seed;

/// A seed of the operating system's.
///
/// # Panics
/// If the system has no random bytes to give. Nothing of this protocol can be done safely without: std's own hash maps
/// panic here too.
pub(crate) fn seed() -> Seed {
    let mut seed = [0; 32];
    if let Err(e) = getrandom::fill(&mut seed) {
        panic!("the system gives no random bytes: {e}");
    }
    Seed::new(seed)
}
