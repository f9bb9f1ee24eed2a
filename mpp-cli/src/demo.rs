//! `mpp demo`: the protocol at work in one process, over real UDP on the loopback interface. Every claim it makes is
//! checked, and it succeeds only if all were true.

mod cast;
mod proxy;
mod story;

use std::time::{Duration, Instant};

use bytes::Bytes;
use mpp_tokio::proto::{Event, MAX_PAYLOAD, NotificationKind, StoreId};
use tokio::time::sleep;

use crate::failure::{Failure, Outcome, reason};
use crate::text::{duration, grouped};
use cast::{Cast, Member, Received};
use proxy::Proxy;
use story::{Story, Wire};

/// What should take milliseconds may take this long on a machine that is busy.
const SOON: Duration = Duration::from_secs(5);
/// Time for the last acknowledgements, before packets are counted or silence is believed.
const QUIET: Duration = Duration::from_millis(120);
/// The loss of step 4, in percent of the packets of either way.
const LOSS: u32 = 30;

pub(crate) async fn run() -> Outcome<()> {
    let started = Instant::now();
    let mut story = Story::new();
    story.line(
        "mpp demo: a service and three devices, talking real UDP on this machine's loopback interface",
    )?;

    let cast = Cast::new().await?;
    let proxy = Proxy::start(cast.address(), 15_096)
        .await
        .map_err(|e| Failure::new(format_args!("demo: no UDP on the loopback interface: {}", reason(&e))))?;

    let (phone, laptop, bob) = connect(&mut story, &cast, &proxy).await?;
    small(&mut story, &cast, [&phone, &laptop], &bob).await?;
    large(&mut story, &cast, &bob).await?;
    lossy(&mut story, &cast, &proxy, &bob).await?;
    let laptop = away(&mut story, &cast, &phone, laptop).await?;

    let total = Wire::of(&cast.service);
    tokio::join!(phone.client.close(), laptop.client.close(), bob.client.close());
    cast.service.shutdown(Duration::from_secs(2)).await;
    story.line(format_args!(
        "\n     in all: service sent {} packets, {} bytes; received {} packets, {} bytes",
        grouped(total.sent),
        grouped(total.bytes_sent),
        grouped(total.received),
        grouped(total.bytes_received)
    ))?;
    story.end(started.elapsed())
}

/// Step 1.
async fn connect(story: &mut Story, cast: &Cast, proxy: &Proxy) -> Outcome<(Member, Member, Member)> {
    story.step("Three devices of two accounts connect, each with a ticket")?;
    let before = Wire::of(&cast.service);
    let phone = cast.member("alice@example.com", "phone", cast.address(), None)?;
    let laptop = cast.member("alice@example.com", "laptop", cast.address(), None)?;
    // Through the proxy from the start, which loses nothing until step 4.
    let bob = cast.member("bob@example.net", "phone", proxy.addr(), None)?;
    let mut all_secret = true;
    for member in [&phone, &laptop, &bob] {
        let connected = story.wait("all devices connect", SOON, member.connected()).await??;
        all_secret &= connected.forward_secret;
        let seen = connected.observed.map(|from| format!(", seen from {from}")).unwrap_or_default();
        story.fact(&member.name, format_args!("connected in {:>7}{seen}", duration(connected.took)))?;
    }
    sleep(QUIET).await;
    story.wire(Wire::of(&cast.service).since(before))?;
    story.check("the service counts three devices", cast.service.stats().core.connected == 3)?;
    story.check("a ticket that leaks later opens no recording of this (X25519)", all_secret)?;
    Ok((phone, laptop, bob))
}

/// Step 2.
async fn small(story: &mut Story, cast: &Cast, alice: [&Member; 2], bob: &Member) -> Outcome<()> {
    story.step("Something happened to Alice: 64 bytes to both her devices")?;
    let payload = Bytes::from(format!("{:<64}", "A message arrived from Carol: lunch today at noon?"));
    let before = Wire::of(&cast.service);
    let posted = Instant::now();
    let serial = cast.publish("alice@example.com", Event::with_payload(StoreId::INBOUND, payload.clone()))?;
    let both = async { tokio::join!(alice[0].receive(), alice[1].receive()) };
    let (first, second) = story.wait("both of Alice's devices hear of it", SOON, both).await?;
    let (first, second) = (first?, second?);
    for (member, got) in alice.into_iter().zip([&first, &second]) {
        story.fact(&member.name, format_args!("after {:>11}", duration(got.at.duration_since(posted))))?;
    }
    let bob_heard = tokio::time::timeout(QUIET, bob.receive()).await.is_ok();
    let wire = Wire::of(&cast.service).since(before);
    story.wire(wire)?;
    story.check(
        "both got the 64 bytes that were posted",
        [&first, &second].iter().all(|g| g.is(serial, &payload)),
    )?;
    story.check("Bob's device heard nothing", !bob_heard)?;
    story.check("one packet to each device", wire.sent == 2)
}

