//! Clients and services over real sockets.

mod common;

use std::future::poll_fn;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use common::proxy::Proxy;
use common::{
    ALICE, LOOPBACK, connect, message, next, next_event, now, number, numbered, service, service_at, ticket,
    ticket_until, until, within,
};
use mpp_tokio::proto::{
    CloseReason, CommandError, ConnectionState, DeviceId, DisconnectReason, Endpoint, Event, EventError,
    NotificationKind, PublishError, Serial, ServiceEvent, StoreId, StoreSet,
};
use mpp_tokio::{Advice, BindError, CallError, Client, ClientEvent, ConnectError, Service};

#[tokio::test]
async fn a_client_connects_and_says_so() {
    let (service, address) = service();
    let client = Client::connect(ticket(1, address));
    let mut events = client.events();
    let connected = within(10, "connecting", client.connected()).await.unwrap();
    assert_eq!(connected.service, address);
    assert_eq!(Some(connected.observed), client.observed_endpoint());
    assert!(connected.observed.ip().is_loopback() && connected.forward_secret);
    assert_eq!(client.state(), ConnectionState::Connected);
    let told = within(5, "the event", async {
        loop {
            if let Some(ClientEvent::Connected(told)) = events.next().await {
                return told;
            }
        }
    });
    assert_eq!(told.await, connected);
    let devices = service.devices(ALICE);
    assert_eq!(devices.iter().map(|d| d.device).collect::<Vec<_>>(), [DeviceId([1; 16])]);
    assert_eq!(devices[0].path.remote, connected.observed);
    let (client, service) = (client.stats(), service.stats());
    assert!(client.socket.sent >= 2 && client.device.packets_received >= 2, "{client:?}");
    assert!(service.socket.received >= 2 && service.core.connected == 1, "{service:?}");
}

#[tokio::test]
async fn small_and_large_notifications_arrive() {
    let (service, address) = service();
    let client = connect(1, address).await;
    for size in [1, 64, 1_000, 1_200, 5_000, 16_384] {
        let payload: Vec<u8> = (0..size).map(|i| (i % 253) as u8).collect();
        let serial = service.publish(ALICE, message(payload.clone())).unwrap();
        let (got_serial, got) = next_event(&client).await;
        assert_eq!(got_serial, serial);
        assert!(got == payload, "{size} bytes were changed on the way");
    }
    let before = client.stats().device.packets_received;
    service.publish(ALICE, Event::changed(StoreId::CONTACT)).unwrap();
    let changed = next(&client).await;
    assert_eq!(changed.kind, NotificationKind::Changed([StoreId::CONTACT].into_iter().collect()));
    assert!(client.stats().device.packets_received - before <= 2);
    let too_large = service.publish(ALICE, message(vec![0; 16_385]));
    assert_eq!(too_large, Err(PublishError::Event(EventError::Payload { size: 16_385 })));
}

#[tokio::test]
async fn a_device_posts_to_its_own_channel() {
    let (_service, address) = service();
    let (phone, laptop) = (connect(1, address).await, connect(2, address).await);
    let serial = within(10, "posting", phone.post(&message("hello"))).await.unwrap();
    assert_eq!(serial, Some(Serial(1)));
    assert_eq!(next_event(&laptop).await, (Serial(1), "hello".into()));
    let error = within(1, "a refusal", phone.post(&message(vec![0; 2_000]))).await.unwrap_err();
    let CallError::Command(CommandError::TooLarge { size, limit }) = error else { panic!("{error:?}") };
    assert!(size > 2_000 && (1_000..1_200).contains(&limit), "{size} {limit}");
    assert_eq!(error.advice(), Advice::GiveUp);
    assert!(error.to_string().contains(&limit.to_string()));
}

