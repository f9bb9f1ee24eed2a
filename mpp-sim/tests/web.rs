//! Networks on which UDP does not pass, or not always, or not all of it: devices go by Web there, and nothing is lost,
//! doubled or out of order when they change over.

mod common;

use std::net::SocketAddr;

use bytes::Bytes;
use common::{ALICE, connect, lossy, ms, pair, quick, secs, store, world};
use mpp_proto::{
    ConnectionState, DeviceConfig, DeviceEvent, DropReason, Endpoint, Instant, LinkKind, Transport,
};
use mpp_sim::{
    Act, DeviceHandle, Drive, Entry, Post, Record, Restart, ServiceHandle, Tactic, Udp, WebConditions, World,
    each_seed,
};

const WAY: WebConditions = WebConditions::perfect(ms(30));

/// A device whose host has a Web client, on a network that does this to UDP; not connected yet.
fn device_on(seed: u64, udp: Udp) -> (World, ServiceHandle, DeviceHandle) {
    device_with(seed, udp, quick())
}

fn device_with(seed: u64, udp: Udp, config: DeviceConfig) -> (World, ServiceHandle, DeviceHandle) {
    let (mut world, service) = world(seed);
    world.set_default_web(Some(WAY));
    let ticket = world.ticket(&[service], ALICE, 1);
    let device = world.add_device(ticket, config);
    // It has sent its first packet already, which says nothing.
    world.set_udp(device, udp);
    (world, service, device)
}

fn transport(world: &World, device: DeviceHandle) -> Transport {
    world.device(device).expect("it runs").transport()
}

fn by_web(world: &World, device: DeviceHandle) -> bool {
    world.is_connected(device) && transport(world, device) == Transport::Web
}

fn by_udp(world: &World, device: DeviceHandle) -> bool {
    world.is_connected(device) && transport(world, device) == Transport::Udp
}

fn publish(world: &mut World, service: ServiceHandle, size: usize) -> u64 {
    let payload = Bytes::from(world.rng().bytes(size.max(8)));
    world.publish(service, ALICE, &Post::new(store(2), payload)).expect("within every limit").0
}

fn serials(world: &World, device: DeviceHandle) -> Vec<u64> {
    world.payloads(device).map(|(serial, _)| serial.0).collect()
}

fn events(world: &World, device: DeviceHandle) -> impl Iterator<Item = (Instant, &DeviceEvent)> {
    world.log(device).iter().filter_map(|Entry { at, record, .. }| match record {
        Record::Event(event) => Some((*at, event)),
        _ => None,
    })
}

fn changes(world: &World, device: DeviceHandle) -> usize {
    events(world, device).filter(|(_, e)| matches!(e, DeviceEvent::Transport(_))).count()
}

fn disconnects(world: &World, device: DeviceHandle) -> usize {
    events(world, device).filter(|(_, e)| matches!(e, DeviceEvent::Disconnected { .. })).count()
}

#[test]
fn where_udp_is_blocked_the_first_notification_comes_within_five_seconds() {
    for udp in [Udp::Dropped, Udp::Forbidden, Udp::Narrow(1000)] {
        let (mut world, service, device) = device_on(1, udp);
        let start = world.now();
        let serial = publish(&mut world, service, 3000);
        assert!(world.run_until(secs(5), |w| w.payloads(device).next().is_some()), "{udp:?}");
        assert_eq!((serials(&world, device), transport(&world, device)), (vec![serial], Transport::Web));
        // And the next ones as fast as the way is.
        world.run_for(secs(20));
        publish(&mut world, service, 16_000);
        assert!(world.run_until(ms(200), |w| w.payloads(device).count() == 2), "{udp:?}");
        world.run_for(secs(1));
        assert_eq!(world.service(service).pending(), 0);
        assert!(world.now().since(start) < secs(30));
        assert_eq!(world.check().delivered, 2);
    }
}

