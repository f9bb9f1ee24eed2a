//! A life of a device and a service: what happens is chosen by the fuzzer's bytes, what must hold is checked all the
//! way, and in the end, when the network is well again, the device has to get to where the channel is.

use core::time::Duration;

use bytes::Bytes;

use super::Input;
use super::by_web::Mode;
use super::world::{Weather, World, service_address};
use crate::channel::{CollapseKey, Event, MAX_PAYLOAD, Urgency};
use crate::device::ConnectionState;
use crate::ids::{NetworkId, StoreId, StoreSet};

/// Operations in one run at most, so that a run takes milliseconds.
const MAX_OPERATIONS: usize = 64;

/// Runs a sequence of operations.
pub fn operations(data: &[u8]) {
    let mut input = Input(data);
    let mut world = World::new();
    for _ in 0..MAX_OPERATIONS {
        if input.is_empty() {
            break;
        }
        operation(&mut world, &mut input);
    }
    recover(&mut world);
}

fn operation(world: &mut World, input: &mut Input<'_>) {
    match input.u8() % 15 {
        0 => world.publish(Event::changed(store(input))),
        1 => {
            let size = usize::from(input.u16()) % (MAX_PAYLOAD + 1);
            let event = with_payload(input, size);
            world.publish(event);
        }
        2 => world.run(Duration::from_millis(10) * u32::from(input.u8())),
        3 => world.run(Duration::from_secs(1) * u32::from(input.u8())),
        4 => {
            let [loss, twice, late, damage] = [input.u8(), input.u8(), input.u8(), input.u8()];
            world.weather = Weather { loss, twice, late, damage };
        }
        5 => {
            let filter = StoreSet::from_bytes([input.u8(); 16]);
            let _ = world.device.subscribe(world.now, filter);
        }
        6 => {
            let size = usize::from(input.u8());
            let event = with_payload(input, size);
            let _ = world.device.post(world.now, &event);
        }
        7 => world.restart_service(),
        8 => world.restart_device(input.u8() & 1 == 0),
        9 => {
            world.device.close(world.now);
            world.run(Duration::from_millis(10) * u32::from(input.u8()));
            world.restart_device(true);
        }
        10 => {
            let network = input.u8() % 4;
            let network = network.checked_sub(1).map(|n| NetworkId([n; 16]));
            world.device.handle_network_change(world.now, network);
        }
        11 => {
            world.service.close(world.now, Duration::from_secs(u64::from(input.u8())));
            world.run(Duration::from_millis(100));
            world.restart_service();
        }
        12 => {
            let _ = world.device.query_endpoint(world.now);
            // It measures what its network remembers.
            let _ = world.device.measure_mapping(world.now);
            // And over a socket of its own.
            let _ = world.device.query_endpoint_at(world.now, service_address());
        }
        // Where the device is UDP passes or not, and so does the Web.
        14 => {
            let choice = input.u8();
            world.udp_off = choice & 1 != 0;
            world.web.mode = [Mode::None, Mode::Up, Mode::Down][usize::from(choice >> 1) % 3];
        }
        // Bytes of somebody else.
        _ => {
            let mut packet = input.bytes().to_vec();
            let _ = world.deliver_to_service(&mut packet);
            let _ = world.deliver_to_device(&mut packet);
        }
    }
}

fn store(input: &mut Input<'_>) -> StoreId {
    StoreId::new(input.u8() % 128).unwrap_or(StoreId::INBOUND)
}

fn with_payload(input: &mut Input<'_>, size: usize) -> Event {
    let (store, choice) = (store(input), input.u8());
    let payload: Bytes = (0..size).map(|i| (i as u8).wrapping_mul(31) ^ choice).collect();
    let mut event = Event::with_payload(store, payload).urgency(match choice & 3 {
        0 => Urgency::Low,
        1 => Urgency::High,
        _ => Urgency::Normal,
    });
    if choice & 4 != 0
        && let Ok(key) = CollapseKey::new(&[choice >> 6])
    {
        event = event.key(key);
    }
    match choice >> 3 & 3 {
        0 => event.ttl(Duration::ZERO),
        1 => event.ttl(Duration::from_secs(30)),
        _ => event,
    }
}

/// Whatever happened: on a network that works the device connects, and gets to where the channel is.
fn recover(world: &mut World) {
    world.weather = Weather::default();
    world.udp_off = false;
    if world.device.state() == ConnectionState::Aborted {
        world.restart_device(true);
    }
    // The longest wait between attempts, the longest attempt, and as much again for a reset.
    world.run(Duration::from_secs(300));
    assert_eq!(world.device.state(), ConnectionState::Connected, "{:?}", world.device);
    let _ = world.device.subscribe(world.now, StoreSet::ALL);
    world.publish(Event::with_payload(StoreId::INBOUND, Bytes::from_static(b"the last one")));
    // What passes while a wider filter is on its way comes with the next heartbeat, which may be a learned interval away.
    world.run(Duration::from_secs(400));
    let head = world.service.head(&World::account()).expect("the device's ticket has opened the channel");
    let resume = world.device.resume();
    assert_eq!((Some(resume.epoch()), resume.position()), (head.epoch, head.newest));
}
