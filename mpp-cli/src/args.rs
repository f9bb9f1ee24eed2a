//! The command line.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, CommandFactory as _, Parser, Subcommand, ValueEnum};
use mpp_tokio::proto::{Endpoint, Rights, StoreId, StoreSet, Urgency};

use crate::text::{parse_duration, printable};

/// The UDP port of a service that names none.
pub(crate) const DEFAULT_PORT: u16 = 15096;
/// The TCP port on which devices without UDP look for a service whose tickets do not name another one.
pub(crate) const DEFAULT_WEB_PORT: u16 = 15097;
/// Its second port, for those who look at their network.
pub(crate) const DEFAULT_CHECK_PORT: u16 = 15098;

/// Mesh Presence Protocol: devices hear of events in their account's channel at once, over UDP.
#[derive(Debug, Parser)]
#[command(
    name = "mpp",
    version,
    disable_help_subcommand = true,
    after_help = "\
Examples:
  mpp demo                                             see all of it at work, in one process
  mpp serve                                            terminal 1: the service
  mpp ticket alice@example.com --device phone > t      terminal 2: a ticket for a device,
  mpp watch @t                                           and the device
  mpp post alice@example.com \"hello\"                   terminal 3: tell her devices
  mpp netcheck @t                                      do UDP and the Web work here, and what does the NAT do?

Exit codes: 0 done, 1 failed, 2 wrong call, 3 the ticket is no good (get a new one), 4 no service is running."
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a service
    Serve(ServeArgs),
    /// Make a ticket that lets one device connect
    Ticket(TicketArgs),
    /// Be a device: connect with a ticket and print notifications as they come
    Watch(WatchArgs),
    /// Say from which addresses the service sees this machine
    Endpoint(EndpointArgs),
    /// Look at the network: does UDP work, what does the NAT do, how long does it remember
    Netcheck(NetcheckArgs),
    /// Post an event to an account's channel, through the service that runs on this machine
    Post(PostArgs),
    /// Say how the service that runs on this machine is doing
    Status(StatusArgs),
    /// A service, three devices and a bad network in one process, each step checked
    Demo,
}

/// Where keys, the control socket and positions are kept.
#[derive(Debug, Args)]
pub(crate) struct DirArg {
    /// State directory [default: $XDG_STATE_HOME/mpp, else ~/.local/state/mpp]
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
}

/// `mpp serve`
#[derive(Debug, Args)]
#[command(after_help = "\
On the first start a key file is made (service.keys, readable by you only): whoever has it can mint tickets.
Events are kept in memory: a restart loses them, and every device is told so.
The second port is at the same addresses as the first; with it 'mpp netcheck' sees whether a NAT gives a device
another port for each destination. Tickets do not name it, but a firewall has to let it through.
SIGINT or SIGTERM closes every connection with a word when to come back, then ends.")]
pub(crate) struct ServeArgs {
    /// Let devices post to other accounts' channels, if their tickets may (post-others)
    #[arg(long)]
    pub(crate) foreign_posts: bool,
    /// Address and UDP port; may be given several times [default: port 15096 of all addresses]
    #[arg(long, value_name = "ADDR", value_parser = parse_listen)]
    pub(crate) listen: Vec<SocketAddr>,
    /// Second UDP port, for 'mpp netcheck'; 0 is none [default: 15098 without --listen]
    #[arg(long, value_name = "PORT")]
    pub(crate) check_port: Option<u16>,
    /// Address and TCP port of HTTP, for devices without UDP; can be repeated [default: 15097]
    #[arg(long, value_name = "ADDR", value_parser = parse_web)]
    pub(crate) web: Vec<SocketAddr>,
    /// No HTTP
    #[arg(long, conflicts_with = "web")]
    pub(crate) no_web: bool,
    /// Believe X-Forwarded-For: only if all requests come through a proxy that sets it
    #[arg(long, conflicts_with = "no_web")]
    pub(crate) web_forwarded: bool,
    /// Do not answer STUN clients, who learn their own address from the same port (RFC 8489)
    #[arg(long)]
    pub(crate) no_stun: bool,
    #[command(flatten)]
    pub(crate) dir: DirArg,
}