/// A host of several networks is seen from outside on one of them; what goes to the others vanishes.
#[test]
fn a_base_url_that_is_silent_delays_the_first_notification_little() {
    for latency in [20, 150, 400] {
        let (mut world, service) = world(1);
        world.set_default_web(Some(WebConditions::perfect(ms(latency))));
        let there = world.service_addresses(service)[0];
        let nowhere = SocketAddr::from(([198, 51, 100, 1], there.port()));
        let ticket = world.ticket_to(vec![Endpoint::Address(nowhere), Endpoint::Address(there)], ALICE, 1);
        assert_eq!(ticket.web().len(), 2);
        let device = world.add_device(ticket, quick());
        world.set_udp(device, Udp::Dropped);
        let start = world.now();
        let serial = publish(&mut world, service, 1000);
        assert!(
            world.run_until(secs(5) + ms(latency), |w| w.payloads(device).next().is_some()),
            "{latency} ms"
        );
        println!("{latency} ms each way: first notification after {:?}", world.now().since(start));
        assert_eq!(serials(&world, device), [serial]);
        // It is the one in use, and the other one is heard of no more.
        world.run_for(secs(300));
        publish(&mut world, service, 1000);
        assert!(world.run_until(ms(2 * latency), |w| w.payloads(device).count() == 2), "{latency} ms");
        let stats = world.device(device).unwrap().stats();
        assert_eq!((stats.connects, stats.web_failures, disconnects(&world, device)), (1, 0, 0));
        world.check();
    }
}

/// Several base URLs, all of them so slow that step 1 goes to two.
#[test]
fn where_all_base_urls_are_slow_one_connection_comes_of_it() {
    let (mut world, service) = world(1);
    world.set_default_web(Some(WebConditions::perfect(ms(900))));
    let endpoints = world.service_addresses(service).iter().copied().map(Endpoint::Address).collect();
    let ticket = world.ticket_to(endpoints, ALICE, 1);
    assert_eq!(ticket.web().len(), 2);
    let device = world.add_device(ticket, quick());
    world.set_udp(device, Udp::Dropped);
    let serial = publish(&mut world, service, 1000);
    assert!(world.run_until(secs(8), |w| w.payloads(device).next().is_some()));
    world.run_for(secs(60));
    let stats = world.device(device).unwrap().stats();
    assert_eq!((stats.connects, stats.web_failures, world.service(service).stats().connects), (1, 0, 1));
    assert_eq!(serials(&world, device), [serial]);
    world.check();
}

/// More devices than a service holds requests for: they are served later, and nobody begins anew for it.
#[test]
fn where_no_place_is_left_to_wait_devices_ask_now_and_then() {
    for limit in [0, 1] {
        let mut world = World::new(3);
        let mut config = world.service_config();
        config.web_requests = limit;
        let service = world.add_service(config);
        world.set_default_web(Some(WAY));
        let devices = [1, 2].map(|number| {
            let ticket = world.ticket(&[service], ALICE, number);
            let device = world.add_device(ticket, DeviceConfig::default());
            world.set_udp(device, Udp::Dropped);
            device
        });
        world.run_for(secs(60));
        let begun = |w: &World| {
            let states = |d| events(w, d).filter(|(_, e)| matches!(e, DeviceEvent::State(_))).count();
            (w.service(service).stats().connects, devices.map(states), devices.map(|d| disconnects(w, d)))
        };
        let failures = |w: &World| devices.map(|d| w.device(d).unwrap().stats().web_failures);
        let requests = |w: &World| devices.map(|d| w.device(d).unwrap().stats().web_requests);
        let (start, failed, asked) = (begun(&world), failures(&world), requests(&world));
        for count in 1..=10 {
            publish(&mut world, service, 50);
            let heard = |w: &World| devices.iter().all(|d| w.payloads(*d).count() == count);
            assert!(world.run_until(secs(27), heard), "limit {limit}");
            world.run_for(secs(120));
        }
        assert_eq!((begun(&world), failures(&world)), (start, failed), "limit {limit}");
        for (before, after) in asked.into_iter().zip(requests(&world)) {
            assert!((10..150).contains(&(after - before)), "{} requests in 20 min", after - before);
        }
        let stats = world.service(service).stats();
        assert_eq!(stats.web_held, u64::from(limit));
        assert!(stats.web_no_place > 50, "{stats:?}");
        world.check();
    }
}

