//! Looking names up.

use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;

/// Looks a name up on a thread of its own, as the system's resolver blocks, and calls `done` with what it stands for:
/// nothing, if it could not be looked up.
pub(crate) fn look_up(host: String, port: u16, done: impl Fn(Vec<SocketAddr>) + Send + Sync + 'static) {
    let done = Arc::new(done);
    let answer = done.clone();
    let look_up = move || {
        let addresses = (host.as_str(), port).to_socket_addrs().map(Iterator::collect);
        answer(addresses.unwrap_or_default());
    };
    if std::thread::Builder::new().name("mpp-resolve".into()).spawn(look_up).is_err() {
        done(Vec::new());
    }
}
