//! The requests of a device to the Web Service of its service, and what their ends say (SPEC.md, "The Web Service
//! transport: the device"). Everything here is a hint: whoever is on the way can answer a request as he likes, so nothing but an
//! authentic packet in an answer changes what the device is, and no answer delays more than the back-off would.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::time::Duration;

use super::Deadlines;
use super::patience::{LONGEST, Patience, SHORTEST};
use crate::random::Rng;
use crate::time::Instant;
use crate::wakeup::TimerKind;

/// The longest pause between requests that fail, and the longest that an answer can ask for.
const MAX_PAUSE: Duration = Duration::from_secs(60);
/// How long the answer to a request may take beyond its wait.
const OVERTIME: Duration = Duration::from_secs(15);
/// The head start of a base URL over the next one, to make a connection: as many as there are may lead nowhere.
pub(crate) const NEXT_BASE: Duration = Duration::from_millis(500);
/// The longest pause after answers that came too early and brought nothing.
const MAX_IDLE_PAUSE: Duration = Duration::from_secs(25);

/// The name of a request to the Web Service, given by the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WebRequestId(pub u64);

/// A request to make: `POST base/.well-known/mmmpresence`, with `?wait=` in whole seconds if it may wait.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebTransmit {
    /// Its name, for [`Device::handle_web_answer`](super::Device::handle_web_answer).
    pub id: WebRequestId,
    /// The base URL, such as `https://presence.example/base`; without a slash at its end.
    pub base: Arc<str>,
    /// The body: so many bytes of the buffer, at most 1452.
    pub len: usize,
    /// How long the service may hold it, in whole seconds from 1 to 55; none: it is to be answered at once. A host that
    /// gives up by itself gives it 10 s more.
    pub wait: Option<Duration>,
}

/// How a request ended.
#[derive(Debug)]
pub enum WebAnswer<'a> {
    /// Status 200, and this body. It is decrypted in place.
    Packets(&'a mut [u8]),
    /// Another status.
    Refused {
        /// The status.
        status: u16,
        /// What a `Retry-After` says, if it is there and a number of seconds.
        retry_after: Option<Duration>,
    },
    /// Status 200, and a body longer than any that a service sends, which is 16 packets: somebody else's.
    TooLong,
    /// No answer: no connection, cut before the answer was whole, or not in time.
    Failed,
}

/// What a request is to be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Post {
    pub(super) lane: Lane,
    /// How long it may wait.
    pub(super) wait: Option<Duration>,
    /// The bytes of its body.
    pub(super) len: usize,
    /// Whether that is step 1: it goes to one base after the other.
    pub(super) step1: bool,
}

/// Which of the two requests that there may be at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lane {
    /// That of the request that waits.
    Waiting,
    /// That of the one with news.
    News,
}

/// A request without an answer yet.
#[derive(Debug)]
pub(super) struct Outstanding {
    id: WebRequestId,
    base: Arc<str>,
    pub(super) lane: Lane,
    pub(super) sent_at: Instant,
    /// How long it may wait.
    pub(super) wait: Option<Duration>,
    pub(super) step1: bool,
    gives_up: Instant,
}

/// What the end of a request says about the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It works.
    Fine,
    /// Somebody cut a request that waited: the next one is made at once, and waits less.
    Cut,
    /// It does not work now.
    Trouble,
}

/// The requests.
#[derive(Debug, Default)]
pub(super) struct Web {
    waiting: Option<Outstanding>,
    news: Option<Outstanding>,
    next_id: u64,
    bases: Vec<Arc<str>>,
    /// The one in use: that of the last answer or of the last step 1, and the next one if a request to it fails.
    base: usize,
    /// Requests that failed in a row, waits that were cut in a row, and answers in a row that came early with nothing.
    failures: u32,
    cuts: u32,
    idle: u32,
    /// Nothing is asked before this.
    not_before: Instant,
    /// The next request is not to wait before this.
    no_wait_before: Instant,
    patience: Patience,
    /// The host has no Web client on this network.
    pub(super) refused: bool,
}

