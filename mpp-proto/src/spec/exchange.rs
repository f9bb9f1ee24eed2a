//! The examples of an exchange: ticket, step 1, its answers and the keys. Each value is worked out twice, by the
//! crate and by the formulas of SPEC.md.

use std::format;
use std::vec;
use std::vec::Vec;

use zeroize::Zeroizing;

use core::net::SocketAddrV6;

use super::bytes::{Page, expand, extract, gcm, hmac_16, sha256};
use crate::crypto::{
    AnswerKey, ConnectKey, ConnectionId, ConnectionKeys, Cookies, ErrorKey, HedgeKey, Identifiers, Secret,
    ServiceSecret, Share, StepOneDigest, TicketKey, TicketSpec, initiator_random,
};
use crate::ids::{DeviceId, Epoch, Rights, Serial, StoreId, StoreSet};
use crate::random::{Rng, Seed};
use crate::time::UnixTime;
use crate::wire::{
    AnswerKind, Code, Connect, ConnectResponse, Emit, ErrorBody, MIN_PACKET, Purpose, RESET_TOKEN,
    SERVICE_IDENTIFIER, Step1Clear, Ticket, TokenPlain, emit_answer, put_web_packet, write_sealed,
};

/// 2027-01-15 08:00:00 UTC.
pub(super) const NOW: UnixTime = UnixTime::from_millis(1_800_000_000_000);
const TICKET_KEY: [u8; 32] = [0x4b; 32];
pub(super) const SERVICE_SECRET: [u8; 32] = [0x5e; 32];
const HANDSHAKE: [u8; 8] = [0xa1, 0xa2, 0xa3, 0xa4, 0xa5, 0xa6, 0xa7, 0xa8];
pub(super) const EPOCH: Epoch = Epoch([0xe0, 0xe1, 0xe2, 0xe3, 0xe4, 0xe5, 0xe6, 0xe7]);
pub(super) const DEVICE: &str = "198.51.100.7:4000";
/// The device's identifiers.
pub(super) const OWN: [[u8; 8]; 3] = [
    [0xd1, 0x10, 0x11, 0x12, 0x13, 0x14, 0x15, 0x16],
    [0xd2, 0x20, 0x21, 0x22, 0x23, 0x24, 0x25, 0x26],
    [0xd3, 0x30, 0x31, 0x32, 0x33, 0x34, 0x35, 0x36],
];

pub(super) fn bytes_of(value: &impl Emit) -> Vec<u8> {
    let mut out = Vec::new();
    value.emit(&mut out);
    out
}

pub(super) fn stores() -> StoreSet {
    [StoreId::INBOUND, StoreId::CONTACT].into_iter().collect()
}

/// One exchange with everything that was drawn, made and derived in it.
pub(super) struct Exchange {
    ticket: Ticket,
    token_plain: Vec<u8>,
    connect: Vec<u8>,
    device_share: Share,
    service_share: Share,
    initiator_random: [u8; 16],
    p1c: Vec<u8>,
    p1: Vec<u8>,
    /// Identifiers of the service, each with its reset token.
    pub(super) identifiers: Vec<u8>,
    response: Vec<u8>,
    responder_random: [u8; 16],
    p2c: Vec<u8>,
    p2: Vec<u8>,
    k0: Vec<u8>,
    k1: Vec<u8>,
    pub(super) keys: ConnectionKeys,
}

impl Exchange {
    pub(super) fn new() -> Self {
        Self::over(false)
    }

    /// The same attempt by Web.
    pub(super) fn by_web() -> Self {
        Self::over(true)
    }

