//! A device whose network lets no UDP through, and a service that it reaches by Web.

use std::time::Duration;

use bytes::Bytes;
use mpp_proto::*;

use super::harness::{ACCOUNT, Pair};

/// What a request takes, and what its answer does.
const LATENCY: Duration = Duration::from_millis(30);

/// Requests and answers on their way, as a host with an HTTP client and one with an HTTP server see them.
#[derive(Default)]
pub(crate) struct Http {
    requests: Vec<(Instant, WebTransmit, Vec<u8>)>,
    answers: Vec<(Instant, WebRequestId, Option<Vec<u8>>)>,
    open: Vec<(WebId, WebRequestId, Instant)>,
    next: u64,
    /// Every request that was made, and when.
    pub(crate) log: Vec<(Instant, WebTransmit, Vec<u8>)>,
    /// Of so many answers one is cut; 0: none.
    pub(crate) cut: u64,
    /// A proxy gives up what is silent for so long.
    pub(crate) impatience: Option<Duration>,
}

impl Http {
    pub(crate) fn next(&self) -> Option<Instant> {
        let patience = self.impatience.iter().flat_map(|p| self.open.iter().map(|(.., at)| *at + *p));
        let requests = self.requests.iter().map(|(at, ..)| *at);
        requests.chain(self.answers.iter().map(|(at, ..)| *at)).chain(patience).min()
    }

    pub(crate) fn arrive(&mut self, now: Instant, device: &mut Device, service: &mut Service) {
        let (due, later) = core::mem::take(&mut self.requests).into_iter().partition(|(at, ..)| *at <= now);
        self.requests = later;
        for (_, made, mut packet) in due {
            self.next += 1;
            let id = WebId(self.next);
            // Another port each time, as HTTP clients have it.
            let remote = ([203, 0, 113, 9], 10_000 + self.next as u16).into();
            let request = WebRequest { id, remote, wait: made.wait, packet: &mut packet };
            match service.handle_web_request(now, request) {
                Disposition::Accepted => self.open.push((id, made.id, now)),
                other => panic!("{other:?}"),
            }
        }
        if let Some(patience) = self.impatience {
            let (gone, open) =
                core::mem::take(&mut self.open).into_iter().partition(|(.., at)| *at + patience <= now);
            self.open = open;
            for (id, made, _) in gone {
                service.handle_web_closed(now, id);
                self.answers.push((now + LATENCY, made, None));
            }
        }
        let (due, later) = core::mem::take(&mut self.answers).into_iter().partition(|(at, ..)| *at <= now);
        self.answers = later;
        for (_, id, body) in due {
            match body {
                Some(mut body) => device.handle_web_answer(now, id, WebAnswer::Packets(&mut body)),
                None => device.handle_web_answer(now, id, WebAnswer::Failed),
            }
        }
    }

    /// Whether there was anything.
    pub(crate) fn drain(&mut self, now: Instant, device: &mut Device, service: &mut Service) -> bool {
        let (mut packet, mut body, mut any) = ([0; 1452], Vec::new(), false);
        while let Some(made) = device.poll_web(now, &mut packet) {
            any = true;
            let packet = packet[..made.len].to_vec();
            self.log.push((now, made.clone(), packet.clone()));
            self.requests.push((now + LATENCY, made, packet));
        }
        while let Some(id) = service.poll_web(now, &mut body) {
            any = true;
            let at = self.open.iter().position(|(open, ..)| *open == id).expect("an answer to a request");
            let (_, made, _) = self.open.remove(at);
            let cut = self.cut > 0 && id.0 % self.cut == 0;
            self.answers.push((now + LATENCY, made, (!cut).then(|| body.clone())));
        }
        any
    }
}

fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

/// A pair without UDP.
pub(crate) fn by_web(change: impl FnOnce(&mut Http)) -> Pair {
    let mut pair = Pair::new();
    let mut http = Http::default();
    change(&mut http);
    (pair.cut, pair.http) = (true, Some(http));
    pair
}

fn post(pair: &mut Pair, text: &'static str) {
    pair.publish(Event::with_payload(StoreId::INBOUND, Bytes::from_static(text.as_bytes())));
}

/// The payloads that the application was given.
fn texts(pair: &mut Pair) -> Vec<String> {
    let text = |n: Notification| match n.kind {
        NotificationKind::Event { payload, .. } => String::from_utf8(payload.to_vec()).unwrap(),
        other => panic!("{other:?}"),
    };
    pair.take().into_iter().map(text).collect()
}

