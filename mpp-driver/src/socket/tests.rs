//! Real sockets on loopback, under a runtime that never waits and can be told to fail.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, UdpSocket as Std};
use std::num::NonZeroU16;
use std::pin::Pin;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::task::Waker;
use std::time::{Duration, Instant};

use mpp_proto::{LinkId, Path};
use nix::libc;

use super::*;
use crate::runtime::{Task, Timer};

/// Errors that the next calls meet instead of the system.
#[derive(Debug, Default)]
struct Faults {
    read: VecDeque<i32>,
    write: VecDeque<i32>,
}

/// A runtime without tasks and timers, whose sockets fail as they are told.
#[derive(Debug, Default)]
struct Faulty(Arc<Mutex<Faults>>);

#[derive(Debug)]
struct Direct {
    socket: Std,
    faults: Arc<Mutex<Faults>>,
    blocked: [AtomicBool; 2],
}

impl Runtime for Faulty {
    fn spawn(&self, _: Task) {
        panic!("no tasks here");
    }
    fn timer(&self, _: Instant) -> Pin<Box<dyn Timer>> {
        panic!("no timers here");
    }
    fn wrap(&self, socket: Std) -> io::Result<Box<dyn AsyncSocket>> {
        Ok(Box::new(Direct { socket, faults: self.0.clone(), blocked: Default::default() }))
    }
}

impl AsyncSocket for Direct {
    fn poll_ready(&self, interest: Interest, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.blocked[interest as usize].swap(false, Relaxed) { Poll::Pending } else { Poll::Ready(Ok(())) }
    }

    fn try_io(
        &self,
        interest: Interest,
        io: &mut dyn FnMut(SockRef<'_>) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut faults = self.faults.lock().unwrap();
        let faults = if interest == Interest::Read { &mut faults.read } else { &mut faults.write };
        let result = match faults.pop_front() {
            Some(code) => Err(io::Error::from_raw_os_error(code)),
            None => io(SockRef::from(&self.socket)),
        };
        if result.as_ref().is_err_and(|e| e.kind() == io::ErrorKind::WouldBlock) {
            self.blocked[interest as usize].store(true, Relaxed);
        }
        result
    }
}

/// What a socket is for.
#[derive(Clone, Copy, PartialEq)]
enum Use {
    Device,
    Service { only_v6: bool },
}

const SERVICE: Use = Use::Service { only_v6: false };

struct Bench {
    runtime: Faulty,
    counters: Arc<Counters>,
    socket: UdpSocket,
}

impl Bench {
    fn new(address: &str, purpose: Use) -> Self {
        let (runtime, counters) = (Faulty::default(), Arc::<Counters>::default());
        let address = address.parse().unwrap();
        let socket = match purpose {
            Use::Device => UdpSocket::bind_device(&runtime, address, &counters).unwrap(),
            Use::Service { only_v6 } => {
                UdpSocket::bind_service(&runtime, address, only_v6, 1, &counters).unwrap().remove(0)
            }
        };
        Self { runtime, counters, socket }
    }

    fn port(&self) -> u16 {
        self.socket.local().port()
    }

    fn fail(&self, interest: Interest, codes: impl IntoIterator<Item = i32>) {
        let mut faults = self.runtime.0.lock().unwrap();
        if interest == Interest::Read { &mut faults.read } else { &mut faults.write }.extend(codes);
    }

    fn send(&self, entries: &[(Transmit, Vec<u8>)], sent: &mut [usize]) -> Poll<()> {
        let entries = || entries.iter().map(|(t, bytes)| (t, bytes.as_slice()));
        self.socket.poll_send_batch(&mut cx(), LinkId(0), entries, sent)
    }

    fn send_all(&self, entries: &[(Transmit, Vec<u8>)]) {
        let mut sent = vec![0; entries.len()];
        assert_eq!(self.send(entries, &mut sent), Poll::Ready(()));
        assert!(entries.iter().zip(&sent).all(|((t, _), sent)| t.len == *sent));
    }

