//! One attempt to connect: step 1 to one service or several addresses of it, until the first authentic answer
//! (SPEC.md, "Exchange").

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::net::SocketAddr;
use core::num::NonZeroU16;
use core::time::Duration;

use super::Deadlines;
use super::echoes::{Echoes, Form};
use super::event::Family;
use super::transport::Transport;
use crate::crypto::{
    AnswerKey, ConnectKey, ConnectionKeys, ErrorKey, Secret, Share, StepOneDigest, device_identifier,
    initiator_random,
};
use crate::ids::{Epoch, Serial, StoreSet};
use crate::path::{LinkId, Path};
use crate::random::Rng;
use crate::time::Instant;
use crate::wakeup::TimerKind;
use crate::wire::{
    AEAD_TAG, Answer, AnswerKind, Code, Connect, ConnectResponse, DEVICE_IDENTIFIER, Emit, ErrorBody,
    Step1Clear, Ticket, read_sealed, service_identifiers, write_sealed,
};

/// When step 1 is sent to one address, counted from its turn.
const SENDINGS: [Duration; 4] =
    [Duration::ZERO, Duration::from_secs(1), Duration::from_secs(3), Duration::from_secs(7)];
/// How long after its last sending an answer may take.
const PATIENCE: Duration = Duration::from_secs(4);
/// How long an attempt goes on by Web.
const WEB_PATIENCE: Duration = Duration::from_secs(8);
/// The head start of an address over the next one of the other family.
const HEAD_START: Duration = Duration::from_millis(250);
/// The head start of an address over the next one of the same family.
const NEXT_START: Duration = Duration::from_secs(1);
/// Addresses tried in one attempt.
const MAX_CANDIDATES: usize = 8;
/// Identifiers issued at the start.
const IDENTIFIERS: usize = 3;

/// What goes into Connect.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Proposal {
    pub(crate) connect_serial: u64,
    pub(crate) epoch: Epoch,
    pub(crate) position: Serial,
    pub(crate) filter: StoreSet,
    pub(crate) covered: StoreSet,
    pub(crate) packet_size: u16,
    pub(crate) interval: Duration,
    pub(crate) forward_secrecy: bool,
    /// Whether a connection goes on meanwhile, and moves the position.
    pub(crate) beside: bool,
}

/// An address step 1 is sent to.
#[derive(Debug)]
struct Candidate {
    remote: SocketAddr,
    starts_at: Instant,
    sent: u32,
    echoes: Echoes,
}

/// One form of step 1. It is sent again byte for byte.
struct Step {
    packet: Vec<u8>,
    digest: StepOneDigest,
}

/// The attempt.
pub(crate) struct Attempt {
    started: Instant,
    /// Of the ticket it was begun with, whatever ticket the device has meanwhile.
    token: Vec<u8>,
    secret: Secret,
    handshake: [u8; 8],
    random: [u8; 16],
    share: Option<Share>,
    identifiers: [u8; IDENTIFIERS * DEVICE_IDENTIFIER],
    proposal: Proposal,
    first: Option<Step>,
    /// The last echo that was sent.
    echo: Vec<u8>,
    candidates: Vec<Candidate>,
    web: Option<WebLeg>,
    /// It is made because the connection in use is in trouble: if that is heard again it is not wanted any more.
    pub(super) provisional: bool,
    /// The one transport that it goes by; none: both.
    pub(super) alone: Option<Transport>,
    /// Whether somebody's hint has been passed on. One is enough for people, and anybody can forge them.
    hinted: bool,
}

/// Step 1 by Web: another form of it, as it says so itself.
struct WebLeg {
    starts_at: Instant,
    step: Option<Step>,
    /// How often it was sent, and when the last time.
    sent: u32,
    sent_at: Instant,
}

/// Where an answer came from.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Origin {
    Udp(Path),
    Web,
}

