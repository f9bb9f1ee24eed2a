//! Data packets of connected devices.

use core::time::Duration;

use super::limits::Rate;
use super::outbox::Say;
use super::record::{MAX_DEVICE_IDENTIFIERS, State, flag};
use super::refusal::Refusal;
use super::timers::tenths;
use super::web::Item;
use super::{CloseReason, Route, Service};
use crate::channel::{CollapseKey, DEFAULT_TTL, Event, EventError, Urgency};
use crate::crypto::{ConnectionId, PacketKeys, open_header, open_packet, seal_packet};
use crate::ids::{AccountId, Epoch, RequestId, Serial};
use crate::path::{Datagram, Disposition, DropReason, Path};
use crate::rud::flight::MAX_TIMEOUTS;
use crate::rud::replay::{Seen, nearest};
use crate::time::Instant;
use crate::wheel::tick_floor;
use crate::wire::{
    Code, Direction, ENDPOINT_REQUEST, EndpointRequest, HEADER, Header, Heartbeat, MIN_PACKET, Message,
    PROBE_REQUEST, PacketExtension, Plaintext, Post, ProbeRequest, RESET_SIZE, RESET_TOKEN,
    SERVICE_IDENTIFIER, Subscribe, device_identifiers, parse_plaintext, reset_packet,
};

/// Heartbeats that are answered though the limit on requests is exhausted.
const HEARTBEATS: u32 = 10;

impl Service {
    /// A packet that has the form of a data packet.
    pub(super) fn handle_data(&mut self, now: Instant, datagram: Datagram<'_>) -> Disposition {
        let Datagram { path, payload } = datagram;
        let size = payload.len();
        let Some((identifier, rest)) = payload.split_first_chunk::<SERVICE_IDENTIFIER>() else {
            return Disposition::NotForUs;
        };
        let Some(header) = rest.first_chunk::<HEADER>() else { return Disposition::NotForUs };
        let Some(id) = self.identifiers.open(identifier) else {
            return Disposition::Dropped(DropReason::ForeignIdentifier);
        };
        match self.layout.route(id) {
            Route::Shard(shard) if shard != self.shard => return Disposition::OtherShard(shard),
            Route::Node(node) => return Disposition::OtherNode(node),
            _ if id.slot >= self.table.hot.capacity() => {
                return Disposition::Dropped(DropReason::ForeignIdentifier);
            }
            _ => {}
        }
        if !self.is_current(id) {
            let identifier = *identifier;
            self.reset(now, path, &identifier);
            return Disposition::Dropped(DropReason::StaleIdentifier);
        }
        let slot = id.slot;
        if self.outbox.is_full() {
            return Disposition::Dropped(DropReason::Capacity);
        }
        let block = open_header(&self.table.seal[slot].header, header);
        let header = Header::decode(block);
        let opened = open_packet(
            &self.table.open[slot].key,
            &self.table.ids[slot].open_iv,
            payload,
            SERVICE_IDENTIFIER,
            &block,
            header.nonce_input(),
        );
        let Ok(range) = opened else { return Disposition::Dropped(DropReason::Unauthentic) };
        // A copy that was carried to another transport does nothing. It is put back as it was.
        if header.web != path.is_web() {
            let keys = PacketKeys {
                key: &self.table.open[slot].key,
                iv: &self.table.ids[slot].open_iv,
                header: &self.table.seal[slot].header,
            };
            seal_packet(&keys, payload, SERVICE_IDENTIFIER, block, header.nonce_input());
            return Disposition::Dropped(DropReason::OtherTransport);
        }
        if path.is_web() {
            self.web.begin(slot);
        }
        let plaintext = payload.get(range).unwrap_or_default();
        let from = From { path, size, unheard: 0 };
        self.handle_authentic(now, &from, slot, &header, plaintext);
        Disposition::Accepted
    }

    /// Whether an identifier belongs to a connection that is there.
    fn is_current(&self, id: ConnectionId) -> bool {
        let shard = id.shard == self.shard.0;
        self.table.hot.get(id.slot).filter(|_| shard).is_some_and(|hot| {
            hot.generation == id.generation && !matches!(hot.state, State::Free | State::Ended)
        })
    }

    /// Tells the holder of an identifier that its connection is gone. Forty bytes, less than any packet that causes
    /// it, and never an answer to itself. Paced by the bucket of the exchanges that resets lead to, and with what these
    /// leave over.
    fn reset(&mut self, now: Instant, path: Path, identifier: &[u8; SERVICE_IDENTIFIER]) {
        if self.outbox.is_full() || !self.admission.may_reset(now) {
            self.stats.resets_withheld += 1;
            return;
        }
        let random = self.rng.array::<{ RESET_SIZE - RESET_TOKEN }>();
        let packet = reset_packet(&random, &self.identifiers.reset_token(identifier));
        self.send_small(path, &packet);
        self.stats.resets += 1;
    }

