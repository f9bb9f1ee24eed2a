//! A device made by hand from layouts and keys, and the service it talks to: what a stranger would write after
//! reading SPEC.md.

use std::string::String;
use std::sync::Arc;
use std::vec;
use std::vec::Vec;

use core::net::SocketAddr;
use core::num::NonZeroUsize;
use core::time::Duration;

use super::exchange::bytes_of;
use crate::batch::TransmitBatch;
use crate::crypto::{
    AnswerKey, ConnectKey, ConnectionKeys, ErrorKey, PacketKeys, Secret, ServiceSecret, StepOneDigest,
    TicketKey, TicketSpec, open_header, open_packet, seal_packet,
};
use crate::ids::{AccountId, DeviceId, Epoch, RequestId, Rights, Serial, ShardId, StoreSet};
use crate::path::{Datagram, Disposition, LinkId, Path};
use crate::random::Seed;
use crate::service::{Progress, Service, ServiceConfig, WebId, WebRequest};
use crate::time::{Instant, UnixTime};
use crate::wire::{
    AEAD_TAG, Ack, Answer, AnswerKind, Close, Code, Connect, ConnectResponse, Direction, Emit, ErrorBody,
    HEADER, Header, Heartbeat, MIN_PACKET, PacketExtension, Step1Clear, Ticket, emit_plaintext_head,
    parse_plaintext, read_sealed, service_identifiers, write_sealed,
};

pub(super) const ACCOUNT: &str = "alice@example.com";

pub(super) fn key() -> TicketKey {
    TicketKey::new(*b"key1", [7; 32])
}

pub(super) fn unix(now: Instant) -> UnixTime {
    UnixTime::from_millis(1_800_000_000_000 + now.as_millis())
}

pub(super) fn ticket(rights: Rights) -> Ticket {
    mint(|spec| spec.rights = rights)
}

/// A ticket of another device of the account.
pub(super) fn ticket_of(device: u16) -> Ticket {
    let [a, b] = device.to_be_bytes();
    mint(|spec| spec.device.0[..3].copy_from_slice(&[2, a, b]))
}

/// A ticket that is as usual but for this.
pub(super) fn mint(change: impl FnOnce(&mut TicketSpec)) -> Ticket {
    mint_by(&key(), change)
}

/// One by another key.
pub(super) fn mint_by(key: &TicketKey, change: impl FnOnce(&mut TicketSpec)) -> Ticket {
    let now = unix(Instant::ZERO);
    let mut spec = TicketSpec {
        endpoints: vec!["192.0.2.1:15096".parse().unwrap()],
        account: ACCOUNT.into(),
        device: DeviceId([1; 16]),
        rights: Rights::default(),
        issued: now,
        expiry: now + Duration::from_secs(86_400),
    };
    change(&mut spec);
    key.mint(&spec, &[3; 32]).unwrap()
}

/// Seals a packet.
pub(super) fn seal(
    keys: &ConnectionKeys,
    identifier: &[u8],
    header: &Header,
    extensions: &[PacketExtension<'_>],
    fragment: &[u8],
) -> Vec<u8> {
    let mut plaintext = Vec::new();
    emit_plaintext_head(&mut plaintext, extensions, fragment.len());
    plaintext.extend_from_slice(fragment);
    seal_plaintext(keys, identifier, header, &plaintext)
}

/// Seals any plaintext.
pub(super) fn seal_plaintext(
    keys: &ConnectionKeys,
    identifier: &[u8],
    header: &Header,
    plaintext: &[u8],
) -> Vec<u8> {
    let mut packet = identifier.to_vec();
    packet.extend_from_slice(&[0; HEADER]);
    packet.extend_from_slice(plaintext);
    packet.extend_from_slice(&[0; AEAD_TAG]);
    let traffic = match header.direction {
        Direction::ToResponder => &keys.to_service,
        Direction::ToInitiator => &keys.to_device,
    };
    let packet_keys = PacketKeys { key: &traffic.key, iv: &traffic.iv, header: &keys.header };
    seal_packet(&packet_keys, &mut packet, identifier.len(), header.encode(), header.nonce_input());
    packet
}

/// An opened packet.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) header: Header,
    pub(super) close: Option<(Code, Duration)>,
    pub(super) challenge: Option<[u8; 8]>,
    pub(super) response: Option<[u8; 8]>,
    pub(super) identifiers: Vec<u8>,
    pub(super) fragment: Vec<u8>,
}

impl Opened {
    /// Its message type, 0 for an empty datagram.
    pub(super) fn ty(&self) -> u8 {
        self.fragment.first().copied().unwrap_or(0)
    }
}

