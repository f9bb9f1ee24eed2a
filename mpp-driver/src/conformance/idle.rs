//! How often an idle client wakes its process: the body of each adapter's `examples/idle.rs`.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::pin::Pin;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::{ALICE, Kit, LOOPBACK, Lab, World, ticket};
use crate::Client;

/// Runs a service in a process of its own and a client in this one, leaves the client alone for so many seconds (the
/// first argument, 600 if there is none), and prints how often the client's task has run meanwhile, and how often each
/// thread of this process has gone to sleep: the runtime's own timers and reactor threads wake for themselves too. Exits
/// with 1 if the task ran more than 10 % above once for each packet sent and received.
pub fn idle<K: Kit>(block_on: impl FnOnce(Pin<Box<dyn Future<Output = ()>>>)) {
    let argument = std::env::args().nth(1);
    if argument.as_deref() == Some("serve") {
        return block_on(Box::pin(serve::<K>()));
    }
    let seconds = argument.map_or(600, |n| n.parse().expect("usage: idle [SECONDS]"));
    block_on(Box::pin(measure::<K>(seconds)));
}

/// Serves until its standard input ends, and so no longer than the process that measures.
async fn serve<K: Kit>() {
    let (w, (service, address)) = (World::<K>::new(), World::<K>::new().service());
    println!("{address}");
    std::thread::spawn(move || {
        let _ = std::io::stdin().read(&mut [0]);
        std::process::exit(0);
    });
    while service.head(ALICE).is_some() {
        w.sleep(Duration::from_secs(3600)).await;
    }
}

async fn measure<K: Kit>(seconds: u64) {
    let w = World::<K>::new();
    let program = std::env::current_exe().expect("the program's own path");
    let mut service = Command::new(program)
        .arg("serve")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("a second process");
    let mut address = String::new();
    BufReader::new(service.stdout.take().expect("a pipe")).read_line(&mut address).expect("an address");
    let address = address.trim().parse().unwrap_or_else(|e| panic!("{address:?} instead of {LOOPBACK}: {e}"));
    let lab = Lab::<K>::new();
    let client = Client::builder_on(lab.clone(), ticket(1, address)).connect();
    client.connected().await.expect("a connection");
    w.sleep(Duration::from_secs(2)).await;

    let (packets, polls, before) = (packets(&client), lab.polls(), switches());
    w.sleep(Duration::from_secs(seconds)).await;
    let after = switches();
    let (sent, received) = {
        let now = self::packets(&client);
        (now.0 - packets.0, now.1 - packets.1)
    };
    println!("{seconds} s idle: {sent} packets sent, {received} received");
    let polls = lab.polls() - polls;
    for (thread, (name, n)) in &after {
        let n = n - before.get(thread).map_or(0, |(_, n)| *n);
        println!("  thread {name}: {n} voluntary context switches");
    }
    drop(service.stdin.take());
    let _ = service.wait();
    let limit = ((sent + received) * 11).div_ceil(10);
    println!("the client's task: {polls} runs, allowed: {limit}");
    if polls > limit {
        std::process::exit(1);
    }
}

fn packets<K>(client: &Client<K>) -> (u64, u64) {
    let stats = client.stats().socket;
    (stats.sent, stats.received)
}

/// By thread: its name and its voluntary context switches.
fn switches() -> BTreeMap<String, (String, u64)> {
    let threads = std::fs::read_dir("/proc/self/task").expect("a Linux system");
    let threads = threads.flatten().filter_map(|thread| {
        let status = std::fs::read_to_string(thread.path().join("status")).ok()?;
        let field = |name| status.lines().find_map(|l: &str| l.strip_prefix(name)).map(str::trim);
        let switches = field("voluntary_ctxt_switches:")?.parse().ok()?;
        Some((thread.file_name().to_string_lossy().into(), (field("Name:")?.into(), switches)))
    });
    threads.collect()
}
