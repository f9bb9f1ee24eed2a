//! A service made by hand, and the device it talks to.

use std::string::{String, ToString};
use std::sync::Arc;
use std::vec::Vec;

use core::net::SocketAddr;
use core::num::NonZeroUsize;
use core::time::Duration;

use super::exchange::bytes_of;
use super::stranger::{Opened, open, seal, ticket, unix};
use crate::crypto::{AnswerKey, ConnectKey, ConnectionKeys, ErrorKey, Secret, StepOneDigest};
use crate::device::{Device, DeviceConfig, DeviceEvent, LinkKind, LinkState, WebRequestId};
use crate::ids::{Epoch, RequestId, Rights, Serial, StoreSet};
use crate::path::{Datagram, Disposition, LinkId, Path};
use crate::random::Seed;
use crate::time::{Instant, UnixTime};
use crate::wire::{
    AEAD_TAG, AnswerKind, Code, Connect, ConnectResponse, Direction, Emit, ErrorBody, Header, Message,
    PacketExtension, Status, Step1, Ticket, device_identifiers, emit_answer, read_sealed, write_sealed,
};

pub(super) const IDENTIFIER: [u8; 16] = [0x77; 16];
pub(super) const RESET: [u8; 16] = [0x99; 16];
/// The service's second identifier.
pub(super) const SECOND: [u8; 16] = [0x78; 16];
pub(super) const EPOCH: Epoch = Epoch([5; 8]);

/// A device on a virtual clock, and the service's side of its connection.
pub(super) struct Host {
    pub(super) now: Instant,
    pub(super) device: Device,
    pub(super) events: Vec<DeviceEvent>,
    /// Where its packets come from.
    pub(super) service: SocketAddr,
    secret: Secret,
    link: LinkId,
    keys: Option<ConnectionKeys>,
    /// The device's identifiers; the first is in use.
    pub(super) own: Vec<[u8; 8]>,
    number: u64,
    answers: u8,
    /// What the answer says beside the rest.
    pub(super) lost: StoreSet,
    pub(super) epoch: Epoch,
    pub(super) refresh_after: Duration,
    /// Whether there is a Web client, once the device has asked for one.
    pub(super) has_web: bool,
    web: Option<LinkId>,
    /// The socket for questions, if one is open.
    asking: Option<LinkId>,
    /// The Web requests that the device has made.
    pub(super) posts: Vec<Asked>,
}

/// A Web request.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    pub(super) at: Instant,
    pub(super) id: WebRequestId,
    pub(super) base: String,
    pub(super) wait: Option<Duration>,
    pub(super) packet: Vec<u8>,
}

/// The service's side of a connection beside the one in use.
pub(super) struct Side {
    keys: Option<ConnectionKeys>,
    own: Vec<[u8; 8]>,
    number: u64,
}

pub(super) fn service() -> SocketAddr {
    SocketAddr::from(([192, 0, 2, 1], 15_096))
}

impl Host {
    pub(super) fn new() -> Self {
        Self::with(|_| ())
    }

    pub(super) fn with(change: impl FnOnce(&mut DeviceConfig)) -> Self {
        Self::at(change, unix(Instant::from_micros(5_000_000)))
    }

    /// Its clock stands at `clock`; the service's is right.
    pub(super) fn at(change: impl FnOnce(&mut DeviceConfig), clock: UnixTime) -> Self {
        Self::make(ticket(Rights::default()), change, clock)
    }

    pub(super) fn with_ticket(ticket: Ticket) -> Self {
        Self::make(ticket, |_| (), unix(Instant::from_micros(5_000_000)))
    }

    fn make(ticket: Ticket, change: impl FnOnce(&mut DeviceConfig), clock: UnixTime) -> Self {
        // Without a share, so that the ticket's secret is all it takes to answer. It has one socket.
        let mut config =
            DeviceConfig { forward_secrecy: false, learn_interval: false, ..DeviceConfig::default() };
        change(&mut config);
        let now = Instant::from_micros(5_000_000);
        let secret = Secret::new(*ticket.secret());
        let device = Device::new(Arc::new(config), ticket, None, Seed::new([2; 32]), now, clock);
        let (events, link) = (Vec::new(), LinkId(0));
        Self {
            now,
            device,
            events,
            service: service(),
            secret,
            link,
            keys: None,
            own: Vec::new(),
            number: 0,
            answers: 0,
            lost: StoreSet::EMPTY,
            epoch: EPOCH,
            refresh_after: Duration::from_secs(86_400),
            has_web: false,
            web: None,
            asking: None,
            posts: Vec::new(),
        }
    }

    /// The connection as it is now, to be kept beside the next one.
    pub(super) fn side(&self) -> Side {
        Side { keys: self.keys.clone(), own: self.own.clone(), number: self.number }
    }

    /// Does something over another connection.
    pub(super) fn over<T>(&mut self, side: &mut Side, act: impl FnOnce(&mut Self) -> T) -> T {
        let swap = |host: &mut Self, side: &mut Side| {
            core::mem::swap(&mut host.keys, &mut side.keys);
            core::mem::swap(&mut host.own, &mut side.own);
            core::mem::swap(&mut host.number, &mut side.number);
        };
        swap(self, side);
        let done = act(self);
        swap(self, side);
        done
    }

