//! Networks without UDP: devices go by HTTP (F9).

use std::io::Write as _;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use mpp_tokio::Client;
use mpp_tokio::proto::{NotificationKind, Ticket, Transport};
use tokio::runtime::Builder;
use tokio::time::timeout;

use crate::network::{Lab, Network, SERVICE};
use crate::play::{AT_ONCE, Device, HEARTBEAT, LATE, Play};
use crate::rules::{Nat, Trouble};
use crate::support::Home;

const PORT_RESTRICTED: Network = Network::Behind(Nat::PortRestricted);
/// UDP is silent for 3 s before the Web is tried; what a person waits for comes within this time of the start.
const FIRST: Duration = Duration::from_secs(5);
/// UDP is tried again so often.
const AGAIN: Duration = Duration::from_secs(60);

impl Device<'_> {
    /// Waits until it says that it goes by this transport now.
    fn goes_by(&mut self, transport: &str, limit: Duration) {
        assert_eq!(self.told("transport", limit)["transport"], transport);
    }
}

/// The first notification comes within 5 s of the start, whatever stops UDP; once it passes it is used again.
fn the_first_notification_comes_by_web(trouble: Trouble) {
    let Some(lab) = Lab::open(PORT_RESTRICTED) else { return };
    lab.trouble(trouble);
    let play = Play::on(lab);
    let start = Instant::now();
    let mut device = play.start_device(&play.ticket(), HEARTBEAT);
    device.connected(FIRST);
    device.hears_a_post(AT_ONCE);
    assert!(start.elapsed() < FIRST, "{:?}", start.elapsed());
    device.goes_by("web", AT_ONCE);
    for _ in 0..3 {
        device.hears_a_post(AT_ONCE);
    }
    play.lab.no_trouble();
    device.goes_by("udp", AGAIN);
    device.hears_a_post(AT_ONCE);
    device.end_connected();
}

#[test]
fn udp_is_dropped_and_http_is_not() {
    the_first_notification_comes_by_web(Trouble::Silence);
}

#[test]
fn udp_is_forbidden_and_http_is_not() {
    the_first_notification_comes_by_web(Trouble::Forbidden);
}

