//! One datagram of 1 to 16 packets on its way to the other side: what was sent, what arrived, what has to be sent
//! again (SPEC.md, "Retransmission" and "Congestion").

use core::time::Duration;

use super::rtt::Rtt;
use crate::time::Instant;

/// Packets in a datagram at most.
pub(crate) const MAX_PACKETS: usize = 16;
/// How often one packet is sent at most: the header's transmission field ends at 7.
const MAX_TRANSMISSIONS: u8 = 8;
/// Packets in flight at first.
const INITIAL_WINDOW: u8 = 10;
/// Packets in flight at least.
const MIN_WINDOW: u8 = 2;
/// Packets in a burst.
const BURST: u8 = 4;
/// The pause after a burst.
const PAUSE: Duration = Duration::from_millis(1);
/// Losses of one packet that are no chance any more.
const STUCK: u8 = 3;
/// Packets sent later that have to arrive before a packet counts as lost.
const REORDERING: u32 = 3;
/// Timeouts in a row without a sign of life after which the sender falls silent,
pub(crate) const MAX_TIMEOUTS: u8 = 5;
/// if this much time has passed too: on a fast path five timeouts are over within a second, which says nothing about
/// whether anybody is there. With the timeouts of an idle path (1, 2, 4, 8, 16 s) both come together.
const MAX_SILENCE: Duration = Duration::from_secs(31);

/// The congestion window of a connection, in packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Window(pub(crate) u8);

impl Default for Window {
    fn default() -> Self {
        Self(INITIAL_WINDOW)
    }
}

impl Window {
    fn grow(&mut self, packets: u32) {
        let packets = u8::try_from(packets).unwrap_or(u8::MAX);
        self.0 = self.0.saturating_add(packets).min(MAX_PACKETS as u8);
    }

    fn shrink(&mut self) {
        self.0 = (self.0 / 2).max(MIN_WINDOW);
    }
}

/// What an acknowledgement or a timeout led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Nothing new.
    Nothing,
    /// Go on sending.
    Progress,
    /// Everything arrived.
    Complete,
    /// A packet was sent as often as it may be: start over under a new number.
    Exhausted,
    /// Nothing came back for too long: be silent until the other side is heard again.
    GivenUp,
}

/// The sender's side of one datagram.
#[derive(Clone, Debug, Default)]
pub(crate) struct Flight {
    number: u64,
    count: u8,
    /// Packets the other side has kept.
    acknowledged: u16,
    /// Packets to be sent, for the first time or again.
    pending: u16,
    /// The next transmission of each packet.
    transmissions: [u8; MAX_PACKETS],
    /// In which order the packets were last sent.
    order: [u16; MAX_PACKETS],
    next_order: u16,
    sent_at: [Instant; MAX_PACKETS],
    /// Timeouts since the last progress, and when that was.
    timeouts: u8,
    progress_at: Instant,
    /// Whether the window was halved for this datagram.
    halved: bool,
    pace: Pace,
}

/// How fast packets follow each other.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Pace {
    last_sent: Instant,
    /// Packets sent since the last pause.
    burst: u8,
    paused_until: Instant,
}

impl Flight {
    /// A datagram of `count` packets under `number`.
    pub(crate) fn new(number: u64, count: u8) -> Self {
        let pending = if count >= 16 { u16::MAX } else { bit(count).wrapping_sub(1) };
        Self { number, count, pending, ..Self::default() }
    }

    /// Its datagram number.
    pub(crate) const fn number(&self) -> u64 {
        self.number
    }

    /// Its packets.
    pub(crate) const fn count(&self) -> u8 {
        self.count
    }

    /// Whether any packet was sent yet.
    pub(crate) const fn is_started(&self) -> bool {
        self.next_order != 0
    }

    /// Whether the other side has kept some of it.
    pub(crate) const fn has_arrived_in_part(&self) -> bool {
        self.acknowledged != 0
    }

    /// Whether packets `large` do not get through: none of them has arrived, and one was lost so often that it is no
    /// chance.
    pub(crate) fn is_stuck(&self, large: u16) -> bool {
        let often = (0u8..).zip(&self.transmissions).any(|(i, sent)| {
            let under_way = u8::from(self.pending & bit(i) == 0);
            large & bit(i) != 0 && sent.saturating_sub(under_way) >= STUCK
        });
        often && large & self.acknowledged == 0
    }

