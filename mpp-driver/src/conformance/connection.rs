//! Connecting, losing the connection, ending it.

use std::time::Duration;

use mpp_proto::{
    CloseReason, ConnectionState, DisconnectReason, Endpoint, MappingEnd, MappingProgress, NetworkId,
    ServiceEvent,
};

use super::{ALICE, Kit, Proxy, World, device_id, now, number, numbered, ticket, ticket_until};
use crate::{Advice, Client, ClientEvent, ConnectError};

pub async fn a_client_connects_and_says_so<K: Kit>(w: World<K>) {
    let (service, address) = w.service();
    let client = Client::<K>::connect(ticket(1, address));
    let mut events = client.events();
    let connected = w.within(10, "connecting", client.connected()).await.unwrap();
    assert_eq!(connected.service, Some(address));
    assert_eq!(connected.observed, client.observed_endpoint());
    assert!(connected.observed.unwrap().ip().is_loopback() && connected.forward_secret);
    assert_eq!(client.state(), ConnectionState::Connected);
    let told = w.within(5, "the event", async {
        loop {
            if let Some(ClientEvent::Connected(told)) = events.next().await {
                return told;
            }
        }
    });
    assert_eq!(told.await, connected);
    let devices = service.devices(ALICE);
    assert_eq!(devices.iter().map(|d| d.device).collect::<Vec<_>>(), [device_id(1)]);
    assert_eq!(Some(devices[0].path.remote), connected.observed);
    let (client, service) = (client.stats(), service.stats());
    assert!(client.socket.sent >= 2 && client.device.packets_received >= 2, "{client:?}");
    assert!(service.socket.received >= 2 && service.core.connected == 1, "{service:?}");
    // Longer, and the first packet or its answer had to be repeated. Once or twice that may be another scenario, which
    // keeps the runtime's thread busy.
    let mut took = vec![connected.took];
    while took.iter().all(|took| *took >= Duration::from_millis(900)) {
        assert!(took.len() < 4, "{took:?}");
        let next = Client::<K>::connect(ticket(2, address));
        took.push(w.within(10, "connecting again", next.connected()).await.unwrap().took);
    }
}

pub async fn a_dropped_client_is_gone_at_once<K: Kit>(w: World<K>) {
    let (service, address) = w.service();
    let mut events = service.events();
    drop(w.connect(1, address).await);
    let reason = w.within(5, "the device to go", async {
        loop {
            if let Some(ServiceEvent::Closed { reason, .. }) = events.next().await {
                return reason;
            }
        }
    });
    assert_eq!(reason.await, CloseReason::ByDevice);
}

pub async fn another_connection_of_the_same_device_takes_its_place<K: Kit>(w: World<K>) {
    let (service, address) = w.service();
    let first = w.connect(1, address).await;
    let second = w.connect(1, address).await;
    let ended = w.within(10, "the end of the first", async {
        while first.next().await.is_some() {}
        first.connected().await
    });
    let error = ended.await.unwrap_err();
    assert_eq!(error, ConnectError::Aborted(DisconnectReason::Superseded));
    assert_eq!(error.advice(), Advice::GiveUp);
    assert_eq!(service.devices(ALICE).len(), 1);
    service.publish(ALICE, numbered(1)).unwrap();
    assert_eq!(number(&w.next_event(&second).await.1), 1);
}

pub async fn a_refused_ticket_is_told_and_a_new_one_works<K: Kit>(w: World<K>) {
    let (_service, address) = w.service();
    let old = ticket_until(ALICE, now() - Duration::from_secs(60), 1, Endpoint::Address(address));
    let client = Client::<K>::connect(old);
    let error = w.within(10, "a refusal", client.connected()).await.unwrap_err();
    assert!(matches!(error, ConnectError::RenewTicket { .. }), "{error:?}");
    assert_eq!(error.advice(), Advice::RenewTicket);
    client.renew(ticket(1, address));
    w.within(10, "connecting", client.connected()).await.unwrap();
}

pub async fn a_client_moves_to_another_network<K: Kit>(w: World<K>) {
    let (service, address) = w.service();
    let client = w.connect(1, address).await;
    let before = client.observed_endpoint();
    client.network_changed(None);
    w.until(10, "the new address", || client.observed_endpoint() != before).await;
    w.until(10, "the service to follow", || {
        service.devices(ALICE).iter().any(|d| Some(d.path.remote) == client.observed_endpoint())
    })
    .await;
    service.publish(ALICE, numbered(1)).unwrap();
    assert_eq!(number(&w.next_event(&client).await.1), 1);
}

