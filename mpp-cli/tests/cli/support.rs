//! A home for one test, and processes in it.

use std::cell::RefCell;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::rc::Rc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

/// The limit of a wait for something that should take milliseconds.
pub(crate) const SOON: Duration = Duration::from_secs(10);

/// Everything that was said, by whom, for the check that no secret was.
type Transcript = Rc<RefCell<Vec<(String, String)>>>;

/// A state directory of its own, and what was said in it. When it is dropped, everything that any process said is
/// searched for keys and tickets.
pub(crate) struct Home {
    dir: TempDir,
    said: Transcript,
    tickets: RefCell<Vec<String>>,
}

impl Home {
    pub(crate) fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), said: Rc::default(), tickets: RefCell::default() }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mpp"));
        // Never the state of whoever runs the tests.
        command
            .args(args)
            .current_dir(self.dir.path())
            .env_clear()
            .env("HOME", self.dir.path())
            .env("XDG_STATE_HOME", self.dir.path())
            .env("RUST_BACKTRACE", "0");
        command
    }

    /// Starts a process.
    pub(crate) fn start(&self, args: &[&str]) -> Process {
        self.start_with(args, None)
    }

    /// Starts a process that finds `input` on its standard input.
    pub(crate) fn start_with(&self, args: &[&str], input: Option<Vec<u8>>) -> Process {
        self.start_to(args, input, Stdio::piped())
    }

    /// Starts a process with this standard output.
    pub(crate) fn start_to(&self, args: &[&str], input: Option<Vec<u8>>, stdout: Stdio) -> Process {
        let stdin = if input.is_some() { Stdio::piped() } else { Stdio::null() };
        let mut child = self
            .command(args)
            .stdin(stdin)
            .stdout(stdout)
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts");
        if let (Some(mut stdin), Some(input)) = (child.stdin.take(), input) {
            // The program may end without reading it all.
            thread::spawn(move || drop(stdin.write_all(&input)));
        }
        let (send, lines) = channel();
        let ends = [
            child.stdout.take().map(|out| follow(out, Stream::Out, send.clone())),
            child.stderr.take().map(|err| follow(err, Stream::Err, send)),
        ];
        Process {
            name: args.join(" "),
            child,
            lines,
            ends: ends.into_iter().flatten().collect(),
            seen: Vec::new(),
            out_read: 0,
            said: self.said.clone(),
            secret: args.first() == Some(&"ticket"),
        }
    }

    /// Runs a process to its end.
    pub(crate) fn run(&self, args: &[&str]) -> Ended {
        self.start(args).end(SOON)
    }

    /// Runs a process to its end, with this standard input.
    pub(crate) fn run_with(&self, args: &[&str], input: &[u8]) -> Ended {
        self.start_with(args, Some(input.to_vec())).end(SOON)
    }

    /// Runs what has to fail in one line that says what to do, with this exit code; returns the line.
    pub(crate) fn fails(&self, code: i32, args: &[&str]) -> String {
        self.run(args).failed(code)
    }

    /// Starts a service on a free port of the loopback interface, and waits until it has greeted.
    pub(crate) fn serve(&self) -> (Process, SocketAddr) {
        self.serve_on("127.0.0.1:0")
    }

    /// Starts a service on this address.
    pub(crate) fn serve_on(&self, listen: &str) -> (Process, SocketAddr) {
        let mut serve = self.start(&["serve", "--listen", listen]);
        let line = serve.line("the addresses", |l| l.starts_with("listening"));
        serve.line("what to type next", |l| l.contains(" post alice@example.com"));
        let addr = line.rsplit(' ').next().unwrap().parse().unwrap();
        (serve, addr)
    }

    /// The same, and where it listens for HTTP.
    pub(crate) fn serve_with_web(&self) -> (Process, SocketAddr, SocketAddr) {
        let mut serve = self.start(&["serve", "--listen", "127.0.0.1:0"]);
        let mut address = |what: &str| -> SocketAddr {
            let line = serve.line(what, |l| l.starts_with(what));
            line.split_whitespace().nth(2).unwrap().trim_end_matches([':', ',']).parse().unwrap()
        };
        let (udp, web) = (address("listening "), address("web "));
        serve.line("what to type next", |l| l.contains(" post alice@example.com"));
        (serve, udp, web)
    }

    /// Mints a ticket; it counts as a secret from then on.
    pub(crate) fn ticket(&self, account: &str, device: &str, more: &[&str]) -> String {
        let args: Vec<&str> = ["ticket", account, "--device", device].iter().chain(more).copied().collect();
        let ended = self.run(&args);
        assert_eq!(ended.code(), 0, "{ended:?}");
        assert_eq!(ended.out.len(), 1, "the ticket alone on standard output: {ended:?}");
        let ticket = ended.out[0].clone();
        assert!(ticket.starts_with("mpp1_"), "{ticket}");
        self.tickets.borrow_mut().push(ticket.clone());
        ticket
    }

    /// Starts a watch that tells in JSON, gets its ticket by standard input, and is connected.
    pub(crate) fn watch(&self, ticket: &str, more: &[&str]) -> (Process, Value) {
        let args: Vec<&str> = ["watch", "-", "--json"].iter().chain(more).copied().collect();
        let mut watch = self.start_with(&args, Some(format!("{ticket}\n").into_bytes()));
        let connected = watch.json("connected");
        (watch, connected)
    }

    /// Posts; returns the serial.
    pub(crate) fn post(&self, args: &[&str]) -> u64 {
        let args: Vec<&str> = ["post", "--json"].iter().chain(args).copied().collect();
        let ended = self.run(&args);
        assert_eq!(ended.code(), 0, "{ended:?}");
        let answer: Value = serde_json::from_str(&ended.out[0]).unwrap();
        answer["serial"].as_u64().unwrap()
    }

    fn secrets(&self) -> Vec<String> {
        let keys = std::fs::read_to_string(self.path("mpp/service.keys")).unwrap_or_default();
        let keys = keys.split_whitespace().filter(|w| w.len() == 64).map(str::to_owned);
        // A part of a ticket is as bad, so a piece from its middle is looked for.
        let tickets = self.tickets.borrow();
        let tickets = tickets.iter().map(|t| t[t.len() / 2..t.len() / 2 + 24].to_owned());
        keys.chain(tickets).collect()
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        if thread::panicking() {
            return;
        }
        for secret in self.secrets() {
            for (who, line) in self.said.borrow().iter() {
                assert!(!line.contains(&secret), "'{who}' has told a secret: {line}");
            }
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stream {
    Out,
    Err,
}

fn follow(
    from: impl std::io::Read + Send + 'static,
    stream: Stream,
    to: Sender<(Stream, String)>,
) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        let mut from = BufReader::new(from);
        let mut line = Vec::new();
        while from.read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
            let text = String::from_utf8_lossy(&line).trim_end_matches('\n').to_owned();
            line.clear();
            if to.send((stream, text)).is_err() {
                return;
            }
        }
    })
}

