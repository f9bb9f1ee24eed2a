//! What a look at the network has in place of requests to the Web Service, without the feature `web`.

use std::sync::Arc;
use std::task::Context;

use mpp_proto::{Instant, Netcheck};

use crate::client::Settings;
use crate::clock::Clock;
use crate::resolve::Lookups;
use crate::stats::Counters;

/// None.
pub(super) struct Requests;

impl Requests {
    pub(super) fn new(_: Settings) -> Self {
        Self
    }

    pub(super) const fn exchange(
        &mut self,
        _: &mut Context<'_>,
        _: &mut Netcheck,
        _: &Clock,
        _: &Lookups,
        _: &Arc<Counters>,
    ) -> bool {
        false
    }

    pub(super) const fn close(&mut self) {}

    pub(super) const fn deadline(&self) -> Option<Instant> {
        None
    }
}
