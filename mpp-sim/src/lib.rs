//! Mesh Presence Protocol: a simulator.
//!
//! The machines of `mpp-proto` do no I/O and read no clock, so a test can be their world: this crate owns many
//! devices and services, a virtual clock and a seeded network that loses, delays, repeats, reorders and damages
//! packets, and a [judge](model) that decides whether what each application saw is allowed. An hour passes in
//! milliseconds, and the same seed gives the same run, byte for byte.
//!
//! | module or type | what it is |
//! |---|---|
//! | [`World`] | machines, network and clock together; commands, time, logs |
//! | [`Conditions`], [`Network`] | what happens to packets; capture, observers, injection |
//! | [`nat`] | NAT boxes in the terms of RFC 4787: mapping, filtering, lifetimes, ports, reboot; one behind another |
//! | [`attacker`] | somebody on the path without keys: copies and races, delays, replays, forges, spoofs, spoils |
//! | [`Udp`], [`WebConditions`] | networks where UDP does not pass, or only small packets do; the way by Web, and proxies |
//! | [`Restart`], [`Backup`], clocks | services and devices that come back with or without what they knew |
//! | [`model`] | the judge of delivery; shares no code with the protocol |
//! | [`history`] | random histories as data, which shrink when they fail |
//! | [`Rng`], [`Trace`] | chance that repeats; a fingerprint by which two runs are compared |
//! | [`each_seed`] | one test over many seeds, and again over the one that failed |
//!
//! # A test of your own
//! ```
//! use std::time::Duration;
//!
//! use mpp_proto::{DeviceConfig, StoreId};
//! use mpp_sim::{Conditions, Post, World};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let mut world = World::new(42);
//! let bad = Conditions::perfect(Duration::from_millis(40)).loss(0.2).jitter(Duration::from_millis(30));
//! world.set_default_conditions(bad, bad);
//!
//! let service = world.add_service(world.service_config());
//! let ticket = world.ticket(&[service], "alice@example.com", 1);
//! let phone = world.add_device(ticket, DeviceConfig::default());
//! assert!(world.run_until(Duration::from_secs(60), |w| w.is_connected(phone)));
//!
//! // The phone is switched off while something happens, and finds it when it is back.
//! world.kill(phone);
//! world.publish(service, "alice@example.com", &Post::new(StoreId::INBOUND, "dinner at eight"))?;
//! world.restore(phone);
//! world.settle(Duration::from_secs(120));
//!
//! let heard: Vec<_> = world.payloads(phone).map(|(_, payload)| payload).collect();
//! assert_eq!(heard, [b"dinner at eight"]);
//! // Every event reached every device, or there is an allowed reason why not.
//! assert_eq!(world.check().delivered, 1);
//! # Ok(())
//! # }
//! ```
//!
//! # Several services
//! ```
//! use std::time::Duration;
//!
//! use mpp_proto::DeviceConfig;
//! use mpp_sim::World;
//!
//! let mut world = World::new(42);
//! let services = [0, 1].map(|_| world.add_service(world.service_config()));
//! let ticket = world.ticket(&services, "alice@example.com", 1);
//! let phone = world.add_device(ticket, DeviceConfig::default());
//! assert!(world.run_until(Duration::from_secs(60), |w| w.is_connected(phone)));
//! // The first of the ticket is gone: the phone finds the other one once it has missed its heartbeats. The judge knows
//! // the channel of the first service only: what the other one says is for the test to look at.
//! world.stop_service(services[0]);
//! assert!(world.run_until(Duration::from_secs(60), |w| w.service(services[1]).stats().connected == 1));
//! ```
//!
//! # Behind a NAT box
//! ```
//! use std::time::Duration;
//!
//! use mpp_proto::{DeviceConfig, StoreId};
//! use mpp_sim::{NatConfig, Post, World};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let mut world = World::new(42);
//! let service = world.add_service(world.service_config());
//! let home = world.service_addresses(service)[0];
//!
//! // A router at home, behind that of a provider, which forgets whoever is silent for 20 s and gives him another port.
//! let provider = world.add_nat(NatConfig::forgetful(Duration::from_secs(20)));
//! let router = world.add_nat_behind(NatConfig::linux(), provider);
//! let ticket = world.ticket(&[service], "alice@example.com", 1);
//! let phone = world.add_device(ticket, DeviceConfig::default());
//! world.put_behind(phone, router);
//! assert!(world.run_until(Duration::from_secs(60), |w| w.is_connected(phone)));
//!
//! // After its second heartbeat, 3 s later, nobody reaches the phone for a while, and it does not know. Its next one is
//! // due within 25 s.
//! world.run_for(Duration::from_secs(24));
//! assert_eq!(world.seen_from(phone, home), None);
//! world.publish(service, "alice@example.com", &Post::new(StoreId::INBOUND, "are you there?"))?;
//! let heard = world.run_until(Duration::from_secs(5), |w| w.payloads(phone).next().is_some());
//! assert!(heard);
//! assert_eq!(world.service(service).stats().migrations, 1);
//! assert!(world.nat_stats(provider).unmapped > 0, "it went to the forgotten port first");
//! # Ok(())
//! # }
//! ```

pub mod attacker;
pub mod history;
pub mod model;
pub mod nat;
mod network;
mod post;
mod rng;
mod seeds;
mod trace;
mod world;

pub use attacker::{Act, Attacker, Tactic};
pub use nat::{Nat, NatConfig};
pub use network::{
    Captured, Conditions, Fate, Loss, Network, NetworkStats, Observer, Packet, RouteId, Verdict,
};
pub use post::Post;
pub use rng::Rng;
pub use seeds::each_seed;
pub use trace::Trace;
pub use world::{
    App, Backup, DeviceHandle, Drive, Entry, NatHandle, Record, Restart, ServiceHandle, Udp, WebConditions,
    World,
};
