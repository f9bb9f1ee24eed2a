//! Each network is what it claims to be.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use crate::network::{EXTERNAL, Lab, Network};
use crate::probe::Dependence::{Address, AddressAndPort, EndpointIndependent};
use crate::probe::{Behaviour, Dependence, LOST, Probe, received};
use crate::rules::{Lifetime, Nat, Trouble};

fn claims(network: Network, mapping: Dependence, filtering: Dependence, port_kept: bool) {
    let Some(lab) = Lab::open(network) else { return };
    let probe = Probe::new(&lab);
    let address_kept = network == Network::Ipv6Firewall;
    assert_eq!(probe.behaviour(), Behaviour { mapping, filtering, port_kept, address_kept });
    assert_eq!(probe.routers(), lab.routers());
}

#[test]
fn full_cone() {
    claims(Network::Behind(Nat::FullCone), EndpointIndependent, EndpointIndependent, true);
}

#[test]
fn address_restricted() {
    claims(Network::Behind(Nat::AddressRestricted), EndpointIndependent, Address, true);
}

#[test]
fn port_restricted() {
    claims(Network::Behind(Nat::PortRestricted), EndpointIndependent, AddressAndPort, true);
}

#[test]
fn symmetric() {
    claims(Network::Behind(Nat::Symmetric), AddressAndPort, AddressAndPort, false);
}

#[test]
fn double_nat() {
    claims(Network::DoubleNat, EndpointIndependent, AddressAndPort, true);
}

#[test]
fn ipv6_firewall() {
    claims(Network::Ipv6Firewall, EndpointIndependent, AddressAndPort, true);
}

/// All networks.
fn all() -> impl Iterator<Item = Network> {
    let nats = [Nat::FullCone, Nat::AddressRestricted, Nat::PortRestricted, Nat::Symmetric];
    nats.map(Network::Behind).into_iter().chain([Network::DoubleNat, Network::Ipv6Firewall])
}

/// Of all networks: flushed, nobody gets in, and only the symmetric NAT maps the next packet to another port.
#[test]
fn a_flush_forgets_all_mappings() {
    for network in all() {
        let Some(lab) = Lab::open(network) else { return };
        let probe = Probe::new(&lab);
        let socket = probe.socket();
        let before = probe.exchange(&socket);
        lab.flush();
        assert!(!probe.back((0, 0), before, &socket), "{network:?}");
        let after = probe.exchange(&socket);
        assert_eq!(after == before, network != Network::Behind(Nat::Symmetric), "{network:?}");
    }
}

/// Of all networks, side by side, as each is mostly waited for.
#[test]
fn mappings_expire() {
    thread::scope(|threads| all().for_each(|network| drop(threads.spawn(move || expires(network)))));
}

/// A mapping lives as long as it should without traffic: a short time first, longer once it has been used for two seconds
/// in both directions.
fn expires(network: Network) {
    let Some(lab) = Lab::with_lifetime(network, Lifetime { first: 4, stream: 8 }) else { return };
    let probe = Probe::new(&lab);
    let wait = |since: Instant, seconds| sleep(Duration::from_secs(seconds).saturating_sub(since.elapsed()));
    let begin = Instant::now();
    // A socket for each question, because to ask refreshes.
    let sockets = [(); 5].map(|()| probe.socket());
    let mapped = sockets.each_ref().map(|s| probe.exchange(s));
    let lives = |i: usize| probe.back((0, 0), mapped[i], &sockets[i]);
    wait(begin, 3);
    assert!(lives(0), "{network:?}: after 3 s");
    for socket in &sockets[2..] {
        probe.exchange(socket);
    }
    let again = Instant::now();
    wait(begin, 5);
    // What a NAT remembers by itself lives for the longer time from the beginning.
    let by_itself = [Nat::FullCone, Nat::AddressRestricted].map(Network::Behind).contains(&network);
    assert_eq!(lives(1), by_itself, "{network:?}: after 5 s");
    wait(again, 7);
    assert!(lives(2), "{network:?}: 7 s after it was used again");
    wait(again, 9);
    assert!(!lives(3), "{network:?}: 9 s after it was used again");
    assert!(!probe.back((1, 1), mapped[4], &sockets[4]), "{network:?}: nor for a stranger");
}

#[test]
fn a_rebooted_nat_has_another_address() {
    let Some(lab) = Lab::open(Network::Behind(Nat::PortRestricted)) else { return };
    let probe = Probe::new(&lab);
    let socket = probe.socket();
    let before = probe.exchange(&socket);
    assert_eq!(before.ip(), EXTERNAL[0]);
    lab.reboot();
    assert!(!probe.back((0, 0), before, &socket));
    assert_eq!(probe.exchange(&socket).ip(), EXTERNAL[1]);
}

