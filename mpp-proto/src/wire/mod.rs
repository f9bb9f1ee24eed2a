//! Every byte layout of the profile: parse and emit, no state and no cryptography (SPEC.md, "Layouts").
//!
//! Parsers are total: any bytes give a value or [`Malformed`], never a panic, in time linear in their number and
//! without allocation. What they return borrows from the packet. Emitters write to any [`Sink`], so that a length
//! can be counted, a fragment cut out of a large message or a buffer filled by the same code.
//!
//! The types here derive `Debug` in tests only: they hold payloads, tokens and reset tokens, and what has no `Debug`
//! cannot end up in a log.
// Until the floors above use everything.
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects,
        clippy::panic
    )
)]

mod classify;
mod code;
mod endpoint;
mod exchange;
mod ext;
mod fields;
mod header;
mod message;
mod notify;
mod plaintext;
mod probe;
mod reader;
mod renewal;
mod sink;
mod ticket;
mod token;
mod varint;
mod web;

#[cfg(test)]
mod tests;

pub use code::Code;
pub use endpoint::{Endpoint, EndpointError};
pub use ticket::{Ticket, TicketError};

pub(crate) use classify::{
    Kind, STUN_COOKIE, classify_service, is_ambiguous_identifier, is_binding_head, is_binding_request,
    reset_packet, reset_token,
};
pub(crate) use exchange::{
    Answer, AnswerKind, Step1, Step1Clear, Step1Error, emit_answer, read_sealed, write_sealed,
};
pub(crate) use ext::{ExtensionList, Items};
pub(crate) use header::{Ack, Direction, Header};
pub(crate) use message::ty::{ENDPOINT_REQUEST, PROBE_REQUEST, TICKET_RESPONSE};
pub(crate) use message::{
    Acknowledge, Connect, ConnectResponse, EndpointRequest, EndpointResponse, ErrorBody, Failure, Heartbeat,
    Message, Post, Posted, Subscribe, Subscribed,
};
pub(crate) use notify::{EventRef, Events, Notify, Status, StoreStatuses};
pub(crate) use plaintext::{
    Close, PacketExtension, Plaintext, device_identifiers, emit_plaintext_head, parse_plaintext,
    service_identifiers,
};
pub(crate) use probe::{ECHO, ProbeAnswer, ProbeRequest};
pub(crate) use reader::Reader;
pub(crate) use renewal::{TicketRequest, TicketResponse};
pub(crate) use sink::{Emit, LenSink, Overflow, Sink, SliceSink};
pub(crate) use token::{Purpose, TokenPlain};
pub(crate) use varint::{VARINT_MAX, put_varint, varint_len};
#[cfg(feature = "fuzzing")]
pub(crate) use web::next_web_packet;
pub(crate) use web::{each_web_packet, put_web_packet};

/// The version of the profile, as step 1 and the ticket name it.
pub(crate) const VERSION: u8 = 1;
/// The UDP port of a service whose endpoint names none.
pub(crate) const DEFAULT_PORT: u16 = 15_096;
/// The TCP port of a service's Web Service, if the ticket names none.
pub(crate) const DEFAULT_WEB_PORT: u16 = 15_097;

/// The smallest packet size a connection may agree on, in bytes of UDP payload; also the least size of a step 1.
pub(crate) const MIN_PACKET: usize = 1200;
/// The largest UDP payload of the protocol, in bytes.
pub(crate) const MAX_PACKET: usize = 1452;

/// Panics unless a packet of any size fits: hosts give such a buffer once and for all.
#[track_caller]
pub(crate) fn check_room(out: &[u8]) {
    assert!(out.len() >= MAX_PACKET, "the buffer has {} bytes, a packet may have {MAX_PACKET}", out.len());
}

/// The most packets a datagram can have.
pub(crate) const MAX_PACKETS: usize = 16;

/// A stream identifier issued by a service: the first bytes of a packet to it.
pub(crate) const SERVICE_IDENTIFIER: usize = 16;
/// A stream identifier issued by a device: the first bytes of a packet to it.
pub(crate) const DEVICE_IDENTIFIER: usize = 8;
/// The encrypted header block.
pub(crate) const HEADER: usize = 16;
/// The authentication tag of AES-256-GCM.
pub(crate) const AEAD_TAG: usize = 16;
/// A stateless reset token, issued together with each service identifier.
pub(crate) const RESET_TOKEN: usize = 16;
/// Exactly this long is a reset packet. No data packet has this size: see [`MIN_DATA_TO_DEVICE`].
pub(crate) const RESET_SIZE: usize = 40;
/// The smallest data packet to a service: identifier, header, `ff 00`, tag.
pub(crate) const MIN_DATA_TO_SERVICE: usize = 50;
/// The smallest data packet to a device.
pub(crate) const MIN_DATA_TO_DEVICE: usize = 42;

/// The largest payload of an event, in bytes: one event always fits one Notify of 16 packets.
pub const MAX_PAYLOAD: usize = 16_384;
/// The longest collapse key, in bytes; the shortest is 1.
pub const MAX_KEY: usize = 32;
/// The longest account name, in bytes of UTF-8; the shortest is 1.
pub(crate) const MAX_ACCOUNT: usize = 128;
/// The highest connect serial. At this one the later exchange wins, for there is none above it.
pub(crate) const MAX_CONNECT_SERIAL: u64 = (1 << 47) - 1;
/// The longest explanation in a Failure, an Error or a Close, in bytes of UTF-8.
pub(crate) const MAX_DETAIL: usize = 128;
/// The longest token, in bytes; the shortest is 1.
pub(crate) const MAX_TOKEN: usize = 256;

/// The largest fragment of a packet of `packet_size` bytes that carries no extensions and starts with an identifier
/// of `identifier` bytes: what remains beside identifier, header, tag, the 255 that ends the empty extension list and
/// two bytes of fragment length.
pub(crate) const fn fragment_capacity(packet_size: usize, identifier: usize) -> usize {
    packet_size.saturating_sub(identifier).saturating_sub(HEADER + AEAD_TAG + 1 + 2)
}

// The figures of SPEC.md, "Sizes".
const _: () = assert!(fragment_capacity(MIN_PACKET, DEVICE_IDENTIFIER) == MIN_PACKET - 43);
const _: () = assert!(fragment_capacity(MIN_PACKET, DEVICE_IDENTIFIER) * MAX_PACKETS == 18_512);
const _: () = assert!(fragment_capacity(MIN_PACKET, SERVICE_IDENTIFIER) == 1_149);
const _: () = assert!(MIN_DATA_TO_SERVICE == SERVICE_IDENTIFIER + HEADER + 2 + AEAD_TAG);
const _: () = assert!(MIN_DATA_TO_DEVICE == DEVICE_IDENTIFIER + HEADER + 2 + AEAD_TAG);

/// The bytes break a rule of their layout. What follows depends on who sent them: silence if that is not known,
/// Close 400 if they were authentic (SPEC.md, "Layouts").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Malformed;

/// What a parser returns.
pub(crate) type Parsed<T> = Result<T, Malformed>;
