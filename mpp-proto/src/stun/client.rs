//! The asking side: a Binding request, and what its answer says.

use core::net::{IpAddr, SocketAddr};

use super::{
    BINDING_ERROR, BINDING_REQUEST, BINDING_SUCCESS, ERROR_CODE, KNOWN, OPTIONAL, XOR_MAPPED_ADDRESS, mask,
    read_attributes,
};
use crate::wire::{Emit, Malformed, Parsed, Reader, STUN_COOKIE, Sink};

/// What a request and its answer have in common, and nobody can guess who has not seen the request.
pub(crate) type Transaction = [u8; 12];

/// A Binding request without attributes: 20 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BindingQuestion {
    /// Random, another one for each packet.
    pub(crate) transaction: Transaction,
}

impl Emit for BindingQuestion {
    fn emit<S: Sink>(&self, sink: &mut S) {
        sink.put(&BINDING_REQUEST.to_be_bytes());
        sink.put(&[0; 2]);
        sink.put(&STUN_COOKIE);
        sink.put(&self.transaction);
    }
}

/// What a server answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BindingAnswer {
    /// Where the request came from. A mapped IPv4 address counts as IPv4.
    Address(SocketAddr),
    /// It does not say so, for this reason (300 to 699).
    Refused(u16),
}

impl BindingAnswer {
    /// The transaction that an answer is about, if a packet begins like one. Whether it is one, [`Self::parse`] shows.
    pub(crate) fn transaction(packet: &[u8]) -> Option<Transaction> {
        let mut reader = Reader::new(packet);
        let ty = reader.u16().ok()?;
        reader.u16().ok()?;
        let is_answer = matches!(ty, BINDING_SUCCESS | BINDING_ERROR) && reader.array().ok()? == STUN_COOKIE;
        reader.array().ok().filter(|_| is_answer)
    }

    /// Reads an answer, whose transaction the caller compares with those that it has asked under.
    pub(crate) fn parse(packet: &[u8]) -> Parsed<Self> {
        let transaction = Self::transaction(packet).ok_or(Malformed)?;
        let mut reader = Reader::new(packet);
        let ty = reader.u16()?;
        let len = usize::from(reader.u16()?);
        reader.take(STUN_COOKIE.len().saturating_add(transaction.len()))?;
        if len != reader.remaining() || !len.is_multiple_of(4) {
            return Err(Malformed);
        }
        let (mut address, mut code) = (None, None);
        read_attributes(packet, reader, |ty, value| {
            match ty {
                // Of several the first one counts (section 14).
                XOR_MAPPED_ADDRESS if address.is_none() => address = Some(read_address(value, &transaction)?),
                ERROR_CODE if code.is_none() => code = Some(read_code(value)?),
                // What has to be understood, and is not (section 6.3.3).
                ty if ty < OPTIONAL && !KNOWN.contains(&ty) => return Err(Malformed),
                _ => {}
            }
            Ok(())
        })?;
        match ty {
            BINDING_SUCCESS => address.map(Self::Address),
            _ => code.map(Self::Refused),
        }
        .ok_or(Malformed)
    }
}

fn read_address(value: &[u8], transaction: &Transaction) -> Parsed<SocketAddr> {
    let mut reader = Reader::new(value);
    let mask = u128::from_be_bytes(mask(transaction));
    let cookie = u32::from_be_bytes(STUN_COOKIE);
    let [_, family] = reader.array()?;
    let [high, low, ..] = STUN_COOKIE;
    let port = reader.u16()? ^ u16::from_be_bytes([high, low]);
    let ip = match family {
        1 => IpAddr::from((u32::from_be_bytes(reader.array()?) ^ cookie).to_be_bytes()),
        2 => IpAddr::from((u128::from_be_bytes(reader.array()?) ^ mask).to_be_bytes()).to_canonical(),
        _ => return Err(Malformed),
    };
    reader.end()?;
    Ok(SocketAddr::new(ip, port))
}