/// `mpp ticket`
#[derive(Debug, Args)]
#[command(after_help = "\
The ticket goes to standard output, everything else to standard error. It is a secret: its holder is the device.
Rights: receive, post, post-others, sessions, presence, dns, or all.
Minting needs the key file; the service is only asked where it listens. A device's id is the first 16 bytes
of SHA-256 over \"mpp device 1\" and its name, so the same name is always the same device.")]
pub(crate) struct TicketArgs {
    /// The account, for example alice@example.com
    #[arg(value_parser = parse_name)]
    pub(crate) account: String,
    /// The device's name, unique in the account, for example phone
    #[arg(long, value_name = "NAME", value_parser = parse_name)]
    pub(crate) device: String,
    /// How long the ticket lets the device connect
    #[arg(long, value_name = "DURATION", default_value = "90d", value_parser = parse_expiry)]
    pub(crate) expires: Duration,
    /// What it may do
    #[arg(long, value_name = "LIST", default_value = "receive,post", value_parser = parse_rights)]
    pub(crate) rights: Rights,
    /// Where it finds the service; up to 8, in order [default: where it listens]
    #[arg(long, value_name = "HOST:PORT", value_parser = parse_endpoint)]
    pub(crate) endpoint: Vec<Endpoint>,
    /// Where it goes if no UDP passes; up to 2 [default: port 15097 of each endpoint]
    #[arg(long, value_name = "URL")]
    pub(crate) web: Vec<String>,
    #[command(flatten)]
    pub(crate) dir: DirArg,
}

/// `mpp watch`
#[derive(Debug, Args)]
#[command(after_help = "\
Each notification is printed, then acknowledged, then its position is written to the resume file: after a restart
nothing is missing and nothing comes twice. If the service itself lost events, that is said, not passed over.")]
pub(crate) struct WatchArgs {
    /// The ticket: @FILE, - for standard input, or its text (which others then see)
    #[arg(value_name = "TICKET")]
    pub(crate) ticket: String,
    /// JSON objects, one per line, for notifications and changes of state
    #[arg(long)]
    pub(crate) json: bool,
    /// Stores to hear of, by name or number, such as inbound,contact,40 [default: all]
    #[arg(long, value_name = "LIST", value_parser = parse_filter)]
    pub(crate) filter: Option<StoreSet>,
    /// End after this many notifications
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) count: Option<u64>,
    /// Time between heartbeats, 5s to 300s
    #[arg(long, value_name = "DURATION", default_value = "25s", value_parser = parse_interval)]
    pub(crate) interval: Duration,
    /// UDP only: do not go by HTTP where UDP does not pass
    #[arg(long)]
    pub(crate) no_web: bool,
    /// Trust these certificates (PEM) too if the ticket names a Web Service with https
    #[arg(long, value_name = "FILE", conflicts_with = "no_web")]
    pub(crate) web_roots: Option<PathBuf>,
    /// Keep the position here [default: a file per device in the state directory]
    #[arg(long, value_name = "FILE")]
    pub(crate) resume: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) dir: DirArg,
}

