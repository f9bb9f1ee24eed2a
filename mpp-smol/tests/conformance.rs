//! The suite that every adapter passes, on this one.

mpp_driver::conformance!(mpp_smol::Smol, smol::block_on);
