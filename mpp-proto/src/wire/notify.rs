//! Notify and Status: the two messages that hold lists. Both are generic over an iterator, so that the service writes
//! them from where its events lie and the device reads them from where they arrived, and nothing is collected.

use core::net::SocketAddr;
use core::time::Duration;

use super::fields::{FieldWriter, Fields, given, tag};
use super::message::ty;
use super::{
    Emit, ExtensionList, Items, LenSink, MAX_KEY, MAX_PAYLOAD, Malformed, Parsed, Reader, Sink, put_varint,
};
use crate::ids::{RequestId, Serial, StoreId, StoreSet};
use crate::time::UnixTime;

/// An event in a Notify: `serial varint || store || expiry varint || key length || key || payload`.
#[derive(Clone, Copy, PartialEq, Eq)]
#[cfg_attr(test, derive(Debug))]
pub(crate) struct EventRef<'a> {
    /// Its number in the channel.
    pub(crate) serial: Serial,
    /// Not 0.
    pub(crate) store: StoreId,
    /// When it stops being worth anything.
    pub(crate) expiry: UnixTime,
    /// Collapse key, 1..=32 bytes.
    pub(crate) key: Option<&'a [u8]>,
    /// At most 16,384 bytes.
    pub(crate) payload: &'a [u8],
}

impl<'a> EventRef<'a> {
    fn parse(value: &'a [u8]) -> Parsed<Self> {
        let mut r = Reader::new(value);
        let serial = Serial(r.varint()?);
        let store = StoreId::new(r.u8()?).filter(|s| *s != StoreId::ANY).ok_or(Malformed)?;
        let expiry = UnixTime::from_millis(r.varint()?);
        let key = match usize::from(r.u8()?) {
            0 => None,
            len if len <= MAX_KEY => Some(r.take(len)?),
            _ => return Err(Malformed),
        };
        if r.remaining() > MAX_PAYLOAD {
            return Err(Malformed);
        }
        Ok(Self { serial, store, expiry, key, payload: r.rest() })
    }

    /// The bytes it takes in a Notify, tag and length included.
    pub(crate) fn item_len(&self) -> usize {
        let mut sink = LenSink::default();
        self.emit_item(&mut sink);
        sink.0
    }

    fn emit_item<S: Sink>(&self, sink: &mut S) {
        let mut len = LenSink::default();
        self.emit_value(&mut len);
        super::ext::put_item_head(sink, tag::EVENT, len.0);
        self.emit_value(sink);
    }

    fn emit_value<S: Sink>(&self, sink: &mut S) {
        let key = self.key.unwrap_or_default();
        put_varint(sink, self.serial.0);
        sink.put(&[self.store.number()]);
        put_varint(sink, self.expiry.as_millis());
        sink.put(&[u8::try_from(key.len()).unwrap_or(u8::MAX)]);
        sink.put(key);
        sink.put(self.payload);
    }
}

pub(super) fn check_event(value: &[u8]) -> Parsed<()> {
    EventRef::parse(value).map(|_| ())
}

/// The events of a received Notify, in order.
#[derive(Clone, Copy)]
pub(crate) struct Events<'a>(Items<'a>);

impl<'a> Iterator for Events<'a> {
    type Item = EventRef<'a>;

    fn next(&mut self) -> Option<EventRef<'a>> {
        // All were checked when the message was read.
        self.0.find(|(tag, _)| *tag == tag::EVENT).and_then(|(_, value)| EventRef::parse(value).ok())
    }
}

/// What happened in a channel after serial `told`, up to serial `upto`. `events` is an iterator of [`EventRef`],
/// which is cheap to clone and gives the same each time.
#[derive(Clone, Copy)]
#[cfg_attr(test, derive(Debug, PartialEq))]
pub(crate) struct Notify<E> {
    /// Mandatory: the serial this starts after.
    pub(crate) told: Serial,
    /// Mandatory: the last serial it covers; not below `told`.
    pub(crate) upto: Serial,
    /// Mandatory: the last serial of the channel; not below `upto`. Above it: more follows.
    pub(crate) newest: Serial,
    /// The stores that changed by events without payload.
    pub(crate) changed: StoreSet,
    /// The stores of which events are lost to this device.
    pub(crate) lost: StoreSet,
    /// What time it was at the service when this was made: by the clock by which its events expire.
    pub(crate) service_time: Option<UnixTime>,
    /// The events with payload, serials rising, within (told, upto].
    pub(crate) events: E,
}

impl<'a> Notify<Events<'a>> {
    pub(super) fn from_fields(f: &Fields<'a>, list: ExtensionList<'a>) -> Parsed<Self> {
        let notify = Self {
            told: given(f.told)?,
            upto: given(f.upto)?,
            newest: given(f.newest)?,
            changed: f.changed,
            lost: f.lost,
            service_time: f.service_time,
            events: Events(list.iter()),
        };
        let mut last = notify.told;
        for event in notify.events {
            if event.serial <= last {
                return Err(Malformed);
            }
            last = event.serial;
        }
        if last <= notify.upto && notify.upto <= notify.newest { Ok(notify) } else { Err(Malformed) }
    }
}

