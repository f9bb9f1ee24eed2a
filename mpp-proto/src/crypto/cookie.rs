//! The challenge of ResponderDefer (SPEC.md, "Challenge") and the echo of probes (SPEC.md, "Probes"): proof that an
//! address receives what is sent to it, without remembering whom it was sent to.

use core::net::{IpAddr, SocketAddr};

use zeroize::Zeroizing;

use super::hash::{hmac_16, same, sha256};
use super::secret::ServiceSecret;
use crate::time::UnixTime;

/// How long one key makes challenges, in milliseconds. A challenge is good for one to two of these.
const BUCKET_MS: u64 = 15_000;

/// Makes and checks a service's challenges.
#[derive(Clone)]
pub(crate) struct Cookies(ServiceSecret);

impl Cookies {
    pub(crate) fn new(service: &ServiceSecret) -> Self {
        Self(service.clone())
    }

    /// The challenge for step 1 of an exchange that came from `remote` with this initiator random, handshake
    /// identifier and token.
    pub(crate) fn challenge(
        &self,
        now: UnixTime,
        remote: SocketAddr,
        random: &[u8; 16],
        handshake: &[u8; 8],
        token: &[u8],
    ) -> [u8; 16] {
        self.of_bucket(now.as_millis() / BUCKET_MS, remote, random, handshake, &sha256(&[token]))
    }

    /// Whether `echo` is the challenge of this or the previous 15 s.
    pub(crate) fn check(
        &self,
        now: UnixTime,
        echo: &[u8; 16],
        remote: SocketAddr,
        random: &[u8; 16],
        handshake: &[u8; 8],
        token: &[u8],
    ) -> bool {
        let token = sha256(&[token]);
        let bucket = now.as_millis() / BUCKET_MS;
        let at = |bucket| same(&self.of_bucket(bucket, remote, random, handshake, &token), echo);
        // Both are always worked out: which of them matched is nobody's business.
        at(bucket) | at(bucket.saturating_sub(1))
    }

    /// What an EndpointResponse to `remote` brings, of the connection with this packed id.
    pub(crate) fn probe_echo(&self, now: UnixTime, remote: SocketAddr, connection: u64) -> [u8; 16] {
        self.echo_of_bucket(now.as_millis() / BUCKET_MS, remote, connection)
    }

    /// Whether `echo` is what went there within this or the previous 15 s.
    pub(crate) fn check_probe_echo(
        &self,
        now: UnixTime,
        echo: &[u8; 16],
        remote: SocketAddr,
        connection: u64,
    ) -> bool {
        let bucket = now.as_millis() / BUCKET_MS;
        let made_in = |bucket| same(&self.echo_of_bucket(bucket, remote, connection), echo);
        made_in(bucket) | made_in(bucket.saturating_sub(1))
    }

    fn of_bucket(
        &self,
        bucket: u64,
        remote: SocketAddr,
        random: &[u8; 16],
        handshake: &[u8; 8],
        token_digest: &[u8; 32],
    ) -> [u8; 16] {
        let key: Zeroizing<[u8; 32]> = self.0.derive(&[b"mpp1 cookie", &bucket.to_be_bytes()]);
        of_address(&key, remote, [random, handshake, token_digest])
    }

    fn echo_of_bucket(&self, bucket: u64, remote: SocketAddr, connection: u64) -> [u8; 16] {
        let key: Zeroizing<[u8; 32]> = self.0.derive(&[b"mpp1 probe", &bucket.to_be_bytes()]);
        of_address(&key, remote, [&connection.to_be_bytes(), &[], &[]])
    }
}

