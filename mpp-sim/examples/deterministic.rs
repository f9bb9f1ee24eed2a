//! A device and a service on a bad network, without sockets and without waiting: two hours in a moment, and the same
//! seed gives the same run, packet by packet.

use std::time::Duration;

use mpp_proto::{DeviceConfig, StoreId};
use mpp_sim::{Conditions, Post, Trace, World};

/// One run: what was heard, and the fingerprint of all that happened.
fn run(seed: u64) -> Result<(Vec<String>, Trace), Box<dyn std::error::Error>> {
    let mut world = World::new(seed);
    let bad = Conditions::perfect(Duration::from_millis(40)).loss(0.2).jitter(Duration::from_millis(30));
    world.set_default_conditions(bad, bad);
    let service = world.add_service(world.service_config());
    let ticket = world.ticket(&[service], "alice@example.com", 1);
    let phone = world.add_device(ticket, DeviceConfig::default());
    assert!(world.run_until(Duration::from_secs(60), |w| w.is_connected(phone)));
    for hour in ["first", "second"] {
        world.publish(service, "alice@example.com", &Post::new(StoreId::INBOUND, hour))?;
        world.settle(Duration::from_secs(3600));
    }
    let heard = world.payloads(phone).map(|(_, payload)| String::from_utf8_lossy(payload).into_owned());
    Ok((heard.collect(), world.trace()))
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (heard, trace) = run(1)?;
    println!("heard {heard:?}, fingerprint {trace:?}");
    assert_eq!(heard, ["first", "second"]);
    assert_eq!(run(1)?.1, trace, "the same seed, the same run");
    assert_ne!(run(2)?.1, trace, "another seed, another run");
    Ok(())
}

#[test]
fn it_ends() {
    main().unwrap();
}
