//! The networks: a service with two addresses, the Internet, one NAT or two, a device.
//!
//! ```text
//!  service ---------- internet ---------- box [---------- carrier's box] ---------- device
//!  203.0.113.1, .2     router             198.51.100.1 outside                      192.168.1.10
//!  2001:db8:1::1, ::2                     192.168.1.254 inside                      2001:db8:3::10
//! ```
//!
//! In each namespace the interface towards the service is called `outer`, the one towards the device `inner`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use crate::needs;
use crate::netns::Netns;
use crate::rules::{self, Lifetime, Nat, Trouble};

/// The service's addresses.
pub(crate) const SERVICE: [Ipv4Addr; 2] = [Ipv4Addr::new(203, 0, 113, 1), Ipv4Addr::new(203, 0, 113, 2)];
pub(crate) const SERVICE6: [Ipv6Addr; 2] =
    [Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 1), Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 2)];
/// The outermost NAT's address, and the one it has after [`Lab::reboot`].
pub(crate) const EXTERNAL: [Ipv4Addr; 2] = [Ipv4Addr::new(198, 51, 100, 1), Ipv4Addr::new(198, 51, 100, 2)];
/// The device's address, and one for [`Lab::renumber`].
pub(crate) const DEVICE: [Ipv4Addr; 2] = [Ipv4Addr::new(192, 168, 1, 10), Ipv4Addr::new(192, 168, 1, 11)];
pub(crate) const DEVICE6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 3, 0, 0, 0, 0, 0x10);

/// The device's way out; it goes with its address.
const HOME_ROUTE: &str = "route add default via 192.168.1.254";

/// What lies between a device and the Internet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Network {
    /// One NAT. No IPv6.
    Behind(Nat),
    /// A home router behind a carrier's NAT, both port-restricted. No IPv6.
    DoubleNat,
    /// A home router: a port-restricted NAT for IPv4; IPv6 without NAT, but nothing comes in that was not asked for.
    Ipv6Firewall,
}

/// The NAT that most people are behind.
pub(crate) const PORT_RESTRICTED: Network = Network::Behind(Nat::PortRestricted);

/// A router between two networks, and its NAT for IPv4.
#[derive(Debug)]
struct NatBox {
    netns: Netns,
    nat: Nat,
}

/// One network, in namespaces of its own, until it is dropped.
#[derive(Debug)]
pub(crate) struct Lab {
    pub(crate) network: Network,
    pub(crate) service: Netns,
    internet: Netns,
    /// The device's first.
    boxes: Vec<NatBox>,
    pub(crate) device: Netns,
}

impl Lab {
    /// Builds a network whose mappings live as long as on Linux; nothing where that is impossible, which has then been
    /// said.
    pub(crate) fn open(network: Network) -> Option<Self> {
        Self::with_lifetime(network, Lifetime::LINUX)
    }

    /// The same with other lifetimes.
    pub(crate) fn with_lifetime(network: Network, lifetime: Lifetime) -> Option<Self> {
        needs::are_met().then(|| {
            Self::build(network, lifetime).unwrap_or_else(|e| panic!("{network:?} cannot be built: {e}"))
        })
    }