/// Opens a packet that goes in `direction`.
pub(super) fn open(keys: &ConnectionKeys, direction: Direction, packet: &[u8]) -> Option<Opened> {
    let mut packet = packet.to_vec();
    let len = if direction == Direction::ToResponder { 16 } else { 8 };
    let block = open_header(&keys.header, packet.get(len..)?.first_chunk()?);
    let header = Header::decode(block);
    let traffic = match direction {
        Direction::ToResponder => &keys.to_service,
        Direction::ToInitiator => &keys.to_device,
    };
    let nonce = header.nonce_input();
    let at = open_packet(&traffic.key, &traffic.iv, &mut packet, len, &block, nonce).ok()?;
    let plaintext = parse_plaintext(&packet[at], direction).unwrap();
    let (mut close, mut challenge, mut response, mut identifiers) = (None, None, None, Vec::new());
    for extension in plaintext.extensions {
        match extension {
            PacketExtension::PathChallenge(bytes) => challenge = Some(bytes),
            PacketExtension::PathResponse(bytes) => response = Some(bytes),
            PacketExtension::Identifiers(bytes) => identifiers = bytes.to_vec(),
            PacketExtension::Close(Close { code, retry_after, .. }) => close = Some((code, retry_after)),
        }
    }
    let fragment = plaintext.fragment.to_vec();
    Some(Opened { header, close, challenge, response, identifiers, fragment })
}

/// A service on a virtual clock.
pub(super) struct World {
    pub(super) now: Instant,
    pub(super) service: Service,
}

impl World {
    pub(super) fn new() -> Self {
        Self::with(|_| ())
    }

    pub(super) fn with(change: impl FnOnce(&mut ServiceConfig)) -> Self {
        let mut config = ServiceConfig::new(ServiceSecret::new([9; 32]), vec![key()]);
        change(&mut config);
        let now = Instant::from_micros(5_000_000);
        let service = Service::new(Arc::new(config), ShardId(0), Seed::new([1; 32]), now, unix(now));
        Self { now, service }
    }

    pub(super) fn account() -> AccountId {
        AccountId::of(ACCOUNT)
    }

    /// A packet arrives.
    pub(super) fn put(&mut self, from: SocketAddr, packet: &[u8]) -> Disposition {
        let mut packet = packet.to_vec();
        let mut dispositions = Vec::new();
        let mut batch = [Datagram { path: Path::new(LinkId(0), from), payload: &mut packet }];
        self.service.handle_datagrams(self.now, &mut batch, &mut dispositions);
        dispositions[0]
    }

    /// A request to the Web Service.
    pub(super) fn post(&mut self, id: u64, wait: Option<Duration>, packet: &[u8]) -> Disposition {
        let mut packet = packet.to_vec();
        let request = WebRequest { id: WebId(id), remote: from(5000), wait, packet: &mut packet };
        self.service.handle_web_request(self.now, request)
    }

    /// The answers that are ready: the packets of each.
    pub(super) fn answers(&mut self) -> Vec<(u64, Vec<Vec<u8>>)> {
        assert!(self.take().is_empty(), "something goes out by UDP");
        let (mut out, mut body) = (Vec::new(), Vec::new());
        while let Some(WebId(id)) = self.service.poll_web(self.now, &mut body) {
            let mut packets = Vec::new();
            let mut rest = &body[..];
            while let Some((len, after)) = rest.split_first_chunk() {
                let (packet, after) = after.split_at(usize::from(u16::from_be_bytes(*len)));
                packets.push(packet.to_vec());
                rest = after;
            }
            assert!(rest.is_empty() && packets.len() <= 16);
            out.push((id, packets));
        }
        out
    }

    /// The packets that the service sends now.
    pub(super) fn take(&mut self) -> Vec<(SocketAddr, Vec<u8>)> {
        let mut out = Vec::new();
        let mut batch = TransmitBatch::new(32);
        while self.service.poll_transmit(self.now, &mut batch) > 0 {
            for (transmit, bytes) in batch.iter() {
                let size = transmit.segment_size.map_or(bytes.len(), |s| usize::from(s.get()));
                out.extend(bytes.chunks(size).map(|p| (transmit.path.remote, p.to_vec())));
            }
            batch.clear();
        }
        while self.service.poll_event().is_some() {}
        out
    }

