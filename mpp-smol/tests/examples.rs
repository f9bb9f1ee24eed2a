//! The example runs, and ends by itself.

use mpp_driver::conformance::{an_example_gets_its_notifications, run};

#[test]
fn device_smol() {
    run::<mpp_smol::Smol, _>(smol::block_on, |world| {
        an_example_gets_its_notifications(
            world,
            "device_smol",
            Some(std::env::temp_dir().join(format!("mpp-resume-{}", std::process::id()))),
        )
    });
}
