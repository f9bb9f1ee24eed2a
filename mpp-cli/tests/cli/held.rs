//! Many devices whose networks have no UDP, each with a request that waits: what that costs the service.
//!
//! ```sh
//! MPP_HELD=10000 cargo test --release -p mpp-cli --test cli held -- --nocapture    # as many files, for each of the two
//! ```

use std::fs;
use std::io::{BufRead as _, BufReader, ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant as Real};

use mpp_tokio::proto::{
    Device, DeviceConfig, DeviceEvent, DeviceId, Instant, LinkKind, LinkState, NotificationKind, Rights,
    Seed, Ticket, TicketKey, TicketSpec, UnixTime, WebAnswer, WebRequestId,
};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::support::{Home, Process, SOON};

/// What a held request may cost the process, its connection over HTTP included, in bytes.
const COST: u64 = 24 * 1024;
const PATH: &str = "/.well-known/mmmpresence";

/// A device that does nothing by itself, and whose clock goes as fast as it is waited for.
struct Asker {
    device: Device,
    now: Instant,
    /// The request that waits.
    asked: Option<(WebRequestId, BufReader<TcpStream>)>,
}

impl Asker {
    fn new(number: u32, key: &TicketKey, service: SocketAddr) -> Self {
        let time = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        let issued = UnixTime::from_millis(u64::try_from(time.as_millis()).unwrap());
        let spec = TicketSpec {
            endpoints: vec![service.to_string().parse().unwrap()],
            account: format!("{number}@example.com"),
            device: DeviceId([1; 16]),
            rights: Rights::RECEIVE,
            issued,
            expiry: issued + Duration::from_secs(3600),
        };
        let ticket: Ticket = key.mint(&spec, &bytes(number, 1)).unwrap();
        let now = Instant::from_micros(1_000_000);
        let config = Arc::new(DeviceConfig::default());
        let device = Device::new(config, ticket, None, Seed::new(bytes(number, 2)), now, issued);
        Self { device, now, asked: None }
    }

    /// The next request: its name, its packet, and how long it may wait.
    fn next(&mut self) -> (WebRequestId, Vec<u8>, Option<Duration>) {
        let mut packet = [0; 1452];
        for _ in 0..1000 {
            self.device.handle_timeout(self.now);
            while let Some(event) = self.device.poll_event() {
                let DeviceEvent::OpenLink { link, kind } = event else { continue };
                let state = match kind {
                    LinkKind::Web => LinkState::Open { local: ([0, 0, 0, 0], 0).into() },
                    _ => LinkState::Failed,
                };
                self.device.handle_link(self.now, link, state);
            }
            while self.device.poll_transmit(self.now, &mut packet, NonZeroUsize::MIN).is_some() {}
            if let Some(post) = self.device.poll_web(self.now, &mut packet) {
                return (post.id, packet[..post.len].to_vec(), post.wait);
            }
            let next = self.device.poll_timeout().map(|wakeup| wakeup.at);
            self.now = next.map_or(self.now, |at| at.max(self.now)) + Duration::from_millis(1);
        }
        panic!("it asks for nothing: {:?}", self.device.state());
    }

    fn answer(&mut self, id: WebRequestId, body: &mut [u8]) {
        self.device.handle_web_answer(self.now, id, WebAnswer::Packets(body));
    }

    /// Connects. What could wait is not let wait.
    fn connect(&mut self, stream: &mut BufReader<TcpStream>) {
        loop {
            let (id, packet, wait) = self.next();
            send(stream.get_mut(), "", &packet);
            let mut body = read(stream);
            self.answer(id, &mut body);
            if wait.is_some() {
                return;
            }
        }
    }

    /// Asks until a request waits.
    fn wait(&mut self, web: SocketAddr) {
        let (id, packet, wait) = self.next();
        let mut stream = open(web);
        let query = wait.map(|wait| format!("?wait={}", wait.as_secs())).unwrap_or_default();
        send(stream.get_mut(), &query, &packet);
        self.asked = Some((id, stream));
    }

    /// Whether its request was answered; the answer is taken in.
    fn is_answered(&mut self) -> bool {
        let Some((_, stream)) = &self.asked else { return false };
        stream.get_ref().set_nonblocking(true).unwrap();
        let waits = stream.get_ref().peek(&mut [0]).is_err_and(|e| e.kind() == ErrorKind::WouldBlock);
        stream.get_ref().set_nonblocking(false).unwrap();
        if waits {
            return false;
        }
        let (id, mut stream) = self.asked.take().unwrap();
        let mut body = read(&mut stream);
        self.answer(id, &mut body);
        true
    }
}