    /// The reset token of the connection that was agreed on last.
    pub(super) fn reset_token(&self) -> [u8; 16] {
        RESET.map(|byte| byte ^ (self.answers - 1) << 4)
    }

    /// What the device sends now.
    pub(super) fn take(&mut self) -> Vec<Vec<u8>> {
        let mut out = Vec::new();
        let mut buffer = [0; 1452];
        self.device.handle_timeout(self.now);
        loop {
            let events: Vec<_> = core::iter::from_fn(|| self.device.poll_event()).collect();
            let mut idle = events.is_empty();
            for event in events {
                match event {
                    DeviceEvent::OpenLink { link, kind: LinkKind::Udp(_) } => {
                        self.link = link;
                        self.device.handle_link(self.now, link, LinkState::Open { local: service() });
                    }
                    DeviceEvent::OpenLink { link, kind: LinkKind::Web } if self.has_web => {
                        self.web = Some(link);
                        self.device.handle_link(self.now, link, LinkState::Open { local: service() });
                    }
                    DeviceEvent::OpenLink { link, kind: LinkKind::Asking(_) } => {
                        self.asking = Some(link);
                        self.device.handle_link(self.now, link, LinkState::Open { local: service() });
                    }
                    DeviceEvent::OpenLink { link, .. } => {
                        self.device.handle_link(self.now, link, LinkState::Failed);
                    }
                    DeviceEvent::CloseLink(link) => {
                        self.web.take_if(|web| *web == link);
                        self.asking.take_if(|asking| *asking == link);
                    }
                    _ => {}
                }
                self.events.push(event);
            }
            while let Some(t) = self.device.poll_transmit(self.now, &mut buffer, NonZeroUsize::MIN) {
                idle = false;
                out.push(buffer[..t.len].to_vec());
            }
            while let Some(post) = self.device.poll_web(self.now, &mut buffer) {
                assert!(self.web.is_some(), "there is no Web client");
                idle = false;
                let (at, packet) = (self.now, buffer[..post.len].to_vec());
                self.posts.push(Asked {
                    at,
                    id: post.id,
                    base: post.base.to_string(),
                    wait: post.wait,
                    packet,
                });
            }
            if idle {
                return out;
            }
        }
    }

    /// What the device sends in this time, and when.
    pub(super) fn run(&mut self, time: Duration) -> Vec<(Instant, Vec<u8>)> {
        let end = self.now + time;
        let mut out = Vec::new();
        loop {
            out.extend(self.take().into_iter().map(|p| (self.now, p)));
            let next = self.device.poll_timeout().map(|w| w.at).filter(|at| *at <= end);
            self.now = next.unwrap_or(end);
            self.device.handle_timeout(self.now);
            if next.is_none() {
                out.extend(self.take().into_iter().map(|p| (self.now, p)));
                return out;
            }
        }
    }

    /// The next packet that the device sends, whenever that is.
    pub(super) fn next(&mut self) -> (Instant, Vec<u8>) {
        let mut sent = self.run(Duration::ZERO);
        while sent.is_empty() {
            let at = self.device.poll_timeout().expect("it tries for ever").at;
            sent = self.run(at.since(self.now));
        }
        assert_eq!(sent.len(), 1);
        sent.remove(0)
    }

    /// A packet arrives at the device.
    pub(super) fn put(&mut self, packet: &[u8]) -> Disposition {
        self.put_at(self.link, packet)
    }

    /// It answers a question that was asked over a socket of its own.
    pub(super) fn put_asked(&mut self, packet: &[u8]) -> Disposition {
        self.put_at(self.asking.expect("there is such a socket"), packet)
    }

    fn put_at(&mut self, link: LinkId, packet: &[u8]) -> Disposition {
        let path = Path::new(link, self.service);
        let mut packet = packet.to_vec();
        self.device.handle_datagram(self.now, Datagram { path, payload: &mut packet })
    }

    /// An authenticated Error.
    pub(super) fn refuse(&mut self, step1: &[u8], code: Code) -> Disposition {
        self.refuse_with(step1, code, None)
    }

    /// An authenticated Error with a connect serial.
    pub(super) fn refuse_with(&mut self, step1: &[u8], code: Code, serial: Option<u64>) -> Disposition {
        let read = Step1::parse(step1).unwrap();
        let body = ErrorBody { code, retry_after: Duration::ZERO, serial, detail: "" };
        let mut packet = Vec::new();
        emit_answer(&mut packet, &read.handshake, &AnswerKind::SealedError { random: [4; 16] });
        let clear = packet.clone();
        let len = body.emitted_len() + 1;
        packet.resize(clear.len() + len + AEAD_TAG, 0);
        write_sealed(&mut packet[clear.len()..clear.len() + len], &body).unwrap();
        let key = ErrorKey::new(&self.secret, &StepOneDigest::of(step1), &clear);
        key.seal(&clear, &mut packet[clear.len()..]);
        self.put(&packet)
    }

