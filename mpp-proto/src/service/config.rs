//! What the host of a service may choose.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::num::NonZeroU16;
use core::time::Duration;

use super::limits::Rate;
use super::shard::Layout;
use crate::crypto::{ServiceSecret, TicketKey};

/// When a device has to prove its address before the service does any public-key work for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DeferPolicy {
    /// Always: one more round trip for everybody.
    Always,
    /// Above this number of half-open connections.
    Above {
        /// The number.
        half_open: u32,
    },
}

/// Which accounts have a channel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum AccountPolicy {
    /// A valid ticket opens the channel of its account.
    #[default]
    Open,
    /// Only those that the host restored; others are answered with 404.
    Restored,
}

/// Who decides about the posts of devices to their own channel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum OwnPosts {
    /// The service appends them: the log is in memory.
    #[default]
    Append,
    /// The host, which is given each as [`ServiceEvent::Post`](super::ServiceEvent::Post): the log is its own.
    Host,
}

/// Who decides about the posts of devices to the channels of other accounts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum ForeignPosts {
    /// Nobody: they are refused.
    #[default]
    Refuse,
    /// The host, which is given each as [`ServiceEvent::Post`](super::ServiceEvent::Post): it knows who may post to
    /// whom.
    Host,
}

/// The settings of a [`Service`](super::Service).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ServiceConfig {
    /// From which identifiers, reset tokens and challenges are derived. Keep it across restarts: it lets the
    /// service tell devices of its former life at once that they have to connect anew.
    pub secret: ServiceSecret,
    /// The keys of tickets: the first seals, all open. See
    /// [`Service::set_ticket_keys`](super::Service::set_ticket_keys) for those of later.
    pub ticket_keys: Vec<TicketKey>,
    /// The node number in a cluster, 0..4096.
    pub node: u16,
    /// How many shards this service has, 1 to 256: an account lives on one of them, by its id modulo their number.
    /// All get the same settings; each takes its part of what is limited in all (`capacity`, `accounts`,
    /// `ring_bytes_total`, `pending_posts`, `probes`, `web_requests`, `defer`, and the rates but that of requests). Accounts do not spread quite
    /// evenly, so leave some room. Default: 1.
    pub shards: u16,
    /// Connections at most, half-open ones included; five records of 64 bytes each, once used. Default: 1,048,576.
    pub capacity: u32,
    /// Channels at most. Default: 1,048,576.
    pub accounts: u32,
    /// Which accounts have a channel.
    pub account_policy: AccountPolicy,
    /// The largest UDP payload to send and to take, 1200 to 1452 bytes. Default: 1200.
    pub packet_size: u16,
    /// When to ask for the proof of an address first. Default: above 1,024 half-open connections.
    pub defer: DeferPolicy,
    /// Exchanges completed per second, resets included that lead to one: never more in any second. Who comes beyond it is
    /// told when its turn is; a queue is at most 10 min long. 1 and above; 0 counts as 1. At the default a million devices
    /// are back within ten minutes. Default: 2,500 (SPEC.md, "Limits of rates").
    pub connects_per_second: u32,
    /// Errors in clear, the answers to packets that prove nothing: to each IPv4 address and to each /56 of IPv6.
    /// Default: 10 per second, 20 at once.
    pub hints_per_prefix: Rate,
    /// Errors in clear to all sources together. Default: 1,000 per second, 1,000 at once.
    pub hints: Rate,
    /// Requests in one connection: Heartbeats, subscriptions, posts, questions, requests for tickets. What is beyond is
    /// answered with 429, the limit and when to ask again; ten more Heartbeats are answered though. Default: 10 per second, 60 at once.
    pub requests: Rate,
    /// Packets to all devices together; answers go ahead of notifications. Default: 250,000 per second
    /// (2.4 Gbit/s of the largest), 25,000 at once. Tens of thousands more wait in the socket's buffer only to be lost.
    pub output: Rate,
    /// Answer Binding requests of STUN (RFC 8489), so that any STUN client learns its own address here. Default: true.
    pub stun: bool,
    /// Answers to Binding requests: to each IPv4 address and to each /56 of IPv6. Default: 10 per second, 10 at once.
    pub stun_per_prefix: Rate,
    /// Answers to Binding requests of all sources together. Default: 1,000 per second, 1,000 at once.
    pub stun_total: Rate,
    /// Another UDP port on which the host lets this service answer, at the same addresses. Devices that look at their
    /// network are told of it: by asking both they see whether they are mapped to another port for each destination
    /// (SPEC.md, "Netcheck"). Default: none.
    pub check_port: Option<NonZeroU16>,
    /// Answer a device's X25519 share with one. Default: true.
    pub forward_secrecy: bool,
    /// Give a device that has an old ticket a new one, with the same rights and as long a life. Default: true. Without
    /// it a ticket ends with its expiry, and the host hands out the next one.
    pub renew_tickets: bool,
    /// The highest datagram number in a direction: a device that has not agreed on new keys by then has to connect
    /// anew. 128 to 2^23, for tests and the cautious; above [`DeviceConfig::packet_limit`](crate::DeviceConfig). Default:
    /// 2^23.
    pub packet_limit: u32,
    /// Events with payload that wait in one channel. Default: 32.
    pub ring_events: usize,
    /// Payload bytes that wait in one channel. Default: 64 KiB.
    pub ring_bytes: usize,
    /// Payload bytes that wait in all channels together. Default: 256 MiB.
    pub ring_bytes_total: usize,
    /// Who decides about posts to the own channel. Default: the service appends them.
    pub own_posts: OwnPosts,
    /// Who decides about posts to other accounts' channels. Default: they are refused.
    pub foreign_posts: ForeignPosts,
    /// Posts that may wait for the host's decision, each at most one packet. Default: 1,024.
    pub pending_posts: usize,
    /// The shortest heartbeat interval granted: a device that asks for less is slowed down to it, up to 300 s. Default:
    /// 5 s.
    pub interval_min: Duration,
    /// The longest heartbeat interval granted, and the longest silence of a [probe](Self::probes). Default: 300 s.
    pub interval_max: Duration,
    /// Probes that may wait at once, at most one of each connection: answers that come late, by which devices find out
    /// how rarely they may speak (SPEC.md, "Probes"). About 100 bytes each while they wait. 0: none, and devices keep
    /// the interval they begin with. Default: 65,536.
    pub probes: u32,
    /// Requests by Web that may be held at once, at most one of each connection: a device whose network lets no UDP
    /// through hears of events in their answers. What is beyond is answered at once: that device asks again after 25 s at
    /// most, and hears of events so much later. About 100 bytes each while they are held (SPEC.md, "Timers and limits"),
    /// beside what the host's HTTP takes. 0: none is held. Default: 16,384.
    pub web_requests: u32,
}

