//! What `mpp netcheck` and `mpp endpoint` say of each network. What it is, `claims.rs` shows by other means.

use std::net::{IpAddr, SocketAddr};
use std::thread;
use std::time::Duration;

use serde_json::Value;

use crate::network::{DEVICE, DEVICE6, EXTERNAL, Lab, Network, SERVICE, SERVICE6};
use crate::play::{AT_ONCE, HEARTBEAT, Play};
use crate::rules::{Lifetime, Nat, Trouble};

/// What the longest measurement here may take: 25, 55, and twice 110 s of silence, and some.
const LONG: Duration = Duration::from_secs(360);

fn report(play: &Play, ticket: &str) -> Value {
    let ended = play.run(&["netcheck", "-", "--json", "--up-to", "0"], ticket);
    serde_json::from_str(ended.out.last().unwrap_or_else(|| panic!("{ended:?}"))).unwrap()
}

fn address(value: &Value) -> IpAddr {
    let address: SocketAddr =
        value.as_str().and_then(|s| s.parse().ok()).unwrap_or_else(|| panic!("{value}"));
    address.ip()
}

/// A network with a NAT: by the two addresses of the service, and by the two ports of one of them.
fn nat(network: Network, mapping: [&str; 2], port: &str) {
    let Some(lab) = Lab::open(network) else { return };
    let play = Play::on(lab);
    let tickets = [play.ticket_for(&SERVICE.map(IpAddr::from)), play.ticket()];
    for (ticket, mapping) in tickets.iter().zip(mapping) {
        let report = report(&play, ticket);
        let v4 = &report["v4"];
        let is = |name: &str, value: &str| assert_eq!(v4[name], value, "{network:?}: {report:#}");
        is("udp", "works");
        is("translation", "nat");
        is("mapping", mapping);
        is("port", port);
        is("filtering", "unknown");
        assert_eq!(address(&v4["endpoint"]), EXTERNAL[0]);
        assert_eq!(address(&v4["local"]), DEVICE[0]);
        assert_eq!((&v4["lost"], &v4["rebindings"]), (&0.into(), &0.into()), "{report:#}");
        assert_eq!((&report["v6"]["udp"], &report["web"]), (&"no-service".into(), &"works".into()));
        assert_eq!((&report["ticket"], &report["in_use"]), (&"accepted".into(), &"no".into()));
    }
}

const CONE: [&str; 2] = ["endpoint-independent", "not-port-dependent"];

#[test]
fn full_cone() {
    nat(Network::Behind(Nat::FullCone), CONE, "preserved");
}

#[test]
fn address_restricted() {
    nat(Network::Behind(Nat::AddressRestricted), CONE, "preserved");
}

#[test]
fn port_restricted() {
    nat(Network::Behind(Nat::PortRestricted), CONE, "preserved");
}

#[test]
fn symmetric() {
    nat(Network::Behind(Nat::Symmetric), ["address-and-port-dependent"; 2], "changed");
}

#[test]
fn double_nat() {
    nat(Network::DoubleNat, CONE, "preserved");
}

/// Behind the firewall IPv6 is not translated, and IPv4 is.
#[test]
fn ipv6_firewall() {
    let Some(lab) = Lab::open(Network::Ipv6Firewall) else { return };
    let play = Play::on(lab);
    let ticket = play.ticket_for(&[SERVICE6[0].into(), SERVICE[0].into()]);
    let both = report(&play, &ticket);
    let is = |family: &str, name: &str, value: &str| assert_eq!(both[family][name], value, "{both:#}");
    for family in ["v4", "v6"] {
        is(family, "udp", "works");
        is(family, "port", "preserved");
    }
    is("v6", "translation", "none");
    is("v6", "mapping", "endpoint-independent");
    is("v4", "translation", "nat");
    assert_eq!(address(&both["v6"]["endpoint"]), DEVICE6);

    let seen = play.run(&["endpoint", "-"], &ticket);
    let [v4, v6] = &seen.out[..] else { panic!("{seen:?}") };
    assert!(v4.starts_with("IPv4  198.51.100.1:") && v6.starts_with("IPv6  [2001:db8:3::10]:"), "{seen:?}");

    // One family that leads nowhere is said to, and the other one is none the worse.
    play.lab.trouble(Trouble::Silence4);
    let half = report(&play, &ticket);
    assert_eq!((&half["v4"]["udp"], &half["v6"]["udp"]), (&"blocked".into(), &"works".into()), "{half:#}");
    assert_eq!(half["udp"], "works");
}

