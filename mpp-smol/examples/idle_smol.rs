//! How often an idle client wakes its process: `idle_smol [SECONDS]`

fn main() {
    mpp_driver::conformance::idle::<mpp_smol::Smol>(smol::block_on);
}
