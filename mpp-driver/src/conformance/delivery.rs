//! What is published arrives, once and in order; requests are answered.

use std::cell::RefCell;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use mpp_proto::{
    AccountHead, AccountId, Code, CommandError, Event, EventError, ForeignPosts, NotificationKind,
    PostAnswer, PostError, PublishError, RequestError, Rights, Serial, ServiceEvent, StoreId, StoreSet,
};

use super::{
    ALICE, Kit, LOOPBACK, World, all, config, event, message, number, numbered, ticket, ticket_with,
};
use crate::{Advice, CallError, Client, Service};

pub async fn small_and_large_notifications_arrive<K: Kit>(w: World<K>) {
    let (service, address) = w.service();
    let client = w.connect(1, address).await;
    for size in [1, 64, 1_000, 1_200, 5_000, 16_384] {
        let payload: Vec<u8> = (0..size).map(|i| (i % 253) as u8).collect();
        let serial = service.publish(ALICE, message(payload.clone())).unwrap();
        let (got_serial, got) = w.next_event(&client).await;
        assert_eq!(got_serial, serial);
        assert!(got == payload, "{size} bytes were changed on the way");
    }
    let before = client.stats().device.packets_received;
    service.publish(ALICE, Event::changed(StoreId::CONTACT)).unwrap();
    let changed = w.next(&client).await;
    assert_eq!(changed.kind, NotificationKind::Changed([StoreId::CONTACT].into_iter().collect()));
    assert!(client.stats().device.packets_received - before <= 2);
    // The books can be read: all seven were owed, and each is explained.
    w.until(10, "the last acknowledgement", || service.pending() == 0).await;
    let books = service.stats().core.delivery;
    assert_eq!((books.owed, books.settled(), books.delivered), (7, 7, 7), "{books:?}");
    assert!(client.stats().device.is_conserved());
    let too_large = service.publish(ALICE, message(vec![0; 16_385]));
    assert_eq!(too_large, Err(PublishError::Event(EventError::Payload { size: 16_385 })));
}

pub async fn a_device_posts_to_its_own_channel<K: Kit>(w: World<K>) {
    let (_service, address) = w.service();
    let (phone, laptop) = (w.connect(1, address).await, w.connect(2, address).await);
    let serial = w.within(10, "posting", phone.post(&message("hello"))).await.unwrap();
    assert_eq!(serial, Some(Serial(1)));
    assert_eq!(w.next_event(&laptop).await, (Serial(1), "hello".into()));
    let error = w.within(1, "a refusal", phone.post(&message(vec![0; 2_000]))).await.unwrap_err();
    let CallError::Command(CommandError::TooLarge { size, limit }) = error else { panic!("{error:?}") };
    assert!(size > 2_000 && (1_000..1_200).contains(&limit), "{size} {limit}");
    assert_eq!(error.advice(), Advice::GiveUp);
    assert!(error.to_string().contains(&limit.to_string()));
}

pub async fn posts_to_other_accounts_are_the_hosts_to_decide<K: Kit>(w: World<K>) {
    let mut config = config();
    config.foreign_posts = ForeignPosts::Host;
    config.shards = 4;
    let service = Service::<K>::bind(LOOPBACK, config).unwrap();
    let address = service.local_addrs()[0];
    let poster = Client::<K>::connect(ticket_with(
        "bob@example.com",
        Rights::POST_OTHERS.union(Rights::RECEIVE),
        address,
    ));
    w.within(20, "connecting", poster.connected()).await.unwrap();
    // While nobody listens, nobody decides.
    let nobody = w.within(10, "a refusal", poster.post_to(ALICE, &message("1"))).await.unwrap_err();
    assert_eq!((nobody.advice(), code(&nobody)), (Advice::Retry, Some(Code::UNAVAILABLE)));
    let mut events = service.events();
    // Whatever shards the accounts live on; and of an account that there is not, nobody learns that.
    let names: Vec<String> = (0..8).map(|n| format!("account {n}")).collect();
    for (n, name) in names.iter().enumerate() {
        let known = n % 2 == 0;
        if known {
            service.restore(AccountHead::new(AccountId::of(name))).unwrap();
        }
        let posted = message(name.clone());
        let decide = async {
            loop {
                match events.next().await.expect("the service is closed") {
                    ServiceEvent::Post { handle, to, .. } => {
                        assert_eq!(to, AccountId::of(name));
                        break service.answer_post(handle, PostAnswer::Publish);
                    }
                    _ => continue,
                }
            }
        };
        let (mut decided, mut answered) = (None, None);
        let decide = async { decided = Some(decide.await) };
        let post = async { answered = Some(poster.post_to(name, &posted).await) };
        w.within(20, "a decision", all(vec![Box::pin(decide), Box::pin(post)])).await;
        if known {
            assert_eq!((decided, answered), (Some(Ok(Some(Serial(1)))), Some(Ok(()))));
        } else {
            assert_eq!(decided, Some(Err(PostError::Publish(PublishError::UnknownAccount))));
            assert_eq!(code(&answered.unwrap().unwrap_err()), Some(Code::FORBIDDEN));
        }
    }
    // To its own channel it has no right.
    let own = w.within(10, "a refusal", poster.post(&message("own"))).await.unwrap_err();
    assert_eq!(code(&own), Some(Code::FORBIDDEN));
}