/// What only the holder of the key can make of an address and these bytes.
fn of_address(key: &[u8; 32], remote: SocketAddr, [a, b, c]: [&[u8]; 3]) -> [u8; 16] {
    let port = remote.port().to_be_bytes();
    // Canonical, so that a node with a dual-stack socket and one without agree; the family's number keeps the parts
    // apart.
    match remote.ip().to_canonical() {
        IpAddr::V4(ip) => hmac_16(key, &[&[4], &ip.octets(), &port, a, b, c]),
        IpAddr::V6(ip) => hmac_16(key, &[&[6], &ip.octets(), &port, a, b, c]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T: u64 = 1_800_000_000_000; // the start of a bucket

    fn remote(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    // SPEC: R-cookie
    #[test]
    fn good_for_this_bucket_and_the_next() {
        let cookies = Cookies::new(&ServiceSecret::new([1; 32]));
        let from = remote("192.0.2.1:5000");
        for made in [T, T + 14_999] {
            let made_at = UnixTime::from_millis(made);
            let challenge = cookies.challenge(made_at, from, &[2; 16], &[3; 8], b"token");
            for (at, good) in [(T - 1, false), (made, true), (T + 29_999, true), (T + 30_000, false)] {
                let at = UnixTime::from_millis(at);
                let passed = cookies.check(at, &challenge, from, &[2; 16], &[3; 8], b"token");
                assert_eq!(passed, good, "made at {made_at:?}, checked at {at:?}");
            }
        }
    }

    // SPEC: R-cookie
    #[test]
    fn good_for_its_own_step_one_only() {
        let secret = ServiceSecret::new([1; 32]);
        let cookies = Cookies::new(&secret);
        let now = UnixTime::from_millis(T);
        let from = remote("192.0.2.1:5000");
        let challenge = cookies.challenge(now, from, &[2; 16], &[3; 8], b"token");
        let check = |echo: &[u8; 16], from, random, handshake, token: &[u8]| {
            cookies.check(now, echo, from, random, handshake, token)
        };
        assert!(check(&challenge, from, &[2; 16], &[3; 8], b"token"));
        assert!(check(&challenge, remote("[::ffff:192.0.2.1]:5000"), &[2; 16], &[3; 8], b"token"));
        for bit in 0..128 {
            let mut bad = challenge;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(!check(&bad, from, &[2; 16], &[3; 8], b"token"), "bit {bit}");
        }
        for other in ["192.0.2.2:5000", "192.0.2.1:5001", "[2001:db8::1]:5000"] {
            assert!(!check(&challenge, remote(other), &[2; 16], &[3; 8], b"token"), "{other}");
        }
        assert!(!check(&challenge, from, &[4; 16], &[3; 8], b"token"));
        assert!(!check(&challenge, from, &[2; 16], &[4; 8], b"token"));
        assert!(!check(&challenge, from, &[2; 16], &[3; 8], b"tokem"));
        let other = Cookies::new(&ServiceSecret::new([9; 32]));
        assert!(!other.check(now, &challenge, from, &[2; 16], &[3; 8], b"token"));
    }

    // SPEC: R-probe-proven
    #[test]
    fn an_echo_is_good_for_its_address_its_connection_and_half_a_minute() {
        let cookies = Cookies::new(&ServiceSecret::new([1; 32]));
        let from = remote("192.0.2.1:5000");
        let echo = cookies.probe_echo(UnixTime::from_millis(T), from, 7);
        let check = |at, echo: &[u8; 16], from, connection| {
            cookies.check_probe_echo(UnixTime::from_millis(at), echo, from, connection)
        };
        assert!(check(T, &echo, from, 7) && check(T + 29_999, &echo, remote("[::ffff:192.0.2.1]:5000"), 7));
        assert!(!check(T - 1, &echo, from, 7) && !check(T + 30_000, &echo, from, 7));
        assert!(
            !check(T, &echo, remote("192.0.2.1:5001"), 7) && !check(T, &echo, remote("192.0.2.2:5000"), 7)
        );
        assert!(!check(T, &echo, from, 8));
        for bit in 0..128 {
            let mut bad = echo;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(!check(T, &bad, from, 7), "bit {bit}");
        }
    }

    #[test]
    fn at_the_beginning_of_time_there_is_no_earlier_bucket() {
        let cookies = Cookies::new(&ServiceSecret::new([1; 32]));
        let from = remote("192.0.2.1:5000");
        let challenge = cookies.challenge(UnixTime::EPOCH, from, &[2; 16], &[3; 8], b"");
        assert!(cookies.check(UnixTime::EPOCH, &challenge, from, &[2; 16], &[3; 8], b""));
    }
}
