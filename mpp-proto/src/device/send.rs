//! What goes out.

use super::Device;
use super::connection::Connection;
use super::event::{ConnectionState, DeviceEvent, LinkKind};
use super::phase::{Phase, Successor};
use super::requests::{self, Ask};
use super::transport::{SILENCE, Transport};
use crate::ids::{Epoch, Serial};
use crate::path::{Path, Transmit};
use crate::time::Instant;
use crate::wire::{
    Acknowledge, Code, EndpointRequest, Heartbeat, PacketExtension, Subscribe, TicketRequest, check_room,
};

/// The sending of a request that makes a heartbeat due if nothing has been heard for a while: the third.
const DOUBTFUL: usize = 3;
/// An endpoint request is padded to this, as its answer may not be larger than it is.
pub(super) const ENDPOINT_REQUEST_SIZE: usize = 96;

impl Device {
    pub(super) fn transmit(&mut self, now: Instant, out: &mut [u8]) -> Option<Transmit> {
        check_room(out);
        let (path, len) = match &mut self.phase {
            Phase::Attempting(attempt) => {
                let (link, remote, packet) = attempt.next_packet(now, |family| self.links.open(family))?;
                out[..packet.len()].copy_from_slice(packet);
                (Path::new(link, remote), packet.len())
            }
            Phase::Connected { .. } => match self.transmit_connected(now, out) {
                Some(sent) => sent,
                None => self.transmit_successor(now, out)?,
            },
            Phase::Closing { connection, next, .. } => {
                let path = connection.path().filter(|_| *next <= now)?;
                *next = now + connection.pto();
                (path, connection.write_close(out, Code::CLOSED))
            }
            Phase::Waiting(_) | Phase::Closed => return None,
        };
        self.stats.packets_sent += 1;
        self.stats.bytes_sent += len as u64;
        Some(Transmit { path, len, segment_size: None })
    }

    /// What the application has dealt with in the history that is received now: of one that it has not entered yet, the
    /// start.
    fn position(&self) -> Serial {
        let settled = self.inbox.settled();
        if settled.epoch == self.inbox.received().epoch { settled.position } else { Serial::ZERO }
    }

    /// Over the connection in use.
    fn transmit_connected(&mut self, now: Instant, out: &mut [u8]) -> Option<(Path, usize)> {
        let marks = self.marks();
        let wanted = self.keepalive.interval();
        let connection = self.phase.connection_mut()?;
        let Some(path) = connection.path() else {
            // Over the Web, but for questions that have a socket of their own.
            let (own, len) = self.write_next(now, out, Transport::Udp)?;
            return own.map(|path| (path, len));
        };
        if let Some(heartbeat) = connection.take_heartbeat(now, wanted, || self.requests.fresh_id()) {
            let len = write_heartbeat(connection, out, heartbeat, marks);
            connection.spoke = now;
            self.stats.heartbeats += 1;
            self.position_due = None;
            let confirmed = connection.confirmed;
            let unanswered = connection.went_unanswered();
            if connection.is_unanswered() && confirmed {
                self.set_state(ConnectionState::Unacknowledged);
            }
            if let Some(silence) = unanswered.filter(|_| confirmed) {
                self.missed(now, silence);
                self.tell_interval(now);
            }
            return Some((path, len));
        }
        let sent = self.transmit_content(now, out, path);
        if let Some((path, _)) = sent
            && let Some(connection) = self.phase.connection_mut()
            && connection.path().is_some_and(|own| own.link == path.link)
        {
            connection.spoke = now;
        }
        sent.or_else(|| self.transmit_probe(now, out))
    }

    /// What there is to say over it beside heartbeats.
    fn transmit_content(&mut self, now: Instant, out: &mut [u8], path: Path) -> Option<(Path, usize)> {
        let connection = self.phase.connection_mut()?;
        if let Some(challenge) = connection.take_challenge() {
            return Some((
                path,
                connection.write(out, Some(PacketExtension::PathResponse(challenge)), None, 0),
            ));
        }
        self.write_next(now, out, Transport::Udp).map(|(own, len)| (own.unwrap_or(path), len))
    }

    /// What heartbeats say.
    pub(super) fn marks(&self) -> Marks {
        let received = self.inbox.received();
        Marks { epoch: received.epoch, received: received.position, position: self.position() }
    }