fn bytes<const N: usize>(number: u32, kind: u8) -> [u8; N] {
    let mut bytes = [kind; N];
    bytes[..4].copy_from_slice(&number.to_be_bytes());
    bytes
}

fn open(web: SocketAddr) -> BufReader<TcpStream> {
    let stream = TcpStream::connect(web).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    stream.set_nodelay(true).unwrap();
    // Small: many are open.
    BufReader::with_capacity(256, stream)
}

fn send(stream: &mut TcpStream, query: &str, packet: &[u8]) {
    let kind = "Content-Type: application/octet-stream";
    let head = format!(
        "POST {PATH}{query} HTTP/1.1\r\nHost: x\r\n{kind}\r\nContent-Length: {}\r\n\r\n",
        packet.len()
    );
    stream.write_all(&[head.as_bytes(), packet].concat()).unwrap();
}

/// The body of an answer, whose status is 200.
fn read(stream: &mut BufReader<TcpStream>) -> Vec<u8> {
    let (mut head, mut length) = (String::new(), None);
    while !head.ends_with("\r\n\r\n") {
        let at = head.len();
        assert!(stream.read_line(&mut head).unwrap() > 0, "cut off after '{head}'");
        let value = head[at..].to_ascii_lowercase().strip_prefix("content-length:").map(str::to_owned);
        length = value.map(|value| value.trim().parse().unwrap()).or(length);
    }
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    let mut body = vec![0; length.expect("a length")];
    stream.read_exact(&mut body).unwrap();
    body
}

/// The memory of a process that is there, in bytes.
fn resident(process: &Process) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", process.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    1024 * line.split_whitespace().next().unwrap().parse::<u64>().unwrap()
}

#[test]
fn many_requests_are_held_and_each_is_cheap() {
    let count: u32 = std::env::var("MPP_HELD").map_or(200, |n| n.parse().expect("a number"));
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, most, most).unwrap();
    let home = Home::new();
    let (serve, service, web) = home.serve_with_web();
    let keys = fs::read_to_string(home.path("mpp/service.keys")).unwrap();
    let key = keys.lines().find_map(|line| line.strip_prefix("ticket ")).unwrap().replace(' ', "");
    let key: Vec<u8> = (0..36).map(|i| u8::from_str_radix(&key[2 * i..2 * i + 2], 16).unwrap()).collect();
    let key = TicketKey::from_bytes(key.as_slice().try_into().unwrap());

    // What one needs that others need too is not counted.
    let first = resident(&serve);
    let begin = Real::now();
    let mut stream = open(web);
    let mut askers: Vec<Asker> = (0..count).map(|number| Asker::new(number, &key, service)).collect();
    for asker in &mut askers {
        asker.connect(&mut stream);
    }
    let (connected, took) = (resident(&serve), begin.elapsed());
    let begin = Real::now();
    let mut idle: Vec<usize> = (0..askers.len()).collect();
    while !idle.is_empty() {
        for at in idle.drain(..) {
            askers[at].wait(web);
        }
        // Some have an answer at once, which is no news.
        sleep(Duration::from_millis(300));
        idle.extend((0..askers.len()).filter(|at| askers[*at].is_answered()));
    }
    let held = resident(&serve);
    let each = |after: u64, before: u64| after.saturating_sub(before) / u64::from(count);
    println!(
        "{count} devices: connected in {took:.1?}, {} bytes each; requests held after {:.1?}, {} bytes each, their \
         connections over HTTP included",
        each(connected, first),
        begin.elapsed(),
        each(held, connected)
    );

    // Each of them hears of what happens, at once, and only of that.
    for number in [0, count / 2, count - 1] {
        let begin = Real::now();
        home.post(&[&format!("{number}@example.com"), "hello"]);
        let asker = &mut askers[number as usize];
        while !asker.is_answered() {
            assert!(begin.elapsed() < SOON, "device {number} was not told");
            sleep(Duration::from_millis(5));
        }
        let heard = asker.device.poll_notification(asker.now).expect("a notification").kind;
        let NotificationKind::Event { payload, .. } = heard else { panic!("{heard:?}") };
        assert_eq!(payload, "hello");
    }
    let answered =
        askers.iter_mut().filter(|asker| asker.asked.is_some()).filter_map(|a| a.is_answered().then_some(()));
    assert_eq!(answered.count(), 0, "nobody else is told");
    assert!(each(held, connected) < COST, "a held request costs {} bytes", each(held, connected));
}
