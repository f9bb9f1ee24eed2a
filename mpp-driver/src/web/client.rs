//! Requests of a device: made, answered or given up.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::header::{CONTENT_TYPE, HOST, RETRY_AFTER};
use http::{HeaderMap, Request, StatusCode};
use hyper::client::conn::http1::{Builder, SendRequest};
use mpp_proto::{Instant, WebAnswer, WebRequestId, WebTransmit};

use super::base::Base;
use super::body::{Unread, WebBody, read};
use super::stream::Stream;
use super::tcp::Tcp;
use super::{MAX_ANSWER, OCTETS, PATH};
use crate::clock::Clock;
use crate::resolve::{self, Lookups};
use crate::stats::{Counters, count};

/// To look a name up, connect and agree on keys.
const CONNECT: Duration = Duration::from_secs(10);
/// From the end of the wait that was asked for to the whole answer, or from the request if it does not wait.
const ANSWER: Duration = Duration::from_secs(10);
/// A connection that has been idle for longer is not used again: what lies between may have forgotten it.
const IDLE: Duration = Duration::from_secs(30);
/// Connections that are kept: one for the request that waits, one for news.
const KEPT: usize = 2;
/// The most that the head of an answer may have, in bytes and in fields.
const HEAD: usize = 16 * 1024;
const FIELDS: usize = 64;

type Pinned<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// What came of a request.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Its packets, as they were on the wire.
    Packets(Vec<u8>),
    /// Status 200, and a body longer than any of a service's.
    TooLong,
    /// Another status than 200.
    Refused { status: u16, retry_after: Option<Duration> },
    /// None in time.
    Failed,
}

impl Answer {
    /// As the core takes it.
    pub(crate) fn as_web_answer(&mut self) -> WebAnswer<'_> {
        match self {
            Self::Packets(body) => WebAnswer::Packets(body),
            Self::TooLong => WebAnswer::TooLong,
            Self::Refused { status, retry_after } => {
                WebAnswer::Refused { status: *status, retry_after: *retry_after }
            }
            Self::Failed => WebAnswer::Failed,
        }
    }
}

/// A packet to be posted.
#[derive(Clone, Debug)]
pub(crate) struct Post {
    pub(crate) base: Arc<str>,
    pub(crate) packet: WebBody,
    pub(crate) wait: Option<Duration>,
}

impl Post {
    fn request(&self, base: &Base) -> http::Result<Request<WebBody>> {
        let mut target = base.target(PATH);
        if let Some(wait) = self.wait {
            target.push_str(&format!("?wait={}", wait.as_secs()));
        }
        Request::post(target)
            .header(HOST, &base.authority)
            .header(CONTENT_TYPE, OCTETS)
            .body(self.packet.clone())
    }
}

/// A connection, and what moves its bytes. While it is idle nothing does.
struct Link {
    sender: SendRequest<WebBody>,
    connection: Pinned<()>,
}

/// What came of asking on one connection.
enum Asked {
    /// This, and the connection if it can be used again.
    Answered(Answer, Option<Link>),
    /// The connection had ended before: nothing was sent.
    NotSent,
}

enum Phase {
    Connecting(Pinned<io::Result<Link>>),
    Asking { ask: Pinned<Asked>, fresh: bool },
}

struct Exchange<I> {
    id: I,
    post: Post,
    base: Base,
    deadline: Instant,
    phase: Phase,
}

/// A connection that nothing goes over.
struct Idle {
    base: Arc<str>,
    since: Instant,
    link: Link,
}

/// The requests of one device. `I` names a request.
pub(crate) struct WebClient<I> {
    clock: Clock,
    means: Means,
    counters: Arc<Counters>,
    idle: Vec<Idle>,
    running: Vec<Exchange<I>>,
    /// Requests that came to nothing before they began.
    failed: Vec<I>,
}

/// What it takes to connect.
#[derive(Clone)]
pub(crate) struct Means {
    pub(crate) clock: Clock,
    pub(crate) lookups: Lookups,
    #[cfg(feature = "web-tls")]
    pub(crate) trust: Arc<super::tls::Trust>,
}