/// Also while the device is connected, which is not disturbed by it.
#[test]
fn the_endpoint_behind_a_nat() {
    let Some(lab) = Lab::open(Network::Behind(Nat::Symmetric)) else { return };
    let play = Play::on(lab);
    let mut device = play.device();
    let ended = play.run(&["endpoint", "-", "--json"], &play.ticket());
    let seen: Value = serde_json::from_str(&ended.out[0]).unwrap();
    assert_eq!(address(&seen["v4"]["endpoint"]), EXTERNAL[0]);
    assert_eq!(address(&seen["v4"]["local"]), DEVICE[0]);
    assert_ne!(seen["v4"]["endpoint"], seen["v4"]["local"]);
    assert_eq!(report(&play, &play.ticket())["in_use"], "yes");
    device.hears_a_post(HEARTBEAT);
    device.end_connected();
}

#[test]
fn networks_in_trouble() {
    let Some(lab) = Lab::open(Network::Behind(Nat::PortRestricted)) else { return };
    let play = Play::on(lab);
    let ticket = play.ticket();
    let by_web = "UDP does not get through, the Web does: notifications come by Web";
    for (trouble, udp, web, verdict) in [
        (Trouble::Silence, "blocked", "works", by_web),
        (Trouble::Refused, "blocked", "works", by_web),
        (Trouble::Forbidden, "blocked", "works", by_web),
        (Trouble::LargerUdp(1100), "only-small", "works", "the Web does: notifications come by Web"),
        // HTTP needs packets of all sizes too, and nobody tells TCP that there is a limit.
        (Trouble::Larger(1100), "only-small", "does-not", "nor does the Web: no notifications come"),
        (Trouble::Larger(1280), "works", "does-not", "UDP works"),
    ] {
        play.lab.trouble(trouble);
        let ended = play.run(&["netcheck", "-", "--json", "--up-to", "0"], &ticket);
        let report: Value = serde_json::from_str(&ended.out[0]).unwrap();
        assert_eq!((&report["udp"], &report["web"]), (&udp.into(), &web.into()), "{trouble:?}: {report:#}");
        assert!(report["verdict"].as_str().unwrap().contains(verdict), "{trouble:?}: {report:#}");
        assert_eq!(ended.code() == 0, [udp, web].contains(&"works"), "{trouble:?}: {ended:?}");
        // Who is reached by Web says what it thinks of the ticket.
        let ticket = if ended.code() == 0 { "accepted" } else { "unknown" };
        assert_eq!(report["ticket"], ticket, "{trouble:?}: {report:#}");
    }
    play.lab.trouble(Trouble::Loss(40));
    let lossy = report(&play, &ticket);
    if lossy["udp"] == "works" {
        assert!(lossy["v4"]["lost"].as_u64() > Some(0), "{lossy:#}");
    }
    play.lab.no_trouble();
    play.lab.unplug();
    let report = report(&play, &ticket);
    assert_eq!((&report["udp"], &report["web"]), (&"no-route".into(), &"does-not".into()), "{report:#}");
}

/// A device that is served by Web, because nothing else passes, does not notice that somebody looks at the network.
#[test]
fn a_look_by_web_displaces_nobody() {
    let Some(lab) = Lab::open(Network::Behind(Nat::PortRestricted)) else { return };
    lab.trouble(Trouble::Silence);
    let play = Play::on(lab);
    let mut device = play.start_device(&play.ticket(), HEARTBEAT);
    device.connected(HEARTBEAT);
    let report = report(&play, &play.ticket());
    let seen = [&report["udp"], &report["web"], &report["in_use"]];
    assert_eq!(seen, ["blocked", "works", "yes"], "{report:#}");
    device.hears_a_post(AT_ONCE);
    device.end_connected();
}

/// How long the network remembers, measured up to this silence: at least and less than so many seconds.
fn lifetime(
    network: Network,
    lifetime: Lifetime,
    up_to: &str,
    bounds: [Option<u64>; 2],
) -> Option<(Play, Value)> {
    let lab = Lab::with_lifetime(network, lifetime)?;
    let play = Play::on(lab);
    let ended = play.run_for(LONG, &["netcheck", "-", "--json", "--up-to", up_to], &play.ticket());
    let report: Value =
        serde_json::from_str(ended.out.last().unwrap_or_else(|| panic!("{ended:?}"))).unwrap();
    let measured = [&report["lifetime"]["at_least_ms"], &report["lifetime"]["less_than_ms"]];
    assert_eq!(measured.map(Value::as_u64), bounds.map(|b| b.map(|s| s * 1000)), "{lifetime:?}: {report:#}");
    Some((play, report))
}