    /// What has come in: where from, which of our addresses, what.
    fn receive(&self, inbox: &mut Inbox) -> Vec<(SocketAddr, Option<IpAddr>, Vec<u8>)> {
        match self.socket.poll_receive(&mut cx(), inbox) {
            Poll::Ready(true) => inbox.packets().map(|p| (p.remote, p.local, p.payload.to_vec())).collect(),
            Poll::Ready(false) => panic!("nothing but errors"),
            Poll::Pending => Vec::new(),
        }
    }
}

fn cx() -> Context<'static> {
    Context::from_waker(Waker::noop())
}

fn peer(address: &str) -> Std {
    let socket = Std::bind(address).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    socket
}

fn heard(socket: &Std) -> (Vec<u8>, SocketAddr) {
    let mut buffer = [0; 2048];
    let (n, from) = socket.recv_from(&mut buffer).unwrap();
    (buffer[..n].to_vec(), from)
}

fn silent(socket: &Std) {
    socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    let mut buffer = [0; 2048];
    assert!(socket.recv_from(&mut buffer).is_err(), "an unexpected packet");
}

fn entry(to: &Std, local: Option<&str>, bytes: Vec<u8>) -> (Transmit, Vec<u8>) {
    let local = local.map(|ip| ip.parse().unwrap());
    let path = Path { link: LinkId(0), remote: to.local_addr().unwrap(), local };
    (Transmit { path, len: bytes.len(), segment_size: None }, bytes)
}

fn has_v6() -> bool {
    let has = Std::bind("[::1]:0").is_ok();
    if !has {
        println!("skipped: this machine has no IPv6");
    }
    has
}

#[test]
fn many_destinations_take_one_call() {
    let bench = Bench::new("127.0.0.1:0", SERVICE);
    let peers: Vec<_> = (0..many::SENDS).map(|_| peer("127.0.0.1:0")).collect();
    let entries: Vec<_> =
        peers.iter().enumerate().map(|(i, p)| entry(p, None, vec![i as u8; 40 + i])).collect();
    bench.send_all(&entries);
    for (i, p) in peers.iter().enumerate() {
        assert_eq!(heard(p).0, vec![i as u8; 40 + i]);
    }
    let stats = bench.counters.read();
    assert_eq!((stats.sent, stats.send_errors), (64, 0));
    assert_eq!(stats.send_calls, 1);
}

#[test]
fn answers_leave_from_the_address_that_was_asked() {
    for listen in ["0.0.0.0:0", "[::]:0"] {
        if listen.starts_with('[') && !has_v6() {
            return;
        }
        let bench = Bench::new(listen, SERVICE);
        let asker = peer("127.0.0.1:0");
        let mut inbox = Inbox::service();
        for ip in ["127.0.0.2", "127.0.0.1", "127.0.0.3"] {
            asker.send_to(b"who?", (ip, bench.port())).unwrap();
            let got = bench.receive(&mut inbox);
            let [(from, Some(local), what)] = &got[..] else { panic!("{got:?}") };
            assert_eq!((from, what.as_slice()), (&asker.local_addr().unwrap(), &b"who?"[..]));
            assert_eq!(local.to_string(), ip);
            // One by one, by a batch, and by a segmented datagram.
            let mut segmented = entry(&asker, Some(ip), vec![1; 30]);
            segmented.0.segment_size = NonZeroU16::new(20);
            bench.send_all(&[entry(&asker, Some(ip), vec![0; 8]), segmented]);
            for size in [8, 20, 10] {
                let (bytes, from) = heard(&asker);
                assert_eq!((bytes.len(), from.to_string()), (size, format!("{ip}:{}", bench.port())));
            }
        }
        // Different sources within one batch.
        bench.send_all(&[
            entry(&asker, Some("127.0.0.2"), vec![2]),
            entry(&asker, None, vec![1]),
            entry(&asker, Some("127.0.0.2"), vec![2]),
            entry(&asker, Some("127.0.0.3"), vec![3]),
        ]);
        for _ in 0..4 {
            let (bytes, from) = heard(&asker);
            assert_eq!(from.ip(), IpAddr::V4(Ipv4Addr::new(127, 0, 0, bytes[0])));
        }
    }
}

#[test]
fn ipv6_works() {
    if !has_v6() {
        return;
    }
    for listen in ["[::]:0", "[::1]:0"] {
        let bench = Bench::new(listen, SERVICE);
        let asker = peer("[::1]:0");
        asker.send_to(b"who?", ("::1", bench.port())).unwrap();
        let got = bench.receive(&mut Inbox::service());
        assert_eq!(got, [(asker.local_addr().unwrap(), Some("::1".parse().unwrap()), b"who?".to_vec())]);
        bench.send_all(&[entry(&asker, Some("::1"), vec![7; 9])]);
        assert_eq!(heard(&asker).1.to_string(), format!("[::1]:{}", bench.port()));
    }
}

