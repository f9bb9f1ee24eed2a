//! How many packets the kernel threw away because a receive buffer was full.
//!
//! Linux tells it per packet (`SO_RXQ_OVFL`), which quinn-udp does not hand on, per socket (`SO_MEMINFO`), for which
//! there is no safe call, and in `/proc/net/udp`, where a socket is known by its inode. The last one costs nothing
//! until somebody asks.

use socket2::SockRef;

/// The inode of a socket.
#[cfg(target_os = "linux")]
pub(super) fn inode(socket: &SockRef<'_>) -> Option<u64> {
    use std::os::linux::fs::MetadataExt;
    let link = format!("/proc/self/fd/{}", super::number(socket));
    Some(std::fs::metadata(link).ok()?.st_ino())
}

#[cfg(not(target_os = "linux"))]
pub(super) fn inode(_: &SockRef<'_>) -> Option<u64> {
    None
}

/// Packets thrown away at these sockets since they were opened; `None` if the system does not say.
#[cfg(target_os = "linux")]
pub(crate) fn drops(inodes: &[u64]) -> Option<u64> {
    let tables = ["/proc/thread-self/net/udp", "/proc/thread-self/net/udp6"];
    let mut told = None;
    for table in tables {
        let Ok(table) = std::fs::read_to_string(table) else { continue };
        for (inode, drops) in table.lines().filter_map(row) {
            if inodes.contains(&inode) {
                *told.get_or_insert(0) += drops;
            }
        }
    }
    told
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn drops(_: &[u64]) -> Option<u64> {
    None
}

/// Inode and drops: the tenth and the last column.
#[cfg(target_os = "linux")]
fn row(line: &str) -> Option<(u64, u64)> {
    let mut columns = line.split_ascii_whitespace();
    Some((columns.nth(9)?.parse().ok()?, columns.last()?.parse().ok()?))
}
