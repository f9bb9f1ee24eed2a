//! `mpp status`: how the running service is doing.

use std::time::Duration;

use crate::args::StatusArgs;
use crate::control::{Answer, Ask, client};
use crate::failure::{Failure, Outcome};
use crate::output;
use crate::state::StateDir;
use crate::text::{duration, grouped, printable};

pub(crate) fn run(args: &StatusArgs) -> Outcome<()> {
    let state = StateDir::new(args.dir.dir.clone())?;
    let status = match client::ask(&state, Ask::Status)? {
        Answer::Status(status) => status,
        Answer::Refused { text, .. } => return Err(Failure::new(text)),
        Answer::Posted { .. } => return Err(client::unexpected()),
    };
    if args.json {
        return output::line(serde_json::to_string(&status).unwrap_or_default());
    }
    let listening: Vec<_> = status.listening.iter().map(ToString::to_string).collect();
    output::line(format_args!("listening     udp {}", listening.join(", ")))?;
    if !status.web.is_empty() {
        let web: Vec<_> = status.web.iter().map(ToString::to_string).collect();
        output::line(format_args!("web           http {}", web.join(", ")))?;
    }
    output::line(format_args!("running       {}", duration(Duration::from_millis(status.uptime_ms))))?;
    output::line(format_args!("connected     devices: {}", grouped(status.connected)))?;
    let traffic = |packets, bytes| format!("{} packets, {} bytes", grouped(packets), grouped(bytes));
    output::line(format_args!("received      {}", traffic(status.packets_received, status.bytes_received)))?;
    output::line(format_args!("sent          {}", traffic(status.packets_sent, status.bytes_sent)))?;
    for (name, count) in &status.counters {
        output::line(format_args!("{:<13} {}", printable(name), grouped(*count)))?;
    }
    for (reason, count) in &status.dropped {
        output::line(format_args!("dropped       {} {}", grouped(*count), printable(reason)))?;
    }
    Ok(())
}
