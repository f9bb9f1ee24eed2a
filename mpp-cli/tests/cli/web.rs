//! The HTTP port of the service.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::support::{Home, Process, SOON};

const PATH: &str = "/.well-known/mmmpresence";

/// A service, and where it listens for HTTP.
fn serve(home: &Home, more: &[&str]) -> (Process, SocketAddr) {
    let args: Vec<&str> = ["serve", "--listen", "127.0.0.1:0"].iter().chain(more).copied().collect();
    let mut serve = home.start(&args);
    let line = serve.line("the HTTP port", |l| l.starts_with("web "));
    let address = line.split_whitespace().nth(2).unwrap().trim_end_matches([':', ',']).parse().unwrap();
    serve.line("what to type next", |l| l.contains(" post alice@example.com"));
    (serve, address)
}

fn connect(to: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(to).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    stream
}

/// What is answered to these bytes until the connection ends, in lower case.
fn said(to: SocketAddr, request: &str) -> String {
    let mut stream = connect(to);
    // It may be refused before all of it is there.
    let _ = stream.write_all(request.as_bytes());
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).to_lowercase()
}

fn post(path: &str, headers: &str, body: &str) -> String {
    let kind = "Content-Type: application/octet-stream\r\nConnection: close\r\n";
    format!("POST {path} HTTP/1.1\r\nHost: x\r\n{kind}Content-Length: {}\r\n{headers}\r\n{body}", body.len())
}

#[test]
fn strangers_get_nothing_and_are_bounded() {
    let home = Home::new();
    let (serve, web) = serve(&home, &[]);
    let fields = "X: x\r\n".repeat(100);
    let long = format!("X: {}\r\n", "x".repeat(32 * 1024));
    for (request, status) in [
        (post(PATH, "", "no packet"), "400"),
        (post(&format!("{PATH}?wait=50"), "", &"x".repeat(1300)), "400"),
        (post(&format!("{PATH}?wait=99"), "", "x"), "400"),
        (post("/", "", "x"), "404"),
        (format!("GET {PATH} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"), "405"),
        (post(PATH, "", &"x".repeat(1453)), "413"),
        (post(PATH, &fields, "x"), "431"),
        (post(PATH, &long, "x"), "431"),
        ("nonsense\r\n\r\n".to_owned(), "400"),
    ] {
        let answer = said(web, &request);
        assert!(answer.starts_with(&format!("http/1.1 {status} ")), "{status}: {answer}");
        assert!(answer.contains("content-length: 0\r\n") && answer.ends_with("\r\n\r\n"), "{answer}");
        // What is no HTTP is not answered by us.
        let is_http = status != "431" && !request.starts_with("nonsense");
        assert_eq!(answer.contains("cache-control: no-store\r\n"), is_http, "{answer}");
    }
    let mut answer = String::new();
    let mut stream = connect(web);
    stream.write_all(post(PATH, "", "first").replace("close", "keep-alive").as_bytes()).unwrap();
    stream.write_all(post(PATH, "", "second").as_bytes()).unwrap();
    stream.read_to_string(&mut answer).unwrap();
    assert_eq!(answer.matches("HTTP/1.1 400").count(), 2, "one connection, two requests: {answer}");
    // A connection that says nothing does not hold the end up.
    let silent = connect(web);
    let start = Instant::now();
    assert_eq!(serve.stop(Signal::SIGTERM).code(), 0);
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
    drop(silent);
}

#[test]
fn where_it_listens_can_be_chosen() {
    let home = Home::new();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let listen = ["serve", "--listen", "127.0.0.1:0", "--web", &address];
    let line = home.fails(1, &listen);
    for word in [&*address, "in use", "--no-web"] {
        assert!(line.contains(word), "{line}");
    }
    home.fails(2, &[&listen[..], &["--no-web"]].concat());
    let (first, web) = serve(&home, &["--web", "127.0.0.1:0", "--web", "[::1]:0"]);
    assert!(web.ip().is_loopback() && web.port() != 0);
    let status = home.run(&["status"]).out.join("\n");
    assert!(status.contains(&format!("web           http {web}, [::1]:")), "{status}");
    drop(first);
    let mut without = home.start(&["serve", "--listen", "127.0.0.1:0", "--no-web"]);
    without.line("what to type next", |l| l.contains(" post alice@example.com"));
    assert!(!without.so_far().iter().any(|line| line.starts_with("web ")), "{:?}", without.so_far());
}

#[test]
fn a_device_without_udp_goes_by_http_within_five_seconds() {
    let home = Home::new();
    let (serve, web) = serve(&home, &[]);
    // The system chose the port, so tickets name it.
    let base = format!("http://{web}");
    let said = home.run(&["ticket", "alice@example.com", "--device", "other"]).err.join("\n");
    assert!(said.contains(&base), "{said}");
    // A socket that nobody reads: UDP goes nowhere.
    let wall = UdpSocket::bind("127.0.0.1:0").unwrap();
    let wall = wall.local_addr().unwrap().to_string();
    let ticket = home.ticket("alice@example.com", "phone", &["--endpoint", &wall, "--web", &base]);
    let start = Instant::now();
    let (mut watch, connected) = home.watch(&ticket, &[]);
    assert_eq!(connected["service"], serde_json::Value::Null);
    home.post(&["alice@example.com", "over the Web"]);
    assert_eq!(watch.texts(1), ["over the Web"]);
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    assert!(watch.so_far().contains(&r#"{"transport":"web","type":"transport"}"#), "{:?}", watch.so_far());
    // The next request waits for more.
    let waits = || home.run(&["status"]).out.iter().any(|line| line.starts_with("web-held      1"));
    while !waits() {
        assert!(start.elapsed() < SOON, "no request waits");
    }
    // The request that waits is answered: the device is told that the service goes.
    assert_eq!(serve.stop(Signal::SIGTERM).code(), 0);
    assert_eq!(watch.json("disconnected")["reason"], "closed-by-service");
    drop(watch);
    std::fs::write(home.path("ticket"), ticket).unwrap();
    let line = home.fails(1, &["watch", "@ticket", "--web-roots", "no such file"]);
    assert!(line.contains("no such file"), "{line}");
    let line = home.fails(1, &["watch", "@ticket", "--web-roots", "ticket"]);
    assert!(line.contains("no certificate") && line.contains("PEM"), "{line}");
}