    fn over(web: bool) -> Self {
        let account = "alice@example.com";
        let device = DeviceId(*b"phone-0123456789");
        let expiry = NOW + core::time::Duration::from_secs(90 * 86_400);
        let (rights, issued) = (Rights::default(), NOW);
        let spec = TicketSpec {
            endpoints: vec!["192.0.2.1:15096".parse().unwrap(), "presence.example.com".parse().unwrap()],
            account: account.into(),
            device,
            rights,
            issued,
            expiry,
        };
        let key = TicketKey::new([1, 2, 3, 4], TICKET_KEY);
        let ticket = key.mint(&spec, &[0x07; 32]).unwrap();
        let plain = TokenPlain { purpose: Purpose::Service, account, device, rights, issued, expiry };
        let token_plain = bytes_of(&plain);

        let identifiers = OWN.concat();
        let connect = Connect {
            connect_serial: NOW.as_millis(),
            identifiers: &identifiers,
            epoch: EPOCH,
            position: Serial(41),
            filter: stores(),
            covered: stores(),
            packet_size: 1200,
            interval: core::time::Duration::from_secs(25),
        };
        let device_share = Share::new(Zeroizing::new([0x21; 32]));
        let clear = Step1Clear {
            token: ticket.token(),
            random: None,
            handshake: HANDSHAKE,
            share: Some(*device_share.public()),
            echo: None,
            web: false,
        };
        let secret = Secret::new(*ticket.secret());
        let random = initiator_random(&secret, &[0x31; 32], &bytes_of(&connect), &bytes_of(&clear));
        let p1c = bytes_of(&Step1Clear { random: Some(random), web, ..clear });
        let mut p1 = p1c.clone();
        p1.resize(MIN_PACKET, 0);
        write_sealed(&mut p1[p1c.len()..MIN_PACKET - 16], &connect).unwrap();
        ConnectKey::new(&secret, &p1c).seal(&p1c, &mut p1[p1c.len()..]);

        let service = ServiceSecret::new(SERVICE_SECRET);
        let identifiers = issue(&Identifiers::new(&service));
        let response = ConnectResponse {
            identifiers: &identifiers,
            epoch: EPOCH,
            newest: Serial(42),
            lost: StoreSet::EMPTY,
            endpoint: (!web).then(|| DEVICE.parse().unwrap()),
            service_time: NOW,
            lease: core::time::Duration::from_secs(80),
            refresh_after: core::time::Duration::from_secs(86_400),
            packet_size: 1200,
            renew: false,
            in_use: false,
            check_port: None,
        };
        let service_share = Share::new(Zeroizing::new([0x22; 32]));
        let digest = StepOneDigest::of(&p1);
        let responder_random =
            HedgeKey::new(&service).responder_random(&[0x32; 32], &digest, &bytes_of(&response));
        let kind = AnswerKind::Complete { random: responder_random, share: Some(*service_share.public()) };
        let mut p2c = Vec::new();
        emit_answer(&mut p2c, &HANDSHAKE, &kind);
        let mut p2 = p2c.clone();
        p2.resize(MIN_PACKET, 0);
        write_sealed(&mut p2[p2c.len()..MIN_PACKET - 16], &response).unwrap();
        let dh = service_share.agree(device_share.public()).unwrap();
        let answer = AnswerKey::new(&secret, Some(&dh), &digest, &p2c);
        answer.seal(&p2c, &mut p2[p2c.len()..]);

        let k0 = extract(&sha256(&[b"mpp1 initiator", &p1c]), &[secret.expose()]);
        let k1 = extract(&sha256(&[b"mpp1 responder", &sha256(&[&p1]), &p2c]), &[secret.expose(), &dh[..]]);
        let made = Self {
            token_plain,
            connect: bytes_of(&connect),
            device_share,
            service_share,
            initiator_random: random,
            p1c,
            p1,
            response: bytes_of(&response),
            identifiers,
            responder_random,
            p2c,
            p2,
            k0,
            k1,
            keys: answer.connection_keys(),
            ticket,
        };
        made.check();
        made
    }

    fn dh(&self) -> Vec<u8> {
        self.device_share.agree(self.service_share.public()).unwrap().to_vec()
    }

    /// What is sealed in a packet of 1200 bytes behind this clear part.
    fn padded(&self, clear: &[u8], message: &[u8]) -> Vec<u8> {
        let mut plain = varint(message.len());
        plain.extend_from_slice(message);
        plain.resize(MIN_PACKET - clear.len() - 16, 0);
        plain
    }

