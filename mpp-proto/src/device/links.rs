//! The links of a device: at most one of each kind at a time, opened by the host.

use alloc::vec::Vec;

use super::Device;
use super::event::{DeviceEvent, Family, LinkKind, LinkState};
use crate::path::LinkId;

/// A link that is open, or that the host has been asked for.
#[derive(Clone, Copy, Debug)]
struct Slot {
    kind: LinkKind,
    link: LinkId,
    open: bool,
}

/// The links.
#[derive(Debug, Default)]
pub(super) struct Links {
    slots: Vec<Slot>,
    next: u16,
}

impl Links {
    /// The open socket of a family.
    pub(super) fn open(&self, family: Family) -> Option<LinkId> {
        self.open_of(LinkKind::Udp(family))
    }

    /// The open link of a kind.
    pub(super) fn open_of(&self, kind: LinkKind) -> Option<LinkId> {
        self.slots.iter().find(|s| s.kind == kind && s.open).map(|s| s.link)
    }

    /// Whether a link of this kind is open or has been asked for.
    pub(super) fn is_there(&self, kind: LinkKind) -> bool {
        self.slots.iter().any(|s| s.kind == kind)
    }

    /// What a link is for that is open or has been asked for.
    pub(super) fn kind_of(&self, link: LinkId) -> Option<LinkKind> {
        self.slots.iter().find(|s| s.link == link).map(|s| s.kind)
    }

    /// The link to ask the host for, if there is none of this kind and none has been asked for.
    fn ask(&mut self, kind: LinkKind) -> Option<LinkId> {
        if self.is_there(kind) {
            return None;
        }
        let link = LinkId(self.next);
        self.next = self.next.wrapping_add(1);
        self.slots.push(Slot { kind, link, open: false });
        Some(link)
    }

    /// The host's answer. That of a link which is not wanted any more changes nothing.
    pub(super) fn set(&mut self, link: LinkId, state: LinkState) {
        match state {
            LinkState::Open { .. } => {
                self.slots.iter_mut().filter(|s| s.link == link).for_each(|s| s.open = true);
            }
            LinkState::Failed => self.slots.retain(|s| s.link != link),
        }
    }

    /// Forgets a link, and names it for the host to close.
    fn close(&mut self, kind: LinkKind) -> Option<LinkId> {
        let at = self.slots.iter().position(|s| s.kind == kind)?;
        Some(self.slots.remove(at).link)
    }

    /// Forgets all links, and names those that the host has to close.
    pub(super) fn forget(&mut self) -> Vec<LinkId> {
        self.slots.drain(..).map(|s| s.link).collect()
    }
}

impl Device {
    /// Asks the host for a link of this kind, if there is none and none has been asked for.
    pub(super) fn ask_link(&mut self, kind: LinkKind) {
        if let Some(link) = self.links.ask(kind) {
            self.push(DeviceEvent::OpenLink { link, kind });
        }
    }

    /// Has the host close the link of this kind. Whether there was one, or one had been asked for.
    pub(super) fn close_link(&mut self, kind: LinkKind) -> bool {
        let gone = self.links.close(kind);
        gone.into_iter().for_each(|link| self.push(DeviceEvent::CloseLink(link)));
        gone.is_some()
    }
}
