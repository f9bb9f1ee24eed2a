//! An HTTP server for the scenarios, as a program would have one.

use std::convert::Infallible;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;

use super::Kit;
use crate::runtime::Runtime;
use crate::web::{Stream, Tcp, WebBody};

/// An HTTP server on a runtime, as a program would have it.
pub struct WebServer {
    pub address: SocketAddr,
    /// Requests that are being answered.
    pub requests: Arc<AtomicUsize>,
    ended: Arc<AtomicBool>,
}

impl WebServer {
    /// Answers with `handle` until it is dropped.
    pub fn start<K: Kit, F: Future<Output = Response<WebBody>> + Send + 'static>(
        handle: impl Fn(SocketAddr, Request<Incoming>) -> F + Clone + Send + 'static,
    ) -> Self {
        Self::start_on(Arc::new(K::default()), handle)
    }

    pub(crate) fn start_on<F: Future<Output = Response<WebBody>> + Send + 'static>(
        runtime: Arc<dyn Runtime>,
        handle: impl Fn(SocketAddr, Request<Incoming>) -> F + Clone + Send + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (requests, ended) = (Arc::<AtomicUsize>::default(), Arc::<AtomicBool>::default());
        let (count, end) = (requests.clone(), ended.clone());
        thread::spawn(move || {
            while let Ok((stream, remote)) = listener.accept() {
                if end.load(SeqCst) {
                    return;
                }
                serve(&*runtime, stream, remote, count.clone(), handle.clone());
            }
        });
        Self { address, requests, ended }
    }

    pub fn base(&self) -> String {
        format!("http://{}", self.address)
    }
}

impl Drop for WebServer {
    fn drop(&mut self) {
        self.ended.store(true, SeqCst);
        // The thread waits for a connection.
        let _ = TcpStream::connect_timeout(&self.address, Duration::from_secs(1));
    }
}

/// One more that is being answered, as long as this lives.
struct Counted(Arc<AtomicUsize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, SeqCst);
    }
}

fn serve<F: Future<Output = Response<WebBody>> + Send + 'static>(
    runtime: &dyn Runtime,
    stream: TcpStream,
    remote: SocketAddr,
    requests: Arc<AtomicUsize>,
    handle: impl Fn(SocketAddr, Request<Incoming>) -> F + Clone + Send + 'static,
) {
    stream.set_nonblocking(true).unwrap();
    let stream = Stream::Plain(Tcp::wrap(runtime, stream).unwrap());
    let service = service_fn(move |request| {
        let (handle, requests) = (handle.clone(), requests.clone());
        async move {
            requests.fetch_add(1, SeqCst);
            let _counted = Counted(requests);
            Ok::<_, Infallible>(handle(remote, request).await)
        }
    });
    let connection = http1::Builder::new().serve_connection(stream, service);
    runtime.spawn(Box::pin(async move {
        // A client that goes is what a test wants.
        let _ = connection.await;
    }));
}
