use std::borrow::ToOwned;
use std::string::{String, ToString};
use std::{format, vec};

use proptest::prelude::*;

use super::super::*;
use super::{Vec, bytes, device, time};
use crate::ids::DeviceId;
use crate::time::UnixTime;

fn endpoint() -> impl Strategy<Value = Endpoint> {
    prop_oneof![
        (super::address(), 1u16..).prop_map(|(mut a, port)| {
            a.set_port(port);
            Endpoint::Address(a)
        }),
        ("[a-z0-9_-]{1,60}(\\.[a-z]{1,60}){0,3}\\.?", 1u16..)
            .prop_filter("not a number at the end", |(host, _)| {
                !host.trim_end_matches('.').ends_with(|c: char| c.is_ascii_digit())
            })
            .prop_map(|(host, port)| Endpoint::Name { host, port }),
    ]
}

fn example() -> Ticket {
    let endpoints = vec!["192.0.2.1:15096".parse().unwrap(), "presence.example.com".parse().unwrap()];
    let (account, device) = ("alice@example.com".to_owned(), DeviceId(*b"phone-0123456789"));
    Ticket::new(endpoints, vec![0xab; 4], &[7; 32], account, device, UnixTime::from_millis(1_800_000_000_000))
        .unwrap()
}

const EXAMPLE: &str = "mpp1_AYAHBMAAAgE6-IAXADr4cHJlc2VuY2UuZXhhbXBsZS5jb22BBKurq6uCIAcHBwcHBwcHBwcHBwcHBwcH\
    BwcHBwcHBwcHBwcHBwcHgxFhbGljZUBleGFtcGxlLmNvbYQQcGhvbmUtMDEyMzQ1Njc4OYUIwAABoxhcUAD_X9109Q";

#[test]
fn example_text() {
    assert_eq!(*example().to_text(), EXAMPLE);
    // White space that came along when it was copied.
    let read: Ticket = format!("  {EXAMPLE}\r\n").parse().unwrap();
    assert_eq!(*read.to_text(), EXAMPLE);
    assert_eq!(read.endpoints()[1].to_string(), "presence.example.com:15096");
}

// SPEC: R-no-secrets-shown
#[test]
fn nothing_secret_is_shown() {
    let shown = format!("{:?}", example());
    assert!(shown.contains("alice@example.com"));
    for secret in ["171", "ab, ab", "7, 7", "0707", "abab"] {
        assert!(!shown.contains(secret), "{shown}");
    }
}

/// The error of `text`, in words.
fn error(text: &str) -> TicketError {
    text.parse::<Ticket>().map(|_| ()).unwrap_err()
}

// SPEC: R-ticket-checksum
#[test]
fn errors_say_what_is_wrong() {
    assert_eq!(error(""), TicketError::NotATicket);
    assert_eq!(error("mpp2_abc"), TicketError::NotATicket);
    assert_eq!(error("mpp1_"), TicketError::Damaged);
    for cut in 5..EXAMPLE.len() {
        assert_eq!(error(&EXAMPLE[..cut]), TicketError::Damaged, "cut at {cut}");
    }
    assert_eq!(error("mpp1_ab=cd"), TicketError::Character { position: 8 });
    assert_eq!(error("mpp1_\u{e9}"), TicketError::Character { position: 6 });
    let broken = format!("{} {}", &EXAMPLE[..40], &EXAMPLE[40..]);
    assert_eq!(error(&broken), TicketError::Character { position: 41 });
    assert!(error(&broken).to_string().contains("character 41"));
}

/// Changes the content of the example and makes the checksum right again.
fn altered(change: impl FnOnce(&mut Vec<u8>)) -> String {
    use sha2::{Digest, Sha256};
    let mut content = super::bytes_of(&example());
    change(&mut content);
    content.extend(&Sha256::digest(&content)[..4]);
    let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let bit = |i: usize| content.get(i / 8).is_some_and(|b| b >> (7 - i % 8) & 1 != 0);
    let character = |i: usize| alphabet[(0..6).fold(0, |v, b| v << 1 | usize::from(bit(i * 6 + b)))];
    let code: Vec<u8> = (0..(content.len() * 8).div_ceil(6)).map(character).collect();
    format!("mpp1_{}", String::from_utf8(code).unwrap())
}

