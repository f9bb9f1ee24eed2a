//! The device.
mod config;
mod event;
pub use config::{Acknowledgement, DeviceConfig};
pub use event::*;
