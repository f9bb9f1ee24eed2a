//! Running the examples of the adapters.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::{ALICE, Kit, World, numbered, ticket};

/// Runs the example `name`, which gets a ticket, `more`, and the number of notifications after which it ends.
pub async fn an_example_gets_its_notifications<K: Kit>(w: World<K>, name: &str, more: Option<PathBuf>) {
    const NOTIFICATIONS: u64 = 3;
    let (service, address) = w.service();
    let mut path = std::env::current_exe().expect("the test's own path");
    path.pop();
    path.set_file_name("examples");
    path.push(format!("{name}{}", std::env::consts::EXE_SUFFIX));
    let mut example = Command::new(&path)
        .arg(&**ticket(1, address).to_text())
        .args(more)
        .arg(NOTIFICATIONS.to_string())
        .stdout(Stdio::null())
        .spawn()
        .unwrap_or_else(|e| {
            panic!("{}: {e}; `cargo test` builds it unless it is told not to", path.display())
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
