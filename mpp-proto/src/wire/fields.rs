//! The registry of message fields: one tag has one form in every message (SPEC.md, "Fields of messages").

use core::net::SocketAddr;
use core::num::NonZeroU16;
use core::time::Duration;

use super::code::Code;
use super::endpoint::{put_address_item, read_address};
use super::ext::{Seen, array_value, put_end, put_item, put_varint_item, varint_value};
use super::notify::{check_event, check_stores};
use super::{
    ECHO, ExtensionList, MAX_ACCOUNT, MAX_DETAIL, MAX_KEY, MAX_PACKET, MAX_PAYLOAD, MAX_TOKEN, MIN_PACKET,
    Malformed, Parsed, Sink,
};
use crate::ids::{Epoch, RequestId, Serial, StoreId, StoreSet};
use crate::time::UnixTime;

/// The tags. Tags 240..=247 are reserved and never assigned.
pub(crate) mod tag {
    /// Request id: varint, 32 bits.
    pub(crate) const REQUEST: u8 = 128;
    /// Position: serial.
    pub(crate) const POSITION: u8 = 129;
    /// Epoch: 8 bytes, all zero = none.
    pub(crate) const EPOCH: u8 = 130;
    /// Filter: store mask.
    pub(crate) const FILTER: u8 = 131;
    /// Covered: store mask.
    pub(crate) const COVERED: u8 = 132;
    /// Connect serial: varint.
    pub(crate) const CONNECT_SERIAL: u8 = 133;
    /// Packet size: varint, bytes.
    pub(crate) const PACKET_SIZE: u8 = 134;
    /// Interval: varint, ms.
    pub(crate) const INTERVAL: u8 = 135;
    /// High-water mark: serial.
    pub(crate) const MARK: u8 = 136;
    /// Newest: serial.
    pub(crate) const NEWEST: u8 = 137;
    /// Endpoint: family, address, port.
    pub(crate) const ENDPOINT: u8 = 138;
    /// Service time: varint, ms since 1970.
    pub(crate) const SERVICE_TIME: u8 = 139;
    /// Lost: store mask.
    pub(crate) const LOST: u8 = 140;
    /// Lease: varint, ms.
    pub(crate) const LEASE: u8 = 141;
    /// Refresh after: varint, ms.
    pub(crate) const REFRESH_AFTER: u8 = 142;
    /// Stores: pairs of store and last serial, back to back.
    pub(crate) const STORES: u8 = 143;
    /// Up to: serial.
    pub(crate) const UPTO: u8 = 144;
    /// Told: serial.
    pub(crate) const TOLD: u8 = 145;
    /// Changed: store mask.
    pub(crate) const CHANGED: u8 = 146;
    /// Event: the only tag that may be there several times.
    pub(crate) const EVENT: u8 = 147;
    /// Unheard: varint, 32 bits.
    pub(crate) const UNHEARD: u8 = 148;
    /// Store: one byte.
    pub(crate) const STORE: u8 = 149;
    /// Payload: bytes.
    pub(crate) const PAYLOAD: u8 = 150;
    /// Time to live: varint, ms.
    pub(crate) const TTL: u8 = 151;
    /// Urgency: varint, 0 low, 1 normal, 2 high.
    pub(crate) const URGENCY: u8 = 152;
    /// Collapse key: 1..=32 bytes.
    pub(crate) const KEY: u8 = 153;
    /// Post id: 16 bytes.
    pub(crate) const POST_ID: u8 = 154;
    /// Serial.
    pub(crate) const SERIAL: u8 = 155;
    /// Code: varint, 16 bits.
    pub(crate) const CODE: u8 = 156;
    /// Retry after: varint, ms.
    pub(crate) const RETRY_AFTER: u8 = 157;
    /// Detail: UTF-8, at most 128 bytes.
    pub(crate) const DETAIL: u8 = 158;
    /// Identifiers: of a device n x 8, of a service n x (16 + 16).
    pub(crate) const IDENTIFIERS: u8 = 159;
    /// Account: UTF-8, 1..=128 bytes.
    pub(crate) const ACCOUNT: u8 = 160;
    /// Token: 1..=256 bytes.
    pub(crate) const TOKEN: u8 = 161;
    /// Secret: 32 bytes.
    pub(crate) const SECRET: u8 = 162;
    /// Expiry: varint, ms since 1970.
    pub(crate) const EXPIRY: u8 = 163;
    /// Renew: empty.
    pub(crate) const RENEW: u8 = 164;
    /// Silence: varint, ms.
    pub(crate) const SILENCE: u8 = 165;
    /// Echo: 16 bytes.
    pub(crate) const ECHO: u8 = 166;
    /// In use: empty.
    pub(crate) const IN_USE: u8 = 167;
    /// Check port: varint, 1..=65535.
    pub(crate) const CHECK_PORT: u8 = 168;
}

