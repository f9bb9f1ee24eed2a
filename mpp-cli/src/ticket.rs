//! `mpp ticket`: minting, and reading a ticket from wherever it is given.

use std::io::Read as _;
use std::path::Path;

use mpp_tokio::proto::{DeviceId, Endpoint, Ticket, TicketSpec};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use crate::args::TicketArgs;
use crate::control::{Answer, Ask, client};
use crate::endpoints::{self, MAX_ENDPOINTS};
use crate::failure::{Failure, Outcome, reason};
use crate::keyfile::{self, Keys};
use crate::output;
use crate::state::StateDir;
use crate::text;

/// A ticket is some hundred bytes; a file much larger is not one.
const MAX_TICKET_FILE: u64 = 64 * 1024;

pub(crate) fn run(args: &TicketArgs) -> Outcome<()> {
    let state = StateDir::new(args.dir.dir.clone())?;
    if args.endpoint.len() > MAX_ENDPOINTS {
        return Err(Failure::usage(format_args!(
            "a ticket names at most {MAX_ENDPOINTS} endpoints: leave some out"
        )));
    }
    // The keys first: without them nothing else matters, and what to do is to start the service.
    let keys = Keys::load(&state.keys())?;
    let (endpoints, web) = match args.endpoint.is_empty() {
        false => (args.endpoint.clone(), Vec::new()),
        true => listening(&state)?,
    };
    let web = if args.web.is_empty() { web } else { args.web.clone() };
    let ticket = mint(&keys, args, endpoints, web.clone())?;

    let list: Vec<_> = ticket.endpoints().iter().map(ToString::to_string).collect();
    let source = if args.endpoint.is_empty() { " (where the service listens now)" } else { "" };
    output::note(format_args!("ticket for {}, device {}", ticket.account(), args.device));
    output::note(format_args!("  endpoint  {}{source}", list.join(", ")));
    if !web.is_empty() {
        output::note(format_args!("  web       {}", ticket.web().join(", ")));
    }
    output::note(format_args!("  expires   {}", text::minute(ticket.expiry())));
    if args.endpoint.is_empty() && !endpoints::reachable_from_elsewhere(ticket.endpoints()) {
        output::note(
            "  note      devices elsewhere cannot reach this: name what they can with --endpoint HOST:PORT",
        );
    }
    output::line(ticket.to_text().as_str())
}

fn mint(keys: &Keys, args: &TicketArgs, endpoints: Vec<Endpoint>, web: Vec<String>) -> Outcome<Ticket> {
    let issued = text::now();
    let spec = TicketSpec {
        endpoints,
        account: args.account.clone(),
        device: device_id(&args.device),
        rights: args.rights,
        issued,
        expiry: issued + args.expires,
    };
    let key = keys
        .ticket_keys()
        .into_iter()
        .next()
        .ok_or_else(|| Failure::new("the key file holds no ticket key"))?;
    key.mint(&spec, &*keyfile::random()?)
        .and_then(|ticket| ticket.with_web(web))
        .map_err(|e| Failure::new(format_args!("cannot make this ticket: {e}")))
}

/// The id of a device that goes by `name` in its account.
pub(crate) fn device_id(name: &str) -> DeviceId {
    let digest = Sha256::new().chain_update(b"mpp device 1").chain_update(name.as_bytes()).finalize();
    let mut id = [0; 16];
    id.copy_from_slice(&digest[..16]);
    DeviceId(id)
}

/// Where the running service listens, as a device is to be told; for HTTP only if a device would not look there by itself.
fn listening(state: &StateDir) -> Outcome<(Vec<Endpoint>, Vec<String>)> {
    let status = match client::ask(state, Ask::Status) {
        Ok(Answer::Status(status)) => status,
        Ok(Answer::Refused { text, .. }) => return Err(Failure::new(text)),
        Ok(_) => return Err(client::unexpected()),
        Err(e) if e.code == Failure::NOT_RUNNING => {
            return Err(Failure::with_code(
                e.code,
                format_args!("{e}, or say where it will be with --endpoint HOST:PORT"),
            ));
        }
        Err(e) => return Err(e),
    };
    let udp = endpoints::usable(&status.listening);
    let web = endpoints::web_bases(&udp, &endpoints::usable(&status.web));
    Ok((udp.into_iter().map(Endpoint::Address).collect(), web))
}

