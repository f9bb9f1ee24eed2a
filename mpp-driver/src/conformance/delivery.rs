//! What is published arrives, once and in order; requests are answered.

use std::cell::RefCell;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use mpp_proto::{CommandError, Event, EventError, NotificationKind, PublishError, Serial, StoreId, StoreSet};

use super::{ALICE, Kit, World, all, event, message, number, numbered, ticket};
use crate::{Advice, CallError, Client};

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