#[test]
fn a_socket_for_ipv6_only_leaves_the_port_to_ipv4() {
    if !has_v6() {
        return;
    }
    let v6 = Bench::new("[::]:0", Use::Service { only_v6: true });
    let v4 = format!("0.0.0.0:{}", v6.port()).parse().unwrap();
    UdpSocket::bind_service(&v6.runtime, v4, false, 1, &v6.counters).unwrap();
}

#[test]
fn shards_share_a_port_with_each_other_and_with_nobody_else() {
    let (runtime, counters) = (Faulty::default(), Arc::<Counters>::default());
    let bind = |address, shards| UdpSocket::bind_service(&runtime, address, false, shards, &counters);
    let sockets = bind("127.0.0.1:0".parse().unwrap(), 4).unwrap();
    let address = sockets[0].local();
    assert!(sockets.len() == 4 && sockets.iter().all(|s| s.local() == address));
    for shards in [1, 4] {
        let refused = bind(address, shards).map(drop).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::AddrInUse, "{shards}");
    }
    // What each of many peers sends comes to one of them, in order, and the answer comes from the port it knows.
    let peers: Vec<_> = (0..64).map(|_| peer("127.0.0.1:0")).collect();
    for n in 0..3 {
        for peer in &peers {
            peer.send_to(&[n], address).unwrap();
        }
    }
    let mut heard_by = Vec::new();
    for socket in sockets {
        let bench = Bench { runtime: Faulty::default(), counters: counters.clone(), socket };
        let mut inbox = Inbox::service();
        let mut got: Vec<(SocketAddr, u8)> = Vec::new();
        loop {
            let batch = bench.receive(&mut inbox);
            if batch.is_empty() {
                break;
            }
            got.extend(batch.into_iter().map(|(from, _, packet)| (from, packet[0])));
        }
        for peer in &peers {
            let from = peer.local_addr().unwrap();
            let numbers: Vec<u8> = got.iter().filter(|(f, _)| *f == from).map(|(_, n)| *n).collect();
            if !numbers.is_empty() {
                assert_eq!(numbers, [0, 1, 2]);
                bench.send_all(&[entry(peer, None, vec![7])]);
                assert_eq!(heard(peer), (vec![7], address));
            }
        }
        heard_by.push(got.len());
    }
    assert_eq!(heard_by.iter().sum::<usize>(), 3 * 64, "{heard_by:?}");
    assert!(heard_by.iter().all(|n| *n > 0), "{heard_by:?}");
}

#[test]
fn what_the_system_refuses_is_lost_and_the_rest_goes() {
    let bench = Bench::new("0.0.0.0:0", SERVICE);
    let good = peer("127.0.0.1:0");
    // Broadcasts need a permission that this socket does not have: a real error in the middle of a batch.
    let mut broadcast = entry(&good, None, vec![9]);
    broadcast.0.path.remote = "255.255.255.255:9".parse().unwrap();
    let too_large = entry(&good, None, vec![9; 65_520]);
    bench.send_all(&[
        broadcast.clone(),
        entry(&good, None, vec![1]),
        broadcast.clone(),
        too_large,
        entry(&good, None, vec![2]),
        broadcast,
    ]);
    assert_eq!((heard(&good).0, heard(&good).0), (vec![1], vec![2]));
    silent(&good);
    let stats = bench.counters.read();
    assert_eq!((stats.sent, stats.send_errors), (2, 4));
}