    fn handle_authentic(&mut self, now: Instant, from: &From, slot: u32, header: &Header, plaintext: &[u8]) {
        if self.table.hot[slot].state == State::Closing {
            return self.answer_closing(now, slot);
        }
        let (Ok(()), Ok(plaintext)) =
            (header.valid(Direction::ToResponder), parse_plaintext(plaintext, Direction::ToResponder))
        else {
            return self.bad_request(now, slot);
        };
        let window = &mut self.table.open[slot].window;
        let seen = window.observe(header.number);
        let newest = window.highest() == Some(header.number);
        if from.path.is_web() {
            self.web.judged(seen, newest);
        }
        let silent_since = self.table.heard(slot, now);
        // What comes from another socket of the device says nothing about whether its path still leads to it.
        let aside = is_probe(plaintext.fragment) && !self.table.is_path(slot, &from.path);
        let missed = self.missed(slot);
        if seen == Seen::New {
            if !aside {
                self.heard(now, slot);
            }
            if self.table.hot[slot].state == State::HalfOpen {
                self.confirm(now, slot);
                // Whoever waits for the confirmation is told at once.
                self.web.is_urgent();
            }
            if self.is_worn_out(slot, header.number) && self.table.hot[slot].is_live() {
                return self.close_record(now, slot, CloseReason::ByService(Code::TIMEOUT));
            }
        } else {
            self.stats.duplicates += 1;
        }
        if !self.table.hot[slot].is_live() {
            return;
        }
        if seen != Seen::TooOld
            && let Some(ack) = header.ack
        {
            let sent = u64::from(self.table.ids[slot].next_number);
            match sent.checked_sub(1).map(|highest| nearest(highest, ack.number_low)) {
                Some(number) if number < sent => self.acknowledged(now, slot, number, ack.bitmap),
                _ => return self.bad_request(now, slot),
            }
            // What was acknowledged may have shown that the connection has to be made anew.
            if !self.table.hot[slot].is_live() {
                return;
            }
        }
        // The acknowledgement may have shown that the path does not carry large packets any more, which ends the
        // connection: what else the packet says is said to nobody.
        if !self.table.hot[slot].is_live() {
            return;
        }
        // The one extension that counts in a duplicate too: whoever copies an answer must not take its place.
        if seen != Seen::TooOld {
            for extension in plaintext.extensions {
                if let PacketExtension::PathResponse(response) = extension {
                    self.path_response(now, slot, from.path, response);
                    self.small_arrived(now, slot, response);
                }
            }
        }
        // A path that has become too narrow ends the connection.
        if seen != Seen::New || !self.table.hot[slot].is_live() {
            return;
        }
        if newest && !is_probe(plaintext.fragment) {
            if from.path.is_web() {
                self.come_by_web(slot, from.path);
            } else if !self.table.is_path(slot, &from.path) {
                self.suggest(now, slot, from.path, from.size);
            }
        }
        let from = From { unheard: missed + self.timeouts(slot), ..*from };
        self.handle_content(now, &from, slot, &plaintext, newest);
        // By Web what it is owed goes into the answer.
        if self.table.hot[slot].is_live() && !aside && !self.is_web(slot) {
            self.reached(now, slot, silent_since);
        }
    }

    /// Questions that the device has not answered since it was last heard, and a Notify that was given up.
    fn missed(&self, slot: u32) -> u32 {
        let hot = &self.table.hot[slot];
        let asked = match hot.state {
            State::Overdue1 => 1,
            State::Overdue2 => 2,
            _ => 0,
        };
        asked + if hot.has(flag::SILENT) { u32::from(MAX_TIMEOUTS) } else { 0 }
    }

    /// How often in a row nothing came back for the Notify in flight, though it had the time to.
    fn timeouts(&self, slot: u32) -> u32 {
        let sending = self.sendings.get(self.table.hot[slot].sending);
        sending.map_or(0, |sending| u32::from(sending.flight().timeouts()))
    }

    /// The device is there.
    fn heard(&mut self, now: Instant, slot: u32) {
        let hot = &mut self.table.hot[slot];
        hot.heard = tick_floor(now);
        hot.clear(flag::SILENT);
        if matches!(hot.state, State::Overdue1 | State::Overdue2) {
            hot.state = State::Connected;
            let due = now + self.lease(slot);
            self.schedule(slot, due, now);
        }
    }

