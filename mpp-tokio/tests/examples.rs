//! The examples run, and end by themselves.

use mpp_driver::conformance::{
    an_example_gets_its_notifications, an_idle_client_wakes_its_thread_at_its_deadlines_only, run,
};
use mpp_tokio::Tokio;

#[test]
fn device_tokio() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    run::<Tokio, _>(
        |test| runtime.block_on(test),
        |world| an_example_gets_its_notifications(world, "device_tokio", None),
    );
}

#[test]
fn idle_tokio() {
    an_idle_client_wakes_its_thread_at_its_deadlines_only("idle_tokio");
}
