//! Binding requests of RFC 8489, answered on the service's own port: any STUN client learns from it under which address
//! the world sees it (SPEC.md, "STUN"). The asking side is in `client`. Parse and emit, no state, no allocation.
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

mod client;

use core::net::{IpAddr, SocketAddr};

pub(crate) use client::{BindingAnswer, BindingQuestion, Transaction};

use crate::wire::{Emit, Malformed, Parsed, Reader, STUN_COOKIE, Sink, is_binding_request};

/// Bytes of the header.
const HEADER: usize = 20;
/// An attribute's type and length.
const ATTRIBUTE: usize = 4;
/// Types below this one have to be understood by whoever answers (section 14).
const OPTIONAL: u16 = 0x8000;
/// Types that an error names at most: it is no larger than an answer.
const MAX_UNKNOWN: usize = 4;

const BINDING_REQUEST: u16 = 0x0001;
const BINDING_SUCCESS: u16 = 0x0101;
const BINDING_ERROR: u16 = 0x0111;
const ERROR_CODE: u16 = 0x0009;
const UNKNOWN_ATTRIBUTES: u16 = 0x000a;
const XOR_MAPPED_ADDRESS: u16 = 0x0020;
const FINGERPRINT: u16 = 0x8028;
/// What the checksum is combined with, so that it is not taken for one of another protocol (section 14.7).
const FINGERPRINT_MASK: u32 = 0x5354_554e;
/// 420, class and number apart.
const UNKNOWN_ATTRIBUTE_CODE: [u8; 4] = [0, 0, 4, 20];

/// The attributes of RFC 8489 that have to be understood. Those of authentication are not asked for here, so they are
/// ignored like those that only make sense in an answer (section 6.3.1).
const KNOWN: [u16; 11] = [
    0x0001, // MAPPED-ADDRESS
    0x0006, // USERNAME
    0x0008, // MESSAGE-INTEGRITY
    ERROR_CODE,
    UNKNOWN_ATTRIBUTES,
    0x0014, // REALM
    0x0015, // NONCE
    0x001c, // MESSAGE-INTEGRITY-SHA256
    0x001d, // PASSWORD-ALGORITHM
    0x001e, // USERHASH
    XOR_MAPPED_ADDRESS,
];

/// A Binding request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BindingRequest {
    transaction: Transaction,
    /// It came with a checksum, and so does its answer.
    fingerprint: bool,
    unknown: [u16; MAX_UNKNOWN],
    unknowns: usize,
}

impl BindingRequest {
    /// Reads a packet that has the form of a request.
    pub(crate) fn parse(packet: &[u8]) -> Parsed<Self> {
        if !is_binding_request(packet) {
            return Err(Malformed);
        }
        let mut reader = Reader::new(packet);
        reader.take(8)?;
        let mut request =
            Self { transaction: reader.array()?, fingerprint: false, unknown: [0; MAX_UNKNOWN], unknowns: 0 };
        request.fingerprint = read_attributes(packet, reader, |ty, _| {
            if ty < OPTIONAL && !KNOWN.contains(&ty) {
                request.note_unknown(ty);
            }
            Ok(())
        })?;
        Ok(request)
    }

    fn note_unknown(&mut self, ty: u16) {
        let known = self.unknown.get(..self.unknowns).unwrap_or_default();
        if !known.contains(&ty)
            && let Some(room) = self.unknown.get_mut(self.unknowns)
        {
            *room = ty;
            self.unknowns = self.unknowns.saturating_add(1);
        }
    }

    /// The answer to whoever asked from `source`: its address, or which attributes are not understood.
    pub(crate) const fn answer(self, source: SocketAddr) -> BindingResponse {
        BindingResponse { request: self, source }
    }
}

/// The answer to a [`BindingRequest`]: 32 to 52 bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BindingResponse {
    request: BindingRequest,
    source: SocketAddr,
}

impl BindingResponse {
    /// Bytes of an answer at most.
    pub(crate) const MAX: usize = HEADER + (ATTRIBUTE + 20) + (ATTRIBUTE + 4);

    fn put_content<S: Sink>(&self, sink: &mut S) {
        let unknown = self.request.unknown.get(..self.request.unknowns).unwrap_or_default();
        if unknown.is_empty() {
            return self.put_address(sink);
        }
        put_attribute_head(sink, ERROR_CODE, UNKNOWN_ATTRIBUTE_CODE.len());
        sink.put(&UNKNOWN_ATTRIBUTE_CODE);
        put_attribute_head(sink, UNKNOWN_ATTRIBUTES, size_of_val(unknown));
        unknown.iter().for_each(|ty| sink.put(&ty.to_be_bytes()));
        if unknown.len() % 2 == 1 {
            sink.put(&[0; 2]);
        }
    }

