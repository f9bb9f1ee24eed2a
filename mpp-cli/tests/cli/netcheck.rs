//! `mpp endpoint` and `mpp netcheck` on the loopback interface: no NAT, but everything else.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::support::{Ended, Home, Process, SOON};

const ALICE: &str = "alice@example.com";

fn json(ended: &Ended) -> Value {
    let [line] = &ended.out[..] else { panic!("one line: {ended:?}") };
    serde_json::from_str(line).unwrap()
}

/// A port that nobody has.
fn free_port() -> u16 {
    UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

#[test]
fn the_endpoint_for_people_and_for_programs() {
    let home = Home::new();
    let (_serve, _) = home.serve();
    let ticket = home.ticket(ALICE, "phone", &[]);
    let text = home.run_with(&["endpoint", "-"], ticket.as_bytes());
    assert_eq!((text.code(), text.err.len()), (0, 0), "{text:?}");
    let [line] = &text.out[..] else { panic!("{text:?}") };
    let address: SocketAddr = line.strip_prefix("IPv4  ").unwrap().parse().unwrap();
    assert!(address.ip().is_loopback());
    let object = json(&home.run_with(&["endpoint", "-", "--json"], ticket.as_bytes()));
    assert_eq!((&object["v4"]["udp"], &object["v6"]["udp"]), (&"works".into(), &"no-service".into()));
    assert_eq!(object["v4"]["endpoint"], object["v4"]["local"], "no NAT");
    assert!(object["v6"]["endpoint"].is_null());
}

/// With a second port it is known of what the mapping depends, and a device that is connected does not notice.
#[test]
fn the_network_is_looked_at_and_nobody_is_displaced() {
    let home = Home::new();
    let port = free_port().to_string();
    let mut serve = home.start(&["serve", "--listen", "127.0.0.1:0", "--check-port", &port]);
    serve.line("the second port", |l| l.starts_with("check port") && l.contains(&port));
    serve.line("what to type next", |l| l.contains(" post alice"));
    let ticket = home.ticket(ALICE, "phone", &[]);
    let before = json(&home.run_with(&["netcheck", "-", "--json", "--up-to", "0"], ticket.as_bytes()));
    assert_eq!(before["in_use"], "no");
    let (mut watch, _) = home.watch(&ticket, &[]);
    let ended = home.run_with(&["netcheck", "-", "--json", "--up-to", "0"], ticket.as_bytes());
    assert_eq!(ended.code(), 0, "{ended:?}");
    let report = json(&ended);
    assert_eq!((&report["in_use"], &report["ticket"]), (&"yes".into(), &"accepted".into()), "{report:#}");
    let v4 = &report["v4"];
    let is = |name: &str, value: &str| assert_eq!(v4[name], value, "{report:#}");
    is("udp", "works");
    is("translation", "none");
    is("mapping", "endpoint-independent");
    is("port", "preserved");
    is("filtering", "unknown");
    is("stun", "yes");
    assert_eq!((&v4["sent"], &v4["lost"], &v4["rebindings"]), (&10.into(), &0.into(), &0.into()));
    assert!(v4["rtt_min_us"].as_u64() <= v4["rtt_mean_us"].as_u64());
    assert_eq!(v4["destinations"].as_array().unwrap().len(), 2);
    assert_eq!((&report["web"], &report["complete"]), (&"works".into(), &true.into()));
    assert_eq!(report["web_destinations"][0]["seen"], "service");

    // What takes a connection is left out, and that is said.
    let ended = home.run_with(&["netcheck", "-"], ticket.as_bytes());
    let lifetime = ended.out.iter().find(|l| l.starts_with("lifetime")).unwrap();
    assert!(lifetime.contains("unknown") && lifetime.contains("--take-over"), "{ended:?}");

    home.post(&[ALICE, "still there"]);
    assert_eq!(watch.texts(1), ["still there"]);
    let ended = watch.stop(Signal::SIGTERM);
    assert!(!ended.out.iter().any(|l| l.contains("disconnected")), "{ended:?}");
}

/// For people: one line for each fact, one that says it all, and no progress where nobody looks.
#[test]
fn the_report_for_people() {
    let home = Home::new();
    let (_serve, _) = home.serve_on("127.0.0.1:0");
    let ticket = home.ticket(ALICE, "phone", &[]);
    let ended = home.run_with(&["netcheck", "-", "--up-to", "0"], ticket.as_bytes());
    assert_eq!((ended.code(), ended.err.len()), (0, 0), "{ended:?}");
    let has = |words: &str| assert!(ended.out.iter().any(|l| l.contains(words)), "'{words}': {ended:?}");
    has("IPv4          UDP works, seen from 127.0.0.1:");
    has("IPv6          the ticket names no address");
    has("filtering   unknown");
    has("loss        0 of 10 packets");
    has("Web           works, at http://127.0.0.1:");
    assert_eq!(
        ended.out.last().unwrap(),
        "verdict       UDP works, without a NAT: notifications come at once"
    );
}

/// Nobody answers: that is said soon, with what to do, and what is not known is called so.
#[test]
fn what_goes_wrong_is_said_with_what_to_do() {
    let home = Home::new();
    let (_serve, _) = home.serve();
    let gone = format!("127.0.0.1:{}", free_port());
    let ticket = home.ticket(ALICE, "phone", &["--endpoint", &gone, "--web", "http://127.0.0.1:1"]);
    let begin = Instant::now();
    let ended = home.run_with(&["netcheck", "-", "--json", "--up-to", "0"], ticket.as_bytes());
    assert!(begin.elapsed() < Duration::from_secs(8), "{:?}", begin.elapsed());
    let report = json(&ended);
    assert_eq!(
        (&report["udp"], &report["ticket"], &report["in_use"]),
        (&"blocked".into(), &"unknown".into(), &"unknown".into())
    );
    let web = serde_json::json!([{ "base": "http://127.0.0.1:1", "seen": "nobody", "status": null }]);
    assert_eq!((&report["web"], &report["web_destinations"]), (&"does-not".into(), &web));
    let line = ended.failed(1);
    assert!(line.contains(&format!("{gone}, nor by Web")) && line.contains("firewall"), "{line}");
    assert!(home.run_with(&["endpoint", "-"], ticket.as_bytes()).failed(1).contains("firewall"));

    let expired = home.ticket(ALICE, "phone", &["--expires", "1ms"]);
    let line = home.run_with(&["netcheck", "-", "--up-to", "0"], expired.as_bytes()).failed(3);
    assert!(line.contains("expired") && line.contains("mpp ticket"), "{line}");

    let nowhere = home.ticket(ALICE, "phone", &["--endpoint", "does-not-exist.invalid:1"]);
    let line = home.run_with(&["endpoint", "-"], nowhere.as_bytes()).failed(1);
    assert!(line.contains("cannot look up does-not-exist.invalid"), "{line}");
    for up_to in ["1ms", "24s"] {
        assert!(home.fails(2, &["netcheck", &ticket, "--up-to", up_to]).contains("25s or more"));
    }
    for command in ["endpoint", "netcheck"] {
        home.fails(3, &[command, "not a ticket"]);
        home.fails(2, &[command]);
    }
}

/// Answers every HTTP request with a page, as a network does that wants a login first.
fn portal() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let page = "<html>Please log in!</html>";
    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{page}", page.len());
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let _ = stream.read(&mut [0; 4096]).and_then(|_| stream.write_all(answer.as_bytes()));
        }
    });
    address
}

