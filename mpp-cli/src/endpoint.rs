//! `mpp endpoint`: from which addresses the service sees this machine.

use mpp_tokio::Netcheck;
use mpp_tokio::proto::{Family, FamilyReport, NetcheckReport, Ticket, Udp};
use serde_json::{Value, json};

use crate::args::EndpointArgs;
use crate::failure::Outcome;
use crate::netcheck;
use crate::netcheck::words;
use crate::output;
use crate::serve::Stop;
use crate::ticket;

pub(crate) async fn run(args: EndpointArgs) -> Outcome<()> {
    let ticket = ticket::read(&args.ticket)?;
    let mut stop = Stop::new()?;
    let mut check = Netcheck::new(ticket.clone()).without_web();
    // Only as long as it takes to know that.
    while !is_known(&check.report()) {
        tokio::select! {
            report = check.next() => if report.is_none() { break },
            () = stop.wait() => break,
        }
    }
    show(&check.report(), &ticket, args.json)
}

/// Whether there is no more to hear in either family.
fn is_known(report: &NetcheckReport) -> bool {
    let known = |family: &FamilyReport| family.udp != Udp::Unknown;
    known(&report.v4) && known(&report.v6)
}

fn show(report: &NetcheckReport, ticket: &Ticket, json: bool) -> Outcome<()> {
    if report.v4.endpoint.is_none() && report.v6.endpoint.is_none() {
        return Err(netcheck::failure(report, ticket));
    }
    if json {
        return output::line(json!({ "v4": object(&report.v4), "v6": object(&report.v6) }));
    }
    for (family, part) in [(Family::V4, &report.v4), (Family::V6, &report.v6)] {
        match part.endpoint {
            Some(endpoint) => output::line(format_args!("{family}  {endpoint}"))?,
            // What the ticket does not name nobody has asked for.
            None if part.udp == Udp::NoService => {}
            None => output::note(format_args!("{family}  {}", words::udp(part.udp))),
        }
    }
    Ok(())
}

fn object(part: &FamilyReport) -> Value {
    json!({
        "udp": words::udp_name(part.udp),
        "endpoint": part.endpoint.map(|a| a.to_string()),
        "local": part.local.map(|a| a.to_string()),
    })
}
