//! The names of things: small types, so that one number is never taken for another.

use core::fmt;

/// A device within its account: 16 bytes, chosen by whoever mints the ticket.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeviceId(pub [u8; 16]);

/// An account within a service: the first 16 bytes of SHA-256 over `mpp account 1` and its name. Names live in
/// tickets and in the host's store, not in the service's memory.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AccountId(pub [u8; 16]);

/// Which history of a channel its serials belong to. A new one is drawn only if the history was lost.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(pub [u8; 8]);

impl Epoch {
    /// No epoch: the device has seen nothing yet.
    pub const NONE: Self = Self([0; 8]);
}

/// The number of an event in its channel: dense, from 1; 0 means nothing yet. Below 2^62.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Serial(pub u64);

impl Serial {
    /// Before the first event.
    pub const ZERO: Self = Self(0);
    /// The highest that a packet can carry.
    pub const MAX: Self = Self((1 << 62) - 1);

    /// The one after this.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One shard of a service: an account lives on exactly one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShardId(pub u8);

/// One machine of a cluster that serves under one secret: 0 to 4095.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub u16);

/// The number of a request, unique in its connection, rising.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u32);

/// A numbered part of a channel: the Mesh's catalogs and spools, or an application's own from 32 on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StoreId(u8);

impl StoreId {
    /// In a filter: all stores, also later ones. Never posted.
    pub const ANY: Self = Self(0);
    /// Messages of the local spool.
    pub const LOCAL: Self = Self(1);
    /// The inbound spool: a message arrived.
    pub const INBOUND: Self = Self(2);
    /// The outbound spool.
    pub const OUTBOUND: Self = Self(3);
    /// Catalog of contacts.
    pub const CONTACT: Self = Self(11);
    /// The first number free for applications.
    pub const APPLICATION_FIRST: Self = Self(32);

    /// The names of stores 0 to 19, by number.
    const NAMES: [&'static str; 20] = [
        "any",
        "local",
        "inbound",
        "outbound",
        "archive",
        "notary",
        "access",
        "application",
        "bookmark",
        "callsign",
        "carnet",
        "contact",
        "credential",
        "device",
        "member",
        "network",
        "publication",
        "task",
        "account",
        "document",
    ];

    /// Store `number`, 0..=127; `None` above.
    pub const fn new(number: u8) -> Option<Self> {
        if number < 128 { Some(Self(number)) } else { None }
    }

    /// Its number.
    pub const fn number(self) -> u8 {
        self.0
    }

    /// Whether events may be posted to it: not [`StoreId::ANY`], and not the reserved 20..=31.
    pub const fn is_postable(self) -> bool {
        self.0 != 0 && !(self.0 >= 20 && self.0 <= 31)
    }

    /// Its name in the Mesh, if it has one.
    pub fn name(self) -> Option<&'static str> {
        Self::NAMES.get(usize::from(self.0)).copied()
    }

    /// The store of that name or number.
    pub fn parse(text: &str) -> Option<Self> {
        match Self::NAMES.iter().position(|n| *n == text) {
            Some(i) => u8::try_from(i).ok().and_then(Self::new),
            None => text.parse::<u8>().ok().and_then(Self::new),
        }
    }
}

impl fmt::Display for StoreId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => self.0.fmt(f),
        }
    }
}

/// A set of stores: bit `s` is store `s` (SPEC.md, "Store masks").
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct StoreSet(u128);

impl StoreSet {
    /// No store.
    pub const EMPTY: Self = Self(0);
    /// Every store, also those that appear later.
    pub const ALL: Self = Self(1);

    /// The set from its 16 bytes: store s in byte s/8, bit s mod 8.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(u128::from_le_bytes(bytes))
    }

    /// Its 16 bytes.
    pub const fn to_bytes(self) -> [u8; 16] {
        self.0.to_le_bytes()
    }

    /// This set with `store` in it.
    #[must_use]
    pub const fn with(self, store: StoreId) -> Self {
        Self(self.0 | 1 << store.0)
    }

    /// Puts `store` in.
    pub const fn insert(&mut self, store: StoreId) {
        self.0 |= 1 << store.0;
    }

    /// Whether the set holds `store`, by name or because it holds [`StoreId::ANY`].
    pub const fn contains(self, store: StoreId) -> bool {
        self.0 & 1 != 0 || self.0 >> store.0 & 1 != 0
    }

    /// Whether it holds no store.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The stores of either.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// The stores of both.
    #[must_use]
    pub const fn intersection(self, other: Self) -> Self {
        match (self.0 & 1 != 0, other.0 & 1 != 0) {
            (true, _) => other,
            (_, true) => self,
            _ => Self(self.0 & other.0),
        }
    }

    /// The stores that are not in `other`; all of them if this is [`StoreSet::ALL`] and `other` is not.
    #[must_use]
    pub const fn difference(self, other: Self) -> Self {
        if other.0 & 1 != 0 {
            Self::EMPTY
        } else if self.0 & 1 != 0 {
            self
        } else {
            Self(self.0 & !other.0)
        }
    }

    /// The stores named in it, in order.
    pub fn iter(self) -> impl Iterator<Item = StoreId> {
        (0..128).filter(move |s| self.0 >> s & 1 != 0).map(StoreId)
    }
}

impl FromIterator<StoreId> for StoreSet {
    fn from_iter<I: IntoIterator<Item = StoreId>>(stores: I) -> Self {
        stores.into_iter().fold(Self::EMPTY, Self::with)
    }
}

impl fmt::Debug for StoreSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter().map(StoreId::number)).finish()
    }
}

impl fmt::Display for StoreSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, store) in self.iter().enumerate() {
            if i > 0 {
                f.write_str(", ")?;
            }
            store.fmt(f)?;
        }
        Ok(())
    }
}

/// The name of a network that a device's machine can be on: 16 bytes that its host makes of what stays the same while
/// it is there and differs elsewhere, such as a hash of a Wi-Fi's name and the hardware address of its gateway. What a
/// device learns of a network it keeps under this name. It is never sent.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct NetworkId(pub [u8; 16]);

/// What the holder of a ticket may do (SPEC.md, "Tickets"). Unknown bits are kept and ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Rights(pub u64);

impl Rights {
    /// Receive the notifications of the own account.
    pub const RECEIVE: Self = Self(1);
    /// Post to the own channel.
    pub const POST_OWN: Self = Self(2);
    /// Post to other accounts' channels.
    pub const POST_OTHERS: Self = Self(4);
    /// Request sessions with other accounts' devices.
    pub const SESSIONS: Self = Self(8);
    /// Ask who is online.
    pub const PRESENCE: Self = Self(16);
    /// Use the DNS proxy.
    pub const DNS: Self = Self(32);

    /// Whether all of `other` is held.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Both.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl Default for Rights {
    /// Receive, and post to the own channel.
    fn default() -> Self {
        Self::RECEIVE.union(Self::POST_OWN)
    }
}

macro_rules! hex_debug {
    ($($name:ident),*) => {$(
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
            }
        }
    )*};
}
hex_debug!(DeviceId, AccountId, Epoch, NetworkId);
