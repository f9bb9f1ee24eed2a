//! The suite that every adapter passes, on this one.

mpp_driver::conformance!(mpp_tokio::Tokio, |test| {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test)
});
