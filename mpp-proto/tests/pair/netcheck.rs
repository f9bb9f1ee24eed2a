//! Looking at networks of every kind, on a virtual clock.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::num::{NonZeroU16, NonZeroUsize};
use std::sync::Arc;
use std::time::Duration;

use mpp_proto::*;
use proptest::prelude::*;

use crate::harness::{spec, unix};

const LATENCY: Duration = Duration::from_millis(20);
const CHECK_PORT: u16 = 15_098;

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// What the network does with a packet from a socket at `from` to `to`: where it comes from in the end, or nothing.
type Network = Box<dyn FnMut(Instant, SocketAddr, SocketAddr) -> Option<SocketAddr>>;

/// A check, a service with any number of addresses, and a network between them that takes 20 ms.
struct Scene {
    now: Instant,
    check: Netcheck,
    service: Service,
    network: Network,
    /// Of a hundred packets to the device.
    loss: u64,
    /// Packets larger than this get nowhere.
    largest: usize,
    /// The socket by family; none: the host cannot open it.
    local: [Option<SocketAddr>; 2],
    wire: VecDeque<(Instant, bool, SocketAddr, SocketAddr, Vec<u8>)>,
    /// What was lost on the way to the device.
    lost: Vec<(SocketAddr, Vec<u8>)>,
    /// Packets that were sent, and their bytes.
    sent: Vec<(SocketAddr, usize)>,
    resolved: Vec<SocketAddr>,
    /// What was known on the way.
    before: Vec<NetcheckReport>,
    random: u64,
}

const V4: &str = "192.168.1.10:4000";
const V6: &str = "[2001:db8:3::10]:6000";

impl Scene {
    fn new(endpoints: &[&str], network: Network) -> Self {
        Self::with(endpoints, network, |_| ())
    }

    fn with(endpoints: &[&str], network: Network, change: impl FnOnce(&mut ServiceConfig)) -> Self {
        let now = Instant::from_micros(5_000_000);
        let key = TicketKey::new(*b"key1", [7; 32]);
        let mut config = ServiceConfig::new(ServiceSecret::new([9; 32]), vec![key.clone()]);
        config.check_port = NonZeroU16::new(CHECK_PORT);
        change(&mut config);
        let service = Service::new(Arc::new(config), ShardId(0), Seed::new([1; 32]), now, unix(now));
        let mut spec = spec(now, Duration::from_secs(86_400));
        spec.endpoints = endpoints.iter().map(|e| e.parse().unwrap()).collect();
        let ticket = key.mint(&spec, &[3; 32]).unwrap();
        let check = Netcheck::new(ticket, Seed::new([2; 32]), now, unix(now));
        Self {
            now,
            check,
            service,
            network,
            loss: 0,
            largest: 1500,
            local: [Some(at(V4)), Some(at(V6))],
            wire: VecDeque::new(),
            lost: Vec::new(),
            sent: Vec::new(),
            resolved: Vec::new(),
            before: Vec::new(),
            random: 1,
        }
    }

    /// Until it is complete. It always is, soon.
    fn run(&mut self) -> NetcheckReport {
        let begin = self.now;
        loop {
            self.drain();
            let deadlines = [
                self.wire.iter().map(|(at, ..)| *at).min(),
                self.check.poll_timeout().map(|w| w.at),
                self.service.poll_timeout().map(|w| w.at),
            ];
            if self.check.is_complete() {
                assert_eq!(self.check.poll_timeout(), None, "nothing is left to do");
                assert!(self.now.since(begin) <= Duration::from_secs(12), "{:?}", self.now.since(begin));
                return self.check.report();
            }
            self.before.push(self.check.report());
            self.now = deadlines.into_iter().flatten().min().expect("something to wait for").max(self.now);
            while let Some(i) = self.wire.iter().position(|(at, ..)| *at <= self.now) {
                let (_, to_service, from, to, mut payload) = self.wire.remove(i).unwrap();
                let path = Path::new(LinkId(u16::from(!to_service && to.is_ipv6())), from);
                if to_service {
                    // The link stands for the service's own address and port, from which it answers.
                    let link = LinkId(self.addresses().iter().position(|a| *a == to).unwrap() as u16);
                    let datagram = Datagram { path: Path { link, ..path }, payload: &mut payload };
                    self.service.handle_datagrams(self.now, &mut [datagram], &mut Vec::new());
                } else {
                    let _ = self.check.handle_datagram(self.now, Datagram { path, payload: &mut payload });
                }
            }
            self.check.handle_timeout(self.now);
            assert!(self.check.poll_timeout().is_none_or(|w| w.at > self.now), "a stale deadline");
            let _ = self.service.handle_timeout(self.now, NonZeroUsize::MAX);
        }
    }

