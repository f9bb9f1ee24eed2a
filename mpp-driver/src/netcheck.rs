//! Looking at the network.

use std::fmt;
use std::marker::PhantomData;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use futures_core::Stream;
use mpp_proto::{Datagram, LinkId, LinkState, NetcheckEvent, NetcheckReport, Path, ResolveId, Ticket};

use crate::client::{Settings, Shared};
use crate::clock::{Clock, civil};
use crate::drive::ROUNDS;
use crate::resolve::Lookups;
use crate::runtime::{AnyRuntime, Runtime};
use crate::seed::seed;
use crate::socket::{Inbox, Link, Outgoing, UdpSocket, any_address, source_of};
use crate::stats::Counters;
use crate::wake::{Alarm, Guarded};
use web::Requests;

#[cfg_attr(not(feature = "web"), path = "netcheck/no_web.rs")]
mod web;

/// Lookups that have come back, and who waits for them.
type Mail = Guarded<(Vec<(ResolveId, Vec<SocketAddr>)>, Option<Waker>)>;

/// A look at the network: what it does to the UDP packets of this machine, asked of the service of a ticket, and, with the
/// feature `web`, whether the service can be reached by Web.
///
/// It is a [`Stream`] of reports, each of which says more than the one before, until the last one is
/// [complete](NetcheckReport::complete); that takes 2 to 5 seconds, 11 at worst. It does its work while it is polled, and ends with its
/// being dropped. A device that is connected with the same ticket is not disturbed.
///
/// ```no_run
/// # use mpp_driver::{Netcheck, Runtime};
/// # async fn example<R: Runtime + Default>(ticket: mpp_proto::Ticket) {
/// let report = Netcheck::<R>::new(ticket).finish().await;
/// println!("{}: seen from {:?}", report.verdict(), report.v4.endpoint);
/// # }
/// ```
pub struct Netcheck<R = AnyRuntime> {
    check: mpp_proto::Netcheck,
    clock: Clock,
    alarm: Alarm,
    links: Vec<Link>,
    inbox: Inbox,
    outgoing: Outgoing,
    counters: Arc<Counters>,
    lookups: Lookups,
    web: Requests,
    mail: Arc<Mail>,
    /// The client beside which it is done.
    client: Option<Arc<Shared>>,
    /// There is something to tell, or nothing more will be.
    news: bool,
    kind: PhantomData<fn() -> R>,
}

impl<R: Runtime + Default> Netcheck<R> {
    /// Looks at the network with this ticket, whose service is asked.
    ///
    /// # Panics
    /// Outside of the runtime, and if the system has no random bytes to give.
    pub fn new(ticket: Ticket) -> Self {
        Self::start(Arc::new(R::default()), ticket, Settings::default())
    }
}

impl Netcheck<AnyRuntime> {
    /// The same, on a runtime that is given as a value.
    ///
    /// # Panics
    /// If the system has no random bytes to give.
    pub fn new_on(runtime: Arc<dyn Runtime>, ticket: Ticket) -> Self {
        Self::start(runtime, ticket, Settings::default())
    }
}

impl<R> Netcheck<R> {
    fn start(runtime: Arc<dyn Runtime>, ticket: Ticket, web: Settings) -> Self {
        let clock = Clock::start(runtime);
        Self {
            check: mpp_proto::Netcheck::new(ticket, seed(), clock.now(), civil()),
            alarm: Alarm::new(clock.clone()),
            clock,
            links: Vec::new(),
            inbox: Inbox::device(),
            outgoing: Outgoing::new(),
            counters: Arc::default(),
            lookups: Lookups::default(),
            web: Requests::new(web),
            mail: Arc::new(Guarded::new((Vec::new(), None))),
            client: None,
            news: false,
            kind: PhantomData,
        }
    }

    /// Does not ask by Web, of which the report then says that it is unknown. Default: it does if the feature `web` is
    /// there.
    #[cfg(feature = "web")]
    #[must_use]
    pub fn without_web(mut self) -> Self {
        self.web.settings().off = true;
        self
    }

    /// Trusts these certificates too when it asks over TLS (`https`), as
    /// [`ClientBuilder::web_roots`](crate::ClientBuilder::web_roots) does.
    ///
    /// # Errors
    /// [`RootError`](crate::RootError) if it holds no certificate, or something else.
    #[cfg(feature = "web-tls")]
    pub fn web_roots(mut self, certificates: &[u8]) -> Result<Self, crate::RootError> {
        self.web.settings().add_roots(certificates)?;
        Ok(self)
    }

