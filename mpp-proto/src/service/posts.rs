//! Posts that the host decides about: those to other accounts, and those to the own one if the log is the host's
//! (SPEC.md, "Posts").

use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use core::time::Duration;

use super::Service;
use super::accounts::Writer;
use super::config::{ForeignPosts, OwnPosts};
use super::event::{PostError, ServiceEvent};
use super::outbox::Say;
use super::packet::{From, event_of};
use crate::channel::{Event, POST_MEMORY, PostId, Recall};
use crate::ids::{AccountId, DeviceId, RequestId, Rights, Serial};
use crate::time::Instant;
use crate::wheel::Node;
use crate::wire::{Code, Post};

/// How long the host may take to decide: less than a device goes on asking.
const DECISION: Duration = Duration::from_secs(20);
/// Posts of one account that may wait for a decision.
const MAX_WAITING_OF_ONE: usize = 64;
/// When to try again if too many wait.
const RETRY: Duration = Duration::from_secs(2);
/// Posts to another account: one in this time for each poster and channel, and so many at once.
const FOREIGN_INTERVAL: Duration = Duration::from_secs(1);
const FOREIGN_BURST: u32 = 10;
/// Pairs of poster and channel whose rate is known. A pair is forgotten when its burst is whole again, after 10 s.
const MAX_RATES: usize = 16_384;
/// Accepted posts to other accounts that are remembered.
const MAX_ACCEPTED: usize = 65_536;

/// Names a post that waits for the host's decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PostHandle(u64);

/// What the host has decided about a post.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PostAnswer {
    /// Publish it: the service gives it the next serial. For channels in memory.
    Publish,
    /// The host's log has it under this serial, and it was [delivered](Service::deliver).
    Stored(Serial),
    /// It is not taken.
    Refuse {
        /// Why.
        code: Code,
        /// When it makes sense to try again; zero: not said.
        retry_after: Duration,
    },
}

/// A post that waits.
#[derive(Debug)]
struct Pending {
    /// Whom to answer: the connection over which it came last.
    slot: u32,
    generation: u16,
    request: RequestId,
    from: AccountId,
    device: DeviceId,
    to: AccountId,
    post_id: PostId,
    event: Event,
    ends: Instant,
}

impl Pending {
    fn is_own(&self) -> bool {
        self.from == self.to
    }
}

/// The posts that wait, and what is known of those that do not any more.
#[derive(Debug, Default)]
pub(super) struct Posts {
    pub(super) timer: Node,
    last: u64,
    /// By handle, so the one that has waited longest is the first.
    pending: BTreeMap<u64, Pending>,
    /// Those that the host has not been told of.
    fresh: VecDeque<u64>,
    /// Posts to other accounts that were accepted, with the time.
    accepted: BTreeSet<(AccountId, PostId)>,
    accepted_at: VecDeque<(Instant, (AccountId, PostId))>,
    /// For a poster and a channel: when its burst is whole again.
    rates: BTreeMap<(AccountId, AccountId), Instant>,
    /// When `rates` was last swept.
    swept: Instant,
}

impl Posts {
    /// Posts that wait.
    pub(super) fn len(&self) -> usize {
        self.pending.len()
    }

    /// The same post, if it waits already.
    fn again(&mut self, from: &AccountId, id: &PostId) -> Option<&mut Pending> {
        self.pending.values_mut().find(|p| p.from == *from && p.post_id == *id)
    }

    fn is_accepted(&mut self, now: Instant, key: &(AccountId, PostId)) -> bool {
        while let Some((at, key)) = self.accepted_at.front()
            && now.since(*at) >= POST_MEMORY
        {
            self.accepted.remove(key);
            self.accepted_at.pop_front();
        }
        self.accepted.contains(key)
    }

    fn accept(&mut self, now: Instant, key: (AccountId, PostId)) {
        if self.accepted.insert(key) {
            self.accepted_at.push_back((now, key));
        }
    }

    /// Counts a post of `from` to another account's channel; if it is one too many, says when there is room again.
    fn take(&mut self, now: Instant, from: AccountId, to: AccountId) -> Result<(), Duration> {
        let key = (from, to);
        if self.rates.len() >= MAX_RATES && !self.rates.contains_key(&key) {
            if now.since(self.swept) >= FOREIGN_INTERVAL {
                self.swept = now;
                self.rates.retain(|_, whole| *whole > now);
            }
            if self.rates.len() >= MAX_RATES {
                return Err(FOREIGN_INTERVAL);
            }
        }
        let whole = self.rates.get(&key).copied().unwrap_or(now).max(now) + FOREIGN_INTERVAL;
        let over = whole.since(now).saturating_sub(FOREIGN_INTERVAL * FOREIGN_BURST);
        if !over.is_zero() {
            return Err(over);
        }
        self.rates.insert(key, whole);
        Ok(())
    }
}

