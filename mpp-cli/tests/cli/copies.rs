//! Somebody on the way copies packets from one transport to the other: nothing comes of it but a counted drop.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::{Home, SOON};

const PATH: &str = "/.well-known/mmmpresence";

/// What somebody on the way sees, and holds up if he likes.
#[derive(Clone, Default)]
struct Way(Arc<(Mutex<Seen>, Condvar)>);

#[derive(Default)]
struct Seen {
    /// What the device has sent.
    packets: Vec<Vec<u8>>,
    /// Nothing more of the device is passed on.
    held: bool,
}

impl Way {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.0.0.lock().unwrap()
    }

    fn hold(&self, held: bool) {
        self.seen().held = held;
        self.0.1.notify_all();
    }

    /// Notes a packet, and waits until it may go on.
    fn pass(&self, packet: &[u8]) {
        let mut seen = self.seen();
        seen.packets.push(packet.to_vec());
        self.0.1.notify_all();
        drop(self.0.1.wait_while(seen, |seen| seen.held).unwrap());
    }

    /// The packets until there are more than so many, within seconds.
    fn more_than(&self, count: usize) -> Vec<Vec<u8>> {
        let few = |seen: &mut Seen| seen.packets.len() <= count;
        let (seen, waited) = self.0.1.wait_timeout_while(self.seen(), SOON, few).unwrap();
        assert!(!waited.timed_out(), "nothing more than {count} packets");
        seen.packets.clone()
    }
}

/// Passes packets between a device and the service, as a NAT does; returns where the device is to send.
fn udp_way(service: SocketAddr) -> (SocketAddr, Way) {
    let (way, inner) = (Way::default(), UdpSocket::bind("127.0.0.1:0").unwrap());
    let outer = UdpSocket::bind("127.0.0.1:0").unwrap();
    outer.connect(service).unwrap();
    let address = inner.local_addr().unwrap();
    let (there, back) = ((inner.try_clone().unwrap(), outer.try_clone().unwrap()), (outer, inner));
    let device = Arc::new(Mutex::new(None));
    let (to_device, seen) = (device.clone(), way.clone());
    // Both end with the process of the tests.
    thread::spawn(move || {
        let mut packet = [0; 2048];
        while let Ok((len, from)) = there.0.recv_from(&mut packet) {
            *device.lock().unwrap() = Some(from);
            seen.pass(&packet[..len]);
            let _ = there.1.send(&packet[..len]);
        }
    });
    thread::spawn(move || {
        let mut packet = [0; 2048];
        while let Ok(len) = back.0.recv(&mut packet) {
            let to: Option<SocketAddr> = *to_device.lock().unwrap();
            let _ = to.map(|to| back.1.send_to(&packet[..len], to));
        }
    });
    (address, way)
}

/// The same for requests.
fn web_way(service: SocketAddr) -> (SocketAddr, Way) {
    let (way, listener) = (Way::default(), TcpListener::bind("127.0.0.1:0").unwrap());
    let (address, seen) = (listener.local_addr().unwrap(), way.clone());
    thread::spawn(move || {
        while let Ok((device, _)) = listener.accept() {
            let service = TcpStream::connect(service).unwrap();
            let (mut back, mut to_device) = (service.try_clone().unwrap(), device.try_clone().unwrap());
            thread::spawn(move || {
                let _ = std::io::copy(&mut back, &mut to_device);
                let _ = to_device.shutdown(Shutdown::Both);
            });
            let seen = seen.clone();
            thread::spawn(move || pass_requests(&device, service, &seen));
        }
    });
    (address, way)
}

/// Until one of the two hangs up.
fn pass_requests(device: &TcpStream, mut service: TcpStream, seen: &Way) {
    let mut device = BufReader::new(device);
    loop {
        let (mut head, mut length) = (String::new(), 0);
        while !head.ends_with("\r\n\r\n") {
            let at = head.len();
            if device.read_line(&mut head).is_ok_and(|n| n == 0) || head.len() == at {
                let _ = service.shutdown(Shutdown::Both);
                return;
            }
            if let Some(value) = head[at..].to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            }
        }
        let mut body = vec![0; length];
        device.read_exact(&mut body).unwrap();
        seen.pass(&body);
        if service.write_all(head.as_bytes()).and_then(|()| service.write_all(&body)).is_err() {
            return;
        }
    }
}

/// The status of the answer to a packet that is posted, and whether it brings something; at once, or it was held.
fn post(web: SocketAddr, query: &str, packet: &[u8]) -> (u16, bool) {
    let begin = Instant::now();
    let mut stream = TcpStream::connect(web).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    let kind = "Content-Type: application/octet-stream\r\nConnection: close";
    let length = packet.len();
    let head =
        format!("POST {PATH}{query} HTTP/1.1\r\nHost: x\r\n{kind}\r\nContent-Length: {length}\r\n\r\n");
    stream.write_all(&[head.as_bytes(), packet].concat()).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    assert!(begin.elapsed() < Duration::from_secs(2), "it was held for {:?}", begin.elapsed());
    let answer = String::from_utf8_lossy(&answer);
    (answer.split(' ').nth(1).unwrap().parse().unwrap(), !answer.ends_with("\r\n\r\n"))
}