    /// What is to be said next over the connection in use, beside heartbeats; where to, if not to where that goes.
    pub(super) fn write_next(
        &mut self,
        now: Instant,
        out: &mut [u8],
        by: Transport,
    ) -> Option<(Option<Path>, usize)> {
        let received = *self.inbox.received();
        let position = self.position();
        let changing = self.phase.is_changing();
        let connection = self.phase.connection_mut().filter(|c| c.confirmed)?;
        let carrier = connection.transport();
        let mut own = None;
        if let Some((request, ask, sendings)) =
            self.requests.next_due(now, changing, &self.links, (by, carrier))
        {
            // Two sendings went unanswered, and nothing else came: a heartbeat finds out whether the service is there,
            // before the request is given up.
            if sendings == DOUBTFUL && ask.family().is_none() && now.since(connection.heard) >= SILENCE {
                connection.beat_by(now);
            }
            let len = match &ask {
                Ask::Subscribe(filter) => {
                    let subscribe = Subscribe {
                        request,
                        filter: *filter,
                        covered: received.covered,
                        position: received.position,
                        epoch: received.epoch,
                    };
                    connection.write(out, None, Some(&subscribe), 0)
                }
                Ask::Endpoint { .. } | Ask::Look { .. } => {
                    let link = ask.family().and_then(|family| self.links.open_of(LinkKind::Asking(family)));
                    if let (Some(remote), Some(link)) = (ask.remote(), link) {
                        own = Some(Path::new(link, remote));
                    }
                    let message = EndpointRequest { request };
                    connection.write_by(by, out, None, Some(&message), ENDPOINT_REQUEST_SIZE)
                }
                Ask::Post { id, account, event } => {
                    let post = requests::post(request, id, account.as_deref(), event);
                    connection.write(out, None, Some(&post), 0)
                }
                Ask::Ticket => {
                    let token = self.tickets.current().token();
                    connection.write(out, None, Some(&TicketRequest { request, token }), 0)
                }
            };
            return Some((own, len));
        }
        let ack_is_due = connection.ack_is_due(now);
        if by != carrier {
            return None;
        }
        if self.position_due.is_some_and(|due| ack_is_due || due <= now) {
            self.position_due = None;
            return Some((None, connection.write(out, None, Some(&Acknowledge { position }), 0)));
        }
        ack_is_due.then(|| (None, connection.write(out, None, None, 0)))
    }

    /// For the connection that will take its place: step 1, or the heartbeats that confirm it.
    fn transmit_successor(&mut self, now: Instant, out: &mut [u8]) -> Option<(Path, usize)> {
        let marks = self.marks();
        let wanted = self.keepalive.interval();
        let Phase::Connected { successor, .. } = &mut self.phase else { return None };
        match successor {
            Successor::Attempting(attempt) => {
                let (link, remote, packet) = attempt.next_packet(now, |family| self.links.open(family))?;
                out[..packet.len()].copy_from_slice(packet);
                Some((Path::new(link, remote), packet.len()))
            }
            Successor::Confirming(connection) => {
                let path = connection.path()?;
                let heartbeat = connection.take_heartbeat(now, wanted, || self.requests.fresh_id())?;
                self.stats.heartbeats += 1;
                Some((path, write_heartbeat(connection, out, heartbeat, marks)))
            }
            Successor::Due(_) => None,
        }
    }

    pub(super) fn set_state(&mut self, state: ConnectionState) {
        if self.state != state {
            self.state = state;
            self.push(DeviceEvent::State(state));
        }
    }
}

/// What the device has of a history.
#[derive(Clone, Copy, Debug)]
pub(super) struct Marks {
    epoch: Epoch,
    /// Everything up to here has been received.
    received: Serial,
    /// Everything up to here the application has dealt with.
    position: Serial,
}

/// A heartbeat: what has been received and what the application has dealt with.
pub(super) fn write_heartbeat(
    connection: &mut Connection,
    out: &mut [u8],
    heartbeat: Heartbeat,
    marks: Marks,
) -> usize {
    // Of a history that begins with this connection the device has nothing, as long as it is not confirmed.
    let enters = connection.facts.is_some_and(|facts| facts.epoch != marks.epoch);
    let (mark, position) = if enters { Default::default() } else { (marks.received, marks.position) };
    let heartbeat = Heartbeat { mark, position, ..heartbeat };
    connection.write(out, None, Some(&heartbeat), 0)
}
