//! Which transport carries a device's connection, and when the other one is tried (SPEC.md, "The Web Service
//! transport: the device"). A connection stays on the transport it was made over; to change over, the device makes another one beside
//! it, which takes its place as one with new keys does. So nothing is in two places, and an exchange proves the other way
//! with full packets before anything depends on it.

use alloc::vec::Vec;
use core::net::SocketAddr;
use core::time::Duration;

use crate::ids::RequestId;
use crate::random::Rng;
use crate::time::Instant;

/// UDP that is silent for so long is in doubt, and the Web is tried beside it.
pub(super) const SILENCE: Duration = Duration::from_secs(3);
/// The head start of UDP in an attempt if it has been in doubt before: where both work it wins.
const HEAD_START: Duration = Duration::from_millis(500);
/// When UDP is tried again after the Web has taken over, and the longest time between trials.
const RETRY: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(15 * 60));
/// How often a small packet to each address looks whether UDP is back, between trials.
const LOOK: Duration = Duration::from_secs(52);
/// So much sooner if something else is sent.
const LOOK_EARLY: Duration = Duration::from_secs(30);
/// Packets in a row that could not be sent, with nothing heard in between.
const UNSENT: u8 = 2;

/// What carries packets between a device and its service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Transport {
    /// UDP.
    #[default]
    Udp,
    /// The Web Service: requests over HTTP.
    Web,
}

/// What a device knows of its transports.
#[derive(Debug, Default)]
pub(super) struct Fallback {
    /// That of the connection in use, or of the last one.
    transport: Transport,
    /// UDP was silent, and has not carried a connection since.
    doubted: bool,
    /// When UDP is tried again beside a connection over the Web, and the wait that led there.
    retry_at: Instant,
    retry_wait: Duration,
    look: Look,
    /// Where the last trial went in vain.
    places: Vec<SocketAddr>,
    /// A look has no answer yet.
    looked: bool,
    /// Trials in a row that a look had called for, and that failed: there, small packets pass and full ones do not.
    called: u32,
    /// The heartbeat for whose silence the Web was tried.
    tried: Option<RequestId>,
    /// Packets in a row that could not be sent.
    unsent: u8,
}

/// Looking whether UDP is back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Look {
    /// No trial has failed yet.
    #[default]
    Off,
    /// At this time.
    At(Instant),
    /// It was answered at this time: a trial is due.
    Answered(Instant),
}

impl Fallback {
    pub(super) const fn transport(&self) -> Transport {
        self.transport
    }

    /// When an attempt that begins now turns to the Web too.
    pub(super) fn web_start(&self, now: Instant) -> Instant {
        now + if self.doubted { HEAD_START } else { SILENCE }
    }

    /// UDP has been silent for too long.
    pub(super) const fn doubt(&mut self) {
        self.doubted = true;
    }

    /// Whether the Web has not been tried yet for the silence after this heartbeat. Said once.
    pub(super) fn begin_silence(&mut self, heartbeat: RequestId) -> bool {
        self.doubted = true;
        self.tried.replace(heartbeat) != Some(heartbeat)
    }

    /// The system refused to send a packet. Whether it looks as if it will refuse all of them.
    pub(super) const fn unsent(&mut self) -> bool {
        self.unsent = self.unsent.saturating_add(1);
        self.unsent >= UNSENT
    }

    /// Something authentic came by UDP.
    pub(super) const fn heard_udp(&mut self) {
        self.unsent = 0;
    }

    /// There is a connection over this transport now. Whether that is a change.
    pub(super) fn settle(&mut self, now: Instant, transport: Transport, rng: &mut Rng) -> bool {
        let changed = self.transport != transport;
        self.transport = transport;
        match transport {
            Transport::Udp => {
                self.doubted = false;
                self.look = Look::Off;
            }
            Transport::Web => {
                self.doubted = true;
                if changed {
                    self.look = Look::Off;
                    self.retry_in(now, RETRY.0, rng);
                }
            }
        }
        changed
    }

    /// UDP was tried beside the Web, at these addresses, and no connection came of it.
    pub(super) fn udp_failed(&mut self, now: Instant, places: Vec<SocketAddr>, rng: &mut Rng) {
        (self.places, self.looked) = (places, false);
        let next = match self.look {
            Look::Answered(_) => {
                let next = LOOK.saturating_mul(1 << self.called.min(5)).min(RETRY.1);
                self.called = self.called.saturating_add(1);
                next
            }
            Look::Off | Look::At(_) => LOOK,
        };
        self.look = Look::At(now + next);
        if self.retry_at <= now {
            self.retry_in(now, self.retry_wait.saturating_mul(2).clamp(RETRY.0, RETRY.1), rng);
        }
    }

    fn retry_in(&mut self, now: Instant, wait: Duration, rng: &mut Rng) {
        self.retry_wait = wait;
        self.retry_at = now + rng.fraction(900, 1000, wait);
    }

    /// When UDP is tried again beside a connection over the Web.
    pub(super) fn retry_at(&self) -> Instant {
        match self.look {
            Look::Answered(at) => at.min(self.retry_at),
            Look::Off | Look::At(_) => self.retry_at,
        }
    }

    /// When there is a look whether UDP is back.
    pub(super) const fn look_at(&self) -> Option<Instant> {
        match self.look {
            Look::At(at) => Some(at),
            Look::Off | Look::Answered(_) => None,
        }
    }

