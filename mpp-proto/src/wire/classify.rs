//! What a packet is, told by its first bytes and its size (SPEC.md, "Classification").

use super::{MIN_DATA_TO_SERVICE, RESET_SIZE, RESET_TOKEN};

/// The magic cookie of RFC 8489, section 5.
pub(crate) const STUN_COOKIE: [u8; 4] = [0x21, 0x12, 0xa4, 0x42];

/// What a packet that came to a service may be. That it is, only its authentication shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The first packet of an exchange.
    Step1,
    /// A Binding request.
    Stun,
    /// A data packet.
    Data,
    /// Nothing of this protocol: dropped and counted.
    None,
}

/// Sorts a packet that came to a service.
pub(crate) fn classify_service(packet: &[u8]) -> Kind {
    match packet.first_chunk::<16>() {
        None => Kind::None,
        Some([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]) => Kind::Step1,
        Some(_) if is_binding_request(packet) => Kind::Stun,
        Some(_) if packet.len() >= MIN_DATA_TO_SERVICE => Kind::Data,
        Some(_) => Kind::None,
    }
}

/// Whether a packet has the form of a Binding request of RFC 8489.
pub(crate) fn is_binding_request(packet: &[u8]) -> bool {
    let Some((head @ &[_, _, l0, l1, ..], attributes)) = packet.split_first_chunk::<20>() else {
        return false;
    };
    let len = usize::from(u16::from_be_bytes([l0, l1]));
    head.first_chunk().is_some_and(is_binding_head) && len == attributes.len() && len.is_multiple_of(4)
}

/// Whether a packet that begins so can be one.
pub(crate) fn is_binding_head(head: &[u8; 16]) -> bool {
    matches!(*head, [0, 1, _, _, c0, c1, c2, c3, ..] if [c0, c1, c2, c3] == STUN_COOKIE)
}

/// Whether a packet that begins with this freshly drawn identifier (or handshake identifier) could be taken for a
/// step 1 or for STUN. Such an identifier is drawn again.
pub(crate) const fn is_ambiguous_identifier(first: &[u8; 8]) -> bool {
    match *first {
        [0, 0, 0, 0, 0, 0, 0, 0] => true,
        [ty, _, _, _, c0, c1, c2, c3] => {
            ty < 0x40 && u32::from_be_bytes([c0, c1, c2, c3]) == u32::from_be_bytes(STUN_COOKIE)
        }
    }
}

/// A stateless reset: random bytes and the token of the identifier that was used.
pub(crate) const fn reset_packet(
    random: &[u8; RESET_SIZE - RESET_TOKEN],
    token: &[u8; RESET_TOKEN],
) -> [u8; RESET_SIZE] {
    let mut packet = [0; RESET_SIZE];
    let (front, back) = packet.split_at_mut(RESET_SIZE - RESET_TOKEN);
    front.copy_from_slice(random);
    back.copy_from_slice(token);
    packet
}

/// The token of a packet that has the size of a reset. Whether it is one of the connection's is compared in constant
/// time by whoever knows those.
pub(crate) fn reset_token(packet: &[u8]) -> Option<&[u8; RESET_TOKEN]> {
    if packet.len() == RESET_SIZE { packet.last_chunk() } else { None }
}
