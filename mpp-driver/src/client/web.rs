//! A client's requests to the Web Service, for the feature `web`; without it there are none.

use std::sync::Arc;
use std::task::Context;

use mpp_proto::{Instant, LinkId, LinkState, WebRequestId};

use super::state::Shared;
use crate::clock::Clock;
use crate::drive::ROUNDS;
#[cfg(feature = "web-tls")]
use crate::error::RootError;
use crate::resolve::Lookups;
use crate::socket::any_address;
use crate::stats::Counters;
use crate::web::{MAX_PACKET, Means, WebClient};

/// What a program wants of them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Settings {
    /// There are to be none.
    pub(crate) off: bool,
    #[cfg(feature = "web-tls")]
    trust: Arc<crate::web::Trust>,
}

impl Settings {
    /// Trusts these certificates too.
    #[cfg(feature = "web-tls")]
    pub(crate) fn add_roots(&mut self, certificates: &[u8]) -> Result<(), RootError> {
        if Arc::make_mut(&mut self.trust).add(certificates) == 0 { Err(RootError) } else { Ok(()) }
    }

    /// What makes the requests.
    pub(crate) fn client(
        &self,
        clock: &Clock,
        lookups: &Lookups,
        counters: &Arc<Counters>,
    ) -> WebClient<WebRequestId> {
        let means = Means {
            clock: clock.clone(),
            lookups: lookups.clone(),
            #[cfg(feature = "web-tls")]
            trust: self.trust.clone(),
        };
        WebClient::new(clock.clone(), means, counters.clone())
    }
}

/// The link that is the Web Service, and what goes over it.
#[derive(Debug)]
pub(super) struct Requests {
    client: WebClient<WebRequestId>,
    link: Option<LinkId>,
    out: Vec<u8>,
    off: bool,
}

impl Requests {
    pub(super) fn new(shared: &Shared, lookups: &Lookups) -> Self {
        let client = shared.web.client(&shared.clock, lookups, &shared.counters);
        Self { client, link: None, out: Vec::new(), off: shared.web.off }
    }

    /// The device wants the Web Service. Nothing is opened before it asks for something.
    pub(super) fn open(&mut self, link: LinkId) -> LinkState {
        if self.off {
            return LinkState::Failed;
        }
        self.client.close();
        self.link = Some(link);
        LinkState::Open { local: any_address(mpp_proto::Family::V4) }
    }

    /// The device does not want this link any more, if it is that.
    pub(super) fn close(&mut self, link: LinkId) {
        if self.link.take_if(|open| *open == link).is_some() {
            self.client.close();
        }
    }

    /// Makes the requests that are due and takes in the answers; returns whether there may be more.
    pub(super) fn exchange(&mut self, cx: &mut Context<'_>, shared: &Shared) -> bool {
        if self.link.is_none() {
            return false;
        }
        self.out.resize(MAX_PACKET, 0);
        for _ in 0..ROUNDS {
            let now = shared.clock.now();
            let out = &mut *self.out;
            let Some(transmit) = shared.state.with(|s, _| s.device.poll_web(now, out)) else { break };
            let packet = self.out.get(..transmit.len).unwrap_or_default();
            self.client.make(transmit, packet);
        }
        let mut more = false;
        for _ in 0..ROUNDS {
            let Some((id, mut answer)) = self.client.poll(cx) else { break };
            let now = shared.clock.now();
            shared.state.with(|s, wakes| {
                s.device.handle_web_answer(now, id, answer.as_web_answer());
                s.wake_readers(wakes);
            });
            // It may want the next request, or have something to tell.
            more = true;
        }
        more
    }

    /// When to look again if nothing happens.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.client.deadline()
    }
}
