//! The client against servers that say exactly what a test wants.

use std::future::poll_fn;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, channel};
use std::task::Poll;
use std::thread;
use std::time::{Duration, Instant};

use super::body::WebBody;
use super::client::{Answer, Means, Post, WebClient};
use super::tcp::Tcp;
use super::{OCTETS, WebReply, respond};
use crate::async_io;
use crate::clock::Clock;
use crate::conformance::WebServer;
use crate::resolve::Lookups;
use crate::runtime::{AsyncSocket, Runtime, Task, Timer};
use crate::stats::Counters;

/// async-io's reactor, and a clock that can be put forward.
#[derive(Clone, Debug, Default)]
struct Reactor(Arc<AtomicU64>);

impl Runtime for Reactor {
    fn spawn(&self, task: Task) {
        thread::spawn(move || ::async_io::block_on(task));
    }
    fn timer(&self, at: Instant) -> Pin<Box<dyn Timer>> {
        async_io::timer(at)
    }
    fn wrap(&self, socket: UdpSocket) -> io::Result<Box<dyn AsyncSocket>> {
        async_io::wrap(socket)
    }
    fn wrap_tcp(&self, stream: TcpStream) -> io::Result<Box<dyn AsyncSocket>> {
        async_io::wrap_tcp(stream)
    }
    fn uptime(&self) -> Duration {
        crate::clock::uptime() + Duration::from_secs(self.0.load(Relaxed))
    }
}

/// A client under test.
struct Subject {
    client: WebClient<u32>,
    counters: Arc<Counters>,
    runtime: Reactor,
}

impl Subject {
    fn new() -> Self {
        Self::trusting(super::tls::Trust::default())
    }

    fn trusting(trust: super::tls::Trust) -> Self {
        let (runtime, counters) = (Reactor::default(), Arc::<Counters>::default());
        let clock = Clock::start(Arc::new(runtime.clone()));
        let means = Means { clock: clock.clone(), lookups: Lookups::default(), trust: Arc::new(trust) };
        Self { client: WebClient::new(clock, means, counters.clone()), counters, runtime }
    }

    fn start(&mut self, id: u32, base: &str, wait: Option<u64>) {
        let wait = wait.map(Duration::from_secs);
        self.client.start(id, Post { base: base.into(), packet: WebBody::new("packet"), wait });
    }

    /// The next answer, if there is one in time.
    fn poll(&mut self, within: Duration) -> Option<(u32, Answer)> {
        let mut late = pin!(::async_io::Timer::after(within));
        ::async_io::block_on(poll_fn(|cx| match self.client.poll(cx) {
            Some(done) => Poll::Ready(Some(done)),
            None => late.as_mut().poll(cx).map(|_| None),
        }))
    }

    fn answer(&mut self) -> (u32, Answer) {
        self.poll(Duration::from_secs(5)).expect("no answer within 5 s")
    }

    fn ask(&mut self, base: &str) -> Answer {
        self.start(0, base, None);
        self.answer().1
    }

    fn connections(&self) -> u64 {
        self.counters.web_connections.load(Relaxed)
    }
}

/// What a server does with a request.
#[derive(Clone, Debug)]
enum Act {
    Say(Vec<u8>),
    /// Says it, and closes the connection.
    Last(Vec<u8>),
    /// Says nothing and keeps the connection until the client ends it, which is told as "gone".
    Hang,
}

fn say(text: &str) -> Act {
    Act::Say(text.replace('\n', "\r\n").into_bytes())
}

fn last(text: &str) -> Act {
    Act::Last(text.replace('\n', "\r\n").into_bytes())
}

const OK: &str = "HTTP/1.1 200 OK\nContent-Length: 2\n\nok";

/// A server that acts like this, request by request over all connections; and the requests that it got.
fn server(acts: Vec<Act>) -> (String, Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    let (tell, told) = channel();
    let acts = Arc::new(std::sync::Mutex::new(acts.into_iter()));
    thread::spawn(move || {
        for stream in listener.incoming() {
            let (stream, tell, acts) = (stream.unwrap(), tell.clone(), acts.clone());
            thread::spawn(move || serve(stream, || acts.lock().unwrap().next(), |r| tell.send(r).is_ok()));
        }
    });
    (base, told)
}

