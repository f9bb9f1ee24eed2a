//! The Web of a world: requests of devices to the Web Service of its services, and what the way does to them.
//!
//! A request is one item that arrives, is answered or held, and comes back; beneath it is TCP, so nothing is doubled or
//! reordered within it. Whatever goes wrong on the way is one thing to the device: its request fails.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use mpp_proto::{Disposition, DropReason, Instant, LinkId, WebAnswer, WebId, WebRequest, WebRequestId};

use super::{DeviceHandle, Spot, World};
use crate::network::{Packet, WEB_PORT};
use crate::rng::Rng;

/// The port from which devices ask.
pub(super) const DEVICE_PORT: u16 = 50_000;
/// After how long a host gives up a request that gets lost without a word, beyond its wait.
const GIVES_UP: Duration = Duration::from_secs(10);
/// When who finds no room may come again, as the hosts of services say.
const RETRY_AFTER: Duration = Duration::from_secs(2);
/// Packets in an answer.
const MAX_PACKETS: usize = 16;

/// What the way to the Web Service does to the requests of a device.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct WebConditions {
    /// The time a request takes to get there, and its answer back.
    pub latency: Duration,
    /// Added to each: uniform from zero to this.
    pub jitter: Duration,
    /// The probability that a request fails: half of them on the way there, half with their answers.
    pub loss: f64,
    /// A proxy on the way gives up requests that have had no answer for so long.
    pub cut: Option<Duration>,
    /// Nobody is there: every request fails.
    pub down: bool,
}

impl WebConditions {
    /// Nothing goes wrong, and each way takes `latency`.
    pub const fn perfect(latency: Duration) -> Self {
        Self { latency, jitter: Duration::ZERO, loss: 0.0, cut: None, down: false }
    }

    /// With this probability that a request fails.
    #[must_use]
    pub const fn loss(mut self, probability: f64) -> Self {
        self.loss = probability;
        self
    }

    /// Behind a proxy that cuts after this time.
    #[must_use]
    pub const fn cut(mut self, after: Duration) -> Self {
        self.cut = Some(after);
        self
    }

    /// With nobody there.
    #[must_use]
    pub const fn down(mut self) -> Self {
        self.down = true;
        self
    }
}

impl Default for WebConditions {
    /// Perfect, 20 ms each way.
    fn default() -> Self {
        Self::perfect(Duration::from_millis(20))
    }
}

/// What the network of a device does to UDP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Udp {
    /// It passes, as the conditions say.
    #[default]
    Passes,
    /// It is dropped without a word, both ways.
    Dropped,
    /// The system refuses to send it, and says so.
    Forbidden,
    /// Packets of more than this many bytes vanish, both ways.
    Narrow(usize),
}

impl Udp {
    /// Whether a packet of this size is lost.
    pub(super) const fn loses(self, size: usize) -> bool {
        match self {
            Self::Passes => false,
            Self::Dropped | Self::Forbidden => true,
            Self::Narrow(most) => size > most,
        }
    }
}

/// What a device has of the Web.
#[derive(Debug)]
pub(super) struct Side {
    /// `None`: its host has no Web client.
    pub(super) conditions: Option<WebConditions>,
    pub(super) udp: Udp,
    pub(super) link: Option<LinkId>,
    /// Requests that its machine has made and that are not on their way yet.
    pub(super) asked: Vec<Asked>,
    /// Links that were closed, with the requests made over them.
    pub(super) closed: Vec<LinkId>,
    /// What somebody on the way puts into its next answer.
    carried: Vec<Vec<u8>>,
    rng: Rng,
}

impl Side {
    pub(super) const fn new(rng: Rng) -> Self {
        Self {
            conditions: None,
            udp: Udp::Passes,
            link: None,
            asked: Vec::new(),
            closed: Vec::new(),
            carried: Vec::new(),
            rng,
        }
    }

    /// How long one way takes, and whether the request is lost on it.
    fn way(&mut self) -> (Duration, bool) {
        let WebConditions { latency, jitter, loss, .. } = self.conditions.unwrap_or_default();
        (latency + self.rng.up_to(jitter), self.rng.chance(loss / 2.0))
    }
}

/// A request as the machine made it.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    pub(super) link: LinkId,
    pub(super) id: WebRequestId,
    pub(super) base: String,
    pub(super) wait: Option<Duration>,
    pub(super) packet: Vec<u8>,
}

/// Who waits for an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Asker {
    device: u32,
    link: LinkId,
    id: WebRequestId,
}

