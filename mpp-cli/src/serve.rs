//! `mpp serve`: a service until it is told to stop.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::num::NonZeroU16;
use std::time::{Duration, Instant};

use mpp_tokio::Service;
use mpp_tokio::proto::{ForeignPosts, PostAnswer, ServiceConfig, ServiceEvent};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::args::{DEFAULT_CHECK_PORT, DEFAULT_PORT, DEFAULT_WEB_PORT, ServeArgs};
use crate::control::server::{About, Control};
use crate::failure::{Failure, Outcome, reason};
use crate::keyfile::Keys;
use crate::output;
use crate::state::StateDir;
use crate::text;
use crate::web::Port;

/// How long saying goodbye to every device may take.
const GOODBYE: Duration = Duration::from_secs(5);

pub(crate) async fn run(args: ServeArgs) -> Outcome<()> {
    let state = StateDir::new(args.dir.dir)?;
    let is_default = args.listen.is_empty();
    let mut addresses = if is_default { default_addresses() } else { args.listen };
    let listening = addresses.len();
    let check_port = match args.check_port {
        Some(port) => NonZeroU16::new(port),
        None if is_default => free_check_port(&addresses),
        None => None,
    };
    let web = web_addresses(args.web, args.no_web, &addresses);
    if let Some(port) = check_port {
        if addresses.iter().any(|a| a.port() == port.get()) {
            return Err(Failure::usage(format_args!(
                "--check-port {port} is the port that devices use already: choose another one"
            )));
        }
        addresses.extend_from_within(..);
        addresses[listening..].iter_mut().for_each(|a| a.set_port(port.get()));
    }
    state.create()?;
    let _lock = state.lock()?;
    let (keys, new) = Keys::load_or_create(&state.keys())?;
    // Before anything is announced: a signal that comes from now on ends the service in order.
    let mut stop = Stop::new()?;
    let mut config = ServiceConfig::new(keys.secret(), keys.ticket_keys());
    config.stun = !args.no_stun;
    config.check_port = check_port;
    if args.foreign_posts {
        config.foreign_posts = ForeignPosts::Host;
    }
    let service = Service::bind(&addresses[..], config).map_err(|e| Failure::new(format_args!("{e}")))?;
    drop(keys);
    let port = match web {
        Listen::On(addresses) => Some(Port::open(&addresses)?),
        // Nobody has asked for it: without it the service is as good for all who have UDP.
        Listen::IfFree(addresses) => {
            Port::open(&addresses).inspect_err(|e| output::note(format_args!("mpp: {e}"))).ok()
        }
        Listen::Off => None,
    };
    let control = Control::open(&state)?;
    // Tickets do not name the second port: devices are told of it when they ask.
    let listening = service.local_addrs()[..listening].to_vec();
    let web = port.as_ref().map_or(Vec::new(), |port| port.addresses().to_vec());
    output::text(&greeting(&state, &listening, &web, check_port, new))?;
    let about = About { listening, web, started: Instant::now() };
    let answering = port.map(|port| port.answer(service.web(), args.web_forwarded));

    tokio::select! {
        () = control.serve(&service, about) => {}
        () = pass_posts(&service), if args.foreign_posts => {}
        () = stop.wait() => {}
    }
    // Nothing is taken any more from here on: what is posted now would be lost without a word.
    drop(control);
    output::note("mpp: closing every connection (once more to end at once)");
    tokio::select! {
        () = async {
            service.shutdown(GOODBYE).await;
            if let Some(answering) = answering {
                answering.finish().await;
            }
        } => {}
        () = stop.wait() => {}
    }
    Ok(())
}

/// Publishes what devices post to other accounts, for ever. To accounts without a channel nothing can be posted, and
/// who tries is not told so.
async fn pass_posts(service: &Service) {
    let mut events = service.events();
    while let Some(event) = events.next().await {
        if let ServiceEvent::Post { handle, .. } = event {
            // What is refused, the poster hears.
            let _ = service.answer_post(handle, PostAnswer::Publish);
        }
    }
    std::future::pending().await
}

