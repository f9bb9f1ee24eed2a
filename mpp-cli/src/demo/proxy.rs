//! A bad network on the loopback interface: a UDP proxy that loses packets both ways, as its seed says.

use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use tokio::net::UdpSocket;
use tokio::task::JoinSet;

/// Devices it takes; it is for a demo.
const DEVICES: usize = 16;

/// The proxy. It ends when it is dropped.
#[derive(Debug)]
pub(super) struct Proxy {
    addr: SocketAddr,
    shared: Arc<Shared>,
    _tasks: JoinSet<()>,
}

#[derive(Debug)]
struct Shared {
    /// Packets lost of a hundred.
    loss: AtomicU32,
    to_service: Way,
    to_device: Way,
}

#[derive(Debug, Default)]
struct Way {
    random: AtomicU64,
    passed: AtomicU64,
    lost: AtomicU64,
}

/// What became of the packets so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Losses {
    /// Of those to the service: passed on, lost.
    pub(super) to_service: (u64, u64),
    /// Of those to the device: passed on, lost.
    pub(super) to_device: (u64, u64),
}

impl Proxy {
    /// Starts to stand in for `service`, losing nothing yet.
    pub(super) async fn start(service: SocketAddr, seed: u64) -> io::Result<Self> {
        let front = Arc::new(UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?);
        let addr = front.local_addr()?;
        let way = |random| Way { random: AtomicU64::new(random), ..Way::default() };
        let shared = Arc::new(Shared {
            loss: AtomicU32::new(0),
            to_service: way(seed),
            to_device: way(seed ^ 0x5555_5555_5555_5555),
        });
        let mut tasks = JoinSet::new();
        tasks.spawn(forward(front, service, shared.clone()));
        Ok(Self { addr, shared, _tasks: tasks })
    }

    /// Where devices find it.
    pub(super) const fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Loses `percent` of the packets of either way from now on.
    pub(super) fn lose(&self, percent: u32) {
        self.shared.loss.store(percent, Relaxed);
    }

    /// What became of the packets so far.
    pub(super) fn losses(&self) -> Losses {
        let read = |way: &Way| (way.passed.load(Relaxed), way.lost.load(Relaxed));
        Losses { to_service: read(&self.shared.to_service), to_device: read(&self.shared.to_device) }
    }
}

impl Shared {
    /// Whether the next packet of this way passes.
    fn passes(&self, way: &Way) -> bool {
        // SplitMix64; the counter is its whole state.
        let mut z = way.random.fetch_add(0x9e37_79b9_7f4a_7c15, Relaxed);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let passes = (z ^ (z >> 31)) % 100 >= u64::from(self.loss.load(Relaxed));
        if passes { &way.passed } else { &way.lost }.fetch_add(1, Relaxed);
        passes
    }
}

/// Devices' packets to the service; each device gets a socket of its own there, as behind a NAT.
async fn forward(front: Arc<UdpSocket>, service: SocketAddr, shared: Arc<Shared>) {
    let mut devices: HashMap<SocketAddr, Arc<UdpSocket>> = HashMap::new();
    // Ends with this task.
    let mut backs = JoinSet::new();
    let mut packet = [0; 2048];
    loop {
        let Ok((len, device)) = front.recv_from(&mut packet).await else { continue };
        let back = match devices.get(&device) {
            Some(back) => back.clone(),
            None if devices.len() < DEVICES => {
                let Ok(back) = connect(service).await else { continue };
                backs.spawn(backward(back.clone(), front.clone(), device, shared.clone()));
                devices.insert(device, back.clone());
                back
            }
            None => continue,
        };
        if shared.passes(&shared.to_service) {
            let _ = back.send(&packet[..len]).await;
        }
    }
}

/// The service's packets to one device.
async fn backward(back: Arc<UdpSocket>, front: Arc<UdpSocket>, device: SocketAddr, shared: Arc<Shared>) {
    let mut packet = [0; 2048];
    loop {
        // An error here is an ICMP message about an earlier packet: the next one may fare better.
        let Ok(len) = back.recv(&mut packet).await else { continue };
        if shared.passes(&shared.to_device) {
            let _ = front.send_to(&packet[..len], device).await;
        }
    }
}

async fn connect(service: SocketAddr) -> io::Result<Arc<UdpSocket>> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    socket.connect(service).await?;
    Ok(Arc::new(socket))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test]
    async fn it_loses_the_share_it_is_told_to_and_passes_the_rest_unchanged() {
        let service = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let proxy = Proxy::start(service.local_addr().unwrap(), 7).await.unwrap();
        let device = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        device.connect(proxy.addr()).await.unwrap();
        let mut packet = [0; 2048];

        device.send(b"there").await.unwrap();
        let (len, back) = service.recv_from(&mut packet).await.unwrap();
        assert_eq!(&packet[..len], b"there");
        service.send_to(b"and back", back).await.unwrap();
        let len = device.recv(&mut packet).await.unwrap();
        assert_eq!(&packet[..len], b"and back");
        assert_eq!(proxy.losses(), Losses { to_service: (1, 0), to_device: (1, 0) });

        proxy.lose(30);
        for _ in 0..1000 {
            device.send(b"x").await.unwrap();
            tokio::task::yield_now().await;
        }
        let through = async {
            while proxy.losses().to_service.0 + proxy.losses().to_service.1 < 1001 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(5), through).await.expect("all packets seen");
        let lost = proxy.losses().to_service.1;
        assert!((250..350).contains(&lost), "{lost}");
    }
}
