//! How a device's notifications and changes of state are shown: lines for people, or JSON objects.

use std::io::IsTerminal as _;
use std::time::Duration;

use mpp_tokio::ClientEvent;
use mpp_tokio::proto::{
    Code, Connected, ConnectionState, DisconnectReason, IntervalReason, Notification, NotificationKind,
    StoreId, StoreSet, Ticket, Transport,
};
use serde_json::{Value, json};

use crate::failure::Outcome;
use crate::output;
use crate::text::{self, duration, hex, printable, time_of_day};

/// Characters of a payload that a terminal gets.
const SHORT: usize = 600;

/// Where it is shown, and in which form.
#[derive(Debug)]
pub(super) struct Show {
    json: bool,
    /// Shortens payloads, if a person looks.
    limit: Option<usize>,
}

impl Show {
    pub(super) fn new(json: bool) -> Self {
        Self { json, limit: std::io::stdout().is_terminal().then_some(SHORT) }
    }

    /// A notification, to standard output.
    pub(super) fn notification(&self, notification: &Notification) -> Outcome<()> {
        let line = if self.json {
            notification_json(notification).to_string()
        } else {
            format!("{}  {}", time_of_day(text::now()), notification_line(notification, self.limit))
        };
        output::line(line)
    }

    /// A change of state: to standard error as a line, to standard output as JSON.
    pub(super) fn event(&self, event: &ClientEvent) -> Outcome<()> {
        if self.json {
            return event_json(event).map_or(Ok(()), output::line);
        }
        if let Some(line) = event_line(event) {
            output::note(format_args!("{}  {line}", time_of_day(text::now())));
        }
        Ok(())
    }
}

fn notification_line(notification: &Notification, limit: Option<usize>) -> String {
    let column = |name: &dyn std::fmt::Display| format!("{:<10}", name.to_string());
    match &notification.kind {
        NotificationKind::Event { serial, store, payload, .. } => {
            format!("{} #{serial}  {}", column(store), text::payload(payload, limit))
        }
        NotificationKind::Changed(stores) => {
            format!("{} {}", column(&"changed"), all_of(*stores))
        }
        NotificationKind::Gap(stores) => {
            format!("{} events of {} were lost: read the stores again", column(&"gap"), all_of(*stores))
        }
        _ => column(&"unknown"),
    }
}

fn all_of(stores: StoreSet) -> String {
    if stores.iter().any(|s| s == StoreId::ANY) { "all stores".to_owned() } else { stores.to_string() }
}

fn notification_json(notification: &Notification) -> Value {
    let position = notification.position.0;
    match &notification.kind {
        NotificationKind::Event { serial, store, expires, key, payload } => {
            let mut object = json!({
                "type": "event",
                "position": position,
                "serial": serial.0,
                "store": store.to_string(),
                "expires_ms": expires.as_millis(),
                "size": payload.len(),
            });
            match std::str::from_utf8(payload) {
                Ok(text) => object["text"] = text.into(),
                Err(_) => object["hex"] = hex(payload).into(),
            }
            if let Some(key) = key {
                match std::str::from_utf8(key.as_bytes()) {
                    Ok(text) => object["key"] = text.into(),
                    Err(_) => object["key_hex"] = hex(key.as_bytes()).into(),
                }
            }
            object
        }
        NotificationKind::Changed(stores) => {
            json!({ "type": "changed", "position": position, "stores": names(*stores) })
        }
        NotificationKind::Gap(stores) => {
            json!({ "type": "gap", "position": position, "stores": names(*stores) })
        }
        _ => json!({ "type": "unknown", "position": position }),
    }
}

fn names(stores: StoreSet) -> Vec<String> {
    stores.iter().map(|s| s.to_string()).collect()
}

fn event_line(event: &ClientEvent) -> Option<String> {
    Some(match event {
        ClientEvent::Connected(c) => connected_line(c),
        ClientEvent::Disconnected { reason, retry_in } => {
            format!("disconnected: {}; next attempt in {}", why(*reason), duration(*retry_in))
        }
        ClientEvent::ObservedEndpoint(address) => format!("seen from {address}"),
        ClientEvent::Interval { interval, reason } => {
            format!("a heartbeat every {}: {}", duration(*interval), why_so_often(*reason).0)
        }
        ClientEvent::Transport(Transport::Web) => {
            "going over the Web now, as UDP does not pass; it is tried again from time to time".to_owned()
        }
        ClientEvent::Transport(Transport::Udp) => "going over UDP again".to_owned(),
        ClientEvent::TicketRenewed { .. } => "the service has renewed the ticket".to_owned(),
        ClientEvent::RenewTicket { code } => {
            format!("the service does not take the ticket any more ({code}): get a new one with 'mpp ticket'")
        }
        ClientEvent::State(ConnectionState::Unacknowledged) => {
            "no answer to a heartbeat, asking again".to_owned()
        }
        // Said by the other events, with more.
        _ => return None,
    })
}

/// Why a heartbeat is sent as often as it is: for people, and in one word.
fn why_so_often(reason: IntervalReason) -> (&'static str, &'static str) {
    match reason {
        IntervalReason::Learned => ("this network remembers a silent socket for longer", "learned"),
        IntervalReason::Missed => ("the service could not reach this device for a while", "missed"),
        IntervalReason::Forgetful => ("this network forgets a silent socket soon", "forgetful"),
        IntervalReason::Service => ("the service grants no other", "service"),
        IntervalReason::Fixed => ("as configured", "fixed"),
        _ => ("nothing longer is known to be safe here", "safe"),
    }
}

