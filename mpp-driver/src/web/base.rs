//! Base URLs, taken apart.

use std::net::IpAddr;

use http::Uri;

/// Where requests go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Base {
    pub(crate) tls: bool,
    /// A name, or an address without brackets.
    pub(crate) host: String,
    pub(crate) port: u16,
    /// The host and the port as the URL has them.
    pub(crate) authority: String,
    /// What comes before [`PATH`](super::PATH), without a slash at the end.
    path: String,
}

impl Base {
    /// `http://HOST[:PORT][/PATH]` or `https://...`.
    pub(crate) fn parse(url: &str) -> Option<Self> {
        let uri: Uri = url.parse().ok()?;
        let tls = match uri.scheme_str()? {
            "http" => false,
            "https" => true,
            _ => return None,
        };
        let authority = uri.authority()?.as_str();
        // A name and password, a query and a fragment have no meaning here.
        if authority.contains('@') || uri.query().is_some() || url.contains('#') {
            return None;
        }
        let host = uri.host()?.trim_start_matches('[').trim_end_matches(']').to_owned();
        Some(Self {
            tls,
            host,
            port: uri.port_u16().unwrap_or(if tls { 443 } else { 80 }),
            authority: authority.to_owned(),
            path: uri.path().trim_end_matches('/').to_owned(),
        })
    }

    /// The address, if the host is one.
    pub(crate) fn ip(&self) -> Option<IpAddr> {
        self.host.parse().ok()
    }

    /// What is asked for at this base: `path` begins with a slash.
    pub(crate) fn target(&self, path: &str) -> String {
        format!("{}{path}", self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_taken_apart() {
        let base = |url| Base::parse(url).map(|b| (b.tls, b.host.clone(), b.port, b.target("/x")));
        let some =
            |tls, host: &str, port, target: &str| Some((tls, host.to_owned(), port, target.to_owned()));
        assert_eq!(base("http://a.example"), some(false, "a.example", 80, "/x"));
        assert_eq!(base("https://a.example/"), some(true, "a.example", 443, "/x"));
        assert_eq!(base("http://192.0.2.1:15097"), some(false, "192.0.2.1", 15097, "/x"));
        assert_eq!(base("https://[2001:db8::1]:7/base/"), some(true, "2001:db8::1", 7, "/base/x"));
        assert_eq!(Base::parse("http://[::1]:7").unwrap().ip(), Some("::1".parse().unwrap()));
        assert_eq!(Base::parse("http://[::1]:7").unwrap().authority, "[::1]:7");
        for wrong in
            ["", "a", "/x", "ftp://a", "http://", "http://a@b", "http://a?x", "http://a/#x", "http://a b"]
        {
            assert_eq!(base(wrong), None, "{wrong}");
        }
    }
}
