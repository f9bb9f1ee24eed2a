//! Posts that the host decides about: those to other accounts, and those to the own one if the log is the host's
//! (SPEC.md, "Posts").

use alloc::collections::{BTreeMap, VecDeque};
use core::time::Duration;

use super::accounts::Writer;
use super::config::{ForeignPosts, OwnPosts};
use super::event::{PostError, ServiceEvent};
use super::outbox::Say;
use super::packet::{From, event_of};
use super::refusal::Refusal;
use super::timers::POSTS;
use super::{PublishError, Service};
use crate::channel::{Event, POST_MEMORY, PostId, Recall};
use crate::ids::{AccountId, DeviceId, RequestId, Rights, Serial, ShardId};
use crate::time::Instant;
use crate::wheel::Node;
use crate::wire::{Code, Post};

/// How long the host may take to decide: less than a device goes on asking.
const DECISION: Duration = Duration::from_secs(20);
/// Posts of one account that may wait for a decision.
const MAX_WAITING_OF_ONE: usize = 64;
/// When to try again if too many wait, and if too many are remembered.
const RETRY: Duration = Duration::from_secs(2);
const MEMORY_RETRY: Duration = Duration::from_secs(60);
/// Posts to another account: one in this time for each poster and channel, and so many at once.
const FOREIGN_INTERVAL: Duration = Duration::from_secs(1);
const FOREIGN_BURST: u32 = 10;
/// Pairs of poster and channel whose rate is known. A pair is forgotten when its burst is whole again, after 10 s.
const MAX_RATES: usize = 16_384;
/// Decided posts that are remembered, in all and of one account.
const MAX_DECIDED: usize = 65_536;
const MAX_DECIDED_OF_ONE: usize = 1024;

/// Names a post that waits for the host's decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PostHandle {
    shard: ShardId,
    number: u64,
}

impl PostHandle {
    /// The shard that has to be answered: that of the poster's account.
    pub const fn shard(self) -> ShardId {
        self.shard
    }
}

