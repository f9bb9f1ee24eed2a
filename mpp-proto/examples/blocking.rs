//! A device in an own loop: one socket, one thread, no runtime. `blocking TICKET [NOTIFICATIONS]`
#![allow(clippy::disallowed_methods, clippy::disallowed_types)]

use std::error::Error;
use std::net::{ToSocketAddrs, UdpSocket};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use std::{io::Read, num::NonZeroUsize, sync::Arc};

use mpp_proto::*;

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let ticket = args.next().ok_or("usage: blocking TICKET [NOTIFICATIONS]")?.parse()?;
    let mut wanted = args.next().map_or(Ok(usize::MAX), |n| n.parse::<usize>())?;
    let mut seed = [0; 32];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut seed)?;
    let started = std::time::Instant::now();
    let now = || Instant::ZERO + started.elapsed();
    let unix = UnixTime::from_millis(SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis() as u64);
    let mut device = Device::new(Arc::default(), ticket, None, Seed::new(seed), now(), unix);
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    let (mut out, mut buffer, mut our_link) = ([0; 1452], [0; 2048], None);
    loop {
        while let Some(event) = device.poll_event() {
            match event {
                DeviceEvent::OpenLink { link, kind: LinkKind::Udp(Family::V4) } => {
                    our_link = Some(link);
                    device.handle_link(now(), link, LinkState::Open { local: socket.local_addr()? });
                }
                DeviceEvent::OpenLink { link, .. } => device.handle_link(now(), link, LinkState::Failed),
                DeviceEvent::Resolve { id, host, port } => {
                    let found = (host.as_str(), port).to_socket_addrs().map(Vec::from_iter);
                    device.handle_resolved(now(), id, &found.unwrap_or_default());
                }
                event => println!("{event:?}"),
            }
        }
        while let Some(notification) = device.poll_notification(now()).filter(|_| wanted > 0) {
            println!("{:?}", notification.kind);
            device.acknowledge(now(), notification.position);
            wanted -= 1;
        }
        if wanted == 0 && device.state() != ConnectionState::Aborted {
            device.close(now());
        }
        while let Some(packet) = device.poll_transmit(now(), &mut out, NonZeroUsize::MIN) {
            let _ = socket.send_to(&out[..packet.len], packet.path.remote);
        }
        if device.is_drained() {
            return Ok(());
        }
        let wait = device.poll_timeout().map(|wakeup| wakeup.at.since(now()));
        socket.set_read_timeout(wait.map(|wait| wait.max(Duration::from_millis(1))))?;
        if let (Ok((len, remote)), Some(link)) = (socket.recv_from(&mut buffer), our_link) {
            let (path, payload) = (Path::new(link, remote), &mut buffer[..len]);
            let _ = device.handle_datagram(now(), Datagram { path, payload });
        }
        device.handle_timeout(now());
    }
}