/// The longest time to live: 30 days.
const MAX_TTL_MS: u64 = 30 * 24 * 3600 * 1000;

/// The fields of a message as they were found, each held to the form and the limits of its tag. A set that is not
/// there is empty; for the others the message decides.
#[derive(Default)]
pub(super) struct Fields<'a> {
    pub(super) request: Option<RequestId>,
    pub(super) position: Option<Serial>,
    pub(super) epoch: Epoch,
    pub(super) has_epoch: bool,
    pub(super) filter: StoreSet,
    pub(super) covered: StoreSet,
    pub(super) connect_serial: Option<u64>,
    pub(super) packet_size: Option<u16>,
    pub(super) interval: Option<Duration>,
    pub(super) mark: Option<Serial>,
    pub(super) newest: Option<Serial>,
    pub(super) endpoint: Option<SocketAddr>,
    pub(super) service_time: Option<UnixTime>,
    pub(super) lost: StoreSet,
    pub(super) lease: Option<Duration>,
    pub(super) refresh_after: Option<Duration>,
    pub(super) stores: &'a [u8],
    pub(super) upto: Option<Serial>,
    pub(super) told: Option<Serial>,
    pub(super) changed: StoreSet,
    pub(super) unheard: u32,
    pub(super) store: Option<StoreId>,
    pub(super) payload: Option<&'a [u8]>,
    pub(super) ttl: Option<Duration>,
    pub(super) urgency: Option<u8>,
    pub(super) key: Option<&'a [u8]>,
    pub(super) post_id: Option<[u8; 16]>,
    pub(super) serial: Option<Serial>,
    pub(super) code: Option<Code>,
    pub(super) retry_after: Duration,
    pub(super) detail: &'a str,
    pub(super) identifiers: &'a [u8],
    pub(super) account: Option<&'a str>,
    pub(super) token: Option<&'a [u8]>,
    pub(super) secret: Option<&'a [u8; 32]>,
    pub(super) expiry: Option<UnixTime>,
    pub(super) renew: bool,
    pub(super) silence: Option<Duration>,
    pub(super) echo: Option<[u8; ECHO]>,
    pub(super) in_use: bool,
    pub(super) check_port: Option<NonZeroU16>,
}

impl<'a> Fields<'a> {
    /// Reads all known fields; unknown tags are ignored.
    pub(super) fn parse(list: ExtensionList<'a>) -> Parsed<Self> {
        let mut fields = Self::default();
        let mut seen = Seen::default();
        for (tag, value) in list.iter() {
            if tag == tag::EVENT {
                check_event(value)?;
            } else if (tag::REQUEST..=tag::CHECK_PORT).contains(&tag) {
                seen.once(tag)?;
                fields.set(tag, value)?;
            }
        }
        Ok(fields)
    }

