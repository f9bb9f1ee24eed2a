//! How often an idle client wakes its thread: `idle_smol [SECONDS [INTERVAL]]`

fn main() {
    mpp_driver::conformance::idle::<mpp_smol::Smol>(smol::block_on);
}