    /// What the service sends in this time.
    pub(super) fn run(&mut self, time: Duration) -> Vec<(Instant, SocketAddr, Vec<u8>)> {
        let end = self.now + time;
        let mut out = Vec::new();
        loop {
            out.extend(self.take().into_iter().map(|(to, packet)| (self.now, to, packet)));
            let next = self.service.poll_timeout().map(|w| w.at).filter(|at| *at <= end);
            self.now = next.unwrap_or(end);
            assert_eq!(self.service.handle_timeout(self.now, NonZeroUsize::MAX), Progress::Done);
            if next.is_none() {
                out.extend(self.take().into_iter().map(|(to, packet)| (self.now, to, packet)));
                return out;
            }
        }
    }
}

/// What a stranger asks for in Connect.
#[derive(Clone, Copy)]
pub(super) struct Wish {
    pub(super) serial: u64,
    pub(super) epoch: Epoch,
    pub(super) position: Serial,
    pub(super) filter: StoreSet,
    pub(super) covered: StoreSet,
}

impl Wish {
    pub(super) const fn new(serial: u64) -> Self {
        let (epoch, position) = (Epoch::NONE, Serial::ZERO);
        Self { serial, epoch, position, filter: StoreSet::ALL, covered: StoreSet::EMPTY }
    }
}

/// Step 1, made by hand.
pub(super) struct Opening {
    secret: Secret,
    pub(super) handshake: [u8; 8],
    pub(super) packet: Vec<u8>,
}

/// Three identifiers.
const IDENTIFIERS: [u8; 24] =
    *b"\xd5\xd5\xd5\xd5\xd5\xd5\xd5\xd5\xd6\xd6\xd6\xd6\xd6\xd6\xd6\xd6\xd7\xd7\xd7\xd7\xd7\xd7\xd7\xd7";

impl Opening {
    /// Without a share, so that the ticket's secret is all it takes to follow.
    pub(super) fn new(ticket: &Ticket, wish: &Wish, echo: Option<[u8; 16]>) -> Self {
        Self::with_share(ticket, wish, echo, None)
    }

    /// With any share.
    pub(super) fn with_share(
        ticket: &Ticket,
        wish: &Wish,
        echo: Option<[u8; 16]>,
        share: Option<[u8; 32]>,
    ) -> Self {
        Self::over(ticket, wish, echo, share, false)
    }

    /// By Web.
    pub(super) fn by_web(ticket: &Ticket, wish: &Wish) -> Self {
        Self::over(ticket, wish, None, None, true)
    }

    fn over(
        ticket: &Ticket,
        wish: &Wish,
        echo: Option<[u8; 16]>,
        share: Option<[u8; 32]>,
        web: bool,
    ) -> Self {
        let handshake = [wish.serial as u8 | 0x80; 8];
        let random = [wish.serial as u8; 16];
        let clear = Step1Clear { token: ticket.token(), random: Some(random), handshake, share, echo, web };
        let connect = Connect {
            connect_serial: wish.serial,
            identifiers: &IDENTIFIERS,
            epoch: wish.epoch,
            position: wish.position,
            filter: wish.filter,
            covered: wish.covered,
            packet_size: 1200,
            interval: Duration::from_secs(25),
        };
        let secret = Secret::new(*ticket.secret());
        let p1c = bytes_of(&clear);
        let mut packet = p1c.clone();
        packet.resize(MIN_PACKET, 0);
        write_sealed(&mut packet[p1c.len()..MIN_PACKET - AEAD_TAG], &connect).unwrap();
        ConnectKey::new(&secret, &p1c).seal(&p1c, &mut packet[p1c.len()..]);
        Self { secret, handshake, packet }
    }

    /// The challenge in a Defer.
    pub(super) fn challenge(&self, packet: &[u8]) -> [u8; 16] {
        match Answer::parse(packet).unwrap().kind {
            AnswerKind::Defer { challenge } => challenge,
            other => panic!("{other:?}"),
        }
    }

    /// The code and the serial of an authenticated Error.
    pub(super) fn error(&self, packet: &[u8]) -> (Code, Option<u64>) {
        let (code, serial, ..) = self.refusal(packet);
        (code, serial)
    }

    /// All of it: code, serial, time to come back, detail.
    pub(super) fn refusal(&self, packet: &[u8]) -> (Code, Option<u64>, Duration, String) {
        let answer = Answer::parse(packet).unwrap();
        assert!(matches!(answer.kind, AnswerKind::SealedError { .. }), "{:?}", answer.kind);
        let key = ErrorKey::new(&self.secret, &StepOneDigest::of(&self.packet), answer.clear);
        let mut sealed = packet[answer.clear.len()..].to_vec();
        let body =
            ErrorBody::parse(read_sealed(key.open(answer.clear, &mut sealed).unwrap()).unwrap()).unwrap();
        (body.code, body.serial, body.retry_after, body.detail.into())
    }
}

