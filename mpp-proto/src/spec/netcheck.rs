//! A netcheck by Web, held to SPEC.md: who answers, and what counts. No packet gets through by UDP here.

use std::string::{String, ToString};
use std::vec;
use std::vec::Vec;

use core::time::Duration;

use super::stranger::{World, mint, mint_by, unix};
use crate::crypto::TicketKey;
use crate::device::{LinkState, WebAnswer, WebTransmit};
use crate::netcheck::{
    Answers, InUse, Netcheck, NetcheckEvent, NetcheckReport, TicketCheck, Udp, Verdict, WebSeen,
};
use crate::random::Seed;
use crate::service::AccountPolicy;
use crate::time::Instant;
use crate::wire::{AnswerKind, Code, Step1, Ticket, emit_answer, put_web_packet};

const HTML: &[u8] = b"<!DOCTYPE html><html><body>Please log in to use this network.</body></html>";

/// A netcheck and the machine it runs on.
struct Machine {
    now: Instant,
    begin: Instant,
    check: Netcheck,
    /// What was sent by UDP.
    sent: Vec<Vec<u8>>,
}

/// What is done with a request.
type Network<'a> = &'a mut dyn FnMut(&mut Netcheck, Instant, &WebTransmit, &[u8]);

impl Machine {
    fn new(ticket: Ticket, has_web: bool) -> Self {
        let now = Instant::from_micros(5_000_000);
        let mut check = Netcheck::new(ticket, Seed::new([2; 32]), now, unix(now));
        if has_web {
            check.ask_web(now);
        }
        Self { now, begin: now, check, sent: Vec::new() }
    }

    /// Until the check is complete.
    fn run(&mut self, network: Network<'_>) -> NetcheckReport {
        let mut out = [0; 1452];
        loop {
            while let Some(event) = self.check.poll_event() {
                if let NetcheckEvent::OpenLink { link, to } = event {
                    self.check.handle_link(self.now, link, LinkState::Open { local: to });
                }
            }
            while let Some(transmit) = self.check.poll_transmit(self.now, &mut out) {
                self.sent.push(out[..transmit.len].to_vec());
            }
            while let Some(transmit) = self.check.poll_web(self.now, &mut out) {
                assert_eq!(transmit.wait, None);
                network(&mut self.check, self.now, &transmit, &out[..transmit.len]);
            }
            if self.check.is_complete() {
                assert_eq!(self.check.poll_timeout(), None, "nothing is left to do");
                return self.check.report();
            }
            let next = self.check.poll_timeout().expect("something to wait for").at;
            assert!(next > self.now && next.since(self.begin) <= Duration::from_secs(5), "{next:?}");
            self.now = next;
            self.check.handle_timeout(self.now);
        }
    }
}

/// What the service answers, if anything.
fn body_of(world: &mut World, now: Instant, packet: &[u8]) -> Option<Vec<u8>> {
    world.now = now;
    let _ = world.post(1, None, packet);
    let (_, packets) = world.answers().pop()?;
    let mut body = Vec::new();
    packets.iter().for_each(|packet| put_web_packet(&mut body, packet));
    Some(body)
}

/// The host's part of the service: what is not authentic gets a status.
fn served(world: &mut World, check: &mut Netcheck, now: Instant, made: &WebTransmit, packet: &[u8]) {
    match body_of(world, now, packet) {
        Some(mut body) => check.handle_web_answer(now, made.id, WebAnswer::Packets(&mut body)),
        None => {
            check.handle_web_answer(now, made.id, WebAnswer::Refused { status: 400, retry_after: None });
        }
    }
}

fn seen(report: &NetcheckReport) -> Vec<WebSeen> {
    report.web_destinations.iter().map(|d| d.seen).collect()
}

/// A ticket that names these base URLs.
fn ticket_with(bases: &[&str]) -> Ticket {
    mint(|_| ()).with_web(bases.iter().map(|base| String::from(*base)).collect()).unwrap()
}

// SPEC: R-check-web
#[test]
fn where_udp_is_blocked_the_service_proves_itself_by_web() {
    let mut world = World::new();
    let mut machine = Machine::new(mint(|_| ()), true);
    let report = machine.run(&mut |check, now, made, packet| {
        assert!(Step1::parse(packet).unwrap().web && made.len == 1200);
        served(&mut world, check, now, made, packet);
    });
    assert_eq!((report.udp(), report.web), (Udp::Blocked, Answers::Yes));
    assert_eq!((report.ticket, report.in_use), (TicketCheck::Accepted, InUse::No));
    let [destination] = &report.web_destinations[..] else { panic!("{report:?}") };
    assert_eq!((&*destination.base, destination.seen), ("http://192.0.2.1:15097", WebSeen::Service));
    assert_eq!(report.verdict(), Verdict::Blocked { web: Answers::Yes });
    assert!(report.verdict().to_string().ends_with("notifications come by Web"));
    assert!(machine.sent.iter().all(|packet| !Step1::parse(packet).is_ok_and(|step1| step1.web)));
    // Nothing is confirmed: the service forgets it.
    assert_eq!(world.service.stats().connected, 0);
}

