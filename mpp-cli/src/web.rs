//! The HTTP port of `mpp serve`, for devices whose networks have no UDP.
//!
//! It answers `POST /.well-known/mmmpresence` and nothing else. A held request keeps a connection, so there are to be many;
//! and whoever opens them is a stranger, so everything about one is bounded: its head, its body, the time for each, how many
//! there are, and how many come from one place.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hyper::body::Incoming;
use hyper::header::{CACHE_CONTROL, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{HeaderMap, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use mpp_tokio::{Web, WebBody};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::socket::{setsockopt, sockopt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::failure::{Failure, Outcome, reason};

/// Connections at a time, if the system lets a process have as many files.
const CONNECTIONS: usize = 16_384;
/// Files that are left for everything else.
const FILES: usize = 128;
/// One place has at most this part of them.
const SHARE: usize = 4;
/// How long the head of a request may take, from the connection or the answer before it: longer than clients keep a
/// connection that is idle.
const HEAD: Duration = Duration::from_secs(35);
/// The most that the head of a request may have, in bytes and in fields.
const HEAD_BYTES: usize = 16 * 1024;
const HEAD_FIELDS: usize = 64;
/// What is sent and not acknowledged for so long ends the connection.
#[cfg(target_os = "linux")]
const UNREAD: Duration = Duration::from_secs(20);
/// Connections that may wait to be accepted.
const BACKLOG: u32 = 1024;
/// How long the last answers may take.
const FINISH: Duration = Duration::from_secs(1);

/// An open port, which nobody answers yet.
#[derive(Debug)]
pub(crate) struct Port {
    listeners: Vec<TcpListener>,
    addresses: Vec<SocketAddr>,
}

/// A port that is being answered.
#[derive(Debug)]
pub(crate) struct Answering {
    accepting: JoinSet<()>,
    /// Connections hear when it is dropped, and it hears when they have ended.
    going: watch::Sender<()>,
}

/// What all connections share.
#[derive(Debug)]
struct Shared {
    web: Web,
    /// Whether a proxy in front says where requests come from.
    forwarded: bool,
    room: Arc<Semaphore>,
    places: Arc<Places>,
}

impl Port {
    /// Listens on all of these addresses.
    pub(crate) fn open(addresses: &[SocketAddr]) -> Outcome<Self> {
        let listen = |address: &SocketAddr| {
            listen(*address).map_err(|e| {
                Failure::new(format_args!(
                    "cannot listen for HTTP on {address}: {}: choose another address with --web, or none with --no-web",
                    reason(&e)
                ))
            })
        };
        let listeners = addresses.iter().map(listen).collect::<Outcome<Vec<_>>>()?;
        let addresses = listeners.iter().filter_map(|l| l.local_addr().ok()).collect();
        Ok(Self { listeners, addresses })
    }

    /// The addresses, with the ports they really have.
    pub(crate) fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Answers from now on, until it is told to finish or dropped.
    pub(crate) fn answer(self, web: Web, forwarded: bool) -> Answering {
        let room = connections();
        let shared = Arc::new(Shared {
            web,
            forwarded,
            room: Arc::new(Semaphore::new(room)),
            places: Arc::new(Places::new(room, forwarded)),
        });
        let (going, stop) = watch::channel(());
        let mut accepting = JoinSet::new();
        for listener in self.listeners {
            accepting.spawn(accept(listener, shared.clone(), stop.clone()));
        }
        Answering { accepting, going }
    }
}

impl Answering {
    /// Accepts no more, and waits until what is being answered is, or for a second.
    pub(crate) async fn finish(mut self) {
        self.accepting.shutdown().await;
        let _ = self.going.send(());
        let _ = timeout(FINISH, self.going.closed()).await;
    }
}

fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // Of the port's old connections some may linger after a restart.
    socket.set_reuseaddr(true)?;
    if address.is_ipv6() {
        // IPv4 has a socket of its own, if it is wanted.
        setsockopt(&socket, sockopt::Ipv6V6Only, &true)?;
    }
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// How many connections the system allows: as many files as it gives when asked for all, less some.
fn connections() -> usize {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return FILES };
    let wanted = hard.min((CONNECTIONS + FILES) as u64);
    let files =
        if soft < wanted && setrlimit(Resource::RLIMIT_NOFILE, wanted, hard).is_ok() { wanted } else { soft };
    usize::try_from(files).unwrap_or(CONNECTIONS).saturating_sub(FILES).clamp(FILES / 8, CONNECTIONS)
}

async fn accept(listener: TcpListener, shared: Arc<Shared>, stop: watch::Receiver<()>) {
    loop {
        let Ok(permit) = shared.room.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, remote)) => {
                let remote = SocketAddr::new(remote.ip().to_canonical(), remote.port());
                let Some(place) = shared.places.take(remote.ip()) else { continue };
                let (shared, stop) = (shared.clone(), stop.clone());
                tokio::spawn(async move {
                    converse(stream, remote, shared, stop).await;
                    drop((place, permit));
                });
            }
            // Out of file descriptors, for example: it passes, but not by asking again at once.
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

/// Answers the requests of one connection.
async fn converse(stream: TcpStream, remote: SocketAddr, shared: Arc<Shared>, mut stop: watch::Receiver<()>) {
    // An answer is small and should not wait for more.
    let _ = stream.set_nodelay(true);
    #[cfg(target_os = "linux")]
    let _ = setsockopt(&stream, sockopt::TcpUserTimeout, &(UNREAD.as_millis() as u32));
    let service = service_fn(|request| {
        let shared = shared.clone();
        async move { Ok::<_, Infallible>(answer(&shared, remote, request).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_headers(HEAD_FIELDS)
        .max_buf_size(HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    // A client that fails or leaves is its own affair.
    tokio::select! {
        _ = connection.as_mut() => {}
        _ = stop.changed() => {
            connection.as_mut().graceful_shutdown();
            let _ = connection.await;
        }
    }
}

async fn answer(shared: &Shared, remote: SocketAddr, request: Request<Incoming>) -> Response<WebBody> {
    if request.uri().path() != Web::PATH {
        let mut response = Response::new(WebBody::default());
        *response.status_mut() = StatusCode::NOT_FOUND;
        response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        return response;
    }
    let remote = match forwarded_for(request.headers()).filter(|_| shared.forwarded) {
        Some(ip) => SocketAddr::new(ip, remote.port()),
        None => remote,
    };
    shared.web.handle(remote, request).await
}

/// The last address in `X-Forwarded-For`: what the proxy in front has added, whatever it was told.
fn forwarded_for(headers: &HeaderMap) -> Option<IpAddr> {
    let last = headers.get_all("x-forwarded-for").iter().next_back()?.to_str().ok()?;
    let last = last.rsplit(',').next()?.trim();
    last.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>().ok().map(|ip| ip.to_canonical())
}

/// How many connections there are from one place. Loopback is no place: it is a proxy in front, or this machine's own.
#[derive(Debug)]
struct Places {
    share: usize,
    counts: Mutex<HashMap<IpAddr, usize>>,
}

/// One connection of a place's.
#[derive(Debug)]
struct Place {
    places: Arc<Places>,
    prefix: Option<IpAddr>,
}

impl Places {
    /// What comes through a proxy all comes from one place, wherever that is.
    fn new(room: usize, forwarded: bool) -> Self {
        let share = if forwarded { room } else { (room / SHARE).max(1) };
        Self { share, counts: Mutex::default() }
    }

    fn counts(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One more, unless the place has its share.
    fn take(self: &Arc<Self>, ip: IpAddr) -> Option<Place> {
        let prefix = (!ip.is_loopback()).then(|| prefix(ip));
        if let Some(prefix) = prefix {
            let mut counts = self.counts();
            let count = counts.entry(prefix).or_default();
            if *count >= self.share {
                return None;
            }
            *count += 1;
        }
        Some(Place { places: self.clone(), prefix })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let Some(prefix) = self.prefix else { return };
        let mut counts = self.places.counts();
        if let Some(count) = counts.get_mut(&prefix) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&prefix);
            }
        }
    }
}

/// What one customer of a provider has: an IPv4 address, or the first 56 bits of an IPv6 one.
fn prefix(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(_) => ip,
        IpAddr::V6(v6) => std::net::Ipv6Addr::from_bits(v6.to_bits() & (u128::MAX << 72)).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_proxy_in_front_is_believed_and_not_what_it_was_told() {
        let of = |lines: &[&str]| {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append("x-forwarded-for", line.parse().unwrap());
            }
            forwarded_for(&headers).map(|ip| ip.to_string())
        };
        assert_eq!(of(&["192.0.2.1"]).as_deref(), Some("192.0.2.1"));
        assert_eq!(of(&["10.0.0.1, 192.0.2.1"]).as_deref(), Some("192.0.2.1"));
        assert_eq!(of(&["10.0.0.1", "10.0.0.2, 2001:db8::1"]).as_deref(), Some("2001:db8::1"));
        assert_eq!(of(&["[2001:db8::1]"]).as_deref(), Some("2001:db8::1"));
        assert_eq!(of(&["::ffff:192.0.2.1"]).as_deref(), Some("192.0.2.1"));
        for nothing in [&[][..], &["unknown"], &["192.0.2.1, "], &["192.0.2.1:80"]] {
            assert_eq!(of(nothing), None, "{nothing:?}");
        }
    }

    #[test]
    fn a_place_is_an_address_or_56_bits() {
        let place = |text: &str| prefix(text.parse().unwrap()).to_string();
        assert_eq!(place("192.0.2.1"), "192.0.2.1");
        assert_eq!(place("2001:db8:1:ff02:3::4"), "2001:db8:1:ff00::");
    }

    #[test]
    fn nobody_takes_more_than_a_share() {
        let places = Arc::new(Places::new(2 * SHARE, false));
        let take = |text: &str| places.take(text.parse().unwrap());
        let mut held = vec![take("192.0.2.1").unwrap(), take("192.0.2.1").unwrap()];
        assert!(take("192.0.2.1").is_none() && take("192.0.2.2").is_some());
        held.extend([take("2001:db8::1").unwrap(), take("2001:db8::1:0:0:2").unwrap()]);
        assert!(take("2001:db8:0:ff::3").is_none() && take("2001:db8:1::").is_some());
        for _ in 0..9 {
            held.push(take("127.0.0.1").unwrap());
        }
        held.remove(0);
        assert!(take("192.0.2.1").is_some());
        held.clear();
        assert!(places.counts().is_empty(), "nothing is left of those that have gone");
    }

    #[test]
    fn a_proxy_on_another_machine_may_have_all() {
        let places = Arc::new(Places::new(8, true));
        let proxy = || places.take("192.0.2.1".parse().unwrap());
        let held: Vec<_> = std::iter::from_fn(proxy).collect();
        assert_eq!(held.len(), 8);
        assert_eq!(Places::new(3, false).share, 1, "and each place something");
    }

    #[test]
    fn connections_leave_files_for_the_rest() {
        let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        let room = connections();
        assert!(
            (16..=CONNECTIONS).contains(&room) && (room + FILES) as u64 <= hard.max(soft).max(256),
            "{room}"
        );
    }
}