#[test]
fn errors_of_sending_end_nothing() {
    for code in
        [libc::ECONNREFUSED, libc::ECONNRESET, libc::EMSGSIZE, libc::ENETUNREACH, libc::EPERM, libc::ENOBUFS]
    {
        let bench = Bench::new("127.0.0.1:0", Use::Device);
        let to = peer("127.0.0.1:0");
        bench.fail(Interest::Write, [code, code]);
        let entries = [entry(&to, None, vec![1]), entry(&to, None, vec![2]), entry(&to, None, vec![3])];
        bench.send_all(&entries);
        assert_eq!(heard(&to).0, [3]);
        bench.fail(Interest::Write, [code]);
        let (mut first, mut second) = (0, 0);
        let one = |(t, bytes): &(Transmit, Vec<u8>), at| bench.socket.poll_send(&mut cx(), t, bytes, at);
        assert!(one(&entries[0], &mut first).is_ready() && one(&entries[1], &mut second).is_ready());
        assert_eq!(heard(&to).0, [2]);
        assert_eq!(bench.counters.read().send_errors, 3);
    }
}

#[test]
fn a_full_socket_keeps_what_waits() {
    let bench = Bench::new("127.0.0.1:0", SERVICE);
    let to = peer("127.0.0.1:0");
    let mut segmented = entry(&to, None, (0..50).collect());
    segmented.0.segment_size = NonZeroU16::new(20);
    let entries = [entry(&to, None, vec![1]), segmented, entry(&to, None, vec![2])];
    let mut sent = [0; 3];
    bench.fail(Interest::Write, [libc::EAGAIN]);
    assert_eq!(bench.send(&entries, &mut sent), Poll::Pending);
    assert_eq!(sent, [0, 0, 0]);
    bench.fail(Interest::Write, [libc::EAGAIN]);
    assert_eq!(bench.send(&entries, &mut sent), Poll::Pending);
    assert_eq!(bench.send(&entries, &mut sent), Poll::Ready(()));
    assert_eq!(sent, [1, 50, 1]);
    let sizes: Vec<_> = (0..5).map(|_| heard(&to).0.len()).collect();
    assert_eq!(sizes.iter().sum::<usize>(), 52, "{sizes:?}");
    silent(&to);
    assert_eq!(bench.counters.read().send_blocked, 2);
}

#[test]
fn segments_go_together_where_the_system_can_and_singly_where_it_cannot() {
    use nix::{setsockopt_impl, sockopt_impl};
    sockopt_impl!(NoCheck, SetOnly, libc::SOL_SOCKET, libc::SO_NO_CHECK, bool);
    for refused in [false, true] {
        let bench = Bench::new("127.0.0.1:0", SERVICE);
        let to = peer("127.0.0.1:0");
        if bench.socket.max_segments() == 1 {
            println!("skipped: this system has no segmentation offload");
            return;
        }
        if refused {
            // Without checksums the kernel answers segmentation with EINVAL.
            let set = &mut |socket: SockRef<'_>| {
                nix::sys::socket::setsockopt(&*socket, NoCheck, &true).map_err(io::Error::from)
            };
            bench.socket.io.try_io(Interest::Write, set).unwrap();
        }
        let bytes: Vec<u8> = (0..16 * 1200 - 700).map(|i| (i % 251) as u8).collect();
        let mut datagram = entry(&to, None, bytes.clone());
        datagram.0.segment_size = NonZeroU16::new(1200);
        for round in 0..2 {
            bench.send_all(std::slice::from_ref(&datagram));
            let packets: Vec<_> = (0..16).map(|_| heard(&to).0).collect();
            assert!(packets[..15].iter().all(|p| p.len() == 1200) && packets[15].len() == 500);
            assert_eq!(packets.concat(), bytes);
            let stats = bench.counters.read();
            assert_eq!((stats.sent, stats.send_errors), (16 * (round + 1), 0));
            assert_eq!(stats.gso_refused, u64::from(refused), "refused once, then off");
            assert_eq!(stats.send_calls, if refused { 1 + 16 * (round + 1) } else { round + 1 });
        }
        silent(&to);
    }
}

#[test]
fn a_batch_comes_with_few_calls() {
    for (purpose, mut inbox) in [(SERVICE, Inbox::service()), (Use::Device, Inbox::device())] {
        let bench = Bench::new("127.0.0.1:0", purpose);
        let from = peer("127.0.0.1:0");
        for i in 0..40 {
            from.send_to(&[i; 100], bench.socket.local()).unwrap();
        }
        let mut got = Vec::new();
        while got.len() < 40 {
            let batch = bench.receive(&mut inbox);
            assert!(!batch.is_empty(), "{} of 40", got.len());
            got.extend(batch);
        }
        let remote = from.local_addr().unwrap();
        assert!(got.iter().enumerate().all(|(i, (from, _, p))| *from == remote && *p == [i as u8; 100]));
        assert!(bench.receive(&mut inbox).is_empty());
        let stats = bench.counters.read();
        assert_eq!(stats.received, 40);
        let calls = if purpose == SERVICE { 3 } else { 11 };
        assert!(stats.receive_calls <= calls, "{}", stats.receive_calls);
    }
}