fn books(pair: &Pair) {
    assert_eq!(pair.service.stats().delivery.outstanding(), pair.service.pending());
}

#[test]
fn a_device_without_udp_hears_of_events_at_once_and_its_heartbeats_are_what_waits() {
    let mut pair = by_web(|_| ());
    pair.run(secs(5));
    assert_eq!(pair.device.state(), ConnectionState::Connected);
    assert_eq!(pair.device.transport(), Transport::Web);
    assert_eq!(pair.service.stats().web_held, 1);
    let status = pair.service.devices(pair.now, &AccountId::of(ACCOUNT)).next().unwrap();
    assert!(status.path.is_web());
    for text in ["one", "two", "three"] {
        post(&mut pair, text);
        // One way, for the request waits.
        pair.run(LATENCY + Duration::from_millis(5));
        assert_eq!(texts(&mut pair), [text]);
        pair.run(secs(1));
    }
    books(&pair);
    assert_eq!(pair.service.pending(), 0);
    // An hour of nothing: no more than a request for each wait, and no timer of the service but theirs.
    let before = (pair.http.as_ref().unwrap().log.len(), pair.service.stats());
    pair.run(secs(3600));
    let made = pair.http.as_ref().unwrap().log[before.0..].iter().filter(|(_, made, _)| made.wait.is_some());
    let count = made.count() as u64;
    assert!((3600 / 55..=3600 / 40).contains(&count), "{count} in an hour");
    let after = pair.service.stats();
    assert_eq!(after.retransmitted, before.1.retransmitted);
    assert_eq!((after.connects, after.connected), (1, 1));
}

#[test]
fn what_is_cut_on_its_way_is_not_lost_and_not_doubled() {
    let mut pair = by_web(|http| (http.cut, http.impatience) = (3, Some(secs(30))));
    pair.run(secs(20));
    let all = ["a", "b", "c", "d", "e", "f", "g", "h"];
    let mut got = Vec::new();
    for text in all {
        post(&mut pair, text);
        pair.run(secs(45));
        got.extend(texts(&mut pair));
    }
    pair.run(secs(120));
    got.extend(texts(&mut pair));
    assert_eq!(got, all);
    assert!(pair.service.stats().retransmitted > 0, "something was lost");
    books(&pair);
    assert_eq!(pair.service.pending(), 0);
}

#[test]
fn a_slow_application_does_not_make_them_spin() {
    let mut pair = by_web(|_| ());
    pair.run(secs(5));
    pair.busy = true;
    for _ in 0..80 {
        post(&mut pair, "x");
        pair.run(Duration::from_millis(500));
    }
    let before = pair.http.as_ref().unwrap().log.len();
    pair.run(secs(600));
    let made = pair.http.as_ref().unwrap().log.len() - before;
    assert!(made < 60, "{made} requests in ten minutes");
    books(&pair);
    pair.busy = false;
    pair.run(secs(120));
    assert_eq!(pair.take().len(), 80);
    books(&pair);
}

#[test]
fn when_udp_comes_back_it_is_used_and_nothing_is_held_any_more() {
    let mut pair = by_web(|_| ());
    pair.run(secs(5));
    post(&mut pair, "by web");
    pair.run(secs(1));
    pair.cut = false;
    pair.run(secs(75));
    assert_eq!(pair.device.transport(), Transport::Udp);
    post(&mut pair, "by udp");
    pair.run(secs(1));
    assert_eq!(texts(&mut pair), ["by web", "by udp"]);
    assert_eq!(pair.service.stats().web_held, 0);
    books(&pair);
}

#[test]
fn a_closing_service_tells_those_who_wait() {
    let mut pair = by_web(|_| ());
    pair.run(secs(5));
    pair.service.close(pair.now, secs(10));
    pair.run(Duration::from_millis(100));
    assert!(pair.service.is_drained());
    assert_ne!(pair.device.state(), ConnectionState::Connected);
    assert_eq!(pair.service.stats().web_held, 0);
}

