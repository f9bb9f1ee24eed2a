//! Asking from which address the service sees this machine: over the connection's socket, or over another one (SPEC.md,
//! "Requests").

use core::net::SocketAddr;

#[cfg(doc)]
use super::event::DeviceEvent;
use super::event::{CommandError, Family, LinkKind, RequestError};
use super::requests::Ask;
use super::{Device, RequestId};
use crate::time::Instant;

impl Device {
    /// Asks from which address the service sees this device's packets come now. Repeated every 500 ms, seven times in
    /// all, and given up 2 s after the last. Answered by [`DeviceEvent::Endpoint`].
    ///
    /// # Errors
    /// [`CommandError::TooManyRequests`], [`CommandError::Closed`].
    pub fn query_endpoint(&mut self, now: Instant) -> Result<RequestId, CommandError> {
        self.check_request()?;
        Ok(self.ask(now, Ask::Endpoint { at: None }))
    }

    /// The same, from a socket that is opened for it, to `at`: another address of the service that the device is connected
    /// to, in the other family perhaps. What is asked at once in one family goes over one socket, so that a network which
    /// maps it to another port for each destination shows. The connection stays where it is (SPEC.md, section 11).
    ///
    /// # Errors
    /// As [`query_endpoint`](Self::query_endpoint). [`RequestError::NoSocket`] comes with [`DeviceEvent::Failed`] if the
    /// host cannot open one.
    pub fn query_endpoint_at(&mut self, now: Instant, at: SocketAddr) -> Result<RequestId, CommandError> {
        self.check_request()?;
        let request = self.ask(now, Ask::Endpoint { at: Some(at) });
        self.open_asking_links();
        Ok(request)
    }

    /// Asks the host for the sockets that the questions which wait need, if they are not there.
    pub(super) fn open_asking_links(&mut self) {
        for family in [Family::V4, Family::V6] {
            if self.requests.asks_over(family) {
                self.ask_link(LinkKind::Asking(family));
            }
        }
    }

    /// A question is answered or given up: the socket goes with the last one.
    pub(super) fn close_asking_links(&mut self) {
        for family in [Family::V4, Family::V6] {
            if !self.requests.asks_over(family) {
                self.close_link(LinkKind::Asking(family));
            }
        }
    }

    /// The host has no such socket.
    pub(super) fn asking_link_failed(&mut self, family: Family) {
        while let Some(failed) = self.requests.next_asked_over(family) {
            self.fail(failed, RequestError::NoSocket { family });
        }
    }
}
