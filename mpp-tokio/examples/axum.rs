//! A presence service inside of an axum application: a request handler posts to the devices of an account, and another one
//! answers devices whose networks have no UDP.
//!
//! Shows itself: it starts both, connects a device by UDP and one by HTTP, sends one request, and ends when both devices
//! have the event.

use std::error::Error;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::body::Bytes;
use axum::extract::{ConnectInfo, Path, Request, State};
use axum::http::{Response, StatusCode};
use axum::routing::post;
use mpp_tokio::proto::{
    AccountHead, AccountId, DeviceId, Endpoint, Event, PublishError, Rights, ServiceConfig, ServiceSecret,
    StoreId, TicketKey, TicketSpec, UnixTime,
};
use mpp_tokio::{Client, Service, Web, WebBody};
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

/// `POST /.well-known/mmmpresence`: devices whose networks have no UDP. axum drops the future of a request whose client hangs
/// up, which is how the service hears of it.
async fn web(
    State(service): State<Service>,
    ConnectInfo(remote): ConnectInfo<SocketAddr>,
    request: Request,
) -> Response<WebBody> {
    service.web().handle(remote, request).await
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
    let app = Router::new()
        .route("/accounts/{account}/inbound", post(publish))
        .route(Web::PATH, post(web))
        .with_state(service.clone())
        .into_make_service_with_connect_info::<SocketAddr>();
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move { axum::serve(listener, app).await });

    let issued = UnixTime::from_millis(SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis() as u64);
    let ticket = |device: u8, udp: SocketAddr| {
        let spec = TicketSpec {
            endpoints: vec![Endpoint::Address(udp)],
            account: "alice".into(),
            device: DeviceId([device; 16]),
            rights: Rights::default(),
            issued,
            expiry: issued + Duration::from_secs(3600),
        };
        // The second half is needed only where the Web is not on port 15097.
        key.mint(&spec, &random())?.with_web(vec![format!("http://{address}")])
    };
    let phone = Client::connect(ticket(1, service.local_addrs()[0])?);
    phone.connected().await?;
    // A socket that nobody reads: to the laptop, it is as if UDP did not pass.
    let wall = std::net::UdpSocket::bind("127.0.0.1:0")?;
    let laptop = Client::connect(ticket(2, wall.local_addr()?)?);
    laptop.connected().await?;
    println!("the phone goes by {:?}, the laptop by {:?}", phone.transport(), laptop.transport());

    let mut request = TcpStream::connect(address).await?;
    let head = "POST /accounts/alice/inbound HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n";
    request.write_all(format!("{head}Content-Length: 5\r\n\r\nhello").as_bytes()).await?;
    let mut answer = String::new();
    request.read_to_string(&mut answer).await?;
    println!("the web: {}", answer.lines().next().unwrap_or_default());
    for (name, device) in [("phone", &phone), ("laptop", &laptop)] {
        println!("the {name}: {:?}", device.next().await.ok_or("the device was closed")?.kind);
    }

    laptop.close().await;
    phone.close().await;
    service.shutdown(Duration::from_secs(2)).await;
    Ok(())
}

#[test]
fn it_ends() {
    main().unwrap();
}