/// A refusal proves as much as an answer does, and says what is wrong.
#[test]
fn a_refusal_by_web_is_the_services_word_too() {
    let mut world = World::with(|config| config.account_policy = AccountPolicy::Restored);
    let mut machine = Machine::new(mint(|_| ()), true);
    let report = machine.run(&mut |check, now, made, packet| served(&mut world, check, now, made, packet));
    assert_eq!(
        (report.udp(), report.web, seen(&report)),
        (Udp::Blocked, Answers::Yes, vec![WebSeen::Service])
    );
    assert_eq!(report.ticket, TicketCheck::Refused(Code::UNKNOWN_ACCOUNT));
    assert_eq!(report.verdict(), Verdict::TicketRefused(Code::UNKNOWN_ACCOUNT));
}

/// Everything that somebody on the way can say: a portal, a proxy, and whoever knows the layouts but not the keys.
// SPEC: R-check-web
#[test]
fn who_has_not_proved_to_be_the_service_does_not_count() {
    type Say = fn(&mut World, Instant, &[u8]) -> Vec<u8>;
    fn clear(packet: &[u8], kind: &AnswerKind) -> Vec<u8> {
        let (mut answer, mut body) = (Vec::new(), Vec::new());
        emit_answer(&mut answer, &Step1::parse(packet).unwrap().handshake, kind);
        put_web_packet(&mut body, &answer);
        body
    }
    let what: [(&str, Say); 7] = [
        ("a page", |_, _, _| HTML.to_vec()),
        ("nothing", |_, _, _| Vec::new()),
        ("an error in clear", |_, _, packet| {
            clear(packet, &AnswerKind::ClearError { code: Code::UNAUTHORIZED, retry_after: Duration::ZERO })
        }),
        ("a Defer", |_, _, packet| clear(packet, &AnswerKind::Defer { challenge: [1; 16] })),
        ("what it was asked", |_, _, packet| {
            let mut body = Vec::new();
            put_web_packet(&mut body, packet);
            body
        }),
        ("a forged answer", |world, now, packet| {
            let mut body = body_of(world, now, packet).unwrap();
            *body.last_mut().unwrap() ^= 1;
            body
        }),
        ("the answer to another", |world, now, _| {
            let mut other = Netcheck::new(mint(|_| ()), Seed::new([3; 32]), now, unix(now));
            other.ask_web(now);
            let mut packet = [0; 1452];
            let made = other.poll_web(now, &mut packet).unwrap();
            body_of(world, now, &packet[..made.len]).unwrap()
        }),
    ];
    for (name, say) in what {
        let mut world = World::new();
        let mut machine = Machine::new(mint(|_| ()), true);
        let report = machine.run(&mut |check, now, made, packet| {
            let mut body = say(&mut world, now, packet);
            check.handle_web_answer(now, made.id, WebAnswer::Packets(&mut body));
        });
        assert_eq!((report.web, seen(&report)), (Answers::No, vec![WebSeen::Stranger]), "{name}");
        assert_eq!((report.ticket, report.in_use), (TicketCheck::Unknown, InUse::Unknown), "{name}");
        assert_eq!(report.verdict(), Verdict::Blocked { web: Answers::No }, "{name}");
        assert!(report.verdict().to_string().contains("neither UDP nor the Web"), "{name}");
    }
}

/// A service that has other keys answers nothing that proves anything.
#[test]
fn another_service_is_not_the_service() {
    let mut world = World::new();
    let elsewhere = mint_by(&TicketKey::new(*b"key2", [8; 32]), |_| ());
    let report =
        Machine::new(elsewhere, true).run(&mut |check, now, made, p| served(&mut world, check, now, made, p));
    assert_eq!((report.web, seen(&report)), (Answers::No, vec![WebSeen::Status(400)]));
    assert_eq!(report.ticket, TicketCheck::Unknown);
}

#[test]
fn what_was_seen_instead_is_said() {
    for (answer, seen_there) in [
        (WebAnswer::Refused { status: 302, retry_after: None }, WebSeen::Status(302)),
        (
            WebAnswer::Refused { status: 503, retry_after: Some(Duration::from_secs(60)) },
            WebSeen::Status(503),
        ),
        (WebAnswer::TooLong, WebSeen::Stranger),
        (WebAnswer::Failed, WebSeen::Nobody),
    ] {
        let mut answer = Some(answer);
        let report = Machine::new(mint(|_| ()), true).run(&mut |check, now, made, _| {
            check.handle_web_answer(now, made.id, answer.take().expect("it is asked once"));
        });
        assert_eq!((report.web, seen(&report)), (Answers::No, vec![seen_there]));
    }
}

