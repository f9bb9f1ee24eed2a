//! The Web between the device and the service of a fuzzer's world, and a device that is told anything by it.

use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec::Vec;
use core::time::Duration;

use super::Input;
use super::machines::Secrets;
use super::world::{LATENCY, World, device_address};
use crate::device::{ConnectionState, Transport, WebAnswer, WebRequestId, WebTransmit};
use crate::path::{Disposition, DropReason, LinkId};
use crate::service::{WebId, WebRequest};
use crate::time::Instant;
use crate::wire::{Direction, MAX_PACKET, MAX_PACKETS, put_web_packet};

/// How long a host waits for an answer beyond what the request may wait.
const PATIENCE: Duration = Duration::from_secs(14);

/// What becomes of the device's requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Mode {
    /// Its host has no Web client.
    #[default]
    None,
    /// They go to the service.
    Up,
    /// They fail.
    Down,
    /// They wait for the fuzzer to answer.
    Kept,
}

enum End {
    Packets(Vec<u8>),
    Refused(u16),
    Failed,
}

/// Requests of the device without an answer yet.
#[derive(Default)]
pub(super) struct Web {
    pub(super) mode: Mode,
    pub(super) link: Option<LinkId>,
    asked: VecDeque<(Instant, WebRequestId, Option<Duration>, Vec<u8>)>,
    held: BTreeMap<WebId, WebRequestId>,
    ends: VecDeque<(Instant, WebRequestId, End)>,
    next: u64,
    /// The first request and the first packet of an answer.
    pub(super) firsts: [Option<Vec<u8>>; 2],
}

impl Web {
    /// When something arrives.
    pub(super) fn next_arrival(&self) -> Option<Instant> {
        let asked = self.asked.iter().filter(|_| self.mode != Mode::Kept).map(|(at, ..)| *at);
        asked.chain(self.ends.iter().map(|(at, ..)| *at)).min()
    }

    /// A host gives up by itself what nobody answers.
    fn give_up(&mut self, now: Instant) {
        self.asked.retain(|(at, _, wait, _)| now < *at + wait.unwrap_or_default() + PATIENCE);
    }

    /// The device has made a request.
    pub(super) fn ask(&mut self, now: Instant, transmit: &WebTransmit, body: &[u8]) {
        assert_eq!(&*transmit.base, "http://192.0.2.1:15097");
        assert!(body.len() <= MAX_PACKET && transmit.wait.is_none_or(|w| (1..=55).contains(&w.as_secs())));
        self.firsts[0].get_or_insert_with(|| body.to_vec());
        self.give_up(now);
        self.asked.push_back((now + LATENCY, transmit.id, transmit.wait, body.to_vec()));
        let out = self.asked.len() + self.held.len() + self.ends.len();
        assert!(out <= 2, "{out} requests without an answer");
    }
}

impl World {
    /// On a network without UDP, connected by Web; from now on the fuzzer answers.
    fn connected_by_web() -> Self {
        let mut world = Self::new();
        world.udp_off = true;
        world.web.mode = Mode::Up;
        world.run(Duration::from_secs(5));
        assert_eq!(
            (world.device.state(), world.device.transport()),
            (ConnectionState::Connected, Transport::Web)
        );
        world
    }

    /// The device has closed its Web client.
    pub(super) fn hang_up(&mut self) {
        let Web { mode, next, firsts, held, .. } = core::mem::take(&mut self.web);
        held.into_keys().for_each(|id| self.service.handle_web_closed(self.now, id));
        self.web = Web { mode, next, firsts, ..Web::default() };
    }

    /// The service has lost what it held, with all else.
    pub(super) fn forget_held(&mut self) {
        let held = core::mem::take(&mut self.web.held);
        let at = self.now + LATENCY;
        self.web.ends.extend(held.into_values().map(|id| (at, id, End::Failed)));
    }

    /// Takes the answers of the service.
    pub(super) fn drain_web(&mut self) {
        let mut body = Vec::new();
        while let Some(id) = self.service.poll_web(self.now, &mut body) {
            let Some(id) = self.web.held.remove(&id) else { continue };
            if let Some(packet) = body.get(2..) {
                self.web.firsts[1].get_or_insert_with(|| packet.to_vec());
            }
            self.web.ends.push_back((self.now + LATENCY, id, End::Packets(body.clone())));
        }
    }

