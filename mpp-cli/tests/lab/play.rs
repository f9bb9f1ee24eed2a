//! The program in a lab: `mpp serve` in the service's namespace, `mpp watch` in the device's.

use std::cell::RefCell;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::network::Lab;
use crate::support::{Ended, Home, Process, SOON};

/// What the machine may add to any time, being busy with other tests.
pub(crate) const LATE: Duration = Duration::from_millis(1500);
/// Some round trips, which on these networks take no time.
pub(crate) const AT_ONCE: Duration = Duration::ZERO;
/// The time between posts when there is no end of them: of what comes while a device finds out that UDP is gone, nothing is
/// more than its channel keeps, which is 32.
pub(crate) const POSTS: Duration = Duration::from_millis(350);
/// The shortest heartbeat interval: the next one comes after at most this time, whatever happens.
pub(crate) const HEARTBEAT: Duration = Duration::from_secs(5);

const ACCOUNT: &str = "alice@example.com";
const PORT: u16 = 15096;

/// A service and its state.
pub(crate) struct Play {
    serve: RefCell<Option<Process>>,
    home: Home,
    /// What the service is started with.
    serve_args: Vec<String>,
    pub(crate) lab: Lab,
}

impl Play {
    /// Starts a service on all addresses of its namespace.
    pub(crate) fn on(lab: Lab) -> Self {
        Self::on_with(lab, &[])
    }

    /// The same with more arguments.
    pub(crate) fn on_with(lab: Lab, more: &[&str]) -> Self {
        let serve_args = ["serve"].iter().chain(more).map(|&arg| arg.to_owned()).collect();
        let play = Self { serve: RefCell::default(), home: Home::new(), serve_args, lab };
        play.serve();
        play
    }

    fn serve(&self) {
        let args: Vec<&str> = self.serve_args.iter().map(String::as_str).collect();
        let mut serve = self.lab.service.enter(|| self.home.start(&args));
        serve.line("the addresses", |l| l.starts_with("listening"));
        serve.line("what to type next", |l| l.contains(" post alice@example.com"));
        self.serve.replace(Some(serve));
    }

    /// Kills the service.
    pub(crate) fn kill(&self) {
        let killed = self.serve.take().expect("a service");
        killed.signal(Signal::SIGKILL);
        drop(killed);
    }

    /// Kills the service, and starts it again with the same keys.
    pub(crate) fn restart(&self) {
        self.kill();
        self.serve();
    }

    /// Posts for all devices.
    pub(crate) fn post(&self, text: &str) {
        self.home.post(&[ACCOUNT, text]);
    }

    /// Posts before any device has ever connected.
    pub(crate) fn post_first(&self, text: &str) {
        self.home.post(&[ACCOUNT, text, "--create"]);
    }

    /// A ticket for the first address of the network's own family, made with more arguments.
    pub(crate) fn ticket_with(&self, more: &[&str]) -> String {
        let endpoint = SocketAddr::new(self.lab.service_address(0), PORT).to_string();
        let args: Vec<&str> = ["--endpoint", &endpoint].iter().chain(more).copied().collect();
        self.home.ticket(ACCOUNT, "phone", &args)
    }

    /// A ticket that names the first address of the network's own family.
    pub(crate) fn ticket(&self) -> String {
        self.ticket_for(&[self.lab.service_address(0)])
    }

    /// A ticket that names these addresses.
    pub(crate) fn ticket_for(&self, addresses: &[IpAddr]) -> String {
        let endpoints: Vec<_> = addresses.iter().map(|ip| SocketAddr::new(*ip, PORT).to_string()).collect();
        let args: Vec<&str> = endpoints.iter().flat_map(|e| ["--endpoint", e]).collect();
        self.home.ticket(ACCOUNT, "phone", &args)
    }

    /// Runs the program on the device's machine to its end, with a ticket for standard input.
    pub(crate) fn run(&self, args: &[&str], ticket: &str) -> Ended {
        self.run_for(SOON, args, ticket)
    }

    /// The same, for so long at most.
    pub(crate) fn run_for(&self, limit: Duration, args: &[&str], ticket: &str) -> Ended {
        self.start(args, ticket).end(limit)
    }

    /// Starts it.
    pub(crate) fn start(&self, args: &[&str], ticket: &str) -> Process {
        let input = Some(ticket.as_bytes().to_vec());
        self.lab.device.enter(|| self.home.start_with(args, input))
    }

    /// Starts a device with the shortest interval, and waits until it is connected.
    pub(crate) fn device(&self) -> Device<'_> {
        let mut device = self.start_device(&self.ticket(), HEARTBEAT);
        device.connected(HEARTBEAT);
        device
    }

    /// Starts a device.
    pub(crate) fn start_device(&self, ticket: &str, interval: Duration) -> Device<'_> {
        self.start_device_with(ticket, interval, &[])
    }

    /// The same with more arguments.
    pub(crate) fn start_device_with(&self, ticket: &str, interval: Duration, more: &[&str]) -> Device<'_> {
        let interval = format!("{}s", interval.as_secs());
        let args = ["watch", "-", "--json", "--interval", &interval];
        let args: Vec<&str> = args.iter().chain(more).copied().collect();
        let input = Some(format!("{ticket}\n").into_bytes());
        let watch = self.lab.device.enter(|| self.home.start_with(&args, input));
        Device { play: self, watch, told: Vec::new(), posted: Vec::new() }
    }
}

