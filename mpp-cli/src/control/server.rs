//! Answering on the control channel.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use mpp_tokio::Service;
use mpp_tokio::proto::{self, AccountHead, AccountId, CollapseKey, DropReason, Event, PublishError, StoreId};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::{Answer, Ask, Line, MAX_LINE, Post, Status, Urgency, VERSION, Why, client};
use crate::failure::{Failure, Outcome, reason};
use crate::state::StateDir;
use crate::text::unhex;

/// Callers served at a time; others wait in the socket's queue.
const CALLERS: usize = 16;
/// How long a caller may stay silent.
const PATIENCE: Duration = Duration::from_secs(10);

/// The open control socket; its file is removed when this is dropped.
#[derive(Debug)]
pub(crate) struct Control {
    listener: UnixListener,
    path: PathBuf,
    owner: u32,
}

/// What the service does not know of itself.
#[derive(Debug)]
pub(crate) struct About {
    /// Where devices are to find it.
    pub(crate) listening: Vec<SocketAddr>,
    /// Where those find it whose networks have no UDP.
    pub(crate) web: Vec<SocketAddr>,
    pub(crate) started: Instant,
}

impl Control {
    /// Opens it. The caller holds the directory's lock, so a socket that is there belongs to nobody any more.
    pub(crate) fn open(state: &StateDir) -> Outcome<Self> {
        let path = state.control();
        match fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                return Err(Failure::new(format_args!(
                    "cannot replace {}: {}: move it away",
                    path.display(),
                    reason(&e)
                )));
            }
            _ => {}
        }
        let failed = |e: io::Error| match e.kind() {
            io::ErrorKind::InvalidInput => client::too_long(state),
            _ => Failure::new(format_args!(
                "cannot open the control socket {}: {}",
                path.display(),
                reason(&e)
            )),
        };
        let listener = UnixListener::bind(&path).map_err(failed)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).map_err(failed)?;
        let owner = fs::metadata(&path).map_err(failed)?.uid();
        Ok(Self { listener, path, owner })
    }

    /// Answers for ever. Ends only by being dropped.
    pub(crate) async fn serve(&self, service: &Service, about: About) {
        let about = Arc::new(about);
        let room = Arc::new(Semaphore::new(CALLERS));
        loop {
            let Ok(permit) = Arc::clone(&room).acquire_owned().await else { return };
            match self.listener.accept().await {
                // Between the socket's creation and its mode others could have connected.
                Ok((stream, _)) if self.is_allowed(&stream) => {
                    let (service, about) = (service.clone(), Arc::clone(&about));
                    tokio::spawn(async move {
                        // A caller that fails or leaves is its own affair.
                        let _ = converse(stream, &service, &about).await;
                        drop(permit);
                    });
                }
                Ok(_) => {}
                // Out of file descriptors, for example: it passes, but not by asking again at once.
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    }

    fn is_allowed(&self, stream: &UnixStream) -> bool {
        stream.peer_cred().is_ok_and(|peer| peer.uid() == self.owner || peer.uid() == 0)
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// Serves one caller until it leaves, is silent for too long, or sends what is no line.
async fn converse(mut stream: UnixStream, service: &Service, about: &About) -> io::Result<()> {
    let (read, mut write) = stream.split();
    let mut read = BufReader::new(read);
    let mut line = Vec::new();
    loop {
        line.clear();
        timeout(PATIENCE, (&mut read).take(MAX_LINE as u64).read_until(b'\n', &mut line)).await??;
        if line.is_empty() {
            return Ok(());
        }
        let whole = line.ends_with(b"\n");
        let answer =
            if whole { answer(&line, service, about) } else { bad("the request is too long or cut short") };
        let mut text = serde_json::to_vec(&Line { v: VERSION, body: answer })?;
        text.push(b'\n');
        timeout(PATIENCE, write.write_all(&text)).await??;
        if !whole {
            return Ok(());
        }
    }
}

fn answer(line: &[u8], service: &Service, about: &About) -> Answer {
    // The version first: another one may have another form.
    #[derive(serde::Deserialize)]
    struct Version {
        v: u32,
    }
    match serde_json::from_slice(line) {
        Ok(Version { v: VERSION }) => {}
        Ok(Version { v }) => {
            return bad(&format!(
                "this service speaks version {VERSION} of the control channel, not {v}: use the same version of mpp"
            ));
        }
        Err(_) => return bad("the request is not understood"),
    }
    match serde_json::from_slice(line) {
        Ok(Line { body: Ask::Post(post), .. }) => publish(&post, service),
        Ok(Line { body: Ask::Status, .. }) => status(service, about),
        Err(_) => bad("the request is not understood"),
    }
}

fn bad(text: &str) -> Answer {
    Answer::Refused { why: Why::BadRequest, text: text.to_owned() }
}

fn publish(post: &Post, service: &Service) -> Answer {
    let event = match event(post) {
        Ok(event) => event,
        Err(text) => return Answer::Refused { why: Why::Refused, text },
    };
    let account = AccountId::of(&post.account);
    let mut result = service.publish(account, event.clone());
    if matches!(result, Err(PublishError::UnknownAccount)) && post.create {
        result = service.restore(AccountHead::new(account)).and_then(|()| service.publish(account, event));
    }
    match result {
        Ok(serial) => Answer::Posted { serial: serial.0, devices: service.devices(account).len() as u64 },
        Err(e) => Answer::Refused {
            why: match e {
                PublishError::UnknownAccount => Why::UnknownAccount,
                _ => Why::Refused,
            },
            text: e.to_string(),
        },
    }
}

fn event(post: &Post) -> Result<Event, String> {
    let store = StoreId::new(post.store).ok_or("store numbers end at 127")?;
    let bytes = |hex: &str| unhex(hex).ok_or("a field of the request is not hexadecimal");
    let mut event = match &post.payload {
        Some(payload) => Event::with_payload(store, Bytes::from(bytes(payload)?)),
        None => Event::changed(store),
    };
    if let Some(key) = &post.key {
        event = event.key(CollapseKey::new(&bytes(key)?).map_err(|e| e.to_string())?);
    }
    let event = event.ttl(Duration::from_millis(post.ttl_ms)).urgency(post.urgency.into());
    event.check().map_err(|e| e.to_string())?;
    Ok(event)
}

impl From<Urgency> for proto::Urgency {
    fn from(urgency: Urgency) -> Self {
        match urgency {
            Urgency::Low => Self::Low,
            Urgency::Normal => Self::Normal,
            Urgency::High => Self::High,
        }
    }
}

fn status(service: &Service, about: &About) -> Answer {
    let stats = service.stats();
    let (core, books) = (&stats.core, &stats.core.delivery);
    let counters = [
        ("connects", core.connects),
        ("refused", core.refused),
        ("deferred", core.deferred),
        ("bindings", core.bindings),
        ("probes", core.probes),
        ("resets", core.resets),
        ("web-requests", core.web_requests),
        ("web-held", core.web_held),
        ("web-no-place", core.web_no_place),
        ("web-hung-up", stats.socket.web_failures),
        ("published", core.published),
        ("notified", core.notified),
        ("retransmitted", core.retransmitted),
        ("given-up", core.given_up),
        ("superseded", core.superseded),
        ("expired", core.expired),
        ("overflowed", core.overflowed),
        ("crowded", core.crowded),
        ("posts-expired", core.posts_expired),
        // What became of each event for each device: the first is the sum of the others.
        ("owed", books.owed),
        ("- delivered", books.delivered),
        ("- confirmed", books.confirmed),
        ("- filtered", books.filtered),
        ("- superseded", books.superseded),
        ("- expired", books.expired),
        ("- dropped", books.dropped),
        ("- crowded", books.crowded),
        ("- transient", books.transient),
        ("- lost", books.lost),
        ("- forgotten", books.forgotten),
        ("- abandoned", books.abandoned),
        ("- pending", books.outstanding()),
    ];
    let dropped = DropReason::ALL.iter().zip(core.dropped).filter(|(_, n)| *n > 0);
    Answer::Status(Status {
        listening: about.listening.clone(),
        web: about.web.clone(),
        connected: core.connected,
        packets_received: core.packets_received,
        packets_sent: core.packets_sent,
        bytes_received: core.bytes_received,
        bytes_sent: core.bytes_sent,
        dropped: dropped.map(|(reason, n)| (name(*reason), n)).collect(),
        counters: counters
            .into_iter()
            .filter(|(_, n)| *n > 0)
            .map(|(name, n)| (name.to_owned(), n))
            .collect(),
        uptime_ms: u64::try_from(about.started.elapsed().as_millis()).unwrap_or(u64::MAX),
    })
}

/// `ForeignIdentifier` as `foreign-identifier`.
fn name(reason: DropReason) -> String {
    let mut out = String::new();
    for c in format!("{reason:?}").chars() {
        if c.is_ascii_uppercase() && !out.is_empty() {
            out.push('-');
        }
        out.push(c.to_ascii_lowercase());
    }
    out
}
