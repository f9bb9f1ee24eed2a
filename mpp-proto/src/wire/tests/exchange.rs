use std::vec;

use proptest::option;
use proptest::prelude::*;

use super::super::*;
use super::{Duration, Vec, bytes, bytes_of, millis, time};
use crate::ids::{DeviceId, Rights, Serial};

fn clear<'a>(token: &'a [u8]) -> Step1Clear<'a> {
    Step1Clear { token, random: Some([1; 16]), handshake: [2; 8], share: None, echo: None, web: false }
}

/// A packet with this clear part and `sealed` bytes of seal.
fn packet(clear: &impl Emit, size: usize) -> Vec<u8> {
    let mut out = bytes_of(clear);
    out.resize(size, 0x77);
    out
}

proptest! {
    #[test]
    fn step1(
        token in bytes(1..257), random: [u8; 16], handshake: [u8; 8], share in option::of(any::<[u8; 32]>()),
        echo in option::of(any::<[u8; 16]>()), web: bool, size in 1200usize..=1452,
    ) {
        let clear = Step1Clear { token: &token, random: Some(random), handshake, share, echo, web };
        let packet = packet(&clear, size);
        let read = Step1::parse(&packet).unwrap_or_else(|e| panic!("{e:?}"));
        prop_assert_eq!(read.clear, &bytes_of(&clear)[..]);
        prop_assert_eq!((read.token, read.random, read.handshake), (&token[..], random, handshake));
        prop_assert_eq!((read.share, read.echo, read.web), (share, echo, web));
        // The hedge leaves out only the random.
        prop_assert_eq!(Step1Clear { random: None, ..clear }.emitted_len() + 18, clear.emitted_len());
    }

    #[test]
    fn answers(
        handshake: [u8; 8], random: [u8; 16], share in option::of(any::<[u8; 32]>()), code: u16,
        retry_after in millis(), sealed in bytes(17..300),
    ) {
        let code = Code::new(code);
        for (kind, sealed) in [
            (AnswerKind::Complete { random, share }, &sealed[..]),
            (AnswerKind::Defer { challenge: random }, &[]),
            (AnswerKind::SealedError { random }, &sealed[..]),
            (AnswerKind::ClearError { code, retry_after }, &[]),
        ] {
            let mut packet = Vec::new();
            emit_answer(&mut packet, &handshake, &kind);
            let clear = packet.clone();
            packet.extend(sealed);
            prop_assert_eq!(Answer::parse(&packet), Ok(Answer { kind, clear: &clear }));
            for cut in 0..clear.len() {
                prop_assert_eq!(Answer::parse(&packet[..cut]), Err(Malformed));
            }
        }
    }

    #[test]
    fn sealed(position: u32, room in 0usize..40) {
        let message = Acknowledge { position: Serial(u64::from(position)) };
        let bytes = bytes_of(&message);
        let mut out = vec![0xee; room];
        let written = write_sealed(&mut out, &message);
        if room > bytes.len() {
            prop_assert_eq!(written, Ok(()));
            prop_assert_eq!(read_sealed(&out), Ok(&bytes[..]));
            prop_assert!(out[bytes.len() + 1..].iter().all(|b| *b == 0));
        } else {
            prop_assert_eq!(written, Err(Overflow));
        }
    }

    #[test]
    fn total(bytes in bytes(0..1500), zeros: bool, at: prop::sample::Index, to: u8) {
        let mut bytes = bytes;
        if zeros && bytes.len() > 16 {
            bytes[..16].fill(0);
            bytes[16] = 3;
        }
        let _ = Step1::parse(&bytes).is_ok();
        let _ = (Answer::parse(&bytes), read_sealed(&bytes), TokenPlain::parse(&bytes), classify_service(&bytes));
        let mut step1 = packet(&clear(&[5; 90]), 1200);
        let at = at.index(step1.len());
        step1[at] = to;
        if let Ok(read) = Step1::parse(&step1) {
            prop_assert!(read.clear.len() < step1.len());
        }
    }

    #[test]
    fn token_plain(
        session: bool, account in "[a-z]{1,64}", device: [u8; 16], rights: u64, issued in time(), expiry in time(),
    ) {
        let purpose = if session { Purpose::Session } else { Purpose::Service };
        let rights = Rights(rights & VARINT_MAX);
        let plain = TokenPlain { purpose, account: &account, device: DeviceId(device), rights, issued, expiry };
        let mut out = bytes_of(&plain);
        for cut in 0..out.len() {
            prop_assert_eq!(TokenPlain::parse(&out[..cut]), Err(Malformed));
        }
        prop_assert_eq!(TokenPlain::parse(&out), Ok(plain));
        // Unknown items are ignored.
        let end = out.len() - 1;
        out.splice(end.., [150, 1, 1, 255]);
        prop_assert_eq!(TokenPlain::parse(&out), Ok(plain));
    }
}

// SPEC: R-step1-size
#[test]
fn size_of_step1() {
    for (size, ok) in [(1199, false), (1200, true), (1452, true), (1453, false)] {
        let packet = packet(&clear(&[5; 90]), size);
        assert_eq!(Step1::parse(&packet).is_ok(), ok, "{size}");
        assert_eq!(Step1::parse(&packet).err() == Some(Step1Error::Size), !ok);
    }
}