/// `mpp watch`, and what was posted for it.
pub(crate) struct Device<'a> {
    play: &'a Play,
    watch: Process,
    /// What it has told that nobody has asked for yet.
    told: Vec<Value>,
    posted: Vec<String>,
}

impl Device<'_> {
    /// Waits until it is connected, at most this long and what the machine adds; returns what it says then.
    pub(crate) fn connected(&mut self, limit: Duration) -> Value {
        self.told("connected", limit)
    }

    /// Waits until it is seen from another address than before; returns the new one.
    pub(crate) fn moved(&mut self, limit: Duration) -> SocketAddr {
        endpoint(&self.told("observed", limit))
    }

    /// Waits until its connection goes by this transport.
    pub(crate) fn goes_by(&mut self, transport: &str, limit: Duration) {
        let told = self.told("transport", limit);
        assert_eq!(told["transport"], transport, "{told}");
    }

    /// Waits for something of this type; the rest can be asked for later.
    pub(crate) fn told(&mut self, kind: &str, limit: Duration) -> Value {
        let deadline = Instant::now() + limit + LATE;
        loop {
            if let Some(at) = self.told.iter().position(|told| told["type"] == kind) {
                return self.told.remove(at);
            }
            if self.line(deadline).is_none() {
                panic!("no '{kind}' within {limit:?}, but: {:#?}", self.watch.so_far());
            }
        }
    }

    /// Waits for a line for people, which has these words.
    pub(crate) fn says(&mut self, words: &str, limit: Duration) {
        let deadline = Instant::now() + limit + LATE;
        while !self.line(deadline).is_some_and(|line| line.contains(words)) {
            assert!(Instant::now() < deadline, "not said: '{words}', but: {:#?}", self.watch.so_far());
        }
    }

    fn line(&mut self, deadline: Instant) -> Option<String> {
        let line = self.watch.line_within(deadline.saturating_duration_since(Instant::now()), &|_| true)?;
        self.told.extend(serde_json::from_str::<Value>(&line));
        Some(line)
    }

    /// This was posted before it was there.
    pub(crate) fn missed(&mut self, text: &str) {
        self.posted.push(text.to_owned());
    }

    /// Posts, and does not wait.
    pub(crate) fn post(&mut self) {
        self.post_text(&format!("number {}", self.posted.len()));
    }

    /// Posts this text.
    pub(crate) fn post_text(&mut self, text: &str) {
        self.play.post(text);
        self.posted.push(text.to_owned());
    }

    /// Waits until the newest of what was posted has come; returns how long that took.
    pub(crate) fn hears(&mut self, limit: Duration) -> Duration {
        let begin = Instant::now();
        let newest = self.posted.last().expect("something posted").clone();
        while self.told("event", limit.saturating_sub(begin.elapsed()))["text"].as_str() != Some(&newest) {}
        begin.elapsed()
    }

    /// Posts; it comes within this time.
    pub(crate) fn hears_a_post(&mut self, limit: Duration) -> Duration {
        self.post();
        self.hears(limit)
    }

    /// Posts all the time until its connection goes by this transport, and for a second more.
    pub(crate) fn posts_until_it_goes_by(&mut self, transport: &str, limit: Duration) {
        let begin = Instant::now();
        let mut since = None;
        while since.is_none_or(|since: Instant| since.elapsed() < Duration::from_secs(1)) {
            assert!(begin.elapsed() < limit + LATE, "still not by {transport}: {:#?}", self.watch.so_far());
            self.post();
            let next = Instant::now() + POSTS;
            while self.line(next).is_some() {}
            if since.is_none() && self.told.iter().any(|told| told["type"] == "transport") {
                self.goes_by(transport, AT_ONCE);
                since = Some(Instant::now());
            }
        }
        self.hears(AT_ONCE);
    }

    /// Ends it. It must have got all that was posted, in order and nothing twice; returns what else it told.
    pub(crate) fn end(self) -> Vec<Value> {
        let ended = self.watch.stop(Signal::SIGTERM);
        assert_eq!(ended.code(), 0, "{ended:?}");
        let told = ended.out.iter().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let (events, others): (Vec<_>, Vec<_>) = told.partition(|told| told["type"] == "event");
        let texts: Vec<_> = events.iter().map(|e| e["text"].as_str().unwrap_or_default()).collect();
        assert_eq!(texts, self.posted, "all that was posted, in order, once: {others:#?}");
        others
    }

    /// Ends it. It must have kept its connection all the time.
    pub(crate) fn end_connected(self) -> Vec<Value> {
        let told = self.end();
        let lost = told.iter().any(|t| t["type"] == "disconnected" || t["type"] == "gap");
        assert!(!lost, "one connection is enough: {told:#?}");
        told
    }
}

/// The address that the service sees.
pub(crate) fn endpoint(told: &Value) -> SocketAddr {
    told["observed"].as_str().and_then(|s| s.parse().ok()).unwrap_or_else(|| panic!("{told}"))
}