fn serve<S: Read + Write>(
    stream: S,
    mut act: impl FnMut() -> Option<Act>,
    mut tell: impl FnMut(String) -> bool,
) {
    let mut stream = BufReader::new(stream);
    while let Some(request) = request(&mut stream) {
        tell(request);
        let say = match act() {
            Some(Act::Say(answer)) => {
                stream.get_mut().write_all(&answer).and_then(|()| stream.get_mut().flush())
            }
            Some(Act::Last(answer)) => {
                let _ = stream.get_mut().write_all(&answer).and_then(|()| stream.get_mut().flush());
                return;
            }
            Some(Act::Hang) => {
                if matches!(stream.get_mut().read(&mut [0; 1]), Ok(0) | Err(_)) {
                    tell("gone".into());
                }
                return;
            }
            None => return,
        };
        if say.is_err() {
            return;
        }
    }
}

/// One request with its body.
fn request(stream: &mut impl BufRead) -> Option<String> {
    let (mut text, mut length) = (String::new(), 0);
    loop {
        let start = text.len();
        if stream.read_line(&mut text).ok()? == 0 {
            return None;
        }
        let line = text[start..].to_lowercase();
        if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
        if line == "\r\n" {
            break;
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).ok()?;
    Some(text + std::str::from_utf8(&body).unwrap())
}

#[test]
fn a_request_is_what_the_specification_says_and_the_connection_is_kept() {
    let (base, requests) = server(vec![say(OK); 3]);
    let mut subject = Subject::new();
    subject.start(1, &format!("{base}/under/"), Some(50));
    assert_eq!(subject.answer(), (1, Answer::Packets(b"ok".to_vec())));
    let first = requests.recv().unwrap();
    let authority = base.strip_prefix("http://").unwrap();
    for part in [
        "POST /under/.well-known/mmmpresence?wait=50 HTTP/1.1\r\n",
        &format!("host: {authority}\r\n"),
        "content-type: application/octet-stream\r\n",
        "content-length: 6\r\n",
        "\r\n\r\npacket",
    ] {
        assert!(first.contains(part), "{part} is not in {first}");
    }
    for id in 2..=3 {
        subject.start(id, &format!("{base}/under/"), None);
        assert_eq!(subject.answer().0, id);
        assert!(requests.recv().unwrap().starts_with("POST /under/.well-known/mmmpresence HTTP/1.1\r\n"));
    }
    assert_eq!(subject.connections(), 1);
}

#[test]
fn news_go_beside_a_request_that_waits() {
    let (base, _requests) = server(vec![Act::Hang, say(OK), say(OK)]);
    let mut subject = Subject::new();
    subject.start(1, &base, Some(50));
    assert_eq!(subject.poll(Duration::from_millis(200)), None);
    for id in 2..=3 {
        subject.start(id, &base, None);
        assert_eq!(subject.answer(), (id, Answer::Packets(b"ok".to_vec())));
    }
    assert_eq!(subject.connections(), 2);
}

#[test]
fn a_connection_that_was_closed_while_idle_is_replaced() {
    let (base, _requests) =
        server(vec![last(OK), last("HTTP/1.1 200 OK\nContent-Length: 0\nConnection: close\n\n")]);
    let mut subject = Subject::new();
    assert_eq!(subject.ask(&base), Answer::Packets(b"ok".to_vec()));
    thread::sleep(Duration::from_millis(100));
    assert_eq!(subject.ask(&base), Answer::Packets(vec![]));
    assert_eq!((subject.connections(), subject.counters.web_failures.load(Relaxed)), (2, 0));
    // The third finds nobody who answers: that is a failure, not an endless attempt.
    assert_eq!(subject.ask(&base), Answer::Failed);
    assert_eq!((subject.connections(), subject.counters.web_failures.load(Relaxed)), (3, 1));
}

#[test]
fn a_connection_that_was_idle_for_long_is_not_trusted() {
    let (base, _requests) = server(vec![say(OK); 2]);
    let mut subject = Subject::new();
    assert_eq!(subject.ask(&base), Answer::Packets(b"ok".to_vec()));
    subject.runtime.0.store(31, Relaxed);
    assert_eq!(subject.ask(&base), Answer::Packets(b"ok".to_vec()));
    assert_eq!(subject.connections(), 2);
}

#[test]
fn refusals_are_told_with_the_time_to_wait() {
    let (base, _requests) = server(vec![
        say("HTTP/1.1 503 Busy\nRetry-After: 7\nContent-Length: 4\n\nbusy"),
        say("HTTP/1.1 400 No\nContent-Length: 0\n\n"),
        say("HTTP/1.1 302 Found\nLocation: http://127.0.0.1:1/\nContent-Length: 0\n\n"),
        last("HTTP/1.1 504 Late\nRetry-After: Wed, 21 Oct 2026 07:28:00 GMT\n\n<html>"),
    ]);
    let mut subject = Subject::new();
    let refused = |status, seconds: Option<u64>| Answer::Refused {
        status,
        retry_after: seconds.map(Duration::from_secs),
    };
    for expected in [refused(503, Some(7)), refused(400, None), refused(302, None), refused(504, None)] {
        assert_eq!(subject.ask(&base), expected);
    }
    assert_eq!(subject.connections(), 1);
}

#[test]
fn answers_are_bounded() {
    let limit = super::MAX_ANSWER;
    let whole = |n: usize| last(&format!("HTTP/1.1 200 OK\nContent-Length: {n}\n\n{}", "x".repeat(n)));
    let mut chunks = "HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n".to_owned();
    for _ in 0..=limit / 1000 {
        chunks.push_str(&format!("3e8\n{}\n", "x".repeat(1000)));
    }
    // Only the head of it: whoever waited for the body would wait for long.
    let announced = say(&format!("HTTP/1.1 200 OK\nContent-Length: {}\n\n", limit + 1));
    let head = last(&format!("HTTP/1.1 200 OK\nX: {}\n\n", "x".repeat(64 * 1024)));
    let fields = last(&format!("HTTP/1.1 200 OK\n{}\n", "X: x\n".repeat(100)));
    let (base, _requests) =
        server(vec![whole(limit), announced, say(&chunks), head, fields, last("SSH-2.0-x\n")]);
    let mut subject = Subject::new();
    let Answer::Packets(all) = subject.ask(&base) else { panic!("the largest answer is one") };
    assert_eq!(all.len(), limit);
    for what in ["its length is announced", "it comes in pieces"] {
        assert_eq!(subject.ask(&base), Answer::TooLong, "{what}");
    }
    for what in ["its head", "its fields", "no HTTP"] {
        assert_eq!(subject.ask(&base), Answer::Failed, "{what}");
    }
}

#[test]
fn everything_has_a_time_limit() {
    let (base, requests) = server(vec![Act::Hang, say("HTTP/1.1 200 OK\nContent-Length: 9\n\nx")]);
    let mut subject = Subject::new();
    // The second answer stops in the middle.
    for (id, wait, limit) in [(1, Some(20), 30), (2, None, 10)] {
        subject.start(id, &base, wait);
        assert_eq!(subject.poll(Duration::from_millis(200)), None);
        requests.recv().unwrap();
        subject.runtime.0.fetch_add(limit - 1, Relaxed);
        assert_eq!(subject.poll(Duration::from_millis(50)), None);
        subject.runtime.0.fetch_add(1, Relaxed);
        assert_eq!(subject.answer(), (id, Answer::Failed));
        assert_eq!(subject.client.deadline(), None);
    }
}

#[test]
fn what_is_given_up_is_cut_off() {
    let (base, requests) = server(vec![Act::Hang]);
    let mut subject = Subject::new();
    subject.start(1, &base, Some(50));
    assert_eq!(subject.poll(Duration::from_millis(200)), None);
    requests.recv().unwrap();
    subject.client.close();
    assert_eq!(requests.recv_timeout(Duration::from_secs(5)).as_deref(), Ok("gone"));
    assert_eq!(subject.poll(Duration::from_millis(100)), None);
}

#[test]
fn names_are_looked_up_and_bad_bases_fail() {
    let (base, _requests) = server(vec![say(OK)]);
    let mut subject = Subject::new();
    assert_eq!(subject.ask(&base.replace("127.0.0.1", "localhost")), Answer::Packets(b"ok".to_vec()));
    for base in ["http://does-not-exist.invalid", "http://127.0.0.1:1", "nonsense", "ftp://127.0.0.1"] {
        assert_eq!(subject.ask(base), Answer::Failed, "{base}");
    }
}

/// A listener whose queue is full: who connects hears nothing.
#[cfg(target_os = "linux")]
fn deaf() -> (SocketAddr, socket2::Socket, Vec<TcpStream>) {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    socket.listen(0).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    let connect = |_| TcpStream::connect_timeout(&address, Duration::from_millis(300)).ok();
    let full = (0..8).map_while(connect).collect();
    (address, socket, full)
}

#[cfg(target_os = "linux")]
#[test]
fn an_address_that_is_deaf_or_refuses_does_not_hold_up_the_others() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let good = listener.local_addr().unwrap();
    let (deaf, _socket, _full) = deaf();
    let refuses = SocketAddr::from(([127, 0, 0, 1], 1));
    let connect = |addresses: &[SocketAddr]| {
        let runtime = Reactor::default();
        let mut connect = pin!(Tcp::connect(&runtime, addresses.to_vec()));
        let mut late = pin!(::async_io::Timer::after(Duration::from_secs(5)));
        ::async_io::block_on(poll_fn(|cx| match connect.as_mut().poll(cx) {
            Poll::Ready(done) => Poll::Ready(done.map(drop)),
            Poll::Pending => late.as_mut().poll(cx).map(|_| Err(io::ErrorKind::TimedOut.into())),
        }))
    };
    let start = Instant::now();
    connect(&[refuses, refuses, good]).unwrap();
    assert!(start.elapsed() < Duration::from_millis(200), "{:?}", start.elapsed());
    connect(&[deaf, refuses, good]).unwrap();
    let took = start.elapsed();
    assert!(took >= Duration::from_millis(250) && took < Duration::from_secs(2), "{took:?}");
    assert_eq!(connect(&[refuses]).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    assert_eq!(connect(&[]).unwrap_err().kind(), io::ErrorKind::NotFound);
}

/// A TLS server with this certificate, for two requests on one connection each.
fn secure(certified: &rcgen::CertifiedKey<rcgen::KeyPair>) -> SocketAddr {
    let key = rustls::pki_types::PrivateKeyDer::try_from(certified.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certified.cert.der().clone()], key)
        .unwrap();
    let (config, listener) = (Arc::new(config), TcpListener::bind("127.0.0.1:0").unwrap());
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let session = rustls::ServerConnection::new(config.clone()).unwrap();
            let stream = rustls::StreamOwned::new(session, stream.unwrap());
            thread::spawn(move || serve(stream, || Some(say(OK)), |_| true));
        }
    });
    address
}

