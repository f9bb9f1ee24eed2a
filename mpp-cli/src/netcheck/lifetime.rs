//! How long the network remembers a silent socket: measured over a connection, by silence.

use std::time::Duration;

use mpp_tokio::proto::{
    Code, ConnectionReport, DisconnectReason, MappingEnd, MappingProgress, RequestError, StoreSet, Ticket,
};
use mpp_tokio::{CallError, Client, ClientEvent, ClientEvents, ConnectError};
use tokio::time::{Instant, sleep_until, timeout};

use super::progress::Progress;
use super::words;
use crate::serve::Stop;

/// How long to wait for the connection, at first and when it was lost: an exchange has just shown that it can be made.
const PATIENCE: Duration = Duration::from_secs(10);
/// When it is enough: the whole ladder takes twelve minutes, and begins a step anew when a connection is lost.
const LONGEST: Duration = Duration::from_secs(20 * 60);

/// What was measured.
#[derive(Debug)]
pub(super) struct Measured {
    pub(super) report: Option<ConnectionReport>,
    pub(super) end: End,
}

/// How it ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum End {
    /// All that was asked for is known.
    Complete,
    /// There could be more to know, but for this.
    Short(String),
    /// Nobody is there any more: the connection was lost, and did not come back.
    Gone,
    /// The service does not take the ticket any more.
    Refused(Code),
}

impl End {
    pub(super) fn short(why: impl Into<String>) -> Self {
        Self::Short(why.into())
    }

    /// Why there is not more, if there should be.
    pub(super) fn why(&self) -> Option<String> {
        match self {
            Self::Complete => None,
            Self::Short(why) => Some(why.clone()),
            Self::Gone => Some("the connection was lost, and did not come back".to_owned()),
            Self::Refused(code) => Some(format!("the service does not take the ticket any more ({code})")),
        }
    }
}

/// Measures until all is known, a silence of `up_to` has been tried, nobody is there any more, or somebody stops it.
pub(super) async fn measure(
    ticket: Ticket,
    up_to: Duration,
    progress: &mut Progress,
    stop: &mut Stop,
) -> Measured {
    // It is to hear of nothing, and to say of nothing that it has been dealt with. A connection by Web has no socket that
    // could be forgotten.
    let client =
        Client::builder(ticket).filter(StoreSet::EMPTY).manual_acknowledgement().without_web().connect();
    let mut measurement =
        Measurement { events: client.events(), up_to, trying: None, lost: None, report: None };
    let end = tokio::select! {
        end = timeout(LONGEST, measurement.run(&client, progress)) => {
            end.unwrap_or_else(|_| End::short("it took too long, as the connection was lost again and again"))
        }
        () = stop.wait() => End::short("it was interrupted"),
    };
    let report = client.connection_report().or(measurement.report);
    tokio::select! {
        () = client.close() => {}
        () = stop.wait() => {}
    }
    Measured { report, end }
}

struct Measurement {
    events: ClientEvents,
    up_to: Duration,
    /// The silence under way, and until when it takes.
    trying: Option<(Duration, Instant)>,
    /// The connection was lost: until when it may come back.
    lost: Option<Instant>,
    /// What was known last, should the connection be lost.
    report: Option<ConnectionReport>,
}

impl Measurement {
    async fn run(&mut self, client: &Client, progress: &mut Progress) -> End {
        progress.show("connecting");
        match timeout(PATIENCE, client.connected()).await {
            Ok(Ok(_)) => {}
            Ok(Err(ConnectError::RenewTicket { code })) => return End::Refused(code),
            Ok(Err(e)) => return End::short(e.to_string()),
            Err(_) => return End::Gone,
        }
        if let Err(e) = client.measure_mapping() {
            return End::short(e.to_string());
        }
        loop {
            self.report = client.connection_report().or(self.report);
            let event = tokio::select! {
                event = self.events.next() => event,
                () = sleep_until(self.lost.unwrap_or_else(Instant::now)), if self.lost.is_some() => return End::Gone,
                () = progress.tick() => {
                    progress.show(&self.step());
                    continue;
                }
            };
            match event {
                Some(ClientEvent::Mapping(MappingProgress::Trying { silence, .. }))
                    if silence > self.up_to =>
                {
                    return End::Complete;
                }
                Some(ClientEvent::Mapping(MappingProgress::Trying { silence, takes })) => {
                    self.trying = Some((silence, Instant::now() + takes));
                }
                // The reason follows.
                Some(ClientEvent::Mapping(MappingProgress::Ended(MappingEnd::Closed))) => {}
                // Nor does the first one, perhaps.
                Some(ClientEvent::Mapping(MappingProgress::Ended(MappingEnd::NoAnswer)))
                    if !is_there(client).await =>
                {
                    return End::Gone;
                }
                Some(ClientEvent::Mapping(MappingProgress::Ended(end))) => return ended(end),
                Some(ClientEvent::Disconnected { .. }) => {
                    self.trying = None;
                    self.lost = Some(Instant::now() + PATIENCE);
                }
                Some(ClientEvent::Connected(_)) => self.lost = None,
                Some(ClientEvent::RenewTicket { code }) => return End::Refused(code),
                Some(ClientEvent::Aborted(DisconnectReason::Superseded)) => {
                    return End::short("the device has connected elsewhere meanwhile");
                }
                Some(ClientEvent::Aborted(_)) | None => return End::short("the connection ended"),
                Some(_) => {}
            }
        }
    }

    /// What is being done.
    fn step(&self) -> String {
        let known = self.report.map(|r| words::bounds(r.keepalive.proven, r.keepalive.disproven));
        let known = known.unwrap_or_else(|| words::UNKNOWN.to_owned());
        match self.trying {
            Some((silence, until)) => format!(
                "silent for {}, {} to go, to see whether the network remembers; so far: {known}",
                words::seconds(silence),
                words::seconds(until.saturating_duration_since(Instant::now())),
            ),
            None if self.lost.is_some() => "the connection was lost, connecting again".to_owned(),
            None => "connected".to_owned(),
        }
    }
}

/// Whether the service answers over the connection, be it with a refusal.
async fn is_there(client: &Client) -> bool {
    !matches!(
        timeout(PATIENCE, client.query_endpoint()).await,
        Err(_) | Ok(Err(CallError::Request(RequestError::TimedOut)))
    )
}

fn ended(end: MappingEnd) -> End {
    End::Short(match end {
        MappingEnd::Complete => return End::Complete,
        MappingEnd::NoSocket => "no other socket could be opened".to_owned(),
        MappingEnd::NoAnswer => "a second socket got no answer".to_owned(),
        MappingEnd::NotOffered => "the service answers no probes".to_owned(),
        MappingEnd::Refused(code) => format!("the service refused it ({code})"),
        MappingEnd::Interrupted => "the network has changed".to_owned(),
        MappingEnd::Asleep => "the machine slept".to_owned(),
        _ => words::UNKNOWN.to_owned(),
    })
}