#[test]
fn a_third_of_the_packets_is_lost() {
    let Some(lab) = Lab::open(Network::Behind(Nat::PortRestricted)) else { return };
    let (from, to) = (lab.device.udp(lab.any()), lab.service.udp((lab.service_address(0), 0)));
    lab.trouble(Trouble::Loss(30));
    for _ in 0..400 {
        from.send_to(b"x", to.local_addr().unwrap()).unwrap();
    }
    let arrived = (0..400).take_while(|_| received(&to, b"x").is_some()).count();
    // Six standard deviations.
    assert!((225..=335).contains(&arrived), "{arrived} of 400 arrived");
}

#[test]
fn silence_is_silent_and_can_be_of_one_family() {
    let Some(lab) = Lab::open(Network::Ipv6Firewall) else { return };
    let v6 = Probe::new(&lab);
    let arrives = |trouble| {
        lab.trouble(trouble);
        let four = lab.device.udp(([0, 0, 0, 0], 0));
        let service = lab.service.udp((crate::network::SERVICE[0], 0));
        four.connect(service.local_addr().unwrap()).unwrap();
        let sent = four.send(b"x").is_ok() && four.send(b"y").is_ok();
        assert!(sent, "nobody says that it was dropped");
        (received(&service, b"y").is_some(), v6.out(&v6.socket(), (0, 0)).is_some())
    };
    assert_eq!(arrives(Trouble::Silence), (false, false));
    assert_eq!(arrives(Trouble::Silence4), (false, true));
}

#[test]
fn refusals_are_heard() {
    let Some(lab) = Lab::open(Network::Behind(Nat::PortRestricted)) else { return };
    let error = |trouble| {
        lab.trouble(trouble);
        let socket = lab.device.udp(lab.any());
        socket.connect((lab.service_address(0), 9)).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        socket.send(b"x").and_then(|_| socket.recv(&mut [0; 8])).unwrap_err().kind()
    };
    assert_eq!(error(Trouble::Refused), ErrorKind::ConnectionRefused);
    assert_eq!(error(Trouble::Forbidden), ErrorKind::PermissionDenied);
    lab.no_trouble();
    Probe::new(&lab).exchange(&lab.device.udp(lab.any()));
}

#[test]
fn larger_packets_are_lost() {
    for (network, headers) in [(Network::Behind(Nat::PortRestricted), 28), (Network::Ipv6Firewall, 48)] {
        let Some(lab) = Lab::open(network) else { return };
        lab.trouble(Trouble::Larger(1280));
        let (from, to) = (lab.device.udp(lab.any()), lab.service.udp((lab.service_address(0), 0)));
        let arrives = |bytes: usize| {
            let packet = vec![7; bytes - headers];
            from.send_to(&packet, to.local_addr().unwrap()).unwrap();
            received(&to, &packet).is_some()
        };
        assert!(arrives(1280), "{network:?}");
        assert!(!arrives(1281), "{network:?}");
    }
}

#[test]
fn larger_packets_are_lost_of_udp_only() {
    let Some(lab) = Lab::open(Network::Behind(Nat::PortRestricted)) else { return };
    lab.trouble(Trouble::LargerUdp(1000));
    let (from, to) = (lab.device.udp(lab.any()), lab.service.udp((lab.service_address(0), 0)));
    let to_udp = to.local_addr().unwrap();
    let arrives = |bytes: usize| {
        from.send_to(&vec![7; bytes], to_udp).unwrap();
        received(&to, &vec![7; bytes]).is_some()
    };
    assert!(arrives(1000 - 28));
    assert!(!arrives(1000 - 27));
    let listener = lab.service.enter(|| TcpListener::bind((lab.service_address(0), 0))).unwrap();
    let to_tcp = listener.local_addr().unwrap();
    let mut stream = lab.device.enter(|| TcpStream::connect_timeout(&to_tcp, LOST)).unwrap();
    let mut other = listener.accept().unwrap().0;
    other.set_read_timeout(Some(LOST)).unwrap();
    stream.write_all(&[7; 5000]).unwrap();
    other.read_exact(&mut [0; 5000]).expect("large packets of TCP pass");
}

/// What a killed run leaves behind is gone after the next start: namespaces of a process that is no more.
#[test]
fn remains_of_a_killed_run_are_removed() {
    let Some(_lab) = Lab::open(Network::Behind(Nat::PortRestricted)) else { return };
    // No process has a number beyond the kernel's limit of 2^22.
    let name = "mpplab-4194999-0-device";
    crate::netns::tool("ip", &["netns", "add", name], "").unwrap();
    let mut sleeper =
        std::process::Command::new("ip").args(["netns", "exec", name, "sleep", "60"]).spawn().unwrap();
    sleep(Duration::from_millis(300));
    crate::netns::remove_stale();
    assert!(!sleeper.wait().unwrap().success(), "what ran in it was killed");
    let left = crate::netns::tool("ip", &["netns", "list"], "").unwrap();
    assert!(!left.contains(name), "{left}");
}
