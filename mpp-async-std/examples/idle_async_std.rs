//! How often an idle client wakes its process: `idle_async_std [SECONDS]`

fn main() {
    mpp_driver::conformance::idle::<mpp_async_std::AsyncStd>(async_std::task::block_on);
}
