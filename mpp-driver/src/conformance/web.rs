//! Where UDP does not pass: the Web Service transport.

use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

use http::Response;
use mpp_proto::{
    AccountHead, AccountId, Answers, CloseReason, DisconnectReason, InUse, Serial, ServiceEvent, Ticket,
    Transport, Udp, WebSeen,
};

use super::{
    ALICE, Kit, LOOPBACK, Lab, Proxy, WebServer, World, all, config, message, number, numbered, ticket,
    ticket_of,
};
use crate::web::WebBody;
use crate::{Client, ClientBuilder, ClientEvent, Netcheck, Service};

/// A service behind a UDP proxy that loses everything, and its HTTP server.
struct Walled<K> {
    service: Service<K>,
    proxy: Proxy,
    server: WebServer,
}

impl<K: Kit> Walled<K> {
    fn new(w: &World<K>, loss: u32) -> Self {
        let (service, address) = w.service();
        Self::around(service, Proxy::start(address, loss, 1))
    }

    fn around(service: Service<K>, proxy: Proxy) -> Self {
        let web = service.web();
        let handle = move |remote, request| {
            let web = web.clone();
            async move { web.handle(remote, request).await }
        };
        Self { service, proxy, server: WebServer::start::<K, _>(handle) }
    }

    fn ticket(&self, device: u32) -> Ticket {
        self.found(ticket(device, self.proxy.address))
    }

    fn found(&self, ticket: Ticket) -> Ticket {
        ticket.with_web(vec![self.server.base()]).unwrap()
    }

    fn client(&self, device: u32) -> ClientBuilder<K> {
        Client::<K>::builder(self.ticket(device))
    }

    fn requests(&self) -> usize {
        self.server.requests.load(SeqCst)
    }
}

async fn over<K: Kit, R>(w: &World<K>, client: &Client<R>, transport: Transport) {
    w.until(30, "the other transport", || client.transport() == transport).await;
}

pub async fn a_network_without_udp_is_served_over_the_web<K: Kit>(w: World<K>) {
    let at = Walled::new(&w, 100);
    let client = at.client(1).connect();
    let mut events = client.events();
    // Published before: what a person would wait for.
    at.service.publish(ALICE, numbered(1)).unwrap();
    let connected = w.within(5, "connecting", client.connected()).await.unwrap();
    assert_eq!((client.transport(), connected.service, connected.observed), (Transport::Web, None, None));
    w.within(5, "the event", async {
        while !matches!(events.next().await, Some(ClientEvent::Transport(Transport::Web))) {}
    })
    .await;
    // The request that waits is answered at once, small and large; a post goes beside it.
    for (n, size) in (2..).zip([1, 1_000, 16_384]) {
        w.until(10, "a request to be held", || at.requests() == 1).await;
        let (payload, start) = (vec![n; size], Instant::now());
        let serial = at.service.publish(ALICE, message(payload.clone())).unwrap();
        let (got_serial, got) = loop {
            let (serial, payload) = w.next_event(&client).await;
            if serial > Serial(1) {
                break (serial, payload);
            }
        };
        assert!(got_serial == serial && got == payload, "{size} bytes were changed on the way");
        assert!(start.elapsed() < Duration::from_secs(2), "{size} bytes took {:?}", start.elapsed());
    }
    let posted = w.within(5, "posting", client.post(&message("hello"))).await.unwrap();
    assert_eq!(Some(w.next_event(&client).await), posted.map(|serial| (serial, "hello".into())));
    let stats = client.stats().socket;
    assert!(stats.web_requests > 5 && stats.web_connections <= 3 && stats.web_failures == 0, "{stats:?}");
    // UDP is back, and used again.
    at.proxy.set_loss(0);
    client.network_changed(None);
    over(&w, &client, Transport::Udp).await;
    at.service.publish(ALICE, numbered(7)).unwrap();
    assert_eq!(number(&w.next_event(&client).await.1), 7);
    assert_eq!(at.service.devices(ALICE).len(), 1);
    w.until(20, "the last request to end", || at.requests() == 0).await;
}

