//! What is sealed in a token (SPEC.md, "Tokens"): only a service or a back end with its ticket key ever sees it.

use super::ext::put_end;
use super::fields::text;
use super::{Emit, ExtensionList, MAX_ACCOUNT, Malformed, Parsed, Reader, Sink, put_varint};
use crate::ids::{DeviceId, Rights};
use crate::time::UnixTime;

/// What a token is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// To connect to a service.
    Service = 1,
    /// To connect to a device, once.
    Session = 2,
}

/// `purpose || account, varint length in front || device || rights || issued || expiry || extension list`; the list
/// is empty in this profile, and unknown items are ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TokenPlain<'a> {
    /// What it is good for.
    pub(crate) purpose: Purpose,
    /// 1..=128 bytes of UTF-8.
    pub(crate) account: &'a str,
    /// Which device of the account.
    pub(crate) device: DeviceId,
    /// Bits 0..=61.
    pub(crate) rights: Rights,
    /// When it was made.
    pub(crate) issued: UnixTime,
    /// When it ends.
    pub(crate) expiry: UnixTime,
}

impl<'a> TokenPlain<'a> {
    /// Reads what a token held.
    pub(crate) fn parse(bytes: &'a [u8]) -> Parsed<Self> {
        let mut r = Reader::new(bytes);
        let purpose = match r.u8()? {
            1 => Purpose::Service,
            2 => Purpose::Session,
            _ => return Err(Malformed),
        };
        let plain = Self {
            purpose,
            account: text(r.varint_bytes()?, 1, MAX_ACCOUNT)?,
            device: DeviceId(r.array()?),
            rights: Rights(r.varint()?),
            issued: UnixTime::from_millis(r.varint()?),
            expiry: UnixTime::from_millis(r.varint()?),
        };
        ExtensionList::parse(&mut r)?;
        r.end()?;
        Ok(plain)
    }
}

impl Emit for TokenPlain<'_> {
    fn emit<S: Sink>(&self, sink: &mut S) {
        sink.put(&[self.purpose as u8]);
        put_varint(sink, u64::try_from(self.account.len()).unwrap_or(u64::MAX));
        sink.put(self.account.as_bytes());
        sink.put(&self.device.0);
        // Bits that a varint cannot hold are left out; as an integer above its range they would set all others.
        put_varint(sink, self.rights.0 & super::VARINT_MAX);
        put_varint(sink, self.issued.as_millis());
        put_varint(sink, self.expiry.as_millis());
        put_end(sink);
    }
}
