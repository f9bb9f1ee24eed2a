//! Tickets: what a device needs to connect, as one line of text (SPEC.md, "Tickets").

use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::net::SocketAddr;
use core::str::FromStr;

use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::ext::{Seen, array_value, put_end, put_item, put_varint_item, varint_value};
use super::fields::text;
use super::{
    DEFAULT_WEB_PORT, Emit, Endpoint, EndpointError, ExtensionList, MAX_ACCOUNT, MAX_TOKEN, Malformed,
    Parsed, Reader, Sink, VERSION,
};
use crate::ids::DeviceId;
use crate::time::UnixTime;
use crate::wiped::SecretText;

/// What the text of a ticket begins with.
const PREFIX: &str = "mpp1_";
/// The most endpoints a ticket can name.
const MAX_ENDPOINTS: usize = 8;
/// The most base URLs of the Web Service a ticket can name.
const MAX_WEB: usize = 2;
/// The longest of them, in bytes.
const MAX_URL: usize = 255;
/// The bytes of SHA-256 at the end, so that a cut copy is recognised.
const CHECKSUM: usize = 4;

/// The tags of the list in a ticket.
mod tag {
    /// An endpoint; 1 to 8 of them, to be tried in this order.
    pub(super) const ENDPOINT: u8 = 128;
    /// 1..=256 bytes.
    pub(super) const TOKEN: u8 = 129;
    /// 32 bytes.
    pub(super) const SECRET: u8 = 130;
    /// 1..=128 bytes of UTF-8.
    pub(super) const ACCOUNT: u8 = 131;
    /// 16 bytes.
    pub(super) const DEVICE: u8 = 132;
    /// Varint, ms since 1970.
    pub(super) const EXPIRY: u8 = 133;
    /// 1..=255 bytes of text, a base URL; 0 to 2 of them, to be tried in this order.
    pub(super) const WEB: u8 = 134;
}

/// What a device needs to connect to its service: where that is, a token the service recognises, and the secret that
/// both share. Whoever has it *is* the device, so it is as precious as a password.
///
/// It is read with [`str::parse`] and written with [`Ticket::to_text`]; there is no `Display`, so that none is shown
/// by accident, and `Debug` leaves out token and secret. The secret is wiped from memory when the ticket is dropped.
#[derive(Clone)]
pub struct Ticket {
    endpoints: Vec<Endpoint>,
    token: Vec<u8>,
    secret: Zeroizing<[u8; 32]>,
    account: String,
    device: DeviceId,
    expiry: UnixTime,
    /// Empty if they follow from the endpoints.
    web: Vec<String>,
}

/// A text that is no ticket, or parts of which none can be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TicketError {
    /// It does not begin as a ticket does.
    #[error(
        "this is not a ticket: a ticket is one line that begins with `{PREFIX}`, as `mpp ticket` prints it"
    )]
    NotATicket,
    /// A character that no ticket has.
    #[error(
        "character {position} of the ticket is not one a ticket can have: copy the whole line again, without breaks"
    )]
    Character {
        /// Which one, from 1, white space in front not counted.
        position: usize,
    },
    /// The checksum is wrong.
    #[error("the ticket was cut off or changed on its way: copy the whole line again")]
    Damaged,
    /// Of another version.
    #[error(
        "the ticket has version {version}, this program reads version {VERSION}: update it, or ask for a new ticket"
    )]
    Version {
        /// Its version.
        version: u8,
    },
    /// A part is missing, there twice, or out of its limits.
    #[error("the {field} of the ticket is missing or not valid: ask whoever issued it for a new one")]
    Field {
        /// Which part.
        field: &'static str,
    },
    /// More base URLs than a ticket takes.
    #[error("{count} base URLs for the Web are more than the {MAX_WEB} that a ticket takes: leave some out")]
    WebCount {
        /// So many.
        count: usize,
    },
    /// What is no base URL.
    #[error(
        "`{0}` is no base URL for the Web: write http:// or https://, a host, if need be a port and a path, such as \
         https://presence.example/base; at most {MAX_URL} characters, no user, query or fragment"
    )]
    Web(String),
    /// An endpoint cannot stand in a ticket.
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
}

