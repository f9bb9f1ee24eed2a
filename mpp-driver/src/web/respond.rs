//! Requests taken apart and answers put together, for whichever server there is.

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body::Body;

use super::body::{Unread, WebBody, read};
use super::{MAX_PACKET, OCTETS};
use crate::runtime::Runtime;

/// How long a client may take to send its body.
const BODY: Duration = Duration::from_secs(10);

/// What a service says to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum WebReply {
    /// The body of the answer: packets, each with its length in front, possibly none. Status 200.
    Packets(Vec<u8>),
    /// The packet is not authentic, not in time or not for this service: it had no effect. Status 400.
    Invalid,
    /// The service has no room for it now, or is going. Status 503.
    Busy {
        /// When to come again.
        retry_after: Duration,
    },
}

impl WebReply {
    fn response(self) -> Response<WebBody> {
        match self {
            Self::Packets(bytes) => {
                let mut response = bare(StatusCode::OK);
                response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(OCTETS));
                *response.body_mut() = WebBody::new(bytes);
                response
            }
            Self::Invalid => bare(StatusCode::BAD_REQUEST),
            Self::Busy { retry_after } => {
                let mut response = bare(StatusCode::SERVICE_UNAVAILABLE);
                // Whole seconds, rounded up: 0 would be at once.
                let seconds = retry_after.as_millis().div_ceil(1000).max(1) as u64;
                response.headers_mut().insert(RETRY_AFTER, seconds.into());
                response
            }
        }
    }
}

/// Reads a request, lets `answer` find what to say to the packet in it, and says so.
pub(crate) async fn respond<B: Body, F: Future<Output = WebReply>>(
    runtime: &dyn Runtime,
    request: Request<B>,
    answer: impl FnOnce(Option<Duration>, Vec<u8>) -> F,
) -> Response<WebBody> {
    let (head, body) = request.into_parts();
    if head.method != Method::POST {
        let mut response = bare(StatusCode::METHOD_NOT_ALLOWED);
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("POST"));
        return response;
    }
    if head
        .headers
        .get(CONTENT_TYPE)
        .is_none_or(|kind| !kind.as_bytes().eq_ignore_ascii_case(OCTETS.as_bytes()))
    {
        return bare(StatusCode::UNSUPPORTED_MEDIA_TYPE);
    }
    let Ok(wait) = wait_of(head.uri.query()) else { return bare(StatusCode::BAD_REQUEST) };
    match in_time(runtime, BODY, read(body, MAX_PACKET)).await {
        Some(Ok(packet)) => answer(wait, packet).await.response(),
        Some(Err(Unread::TooLong)) => bare(StatusCode::PAYLOAD_TOO_LARGE),
        Some(Err(Unread::Broken)) => bare(StatusCode::BAD_REQUEST),
        None => bare(StatusCode::REQUEST_TIMEOUT),
    }
}

/// Nothing between may keep an answer, whatever it says.
fn bare(status: StatusCode) -> Response<WebBody> {
    let mut response = Response::new(WebBody::default());
    *response.status_mut() = status;
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// The result, if it is there in time.
async fn in_time<T>(runtime: &dyn Runtime, limit: Duration, future: impl Future<Output = T>) -> Option<T> {
    let mut future = pin!(future);
    if let Poll::Ready(value) = poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx))).await {
        // The usual case needs no timer: the body came with the head.
        return Some(value);
    }
    let mut timer = runtime.timer(runtime.now() + limit);
    poll_fn(|cx| match future.as_mut().poll(cx) {
        Poll::Ready(value) => Poll::Ready(Some(value)),
        Poll::Pending => timer.as_mut().poll(cx).map(|()| None),
    })
    .await
}

/// The time that a request asks to be held for: 1 to 55 s. Nothing else may be asked for.
fn wait_of(query: Option<&str>) -> Result<Option<Duration>, ()> {
    let Some(query) = query.filter(|query| !query.is_empty()) else { return Ok(None) };
    // As it is written, so that it has one form only.
    let digits = query.strip_prefix("wait=").filter(|digits| digits.starts_with(|c| matches!(c, '1'..='9')));
    match digits.and_then(|digits| digits.parse().ok()) {
        Some(seconds) if (1..=55).contains(&seconds) => Ok(Some(Duration::from_secs(seconds))),
        _ => Err(()),
    }
}