#[test]
fn nothing_is_lost_doubled_or_out_of_order_in_ten_changes() {
    each_seed(6, |seed| {
        let (mut world, service, device) = device_on(seed, Udp::Passes);
        world.set_conditions(device, lossy(0.05), lossy(0.05));
        // In half of them behind a proxy that cuts.
        let way = if seed % 2 == 0 { WAY.loss(0.05) } else { WAY.loss(0.05).cut(secs(30)) };
        world.set_web(device, Some(way));
        connect(&mut world, device);
        let mut published = 0;
        for change in 0..10 {
            let blocked = change % 2 == 0;
            world.set_udp(
                device,
                if blocked { [Udp::Dropped, Udp::Forbidden][change / 2 % 2] } else { Udp::Passes },
            );
            let start = world.now();
            // Events at any time: before the change, in the middle of it, after it.
            let there = |w: &World| if blocked { by_web(w, device) } else { by_udp(w, device) };
            while !there(&world) {
                let size = [20, 500, 2000][world.rng().index(3)];
                publish(&mut world, service, size);
                published += 1;
                let pause = ms(world.rng().between(100, 4000));
                world.run_until(pause, there);
                let took = world.now().since(start);
                // A heartbeat and its patience; a trial of UDP, of which packets may get lost.
                assert!(took < secs(if blocked { 40 } else { 70 }), "change {change} took {took:?}");
            }
            world.run_for(ms(200));
            publish(&mut world, service, 100);
            published += 1;
            // Well within the ring.
            world.run_until(secs(60), |w| w.service(service).pending() == 0);
        }
        assert!(world.settle(secs(120)));
        assert!(changes(&world, device) >= 10, "{}", changes(&world, device));
        assert_eq!(disconnects(&world, device), 0, "for people nothing was interrupted");
        let got = serials(&world, device);
        assert!(got.iter().copied().eq(1..=published), "exactly once and in order: {got:?}");
        assert_eq!(world.check().delivered, published);
    });
}

#[test]
fn when_udp_is_back_it_is_used_within_a_minute() {
    for udp in [Udp::Dropped, Udp::Forbidden, Udp::Narrow(1000)] {
        let (mut world, service, device) = device_on(3, udp);
        assert!(world.run_until(secs(5), |w| by_web(w, device)));
        world.run_for(secs(30));
        world.set_udp(device, Udp::Passes);
        assert!(world.run_until(secs(60), |w| by_udp(w, device)), "{udp:?}");
        // Once it is told of another network, at once.
        world.set_udp(device, udp);
        // Small packets may pass: it takes large ones to show that these do not.
        publish(&mut world, service, 5000);
        assert!(world.run_until(secs(60), |w| by_web(w, device)), "{udp:?}");
        world.run_for(secs(300));
        world.set_udp(device, Udp::Passes);
        world.with_device(device, |d, now| d.handle_network_change(now, None));
        assert!(world.run_until(secs(1), |w| by_udp(w, device)), "{udp:?}");
    }
}

/// However long it was away, and nobody tells the device.
#[test]
fn a_device_looks_every_minute_whether_udp_is_back() {
    for (seed, udp) in (0..).zip([Udp::Dropped, Udp::Forbidden, Udp::Dropped, Udp::Forbidden]) {
        let (mut world, service, device) = device_on(seed, udp);
        assert!(world.run_until(secs(5), |w| by_web(w, device)));
        let away = world.rng().between(600, 7200);
        world.run_for(secs(away));
        world.set_udp(device, Udp::Passes);
        assert!(world.run_until(secs(60), |w| by_udp(w, device)), "{udp:?} for {away} s");
        publish(&mut world, service, 5000);
        world.run_for(secs(100));
        assert_eq!(world.check().delivered, 1);
        assert!(
            !events(&world, device).any(|(_, e)| matches!(e, DeviceEvent::Failed { .. })),
            "it is nobody's request"
        );
    }
}

