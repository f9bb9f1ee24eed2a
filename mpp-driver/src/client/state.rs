//! What a client's handles and its driver share.

use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use mpp_proto::{
    Code, Connected, Device, DeviceEvent, DisconnectReason, Instant, Notification, RequestError, RequestId,
    ResolveId, Serial,
};

use super::CLOSING;
use super::events::{ClientEvent, Events};
use super::web::Settings;
use crate::clock::Clock;
use crate::error::ConnectError;
use crate::stats::Counters;
use crate::wake::{Guarded, Waiting, Wakes};

/// The state behind its lock, and what needs none.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) state: Guarded<State>,
    pub(crate) clock: Clock,
    /// What the program wants of requests to the Web Service.
    pub(crate) web: Settings,
    pub(super) counters: Arc<Counters>,
}

/// A positive answer.
#[derive(Clone, Copy, Debug)]
pub(super) enum Answer {
    Subscribed(Serial),
    Posted(Option<Serial>),
    Endpoint(SocketAddr),
}

#[derive(Debug)]
struct Request {
    id: RequestId,
    answer: Option<Result<Answer, RequestError>>,
    waker: Option<Waker>,
}

pub(crate) struct State {
    pub(crate) device: Device,
    pub(super) events: Events,
    /// Lookups that have come back.
    pub(super) resolved: Vec<(ResolveId, Vec<SocketAddr>)>,
    /// The service does not take the ticket.
    pub(super) refused: Option<Code>,
    /// When to stop waiting for the last packets of a closed device.
    pub(super) give_up: Option<Instant>,
    /// The driver has gone: nothing will happen any more.
    pub(super) ended: bool,
    connected: Option<Connected>,
    aborted: Option<DisconnectReason>,
    requests: Vec<Request>,
    readers: Waiting,
    watchers: Waiting,
    /// The last call returned a notification, which the next one acknowledges.
    given: bool,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State").field("connected", &self.connected).finish_non_exhaustive()
    }
}

impl Shared {
    pub(super) fn new(state: State, clock: Clock, web: Settings) -> Self {
        Self { state: Guarded::new(state), clock, web, counters: Arc::default() }
    }

    pub(super) fn poll_next(&self, cx: &Context<'_>) -> Poll<Option<Notification>> {
        let now = self.clock.now();
        self.state.with(|s, wakes| {
            let notification = s.device.poll_notification(now);
            // This call may have acknowledged the one before: that is the driver's to send.
            if std::mem::replace(&mut s.given, notification.is_some()) || notification.is_some() {
                wakes.driver();
            }
            match notification {
                Some(_) => Poll::Ready(notification),
                None if s.ended => Poll::Ready(None),
                None => {
                    s.readers.add(cx);
                    Poll::Pending
                }
            }
        })
    }

    /// Begins to close, once.
    pub(super) fn close(&self) {
        let now = self.clock.now();
        self.state.with(|s, wakes| {
            if s.give_up.is_none() {
                s.give_up = Some(now + CLOSING);
                s.device.close(now);
                wakes.driver();
            }
        });
    }
}

impl State {
    pub(super) fn new(device: Device) -> Self {
        Self {
            device,
            events: Events::default(),
            resolved: Vec::new(),
            refused: None,
            give_up: None,
            ended: false,
            connected: None,
            aborted: None,
            requests: Vec::new(),
            readers: Waiting::default(),
            watchers: Waiting::default(),
            given: false,
        }
    }

    pub(super) fn poll_connected(&mut self, cx: &Context<'_>) -> Poll<Result<Connected, ConnectError>> {
        if let Some(connected) = self.connected {
            return Poll::Ready(Ok(connected));
        }
        if self.ended || self.aborted.is_some() {
            let reason = self.aborted.unwrap_or(DisconnectReason::ByApplication);
            return Poll::Ready(Err(ConnectError::Aborted(reason)));
        }
        if let Some(code) = self.refused {
            return Poll::Ready(Err(ConnectError::RenewTicket { code }));
        }
        self.watchers.add(cx);
        Poll::Pending
    }

    pub(super) fn poll_ended(&mut self, cx: &Context<'_>) -> Poll<()> {
        if self.ended {
            return Poll::Ready(());
        }
        self.watchers.add(cx);
        Poll::Pending
    }

