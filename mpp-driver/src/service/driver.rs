//! The task behind a shard of a service.

use std::array;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::task::Context;

use mpp_proto::{Datagram, Disposition, Instant, LinkId, Path, Progress, ShardId, UnixTime};

use super::mail::Letter;
use super::state::Shared;
use crate::clock::Calendar;
use crate::drive::{Drive, Next};
use crate::socket::{Inbox, Link, Outbox, UdpSocket};
use crate::stats::count;
use crate::wake::Alarm;

/// Batches taken from one socket before the others and the sending have their turn.
const BATCHES: usize = 8;
/// Packets handed to the state machine at once.
const BATCH: usize = quinn_udp::BATCH_SIZE;
/// Timers that may fire before the sockets have their turn.
const TIMERS: usize = 1024;
/// What moves a shard's packets. It ends when the service is closed and has told its devices.
///
/// Each shard has sockets of its own, on the same addresses and ports as the others', so that they receive side by side
/// and an answer leaves from the port that its device knows. The system chooses the socket by the sender's address, which
/// has nothing to do with the account, so most packets arrive at another shard than their own and are handed over.
pub(super) struct Driver {
    shared: Arc<Shared>,
    id: ShardId,
    calendar: Calendar,
    alarm: Alarm,
    links: Vec<Link>,
    inbox: Inbox,
    outbox: Outbox,
    dispositions: Vec<Disposition>,
    /// By shard: what has to be handed over of the batch that is being taken in.
    letters: Vec<Letter>,
}

impl Driver {
    pub(super) fn new(
        shared: Arc<Shared>,
        id: ShardId,
        sockets: Vec<UdpSocket>,
        now: Instant,
        unix: UnixTime,
    ) -> Self {
        Self {
            alarm: Alarm::new(shared.clock.clone()),
            shared,
            id,
            letters: Vec::new(),
            calendar: Calendar::new(now, unix),
            links: (0..).map(LinkId).zip(sockets).map(|(id, socket)| Link::new(id, socket)).collect(),
            inbox: Inbox::service(),
            outbox: Outbox::new(),
            dispositions: Vec::with_capacity(BATCH),
        }
    }

    /// Takes in what came; returns whether there may be more.
    fn receive(&mut self, cx: &mut Context<'_>) -> bool {
        let Self { shared, id, links, inbox, dispositions, letters, .. } = self;
        let mut more = false;
        for link in links {
            more |= link.receive(cx, &shared.clock, inbox, BATCHES, |link, inbox| {
                let packets = inbox.packets().map(|packet| Datagram {
                    path: Path { link, remote: packet.remote, local: packet.local },
                    payload: packet.payload,
                });
                take_in(shared, *id, packets, dispositions, letters);
                send_letters(shared, letters);
            });
        }
        more
    }

    /// Takes in what arrived at other shards; returns whether there was anything.
    fn read_letters(&mut self) -> bool {
        let Self { shared, id, dispositions, letters, .. } = self;
        let mut more = false;
        for _ in 0..BATCHES {
            let Some(mut letter) = shared.shard(*id).with(|s, _| s.mail.take()) else { break };
            // What they lead to, the next round tells those who listen.
            more = true;
            take_in(shared, *id, letter.packets(), dispositions, letters);
            // All shards have the same settings, so nothing is ever handed over twice.
            letters.clear();
        }
        more
    }

    /// Timeouts; returns whether some are left.
    fn advance(&mut self, cx: &Context<'_>) -> bool {
        let Self { shared, id, calendar, .. } = self;
        let now = shared.clock.now();
        let civil = calendar.check(now);
        shared.shard(*id).with(|s, wakes| {
            wakes.driver_runs(cx);
            if let Some(civil) = civil {
                s.core.set_clock(now, civil);
            }
            let due = s.core.poll_timeout().is_some_and(|w| w.at <= now);
            let budget = NonZeroUsize::new(TIMERS).unwrap_or(NonZeroUsize::MIN);
            let more = due && s.core.handle_timeout(now, budget) == Progress::More;
            shared.settle_events(s, wakes);
            more
        })
    }

