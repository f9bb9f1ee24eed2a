//! SPEC.md held to the code: its examples are written here, its requirements are named by tests, and a device made
//! by hand from nothing but layouts and keys talks to the service.

mod bytes;
mod examples;
mod exchange;
mod packets;
mod requirements;
