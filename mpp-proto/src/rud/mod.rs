//! One connection: what both sides do with datagrams and packets.

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

pub(crate) mod flight;
pub(crate) mod nonces;
pub(crate) mod reassembly;
pub(crate) mod replay;
pub(crate) mod rtt;
