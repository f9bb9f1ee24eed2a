//! The task behind a client.

use std::net::{SocketAddr, ToSocketAddrs};
use std::num::NonZeroUsize;
use std::sync::{Arc, Weak};
use std::task::Context;

use mpp_proto::{
    Datagram, DeviceEvent, Instant, LinkId, LinkKind, LinkState, Path, ResolveId, Resume, Transmit, UnixTime,
};

use super::builder::OnResume;
use super::state::Shared;
use crate::clock::Calendar;
use crate::drive::{Drive, Next, ROUNDS};
use crate::runtime::Runtime;
use crate::socket::{Inbox, Link, UdpSocket, any_address};
use crate::wake::Alarm;

/// Room for one datagram of the protocol: 16 packets of the largest size.
const OUT: usize = 16 * 1452;

/// The packet that waits for room in its socket.
#[derive(Debug)]
struct Pending {
    transmit: Transmit,
    sent: usize,
}

/// What moves a client's packets. It ends when the device is closed and has said so.
pub(super) struct Driver {
    shared: Arc<Shared>,
    runtime: Arc<dyn Runtime>,
    on_resume: Option<OnResume>,
    saved: Option<Resume>,
    calendar: Calendar,
    alarm: Alarm,
    links: Vec<Link>,
    inbox: Inbox,
    out: Vec<u8>,
    pending: Option<Pending>,
}

impl Driver {
    pub(super) fn new(
        shared: Arc<Shared>,
        runtime: Arc<dyn Runtime>,
        on_resume: Option<OnResume>,
        now: Instant,
        unix: UnixTime,
    ) -> Self {
        Self {
            alarm: Alarm::new(shared.clock.clone()),
            shared,
            runtime,
            on_resume,
            saved: None,
            calendar: Calendar::new(now, unix),
            links: Vec::new(),
            inbox: Inbox::device(),
            out: vec![0; OUT],
            pending: None,
        }
    }

    /// Takes in what came; returns whether there may be more.
    fn receive(&mut self, cx: &mut Context<'_>) -> bool {
        let Self { shared, links, inbox, .. } = self;
        let mut more = false;
        for link in links {
            more |= link.receive(cx, &shared.clock, inbox, ROUNDS, |id, inbox| {
                let now = shared.clock.now();
                shared.state.with(|s, wakes| {
                    for packet in inbox.packets() {
                        // A device leaves the choice of its own address to the system's routes: the one a packet
                        // came to may be gone by the time of the answer.
                        let path = Path::new(id, packet.remote);
                        let payload = packet.payload;
                        // What is not for this device is counted by it.
                        let _ = s.device.handle_datagram(now, Datagram { path, payload });
                    }
                    s.wake_readers(wakes);
                });
            });
        }
        more
    }

    /// Timeouts and everything that others left for the device.
    fn advance(&mut self, cx: &Context<'_>) {
        let Self { shared, calendar, .. } = self;
        let now = shared.clock.now();
        let civil = calendar.check(now);
        shared.state.with(|s, wakes| {
            wakes.driver_runs(cx);
            if let Some(civil) = civil {
                s.device.set_clock(now, civil);
            }
            for (id, addresses) in s.resolved.drain(..) {
                s.device.handle_resolved(now, id, &addresses);
            }
            if s.device.poll_timeout().is_some_and(|w| w.at <= now) {
                s.device.handle_timeout(now);
                s.wake_readers(wakes);
            }
        });
    }

    /// Does what the device asks for; returns whether there is a new socket, which nobody waits for yet.
    fn serve(&mut self) -> bool {
        let mut opened = false;
        loop {
            let now = self.shared.clock.now();
            let event = self.shared.state.with(|s, wakes| {
                while let Some(event) = s.device.poll_event() {
                    let mine = s.take_event(now, event, wakes);
                    if mine.is_some() {
                        return mine;
                    }
                }
                None
            });
            match event {
                None => return opened,
                Some(DeviceEvent::OpenLink { link, kind }) => {
                    self.open(link, kind);
                    opened = true;
                }
                Some(DeviceEvent::CloseLink(link)) => {
                    self.links.retain(|l| l.id != link);
                    self.pending.take_if(|p| p.transmit.path.link == link);
                }
                Some(DeviceEvent::Resolve { id, host, port }) => resolve(&self.shared, id, host, port),
                Some(_) => {}
            }
        }
    }