    /// The formulas of SPEC.md give what the crate made.
    fn check(&self) {
        let token = self.ticket.token();
        let salt = hmac_16(&expand(&TICKET_KEY, &[b"mpp1 salt"], 32), &[&[7; 32], &self.token_plain]);
        let t = extract(&salt, &[&TICKET_KEY]);
        let head = [&[1, 1, 2, 3, 4], &salt[..]].concat();
        let sealed = gcm(&expand(&t, &[b"mpp1 token"], 44), &head, &self.token_plain);
        assert_eq!(token, [head, sealed].concat());
        let secret = expand(&t, &[b"mpp1 secret", &sha256(&[token])], 32);
        assert_eq!(self.ticket.secret()[..], secret);

        let without = Step1Clear {
            token,
            random: None,
            handshake: HANDSHAKE,
            share: Some(*self.device_share.public()),
            echo: None,
            web: false,
        };
        let hedge = expand(&secret, &[b"mpp1 hedge"], 32);
        let random = hmac_16(&hedge, &[&[0x31; 32], &self.connect, &bytes_of(&without)]);
        assert_eq!(self.initiator_random[..], random);
        let plain = self.padded(&self.p1c, &self.connect);
        let sealed = gcm(&expand(&self.k0, &[b"mpp1 Connect"], 44), &self.p1c, &plain);
        assert_eq!(self.p1, [&self.p1c[..], &sealed].concat());

        let hedge = expand(&SERVICE_SECRET, &[b"mpp1 hedge"], 32);
        let random = hmac_16(&hedge, &[&[0x32; 32], &sha256(&[&self.p1]), &self.response]);
        assert_eq!(self.responder_random[..], random);
        let plain = self.padded(&self.p2c, &self.response);
        let sealed = gcm(&expand(&self.k1, &[b"mpp1 Answer"], 44), &self.p2c, &plain);
        assert_eq!(self.p2, [&self.p2c[..], &sealed].concat());

        let up = expand(&self.k1, &[b"InitiatorResponder"], 44);
        let down = expand(&self.k1, &[b"ResponderInitiator"], 44);
        assert_eq!([&self.keys.to_service.key[..], &self.keys.to_service.iv].concat(), up);
        assert_eq!([&self.keys.to_device.key[..], &self.keys.to_device.iv].concat(), down);
        assert_eq!(self.keys.header[..], expand(&self.k1, &[b"mpp1 header"], 32));
    }

    pub(super) fn write(&self, page: &mut Page) {
        self.write_ticket(page);
        self.write_step1(page);
        self.write_answers(page);
        self.write_complete(page);
    }

    fn write_ticket(&self, page: &mut Page) {
        let token = self.ticket.token();
        let t = extract(&token[5..21], &[&TICKET_KEY]);
        page.heading("20.1 Token and ticket");
        page.text(
            "Account `alice@example.com`, device `phone-0123456789`, rights receive and post, issued at 1800000000000, \
             valid for 90 days.",
        );
        page.values(&[
            ("ticket key K", &TICKET_KEY),
            ("key id", &[1, 2, 3, 4]),
            ("fresh random bytes", &[0x07; 32]),
            ("plain", &self.token_plain),
            ("salt", &token[5..21]),
            ("t", &t),
            ("key || iv", &expand(&t, &[b"mpp1 token"], 44)),
            ("token", token),
            ("secret", self.ticket.secret()),
        ]);
        page.text("The ticket, with the endpoints 192.0.2.1:15096 and presence.example.com:15096:");
        page.text(&format!("```\n{}\n```", &*self.ticket.to_text()));
    }

    fn write_step1(&self, page: &mut Page) {
        page.heading("20.2 Step 1");
        page.message("Connect", &self.connect);
        page.values(&[
            ("X25519 private", &[0x21; 32]),
            ("fresh random bytes", &[0x31; 32]),
            ("hedge key", &expand(self.ticket.secret(), &[b"mpp1 hedge"], 32)),
            ("initiator random", &self.initiator_random),
        ]);
        page.text("Behind sixteen zero bytes and the type 03 the clear list:");
        page.clear_list(&self.p1c[17..]);
        self.write_sealed_step1(page);
        let plain = self.padded(&self.p1c, &self.connect);
        page.text(&format!(
            "What is sealed has {} bytes: the length {}, Connect, {} zeros. With the tag the packet has {}.",
            plain.len(),
            super::bytes::hex(&varint(self.connect.len())),
            plain.len() - varint(self.connect.len()).len() - self.connect.len(),
            self.p1.len()
        ));
    }

    fn write_sealed_step1(&self, page: &mut Page) {
        let sealed = &self.p1[self.p1c.len()..];
        page.values(&[
            ("P1c", &self.p1c),
            ("salt of k0", &sha256(&[b"mpp1 initiator", &self.p1c])),
            ("k0", &self.k0),
            ("Connect key || iv", &expand(&self.k0, &[b"mpp1 Connect"], 44)),
            ("sealed, first 48", &sealed[..48]),
            ("sealed, last 32", &sealed[sealed.len() - 32..]),
            ("SHA-256(P1)", &sha256(&[&self.p1])),
        ]);
    }

