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
use progress::Progress;

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
    let by_udp = report.udp() == Udp::Works;
    let works = (by_udp || report.web == Answers::Yes) && !is_refused(&report);
    let why = if interrupted || !works || args.up_to.is_zero() {
        None
    } else if !by_udp {
        Some("UDP does not get through".to_owned())
    } else if report.in_use != InUse::No && !args.take_over {
        Some("it takes a connection, and the device is connected: --take-over ends that one".to_owned())
    } else {
        let measured = lifetime::measure(ticket.clone(), args.up_to, &mut progress, &mut stop).await;
        report.connection = measured.report;
        measured.why
    };
    drop(progress);
    if args.json {
        output::line(words::object(&report))?;
    } else {
        // If there is something to report, it says so itself; why there is not more is said beside it.
        if let (Some(why), Some(_)) = (&why, report.connection) {
            output::note(format_args!("mpp: not all was measured: {why}"));
        }
        words::last_lines(&report, why.as_deref()).iter().try_for_each(output::line)?;
    }
    if works { Ok(()) } else { Err(failure(&report, &ticket)) }
}

fn is_refused(report: &NetcheckReport) -> bool {
    matches!(report.ticket, TicketCheck::Refused(_) | TicketCheck::SaidRefused(_))
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
        _ => format!("{endpoints} could not be asked: try again"),
    })
}