pub async fn nothing_is_lost_or_doubled_when_udp_goes_and_comes<K: Kit>(w: World<K>) {
    let at = Walled::new(&w, 0);
    let client = at.client(1).interval(Duration::from_secs(5)).connect();
    w.within(10, "connecting", client.connected()).await.unwrap();
    let mut n = 0;
    let mut publish = |count: u64| {
        for _ in 0..count {
            n += 1;
            at.service.publish(ALICE, numbered(n)).unwrap();
        }
        n
    };
    let mut heard = 0;
    for (loss, transport) in
        [(100, Transport::Web), (0, Transport::Udp), (100, Transport::Web), (0, Transport::Udp)]
    {
        at.proxy.set_loss(loss);
        let before = publish(3);
        if transport == Transport::Udp {
            client.network_changed(None);
        }
        over(&w, &client, transport).await;
        let after = publish(3);
        assert_eq!(before + 3, after);
        while heard < after {
            heard += 1;
            assert_eq!(number(&w.next_event(&client).await.1), heard);
        }
    }
    let more = w.timeout(Duration::from_millis(300), client.next()).await;
    assert!(more.is_none(), "an event came twice");
    w.until(10, "the last acknowledgement", || at.service.pending() == 0).await;
    let books = at.service.stats().core.delivery;
    // What a connection owed that another one has replaced is owed by that one.
    assert!(books.owed == books.settled() && books.lost + books.dropped == 0, "{books:?}");
}

pub async fn a_service_that_closes_answers_what_waits<K: Kit>(w: World<K>) {
    let at = Walled::new(&w, 100);
    let client = at.client(1).connect();
    let mut events = client.events();
    w.within(5, "connecting", client.connected()).await.unwrap();
    w.until(10, "a request to be held", || at.requests() == 1).await;
    let start = Instant::now();
    w.within(5, "shutting down", at.service.shutdown(Duration::from_secs(3))).await;
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    let told = w.within(5, "being told", async {
        loop {
            if let Some(ClientEvent::Disconnected { reason, .. }) = events.next().await {
                return reason;
            }
        }
    });
    assert!(matches!(told.await, DisconnectReason::ByService(_)));
    w.until(5, "no request to be held", || at.requests() == 0).await;
}

pub async fn a_client_that_closes_or_dies_hangs_up<K: Kit>(w: World<K>) {
    let at = Walled::new(&w, 100);
    let mut events = at.service.events();
    let client = at.client(1).connect();
    w.within(5, "connecting", client.connected()).await.unwrap();
    w.until(10, "a request to be held", || at.requests() == 1).await;
    w.within(2, "closing", client.close()).await;
    let reason = w.within(5, "the device to go", async {
        loop {
            if let Some(ServiceEvent::Closed { reason, .. }) = events.next().await {
                return reason;
            }
        }
    });
    assert_eq!(reason.await, CloseReason::ByDevice);
    w.until(5, "the requests to end", || at.requests() == 0).await;
    // One whose process dies says nothing, but its connections end.
    let lab = Lab::<K>::new();
    let client = Client::builder_on(lab.clone(), at.ticket(2)).connect();
    w.within(5, "connecting", client.connected()).await.unwrap();
    w.until(10, "a request to be held", || at.requests() == 1).await;
    let before = at.service.stats();
    assert_eq!(before.core.web_held, 1);
    lab.kill();
    w.until(5, "the request to end", || at.requests() == 0).await;
    let hung_up = || at.service.stats().socket.web_failures > before.socket.web_failures;
    w.until(5, "the service to know", || hung_up() && at.service.stats().core.web_held == 0).await;
}

