//! The packets that establish a connection (SPEC.md, "Exchange"). They begin with a clear part, which is an
//! extension list; what follows to the end of the UDP payload is sealed.

use core::time::Duration;

use super::ext::{Seen, array_value, put_end, put_item, put_varint_item, varint_value};
use super::fields::{as_millis, given, millis};
use super::{
    AEAD_TAG, Code, Emit, ExtensionList, MAX_PACKET, MAX_TOKEN, MIN_PACKET, Malformed, Overflow, Parsed,
    Reader, Sink, SliceSink, VERSION, put_varint,
};

/// Packet types: the message numbers of the reference.
mod ty {
    pub(super) const ERROR: u8 = 0;
    pub(super) const EXCHANGE: u8 = 3;
    pub(super) const DEFER: u8 = 5;
}

/// Tags of the clear lists.
mod tag {
    /// In step 1 the versions the initiator speaks, one byte each; in an answer the one chosen.
    pub(super) const VERSION: u8 = 128;
    /// Opaque to the initiator, 1..=256 bytes.
    pub(super) const TOKEN: u8 = 129;
    /// 16 bytes.
    pub(super) const RANDOM: u8 = 130;
    /// 8 bytes.
    pub(super) const HANDSHAKE: u8 = 131;
    /// X25519, 32 bytes.
    pub(super) const SHARE: u8 = 132;
    /// The challenge of a Defer, the echo of it in step 1; 16 bytes.
    pub(super) const CHALLENGE: u8 = 133;
    /// Empty: sent by Web.
    pub(super) const WEB: u8 = 134;
    /// Varint.
    pub(super) const CODE: u8 = 135;
    /// Varint, ms.
    pub(super) const RETRY_AFTER: u8 = 136;
}

/// What a packet to a service or an accepting device starts with to be a step 1.
const ZEROS: [u8; 16] = [0; 16];

/// The clear list of a step 1, to be written.
#[derive(Clone, Copy)]
pub(crate) struct Step1Clear<'a> {
    /// The token of the ticket.
    pub(crate) token: &'a [u8],
    /// The initiator random. Without it, the bytes from which a hedged one is drawn.
    pub(crate) random: Option<[u8; 16]>,
    /// Names the attempt in answers to it.
    pub(crate) handshake: [u8; 8],
    /// X25519 share.
    pub(crate) share: Option<[u8; 32]>,
    /// The challenge of a Defer, given back.
    pub(crate) echo: Option<[u8; 16]>,
    /// Sent by Web.
    pub(crate) web: bool,
}

impl Emit for Step1Clear<'_> {
    /// Writes the packet from its first byte to the 255 that ends the clear list.
    fn emit<S: Sink>(&self, sink: &mut S) {
        sink.put(&ZEROS);
        sink.put(&[ty::EXCHANGE]);
        put_item(sink, tag::VERSION, &[VERSION]);
        put_item(sink, tag::TOKEN, self.token);
        put_optional(sink, tag::RANDOM, self.random.as_ref());
        put_item(sink, tag::HANDSHAKE, &self.handshake);
        put_optional(sink, tag::SHARE, self.share.as_ref());
        put_optional(sink, tag::CHALLENGE, self.echo.as_ref());
        if self.web {
            put_item(sink, tag::WEB, &[]);
        }
        put_end(sink);
    }
}

fn put_optional<S: Sink, const N: usize>(sink: &mut S, tag: u8, value: Option<&[u8; N]>) {
    if let Some(value) = value {
        put_item(sink, tag, value);
    }
}

/// A received step 1.
#[derive(Clone, Copy)]
pub(crate) struct Step1<'a> {
    /// From the first byte of the packet to the 255 that ends its clear list: `P1c` of the key schedule.
    pub(crate) clear: &'a [u8],
    /// 1..=256 bytes.
    pub(crate) token: &'a [u8],
    /// The initiator random.
    pub(crate) random: [u8; 16],
    /// Names the attempt.
    pub(crate) handshake: [u8; 8],
    /// X25519 share.
    pub(crate) share: Option<[u8; 32]>,
    /// The challenge of an earlier Defer.
    pub(crate) echo: Option<[u8; 16]>,
    /// Sent by Web.
    pub(crate) web: bool,
}