    fn put_address<S: Sink>(&self, sink: &mut S) {
        let [c0, c1, ..] = STUN_COOKIE;
        let [p0, p1] = self.source.port().to_be_bytes();
        let port = [p0 ^ c0, p1 ^ c1];
        match self.source.ip().to_canonical() {
            IpAddr::V4(ip) => {
                put_attribute_head(sink, XOR_MAPPED_ADDRESS, 8);
                sink.put(&[0, 1]);
                sink.put(&port);
                sink.put(&(u32::from(ip) ^ u32::from_be_bytes(STUN_COOKIE)).to_be_bytes());
            }
            IpAddr::V6(ip) => {
                put_attribute_head(sink, XOR_MAPPED_ADDRESS, 20);
                sink.put(&[0, 2]);
                sink.put(&port);
                sink.put(
                    &(u128::from(ip) ^ u128::from_be_bytes(mask(&self.request.transaction))).to_be_bytes(),
                );
            }
        }
    }

    fn put_head<S: Sink>(&self, sink: &mut S, content: usize) {
        let ty = if self.request.unknowns == 0 { BINDING_SUCCESS } else { BINDING_ERROR };
        let sum = if self.request.fingerprint { ATTRIBUTE.saturating_add(4) } else { 0 };
        sink.put(&ty.to_be_bytes());
        sink.put(&u16::try_from(content.saturating_add(sum)).unwrap_or(0).to_be_bytes());
        sink.put(&STUN_COOKIE);
        sink.put(&self.request.transaction);
    }
}

impl Emit for BindingResponse {
    fn emit<S: Sink>(&self, sink: &mut S) {
        let mut content = crate::wire::LenSink::default();
        self.put_content(&mut content);
        self.put_head(sink, content.0);
        self.put_content(sink);
        if self.request.fingerprint {
            let mut sum = Crc::default();
            self.put_head(&mut sum, content.0);
            self.put_content(&mut sum);
            put_attribute_head(sink, FINGERPRINT, 4);
            sink.put(&(sum.finish() ^ FINGERPRINT_MASK).to_be_bytes());
        }
    }
}

/// Gives each attribute behind the header of `packet`, at which `reader` stands, but the checksum. Whether there was one:
/// it has to be right, and the last attribute (section 14.7).
fn read_attributes<'a>(
    packet: &'a [u8],
    mut reader: Reader<'a>,
    mut take: impl FnMut(u16, &'a [u8]) -> Parsed<()>,
) -> Parsed<bool> {
    let mut fingerprinted = false;
    while !reader.is_empty() {
        if fingerprinted {
            return Err(Malformed);
        }
        let before = packet.len().saturating_sub(reader.remaining());
        let ty = reader.u16()?;
        let len = usize::from(reader.u16()?);
        let value = reader.take(len)?;
        reader.take(len.next_multiple_of(4).saturating_sub(len))?;
        if ty == FINGERPRINT {
            let sum = value.first_chunk().filter(|_| len == 4).ok_or(Malformed)?;
            if u32::from_be_bytes(*sum) != fingerprint(packet.get(..before).ok_or(Malformed)?) {
                return Err(Malformed);
            }
            fingerprinted = true;
        } else {
            take(ty, value)?;
        }
    }
    Ok(fingerprinted)
}

/// What an address is combined with, which both sides have from the request: so that no middlebox takes it for one and
/// rewrites it.
fn mask(transaction: &Transaction) -> [u8; 16] {
    let mut mask = [0; 16];
    mask.iter_mut().zip(STUN_COOKIE.iter().chain(transaction)).for_each(|(m, k)| *m = *k);
    mask
}

fn put_attribute_head<S: Sink>(sink: &mut S, ty: u16, len: usize) {
    sink.put(&ty.to_be_bytes());
    sink.put(&u16::try_from(len).unwrap_or(0).to_be_bytes());
}

/// The value of FINGERPRINT behind these bytes, whose header counts that attribute already.
pub(crate) fn fingerprint(bytes: &[u8]) -> u32 {
    let mut sum = Crc::default();
    sum.put(bytes);
    sum.finish() ^ FINGERPRINT_MASK
}

/// CRC-32 as in ISO 3309, which RFC 8489 calls for.
struct Crc(u32);

impl Default for Crc {
    fn default() -> Self {
        Self(u32::MAX)
    }
}

impl Crc {
    const fn finish(&self) -> u32 {
        !self.0
    }
}

