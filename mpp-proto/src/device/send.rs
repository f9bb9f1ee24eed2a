//! What goes out.

use super::event::{ConnectionState, DeviceEvent};
use super::requests::{self, Ask};
use super::{Device, Phase};
use crate::path::{Path, Transmit};
use crate::time::Instant;
use crate::wire::{Acknowledge, Code, EndpointRequest, Heartbeat, MAX_PACKET, PacketExtension, Subscribe};

/// An endpoint request is padded to this, as its answer may not be larger than it is.
const ENDPOINT_REQUEST_SIZE: usize = 96;

impl Device {
    pub(super) fn transmit(&mut self, now: Instant, out: &mut [u8]) -> Option<Transmit> {
        assert!(
            out.len() >= MAX_PACKET,
            "the buffer has {} bytes, a packet may have {MAX_PACKET}",
            out.len()
        );
        let (path, len) = match &mut self.phase {
            Phase::Attempting(attempt) => {
                let (link, remote, packet) = attempt.next_packet(now, |family| self.links.open(family))?;
                out[..packet.len()].copy_from_slice(packet);
                (Path::new(link, remote), packet.len())
            }
            Phase::Connected(connection) => {
                let path = Path::new(connection.link?, connection.remote);
                (path, self.transmit_connected(now, out)?)
            }
            Phase::Closing { connection, next, .. } => {
                if *next > now {
                    return None;
                }
                *next = now + connection.pto();
                let path = Path::new(connection.link?, connection.remote);
                (path, connection.write_close(out, Code::CLOSED))
            }
            Phase::Waiting(_) | Phase::Closed => return None,
        };
        self.stats.packets_sent += 1;
        self.stats.bytes_sent += len as u64;
        Some(Transmit { path, len, segment_size: None })
    }

    fn transmit_connected(&mut self, now: Instant, out: &mut [u8]) -> Option<usize> {
        let Phase::Connected(connection) = &mut self.phase else { return None };
        let settled = *self.inbox.settled();
        let received = *self.inbox.received();
        // The position of an epoch that the application has not entered yet is that of the epoch's start.
        let position =
            if settled.epoch == received.epoch { settled.position } else { crate::ids::Serial::ZERO };
        if let Some(request) = connection.take_heartbeat(now, || self.requests.fresh_id()) {
            self.stats.heartbeats += 1;
            self.position_due = None;
            let heartbeat =
                Heartbeat { request, interval: connection.interval, mark: received.position, position };
            let len = connection.write(out, None, Some(&heartbeat), 0);
            if connection.is_unanswered() && connection.confirmed {
                self.set_state(ConnectionState::Unacknowledged);
            }
            return Some(len);
        }
        if let Some(challenge) = connection.take_challenge() {
            return Some(connection.write(out, Some(PacketExtension::PathResponse(challenge)), None, 0));
        }
        if !connection.confirmed {
            return None;
        }
        if let Some((request, ask)) = self.requests.next_due(now) {
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
                Ask::Endpoint => {
                    connection.write(out, None, Some(&EndpointRequest { request }), ENDPOINT_REQUEST_SIZE)
                }
                Ask::Post { id, event } => {
                    let post = requests::post(request, id, event);
                    connection.write(out, None, Some(&post), 0)
                }
            };
            return Some(len);
        }
        let ack_is_due = connection.ack_is_due(now);
        if self.position_due.is_some_and(|due| ack_is_due || due <= now) {
            self.position_due = None;
            return Some(connection.write(out, None, Some(&Acknowledge { position }), 0));
        }
        ack_is_due.then(|| connection.write(out, None, None, 0))
    }

    pub(super) fn set_state(&mut self, state: ConnectionState) {
        if self.state != state {
            self.state = state;
            self.push(DeviceEvent::State(state));
        }
    }
}