    /// Where packets went, in order of their first.
    fn addresses(&self) -> Vec<SocketAddr> {
        let mut all: Vec<SocketAddr> = Vec::new();
        for (to, _) in &self.sent {
            if !all.contains(to) {
                all.push(*to);
            }
        }
        all
    }

    fn drain(&mut self) {
        let mut buffer = [0; 1452];
        while let Some(event) = self.check.poll_event() {
            match event {
                NetcheckEvent::OpenLink { link, to } => {
                    let state = match self.local[usize::from(to.is_ipv6())] {
                        Some(local) => LinkState::Open { local },
                        None => LinkState::Failed,
                    };
                    self.check.handle_link(self.now, link, state);
                }
                NetcheckEvent::Resolve { id, .. } => {
                    self.check.handle_resolved(self.now, id, &self.resolved.clone());
                }
                _ => {}
            }
        }
        while let Some(t) = self.check.poll_transmit(self.now, &mut buffer) {
            let to = t.path.remote;
            let local = self.local[usize::from(to.is_ipv6())].unwrap();
            self.sent.push((to, t.len));
            if let Some(from) = (self.network)(self.now, local, to)
                && t.len <= self.largest
            {
                let packet = buffer[..t.len].to_vec();
                self.wire.push_back((self.now + LATENCY, true, from, to, packet));
            }
        }
        let addresses = self.addresses();
        let mut batch = TransmitBatch::new(32);
        while self.service.poll_transmit(self.now, &mut batch) > 0 {
            for (t, bytes) in batch.iter() {
                let from = addresses[usize::from(t.path.link.0)];
                self.random = self.random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                if (self.random >> 33) % 100 >= self.loss && bytes.len() <= self.largest {
                    let local = self.local[usize::from(from.is_ipv6())].unwrap();
                    self.wire.push_back((self.now + LATENCY, false, from, local, bytes.to_vec()));
                } else {
                    self.lost.push((from, bytes.to_vec()));
                }
            }
            batch.clear();
        }
    }
}

/// A NAT that gives each key of a packet a port.
fn nat<K: PartialEq + 'static>(key: impl Fn(SocketAddr) -> K + 'static) -> Network {
    let mut known: Vec<K> = Vec::new();
    Box::new(move |_, from, to| {
        if to.is_ipv6() {
            return Some(from);
        }
        let key = key(to);
        let at = known.iter().position(|k| *k == key).unwrap_or_else(|| {
            known.push(key);
            known.len() - 1
        });
        Some(SocketAddr::from(([198, 51, 100, 1], 20_000 + at as u16)))
    })
}

fn endpoint_independent() -> Network {
    nat(|_| ())
}

const ONE: &[&str] = &["192.0.2.1:15096"];
const TWO: &[&str] = &["192.0.2.1:15096", "192.0.2.9:15096"];

