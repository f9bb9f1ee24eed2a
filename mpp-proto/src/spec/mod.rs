//! SPEC.md held to the code: its examples are written here, its requirements are named by tests, and a device and a
//! service made by hand from nothing but layouts and keys talk to the real ones.

mod bases;
mod bytes;
mod defers;
mod device;
mod examples;
mod exchange;
mod fallback;
mod host;
mod limits;
mod netcheck;
mod packets;
mod paths;
mod probes;
mod renewal;
mod requests;
mod requirements;
mod service;
mod stranger;
mod timing;
mod web;