    fn open(&mut self, id: LinkId, kind: LinkKind) {
        let Self { shared, runtime, links, .. } = self;
        links.retain(|l| l.id != id);
        let socket = kind.family().and_then(|family| {
            UdpSocket::bind_device(&**runtime, any_address(family), &shared.counters).ok()
        });
        let state = match socket {
            Some(socket) => {
                let local = socket.local();
                links.push(Link::new(id, socket));
                LinkState::Open { local }
            }
            None => LinkState::Failed,
        };
        let now = shared.clock.now();
        shared.state.with(|s, _| s.device.handle_link(now, id, state));
    }

    /// Sends; returns whether there may be more. A packet for which there is no room waits, and so does all else: the
    /// device makes its packets when they can go.
    fn transmit(&mut self, cx: &mut Context<'_>) -> bool {
        let Self { shared, links, out, pending, .. } = self;
        for _ in 0..ROUNDS {
            if pending.is_none() {
                let now = shared.clock.now();
                // One datagram of the protocol at a time: 16 packets at most.
                let segments = NonZeroUsize::new(16).unwrap_or(NonZeroUsize::MIN);
                let transmit = shared.state.with(|s, _| s.device.poll_transmit(now, out, segments));
                match transmit {
                    Some(transmit) => *pending = Some(Pending { transmit, sent: 0 }),
                    None => return false,
                }
            }
            let Some(Pending { transmit, sent }) = pending else { return false };
            let link = links.iter().find(|l| l.id == transmit.path.link);
            let bytes = out.get(..transmit.len).unwrap_or_default();
            if let Some(link) = link
                && link.socket.poll_send(cx, transmit, bytes, sent).is_pending()
            {
                return false;
            }
            *pending = None;
        }
        true
    }

    /// Hands a new `Resume` to the host.
    fn save(&mut self) {
        if let Some(save) = &mut self.on_resume {
            let resume = self.shared.state.with(|s, _| s.device.resume());
            if self.saved.as_ref() != Some(&resume) {
                save(&resume);
                self.saved = Some(resume);
            }
        }
    }

    /// When to look again if nothing happens.
    fn next(&self) -> Next {
        let now = self.shared.clock.now();
        let rest = Link::rested(&self.links);
        self.shared.state.with(|s, _| {
            let said = s.device.is_drained() && self.pending.is_none();
            Next::of(now, s.give_up, said, [s.device.poll_timeout().map(|w| w.at), rest])
        })
    }
}

impl Drive for Driver {
    fn round(&mut self, cx: &mut Context<'_>) -> Next {
        self.advance(cx);
        let mut more = self.receive(cx);
        more |= self.serve();
        // First the host, then the service: what the service knows to be dealt with, it may forget.
        self.save();
        more |= self.transmit(cx);
        self.next().unless(more)
    }

    fn alarm(&mut self) -> &mut Alarm {
        &mut self.alarm
    }
}

impl Drop for Driver {
    /// Also if the runtime ends: nobody must wait for ever.
    fn drop(&mut self) {
        self.shared.state.with(|s, wakes| s.end(wakes));
    }
}

/// Looks a name up on a thread of its own: the system's resolver blocks.
fn resolve(shared: &Arc<Shared>, id: ResolveId, host: String, port: u16) {
    // A resolver that hangs must not collect threads: beyond a few, names are not found.
    if !shared.state.with(|s, _| s.begin_lookup()) {
        return shared.state.with(|s, wakes| {
            s.resolved.push((id, Vec::new()));
            wakes.driver();
        });
    }
    let back: Weak<Shared> = Arc::downgrade(shared);
    let look_up = move || {
        let addresses: Vec<SocketAddr> =
            (host.as_str(), port).to_socket_addrs().map(Iterator::collect).unwrap_or_default();
        answer(&back, id, addresses);
    };
    if std::thread::Builder::new().name("mpp-resolve".into()).spawn(look_up).is_err() {
        answer(&Arc::downgrade(shared), id, Vec::new());
    }
}

fn answer(shared: &Weak<Shared>, id: ResolveId, addresses: Vec<SocketAddr>) {
    if let Some(shared) = shared.upgrade() {
        shared.state.with(|s, wakes| {
            s.lookups -= 1;
            s.resolved.push((id, addresses));
            wakes.driver();
        });
    }
}
