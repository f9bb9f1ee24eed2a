//! The tickets of a device: the one its host gave, and the newest one that the service has given for it since
//! (SPEC.md, "Renewal").

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;

use crate::crypto::{Secret, sha256};
use crate::time::UnixTime;
use crate::wire::{Ticket, TicketResponse};

/// What the service gave: what is different from the ticket it was given for.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Renewed {
    /// For which account and device.
    pub(super) holder: [u8; 16],
    pub(super) token: Vec<u8>,
    pub(super) secret: Secret,
    pub(super) expiry: UnixTime,
}

impl Renewed {
    /// The ticket that it makes of `ticket`, if it belongs to the same device.
    fn applied_to(&self, ticket: &Ticket) -> Option<Ticket> {
        let renewed = ticket.renewed(&self.token, self.secret.expose(), self.expiry);
        renewed.ok().filter(|_| self.holder == holder(ticket))
    }
}

impl fmt::Debug for Renewed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Renewed").field("expiry", &self.expiry).finish_non_exhaustive()
    }
}

/// A name of account and device.
fn holder(ticket: &Ticket) -> [u8; 16] {
    let digest = sha256(&[b"mpp1 holder", &ticket.device().0, ticket.account().as_bytes()]);
    let mut holder = [0; 16];
    holder.copy_from_slice(&digest[..16]);
    holder
}

/// The tickets.
pub(super) struct Tickets {
    given: Ticket,
    renewed: Option<(Arc<Renewed>, Ticket)>,
    /// Which of them is in use.
    uses_given: bool,
    /// Which have been refused since one was accepted.
    refused: Refused,
}

#[derive(Clone, Copy, Debug, Default)]
struct Refused {
    given: bool,
    renewed: bool,
}

/// What there is to do about a ticket that was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Resort {
    /// The other one, of which nothing is known yet.
    Other,
    /// The other one, of which only is known that nobody answers; this one was refused before.
    OtherAgain,
    /// There is none that was not refused.
    None,
}

impl Tickets {
    /// The host's ticket, and what was kept across a restart. The one that ends later is tried first.
    pub(super) fn new(given: Ticket, kept: Option<Arc<Renewed>>) -> Self {
        let renewed = kept.and_then(|kept| kept.applied_to(&given).map(|ticket| (kept, ticket)));
        let uses_given = renewed.as_ref().is_none_or(|(_, ticket)| ticket.expiry() <= given.expiry());
        Self { given, renewed, uses_given, refused: Refused::default() }
    }

    /// The one in use.
    pub(super) const fn current(&self) -> &Ticket {
        match &self.renewed {
            Some((_, ticket)) if !self.uses_given => ticket,
            _ => &self.given,
        }
    }

    /// The host has another one, and knows why.
    pub(super) fn give(&mut self, ticket: Ticket) {
        *self = Self::new(ticket, None);
    }

    /// The service has given another one. False if no ticket can be made of it.
    pub(super) fn take(&mut self, response: &TicketResponse<'_>) -> bool {
        let renewed = Renewed {
            holder: holder(&self.given),
            token: response.token.into(),
            secret: Secret::new(*response.secret),
            expiry: response.expiry,
        };
        let Some(ticket) = renewed.applied_to(&self.given) else { return false };
        self.renewed = Some((Arc::new(renewed), ticket));
        (self.uses_given, self.refused) = (false, Refused::default());
        true
    }

    /// The one in use was refused by somebody who proved to be the service. The other one is next.
    pub(super) fn refused(&mut self) -> Resort {
        let Refused { given, renewed } = &mut self.refused;
        let (this, other) = if self.uses_given { (given, *renewed) } else { (renewed, *given) };
        let again = core::mem::replace(this, true);
        self.turn();
        match (self.renewed.is_some() && !other, again) {
            (true, false) => Resort::Other,
            (true, true) => Resort::OtherAgain,
            (false, _) => Resort::None,
        }
    }

    /// Nobody answered. A service that lacks the key of a ticket cannot prove that it is the service, so it may have
    /// been that.
    pub(super) fn turn(&mut self) {
        self.uses_given = self.renewed.is_none() || !self.uses_given;
    }

    /// The one in use was accepted. The newest is tried first next time, unless it is the one that was refused.
    pub(super) fn accepted(&mut self) {
        let Refused { renewed, .. } = core::mem::take(&mut self.refused);
        if self.uses_given && renewed {
            self.renewed = None;
        }
        self.uses_given = self.renewed.is_none();
    }

    /// What to keep across a restart.
    pub(super) fn kept(&self) -> Option<Arc<Renewed>> {
        self.renewed.as_ref().map(|(kept, _)| Arc::clone(kept))
    }
}