/// What an answer led to.
pub(crate) enum Answered {
    /// It was not authentic, or told nothing new.
    Nothing,
    /// A challenge: step 1 is sent with it, or with another of those that came.
    Deferred,
    /// A hint that proves nothing: for people only.
    Hint(Code, SocketAddr),
    /// An authentic refusal.
    Refused { code: Code, retry_after: Duration, serial: Option<u64> },
    /// An authentic answer: these are the keys.
    Complete(Box<Agreed>),
}

/// What an exchange agreed on.
pub(crate) struct Agreed {
    /// In one place from the beginning, so that no copies of them stay behind.
    pub(super) keys: Box<ConnectionKeys>,
    /// Identifiers of the service, each with its reset token.
    pub(super) service: Vec<([u8; 16], [u8; 16])>,
    pub(super) own: [[u8; 8]; IDENTIFIERS],
    pub(crate) epoch: Epoch,
    pub(super) newest: Serial,
    pub(super) lost: StoreSet,
    pub(crate) endpoint: Option<SocketAddr>,
    pub(super) service_time: crate::time::UnixTime,
    pub(super) lease: Duration,
    pub(super) refresh_after: Duration,
    pub(super) forward_secret: bool,
    /// The service would give another ticket for this one.
    pub(super) renew: bool,
    /// The device has a connection, which this one would take the place of.
    pub(crate) in_use: bool,
    /// Another port of the service.
    pub(crate) check_port: Option<NonZeroU16>,
    pub(super) started: Instant,
    pub(super) proposal: Proposal,
    /// The round trip, if step 1 was sent to this address once only.
    pub(crate) round_trip: Option<Duration>,
}

impl Attempt {
    pub(crate) fn new(now: Instant, ticket: &Ticket, proposal: Proposal, rng: &mut Rng) -> Self {
        let mut identifiers = [0; IDENTIFIERS * DEVICE_IDENTIFIER];
        for identifier in identifiers.as_chunks_mut::<DEVICE_IDENTIFIER>().0 {
            *identifier = device_identifier(rng);
        }
        let share = proposal.forward_secrecy.then(|| Share::new(zeroize::Zeroizing::new(rng.array())));
        let mut attempt = Self {
            started: now,
            token: ticket.token().into(),
            secret: Secret::new(*ticket.secret()),
            handshake: device_identifier(rng),
            random: [0; 16],
            share,
            identifiers,
            proposal,
            first: None,
            echo: Vec::new(),
            candidates: Vec::new(),
            web: None,
            provisional: false,
            alone: None,
            hinted: false,
        };
        let mut connect = Vec::new();
        attempt.connect().emit(&mut connect);
        let mut clear = Vec::new();
        attempt.clear(None, None, false).emit(&mut clear);
        attempt.random = initiator_random(&attempt.secret, &rng.array(), &connect, &clear);
        attempt.first = attempt.step(None, false);
        attempt
    }