// SPEC: R-version
#[test]
fn step1_of_another_version() {
    let mut packet = packet(&clear(&[5; 90]), 1200);
    assert_eq!(packet[16..20], [3, 128, 1, 1]);
    packet[19] = 2;
    assert_eq!(Step1::parse(&packet).err(), Some(Step1Error::Version { handshake: [2; 8] }));
    // Of another type.
    packet[16] = 4;
    assert_eq!(Step1::parse(&packet).err(), Some(Step1Error::Malformed));
}

// SPEC: R-step1-parts
#[test]
fn step1_needs_all_its_parts() {
    let whole = bytes_of(&clear(&[5; 90]));
    // Versions 128, token 129, random 130, handshake 131: each without, and each twice.
    for (at, len) in [(17, 3), (20, 93), (113, 18), (131, 10)] {
        for twice in [false, true] {
            let mut packet = whole.clone();
            let item = packet[at..at + len].to_vec();
            packet.splice(at..at + len, if twice { item.repeat(2) } else { vec![] });
            packet.resize(1200, 0);
            assert_eq!(
                Step1::parse(&packet).err(),
                Some(Step1Error::Malformed),
                "item at {at}, twice: {twice}"
            );
        }
    }
    // No room for a seal.
    let mut token = vec![5; 256];
    assert!(Step1::parse(&packet(&clear(&token), 1200)).is_ok());
    token.push(5);
    assert!(Step1::parse(&packet(&clear(&token), 1200)).is_err());
}

// SPEC: R-answer-form
#[test]
fn answers_that_are_none() {
    let mut out = Vec::new();
    emit_answer(&mut out, &[1; 8], &AnswerKind::Complete { random: [2; 16], share: None });
    assert_eq!(out[8..12], [3, 128, 1, 1]);
    out.extend([0; 16]);
    assert_eq!(Answer::parse(&out), Err(Malformed), "a seal is longer than its tag");
    out.push(0);
    assert!(Answer::parse(&out).is_ok());
    out[11] = 2;
    assert_eq!(Answer::parse(&out), Err(Malformed), "another version");
    out[11] = 1;
    out[8] = 4;
    assert_eq!(Answer::parse(&out), Err(Malformed), "another type");

    let mut out = Vec::new();
    let kind =
        AnswerKind::ClearError { code: Code::TOO_MANY_REQUESTS, retry_after: Duration::from_millis(900) };
    emit_answer(&mut out, &[1; 8], &kind);
    assert_eq!(out, [1, 1, 1, 1, 1, 1, 1, 1, 0, 135, 2, 0x41, 0xad, 136, 2, 0x43, 0x84, 255]);
    out.push(0);
    assert_eq!(Answer::parse(&out), Err(Malformed), "nothing is sealed");
}

// SPEC: R-classify
#[test]
fn classification() {
    let mut stun = vec![0, 1, 0, 8, 0x21, 0x12, 0xa4, 0x42];
    stun.resize(28, 9);
    assert_eq!(classify_service(&stun), Kind::Stun);
    assert_eq!(classify_service(&stun[..24]), Kind::None, "cut");
    for (at, to) in [(0, 0x40), (1, 2), (3, 4), (4, 0)] {
        let mut other = stun.clone();
        other[at] = to;
        assert_eq!(classify_service(&other), Kind::None, "byte {at}");
    }
    // A length that is not divisible by 4.
    stun.push(9);
    stun[3] = 9;
    assert_eq!(classify_service(&stun), Kind::None);

    assert_eq!(classify_service(&[0; 15]), Kind::None);
    assert_eq!(classify_service(&[0; 16]), Kind::Step1);
    assert_eq!(classify_service(&[1; 16]), Kind::None);
    assert_eq!(classify_service(&[1; 49]), Kind::None);
    assert_eq!(classify_service(&[1; 50]), Kind::Data);
    assert_eq!(classify_service(&[]), Kind::None);
}

// SPEC: R-unambiguous
#[test]
fn identifiers_that_look_like_something_else() {
    assert!(is_ambiguous_identifier(&[0; 8]));
    assert!(is_ambiguous_identifier(&[0, 1, 5, 5, 0x21, 0x12, 0xa4, 0x42]));
    assert!(is_ambiguous_identifier(&[0x3f, 1, 5, 5, 0x21, 0x12, 0xa4, 0x42]));
    assert!(!is_ambiguous_identifier(&[0x40, 1, 5, 5, 0x21, 0x12, 0xa4, 0x42]));
    assert!(!is_ambiguous_identifier(&[0, 1, 5, 5, 0x21, 0x12, 0xa4, 0x43]));
}

#[test]
fn resets() {
    let packet = reset_packet(&[1; 24], &[2; 16]);
    assert_eq!(packet, [[1; 24].as_slice(), &[2; 16]].concat()[..]);
    assert_eq!(reset_token(&packet), Some(&[2; 16]));
    assert_eq!(reset_token(&packet[1..]), None);
    assert_eq!(reset_token(&[2; 41]), None);
}
