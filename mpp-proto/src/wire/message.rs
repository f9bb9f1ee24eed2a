//! Messages: what a datagram carries (SPEC.md, "Messages"). The first byte is the type, the rest a list of fields.
//!
//! A field that is mandatory makes a message malformed if it is missing; one with a default is not sent if it has
//! that value. Sets of stores default to the empty set, `retry_after` to zero ("not said"), `detail` to no text.

use core::net::SocketAddr;
use core::num::NonZeroU16;
use core::time::Duration;

use super::fields::{FieldWriter, Fields, as_millis, given, tag};
use super::{
    Code, DEVICE_IDENTIFIER, ECHO, Emit, Events, ExtensionList, Malformed, Notify, Parsed, ProbeAnswer,
    ProbeRequest, RESET_TOKEN, Reader,
};
use super::{
    MAX_CONNECT_SERIAL, MIN_PACKET, SERVICE_IDENTIFIER, Sink, Status, StoreStatuses, TicketRequest,
    TicketResponse,
};
use crate::ids::{Epoch, RequestId, Serial, StoreId, StoreSet};
use crate::time::UnixTime;

/// Message types.
pub(crate) mod ty {
    pub(crate) const CONNECT: u8 = 1;
    pub(crate) const CONNECT_RESPONSE: u8 = 2;
    pub(crate) const HEARTBEAT: u8 = 3;
    pub(crate) const STATUS: u8 = 4;
    pub(crate) const NOTIFY: u8 = 5;
    pub(crate) const ACKNOWLEDGE: u8 = 6;
    pub(crate) const SUBSCRIBE: u8 = 7;
    pub(crate) const SUBSCRIBED: u8 = 8;
    pub(crate) const POST: u8 = 9;
    pub(crate) const POSTED: u8 = 10;
    pub(crate) const ENDPOINT_REQUEST: u8 = 11;
    pub(crate) const ENDPOINT_RESPONSE: u8 = 12;
    pub(crate) const PROBE_REQUEST: u8 = 13;
    pub(crate) const PROBE_ANSWER: u8 = 14;
    pub(crate) const FAILURE: u8 = 22;
    pub(crate) const TICKET_REQUEST: u8 = 23;
    pub(crate) const TICKET_RESPONSE: u8 = 24;
}

/// The heartbeat interval of a device that names none.
const DEFAULT_INTERVAL: Duration = Duration::from_secs(25);
/// The urgency of an event that names none: normal.
const DEFAULT_URGENCY: u8 = 1;
#[expect(clippy::cast_possible_truncation, reason = "1200 fits")]
const DEFAULT_PACKET_SIZE: u16 = MIN_PACKET as u16;

/// What a device asks for when it connects; sealed in step 1.
#[derive(Clone, Copy)]
#[cfg_attr(test, derive(Debug, PartialEq))]
pub(crate) struct Connect<'a> {
    /// Mandatory. Above all earlier ones of the device.
    pub(crate) connect_serial: u64,
    /// Mandatory: the first identifiers under which the device wants to be sent packets, n x 8 bytes, n >= 1.
    pub(crate) identifiers: &'a [u8],
    /// Which history `position` belongs to. Default: none.
    pub(crate) epoch: Epoch,
    /// What the application has taken. Default: 0.
    pub(crate) position: Serial,
    /// The stores subscribed to.
    pub(crate) filter: StoreSet,
    /// The stores for which `position` holds.
    pub(crate) covered: StoreSet,
    /// The largest packet the device can take, 1200..=1452 bytes; larger offers read as 1452. Default: 1200.
    pub(crate) packet_size: u16,
    /// The heartbeat interval. Default: 25 s.
    pub(crate) interval: Duration,
}

/// What the service answers; sealed in the answer to step 1.
#[derive(Clone, Copy)]
#[cfg_attr(test, derive(Debug, PartialEq))]
pub(crate) struct ConnectResponse<'a> {
    /// Mandatory: identifiers for packets to the service, each with its reset token, n x (16 + 16) bytes, n >= 1.
    pub(crate) identifiers: &'a [u8],
    /// Mandatory.
    pub(crate) epoch: Epoch,
    /// Mandatory: the last serial of the channel.
    pub(crate) newest: Serial,
    /// The stores of which events are lost to this device.
    pub(crate) lost: StoreSet,
    /// Where step 1 came from; not there by Web.
    pub(crate) endpoint: Option<SocketAddr>,
    /// Mandatory.
    pub(crate) service_time: UnixTime,
    /// Mandatory: how long the service waits for a sign of life.
    pub(crate) lease: Duration,
    /// Mandatory: when to connect anew for fresh keys.
    pub(crate) refresh_after: Duration,
    /// The packet size of the connection, 1200..=1452 bytes. Default: 1200.
    pub(crate) packet_size: u16,
    /// Whether the service would give another ticket for this one.
    pub(crate) renew: bool,
    /// Whether the device has a connection, which goes on until this one is confirmed.
    pub(crate) in_use: bool,
    /// Another UDP port of the service, at the same addresses.
    pub(crate) check_port: Option<NonZeroU16>,
}