/// Why a step 1 is not one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step1Error {
    /// Not padded to the size that limits amplification, or larger than any packet: dropped.
    Size,
    /// Dropped.
    Malformed,
    /// Well-formed as far as it goes, but of other versions than this one: may be answered with 505.
    Version {
        /// Names the attempt.
        handshake: [u8; 8],
    },
}

impl From<Malformed> for Step1Error {
    fn from(Malformed: Malformed) -> Self {
        Self::Malformed
    }
}

impl<'a> Step1<'a> {
    /// Reads a packet to a service, 1200..=1452 bytes.
    pub(crate) fn parse(packet: &'a [u8]) -> Result<Self, Step1Error> {
        if !(MIN_PACKET..=MAX_PACKET).contains(&packet.len()) {
            return Err(Step1Error::Size);
        }
        let mut r = Reader::new(packet);
        if r.array()? != ZEROS || r.u8()? != ty::EXCHANGE {
            return Err(Step1Error::Malformed);
        }
        let list = ExtensionList::parse(&mut r)?;
        let (clear, sealed) = clear_and_sealed(packet, r)?;
        // Another version may give tags another form, but not these two.
        if !single(list, tag::VERSION)?.contains(&VERSION) {
            return Err(Step1Error::Version { handshake: array_value(single(list, tag::HANDSHAKE)?)? });
        }
        let f = ClearFields::parse(list)?;
        check_sealed(sealed)?;
        Ok(Self {
            clear,
            token: given(f.token)?,
            random: given(f.random)?,
            handshake: given(f.handshake)?,
            share: f.share,
            echo: f.challenge,
            web: f.web,
        })
    }
}

/// The value of a mandatory tag; the first one, if it is there twice.
fn single(list: ExtensionList<'_>, tag: u8) -> Parsed<&[u8]> {
    list.iter().find(|(t, _)| *t == tag).map(|(_, value)| value).ok_or(Malformed)
}

fn clear_and_sealed<'a>(packet: &'a [u8], after_list: Reader<'a>) -> Parsed<(&'a [u8], &'a [u8])> {
    packet.split_at_checked(packet.len().saturating_sub(after_list.remaining())).ok_or(Malformed)
}

/// A sealed part holds at least a length and a tag.
fn check_sealed(sealed: &[u8]) -> Parsed<()> {
    if sealed.len() > AEAD_TAG { Ok(()) } else { Err(Malformed) }
}

/// The known items of a clear list.
#[derive(Default)]
struct ClearFields<'a> {
    version: Option<&'a [u8]>,
    token: Option<&'a [u8]>,
    random: Option<[u8; 16]>,
    handshake: Option<[u8; 8]>,
    share: Option<[u8; 32]>,
    challenge: Option<[u8; 16]>,
    web: bool,
    code: Option<Code>,
    retry_after: Duration,
}

impl<'a> ClearFields<'a> {
    fn parse(list: ExtensionList<'a>) -> Parsed<Self> {
        let mut f = Self::default();
        let mut seen = Seen::default();
        for (tag, value) in list.iter() {
            if (tag::VERSION..=tag::RETRY_AFTER).contains(&tag) {
                seen.once(tag)?;
            }
            match tag {
                tag::VERSION => f.version = Some(value),
                tag::TOKEN if (1..=MAX_TOKEN).contains(&value.len()) => f.token = Some(value),
                tag::TOKEN => return Err(Malformed),
                tag::RANDOM => f.random = Some(array_value(value)?),
                tag::HANDSHAKE => f.handshake = Some(array_value(value)?),
                tag::SHARE => f.share = Some(array_value(value)?),
                tag::CHALLENGE => f.challenge = Some(array_value(value)?),
                tag::WEB => f.web = array_value(value).map(|[]| true)?,
                tag::CODE => {
                    f.code = Some(Code::new(u16::try_from(varint_value(value)?).map_err(|_| Malformed)?))
                }
                tag::RETRY_AFTER => f.retry_after = millis(value)?,
                _ => {}
            }
        }
        Ok(f)
    }
}

