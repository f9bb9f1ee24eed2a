//! The NAT lab.
#![cfg(target_os = "linux")]

mod claims;
mod needs;
mod netns;
mod network;
mod probe;
mod rules;