impl Web {
    /// The bases of the ticket in use, in its order, beginning with number `first`.
    pub(super) fn set_bases<'a>(&mut self, bases: impl Iterator<Item = &'a str>, first: usize) {
        let same = |known: &[Arc<str>], bases: &[&str]| known.iter().map(|b| &**b).eq(bases.iter().copied());
        let mut bases: Vec<_> = bases.collect();
        let len = bases.len().max(1);
        bases.rotate_left(first % len);
        if !same(&self.bases, &bases) {
            self.bases = bases.into_iter().map(Arc::from).collect();
            self.base = 0;
        }
    }

    /// Whether a request may be made in this lane now.
    pub(super) fn is_free(&self, lane: Lane, now: Instant) -> bool {
        let ready = match lane {
            Lane::Waiting => self.waiting.is_none() && self.no_wait_before <= now,
            Lane::News => self.news.is_none(),
        };
        ready && self.is_ready(now)
    }

    /// Whether a request may be made now, if there is a lane for it.
    pub(super) fn is_ready(&self, now: Instant) -> bool {
        self.not_before <= now && !self.refused && !self.bases.is_empty()
    }

    /// The lane for step 1, and from when on it may go there: at once, or beside one that has had no answer for a
    /// while, to another base. `both`: nothing else needs the lane of what waits.
    pub(super) fn turn_of_step1(&self, both: bool) -> Option<(Lane, Instant)> {
        let lane = self.lane_for_news(both)?;
        let last = self.steps().map(|out| out.sent_at + NEXT_BASE).max();
        let is_left = self.bases.iter().any(|base| !self.is_asked(base));
        (is_left && !self.refused).then(|| (lane, last.unwrap_or_default().max(self.not_before)))
    }

    /// The lane for what is answered at once; the other one too if nothing else needs that.
    pub(super) const fn lane_for_news(&self, both: bool) -> Option<Lane> {
        match (&self.news, &self.waiting) {
            (None, _) => Some(Lane::News),
            (_, None) if both => Some(Lane::Waiting),
            _ => None,
        }
    }

    /// What there is without an answer of step 1.
    fn steps(&self) -> impl Iterator<Item = &Outstanding> {
        [&self.waiting, &self.news].into_iter().flatten().filter(|out| out.step1)
    }

    /// Whether step 1 went to this base and has no answer.
    fn is_asked(&self, base: &Arc<str>) -> bool {
        self.steps().any(|out| out.base == *base)
    }

    /// Where a request goes: step 1 to one base after the other.
    fn next_base(&mut self, step1: bool) -> Arc<str> {
        let mut turns = (self.base..self.bases.len()).chain(0..self.base);
        if step1 && let Some(base) = turns.find(|at| !self.is_asked(&self.bases[*at])) {
            self.base = base;
        }
        self.bases.get(self.base).map_or_else(|| Arc::from(""), Arc::clone)
    }

    /// Whether a request in this lane has no answer yet.
    pub(super) const fn is_out(&self, lane: Lane) -> bool {
        match lane {
            Lane::Waiting => self.waiting.is_some(),
            Lane::News => self.news.is_some(),
        }
    }

    /// How long the next request may wait.
    pub(super) fn next_wait(&self, interval: Duration, rng: &mut Rng) -> Duration {
        let wait = rng.fraction(900, 1000, self.patience.wait(interval));
        Duration::from_secs(wait.as_secs().max(1))
    }

    /// Counts a request as made.
    pub(super) fn send(&mut self, now: Instant, post: Post) -> WebTransmit {
        let Post { lane, wait, len, step1 } = post;
        let id = WebRequestId(self.next_id);
        self.next_id = self.next_id.wrapping_add(1);
        let base = self.next_base(step1);
        let gives_up = now + wait.unwrap_or_default() + OVERTIME;
        let outstanding =
            Some(Outstanding { id, base: base.clone(), lane, sent_at: now, wait, step1, gives_up });
        match lane {
            Lane::Waiting => self.waiting = outstanding,
            Lane::News => self.news = outstanding,
        }
        WebTransmit { id, base, len, wait }
    }

    /// Takes the request of this name, if there is one.
    pub(super) fn take(&mut self, id: WebRequestId) -> Option<Outstanding> {
        [&mut self.waiting, &mut self.news].into_iter().find_map(|slot| slot.take_if(|out| out.id == id))
    }

    /// Takes a request that has been without an answer for too long.
    pub(super) fn take_overdue(&mut self, now: Instant) -> Option<Outstanding> {
        let slots = [&mut self.waiting, &mut self.news];
        slots.into_iter().find_map(|slot| slot.take_if(|out| out.gives_up <= now))
    }

    /// Whatever is out is of no use any more.
    pub(super) fn hang_up(&mut self) {
        (self.waiting, self.news) = (None, None);
    }

    /// The device is on another network: nothing is known of the way, and nothing comes back from the old one.
    pub(super) fn forget(&mut self) {
        let (next_id, bases) = (self.next_id, core::mem::take(&mut self.bases));
        *self = Self { next_id, bases, ..Self::default() };
    }

    /// An answer with something authentic in it. `useful`: more than an answer to the request itself.
    pub(super) fn answered(
        &mut self,
        now: Instant,
        out: &Outstanding,
        useful: bool,
        rng: &mut Rng,
    ) -> Verdict {
        (self.failures, self.cuts) = (0, 0);
        self.not_before = now;
        self.base = self.bases.iter().position(|base| *base == out.base).unwrap_or(self.base);
        let Some(wait) = out.wait else { return Verdict::Fine };
        let waited = now.since(out.sent_at) * 4 >= wait * 3;
        if waited {
            self.patience.held();
        }
        // A service that holds nothing, or whose news this device cannot take now, must not make it spin.
        if waited || useful {
            self.idle = 0;
        } else {
            self.idle = self.idle.saturating_add(1);
            let cap = Duration::from_secs(1 << self.idle.min(5)).min(MAX_IDLE_PAUSE);
            self.no_wait_before = now + rng.duration(cap / 2, cap);
        }
        Verdict::Fine
    }

    /// The application can take something now: the next request may wait at once.
    pub(super) fn resume(&mut self, now: Instant) {
        self.no_wait_before = now;
    }

    /// A request ended without anything authentic: by a status, by nothing, or by a body that holds nothing.
    pub(super) fn failed(
        &mut self,
        now: Instant,
        out: &Outstanding,
        retry_after: Option<Duration>,
        rng: &mut Rng,
    ) -> Verdict {
        let after = now.since(out.sent_at);
        // What has waited may have been cut for its waiting, once; if the next one ends like that too, it is not that.
        if out.wait.is_some() && after >= SHORTEST && self.cuts == 0 && retry_after.is_none() {
            self.cuts = 1;
            self.patience.cut(after.min(LONGEST));
            return Verdict::Cut;
        }
        self.failures = self.failures.saturating_add(1);
        // Not twice for two requests to the same one.
        if self.bases.get(self.base) == Some(&out.base) {
            self.base = (self.base + 1) % self.bases.len();
        }
        // All bases are tried before there is a pause.
        let rounds = self.failures / (self.bases.len().max(1) as u32);
        if rounds > 0 || retry_after.is_some() {
            let cap = Duration::from_secs(1 << rounds.saturating_sub(1).min(6)).min(MAX_PAUSE);
            let wait = rng.duration(cap / 2, cap).max(retry_after.unwrap_or_default().min(MAX_PAUSE));
            self.not_before = now + wait;
        }
        Verdict::Trouble
    }

    /// How many requests have failed in a row.
    pub(super) const fn failures(&self) -> u32 {
        self.failures
    }

    /// When the next request in a lane may be made, if it is not out.
    pub(super) fn free_at(&self, lane: Lane) -> Option<Instant> {
        match lane {
            _ if self.refused || self.is_out(lane) => None,
            Lane::Waiting => Some(self.not_before.max(self.no_wait_before)),
            Lane::News => Some(self.not_before),
        }
    }

    /// Names the deadlines of the requests themselves.
    pub(super) fn deadlines(&self, next: &mut Deadlines) {
        for out in [&self.waiting, &self.news].into_iter().flatten() {
            next.act(out.gives_up, TimerKind::Web);
        }
    }
}
