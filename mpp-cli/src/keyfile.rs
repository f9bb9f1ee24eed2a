//! The key file of a service: its secret and its ticket keys, as text with a checksum.
//!
//! ```text
//! mpp keys 1
//! secret <64 hex digits>
//! ticket <8 hex digits: key id> <64 hex digits: key>      one line per key; the first seals, all open
//! check <16 hex digits: first 8 bytes of SHA-256 over everything above>
//! ```
//! Empty lines and lines that begin with `#` are allowed above `check`. The checksum is against accidents (a file cut
//! by a full disk or changed by an editor), not against people: whoever can write the file can read it.

use std::fs::{self, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use mpp_tokio::proto::{ServiceSecret, TicketKey};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use crate::failure::{Failure, Outcome, reason};
use crate::state::write_private;
use crate::text::{hex, unhex};

const HEADER: &str = "mpp keys 1";
/// Room for some hundred ticket keys.
const MAX_SIZE: u64 = 64 * 1024;

/// The keys of a service.
pub(crate) struct Keys {
    secret: Zeroizing<[u8; 32]>,
    /// At least one.
    tickets: Vec<([u8; 4], Zeroizing<[u8; 32]>)>,
}

impl Keys {
    /// Fresh keys from the operating system's generator.
    pub(crate) fn generate() -> Outcome<Self> {
        Ok(Self { secret: random()?, tickets: vec![(*random::<4>()?, random()?)] })
    }

    /// The service secret.
    pub(crate) fn secret(&self) -> ServiceSecret {
        ServiceSecret::new(*self.secret)
    }

    /// The ticket keys, the sealing one first.
    pub(crate) fn ticket_keys(&self) -> Vec<TicketKey> {
        self.tickets.iter().map(|(id, key)| TicketKey::new(*id, **key)).collect()
    }

    /// Reads the key file.
    pub(crate) fn load(path: &Path) -> Outcome<Self> {
        let failed = |e: &io::Error| {
            if e.kind() == io::ErrorKind::NotFound {
                Failure::new(format_args!(
                    "there is no key file {}: start 'mpp serve' once, it makes one",
                    path.display()
                ))
            } else {
                Failure::new(format_args!("cannot read the key file {}: {}", path.display(), reason(e)))
            }
        };
        // Without O_NONBLOCK a named pipe in its place would hang the program.
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(nix::libc::O_NONBLOCK)
            .open(path)
            .map_err(|e| failed(&e))?;
        let meta = file.metadata().map_err(|e| failed(&e))?;
        if !meta.is_file() {
            return Err(Failure::new(format_args!(
                "the key file {} is not a file: move it away",
                path.display()
            )));
        }
        if meta.mode() & 0o077 != 0 {
            return Err(Failure::new(format_args!(
                "the key file {} is open to other users: close it with 'chmod 600 {}', and if somebody may have read it, \
                 remove it, so that 'mpp serve' makes new keys",
                path.display(),
                crate::text::shell_word(&path.to_string_lossy())
            )));
        }
        // The size is known and its room taken before reading: no copy of a key is left behind by a growing buffer.
        let mut text = Zeroizing::new(String::with_capacity(MAX_SIZE as usize + 1));
        file.take(MAX_SIZE).read_to_string(&mut text).map_err(|e| failed(&e))?;
        Self::parse(&text).map_err(|what| {
            Failure::new(format_args!(
                "{} is not a key file that can be used ({what}): restore it from a backup, or move it away, so that \
                 'mpp serve' makes new keys (then every device needs a new ticket)",
                path.display()
            ))
        })
    }

    /// Reads the key file, or makes it if there is none; then the second value is true.
    pub(crate) fn load_or_create(path: &Path) -> Outcome<(Self, bool)> {
        match fs::symlink_metadata(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            _ => return Ok((Self::load(path)?, false)),
        }
        let keys = Self::generate()?;
        write_private(path, keys.to_text().as_bytes()).map_err(|e| {
            Failure::new(format_args!(
                "cannot write the key file {}: {}: choose another directory with --dir DIR",
                path.display(),
                reason(&e)
            ))
        })?;
        Ok((keys, true))
    }

    fn to_text(&self) -> Zeroizing<String> {
        let mut text = Zeroizing::new(String::with_capacity(512 + self.tickets.len() * 128));
        text.push_str(HEADER);
        text.push_str(
            "\n# Secret: whoever has this file can make tickets for every account of this service.\nsecret ",
        );
        text.push_str(&Zeroizing::new(hex(&*self.secret)));
        for (id, key) in &self.tickets {
            text.push_str("\nticket ");
            text.push_str(&hex(id));
            text.push(' ');
            text.push_str(&Zeroizing::new(hex(&**key)));
        }
        text.push('\n');
        let check = checksum(&text);
        text.push_str("check ");
        text.push_str(&check);
        text.push('\n');
        text
    }

    /// The error says what is wrong, and nothing of the content.
    fn parse(text: &str) -> Result<Self, &'static str> {
        if text.lines().next() != Some(HEADER) {
            return Err("its first line is not 'mpp keys 1'");
        }
        let body = text.find("\ncheck ").ok_or("it is cut short: the line 'check' is missing")? + 1;
        let (body, check) = text.split_at(body);
        if check.trim_end().strip_prefix("check ") != Some(&checksum(body)) {
            return Err("its checksum does not fit: it was cut or changed");
        }
        let mut secret = None;
        let mut tickets = Vec::new();
        for line in body.lines().skip(1).filter(|l| !l.is_empty() && !l.starts_with('#')) {
            let mut words = line.split(' ');
            match (words.next(), words.next(), words.next(), words.next()) {
                (Some("secret"), Some(key), None, None) if secret.is_none() => secret = Some(fixed(key)?),
                (Some("ticket"), Some(id), Some(key), None) => tickets.push((*fixed(id)?, fixed(key)?)),
                _ => return Err("a line in it is not understood"),
            }
        }
        if tickets.is_empty() {
            return Err("it holds no ticket key");
        }
        Ok(Self { secret: secret.ok_or("it holds no secret")?, tickets })
    }
}

