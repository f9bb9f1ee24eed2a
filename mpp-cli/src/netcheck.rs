//! `mpp netcheck`: what the network does to this machine's packets, and whether the Web leads to the service.

mod lifetime;
mod progress;
pub(crate) mod words;

use mpp_tokio::Netcheck;
use mpp_tokio::proto::{Answers, InUse, NetcheckReport, Ticket, TicketCheck, Udp};

use crate::args::NetcheckArgs;
use crate::failure::{Failure, Outcome};
use crate::output;
use crate::serve::Stop;
use crate::text::printable;
use crate::ticket;
use crate::watch::refusal;
use crate::web_roots;
use lifetime::End;
use progress::Progress;

/// Nobody is there any more.
const GONE: &str = "UDP worked, but then the connection was lost and did not come back: is the service still running, and \
                    this machine still online?";

pub(crate) async fn run(args: NetcheckArgs) -> Outcome<()> {
    let ticket = ticket::read(&args.ticket)?;
    let mut stop = Stop::new()?;
    let mut progress = Progress::new();
    let mut check = Netcheck::new(ticket.clone());
    if let Some(path) = &args.web_roots {
        check = check.web_roots(&web_roots::read(path)?).map_err(|e| web_roots::none_in(path, e))?;
    }
    let mut interrupted = false;
    loop {
        tokio::select! {
            report = check.next() => match report {
                Some(_) => {}
                None => break,
            },
            () = progress.tick() => progress.show(&step(&check.report())),
            // What is known by then is worth having.
            () = stop.wait() => {
                interrupted = true;
                break;
            }
        }
    }
    let mut report = check.report();
    drop(check);
    progress.clear();
    if !args.json {
        words::lines(&report).iter().try_for_each(output::line)?;
    }
    let end = if interrupted {
        End::short("it was interrupted")
    } else if let Some(why) = why_not(&report, &args) {
        End::short(why)
    } else {
        let measured = lifetime::measure(ticket.clone(), args.up_to, &mut progress, &mut stop).await;
        report.connection = measured.report;
        measured.end
    };
    drop(progress);
    if let End::Refused(code) = end {
        report.ticket = TicketCheck::Refused(code);
    }
    let failure = match end {
        // What was seen before does not hold any more.
        End::Gone => Some(Failure::new(GONE)),
        _ if is_reached(&report) && report.ticket == TicketCheck::Accepted => None,
        _ => Some(failure(&report, &ticket)),
    };
    let verdict = if end == End::Gone { GONE.to_owned() } else { report.verdict().to_string() };
    let why = end.why();
    if args.json {
        output::line(words::object(&report, why.as_deref(), &verdict))?;
    } else {
        // If there is something to report, it says so itself; why there is not more is said beside it, if nothing else is.
        if let (Some(why), Some(_), None) = (&why, report.connection, &failure) {
            output::note(format_args!("mpp: not all was measured: {why}"));
        }
        words::last_lines(&report, why.as_deref(), &verdict).iter().try_for_each(output::line)?;
    }
    failure.map_or(Ok(()), Err)
}

fn is_reached(report: &NetcheckReport) -> bool {
    report.udp() == Udp::Works || report.web == Answers::Yes
}

/// Why how long the network remembers cannot be measured, or is not to be.
fn why_not(report: &NetcheckReport, args: &NetcheckArgs) -> Option<&'static str> {
    if args.up_to.is_zero() {
        return Some("--up-to 0 leaves it out");
    }
    if report.udp() != Udp::Works {
        return Some("UDP does not get through");
    }
    match (report.ticket, report.in_use) {
        (TicketCheck::Accepted, InUse::No) => None,
        (TicketCheck::Accepted, _) if args.take_over => None,
        (TicketCheck::Accepted, InUse::Yes) => {
            Some("it takes a connection, and the device is connected: --take-over ends that one")
        }
        (TicketCheck::Accepted, _) => Some(
            "it takes a connection, and whether the device has one is not known: --take-over would end that one",
        ),
        _ => Some("it takes a connection, and the service has not said that it takes the ticket"),
    }
}

/// What is being done, for the line that is shown meanwhile.
fn step(report: &NetcheckReport) -> String {
    let families = [&report.v4, &report.v6];
    let destinations = families.iter().flat_map(|f| &f.destinations);
    let answered = destinations.clone().filter(|d| d.endpoint.is_some()).count();
    let all = destinations.count();
    if families.iter().any(|f| f.udp == Udp::Works) {
        format!("measuring round trips; {answered} of {all} destinations have answered")
    } else {
        format!("asking; {answered} of {all} destinations have answered")
    }
}

