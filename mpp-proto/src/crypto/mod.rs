//! Cryptography: what bytes mean to those who hold the keys. Knows no connection and keeps no counters.
//!
//! Every type here that holds a key is wiped on drop and prints nothing of it. What is secret or is compared with a
//! secret is compared in constant time. Nothing allocates.

mod aead;
mod cookie;
mod hash;
mod ident;
mod kdf;
mod mint;
mod schedule;
mod secret;
mod share;
mod ticket;

pub(crate) use aead::{PacketKeys, open_header, open_packet, seal_packet};
pub(crate) use cookie::Cookies;
pub(crate) use hash::{same, sha256};
pub(crate) use ident::{ConnectionId, Identifiers, device_identifier};
pub use mint::TicketSpec;
pub(crate) use schedule::{
    AnswerKey, ConnectKey, ConnectionKeys, ErrorKey, HedgeKey, StepOneDigest, initiator_random,
};
pub use secret::{Secret, ServiceSecret};
pub(crate) use share::Share;
pub use ticket::TicketKey;
pub(crate) use ticket::{OpenedToken, Token};

#[cfg(test)]
mod testing {
    use std::vec::Vec;

    /// The bytes that `text` spells in hexadecimal.
    pub(super) fn hex(text: &str) -> Vec<u8> {
        assert!(text.len().is_multiple_of(2), "half a byte in {text}");
        (0..text.len()).step_by(2).map(|i| u8::from_str_radix(&text[i..i + 2], 16).unwrap()).collect()
    }
}