    /// Sends one batch; returns whether there may be more to send now. While packets wait for room in a socket,
    /// nothing new is made.
    fn transmit(&mut self, cx: &mut Context<'_>) -> bool {
        let Self { shared, id, links, outbox, .. } = self;
        if outbox.is_empty() {
            let now = shared.clock.now();
            if !shared.shard(*id).with(|s, _| outbox.fill(|batch| s.core.poll_transmit(now, batch))) {
                return false;
            }
        }
        outbox.poll_send(cx, links).is_ready()
    }

    /// Answers requests to the Web Service for which there is something; returns whether there may be more.
    fn answer_web(&self) -> bool {
        #[cfg(feature = "web")]
        {
            let now = self.shared.clock.now();
            self.shared.shard(self.id).with(|s, wakes| s.settle_web(now, wakes))
        }
        #[cfg(not(feature = "web"))]
        false
    }

    /// When to look again if nothing happens.
    fn next(&self) -> Next {
        let now = self.shared.clock.now();
        let rest = Link::rested(&self.links);
        self.shared.shard(self.id).with(|s, _| {
            let said = s.core.is_drained() && self.outbox.is_empty();
            Next::of(now, s.give_up, said, [s.core.poll_timeout().map(|w| w.at), rest])
        })
    }
}

/// Gives packets to the shard that the driver drives, and sorts those out that are another's.
fn take_in<'a>(
    shared: &Shared,
    id: ShardId,
    mut packets: impl Iterator<Item = Datagram<'a>>,
    dispositions: &mut Vec<Disposition>,
    letters: &mut Vec<Letter>,
) {
    let now = shared.clock.now();
    let nowhere = Path::new(LinkId(0), ([0, 0, 0, 0], 0).into());
    loop {
        let mut n = 0;
        let mut batch: [Datagram<'_>; BATCH] = array::from_fn(|_| {
            packets.next().inspect(|_| n += 1).unwrap_or(Datagram { path: nowhere, payload: &mut [] })
        });
        let Some(batch) = batch.get_mut(..n).filter(|batch| !batch.is_empty()) else { return };
        // What was dropped, the state machine has counted.
        shared.shard(id).with(|s, _| s.core.handle_datagrams(now, batch, dispositions));
        for (datagram, disposition) in batch.iter().zip(&*dispositions) {
            if let Disposition::OtherShard(shard) = disposition {
                let shard = usize::from(shard.0);
                if letters.len() <= shard {
                    letters.resize_with(shard + 1, Letter::default);
                }
                letters[shard].add(datagram);
            }
        }
    }
}

/// Hands over what belongs to other shards: one letter to each.
fn send_letters(shared: &Shared, letters: &mut Vec<Letter>) {
    for (n, letter) in letters.drain(..).enumerate().filter(|(_, letter)| letter.len() > 0) {
        let packets = letter.len();
        let taken = shared.shard(ShardId(n as u8)).with(|s, wakes| {
            wakes.driver();
            // One that has ended reads nothing any more.
            !s.ended && s.mail.put(letter)
        });
        let counters = &shared.counters;
        count(if taken { &counters.handed_over } else { &counters.hand_over_drops }, packets);
    }
}

impl Drive for Driver {
    fn round(&mut self, cx: &mut Context<'_>) -> Next {
        let mut more = self.receive(cx);
        // Before it looks for what others left: who wakes it from now on is heard.
        more |= self.advance(cx);
        more |= self.read_letters();
        more |= self.transmit(cx);
        more |= self.answer_web();
        self.next().unless(more)
    }

    fn alarm(&mut self) -> &mut Alarm {
        &mut self.alarm
    }
}

impl Drop for Driver {
    /// Also if the runtime ends: nobody must wait for ever.
    fn drop(&mut self) {
        // The port is free before anybody hears that the service has ended.
        self.links.clear();
        self.shared.shard(self.id).with(|s, wakes| s.end(wakes));
    }
}
