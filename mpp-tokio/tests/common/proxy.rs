//! A UDP proxy that loses packets, like a bad network with an address translator: each client has a socket of its own
//! towards the service.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use tokio::net::UdpSocket;
use tokio::task::JoinSet;

/// What the proxy did.
#[derive(Debug, Default)]
pub struct Counts {
    pub forwarded: AtomicU64,
    pub lost: AtomicU64,
}

/// Forwards until it is dropped.
pub struct Proxy {
    pub address: SocketAddr,
    pub counts: Arc<Counts>,
    loss: Arc<AtomicU32>,
    _task: JoinSet<()>,
}

impl Proxy {
    /// In front of `service`; loses `percent` of the packets of each direction, by a generator with this seed.
    pub async fn start(service: SocketAddr, percent: u32, seed: u64) -> Self {
        let front = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
        let address = front.local_addr().unwrap();
        let (counts, loss) = (Arc::<Counts>::default(), Arc::new(AtomicU32::new(percent)));
        let mut task = JoinSet::new();
        task.spawn(forward(front, service, loss.clone(), seed, counts.clone()));
        Self { address, counts, loss, _task: task }
    }

    /// Loses this part from now on; 100 is a network that is gone.
    pub fn set_loss(&self, percent: u32) {
        self.loss.store(percent, Relaxed);
    }
}

/// A small generator (xorshift64*): good enough to lose packets, and the same in every run.
struct Dice(u64);

impl Dice {
    fn loses(&mut self, percent: &AtomicU32, counts: &Counts) -> bool {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let roll = (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % 100;
        let lost = roll < u64::from(percent.load(Relaxed));
        if lost { &counts.lost } else { &counts.forwarded }.fetch_add(1, Relaxed);
        lost
    }
}

async fn forward(
    front: Arc<UdpSocket>,
    service: SocketAddr,
    loss: Arc<AtomicU32>,
    seed: u64,
    counts: Arc<Counts>,
) {
    let mut backs: HashMap<SocketAddr, Arc<UdpSocket>> = HashMap::new();
    let mut answers = JoinSet::new();
    let mut dice = Dice(seed | 1);
    let mut buffer = [0; 2048];
    loop {
        let Ok((n, client)) = front.recv_from(&mut buffer).await else { continue };
        let back = match backs.get(&client) {
            Some(back) => back.clone(),
            None => {
                let back = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
                backs.insert(client, back.clone());
                let dice = Dice((seed ^ u64::from(client.port()) << 20) | 1);
                answers.spawn(answer(
                    front.clone(),
                    back.clone(),
                    client,
                    loss.clone(),
                    dice,
                    counts.clone(),
                ));
                back
            }
        };
        if !dice.loses(&loss, &counts) {
            let _ = back.send_to(&buffer[..n], service).await;
        }
    }
}

async fn answer(
    front: Arc<UdpSocket>,
    back: Arc<UdpSocket>,
    client: SocketAddr,
    loss: Arc<AtomicU32>,
    mut dice: Dice,
    counts: Arc<Counts>,
) {
    let mut buffer = [0; 2048];
    loop {
        let Ok((n, _)) = back.recv_from(&mut buffer).await else { continue };
        if !dice.loses(&loss, &counts) {
            let _ = front.send_to(&buffer[..n], client).await;
        }
    }
}
