//! How long a network remembers a socket that is silent (SPEC.md, "Learned keepalive").

use core::time::Duration;

use super::fields::{FieldWriter, Fields, given, tag};
use super::message::ty;
use super::{Emit, Parsed, Sink};
use crate::ids::RequestId;

/// Bytes of the echo in an EndpointResponse.
pub(crate) const ECHO: usize = 16;

/// Asks for an answer that comes late.
#[derive(Clone, Copy)]
#[cfg_attr(test, derive(Debug, PartialEq))]
pub(crate) struct ProbeRequest {
    /// Mandatory.
    pub(crate) request: RequestId,
    /// Mandatory: how long after this packet the answer is sent.
    pub(crate) silence: Duration,
    /// Mandatory: what an EndpointResponse to the same socket brought.
    pub(crate) echo: [u8; ECHO],
}

/// The answer to [`ProbeRequest`], if it still gets through.
#[derive(Clone, Copy)]
#[cfg_attr(test, derive(Debug, PartialEq))]
pub(crate) struct ProbeAnswer {
    /// Mandatory.
    pub(crate) request: RequestId,
}

impl ProbeRequest {
    pub(super) fn from_fields(f: &Fields<'_>) -> Parsed<Self> {
        Ok(Self { request: given(f.request)?, silence: given(f.silence)?, echo: given(f.echo)? })
    }
}

impl Emit for ProbeRequest {
    fn emit<S: Sink>(&self, sink: &mut S) {
        let mut w = FieldWriter::new(sink, ty::PROBE_REQUEST);
        w.request(self.request);
        w.duration(tag::SILENCE, self.silence);
        w.bytes(tag::ECHO, &self.echo);
        w.end();
    }
}

impl ProbeAnswer {
    pub(super) fn from_fields(f: &Fields<'_>) -> Parsed<Self> {
        Ok(Self { request: given(f.request)? })
    }
}

impl Emit for ProbeAnswer {
    fn emit<S: Sink>(&self, sink: &mut S) {
        let mut w = FieldWriter::new(sink, ty::PROBE_ANSWER);
        w.request(self.request);
        w.end();
    }
}