// SPEC: R-mapping-names, R-check-port
#[test]
fn each_mapping_of_rfc_4787_is_called_by_its_name() {
    type Make = fn() -> Network;
    let networks: [(&str, Make, Mapping, Mapping); 3] = [
        ("one", endpoint_independent, Mapping::EndpointIndependent, Mapping::NotPortDependent),
        ("by address", || nat(|to| to.ip()), Mapping::AddressDependent, Mapping::NotPortDependent),
        ("by both", || nat(|to| to), Mapping::AddressAndPortDependent, Mapping::AddressAndPortDependent),
    ];
    for (name, network, two, one) in networks {
        let report = Scene::new(TWO, network()).run();
        assert_eq!(report.v4.mapping, two, "{name}: {report:#?}");
        assert_eq!(Scene::new(ONE, network()).run().v4.mapping, one, "{name}, with one address");
        assert_eq!((report.v4.translation, report.v4.ports), (Translation::Nat, Ports::Changed), "{name}");
        assert_eq!(report.v4.filtering, Filtering::Unknown);
        assert_eq!((report.v4.udp, report.v6.udp), (Udp::Works, Udp::NoService));
        assert_eq!((report.ticket, report.in_use), (TicketCheck::Accepted, InUse::No));
        assert_eq!(report.v4.rebindings, 0);
        let trips = report.v4.round_trip.unwrap();
        assert_eq!((trips.min, trips.mean), (LATENCY * 2, LATENCY * 2));
        assert_eq!(report.v4.loss, Some(Loss { sent: 10, lost: 0 }));
        let hard = two != Mapping::EndpointIndependent;
        assert_eq!(report.verdict() == Verdict::Dependent, hard, "{}", report.verdict());
    }
}

/// Without a second port only what one destination says is known.
#[test]
fn one_destination_says_nothing_of_the_mapping() {
    let mut scene = Scene::with(ONE, nat(|to| to), |config| config.check_port = None);
    let report = scene.run();
    assert_eq!(report.v4.mapping, Mapping::Unknown);
    assert_eq!(report.v4.endpoint, Some(at("198.51.100.1:20000")));
    assert_eq!(report.verdict(), Verdict::Works { translation: Translation::Nat });
}

#[test]
fn without_a_nat_the_address_is_the_own_and_both_families_are_measured() {
    let endpoints = ["192.0.2.1:15096", "[2001:db8:1::1]:15096"];
    let report = Scene::new(&endpoints, Box::new(|_, from, _| Some(from))).run();
    for (family, own) in [(&report.v4, V4), (&report.v6, V6)] {
        assert_eq!((family.udp, family.endpoint), (Udp::Works, Some(at(own))));
        assert_eq!((family.translation, family.ports), (Translation::None, Ports::Preserved));
        assert_eq!(family.destinations.len(), 2, "the other port too: {:?}", family.destinations);
    }
    assert_eq!(report.verdict(), Verdict::Works { translation: Translation::None });
}

#[test]
fn what_gets_through_and_what_does_not() {
    let blocked = Scene::new(ONE, Box::new(|_, _, _| None)).run();
    assert_eq!((blocked.v4.udp, blocked.v4.stun, blocked.v4.loss), (Udp::Blocked, Answers::Unknown, None));
    assert_eq!((blocked.ticket, blocked.in_use), (TicketCheck::Unknown, InUse::Unknown));
    assert_eq!(blocked.verdict(), Verdict::Blocked { web: Answers::Unknown });

    let mut narrow = Scene::new(ONE, endpoint_independent());
    narrow.largest = 1100;
    let narrow = narrow.run();
    assert_eq!((narrow.v4.udp, narrow.v4.stun), (Udp::OnlySmall, Answers::Yes));
    assert_eq!(narrow.v4.endpoint, Some(at("198.51.100.1:20000")), "that is known all the same");

    let mut offline = Scene::new(ONE, endpoint_independent());
    offline.local = [None; 2];
    let offline = offline.run();
    assert_eq!((offline.v4.udp, offline.verdict()), (Udp::NoRoute, Verdict::NoRoute));

    let silent = Scene::with(TWO, endpoint_independent(), |config| config.stun = false).run();
    assert_eq!((silent.v4.udp, silent.v4.stun, silent.v4.loss), (Udp::Works, Answers::No, None));
    assert_eq!(silent.v4.mapping, Mapping::Unknown);
    assert_eq!(silent.v4.endpoint, Some(at("198.51.100.1:20000")), "the exchange says so");
    assert_eq!(silent.v4.round_trip.map(|t| t.count), Some(1));

    let mut one_way = Scene::new(&["192.0.2.1:15096", "[2001:db8:1::1]:15096"], endpoint_independent());
    one_way.local[1] = None;
    let report = one_way.run();
    assert_eq!((report.v4.udp, report.v6.udp, report.udp()), (Udp::Works, Udp::NoRoute, Udp::Works));
}

