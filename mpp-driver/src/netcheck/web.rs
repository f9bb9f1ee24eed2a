//! The requests of a look at the network to the Web Service, for the feature `web`; without it there are none.

use std::sync::Arc;
use std::task::Context;

use mpp_proto::{Instant, Netcheck, WebRequestId};

use crate::client::Settings;
use crate::clock::Clock;
use crate::drive::ROUNDS;
use crate::resolve::Lookups;
use crate::stats::Counters;
use crate::web::{MAX_PACKET, WebClient};

/// What a program wants of them, and what makes them, from the first on.
pub(super) struct Requests {
    settings: Settings,
    client: Option<WebClient<WebRequestId>>,
}

impl Requests {
    pub(super) const fn new(settings: Settings) -> Self {
        Self { settings, client: None }
    }

    /// They count until it begins.
    pub(super) const fn settings(&mut self) -> &mut Settings {
        &mut self.settings
    }

    /// Makes the requests that are due and takes in the answers; returns whether there may be more.
    pub(super) fn exchange(
        &mut self,
        cx: &mut Context<'_>,
        check: &mut Netcheck,
        clock: &Clock,
        lookups: &Lookups,
        counters: &Arc<Counters>,
    ) -> bool {
        if self.settings.off {
            return false;
        }
        let client = self.client.get_or_insert_with(|| {
            check.ask_web(clock.now());
            self.settings.client(clock, lookups, counters)
        });
        let mut out = [0; MAX_PACKET];
        while let Some(transmit) = check.poll_web(clock.now(), &mut out) {
            let packet = out.get(..transmit.len).unwrap_or_default();
            client.make(transmit, packet);
        }
        let mut more = false;
        for _ in 0..ROUNDS {
            let Some((id, mut answer)) = client.poll(cx) else { break };
            check.handle_web_answer(clock.now(), id, answer.as_web_answer());
            // It may want the next request, or have something to tell.
            more = true;
        }
        more
    }

    /// Gives up whatever has no answer yet.
    pub(super) fn close(&mut self) {
        self.client.iter_mut().for_each(WebClient::close);
    }

    /// When to look again if nothing happens.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.client.as_ref()?.deadline()
    }
}