fn connected_line(c: &Connected) -> String {
    // What was lost follows as a notification.
    let to = c.service.map_or_else(|| "over the Web".to_owned(), |service| format!("to {service}"));
    let seen = c.observed.map(|from| format!(", seen from {from}")).unwrap_or_default();
    format!("connected {to} in {}{seen}, recovered: {}", duration(c.took), c.recovered)
}

fn event_json(event: &ClientEvent) -> Option<Value> {
    Some(match event {
        ClientEvent::Connected(c) => json!({
            "type": "connected",
            "recovered": c.recovered,
            "lost": names(c.lost),
            "newest": c.newest.0,
            "service": c.service.map(|service| service.to_string()),
            "observed": c.observed.map(|from| from.to_string()),
            "forward_secret": c.forward_secret,
            "took_us": micros(c.took),
        }),
        ClientEvent::Disconnected { reason, retry_in } => json!({
            "type": "disconnected",
            "reason": short(*reason),
            "retry_ms": micros(*retry_in) / 1000,
        }),
        ClientEvent::ObservedEndpoint(address) => {
            json!({ "type": "observed", "observed": address.to_string() })
        }
        ClientEvent::Interval { interval, reason } => json!({
            "type": "interval",
            "interval_ms": micros(*interval) / 1000,
            "reason": why_so_often(*reason).1,
        }),
        ClientEvent::Transport(transport) => {
            let name = match transport {
                Transport::Udp => "udp",
                Transport::Web => "web",
            };
            json!({ "type": "transport", "transport": name })
        }
        ClientEvent::RenewTicket { code } => json!({ "type": "renew-ticket", "code": code.number() }),
        ClientEvent::KeysRenewed(c) => {
            json!({ "type": "keys-renewed", "forward_secret": c.forward_secret, "newest": c.newest.0 })
        }
        ClientEvent::TicketRenewed { expiry } => {
            json!({ "type": "ticket-renewed", "expires_ms": expiry.as_millis() })
        }
        ClientEvent::State(ConnectionState::Unacknowledged) => json!({ "type": "unacknowledged" }),
        _ => return None,
    })
}

fn micros(d: Duration) -> u64 {
    u64::try_from(d.as_micros()).unwrap_or(u64::MAX)
}

fn short(reason: DisconnectReason) -> &'static str {
    match reason {
        DisconnectReason::TimedOut => "timed-out",
        DisconnectReason::Reset => "reset",
        DisconnectReason::ByService(_) => "closed-by-service",
        DisconnectReason::Refused(_) => "refused",
        DisconnectReason::Superseded => "superseded",
        DisconnectReason::ByApplication => "closed",
        DisconnectReason::LinkLost => "link-lost",
        _ => "other",
    }
}

fn why(reason: DisconnectReason) -> String {
    match reason {
        DisconnectReason::TimedOut => "nothing came back for too long".to_owned(),
        DisconnectReason::Reset => "the service was restarted (reset)".to_owned(),
        DisconnectReason::ByService(code) => format!("the service closed the connection ({code})"),
        DisconnectReason::Refused(code) => format!("the service refused the connection ({code})"),
        DisconnectReason::Superseded => "another connection of the same device took over".to_owned(),
        DisconnectReason::ByApplication => "closed here".to_owned(),
        DisconnectReason::LinkLost => "the network is gone".to_owned(),
        _ => "the connection ended".to_owned(),
    }
}

/// Why the ticket is no good, and what to do.
pub(crate) fn refusal(code: Code, ticket: &Ticket) -> String {
    let account = printable(ticket.account());
    let what = match code.number() {
        410 => format!("the ticket expired on {}", text::minute(ticket.expiry())),
        404 => format!("the service does not know the account {account} (404)"),
        _ => format!("the service does not take the ticket ({code})"),
    };
    format!("{what}: make a new one with 'mpp ticket {account} --device NAME'")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::SocketAddr;

    #[test]
    fn reasons_are_words() {
        assert!(
            event_line(&ClientEvent::Disconnected {
                reason: DisconnectReason::Reset,
                retry_in: Duration::from_millis(1234)
            })
            .is_some_and(|l| l == "disconnected: the service was restarted (reset); next attempt in 1.2 s")
        );
        let address: SocketAddr = "192.0.2.1:7".parse().unwrap();
        assert_eq!(
            event_json(&ClientEvent::ObservedEndpoint(address)).unwrap().to_string(),
            r#"{"observed":"192.0.2.1:7","type":"observed"}"#
        );
        let expiry = mpp_tokio::proto::UnixTime::from_millis(1000);
        assert_eq!(
            event_json(&ClientEvent::TicketRenewed { expiry }).unwrap().to_string(),
            r#"{"expires_ms":1000,"type":"ticket-renewed"}"#
        );
        let interval =
            ClientEvent::Interval { interval: Duration::from_secs(99), reason: IntervalReason::Learned };
        assert!(event_line(&interval).unwrap().contains("99"));
        assert_eq!(
            event_json(&interval).unwrap().to_string(),
            r#"{"interval_ms":99000,"reason":"learned","type":"interval"}"#
        );
        assert_eq!(event_line(&ClientEvent::State(ConnectionState::Connected)), None);
    }

    #[test]
    fn sets_of_stores() {
        assert_eq!(all_of(StoreSet::ALL), "all stores");
        assert_eq!(all_of(StoreSet::EMPTY.with(StoreId::INBOUND).with(StoreId::CONTACT)), "inbound, contact");
        assert_eq!(names(StoreSet::EMPTY.with(StoreId::CONTACT)), ["contact"]);
    }
}