impl Sink for Crc {
    fn put(&mut self, bytes: &[u8]) {
        for byte in bytes {
            let [low, ..] = self.0.to_le_bytes();
            let step = CRC_TABLE.get(usize::from(low ^ byte)).copied().unwrap_or(0);
            self.0 = (self.0 >> 8) ^ step;
        }
    }
}

const CRC_TABLE: [u32; 256] = crc_table();

#[allow(clippy::indexing_slicing, clippy::arithmetic_side_effects, reason = "run by the compiler")]
const fn crc_table() -> [u32; 256] {
    let mut table = [0; 256];
    let mut i = 0;
    while i < 256 {
        let mut value = i as u32;
        let mut bit = 0;
        while bit < 8 {
            value = if value & 1 == 1 { (value >> 1) ^ 0xedb8_8320 } else { value >> 1 };
            bit += 1;
        }
        table[i] = value;
        i += 1;
    }
    table
}

#[cfg(test)]
mod tests {
    use alloc::vec;
    use alloc::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    const TRANSACTION: [u8; 12] = [0xb7, 0xe7, 0xa7, 0x01, 0xbc, 0x34, 0xd6, 0x86, 0xfa, 0x87, 0xdf, 0xae];

    fn request(attributes: &[u8]) -> Vec<u8> {
        let mut packet = vec![0, 1];
        packet.extend_from_slice(&u16::try_from(attributes.len()).unwrap().to_be_bytes());
        packet.extend_from_slice(&STUN_COOKIE);
        packet.extend_from_slice(&TRANSACTION);
        packet.extend_from_slice(attributes);
        packet
    }

    fn with_fingerprint(mut packet: Vec<u8>) -> Vec<u8> {
        packet[3] += 8;
        let sum = fingerprint(&packet);
        packet.extend_from_slice(&[0x80, 0x28, 0, 4]);
        packet.extend_from_slice(&sum.to_be_bytes());
        packet
    }

    fn answer(packet: &[u8], source: &str) -> Vec<u8> {
        let mut out = Vec::new();
        BindingRequest::parse(packet).unwrap().answer(source.parse().unwrap()).emit(&mut out);
        out
    }

    /// Section 2.1 of RFC 5769; it has the attribute PRIORITY of ICE, which has to be understood.
    const RFC_5769: [u8; 108] = [
        0x00, 0x01, 0x00, 0x58, 0x21, 0x12, 0xa4, 0x42, 0xb7, 0xe7, 0xa7, 0x01, 0xbc, 0x34, 0xd6, 0x86, 0xfa,
        0x87, 0xdf, 0xae, 0x80, 0x22, 0x00, 0x10, 0x53, 0x54, 0x55, 0x4e, 0x20, 0x74, 0x65, 0x73, 0x74, 0x20,
        0x63, 0x6c, 0x69, 0x65, 0x6e, 0x74, 0x00, 0x24, 0x00, 0x04, 0x6e, 0x00, 0x01, 0xff, 0x80, 0x29, 0x00,
        0x08, 0x93, 0x2f, 0xf9, 0xb1, 0x51, 0x26, 0x3b, 0x36, 0x00, 0x06, 0x00, 0x09, 0x65, 0x76, 0x74, 0x6a,
        0x3a, 0x68, 0x36, 0x76, 0x59, 0x20, 0x20, 0x20, 0x00, 0x08, 0x00, 0x14, 0x9a, 0xea, 0xa7, 0x0c, 0xbf,
        0xd8, 0xcb, 0x56, 0x78, 0x1e, 0xf2, 0xb5, 0xb2, 0xd3, 0xf2, 0x49, 0xc1, 0xb5, 0x71, 0xa2, 0x80, 0x28,
        0x00, 0x04, 0xe5, 0x7a, 0x3b, 0xcf,
    ];

    // SPEC: R-stun-unknown
    #[test]
    fn the_request_of_rfc_5769_is_read_and_its_ice_attribute_named() {
        let request = BindingRequest::parse(&RFC_5769).unwrap();
        assert!(request.fingerprint);
        assert_eq!((request.unknowns, request.unknown[0]), (1, 0x0024));
        let answer = answer(&RFC_5769, "192.0.2.1:32853");
        assert_eq!(answer[..20], [&[1, 0x11, 0, 24][..], &RFC_5769[4..20]].concat());
        assert_eq!(answer[20..36], [0, 9, 0, 4, 0, 0, 4, 20, 0, 10, 0, 2, 0, 0x24, 0, 0]);
        assert_eq!(answer.len(), 44, "and its own checksum");
    }

