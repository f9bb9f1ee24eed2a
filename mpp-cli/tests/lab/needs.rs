//! What the lab needs, and the one line that says why it, or a part of it, was skipped.

use std::io::Write as _;
use std::sync::OnceLock;

use crate::{netns, network};

/// The variable that asks for the lab.
const ASKED: &str = "MPP_LAB";

/// Whether networks can be built here. The first call cleans up what a killed run has left, and says it if the answer is
/// no.
pub(crate) fn are_met() -> bool {
    static MET: OnceLock<bool> = OnceLock::new();
    *MET.get_or_init(|| {
        let why = if std::env::var_os(ASKED).is_none_or(|v| v.is_empty() || v == "0") {
            format!("it makes network namespaces, which takes root: {ASKED}=1 asks for it")
        } else {
            netns::remove_stale();
            match network::try_out() {
                Ok(()) => return true,
                Err(e) => {
                    format!("it needs root, iproute2, nftables, conntrack and a kernel that has them: {e}")
                }
            }
        };
        skipped(&why);
        false
    })
}

/// Whether there is an nginx. The first call says it if not.
pub(crate) fn nginx_is_there() -> bool {
    static THERE: OnceLock<bool> = OnceLock::new();
    *THERE.get_or_init(|| {
        let version = netns::tool("nginx", &["-v"], "");
        if let Err(e) = &version {
            skipped(&format!("what is behind nginx: {e}"));
        }
        version.is_ok()
    })
}

fn skipped(why: &str) {
    // Not by a macro, whose words the test harness would keep to itself.
    let _ = writeln!(std::io::stderr(), "lab: skipped: {why}");
}
