//! Calls to the system that block, on threads of their own.

use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::AcqRel};

/// Threads at a time. A resolver that hangs must not collect them: beyond a few, names are not found.
const THREADS: usize = 8;

/// Where such calls are made, and how many have not come back.
#[derive(Clone, Debug, Default)]
pub(crate) struct Lookups(Arc<AtomicUsize>);

/// One of the threads; it is free again when this is dropped.
struct Place(Arc<AtomicUsize>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, AcqRel);
    }
}

impl Lookups {
    /// Calls `work` on a thread of its own. If too many hang already, or the system has no thread to give, it is dropped
    /// without a call, and that is `false`.
    pub(crate) fn run(&self, work: impl FnOnce() + Send + 'static) -> bool {
        // Taken first, so that it is given back whatever happens.
        let before = self.0.fetch_add(1, AcqRel);
        let place = Place(self.0.clone());
        if before >= THREADS {
            return false;
        }
        let work = move || {
            work();
            drop(place);
        };
        std::thread::Builder::new().name("mpp-resolve".into()).spawn(work).is_ok()
    }

    /// Looks a name up and calls `done` with what it stands for: nothing, if it could not be looked up.
    pub(crate) fn look_up(
        &self,
        host: String,
        port: u16,
        done: impl Fn(Vec<SocketAddr>) + Send + Sync + 'static,
    ) {
        let done = Arc::new(done);
        let answer = done.clone();
        if !self.run(move || answer(addresses(&host, port))) {
            done(Vec::new());
        }
    }
}

/// What a name stands for, nothing if that is not known. Blocks.
pub(crate) fn addresses(host: &str, port: u16) -> Vec<SocketAddr> {
    (host, port).to_socket_addrs().map(Iterator::collect).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::mpsc::channel;
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn a_resolver_that_hangs_collects_no_threads() {
        let lookups = Lookups::default();
        let (tell, told) = channel();
        let (release, held) = channel::<()>();
        let held = Arc::new(Mutex::new(held));
        let hang = || {
            let (tell, held) = (tell.clone(), held.clone());
            move || {
                tell.send(()).unwrap();
                let _ = held.lock().unwrap().recv();
            }
        };
        assert_eq!((0..20).filter(|_| lookups.run(hang())).count(), THREADS);
        let found = Arc::new(Mutex::new(None));
        let note = found.clone();
        lookups.look_up("127.0.0.1".into(), 1, move |addresses| *note.lock().unwrap() = Some(addresses));
        assert_eq!(*found.lock().unwrap(), Some(vec![]), "told at once");
        for _ in 0..THREADS {
            told.recv_timeout(Duration::from_secs(5)).unwrap();
            release.send(()).unwrap();
        }
        let (mut again, start) = (false, Instant::now());
        while !again && start.elapsed() < Duration::from_secs(5) {
            again = lookups.run(|| {});
        }
        assert!(again, "the places are not given back");
    }
}
