//! The blocking example runs against a service in a loop just as simple, and ends by itself. (The other examples are
//! tests themselves.)
// The core may not use these; what drives it has to.
#![allow(clippy::disallowed_methods, clippy::disallowed_types)]

use std::net::UdpSocket;
use std::num::NonZeroUsize;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use mpp_proto::*;

#[test]
fn blocking() {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(10))).unwrap();
    let started = std::time::Instant::now();
    let now = || Instant::ZERO + started.elapsed();
    let passed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let unix = UnixTime::from_millis(passed.as_millis() as u64);
    let key = TicketKey::new(*b"key1", [1; 32]);
    let config = ServiceConfig::new(ServiceSecret::new([2; 32]), vec![key.clone()]);
    let mut service = Service::new(Arc::new(config), ShardId(0), Seed::new([3; 32]), now(), unix);
    let account = AccountId::of("alice");
    service.restore(AccountHead::new(account)).unwrap();
    let spec = TicketSpec {
        endpoints: vec![Endpoint::Address(socket.local_addr().unwrap())],
        account: "alice".into(),
        device: DeviceId([1; 16]),
        rights: Rights::default(),
        issued: unix,
        expiry: unix + Duration::from_secs(60),
    };
    let ticket = key.mint(&spec, &[4; 32]).unwrap();
    let mut path = std::env::current_exe().unwrap();
    path.pop();
    path.set_file_name("examples");
    path.push(format!("blocking{}", std::env::consts::EXE_SUFFIX));
    let mut example =
        Command::new(&path).args([&**ticket.to_text(), "3"]).stdout(Stdio::null()).spawn().unwrap_or_else(
            |e| panic!("{}: {e}; `cargo test` builds it unless it is told not to", path.display()),
        );

    let (mut batch, mut dispositions, mut buffer) = (TransmitBatch::new(16), Vec::new(), [0; 2048]);
    let mut published = 0;
    let status = loop {
        assert!(started.elapsed() < Duration::from_secs(30), "the example does not end");
        if let Some(status) = example.try_wait().unwrap() {
            break status;
        }
        if published < 3 && service.devices(now(), &account).next().is_some() {
            published += 1;
            service.publish(now(), &account, Event::with_payload(StoreId::INBOUND, "hello".into())).unwrap();
        }
        if let Ok((len, remote)) = socket.recv_from(&mut buffer) {
            let mut datagram = [Datagram { path: Path::new(LinkId(0), remote), payload: &mut buffer[..len] }];
            service.handle_datagrams(now(), &mut datagram, &mut dispositions);
        }
        let _ = service.handle_timeout(now(), NonZeroUsize::MAX);
        while service.poll_transmit(now(), &mut batch) > 0 {
            for (transmit, bytes) in batch.iter() {
                let each = transmit.segment_size.map_or(bytes.len(), |size| usize::from(size.get()));
                bytes.chunks(each.max(1)).for_each(|packet| {
                    socket.send_to(packet, transmit.path.remote).unwrap();
                });
            }
            batch.clear();
        }
    };
    assert!(status.success(), "{status}");
    assert_eq!(published, 3);
}