impl Ticket {
    /// A ticket made of its parts: 1 to 8 `endpoints`, tried in this order; a `token` of 1 to 256 bytes with its
    /// `secret`; an `account` name of 1 to 128 bytes.
    ///
    /// # Errors
    /// [`TicketError::Field`] or [`TicketError::Endpoint`] names the part that is out of its limits.
    pub fn new(
        endpoints: Vec<Endpoint>,
        token: Vec<u8>,
        secret: &[u8; 32],
        account: String,
        device: DeviceId,
        expiry: UnixTime,
    ) -> Result<Self, TicketError> {
        endpoints.iter().try_for_each(Endpoint::check)?;
        let (secret, web) = (Zeroizing::new(*secret), Vec::new());
        let ticket = Self { endpoints, token, secret, account, device, expiry, web };
        ticket.check()?;
        Ok(ticket)
    }

    /// The same ticket with these base URLs of the service's Web Service, tried in this order: 0 to 2 of them, each 1 to
    /// 255 bytes that begin with `http://` or `https://`. Needed only where the Web Service is not where devices look for
    /// it by themselves, see [`Self::web`]: behind a proxy that speaks TLS, say. None: that is where it is.
    ///
    /// # Errors
    /// [`TicketError::WebCount`], [`TicketError::Web`].
    pub fn with_web(self, web: Vec<String>) -> Result<Self, TicketError> {
        if web.len() > MAX_WEB {
            return Err(TicketError::WebCount { count: web.len() });
        }
        match web.iter().find(|url| !is_base_url(url)) {
            Some(url) => Err(TicketError::Web(url.chars().take(MAX_URL).collect())),
            None => Ok(Self { web, ..self }),
        }
    }

    /// The base URLs of the service's Web Service, in the order in which to try: those that the ticket names, else
    /// `http://HOST:15097` for each endpoint, each once (SPEC.md, "Tickets and tokens").
    pub fn web(&self) -> Vec<String> {
        if !self.web.is_empty() {
            return self.web.clone();
        }
        let mut bases = Vec::new();
        for endpoint in &self.endpoints {
            let base = match endpoint {
                Endpoint::Address(address) => {
                    format!("http://{}", SocketAddr::new(address.ip(), DEFAULT_WEB_PORT))
                }
                Endpoint::Name { host, .. } => format!("http://{host}:{DEFAULT_WEB_PORT}"),
            };
            if !bases.contains(&base) {
                bases.push(base);
            }
        }
        bases
    }

    /// The same ticket with what a service has given for it.
    pub(crate) fn renewed(
        &self,
        token: &[u8],
        secret: &[u8; 32],
        expiry: UnixTime,
    ) -> Result<Self, TicketError> {
        let ticket = Self { token: token.into(), secret: Zeroizing::new(*secret), expiry, ..self.clone() };
        ticket.check()?;
        Ok(ticket)
    }

    fn check(&self) -> Result<(), TicketError> {
        let limits = [
            ("list of endpoints", self.endpoints.len(), MAX_ENDPOINTS),
            ("token", self.token.len(), MAX_TOKEN),
            ("account", self.account.len(), MAX_ACCOUNT),
        ];
        match limits.into_iter().find(|(_, len, most)| !(1..=*most).contains(len)) {
            Some((field, ..)) => Err(TicketError::Field { field }),
            None => Ok(()),
        }
    }

    /// Where the service can be reached, in the order in which to try.
    pub fn endpoints(&self) -> &[Endpoint] {
        &self.endpoints
    }

    /// The name of the account.
    pub fn account(&self) -> &str {
        &self.account
    }

    /// Which device of the account its holder is.
    pub const fn device(&self) -> DeviceId {
        self.device
    }

    /// When it ends, by the clock of the service. A device never refuses a ticket by its own clock.
    pub const fn expiry(&self) -> UnixTime {
        self.expiry
    }

