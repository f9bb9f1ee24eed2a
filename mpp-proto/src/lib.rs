//! Mesh Presence Protocol: the protocol as pure state machines.
#![no_std]
extern crate alloc;
#[cfg(test)]
extern crate std;

mod crypto;
mod ids;
mod path;
mod pool;
mod random;
mod time;
mod wheel;
mod wire;
