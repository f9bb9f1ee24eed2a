//! Running the examples of the adapters.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::{ALICE, Kit, World, numbered, ticket};

/// Runs the example `name`, which gets a ticket, `more`, and the number of notifications after which it ends.
pub async fn an_example_gets_its_notifications<K: Kit>(w: World<K>, name: &str, more: Option<PathBuf>) {
    const NOTIFICATIONS: u64 = 3;
    let (service, address) = w.service();
    let mut example = start(name, |command| {
        command
            .arg(&**ticket(1, address).to_text())
            .args(more)
            .arg(NOTIFICATIONS.to_string())
            .stdout(Stdio::null());
    });
    w.until(30, "the example to connect", || !service.devices(ALICE).is_empty()).await;
    for n in 1..=NOTIFICATIONS {
        service.publish(ALICE, numbered(n)).unwrap();
    }
    w.within(30, "the example to end", async {
        loop {
            if let Some(status) = example.try_wait().unwrap() {
                return assert!(status.success(), "{name}: {status}");
            }
            w.sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

/// Runs the example `name`, which measures how often an idle client wakes its thread, for a short time.
pub fn an_idle_client_wakes_its_thread_at_its_deadlines_only(name: &str) {
    if cfg!(target_os = "linux") {
        let short = |command: &mut Command| {
            command.args(["16", "5"]);
        };
        let status = start(name, short).wait().unwrap();
        assert!(status.success(), "{name}: {status}");
    }
}

fn start(name: &str, arguments: impl FnOnce(&mut Command)) -> Child {
    let mut path = std::env::current_exe().expect("the test's own path");
    path.pop();
    path.set_file_name("examples");
    path.push(format!("{name}{}", std::env::consts::EXE_SUFFIX));
    let mut command = Command::new(&path);
    arguments(&mut command);
    command.spawn().unwrap_or_else(|e| {
        panic!("{}: {e}; `cargo test` builds it unless it is told not to", path.display())
    })
}
