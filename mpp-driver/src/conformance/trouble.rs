//! Tasks that are not run, sockets that fail, machines that sleep, applications that do not listen.

use std::sync::Arc;
use std::time::Duration;

use super::{ALICE, Kit, Lab, World, message, number, numbered, ticket};
use crate::{AnyRuntime, Client, ClientEvent};

/// A client in a laboratory, connected.
async fn in_lab<K: Kit>(
    w: &World<K>,
    lab: &Arc<Lab<K>>,
    service: std::net::SocketAddr,
    interval: u64,
) -> Client<AnyRuntime> {
    let builder = Client::builder_on(lab.clone(), ticket(1, service));
    let client = builder.interval(Duration::from_secs(interval)).connect();
    w.within(20, "connecting", client.connected()).await.unwrap();
    client
}

pub async fn a_client_that_is_not_polled_for_minutes_loses_nothing<K: Kit>(w: World<K>) {
    let ((service, address), lab) = (w.service(), Lab::<K>::new());
    let client = in_lab(&w, &lab, address, 25).await;
    // The queue of the device takes 64; the ring of the channel keeps 32 for it, which must not overflow before the queue
    // is full. The device's clock goes on by 3 s for each.
    for n in 1..=90 {
        service.publish(ALICE, numbered(n)).unwrap();
        let told = || service.devices(ALICE).first().is_some_and(|d| d.told.0 >= n.min(60));
        w.until(30, "the device to be told", told).await;
        w.sleep(Duration::from_millis(15)).await;
        lab.sleep(Duration::from_secs(3));
    }
    for n in 1..=90 {
        assert_eq!(number(&w.next_event(&client).await.1), n);
    }
}

pub async fn a_starved_client_loses_nothing<K: Kit>(w: World<K>) {
    let ((service, address), lab) = (w.service(), Lab::<K>::new());
    let client = in_lab(&w, &lab, address, 25).await;
    let mut n = 0;
    // For a moment, for seconds, and for so long that the connection is dead when the task runs again.
    for (held, slept) in [(100, 0), (3_000, 0), (500, 600)] {
        // What the service does not know to have arrived it would have to call lost when the ring is full.
        let told = || service.devices(ALICE).first().is_some_and(|d| d.told.0 == n);
        w.until(20, "the service knows", told).await;
        lab.hold();
        for _ in 0..30 {
            n += 1;
            service.publish(ALICE, numbered(n)).unwrap();
        }
        w.sleep(Duration::from_millis(held)).await;
        lab.sleep(Duration::from_secs(slept));
        lab.release();
        for expected in n - 29..=n {
            assert_eq!(number(&w.next_event(&client).await.1), expected);
        }
    }
}

pub async fn a_machine_that_slept_connects_anew<K: Kit>(w: World<K>) {
    let ((service, address), lab) = (w.service(), Lab::<K>::new());
    let client = in_lab(&w, &lab, address, 5).await;
    let mut events = client.events();
    let connected = async |events: &mut crate::ClientEvents| {
        while !matches!(events.next().await.expect("the client is closed"), ClientEvent::Connected(_)) {}
    };
    w.within(1, "the first connection", connected(&mut events)).await;
    for (n, hours) in [(1, 1), (2, 24)] {
        lab.sleep(Duration::from_secs(hours * 3600));
        // Nothing but the next heartbeat's timer tells it; an event that waits is not lost.
        if n == 2 {
            service.publish(ALICE, message(vec![])).unwrap();
        }
        w.within(30, "a new connection", connected(&mut events)).await;
        if n == 2 {
            assert!(w.next_event(&client).await.1.is_empty());
        }
        service.publish(ALICE, numbered(n)).unwrap();
        assert_eq!(number(&w.next_event(&client).await.1), n);
    }
    assert_eq!(service.devices(ALICE).len(), 1);
}

/// Errors that systems give for packets: ICMP messages, routes and filters that change.
#[cfg(any(target_os = "linux", target_os = "android"))]
const ERRORS: [i32; 5] = {
    use nix::libc::{ECONNREFUSED, ECONNRESET, EMSGSIZE, ENETUNREACH, EPERM};
    [ECONNREFUSED, ECONNRESET, EMSGSIZE, ENETUNREACH, EPERM]
};
/// Windows' `WSAECONNREFUSED` or an unknown number: an error it is.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
const ERRORS: [i32; 1] = [10061];

pub async fn errors_of_the_sockets_end_nothing<K: Kit>(w: World<K>) {
    let ((service, address), lab) = (w.service(), Lab::<K>::new());
    // From the first packet on.
    lab.fail(ERRORS[0]);
    let builder = Client::builder_on(lab.clone(), ticket(1, address));
    let client = builder.interval(Duration::from_secs(5)).connect();
    w.until(20, "an error", || lab.faults() > 0).await;
    lab.mend();
    w.within(20, "connecting", client.connected()).await.unwrap();
    for (n, error) in (1..).zip(ERRORS) {
        let (faults, polls, start) = (lab.faults(), lab.polls(), std::time::Instant::now());
        lab.fail(error);
        service.publish(ALICE, numbered(n)).unwrap();
        w.until(20, "the error", || lab.faults() > faults).await;
        w.sleep(Duration::from_millis(300)).await;
        // 16 errors, then a rest of 100 ms: failing is no busy loop.
        let rests = start.elapsed().as_millis() as u64 / 100 + 1;
        let (faults, polls) = (lab.faults() - faults, lab.polls() - polls);
        assert!(faults <= 50 * rests && polls <= 12 * rests, "{faults} {polls} in {rests} rests");
        lab.mend();
        assert_eq!(number(&w.next_event(&client).await.1), n, "after error {error}");
    }
    let stats = client.stats();
    assert!(stats.socket.send_errors > 0 && stats.socket.receive_errors > 0, "{stats:?}");
}

pub async fn nobody_works_while_nothing_happens<K: Kit>(w: World<K>) {
    let (service, address) = w.service();
    let client = w.connect(1, address).await;
    service.publish(ALICE, numbered(1)).unwrap();
    w.next_event(&client).await;
    let calls = || {
        let (client, service) = (client.stats().socket, service.stats().socket);
        client.receive_calls + client.send_calls + service.receive_calls + service.send_calls
    };
    // Acknowledgements and the like have their time to settle.
    w.within(20, "two seconds of nothing", async {
        loop {
            let before = calls();
            w.sleep(Duration::from_secs(2)).await;
            if calls() == before {
                return;
            }
        }
    })
    .await;
}

pub async fn an_idle_client_wakes_at_its_deadlines_only<K: Kit>(w: World<K>) {
    let ((_service, address), lab) = (w.service(), Lab::<K>::new());
    let client = in_lab(&w, &lab, address, 5).await;
    w.sleep(Duration::from_secs(1)).await;
    let count = || (client.stats().device.packets_sent, client.stats().device.packets_received, lab.polls());
    let before = count();
    w.sleep(Duration::from_secs(15)).await;
    let after = count();
    let (sent, received, polls) = (after.0 - before.0, after.1 - before.1, after.2 - before.2);
    assert!((3..=4).contains(&sent) && sent.abs_diff(received) <= 1, "{sent} sent, {received} received");
    // Each heartbeat wakes it once and each answer once. A timer may fire early, by its granularity, and be set again.
    assert!(polls >= 2 * sent - 1 && polls <= 3 * sent + 1, "{polls} wake-ups for {sent} heartbeats");
}
