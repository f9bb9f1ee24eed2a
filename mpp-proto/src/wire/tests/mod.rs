//! Tests of layouts that need more room than their module has: round trips, limits, totality.

mod exchange;
mod message;
mod ticket;

use alloc::vec::Vec;
use core::net::SocketAddr;
use core::time::Duration;

use proptest::prelude::*;

use super::{Emit, VARINT_MAX};
use crate::ids::{DeviceId, Epoch, RequestId, Serial, StoreId, StoreSet};
use crate::time::UnixTime;

fn bytes_of(value: &impl Emit) -> Vec<u8> {
    let mut out = Vec::new();
    value.emit(&mut out);
    assert_eq!(out.len(), value.emitted_len());
    out
}

/// Integers of all lengths, not only large ones.
fn varint() -> impl Strategy<Value = u64> {
    (any::<u64>(), 0u32..62).prop_map(|(v, shift)| (v & VARINT_MAX) >> shift)
}

fn serial() -> impl Strategy<Value = Serial> {
    varint().prop_map(Serial)
}

fn time() -> impl Strategy<Value = UnixTime> {
    varint().prop_map(UnixTime::from_millis)
}

fn millis() -> impl Strategy<Value = Duration> {
    varint().prop_map(Duration::from_millis)
}

fn request() -> impl Strategy<Value = RequestId> {
    any::<u32>().prop_map(RequestId)
}

fn epoch() -> impl Strategy<Value = Epoch> {
    prop_oneof![Just(Epoch::NONE), any::<[u8; 8]>().prop_map(Epoch)]
}

fn device() -> impl Strategy<Value = DeviceId> {
    any::<[u8; 16]>().prop_map(DeviceId)
}

fn stores() -> impl Strategy<Value = StoreSet> {
    (any::<u128>(), 0u32..129)
        .prop_map(|(bits, shift)| StoreSet::from_bytes(bits.checked_shr(shift).unwrap_or(0).to_le_bytes()))
}

fn store(least: u8) -> impl Strategy<Value = StoreId> {
    (least..128).prop_map(|s| StoreId::new(s).unwrap())
}

fn address() -> impl Strategy<Value = SocketAddr> {
    prop_oneof![
        any::<([u8; 4], u16)>().prop_map(SocketAddr::from),
        any::<([u8; 16], u16)>().prop_map(SocketAddr::from),
    ]
}

fn bytes(len: core::ops::Range<usize>) -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(any::<u8>(), len)
}
