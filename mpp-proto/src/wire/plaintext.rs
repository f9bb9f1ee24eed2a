//! What is inside the seal of a data packet (SPEC.md, "Data packets"): extensions of the packet, a fragment of its
//! datagram, padding.

use core::time::Duration;

use super::ext::{Seen, array_value, put_end, put_item, put_item_head};
use super::fields::{as_millis, check_identifiers, text, truncated};
use super::{
    Code, DEVICE_IDENTIFIER, Direction, Emit, ExtensionList, Items, LenSink, MAX_DETAIL, Malformed, Parsed,
    RESET_TOKEN, Reader, SERVICE_IDENTIFIER, Sink, put_varint,
};

/// Tags of packet extensions.
mod tag {
    pub(super) const PATH_CHALLENGE: u8 = 128;
    pub(super) const PATH_RESPONSE: u8 = 129;
    pub(super) const IDENTIFIERS: u8 = 130;
    pub(super) const CLOSE: u8 = 131;
}

/// The end of a connection: `code varint || reason, varint length in front || retry after, varint ms`.
#[derive(Clone, Copy)]
#[cfg_attr(test, derive(Debug, PartialEq))]
pub(crate) struct Close<'a> {
    /// Why.
    pub(crate) code: Code,
    /// For people, at most 128 bytes of UTF-8; what is longer is cut when it is sent.
    pub(crate) reason: &'a str,
    /// When to connect again; zero: not said.
    pub(crate) retry_after: Duration,
}

impl<'a> Close<'a> {
    fn parse(value: &'a [u8]) -> Parsed<Self> {
        let mut r = Reader::new(value);
        let code = Code::new(u16::try_from(r.varint()?).map_err(|_| Malformed)?);
        let reason = text(r.varint_bytes()?, 0, MAX_DETAIL)?;
        let retry_after = Duration::from_millis(r.varint()?);
        r.end()?;
        Ok(Self { code, reason, retry_after })
    }

    fn emit_value<S: Sink>(&self, sink: &mut S) {
        let reason = truncated(self.reason);
        put_varint(sink, u64::from(self.code.number()));
        put_varint(sink, u64::try_from(reason.len()).unwrap_or(u64::MAX));
        sink.put(reason.as_bytes());
        put_varint(sink, as_millis(self.retry_after));
    }
}

/// What a packet carries beside its fragment. Each may be there once.
#[derive(Clone, Copy)]
#[cfg_attr(test, derive(Debug, PartialEq))]
pub(crate) enum PacketExtension<'a> {
    /// Whoever gets this at the path it was sent to answers with a response of the same bytes.
    PathChallenge([u8; 8]),
    /// The answer.
    PathResponse([u8; 8]),
    /// Fresh identifiers for packets to the sender: of a service n x (16 + 16) bytes, of a device n x 8, n >= 1. See
    /// [`service_identifiers`] and [`device_identifiers`].
    Identifiers(&'a [u8]),
    /// The connection ends.
    Close(Close<'a>),
}

impl<'a> PacketExtension<'a> {
    /// The extension of this tag; `None` if the tag is unknown. `direction` is that of the packet.
    fn parse(tag: u8, value: &'a [u8], direction: Direction) -> Parsed<Option<Self>> {
        Ok(Some(match tag {
            tag::PATH_CHALLENGE => Self::PathChallenge(array_value(value)?),
            tag::PATH_RESPONSE => Self::PathResponse(array_value(value)?),
            tag::IDENTIFIERS => Self::Identifiers(check_identifiers(value, each(direction))?),
            tag::CLOSE => Self::Close(Close::parse(value)?),
            _ => return Ok(None),
        }))
    }
}

impl Emit for PacketExtension<'_> {
    fn emit<S: Sink>(&self, sink: &mut S) {
        match self {
            Self::PathChallenge(bytes) => put_item(sink, tag::PATH_CHALLENGE, bytes),
            Self::PathResponse(bytes) => put_item(sink, tag::PATH_RESPONSE, bytes),
            Self::Identifiers(bytes) => put_item(sink, tag::IDENTIFIERS, bytes),
            Self::Close(close) => {
                let mut len = LenSink::default();
                close.emit_value(&mut len);
                put_item_head(sink, tag::CLOSE, len.0);
                close.emit_value(sink);
            }
        }
    }
}

/// The bytes per identifier issued in a packet that goes in `direction`: those for the way back.
const fn each(direction: Direction) -> usize {
    match direction {
        Direction::ToResponder => DEVICE_IDENTIFIER,
        Direction::ToInitiator => SERVICE_IDENTIFIER + RESET_TOKEN,
    }
}

/// The identifiers in what a service issued, each with its reset token.
pub(crate) fn service_identifiers(
    value: &[u8],
) -> impl Iterator<Item = ([u8; SERVICE_IDENTIFIER], [u8; RESET_TOKEN])> {
    let (pairs, _) = value.as_chunks::<{ SERVICE_IDENTIFIER + RESET_TOKEN }>();
    pairs.iter().filter_map(|pair| Some((*pair.first_chunk()?, *pair.last_chunk()?)))
}

/// The identifiers in what a device issued.
pub(crate) fn device_identifiers(value: &[u8]) -> impl Iterator<Item = [u8; DEVICE_IDENTIFIER]> {
    let (identifiers, _) = value.as_chunks();
    identifiers.iter().copied()
}

/// The extensions of a packet that this profile knows.
#[derive(Clone, Copy)]
pub(crate) struct PacketExtensions<'a> {
    items: Items<'a>,
    direction: Direction,
}

impl<'a> Iterator for PacketExtensions<'a> {
    type Item = PacketExtension<'a>;

    fn next(&mut self) -> Option<Self::Item> {
        let direction = self.direction;
        // All were checked when the packet was read.
        self.items.find_map(|(tag, value)| PacketExtension::parse(tag, value, direction).ok().flatten())
    }
}

/// The content of an opened data packet.
#[derive(Clone, Copy)]
pub(crate) struct Plaintext<'a> {
    /// In order; can be walked again from a copy.
    pub(crate) extensions: PacketExtensions<'a>,
    /// The part of the datagram that this packet carries, as long as the packet says.
    pub(crate) fragment: &'a [u8],
}

/// Reads the plaintext of a packet that goes in `direction`. What is malformed here was authentic: Close 400.
pub(crate) fn parse_plaintext(bytes: &[u8], direction: Direction) -> Parsed<Plaintext<'_>> {
    let mut reader = Reader::new(bytes);
    let list = ExtensionList::parse(&mut reader)?;
    let mut seen = Seen::default();
    for (tag, value) in list.iter() {
        if PacketExtension::parse(tag, value, direction)?.is_some() {
            seen.once(tag)?;
        }
    }
    let fragment = reader.varint_bytes()?;
    Ok(Plaintext { extensions: PacketExtensions { items: list.iter(), direction }, fragment })
}

/// Writes what stands in front of a fragment of `fragment` bytes; the fragment and, if wanted, zeros follow.
pub(crate) fn emit_plaintext_head<S: Sink>(
    sink: &mut S,
    extensions: &[PacketExtension<'_>],
    fragment: usize,
) {
    for extension in extensions {
        extension.emit(sink);
    }
    put_end(sink);
    put_varint(sink, u64::try_from(fragment).unwrap_or(u64::MAX));
}