/// What an answer to step 1 is, with its clear fields.
#[derive(Clone, Copy)]
#[cfg_attr(test, derive(Debug, PartialEq))]
pub(crate) enum AnswerKind {
    /// ResponderComplete: sealed is a ConnectResponse.
    Complete {
        /// The responder random.
        random: [u8; 16],
        /// X25519 share.
        share: Option<[u8; 32]>,
    },
    /// ResponderDefer: begin again, with the challenge as echo. Not authenticated.
    Defer {
        /// Given back as it is.
        challenge: [u8; 16],
    },
    /// Error, authentic if it opens: sealed is an ErrorBody.
    SealedError {
        /// The responder random.
        random: [u8; 16],
    },
    /// Error in clear: no more than a hint.
    ClearError {
        /// Why.
        code: Code,
        /// When to try again; zero: not said.
        retry_after: Duration,
    },
}

/// Writes an answer from its first byte to the 255 that ends the clear list: `P2c` of the key schedule.
pub(crate) fn emit_answer<S: Sink>(sink: &mut S, handshake: &[u8; 8], kind: &AnswerKind) {
    let ty = match kind {
        AnswerKind::Complete { .. } => ty::EXCHANGE,
        AnswerKind::Defer { .. } => ty::DEFER,
        AnswerKind::SealedError { .. } | AnswerKind::ClearError { .. } => ty::ERROR,
    };
    sink.put(handshake);
    sink.put(&[ty]);
    match kind {
        AnswerKind::Complete { random, share } => {
            put_item(sink, tag::VERSION, &[VERSION]);
            put_item(sink, tag::RANDOM, random);
            put_optional(sink, tag::SHARE, share.as_ref());
        }
        AnswerKind::Defer { challenge } => put_item(sink, tag::CHALLENGE, challenge),
        AnswerKind::SealedError { random } => put_item(sink, tag::RANDOM, random),
        AnswerKind::ClearError { code, retry_after } => {
            put_varint_item(sink, tag::CODE, u64::from(code.number()));
            if !retry_after.is_zero() {
                put_varint_item(sink, tag::RETRY_AFTER, as_millis(*retry_after));
            }
        }
    }
    put_end(sink);
}

/// A received answer.
#[derive(Clone, Copy)]
#[cfg_attr(test, derive(Debug, PartialEq))]
pub(crate) struct Answer<'a> {
    /// What it is.
    pub(crate) kind: AnswerKind,
    /// From the first byte of the packet to the 255 that ends its clear list: `P2c` of the key schedule.
    pub(crate) clear: &'a [u8],
}

impl<'a> Answer<'a> {
    /// Reads a packet that starts with the handshake identifier of a running attempt.
    pub(crate) fn parse(packet: &'a [u8]) -> Parsed<Self> {
        if packet.len() > MAX_PACKET {
            return Err(Malformed);
        }
        let mut r = Reader::new(packet);
        let _handshake: [u8; 8] = r.array()?;
        let ty = r.u8()?;
        let list = ExtensionList::parse(&mut r)?;
        let (clear, sealed) = clear_and_sealed(packet, r)?;
        let f = ClearFields::parse(list)?;
        let kind = match (ty, f.random) {
            (ty::EXCHANGE, Some(random)) if f.version == Some(&[VERSION]) => {
                AnswerKind::Complete { random, share: f.share }
            }
            (ty::DEFER, _) => AnswerKind::Defer { challenge: given(f.challenge)? },
            (ty::ERROR, Some(random)) => AnswerKind::SealedError { random },
            (ty::ERROR, None) => AnswerKind::ClearError { code: given(f.code)?, retry_after: f.retry_after },
            _ => return Err(Malformed),
        };
        match kind {
            AnswerKind::Complete { .. } | AnswerKind::SealedError { .. } => check_sealed(sealed)?,
            AnswerKind::Defer { .. } | AnswerKind::ClearError { .. } => Reader::new(sealed).end()?,
        }
        Ok(Self { kind, clear })
    }
}

/// Fills `out` with what is sealed in an exchange packet: the length of `message`, `message`, zeros to the end.
pub(crate) fn write_sealed(out: &mut [u8], message: &impl Emit) -> Result<(), Overflow> {
    let mut sink = SliceSink::new(out);
    put_varint(&mut sink, u64::try_from(message.emitted_len()).unwrap_or(u64::MAX));
    message.emit(&mut sink);
    let len = sink.finish()?;
    out.get_mut(len..).unwrap_or_default().fill(0);
    Ok(())
}

/// The message in what was sealed in an exchange packet.
pub(crate) fn read_sealed(plaintext: &[u8]) -> Parsed<&[u8]> {
    Reader::new(plaintext).varint_bytes()
}
