//! Packets of the tests' own, which show what a network does.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::network::Lab;

/// After this time a packet is lost: no cable here takes a millisecond, but the machine may be busy.
pub(crate) const LOST: Duration = Duration::from_millis(400);

/// What something depends on, in the words of RFC 4787, from the friendliest to the strictest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dependence {
    EndpointIndependent,
    Address,
    AddressAndPort,
}

/// How a network treats one socket of the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Behaviour {
    /// What another mapping is made for.
    pub(crate) mapping: Dependence,
    /// Who may send to a mapping.
    pub(crate) filtering: Dependence,
    pub(crate) port_kept: bool,
    pub(crate) address_kept: bool,
}

/// Four sockets in the service's namespace, two at each of two addresses, and what the device can do with them.
#[derive(Debug)]
pub(crate) struct Probe<'a> {
    lab: &'a Lab,
    service: [[UdpSocket; 2]; 2],
}

impl<'a> Probe<'a> {
    pub(crate) fn new(lab: &'a Lab) -> Self {
        let sockets = |i| [(); 2].map(|()| lab.service.udp((lab.service_address(i), 0)));
        Self { lab, service: [sockets(0), sockets(1)] }
    }

    /// A new socket of the device.
    pub(crate) fn socket(&self) -> UdpSocket {
        self.lab.device.udp(self.lab.any())
    }

    fn to(&self, (address, port): (usize, usize)) -> &UdpSocket {
        &self.service[address][port]
    }

    /// Sends from the device to one of the service's sockets; returns where it came from, if it arrived.
    pub(crate) fn out(&self, from: &UdpSocket, to: (usize, usize)) -> Option<SocketAddr> {
        let to = self.to(to);
        let token = token();
        from.send_to(&token, to.local_addr().unwrap()).unwrap();
        received(to, &token)
    }

    /// Sends from one of the service's sockets to a mapping; returns whether it reached the device's socket.
    pub(crate) fn back(&self, from: (usize, usize), mapping: SocketAddr, to: &UdpSocket) -> bool {
        let token = token();
        self.to(from).send_to(&token, mapping).unwrap();
        received(to, &token).is_some()
    }

    /// Sends one out and one back; returns the mapping. After a change the network may need a moment.
    pub(crate) fn exchange(&self, device: &UdpSocket) -> SocketAddr {
        let mapping = (0..5).find_map(|_| self.out(device, (0, 0))).expect("a packet gets out");
        assert!(self.back((0, 0), mapping, device), "an answer gets in");
        mapping
    }

    /// Finds out how the network behaves, with fresh sockets.
    pub(crate) fn behaviour(&self) -> Behaviour {
        let own: IpAddr = {
            let socket = self.socket();
            self.lab.device.enter(|| socket.connect(self.to((0, 0)).local_addr().unwrap())).unwrap();
            socket.local_addr().unwrap().ip()
        };

        let socket = self.socket();
        let out = |to| self.out(&socket, to).expect("a packet gets out");
        let (first, other_port, other_address) = (out((0, 0)), out((0, 1)), out((1, 0)));
        let mapping = match (first == other_port, first == other_address) {
            (true, true) => Dependence::EndpointIndependent,
            (true, false) => Dependence::Address,
            (false, _) => Dependence::AddressAndPort,
        };
        assert_eq!(out((0, 0)), first, "a mapping stays while it is used");

        let socket = self.socket();
        let mapped = self.exchange(&socket);
        // The answer of whom was asked has shown that packets do come in.
        let filtering = match (self.back((0, 1), mapped, &socket), self.back((1, 0), mapped, &socket)) {
            (true, true) => Dependence::EndpointIndependent,
            (true, false) => Dependence::Address,
            (false, false) => Dependence::AddressAndPort,
            (false, true) => panic!("another address may, another port of the same may not"),
        };

        // One port at random may be the right one.
        let kept = [(); 3].map(|()| {
            let socket = self.socket();
            self.exchange(&socket).port() == socket.local_addr().unwrap().port()
        });
        Behaviour { mapping, filtering, port_kept: kept == [true; 3], address_kept: first.ip() == own }
    }

    /// The routers between the device and the service, counted by packets that may pass so many and no more.
    pub(crate) fn routers(&self) -> u32 {
        let arrives = |hops: &u32| {
            self.lab.device.sysctl("net/ipv4/ip_default_ttl", hops).unwrap();
            self.lab.device.sysctl("net/ipv6/conf/outer/hop_limit", hops).unwrap();
            self.out(&self.socket(), (0, 0)).is_some()
        };
        // The last value stays in force: it was enough.
        (1..9).find(arrives).expect("a way to the service") - 1
    }
}

/// Ten bytes that no other packet has.
fn token() -> [u8; 10] {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let mut token = *b"lab-------";
    token[2..].copy_from_slice(&NEXT.fetch_add(1, Ordering::Relaxed).to_be_bytes());
    token
}

/// Waits for this packet; returns its source. Others before it are passed over.
pub(crate) fn received(socket: &UdpSocket, token: &[u8]) -> Option<SocketAddr> {
    socket.set_read_timeout(Some(LOST)).unwrap();
    let mut buffer = [0; 2048];
    while let Ok((len, from)) = socket.recv_from(&mut buffer) {
        if &buffer[..len] == token {
            return Some(from);
        }
    }
    None
}
