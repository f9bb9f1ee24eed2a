//! Processes that die, and what their successors know.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::support::{Home, Process, SOON};

fn kill_hard(process: Process) {
    process.signal(Signal::SIGKILL);
    drop(process);
}

#[test]
fn a_killed_watch_misses_nothing_and_repeats_nothing() {
    let home = Home::new();
    let (_serve, _) = home.serve();
    let ticket = home.ticket("alice@example.com", "phone", &[]);
    let (mut watch, _) = home.watch(&ticket, &[]);
    home.post(&["alice@example.com", "seen"]);
    assert_eq!(watch.texts(1), ["seen"]);
    // The line is out before the position is on the disk.
    std::thread::sleep(Duration::from_millis(300));
    kill_hard(watch);

    for text in ["missed 1", "missed 2", "missed 3"] {
        home.post(&["alice@example.com", text]);
    }
    let (mut watch, connected) = home.watch(&ticket, &[]);
    assert_eq!(connected["recovered"].as_bool(), Some(true), "{connected}");
    assert_eq!(watch.texts(3), ["missed 1", "missed 2", "missed 3"]);
    home.post(&["alice@example.com", "live again"]);
    assert_eq!(watch.texts(1), ["live again"]);
    std::thread::sleep(Duration::from_millis(300));
    kill_hard(watch);

    let (mut watch, connected) = home.watch(&ticket, &[]);
    assert_eq!(connected["recovered"].as_bool(), Some(true), "{connected}");
    watch.stays_silent();
}

#[test]
fn a_watch_killed_before_its_first_event_misses_nothing() {
    let home = Home::new();
    let (_serve, _) = home.serve();
    let ticket = home.ticket("alice@example.com", "phone", &[]);
    let (watch, _) = home.watch(&ticket, &[]);
    std::thread::sleep(Duration::from_millis(300));
    kill_hard(watch);
    home.post(&["alice@example.com", "the very first"]);
    let (mut watch, connected) = home.watch(&ticket, &[]);
    assert_eq!(connected["recovered"].as_bool(), Some(true), "{connected}");
    assert_eq!(watch.texts(1), ["the very first"]);
}

#[test]
fn what_could_not_be_printed_comes_again() {
    let home = Home::new();
    let (_serve, _) = home.serve();
    let ticket = home.ticket("alice@example.com", "phone", &[]);
    let full = std::fs::File::create("/dev/full").unwrap();
    let args = ["watch", "-", "--count", "1"];
    let mut watch = home.start_to(&args, Some(ticket.clone().into_bytes()), full.into());
    watch.line("that it is connected", |l| l.contains("connected to"));
    home.post(&["alice@example.com", "not to be lost"]);
    let ended = watch.end(SOON);
    assert_eq!(ended.code(), 1, "{ended:?}");
    assert!(ended.err.last().is_some_and(|l| l.contains("no space left")), "{ended:?}");
    let (mut watch, connected) = home.watch(&ticket, &[]);
    assert_eq!(connected["recovered"].as_bool(), Some(true), "{connected}");
    assert_eq!(watch.texts(1), ["not to be lost"]);
}

#[test]
fn a_change_is_not_told_again_after_a_restart() {
    let home = Home::new();
    let (_serve, _) = home.serve();
    let ticket = home.ticket("alice@example.com", "phone", &[]);
    let (mut watch, _) = home.watch(&ticket, &[]);
    home.post(&["alice@example.com", "--store", "contact"]);
    watch.json("changed");
    assert_eq!(watch.stop(Signal::SIGTERM).code(), 0);
    let (mut watch, connected) = home.watch(&ticket, &[]);
    assert_eq!(connected["recovered"].as_bool(), Some(true), "{connected}");
    assert_eq!(watch.json_within("changed", Duration::from_millis(400)), None);
}

#[test]
fn a_killed_service_is_noticed_by_reset_and_its_loss_is_told() {
    let home = Home::new();
    let (serve, addr) = home.serve();
    let ticket = home.ticket("alice@example.com", "phone", &[]);
    let (mut watch, _) = home.watch(&ticket, &["--interval", "5s"]);
    home.post(&["alice@example.com", "before"]);
    assert_eq!(watch.texts(1), ["before"]);

    let killed = Instant::now();
    kill_hard(serve);
    // The control socket is left behind, and is no obstacle.
    let (_serve, again) = home.serve_on(&addr.to_string());
    assert_eq!(again, addr);
    // The next heartbeat (5 s at most) is answered by a reset; then up to 2 s, so that not all come at once.
    let gone = watch.json("disconnected");
    assert_eq!(gone["reason"].as_str(), Some("reset"), "{gone}");
    let connected = watch.json("connected");
    assert_eq!(connected["recovered"].as_bool(), Some(false), "{connected}");
    assert!(killed.elapsed() < Duration::from_secs(9), "{:?}", killed.elapsed());

    home.post(&["alice@example.com", "after"]);
    assert_eq!(watch.texts(1), ["after"]);
    watch.stays_silent();
}

#[test]
fn a_service_that_is_restarted_in_order_calls_its_devices_back() {
    let home = Home::new();
    let (serve, addr) = home.serve();
    let ticket = home.ticket("alice@example.com", "phone", &[]);
    let (mut watch, _) = home.watch(&ticket, &[]);
    assert_eq!(serve.stop(Signal::SIGTERM).code(), 0);
    assert_eq!(watch.json("disconnected")["reason"].as_str(), Some("closed-by-service"));
    let (_serve, _) = home.serve_on(&addr.to_string());
    let connected = watch.json("connected");
    assert_eq!(connected["recovered"].as_bool(), Some(false), "memory was lost: {connected}");
    home.post(&["alice@example.com", "after"]);
    assert_eq!(watch.texts(1), ["after"]);
}

#[test]
fn a_second_watch_of_the_same_device_takes_over() {
    let home = Home::new();
    let (_serve, _) = home.serve();
    let ticket = home.ticket("alice@example.com", "phone", &[]);
    let (first, _) = home.watch(&ticket, &[]);
    let (mut second, _) = home.watch(&ticket, &["--resume", "another"]);
    let line = first.end(SOON).failed(1);
    assert!(line.contains("took over"), "{line}");
    home.post(&["alice@example.com", "to the second"]);
    assert_eq!(second.texts(1), ["to the second"]);
}
