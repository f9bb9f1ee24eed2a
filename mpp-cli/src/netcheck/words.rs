//! A report in words for people, and in names for programs.

use mpp_tokio::proto::{
    Answers, FamilyReport, InUse, Loss, Mapping, NetcheckReport, Ports, RoundTrips, TicketCheck, Translation,
    Udp,
};
use serde_json::{Value, json};

use crate::text::duration;

/// What is said of everything that has not been measured.
pub(crate) const UNKNOWN: &str = "unknown";

pub(crate) fn udp(udp: Udp) -> &'static str {
    match udp {
        Udp::NoService => "the ticket names no address of the service in this family",
        Udp::NoRoute => "this machine has no address, or no way to the service",
        Udp::Blocked => "nothing comes back",
        Udp::OnlySmall => "short packets come back, those of 1200 bytes do not",
        Udp::Works => "UDP works",
        _ => UNKNOWN,
    }
}

pub(crate) fn udp_name(udp: Udp) -> &'static str {
    match udp {
        Udp::NoService => "no-service",
        Udp::NoRoute => "no-route",
        Udp::Blocked => "blocked",
        Udp::OnlySmall => "only-small",
        Udp::Works => "works",
        _ => UNKNOWN,
    }
}

fn mapping(mapping: Mapping) -> &'static str {
    match mapping {
        Mapping::EndpointIndependent => "endpoint-independent (one for all destinations)",
        Mapping::AddressDependent => "address-dependent (another one for each address)",
        Mapping::AddressAndPortDependent => {
            "address- and port-dependent (symmetric: another one for each destination)"
        }
        Mapping::NotPortDependent => {
            "endpoint-independent or address-dependent (only one address of the service has answered)"
        }
        Mapping::Dependent => {
            "address-dependent, perhaps port-dependent too (no address of the service has answered on two ports)"
        }
        _ => "unknown (it takes answers from two ports or addresses of the service)",
    }
}

fn mapping_name(mapping: Mapping) -> &'static str {
    match mapping {
        Mapping::EndpointIndependent => "endpoint-independent",
        Mapping::AddressDependent => "address-dependent",
        Mapping::AddressAndPortDependent => "address-and-port-dependent",
        Mapping::NotPortDependent => "not-port-dependent",
        Mapping::Dependent => "dependent",
        _ => UNKNOWN,
    }
}

fn translation(translation: Translation) -> &'static str {
    match translation {
        Translation::None => "none",
        Translation::Nat => "nat",
        _ => UNKNOWN,
    }
}

fn ports(ports: Ports) -> &'static str {
    match ports {
        Ports::Preserved => "preserved",
        Ports::Changed => "changed",
        _ => UNKNOWN,
    }
}

fn answers(answers: Answers) -> &'static str {
    match answers {
        Answers::No => "no",
        Answers::Yes => "yes",
        _ => UNKNOWN,
    }
}

fn in_use(in_use: InUse) -> &'static str {
    match in_use {
        InUse::No => "no",
        InUse::Yes => "yes",
        _ => UNKNOWN,
    }
}

fn ticket(ticket: TicketCheck) -> String {
    match ticket {
        TicketCheck::Accepted => "accepted".to_owned(),
        TicketCheck::Refused(code) => format!("refused ({code})"),
        TicketCheck::SaidRefused(code) => format!("refused, says an answer that proves nothing ({code})"),
        _ => UNKNOWN.to_owned(),
    }
}

fn trips(trips: Option<RoundTrips>) -> String {
    trips.map_or(UNKNOWN.to_owned(), |t| {
        format!("{} at best, {} on average of {}", duration(t.min), duration(t.mean), t.count)
    })
}

fn loss(loss: Option<Loss>) -> String {
    loss.map_or(UNKNOWN.to_owned(), |l| format!("{} of {} packets", l.lost, l.sent))
}

/// The lines of a family.
fn family(name: &str, part: &FamilyReport, lines: &mut Vec<String>) {
    let Some(endpoint) = part.endpoint else {
        return lines.push(format!("{name:<13} {}", udp(part.udp)));
    };
    let nat = match (part.translation, part.local) {
        (Translation::None, _) => ", no NAT".to_owned(),
        (Translation::Nat, Some(local)) => format!(", through a NAT from {local}"),
        _ => String::new(),
    };
    lines.push(format!("{name:<13} {}, seen from {endpoint}{nat}", udp(part.udp)));
    let mut line = |name: &str, value: &str| lines.push(format!("  {name:<11} {value}"));
    line("mapping", mapping(part.mapping));
    line("port", ports(part.ports));
    line("filtering", UNKNOWN);
    line("round trip", &trips(part.round_trip));
    line("loss", &loss(part.loss));
    line("rebindings", &part.rebindings.to_string());
    if part.stun == Answers::No {
        line("STUN", "the service does not answer it, so there is less to measure");
    }
}

/// The report for people, one line each.
pub(crate) fn lines(report: &NetcheckReport) -> Vec<String> {
    let mut lines = Vec::new();
    family("IPv4", &report.v4, &mut lines);
    family("IPv6", &report.v6, &mut lines);
    for name in &report.unresolved {
        lines.push(format!("{:<13} {} cannot be looked up", "name", crate::text::printable(name)));
    }
    lines.push(format!("{:<13} {}", "ticket", ticket(report.ticket)));
    lines.push(format!("{:<13} {}", "in use", in_use(report.in_use)));
    lines.push(format!("{:<13} {}", "Web", answers(report.web)));
    lines.push(format!("{:<13} {}", "verdict", report.verdict()));
    lines
}

fn micros(d: std::time::Duration) -> u64 {
    u64::try_from(d.as_micros()).unwrap_or(u64::MAX)
}

fn family_json(part: &FamilyReport) -> Value {
    let destinations = part
        .destinations
        .iter()
        .map(|d| json!({ "remote": d.remote.to_string(), "endpoint": d.endpoint.map(|a| a.to_string()) }));
    json!({
        "udp": udp_name(part.udp),
        "local": part.local.map(|a| a.to_string()),
        "endpoint": part.endpoint.map(|a| a.to_string()),
        "translation": translation(part.translation),
        "mapping": mapping_name(part.mapping),
        "port": ports(part.ports),
        "filtering": UNKNOWN,
        "stun": answers(part.stun),
        "rtt_min_us": part.round_trip.map(|t| micros(t.min)),
        "rtt_mean_us": part.round_trip.map(|t| micros(t.mean)),
        "sent": part.loss.map(|l| l.sent),
        "lost": part.loss.map(|l| l.lost),
        "rebindings": part.rebindings,
        "destinations": destinations.collect::<Vec<_>>(),
    })
}

/// The report for programs: what is unknown is "unknown" or null.
pub(crate) fn object(report: &NetcheckReport) -> Value {
    let (check, code) = match report.ticket {
        TicketCheck::Accepted => ("accepted", None),
        TicketCheck::Refused(code) => ("refused", Some(code.number())),
        TicketCheck::SaidRefused(code) => ("said-refused", Some(code.number())),
        _ => (UNKNOWN, None),
    };
    json!({
        "type": "netcheck",
        "udp": udp_name(report.udp()),
        "v4": family_json(&report.v4),
        "v6": family_json(&report.v6),
        "unresolved": report.unresolved,
        "ticket": check,
        "ticket_code": code,
        "in_use": in_use(report.in_use),
        "web": answers(report.web),
        "complete": report.complete,
        "verdict": report.verdict().to_string(),
    })
}
