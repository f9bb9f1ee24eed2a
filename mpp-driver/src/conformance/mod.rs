//! What every adapter has to pass: clients and services over real sockets, the same scenarios on each runtime.
//!
//! An adapter's test is one line, its runtime and how a test runs on it:
//!
//! ```ignore
//! mpp_driver::conformance!(Smol, smol::block_on);
//! ```
//!
//! Hidden, and no part of the stable API: `cargo test -p mpp-tokio --test conformance` runs it, `ci/conformance 20`
//! runs it twenty times on every runtime.
// The scenarios are tests, which panic when something is wrong; their names say what they show.
#![allow(missing_docs, clippy::missing_panics_doc)]

mod connection;
mod crowd;
mod delivery;
mod examples;
mod http;
mod idle;
mod lab;
mod netcheck;
mod proxy;
mod service;
mod shards;
mod trouble;
mod web;
mod world;

pub use connection::*;
pub use crowd::*;
pub use delivery::*;
pub use examples::{
    an_example_gets_its_notifications, an_idle_client_wakes_its_thread_at_its_deadlines_only,
};
pub use http::WebServer;
pub use idle::idle;
pub use lab::Lab;
pub use netcheck::*;
pub use proxy::Proxy;
pub use service::*;
pub use shards::several_shards_behind_one_handle;
pub use trouble::*;
pub use web::*;
pub use world::*;

use std::pin::Pin;

use crate::runtime::Runtime;

/// A runtime with an adapter.
pub trait Kit: Runtime + Default {}

impl<T: Runtime + Default> Kit for T {}

/// Runs one scenario; `block_on` is the runtime's.
pub fn run<K: Kit, F: Future<Output = ()> + 'static>(
    block_on: impl FnOnce(Pin<Box<dyn Future<Output = ()>>>),
    scenario: impl FnOnce(World<K>) -> F + 'static,
) {
    block_on(Box::pin(async { scenario(World::new()).await }));
}

/// All scenarios as tests on this runtime.
#[macro_export]
#[doc(hidden)]
macro_rules! conformance {
    ($runtime:ty, $block_on:expr) => {
        $crate::conformance! { $runtime, $block_on,
            a_client_connects_and_says_so
            a_dropped_client_is_gone_at_once
            another_connection_of_the_same_device_takes_its_place
            a_refused_ticket_is_told_and_a_new_one_works
            a_client_asks_for_its_endpoint
            a_client_looks_at_its_network
            a_look_at_the_network_can_be_given_up_and_begun_anew
            a_client_moves_to_another_network
            a_client_finds_out_on_a_second_socket_how_long_it_is_remembered
            a_network_that_goes_away_and_comes_back
            an_address_translator_that_forgets
            names_are_looked_up_and_unknown_ones_tried_again
            small_and_large_notifications_arrive
            a_device_posts_to_its_own_channel
            posts_to_other_accounts_are_the_hosts_to_decide
            a_filter_replaces_the_one_before
            what_was_missed_comes_with_the_next_client
            what_was_not_acknowledged_comes_again
            futures_may_be_dropped_at_any_time
            a_restarted_service_is_found_again_and_owns_up
            a_shut_down_service_tells_its_devices_and_frees_its_port
            a_dropped_service_ends
            a_revoked_ticket_is_refused_and_a_newer_one_is_not
            ticket_keys_are_replaced_while_a_service_runs
            a_runtime_that_ends_leaves_nobody_waiting
            a_service_listens_on_several_addresses
            several_shards_behind_one_handle
            two_clients_of_a_dual_stack_service_use_both_families
            errors_of_binding_say_what_to_do
            foreign_packets_change_nothing_but_counters
            a_client_that_is_not_polled_for_minutes_loses_nothing
            a_starved_client_loses_nothing
            a_machine_that_slept_connects_anew
            errors_of_the_sockets_end_nothing
            nobody_works_while_nothing_happens
            an_idle_client_wakes_at_its_deadlines_only
            a_lossy_network_delivers_everything_once_and_in_order
            the_largest_payload_crosses_a_bad_network
            a_thousand_devices
            a_network_without_udp_is_served_over_the_web
            nothing_is_lost_or_doubled_when_udp_goes_and_comes
            a_service_that_closes_answers_what_waits
            a_client_that_closes_or_dies_hangs_up
            several_shards_behind_one_web_handler
            a_client_that_wants_no_web_uses_none
            a_system_that_forbids_udp_is_left_at_once
            a_look_at_the_network_finds_the_web
        }
    };
    ($runtime:ty, $block_on:expr, $($scenario:ident)*) => {
        $(
            #[test]
            fn $scenario() {
                $crate::conformance::run::<$runtime, _>($block_on, $crate::conformance::$scenario);
            }
        )*
    };
}