/// UDP is blocked: by Web the service is found, and what only says 200 is not the service.
#[test]
fn where_udp_is_blocked_the_web_makes_the_difference() {
    let home = Home::new();
    let (_serve, _, web) = home.serve_with_web();
    // A socket that nobody reads.
    let wall = UdpSocket::bind("127.0.0.1:0").unwrap();
    let wall = wall.local_addr().unwrap().to_string();
    let ticket = |web: SocketAddr| {
        home.ticket(ALICE, "phone", &["--endpoint", &wall, "--web", &format!("http://{web}")])
    };
    let (open, closed) = (ticket(web), ticket(portal()));
    let begin = |more: &[&str], ticket: &str| {
        let args: Vec<&str> = ["netcheck", "-"].iter().chain(more).copied().collect();
        home.start_with(&args, Some(ticket.as_bytes().to_vec()))
    };
    let looks =
        [begin(&[], &open), begin(&["--json"], &open), begin(&[], &closed), begin(&["--json"], &closed)];
    let [words, object, no_words, no_object] = looks.map(|look| look.end(SOON));

    assert_eq!((words.code(), words.err.len()), (0, 0), "{words:?}");
    assert_eq!(line(&words, "Web"), format!("Web           works, at http://{web}"));
    assert_eq!(line(&words, "lifetime"), "lifetime      unknown (UDP does not get through)");
    let verdict = "verdict       UDP does not get through, the Web does: notifications come by Web";
    assert_eq!(line(&words, "verdict"), verdict);
    let report = json(&object);
    let seen = [&report["udp"], &report["web"], &report["ticket"], &report["in_use"]];
    assert_eq!(seen, ["blocked", "works", "accepted", "no"], "{report:#}");

    assert_eq!(line(&no_words, "Web"), "Web           does not work");
    assert!(no_words.out.iter().any(|l| l.contains("does this network want a login first?")), "{no_words:?}");
    assert!(line(&no_words, "verdict").contains("neither UDP nor the Web"), "{no_words:?}");
    let report = json(&no_object);
    let seen = [&report["udp"], &report["web"], &report["ticket"], &report["web_destinations"][0]["seen"]];
    assert_eq!(seen, ["blocked", "does-not", "unknown", "stranger"], "{report:#}");
    assert!(no_object.failed(1).contains("nor by Web"));
    let line = home.fails(1, &["netcheck", &open, "--web-roots", "no such file"]);
    assert!(line.contains("no such file"), "{line}");
}