    /// What the service recognises; opaque to the device.
    pub(crate) fn token(&self) -> &[u8] {
        &self.token
    }

    /// What device and service share.
    pub(crate) fn secret(&self) -> &[u8; 32] {
        &self.secret
    }

    /// The ticket as one line of text, wiped from memory when it is dropped.
    pub fn to_text(&self) -> SecretText {
        let mut bytes = Zeroizing::new(Vec::with_capacity(self.emitted_len().saturating_add(CHECKSUM)));
        self.emit(&mut *bytes);
        let digest = Sha256::digest(&*bytes);
        bytes.put(digest.get(..CHECKSUM).unwrap_or_default());
        SecretText::new(base64::encode(PREFIX, &bytes))
    }

    /// Reads version 1 from the bytes behind the version, without the checksum.
    fn parse_list(bytes: &[u8]) -> Result<Self, TicketError> {
        const LIST: TicketError = TicketError::Field { field: "content" };
        let mut r = Reader::new(bytes);
        let list = ExtensionList::parse(&mut r).map_err(|_| LIST)?;
        r.end().map_err(|_| LIST)?;

        let mut parts = Parts::default();
        let mut seen = Seen::default();
        for (tag, value) in list.iter() {
            let field = match tag {
                tag::ENDPOINT => "list of endpoints",
                tag::TOKEN => "token",
                tag::SECRET => "secret",
                tag::ACCOUNT => "account",
                tag::DEVICE => "device",
                tag::EXPIRY => "expiry",
                tag::WEB => "list of base URLs",
                _ => continue,
            };
            let once = if matches!(tag, tag::ENDPOINT | tag::WEB) { Ok(()) } else { seen.once(tag) };
            once.and_then(|()| parts.set(tag, value)).map_err(|_| TicketError::Field { field })?;
        }
        let missing = |field| TicketError::Field { field };
        let ticket = Self {
            endpoints: parts.endpoints,
            token: parts.token,
            secret: parts.secret.ok_or(missing("secret"))?,
            account: parts.account,
            device: parts.device.ok_or(missing("device"))?,
            expiry: parts.expiry.ok_or(missing("expiry"))?,
            web: parts.web,
        };
        ticket.check()?;
        Ok(ticket)
    }
}

/// What has been read of a ticket.
#[derive(Default)]
struct Parts {
    endpoints: Vec<Endpoint>,
    token: Vec<u8>,
    secret: Option<Zeroizing<[u8; 32]>>,
    account: String,
    device: Option<DeviceId>,
    expiry: Option<UnixTime>,
    web: Vec<String>,
}

impl Parts {
    fn set(&mut self, tag: u8, value: &[u8]) -> Parsed<()> {
        match tag {
            tag::ENDPOINT if self.endpoints.len() < MAX_ENDPOINTS => {
                self.endpoints.push(Endpoint::parse_value(value)?);
            }
            tag::TOKEN if value.len() <= MAX_TOKEN => self.token = value.into(),
            tag::SECRET => self.secret = Some(Zeroizing::new(array_value(value)?)),
            tag::ACCOUNT => self.account = text(value, 1, MAX_ACCOUNT)?.into(),
            tag::DEVICE => self.device = Some(DeviceId(array_value(value)?)),
            tag::EXPIRY => self.expiry = Some(UnixTime::from_millis(varint_value(value)?)),
            tag::WEB if self.web.len() < MAX_WEB => {
                let url = text(value, 1, MAX_URL)?;
                if !is_base_url(url) {
                    return Err(Malformed);
                }
                self.web.push(url.to_owned());
            }
            _ => return Err(Malformed),
        }
        Ok(())
    }
}