#[test]
fn parts_that_are_missing_or_wrong() {
    assert_eq!(altered(|_| ()), EXAMPLE);
    assert_eq!(error(&altered(|c| c[0] = 2)), TicketError::Version { version: 2 });
    assert_eq!(error(&altered(|c| c.push(0))), TicketError::Field { field: "content" });
    assert_eq!(error(&altered(|c| c.truncate(c.len() - 1))), TicketError::Field { field: "content" });
    let field = |tag: u8| match tag {
        128 => "list of endpoints",
        129 => "token",
        130 => "secret",
        131 => "account",
        132 => "device",
        _ => "expiry",
    };
    // The items of the example: where they are, with tag and length.
    let mut at = 1;
    let mut seen = 0;
    let content = super::bytes_of(&example());
    while content[at] != 255 {
        let (tag, len) = (content[at], usize::from(content[at + 1]) + 2);
        let twice = altered(|c| {
            let item = c[at..at + len].to_vec();
            c.splice(at..at, item);
        });
        if tag != 128 {
            let without = altered(|c| drop(c.drain(at..at + len)));
            assert_eq!(error(&without), TicketError::Field { field: field(tag) });
            assert_eq!(error(&twice), TicketError::Field { field: field(tag) });
        } else {
            assert_eq!(twice.parse::<Ticket>().unwrap().endpoints().len(), 3);
        }
        let empty = altered(|c| drop(c.splice(at..at + len, [tag, 0])));
        assert_eq!(error(&empty), TicketError::Field { field: field(tag) }, "tag {tag}");
        at += len;
        seen += 1;
    }
    assert_eq!(seen, 7);
    let nine = altered(|c| {
        let item = c[1..10].to_vec();
        c.splice(1..1, item.repeat(7));
    });
    assert_eq!(error(&nine), TicketError::Field { field: "list of endpoints" });
    // What a later version of the program adds is ignored.
    let more = altered(|c| drop(c.splice(1..1, [200, 1, 1])));
    assert_eq!(*more.parse::<Ticket>().unwrap().to_text(), EXAMPLE);
}

#[test]
fn limits_of_a_new_ticket() {
    let make = |endpoints: Vec<Endpoint>, token: usize, account: usize| {
        let account = "a".repeat(account);
        Ticket::new(endpoints, vec![1; token], &[0; 32], account, DeviceId::default(), UnixTime::EPOCH).err()
    };
    let some = |n| vec![Endpoint::Name { host: "a".to_owned(), port: 1 }; n];
    assert_eq!(make(some(1), 256, 128), None);
    assert_eq!(make(some(8), 1, 1), None);
    assert_eq!(make(some(9), 1, 1), Some(TicketError::Field { field: "list of endpoints" }));
    assert_eq!(make(vec![], 1, 1), Some(TicketError::Field { field: "list of endpoints" }));
    assert_eq!(make(some(1), 257, 1), Some(TicketError::Field { field: "token" }));
    assert_eq!(make(some(1), 1, 129), Some(TicketError::Field { field: "account" }));
    let bad = vec![Endpoint::Name { host: "a b".to_owned(), port: 1 }];
    assert_eq!(make(bad, 1, 1), Some(TicketError::Endpoint(EndpointError::Host("a b".to_owned()))));
}

#[test]
fn endpoints_as_people_write_them() {
    for (text, want) in [
        ("192.0.2.1:9", "192.0.2.1:9"),
        ("192.0.2.1", "192.0.2.1:15096"),
        ("[::1]:15097", "[::1]:15097"),
        ("[::1]", "[::1]:15096"),
        ("2001:db8::1", "[2001:db8::1]:15096"),
        ("localhost", "localhost:15096"),
        ("presence.example.com:443", "presence.example.com:443"),
    ] {
        assert_eq!(text.parse::<Endpoint>().map(|e| e.to_string()), Ok(want.to_owned()));
    }
    let error = |text: &str| text.parse::<Endpoint>().unwrap_err();
    for text in ["", ":15096", "a b", "http://a", "a..b", "300.1.1.1", "[::1", "a/b:9", "\u{fc}.example"] {
        assert_eq!(error(text), EndpointError::Host(text.to_owned()));
    }
    for text in ["a:0", "a:65536", "a:x", "a:+9", "a:", "a:1:2", "127.0.0.1:0", "[::1]:0"] {
        assert_eq!(error(text), EndpointError::Port(text.to_owned()), "{text}");
    }
    assert_eq!(error("[fe80::1%2]:9"), EndpointError::Zone("[fe80::1%2]:9".to_owned()));
}