impl<'a, E: Iterator<Item = EventRef<'a>> + Clone> Emit for Notify<E> {
    fn emit<S: Sink>(&self, sink: &mut S) {
        let mut w = FieldWriter::new(sink, ty::NOTIFY);
        w.serial(tag::NEWEST, self.newest);
        if let Some(time) = self.service_time {
            w.time(tag::SERVICE_TIME, time);
        }
        w.mask(tag::LOST, self.lost);
        w.serial(tag::UPTO, self.upto);
        w.serial(tag::TOLD, self.told);
        w.mask(tag::CHANGED, self.changed);
        for event in self.events.clone() {
            event.emit_item(w.0);
        }
        w.end();
    }
}

/// The last serials of stores, as a Status tells them: pairs of `store` and `last varint`.
#[derive(Clone, Copy)]
pub(crate) struct StoreStatuses<'a>(Reader<'a>);

impl Iterator for StoreStatuses<'_> {
    type Item = (StoreId, Serial);

    fn next(&mut self) -> Option<Self::Item> {
        // All were checked when the message was read.
        if self.0.is_empty() { None } else { store_status(&mut self.0).ok() }
    }
}

fn store_status(r: &mut Reader<'_>) -> Parsed<(StoreId, Serial)> {
    let store = StoreId::new(r.u8()?).ok_or(Malformed)?;
    Ok((store, Serial(r.varint()?)))
}

pub(super) fn check_stores(value: &[u8]) -> Parsed<&[u8]> {
    let mut r = Reader::new(value);
    while !r.is_empty() {
        store_status(&mut r)?;
    }
    Ok(value)
}

/// How things stand: the answer to Heartbeat, or the service's own question whether the device is there. `stores` is
/// an iterator of stores and their last serials, which is cheap to clone and gives the same each time.
#[derive(Clone, Copy)]
#[cfg_attr(test, derive(Debug, PartialEq))]
pub(crate) struct Status<I> {
    /// The heartbeat it answers; not there in a probe.
    pub(crate) request: Option<RequestId>,
    /// Mandatory: the last serial of the channel.
    pub(crate) newest: Serial,
    /// Where the heartbeat came from; not there by Web.
    pub(crate) endpoint: Option<SocketAddr>,
    /// Mandatory.
    pub(crate) service_time: UnixTime,
    /// The stores that changed since told. Default: none.
    pub(crate) stores: I,
    /// How many transmissions to the device stayed without acknowledgement since it was last heard. Default: 0.
    pub(crate) unheard: u32,
    /// How long the service waits for a sign of life. Default: as the interval in the Heartbeat asks for.
    pub(crate) lease: Option<Duration>,
}

impl<'a> Status<StoreStatuses<'a>> {
    pub(super) fn from_fields(f: &Fields<'a>) -> Parsed<Self> {
        Ok(Self {
            request: f.request,
            newest: given(f.newest)?,
            endpoint: f.endpoint,
            service_time: given(f.service_time)?,
            stores: StoreStatuses(Reader::new(f.stores)),
            unheard: f.unheard,
            lease: f.lease,
        })
    }
}

impl<I: Iterator<Item = (StoreId, Serial)> + Clone> Emit for Status<I> {
    fn emit<S: Sink>(&self, sink: &mut S) {
        let mut w = FieldWriter::new(sink, ty::STATUS);
        if let Some(request) = self.request {
            w.request(request);
        }
        w.serial(tag::NEWEST, self.newest);
        w.endpoint(self.endpoint);
        w.time(tag::SERVICE_TIME, self.service_time);
        if let Some(lease) = self.lease {
            w.duration(tag::LEASE, lease);
        }
        let mut len = LenSink::default();
        self.emit_stores(&mut len);
        if len.0 > 0 {
            super::ext::put_item_head(w.0, tag::STORES, len.0);
            self.emit_stores(w.0);
        }
        if self.unheard > 0 {
            w.varint(tag::UNHEARD, self.unheard);
        }
        w.end();
    }
}

impl<I: Iterator<Item = (StoreId, Serial)> + Clone> Status<I> {
    fn emit_stores<S: Sink>(&self, sink: &mut S) {
        for (store, last) in self.stores.clone() {
            sink.put(&[store.number()]);
            put_varint(sink, last.0);
        }
    }
}

#[cfg(test)]
mod compare {
    //! Tests compare and show messages: received lists by what they say.
    use core::fmt;
    use std::vec::Vec;

    use super::{Events, StoreStatuses};

    impl PartialEq for Events<'_> {
        fn eq(&self, other: &Self) -> bool {
            Iterator::eq(*self, *other)
        }
    }

    impl fmt::Debug for Events<'_> {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            self.collect::<Vec<_>>().fmt(f)
        }
    }

    impl PartialEq for StoreStatuses<'_> {
        fn eq(&self, other: &Self) -> bool {
            Iterator::eq(*self, *other)
        }
    }

    impl fmt::Debug for StoreStatuses<'_> {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            self.collect::<Vec<_>>().fmt(f)
        }
    }
}
