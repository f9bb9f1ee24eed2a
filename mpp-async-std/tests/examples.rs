//! The examples run, and end by themselves.

use mpp_driver::conformance::{
    an_example_gets_its_notifications, an_idle_client_wakes_its_thread_at_its_deadlines_only, run,
};

#[test]
fn device_async_std() {
    run::<mpp_async_std::AsyncStd, _>(async_std::task::block_on, |world| {
        an_example_gets_its_notifications(world, "device_async_std", None)
    });
}

#[test]
fn idle_async_std() {
    an_idle_client_wakes_its_thread_at_its_deadlines_only("idle_async_std");
}
