//! `mpp post`: one event through the running service.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use mpp_tokio::proto::{CollapseKey, EventError, MAX_PAYLOAD, MAX_TTL};

use crate::args::{PostArgs, UrgencyArg};
use crate::control::{Answer, Ask, Post, Urgency, Why, client};
use crate::failure::{Failure, Outcome, reason};
use crate::output;
use crate::state::StateDir;
use crate::text::{grouped, hex};

pub(crate) fn run(args: PostArgs) -> Outcome<()> {
    let state = StateDir::new(args.dir.dir.clone())?;
    if args.ttl > MAX_TTL {
        return Err(Failure::usage(EventError::Ttl { ttl: args.ttl }));
    }
    if let Some(key) = &args.key {
        CollapseKey::new(key.as_bytes()).map_err(Failure::usage)?;
    }
    let payload = payload(&args)?;
    let post = Post {
        account: args.account.clone(),
        store: args.store.number(),
        ttl_ms: u64::try_from(args.ttl.as_millis()).unwrap_or(u64::MAX),
        urgency: match args.urgency {
            UrgencyArg::Low => Urgency::Low,
            UrgencyArg::Normal => Urgency::Normal,
            UrgencyArg::High => Urgency::High,
        },
        key: args.key.as_deref().map(|key| hex(key.as_bytes())),
        payload: payload.as_deref().map(hex),
        create: args.create,
    };
    match client::ask(&state, Ask::Post(post))? {
        Answer::Posted { serial, devices } if args.json => {
            output::line(serde_json::json!({ "serial": serial, "devices": devices }))
        }
        Answer::Posted { serial, devices } => {
            let devices = match devices {
                0 if args.ttl.is_zero() => "no device is connected: with --ttl 0 nobody gets it".to_owned(),
                0 => "no device is connected: it waits for them".to_owned(),
                1 => "1 device is connected".to_owned(),
                n => format!("{n} devices are connected"),
            };
            output::line(format_args!("serial {serial} ({devices})"))
        }
        Answer::Refused { why: Why::UnknownAccount, .. } => Err(Failure::new(format_args!(
            "{} has no channel yet: connect a device of it with 'mpp watch', or add --create",
            args.account
        ))),
        Answer::Refused { text, .. } => Err(Failure::new(text)),
        Answer::Status(_) => Err(client::unexpected()),
    }
}

fn payload(args: &PostArgs) -> Outcome<Option<Vec<u8>>> {
    match (&args.text, &args.file) {
        // As everywhere else; a single dash itself can be posted from a file.
        (Some(text), _) if text == "-" => bounded(io::stdin().lock(), "standard input").map(Some),
        (Some(text), _) if text.len() > MAX_PAYLOAD => Err(too_large(Some(text.len()))),
        (Some(text), _) => Ok(Some(text.clone().into_bytes())),
        (None, Some(path)) if path == Path::new("-") => {
            bounded(io::stdin().lock(), "standard input").map(Some)
        }
        (None, Some(path)) => {
            let name = path.display().to_string();
            let file = File::open(path).map_err(|e| unreadable(&name, &e))?;
            bounded(file, &name).map(Some)
        }
        (None, None) => Ok(None),
    }
}

/// All of it, if it is a payload; no more than one byte beyond the limit is read.
fn bounded(from: impl Read, name: &str) -> Outcome<Vec<u8>> {
    let mut bytes = Vec::with_capacity(MAX_PAYLOAD + 1);
    from.take(MAX_PAYLOAD as u64 + 1).read_to_end(&mut bytes).map_err(|e| unreadable(name, &e))?;
    if bytes.len() > MAX_PAYLOAD { Err(too_large(None)) } else { Ok(bytes) }
}

fn unreadable(name: &str, e: &io::Error) -> Failure {
    Failure::new(format_args!("cannot read {name}: {}", reason(e)))
}

fn too_large(size: Option<usize>) -> Failure {
    let size = size.map_or_else(|| "more".to_owned(), |n| format!("{} bytes", grouped(n as u64)));
    Failure::usage(format_args!(
        "a payload has at most {} bytes, this has {size}: send a reference to it instead, or split it",
        grouped(MAX_PAYLOAD as u64)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_up_to_the_limit() {
        assert_eq!(bounded(&[7; MAX_PAYLOAD][..], "x").unwrap().len(), MAX_PAYLOAD);
        let error = bounded(io::repeat(7), "x").unwrap_err();
        assert_eq!(error.code, 2);
        assert!(error.to_string().contains("16,384"), "{error}");
        assert!(too_large(Some(20_000)).to_string().contains("20,000"));
    }
}
