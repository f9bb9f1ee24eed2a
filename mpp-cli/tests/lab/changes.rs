//! UDP goes away and comes back, again and again, and nothing is lost or doubled (F9). What nobody tells the device takes it
//! minutes to see; the name of this module makes these tests begin first.

use std::thread::sleep;
use std::time::{Duration, Instant};

use mpp_tokio::Client;
use mpp_tokio::proto::{NotificationKind, Ticket, Transport};
use tokio::runtime::Builder;
use tokio::time::{timeout, timeout_at};

use crate::network::{Lab, PORT_RESTRICTED};
use crate::nginx::{self, Nginx};
use crate::play::{AT_ONCE, Device, HEARTBEAT, LATE, POSTS, Play};
use crate::rules::Trouble;

/// Until UDP is used again, once it passes, also if nobody tells the device.
pub(crate) const AGAIN: Duration = Duration::from_secs(60);
/// Until the Web is used: a heartbeat, then three seconds of silence.
pub(crate) const AWAY: Duration = HEARTBEAT.saturating_add(Duration::from_secs(3));

/// Ten changes, while there is no end of news. Nobody tells the device, so it takes up to a minute each time until it sees
/// that UDP is back. On the Web there is no news for so long.
fn ten_changes_unseen(play: &Play, mut device: Device<'_>, trouble: Trouble, silence: Duration) {
    for _ in 0..5 {
        play.lab.trouble(trouble);
        device.posts_until_it_goes_by("web", AWAY);
        sleep(silence);
        device.hears_a_post(AT_ONCE);
        play.lab.no_trouble();
        device.posts_until_it_goes_by("udp", AGAIN);
    }
    device.hears_a_post(AT_ONCE);
    device.end_connected();
}

#[test]
fn udp_is_dropped_and_comes_back_ten_times_unseen() {
    let Some(lab) = Lab::open(PORT_RESTRICTED) else { return };
    let play = Play::on(lab);
    ten_changes_unseen(&play, play.device(), Trouble::Silence, Duration::ZERO);
}

#[test]
fn udp_is_forbidden_and_comes_back_ten_times_unseen() {
    let Some(lab) = Lab::open(PORT_RESTRICTED) else { return };
    let play = Play::on(lab);
    ten_changes_unseen(&play, play.device(), Trouble::Forbidden, Duration::ZERO);
}

/// The Web is behind nginx with TLS, which gives up a request before the time that the device would have it wait.
#[test]
fn it_comes_back_ten_times_unseen_beside_a_proxy_that_cuts() {
    let Some(lab) = Lab::open(PORT_RESTRICTED) else { return };
    let Some(nginx) = Nginx::start(&lab, 8) else { return };
    let play = Play::on_with(lab, nginx::BEHIND);
    let ticket = play.ticket_with(&["--web", &nginx.base()]);
    let mut device = play.start_device_with(&ticket, HEARTBEAT, &["--web-roots", &nginx.certificate()]);
    device.connected(HEARTBEAT);
    ten_changes_unseen(&play, device, Trouble::Silence, Duration::from_secs(11));
    assert!(nginx.answered(504) > 0, "it has cut");
}

/// Away for longer than the first trial of UDP waits: the next one would be two minutes later, and then four.
#[test]
fn udp_that_was_away_for_minutes_is_used_within_one() {
    let Some(lab) = Lab::open(PORT_RESTRICTED) else { return };
    let play = Play::on(lab);
    let mut device = play.device();
    play.lab.trouble(Trouble::Silence);
    device.posts_until_it_goes_by("web", AWAY);
    for _ in 0..6 {
        sleep(Duration::from_secs(30));
        device.hears_a_post(AT_ONCE);
    }
    play.lab.no_trouble();
    device.posts_until_it_goes_by("udp", AGAIN);
    device.end_connected();
}

/// The same, and an application tells the client when UDP may be back: a cycle takes seconds.
fn ten_changes(trouble: Trouble) {
    let Some(lab) = Lab::open(PORT_RESTRICTED) else { return };
    let play = Play::on(lab);
    let ticket: Ticket = play.ticket().parse().unwrap();
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let story = async {
        let client = Client::builder(ticket).interval(HEARTBEAT).connect();
        timeout(LATE, client.connected()).await.expect("it connects").unwrap();
        let (mut posted, mut heard) = (0, Vec::new());
        for change in 0..10 {
            let wanted = if change % 2 == 0 { Transport::Web } else { Transport::Udp };
            if wanted == Transport::Web {
                play.lab.trouble(trouble);
            } else {
                play.lab.no_trouble();
                client.network_changed(None);
            }
            let begin = Instant::now();
            // A second more on each: what was on its way is not all there is.
            let mut since = None;
            while since.is_none_or(|since: Instant| since.elapsed() < Duration::from_secs(1)) {
                assert!(begin.elapsed() < AWAY + LATE, "change {change}: still not by {wanted:?}");
                play.post(&posted.to_string());
                posted += 1;
                let next = tokio::time::Instant::now() + POSTS;
                while let Ok(notification) = timeout_at(next, client.next()).await {
                    heard.push(text(notification.expect("a client that is open").kind));
                }
                if client.transport() == wanted {
                    since.get_or_insert_with(Instant::now);
                }
            }
        }
        while heard.len() < posted {
            let next = timeout(LATE, client.next()).await;
            let next = next.unwrap_or_else(|_| panic!("{posted} posted, but {heard:?}"));
            heard.push(text(next.unwrap().kind));
        }
        assert!(timeout(Duration::from_millis(500), client.next()).await.is_err(), "nothing twice");
        let expected: Vec<_> = (0..posted).map(|n| n.to_string()).collect();
        assert_eq!(heard, expected, "all, in order, once");
        client.close().await;
    };
    play.lab.device.enter(|| runtime.block_on(story));
}

fn text(kind: NotificationKind) -> String {
    match kind {
        NotificationKind::Event { payload, .. } => String::from_utf8_lossy(&payload).into_owned(),
        kind => panic!("nothing was lost, but: {kind:?}"),
    }
}

#[test]
fn udp_is_dropped_and_comes_back_ten_times() {
    ten_changes(Trouble::Silence);
}

#[test]
fn udp_is_forbidden_and_comes_back_ten_times() {
    ten_changes(Trouble::Forbidden);
}
