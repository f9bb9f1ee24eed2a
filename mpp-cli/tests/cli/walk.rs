//! Three terminals: serve, watch, post.

use nix::sys::signal::Signal;

use crate::support::{Home, SOON, is_gone};

#[test]
fn a_post_in_one_terminal_is_a_line_in_another() {
    let home = Home::new();
    let (serve, addr) = home.serve();
    let ticket = home.run(&["ticket", "alice@example.com", "--device", "phone"]);
    assert_eq!((ticket.code(), ticket.out.len()), (0, 1));
    let said = ticket.err.join("\n");
    assert!(said.contains(&addr.to_string()) && said.contains("alice@example.com"), "{said}");
    std::fs::write(home.path("phone.ticket"), &ticket.out[0]).unwrap();

    let mut watch = home.start(&["watch", "@phone.ticket"]);
    let connected = watch.line("that it is connected", |l| l.contains("connected to"));
    assert!(connected.contains(&addr.to_string()), "{connected}");
    assert!(connected.contains("seen from 127.0.0.1:"), "{connected}");
    assert!(connected.contains("recovered: true"), "{connected}");

    let posted = home.run(&["post", "alice@example.com", "hello from the third terminal"]);
    assert_eq!(posted.out, ["serial 1 (1 device is connected)"]);
    let line = watch.line("the event", |l| l.contains("hello"));
    assert!(line.contains("inbound") && line.ends_with("#1  hello from the third terminal"), "{line}");

    let status = home.run(&["status"]).out.join("\n");
    assert!(status.contains(&addr.to_string()) && status.contains("devices: 1"), "{status}");

    let watch = watch.stop(Signal::SIGTERM);
    assert_eq!(watch.code(), 0, "{watch:?}");
    let serve = serve.stop(Signal::SIGTERM);
    assert_eq!(serve.code(), 0, "{serve:?}");
    assert!(is_gone(&home.path("mpp/control.sock")));
}

#[test]
fn payloads_of_every_kind_arrive_as_they_were_posted() {
    let home = Home::new();
    let (_serve, _) = home.serve();
    let ticket = home.ticket("alice@example.com", "phone", &[]);
    let (mut watch, _) = home.watch(&ticket, &[]);

    let largest: String = (0..16_384).map(|i| char::from(b'a' + u8::try_from(i * 7 % 26).unwrap())).collect();
    std::fs::write(home.path("large"), &largest).unwrap();
    assert_eq!(home.post(&["alice@example.com", "--file", "large", "--store", "40", "--key", "k"]), 1);
    let event = watch.json("event");
    assert_eq!(event["text"].as_str(), Some(largest.as_str()));
    assert_eq!((event["size"].as_u64(), event["serial"].as_u64()), (Some(16_384), Some(1)));
    assert_eq!((event["store"].as_str(), event["key"].as_str()), (Some("40"), Some("k")));

    let dash = home.run_with(&["post", "alice@example.com", "-"], &[0; 16_385]);
    assert_eq!(dash.code(), 2, "a dash is standard input, which is too large here");
    let binary = home.run_with(&["post", "alice@example.com", "--file", "-"], &[0xff, 0, 1]);
    assert_eq!(binary.code(), 0, "{binary:?}");
    assert_eq!(watch.json("event")["hex"].as_str(), Some("ff0001"));

    assert_eq!(home.post(&["alice@example.com", ""]), 3);
    assert_eq!(watch.json("event")["size"].as_u64(), Some(0), "an empty payload is a payload");

    assert_eq!(home.post(&["alice@example.com", "--store", "contact", "--urgency", "high"]), 4);
    let changed = watch.json("changed");
    assert_eq!(changed["stores"][0].as_str(), Some("contact"));
}

#[test]
fn each_account_hears_its_own_and_each_filter_what_it_asks_for() {
    let home = Home::new();
    let (_serve, _) = home.serve();
    let alice = home.ticket("alice@example.com", "phone", &[]);
    let bob = home.ticket("bob@example.com", "phone", &[]);
    let (mut alice, _) = home.watch(&alice, &["--filter", "contact,40"]);
    let (mut bob, _) = home.watch(&bob, &[]);
    home.post(&["alice@example.com", "not asked for"]);
    home.post(&["alice@example.com", "asked for", "--store", "40"]);
    home.post(&["bob@example.com", "for Bob"]);
    assert_eq!(alice.texts(1), ["asked for"]);
    assert_eq!(bob.texts(1), ["for Bob"]);
    alice.stays_silent();
    bob.stays_silent();
}

#[test]
fn two_devices_of_an_account_both_hear() {
    let home = Home::new();
    let (_serve, _) = home.serve();
    let (mut phone, _) = home.watch(&home.ticket("alice@example.com", "phone", &[]), &[]);
    let (mut laptop, _) = home.watch(&home.ticket("alice@example.com", "laptop", &[]), &[]);
    let posted = home.run(&["post", "alice@example.com", "both"]);
    assert_eq!(posted.out, ["serial 1 (2 devices are connected)"]);
    assert_eq!((phone.texts(1), laptop.texts(1)), (vec!["both".to_owned()], vec!["both".to_owned()]));
}

#[test]
fn what_a_stranger_posts_does_not_drive_the_terminal() {
    let home = Home::new();
    let (_serve, _) = home.serve();
    let ticket = home.ticket("alice@example.com", "phone", &[]);
    let mut watch = home.start_with(&["watch", "-", "--count", "1"], Some(ticket.into_bytes()));
    watch.line("that it is connected", |l| l.contains("connected to"));
    home.post(&["alice@example.com", "\u{1b}[2J\u{9b}31m\r\nfake line\u{202e}"]);
    let ended = watch.end(SOON);
    assert_eq!(ended.code(), 0, "{ended:?}");
    assert_eq!(ended.out.len(), 1, "{ended:?}");
    assert!(ended.out[0].ends_with("\\u{1b}[2J\\u{9b}31m\\r\\nfake line\\u{202e}"), "{ended:?}");
    assert!(!ended.out[0].chars().any(char::is_control), "{ended:?}");
}

#[test]
fn a_count_ends_the_watch_and_nothing_is_lost_by_it() {
    let home = Home::new();
    let (_serve, _) = home.serve();
    let ticket = home.ticket("alice@example.com", "phone", &[]);
    home.post(&["alice@example.com", "before the first connection", "--create"]);
    let (watch, _) = home.watch(&ticket, &["--count", "2"]);
    for text in ["two", "three", "four"] {
        home.post(&["alice@example.com", text]);
    }
    let first = watch.end(SOON);
    assert_eq!(first.code(), 0, "{first:?}");
    let (mut second, connected) = home.watch(&ticket, &[]);
    assert_eq!(connected["recovered"].as_bool(), Some(true));
    let both = [first.out.join("\n"), second.texts(2).join("\n")].concat();
    for text in ["two", "three", "four"] {
        assert_eq!(both.matches(text).count(), 1, "{text} exactly once: {both}");
    }
    second.stays_silent();
}

#[test]
fn an_interrupt_ends_a_watch_and_a_service_in_order() {
    let home = Home::new();
    let (mut serve, _) = home.serve();
    let (mut watch, _) = home.watch(&home.ticket("alice@example.com", "phone", &[]), &[]);
    serve.signal(Signal::SIGINT);
    // Told at once, not found out by silence.
    assert_eq!(watch.json("disconnected")["reason"].as_str(), Some("closed-by-service"));
    serve.line("that it ends", |l| l.contains("closing"));
    assert_eq!(serve.end(SOON).code(), 0);
    assert_eq!(watch.stop(Signal::SIGINT).code(), 0);
}