/// The code with which the service refused.
fn code(error: &CallError) -> Option<Code> {
    match error {
        CallError::Request(RequestError::Refused { code, .. }) => Some(*code),
        _ => None,
    }
}

pub async fn a_filter_replaces_the_one_before<K: Kit>(w: World<K>) {
    let (service, address) = w.service();
    let client = w.connect(1, address).await;
    let contacts: StoreSet = [StoreId::CONTACT].into_iter().collect();
    let newest = w.within(10, "subscribing", client.subscribe(contacts)).await.unwrap();
    assert_eq!(newest, Serial(0));
    service.publish(ALICE, message("not for this one")).unwrap();
    service.publish(ALICE, Event::changed(StoreId::CONTACT)).unwrap();
    assert_eq!(w.next(&client).await.kind, NotificationKind::Changed(contacts));
}

pub async fn what_was_missed_comes_with_the_next_client<K: Kit>(w: World<K>) {
    let (service, address) = w.service();
    let client = w.connect(1, address).await;
    service.publish(ALICE, numbered(1)).unwrap();
    let first = w.next(&client).await;
    client.acknowledge(first.position);
    let resume = client.resume();
    assert_eq!(resume.position(), Serial(1));
    w.within(5, "closing", client.close()).await;
    w.until(5, "the device to go", || service.devices(ALICE).is_empty()).await;
    for n in 2..=4 {
        service.publish(ALICE, numbered(n)).unwrap();
    }
    let saved = Arc::new(Mutex::new(None));
    let save = saved.clone();
    let client = Client::<K>::builder(ticket(1, address))
        .resume(resume)
        .on_resume(move |resume| *save.lock().unwrap() = Some(resume.clone()))
        .connect();
    assert!(w.within(10, "connecting", client.connected()).await.unwrap().recovered);
    for n in 2..=4 {
        assert_eq!(number(&w.next_event(&client).await.1), n);
    }
    client.acknowledge(Serial(4));
    let position = || saved.lock().unwrap().as_ref().map(|r: &mpp_proto::Resume| r.position());
    w.until(5, "the hook", || position() == Some(Serial(4))).await;
}

pub async fn what_was_not_acknowledged_comes_again<K: Kit>(w: World<K>) {
    let (service, address) = w.service();
    let start = |resume| {
        let builder = Client::<K>::builder(ticket(1, address)).manual_acknowledgement();
        match resume {
            Some(resume) => builder.resume(resume).connect(),
            None => builder.connect(),
        }
    };
    let client = start(None);
    w.within(10, "connecting", client.connected()).await.unwrap();
    for n in 1..=3 {
        service.publish(ALICE, numbered(n)).unwrap();
    }
    for n in 1..=3 {
        let notification = w.next(&client).await;
        if n == 2 {
            client.acknowledge(notification.position);
        }
    }
    let resume = client.resume();
    assert_eq!(resume.position(), Serial(2));
    w.within(5, "closing", client.close()).await;
    assert_eq!(client.next().await, None);
    let client = start(Some(resume));
    assert_eq!(number(&w.next_event(&client).await.1), 3);
}

pub async fn futures_may_be_dropped_at_any_time<K: Kit>(w: World<K>) {
    let (service, address) = w.service();
    let client = w.connect(1, address).await;
    let got = RefCell::new(Vec::new());
    let publisher = async {
        for n in 1..=200 {
            service.publish(ALICE, numbered(n)).unwrap();
            w.until(10, "the device to be told", || service.devices(ALICE).iter().all(|d| d.told.0 + 16 > n))
                .await;
        }
    };
    let reader = async {
        while got.borrow().len() < 200 {
            // Each future is polled once or for a moment, then dropped.
            let mut next = pin!(client.next());
            let polled = poll_fn(|cx| Poll::Ready(next.as_mut().poll(cx))).await;
            let notification = match polled {
                Poll::Ready(n) => n,
                Poll::Pending => {
                    let moment = Duration::from_micros(got.borrow().len() as u64 % 7 * 100);
                    match w.timeout(moment, client.next()).await {
                        Some(notification) => notification,
                        // A moment may be over before it was waited for; the runtime must have its turn all the same.
                        None => {
                            w.yield_now().await;
                            continue;
                        }
                    }
                }
            };
            let (serial, payload) = event(notification.unwrap());
            assert_eq!(serial.0, number(&payload));
            got.borrow_mut().push(serial.0);
        }
    };
    w.within(60, "200 events", all(vec![Box::pin(publisher), Box::pin(reader)])).await;
    assert_eq!(got.into_inner(), (1..=200).collect::<Vec<_>>());
    // Requests whose futures are dropped leave nothing behind, and later ones get their own answers.
    let changed = Event::changed(StoreId::CONTACT);
    for _ in 0..100 {
        let mut post = pin!(client.post(&changed));
        let _ = poll_fn(|cx| Poll::Ready(post.as_mut().poll(cx))).await;
        w.sleep(Duration::from_millis(1)).await;
    }
    w.until(10, "the posts", || service.head(ALICE).unwrap().newest >= Serial(201)).await;
}
