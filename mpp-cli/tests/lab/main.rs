//! The NAT lab: the program behind real NATs, which this machine's kernel plays in network namespaces.
//!
//! ```sh
//! MPP_LAB=1 cargo test -p mpp-cli --test lab -- --test-threads=16       # Linux, root, iproute2, nftables, conntrack
//! ```
//!
//! Without `MPP_LAB`, or where something is missing, one line says so and every test passes without doing anything. No
//! namespace of the machine's own is touched: each [`Lab`](network::Lab) makes new ones, with cables between them and
//! addresses that mean something only there, and takes all of it away when it is dropped, also after a failure. What a
//! killed run has left, the next one removes. Nothing waits without a limit; what a device learns or measures by silence
//! takes minutes, about seven if all tests run at once.
//!
//! - **A network**: a variant of [`Nat`](rules::Nat) or [`Network`](network::Network); its rules in `rules.rs`, its cables
//!   and addresses in `Lab::build`; a claim in `claims.rs`, where a probe shows that it does what it is called after, and
//!   a test in `connects.rs` and `expiry.rs` each. Something that goes wrong on the way is a
//!   [`Trouble`](rules::Trouble).
//! - **A test** of the program: `let Some(lab) = Lab::open(network) else { return };`, then `Play::on(lab)` is a service,
//!   and `play.device()` an `mpp watch` that is connected. The lab flushes, reboots, unplugs and troubles; the device
//!   posts and hears; `device.end()` checks that all of it came, in order, once. Another program is started with
//!   `lab.device.enter(|| command.spawn())`, and so a socket is opened, a runtime run; what is still running in a lab
//!   ends with it. Times are limits plus [`LATE`](play::LATE). Names of `Lifetime` shorten what a NAT remembers.
//! - **Without UDP**: `web.rs`, and `changes.rs` where it comes and goes. [`Nginx`](nginx::Nginx) is Debian's nginx with TLS
//!   in front of the service's HTTP port; where there is none, one line says that what needs it was skipped.
#![cfg(target_os = "linux")]

mod changes;
mod claims;
mod connects;
mod expiry;
mod hostile;
mod learning;
mod moves;
mod needs;
mod netcheck;
mod netns;
mod network;
mod nginx;
mod play;
mod probe;
mod rules;
#[allow(dead_code, reason = "the lab uses a part of what the tests of the command line do")]
#[path = "../cli/support.rs"]
mod support;
mod web;
