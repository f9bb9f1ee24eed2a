//! The first packet of a device: from the cheapest check to the dearest, and nothing is remembered before it proved
//! that it comes from the holder of a ticket (SPEC.md, "Exchange").

use alloc::boxed::Box;
use alloc::vec;
use core::time::Duration;

use super::admission::{EXCHANGES, Entrance};
use super::config::{AccountPolicy, DeferPolicy};
use super::event::AccountHead;
use super::limits::Small;
use super::record::{FORWARD_SECRET, MAX_DEVICE_IDENTIFIERS, Owner, State, U48, flag};
use super::refusal::Refusal;
use super::{CloseReason, Service};
use crate::crypto::{
    AnswerKey, ConnectKey, ConnectionId, ConnectionKeys, ErrorKey, OpenedToken, Secret, Share, StepOneDigest,
    TicketKey, Token,
};
use crate::ids::{AccountId, DeviceId, Epoch, Rights, Serial, StoreSet};
use crate::path::{Datagram, Disposition, DropReason, Path};
use crate::time::{Instant, UnixTime};
use crate::wire::{
    AEAD_TAG, AnswerKind, Code, Connect, ConnectResponse, Emit, ErrorBody, MAX_CONNECT_SERIAL, MIN_PACKET,
    Purpose, RESET_TOKEN, SERVICE_IDENTIFIER, SliceSink, Step1, Step1Error, TokenPlain, device_identifiers,
    emit_answer, read_sealed, write_sealed,
};

/// How long a half-open connection waits for its first data packet.
pub(super) const HALF_OPEN: Duration = Duration::from_secs(10);
/// Half-open connections of one device.
const MAX_HALF_OPEN: usize = 4;
/// How far in this service's future a ticket may have been issued.
pub(super) const MAX_SKEW: Duration = Duration::from_secs(300);
/// When a device connects anew for fresh keys: after a day if they hold an X25519 result, else within the hour.
const REFRESH: Duration = Duration::from_secs(24 * 3600);
const REFRESH_EARLY: (Duration, Duration) = (Duration::from_secs(300), Duration::from_secs(3600));
/// When to ask again if all connections are taken.
const FULL_RETRY: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(90));
/// Identifiers issued at once: at the start, and after each move, as what issues them may be lost.
const IDENTIFIERS: usize = 3;
/// An identifier and its reset token.
const ISSUED: usize = SERVICE_IDENTIFIER + RESET_TOKEN;

/// What of step 1 is needed once its packet has been opened in place.
struct Opening {
    path: Path,
    handshake: [u8; 8],
    share: Option<[u8; 32]>,
    size: usize,
    digest: StepOneDigest,
}

/// The holder of a ticket.
pub(super) struct Holder {
    pub(super) account: AccountId,
    pub(super) device: DeviceId,
    rights: Rights,
    pub(super) issued: UnixTime,
    pub(super) expiry: UnixTime,
    secret: Secret,
    /// Which key sealed the token.
    pub(super) key: [u8; 4],
}

/// What the device asked for.
struct Wish {
    connect_serial: u64,
    identifiers: [[u8; 8]; MAX_DEVICE_IDENTIFIERS],
    epoch: Epoch,
    position: Serial,
    filter: StoreSet,
    covered: StoreSet,
    packet_size: u16,
    interval: Duration,
}

