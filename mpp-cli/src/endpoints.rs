//! From the addresses a service listens on to the ones a device can be told.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use mpp_tokio::proto::Endpoint;

use crate::args::DEFAULT_WEB_PORT;

/// A ticket holds at most this many.
pub(crate) const MAX_ENDPOINTS: usize = 8;
/// And so many base URLs for HTTP.
const MAX_WEB: usize = 2;

/// Where devices may find a service that listens on `listening`: a wildcard address becomes the machine's own.
pub(crate) fn usable(listening: &[SocketAddr]) -> Vec<SocketAddr> {
    expand(listening, &own_addresses())
}

/// As [`usable`], with the machine's addresses given. Addresses that reach furthest come first; loopback is named only
/// if it is all there is, because on another machine it would be the wrong one.
fn expand(listening: &[SocketAddr], own: &[IpAddr]) -> Vec<SocketAddr> {
    let mut found: Vec<SocketAddr> = Vec::new();
    for addr in listening {
        if addr.ip().is_unspecified() {
            let family = own.iter().filter(|ip| ip.is_ipv4() == addr.is_ipv4());
            let mut wide: Vec<_> = family.clone().filter(|ip| reach(ip) < Reach::Loopback).collect();
            if wide.is_empty() {
                wide = family.collect();
            }
            found.extend(wide.into_iter().map(|ip| SocketAddr::new(*ip, addr.port())));
        } else {
            found.push(*addr);
        }
    }
    if found.iter().any(|a| reach(&a.ip()) < Reach::Loopback) {
        // A loopback address that was asked for by name stays; one that stood in for a wildcard goes.
        found.retain(|a| reach(&a.ip()) < Reach::Loopback || listening.contains(a));
    }
    found.sort_by_key(|a| reach(&a.ip()));
    let mut unique: Vec<SocketAddr> = Vec::new();
    for addr in found {
        if !unique.contains(&addr) {
            unique.push(addr);
        }
    }
    unique.truncate(MAX_ENDPOINTS);
    unique
}

/// Base URLs for a service that answers HTTP at `web`, if devices that look on the usual port of the addresses for UDP
/// would not find it. What only this machine reaches, such as the address for a proxy, is named if that is true of UDP too.
pub(crate) fn web_bases(udp: &[SocketAddr], web: &[SocketAddr]) -> Vec<String> {
    let is_local = |a: &SocketAddr| reach(&a.ip()) == Reach::Loopback;
    let found = |a: &SocketAddr| a.port() == DEFAULT_WEB_PORT && udp.iter().any(|u| u.ip() == a.ip());
    let named = |a: &&SocketAddr| !is_local(a) || udp.iter().all(is_local);
    if web.iter().any(found) {
        return Vec::new();
    }
    web.iter().filter(named).take(MAX_WEB).map(|a| format!("http://{a}")).collect()
}

/// From where an address can be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Reach {
    /// The Internet, if no firewall is in the way.
    Public,
    /// The same private network.
    Private,
    /// This machine.
    Loopback,
}

/// From where `ip` can be reached.
pub(crate) fn reach(ip: &IpAddr) -> Reach {
    match ip {
        ip if ip.is_loopback() => Reach::Loopback,
        // 100.64.0.0/10 is for the insides of providers' NATs and of overlay networks.
        IpAddr::V4(v4) if v4.is_private() || (v4.octets()[0] == 100 && v4.octets()[1] & 0xc0 == 64) => {
            Reach::Private
        }
        IpAddr::V6(v6) if v6.is_unique_local() => Reach::Private,
        _ => Reach::Public,
    }
}

/// The machine's own addresses, without link-local ones: those mean nothing without the name of an interface.
fn own_addresses() -> Vec<IpAddr> {
    let mut own = interface_addresses();
    if own.is_empty() {
        own = vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
    }
    own
}

fn interface_addresses() -> Vec<IpAddr> {
    let Ok(interfaces) = nix::ifaddrs::getifaddrs() else { return Vec::new() };
    interfaces
        .filter(|i| i.flags.contains(nix::net::if_::InterfaceFlags::IFF_UP))
        .filter_map(|i| i.address)
        .filter_map(|a| match (a.as_sockaddr_in(), a.as_sockaddr_in6()) {
            (Some(v4), _) if !v4.ip().is_link_local() => Some(v4.ip().into()),
            (_, Some(v6)) if !v6.ip().is_unicast_link_local() => Some(v6.ip().into()),
            _ => None,
        })
        .collect()
}

