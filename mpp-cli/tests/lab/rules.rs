//! The recipes: nftables rules of NATs and firewalls, and of what goes wrong on the way.
//!
//! Linux keeps a mapping's port if it is free, so `masquerade` maps one socket to one port whatever the destination, and
//! lets in only what belongs to a flow that began inside: a port-restricted NAT. The others are that and a little more.
//! There is no netem here: what is lost is dropped by rules.

use std::fmt::Write as _;

/// What a NAT does with one socket behind it (RFC 4787).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Nat {
    /// One mapping for all destinations, and anybody may send to it.
    FullCone,
    /// One mapping, and every port of an address that was sent to may send to it.
    AddressRestricted,
    /// One mapping, and only what was sent to may send to it: most home routers.
    PortRestricted,
    /// Another mapping, with a port at random, for each destination.
    Symmetric,
}

/// How long a mapping lives without traffic, in seconds: until it has been used for two seconds in both directions, and
/// from then on. What full cones and address-restricted NATs let in beyond conntrack they remember for the longer time
/// after the last packet outwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Lifetime {
    pub(crate) first: u32,
    pub(crate) stream: u32,
}

impl Lifetime {
    /// What Linux does.
    pub(crate) const LINUX: Self = Self { first: 30, stream: 120 };

    /// The same from the first packet on.
    pub(crate) const fn always(seconds: u32) -> Self {
        Self { first: seconds, stream: seconds }
    }
}

/// The rules of a NAT whose outer interface is `outer`.
pub(crate) fn nat(nat: Nat, lifetime: Lifetime) -> String {
    // Who may send to a mapping, beyond what conntrack lets in anyway: filled by what goes out.
    let (key, fill, look_up) = match nat {
        Nat::FullCone => ("inet_service", "udp sport", "udp dport"),
        Nat::AddressRestricted => {
            ("ipv4_addr . inet_service", "ip daddr . udp sport", "ip saddr . udp dport")
        }
        Nat::PortRestricted | Nat::Symmetric => ("", "", ""),
    };
    let random = if nat == Nat::Symmetric { "fully-random" } else { "" };
    let mut rules = format!(
        "
        table ip lab {{
            chain outwards {{
                type nat hook postrouting priority srcnat
                oifname \"outer\" masquerade {random}
            }}
            chain to_itself {{
                # Else what comes for a mapping that is gone would hold its port, as a flow to the box itself.
                type filter hook input priority filter
                iifname \"outer\" meta l4proto udp drop
            }}
        }}
        "
    );
    if !key.is_empty() {
        let seconds = lifetime.stream;
        let _ = write!(
            rules,
            "
            table ip lab {{
                map inside {{
                    type {key} : ipv4_addr
                    flags dynamic,timeout
                    timeout {seconds}s
                    size 65536
                }}
                chain remember {{
                    type filter hook postrouting priority srcnat - 1
                    oifname \"outer\" meta l4proto udp update @inside {{ {fill} : ip saddr }}
                }}
                chain inwards {{
                    type nat hook prerouting priority dstnat
                    iifname \"outer\" meta l4proto udp dnat to {look_up} map @inside
                }}
            }}
            "
        );
    }
    rules
}

/// Forgets who may send to a mapping; conntrack's own table is another matter.
pub(crate) fn forget(nat: Nat) -> &'static str {
    match nat {
        Nat::FullCone | Nat::AddressRestricted => "flush map ip lab inside",
        Nat::PortRestricted | Nat::Symmetric => "",
    }
}

/// An IPv6 firewall that lets in only answers, as home routers have it.
pub(crate) const FIREWALL6: &str = "
    table ip6 lab {
        chain forward {
            type filter hook forward priority filter
            ct state established,related accept
            iifname \"outer\" drop
        }
    }
";

/// What goes wrong on the way between the NATs and the service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// So many of a hundred packets are lost, both ways.
    Loss(u8),
    /// No UDP gets through, and nobody says so.
    Silence,
    /// The same, of IPv4 only.
    Silence4,
    /// A router refuses UDP by ICMP.
    Refused,
    /// The device's own system does not let UDP out: sending fails with EPERM.
    Forbidden,
    /// Packets with more bytes than this, headers included, are lost without a word.
    Larger(u16),
    /// The same, of UDP only.
    LargerUdp(u16),
}

impl Trouble {
    /// The rules for forwarding, or for what a device sends itself.
    pub(crate) fn rules(self) -> String {
        let (hook, rule) = match self {
            Self::Loss(percent) => ("forward", format!("numgen random mod 100 < {percent} counter drop")),
            Self::Silence => ("forward", "meta l4proto udp counter drop".to_owned()),
            Self::Silence4 => ("forward", "meta nfproto ipv4 meta l4proto udp counter drop".to_owned()),
            Self::Refused => ("forward", "meta l4proto udp counter reject".to_owned()),
            Self::Forbidden => ("output", "meta l4proto udp counter drop".to_owned()),
            Self::Larger(bytes) => ("forward", format!("meta length > {bytes} counter drop")),
            Self::LargerUdp(bytes) => {
                ("forward", format!("meta l4proto udp meta length > {bytes} counter drop"))
            }
        };
        format!(
            "
            table inet trouble {{
                chain trouble {{
                    type filter hook {hook} priority filter
                    {rule}
                }}
            }}
            "
        )
    }
}

/// Takes away what [`Trouble::rules`] has made, if it has.
pub(crate) const NO_TROUBLE: &str = "
    table inet trouble
    delete table inet trouble
";

/// Every kind of rule that the recipes are made of, to see whether the kernel knows them.
pub(crate) const ALL_KINDS: &str = "
    table inet check {
        map inside {
            type ipv4_addr . inet_service : ipv4_addr
            flags dynamic,timeout
            timeout 30s
        }
        chain nat_out {
            type nat hook postrouting priority srcnat
            masquerade fully-random
        }
        chain nat_in {
            type nat hook prerouting priority dstnat
            meta nfproto ipv4 meta l4proto udp dnat ip to ip saddr . udp dport map @inside
        }
        chain filter {
            type filter hook forward priority filter
            ct state established accept
            meta nfproto ipv4 meta l4proto udp update @inside { ip daddr . udp sport : ip saddr }
            numgen random mod 100 < 30 meta length > 1280 drop
            reject
        }
    }
";