    /// Timeouts in a row.
    pub(crate) const fn timeouts(&self) -> u8 {
        self.timeouts
    }

    /// Everything in flight went to the wrong place: it is to be sent again. That says nothing about congestion.
    pub(crate) fn lose_all(&mut self) {
        self.pending |= self.sent() & !self.acknowledged & !self.spent();
    }

    /// Packets that were sent as often as they may be.
    fn spent(&self) -> u16 {
        (0u8..)
            .zip(&self.transmissions)
            .filter(|(_, t)| **t >= MAX_TRANSMISSIONS)
            .fold(0, |set, (i, _)| set | bit(i))
    }

    /// The other side is heard again, after silence since `silent_since`, and has acknowledged nothing new. If what was
    /// sent to it meanwhile has timed out, or went into that silence, it went nowhere: it can be sent again now instead of
    /// after the long timeouts of an idle path. Not if there was no silence: whoever talks all the time and
    /// acknowledges nothing does not make the sender hurry.
    pub(crate) fn reached_again(&mut self, now: Instant, silent_since: Instant) -> Outcome {
        let into_silence = !self.has_arrived_in_part()
            && self.pace.last_sent.since(silent_since) >= super::rtt::SLEEPY_AFTER;
        if !self.is_started()
            || now.since(silent_since) < super::rtt::SLEEPY_AFTER
            || self.timeouts == 0 && !into_silence
        {
            return Outcome::Nothing;
        }
        self.timeouts = 0;
        self.progress_at = now;
        let spent = self.spent() & !self.acknowledged;
        self.lose_all();
        if spent == 0 { Outcome::Progress } else { Outcome::Exhausted }
    }

    /// Sent in answers to requests that come when they come: when what is left of it goes into one. At once what was not
    /// sent yet, else when an acknowledgement should have come.
    pub(crate) fn due_by_web(&self, rtt: &Rtt) -> Instant {
        if self.pending == 0 {
            self.pace.last_sent.saturating_add(rtt.pto(self.timeouts, true))
        } else {
            Instant::ZERO
        }
    }

    /// An answer can take it along, and it is due: what was sent before and not acknowledged is sent again. True if
    /// something of it was sent as often as it may be.
    pub(crate) fn repeat_by_web(&mut self) -> bool {
        if self.pending == 0 {
            self.timeouts = self.timeouts.saturating_add(1);
            self.pending = self.sent() & !self.acknowledged;
        }
        self.pending & self.spent() != 0
    }

    /// The packet to add to an answer: neither window nor pace hold it back, for there is one answer to a request.
    pub(crate) fn next_by_web(&mut self, now: Instant) -> Option<(u8, u8)> {
        self.pace.paused_until = now;
        self.take_packet(now)
    }

    /// Goes on counting timeouts where a datagram that this one replaces left off.
    pub(crate) const fn resume_after(&mut self, replaced: &Self) {
        self.timeouts = replaced.timeouts;
        self.progress_at = replaced.progress_at;
        self.pace = replaced.pace;
    }

    /// Its pace.
    pub(crate) const fn pace(&self) -> Pace {
        self.pace
    }

    /// Goes on at the pace of a datagram that this one replaces: a path carries no more because it is another message.
    pub(crate) const fn keep_pace(&mut self, pace: Pace) {
        self.pace = pace;
    }

    /// Packets sent and neither acknowledged nor given up as lost.
    fn in_flight(&self) -> u32 {
        (self.sent() & !self.acknowledged & !self.pending).count_ones()
    }

    fn sent(&self) -> u16 {
        (0..).zip(&self.transmissions).filter(|(_, t)| **t > 0).fold(0, |set, (i, _)| set | bit(i))
    }

    /// The packet to send now, if window and pacing allow one: its index and which transmission of it this is.
    /// Taken before sealing and never given back.
    pub(crate) fn next_packet(&mut self, now: Instant, window: Window) -> Option<(u8, u8)> {
        if now < self.pace.paused_until || self.in_flight() >= u32::from(window.0) {
            return None;
        }
        self.take_packet(now)
    }

