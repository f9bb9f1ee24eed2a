//! A device's log as the judge reads it.

use std::time::Duration;

use mpp_proto::{
    AccountId, Acknowledgement, ConnectionState, DeviceEvent, Notification, NotificationKind, RequestId,
};

use super::device::DeviceNode;
use super::{DeviceHandle, Record, World};
use crate::model::{Channel, End, Fault, Seen, Sight, Tally, judge};

/// How far a device's idea of the service's time may be off: half of an exchange whose first packets were lost.
const SLACK: Duration = Duration::from_secs(5);

impl World {
    /// Lets the [model](crate::model) judge what the application of a device saw. That nothing is missing is judged
    /// only if it is connected now; [`World::settle`] first.
    ///
    /// # Errors
    /// What the rules of delivery do not allow.
    pub fn judge(&self, device: DeviceHandle) -> Result<Tally, Vec<Fault>> {
        let (channel, seen, end) = self.evidence(device);
        judge(&channel, &seen, &end)
    }

    /// Lets the model judge every device.
    ///
    /// # Panics
    /// With the seed, the device, its faults and its log if there is a fault.
    pub fn check(&self) -> Tally {
        let mut sum = Tally::default();
        for device in self.devices() {
            match self.judge(device) {
                Ok(tally) => sum += tally,
                Err(faults) => {
                    let log = self.log(device).iter().fold(String::new(), |s, e| s + &format!("\n  {e:?}"));
                    let (seed, at) = (self.seed(), self.now());
                    let state = self.device(device).map(|d| d.state());
                    let node = &self.devices[device.0 as usize];
                    let account = AccountId::of(node.ticket.account());
                    let service = self.services[node.home].machine.as_ref();
                    let status = service.and_then(|s| {
                        s.devices(at, &account).find(|status| status.device == node.ticket.device())
                    });
                    panic!("seed {seed}: {device:?}, {state:?} at {at:?}: {faults:?}{log}\n  {status:?}");
                }
            }
        }
        sum
    }

    /// What the judge gets to see of a device: the history of its channel, its log, and how it ended.
    pub fn evidence(&self, device: DeviceHandle) -> (Channel, Vec<Seen>, End) {
        let node = &self.devices[device.0 as usize];
        let home = &self.services[node.home];
        let account = AccountId::of(node.ticket.account());
        let channel = self.channels.get(&(home.index, account)).cloned();
        let channel =
            channel.unwrap_or_else(|| Channel::new(home.config.ring_events, home.config.ring_bytes));
        // Of a device without a log it is not known what it was given.
        let connected = node.log.is_some()
            && node.machine.as_ref().is_some_and(|m| m.state() == ConnectionState::Connected);
        let end = End { at: self.now(), unix: self.unix(), connected, slack: SLACK };
        (channel, seen(node), end)
    }
}

fn seen(node: &DeviceNode) -> Vec<Seen> {
    let mut out = Vec::new();
    // What was given last counts as dealt with when the next one is given, not before: to err on this side lets a
    // gap pass that was not needed, never a missing event.
    let mut given = None;
    let automatic = node.config.acknowledgement == Acknowledgement::Automatic;
    let mut asked: Option<RequestId> = None;
    for entry in node.log.iter().flatten() {
        let mut see = |sight| out.push(Seen { at: entry.at, unix: entry.unix, sight });
        match &entry.record {
            Record::Started(kept) => {
                given = None;
                asked = None;
                see(Sight::Started(kept.as_ref().map(|r| (r.epoch(), r.position().0))));
                see(Sight::Asked(node.config.filter));
            }
            Record::Subscribe(request, stores) => {
                asked = Some(*request);
                see(Sight::Asked(*stores));
            }
            Record::Acknowledged(position) => see(Sight::Taken(position.0)),
            Record::Event(DeviceEvent::Connected(_)) => see(Sight::Connected),
            // Nothing is interrupted and nothing comes again, unless the history is another one.
            Record::Event(DeviceEvent::KeysRenewed(c)) if !c.recovered => see(Sight::Connected),
            Record::Event(DeviceEvent::Subscribed { request, .. }) => {
                // Answers to older requests say nothing of the filter asked for last.
                if asked == Some(*request) {
                    see(Sight::Confirmed);
                }
            }
            Record::Notification(notification) => {
                if automatic && let Some(position) = given.replace(notification.position.0) {
                    see(Sight::Taken(position));
                }
                if let Some(sight) = sight(notification) {
                    see(sight);
                }
            }
            Record::Stopped | Record::Event(_) => {}
        }
    }
    out
}

fn sight(notification: &Notification) -> Option<Sight> {
    let position = notification.position.0;
    Some(match &notification.kind {
        NotificationKind::Event { serial, store, expires, key, payload } => Sight::Event {
            serial: serial.0,
            position,
            store: *store,
            expires: *expires,
            key: key.map(|k| k.as_bytes().to_vec()),
            payload: payload.clone(),
        },
        NotificationKind::Changed(stores) => Sight::Changed { stores: *stores, position },
        NotificationKind::Gap(stores) => Sight::Gap { stores: *stores, position },
        _ => return None,
    })
}