/// Each within its step of the ladder. Whoever may send to a mapping besides, that keeps no socket alive.
#[test]
fn a_lifetime_of_12_s() {
    let measure = |nat| {
        let network = Network::Behind(nat);
        let Some((_, report)) = lifetime(network, Lifetime::always(12), "240s", [Some(6), Some(12)]) else {
            return;
        };
        let verdict = report["verdict"].as_str().unwrap();
        assert!(verdict.contains("forgets a socket that is silent for 12 s"), "{report:#}");
        assert_eq!(report["lifetime"]["family"], "v4");
    };
    thread::scope(|threads| {
        for nat in [Nat::FullCone, Nat::AddressRestricted, Nat::PortRestricted] {
            threads.spawn(move || measure(nat));
        }
    });
}

#[test]
fn a_lifetime_of_40_s() {
    let Some((_, report)) =
        lifetime(Network::Behind(Nat::Symmetric), Lifetime::always(40), "240s", [Some(25), Some(55)])
    else {
        return;
    };
    assert_eq!(report["v4"]["mapping"], "address-and-port-dependent");
}

#[test]
fn a_lifetime_of_80_s_of_one_of_two_nats() {
    lifetime(Network::DoubleNat, Lifetime::always(80), "240s", [Some(55), Some(110)]);
}

/// 30 s until a socket has been in use both ways for more than 2 s, then 120: the longer one is what a device has. The
/// longest silence is left out, for the sake of time.
#[test]
fn the_lifetimes_of_linux() {
    let network = Network::Behind(Nat::PortRestricted);
    let Some((_, report)) = lifetime(network, Lifetime::LINUX, "110s", [Some(110), None]) else { return };
    assert_eq!((&report["heartbeat_ms"], &report["heartbeat_reason"]), (&99_000.into(), &"learned".into()));
}

/// Of a firewall too, which has no mapping but remembers flows.
#[test]
fn the_lifetime_of_an_ipv6_firewall() {
    let network = Network::Ipv6Firewall;
    let Some((_, report)) = lifetime(network, Lifetime::always(30), "55s", [Some(25), Some(55)]) else {
        return;
    };
    assert_eq!(report["lifetime"]["family"], "v6");
}

/// A device that is connected is not displaced by a measurement, unless that is asked for.
#[test]
fn a_measurement_displaces_nobody_unless_it_is_told_to() {
    let Some(lab) = Lab::open(Network::Behind(Nat::PortRestricted)) else { return };
    let play = Play::on(lab);
    let mut device = play.device();
    let ended = play.run(&["netcheck", "-"], &play.ticket());
    let lifetime = ended.out.iter().find(|l| l.starts_with("lifetime")).unwrap();
    assert!(lifetime.contains("unknown") && lifetime.contains("--take-over"), "{ended:?}");
    device.hears_a_post(HEARTBEAT);
    let args = ["netcheck", "-", "--json", "--take-over", "--up-to", "25s"];
    let ended = play.run_for(LONG, &args, &play.ticket());
    let report: Value = serde_json::from_str(&ended.out[0]).unwrap();
    assert_eq!(report["lifetime"]["at_least_ms"], 25_000, "{report:#}");
    device.says("another connection of the same device took over", HEARTBEAT);
}

/// A service that is there again soon does not end a measurement; one that is gone does.
#[test]
fn a_measurement_outlives_a_restart_of_the_service_and_not_its_end() {
    let measure = |happens: fn(&Play)| {
        let lab = Lab::open(Network::Behind(Nat::PortRestricted))?;
        let play = Play::on(lab);
        let mut check = play.start(&["netcheck", "-", "--up-to", "25s"], &play.ticket());
        check.line("what is known at once", |l| l.starts_with("Web"));
        // It connects, and begins to be silent.
        thread::sleep(Duration::from_secs(2));
        happens(&play);
        Some(check.end(LONG))
    };
    thread::scope(|threads| {
        let restarted = threads.spawn(move || measure(Play::restart));
        let killed = threads.spawn(move || measure(Play::kill));
        let (Some(restarted), Some(killed)) = (restarted.join().unwrap(), killed.join().unwrap()) else {
            return;
        };
        assert_eq!((restarted.code(), restarted.err.len()), (0, 0), "{restarted:?}");
        assert!(restarted.out.iter().any(|l| l.contains("at least 25 s")), "{restarted:?}");
        assert!(killed.failed(1).contains("is the service still running"), "{killed:?}");
        assert!(!killed.out.iter().any(|l| l.contains("at once")), "{killed:?}");
    });
}