#[test]
fn tls_takes_whom_it_is_told_to_trust_and_nobody_else() {
    let make = |name: &str| rcgen::generate_simple_self_signed(vec![name.to_owned()]).unwrap();
    let (right, wrong) = (make("localhost"), make("elsewhere.example"));
    let trust = |certificate: &[u8]| {
        let mut trust = super::tls::Trust::default();
        assert_eq!(trust.add(certificate), 1);
        trust
    };
    let at = |address: SocketAddr| format!("https://localhost:{}", address.port());
    let (good, bad) = (at(secure(&right)), at(secure(&wrong)));
    for certificate in [right.cert.pem().as_bytes(), right.cert.der()] {
        let mut subject = Subject::trusting(trust(certificate));
        for _ in 0..2 {
            assert_eq!(subject.ask(&good), Answer::Packets(b"ok".to_vec()));
        }
        assert_eq!(subject.connections(), 1);
        assert_eq!(subject.ask(&bad), Answer::Failed, "a certificate of another name");
    }
    assert_eq!(Subject::new().ask(&good), Answer::Failed, "nobody vouches for it");
    let mut plain = Subject::trusting(trust(right.cert.pem().as_bytes()));
    let (base, _requests) = server(vec![]);
    assert_eq!(plain.ask(&base.replace("http", "https")), Answer::Failed, "no TLS there");
    for nonsense in [&b""[..], b"nonsense", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----"] {
        assert_eq!(super::tls::Trust::default().add(nonsense), 0);
    }
}