impl<I: Copy> WebClient<I> {
    pub(crate) const fn new(clock: Clock, means: Means, counters: Arc<Counters>) -> Self {
        Self { clock, means, counters, idle: Vec::new(), running: Vec::new(), failed: Vec::new() }
    }

    /// Begins a request. Its answer comes with [`WebClient::poll`].
    pub(crate) fn start(&mut self, id: I, post: Post) {
        let now = self.clock.now();
        count(&self.counters.web_requests, 1);
        let Some(base) = Base::parse(&post.base) else {
            self.failed.push(id);
            return;
        };
        self.idle.retain(|idle| now.since(idle.since) < IDLE);
        let idle = self.idle.iter().position(|idle| idle.base == post.base);
        let (phase, limit) = match idle.map(|at| self.idle.swap_remove(at).link) {
            Some(link) => (asking(link, &post, &base, false), answer_within(&post)),
            None => (self.connecting(&base), CONNECT),
        };
        self.running.push(Exchange { id, post, base, deadline: now + limit, phase });
    }

    fn connecting(&self, base: &Base) -> Phase {
        count(&self.counters.web_connections, 1);
        Phase::Connecting(Box::pin(connect(self.means.clone(), base.clone())))
    }

    /// The next request that is done with.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Option<(I, Answer)> {
        if let Some(id) = self.failed.pop() {
            count(&self.counters.web_failures, 1);
            return Some((id, Answer::Failed));
        }
        for at in 0..self.running.len() {
            if let Some(answer) = self.poll_one(at, cx) {
                if matches!(answer, Answer::Failed | Answer::TooLong) {
                    count(&self.counters.web_failures, 1);
                }
                return Some((self.running.swap_remove(at).id, answer));
            }
        }
        None
    }

    fn poll_one(&mut self, at: usize, cx: &mut Context<'_>) -> Option<Answer> {
        loop {
            let now = self.clock.now();
            let exchange = self.running.get_mut(at)?;
            match &mut exchange.phase {
                Phase::Connecting(connect) => match connect.as_mut().poll(cx) {
                    Poll::Ready(Ok(link)) => {
                        exchange.phase = asking(link, &exchange.post, &exchange.base, true);
                        exchange.deadline = now + answer_within(&exchange.post);
                        continue;
                    }
                    Poll::Ready(Err(_)) => return Some(Answer::Failed),
                    Poll::Pending => {}
                },
                Phase::Asking { ask, fresh } => match ask.as_mut().poll(cx) {
                    Poll::Ready(Asked::Answered(answer, link)) => {
                        let base = exchange.post.base.clone();
                        self.idle.extend(link.map(|link| Idle { base, since: now, link }));
                        let surplus = self.idle.len().saturating_sub(KEPT);
                        self.idle.drain(..surplus);
                        return Some(answer);
                    }
                    // The other side has closed a connection that was idle: that is no failure.
                    Poll::Ready(Asked::NotSent) if !*fresh => {
                        let base = exchange.base.clone();
                        let phase = self.connecting(&base);
                        let exchange = self.running.get_mut(at)?;
                        (exchange.phase, exchange.deadline) = (phase, now + CONNECT);
                        continue;
                    }
                    Poll::Ready(Asked::NotSent) => return Some(Answer::Failed),
                    Poll::Pending => {}
                },
            }
            return (exchange.deadline <= now).then_some(Answer::Failed);
        }
    }

    /// When to poll again if nothing happens.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.running.iter().map(|exchange| exchange.deadline).min()
    }

    /// Gives everything up: what waits is cut off, which the service sees.
    pub(crate) fn close(&mut self) {
        self.idle.clear();
        self.running.clear();
        self.failed.clear();
    }
}

impl WebClient<WebRequestId> {
    /// Begins a request that the core wants: `packet` is its body.
    pub(crate) fn make(&mut self, transmit: WebTransmit, packet: &[u8]) {
        let post = Post { base: transmit.base, packet: WebBody::new(packet.to_vec()), wait: transmit.wait };
        self.start(transmit.id, post);
    }
}

impl<I> fmt::Debug for WebClient<I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WebClient")
            .field("idle", &self.idle.len())
            .field("running", &self.running.len())
            .finish_non_exhaustive()
    }
}

