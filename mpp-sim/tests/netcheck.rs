//! What a netcheck reports through boxes of every kind that RFC 4787 knows, alone and one behind another.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::num::{NonZeroU16, NonZeroUsize};
use std::sync::Arc;
use std::time::Duration;

use mpp_proto::{
    Datagram, DeviceId, Endpoint, Instant, LinkId, LinkState, Loss, Mapping, Netcheck, NetcheckEvent,
    NetcheckReport, Path, Ports as Port, Rights, Seed, Service, ServiceConfig, ServiceSecret, ShardId,
    TicketKey, TicketSpec, Translation, TransmitBatch, Udp, UnixTime,
};
use mpp_sim::nat::{Dependence, Nat, Ports};
use mpp_sim::{NatConfig, Rng, each_seed};

const ONE_WAY: Duration = Duration::from_millis(15);
/// Two addresses of the service; on the first it has another port too.
const SERVICE: [([u8; 4], u16); 2] = [([192, 0, 2, 1], 15_096), ([192, 0, 2, 9], 15_096)];
const CHECK_PORT: u16 = 15_098;
const LOCAL: ([u8; 4], u16) = ([10, 0, 0, 1], 4000);

/// A machine behind these boxes, the innermost first, looks at its network.
fn look(seed: u64, configs: &[NatConfig], addresses: usize) -> NetcheckReport {
    let begin = Instant::from_micros(1_000_000_000);
    let clock = |now: Instant| UnixTime::from_millis(1_767_225_600_000 + now.as_millis());
    let rng = Rng::new(seed);
    let seed_of = |n| Seed::new(rng.fork(n).bytes32());
    let key = TicketKey::new([1, 2, 3, 4], rng.fork(9).bytes32());
    let mut config = ServiceConfig::new(ServiceSecret::new(rng.fork(8).bytes32()), vec![key.clone()]);
    config.check_port = NonZeroU16::new(CHECK_PORT);
    let mut service = Service::new(Arc::new(config), ShardId(0), seed_of(1), begin, clock(begin));
    let spec = TicketSpec {
        endpoints: SERVICE[..addresses].iter().map(|a| Endpoint::Address((*a).into())).collect(),
        account: "alice@example.com".into(),
        device: DeviceId([1; 16]),
        rights: Rights::default(),
        issued: clock(begin),
        expiry: clock(begin) + Duration::from_secs(3600),
    };
    let ticket = key.mint(&spec, &[3; 32]).unwrap();
    let mut check = Netcheck::new(ticket, seed_of(2), begin, clock(begin));
    let boxes = configs.iter().zip(1..);
    let mut boxes: Vec<Nat> = boxes
        .map(|(c, i)| Nat::new(c.clone(), IpAddr::from([198, 51, 100, i]), seed + u64::from(i)))
        .collect();

    // The link of the service stands for its address and port.
    let mut ends: Vec<SocketAddr> = SERVICE.iter().map(|a| (*a).into()).collect();
    ends.push((SERVICE[0].0, CHECK_PORT).into());
    let mut wire: BTreeMap<(Instant, u64), (SocketAddr, SocketAddr, Vec<u8>)> = BTreeMap::new();
    let (mut now, mut number, mut buffer) = (begin, 0, [0; 1452]);
    let mut batch = TransmitBatch::new(16);
    loop {
        while let Some(event) = check.poll_event() {
            if let NetcheckEvent::OpenLink { link, .. } = event {
                check.handle_link(now, link, LinkState::Open { local: LOCAL.into() });
            }
        }
        while let Some(t) = check.poll_transmit(now, &mut buffer) {
            let to = t.path.remote;
            let out = boxes.iter_mut().try_fold(LOCAL.into(), |from, nat| nat.outbound(now, from, to));
            if let Ok(from) = out {
                number += 1;
                wire.insert((now + ONE_WAY, number), (from, to, buffer[..t.len].to_vec()));
            }
        }
        while service.poll_transmit(now, &mut batch) > 0 {
            for (t, bytes) in batch.iter() {
                number += 1;
                let from = ends[usize::from(t.path.link.0)];
                wire.insert((now + ONE_WAY, number), (from, t.path.remote, bytes.to_vec()));
            }
            batch.clear();
        }
        if check.is_complete() {
            return check.report();
        }
        let next = [
            wire.keys().next().map(|(at, _)| *at),
            check.poll_timeout().map(|w| w.at),
            service.poll_timeout().map(|w| w.at),
        ];
        now = next.into_iter().flatten().min().unwrap();
        assert!(now.since(begin) < Duration::from_secs(10));
        while let Some(entry) = wire.first_entry().filter(|e| e.key().0 <= now) {
            let (from, to, mut payload) = entry.remove();
            if let Some(link) = ends.iter().position(|end| *end == to) {
                let path = Path::new(LinkId(link as u16), from);
                service.handle_datagrams(
                    now,
                    &mut [Datagram { path, payload: &mut payload }],
                    &mut Vec::new(),
                );
            } else if boxes.iter_mut().rev().try_fold(to, |to, nat| nat.inbound(now, from, to.port())).is_ok()
            {
                let path = Path::new(LinkId(0), from);
                let _ = check.handle_datagram(now, Datagram { path, payload: &mut payload });
            }
        }
        check.handle_timeout(now);
        let _ = service.handle_timeout(now, NonZeroUsize::MAX);
    }
}

