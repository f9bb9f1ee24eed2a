//! A network namespace, and the tools that are run in it.

use std::fs::File;
use std::io::Write as _;
use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::{fs, io, process, thread};

use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Where iproute2 keeps the names.
const NAMES: &str = "/var/run/netns";
/// What names begin with; then the process that made it, a number, and what it is for: `mpplab-4711-3-device`.
const PREFIX: &str = "mpplab-";

/// A namespace that ends with this, and everything that runs in it too.
#[derive(Debug)]
pub(crate) struct Netns {
    name: String,
}

impl Netns {
    /// A new one, with its loopback interface up. Its name is unique on the machine.
    pub(crate) fn new(role: &str) -> Result<Self, String> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("{PREFIX}{}-{number}-{role}", process::id());
        tool("ip", &["netns", "add", &name], "")?;
        let netns = Self { name };
        // Nobody else is there, so an IPv6 address need not wait a second for objections.
        for scope in ["all", "default"] {
            netns.sysctl(&format!("net/ipv6/conf/{scope}/accept_dad"), 0)?;
        }
        netns.ip(&["link set lo up"])?;
        Ok(netns)
    }

    /// Its name, as iproute2 knows it.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Runs `ip` in it, up to the first command that fails. The word `ip` is left out.
    pub(crate) fn ip(&self, commands: &[&str]) -> Result<(), String> {
        tool("ip", &["-netns", &self.name, "-batch", "-"], &commands.join("\n")).map(drop)
    }

    /// Loads nftables rules, all or none.
    pub(crate) fn nft(&self, rules: &str) -> Result<(), String> {
        self.enter(|| tool("nft", &["-f", "-"], rules).map(drop))
    }

    /// The rules that it has, as nftables prints them.
    pub(crate) fn rules(&self) -> Result<String, String> {
        self.enter(|| tool("nft", &["list", "ruleset"], ""))
    }

    /// Runs `conntrack`; returns what it printed.
    pub(crate) fn conntrack(&self, args: &[&str]) -> Result<String, String> {
        self.enter(|| tool("conntrack", args, ""))
    }

    /// Sets a kernel variable, named as in `net/ipv4/ip_forward`.
    pub(crate) fn sysctl(&self, name: &str, value: impl ToString) -> Result<(), String> {
        let path = Path::new("/proc/sys").join(name);
        self.enter(|| fs::write(&path, value.to_string()))
            .map_err(|e| format!("cannot set {}: {e}", path.display()))
    }

    /// A socket in it, for the tests' own packets.
    pub(crate) fn udp(&self, address: impl Into<SocketAddr>) -> UdpSocket {
        let address = address.into();
        self.enter(|| UdpSocket::bind(address)).unwrap_or_else(|e| panic!("cannot bind to {address}: {e}"))
    }

    /// The processes in it.
    pub(crate) fn processes(&self) -> Vec<Pid> {
        processes(&self.name)
    }

    /// Runs `f` inside: sockets that it opens and processes that it starts belong there.
    pub(crate) fn enter<T>(&self, f: impl FnOnce() -> T) -> T {
        let _back = Back(File::open("/proc/thread-self/ns/net").expect("the thread's own namespace"));
        let there = File::open(Path::new(NAMES).join(&self.name)).expect("a namespace that is there");
        setns(there, CloneFlags::CLONE_NEWNET).expect("entering a namespace");
        f()
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        remove(&self.name);
    }
}

/// Leads the thread back, also when a test has failed inside.
struct Back(File);

impl Drop for Back {
    fn drop(&mut self) {
        if let Err(e) = setns(&self.0, CloneFlags::CLONE_NEWNET) {
            // In another namespace than it thinks the thread must do nothing more.
            eprintln!("cannot leave a namespace: {e}");
            process::abort();
        }
    }
}

/// Runs one of the tools; returns what it printed, or what it complained about.
pub(crate) fn tool(program: &str, args: &[&str], input: &str) -> Result<String, String> {
    let failed = |e: &dyn std::fmt::Display| format!("'{program} {}': {e}", args.join(" "));
    let mut child = Command::new(program)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => format!("there is no program '{program}'"),
            _ => failed(&e),
        })?;
    if let Some(mut stdin) = child.stdin.take() {
        // A tool that stops at an error has not read it all, and says why.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output().map_err(|e| failed(&e))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(failed(&said.lines().next().unwrap_or("failed")));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Removes what tests left behind that were killed: namespaces of processes that are gone.
pub(crate) fn remove_stale() {
    for entry in fs::read_dir(NAMES).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let owner = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next()?.parse::<u32>().ok());
        // A new process with the number of the old one only puts it off.
        if owner.is_some_and(|pid| !is_alive(pid)) {
            remove(&name);
        }
    }
}

/// Whether a process runs; one that has ended and only waits for its parent to hear of it does not.
fn is_alive(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"));
    // The state follows the name, in parentheses.
    stat.is_ok_and(|stat| {
        !stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with(['Z', 'X']))
    })
}

fn remove(name: &str) {
    for pid in processes(name) {
        let _ = kill(pid, Signal::SIGKILL);
    }
    if let Err(e) = tool("ip", &["netns", "delete", name], "") {
        // Another process may have removed the same remains; nothing else may stand in the way.
        if Path::new(NAMES).join(name).exists() && !thread::panicking() {
            panic!("{e}");
        }
    }
}

/// The processes in a namespace, without this one.
fn processes(name: &str) -> Vec<Pid> {
    let all = tool("ip", &["netns", "pids", name], "").unwrap_or_default();
    let all = all.split_whitespace().filter_map(|pid| pid.parse().ok()).map(Pid::from_raw);
    all.filter(|pid| *pid != Pid::this()).collect()
}
