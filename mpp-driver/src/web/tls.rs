//! TLS over TCP, by rustls.

use std::future::poll_fn;
use std::io::{self, Read as _, Write as _};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore};

use super::tcp::Tcp;

/// Whom to trust: the system's list, and what the program adds.
#[derive(Clone, Debug, Default)]
pub(crate) struct Trust {
    extra: Vec<CertificateDer<'static>>,
    config: OnceLock<Option<Arc<ClientConfig>>>,
}

impl Trust {
    /// Trusts these certificates too: text in the PEM form, or one certificate in the DER form. Returns how many there
    /// were, 0 if it is neither.
    pub(crate) fn add(&mut self, certificates: &[u8]) -> usize {
        let mut found: Vec<_> =
            CertificateDer::pem_slice_iter(certificates).collect::<Result<_, _>>().unwrap_or_default();
        if found.is_empty() {
            found.push(CertificateDer::from(certificates.to_vec()));
        }
        // What cannot be an issuer is told now, not at the first connection.
        let mut store = RootCertStore::empty();
        if found.iter().any(|certificate| store.add(certificate.clone()).is_err()) {
            return 0;
        }
        let count = found.len();
        self.extra.append(&mut found);
        count
    }

    /// The settings of connections. The first call reads the system's list from files, which blocks.
    pub(crate) fn config(&self) -> Option<Arc<ClientConfig>> {
        let make = || {
            let mut roots = RootCertStore::empty();
            // Files that cannot be read are as good as files that are not there.
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            roots.add_parsable_certificates(self.extra.iter().cloned());
            let provider = Arc::new(rustls::crypto::ring::default_provider());
            let config =
                ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().ok()?;
            let mut config = config.with_root_certificates(roots).with_no_client_auth();
            config.alpn_protocols = vec![b"http/1.1".to_vec()];
            Some(Arc::new(config))
        };
        self.config.get_or_init(make).clone()
    }
}

/// A TLS connection.
#[derive(Debug)]
pub(crate) struct Tls {
    session: ClientConnection,
    tcp: Tcp,
}

impl Tls {
    /// Agrees on keys with `host`, which has to prove that it is that.
    ///
    /// # Errors
    /// If it is not, or the connection ends.
    pub(crate) async fn connect(tcp: Tcp, host: &str, config: Arc<ClientConfig>) -> io::Result<Self> {
        let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
        let session = ClientConnection::new(config, name).map_err(io::Error::other)?;
        let mut tls = Self { session, tcp };
        poll_fn(|cx| {
            while tls.session.is_handshaking() {
                ready!(tls.poll_flush(cx))?;
                if tls.session.is_handshaking() {
                    ready!(tls.poll_fill(cx))?;
                }
            }
            Poll::Ready(io::Result::Ok(()))
        })
        .await?;
        Ok(tls)
    }

    /// Sends what TLS has to send.
    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { session, tcp } = self;
        while session.wants_write() {
            ready!(blocking(session.write_tls(&mut Waits { tcp, cx })))?;
        }
        Poll::Ready(Ok(()))
    }

    /// Takes in what came; an error if it is the end, and TLS had not said so.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { session, tcp } = self;
        let n = ready!(blocking(session.read_tls(&mut Waits { tcp, cx })))?;
        if let Err(e) = session.process_new_packets() {
            // The other side is told why, if there is room for it.
            let _ = self.poll_flush(cx);
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, e)));
        }
        Poll::Ready(if n == 0 { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) })
    }

    pub(crate) fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        loop {
            match self.session.reader().read(buffer) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                done => return Poll::Ready(done),
            }
            // An answer to a key update, say. It may wait, and reading does not.
            if let Poll::Ready(Err(e)) = self.poll_flush(cx) {
                return Poll::Ready(Err(e));
            }
            ready!(self.poll_fill(cx))?;
        }
    }

    pub(crate) fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            // 0: what was written before fills the buffer.
            let n = self.session.writer().write(bytes)?;
            let flushed = self.poll_flush(cx);
            if n > 0 || bytes.is_empty() {
                if let Poll::Ready(Err(e)) = flushed {
                    return Poll::Ready(Err(e));
                }
                return Poll::Ready(Ok(n));
            }
            ready!(flushed)?;
        }
    }

    pub(crate) fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.session.send_close_notify();
        ready!(self.poll_flush(cx))?;
        self.tcp.poll_shutdown(cx)
    }
}

/// What would block has to wait.
fn blocking(result: io::Result<usize>) -> Poll<io::Result<usize>> {
    match result {
        Err(e) if e.kind() == io::ErrorKind::WouldBlock => Poll::Pending,
        done => Poll::Ready(done),
    }
}

/// A connection as rustls wants it: one that says when it would block.
struct Waits<'a, 'b> {
    tcp: &'a Tcp,
    cx: &'a mut Context<'b>,
}

fn would_block<T>(poll: Poll<io::Result<T>>) -> io::Result<T> {
    match poll {
        Poll::Ready(done) => done,
        Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
    }
}

impl io::Read for Waits<'_, '_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        would_block(self.tcp.poll_read(self.cx, buffer))
    }
}

impl io::Write for Waits<'_, '_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        would_block(self.tcp.poll_write(self.cx, bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
