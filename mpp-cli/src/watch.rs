//! `mpp watch`: a device on the command line.

mod show;

pub(crate) use show::refusal;

use std::net::SocketAddr;
use std::time::Duration;

use mpp_tokio::proto::{DisconnectReason, Notification, NotificationKind, Ticket};
use mpp_tokio::{Client, ClientEvent, ClientEvents};
use tokio::time::{Instant, sleep_until};

use crate::args::WatchArgs;
use crate::failure::{Failure, Outcome};
use crate::output;
use crate::resume::ResumeFile;
use crate::serve::Stop;
use crate::state::StateDir;
use crate::ticket;
use crate::web_roots;
use show::Show;

/// After this time without a connection a person wants to know what is the matter.
const PATIENCE: Duration = Duration::from_secs(5);

pub(crate) async fn run(args: WatchArgs) -> Outcome<()> {
    let ticket = ticket::read(&args.ticket)?;
    let state = StateDir::new(args.dir.dir)?;
    let (file, resume) = ResumeFile::open(args.resume, &state, &ticket)?;
    let mut stop = Stop::new()?;

    let mut builder = Client::builder(ticket.clone()).manual_acknowledgement().interval(args.interval);
    if let Some(filter) = args.filter {
        builder = builder.filter(filter);
    }
    if args.no_web {
        builder = builder.without_web();
    }
    if let Some(path) = &args.web_roots {
        builder = builder.web_roots(&web_roots::read(path)?).map_err(|e| web_roots::none_in(path, e))?;
    }
    if let Some(resume) = resume {
        builder = builder.resume(resume);
    }
    let client = builder.connect();
    let mut watch = Watch {
        events: client.events(),
        client,
        show: Show::new(args.json),
        file,
        ticket,
        left: args.count,
        observed: None,
        was_connected: false,
        is_connected: false,
    };
    let outcome = tokio::select! {
        outcome = watch.follow() => outcome,
        () = stop.wait() => Ok(()),
    };
    // The service is told also after a failure, so that it does not keep what nobody listens to.
    tokio::select! {
        () = watch.client.close() => {}
        () = stop.wait() => {}
    }
    outcome
}

struct Watch {
    client: Client,
    events: ClientEvents,
    show: Show,
    file: ResumeFile,
    ticket: Ticket,
    /// Notifications until the end, if there is one.
    left: Option<u64>,
    /// The address from which the service sees this device, as last shown.
    observed: Option<SocketAddr>,
    was_connected: bool,
    is_connected: bool,
}

impl Watch {
    /// Until the wanted number of notifications has come, or something ends it.
    async fn follow(&mut self) -> Outcome<()> {
        // When to say that there is no connection; nothing once it has been said.
        let mut say_so = Some(Instant::now() + PATIENCE);
        loop {
            tokio::select! {
                // In this order: what is said of a connection comes before what came over it.
                biased;
                event = self.events.next() => match event {
                    Some(event) => {
                        match event {
                            ClientEvent::Connected(_) => say_so = None,
                            // Attempts that fail do not put it off for ever.
                            ClientEvent::Disconnected { .. } if self.is_connected => {
                                say_so = Some(Instant::now() + PATIENCE);
                            }
                            _ => {}
                        }
                        self.event(event)?;
                    }
                    None => return Err(Failure::new("the connection ended")),
                },
                notification = self.client.next() => match notification {
                    Some(notification) if self.notification(&notification)? => return Ok(()),
                    Some(_) => {}
                    None => return Err(Failure::new("the connection ended")),
                },
                () = sleep_until(say_so.unwrap_or_else(Instant::now)), if say_so.is_some() => {
                    say_so = None;
                    waiting(&self.ticket);
                }
            }
        }
    }

    fn event(&mut self, event: ClientEvent) -> Outcome<()> {
        // A ticket that is refused before it ever worked ends the program, whose last line then says all; and what a
        // connection's own line says is not news.
        let told = match &event {
            ClientEvent::ObservedEndpoint(address) => self.observed == Some(*address),
            event => !self.was_connected && is_refusal(event),
        };
        if !told {
            self.show.event(&event)?;
        }
        match event {
            ClientEvent::Connected(connected) => {
                self.observed = connected.observed;
                (self.was_connected, self.is_connected) = (true, true);
                // What is lost has been said, so it may be kept that it was.
                self.file.save(&self.client.resume())
            }
            // The ticket is kept with the position.
            ClientEvent::TicketRenewed { .. } => self.file.save(&self.client.resume()),
            ClientEvent::Disconnected { .. } => {
                self.is_connected = false;
                Ok(())
            }
            ClientEvent::ObservedEndpoint(address) => {
                self.observed = Some(address);
                Ok(())
            }
            // Of a service that took the ticket before, it may be a passing error (a wrong clock): the client goes on
            // trying, and the line that was printed says what is the matter.
            ClientEvent::RenewTicket { code } if !self.was_connected => {
                Err(Failure::ticket(show::refusal(code, &self.ticket)))
            }
            ClientEvent::Aborted(DisconnectReason::Superseded) => Err(Failure::new(
                "another connection of the same device took over: end the other 'mpp watch', or make a ticket for another \
                 device",
            )),
            ClientEvent::Aborted(_) => Err(Failure::new("the connection was closed for good: start again")),
            _ => Ok(()),
        }
    }

    /// Print, then acknowledge, then keep: a crash in between repeats, and never loses. Returns whether it was the
    /// last one wanted.
    fn notification(&mut self, notification: &Notification) -> Outcome<bool> {
        self.show.notification(notification)?;
        self.client.acknowledge(notification.position);
        self.file.save(&self.client.resume())?;
        let counts = !matches!(notification.kind, NotificationKind::Gap(_));
        if let Some(left) = self.left.as_mut().filter(|_| counts) {
            *left -= 1;
            return Ok(*left == 0);
        }
        Ok(false)
    }
}

/// Whether the service has said that it does not take the ticket.
fn is_refusal(event: &ClientEvent) -> bool {
    match event {
        ClientEvent::RenewTicket { .. } => true,
        ClientEvent::Disconnected { reason: DisconnectReason::Refused(code), .. } => {
            matches!(code.number(), 401 | 403 | 404 | 410)
        }
        _ => false,
    }
}

/// No connection for a while: why that may be.
fn waiting(ticket: &Ticket) {
    let endpoints: Vec<_> = ticket.endpoints().iter().map(ToString::to_string).collect();
    let mut line = format!(
        "no answer from {} yet, still trying: is the service running, can UDP or HTTP reach it, and was the ticket \
         made with its keys?",
        crate::text::printable(&endpoints.join(", "))
    );
    if ticket.expiry() < crate::text::now() {
        line.push_str(" By this machine's clock the ticket expired on ");
        line.push_str(&crate::text::minute(ticket.expiry()));
    }
    output::note(format_args!("mpp: {line}"));
}