    pub(super) fn await_answer(&mut self, id: RequestId) {
        self.requests.push(Request { id, answer: None, waker: None });
    }

    pub(super) fn forget(&mut self, id: RequestId) {
        self.requests.retain(|r| r.id != id);
    }

    pub(super) fn poll_answer(
        &mut self,
        id: RequestId,
        cx: &Context<'_>,
    ) -> Poll<Result<Answer, RequestError>> {
        let ended = self.ended;
        match self.requests.iter_mut().find(|r| r.id == id) {
            Some(Request { answer: Some(answer), .. }) => Poll::Ready(*answer),
            Some(request) if !ended => {
                request.waker = Some(cx.waker().clone());
                Poll::Pending
            }
            _ => Poll::Ready(Err(RequestError::Closed)),
        }
    }

    fn answer(&mut self, id: RequestId, answer: Result<Answer, RequestError>, wakes: &mut Wakes) {
        // A request whose future was dropped is on no list any more.
        if let Some(request) = self.requests.iter_mut().find(|r| r.id == id) {
            request.answer = Some(answer);
            request.waker.take().into_iter().for_each(|w| wakes.one(w));
        }
    }

    /// Something came in: there may be notifications.
    pub(super) fn wake_readers(&mut self, wakes: &mut Wakes) {
        if !self.readers.is_empty() {
            wakes.all(&mut self.readers);
        }
    }

    /// Takes an event of the device for the handles; returns it if it is the driver's business.
    pub(super) fn take_event(
        &mut self,
        now: Instant,
        event: DeviceEvent,
        wakes: &mut Wakes,
    ) -> Option<DeviceEvent> {
        let told = match event {
            DeviceEvent::Connected(connected) => {
                self.connected = Some(connected);
                self.refused = None;
                ClientEvent::Connected(connected)
            }
            DeviceEvent::KeysRenewed(connected) => {
                self.connected = Some(connected);
                self.refused = None;
                ClientEvent::KeysRenewed(connected)
            }
            DeviceEvent::TicketRenewed { expiry } => ClientEvent::TicketRenewed { expiry },
            DeviceEvent::Disconnected { reason, retry_at } => {
                self.connected = None;
                ClientEvent::Disconnected { reason, retry_in: retry_at.since(now) }
            }
            DeviceEvent::RenewTicket { code } => {
                self.refused = Some(code);
                ClientEvent::RenewTicket { code }
            }
            DeviceEvent::State(state) => ClientEvent::State(state),
            DeviceEvent::Interval { interval, reason } => ClientEvent::Interval { interval, reason },
            DeviceEvent::Mapping(progress) => ClientEvent::Mapping(progress),
            DeviceEvent::Transport(transport) => ClientEvent::Transport(transport),
            DeviceEvent::ObservedEndpoint(address) => ClientEvent::ObservedEndpoint(address),
            DeviceEvent::Aborted(reason) => {
                self.connected = None;
                self.aborted = Some(reason);
                // Whoever caused it, the end is near: the last answers to the service and no more.
                self.give_up.get_or_insert(now + CLOSING);
                ClientEvent::Aborted(reason)
            }
            DeviceEvent::Subscribed { request, newest } => {
                self.answer(request, Ok(Answer::Subscribed(newest)), wakes);
                return None;
            }
            DeviceEvent::Posted { request, serial } => {
                self.answer(request, Ok(Answer::Posted(serial)), wakes);
                return None;
            }
            DeviceEvent::Endpoint { request, endpoint } => {
                self.answer(request, Ok(Answer::Endpoint(endpoint)), wakes);
                return None;
            }
            DeviceEvent::Failed { request, error } => {
                self.answer(request, Err(error), wakes);
                return None;
            }
            other => return Some(other),
        };
        self.events.push(told, wakes);
        wakes.all(&mut self.watchers);
        None
    }

    /// The driver goes: everybody who waits is told.
    pub(super) fn end(&mut self, wakes: &mut Wakes) {
        self.ended = true;
        self.connected = None;
        self.events.end(wakes);
        wakes.all(&mut self.watchers);
        wakes.all(&mut self.readers);
        for request in &mut self.requests {
            request.waker.take().into_iter().for_each(|w| wakes.one(w));
        }
    }
}
