//! What a client has in place of requests to the Web Service, without the feature `web`.

use std::task::Context;

use mpp_proto::{Instant, LinkId, LinkState};

use super::state::Shared;
use crate::resolve::Lookups;

/// What a program wants of them: nothing.
#[derive(Clone, Debug, Default)]
pub(crate) struct Settings {}

/// None.
#[derive(Debug)]
pub(super) struct Requests;

impl Requests {
    pub(super) const fn new(_: &Shared, _: &Lookups) -> Self {
        Self
    }

    pub(super) const fn open(&mut self, _: LinkId) -> LinkState {
        LinkState::Failed
    }

    pub(super) const fn close(&mut self, _: LinkId) {}

    pub(super) const fn exchange(&mut self, _: &mut Context<'_>, _: &Shared) -> bool {
        false
    }

    pub(super) const fn deadline(&self) -> Option<Instant> {
        None
    }
}