impl Service {
    /// A packet that begins like step 1.
    pub(super) fn handle_step1(&mut self, now: Instant, datagram: Datagram<'_>) -> Disposition {
        let Datagram { path, payload } = datagram;
        let step1 = match Step1::parse(payload) {
            Ok(step1) => step1,
            Err(Step1Error::Size) => return Disposition::Dropped(DropReason::Unpadded),
            Err(Step1Error::Malformed) => return Disposition::Dropped(DropReason::Malformed),
            Err(Step1Error::Version { handshake }) => {
                self.hint(now, path, &handshake, Code::VERSION, Duration::ZERO);
                return Disposition::Dropped(DropReason::Malformed);
            }
        };
        // A copy that was carried to another transport does nothing.
        if step1.web != path.is_web() {
            return Disposition::Dropped(DropReason::OtherTransport);
        }
        if self.closed {
            let (handshake, retry_after) = (step1.handshake, self.retry_after());
            self.hint(now, path, &handshake, Code::UNAVAILABLE, retry_after);
            return Disposition::Dropped(DropReason::Closed);
        }
        if self.outbox.is_full() {
            return Disposition::Dropped(DropReason::Capacity);
        }
        let unix = self.calendar.unix(now);
        let holder = match self.holder(step1.token) {
            Ok(holder) => holder,
            Err(reason) => {
                self.hint(now, path, &step1.handshake, Code::UNAUTHORIZED, Duration::ZERO);
                return Disposition::Dropped(reason);
            }
        };
        let shard = self.layout.shard_of(&holder.account);
        if shard != self.shard {
            return Disposition::OtherShard(shard);
        }
        // TCP has proved the address of what comes by Web.
        let proven = path.is_web()
            || step1.echo.is_some_and(|echo| {
                self.cookies.check(unix, &echo, path.remote, &step1.random, &step1.handshake, step1.token)
            });
        let digest = StepOneDigest::of(payload);
        let opening =
            Opening { path, handshake: step1.handshake, share: step1.share, size: payload.len(), digest };
        let connect_key = ConnectKey::new(&holder.secret, step1.clear);
        let challenge = (!proven)
            .then(|| self.cookies.challenge(unix, path.remote, &step1.random, &step1.handshake, step1.token));
        let echo_is_wrong = !proven && step1.echo.is_some();
        let clear_len = step1.clear.len();
        let (clear, sealed) = payload.split_at_mut(clear_len);
        let Ok(plain) = connect_key.open(clear, sealed) else {
            return Disposition::Dropped(DropReason::Unauthentic);
        };
        // From here on the packet is authentic, if perhaps a copy.
        let full = self.half_open_of_holder(&holder).count() >= MAX_HALF_OPEN;
        if let Some(challenge) = challenge
            && (echo_is_wrong || full || self.wants_proof())
        {
            self.defer(&opening, challenge);
            return Disposition::Accepted;
        }
        match (self.admission.may_knock(now, &holder.account, &holder.device, proven), challenge) {
            (Ok(()), _) => {}
            (Err(_), Some(challenge)) => {
                self.defer(&opening, challenge);
                return Disposition::Accepted;
            }
            (Err(retry_after), None) => {
                self.refuse(&opening, &holder.secret, Refusal::Exchanges { rate: EXCHANGES, retry_after });
                return Disposition::Accepted;
            }
        }
        let Some(wish) = read_sealed(plain).and_then(Connect::parse).ok().map(Wish::from) else {
            self.refuse(&opening, &holder.secret, Refusal::Connect);
            return Disposition::Accepted;
        };
        self.admit(now, unix, &opening, &holder, &wish, challenge);
        Disposition::Accepted
    }

    fn wants_proof(&self) -> bool {
        match self.config.defer {
            DeferPolicy::Always => true,
            DeferPolicy::Above { half_open } => self.half_open >= half_open,
        }
    }

    /// Asks for a proof of the address first.
    fn defer(&mut self, opening: &Opening, challenge: [u8; 16]) {
        self.say_small(opening.path, &opening.handshake, &AnswerKind::Defer { challenge });
        self.stats.deferred += 1;
    }

    /// Opens a token with the key that it names.
    pub(super) fn holder(&self, token: &[u8]) -> Result<Holder, DropReason> {
        Holder::open(&self.ticket_keys, token)
    }

