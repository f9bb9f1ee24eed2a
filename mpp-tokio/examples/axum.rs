//! A presence service inside of an axum application: a request handler posts to the devices of an account.
//!
//! Shows itself: it starts both, connects a device, sends one request, and ends when the device has the event.

use std::error::Error;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::post;
use mpp_tokio::proto::{
    AccountHead, AccountId, DeviceId, Endpoint, Event, PublishError, Rights, ServiceConfig, ServiceSecret,
    StoreId, TicketKey, TicketSpec, UnixTime,
};
use mpp_tokio::{Client, Service};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// `POST /accounts/{account}/inbound`: the body goes to the devices of the account, the answer is its serial. The
/// handle on the service is cheap to clone, and publishing never waits: nothing here blocks the server.
async fn publish(
    State(service): State<Service>,
    Path(account): Path<String>,
    body: Bytes,
) -> Result<(StatusCode, String), (StatusCode, String)> {
    match service.publish(&account, Event::with_payload(StoreId::INBOUND, body)) {
        Ok(serial) => Ok((StatusCode::CREATED, format!("{serial}\n"))),
        Err(e @ PublishError::UnknownAccount) => Err((StatusCode::NOT_FOUND, format!("{e}\n"))),
        Err(e @ PublishError::Event(_)) => Err((StatusCode::BAD_REQUEST, format!("{e}\n"))),
        Err(e) => Err((StatusCode::SERVICE_UNAVAILABLE, format!("{e}\n"))),
    }
}

fn random() -> [u8; 32] {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).expect("the system has random bytes");
    bytes
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    // A real application keeps the key and the secret, or tickets die with it.
    let key = TicketKey::new([0, 0, 0, 1], random());
    let config = ServiceConfig::new(ServiceSecret::new(random()), vec![key.clone()]);
    let service = Service::bind("127.0.0.1:0", config)?;
    service.restore(AccountHead::new(AccountId::of("alice")))?;
    let app = Router::new().route("/accounts/{account}/inbound", post(publish)).with_state(service.clone());
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let web = listener.local_addr()?;
    tokio::spawn(async move { axum::serve(listener, app).await });

    let issued = UnixTime::from_millis(SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis() as u64);
    let spec = TicketSpec {
        endpoints: vec![Endpoint::Address(service.local_addrs()[0])],
        account: "alice".into(),
        device: DeviceId([1; 16]),
        rights: Rights::default(),
        issued,
        expiry: issued + Duration::from_secs(3600),
    };
    let device = Client::connect(key.mint(&spec, &random())?);
    device.connected().await?;

    let mut request = TcpStream::connect(web).await?;
    let head = "POST /accounts/alice/inbound HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n";
    request.write_all(format!("{head}Content-Length: 5\r\n\r\nhello").as_bytes()).await?;
    let mut answer = String::new();
    request.read_to_string(&mut answer).await?;
    println!("the web: {}", answer.lines().next().unwrap_or_default());
    println!("the device: {:?}", device.next().await.ok_or("the device was closed")?.kind);

    device.close().await;
    service.shutdown(Duration::from_secs(2)).await;
    Ok(())
}

#[test]
fn it_ends() {
    main().unwrap();
}