#[test]
fn losses_and_rebindings_are_counted() {
    let mut lossy = Scene::new(ONE, endpoint_independent());
    lossy.loss = 50;
    let report = lossy.run();
    let loss = report.v4.loss.unwrap();
    assert!(loss.sent == 10 && (2..=8).contains(&loss.lost), "{loss:?}");
    assert_eq!(report.verdict(), Verdict::Lossy { percent: loss.percent() });

    // Another port every second.
    let flapping: Network = Box::new(|now, _, _| {
        let port = 20_000 + (now.as_millis() / 1000) as u16;
        Some(SocketAddr::from(([198, 51, 100, 1], port)))
    });
    let report = Scene::with(ONE, flapping, |config| config.check_port = None).run();
    assert_eq!(report.v4.rebindings, 2, "{report:?}");
}

#[test]
fn a_ticket_that_is_refused_is_reported() {
    let expired = |config: &mut ServiceConfig| config.account_policy = AccountPolicy::Restored;
    let report = Scene::with(ONE, endpoint_independent(), expired).run();
    assert_eq!((report.ticket, report.v4.udp), (TicketCheck::Refused(Code::UNKNOWN_ACCOUNT), Udp::Works));
    assert_eq!(report.verdict(), Verdict::TicketRefused(Code::UNKNOWN_ACCOUNT));
    assert!(report.v4.endpoint.is_some(), "STUN says so");

    let other_key = |c: &mut ServiceConfig| c.ticket_keys = vec![TicketKey::new(*b"key2", [8; 32])];
    let report = Scene::with(ONE, endpoint_independent(), other_key).run();
    assert_eq!((report.ticket, report.v4.udp), (TicketCheck::SaidRefused(Code::UNAUTHORIZED), Udp::Works));
}

#[test]
fn names_are_looked_up_or_missed() {
    let mut scene = Scene::new(&["presence.example.com:15096"], endpoint_independent());
    scene.resolved = vec![at("192.0.2.1:15096"), at("192.0.2.9:15096")];
    assert_eq!(scene.run().v4.mapping, Mapping::EndpointIndependent);
    let report = Scene::new(&["presence.example.com:15096"], endpoint_independent()).run();
    assert_eq!(report.unresolved, ["presence.example.com"]);
    assert_eq!((report.udp(), report.verdict()), (Udp::NoService, Verdict::Unresolved));
}

/// A name that is looked up late gets its time too, whatever else was asked before without an answer.
#[test]
fn a_name_that_comes_late_beside_a_dead_address_is_asked_in_full() {
    let service = at("192.0.2.1:15096");
    let endpoints =
        ["192.0.2.77:15096", "192.0.2.78:15096", "192.0.2.79:15096", "presence.example.com:15096"];
    for late in [0, 3000, 4970, 4999].map(Duration::from_millis) {
        let mut scene =
            Scene::new(&endpoints, Box::new(move |_, from, to| (to.ip() == service.ip()).then_some(from)));
        let answer_at = scene.now + late;
        let mut question = None;
        while scene.now < answer_at || question.is_none() {
            while let Some(event) = scene.check.poll_event() {
                match event {
                    NetcheckEvent::OpenLink { link, .. } => {
                        scene.check.handle_link(scene.now, link, LinkState::Open { local: at(V4) });
                    }
                    NetcheckEvent::Resolve { id, .. } => question = Some(id),
                    _ => {}
                }
            }
            while let Some(t) = scene.check.poll_transmit(scene.now, &mut [0; 1452]) {
                scene.sent.push((t.path.remote, t.len));
            }
            scene.now = answer_at.min(scene.check.poll_timeout().unwrap().at);
            scene.check.handle_timeout(scene.now);
        }
        scene.check.handle_resolved(scene.now, question.unwrap(), &[service]);
        let report = scene.run();
        assert_eq!((report.v4.udp, report.ticket), (Udp::Works, TicketCheck::Accepted), "after {late:?}");
        let large = scene.sent.iter().filter(|(_, len)| *len >= 1200).count();
        assert!(large <= 16, "{large} of {}", scene.sent.len());
    }
}

