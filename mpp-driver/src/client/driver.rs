//! The task behind a client.

use std::num::NonZeroUsize;
use std::sync::{Arc, Weak};
use std::task::Context;

use mpp_proto::{
    Datagram, DeviceEvent, Instant, LinkId, LinkKind, LinkState, Path, ResolveId, Resume, UnixTime,
};

use super::builder::OnResume;
use super::state::Shared;
use super::web::Requests;
use crate::clock::Calendar;
use crate::drive::{Drive, Next, ROUNDS};
use crate::resolve::Lookups;
use crate::runtime::Runtime;
use crate::socket::{Inbox, Link, Outgoing, UdpSocket, any_address};
use crate::wake::Alarm;

/// What moves a client's packets. It ends when the device is closed and has said so.
pub(super) struct Driver {
    shared: Arc<Shared>,
    runtime: Arc<dyn Runtime>,
    on_resume: Option<OnResume>,
    saved: Option<Resume>,
    calendar: Calendar,
    alarm: Alarm,
    lookups: Lookups,
    links: Vec<Link>,
    web: Requests,
    inbox: Inbox,
    outgoing: Outgoing,
}

impl Driver {
    pub(super) fn new(
        shared: Arc<Shared>,
        runtime: Arc<dyn Runtime>,
        on_resume: Option<OnResume>,
        now: Instant,
        unix: UnixTime,
    ) -> Self {
        let lookups = Lookups::default();
        Self {
            web: Requests::new(&shared, &lookups),
            alarm: Alarm::new(shared.clock.clone()),
            shared,
            runtime,
            on_resume,
            saved: None,
            calendar: Calendar::new(now, unix),
            lookups,
            links: Vec::new(),
            inbox: Inbox::device(),
            outgoing: Outgoing::new(),
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
                    self.outgoing.forget(link);
                    self.web.close(link);
                }
                Some(DeviceEvent::Resolve { id, host, port }) => {
                    look_up(&self.shared, &self.lookups, id, host, port)
                }
                Some(_) => {}
            }
        }
    }

    fn open(&mut self, id: LinkId, kind: LinkKind) {
        let Self { shared, runtime, links, web, .. } = self;
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
            None if kind == LinkKind::Web => web.open(id),
            None => LinkState::Failed,
        };
        let now = shared.clock.now();
        shared.state.with(|s, _| s.device.handle_link(now, id, state));
    }

    /// Sends; returns whether there may be more.
    fn transmit(&mut self, cx: &mut Context<'_>) -> bool {
        let Self { shared, links, outgoing, .. } = self;
        // One datagram of the protocol at a time: 16 packets at most.
        let segments = NonZeroUsize::new(16).unwrap_or(NonZeroUsize::MIN);
        let mut more = outgoing.poll_send(cx, links, ROUNDS, |out| {
            let now = shared.clock.now();
            shared.state.with(|s, _| s.device.poll_transmit(now, out, segments))
        });
        for link in links.iter().filter(|link| link.socket.take_forbidden()) {
            let now = shared.clock.now();
            shared.state.with(|s, _| s.device.handle_unsent(now, link.id));
            more = true;
        }
        more
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
            let said = s.device.is_drained() && self.outgoing.is_empty();
            let deadlines = [s.device.poll_timeout().map(|w| w.at), rest, self.web.deadline()];
            Next::of(now, s.give_up, said, deadlines)
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
        more |= self.web.exchange(cx, &self.shared);
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

/// Looks a name up for the device.
fn look_up(shared: &Arc<Shared>, lookups: &Lookups, id: ResolveId, host: String, port: u16) {
    let back: Weak<Shared> = Arc::downgrade(shared);
    lookups.look_up(host, port, move |addresses| {
        if let Some(shared) = back.upgrade() {
            shared.state.with(|s, wakes| {
                s.resolved.push((id, addresses));
                wakes.driver();
            });
        }
    });
}