    /// What another transport changes in an exchange: nearly every byte.
    pub(super) fn write_by_web(&self, page: &mut Page) {
        page.text(
            "The attempt of 20.2, by Web: the same Connect, share and random, which is made as there, of a clear list without \
             the web item. The clear list has that item now, so P1c, the seal and the digest are others. Packets go into the \
             bodies of requests as they are.",
        );
        page.clear_list(&self.p1c[17..]);
        self.write_sealed_step1(page);
        page.text("The answer names no endpoint. Its random is made of this step 1.");
        page.message("ConnectResponse", &self.response);
        page.values(&[("responder random", &self.responder_random)]);
        page.clear_list(&self.p2c[9..]);
        self.write_sealed_complete(page);
        let mut body = Vec::new();
        put_web_packet(&mut body, &self.p2);
        page.text("The body of the HTTP answer is the ResponderComplete with its length in front:");
        page.values(&[("body, first 16", &body[..16]), ("SHA-256(body)", &sha256(&[&body]))]);
    }

    fn write_answers(&self, page: &mut Page) {
        let service = ServiceSecret::new(SERVICE_SECRET);
        let token = self.ticket.token();
        let bucket = (NOW.as_millis() / 15_000).to_be_bytes();
        let key = expand(&SERVICE_SECRET, &[b"mpp1 cookie", &bucket], 32);
        let from: &[u8] = &[4, 198, 51, 100, 7, 0x0f, 0xa0];
        let digest = sha256(&[token]);
        let input = [from, &self.initiator_random, &HANDSHAKE, &digest].concat();
        let challenge = hmac_16(&key, &[&input]);
        let challenge: [u8; 16] = challenge.try_into().unwrap();
        let remote = DEVICE.parse().unwrap();
        let made = Cookies::new(&service).challenge(NOW, remote, &self.initiator_random, &HANDSHAKE, token);
        assert_eq!(made, challenge);
        page.heading("20.3 ResponderDefer");
        page.text("To 198.51.100.7 port 4000, at the time 1800000000000.");
        let mut packet = Vec::new();
        emit_answer(&mut packet, &HANDSHAKE, &AnswerKind::Defer { challenge });
        page.values(&[
            ("service secret", &SERVICE_SECRET),
            ("bucket", &bucket),
            ("cookie key", &key),
            ("input of the HMAC", &input),
            ("challenge", &challenge),
            ("packet", &packet),
        ]);
        page.text("Step 1 with the echo has this clear list; its P1c, k0 and seal differ from those above.");
        let echoed = Step1Clear {
            token,
            random: Some(self.initiator_random),
            handshake: HANDSHAKE,
            share: Some(*self.device_share.public()),
            echo: Some(challenge),
            web: false,
        };
        page.clear_list(&bytes_of(&echoed)[17..]);

        page.heading("20.4 Errors");
        page.text("In clear: 503, again after 1500 ms.");
        let mut packet = Vec::new();
        let retry_after = core::time::Duration::from_millis(1500);
        let clear = AnswerKind::ClearError { code: Code::UNAVAILABLE, retry_after };
        emit_answer(&mut packet, &HANDSHAKE, &clear);
        page.values(&[("packet", &packet)]);
        page.text("Authenticated: 409 with the connect serial that was confirmed last.");
        let retry_after = core::time::Duration::ZERO;
        let body =
            ErrorBody { code: Code::CONFLICT, retry_after, serial: Some(NOW.as_millis() + 5), detail: "" };
        let plain = bytes_of(&body);
        let digest = StepOneDigest::of(&self.p1);
        let random = HedgeKey::new(&service).responder_random(&[0x33; 32], &digest, &plain);
        let mut p2c = Vec::new();
        emit_answer(&mut p2c, &HANDSHAKE, &AnswerKind::SealedError { random });
        let mut sealed = vec![0; 1 + plain.len() + 16];
        write_sealed(&mut sealed[..=plain.len()], &body).unwrap();
        ErrorKey::new(&Secret::new(*self.ticket.secret()), &digest, &p2c).seal(&p2c, &mut sealed);
        let salt = sha256(&[b"mpp1 responder", &sha256(&[&self.p1]), &p2c]);
        let k1 = extract(&salt, &[self.ticket.secret()]);
        let key = expand(&k1, &[b"mpp1 Error"], 44);
        assert_eq!(sealed, gcm(&key, &p2c, &[&[plain.len() as u8], &plain[..]].concat()));
        page.message("Error body", &plain);
        page.values(&[
            ("fresh random bytes", &[0x33; 32]),
            ("P2c", &p2c),
            ("k1, without dh", &k1),
            ("Error key || iv", &key),
            ("packet", &[p2c.clone(), sealed].concat()),
        ]);
    }