proptest! {
    #[test]
    fn round_trip(
        endpoints in proptest::collection::vec(endpoint(), 1..9), token in bytes(1..257), secret: [u8; 32],
        account in "\\PC{1,30}", device in device(), expiry in time(),
    ) {
        let ticket = Ticket::new(endpoints.clone(), token.clone(), &secret, account.clone(), device, expiry).unwrap();
        let read: Ticket = ticket.to_text().parse().unwrap();
        prop_assert_eq!(read.endpoints(), &endpoints[..]);
        prop_assert_eq!((read.token(), read.secret()), (&token[..], &secret));
        prop_assert_eq!((read.account(), read.device(), read.expiry()), (&account[..], device, expiry));
    }

    #[test]
    fn endpoint_text(endpoint in endpoint()) {
        prop_assert_eq!(endpoint.to_string().parse(), Ok(endpoint));
    }

    #[test]
    fn total(text in "\\PC*", code in "[a-zA-Z0-9_-]{0,300}") {
        let _ = text.parse::<Endpoint>();
        let _ = text.parse::<Ticket>();
        let ticket = format!("mpp1_{code}");
        prop_assert!(ticket.parse::<Ticket>().is_err());
    }

    #[test]
    fn altered_content_is_read_without_a_panic(at: prop::sample::Index, to: u8) {
        let text = altered(|c| {
            let at = at.index(c.len());
            c[at] = to;
        });
        if let Ok(ticket) = text.parse::<Ticket>() {
            prop_assert!(ticket.to_text().parse::<Ticket>().is_ok());
        }
    }
}

// SPEC: R-ticket-web
#[test]
fn base_urls_are_those_it_names_or_follow_from_its_endpoints() {
    let endpoints = ["192.0.2.1:7", "[2001:db8::1]:7", "a.example", "192.0.2.1:8"];
    let endpoints = endpoints.map(|e| e.parse().unwrap()).to_vec();
    let ticket =
        Ticket::new(endpoints, vec![1], &[7; 32], "a".to_owned(), DeviceId::default(), UnixTime::EPOCH)
            .unwrap();
    let derived = ["http://192.0.2.1:15097", "http://[2001:db8::1]:15097", "http://a.example:15097"];
    assert_eq!(ticket.web(), derived);
    let urls = ["https://p.example/base".to_owned(), "http://10.0.0.1:80".to_owned()];
    let named = ticket.clone().with_web(urls.to_vec()).unwrap();
    let read: Ticket = named.to_text().parse().unwrap();
    assert_eq!(read.web(), urls);
    let other = read.renewed(&[2], &[3; 32], UnixTime::EPOCH).unwrap();
    assert_eq!(other.web(), urls, "a renewed ticket goes to the same place");
    assert_eq!(named.with_web(vec![]).unwrap().web(), derived);

    let three = ticket.clone().with_web(vec![urls[0].clone(); 3]).unwrap_err();
    assert_eq!(three, TicketError::WebCount { count: 3 });
    assert!(three.to_string().contains("the 2 that"));
    let longest = format!("https://{}", "a".repeat(247));
    assert_eq!(longest.len(), 255);
    assert_eq!(
        ticket.clone().with_web(vec![longest.clone()]).unwrap().web(),
        core::slice::from_ref(&longest)
    );
    let bad = [
        "",
        "ftp://a",
        "https://",
        "http:///a",
        "https://:1/",
        "https://u@a",
        "https://a b",
        "https://a?b",
        "https://a#b",
        "https://\u{e9}",
        "a.example",
    ];
    for bad in bad.map(ToOwned::to_owned).into_iter().chain([longest + "a"]) {
        let e = ticket.clone().with_web(vec![bad.clone()]).unwrap_err();
        assert!(matches!(&e, TicketError::Web(url) if bad.starts_with(url.as_str())), "{e}");
        let said = altered(|c| {
            c.pop();
            c.push(134);
            // A varint of two bytes.
            c.extend((0x4000 | bad.len() as u16).to_be_bytes());
            c.extend(bad.as_bytes());
            c.push(255);
        });
        assert_eq!(error(&said), TicketError::Field { field: "list of base URLs" }, "{bad}");
    }
}