/// A device's sign of life; answered by Status.
#[derive(Clone, Copy)]
#[cfg_attr(test, derive(Debug, PartialEq))]
pub(crate) struct Heartbeat {
    /// Mandatory.
    pub(crate) request: RequestId,
    /// Mandatory: when the next is due.
    pub(crate) interval: Duration,
    /// Mandatory: the high-water mark, up to which Notify has arrived.
    pub(crate) mark: Serial,
    /// Mandatory: what the application has taken.
    pub(crate) position: Serial,
}

/// What the application has taken.
#[derive(Clone, Copy)]
#[cfg_attr(test, derive(Debug, PartialEq))]
pub(crate) struct Acknowledge {
    /// Mandatory.
    pub(crate) position: Serial,
}

/// Replaces the filter.
#[derive(Clone, Copy)]
#[cfg_attr(test, derive(Debug, PartialEq))]
pub(crate) struct Subscribe {
    /// Mandatory.
    pub(crate) request: RequestId,
    /// The stores subscribed to; none: unsubscribed.
    pub(crate) filter: StoreSet,
    /// The stores for which `position` holds.
    pub(crate) covered: StoreSet,
    /// Default: 0.
    pub(crate) position: Serial,
    /// Default: none.
    pub(crate) epoch: Epoch,
}

/// The answer to [`Subscribe`].
#[derive(Clone, Copy)]
#[cfg_attr(test, derive(Debug, PartialEq))]
pub(crate) struct Subscribed {
    /// Mandatory.
    pub(crate) request: RequestId,
    /// Mandatory: the last serial of the channel.
    pub(crate) newest: Serial,
    /// The stores of which events are lost to this device.
    pub(crate) lost: StoreSet,
}

/// An event for a channel.
#[derive(Clone, Copy)]
#[cfg_attr(test, derive(Debug, PartialEq))]
pub(crate) struct Post<'a> {
    /// Mandatory.
    pub(crate) request: RequestId,
    /// Mandatory: the same for every repetition of this event.
    pub(crate) post_id: [u8; 16],
    /// Mandatory. Whether it takes posts is the service's answer, not a matter of form.
    pub(crate) store: StoreId,
    /// Time to live, at most 30 days. Default: 24 h.
    pub(crate) ttl: Option<Duration>,
    /// 0 low, 1 normal, 2 high. Default: 1.
    pub(crate) urgency: u8,
    /// Collapse key, 1..=32 bytes.
    pub(crate) key: Option<&'a [u8]>,
    /// At most 16,384 bytes and what fits one packet. Without it the event says that the store changed.
    pub(crate) payload: Option<&'a [u8]>,
    /// Whose channel. Default: the device's own account.
    pub(crate) account: Option<&'a str>,
}

/// The answer to [`Post`].
#[derive(Clone, Copy)]
#[cfg_attr(test, derive(Debug, PartialEq))]
pub(crate) struct Posted {
    /// Mandatory.
    pub(crate) request: RequestId,
    /// The serial of the event; not there if it went to another account.
    pub(crate) serial: Option<Serial>,
}

/// Asks where this packet comes from.
#[derive(Clone, Copy)]
#[cfg_attr(test, derive(Debug, PartialEq))]
pub(crate) struct EndpointRequest {
    /// Mandatory.
    pub(crate) request: RequestId,
}

/// The answer to [`EndpointRequest`].
#[derive(Clone, Copy)]
#[cfg_attr(test, derive(Debug, PartialEq))]
pub(crate) struct EndpointResponse {
    /// Mandatory.
    pub(crate) request: RequestId,
    /// Mandatory.
    pub(crate) endpoint: SocketAddr,
    /// Shows in a ProbeRequest that this has arrived there. Default: none, the service answers no probes.
    pub(crate) echo: Option<[u8; ECHO]>,
}

/// A request was refused.
#[derive(Clone, Copy)]
#[cfg_attr(test, derive(Debug, PartialEq))]
pub(crate) struct Failure<'a> {
    /// Mandatory.
    pub(crate) request: RequestId,
    /// Mandatory.
    pub(crate) code: Code,
    /// When to try again.
    pub(crate) retry_after: Duration,
    /// For people, at most 128 bytes; what is longer is cut when it is sent.
    pub(crate) detail: &'a str,
}