/// A device with keys.
pub(super) struct Stranger {
    pub(super) keys: ConnectionKeys,
    pub(super) identifiers: Vec<([u8; 16], [u8; 16])>,
    pub(super) number: u64,
    pub(super) from: SocketAddr,
    pub(super) epoch: Epoch,
    pub(super) newest: Serial,
    pub(super) lost: StoreSet,
}

pub(super) fn from(port: u16) -> SocketAddr {
    SocketAddr::from(([198, 51, 100, 7], port))
}

impl Stranger {
    /// An exchange, up to ResponderComplete.
    pub(super) fn half_open(world: &mut World, wish: &Wish) -> Self {
        let opening = Opening::new(&ticket(Rights::default()), wish, None);
        assert_eq!(world.put(from(4000), &opening.packet), Disposition::Accepted);
        let mut answers = world.take();
        let at = answers.iter().position(|(_, p)| p.starts_with(&opening.handshake)).expect("an answer");
        Self::read(&opening, &answers.swap_remove(at).1)
    }

    /// What ResponderComplete says.
    pub(super) fn read(opening: &Opening, packet: &[u8]) -> Self {
        assert_eq!(packet.len(), opening.packet.len());
        let answer = Answer::parse(packet).unwrap();
        assert!(matches!(answer.kind, AnswerKind::Complete { share: None, .. }), "{:?}", answer.kind);
        let digest = StepOneDigest::of(&opening.packet);
        let key = AnswerKey::new(&opening.secret, None, &digest, answer.clear);
        let mut sealed = packet[answer.clear.len()..].to_vec();
        let plain = key.open(answer.clear, &mut sealed).unwrap();
        let response = ConnectResponse::parse(read_sealed(plain).unwrap()).unwrap();
        Self {
            keys: key.connection_keys(),
            identifiers: service_identifiers(response.identifiers).collect(),
            number: 0,
            from: from(4000),
            epoch: response.epoch,
            newest: response.newest,
            lost: response.lost,
        }
    }

    /// A connection.
    pub(super) fn connected(world: &mut World, wish: &Wish) -> Self {
        let mut stranger = Self::half_open(world, wish);
        stranger.beat(world, wish.position);
        stranger
    }

    pub(super) fn header(&mut self) -> Header {
        let header = Header::single(self.number, Direction::ToResponder);
        self.number += 1;
        header
    }

    /// Sends any packet.
    pub(super) fn put(
        &self,
        world: &mut World,
        header: &Header,
        extensions: &[PacketExtension<'_>],
        fragment: &[u8],
    ) {
        let packet = seal(&self.keys, &self.identifiers[0].0, header, extensions, fragment);
        assert_eq!(world.put(self.from, &packet), Disposition::Accepted);
    }

    /// Sends a message, and gives what comes back at once.
    pub(super) fn say(&mut self, world: &mut World, message: &impl Emit) -> Vec<Opened> {
        let header = self.header();
        self.put(world, &header, &[], &bytes_of(message));
        self.take(world)
    }

    /// Sends a Heartbeat, and gives what comes back at once.
    pub(super) fn beat(&mut self, world: &mut World, mark: Serial) -> Vec<Opened> {
        let request = RequestId(u32::try_from(self.number).unwrap() + 1);
        let interval = Duration::from_secs(25);
        self.say(world, &Heartbeat { request, interval, mark, position: Serial::ZERO })
    }

    /// Acknowledges packets of a datagram.
    pub(super) fn ack(&mut self, world: &mut World, number: u64, bitmap: u16) -> Vec<Opened> {
        let ack = Some(Ack { number_low: number as u32, bitmap });
        let header = Header { ack, ..self.header() };
        self.put(world, &header, &[], &[]);
        self.take(world)
    }

    /// The packets for this device that the service sends now.
    pub(super) fn take(&self, world: &mut World) -> Vec<Opened> {
        world.take().iter().filter_map(|(_, packet)| self.open(packet)).collect()
    }

    /// The packets for this device that the service sends in this time.
    pub(super) fn wait(&self, world: &mut World, time: Duration) -> Vec<Opened> {
        world.run(time).iter().filter_map(|(.., packet)| self.open(packet)).collect()
    }

    pub(super) fn open(&self, packet: &[u8]) -> Option<Opened> {
        open(&self.keys, Direction::ToInitiator, packet)
    }
}