/// The ticket that `given` is or names: its text, `-`, `@FILE` or a file's name.
pub(crate) fn read(given: &str) -> Outcome<Ticket> {
    let text = if given == "-" {
        bounded(std::io::stdin().lock(), "standard input")?
    } else if let Some(path) = given.strip_prefix('@') {
        from_file(Path::new(path))?
    } else if given.trim_start().starts_with("mpp1_") || !Path::new(given).exists() {
        Zeroizing::new(given.to_owned())
    } else {
        from_file(Path::new(given))?
    };
    text.parse().map_err(|e| Failure::ticket(format_args!("{e}; 'mpp ticket' makes new ones")))
}

fn from_file(path: &Path) -> Outcome<Zeroizing<String>> {
    let name = path.display();
    let file = std::fs::File::open(path)
        .map_err(|e| Failure::new(format_args!("cannot read the ticket in {name}: {}", reason(&e))))?;
    bounded(file, &name.to_string())
}

fn bounded(from: impl std::io::Read, name: &str) -> Outcome<Zeroizing<String>> {
    let mut text = Zeroizing::new(String::with_capacity(4096));
    match from.take(MAX_TICKET_FILE).read_to_string(&mut text) {
        Ok(_) => Ok(text),
        Err(e) if e.kind() == std::io::ErrorKind::InvalidData => {
            Err(Failure::ticket(format_args!("{name} holds no ticket: 'mpp ticket' makes one")))
        }
        Err(e) => Err(Failure::new(format_args!("cannot read the ticket from {name}: {}", reason(&e)))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Cli, Command};
    use clap::Parser as _;

    fn args(more: &[&str]) -> TicketArgs {
        let all = ["mpp", "ticket", "alice@example.com", "--device", "phone"].iter().chain(more);
        match Cli::try_parse_from(all).unwrap().command {
            Command::Ticket(args) => args,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_device_is_its_name() {
        // sha256sum of "mpp device 1phone": SPEC-independent, so it must never change.
        assert_eq!(device_id("phone").to_string(), PHONE);
        assert_ne!(device_id("phone"), device_id("Phone"));
    }
    const PHONE: &str = "76337b738f9829e38a3be9e26d026235";

    #[test]
    fn what_is_minted_is_what_was_asked_for() {
        let args = args(&["--expires", "1h", "--endpoint", "192.0.2.1:7", "--endpoint", "mpp.example.com"]);
        let keys = Keys::generate().unwrap();
        let minted = mint(&keys, &args, args.endpoint.clone(), vec![]).unwrap();
        let read: Ticket = minted.to_text().parse().unwrap();
        assert_eq!(read.account(), "alice@example.com");
        assert_eq!(read.device(), device_id("phone"));
        assert_eq!(read.endpoints().len(), 2);
        assert_eq!(read.endpoints()[1].to_string(), "mpp.example.com:15096");
        assert_eq!(read.web()[1], "http://mpp.example.com:15097");
        let left = read.expiry().as_millis() - text::now().as_millis();
        assert!((3_590_000..=3_600_000).contains(&left), "{left}");
        assert_ne!(*minted.to_text(), *mint(&keys, &args, args.endpoint.clone(), vec![]).unwrap().to_text());
    }

    #[test]
    fn it_names_where_the_web_service_is_if_that_is_elsewhere() {
        let args = args(&["--web", "https://mpp.example.com/base"]);
        let keys = Keys::generate().unwrap();
        let endpoints = vec!["192.0.2.1:7".parse().unwrap()];
        let read: Ticket =
            mint(&keys, &args, endpoints.clone(), args.web.clone()).unwrap().to_text().parse().unwrap();
        assert_eq!(read.web(), ["https://mpp.example.com/base"]);
        let wrong = TicketArgs { web: vec!["mpp.example.com".to_owned()], ..args };
        let said = mint(&keys, &wrong, endpoints, wrong.web.clone()).unwrap_err().to_string();
        assert!(said.contains("`mpp.example.com` is no base URL") && said.contains("https://"), "{said}");
    }

    #[test]
    fn a_ticket_is_found_where_it_is() {
        let text = mint(&Keys::generate().unwrap(), &args(&[]), vec!["192.0.2.1:7".parse().unwrap()], vec![])
            .unwrap()
            .to_text();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t");
        std::fs::write(&path, format!("{}\n", *text)).unwrap();
        let path = path.to_str().unwrap();
        for given in [text.as_str(), path, &format!("@{path}"), &format!(" {} ", *text)] {
            assert_eq!(read(given).unwrap().account(), "alice@example.com");
        }
        let cut = read(&text[..text.len() - 3]).unwrap_err();
        assert_eq!(cut.code, Failure::TICKET);
        assert!(!cut.to_string().contains(&text[5..25]), "the ticket is not repeated: {cut}");
        assert_eq!(read("no such file").unwrap_err().code, Failure::TICKET);
        assert_eq!(read("@no such file").unwrap_err().code, 1);
    }
}