/// Connected devices, and what was dropped by reason.
fn status(home: &Home) -> (u64, BTreeMap<String, u64>) {
    let ended = home.run(&["status", "--json"]);
    let status: Value = serde_json::from_str(&ended.out[0]).unwrap();
    let dropped: Vec<(String, u64)> = serde_json::from_value(status["dropped"].clone()).unwrap();
    (status["connected"].as_u64().unwrap(), dropped.into_iter().collect())
}

/// So many packets more are dropped than before, one of them at least for being a copy.
fn only_drops(home: &Home, before: &BTreeMap<String, u64>, copies: usize) {
    let (connected, after) = status(home);
    assert_eq!(connected, 1);
    let all = |drops: &BTreeMap<String, u64>| drops.values().sum::<u64>();
    assert_eq!(all(&after), all(before) + copies as u64, "{before:?} {after:?}");
    let marked = |drops: &BTreeMap<String, u64>| drops.get("other-transport").copied().unwrap_or_default();
    assert!(marked(&after) > marked(before), "{before:?} {after:?}");
}

#[test]
fn packets_by_udp_that_are_posted_do_nothing() {
    let home = Home::new();
    let (_serve, service, web) = home.serve_with_web();
    let (endpoint, way) = udp_way(service);
    // Where nobody answers, so that all of it goes by UDP.
    let args = ["--endpoint", &endpoint.to_string(), "--web", "http://127.0.0.1:9"];
    let ticket = home.ticket("alice@example.com", "phone", &args);
    let (mut device, _) = home.watch(&ticket, &["--interval", "5s"]);
    home.post(&["alice@example.com", "one"]);
    assert_eq!(device.texts(1), ["one"]);

    // What has arrived is copied, and what has not: the copy is the first that the service sees of it.
    let count = way.more_than(0).len();
    way.hold(true);
    home.post(&["alice@example.com", "two"]);
    assert_eq!(device.texts(1), ["two"]);
    let packets = way.more_than(count);
    let (connected, before) = status(&home);
    assert_eq!(connected, 1);
    for (i, packet) in packets.iter().enumerate() {
        let query = if i % 2 == 0 { "?wait=5" } else { "" };
        assert_eq!(post(web, query, packet), (400, false), "packet {i} of {} bytes", packet.len());
    }
    only_drops(&home, &before, packets.len());

    way.hold(false);
    home.post(&["alice@example.com", "three"]);
    assert_eq!(device.texts(1), ["three"]);
    // The acknowledgements that were held up count, whatever came before them.
    device.stays_silent();
    assert_undisturbed(&device.so_far());
}

#[test]
fn requests_that_are_sent_by_udp_do_nothing() {
    let home = Home::new();
    let (_serve, service, web) = home.serve_with_web();
    let (base, way) = web_way(web);
    let deaf = UdpSocket::bind("127.0.0.1:0").unwrap();
    let endpoint = deaf.local_addr().unwrap().to_string();
    let args = ["--endpoint", &*endpoint, "--web", &format!("http://{base}")];
    let ticket = home.ticket("alice@example.com", "phone", &args);
    let (mut device, _) = home.watch(&ticket, &["--interval", "5s"]);
    home.post(&["alice@example.com", "one"]);
    assert_eq!(device.texts(1), ["one"]);
    // Until the next request waits.
    thread::sleep(Duration::from_millis(500));
    way.hold(true);
    let count = way.seen().packets.len();
    // Answers the request that waits, and the next one is held up.
    home.post(&["alice@example.com", "two"]);
    assert_eq!(device.texts(1), ["two"]);
    let packets = way.more_than(count);
    let (_, before) = status(&home);
    let somebody = UdpSocket::bind("127.0.0.1:0").unwrap();
    somebody.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    for packet in &packets {
        somebody.send_to(packet, service).unwrap();
    }
    let came = somebody.recv(&mut [0; 2048]);
    assert!(came.is_err(), "no copy has an answer: {came:?}");
    only_drops(&home, &before, packets.len());

    way.hold(false);
    home.post(&["alice@example.com", "three"]);
    assert_eq!(device.texts(1), ["three"]);
    device.stays_silent();
    // Nor is a copy of one held, and only a step 1 is answered again, as it was before.
    let answers = packets.iter().filter(|packet| {
        let (status, brings) = post(web, "?wait=5", packet);
        assert!([200, 400].contains(&status), "{status}");
        brings
    });
    assert!(answers.count() <= 1);
    home.post(&["alice@example.com", "four"]);
    assert_eq!(device.texts(1), ["four"]);
    assert_undisturbed(&device.so_far());
}

fn assert_undisturbed(told: &[&str]) {
    let kinds: Vec<Value> = told.iter().filter_map(|line| serde_json::from_str(line).ok()).collect();
    assert_eq!(kinds.iter().filter(|told| told["type"] == "connected").count(), 1, "{told:#?}");
    assert!(!kinds.iter().any(|told| told["type"] == "disconnected"), "{told:#?}");
}