    /// Whether a look may go along with what wakes the device anyway, so as not to wake it soon after.
    pub(super) fn may_look(&self, now: Instant) -> bool {
        self.look_at().is_some_and(|at| at <= now + LOOK_EARLY)
    }

    /// Looks: these addresses are asked.
    pub(super) fn look(&mut self, now: Instant) -> Vec<SocketAddr> {
        // The one before has no answer: UDP was not there, or not any more.
        if core::mem::replace(&mut self.looked, true) {
            self.called = 0;
        }
        self.look = Look::At(now + LOOK);
        self.places.clone()
    }

    /// Somebody with the keys has answered a look.
    pub(super) const fn udp_answers(&mut self, now: Instant) {
        self.looked = false;
        if matches!(self.look, Look::At(_)) {
            self.look = Look::Answered(now);
        }
    }

    /// The device is on another network: UDP is worth a trial at once.
    pub(super) const fn network_changed(&mut self, now: Instant) {
        self.doubted = false;
        self.unsent = 0;
        self.retry_wait = Duration::ZERO;
        self.retry_at = now;
        self.look = Look::Off;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Seed;

    const NOW: Instant = Instant::from_micros(1_000_000);

    fn rng() -> Rng {
        Rng::new(Seed::new([1; 32]))
    }

    // SPEC: R-udp-again
    #[test]
    fn udp_is_tried_after_a_minute_and_then_ever_more_rarely() {
        let (mut fallback, mut rng) = (Fallback::default(), rng());
        assert!(fallback.settle(NOW, Transport::Web, &mut rng));
        let mut waits = std::vec::Vec::new();
        let mut now = NOW;
        for _ in 0..8 {
            let wait = fallback.retry_at().since(now);
            waits.push((wait.as_secs_f64() / 60.0).ceil() as u32);
            now = fallback.retry_at();
            fallback.udp_failed(now, Vec::new(), &mut rng);
        }
        assert_eq!(waits, [1, 2, 4, 8, 15, 15, 15, 15]);
        assert!(!fallback.settle(now, Transport::Web, &mut rng), "new keys on the Web");
        assert!(fallback.retry_at().since(now) > RETRY.1 / 2, "that begins nothing anew");
        fallback.network_changed(now);
        assert_eq!(fallback.retry_at(), now);
        fallback.udp_failed(now, Vec::new(), &mut rng);
        assert!(fallback.retry_at().since(now) <= RETRY.0);
    }

    #[test]
    fn looks_that_were_answered_call_for_trials_ever_more_rarely() {
        let (mut fallback, mut rng) = (Fallback::default(), rng());
        fallback.settle(NOW, Transport::Web, &mut rng);
        assert_eq!(fallback.look_at(), None, "the first trial comes as soon");
        let places: Vec<SocketAddr> =
            ["192.0.2.1:1", "[2001:db8::1]:2", "192.0.2.3:3"].map(|a| a.parse().unwrap()).into();
        let mut now = fallback.retry_at();
        fallback.udp_failed(now, places.clone(), &mut rng);
        let (look_at, retry_at) = (fallback.look_at().unwrap(), fallback.retry_at());
        assert_eq!(look_at, now + LOOK);
        assert!(!fallback.may_look(now) && fallback.may_look(now + LOOK - LOOK_EARLY));
        now = look_at;
        assert_eq!(fallback.look(now), places, "all of them: some may lead nowhere");
        // Only small packets pass.
        let mut waits = Vec::new();
        for _ in 0..7 {
            fallback.udp_answers(now);
            assert_eq!((fallback.retry_at(), fallback.look_at()), (now, None));
            fallback.udp_failed(now, places.clone(), &mut rng);
            assert_eq!(fallback.retry_at(), retry_at, "those go on as they were");
            waits.push(fallback.look_at().unwrap().since(now).as_secs());
            now = now + Duration::from_micros(1);
            fallback.look(now);
        }
        assert_eq!(waits, [52, 104, 208, 416, 832, 900, 900]);
        // No answer: the next one that has one says something again.
        fallback.look(now);
        fallback.udp_answers(now);
        fallback.udp_failed(now, places, &mut rng);
        assert_eq!(fallback.look_at().unwrap(), now + LOOK);
        fallback.settle(retry_at, Transport::Udp, &mut rng);
        assert_eq!(fallback.look_at(), None);
    }

    #[test]
    fn the_web_waits_for_silence_and_less_once_there_was_one() {
        let mut fallback = Fallback::default();
        assert_eq!(fallback.web_start(NOW), NOW + SILENCE);
        assert!(fallback.begin_silence(RequestId(7)));
        assert!(!fallback.begin_silence(RequestId(7)), "once for each silence");
        assert!(fallback.begin_silence(RequestId(8)));
        assert_eq!(fallback.web_start(NOW), NOW + HEAD_START);
        fallback.settle(NOW, Transport::Udp, &mut rng());
        assert_eq!(fallback.web_start(NOW), NOW + SILENCE);
    }

    #[test]
    fn one_packet_that_could_not_be_sent_says_nothing() {
        let mut fallback = Fallback::default();
        assert!(!fallback.unsent());
        fallback.heard_udp();
        assert!(!fallback.unsent());
        assert!(fallback.unsent());
    }
}