    /// The connect serial in a step 1.
    pub(super) fn connect_serial(&self, step1: &[u8]) -> u64 {
        let read = Step1::parse(step1).unwrap();
        let mut sealed = step1[read.clear.len()..].to_vec();
        let plain = ConnectKey::new(&self.secret, read.clear).open(read.clear, &mut sealed).unwrap();
        Connect::parse(read_sealed(plain).unwrap()).unwrap().connect_serial
    }

    /// Answers step 1 with ResponderComplete.
    pub(super) fn answer(&mut self, step1: &[u8]) -> Disposition {
        let packet = self.answer_to(step1);
        self.put(&packet)
    }

    /// The ResponderComplete that answers a step 1: its keys are those of the connection from now on.
    pub(super) fn answer_to(&mut self, step1: &[u8]) -> Vec<u8> {
        let read = Step1::parse(step1).unwrap();
        let mut sealed = step1[read.clear.len()..].to_vec();
        let plain = ConnectKey::new(&self.secret, read.clear).open(read.clear, &mut sealed).unwrap();
        let connect = Connect::parse(read_sealed(plain).unwrap()).unwrap();
        self.own = device_identifiers(connect.identifiers).collect();
        let other = self.answers << 4;
        self.answers += 1;
        let identifiers =
            [IDENTIFIER, RESET, SECOND, [0x9a; 16]].map(|i| i.map(|byte| byte ^ other)).concat();
        let response = ConnectResponse {
            identifiers: &identifiers,
            epoch: self.epoch,
            newest: Serial(0),
            lost: self.lost,
            endpoint: Some(service()),
            service_time: unix(self.now),
            lease: Duration::from_secs(80),
            refresh_after: self.refresh_after,
            packet_size: 1200,
            renew: false,
            in_use: false,
            check_port: None,
        };
        let mut packet = Vec::new();
        let kind = AnswerKind::Complete { random: [4; 16], share: None };
        emit_answer(&mut packet, &read.handshake, &kind);
        let clear = packet.clone();
        packet.resize(step1.len(), 0);
        write_sealed(&mut packet[clear.len()..step1.len() - AEAD_TAG], &response).unwrap();
        let key = AnswerKey::new(&self.secret, None, &StepOneDigest::of(step1), &clear);
        key.seal(&clear, &mut packet[clear.len()..]);
        self.keys = Some(key.connection_keys());
        self.number = 0;
        packet
    }

    /// Connects the device: exchange, Heartbeat, Status.
    pub(super) fn connect(&mut self) {
        let step1 = self.take().remove(0);
        assert_eq!(self.answer(&step1), Disposition::Accepted);
        let beat = self.take().remove(0);
        self.status(&beat);
    }

    /// Lets the second heartbeat pass that a new flow has.
    pub(super) fn settle(&mut self) {
        let start = self.now;
        let (at, beat) = self.next();
        assert_eq!(at.since(start), Duration::from_secs(3));
        self.status(&beat);
    }

    /// The request id of a Heartbeat.
    pub(super) fn request(&self, packet: &[u8]) -> Option<RequestId> {
        match Message::parse(&self.open(packet)?.fragment).ok()? {
            Message::Heartbeat(heartbeat) => Some(heartbeat.request),
            _ => None,
        }
    }

    /// Answers a Heartbeat.
    pub(super) fn status(&mut self, heartbeat: &[u8]) {
        let message = self.status_to(heartbeat);
        let header = self.header();
        self.send(&header, &[], &message);
    }

    /// The Status that answers a Heartbeat.
    pub(super) fn status_to(&self, heartbeat: &[u8]) -> Vec<u8> {
        let request = self.request(heartbeat);
        assert!(request.is_some(), "{:?}", self.open(heartbeat));
        let status = Status {
            request,
            newest: Serial(0),
            endpoint: Some(service()),
            service_time: unix(self.now),
            stores: core::iter::empty(),
            unheard: 0,
            lease: None,
        };
        bytes_of(&status)
    }

    pub(super) fn header(&mut self) -> Header {
        let header = Header::single(self.number, Direction::ToInitiator);
        self.number += 1;
        header
    }

    pub(super) fn seal(
        &self,
        header: &Header,
        extensions: &[PacketExtension<'_>],
        fragment: &[u8],
    ) -> Vec<u8> {
        seal(self.keys.as_ref().unwrap(), &self.own[0], header, extensions, fragment)
    }

    /// Sends the device any packet.
    pub(super) fn send(&mut self, header: &Header, extensions: &[PacketExtension<'_>], fragment: &[u8]) {
        let packet = self.seal(header, extensions, fragment);
        assert_eq!(self.put(&packet), Disposition::Accepted);
    }

    pub(super) fn open(&self, packet: &[u8]) -> Option<Opened> {
        open(self.keys.as_ref()?, Direction::ToResponder, packet)
    }

    /// The acknowledgements in what the device sends now: number and bitmap.
    pub(super) fn acks(&mut self) -> Vec<(u32, u16)> {
        let packets = self.take();
        let headers = packets.iter().filter_map(|p| self.open(p)).filter_map(|p| p.header.ack);
        headers.map(|ack| (ack.number_low, ack.bitmap)).collect()
    }
}
