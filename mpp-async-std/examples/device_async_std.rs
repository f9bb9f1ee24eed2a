//! A device on async-std that shows its connection and its notifications as streams: `device_async_std TICKET [NOTIFICATIONS]`

use async_std::stream::StreamExt;
use async_std::task;
use mpp_async_std::Client;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let ticket = args.next().ok_or("usage: device_async_std TICKET [NOTIFICATIONS]")?.parse()?;
    let wanted = args.next().map_or(Ok(usize::MAX), |n| n.parse())?;
    task::block_on(async {
        let client = Client::connect(ticket);
        let mut events = client.events();
        let shown = task::spawn(async move {
            while let Some(event) = events.next().await {
                println!("{event:?}");
            }
        });
        let mut notifications = (&client).take(wanted);
        while let Some(notification) = notifications.next().await {
            println!("{:?}", notification.kind);
            client.acknowledge(notification.position);
        }
        client.close().await;
        shown.await;
        Ok(())
    })
}
