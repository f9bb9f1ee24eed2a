//! Networks where UDP does not pass, from the start or for a while, and the Web Service transport that takes its place
//! (F9). UDP that comes and goes is in `changes.rs`.

use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::changes::{AGAIN, AWAY};
use crate::network::{Lab, PORT_RESTRICTED};
use crate::nginx::{self, Nginx};
use crate::play::{AT_ONCE, Device, HEARTBEAT, Play};
use crate::rules::Trouble;

/// From the start of the program to its first notification, with all that the machine adds.
const FIRST: Duration = Duration::from_secs(5);

/// Starts a device for which something was posted before, and which shows it in time; by Web.
fn first_notification<'a>(play: &'a Play, ticket: &str, interval: Duration, more: &[&str]) -> Device<'a> {
    play.post_first("waits");
    let begin = Instant::now();
    let mut device = play.start_device_with(ticket, interval, more);
    device.missed("waits");
    device.hears(FIRST);
    assert!(begin.elapsed() < FIRST, "the first notification came after {:?}", begin.elapsed());
    device.goes_by("web", AT_ONCE);
    device.connected(AT_ONCE);
    device
}

/// No UDP from the start, by whichever means, and then there is.
fn udp_comes_back(trouble: Trouble) {
    let Some(lab) = Lab::open(PORT_RESTRICTED) else { return };
    lab.trouble(trouble);
    let play = Play::on(lab);
    let mut device = first_notification(&play, &play.ticket(), HEARTBEAT, &[]);
    device.hears_a_post(AT_ONCE);
    device.post_text(&"large ".repeat(2700));
    device.hears(AT_ONCE);
    assert!(play.lab.stopped() > 0, "the device has tried UDP");
    play.lab.no_trouble();
    // Nobody tells the device, and it goes on meanwhile.
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_secs(15) {
        sleep(Duration::from_secs(3));
        device.hears_a_post(AT_ONCE);
    }
    device.goes_by("udp", AGAIN.saturating_sub(begin.elapsed()));
    device.hears_a_post(AT_ONCE);
    device.end_connected();
}

#[test]
fn udp_was_dropped_and_comes_back() {
    udp_comes_back(Trouble::Silence);
}

#[test]
fn udp_was_refused_by_a_router_and_comes_back() {
    udp_comes_back(Trouble::Refused);
}

#[test]
fn udp_was_forbidden_by_the_system_and_comes_back() {
    udp_comes_back(Trouble::Forbidden);
}

/// Step 1 has 1200 bytes and does not pass, all the small packets would.
#[test]
fn large_packets_are_lost() {
    let Some(lab) = Lab::open(PORT_RESTRICTED) else { return };
    lab.trouble(Trouble::LargerUdp(1000));
    let play = Play::on(lab);
    let mut device = first_notification(&play, &play.ticket(), HEARTBEAT, &[]);
    for _ in 0..3 {
        device.post_text(&"large ".repeat(2700));
        device.hears(AT_ONCE);
        sleep(HEARTBEAT);
    }
    assert!(play.lab.stopped() > 0, "the device has tried UDP");
    device.end_connected();
}

/// From some moment on the small packets pass and the large ones do not, so that heartbeats say that all is well.
#[test]
fn large_packets_begin_to_get_lost() {
    let Some(lab) = Lab::open(PORT_RESTRICTED) else { return };
    let play = Play::on(lab);
    let mut device = play.device();
    device.hears_a_post(AT_ONCE);
    play.lab.trouble(Trouble::LargerUdp(1000));
    device.post_text(&"large ".repeat(2700));
    device.hears(AWAY);
    device.goes_by("web", AT_ONCE);
    device.post_text(&"large ".repeat(2600));
    device.hears(AT_ONCE);
    // It is the service that gives that connection up: what it sends is not acknowledged.
    let told = device.end();
    assert!(!told.iter().any(|t| t["type"] == "gap"), "{told:#?}");
}

/// Behind nginx and its TLS.
fn behind_nginx(patience: u32, story: impl FnOnce(Device<'_>, &Play, &Nginx)) {
    let Some(lab) = Lab::open(PORT_RESTRICTED) else { return };
    let Some(nginx) = Nginx::start(&lab, patience) else { return };
    lab.trouble(Trouble::Silence);
    let play = Play::on_with(lab, nginx::BEHIND);
    let ticket = play.ticket_with(&["--web", &nginx.base()]);
    let roots = ["--web-roots", &nginx.certificate()];
    let device = first_notification(&play, &ticket, Duration::from_secs(25), &roots);
    story(device, &play, &nginx);
}

#[test]
fn behind_nginx_the_same() {
    behind_nginx(60, |mut device, play, nginx| {
        for _ in 0..5 {
            device.hears_a_post(AT_ONCE);
        }
        device.post_text(&"large ".repeat(2700));
        device.hears(AT_ONCE);
        play.lab.no_trouble();
        device.goes_by("udp", AGAIN);
        device.hears_a_post(AT_ONCE);
        device.end_connected();
        let told = nginx.answered(200);
        assert!((7..50).contains(&told), "answers: {told}");
    });
}

/// Requests are cut after so many seconds; a device that wants to wait for 50 learns that, and hears everything at once.
fn cut_after(patience: u32, pauses: &[u64]) {
    behind_nginx(patience, |mut device, _, nginx| {
        device.hears_a_post(AT_ONCE);
        for pause in pauses {
            sleep(Duration::from_secs(*pause));
            device.hears_a_post(AT_ONCE);
        }
        device.end_connected();
        // One teaches it; the next attempt comes much later.
        assert_eq!(nginx.answered(504), 1);
    });
}

#[test]
fn a_proxy_cuts_requests_after_thirty_seconds() {
    cut_after(30, &[33, 29, 25]);
}

#[test]
fn a_proxy_cuts_requests_after_ten_seconds() {
    cut_after(10, &[11, 9, 20, 15, 12]);
}

/// Nobody between a device and its service can be taken for it: the certificate is looked at.
#[test]
fn a_certificate_that_nobody_vouches_for_is_not_taken() {
    let Some(lab) = Lab::open(PORT_RESTRICTED) else { return };
    let Some(nginx) = Nginx::start(&lab, 60) else { return };
    lab.trouble(Trouble::Silence);
    let play = Play::on_with(lab, nginx::BEHIND);
    let ticket = play.ticket_with(&["--web", &nginx.base()]);
    let mut device = play.start_device(&ticket, HEARTBEAT);
    device.says("no answer from", Duration::from_secs(5));
    assert_eq!(nginx.answered(200), 0);
    play.lab.no_trouble();
    device.connected(Duration::from_secs(4));
    device.end_connected();
}