    /// Decides about an authentic Connect, and answers it. `challenge` is there if the address is not proven.
    fn admit(
        &mut self,
        now: Instant,
        unix: UnixTime,
        opening: &Opening,
        holder: &Holder,
        wish: &Wish,
        challenge: Option<[u8; 16]>,
    ) {
        let refusal = if holder.expiry <= unix {
            Some(Refusal::Expired)
        } else if holder.issued > unix + MAX_SKEW {
            Some(Refusal::Future)
        } else if self.revocations.contains(&holder.account, &holder.device, holder.issued) {
            Some(Refusal::Revoked)
        } else if !holder.rights.contains(Rights::RECEIVE) {
            Some(Refusal::NoRightToReceive)
        } else {
            None
        };
        if let Some(refusal) = refusal {
            return self.refuse(opening, &holder.secret, refusal);
        }
        let (of, device, proven) = (&holder.account, &holder.device, challenge.is_none());
        let known = self.accounts.find(of);
        if known.is_none() && self.config.account_policy == AccountPolicy::Restored {
            return self.refuse(opening, &holder.secret, Refusal::UnknownAccount);
        }
        if let Some(older) = known.and_then(|account| self.connection_of(account, &holder.device)) {
            let confirmed = self.table.owner[older].connect_serial.get();
            // There is none above the highest, so whoever has it would keep out everybody else who has the ticket.
            if wish.connect_serial <= confirmed && wish.connect_serial < MAX_CONNECT_SERIAL {
                if self.admission.may_hear_serial(now, of, device, proven) {
                    return self.refuse(opening, &holder.secret, Refusal::Serial { confirmed });
                }
                self.stats.conflicts_withheld += 1;
                // Whoever sends copies of the device's packets must not take its answers.
                if let Some(challenge) = challenge {
                    self.defer(opening, challenge);
                }
                return;
            }
        }
        let wants_share = self.config.forward_secrecy && opening.share.is_some();
        let share = match self.admission.enter(now, of, device, proven, wants_share, &mut self.rng) {
            Entrance::Open { share } => share,
            Entrance::Prove => {
                if let Some(challenge) = challenge {
                    self.defer(opening, challenge);
                }
                return;
            }
            Entrance::Wait(retry_after) => {
                return self.refuse(opening, &holder.secret, Refusal::Busy { retry_after });
            }
        };
        self.stats.shares_left_out += u64::from(wants_share && !share);
        let account = match known.map_or_else(|| self.open_account(holder), Ok) {
            Ok(account) => account,
            Err(refusal) => return self.refuse(opening, &holder.secret, refusal),
        };
        // A position beyond the newest serial of the same epoch: this history was restored from before the device
        // read it, so nothing that any device knows of it can be trusted.
        if wish.epoch == self.accounts.get(account).epoch
            && wish.position > self.accounts.log(account).newest()
        {
            self.accounts.begin_epoch(account, &mut self.rng);
            // Not 409, which makes a device stop: these have to come back.
            self.close_all_of(now, account, Code::TIMEOUT);
        }
        while self.half_open_of(account, &holder.device).count() >= MAX_HALF_OPEN {
            let Some(oldest) = self.half_open_of(account, &holder.device).next() else { break };
            self.end(oldest, None);
        }
        let Some(slot) = self.table.acquire() else {
            let refusal = Refusal::Connections {
                limit: self.table.hot.capacity(),
                retry_after: self.rng.duration(FULL_RETRY.0, FULL_RETRY.1),
            };
            return self.refuse(opening, &holder.secret, refusal);
        };
        self.half_open += 1;
        self.fill_record(now, slot, account, opening, holder, wish);
        let Some((packet, keys)) = self.answer(unix, slot, opening, holder, wish, share) else {
            return self.end(slot, None);
        };
        self.table.set_keys(slot, &keys);
        self.send_large(opening.path, packet);
    }

    fn open_account(&mut self, holder: &Holder) -> Result<u32, Refusal> {
        let limit = self.config.accounts;
        let head = AccountHead::new(holder.account);
        self.accounts.open(&head, &mut self.rng).map_err(|_| Refusal::Channels { limit })
    }

