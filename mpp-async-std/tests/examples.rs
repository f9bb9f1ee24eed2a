//! The example runs, and ends by itself.

use mpp_driver::conformance::{an_example_gets_its_notifications, run};

#[test]
fn device_async_std() {
    run::<mpp_async_std::AsyncStd, _>(async_std::task::block_on, |world| {
        an_example_gets_its_notifications(world, "device_async_std", None)
    });
}
