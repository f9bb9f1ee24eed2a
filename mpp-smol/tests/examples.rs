//! The examples run, and end by themselves.

use mpp_driver::conformance::{
    an_example_gets_its_notifications, an_idle_client_wakes_its_thread_at_its_deadlines_only, run,
};

#[test]
fn device_smol() {
    run::<mpp_smol::Smol, _>(smol::block_on, |world| {
        an_example_gets_its_notifications(
            world,
            "device_smol",
            Some(std::env::temp_dir().join(format!("mpp-resume-{}", std::process::id()))),
        )
    });
}

#[test]
fn idle_smol() {
    an_idle_client_wakes_its_thread_at_its_deadlines_only("idle_smol");
}