/// Each look is answered there, and no trial succeeds.
#[test]
fn where_small_packets_pass_looks_call_for_trials_ever_more_rarely() {
    let (mut world, _, device) = device_on(7, Udp::Narrow(1000));
    assert!(world.run_until(secs(5), |w| by_web(w, device)));
    world.run_for(secs(3600));
    let before = world.network().stats();
    world.run_for(secs(3600));
    let after = world.network().stats();
    let udp = (after.sent - after.web) - (before.sent - before.web);
    // Four trials an hour, as many that looks call for, these and their answers.
    assert!((16..=60).contains(&udp), "{udp} packets by UDP");
}

/// The addresses of a server at home, for example, come first.
#[test]
fn udp_is_found_behind_addresses_that_lead_nowhere() {
    let (mut world, service) = world(8);
    world.set_default_web(Some(WAY));
    let real = world.service_addresses(service)[0];
    let dead = (10..13).map(|n| ([198, 51, 100, n], 15096).into());
    let endpoints = dead.chain([real]).map(Endpoint::Address).collect();
    let ticket = world.ticket_to(endpoints, ALICE, 1);
    let ticket = ticket.with_web(vec![format!("http://{}:15097", real.ip())]).expect("a base");
    let device = world.add_device(ticket, quick());
    world.set_udp(device, Udp::Dropped);
    assert!(world.run_until(secs(20), |w| by_web(w, device)));
    for minutes in [30, 31, 33] {
        world.run_for(secs(minutes * 60));
        world.set_udp(device, Udp::Passes);
        assert!(world.run_until(secs(60), |w| by_udp(w, device)), "after {minutes} min");
        world.set_udp(device, Udp::Dropped);
        assert!(world.run_until(secs(60), |w| by_web(w, device)));
    }
}

/// It passes just as long as it takes to answer a look.
#[test]
fn udp_that_comes_back_after_a_false_alarm_is_used_within_a_minute() {
    let looks = |w: &World, device| {
        let is_look = |e: &DeviceEvent| matches!(e, DeviceEvent::OpenLink { kind: LinkKind::Asking(_), .. });
        events(w, device).filter(|(_, e)| is_look(e)).count()
    };
    each_seed(12, |seed| {
        let begin = || {
            let (mut world, _, device) = device_on(seed, Udp::Dropped);
            assert!(world.run_until(secs(5), |w| by_web(w, device)));
            world.run_for(secs(1800 + 31 * seed));
            (world, device)
        };
        let (mut world, device) = begin();
        let (start, before) = (world.now(), looks(&world, device));
        assert!(world.run_until(secs(60), |w| looks(w, device) > before));
        let look = world.now().since(start);
        // The same again, and there is UDP for that moment.
        let (mut world, device) = begin();
        world.run_for(look - ms(1));
        world.set_udp(device, Udp::Passes);
        world.run_for(ms(40 + 3 * seed));
        world.set_udp(device, Udp::Dropped);
        world.run_for(secs(20));
        world.set_udp(device, Udp::Passes);
        assert!(world.run_until(secs(60), |w| by_udp(w, device)));
    });
}

/// The notification does not fit, and heartbeats do: the service notices, and the device finds the Web.
#[test]
fn a_way_that_begins_to_lose_large_packets_is_left() {
    let (mut world, service, device) = device_on(4, Udp::Passes);
    connect(&mut world, device);
    world.set_udp(device, Udp::Narrow(1000));
    publish(&mut world, service, 5000);
    assert!(world.run_until(secs(60), |w| w.payloads(device).next().is_some()));
    assert!(by_web(&world, device));
    assert_eq!(world.check().delivered, 1);
}

#[test]
fn behind_a_proxy_that_cuts_idle_requests_it_stays_connected() {
    let (mut world, service, device) = device_on(5, Udp::Dropped);
    world.set_web(device, Some(WAY.cut(secs(30))));
    assert!(world.run_until(secs(5), |w| by_web(w, device)));
    for hour in 0..6 {
        for _ in 0..20 {
            publish(&mut world, service, 500);
            world.run_for(secs(180));
            assert_eq!(world.service(service).pending(), 0);
        }
        assert!(by_web(&world, device), "hour {hour}");
    }
    assert_eq!(disconnects(&world, device), 0);
    let unacknowledged = DeviceEvent::State(ConnectionState::Unacknowledged);
    assert_eq!(events(&world, device).filter(|(_, e)| **e == unacknowledged).count(), 0);
    assert!(serials(&world, device).into_iter().eq(1..=120));
}