/// Whoever carries packets from one transport to the other gains nothing: each packet of a device, by either.
#[test]
fn copies_across_transports_do_nothing() {
    let mut udp = Pair::new();
    udp.run(secs(60));
    post(&mut udp, "x");
    udp.run(secs(60));
    let before = udp.service.stats();
    let sent = udp.sent();
    assert!(sent.len() > 4);
    for (n, packet) in (0..).zip(&sent) {
        let mut copy = packet.clone();
        let remote = "203.0.113.9:7".parse().unwrap();
        let request = WebRequest { id: WebId(n), remote, wait: Some(secs(50)), packet: &mut copy };
        let other = Disposition::Dropped(DropReason::OtherTransport);
        assert_eq!(udp.service.handle_web_request(udp.now, request), other);
        assert_eq!(copy, *packet, "a refused packet was changed");
    }
    assert_eq!(udp.service.poll_web(udp.now, &mut Vec::new()), None);
    let after = udp.service.stats();
    assert_eq!((after.half_open, after.web_held, after.packets_sent), (0, 0, before.packets_sent));
    assert_eq!(after.dropped_for(DropReason::OtherTransport), sent.len() as u64);

    let mut web = by_web(|_| ());
    web.run(secs(60));
    post(&mut web, "x");
    web.run(secs(60));
    let before = web.service.stats();
    let made: Vec<_> = web.http.as_ref().unwrap().log.iter().map(|(.., packet)| packet.clone()).collect();
    assert!(made.len() > 4);
    for packet in &made {
        let (disposition, answers) = web.inject(web.address, packet);
        assert_eq!(disposition, Disposition::Dropped(DropReason::OtherTransport));
        assert!(answers.is_empty());
    }
    let after = web.service.stats();
    assert_eq!((after.half_open, after.web_held, after.duplicates), (0, before.web_held, before.duplicates));
    assert!(web.service.devices(web.now, &AccountId::of(ACCOUNT)).all(|device| device.path.is_web()));
}

/// A copy of everything that went by Web, by Web: answered at once, with nothing, and never held.
#[test]
fn copies_by_web_are_answered_with_nothing() {
    let mut pair = by_web(|_| ());
    pair.run(secs(60));
    post(&mut pair, "x");
    let made: Vec<_> = pair.http.as_ref().unwrap().log.iter().map(|(.., packet)| packet.clone()).collect();
    // The answer that brings it is lost.
    let mut body = Vec::new();
    assert!(pair.service.poll_web(pair.now, &mut body).is_some() && !body.is_empty());
    pair.run(secs(2));
    for (n, packet) in (1_000_000..).zip(&made).skip(1) {
        let remote = "203.0.113.9:7".parse().unwrap();
        let mut copy = packet.clone();
        let request = WebRequest { id: WebId(n), remote, wait: Some(secs(50)), packet: &mut copy };
        assert_eq!(pair.service.handle_web_request(pair.now, request), Disposition::Accepted);
        assert_eq!(pair.service.poll_web(pair.now, &mut body), Some(WebId(n)));
        assert!(body.is_empty(), "a copy is told something");
    }
    assert_eq!(pair.service.stats().web_held, 0);
    pair.run(secs(90));
    assert_eq!(texts(&mut pair), ["x"]);
}

/// Each shard hands over what is not its own; a router knows at once.
#[test]
fn requests_find_their_shard() {
    let mut pair = by_web(|_| ());
    pair.run(secs(30));
    let mut config = ServiceConfig::clone(&pair.config);
    config.shards = 4;
    let router = Router::new(&config);
    let home = router.shard_of(&AccountId::of(ACCOUNT));
    let first = pair.http.as_ref().unwrap().log[0].2.clone();
    assert_eq!(router.route(&first), Route::Shard(home));
    let ask = |shard: u8| {
        let (seed, clock) = (Seed::new([7; 32]), super::harness::unix(pair.now));
        let mut service = Service::new(config.clone().into(), ShardId(shard), seed, pair.now, clock);
        let mut packet = first.clone();
        let remote = "203.0.113.9:7".parse().unwrap();
        let request = WebRequest { id: WebId(1), remote, wait: None, packet: &mut packet };
        let disposition = service.handle_web_request(pair.now, request);
        let answered = service.poll_web(pair.now, &mut Vec::new()).is_some();
        let stats = service.stats();
        assert_eq!((stats.packets_received, stats.other_shard), (u64::from(answered), u64::from(!answered)));
        (disposition, answered)
    };
    for shard in 0..4 {
        let expected = if ShardId(shard) == home {
            (Disposition::Accepted, true)
        } else {
            (Disposition::OtherShard(home), false)
        };
        assert_eq!(ask(shard), expected);
    }
}
