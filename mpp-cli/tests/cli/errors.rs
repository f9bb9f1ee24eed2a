//! Everything that can go wrong at the keyboard: one line that says what to do, and an exit code.

use std::fs;
use std::net::UdpSocket;
use std::os::unix::fs::PermissionsExt as _;

use nix::sys::signal::Signal;

use crate::support::{Home, SOON};

#[track_caller]
fn says(line: &str, words: &[&str]) {
    for word in words {
        assert!(line.contains(word), "'{word}' is missing: {line}");
    }
}

#[test]
fn wrong_calls() {
    let home = Home::new();
    says(&home.fails(2, &["watch"]), &["<TICKET>", "mpp watch --help"]);
    says(&home.fails(2, &["ticket", "alice@example.com"]), &["--device", "mpp ticket --help"]);
    says(&home.fails(2, &["post"]), &["<ACCOUNT>", "mpp post --help"]);
    says(&home.fails(2, &["psot", "a"]), &["'post'"]);
    says(&home.fails(2, &["post", "a", "b", "--store", "25"]), &["reserved"]);
    says(&home.fails(2, &["post", "a", "b", "--ttl", "31d"]), &["30 days"]);
    says(&home.fails(2, &["post", "a", "b", "--key", ""]), &["1 to 32"]);
    says(&home.fails(2, &["serve", "--listen", "example.com"]), &["127.0.0.1:15096"]);
    says(&home.fails(2, &["watch", "mpp1_x", "--count", "0"]), &["--count"]);
    let nothing = home.run(&[]);
    assert_eq!(nothing.code(), 2);
    says(&nothing.err.join("\n"), &["Usage: mpp", "mpp demo"]);
}

#[test]
fn help_shows_examples() {
    let home = Home::new();
    let help = home.run(&["--help"]);
    assert_eq!((help.code(), help.err.len()), (0, 0));
    says(&help.out.join("\n"), &["Examples:", "mpp demo", "mpp serve", "mpp watch @t", "Exit codes:"]);
    for sub in ["serve", "ticket", "watch", "endpoint", "netcheck", "post", "status", "demo"] {
        assert_eq!(home.run(&[sub, "--help"]).code(), 0, "{sub}");
    }
}

#[test]
fn bad_and_cut_tickets() {
    let home = Home::new();
    let (_serve, _) = home.serve();
    let ticket = home.ticket("alice@example.com", "phone", &[]);
    home.fails(3, &["watch", "not a ticket"]);
    home.fails(3, &["watch", "mpp1_"]);
    home.fails(3, &["watch", &ticket[..ticket.len() - 1]]);
    home.fails(3, &["watch", &ticket[..ticket.len() / 2]]);
    let mut changed = ticket.clone().into_bytes();
    let at = changed.len() / 2;
    changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
    home.run_with(&["watch", "-"], &changed).failed(3);
    home.run_with(&["watch", "-"], b"\xff\xfe").failed(3);
    home.run_with(&["watch", "-"], b"").failed(3);
    says(&home.fails(1, &["watch", "@no-such-file"]), &["no-such-file"]);
}

#[test]
fn an_expired_ticket() {
    let home = Home::new();
    let (_serve, _) = home.serve();
    let ticket = home.ticket("alice@example.com", "phone", &["--expires", "1ms"]);
    let line = home.run_with(&["watch", "-"], ticket.as_bytes()).failed(3);
    says(&line, &["expired", "mpp ticket alice@example.com"]);
}

#[test]
fn a_key_file_that_is_none() {
    let home = Home::new();
    says(&home.fails(1, &["ticket", "a", "--device", "d"]), &["mpp serve"]);
    let (serve, _) = home.serve();
    serve.stop(Signal::SIGTERM);
    let path = home.path("mpp/service.keys");
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);

    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    says(&home.fails(1, &["serve", "--listen", "127.0.0.1:0"]), &["service.keys", "chmod 600"]);
    says(&home.fails(1, &["ticket", "a", "--device", "d", "--endpoint", "h:1"]), &["chmod 600"]);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();

    let whole = fs::read(&path).unwrap();
    fs::write(&path, &whole[..whole.len() / 2]).unwrap();
    says(&home.fails(1, &["serve", "--listen", "127.0.0.1:0"]), &["service.keys", "backup"]);
    fs::write(&path, b"something else entirely\n").unwrap();
    says(&home.fails(1, &["serve", "--listen", "127.0.0.1:0"]), &["service.keys", "backup"]);
    assert_eq!(fs::read(&path).unwrap(), b"something else entirely\n", "it is never replaced");
    // So that the search for secrets knows the real ones.
    fs::write(&path, &whole).unwrap();
}

