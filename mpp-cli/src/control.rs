//! The control channel: how `mpp post`, `mpp status` and `mpp ticket` talk to the service that runs on this machine.
//!
//! A Unix socket in the state directory, for its owner only. One JSON object per line and request, one per answer.
//! Both carry `"v": 1`; a field that is not known is ignored, another version is refused in words.

pub(crate) mod client;
pub(crate) mod server;

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// The version of the lines.
pub(crate) const VERSION: u32 = 1;
/// The longest line in bytes: a payload of 16,384 bytes in hexadecimal, and room for the rest.
pub(crate) const MAX_LINE: usize = 48 * 1024;

/// One line of either direction.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Line<T> {
    pub(crate) v: u32,
    #[serde(flatten)]
    pub(crate) body: T,
}

/// What can be asked.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "kebab-case")]
pub(crate) enum Ask {
    /// Post an event.
    Post(Post),
    /// How is the service doing?
    Status,
}

/// An event to post.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Post {
    pub(crate) account: String,
    /// The number of the store.
    pub(crate) store: u8,
    pub(crate) ttl_ms: u64,
    pub(crate) urgency: Urgency,
    /// Hexadecimal; the text of a key need not be UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) key: Option<String>,
    /// Hexadecimal; absent: the event says only that the store changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) payload: Option<String>,
    /// Make the channel if there is none.
    #[serde(default)]
    pub(crate) create: bool,
}

/// How soon.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Urgency {
    Low,
    Normal,
    High,
}

/// What is answered.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "kebab-case")]
pub(crate) enum Answer {
    /// The event is in the channel.
    Posted {
        serial: u64,
        /// The account's devices that are connected now.
        devices: u64,
    },
    /// How the service is doing.
    Status(Status),
    /// It was not done.
    Refused {
        why: Why,
        /// For a person: what is wrong and what to do.
        text: String,
    },
}

/// Why something was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Why {
    /// The line is no request this service understands.
    BadRequest,
    /// The account has no channel.
    UnknownAccount,
    /// A limit, or the state of the service.
    Refused,
}

/// How the service is doing. Counters run since its start.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Status {
    /// The addresses it listens on, with the ports it really has.
    pub(crate) listening: Vec<SocketAddr>,
    /// The same for HTTP.
    #[serde(default)]
    pub(crate) web: Vec<SocketAddr>,
    /// Devices connected now.
    pub(crate) connected: u64,
    pub(crate) packets_received: u64,
    pub(crate) packets_sent: u64,
    pub(crate) bytes_received: u64,
    pub(crate) bytes_sent: u64,
    /// Packets dropped, by reason; only reasons that occurred.
    pub(crate) dropped: Vec<(String, u64)>,
    /// What else the service counts; only what occurred.
    pub(crate) counters: Vec<(String, u64)>,
    pub(crate) uptime_ms: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_what_the_first_version_wrote() {
        let post = Line {
            v: 1,
            body: Ask::Post(Post {
                account: "a".into(),
                store: 2,
                ttl_ms: 1000,
                urgency: Urgency::Normal,
                key: None,
                payload: Some("00ff".into()),
                create: false,
            }),
        };
        assert_eq!(
            serde_json::to_string(&post).unwrap(),
            r#"{"v":1,"ask":"post","account":"a","store":2,"ttl_ms":1000,"urgency":"normal","payload":"00ff","create":false}"#
        );
        let status: Line<Ask> = serde_json::from_str(r#"{"v":1,"ask":"status","later":true}"#).unwrap();
        assert!(matches!(status.body, Ask::Status));
        let posted = Line { v: 1, body: Answer::Posted { serial: 7, devices: 2 } };
        assert_eq!(
            serde_json::to_string(&posted).unwrap(),
            r#"{"v":1,"answer":"posted","serial":7,"devices":2}"#
        );
    }

    #[test]
    fn the_largest_event_fits_a_line() {
        let post = Line {
            v: u32::MAX,
            body: Ask::Post(Post {
                account: "\u{1}".repeat(128),
                store: 127,
                ttl_ms: u64::MAX,
                urgency: Urgency::Normal,
                key: Some("ff".repeat(32)),
                payload: Some("ff".repeat(mpp_tokio::proto::MAX_PAYLOAD)),
                create: false,
            }),
        };
        assert!(serde_json::to_string(&post).unwrap().len() < MAX_LINE);
    }
}