/// What takes half a minute at least is only begun here: the socket, the questions, the silence, and the end of it.
pub async fn a_client_finds_out_on_a_second_socket_how_long_it_is_remembered<K: Kit>(w: World<K>) {
    let (service, address) = w.service();
    let client = w.connect(1, address).await;
    let mut events = client.events();
    let observed = client.observed_endpoint();
    client.measure_mapping().unwrap();
    assert!(client.keepalive().measuring);
    w.until(10, "the probe to wait at the service", || service.stats().core.probes_waiting == 1).await;
    let report = client.keepalive();
    assert_eq!((report.trying, report.interval), (Some(Duration::from_secs(25)), Duration::from_secs(25)));
    assert_eq!((report.proven, report.disproven, report.misses), (None, None, 0));
    assert_eq!(client.observed_endpoint(), observed, "it moves nothing");
    client.network_changed(Some(NetworkId([1; 16])));
    let mut progress = Vec::new();
    w.within(10, "the end", async {
        while progress.last() != Some(&MappingProgress::Ended(MappingEnd::Interrupted)) {
            if let Some(ClientEvent::Mapping(next)) = events.next().await {
                progress.push(next);
            }
        }
    })
    .await;
    assert!(
        matches!(progress[..], [MappingProgress::Trying { .. }, MappingProgress::Ended(_)]),
        "{progress:?}"
    );
    assert_eq!(client.keepalive().network, Some(NetworkId([1; 16])));
    // It goes on, on the other network.
    service.publish(ALICE, numbered(1)).unwrap();
    assert_eq!(number(&w.next_event(&client).await.1), 1);
}

pub async fn a_network_that_goes_away_and_comes_back<K: Kit>(w: World<K>) {
    let (service, address) = w.service();
    let proxy = Proxy::start(address, 0, 1);
    let client = w.connect(1, proxy.address).await;
    proxy.set_loss(100);
    service.publish(ALICE, numbered(1)).unwrap();
    w.sleep(Duration::from_secs(3)).await;
    proxy.set_loss(0);
    assert_eq!(number(&w.next_event(&client).await.1), 1);
}

pub async fn names_are_looked_up_and_unknown_ones_tried_again<K: Kit>(w: World<K>) {
    let (_service, address) = w.service();
    let endpoint = Endpoint::Name { host: "localhost".into(), port: address.port() };
    let client = Client::<K>::connect(ticket_until(ALICE, now() + Duration::from_secs(60), 1, endpoint));
    w.within(15, "connecting", client.connected()).await.unwrap();
    let endpoint = Endpoint::Name { host: "does-not-exist.invalid".into(), port: 1 };
    let client = Client::<K>::connect(ticket_until(ALICE, now() + Duration::from_secs(60), 1, endpoint));
    w.sleep(Duration::from_millis(500)).await;
    assert_eq!(client.state(), ConnectionState::Connecting);
    w.within(5, "closing", client.close()).await;
}

pub async fn a_client_asks_for_its_endpoint<K: Kit>(w: World<K>) {
    let (_service, address) = w.service();
    let client = w.connect(1, address).await;
    let endpoint = w.within(10, "an answer", client.query_endpoint()).await.unwrap();
    assert_eq!(Some(endpoint), client.observed_endpoint());
    let other = w.within(10, "an answer", client.query_endpoint_at(address)).await.unwrap();
    assert!(other.ip() == endpoint.ip() && other.port() != endpoint.port(), "another socket: {other}");
    assert_eq!(Some(endpoint), client.observed_endpoint(), "the connection is where it was");
}

pub async fn an_address_translator_that_forgets<K: Kit>(w: World<K>) {
    let (service, address) = w.service();
    let proxy = Proxy::start(address, 0, 1);
    let client = Client::<K>::builder(ticket(1, proxy.address)).interval(Duration::from_secs(5)).connect();
    w.within(20, "connecting", client.connected()).await.unwrap();
    let before = client.observed_endpoint();
    proxy.forget();
    service.publish(ALICE, numbered(1)).unwrap();
    assert_eq!(number(&w.next_event(&client).await.1), 1);
    w.until(20, "the new address", || client.observed_endpoint() != before).await;
    service.publish(ALICE, numbered(2)).unwrap();
    assert_eq!(number(&w.next_event(&client).await.1), 2);
    assert_eq!(service.devices(ALICE).len(), 1);
}