    /// What has arrived by Web.
    pub(super) fn arrive_by_web(&mut self) {
        while let Some(at) = self.web.ends.iter().position(|(at, ..)| *at <= self.now) {
            let Some((_, id, end)) = self.web.ends.remove(at) else { return };
            match end {
                End::Packets(mut body) => {
                    self.device.handle_web_answer(self.now, id, WebAnswer::Packets(&mut body));
                }
                End::Refused(status) => {
                    let refused = WebAnswer::Refused { status, retry_after: None };
                    self.device.handle_web_answer(self.now, id, refused);
                }
                End::Failed => self.device.handle_web_answer(self.now, id, WebAnswer::Failed),
            }
            self.drain();
        }
        self.web.give_up(self.now);
        while self.web.mode != Mode::Kept
            && self.web.asked.front().is_some_and(|(at, ..)| *at <= self.now)
            && let Some((_, asked, wait, mut packet)) = self.web.asked.pop_front()
        {
            let loss = self.weather.loss;
            if self.web.mode != Mode::Up || self.chance(loss) {
                self.web.ends.push_back((self.now + LATENCY, asked, End::Failed));
                continue;
            }
            self.web.next += 1;
            let id = WebId(self.web.next);
            let request = WebRequest { id, remote: device_address(), wait, packet: &mut packet };
            match self.service.handle_web_request(self.now, request) {
                Disposition::Accepted => {
                    self.web.held.insert(id, asked);
                    self.drain_web();
                }
                refused => {
                    let busy = [DropReason::Capacity, DropReason::RateLimited, DropReason::Closed];
                    let busy = busy.into_iter().any(|why| refused == Disposition::Dropped(why));
                    let end = End::Refused(if busy { 503 } else { 400 });
                    self.web.ends.push_back((self.now + LATENCY, asked, end));
                }
            }
        }
    }

    /// Ends the oldest request, or one that was never made.
    fn end_request(&mut self, answer: WebAnswer<'_>) {
        let id = self.web.asked.pop_front().map_or(WebRequestId(u64::MAX), |(_, id, ..)| id);
        self.device.handle_web_answer(self.now, id, answer);
        self.drain();
    }
}

/// A Web Service that answers anything, with and without the keys of the connection: the device does not panic, spin or
/// ask for more than it should, and when the service is itself again, it connects.
pub fn authentic_web(data: &[u8]) {
    let mut input = Input(data);
    let mut world = World::connected_by_web();
    let secrets = Secrets::of(&world, &world.web.firsts);
    world.web.mode = Mode::Kept;
    for turn in 0..MAX_PACKET {
        if input.is_empty() {
            break;
        }
        match input.u8() % 8 {
            0 => world.run(Duration::from_millis(100) * u32::from(input.u8())),
            1 => {
                let mut body = input.bytes().to_vec();
                world.end_request(WebAnswer::Packets(&mut body));
            }
            2 => {
                let (status, seconds) = (input.u16(), u64::from(input.u16()));
                let retry_after = Some(Duration::from_secs(seconds << 16)).filter(|_| seconds > 0);
                world.end_request(WebAnswer::Refused { status, retry_after });
            }
            3 => world.end_request(WebAnswer::Failed),
            packets => {
                let mut body = Vec::new();
                // Sometimes more than there may be.
                let count = if packets == 4 { usize::from(input.u8()) % (MAX_PACKETS + 2) } else { 1 };
                for _ in 0..count {
                    let number = 16 + turn as u64;
                    put_web_packet(
                        &mut body,
                        &secrets.packet(&mut input, Direction::ToInitiator, true, number),
                    );
                }
                world.end_request(WebAnswer::Packets(&mut body));
            }
        }
    }
    // The service is itself again, and so is the network. A Close that the bytes held may have ended the device.
    world.web.mode = Mode::Up;
    world.udp_off = false;
    let before = world.device.stats().web_requests;
    world.run(Duration::from_secs(3600));
    let asked = world.device.stats().web_requests - before;
    assert!(asked < 600, "{asked} requests in an hour");
}
