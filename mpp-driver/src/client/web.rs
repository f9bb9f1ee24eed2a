//! A client's requests to the Web Service, for the feature `web`; without it there are none.

use std::sync::Arc;
use std::task::Context;

use mpp_proto::{Instant, LinkId, LinkState, WebAnswer, WebRequestId};

use super::state::Shared;
use crate::drive::ROUNDS;
use crate::resolve::Lookups;
use crate::socket::any_address;
use crate::web::{Answer, MAX_PACKET, Means, Post, WebBody, WebClient};

/// What a program wants of them.
#[derive(Clone, Debug, Default)]
pub(super) struct Settings {
    /// There are to be none.
    pub(super) off: bool,
    #[cfg(feature = "web-tls")]
    pub(super) trust: Arc<crate::web::Trust>,
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
    pub(super) fn new(shared: &Arc<Shared>, lookups: &Lookups, settings: &Settings) -> Self {
        let means = Means {
            clock: shared.clock.clone(),
            lookups: lookups.clone(),
            #[cfg(feature = "web-tls")]
            trust: settings.trust.clone(),
        };
        let client = WebClient::new(shared.clock.clone(), means, shared.counters.clone());
        Self { client, link: None, out: Vec::new(), off: settings.off }
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
            let packet = self.out.get(..transmit.len).unwrap_or_default().to_vec();
            let post = Post { base: transmit.base, packet: WebBody::new(packet), wait: transmit.wait };
            self.client.start(transmit.id, post);
        }
        for _ in 0..ROUNDS {
            let Some((id, mut answer)) = self.client.poll(cx) else { return false };
            let now = shared.clock.now();
            shared.state.with(|s, wakes| {
                let answer = match &mut answer {
                    Answer::Packets(body) => WebAnswer::Packets(body),
                    Answer::Refused { status, retry_after } => {
                        WebAnswer::Refused { status: *status, retry_after: *retry_after }
                    }
                    Answer::Failed => WebAnswer::Failed,
                };
                s.device.handle_web_answer(now, id, answer);
                s.wake_readers(wakes);
            });
        }
        true
    }

    /// When to look again if nothing happens.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.client.deadline()
    }
}