#[derive(Clone, Debug)]
enum Item {
    /// A request arrives at a service. Nobody waits for the answer to one that somebody on the way has made up.
    Request { service: u32, from: SocketAddr, wait: Option<Duration>, packet: Vec<u8>, asker: Option<Asker> },
    /// The end of a request arrives at the device.
    End { asker: Asker, end: End },
    /// A proxy loses its patience with this request.
    Cut(WebId),
    /// The client of this request has hung up.
    Closed(WebId),
}

#[derive(Clone, Debug)]
enum End {
    Packets(Vec<u8>),
    Refused { status: u16, retry_after: Option<Duration> },
    Failed,
}

/// A request that a service has taken.
#[derive(Clone, Copy, Debug)]
struct Open {
    service: u32,
    asker: Option<Asker>,
}

/// Requests under way, and those that services have taken.
#[derive(Debug, Default)]
pub(super) struct Web {
    queue: BTreeMap<(Instant, u64), Item>,
    sequence: u64,
    open: BTreeMap<WebId, Open>,
    next: u64,
    /// What was answered to requests that somebody on the way has made up, in packets.
    strays_answered: u64,
}

impl Web {
    fn push(&mut self, at: Instant, item: Item) {
        self.sequence += 1;
        self.queue.insert((at, self.sequence), item);
    }

    /// When something arrives next.
    pub(super) fn next_arrival(&self) -> Option<Instant> {
        self.queue.first_key_value().map(|((at, _), _)| *at)
    }

    fn arrived(&mut self, now: Instant) -> Option<Item> {
        self.queue.first_entry().filter(|e| e.key().0 <= now).map(|e| e.remove())
    }
}

/// Where a device's requests seem to come from.
fn web_address(device: &super::DeviceNode) -> SocketAddr {
    SocketAddr::new(device.v4, DEVICE_PORT)
}

impl World {
    /// Gives the host of a device a Web client whose requests fare like that; `None`: takes it away at the next network
    /// change or start.
    pub fn set_web(&mut self, device: DeviceHandle, conditions: Option<WebConditions>) {
        self.devices[device.0 as usize].web.conditions = conditions;
    }

    /// What the way by Web does to a device's requests.
    pub fn web(&self, device: DeviceHandle) -> Option<WebConditions> {
        self.devices[device.0 as usize].web.conditions
    }

    /// Sets the Web of devices that are added from now on.
    pub fn set_default_web(&mut self, conditions: Option<WebConditions>) {
        self.default_web = conditions;
    }

    /// Sets what the network of a device does to UDP.
    pub fn set_udp(&mut self, device: DeviceHandle, udp: Udp) {
        self.devices[device.0 as usize].web.udp = udp;
    }

    /// Packets in answers to requests that somebody on the way has made up of copies.
    pub fn strays_answered(&self) -> u64 {
        self.web.strays_answered
    }

    /// How often the machine of a device has been woken for a deadline, over all its lives.
    pub fn wakes(&self, device: DeviceHandle) -> u64 {
        self.devices[device.0 as usize].woken
    }

    /// How often the machine of a service has been woken for a deadline, over all its lives.
    pub fn service_wakes(&self, service: super::ServiceHandle) -> u64 {
        self.services[service.0 as usize].woken
    }

    /// The service whose Web Service has this base URL.
    fn service_at(&self, base: &str) -> Option<(u32, SocketAddr)> {
        let rest = base.strip_prefix("http://")?;
        let address = rest.parse().ok().or_else(|| {
            let (host, port) = rest.rsplit_once(':')?;
            let ip = *self.names.get(host)?.first()?;
            Some(SocketAddr::new(ip, port.parse().ok()?))
        })?;
        let is_here = |s: &super::ServiceNode| s.addresses.iter().any(|a| a.ip() == address.ip());
        let at = self.services.iter().position(is_here).filter(|_| address.port() == WEB_PORT)?;
        Some((at as u32, address))
    }

    /// Sends what a device has asked by Web on its way, and ends what it has hung up on.
    pub(super) fn collect_asked(&mut self, index: u32) {
        let node = &mut self.devices[index as usize];
        let (asked, closed) = (std::mem::take(&mut node.web.asked), std::mem::take(&mut node.web.closed));
        for asked in asked {
            self.ask(index, asked);
        }
        for link in closed {
            let gone = |asker: Option<Asker>| asker.is_some_and(|a| a.device == index && a.link == link);
            self.web.queue.retain(|_, item| match item {
                Item::Request { asker, .. } => !gone(*asker),
                Item::End { asker, .. } => !gone(Some(*asker)),
                Item::Cut(_) | Item::Closed(_) => true,
            });
            let open: Vec<_> =
                self.web.open.iter().filter(|(_, o)| gone(o.asker)).map(|(id, _)| *id).collect();
            let latency = self.devices[index as usize].web.way().0;
            for id in open {
                self.web.push(self.now + latency, Item::Closed(id));
            }
        }
    }