    fn set(&mut self, tag: u8, value: &'a [u8]) -> Parsed<()> {
        match tag {
            tag::REQUEST => self.request = Some(RequestId(number(value)?)),
            tag::POSITION => self.position = serial(value)?,
            tag::EPOCH => (self.epoch, self.has_epoch) = (Epoch(array_value(value)?), true),
            tag::FILTER => self.filter = mask(value)?,
            tag::COVERED => self.covered = mask(value)?,
            tag::CONNECT_SERIAL => self.connect_serial = Some(varint_value(value)?),
            tag::PACKET_SIZE => self.packet_size = Some(packet_size(value)?),
            tag::INTERVAL => self.interval = Some(millis(value)?),
            tag::MARK => self.mark = serial(value)?,
            tag::NEWEST => self.newest = serial(value)?,
            tag::ENDPOINT => self.endpoint = Some(read_address(value)?),
            tag::SERVICE_TIME => self.service_time = Some(UnixTime::from_millis(varint_value(value)?)),
            tag::LOST => self.lost = mask(value)?,
            tag::LEASE => self.lease = Some(millis(value)?),
            tag::REFRESH_AFTER => self.refresh_after = Some(millis(value)?),
            tag::STORES => self.stores = check_stores(value)?,
            tag::UPTO => self.upto = serial(value)?,
            tag::TOLD => self.told = serial(value)?,
            tag::CHANGED => self.changed = mask(value)?,
            tag::UNHEARD => self.unheard = number(value)?,
            tag::STORE => self.store = Some(store(value)?),
            tag::PAYLOAD => self.payload = Some(limited(value, 0, MAX_PAYLOAD)?),
            tag::TTL => self.ttl = Some(ttl(value)?),
            tag::URGENCY => self.urgency = Some(urgency(value)?),
            tag::KEY => self.key = Some(limited(value, 1, MAX_KEY)?),
            tag::POST_ID => self.post_id = Some(array_value(value)?),
            tag::SERIAL => self.serial = serial(value)?,
            tag::CODE => self.code = Some(Code::new(number(value)?)),
            tag::RETRY_AFTER => self.retry_after = millis(value)?,
            tag::DETAIL => self.detail = text(value, 0, MAX_DETAIL)?,
            tag::IDENTIFIERS => self.identifiers = value,
            tag::ACCOUNT => self.account = Some(text(value, 1, MAX_ACCOUNT)?),
            tag::TOKEN => self.token = Some(limited(value, 1, MAX_TOKEN)?),
            tag::SECRET => self.secret = Some(value.try_into().map_err(|_| Malformed)?),
            tag::EXPIRY => self.expiry = Some(UnixTime::from_millis(varint_value(value)?)),
            tag::RENEW => self.renew = limited(value, 0, 0).map(|_| true)?,
            tag::SILENCE => self.silence = Some(millis(value)?),
            tag::ECHO => self.echo = Some(array_value(value)?),
            tag::IN_USE => self.in_use = limited(value, 0, 0).map(|_| true)?,
            tag::CHECK_PORT => self.check_port = Some(NonZeroU16::new(number(value)?).ok_or(Malformed)?),
            _ => {}
        }
        Ok(())
    }

    /// The epoch, where it is mandatory.
    pub(super) fn given_epoch(&self) -> Parsed<Epoch> {
        if self.has_epoch { Ok(self.epoch) } else { Err(Malformed) }
    }

    /// The identifiers, at least one, each with what belongs to it `each` bytes long.
    pub(super) fn given_identifiers(&self, each: usize) -> Parsed<&'a [u8]> {
        check_identifiers(self.identifiers, each)
    }
}

/// At least one identifier of `each` bytes and nothing else.
pub(super) fn check_identifiers(value: &[u8], each: usize) -> Parsed<&[u8]> {
    if !value.is_empty() && value.len().is_multiple_of(each) { Ok(value) } else { Err(Malformed) }
}

/// A field that has to be there.
pub(super) fn given<T>(field: Option<T>) -> Parsed<T> {
    field.ok_or(Malformed)
}

/// A varint within the range of `T`.
fn number<T: TryFrom<u64>>(value: &[u8]) -> Parsed<T> {
    T::try_from(varint_value(value)?).map_err(|_| Malformed)
}

/// Always `Some`: every varint is a serial.
fn serial(value: &[u8]) -> Parsed<Option<Serial>> {
    varint_value(value).map(|v| Some(Serial(v)))
}

pub(super) fn millis(value: &[u8]) -> Parsed<Duration> {
    varint_value(value).map(Duration::from_millis)
}

fn mask(value: &[u8]) -> Parsed<StoreSet> {
    let mut bytes = [0; 16];
    bytes.get_mut(..value.len()).ok_or(Malformed)?.copy_from_slice(value);
    Ok(StoreSet::from_bytes(bytes))
}

/// A packet size: below 1200 is out of range; an offer above what this profile can use is an offer of that.
fn packet_size(value: &[u8]) -> Parsed<u16> {
    let size = usize::try_from(varint_value(value)?).unwrap_or(usize::MAX).min(MAX_PACKET);
    if size < MIN_PACKET { Err(Malformed) } else { u16::try_from(size).map_err(|_| Malformed) }
}

