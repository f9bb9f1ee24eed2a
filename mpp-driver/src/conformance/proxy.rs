//! A UDP proxy that loses packets, like a bad network with an address translator: each client has a socket of its own
//! towards the service. It runs on threads, so that it is the same for every runtime.

use std::collections::HashMap;
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// Forwards until it is dropped.
pub struct Proxy {
    pub address: SocketAddr,
    shared: Arc<Shared>,
}

/// A socket towards the service, and whether its thread goes on.
type Back = (Arc<UdpSocket>, Arc<AtomicBool>);

#[derive(Debug)]
struct Shared {
    service: SocketAddr,
    front: UdpSocket,
    /// By client.
    backs: Mutex<HashMap<SocketAddr, Back>>,
    seed: u64,
    percent: AtomicU32,
    /// Milliseconds that each packet takes.
    delay: AtomicU64,
    ended: AtomicBool,
    forwarded: AtomicU64,
    lost: AtomicU64,
}

impl Proxy {
    /// In front of `service`; loses `percent` of the packets of each direction, by a generator with this seed.
    pub fn start(service: SocketAddr, percent: u32, seed: u64) -> Self {
        let front = socket();
        let address = front.local_addr().unwrap();
        let shared = Arc::new(Shared {
            service,
            front,
            backs: Mutex::default(),
            seed,
            percent: AtomicU32::new(percent),
            delay: AtomicU64::new(0),
            ended: AtomicBool::new(false),
            forwarded: AtomicU64::new(0),
            lost: AtomicU64::new(0),
        });
        let forward = shared.clone();
        thread::spawn(move || forward.forward());
        Self { address, shared }
    }

    /// Loses this part from now on; 100 is a network that is gone.
    pub fn set_loss(&self, percent: u32) {
        self.shared.percent.store(percent, Relaxed);
    }

    /// Each packet takes this long from now on, one after another: for networks with little traffic.
    pub fn set_delay(&self, millis: u64) {
        self.shared.delay.store(millis, Relaxed);
    }

    /// Forgets every client: its next packet comes from another port, and what is sent to the old one goes nowhere.
    pub fn forget(&self) {
        for (_, (_, goes_on)) in self.shared.backs.lock().unwrap().drain() {
            goes_on.store(false, Relaxed);
        }
    }

    /// Packets lost, of a hundred.
    pub fn lost_percent(&self) -> u64 {
        let (lost, forwarded) = (self.shared.lost.load(Relaxed), self.shared.forwarded.load(Relaxed));
        100 * lost / (lost + forwarded).max(1)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.ended.store(true, Relaxed);
        self.forget();
    }
}

/// A small generator (xorshift64*): good enough to lose packets, and the same in every run.
struct Dice(u64);

impl Shared {
    fn loses(&self, dice: &mut Dice) -> bool {
        dice.0 ^= dice.0 >> 12;
        dice.0 ^= dice.0 << 25;
        dice.0 ^= dice.0 >> 27;
        let roll = (dice.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % 100;
        let lost = roll < u64::from(self.percent.load(Relaxed));
        if lost { &self.lost } else { &self.forwarded }.fetch_add(1, Relaxed);
        match self.delay.load(Relaxed) {
            0 => {}
            millis => thread::sleep(Duration::from_millis(millis)),
        }
        lost
    }

    fn forward(self: &Arc<Self>) {
        let mut dice = Dice(self.seed | 1);
        let mut buffer = [0; 2048];
        while !self.ended.load(Relaxed) {
            let Ok((n, client)) = self.front.recv_from(&mut buffer) else { continue };
            let back = self.back(client);
            if !self.loses(&mut dice) {
                let _ = back.send_to(&buffer[..n], self.service);
            }
        }
    }

    fn back(self: &Arc<Self>, client: SocketAddr) -> Arc<UdpSocket> {
        let mut backs = self.backs.lock().unwrap();
        let (back, _) = backs.entry(client).or_insert_with(|| {
            let (back, goes_on) = (Arc::new(socket()), Arc::new(AtomicBool::new(true)));
            let answer = (self.clone(), back.clone(), goes_on.clone());
            thread::spawn(move || answer.0.answer(&answer.1, &answer.2, client));
            (back, goes_on)
        });
        back.clone()
    }

    fn answer(&self, back: &UdpSocket, goes_on: &AtomicBool, client: SocketAddr) {
        let mut dice = Dice((self.seed ^ u64::from(client.port()) << 20) | 1);
        let mut buffer = [0; 2048];
        while goes_on.load(Relaxed) {
            let Ok((n, _)) = back.recv_from(&mut buffer) else { continue };
            if goes_on.load(Relaxed) && !self.loses(&mut dice) {
                let _ = self.front.send_to(&buffer[..n], client);
            }
        }
    }
}

/// Its threads look every now and then whether they should go on.
fn socket() -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    socket
}
