//! A hundred thousand devices at one service.

mod common;

use std::collections::BTreeSet;

use common::{quick, secs, store};
use mpp_sim::{Post, World};

const DEVICES: u64 = 100_000;
/// Above the 1,024 half-open connections from which on a service asks for the proof of an address first.
const WAVE: u64 = 2000;

#[test]
fn a_hundred_thousand_devices_connect_and_some_are_notified() {
    let mut world = World::new(1);
    let mut config = world.service_config();
    config.capacity = 1 << 17;
    let service = world.add_service(config);
    let mut device_config = quick();
    // Those who connect first are still within their lease when the last one does.
    device_config.interval = secs(300);
    let device_config = std::sync::Arc::new(device_config);
    let account = |n: u64| format!("user{n}@example.com");

    let mut addresses = Vec::new();
    for wave in 0..DEVICES / WAVE {
        let devices: Vec<_> = (0..WAVE)
            .map(|n| {
                let ticket = world.ticket(&[service], &account(wave * WAVE + n), n);
                world.add_device(ticket, device_config.clone())
            })
            .collect();
        world.run_for(secs(5));
        for device in devices {
            assert!(world.is_connected(device), "{device:?}: {:#?}", world.log(device));
            addresses.push(world.endpoints(device).next().expect("a socket").1);
            // Silently: the service goes on taking it for connected.
            world.remove(device);
        }
    }
    assert_eq!(world.service(service).stats().connected, DEVICES);

    world.network().capture(true);
    let chosen: Vec<u64> = (0..DEVICES).step_by(997).collect();
    for n in &chosen {
        world.publish(service, &account(*n), &Post::new(store(2), "hello")).expect("a channel of a device");
    }
    world.run_for(secs(1));
    let reached: BTreeSet<_> = world.network().take_captured().iter().map(|c| c.packet.to).collect();
    assert!(
        reached.iter().copied().eq(chosen.iter().map(|n| addresses[*n as usize])),
        "{} reached",
        reached.len()
    );
}
