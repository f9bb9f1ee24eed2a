//! Asking the running service.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use super::{Answer, Ask, Line, MAX_LINE, VERSION, Why};
use crate::failure::{Failure, Outcome, reason};
use crate::state::StateDir;

/// How long a service that is alive may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Asks the service that runs with this state directory.
pub(crate) fn ask(state: &StateDir, ask: Ask) -> Outcome<Answer> {
    let path = state.control();
    let stream = UnixStream::connect(&path).map_err(|e| match e.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => not_running(state),
        io::ErrorKind::InvalidInput => too_long(state),
        _ => Failure::new(format_args!(
            "cannot reach the service at {}: {}: call this as the user who runs it",
            path.display(),
            reason(&e)
        )),
    })?;
    let line = exchange(&stream, ask).map_err(|e| {
        Failure::new(format_args!(
            "no answer from the service at {}: {}: is it alive?",
            path.display(),
            reason(&e)
        ))
    })?;
    let answer: Line<Answer> = serde_json::from_str(&line).map_err(|_| {
        Failure::new("the service's answer is not understood: are both programs of the same version?")
    })?;
    match answer.body {
        // Another version of the service refuses in words too, so they are shown whatever its version is.
        Answer::Refused { text, why: Why::BadRequest } if answer.v != VERSION => Err(Failure::new(text)),
        _ if answer.v != VERSION => Err(Failure::new(format_args!(
            "the service speaks version {} of the control channel, this program version {VERSION}: use the same version",
            answer.v
        ))),
        answer => Ok(answer),
    }
}

/// What is said if the answer is not one to the question.
pub(crate) fn unexpected() -> Failure {
    Failure::new("the service's answer does not fit the question: are both programs of the same version?")
}

fn exchange(mut stream: &UnixStream, ask: Ask) -> io::Result<String> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut line = serde_json::to_string(&Line { v: VERSION, body: ask })?;
    line.push('\n');
    stream.write_all(line.as_bytes())?;
    let mut answer = String::new();
    BufReader::new(stream.take(MAX_LINE as u64)).read_line(&mut answer)?;
    if answer.ends_with('\n') { Ok(answer) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

fn not_running(state: &StateDir) -> Failure {
    Failure::with_code(
        Failure::NOT_RUNNING,
        format_args!(
            "no service is running with {}: start one with 'mpp serve{}'",
            state.path().display(),
            state.argument()
        ),
    )
}

/// The operating system's limit for the path of a Unix socket is about 107 bytes.
pub(super) fn too_long(state: &StateDir) -> Failure {
    Failure::new(format_args!(
        "the path of the state directory {} is too long for a Unix socket: choose a shorter one with --dir DIR",
        state.path().display()
    ))
}