fn fixed<const N: usize>(text: &str) -> Result<Zeroizing<[u8; N]>, &'static str> {
    let bytes = Zeroizing::new(unhex(text).ok_or("a key in it is not hexadecimal")?);
    let mut out = Zeroizing::new([0; N]);
    if bytes.len() != N {
        return Err("a key in it has the wrong length");
    }
    out.copy_from_slice(&bytes);
    Ok(out)
}

fn checksum(body: &str) -> String {
    hex(&Sha256::digest(body.as_bytes())[..8])
}

/// Bytes from the operating system's generator.
pub(crate) fn random<const N: usize>() -> Outcome<Zeroizing<[u8; N]>> {
    let mut out = Zeroizing::new([0; N]);
    getrandom::fill(&mut *out).map_err(|e| {
        Failure::new(format_args!("the system gives no random numbers ({e}): nothing can be kept secret"))
    })?;
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    fn error(path: &Path) -> String {
        Keys::load(path).err().expect("refused").to_string()
    }

    #[test]
    fn made_once_private_and_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("service.keys");
        let (made, new) = Keys::load_or_create(&path).unwrap();
        assert!(new);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let (read, new) = Keys::load_or_create(&path).unwrap();
        assert!(!new);
        assert_eq!(made.secret, read.secret);
        assert!(made.tickets == read.tickets);
        assert_ne!(*made.secret, *Keys::generate().unwrap().secret);
    }

    #[test]
    fn open_to_others_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("service.keys");
        Keys::load_or_create(&path).unwrap();
        for mode in [0o640, 0o604, 0o620, 0o666] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            assert!(error(&path).contains("chmod 600"), "{mode:o}");
        }
    }

    #[test]
    fn every_cut_and_every_changed_letter_is_refused_without_showing_a_key() {
        let text = Keys::generate().unwrap().to_text();
        assert!(Keys::parse(&text).is_ok());
        let secret = text.lines().find_map(|l| l.strip_prefix("secret ")).unwrap();
        for end in 0..text.len() - 1 {
            let error = Keys::parse(&text[..end]).err().expect("refused");
            assert!(!error.contains(&secret[..8]), "{error}");
        }
        for at in 0..text.len() - 1 {
            let mut changed = text.as_bytes().to_vec();
            changed[at] ^= 1;
            if let Ok(changed) = std::str::from_utf8(&changed) {
                assert!(Keys::parse(changed).is_err(), "letter {at}");
            }
        }
    }

    #[test]
    fn several_ticket_keys_and_comments() {
        let mut keys = Keys::generate().unwrap();
        keys.tickets.push(([1, 2, 3, 4], Zeroizing::new([9; 32])));
        let read = Keys::parse(&keys.to_text()).unwrap();
        assert_eq!(read.tickets.len(), 2);
        assert!(read.tickets == keys.tickets, "their order matters: the first seals");
    }

    #[test]
    fn what_is_no_key_file_says_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("service.keys");
        assert!(error(&path).contains("mpp serve"));
        write_private(&path, b"hello\n").unwrap();
        assert!(error(&path).contains("backup"));
        write_private(&path, &[0xff; 100]).unwrap();
        assert!(!error(&path).is_empty());
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert!(error(&path).contains("not a file"));
        // Never replaced by new keys: what stands there may be all somebody has.
        assert!(Keys::load_or_create(&path).is_err());
    }
}