/// A device that is connected stays so, and the check says that it is there.
// SPEC: R-check-displaces-none, R-in-use
#[test]
fn a_check_displaces_nobody() {
    let mut pair = crate::harness::Pair::new();
    pair.run(Duration::from_secs(1));
    let mut scene = Scene::new(ONE, endpoint_independent());
    scene.now = pair.now;
    // The same service, whose device's packets do not matter here.
    std::mem::swap(&mut scene.service, &mut pair.service);
    let ticket = pair.mint();
    scene.check = Netcheck::new(ticket, Seed::new([8; 32]), scene.now, unix(scene.now));
    let report = scene.run();
    assert_eq!((report.in_use, report.ticket), (InUse::Yes, TicketCheck::Accepted));
    assert_eq!(report.v4.udp, Udp::Works);
    std::mem::swap(&mut scene.service, &mut pair.service);
    pair.now = scene.now;
    pair.device.handle_timeout(pair.now);
    pair.run(Duration::from_secs(60));
    assert_eq!(pair.device.state(), ConnectionState::Connected);
    assert_eq!(pair.device.stats().connects, 1, "it was never disturbed: {:?}", pair.events);
    let stats = pair.service.stats();
    assert_eq!(
        (stats.connected, pair.service.devices(pair.now, &AccountId::of("alice@example.com")).count()),
        (1, 1)
    );
}

/// Nor by Web, from which the device hears too: the request of its that waits goes on waiting, and is what is answered.
// SPEC: R-check-displaces-none
#[test]
fn a_check_by_web_displaces_nobody() {
    let mut pair = crate::web::by_web(|_| ());
    pair.run(Duration::from_secs(5));
    assert_eq!((pair.device.transport(), pair.service.stats().web_held), (Transport::Web, 1));
    for n in 0..6 {
        let mut check = Netcheck::new(pair.mint(), Seed::new([8 + n; 32]), pair.now, unix(pair.now));
        check.ask_web(pair.now);
        let mut packet = [0; 1452];
        let made = check.poll_web(pair.now, &mut packet).unwrap();
        let (id, remote) = (WebId(1_000_000 + u64::from(n)), at("203.0.113.9:7"));
        let packet = &mut packet[..made.len];
        let request = WebRequest { id, remote, wait: made.wait, packet };
        assert_eq!(pair.service.handle_web_request(pair.now, request), Disposition::Accepted);
        let mut body = Vec::new();
        assert_eq!(pair.service.poll_web(pair.now, &mut body), Some(id), "nobody else is answered");
        check.handle_web_answer(pair.now, made.id, WebAnswer::Packets(&mut body));
        let report = check.report();
        assert_eq!((report.web, report.in_use), (Answers::Yes, InUse::Yes));
        // There is nothing to be said over what it has agreed on.
        assert_eq!(check.poll_web(pair.now, &mut [0; 1452]), None);
        assert_eq!(pair.service.stats().web_held, 1);
    }
    pair.publish(Event::changed(StoreId::INBOUND));
    pair.run(Duration::from_millis(100));
    assert_eq!(pair.take().len(), 1, "at once");
    pair.run(Duration::from_secs(120));
    assert_eq!(pair.device.state(), ConnectionState::Connected);
    assert_eq!(pair.device.stats().connects, 1, "it was never disturbed: {:?}", pair.events);
}

