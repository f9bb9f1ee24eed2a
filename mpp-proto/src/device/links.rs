//! The sockets of a device: at most one of each family at a time, opened by the host.

use alloc::vec::Vec;

use super::event::{Family, LinkState};
use crate::path::LinkId;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Slot {
    #[default]
    None,
    Asked(LinkId),
    Open(LinkId),
}

/// The sockets.
#[derive(Debug, Default)]
pub(super) struct Links {
    v4: Slot,
    v6: Slot,
    next: u16,
}

impl Links {
    fn slot(&mut self, family: Family) -> &mut Slot {
        match family {
            Family::V4 => &mut self.v4,
            Family::V6 => &mut self.v6,
        }
    }

    /// The open link of a family.
    pub(super) const fn open(&self, family: Family) -> Option<LinkId> {
        let slot = match family {
            Family::V4 => self.v4,
            Family::V6 => self.v6,
        };
        match slot {
            Slot::Open(link) => Some(link),
            Slot::None | Slot::Asked(_) => None,
        }
    }

    /// The family of a link that is open or has been asked for.
    pub(super) fn family_of(&self, link: LinkId) -> Option<Family> {
        let is = |slot| slot == Slot::Asked(link) || slot == Slot::Open(link);
        [(Family::V4, self.v4), (Family::V6, self.v6)].into_iter().find(|(_, s)| is(*s)).map(|(f, _)| f)
    }

    /// The link to ask the host for, if there is none of this family and none has been asked for.
    pub(super) fn ask(&mut self, family: Family) -> Option<LinkId> {
        let link = LinkId(self.next);
        let slot = self.slot(family);
        if *slot != Slot::None {
            return None;
        }
        *slot = Slot::Asked(link);
        self.next = self.next.wrapping_add(1);
        Some(link)
    }

    /// The host's answer. That of a link which is not wanted any more changes nothing.
    pub(super) fn set(&mut self, link: LinkId, state: LinkState) {
        for slot in [&mut self.v4, &mut self.v6] {
            if *slot == Slot::Asked(link) || *slot == Slot::Open(link) {
                *slot = match state {
                    LinkState::Open { .. } => Slot::Open(link),
                    LinkState::Failed => Slot::None,
                };
            }
        }
    }

    /// Forgets all links, and names those that the host has to close.
    pub(super) fn forget(&mut self) -> Vec<LinkId> {
        let slots = [core::mem::take(&mut self.v4), core::mem::take(&mut self.v6)];
        slots
            .into_iter()
            .filter_map(|slot| match slot {
                Slot::Asked(link) | Slot::Open(link) => Some(link),
                Slot::None => None,
            })
            .collect()
    }
}