/// Why there is nothing good to report, and what to do.
pub(crate) fn failure(report: &NetcheckReport, ticket: &Ticket) -> Failure {
    if let TicketCheck::Refused(code) | TicketCheck::SaidRefused(code) = report.ticket {
        return Failure::ticket(refusal(code, ticket));
    }
    if is_reached(report) && report.ticket != TicketCheck::Accepted {
        return Failure::new(
            "the service answers, but has not said that it takes the ticket: it may have too much to do, try again later",
        );
    }
    let endpoints: Vec<_> = ticket.endpoints().iter().map(ToString::to_string).collect();
    let endpoints = printable(&endpoints.join(", "));
    let nor_by_web = if report.web == Answers::No { ", nor by Web" } else { "" };
    Failure::new(match report.udp() {
        Udp::NoService if !report.unresolved.is_empty() => {
            let names = printable(&report.unresolved.join(", "));
            format!("cannot look up {names}: is this machine online, and is the name right?")
        }
        Udp::NoRoute => format!("no way to {endpoints}: is this machine online?"),
        Udp::OnlySmall => format!(
            "{endpoints} answers short packets, but none of 1200 bytes{nor_by_web}: look for a tunnel (VPN) or a firewall on the way"
        ),
        Udp::Blocked => format!(
            "no answer from {endpoints}{nor_by_web}: is the service running, and does a firewall here or there let UDP \
             through?"
        ),
        Udp::Unknown if !report.complete => format!("interrupted before {endpoints} has answered"),
        _ => format!("{endpoints} could not be asked: try again"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use mpp_tokio::proto::Code;

    /// A service that answers, with this to say of the ticket and its device.
    fn report(ticket: TicketCheck, in_use: InUse) -> NetcheckReport {
        let mut report = NetcheckReport::default();
        (report.v4.udp, report.v6.udp) = (Udp::Works, Udp::NoService);
        (report.ticket, report.in_use) = (ticket, in_use);
        report
    }

    #[test]
    fn what_is_not_known_of_the_device_is_not_said_of_it() {
        let mut args = NetcheckArgs {
            ticket: String::new(),
            json: false,
            up_to: std::time::Duration::from_secs(240),
            web_roots: None,
            take_over: false,
        };
        let busy = report(TicketCheck::Unknown, InUse::Unknown);
        let unsure = report(TicketCheck::Accepted, InUse::Unknown);
        let connected = report(TicketCheck::Accepted, InUse::Yes);
        let why = |report| why_not(report, &args).unwrap();
        assert!(why(&busy).contains("has not said that it takes the ticket"));
        assert!(why(&unsure).contains("is not known") && why(&unsure).contains("--take-over"));
        assert!(
            why(&connected).contains("the device is connected") && why(&connected).contains("--take-over")
        );
        assert_eq!(why_not(&report(TicketCheck::Accepted, InUse::No), &args), None);
        args.take_over = true;
        let why = |report| why_not(report, &args);
        assert!(why(&busy).is_some() && why(&unsure).is_none() && why(&connected).is_none());
        args.up_to = std::time::Duration::ZERO;
        assert!(why_not(&connected, &args).is_some());
    }

    #[test]
    fn a_service_that_does_not_take_the_ticket_now_is_a_failure() {
        let ticket = mpp_tokio::proto::TicketKey::new(*b"key1", [7; 32]);
        let spec = mpp_tokio::proto::TicketSpec {
            endpoints: vec!["192.0.2.1:15096".parse().unwrap()],
            account: "alice@example.com".into(),
            device: mpp_tokio::proto::DeviceId([1; 16]),
            rights: mpp_tokio::proto::Rights::default(),
            issued: crate::text::now(),
            expiry: crate::text::now(),
        };
        let ticket = ticket.mint(&spec, &[3; 32]).unwrap();
        let said = failure(&report(TicketCheck::Unknown, InUse::Unknown), &ticket);
        assert_eq!(said.code, 1);
        assert!(said.to_string().contains("try again later"), "{said}");
        let refused = TicketCheck::Refused(Code::TICKET_EXPIRED);
        assert_eq!(failure(&report(refused, InUse::Unknown), &ticket).code, Failure::TICKET);
    }
}
