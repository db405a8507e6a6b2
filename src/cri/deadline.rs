//! The deadline that a caller gives its call (`grpc-timeout` of gRPC over HTTP/2), kept for every RPC: what is not
//! answered by then is answered with DEADLINE_EXCEEDED.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use hyper::body::Frame;
use tokio::time::{Instant, Sleep, sleep_until, timeout_at};
use tonic::{Status, body::Body};

use super::failure;

const HEADER: &str = "grpc-timeout";

/// Digits of a timeout.
const DIGITS_MAX: usize = 8;

/// When a call must be answered.
#[derive(Debug)]
pub(super) struct Deadline {
    /// Name of the RPC.
    rpc: String,
    timeout: Duration,
    at: Instant,
}

impl Deadline {
    /// `None` without a timeout that can be read.
    pub(super) fn of<B>(request: &Request<B>) -> Option<Self> {
        let timeout = timeout(request.headers())?;
        let path = request.uri().path();
        let rpc = path.rsplit_once('/').map_or(path, |(_, name)| name).to_owned();
        Some(Self { rpc, timeout, at: Instant::now() + timeout })
    }

    /// The answer, or at the deadline the failure. The wait ends then, and the work does not.
    pub(super) async fn keep(
        self,
        answer: impl Future<Output = Result<Response<Body>, Infallible>>,
    ) -> Response<Body> {
        match timeout_at(self.at, answer).await {
            Ok(Ok(answer)) => answer.map(|body| {
                Body::new(DueBody { body, end: Box::pin(sleep_until(self.at)), deadline: Some(self) })
            }),
            Ok(Err(never)) => match never {},
            Err(_) => self.passed().into_http(),
        }
    }

    fn passed(&self) -> Status {
        failure::log_deadline(&self.rpc, self.timeout);
        let Self { rpc, timeout, .. } = self;
        Status::deadline_exceeded(format!(
            "{rpc} was not done within the caller's {timeout:?}; what it began goes on"
        ))
    }
}

fn timeout(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get(HEADER)?.to_str().ok()?;
    let (number, unit) = value.split_at_checked(value.len().checked_sub(1)?)?;
    if number.len() > DIGITS_MAX || !number.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let number: u64 = number.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(number * 60 * 60),
        "M" => Duration::from_secs(number * 60),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    })
}

/// An answer whose messages are still coming: at the deadline it ends with the failure.
struct DueBody {
    body: Body,
    end: Pin<Box<Sleep>>,
    /// `None` after it has passed.
    deadline: Option<Deadline>,
}

impl hyper::body::Body for DueBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.deadline.is_none() {
            return Poll::Ready(None);
        }
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) {
            return Poll::Ready(frame);
        }
        ready!(self.end.as_mut().poll(cx));
        let Some(deadline) = self.deadline.take() else { return Poll::Ready(None) };
        let mut trailers = HeaderMap::new();
        Poll::Ready(Some(deadline.passed().add_header(&mut trailers).map(|()| Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.deadline.is_none() || self.body.is_end_stream()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeout_has_up_to_eight_digits_and_a_unit() {
        let read =
            |value: &str| timeout(&HeaderMap::from_iter([(HEADER.parse().unwrap(), value.parse().unwrap())]));
        let seconds = Duration::from_secs;
        for (value, expected) in [
            ("99999999H", Some(seconds(99_999_999 * 3600))),
            ("2M", Some(seconds(120))),
            ("3S", Some(seconds(3))),
            ("1m", Some(Duration::from_millis(1))),
            ("5u", Some(Duration::from_micros(5))),
            ("0n", Some(Duration::ZERO)),
            ("100000000S", None),
            ("1", None),
            ("S", None),
            ("", None),
            ("-1S", None),
            ("+1S", None),
            ("1 S", None),
            ("1s", None),
        ] {
            assert_eq!(read(value), expected, "{value:?}");
        }
        assert_eq!(timeout(&HeaderMap::new()), None);
    }
}
