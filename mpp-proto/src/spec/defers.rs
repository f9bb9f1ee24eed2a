//! What SPEC.md says of Defers, most of which are forged here.

use std::vec::Vec;

use core::time::Duration;

use super::host::Host;
use crate::device::ConnectionState;
use crate::path::Disposition;
use crate::time::Instant;
use crate::wire::{AnswerKind, Step1, emit_answer};

/// Each once only.
fn challenge(number: u64) -> [u8; 16] {
    u128::from(number + 1).to_be_bytes()
}

fn number(echo: &[u8]) -> Option<u64> {
    Step1::parse(echo).unwrap().echo.map(|challenge| u128::from_be_bytes(challenge) as u64 - 1)
}

impl Host {
    /// A Defer with this challenge arrives, for the attempt of this step 1.
    fn defer(&mut self, step1: &[u8], challenge: [u8; 16]) -> Disposition {
        let handshake = Step1::parse(step1).unwrap().handshake;
        let mut packet = Vec::new();
        emit_answer(&mut packet, &handshake, &AnswerKind::Defer { challenge });
        self.put(&packet)
    }
}

// SPEC: R-echo-rate
#[test]
fn however_many_defers_come_few_packets_answer_them() {
    let mut host = Host::new();
    let start = host.now;
    let (mut first, mut echoes): (Vec<Instant>, Vec<Instant>) = (Vec::new(), Vec::new());
    let mut step1 = Vec::new();
    for n in 0..1_090 {
        for (at, packet) in host.run(Duration::from_millis(10)) {
            match number(&packet) {
                Some(_) => echoes.push(at),
                None => {
                    step1 = packet;
                    first.push(at);
                }
            }
        }
        for k in 0..3 {
            let _ = host.defer(&step1, challenge(3 * n + k));
        }
    }
    let first: Vec<_> = first.iter().map(|at| at.since(start).as_millis()).collect();
    assert_eq!(first, [0, 1000, 3000, 7000]);
    assert_eq!(echoes.len(), 32);
    assert!(echoes.windows(2).all(|w| w[1].since(w[0]) >= Duration::from_millis(250)), "{echoes:?}");
}

// SPEC: R-echo-rate
#[test]
fn a_challenge_is_given_back_once_a_second_only() {
    let mut host = Host::new();
    let step1 = host.take().remove(0);
    assert_eq!(host.defer(&step1, challenge(0)), Disposition::Accepted);
    assert_eq!(host.run(Duration::from_millis(300)).len(), 1);
    assert!(matches!(host.defer(&step1, challenge(0)), Disposition::Dropped(_)));
    assert!(host.run(Duration::from_millis(690)).is_empty());
    // Along with the first one, which is sent again after a second. Then there is time again.
    assert_eq!(host.run(Duration::from_millis(1_010)).len(), 2);
    assert_eq!(host.defer(&step1, challenge(0)), Disposition::Accepted);
    assert_eq!(host.run(Duration::from_millis(300)).len(), 1);
}

/// An address that nothing was sent to has nothing to ask for.
// SPEC: R-echo-rate
#[test]
fn nobody_else_can_ask_for_a_proof() {
    let mut host = Host::new();
    let step1 = host.take().remove(0);
    host.service.set_port(4_000);
    assert!(matches!(host.defer(&step1, challenge(0)), Disposition::Dropped(_)));
    assert!(host.run(Duration::from_millis(300)).is_empty());
}

// SPEC: R-echo-chance
#[test]
fn each_challenge_has_the_same_chance_whenever_it_comes() {
    let mut host = Host::new();
    let (mut chosen, mut rounds) = ([0; 5], 0);
    for _ in 0..10 {
        let (started, step1) = host.next();
        let _ = host.defer(&step1, challenge(u64::from(u32::MAX)));
        assert_eq!(host.take().len(), 1);
        for _ in 0..20 {
            rounds += 1;
            for k in 0..5 {
                assert_eq!(host.defer(&step1, challenge(5 * rounds + k)), Disposition::Accepted);
            }
            let sent = host.run(Duration::from_millis(260));
            let echoes: Vec<_> = sent.iter().filter_map(|(_, packet)| number(packet)).collect();
            assert_eq!(echoes.len(), 1);
            chosen[(echoes[0] - 5 * rounds) as usize] += 1;
        }
        host.run(Duration::from_secs(11) - host.now.since(started));
    }
    // Forty on the average, with a deviation of six.
    assert!(chosen.iter().all(|n| (20..=60).contains(n)), "{chosen:?}");
}

// SPEC: R-echo-answers
#[test]
fn an_answer_to_one_of_the_last_eight_echoes_counts() {
    for (behind, counts) in [(0, true), (1, true), (7, true), (8, false)] {
        let mut host = Host::new();
        let step1 = host.take().remove(0);
        let mut echoes = Vec::new();
        for n in 0..9 {
            assert_eq!(host.defer(&step1, challenge(n)), Disposition::Accepted);
            let sent = host.run(Duration::from_millis(300)).into_iter().map(|(_, packet)| packet);
            echoes.extend(sent.filter(|packet| number(packet) == Some(n)));
        }
        echoes.dedup();
        assert_eq!(echoes.len(), 9);
        let answered = host.answer(&echoes[8 - behind]);
        assert_eq!(answered == Disposition::Accepted, counts, "{behind} echoes later");
        if counts {
            let beat = host.take().remove(0);
            host.status(&beat);
            assert_eq!(host.device.state(), ConnectionState::Connected);
        }
    }
}
