//! What keeps the keys of connections and tickets fresh (SPEC.md, "Renewal" and "Keys and their lifetimes").

use alloc::vec::Vec;
use core::time::Duration;

use zeroize::Zeroizing;

use super::Service;
use super::exchange::{Holder, MAX_SKEW};
use super::outbox::Say;
use super::record::FORWARD_SECRET;
use super::refusal::Refusal;
use super::web::Item;
use crate::crypto::TicketKey;
use crate::time::{Instant, UnixTime};
use crate::wire::{Direction, Emit, Header, MAX_PACKET, TicketRequest, TicketResponse, TokenPlain};

/// A ticket is old a day after it was issued, or after two thirds of its life.
const DAY: Duration = Duration::from_secs(24 * 3600);
/// Datagram numbers of a direction, at most and at least.
const PACKET_LIMITS: (u32, u32) = (128, 1 << 23);

impl Service {
    /// Whether a connection has to end before its numbers go on: the device should have agreed on new keys long ago.
    pub(super) fn is_worn_out(&self, slot: u32, number: u64) -> bool {
        let limit = u64::from(self.config.packet_limit.clamp(PACKET_LIMITS.0, PACKET_LIMITS.1));
        number.max(u64::from(self.table.ids[slot].next_number)) >= limit
    }

    /// Whether the holder of a ticket should be given another one.
    pub(super) fn is_old(&self, unix: UnixTime, holder: &Holder) -> bool {
        let age = unix.since(holder.issued);
        let life = holder.expiry.since(holder.issued);
        let first = self.ticket_keys.first().map(TicketKey::id);
        self.config.renew_tickets && (first != Some(holder.key) || age > DAY || age > life / 3 * 2)
    }

    /// A device asks for another ticket.
    pub(super) fn handle_ticket_request(&mut self, now: Instant, slot: u32, ask: &TicketRequest<'_>) {
        let request = ask.request;
        match self.renewed(now, slot, ask.token) {
            Ok(made) => {
                self.stats.renewed += 1;
                let Made { token, secret, expiry } = &made;
                self.answer_now(slot, &TicketResponse { request, token, secret, expiry: *expiry });
            }
            Err(detail) => {
                let refusal = Refusal::NoTicket(detail);
                self.say(slot, Say::Failed { request, refusal });
                self.stats.count_refusal(refusal.reason());
            }
        }
    }

    /// Makes a ticket of the same account, device, rights and length of life, or says why not.
    fn renewed(&mut self, now: Instant, slot: u32, token: &[u8]) -> Result<Made, &'static str> {
        if !self.config.renew_tickets {
            return Err("this service renews no tickets");
        }
        let owner = &self.table.owner[slot];
        // Whoever has the old secret would read the new one in a recording.
        if owner.rights & FORWARD_SECRET == 0 {
            return Err("the keys of this connection hold no X25519 result");
        }
        let unix = self.calendar.unix(now);
        let holder = self.holder(token).map_err(|_| "no key of this service opens the token")?;
        if holder.account != self.accounts.get(owner.account).id || holder.device != owner.device {
            return Err("the token belongs to another device");
        }
        if holder.expiry <= unix {
            return Err("the ticket has expired");
        }
        if holder.issued > unix + MAX_SKEW
            || self.revocations.contains(&holder.account, &holder.device, holder.issued)
        {
            return Err("the ticket is not accepted any more");
        }
        self.make(unix, &holder, token).ok_or("no ticket can be made of this one")
    }

    fn make(&mut self, unix: UnixTime, holder: &Holder, token: &[u8]) -> Option<Made> {
        let old = self.ticket_keys.iter().find(|k| k.id() == holder.key)?.open(token).ok()?;
        let expiry = unix + holder.expiry.since(holder.issued);
        let plain = TokenPlain { issued: unix, expiry, ..TokenPlain::parse(old.plain()).ok()? };
        let mut bytes = Vec::new();
        plain.emit(&mut bytes);
        let (token, secret) = self.ticket_keys.first()?.seal(&bytes, &self.rng.array()).ok()?;
        Some(Made { token: token.as_bytes().into(), secret: Zeroizing::new(*secret.expose()), expiry })
    }

    /// Answers on the connection's path with a packet that is sealed at once, so that nothing secret waits in a queue.
    fn answer_now(&mut self, slot: u32, message: &impl Emit) {
        let number = self.table.take_number(slot);
        let path = self.table.path(slot);
        let header = Header { web: path.is_web(), ..Header::single(number, Direction::ToInitiator) };
        let mut room = [0; MAX_PACKET];
        let to = (slot, self.table.ids[slot].device[0]);
        let len = self.table.seal_message(to, &header, &[], message, &mut room);
        if path.is_web() {
            self.say_by_web(slot, Item::Sealed(room[..len].into()));
        } else {
            self.outbox.large(path, room[..len].into());
        }
    }
}

/// A new ticket: what is different from the old one.
struct Made {
    token: Vec<u8>,
    secret: Zeroizing<[u8; 32]>,
    expiry: UnixTime,
}
