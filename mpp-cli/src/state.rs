//! The state directory and the way files in it are written.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use crate::failure::{Failure, Outcome, reason};

/// The directory that holds keys, the control socket and positions.
#[derive(Debug, Clone)]
pub(crate) struct StateDir {
    path: PathBuf,
    /// Whether it was named on the command line, so that it has to be named again in what to type next.
    named: bool,
}

impl StateDir {
    /// `named`, else `$XDG_STATE_HOME/mpp`, else `~/.local/state/mpp`. Nothing is made yet.
    pub(crate) fn new(named: Option<PathBuf>) -> Outcome<Self> {
        Self::choose(named, |name| std::env::var_os(name).map(PathBuf::from))
    }

    fn choose(named: Option<PathBuf>, env: impl Fn(&str) -> Option<PathBuf>) -> Outcome<Self> {
        if let Some(path) = named {
            return Ok(Self { path, named: true });
        }
        // A relative value is invalid and to be ignored, says the XDG Base Directory specification.
        let absolute = |name: &str| env(name).filter(|p| p.is_absolute());
        let path = absolute("XDG_STATE_HOME")
            .or_else(|| absolute("HOME").map(|home| home.join(".local/state")))
            .ok_or_else(|| {
                Failure::usage("there is no home directory to keep state in: name one with --dir DIR")
            })?;
        Ok(Self { path: path.join("mpp"), named: false })
    }

    /// Its path.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// ` --dir PATH` if it has to be said again, else nothing.
    pub(crate) fn argument(&self) -> String {
        if self.named {
            format!(" --dir {}", crate::text::shell_word(&self.path.to_string_lossy()))
        } else {
            String::new()
        }
    }

    /// The key file.
    pub(crate) fn keys(&self) -> PathBuf {
        self.path.join("service.keys")
    }

    /// The control socket.
    pub(crate) fn control(&self) -> PathBuf {
        self.path.join("control.sock")
    }

    /// Makes the directory, for this user only, if it is not there.
    pub(crate) fn create(&self) -> Outcome<()> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.path).map_err(|e| {
            Failure::new(format_args!(
                "cannot make the state directory {}: {}: choose another with --dir DIR",
                self.path.display(),
                reason(&e)
            ))
        })
    }

    /// Claims the directory for one running service. The claim ends with the process, however it ends.
    pub(crate) fn lock(&self) -> Outcome<File> {
        let path = self.path.join("service.lock");
        let failed = |e: io::Error| {
            Failure::new(format_args!(
                "cannot use {}: {}: choose another directory with --dir DIR",
                path.display(),
                reason(&e)
            ))
        };
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(failed)?;
        match file.try_lock() {
            Ok(()) => Ok(file),
            Err(TryLockError::WouldBlock) => Err(Failure::new(format_args!(
                "a service already runs with {}: stop it, or choose another directory with --dir DIR",
                self.path.display()
            ))),
            Err(TryLockError::Error(e)) => Err(failed(e)),
        }
    }
}

/// Replaces `path` by `bytes`, readable by this user only. A crash leaves the old file or the new one, never a part.
pub(crate) fn write_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(format!(".new{}", std::process::id()));
    let temporary = path.with_file_name(name);
    // One left behind by a crash under the same process id, possibly with another mode.
    match fs::remove_file(&temporary) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let write = || {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        file.write_all(bytes)?;
        file.sync_data()?;
        fs::rename(&temporary, path)
    };
    write().inspect_err(|_| {
        let _ = fs::remove_file(&temporary);
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn where_state_is_kept() {
        let env = |name: &str| match name {
            "XDG_STATE_HOME" => Some(PathBuf::from("/x")),
            _ => Some(PathBuf::from("/home/a")),
        };
        let named = StateDir::choose(Some("here".into()), env).unwrap();
        assert_eq!((named.path(), named.argument()), (Path::new("here"), " --dir here".to_owned()));
        let xdg = StateDir::choose(None, env).unwrap();
        assert_eq!((xdg.path(), xdg.argument()), (Path::new("/x/mpp"), String::new()));
        let home = StateDir::choose(None, |n| (n == "HOME").then(|| "/home/a".into())).unwrap();
        assert_eq!(home.path(), Path::new("/home/a/.local/state/mpp"));
        let relative =
            StateDir::choose(None, |n| Some(if n == "HOME" { "/h" } else { "rel" }.into())).unwrap();
        assert_eq!(relative.path(), Path::new("/h/.local/state/mpp"));
        assert_eq!(StateDir::choose(None, |_| None).unwrap_err().code, 2);
    }

    #[test]
    fn a_file_is_replaced_whole_and_private() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        fs::write(&path, b"an older and longer one").unwrap();
        write_private(&path, b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is left behind");
        assert!(write_private(&dir.path().join("no/such"), b"x").is_err());
    }

    #[test]
    fn one_service_per_directory() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir { path: dir.path().join("a/b"), named: true };
        state.create().unwrap();
        assert_eq!(fs::metadata(state.path()).unwrap().permissions().mode() & 0o777, 0o700);
        let held = state.lock().unwrap();
        assert!(state.lock().unwrap_err().to_string().contains("already runs"));
        drop(held);
        assert!(state.lock().is_ok());
    }
}
