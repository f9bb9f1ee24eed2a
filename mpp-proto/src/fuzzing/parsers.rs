//! Parsers: any bytes give a value or an error, and what was read is written back to what reads the same.

use alloc::string::{String, ToString};
use alloc::vec::Vec;

use super::Input;
use crate::crypto::sha256;
use crate::device::Resume;
use crate::ids::StoreId;
use crate::stun::{BindingAnswer, BindingQuestion, BindingRequest, BindingResponse};
use crate::wire::{
    Answer, Connect, ConnectResponse, Direction, Emit, Endpoint, ErrorBody, ExtensionList, MAX_PACKET,
    Message, PacketExtension, Parsed, Reader, Step1, Step1Clear, Ticket, TokenPlain, device_identifiers,
    emit_answer, emit_plaintext_head, next_web_packet, parse_plaintext, put_web_packet, service_identifiers,
};

/// What it is written as.
fn bytes_of(value: &impl Emit) -> Vec<u8> {
    let mut out = Vec::new();
    value.emit(&mut out);
    assert_eq!(out.len(), value.emitted_len(), "the length it says is not the length it has");
    out
}

/// What was read, written, read and written again, is the same bytes.
fn written_again<'a, M: Emit>(value: &M, out: &'a mut Vec<u8>, parse: impl FnOnce(&'a [u8]) -> Parsed<M>) {
    value.emit(out);
    assert_eq!(out.len(), value.emitted_len());
    let Ok(again) = parse(out) else { panic!("what was written cannot be read") };
    assert_eq!(bytes_of(&again), *out);
}

/// The message of a data packet, and those of the exchange.
pub fn message(data: &[u8]) {
    if let Ok(message) = Message::parse(data) {
        let mut out = Vec::new();
        if emit_message(&message, &mut out) {
            let Ok(again) = Message::parse(&out) else { panic!("what was written cannot be read") };
            let mut once_more = Vec::new();
            emit_message(&again, &mut once_more);
            assert_eq!(out, once_more);
        }
    }
    if let Ok(connect) = Connect::parse(data) {
        written_again(&connect, &mut Vec::new(), Connect::parse);
        device_identifiers(connect.identifiers).for_each(drop);
    }
    if let Ok(response) = ConnectResponse::parse(data) {
        written_again(&response, &mut Vec::new(), ConnectResponse::parse);
        service_identifiers(response.identifiers).for_each(drop);
    }
    if let Ok(body) = ErrorBody::parse(data) {
        written_again(&body, &mut Vec::new(), ErrorBody::parse);
    }
}

/// False for what cannot be written: messages of types that this profile does not have.
fn emit_message(message: &Message<'_>, out: &mut Vec<u8>) -> bool {
    match message {
        Message::Heartbeat(m) => m.emit(out),
        Message::Status(m) => m.emit(out),
        Message::Notify(m) => m.emit(out),
        Message::Acknowledge(m) => m.emit(out),
        Message::Subscribe(m) => m.emit(out),
        Message::Subscribed(m) => m.emit(out),
        Message::Post(m) => m.emit(out),
        Message::Posted(m) => m.emit(out),
        Message::EndpointRequest(m) => m.emit(out),
        Message::EndpointResponse(m) => m.emit(out),
        Message::ProbeRequest(m) => m.emit(out),
        Message::ProbeAnswer(m) => m.emit(out),
        Message::Failure(m) => m.emit(out),
        Message::TicketRequest(m) => m.emit(out),
        Message::TicketResponse(m) => m.emit(out),
        Message::Unknown { .. } => return false,
    }
    true
}

/// Lists of extensions: those found lie in order in what was read.
pub fn extensions(data: &[u8]) {
    let mut reader = Reader::new(data);
    if let Ok(list) = ExtensionList::parse(&mut reader) {
        let read = data.len() - reader.remaining();
        let size: usize = list.iter().map(|(_, value)| 2 + value.len()).sum();
        assert!(size < read, "{size} bytes of items in a list of {read} bytes");
        assert!(list.iter().all(|(tag, _)| (128..255).contains(&tag)));
        assert_eq!(data.get(read - 1), Some(&255));
    }
}

/// What is inside the seal of a data packet; the first byte says which way it went.
pub fn plaintext(data: &[u8]) {
    let mut input = Input(data);
    let direction = if input.u8() & 1 == 0 { Direction::ToResponder } else { Direction::ToInitiator };
    let Ok(plaintext) = parse_plaintext(input.0, direction) else { return };
    let extensions: Vec<PacketExtension<'_>> = plaintext.extensions.collect();
    let mut out = Vec::new();
    emit_plaintext_head(&mut out, &extensions, plaintext.fragment.len());
    out.extend_from_slice(plaintext.fragment);
    let Ok(again) = parse_plaintext(&out, direction) else { panic!("what was written cannot be read") };
    assert_eq!(again.fragment, plaintext.fragment);
    let bytes = |extensions: &[PacketExtension<'_>]| {
        let mut out = Vec::new();
        extensions.iter().for_each(|e| e.emit(&mut out));
        out
    };
    assert_eq!(bytes(&again.extensions.collect::<Vec<_>>()), bytes(&extensions));
}

