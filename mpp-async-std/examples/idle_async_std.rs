//! How often an idle client wakes its thread: `idle_async_std [SECONDS [INTERVAL]]`

fn main() {
    mpp_driver::conformance::idle::<mpp_async_std::AsyncStd>(async_std::task::block_on);
}