    fn write_complete(&self, page: &mut Page) {
        page.heading("20.5 ResponderComplete and the keys");
        let first = &self.identifiers[..16];
        let sid = expand(&SERVICE_SECRET, &[b"mpp1 sid"], 32);
        let plain = identifier_plain(0);
        assert_eq!(super::bytes::aes_block(&sid, &plain), first);
        let reset = expand(&SERVICE_SECRET, &[b"mpp1 reset"], 32);
        assert_eq!(hmac_16(&reset, &[first]), self.identifiers[16..32]);
        page.text("The first of three identifiers: node 0, shard 0, slot 5, generation 0x1234.");
        page.values(&[
            ("sid key", &sid),
            ("block", &plain),
            ("identifier", first),
            ("reset key", &reset),
            ("reset token", &self.identifiers[16..32]),
        ]);
        page.message("ConnectResponse", &self.response);
        page.values(&[
            ("X25519 private", &[0x22; 32]),
            ("dh", &self.dh()),
            ("fresh random bytes", &[0x32; 32]),
            ("hedge key", &expand(&SERVICE_SECRET, &[b"mpp1 hedge"], 32)),
            ("responder random", &self.responder_random),
        ]);
        page.text("Behind the handshake identifier and the type 03 the clear list:");
        page.clear_list(&self.p2c[9..]);
        self.write_sealed_complete(page);
    }

    fn write_sealed_complete(&self, page: &mut Page) {
        let sealed = &self.p2[self.p2c.len()..];
        page.values(&[
            ("P2c", &self.p2c),
            ("salt of k1", &sha256(&[b"mpp1 responder", &sha256(&[&self.p1]), &self.p2c])),
            ("k1", &self.k1),
            ("ConnectResp. key || iv", &expand(&self.k1, &[b"mpp1 Answer"], 44)),
            ("sealed, first 48", &sealed[..48]),
            ("sealed, last 32", &sealed[sealed.len() - 32..]),
            ("SHA-256(packet)", &sha256(&[&self.p2])),
        ]);
        page.text("The keys of the connection:");
        page.values(&[
            ("device->service key", &self.keys.to_service.key),
            ("device->service iv", &self.keys.to_service.iv),
            ("service->device key", &self.keys.to_device.key),
            ("service->device iv", &self.keys.to_device.iv),
            ("header key", &self.keys.header),
        ]);
    }
}

/// A length of up to 16,383 bytes.
fn varint(len: usize) -> Vec<u8> {
    if len < 64 { vec![len as u8] } else { vec![0x40 | (len >> 8) as u8, len as u8] }
}

const ID: ConnectionId = ConnectionId { node: 0, shard: 0, slot: 5, generation: 0x1234 };
/// The echo in an EndpointResponse to this IPv6 address, by the crate and by the formulas.
pub(super) fn probe_echo(page: &mut Page, endpoint: SocketAddrV6) -> [u8; 16] {
    let bucket = (NOW.as_millis() / 15_000).to_be_bytes();
    let key = expand(&SERVICE_SECRET, &[b"mpp1 probe", &bucket], 32);
    let id = ID.pack().to_be_bytes();
    let input = [&[6][..], &endpoint.ip().octets(), &endpoint.port().to_be_bytes(), &id].concat();
    let echo: [u8; 16] = hmac_16(&key, &[&input]).try_into().unwrap();
    let cookies = Cookies::new(&ServiceSecret::new(SERVICE_SECRET));
    assert_eq!(cookies.probe_echo(NOW, endpoint.into(), ID.pack()), echo);
    page.text("The echo for the socket at [2001:db8::7]:4000:");
    page.values(&[("probe key", &key), ("input", &input), ("echo", &echo)]);
    echo
}

const SEED: [u8; 32] = [0x51; 32];

/// Three identifiers, each with its reset token.
fn issue(identifiers: &Identifiers) -> Vec<u8> {
    let mut rng = Rng::new(Seed::new(SEED));
    let mut out = Vec::new();
    for _ in 0..3 {
        let identifier = identifiers.issue(ID, &mut rng);
        out.extend_from_slice(&identifier);
        out.extend_from_slice(&identifiers.reset_token(&identifier));
    }
    assert_eq!(out.len(), 3 * (SERVICE_IDENTIFIER + RESET_TOKEN));
    out
}

/// The block that is encrypted to the identifier of that turn.
fn identifier_plain(turn: usize) -> Vec<u8> {
    let mut rng = Rng::new(Seed::new(SEED));
    let salt = (0..=turn).map(|_| rng.u32()).last().unwrap();
    [&ID.pack().to_be_bytes()[..], b"MPP1", &salt.to_be_bytes()].concat()
}