#[tokio::test]
async fn a_filter_replaces_the_one_before() {
    let (service, address) = service();
    let client = connect(1, address).await;
    let contacts: StoreSet = [StoreId::CONTACT].into_iter().collect();
    let newest = within(10, "subscribing", client.subscribe(contacts)).await.unwrap();
    assert_eq!(newest, Serial(0));
    service.publish(ALICE, message("not for this one")).unwrap();
    service.publish(ALICE, Event::changed(StoreId::CONTACT)).unwrap();
    assert_eq!(next(&client).await.kind, NotificationKind::Changed(contacts));
}

#[tokio::test]
async fn what_was_missed_comes_with_the_next_client() {
    let (service, address) = service();
    let client = connect(1, address).await;
    service.publish(ALICE, numbered(1)).unwrap();
    let first = next(&client).await;
    client.acknowledge(first.position);
    let resume = client.resume();
    assert_eq!(resume.position(), Serial(1));
    within(5, "closing", client.close()).await;
    until(5, "the device to go", || service.devices(ALICE).is_empty()).await;
    for n in 2..=4 {
        service.publish(ALICE, numbered(n)).unwrap();
    }
    let saved = Arc::new(Mutex::new(None));
    let save = saved.clone();
    let client = Client::builder(ticket(1, address))
        .resume(resume)
        .on_resume(move |resume| *save.lock().unwrap() = Some(resume.clone()))
        .connect();
    assert!(within(10, "connecting", client.connected()).await.unwrap().recovered);
    for n in 2..=4 {
        assert_eq!(number(&next_event(&client).await.1), n);
    }
    client.acknowledge(Serial(4));
    let position = || saved.lock().unwrap().as_ref().map(|r: &mpp_tokio::proto::Resume| r.position());
    until(5, "the hook", || position() == Some(Serial(4))).await;
}

#[tokio::test]
async fn what_was_not_acknowledged_comes_again() {
    let (service, address) = service();
    let start = |resume| {
        let builder = Client::builder(ticket(1, address)).manual_acknowledgement();
        match resume {
            Some(resume) => builder.resume(resume).connect(),
            None => builder.connect(),
        }
    };
    let client = start(None);
    within(10, "connecting", client.connected()).await.unwrap();
    for n in 1..=3 {
        service.publish(ALICE, numbered(n)).unwrap();
    }
    for n in 1..=3 {
        let notification = next(&client).await;
        if n == 2 {
            client.acknowledge(notification.position);
        }
    }
    let resume = client.resume();
    assert_eq!(resume.position(), Serial(2));
    within(5, "closing", client.close()).await;
    assert_eq!(client.next().await, None);
    let client = start(Some(resume));
    assert_eq!(number(&next_event(&client).await.1), 3);
}

#[tokio::test]
async fn a_restarted_service_is_found_again_and_owns_up() {
    // The first life has a runtime of its own: with that it is killed, not shut down.
    let first_life = runtime();
    let killed = first_life.inside(|| service_at(LOOPBACK));
    let address = killed.local_addrs()[0];
    let client = connect(1, address).await;
    let mut events = client.events();
    killed.publish(ALICE, numbered(1)).unwrap();
    assert_eq!(number(&next_event(&client).await.1), 1);
    first_life.shutdown_background();
    until(5, "the port", || std::net::UdpSocket::bind(address).is_ok()).await;
    let service = service_at(address);
    // Something makes the device speak; the service answers with a reset, and the device comes back at once.
    let posted = tokio::spawn({
        let client = Arc::new(client);
        async move {
            let _ = client.post(&message("is anybody there?")).await;
            client
        }
    });
    let (mut reset, mut recovered) = (false, None);
    within(15, "reconnecting", async {
        while recovered.is_none() {
            match events.next().await.expect("the client is closed") {
                ClientEvent::Disconnected { reason, .. } => reset |= reason == DisconnectReason::Reset,
                ClientEvent::Connected(c) if reset => recovered = Some(c.recovered),
                _ => {}
            }
        }
    })
    .await;
    assert!(reset, "by timeout, not by reset");
    assert_eq!(recovered, Some(false), "history was lost, and the device must hear of it");
    let client = within(60, "the post", posted).await.unwrap();
    assert!(matches!(next(&client).await.kind, NotificationKind::Gap(_)));
    assert_eq!(service.devices(ALICE).len(), 1);
}