/// Whoever does not want to wait for the end of a measurement gets what is known.
#[test]
fn an_interrupted_measurement_reports_what_is_known() {
    let home = Home::new();
    let (_serve, _) = home.serve();
    let ticket = home.ticket(ALICE, "phone", &[]);
    let mut check = home.start_with(&["netcheck", "-"], Some(ticket.into_bytes()));
    check.line("what is known at once", |l| l.starts_with("Web"));
    connected(&home, 1);
    let ended = check.stop(Signal::SIGINT);
    assert_eq!(ended.code(), 0, "{ended:?}");
    let line = |name: &str| line(&ended, name);
    assert!(line("lifetime").contains("unknown") && line("heartbeat").contains("25.0 s"), "{ended:?}");
    assert!(line("verdict").contains("UDP works"), "{ended:?}");
    assert_eq!(ended.err, ["mpp: not all was measured: it was interrupted"]);
    connected(&home, 0);
}

/// The line that begins with this name.
fn line(ended: &Ended, name: &str) -> String {
    ended.out.iter().find(|l| l.starts_with(name)).unwrap_or_else(|| panic!("{ended:?}")).clone()
}

/// Waits until so many devices are connected.
fn connected(home: &Home, devices: usize) {
    let status = || home.run(&["status"]).out.join("\n");
    let deadline = Instant::now() + SOON;
    while !status().contains(&format!("devices: {devices}")) {
        assert!(Instant::now() < deadline, "not {devices} devices: {}", status());
    }
}

/// Two measurements, of which one is told to people and one to programs.
fn measure_two(home: &Home) -> ([String; 2], [Process; 2]) {
    let tickets = ["phone", "tablet"].map(|device| home.ticket(ALICE, device, &[]));
    let begin = |more: &[&str], ticket: &str| {
        let args: Vec<&str> = ["netcheck", "-"].iter().chain(more).copied().collect();
        home.start_with(&args, Some(ticket.as_bytes().to_vec()))
    };
    let checks = [begin(&[], &tickets[0]), begin(&["--json"], &tickets[1])];
    connected(home, 2);
    (tickets, checks)
}

/// It waits for the service to come back, but not for long, and then nothing it has seen counts any more.
#[test]
fn a_service_that_goes_away_ends_a_measurement() {
    let home = Home::new();
    let (serve, _) = home.serve();
    let (_, checks) = measure_two(&home);
    serve.stop(Signal::SIGTERM);
    let [words, object] = checks.map(|check| check.end(SOON * 2));
    assert!(words.failed(1).contains("is the service still running"), "{words:?}");
    assert!(line(&words, "verdict").contains("did not come back"), "{words:?}");
    let report = json(&object);
    object.failed(1);
    assert_eq!((&report["ticket"], &report["lifetime"]["at_least_ms"]), (&"accepted".into(), &Value::Null));
    let why = report["lifetime"]["why_not_all"].as_str().unwrap();
    assert!(why.contains("the connection was lost"), "{report:#}");
    assert!(!report["verdict"].as_str().unwrap().contains("at once"), "{report:#}");
}