/// Whether a device on another machine can be expected to find the service by one of `endpoints`.
pub(crate) fn reachable_from_elsewhere(endpoints: &[Endpoint]) -> bool {
    endpoints.iter().any(|e| match e {
        Endpoint::Address(addr) => reach(&addr.ip()) == Reach::Public,
        Endpoint::Name { .. } => true,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expanded(listening: &[&str], own: &[&str]) -> Vec<String> {
        let listening: Vec<_> = listening.iter().map(|a| a.parse().unwrap()).collect();
        let own: Vec<_> = own.iter().map(|a| a.parse().unwrap()).collect();
        expand(&listening, &own).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn wildcards_become_the_machines_addresses_the_furthest_reaching_first() {
        let own = ["127.0.0.1", "::1", "192.168.1.7", "203.0.113.9", "2001:db8::7", "fd00::1"];
        assert_eq!(expanded(&["0.0.0.0:5"], &own), ["203.0.113.9:5", "192.168.1.7:5"]);
        assert_eq!(expanded(&["[::]:6"], &own), ["[2001:db8::7]:6", "[fd00::1]:6"]);
        assert_eq!(
            expanded(&["0.0.0.0:5", "[::]:5"], &own),
            ["203.0.113.9:5", "[2001:db8::7]:5", "192.168.1.7:5", "[fd00::1]:5"]
        );
    }

    #[test]
    fn loopback_only_if_asked_for_or_all_there_is() {
        assert_eq!(expanded(&["0.0.0.0:5", "[::]:5"], &["127.0.0.1", "::1"]), ["127.0.0.1:5", "[::1]:5"]);
        assert_eq!(expanded(&["0.0.0.0:5", "[::]:5"], &["127.0.0.1", "::1", "10.0.0.2"]), ["10.0.0.2:5"]);
        assert_eq!(expanded(&["127.0.0.1:5"], &["10.0.0.2"]), ["127.0.0.1:5"]);
        assert_eq!(expanded(&["127.0.0.1:5", "10.0.0.2:5"], &[]), ["10.0.0.2:5", "127.0.0.1:5"]);
    }

    #[test]
    fn at_most_eight_and_none_twice() {
        let own: Vec<String> = (0..20).map(|i| format!("10.0.0.{i}")).collect();
        let own: Vec<&str> = own.iter().map(String::as_str).collect();
        assert_eq!(expanded(&["0.0.0.0:5"], &own).len(), MAX_ENDPOINTS);
        assert_eq!(expanded(&["10.0.0.1:5", "0.0.0.0:5"], &["10.0.0.1"]), ["10.0.0.1:5"]);
    }

    #[test]
    fn the_web_is_named_where_devices_would_not_look() {
        let of = |udp: &[&str], web: &[&str]| {
            let parse = |list: &[&str]| list.iter().map(|a| a.parse().unwrap()).collect::<Vec<_>>();
            web_bases(&parse(udp), &parse(web))
        };
        assert!(of(&["192.0.2.1:15096"], &["192.0.2.1:15097"]).is_empty(), "they look there");
        assert_eq!(of(&["192.0.2.1:15096"], &["192.0.2.1:80"]), ["http://192.0.2.1:80"]);
        assert_eq!(of(&["192.0.2.1:15096"], &["192.0.2.2:15097"]), ["http://192.0.2.2:15097"]);
        assert!(of(&["192.0.2.1:15096"], &["127.0.0.1:80"]).is_empty(), "that is for a proxy");
        assert_eq!(
            of(&["[::1]:1"], &["[::1]:2", "127.0.0.1:3", "127.0.0.1:4"]),
            ["http://[::1]:2", "http://127.0.0.1:3"]
        );
        assert!(of(&["192.0.2.1:15096"], &[]).is_empty());
    }

    #[test]
    fn this_machine_has_an_address() {
        assert!(!own_addresses().is_empty());
    }
}