/// `mpp endpoint`
#[derive(Debug, Args)]
#[command(after_help = "\
One line for IPv4 and one for IPv6, as far as the ticket names addresses of the service in both. The port is that
of a socket that is opened for the question. A device that is connected with the same ticket is not disturbed.")]
pub(crate) struct EndpointArgs {
    /// The ticket: @FILE, - for standard input, or its text (which others then see)
    #[arg(value_name = "TICKET")]
    pub(crate) ticket: String,
    /// The answer as one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

/// `mpp netcheck`
#[derive(Debug, Args)]
#[command(after_help = "\
What is not known is called unknown, and never guessed. A mapping is called what RFC 4787 calls it; to know more of
it takes a second address or port of the service ('mpp serve' opens port 15098 for that). Of the Web it is asked
whether the service answers there, and proves to be it: that is how notifications come where UDP does not pass.

How long the network remembers a silent socket is measured by being silent, for 25, 55, 110 and 240 seconds, twice
if that was too long: up to twelve minutes in all. Ctrl-C ends it, and what is known by then is reported; --up-to 0
leaves it out, and the rest takes a few seconds. It needs a connection, which would displace a device that is
connected with the same ticket: if there is one, this is left out, unless --take-over says otherwise. The rest
disturbs nobody. Meanwhile the device counts as connected; no events are lost to it.")]
pub(crate) struct NetcheckArgs {
    /// The ticket: @FILE, - for standard input, or its text (which others then see)
    #[arg(value_name = "TICKET")]
    pub(crate) ticket: String,
    /// The report as one JSON object
    #[arg(long)]
    pub(crate) json: bool,
    /// The longest silence to try, 25s or more; 0 is none
    #[arg(long, value_name = "DURATION", default_value = "240s", value_parser = parse_silence)]
    pub(crate) up_to: Duration,
    /// Trust these certificates (PEM) too if the ticket names a Web Service with https
    #[arg(long, value_name = "FILE")]
    pub(crate) web_roots: Option<PathBuf>,
    /// Measure even if the device is connected elsewhere, and end that connection for good
    #[arg(long)]
    pub(crate) take_over: bool,
}

/// `mpp post`
#[derive(Debug, Args)]
#[command(after_help = "\
Without text and file the event says only that the store changed. A payload has at most 16,384 bytes.
Stores 32 to 127 are free for applications. With --ttl 0 it reaches only devices that are connected now.
A channel exists once a device of the account has connected; --create makes it now.")]
pub(crate) struct PostArgs {
    /// The account, for example alice@example.com
    #[arg(value_parser = parse_name)]
    pub(crate) account: String,
    /// The text to post; - is standard input
    #[arg(value_name = "TEXT")]
    pub(crate) text: Option<String>,
    /// Post the content of this file; - is standard input
    #[arg(long, value_name = "FILE", conflicts_with = "text")]
    pub(crate) file: Option<PathBuf>,
    /// The store it belongs to, by name or number
    #[arg(long, default_value = "inbound", value_parser = parse_store)]
    pub(crate) store: StoreId,
    /// How long to keep it for absent devices, 0 to 30d
    #[arg(long, value_name = "DURATION", default_value = "24h", value_parser = parse_duration)]
    pub(crate) ttl: Duration,
    /// low (with the next contact), normal (now), high (now, overtaking)
    #[arg(long, value_enum, default_value_t = UrgencyArg::Normal, hide_possible_values = true)]
    pub(crate) urgency: UrgencyArg,
    /// Replaces an older event with the same key, 1 to 32 bytes
    #[arg(long)]
    pub(crate) key: Option<String>,
    /// Make the account's channel if there is none yet
    #[arg(long)]
    pub(crate) create: bool,
    /// The answer as one JSON object
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) dir: DirArg,
}

/// `mpp status`
#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    /// The service's answer as one JSON object
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) dir: DirArg,
}

/// [`Urgency`] as it is typed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum UrgencyArg {
    Low,
    Normal,
    High,
}

impl From<UrgencyArg> for Urgency {
    fn from(arg: UrgencyArg) -> Self {
        match arg {
            UrgencyArg::Low => Self::Low,
            UrgencyArg::Normal => Self::Normal,
            UrgencyArg::High => Self::High,
        }
    }
}

fn parse_listen(text: &str) -> Result<SocketAddr, String> {
    parse_address(text, DEFAULT_PORT)
}

fn parse_web(text: &str) -> Result<SocketAddr, String> {
    parse_address(text, DEFAULT_WEB_PORT)
}

/// `ADDR:PORT`, or an address alone, with the usual port.
fn parse_address(text: &str, port: u16) -> Result<SocketAddr, String> {
    if let Ok(addr) = text.parse() {
        return Ok(addr);
    }
    let bare = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')).unwrap_or(text);
    if let Ok(ip) = bare.parse::<IpAddr>() {
        return Ok(SocketAddr::new(ip, port));
    }
    Err(format!(
        "'{}' is no address to listen on: write it like 127.0.0.1:{port} or [::]:{port}",
        printable(text)
    ))
}