impl Service {
    pub(super) fn handle_post(&mut self, now: Instant, slot: u32, from: &From, post: &Post<'_>) {
        let owner = &self.table.owner[slot];
        let account = owner.account;
        let rights = Rights(u64::from(owner.rights));
        let poster = self.accounts.get(account).id;
        let to = post.account.map_or(poster, AccountId::of);
        let own = to == poster;
        // Whether there is such an account does not matter to what is answered, nor to how long that takes.
        let right = if own { Rights::POST_OWN } else { Rights::POST_OTHERS };
        if !rights.contains(right) || !own && self.config.foreign_posts == ForeignPosts::Refuse {
            return self.fail(slot, from, post.request, Failed::new(Code::FORBIDDEN));
        }
        let Some(event) = event_of(post, (!own).then_some(poster)) else {
            return self.fail(slot, from, post.request, Failed::new(Code::BAD_REQUEST));
        };
        if let Err(answer) = self.is_news(now, account, &poster, own, post) {
            return match answer {
                Known::Posted(serial) => {
                    self.answer_to(slot, from, Say::Posted { request: post.request, serial });
                }
                Known::Waiting => {
                    let generation = self.table.hot[slot].generation;
                    if let Some(pending) = self.posts.again(&poster, &post.post_id) {
                        (pending.slot, pending.generation) = (slot, generation);
                        pending.request = post.request;
                    }
                }
                Known::Failed(failed) => self.fail(slot, from, post.request, failed),
            };
        }
        if own && self.config.own_posts == OwnPosts::Append {
            return match self.append(now, account, event, Writer::Service) {
                Ok(serial) => {
                    self.remember_own(now, account, post.post_id, serial);
                    let posted = Say::Posted { request: post.request, serial: Some(serial) };
                    self.answer_to(slot, from, posted);
                }
                Err(_) => self.fail(slot, from, post.request, Failed::new(Code::UNAVAILABLE)),
            };
        }
        match self.hand_over(now, slot, poster, to, post, event) {
            Ok(()) => {}
            Err(failed) => self.fail(slot, from, post.request, failed),
        }
    }

    /// Whether a post has not been seen before; if it has, or there is no room to remember it, what to answer.
    fn is_news(
        &mut self,
        now: Instant,
        account: u32,
        poster: &AccountId,
        own: bool,
        post: &Post<'_>,
    ) -> Result<(), Known> {
        if self.posts.again(poster, &post.post_id).is_some() {
            return Err(Known::Waiting);
        }
        if !own {
            let accepted = self.posts.is_accepted(now, &(*poster, post.post_id));
            return if accepted { Err(Known::Posted(None)) } else { Ok(()) };
        }
        match self.accounts.log_mut(account).map(|log| log.recall(now, &post.post_id)) {
            Ok(Recall::Unknown) => Ok(()),
            Ok(Recall::Known(serial)) => Err(Known::Posted(Some(serial))),
            Ok(Recall::Full { retry_after }) => Err(Known::Failed(Failed {
                code: Code::TOO_MANY_REQUESTS,
                retry_after,
                detail: "256 posts to a channel in 10 minutes",
            })),
            Err(_) => Err(Known::Failed(Failed::new(Code::UNAVAILABLE))),
        }
    }

    /// Gives a post to the host to decide.
    fn hand_over(
        &mut self,
        now: Instant,
        slot: u32,
        from: AccountId,
        to: AccountId,
        post: &Post<'_>,
        event: Event,
    ) -> Result<(), Failed> {
        if self.posts.pending.len() >= self.config.pending_posts
            || from != to && self.posts.accepted_at.len() >= MAX_ACCEPTED
        {
            let detail = "posts that wait for a decision";
            return Err(Failed { code: Code::UNAVAILABLE, retry_after: RETRY, detail });
        }
        let of_one = self.posts.pending.values().filter(|p| p.from == from).count();
        if of_one >= MAX_WAITING_OF_ONE {
            let detail = "64 posts of an account that wait for a decision";
            return Err(Failed { code: Code::TOO_MANY_REQUESTS, retry_after: RETRY, detail });
        }
        if from != to {
            self.posts.take(now, from, to).map_err(|retry_after| Failed {
                code: Code::TOO_MANY_REQUESTS,
                retry_after,
                detail: "posts to another account: 1 a second, 10 at once",
            })?;
        }
        let first = self.posts.pending.is_empty();
        self.posts.last += 1;
        let handle = self.posts.last;
        let pending = Pending {
            slot,
            generation: self.table.hot[slot].generation,
            request: post.request,
            from,
            device: self.table.owner[slot].device,
            to,
            post_id: post.post_id,
            event,
            ends: now + DECISION,
        };
        if first {
            self.schedule_posts(pending.ends, now);
        }
        self.posts.pending.insert(handle, pending);
        self.posts.fresh.push_back(handle);
        Ok(())
    }

