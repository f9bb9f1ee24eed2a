//! A device whose ticket names several base URLs, of which some lead nowhere, held to SPEC.md.

use std::format;
use std::string::String;
use std::vec::Vec;

use core::time::Duration;

use super::fallback::secs;
use super::host::{Asked, Host};
use super::stranger::mint;
use crate::channel::Event;
use crate::device::{ConnectionState, DeviceEvent, LinkKind, Transport};
use crate::ids::StoreId;

const SOON: Duration = Duration::from_millis(500);

impl Host {
    /// A device with a Web client, whose service has so many addresses and a base on each.
    fn with_bases(bases: usize) -> Self {
        let endpoint = |n| format!("192.0.2.{n}:15096").parse().unwrap();
        let ticket = mint(|spec| spec.endpoints = (1..=bases).map(endpoint).collect());
        let mut host = Self::with_ticket(ticket);
        host.has_web = true;
        host
    }

    /// What it posts in this time.
    fn posts_in(&mut self, time: Duration) -> Vec<Asked> {
        self.run(time);
        core::mem::take(&mut self.posts)
    }

    /// What confirms the connection that this answer begins, and the request that waits after it.
    fn connect_with(&mut self, step1: &Asked) -> (Asked, Asked) {
        let answer = self.answer_to(&step1.packet);
        self.web_answer(step1, &[answer]);
        let beat = self.post_within(secs(0));
        let status = self.status_by_web(&beat);
        self.web_answer(&beat, &[status]);
        assert_eq!(self.device.state(), ConnectionState::Connected);
        (beat, self.post_within(secs(0)))
    }
}

fn name(base: usize) -> String {
    format!("http://192.0.2.{base}:15097")
}

fn bases(posts: &[Asked]) -> Vec<&str> {
    posts.iter().map(|post| &*post.base).collect()
}

// SPEC: R-web-next-base
#[test]
fn a_base_that_is_silent_delays_a_connection_by_half_a_second() {
    let mut host = Host::with_bases(3);
    let start = host.now;
    let posts = host.posts_in(secs(10));
    assert_eq!(bases(&posts), [name(1), name(2)], "two at a time");
    assert_eq!(posts.iter().map(|p| p.at.since(start)).collect::<Vec<_>>(), [secs(3), secs(3) + SOON]);
    assert_eq!(posts[0].packet, posts[1].packet, "byte for byte");
    assert!(posts.iter().all(|post| post.wait.is_none()));
    let ends: Vec<_> = host.posts_in(secs(1));
    assert!(ends.is_empty(), "{ends:?}");

    let mut host = Host::with_bases(3);
    let posts = host.posts_in(secs(3) + SOON);
    let (beat, waiting) = host.connect_with(&posts[1]);
    assert_eq!((&*beat.base, beat.wait), (&*posts[1].base, None));
    assert_eq!(beat.at, posts[1].at, "it does not wait for the one that is silent");
    assert_eq!(waiting.base, posts[1].base);
    assert!(waiting.wait.is_some());
    // The silent one is given up, so that nothing waits behind it, and whatever comes of it says nothing.
    let closed = |e: &&DeviceEvent| matches!(e, DeviceEvent::CloseLink(_));
    assert_eq!(host.events.iter().filter(closed).count(), 1);
    host.web_refused(&posts[0], 503, Some(secs(60)));
    assert_eq!((host.device.stats().web_failures, host.device.transport()), (0, Transport::Web));
    assert!(host.posts_in(secs(40)).is_empty());
}

/// The first one is slow, and answers after all.
#[test]
fn the_first_answer_counts_whichever_base_it_comes_from() {
    let mut host = Host::with_bases(2);
    let posts = host.posts_in(secs(4));
    assert_eq!(posts.len(), 2);
    let late = host.answer_to(&posts[1].packet);
    let answer = host.answer_to(&posts[0].packet);
    host.web_answer(&posts[0], &[answer]);
    // What the other one says comes too late to mean anything, also to the way.
    host.web_answer(&posts[1], &[late]);
    host.web_refused(&posts[1], 404, Some(secs(60)));
    assert_eq!(host.device.stats().web_failures, 0);
    let beat = host.post_within(secs(0));
    assert_eq!(beat.base, posts[0].base);
    let status = host.status_by_web(&beat);
    host.web_answer(&beat, &[status]);
    assert_eq!(
        (host.device.state(), &*host.post_within(secs(0)).base),
        (ConnectionState::Connected, &*name(1))
    );
}

/// One that fails makes room for the next one, which is not one that is asked already.
#[test]
fn whichever_ends_gives_its_place_to_the_next_base() {
    let mut host = Host::with_bases(4);
    let posts = host.posts_in(secs(4));
    assert_eq!(bases(&posts), [name(1), name(2)]);
    host.web_failed(&posts[1]);
    let third = host.post_within(secs(0));
    host.web_failed(&posts[0]);
    let fourth = host.post_within(SOON);
    assert_eq!(fourth.at.since(third.at), SOON, "the third one was asked just now");
    assert_eq!([&*third.base, &*fourth.base], [&*name(3), &*name(4)]);
    let (_, waiting) = host.connect_with(&third);
    assert_eq!(waiting.base, third.base);
}

/// Beside a connection by UDP that is silent it is the same; beside one over the Web its requests have their places.
#[test]
fn beside_a_connection_over_the_web_one_base_is_asked_at_a_time() {
    let mut host = Host::with_bases(2);
    let step1 = host.next().1;
    let _ = host.answer(&step1);
    let beat = host.take().remove(0);
    host.status(&beat);
    let posts = [host.post_within(secs(30)), host.post_within(secs(1))];
    assert_eq!(bases(&posts), [name(1), name(2)], "its heartbeat has no answer");
    assert_eq!(posts[1].at.since(posts[0].at), SOON);
    let (_, waiting) = host.connect_with(&posts[1]);
    assert_eq!(waiting.base, posts[1].base);
    // Another connection is tried for beside it, as the Web seems blocked.
    host.web_refused(&waiting, 404, None);
    let posts = host.posts_in(secs(5));
    let steps = posts.iter().filter(|post| post.packet.starts_with(&[0; 16])).count();
    assert_eq!((posts.len(), steps), (2, 1), "{:?}", bases(&posts));
    let waiting = posts.iter().find(|post| post.wait.is_some()).expect("the connection goes on asking");
    host.web_refused(waiting, 404, None);
    let posts = host.posts_in(secs(2));
    assert!(posts.iter().all(|post| post.wait.is_some()) && posts.len() == 1, "{:?}", bases(&posts));
    let web = |e: &&DeviceEvent| matches!(e, DeviceEvent::OpenLink { kind: LinkKind::Web, .. });
    assert_eq!(host.events.iter().filter(web).count(), 2);
}

#[test]
fn two_requests_that_fail_at_one_base_count_once_against_it() {
    let mut host = Host::with_bases(2);
    let posts = host.posts_in(secs(4));
    let (_, waiting) = host.connect_with(&posts[1]);
    host.device.post(host.now, &Event::changed(StoreId::INBOUND)).unwrap();
    let news = host.post_within(secs(0));
    assert_eq!(bases(&[waiting.clone(), news.clone()]), [name(2), name(2)]);
    host.web_failed(&news);
    host.web_failed(&waiting);
    assert_eq!(host.post_within(secs(1)).base, name(1));
}
