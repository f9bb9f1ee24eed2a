//! Files of certificates to trust beside those of the system.

use std::fmt::Display;
use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use crate::failure::{Failure, Outcome, reason};

/// A system's whole list of certificates is some hundred kilobytes.
const MAX: u64 = 4 * 1024 * 1024;

/// The content of such a file.
pub(crate) fn read(path: &Path) -> Outcome<Vec<u8>> {
    let failed = |e: std::io::Error| {
        Failure::new(format_args!("cannot read the certificates in {}: {}", path.display(), reason(&e)))
    };
    let mut bytes = Vec::new();
    File::open(path).and_then(|file| file.take(MAX).read_to_end(&mut bytes)).map_err(failed)?;
    Ok(bytes)
}

/// It holds something else.
pub(crate) fn none_in(path: &Path, why: impl Display) -> Failure {
    Failure::new(format_args!("no certificates in {}: {why}", path.display()))
}