    fn fill_record(
        &mut self,
        now: Instant,
        slot: u32,
        account: u32,
        opening: &Opening,
        holder: &Holder,
        wish: &Wish,
    ) {
        self.table.set_path(slot, &opening.path);
        let known = wish.epoch == self.accounts.get(account).epoch;
        let position = if known { wish.position } else { Serial::ZERO };
        let packet_size = wish.packet_size.min(self.config.packet_size);
        self.table.owner[slot] = Owner {
            device: holder.device,
            filter: wish.filter,
            account,
            sibling: crate::pool::Link::default(),
            connect_serial: U48::new(wish.connect_serial),
            since: U48::new(now.as_millis()),
            rights: u8::try_from(holder.rights.0 & 0x3f).unwrap_or(0),
            packet_size: u8::try_from(usize::from(packet_size).saturating_sub(MIN_PACKET)).unwrap_or(0),
            interval: self.granted(wish.interval),
            applied: 0,
        };
        let open = &mut self.table.open[slot];
        open.window = crate::rud::replay::ReplayWindow::default();
        open.position = position;
        let ids = &mut self.table.ids[slot];
        ids.next_number = 0;
        ids.requests = Small::new(now);
        ids.device = wish.identifiers;
        ids.told = position;
        let hot = &mut self.table.hot[slot];
        hot.state = State::HalfOpen;
        hot.heard = crate::wheel::tick_floor(now);
        self.accounts.get_mut(account).devices.push_back(&mut self.table.owner, slot);
        self.schedule(slot, now + HALF_OPEN, now);
    }

    /// Writes ResponderComplete: the keys come from it, so each has its own.
    fn answer(
        &mut self,
        unix: UnixTime,
        slot: u32,
        opening: &Opening,
        holder: &Holder,
        wish: &Wish,
        share: bool,
    ) -> Option<(Box<[u8]>, ConnectionKeys)> {
        let share = share.then(|| Share::new(zeroize::Zeroizing::new(self.rng.array())));
        let agreed = match (&share, &opening.share) {
            (Some(own), Some(peer)) => Some(own.agree(peer)?),
            _ => None,
        };
        if agreed.is_some() {
            self.table.owner[slot].rights |= FORWARD_SECRET;
        }
        let identifiers = self.fresh_identifiers(slot);
        let refresh_after = if agreed.is_some() {
            self.rng.fraction(900, 1100, REFRESH)
        } else {
            self.rng.duration(REFRESH_EARLY.0, REFRESH_EARLY.1)
        };
        let account = self.table.owner[slot].account;
        let response = ConnectResponse {
            identifiers: &identifiers,
            epoch: self.accounts.get(account).epoch,
            newest: self.accounts.log(account).newest(),
            lost: self.lost_at(account, wish),
            endpoint: (!opening.path.is_web()).then_some(opening.path.remote),
            service_time: unix,
            lease: self.lease(slot),
            refresh_after,
            packet_size: u16::from(self.table.owner[slot].packet_size) + MIN_PACKET as u16,
            renew: agreed.is_some() && self.is_old(unix, holder),
            in_use: self.connection_of(account, &holder.device).is_some(),
            check_port: self.config.check_port,
        };
        let mut plain = [0; 512];
        let len = response.write(&mut plain).ok()?;
        let random = self.hedge.responder_random(&self.rng.array(), &opening.digest, plain.get(..len)?);
        let kind = AnswerKind::Complete { random, share: share.as_ref().map(|s| *s.public()) };

        let mut packet = vec![0; opening.size].into_boxed_slice();
        let mut sink = SliceSink::new(&mut packet);
        emit_answer(&mut sink, &opening.handshake, &kind);
        let clear_len = sink.finish().ok()?;
        let (clear, sealed) = packet.split_at_mut(clear_len);
        let room = sealed.len().checked_sub(AEAD_TAG)?;
        write_sealed(sealed.get_mut(..room)?, &response).ok()?;
        let key = AnswerKey::new(&holder.secret, agreed.as_deref(), &opening.digest, clear);
        key.seal(clear, sealed);
        Some((packet, key.connection_keys()))
    }

