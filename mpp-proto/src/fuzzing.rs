//! What the fuzzers run. The bodies live here, behind the feature `fuzzing`, so that they see the parsers, are compiled
//! by every `cargo test` and cannot rot; `fuzz/` only calls them. Nothing of this is part of the API.
//!
//! Every function takes any bytes, and panics if a promise of the library is broken.

mod by_web;
mod machines;
mod operations;
mod parsers;
pub mod parts;
mod seeds;
mod world;

pub use by_web::authentic_web;
pub use machines::{authentic_device, authentic_service, device_packet, service_packet};
pub use operations::operations;
pub use parsers::{exchange, extensions, message, plaintext, resume, stun, ticket, token, web};
pub use seeds::seeds;

/// What a fuzzer runs.
pub type Body = fn(&[u8]);

/// Every body by the name of its target in `fuzz/`.
pub const TARGETS: [(&str, Body); 15] = [
    ("authentic_device", authentic_device),
    ("authentic_service", authentic_service),
    ("authentic_web", authentic_web),
    ("device_packet", device_packet),
    ("exchange", exchange),
    ("extensions", extensions),
    ("message", message),
    ("operations", operations),
    ("plaintext", plaintext),
    ("resume", resume),
    ("service_packet", service_packet),
    ("stun", stun),
    ("ticket", ticket),
    ("token", token),
    ("web", web),
];

/// Reads choices from the fuzzer's bytes. Behind their end there are zeros, so that a shorter input is a simpler one.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn u8(&mut self) -> u8 {
        match self.0.split_first() {
            Some((first, rest)) => {
                self.0 = rest;
                *first
            }
            None => 0,
        }
    }

    fn u16(&mut self) -> u16 {
        u16::from_be_bytes([self.u8(), self.u8()])
    }

    /// Up to as many bytes as the next two say.
    fn bytes(&mut self) -> &'a [u8] {
        let len = usize::from(self.u16()).min(self.0.len());
        let (bytes, rest) = self.0.split_at(len);
        self.0 = rest;
        bytes
    }
}