#[test]
fn on_the_web_nothing_is_repeated_by_a_timer() {
    // With new keys once a day only.
    let (mut world, service, device) = device_with(6, Udp::Dropped, DeviceConfig::default());
    assert!(world.run_until(secs(5), |w| by_web(w, device)));
    // Until UDP is tried every 15 min only.
    world.run_for(secs(3600));
    let at = |w: &mut World| {
        let stats = w.network().stats();
        (w.wakes(device), w.service_wakes(service), stats.web, stats.sent - stats.web)
    };
    let before = at(&mut world);
    let asked = world.device(device).unwrap().stats();
    world.run_for(secs(3600));
    let (after, stats) = (at(&mut world), world.device(device).unwrap().stats());
    let requests = stats.web_requests - asked.web_requests;
    assert_eq!(stats.heartbeats - asked.heartbeats, requests, "the requests are the heartbeats");
    assert!((72..=82).contains(&requests), "{requests} requests in an hour");
    // One packet there and one back for each.
    assert!(after.2 - before.2 <= 2 * requests + 2, "{} packets by Web", after.2 - before.2);
    // Four trials of UDP, each four times step 1, and a look with each request.
    assert!(after.3 - before.3 <= 20 + requests, "{} packets by UDP", after.3 - before.3);
    // It is woken for the trials only: at their beginning, for each repetition, at their end, and for the first look after.
    assert!(after.0 - before.0 <= 5 * 6, "{} wake-ups of the device", after.0 - before.0);
    // The service: for the end of each request, which its timing wheel hands down from level to level until then, and for
    // the lease.
    assert!(after.1 - before.1 <= 7 * requests, "{} wake-ups of the service", after.1 - before.1);
    println!("an hour by Web: {requests} requests, {:?} -> {after:?}", before);
}

#[test]
fn what_is_posted_goes_and_is_answered_over_every_change() {
    each_seed(4, |seed| {
        let (mut world, service, device) = device_on(seed, Udp::Passes);
        connect(&mut world, device);
        let mut asked = Vec::new();
        for round in 0..8 {
            world.set_udp(device, if round % 2 == 0 { Udp::Dropped } else { Udp::Passes });
            let way = if round % 3 == 2 { WAY.loss(0.3) } else { WAY };
            world.set_web(device, Some(way));
            for _ in 0..3 {
                let event = mpp_proto::Event::with_payload(store(2), Bytes::from(world.rng().bytes(40)));
                asked.push(world.with_device(device, |d, now| d.post(now, &event)).unwrap());
                let pause = ms(world.rng().between(0, 30_000));
                world.run_for(pause);
            }
        }
        world.run_for(secs(120));
        let answered =
            events(&world, device).filter(|(_, e)| matches!(e, DeviceEvent::Posted { .. })).count();
        assert_eq!(answered, asked.len(), "every post is answered");
        let id = mpp_proto::AccountId::of(ALICE);
        let newest = world.service(service).head(&id).map(|head| head.newest.0);
        assert_eq!(newest, Some(asked.len() as u64), "and each is one event");
    });
}

#[test]
fn a_service_that_comes_back_is_found_by_web() {
    for secret in [true, false] {
        let (mut world, service, device) = device_on(7, Udp::Dropped);
        assert!(world.run_until(secs(5), |w| by_web(w, device)));
        world.run_for(secs(100));
        world.restart_service(service, Restart { secret, heads: true });
        publish(&mut world, service, 100);
        assert!(world.run_until(secs(30), |w| w.payloads(device).count() == 1), "secret kept: {secret}");
        assert!(by_web(&world, device));
    }
}

