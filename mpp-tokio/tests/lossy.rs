//! The suite's lossy network at full size.

use mpp_driver::conformance;
use mpp_tokio::Tokio;

#[test]
fn a_thousand_events_reach_each_of_twenty_devices_once_and_in_order_with_30_percent_loss() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    conformance::run::<Tokio, _>(|test| runtime.block_on(test), |world| conformance::lossy(world, 20, 1_000));
}