fn answer_within(post: &Post) -> Duration {
    post.wait.unwrap_or_default() + ANSWER
}

/// Finds the host and connects to it.
async fn connect(means: Means, base: Base) -> io::Result<Link> {
    let addresses = match base.ip() {
        Some(ip) => vec![SocketAddr::new(ip, base.port)],
        None => {
            let (host, port) = (base.host.clone(), base.port);
            off_the_task(&means.lookups, move || resolve::addresses(&host, port)).await?
        }
    };
    let tcp = Tcp::connect(&**means.clock.runtime(), addresses).await?;
    let stream = secure(&means, &base, tcp).await?;
    let mut builder = Builder::new();
    let (sender, connection) =
        builder.max_buf_size(HEAD).max_headers(FIELDS).handshake(stream).await.map_err(io::Error::other)?;
    let connection = Box::pin(async move {
        // Whoever asked over it hears that it failed.
        let _ = connection.await;
    });
    Ok(Link { sender, connection })
}

#[cfg(feature = "web-tls")]
async fn secure(means: &Means, base: &Base, tcp: Tcp) -> io::Result<Stream> {
    if !base.tls {
        return Ok(Stream::Plain(tcp));
    }
    let trust = means.trust.clone();
    let config = off_the_task(&means.lookups, move || trust.config()).await?;
    let config = config.ok_or(io::ErrorKind::Unsupported)?;
    Ok(Stream::Tls(Box::new(super::tls::Tls::connect(tcp, &base.host, config).await?)))
}

#[cfg(not(feature = "web-tls"))]
async fn secure(_: &Means, base: &Base, tcp: Tcp) -> io::Result<Stream> {
    if base.tls { Err(io::ErrorKind::Unsupported.into()) } else { Ok(Stream::Plain(tcp)) }
}

/// The result of a call that blocks.
async fn off_the_task<T: Send + 'static>(
    lookups: &Lookups,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<T> {
    let (tell, told) = futures_channel::oneshot::channel();
    lookups.run(move || drop(tell.send(work())));
    told.await.map_err(|_| io::ErrorKind::ResourceBusy.into())
}

fn asking(link: Link, post: &Post, base: &Base, fresh: bool) -> Phase {
    Phase::Asking { ask: Box::pin(ask(link, post.request(base))), fresh }
}

/// Sends a request and reads its answer, and meanwhile moves the connection's bytes.
async fn ask(mut link: Link, request: http::Result<Request<WebBody>>) -> Asked {
    let Ok(request) = request else { return Asked::Answered(Answer::Failed, Some(link)) };
    let Link { sender, connection } = &mut link;
    let mut open = true;
    let answer = {
        let mut exchange = pin!(exchange(sender, request));
        poll_fn(|cx| {
            open = open && connection.as_mut().poll(cx).is_pending();
            exchange.as_mut().poll(cx)
        })
        .await
    };
    match answer {
        None => Asked::NotSent,
        Some(answer) => {
            let usable = open && !matches!(answer, Answer::Failed | Answer::TooLong);
            Asked::Answered(answer, usable.then_some(link))
        }
    }
}

/// The answer; `None` if nothing of the request has been sent.
async fn exchange(sender: &mut SendRequest<WebBody>, request: Request<WebBody>) -> Option<Answer> {
    sender.ready().await.ok()?;
    let response = match sender.try_send_request(request).await {
        Ok(response) => response,
        // The request comes back.
        Err(e) if e.message().is_some() => return None,
        Err(_) => return Some(Answer::Failed),
    };
    let (head, body) = response.into_parts();
    let body = read(body, MAX_ANSWER).await;
    Some(match (head.status, body) {
        (StatusCode::OK, Ok(bytes)) => Answer::Packets(bytes),
        (StatusCode::OK, Err(Unread::TooLong)) => Answer::TooLong,
        (StatusCode::OK, Err(Unread::Broken)) => Answer::Failed,
        (status, _) => Answer::Refused { status: status.as_u16(), retry_after: retry_after(&head.headers) },
    })
}

/// Seconds; a date is not looked at.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok().map(Duration::from_secs)
}