/// All addresses of every family this machine has.
fn default_addresses() -> Vec<SocketAddr> {
    let has = |addr: SocketAddr| UdpSocket::bind(addr).is_ok();
    let v4: SocketAddr = (Ipv4Addr::UNSPECIFIED, DEFAULT_PORT).into();
    let v6: SocketAddr = (Ipv6Addr::UNSPECIFIED, DEFAULT_PORT).into();
    // Tried on the loopback addresses and any port, so that a busy port is not mistaken for a missing family.
    let v4 = has((Ipv4Addr::LOCALHOST, 0).into()).then_some(v4);
    let v6 = has((Ipv6Addr::LOCALHOST, 0).into()).then_some(v6);
    let found: Vec<_> = v4.into_iter().chain(v6).collect();
    if found.is_empty() { vec![(Ipv4Addr::UNSPECIFIED, DEFAULT_PORT).into()] } else { found }
}

/// Where to listen for HTTP.
enum Listen {
    /// There, or the service does not start.
    On(Vec<SocketAddr>),
    /// There, unless somebody else does.
    IfFree(Vec<SocketAddr>),
    Off,
}

/// Where to listen for HTTP, if UDP comes to `addresses`.
fn web_addresses(asked_for: Vec<SocketAddr>, off: bool, addresses: &[SocketAddr]) -> Listen {
    if off {
        return Listen::Off;
    }
    if !asked_for.is_empty() {
        return Listen::On(asked_for);
    }
    // Where the system is to choose a port for UDP, it chooses one for TCP too.
    let port = |a: &SocketAddr| if a.port() == 0 { 0 } else { DEFAULT_WEB_PORT };
    let mut usual: Vec<_> = addresses.iter().map(|a| SocketAddr::new(a.ip(), port(a))).collect();
    usual.sort_unstable();
    usual.dedup();
    Listen::IfFree(usual)
}

/// The second port that is used if nobody names one, unless somebody has it.
fn free_check_port(addresses: &[SocketAddr]) -> Option<NonZeroU16> {
    // One after the other: on some systems a socket of all IPv6 addresses takes the port of IPv4 too.
    let mut ips = addresses.iter().map(SocketAddr::ip);
    let is_free = |ip: IpAddr| UdpSocket::bind(SocketAddr::new(ip, DEFAULT_CHECK_PORT));
    if ips.all(|ip| is_free(ip).is_ok()) {
        return NonZeroU16::new(DEFAULT_CHECK_PORT);
    }
    output::note(format_args!(
        "mpp: port {DEFAULT_CHECK_PORT} is in use, so there is no second port for 'mpp netcheck': name another one with \
         --check-port PORT"
    ));
    None
}

fn greeting(
    state: &StateDir,
    listening: &[SocketAddr],
    web: &[SocketAddr],
    check_port: Option<NonZeroU16>,
    new: bool,
) -> String {
    let list =
        |addresses: &[SocketAddr]| addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let web = match web {
        [] => String::new(),
        web => format!("web         http {}: for networks without UDP\n", list(web)),
    };
    let (program, dir) = (text::program(), state.argument());
    let keys = if new { "made just now" } else { "as before" };
    let check_port = check_port
        .map_or(String::new(), |port| format!("check port  udp {port}: a second one, for 'mpp netcheck'\n"));
    format!(
        "\
listening   udp {}
{web}{check_port}keys        {} ({keys})
channels    in memory: a restart loses what waits, and every device is told so

Next, in another terminal: a ticket, and a device that watches with it
  {program} ticket alice@example.com --device phone{dir} > phone.ticket
  {program} watch @phone.ticket{dir}
and in a third one: tell her devices
  {program} post alice@example.com \"hello\"{dir}
",
        list(listening),
        state.keys().display(),
    )
}

/// SIGINT and SIGTERM.
#[derive(Debug)]
pub(crate) struct Stop {
    interrupt: Signal,
    terminate: Signal,
}

impl Stop {
    /// Begins to listen for both: from now on they do not end the process by themselves.
    pub(crate) fn new() -> Outcome<Self> {
        let open = |kind| {
            signal(kind).map_err(|e| Failure::new(format_args!("cannot listen for signals: {}", reason(&e))))
        };
        Ok(Self { interrupt: open(SignalKind::interrupt())?, terminate: open(SignalKind::terminate())? })
    }

    /// Until one of them comes. Cancel-safe.
    pub(crate) async fn wait(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
