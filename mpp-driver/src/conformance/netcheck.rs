//! Looking at the network, beside a client and alone.

use std::time::Duration;

use mpp_proto::{ConnectionState, InUse, TicketCheck, Translation, Udp};

use super::Kit;
use super::world::{World, ticket};
use crate::{Client, Netcheck};

pub async fn a_client_looks_at_its_network<K: Kit>(w: World<K>) {
    let (service, address) = w.service();
    let client = Client::<K>::connect(ticket(1, address));
    w.within(20, "connecting", client.connected()).await.unwrap();
    let mut check = client.netcheck();
    let mut reports = Vec::new();
    while let Some(report) = w.within(15, "a report", check.next()).await {
        reports.push(report);
    }
    assert!(w.within(1, "the end again", check.next()).await.is_none());
    let (last, before) = reports.split_last().unwrap();
    assert!(last.complete && before.len() > 3 && before.iter().all(|r| !r.complete), "{reports:#?}");
    assert_eq!((last.v4.udp, last.v6.udp), (Udp::Works, Udp::NoService));
    assert_eq!((last.v4.translation, last.v4.loss.unwrap().sent), (Translation::None, 10));
    assert_eq!((last.ticket, last.in_use), (TicketCheck::Accepted, InUse::Yes));
    // The client has noticed nothing.
    assert_eq!((client.state(), client.stats().device.connects), (ConnectionState::Connected, 1));
    assert_eq!(service.stats().core.connected, 1);
}

pub async fn a_look_at_the_network_can_be_given_up_and_begun_anew<K: Kit>(w: World<K>) {
    let (_service, address) = w.service();
    let mut check = Netcheck::<K>::new(ticket(1, address));
    for _ in 0..20 {
        // Futures that are dropped lose nothing.
        let _ = w.timeout(Duration::from_millis(20), check.next()).await;
    }
    assert_eq!(check.report().v4.udp, Udp::Works);
    drop(check);
    let report = w.within(15, "the report", Netcheck::<K>::new(ticket(1, address)).finish()).await;
    assert_eq!((report.v4.udp, report.in_use, report.complete), (Udp::Works, InUse::No, true));
}