/// A clock that is behind that of the device: the service names the serial to begin with.
#[test]
fn a_clock_that_is_behind_does_not_matter() {
    let mut pair = crate::harness::Pair::new();
    pair.run(Duration::from_secs(1));
    let mut scene = Scene::new(ONE, endpoint_independent());
    scene.now = pair.now;
    std::mem::swap(&mut scene.service, &mut pair.service);
    scene.check = Netcheck::new(pair.mint(), Seed::new([8; 32]), scene.now, UnixTime::from_millis(1000));
    let report = scene.run();
    assert_eq!((report.in_use, report.v4.udp), (InUse::Yes, Udp::Works));
}

/// Answers to STUN prove nothing but that who sends them has seen the question, or has been asked it.
// SPEC: R-stun-answer
#[test]
fn an_answer_counts_once_from_where_was_asked_and_under_its_transaction() {
    let mut scene = Scene::new(ONE, Box::new(|_, _, _| None));
    let mut buffer = [0; 1452];
    while let Some(event) = scene.check.poll_event() {
        if let NetcheckEvent::OpenLink { link, .. } = event {
            scene.check.handle_link(scene.now, link, LinkState::Open { local: at(V4) });
        }
    }
    let mut questions = Vec::new();
    while let Some(t) = scene.check.poll_transmit(scene.now, &mut buffer) {
        questions.extend((t.len == 20).then(|| buffer[..20].to_vec()));
    }
    let [question] = &questions[..] else { panic!("one destination is asked once: {questions:?}") };
    let answer = |transaction: &[u8]| {
        let head = [&b"\x01\x01\0\x0c\x21\x12\xa4\x42"[..], transaction].concat();
        [&head[..], b"\0\x20\0\x08\0\x01\xa1\x47\xe1\x12\xa6\x43"].concat()
    };
    let genuine = answer(&question[8..]);
    let (service, elsewhere) = (at(ONE[0]), at("192.0.2.1:15097"));
    for (from, mut packet, disposition) in [
        (service, answer(b"twelve bytes"), Disposition::NotForUs),
        (elsewhere, genuine.clone(), Disposition::NotForUs),
        (service, genuine[..28].to_vec(), Disposition::Dropped(DropReason::Malformed)),
        (service, genuine.clone(), Disposition::Accepted),
        (service, genuine.clone(), Disposition::NotForUs),
    ] {
        let path = Path::new(LinkId(0), from);
        assert_eq!(
            scene.check.handle_datagram(scene.now, Datagram { path, payload: &mut packet }),
            disposition
        );
    }
    assert_eq!(scene.check.report().v4.endpoint, Some(at("192.0.2.1:32853")));
}

/// A family that is still being asked may be the one that works, whatever is known of the other one.
// SPEC: R-check-unknown
#[test]
fn while_a_family_is_asked_nothing_is_said_to_be_missing() {
    let dead: fn() -> Network = || Box::new(|_, _, _| None);
    let alive: fn() -> Network = || Box::new(|_, from, _| Some(from));
    let both: &[&str] = &["192.0.2.1:15096", "[2001:db8:1::1]:15096"];
    let name: &[&str] = &["presence.example.com:15096"];
    for (endpoints, network, udp) in [
        (both, dead, Udp::Blocked),
        (ONE, dead, Udp::Blocked),
        (ONE, alive, Udp::Works),
        (name, alive, Udp::NoService),
    ] {
        let mut scene = Scene::new(endpoints, network());
        scene.local[1] = None;
        let first = scene.check.report();
        assert_eq!((first.udp(), first.verdict()), (Udp::Unknown, Verdict::Unknown), "{endpoints:?}");
        assert_eq!(scene.run().udp(), udp);
        let said: Vec<_> = scene.before.iter().map(NetcheckReport::udp).collect();
        assert!(said.iter().all(|seen| [Udp::Unknown, udp].contains(seen)), "{endpoints:?}: {said:?}");
        assert_eq!(said.first(), (udp != Udp::NoService).then_some(&Udp::Unknown), "{endpoints:?}");
    }
}