    /// Beside a client, whose connection is reported too.
    pub(crate) fn beside(client: Arc<Shared>) -> Self {
        let ticket = client.state.with(|s, _| s.device.ticket().clone());
        let check = Self::start(client.clock.runtime().clone(), ticket, client.web.clone());
        Self { client: Some(client), ..check }
    }

    /// What has been found out so far.
    pub fn report(&self) -> NetcheckReport {
        let mut report = self.check.report();
        if let Some(client) = &self.client {
            report.connection = client.state.with(|s, _| s.device.connection_report());
        }
        report
    }

    /// The next report; `None` after the complete one. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Option<NetcheckReport> {
        std::future::poll_fn(|cx| self.poll(cx)).await
    }

    /// Waits for the complete report.
    pub async fn finish(mut self) -> NetcheckReport {
        while self.next().await.is_some() {}
        self.report()
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<NetcheckReport>> {
        for _ in 0..ROUNDS {
            let more = self.round(cx);
            if std::mem::take(&mut self.news) {
                return Poll::Ready(Some(self.report()));
            }
            if self.check.is_complete() {
                self.links.clear();
                self.web.close();
                return Poll::Ready(None);
            }
            if !more {
                let rest = Link::rested(&self.links);
                let next = self.check.poll_timeout().map(|w| w.at);
                let next = [rest, self.web.deadline()].into_iter().fold(next, mpp_proto::Instant::earliest);
                ready!(self.alarm.poll(cx, next));
            }
        }
        // Much to do: others first, then again.
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Looks at everything once; returns whether there may be more to do at once.
    fn round(&mut self, cx: &mut Context<'_>) -> bool {
        let resolved = self.mail.with(|(resolved, waker), _| {
            *waker = Some(cx.waker().clone());
            std::mem::take(resolved)
        });
        let Self { check, clock, links, inbox, .. } = self;
        for (id, addresses) in resolved {
            check.handle_resolved(clock.now(), id, &addresses);
        }
        let mut more = false;
        for link in links.iter_mut() {
            more |= link.receive(cx, clock, inbox, ROUNDS, |id, inbox| {
                for packet in inbox.packets() {
                    let path = Path::new(id, packet.remote);
                    let _ = check.handle_datagram(clock.now(), Datagram { path, payload: packet.payload });
                }
            });
        }
        if check.poll_timeout().is_some_and(|w| w.at <= clock.now()) {
            check.handle_timeout(clock.now());
        }
        while let Some(event) = self.check.poll_event() {
            match event {
                NetcheckEvent::OpenLink { link, to } => {
                    self.open(link, to);
                    // Nobody waits for its packets yet.
                    more = true;
                }
                NetcheckEvent::Resolve { id, host, port } => self.resolve(id, host, port),
                _ => self.news = true,
            }
        }
        let Self { check, clock, links, lookups, counters, .. } = self;
        more |= self.web.exchange(cx, check, clock, lookups, counters);
        more |= self.outgoing.poll_send(cx, links, ROUNDS, |out| check.poll_transmit(clock.now(), out));
        more
    }

    fn open(&mut self, link: LinkId, to: SocketAddr) {
        let family = match to {
            SocketAddr::V4(_) => mpp_proto::Family::V4,
            SocketAddr::V6(_) => mpp_proto::Family::V6,
        };
        let opened = source_of(to).and_then(|source| {
            let runtime = &**self.clock.runtime();
            let socket = UdpSocket::bind_device(runtime, any_address(family), &self.counters).ok()?;
            Some((source, socket))
        });
        let state = match opened {
            Some((source, socket)) => {
                let local = SocketAddr::new(source, socket.local().port());
                self.links.push(Link::new(link, socket));
                LinkState::Open { local }
            }
            None => LinkState::Failed,
        };
        self.check.handle_link(self.clock.now(), link, state);
    }

    fn resolve(&self, id: ResolveId, host: String, port: u16) {
        let back = Arc::downgrade(&self.mail);
        self.lookups.look_up(host, port, move |addresses| {
            if let Some(mail) = back.upgrade() {
                mail.with(|(resolved, waker), wakes| {
                    resolved.push((id, addresses));
                    waker.take().into_iter().for_each(|w| wakes.one(w));
                });
            }
        });
    }
}

impl<R> Stream for Netcheck<R> {
    type Item = NetcheckReport;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<NetcheckReport>> {
        self.poll(cx)
    }
}

impl<R> fmt::Debug for Netcheck<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Netcheck").field("check", &self.check).finish_non_exhaustive()
    }
}