#[test]
fn when_the_web_is_gone_udp_takes_over() {
    let (mut world, service, device) = device_on(8, Udp::Dropped);
    assert!(world.run_until(secs(5), |w| by_web(w, device)));
    world.run_for(secs(40));
    world.set_udp(device, Udp::Passes);
    world.set_web(device, Some(WAY.down()));
    assert!(world.run_until(secs(75), |w| by_udp(w, device)));
    publish(&mut world, service, 100);
    assert!(world.run_until(secs(1), |w| w.payloads(device).count() == 1));
    // Both gone, and one of them back: the device has gone on trying all the time.
    world.set_udp(device, Udp::Dropped);
    world.run_for(secs(1200));
    assert!(!world.is_connected(device));
    world.set_web(device, Some(WAY));
    assert!(world.run_until(secs(75), |w| by_web(w, device)));
}

/// Everything arrives on the other transport first, both ways, as requests that wait and in the answers.
#[test]
fn copies_across_transports_do_nothing() {
    each_seed(3, |seed| {
        let (mut world, service, device) = device_on(seed, Udp::Passes);
        let attacker = world.attack(&[Tactic::always(Act::Cross)]);
        connect(&mut world, device);
        for round in 0..6 {
            world.set_udp(device, if round % 2 == 0 { Udp::Dropped } else { Udp::Passes });
            for _ in 0..5 {
                publish(&mut world, service, 2000);
                world.run_for(secs(14));
            }
        }
        assert!(world.settle(secs(120)));
        assert!(attacker.sent() > 50, "{}", attacker.sent());
        let stats = world.service(service).stats();
        assert!(stats.dropped[DropReason::OtherTransport as usize] > 20, "{stats:?}");
        assert!(world.device(device).unwrap().stats().dropped_for(DropReason::OtherTransport) > 0);
        assert_eq!(world.strays_answered(), 0);
        assert!(serials(&world, device).into_iter().eq(1..=30));
        assert_eq!(disconnects(&world, device), 0);
    });
}

#[test]
fn two_runs_are_the_same_and_so_is_one_that_is_woken_all_the_time() {
    let run = |drive| {
        let (mut world, service, device) = device_on(9, Udp::Dropped);
        world.set_drive(drive);
        world.set_web(device, Some(WAY.loss(0.1)));
        for _ in 0..4 {
            publish(&mut world, service, 300);
            world.run_for(secs(30));
        }
        world.set_udp(device, Udp::Passes);
        world.run_for(secs(90));
        (serials(&world, device), world.trace())
    };
    assert_eq!(run(Drive::AtDeadlines), run(Drive::AtDeadlines));
    assert_eq!(run(Drive::AtDeadlines).0, run(Drive::EveryMillisecond).0);
}

/// Without forward secrecy they are due every 5 to 60 min, and UDP is tried every 15. The world checks after every step that
/// no deadline lies behind.
#[test]
fn new_keys_that_are_due_while_udp_is_tried_are_made_after_that() {
    each_seed(8, |seed| {
        let (mut world, _, device) = device_on(seed, Udp::Dropped);
        assert!(world.run_until(secs(5), |w| by_web(w, device)));
        world.run_for(secs(48 * 3600));
        assert!(by_web(&world, device));
    });
}

/// A connection by Web has used up 64 packets in less than an hour, now and then while UDP is being tried.
#[test]
fn keys_that_are_worn_out_while_udp_is_tried_are_not_forgotten() {
    each_seed(8, |seed| {
        let mut config = DeviceConfig::default();
        config.packet_limit = 64;
        let (mut world, _, device) = device_with(seed, Udp::Dropped, config);
        assert!(world.run_until(secs(5), |w| by_web(w, device)));
        let mut renewed = world.now();
        world.run_for(secs(72 * 3600));
        for (at, event) in events(&world, device) {
            if matches!(event, DeviceEvent::KeysRenewed(_)) {
                assert!(at.since(renewed) < secs(2 * 3600), "old keys for {:?}", at.since(renewed));
                renewed = at;
            }
        }
        assert!(world.now().since(renewed) < secs(2 * 3600));
    });
}

#[test]
fn a_device_that_has_both_stays_with_udp() {
    let (mut world, _, device) = pair(10);
    world.set_web(device, Some(WAY));
    world.run_for(secs(3600));
    assert_eq!(world.network().stats().web, 0);
    assert!(by_udp(&world, device));
}
