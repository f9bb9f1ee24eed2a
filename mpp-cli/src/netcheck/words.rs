//! A report in words for people, and in names for programs.

use std::time::Duration;

use mpp_tokio::proto::{
    Answers, Family, FamilyReport, InUse, IntervalReason, Loss, Mapping, NetcheckReport, Ports, RoundTrips,
    TicketCheck, Translation, Udp, WebDestination, WebSeen,
};
use serde_json::{Value, json};

use crate::text::{duration, printable};

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

fn web_name(web: Answers) -> &'static str {
    match web {
        Answers::No => "does-not",
        Answers::Yes => "works",
        _ => UNKNOWN,
    }
}

/// The name of what answers by Web, and what it says to people.
fn web_seen(seen: WebSeen) -> (&'static str, String) {
    let (name, words) = match seen {
        WebSeen::Nobody => ("nobody", "no connection, or no answer"),
        WebSeen::Stranger => {
            ("stranger", "an answer, but not the service's: does this network want a login first?")
        }
        WebSeen::Service => ("service", "the service"),
        WebSeen::Status(status) => {
            return ("status", format!("HTTP status {status}, which is not the service's answer"));
        }
        _ => (UNKNOWN, UNKNOWN),
    };
    (name, words.to_owned())
}

/// What is known of the Web, and where it led to nothing.
fn web(report: &NetcheckReport, lines: &mut Vec<String>) {
    let at = report.web_destinations.iter().find(|d| d.seen == WebSeen::Service);
    let web = match (report.web, at) {
        (Answers::Yes, Some(at)) => format!("works, at {}", printable(&at.base)),
        (Answers::No, _) => "does not work".to_owned(),
        _ => UNKNOWN.to_owned(),
    };
    lines.push(format!("{:<13} {web}", "Web"));
    for other in
        report.web_destinations.iter().filter(|d| !matches!(d.seen, WebSeen::Service | WebSeen::Unknown))
    {
        lines.push(format!("  {}: {}", printable(&other.base), web_seen(other.seen).1));
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

/// Of a report for people, what is known first, one line each.
pub(crate) fn lines(report: &NetcheckReport) -> Vec<String> {
    let mut lines = Vec::new();
    family("IPv4", &report.v4, &mut lines);
    family("IPv6", &report.v6, &mut lines);
    for name in &report.unresolved {
        lines.push(format!("{:<13} {} cannot be looked up", "name", printable(name)));
    }
    lines.push(format!("{:<13} {}", "ticket", ticket(report.ticket)));
    lines.push(format!("{:<13} {}", "in use", in_use(report.in_use)));
    web(report, &mut lines);
    lines
}

/// The rest: how long the network remembers, or why that is not known, and what it all comes down to.
pub(crate) fn last_lines(report: &NetcheckReport, why_unknown: Option<&str>, verdict: &str) -> Vec<String> {
    let mut lines = Vec::new();
    let mut line = |name: &str, value: &str| lines.push(format!("{name:<13} {value}"));
    match &report.connection {
        Some(connection) => {
            let keepalive = &connection.keepalive;
            let family = if connection.service.is_ipv4() { Family::V4 } else { Family::V6 };
            line("lifetime", &format!("{} ({family})", bounds(keepalive.proven, keepalive.disproven)));
            let every = duration(keepalive.interval);
            line("heartbeat", &format!("every {every}: {}", reason(keepalive.reason).1));
            line("misses", &format!("{}, rebindings {}", keepalive.misses, keepalive.rebindings));
        }
        None => {
            line("lifetime", &why_unknown.map_or(UNKNOWN.to_owned(), |why| format!("{UNKNOWN} ({why})")));
            line("heartbeat", UNKNOWN);
        }
    }
    line("verdict", verdict);
    lines
}

/// How long a silent socket is remembered.
pub(crate) fn bounds(proven: Option<Duration>, disproven: Option<Duration>) -> String {
    match (proven, disproven) {
        (None, None) => UNKNOWN.to_owned(),
        (Some(least), None) => format!("at least {}", seconds(least)),
        (None, Some(most)) => format!("less than {}", seconds(most)),
        (Some(least), Some(most)) => format!("at least {}, less than {}", seconds(least), seconds(most)),
    }
}

/// As the ladder counts.
pub(crate) fn seconds(d: Duration) -> String {
    format!("{} s", d.as_secs())
}

/// The name of a reason, and what it says.
fn reason(reason: IntervalReason) -> (&'static str, &'static str) {
    match reason {
        IntervalReason::Fixed => ("fixed", "as configured, nothing is learned"),
        IntervalReason::Safe => ("safe", "the safe value, as nothing longer has been shown to be"),
        IntervalReason::Learned => {
            ("learned", "nine tenths of a silence that this network has been shown to allow")
        }
        IntervalReason::Missed => {
            ("missed", "the safe value, as the service could not reach the device for a while")
        }
        IntervalReason::Forgetful => ("forgetful", "shorter than usual, as this network forgets soon"),
        IntervalReason::Service => ("service", "the service grants no other"),
        _ => (UNKNOWN, UNKNOWN),
    }
}

fn micros(d: Duration) -> u64 {
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

fn web_json(destination: &WebDestination) -> Value {
    let status = match destination.seen {
        WebSeen::Status(status) => Some(status),
        _ => None,
    };
    json!({ "base": &*destination.base, "seen": web_seen(destination.seen).0, "status": status })
}

fn millis(d: Duration) -> u64 {
    micros(d) / 1000
}

fn lifetime(report: &NetcheckReport, why_not_all: Option<&str>) -> Value {
    let keepalive = report.connection.map(|c| c.keepalive);
    json!({
        "at_least_ms": keepalive.and_then(|k| k.proven).map(millis),
        "less_than_ms": keepalive.and_then(|k| k.disproven).map(millis),
        "family": report.connection.map(|c| if c.service.is_ipv4() { "v4" } else { "v6" }),
        "why_not_all": why_not_all,
    })
}

/// The report for programs: what is unknown is "unknown" or null.
pub(crate) fn object(report: &NetcheckReport, why_not_all: Option<&str>, verdict: &str) -> Value {
    let (check, code) = match report.ticket {
        TicketCheck::Accepted => ("accepted", None),
        TicketCheck::Refused(code) => ("refused", Some(code.number())),
        TicketCheck::SaidRefused(code) => ("said-refused", Some(code.number())),
        _ => (UNKNOWN, None),
    };
    let keepalive = report.connection.map(|c| c.keepalive);
    json!({
        "type": "netcheck",
        "udp": udp_name(report.udp()),
        "v4": family_json(&report.v4),
        "v6": family_json(&report.v6),
        "unresolved": report.unresolved,
        "ticket": check,
        "ticket_code": code,
        "in_use": in_use(report.in_use),
        "web": web_name(report.web),
        "web_destinations": report.web_destinations.iter().map(web_json).collect::<Vec<_>>(),
        "lifetime": lifetime(report, why_not_all),
        "heartbeat_ms": keepalive.map(|k| millis(k.interval)),
        "heartbeat_reason": keepalive.map_or(UNKNOWN, |k| reason(k.reason).0),
        "misses": keepalive.map(|k| k.misses),
        "rebindings": keepalive.map(|k| k.rebindings),
        "complete": report.complete,
        "verdict": verdict,
    })
}
