//! Devices that learn how rarely a network lets them speak (F2): nothing waits for longer than the heartbeat in use, at no
//! time.

use std::time::{Duration, Instant};

use mpp_tokio::proto::{DeviceConfig, IntervalReason, NetworkId, NotificationKind, Resume, Ticket};
use mpp_tokio::{Client, ClientEvent, ClientEvents};
use sha2::{Digest as _, Sha256};
use tokio::runtime::Builder;
use tokio::time::{sleep, timeout};

use crate::network::{Lab, Network};
use crate::play::{LATE, Play};
use crate::rules::{Lifetime, Nat};

/// A device that learns, and what is posted for it.
struct Learner<'a> {
    play: &'a Play,
    client: Client,
    events: ClientEvents,
    posted: u32,
}

/// Plays a story with a device in the network's namespace.
fn learns(
    network: Network,
    lifetime: Lifetime,
    shortest: Duration,
    story: impl AsyncFnOnce(&mut Learner<'_>) + Send,
) {
    let mut config = DeviceConfig::default();
    config.shortest_interval = shortest;
    plays(network, lifetime, config, None, story);
}

fn plays(
    network: Network,
    lifetime: Lifetime,
    config: DeviceConfig,
    resume: Option<Resume>,
    story: impl AsyncFnOnce(&mut Learner<'_>) + Send,
) {
    let Some(lab) = Lab::with_lifetime(network, lifetime) else { return };
    let play = Play::on(lab);
    let ticket: Ticket = play.ticket().parse().unwrap();
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    play.lab.device.enter(|| {
        runtime.block_on(async {
            let client = Client::builder(ticket).config(config);
            let client = match resume {
                Some(resume) => client.resume(resume),
                None => client,
            };
            let client = client.connect();
            let events = client.events();
            timeout(LATE, client.connected()).await.expect("it connects").unwrap();
            let mut learner = Learner { play: &play, client, events, posted: 0 };
            story(&mut learner).await;
            // It was never disconnected, and so it was the network that was learned of.
            assert_eq!(learner.client.stats().device.connects, 1);
            learner.client.close().await;
        });
    });
}

impl Learner<'_> {
    /// Posts, and waits until it is heard: within this time and what the machine adds.
    async fn hears_a_post(&mut self, limit: Duration) {
        self.posted += 1;
        let (text, begin) = (self.posted.to_string(), Instant::now());
        // The program that posts reaches the service by its state directory, from everywhere.
        self.play.post(&text);
        let heard = timeout(limit + LATE, self.client.next()).await;
        let heard = heard.unwrap_or_else(|_| panic!("number {text} was not heard within {limit:?}")).unwrap();
        let NotificationKind::Event { payload, .. } = heard.kind else { panic!("{heard:?}") };
        assert_eq!(payload, text, "after {:?}", begin.elapsed());
    }

    /// The heartbeat in use.
    fn interval(&self) -> Duration {
        self.client.keepalive().interval
    }

    /// Until the interval is this one, for this reason; a post now and then is never heard later than with the next
    /// heartbeat.
    async fn until(&mut self, interval: Duration, reason: IntervalReason, limit: Duration) {
        let deadline = Instant::now() + limit;
        loop {
            let wait = sleep(Duration::from_secs(17));
            tokio::select! {
                event = self.events.next() => {
                    let wanted = ClientEvent::Interval { interval, reason };
                    if event.expect("it goes on") == wanted {
                        return;
                    }
                }
                () = wait => {
                    let longest = self.interval();
                    self.hears_a_post(longest).await;
                }
            }
            assert!(Instant::now() < deadline, "{:?}", self.client.keepalive());
        }
    }
}

/// Mappings of 12 s, and a host that allows for it: then every post is heard at once.
#[test]
fn twelve_seconds() {
    for_nat(Nat::PortRestricted);
}

/// The same where each mapping has another port.
#[test]
fn twelve_seconds_and_another_port_each_time() {
    for_nat(Nat::Symmetric);
}

fn for_nat(nat: Nat) {
    let story = async |learner: &mut Learner<'_>| {
        let learned = Duration::from_millis(5400);
        // 60 s at rest; twice 25 s, twice 12 s and 6 s of silence, and what goes before and after.
        learner.until(learned, IntervalReason::Forgetful, Duration::from_secs(300)).await;
        for pause in [9, 13, 20] {
            sleep(Duration::from_secs(pause)).await;
            learner.hears_a_post(Duration::ZERO).await;
        }
    };
    learns(Network::Behind(nat), Lifetime::always(12), Duration::from_secs(5), story);
}

/// Mappings of 120 s: a heartbeat every 99 s at most is enough, and after a flush that costs as much and no more.
#[test]
fn a_hundred_and_twenty_seconds() {
    let story = async |learner: &mut Learner<'_>| {
        let learned = Duration::from_secs(99);
        // 60 s at rest, and 25, 55 and 110 s of silence.
        learner.until(learned, IntervalReason::Learned, Duration::from_secs(330)).await;
        sleep(Duration::from_secs(80)).await;
        learner.hears_a_post(Duration::ZERO).await;
        // To ask for the next one says that this one has been dealt with, which the service is told: first, or that would
        // make the mapping anew.
        assert!(
            timeout(Duration::from_secs(1), learner.client.next()).await.is_err(),
            "nothing else was posted"
        );
        learner.play.lab.flush();
        learner.hears_a_post(learned).await;
        // The port is the same after a flush, but the service says that it was not heard for a while.
        learner.until(Duration::from_secs(25), IntervalReason::Missed, LATE).await;
    };
    learns(Network::Behind(Nat::PortRestricted), Lifetime::always(120), Duration::from_secs(25), story);
}

/// What Linux does by itself, to a device that has been here before: its socket is new to the box, and is remembered for as
/// long as it has learned all the same.
#[test]
fn a_restart_in_a_known_network() {
    let name = NetworkId([7; 16]);
    let mut config = DeviceConfig::default();
    config.network = Some(name);
    let story = async |learner: &mut Learner<'_>| {
        assert_eq!(learner.interval(), Duration::from_secs(99));
        for pause in [45, 35] {
            sleep(Duration::from_secs(pause)).await;
            learner.hears_a_post(Duration::ZERO).await;
        }
        let report = learner.client.keepalive();
        assert_eq!((report.interval, report.misses), (Duration::from_secs(99), 0), "{report:?}");
    };
    let network = Network::Behind(Nat::PortRestricted);
    plays(network, Lifetime::LINUX, config, Some(knows(name)), story);
}

/// A position in no history, by a device that has found out that a network remembers a silent socket for 110 s and not for
/// 240 s.
fn knows(network: NetworkId) -> Resume {
    let mut bytes = vec![3];
    bytes.extend([0; 8 + 8 + 16 + 8]);
    bytes.push(1);
    bytes.extend(network.0);
    bytes.extend([110_000u32, 240_000].map(u32::to_be_bytes).as_flattened());
    bytes.extend([0, 1, 0]);
    let sum = Sha256::digest(&bytes);
    bytes.extend(&sum[..4]);
    Resume::from_bytes(&bytes).expect("as an earlier version wrote it")
}