/// Each base URL is asked once, the next when the one before has failed or half a second later, and all are given up
/// after five seconds.
// SPEC: R-check-web-bounded
#[test]
fn each_base_url_is_asked_once_and_none_for_longer_than_five_seconds() {
    let endpoints = |n: u8| (1..=n).map(move |i| std::format!("192.0.2.{i}:15096").parse().unwrap());
    let mut asked = Vec::new();
    let mut machine = Machine::new(mint(|spec| spec.endpoints = endpoints(8).collect()), true);
    let begin = machine.now;
    let report =
        machine.run(&mut |_, now, made, packet| asked.push((now, made.base.clone(), packet.to_vec())));
    assert_eq!((report.web, seen(&report)), (Answers::No, vec![WebSeen::Nobody; 8]));
    assert_eq!(machine.now.since(begin), Duration::from_secs(5));
    for (n, (at, base, packet)) in asked.iter().enumerate() {
        assert_eq!(at.since(begin), Duration::from_millis(500) * n as u32);
        assert_eq!(&**base, std::format!("http://192.0.2.{}:15097", n + 1));
        assert_eq!(*packet, asked[0].2, "byte for byte");
    }
    // Too late.
    let before = machine.check.report();
    let mut world = World::new();
    let mut body = body_of(&mut world, machine.now, &asked[0].2).unwrap();
    let id = crate::device::WebRequestId(0);
    machine.check.handle_web_answer(machine.now, id, WebAnswer::Packets(&mut body));
    assert_eq!(machine.check.report(), before);
}

/// Whoever answers first ends it, and after a failure the next one has its turn at once.
#[test]
fn the_first_to_answer_ends_it() {
    let ticket = || ticket_with(&["https://a.example/x", "http://b.example"]);
    for (first, left) in [(WebAnswer::Failed, WebSeen::Nobody), (WebAnswer::TooLong, WebSeen::Stranger)] {
        let (mut world, mut first) = (World::new(), Some(first));
        let mut machine = Machine::new(ticket(), true);
        let begin = machine.now;
        let mut asked = Vec::new();
        let report = machine.run(&mut |check, now, made, packet| {
            asked.push((made.base.to_string(), now));
            match first.take() {
                Some(answer) => check.handle_web_answer(now, made.id, answer),
                None => served(&mut world, check, now, made, packet),
            }
        });
        assert_eq!((report.web, seen(&report)), (Answers::Yes, vec![left, WebSeen::Service]));
        assert_eq!(asked, [("https://a.example/x".into(), begin), ("http://b.example".into(), begin)]);
    }
    let mut world = World::new();
    let report = Machine::new(ticket(), true)
        .run(&mut |check, now, made, packet| served(&mut world, check, now, made, packet));
    assert_eq!((report.web, seen(&report)), (Answers::Yes, vec![WebSeen::Service]), "nobody else is asked");
}

/// Who has not asked knows nothing, and who is asking nothing yet.
// SPEC: R-check-web
#[test]
fn what_was_not_asked_is_unknown() {
    let report = Machine::new(mint(|_| ()), false).run(&mut |_, _, made, _| panic!("{made:?}"));
    assert_eq!((report.web, report.web_destinations.len()), (Answers::Unknown, 0));
    assert_eq!(report.verdict(), Verdict::Blocked { web: Answers::Unknown });
    assert!(report.verdict().to_string().contains("whether the Web does is not known"));
    let machine = Machine::new(mint(|_| ()), true);
    let first = machine.check.report();
    assert_eq!((first.web, first.complete), (Answers::Unknown, false));
    let mut asked = Machine::new(mint(|_| ()), true);
    asked.check.poll_web(asked.now, &mut [0; 1452]).unwrap();
    assert_eq!(
        (asked.check.report().web, seen(&asked.check.report())),
        (Answers::Unknown, vec![WebSeen::Unknown])
    );
}

/// The verdict of every combination that the Web can make a difference to.
#[test]
fn a_machine_without_udp_has_a_way_by_web() {
    let report = |udp, web| {
        let mut report = NetcheckReport { web, ticket: TicketCheck::Accepted, ..NetcheckReport::default() };
        (report.v4.udp, report.v6.udp) = (udp, Udp::NoService);
        report.verdict()
    };
    use Answers::{No, Unknown, Yes};
    for (udp, web, verdict) in [
        (Udp::NoRoute, Yes, Verdict::Blocked { web: Yes }),
        (Udp::NoRoute, No, Verdict::NoRoute),
        (Udp::NoService, Yes, Verdict::Blocked { web: Yes }),
        (Udp::NoService, Unknown, Verdict::Unknown),
        (Udp::Unknown, Yes, Verdict::Unknown),
        (Udp::OnlySmall, Yes, Verdict::OnlySmall { web: Yes }),
        (Udp::OnlySmall, No, Verdict::OnlySmall { web: No }),
        (Udp::Works, No, Verdict::Works { translation: crate::netcheck::Translation::Unknown }),
    ] {
        assert_eq!(report(udp, web), verdict, "{udp:?} {web:?}");
    }
    let words = |udp, web| report(udp, web).to_string();
    assert!(words(Udp::OnlySmall, Yes).ends_with("the Web does: notifications come by Web"));
    assert!(words(Udp::OnlySmall, No).ends_with("nor does the Web: no notifications come"));
    assert!(words(Udp::OnlySmall, Unknown).ends_with("whether the Web does is not known"));
}
