//! A device on tokio that prints what happens in its account: `device_tokio TICKET [NOTIFICATIONS]`

use mpp_tokio::Client;
use mpp_tokio::proto::NotificationKind;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let ticket = args.next().ok_or("usage: device_tokio TICKET [NOTIFICATIONS]")?.parse()?;
    let mut wanted = args.next().map_or(Ok(usize::MAX), |n| n.parse::<usize>())?;
    let client = Client::connect(ticket);
    println!("connected: {:?}", client.connected().await?);
    while wanted > 0
        && let Some(notification) = client.next().await
    {
        match &notification.kind {
            NotificationKind::Event { store, payload, .. } => println!("{store}: {} bytes", payload.len()),
            NotificationKind::Changed(stores) => println!("changed: {stores}"),
            NotificationKind::Gap(stores) => println!("something was lost, read again: {stores}"),
            other => println!("{other:?}"),
        }
        wanted -= 1;
        // Taking the next one would say that this one has been dealt with; after the last one, this does.
        client.acknowledge(notification.position);
    }
    client.close().await;
    Ok(())
}