pub async fn several_shards_behind_one_web_handler<K: Kit>(w: World<K>) {
    const ACCOUNTS: usize = 8;
    let mut config = config();
    config.shards = 4;
    let service = Service::<K>::bind(LOOPBACK, config).unwrap();
    let proxy = Proxy::start(service.local_addrs()[0], 100, 1);
    let at = Walled::around(service, proxy);
    let names: Vec<String> = (0..ACCOUNTS).map(|n| format!("account {n}")).collect();
    let client = |name: &String| {
        at.service.restore(AccountHead::new(AccountId::of(name))).unwrap();
        let ticket = at.found(ticket_of(name, 1, at.proxy.address));
        Client::<K>::connect(ticket)
    };
    let clients: Vec<_> = names.iter().map(client).collect();
    for client in &clients {
        w.within(10, "connecting", client.connected()).await.unwrap();
    }
    w.until(10, "requests to be held", || at.requests() == ACCOUNTS).await;
    for (name, client) in names.iter().zip(&clients) {
        at.service.publish(name, message(name.clone())).unwrap();
        assert_eq!(w.next_event(client).await.1, name.as_bytes());
    }
    let stats = at.service.stats();
    assert!(stats.socket.handed_over > 0 && stats.core.connected == ACCOUNTS as u64, "{stats:?}");
}

pub async fn a_client_that_wants_no_web_uses_none<K: Kit>(w: World<K>) {
    let at = Walled::new(&w, 100);
    let client = at.client(1).without_web().connect();
    w.sleep(Duration::from_secs(4)).await;
    assert_eq!((client.stats().socket.web_requests, at.service.stats().socket.web_requests), (0, 0));
    at.proxy.set_loss(0);
    w.within(30, "connecting", client.connected()).await.unwrap();
    assert_eq!(client.transport(), Transport::Udp);
}

/// Errors of sending that say that UDP is forbidden.
pub async fn a_system_that_forbids_udp_is_left_at_once<K: Kit>(w: World<K>) {
    if !cfg!(any(target_os = "linux", target_os = "android")) {
        return;
    }
    let at = Walled::new(&w, 0);
    let lab = Lab::<K>::new();
    // EPERM.
    lab.fail(1);
    let start = Instant::now();
    let client = Client::builder_on(lab.clone(), at.ticket(1)).connect();
    w.within(3, "connecting", client.connected()).await.unwrap();
    assert_eq!(client.transport(), Transport::Web);
    assert!(start.elapsed() < Duration::from_millis(2_500), "{:?}", start.elapsed());
    lab.mend();
    client.network_changed(None);
    over(&w, &client, Transport::Udp).await;
}

/// A look at the network where UDP does not pass: the service proves itself by Web, and a portal that answers everything
/// with a page proves nothing. The client, which is served by Web, does not notice.
pub async fn a_look_at_the_network_finds_the_web<K: Kit>(w: World<K>) {
    let at = Walled::new(&w, 100);
    let client = at.client(1).connect();
    w.within(5, "connecting", client.connected()).await.unwrap();
    w.until(10, "a request to be held", || at.requests() == 1).await;
    let page = |_, _| async { Response::new(WebBody::new("<p>Log in!</p>".repeat(8 * 1024))) };
    let portal = WebServer::start::<K, _>(page);
    let behind = ticket(2, at.proxy.address).with_web(vec![portal.base()]).unwrap();
    let looks = [
        (client.netcheck(), Answers::Yes, InUse::Yes, Some(WebSeen::Service)),
        (Netcheck::new(behind), Answers::No, InUse::Unknown, Some(WebSeen::Stranger)),
        (Netcheck::new(at.ticket(3)).without_web(), Answers::Unknown, InUse::Unknown, None),
    ];
    let w = &w;
    let look = |(check, web, in_use, seen): (Netcheck<K>, _, _, _)| async move {
        let report = w.within(15, "the report", check.finish()).await;
        assert_eq!((report.udp(), report.web, report.in_use), (Udp::Blocked, web, in_use), "{report:#?}");
        assert_eq!(report.web_destinations.first().map(|d| d.seen), seen);
    };
    all(looks.map(|check| Box::pin(look(check)) as _).into()).await;
    w.until(2, "only the client's request to be there", || at.requests() == 1).await;
    assert_eq!((client.transport(), client.stats().device.connects), (Transport::Web, 1));
    at.service.publish(ALICE, numbered(1)).unwrap();
    assert_eq!(number(&w.next_event(&client).await.1), 1);
}
