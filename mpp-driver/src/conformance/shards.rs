//! Several shards behind one handle.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use mpp_proto::{
    AccountHead, AccountId, DisconnectReason, Endpoint, PublishError, Router, Serial, ServiceConfig,
    ServiceEvent, TicketKey,
};

use super::{Kit, LOOPBACK, World, config, device_id, message, ticket_by, ticket_of};
use crate::{BindError, Client, ClientEvent, ConnectError, Service};

const SHARDS: u16 = 4;
const ACCOUNTS: usize = 8;
const EACH: u32 = 3;

fn sharded(shards: u16) -> ServiceConfig {
    let mut config = config();
    config.shards = shards;
    config
}

pub async fn several_shards_behind_one_handle<K: Kit>(w: World<K>) {
    for shards in [0, 257] {
        let error = Service::<K>::bind(LOOPBACK, sharded(shards)).unwrap_err();
        assert!(matches!(error, BindError::Shards { .. }), "{error:?}");
    }
    let service = Service::<K>::bind(LOOPBACK, sharded(SHARDS)).unwrap();
    let address = service.local_addrs()[0];
    assert_eq!(service.local_addrs().len(), 1);
    // Nobody else gets at the port, not even another service with shards.
    let error = Service::<K>::bind(address, sharded(SHARDS)).unwrap_err();
    assert!(matches!(error, BindError::InUse { .. }), "{error:?}");

    let names: Vec<String> = (0..ACCOUNTS).map(|n| format!("account {n}")).collect();
    let router = Router::new(&sharded(SHARDS));
    let homes: BTreeSet<_> = names.iter().map(|name| router.shard_of(&AccountId::of(name))).collect();
    assert_eq!(homes.len(), usize::from(SHARDS), "the accounts are on all shards");
    let mut events = service.events();
    let mut clients = Vec::new();
    for name in &names {
        service.restore(AccountHead::new(AccountId::of(name))).unwrap();
        clients.extend((0..EACH).map(|n| Client::<K>::connect(ticket_of(name, n, address))));
    }
    let (mut connected, mut epochs) = (BTreeSet::new(), BTreeMap::new());
    while connected.len() < clients.len() {
        match w.within(20, "a device", events.next()).await.expect("the service is closed") {
            ServiceEvent::Connected { account, device, .. } => assert!(connected.insert((account, device))),
            ServiceEvent::Epoch { account, epoch } => assert_eq!(epochs.insert(account, epoch), None),
            other => panic!("{other:?}"),
        }
    }
    for (i, name) in names.iter().enumerate() {
        assert_eq!(service.publish(name, message(name.clone())), Ok(Serial(1)));
        for client in &clients[i * EACH as usize..][..EACH as usize] {
            assert_eq!(w.next_event(client).await.1, name.as_bytes());
            client.acknowledge(Serial(1));
        }
        assert_eq!(service.devices(name).len(), EACH as usize);
        let head = service.head(name).unwrap();
        assert_eq!((head.newest, head.epoch.as_ref()), (Serial(1), epochs.get(&head.account)));
    }
    let stats = service.stats();
    assert_eq!((stats.core.connected, stats.core.published), (connected.len() as u64, ACCOUNTS as u64));
    assert!(stats.socket.handed_over > 0 && stats.socket.hand_over_drops == 0, "{stats:?}");
    // One may be on its way, counted by the shard it came to and not yet by the one it is for.
    w.until(5, "what was handed over", || {
        let stats = service.stats();
        stats.core.other_shard == stats.socket.handed_over
    })
    .await;
    assert_eq!((stats.core.dropped.iter().sum::<u64>(), stats.core.resets), (0, 0), "{stats:?}");
    let mut positions = BTreeSet::new();
    w.until(20, "every position", || {
        let moved = service.drain_positions(5);
        assert!(moved.len() <= 5);
        positions.extend(moved.into_iter().map(|(account, device, _, position)| (account, device, position)));
        positions.len() == clients.len()
    })
    .await;
    drop(clients.remove(0));
    let at = |name| service.devices(name).len();
    w.until(5, "a farewell", || at(&names[0]) == 2).await;
    service.revoke(&names[7], device_id(0), super::now());
    w.until(5, "a revocation", || at(&names[7]) == 2).await;
    let revoked = clients.remove(clients.len() - EACH as usize);
    w.within(5, "a refusal", async {
        while !matches!(revoked.connected().await, Err(ConnectError::RenewTicket { .. })) {
            w.yield_now().await;
        }
    })
    .await;
    // A new ticket key is one on every shard.
    let (new, expiry) = (TicketKey::new([9; 4], [9; 32]), super::now() + Duration::from_secs(600));
    service.set_ticket_keys(&[new.clone(), super::key()]);
    for name in &names {
        let ticket = ticket_by(&new, name, expiry, EACH, Endpoint::Address(address));
        let client = Client::<K>::connect(ticket);
        w.within(20, "connecting", client.connected()).await.unwrap();
        client.close().await;
    }
    end(&w, service, address, &clients).await;
}

/// All of them end at once, and free the port; a service with fewer of them takes the devices over.
async fn end<K: Kit>(w: &World<K>, service: Service<K>, address: SocketAddr, clients: &[Client<K>]) {
    let mut told: Vec<_> = clients.iter().map(Client::events).collect();
    w.within(5, "shutting down", service.shutdown(Duration::from_secs(3))).await;
    assert_eq!(service.publish("account 0", message("late")), Err(PublishError::Closed));
    let service = w.within(5, "the port", async { UdpSocket::bind(address).map(drop) }).await;
    service.unwrap();
    let again = Service::<K>::bind(address, sharded(2)).unwrap();
    for events in &mut told {
        let reason = w.within(5, "being told", async {
            loop {
                if let Some(ClientEvent::Disconnected { reason, .. }) = events.next().await {
                    return reason;
                }
            }
        });
        assert!(matches!(reason.await, DisconnectReason::ByService(_)));
    }
    w.until(20, "coming back", || again.stats().core.connected == clients.len() as u64).await;
}