    fn connect(&self) -> Connect<'_> {
        Connect {
            connect_serial: self.proposal.connect_serial,
            identifiers: &self.identifiers,
            epoch: self.proposal.epoch,
            position: self.proposal.position,
            filter: self.proposal.filter,
            covered: self.proposal.covered,
            packet_size: self.proposal.packet_size,
            interval: self.proposal.interval,
        }
    }

    fn clear(&self, random: Option<[u8; 16]>, echo: Option<[u8; 16]>, web: bool) -> Step1Clear<'_> {
        Step1Clear {
            token: &self.token,
            random,
            handshake: self.handshake,
            share: self.share.as_ref().map(|s| *s.public()),
            echo,
            web,
        }
    }

    /// Builds step 1. An echo or the mark of the Web makes another clear part, so the seal has another key and nothing is
    /// used twice.
    fn step(&self, echo: Option<[u8; 16]>, web: bool) -> Option<Step> {
        let mut packet = Vec::new();
        self.clear(Some(self.random), echo, web).emit(&mut packet);
        let clear_len = packet.len();
        let connect = self.connect();
        // The packet has the size that the connection's packets will have: a completed exchange has proved it.
        let size =
            usize::from(self.proposal.packet_size).max(clear_len + connect.emitted_len() + 2 + AEAD_TAG);
        packet.resize(size, 0);
        let (clear, sealed) = packet.split_at_mut(clear_len);
        let room = sealed.len() - AEAD_TAG;
        write_sealed(&mut sealed[..room], &connect).ok()?;
        ConnectKey::new(&self.secret, clear).seal(clear, sealed);
        let digest = StepOneDigest::of(&packet);
        Some(Step { packet, digest })
    }

    /// Step 1 goes by Web too, from `at` on or from when it was to go before.
    pub(crate) fn turn_to_web(&mut self, at: Instant) {
        let leg = WebLeg { starts_at: at, step: None, sent: 0, sent_at: at };
        let leg = self.web.get_or_insert(leg);
        leg.starts_at = leg.starts_at.min(at);
    }

    /// When step 1 goes by Web too; none: it does not.
    pub(super) fn web_starts_at(&self) -> Option<Instant> {
        self.web.as_ref().map(|leg| leg.starts_at)
    }

    /// Step 1 for the Web, counted as sent.
    pub(crate) fn web_packet(&mut self, now: Instant) -> Option<&[u8]> {
        if self.web.as_ref()?.step.is_none() {
            let step = self.step(None, true)?;
            self.web.as_mut()?.step = Some(step);
        }
        let leg = self.web.as_mut()?;
        leg.sent += 1;
        leg.sent_at = now;
        leg.step.as_ref().map(|step| &*step.packet)
    }

    /// Whether there is no address to send anything to by UDP.
    pub(super) const fn has_no_address(&self) -> bool {
        self.candidates.is_empty()
    }

    /// Adds addresses to try, in this order, each a moment after the one before. Families take turns.
    pub(crate) fn add_candidates(&mut self, now: Instant, addresses: &[SocketAddr]) {
        let (mut first, mut second): (Vec<_>, Vec<_>) = (Vec::new(), Vec::new());
        let lead = addresses.first().map(Family::of);
        for address in addresses {
            if Some(Family::of(address)) == lead { first.push(*address) } else { second.push(*address) }
        }
        let turns = first.len().max(second.len());
        let ordered = (0..turns).flat_map(|i| [first.get(i), second.get(i)]).flatten();
        for remote in ordered {
            if self.candidates.len() < MAX_CANDIDATES && self.candidates.iter().all(|c| c.remote != *remote) {
                let starts_at = match self.candidates.last() {
                    Some(last) if Family::of(&last.remote) == Family::of(remote) => {
                        last.starts_at + NEXT_START
                    }
                    Some(last) => last.starts_at + HEAD_START,
                    None => now,
                };
                let starts_at = starts_at.max(now);
                self.candidates.push(Candidate {
                    remote: *remote,
                    starts_at,
                    sent: 0,
                    echoes: Echoes::default(),
                });
            }
        }
    }

    /// The addresses that it goes to.
    pub(super) fn remotes(&self) -> impl Iterator<Item = SocketAddr> + '_ {
        self.candidates.iter().map(|c| c.remote)
    }

    /// The families that its addresses need.
    pub(super) fn families(&self) -> impl Iterator<Item = Family> + '_ {
        [Family::V4, Family::V6]
            .into_iter()
            .filter(|f| self.candidates.iter().any(|c| Family::of(&c.remote) == *f))
    }

    /// Names every deadline: when something is to be sent, and when the attempt ends.
    pub(crate) fn deadlines(&self, is_open: impl Fn(Family) -> bool, next: &mut Deadlines) {
        let open = self.candidates.iter().filter(|c| is_open(Family::of(&c.remote)));
        let due = open.flat_map(|c| [c.due(), c.echoes.due(self.started)]);
        due.flatten().for_each(|at| next.send(at, TimerKind::Exchange));
        next.act(self.ends_at(), TimerKind::Exchange);
    }

    /// When the attempt has failed.
    pub(super) fn ends_at(&self) -> Instant {
        let last = self.candidates.iter().map(|c| c.starts_at).max().unwrap_or(self.started);
        let udp = last + SENDINGS[SENDINGS.len() - 1] + PATIENCE;
        self.web.as_ref().map_or(udp, |leg| udp.max(leg.starts_at + WEB_PATIENCE))
    }

    /// The packet to send now, and where to.
    pub(crate) fn next_packet(
        &mut self,
        now: Instant,
        link_of: impl Fn(Family) -> Option<LinkId>,
    ) -> Option<(LinkId, SocketAddr, &[u8])> {
        for at in 0..self.candidates.len() {
            let candidate = &mut self.candidates[at];
            let remote = candidate.remote;
            let Some(link) = link_of(Family::of(&remote)) else { continue };
            if let Some(challenge) = candidate.echoes.take_due(now) {
                // Built again rather than kept: the same challenge makes the same bytes.
                let Some(Step { packet, digest }) = self.step(Some(challenge), false) else { continue };
                self.candidates[at].echoes.sent(now, challenge, digest);
                self.echo = packet;
                return Some((link, remote, &self.echo));
            }
            if candidate.due().is_some_and(|at| at <= now) {
                // Whoever opened a link late starts late: the sendings keep their distance.
                if candidate.sent == 0 {
                    candidate.starts_at = now;
                }
                candidate.sent += 1;
                candidate.echoes.repeat();
                return self.first.as_ref().map(|step| (link, remote, &*step.packet));
            }
        }
        None
    }

    /// Whether a packet that begins so is an answer to it.
    pub(crate) fn recognizes(&self, first_bytes: &[u8]) -> bool {
        first_bytes.starts_with(&self.handshake)
    }

    /// Takes an answer. Unless it is authentic the packet's bytes are left as they were. What answers a step 1 that was
    /// sent by Web comes by Web, and nothing else does.
    pub(crate) fn handle_answer(
        &mut self,
        now: Instant,
        from: Origin,
        packet: &mut [u8],
        rng: &mut Rng,
    ) -> Answered {
        let Ok(answer) = Answer::parse(packet) else { return Answered::Nothing };
        let (kind, clear_len) = (answer.kind, answer.clear.len());
        match (kind, from) {
            (AnswerKind::ClearError { .. }, _) if self.hinted => Answered::Nothing,
            (AnswerKind::ClearError { code, .. }, Origin::Udp(path)) => {
                self.hinted = true;
                Answered::Hint(code, path.remote)
            }
            // It may be forged, so nothing waits for it and nothing is given up for it: the first step 1 is sent on.
            (AnswerKind::Defer { challenge }, Origin::Udp(path)) => {
                match self.asked(path.remote).is_some_and(|c| c.echoes.offer(now, challenge, rng)) {
                    true => Answered::Deferred,
                    false => Answered::Nothing,
                }
            }
            // TCP has proved the address, and whoever carries the request can say what he likes.
            (AnswerKind::ClearError { .. } | AnswerKind::Defer { .. }, Origin::Web) => Answered::Nothing,
            (AnswerKind::SealedError { .. }, _) => self.open_error(from, packet, clear_len),
            (AnswerKind::Complete { share, .. }, _) => {
                self.complete(now, from, packet, clear_len, share).unwrap_or(Answered::Nothing)
            }
        }
    }

    /// The address, if step 1 was sent to it.
    fn asked(&mut self, remote: SocketAddr) -> Option<&mut Candidate> {
        self.candidates.iter_mut().find(|c| c.remote == remote && c.sent > 0)
    }

    /// The forms of step 1 that something which came this way can be an answer to.
    fn forms_by(&self, way: Origin) -> impl Iterator<Item = Form> {
        let candidate = match way {
            Origin::Udp(path) => self.candidates.iter().find(|c| c.remote == path.remote),
            Origin::Web => None,
        };
        let (step, sent, sent_at) = match (way, candidate, &self.web) {
            (Origin::Udp(_), Some(to), _) => (self.first.as_ref(), to.sent, to.starts_at),
            (Origin::Udp(_), None, _) => (self.first.as_ref(), 0, self.started),
            (Origin::Web, _, Some(leg)) => (leg.step.as_ref(), leg.sent, leg.sent_at),
            (Origin::Web, _, None) => (None, 0, self.started),
        };
        let first = step.map(|step| Form { digest: step.digest, sent, sent_at });
        first.into_iter().chain(candidate.into_iter().flat_map(|c| c.echoes.forms()))
    }

    fn open_error(&self, from: Origin, packet: &mut [u8], clear_len: usize) -> Answered {
        let (clear, sealed) = packet.split_at_mut(clear_len);
        for form in self.forms_by(from) {
            let key = ErrorKey::new(&self.secret, &form.digest, clear);
            if let Ok(plain) = key.open(clear, sealed) {
                return match read_sealed(plain).and_then(ErrorBody::parse) {
                    Ok(ErrorBody { code, retry_after, serial, .. }) => {
                        Answered::Refused { code, retry_after, serial }
                    }
                    Err(_) => Answered::Nothing,
                };
            }
        }
        Answered::Nothing
    }

    fn complete(
        &self,
        now: Instant,
        from: Origin,
        packet: &mut [u8],
        clear_len: usize,
        peer: Option<[u8; 32]>,
    ) -> Option<Answered> {
        // The connection's packets will go to where this came from. Whoever carries a copy of it elsewhere, and is
        // faster, must not draw them to itself.
        if let Origin::Udp(path) = from
            && self.candidates.iter().all(|c| c.remote != path.remote)
        {
            return None;
        }
        let (clear, sealed) = packet.split_at_mut(clear_len);
        let agreed = match (&self.share, &peer) {
            (Some(own), Some(peer)) => Some(own.agree(peer)?),
            _ => None,
        };
        let mut opened = None;
        for form in self.forms_by(from) {
            let key = AnswerKey::new(&self.secret, agreed.as_deref(), &form.digest, clear);
            if key.open(clear, sealed).is_ok() {
                opened = Some((form, key));
                break;
            }
        }
        let (form, key) = opened?;
        let plain = sealed.get(..sealed.len().checked_sub(AEAD_TAG)?)?;
        let response = read_sealed(plain).and_then(ConnectResponse::parse).ok()?;
        let mut own = [[0; DEVICE_IDENTIFIER]; IDENTIFIERS];
        own.copy_from_slice(self.identifiers.as_chunks().0);
        Some(Answered::Complete(Box::new(Agreed {
            keys: Box::new(key.connection_keys()),
            service: service_identifiers(response.identifiers).take(IDENTIFIERS).collect(),
            own,
            epoch: response.epoch,
            newest: response.newest,
            lost: response.lost,
            endpoint: response.endpoint,
            service_time: response.service_time,
            lease: response.lease,
            refresh_after: response.refresh_after,
            forward_secret: agreed.is_some(),
            renew: response.renew,
            in_use: response.in_use,
            check_port: response.check_port,
            started: self.started,
            proposal: self.proposal,
            round_trip: (form.sent == 1).then(|| now.since(form.sent_at)),
        })))
    }
}

impl Candidate {
    fn due(&self) -> Option<Instant> {
        SENDINGS.get(self.sent as usize).map(|after| self.starts_at + *after)
    }
}

impl Family {
    /// The family of an address.
    pub(crate) const fn of(address: &SocketAddr) -> Self {
        match address {
            SocketAddr::V4(_) => Self::V4,
            SocketAddr::V6(_) => Self::V6,
        }
    }
}

// Step 1 of a connection of the smallest packets has room for the longest token and everything else.
const _: () = assert!(17 + 3 + 4 + 256 + 18 + 10 + 34 + 18 + 2 + 1 + 200 + AEAD_TAG < 1200);