    fn take_packet(&mut self, now: Instant) -> Option<(u8, u8)> {
        if self.pending == 0 {
            return None;
        }
        let index = u8::try_from(self.pending.trailing_zeros()).ok()?;
        let i = usize::from(index);
        let transmission = self.transmissions.get_mut(i)?;
        let this = *transmission;
        if this >= MAX_TRANSMISSIONS {
            return None;
        }
        *transmission = this.saturating_add(1);
        self.pending &= !bit(index);
        *self.order.get_mut(i)? = self.next_order;
        self.next_order = self.next_order.saturating_add(1);
        *self.sent_at.get_mut(i)? = now;
        if self.next_order == 1 && self.timeouts == 0 {
            self.progress_at = now;
        }
        if now.since(self.pace.last_sent) >= PAUSE {
            self.pace.burst = 0;
        }
        self.pace.last_sent = now;
        self.pace.burst = self.pace.burst.saturating_add(1);
        if self.pace.burst >= BURST {
            self.pace.burst = 0;
            self.pace.paused_until = now.saturating_add(PAUSE);
        }
        Some((index, this))
    }

    /// The other side has kept these packets.
    pub(crate) fn on_acknowledgement(
        &mut self,
        now: Instant,
        bitmap: u16,
        rtt: &mut Rtt,
        window: &mut Window,
    ) -> Outcome {
        let fresh = bitmap & self.sent() & !self.acknowledged;
        if fresh == 0 {
            return Outcome::Nothing;
        }
        self.acknowledged |= fresh;
        self.pending &= !fresh;
        self.timeouts = 0;
        self.progress_at = now;
        window.grow(fresh.count_ones());
        if let Some(sent_at) = self.newest_sent_once(fresh) {
            rtt.sample(now.since(sent_at));
        }
        if self.acknowledged.count_ones() == u32::from(self.count) {
            return Outcome::Complete;
        }
        let lost = self.overtaken();
        self.lose(lost, window)
    }

    /// When the newest of `packets` that was sent only once was sent.
    fn newest_sent_once(&self, packets: u16) -> Option<Instant> {
        (0u8..)
            .zip(&self.transmissions)
            .zip(&self.sent_at)
            .filter(|((i, t), _)| packets & bit(*i) != 0 && **t == 1)
            .map(|(_, at)| *at)
            .max()
    }

    /// Packets in flight that enough packets sent later have overtaken. A packet that was sent again says nothing
    /// about order: its acknowledgement may be that of the first sending.
    fn overtaken(&self) -> u16 {
        let mut lost = 0;
        for (i, order) in (0u8..).zip(&self.order) {
            if (self.sent() & !self.acknowledged & !self.pending) & bit(i) == 0 {
                continue;
            }
            let later = (0u8..)
                .zip(&self.order)
                .zip(&self.transmissions)
                .filter(|((j, o), t)| self.acknowledged & bit(*j) != 0 && **t == 1 && *o > order)
                .count();
            if u32::try_from(later).unwrap_or(u32::MAX) >= REORDERING {
                lost |= bit(i);
            }
        }
        lost
    }

    fn lose(&mut self, lost: u16, window: &mut Window) -> Outcome {
        if lost == 0 {
            return Outcome::Progress;
        }
        self.pending |= lost;
        if !self.halved {
            self.halved = true;
            window.shrink();
        }
        if self.pending & self.spent() == 0 { Outcome::Progress } else { Outcome::Exhausted }
    }

    /// When something is due: the end of a pause, or the timeout of what is in flight.
    pub(crate) fn deadline(&self, rtt: &Rtt, window: Window, last_heard: Instant) -> Option<Instant> {
        if !self.is_started() {
            return Some(self.pace.paused_until);
        }
        let timeout = self.timeout_at(rtt, last_heard);
        if self.pending != 0 && self.in_flight() < u32::from(window.0) {
            return Some(self.pace.paused_until.min(timeout));
        }
        Some(timeout)
    }

    fn timeout_at(&self, rtt: &Rtt, last_heard: Instant) -> Instant {
        let sleepy = self.pace.last_sent.since(last_heard) >= super::rtt::SLEEPY_AFTER;
        self.pace.last_sent.saturating_add(rtt.pto(self.timeouts, sleepy))
    }

    /// Time has passed: if the timeout has come, everything in flight counts as lost.
    pub(crate) fn on_timeout(
        &mut self,
        now: Instant,
        rtt: &Rtt,
        window: &mut Window,
        last_heard: Instant,
    ) -> Outcome {
        if !self.is_started() || now < self.timeout_at(rtt, last_heard) {
            return Outcome::Nothing;
        }
        self.timeouts = self.timeouts.saturating_add(1);
        if self.timeouts >= MAX_TIMEOUTS && now.since(self.progress_at) >= MAX_SILENCE {
            return Outcome::GivenUp;
        }
        let lost = self.sent() & !self.acknowledged & !self.pending;
        self.lose(lost, window)
    }
}