/// UDP goes and comes back ten times: nothing is lost or doubled.
#[test]
fn ten_changes_of_the_transport() {
    let Some(lab) = Lab::open(PORT_RESTRICTED) else { return };
    let play = Play::on(lab);
    let ticket: Ticket = play.ticket().parse().unwrap();
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let story = async {
        let client = Client::builder(ticket).interval(HEARTBEAT).connect();
        timeout(LATE, client.connected()).await.expect("it connects").unwrap();
        let mut posted = 0;
        for change in 0..10 {
            let (transport, limit) = if change % 2 == 0 {
                play.lab.trouble([Trouble::Silence, Trouble::Forbidden][change / 2 % 2]);
                // A heartbeat, and its silence.
                (Transport::Web, HEARTBEAT + Duration::from_secs(3))
            } else {
                play.lab.no_trouble();
                // Else it would take a minute.
                client.network_changed(None);
                (Transport::Udp, AT_ONCE)
            };
            let first = posted;
            let post = |posted: &mut u32| {
                play.post(&posted.to_string());
                *posted += 1;
            };
            post(&mut posted);
            let changed = async {
                while client.transport() != transport {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            };
            timeout(limit + LATE, changed).await.unwrap_or_else(|_| panic!("change {change} does not come"));
            post(&mut posted);
            for number in first..posted {
                let heard = timeout(HEARTBEAT + LATE, client.next()).await.expect("it is heard").unwrap();
                let NotificationKind::Event { payload, .. } = heard.kind else { panic!("{heard:?}") };
                assert_eq!(payload, number.to_string(), "change {change}");
            }
        }
        let more = timeout(Duration::from_millis(500), client.next()).await;
        assert!(more.is_err(), "something came twice: {more:?}");
        client.close().await;
    };
    play.lab.device.enter(|| runtime.block_on(story));
}

/// nginx with TLS before the service, with a certificate that vouches for itself. It is killed with this.
struct Nginx {
    child: Child,
    home: Home,
}

impl Nginx {
    /// Starts it in the service's namespace. It cuts requests that are idle for so many seconds. Nothing, if this machine
    /// has none.
    fn before(play: &Play, seconds: u32) -> Option<Self> {
        let found = Command::new("nginx").arg("-v").stderr(Stdio::null()).status();
        if found.is_err() {
            // Not by a macro, whose words the test harness would keep to itself.
            let _ = writeln!(std::io::stderr(), "lab: skipped: there is no program 'nginx'");
            return None;
        }
        let home = Home::new();
        let mut name = rcgen::CertificateParams::new(vec![SERVICE[0].to_string()]).unwrap();
        name.is_ca = rcgen::IsCa::ExplicitNoCa;
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = name.self_signed(&key).unwrap();
        std::fs::write(home.path("key.pem"), key.serialize_pem()).unwrap();
        std::fs::write(home.path("cert.pem"), certificate.pem()).unwrap();
        let directory = home.path("");
        let directory = directory.display();
        let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|kind| format!("{kind}_temp_path {directory}/{kind};\n"))
            .concat();
        let config = format!(
            "
            daemon off;
            user root;
            pid {directory}/pid;
            error_log stderr;
            events {{ worker_connections 64; }}
            http {{
                access_log off;
                {temporary}
                server {{
                    listen 443 ssl;
                    ssl_certificate {directory}/cert.pem;
                    ssl_certificate_key {directory}/key.pem;
                    location /here/ {{
                        proxy_pass http://127.0.0.1:15097/;
                        proxy_http_version 1.1;
                        proxy_set_header Connection \"\";
                        proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
                        proxy_read_timeout {seconds}s;
                    }}
                }}
            }}
            "
        );
        std::fs::write(home.path("nginx.conf"), config).unwrap();
        let child = play.lab.service.enter(|| {
            Command::new("nginx")
                .arg("-p")
                .arg(home.path(""))
                .arg("-c")
                .arg(home.path("nginx.conf"))
                .spawn()
                .expect("nginx starts")
        });
        let nginx = Self { child, home };
        let there = || play.lab.service.enter(|| std::net::TcpStream::connect((SERVICE[0], 443)).is_ok());
        let begin = Instant::now();
        while !there() {
            assert!(begin.elapsed() < Duration::from_secs(10), "nginx does not listen");
            std::thread::sleep(Duration::from_millis(20));
        }
        Some(nginx)
    }

    /// A device that goes by it.
    fn device<'a>(&self, play: &'a Play) -> Device<'a> {
        let ticket = play.ticket_with(&["--web", &format!("https://{}/here", SERVICE[0])]);
        let roots = self.home.path("cert.pem");
        play.start_device_with(&ticket, Duration::from_secs(25), &["--web-roots", roots.to_str().unwrap()])
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_proxy_with_tls_is_before_the_service() {
    let Some(lab) = Lab::open(PORT_RESTRICTED) else { return };
    lab.trouble(Trouble::Silence);
    let play = Play::on_with(lab, &["--web", "127.0.0.1", "--web-forwarded"]);
    let Some(nginx) = Nginx::before(&play, 75) else { return };
    let start = Instant::now();
    let mut device = nginx.device(&play);
    device.connected(FIRST);
    device.hears_a_post(AT_ONCE);
    assert!(start.elapsed() < FIRST, "{:?}", start.elapsed());
    device.goes_by("web", AT_ONCE);
    for i in 0..6 {
        device.post_text(&format!("{i} {}", "large ".repeat(1000)));
        device.hears(AT_ONCE);
    }
    play.lab.no_trouble();
    device.goes_by("udp", AGAIN);
    device.hears_a_post(AT_ONCE);
    device.end_connected();
}

/// A device asks for more than the proxy allows, is cut once, and asks for less from then on.
#[test]
fn a_proxy_cuts_requests_that_are_idle_for_30_s() {
    let Some(lab) = Lab::open(PORT_RESTRICTED) else { return };
    lab.trouble(Trouble::Silence);
    let play = Play::on_with(lab, &["--web", "127.0.0.1", "--web-forwarded"]);
    let Some(nginx) = Nginx::before(&play, 30) else { return };
    let mut device = nginx.device(&play);
    device.connected(FIRST);
    device.hears_a_post(AT_ONCE);
    // The first is cut after 30 s, the second is not.
    std::thread::sleep(Duration::from_secs(35));
    device.hears_a_post(AT_ONCE);
    std::thread::sleep(Duration::from_secs(29));
    device.hears_a_post(AT_ONCE);
    device.end_connected();
}