/// Step 3.
async fn large(story: &mut Story, cast: &Cast, bob: &Member) -> Outcome<()> {
    story.step("The largest notification: 16,384 bytes to Bob")?;
    let payload = cast::noise(MAX_PAYLOAD, 1);
    let before = Wire::of(&cast.service);
    let posted = Instant::now();
    let serial = cast.publish("bob@example.net", Event::with_payload(StoreId::INBOUND, payload.clone()))?;
    let got = story.wait("Bob's device hears of it", SOON, bob.receive()).await??;
    story.fact(&bob.name, format_args!("after {:>11}", duration(got.at.duration_since(posted))))?;
    sleep(QUIET).await;
    let wire = Wire::of(&cast.service).since(before);
    story.wire(wire)?;
    story.check("one notification, every byte as it was posted", got.is(serial, &payload))?;
    story.check("in at most 16 packets", wire.sent <= 16)
}

/// Step 4.
async fn lossy(story: &mut Story, cast: &Cast, proxy: &Proxy, bob: &Member) -> Outcome<()> {
    story.step("The same again while 30 % of all packets are lost, both ways")?;
    let payload = cast::noise(MAX_PAYLOAD, 2);
    let (before, losses) = (Wire::of(&cast.service), proxy.losses());
    let again_before = cast.service.stats().core.retransmitted;
    proxy.lose(LOSS);
    let posted = Instant::now();
    let serial = cast.publish("bob@example.net", Event::with_payload(StoreId::INBOUND, payload.clone()))?;
    let got = story.wait("Bob's device hears of it in spite of the loss", SOON, bob.receive()).await??;
    story.fact(&bob.name, format_args!("after {:>11}", duration(got.at.duration_since(posted))))?;
    // Acknowledgements may be lost too: what is sent again then must not be delivered again.
    let again = tokio::time::timeout(4 * QUIET, bob.receive()).await.is_ok();
    let (wire, now) = (Wire::of(&cast.service).since(before), proxy.losses());
    proxy.lose(0);
    let (lost_down, lost_up) = (now.to_device.1 - losses.to_device.1, now.to_service.1 - losses.to_service.1);
    story.fact(
        "lost",
        format_args!(
            "{lost_down} of {} packets to the device, {lost_up} of {} from it",
            now.to_device.0 + now.to_device.1 - losses.to_device.0 - losses.to_device.1,
            now.to_service.0 + now.to_service.1 - losses.to_service.0 - losses.to_service.1
        ),
    )?;
    story.fact(
        "sent again",
        format_args!("{} packets", cast.service.stats().core.retransmitted - again_before),
    )?;
    story.wire(wire)?;
    story.check("packets were lost", lost_down > 0)?;
    story.check("and still: one notification, every byte as it was posted", got.is(serial, &payload))?;
    story.check("not delivered a second time", !again)
}

/// Step 5. Returns the laptop that came back.
async fn away(story: &mut Story, cast: &Cast, phone: &Member, laptop: Member) -> Outcome<Member> {
    story.step("Alice's laptop is away for a while, and catches up")?;
    laptop.client.close().await;
    let resume = laptop.client.resume();
    drop(laptop);
    story.check("the service knows that it is gone", cast.service.stats().core.connected == 2)?;

    let mut posted = Vec::new();
    for text in ["the first thing she missed", "the second", "and the third"] {
        let payload = Bytes::from_static(text.as_bytes());
        let serial =
            cast.publish("alice@example.com", Event::with_payload(StoreId::INBOUND, payload.clone()))?;
        posted.push((serial, payload));
    }
    let heard =
        story.wait("the phone hears all three at once", SOON, phone.receive_n(posted.len())).await??;
    story.fact(&phone.name, format_args!("heard {} notifications as they were posted", heard.len()))?;

    let before = Wire::of(&cast.service);
    let laptop = cast.member("alice@example.com", "laptop", cast.address(), Some(resume))?;
    let connected = story.wait("the laptop connects again", SOON, laptop.connected()).await??;
    story.fact(
        &laptop.name,
        format_args!("connected in {}, recovered: {}", duration(connected.took), connected.recovered),
    )?;
    let caught_up = story.wait("the laptop catches up", SOON, laptop.receive_n(posted.len())).await??;
    let more = tokio::time::timeout(QUIET, laptop.receive()).await.is_ok();
    for got in &caught_up {
        if let NotificationKind::Event { serial, payload, .. } = &got.notification.kind {
            story.fact("", format_args!("#{serial}  {}", crate::text::payload(payload, Some(40))))?;
        }
    }
    story.wire(Wire::of(&cast.service).since(before))?;
    let in_order =
        |got: &[Received]| got.iter().zip(&posted).all(|(g, (serial, payload))| g.is(*serial, payload));
    story.check("the service could say that nothing is missing", connected.recovered)?;
    story.check("both devices got the three in order", in_order(&heard) && in_order(&caught_up))?;
    story.check("the laptop got nothing twice", !more)?;
    Ok(laptop)
}