/// Why the service did not let a device in; sealed in an Error. A message of Failure's type without a request id.
#[derive(Clone, Copy)]
#[cfg_attr(test, derive(Debug, PartialEq))]
pub(crate) struct ErrorBody<'a> {
    /// Mandatory.
    pub(crate) code: Code,
    /// When to try again.
    pub(crate) retry_after: Duration,
    /// With 409: the last connect serial that was confirmed.
    pub(crate) serial: Option<u64>,
    /// For people, at most 128 bytes; what is longer is cut when it is sent.
    pub(crate) detail: &'a str,
}

/// Any message of a data packet.
#[derive(Clone, Copy)]
#[cfg_attr(test, derive(Debug, PartialEq))]
pub(crate) enum Message<'a> {
    Heartbeat(Heartbeat),
    Status(Status<StoreStatuses<'a>>),
    Notify(Notify<Events<'a>>),
    Acknowledge(Acknowledge),
    Subscribe(Subscribe),
    Subscribed(Subscribed),
    Post(Post<'a>),
    Posted(Posted),
    EndpointRequest(EndpointRequest),
    EndpointResponse(EndpointResponse),
    ProbeRequest(ProbeRequest),
    ProbeAnswer(ProbeAnswer),
    Failure(Failure<'a>),
    TicketRequest(TicketRequest<'a>),
    TicketResponse(TicketResponse<'a>),
    /// A type that does not come in a data packet: answered with 400 if it has a request id, else ignored.
    Unknown {
        request: Option<RequestId>,
    },
}

impl<'a> Message<'a> {
    /// The request in a message that a device sends and wants an answer to.
    pub(crate) const fn request(&self) -> Option<RequestId> {
        match self {
            Self::Heartbeat(Heartbeat { request, .. })
            | Self::Subscribe(Subscribe { request, .. })
            | Self::Post(Post { request, .. })
            | Self::EndpointRequest(EndpointRequest { request })
            | Self::ProbeRequest(ProbeRequest { request, .. })
            | Self::TicketRequest(TicketRequest { request, .. }) => Some(*request),
            Self::Unknown { request } => *request,
            _ => None,
        }
    }

    /// Reads a complete message.
    pub(crate) fn parse(bytes: &'a [u8]) -> Parsed<Self> {
        let (ty, list) = split(bytes)?;
        let f = Fields::parse(list)?;
        Ok(match ty {
            ty::HEARTBEAT => Self::Heartbeat(Heartbeat {
                request: given(f.request)?,
                interval: given(f.interval)?,
                mark: given(f.mark)?,
                position: given(f.position)?,
            }),
            ty::STATUS => Self::Status(Status::from_fields(&f)?),
            ty::NOTIFY => Self::Notify(Notify::from_fields(&f, list)?),
            ty::ACKNOWLEDGE => Self::Acknowledge(Acknowledge { position: given(f.position)? }),
            ty::SUBSCRIBE => Self::Subscribe(Subscribe {
                request: given(f.request)?,
                filter: f.filter,
                covered: f.covered,
                position: f.position.unwrap_or_default(),
                epoch: f.epoch,
            }),
            ty::SUBSCRIBED => Self::Subscribed(Subscribed {
                request: given(f.request)?,
                newest: given(f.newest)?,
                lost: f.lost,
            }),
            ty::POST => Self::Post(Post::from_fields(&f)?),
            ty::POSTED => Self::Posted(Posted { request: given(f.request)?, serial: f.serial }),
            ty::ENDPOINT_REQUEST => Self::EndpointRequest(EndpointRequest { request: given(f.request)? }),
            ty::ENDPOINT_RESPONSE => Self::EndpointResponse(EndpointResponse {
                request: given(f.request)?,
                endpoint: given(f.endpoint)?,
                echo: f.echo,
            }),
            ty::PROBE_REQUEST => Self::ProbeRequest(ProbeRequest::from_fields(&f)?),
            ty::PROBE_ANSWER => Self::ProbeAnswer(ProbeAnswer::from_fields(&f)?),
            ty::FAILURE => Self::Failure(Failure {
                request: given(f.request)?,
                code: given(f.code)?,
                retry_after: f.retry_after,
                detail: f.detail,
            }),
            ty::TICKET_REQUEST => Self::TicketRequest(TicketRequest::from_fields(&f)?),
            ty::TICKET_RESPONSE => Self::TicketResponse(TicketResponse::from_fields(&f)?),
            // Of an exchange, where they are sealed in other packets.
            ty::CONNECT | ty::CONNECT_RESPONSE => return Err(Malformed),
            _ => Self::Unknown { request: f.request },
        })
    }
}

/// The type and the fields of a message that has nothing behind them.
fn split(bytes: &[u8]) -> Parsed<(u8, ExtensionList<'_>)> {
    let mut reader = Reader::new(bytes);
    let ty = reader.u8()?;
    let list = ExtensionList::parse(&mut reader)?;
    reader.end()?;
    Ok((ty, list))
}

impl<'a> Connect<'a> {
    /// Reads the message sealed in step 1.
    pub(crate) fn parse(bytes: &'a [u8]) -> Parsed<Self> {
        match split(bytes)? {
            (ty::CONNECT, list) => Self::from_fields(&Fields::parse(list)?),
            _ => Err(Malformed),
        }
    }

    fn from_fields(f: &Fields<'a>) -> Parsed<Self> {
        Ok(Self {
            connect_serial: given(f.connect_serial.filter(|serial| *serial <= MAX_CONNECT_SERIAL))?,
            identifiers: f.given_identifiers(DEVICE_IDENTIFIER)?,
            epoch: f.epoch,
            position: f.position.unwrap_or_default(),
            filter: f.filter,
            covered: f.covered,
            packet_size: f.packet_size.unwrap_or(DEFAULT_PACKET_SIZE),
            interval: f.interval.unwrap_or(DEFAULT_INTERVAL),
        })
    }
}

impl Emit for Connect<'_> {
    fn emit<S: Sink>(&self, sink: &mut S) {
        let mut w = FieldWriter::new(sink, ty::CONNECT);
        if self.position != Serial::ZERO {
            w.serial(tag::POSITION, self.position);
        }
        if self.epoch != Epoch::NONE {
            w.epoch(self.epoch);
        }
        w.mask(tag::FILTER, self.filter);
        w.mask(tag::COVERED, self.covered);
        w.varint(tag::CONNECT_SERIAL, self.connect_serial);
        w.packet_size(self.packet_size);
        if as_millis(self.interval) != as_millis(DEFAULT_INTERVAL) {
            w.duration(tag::INTERVAL, self.interval);
        }
        w.bytes(tag::IDENTIFIERS, self.identifiers);
        w.end();
    }
}

impl<'a> ConnectResponse<'a> {
    /// Reads the message sealed in the answer.
    pub(crate) fn parse(bytes: &'a [u8]) -> Parsed<Self> {
        match split(bytes)? {
            (ty::CONNECT_RESPONSE, list) => Self::from_fields(&Fields::parse(list)?),
            _ => Err(Malformed),
        }
    }

    fn from_fields(f: &Fields<'a>) -> Parsed<Self> {
        Ok(Self {
            identifiers: f.given_identifiers(SERVICE_IDENTIFIER + RESET_TOKEN)?,
            epoch: f.given_epoch()?,
            newest: given(f.newest)?,
            lost: f.lost,
            endpoint: f.endpoint,
            service_time: given(f.service_time)?,
            lease: given(f.lease)?,
            refresh_after: given(f.refresh_after)?,
            packet_size: f.packet_size.unwrap_or(DEFAULT_PACKET_SIZE),
            renew: f.renew,
            in_use: f.in_use,
            check_port: f.check_port,
        })
    }
}

impl Emit for ConnectResponse<'_> {
    fn emit<S: Sink>(&self, sink: &mut S) {
        let mut w = FieldWriter::new(sink, ty::CONNECT_RESPONSE);
        w.epoch(self.epoch);
        w.packet_size(self.packet_size);
        w.serial(tag::NEWEST, self.newest);
        w.endpoint(self.endpoint);
        w.time(tag::SERVICE_TIME, self.service_time);
        w.mask(tag::LOST, self.lost);
        w.duration(tag::LEASE, self.lease);
        w.duration(tag::REFRESH_AFTER, self.refresh_after);
        w.bytes(tag::IDENTIFIERS, self.identifiers);
        if self.renew {
            w.bytes(tag::RENEW, &[]);
        }
        if self.in_use {
            w.bytes(tag::IN_USE, &[]);
        }
        if let Some(port) = self.check_port {
            w.varint(tag::CHECK_PORT, port.get());
        }
        w.end();
    }
}

impl Emit for Heartbeat {
    fn emit<S: Sink>(&self, sink: &mut S) {
        let mut w = FieldWriter::new(sink, ty::HEARTBEAT);
        w.request(self.request);
        w.serial(tag::POSITION, self.position);
        w.duration(tag::INTERVAL, self.interval);
        w.serial(tag::MARK, self.mark);
        w.end();
    }
}

impl Emit for Acknowledge {
    fn emit<S: Sink>(&self, sink: &mut S) {
        let mut w = FieldWriter::new(sink, ty::ACKNOWLEDGE);
        w.serial(tag::POSITION, self.position);
        w.end();
    }
}

impl Emit for Subscribe {
    fn emit<S: Sink>(&self, sink: &mut S) {
        let mut w = FieldWriter::new(sink, ty::SUBSCRIBE);
        w.request(self.request);
        if self.position != Serial::ZERO {
            w.serial(tag::POSITION, self.position);
        }
        if self.epoch != Epoch::NONE {
            w.epoch(self.epoch);
        }
        w.mask(tag::FILTER, self.filter);
        w.mask(tag::COVERED, self.covered);
        w.end();
    }
}

impl Emit for Subscribed {
    fn emit<S: Sink>(&self, sink: &mut S) {
        let mut w = FieldWriter::new(sink, ty::SUBSCRIBED);
        w.request(self.request);
        w.serial(tag::NEWEST, self.newest);
        w.mask(tag::LOST, self.lost);
        w.end();
    }
}

impl<'a> Post<'a> {
    fn from_fields(f: &Fields<'a>) -> Parsed<Self> {
        Ok(Self {
            request: given(f.request)?,
            post_id: given(f.post_id)?,
            store: given(f.store)?,
            ttl: f.ttl,
            urgency: f.urgency.unwrap_or(DEFAULT_URGENCY),
            key: f.key,
            payload: f.payload,
            account: f.account,
        })
    }
}

impl Emit for Post<'_> {
    fn emit<S: Sink>(&self, sink: &mut S) {
        let mut w = FieldWriter::new(sink, ty::POST);
        w.request(self.request);
        w.bytes(tag::STORE, &[self.store.number()]);
        w.optional_bytes(tag::PAYLOAD, self.payload);
        if let Some(ttl) = self.ttl {
            w.duration(tag::TTL, ttl);
        }
        if self.urgency != DEFAULT_URGENCY {
            w.varint(tag::URGENCY, self.urgency);
        }
        w.optional_bytes(tag::KEY, self.key);
        w.bytes(tag::POST_ID, &self.post_id);
        w.optional_bytes(tag::ACCOUNT, self.account.map(str::as_bytes));
        w.end();
    }
}

impl Emit for Posted {
    fn emit<S: Sink>(&self, sink: &mut S) {
        let mut w = FieldWriter::new(sink, ty::POSTED);
        w.request(self.request);
        if let Some(serial) = self.serial {
            w.serial(tag::SERIAL, serial);
        }
        w.end();
    }
}

impl Emit for EndpointRequest {
    fn emit<S: Sink>(&self, sink: &mut S) {
        let mut w = FieldWriter::new(sink, ty::ENDPOINT_REQUEST);
        w.request(self.request);
        w.end();
    }
}

impl Emit for EndpointResponse {
    fn emit<S: Sink>(&self, sink: &mut S) {
        let mut w = FieldWriter::new(sink, ty::ENDPOINT_RESPONSE);
        w.request(self.request);
        w.endpoint(Some(self.endpoint));
        w.optional_bytes(tag::ECHO, self.echo.as_ref().map(<[u8; ECHO]>::as_slice));
        w.end();
    }
}

impl Emit for Failure<'_> {
    fn emit<S: Sink>(&self, sink: &mut S) {
        let mut w = FieldWriter::new(sink, ty::FAILURE);
        w.request(self.request);
        w.varint(tag::CODE, self.code.number());
        w.retry_after(self.retry_after);
        w.detail(self.detail);
        w.end();
    }
}

impl<'a> ErrorBody<'a> {
    /// Reads the message sealed in an Error.
    pub(crate) fn parse(bytes: &'a [u8]) -> Parsed<Self> {
        let (ty::FAILURE, list) = split(bytes)? else { return Err(Malformed) };
        let f = Fields::parse(list)?;
        Ok(Self {
            code: given(f.code)?,
            retry_after: f.retry_after,
            serial: f.serial.map(|s| s.0),
            detail: f.detail,
        })
    }
}

impl Emit for ErrorBody<'_> {
    fn emit<S: Sink>(&self, sink: &mut S) {
        let mut w = FieldWriter::new(sink, ty::FAILURE);
        if let Some(serial) = self.serial {
            w.varint(tag::SERIAL, serial);
        }
        w.varint(tag::CODE, self.code.number());
        w.retry_after(self.retry_after);
        w.detail(self.detail);
        w.end();
    }
}