#[test]
fn a_burst_put_together_by_the_kernel_is_taken_apart() {
    let bench = Bench::new("127.0.0.1:0", Use::Device);
    let from = Bench::new("127.0.0.1:0", SERVICE);
    let bytes: Vec<u8> = (0..16 * 1200 - 700).map(|i| (i % 251) as u8).collect();
    let path = Path::new(LinkId(0), bench.socket.local());
    from.send_all(&[(
        Transmit { path, len: bytes.len(), segment_size: NonZeroU16::new(1200) },
        bytes.clone(),
    )]);
    let (mut inbox, mut got) = (Inbox::device(), Vec::new());
    while got.len() < 16 {
        let batch = bench.receive(&mut inbox);
        assert!(!batch.is_empty(), "{} of 16", got.len());
        got.extend(batch.into_iter().map(|(_, _, p)| p));
    }
    assert!(got.iter().all(|p| p.len() <= 1200));
    assert_eq!(got.concat(), bytes);
}

#[test]
fn a_packet_that_is_too_large_is_seen_to_be() {
    let bench = Bench::new("127.0.0.1:0", SERVICE);
    let from = peer("127.0.0.1:0");
    from.send_to(&[1; 9000], bench.socket.local()).unwrap();
    from.send_to(&[2; 10], bench.socket.local()).unwrap();
    let sizes: Vec<_> = bench.receive(&mut Inbox::service()).iter().map(|(_, _, p)| p.len()).collect();
    assert_eq!(sizes, [2048, 10]);
}

#[test]
fn errors_of_receiving_end_nothing() {
    let bench = Bench::new("127.0.0.1:0", SERVICE);
    let from = peer("127.0.0.1:0");
    let mut inbox = Inbox::service();
    let codes = [libc::ECONNREFUSED, libc::ECONNRESET, libc::EMSGSIZE, libc::ENETUNREACH, libc::EPERM];
    from.send_to(&[5; 5], bench.socket.local()).unwrap();
    bench.fail(Interest::Read, codes);
    assert_eq!(bench.receive(&mut inbox).len(), 1);
    assert_eq!(bench.counters.read().receive_errors, 5);
    assert!(bench.receive(&mut inbox).is_empty());
}

#[test]
fn a_socket_that_only_fails_gets_a_rest() {
    let bench = Bench::new("127.0.0.1:0", SERVICE);
    bench.fail(Interest::Read, [libc::EIO; ERRORS]);
    assert_eq!(bench.socket.poll_receive(&mut cx(), &mut Inbox::service()), Poll::Ready(false));
    assert_eq!(bench.socket.poll_receive(&mut cx(), &mut Inbox::service()), Poll::Pending);
}

#[test]
fn the_buffers_that_were_granted_can_be_read() {
    let stats = Bench::new("127.0.0.1:0", SERVICE).counters.read();
    assert!(stats.receive_buffer >= 4096 && stats.send_buffer >= 4096, "{stats:?}");
}

#[test]
fn what_the_kernel_throws_away_can_be_read() {
    let bench = Bench::new("127.0.0.1:0", Use::Device);
    assert_eq!(bench.counters.read().kernel_drops, Some(0));
    let from = peer("127.0.0.1:0");
    let bytes = vec![0; 1400];
    let buffer = bench.counters.read().receive_buffer as usize;
    // More than fits, and nobody reads.
    let sent = buffer / bytes.len() + 200;
    for _ in 0..sent {
        from.send_to(&bytes, bench.socket.local()).unwrap();
    }
    let (mut inbox, mut got) = (Inbox::device(), 0);
    loop {
        match bench.receive(&mut inbox).len() {
            0 => break,
            n => got += n,
        }
    }
    assert!(got < sent);
    assert_eq!(bench.counters.read().kernel_drops, Some((sent - got) as u64));
    let counters = bench.counters.clone();
    drop(bench);
    assert_eq!(counters.read().kernel_drops, None);
}
