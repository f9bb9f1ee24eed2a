//! Which shard of which node a packet is for (SPEC.md, "Stream identifiers"). An account lives on exactly one shard of
//! its node, so shards share nothing but keys.

use alloc::sync::Arc;
use core::fmt;

use super::ServiceConfig;
use super::exchange::Holder;
use crate::crypto::{ConnectionId, Identifiers, TicketKey};
use crate::ids::{AccountId, NodeId, ShardId};
use crate::wire::{Kind, SERVICE_IDENTIFIER, Step1, classify_service};

/// The highest number of shards: it has eight bits in an identifier.
const MAX_SHARDS: u16 = 256;

/// Where a packet belongs that came to the port of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Route {
    /// To this shard of this node.
    Shard(ShardId),
    /// To another node.
    Node(NodeId),
    /// To any shard of this node: a first packet that opens no ticket. Whichever takes it answers without a trace, or
    /// counts and drops it.
    Any,
    /// A STUN Binding request, which any shard may answer.
    Stun,
    /// Nothing of this service: no shard has any use for it.
    Foreign,
}

/// Tells for any packet to which shard or node it belongs, for a host that runs several: it holds keys and no state, so
/// each thread that receives can have one.
///
/// Whoever has one socket for several shards routes with it; with a socket for each shard it is enough to heed
/// [`Disposition::OtherShard`](crate::Disposition::OtherShard).
#[derive(Clone)]
pub struct Router {
    layout: Layout,
    identifiers: Identifiers,
    ticket_keys: Arc<[TicketKey]>,
}

impl Router {
    /// The router of all services with these settings.
    pub fn new(config: &ServiceConfig) -> Self {
        Self {
            layout: Layout::new(config),
            identifiers: Identifiers::new(&config.secret),
            ticket_keys: config.ticket_keys.as_slice().into(),
        }
    }

    /// Takes other ticket keys from now on, as [`Service::set_ticket_keys`](super::Service::set_ticket_keys) does. A router
    /// that does not know a new key yet says [`Route::Any`] of its tickets, and whichever shard gets one hands it on.
    pub fn set_ticket_keys(&mut self, keys: &[TicketKey]) {
        self.ticket_keys = keys.into();
    }

    /// Where a packet belongs. Costs one AES block, and for a first packet the opening of its token. That the packet is
    /// authentic, only its shard finds out.
    pub fn route(&self, packet: &[u8]) -> Route {
        match classify_service(packet) {
            Kind::Step1 => Step1::parse(packet)
                .ok()
                .and_then(|step1| Holder::open(&self.ticket_keys, step1.token).ok())
                .map_or(Route::Any, |holder| Route::Shard(self.shard_of(&holder.account))),
            Kind::Data => packet
                .first_chunk::<SERVICE_IDENTIFIER>()
                .and_then(|identifier| self.identifiers.open(identifier))
                .map_or(Route::Foreign, |id| self.layout.route(id)),
            Kind::Stun => Route::Stun,
            Kind::None => Route::Foreign,
        }
    }

    /// The shard on which an account lives.
    pub fn shard_of(&self, account: &AccountId) -> ShardId {
        self.layout.shard_of(account)
    }

    /// How many shards there are: those with the numbers below this.
    pub fn shards(&self) -> usize {
        self.layout.shards() as usize
    }
}

impl fmt::Debug for Router {
    // The rest is keys.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Router").field("layout", &self.layout).finish_non_exhaustive()
    }
}

/// How the accounts are spread.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layout {
    node: u16,
    /// 1..=256.
    shards: u16,
}

impl Layout {
    pub(super) fn new(config: &ServiceConfig) -> Self {
        Self { node: config.node, shards: config.shards.clamp(1, MAX_SHARDS) }
    }

    pub(super) fn shards(self) -> u32 {
        self.shards.into()
    }

    /// The shard on which an account lives. Ids are hashes, so they spread by themselves.
    pub(super) fn shard_of(self, account: &AccountId) -> ShardId {
        self.shard(u128::from_be_bytes(account.0))
    }

    /// Who answers for a connection. One of a shard that there is no more (there were more of them before a restart) has
    /// an heir, who says that it is gone.
    pub(super) fn route(self, id: ConnectionId) -> Route {
        if id.node == self.node {
            Route::Shard(self.shard(id.shard.into()))
        } else {
            Route::Node(NodeId(id.node))
        }
    }

    fn shard(self, number: u128) -> ShardId {
        // Below 256.
        ShardId((number % u128::from(self.shards)) as u8)
    }
}