/// Hundreds and the rest apart (section 14.8); the words behind it are for people who look at packets.
fn read_code(value: &[u8]) -> Parsed<u16> {
    let [_, _, class, number, ..] = *value else { return Err(Malformed) };
    let class = class & 7;
    if (3..=6).contains(&class) && number < 100 {
        Ok(u16::from(class).saturating_mul(100).saturating_add(number.into()))
    } else {
        Err(Malformed)
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use proptest::prelude::*;

    use super::*;
    use crate::stun::{BindingRequest, fingerprint};

    const TRANSACTION: Transaction = *b"twelve bytes";

    fn bytes(value: &impl Emit) -> Vec<u8> {
        let mut out = Vec::new();
        value.emit(&mut out);
        out
    }

    fn answer(ty: u16, attributes: &[u8]) -> Vec<u8> {
        let mut packet = ty.to_be_bytes().to_vec();
        packet.extend_from_slice(&u16::try_from(attributes.len()).unwrap().to_be_bytes());
        packet.extend_from_slice(&STUN_COOKIE);
        packet.extend_from_slice(&TRANSACTION);
        packet.extend_from_slice(attributes);
        packet
    }

    const ADDRESS: [u8; 12] = [0, 0x20, 0, 8, 0, 1, 0xa1, 0x47, 0xe1, 0x12, 0xa6, 0x43];

    /// Sections 2.2 and 2.3 of RFC 5769, without the attributes of authentication that change nothing here.
    #[test]
    fn the_answers_of_rfc_5769_are_read() {
        let hex = |text: &str| -> Vec<u8> {
            (0..text.len()).step_by(2).map(|i| u8::from_str_radix(&text[i..i + 2], 16).unwrap()).collect()
        };
        let v4 = hex(
            "0101003c2112a442b7e7a701bc34d686fa87dfae8022000b7465737420766563746f7220002000080001a147e112a643\
             000800142b91f599fd9e90c38c7489f92af9ba53f06be7d780280004c07d4c96",
        );
        let v6 = hex(
            "010100482112a442b7e7a701bc34d686fa87dfae8022000b7465737420766563746f7220002000140002a1470113a9fa\
             a5d3f179bc25f4b5bed2b9d900080014a382954e4be67bf11784c97c8292c275bfe3ed4180280004c8fb0b4c",
        );
        let address = |text: &str| Ok(BindingAnswer::Address(text.parse().unwrap()));
        assert_eq!(BindingAnswer::parse(&v4), address("192.0.2.1:32853"));
        assert_eq!(BindingAnswer::parse(&v6), address("[2001:db8:1234:5678:11:2233:4455:6677]:32853"));
        // Up to the end of the address: the length of what follows can hide the checksum from whoever reads.
        for bit in 0..8 * 48 {
            let mut wrong = v4.clone();
            wrong[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(BindingAnswer::parse(&wrong), Err(Malformed), "bit {bit}");
        }
    }

    #[test]
    fn an_answer_that_does_not_answer_is_malformed() {
        let good = answer(0x0101, &ADDRESS);
        assert_eq!(BindingAnswer::transaction(&good), Some(TRANSACTION));
        assert!(BindingAnswer::parse(&good).is_ok());
        let longer = [&good[..], &[0; 4]].concat();
        let unknown = [&[0, 0x31, 0, 0][..], &ADDRESS].concat();
        let family = [0, 0x20, 0, 8, 0, 3, 0xa1, 0x47, 0xe1, 0x12, 0xa6, 0x43];
        let short = [0, 0x20, 0, 8, 0, 2, 0xa1, 0x47, 0xe1, 0x12, 0xa6, 0x43];
        for wrong in [
            answer(0x0101, &[]),
            answer(0x0111, &ADDRESS),
            answer(0x0101, &unknown),
            answer(0x0101, &family),
            answer(0x0101, &short),
            answer(0x0111, &[0, 9, 0, 4, 0, 0, 7, 0]),
            answer(0x0111, &[0, 9, 0, 4, 0, 0, 4, 100]),
            answer(0x0001, &ADDRESS),
            answer(0x0011, &ADDRESS),
            longer,
            good[..good.len() - 4].to_vec(),
        ] {
            assert_eq!(BindingAnswer::parse(&wrong), Err(Malformed), "{wrong:02x?}");
        }
        assert_eq!(
            BindingAnswer::parse(&answer(0x0111, &[0, 9, 0, 4, 0, 0, 4, 20])),
            Ok(BindingAnswer::Refused(420))
        );
        // Another address behind the first one is none.
        let second = [&ADDRESS[..], &[0, 0x20, 0, 8, 0, 1, 0, 0, 0, 0, 0, 0]].concat();
        let first = BindingAnswer::Address(([192, 0, 2, 1], 32853).into());
        assert_eq!(BindingAnswer::parse(&answer(0x0101, &second)), Ok(first));
    }

    proptest! {
        /// Whatever address a request comes from: whoever asked hears of it, with and without a checksum.
        #[test]
        fn question_and_answer_fit(transaction: Transaction, source: u128, v4: bool, port: u16, sum: bool) {
            let mut question = bytes(&BindingQuestion { transaction });
            prop_assert_eq!(question.len(), 20);
            if sum {
                question[3] += 8;
                let value = fingerprint(&question);
                question.extend_from_slice(&[0x80, 0x28, 0, 4]);
                question.extend_from_slice(&value.to_be_bytes());
            }
            let ip = if v4 { IpAddr::from((source as u32).to_be_bytes()) } else { source.to_be_bytes().into() };
            let source = SocketAddr::new(ip, port);
            let answer = bytes(&BindingRequest::parse(&question).unwrap().answer(source));
            prop_assert_eq!(BindingAnswer::transaction(&answer), Some(transaction));
            let seen = SocketAddr::new(ip.to_canonical(), port);
            prop_assert_eq!(BindingAnswer::parse(&answer), Ok(BindingAnswer::Address(seen)));
        }

        #[test]
        fn any_bytes_are_an_answer_or_none(bytes: Vec<u8>, ty in prop_oneof![Just(0x0101), Just(0x0111)]) {
            let _ = BindingAnswer::parse(&bytes);
            let _ = BindingAnswer::parse(&answer(ty, &bytes[..bytes.len() / 4 * 4]));
        }
    }
}