    /// Identifiers for packets to the service, each with its reset token.
    pub(super) fn fresh_identifiers(&mut self, slot: u32) -> [u8; IDENTIFIERS * ISSUED] {
        let id = self.connection_id(slot);
        let mut issued = [0; IDENTIFIERS * ISSUED];
        for pair in issued.as_chunks_mut::<ISSUED>().0 {
            let identifier = self.identifiers.issue(id, &mut self.rng);
            pair[..SERVICE_IDENTIFIER].copy_from_slice(&identifier);
            pair[SERVICE_IDENTIFIER..].copy_from_slice(&self.identifiers.reset_token(&identifier));
        }
        issued
    }

    /// What the identifiers of a connection say.
    pub(super) fn connection_id(&self, slot: u32) -> ConnectionId {
        let generation = self.table.hot[slot].generation;
        ConnectionId { node: self.config.node, shard: self.shard.0, slot, generation }
    }

    /// The stores of which events are lost to a device that connects so.
    fn lost_at(&self, account: u32, wish: &Wish) -> StoreSet {
        let log = self.accounts.log(account);
        if wish.epoch == Epoch::NONE && wish.position == Serial::ZERO {
            // It has seen nothing yet, which is true of every store: only what was dropped is lost.
            log.lost(Serial::ZERO, wish.filter, StoreSet::ALL)
        } else if wish.epoch != self.accounts.get(account).epoch {
            wish.filter
        } else {
            log.lost(wish.position, wish.filter, wish.covered)
        }
    }

    /// The half-open connections of the holder's device, oldest first.
    fn half_open_of_holder<'a>(&'a self, holder: &'a Holder) -> impl Iterator<Item = u32> + 'a {
        let account = self.accounts.find(&holder.account);
        account.into_iter().flat_map(|a| self.half_open_of(a, &holder.device))
    }

