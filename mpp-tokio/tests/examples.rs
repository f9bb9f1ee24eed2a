//! The example runs, and ends by itself.

use mpp_driver::conformance::{an_example_gets_its_notifications, run};
use mpp_tokio::Tokio;

#[test]
fn device_tokio() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    run::<Tokio, _>(
        |test| runtime.block_on(test),
        |world| an_example_gets_its_notifications(world, "device_tokio", None),
    );
}
