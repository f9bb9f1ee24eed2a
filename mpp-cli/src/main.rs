//! The program `mpp`: a service, its tickets, a device and a poster for the command line.

mod args;
mod control;
mod demo;
mod endpoint;
mod endpoints;
mod failure;
mod keyfile;
mod netcheck;
mod output;
mod post;
mod resume;
mod serve;
mod state;
mod status;
mod text;
mod ticket;
mod watch;
mod web;
mod web_roots;

use std::process::ExitCode;

use clap::Parser as _;
use clap::error::ErrorKind;

use args::{Cli, Command};
use failure::{Failure, Outcome};

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if !failure.is_silent() {
                output::note(format_args!("mpp: {failure}"));
            }
            ExitCode::from(failure.code)
        }
    }
}

fn run() -> Outcome<()> {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) if matches!(e.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => {
            return output::text(&e.render().to_string());
        }
        Err(e) if e.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            output::note(e.render());
            return Err(Failure::usage("say what to do; 'mpp demo' shows everything at work"));
        }
        Err(e) => return Err(Failure::usage(args::one_line(&e, std::env::args().nth(1).as_deref()))),
    };
    match cli.command {
        Command::Serve(args) => block_on(serve::run(args)),
        Command::Ticket(args) => ticket::run(&args),
        Command::Watch(args) => block_on(watch::run(args)),
        Command::Endpoint(args) => block_on(endpoint::run(args)),
        Command::Netcheck(args) => block_on(netcheck::run(args)),
        Command::Post(args) => post::run(args),
        Command::Status(args) => status::run(&args),
        Command::Demo => block_on(demo::run()),
    }
}

/// Runs a future on one thread: one service is one shard, and a device has nothing to do in parallel.
fn block_on(future: impl Future<Output = Outcome<()>>) -> Outcome<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Failure::new(format_args!("cannot start: {}", failure::reason(&e))))?;
    let outcome = runtime.block_on(future);
    // A thread that reads standard input or asks a resolver is not waited for.
    runtime.shutdown_background();
    outcome
}
