//! The suite that every adapter passes, on this one.

mpp_driver::conformance!(mpp_async_std::AsyncStd, async_std::task::block_on);
