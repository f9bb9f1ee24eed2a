//! Services: listening, shutting down, starting again.

use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use mpp_proto::{
    AccountHead, AccountId, CommandError, ConnectionState, DisconnectReason, Endpoint, NotificationKind,
    PublishError, Serial, TicketKey,
};

use super::{
    ALICE, Kit, LOOPBACK, Lab, World, all, config, device_id, key, message, now, number, numbered, ticket,
    ticket_until,
};
use crate::{Advice, BindError, CallError, Client, ClientEvent, ConnectError, Service};

pub async fn a_restarted_service_is_found_again_and_owns_up<K: Kit>(w: World<K>) {
    // The first life has a runtime of its own: with that it is killed, not shut down.
    let first_life = Lab::<K>::new();
    let killed = Service::bind_on(first_life.clone(), LOOPBACK, config()).unwrap();
    killed.restore(AccountHead::new(AccountId::of(ALICE))).unwrap();
    let address = killed.local_addrs()[0];
    let client = w.connect(1, address).await;
    let mut events = client.events();
    killed.publish(ALICE, numbered(1)).unwrap();
    assert_eq!(number(&w.next_event(&client).await.1), 1);
    first_life.kill();
    w.until(5, "the port", || UdpSocket::bind(address).is_ok()).await;
    let service = w.service_at(address);
    // Something makes the device speak; the service answers with a reset, and the device comes back at once.
    let event = message("is anybody there?");
    let post = async {
        let _ = client.post(&event).await;
    };
    let (mut reset, mut recovered) = (false, None);
    let reconnect = async {
        while recovered.is_none() {
            match events.next().await.expect("the client is closed") {
                ClientEvent::Disconnected { reason, .. } => reset |= reason == DisconnectReason::Reset,
                ClientEvent::Connected(c) if reset => recovered = Some(c.recovered),
                _ => {}
            }
        }
    };
    w.within(60, "reconnecting and the post", all(vec![Box::pin(post), Box::pin(reconnect)])).await;
    assert!(reset, "by timeout, not by reset");
    assert_eq!(recovered, Some(false), "history was lost, and the device must hear of it");
    assert!(matches!(w.next(&client).await.kind, NotificationKind::Gap(_)));
    assert_eq!(service.devices(ALICE).len(), 1);
}

pub async fn a_shut_down_service_tells_its_devices_and_frees_its_port<K: Kit>(w: World<K>) {
    let (service, address) = w.service();
    let client = w.connect(1, address).await;
    let mut events = client.events();
    w.within(5, "shutting down", service.shutdown(Duration::from_secs(3))).await;
    assert_eq!(service.publish(ALICE, numbered(1)), Err(PublishError::Closed));
    let reason = w.within(5, "being told", async {
        loop {
            if let Some(ClientEvent::Disconnected { reason, .. }) = events.next().await {
                return reason;
            }
        }
    });
    assert!(matches!(reason.await, DisconnectReason::ByService(_)));
    let service = w.service_at(address);
    w.within(15, "coming back", client.connected()).await.unwrap();
    assert_eq!(service.devices(ALICE).len(), 1);
}

pub async fn a_dropped_service_ends<K: Kit>(w: World<K>) {
    let (service, address) = w.service();
    let (again, mut events) = (service.clone(), service.events());
    drop(service);
    assert_eq!(again.publish(ALICE, numbered(1)), Ok(Serial(1)));
    drop(again);
    w.within(5, "the end", async { while events.next().await.is_some() {} }).await;
    UdpSocket::bind(address).unwrap();
}

pub async fn a_service_listens_on_several_addresses<K: Kit>(w: World<K>) {
    let mut listen = vec![LOOPBACK.parse().unwrap(), "127.0.0.2:0".parse().unwrap()];
    if UdpSocket::bind("[::1]:0").is_ok() {
        listen.push("[::]:0".parse().unwrap());
    }
    let service = w.service_at(&listen[..]);
    let mut clients = Vec::new();
    for (i, address) in service.local_addrs().iter().enumerate() {
        let mut address = *address;
        if address.ip().is_unspecified() {
            address.set_ip("::1".parse().unwrap());
        }
        clients.push(w.connect(i as u32, address).await);
    }
    service.publish(ALICE, message("to all")).unwrap();
    for client in &clients {
        assert_eq!(w.next_event(client).await.1, "to all");
    }
}

pub async fn two_clients_of_a_dual_stack_service_use_both_families<K: Kit>(w: World<K>) {
    if UdpSocket::bind("[::1]:0").is_err() {
        println!("skipped: this machine has no IPv6");
        return;
    }
    let service = w.service_at("[::]:0");
    let port = service.local_addrs()[0].port();
    for (device, ip) in [(1, "127.0.0.1"), (2, "::1")] {
        let client = w.connect(device, SocketAddr::new(ip.parse().unwrap(), port)).await;
        assert_eq!(client.observed_endpoint().unwrap().ip().to_string(), ip);
    }
}