    fn ask(&mut self, index: u32, asked: Asked) {
        let found = self.service_at(&asked.base);
        let now = self.now;
        let node = &mut self.devices[index as usize];
        let (latency, lost) = node.web.way();
        let asker = Asker { device: index, link: asked.link, id: asked.id };
        let from = web_address(node);
        let down = node.web.conditions.is_none_or(|c| c.down);
        let dark = node.is_dark(now);
        let Some((service, to)) = found.filter(|_| !down && !dark) else {
            // Refused at once, or nobody says anything, as where an address is nobody's.
            let after = if dark || !down { GIVES_UP } else { latency * 2 };
            return self.web.push(now + after, Item::End { asker, end: End::Failed });
        };
        let packet = Packet { from, to, payload: asked.packet };
        self.network.web_sighted(now, &packet);
        if lost {
            return self.web.push(now + latency, Item::End { asker, end: End::Failed });
        }
        let (wait, packet) = (asked.wait, packet.payload);
        self.web.push(now + latency, Item::Request { service, from, wait, packet, asker: Some(asker) });
        self.take_carried();
    }

    /// Lets arrive by Web what is due.
    pub(super) fn web_arrivals(&mut self) {
        while let Some(item) = self.web.arrived(self.now) {
            match item {
                Item::Request { service, from, wait, packet, asker } => {
                    self.web_request(service, from, wait, packet, asker);
                }
                Item::End { asker, end } => self.web_end(asker, end),
                Item::Cut(id) => {
                    let cut = self.web.open.get(&id).and_then(|open| open.asker);
                    if let Some(asker) = cut {
                        self.hang_up(id);
                        let latency = self.devices[asker.device as usize].web.way().0;
                        // Proxies differ in what they say.
                        let end = if id.0 % 2 == 0 {
                            End::Failed
                        } else {
                            End::Refused { status: 504, retry_after: None }
                        };
                        self.web.push(self.now + latency, Item::End { asker, end });
                    }
                }
                Item::Closed(id) => self.hang_up(id),
            }
        }
    }

    fn hang_up(&mut self, id: WebId) {
        let Some(Open { service, .. }) = self.web.open.remove(&id) else { return };
        let now = self.now;
        if let Some(machine) = &mut self.services[service as usize].machine {
            machine.handle_web_closed(now, id);
            self.pump_service(service);
        }
    }

    fn web_request(
        &mut self,
        service: u32,
        from: SocketAddr,
        wait: Option<Duration>,
        mut packet: Vec<u8>,
        asker: Option<Asker>,
    ) {
        let now = self.now;
        let back = |world: &mut Self, end: End| {
            if let Some(asker) = asker {
                let latency = world.devices[asker.device as usize].web.way().0;
                world.web.push(now + latency, Item::End { asker, end });
            }
        };
        let Some(machine) = &mut self.services[service as usize].machine else {
            return back(self, End::Failed);
        };
        let id = WebId(self.web.next);
        self.web.next += 1;
        let before = packet.clone();
        // What a host does: whole seconds, and no more than the protocol has.
        let wait = wait.map(|w| Duration::from_secs(w.as_secs().clamp(1, 55)));
        self.web.open.insert(id, Open { service, asker });
        let request = WebRequest { id, remote: from, wait, packet: &mut packet };
        let disposition = machine.handle_web_request(now, request);
        assert!(
            disposition == Disposition::Accepted
                || before == packet
                || disposition == Disposition::Dropped(DropReason::OtherTransport),
            "contract rule 5: service {service} changed a request that it did not accept: {disposition:?}"
        );
        if disposition != Disposition::Accepted {
            self.web.open.remove(&id);
            let (status, retry_after) = match disposition {
                Disposition::Dropped(DropReason::Capacity | DropReason::RateLimited | DropReason::Closed) => {
                    (503, Some(RETRY_AFTER))
                }
                Disposition::Dropped(DropReason::Size) => (413, None),
                _ => (400, None),
            };
            back(self, End::Refused { status, retry_after });
        } else if let Some(cut) = asker.and_then(|a| self.devices[a.device as usize].web.conditions?.cut) {
            self.web.push(now + cut, Item::Cut(id));
        }
        self.pump_service(service);
    }