impl Emit for Ticket {
    /// Writes everything but the checksum.
    fn emit<S: Sink>(&self, sink: &mut S) {
        sink.put(&[VERSION]);
        for endpoint in &self.endpoints {
            endpoint.emit_item(sink, tag::ENDPOINT);
        }
        put_item(sink, tag::TOKEN, &self.token);
        put_item(sink, tag::SECRET, &*self.secret);
        put_item(sink, tag::ACCOUNT, self.account.as_bytes());
        put_item(sink, tag::DEVICE, &self.device.0);
        put_varint_item(sink, tag::EXPIRY, self.expiry.as_millis());
        for url in &self.web {
            put_item(sink, tag::WEB, url.as_bytes());
        }
        put_end(sink);
    }
}

/// Whether a path can be put behind it: `http://` or `https://`, a host, and what else a URL may have in front of a query,
/// but for a user.
fn is_base_url(url: &str) -> bool {
    let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"));
    let plain = |b: u8| b.is_ascii_graphic() && !matches!(b, b'?' | b'#' | b'@' | b'\\' | b'"' | b'<' | b'>');
    url.len() <= MAX_URL
        && rest
            .is_some_and(|rest| !rest.starts_with(['/', ':']) && !rest.is_empty() && rest.bytes().all(plain))
}

impl FromStr for Ticket {
    type Err = TicketError;

    fn from_str(text: &str) -> Result<Self, TicketError> {
        let code = text.trim().strip_prefix(PREFIX).ok_or(TicketError::NotATicket)?;
        let bytes = base64::decode(code).map_err(|at| TicketError::Character {
            position: at.saturating_add(PREFIX.len()).saturating_add(1),
        })?;
        let (rest, checksum) = bytes.split_last_chunk::<CHECKSUM>().ok_or(TicketError::Damaged)?;
        if !Sha256::digest(rest).starts_with(checksum) {
            return Err(TicketError::Damaged);
        }
        match rest.split_first() {
            Some((&VERSION, list)) => Self::parse_list(list),
            Some((&version, _)) => Err(TicketError::Version { version }),
            None => Err(TicketError::Damaged),
        }
    }
}

impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ticket")
            .field("endpoints", &self.endpoints)
            .field("account", &self.account)
            .field("device", &self.device)
            .field("expiry", &self.expiry)
            .field("web", &self.web)
            .finish_non_exhaustive()
    }
}

/// Base64url without padding (RFC 4648, section 5), leaving no copies of what it converts.
mod base64 {
    use alloc::string::String;
    use alloc::vec::Vec;

    use zeroize::Zeroizing;

    const ALPHABET: [u8; 64] = *b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

    /// `prefix` and the code of `bytes`.
    pub(super) fn encode(prefix: &str, bytes: &[u8]) -> Zeroizing<String> {
        // All the room at once: a string that grows leaves its old content behind.
        let room = bytes.len().div_ceil(3).saturating_mul(4).saturating_add(prefix.len());
        let mut text = Zeroizing::new(String::with_capacity(room));
        text.push_str(prefix);
        for group in bytes.chunks(3) {
            let byte = |i: usize| u32::from(group.get(i).copied().unwrap_or(0));
            let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
            for shift in [18, 12, 6, 0].into_iter().take(group.len().saturating_add(1)) {
                let six = usize::try_from(bits >> shift & 0x3f).unwrap_or(0);
                text.push(ALPHABET.get(six).copied().map_or('-', char::from));
            }
        }
        text
    }

    /// The bytes of `text`, or the number of characters in front of the first one that is not of the alphabet. Bits
    /// left over at the end are dropped.
    pub(super) fn decode(text: &str) -> Result<Zeroizing<Vec<u8>>, usize> {
        let mut bytes = Zeroizing::new(Vec::with_capacity(text.len()));
        let (mut bits, mut count) = (0u32, 0u32);
        for (at, c) in text.chars().enumerate() {
            let six = ALPHABET.iter().position(|a| char::from(*a) == c).and_then(|i| u32::try_from(i).ok());
            bits = bits << 6 | six.ok_or(at)?;
            count = count.saturating_add(6);
            if let Some(left) = count.checked_sub(8) {
                bytes.push(bits.checked_shr(left).unwrap_or(0).to_le_bytes()[0]);
                count = left;
            }
        }
        Ok(bytes)
    }
}