/// A running process. It is killed when this is dropped.
pub(crate) struct Process {
    name: String,
    child: Child,
    lines: Receiver<(Stream, String)>,
    ends: Vec<thread::JoinHandle<()>>,
    seen: Vec<(Stream, String)>,
    /// How many of the lines seen were returned by [`Process::line`].
    out_read: usize,
    said: Transcript,
    /// Its standard output is meant to be secret.
    secret: bool,
}

impl Process {
    /// The next line of either stream that fits; those before it are passed over.
    pub(crate) fn line(&mut self, what: &str, fits: impl Fn(&str) -> bool) -> String {
        match self.line_within(SOON, &fits) {
            Some(line) => line,
            None => panic!("'{}' did not say {what}, but: {:#?}", self.name, self.seen),
        }
    }

    /// The same, if it comes in time.
    pub(crate) fn line_within(&mut self, limit: Duration, fits: &dyn Fn(&str) -> bool) -> Option<String> {
        let deadline = Instant::now() + limit;
        loop {
            while self.out_read < self.seen.len() {
                let line = &self.seen[self.out_read].1;
                self.out_read += 1;
                if fits(line) {
                    return Some(line.clone());
                }
            }
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok((stream, line)) => self.note(stream, line),
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return None,
            }
        }
    }

    fn note(&mut self, stream: Stream, line: String) {
        if !(self.secret && stream == Stream::Out) {
            self.said.borrow_mut().push((self.name.clone(), line.clone()));
        }
        self.seen.push((stream, line));
    }

    /// The next JSON object of this type.
    pub(crate) fn json(&mut self, kind: &str) -> Value {
        self.json_within(kind, SOON)
            .unwrap_or_else(|| panic!("'{}' told no '{kind}', but: {:#?}", self.name, self.so_far()))
    }

    /// The next JSON object of this type, if it comes in time.
    pub(crate) fn json_within(&mut self, kind: &str, limit: Duration) -> Option<Value> {
        let of_kind = |line: &str| {
            serde_json::from_str::<Value>(line)
                .is_ok_and(|v| v.get("type").and_then(Value::as_str) == Some(kind))
        };
        self.line_within(limit, &of_kind).map(|line| serde_json::from_str(&line).unwrap())
    }

    /// The texts of the next `n` events.
    pub(crate) fn texts(&mut self, n: usize) -> Vec<String> {
        (0..n).map(|_| self.json("event")["text"].as_str().unwrap().to_owned()).collect()
    }

    /// That no further event comes for a while.
    pub(crate) fn stays_silent(&mut self) {
        if let Some(event) = self.json_within("event", Duration::from_millis(400)) {
            panic!("'{}' got an event that it should not: {event}", self.name);
        }
    }

    /// Everything it has said so far.
    pub(crate) fn so_far(&self) -> Vec<&str> {
        self.seen.iter().map(|(_, line)| line.as_str()).collect()
    }

    /// Its number.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().try_into().unwrap()), signal).unwrap();
    }

    /// Ends it by a signal, and waits for that.
    pub(crate) fn stop(self, signal: Signal) -> Ended {
        self.signal(signal);
        self.end(SOON)
    }

    /// Waits for its end.
    pub(crate) fn end(mut self, limit: Duration) -> Ended {
        let deadline = Instant::now() + limit;
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            // Also so that a full pipe does not stop it.
            if let Ok((stream, line)) = self.lines.recv_timeout(Duration::from_millis(5)) {
                self.note(stream, line);
            } else if Instant::now() > deadline {
                panic!("'{}' has not ended within {limit:?}: {:#?}", self.name, self.seen);
            }
        };
        for end in self.ends.drain(..) {
            end.join().unwrap();
        }
        while let Ok((stream, line)) = self.lines.try_recv() {
            self.note(stream, line);
        }
        let of = |wanted| self.seen.iter().filter(|(s, _)| *s == wanted).map(|(_, l)| l.clone()).collect();
        Ended { name: self.name.clone(), status, out: of(Stream::Out), err: of(Stream::Err) }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A process that has ended, and what it said, by lines.
#[derive(Debug)]
pub(crate) struct Ended {
    name: String,
    status: ExitStatus,
    pub(crate) out: Vec<String>,
    pub(crate) err: Vec<String>,
}

impl Ended {
    /// Its exit code; a process that died of a signal has none.
    pub(crate) fn code(&self) -> i32 {
        self.status.code().unwrap_or_else(|| panic!("it died of a signal: {self:?}"))
    }

    /// It must have failed with this code, and one line that begins with the program's name; returns the line.
    pub(crate) fn failed(&self, code: i32) -> String {
        assert_eq!(self.code(), code, "{self:?}");
        assert_eq!(self.err.len(), 1, "one line of error for '{}': {self:?}", self.name);
        let line = &self.err[0];
        assert!(line.starts_with("mpp: ") && line.len() > 20, "{self:?}");
        assert!(
            !line.contains("panicked") && !line.contains("Error {") && !line.contains("os error"),
            "{self:?}"
        );
        line.clone()
    }
}

/// Whether nothing stands there.
pub(crate) fn is_gone(path: &Path) -> bool {
    std::fs::symlink_metadata(path).is_err()
}