pub async fn errors_of_binding_say_what_to_do<K: Kit>(w: World<K>) {
    let (_service, address) = w.service();
    let error = Service::<K>::bind(address, config()).unwrap_err();
    assert!(matches!(error, BindError::InUse { .. }), "{error:?}");
    assert!(error.to_string().contains(&address.to_string()), "{error}");
    assert_eq!(error.advice(), Advice::Retry);
    let error = Service::<K>::bind("192.0.2.1:0", config()).unwrap_err();
    assert!(matches!(error, BindError::NotLocal { .. }), "{error:?}");
    let none: [SocketAddr; 0] = [];
    assert!(matches!(Service::<K>::bind(&none[..], config()), Err(BindError::Count { count: 0 })));
    assert!(matches!(Service::<K>::bind("nonsense", config()), Err(BindError::Addresses { .. })));
}

pub async fn foreign_packets_change_nothing_but_counters<K: Kit>(w: World<K>) {
    let (service, address) = w.service();
    let stranger = UdpSocket::bind(LOOPBACK).unwrap();
    let before = service.stats().core;
    for size in 1..=1_500 {
        let packet: Vec<u8> = (0..size).map(|i| (i * 31 + size) as u8).collect();
        stranger.send_to(&packet, address).unwrap();
        if size % 50 == 0 {
            w.until(5, "the packets", || service.stats().socket.received >= size as u64).await;
        }
    }
    let after = service.stats().core;
    let dropped = |stats: mpp_proto::ServiceStats| stats.foreign + stats.dropped.iter().sum::<u64>();
    assert_eq!(dropped(after) - dropped(before), 1_500);
    assert_eq!((after.connected, after.packets_sent), (0, 0));
    let client = w.connect(1, address).await;
    service.publish(ALICE, numbered(1)).unwrap();
    assert_eq!(number(&w.next_event(&client).await.1), 1);
}

pub async fn a_runtime_that_ends_leaves_nobody_waiting<K: Kit>(w: World<K>) {
    let lab = Lab::<K>::new();
    let client = Client::builder_on(lab.clone(), ticket(1, "127.0.0.1:9".parse().unwrap())).connect();
    let service = Service::bind_on(lab.clone(), LOOPBACK, config()).unwrap();
    let late = message("late");
    let waiting = async {
        assert_eq!(client.next().await, None);
        assert!(matches!(client.connected().await, Err(ConnectError::Aborted(_))));
        assert_eq!(client.post(&late).await, Err(CallError::Command(CommandError::Closed)));
    };
    let end = async {
        w.sleep(Duration::from_millis(50)).await;
        lab.kill();
    };
    w.within(10, "the end", all(vec![Box::pin(waiting), Box::pin(end)])).await;
    w.within(10, "shutting down", service.shutdown(Duration::from_secs(60))).await;
    assert_eq!(service.publish(ALICE, numbered(1)), Err(PublishError::Closed));
}

pub async fn ticket_keys_are_replaced_while_a_service_runs<K: Kit>(w: World<K>) {
    let (service, address) = w.service();
    let first = w.connect(1, address).await;
    service.set_ticket_keys(&[]);
    let second: Client<K> = Client::connect(ticket(2, address));
    w.sleep(Duration::from_millis(300)).await;
    assert_ne!(second.state(), ConnectionState::Connected);
    assert_eq!(first.state(), ConnectionState::Connected, "it lives on");
    service.set_ticket_keys(&[TicketKey::new([9; 4], [9; 32]), key()]);
    w.within(20, "connecting", second.connected()).await.unwrap();
}

pub async fn a_revoked_ticket_is_refused_and_a_newer_one_is_not<K: Kit>(w: World<K>) {
    let (service, address) = w.service();
    let (client, other) = (w.connect(1, address).await, w.connect(2, address).await);
    let issued_before = now() + Duration::from_secs(1);
    service.revoke(ALICE, device_id(1), issued_before);
    let refused = async {
        loop {
            match client.connected().await {
                Ok(_) => w.sleep(Duration::from_millis(10)).await,
                Err(error) => return error,
            }
        }
    };
    let error = w.within(20, "a refusal", refused).await;
    assert!(matches!(error, ConnectError::RenewTicket { .. }), "{error:?}");
    // A ticket lives for an hour here, so that one that ends later was issued later.
    let expiry = issued_before + Duration::from_secs(3601);
    client.renew(ticket_until(ALICE, expiry, 1, Endpoint::Address(address)));
    w.within(20, "connecting", client.connected()).await.unwrap();
    service.publish(ALICE, numbered(1)).unwrap();
    for client in [&client, &other] {
        assert_eq!(number(&w.next_event(client).await.1), 1);
    }
}