/// What the host has decided about a post.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PostAnswer {
    /// Publish it: the service gives it the next serial. For channels in memory.
    Publish,
    /// It is in the channel under this serial: the host's log has it and it was [delivered](Service::deliver), or it
    /// was [published](Service::publish) on the channel's own shard.
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
    /// By poster and post id: what was answered.
    decided: BTreeMap<(AccountId, PostId), Decision>,
    decided_at: VecDeque<(Instant, (AccountId, PostId))>,
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

    /// What was decided about a post, if it comes again.
    fn recall(&mut self, now: Instant, key: &(AccountId, PostId)) -> Option<Decision> {
        while let Some((at, key)) = self.decided_at.front()
            && now.since(*at) >= POST_MEMORY
        {
            self.decided.remove(key);
            self.decided_at.pop_front();
        }
        self.decided.get(key).copied()
    }

    /// Takes a post off the list of those that wait, and remembers what was decided.
    fn decide(&mut self, now: Instant, handle: u64, decision: Decision) -> Option<Pending> {
        let pending = self.pending.remove(&handle)?;
        let key = (pending.from, pending.post_id);
        if self.decided.insert(key, decision).is_none() {
            self.decided_at.push_back((now, key));
        }
        Some(pending)
    }

    /// Decided posts of one account that are remembered.
    fn decided_of(&self, account: AccountId) -> usize {
        self.decided.range((account, [0; 16])..=(account, [0xff; 16])).count()
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
            return self.fail(slot, from, post.request, Refusal::NoRightToPost);
        }
        let event = match event_of(post, (!own).then_some(poster)) {
            Ok(event) => event,
            Err(error) => return self.fail(slot, from, post.request, Refusal::Event(error)),
        };
        let decision = if own && self.config.own_posts == OwnPosts::Append {
            Some(self.append_post(now, account, post, event))
        } else {
            self.hand_over(now, slot, (poster, to), post, event)
        };
        match decision {
            Some(Decision::Posted(serial)) => {
                self.answer_to(slot, from, Say::Posted { request: post.request, serial });
            }
            Some(Decision::Refused(refusal)) => self.fail(slot, from, post.request, refusal),
            None => {}
        }
    }

    /// Appends a post to the own channel, if it has not been already.
    fn append_post(&mut self, now: Instant, account: u32, post: &Post<'_>, event: Event) -> Decision {
        match self.accounts.log_mut(account).map(|log| log.recall(now, &post.post_id)) {
            Ok(Recall::Unknown) => {}
            Ok(Recall::Known(serial)) => return Decision::Posted(Some(serial)),
            Ok(Recall::Full { retry_after }) => return Decision::Refused(Refusal::Posts { retry_after }),
            Err(_) => return Decision::Refused(Refusal::Unavailable),
        }
        match self.append(now, account, event, Writer::Service) {
            Ok(serial) => {
                if let Ok(log) = self.accounts.log_mut(account) {
                    log.remember(now, post.post_id, serial);
                }
                Decision::Posted(Some(serial))
            }
            Err(PublishError::Event(error)) => Decision::Refused(Refusal::Event(error)),
            Err(PublishError::Capacity { limit }) => Decision::Refused(Refusal::Channels { limit }),
            Err(_) => Decision::Refused(Refusal::Unavailable),
        }
    }

    /// Gives a post to the host to decide, if it has not been already and there is room. What to answer, if that is known
    /// at once.
    fn hand_over(
        &mut self,
        now: Instant,
        slot: u32,
        (from, to): (AccountId, AccountId),
        post: &Post<'_>,
        event: Event,
    ) -> Option<Decision> {
        let generation = self.table.hot[slot].generation;
        if let Some(pending) = self.posts.again(&from, &post.post_id) {
            // It may have come over another connection this time.
            (pending.slot, pending.generation, pending.request) = (slot, generation, post.request);
            return None;
        }
        let known = self.posts.recall(now, &(from, post.post_id));
        if known.is_some() {
            return known;
        }
        let posts = &mut self.posts;
        let refusal =
            if posts.pending.len() >= self.config.pending_posts || posts.decided.len() >= MAX_DECIDED {
                Some(Refusal::PostsWaiting { retry_after: RETRY })
            } else if posts.pending.values().filter(|p| p.from == from).count() >= MAX_WAITING_OF_ONE {
                Some(Refusal::PostsOfOneWaiting { retry_after: RETRY })
            } else if posts.decided_of(from) >= MAX_DECIDED_OF_ONE {
                Some(Refusal::PostsOfOne { retry_after: MEMORY_RETRY })
            } else if from == to {
                None
            } else {
                posts.take(now, from, to).err().map(|retry_after| Refusal::ForeignPosts { retry_after })
            };
        if let Some(refusal) = refusal {
            return Some(Decision::Refused(refusal));
        }
        let first = self.posts.pending.is_empty();
        self.posts.last += 1;
        let handle = self.posts.last;
        let pending = Pending {
            slot,
            generation,
            request: post.request,
            from,
            device: self.table.owner[slot].device,
            to,
            post_id: post.post_id,
            event,
            ends: now + DECISION,
        };
        if first {
            self.schedule(POSTS, pending.ends, now);
        }
        self.posts.pending.insert(handle, pending);
        self.posts.fresh.push_back(handle);
        None
    }

    /// The next post that the host has not been told of.
    pub(super) fn post_event(&mut self) -> Option<ServiceEvent> {
        loop {
            let handle = self.posts.fresh.pop_front()?;
            // It may have waited for too long.
            let Some(p) = self.posts.pending.get(&handle) else { continue };
            return Some(ServiceEvent::Post {
                handle: PostHandle { shard: self.shard, number: handle },
                account: p.from,
                device: p.device,
                to: p.to,
                post_id: p.post_id,
                event: p.event.clone(),
            });
        }
    }

    /// The channel and the event of a post that waits.
    pub fn waiting_post(&self, handle: PostHandle) -> Option<(AccountId, &Event)> {
        let pending = self.posts.pending.get(&handle.number).filter(|_| handle.shard == self.shard)?;
        Some((pending.to, &pending.event))
    }

    /// Answers [`ServiceEvent::Post`]: what the host has decided. Returns the serial that the event got, if it was taken.
    /// A device that repeats the post later, for at least 10 minutes, gets the same answer.
    ///
    /// # Errors
    /// [`PostError::Gone`] if it waited for more than 20 s, or was answered before. [`PostError::NotDelivered`] if the
    /// serial is none that was delivered, and [`PostError::Publish`] if the event cannot be published: the post then goes
    /// on waiting for an answer, but for [`PublishError::UnknownAccount`], which the poster hears as a refusal. With
    /// [`PublishError::OtherShard`] the event has to be published there, and the post is answered with
    /// [`PostAnswer::Stored`].
    pub fn answer_post(
        &mut self,
        now: Instant,
        handle: PostHandle,
        answer: PostAnswer,
    ) -> Result<Option<Serial>, PostError> {
        let (to, event) = self.waiting_post(handle).ok_or(PostError::Gone)?;
        let serial = match answer {
            PostAnswer::Publish => {
                let event = event.clone();
                match self.publish(now, &to, event) {
                    Err(error @ PublishError::UnknownAccount) => {
                        let (code, retry_after) = (Code::FORBIDDEN, Duration::ZERO);
                        let refusal = Refusal::Host { code, retry_after };
                        self.settle_post(now, handle.number, Decision::Refused(refusal));
                        return Err(error.into());
                    }
                    published => published?,
                }
            }
            PostAnswer::Stored(serial) => match self.own(&to).map(|()| self.head(&to)) {
                Ok(head) => {
                    let newest = head.map_or(Serial::ZERO, |head| head.newest);
                    if serial == Serial::ZERO || serial > newest {
                        return Err(PostError::NotDelivered { serial, newest });
                    }
                    serial
                }
                // What another shard's channel holds the host knows best.
                Err(_) => serial,
            },
            PostAnswer::Refuse { code, retry_after } => {
                let refusal = Refusal::Host { code, retry_after };
                self.settle_post(now, handle.number, Decision::Refused(refusal));
                return Ok(None);
            }
        };
        // The serials of another account's channel are none of the poster's business.
        let own = self.posts.pending.get(&handle.number).is_some_and(Pending::is_own);
        self.settle_post(now, handle.number, Decision::Posted(own.then_some(serial)));
        Ok(Some(serial))
    }

    /// Remembers what was decided, and answers over the connection on which the post came last, if it is still there.
    /// Else the device asks again.
    fn settle_post(&mut self, now: Instant, handle: u64, decision: Decision) {
        let Some(pending) = self.posts.decide(now, handle, decision) else { return };
        let hot = &self.table.hot[pending.slot];
        if hot.is_live() && hot.generation == pending.generation {
            let request = pending.request;
            let say = match decision {
                Decision::Posted(serial) => Say::Posted { request, serial },
                Decision::Refused(refusal) => {
                    self.stats.count_refusal(refusal.reason());
                    Say::Failed { request, refusal }
                }
            };
            self.say(pending.slot, say);
        }
    }

    /// Those that have waited too long are refused: the device may try again.
    pub(super) fn posts_timer(&mut self, now: Instant) {
        while let Some((handle, pending)) = self.posts.pending.first_key_value() {
            let (handle, ends) = (*handle, pending.ends);
            if ends > now {
                return self.schedule(POSTS, ends, now);
            }
            self.stats.posts_expired += 1;
            // A host that does not ask for events must not make the list of what it has not been told of grow. Both are
            // in the order of handles.
            self.posts.fresh.pop_front_if(|fresh| *fresh == handle);
            self.settle_post(now, handle, Decision::Refused(Refusal::Undecided { retry_after: RETRY }));
        }
        self.posts.fresh.clear();
    }
}