fn store(value: &[u8]) -> Parsed<StoreId> {
    let [number] = array_value(value)?;
    StoreId::new(number).ok_or(Malformed)
}

fn ttl(value: &[u8]) -> Parsed<Duration> {
    let ms = varint_value(value)?;
    if ms <= MAX_TTL_MS { Ok(Duration::from_millis(ms)) } else { Err(Malformed) }
}

fn urgency(value: &[u8]) -> Parsed<u8> {
    let urgency = number(value)?;
    if urgency <= 2 { Ok(urgency) } else { Err(Malformed) }
}

fn limited(value: &[u8], least: usize, most: usize) -> Parsed<&[u8]> {
    if (least..=most).contains(&value.len()) { Ok(value) } else { Err(Malformed) }
}

/// UTF-8 of `least` to `most` bytes.
pub(super) fn text(value: &[u8], least: usize, most: usize) -> Parsed<&str> {
    core::str::from_utf8(limited(value, least, most)?).map_err(|_| Malformed)
}

/// Writes a message: its type, its fields, the end. A field that has its default value is left out.
pub(super) struct FieldWriter<'s, S>(pub(super) &'s mut S);

impl<'s, S: Sink> FieldWriter<'s, S> {
    pub(super) fn new(sink: &'s mut S, ty: u8) -> Self {
        sink.put(&[ty]);
        Self(sink)
    }

    pub(super) fn varint(&mut self, tag: u8, value: impl Into<u64>) {
        put_varint_item(self.0, tag, value.into());
    }

    pub(super) fn request(&mut self, request: RequestId) {
        self.varint(tag::REQUEST, request.0);
    }

    pub(super) fn serial(&mut self, tag: u8, serial: Serial) {
        self.varint(tag, serial.0);
    }

    pub(super) fn duration(&mut self, tag: u8, duration: Duration) {
        self.varint(tag, as_millis(duration));
    }

    pub(super) fn time(&mut self, tag: u8, time: UnixTime) {
        self.varint(tag, time.as_millis());
    }

    pub(super) fn bytes(&mut self, tag: u8, value: &[u8]) {
        put_item(self.0, tag, value);
    }

    pub(super) fn optional_bytes(&mut self, tag: u8, value: Option<&[u8]>) {
        if let Some(value) = value {
            self.bytes(tag, value);
        }
    }

    /// Nothing for an empty set; else its bytes without the zero ones at the end.
    pub(super) fn mask(&mut self, tag: u8, set: StoreSet) {
        let bytes = set.to_bytes();
        if let Some(last) = bytes.iter().rposition(|b| *b != 0) {
            self.bytes(tag, bytes.get(..=last).unwrap_or_default());
        }
    }

    pub(super) fn epoch(&mut self, epoch: Epoch) {
        self.bytes(tag::EPOCH, &epoch.0);
    }

    pub(super) fn endpoint(&mut self, endpoint: Option<SocketAddr>) {
        if let Some(endpoint) = endpoint {
            put_address_item(self.0, tag::ENDPOINT, endpoint);
        }
    }

    /// Nothing for the size that every path carries.
    pub(super) fn packet_size(&mut self, size: u16) {
        if usize::from(size) != MIN_PACKET {
            self.varint(tag::PACKET_SIZE, size);
        }
    }

    pub(super) fn retry_after(&mut self, retry_after: Duration) {
        if !retry_after.is_zero() {
            self.duration(tag::RETRY_AFTER, retry_after);
        }
    }

    pub(super) fn detail(&mut self, detail: &str) {
        let detail = truncated(detail);
        if !detail.is_empty() {
            self.bytes(tag::DETAIL, detail.as_bytes());
        }
    }

    pub(super) fn end(self) {
        put_end(self.0);
    }
}

/// Whole milliseconds, as times go on the wire.
pub(super) fn as_millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// As much of an explanation for people as fits its field.
pub(super) fn truncated(detail: &str) -> &str {
    detail.get(..detail.floor_char_boundary(MAX_DETAIL)).unwrap_or_default()
}