/// To make something on another runtime than the test's.
trait Inside {
    fn inside<T>(&self, f: impl FnOnce() -> T) -> T;
}

impl Inside for tokio::runtime::Runtime {
    fn inside<T>(&self, f: impl FnOnce() -> T) -> T {
        let _inside = self.enter();
        f()
    }
}

#[tokio::test]
async fn a_shut_down_service_tells_its_devices_and_frees_its_port() {
    let (service, address) = service();
    let client = connect(1, address).await;
    let mut events = client.events();
    within(5, "shutting down", service.shutdown(Duration::from_secs(3))).await;
    assert_eq!(service.publish(ALICE, numbered(1)), Err(PublishError::Closed));
    let reason = within(5, "being told", async {
        loop {
            if let Some(ClientEvent::Disconnected { reason, .. }) = events.next().await {
                return reason;
            }
        }
    });
    assert!(matches!(reason.await, DisconnectReason::ByService(_)));
    let service = service_at(address);
    within(15, "coming back", client.connected()).await.unwrap();
    assert_eq!(service.devices(ALICE).len(), 1);
}

#[tokio::test]
async fn a_dropped_client_is_gone_at_once() {
    let (service, address) = service();
    let mut events = service.events();
    drop(connect(1, address).await);
    let reason = within(5, "the device to go", async {
        loop {
            if let Some(ServiceEvent::Closed { reason, .. }) = events.next().await {
                return reason;
            }
        }
    });
    assert_eq!(reason.await, CloseReason::ByDevice);
}

#[tokio::test]
async fn a_dropped_service_ends() {
    let (service, address) = service();
    let (again, mut events) = (service.clone(), service.events());
    drop(service);
    assert_eq!(again.publish(ALICE, numbered(1)), Ok(Serial(1)));
    drop(again);
    within(5, "the end", async { while events.next().await.is_some() {} }).await;
    std::net::UdpSocket::bind(address).unwrap();
}

#[tokio::test]
async fn another_connection_of_the_same_device_takes_its_place() {
    let (service, address) = service();
    let first = connect(1, address).await;
    let second = connect(1, address).await;
    let ended = within(10, "the end of the first", async {
        while first.next().await.is_some() {}
        first.connected().await
    });
    let error = ended.await.unwrap_err();
    assert_eq!(error, ConnectError::Aborted(DisconnectReason::Superseded));
    assert_eq!(error.advice(), Advice::GiveUp);
    assert_eq!(service.devices(ALICE).len(), 1);
    service.publish(ALICE, numbered(1)).unwrap();
    assert_eq!(number(&next_event(&second).await.1), 1);
}

#[tokio::test]
async fn a_refused_ticket_is_told_and_a_new_one_works() {
    let (_service, address) = service();
    let old = ticket_until(now() - Duration::from_secs(60), 1, Endpoint::Address(address));
    let client = Client::connect(old);
    let error = within(10, "a refusal", client.connected()).await.unwrap_err();
    assert!(matches!(error, ConnectError::RenewTicket { .. }), "{error:?}");
    assert_eq!(error.advice(), Advice::RenewTicket);
    client.renew(ticket(1, address));
    within(10, "connecting", client.connected()).await.unwrap();
}