/// The longest silence of a probe, whatever the longest interval is.
pub(super) const MAX_SILENCE: Duration = Duration::from_secs(300);

impl ServiceConfig {
    /// The defaults, with these keys.
    pub const fn new(secret: ServiceSecret, ticket_keys: Vec<TicketKey>) -> Self {
        Self {
            secret,
            ticket_keys,
            node: 0,
            shards: 1,
            capacity: 1 << 20,
            accounts: 1 << 20,
            account_policy: AccountPolicy::Open,
            packet_size: 1200,
            defer: DeferPolicy::Above { half_open: 1024 },
            connects_per_second: 2500,
            hints_per_prefix: Rate::new(10, 20),
            hints: Rate::new(1000, 1000),
            requests: Rate::new(10, 60),
            output: Rate::new(250_000, 25_000),
            stun: true,
            stun_per_prefix: Rate::new(10, 10),
            stun_total: Rate::new(1000, 1000),
            check_port: None,
            forward_secrecy: true,
            renew_tickets: true,
            packet_limit: 1 << 23,
            ring_events: 32,
            ring_bytes: 64 * 1024,
            ring_bytes_total: 256 * 1024 * 1024,
            own_posts: OwnPosts::Append,
            foreign_posts: ForeignPosts::Refuse,
            pending_posts: 1024,
            interval_min: Duration::from_secs(5),
            interval_max: Duration::from_secs(300),
            probes: 1 << 16,
            web_requests: 1 << 14,
        }
    }

    /// What one shard may use: its part of what is limited in all.
    pub(super) fn of_one_shard(self: Arc<Self>) -> Arc<Self> {
        let shards = Layout::new(&self).shards();
        if shards == 1 {
            return self;
        }
        let part = |all: u32| all.div_ceil(shards);
        let mut one = (*self).clone();
        one.capacity = part(one.capacity);
        one.accounts = part(one.accounts);
        one.ring_bytes_total = one.ring_bytes_total.div_ceil(shards as usize);
        one.pending_posts = one.pending_posts.div_ceil(shards as usize);
        one.probes = part(one.probes);
        one.web_requests = part(one.web_requests);
        one.connects_per_second = part(one.connects_per_second);
        let strangers =
            [&mut one.hints_per_prefix, &mut one.hints, &mut one.stun_per_prefix, &mut one.stun_total];
        for rate in strangers.into_iter().chain([&mut one.output]) {
            *rate = Rate::new(part(rate.per_second), part(rate.burst));
        }
        if let DeferPolicy::Above { half_open } = &mut one.defer {
            *half_open = part(*half_open);
        }
        Arc::new(one)
    }
}
