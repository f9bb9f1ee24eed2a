//! Several services in one world, and one ticket for several of them.

mod common;

use common::{ALICE, quick, secs, store};
use mpp_proto::NotificationKind;
use mpp_sim::{Conditions, Post, Restart, World};

/// The same account at two services is two channels, and a judge knows them apart.
#[test]
fn services_of_one_world_share_nothing_but_the_network() {
    let mut world = World::new(51);
    let bad = Conditions::perfect(secs(0)).loss(0.2);
    world.set_default_conditions(bad, bad);
    let services = [0; 2].map(|_| world.add_service(world.service_config()));
    let devices = [0, 1].map(|n| {
        let ticket = world.ticket(&services[n..=n], ALICE, 1);
        world.add_device(ticket, quick())
    });
    assert!(world.run_until(secs(60), |w| devices.iter().all(|d| w.is_connected(*d))));
    for (service, text) in services.into_iter().zip(["one", "two"]) {
        world.publish(service, ALICE, &Post::new(store(2), text)).unwrap();
    }
    assert!(world.settle(secs(120)));
    for (device, text) in devices.into_iter().zip(["one", "two"]) {
        let heard: Vec<_> = world.payloads(device).map(|(_, payload)| payload).collect();
        assert_eq!(heard, [text.as_bytes()]);
    }
    assert_eq!(world.check().delivered, 2);
}

/// A ticket names two services: when one is gone the device finds the other, which has another history and says so.
#[test]
fn a_ticket_for_several_services_finds_one_that_is_there() {
    let mut world = World::new(52);
    let first = world.add_service(world.service_config());
    let second = world.add_service(world.service_config());
    let ticket = world.ticket(&[first, second], ALICE, 1);
    let device = world.add_device(ticket, quick());
    assert!(world.run_until(secs(10), |w| w.is_connected(device)));
    let connected = |w: &World| [first, second].map(|s| w.service(s).stats().connected);
    assert_eq!(connected(&world), [1, 0], "in the order of the ticket");
    world.publish(first, ALICE, &Post::new(store(2), "at the first")).unwrap();
    world.run_for(secs(10));
    world.check();

    // It takes until the device has missed its heartbeats, and one attempt.
    world.stop_service(first);
    let moved = |w: &World| w.service(second).stats().connected == 1 && w.is_connected(device);
    assert!(world.run_until(secs(60), moved));
    world.publish(second, ALICE, &Post::new(store(2), "at the second")).unwrap();
    world.run_for(secs(10));
    let heard: Vec<_> = world.payloads(device).map(|(_, payload)| payload).collect();
    assert_eq!(heard, [&b"at the first"[..], b"at the second"]);
    let gaps =
        |w: &World| w.notifications(device).filter(|n| matches!(n.kind, NotificationKind::Gap(_))).count();
    assert_eq!(gaps(&world), 1, "the other history is no silent gap");

    // And back.
    world.restart_service(first, Restart { secret: true, heads: true });
    world.stop_service(second);
    assert!(world.run_until(secs(60), |w| w.service(first).stats().connected == 1 && w.is_connected(device)));
}