const ALL: [Dependence; 3] =
    [Dependence::EndpointIndependent, Dependence::AddressDependent, Dependence::AddressAndPortDependent];

/// What is measured of a box by two addresses of the service, one of which has two ports, and by that one alone.
fn names(mapping: Dependence) -> [Mapping; 2] {
    match mapping {
        Dependence::EndpointIndependent => [Mapping::EndpointIndependent, Mapping::NotPortDependent],
        Dependence::AddressDependent => [Mapping::AddressDependent, Mapping::NotPortDependent],
        Dependence::AddressAndPortDependent => [Mapping::AddressAndPortDependent; 2],
    }
}

#[test]
fn the_report_is_right_for_every_behaviour_of_rfc_4787() {
    each_seed(8, |seed| {
        for mapping in ALL {
            for filtering in ALL {
                for ports in [Ports::Preserved, Ports::Sequential, Ports::Random] {
                    let config = NatConfig { mapping, filtering, ports, ..NatConfig::default() };
                    for (addresses, name) in [2, 1].into_iter().zip(names(mapping)) {
                        let report = look(seed, std::slice::from_ref(&config), addresses);
                        let v4 = &report.v4;
                        assert_eq!((v4.udp, v4.mapping), (Udp::Works, name), "{config:?}: {report:#?}");
                        assert_eq!(v4.translation, Translation::Nat);
                        let kept = ports == Ports::Preserved;
                        // One in 64,512 is kept by chance.
                        assert_eq!(v4.ports == Port::Preserved, kept, "{config:?}: {report:#?}");
                        assert_eq!((v4.loss, v4.rebindings), (Some(Loss { sent: 10, lost: 0 }), 0));
                        assert_eq!(v4.endpoint.unwrap().ip(), IpAddr::from([198, 51, 100, 1]));
                    }
                }
            }
        }
    });
}

/// Of two boxes, one behind the other, the stricter one shows.
#[test]
fn of_two_boxes_the_stricter_one_shows() {
    each_seed(4, |seed| {
        for (i, inner) in ALL.into_iter().enumerate() {
            for (o, outer) in ALL.into_iter().enumerate() {
                let of = |mapping| NatConfig { mapping, ..NatConfig::default() };
                let report = look(seed, &[of(inner), of(outer)], 2);
                assert_eq!(report.v4.mapping, names(ALL[i.max(o)])[0], "{inner:?} behind {outer:?}");
            }
        }
    });
}

/// Boxes with names: Linux's, one that forgets within the second that the check takes, and none.
#[test]
fn well_known_boxes() {
    let linux = look(1, &[NatConfig::linux()], 2);
    assert_eq!(linux.v4.mapping, Mapping::AddressAndPortDependent);
    let forgetful = look(1, &[NatConfig::forgetful(Duration::from_millis(200))], 1);
    assert_eq!(forgetful.v4.udp, Udp::Works);
    assert!(forgetful.v4.rebindings >= 8, "between any two packets: {forgetful:#?}");
    let none = look(1, &[], 2);
    assert_eq!((none.v4.mapping, none.v4.translation), (Mapping::EndpointIndependent, Translation::None));
}