/// The packets that establish a connection.
pub fn exchange(data: &[u8]) {
    // As it is, and filled up to the size that a step 1 has to have.
    let mut padded = data.to_vec();
    padded.resize(data.len().max(1200), 0);
    for packet in [data, &padded] {
        if let Ok(step1) = Step1::parse(packet) {
            let Step1 { token, random, handshake, share, echo, web, clear } = step1;
            let written = Step1Clear { token, random: Some(random), handshake, share, echo, web };
            let mut out = bytes_of(&written);
            let len = out.len();
            // Versions and tags of later profiles are not written back.
            assert!(len <= clear.len() + 2);
            out.resize(1200, 0);
            let Ok(again) = Step1::parse(&out) else { panic!("what was written cannot be read") };
            assert_eq!((again.token, again.random, again.handshake), (token, random, handshake));
            assert_eq!((again.share, again.echo, again.web), (share, echo, web));
            assert_eq!(again.clear.len(), len);
        }
    }
    if let (Ok(answer), Some(handshake)) = (Answer::parse(data), data.first_chunk::<8>()) {
        let mut out = Vec::new();
        emit_answer(&mut out, handshake, &answer.kind);
        let clear = out.len();
        out.extend_from_slice(data.get(answer.clear.len()..).unwrap_or_default());
        let Ok(again) = Answer::parse(&out) else { panic!("what was written cannot be read") };
        assert_eq!(again.clear.len(), clear);
        let mut once_more = Vec::new();
        emit_answer(&mut once_more, handshake, &again.kind);
        assert_eq!(once_more.as_slice(), again.clear);
    }
}

/// The text of a ticket: as it is; and as the content of one whose spelling and checksum are right. Texts of endpoints.
pub fn ticket(data: &[u8]) {
    let check = |text: &str| {
        if let Ok(ticket) = text.parse::<Ticket>() {
            let canonical = ticket.to_text();
            let again: Ticket = canonical.parse().expect("what was written can be read");
            assert_eq!(*again.to_text(), *canonical);
        }
    };
    check(&spelled(data));
    if let Ok(text) = core::str::from_utf8(data) {
        check(text);
        if let Ok(endpoint) = text.parse::<Endpoint>() {
            assert_eq!(endpoint.to_string().parse(), Ok(endpoint));
        }
        if let Some(store) = StoreId::parse(text) {
            assert_eq!(StoreId::parse(&store.to_string()), Some(store));
        }
    }
}

/// The text of a ticket whose version and list are `content`.
pub(super) fn spelled(content: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let digest = sha256(&[content]);
    let bytes: Vec<u8> = content.iter().chain(&digest[..4]).copied().collect();
    let mut text = String::from("mpp1_");
    for group in bytes.chunks(3) {
        let byte = |i: usize| u32::from(group.get(i).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        let sixes = (0..=group.len()).map(|i| bits >> (18 - 6 * i) & 63);
        text.extend(sixes.map(|six| char::from(ALPHABET[six as usize])));
    }
    text
}

/// A Binding request: what is answered has the size it says, is no request itself, and is understood by whoever asked.
/// And an answer: it gives an address or nothing.
pub fn stun(data: &[u8]) {
    // The length is put right, or nothing would get past it.
    let mut packet = data.to_vec();
    packet.truncate(20 + packet.len().saturating_sub(20) / 4 * 4);
    if let (Ok(len), Some(room)) = (u16::try_from(packet.len().saturating_sub(20)), packet.get_mut(2..4)) {
        room.copy_from_slice(&len.to_be_bytes());
    }
    if let Ok(BindingAnswer::Address(seen)) = BindingAnswer::parse(&packet) {
        let Some(transaction) = BindingAnswer::transaction(&packet) else { panic!("an answer to nothing") };
        let question = bytes_of(&BindingQuestion { transaction });
        let Ok(request) = BindingRequest::parse(&question) else { panic!("a question that cannot be read") };
        assert_eq!(BindingAnswer::parse(&bytes_of(&request.answer(seen))), Ok(BindingAnswer::Address(seen)));
    }
    let Ok(request) = BindingRequest::parse(&packet) else { return };
    let answer = bytes_of(&request.answer(([192, 0, 2, 1], 4000).into()));
    assert!((32..=BindingResponse::MAX).contains(&answer.len()));
    assert!(BindingRequest::parse(&answer).is_err(), "an answer is answered");
    assert!(BindingAnswer::parse(&answer).is_ok(), "an answer is not understood");
}

/// The body of an answer by Web: the packets found lie in order in what was read, and are written as they were.
pub fn web(data: &[u8]) {
    let mut body = data.to_vec();
    let (mut rest, mut written) = (body.as_mut_slice(), Vec::new());
    while let Some((packet, more)) = next_web_packet(rest) {
        assert!(packet.len() <= MAX_PACKET);
        put_web_packet(&mut written, packet);
        rest = more;
    }
    assert!(data.starts_with(&written), "what was read is not what was there");
    let left = data.get(written.len()..).unwrap_or_default();
    let whole = left.split_first_chunk().is_some_and(|(len, packet)| {
        let len = usize::from(u16::from_be_bytes(*len));
        len <= MAX_PACKET.min(packet.len())
    });
    assert!(!whole, "a packet was left over");
}

/// What is sealed in a token.
pub fn token(data: &[u8]) {
    if let Ok(plain) = TokenPlain::parse(data) {
        assert_eq!(TokenPlain::parse(&bytes_of(&plain)), Ok(plain));
    }
}

/// A saved position: as it is, and with the right checksum.
pub fn resume(data: &[u8]) {
    let digest = sha256(&[data]);
    let whole: Vec<u8> = data.iter().chain(&digest[..4]).copied().collect();
    for bytes in [data, &whole] {
        if let Ok(resume) = Resume::from_bytes(bytes) {
            // Not byte for byte: an empty list of networks is as good as none.
            assert_eq!(Resume::from_bytes(&resume.to_bytes()), Ok(resume));
        }
    }
}