    fn build(network: Network, lifetime: Lifetime) -> Result<Self, String> {
        let nats: &[Nat] = match network {
            Network::Behind(nat) => &[nat],
            Network::DoubleNat => &[Nat::PortRestricted; 2],
            Network::Ipv6Firewall => &[Nat::PortRestricted],
        };
        let boxes = nats.iter().map(|nat| Ok(NatBox { netns: router("box")?, nat: *nat }));
        let lab = Self {
            network,
            service: Netns::new("service")?,
            internet: router("internet")?,
            boxes: boxes.collect::<Result<_, String>>()?,
            device: Netns::new("device")?,
        };

        join(&lab.service, "outer", &lab.internet, "outer")?;
        lab.service.ip(&[
            "address add 203.0.113.1/24 dev outer",
            "address add 203.0.113.2/24 dev outer",
            "address add 2001:db8:1::1/64 dev outer",
            "address add 2001:db8:1::2/64 dev outer",
            "route add default via 203.0.113.254",
            "route add default via 2001:db8:1::fe",
        ])?;
        lab.internet
            .ip(&["address add 203.0.113.254/24 dev outer", "address add 2001:db8:1::fe/64 dev outer"])?;

        // From the Internet inwards. Nobody there knows a way to what is inside of a NAT.
        let (mut outside, mut net) = (&lab.internet, "198.51.100");
        for (i, NatBox { netns, nat }) in lab.boxes.iter().enumerate().rev() {
            join(netns, "outer", outside, "inner")?;
            outside.ip(&[&format!("address add {net}.254/24 dev inner")])?;
            netns.ip(&[
                &format!("address add {net}.1/24 dev outer"),
                &format!("route add default via {net}.254"),
            ])?;
            netns.nft(&rules::nat(*nat, lifetime))?;
            netns.sysctl("net/netfilter/nf_conntrack_udp_timeout", lifetime.first)?;
            netns.sysctl("net/netfilter/nf_conntrack_udp_timeout_stream", lifetime.stream)?;
            (outside, net) = (netns, if i > 0 { "100.64.0" } else { "192.168.1" });
        }
        let home = outside;
        join(&lab.device, "outer", home, "inner")?;
        home.ip(&["address add 192.168.1.254/24 dev inner"])?;
        lab.device.ip(&[&format!("address add {}/24 dev outer", DEVICE[0]), HOME_ROUTE])?;

        if network == Network::Ipv6Firewall {
            lab.internet.ip(&[
                "address add 2001:db8:2::fe/64 dev inner",
                "route add 2001:db8:3::/64 via 2001:db8:2::1",
            ])?;
            home.ip(&[
                "address add 2001:db8:2::1/64 dev outer",
                "address add 2001:db8:3::fe/64 dev inner",
                "route add default via 2001:db8:2::fe",
            ])?;
            lab.device.ip(&[
                &format!("address add {DEVICE6}/64 dev outer"),
                "route add default via 2001:db8:3::fe",
            ])?;
            home.nft(rules::FIREWALL6)?;
        }
        lab.warm_up()?;
        Ok(lab)
    }

    /// Until packets get through: cables need a moment, and the first packets are lost to it or to a neighbour whose
    /// address is not known yet. Leaves no mapping behind.
    fn warm_up(&self) -> Result<(), String> {
        let mut services: Vec<IpAddr> = vec![SERVICE[0].into()];
        services.extend((self.network == Network::Ipv6Firewall).then_some(IpAddr::from(SERVICE6[0])));
        for ip in services {
            let (service, device) = (self.service.udp((ip, 0)), self.device.udp((any(ip), 0)));
            service.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
            let to = service.local_addr().unwrap();
            let arrives = |_| {
                let _ = device.send_to(b"x", to);
                service.recv(&mut [0; 8]).is_ok()
            };
            if !(0..250).any(arrives) {
                return Err(format!("nothing arrives at {to}"));
            }
        }
        self.flush();
        Ok(())
    }

    /// Every NAT and firewall forgets all mappings.
    pub(crate) fn flush(&self) {
        (0..self.boxes.len()).for_each(|i| self.flush_box(i));
    }

    /// One of them does; the device's is the first.
    pub(crate) fn flush_box(&self, index: usize) {
        let NatBox { netns, nat } = &self.boxes[index];
        netns.nft(rules::forget(*nat)).unwrap();
        netns.conntrack(&["--flush"]).unwrap();
    }

    /// The outermost NAT was switched off and on: all mappings are gone, and its provider has given it another address.
    pub(crate) fn reboot(&self) {
        let last = self.boxes.len() - 1;
        let [old, new] = EXTERNAL;
        let commands = [
            "link set outer down",
            &format!("address del {old}/24 dev outer"),
            &format!("address add {new}/24 dev outer"),
            "link set outer up",
            "route add default via 198.51.100.254",
        ];
        self.boxes[last].netns.ip(&commands).unwrap();
        self.flush_box(last);
    }

