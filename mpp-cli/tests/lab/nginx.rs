//! Debian's nginx in front of the service's HTTP port: TLS, and a patience that ends.

use std::fs;
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use tempfile::TempDir;

use crate::needs;
use crate::network::{Lab, SERVICE};

/// What the service is to be started with behind it.
pub(crate) const BEHIND: &[&str] = &["--web", "127.0.0.1", "--web-forwarded"];

/// An nginx on the service's machine, until it is dropped.
#[derive(Debug)]
pub(crate) struct Nginx {
    child: Child,
    dir: TempDir,
}

impl Nginx {
    /// Starts one that waits so many seconds for an answer; nothing where there is none, which has then been said.
    pub(crate) fn start(lab: &Lab, patience: u32) -> Option<Self> {
        needs::nginx_is_there().then(|| {
            let dir = tempfile::tempdir().unwrap();
            make_certificate(&dir);
            let place = dir.path().display();
            fs::write(dir.path().join("nginx.conf"), config(&place.to_string(), patience)).unwrap();
            let mut command = Command::new("nginx");
            command.arg("-p").arg(dir.path()).args(["-c", "nginx.conf", "-e", "stderr"]);
            // In the foreground, so that it ends with the test.
            command.args(["-g", "daemon off;"]).stdin(Stdio::null());
            let child = lab.service.enter(|| command.spawn()).expect("nginx starts");
            let mut nginx = Self { child, dir };
            nginx.wait(lab);
            nginx
        })
    }

    fn wait(&mut self, lab: &Lab) {
        let answers = |_| {
            sleep(Duration::from_millis(20));
            lab.service.enter(|| TcpStream::connect((SERVICE[0], 443))).is_ok()
        };
        assert!((0..250).any(answers), "nginx does not listen: {:?}", self.child.try_wait());
    }

    /// The file with its certificate.
    pub(crate) fn certificate(&self) -> String {
        self.dir.path().join("cert.pem").display().to_string()
    }

    /// Where devices find the service behind it.
    pub(crate) fn base(&self) -> String {
        format!("https://{}/presence", SERVICE[0])
    }

    /// How many requests have been answered with this status.
    pub(crate) fn answered(&self, status: u16) -> usize {
        let log = fs::read_to_string(self.dir.path().join("access.log")).unwrap();
        log.lines().filter(|line| *line == status.to_string()).count()
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // Its worker ends with the namespace.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn config(dir: &str, patience: u32) -> String {
    let kept: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|what| format!("{what}_temp_path {dir}/{what};\n"))
        .concat();
    let address = SERVICE[0];
    format!(
        "
        user root;
        worker_processes 1;
        pid {dir}/pid;
        error_log stderr crit;
        events {{ worker_connections 256; }}
        http {{
            {kept}
            log_format status $status;
            access_log {dir}/access.log status;
            server {{
                listen {address}:443 ssl;
                ssl_certificate {dir}/cert.pem;
                ssl_certificate_key {dir}/key.pem;
                location /presence/ {{
                    proxy_pass http://127.0.0.1:15097/;
                    proxy_http_version 1.1;
                    proxy_set_header Connection \"\";
                    proxy_set_header X-Forwarded-For $remote_addr;
                    proxy_read_timeout {patience}s;
                }}
            }}
        }}
        "
    )
}

/// For the service's first address, and nothing else. It vouches for itself, so it says that it is no issuer.
fn make_certificate(dir: &TempDir) {
    let mut parameters = rcgen::CertificateParams::new(vec![SERVICE[0].to_string()]).unwrap();
    parameters.is_ca = rcgen::IsCa::ExplicitNoCa;
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = parameters.self_signed(&key).unwrap();
    fs::write(dir.path().join("key.pem"), key.serialize_pem()).unwrap();
    fs::write(dir.path().join("cert.pem"), certificate.pem()).unwrap();
}
