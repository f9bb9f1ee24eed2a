//! Making tickets.

use alloc::string::String;
use alloc::vec::Vec;

use super::TicketKey;
use crate::ids::{DeviceId, Rights};
use crate::time::UnixTime;
use crate::wire::{Emit, Endpoint, Purpose, Ticket, TicketError, TokenPlain};

/// What a new ticket will say.
#[derive(Clone, Debug)]
pub struct TicketSpec {
    /// Where the service is: 1 to 8, tried in this order.
    pub endpoints: Vec<Endpoint>,
    /// The account's name, 1 to 128 bytes.
    pub account: String,
    /// Which device of the account.
    pub device: DeviceId,
    /// What its holder may do.
    pub rights: Rights,
    /// Now.
    pub issued: UnixTime,
    /// When it ends.
    pub expiry: UnixTime,
}

impl TicketKey {
    /// Makes a ticket. Whoever has the key can do this anywhere; the service is not asked and remembers nothing.
    /// `fresh` are 32 bytes from the operating system's generator.
    ///
    /// # Errors
    /// [`TicketError`] names what is out of its limits.
    pub fn mint(&self, spec: &TicketSpec, fresh: &[u8; 32]) -> Result<Ticket, TicketError> {
        let plain = TokenPlain {
            purpose: Purpose::Service,
            account: &spec.account,
            device: spec.device,
            rights: spec.rights,
            issued: spec.issued,
            expiry: spec.expiry,
        };
        let mut bytes = Vec::new();
        plain.emit(&mut bytes);
        let field = TicketError::Field { field: "account name" };
        let (token, secret) = self.seal(&bytes, fresh).map_err(|_| field)?;
        Ticket::new(
            spec.endpoints.clone(),
            token.as_bytes().to_vec(),
            secret.expose(),
            spec.account.clone(),
            spec.device,
            spec.expiry,
        )
    }
}
