//! How long the network remembers a silent socket: measured over a connection, by silence.

use std::time::Duration;

use mpp_tokio::proto::{ConnectionReport, DisconnectReason, MappingEnd, MappingProgress, StoreSet, Ticket};
use mpp_tokio::{Client, ClientEvent, ClientEvents};
use tokio::time::{Instant, timeout};

use super::progress::Progress;
use super::words;
use crate::serve::Stop;

/// How long to wait for the connection: an exchange has just shown that it can be made.
const PATIENCE: Duration = Duration::from_secs(10);

/// What was measured, and why there is not more, if there should be.
#[derive(Debug)]
pub(super) struct Measured {
    pub(super) report: Option<ConnectionReport>,
    pub(super) why: Option<String>,
}

/// Measures until all is known, a silence of `up_to` has been tried, or somebody stops it.
pub(super) async fn measure(
    ticket: Ticket,
    up_to: Duration,
    progress: &mut Progress,
    stop: &mut Stop,
) -> Measured {
    // It is to hear of nothing, and to say of nothing that it has been dealt with.
    let client = Client::builder(ticket).filter(StoreSet::EMPTY).manual_acknowledgement().connect();
    let mut measurement = Measurement { events: client.events(), up_to, trying: None, report: None };
    let why = tokio::select! {
        why = measurement.run(&client, progress) => why,
        () = stop.wait() => Some("it was interrupted".to_owned()),
    };
    let report = client.connection_report().or(measurement.report);
    tokio::select! {
        () = client.close() => {}
        () = stop.wait() => {}
    }
    Measured { report, why }
}

struct Measurement {
    events: ClientEvents,
    up_to: Duration,
    /// The silence under way, and until when it takes.
    trying: Option<(Duration, Instant)>,
    /// What was known last, should the connection be lost.
    report: Option<ConnectionReport>,
}

impl Measurement {
    /// Why it ended early, if it did.
    async fn run(&mut self, client: &Client, progress: &mut Progress) -> Option<String> {
        progress.show("connecting");
        match timeout(PATIENCE, client.connected()).await {
            Ok(Ok(_)) => {}
            Ok(Err(e)) => return Some(e.to_string()),
            Err(_) => return Some("no connection could be made".to_owned()),
        }
        if let Err(e) = client.measure_mapping() {
            return Some(e.to_string());
        }
        loop {
            self.report = client.connection_report().or(self.report);
            let event = tokio::select! {
                event = self.events.next() => event,
                () = progress.tick() => {
                    progress.show(&self.step());
                    continue;
                }
            };
            match event {
                Some(ClientEvent::Mapping(MappingProgress::Trying { silence, .. }))
                    if silence > self.up_to =>
                {
                    return None;
                }
                Some(ClientEvent::Mapping(MappingProgress::Trying { silence, takes })) => {
                    self.trying = Some((silence, Instant::now() + takes));
                }
                Some(ClientEvent::Mapping(MappingProgress::Ended(end))) => return why(end),
                Some(ClientEvent::Aborted(DisconnectReason::Superseded)) => {
                    return Some("the device has connected elsewhere meanwhile".to_owned());
                }
                Some(ClientEvent::Aborted(_)) | None => return Some("the connection ended".to_owned()),
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
            None => "connected".to_owned(),
        }
    }
}

fn why(end: MappingEnd) -> Option<String> {
    Some(match end {
        MappingEnd::Complete => return None,
        MappingEnd::NoSocket => "no other socket could be opened".to_owned(),
        MappingEnd::NoAnswer => "a second socket got no answer".to_owned(),
        MappingEnd::NotOffered => "the service answers no probes".to_owned(),
        MappingEnd::Refused(code) => format!("the service refused it ({code})"),
        MappingEnd::Interrupted => "the network has changed".to_owned(),
        _ => words::UNKNOWN.to_owned(),
    })
}