/// The name of an account or a device: 1 to 128 bytes that can be printed.
fn parse_name(text: &str) -> Result<String, String> {
    if text.is_empty() || text.len() > 128 {
        return Err(format!("a name has 1 to 128 bytes, this one has {}", text.len()));
    }
    if printable(text) != text {
        return Err("a name has no control characters".to_owned());
    }
    Ok(text.to_owned())
}

fn parse_expiry(text: &str) -> Result<Duration, String> {
    let day = Duration::from_secs(86_400);
    match parse_duration(text)? {
        d if d > day * 3660 => {
            Err("a ticket lasts at most 3660 days: make a new one from time to time".to_owned())
        }
        d => Ok(d),
    }
}

/// The longest silence to try. The first one is 25 s: up to less nothing would be tried at all.
fn parse_silence(text: &str) -> Result<Duration, String> {
    match parse_duration(text)? {
        d if d.is_zero() || d >= Duration::from_secs(25) => Ok(d),
        _ => Err("the first silence that is tried takes 25s: write 25s or more, or 0 to try none".to_owned()),
    }
}

fn parse_interval(text: &str) -> Result<Duration, String> {
    match parse_duration(text)? {
        d if (Duration::from_secs(5)..=Duration::from_secs(300)).contains(&d) => Ok(d),
        _ => Err("the time between heartbeats is 5s to 300s".to_owned()),
    }
}

/// A list of rights, separated by commas.
fn parse_rights(text: &str) -> Result<Rights, String> {
    const NAMES: [(&str, Rights); 6] = [
        ("receive", Rights::RECEIVE),
        ("post", Rights::POST_OWN),
        ("post-others", Rights::POST_OTHERS),
        ("sessions", Rights::SESSIONS),
        ("presence", Rights::PRESENCE),
        ("dns", Rights::DNS),
    ];
    let all = NAMES.iter().fold(Rights(0), |all, (_, right)| all.union(*right));
    text.split(',').try_fold(Rights(0), |rights, word| {
        let right = match word.trim() {
            "all" => Some(all),
            word => NAMES.iter().find(|(name, _)| *name == word).map(|(_, right)| *right),
        };
        right.map(|r| rights.union(r)).ok_or_else(|| {
            format!(
                "'{}' is no right: receive, post, post-others, sessions, presence, dns or all",
                printable(word)
            )
        })
    })
}

fn parse_endpoint(text: &str) -> Result<Endpoint, String> {
    text.parse().map_err(|_| {
        format!("'{}' is no endpoint: write it like mpp.example.com:15096, 192.0.2.1:15096 or [2001:db8::1]:15096", printable(text))
    })
}

/// A store to post to.
fn parse_store(text: &str) -> Result<StoreId, String> {
    match StoreId::parse(text) {
        Some(store) if store.is_postable() => Ok(store),
        Some(_) => Err(format!(
            "store {} takes no posts: 0 (any) stands for all stores, 20 to 31 are reserved",
            printable(text)
        )),
        None => Err(unknown_store(text)),
    }
}

/// A list of stores, separated by commas.
fn parse_filter(text: &str) -> Result<StoreSet, String> {
    text.split(',').map(|word| StoreId::parse(word.trim()).ok_or_else(|| unknown_store(word))).collect()
}

fn unknown_store(text: &str) -> String {
    let names: Vec<_> = (1..20).filter_map(StoreId::new).filter_map(StoreId::name).collect();
    format!("there is no store '{}': {}, or a number up to 127", printable(text), names.join(", "))
}