    /// The half-open connections of a device, oldest first.
    pub(super) fn half_open_of<'a>(
        &'a self,
        account: u32,
        device: &'a DeviceId,
    ) -> impl Iterator<Item = u32> + 'a {
        self.devices_of(account).filter(|slot| {
            self.table.hot[*slot].state == State::HalfOpen && self.table.owner[*slot].device == *device
        })
    }

    /// The confirmed connection of a device.
    pub(super) fn connection_of(&self, account: u32, device: &DeviceId) -> Option<u32> {
        self.devices_of(account)
            .find(|slot| self.table.hot[*slot].is_live() && self.table.owner[*slot].device == *device)
    }

    /// The first data packet of a half-open connection has come: from now on it is the device's connection.
    pub(super) fn confirm(&mut self, now: Instant, slot: u32) {
        let account = self.table.owner[slot].account;
        let device = self.table.owner[slot].device;
        let mut since = U48::new(now.as_millis());
        if let Some(older) = self.connection_of(account, &device) {
            // A later exchange that was confirmed earlier wins: its serial is above this one's.
            if self.table.owner[older].connect_serial.get() > self.table.owner[slot].connect_serial.get() {
                return self.close_record(now, slot, CloseReason::Superseded);
            }
            // A new connection is no new allowance.
            self.table.ids[slot].requests = self.table.ids[older].requests;
            // The device has been connected all the while: what was posted for those who were is for it too.
            since = self.table.owner[older].since;
            self.inherit_paths(now, older, slot);
            self.close_record(now, older, CloseReason::Superseded);
        }
        self.half_open -= 1;
        self.stats.connected += 1;
        self.stats.connects += 1;
        let hot = &mut self.table.hot[slot];
        hot.state = State::Connected;
        hot.set(flag::CONNECTED);
        self.accounts.joined(account, self.table.ids[slot].told);
        self.table.owner[slot].since = since;
        self.schedule(slot, now + self.lease(slot), now);
        self.announce(slot);
        // Its exchange was answered before the service closed.
        if self.closed {
            self.close_record(now, slot, CloseReason::ByService(Code::UNAVAILABLE));
        }
    }

    /// An Error in clear: no more than a hint to the device. Anybody can ask for it from any source, so there are not
    /// many.
    fn hint(&mut self, now: Instant, path: Path, handshake: &[u8; 8], code: Code, retry_after: Duration) {
        // By Web the host answers what proves nothing, with a status.
        if path.is_web() {
            return;
        }
        if !self.hints.take(now, path.remote.ip()) {
            self.stats.hints_withheld += 1;
            return;
        }
        self.say_small(path, handshake, &AnswerKind::ClearError { code, retry_after });
    }

    fn say_small(&mut self, path: Path, handshake: &[u8; 8], kind: &AnswerKind) {
        let mut packet = [0; 64];
        let mut sink = SliceSink::new(&mut packet);
        emit_answer(&mut sink, handshake, kind);
        if let (Ok(len), false) = (sink.finish(), self.outbox.is_full()) {
            self.send_small(path, &packet[..len]);
        }
    }

    /// Answers whoever has no connection: by Web in the answer to the request.
    pub(super) fn send_small(&mut self, path: Path, packet: &[u8]) {
        if path.is_web() {
            self.web.reply(packet.into());
        } else {
            self.outbox.small(path, packet);
        }
    }

    fn send_large(&mut self, path: Path, packet: Box<[u8]>) {
        if path.is_web() {
            self.web.reply(packet);
        } else {
            self.outbox.large(path, packet);
        }
    }

    /// An authentic Error to the holder of a ticket.
    fn refuse(&mut self, opening: &Opening, secret: &Secret, refusal: Refusal) {
        let detail = refusal.detail();
        let body = ErrorBody {
            code: refusal.code(),
            retry_after: refusal.retry_after(),
            serial: refusal.serial(),
            detail: detail.as_str(),
        };
        let mut packet = [0; 256];
        let written = (|| {
            let mut plain = [0; 176];
            let len = body.write(&mut plain).ok()?;
            let random = self.hedge.responder_random(&self.rng.array(), &opening.digest, plain.get(..len)?);
            let mut sink = SliceSink::new(&mut packet);
            emit_answer(&mut sink, &opening.handshake, &AnswerKind::SealedError { random });
            let clear_len = sink.finish().ok()?;
            // The length of the message takes one byte, or two.
            let end = clear_len + len + 1 + usize::from(len >= 64) + AEAD_TAG;
            let (clear, sealed) = packet.get_mut(..end)?.split_at_mut(clear_len);
            let room = sealed.len().checked_sub(AEAD_TAG)?;
            write_sealed(sealed.get_mut(..room)?, &body).ok()?;
            ErrorKey::new(secret, &opening.digest, clear).seal(clear, sealed);
            Some(end)
        })();
        if let Some(len) = written {
            self.send_large(opening.path, packet[..len].into());
        }
        self.stats.refused += 1;
        self.stats.count_refusal(refusal.reason());
    }
}

impl Holder {
    pub(super) fn open(keys: &[TicketKey], token: &[u8]) -> Result<Self, DropReason> {
        let id = Token::key_id(token).ok_or(DropReason::Malformed)?;
        let key = keys.iter().find(|k| k.id() == id).ok_or(DropReason::UnknownKey)?;
        let opened = key.open(token).map_err(|_| DropReason::Unauthentic)?;
        Self::new(&opened, id).ok_or(DropReason::Malformed)
    }

    fn new(opened: &OpenedToken, key: [u8; 4]) -> Option<Self> {
        let plain = TokenPlain::parse(opened.plain()).ok().filter(|p| p.purpose == Purpose::Service)?;
        Some(Self {
            account: AccountId::of(plain.account),
            device: plain.device,
            rights: plain.rights,
            issued: plain.issued,
            expiry: plain.expiry,
            secret: opened.secret().clone(),
            key,
        })
    }
}

impl From<Connect<'_>> for Wish {
    fn from(connect: Connect<'_>) -> Self {
        let mut identifiers = [[0; 8]; MAX_DEVICE_IDENTIFIERS];
        for (to, from) in identifiers.iter_mut().zip(device_identifiers(connect.identifiers)) {
            *to = from;
        }
        Self {
            connect_serial: connect.connect_serial,
            identifiers,
            epoch: connect.epoch,
            position: connect.position,
            filter: connect.filter,
            covered: connect.covered,
            packet_size: connect.packet_size,
            interval: connect.interval,
        }
    }
}