/// What the handler says to these bytes, which end the connection's first request; `answer` is what the service says.
fn handled(request: &str, answer: WebReply) -> String {
    handled_on(Arc::new(Reactor::default()), request, answer)
}

fn handled_on(runtime: Arc<dyn Runtime>, request: &str, answer: WebReply) -> String {
    let timers = runtime.clone();
    let server = WebServer::start_on(runtime, move |_, request| {
        let (timers, answer) = (timers.clone(), answer.clone());
        async move {
            respond(&*timers, request, |wait, packet| async move {
                match answer {
                    WebReply::Packets(_) => WebReply::Packets(format!("{wait:?} {}", packet.len()).into()),
                    other => other,
                }
            })
            .await
        }
    });
    let mut stream = TcpStream::connect(server.address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream.write_all(request.replace('\n', "\r\n").as_bytes()).unwrap();
    let mut stream = BufReader::new(stream);
    let head = self::request(&mut stream).expect("an answer");
    head.to_lowercase()
}

#[test]
fn the_handler_answers_as_the_specification_says() {
    let post = |target: &str, kind: &str, body: &str| {
        let kind = if kind.is_empty() { String::new() } else { format!("Content-Type: {kind}\n") };
        format!("POST {target} HTTP/1.1\nHost: x\n{kind}Content-Length: {}\n\n{body}", body.len())
    };
    let packets = || WebReply::Packets(vec![]);
    let ok = handled(&post("/a?wait=55", "application/octet-stream", "12345"), packets());
    for part in [
        "http/1.1 200 ",
        "content-type: application/octet-stream\r\n",
        "cache-control: no-store\r\n",
        "some(55s) 5",
    ] {
        assert!(ok.contains(part), "{part} is not in {ok}");
    }
    let largest = "x".repeat(1452);
    assert!(handled(&post("/a", "Application/Octet-Stream", &largest), packets()).ends_with("none 1452"));
    let too_large = "x".repeat(1453);
    let chunked = format!(
        "POST /a HTTP/1.1\nHost: x\nContent-Type: {OCTETS}\nTransfer-Encoding: chunked\n\n5ad\n{too_large}\n"
    );
    for (request, status) in [
        ("GET /a HTTP/1.1\nHost: x\n\n".to_owned(), "405"),
        (post("/a", "", "12345"), "415"),
        (post("/a", "text/plain", "12345"), "415"),
        (post("/a?wait=0", OCTETS, "12345"), "400"),
        (post("/a?wait=56", OCTETS, "12345"), "400"),
        (post("/a?wait=x", OCTETS, "12345"), "400"),
        (post("/a?wait=+5", OCTETS, "12345"), "400"),
        (post("/a?wait=05", OCTETS, "12345"), "400"),
        (post("/a?other=1", OCTETS, "12345"), "400"),
        // Answered without waiting for the body.
        (format!("POST /a HTTP/1.1\nHost: x\nContent-Type: {OCTETS}\nContent-Length: 1453\n\n"), "413"),
        (chunked, "413"),
    ] {
        let said = handled(&request, packets());
        assert!(said.starts_with(&format!("http/1.1 {status} ")), "{request}: {said}");
        assert!(said.contains("content-length: 0") && said.contains("no-store"), "{said}");
    }
    let request = post("/a", OCTETS, "12345");
    assert!(handled(&request, WebReply::Invalid).starts_with("http/1.1 400 "));
    for (millis, seconds) in [(0, 1), (1, 1), (1000, 1), (1001, 2)] {
        let said = handled(&request, WebReply::Busy { retry_after: Duration::from_millis(millis) });
        assert!(
            said.starts_with("http/1.1 503 ") && said.contains(&format!("retry-after: {seconds}\r\n")),
            "{said}"
        );
    }
}

/// A runtime whose timers all fire after a moment; it notes how far away the last was meant to be.
#[derive(Clone, Debug, Default)]
struct Impatient(Arc<AtomicU64>);

impl Runtime for Impatient {
    fn spawn(&self, task: Task) {
        Reactor::default().spawn(task);
    }
    fn timer(&self, at: Instant) -> Pin<Box<dyn Timer>> {
        self.0.store(at.saturating_duration_since(Instant::now()).as_secs(), Relaxed);
        async_io::timer(Instant::now() + Duration::from_millis(200))
    }
    fn wrap(&self, socket: UdpSocket) -> io::Result<Box<dyn AsyncSocket>> {
        async_io::wrap(socket)
    }
    fn wrap_tcp(&self, stream: TcpStream) -> io::Result<Box<dyn AsyncSocket>> {
        async_io::wrap_tcp(stream)
    }
}

#[test]
fn a_body_that_does_not_come_is_not_waited_for() {
    let runtime = Impatient::default();
    let slow = format!("POST /a HTTP/1.1\nHost: x\nContent-Type: {OCTETS}\nContent-Length: 5\n\n123");
    let said = handled_on(Arc::new(runtime.clone()), &slow, WebReply::Packets(vec![]));
    assert!(said.starts_with("http/1.1 408 "), "{said}");
    assert_eq!(runtime.0.load(Relaxed), 9, "rounded down from 10 s");
}