    /// The next post that the host has not been told of.
    pub(super) fn post_event(&mut self) -> Option<ServiceEvent> {
        loop {
            let handle = self.posts.fresh.pop_front()?;
            // It may have waited for too long.
            let Some(p) = self.posts.pending.get(&handle) else { continue };
            return Some(ServiceEvent::Post {
                handle: PostHandle(handle),
                account: p.from,
                device: p.device,
                to: p.to,
                post_id: p.post_id,
                event: p.event.clone(),
            });
        }
    }

    /// Answers [`ServiceEvent::Post`]: what the host has decided. Returns the serial that the event got, if it was taken.
    /// A device that repeats the post later, for at least 10 minutes, gets the same answer; after a refusal it may try
    /// again.
    ///
    /// # Errors
    /// [`PostError::Gone`] if it waited for more than 20 s, or was answered before. [`PostError::NotDelivered`] if the
    /// serial is none that was delivered, and [`PostError::Publish`] if the event cannot be published: the post then goes
    /// on waiting for an answer, but for [`PublishError::UnknownAccount`](super::PublishError::UnknownAccount), which the
    /// poster hears as a refusal.
    pub fn answer_post(
        &mut self,
        now: Instant,
        handle: PostHandle,
        answer: PostAnswer,
    ) -> Result<Option<Serial>, PostError> {
        let pending = self.posts.pending.get(&handle.0).ok_or(PostError::Gone)?;
        let (to, own) = (pending.to, pending.is_own());
        if let PostAnswer::Refuse { code, retry_after } = answer {
            self.refuse_post(handle.0, Failed { code, retry_after, detail: "" });
            return Ok(None);
        }
        let Some(account) = self.accounts.find(&to) else {
            self.refuse_post(handle.0, Failed::new(Code::FORBIDDEN));
            return Err(PostError::Publish(super::PublishError::UnknownAccount));
        };
        let newest = self.accounts.log(account).newest();
        let serial = match answer {
            PostAnswer::Stored(serial) if serial <= newest && serial > Serial::ZERO => serial,
            PostAnswer::Stored(serial) => return Err(PostError::NotDelivered { serial, newest }),
            _ if self.closed => return Err(PostError::Publish(super::PublishError::Closed)),
            _ => {
                let event = pending.event.clone();
                self.append(now, account, event, Writer::Service).map_err(PostError::Publish)?
            }
        };
        let Some(pending) = self.posts.pending.remove(&handle.0) else { return Err(PostError::Gone) };
        if own {
            self.remember_own(now, account, pending.post_id, serial);
        } else {
            self.posts.accept(now, (pending.from, pending.post_id));
        }
        let serial = Some(serial);
        self.answer_pending(&pending, |request| Say::Posted { request, serial: serial.filter(|_| own) });
        Ok(serial)
    }

    fn remember_own(&mut self, now: Instant, account: u32, id: PostId, serial: Serial) {
        if let Ok(log) = self.accounts.log_mut(account) {
            log.remember(now, id, serial);
        }
    }

    fn refuse_post(&mut self, handle: u64, failed: Failed) {
        if let Some(pending) = self.posts.pending.remove(&handle) {
            self.answer_pending(&pending, |request| failed.say(request));
        }
    }

    /// Answers over the connection on which the post came last, if it is still there. Else the device asks again.
    fn answer_pending(&mut self, pending: &Pending, say: impl FnOnce(RequestId) -> Say) {
        let hot = &self.table.hot[pending.slot];
        if hot.is_live() && hot.generation == pending.generation {
            self.say(pending.slot, say(pending.request));
        }
    }

    /// Those that have waited too long are refused: the device may try again.
    pub(super) fn posts_timer(&mut self, now: Instant) {
        while let Some((handle, pending)) = self.posts.pending.first_key_value() {
            let (handle, ends) = (*handle, pending.ends);
            if ends > now {
                return self.schedule_posts(ends, now);
            }
            self.stats.posts_expired += 1;
            let detail = "no decision in 20 s";
            self.refuse_post(handle, Failed { code: Code::UNAVAILABLE, retry_after: RETRY, detail });
        }
        self.posts.fresh.clear();
    }
}

/// What is known of a post already.
enum Known {
    Posted(Option<Serial>),
    Waiting,
    Failed(Failed),
}

/// Why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Failed {
    pub(super) code: Code,
    pub(super) retry_after: Duration,
    /// For people: which limit it was.
    pub(super) detail: &'static str,
}

impl Failed {
    pub(super) const fn new(code: Code) -> Self {
        Self { code, retry_after: Duration::ZERO, detail: "" }
    }

    pub(super) const fn say(self, request: RequestId) -> Say {
        let Self { code, retry_after, detail } = self;
        Say::Failed { request, code, retry_after, detail }
    }
}