    // SPEC: R-stun
    #[test]
    fn the_addresses_of_rfc_5769_come_out_as_there() {
        let v4 = answer(&request(&[]), "192.0.2.1:32853");
        assert_eq!(v4[..4], [1, 1, 0, 12]);
        assert_eq!(v4[20..], [0, 0x20, 0, 8, 0, 1, 0xa1, 0x47, 0xe1, 0x12, 0xa6, 0x43]);
        assert_eq!(answer(&request(&[]), "[::ffff:192.0.2.1]:32853"), v4, "mapped is IPv4");
        let v6 = answer(&request(&[]), "[2001:db8:1234:5678:11:2233:4455:6677]:32853");
        assert_eq!(v6[20..28], [0, 0x20, 0, 20, 0, 2, 0xa1, 0x47]);
        let mapped = 0x0113_a9fa_a5d3_f179_bc25_f4b5_bed2_b9d9_u128;
        assert_eq!(v6[28..], mapped.to_be_bytes());
    }

    // SPEC: R-stun-fingerprint
    #[test]
    fn a_checksum_is_answered_with_one_and_a_wrong_one_with_nothing() {
        let asked = with_fingerprint(request(&[]));
        let answered = answer(&asked, "[2001:db8::1]:1");
        assert_eq!(answered.len(), BindingResponse::MAX);
        let (content, sum) = answered.split_at(answered.len() - 8);
        assert_eq!(sum[..4], [0x80, 0x28, 0, 4]);
        assert_eq!(sum[4..], fingerprint(content).to_be_bytes());
        for bit in 0..8 * asked.len() {
            let mut wrong = asked.clone();
            wrong[bit / 8] ^= 1 << (bit % 8);
            // A bit of the attribute's own type makes it another attribute, which need not be understood.
            let ty = asked.len() - 8;
            if !(ty..ty + 2).contains(&(bit / 8)) {
                assert_eq!(BindingRequest::parse(&wrong), Err(Malformed), "bit {bit}");
            }
        }
        let mut behind = asked.clone();
        behind.extend_from_slice(&[0x80, 0x22, 0, 0]);
        behind[3] += 4;
        assert_eq!(BindingRequest::parse(&behind), Err(Malformed), "it is the last attribute");
    }

    // SPEC: R-stun-unknown
    #[test]
    fn at_most_four_unknown_attributes_are_named_and_each_once() {
        let attributes: Vec<u8> =
            [0x31, 0x32, 0x31, 0x33, 0x34, 0x35].iter().flat_map(|ty| [0, *ty, 0, 0]).collect();
        let answer = answer(&request(&attributes), "192.0.2.1:1");
        assert_eq!(answer[28..], [0, 10, 0, 8, 0, 0x31, 0, 0x32, 0, 0x33, 0, 0x34]);
        assert!(answer.len() <= BindingResponse::MAX);
    }

    #[test]
    fn what_only_authenticates_or_answers_is_ignored() {
        for ty in KNOWN {
            let [a, b] = ty.to_be_bytes();
            let packet = request(&[a, b, 0, 4, 1, 2, 3, 4]);
            assert_eq!(answer(&packet, "192.0.2.1:1")[..2], [1, 1], "{ty:#06x}");
        }
    }

    #[test]
    fn what_is_cut_or_no_request_is_malformed() {
        for attributes in [&[0, 6, 0, 5, 1, 2, 3, 4][..], &[0x80, 0x28, 0, 3, 0, 0, 0, 0]] {
            assert_eq!(BindingRequest::parse(&request(attributes)), Err(Malformed));
        }
        let mut indication = request(&[]);
        indication[1] = 0x11;
        assert_eq!(BindingRequest::parse(&indication), Err(Malformed));
        let own = answer(&request(&[]), "192.0.2.1:1");
        assert_eq!(BindingRequest::parse(&own), Err(Malformed), "never an answer to an answer");
    }

    proptest! {
        #[test]
        fn any_bytes_give_an_answer_of_a_known_size_or_none(bytes: Vec<u8>, port: u16, v6: u128) {
            let mut packet = request(&[]);
            packet.extend_from_slice(&bytes[..bytes.len() / 4 * 4]);
            let len = u16::try_from(packet.len() - HEADER).unwrap();
            packet[2..4].copy_from_slice(&len.to_be_bytes());
            if let Ok(request) = BindingRequest::parse(&packet) {
                let source = SocketAddr::new(IpAddr::from(v6.to_be_bytes()), port);
                let mut out = Vec::new();
                request.answer(source).emit(&mut out);
                prop_assert!((32..=BindingResponse::MAX).contains(&out.len()));
                prop_assert_eq!(usize::from(u16::from_be_bytes([out[2], out[3]])), out.len() - HEADER);
            }
        }
    }
}
