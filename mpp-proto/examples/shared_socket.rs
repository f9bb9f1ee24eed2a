//! One socket for everything: a device, a service and foreign traffic, in a loop on mio. The service is on the same
//! socket as the device, which so speaks to itself; a stranger speaks another protocol with the same port.
//!
//! Ends when the device has got an event and the stranger its answer.
// The core may not use these; what drives it has to.
#![allow(clippy::disallowed_methods, clippy::disallowed_types)]

use std::error::Error;
use std::io::{self, Read};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use mio::net::UdpSocket;
use mio::{Events, Interest, Poll, Token};
use mpp_proto::{
    AccountHead, AccountId, Datagram, Device, DeviceEvent, DeviceId, Disposition, Endpoint, Event, Family,
    Instant, LinkId, LinkKind, LinkState, Path, Rights, Seed, Service, ServiceConfig, ServiceSecret, ShardId,
    StoreId, TicketKey, TicketSpec, TransmitBatch, UnixTime, Wakeup,
};

const ACCOUNT: &str = "alice@example.com";
/// The one socket, as the service numbers it.
const LINK: LinkId = LinkId(0);

fn random() -> io::Result<[u8; 32]> {
    let mut bytes = [0; 32];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut poll = Poll::new()?;
    let mut socket = UdpSocket::bind("127.0.0.1:0".parse()?)?;
    poll.registry().register(&mut socket, Token(0), Interest::READABLE)?;
    let here = socket.local_addr()?;
    let started = std::time::Instant::now();
    let now = || Instant::ZERO + started.elapsed();
    let unix = UnixTime::from_millis(SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis() as u64);

    let key = TicketKey::new(*b"key1", random()?);
    let config = ServiceConfig::new(ServiceSecret::new(random()?), vec![key.clone()]);
    let mut service = Service::new(Arc::new(config), ShardId(0), Seed::new(random()?), now(), unix);
    let account = AccountId::of(ACCOUNT);
    service.restore(AccountHead::new(account))?;
    let spec = TicketSpec {
        endpoints: vec![Endpoint::Address(here)],
        account: ACCOUNT.into(),
        device: DeviceId([1; 16]),
        rights: Rights::default(),
        issued: unix,
        expiry: unix + Duration::from_secs(3600),
    };
    let ticket = key.mint(&spec, &random()?)?;
    let mut device = Device::new(Arc::default(), ticket, None, Seed::new(random()?), now(), unix);

    let stranger = std::net::UdpSocket::bind("127.0.0.1:0")?;
    stranger.set_read_timeout(Some(Duration::from_secs(10)))?;
    stranger.send_to(b"What is the time?", here)?;

    let mut device_link = LINK;
    let (mut out, mut buffer) = ([0; 1452], [0; 2048]);
    let (mut batch, mut dispositions) = (TransmitBatch::new(16), Vec::new());
    let (mut notified, mut answered) = (false, false);
    let mut events = Events::with_capacity(8);
    while !(notified && answered) {
        // Take everything both have to give.
        while let Some(event) = device.poll_event() {
            match event {
                DeviceEvent::OpenLink { link, kind: LinkKind::Udp(Family::V4) } => {
                    device_link = link;
                    device.handle_link(now(), link, LinkState::Open { local: here });
                }
                DeviceEvent::OpenLink { link, .. } => device.handle_link(now(), link, LinkState::Failed),
                DeviceEvent::Connected(_) => {
                    service.publish(now(), &account, Event::changed(StoreId::CONTACT))?;
                }
                _ => {}
            }
        }
        while service.poll_event().is_some() {}
        while let Some(notification) = device.poll_notification(now()) {
            println!("the device: {:?}", notification.kind);
            notified = true;
        }
        while let Some(packet) = device.poll_transmit(now(), &mut out, NonZeroUsize::MIN) {
            let _ = socket.send_to(&out[..packet.len], packet.path.remote);
        }
        while service.poll_transmit(now(), &mut batch) > 0 {
            for (transmit, bytes) in batch.iter() {
                // Several packets of one size may come as one transmission, for segmentation offload.
                let each = transmit.segment_size.map_or(bytes.len(), |size| usize::from(size.get()));
                for packet in bytes.chunks(each.max(1)) {
                    let _ = socket.send_to(packet, transmit.path.remote);
                }
            }
            batch.clear();
        }

        // Wait for a packet or the next deadline.
        let wakeup = Wakeup::earliest(device.poll_timeout(), service.poll_timeout());
        poll.poll(&mut events, wakeup.map(|wakeup| wakeup.at.since(now())))?;
        while let Ok((len, remote)) = socket.recv_from(&mut buffer) {
            let (received, payload) = (buffer, &mut buffer[..len]);
            // Whose is it? This costs a few comparisons, and no cryptography but one block for the service.
            let disposition = if device.recognizes(payload) {
                device.handle_datagram(now(), Datagram { path: Path::new(device_link, remote), payload })
            } else {
                let path = Path::new(LINK, remote);
                service.handle_datagrams(now(), &mut [Datagram { path, payload }], &mut dispositions);
                dispositions[0]
            };
            if disposition != Disposition::Accepted {
                assert_eq!(buffer[..len], received[..len], "what is not accepted is unchanged");
            }
            if disposition == Disposition::NotForUs {
                println!("{remote} speaks another protocol: {}", String::from_utf8_lossy(&buffer[..len]));
                socket.send_to(b"Late.", remote)?;
                let (len, _) = stranger.recv_from(&mut buffer)?;
                answered = buffer[..len] == *b"Late.";
            }
        }
        device.handle_timeout(now());
        while service.handle_timeout(now(), NonZeroUsize::MAX) == mpp_proto::Progress::More {}
    }
    Ok(())
}

#[test]
fn it_ends() {
    main().unwrap();
}