/// What is answered to a post.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Decision {
    Posted(Option<Serial>),
    Refused(Refusal),
}

#[cfg(test)]
mod tests {
    use alloc::sync::Arc;
    use std::vec;

    use super::super::ServiceConfig;
    use super::*;
    use crate::crypto::{ServiceSecret, TicketKey};
    use crate::ids::StoreId;
    use crate::random::Seed;
    use crate::time::UnixTime;

    #[test]
    fn a_host_that_never_asks_for_events_costs_bounded_memory() {
        let keys = vec![TicketKey::new(*b"key1", [7; 32])];
        let config = Arc::new(ServiceConfig::new(ServiceSecret::new([9; 32]), keys));
        let mut now = Instant::from_micros(1_000_000);
        let mut service = Service::new(config, ShardId(0), Seed::new([1; 32]), now, UnixTime::EPOCH);
        let slot = service.table.acquire().unwrap();
        for n in 1..200 {
            let pending = Pending {
                slot,
                generation: 0,
                request: RequestId(1),
                from: AccountId([1; 16]),
                device: DeviceId([1; 16]),
                to: AccountId([2; 16]),
                post_id: [n; 16],
                event: Event::changed(StoreId::INBOUND),
                ends: now + DECISION,
            };
            if n == 1 {
                service.schedule(POSTS, pending.ends, now);
            }
            service.posts.pending.insert(n.into(), pending);
            service.posts.fresh.push_back(n.into());
            now = now + Duration::from_secs(10);
            let _ = service.handle_timeout(now, core::num::NonZeroUsize::MAX);
            // There is always one that waits.
            assert!((1..=2).contains(&service.posts.len()));
            assert_eq!(service.posts.fresh.len(), service.posts.len());
        }
        assert!(service.stats.posts_expired > 190);
    }
}