    /// Whatever comes to a closed connection is answered with the same Close, at most once a second.
    fn answer_closing(&mut self, now: Instant, slot: u32) {
        if now.since(self.table.heard(slot, now)) >= Duration::from_secs(1) {
            self.table.hot[slot].heard = tick_floor(now);
            self.farewell(slot);
        }
    }

    fn bad_request(&mut self, now: Instant, slot: u32) {
        self.close_record(now, slot, CloseReason::ByService(Code::BAD_REQUEST));
    }

    fn handle_content(
        &mut self,
        now: Instant,
        from: &From,
        slot: u32,
        plaintext: &Plaintext<'_>,
        newest: bool,
    ) {
        for extension in plaintext.extensions {
            match extension {
                PacketExtension::Close(_) => return self.close_record(now, slot, CloseReason::ByDevice),
                PacketExtension::Identifiers(bytes) => {
                    let kept = &mut self.table.ids[slot].device;
                    let free = kept.iter_mut().filter(|kept| **kept == [0; 8]);
                    free.zip(device_identifiers(bytes)).for_each(|(to, from)| *to = from);
                }
                // Read before; and only a service asks whether a path is there.
                PacketExtension::PathChallenge(_) | PacketExtension::PathResponse(_) => {}
            }
        }
        if plaintext.fragment.is_empty() {
            return;
        }
        let Ok(message) = Message::parse(plaintext.fragment) else { return self.bad_request(now, slot) };
        if let Some(request) = message.request()
            && let Some(refusal) = self.over_limit(now, slot, matches!(message, Message::Heartbeat(_)))
        {
            return self.fail(slot, from, request, refusal);
        }
        match message {
            Message::Heartbeat(heartbeat) => self.handle_heartbeat(now, slot, from, &heartbeat, newest),
            Message::Acknowledge(acknowledge) => self.set_position(slot, acknowledge.position),
            Message::Subscribe(subscribe) => self.handle_subscribe(slot, from, &subscribe),
            Message::Post(post) => self.handle_post(now, slot, from, &post),
            Message::TicketRequest(ask) => self.handle_ticket_request(now, slot, &ask),
            Message::EndpointRequest(EndpointRequest { request })
            | Message::ProbeRequest(ProbeRequest { request, .. })
                if from.path.is_web() =>
            {
                self.fail(slot, from, request, Refusal::NotByWeb);
            }
            Message::EndpointRequest(ask) => {
                let From { path, size, .. } = *from;
                self.say_to(slot, path, Say::Endpoint { request: ask.request, path, size });
            }
            Message::ProbeRequest(ask) => self.handle_probe(now, slot, from, &ask),
            Message::Unknown { request: Some(request), .. } => {
                self.fail(slot, from, request, Refusal::UnknownMessage);
            }
            Message::Unknown { request: None, .. } => {}
            _ => self.bad_request(now, slot),
        }
    }

    /// Says something on the active path.
    pub(super) fn say(&mut self, slot: u32, say: Say) {
        let hot = &self.table.hot[slot];
        if hot.is_web() {
            self.say_by_web(slot, Item::Say(say));
        } else {
            self.outbox.say(slot, hot.generation, None, say);
        }
    }

    /// Says something on another path.
    pub(super) fn say_to(&mut self, slot: u32, path: Path, say: Say) {
        let generation = self.table.hot[slot].generation;
        self.outbox.say(slot, generation, Some(path), say);
    }

    /// Answers a packet: on the active path, and to where it came from while that is being validated.
    pub(super) fn answer_to(&mut self, slot: u32, from: &From, say: Say) {
        self.say(slot, say);
        if let Some(path) = self.also_to(slot, &from.path) {
            self.say_to(slot, path, say);
        }
    }

    /// Why a request is not dealt with, if there were too many of them in this connection. What is left at the end is
    /// for heartbeats: a device that asks too much is told so, not lost.
    fn over_limit(&mut self, now: Instant, slot: u32, is_heartbeat: bool) -> Option<Refusal> {
        let rate = self.config.requests;
        let with_reserve = Rate::new(rate.per_second, rate.burst.saturating_add(HEARTBEATS));
        let reserve = if is_heartbeat { 0 } else { HEARTBEATS };
        let bucket = &mut self.table.ids[slot].requests;
        if bucket.take(now, with_reserve, reserve) {
            return None;
        }
        let retry_after = bucket.wait(now, with_reserve, reserve);
        Some(Refusal::Requests { rate, retry_after })
    }