    /// A service has answered requests.
    pub(super) fn web_answered(&mut self, service: u32, answers: Vec<(WebId, Vec<u8>)>) {
        for (id, body) in answers {
            let open = self.web.open.remove(&id);
            let Some(Open { asker, .. }) = open else {
                panic!("service {service} answers request {id:?} twice, or after it was closed");
            };
            let Some(asker) = asker else {
                self.web.strays_answered += packets(&body).len() as u64;
                continue;
            };
            let now = self.now;
            let addresses = &self.services[service as usize].addresses;
            let from = SocketAddr::new(addresses[0].ip(), WEB_PORT);
            let node = &mut self.devices[asker.device as usize];
            let to = web_address(node);
            let (latency, lost) = node.web.way();
            for payload in packets(&body) {
                self.network.web_sighted(now, &Packet { from, to, payload });
            }
            let end = if lost { End::Failed } else { End::Packets(body) };
            self.web.push(now + latency, Item::End { asker, end });
            self.take_carried();
        }
    }

    fn web_end(&mut self, asker: Asker, end: End) {
        let now = self.now;
        let node = &mut self.devices[asker.device as usize];
        if node.web.link != Some(asker.link) {
            return;
        }
        let Some(machine) = &mut node.machine else { return };
        // Whoever is cut off hears nothing but that it took too long.
        let end = if now < node.dark_until { End::Failed } else { end };
        match end {
            End::Packets(body) => {
                let copies = std::mem::take(&mut node.web.carried);
                let own = packets(&body);
                let room = MAX_PACKETS.saturating_sub(own.len());
                let packets = copies.into_iter().take(room).chain(own);
                let mut body: Vec<u8> = packets.flat_map(|p| framed(&p)).collect();
                machine.handle_web_answer(now, asker.id, WebAnswer::Packets(&mut body));
            }
            End::Refused { status, retry_after } => {
                machine.handle_web_answer(now, asker.id, WebAnswer::Refused { status, retry_after });
            }
            End::Failed => machine.handle_web_answer(now, asker.id, WebAnswer::Failed),
        }
        self.network.stats.delivered += 1;
        self.pump_device(asker.device);
    }

    /// A service is gone, and with it every request that it has taken.
    pub(super) fn web_stopped(&mut self, service: u32) {
        let gone: Vec<_> = self.web.open.extract_if(.., |_, open| open.service == service).collect();
        for asker in gone.into_iter().filter_map(|(_, open)| open.asker) {
            let latency = self.devices[asker.device as usize].web.way().0;
            self.web.push(self.now + latency, Item::End { asker, end: End::Failed });
        }
    }

    /// What somebody on the way has carried from UDP to the Web: copies become requests of his own, which wait, and
    /// packets in the next answer.
    pub(super) fn take_carried(&mut self) {
        for packet in self.network.take_carried() {
            let Packet { from, to, payload } = packet;
            let is_service = |s: &super::ServiceNode| s.addresses.iter().any(|a| a.ip() == to.ip());
            if to.port() == WEB_PORT
                && let Some(service) = self.services.iter().position(is_service)
            {
                let (service, wait) = (service as u32, Some(Duration::from_secs(50)));
                let request = Item::Request { service, from, wait, packet: payload, asker: None };
                self.web.push(self.now, request);
            } else if let Some(Spot::Device(device)) = self.addresses.get(&self.boxes.behind(self.now, to)) {
                let carried = &mut self.devices[*device as usize].web.carried;
                if carried.len() < MAX_PACKETS {
                    carried.push(payload);
                }
            }
        }
    }
}

/// The packets of a body.
///
/// # Panics
/// If it is none.
fn packets(mut body: &[u8]) -> Vec<Vec<u8>> {
    let mut out = Vec::new();
    while let Some((len, rest)) = body.split_first_chunk::<2>() {
        let (packet, rest) = rest.split_at(usize::from(u16::from_be_bytes(*len)));
        out.push(packet.to_vec());
        body = rest;
    }
    assert!(body.is_empty() && out.len() <= MAX_PACKETS, "a body of {} packets", out.len());
    out
}

fn framed(packet: &[u8]) -> Vec<u8> {
    [&(packet.len() as u16).to_be_bytes()[..], packet].concat()
}