/// Whoever answers without taking the ticket has not promised anything.
// SPEC: R-check-unserved
#[test]
fn a_service_that_turns_devices_away_promises_nothing() {
    let mut scene = Scene::new(ONE, endpoint_independent());
    scene.service.close(scene.now, Duration::ZERO);
    let report = scene.run();
    assert_eq!((report.udp(), report.ticket), (Udp::Works, TicketCheck::Unknown), "503 in clear");
    assert_eq!((report.in_use, report.verdict()), (InUse::Unknown, Verdict::Unserved));
    assert!(!report.verdict().to_string().contains("at once"), "{}", report.verdict());
}

/// What is sent where nobody answers is bounded, whatever the ticket names.
#[test]
fn it_sends_no_more_than_it_says() {
    let endpoints: Vec<_> = (1..=8).map(|i| format!("192.0.2.{i}:15096")).collect();
    let endpoints: Vec<_> = endpoints.iter().map(String::as_str).collect();
    let mut scene = Scene::new(&endpoints, Box::new(|_, _, _| None));
    scene.run();
    let large = scene.sent.iter().filter(|(_, len)| *len >= 1200).count();
    assert!(large <= 12 && scene.sent.len() <= 60, "{large} of {}", scene.sent.len());
    assert!(scene.addresses().len() <= 4);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever comes at whatever time, it ends, and says of nothing what it has not seen.
    #[test]
    fn any_packets_do_no_harm(packets: Vec<(bool, Vec<u8>)>, late in 0u64..12_000) {
        let mut scene = Scene::new(&["192.0.2.1:15096", "[2001:db8:1::1]:15096"], Box::new(|_, _, _| None));
        scene.drain();
        scene.now = scene.now + Duration::from_millis(late);
        for (v6, mut packet) in packets {
            let remote = if v6 { at("[2001:db8:1::1]:15096") } else { at("192.0.2.1:15096") };
            let path = Path::new(LinkId(u16::from(v6)), remote);
            let before = packet.clone();
            let disposition = scene.check.handle_datagram(scene.now, Datagram { path, payload: &mut packet });
            prop_assert_ne!(disposition, Disposition::Accepted);
            prop_assert_eq!(before, packet);
        }
        scene.check.handle_timeout(scene.now);
        let report = scene.run();
        prop_assert_eq!((report.v4.udp, report.v6.udp), (Udp::Blocked, Udp::Blocked));
    }

    /// Whatever body comes by Web, it is not the service's.
    #[test]
    fn any_body_is_somebody_elses(mut body: Vec<u8>, framed: bool, request in 0u64..3) {
        let mut scene = Scene::new(&["192.0.2.1:15096", "[2001:db8:1::1]:15096"], Box::new(|_, _, _| None));
        scene.check.ask_web(scene.now);
        while scene.check.poll_web(scene.now, &mut [0; 1452]).is_some() {}
        if framed {
            body.splice(0..0, (body.len() as u16).to_be_bytes());
        }
        scene.check.handle_web_answer(scene.now, WebRequestId(request), WebAnswer::Packets(&mut body));
        while scene.check.poll_web(scene.now, &mut [0; 1452]).is_some() {}
        let report = scene.run();
        prop_assert_ne!(report.web, Answers::Yes);
        prop_assert!(report.web_destinations.iter().all(|d| d.seen != WebSeen::Service));
    }
}

/// What was counted as lost stays lost when it comes after all.
#[test]
fn after_its_end_nothing_changes_it() {
    let mut scene = Scene::new(ONE, endpoint_independent());
    scene.loss = 50;
    let report = scene.run();
    assert!(report.v4.loss.unwrap().lost > 0);
    for (from, mut payload) in std::mem::take(&mut scene.lost) {
        let path = Path::new(LinkId(0), from);
        let datagram = Datagram { path, payload: &mut payload };
        assert_eq!(scene.check.handle_datagram(scene.now, datagram), Disposition::NotForUs);
    }
    let later = scene.now + Duration::from_secs(60);
    scene.check.handle_timeout(later);
    assert_eq!(scene.check.report(), report);
    assert_eq!(scene.check.poll_transmit(later, &mut [0; 1452]), None);
}
