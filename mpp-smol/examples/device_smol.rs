//! A device on smol that remembers in a file how far it has got, so that a crash loses nothing:
//! `device_smol TICKET FILE [NOTIFICATIONS]`

use std::io::{self, Write as _};
use std::{env, fs};

use mpp_smol::Client;
use mpp_smol::proto::Resume;

/// Once the service has renewed the ticket, the new one is in what is kept.
fn write_private(path: &str, bytes: &[u8]) -> io::Result<()> {
    let mut options = fs::OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)?.write_all(bytes)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = env::args().skip(1).collect();
    let (Some(ticket), Some(file)) = (args.first(), args.get(1).cloned()) else {
        return Err("usage: device_smol TICKET FILE [NOTIFICATIONS]".into());
    };
    let wanted = args.get(2).map_or(Ok(usize::MAX), |n| n.parse())?;
    let mut builder = Client::builder(ticket.parse()?).manual_acknowledgement();
    // Without a file, or with one that was cut, the device starts anew and hears of a gap.
    if let Some(resume) = fs::read(&file).ok().and_then(|bytes| Resume::from_bytes(&bytes).ok()) {
        builder = builder.resume(resume);
    }
    let client = builder
        .on_resume(move |resume| {
            // The whole file or the old one, never half of it.
            let new = format!("{file}.new");
            if let Err(e) = write_private(&new, &resume.to_bytes()).and_then(|()| fs::rename(&new, &file)) {
                eprintln!("cannot save the position: {e}");
            }
        })
        .connect();
    smol::block_on(async {
        for _ in 0..wanted {
            let Some(notification) = client.next().await else { break };
            println!("{:?}", notification.kind);
            // Only now it has been dealt with.
            client.acknowledge(notification.position);
        }
        client.close().await;
    });
    Ok(())
}