fn bit(index: u8) -> u16 {
    1u16.checked_shl(u32::from(index)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    const T0: Instant = Instant::from_micros(10_000_000);

    fn at(ms: u64) -> Instant {
        T0 + Duration::from_millis(ms)
    }

    fn send_all(flight: &mut Flight, now: Instant, window: Window) -> Vec<(u8, u8)> {
        core::iter::from_fn(|| flight.next_packet(now, window)).collect()
    }

    // SPEC: R-window-burst
    #[test]
    fn bursts_of_four_with_a_pause_and_a_window_of_ten() {
        let mut f = Flight::new(7, 16);
        let w = Window::default();
        assert_eq!(send_all(&mut f, at(0), w).len(), 4);
        assert_eq!(send_all(&mut f, at(0), w).len(), 0);
        assert_eq!(f.deadline(&Rtt::default(), w, at(0)), Some(at(1)));
        assert_eq!(send_all(&mut f, at(1), w).len(), 4);
        assert_eq!(send_all(&mut f, at(2), w).len(), 2, "the window is full");
    }

    // SPEC: R-only-missing
    #[test]
    fn only_missing_packets_are_sent_again() {
        let (mut f, mut w, mut rtt) = (Flight::new(0, 8), Window(16), Rtt::default());
        send_all(&mut f, at(0), w);
        send_all(&mut f, at(1), w);
        // Packet 2 is overtaken by three later ones.
        assert_eq!(f.on_acknowledgement(at(50), 0b0011_1011, &mut rtt, &mut w), Outcome::Progress);
        assert_eq!(send_all(&mut f, at(50), w), [(2, 1)]);
        assert_eq!(rtt.smoothed(), Some(Duration::from_millis(49)));
        assert_eq!(f.on_acknowledgement(at(90), 0b1111_1111, &mut rtt, &mut w), Outcome::Complete);
    }

    // SPEC: R-reached-again
    #[test]
    fn contact_after_silence_starts_again_and_talk_does_not() {
        let mut rtt = Rtt::default();
        rtt.sample(Duration::from_millis(40));
        let mut window = Window::default();
        let mut flight = Flight::new(1, 2);
        send_all(&mut flight, at(10_000), window);
        // Heard 3 s before it was sent: a second for a radio to wake up; then heard again before that is over.
        assert_eq!(flight.reached_again(at(10_500), at(7000)), Outcome::Progress);
        assert_eq!(send_all(&mut flight, at(10_500), window), [(0, 1), (1, 1)]);
        // It went out a moment after that, so the next packet a moment later says nothing, nor does one after a timeout.
        assert_eq!(flight.reached_again(at(10_510), at(10_500)), Outcome::Nothing);
        assert_eq!(flight.on_timeout(at(10_700), &rtt, &mut window, at(10_500)), Outcome::Progress);
        assert_eq!(flight.reached_again(at(10_710), at(10_510)), Outcome::Nothing);
        // After two seconds it does, unless part of it has arrived and nothing has timed out since.
        assert_eq!(flight.reached_again(at(12_510), at(10_510)), Outcome::Progress);
        send_all(&mut flight, at(12_510), window);
        assert_eq!(flight.on_acknowledgement(at(12_550), 1, &mut rtt, &mut window), Outcome::Progress);
        assert_eq!(flight.reached_again(at(20_000), at(12_550)), Outcome::Nothing);
        assert_eq!(flight.on_timeout(at(20_000), &rtt, &mut window, at(12_550)), Outcome::Progress);
        assert_eq!(flight.reached_again(at(20_000), at(12_550)), Outcome::Progress);
    }

    #[test]
    fn contact_does_not_send_a_packet_a_ninth_time() {
        let (rtt, mut window) = (Rtt::default(), Window::default());
        let mut flight = Flight::new(1, 1);
        let mut now = at(0);
        for _ in 0..7 {
            send_all(&mut flight, now, window);
            now = flight.deadline(&rtt, window, T0).unwrap();
            flight.progress_at = now;
            assert_eq!(flight.on_timeout(now, &rtt, &mut window, T0), Outcome::Progress);
        }
        send_all(&mut flight, now, window);
        assert_eq!(flight.reached_again(now, T0), Outcome::Exhausted);
    }

    // SPEC: R-silence
    #[test]
    fn a_packet_that_was_sent_twice_measures_nothing() {
        let (mut f, mut w, mut rtt) = (Flight::new(0, 1), Window::default(), Rtt::default());
        send_all(&mut f, at(0), w);
        let timeout = f.deadline(&rtt, w, at(0)).unwrap();
        assert_eq!(f.on_timeout(timeout, &rtt, &mut w, at(0)), Outcome::Progress);
        assert_eq!(send_all(&mut f, timeout, w), [(0, 1)]);
        // Whether that is the acknowledgement of the first or of the second, nobody knows.
        let soon = timeout + Duration::from_millis(5);
        assert_eq!(f.on_acknowledgement(soon, 1, &mut rtt, &mut w), Outcome::Complete);
        assert_eq!(rtt.smoothed(), None);
    }

    #[test]
    fn on_a_fast_path_five_timeouts_are_no_silence() {
        let (mut f, mut w, mut rtt) = (Flight::new(0, 1), Window::default(), Rtt::default());
        (0..100).for_each(|_| rtt.sample(Duration::from_millis(1)));
        let mut now = at(0);
        for timeout in 1..=5 {
            assert_eq!(send_all(&mut f, now, w).len(), 1);
            now = f.deadline(&rtt, w, now).unwrap();
            assert_eq!(f.on_timeout(now, &rtt, &mut w, now), Outcome::Progress, "timeout {timeout}");
        }
        assert!(now.since(at(0)) < Duration::from_secs(2));
    }

    #[test]
    fn an_idle_packet_is_sent_five_times_and_then_silence() {
        let (mut f, mut w, rtt) = (Flight::new(0, 1), Window::default(), Rtt::default());
        let mut now = at(0);
        let mut times = Vec::new();
        loop {
            for _ in send_all(&mut f, now, w) {
                times.push(now.since(at(0)).as_secs());
            }
            now = f.deadline(&rtt, w, at(0) - Duration::from_secs(60)).unwrap();
            if f.on_timeout(now, &rtt, &mut w, at(0)) == Outcome::GivenUp {
                break;
            }
        }
        assert_eq!(times, [0, 1, 3, 7, 15]);
        assert_eq!(w, Window(5), "halved once for the datagram");
    }

    #[test]
    fn an_acknowledgement_of_what_was_not_sent_is_nothing() {
        let (mut f, mut w, mut rtt) = (Flight::new(0, 8), Window(2), Rtt::default());
        send_all(&mut f, at(0), w);
        assert_eq!(f.on_acknowledgement(at(9), 0b1111_1100, &mut rtt, &mut w), Outcome::Nothing);
        assert!(rtt.smoothed().is_none());
    }

    // SPEC: R-karn
    #[test]
    fn a_packet_that_was_sent_again_gives_no_sample() {
        let (mut f, mut w, mut rtt) = (Flight::new(0, 2), Window::default(), Rtt::default());
        send_all(&mut f, at(0), w);
        let timeout = f.deadline(&rtt, w, at(0)).unwrap();
        f.on_timeout(timeout, &rtt, &mut w, at(0));
        assert_eq!(send_all(&mut f, timeout, w), [(0, 1), (1, 1)]);
        let soon = timeout + Duration::from_millis(1);
        assert_eq!(f.on_acknowledgement(soon, 0b11, &mut rtt, &mut w), Outcome::Complete);
        assert_eq!(rtt.smoothed(), None);
    }

    // SPEC: R-eight
    #[test]
    fn after_eight_sendings_it_starts_over() {
        let (mut f, mut w, mut rtt) = (Flight::new(0, 16), Window(16), Rtt::default());
        let mut now = at(0);
        // Everything but packet 0 arrives, a packet at a time, so that it is never given up for silence.
        let exhausted = (1u8..16).any(|upper| {
            for _ in 0..40 {
                send_all(&mut f, now, w);
                now = now + Duration::from_millis(1);
            }
            let by_ack = f.on_acknowledgement(now, bit(upper), &mut rtt, &mut w);
            now = f.deadline(&rtt, w, now).unwrap();
            let by_time = f.on_timeout(now, &rtt, &mut w, now);
            by_ack == Outcome::Exhausted || by_time == Outcome::Exhausted
        });
        assert!(exhausted);
        assert_eq!(f.transmissions[0], MAX_TRANSMISSIONS);
    }
}