#[test]
fn a_busy_port_and_a_directory_in_use() {
    let home = Home::new();
    let taken = UdpSocket::bind("127.0.0.1:0").unwrap();
    let addr = taken.local_addr().unwrap().to_string();
    says(&home.fails(1, &["serve", "--listen", &addr]), &[&addr, "in use"]);
    says(&home.fails(1, &["serve", "--listen", "192.0.2.77:0"]), &["192.0.2.77"]);

    let (_serve, _) = home.serve();
    says(&home.fails(1, &["serve", "--listen", "127.0.0.1:0"]), &["already runs", "--dir"]);
    // And the one that runs is none the worse.
    assert_eq!(home.run(&["status"]).code(), 0);
}

#[test]
fn a_state_directory_that_cannot_be() {
    let home = Home::new();
    fs::write(home.path("file"), b"").unwrap();
    says(&home.fails(1, &["serve", "--dir", "file/below"]), &["file/below", "--dir"]);
    let long = "d".repeat(120);
    says(&home.fails(1, &["serve", "--listen", "127.0.0.1:0", "--dir", &long]), &["too long", "--dir"]);
}

#[test]
fn posts_that_are_refused() {
    let home = Home::new();
    says(&home.fails(4, &["post", "alice@example.com", "x"]), &["mpp serve"]);
    says(&home.fails(4, &["status"]), &["mpp serve"]);
    let (_serve, _) = home.serve();

    says(
        &home.fails(1, &["post", "nobody@example.com", "x"]),
        &["nobody@example.com", "mpp watch", "--create"],
    );
    assert_eq!(home.post(&["nobody@example.com", "x", "--create"]), 1);
    assert_eq!(home.post(&["nobody@example.com", "y", "--create"]), 2, "made once");

    fs::write(home.path("large"), vec![b'x'; 16_385]).unwrap();
    says(&home.fails(2, &["post", "nobody@example.com", "--file", "large"]), &["16,384"]);
    says(&home.fails(2, &["post", "nobody@example.com", &"x".repeat(16_385)]), &["16,384", "16,385"]);
    says(&home.fails(1, &["post", "nobody@example.com", "--file", "none"]), &["none"]);
    assert_eq!(home.post(&["nobody@example.com", "z"]), 3, "nothing refused has taken a serial");
}

#[test]
fn tickets_without_a_running_service() {
    let home = Home::new();
    let (serve, _) = home.serve();
    serve.stop(Signal::SIGTERM);
    let args = ["ticket", "alice@example.com", "--device", "phone"];
    says(&home.fails(4, &args), &["mpp serve", "--endpoint"]);
    home.ticket("alice@example.com", "phone", &["--endpoint", "mpp.example.com"]);
    let nine: Vec<&str> = ["--endpoint", "h:1"].into_iter().cycle().take(18).collect();
    says(&home.fails(2, &[&args[..], &nine].concat()), &["at most 8"]);
}

#[test]
fn resume_files_that_do_not_fit() {
    let home = Home::new();
    let (_serve, _) = home.serve();
    let alice = home.ticket("alice@example.com", "phone", &[]);
    let bob = home.ticket("bob@example.com", "phone", &[]);
    let (watch, _) = home.watch(&alice, &["--resume", "r"]);
    std::thread::sleep(std::time::Duration::from_millis(200));
    assert_eq!(watch.stop(Signal::SIGTERM).code(), 0);
    assert_eq!(fs::metadata(home.path("r")).unwrap().permissions().mode() & 0o777, 0o600);
    let other = home.run_with(&["watch", "-", "--resume", "r"], bob.as_bytes()).failed(1);
    says(&other, &["another account or device", "--resume"]);
    fs::write(home.path("r"), b"mpp resume 1\nrubbish").unwrap();
    says(&home.run_with(&["watch", "-", "--resume", "r"], alice.as_bytes()).failed(1), &["rm r"]);
}

#[test]
fn the_control_socket_answers_rubbish_and_goes_on() {
    use std::io::{BufRead as _, BufReader, Write as _};
    use std::os::unix::net::UnixStream;

    let home = Home::new();
    let (_serve, _) = home.serve();
    let path = home.path("mpp/control.sock");
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let ask = |request: &[u8]| {
        let mut stream = UnixStream::connect(&path).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        // It may be refused before it was sent to its end.
        let _ = stream.write_all(request);
        let mut answer = String::new();
        let _ = BufReader::new(stream).read_line(&mut answer);
        answer
    };
    assert!(ask(b"rubbish\n").contains("bad-request"));
    assert!(ask(b"{\"v\":2,\"ask\":\"status\"}\n").contains("version 1"));
    assert!(ask(b"{\"v\":1,\"ask\":\"dance\"}\n").contains("bad-request"));
    assert!(
        ask(b"{\"v\":1,\"ask\":\"post\",\"account\":\"a\",\"store\":200,\"ttl_ms\":1,\"urgency\":\"low\"}\n")
            .contains("refused")
    );
    ask(&vec![b'x'; 1 << 20]);
    assert!(ask(b"{\"v\":1,\"ask\":\"status\"}\n").contains("listening"));
}
