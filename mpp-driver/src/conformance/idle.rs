//! How often an idle client wakes its thread: the body of each adapter's `examples/idle_*.rs`.

use std::io::{BufRead, BufReader, Read};
use std::pin::Pin;
use std::process::{Command, Stdio};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use mpp_proto::ConnectionState;

use super::{ALICE, Kit, LOOPBACK, Proxy, World, ticket};
use crate::Client;

/// The name of the thread that runs the client and nothing else.
const CLIENT: &str = "client";

/// Runs a service in a process of its own and a client on a thread of its own in this one, leaves it alone for so many
/// seconds (the first argument, 600 if there is none) with heartbeats every so many seconds (the second, 25), and prints
/// how often each thread of this process has gone to sleep meanwhile. Exits with 1 unless the client's did so once for each
/// packet sent and received, within 10 %.
pub fn idle<K: Kit>(block_on: impl FnOnce(Pin<Box<dyn Future<Output = ()>>>) + Send) {
    let argument = std::env::args().nth(1);
    if argument.as_deref() == Some("serve") {
        return block_on(Box::pin(serve::<K>()));
    }
    let number = |text: Option<String>, default| {
        Duration::from_secs(text.map_or(default, |n| n.parse().expect("usage: idle [SECONDS [INTERVAL]]")))
    };
    let (time, interval) = (number(argument, 600), number(std::env::args().nth(2), 25));

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

    let (tell, told) = mpsc::channel();
    let run = move || {
        block_on(Box::pin(async move {
            let (client, task) = Client::<K>::builder(ticket(1, address)).interval(interval).build();
            tell.send(Arc::new(client)).expect("somebody measures");
            task.await;
        }));
    };
    let quiet = thread::scope(|scope| {
        thread::Builder::new().name(CLIENT.into()).spawn_scoped(scope, run).expect("a thread");
        measure(&told.recv().expect("a client"), time)
    });
    drop(service.stdin.take());
    let _ = service.wait();
    if !quiet {
        std::process::exit(1);
    }
}

/// Serves until its standard input ends, and so no longer than the process that measures.
async fn serve<K: Kit>() {
    let (w, (service, address)) = (World::<K>::new(), World::<K>::new().service());
    // No network answers before who asks has gone to sleep.
    let proxy = Proxy::start(address, 0, 1);
    proxy.set_delay(5);
    println!("{}", proxy.address);
    thread::spawn(move || {
        let _ = std::io::stdin().read(&mut [0]);
        std::process::exit(0);
    });
    while service.head(ALICE).is_some() {
        w.sleep(Duration::from_secs(3600)).await;
    }
}

fn measure<K>(client: &Client<K>, time: Duration) -> bool {
    for _ in 0..200 {
        if client.state() == ConnectionState::Connected {
            break;
        }
        thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(client.state(), ConnectionState::Connected, "not within 10 s");
    thread::sleep(Duration::from_secs(2));

    let (packets, before) = (self::packets(client), switches());
    thread::sleep(time);
    let (now, after) = (self::packets(client), switches());
    let (sent, received) = (now.0 - packets.0, now.1 - packets.1);
    println!("{} s idle: {sent} packets sent, {received} received", time.as_secs());
    let mut quiet = false;
    let wanted = (sent + received) * 9 / 10..=((sent + received) * 11).div_ceil(10);
    for (id, name, n) in after {
        let n = n - before.iter().find(|(thread, ..)| *thread == id).map_or(0, |(.., n)| *n);
        println!("  thread {name}: {n} voluntary context switches");
        if name == CLIENT {
            println!("    wanted: {wanted:?}");
            quiet = wanted.contains(&n);
        }
    }
    quiet
}

fn packets<K>(client: &Client<K>) -> (u64, u64) {
    let stats = client.stats().socket;
    (stats.sent, stats.received)
}

/// The threads: number, name and voluntary context switches.
fn switches() -> Vec<(String, String, u64)> {
    let threads = std::fs::read_dir("/proc/self/task").expect("a Linux system");
    let threads = threads.flatten().filter_map(|thread| {
        let status = std::fs::read_to_string(thread.path().join("status")).ok()?;
        let field = |name| status.lines().find_map(|l: &str| l.strip_prefix(name)).map(str::trim);
        let switches = field("voluntary_ctxt_switches:")?.parse().ok()?;
        Some((thread.file_name().to_string_lossy().into(), field("Name:")?.into(), switches))
    });
    threads.collect()
}
