//! Another ticket for an old one (SPEC.md, "Renewal").

use super::fields::{FieldWriter, Fields, given, tag};
use super::message::ty;
use super::{Emit, Parsed, Sink};
use crate::ids::RequestId;
use crate::time::UnixTime;

/// Asks for another ticket.
#[derive(Clone, Copy)]
#[cfg_attr(test, derive(Debug, PartialEq))]
pub(crate) struct TicketRequest<'a> {
    /// Mandatory.
    pub(crate) request: RequestId,
    /// Mandatory: the token of the ticket that the device has.
    pub(crate) token: &'a [u8],
}

/// The answer to [`TicketRequest`]: what is different in the new ticket.
#[derive(Clone, Copy)]
#[cfg_attr(test, derive(PartialEq))]
pub(crate) struct TicketResponse<'a> {
    /// Mandatory.
    pub(crate) request: RequestId,
    /// Mandatory.
    pub(crate) token: &'a [u8],
    /// Mandatory.
    pub(crate) secret: &'a [u8; 32],
    /// Mandatory.
    pub(crate) expiry: UnixTime,
}

#[cfg(test)]
impl core::fmt::Debug for TicketResponse<'_> {
    // Not the secret, in a test's output either.
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("TicketResponse").field("request", &self.request).finish_non_exhaustive()
    }
}

impl<'a> TicketRequest<'a> {
    pub(super) fn from_fields(f: &Fields<'a>) -> Parsed<Self> {
        Ok(Self { request: given(f.request)?, token: given(f.token)? })
    }
}

impl<'a> TicketResponse<'a> {
    pub(super) fn from_fields(f: &Fields<'a>) -> Parsed<Self> {
        let (request, token) = (given(f.request)?, given(f.token)?);
        Ok(Self { request, token, secret: given(f.secret)?, expiry: given(f.expiry)? })
    }
}

impl Emit for TicketRequest<'_> {
    fn emit<S: Sink>(&self, sink: &mut S) {
        let mut w = FieldWriter::new(sink, ty::TICKET_REQUEST);
        w.request(self.request);
        w.bytes(tag::TOKEN, self.token);
        w.end();
    }
}

impl Emit for TicketResponse<'_> {
    fn emit<S: Sink>(&self, sink: &mut S) {
        let mut w = FieldWriter::new(sink, ty::TICKET_RESPONSE);
        w.request(self.request);
        w.bytes(tag::TOKEN, self.token);
        w.bytes(tag::SECRET, self.secret);
        w.time(tag::EXPIRY, self.expiry);
        w.end();
    }
}