    pub(super) fn fail(&mut self, slot: u32, from: &From, request: RequestId, refusal: Refusal) {
        self.answer_to(slot, from, Say::Failed { request, refusal });
        self.stats.count_refusal(refusal.reason());
    }

    fn handle_heartbeat(
        &mut self,
        now: Instant,
        slot: u32,
        from: &From,
        heartbeat: &Heartbeat,
        newest: bool,
    ) {
        self.set_position(slot, heartbeat.position);
        let told = self.table.ids[slot].told;
        let account = self.table.owner[slot].account;
        let channel = self.accounts.log(account).newest();
        // The device's own mark is the truth. Only the newest packet's counts: an older one is older news. What it was
        // not told because there was nothing to say its mark does not hold.
        if newest && heartbeat.mark < told {
            let said = self.accounts.log(account).last_said(&self.listener(slot), now, told);
            if heartbeat.mark < said {
                self.drop_sending(slot);
                self.table.ids[slot].told = heartbeat.mark;
                let books = &mut self.accounts.books;
                books.owed = books.owed.wrapping_add(told.0 - heartbeat.mark.0);
            }
        } else if heartbeat.mark > told && heartbeat.mark <= channel {
            let books = &mut self.accounts.books;
            books.confirmed = books.confirmed.wrapping_add(heartbeat.mark.0 - told.0);
            self.told(slot, heartbeat.mark);
        }
        if from.size >= MIN_PACKET && !from.path.is_web() {
            self.changed_network(slot, &from.path);
        }
        let granted = self.granted(heartbeat.interval);
        self.table.owner[slot].interval = granted;
        let granted = (granted != tenths(heartbeat.interval)).then_some(granted);
        if from.path.is_web() && self.status_by_web(slot, heartbeat.request, granted) {
            return;
        }
        let say = Say::Status {
            request: Some(heartbeat.request),
            seen: from.path.remote,
            unheard: from.unheard,
            granted,
        };
        self.answer_to(slot, from, say);
    }

    fn set_position(&mut self, slot: u32, position: Serial) {
        let newest = self.accounts.log(self.table.owner[slot].account).newest();
        let open = &mut self.table.open[slot];
        if position <= open.position || position > newest {
            return;
        }
        open.position = position;
        let hot = &mut self.table.hot[slot];
        if !hot.has(flag::POSITION) {
            hot.set(flag::POSITION);
            self.positions.push_back(slot);
        }
    }

    fn handle_subscribe(&mut self, slot: u32, from: &From, subscribe: &Subscribe) {
        let owner = &mut self.table.owner[slot];
        let account = owner.account;
        if subscribe.request.0 > owner.applied {
            owner.applied = subscribe.request.0;
            if owner.filter != subscribe.filter {
                owner.filter = subscribe.filter;
                // What is in flight was chosen by the old filter.
                self.drop_sending(slot);
            }
        } else if subscribe.request.0 < owner.applied {
            // A newer one has been applied; this one's answer does not matter any more.
            return;
        }
        let log = self.accounts.log(account);
        let known = subscribe.epoch == self.accounts.get(account).epoch || subscribe.epoch == Epoch::NONE;
        let lost = if known {
            log.lost(subscribe.position, subscribe.filter, subscribe.covered)
        } else {
            subscribe.filter
        };
        let newest = log.newest();
        self.answer_to(slot, from, Say::Subscribed { request: subscribe.request, newest, lost });
    }
}

/// Where a packet came from, and how large it was.
#[derive(Clone, Copy, Debug)]
pub(super) struct From {
    pub(super) path: Path,
    size: usize,
    /// What was sent to the device before this packet came, and neither acknowledged nor still on its way.
    unheard: u32,
}

/// Whether a message only asks about the path it comes from, which need not be the connection's.
fn is_probe(fragment: &[u8]) -> bool {
    fragment.first().is_some_and(|ty| matches!(*ty, ENDPOINT_REQUEST | PROBE_REQUEST))
}

/// The event in a Post from `poster` (if that is another account), if it keeps the limits.
pub(super) fn event_of(post: &Post<'_>, poster: Option<AccountId>) -> Result<Event, EventError> {
    let event = Event {
        store: post.store,
        payload: post.payload.map(bytes::Bytes::copy_from_slice),
        ttl: post.ttl.unwrap_or(DEFAULT_TTL),
        urgency: match post.urgency {
            0 => Urgency::Low,
            1 => Urgency::Normal,
            _ => Urgency::High,
        },
        key: match post.key {
            Some(key) => Some(CollapseKey::new(key)?),
            None => None,
        },
        poster,
    };
    event.check().map(|()| event)
}

const _: () = assert!(MAX_DEVICE_IDENTIFIERS * 8 <= 24);