/// What clap has to say about a wrong call, on one line. `word` is the first word after the program's name.
pub(crate) fn one_line(error: &clap::Error, word: Option<&str>) -> String {
    let text = error.render().to_string();
    let words = |lines: &str| lines.split_whitespace().collect::<Vec<_>>().join(" ");
    let said: Vec<_> = text
        .split("\n\n")
        .map(words)
        .take_while(|p| !p.starts_with("Usage:") && !p.starts_with("For more"))
        .collect();
    let said = said.join("; ");
    let said = said.trim_start_matches("error: ");
    match word.filter(|word| Cli::command().find_subcommand(word).is_some()) {
        Some(sub) => format!("{said}; see mpp {sub} --help"),
        None => format!("{said}; see mpp --help"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(args: &[&str]) -> String {
        one_line(&Cli::try_parse_from(args).unwrap_err(), args.get(1).copied())
    }

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn help_fits_a_terminal() {
        let mut all = Cli::command();
        let names: Vec<String> = all.get_subcommands().map(|c| c.get_name().to_owned()).collect();
        let mut pages = vec![all.render_help().to_string()];
        for name in names {
            pages.push(all.find_subcommand_mut(&name).unwrap().render_help().to_string());
        }
        for line in pages.iter().flat_map(|page| page.lines()) {
            assert!(line.chars().count() <= 115, "{line}");
        }
    }

    #[test]
    fn a_wrong_call_is_one_line_that_says_what_to_do() {
        let missing = line(&["mpp", "watch"]);
        assert!(missing.contains("<TICKET>") && missing.ends_with("see mpp watch --help"), "{missing}");
        let missing = line(&["mpp", "ticket", "alice@example.com"]);
        assert!(missing.contains("--device") && missing.ends_with("see mpp ticket --help"), "{missing}");
        let unknown = line(&["mpp", "wach"]);
        assert!(unknown.contains("'watch'") && unknown.ends_with("see mpp --help"), "{unknown}");
        let value = line(&["mpp", "post", "a", "b", "--ttl", "1x"]);
        assert!(value.contains("90d") && value.ends_with("see mpp post --help"), "{value}");
        for text in [missing, unknown, value] {
            assert!(!text.contains('\n') && !text.contains("error:"), "{text}");
        }
    }

    #[test]
    fn addresses_to_listen_on() {
        let ok = |s: &str| parse_listen(s).unwrap().to_string();
        assert_eq!(ok("127.0.0.1:0"), "127.0.0.1:0");
        assert_eq!(ok("0.0.0.0"), "0.0.0.0:15096");
        assert_eq!(ok("::"), "[::]:15096");
        assert_eq!(ok("[::1]"), "[::1]:15096");
        assert_eq!(ok("[::1]:7"), "[::1]:7");
        for wrong in ["", "example.com:1", "1.2.3.4:99999", "15096:"] {
            assert!(parse_listen(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn rights() {
        assert_eq!(parse_rights("receive,post").unwrap(), Rights::default());
        assert_eq!(parse_rights("all").unwrap(), Rights(63));
        assert_eq!(parse_rights(" dns , receive").unwrap(), Rights(33));
        assert!(parse_rights("root").unwrap_err().contains("post-others"));
        assert!(parse_rights("").is_err());
    }

    #[test]
    fn stores() {
        assert_eq!(parse_store("contact").unwrap(), StoreId::CONTACT);
        assert_eq!(parse_store("40").unwrap().number(), 40);
        for wrong in ["any", "0", "25", "128", "nonsense"] {
            assert!(parse_store(wrong).is_err(), "{wrong}");
        }
        let filter = parse_filter("inbound,contact,40").unwrap();
        assert_eq!(filter.iter().map(StoreId::number).collect::<Vec<_>>(), [2, 11, 40]);
        assert!(parse_filter("inbound,,").is_err());
    }

    #[test]
    fn intervals() {
        assert_eq!(parse_interval("5s").unwrap(), Duration::from_secs(5));
        assert_eq!(parse_interval("5m").unwrap(), Duration::from_secs(300));
        for wrong in ["0", "4999ms", "301s", "x"] {
            assert!(parse_interval(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn names() {
        assert!(parse_name("alice@example.com").is_ok());
        assert!(parse_name("").is_err());
        assert!(parse_name(&"a".repeat(129)).is_err());
        assert!(parse_name("a\u{1b}[2Jb").is_err());
    }
}
