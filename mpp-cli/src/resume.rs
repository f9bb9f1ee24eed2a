//! The resume file of `mpp watch`: what the device has taken, so that a restart misses nothing and repeats nothing.
//!
//! `mpp resume 1`, a line feed, 16 bytes that name account and device, then what the protocol core keeps. Readable by
//! its owner only: once the service has renewed the ticket, the new one is in it.

use std::fs;
use std::io;
use std::path::PathBuf;

use mpp_tokio::proto::{Resume, Ticket};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use crate::failure::{Failure, Outcome, reason};
use crate::state::{StateDir, write_private};
use crate::text::{hex, shell_word};

const MAGIC: &[u8] = b"mpp resume 1\n";
const NAME: usize = 16;

/// Where the position of one device is kept.
#[derive(Debug)]
pub(crate) struct ResumeFile {
    path: PathBuf,
    device: [u8; NAME],
    /// What is on the disk, so that the same is not written again.
    written: Option<Resume>,
}

impl ResumeFile {
    /// The file `named`, or that of the ticket's device in the state directory, and what it holds.
    pub(crate) fn open(
        named: Option<PathBuf>,
        state: &StateDir,
        ticket: &Ticket,
    ) -> Outcome<(Self, Option<Resume>)> {
        let device = name(ticket);
        let path = match named {
            Some(path) => path,
            None => {
                state.create()?;
                state.path().join(format!("watch-{}.resume", hex(&device)))
            }
        };
        let mut file = Self { path, device, written: None };
        let bytes = match fs::read(&file.path) {
            Ok(bytes) => Zeroizing::new(bytes),
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok((file, None)),
            Err(e) => {
                return Err(Failure::new(format_args!(
                    "cannot read the resume file {}: {}: name another with --resume FILE",
                    file.path.display(),
                    reason(&e)
                )));
            }
        };
        let resume = file.parse(&bytes).map_err(|what| {
            Failure::new(format_args!(
                "the resume file {} {what}: name another with --resume FILE, or remove it with 'rm {}' (what was missed \
                 is then announced, not repeated)",
                file.path.display(),
                shell_word(&file.path.to_string_lossy())
            ))
        })?;
        file.written = Some(resume.clone());
        Ok((file, Some(resume)))
    }

    fn parse(&self, bytes: &[u8]) -> Result<Resume, &'static str> {
        let rest = bytes.strip_prefix(MAGIC).ok_or("is no resume file, or of another version")?;
        let (device, resume) = rest.split_at_checked(NAME).ok_or("is cut short")?;
        if device != self.device {
            return Err("belongs to another account or device");
        }
        Resume::from_bytes(resume).map_err(|_| "is damaged")
    }

    /// Replaces what is kept.
    pub(crate) fn save(&mut self, resume: &Resume) -> Outcome<()> {
        if self.written.as_ref() == Some(resume) {
            return Ok(());
        }
        let bytes = Zeroizing::new([MAGIC, &self.device, &resume.to_bytes()].concat());
        write_private(&self.path, &bytes).map_err(|e| {
            Failure::new(format_args!(
                "cannot write the resume file {}: {}: what was printed will come again",
                self.path.display(),
                reason(&e)
            ))
        })?;
        self.written = Some(resume.clone());
        Ok(())
    }
}

/// The name of a device: no two accounts and devices share it, and it shows neither.
fn name(ticket: &Ticket) -> [u8; NAME] {
    let digest = Sha256::new()
        .chain_update(b"mpp resume 1")
        .chain_update(ticket.device().0)
        .chain_update(ticket.account().as_bytes())
        .finalize();
    let mut out = [0; NAME];
    out.copy_from_slice(&digest[..NAME]);
    out
}
