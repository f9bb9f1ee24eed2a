use super::*;

fn at(ms: u64) -> Instant {
    Instant::from_micros(1_000_000_000 + ms * 1000)
}

fn socket(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

const OUTSIDE: &str = "198.18.0.1";

fn nat(config: NatConfig) -> Nat {
    Nat::new(config, OUTSIDE.parse().unwrap(), 7)
}

const ALL: [Dependence; 3] =
    [Dependence::EndpointIndependent, Dependence::AddressDependent, Dependence::AddressAndPortDependent];

/// Far endpoints: two ports of one address, and another address.
fn far() -> [SocketAddr; 3] {
    [socket("192.0.2.1:1"), socket("192.0.2.1:2"), socket("192.0.2.9:1")]
}

#[test]
fn a_mapping_depends_on_as_much_of_the_far_side_as_it_says() {
    for (mapping, different) in ALL.into_iter().zip([1, 2, 3]) {
        for ports in [Ports::Sequential, Ports::Random, Ports::Preserved] {
            let mut nat = nat(NatConfig { mapping, ports, ..NatConfig::default() });
            let inside = socket("10.0.0.1:40000");
            let seen: Vec<_> = far().iter().map(|to| nat.outbound(at(0), inside, *to).unwrap()).collect();
            // It stays what it is as long as the mapping lives.
            let again: Vec<_> = far().iter().map(|to| nat.outbound(at(1), inside, *to).unwrap()).collect();
            assert_eq!(seen, again);
            let count = seen.iter().collect::<std::collections::BTreeSet<_>>().len();
            assert_eq!(count, different, "{mapping:?} {ports:?}");
            assert!(seen.iter().all(|s| s.ip() == nat.external()));
            assert_eq!((nat.stats().mapped, nat.len(at(1))), (different as u64, different));
            // Another socket never shares a port.
            let other = nat.outbound(at(1), socket("10.0.0.2:40000"), far()[0]).unwrap();
            assert!(!seen.contains(&other));
        }
    }
}

#[test]
fn the_three_filterings_let_in_what_they_say_and_count_the_rest() {
    // The box has sent to the first of the far endpoints only.
    for (filtering, welcome) in
        ALL.into_iter().zip([[true, true, true], [true, true, false], [true, false, false]])
    {
        let mut nat = nat(NatConfig { filtering, ..NatConfig::default() });
        let inside = socket("10.0.0.1:40000");
        let port = nat.outbound(at(0), inside, far()[0]).unwrap().port();
        let let_in = far().map(|from| nat.inbound(at(1), from, port) == Ok(inside));
        assert_eq!(let_in, welcome, "{filtering:?}");
        let refused = welcome.iter().filter(|w| !**w).count() as u64;
        assert_eq!((nat.stats().filtered, nat.stats().inbound), (refused, 3 - refused));
        let closed = port ^ 1;
        assert_eq!(nat.inbound(at(1), far()[0], closed), Err(NatDrop::Unmapped));
        assert_eq!(nat.stats().unmapped, 1);
    }
}

#[test]
fn the_external_port_changes_only_after_the_lifetime() {
    for seed in 0..50 {
        let mut rng = Rng::new(seed);
        let lifetime = Duration::from_millis(rng.between(1, 100_000));
        let mut nat = nat(NatConfig::forgetful(lifetime));
        let (inside, to) = (socket("10.0.0.1:40000"), far()[0]);
        let mut now = 0;
        let mut port = nat.outbound(at(now), inside, to).unwrap().port();
        for _ in 0..100 {
            let pause = rng.between(0, 2 * lifetime.as_millis() as u64);
            now += pause;
            let is_over = Duration::from_millis(pause) >= lifetime;
            assert_eq!(nat.mapped(at(now), inside, to).is_none(), is_over);
            assert_eq!(
                nat.inbound(at(now), to, port),
                if is_over { Err(NatDrop::Unmapped) } else { Ok(inside) }
            );
            let next = nat.outbound(at(now), inside, to).unwrap().port();
            assert_eq!(next != port, is_over, "after {pause} ms of {lifetime:?}");
            port = next;
        }
        assert!(
            nat.stats().expired > 10 && nat.stats().mapped == nat.stats().expired + 1,
            "{:?}",
            nat.stats()
        );
    }
}

#[test]
fn a_port_preserving_box_gives_the_same_port_again() {
    let config = NatConfig { ports: Ports::Preserved, ..NatConfig::forgetful(Duration::from_secs(120)) };
    let mut nat = nat(config);
    let (inside, to) = (socket("10.0.0.1:40000"), far()[0]);
    for round in 0..5 {
        let now = round * 1_000_000;
        assert_eq!(nat.outbound(at(now), inside, to).unwrap().port(), 40_000);
        assert_eq!(nat.inbound(at(now + 119_999), to, 40_000), Ok(inside));
        assert_eq!(nat.inbound(at(now + 120_000), to, 40_000), Err(NatDrop::Unmapped));
    }
    assert_eq!((nat.stats().mapped, nat.stats().expired), (5, 5));
    // Whoever comes second gets another one, as does a port that is not in the range.
    nat.outbound(at(9_000_000), inside, to).unwrap();
    assert_ne!(nat.outbound(at(9_000_000), socket("10.0.0.2:40000"), to).unwrap().port(), 40_000);
    assert!(nat.outbound(at(9_000_000), socket("10.0.0.3:53"), to).unwrap().port() >= 1024);
}

#[test]
fn packets_from_outside_refresh_only_where_they_are_said_to() {
    for inbound_refresh in [false, true] {
        let mut nat = nat(NatConfig { inbound_refresh, ..NatConfig::forgetful(Duration::from_secs(30)) });
        let (inside, to) = (socket("10.0.0.1:40000"), far()[0]);
        let port = nat.outbound(at(0), inside, to).unwrap().port();
        nat.inbound(at(20_000), to, port).unwrap();
        assert_eq!(nat.inbound(at(40_000), to, port).is_ok(), inbound_refresh);
        // What the filter refuses refreshes nothing (RFC 4787, section 4.3).
        let _ = nat.inbound(at(60_000), far()[2], port);
        assert_eq!(nat.inbound(at(71_000), to, port), Err(NatDrop::Unmapped));
    }
}

#[test]
fn two_stages_as_linux_has_them() {
    let (inside, to) = (socket("10.0.0.1:40000"), far()[0]);
    // How long the mapping lives after the last of these packets: true from inside, false from outside.
    let lives = |packets: &[(u64, bool)]| {
        let mut nat = nat(NatConfig::linux());
        for (ms, out) in packets {
            if *out {
                nat.outbound(at(*ms), inside, to).unwrap();
            } else {
                nat.inbound(at(*ms), to, 40_000).unwrap();
            }
        }
        let last = packets.last().unwrap().0;
        (1..).find(|s| nat.inside(at(last + s * 1000), 40_000).is_none()).unwrap()
    };
    assert_eq!(lives(&[(0, true)]), 30);
    assert_eq!(lives(&[(0, true), (10, true), (5000, true)]), 30, "nothing came back");
    assert_eq!(lives(&[(0, true), (40, false)]), 30, "an answer within 2 s is a question and its answer");
    assert_eq!(lives(&[(0, true), (40, false), (2000, true)]), 30);
    assert_eq!(lives(&[(0, true), (40, false), (2001, true)]), 120);
    assert_eq!(lives(&[(0, true), (2001, false)]), 120);
    // A flow that ended begins again with the first stage.
    assert_eq!(lives(&[(0, true), (40, false), (3000, true), (200_000, true)]), 30);
}

#[test]
fn a_full_box_refuses_or_forgets() {
    let to = far()[0];
    let inside = |n: u64| SocketAddr::from(([10, 0, 0, n as u8], 40_000));
    for (when_full, capacity, range) in [
        (WhenFull::Refuse, 3, 1024..=65535),
        (WhenFull::Forget, 3, 1024..=65535),
        (WhenFull::Refuse, 100, 5000..=5002),
        (WhenFull::Forget, 100, 5000..=5002),
    ] {
        let port_range = range.clone();
        let mut nat = nat(NatConfig { when_full, capacity, port_range, ..NatConfig::default() });
        for n in 0..3 {
            assert!(range.contains(&nat.outbound(at(n), inside(n), to).unwrap().port()));
        }
        let fourth = nat.outbound(at(10), inside(3), to);
        if when_full == WhenFull::Refuse {
            assert_eq!((fourth, nat.stats().full), (Err(NatDrop::Full), 1));
            assert!(nat.mapped(at(10), inside(0), to).is_some());
        } else {
            assert!(fourth.is_ok_and(|f| range.contains(&f.port())));
            assert_eq!((nat.stats().forgotten, nat.mapped(at(10), inside(0), to)), (1, None));
        }
        // Those that ended make room by themselves.
        assert!(nat.outbound(at(1_000_000), inside(9), to).is_ok());
        assert_eq!(nat.len(at(1_000_000)), 1);
    }
}

#[test]
fn a_reboot_forgets_everything_and_may_bring_another_address() {
    let mut nat = nat(NatConfig::linux());
    let (inside, to) = (socket("10.0.0.1:40000"), far()[0]);
    nat.outbound(at(0), inside, to).unwrap();
    nat.reboot(None);
    assert_eq!(nat.inbound(at(1), to, 40_000), Err(NatDrop::Unmapped));
    assert_eq!(nat.outbound(at(2), inside, to).unwrap().to_string(), "198.18.0.1:40000");
    nat.reboot(Some("198.18.0.2".parse().unwrap()));
    assert!(nat.is_empty(at(3)));
    assert_eq!(nat.outbound(at(3), inside, to).unwrap().to_string(), "198.18.0.2:40000");
    assert_eq!(nat.stats().reboots, 2);
}

#[test]
fn hairpinning_is_done_or_counted() {
    for hairpinning in [false, true] {
        let mut nat = nat(NatConfig { hairpinning, ..NatConfig::default() });
        let (one, two) = (socket("10.0.0.1:40000"), socket("10.0.0.2:40000"));
        let of_one = nat.outbound(at(0), one, far()[0]).unwrap();
        let of_two = nat.outbound(at(0), two, of_one);
        if hairpinning {
            // RFC 4787, REQ-9a: the source is the external one. The first has not sent to it, so the filter refuses.
            assert_eq!(nat.inbound(at(1), of_two.unwrap(), of_one.port()), Err(NatDrop::Filtered));
            nat.outbound(at(2), one, of_two.unwrap()).unwrap();
            assert_eq!(nat.inbound(at(3), of_two.unwrap(), of_one.port()), Ok(one));
        } else {
            assert_eq!((of_two, nat.stats().hairpin), (Err(NatDrop::Hairpin), 1));
        }
    }
}