/// A service that comes back, and finds that the ticket has expired meanwhile.
#[test]
fn a_ticket_that_is_refused_meanwhile_ends_a_measurement() {
    let home = Home::new();
    let (serve, listen) = home.serve();
    let ticket = home.ticket(ALICE, "phone", &["--expires", "6s"]);
    let expiry = Instant::now() + Duration::from_secs(6);
    let check = home.start_with(&["netcheck", "-"], Some(ticket.into_bytes()));
    connected(&home, 1);
    thread::sleep(expiry.saturating_duration_since(Instant::now()));
    serve.stop(Signal::SIGTERM);
    let (_serve, _) = home.serve_on(&listen.to_string());
    let ended = check.end(SOON * 2);
    assert!(ended.failed(3).contains("expired"), "{ended:?}");
    assert!(line(&ended, "verdict").contains("get a new one"), "{ended:?}");
}

/// What ended it is said as what it is, to people and to programs.
#[test]
fn a_measurement_that_is_displaced_says_so() {
    let home = Home::new();
    let (_serve, _) = home.serve();
    let (tickets, checks) = measure_two(&home);
    let _watches = tickets.each_ref().map(|ticket| home.watch(ticket, &[]));
    let [words, object] = checks.map(|check| check.end(SOON));
    assert_eq!((words.code(), object.code()), (0, 0), "{words:?} {object:?}");
    let why = "the device has connected elsewhere meanwhile";
    assert_eq!(words.err, [format!("mpp: not all was measured: {why}")]);
    assert_eq!(json(&object)["lifetime"]["why_not_all"], why, "{object:?}");
}

/// Nobody has answered yet, so nothing is known, and nobody says no.
#[test]
fn interrupted_at_once_it_says_that_nothing_is_known() {
    let home = Home::new();
    let (_serve, _) = home.serve();
    let wall = UdpSocket::bind("127.0.0.1:0").unwrap();
    wall.set_read_timeout(Some(SOON)).unwrap();
    let at = wall.local_addr().unwrap().to_string();
    let ticket = home.ticket(ALICE, "phone", &["--endpoint", &at, "--web", "http://127.0.0.1:1"]);
    let check = home.start_with(&["netcheck", "-", "--json"], Some(ticket.into_bytes()));
    wall.recv(&mut [0; 2048]).expect("it asks");
    let ended = check.stop(Signal::SIGINT);
    let report = json(&ended);
    assert_eq!((&report["udp"], &report["complete"]), (&"unknown".into(), &false.into()), "{report:#}");
    assert_eq!(report["lifetime"]["why_not_all"], "it was interrupted");
    assert!(report["verdict"].as_str().unwrap().contains("not known"), "{report:#}");
    assert!(ended.failed(1).contains("interrupted before"), "{ended:?}");
}

/// Whoever does not want to answer strangers answers those with a ticket all the same.
#[test]
fn a_service_without_stun() {
    let home = Home::new();
    let mut serve = home.start(&["serve", "--listen", "127.0.0.1:0", "--no-stun"]);
    serve.line("what to type next", |l| l.contains(" post alice"));
    let ticket = home.ticket(ALICE, "phone", &[]);
    let report = json(&home.run_with(&["netcheck", "-", "--json", "--up-to", "0"], ticket.as_bytes()));
    let v4 = &report["v4"];
    let seen = [&v4["udp"], &v4["stun"], &report["ticket"]];
    assert_eq!(seen, ["works", "no", "accepted"], "{report:#}");
    assert!(v4["endpoint"].is_string() && v4["sent"].is_null(), "{report:#}");
}

#[test]
fn a_second_port_that_is_the_first_one_is_refused() {
    let home = Home::new();
    let port = free_port();
    let listen = format!("127.0.0.1:{port}");
    let line = home.fails(2, &["serve", "--listen", &listen, "--check-port", &port.to_string()]);
    assert!(line.contains("choose another"), "{line}");
    let (serve, _) = home.serve_on("127.0.0.1:0");
    assert!(!serve.so_far().iter().any(|l| l.starts_with("check port")), "only where it is asked for");
}
