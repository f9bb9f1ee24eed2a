//! What the scenarios share.
#![allow(dead_code, unreachable_pub)] // Every test program uses some of it.

use std::time::Duration;

use mpp_proto::{DeviceConfig, StoreId};
use mpp_sim::{Conditions, DeviceHandle, ServiceHandle, World};

pub const ALICE: &str = "alice@example.com";

pub const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

pub fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

pub fn store(number: u8) -> StoreId {
    StoreId::new(number).expect("a store below 128")
}

/// Forward secrecy costs most of the time of a connect, and few scenarios are about it.
pub fn quick() -> DeviceConfig {
    let mut config = DeviceConfig::default();
    config.forward_secrecy = false;
    config
}

/// A network of 20 ms and 10 ms jitter with this loss, both ways.
pub fn lossy(loss: f64) -> Conditions {
    Conditions::perfect(ms(20)).jitter(ms(10)).loss(loss)
}

/// A world with one service.
pub fn world(seed: u64) -> (World, ServiceHandle) {
    let mut world = World::new(seed);
    let service = world.add_service(world.service_config());
    (world, service)
}

/// A world with one service and one connected device of Alice's.
pub fn pair(seed: u64) -> (World, ServiceHandle, DeviceHandle) {
    pair_with(seed, quick())
}

pub fn pair_with(seed: u64, config: DeviceConfig) -> (World, ServiceHandle, DeviceHandle) {
    let (mut world, service) = world(seed);
    let ticket = world.ticket(&[service], ALICE, 1);
    let device = world.add_device(ticket, config);
    connect(&mut world, device);
    (world, service, device)
}

/// Lets time pass until the device is connected.
pub fn connect(world: &mut World, device: DeviceHandle) {
    let connected = world.run_until(secs(300), |w| w.is_connected(device));
    assert!(connected, "not connected after 300 s: {:#?}", world.log(device));
}