    /// The device is given this address in the same network, and loses its old one.
    pub(crate) fn renumber(&self, address: Ipv4Addr) {
        let commands = [
            "address flush dev outer scope global",
            &format!("address add {address}/24 dev outer"),
            HOME_ROUTE,
        ];
        self.device.ip(&commands).unwrap();
    }

    /// Takes the device off its network, as when the cable is pulled.
    pub(crate) fn unplug(&self) {
        self.device.ip(&["link set outer down"]).unwrap();
    }

    /// Puts it back.
    pub(crate) fn plug_in(&self) {
        self.device.ip(&["link set outer up", HOME_ROUTE]).unwrap();
    }

    /// From now on something is wrong with the network; nothing else that was before.
    pub(crate) fn trouble(&self, trouble: Trouble) {
        self.no_trouble();
        let place = if trouble == Trouble::Forbidden { &self.device } else { &self.internet };
        place.nft(&trouble.rules()).unwrap();
    }

    /// How many packets the present trouble has stopped.
    pub(crate) fn stopped(&self) -> u64 {
        let rules = [&self.internet, &self.device].map(|place| place.rules().unwrap());
        let counters = rules.iter().flat_map(|rules| rules.split("counter packets ").skip(1));
        counters.map(|rest| rest.split(' ').next().unwrap().parse::<u64>().unwrap()).sum()
    }

    /// All is well again.
    pub(crate) fn no_trouble(&self) {
        for place in [&self.internet, &self.device] {
            place.nft(rules::NO_TROUBLE).unwrap();
        }
    }

    /// The routers that a packet passes on its way to the service.
    pub(crate) fn routers(&self) -> u32 {
        1 + u32::try_from(self.boxes.len()).unwrap()
    }

    /// An address of the service in the family that the network is about.
    pub(crate) fn service_address(&self, index: usize) -> IpAddr {
        match self.network {
            Network::Ipv6Firewall => SERVICE6[index].into(),
            Network::Behind(_) | Network::DoubleNat => SERVICE[index].into(),
        }
    }

    /// The wildcard address of that family, and any port.
    pub(crate) fn any(&self) -> SocketAddr {
        (any(self.service_address(0)), 0).into()
    }
}

fn any(like: IpAddr) -> IpAddr {
    match like {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    }
}

/// A namespace that forwards.
fn router(role: &str) -> Result<Netns, String> {
    let netns = Netns::new(role)?;
    netns.sysctl("net/ipv4/ip_forward", 1)?;
    netns.sysctl("net/ipv6/conf/all/forwarding", 1)?;
    Ok(netns)
}

/// A cable between two namespaces. It carries no packet that the network's size limit would not: what the sender leaves to
/// the network card is cut into packets at its entrance.
fn join(a: &Netns, a_end: &str, b: &Netns, b_end: &str) -> Result<(), String> {
    a.ip(&[&format!("link add {a_end} type veth peer name {b_end} netns {}", b.name())])?;
    for (netns, end) in [(a, a_end), (b, b_end)] {
        netns.ip(&[&format!("link set {end} gso_max_segs 1 up")])?;
    }
    Ok(())
}

/// Whether this machine can do all that, or what it cannot.
pub(crate) fn try_out() -> Result<(), String> {
    let a = router("check")?;
    let b = Netns::new("check")?;
    join(&a, "outer", &b, "outer")?;
    a.sysctl("net/netfilter/nf_conntrack_udp_timeout", 30)?;
    a.sysctl("net/netfilter/nf_conntrack_udp_timeout_stream", 120)?;
    a.nft(rules::ALL_KINDS)?;
    a.conntrack(&["--flush"]).map(drop)
}
