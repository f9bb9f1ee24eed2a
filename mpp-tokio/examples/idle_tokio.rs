//! How often an idle client wakes its thread: `idle_tokio [SECONDS [INTERVAL]]`

fn main() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    mpp_driver::conformance::idle::<mpp_tokio::Tokio>(|test| runtime.block_on(test));
}
