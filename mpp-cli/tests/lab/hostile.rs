//! Networks that lose packets, or let none through (F9).

use std::fs;
use std::thread::sleep;
use std::time::Duration;

use crate::network::{Lab, Network, PORT_RESTRICTED};
use crate::play::{AT_ONCE, HEARTBEAT, Play};
use crate::rules::Trouble;

/// A third of the packets lost, both ways: all is heard, in order and once. Connections may break: one heartbeat in
/// fifteen is lost four times, or its answers are.
#[test]
fn a_third_of_the_packets_is_lost() {
    let Some(lab) = Lab::open(PORT_RESTRICTED) else { return };
    lab.trouble(Trouble::Loss(30));
    let play = Play::on(lab);
    let mut device = play.start_device(&play.ticket(), HEARTBEAT);
    device.connected(Duration::from_secs(40));
    for i in 0..20 {
        // Every fifth in several packets.
        if i % 5 == 4 {
            device.post_text(&format!("{i} {}", "large ".repeat(1000)))
        } else {
            device.post()
        }
        sleep(Duration::from_millis(50));
    }
    device.hears(Duration::from_secs(30));
    assert!(play.lab.stopped() > 0, "something was lost");
    play.lab.no_trouble();
    device.end();
}

/// For a device that knows nothing but UDP; `web.rs` is about the others.
const WITHOUT_WEB: &[&str] = &["--no-web"];

/// No UDP at all, by whichever means: that is said within 5 s, costs no work, and ends by itself.
fn nothing_gets_through(trouble: Trouble) {
    let Some(lab) = Lab::open(PORT_RESTRICTED) else { return };
    lab.trouble(trouble);
    let play = Play::on(lab);
    let mut device = play.start_device_with(&play.ticket(), HEARTBEAT, WITHOUT_WEB);
    device.says("no answer from 203.0.113.1:15096 yet", Duration::from_secs(5));
    assert!(play.lab.stopped() > 0, "the device has tried");
    assert!(work(&play.lab) < Duration::from_millis(500), "{:?}", work(&play.lab));
    play.lab.no_trouble();
    // Step 1 goes out 0, 1, 3 and 7 s after the beginning.
    device.connected(Duration::from_secs(2));
    device.hears_a_post(AT_ONCE);
    device.end_connected();
}

/// The processor time of what runs in the device's namespace.
fn work(lab: &Lab) -> Duration {
    let ticks = |pid: &nix::unistd::Pid| -> u64 {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        // After the name, in parentheses: the 12th and 13th value, in hundredths of a second.
        let values: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
        values[11].parse::<u64>().unwrap() + values[12].parse::<u64>().unwrap()
    };
    let processes = lab.device.processes();
    assert!(!processes.is_empty(), "a device runs");
    Duration::from_millis(10 * processes.iter().map(ticks).sum::<u64>())
}

#[test]
fn udp_is_dropped() {
    nothing_gets_through(Trouble::Silence);
}

#[test]
fn udp_is_refused_by_a_router() {
    nothing_gets_through(Trouble::Refused);
}

#[test]
fn udp_is_forbidden_by_the_system() {
    nothing_gets_through(Trouble::Forbidden);
}

/// What stops all UDP for a while does not end a connection, and loses nothing.
#[test]
fn a_connection_survives_a_pause() {
    for trouble in [Trouble::Silence, Trouble::Refused, Trouble::Forbidden] {
        let Some(lab) = Lab::open(PORT_RESTRICTED) else { return };
        let play = Play::on(lab);
        let mut device = play.start_device_with(&play.ticket(), HEARTBEAT, WITHOUT_WEB);
        device.connected(AT_ONCE);
        device.hears_a_post(AT_ONCE);
        play.lab.trouble(trouble);
        device.post();
        sleep(Duration::from_secs(4));
        assert!(play.lab.stopped() > 0, "{trouble:?}");
        play.lab.no_trouble();
        device.hears(HEARTBEAT);
        device.end_connected();
    }
}

/// No packet is larger than the smallest that IPv6 demands of a network, however much is posted.
#[test]
fn networks_with_the_smallest_packets_will_do() {
    for network in [PORT_RESTRICTED, Network::Ipv6Firewall] {
        let Some(lab) = Lab::open(network) else { return };
        lab.trouble(Trouble::Larger(1280));
        let play = Play::on(lab);
        let mut device = play.device();
        for _ in 0..3 {
            device.post_text(&"large ".repeat(2700));
            device.hears(AT_ONCE);
        }
        assert_eq!(play.lab.stopped(), 0, "{network:?}");
        device.end_connected();
    }
}
