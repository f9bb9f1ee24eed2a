//! The adapter alone: readiness and timers as the driver expects them.

use std::future::poll_fn;
use std::io::{self, Read};
use std::net::UdpSocket;
use std::task::Poll;
use std::time::{Duration, Instant};

use mpp_driver::{AsyncSocket, Interest, Runtime};
use mpp_tokio::Tokio;

/// One packet's first byte, if the socket has one.
fn read(socket: &dyn AsyncSocket) -> io::Result<u8> {
    let mut byte = [0];
    socket.try_io(Interest::Read, &mut |s| (&*s).read(&mut byte).map(drop))?;
    Ok(byte[0])
}

async fn readable(socket: &dyn AsyncSocket) {
    let ready = poll_fn(|cx| socket.poll_ready(Interest::Read, cx));
    tokio::time::timeout(Duration::from_secs(5), ready).await.expect("never readable").unwrap();
}

#[tokio::test]
async fn a_socket_is_ready_when_it_has_something_and_not_before() {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_nonblocking(true).unwrap();
    let (to, from) = (socket.local_addr().unwrap(), UdpSocket::bind("127.0.0.1:0").unwrap());
    let socket = Tokio::default().wrap(socket).unwrap();
    for round in 1..=3 {
        let empty = read(&*socket);
        assert!(empty.is_err_and(|e| e.kind() == io::ErrorKind::WouldBlock));
        let polled = poll_fn(|cx| Poll::Ready(socket.poll_ready(Interest::Read, cx).is_ready())).await;
        assert!(!polled, "ready with nothing to read");
        let send = async {
            tokio::time::sleep(Duration::from_millis(5)).await;
            from.send_to(&[round], to).unwrap();
        };
        tokio::join!(readable(&*socket), send);
        assert_eq!(read(&*socket).unwrap(), round);
    }
    poll_fn(|cx| socket.poll_ready(Interest::Write, cx)).await.unwrap();
}

#[tokio::test]
async fn a_timer_fires_when_it_was_last_told_to() {
    let runtime = Tokio::default();
    let start = Instant::now();
    let mut timer = runtime.timer(start + Duration::from_secs(3600));
    for millis in [20, 60] {
        timer.as_mut().reset(start + Duration::from_millis(millis));
        let fired = poll_fn(|cx| timer.as_mut().poll(cx));
        tokio::time::timeout(Duration::from_secs(5), fired).await.expect("never fired");
        assert!(start.elapsed() >= Duration::from_millis(millis));
    }
}

#[tokio::test]
async fn a_task_runs_in_the_background() {
    let (tell, told) = tokio::sync::oneshot::channel();
    Tokio::default().spawn(Box::pin(async move { tell.send(7).unwrap() }));
    assert_eq!(told.await, Ok(7));
}

/// Tokio's own timers wake at every step down their wheel.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_timer_wakes_its_thread_once() {
    let slept = || {
        let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
        let field = status.lines().find_map(|l| l.strip_prefix("voluntary_ctxt_switches:"));
        field.unwrap().trim().parse::<u64>().unwrap()
    };
    let mut timer = Tokio::default().timer(Instant::now());
    poll_fn(|cx| timer.as_mut().poll(cx)).await;
    let before = slept();
    for _ in 0..3 {
        timer.as_mut().reset(Instant::now() + Duration::from_millis(300));
        poll_fn(|cx| timer.as_mut().poll(cx)).await;
    }
    assert_eq!(slept() - before, 3);
}