#[tokio::test]
async fn futures_may_be_dropped_at_any_time() {
    let (service, address) = service();
    let client = connect(1, address).await;
    let mut got = Vec::new();
    let publisher = async {
        for n in 1..=200 {
            service.publish(ALICE, numbered(n)).unwrap();
            until(10, "the device to be told", || service.devices(ALICE).iter().all(|d| d.told.0 + 16 > n))
                .await;
        }
    };
    let reader = async {
        while got.len() < 200 {
            // Each future is polled once or for a moment, then dropped.
            let mut next = pin!(client.next());
            let polled = poll_fn(|cx| Poll::Ready(next.as_mut().poll(cx))).await;
            let notification = match polled {
                Poll::Ready(n) => n,
                Poll::Pending => tokio::select! {
                    biased;
                    n = client.next() => n,
                    () = tokio::time::sleep(Duration::from_micros(got.len() as u64 % 7 * 100)) => continue,
                },
            };
            let NotificationKind::Event { serial, payload, .. } = notification.unwrap().kind else {
                panic!("a gap")
            };
            assert_eq!(serial.0, number(&payload));
            got.push(serial.0);
        }
    };
    within(60, "200 events", async { tokio::join!(publisher, reader) }).await;
    assert_eq!(got, (1..=200).collect::<Vec<_>>());
    // Requests whose futures are dropped leave nothing behind, and later ones get their own answers.
    let changed = Event::changed(StoreId::CONTACT);
    for _ in 0..100 {
        let mut post = pin!(client.post(&changed));
        let _ = poll_fn(|cx| Poll::Ready(post.as_mut().poll(cx))).await;
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    until(10, "the posts", || service.head(ALICE).unwrap().newest >= Serial(201)).await;
}

#[tokio::test]
async fn a_client_that_is_not_polled_loses_nothing() {
    let (service, address) = service();
    let client = connect(1, address).await;
    // The queue of the device takes 64; the ring of the channel keeps 32 for it.
    for n in 1..=90 {
        service.publish(ALICE, numbered(n)).unwrap();
        tokio::time::sleep(Duration::from_millis(15)).await;
    }
    for n in 1..=90 {
        assert_eq!(number(&next_event(&client).await.1), n);
    }
}

#[tokio::test]
async fn a_client_moves_to_another_network() {
    let (service, address) = service();
    let client = connect(1, address).await;
    let before = client.observed_endpoint();
    client.network_changed();
    until(10, "the new address", || client.observed_endpoint() != before).await;
    until(10, "the service to follow", || {
        service.devices(ALICE).iter().any(|d| Some(d.path.remote) == client.observed_endpoint())
    })
    .await;
    service.publish(ALICE, numbered(1)).unwrap();
    assert_eq!(number(&next_event(&client).await.1), 1);
}

#[tokio::test]
async fn a_network_that_goes_away_and_comes_back() {
    let (service, address) = service();
    let proxy = Proxy::start(address, 0, 1).await;
    let client = connect(1, proxy.address).await;
    proxy.set_loss(100);
    service.publish(ALICE, numbered(1)).unwrap();
    tokio::time::sleep(Duration::from_secs(3)).await;
    proxy.set_loss(0);
    assert_eq!(number(&next_event(&client).await.1), 1);
}

#[tokio::test]
async fn names_are_looked_up_and_unknown_ones_tried_again() {
    let (_service, address) = service();
    let endpoint = Endpoint::Name { host: "localhost".into(), port: address.port() };
    let client = Client::connect(ticket_until(now() + Duration::from_secs(60), 1, endpoint));
    within(15, "connecting", client.connected()).await.unwrap();
    let endpoint = Endpoint::Name { host: "does-not-exist.invalid".into(), port: 1 };
    let client = Client::connect(ticket_until(now() + Duration::from_secs(60), 1, endpoint));
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(client.state(), ConnectionState::Connecting);
    within(5, "closing", client.close()).await;
}

#[tokio::test]
async fn a_service_listens_on_several_addresses() {
    let mut listen = vec![LOOPBACK.parse().unwrap(), "127.0.0.2:0".parse().unwrap()];
    if std::net::UdpSocket::bind("[::1]:0").is_ok() {
        listen.push("[::]:0".parse().unwrap());
    }
    let service = service_at(&listen[..]);
    let mut clients = Vec::new();
    for (i, address) in service.local_addrs().iter().enumerate() {
        let mut address = *address;
        if address.ip().is_unspecified() {
            address.set_ip("::1".parse().unwrap());
        }
        clients.push(connect(i as u8, address).await);
    }
    service.publish(ALICE, message("to all")).unwrap();
    for client in &clients {
        assert_eq!(next_event(client).await.1, "to all");
    }
}

#[tokio::test]
async fn two_clients_of_a_dual_stack_service_use_both_families() {
    if std::net::UdpSocket::bind("[::1]:0").is_err() {
        println!("skipped: this machine has no IPv6");
        return;
    }
    let service = service_at("[::]:0");
    let port = service.local_addrs()[0].port();
    for (device, ip) in [(1, "127.0.0.1"), (2, "::1")] {
        let client = connect(device, std::net::SocketAddr::new(ip.parse().unwrap(), port)).await;
        assert_eq!(client.observed_endpoint().unwrap().ip().to_string(), ip);
    }
}

#[tokio::test]
async fn errors_of_binding_say_what_to_do() {
    let (_service, address) = service();
    let error = Service::bind(address, common::config()).unwrap_err();
    assert!(matches!(error, BindError::InUse { .. }), "{error:?}");
    assert!(error.to_string().contains(&address.to_string()), "{error}");
    assert_eq!(error.advice(), Advice::Retry);
    let error = Service::bind("192.0.2.1:0", common::config()).unwrap_err();
    assert!(matches!(error, BindError::NotLocal { .. }), "{error:?}");
    let none: [std::net::SocketAddr; 0] = [];
    assert!(matches!(Service::bind(&none[..], common::config()), Err(BindError::Count { count: 0 })));
    assert!(matches!(Service::bind("nonsense", common::config()), Err(BindError::Addresses { .. })));
}

#[tokio::test]
async fn foreign_packets_change_nothing_but_counters() {
    let (service, address) = service();
    let stranger = std::net::UdpSocket::bind(LOOPBACK).unwrap();
    let before = service.stats().core;
    for size in 1..=1_500 {
        let packet: Vec<u8> = (0..size).map(|i| (i * 31 + size) as u8).collect();
        stranger.send_to(&packet, address).unwrap();
        if size % 50 == 0 {
            until(5, "the packets", || service.stats().socket.received >= size as u64).await;
        }
    }
    let after = service.stats().core;
    let dropped = |stats: mpp_tokio::proto::ServiceStats| stats.foreign + stats.dropped.iter().sum::<u64>();
    assert_eq!(dropped(after) - dropped(before), 1_500);
    assert_eq!((after.connected, after.packets_sent), (0, 0));
    let client = connect(1, address).await;
    service.publish(ALICE, numbered(1)).unwrap();
    assert_eq!(number(&next_event(&client).await.1), 1);
}

#[tokio::test]
async fn nobody_works_while_nothing_happens() {
    let (service, address) = service();
    let client = connect(1, address).await;
    service.publish(ALICE, numbered(1)).unwrap();
    next_event(&client).await;
    // Acknowledgements and the like have their time to settle.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let calls = || {
        let (client, service) = (client.stats().socket, service.stats().socket);
        client.receive_calls + client.send_calls + service.receive_calls + service.send_calls
    };
    let before = calls();
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(calls(), before);
}

#[test]
fn a_runtime_that_ends_leaves_nobody_waiting() {
    let (first, second) = (runtime(), runtime());
    let client = first.inside(|| Client::connect(ticket(1, "127.0.0.1:9".parse().unwrap())));
    let service = first.inside(|| service_at(LOOPBACK));
    let waiting = second.spawn(async move {
        let ended = client.next().await;
        (ended.is_none(), client.connected().await, client.post(&message("late")).await)
    });
    std::thread::sleep(Duration::from_millis(50));
    first.shutdown_background();
    let (ended, connected, posted) =
        second.block_on(async { within(5, "the end", waiting).await.expect("a panic") });
    assert!(ended && matches!(connected, Err(ConnectError::Aborted(_))));
    assert_eq!(posted, Err(CallError::Command(CommandError::Closed)));
    second.block_on(within(5, "shutting down", service.shutdown(Duration::from_secs(60))));
    assert_eq!(service.publish(ALICE, numbered(1)), Err(PublishError::Closed));
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}
